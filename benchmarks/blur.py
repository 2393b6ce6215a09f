"""S8: wide blurs, in process, against OpenCV's blur of 25 and its own of the same width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2

from benchmarks import pictures
from benchmarks.floor import loop
from benchmarks.likeness import decibels
from benchmarks.rounds import Plan, measured, ratio
from benchmarks.rows import Row, least, most
from falconimg import filters

BLURS = {"blur=25": (25, 0.0), "blur=101": (101, 0.0), "blur=0,sigma:20": (0, 20.0), "blur=1001": (1001, 0.0)}
EDGE = 20  # pixels of a border
BOUND = 25  # OpenCV's kernel that none is to take more CPU than


def rows(plan: Plan, _root: Path) -> Iterator[Row]:
    """A row each, of the whole picture and of the strips at its borders."""
    plan = replace(plan, clients=1)
    cv2.setNumThreads(1)
    picture = plan.pictures.six
    array = pictures.pixels(picture)
    usual = partial(cv2.GaussianBlur, array, (BOUND, BOUND), 0)
    for title, (kernel, sigma) in BLURS.items():
        own = partial(filters.blurred, array, kernel, sigma, precise=False)
        found = measured({"falconimg": partial(loop, own), "OpenCV": partial(loop, usual)}, plan)
        made, wanted = own(), cv2.GaussianBlur(array, (kernel, kernel), sigma)
        sides = [(made[:EDGE], wanted[:EDGE]), (made[-EDGE:], wanted[-EDGE:]),
                 (made[:, :EDGE], wanted[:, :EDGE]), (made[:, -EDGE:], wanted[:, -EDGE:])]  # fmt: skip
        border = min(decibels(*pair) for pair in sides)
        a, b = found["falconimg"], found["OpenCV"]
        yield Row(
            "S8", picture.title, title,
            {"falconimg ms": a.cpu, f"OpenCV's {BOUND} ms": b.cpu},
            {
                "CPU": most(ratio(a, b), 1),
                "PSNR dB": least(decibels(made, wanted), 50),
                "at the borders": least(border, 50),
            },
            {"falconimg": a.cpu, f"OpenCV's blur={BOUND}": b.cpu}, b.cpu,
        )  # fmt: skip
