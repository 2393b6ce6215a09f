"""`falconimg process`: arguments become the document of a POST /v1/process, which runs in this process."""

from __future__ import annotations

import glob
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from types import FrameType
from typing import Any

from falconimg import formats, log, request
from falconimg.cli import INTERRUPTED, Failed, Refused, out
from falconimg.cli.about import standard_input
from falconimg.cli.show import Progress, failure, printable
from falconimg.errors import ImageProblem, Place, RequestProblem, SettingsProblem
from falconimg.formats import Format
from falconimg.job import IfExists, Image, Job, literal
from falconimg.pipeline import Pipeline
from falconimg.settings import Settings
from falconimg.stores import Store
from falconimg.stores.globs import Looks, among, fixed, is_pattern
from falconimg.stores.local import Local
from falconimg.stores.memory import Memory

STREAM = "-"
STDIN = "stdin"
"""What standard input is called where a name is needed."""
UNLIMITED = sys.maxsize
MOST_NAMED = 10
"""Inputs that would be replaced whose names are said."""
SAME = re.compile(r"/images/(\d+)/output: expected a path of its own, came that of /images/(\d+)/output")


@dataclass(frozen=True)
class Wanted:
    """What the command line says."""

    files: tuple[str, ...]
    output: str | None
    operations: tuple[str, ...]
    format_: str | None
    quality: int | None
    background: str | None
    metadata: str | None
    precise: bool
    recursive: bool
    if_exists: IfExists | None
    jobs: int | None
    dry_run: bool
    as_json: bool
    quiet: bool

    @property
    def of_pictures(self) -> dict[str, Any]:
        """The options that a request in a file has of its own, by their names."""
        named = {"-o": self.output, "--op": self.operations, "-f": self.format_, "-q": self.quality}
        named |= {"--background": self.background, "--metadata": self.metadata}
        return {
            name: value for name, value in (named | {"--precise": self.precise, "-r": self.recursive}).items() if value
        }


@dataclass(frozen=True)
class Source:
    """One input: its path, and whether its folders are kept (a pattern or a directory has found it)."""

    path: str
    found: bool = False


class Piped(Local):
    """The whole disk, with one input that came from elsewhere: standard input."""

    def __init__(self, data: bytes, fsync: bool) -> None:
        super().__init__(fsync)
        self._data = data

    def check_input(self, path: str) -> str:
        """See Store."""
        return path

    def size(self, path: str, limit: int) -> int:
        """See Store."""
        return len(self._data)

    def read(self, path: str, limit: int) -> bytes:
        """See Store."""
        return self._data


def run(wanted: Wanted, settings: Settings) -> int:
    """Do it; the exit code.

    Raises:
        Refused: it cannot be done as it is asked for
    """
    settings = replace(
        settings, workers=1, threads=1, pool=wanted.jobs or settings.pool, log_level="error",
        max_images=UNLIMITED, max_results=UNLIMITED, max_json_marks=UNLIMITED,
    )  # fmt: skip
    try:
        formats.check(settings)
    except SettingsProblem as problem:
        raise Refused(problem.detail) from None
    log.configure(settings)
    try:
        return _run(wanted, settings)
    except ImageProblem as problem:  # of the one picture that is looked at before there is a job
        raise Failed(problem.detail) from None


def _run(wanted: Wanted, settings: Settings) -> int:
    if wanted.output == "":
        raise Refused("-o: expected a directory, a file or a template, came an empty one")
    if "" in wanted.files:
        raise Refused("FILES: expected a file, a pattern or a directory, came an empty one")
    data = None
    if STREAM in wanted.files:
        if len(wanted.files) > 1:
            raise Refused("-: expected standard input alone, came other files beside it")
        data = standard_input(settings.max_file)
    if _is_request(wanted, data):
        store: Store = Local(settings.fsync)
        name = printable(wanted.files[0])
        job = _read(
            _request(wanted, data, settings), settings, store, lambda place: f"{place.pointer or name}: {place.detail}"
        )
        return _streamed(job, store, wanted, settings)
    if wanted.output == STREAM or (wanted.output is None and data is not None):
        return _to_standard_output(wanted, data, settings)
    if wanted.output is None:
        raise Refused("expected -o: a directory, a file or a template for the results, came none")
    form = _format(wanted)
    if data is not None:
        extension = formats.by_name(formats.probe(data, settings.formats).format).extensions[0]
        sources, store = [Source(STDIN + extension)], Piped(data, settings.fsync)
    else:
        sources, bases = _sources(wanted)
        store = Local(settings.fsync, bases)
    images = [{"input": source.path, "output": _output(wanted.output, source, form, settings)} for source in sources]
    job = _job(images, wanted, settings, store)
    return _streamed(job, store, wanted, settings)


def _is_request(wanted: Wanted, data: bytes | None) -> bool:
    """Whether the one argument is a request: by its name, or for standard input by its first character."""
    name = wanted.files[0]
    if data is not None:
        return not wanted.of_pictures and data.lstrip()[:1] == b"{"
    return len(wanted.files) == 1 and name.lower().endswith(".json") and not (is_pattern(name) or Path(name).is_dir())


