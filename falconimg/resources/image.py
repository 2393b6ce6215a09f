"""Single images: POST /v1/image, the picture in the body, and GET /v1/image/PATH; the result is the answer."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePosixPath
from time import monotonic, time
from typing import NamedTuple

import falcon
from falcon.media.multipart import MultipartFormHandler, MultipartParseOptions

from falconimg import errors, formats, metrics, parameters, request
from falconimg.cache import Cache, Entry
from falconimg.errors import ImageProblem, InvalidRequest, Place, Unencodable
from falconimg.formats.opencv import CODECS
from falconimg.job import Job, Outcome, Report
from falconimg.openapi import JSON
from falconimg.parameters import AUTO, SOURCE, Parameters
from falconimg.pipeline import Pipeline
from falconimg.pipeline import report as counted
from falconimg.resources.base import Closing, Resource, gone, whole_body
from falconimg.resources.batch import STATUSES, reported
from falconimg.settings import Settings
from falconimg.stores import File
from falconimg.stores.answer import Answer
from falconimg.stores.memory import Memory

ZIP, FORM = "application/zip", "multipart/form-data"
NAME = "image"  # of a picture that comes without one
FIELD = "file"  # of a form
OTHER = re.compile(r"/images/(\d+)/\w+")  # what a detail calls another image
MOST_NOTES = 2000  # bytes of the notes in a header


class Upload(NamedTuple):
    """One uploaded file."""

    name: str
    data: bytes


class Single(Resource):
    """What uploads and addresses share: from parameters to an answer."""

    def run(self, req: falcon.Request, wanted: Parameters, names: Sequence[str], store: Answer) -> Report:
        """Make what is wanted of these inputs of the store.

        Raises:
            InvalidRequest: with places in the query
            ImageProblem: nothing could be made
        """
        begun, accept = monotonic(), req.get_header("Accept") or ""
        images = self.pipeline.run(self.job_of(wanted, names, store, accept), store, gone(req)).images
        if wanted.format == AUTO and (left := [image.index for image in images if _type(image) == Unencodable.type]):
            # what the client likes best cannot hold these
            job = self.job_of(wanted, names, store, "")
            job = replace(job, images=tuple(image for image in job.images if image.index in left))
            again = {image.index: image for image in self.pipeline.run(job, store, gone(req)).images}
            images = tuple(again.get(image.index, image) for image in images)
        report = counted(tuple(map(_here, images)), Counter(image.status for image in images), begun)
        failed = [image for image in report.images if image.error]
        if len(names) == 1 and failed and failed[0].error:
            raise errors.by_type(failed[0].error.type)(failed[0].error.detail)
        return report

    def job_of(self, wanted: Parameters, names: Sequence[str], store: Answer, accept: str) -> Job:
        """The job; raises InvalidRequest with places in the query."""
        extensions = [formats.by_name(self.format(wanted, name, store, accept)).extensions[0] for name in names]
        try:
            return request.process(wanted.document(names, extensions), self.settings, store)
        except InvalidRequest as problem:
            places = [Place(here(place.pointer), OTHER.sub(rf"/{FIELD}/\1", place.detail)) for place in problem.places]
            raise InvalidRequest(problem.detail, places) from None

    def format(self, wanted: Parameters, name: str, store: Answer, accept: str) -> str:
        """The name of the result's format."""
        if wanted.format not in (AUTO, SOURCE):
            return wanted.format
        if wanted.format == AUTO and (negotiated := parameters.negotiate(accept)):
            return negotiated
        try:
            with self.pipeline.file(store.size(name, self.settings.max_file)):
                header = formats.probe(store.read(name, self.settings.max_file), self.settings.formats)
        except ImageProblem:
            return "png"  # whichever: the picture fails in its turn, of the same
        return parameters.shown_everywhere(header) if wanted.format == AUTO else header.format

    def answer(
        self, resp: falcon.Response, wanted: Parameters, report: Report, store: Answer, held: ExitStack, body: bool
    ) -> None:
        """The result as it is, or all of them in a zip; or the report, where nothing was to be made.

        Without a `body`, as HEAD wants it, nobody would close a stream.
        """
        if timing := metrics.server_timing(report.images):
            resp.set_header("Server-Timing", timing)
        if not report.done:
            resp.status, resp.content_type, resp.data = STATUSES[report.status], JSON, reported(report)
            return
        if report.failed or report.skipped:  # who closed one half of the connection only gets what there is
            resp.status = STATUSES["partial"]
            resp.set_header("Falconimg-Failed", str(report.failed))
            store.attach("report.json", reported(report))
        _answer(resp, wanted, _entry(report, store.alone) if store.alone else _zipped(report, b""))
        if store.at_hand:
            return
        resp.data, resp.content_length = None, store.spooled(_paths(report))
        if body:
            resp.stream = Closing(store.pieces(), held.pop_all().close)


