"""The operations: one class each, with its names, arguments, bounds, effect and words; OPERATIONS at the foot.

A step comes as a string, `name=value,key:value,...`, or as an object, `{"op": name, ...}`;
`parse` makes the same frozen object of both. A class's JSON Schema says what its
arguments are; it validates requests and stands in OpenAPI. Its `forms` are README's
table. `effect` answers, for a picture's shape, what the plan is to do: see native/_core.pyx.

For those who build a form of it (the page at `/` does), the schema also says:
`x-forms`, the ways to write the step, each with a title and a template of its
string; of an argument `x-start`, the value a form starts with (of one that may be
left out, what leaving it out means), `x-slider`, (low, high, step) of the usual
values, `x-labels`, words for its `enum`, `x-unit` and `x-colour`; `x-frame`, that its
arguments are a frame on the picture; `x-parts`, that it makes several of one; and
`x-still`, which steps leave what they show where it was, relative to the sides.

A new operation is one class here and its row in OPERATIONS.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from typing import Any, ClassVar, Literal, NamedTuple

import cv2
import numpy as np

from falconimg._core import Grid, Map, Shape, Window, edges
from falconimg.errors import Impossible, Place
from falconimg.filters import FILTERS, Array, blur_workspace, blurred, resize_workspace, resized, shrinks
from falconimg.planes import Planes, bgr
from falconimg.schema import Schema, Validator, came, out_of_bounds, places

Effect = Grid | Window | Map | None
Notice = Callable[[str], None]

# Where the smaller of two rectangles lies: 0 at the start, 1 centred, 2 at the end, as (down, across).
GRAVITIES = {
    "n": (0, 1), "ne": (0, 2), "e": (1, 2), "se": (2, 2), "s": (2, 1), "sw": (2, 0), "w": (1, 0), "nw": (0, 0),
    "c": (1, 1),
}  # fmt: skip
TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
COLOURS = {"white": "ffffff", "black": "000000", "transparent": "00000000"}

NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
MOST_CHARACTERS = 1000  # of a step as a string; what is read is kept for the next time
STEP = re.compile(r"([A-Za-z]+)(=([^,]*)((,[a-z]+:[^,]+)*))?", re.ASCII)

SIDE: Schema = {"type": "integer", "minimum": 1, "maximum": 65500, "x-unit": "px"}
OFFSET: Schema = {"type": "integer", "minimum": -65500, "maximum": 65500, "x-unit": "px", "x-start": 0}
GRAVITY: Schema = {
    "type": "string",
    "enum": list(GRAVITIES),
    "x-labels": ["top", "top right", "right", "bottom right", "bottom", "bottom left", "left", "top left", "centre"],
    "x-start": "c",
}
COLOUR: Schema = {
    "type": "string",
    "pattern": r"^(white|black|#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6}))(?!\n)$",
    "x-colour": True,
    "x-expected": "a colour: white, black, RGB or RRGGBB in hexadecimal digits, with or without #",
}
CLEAR_COLOUR: Schema = {
    "type": "string",
    "pattern": r"^(white|black|transparent|#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8}))(?!\n)$",
    "x-colour": True,
    "x-expected": "a colour: white, black, transparent, RGB, RRGGBB or RRGGBBAA in hexadecimal digits",
}


class StepError(Exception):
    """A step that is refused: `places` are relative to the step; `bounds` says that only a value is out of bounds."""

    def __init__(self, places: list[Place], bounds: bool = False) -> None:
        super().__init__(places)
        self.places = places
        self.bounds = bounds


class Form(NamedTuple):
    """A row of the documentation: how the step is written, its object, and what it means."""

    step: str
    object: str
    meaning: str


@dataclass(frozen=True)
class Operation(ABC):
    """One operation with its arguments."""

    precise: bool = field(default=False, kw_only=True)  # no approximation for speed: the request says so, not the step

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    forms: ClassVar[tuple[Form, ...]]
    properties: ClassVar[Mapping[str, Schema]]
    required: ClassVar[tuple[str, ...]] = ()
    rules: ClassVar[Schema] = {}  # JSON Schema keywords that tie several arguments together
    writings: ClassVar[Mapping[str, str]] = {}  # template of the string, by title; else the name and what is required
    parts: ClassVar[Literal["one", "fixed", "varying"]] = (
        "one"  # pictures it makes of one: does that vary with its size?
    )
    planes: ClassVar[bool] = False  # its Map takes Planes as well as arrays
    skippable: ClassVar[bool] = False  # where it is impossible, and the request says to skip, it is left out

    @classmethod
    @abstractmethod
    def read(cls, value: str | None, name: str) -> dict[str, Any]:
        """The arguments that a string's value means; ValueError with what was expected if it means none."""

    @abstractmethod
    def effect(self, shape: Shape, notice: Notice) -> Effect:
        """What it does to a picture of that shape; `notice` takes what goes otherwise than asked.

        Raises:
            Impossible: this picture does not allow it
        """

    def notes(self) -> list[str]:
        """What goes otherwise than asked whatever the picture is."""
        return []

    @classmethod
    def schema(cls) -> Schema:
        """The JSON Schema of the object form, with what a form of it is built from."""
        value = "=" * bool(cls.required) + "x".join(f"{{{key}}}" for key in cls.required)
        writings = cls.writings or {cls.name.capitalize(): cls.name + value}
        return {
            "type": "object",
            "title": cls.name.capitalize(),
            "description": " ".join(f"`{form.step}`: {form.meaning}." for form in cls.forms),
            "properties": {"op": {"const": cls.name}, **cls.properties},
            "required": ["op", *cls.required],
            "additionalProperties": False,
            "x-forms": [{"title": title, "step": step} for title, step in writings.items()],
            **({"x-parts": cls.parts} if cls.parts != "one" else {}),
            **cls.rules,
        }


