"""What Prometheus reads: one row for each metric, and how the numbers of several processes become one.

Below gunicorn every process writes its numbers into files of its own, in the directory that settings.py named before
prometheus_client was imported (its multiprocess mode), and whoever is asked adds up all of them. Anywhere else they are
numbers in memory.
"""

from __future__ import annotations

import fcntl
import os
import platform
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    start_http_server,
    values,
)
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from falconimg import log
from falconimg.errors import LedgerProblem
from falconimg.job import Outcome
from falconimg.settings import metrics_directory

TEXT = "text/plain; version=0.0.4; charset=utf-8"  # of what `scraped` answers
ROUTE = "falconimg.route"  # the key of a WSGI environment that has the template of the route that was taken
PROBES = frozenset({"/livez", "/readyz", "/health", "/healthz"})
METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
OTHER = "other"  # instead of a method or a route that is none of ours: a client must not make series
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# Times are counted in so many parts of a second: then their sums are exact, whatever the order in which files are added
# up. One that becomes less, were it by its last bit, is taken for that of a server which has begun anew.
PARTS = 2**20
PATIENCE = 0.25  # seconds that gunicorn's master waits at most for those who read
GONE = "gone"  # in the names of the files that hold the counts of processes that have ended, instead of their id


class Row(NamedTuple):
    """A metric, for the documentation; a histogram's series are its name with _bucket, _sum and _count."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


ROWS: list[Row] = []
REGISTRY = CollectorRegistry()
disable_created_metrics()


def _row(kind: str, name: str, help_: str, labels: tuple[str, ...]) -> tuple[str, str, tuple[str, ...]]:
    ROWS.append(Row(f"falconimg_{name}", kind, labels, help_))
    return f"falconimg_{name}", help_, labels


def _counter(name: str, help_: str, *labels: str) -> Counter:
    return Counter(*_row("counter", name, help_, labels), registry=REGISTRY)


def _histogram(name: str, help_: str, *labels: str) -> Histogram:
    return Histogram(*_row("histogram", name, help_, labels), registry=REGISTRY, buckets=SECONDS)


def _gauge(name: str, help_: str) -> Gauge:
    return Gauge(*_row("gauge", name, help_, ()), registry=REGISTRY, multiprocess_mode="livesum")


REQUESTS = _counter("http_requests_total", "HTTP requests answered", "method", "route", "status")
REQUEST_SECONDS = _histogram(
    "http_request_duration_seconds", "from a request's thread to its answer's last byte", "method", "route"
)
QUEUE_SECONDS = _histogram("queue_wait_seconds", "how long whole requests waited for a thread")
IMAGES = _counter("images_total", "images that ended: done, failed or skipped", "verdict")
IN_PROGRESS = _gauge("images_in_progress", "images on their way, those that wait for memory among them")
STAGE_SECONDS = _histogram(
    "stage_duration_seconds",
    "what an image took for read, decode, each operation by its name (views take none), encode and publish",
    "stage",
)
PIXELS = _counter("pixels_total", "pixels decoded (in) and published (out)", "direction")
BYTES = _counter("bytes_total", "bytes of files read (in) and published (out)", "direction")
BUDGET = _gauge("memory_budget_bytes", "bytes that images and requests' documents may take in all workers together")
BUDGET_USED = _gauge("memory_budget_used_bytes", "bytes of it that are granted")
CACHE_HITS = _counter("cache_hits_total", "results taken from the cache")
CACHE_MISSES = _counter("cache_misses_total", "results that the cache had not")
BUILD = Row("falconimg_build_info", "gauge", ("version", "python", "opencv"), "always 1; its labels say what runs")
JOBS = Row("falconimg_jobs", "gauge", ("state",), "jobs on record that have not ended: queued or running")
JOB_IMAGES = Row("falconimg_job_images", "gauge", ("state",), "images of jobs that have not ended: pending or running")
JOB_AGE = Row("falconimg_job_oldest_seconds", "gauge", (), "since the oldest job that has not ended was submitted")
JOB_LATE = Row("falconimg_job_webhooks_late", "gauge", (), "jobs whose webhook has not taken its last message")
ROWS += (BUILD, JOBS, JOB_IMAGES, JOB_AGE, JOB_LATE)


class Waiting(NamedTuple):
    """What of the ledger of jobs has not ended."""

    jobs: Mapping[str, int]  # by state
    images: Mapping[str, int]  # by state
    oldest: float  # seconds since the oldest job was submitted, 0 if there is none
    late: int  # jobs whose webhook has not taken its last message


class Stages:
    """How long each stage of one image took, in all: the one record that everything that tells times is made of."""

    def __init__(self) -> None:
        self.spent: dict[str, tuple[float, float]] = {}  # name -> (monotonic time of its first begin, seconds)

    def timed(self, name: str, step: Callable[..., Any], *args: Any) -> Any:
        """What the step answers or raises; its time is added to that stage's."""
        begun = monotonic()
        try:
            return step(*args)
        finally:
            first, seconds = self.spent.get(name, (begun, 0.0))
            self.spent[name] = first, seconds + monotonic() - begun

    def seconds(self) -> tuple[tuple[str, float], ...]:
        """(name, seconds) of each, in the order in which they began."""
        return tuple((name, seconds) for name, (_, seconds) in list(self.spent.items()))


