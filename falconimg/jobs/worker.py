"""The process that makes the images of jobs: it claims them as they come, renews its leases, and sweeps."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from falconimg import log
from falconimg.errors import LedgerProblem
from falconimg.jobs import webhooks
from falconimg.jobs.execution import Report, run_claimed
from falconimg.jobs.record import Claim, Turn
from falconimg.pipeline import Pipeline
from falconimg.settings import Settings
from falconimg.stores import Store

if TYPE_CHECKING:
    from falconimg.jobs.ledger import Ledger

RECORDING = 4
"""Threads beyond FALCONIMG_POOL: so many wait for the ledger and the disk while as many as that make pictures."""
READY = 2
"""Images that are ready for their turn, at least."""
POLL_SECONDS = 0.2
"""How often an idle process looks for work."""
LOOK_SECONDS = 0.05
"""How often it looks whether SQLite was written to, which costs next to nothing; then it asks only then."""
ASK_SECONDS = 1.0
"""How often it asks SQLite all the same: a file's time is not that exact."""
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
        if held:
            self.ledger.renew(held, self.settings.lease_seconds)

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
    """Claims items of the ledger for the process's pipeline until it is told to stop; no engine is needed."""

    def __init__(self, settings: Settings, store: Store, ledger: Ledger) -> None:
        self.settings, self.ledger = settings, ledger
        self.pipeline = Pipeline(replace(settings, pool=settings.pool + RECORDING), store)
        self.width = self.pipeline.settings.pool + 3 * READY
        self.keeper = Keeper(self.settings, ledger)
        self._ends: deque[float] = deque()  # of the last POLL_SECONDS, monotonic
        self._threads = ThreadPoolExecutor(self.width, "job")
        self._stopping = False
        self._free = threading.Event()  # an image has ended
        self._lock = threading.Lock()
        self._running: dict[tuple[str, int, int], Claim] = {}
        self._alone = False  # whether an image is made that may end the process

    def stop(self) -> None:
        """Claim no more; safe to call from a signal's handler, which takes no lock."""
        self._stopping = True

    def run(self) -> None:
        """Make images until `stop`, or a step of one does not return; what runs then ends first."""
        self.keeper.start()
        while not (self._stopping or self.pipeline.hangs):
            self._free.clear()
            if not self._claimed():
                self._wait()
        end = time.monotonic() + self.settings.graceful_seconds + self.settings.image_seconds
        while self._running and time.monotonic() < end:
            time.sleep(0.01)
        self.keeper.close()
        self._threads.shutdown(wait=False)

    def _wait(self) -> None:
        """Until an image has ended, or there may be more to make."""
        end = time.monotonic() + (ASK_SECONDS if self.ledger.is_file else POLL_SECONDS)
        while not (self._free.wait(LOOK_SECONDS) or self.ledger.has_changed() or time.monotonic() > end):
            pass

    def _claimed(self) -> bool:
        """Whether there was something to do, and room for it."""
        try:
            claims = self.ledger.claim(max(0, self._room()), self.settings.lease_seconds, idle=not self._running)
        except LedgerProblem as problem:
            log.logger.error("ledger", detail=problem.detail)
            time.sleep(1)
            return False
        self.keeper.hold(claims)
        with self._lock:
            self._alone = self._alone or any(claim.attempts > 1 for claim in claims)
            self._running.update({claim.key: claim for claim in claims})
        for claim in claims:
            self._threads.submit(self._make, claim)
        return bool(claims)

    def _room(self) -> int:
        """How many are to be claimed, below 0 if there are too many: as many as no other process could begin sooner."""
        with self._lock:
            while self._ends and self._ends[0] < time.monotonic() - POLL_SECONDS:
                self._ends.popleft()
            width = min(self.width, self.settings.pool + READY + len(self._ends))
            return -1 if self._alone else width - len(self._running)

    def _make(self, first: Claim) -> None:
        """Make an image, and the next one as long as there is one to be had with the last one's end."""
        claims = [first]

        def end(claim: Claim, state: str, outcome: Mapping[str, Any]) -> bool:
            with self._lock:
                self._ends.append(time.monotonic())
            again = self._room() >= 0 and not (self._stopping or self.pipeline.hangs)
            turn = Turn(1, self.settings.lease_seconds, idle=False) if again else None
            held, found = self.ledger.end_and_claim(claim, state, outcome, turn)
            self.keeper.hold(found)
            with self._lock:
                self._running.update({claim.key: claim for claim in found})
            claims.extend(found)
            return held

        while claims:
            claim = claims.pop()
            make(claim, self.pipeline, self.ledger, end)
            self.keeper.let_go(claim)
            with self._lock:
                del self._running[claim.key]
                self._alone = False
        self._free.set()


def make(claim: Claim, pipeline: Pipeline, ledger: Ledger, end: Report | None = None) -> None:
    """Make a claimed image; what keeps it from being reported leaves it to the next attempt, when its lease is over."""
    try:
        if not run_claimed(claim, pipeline, ledger, end):
            log.logger.warning("image_lost")
    except LedgerProblem as problem:
        log.logger.error("image_not_reported", detail=problem.detail)
    except Exception:  # noqa: BLE001  (its lease ends)
        log.logger.exception("image_not_reported")
