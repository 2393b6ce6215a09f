"""Group commit: what threads ask for while a transaction is on its way is done in the next one, by one of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Wish = TypeVar("Wish")
Answer = TypeVar("Answer")


class Together(Generic[Wish, Answer]):
    """Calls of one wish each; `do` is given all that have come together, and answers or refuses each in its place.

    What `do` raises, each of them raises.
    """

    def __init__(self, do: Callable[[Sequence[Wish]], Sequence[Answer | Exception]]) -> None:
        self._do = do
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: list[tuple[Wish, list[Answer | Exception]]] = []

    def __call__(self, wish: Wish) -> Answer:
        """What came of the wish."""
        answers: list[Answer | Exception] = []
        with self._lock:
            self._waiting.append((wish, answers))
        with self._turn:
            if not answers:  # nobody has done it meanwhile
                with self._lock:
                    waiting, self._waiting = self._waiting, []
                self._answer(waiting)
        (answer,) = answers
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _answer(self, waiting: Sequence[tuple[Wish, list[Answer | Exception]]]) -> None:
        try:
            came = self._do([wish for wish, _ in waiting])
        except Exception as error:  # noqa: BLE001  (it is raised to each who asked)
            came = [error] * len(waiting)
        for (_, answers), answer in zip(waiting, came, strict=True):
            answers.append(answer)
