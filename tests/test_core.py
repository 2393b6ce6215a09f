"""The plan, its walk and the pixel kernels of native/_core.pyx, against models in plain Python and NumPy."""

from __future__ import annotations

import sys
import threading
import time
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from falconimg._core import (
    Grid,
    Leaf,
    Map,
    Plan,
    PlanError,
    Shape,
    Window,
    edges,
    is_opaque,
    name,
    premultiply,
    shrink,
    unpremultiply,
)

Array = Any  # (h, w, c), uint8 or uint16
Names = Sequence[tuple[Sequence[tuple[str, str]], bool]]

CALM = settings(deadline=None)  # a machine may be busy
WIDE: dict[str, int] = {"max_outputs": 10**6, "max_pixels": 10**9, "max_side": 10**6, "max_total": 10**12}


def noise(height: int, width: int, channels: int = 3, dtype: type = np.uint8) -> Array:
    top = np.iinfo(dtype).max
    return np.random.default_rng(height * 1000 + width).integers(0, top, (height, width, channels), dtype, True)


def shape_of(array: Array) -> Shape:
    height, width, channels = array.shape
    return Shape(height, width, channels, array.itemsize)


def plain(*paths: str) -> Names:
    """Names of routes whose paths have no fields."""
    return [(((path, ""),), False) for path in paths]


def nothing() -> None:
    """A tick that lets the walk go on."""


# ---- steps for the tests: a tuple of a name and its numbers ----

Step = tuple[Any, ...]


def parts(side: int, count: int) -> list[int]:
    """The edges of a side by NumPy, whose first parts are the larger ones: so from the other end."""
    sizes = [len(part) for part in np.array_split(range(side), count)][::-1]
    return [sum(sizes[:i]) for i in range(count + 1)]


