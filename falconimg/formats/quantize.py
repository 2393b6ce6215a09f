"""A picture in at most 256 colours: exact if it has no more, else by cutting the colour space.

Source: Heckbert, "Color Image Quantization for Frame Buffer Display" (1982); here each cut goes through the mean
of the box whose squared deviation is largest, as in Wan, Wong and Prusinkiewicz (1988).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from falconimg.formats.base import Pixels

_Array = npt.NDArray[Any]


def quantized(pixels: Pixels, used: _Array, count: int) -> tuple[_Array, _Array, bool]:
    """Indices (h, w), a table (n, 3) of n ≤ count colours, and whether that is exact.

    `pixels` are (h, w, 3), uint8; only the colours of pixels that are `used` (h, w) matter.
    """
    wide = pixels.astype(np.uint32)
    packed = wide[:, :, 0] << 16 | wide[:, :, 1] << 8 | wide[:, :, 2]
    seen = np.zeros(2**24, bool)
    seen[packed[used]] = True
    colors = np.flatnonzero(seen)
    if len(colors) <= count:
        place = np.zeros(2**24, np.uint8)
        place[colors] = np.arange(len(colors))
        return place[packed], np.stack([colors >> 16, colors >> 8 & 255, colors & 255], 1).astype(np.uint8), True
    cells = (packed >> 9 & 0x7C00 | packed >> 6 & 0x3E0 | packed >> 3 & 0x1F).astype(np.uint16)  # 5 bits a channel
    place, table = _cut(cells[used], pixels[used], count)
    return place[cells], table, False


def _cut(cells: _Array, colors: Pixels, count: int) -> tuple[_Array, _Array]:
    """The index for each of the 32768 cells, and the table, from the colours (n, 3) and their cells (n)."""
    weights = np.bincount(cells, minlength=32768)
    filled = np.flatnonzero(weights)
    sums = np.stack([np.bincount(cells, colors[:, channel], 32768) for channel in range(3)], 1)
    points, weights = sums[filled] / weights[filled, None], weights[filled].astype(float)
    boxes = [np.arange(len(filled))]
    spread = [_deviation(points, weights)]
    while len(boxes) < count:
        widest = max(range(len(boxes)), key=lambda box: spread[box].max())
        box, channel = boxes[widest], spread[widest].argmax()
        if not spread[widest][channel] > 0:
            break
        values = points[box, channel]
        low = values <= np.average(values, weights=weights[box])
        boxes[widest : widest + 1] = halves = [box[low], box[~low]]
        spread[widest : widest + 1] = [_deviation(points[half], weights[half]) for half in halves]
    place = np.zeros(32768, np.uint8)
    for index, box in enumerate(boxes):
        place[filled[box]] = index
    table = [np.average(points[box], axis=0, weights=weights[box]) for box in boxes]
    return place, np.rint(table).astype(np.uint8)


def _deviation(points: _Array, weights: _Array) -> _Array:
    """Each channel's sum of squared distances from the mean; rounding's dust counts as none."""
    center = np.average(points, axis=0, weights=weights)
    result: _Array = (weights[:, None] * (points - center) ** 2).sum(axis=0)
    return np.where(result > 1e-6 * len(points), result, 0)
