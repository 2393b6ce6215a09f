"""The process that makes the images of jobs: it claims them as they come, renews its leases, and sweeps."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from falconimg import log
from falconimg.errors import LedgerProblem
from falconimg.jobs import webhooks
from falconimg.jobs.execution import made, run_claimed
from falconimg.jobs.record import Claim, End, Turn
from falconimg.jobs.waker import Waker
from falconimg.pipeline import Pipeline
from falconimg.settings import Settings
from falconimg.stores import Store

if TYPE_CHECKING:
    from falconimg.jobs.ledger import Ledger

WAITING, WAITING_FAR = 1, 4
"""For the disk, or for other machines: so many images are written, and so many read, while FALCONIMG_POOL are made."""
READY = 2
"""Images that are ready for their turn, at least."""
AHEAD = 16
"""Images beyond these that are claimed ahead, at most, where as many ended within AHEAD_SECONDS."""
AHEAD_SECONDS = 0.1
GATHER_SECONDS = 0.05
"""How long what has ended waits for others that end, as long as there is enough to make."""
POLL_SECONDS = 0.2
"""How often an idle process asks for work."""
ASK_SECONDS = 1.0
"""How often it does where it is woken by what others write, all the same."""
SWEEP_SECONDS = 2.0
"""How often leases that are over are looked for: with the lease's length, how long an image lies after its worker."""
SENDERS = 4
"""Messages to webhooks that a process sends at the same time: a receiver may take webhooks.SECONDS for one."""
SEND_SECONDS = 1.0
"""How often messages to webhooks are looked for."""
RING_SECONDS = 5.0
"""How long an item may be pending before its bell is rung again; twice as long after each further time."""
RINGS = 500
"""Bells that one sweep rings."""
DAY = 86400.0

Ring = Callable[[str, int], bool]
"""Tells an engine of an item: job, number; False if it could not be told."""


class Keeper:
    """What goes on beside the images: leases are renewed, those that are over are swept, webhooks are told.

    Where an engine brings the work, `ring` tells it of an item; a bell that was not heard is rung again.
    """

    def __init__(self, settings: Settings, ledger: Ledger, ring: Ring | None = None) -> None:
        self.settings, self.ledger, self.ring = settings, ledger, ring
        self._ended = threading.Event()
        self._senders = threading.BoundedSemaphore(SENDERS - 1)  # beside the one that looks
        self._lock = threading.Lock()
        self._held: dict[tuple[str, int, int], Claim] = {}

    def start(self) -> None:
        """Begin; `close` ends it."""
        for seconds, what in (
            (self.settings.lease_seconds / 3, self._renew), (SWEEP_SECONDS, self.sweep), (SEND_SECONDS, self._send),
        ):  # fmt: skip
            threading.Thread(target=self._repeat, args=[seconds, what], daemon=True).start()

    def close(self) -> None:
        """Begin nothing any more."""
        self._ended.set()

    def hold(self, claims: Iterable[Claim]) -> None:
        """Renew their leases from now on."""
        with self._lock:
            self._held.update({claim.key: claim for claim in claims})

    def let_go(self, claim: Claim) -> None:
        """Renew its lease no more."""
        with self._lock:
            self._held.pop(claim.key, None)

    def lease(self, claim: Claim) -> float:
        """Until when it is known to be held; 0 if it is not."""
        held = self._held.get(claim.key)
        return held.lease if held else 0.0

    def sweep(self) -> None:
        """Once: leases that are over, bells that were not heard, jobs that ended long ago."""
        for job, number, became in self.ledger.expire(self.settings.job_attempts):
            log.logger.warning("lease_over", job=job, index=number, became=became)
        if self.ring:
            ring_unheard(self.ledger, self.ring)
        self.ledger.forget(time.time() - DAY * self.settings.job_days)

    def _renew(self) -> None:
        with self._lock:
            held = list(self._held.values())
        renewed = self.ledger.renew(held, self.settings.lease_seconds) if held else []
        with self._lock:
            self._held.update({claim.key: claim for claim in renewed if claim.key in self._held})

    def _send(self) -> None:
        while messages := self.ledger.messages(1, webhooks.SECONDS):
            if self._senders.acquire(blocking=False):  # it looks for the next meanwhile
                threading.Thread(target=self._send_beside, daemon=True).start()
            webhooks.send(messages[0], self.ledger, self.settings)

    def _send_beside(self) -> None:
        try:
            self._once(self._send)
        finally:
            self._senders.release()

    def _repeat(self, seconds: float, what: Callable[[], None]) -> None:
        while not self._ended.is_set():  # at once too: where workers die soon, none else would ever sweep
            self._once(what)
            self._ended.wait(seconds)

    @staticmethod
    def _once(what: Callable[[], None]) -> None:
        try:
            what()
        except LedgerProblem as problem:
            log.logger.error("ledger", detail=problem.detail)
        except Exception:  # noqa: BLE001  (it is tried again; without it leases would end)
            log.logger.exception("unforeseen", what=what.__name__)


