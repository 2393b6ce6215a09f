"""`falconimg worker`: one process that makes the images of jobs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from falconimg import formats, log, tracing
from falconimg.cli import Refused
from falconimg.errors import SettingsProblem
from falconimg.jobs import engine
from falconimg.jobs.ledger import Ledger
from falconimg.jobs.worker import Worker
from falconimg.machine import keep_memory_low
from falconimg.settings import Settings
from falconimg.stores.routed import opened

LOOK_SECONDS = 1.0


def run(settings: Settings, parent: int | None) -> None:
    """Make images until SIGTERM or SIGINT, or until `parent` is no longer this process's."""
    if not settings.ledger_url:
        raise Refused("FALCONIMG_LEDGER is not set, and there is no home to be written")
    keep_memory_low()
    log.configure(settings)
    try:
        formats.check(settings)
        ledger = Ledger(settings.ledger_url)
        if settings.broker:
            ledger.close()  # each of the engine's processes has its own
            if parent:
                threading.Thread(target=_watch, args=[parent, _end], daemon=True).start()
            engine.serve(settings, opened)
            return
    except SettingsProblem as problem:
        raise Refused(problem.detail) from None
    tracing.start()
    worker = Worker(settings, opened(settings), ledger)
    pipeline = worker.pipeline

    def stop(*_: object) -> None:
        pipeline.stop()
        worker.stop()

    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(each, stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal's; the server that started it ends it
    if parent:
        threading.Thread(target=_watch, args=[parent, stop], daemon=True).start()
    log.logger.info("job_worker", pid=os.getpid())
    threading.Thread(target=pipeline.store.sweep, daemon=True).start()  # what a killed one left
    worker.run()
    ledger.close()
    if pipeline.hangs:
        os._exit(1)  # Python would wait for the thread that does not return


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _watch(parent: int, stop: Callable[[], None]) -> None:
    waiting = threading.Event()
    while os.getppid() == parent:
        waiting.wait(LOOK_SECONDS)
    stop()
