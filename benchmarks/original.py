"""S1: against the original's way, the same requests of POST /items/."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks import pictures
from benchmarks.likeness import least_psnr
from benchmarks.rounds import Plan, geometric_mean, measured, ratio
from benchmarks.rows import Row, least
from benchmarks.servers import Request, running

OPERATIONS = {
    "split": ("split=true",),
    "resize=0.5": ("resize=0.5",),
    "resize=2": ("resize=2",),
    "resize=0.37": ("resize=0.37",),
    "blur=25": ("blur=25",),
    "split, resize=1.5, blur=25": ("split=true", "resize=1.5", "blur=25"),
    "split, split, split": ("split=true",) * 3,
    "resize=0.1": ("resize=0.1",),
}
ENLARGING = ("resize=2", "split, resize=1.5, blur=25")
KINDS = (("jpg", "jpg"), ("jpg", "png"), ("png", "png"))


def rows(plan: Plan, root: Path) -> Iterator[Row]:
    """A row each, and the mix."""
    done = []
    with running("falconimg", root, plan.workers) as ours, running("baseline", root, plan.workers) as theirs:
        for source in plan.sources:
            for kind, extension in KINDS:
                name = pictures.write(source.as_kind(kind), root).name
                for title, operations in OPERATIONS.items():
                    if title in ENLARGING and source == plan.pictures.twenty:
                        continue
                    sides = {}
                    for side, server in (("falconimg", ours), ("original", theirs)):
                        images = [{"input": name, "output": f"out/{side}-{{client}}.{extension}"}]
                        request = Request("/items/", {"images": images, "operations": operations})
                        sides[side] = partial(server.load, [request], clients=plan.clients)
                    found = measured(sides, plan)
                    alike = least_psnr(*(root / "out" / f"{side}-0.{extension}" for side in sides))
                    for path in (root / "out").iterdir():
                        path.unlink()
                    bound = 1.2 if title in ENLARGING else 2
                    a, b = found["falconimg"], found["original"]
                    row = Row(
                        "S1", f"{kind.upper()} → {extension.upper()}, {source.title}", title,
                        {
                            "falconimg ms": a.cpu, "original ms": b.cpu,
                            "falconimg /s": a.rate, "original /s": b.rate, "PSNR dB": alike,
                        },
                        {"CPU less": least(ratio(b, a), bound), "requests/s": least(ratio(b, a, "wall"), bound)},
                        {"falconimg": a.cpu, "original": b.cpu}, b.cpu / bound,
                    )  # fmt: skip
                    done.append(row)
                    yield row
    mean = {
        name: least(geometric_mean(row.claims[name].ratio for row in done), 3) for name in ("CPU less", "requests/s")
    }
    yield Row("S1", "the mix", "geometric mean", {}, mean)
