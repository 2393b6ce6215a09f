"""gunicorn's settings, every number from Settings: `gunicorn -c python:falconimg.gunicorn_conf`."""

from __future__ import annotations

import datetime
import errno
import importlib
import math
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.systemd import listen_fds

from falconimg import log, scratch
from falconimg.errors import SettingsProblem
from falconimg.machine import keep_memory_low
from falconimg.settings import Settings, follow_gunicorn, share_metrics

try:
    settings = Settings.from_environ()
except SettingsProblem as problem:
    sys.exit(f"falconimg: {problem.detail}")

MEMORY = Path("/dev/shm")  # noqa: S108  (neither a heartbeat nor a count must wait for a disk)
MEMORY_DIRECTORY = MEMORY if os.access(MEMORY, os.W_OK) else None
METRICS = scratch.made(MEMORY_DIRECTORY or Path(tempfile.gettempdir()))
share_metrics(METRICS)

from falconimg import metrics, tracing  # noqa: E402  (prometheus_client looks for the directory when it is imported)
from falconimg.worker import HANGING  # noqa: E402  (likewise)

# What each worker would import for itself: none has a codec, begins a thread, or knows the settings.
SHARED = [
    "falcon",
    "numpy",
    "falconimg.schema",
    *(["falconimg.jobs.ledger", "sqlalchemy.dialects.sqlite"] if settings.has_jobs else []),
]
for name in SHARED:
    importlib.import_module(name)


SECRET = {"signature", "token", "access_token"}
"""Parameters of addresses that are not logged."""


def _shown(address: str) -> str:
    """An address for the log; who reads that may not see the picture, so without its signature, and what is no token
    there but was meant for one."""
    path, mark, query = address.partition("?")
    names = (unquote_plus(part.partition("=")[0]) for part in query.split("&"))
    shown = (f"{name}=..." if name in SECRET else part for name, part in zip(names, query.split("&"), strict=True))
    return path + mark + "&".join(shown)


