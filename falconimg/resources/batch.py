"""Batches: POST /v1/process, and the original's POST /items/."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from time import monotonic

import falcon

from falconimg import answers, request
from falconimg.job import Outcome, Report
from falconimg.log import logger, redacted
from falconimg.openapi import JSON, NDJSON
from falconimg.pipeline import report
from falconimg.resources.base import Closing, Resource, gone

STATUSES = {"done": falcon.HTTP_200, "partial": falcon.HTTP_207, "failed": falcon.HTTP_422}


class Process(Resource):
    """POST /v1/process: a batch, and its report."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the report, or with a line for each image as it finishes."""
        begun = monotonic()
        with ExitStack() as held:
            _, job = self.job(req, request.process, held)
            if req.client_prefers((JSON, NDJSON)) == NDJSON:
                resp.content_type = NDJSON
                lines = self._lines(self.pipeline.stream(job, gone=gone(req)), begun)
                held.callback(lines.close)
                resp.stream = Closing(lines, held.pop_all().close)
                return
            whole = self.pipeline.run(job, gone=gone(req))
        resp.status = STATUSES[whole.status]
        resp.content_type = JSON
        resp.data = reported(whole)

    def _lines(self, outcomes: Iterator[Outcome], begun: float) -> Generator[bytes, None, None]:
        counts: Counter[str] = Counter()
        for outcome in outcomes:
            counts[outcome.status] += 1
            yield answers.line({"index": outcome.index, **answers.image(outcome)})
        yield answers.line(answers.totals(report((), counts, begun)))


class Items(Resource):
    """POST /items/: the original's route, which answers with the document as it came."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Process the batch; what failed is in the log and counted in a header."""
        failed = 0
        with ExitStack() as held:
            body, job = self.job(req, request.items, held)
            for image in self.pipeline.stream(job, gone=gone(req)):
                failed += image.status == "failed"
                for note in image.notes:
                    logger.info("note", input=redacted(image.input), pointer=note.pointer, detail=note.detail)
        if failed:
            resp.set_header("Falconimg-Failed", str(failed))
        resp.content_type = JSON
        resp.data = body


def reported(whole: Report) -> bytes:
    """The report as JSON, in one line."""
    return answers.line({**answers.totals(whole), "images": [answers.image(image) for image in whole.images]})