def server_timing(outcomes: Iterable[Outcome]) -> str:
    """The value of a Server-Timing header (W3C): the milliseconds of each stage of all these images together."""
    spent: dict[str, float] = {}
    for name, seconds in (stage for outcome in outcomes for stage in outcome.stages):
        spent[name] = spent.get(name, 0.0) + seconds
    return ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in spent.items())


@cache
def _child(metric: Any, *labels: str) -> Any:
    """The series of these labels; looking one up takes longer than counting it."""
    return metric.labels(*labels)


# Series of which it is known that they come are there from the start, so that a rate of the first one is seen.
for _verdict in ("done", "failed", "skipped"):
    _child(IMAGES, _verdict)
for _direction in ("in", "out"):
    _child(PIXELS, _direction)
    _child(BYTES, _direction)


def answered(method: str, route: str, status: int, seconds: float | None = None) -> None:
    """Count an answer; without seconds it is one that no thread was needed for."""
    method, route = method if method in METHODS else OTHER, route or OTHER
    _child(REQUESTS, method, route, str(status)).inc()
    if seconds is not None:
        _child(REQUEST_SECONDS, method, route).observe(_exact(seconds))


def waited(seconds: float) -> None:
    """Count a request that waited so long for a thread, or for none."""
    QUEUE_SECONDS.observe(_exact(seconds))


def ended(outcome: Outcome, pixels: int = 0, size: int = 0) -> None:
    """Count an image of which so many pixels were decoded, of a file of that many bytes."""
    _child(IMAGES, outcome.status).inc()
    for name, seconds in outcome.stages:
        _child(STAGE_SECONDS, name).observe(_exact(seconds))
    made = [output for output in outcome.outputs if output.bytes is not None]
    _child(PIXELS, "in").inc(pixels)
    _child(BYTES, "in").inc(size)
    _child(PIXELS, "out").inc(sum(output.width * output.height for output in made))
    _child(BYTES, "out").inc(sum(output.bytes or 0 for output in made))


def _exact(seconds: float) -> float:
    return round(seconds * PARTS) / PARTS


