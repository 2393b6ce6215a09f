"""Any bytes as calls of the native core, against tests/test_core.py's model and NumPy; to be built with sanitizers.

What comes back must equal the model; what is no picture must be refused with an exception. Accesses beyond an
array and undefined arithmetic are for AddressSanitizer and UndefinedBehaviorSanitizer to notice.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from falconimg._core import (
    Grid,
    Map,
    Plan,
    PlanError,
    Shape,
    Window,
    edges,
    is_opaque,
    premultiply,
    shrink,
    unpremultiply,
)
from tests import test_core

SIZES = (0, 1, 2, 3, 7, 2**15, 2**30, 2**31, 2**32, 2**61, 2**62, 2**63 - 1, 2**63, -1, -(2**31), -(2**63))
Array = Any


class Input:
    """Numbers from the fuzzer's bytes; zeros when they are used up."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def below(self, bound: int) -> int:
        """A number from 0, of one byte."""
        byte = self.data[self.place] if self.place < len(self.data) else 0
        self.place += 1
        return byte % bound

    def side(self) -> int:
        """A number that no picture has, often next to a limit of C's integers."""
        return SIZES[self.below(len(SIZES))] + self.below(3) - 1

    def words(self, count: int, dtype: Any) -> Array:
        """So many values of any bits."""
        size = count * np.dtype(dtype).itemsize
        part = self.data[self.place : self.place + size].ljust(size, b"\xff")
        self.place += size
        return np.frombuffer(part, dtype)


def one(data: bytes) -> None:
    """Make one call, of the kind that the first byte says."""
    given = Input(data)
    KINDS[given.below(len(KINDS))](given)


def plans(given: Input) -> None:
    """A plan of steps that fit: its run makes what the model makes."""
    height, width, channels = given.below(9) + 1, given.below(9) + 1, (1, 3, 4)[given.below(3)]
    source = test_core.noise(height, width, channels, (np.uint8, np.uint16)[given.below(2)])
    pool: list[tuple[Any, ...]] = [("none",), *((name,) for name in test_core.MAPS)]
    pool += [("grid", given.below(3) + 1, given.below(3) + 1), ("trim", given.below(2), given.below(3))]
    routes = [[pool[given.below(len(pool))] for _ in range(given.below(5))] for _ in range(given.below(4) + 1)]
    wanted = test_core.model(source, routes)
    emitted = test_core.outputs(source, routes)
    assert [(leaf.route, leaf.index, leaf.row, leaf.column) for leaf, _ in emitted] == [one_[:4] for one_ in wanted]
    for (leaf, array), result in zip(emitted, wanted, strict=True):
        assert leaf.shape == test_core.shape_of(array)
        assert np.array_equal(array, result.pixels)


def wild(given: Input) -> None:
    """A plan of effects and bounds with any numbers: refused, or every result is inside its picture."""
    try:
        source = Shape(given.side(), given.side(), (1, 3, 4)[given.below(3)], given.below(2) + 1)
    except (ValueError, OverflowError):
        source = Shape(given.below(9) + 1, given.below(9) + 1, 3, given.below(2) + 1)
    assert source.nbytes == source.height * source.width * source.channels * source.itemsize > 0

    def effect(step: int, shape: Shape) -> Any:
        kind = given.below(4)
        if kind == 0:
            needs = (given.side(), given.side()) if given.below(2) else None
            shape = Shape(given.side(), given.side())
            return Map(shape, lambda array: array, given.below(100), needs, bool(given.below(2)))
        if kind == 1:
            return Window(given.side(), given.side(), given.side(), given.side())
        if kind == 2:
            cuts = [[given.side() for _ in range(given.below(4))] for _ in range(2)]
            return Grid(*cuts)
        return None

    routes = [range(given.below(5)) for _ in range(given.below(3) + 1)]
    bounds = {name: given.side() for name in ("max_outputs", "max_pixels", "max_side", "max_total")}
    names = [((("a", ("", "index", "width")[given.below(3)]), (".png", "")), bool(given.below(2)))] * len(routes)
    try:
        plan = Plan(source, routes, effect, names, **bounds)
    except (PlanError, ValueError, OverflowError, TypeError):
        return
    for leaf in plan.leaves:
        assert leaf.shape.height >= 1
        assert leaf.shape.width >= 1
    assert len(plan.leaves) <= max(0, bounds["max_outputs"])
    assert sum(leaf.shape.height * leaf.shape.width for leaf in plan.leaves) <= max(0, bounds["max_total"])
    assert plan.peak(lambda leaf: (leaf.shape.nbytes, 1)) >= source.nbytes
    try:
        plan.load(given.side())
    except (ValueError, OverflowError):
        return
    assert plan.peak(lambda leaf: (0, 0)) > 0