class Uploaded(Single):
    """POST /v1/image: pictures in the body, results in the answer."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with what was made of the body."""
        wanted = parameters.parse(req.query_string, addressed=False)
        with ExitStack() as held:
            files = uploads(req, self.settings, self.pipeline, held)
            store = Answer(Memory(dict(files)))
            held.callback(store.close)
            report = self.run(req, wanted, [file.name for file in files], store)
            resp.set_header("Cache-Control", "no-store")
            if wanted.format == AUTO:
                resp.append_header("Vary", "Accept")
            self.answer(resp, wanted, report, store, held, body=True)


class Addressed(Single):
    """GET /v1/image/PATH: what was made of a file below the input root."""

    addressed = True

    def __init__(self, settings: Settings, pipeline: Pipeline) -> None:
        super().__init__(settings, pipeline)
        self.cache = Cache(settings.cache_dir, settings.cache_mb * 10**6) if settings.cache_mb else None

    @cached_property
    def versions(self) -> str:
        """All that decides what a result looks like besides the request."""
        found = {name: version(name) for name in ("falconimg", *CODECS)}
        with suppress(PackageNotFoundError):
            found["pillow"] = version("pillow")
        qualities = {form: getattr(self.settings, f"{form}_quality", None) for form in formats.FORMATS}
        return json.dumps([found, qualities])

    def on_get(self, req: falcon.Request, resp: falcon.Response, path: str) -> None:
        """Answer with what was made of the file, or 304 if the client has it."""
        wanted = parameters.parse(req.query_string, addressed=True)
        files = self.pipeline.store
        whole = files.check_input(path)
        below = files.below_root(whole)
        before = files.version(path, self.settings.max_file)
        accept = parameters.negotiate(req.get_header("Accept") or "") if wanted.format == AUTO else ""
        key = _digest(below, before, wanted.canonical, wanted.format, accept, self.versions)
        others = [(name, str(wanted.others.get(name, ""))) for name in ("download", "filename")]
        resp.etag = tag = _digest(key, parameters.query(others))
        resp.set_header("Cache-Control", self.control(req))
        resp.set_header("Accept-Ranges", "none")
        if wanted.format == AUTO:
            resp.append_header("Vary", "Accept")
        if (req.get_header("If-None-Match") or "").strip() == "*":
            with closing(Answer(files)) as store:  # what cannot be made is none that a client has
                self.run(req, replace(wanted, others={**wanted.others, "dry_run": True}), [path], store)
            resp.status = falcon.HTTP_304
            return
        if tag in (req.if_none_match or ()):
            resp.status = falcon.HTTP_304
            return
        with ExitStack() as held, ExitStack() as turn:
            kept = _digest(key, whole)  # servers of other roots may share the directory
            if self.cache:
                entry = self.cache.get(kept)
                if not entry:
                    turn.enter_context(self.cache.turn(kept, self.settings.wait_seconds))
                    entry = self.cache.get(kept)
                if entry:
                    metrics.CACHE_HITS.inc()
                    resp.set_header("Server-Timing", "cache;desc=hit")
                    _answer(resp, wanted, entry)
                    return
                metrics.CACHE_MISSES.inc()
            store = Answer(files)
            held.callback(store.close)
            report = self.run(req, wanted, [path], store)
            if files.version(path, self.settings.max_file) != before:
                resp.delete_header("ETag")
                resp.set_header("Cache-Control", "no-store")
            elif self.cache and store.finish(_paths(report)) <= self.cache.largest:
                made = _entry(report, store.alone) if store.alone else _zipped(report, b"".join(store.pieces()))
                self.cache.put(kept, made)
            self.answer(resp, wanted, report, store, held, body=req.method != "HEAD")

    on_head = on_get

    def control(self, req: falcon.Request) -> str:
        """How long browsers and caches may keep the answer; one that was asked for by a token is no other's."""
        seconds = self.settings.max_age
        if expires := req.context.get("expires"):
            seconds = min(seconds, max(0, int(expires - time())))
        who = "private" if self.settings.token and not req.context.get("signed") else "public"
        return f"{who}, max-age={seconds}" if seconds else "no-cache"