class Everything(Collector):
    """The numbers of this process, or of all that share the directory; and what `look` sees of the ledger of jobs."""

    look: Callable[[], Waiting] | None = None

    def collect(self) -> Iterator[Metric]:
        """Each metric with its series."""
        build = GaugeMetricFamily(BUILD.name, BUILD.help, labels=BUILD.labels)
        build.add_metric([version("falconimg"), platform.python_version(), version("opencv-python-headless")], 1)
        yield build
        yield from self._jobs()
        directory = metrics_directory()
        if directory is None:
            yield from REGISTRY.collect()
            return
        with _locked(directory, fcntl.LOCK_SH):
            merged = MultiProcessCollector.merge([str(file) for file in directory.glob("*.db") if _filled(file)])
        yield from merged

    def _jobs(self) -> Iterator[Metric]:
        """Without jobs, or a ledger that answers, they have no series."""
        waiting = None
        try:
            waiting = self.look() if self.look else None
        except LedgerProblem as problem:
            log.logger.error("ledger", detail=problem.detail)
        jobs, images, age, late = (
            GaugeMetricFamily(row.name, row.help, labels=row.labels) for row in (JOBS, JOB_IMAGES, JOB_AGE, JOB_LATE)
        )
        if waiting:
            for state in ("queued", "running"):
                jobs.add_metric([state], waiting.jobs.get(state, 0))
            for state in ("pending", "running"):
                images.add_metric([state], waiting.images.get(state, 0))
            age.add_metric([], waiting.oldest)
            late.add_metric([], waiting.late)
        yield from (jobs, images, age, late)


def _filled(file: Path) -> bool:
    """One that is being made is empty for a moment, and a gauge's goes with its process, whoever reads."""
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:
        return False


EVERYTHING, COLLECTOR = CollectorRegistry(), Everything()
EVERYTHING.register(COLLECTOR)


def scraped() -> bytes:
    """Everything in Prometheus's text format."""
    return generate_latest(EVERYTHING)


# What gunicorn's master does.


def shared() -> bool:
    """Whether prometheus_client found the directory when it was imported."""
    return values.ValueClass is not values.MutexValue


def forget(directory: Path) -> None:
    """Begin anew: remove what the start has left."""
    for file in directory.glob("*.db"):
        file.unlink()


def bury(directory: Path, pids: Iterable[int]) -> bool:
    """Add the counts of processes that have ended to one file, so that there is none for each; whether it was done.

    It is not done, and can be tried again, if somebody reads for longer than PATIENCE.
    """
    ended_ones = list(pids)
    for pid in ended_ones:
        mark_process_dead(pid, str(directory))
    end = monotonic() + PATIENCE
    while True:
        try:
            with _locked(directory, fcntl.LOCK_EX | fcntl.LOCK_NB):
                for kind in ("counter", "histogram"):
                    _add_up(directory, kind, [directory / f"{kind}_{pid}.db" for pid in ended_ones])
        except BlockingIOError:
            if monotonic() > end:
                return False
            time.sleep(0.001)
        else:
            return True


def _add_up(directory: Path, kind: str, files: list[Path]) -> None:
    whole, fresh = directory / f"{kind}_{GONE}.db", directory / "fresh"
    there = [file for file in files if file.exists()]
    if not there:
        return
    totals: dict[str, float] = {}
    for file in filter(_filled, [whole, *there]):
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file)):
            totals[key] = totals.get(key, 0.0) + value
    fresh.unlink(missing_ok=True)
    sums = MmapedDict(str(fresh))
    for key, value in totals.items():
        sums.write_value(key, value, 0.0)
    sums.close()
    fresh.replace(whole)
    for file in there:
        file.unlink()


@contextmanager
def _locked(directory: Path, how: int) -> Iterator[None]:
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def serve(bind: str, parent: int, tell: Connection) -> None:
    """Answer scrapes at HOST:PORT until the parent process ends; tell it why not, or nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for the parent, which stops when its workers have
    host, _, port = bind.rpartition(":")
    try:
        start_http_server(int(port), host.strip("[]"), EVERYTHING)
    except OSError as error:
        tell.send(str(error))
        return
    tell.send("")
    tell.close()
    while os.getppid() == parent:
        time.sleep(1)