def cuts(given: Input) -> None:
    """The edges of any side in any number of parts."""
    side, parts = given.side(), given.below(70) - 2
    try:
        found = edges(side, parts)
    except (ValueError, OverflowError):
        assert not 1 <= parts <= side or side >= 2**63
        return
    sizes = [end - start for start, end in pairwise(found)]
    assert (found[0], found[-1], len(sizes)) == (0, side, parts)
    assert sizes == sorted(sizes)
    assert sizes[-1] - sizes[0] <= 1


def view(given: Input, dtype: Any) -> Array:
    """Pixels (h, w, 4) somewhere in a larger buffer of just the bytes they need: any stride, any start."""
    height, width = given.below(6) + 1, given.below(6) + 1
    size, row = np.dtype(dtype).itemsize, given.below(5) + 4 * width * np.dtype(dtype).itemsize
    values = given.words(height * width * 4, dtype).reshape(height, width, 4)
    before = given.below(4)
    buffer = np.zeros(before + (height - 1) * row + 4 * width * size, np.uint8)
    pixels: Array = np.ndarray((height, width, 4), dtype, buffer, before, (row, 4 * size, size))
    pixels[:] = values
    return pixels[::-1] if given.below(2) else pixels


def straight(given: Input) -> None:
    """premultiply, is_opaque and the way back, of straight alpha."""
    array = view(given, (np.uint8, np.uint16)[given.below(2)])
    before = array.copy()
    top = np.iinfo(array.dtype).max
    overshoot = bool(given.below(2))
    if refused(array, premultiply, is_opaque):
        return
    weights: Array = premultiply(array, overshoot)
    wide = array.astype(np.float64)
    if array.dtype == np.uint8 and not overshoot:
        assert np.array_equal(weights, np.dstack([wide[:, :, :3] * wide[:, :, 3:], wide[:, :, 3:] * 255]))
    else:
        wanted = np.dstack([wide[:, :, :3] * wide[:, :, 3:] / top, wide[:, :, 3:]])
        assert np.all(np.abs(weights - wanted) <= wanted * 2.0**-22)
    assert is_opaque(array) is bool((array[:, :, 3] == top).all())
    back: Array = unpremultiply(weights, array.itemsize)
    assert back.dtype == array.dtype
    assert np.array_equal(back, np.where(array[:, :, 3:] > 0, array, 0))
    assert np.array_equal(array, before)


def shrunk(given: Input) -> None:
    """The mean of what each pixel covers: the model's, or refused."""
    height, width, channels = given.below(9) + 1, given.below(9) + 1, (1, 3, 4)[given.below(3)]
    row = width * channels + given.below(3)
    buffer = np.zeros((height - 1) * row + width * channels, np.uint8)
    array: Array = np.ndarray((height, width, channels), np.uint8, buffer, 0, (row, channels, 1))
    array[:] = given.words(array.size, np.uint8).reshape(array.shape)
    high, wide = (given.below(10) if given.below(8) else given.side() for _ in range(2))
    window: Any = (0.0, 0.0, float(height), float(width))
    if given.below(2):
        window = tuple(given.words(4, np.float64).tolist())
    elif given.below(2):
        top, left, rows, columns = (float(number) / 16 for number in given.words(4, np.uint8))
        window = (top - 1, left - 1, rows, columns)
    smooth = bool(given.below(2))
    try:
        result: Array = shrink(array, high, wide, window, smooth)
    except (ValueError, OverflowError):
        return
    assert result.shape == (high, wide, channels)
    down = test_core.weights(high, height, window[0], window[2] / high, smooth)
    across = test_core.weights(wide, width, window[1], window[3] / wide, smooth)
    wanted = np.clip(np.einsum("yh,xw,hwc->yxc", down, across, array.astype(float)), 0, 255)
    assert np.abs(result - wanted).max() <= (0.6 if smooth else 1.6)


def weighted(given: Input) -> None:
    """unpremultiply of weights with any bits, infinite ones and those that are no number among them."""
    array = view(given, (np.uint16, np.float32)[given.below(2)])
    if refused(array, unpremultiply):
        return
    itemsize = given.below(3)
    result: Array = unpremultiply(array, itemsize)
    top = 255 if array.dtype == np.uint16 or itemsize == 1 else 65535
    assert result.dtype == (np.uint8 if top == 255 else np.uint16)
    with np.errstate(all="ignore"):
        usual = np.all(np.abs(array.astype(np.float64)) < 1e30, axis=2)
        wanted = test_core.straightened(array, top)
        seen = wanted[:, :, 3] >= 0.5
        near = np.all(np.abs(result - wanted) <= 0.5 + top * 2.0**-21, axis=2)
    assert np.all(near[seen & usual])
    assert not result[~seen & usual].any()


def refused(array: Array, *kernels: Callable[[Array], object]) -> bool:
    """Whether the kernels refuse the array, as they must where C could not read its samples one by one."""
    for kernel in kernels:
        try:
            kernel(array)
        except ValueError:
            assert not array.flags.aligned
        else:
            assert array.flags.aligned
    return not array.flags.aligned


KINDS: tuple[Callable[[Input], None], ...] = (plans, wild, cuts, straight, weighted, shrunk)
