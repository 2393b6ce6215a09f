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

from falconimg._core import Shape, is_opaque, premultiply, shrink, unpremultiply
from falconimg.planes import Planes

Array = Any  # (h, w, c), uint8 or uint16: see formats.base.Pixels; or Planes where it is not precise

Rectangle = tuple[float, float, float, float]  # top, left, height, width

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


def resized(
    array: Array,
    window: Rectangle,
    width: int,
    height: int,
    filter_: str | None,
    precise: bool,
    smooth: bool = False,
) -> Array:
    """A window (top, left, height, width) of the array at another size.

    Without a filter's name area shrinks and cubic enlarges, each side as it goes. A window may have fractions, and is
    rounded where it is not for `averages` to shrink it. `smooth` says that the array was shrunk before.
    """
    top, left, rows, columns = window
    if not precise and shrinks(rows, columns, height, width, filter_) and averages(array):
        return _averaged(array, height, width, window, smooth)
    array = array[round(top) : round(top + rows), round(left) : round(left + columns)]
    if isinstance(array, Planes):
        if array.even and height % 2 == 0 == width % 2:
            sides = (width, height), (width // 2, height // 2), (width // 2, height // 2)
            planes = zip((array.y, array.cb, array.cr), sides, strict=True)
            return Planes(*(_resized(plane, *to, filter_) for plane, to in planes))
        array = array.bgr()
    if filter_ == "nearest":
        return _resized(array, width, height, filter_).reshape(height, width, array.shape[2])
    overshoots = filter_ in ("cubic", "lanczos", None) and not shrinks(rows, columns, height, width, filter_)
    return filtered(array, partial(_resized, width=width, height=height, filter_=filter_), overshoots)


def shrinks(rows: float, columns: float, height: int, width: int, filter_: str | None) -> bool:
    """Whether area makes so many rows and columns of so many: each side shrinks, and no other filter is asked for."""
    return height <= rows and width <= columns and filter_ in (None, "area")


def averages(array: Array) -> bool:
    """Whether the core's area filter takes it: 8 bit, and no alpha to be weighed."""
    return array.itemsize == 1 and (array.shape[2] < 4 or is_opaque(array))


def _averaged(array: Array, height: int, width: int, window: Rectangle, smooth: bool) -> Array:
    """Area within a level of exact, at a fraction of what OpenCV's takes."""
    if isinstance(array, Planes):
        # the chroma of an odd side stands for a pixel more than there is
        high, wide = (height + 1) // 2, (width + 1) // 2
        top, left, rows, columns = (side / 2 for side in window)
        chroma = top, left, 2 * rows / height * high, 2 * columns / width * wide
        y = _averaged(array.y[:, :, np.newaxis], height, width, window, smooth)
        cb = _averaged(array.cb[:, :, np.newaxis], high, wide, chroma, smooth)
        cr = _averaged(array.cr[:, :, np.newaxis], high, wide, chroma, smooth)
        return Planes(y[:, :, 0], cb[:, :, 0], cr[:, :, 0])
    if window == (0, 0, 2 * height, 2 * width) and array.shape[:2] == (2 * height, 2 * width):
        return cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, -1)
    return shrink(array, height, width, window, smooth)


def _resized(array: Array, width: int, height: int, filter_: str | None) -> Array:
    if filter_:
        return cv2.resize(array, (width, height), interpolation=FILTERS[filter_])
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
    if isinstance(array, Planes):
        array = array.bgr()
    return filtered(array, partial(cv2.GaussianBlur, ksize=(kernel, kernel), sigmaX=sigma))


def blur_workspace(shape: Shape, kernel: int, sigma: float) -> int:
    """The bytes that `blurred` takes at most besides its result.

    OpenCV holds as many rows as the kernel has, 4 bytes a sample, and takes the kernel from sigma by 4 · 2 + 1.
    """
    rows = 4 * (kernel or math.ceil(8 * sigma) + 1) * shape.width * shape.channels
    return scratch(shape, shape) + rows
