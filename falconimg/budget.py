"""A budget of bytes that the images of one process share, granted first come, first served."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future

from falconimg import metrics
from falconimg.settings import Settings

DOCUMENTS = 8
"""The part of a process's memory that is for requests' documents, and the jobs made of them, is one of so many."""
RESULT = 1000
"""Bytes that a result takes at most in a job, in the names that are claimed and in the report."""


def most_results(settings: Settings) -> int:
    """The results that a request may have, so that the jobs and reports of all threads have their memory."""
    affordable = settings.budget // DOCUMENTS // settings.threads // RESULT
    return min(settings.max_results, max(affordable, settings.max_outputs))


class Grant(Future[None]):
    """So many bytes of a budget: done as soon as they are granted."""

    def __init__(self, budget: Budget, amount: int) -> None:
        super().__init__()
        self.budget, self.amount = budget, amount

    def give_up(self) -> None:
        """Cancel it if it is still waited for; what was granted stays."""
        self.budget.give_up(self)

    def give_back(self) -> None:
        """Neither wait for it nor hold it any longer; doing so again changes nothing."""
        self.budget.give_back(self)


class Budget:
    """So many bytes, asked for by `ask` and given back by their grant.

    A large request is not overtaken by small ones that came later, so that
    neither starves the other. Nobody waits in here: a Grant is a future, so
    that no thread which others need is held up by one that waits for memory.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size
        self._lock = threading.Lock()
        self._queue: deque[Grant] = deque()
        self._held: set[Grant] = set()
        self._nothing = Grant(self, 0)
        self._nothing.set_result(None)

    def ask(self, amount: int) -> Grant:
        """A grant of `amount` (at most `size`) bytes, once all who came earlier have theirs and they are free.

        Nothing is granted at once, whoever waits.
        """
        if amount > self.size:
            raise ValueError(f"{amount} bytes of a budget of {self.size}")
        if not amount:
            return self._nothing
        grant = Grant(self, amount)
        with self._lock:
            self._queue.append(grant)
            self._serve()
        return grant

    def give_up(self, grant: Grant) -> None:
        """See Grant."""
        with self._lock:
            self._give_up(grant)

    def give_back(self, grant: Grant) -> None:
        """See Grant."""
        with self._lock:
            self._give_up(grant)
            if grant in self._held:
                self._held.remove(grant)
                self.free += grant.amount
                metrics.BUDGET_USED.dec(grant.amount)
                self._serve()

    def _give_up(self, grant: Grant) -> None:
        if not grant.done():
            grant.cancel()
            self._queue.remove(grant)
            grant.set_running_or_notify_cancel()  # it is this that wakes who waits for the future
            self._serve()

    def _serve(self) -> None:
        while self._queue and self._queue[0].amount <= self.free:
            grant = self._queue.popleft()
            self._held.add(grant)
            self.free -= grant.amount
            metrics.BUDGET_USED.inc(grant.amount)
            grant.set_result(None)
