"""Jobs while their processes are killed: `python -m tests.chaos --kills 24`; test_chaos.py runs it in short form.

Jobs are submitted, each with a key, until it is answered that they are on record. Meanwhile processes are killed
(SIGKILL) or frozen beyond their lease, at random. Who looks on checks each image that is reported done, at that
moment: its files are there, with the sizes and SHA-256s that are reported. In the end every job that was answered has
ended, every image once, and every file is the right one: each image of each job has a size of its own.
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
import struct
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
SECONDS = 240
OVERDUE = 20.0
"""So long after its lease and the last kill an image is lost, if nothing else is to be made: no sweep is that late."""


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
    ledger: Ledger = field(init=False)  # to look into

    def __post_init__(self) -> None:
        """Open it."""
        self.ledger = Ledger(self.settings.get("FALCONIMG_LEDGER", f"sqlite:///{self.root}/jobs.db"))

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
        self.ledger.close()

    def open(self) -> list[Any]:
        """The items that have not ended."""
        columns = ITEM.c.job, ITEM.c.number, ITEM.c.fence, ITEM.c.lease
        return self._rows(select(*columns).where(ITEM.c.state.in_(("pending", "running"))))

    def begun(self, job: str) -> bool:
        """Whether images are being made, or that job has none left to be made."""
        rows = self.open()
        return all(row.job != job for row in rows) or any(row.lease and row.lease > time.time() for row in rows)

    def lost(self) -> int:
        """How many images were left by who made them, when there is nothing else to be made; 0 until then."""
        leases = [row.lease for row in self.open()]
        return len(leases) if all(lease and lease < time.time() - OVERDUE for lease in leases) else 0

    def executions(self, ids: list[str]) -> int:
        """Of all images of these jobs."""
        [(count,)] = self._rows(select(func.sum(ITEM.c.fence)).where(ITEM.c.job.in_(ids)))
        return int(count)

    def _rows(self, query: Any) -> list[Any]:
        with self.ledger.engine.connect() as connection:
            return list(connection.execute(query).all())

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
    late: list[float] = field(default_factory=list)  # of executions cut off: seconds from the lease's end to the next
    lost: int = 0  # images that nobody makes any more, and that have not ended
    drained: float = 0.0  # seconds from the last kill to the last job's end
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kills = ", ".join(f"{count} {name}" for name, count in sorted(self.kills.items()))
        return (
            f"{self.jobs} jobs, {self.images} images, {self.checked} checked when they were reported; "
            f"{self.kills.total()} kills ({kills}); {self.again} executions again; "
            f"{len(self.late)} cut off, taken again {max(self.late, default=0):.1f} s after their lease at most; "
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
    (root / "in").mkdir()
    for number in range(images):
        width, height = _size(number)
        cv2.imwrite(str(root / f"in/{number}.png"), noise(height, width, seed=seed + number))
    with system(root, settings, prefix, store) as running:
        ids: list[str] = []
        turns, over = threading.Semaphore(0), threading.Event()
        looked = _begun(found, _look, running, ids, jobs, found)
        submitting = _begun(found, _submit, running, ids, jobs, images, turns)
        timing = _begun(found, _time, running, found, over)
        for turn in range(1, kills + 1):
            time.sleep(rng.uniform(*pauses))
            turns.release()  # so that there is something to be made
            _kill(running, rng, found, ids, min(turn, jobs))
        last, end = time.time(), time.monotonic() + SECONDS
        turns.release(jobs)
        submitting.join(SECONDS)
        while looked.is_alive() and time.monotonic() < end and not found.lost:
            looked.join(0.2)
            found.lost = running.lost() if time.time() > last + OVERDUE else 0
        over.set()
        timing.join()
        if found.kills.total() < kills:
            found.faults.append(f"{found.kills.total()} kills instead of {kills}")
        if found.lost:
            looked.join(SECONDS)
            found.faults.append(f"{found.lost} images were lost")
            return found
        if looked.is_alive() or submitting.is_alive() or found.faults:
            found.faults.append("it did not come to an end")
            return found
        ended = max(running.insist("GET", f"/v1/jobs/{id_}?limit=0")["ended"] for id_ in ids)
        found.drained = max(0.0, ended - last)
        for job in range(jobs):
            _check(running, job, ids[job], images, found)
        found.again = running.executions(ids) - found.images
    return found


def _size(number: int) -> tuple[int, int]:
    """The width and height of an image's input, unlike those of the others."""
    return SIDE + 10 * number, SIDE


def _factor(job: int) -> float:
    """A job's own, by which the height of a result shows whose it is."""
    return 2 + job / 100


def _image(running: System, number: int, output: str) -> dict[str, str]:
    return {"input": f"in/{number}.png", "output": f"{running.prefix}{output}.png"}


def _steps(job: int) -> list[str]:
    return [f"resize={_factor(job)}", "split"]


