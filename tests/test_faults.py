"""Nothing half-written is ever seen, and a disk's fault is one image's: rows 6 to 8 of docs/safety.md."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import http.client
import itertools
import json
import multiprocessing
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from falconimg.job import IfExists
from falconimg.stores import File, files
from falconimg.stores.files import Files
from tests import serving as real
from tests.conftest import Result, Serve, Server, noise
from tests.test_hostile_paths import figure
from tests.test_stores import refuse_tmpfile

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["tests.test_faults"])  # so that a process to be killed begins at once
TEMPORARY = ".falconimg-*"
MOUNT, REMOUNT = ctypes.CDLL(None, use_errno=True).mount, 32  # MS_REMOUNT; with 1, MS_RDONLY
OLD = b"old, and not a picture"


def strays(root: Path) -> list[str]:
    return [path.name for path in root.rglob(TEMPORARY)]


# ---- row 6: done is on the disk ----


class Disk:
    """What is synced and put in place; sync number `failing` fails with EIO."""

    def __init__(self, patch: pytest.MonkeyPatch, failing: int | None = None) -> None:
        self.events: list[tuple[str, str]] = []
        self.failing, self.syncs = failing, 0
        self.lock = threading.Lock()
        for name in ("fsync", "link", "rename"):
            patch.setattr(os, name, self.recording(name, getattr(os, name)))

    def recording(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            with self.lock:
                what = ""
                if name == "fsync":
                    path = Path(f"/proc/self/fd/{args[0]}").readlink()
                    what = f"{path.name}/" if path.is_dir() else "file"
                    self.syncs += 1
                    if self.syncs - 1 == self.failing:
                        raise OSError(errno.EIO, os.strerror(errno.EIO))
                elif not args[1].startswith(b".falconimg-"):
                    what = args[1].decode()
                if what:
                    self.events.append((name, what))
                return act(*args, **kwargs)

        return recorded


def one(server: Server, if_exists: str = "overwrite") -> Result:
    """One image, two results in two new directories."""
    server.put("in.png", noise(6, 8))
    branches = [{"output": "x/y/a.png"}, {"output": "z/b.png", "operations": ["flip=h"]}]
    return server.process([{"input": "in.png", "renditions": branches}], if_exists=if_exists)


@pytest.mark.parametrize(("if_exists", "placing"), [("overwrite", "rename"), ("skip", "link"), ("error", "link")])
def test_done_comes_after_the_sync_of_each_file_and_of_each_directory(
    if_exists: str, placing: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(fsync=True, pool=1)
    disk = Disk(monkeypatch)
    assert one(server, if_exists).json["images"][0]["status"] == "done"
    assert disk.events == [
        ("fsync", "root/"),  # x, made in it
        ("fsync", "x/"),
        ("fsync", "file"),
        ("fsync", "root/"),
        ("fsync", "file"),
        (placing, "a.png"),
        (placing, "b.png"),
        ("fsync", "y/"),
        ("fsync", "z/"),
    ]


@pytest.mark.parametrize("if_exists", ["overwrite", "skip", "error"])
@pytest.mark.parametrize("failing", range(7))
def test_if_any_sync_fails_nothing_is_called_done(
    failing: int, if_exists: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(fsync=True, pool=1)
    with monkeypatch.context() as patch:
        disk = Disk(patch, failing)
        result = one(server, if_exists)
    assert disk.syncs > failing
    outcome = result.json["images"][0]
    assert (result.status_code, outcome["status"], outcome["error"]["type"]) == (422, "failed", "/problems/write")
    assert os.strerror(errno.EIO) in outcome["error"]["detail"]
    # the directories come last: by then both are in place, and the report says so
    in_place = ["x/y/a.png", "z/b.png"] if failing >= 5 else []
    assert [output["path"] for output in outcome["outputs"]] == in_place
    assert [path for path in server.tree() if path.endswith(".png") and path != "in.png"] == in_place
    assert strays(server.root) == []
    assert one(server).status_code == 200


# ---- row 6: kill -9 ----


def version(number: int) -> bytes:
    """The whole bytes of one version: what is torn or mixed is none of them."""
    body = random.Random(number).randbytes(64) * (1000 + number % 7 * 500)  # noqa: S311  (not a secret)
    return number.to_bytes(8) + hashlib.sha256(number.to_bytes(8) + body).digest() + body


def number_of(data: bytes) -> int:
    """Which whole version this is."""
    assert len(data) > 40, f"torn: {len(data)} bytes"
    assert hashlib.sha256(data[:8] + data[40:]).digest() == data[8:40], f"torn or mixed: {len(data)} bytes"
    return int.from_bytes(data[:8])


def named_temporaries() -> None:
    """As on a file system without O_TMPFILE, where a kill leaves most."""
    refuse_tmpfile(pytest.MonkeyPatch())


def publish_for_ever(root: str, first: int, named: bool, told: Connection) -> None:
    """Versions from `first` on, at two names in two directories and at a new one each; each is told when it is done."""
    if named:
        named_temporaries()
    store = Files(Path(root), Path(root))
    told.send_bytes(b"begun")
    for number in itertools.count(first):
        data = version(number)
        store.publish([File("a", data), File("d/b", data)], "overwrite")
        store.publish([File(f"new/{number}", data)], "error")
        told.send_bytes(number.to_bytes(8))


@pytest.mark.parametrize("named", [False, True], ids=["O_TMPFILE", "named temporaries"])
def test_a_writer_that_is_killed_leaves_each_name_absent_old_or_new(
    named: bool, tmp_path: Path, long: bool, record_property: Any
) -> None:
    kills = 200 if long else 12
    moments = random.Random()  # noqa: S311  (not a secret)
    done, new = 0, 0
    for turn in range(kills):
        hears, tells = FORK.Pipe(duplex=False)
        writer = FORK.Process(target=publish_for_ever, args=(str(tmp_path), done + 1, named, tells))
        writer.start()
        tells.close()
        assert hears.poll(real.SECONDS)
        assert hears.recv_bytes() == b"begun"
        if turn % 2:  # else a slow disk would let none be done
            assert hears.poll(real.SECONDS)
        time.sleep(moments.uniform(0, 0.03))
        writer.kill()
        writer.join()
        before = done
        try:
            while True:
                done = int.from_bytes(hears.recv_bytes())
        except EOFError:
            hears.close()
        for name in ("a", "d/b"):
            path = tmp_path / name
            # whole; never older than what was called done, never newer than what was begun
            came = number_of(path.read_bytes()) if path.exists() else 0
            assert done <= came <= done + 1
            new += came == done + 1
        for number in range(before + 1, done + 1):
            assert (tmp_path / f"new/{number}").read_bytes() == version(number)
        begun = tmp_path / f"new/{done + 1}"
        assert not begun.exists() or begun.read_bytes() == version(done + 1)
        begun.unlink(missing_ok=True)
    left = len(strays(tmp_path))
    others = {
        path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and ".falconimg" not in path.name
    }
    assert Files(tmp_path, tmp_path).sweep() == left
    assert strays(tmp_path) == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == others
    record_property("strays", left)
    figure(6, f"kills of a writer ({'named' if named else 'O_TMPFILE'})", f"{kills}, 0 torn, {done} published, "
           f"{new} names found newer than told, {left} strays, 0 after the sweep")  # fmt: skip
    assert done >= kills // 2
    assert not named or left > 0, "no kill came while a temporary was there"


def publish_once(root: str, named: bool, told: Connection) -> None:
    """One publish that stops itself where its temporary has a name and its result has none."""
    if named:
        named_temporaries()
    put = os.rename

    def stop(*args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        put(*args, **kwargs)

    os.rename = stop
    Files(Path(root), Path(root)).publish([File("d/a", version(1))], "overwrite")
    told.send_bytes(b"done")


@pytest.mark.parametrize("named", [False, True], ids=["O_TMPFILE", "named temporaries"])
def test_the_sweep_leaves_the_temporaries_of_who_is_at_work_and_names_like_them(named: bool, tmp_path: Path) -> None:
    hears, tells = FORK.Pipe(duplex=False)
    writer = FORK.Process(target=publish_once, args=(str(tmp_path), named, tells))
    writer.start()
    tells.close()
    try:
        end = time.monotonic() + real.SECONDS
        while not _stopped(writer.pid or 0):
            assert time.monotonic() < end, "it did not come to its rename"
            time.sleep(0.01)
        [name] = strays(tmp_path)
        dead = re.sub(r"-[0-9]+(-[0-9a-f]+\.tmp)", r"-1\1", name)  # the same id, of a process before
        assert dead != name
        theirs = [dead + "x", "x" + dead, dead.replace(".tmp", ".png"), dead.upper(), dead.replace("-", "_"), "a.tmp"]
        for path in (dead, *theirs):
            (tmp_path / "d" / path).write_bytes(b"theirs")
        assert Files(tmp_path, tmp_path).sweep() == 1
        assert not (tmp_path / "d" / dead).exists()
        os.kill(writer.pid or 0, signal.SIGCONT)
        assert hears.poll(real.SECONDS)
        assert hears.recv_bytes() == b"done"
    finally:
        writer.kill()
        writer.join()
    assert (tmp_path / "d/a").read_bytes() == version(1)
    assert [path for path in theirs if (tmp_path / "d" / path).read_bytes() != b"theirs"] == []


def _stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"T"


def test_workers_that_are_killed_under_load_leave_whole_pictures_and_lose_no_answer_of_others(
    tmp_path: Path, long: bool, record_property: Any
) -> None:
    """The real gunicorn: one of its workers at a time is killed at a random moment, while four clients write."""
    kills = 100 if long else 8
    moments = random.Random()  # noqa: S311  (not a secret)
    sources = [real.write(tmp_path, f"in/{n}.png", noise(200 + n, 300, seed=n))["input"] for n in range(4)]
    stop = threading.Event()
    count = {"done": 0, "cut": 0}

    def batch(turn: int) -> list[dict[str, str]]:
        """The same three names each time, of other sources: so they are overwritten; and one of its own."""
        targets = [*(f"out/{n}.png" for n in range(3)), f"new/{turn % 50}/{turn}.png"]
        return [{"input": sources[(turn + n) % 4], "output": target} for n, target in enumerate(targets)]

    with real.serving(tmp_path, workers="3", pool="2") as server:
        whole = set()
        for turn in range(4):
            assert server.process_batch(batch(turn))[0] == 200
            whole |= {path.read_bytes() for path in (tmp_path / "out").iterdir()}
        assert len(whole) == 4
        turns = itertools.count(4)

        def load() -> None:
            while not stop.is_set():
                try:
                    status, report = server.process_batch(batch(next(turns)))
                except (OSError, http.client.HTTPException, json.JSONDecodeError):
                    count["cut"] += 1
                    continue
                # so nobody swept a temporary of one that was at work
                assert (status, report["done"]) == (200, 4), report
                count["done"] += 1

        def check() -> None:
            for path in (*(tmp_path / "out").iterdir(), *(tmp_path / "new").rglob("*.png")):
                if path.suffix == ".png":
                    assert path.read_bytes() in whole, path

        with ThreadPoolExecutor(4) as clients:
            loads = [clients.submit(load) for _ in range(4)]
            try:
                for turn in range(1, 5 * kills + 1):
                    if turn > kills and count["cut"]:  # who is killed between two requests cuts none
                        break
                    server.wait_for(lambda least=turn: count["done"] >= least)
                    time.sleep(moments.uniform(0, 0.3))
                    alive = children(server.process.pid)
                    if alive:
                        os.kill(moments.choice(alive), signal.SIGKILL)
                    for path in (tmp_path / "out").iterdir():
                        assert path.name.startswith(".") or path.read_bytes() in whole, path
                server.wait_for(lambda: len(children(server.process.pid)) == 3)
            finally:
                stop.set()
            for future in loads:
                future.result(real.SECONDS)
        check()
        # all at once, the master too: nothing has the time to clean up
        with ThreadPoolExecutor(1) as clients:
            last = clients.submit(server.process_batch, batch(next(turns)))
            workers = children(server.process.pid)
            server.process.kill()
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
            last.exception(real.SECONDS)
        server.process.wait(real.SECONDS)
        check()
        left = len(strays(tmp_path))
    planted = tmp_path / "out" / files._temporary_name().decode()  # ours, and alive
    planted.write_bytes(b"half")
    with real.serving(tmp_path, workers="2") as server:
        server.wait_for(lambda: strays(tmp_path) == [planted.name])
        assert server.process_batch(batch(0))[0] == 200
    record_property("kills", kills)
    figure(6, "kills of workers of the real server", f"{kills}, 0 torn, {count['done']} requests done, "
           f"{count['cut']} cut, {left} strays before the last start, 0 after")  # fmt: skip
    assert count["cut"] > 0


def children(pid: int) -> list[int]:
    """gunicorn's workers that live."""
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# ---- row 7 ----


