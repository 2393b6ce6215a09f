"""Group commit: what threads ask for while a transaction is on its way is done in the next one, by one of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

Wish = TypeVar("Wish")
Answer = TypeVar("Answer")


class Broken(NamedTuple):
    """Why there is no answer."""

    error: Exception


class _Call(Generic[Wish, Answer]):
    """One thread's wish, and what came of it."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.answers: list[Answer | Broken] = []  # one, as soon as it is there
        self.woken = threading.Semaphore(0)  # there is an answer, or it is this thread's turn


class Together(Generic[Wish, Answer]):
    """Calls of one wish each; `do` is given all that have come together, and answers each in its place.

    What it raises, each of them raises.
    """

    def __init__(self, do: Callable[[Sequence[Wish]], Sequence[Answer]]) -> None:
        self._do = do
        self._lock = threading.Lock()
        self._waiting: list[_Call[Wish, Answer]] = []
        self._busy = False  # whether one of the threads does what was wished

    def __call__(self, wish: Wish) -> Answer:
        """What came of the wish."""
        call = _Call[Wish, Answer](wish)
        with self._lock:
            self._waiting.append(call)
            mine, self._busy = not self._busy, True
        if not mine:
            call.woken.acquire()
        if not call.answers:
            self._turn()
        (answer,) = call.answers
        if isinstance(answer, Broken):
            raise answer.error
        return answer

    def _turn(self) -> None:
        """Do all that is wished by now, and have another go on if there is more then."""
        with self._lock:
            calls, self._waiting = self._waiting, []
        try:
            came: Sequence[Answer | Broken] = self._do([call.wish for call in calls])
        except Exception as error:  # noqa: BLE001  (it is raised to each who asked)
            came = [Broken(error)] * len(calls)
        for call, answer in zip(calls, came, strict=True):
            call.answers.append(answer)
        with self._lock:
            self._busy = bool(self._waiting)
            following = self._waiting[:1]
        for call in (*following, *calls):
            call.woken.release()
