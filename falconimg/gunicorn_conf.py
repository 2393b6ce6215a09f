"""gunicorn's settings, every number from Settings: `gunicorn -c python:falconimg.gunicorn_conf`."""

from __future__ import annotations

import ctypes
import datetime
import math
import multiprocessing
import os
import sys
import threading
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from gunicorn.glogging import Logger as GunicornLogger

from falconimg import log
from falconimg.errors import SettingsProblem
from falconimg.settings import Settings
from falconimg.worker import HANGING

try:
    settings = Settings.from_environ()
except SettingsProblem as problem:
    sys.exit(f"falconimg: {problem.detail}")


class Logger(GunicornLogger):
    """gunicorn's log in the form of ours; the access line carries the request's id."""

    def setup(self, cfg: Any) -> None:
        """Hand gunicorn's own lines to our log."""
        super().setup(cfg)
        log.configure(settings)
        self.error_log.handlers = [log.Bridge()]
        self.line = log.logger.bind()

    def access(self, resp: Any, req: Any, environ: MutableMapping[str, Any], request_time: datetime.timedelta) -> None:
        """One line for each answer."""
        headers = {name.lower(): value for name, value in resp.headers}
        self.line.info(
            "access",
            request_id=headers.get("x-request-id", ""),
            client=environ.get("REMOTE_ADDR", ""),
            method=req.method,
            path=environ.get("RAW_URI", ""),
            status=int(resp.status.split()[0]) if isinstance(resp.status, str) else resp.status_code,
            bytes=resp.sent or 0,
            ms=round(request_time.total_seconds() * 1000, 1),
        )


wsgi_app = "falconimg.app:create_app()"
bind = settings.bind
workers = settings.workers
worker_class = "falconimg.worker.Worker"
worker_connections = settings.connections
threads = settings.threads
sendfile = False  # it would wait for the client
timeout = math.ceil(settings.timeout_seconds)  # gunicorn takes whole seconds, and 0 for never
keepalive = math.ceil(settings.keepalive_seconds)
# Images are begun during our graceful time; the last of them may take as long as an image may, and be found to hang.
graceful_timeout = math.ceil(settings.graceful_seconds + settings.image_seconds + 5)
limit_request_line = settings.max_request_line
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  (its heartbeat must not wait for a disk)
control_socket_disable = True
forwarder_headers = ""  # a client of this machine could name any SCRIPT_NAME, and so pass a proxy's rules
logger_class = Logger
accesslog = "-"  # any value but None: Logger.access writes the line
loglevel = settings.log_level
proc_name = "falconimg"


# mallopt(3): arenas at most, and the bytes from which on a block is given back to the system when it is freed.
# glibc's own are 8 for each core, and as large as the largest block that was freed, up to 32 MB: then what a worker
# holds is twice what its images take.
MALLOC = {-8: 2, -3: 4_000_000}


def on_starting(server: Any) -> None:
    """Load the application once before any worker does, so that what keeps it from starting is said once.

    In a process of its own: gunicorn's should hold no codec, and the workers should inherit none. The warning
    looks at where gunicorn will listen, because its command line wins over FALCONIMG_BIND.
    """
    with suppress(AttributeError):  # another C library may have no mallopt; workers inherit what it sets
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in MALLOC.items():
            mallopt(option, value)
    trial = multiprocessing.get_context("fork").Process(target=_try, args=[server.app])
    trial.start()
    trial.join()
    if trial.exitcode:
        sys.exit(1)
    for place in server.cfg.bind:
        if replace(settings, bind=place).open_to_others:
            log.logger.warning(
                "open_to_others", bind=place, detail="anyone who reaches it may use it: set FALCONIMG_TOKEN"
            )


def _try(app: Any) -> None:
    try:
        app.wsgi()
    except SettingsProblem as problem:
        sys.exit(f"falconimg: {problem.detail}")


def post_worker_init(worker: Any) -> None:
    """Let readiness look at the other workers, and sweep what killed ones left."""
    HANGING.replace()
    worker.wsgi.pipeline.peers_hang = HANGING.waits
    # the first worker, and each that replaces another
    if worker.age == 1 or worker.age > worker.cfg.workers:
        threading.Thread(target=_sweep, args=[worker.wsgi.pipeline.store], daemon=True).start()


def worker_exit(_server: Any, worker: Any) -> None:
    """End the process though a step in it does not return: Python would wait for its thread."""
    if worker.pid == os.getpid() and worker.booted and worker.wsgi.pipeline.hangs:
        os._exit(0)


def child_exit(server: Any, worker: Any) -> None:
    """Ask for one worker less again, if this one was replaced before it ended."""
    if HANGING.end(worker.age):
        server.num_workers = max(server.num_workers - 1, server.cfg.workers)


def _sweep(store: Any) -> None:
    removed = store.sweep()
    if removed:
        log.logger.info("swept", temporary_files=removed)
