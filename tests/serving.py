"""The real gunicorn on a free port of 127.0.0.1, for the tests that need one."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SECONDS = 60  # what any wait of these tests is bounded by


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    port: int
    root: Path
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """(status, JSON or text of the answer, its headers in lower case)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            data = None if body is None else json.dumps(body)
            kind = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, data, kind | {name.replace("_", "-"): v for name, v in headers.items()})
            answer = connection.getresponse()
            text = answer.read().decode()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return (
                answer.status,
                json.loads(text) if re.search("[/+]json", found.get("content-type", "")) else text,
                found,
            )
        finally:
            connection.close()

    def process_batch(self, images: list[dict[str, Any]], *operations: str, **more: Any) -> tuple[int, Any]:
        return self.ask("POST", "/v1/process", {"images": images, "operations": operations, **more})[:2]

    def workers(self) -> list[int]:
        return [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", self.log)]

    def wait_for(self, what: Any, seconds: float = SECONDS) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, f"waited in vain; the log:\n{self.log[-3000:]}"
            time.sleep(0.02)


def without_opencvs(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables but those that falconimg sets for OpenCV in this process."""
    return {name: value for name, value in environ.items() if not name.startswith("OPENCV_")}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def serving(
    root: Path, under: Sequence[str] = (), configuration: str = "python:falconimg.gunicorn_conf", **settings: str
) -> Iterator[Server]:
    """gunicorn as README starts it outside a checkout, below `root`; ended by its own process id.

    `under` is a command that becomes the one that follows it.
    """
    port = free_port()
    environ = {
        **os.environ,
        "HOME": str(root),
        "FALCONIMG_ROOT": str(root),
        "FALCONIMG_BIND": f"127.0.0.1:{port}",
        **{f"FALCONIMG_{name.upper()}": value for name, value in settings.items()},
    }
    log_file = root / "server.log"
    command = [*under, sys.executable, "-m", "gunicorn", "-c", configuration]
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, cwd=root, env=environ, stdout=log, stderr=log)
    server = Server(process, port, root, log_file)

    def answers() -> bool:
        assert process.poll() is None, server.log
        try:
            return server.ask("GET", "/readyz")[0] == 200
        except OSError:
            return False

    try:
        server.wait_for(answers)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def write(root: Path, name: str, pixels: Any) -> dict[str, str]:
    """An input of a batch, and where its PNG goes."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return {"input": name, "output": f"out/{Path(name).stem}.png"}


def read(path: Path) -> Any:
    return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
