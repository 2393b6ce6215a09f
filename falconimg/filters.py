"""What is done to pixels between decoding and encoding: resize and blur, over arrays of formats.base.Pixels.

`precise` says that no approximation is allowed: the result is then OpenCV's, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
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

TOLERANCE = 0.0045  # of a blur of fewer pixels, see _fitted: half a level of 8 bits, where that much is there
FITTING = 2**22  # bytes that _fitted takes at most


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
    """Area within a level of exact but for patterns (see `shrink`), at a fraction of what OpenCV's takes."""
    if window == (0, 0, height, width) == (0, 0, *array.shape[:2]):
        return array
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
    if precise:
        return filtered(array, partial(cv2.GaussianBlur, ksize=(kernel, kernel), sigmaX=sigma))
    wide = sigma or _sigma(kernel)
    if isinstance(array, Planes):
        # below, half of it is no blur that 8 bits show, and half of a few equal taps is no whole number of them
        if wide >= 1 and (not kernel or kernel >= min(13, 4 * wide)):
            cb, cr = (gaussian(plane, kernel and kernel // 2 | 1, wide / 2) for plane in (array.cb, array.cr))
            return Planes(gaussian(array.y, kernel, sigma), cb, cr)
        array = array.bgr()
    return filtered(array, partial(gaussian, kernel=kernel, sigma=sigma))


def blur_workspace(shape: Shape, kernel: int, sigma: float) -> int:
    """The bytes that `blurred` takes at most besides its result, precise or not.

    OpenCV holds as many rows as the kernel has, 4 bytes a sample, and takes the kernel from sigma by 4 · 2 + 1.
    """
    kernel = kernel or math.ceil(8 * sigma) + 1
    if not _is_wide(shape.height * shape.width * shape.channels, kernel):
        return scratch(shape, shape) + 4 * kernel * shape.width * shape.channels
    sigma = sigma or _sigma(kernel)
    # at most half of the kernel and 5 halvings' steps, of half of sigma at most, are added to half of the picture
    height, width = ((side + 1) // 2 + math.ceil(kernel / 4 + 2.5 * sigma) for side in (shape.height, shape.width))
    rows = 4 * (kernel + 8) * max(shape.width, width) * shape.channels
    return scratch(shape, shape) + rows + 2 * shape.resized(height, width).nbytes + FITTING


def gaussian(array: Array, kernel: int, sigma: float) -> Array:
    """What cv2.GaussianBlur makes of uint8, uint16 or float32 (h, w) or (h, w, c), borders included, but for rounding.

    `kernel` and `sigma` as for `blurred`. A wide kernel is applied to a smaller picture: halved, blurred with the taps
    that fit best, and doubled again, by the binomial filter of Burt and Adelson's pyramid (The Laplacian Pyramid as a
    Compact Image Code, 1983). Narrow ones, those whose edge a small picture cannot hold, and those that take no time
    anyway are OpenCV's own.
    """
    # OpenCV's rule for a kernel of 0; beyond 4 sigma there are but zeros
    if sigma:
        most = round(8 * sigma + 1) | 1
        kernel = min(kernel, most) if kernel else round(6 * sigma + 1) | 1 if array.dtype == np.uint8 else most
    reduction = _reduction(kernel, sigma or _sigma(kernel)) if _is_wide(array.size, kernel) else None
    if not reduction:
        return cv2.GaussianBlur(array, (kernel, kernel), sigma).reshape(array.shape)
    halvings, taps = reduction
    step = 2 ** (halvings - 1)
    height, width = ((side + 1) // 2 for side in array.shape[:2])
    sides = [math.ceil((side + step * (len(taps) // 2 + 4)) / step) * step for side in (height, width)]
    levels = [np.empty((*sides, *array.shape[2:]), array.dtype)]
    cv2.pyrDown(array, levels[0][:height, :width])
    _reflect(levels[0][:height].swapaxes(0, 1), array.shape[1])
    _reflect(levels[0], array.shape[0])
    for _ in range(1, halvings):
        if len(levels) == 2 and array.dtype == np.uint8:  # from here on it costs next to nothing to round less
            levels[1] = np.multiply(levels[1], 256, dtype=np.uint16)
        levels.append(cv2.pyrDown(levels[-1]))
    cv2.sepFilter2D(levels[-1], -1, taps, taps, levels[-1])
    while len(levels) > 1:
        small = levels.pop()
        if small.dtype != levels[-1].dtype:
            small = cv2.convertScaleAbs(small, alpha=1 / 256)
        cv2.pyrUp(small, levels[-1])
    return _doubled(levels[0], np.empty(array.shape, array.dtype))


def _sigma(kernel: int) -> float:
    """OpenCV's rule (getGaussianKernel)."""
    return 0.3 * ((kernel - 1) / 2 - 1) + 0.8


def _is_wide(samples: int, kernel: int) -> bool:
    """Whether a kernel is worth more than OpenCV's own way takes, about 0.3 ms."""
    return samples * kernel > 2**22


def _reflect(half: Array, side: int) -> None:
    """Fill half of a picture, of this many rows, beyond its far edge: half of what reflects it there, and so on.

    At the near edge a reflection falls on rows of the half, at the far one for odd sides only.
    """
    known = min(side, len(half))
    half[(side + 1) // 2 : known] = half[side - known : side // 2][::-1]
    period = max(side - 1, 1)
    for start in range(side, len(half), period):
        end = min(start + period, len(half))
        half[start:end] = half[start - period : end - period]


def _doubled(half: Array, result: Array) -> Array:
    """Fill the result from half of it and what lies beyond its far edges."""
    height, width = ((side + 1) // 2 for side in result.shape[:2])
    cv2.pyrUp(half[:height, :width], result, result.shape[1::-1])
    # OpenCV takes the row beyond an odd side for the last one, as it is beyond an even one
    if result.shape[0] % 2:
        first = max(height - 2, 0)
        end = cv2.pyrUp(half[first : height + 1, : width + 1])[2 * (height - 1 - first)]
        result[-1] = end[: result.shape[1]].reshape(result.shape[1:])
    if result.shape[1] % 2:
        first = max(width - 2, 0)
        end = cv2.pyrUp(half[: height + 1, first : width + 1])[:, 2 * (width - 1 - first)]
        result[:, -1] = end[: result.shape[0]].reshape(result.shape[0], *result.shape[2:])
    return result


@lru_cache(maxsize=256)
def _reduction(kernel: int, sigma: float) -> tuple[int, Array] | None:
    """How often to halve a picture before this Gaussian, and the taps for what is left; None if halving would show."""
    wanted = cv2.getGaussianKernel(kernel, sigma).ravel()
    for halvings in range(int(math.log2(max(1, min(sigma, kernel / 4)))), 0, -1):
        taps, error = _fitted(wanted, halvings)
        if error <= TOLERANCE:
            return halvings, taps
    return None


def _fitted(wanted: Array, halvings: int) -> tuple[Array, float]:
    """The taps with which a halved picture's blur is nearest to a kernel (least squares), and the error that is left.

    The error is the most that a sine wave of amplitude 1 differs, whatever its frequency: root mean square.
    """
    step = 2**halvings
    taps = (len(wanted) // 2 - 1) // step
    square, product = np.zeros((taps, taps)), np.zeros(taps)
    for weights, rest in _responses(wanted, halvings, taps):
        square += weights.T @ weights
        product += weights.T @ rest
    outer = np.linalg.solve(square, product)
    errors = [np.abs(np.fft.rfft(weights @ outer - rest)) for weights, rest in _responses(wanted, halvings, taps)]
    # OpenCV would round taps with a sum of exactly 1 to 1/256
    every = np.concatenate([outer[::-1], [1 - 2 * outer.sum()], outer]) * (1 + 2e-6)
    return every, float(np.sqrt(np.square(errors).mean(0).max()))


def _responses(wanted: Array, halvings: int, taps: int) -> Iterator[tuple[Array, Array]]:
    """For pixels at different places of a step: what they take of those around them, by each of the outer taps.

    Beside it, what of the wanted kernel is left where the middle tap is alone. The sum of all taps is 1, so the middle
    one loses what two outer ones get. Eight places tell enough of a step.
    """
    step, radius = 2**halvings, len(wanted) // 2
    binomial = np.ones(1)
    for level in range(halvings):
        stretched = np.zeros(4 * 2**level + 1)
        stretched[:: 2**level] = np.array([1, 4, 6, 4, 1]) / 16
        binomial = np.convolve(binomial, stretched)
    reach = len(binomial) // 2
    middle = max(radius, (taps + 2) * step + reach) + step
    for place in range(0, step, max(1, step // 8)):
        alone = np.zeros(2 * middle + 1)
        for sample in range(-1, 3):
            at, start = place - step * sample + reach, middle + step * sample - reach
            if 0 <= at < len(binomial):
                alone[start : start + len(binomial)] += step * binomial[at] * binomial
        pairs = [np.roll(alone, step * tap) + np.roll(alone, -step * tap) for tap in range(1, taps + 1)]
        rest = -alone
        rest[middle + place - radius : middle + place + radius + 1] += wanted
        yield np.stack(pairs, 1) - 2 * alone[:, np.newaxis], rest