def number(text: str) -> float:
    """A number as a step writes it: ASCII digits, finite."""
    if len(text) > 40 or not NUMBER.fullmatch(text) or abs(value := float(text)) == float("inf"):
        raise ValueError("expected a number")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def colour(text: str) -> tuple[int, int, int, int]:
    """(R, G, B, A), each 0 to 255, of a colour that the schemas above take."""
    digits = COLOURS.get(text, text.removeprefix("#"))
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    red, green, blue, alpha = bytes.fromhex(digits.ljust(8, "f"))
    return red, green, blue, alpha


def affirmed(value: str | None) -> bool:
    """The original's truth: any value but None, none and false, in any case."""
    return value is None or value.lower() not in ("none", "false")


def placed(outer: tuple[int, int], inner: tuple[int, int], gravity: str) -> tuple[int, int]:
    """(top, left) of an inner (height, width) in an outer one."""
    down, across = ((o - i) * g // 2 for o, i, g in zip(outer, inner, GRAVITIES[gravity], strict=True))
    return down, across


def rounded(numerator: int, denominator: int) -> int:
    """A positive quotient rounded half up, at least 1."""
    return max(1, (2 * numerator + denominator) // (2 * denominator))


@dataclass(frozen=True)
class Resize(Operation):
    """Another size, by a factor or to given sides."""

    factor: float | None = None
    width: int | None = None
    height: int | None = None
    fit: str = "stretch"
    gravity: str = "c"
    background: str | None = None
    enlarge: bool = True
    filter: str | None = None

    name = "resize"
    planes = True
    forms = (
        Form(
            "resize=F", '{"op": "resize", "factor": F}',
            "both sides times F, 0.05 to 100; a new side is max(1, int(side × F))",
        ),
        Form(
            "resize=WxH, resize=Wx, resize=xH", "width, height",
            "exact size, or one side with the aspect kept (rounded half up, at least 1)",
        ),
        Form(
            "… ,fit:", "fit",
            "with both sides: stretch (default), inside, cover (cut to size, centred; gravity: n ne e se s sw w nw c), "
            "pad (background: a colour, transparent or RRGGBBAA; default white, with alpha transparent)",
        ),
        Form("… ,enlarge:no", "enlarge", "the picture never larger than it was; pad still fills its frame"),
        Form(
            "… ,filter:", "filter",
            "area, linear, cubic, lanczos, nearest; default area when shrinking, cubic when enlarging",
        ),
    )  # fmt: skip
    writings: ClassVar = {
        "Factor": "resize={factor}",
        "Sides": "resize={width}x{height}",
        "Width": "resize={width}x",
        "Height": "resize=x{height}",
    }
    properties: ClassVar = {
        "factor": {"type": "number", "minimum": 0.05, "maximum": 100, "x-start": 0.5, "x-slider": [0.05, 2, 0.05]},
        "width": {**SIDE, "x-start": 800, "x-slider": [16, 4096, 16]},
        "height": {**SIDE, "x-start": 600, "x-slider": [16, 4096, 16]},
        "fit": {"type": "string", "enum": ["stretch", "inside", "cover", "pad"], "x-start": "stretch"},
        "gravity": GRAVITY,
        "background": CLEAR_COLOUR,
        "enlarge": {"type": "boolean", "x-start": True},
        "filter": {"type": "string", "enum": list(FILTERS)},
    }
    rules: ClassVar = {
        "x-still": {"properties": {"fit": {"enum": ["stretch", "inside"]}}},
        "oneOf": [
            {"required": ["factor"], "not": {"anyOf": [{"required": [k]} for k in ("width", "height")]}},
            {"required": ["width"], "not": {"required": ["factor"]}},
            {"required": ["height"], "not": {"anyOf": [{"required": [k]} for k in ("factor", "width")]}},
        ],
        "dependentSchemas": {
            "fit": {"required": ["width", "height"]},
            "gravity": {"properties": {"fit": {"enum": ["cover", "pad"]}}, "required": ["fit"]},
            "background": {"properties": {"fit": {"enum": ["pad"]}}, "required": ["fit"]},
        },
        "x-alternatives": "a factor, or width, height or both",
    }

    @classmethod
    def read(cls, value: str | None, name: str) -> dict[str, Any]:
        sides = re.fullmatch(r"([0-9]{0,9})x([0-9]{0,9})", value or "", re.ASCII)
        if sides and value != "x":
            return {key: int(side) for key, side in zip(("width", "height"), sides.groups(), strict=True) if side}
        try:
            return {"factor": number(value or "")}
        except ValueError:
            raise ValueError("expected a factor, WxH, Wx or xH") from None

    def target(self, shape: Shape) -> tuple[int, int]:
        """(height, width) that a picture of that shape gets; for `pad`, that of the picture inside."""
        height, width = self.height, self.width
        if not self.enlarge:
            height, width = height and min(height, shape.height), width and min(width, shape.width)
        if height and width:
            return _inside(shape, height, width) if self.fit in ("inside", "pad") else (height, width)
        if width:
            return rounded(shape.height * width, shape.width), width
        if height:
            return height, rounded(shape.width * height, shape.height)
        factor = self.factor or 1.0
        if not self.enlarge:
            factor = min(factor, 1.0)
        return max(1, int(shape.height * factor)), max(1, int(shape.width * factor))

    def effect(self, shape: Shape, notice: Notice) -> Effect:
        height, width = self.target(shape)
        inner = shape.resized(height, width)
        workspace = resize_workspace(shape, inner)
        if self.fit == "pad":
            canvas = self._canvas(inner, notice)
            make = partial(_padded, source=shape, inner=inner, canvas=canvas, settings=self)
            needs = self._needs(shape, shape, inner)
            return None if canvas == shape else Map(canvas, make, inner.nbytes + workspace, needs)
        window: Shape | Window = shape
        if self.fit == "cover":
            window = self._covered(shape, height, width)
            if (window.height, window.width) == (height, width):
                return window
        if inner == shape:
            return None
        make = partial(_resized, source=shape, window=window, inner=inner, settings=self)
        needs = self._needs(shape, window, inner)
        return Map(inner, make, workspace, needs, needs is not None and self.fit != "cover")

    def _needs(self, shape: Shape, seen: Shape | Window, inner: Shape) -> tuple[int, int] | None:
        """The least (height, width) of the picture that makes `inner` of what is seen of it; None if none smaller."""
        if self.precise or not shrinks(seen.height, seen.width, inner.height, inner.width, self.filter):
            return None
        if isinstance(seen, Window) and (shape.channels == 4 or shape.itemsize == 2):
            return None  # a window's fractions are for `averages`
        return -(-shape.height * inner.height // seen.height), -(-shape.width * inner.width // seen.width)

    def _canvas(self, inner: Shape, notice: Notice) -> Shape:
        """The shape of the padded picture: a background that is not opaque gives it alpha."""
        canvas = inner.resized(self.height or inner.height, self.width or inner.width)
        if canvas == inner:
            return canvas
        red, green, blue, alpha = colour(self.background or "white")
        if inner.channels == 1 and alpha == 255 and not red == green == blue:
            notice(f"background {self.background} became gray, as the picture is")
        return Shape(canvas.height, canvas.width, 4 if alpha < 255 else inner.channels, inner.itemsize)

    def _covered(self, shape: Shape, height: int, width: int) -> Window:
        """The part of the picture that has the target's aspect, as large as it can be."""
        if shape.width * height >= shape.height * width:
            kept = shape.height, min(shape.width, rounded(shape.height * width, height))
        else:
            kept = min(shape.height, rounded(shape.width * height, width)), shape.width
        return Window(*placed((shape.height, shape.width), kept, self.gravity), *kept)


def _inside(shape: Shape, height: int, width: int) -> tuple[int, int]:
    """The largest (height, width) of the picture's aspect within the given sides."""
    if shape.width * height >= shape.height * width:
        return rounded(shape.height * width, shape.width), width
    return height, rounded(shape.width * height, shape.height)


def _resized(
    array: Array,
    extent: tuple[float, float] | None = None,
    *,
    source: Shape,
    window: Window | Shape,
    inner: Shape,
    settings: Resize,
) -> Array:
    """A window of the source in the array, which may be a smaller version of it that has so many rows and columns."""
    height, width = extent or array.shape[:2]
    down, across = height / source.height, width / source.width
    top, left = (0, 0) if isinstance(window, Shape) else (window.top * down, window.left * across)
    # multiplied first: a quotient of whole numbers is never rounded to below the result's whole side
    seen = top, left, window.height * height / source.height, window.width * width / source.width
    smooth = (down, across) != (1, 1)
    return resized(array, seen, inner.width, inner.height, settings.filter, settings.precise, smooth)


def _padded(
    array: Array,
    extent: tuple[float, float] | None = None,
    *,
    source: Shape,
    inner: Shape,
    canvas: Shape,
    settings: Resize,
) -> Array:
    red, green, blue, alpha = colour(settings.background or ("transparent" if canvas.channels == 4 else "white"))
    fill = [blue, green, red, alpha][: canvas.channels]
    if canvas.channels == 1:
        fill = [round(0.299 * red + 0.587 * green + 0.114 * blue)]  # ITU-R BT.601, as cv2.cvtColor weighs them
    result = np.empty((canvas.height, canvas.width, canvas.channels), array.dtype)
    result[:] = np.array(fill, array.dtype) * (257 if canvas.itemsize == 2 else 1)
    if inner != source:
        array = _resized(array, extent, source=source, window=source, inner=inner, settings=settings)
    array = bgr(array)
    top, left = placed((canvas.height, canvas.width), (inner.height, inner.width), settings.gravity)
    part = result[top : top + inner.height, left : left + inner.width]
    if canvas.channels == array.shape[2]:
        part[:] = array
    else:
        part[:, :, :3], part[:, :, 3] = array, np.iinfo(array.dtype).max
    return result


@dataclass(frozen=True)
class Split(Operation):
    """Rows by columns of nearly equal parts; quadrants if it does not say."""

    rows: int = 2
    columns: int = 2

    name = "split"
    planes = True
    aliases = ("splitQuadrants",)
    forms = (
        Form(
            "split, split=V, splitQuadrants=V", '{"op": "split"}',
            'four quadrants, cut at side // 2, for any V but None, none and false (any case), which means "no split"',
        ),
        Form(
            "split=RxC", "rows, columns",
            "R rows by C columns (1 to 64 each); the extra pixels go to the right and the bottom parts",
        ),
    )  # fmt: skip
    writings: ClassVar = {"Quadrants": "split", "Rows and columns": "split={rows}x{columns}"}
    properties: ClassVar = {
        "rows": {"type": "integer", "minimum": 1, "maximum": 64, "x-start": 2, "x-slider": [1, 8, 1]},
        "columns": {"type": "integer", "minimum": 1, "maximum": 64, "x-start": 3, "x-slider": [1, 8, 1]},
    }
    rules: ClassVar = {"dependentRequired": {"rows": ["columns"], "columns": ["rows"]}}
    parts = "fixed"
    skippable = True

    @classmethod
    def read(cls, value: str | None, name: str) -> dict[str, Any]:
        grid = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", value or "", re.ASCII)
        if grid and name == cls.name:
            return {"rows": int(grid[1]), "columns": int(grid[2])}
        return {} if affirmed(value) else {"rows": 1, "columns": 1}

    def effect(self, shape: Shape, notice: Notice) -> Effect:
        if self.rows == self.columns == 1:
            return None
        if shape.height < self.rows or shape.width < self.columns:
            raise Impossible(
                f"split: {self.rows} rows by {self.columns} columns of a picture of "
                f"{shape.width} x {shape.height} would leave a part without pixels"
            )
        return Grid(edges(shape.height, self.rows), edges(shape.width, self.columns))


@dataclass(frozen=True)
class Tile(Operation):
    """Square tiles of a given side, those of the last row and column smaller."""

    size: int

    name = "tile"
    planes = True
    forms = (Form("tile=S", '{"op": "tile", "size": S}', "square tiles of S pixels, the last row and column smaller"),)
    properties: ClassVar = {"size": {**SIDE, "x-start": 256, "x-slider": [64, 1024, 16]}}
    required = ("size",)
    parts = "varying"

    @classmethod
    def read(cls, value: str | None, name: str) -> dict[str, Any]:
        return {"size": number(value or "")}

    def effect(self, shape: Shape, notice: Notice) -> Effect:
        rows, columns = ([*range(0, side, self.size), side] for side in (shape.height, shape.width))
        return Grid(rows, columns)


@dataclass(frozen=True)
class Blur(Operation):
    """Gaussian blur; OpenCV's default border (reflected, the edge pixel once); at least 50 dB near OpenCV's pixels."""

    kernel: int
    sigma: float | None = None

    name = "blur"
    planes = True
    forms = (
        Form(
            "blur=K", '{"op": "blur", "kernel": K}',
            "Gaussian, kernel K×K; even K becomes K+1 (a note says so); sigma from K by OpenCV's rule, "
            "0.3·((K−1)/2−1)+0.8; 0 to 1001",
        ),
        Form(
            "… ,sigma:S", "sigma",
            "0 < S ≤ 200; `blur=0` takes the kernel from sigma (4 if not given)",
        ),
    )  # fmt: skip
    properties: ClassVar = {
        "kernel": {"type": "integer", "minimum": 0, "maximum": 1001, "x-start": 15, "x-slider": [1, 101, 2]},
        "sigma": {"type": "number", "exclusiveMinimum": 0, "maximum": 200},
    }
    required = ("kernel",)
    rules: ClassVar = {"x-still": {}}

    @classmethod
    def read(cls, value: str | None, name: str) -> dict[str, Any]:
        return {"kernel": number(value or "")}

    def notes(self) -> list[str]:
        if self.kernel and self.kernel % 2 == 0:
            return [f"kernel {self.kernel} is even, {self.kernel + 1} used"]
        return []

    def effect(self, shape: Shape, notice: Notice) -> Effect:
        if self.kernel == 1:
            return None
        side = self.kernel and self.kernel | 1
        sigma = self.sigma or (0 if side else 4)
        make = partial(blurred, kernel=side, sigma=sigma, precise=self.precise)
        return Map(shape, make, blur_workspace(shape, side, sigma))


@dataclass(frozen=True)
class Crop(Operation):
    """One rectangle is cut out."""

    width: int
    height: int
    x: int | None = None
    y: int | None = None
    gravity: str = "c"

    name = "crop"
    planes = True
    forms = (
        Form(
            "crop=WxH+X+Y", '{"op": "crop", "width": W, "height": H, "x": X, "y": Y}',
            "cut out; X and Y may be negative; beyond the edge: clipped, a note says so; nothing left: the image fails",
        ),
        Form("crop=WxH,gravity:g", "gravity", "the same, placed at an edge, a corner or the centre (c, the default)"),
    )  # fmt: skip
    writings: ClassVar = {"Frame": "crop={width}x{height}+{x}+{y}", "Place": "crop={width}x{height}"}
    properties: ClassVar = {
        "width": {**SIDE, "x-start": 400},
        "height": {**SIDE, "x-start": 300},
        "x": OFFSET,
        "y": OFFSET,
        "gravity": GRAVITY,
    }
    required = ("width", "height")
    rules: ClassVar = {
        "x-frame": True,
        "dependentRequired": {"x": ["y"], "y": ["x"]},
        "not": {"required": ["x", "gravity"]},
        "x-alternatives": "x and y, or gravity",
    }

    @classmethod
    def read(cls, value: str | None, name: str) -> dict[str, Any]:
        parts = re.fullmatch(
            r"([0-9]{1,9})x([0-9]{1,9})(?:\+?([+-][0-9]{1,9})\+?([+-][0-9]{1,9}))?", value or "", re.ASCII
        )
        if not parts:
            raise ValueError("expected WxH+X+Y or WxH")
        keys = ("width", "height", "x", "y")
        return {key: int(part) for key, part in zip(keys, parts.groups(), strict=True) if part is not None}

    def effect(self, shape: Shape, notice: Notice) -> Effect:
        if self.x is None or self.y is None:
            kept = min(self.height, shape.height), min(self.width, shape.width)
            top, left = placed((shape.height, shape.width), kept, self.gravity)
            bottom, right = top + kept[0], left + kept[1]
        else:
            top, left = max(0, self.y), max(0, self.x)
            bottom, right = min(shape.height, self.y + self.height), min(shape.width, self.x + self.width)
        height, width = bottom - top, right - left
        if height < 1 or width < 1:
            raise Impossible(f"crop: nothing of a picture of {shape.width} x {shape.height} lies inside")
        if (height, width) != (self.height, self.width):
            notice(
                f"crop reaches beyond a picture of {shape.width} x {shape.height}, "
                f"{width} x {height} at {left}, {top} was cut out"
            )
        return None if (height, width) == (shape.height, shape.width) else Window(top, left, height, width)


@dataclass(frozen=True)
class Rotate(Operation):
    """Quarter turns, clockwise."""

    angle: int

    name = "rotate"
    planes = True
    forms = (Form("rotate=90, 180, 270", '{"op": "rotate", "angle": 90}', "clockwise; exact, no resampling"),)
    properties: ClassVar = {"angle": {"type": "integer", "enum": [90, 180, 270]}}
    required = ("angle",)

    @classmethod
    def read(cls, value: str | None, name: str) -> dict[str, Any]:
        return {"angle": number(value or "")}

    def effect(self, shape: Shape, notice: Notice) -> Effect:
        sides = (shape.height, shape.width) if self.angle == 180 else (shape.width, shape.height)
        return Map(shape.resized(*sides), partial(_turned, code=TURNS[self.angle]))


def _turned(array: Array, code: int) -> Array:
    return _moved(array, partial(cv2.rotate, rotateCode=code))


def _moved(array: Array, function: Callable[[Array], Array]) -> Array:
    """What a function that moves pixels makes of it."""
    if isinstance(array, Planes):
        if array.even:
            return Planes(function(array.y), function(array.cb), function(array.cr))
        array = array.bgr()  # at an odd side the samples of the chroma would come to stand for other pixels
    result = function(array)
    return result.reshape(*result.shape[:2], array.shape[2])


@dataclass(frozen=True)
class Flip(Operation):
    """Mirrored."""

    axis: str

    name = "flip"
    planes = True
    forms = (
        Form(
            "flip=h, flip=v", '{"op": "flip", "axis": "h"}', "mirrored, left to right (h) or top to bottom (v); exact"
        ),
    )
    properties: ClassVar = {
        "axis": {"type": "string", "enum": ["h", "v"], "x-labels": ["left to right", "top to bottom"]}
    }
    required = ("axis",)

    @classmethod
    def read(cls, value: str | None, name: str) -> dict[str, Any]:
        return {"axis": value or ""}

    def effect(self, shape: Shape, notice: Notice) -> Effect:
        return Map(shape, partial(_mirrored, code=1 if self.axis == "h" else 0))


def _mirrored(array: Array, code: int) -> Array:
    return _moved(array, partial(cv2.flip, flipCode=code))


@dataclass(frozen=True)
class Gray(Operation):
    """Colours become their luma; alpha stays."""

    name = "gray"
    planes = True
    forms = (Form("gray", '{"op": "gray"}', "luma by ITU-R BT.601; alpha stays"),)
    properties: ClassVar = {}
    rules: ClassVar = {"x-still": {}}

    @classmethod
    def read(cls, value: str | None, name: str) -> dict[str, Any]:
        if value is not None:
            raise ValueError("expected no value")
        return {}

    def effect(self, shape: Shape, notice: Notice) -> Effect:
        if shape.channels == 1:
            return None
        channels = 1 if shape.channels == 3 else 4
        return Map(Shape(shape.height, shape.width, channels, shape.itemsize), _grayed, shape.nbytes)


def _grayed(array: Array) -> Array:
    if isinstance(array, Planes):
        return array.y[:, :, np.newaxis]
    luma = cv2.cvtColor(array, cv2.COLOR_BGR2GRAY if array.shape[2] == 3 else cv2.COLOR_BGRA2GRAY)
    return luma[:, :, np.newaxis] if array.shape[2] == 3 else cv2.merge([luma, luma, luma, array[:, :, 3]])


OPERATIONS: dict[str, type[Operation]] = {
    operation.name: operation for operation in (Resize, Split, Tile, Blur, Crop, Rotate, Flip, Gray)
}
NAMES: dict[str, type[Operation]] = {
    name: operation for operation in OPERATIONS.values() for name in (operation.name, *operation.aliases)
}


def schemas() -> dict[str, Schema]:
    """The JSON Schemas of all operations, by class name, and of a step in either form as `Operation`."""
    classes = {operation.__name__: operation.schema() for operation in OPERATIONS.values()}
    step: Schema = {"type": "string", "pattern": rf"^{STEP.pattern}(?!\n)$", "examples": ["resize=0.5"]}
    forms = [{"$ref": f"#/components/schemas/{name}"} for name in classes]
    return {"Operation": {"anyOf": [step, *forms]}, **classes}


def parse(step: str | dict[str, Any]) -> Operation:
    """The operation that a step means.

    Raises:
        StepError: unknown, of the wrong form, or a value is out of bounds
    """
    if isinstance(step, str):
        if len(step) > MOST_CHARACTERS:
            raise StepError([Place("", f"expected a step of at most {MOST_CHARACTERS} characters, came {len(step)}")])
        return _parse_string(step)
    if "op" not in step:
        raise StepError([Place("", 'expected the key "op", which is missing')])
    return _build(_named(step["op"], OPERATIONS, "/op"), step)


@lru_cache(maxsize=4096)
def _parse_string(step: str) -> Operation:
    match = STEP.fullmatch(step)
    if not match:
        raise StepError([Place("", f"expected name=value,key:value, came {came(step)}")])
    name, _, value, given, _ = match.groups()
    operation = _named(name, NAMES, "")
    document: dict[str, Any] = {"op": operation.name}
    arguments = [argument.partition(":") for argument in filter(None, (given or "").split(","))]
    try:
        document |= operation.read(value, name)
    except ValueError as error:
        raise StepError([Place("", f"{operation.name}: {error}, came {came(step)}")]) from None
    for key, _, text in arguments:
        try:
            if key not in operation.properties:
                others = [name for name in operation.properties if name not in document]
                raise ValueError(f"expected {', '.join(others) or 'no argument'}")
            if key in document:
                raise ValueError(f"expected {key} once")
            document[key] = _argument(text, operation.properties[key])
        except ValueError as error:
            raise StepError([Place("", f"{operation.name}: {error}, came {came(f'{key}:{text}')}")]) from None
    try:
        return _build(operation, document)
    except StepError as error:
        # the step is one string: its place is that of all its arguments, and those given by name are named
        named = {f"/{key}": f"{operation.name}: {key}:" for key, _, _ in arguments}
        places_ = [
            Place("", place.detail.replace(f"{operation.name}:", named.get(place.pointer, f"{operation.name}:"), 1))
            for place in error.places
        ]
        raise StepError(places_, error.bounds) from None


def _argument(text: str, schema: Schema) -> object:
    """The value that the text after `key:` means, of the type that the schema names."""
    if schema["type"] == "boolean":
        if text not in ("yes", "no", "true", "false"):
            raise ValueError("expected yes or no")
        return text in ("yes", "true")
    return text if schema["type"] == "string" else number(text)


def _named(name: object, table: Mapping[str, type[Operation]], at: str) -> type[Operation]:
    operation = table.get(name) if isinstance(name, str) else None
    if operation is None:
        raise StepError([Place(at, f"expected one of {', '.join(table)}, came {came(name)}")])
    return operation


@cache
def _rules(operation: type[Operation]) -> tuple[Validator, frozenset[str]]:
    """What judges an operation's documents, and which of its arguments are whole numbers."""
    whole = frozenset(key for key, schema in operation.properties.items() if schema["type"] == "integer")
    return Validator(operation.schema()), whole


def _build(operation: type[Operation], document: Mapping[str, Any]) -> Operation:
    """The operation of a document in object form."""
    validator, whole = _rules(operation)
    errors = list(validator.errors(document))
    if errors:
        found = [place for error in errors for place in places(error)]
        raise StepError(
            [Place(place.pointer, f"{operation.name}: {place.detail}") for place in found],
            bounds=all(out_of_bounds(error) for error in errors),
        )
    # JSON Schema's whole numbers may be written 25.0
    arguments: Any = {key: int(value) if key in whole else value for key, value in document.items() if key != "op"}
    return operation(**arguments)
