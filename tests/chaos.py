"""Jobs while their processes are killed: `python -m tests.chaos --kills 24`; test_chaos.py runs it in short form.

Jobs are submitted, each with a key, until it is answered that they are on record. Meanwhile processes are killed
(SIGKILL) or frozen beyond their lease, at random. Who looks on checks each image that is reported done, at that
moment: its files are there, with the sizes and SHA-256s that are reported. In the end every job that was answered has
ended, every image once, and every file is the right one.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
from sqlalchemy import func, select

from falconimg.errors import Missing
from falconimg.jobs.ledger import ITEM, Ledger
from falconimg.stores import Store
from tests.conftest import noise
from tests.serving import free_port

LEASE = 2.0
SIDE = 500
STEPS = ["resize=2", "split"]
OPEN = ("queued", "running")
SECONDS = 240


@dataclass
class System:
    """A server that is started anew whenever it is gone, on one port and one directory."""

    root: Path
    settings: dict[str, str]
    prefix: str = ""  # of outputs
    store: Store | None = None  # where they are, if not below the root
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    name: str = field(default_factory=lambda: secrets.token_hex(8))  # of its keys: a ledger may have had other runs

    def keep(self) -> None:
        """Start it, if it does not run."""
        if self.process and self.process.poll() is None:
            return
        environ = {
            **os.environ, "HOME": str(self.root), "FALCONIMG_ROOT": str(self.root),
            "FALCONIMG_LEDGER": str(self.root / "jobs.db"),
            "FALCONIMG_BIND": f"127.0.0.1:{self.port}", "FALCONIMG_LEASE_SECONDS": str(LEASE),
            "FALCONIMG_JOBS": "on", "FALCONIMG_JOB_ATTEMPTS": "100", "FALCONIMG_JOB_WORKERS": "2", **self.settings,
        }  # fmt: skip
        with (self.root / "server.log").open("ab") as log:
            command = [sys.executable, "-m", "gunicorn", "-c", "python:falconimg.gunicorn_conf"]
            self.process = subprocess.Popen(command, cwd=self.root, env=environ, stdout=log, stderr=log)
        self.starts += 1

    def processes(self) -> dict[str, list[int]]:
        """Process ids by what they are: master, web and jobs."""
        found: dict[str, list[int]] = {"master": [], "web": [], "jobs": []}
        if self.process and self.process.poll() is None:
            found["master"].append(self.process.pid)
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                environ = (path / "environ").read_bytes()
                if (
                    f"FALCONIMG_BIND=127.0.0.1:{self.port}\0".encode() in environ
                    and int(path.name) not in found["master"]
                ):
                    is_job = b"\0worker\0--parent\0" in (path / "cmdline").read_bytes()
                    found["jobs" if is_job else "web"].append(int(path.name))
        return found

    def stop(self) -> None:
        """End it, and what it has left."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        for pids in self.processes().values():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.process:
            self.process.wait()

    def read(self, path: str) -> bytes:
        """A result, empty if it is not there."""
        try:
            return self.store.read(path, 10**9) if self.store else (self.root / path).read_bytes()
        except (OSError, Missing):
            return b""

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """(status, JSON); raises OSError or HTTPException."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            data = None if body is None else json.dumps(body)
            kind = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, data, kind | headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def insist(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The JSON of an answer that is no fault of the server's, however often it takes."""
        end = time.monotonic() + SECONDS
        while True:
            try:
                status, found = self.ask(method, path, body, **headers)
                if status < 500:
                    assert status < 300, (status, found)
                    return found
            except (OSError, http.client.HTTPException, ValueError):
                pass
            assert time.monotonic() < end, f"no answer to {method} {path}"
            time.sleep(0.05)


