"""Every operation: what its strings and objects mean, what is refused, and what becomes of pixels."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
import tracemalloc
from fractions import Fraction
from itertools import pairwise, product
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from falconimg import operations
from falconimg._core import Grid, Map, Shape, Window, premultiply
from falconimg.errors import Impossible
from falconimg.operations import (
    OPERATIONS,
    Blur,
    Crop,
    Flip,
    Gray,
    Operation,
    Resize,
    Rotate,
    Split,
    StepError,
    Tile,
    parse,
)

Array = Any  # (h, w, c), uint8 or uint16
Document = dict[str, Any]

DEPTHS = [np.uint8, np.uint16]
CALM = settings(deadline=None)  # a machine may be busy
GRAVITIES = ["n", "ne", "e", "se", "s", "sw", "w", "nw", "c"]


def noise(height: int, width: int, channels: int = 3, dtype: type = np.uint8) -> Array:
    top = np.iinfo(dtype).max
    return np.random.default_rng(height * 1000 + width).integers(0, top, (height, width, channels), dtype, True)


def strided(height: int, width: int, channels: int = 3, dtype: type = np.uint8) -> Array:
    """A picture that is a view, so that its rows lie apart."""
    return noise(height + 5, width + 7, channels, dtype)[2 : 2 + height, 3 : 3 + width]


def opaque(array: Array) -> Array:
    array[:, :, 3] = np.iinfo(array.dtype).max
    return array


def shape_of(array: Array) -> Shape:
    height, width, channels = array.shape
    return Shape(height, width, channels, array.itemsize)


def effect(step: str | Document, shape: Shape) -> tuple[Grid | Window | Map | None, list[str]]:
    """What a step does to a picture of that shape where it is to be precise, and the notes on it."""
    notes: list[str] = []
    return dataclasses.replace(parse(step), precise=True).effect(shape, notes.append), notes


def applied(step: str | Document, array: Array) -> Array:
    """The one picture that a step makes."""
    does, _ = effect(step, shape_of(array))
    if isinstance(does, Window):
        return array[does.top : does.top + does.height, does.left : does.left + does.width]
    if isinstance(does, Map):
        result = does.make(array)
        assert shape_of(result) == does.shape
        assert result.dtype == array.dtype
        return result
    assert does is None
    return array


def cells(step: str | Document, array: Array) -> list[Array]:
    """The pictures that a step cuts it into."""
    does, _ = effect(step, shape_of(array))
    assert isinstance(does, Grid)
    ys, xs = does.rows, does.columns
    return [array[y:b, x:r] for y, b in pairwise(ys) for x, r in pairwise(xs)]


def size(step: str | Document, height: int, width: int) -> tuple[int, int]:
    """(height, width) of the one picture that a step makes, without making it."""
    does, _ = effect(step, Shape(height, width))
    if isinstance(does, Map):
        return does.shape.height, does.shape.width
    if isinstance(does, Window):
        return does.height, does.width
    assert does is None
    return height, width


# ---- what is written, and what it means ----

PAIRS: list[tuple[str, Document, Operation]] = [
    ("resize=0.5", {"op": "resize", "factor": 0.5}, Resize(factor=0.5)),
    ("resize=2", {"op": "resize", "factor": 2}, Resize(factor=2)),
    ("resize=0.05", {"op": "resize", "factor": 0.05}, Resize(factor=0.05)),
    ("resize=1e2", {"op": "resize", "factor": 100}, Resize(factor=100)),
    ("resize=0.5,enlarge:no", {"op": "resize", "factor": 0.5, "enlarge": False}, Resize(factor=0.5, enlarge=False)),
    ("resize=800x600", {"op": "resize", "width": 800, "height": 600}, Resize(width=800, height=600)),
    ("resize=800x", {"op": "resize", "width": 800}, Resize(width=800)),
    ("resize=x600", {"op": "resize", "height": 600}, Resize(height=600)),
    ("resize=65500x1", {"op": "resize", "width": 65500, "height": 1}, Resize(width=65500, height=1)),
    ("resize=8x,enlarge:no", {"op": "resize", "width": 8, "enlarge": False}, Resize(width=8, enlarge=False)),
    ("resize=8x,enlarge:yes", {"op": "resize", "width": 8, "enlarge": True}, Resize(width=8)),
    *[
        (
            f"resize=8x6,fit:{fit}",
            {"op": "resize", "width": 8, "height": 6, "fit": fit},
            Resize(width=8, height=6, fit=fit),
        )
        for fit in ("stretch", "inside", "cover", "pad")
    ],
    *[
        (
            f"resize=8x6,fit:cover,gravity:{gravity}",
            {"op": "resize", "width": 8, "height": 6, "fit": "cover", "gravity": gravity},
            Resize(width=8, height=6, fit="cover", gravity=gravity),
        )
        for gravity in GRAVITIES
    ],
    (
        "resize=8x6,fit:pad,gravity:se,background:#ff000080",
        {"op": "resize", "width": 8, "height": 6, "fit": "pad", "gravity": "se", "background": "#ff000080"},
        Resize(width=8, height=6, fit="pad", gravity="se", background="#ff000080"),
    ),
    *[
        (f"resize=0.5,filter:{name}", {"op": "resize", "factor": 0.5, "filter": name}, Resize(factor=0.5, filter=name))
        for name in ("area", "linear", "cubic", "lanczos", "nearest")
    ],
    ("split", {"op": "split"}, Split(2, 2)),
    ("split=true", {"op": "split"}, Split(2, 2)),
    ("split=anything at all", {"op": "split"}, Split(2, 2)),
    ("split=0", {"op": "split"}, Split(2, 2)),
    ("split=", {"op": "split"}, Split(2, 2)),
    ("splitQuadrants", {"op": "split"}, Split(2, 2)),
    ("splitQuadrants=True", {"op": "split"}, Split(2, 2)),
    ("splitQuadrants=3x4", {"op": "split"}, Split(2, 2)),
    *[
        (f"{name}={value}", {"op": "split", "rows": 1, "columns": 1}, Split(1, 1))
        for name in ("split", "splitQuadrants")
        for value in ("None", "none", "NONE", "False", "false", "fAlSe")
    ],
    ("split=3x4", {"op": "split", "rows": 3, "columns": 4}, Split(3, 4)),
    ("split=64x1", {"op": "split", "rows": 64, "columns": 1}, Split(64, 1)),
    ("tile=256", {"op": "tile", "size": 256}, Tile(256)),
    ("blur=25", {"op": "blur", "kernel": 25}, Blur(25)),
    ("blur=25.0", {"op": "blur", "kernel": 25.0}, Blur(25)),
    ("blur=0", {"op": "blur", "kernel": 0}, Blur(0)),
    ("blur=1001", {"op": "blur", "kernel": 1001}, Blur(1001)),
    ("blur=9,sigma:1.5", {"op": "blur", "kernel": 9, "sigma": 1.5}, Blur(9, 1.5)),
    ("blur=0,sigma:200", {"op": "blur", "kernel": 0, "sigma": 200}, Blur(0, 200)),
    ("crop=8x6+1+2", {"op": "crop", "width": 8, "height": 6, "x": 1, "y": 2}, Crop(8, 6, 1, 2)),
    ("crop=8x6-1+2", {"op": "crop", "width": 8, "height": 6, "x": -1, "y": 2}, Crop(8, 6, -1, 2)),
    ("crop=8x6+0-2", {"op": "crop", "width": 8, "height": 6, "x": 0, "y": -2}, Crop(8, 6, 0, -2)),
    ("crop=8x6", {"op": "crop", "width": 8, "height": 6}, Crop(8, 6)),
    ("crop=8x6,gravity:sw", {"op": "crop", "width": 8, "height": 6, "gravity": "sw"}, Crop(8, 6, gravity="sw")),
    *[(f"rotate={angle}", {"op": "rotate", "angle": angle}, Rotate(angle)) for angle in (90, 180, 270)],
    ("flip=h", {"op": "flip", "axis": "h"}, Flip("h")),
    ("flip=v", {"op": "flip", "axis": "v"}, Flip("v")),
    ("gray", {"op": "gray"}, Gray()),
]


@pytest.mark.parametrize(("step", "document", "operation"), PAIRS, ids=[step for step, _, _ in PAIRS])
def test_a_string_and_an_object_mean_the_same_operation(step: str, document: Document, operation: Operation) -> None:
    assert parse(step) == operation
    assert parse(document) == operation
    assert hash(parse(step)) == hash(parse(document))
    values = dataclasses.asdict(parse(document))
    assert {
        type(value) for key, value in values.items() if key in ("kernel", "size", "rows", "width", "angle", "x")
    } <= {
        int,
        type(None),
    }


def test_every_argument_of_every_operation_is_among_the_pairs() -> None:
    shown = {(document["op"], key) for _, document, _ in PAIRS for key in document}
    assert shown == {(name, key) for name, one in OPERATIONS.items() for key in ("op", *one.properties)}


def test_an_operation_cannot_be_changed() -> None:
    operation: Any = parse("blur=25")
    with pytest.raises(dataclasses.FrozenInstanceError):
        operation.kernel = 5


def refused(step: str | Document) -> StepError:
    """The refusal of a step, each of whose places says in short what was expected and what came."""
    with pytest.raises(StepError) as caught:
        parse(step)
    checked(caught.value, isinstance(step, str))
    return caught.value


CAME = re.compile(r"expected .+(, came .+|, which is missing)")


def checked(error: StepError, written: bool) -> None:
    assert error.places
    for pointer, detail in error.places:
        assert CAME.search(detail), detail
        assert len(detail) < 300
        assert re.fullmatch(r"[ -~]+", detail)
        assert pointer == "" if written else re.fullmatch(r"(/[a-z]+)?", pointer)


VALUES: list[tuple[str | Document, str, str]] = [
    # the step, the place, the words
    ("resize=0.01", "", "resize: expected 0.05 to 100, came 0.01"),
    ("resize=0.0499999", "", "resize: expected 0.05 to 100, came 0.0499999"),
    ("resize=100.01", "", "resize: expected 0.05 to 100, came 100.01"),
    ("resize=-1", "", "resize: expected 0.05 to 100, came -1"),
    ("resize=1e300", "", "resize: expected 0.05 to 100, came 1e+300"),
    ("resize=0x6", "", "resize: expected a whole number from 1 to 65500, came 0"),
    ("resize=65501x", "", "resize: expected a whole number from 1 to 65500, came 65501"),
    ("split=0x2", "", "split: expected a whole number from 1 to 64, came 0"),
    ("split=2x65", "", "split: expected a whole number from 1 to 64, came 65"),
    ("tile=0", "", "tile: expected a whole number from 1 to 65500, came 0"),
    ("tile=65501", "", "tile: expected a whole number from 1 to 65500, came 65501"),
    ("blur=-1", "", "blur: expected a whole number from 0 to 1001, came -1"),
    ("blur=1002", "", "blur: expected a whole number from 0 to 1001, came 1002"),
    ("blur=3,sigma:0", "", "blur: sigma: expected over 0 and at most 200, came 0"),
    ("blur=3,sigma:200.5", "", "blur: sigma: expected over 0 and at most 200, came 200.5"),
    ("crop=0x6", "", "crop: expected a whole number from 1 to 65500, came 0"),
    ("crop=8x6+65501+0", "", "crop: expected a whole number from -65500 to 65500, came 65501"),
    ("rotate=45", "", "rotate: expected one of 90, 180, 270, came 45"),
    ("rotate=0", "", "rotate: expected one of 90, 180, 270, came 0"),
    ({"op": "resize", "factor": 0.01}, "/factor", "resize: expected 0.05 to 100, came 0.01"),
    ({"op": "resize", "width": 0}, "/width", "resize: expected a whole number from 1 to 65500, came 0"),
    ({"op": "blur", "kernel": 1002}, "/kernel", "blur: expected a whole number from 0 to 1001, came 1002"),
    ({"op": "blur", "kernel": 3, "sigma": 0}, "/sigma", "blur: expected over 0 and at most 200, came 0"),
]


@pytest.mark.parametrize(("step", "pointer", "words"), VALUES, ids=[str(step) for step, _, _ in VALUES])
def test_a_value_out_of_bounds_is_refused_as_that_alone(step: str | Document, pointer: str, words: str) -> None:
    error = refused(step)
    assert error.places == [(pointer, words)]
    assert error.bounds is True


FORMS: list[tuple[str | Document, str, str]] = [
    ("", "", 'expected name=value,key:value, came ""'),
    (
        "nosuch=1",
        "",
        'expected one of resize, split, splitQuadrants, tile, blur, crop, rotate, flip, gray, came "nosuch"',
    ),
    (
        "Resize=1",
        "",
        'expected one of resize, split, splitQuadrants, tile, blur, crop, rotate, flip, gray, came "Resize"',
    ),
    ("__class__=1", "", 'expected name=value,key:value, came "__class__=1"'),
    (" blur=3", "", 'expected name=value,key:value, came " blur=3"'),
    ("blur=3,", "", 'expected name=value,key:value, came "blur=3,"'),
    ("blur=3,sigma", "", 'expected name=value,key:value, came "blur=3,sigma"'),
    ("blur=3,sigma:", "", 'expected name=value,key:value, came "blur=3,sigma:"'),
    ("blur=3,,sigma:1", "", 'expected name=value,key:value, came "blur=3,,sigma:1"'),
    ("gray\n", "", r'expected name=value,key:value, came "gray\n"'),
    ("resize", "", 'resize: expected a factor, WxH, Wx or xH, came "resize"'),
    ("resize=", "", 'resize: expected a factor, WxH, Wx or xH, came "resize="'),
    ("resize=x", "", 'resize: expected a factor, WxH, Wx or xH, came "resize=x"'),
    ("resize=half", "", 'resize: expected a factor, WxH, Wx or xH, came "resize=half"'),
    ("resize=8X6", "", 'resize: expected a factor, WxH, Wx or xH, came "resize=8X6"'),
    ("resize=8x6x4", "", 'resize: expected a factor, WxH, Wx or xH, came "resize=8x6x4"'),
    ("resize=8.0x6", "", 'resize: expected a factor, WxH, Wx or xH, came "resize=8.0x6"'),
    ("resize=-8x6", "", 'resize: expected a factor, WxH, Wx or xH, came "resize=-8x6"'),
    ("resize=8x6\n", "", r'resize: expected a factor, WxH, Wx or xH, came "resize=8x6\n"'),
    ("resize=8x,fit:cover", "", 'resize: expected the key "height", which is missing'),
    ("resize=8x6,fit:crop", "", 'resize: fit: expected one of stretch, inside, cover, pad, came "crop"'),
    ("resize=8x6,enlarge:maybe", "", 'resize: expected yes or no, came "enlarge:maybe"'),
    ("resize=8x6,filter:box", "", 'resize: filter: expected one of area, linear, cubic, lanczos, nearest, came "box"'),
    ("resize=8x6,gravity:n", "", 'resize: expected the key "fit", which is missing'),
    ("resize=8x6,fit:inside,gravity:n", "", 'resize: fit: expected one of cover, pad, came "inside"'),
    ("resize=8x6,fit:cover,background:fff", "", 'resize: fit: expected pad, came "cover"'),
    (
        "resize=8x6,fit:pad,background:red",
        "",
        f'resize: background: expected {operations.CLEAR_COLOUR["x-expected"]}, came "red"',
    ),
    ("blur=3,size:3", "", 'blur: expected sigma, came "size:3"'),
    ("blur=3,kernel:5", "", 'blur: expected kernel once, came "kernel:5"'),
    ("blur=3,op:crop", "", 'blur: expected sigma, came "op:crop"'),
    ("blur=3,sigma:1,sigma:1", "", 'blur: expected sigma once, came "sigma:1"'),
    ("blur=3,sigma:wide", "", 'blur: expected a number, came "sigma:wide"'),
    ("blur=2.5", "", "blur: expected a whole number from 0 to 1001, came 2.5"),
    ("blur", "", 'blur: expected a number, came "blur"'),
    ("tile=2.5", "", "tile: expected a whole number from 1 to 65500, came 2.5"),
    ("tile=2x2", "", 'tile: expected a number, came "tile=2x2"'),
    ("split=2x2,rows:3", "", 'split: expected rows once, came "rows:3"'),
    ("crop", "", 'crop: expected WxH+X+Y or WxH, came "crop"'),
    ("crop=8x", "", 'crop: expected WxH+X+Y or WxH, came "crop=8x"'),
    ("crop=8x6+1", "", 'crop: expected WxH+X+Y or WxH, came "crop=8x6+1"'),
    ("crop=8x6+1+2,gravity:n", "", "crop: expected x and y, or gravity, came x and y and gravity"),
    ("crop=8x6,gravity:nn", "", 'crop: gravity: expected one of n, ne, e, se, s, sw, w, nw, c, came "nn"'),
    ("rotate=right", "", 'rotate: expected a number, came "rotate=right"'),
    ("flip", "", 'flip: expected one of h, v, came ""'),
    ("flip=x", "", 'flip: expected one of h, v, came "x"'),
    ("flip=h\n", "", r'flip: expected one of h, v, came "h\n"'),
    ("gray=", "", 'gray: expected no value, came "gray="'),
    ("gray=1", "", 'gray: expected no value, came "gray=1"'),
    ({}, "", 'expected the key "op", which is missing'),
    (
        {"op": "splitQuadrants"},
        "/op",
        'expected one of resize, split, tile, blur, crop, rotate, flip, gray, came "splitQuadrants"',
    ),
    (
        {"op": ["blur"]},
        "/op",
        "expected one of resize, split, tile, blur, crop, rotate, flip, gray, came an array of 1",
    ),
    ({"op": "blur"}, "", 'blur: expected the key "kernel", which is missing'),
    ({"op": "blur", "kernel": "3"}, "/kernel", 'blur: expected a whole number from 0 to 1001, came "3"'),
    ({"op": "blur", "kernel": True}, "/kernel", "blur: expected a whole number from 0 to 1001, came true"),
    ({"op": "blur", "kernel": 2.5}, "/kernel", "blur: expected a whole number from 0 to 1001, came 2.5"),
    (
        {"op": "blur", "kernel": 3, "sigma": None},
        "/sigma",
        "blur: expected a number, over 0 and at most 200, came null",
    ),
    (
        {"op": "blur", "kernel": 3, "radius": 1},
        "",
        'blur: expected one of the keys op, kernel, sigma, came "radius"',
    ),
    ({"op": "resize"}, "", "resize: expected a factor, or width, height or both, came none"),
    (
        {"op": "resize", "factor": 2, "width": 8},
        "",
        "resize: expected a factor, or width, height or both, came factor and width",
    ),
    (
        {"op": "resize", "factor": 2, "height": 8},
        "",
        "resize: expected a factor, or width, height or both, came factor and height",
    ),
    ({"op": "resize", "factor": True}, "/factor", "resize: expected a number, 0.05 to 100, came true"),
    ({"op": "resize", "width": 8, "enlarge": "no"}, "/enlarge", 'resize: expected true or false, came "no"'),
    ({"op": "split", "rows": 2}, "", "split: expected both or none of rows and columns, came rows alone"),
    ({"op": "crop", "width": 8, "height": 6, "x": 1}, "", "crop: expected both or none of x and y, came x alone"),
    ({"op": "gray", "value": {}}, "", 'gray: expected one of the keys op, came "value"'),
]


@pytest.mark.parametrize(("step", "pointer", "words"), FORMS, ids=[str(step) for step, _, _ in FORMS])
def test_another_form_is_refused_in_words_and_is_no_matter_of_bounds(
    step: str | Document, pointer: str, words: str
) -> None:
    error = refused(step)
    assert error.places == [(pointer, words)]
    assert error.bounds is False


def test_a_value_out_of_bounds_beside_another_fault_is_no_matter_of_bounds_alone() -> None:
    for step in ({"op": "blur", "kernel": 1002, "sigma": "x"}, {"op": "blur", "kernel": 1002, "radius": 1}):
        error = refused(step)
        assert error.bounds is False
        assert len(error.places) == 2
    assert refused({"op": "blur", "kernel": 1002, "sigma": 0}).bounds is True


WRONG_NUMBERS = [
    "1_0", "٢٥", "१", "２５", "²", "½", "inf", "-inf", "infinity", "nan", "NaN", "1e400", "-1e400", ".5", "5.", "5.e1",  # noqa: RUF001
    "1e", "e5", "1e5.0", "0xf", "0b1", " 5", "5 ", "5\n", "\n5", "5\r", "5\0", "+-5", "--5", "1.5.2", "1e+-5", "five",
    "5;", "5:1", "9" * 41, "0." + "1" * 39,
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG_NUMBERS, ids=ascii)
@pytest.mark.parametrize("step", ["resize={}", "blur={}", "blur=5,sigma:{}", "tile={}", "rotate={}"])
def test_what_is_no_finite_number_in_ascii_digits_is_refused(step: str, text: str) -> None:
    assert refused(step.format(text)).bounds is False


@pytest.mark.parametrize(
    "text", ["25", "+25", "025", "25.0", "2.5e1", "2.5E+1", "250e-1", "0.25e+02", "25" + "." + "0" * 37]
)
def test_a_number_may_be_written_with_sign_fraction_and_exponent(text: str) -> None:
    assert parse(f"blur={text}") == Blur(25)
    assert parse(f"resize={text}") == Resize(factor=25)
    assert parse(f"tile={text}") == Tile(25)


@CALM
@given(st.floats(0.05, 100))
def test_a_factor_is_the_double_that_its_digits_mean(factor: float) -> None:
    operation = parse(f"resize={factor!r}")
    assert isinstance(operation, Resize)
    assert operation.factor == factor


@pytest.mark.parametrize(
    ("text", "rgba"),
    [
        ("white", (255, 255, 255, 255)),
        ("black", (0, 0, 0, 255)),
        ("transparent", (0, 0, 0, 0)),
        ("f80", (255, 136, 0, 255)),
        ("#f80", (255, 136, 0, 255)),
        ("0180fF", (1, 128, 255, 255)),
        ("#0180ff", (1, 128, 255, 255)),
        ("0180ff7f", (1, 128, 255, 127)),
    ],
)
def test_a_colour_is_read_as_red_green_blue_and_alpha(text: str, rgba: tuple[int, ...]) -> None:
    assert operations.colour(text) == rgba
    assert parse(f"resize=8x6,fit:pad,background:{text}") == Resize(width=8, height=6, fit="pad", background=text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "White",
        "ff",
        "ffff",
        "fffffff",
        "#",
        "##fff",
        "ggg",
        "fff\n",
        "white\n",
        "\N{FULLWIDTH LATIN SMALL LETTER F}ff",
    ],
)
def test_what_is_no_colour_is_refused(text: str) -> None:
    document = {"op": "resize", "width": 8, "height": 6, "fit": "pad", "background": text}
    assert [place.pointer for place in refused(document).places] == ["/background"]


@pytest.mark.parametrize(
    ("text", "opaque", "clear"),
    [
        ("white", True, True),
        ("black", True, True),
        ("transparent", False, True),
        ("f80", True, True),
        ("#0180ff", True, True),
        ("#0180ff7f", False, True),
        ("fff\n", False, False),
        ("whites", False, False),
        ("fffff", False, False),
    ],
)
def test_a_colour_with_alpha_is_taken_only_where_there_is_alpha(text: str, opaque: bool, clear: bool) -> None:
    assert Draft202012Validator(operations.COLOUR).is_valid(text) is opaque
    assert Draft202012Validator(operations.CLEAR_COLOUR).is_valid(text) is clear


@pytest.mark.parametrize(
    "step",
    [
        "resize=" + "9" * 10_000,
        "é" * 10_000,
        "\0" * 500,
        "resize=\ud800",
        "blur=3,sigma:" + "\x1b[31m" * 50,
        "flip=" + "\N{PILE OF POO}" * 5_000,
        {"op": "x" * 10_000},
        {"op": {"x": "y" * 10_000}},
        {"op": "flip", "axis": '"\\\n' * 5_000},
        {"op": "gray", "é" * 1_000: 1},
        {"op": "blur", "kernel": 10**39, "sigma": [1] * 1_000},
        {"op": "resize", "width": 8, "height": 6, "fit": "pad", "background": "\N{PILE OF POO}" * 1_000},
    ],
    ids=range(12),
)
def test_a_long_or_strange_step_is_refused_in_short_printable_ascii(step: str | Document) -> None:
    assert len(refused(step).places) >= 1


NAMES = ["resize", "split", "splitQuadrants", "tile", "blur", "crop", "rotate", "flip", "gray"]
FRAGMENTS = [
    "=",
    ",",
    ":",
    "x",
    "+",
    "-",
    ".",
    "e",
    "0",
    "1",
    "25",
    "64",
    "none",
    "fit",
    "sigma",
    "pad",
    "h",
    "\n",
    "é",
]


@CALM
@given(
    st.one_of(
        st.text(),
        st.builds("{}={}".format, st.sampled_from(NAMES), st.text(max_size=12)),
        st.builds("{}{}".format, st.sampled_from(NAMES), st.lists(st.sampled_from(FRAGMENTS)).map("".join)),
        st.from_regex(r"(resize|blur|crop)=[0-9]{1,5}(x[0-9]{0,5})?([+-][0-9]+){0,2}(,(fit|sigma|gravity):[a-z0-9]+)*"),
    )
)
def test_any_text_is_an_operation_or_is_refused_in_words(text: str) -> None:
    try:
        assert isinstance(parse(text), Operation)
    except StepError as error:
        checked(error, written=True)


def valid(schema: Document) -> st.SearchStrategy[Any]:
    """Values that one argument's schema takes, as a rule."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema["type"] == "integer":
        return st.integers(schema["minimum"], schema["maximum"])
    if schema["type"] == "number":
        return st.floats(schema.get("minimum", 0.001), schema["maximum"])
    if schema["type"] == "boolean":
        return st.booleans()
    return st.sampled_from(["white", "transparent", "#fff", "00ff00", "00ff0080"])


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, 1, 64, 65, 1001, 1002, 65500, 65501, -65500, 0.05, 0.0499, 100, 100.5, 25.0, 200, 200.5, 2.5]),
    st.sampled_from(
        ["", "h", "pad", "cover", "stretch", "nw", "area", "white", "#ffff", "white\n", "c\n", "25", "yes"]
    ),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)
