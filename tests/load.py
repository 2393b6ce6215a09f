"""Clients that ask a server under load, and say of each request what became of it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 120  # after which a request counts as one that hangs


@dataclass(frozen=True)
class Answer:
    """What became of a request: `end` is whole, refused (no connection), silent (not one byte of an answer), cut."""

    end: str
    status: int = 0
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def document(self) -> Any:
        return json.loads(self.body)


class Client:
    """One client, with a connection that it keeps, or a fresh one for each request."""

    def __init__(self, port: int, keeps: bool = False) -> None:
        self.port, self.keeps = port, keeps
        self.kept: http.client.HTTPConnection | None = None
        self.resent = 0

    def process(self, document: Any, written: Callable[[], bool] = lambda: False, **headers: str) -> Answer:
        """POST /v1/process.

        A server may close a connection that idles just when the next request is on its way. As every client does
        (RFC 9112, 9.3.1), one that came on a kept connection, and had no answer nor any of its outputs, is sent again.
        """
        reused = self.kept is not None
        answer = self._ask(document, headers)
        if reused and answer.end == "silent" and not written():
            self.resent += 1
            answer = self._ask(document, headers)
        return answer

    def _ask(self, document: Any, headers: dict[str, str]) -> Answer:
        begun = time.monotonic()
        connection = self.kept or http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        self.kept = None
        end, status, body, found = "refused", 0, b"", dict[str, str]()
        try:
            if connection.sock is None:
                connection.connect()
            end = "silent"
            kind = {"Content-Type": "application/json", "Connection": "keep-alive" if self.keeps else "close"}
            text = json.dumps(document)
            connection.request("POST", "/v1/process", text, kind | headers)
            response = connection.getresponse()
            end, status = "cut", response.status
            found = {name.lower(): value for name, value in response.getheaders()}
            body = response.read()
            end = "whole"
        except http.client.BadStatusLine as error:
            end = "silent" if isinstance(error, http.client.RemoteDisconnected) else "cut"
        except (OSError, http.client.HTTPException):
            pass
        if end == "whole" and self.keeps and connection.sock is not None:
            self.kept = connection
        else:
            connection.close()
        return Answer(end, status, body, found, time.monotonic() - begun)

    def close(self) -> None:
        if self.kept:
            self.kept.close()


@contextmanager
def running(*clients: Callable[[threading.Event], None]) -> Iterator[threading.Event]:
    """Each in a thread of its own, until the event is set; what one raises stops all, and is raised here."""
    stop, faults = threading.Event(), list[BaseException]()

    def run(client: Callable[[threading.Event], None]) -> None:
        try:
            client(stop)
        except BaseException as error:  # noqa: BLE001  (it is raised below)
            faults.append(error)
            stop.set()

    threads = [threading.Thread(target=run, args=[client]) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield stop
    finally:
        stop.set()
        for thread in threads:
            thread.join(SECONDS)
    assert not any(thread.is_alive() for thread in threads)
    if faults:
        raise faults[0]


def memory(pid: int | str, what: str = "VmRSS") -> int:
    """Bytes of a process by /proc: VmRSS now, VmHWM at most so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what + ":"))


def handles(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def slope(samples: list[tuple[float, float]]) -> float:
    """Of the line with least squares through (x, y)."""
    count = len(samples)
    x, y = (sum(sample[axis] for sample in samples) / count for axis in (0, 1))
    return sum((a - x) * (b - y) for a, b in samples) / sum((a - x) ** 2 for a, _ in samples)


def percentile(values: list[float], part: float) -> float:
    """0 of no values."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))] if values else 0.0
