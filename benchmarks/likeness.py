"""Whether both sides have made the same pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2

Array = Any  # (h, w, 3), uint8

FLOOR = 25.0
"""dB; another picture than the right one has under 15. (Filters differ: area against cubic, or libvips's.)"""


def decibels(one: Array, other: Array) -> float:
    """PSNR of two pictures of one size, 99 where they are equal."""
    return min(99.0, float(cv2.PSNR(one, other)))


def _of_files(one: Path, other: Path) -> float:
    arrays: list[Array] = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (one, other)]
    shapes = [None if array is None else array.shape for array in arrays]
    if None in shapes or shapes[0] != shapes[1]:
        raise SystemExit(f"{one.name} and {other.name} differ in their sizes: {shapes}")
    return decibels(*arrays)


def least_psnr(ours: Path, theirs: Path) -> float:
    """The least dB of all outputs of two paths, numbered from 1 if there are several.

    Raises:
        SystemExit: other names, other sizes, or other pictures
    """
    names = [sorted(path.name.removeprefix(start.stem) for path in _made(start)) for start in (ours, theirs)]
    if names[0] != names[1] or not names[0]:
        raise SystemExit(f"the two sides made {names[0]} and {names[1]}")
    found = min(_of_files(ours.parent / (ours.stem + end), theirs.parent / (theirs.stem + end)) for end in names[0])
    if found < FLOOR:
        raise SystemExit(f"{ours.name} and {theirs.name} are alike by {found:.1f} dB only")
    return found


def _made(path: Path) -> list[Path]:
    return [path] if path.exists() else list(path.parent.glob(f"{path.stem}_*{path.suffix}"))