class Logger(GunicornLogger):
    """gunicorn's log in the form of ours; the access line carries the request's id."""

    def setup(self, cfg: Any) -> None:
        """Hand gunicorn's own lines to our log."""
        super().setup(cfg)
        log.configure(settings)
        self.error_log.handlers = [log.Bridge()]

    def access(self, resp: Any, req: Any, environ: MutableMapping[str, Any], request_time: datetime.timedelta) -> None:
        """Count each answer; one line for each, but those to probes."""
        route = environ.get(metrics.ROUTE, "")
        status = int(resp.status.split()[0]) if isinstance(resp.status, str) else resp.status_code
        metrics.answered(req.method, route, status, request_time.total_seconds())
        if route in metrics.PROBES:
            return
        headers = {name.lower(): value for name, value in resp.headers}
        log.logger.info(
            "access",
            request_id=headers.get("x-request-id", ""),
            client=environ.get("REMOTE_ADDR", ""),
            method=req.method,
            path=_shown(environ.get("RAW_URI", "")),
            status=status,
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
worker_tmp_dir = str(MEMORY_DIRECTORY) if MEMORY_DIRECTORY else None
control_socket_disable = True
forwarder_headers = ""  # a client of this machine could name any SCRIPT_NAME, and so pass a proxy's rules
logger_class = Logger
accesslog = "-"  # any value but None: Logger.access writes the line
loglevel = settings.log_level
proc_name = "falconimg"


BIND_SECONDS = 3.0
"""How long the start waits for its address to come free."""
PORT: list[int] = []  # the process that answers at FALCONIMG_METRICS_BIND, if there is one
STOPS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
ENDED: set[int] = set()  # processes of workers whose counts are still in files of their own


class JobWorkers:
    """The processes that make the images of jobs; gunicorn's master keeps them at their number, as it does its own."""

    COMMAND = (sys.executable, "-c", "from falconimg.cli import main; main()", "worker", "--parent")
    SECONDS = 5.0  # from one start to the next in the same place

    def __init__(self, count: int) -> None:
        self.places: list[tuple[subprocess.Popen[bytes] | None, float]] = [(None, -math.inf)] * count
        self.stopped = False

    def keep(self) -> None:
        """Start those that are missing, unless they were started a moment ago."""
        for place, (process, begun) in enumerate(self.places):
            if process and process.poll() is None:
                continue
            if process:
                ENDED.add(process.pid)
                self.places[place] = None, begun
                if not self.stopped and begun > -math.inf:
                    log.logger.error("job_worker_ended", pid=process.pid, detail="it was not told to, and is replaced")
            now = time.monotonic()
            if not self.stopped and now > begun + self.SECONDS:
                # in a session of their own: a terminal's ^C is for the server, which tells them
                started = subprocess.Popen([*self.COMMAND, str(os.getpid())], start_new_session=True)  # noqa: S603
                self.places[place] = started, now

    def send(self, number: int) -> None:
        """Send a signal to each."""
        for process, _ in self.places:
            if process:
                process.send_signal(number)

    def renew(self) -> None:
        """Have others in their places, which look at the settings anew."""
        self.send(signal.SIGTERM)
        self.places = [(process, -math.inf) for process, _ in self.places]

    def end(self) -> None:
        """Wait for what they make, as long as a worker may take."""
        end = time.monotonic() + graceful_timeout
        for process, _ in self.places:
            if process:
                try:
                    process.wait(max(0.0, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


JOB_WORKERS = JobWorkers(settings.job_workers if settings.has_jobs else 0)


def when_ready(server: Any) -> None:
    """Look after the job workers whenever gunicorn looks after its own, and tell them when it tells those."""
    murder, kill = server.murder_workers, server.kill_workers

    def murder_workers() -> None:
        murder()
        JOB_WORKERS.keep()

    def kill_workers(number: int) -> None:
        kill(number)
        if number in STOPS:
            JOB_WORKERS.stopped = True
            JOB_WORKERS.send(signal.SIGTERM)

    server.murder_workers, server.kill_workers = murder_workers, kill_workers
    JOB_WORKERS.keep()


def on_reload(_server: Any) -> None:
    """Have the job workers take their settings anew."""
    JOB_WORKERS.renew()


def on_starting(server: Any) -> None:
    """Load the application once before any worker does, so that what keeps it from starting is said once.

    In a process of its own: gunicorn's should hold no codec, and the workers should inherit none. Its command line
    wins over ours, which workers learn here: who may ask depends on where it listens, their memory on their number.
    """
    follow_gunicorn(server.cfg.bind, server.cfg.workers)
    if not (server.master_pid or listen_fds(unset_environment=False)):  # else it listens already
        for address in server.cfg.address:
            _require_free(address)
    keep_memory_low()  # workers inherit it
    trial = multiprocessing.get_context("fork").Process(target=_try, args=[server.app])
    trial.start()
    trial.join()
    if trial.exitcode:
        sys.exit(1)
    _begin_metrics()
    if fault := tracing.fault():
        log.logger.warning("no_traces", detail=fault)
    if settings.cors and not settings.token:
        log.logger.warning(
            "open_to_pages", cors=",".join(settings.cors), detail="their scripts may use it: set FALCONIMG_TOKEN"
        )
    if settings.jobs and not settings.has_jobs:
        log.logger.warning(
            "no_jobs", detail="there is no home to be written: set FALCONIMG_LEDGER, or FALCONIMG_JOBS=off"
        )
    for place in server.cfg.bind:
        if replace(settings, bind=place).open_to_others:
            log.logger.warning(
                "open_to_others", bind=place, detail="anyone who reaches it may use it: set FALCONIMG_TOKEN"
            )


def _require_free(address: Any) -> None:
    """Wait a while for an address that another still listens at; gunicorn would say in a dozen lines that it does."""
    if not isinstance(address, tuple):  # a socket in the file system, or one that is open already
        return
    end = time.monotonic() + BIND_SECONDS
    while True:
        try:
            family, kind, *_, place = socket.getaddrinfo(address[0], address[1], type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(place)
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                came = f"{':'.join(map(str, address))}: {error.strerror}"
                sys.exit(f"falconimg: FALCONIMG_BIND: expected an address that is free here, came {came}")
        time.sleep(0.1)


def _begin_metrics() -> None:
    """Forget what the trial counted, and open the port that is for metrics alone."""
    if not metrics.shared():
        sys.exit("falconimg: prometheus_client was imported before this configuration: workers would count apart")
    metrics.forget(METRICS)
    if settings.metrics_bind:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        master, child = os.getpid(), os.fork()  # not multiprocessing's: a worker that ends would end it
        if not child:
            try:
                if settings.has_jobs:
                    from falconimg.jobs.ledger import Ledger  # see falconimg.jobs.record

                    metrics.COLLECTOR.look = Ledger(settings.ledger_url).waiting
                metrics.serve(settings.metrics_bind, master, sender)
            finally:
                os._exit(0)
        PORT.append(child)
        sender.close()
        fault = receiver.recv()
        if fault:
            sys.exit(f"falconimg: FALCONIMG_METRICS_BIND: expected a free port, came {settings.metrics_bind}: {fault}")


def _try(app: Any) -> None:
    try:
        app.wsgi()
    except SettingsProblem as problem:
        sys.exit(f"falconimg: {problem.detail}")


def pre_fork(_server: Any, _worker: Any) -> None:
    """Let a stop wait until the worker can take it: it inherits the master's handler, which would lose it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)


os.register_at_fork(after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS))


def post_worker_init(worker: Any) -> None:
    """Let stops come, let readiness look at the other workers, and sweep what killed ones left."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    HANGING.replace()
    tracing.start()
    worker.wsgi.pipeline.peers_hang = HANGING.waits
    # the first worker, and each that replaces another
    if worker.age == 1 or worker.age > worker.cfg.workers:
        threading.Thread(target=_sweep, args=[worker.wsgi.pipeline.store], daemon=True).start()


def worker_exit(_server: Any, worker: Any) -> None:
    """End the process though a step in it does not return: Python would wait for its thread."""
    if worker.pid == os.getpid() and worker.booted and worker.wsgi.pipeline.hangs:
        os._exit(0)


def child_exit(server: Any, worker: Any) -> None:
    """Keep its counts; ask for one worker less again, if this one was replaced before it ended."""
    ENDED.add(worker.pid)
    with suppress(OSError):  # the next one tries again
        if metrics.bury(METRICS, ENDED - server.WORKERS.keys()):
            ENDED.clear()
    if HANGING.end(worker.age):
        server.num_workers = max(server.num_workers - 1, server.cfg.workers)


def on_exit(_server: Any) -> None:
    """Leave nothing behind; a daemon is another process than the one that made the directory."""
    JOB_WORKERS.end()
    for child in PORT:
        with suppress(ChildProcessError):  # it has ended, and its number may be another's
            if os.waitpid(child, os.WNOHANG) == (0, 0):
                os.kill(child, signal.SIGTERM)
                os.waitpid(child, 0)
    shutil.rmtree(METRICS, ignore_errors=True)


def _sweep(store: Any) -> None:
    removed = store.sweep()
    if removed:
        log.logger.info("swept", temporary_files=removed)
