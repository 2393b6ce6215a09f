from __future__ import annotations

import threading
import time
from concurrent.futures import Future, wait

import pytest

from falconimg.errors import OutOfMemory
from falconimg.threads import Threads

SECONDS = 20


def hanging(threads: Threads) -> tuple[Future[None], threading.Event]:
    """A step that runs until the event is set."""
    gate, running = threading.Event(), threading.Event()

    def step() -> None:
        running.set()
        gate.wait(SECONDS)

    future = threads.submit(step)
    assert running.wait(SECONDS)
    return future, gate


def test_what_is_submitted_runs_in_its_order() -> None:
    threads, ran = Threads(1), list[int]()
    futures = [threads.submit(lambda n=n: ran.append(n)) for n in range(50)]  # type: ignore[misc]
    wait(futures, SECONDS)
    assert ran == list(range(50))
    threads.close()


def test_as_many_run_at_once_as_there_are_threads_and_no_more() -> None:
    threads, gate, running = Threads(3), threading.Event(), threading.Semaphore(0)

    def step() -> None:
        running.release()
        assert gate.wait(SECONDS)

    futures = [threads.submit(step) for _ in range(5)]
    for _ in range(3):
        assert running.acquire(timeout=SECONDS)
    assert not running.acquire(timeout=0.05)
    gate.set()
    wait(futures, SECONDS)
    assert all(future.done() for future in futures)
    threads.close()


def test_what_a_step_raises_is_its_futures_and_the_thread_goes_on() -> None:
    threads = Threads(1)

    def step() -> None:
        raise KeyError("x")

    failed, fine = threads.submit(step), threads.submit(lambda: None)
    assert isinstance(failed.exception(SECONDS), KeyError)
    assert fine.exception(SECONDS) is None
    threads.close()


def more_than(before: list[threading.Thread]) -> int:
    """The threads that run and did not before; those that other tests have left may end meanwhile."""
    return len(set(threading.enumerate()) - set(before))


def test_a_step_that_was_cancelled_is_not_run() -> None:
    threads, ran = Threads(1), list[int]()
    first, gate = hanging(threads)
    second = threads.submit(lambda: ran.append(2))
    assert second.cancel()
    gate.set()
    wait([first, threads.submit(lambda: ran.append(3))], SECONDS)
    assert ran == [3]
    threads.close()


def test_a_thread_that_does_not_return_is_replaced_once_and_ends_when_it_returns() -> None:
    before = threading.enumerate()
    threads = Threads(1)
    future, gate = hanging(threads)
    behind = threads.submit(lambda: None)
    threads.replace(future)
    threads.replace(future)
    behind.result(SECONDS)
    assert more_than(before) == 2
    gate.set()
    future.result(SECONDS)
    end = time.monotonic() + SECONDS
    while more_than(before) > 1:
        assert time.monotonic() < end
        time.sleep(0.01)
    threads.submit(lambda: None).result(SECONDS)
    threads.close()


def test_what_is_done_is_not_replaced() -> None:
    threads = Threads(1)
    done = threads.submit(lambda: None)
    done.result(SECONDS)
    before = threading.enumerate()
    threads.replace(done)
    assert more_than(before) == 0
    threads.close()


def test_closing_ends_the_threads_after_what_was_submitted() -> None:
    before = threading.enumerate()
    threads, ran = Threads(2), list[int]()
    futures = [threads.submit(lambda n=n: ran.append(n)) for n in range(9)]  # type: ignore[misc]
    threads.close()
    wait(futures, SECONDS)
    assert sorted(ran) == list(range(9))
    end = time.monotonic() + SECONDS
    while more_than(before):
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("count", [1, 4])
def test_no_more_threads_are_started_than_are_needed(count: int) -> None:
    before = threading.enumerate()
    threads = Threads(count)
    assert more_than(before) == 0
    for _ in range(20):
        threads.submit(lambda: None).result(SECONDS)
    assert more_than(before) <= count
    threads.close()


def test_without_a_thread_nothing_is_queued_and_with_one_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, real = Threads(2), threading.Thread.start

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ran: list[int] = []
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(OutOfMemory, match="can't start new thread"):
        threads.submit(lambda: ran.append(1))
    monkeypatch.setattr(threading.Thread, "start", real)
    future, gate = hanging(threads)
    monkeypatch.setattr(threading.Thread, "start", start)
    behind = threads.submit(lambda: ran.append(2))  # there is one thread, if not two
    threads.replace(future)
    gate.set()
    behind.result(SECONDS)
    assert ran == [2]
    threads.close()
