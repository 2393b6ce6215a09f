"""What several formats do to pixels before they can hold them, each exact to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from falconimg.formats.base import Pixels
from falconimg.planes import Planes, bgr


def upright(pixels: Pixels | Planes, orientation: int) -> Pixels | Planes:
    """As `oriented`, for either; Planes of an odd side become an array, for their chroma would stand for others."""
    if isinstance(pixels, Planes) and (orientation == 1 or pixels.even):
        planes = (pixels.y, pixels.cb, pixels.cr)
        return Planes(*(oriented(plane[:, :, np.newaxis], orientation)[:, :, 0] for plane in planes))
    return oriented(bgr(pixels), orientation)


def oriented(pixels: Pixels, orientation: int) -> Pixels:
    """The picture as seen, C-contiguous; orientation is EXIF's 1 to 8 (Exif 3.0, 4.6.4 A)."""
    if orientation in (5, 7):
        pixels = cv2.transpose(pixels).reshape(pixels.shape[1], pixels.shape[0], -1)
    if orientation in (6, 8):
        turn = cv2.ROTATE_90_CLOCKWISE if orientation == 6 else cv2.ROTATE_90_COUNTERCLOCKWISE
        pixels = cv2.rotate(pixels, turn).reshape(pixels.shape[1], pixels.shape[0], -1)
    if orientation in (2, 3, 4, 7):
        axes = {2: 1, 3: -1, 4: 0, 7: -1}[orientation]
        pixels = cv2.flip(pixels, axes).reshape(pixels.shape)
    return np.ascontiguousarray(pixels)


def bands(pixels: Pixels) -> Iterator[slice]:
    """Slices of rows, about a million values each, so that what is reckoned beside the pixels stays small."""
    height = max(1, 2**20 // (pixels.shape[1] * pixels.shape[2]))
    return (slice(top, top + height) for top in range(0, pixels.shape[0], height))


def to_8_bit(pixels: Pixels) -> tuple[Pixels, tuple[str, ...]]:
    """round(value / 257) of a 16-bit picture, and the note of that loss; an 8-bit one as it is."""
    if pixels.dtype == np.uint8:
        return pixels, ()
    return cv2.convertScaleAbs(pixels, alpha=1 / 257).reshape(pixels.shape), ("16 bit became 8 bit",)


def flattened(pixels: Pixels, background: tuple[int, int, int]) -> tuple[Pixels, tuple[str, ...]]:
    """A picture with alpha laid on a background (R, G, B), and the note of that loss; another as it is."""
    if pixels.shape[2] != 4:
        return pixels, ()
    top, wide = (255, np.dtype(np.uint16)) if pixels.dtype == np.uint8 else (65535, np.dtype(np.uint32))
    under = np.array(background[::-1], wide) * (top // 255)
    mixed: Pixels = np.empty((*pixels.shape[:2], 3), pixels.dtype)
    for rows in bands(pixels):
        alpha: Any = pixels[rows, :, 3:].astype(wide)
        # Both products together stay within top², which with top // 2 is below the wide type's end.
        mixed[rows] = (pixels[rows, :, :3] * alpha + under * (top - alpha) + top // 2) // top
    return mixed, ("transparency was laid on the background {}, {}, {}".format(*background),)


def as_color(pixels: Pixels) -> Pixels:
    """A gray picture with its values in B, G and R, which loses nothing; another as it is."""
    return cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR) if pixels.shape[2] == 1 else pixels
