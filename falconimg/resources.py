"""One class for each URL; the table ROUTES is at the foot."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property
from importlib import resources
from importlib.metadata import version
from time import monotonic
from typing import Any, ClassVar

import falcon
from gunicorn.http.errors import ParseException

from falconimg import formats, openapi, operations, request
from falconimg.errors import BodyTooLarge, IncompleteBody, WrongMediaType
from falconimg.formats.opencv import libraries
from falconimg.job import Job, Outcome, Report
from falconimg.log import logger
from falconimg.openapi import JSON, NDJSON
from falconimg.pipeline import Pipeline, report
from falconimg.settings import Settings
from falconimg.stores import Store

CODECS = ("opencv-python-headless", "simplejpeg", "deflate", "numpy")
STATUSES = {"done": falcon.HTTP_200, "partial": falcon.HTTP_207, "failed": falcon.HTTP_422}


class Resource:
    """What every resource is given: the settings and the pipeline of its process."""

    open: ClassVar[bool] = False  # whether it is answered without a token where tokens are set

    def __init__(self, settings: Settings, pipeline: Pipeline) -> None:
        self.settings, self.pipeline = settings, pipeline

    def job(
        self, req: falcon.Request, reader: Callable[[Any, Settings, Store, int], Job], held: ExitStack
    ) -> tuple[bytes, Job]:
        """The body and the job that it describes; `held` gets what is to be given back once the job is done with."""
        # one without a type is refused as well: a page of elsewhere could send it unasked
        media_type = req.content_type or ""
        if not _is_json(media_type):
            raise WrongMediaType(f"expected {JSON}, came {media_type[:100]!a}")
        coding = req.get_header("Content-Encoding") or "identity"
        if coding.lower() != "identity":
            raise WrongMediaType(f"expected no Content-Encoding, came {coding[:100]!a}")
        coding = req.get_header("Transfer-Encoding") or "chunked"
        if coding.lower() != "chunked":
            raise WrongMediaType(f"expected no Transfer-Encoding but chunked, came {coding[:100]!a}")
        body = _body(req, self.settings.max_body)
        held.callback(self.pipeline.document(len(body)).give_back)
        return body, reader(request.document(body, self.settings), self.settings, self.pipeline.store, len(body))


class Process(Resource):
    """POST /v1/process: a batch, and its report."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the report, or with a line for each image as it finishes."""
        begun = monotonic()
        with ExitStack() as held:
            _, job = self.job(req, request.process, held)
            if req.client_prefers((JSON, NDJSON)) == NDJSON:
                resp.content_type = NDJSON
                lines = self._lines(self.pipeline.stream(job), begun)
                held.callback(lines.close)
                resp.stream = Closing(lines, held.pop_all().close)
                return
            whole = self.pipeline.run(job)
        resp.status = STATUSES[whole.status]
        resp.content_type = JSON
        resp.data = _line({**_totals(whole), "images": [_outcome(image) for image in whole.images]})

    def _lines(self, outcomes: Iterator[Outcome], begun: float) -> Generator[bytes, None, None]:
        counts: Counter[str] = Counter()
        for outcome in outcomes:
            counts[outcome.status] += 1
            yield _line({"index": outcome.index, **_outcome(outcome)})
        yield _line(_totals(report((), counts, begun)))


class Closing(Iterator[bytes]):
    """An answer's lines, and what is to be done when it ends, even if not one was asked for."""

    def __init__(self, lines: Iterator[bytes], close: Callable[[], None]) -> None:
        self._lines, self.close = lines, close

    def __next__(self) -> bytes:
        return next(self._lines)


class Items(Resource):
    """POST /items/: the original's route, which answers with the document as it came."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Process the batch; what failed is in the log and counted in a header."""
        failed = 0
        with ExitStack() as held:
            body, job = self.job(req, request.items, held)
            for image in self.pipeline.stream(job):
                failed += image.status == "failed"
                for note in image.notes:
                    logger.info("note", input=image.input, pointer=note.pointer, detail=note.detail)
        if failed:
            resp.set_header("Falconimg-Failed", str(failed))
        resp.content_type = JSON
        resp.data = body