KEYS = sorted({key for one in OPERATIONS.values() for key in one.properties} | {"op", "value"})


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Objects that are nearly valid steps, and often quite."""
    operation = OPERATIONS[draw(st.sampled_from(sorted(OPERATIONS)))]
    keys = draw(st.sets(st.sampled_from([*operation.properties, "value"]))) if operation.properties else set()
    if draw(st.booleans()):
        keys |= set(operation.required)
    strange = draw(st.sampled_from([0, 0, 0, 1, 2]))
    document = {
        key: draw(valid(operation.properties[key]) if key in operation.properties else ODD) for key in sorted(keys)
    }
    document |= draw(st.dictionaries(st.sampled_from(KEYS), ODD, max_size=strange))
    return {"op": operation.name, **document} if draw(st.integers(0, 9)) else document


def accepted(document: Document) -> bool:
    try:
        parse(document)
    except StepError:
        return False
    return True


WHOLE = Draft202012Validator(
    {"components": {"schemas": operations.schemas()}, "$ref": "#/components/schemas/Operation"}
)


@settings(CALM, max_examples=300)
@given(documents())
def test_the_published_schema_takes_exactly_the_objects_that_are_taken(document: Document) -> None:
    assert WHOLE.is_valid(document) is accepted(document)


@pytest.mark.parametrize("document", [document for _, document, _ in PAIRS], ids=str)
def test_the_published_schema_takes_every_object_form(document: Document) -> None:
    assert WHOLE.is_valid(document)


@pytest.mark.parametrize("step", [step for step, _, _ in PAIRS])
def test_the_published_schema_takes_every_string_form(step: str) -> None:
    assert WHOLE.is_valid(step)


@pytest.mark.parametrize("value", ["", "gray\n", "blur=3,", " blur", 5, None, True, [], {}, ["gray"]])
def test_the_published_schema_refuses_what_is_no_step(value: object) -> None:
    assert not WHOLE.is_valid(value)


@CALM
@given(st.one_of(documents(), st.dictionaries(st.one_of(st.text(max_size=9), st.sampled_from(KEYS)), ODD, max_size=5)))
def test_any_object_is_the_operation_that_it_says_or_is_refused_in_words(document: Document) -> None:
    try:
        operation = parse(document)
    except StepError as error:
        checked(error, written=False)
    else:
        assert OPERATIONS[document["op"]] is type(operation)
        assert all(getattr(operation, key) == value for key, value in document.items() if key != "op")


def objects(name: str, *required: str, optional: tuple[str, ...] = (), **fixed: object) -> st.SearchStrategy[Document]:
    """Objects of an operation with these arguments, all valid."""
    values = {key: valid(schema) for key, schema in OPERATIONS[name].properties.items()}
    return st.fixed_dictionaries(
        {"op": st.just(name), **{key: values[key] for key in required}, **{k: st.just(v) for k, v in fixed.items()}},
        optional={key: values[key] for key in optional},
    )


FREE = ("enlarge", "filter")
VALID = st.one_of(
    objects("resize", "factor", optional=FREE),
    objects("resize", "width", optional=FREE),
    objects("resize", "height", optional=FREE),
    objects("resize", "width", "height", optional=(*FREE, "fit")),
    objects("resize", "width", "height", optional=(*FREE, "gravity"), fit="cover"),
    objects("resize", "width", "height", optional=(*FREE, "gravity", "background"), fit="pad"),
    objects("split"),
    objects("split", "rows", "columns"),
    objects("tile", "size"),
    objects("blur", "kernel", optional=("sigma",)),
    objects("crop", "width", "height", optional=("gravity",)),
    objects("crop", "width", "height", "x", "y"),
    objects("rotate", "angle"),
    objects("flip", "axis"),
    objects("gray"),
)


def written(document: Document) -> str:
    """A valid object as a string."""
    rest = dict(document)
    step = name = str(rest.pop("op"))
    if "factor" in rest:
        step += f"={rest.pop('factor')}"
    elif name in ("resize", "crop"):
        step += f"={rest.pop('width', '')}x{rest.pop('height', '')}"
        if "x" in rest:
            step += f"{rest.pop('x'):+}{rest.pop('y'):+}"
    elif "rows" in rest:
        step += f"={rest.pop('rows')}x{rest.pop('columns')}"
    elif OPERATIONS[name].required:
        step += f"={rest.pop(OPERATIONS[name].required[0])}"
    words = {True: "yes", False: "no"}
    return step + "".join(f",{key}:{words[v] if isinstance(v, bool) else v}" for key, v in rest.items())


@CALM
@given(VALID)
def test_every_valid_object_is_taken_and_can_be_written_as_a_string(document: Document) -> None:
    assert WHOLE.is_valid(document)
    assert WHOLE.is_valid(written(document))
    assert parse(written(document)) == parse(document)


def test_parsing_leaves_the_document_and_gives_the_same_every_time() -> None:
    for step, document, operation in PAIRS:
        before = copy.deepcopy(document)
        assert parse(document) == parse(document) == parse(step) == parse(step) == operation
        assert document == before
    for wrong, _, _ in FORMS + VALUES:
        first, second = refused(wrong), refused(wrong)
        assert (first.places, first.bounds) == (second.places, second.bounds)


# ---- the contract of every operation ----


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=list(OPERATIONS))
def test_every_operation_says_what_it_is(operation: type[Operation]) -> None:
    assert OPERATIONS[operation.name] is operation
    assert operation.forms
    assert all(form.step and form.object and form.meaning for form in operation.forms)
    assert operation.name in operation.forms[0].step
    assert json.loads(re.sub(r"\b[FKSWHXY]\b", "1", operation.forms[0].object))["op"] == operation.name
    assert set(operation.properties) == {field.name for field in dataclasses.fields(operation)} - {"precise"}
    assert set(operation.required) <= set(operation.properties)
    schema = operation.schema()
    Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    assert all(form.meaning in schema["description"] for form in operation.forms)


def test_the_published_schemas_are_valid_and_plain_json() -> None:
    published = operations.schemas()
    assert list(published) == ["Operation", *(one.__name__ for one in OPERATIONS.values())]
    for schema in published.values():
        Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(published)) == published


def test_the_published_patterns_are_those_of_json_schema_and_not_pythons_own() -> None:
    def patterns(value: object) -> list[str]:
        if isinstance(value, dict):
            found = [value["pattern"]] if isinstance(value.get("pattern"), str) else []
            return found + [one for item in value.values() for one in patterns(item)]
        return [one for item in value for one in patterns(item)] if isinstance(value, list) else []

    found = patterns([operations.schemas(), operations.COLOUR])
    assert len(found) == 3  # a step, and a colour with and without alpha
    assert not [one for one in found if re.search(r"\\[AZ]|\(\?[P<#aiLmsux-]", one)]


CONTRACT: dict[str, list[str]] = {
    "resize": [
        "resize=0.5", "resize=2.3", "resize=1", "resize=9x3", "resize=3x9", "resize=4x", "resize=x4",
        "resize=9x4,fit:inside", "resize=9x4,fit:cover", "resize=9x4,fit:pad", "resize=3x2,fit:pad,gravity:se",
        "resize=9x9,fit:pad,enlarge:no,background:f80", "resize=9x2,fit:cover,enlarge:no,gravity:nw",
        *(f"resize=9x3,filter:{name}" for name in ("area", "linear", "cubic", "lanczos", "nearest")),
    ],
    "split": ["split", "split=none", "split=1x2", "split=3x2"],
    "tile": ["tile=1", "tile=3", "tile=100"],
    "blur": ["blur=0", "blur=1", "blur=3", "blur=24", "blur=1001", "blur=5,sigma:2", "blur=0,sigma:0.1"],
    "crop": ["crop=3x2", "crop=3x2+0+0", "crop=9x9-2-2", "crop=1x1+4+6", "crop=2x2,gravity:se"],
    "rotate": ["rotate=90", "rotate=180", "rotate=270"],
    "flip": ["flip=h", "flip=v"],
    "gray": ["gray"],
}  # fmt: skip
# Of these sizes what the contract's steps do not allow.
IMPOSSIBLE = {
    ("split", 1, 1), ("split", 1, 7), ("split", 7, 1), ("split=1x2", 1, 1), ("split=1x2", 7, 1), ("split=3x2", 1, 1),
    ("split=3x2", 1, 7), ("split=3x2", 7, 1), ("crop=1x1+4+6", 1, 1), ("crop=1x1+4+6", 1, 7), ("crop=1x1+4+6", 7, 1),
}  # fmt: skip


def test_every_operation_is_held_to_the_contract() -> None:
    assert list(CONTRACT) == list(OPERATIONS)


@pytest.mark.parametrize("step", [step for steps in CONTRACT.values() for step in steps])
def test_an_effect_says_what_its_pixels_will_be_and_leaves_the_picture_as_it_was(step: str) -> None:
    for (height, width), channels, dtype in product(((1, 1), (1, 7), (7, 1), (7, 5)), (1, 3, 4), DEPTHS):
        array = strided(height, width, channels, dtype)
        before = array.copy()
        if (step, height, width) in IMPOSSIBLE:
            with pytest.raises(Impossible):
                effect(step, shape_of(array))
            continue
        does, notes = effect(step, shape_of(array))
        again, same = effect(step, shape_of(array))
        assert (notes, type(does)) == (same, type(again))
        if isinstance(does, Map) and isinstance(again, Map):
            made = does.make(array)
            assert made.shape == (does.shape.height, does.shape.width, does.shape.channels)
            assert made.dtype == array.dtype
            assert does.shape == again.shape
            assert made[0].flags.c_contiguous
            assert np.array_equal(made, again.make(array.copy()))
            assert not np.shares_memory(made, array)
        elif isinstance(does, Grid):
            for cuts, side in ((does.rows, height), (does.columns, width)):
                assert (cuts[0], cuts[-1]) == (0, side)
                assert list(cuts) == sorted(set(cuts))
        elif isinstance(does, Window):
            assert 0 <= does.top < does.top + does.height <= height
            assert 0 <= does.left < does.left + does.width <= width
        assert np.array_equal(array, before)


LARGE = [
    "resize=0.5", "resize=2.3", "resize=900x100", "resize=100x900", "resize=900x400,fit:inside",
    "resize=900x400,fit:cover", "resize=100x90,fit:cover", "resize=900x400,fit:pad",
    "resize=900x90,fit:pad", "resize=900x401,fit:pad,enlarge:no",
    *(f"resize=900x300,filter:{name}" for name in ("area", "linear", "cubic", "lanczos", "nearest")),
    "blur=0", "blur=25", "blur=5,sigma:2", "rotate=90", "rotate=180", "rotate=270", "flip=h", "flip=v", "gray",
]  # fmt: skip


@pytest.mark.parametrize("step", LARGE)
def test_a_map_takes_no_more_memory_than_it_says(step: str) -> None:
    for channels, dtype in product((1, 3, 4), DEPTHS):
        array = strided(200, 310, channels, dtype)
        does, _ = effect(step, shape_of(array))
        if does is None:
            assert (step, channels) == ("gray", 1)
            continue
        assert isinstance(does, Map)
        tracemalloc.start()
        try:
            does.make(array)
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert most <= does.shape.nbytes + does.workspace + 20_000  # 20 kB for what is no picture


def test_opencv_uses_one_thread() -> None:
    assert cv2.getNumThreads() == 1


# ---- resize: sizes ----


def half_up(value: Fraction) -> int:
    return max(1, math.floor(value + Fraction(1, 2)))


SIDES = st.integers(1, 5000)


@CALM
@given(SIDES, SIDES, st.floats(0.05, 100))
@example(100, 200, 0.29)
@example(1, 19, 0.05)
def test_a_factors_sides_are_those_of_the_double_precision_product_cut_off(
    height: int, width: int, factor: float
) -> None:
    wanted = tuple(max(1, math.floor(np.float64(side) * np.float64(factor))) for side in (height, width))
    assert size({"op": "resize", "factor": factor}, height, width) == wanted
    assert size(f"resize={factor!r}", height, width) == wanted
    smaller = wanted if factor <= 1 else (height, width)
    assert size(f"resize={factor!r},enlarge:no", height, width) == smaller


@pytest.mark.parametrize(
    ("step", "source", "wanted"),
    [
        ("resize=0.29", (100, 200), (28, 57)),  # 0.29 * 100 is 28.999999999999996
        ("resize=0.05", (1, 1), (1, 1)),
        ("resize=0.05", (19, 40), (1, 2)),
        ("resize=100", (1, 3), (100, 300)),
        ("resize=8x6", (100, 200), (6, 8)),
        ("resize=3x", (5, 2), (8, 3)),  # 7.5
        ("resize=3x", (3, 2), (5, 3)),  # 4.5
        ("resize=x3", (2, 5), (3, 8)),
        ("resize=1x", (1, 65500), (1, 1)),
        ("resize=300x,enlarge:no", (100, 200), (100, 200)),
        ("resize=x50,enlarge:no", (100, 200), (50, 100)),
        ("resize=300x50,enlarge:no", (100, 200), (50, 200)),
        ("resize=100x100,fit:inside", (100, 200), (50, 100)),
        ("resize=100x100,fit:inside", (200, 100), (100, 50)),
        ("resize=400x400,fit:inside", (100, 200), (200, 400)),
        ("resize=400x400,fit:inside,enlarge:no", (100, 200), (100, 200)),
        ("resize=400x50,fit:inside,enlarge:no", (100, 200), (50, 100)),
        ("resize=100x100,fit:cover", (100, 200), (100, 100)),
        ("resize=400x400,fit:cover", (100, 200), (400, 400)),
        ("resize=400x400,fit:cover,enlarge:no", (100, 200), (100, 200)),
        ("resize=150x400,fit:cover,enlarge:no", (100, 200), (100, 150)),
        ("resize=400x400,fit:pad", (100, 200), (400, 400)),
        ("resize=400x400,fit:pad,enlarge:no", (100, 200), (400, 400)),
    ],
)
def test_a_resized_picture_has_these_sides(step: str, source: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert size(step, *source) == wanted


@CALM
@given(SIDES, SIDES, SIDES, st.booleans())
def test_one_given_side_keeps_the_aspect_rounded_half_up(height: int, width: int, side: int, enlarge: bool) -> None:
    given_width = side if enlarge else min(side, width)
    given_height = side if enlarge else min(side, height)
    more = {"op": "resize", "enlarge": enlarge}
    assert size({**more, "width": side}, height, width) == (half_up(Fraction(height * given_width, width)), given_width)
    assert size({**more, "height": side}, height, width) == (
        given_height,
        half_up(Fraction(width * given_height, height)),
    )


def inside(height: int, width: int, box: tuple[int, int], enlarge: bool) -> tuple[int, int]:
    """The model: the largest size of the aspect that fits into a box of (height, width)."""
    scale = min(Fraction(box[0], height), Fraction(box[1], width))
    scale = scale if enlarge else min(scale, Fraction(1))
    return half_up(height * scale), half_up(width * scale)


@CALM
@given(SIDES, SIDES, SIDES, SIDES, st.booleans())
def test_a_picture_fitted_inside_is_the_largest_of_its_aspect(
    h: int, w: int, height: int, width: int, grow: bool
) -> None:
    step = {"op": "resize", "width": width, "height": height, "fit": "inside", "enlarge": grow}
    assert size(step, h, w) == inside(h, w, (height, width), grow)
    assert all(side <= bound for side, bound in zip(size(step, h, w), (height, width), strict=True))


@CALM
@given(SIDES, SIDES, SIDES, SIDES, st.booleans())
def test_other_fits_give_the_sides_that_were_asked_for(h: int, w: int, height: int, width: int, grow: bool) -> None:
    step = {"op": "resize", "width": width, "height": height, "enlarge": grow}
    bounded = (height, width) if grow else (min(h, height), min(w, width))
    assert size(step, h, w) == bounded
    assert size({**step, "fit": "cover"}, h, w) == bounded
    assert size({**step, "fit": "pad"}, h, w) == (height, width)


@pytest.mark.parametrize(
    "step",
    [
        "resize=1", "resize=8x6", "resize=8x", "resize=x6", "resize=9x,enlarge:no", "resize=5,enlarge:no",
        "resize=8x6,fit:inside", "resize=80x6,fit:inside", "resize=8x6,fit:cover", "resize=8x6,fit:pad",
        "resize=8x6,filter:lanczos", "blur=1", "blur=1,sigma:5", "crop=8x6", "crop=8x6+0+0", "crop=99x99", "split=none",
    ],
)  # fmt: skip
def test_what_would_change_nothing_gives_the_picture_itself(step: str) -> None:
    array = noise(6, 8, 4)
    assert not isinstance(effect(step, shape_of(array))[0], Map)
    result = applied(step, array)
    assert (result.ctypes.data, result.shape, result.strides) == (array.ctypes.data, array.shape, array.strides)


# ---- resize: pixels ----

INTERPOLATIONS = {
    "area": cv2.INTER_AREA,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
    "nearest": cv2.INTER_NEAREST,
}


def by_opencv(array: Array, height: int, width: int, filter_: str) -> Array:
    if array.shape[:2] == (height, width):
        return array
    result: Array = cv2.resize(array, (width, height), interpolation=INTERPOLATIONS[filter_])
    return result.reshape(height, width, array.shape[2])


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("view", [False, True])
def test_resized_pixels_are_opencvs_bit_for_bit(channels: int, dtype: type, view: bool) -> None:
    array = strided(40, 30, channels, dtype)
    array = array if view else array.copy()
    if channels == 4:
        opaque(array)
    for step, height, width, filter_ in [
        ("resize=0.5", 20, 15, "area"),
        ("resize=0.37", 14, 11, "area"),
        ("resize=7x", 9, 7, "area"),
        ("resize=30x13", 13, 30, "area"),
        ("resize=2", 80, 60, "cubic"),
        ("resize=1.3", 52, 39, "cubic"),
        ("resize=x77", 77, 58, "cubic"),
        ("resize=30x41", 41, 30, "cubic"),
        *((f"resize=19x17,filter:{name}", 17, 19, name) for name in INTERPOLATIONS),
        *((f"resize=61x83,filter:{name}", 83, 61, name) for name in INTERPOLATIONS),
        *((f"resize=61x13,filter:{name}", 13, 61, name) for name in INTERPOLATIONS),
    ]:
        assert np.array_equal(applied(step, array), by_opencv(array, height, width, filter_)), step


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("channels", [1, 3])
def test_where_one_side_shrinks_and_the_other_grows_area_comes_before_cubic(channels: int, dtype: type) -> None:
    array = strided(40, 30, channels, dtype)
    flat = by_opencv(by_opencv(array, 13, 30, "area"), 13, 61, "cubic")
    assert np.array_equal(applied("resize=61x13", array), flat)
    tall = by_opencv(by_opencv(array, 40, 9, "area"), 91, 9, "cubic")
    assert np.array_equal(applied("resize=9x91", array), tall)


@pytest.mark.parametrize("dtype", DEPTHS)
def test_halving_takes_the_mean_of_four_pixels(dtype: type) -> None:
    array = noise(12, 16, 3, dtype)
    means = array.astype(np.float64).reshape(6, 2, 8, 2, 3).mean((1, 3))
    assert np.abs(applied("resize=0.5", array) - means).max() <= 0.5


def test_enlarging_makes_no_blocks() -> None:
    ramp: Array = np.repeat(np.arange(0, 250, 10, dtype=np.uint8)[np.newaxis, :, np.newaxis], 5, axis=0)
    row = applied("resize=8", ramp)[20, :, 0].astype(int)
    assert len(set(row.tolist())) > 150
    assert np.abs(np.diff(row)).max() <= 3


def place(outer: int, inner: int, gravity: str, first: str, last: str) -> int:
    """Where the smaller side begins: at 0 towards `first`, at the end towards `last`, else in the middle."""
    return 0 if first in gravity else outer - inner if last in gravity else (outer - inner) // 2


@pytest.mark.parametrize("gravity", GRAVITIES)
@pytest.mark.parametrize("enlarge", [True, False])
@pytest.mark.parametrize(("height", "width"), [(20, 20), (10, 39), (50, 7), (60, 90), (13, 100), (31, 17), (10, 8)])
def test_cover_cuts_the_largest_part_of_the_aspect_where_gravity_says(
    gravity: str, enlarge: bool, height: int, width: int
) -> None:
    array = strided(31, 40)
    result = applied(f"resize={width}x{height},fit:cover,gravity:{gravity},enlarge:{'yes' if enlarge else 'no'}", array)
    if not enlarge:
        height, width = min(height, 31), min(width, 40)
    scale = max(Fraction(height, 31), Fraction(width, 40))
    kept_height, kept_width = min(31, half_up(height / scale)), min(40, half_up(width / scale))
    top, left = place(31, kept_height, gravity, "n", "s"), place(40, kept_width, gravity, "w", "e")
    part = array[top : top + kept_height, left : left + kept_width]
    filter_ = "cubic" if height > kept_height or width > kept_width else "area"
    assert np.array_equal(result, by_opencv(part, height, width, filter_))


def test_cover_without_a_change_of_scale_is_a_view() -> None:
    array = noise(30, 40)
    result = applied("resize=30x30,fit:cover", array)
    assert np.array_equal(result, array[:, 5:35])
    assert np.shares_memory(result, array)


@pytest.mark.parametrize("gravity", GRAVITIES)
@pytest.mark.parametrize("enlarge", [True, False])
@pytest.mark.parametrize(("height", "width"), [(20, 20), (10, 39), (50, 7), (60, 90), (31, 47), (40, 40)])
def test_pad_puts_the_picture_where_gravity_says_and_the_background_around_it(
    gravity: str, enlarge: bool, height: int, width: int
) -> None:
    array = strided(31, 40)
    more = f"gravity:{gravity},enlarge:{'yes' if enlarge else 'no'},background:0a141e"
    result = applied(f"resize={width}x{height},fit:pad,{more}", array)
    inner_height, inner_width = inside(31, 40, (height, width), enlarge)
    top, left = place(height, inner_height, gravity, "n", "s"), place(width, inner_width, gravity, "w", "e")
    wanted: Array = np.full((height, width, 3), (30, 20, 10), np.uint8)
    wanted[top : top + inner_height, left : left + inner_width] = by_opencv(
        array, inner_height, inner_width, "cubic" if inner_height > 31 else "area"
    )
    assert np.array_equal(result, wanted)


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize(
    ("channels", "background", "pixel"),
    [
        (1, "", [255]),
        (1, ",background:black", [0]),
        (1, ",background:808080", [128]),
        (1, ",background:ff0000", [76]),
        (1, ",background:00ff00", [150]),
        (1, ",background:0000ff", [29]),
        (3, "", [255, 255, 255]),
        (3, ",background:#102030", [0x30, 0x20, 0x10]),
        (3, ",background:10203000", [0x30, 0x20, 0x10, 0]),
        (3, ",background:transparent", [0, 0, 0, 0]),
        (1, ",background:10203080", [0x30, 0x20, 0x10, 0x80]),
        (4, "", [0, 0, 0, 0]),
        (4, ",background:transparent", [0, 0, 0, 0]),
        (4, ",background:white", [255, 255, 255, 255]),
        (4, ",background:10203040", [0x30, 0x20, 0x10, 0x40]),
    ],
)
def test_the_background_is_of_the_pictures_kind_and_white_or_transparent_by_default(
    channels: int, background: str, pixel: list[int], dtype: type
) -> None:
    array = noise(4, 4, channels, dtype)
    result = applied(f"resize=8x4,fit:pad,gravity:w{background}", array)
    assert result.shape[2] == len(pixel)
    if len(pixel) == channels:
        assert np.array_equal(result[:, :4], array)
    else:  # a background that is not opaque gives the picture alpha
        assert np.array_equal(result[:, :4, :3], np.broadcast_to(array, (4, 4, 3)))
        assert (result[:, :4, 3] == np.iinfo(dtype).max).all()
    scale = 257 if dtype == np.uint16 else 1
    assert np.array_equal(result[:, 4:], np.broadcast_to(np.array(pixel) * scale, (4, 4, len(pixel))))


def test_a_picture_that_fills_its_frame_gets_no_alpha() -> None:
    array = noise(4, 8)
    assert applied("resize=4x2,fit:pad,background:transparent", array).shape == (2, 4, 3)


def test_a_gray_picture_on_a_coloured_background_gets_a_note() -> None:
    said: list[str] = []
    for background in ("white", "808080", "ff0000"):
        parse(f"resize=8x4,fit:pad,background:{background}").effect(Shape(4, 4, 1), said.append)
    assert said == ["background ff0000 became gray, as the picture is"]


# ---- blur ----


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    ("step", "kernel", "sigma"),
    [
        *((f"blur={kernel}", kernel, 0) for kernel in (3, 5, 9, 25, 101, 1001)),
        *((f"blur={kernel}", kernel + 1, 0) for kernel in (2, 4, 24, 1000)),
        ("blur=0", 0, 4),
        ("blur=0,sigma:1.5", 0, 1.5),
        ("blur=0,sigma:20", 0, 20),
        ("blur=9,sigma:1.5", 9, 1.5),
        ("blur=8,sigma:30", 9, 30),
    ],
)
def test_blurred_pixels_of_a_small_picture_are_opencvs_bit_for_bit(
    step: str, kernel: int, sigma: float, channels: int, dtype: type
) -> None:
    array = strided(33, 27, channels, dtype)
    if channels == 4:
        opaque(array)
    wanted: Array = cv2.GaussianBlur(array.copy(), (kernel, kernel), sigma)
    assert np.array_equal(applied(step, array), wanted.reshape(array.shape))


def test_sigma_comes_from_the_kernel_and_not_from_a_constant() -> None:
    array = noise(60, 60)
    for kernel in (11, 25, 51):
        wanted: Array = cv2.GaussianBlur(array, (kernel, kernel), 0.3 * ((kernel - 1) / 2 - 1) + 0.8)
        assert np.array_equal(applied(f"blur={kernel}", array), wanted)
    assert np.ptp(applied("blur=51", array)) < np.ptp(applied("blur=25", array)) < np.ptp(applied("blur=11", array))


def test_a_blurred_view_does_not_see_the_pixels_around_it() -> None:
    array = noise(40, 40)
    view = array[10:30, 8:31]
    wanted = applied("blur=15", view.copy())
    array[:10], array[30:], array[:, :8], array[:, 31:] = 0, 255, 0, 255
    assert np.array_equal(applied("blur=15", view), wanted)


@pytest.mark.parametrize(
    ("step", "notes"),
    [
        ("blur=24", ["kernel 24 is even, 25 used"]),
        ("blur=1000,sigma:3", ["kernel 1000 is even, 1001 used"]),
        ("blur=25", []),
        ("blur=1", []),
        ("blur=0", []),
        ("resize=2", []),
        ("gray", []),
    ],
)
def test_an_even_kernel_is_noted_and_nothing_else(step: str, notes: list[str]) -> None:
    assert parse(step).notes() == notes
    assert effect(step, Shape(5, 5))[1] == []


# ---- alpha ----


def weighted(array: Array) -> Array:
    """Premultiplied, in double precision."""
    wide = array.astype(np.float64)
    return np.concatenate([wide[:, :, :3] * wide[:, :, 3:] / np.iinfo(array.dtype).max, wide[:, :, 3:]], 2)


def straight(weights: Array, dtype: type) -> Array:
    """Back to straight alpha, in double precision; zeros where the alpha rounds to nothing."""
    top = float(np.iinfo(dtype).max)
    alpha = np.clip(weights[:, :, 3:], 0, top)
    with np.errstate(divide="ignore", invalid="ignore"):
        colour = np.clip(weights[:, :, :3] * top / weights[:, :, 3:], 0, top)
    return np.where(alpha < 0.5, 0, np.concatenate([colour, alpha], 2))


def gaussian(weights: Array, kernel: int, sigma: float) -> Array:
    """A Gaussian over rows and columns, reflected at the edge, the edge pixel once."""
    at = np.arange(kernel) - kernel // 2
    factors = np.exp(-(at**2) / (2 * sigma**2))
    factors /= factors.sum()
    for axis in (0, 1):
        pads = [(0, 0)] * 3
        pads[axis] = (kernel // 2, kernel // 2)
        padded = np.pad(weights, pads, "reflect")
        side = weights.shape[axis]
        slices = [np.take(padded, range(i, i + side), axis) * factor for i, factor in enumerate(factors)]
        weights = np.sum(slices, axis=0)
    return weights


def means(weights: Array, factor: int) -> Array:
    height, width, channels = weights.shape
    return weights.reshape(height // factor, factor, width // factor, factor, channels).mean((1, 3))


def translucent(height: int, width: int, dtype: type) -> Array:
    """Noise under noise, a third of it transparent and a third opaque."""
    array = strided(height, width, 4, dtype)
    top = np.iinfo(dtype).max
    kind = np.random.default_rng(1).integers(0, 3, (height, width))
    array[:, :, 3] = np.choose(kind, [0, array[:, :, 3], top])
    return array


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("rest", ["noise", "nothing but alpha between"])
@pytest.mark.parametrize(
    ("step", "model"),
    [
        ("resize=0.5", lambda weights: means(weights, 2)),
        ("resize=0.25", lambda weights: means(weights, 4)),
        ("resize=83x97", lambda weights: cv2.resize(weights, (83, 97), interpolation=cv2.INTER_CUBIC)),
        ("resize=31x19,filter:linear", lambda weights: cv2.resize(weights, (31, 19), interpolation=cv2.INTER_LINEAR)),
        ("blur=11", lambda weights: gaussian(weights, 11, 0.3 * (5 - 1) + 0.8)),
        ("blur=24", lambda weights: gaussian(weights, 25, 0.3 * (12 - 1) + 0.8)),
        ("blur=15,sigma:2", lambda weights: gaussian(weights, 15, 2)),
        ("blur=0", lambda weights: gaussian(weights, 33, 4)),
    ],
)
def test_translucent_pictures_are_filtered_by_weight(step: str, model: Any, rest: str, dtype: type) -> None:
    array = translucent(40, 48, dtype) if rest == "noise" else strided(40, 48, 4, dtype)
    top = float(np.iinfo(dtype).max)
    result = applied(step, array).astype(np.float64)
    wanted = straight(model(weighted(array)), dtype)
    seen = np.abs(result[:, :, :3] * result[:, :, 3:] - wanted[:, :, :3] * wanted[:, :, 3:]) / top
    assert np.abs(result[:, :, 3] - wanted[:, :, 3]).max() <= 1
    assert seen.max() <= 1
    # and the colours themselves, where they are worth more than a sixteenth
    solid = wanted[:, :, 3] >= top / 16
    assert np.abs(result - wanted)[solid].max() <= (1 if dtype == np.uint8 else 2)


FRINGED = [
    "resize=0.37", "resize=2.6", "resize=19x70", "resize=70x19", "blur=7", "blur=24", "blur=0", "blur=0,sigma:9",
    "resize=50x50,fit:cover", "resize=70x50,fit:pad",
    *(f"resize=31x33,filter:{name}" for name in ("area", "linear", "cubic", "lanczos")),
    *(f"resize=71x73,filter:{name}" for name in ("area", "linear", "cubic", "lanczos")),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("step", FRINGED)
def test_white_on_transparent_black_stays_white_wherever_it_is_seen(step: str, dtype: type) -> None:
    array: Array = np.zeros((40, 40, 4), dtype)
    array[9:30, 11:28] = top = np.iinfo(dtype).max
    result = applied(step, array)
    seen = result[:, :, 3] > 0
    assert (result[seen][:, :3] == top).all()
    assert not result[~seen].any()
    partly = seen & (result[:, :, 3] < top)
    assert partly.any()


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("step", FRINGED)
def test_one_colour_stays_itself_wherever_it_is_seen_even_where_a_filter_overshoots(step: str, dtype: type) -> None:
    array: Array = np.zeros((40, 40, 4), dtype)
    top = np.iinfo(dtype).max
    colour: Array = np.array([top // 2, top // 3, top // 5, top], dtype)
    array[9:30, 11:28] = colour
    result = applied(step, array).astype(np.int64)
    solid = result[:, :, 3] >= top // 8
    assert np.abs(result[solid][:, :3] - colour[:3].astype(np.int64)).max() <= 1


def test_the_nearest_filter_takes_pixels_as_they_are_alpha_or_not() -> None:
    array = translucent(20, 20, np.uint8)
    assert np.array_equal(applied("resize=40x40,filter:nearest", array), array.repeat(2, 0).repeat(2, 1))


def test_padding_does_not_touch_the_colours_under_transparent_pixels() -> None:
    array = translucent(20, 20, np.uint8)
    assert np.array_equal(applied("resize=30x20,fit:pad", array)[:, 5:25], array)


def test_a_picture_without_alpha_is_not_weighted() -> None:
    array = translucent(20, 20, np.uint8)
    blurred: Array = cv2.GaussianBlur(array[:, :, :3].copy(), (9, 9), 0)
    assert np.array_equal(applied("blur=9", np.ascontiguousarray(array[:, :, :3])), blurred)
    assert not np.array_equal(applied("blur=9", array)[:, :, :3], blurred)
    assert premultiply(array).dtype == np.uint16


# ---- crop, rotate, flip, gray ----


@CALM
@given(st.tuples(*[st.integers(1, 12)] * 4), st.integers(-14, 14), st.integers(-14, 14))
def test_a_crop_is_the_part_of_the_rectangle_that_is_there(sides: tuple[int, ...], x: int, y: int) -> None:
    height, width, kept_height, kept_width = sides
    array = noise(height, width)
    step = f"crop={kept_width}x{kept_height}{x:+}{y:+}"
    rows = [row for row in range(y, y + kept_height) if 0 <= row < height]
    columns = [column for column in range(x, x + kept_width) if 0 <= column < width]
    if not rows or not columns:
        with pytest.raises(Impossible, match=f"^crop: nothing of a picture of {width} x {height} lies inside$"):
            effect(step, shape_of(array))
        return
    result = applied(step, array)
    assert np.array_equal(result, array[np.ix_(rows, columns)])
    assert np.shares_memory(result, array)
    clipped = (len(rows), len(columns)) != (kept_height, kept_width)
    note = (
        f"crop reaches beyond a picture of {width} x {height}, "
        f"{len(columns)} x {len(rows)} at {columns[0]}, {rows[0]} was cut out"
    )
    assert effect(step, shape_of(array))[1] == [note] * clipped


@pytest.mark.parametrize("gravity", [*GRAVITIES, None])
@pytest.mark.parametrize(("height", "width"), [(3, 5), (7, 10), (4, 30), (30, 3), (30, 30), (1, 1)])
def test_a_crop_lies_where_gravity_says_and_in_the_centre_by_default(
    gravity: str | None, height: int, width: int
) -> None:
    array = noise(8, 11)
    step = f"crop={width}x{height}" + (f",gravity:{gravity}" if gravity else "")
    kept_height, kept_width = min(8, height), min(11, width)
    top = place(8, kept_height, gravity or "c", "n", "s")
    left = place(11, kept_width, gravity or "c", "w", "e")
    assert np.array_equal(applied(step, array), array[top : top + kept_height, left : left + kept_width])
    assert len(effect(step, shape_of(array))[1]) == (height > 8 or width > 11)


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 6), (6, 1), (5, 8), (64, 48)])
def test_turns_and_mirrors_are_exact(height: int, width: int, channels: int, dtype: type) -> None:
    array = strided(height, width, channels, dtype)
    for quarters in (1, 2, 3):
        assert np.array_equal(applied(f"rotate={90 * quarters}", array), np.rot90(array, -quarters))
    assert np.array_equal(applied("flip=h", array), array[:, ::-1])
    assert np.array_equal(applied("flip=v", array), array[::-1])


def test_a_quarter_turn_is_clockwise() -> None:
    array: Array = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    assert applied("rotate=90", array)[:, :, 0].tolist() == [[3, 0], [4, 1], [5, 2]]


@pytest.mark.parametrize("dtype", DEPTHS)
def test_gray_is_opencvs_luma_and_keeps_alpha(dtype: type) -> None:
    array = strided(9, 13, 4, dtype)
    luma: Array = cv2.cvtColor(np.ascontiguousarray(array[:, :, :3]), cv2.COLOR_BGR2GRAY)
    coloured = applied("gray", np.ascontiguousarray(array[:, :, :3]))
    assert np.array_equal(coloured[:, :, 0], luma)
    with_alpha = applied("gray", array)
    assert np.array_equal(with_alpha, np.dstack([luma, luma, luma, array[:, :, 3]]))
    bt601 = array[:, :, :3].astype(np.float64) @ [0.114, 0.587, 0.299]
    assert np.abs(luma - bt601).max() <= (0.51 if dtype == np.uint8 else 1.5)


def test_a_gray_picture_stays_as_it_is() -> None:
    assert effect("gray", Shape(3, 3, 1))[0] is None


# ---- split and tile ----


@pytest.mark.parametrize(("height", "width"), [(2, 2), (3, 3), (7, 10), (40, 41)])
def test_a_split_gives_the_quadrants_from_left_top_to_right_bottom(height: int, width: int) -> None:
    array = noise(height, width)
    y, x = height // 2, width // 2
    quadrants = [array[:y, :x], array[:y, x:], array[y:, :x], array[y:, x:]]
    for step in ("split", "split=true", "splitQuadrants=1", "split=2x2", "splitQuadrants=9x9"):
        assert [part.tolist() for part in cells(step, array)] == [part.tolist() for part in quadrants]


def test_rows_by_columns_give_the_extra_pixels_to_the_right_and_the_bottom() -> None:
    array = noise(8, 11)
    rows, columns = [(0, 2), (2, 5), (5, 8)], [(0, 2), (2, 5), (5, 8), (8, 11)]
    wanted = [array[top:bottom, left:right].tolist() for top, bottom in rows for left, right in columns]
    assert [part.tolist() for part in cells("split=3x4", array)] == wanted
    assert [part.shape[:2] for part in cells("split=1x11", array)] == [(8, 1)] * 11


@pytest.mark.parametrize("value", ["None", "none", "NONE", "false", "False", "FALSE"])
@pytest.mark.parametrize("name", ["split", "splitQuadrants"])
def test_none_and_false_split_nothing_in_any_case(name: str, value: str) -> None:
    assert effect(f"{name}={value}", Shape(1, 1))[0] is None
    assert effect(f"{name}={value}", Shape(9, 9))[0] is None


@pytest.mark.parametrize(
    ("step", "height", "width", "words"),
    [
        ("split", 1, 1, "2 rows by 2 columns of a picture of 1 x 1"),
        ("split", 1, 5, "2 rows by 2 columns of a picture of 5 x 1"),
        ("split", 5, 1, "2 rows by 2 columns of a picture of 1 x 5"),
        ("split=3x1", 2, 9, "3 rows by 1 columns of a picture of 9 x 2"),
        ("split=1x64", 9, 63, "1 rows by 64 columns of a picture of 63 x 9"),
    ],
)
def test_a_split_that_would_leave_a_part_without_pixels_is_impossible(
    step: str, height: int, width: int, words: str
) -> None:
    with pytest.raises(Impossible, match=f"^split: {words} would leave a part without pixels$"):
        effect(step, Shape(height, width))
    assert type(parse(step)).skippable


def test_only_splits_are_left_out_where_they_are_impossible() -> None:
    assert [name for name, one in OPERATIONS.items() if one.skippable] == ["split"]


@CALM
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 40))
def test_tiles_are_squares_but_for_the_last_row_and_column(height: int, width: int, side: int) -> None:
    array = noise(height, width)
    tiles = cells(f"tile={side}", array)
    wanted = [array[y : y + side, x : x + side] for y in range(0, height, side) for x in range(0, width, side)]
    assert [tile.tolist() for tile in tiles] == [tile.tolist() for tile in wanted]
