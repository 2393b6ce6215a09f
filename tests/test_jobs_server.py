"""Jobs by the real server: its processes are killed, frozen and stopped, and nothing is lost."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import pty
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from falconimg.errors import LedgerProblem, SettingsProblem
from falconimg.jobs import ledger as ledgers
from falconimg.jobs import submission
from falconimg.resources.jobs import FOLLOW_SECONDS
from falconimg.settings import Settings
from falconimg.stores.routed import opened
from tests import services
from tests.conftest import noise
from tests.serving import SECONDS, Server, free_port, read, serving, write
from tests.test_webhooks import Receiver

LEASE = 1.0
# What is done to the processes that make images: loaded by Python's own sitecustomize before anything of theirs.
CUSTOM = """
import os, signal, sys, time
if "worker" in sys.orig_argv:
    import falconimg.jobs.execution as execution, falconimg.jobs.ledger as ledger, falconimg.jobs.worker as worker
    from falconimg.stores.files import Files

    def once():
        try:
            os.close(os.open("happened", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def die():
        if once():
            os.kill(os.getpid(), signal.SIGKILL)

    def wait():
        with open("waits.new", "w") as file:
            file.write(str(os.getpid()))
        os.rename("waits.new", "waits")
        for _ in range(6000):
            if os.path.exists("go on"):
                break
            time.sleep(0.01)

    def before(owner, name, what, only=lambda *_: True):
        real = getattr(owner, name)
        def wrapped(*arguments, **more):
            if only(*arguments):
                what()
            return real(*arguments, **more)
        setattr(owner, name, wrapped)

    def after(owner, name, what, only=lambda *_: True):
        real = getattr(owner, name)
        def wrapped(*arguments, **more):
            result = real(*arguments, **more)
            if only(*arguments):
                what()
            return result
        setattr(owner, name, wrapped)
"""
CRASHES = {
    "after the claim": "before(worker, 'made', die)",
    "after reading": "after(execution.Fenced, 'read', die)",
    "before it is recorded what comes": "before(ledger.Ledger, 'about_to_publish', die)",
    "before the files are written": "after(ledger.Ledger, 'about_to_publish', die)",
    "with a file half written": "real = os.write\n"
    "    def half(handle, data):\n"
    "        if len(data) > 2000 and once():\n"
    "            real(handle, data[: len(data) // 2])\n"
    "            os.kill(os.getpid(), signal.SIGKILL)\n"
    "        return real(handle, data)\n"
    "    os.write = half",
    "before the first is in place": "before(os, 'rename', die); before(os, 'link', die)",
    "between two": "seen = []\n"
    "    before(os, 'link', die, lambda *_: seen.append(1) or len(seen) == 3)\n"
    "    before(os, 'rename', die, lambda *_: seen.append(1) or len(seen) == 3)",
    "before the end is recorded": "before(ledger.Ledger, 'end_and_claim', die, lambda _, ends, turn: ends)",
    "while the end is recorded": "before(ledger, '_end_if_all_have', die)",
    "after the end is recorded": "after(ledger.Ledger, 'end_and_claim', die, lambda _, ends, turn: ends)",
}


def customized(root: Path, custom: str) -> str:
    """PYTHONPATH for processes in which that is done when they make images."""
    (root / "site").mkdir(exist_ok=True)
    (root / "site/sitecustomize.py").write_text(CUSTOM + f"    {custom or 'pass'}\n")
    return os.pathsep.join(filter(None, [str(root / "site"), os.environ.get("PYTHONPATH", "")]))


@contextmanager
def jobs(root: Path, custom: str = "", **settings: str) -> Iterator[Server]:
    """A server with jobs; `custom` is done in the processes that make the images."""
    chosen = {"jobs": "on", "ledger": str(root / "jobs.db"), "lease_seconds": str(LEASE), "workers": "1", **settings}
    with serving(root, ("env", f"PYTHONPATH={customized(root, custom)}"), **chosen) as server:
        yield server


def submit(server: Server, images: list[dict[str, Any]], *operations: str, **more: Any) -> str:
    status, answer, _ = server.ask("POST", "/v1/jobs", {"images": images, "operations": operations, **more})
    assert status == 202, answer
    return str(answer["id"])


def shown(server: Server, id_: str) -> dict[str, Any]:
    found: dict[str, Any] = server.ask("GET", f"/v1/jobs/{id_}?limit=1000")[1]
    return found


def ended(server: Server, id_: str) -> dict[str, Any]:
    server.wait_for(lambda: shown(server, id_)["ended"])
    return shown(server, id_)


def events(server: Server, id_: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.ask("GET", f"/v1/jobs/{id_}/events")[1].splitlines() if line]


def makers(server: Server) -> list[int]:
    """The processes that make images."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"\0--parent\0{server.process.pid}\0".encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


def check(root: Path, job: dict[str, Any]) -> None:
    """Each output is there, and is the one that is reported."""
    for image in job["images"]:
        for output in image["outputs"]:
            data = (root / output["path"]).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (output["bytes"], output["sha256"])


def test_the_one_command_answers_and_makes(tmp_path: Path) -> None:
    image = write(tmp_path, "a.png", picture := noise(40, 60))
    with jobs(tmp_path) as server:
        job = ended(server, submit(server, [image], "flip=h"))
        check(tmp_path, job)
        assert job["state"] == "done"
        assert (read(tmp_path / "out/a.png") == picture[:, ::-1]).all()
        assert len(makers(server)) == 1
        [pid] = makers(server)
    assert not Path(f"/proc/{pid}").exists()  # it ended with the server
    assert "Traceback" not in server.log


@contextmanager
def makers_alone(root: Path, custom: str, count: int, settings: Settings) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that make images, without a server."""
    environ = {
        **os.environ, "PYTHONPATH": customized(root, custom), "FALCONIMG_ROOT": str(root),
        "FALCONIMG_LEDGER": str(root / "jobs.db"), "FALCONIMG_LEASE_SECONDS": str(LEASE),
    }  # fmt: skip
    command = [sys.executable, "-c", "from falconimg.cli import main; main()", "worker"]
    started = [subprocess.Popen(command, cwd=root, env=environ) for _ in range(count)]
    try:
        yield started
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.mark.parametrize("crash", CRASHES.values(), ids=CRASHES)
def test_a_worker_that_is_killed_anywhere_loses_and_doubles_nothing(tmp_path: Path, crash: str) -> None:
    document = {"images": [write(tmp_path, "a.png", noise(80, 80))], "operations": ["split"], "if_exists": "error"}
    settings = Settings(root=tmp_path, ledger=f"sqlite:///{tmp_path}/jobs.db")
    ledger = ledgers.Ledger(settings.ledger)
    id_, _ = submission.submit(document, settings, opened(settings), ledger)
    with makers_alone(tmp_path, crash, 2, settings) as processes:
        end = time.monotonic() + SECONDS
        while not (ledger.job(id_)["ended"] and any(process.poll() for process in processes)):
            assert time.monotonic() < end, ledger.job(id_)
            time.sleep(0.02)
        assert sorted(process.poll() or 0 for process in processes) == [-signal.SIGKILL, 0]
    job = {**ledger.job(id_), "images": ledger.images(id_, -1, 9)}
    assert [each["kind"] for each in ledger.events(id_, 0, 9)] == ["queued", "image", "ended"]
    assert job["state"] == "done", job
    assert len(job["images"][0]["outputs"]) == 4
    check(tmp_path, job)
    if crash != CRASHES["after the end is recorded"]:
        assert job["ended"] - job["begun"] < LEASE + 2 + 3  # the lease, a sweep, and making it on a busy machine
    ledger.close()


def test_a_picture_that_kills_its_worker_ends_as_poison_and_the_others_are_made(tmp_path: Path) -> None:
    images = [write(tmp_path, name, noise(8, 8)) for name in ("a.png", "poison.png", "z.png")]
    kill = "lambda: os.kill(os.getpid(), signal.SIGKILL)"
    custom = f"before(execution.Fenced, 'read', {kill}, lambda self, path, _: 'poison' in path)"
    with jobs(tmp_path, custom, job_attempts="2", job_workers="2") as server:
        job = ended(server, submit(server, images))
    assert (job["state"], job["done"], job["failed"]) == ("partial", 2, 1)
    assert job["images"][1]["error"]["type"] == "/problems/poison"


@contextmanager
def postgresql(_: Path) -> Iterator[dict[str, str]]:
    """A ledger that others wait for no longer than a moment."""
    with tempfile.TemporaryDirectory() as root, services.postgresql(Path(root)) as service:
        yield {"ledger": services.database(service)}


@pytest.mark.parametrize(
    "ledger",
    [lambda _: nullcontext({}), pytest.param(postgresql, marks=pytest.mark.servers)],
    ids=["sqlite", "postgresql"],
)
def test_a_frozen_worker_that_wakes_late_reports_nothing(
    tmp_path: Path, ledger: Callable[[Path], AbstractContextManager[dict[str, str]]]
) -> None:
    image = write(tmp_path, "a.png", noise(40, 40))
    # the first to come this far is frozen before it looks at its fence
    custom = "before(ledger.Ledger, 'about_to_publish', lambda: once() and wait())"
    with ledger(tmp_path) as settings, jobs(tmp_path, custom, job_workers="2", **settings) as server:
        id_ = submit(server, [image], "split")
        server.wait_for((tmp_path / "waits").exists)
        pid = int((tmp_path / "waits").read_text())
        freeze(server, pid, settings.get("ledger", f"sqlite:///{tmp_path}/jobs.db"))
        job = ended(server, id_)
        check(tmp_path, job)
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
        (tmp_path / "go on").touch()
        os.kill(pid, signal.SIGCONT)
        server.wait_for(lambda: "image_lost" in server.log)
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
        assert [each["kind"] for each in events(server, id_)] == ["queued", "image", "ended"]
        assert shown(server, id_) == job


def freeze(server: Server, pid: int, url: str) -> None:
    """Stop a process where no thread of it has the ledger's lock: others would wait for that until it wakes."""
    monkey = pytest.MonkeyPatch()
    monkey.setattr(ledgers, "BUSY_SECONDS", 0.3)
    for _ in range(20):
        os.kill(pid, signal.SIGSTOP)
        try:
            ledger = ledgers.Ledger(url)
            ledger.renew([], LEASE)  # a transaction that writes
        except (LedgerProblem, SettingsProblem):
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.05)
        else:
            ledger.close()
            break
    else:
        raise AssertionError(server.log)
    monkey.undo()


class Poster(threading.Thread):
    """A client that posts one job after the other, until it gets no answer; that one is the next one's first."""

    def __init__(self, server: Server, name: str, answered: dict[str, str]) -> None:
        super().__init__()
        self.server, self.answered = server, answered
        self.keys = (f"{name}-{n}" for n in range(1000) if f"{name}-{n}" not in answered)
        self.cut = False  # whether the server had begun with what it did not answer

    def post(self, key: str) -> None:
        """Post the job of that key."""
        body = {"images": [{"input": "a.png", "output": f"out/{key}.png"}]}
        status, answer, _ = self.server.ask("POST", "/v1/jobs", body, Idempotency_Key=key)
        assert status in (200, 202), answer
        assert self.answered.setdefault(key, answer["id"]) == answer["id"]

    def run(self) -> None:
        """Until the server is gone."""
        try:
            for key in self.keys:
                self.post(key)
        except (OSError, http.client.HTTPException) as error:
            self.cut = not isinstance(error, ConnectionRefusedError)


def test_what_is_answered_is_on_record_though_the_server_is_killed_at_once(tmp_path: Path) -> None:
    write(tmp_path, "a.png", noise(8, 8))
    rng, answered, cut = random.Random(2), dict[str, str](), 0  # noqa: S311  (of the kills)
    for _ in range(3):
        with jobs(tmp_path, job_workers="0") as server:
            posters = [Poster(server, name, answered) for name in "abc"]
            for poster in posters:
                poster.start()
            least = len(answered) + 5
            server.wait_for(lambda least=least: len(answered) > least)
            time.sleep(rng.uniform(0, 0.1))
            server.process.send_signal(signal.SIGSTOP)  # gunicorn's master: it replaces nobody
            for pid in server.workers():
                os.kill(pid, signal.SIGKILL)
            server.process.kill()
            for poster in posters:
                poster.join()
            cut += sum(poster.cut for poster in posters)
    assert cut > 0
    with jobs(tmp_path) as server:
        for name in "abc":
            poster = Poster(server, name, answered)
            for key in [*(key for key in answered if key.startswith(name)), next(poster.keys)]:
                poster.post(key)  # what was answered, and what was not
        for key, id_ in answered.items():
            assert ended(server, id_)["state"] == "done"
            assert (tmp_path / f"out/{key}.png").exists()
        there = server.ask("GET", "/v1/jobs?limit=1000")[1]["jobs"]
        assert sorted(job["id"] for job in there) == sorted(answered.values())  # each key has one


@pytest.mark.parametrize("apart", [False, True])
def test_what_waits_is_among_the_metrics(tmp_path: Path, apart: bool) -> None:
    port = free_port()
    settings = {"metrics_bind": f"127.0.0.1:{port}"} if apart else {}
    with jobs(tmp_path, job_workers="0", **settings) as server:
        images = [write(tmp_path, f"{number}.png", noise(8, 8)) for number in range(3)]
        submit(server, images)
        with urllib.request.urlopen(f"http://127.0.0.1:{port if apart else server.port}/metrics") as answer:
            text = answer.read().decode()
        assert 'falconimg_jobs{state="queued"} 1.0' in text
        assert 'falconimg_job_images{state="pending"} 3.0' in text
        assert 'falconimg_job_images{state="running"} 0.0' in text
        assert re.search(r"^falconimg_job_oldest_seconds [0-9.e-]+$", text, re.MULTILINE)


def test_a_stop_lets_what_runs_finish_and_the_next_start_goes_on(tmp_path: Path) -> None:
    images = [{**write(tmp_path, "a.png", noise(300, 300)), "output": f"out/{n}.png"} for n in range(60)]
    with jobs(tmp_path) as server:
        id_ = submit(server, images, "resize=3")
        server.wait_for(lambda: shown(server, id_)["done"] > 2)
        begun = time.monotonic()
        server.process.terminate()
        server.process.wait(SECONDS)
        assert time.monotonic() - begun < 20
    ledger = ledgers.Ledger(f"sqlite:///{tmp_path}/jobs.db")
    assert ledger.job(id_)["state"] == "running"
    assert {image["status"] for image in ledger.images(id_, -1, 60)} == {"done", "pending"}
    ledger.close()
    with jobs(tmp_path) as server:
        job = ended(server, id_)
        assert (job["state"], job["done"]) == ("done", 60)
        check(tmp_path, job)
    assert [each for each in (tmp_path / "out").iterdir() if each.name.startswith(".")] == []


def test_a_killed_worker_is_replaced_and_ends_with_a_killed_server(tmp_path: Path) -> None:
    with jobs(tmp_path) as server:
        server.wait_for(lambda: makers(server))
        [first] = makers(server)
        time.sleep(5)  # what dies at once is not started again at once
        os.kill(first, signal.SIGKILL)
        server.wait_for(lambda: makers(server) not in ([], [first]))
        assert f"job_worker_ended pid={first} " in server.log
        [second] = makers(server)
        workers = server.workers()
        server.process.kill()
        server.wait_for(lambda: not Path(f"/proc/{second}").exists())
        for pid in workers:
            server.wait_for(lambda pid=pid: not Path(f"/proc/{pid}").exists())


def test_a_killed_server_leaves_its_port_though_somebody_follows_events(tmp_path: Path) -> None:
    with jobs(tmp_path, job_workers="0") as server:
        id_ = submit(server, [write(tmp_path, "a.png", noise(8, 8))])
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/v1/jobs/{id_}/events") as followed:
            followed.readline()
            workers = server.workers()
            server.process.kill()
            killed = time.monotonic()
            followed.read()
        assert time.monotonic() < killed + FOLLOW_SECONDS / 2
        for pid in workers:
            server.wait_for(lambda pid=pid: not Path(f"/proc/{pid}").exists(), 10)
        with socket.create_server(("127.0.0.1", server.port)):
            pass


def test_a_reload_takes_settings_anew_and_loses_nothing(tmp_path: Path) -> None:
    images = [{**write(tmp_path, "a.png", noise(200, 200)), "output": f"out/{n}.png"} for n in range(40)]
    with jobs(tmp_path) as server:
        id_ = submit(server, images, "resize=3")
        server.wait_for(lambda: shown(server, id_)["done"] > 2)
        [old] = makers(server)
        server.process.send_signal(signal.SIGHUP)
        job = ended(server, id_)
        assert (job["state"], job["done"]) == ("done", 40)
        server.wait_for(lambda: makers(server) not in ([], [old]))


def test_servers_of_two_versions_of_the_ledger_do_not_share_one(tmp_path: Path) -> None:
    with jobs(tmp_path):
        pass
    import sqlite3

    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        connection.execute("UPDATE ledger SET version = 99")
    environ = {
        **os.environ, "FALCONIMG_ROOT": str(tmp_path), "FALCONIMG_LEDGER": str(tmp_path / "jobs.db"),
        "FALCONIMG_JOBS": "on", "FALCONIMG_BIND": f"127.0.0.1:{free_port()}",
    }  # fmt: skip
    for command in (
        ["-m", "gunicorn", "-c", "python:falconimg.gunicorn_conf"],
        ["-c", "from falconimg.cli import main; main()", "worker"],
    ):
        result = subprocess.run(
            [sys.executable, *command], env=environ, capture_output=True, text=True, timeout=SECONDS
        )
        assert result.returncode in (1, 2)
        assert (
            f"FALCONIMG_LEDGER: expected a ledger of version {ledgers.VERSION}, came one of version 99" in result.stderr
        )


def test_a_webhook_is_told_of_every_event_though_it_and_its_sender_die(tmp_path: Path) -> None:
    images = [{**write(tmp_path, "a.png", noise(40, 40)), "output": f"out/{n}.png"} for n in range(20)]
    key = "whsec_" + base64.b64encode(bytes(32)).decode()
    chosen = {"webhook_key": key, "private_hosts": "127.0.0.1", "job_workers": "2"}
    # what is sent arrives, but its sender dies before it knows
    custom = (
        "worker.webhooks.SECONDS = 2.0\n"
        "    real = worker.webhooks._fault\n"
        "    def fault(*arguments):\n"
        "        found = real(*arguments)\n"
        "        found or die()\n"
        "        return found\n"
        "    worker.webhooks._fault = fault"
    )
    port = free_port()
    with jobs(tmp_path, custom, **chosen) as server:
        id_ = submit(server, images, webhook=f"http://127.0.0.1:{port}/")  # nobody is there yet
        ended(server, id_)
        with Receiver(port) as receiver:
            threading.Thread(target=receiver.serve_forever, args=[0.01], daemon=True).start()
            receiver.statuses = [500]
            want = set(range(1, 23))  # queued, twenty images, ended

            def came() -> list[int]:
                return [event["seq"] for _, body in receiver.came for event in json.loads(body)["events"]]

            # refused, then taken by one whose sender died, then sent by another
            server.wait_for(lambda: set(came()) == want and came().count(1) == 3)
            assert (tmp_path / "happened").exists()
            receiver.shutdown()


def test_the_command_line_submits_watches_and_retries(tmp_path: Path) -> None:
    images = [write(tmp_path, "a.png", noise(8, 8)), {"input": "later.png", "output": "out/later.png"}]
    (tmp_path / "request.json").write_text(json.dumps({"images": images}))
    with jobs(tmp_path) as server:

        def run(*words: str, stderr: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-c", "from falconimg.cli import main; main()", "jobs", *words]
            environ = {**os.environ, "FALCONIMG_BIND": f"127.0.0.1:{server.port}"}
            return subprocess.run(
                command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=SECONDS
            )  # fmt: skip

        first = run("submit", "request.json", "--key", "k", "--watch")
        id_ = first.stdout.strip()
        assert first.returncode == 1
        assert "later.png: there is no such file" in first.stderr
        assert first.stderr.endswith("falconimg: partial: 1 done, 1 failed of 2\n")
        assert run("submit", "request.json", "--key", "k").stdout.strip() == id_
        assert id_ in run("list", "--state", "partial").stdout
        write(tmp_path, "later.png", noise(8, 8))
        assert run("retry", id_).returncode == 0
        watched = run("watch", id_)
        assert (watched.returncode, watched.stderr) == (0, "falconimg: done: 2 done of 2\n")
        master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 100))
        with os.fdopen(master, "rb", 0) as terminal:
            try:
                assert run("watch", id_, stderr=slave).returncode == 0
                said = terminal.read(100_000).decode()
            finally:
                os.close(slave)
        assert "| 0/2 [00:00<?, ?image/s]" in said  # a bar, which is gone in the end
        assert said.endswith("\rfalconimg: done: 2 done of 2\r\n")
        assert [each["status"] for each in json.loads(run("status", id_).stdout)["images"]] == ["done", "done"]
        assert run("cancel", id_).returncode == 0
        unknown = run("status", "nix")
        assert (unknown.returncode, "no such job" in unknown.stderr) == (2, True)
        wrong = run("submit", "nix.json")
        assert (wrong.returncode, wrong.stderr) == (2, "falconimg: nix.json: No such file or directory\n")
        (tmp_path / "wrong.json").write_text('{"images": 1}')
        assert "falconimg: /images: " in run("submit", "wrong.json").stderr
        (tmp_path / "wrong.json").write_text("{}")
        assert "falconimg: request: " in run("submit", "wrong.json").stderr
    gone = run("list")
    assert (gone.returncode, "no answer" in gone.stderr) == (1, True)