MAPS: dict[str, tuple[Callable[[Shape], Shape], Callable[[Array], Array]]] = {
    "invert": (lambda s: s, lambda a: ~a),
    "turn": (lambda s: s.resized(s.width, s.height), lambda a: np.array(np.rot90(a), order="C")),
    "double": (lambda s: s.resized(2 * s.height, 2 * s.width), lambda a: a.repeat(2, 0).repeat(2, 1)),
    "halve": (lambda s: s.resized(-(-s.height // 2), -(-s.width // 2)), lambda a: a[::2, ::2].copy()),
    "gray": (lambda s: Shape(s.height, s.width, 1, s.itemsize), lambda a: a[:, :, :1].copy()),
}


def effect(step: Step, shape: Shape) -> Grid | Window | Map | None:
    """What a step does, as the plan wants to know it."""
    kind, *numbers = step
    if kind == "grid":
        rows, columns = numbers
        if shape.height < rows or shape.width < columns:
            return None
        return Grid(parts(shape.height, rows), parts(shape.width, columns))
    if kind == "trim":
        top, left = numbers
        if shape.height <= top + 1 or shape.width <= left + 1:
            return None
        return Window(top, left, shape.height - top - 1, shape.width - left - 1)
    if kind == "none":
        return None
    shaped, make = MAPS[kind]
    return Map(shaped(shape), make)


class Result(NamedTuple):
    """A leaf as the model has it."""

    route: int
    number: int
    row: int
    column: int
    pixels: Array


def model(source: Array, routes: Sequence[Sequence[Step]]) -> list[Result]:
    """All results in order: at each picture those that it is itself, then what is made of it, depth-first."""
    counts: Counter[int] = Counter()
    results = []

    def cut(array: Array, step: Step, row: int, column: int) -> list[tuple[Array, int, int]] | None:
        kind, *numbers = step
        if kind == "grid":
            if array.shape[0] < numbers[0] or array.shape[1] < numbers[1]:
                return None
            ys, xs = parts(array.shape[0], numbers[0]), parts(array.shape[1], numbers[1])
            return [
                (array[ys[i] : ys[i + 1], xs[j] : xs[j + 1]], i + 1, j + 1)
                for i in range(numbers[0])
                for j in range(numbers[1])
            ]
        if kind == "trim":
            kept = array[numbers[0] : -1, numbers[1] : -1]
            return [(kept, row, column)] if kept.size else None
        return None if kind == "none" else [(MAPS[kind][1](array), row, column)]

    def visit(array: Array, routes: list[tuple[int, tuple[Step, ...]]], row: int, column: int) -> None:
        made = []

        def look(routes: list[tuple[int, tuple[Step, ...]]]) -> None:
            for number, steps in routes:
                if not steps:
                    counts[number] += 1
                    results.append(Result(number, counts[number], row, column, array))
            for step in dict.fromkeys(steps[0] for _, steps in routes if steps):
                rest = [(number, steps[1:]) for number, steps in routes if steps[:1] == (step,)]
                pictures = cut(array, step, row, column)
                if pictures is None:
                    look(rest)
                else:
                    made.append((pictures, rest))

        look(routes)
        for pictures, rest in made:
            for picture, i, j in pictures:
                visit(picture, rest, i, j)

    visit(source, [(number, tuple(steps)) for number, steps in enumerate(routes)], 1, 1)
    return results


STEPS = st.one_of(
    st.tuples(st.just("grid"), st.integers(1, 3), st.integers(1, 2)),
    st.tuples(st.just("trim"), st.integers(0, 1), st.integers(0, 2)),
    st.tuples(st.sampled_from([*MAPS, "none"])),
)


@st.composite
def trees(draw: st.DrawFn) -> list[list[Step]]:
    """Routes that have steps in common."""
    pool = draw(st.lists(STEPS, min_size=1, max_size=3))
    return draw(st.lists(st.lists(st.sampled_from(pool), max_size=4), min_size=1, max_size=4))


@st.composite
def sources(draw: st.DrawFn) -> Array:
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    return noise(height, width, draw(st.sampled_from([1, 3, 4])), draw(st.sampled_from([np.uint8, np.uint16])))


def outputs(source: Array, routes: Sequence[Sequence[Step]], names: Names | None = None) -> list[tuple[Leaf, Array]]:
    """What a plan's run hands out."""
    names = names or plain(*(f"{number}.png" for number in range(len(routes))))
    emitted: list[tuple[Leaf, Array]] = []
    plan = Plan(shape_of(source), routes, effect, names, **WIDE)
    plan.run(lambda: source, lambda leaf, array: emitted.append((leaf, array)), nothing)
    return emitted


# ---- splits ----


@CALM
@given(st.integers(2, 40), st.integers(2, 40))
def test_quadrants_are_the_sources_slices_cut_at_side_halves_and_share_its_memory(height: int, width: int) -> None:
    source = noise(height, width)
    grid = Grid(edges(height, 2), edges(width, 2))
    plan = Plan(shape_of(source), [["split"]], lambda step, shape: grid, plain("a.png"), **WIDE)
    quadrants: list[Array] = []
    plan.run(lambda: source, lambda leaf, array: quadrants.append(array), nothing)
    y, x = height // 2, width // 2
    wanted = [source[:y, :x], source[:y, x:], source[y:, :x], source[y:, x:]]
    assert len(quadrants) == 4
    for quadrant, slice_ in zip(quadrants, wanted, strict=True):
        assert np.array_equal(quadrant, slice_)
        assert quadrant.ctypes.data == slice_.ctypes.data
        assert quadrant.strides == source.strides


def test_nested_splits_are_named_depth_first() -> None:
    source = noise(7, 10)
    emitted = outputs(source, [[("grid", 2, 2), ("grid", 2, 2)]], plain("out/a.b.png"))
    assert [leaf.path for leaf, _ in emitted] == [f"out/a.b_{number}.png" for number in range(1, 17)]
    # rows are cut at 3 of 7, then at 1 of 3 and at 2 of 4; columns at 5 of 10, then at 2 of 5
    rows = [((0, 1), (1, 3)), ((3, 5), (5, 7))]
    columns = [((0, 2), (2, 5)), ((5, 7), (7, 10))]
    wanted = [source[y[0] : y[1], x[0] : x[1]] for ys in rows for xs in columns for y in ys for x in xs]
    assert all(np.array_equal(array, part) for (_, array), part in zip(emitted, wanted, strict=True))
    assert [(leaf.row, leaf.column) for leaf, _ in emitted] == [(1, 1), (1, 2), (2, 1), (2, 2)] * 4


def test_every_output_is_numbered_from_one() -> None:
    routes: list[list[Step]] = [[("grid", 2, 1), ("invert",)], [("grid", 2, 1), ("grid", 1, 2)], [("invert",)]]
    paths = [leaf.path for leaf, _ in outputs(noise(4, 4), routes, plain("a.png", "b/c.png", "d.x/e.png"))]
    assert paths == ["a_1.png", "b/c_1.png", "b/c_2.png", "a_2.png", "b/c_3.png", "b/c_4.png", "d.x/e.png"]


@pytest.mark.parametrize(
    ("template", "numbered", "wanted"),
    [
        ((("a", "index"), (".png", "")), True, ["a1.png", "a2.png", "a3.png", "a4.png", "a5.png", "a6.png"]),
        (
            (("r", "row"), ("c", "col"), (".png", "")),
            True,
            ["r1c1.png", "r1c2.png", "r1c3.png", "r2c1.png", "r2c2.png", "r2c3.png"],
        ),
        (
            (("", "width"), ("x", "height"), (".png", "")),
            False,
            ["2x3_1.png", "2x3_2.png", "3x3_3.png", "2x4_4.png", "2x4_5.png", "3x4_6.png"],
        ),
        (
            (("d/", "col"), ("/", "index"), ("_", "width"), (".v1.png", "")),
            True,
            [
                "d/1/1_2.v1.png",
                "d/2/2_2.v1.png",
                "d/3/3_3.v1.png",
                "d/1/4_2.v1.png",
                "d/2/5_2.v1.png",
                "d/3/6_3.v1.png",
            ],
        ),
    ],
)
def test_a_templates_fields_are_filled_in(template: Any, numbered: bool, wanted: list[str]) -> None:
    emitted = outputs(noise(7, 7), [[("grid", 2, 3)]], [(template, numbered)])
    assert [leaf.path for leaf, _ in emitted] == wanted


def test_row_and_column_are_those_of_the_last_split_whatever_follows_it() -> None:
    route = [("grid", 2, 2), ("grid", 3, 1), ("trim", 0, 0), ("turn",), ("none",)]
    cells = [(leaf.row, leaf.column) for leaf, _ in outputs(noise(18, 18), [route])]
    assert cells == [(1, 1), (2, 1), (3, 1)] * 4


def test_a_single_result_keeps_its_path_as_it_is() -> None:
    assert [leaf.path for leaf, _ in outputs(noise(4, 4), [[("invert",)]], plain("x.y/a.b.png"))] == ["x.y/a.b.png"]
    leaf = outputs(noise(4, 4), [[("grid", 1, 1)]], plain("a.png"))[0][0]
    assert (leaf.path, leaf.index, leaf.row, leaf.column) == ("a.png", 1, 1, 1)
    assert [name((("a.png", ""),), False, leaf, count) for count in (1, 2)] == ["a.png", "a_1.png"]
    parts = (("a", "index:03"), ("_", "row"), ("_", "width:01"), (".png", ""))
    assert name(parts, True, leaf, 2) == "a001_1_4.png"


@CALM
@given(st.integers(1, 2000), st.integers(1, 64))
def test_parts_differ_by_one_pixel_at_most_and_the_last_ones_are_the_larger(side: int, count: int) -> None:
    if count > side:
        with pytest.raises(ValueError, match=f"{side} pixels make no {count} parts"):
            edges(side, count)
        return
    cuts = edges(side, count)
    assert list(cuts) == parts(side, count)
    sizes = np.diff(cuts).tolist()
    assert sizes == sorted(sizes)
    assert set(sizes) <= {side // count, side // count + 1}
    assert (cuts[0], cuts[-1], len(cuts)) == (0, side, count + 1)


@CALM
@given(st.integers(2, 10**9))
def test_two_parts_are_cut_at_half_the_side(side: int) -> None:
    assert edges(side, 2) == (0, side // 2, side)


@pytest.mark.parametrize(
    ("side", "count", "wanted"), [(5, 3, (0, 1, 3, 5)), (8, 3, (0, 2, 5, 8)), (3, 3, (0, 1, 2, 3))]
)
def test_the_extra_pixels_go_to_the_last_parts(side: int, count: int, wanted: tuple[int, ...]) -> None:
    assert edges(side, count) == wanted


@pytest.mark.parametrize("count", [0, -1, 4])
def test_a_side_is_not_cut_into_more_parts_than_pixels_or_into_none(count: int) -> None:
    with pytest.raises(ValueError, match=f"3 pixels make no {count} parts"):
        edges(3, count)


# ---- the plan and its walk ----


@CALM
@given(sources(), trees())
def test_a_run_makes_what_the_model_makes_in_its_order_and_the_plan_knew_it(source: Array, routes: Any) -> None:
    wanted = model(source, routes)
    emitted = outputs(source, routes)
    plan = Plan(shape_of(source), routes, effect, plain(*"abcd"[: len(routes)]), **WIDE)
    assert [(leaf.route, leaf.index, leaf.row, leaf.column) for leaf, _ in emitted] == [one[:4] for one in wanted]
    assert [leaf.shape for leaf, _ in emitted] == [shape_of(array) for _, array in emitted]
    assert [leaf.shape for leaf in plan.leaves] == [shape_of(one.pixels) for one in wanted]
    assert [(leaf.route, leaf.index) for leaf in plan.leaves] == [one[:2] for one in wanted]
    for (_, array), one in zip(emitted, wanted, strict=True):
        assert array.dtype == source.dtype
        assert np.array_equal(array, one.pixels)
    count = Counter(one.route for one in wanted)
    assert [leaf.path for leaf, _ in emitted] == [
        f"{one.route}.png" if count[one.route] == 1 else f"{one.route}_{one.number}.png" for one in wanted
    ]


def test_leaves_stand_in_the_order_of_the_run_where_a_route_ends_with_a_step_without_effect() -> None:
    source, routes = noise(4, 4), [[("invert",)], [("none",)], [("none",), ("turn",)], []]
    plan = Plan(shape_of(source), routes, effect, plain("a.png", "b.png", "c.png", "d.png"), **WIDE)
    emitted: list[Leaf] = []
    plan.run(lambda: source, lambda leaf, array: emitted.append(leaf), nothing)
    assert [leaf.path for leaf in emitted] == ["d.png", "b.png", "a.png", "c.png"]
    assert list(plan.leaves) == emitted


def test_a_common_stem_is_computed_once_and_asked_once() -> None:
    made: Counter[str] = Counter()
    asked: Counter[str] = Counter()

    def counted(step: str, shape: Shape) -> Map:
        def make(array: Array) -> Array:
            made[step] += 1
            return array.copy()

        asked[step] += 1
        return Map(shape, make)

    routes = ["abc", "abd", "abc", "ab", "e", "abdf"]
    plan = Plan(Shape(4, 4), routes, counted, plain(*(f"{n}.png" for n in range(6))), **WIDE)
    assert asked == dict.fromkeys("abcdef", 1)
    leaves: list[int] = []
    plan.run(lambda: noise(4, 4), lambda leaf, array: leaves.append(leaf.route), nothing)
    assert made == dict.fromkeys("abcdef", 1)
    assert leaves == [3, 0, 2, 1, 5, 4]


class Said(NamedTuple):
    """A step that is equal to others of its kind, wherever it stands."""

    kind: str

    @classmethod
    def all(cls, kinds: str) -> list[Said]:
        return [cls(kind) for kind in kinds]


def test_equal_steps_are_computed_once_though_each_is_asked() -> None:
    made: list[str] = []
    asked: list[int] = []

    def effect(step: Said, shape: Shape) -> Map:
        def make(array: Array) -> Array:
            made.append(step.kind)
            return array.copy()

        asked.append(id(step))
        return Map(shape, make)

    routes = [Said.all("ab"), Said.all("ab"), Said.all("ac")]
    plan = Plan(Shape(4, 4), routes, effect, plain("0.png", "1.png", "2.png"), **WIDE)
    plan.run(lambda: noise(4, 4), lambda leaf, array: None, nothing)
    assert made == ["a", "b", "c"]
    assert sorted(asked) == sorted(id(step) for route in routes for step in route)


# ---- smaller versions of one picture ----


def smaller(step: Step, shape: Shape) -> Map:
    """`("to", side)`: another size, of which the array tells what it was made from; `("turn", n)`: not scalable."""
    kind, side = step

    def make(array: Array, extent: tuple[float, float] | None = None) -> Array:
        MADE.append((side, array.shape[0], extent))
        return np.zeros((side, side, 3), np.uint8)

    return Map(Shape(side, side), make, 0, (side, side) if kind == "to" else None, kind == "to")


MADE: list[tuple[int, int, tuple[float, float] | None]] = []


def made_of(sides: Sequence[tuple[str, int]], source: int = 1000, number: int = 1) -> dict[int, int]:
    """For each side the side of the picture that it was made of."""
    MADE.clear()
    plan = Plan(Shape(source, source), [[side] for side in sides], smaller,
                plain(*(f"{n}.png" for n in range(len(sides)))), **WIDE)  # fmt: skip
    if number > 1:
        plan.load(number)
    loaded = -(-source // number)
    emitted: list[Leaf] = []
    plan.run(lambda: np.zeros((loaded, loaded, 3), np.uint8), lambda leaf, array: emitted.append(leaf), nothing)
    assert [leaf.path for leaf in plan.leaves] == [f"{n}.png" for n in range(len(sides))]
    assert sorted(leaf.path for leaf in emitted) == [leaf.path for leaf in plan.leaves]
    return {side: of for side, of, _ in MADE}


def test_a_smaller_version_is_made_of_the_smallest_that_is_twice_its_size() -> None:
    sides = [("to", side) for side in (200, 800, 401, 1000, 500, 90)]
    assert made_of(sides) == {1000: 1000, 800: 1000, 500: 1000, 401: 1000, 200: 401, 90: 200}
    assert {side: extent for side, _, extent in MADE}[90] == (200, 200)


def test_no_version_is_made_of_what_is_not_the_whole_picture_or_must_have_all_of_it() -> None:
    assert made_of([("turn", 800), ("to", 200), ("turn", 100)]) == {800: 1000, 200: 1000, 100: 1000}


@CALM
@given(
    st.lists(
        st.tuples(st.sampled_from(["to", "turn"]), st.integers(1, 1000)),
        min_size=1, max_size=8, unique_by=lambda one: one[1],
    )
)  # fmt: skip
def test_a_cascade_never_makes_a_version_of_less_than_twice_its_size(sides: list[tuple[str, int]]) -> None:
    made = made_of(sides)
    for kind, side in sides:
        assert made[side] == 1000 or (kind == "to" and ("to", made[side]) in sides and made[side] >= 2 * side)


def test_a_source_that_is_only_wanted_smaller_may_be_loaded_smaller_and_says_how_much_of_it_there_is() -> None:
    assert made_of([("to", 300), ("to", 100)], source=999, number=2) == {300: 500, 100: 300}
    assert {side: extent for side, _, extent in MADE} == {300: (499.5, 499.5), 100: (300, 300)}


@pytest.mark.parametrize("routes", [[[]], [[("turn", 3)]], [[("to", 3)], []], [[("to", 3)], [("turn", 3)]]])
def test_a_source_that_is_wanted_in_full_is_not_loaded_smaller(routes: Any) -> None:
    plan = Plan(Shape(9, 9), routes, smaller, plain("a.png", "b.png")[: len(routes)], **WIDE)
    assert plan.needs() is None
    with pytest.raises(ValueError, match="will not do"):
        plan.load(2)


def test_a_source_is_not_loaded_smaller_than_it_is_needed() -> None:
    plan = Plan(Shape(9, 90), [[("to", 3)], [("to", 4)]], smaller, plain("a.png", "b.png"), **WIDE)
    assert plan.needs() == (4, 4)
    plan.load(2)
    for number in (0, -1, 3, 2**62):
        with pytest.raises(ValueError, match="will not do"):
            plan.load(number)


def test_a_source_loaded_smaller_takes_less_memory_and_must_have_that_size() -> None:
    plan = Plan(Shape(100, 100), [[("to", 10)]], smaller, plain("a.png"), **WIDE)
    whole = plan.peak(lambda leaf: (0, 0))
    plan.load(4)
    assert (whole, plan.peak(lambda leaf: (0, 0))) == (30300, 25 * 25 * 3 + 300)
    with pytest.raises(ValueError, match="came \\(100, 100, 3\\)"):
        plan.run(lambda: noise(100, 100), lambda leaf, array: None, nothing)


@pytest.mark.parametrize(
    ("routes", "halves"),
    [
        ([[]], True),
        ([[("to", 18)]], True),
        ([["thirds"]], True),
        ([["thirds", ("to", 9)]], True),
        ([[("to", 3), ("to", 2)]], True),
        ([[("to", 18), ("to", 3)]], True),
        ([[("to", 3), ("to", 4)]], False),
        ([[("to", 8), "half", ("to", 5)]], False),
        ([[("to", 8), ("to", 4)], [("to", 8), ("to", 4), ("to", 5)]], False),
        ([[("to", 8), "half"]], True),
        ([[("to", 8), "thirds"]], False),
    ],
)
def test_planes_of_half_the_sides_do_where_no_smaller_version_grows_or_is_cut_amid_a_pair(
    routes: Any, halves: bool
) -> None:
    def effect(step: Any, shape: Shape) -> Any:
        if step == "thirds":
            return Grid((0, 3, shape.height), (0, 3, shape.width))
        return Window(4, 4, 4, 4) if step == "half" else smaller(step, shape)

    plan = Plan(Shape(9, 9), routes, effect, plain("a.png", "b.png")[: len(routes)], **WIDE)
    assert plan.halves() == halves


# ---- area ----


def weights(sides: int, side: int, start: float, step: float, smooth: bool) -> Array:
    """What each of `side` samples weighs in each of the results: a matrix."""

    def before(place: float) -> Array:
        """The weights of the samples in the integral up to a place, the outermost ones going on beyond the ends."""
        sample = min(int(np.floor(place)), side)
        nodes = range(sample - 1, sample + 3) if smooth else range(sample, sample + 2)
        total = np.zeros(side)
        for node in nodes:
            share = np.prod([(place - other) / (node - other) for other in nodes if other != node])
            for cell in range(min(node, 0), max(node, 0)):
                total[min(max(cell, 0), side - 1)] += share * (1 if node > 0 else -1)
        return total

    rows = []
    for number in range(sides):
        low, high = max(start + number * step, 0), min(start + (number + 1) * step, side)
        rows.append((before(high) - before(low)) / (high - low))
    return np.array(rows)


@st.composite
def shrinkings(draw: st.DrawFn) -> tuple[Array, int, int, tuple[float, float, float, float]]:
    """A picture, a smaller size, and a window that has at least that."""
    channels = draw(st.sampled_from([1, 3, 4]))
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rows, columns = draw(st.floats(1, height)), draw(st.floats(1, width))
    top, left = draw(st.floats(0, height - rows)), draw(st.floats(0, width - columns))
    high, wide = draw(st.integers(1, int(rows))), draw(st.integers(1, int(columns)))
    # as of a picture of odd sides, whose last samples stand for more than there is
    rows, columns = rows + draw(st.sampled_from([0, 0.4])) * rows / high, columns + draw(st.sampled_from([0, 0.5]))
    whole = draw(st.sampled_from([0, 255, None]))
    array = np.full((height, width, channels), whole, np.uint8) if whole is not None else noise(height, width, channels)
    apart = np.zeros((height + 2, width + 3, channels), np.uint8)[1:-1, 2:-1]
    apart[:] = array
    return draw(st.sampled_from([array, apart])), high, wide, (top, left, rows, columns)


@CALM
@given(shrinkings(), st.booleans())
def test_shrink_is_the_mean_of_what_each_pixel_covers(case: Any, smooth: bool) -> None:
    array, height, width, (top, left, rows, columns) = case
    down = weights(height, array.shape[0], top, rows / height, smooth)
    across = weights(width, array.shape[1], left, columns / width, smooth)
    wanted = np.clip(np.einsum("yh,xw,hwc->yxc", down, across, array.astype(float)), 0, 255)
    result = shrink(array, height, width, (top, left, rows, columns), smooth)
    assert result.shape == (height, width, array.shape[2])
    assert result.dtype == np.uint8
    # half a level for the rounding, and of whole shares as much for each border between rows
    borders = 0 if smooth or rows / height > 4 else int(np.ceil(rows / height))
    assert np.abs(result - wanted).max() <= 0.51 + 0.5 * borders + 0.002 * (borders and columns / width + 1)


@pytest.mark.parametrize("rows", [4, 9, 24, 300, 2000])
def test_a_row_of_very_many_is_their_mean(rows: int) -> None:
    array = noise(rows, 60, 3)
    assert np.abs(shrink(array, 1, 60) - array.mean(0)).max() <= 0.51


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("value", [0, 1, 128, 255])
def test_shrink_keeps_what_is_the_same_everywhere(value: int, smooth: bool) -> None:
    for size in [(1, 1), (7, 5), (40, 33), (99, 1)]:
        for result in [(1, 1), (size[0], 1), (size[0] * 2 // 3 + 1, max(1, size[1] // 2)), size]:
            array = np.full((*size, 3), value, np.uint8)
            assert (shrink(array, *result, None, smooth) == value).all(), (size, result)


def test_shrink_of_exact_blocks_is_their_mean() -> None:
    array = noise(12, 20, 3)
    blocks = array.reshape(6, 2, 5, 4, 3).astype(int).sum((1, 3))
    assert np.abs(shrink(array, 6, 5) - blocks / 8).max() <= 0.5


def test_shrink_refuses_what_it_cannot_go_through_by_pointer() -> None:
    array = noise(6, 6, 3)
    wrong: list[Array] = [
        array[:, ::2], array.transpose(1, 0, 2), array[:, :, ::-1], array[:, :, :2], array[:0], array[:, :, 0],
        array.astype(np.uint16), np.asfortranarray(array),
    ]  # fmt: skip
    for one in wrong:
        with pytest.raises(ValueError, match="expected"):
            shrink(one, 1, 1)


@pytest.mark.parametrize(
    ("height", "width", "window"),
    [
        (0, 1, None), (1, 0, None), (-1, 1, None), (7, 1, None), (1, 7, None), (2**62, 1, None),
        (1, 1, (0, 0, 0.5, 6)), (1, 1, (6, 0, 1, 1)), (1, 1, (0, -1, 1, 1)), (2, 1, (-3, 0, 6, 6)),
        (1, 1, (0, 0, float("nan"), 1)), (1, 1, (float("nan"), 0, 1, 1)), (1, 1, (0, 0, float("inf"), 1)),
        (1, 1, (-1e300, 0, 1, 1)), (1, 1, (0, 1e300, 1, 1)), (6, 6, (0, 1.5, 6, 6)),
    ],
)  # fmt: skip
def test_shrink_refuses_sizes_and_windows_that_are_not_in_the_picture(height: int, width: int, window: Any) -> None:
    for smooth in (False, True):
        with pytest.raises((ValueError, OverflowError)):
            shrink(noise(6, 6), height, width, window, smooth)


def test_shrink_lets_other_threads_run() -> None:
    array = noise(3000, 3000, 3)
    others = 0
    ended = threading.Event()

    def work() -> None:
        shrink(array, 1111, 1111)
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not ended.is_set():
        others += 1
        time.sleep(0.0005)
    thread.join()
    assert others > 5


def test_no_step_is_made_before_the_run_and_every_run_makes_it_anew() -> None:
    made: list[int] = []

    def make(array: Array) -> Array:
        made.append(1)
        return array.copy()

    plan = Plan(Shape(2, 2), [["a"]], lambda step, shape: Map(shape, make), plain("a.png"), **WIDE)
    assert made == []
    for count in (1, 2):
        plan.run(lambda: noise(2, 2), lambda leaf, array: None, nothing)
        assert len(made) == count


class Alive:
    """Which of the pictures that were made are still held."""

    def __init__(self) -> None:
        self.made: list[weakref.ref[Any]] = []

    def add(self, array: Array) -> Array:
        self.made.append(weakref.ref(array))
        return array

    def numbers(self) -> list[int]:
        """0 for the source, then the others in the order in which they were made."""
        return [number for number, made in enumerate(self.made) if made() is not None]


def held(routes: Sequence[Sequence[str]]) -> dict[str, list[list[int]]]:
    """What is held before each Map is made, and at each emit; a step is "/" (two columns) or a Map's letter."""
    alive = Alive()
    seen: dict[str, list[list[int]]] = {"make": [], "emit": []}

    def asked(step: str, shape: Shape) -> Grid | Map:
        def make(array: Array) -> Array:
            seen["make"].append(alive.numbers())
            return alive.add(array.copy())

        return Grid((0, shape.height), edges(shape.width, 2)) if step == "/" else Map(shape, make)

    def emit(leaf: Leaf, array: Array) -> None:
        seen["emit"].append(alive.numbers())

    names = plain(*(f"{number}.png" for number in range(len(routes))))
    Plan(Shape(4, 8), routes, asked, names, **WIDE).run(lambda: alive.add(noise(4, 8)), emit, nothing)
    assert alive.numbers() == []
    return seen


def test_the_source_is_let_go_when_its_only_map_is_made() -> None:
    assert held(["abc"]) == {"make": [[0], [1], [2]], "emit": [[3]]}


def test_the_source_is_let_go_when_the_last_of_several_maps_is_made() -> None:
    assert held(["a", "b", "cd"]) == {"make": [[0], [0], [0], [3]], "emit": [[0, 1], [0, 2], [4]]}


def test_a_leaf_is_let_go_before_the_next_one_is_made() -> None:
    # 0 the source, 1 and 2 the maps of its halves; the last half holds the source no longer once it is mapped
    assert held(["/a"]) == {"make": [[0], [0]], "emit": [[0, 1], [2]]}


def test_a_split_result_is_held_until_its_last_part_is_mapped() -> None:
    seen = held(["a/b"])
    assert seen == {"make": [[0], [1], [1]], "emit": [[1, 2], [3]]}


def test_a_source_that_is_a_result_itself_is_let_go_after_its_other_uses() -> None:
    assert held(["", "a"]) == {"make": [[0]], "emit": [[0], [1]]}


def test_what_is_held_grows_with_the_depth_and_not_with_the_number_of_results() -> None:
    for route, results, most in (("///a", 8, 2), ("/a", 2, 2), ("a/b/c/d", 8, 4), ("a/b", 2, 2)):
        seen = held([route])
        assert len(seen["emit"]) == results
        assert max(len(numbers) for numbers in seen["emit"]) == most


@pytest.mark.parametrize(
    ("wrong", "came"),
    [
        (np.zeros((4, 5, 3), np.uint8), r"\(4, 5, 3\) of uint8"),
        (np.zeros((5, 4, 4), np.uint8), r"\(5, 4, 4\) of uint8"),
        (np.zeros((5, 4), np.uint8), r"\(5, 4\) of uint8"),
        (np.zeros((5, 4, 3), np.uint16), r"\(5, 4, 3\) of uint16"),
        (np.zeros((5, 4, 3), np.int8), r"\(5, 4, 3\) of int8"),
        (np.zeros((5, 4, 3), np.bool_), r"\(5, 4, 3\) of bool"),
        (np.zeros((5, 4, 3), np.float32), r"\(5, 4, 3\) of float32"),
    ],
)
def test_a_picture_of_another_shape_or_depth_than_planned_is_refused(wrong: Array, came: str) -> None:
    emitted: list[Leaf] = []
    words = rf"^expected Shape\(5, 4, 3, 1\), came {came}$"
    decoded = Plan(Shape(5, 4), [[]], effect, plain("a.png"), **WIDE)
    with pytest.raises(ValueError, match=words):
        decoded.run(lambda: wrong, lambda leaf, array: emitted.append(leaf), nothing)
    made = Plan(Shape(4, 4), [["a"]], lambda _, s: Map(Shape(5, 4), lambda array: wrong), plain("a.png"), **WIDE)
    with pytest.raises(ValueError, match=words):
        made.run(lambda: noise(4, 4), lambda leaf, array: emitted.append(leaf), nothing)
    assert emitted == []


def test_a_half_float_is_not_taken_for_sixteen_bits() -> None:
    plan = Plan(Shape(2, 2, 1, 2), [[]], effect, plain("a.png"), **WIDE)
    half: Array = np.zeros((2, 2, 1), np.float16)
    with pytest.raises(ValueError, match=r"came .* of float16"):
        plan.run(lambda: half, lambda leaf, array: None, nothing)


class HaltError(Exception):
    """What the tests' callbacks raise."""


def halt(*_: object) -> Any:
    raise HaltError


@pytest.mark.parametrize("where", ["effect", "decode", "make", "emit", "tick"])
def test_what_a_callback_raises_comes_through(where: str) -> None:
    calls: dict[str, Any] = {
        "effect": lambda step, shape: Map(shape, calls["make"]),
        "decode": lambda: noise(4, 4),
        "make": lambda array: array.copy(),
        "emit": lambda leaf, array: None,
        "tick": nothing,
    }

    def run() -> None:
        plan = Plan(Shape(4, 4), [["a"], ["b"]], calls["effect"], plain("a.png", "b.png"), **WIDE)
        plan.run(calls["decode"], calls["emit"], calls["tick"])

    run()
    calls[where] = halt
    with pytest.raises(HaltError):
        run()


def test_what_the_cost_of_an_encoder_raises_comes_through() -> None:
    with pytest.raises(HaltError):
        Plan(Shape(4, 4), [[]], effect, plain("a.png"), **WIDE).peak(halt)


def test_a_tick_comes_before_each_picture_and_what_it_raises_ends_the_walk_there() -> None:
    def run(allowed: int) -> list[str]:
        events: list[str] = []

        def tick() -> None:
            if events.count("tick") == allowed:
                raise HaltError
            events.append("tick")

        def decode() -> Array:
            events.append("decode")
            return noise(4, 4)

        def asked(step: str, shape: Shape) -> Grid | Map:
            def make(array: Array) -> Array:
                events.append(step)
                return array.copy()

            return Grid((0, 4), (0, 2, 4)) if step == "/" else Map(shape, make)

        plan = Plan(Shape(4, 4), ["/a", "b"], asked, plain("a.png", "b.png"), **WIDE)
        try:
            plan.run(decode, lambda leaf, array: events.append(leaf.path), tick)
        except HaltError:
            assert events.count("tick") == allowed
        return events

    whole = run(100)
    assert [event for event in whole if event != "tick"] == ["decode", "a", "a_1.png", "a", "a_2.png", "b", "b.png"]
    places = [place for place, event in enumerate(whole) if event != "tick"]
    assert all(whole[place - 1] == "tick" for place in places)
    for allowed in range(whole.count("tick")):
        ticks = [place for place, event in enumerate(whole) if event == "tick"]
        assert run(allowed) == whole[: ticks[allowed]]


@pytest.mark.parametrize(
    "one", [Window(0, 0, 5, 4), Window(1, 0, 4, 4), Window(-1, 0, 2, 2), Window(0, 3, 1, 2), Grid((0, 5), (0, 4))]
)
def test_a_window_or_a_cell_beyond_the_picture_is_refused(one: Grid | Window) -> None:
    with pytest.raises(ValueError, match=r"is not inside Shape\(4, 4, 3, 1\)"):
        Plan(Shape(4, 4), [["a"]], lambda step, shape: one, plain("a.png"), **WIDE)


@pytest.mark.parametrize(
    "window", [Window(2**62, 0, 2**62, 1), Window(1, 0, 2**63 - 1, 1), Window(0, 2**63 - 1, 1, 2**63 - 1)]
)
def test_a_window_whose_end_passes_c_s_integers_is_refused(window: Window) -> None:
    with pytest.raises(ValueError, match="is not inside"):
        Plan(Shape(4, 4), [["a"]], lambda step, shape: window, plain("a.png"), **WIDE)


def test_bytes_and_totals_beyond_c_s_integers_are_exact() -> None:
    assert Shape(2**62, 2**62, 4, 2).nbytes == 2**127
    most = dict.fromkeys(WIDE, 2**63 - 1)
    with pytest.raises(PlanError) as caught:
        Plan(Shape(2**62, 2**62), [[]], effect, plain("a.png"), **most)
    assert caught.value.args == ("total", 2**124)
    with pytest.raises(PlanError) as caught:
        Plan(Shape(1, 1), [["a"]], lambda step, shape: Map(Shape(2**62, 2**62), np.copy), plain("a.png"), **most)
    assert caught.value.args == ("pixels", 2**124)


def test_fewer_than_no_results_are_none() -> None:
    with pytest.raises(PlanError):
        Plan(Shape(1, 1), [[]], effect, plain("a.png"), **{**WIDE, "max_outputs": -1})


@pytest.mark.parametrize(
    "one", [Window(0, 0, 0, 2), Window(0, 0, 2, 0), Grid((0, 2, 2, 4), (0, 4)), Grid((0, 4), (3, 1))]
)
def test_a_window_or_a_cell_without_pixels_is_refused(one: Grid | Window) -> None:
    with pytest.raises(ValueError, match="no picture is"):
        Plan(Shape(4, 4), [["a"]], lambda step, shape: one, plain("a.png"), **WIDE)


def test_what_is_no_effect_is_refused() -> None:
    wrong: Any = lambda step, shape: "split"  # noqa: E731
    with pytest.raises(TypeError):
        Plan(Shape(4, 4), [["a"]], wrong, plain("a.png"), **WIDE)


@pytest.mark.parametrize("sides", [(0, 1), (1, 0), (-1, 5), (1, 1, 2), (1, 1, 0), (1, 1, 3, 4), (1, 1, 3, 0)])
def test_a_shape_without_pixels_or_of_other_channels_or_depths_is_refused(sides: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no picture is"):
        Shape(*sides)


def test_shapes_are_equal_by_value_and_know_their_bytes() -> None:
    shape = Shape(5, 7, 4, 2)
    assert shape.nbytes == 5 * 7 * 4 * 2
    assert shape.resized(2, 3) == Shape(2, 3, 4, 2)
    others = [Shape(4, 7, 4, 2), Shape(5, 6, 4, 2), Shape(5, 7, 3, 2), Shape(5, 7, 4, 1)]
    assert len({shape, Shape(5, 7, 4, 2), *others}) == 5
    assert shape != (5, 7, 4, 2)


# ---- bounds ----


def refusal(source: Shape, routes: Sequence[Sequence[Step]], **bounds: int) -> tuple[str, int] | None:
    """The kind and the value of the bound that is passed."""
    try:
        Plan(source, routes, effect, plain(*(str(number) for number in range(len(routes)))), **{**WIDE, **bounds})
    except PlanError as error:
        return error.kind, error.value
    return None


def test_more_results_than_max_outputs_are_refused() -> None:
    routes = [[("grid", 2, 2)], [("grid", 1, 2)]]
    assert refusal(Shape(4, 4), routes, max_outputs=6) is None
    assert refusal(Shape(4, 4), routes, max_outputs=5) == ("outputs", 6)
    assert refusal(Shape(4, 4), routes, max_outputs=2) == ("outputs", 3)


def test_a_picture_on_the_way_of_more_than_max_pixels_is_refused() -> None:
    route = [("double",), ("halve",)]
    assert refusal(Shape(4, 5), [route], max_pixels=80) is None
    assert refusal(Shape(4, 5), [route], max_pixels=79) == ("pixels", 80)


@pytest.mark.parametrize("shape", [Shape(4, 9), Shape(9, 4)])
def test_a_side_over_max_side_is_refused(shape: Shape) -> None:
    assert refusal(shape, [[("double",)]], max_side=18) is None
    assert refusal(shape, [[("double",)]], max_side=17) == ("side", 18)


def test_results_of_more_than_max_total_pixels_together_are_refused() -> None:
    routes: list[list[Step]] = [[("invert",)], [("grid", 2, 2)]]
    assert refusal(Shape(10, 10), routes, max_total=200) is None
    assert refusal(Shape(10, 10), routes, max_total=199) == ("total", 200)
    assert refusal(Shape(10, 10), routes, max_total=124) == ("total", 125)


def test_splits_nested_eightfold_are_refused_before_their_tree_grows() -> None:
    asked = []

    def splits(step: int, shape: Shape) -> Grid:
        asked.append(step)
        return Grid(edges(shape.height, 64), edges(shape.width, 64))

    begun = time.thread_time()
    with pytest.raises(PlanError) as caught:
        Plan(Shape(2**48, 2**48), [range(8)], splits, plain("a.png"), **{**WIDE, "max_outputs": 4096})
    assert time.thread_time() - begun < 1
    assert (caught.value.kind, caught.value.value) == ("outputs", 4097)
    assert len(asked) == 9  # one a level down to the first 4,096 cells, and one for the next


def test_enlargements_nested_tenfold_are_refused_at_the_first_one_beyond() -> None:
    asked = []

    def grows(step: int, shape: Shape) -> Map:
        asked.append(step)
        return Map(shape.resized(100 * shape.height, 100 * shape.width), halt)

    with pytest.raises(PlanError) as caught:
        Plan(Shape(1, 1), [range(10)], grows, plain("a.png"), **{**WIDE, "max_side": 65_500})
    assert (caught.value.kind, caught.value.value, asked) == ("side", 10**6, [0, 1, 2])


# ---- the peak ----


class Memory:
    """Counts the bytes of the arrays that are alive."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def made(self, array: Array, besides: int = 0) -> Array:
        self.now += array.nbytes
        weakref.finalize(array, self.freed, array.nbytes).atexit = False
        self.reaches(besides)
        return array

    def freed(self, count: int) -> None:
        self.now -= count

    def reaches(self, besides: int) -> None:
        self.most = max(self.most, self.now + besides)


def measured(source: Array, routes: Sequence[Sequence[Step]], workspace: int, encode: float, file: float) -> Any:
    """(what the plan says, what was held) of a run that encodes at these costs, as parts of the pixels' bytes."""
    memory = Memory()
    files = 0

    def counted(step: Step, shape: Shape) -> Grid | Window | Map | None:
        plain_effect = effect(step, shape)
        if not isinstance(plain_effect, Map):
            return plain_effect
        make = plain_effect.make
        return Map(plain_effect.shape, lambda array: memory.made(make(array), workspace), workspace)

    def cost(leaf: Leaf) -> tuple[int, int]:
        return int(leaf.shape.nbytes * encode), int(leaf.shape.nbytes * file)

    def emit(leaf: Leaf, array: Array) -> None:
        nonlocal files
        memory.reaches(files + cost(leaf)[0])
        files += cost(leaf)[1]
        memory.reaches(files)

    names = plain(*(f"{number}.png" for number in range(len(routes))))
    plan = Plan(shape_of(source), routes, counted, names, **WIDE)
    plan.run(lambda: memory.made(source.copy()), emit, nothing)
    return plan.peak(cost), memory.most


@CALM
@given(sources(), trees(), st.sampled_from([0, 7, 1000]), st.sampled_from([0.0, 1.5]), st.sampled_from([0.0, 0.5]))
def test_the_peak_is_never_less_than_what_is_held(
    source: Array, routes: Any, workspace: int, encode: float, file: float
) -> None:
    planned, most = measured(source, routes, workspace, encode, file)
    assert planned >= most


TYPICAL: dict[str, list[list[Step]]] = {
    "nothing": [[]],
    "one map": [[("halve",)]],
    "an enlargement": [[("double",)]],
    "a chain": [[("double",), ("invert",), ("halve",), ("gray",)]],
    "quadrants": [[("grid", 2, 2)]],
    "quadrants, each mapped": [[("grid", 2, 2), ("invert",)]],
    "mapped, then quadrants": [[("invert",), ("grid", 2, 2)]],
    "two renditions": [[("halve",)], [("halve",), ("halve",)]],
    "three renditions of a stem": [[("invert",), ("halve",)], [("invert",), ("turn",)], [("invert",), ("gray",)]],
    "tiles of an enlargement": [[("double",), ("grid", 3, 2), ("invert",)]],
}


@pytest.mark.parametrize("routes", TYPICAL.values(), ids=list(TYPICAL))
def test_the_peak_of_a_typical_plan_is_at_most_twice_what_is_held(routes: list[list[Step]]) -> None:
    planned, most = measured(noise(60, 80), routes, 0, 1.2, 0.1)
    assert most <= planned <= 2 * most


@pytest.mark.parametrize("kind", ["nothing", "one map", "an enlargement", "a chain", "two renditions"])
def test_the_peak_of_a_plan_without_splits_or_files_is_what_is_held(kind: str) -> None:
    planned, most = measured(noise(60, 80), TYPICAL[kind], 0, 1.2, 0)
    assert planned == most


def test_the_peak_counts_the_workspace_the_encoder_and_the_files() -> None:
    map_ = Map(Shape(10, 10), lambda array: array.copy(), 5000)
    plan = Plan(Shape(10, 10), [["a"], []], lambda step, shape: map_, plain("a.png", "b.png"), **WIDE)
    assert plan.peak(lambda leaf: (0, 0)) == 300 + 300 + 5000
    assert plan.peak(lambda leaf: (9000, 0)) == 300 + 9000
    assert plan.peak(lambda leaf: (9000, 40)) == 300 + 9000 + 80


def test_a_run_takes_from_the_allocator_what_the_peak_says() -> None:
    side = 1000
    routes: list[list[Step]] = [[("halve",)], [("invert",), ("grid", 2, 2), ("invert",)]]
    plan = Plan(Shape(side, side), routes, effect, plain("a.png", "b.png"), **WIDE)
    planned = plan.peak(lambda leaf: (leaf.shape.nbytes, leaf.shape.nbytes // 10))
    files: list[bytes] = []

    def emit(leaf: Leaf, array: Array) -> None:
        whole = array.tobytes()
        files.append(whole[: len(whole) // 10])

    tracemalloc.start()
    try:
        plan.run(lambda: np.ones((side, side, 3), np.uint8), emit, nothing)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most - 20_000 <= planned <= 2 * most  # 20 kB for what is no picture


# ---- the kernels ----

DEPTHS = [np.uint8, np.uint16]


@st.composite
def translucent(draw: st.DrawFn, dtype: type) -> Array:
    """(h, w, 4) of any values, often the extreme ones; a view whose rows lie apart, upside down at times."""
    top = int(np.iinfo(dtype).max)
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    values = st.one_of(st.sampled_from([0, 1, top - 1, top]), st.integers(0, top))
    array = draw(hnp.arrays(dtype, (height, width, 4), elements=values, fill=st.nothing()))
    around: Array = np.full((height + 2, width + 3, 4), 99, dtype)
    view = around[1 : height + 1, 2 : width + 2]
    view[:] = array
    return view[::-1] if draw(st.booleans()) else view


@CALM
@given(translucent(np.uint8))
def test_premultiplied_bytes_are_exact_products(array: Array) -> None:
    before = array.copy()
    result: Array = premultiply(array)
    wide = array.astype(np.int64)
    wanted = np.concatenate([wide[:, :, :3] * wide[:, :, 3:], wide[:, :, 3:] * 255], 2)
    assert result.dtype == np.uint16
    assert np.array_equal(result, wanted)
    assert np.array_equal(array, before)


@CALM
@given(translucent(np.uint16))
def test_premultiplied_words_are_products_to_single_precision(array: Array) -> None:
    before = array.copy()
    result: Array = premultiply(array)
    wide = array.astype(np.float64)
    wanted = np.concatenate([wide[:, :, :3] * wide[:, :, 3:] / 65535, wide[:, :, 3:]], 2)
    assert result.dtype == np.float32
    assert np.all(np.abs(result - wanted) <= wanted * 2.0**-22)
    assert np.array_equal(result[:, :, 3], wanted[:, :, 3])
    assert np.array_equal(array, before)


@pytest.mark.parametrize("dtype", DEPTHS)
@CALM
@given(data=st.data())
def test_straight_alpha_comes_back_exactly_and_what_was_transparent_as_zeros(data: Any, dtype: type) -> None:
    array = data.draw(translucent(dtype))
    result = unpremultiply(premultiply(array))
    assert result.dtype == dtype
    assert np.array_equal(result, np.where(array[:, :, 3:] > 0, array, 0))


def test_every_byte_under_every_alpha_comes_back_exactly() -> None:
    colours, alphas = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    array = np.stack([colours, colours[:, ::-1], np.full_like(colours, 255), alphas], 2)
    assert np.array_equal(unpremultiply(premultiply(array))[1:], array[1:])
    assert not unpremultiply(premultiply(array))[0].any()


def straightened(array: Array, top: int) -> Array:
    """Straight alpha in double precision, not rounded: (h, w, 4), 0 to top, of weights as `premultiply` gives them."""
    full = 65025.0 if array.dtype == np.uint16 else float(top)
    wide = array.astype(np.float64)
    alpha = np.clip(wide[:, :, 3:], 0, full)
    with np.errstate(divide="ignore", invalid="ignore"):
        # of weights in single precision what is over the range is not cut before the division
        colour = np.clip(wide[:, :, :3] * top / (alpha if array.dtype == np.uint16 else wide[:, :, 3:]), 0, top)
    return np.concatenate([colour, alpha * top / full], 2)


@CALM
@given(hnp.arrays(np.uint16, (2, 3, 4), elements=st.integers(0, 65535), fill=st.nothing()))
def test_weighted_bytes_are_divided_and_rounded_to_nearest(array: Array) -> None:
    result: Array = unpremultiply(array)
    wanted = straightened(array, 255)
    seen = wanted[:, :, 3] >= 0.5
    assert result.dtype == np.uint8
    assert np.all(np.abs(result[seen] - wanted[seen]) <= 0.5 + 1e-9)
    assert not result[~seen].any()


@CALM
@given(hnp.arrays(np.float32, (2, 3, 4), elements=st.floats(-9000, 80_000, width=32), fill=st.nothing()))
def test_weighted_words_are_divided_bounded_and_rounded_to_nearest(array: Array) -> None:
    result: Array = unpremultiply(array)
    wanted = straightened(array, 65535)
    seen = wanted[:, :, 3] >= 0.5
    assert result.dtype == np.uint16
    assert np.all(np.abs(result[seen] - wanted[seen]) <= 0.5 + 65535 * 2.0**-22)  # single precision
    assert not result[~seen].any()


@CALM
@given(hnp.arrays(np.float32, (2, 3, 4), elements=st.floats(-40, 400, width=32), fill=st.nothing()))
def test_weighted_bytes_in_single_precision_are_divided_likewise(array: Array) -> None:
    result: Array = unpremultiply(array, 1)
    wanted = straightened(array, 255)
    seen = wanted[:, :, 3] >= 0.5
    assert result.dtype == np.uint8
    assert np.all(np.abs(result[seen] - wanted[seen]) <= 0.5 + 255 * 2.0**-22)
    assert not result[~seen].any()


def test_every_byte_under_every_alpha_comes_back_exactly_from_single_precision() -> None:
    colours, alphas = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    array = np.stack([colours, colours[:, ::-1], np.full_like(colours, 255), alphas], 2)
    weights: Array = premultiply(array, True)
    assert weights.dtype == np.float32
    assert np.array_equal(unpremultiply(weights, 1)[1:], array[1:])


@pytest.mark.parametrize("dtype", DEPTHS)
def test_weights_of_a_view_of_rows_are_divided_like_those_of_its_copy(dtype: type) -> None:
    weights = premultiply(noise(9, 9, 4, dtype))
    view = weights[1:8:2, 2:7]
    assert np.array_equal(unpremultiply(view), unpremultiply(view.copy()))


@pytest.mark.parametrize("dtype", DEPTHS)
@CALM
@given(data=st.data())
def test_a_picture_is_opaque_if_no_pixel_lets_anything_through(data: Any, dtype: type) -> None:
    array = data.draw(translucent(dtype))
    top = np.iinfo(dtype).max
    assert is_opaque(array) is bool((array[:, :, 3] == top).all())
    array[:, :, 3] = top
    assert is_opaque(array) is True
    y, x = data.draw(st.integers(0, array.shape[0] - 1)), data.draw(st.integers(0, array.shape[1] - 1))
    array[y, x, 3] = data.draw(st.integers(0, top - 1))
    assert is_opaque(array) is False


Kernel = Callable[[Any], Any]
STRAIGHT: list[Kernel] = [premultiply, is_opaque]


@pytest.mark.parametrize("kernel", STRAIGHT)
@pytest.mark.parametrize("dtype", [np.int8, np.bool_, np.int16, np.uint32, np.float16, np.float32, np.float64, ">u2"])
def test_pixels_of_another_type_are_refused(kernel: Kernel, dtype: Any) -> None:
    with pytest.raises(ValueError, match=r"expected \(h, w, 4\) of uint8 or uint16, came \(2, 2, 4\)"):
        kernel(np.zeros((2, 2, 4), dtype))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.float16, np.float64, ">u2", ">f4"])
def test_weights_of_another_type_are_refused(dtype: Any) -> None:
    wrong: Any = np.zeros((2, 2, 4), dtype)
    with pytest.raises(ValueError, match=r"expected \(h, w, 4\) of uint16 or float32, came \(2, 2, 4\)"):
        unpremultiply(wrong)


@pytest.mark.parametrize("kernel", [*STRAIGHT, unpremultiply])
@pytest.mark.parametrize(
    "sides", [(2, 2, 3), (2, 2, 1), (2, 2, 5), (2, 4), (4,), (), (1, 2, 2, 4), (0, 2, 4), (2, 0, 4)]
)
def test_arrays_that_are_no_pictures_with_alpha_are_refused(kernel: Kernel, sides: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(h, w, 4\)"):
        kernel(np.zeros(sides, np.uint16))


@pytest.mark.parametrize("kernel", [*STRAIGHT, unpremultiply])
def test_pixels_that_do_not_lie_side_by_side_are_refused(kernel: Kernel) -> None:
    array = noise(6, 6, 4, np.uint16)
    apart = [
        array[:, ::2],
        array[:, ::-1],
        array[:, :, ::-1],
        array.transpose(1, 0, 2),
        noise(6, 6, 5, np.uint16)[:, :, :4],
        np.broadcast_to(array[:, :1], (6, 6, 4)),
        np.asfortranarray(array),
    ]
    for wrong in apart:
        with pytest.raises(ValueError, match="expected pixels that are contiguous within a row"):
            kernel(wrong)
    for fine in (array[::2], array[::-1], array[:, 1:4]):
        kernel(fine)


@pytest.mark.parametrize(
    ("kernel", "dtype"), [*((kernel, np.uint16) for kernel in (*STRAIGHT, unpremultiply)), (unpremultiply, np.float32)]
)
@pytest.mark.parametrize(("offset", "row"), [(1, 32), (0, 33)])
def test_samples_at_odd_addresses_are_refused(kernel: Kernel, dtype: Any, offset: int, row: int) -> None:
    size = np.dtype(dtype).itemsize
    array: Array = np.ndarray((2, 2, 4), dtype, bytes(100), offset, (row, 4 * size, size))
    with pytest.raises(ValueError, match="expected samples at addresses that are multiples of their size"):
        kernel(array)


@pytest.mark.parametrize("itemsize", [1, 2])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf, 3e38])
def test_weights_that_are_no_numbers_become_zero_or_full(value: float, itemsize: int) -> None:
    top = 255 if itemsize == 1 else 65535
    array: Array = np.full((1, 1, 4), value, np.float32)
    array[..., 3] = top
    colour = top if value > 0 else 0
    assert unpremultiply(array, itemsize).tolist() == [[[colour, colour, colour, top]]]
    array[..., :3], array[..., 3] = top, value
    assert unpremultiply(array, itemsize).tolist()[0][0][3] == (top if value > 0 else 0)


def test_read_only_pixels_are_taken() -> None:
    array = noise(3, 3, 4)
    array.flags.writeable = False
    assert np.array_equal(unpremultiply(premultiply(array))[array[:, :, 3] > 0], array[array[:, :, 3] > 0])
    assert is_opaque(array) is False


@pytest.fixture
def unyielding() -> Iterator[None]:
    """No thread loses the interpreter but by giving it up itself."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("unyielding")
@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("kernel", [premultiply, unpremultiply, is_opaque])
def test_other_threads_run_while_a_kernel_does(kernel: Kernel, dtype: type) -> None:
    array: Any = np.full((1500, 2000, 4), np.iinfo(dtype).max, dtype)
    if kernel is unpremultiply:
        array = premultiply(array)
    gate, ran = threading.Lock(), threading.Event()
    gate.acquire()

    def other() -> None:
        with gate:
            ran.set()

    thread = threading.Thread(target=other)
    thread.start()
    gate.release()
    waited = time.perf_counter() + 0.02
    while time.perf_counter() < waited:
        pass
    before = ran.is_set()
    for _ in range(200):
        kernel(array)
        if ran.is_set():
            break
    after = ran.is_set()
    thread.join()
    assert (before, after) == (False, True)