def _request(wanted: Wanted, data: bytes | None, settings: Settings) -> Any:
    name = wanted.files[0]
    if wanted.of_pictures:
        raise Refused(f"{', '.join(wanted.of_pictures)}: expected in the request {printable(name)}, came beside it")
    try:
        document = request.document(Path(name).read_bytes() if data is None else data, settings)
    except OSError as error:
        raise Refused(f"{printable(name)}: {error.strerror}") from None
    except RequestProblem as problem:
        raise Refused(f"{printable(name)}: {problem.detail}") from None
    if isinstance(document, dict):
        chosen = {"dry_run": wanted.dry_run, "if_exists": wanted.if_exists}
        document |= {name: value for name, value in chosen.items() if value}
    return document


def _sources(wanted: Wanted) -> tuple[list[Source], tuple[str, ...]]:
    """The inputs that FILES name, and the directories from which {dir} starts."""
    store, found, bases = Local(), [], []
    where = str(Path(wanted.output or ".").absolute()) + "/" * _is_directory(wanted.output or "")
    outputs = [where] if wanted.output else []
    for name in wanted.files:
        if Path(name).is_dir():
            if not wanted.recursive:
                raise Refused(f"{printable(name)}: expected a file, came a directory; -r takes the pictures below it")
            inside = f"{glob.escape(name.rstrip('/'))}/**"
            below = [path for path, _ in store.find(inside, UNLIMITED, Looks(UNLIMITED)) if formats.by_extension(path)]
            start = name
        elif is_pattern(name) and not os.path.lexists(name):
            below = [path for path, _ in store.find(name, UNLIMITED, Looks(UNLIMITED))]
            start = fixed(name) or "."
        else:
            found.append(Source(name))
            continue
        is_result = among(outputs, str(Path(start).absolute()))
        below = [path for path in below if not is_result(str(Path(path).absolute()))]
        bases.append(start)
        if not below:
            raise Refused(
                f"{printable(name)}: expected at least one {'file' if is_pattern(name) else 'picture'}, came none"
            )
        found += [Source(path, found=True) for path in below]
    return found, tuple(bases)


def _format(wanted: Wanted) -> Format | None:
    """The format that -f names, by its name or an extension."""
    if wanted.format_ is None:
        return None
    form = formats.by_word(wanted.format_)
    if form is None:
        extensions = (extension[1:] for entry in formats.FORMATS.values() for extension in entry.extensions)
        known = dict.fromkeys([*formats.FORMATS, *extensions])
        raise Refused(f"-f: expected one of {', '.join(known)}, came {printable(wanted.format_)}")
    return form


def _own_format(path: str, settings: Settings) -> Format:
    """That of a file whose name does not say it."""
    try:
        return formats.by_name(formats.probe(Local().read(path, settings.max_file), settings.formats).format)
    except ImageProblem as problem:
        raise Refused(failure(path, problem.detail)) from None


def _is_directory(where: str) -> bool:
    return where.endswith("/") or Path(where).is_dir()


def _output(where: str, source: Source, form: Format | None, settings: Settings) -> str:
    """The template of an input's results."""
    if not _is_directory(where):
        own = formats.by_extension(where)
        if own is None and "{" not in where:
            known = " ".join(extension for entry in formats.FORMATS.values() for extension in entry.extensions)
            raise Refused(f"-o {printable(where)}: expected a directory (with / at its end) or one of {known}")
        if form and own is not form:
            raise Refused(f"-o {printable(where)}: expected a name of the format {form.name}, which -f asks for")
        return where
    if form is None and formats.by_extension(source.path) is None:
        form = _own_format(source.path, settings)
    name = f"{{stem}}{form.extensions[0]}" if form else "{stem}.{ext}"
    directory = literal(where) if Path(where).is_dir() else where
    return f"{directory.rstrip('/')}/{'{dir}/' * source.found}{name}"


def _job(images: list[dict[str, str]], wanted: Wanted, settings: Settings, store: Store) -> Job:
    document: dict[str, Any] = {"images": images, "operations": list(wanted.operations), "dry_run": wanted.dry_run}
    chosen = {
        "if_exists": wanted.if_exists, "quality": wanted.quality, "background": wanted.background,
        "metadata": wanted.metadata, "precise": wanted.precise,
    }  # fmt: skip
    document |= {name: value for name, value in chosen.items() if value}

    def said(place: Place) -> str:
        """The place as the command line has it."""
        if both := SAME.fullmatch(f"{place.pointer}: {place.detail}"):
            return _both(images, int(both[2]), int(both[1]), store)
        if match := re.match(r"/images/(\d+)/(input|output)", place.pointer):
            image = images[int(match[1])]
            where = printable(image["input"]) + (f" -> {printable(image['output'])}" if match[2] == "output" else "")
        elif match := re.match(r"/operations/(\d+)", place.pointer):
            where = f"--op {printable(wanted.operations[int(match[1])])}"
        else:
            where = f"--{place.pointer[1:]}"
        detail = re.sub(r"/images/(\d+)(/\w+)?", lambda other: printable(images[int(other[1])]["input"]), place.detail)
        return f"{where}: {detail}"

    return _read(document, settings, store, said)