def uploads(req: falcon.Request, settings: Settings, pipeline: Pipeline, held: ExitStack) -> list[Upload]:
    """The files of the body: it is one itself, or a form that has some; `held` gets what is to be given back."""
    body = whole_body(req, settings.max_upload, "FALCONIMG_MAX_FILE, FALCONIMG_MEMORY")
    held.callback(pipeline.upload(len(body)).give_back)
    media_type = req.content_type or ""
    if falcon.parse_header(media_type)[0].lower() == FORM:
        return form(body, media_type, settings.max_images)
    if not body:
        raise InvalidRequest(f"expected a picture as the body, or a form with a field {FIELD}, came an empty body")
    return [Upload(NAME, body)]


def form(body: bytes, media_type: str, most: int) -> list[Upload]:
    """The files of a multipart/form-data body (RFC 7578), at most so many.

    Raises:
        InvalidRequest: it is badly formed, has another field, two files of one name, or none
    """
    options = MultipartParseOptions()
    options.max_body_part_count = most + 1
    options.max_body_part_buffer_size = len(body)
    found: dict[str, Upload] = {}
    try:
        for part in MultipartFormHandler(options).deserialize(io.BytesIO(body), media_type, len(body)):
            name = parameters.clean(part.filename or "") or NAME
            if part.name != FIELD:
                raise InvalidRequest(
                    f"expected a form with the field {FIELD} alone, and all else in the address, "
                    f"came {ascii(part.name)[:100]}"
                )
            if name in found:
                raise InvalidRequest(f"expected files with a name each, came {ascii(name)[:100]} twice")
            if len(found) == most:
                raise InvalidRequest(f"expected at most {most} files (FALCONIMG_MAX_IMAGES), came more")
            found[name] = Upload(name, part.stream.read())
    except (falcon.HTTPError, UnicodeDecodeError) as error:
        fault = error.description if isinstance(error, falcon.HTTPError) else "a name that is not UTF-8"
        raise InvalidRequest(f"expected a form ({FORM}), came one with a fault: {fault}") from None
    if not found:
        raise InvalidRequest(f"expected a form with the field {FIELD}, came none")
    return list(found.values())


def _entry(report: Report, file: File) -> Entry:
    output = report.images[0].outputs[0]
    sides = output.width, output.height
    return Entry(formats.by_name(output.format).media_type, file.path, sides, _notes(report), file.data)


def _zipped(report: Report, data: bytes) -> Entry:
    name = f"{PurePosixPath(report.images[0].input).stem if len(report.images) == 1 else 'images'}.zip"
    return Entry(ZIP, name, None, _notes(report), data)


def _paths(report: Report) -> list[str]:
    return [output.path for image in report.images for output in image.outputs]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _answer(resp: falcon.Response, wanted: Parameters, entry: Entry) -> None:
    """The entry, with the headers that say what it is."""
    resp.content_type, resp.data = entry.media_type, entry.data
    if entry.sides:
        resp.set_header("Image-Width", str(entry.sides[0]))
        resp.set_header("Image-Height", str(entry.sides[1]))
    if entry.notes:
        resp.set_header("Falconimg-Notes", entry.notes)
    # of a file on the disk it may be any
    name = wanted.others.get("filename") or PurePosixPath(parameters.clean(entry.name)).name
    if wanted.others.get("download"):
        resp.downloadable_as = name
    else:
        resp.viewable_as = name


def _notes(report: Report) -> str:
    """What went otherwise than asked, as JSON, as far as a header holds it; empty if there is nothing."""
    notes = [note._asdict() for image in report.images for note in image.notes]
    while len(text := json.dumps(notes)) > MOST_NOTES:
        notes.pop()
    return text if notes else ""


def _type(image: Outcome) -> str:
    return image.error.type if image.error else ""


def _here(image: Outcome) -> Outcome:
    """Its notes, at their places in the query."""
    return replace(image, notes=tuple(note._replace(pointer=here(note.pointer)) for note in image.notes))


def here(pointer: str) -> str:
    """A place of a batch's document as one of a query: its operations are `op`, its images the files."""
    if pointer.startswith("/images/"):
        return f"/{FIELD}/{pointer.split('/')[2]}"
    return pointer.replace("/operations", "/op", 1) if pointer.startswith("/operations") else pointer
