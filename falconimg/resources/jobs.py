"""Jobs: POST and GET /v1/jobs, and each of them at its id."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import falcon

from falconimg.errors import InvalidRequest, LedgerProblem
from falconimg.jobs import engine, submission
from falconimg.jobs.record import OPEN
from falconimg.jobs.worker import ring_unheard
from falconimg.openapi import EVENTS, JOB_STATES, NDJSON
from falconimg.pipeline import Pipeline
from falconimg.resources.base import Closing, Resource, asked, wrong
from falconimg.schema import came
from falconimg.settings import Settings

if TYPE_CHECKING:
    from falconimg.jobs.ledger import Ledger

KEY = re.compile(r"[!-~]{1,255}", re.ASCII)
ID = re.compile(r"[0-9a-f]{1,32}", re.ASCII)
"""A job's, or the beginning of one: those of later jobs sort behind it."""
PAGE = 100
"""Images or jobs of an answer, unless `limit` says otherwise."""
MOST = 1000
LOOK_SECONDS = 0.25
"""How often a ledger is looked at for who follows events."""
FOLLOW_SECONDS = 30.0
"""How long an answer follows events; then the client asks again from where it was."""
ALIVE_SECONDS = 5.0
"""How often a line says that the connection is still there."""


class OfJobs(Resource):
    """What each of these is given besides: the ledger of its process."""

    def __init__(self, settings: Settings, pipeline: Pipeline, ledger: Ledger) -> None:
        super().__init__(settings, pipeline)
        self.ledger = ledger
        self.ring = engine.bell(settings)

    def tell(self) -> None:
        """Have the engine, if there is one, know that something waits; a sweeper does where this fails."""
        if self.ring:
            with suppress(LedgerProblem):
                ring_unheard(self.ledger, self.ring)


class Jobs(OfJobs):
    """POST /v1/jobs: put a job on record. GET: the newest."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer once it is on record: 202, and where it is."""
        key = req.get_header("Idempotency-Key")
        if key is not None and not KEY.fullmatch(key):
            raise InvalidRequest(f"expected an Idempotency-Key of 1 to 255 visible ASCII characters, came {came(key)}")

        def submit(value: Any, settings: Settings, store: Any, size: int) -> tuple[str, bool]:
            return submission.submit(value, settings, store, self.ledger, size, key)

        with ExitStack() as held:
            _, (id_, _) = self.job(req, submit, held)
        self.tell()
        resp.status = falcon.HTTP_202
        resp.set_header("Location", f"{req.root_path}/v1/jobs/{id_}")
        resp.media = self.ledger.job(id_)

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with a page of them, the newest first."""
        given = asked(req, "state", "before", "limit")
        state = given.get("state")
        if state is not None and state not in JOB_STATES:
            raise wrong("state", f"one of {', '.join(JOB_STATES)}", state)
        before = given.get("before")
        if before is not None and not ID.fullmatch(before):
            raise wrong("before", "the id of a job", before)
        limit = _whole(given, "limit", PAGE, 1, MOST)
        jobs = self.ledger.jobs(state, before, limit)
        resp.media = {"jobs": jobs, "next": jobs[-1]["id"] if len(jobs) == limit else None}


class Job(OfJobs):
    """GET /v1/jobs/ID: what became of it so far. DELETE: what is not begun will not be."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, id_: str) -> None:
        """Answer with its state and a page of its images."""
        given = asked(req, "after", "limit")
        job = self.ledger.job(id_)
        after = _whole(given, "after", -1, -1, job["total"] - 1)
        limit = _whole(given, "limit", PAGE, 0, MOST)
        images = self.ledger.images(id_, after, limit)
        more = images and images[-1]["index"] < job["total"] - 1
        resp.media = {**job, "images": images, "next": images[-1]["index"] if more else None}
        resp.set_header("Cache-Control", "no-store")

    def on_delete(self, req: falcon.Request, resp: falcon.Response, id_: str) -> None:
        """Cancel it; what runs finishes."""
        asked(req)
        resp.media = self.ledger.cancel(id_)


class Retry(OfJobs):
    """POST /v1/jobs/ID/retry: the failed images again."""

    def on_post(self, req: falcon.Request, resp: falcon.Response, id_: str) -> None:
        """Put them on record again."""
        asked(req)
        resp.status = falcon.HTTP_202
        resp.media = submission.retry(id_, self.settings, self.pipeline.store, self.ledger)
        self.tell()


class Events(OfJobs):
    """GET /v1/jobs/ID/events: what happens to it, from any event on, as lines of JSON or as Server-Sent Events.

    The answer ends with the job, or after a while: then it is asked for again with the last `seq`, as browsers do.
    Those who follow have a thread each; when half of all do, a further one gets what there is.
    """

    def __init__(self, settings: Settings, pipeline: Pipeline, ledger: Ledger) -> None:
        super().__init__(settings, pipeline, ledger)
        self.places = threading.BoundedSemaphore(max(1, settings.threads // 2))

    def on_get(self, req: falcon.Request, resp: falcon.Response, id_: str) -> None:
        """Answer with the events behind `after` (or Last-Event-ID), and those that come."""
        given = asked(req, "after")
        most = self.ledger.job(id_)["events"]
        after = _whole(given, "after", 0, 0, most)
        if (last := req.get_header("Last-Event-ID")) is not None:
            # a browser that comes back asks as it did first, and names the last one besides
            if not _is_whole(last, 0, most):
                raise InvalidRequest(f"expected a Last-Event-ID from 0 to {most}, came {came(last)}")
            after = int(last)
        lines = req.client_prefers((NDJSON, EVENTS)) != EVENTS
        resp.content_type = NDJSON if lines else EVENTS
        resp.set_header("Cache-Control", "no-store")
        follows = self.places.acquire(blocking=False)
        found = self._found(id_, after, follows)
        resp.stream = Closing(
            (_line(each) if lines else _event(each) for each in found), self.places.release if follows else _nothing
        )

    def _found(self, id_: str, after: int, follows: bool) -> Iterator[dict[str, Any] | None]:
        """The events; None where nothing happened for a while."""
        end = time.monotonic() + FOLLOW_SECONDS
        said = time.monotonic()
        while True:
            job = self.ledger.job(id_)  # which is no newer than the events that follow
            before = after
            for each in self.ledger.events(id_, after, MOST):
                yield each
                after, said = each["seq"], time.monotonic()
            if before < after < job["events"]:
                continue
            if not (job["state"] in OPEN and follows) or time.monotonic() > end or self.pipeline.stopping:
                return
            if time.monotonic() > said + ALIVE_SECONDS:
                yield None
                said = time.monotonic()
            time.sleep(LOOK_SECONDS)


def _line(each: dict[str, Any] | None) -> bytes:
    return json.dumps(each).encode() + b"\n" if each else b"\n"


def _event(each: dict[str, Any] | None) -> bytes:
    """As the HTML standard has it, 9.2; a colon begins a comment."""
    if each is None:
        return b":\n\n"
    return f"id: {each['seq']}\nevent: {each['kind']}\nretry: 1000\ndata: {json.dumps(each)}\n\n".encode()


def _nothing() -> None:
    pass


def _whole(given: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    text = given.get(name)
    if text is None:
        return default
    if not _is_whole(text, least, most):
        raise wrong(name, f"a whole number from {least} to {most}", text)
    return int(text)


def _is_whole(text: str, least: int, most: int) -> bool:
    return bool(re.fullmatch(r"-?\d{1,9}", text, re.ASCII)) and least <= int(text) <= most
