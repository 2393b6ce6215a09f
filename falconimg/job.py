"""The nouns of a request and of its answer, frozen; no behaviour, and nothing of ours is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

IfExists = Literal["overwrite", "skip", "error"]
Verdict = Literal["done", "failed", "skipped"]


class Note(NamedTuple):
    """Something that went otherwise than asked: the request's place (a JSON Pointer) and a sentence."""

    pointer: str
    detail: str


@dataclass(frozen=True)
class Step:
    """An operation (one of operations.py's) and its place in the request; equal to another of the same operation."""

    operation: Any
    pointer: str = field(compare=False)


class Template(NamedTuple):
    """An output's path, cut at its fields: `parts` are (literal, field) pairs, read from left to right.

    A field is index, row, col, width, height, each also with :0N for N digits
    at least, or empty where only the literal is meant. `numbered` says that
    several results need no suffix, because index, row or col tells them apart.
    """

    parts: tuple[tuple[str, str], ...]
    numbered: bool


def literal(text: str) -> str:
    """The text as a template has it in which it stands for itself."""
    return text.replace("{", "{{").replace("}", "}}")


@dataclass(frozen=True)
class Rendition:
    """One branch of an image: its whole list of steps (stem first) and where the results go."""

    output: Template
    steps: tuple[Step, ...]
    pointer: str
    format: Any  # one of formats.FORMATS
    quality: int
    background: tuple[int, int, int]
    keep_metadata: bool


@dataclass(frozen=True)
class Image:
    """One input and everything that is made of it.

    `key` is the store's canonical name of the input; `sha256`, if not empty, are the hexadecimal digits, in lower
    case, that its bytes are to have; `below`, of one that a pattern has found, is what templates take for its path.
    """

    index: int
    input: str
    key: str
    renditions: tuple[Rendition, ...]
    pointer: str
    notes: tuple[Note, ...] = ()
    sha256: str = ""
    below: str = ""


@dataclass(frozen=True)
class Job:
    """A request that has passed every check which needs no picture."""

    images: tuple[Image, ...]
    if_exists: IfExists = "overwrite"
    stop_on_error: bool = False
    skip_invalid: bool = False
    dry_run: bool = False
    precise: bool = False


@dataclass(frozen=True)
class Output:
    """One result: its path, its size in pixels, its format and, unless it was only planned, its bytes.

    `sha256` are the hexadecimal digits of a result that a job on record made.
    """

    path: str
    width: int
    height: int
    format: str
    bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Fault:
    """Why an image failed, as a problem type, its title and a sentence."""

    type: str
    title: str
    detail: str


@dataclass(frozen=True)
class Outcome:
    """What happened to one image."""

    index: int
    input: str
    status: Verdict
    ms: float
    outputs: tuple[Output, ...] = ()
    notes: tuple[Note, ...] = ()
    error: Fault | None = None
    stages: tuple[tuple[str, float], ...] = ()  # (name, seconds) of read, decode, operations …; not in the report


@dataclass(frozen=True)
class Report:
    """What happened to all of them, in the request's order."""

    status: Literal["done", "partial", "failed"]
    done: int
    failed: int
    skipped: int
    ms: float
    images: tuple[Outcome, ...]
