"""A picture in at most 256 colours: exact if it has no more, else by cutting the colour space.

Source: Heckbert, "Color Image Quantization for Frame Buffer Display" (1982); here each cut goes through the mean
of the box whose squared deviation is largest, as in Wan, Wong and Prusinkiewicz (1988).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from falconimg.formats.base import Pixels
from falconimg.formats.pixels import bands

_Array = npt.NDArray[Any]


def quantized(pixels: Pixels, used: _Array, count: int) -> tuple[_Array, _Array, bool]:
    """Indices (h, w), a table (n, 3) of n ≤ count colours, and whether that is exact.

    `pixels` are (h, w, 3 or 4), uint8; only the colours of pixels that are `used` (h, w) matter, and no alpha.
    """
    seen = np.zeros(2**24, bool)
    for rows in bands(pixels):
        seen[_packed(pixels[rows], 8)[used[rows]]] = True
    colors = np.flatnonzero(seen)
    exact = len(colors) <= count
    if exact:
        place = np.zeros(2**24, np.uint8)
        place[colors] = np.arange(len(colors))
        table = np.stack([colors >> 16, colors >> 8 & 255, colors & 255], 1).astype(np.uint8)
    else:
        place, table = _cut(pixels, used, count)
    index = np.empty(used.shape, np.uint8)
    for rows in bands(pixels):
        index[rows] = place[_packed(pixels[rows], 8 if exact else 5)]
    return index, table, exact


def _packed(pixels: Pixels, bits: int) -> _Array:
    """Each pixel's highest bits of the first three channels as one number."""
    first, second, third = (pixels[:, :, channel].astype(np.uint32) >> (8 - bits) for channel in range(3))
    return first << 2 * bits | second << bits | third


def _cut(pixels: Pixels, used: _Array, count: int) -> tuple[_Array, _Array]:
    """The index for each of the 32768 cells of 5 bits a channel, and the table."""
    weights, sums = np.zeros(32768), np.zeros((32768, 3))
    for rows in bands(pixels):
        cells, colors = _packed(pixels[rows], 5)[used[rows]], pixels[rows][used[rows]]
        weights += np.bincount(cells, minlength=32768)
        sums += np.stack([np.bincount(cells, colors[:, channel], 32768) for channel in range(3)], 1)
    filled = np.flatnonzero(weights)
    points, weights = sums[filled] / weights[filled, None], weights[filled]
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