@dataclass
class Found:
    """What came of a run."""

    jobs: int = 0
    images: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    checked: int = 0  # images, at the moment that they were reported
    again: int = 0  # executions beyond the first
    lost: int = 0  # images that have not ended when nobody waits for them any more
    drained: float = 0.0  # seconds from the last kill to the last job's end
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kills = ", ".join(f"{count} {name}" for name, count in sorted(self.kills.items()))
        return (
            f"{self.jobs} jobs, {self.images} images, {self.checked} checked when they were reported; "
            f"{self.kills.total()} kills ({kills}); {self.again} executions again; "
            f"drained {self.drained:.1f} s after the last kill; {len(self.faults)} faults"
        )


@contextmanager
def system(root: Path, settings: dict[str, str], prefix: str, store: Store | None) -> Iterator[System]:
    """One that runs below `root`."""
    made = System(root, settings, prefix, store)
    over = threading.Event()

    def keep() -> None:
        while not over.is_set():
            made.keep()
            over.wait(0.1)

    keeping = threading.Thread(target=keep)
    try:
        keeping.start()
        made.insist("GET", "/readyz")
        yield made
    finally:
        over.set()
        keeping.join()
        made.stop()


def run(
    root: Path, kills: int, jobs: int, images: int, seed: int, prefix: str = "", store: Store | None = None,
    pauses: tuple[float, float] = (0.1, 1.0), **settings: str,
) -> Found:  # fmt: skip
    """One run; its faults say what was lost or wrong. Results are below `prefix`, in that store if one is given.

    `pauses` are the least and the most seconds between two kills: what begins slowly would never make an image.
    """
    rng, found = random.Random(seed), Found(jobs, jobs * images)  # noqa: S311  (of the kills)
    url = settings.get("FALCONIMG_LEDGER", f"sqlite:///{root}/jobs.db")
    (root / "in").mkdir()
    cv2.imwrite(str(root / "in/a.png"), noise(SIDE, SIDE, seed=seed))
    with system(root, settings, prefix, store) as running:
        ids: list[str] = []
        looked = threading.Thread(target=_guard(found, _look), args=[running, ids, jobs, images, found])
        submitting = threading.Thread(target=_guard(found, _submit), args=[running, ids, jobs, images])
        looked.start()
        submitting.start()
        for _ in range(kills):
            time.sleep(rng.uniform(*pauses))
            _kill(running, rng, found)
        last = time.time()
        submitting.join(SECONDS)
        looked.join(SECONDS)
        if looked.is_alive() or submitting.is_alive() or found.faults:
            found.faults.append("it did not come to an end")
            found.lost, _ = _counted(url)
            return found
        ended = max(running.insist("GET", f"/v1/jobs/{id_}?limit=0")["ended"] for id_ in ids)
        found.drained = max(0.0, ended - last)
        for id_ in ids:
            _check(running, id_, images, found)
        found.again = _counted(url)[1] - found.images
    return found


def _counted(url: str) -> tuple[int, int]:
    """The images that are open, and the executions of all."""
    ledger = Ledger(url)
    with ledger.engine.connect() as connection:
        open_ = select(func.count()).select_from(ITEM).where(ITEM.c.state.in_(("pending", "running")))
        counts = connection.scalar(open_) or 0, connection.scalar(select(func.sum(ITEM.c.fence))) or 0
    ledger.close()
    return counts


def _guard(found: Found, what: Callable[..., None]) -> Callable[..., None]:
    def safe(*arguments: Any) -> None:
        try:
            what(*arguments)
        except BaseException as error:  # noqa: BLE001  (it is a fault of the run)
            found.faults.append(f"{what.__name__}: {error!r}")

    return safe


def _submit(running: System, ids: list[str], jobs: int, images: int) -> None:
    """Until all are on record; who gets no answer sends the same again."""
    for job in range(jobs):
        document = {
            "images": [{"input": "in/a.png", "output": f"{running.prefix}out/{job}/{n}.png"} for n in range(images)],
            "operations": STEPS,
            "if_exists": ("overwrite", "error", "skip")[job % 3],
        }
        ids.append(running.insist("POST", "/v1/jobs", document, **{"Idempotency-Key": f"{running.name}-{job}"})["id"])
        time.sleep(0.3)


