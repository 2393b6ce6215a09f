"""A request's JSON document becomes a Job, or a refusal that names every place.

`document` reads the body strictly, `process` and `items` check it by JSON
Schema and by what no schema can say: paths, names, extensions, double outputs.
Nothing here looks at a picture.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import count
from string import Formatter
from typing import Any

from falconimg import formats, operations
from falconimg._core import Plan, PlanError, Shape
from falconimg.budget import most_results
from falconimg.errors import Forbidden, InvalidRequest, NotJson, Place
from falconimg.job import Image, Job, Note, Rendition, Step, Template
from falconimg.operations import COLOUR, StepError, colour
from falconimg.schema import Schema, Validator, came, faults
from falconimg.settings import Settings
from falconimg.stores import Store
from falconimg.stores.globs import LOOKS, Found, Looks, among, fixed, is_pattern

MOST_PLACES = 10
MOST_KEYS = 1000  # of an object; no form has nearly as many
LARGE_BODY = 256_000  # bytes from which on only the first fault is looked for
STATIC_NAMES = 65_536  # results whose names are compared before any work; beyond that each in its turn
FIELDS = ("index", "row", "col", "width", "height")
PADDED = re.compile("0[1-9]")  # behind a field: so many digits at least
# Where every split that yields at most 4,096 parts finds a pixel for each: used to name results without a picture.
CANVAS = Shape(4096, 4096)

PATH: Schema = {"type": "string", "minLength": 1, "maxLength": 4096}
SHA256: Schema = {
    "type": "string",
    "pattern": "^[0-9a-fA-F]{64}$",
    "minLength": 64,
    "maxLength": 64,  # by which a line's end after the digits, which `$` lets pass, is refused
    "x-expected": "64 hexadecimal digits",
    "description": "The input's SHA-256: a file with another one fails. The only full check of a format without one.",
}
OUTPUT: Schema = {**PATH, "description": "A path, or a template with {stem}, {ext}, {dir}, {index}, {row}, {col}, "
                  "{width} and {height} ({index:03} is 001); its extension names the format."}  # fmt: skip
RESULT: dict[str, Schema] = {
    "quality": {"type": "integer", "minimum": 1, "maximum": 100, "description": "JPEG, WebP and AVIF."},
    "background": {**COLOUR, "description": "Under what was transparent, where the format has no alpha."},
    "metadata": {
        "type": "string",
        "enum": ["strip", "keep"],
        "x-start": "strip",
        "description": "EXIF and XMP; the ICC profile is kept anyway.",
    },
}


OF_JOBS: dict[str, Schema] = {
    "priority": {
        "type": "string",
        "enum": ["low", "normal", "high"],
        "default": "normal",
        "description": "Images of a higher one are made before all others.",
    },
    "webhook": {
        "type": "string",
        "minLength": 1,
        "maxLength": 2000,
        "description": "An address (http or https) that is told of the job's events, at least once each.",
    },
}


ZEROS = bytes(ord("0") if byte in b"0123456789" else byte for byte in range(256))
"""Makes each digit a zero: then 40 of them are found at once."""
MANY_MARKS = 10_000
"""From so many on it pays to look whether any number is long, instead of at each."""


def document(body: bytes, settings: Settings) -> Any:
    """The value of a JSON text (RFC 8259) in UTF-8, read strictly.

    Raises:
        NotJson: not JSON, or one with duplicate keys, NaN, numbers beyond double
            precision or 40 characters, of very many values, or deeper than FALCONIMG_MAX_JSON_DEPTH
    """
    marks = sum(body.count(mark) for mark in b",[{")
    if marks > settings.max_json_marks:  # what reading it takes goes by them
        most = f"{settings.max_json_marks} commas and opening brackets (FALCONIMG_MAX_JSON_MARKS)"
        raise NotJson(f"expected at most {most}, came {marks}")
    short = marks > MANY_MARKS and b"0" * 40 not in body.translate(ZEROS)
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=int if short else _whole,
            parse_float=_fraction,
            parse_constant=_constant,
        )
    except UnicodeDecodeError as error:
        raise NotJson(f"expected UTF-8, came another byte at position {error.start}") from None
    except json.JSONDecodeError as error:
        at = f"{error.msg[0].lower()}{error.msg[1:]} at line {error.lineno}, column {error.colno}"
        what = "a byte order mark" if body.startswith(b"\xef\xbb\xbf") else f"one with a fault: {at}"
        raise NotJson(f"expected a JSON document, came {what if body.strip() else 'an empty body'}") from None
    except RecursionError:
        raise _too_deep(settings, f"more than {settings.max_json_depth}") from None
    level, depth = [value], 0
    while level := [container for container in level if isinstance(container, (dict, list))]:
        level, depth = [item for container in level for item in _items(container)], depth + 1
    if depth > settings.max_json_depth:
        raise _too_deep(settings, str(depth))
    return value


def _too_deep(settings: Settings, came: str) -> NotJson:
    return NotJson(f"expected at most {settings.max_json_depth} levels (FALCONIMG_MAX_JSON_DEPTH), came {came}")


def _items(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MOST_KEYS:
        raise NotJson(f"expected at most {MOST_KEYS} keys in an object, came {len(pairs)}")
    value = dict(pairs)
    if len(value) < len(pairs):
        double, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise NotJson(f"expected each key once, came {came(double)} twice")
    return value


def _whole(text: str) -> int:
    if len(text) > 40:
        raise NotJson(f"expected a number of at most 40 characters, came {len(text)}")
    return int(text)


def _fraction(text: str) -> float:
    if len(text) > 40 or not math.isfinite(float(text)):
        raise NotJson(f"expected a number in double precision of at most 40 characters, came {came(text)}")
    return float(text)


def _constant(text: str) -> float:
    raise NotJson(f"expected a number, came {text}")


def _items_schema(settings: Settings) -> Schema:
    """What the original took: both keys may be left out or null, and others are not looked at."""
    return {
        "type": "object",
        "description": "The original's request.",
        "properties": {
            "images": {
                "type": ["array", "null"],
                "maxItems": settings.max_images,
                "x-setting": "FALCONIMG_MAX_IMAGES",
                "items": {
                    "type": "object",
                    "properties": {"input": PATH, "output": PATH},
                    "required": ["input", "output"],
                },
            },
            "operations": {
                "type": ["array", "null"],
                "maxItems": settings.max_operations,
                "x-setting": "FALCONIMG_MAX_OPERATIONS",
                "items": {"type": "string"},
            },
        },
    }


def schemas(settings: Settings) -> dict[str, Schema]:
    """The JSON Schemas of the requests, by the names they have in OpenAPI; steps are `Operation`s."""
    steps: Schema = {
        "type": "array",
        "maxItems": settings.max_operations,
        "x-setting": "FALCONIMG_MAX_OPERATIONS",
        "items": {"$ref": "#/components/schemas/Operation"},
    }
    rendition = {"output": OUTPUT, "operations": steps, **RESULT}
    return {
        "Items": _items_schema(settings),
        "Rendition": {
            "type": "object",
            "description": "One result of an image, or several where its operations split.",
            "properties": rendition,
            "required": ["output"],
            "additionalProperties": False,
        },
        "Image": {
            "type": "object",
            "description": "One input. Its own `operations` replace the request's; a rendition's follow the image's.",
            "properties": {
                "input": PATH,
                "sha256": SHA256,
                **rendition,
                "renditions": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": settings.max_outputs,
                    "x-setting": "FALCONIMG_MAX_OUTPUTS",
                    "items": {"$ref": "#/components/schemas/Rendition"},
                },
            },
            "required": ["input"],
            "oneOf": [{"required": ["output"]}, {"required": ["renditions"]}],
            "x-alternatives": "either output or renditions",
            "additionalProperties": False,
        },
        "Process": _batch_schema(steps, settings.max_images, "FALCONIMG_MAX_IMAGES"),
        "Job": _batch_schema(steps, settings.max_job_images, "FALCONIMG_MAX_JOB_IMAGES", **OF_JOBS),
    }


def _batch_schema(steps: Schema, most: int, setting: str, **more: Schema) -> Schema:
    """A batch of at most so many images, as that setting says."""
    return {
        "type": "object",
        "properties": {
            "images": {
                "type": "array",
                "minItems": 1,
                "maxItems": most,
                "x-setting": setting,
                "items": {"$ref": "#/components/schemas/Image"},
            },
            "operations": steps,
            "if_exists": {"type": "string", "enum": ["overwrite", "skip", "error"], "default": "overwrite"},
            "on_error": {"type": "string", "enum": ["continue", "stop"], "default": "continue"},
            "on_invalid": {"type": "string", "enum": ["refuse", "skip"], "default": "refuse"},
            "dry_run": {"type": "boolean", "default": False},
            "glob": {
                "type": "boolean",
                "default": False,
                "description": "Inputs with *, ?, [ or ** are patterns: each stands for an image for every file "
                "that it matches, in sorted order; {dir} is then what lies below the pattern's fixed directories.",
            },
            "precise": {"type": "boolean", "default": False},
            **RESULT,
            **more,
        },
        "required": ["images"],
        "additionalProperties": False,
    }


@cache
def _validator(name: str, settings: Settings) -> Validator:
    """The validator of one of `schemas`; steps are left to operations.parse, whose words are better."""
    step = {"type": ["string", "object"]}
    return Validator(
        {"components": {"schemas": {**schemas(settings), "Operation": step}}, "$ref": f"#/components/schemas/{name}"}
    )


def process(value: Any, settings: Settings, store: Store, size: int = 0) -> Job:
    """The job that a document of POST /v1/process describes.

    Args:
        value: what `document` gave
        size: the body's bytes; of a large one only the first fault is reported

    Raises:
        InvalidRequest, Forbidden: with the places that are wrong
    """
    reader = _Reader(settings, store, 1 if size > LARGE_BODY else MOST_PLACES, value)
    reader.validate("Process")
    return reader.job()


def submitted(value: Any, settings: Settings, store: Store, size: int = 0) -> tuple[Job, dict[str, int]]:
    """The same for a document of POST /v1/jobs, and whose each output is: the image's index by canonical name.

    Outputs whose names only the picture decides, or that are very many, are not among them.
    """
    most = 1 if size > LARGE_BODY else MOST_PLACES
    reader = _Reader(replace(settings, max_images=settings.max_job_images), store, most, value)
    reader.validate("Job")
    job = reader.job()
    return job, {name: image for name, (_, image) in reader.taken.items()}


def single(
    image: Any, shared: Mapping[str, Any], index: int, below: str, settings: Settings, store: Store
) -> tuple[Job, list[str]]:
    """The job of one image of another job's, with that one's `shared` options, and its outputs' canonical names.

    Its index, and `below` (see Image), are those of the other; places are those of a document with this image alone.
    Raises as `process` does.
    """
    reader = _Reader(settings, store, MOST_PLACES, {**shared, "images": [image]})
    reader.index, reader.below = count(index), below
    reader.validate("Process")
    return reader.job(), list(reader.taken)


def items(value: Any, settings: Settings, store: Store, size: int = 0) -> Job:
    """The job that a document of POST /items/ describes: the original's rules, told in DESIGN's terms.

    Steps whose value is out of bounds are left out, a kernel over 1001 is 1001,
    paths are no templates, and without images the operations are not looked at.
    """
    reader = _Reader(settings, store, 1 if size > LARGE_BODY else MOST_PLACES, value, original=True)
    reader.validate("Items")
    return reader.job() if value.get("images") else Job(())


class _Reader:
    """One document on its way to a Job; faults are collected and raised together."""

    def __init__(self, settings: Settings, store: Store, most: int, value: Any, original: bool = False) -> None:
        self.settings, self.store, self.most, self.value, self.original = settings, store, most, value, original
        self.places: list[Place] = []
        self.outside: list[Place] = []
        self.directories: dict[str, str] = {}
        self.taken: dict[str, tuple[str, int]] = {}  # (place, image's index) by a result's canonical name
        # what the request sets besides its images and operations; the original's set nothing
        self.options: dict[str, Any] = {}
        self.skip_invalid = original
        self.index = count()
        self.below = ""  # what templates take for the path of an input that is no pattern, if not itself
        # what patterns may still find, and look at
        self.images_left, self.results_left = 0, most_results(settings)
        self.looks = Looks(LOOKS * settings.max_images)

    def validate(self, name: str) -> None:
        self.places = faults(_validator(name, self.settings), self.value, self.most)
        self.refuse()
        if not self.original:
            self.options = self.value
            self.images_left = self.settings.max_images - len(self.value["images"])
            self.skip_invalid = self.value.get("on_invalid") == "skip"

    def refuse(self) -> None:
        """Raise what was found, if anything was."""
        if self.places:
            raise InvalidRequest("The request is not valid", self.places[: self.most])
        if self.outside:
            raise Forbidden("A path leads outside the root", self.outside[: self.most])

    def fault(self, pointer: str, detail: str) -> None:
        place = Place(pointer, detail)
        if place not in self.places:
            self.places.append(place)
        if len(self.places) >= self.most:
            self.refuse()

    def job(self) -> Job:
        value = self.value
        shared, notes = self.steps(value, "")
        images = tuple(
            image
            for number, each in enumerate(value["images"])
            for image in self.images(each, f"/images/{number}", shared, notes)
        )
        self.refuse()
        self.compare(images)
        self.refuse()
        return Job(
            images,
            self.options.get("if_exists", "overwrite"),
            stop_on_error=self.options.get("on_error") == "stop",
            skip_invalid=self.skip_invalid,
            dry_run=self.options.get("dry_run", False),
            precise=self.options.get("precise", False),
        )

    def steps(self, owner: dict[str, Any], at: str) -> tuple[tuple[Step, ...], tuple[Note, ...]]:
        """The operations of the request, an image or a rendition, and what is to be said of them."""
        steps, notes = [], []
        for index, step in enumerate(owner.get("operations") or ()):
            pointer = f"{at}/operations/{index}"
            if self.original:
                step, clamped = _clamped(step)
                notes += [Note(pointer, clamped)] if clamped else []
            try:
                operation = operations.parse(step)
            except StepError as error:
                if error.bounds and self.skip_invalid:
                    notes += [Note(pointer, f"skipped: {place.detail}") for place in error.places]
                    continue
                for place in error.places:
                    self.fault(pointer + place.pointer, place.detail)
                continue
            notes += [Note(pointer, detail) for detail in operation.notes()]
            if self.options.get("precise"):
                operation = replace(operation, precise=True)
            steps.append(Step(operation, pointer))
        return tuple(steps), tuple(notes)

    def images(
        self, value: dict[str, Any], at: str, steps: tuple[Step, ...], notes: tuple[Note, ...]
    ) -> Iterator[Image]:
        """The job's images of one of the document's: several where its input is a pattern."""
        if "operations" in value and not self.original:
            steps, notes = self.steps(value, at)
        branches: list[tuple[dict[str, Any], dict[str, Any], str, tuple[Step, ...]]] = [(value, {}, at, steps)]
        if not (self.original or "output" in value):
            branches = []
            for number, branch in enumerate(value["renditions"]):
                pointer = f"{at}/renditions/{number}"
                own, said = self.steps(branch, pointer)
                notes += said
                branches.append((branch, value, pointer, steps + own))
        sha256 = "" if self.original else value.get("sha256", "").lower()
        outputs = [branch["output"] for branch, *_ in branches]
        for path, found in self.inputs(value["input"], f"{at}/input", outputs):
            key = self.checked(f"{at}/input", self.store.check_input, path)
            below = found or (self.store.below_root(path) if key else "")
            renditions = tuple(filter(None, (self.rendition(*branch, below) for branch in branches)))
            ignored = tuple(self.ignored(*branch[:2], made) for branch, made in zip(branches, renditions, strict=False))
            said = (*notes, *filter(None, ignored))
            yield Image(next(self.index), path, key, renditions, at, said, sha256, found)

    def ignored(self, value: dict[str, Any], image: dict[str, Any], made: Rendition) -> Note | None:
        """That a quality was asked for, of a format that has none."""
        asked = not self.original and any("quality" in each for each in (value, image, self.value))
        if made.format.quality or not asked:
            return None
        return Note(f"{made.pointer}/output", f"{made.format.name} has no quality")

    def inputs(self, path: str, pointer: str, outputs: list[str]) -> Iterable[Found]:
        """What an input stands for: itself, or what its pattern finds, bounded before any of it becomes an image."""
        if not (self.options.get("glob") and is_pattern(path)):
            return [Found(path, self.below)]
        most = max(0, min(self.images_left + 1, self.results_left // len(outputs)))
        found = self.found(path, pointer, most, outputs)
        if len(found) > most:
            limit, what = most_results(self.settings), "results (FALCONIMG_MAX_RESULTS, FALCONIMG_MEMORY)"
            if most > self.images_left:
                limit, what = self.settings.max_images, "images (FALCONIMG_MAX_IMAGES)"
            self.fault(pointer, f"expected at most {limit} {what}, came at least {limit + 1}")
            return []
        self.images_left -= len(found) - 1
        self.results_left -= len(found) * len(outputs)
        return found

    def found(self, path: str, pointer: str, most: int, outputs: list[str]) -> list[Found]:
        """What a pattern finds but earlier results; that it finds nothing, or may not be looked for, is a fault."""
        is_result = among(outputs, fixed(path))
        try:
            found = [each for each in self.store.find(path, most, self.looks) if not is_result(each.path)]
        except Forbidden as error:
            self.outside.append(Place(pointer, error.detail))
        except InvalidRequest as error:
            self.fault(pointer, error.detail)
        else:
            if not found:
                self.fault(pointer, f"expected a pattern that matches a file, came {came(path)}, which matches none")
            return found
        return []

    def rendition(
        self, value: dict[str, Any], image: dict[str, Any], at: str, steps: tuple[Step, ...], below: str
    ) -> Rendition | None:
        pointer, text = f"{at}/output", value["output"]
        try:
            if self.original or {"{", "}"}.isdisjoint(text):
                template = Template(((text, ""),), False)
            else:
                template = _template(text, below)
        except ValueError as error:
            self.fault(pointer, str(error))
            return None
        # what precedes the last literal is never empty when a picture fills the fields in
        format_ = formats.by_extension("x" * (len(template.parts) > 1) + template.parts[-1][0])
        if format_ is None:
            known = ", ".join(extension for entry in formats.FORMATS.values() for extension in entry.extensions)
            self.fault(pointer, f"expected an extension of {known}, came {came(text)}")
            return None
        # a field becomes digits: any stand for it where only the picture knows them
        path = "".join(part + "1" * bool(field) for part, field in template.parts)
        if key := self.checked(pointer, self.store.check_output, path):
            self.seen(path, key)
        chosen: dict[str, Any] = {} if self.original else {**self.value, **image, **value}
        usual: int = getattr(self.settings, f"{format_.name}_quality", format_.quality or 100)
        red, green, blue, _ = colour(chosen.get("background", "white"))
        return Rendition(
            template,
            steps,
            at,
            format_,
            chosen.get("quality", usual),
            (red, green, blue),
            chosen.get("metadata") == "keep",
        )

    def checked(self, pointer: str, check: Callable[[str], str], path: str) -> str:
        """The canonical name that a store's check gives; its refusals become this place's faults."""
        try:
            return check(path)
        except Forbidden as error:
            self.outside.append(Place(pointer, error.detail))
        except InvalidRequest as error:
            self.fault(pointer, error.detail)
        return ""

    def compare(self, images: tuple[Image, ...]) -> None:
        """Refuse two results on one path, and a result on another image's input, as far as it can be seen."""
        inputs: dict[str, list[int]] = {}
        for image in images:
            inputs.setdefault(image.key, []).append(image.index)
        taken = self.taken
        for image in images:
            for rendition in image.renditions:
                for key in self.names(rendition, STATIC_NAMES - len(taken)):
                    at = f"{rendition.pointer}/output"
                    other_at, other = taken.get(key, ("", -1))
                    if (other_at, other) == (at, image.index):
                        self.fault(at, "expected a path for each result, came one for several: use {index}")
                    elif other_at == at:
                        files = "expected a path for each of the pattern's files"
                        self.fault(at, f"{files}, came one for several: use {{dir}}, {{stem}} and {{ext}}")
                    elif other_at:
                        self.fault(at, f"expected a path of its own, came that of {other_at}")
                    for other in inputs.get(key, ()):
                        if other != image.index:
                            self.fault(at, f"expected no other image's input, came that of /images/{other}")
                    taken[key] = at, image.index

    def names(self, rendition: Rendition, most: int) -> Iterator[str]:
        """The canonical names of a rendition's results, none if a picture is needed to know them."""
        splits = [step for step in rendition.steps if step.operation.parts != "one"]
        fields = {field.partition(":")[0] for _, field in rendition.output.parts if field}
        if fields & {"width", "height"} or any(step.operation.parts == "varying" for step in splits):
            return
        if not (splits or fields) and most > 0:
            yield self.key(rendition, rendition.output.parts[0][0])
            return
        try:
            plan = Plan(
                CANVAS, [splits], _cut, [rendition.output],
                max_outputs=min(self.settings.max_outputs, max(0, most)), max_pixels=2**60, max_side=2**30,
                max_total=2**60,
            )  # fmt: skip
        except PlanError:
            return
        for leaf in plan.leaves:
            yield self.key(rendition, leaf.path)

    def key(self, rendition: Rendition, path: str) -> str:
        """The canonical name of a result; each directory is looked at once."""
        directory, slash, name = path.rpartition("/")
        if directory + slash in self.directories:
            return self.directories[directory + slash] + name
        key = self.checked(f"{rendition.pointer}/output", self.store.check_output, path)
        self.seen(path, key)
        return key or path

    def seen(self, path: str, key: str) -> None:
        """Remember the directory's part of an output's canonical name, unless the file has another one there."""
        directory, slash, name = path.rpartition("/")
        if key.endswith(f"/{name}"):
            self.directories[directory + slash] = key[: len(key) - len(name)]


