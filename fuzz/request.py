"""Any bytes as the body of a request: a Job, or a refusal that is short, bounded and safe to print."""

from __future__ import annotations

import json
import time

import falcon.testing

from falconimg import app, request
from falconimg.errors import Forbidden, InvalidRequest, NotJson, RequestProblem
from falconimg.job import Job
from falconimg.settings import Settings
from falconimg.stores.memory import Memory

SETTINGS = Settings(max_images=20, max_operations=8, max_outputs=100)  # small bounds, so that few bytes pass them
STORE = Memory()
SECONDS = 0.5  # CPU for a body of a few kilobytes, with every line of Python instrumented


def one(data: bytes) -> None:
    """Read the body as both routes do."""
    for read in (request.process, request.items):
        begun = time.thread_time()
        try:
            job = read(request.document(data, SETTINGS), SETTINGS, STORE, len(data))
        except (NotJson, InvalidRequest, Forbidden) as problem:
            refusal: RequestProblem | None = problem
        else:
            refusal = None
            assert isinstance(job, Job)
            assert len(job.images) <= SETTINGS.max_images
        taken = time.thread_time() - begun
        assert taken < SECONDS, f"{taken:.2f} s"
        if refusal:
            check(refusal, len(data))


def check(refusal: RequestProblem, size: int) -> None:
    """The answer that the application makes of a refusal."""
    req, resp = falcon.testing.create_req(), falcon.Response()
    req.context.request_id = "0" * 32
    app._problem(req, resp, refusal, {})
    assert resp.text is not None
    assert len(resp.text) < app.MOST_BYTES
    answer = json.loads(resp.text)
    assert answer["status"] == refusal.status
    places = answer.get("errors", [])
    assert len(places) <= (1 if size > request.LARGE_BODY else request.MOST_PLACES)
    assert bool(places) is not isinstance(refusal, NotJson)
    for text in (answer["detail"], *(text for place in places for text in place.values())):
        # so a log line holds it as it is
        assert text.isascii()
        assert text.isprintable() or not text
        # `expected ..., came ...`: 100 characters of what came, and a word or two; other sentences echo nothing
        assert len(text.partition(", came ")[2] or text) <= 110, text
