"""A colour picture as most JPEGs hold it: luma, and chroma at half the size (4:2:0).

What comes of a JPEG and is to be one again is cut, resized and blurred so with half the samples, and is not converted
to BGR and back. It is an approximation: the chroma is not enlarged first and then halved again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

Plane = Any  # (h, w) of uint8

BAND = 64  # rows that are converted at a time, so that no second picture is held


@dataclass(frozen=True, eq=False)
class Planes:
    """Y', Cb and Cr of ITU-R BT.601 in full range, as JFIF (T.871, 7) has them; a chroma sample lies amid its pixels.

    `y` is (h, w); `cb` and `cr` are (ceil(h / 2), ceil(w / 2)). Seen from outside it is an array (h, w, 3) of uint8
    that rectangles are cut from.
    """

    y: Plane
    cb: Plane
    cr: Plane

    dtype: ClassVar = np.dtype(np.uint8)
    itemsize: ClassVar = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """(h, w, 3)."""
        return (*self.y.shape, 3)

    @property
    def even(self) -> bool:
        """Whether every sample of the chroma has four pixels."""
        return not (self.y.shape[0] % 2 or self.y.shape[1] % 2)

    def __getitem__(self, key: tuple[slice, slice]) -> Planes:
        """A rectangle. The chroma of one that begins amid a sample's pixels is the mean of the samples on both sides.

        That is what enlarging linearly and halving again would give there.
        """
        (top, bottom, _), (left, right, _) = (part.indices(side) for part, side in zip(key, self.y.shape, strict=True))
        cb, cr = (_cut(plane, top, bottom, left, right) for plane in (self.cb, self.cr))
        return Planes(self.y[top:bottom, left:right], cb, cr)

    def bgr(self) -> Any:
        """The picture as (h, w, 3) in OpenCV's order; the chroma is enlarged linearly."""
        height, width = self.y.shape
        cb, cr = (
            cv2.resize(plane, (2 * plane.shape[1], 2 * plane.shape[0]))[:height, :width] for plane in (self.cb, self.cr)
        )
        result = np.empty(self.shape, np.uint8)
        for top in range(0, height, BAND):
            rows = slice(top, top + BAND)
            cv2.cvtColor(cv2.merge([self.y[rows], cr[rows], cb[rows]]), cv2.COLOR_YCrCb2BGR, result[rows])
        return result


def bgr(array: Any) -> Any:
    """The picture as an array: Planes as BGR, an array as it is."""
    return array.bgr() if isinstance(array, Planes) else array


def padded(plane: Plane, height: int, width: int) -> Plane:
    """At that size, which may be a row and a column more: the outermost ones again."""
    below, beside = height - plane.shape[0], width - plane.shape[1]
    return cv2.copyMakeBorder(plane, 0, below, 0, beside, cv2.BORDER_REPLICATE) if below or beside else plane


def _cut(plane: Plane, top: int, bottom: int, left: int, right: int) -> Plane:
    """The chroma of the picture's rows from top to bottom and columns from left to right."""
    height, width = (bottom - top + 1) // 2, (right - left + 1) // 2
    low, beside = top % 2, left % 2
    part = plane[top // 2 :, left // 2 :][: height + low, : width + beside]
    part = padded(part, height + low, width + beside)
    if low:
        part = cv2.addWeighted(part[:-1], 0.5, part[1:], 0.5, 0)
    if beside:
        part = cv2.addWeighted(part[:, :-1], 0.5, part[:, 1:], 0.5, 0)
    return part
