"""The servers, each started as its users do, and what a load costs them."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 120  # what any wait is bounded by
WORKERS = max(2, os.cpu_count() or 1)  # falconimg's default
HERE = Path(__file__).parent.parent

_GUNICORN = ("gunicorn", "--workers", "{workers}", "--worker-class", "gthread", "--threads", "8",
             "--worker-tmp-dir", "/dev/shm", "--no-control-socket", "--bind", "127.0.0.1:{port}")  # fmt: skip  # noqa: S108
COMMANDS = {
    "falconimg": ("gunicorn", "-c", "python:falconimg.gunicorn_conf"),
    "baseline": (
        "uvicorn",
        "--workers",
        "{workers}",
        "--host",
        "127.0.0.1",
        "--port",
        "{port}",
        "benchmarks.baseline:app",
    ),
    "libvips": (*_GUNICORN, "benchmarks.vips:app"),
    "bare": (*_GUNICORN, "benchmarks.bare:app"),
}


@dataclass(frozen=True)
class Request:
    """One request; `{client}` in the document's outputs becomes the client's number."""

    path: str
    document: dict[str, Any]

    def body(self, client: int) -> bytes:
        """Its JSON, for one of the clients."""
        return json.dumps(self.document).replace("{client}", str(client)).encode()


@dataclass(frozen=True)
class Load:
    """What a number of units of work cost: seconds each of CPU, and of the clock, side by side as they were."""

    cpu: float
    wall: float


@dataclass
class Server:
    """A server that runs, with its files below `root`."""

    process: subprocess.Popen[bytes]
    port: int
    root: Path
    keep: dict[int, http.client.HTTPConnection] = field(default_factory=dict)

    def processes(self) -> list[int]:
        """Its process and all below it."""
        parents = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
        found = [self.process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def cpu(self) -> float:
        """Seconds of CPU that all its processes have taken, by their clocks (clock_getcpuclockid(3))."""
        return sum(time.clock_gettime(~pid << 3 | 2) for pid in self.processes())

    def ask(self, request: Request, client: int = 0, kept: bool = False) -> bytes:
        """The answer's body; on the client's own connection if `kept`.

        Raises:
            SystemExit: the answer is not that all went well
        """
        connection = self.keep.pop(client, None) or http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        connection.request("POST", request.path, request.body(client), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200 or answer.getheader("Falconimg-Failed"):
            raise SystemExit(f"{request} was answered {answer.status}: {body[:1000]!r}")
        if kept:
            self.keep[client] = connection
        else:
            connection.close()
        return body

    def load(self, unit: Sequence[Request], count: int, clients: int = 1, kept: bool = False) -> Load:
        """So many units, `clients` of them at a time, each unit's requests one after the other."""
        turns = iter(range(count))
        faults = list[BaseException]()

        def work(client: int) -> None:
            try:
                for _ in turns:
                    for request in unit:
                        self.ask(request, client, kept)
            except BaseException as fault:  # noqa: BLE001  (it is raised below)
                faults.append(fault)

        threads = [threading.Thread(target=work, args=[client]) for client in range(clients)]
        cpu, wall = self.cpu(), time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken = Load((self.cpu() - cpu) / count, (time.monotonic() - wall) / count)
        if faults:
            raise faults[0]
        return taken

    def settle(self) -> None:
        """Wait until its workers have started: until it takes no CPU any more."""
        end = time.monotonic() + SECONDS
        before = -1.0
        while (now := self.cpu()) - before > 0.003:
            if time.monotonic() > end:
                raise SystemExit("a server that has nothing to do takes CPU all the time")
            before = now
            time.sleep(0.25)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(kind: str, root: Path, workers: int, **settings: str) -> Iterator[Server]:
    """One of COMMANDS on a free port, in the directory `root`; settings are falconimg's. It is ended by its own id."""
    port = free_port()
    own = {
        "workers": str(workers),
        "bind": f"127.0.0.1:{port}",
        "root": str(root),
        "max_pixels": "200M",
        "jobs": "off",
        **settings,
    }
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OPENCV_", "FALCONIMG_"))}
    environ |= {"PYTHONPATH": os.pathsep.join([str(HERE), environ.get("PYTHONPATH", "")]), "VIPS_CONCURRENCY": "1"}
    if kind == "falconimg":
        environ |= {f"FALCONIMG_{name.upper()}": value for name, value in own.items()}
    command = [part.format(workers=workers, port=port) for part in COMMANDS[kind]]
    log_path = root / f"{kind}-{port}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", *command], cwd=root, env=environ, stdout=log, stderr=log)  # noqa: S603
    server = Server(process, port, root)
    try:
        end = time.monotonic() + SECONDS
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{kind} did not start:\n{log_path.read_text()[-3000:]}")
            time.sleep(0.05)
        server.settle()
        yield server
    finally:
        for connection in server.keep.values():
            connection.close()
        process.terminate()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
