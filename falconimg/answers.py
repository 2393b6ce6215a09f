"""A report and its parts as JSON has them, whoever asked: a client of the server or the command line."""

from __future__ import annotations

import json
from typing import Any

from falconimg.job import Outcome, Report


def totals(whole: Report) -> dict[str, Any]:
    """All of a report but its images."""
    return {key: getattr(whole, key) for key in ("status", "done", "failed", "skipped", "ms")}


def image(outcome: Outcome) -> dict[str, Any]:
    """One image's part of the report; what there is nothing of is left out."""
    answer: dict[str, Any] = {
        "input": outcome.input,
        "status": outcome.status,
        "ms": outcome.ms,
        "outputs": [{k: v for k, v in vars(output).items() if v is not None} for output in outcome.outputs],
    }
    if outcome.notes:
        answer["notes"] = [note._asdict() for note in outcome.notes]
    if outcome.error:
        answer["error"] = vars(outcome.error)
    return answer


def line(value: dict[str, Any]) -> bytes:
    """The value in one line."""
    return json.dumps(value).encode() + b"\n"
