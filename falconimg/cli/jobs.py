"""`falconimg jobs`: asking a server about jobs, with the standard library alone."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from tqdm import tqdm

from falconimg.cli import Failed, Refused, out
from falconimg.cli.probe import reached
from falconimg.cli.show import failure, has_room
from falconimg.settings import Settings

PAGE = 1000
"""Jobs or images of one answer."""
TRIES = 60
"""How often a server that does not answer is asked again while a job is watched, a second after each time."""
SECONDS = 60.0
"""How long an answer may take."""
COUNTED = ("done", "failed", "skipped", "cancelled")


class Client:
    """What a server says of jobs."""

    def __init__(self, url: str | None, settings: Settings) -> None:
        self._url, self._settings = url, settings

    def submit(self, request: str, key: str | None) -> str:
        """Put the request in a file on record; the job's id."""
        try:
            body = sys.stdin.buffer.read() if request == "-" else Path(request).read_bytes()
        except OSError as error:
            raise Refused(f"{request}: {error.strerror}") from None
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
        return str(self._ask("POST", "", body, headers)["id"])

    def status(self, id_: str) -> None:
        """Print it, with all of its images."""
        job = self._ask("GET", f"/{quote(id_, '')}?limit={PAGE}")
        while job["next"] is not None:
            page = self._ask("GET", f"/{quote(id_, '')}?limit={PAGE}&after={job['next']}")
            job["images"] += page["images"]
            job["next"] = page["next"]
        del job["next"]
        out(json.dumps(job, indent=2) + "\n")

    def list(self, state: str | None) -> None:
        """Print a line for each: its id, its state, when it was submitted, what has become of its images."""
        asked: dict[str, Any] = {"limit": PAGE} | ({"state": state} if state else {})
        while True:
            page = self._ask("GET", f"?{urlencode(asked)}")
            for job in page["jobs"]:
                at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job["created"]))
                out(f"{job['id']}  {job['state']:9}  {at}  {_counts(job)}\n")
            if page["next"] is None:
                return
            asked["before"] = page["next"]

    def watch(self, id_: str) -> int:
        """Show its progress until it ends; the exit code. What failed before it was retried is not said."""
        job = self._ask("GET", f"/{quote(id_, '')}?limit=0")
        failures: dict[int, str] = {}
        with tqdm(total=job["total"], unit="image", disable=not has_room(), leave=False) as bar:
            for event in self._events(id_):
                if event["kind"] == "image":
                    bar.update()
                    if "error" in event:
                        failures[event["index"]] = failure(event["input"], event["error"]["detail"])
                elif event["kind"] == "retried":
                    bar.update(-event["images"])
                    failures.clear()
                if event["seq"] >= job["events"]:  # what came before is history
                    for said in failures.values():
                        bar.write(f"falconimg: {said}", file=sys.stderr)
                    failures.clear()
        return self._said(self._ask("GET", f"/{quote(id_, '')}?limit=0"))

    def cancel(self, id_: str) -> None:
        """Cancel it, and say what became of it."""
        self._said(self._ask("DELETE", f"/{quote(id_, '')}"))

    def retry(self, id_: str) -> None:
        """Retry it, and say what became of it."""
        self._said(self._ask("POST", f"/{quote(id_, '')}/retry"))

    def _said(self, job: dict[str, Any]) -> int:
        print(f"falconimg: {job['state']}: {_counts(job)}", file=sys.stderr)  # noqa: T201
        return int(job["failed"] + job["cancelled"] > 0)

    def _events(self, id_: str) -> Iterator[dict[str, Any]]:
        """Those of a job until it has ended and nothing more is there; an answer that breaks off is asked for again."""
        after, failed = 0, 0
        while True:
            found = 0
            try:
                for line in self._open("GET", f"/{quote(id_, '')}/events?after={after}"):
                    if line.strip():
                        event = json.loads(line)
                        after, found, failed = event["seq"], found + 1, 0
                        yield event
                state = "" if found else self._ask("GET", f"/{quote(id_, '')}?limit=0")["state"]
            except (OSError, HTTPException, Failed) as error:  # it may be about to start anew
                failed += 1
                if failed > TRIES:
                    raise error if isinstance(error, Failed) else self._silent(error) from None
                time.sleep(1)
                continue
            if not found:
                if state not in ("queued", "running"):
                    return
                time.sleep(0.5)  # where others follow already, an answer ends at once

    def _ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Any:
        try:
            return json.loads(self._open(method, path, body, headers).read())
        except (OSError, HTTPException) as error:
            raise self._silent(error) from None

    def _silent(self, error: Exception) -> Failed:
        return Failed(f"{self._url or self._settings.bind}: no answer: {error}")

    def _open(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> HTTPResponse:
        """The answer, if it is not a refusal."""
        connection, root, _ = reached(self._url, self._settings)
        connection.timeout = SECONDS
        token = {"Authorization": f"Bearer {self._settings.token[0]}"} if self._settings.token else {}
        connection.request(method, f"{root}/v1/jobs{path}", body or None, {**token, **(headers or {})})
        answer = connection.getresponse()
        if answer.status >= 300:
            raise (Refused if answer.status < 500 else Failed)(_refusal(answer))
        return answer


def _counts(job: dict[str, Any]) -> str:
    """What has become of its images."""
    return f"{', '.join(f'{job[each]} {each}' for each in COUNTED if job[each]) or 'nothing yet'} of {job['total']}"


def _refusal(answer: HTTPResponse) -> str:
    """What the server says is wrong, each place in a line."""
    try:
        problem = json.loads(answer.read())
        places = [f"{place['pointer'] or 'request'}: {place['detail']}" for place in problem.get("errors", ())]
        return "\n".join(places) or f"{answer.status} {problem['title']}: {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"{answer.status} {answer.reason}"
