"""What is done to pixels between decoding and encoding: resize and blur, over arrays of formats.base.Pixels.

`precise` says that no approximation is allowed: the result is then OpenCV's, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np

from falconimg._core import Shape, is_opaque, premultiply, unpremultiply

Array = Any  # (h, w, c), uint8 or uint16: see formats.base.Pixels

FILTERS = {
    "area": cv2.INTER_AREA,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
    "nearest": cv2.INTER_NEAREST,
}


def filtered(array: Array, function: Callable[[Array], Array], overshoot: bool = False) -> Array:
    """What a filter makes of pixels: colours weighted by alpha, so that transparent ones do not mix in.

    `overshoot` says that the filter's values may leave the range of those that it is given.
    """
    if array.shape[2] == 4 and not is_opaque(array):
        return unpremultiply(function(premultiply(array, overshoot)), array.itemsize)
    result = function(array)
    return result if result.ndim == 3 else result[:, :, np.newaxis]


def scratch(*shapes: Shape) -> int:
    """The bytes that `filtered` needs at most besides its result: weighted copies, in single precision."""
    return sum(4 // shape.itemsize * shape.nbytes for shape in shapes if shape.channels == 4)


def resized(array: Array, width: int, height: int, filter_: str | None, precise: bool) -> Array:
    """The array at another size; without a filter's name area shrinks and cubic enlarges, each side as it goes."""
    if filter_ == "nearest":
        result = cv2.resize(array, (width, height), interpolation=cv2.INTER_NEAREST)
        return result.reshape(height, width, array.shape[2])
    if filter_:
        function = partial(cv2.resize, dsize=(width, height), interpolation=FILTERS[filter_])
        return filtered(array, function, filter_ in ("cubic", "lanczos"))
    enlarges = width > array.shape[1] or height > array.shape[0]
    return filtered(array, partial(_resized, width=width, height=height), enlarges)


def _resized(array: Array, width: int, height: int) -> Array:
    small = min(width, array.shape[1]), min(height, array.shape[0])
    if small != (array.shape[1], array.shape[0]):
        array = cv2.resize(array, small, interpolation=cv2.INTER_AREA)
    if small != (width, height):
        array = cv2.resize(array, (width, height), interpolation=cv2.INTER_CUBIC)
    return array


def resize_workspace(source: Shape, result: Shape) -> int:
    """The bytes that `resized` takes at most besides its result."""
    between = result.resized(min(result.height, source.height), min(result.width, source.width))
    return between.nbytes + scratch(source, between, result)


def blurred(array: Array, kernel: int, sigma: float, precise: bool) -> Array:
    """The array under a Gaussian; `kernel` is odd, or 0 to take it from sigma; `sigma` 0 takes it from the kernel."""
    return filtered(array, partial(cv2.GaussianBlur, ksize=(kernel, kernel), sigmaX=sigma))


def blur_workspace(shape: Shape, kernel: int, sigma: float) -> int:
    """The bytes that `blurred` takes at most besides its result.

    OpenCV holds as many rows as the kernel has, 4 bytes a sample, and takes the kernel from sigma by 4 · 2 + 1.
    """
    rows = 4 * (kernel or math.ceil(8 * sigma) + 1) * shape.width * shape.channels
    return scratch(shape, shape) + rows