def ring_unheard(ledger: Ledger, ring: Ring) -> None:
    """Ring for items that nobody was told of, or too long ago; not for all of many at once."""
    for most in (1, RINGS):  # where one cannot be told, the others are not taken for told
        for job, number in ledger.unheard(most, RING_SECONDS):
            if not ring(job, number):
                return


class Worker:
    """Claims items of the ledger for the process's pipeline until it is told to stop; no engine is needed.

    Threads make the images. Who calls `run` puts on record what they have come to, several at once, and claims the
    next ones in the same transaction.
    """

    def __init__(self, settings: Settings, store: Store, ledger: Ledger) -> None:
        self.settings, self.ledger = settings, ledger
        far = any(settings.object_stores) or settings.http_hosts or ledger.file is None
        waiting = WAITING_FAR if far else WAITING
        self.pipeline = Pipeline(replace(settings, pool=settings.pool + waiting), store)
        self.keeper = Keeper(self.settings, ledger)
        self._threads = ThreadPoolExecutor(self.pipeline.settings.pool + waiting, "job")
        self._stopping = False
        self._lock = threading.Lock()
        self._running: dict[tuple[str, int, int], Claim] = {}  # also what has ended, until that is on record
        self._begun: set[tuple[str, int, int]] = set()  # of these
        self._ends: list[End] = []  # what is not on record yet
        self._recording = 0  # how many of them are on their way there
        self._times: deque[float] = deque()  # when images were done, of the last AHEAD_SECONDS; monotonic
        self._due = float("inf")  # when what has ended is to be on record; monotonic
        self._waker = Waker(ledger.file)
        self._hungry = True  # whether there was not enough to claim
        self._alone = False  # whether an image is made that may end the process

    def stop(self) -> None:
        """Claim no more; safe to call from a signal's handler, which takes no lock."""
        self._stopping = True
        self._waker.wake()

    def run(self) -> None:
        """Make images until `stop`, or a step of one does not return; what runs then ends first."""
        self.keeper.start()
        while not (self._stopping or self.pipeline.hangs):
            self._record(claiming=True)
            self._wait()
        self._give_back()
        end = time.monotonic() + self.settings.graceful_seconds + self.settings.image_seconds
        while self._running and time.monotonic() < end:
            self._waker.wait(POLL_SECONDS, touches=False)
            if not self._record(claiming=False) and len(self._ends) == len(self._running):
                break  # their leases end
        self.keeper.close()

    def _wait(self) -> None:
        """Until something is to be put on record, or there may be more to make."""
        end = time.monotonic() + (ASK_SECONDS if self._waker.tells else POLL_SECONDS)
        while (left := min(end, self._due) - time.monotonic()) > 0 and not self._stopping:
            if self._waker.wait(left, touches=self._hungry):
                return

    def _record(self, claiming: bool) -> bool:
        """Put on record what has ended, and begin what is next; False if the ledger does not answer."""
        with self._lock:
            ends, self._ends, self._due = self._ends, [], float("inf")
            self._recording = len(ends)
            left = len(self._running) - len(ends)
            self._alone = self._alone and left > 0
            room = max(0, self._width() - left) if claiming and not self._alone else 0
        turn = Turn(room, self.settings.lease_seconds, idle=not left) if room else None
        answers: Sequence[bool | Exception]
        try:
            answers, claims = self.ledger.end_and_claim(ends, turn)
        except LedgerProblem as problem:
            log.logger.error("ledger", detail=problem.detail)
            with self._lock:
                self._ends, self._recording = [*ends, *self._ends], 0
            time.sleep(1)
            return False
        except Exception as error:  # noqa: BLE001  (their leases end)
            log.logger.exception("unforeseen", what="end_and_claim")
            answers, claims = [error] * len(ends), []
            time.sleep(1)
        for end, answer in zip(ends, answers, strict=True):
            about = {"job": end.claim.job, "index": end.claim.number}
            if isinstance(answer, Exception):
                log.logger.error("image_not_reported", detail=getattr(answer, "detail", ""), **about)
            elif not answer:
                log.logger.warning("image_lost", **about)
            self._let_go(end.claim)
        self.keeper.hold(claims)
        self._hungry = len(claims) < room
        with self._lock:
            self._recording = 0
            self._alone = self._alone or any(claim.attempts > 1 for claim in claims)
            self._running.update({claim.key: claim for claim in claims})
        for claim in claims:
            self._threads.submit(self._make, claim)
        return True

    def _width(self) -> int:
        """How many may be this process's at the same time: as many as no other process could begin sooner."""
        while self._times and self._times[0] < time.monotonic() - AHEAD_SECONDS:
            self._times.popleft()
        return self.settings.pool + READY + min(AHEAD, len(self._times))

    def _make(self, claim: Claim) -> None:
        with self._lock:
            if claim.key not in self._running:
                return  # it was given back
            self._begun.add(claim.key)
        end = None
        with reported_or_not():
            end = made(claim, self.pipeline, self.ledger, partial(self.keeper.lease, claim))
        if not end:
            self._let_go(claim)
        now = time.monotonic()
        with self._lock:
            if end:
                self._ends.append(end)
                if end.state == "done":
                    self._times.append(now)
            few = len(self._running) - self._recording - len(self._ends) < self.settings.pool + READY
            due = now if few else min(self._due, now + GATHER_SECONDS)
            sooner, self._due = due < self._due, due
        if sooner:
            self._waker.wake()

    def _give_back(self) -> None:
        """Let others have what was claimed and is not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            waiting = [claim for key, claim in self._running.items() if key not in self._begun]
            for claim in waiting:
                del self._running[claim.key]
        if waiting:
            with reported_or_not():
                self.ledger.give_back(waiting)
        for claim in waiting:
            self.keeper.let_go(claim)

    def _let_go(self, claim: Claim) -> None:
        self.keeper.let_go(claim)
        with self._lock:
            del self._running[claim.key]
            self._begun.discard(claim.key)


def make(claim: Claim, pipeline: Pipeline, ledger: Ledger) -> None:
    """Make a claimed image and report it."""
    with reported_or_not():
        if not run_claimed(claim, pipeline, ledger):
            log.logger.warning("image_lost")


@contextmanager
def reported_or_not() -> Iterator[None]:
    """What keeps an image from being reported leaves it to the next attempt, when its lease is over."""
    try:
        yield
    except LedgerProblem as problem:
        log.logger.error("image_not_reported", detail=problem.detail)
    except Exception:  # noqa: BLE001  (its lease ends)
        log.logger.exception("image_not_reported")