def _both(images: list[dict[str, str]], one: int, other: int, store: Store) -> str:
    """That two inputs would have one result, and an -o by which all have their own."""
    name = _named(images[other]["output"], store.below_root(images[other]["input"]))
    for way in ("{stem}_{ext}", "{dir}/{stem}", "{dir}/{stem}_{ext}"):
        ways = [_by(way, image["output"]) for image in images]
        names = {_named(to, store.below_root(image["input"])) for to, image in zip(ways, images, strict=True)}
        if len(names) == len(images):
            out = f"-o {shlex.quote(ways[other])} keeps both"
            break
    else:
        out = "name each file once, and tell them apart by {dir}, {stem} and {ext} in -o"
    first, second = (printable(images[number]["input"]) for number in (one, other))
    return f"{first} and {second} would both become {printable(name)}; {printable(out)}"


def _by(way: str, template: str) -> str:
    """The template with more in its name."""
    return template.replace("{stem}", way.removeprefix("{dir}/") if "{dir}" in template else way)


def _named(template: str, below: str) -> str:
    """What a template makes of an input's path, as far as that decides it."""
    path = PurePath(below)
    folder = "" if path.parent == PurePath() else str(path.parent)
    known = {"{dir}": folder, "{stem}": path.stem, "{ext}": path.suffix[1:], "{{": "{", "}}": "}"}
    template = template if folder else template.replace("{dir}/", "")
    return re.sub("|".join(map(re.escape, known)), lambda found: known[found[0]], template)


def _read(document: Any, settings: Settings, store: Store, said: Any) -> Job:
    """The job of a document; what is wrong with it is said place by place."""
    try:
        job = request.process(document, settings, store)
    except RequestProblem as problem:
        raise Refused("\n".join(said(place) for place in problem.places) or problem.detail) from None
    if "if_exists" not in document and (own := [image.input for image in job.images if _is_own(image, store)]):
        raise Refused(
            "\n".join(f"{printable(name)}: its result would replace it" for name in own[:MOST_NAMED])
            + f"\n{len(own)} would be replaced by results: choose another -o, or --if-exists overwrite"
        )
    return job


def _is_own(image: Image, store: Store) -> bool:
    """Whether a result is written over its own input, as far as it is known before there are pixels."""
    names = [rendition.output.parts for rendition in image.renditions]
    return any(len(parts) == 1 and store.check_output(parts[0][0]) == image.key for parts in names)


def _streamed(job: Job, store: Store, wanted: Wanted, settings: Settings) -> int:
    """Do it all; the exit code."""
    pipeline = Pipeline(settings, store)
    pipeline.most_results = UNLIMITED
    show = Progress(len(job.images), quiet=wanted.quiet, as_json=wanted.as_json, plan=job.dry_run)
    with _interruptible() as interrupts, show:
        for outcome in pipeline.stream(job, gone=lambda: bool(interrupts)):
            show.add(outcome)
    return INTERRUPTED if show.left else int(show.counts["failed"] > 0)


def _to_standard_output(wanted: Wanted, data: bytes | None, settings: Settings) -> int:
    """One picture, of standard input or a file, to standard output."""
    if wanted.as_json or wanted.dry_run:
        raise Refused("-: expected standard output for the picture alone, came --json or --dry-run beside it")
    if sys.stdout and sys.stdout.isatty():
        raise Refused("-: expected standard output to be a file or a pipe, came a terminal")
    if data is None:
        sources, _ = _sources(wanted)
        if len(sources) > 1:
            raise Refused(f"-: expected one input for standard output, came {len(sources)}")
        data = Local().read(sources[0].path, settings.max_file)
    form = _format(wanted) or formats.by_name(formats.probe(data, settings.formats).format)
    store = Memory({STDIN: data})
    images = [{"input": STDIN, "output": f"result{form.extensions[0]}"}]
    code = _streamed(_job(images, wanted, settings, store), store, replace(wanted, quiet=True), settings)
    results = [made for name, made in store.files.items() if name != STDIN]
    if code == 0 and len(results) != 1:
        raise Refused(f"-: expected one result for standard output, came {len(results)}; -o takes a directory")
    if code == 0:
        out(results[0])
    return code


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """SIGINT is only counted; the second one ends the process at once."""
    interrupts: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        interrupts.append(number)
        if len(interrupts) > 1:
            os._exit(INTERRUPTED)
        # not print: this may be called while something is printed
        os.write(2, b"\nfalconimg: the images that run are finished first; ^C again ends at once\n")

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)
