"""The query of a single image's address becomes the document that a batch has.

PARAMETERS at the foot is the table. Everything but the names and the text's
form is then checked as a batch is, by `request.process`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, unquote_plus

from falconimg import formats, operations
from falconimg.errors import InvalidRequest, Place
from falconimg.job import literal
from falconimg.operations import StepError
from falconimg.request import MOST_PLACES, RESULT
from falconimg.schema import Schema, came

AUTO, SOURCE = "auto", ""
NEGOTIATED = ("avif", "webp")  # what a client must name in Accept to be sent; the better one first
USUAL = ("jpeg", "png", "gif")  # what every browser shows
SAFE = "-._~"  # RFC 3986's unreserved characters besides letters and digits


class Parameter(NamedTuple):
    """One name of a query: its schema for OpenAPI, and how its text is read."""

    schema: Schema
    read: Callable[[str], Any] = str
    addressed: bool | None = None  # whether only GET takes it (True), or only POST (False)


@dataclass(frozen=True)
class Parameters:
    """What a query asks for.

    `output` are the options of the results as a batch names them, `others` those that concern the answer;
    `canonical` is the text of all of `output` and the operations: equal where the results are.
    """

    operations: tuple[str, ...] = ()
    format: str = SOURCE
    output: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, Any] = field(default_factory=dict)

    def document(self, names: Sequence[str], extensions: Sequence[str]) -> dict[str, Any]:
        """The document of /v1/process for these inputs, whose results are named after them; of several with folders."""
        paths = [PurePosixPath(name) for name in names]
        stems = [str(path.with_name(path.stem)) if len(paths) > 1 else path.stem for path in paths]
        images = [
            {"input": name, "output": literal(stem) + extension}
            for name, stem, extension in zip(names, stems, extensions, strict=True)
        ]
        dry = {"dry_run": True} if self.others.get("dry_run") else {}
        return {"images": images, "operations": list(self.operations), **self.output, **dry}

    @cached_property
    def canonical(self) -> str:
        """Text."""
        steps = [("op", _canonical(step)) for step in self.operations]
        return query([*steps, *((name, str(value)) for name, value in self.output.items())])


def parse(text: str, addressed: bool) -> Parameters:
    """The parameters of a query string; `addressed` says that it stands in a GET's address.

    A `+` in an operation is one (`crop=8x8+1+1`), as RFC 3986 has it; elsewhere it may stand for a space, as in forms.

    Raises:
        InvalidRequest: a name that is unknown or comes twice, or a value that is not of its form
    """
    places: list[Place] = []
    found: dict[str, list[Any]] = {}
    known = [name for name, parameter in PARAMETERS.items() if parameter.addressed in (None, addressed)]
    for name, value in pairs(text):
        if name not in known:
            places.append(Place("", f"expected the parameters {', '.join(known)}, came {came(name)}"))
        elif name in found and name != "op":
            places.append(Place(f"/{name}", f"expected {name} once, came it again"))
        else:
            found.setdefault(name, []).append(value)
    values: dict[str, Any] = {}
    for name in found.keys() - {"op"}:
        try:
            values[name] = PARAMETERS[name].read(found[name][0])
        except ValueError as error:
            places.append(Place(f"/{name}", f"expected {error}, came {came(found[name][0])}"))
    if places:
        raise InvalidRequest("The request is not valid", places[:MOST_PLACES])
    output = {name: values[name] for name in (*RESULT, "precise") if name in values}
    others = {name: values[name] for name in values.keys() - output.keys() - {"format"}}
    return Parameters(tuple(found.get("op", ())), values.get("format", SOURCE), output, others)


def pairs(text: str) -> list[tuple[str, str]]:
    """The (name, value) pairs of a query string, decoded."""
    found = []
    for part in text.split("&"):
        name, _, value = part.partition("=")
        if part:
            name = unquote_plus(name)
            found.append((name, unquote(value) if name == "op" else unquote_plus(value)))
    return found


def query(found: Sequence[tuple[str, str]]) -> str:
    """A query string of these pairs: sorted by name, and encoded in the one way that RFC 3986, 6.2.2, calls normal."""
    return "&".join(
        f"{quote(name, SAFE)}={quote(value, SAFE)}" for name, value in sorted(found, key=lambda pair: pair[0])
    )


def negotiate(accept: str) -> str:
    """The format that an Accept header asks for: the best of those that it names, or none; `*/*` names none.

    Nor does it ask for one that it likes less than one of USUAL, or whatever it may be.
    """
    wanted: dict[str, float] = {}
    for part in accept.lower().split(","):
        kind, *rest = (piece.strip() for piece in part.split(";"))
        weight = next((piece[2:] for piece in rest if piece.startswith("q=")), "1")
        if re.fullmatch(r"0(\.\d{0,3})?|1(\.0{0,3})?", weight, re.ASCII):  # RFC 9110, 12.4.2
            wanted[kind] = float(weight)
    weights = {name: wanted.get(formats.by_name(name).media_type, 0.0) for name in NEGOTIATED}
    best = max(NEGOTIATED, key=lambda name: weights[name])
    others = ["*/*", "image/*", *(formats.by_name(name).media_type for name in USUAL)]
    return best if weights[best] and weights[best] >= max(wanted.get(kind, 0.0) for kind in others) else ""


def shown_everywhere(header: formats.Header) -> str:
    """The format for a client that names none: the source's if every browser shows it, or what holds it."""
    return header.format if header.format in USUAL else "png" if header.channels == 4 else "jpeg"