class Fault(NamedTuple):
    """An errno, and the call to the system that gives it when it concerns the directory `victim`."""

    code: int
    call: str


FAULTS = {
    "ENOSPC in the midst of the data": Fault(errno.ENOSPC, "write"),
    "EDQUOT in the midst of the data": Fault(errno.EDQUOT, "write"),
    "EIO of the data": Fault(errno.EIO, "write"),
    "EIO of the sync": Fault(errno.EIO, "fsync"),
    "ENOSPC of the sync": Fault(errno.ENOSPC, "fsync"),
    "EDQUOT of the sync": Fault(errno.EDQUOT, "fsync"),
    "EROFS": Fault(errno.EROFS, "open"),
    "EACCES": Fault(errno.EACCES, "open"),
    "ENOSPC of the inode": Fault(errno.ENOSPC, "open"),
    "EDQUOT of the inode": Fault(errno.EDQUOT, "open"),
    "EACCES of the rename": Fault(errno.EACCES, "rename"),
    "EROFS of the rename": Fault(errno.EROFS, "rename"),
}


def failing(patch: pytest.MonkeyPatch, fault: Fault) -> None:
    """From now on nothing can be written in `victim`: after half of the data, where it is the data that fails."""
    act = getattr(os, fault.call)
    begun: set[str] = set()

    def concerned(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        handle = kwargs.get("dir_fd", kwargs.get("dst_dir_fd", args[0]))
        path = str(Path(f"/proc/self/fd/{handle}").readlink()) if isinstance(handle, int) else ""
        return path if "/victim" in path else ""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        creates = fault.call != "open" or args[1] & os.O_ACCMODE != os.O_RDONLY
        path = concerned(args, kwargs) if creates else ""
        if not path:
            return act(*args, **kwargs)
        if fault.call == "write" and path not in begun:
            begun.add(path)
            return act(args[0], args[1][: len(args[1]) // 2])
        raise OSError(fault.code, os.strerror(fault.code))

    patch.setattr(os, fault.call, refuse)


def check_fails_alone(server: Server, text: str, spoil: Callable[[], object], mend: Callable[[], object]) -> None:
    """A batch of three, of which the second writes where the disk is spoilt: it fails by name, nothing else does."""
    good = noise(120, 160)
    for name in ("in/a.png", "in/b.png", "in/c.png"):
        server.put(name, good)
    for name in ("victim/b_1.png", "victim/b_4.png"):
        server.put(name, data=OLD)
    victim: dict[str, Any] = {"input": "in/b.png", "output": "victim/b.png", "operations": ["resize=2", "split"]}
    images = [{"input": "in/a.png", "output": "out/a.png"}, victim, {"input": "in/c.png", "output": "out/c.png"}]
    spoil()
    old = {path: (path.read_bytes(), path.lstat()) for path in (server.root / "victim").iterdir()}
    for _ in range(3):  # the server goes on
        result = server.process(images)
        assert [outcome["status"] for outcome in result.json["images"]] == ["done", "failed", "done"]
        outcome = result.json["images"][1]
        assert result.status_code == 207
        assert outcome["input"] == "in/b.png"
        assert outcome["error"]["type"] == "/problems/write"
        assert re.fullmatch(f"'victim/b_[1-4].png' could not be written: {text}", outcome["error"]["detail"])
        assert str(server.root) not in result.text
        assert outcome["outputs"] == []
        for name in ("out/a.png", "out/c.png"):
            assert np.array_equal(server.picture(name), good)
            (server.root / name).unlink()
        now = {path: (path.read_bytes(), path.lstat()) for path in (server.root / "victim").iterdir()}
        assert {path: data for path, (data, _) in now.items()} == {path: data for path, (data, _) in old.items()}
        for path, (_, info) in old.items():
            assert (info.st_ino, info.st_mtime_ns) == (now[path][1].st_ino, now[path][1].st_mtime_ns)
    original = {"images": [{"input": "in/b.png", "output": "victim/b.png"}], "operations": victim["operations"]}
    items = server.post("/items/", original)
    assert (items.status_code, items.headers["Falconimg-Failed"]) == (200, "1")
    assert (server.root / "victim/b_1.png").read_bytes() == OLD
    mend()
    assert server.process(images).status_code == 200
    assert (server.root / "victim/b_1.png").read_bytes() != OLD
    assert strays(server.root) == []


@pytest.mark.parametrize("unnamed", [True, False], ids=["O_TMPFILE", "named temporaries"])
@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_of_the_disk_fails_one_image_and_the_old_file_stays(
    what: str, unnamed: bool, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not unnamed:
        refuse_tmpfile(monkeypatch)
    server = serve(fsync=True)
    with monkeypatch.context() as patch:
        check_fails_alone(server, os.strerror(FAULTS[what].code), lambda: failing(patch, FAULTS[what]), patch.undo)


@contextmanager
def small_disk(at: Path) -> Iterator[bool]:
    """A file system of 1 MB there, and whether it is a real one: only root may mount."""
    at.mkdir()
    mounted = os.geteuid() == 0 and MOUNT(b"tmpfs", bytes(at), b"tmpfs", 0, b"size=1m,nr_inodes=100") == 0
    try:
        yield mounted
    finally:
        if mounted:
            assert ctypes.CDLL(None).umount2(bytes(at), 2) == 0  # MNT_DETACH: the server may hold handles yet


@pytest.mark.parametrize(
    ("how", "code"), [("no blocks", errno.ENOSPC), ("no inodes", errno.ENOSPC), ("read-only", errno.EROFS)]
)
def test_a_disk_that_is_full_or_read_only_fails_one_image_and_the_old_file_stays(
    how: str, code: int, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real file system where it can be mounted, which root may; else the calls fail as its would."""
    server = serve(fsync=True)
    at = server.root / "victim"
    with small_disk(at) as mounted, monkeypatch.context() as patch:
        figure(7, how, "a real tmpfs" if mounted else "patched calls, since mounting is not permitted")

        def spoil() -> None:
            if not mounted:
                failing(patch, Fault(code, "write" if how == "no blocks" else "open"))
            elif how == "no blocks":
                with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                    (at / "filler").write_bytes(bytes(2 << 20))
                with (at / "filler").open("r+b") as file:
                    file.truncate((at / "filler").stat().st_size - 80_000)  # for one result and a half
            elif how == "no inodes":
                while os.statvfs(at).f_favail:
                    (at / f"filler{os.statvfs(at).f_favail}").touch()
            else:
                assert MOUNT(None, bytes(at), None, REMOUNT | 1, None) == 0

        def mend() -> None:
            patch.undo()
            if mounted:
                assert MOUNT(None, bytes(at), None, REMOUNT, None) == 0
                for path in at.glob("filler*"):
                    path.unlink()

        check_fails_alone(server, os.strerror(code), spoil, mend)


def test_a_directory_without_permission_fails_one_image_of_the_real_server(tmp_path: Path) -> None:
    """EACCES by the kernel: where root runs this, the server is started without root's power over permissions."""
    result: list[int] = []

    def run() -> None:
        # what a thread drops it drops alone, and for the processes that it starts
        if os.geteuid() == 0:
            assert ctypes.CDLL(None).prctl(24, 1, 0, 0, 0) == 0  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE
        images = [real.write(tmp_path, f"in/{n}.png", noise(20, 30)) for n in range(3)]
        images[1]["output"] = "victim/1.png"
        victim = tmp_path / "victim"
        victim.mkdir()
        (victim / "1.png").write_bytes(OLD)
        with real.serving(tmp_path, workers="2") as server:
            victim.chmod(0o555)
            try:
                for _ in range(5):
                    status, report = server.process_batch(images)
                    assert (status, report["done"], report["failed"]) == (207, 2, 1)
                    error = report["images"][1]["error"]
                    assert error["type"] == "/problems/write"
                    assert error["detail"] == f"'victim/1.png' could not be written: {os.strerror(errno.EACCES)}"
                    assert [(path.name, path.read_bytes()) for path in victim.iterdir()] == [("1.png", OLD)]
                    assert [(tmp_path / f"out/{n}.png").is_file() for n in (0, 2)] == [True] * 2
            finally:
                victim.chmod(0o755)
            assert len(server.workers()) == 2
            result.append(server.process_batch(images)[0])

    with ThreadPoolExecutor(1) as alone:
        alone.submit(run).result(2 * real.SECONDS)
    assert result == [200]


# ---- row 8 ----


def publish_one_name(root: str, numbers: list[int], if_exists: IfExists, named: bool, told: Connection) -> None:
    if named:
        named_temporaries()
    store = Files(Path(root), Path(root), fsync=False)
    for number in numbers:
        store.publish([File("d/one", version(number))], if_exists)
    told.send_bytes(b"done")


@pytest.mark.parametrize("named", [False, True], ids=["O_TMPFILE", "named temporaries"])
def test_of_two_processes_that_write_one_name_a_reader_sees_whole_versions(
    named: bool, tmp_path: Path, long: bool, record_property: Any
) -> None:
    times = 1000 if long else 100
    store = Files(tmp_path, tmp_path, fsync=False)
    store.publish([File("d/one", version(0))], "error")
    pipes = [FORK.Pipe(duplex=False) for _ in range(2)]
    writers = [
        FORK.Process(
            target=publish_one_name,
            args=(str(tmp_path), list(range(first, first + 2 * times, 2)), "overwrite", named, tells),
        )
        for first, (_, tells) in enumerate(pipes, 1)
    ]
    for writer in writers:
        writer.start()
    seen: list[int] = []
    try:
        end = time.monotonic() + real.SECONDS
        while not all(hears.poll() for hears, _ in pipes):
            assert time.monotonic() < end
            seen.append(number_of(store.read("d/one", 10**6)))
    finally:
        for writer in writers:
            writer.kill()
            writer.join()
    record_property("reads", len(seen))
    figure(8, f"reads while two processes wrote {times} times each ({'named' if named else 'O_TMPFILE'})",
           f"{len(seen)}, of {len(set(seen))} versions, 0 torn, missing or mixed")  # fmt: skip
    assert len({number for number in seen if number % 2}) > 1
    assert len({number for number in seen if number % 2 == 0}) > 1
    assert number_of(store.read("d/one", 10**6)) in (2 * times - 1, 2 * times)
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["one"]


def test_of_two_workers_that_write_one_name_a_reader_sees_whole_pictures(tmp_path: Path, long: bool) -> None:
    """The real gunicorn, both of whose workers have written."""
    times = 1000 if long else 100
    sources = [real.write(tmp_path, f"in/{n}.png", noise(100, 100 + n, seed=n))["input"] for n in range(2)]
    with real.serving(tmp_path, workers="2", fsync="off") as server:

        def ask(number: int) -> int:
            return server.process_batch([{"input": sources[number % 2], "output": "out/one.png"}])[0]

        whole = []
        for number in range(2):
            assert ask(number) == 200
            whole.append((tmp_path / "out/one.png").read_bytes())
        server.wait_for(lambda: len(server.workers()) == 2)
        wrote = [_written(pid) for pid in server.workers()]
        seen = [0, 0]
        with ThreadPoolExecutor(4) as clients:
            answers = [clients.submit(ask, number) for number in range(2 * times)]
            while not all(answer.done() for answer in answers):
                seen[whole.index((tmp_path / "out/one.png").read_bytes())] += 1
            assert {answer.result() for answer in answers} == {200}
        both = [_written(pid) - before for pid, before in zip(server.workers(), wrote, strict=True)]
    figure(8, f"reads while two workers wrote one name {2 * times} times", f"{sum(seen)}, 0 torn, missing or mixed")
    assert min(seen) > 0
    assert min(both) > 10 * len(whole[0])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["one.png"]


def _written(pid: int) -> int:
    return int(Path(f"/proc/{pid}/io").read_text().split()[3])