class Information(Resource):
    """GET /: what this server is."""

    open = True

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with names, versions, tables and limits."""
        read = formats.readable(self.settings.formats)
        resp.media = {
            "name": "falconimg",
            "version": version("falconimg"),
            "links": {"docs": "docs", "openapi": "openapi.json", "process": "v1/process", "items": "items/"},
            "operations": [form.step for entry in operations.OPERATIONS.values() for form in entry.forms],
            "formats": {
                form.name: {
                    "media_type": form.media_type,
                    "extensions": form.extensions,
                    "reads": form.reads if form.name in read else None,
                    "writes": form.writes,
                }
                for form in formats.FORMATS.values()
            },
            "limits": {name: value for name, value in asdict(self.settings).items() if name.startswith("max_")},
        }

    on_head = on_get


class OpenApi(Resource):
    """GET /openapi.json."""

    open = True

    @cached_property
    def document(self) -> bytes:
        """The document, made once."""
        return json.dumps(openapi.document(self.settings)).encode()

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the document."""
        resp.content_type, resp.data = JSON, self.document

    on_head = on_get


class Docs(Resource):
    """GET /docs and its files: Swagger UI, shipped in the package; it loads nothing from elsewhere."""

    open = True
    files: ClassVar = {
        "index.html": "text/html; charset=utf-8",
        "start.js": "text/javascript; charset=utf-8",
        "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
        "swagger-ui.css": "text/css; charset=utf-8",
    }
    # Swagger UI sets style attributes and shows images of its own as data.
    policy = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"

    page = "index.html"

    def on_get(self, req: falcon.Request, resp: falcon.Response, name: str | None = None) -> None:
        """Answer with the page, or with one of its files."""
        if name == self.page or name not in (None, *self.files):
            raise falcon.HTTPRouteNotFound
        name = name or self.page
        resp.content_type = self.files[name]
        resp.set_header("Content-Security-Policy", self.policy)
        resp.data = (resources.files("falconimg") / "docs" / name).read_bytes()

    on_head = on_get


class Alive(Resource):
    """GET /livez: the process answers."""

    open = True

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer, nothing else."""
        resp.media = {"status": "alive"}

    on_head = on_get


class Ready(Resource):
    """GET /readyz: whether requests can be taken, and which codecs are inside."""

    open = True

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer 200, or 503 with what is wrong."""
        wrong = self.pipeline.faults()
        if wrong:
            logger.warning("not_ready", faults=wrong)
            resp.status = falcon.HTTP_503
        resp.media = {
            "status": "not ready" if wrong else "ready",
            "faults": wrong,
            "version": version("falconimg"),
            "codecs": {name: version(name) for name in CODECS},
            "opencv": libraries(),
        }

    on_head = on_get


def _is_json(media_type: str) -> bool:
    kind, parameters = falcon.parse_header(media_type)
    return kind.lower() == JSON and parameters.get("charset", "utf-8").lower() in ("utf-8", "utf8", "us-ascii")


def _body(req: falcon.Request, limit: int) -> bytes:
    """The whole body, never more than `limit` bytes of it."""
    length = req.content_length
    if length is not None and length > limit:
        raise BodyTooLarge(f"expected at most {limit} bytes (FALCONIMG_MAX_BODY), came {length}")
    if length is None and "chunked" not in (req.get_header("Transfer-Encoding") or "").lower():
        return b""
    wanted = limit + 1 if length is None else length
    parts, size = [], 0
    try:
        # Falcon's bounded stream reads a chunked body as empty
        while size < wanted and (part := req.stream.read(min(wanted - size, 1 << 20))):
            parts.append(part)
            size += len(part)
    except (OSError, ParseException) as error:
        raise IncompleteBody(f"expected a whole body, came one that ends early or is badly chunked: {error}") from None
    if size > limit:
        raise BodyTooLarge(f"expected at most {limit} bytes (FALCONIMG_MAX_BODY), came more")
    if length is not None and size < length:
        raise IncompleteBody(f"expected {length} bytes by its Content-Length, came {size}")
    return b"".join(parts)


def _totals(whole: Report) -> dict[str, Any]:
    return {key: getattr(whole, key) for key in ("status", "done", "failed", "skipped", "ms")}


def _outcome(image: Outcome) -> dict[str, Any]:
    """One image's part of the report; what there is nothing of is left out."""
    answer: dict[str, Any] = {
        "input": image.input,
        "status": image.status,
        "ms": image.ms,
        "outputs": [{k: v for k, v in vars(output).items() if v is not None} for output in image.outputs],
    }
    if image.notes:
        answer["notes"] = [note._asdict() for note in image.notes]
    if image.error:
        answer["error"] = vars(image.error)
    return answer


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


ROUTES: dict[str, type[Resource]] = {
    "/": Information,
    "/items": Items,
    "/items/": Items,
    "/v1/process": Process,
    "/openapi.json": OpenApi,
    "/docs": Docs,
    "/docs/{name}": Docs,
    "/livez": Alive,
    "/healthz": Alive,
    "/health": Alive,
    "/readyz": Ready,
}