def _cut(step: Step, shape: Shape) -> Any:
    return step.operation.effect(shape, lambda _: None)


def _clamped(step: str) -> tuple[Any, str]:
    """The original took no kernel over 1001: a larger one is that one, and a note says so."""
    name, _, text = step.partition("=")
    value, comma, rest = text.partition(",")
    try:
        if name == "blur" and operations.number(value) > 1001:
            return f"blur=1001{comma}{rest}", f"kernel {value[:40]} is over 1001, 1001 used"
    except ValueError:
        pass  # no number: operations.parse says so
    return step, ""


def _template(text: str, input_: str) -> Template:
    """An output's path, cut at its fields; those that the input's path below its root decides are filled in.

    Raises:
        ValueError: a lone brace or an unknown field, in words
    """
    directory, _, name = input_.rpartition("/")
    stem, dot, extension = name.rpartition(".")
    known = {"dir": directory, "stem": stem if dot else name, "ext": extension if dot else ""}
    if not directory:
        text = text.replace("{dir}/", "")
    parts: list[tuple[str, str]] = []
    literal = ""
    try:
        pieces = list(Formatter().parse(text))
    except ValueError:
        pieces = [(text, "", "lone", None)]
    for piece, field, format_, conversion in pieces:
        literal += piece
        if field is None:
            continue
        padded = field in FIELDS and PADDED.fullmatch(format_ or "")
        if (format_ and not padded) or conversion or field not in (*known, *FIELDS):
            fields = ", ".join(f"{{{name}}}" for name in (*known, *FIELDS))
            raise ValueError(f"expected the fields {fields}, or {{{{ for a brace, came {came(text)}")
        if field in known:
            literal += known[field]
        else:
            parts.append((literal, f"{field}:{format_}" if format_ else field))
            literal = ""
    return Template((*parts, (literal, "")), any(field.startswith(FIELDS[:3]) for _, field in parts))
