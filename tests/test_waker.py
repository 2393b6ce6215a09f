"""A thread that waits is woken by others, and by who touches a file."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from falconimg.jobs.ledger import Ledger
from falconimg.jobs.record import Item
from falconimg.jobs.waker import Waker

SECONDS = 20.0
LINUX = sys.platform == "linux"  # which has inotify


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a"
    path.touch()
    return path


@pytest.fixture
def waker(file: Path) -> Iterator[Waker]:
    with closing(Waker(file)) as made:
        yield made


def waited(waker: Waker, then: Callable[[], object], touches: bool = True, seconds: float = SECONDS) -> bool:
    """Whether it was woken by a touch when that is done while it waits; it must not have waited for its time."""
    thread = threading.Timer(0.1, then)
    thread.start()
    begun = time.monotonic()
    came = waker.wait(seconds, touches)
    assert time.monotonic() - begun < SECONDS
    thread.join()
    return came


def test_who_waits_is_woken(waker: Waker) -> None:
    assert not waited(waker, waker.wake)
    for _ in range(100_000):  # more than a pipe holds
        waker.wake()
    for least in (0.0, 0.1):  # once, for all of them
        begun = time.monotonic()
        assert not waker.wait(0.1, touches=False)
        assert time.monotonic() - begun >= least
    assert not waited(waker, waker.wake)


def test_a_waker_that_was_woken_before_does_not_wait(waker: Waker) -> None:
    waker.wake()
    begun = time.monotonic()
    assert not waker.wait(SECONDS, touches=True)
    assert time.monotonic() - begun < SECONDS


def test_a_touch_of_the_file_wakes_who_waits_for_touches(waker: Waker, file: Path) -> None:
    assert waker.tells == LINUX
    if not LINUX:
        assert not waited(waker, lambda: os.utime(file), seconds=0.3)
        return
    assert waited(waker, lambda: os.utime(file))
    assert not waker.wait(0.05, touches=True)  # once
    os.utime(file)
    assert not waker.wait(0.05, touches=False)
    assert waker.wait(SECONDS, touches=True)  # it is kept for who waits for it
    file.write_bytes(b"1")
    (file.parent / "b").touch()
    assert not waker.wait(0.05, touches=True)


def test_what_can_be_claimed_by_another_ledgers_doing_wakes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    item = Item(0, {"input": "a.png", "output": "b.png"}, "", "a.png", None, ())
    with closing(Ledger(url)) as one, closing(Ledger(url)) as other, closing(Waker(one.file)) as waker:
        if not LINUX:
            return  # who waits is not told, and asks
        other.claim(1, 60)  # which finds nothing, and writes nothing
        assert not waker.wait(0.05, touches=True)
        assert waited(waker, lambda: other.submit({}, [item], "d"))
        [claim] = one.claim(1, 60)
        assert not waker.wait(0.05, touches=True)
        assert waited(waker, lambda: other.give_back([claim]))
        [claim] = one.claim(1, 0)
        assert waited(waker, lambda: other.expire(9))
        assert one.end(one.claim(1, 60)[0], "failed", {})
        assert not waker.wait(0.05, touches=True)
        assert waited(waker, lambda: other.retry(claim.job, {0: []}, {}))


def test_without_a_file_or_its_kernel_it_is_woken_by_others_alone(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (None, file.parent / "none"):
        with closing(Waker(path)) as waker:
            assert not waker.tells
            assert not waited(waker, waker.wake)
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    with closing(Waker(file)) as waker:
        assert not waker.tells
