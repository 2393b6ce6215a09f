"""A budget of bytes that the images of one process share, granted first come, first served."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from falconimg.errors import Busy


class Budget:
    """So many bytes, lent by `take` and returned by `give`.

    A large request is not overtaken by small ones that came later, so that
    neither starves the other.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()

    def take(self, amount: int, seconds: float | None = None, check: Callable[[], object] | None = None) -> None:
        """Wait until `amount` (at most `size`) bytes are free and all who came earlier are served.

        `check` is called from time to time while waiting; what it raises ends the wait.

        Raises:
            Busy: they were not free within `seconds`
        """
        if amount > self.size:
            raise ValueError(f"{amount} bytes of a budget of {self.size}")
        ticket = object()

        def served() -> bool:
            return self._queue[0] is ticket and self.free >= amount

        with self._changed:
            self._queue.append(ticket)
            try:
                if not self._wait(served, seconds, check):
                    raise Busy(f"no memory came free within {seconds:g} seconds (FALCONIMG_WAIT_SECONDS)")
                self.free -= amount
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _wait(self, served: Callable[[], bool], seconds: float | None, check: Callable[[], object] | None) -> bool:
        if seconds is not None:
            return self._changed.wait_for(served, seconds)
        while not self._changed.wait_for(served, 1):
            if check:
                check()
        return True

    def give(self, amount: int) -> None:
        """Return what was taken."""
        with self._changed:
            self.free += amount
            self._changed.notify_all()
