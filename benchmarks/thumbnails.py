"""S3 and S4: against a libvips server."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks import pictures
from benchmarks.likeness import least_psnr
from benchmarks.rounds import Plan, geometric_mean, measured, ratio
from benchmarks.rows import Row, least, most
from benchmarks.servers import Request, running

WIDTHS = (1600, 1200, 800, 400, 200)
FACTORS = (0.1, 0.2, 0.37, 0.5, 0.75)


def _vips(source: pictures.Picture, width: int, height: int) -> Request:
    document = {"input": source.name, "output": f"out/libvips-{{client}}_{width}.jpg", "width": width, "height": height}
    return Request("/", document)


def one(plan: Plan, root: Path) -> Iterator[Row]:
    """S4: one rendition of one picture."""
    mix = []
    with running("falconimg", root, plan.workers) as ours, running("libvips", root, plan.workers) as theirs:
        load_ours, load_theirs = (partial(server.load, clients=plan.clients) for server in (ours, theirs))
        for source in (*plan.sources, plan.pictures.progressive, plan.pictures.heavy):
            pictures.write(source, root)
            for factor in FACTORS:
                width, height = int(source.width * factor), int(source.height * factor)
                images = [{"input": source.name, "output": "out/falconimg-{client}.jpg"}]
                request = Request("/items/", {"images": images, "operations": [f"resize={factor}"]})
                found = measured(
                    {
                        "falconimg": partial(load_ours, [request]),
                        "libvips": partial(load_theirs, [_vips(source, width, height)]),
                    },
                    plan,
                )
                alike = least_psnr(root / "out" / "falconimg-0.jpg", root / "out" / f"libvips-0_{width}.jpg")
                a, b = found["falconimg"], found["libvips"]
                if source in plan.sources:
                    mix.append(ratio(a, b))
                yield Row(
                    "S4", source.title, f"resize={factor}",
                    {"falconimg ms": a.cpu, "libvips ms": b.cpu, "PSNR dB": alike},
                    {"CPU": most(ratio(a, b), 0.95)},
                    {"falconimg": a.cpu, "libvips": b.cpu}, 0.95 * b.cpu,
                )  # fmt: skip
    yield Row("S4", "the mix of baseline files", "geometric mean", {}, {"CPU": most(geometric_mean(mix), 0.65)})


def five(plan: Plan, root: Path) -> Iterator[Row]:
    """S3: five renditions of one picture in one request."""
    with running("falconimg", root, plan.workers) as ours, running("libvips", root, plan.workers) as theirs:
        load_ours, load_theirs = (partial(server.load, clients=plan.clients) for server in (ours, theirs))
        for source in plan.sources[-2:]:
            pictures.write(source, root)

            def request(*widths: int, name: str = source.name) -> list[Request]:
                renditions = [
                    {"output": f"out/falconimg-{{client}}_{width}.jpg", "operations": [f"resize={width}x"]}
                    for width in widths
                ]
                return [Request("/v1/process", {"images": [{"input": name, "renditions": renditions}]})]

            sizes = [(width, int(source.height * width / source.width + 0.5)) for width in WIDTHS]
            found = measured(
                {
                    "five": partial(load_ours, request(*WIDTHS)),
                    "largest": partial(load_ours, request(WIDTHS[0])),
                    "libvips": partial(load_theirs, [_vips(source, *size) for size in sizes]),
                },
                plan,
            )
            alike = min(
                least_psnr(*(root / "out" / f"{side}-0_{width}.jpg" for side in ("falconimg", "libvips")))
                for width in WIDTHS
            )
            a, alone, b = (found[side] for side in ("five", "largest", "libvips"))
            yield Row(
                "S3", source.title, ", ".join(map(str, WIDTHS)),
                {"five ms": a.cpu, "largest ms": alone.cpu, "libvips ms": b.cpu, "PSNR dB": alike},
                {"of the largest": most(ratio(a, alone), 1.8), "less than libvips": least(ratio(b, a), 3)},
                {"falconimg": a.cpu, "the largest alone": alone.cpu, "libvips, five requests": b.cpu},
                min(1.8 * alone.cpu, b.cpu / 3),
            )  # fmt: skip