def _canonical(step: str) -> str:
    """The same for each way to write the step; one that is none stays as it is, to be refused."""
    try:
        return repr(operations.parse(step))
    except StepError:
        return step


def _format(text: str) -> str:
    """A format's name; an extension of it will do."""
    if text.lower() == AUTO:
        return AUTO
    form = formats.by_word(text)
    if form is None:
        raise ValueError(f"{AUTO} or one of {', '.join(formats.FORMATS)}")
    return form.name


def _whole(text: str) -> int:
    if not re.fullmatch(r"-?\d{1,9}", text, re.ASCII):
        raise ValueError("a whole number")
    return int(text)


def _moment(text: str) -> int:
    if not re.fullmatch(r"\d{1,15}", text, re.ASCII):
        raise ValueError("seconds since 1970, at most 15 digits")
    return int(text)


def _switch(text: str) -> bool:
    if text.lower() not in ("", "true", "1", "false", "0"):
        raise ValueError("true or false")
    return text.lower() in ("", "true", "1")


def _file_name(text: str) -> str:
    name = clean(text).rpartition("/")[2]
    if not name or len(name) > 200:
        raise ValueError("a file's name of at most 200 characters")
    return name


def clean(path: str) -> str:
    """A file's path as a client of whatever system says it: relative, without quotes and control characters."""
    parts = (
        "".join(letter for letter in part if letter.isprintable() and letter != '"').strip()
        for part in re.split(r"[/\\]", path)
    )
    return "/".join(part for part in parts if part not in ("", ".", ".."))


SWITCH: Schema = {"type": "boolean"}
PARAMETERS: dict[str, Parameter] = {
    "op": Parameter(
        {"type": "array", "items": {"type": "string"}, "description": "An operation; several are done in their order."}
    ),
    "format": Parameter(
        {
            "type": "string",
            "enum": [AUTO, *formats.FORMATS],
            "description": "The result's format; the source's if it is left out. `auto`: AVIF or WebP if Accept names "
            "them, else one that every browser shows.",
        },
        _format,
    ),
    "quality": Parameter(RESULT["quality"], _whole),
    "background": Parameter(RESULT["background"]),
    "metadata": Parameter(RESULT["metadata"]),
    "precise": Parameter({**SWITCH, "description": "No approximation for speed."}, _switch),
    "dry_run": Parameter(
        {**SWITCH, "description": "Only say what there would be, as /v1/process does."}, _switch, False
    ),
    "download": Parameter({**SWITCH, "description": "To be saved, not shown."}, _switch),
    "filename": Parameter({"type": "string", "description": "The answer's name, instead of the source's."}, _file_name),
    "expires": Parameter(
        {"type": "integer", "description": "Until when a signed address holds: seconds since 1970."}, _moment, True
    ),
    "signature": Parameter(
        {"type": "string", "description": "Of a signed address; `falconimg sign` makes one."}, str, True
    ),
}
