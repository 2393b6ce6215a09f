"""S5: all that is not pixels, against a bare Falcon route that reads, answers and writes as much."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks import pictures
from benchmarks.rounds import Plan, measured, ratio
from benchmarks.rows import Row, most
from benchmarks.servers import Request, running


def rows(plan: Plan, root: Path) -> Iterator[Row]:
    """One picture a request, and ten; each client keeps its connection."""
    picture = pictures.write(plan.pictures.small, root).name
    with running("falconimg", root, plan.workers) as ours, running("bare", root, plan.workers) as theirs:
        for count in (1, 10):
            sides = {}
            for side, server in (("falconimg", ours), ("bare", theirs)):
                images = [{"input": picture, "output": f"out/{side}-{{client}}-{n}.jpg"} for n in range(count)]
                request = Request("/items/", {"images": images, "operations": ["resize=0.5"]})
                sides[side] = partial(server.load, [request], clients=plan.clients, kept=True)
            found = measured(sides, plan)
            a, b = found["falconimg"], found["bare"]
            yield Row(
                "S5", plan.pictures.small.title, f"{count} a request",
                {"falconimg ms": a.cpu, "bare route ms": b.cpu, "falconimg /s": a.rate, "bare route /s": b.rate},
                {"CPU": most(ratio(a, b), 2)},
                {"falconimg": a.cpu, "a bare route": b.cpu}, 2 * b.cpu,
            )  # fmt: skip