def _kill(running: System, rng: random.Random, found: Found) -> None:
    """Kill one process, or freeze one that makes images until its leases are over; all of them run before."""
    end = time.monotonic() + 10
    while not all((processes := running.processes()).values()) and time.monotonic() < end:
        time.sleep(0.02)
    [kind] = rng.choices(list(processes), [1, 1, 4])
    if not processes[kind]:
        return
    pid = rng.choice(processes[kind])
    with suppress(ProcessLookupError):
        if kind == "jobs" and rng.random() < 0.3:
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(LEASE * 2.5, _wake, [pid]).start()
            kind = "frozen"
        else:
            os.kill(pid, signal.SIGKILL)
        found.kills[kind] += 1


def _wake(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _look(running: System, ids: list[str], jobs: int, images: int, found: Found) -> None:
    """Check each image as soon as it is reported, until all have ended."""
    seen: dict[str, int] = {}
    end = time.monotonic() + SECONDS
    while len(seen) < jobs or any(seq >= 0 for seq in seen.values()):
        assert time.monotonic() < end, f"{sum(seq >= 0 for seq in seen.values())} of {len(seen)} jobs have not ended"
        for id_ in list(ids):
            after = seen.setdefault(id_, 0)
            if after < 0:
                continue
            for event in _events(running, id_, after):
                if event["kind"] == "image":
                    found.checked += 1
                    _check_files(running, event, found)
                seen[id_] = -1 if event["kind"] == "ended" else event["seq"]
        time.sleep(0.05)


def _events(running: System, id_: str, after: int) -> list[dict[str, Any]]:
    """Those that there are now."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    try:
        last = running.insist("GET", f"/v1/jobs/{id_}?limit=0")["events"]
        if last == after:
            return []
        connection.request("GET", f"/v1/jobs/{id_}/events?after={after}")
        answer = connection.getresponse()
        found: list[dict[str, Any]] = []
        while len(found) < last - after and (line := answer.readline()):
            if line.strip():
                found.append(json.loads(line))
        return found
    except (OSError, http.client.HTTPException, ValueError):
        return []
    finally:
        connection.close()


def _check_files(running: System, image: dict[str, Any], found: Found) -> None:
    if image["status"] != "done":
        found.faults.append(f"{image}")
        return
    for output in image["outputs"]:
        data = running.read(output["path"])
        if (len(data), hashlib.sha256(data).hexdigest()) != (output["bytes"], output["sha256"]):
            found.faults.append(f"{output['path']} was reported and is not that")


def _check(running: System, id_: str, images: int, found: Found) -> None:
    """A job has ended, with each image once and each file right."""
    job = running.insist("GET", f"/v1/jobs/{id_}?limit=1000")
    if job["state"] != "done" or job["done"] != images:
        found.faults.append(f"job {id_}: {job['state']}, {job['done']} of {images} done")
    ends = Counter(event["index"] for event in _events(running, id_, 0) if event["kind"] == "image")
    if ends != Counter(range(images)):
        found.faults.append(f"job {id_}: ends {dict(ends)}")
    hashes = set()
    for image in job["images"]:
        _check_files(running, image, found)
        hashes.add(tuple(output["sha256"] for output in image["outputs"]))
    if len(hashes) != 1:
        found.faults.append(f"job {id_}: {len(hashes)} kinds of results of one picture")


def main() -> None:
    """Runs from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("kills", 24), ("jobs", 20), ("images", 40), ("seed", 1), ("runs", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    for number in range(chosen.runs):
        with tempfile.TemporaryDirectory() as root:
            found = run(Path(root), chosen.kills, chosen.jobs, chosen.images, chosen.seed + number)
            print(found, *found.faults[:10], sep="\n")  # noqa: T201
            if found.faults:
                print((Path(root) / "server.log").read_text()[-5000:])  # noqa: T201
                sys.exit(1)


if __name__ == "__main__":
    main()
