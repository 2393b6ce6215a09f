"""Celery as the engine: it brings a bell's sound to a worker, on whichever machine; the ledger says what is to be done.

Two functions are all that it is for: `ring` tells that an item waits, and a task claims the next item and has it made.
What is lost on the way, with the broker or its data, delays: `Keeper.sweep` rings again, and who hears nothing for a
while looks by itself. Nothing is ever read from it.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from falconimg import log
from falconimg.errors import LedgerProblem, SettingsProblem
from falconimg.jobs.worker import Keeper, Ring, make
from falconimg.pipeline import Pipeline
from falconimg.settings import Settings
from falconimg.stores import Store

if TYPE_CHECKING:
    from falconimg.jobs.ledger import Ledger

QUEUE = TASK = "falconimg"
SILENT_SECONDS = 5.0
"""After so long without a bell a process looks for work by itself: the broker may be away, or not heard any more."""
CONNECT_SECONDS = 2.0
"""How long a bell waits for a broker that does not answer; its item is told of later."""
MOST_BELLS = 1000
"""Items that wait to be told of."""
VISIBLE_SECONDS = 2 * 3600
"""Redis: how long a task may run, at least, until it is taken for lost though its worker lives; twice as long as any
image takes."""


def bell(settings: Settings) -> Ring | None:
    """What tells the engine of an item; None where there is no engine, and workers look by themselves.

    Raises:
        SettingsProblem: there is to be one, and it is not installed
    """
    if not settings.broker:
        return None
    return Bell(_application(settings).tasks[TASK].apply_async)


class Bell:
    """Tells the engine of items on a thread of its own, so that nobody waits for a broker that does not answer.

    False if it did not take the last one, or has too many to be told of; the sweeper rings again then.
    """

    def __init__(self, tell: Callable[..., object]) -> None:
        self._tell = tell
        self._bells: queue.Queue[tuple[str, int]] = queue.Queue(MOST_BELLS)
        self._lock = threading.Lock()
        self._pid = 0  # of the process whose thread it is: a fork does not bring it along
        self._heard = True

    def __call__(self, job: str, number: int) -> bool:
        """Whether it may be told."""
        with self._lock:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                threading.Thread(target=self._ring, daemon=True).start()
        try:
            self._bells.put_nowait((job, number))
        except queue.Full:
            return False
        return self._heard

    def _ring(self) -> None:
        while True:
            job, number = self._bells.get()
            try:
                self._tell((job, number), retry=False)
                self._heard = True
            except Exception as error:  # noqa: BLE001  (each broker has its own)
                self._heard = False
                log.logger.warning("bell_not_rung", job=job, index=number, detail=str(error)[:200])
                with suppress(queue.Empty):  # nor would the others be heard
                    while True:
                        self._bells.get_nowait()
                        self._bells.task_done()
            self._bells.task_done()


def serve(settings: Settings, store: Callable[[Settings], Store]) -> None:
    """Be a worker of Celery's until SIGTERM: `pool` processes, each of which makes an image at a time."""
    from celery import signals  # type: ignore[import-untyped]

    app = _application(settings)
    alone = replace(settings, pool=1, memory=settings.budget // settings.pool)
    ring = bell(settings)

    def begin(**_: Any) -> None:
        from falconimg.jobs.ledger import Ledger  # see record

        try:
            app.station = Station(alone, Pipeline(alone, store(alone)), Ledger(settings.ledger_url), ring)
        except SettingsProblem as problem:  # the database is away: Celery would go on without a station
            log.logger.error("ledger", detail=problem.detail)
            time.sleep(1)
            os._exit(1)  # another process takes its place
        app.station.start()

    signals.worker_process_init.connect(begin, weak=False)
    app.worker_main(
        ["--quiet", "worker", f"--concurrency={settings.pool}", "--pool=prefork", "--without-gossip",
         "--without-mingle",
         "--without-heartbeat", f"--loglevel={settings.log_level}", f"--hostname=falconimg-{os.getpid()}@%h"]
    )  # fmt: skip


class Station:
    """What a process of the pool works with: it makes an image at a time, when a bell rings or has not for long."""

    def __init__(self, settings: Settings, pipeline: Pipeline, ledger: Ledger, ring: Ring | None) -> None:
        self._settings, self._pipeline, self._ledger = settings, pipeline, ledger
        self._keeper = Keeper(settings, ledger, ring)
        self._turn = threading.Lock()
        self._heard = time.monotonic()

    def start(self) -> None:
        """Begin what goes on beside the images."""
        self._keeper.start()
        threading.Thread(target=self._look, daemon=True).start()

    def hear(self) -> None:
        """A bell has rung: make the next item, whichever it is; the ledger knows which goes first."""
        self._heard = time.monotonic()
        self._make_next()
        self._heard = time.monotonic()

    def _look(self) -> None:
        while True:
            time.sleep(SILENT_SECONDS)
            try:
                while time.monotonic() > self._heard + SILENT_SECONDS and self._make_next():
                    pass
            except LedgerProblem as problem:
                log.logger.error("ledger", detail=problem.detail)

    def _make_next(self) -> bool:
        """Whether there was one."""
        with self._turn:
            claims = self._ledger.claim(1, self._settings.lease_seconds)
            for claim in claims:
                self._keeper.hold([claim])
                try:
                    make(claim, self._pipeline, self._ledger)
                finally:
                    self._keeper.let_go(claim)
        if self._pipeline.hangs:
            os._exit(1)  # another process takes its place
        return bool(claims)


@cache
def _application(settings: Settings) -> Any:
    """Celery's application, one a process; its `station` is what tasks work with."""
    try:
        from celery import Celery
    except ImportError:
        raise SettingsProblem("FALCONIMG_BROKER: expected falconimg[celery] to be installed, came none") from None
    app = Celery(TASK, broker=settings.broker, set_as_current=False)
    visible = max(VISIBLE_SECONDS, 2 * settings.image_seconds)
    redis = {"visibility_timeout": visible, "unacked_restore_interval": 2, "unacked_restore_throttle": 1}
    app.conf.update(
        task_default_queue=QUEUE,
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,  # our log goes there
        worker_cancel_long_running_tasks_on_connection_loss=False,  # the fence sees to it
        broker_connection_timeout=CONNECT_SECONDS,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=redis if settings.broker.startswith("redis") else {"confirm_publish": True},
    )

    @app.task(name=TASK, shared=False)  # type: ignore[untyped-decorator]
    def made(_job: str, _number: int) -> None:
        """Make one, though not that one."""
        app.station.hear()

    return app
