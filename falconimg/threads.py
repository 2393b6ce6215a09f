"""The threads that a process's images are made on.

Not concurrent.futures' pool: that cannot stand in for a thread whose native
call does not return, and it waits for such a thread when the process is to end.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from falconimg.errors import OutOfMemory


class Threads:
    """So many threads; what is submitted is run in its order, as many at once as there are threads."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._work: queue.SimpleQueue[tuple[Future[None], Callable[[], None]] | None] = queue.SimpleQueue()
        self._lost: set[Future[None]] = set()
        self._started = 0
        self._lock = threading.Lock()

    def submit(self, step: Callable[[], None]) -> Future[None]:
        """A future that is done when `step` has returned or raised.

        Raises:
            OutOfMemory: there is no thread, and the system gives none
        """
        future: Future[None] = Future()
        with self._lock:
            if self._started < self.count:
                try:
                    self._start()
                except RuntimeError as error:
                    if not self._started:
                        raise OutOfMemory(f"no thread for it: {error}") from None
            self._work.put((future, step))
        return future

    def replace(self, future: Future[None]) -> None:
        """Another thread takes the place of the one that runs this; that one ends should it ever return."""
        with self._lock, suppress(RuntimeError):  # without another thread there is one less
            if future.running() and future not in self._lost:
                self._start()
                self._lost.add(future)

    def close(self) -> None:
        """End each thread once what was submitted by now is done."""
        for _ in range(self._started):
            self._work.put(None)

    def _start(self) -> None:
        # a daemon: the process may end though one of them does not
        threading.Thread(target=self._run, name=f"image-{self._started + 1}", daemon=True).start()
        self._started += 1

    def _run(self) -> None:
        while work := self._work.get():
            future, step = work
            del work  # what a step refers to is not kept until the next one comes
            if not future.set_running_or_notify_cancel():
                continue
            try:
                step()
            except BaseException as error:  # noqa: BLE001  (it is for who waits for the future)
                future.set_exception(error)
            else:
                future.set_result(None)
            with self._lock:
                if future in self._lost:
                    self._lost.remove(future)
                    return
            del future, step