def _time(running: System, found: Found, over: threading.Event) -> None:
    """Note how long after their lease images were taken again, or ended, whose execution was cut off."""
    held: dict[tuple[str, int], tuple[int, float]] = {}  # fence and lease
    while not over.wait(0.05):
        now = time.time()
        rows = {(row.job, row.number): row for row in running.open()}
        for key, (fence, lease) in list(held.items()):
            row = rows.get(key)
            given_back = row and not row.lease and lease > now
            if row is None or row.fence > fence or given_back:
                del held[key]
                if lease < now:
                    found.late.append(now - lease)
        held |= {key: (row.fence, row.lease) for key, row in rows.items() if row.lease}


def _begun(found: Found, what: Callable[..., None], *arguments: Any) -> threading.Thread:
    """A thread that does that; what it raises is a fault of the run."""

    def safe() -> None:
        try:
            what(*arguments)
        except BaseException as error:  # noqa: BLE001
            found.faults.append(f"{what.__name__}: {error!r}")

    thread = threading.Thread(target=safe, daemon=True)
    thread.start()
    return thread


def _submit(running: System, ids: list[str], jobs: int, images: int, turns: threading.Semaphore) -> None:
    """Until all are on record, each at its turn; who gets no answer sends the same again."""
    for job in range(jobs):
        turns.acquire()
        document = {
            "images": [_image(running, number, f"out/{job}/{number}") for number in range(images)],
            "operations": _steps(job),
            "if_exists": ("overwrite", "error", "skip")[job % 3],
        }
        ids.append(running.insist("POST", "/v1/jobs", document, **{"Idempotency-Key": f"{running.name}-{job}"})["id"])


def _kill(running: System, rng: random.Random, found: Found, ids: list[str], count: int) -> None:
    """Kill one process, or freeze one that makes images until its leases are over; all of them run before.

    One that makes images is killed when so many jobs are on record and it is about to make the last one's, if possible.
    """

    def begun() -> bool:
        return len(ids) >= count and running.begun(ids[-1])

    [kind], freezes, which = rng.choices(["master", "web", "jobs"], [1, 1, 4]), rng.random() < 0.3, rng.random()
    end = time.monotonic() + 10
    while not (all(running.processes().values()) and (kind != "jobs" or begun())) and time.monotonic() < end:
        time.sleep(0.02)
    if kind == "jobs":
        time.sleep(0.15)  # the others claim as well
    with suppress(ProcessLookupError, IndexError):  # there is none: who counts finds out
        pids = running.processes()[kind]
        pid = pids[int(which * len(pids))]
        if kind == "jobs" and freezes:
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(LEASE * 2.5, _wake, [pid]).start()
            kind = "frozen"
        else:
            os.kill(pid, signal.SIGKILL)
        found.kills[kind] += 1


def _wake(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _look(running: System, ids: list[str], jobs: int, found: Found) -> None:
    """Check each image as soon as it is reported, until all have ended or some are lost."""
    seen: dict[str, int] = {}
    end = time.monotonic() + SECONDS
    while (len(seen) < jobs or any(seq >= 0 for seq in seen.values())) and not found.lost:
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


def _check(running: System, job: int, id_: str, images: int, found: Found) -> None:
    """A job has ended, with each image once and each file right."""
    answer = running.insist("GET", f"/v1/jobs/{id_}?limit=1000")
    if answer["state"] != "done" or answer["done"] != images:
        found.faults.append(f"job {id_}: {answer['state']}, {answer['done']} of {images} done")
    ends = Counter(event["index"] for event in _events(running, id_, 0) if event["kind"] == "image")
    if ends != Counter(range(images)):
        found.faults.append(f"job {id_}: ends {dict(ends)}")
    for image in answer["images"]:
        _check_files(running, image, found)
        number = image["index"]
        stem = f"{running.prefix}out/{job}/{number}"
        made = tuple(int(side * _factor(job)) for side in _size(number))
        if [output["path"] for output in image["outputs"]] != _parts(stem) or _made(running, stem) != made:
            found.faults.append(f"image {number} of job {job} has results of another: {image['outputs']}")
    number = job % images  # one is made once more, at once
    truth, stem = f"truth/{job}", f"{running.prefix}out/{job}/{number}"
    document = {"images": [_image(running, number, truth)], "operations": _steps(job)}
    running.insist("POST", "/v1/process", document)
    if [running.read(path) for path in _parts(stem)] != [running.read(path) for path in _parts(running.prefix + truth)]:
        found.faults.append(f"image {number} of job {job} is not what it is otherwise")


def _parts(stem: str) -> list[str]:
    """Where the results of an image are."""
    return [f"{stem}_{number}.png" for number in range(1, 5)]


def _made(running: System, stem: str) -> tuple[int, ...]:
    """The width and height of what was split into these, as the files have it."""
    try:
        sizes = [struct.unpack_from(">II", running.read(path), 16) for path in _parts(stem)]
    except struct.error:  # it is none
        return ()
    return sizes[0][0] + sizes[1][0], sizes[0][1] + sizes[2][1]


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
