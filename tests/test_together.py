"""Group commit: what comes together is done together."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from falconimg.jobs.together import Together

SECONDS = 20


class Slow:
    """A call that can be held up; it doubles each number, and breaks by zero."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.go_on, self.begun = threading.Event(), threading.Event()
        self.together = Together(self.do)

    def do(self, wishes: Sequence[int]) -> list[int]:
        self.groups.append(list(wishes))
        self.begun.set()
        assert self.go_on.wait(SECONDS)
        if 0 in wishes:
            raise ZeroDivisionError
        return [2 * wish for wish in wishes]


def ask(slow: Slow, wishes: Sequence[int]) -> list[Future[int]]:
    """The first alone, and the others while that is done."""
    pool = ThreadPoolExecutor(len(wishes))
    first = pool.submit(slow.together, wishes[0])
    assert slow.begun.wait(SECONDS)
    others = [pool.submit(slow.together, wish) for wish in wishes[1:]]
    while len(slow.together._waiting) < len(others):
        assert not first.done()
    slow.go_on.set()
    pool.shutdown()
    return [first, *others]


def test_what_comes_while_one_is_done_is_done_at_once_and_each_has_its_own_answer() -> None:
    slow = Slow()
    futures = ask(slow, [1, 2, 3, 4, 5])
    assert (slow.groups[0], sorted(slow.groups[1])) == ([1], [2, 3, 4, 5])
    assert [future.result() for future in futures] == [2, 4, 6, 8, 10]


def test_who_is_answered_waits_for_nobody_that_came_later() -> None:
    pool, late = ThreadPoolExecutor(5), list[Future[int]]()
    begun, go_on = threading.Event(), threading.Event()

    def do(wishes: Sequence[int]) -> list[int]:
        if wishes == [1]:
            while len(together._waiting) < 3:
                time.sleep(0.001)
        elif wishes == [9]:
            begun.set()
            assert go_on.wait(SECONDS)
        else:
            late.append(pool.submit(together, 9))
            while not together._waiting:
                time.sleep(0.001)
        return [2 * wish for wish in wishes]

    together = Together(do)
    first = pool.submit(together, 1)
    while not together._busy:
        time.sleep(0.001)
    others = [pool.submit(together, wish) for wish in (2, 3, 4)]
    assert [future.result(SECONDS) for future in (first, *others)] == [2, 4, 6, 8]
    assert begun.wait(SECONDS)
    assert not late[0].done()
    go_on.set()
    assert late[0].result(SECONDS) == 18
    pool.shutdown()


def test_what_breaks_all_is_raised_to_each_and_the_next_is_done() -> None:
    slow = Slow()
    futures = ask(slow, [1, 0, 3])
    assert [type(future.exception()) for future in futures] == [type(None), ZeroDivisionError, ZeroDivisionError]
    assert slow.together(4) == 8
