"""The settings: one row for each FALCONIMG_ variable.

`Settings()` are the defaults, `Settings.from_environ()` is what the server
starts with, `Settings.sources()` says which variable set what. This is the one
module that looks at the environment; importing it also sets what OpenCV reads
from there, because OpenCV looks only once, when cv2 is first imported
(`formats.opencv.prove_limit` shows whether it did).
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import math
import os
import re
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from falconimg.errors import SettingsProblem
from falconimg.machine import limits

PREFIX = "FALCONIMG_"
LIMITS = limits()
WORKER_MEMORY = 512 * 10**6  # half of it is for pictures, and half for the process
MOST_SECRET = 64 * 1024  # bytes of a secret's file


class Variable(NamedTuple):
    """One variable: how its text is read, and what is allowed in words."""

    name: str
    read: Callable[[str], Any]
    allowed: str


class Row(NamedTuple):
    """What one setting takes: how its text is read, what is allowed and the default in words, one line of help.

    A secret's value is never said, not even where it is wrong; it may be in a file that a variable names. `other` is
    a variable which those who run servers know, and which counts for a server where ours is not set.
    """

    read: Callable[[str], Any]
    allowed: str
    default: str
    help: str
    secret: bool = False
    other: Variable | None = None


def _number(text: str, low: float, high: float) -> int:
    """A whole number, with k, M or G for thousands, millions and thousand millions."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)([kMG]?)", text, re.ASCII)
    if not match:
        raise ValueError
    value = round(float(match[1]) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[match[2]], 6)
    if not low <= value <= high or value != int(value):
        raise ValueError
    return int(value)


def _seconds(text: str, high: float) -> float:
    if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text, re.ASCII) or not 0 < float(text) <= high:
        raise ValueError
    return float(text)


def _choice(text: str, values: Mapping[str, Any]) -> Any:
    if text not in values:
        raise ValueError
    return values[text]


def _bind(text: str) -> str:
    match = re.fullmatch(r"unix:.+|(\[[0-9a-fA-F:.]+\]|[^\s:/]+):(\d{1,5})", text, re.ASCII)
    if not match or int(match[2] or 0) > 65535:
        raise ValueError
    return text


def _host_port(text: str) -> str:
    if text.startswith("unix:"):
        raise ValueError
    return _bind(text)


def _hosts(text: str) -> tuple[str, ...]:
    names = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    if not all(re.fullmatch(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]", name, re.ASCII) for name in names):
        raise ValueError
    return names


def _hosts_and_ports(text: str) -> tuple[str, ...]:
    names = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    _hosts(",".join(re.sub(r":[1-9][0-9]{0,4}\Z", "", name) for name in names))
    return names


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(part.strip().lower() for part in text.split(","))
    if not all(re.fullmatch(r"[a-z0-9]+", name, re.ASCII) for name in names):
        raise ValueError
    return names


def _tokens(text: str) -> tuple[str, ...]:
    tokens = tuple(part.strip() for part in text.split(","))
    if not all(re.fullmatch(r"(?=.{16})[A-Za-z0-9._~+/-]+=*", token, re.ASCII) for token in tokens):  # RFC 6750, 2.1
        raise ValueError
    return tokens


def _keys(text: str) -> tuple[str, ...]:
    keys = tuple(part.strip() for part in text.split(","))
    if not all(re.fullmatch(r"[!-+\--~]{16,}", key, re.ASCII) for key in keys):
        raise ValueError
    return keys


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(part.strip() for part in text.split(","))
    for origin in origins if origins != ("*",) else ():
        # as browsers write them (RFC 6454, 6.2): no upper case, no path, no port that the scheme has anyway
        match = re.fullmatch(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[1-9]\d{0,4})?", origin, re.ASCII)
        if not match or match[3] == {"http": ":80", "https": ":443"}.get(match[1], ""):
            raise ValueError
    return origins


def _ledger(text: str) -> str:
    if "://" not in text:
        return f"sqlite:///{Path(text).absolute()}"
    if not re.match(r"postgresql(\+psycopg)?://", text):
        raise ValueError
    return text


def _broker(text: str) -> str:
    if not re.match(r"(amqps?|rediss?)://.", text):
        raise ValueError
    return text


def _webhook_key(text: str) -> str:
    head, mark, body = text.partition("whsec_")
    if head or not mark or not 24 <= len(base64.b64decode(body, validate=True)) <= 64:
        raise ValueError
    return text


def _stores(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    for each in found:
        if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\x00-\x20,]*)?", each, re.ASCII):
            raise ValueError
        if not {"", ".", ".."}.isdisjoint(each.rstrip("/").split("/")[3:]):
            raise ValueError
    return tuple(f"{each.rstrip('/')}/" for each in found)


def _credentials(text: str) -> str:
    if not re.fullmatch(r"[!-9;-~]+:[!-9;-~]+(:[!-~]+)?", text, re.ASCII):
        raise ValueError
    return text


def _path_prefix(text: str) -> str:
    if not re.fullmatch(r"(/(?!\.{1,2}(/|\Z))[A-Za-z0-9._~-]+){1,8}", text, re.ASCII) or len(text) > 100:
        raise ValueError
    return text


def _in_file(text: str, read: Callable[[str], Any]) -> Any:
    """What the file at this path says; what is around it (a line's end) does not count."""
    path = Path(text)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_SECRET:
        raise ValueError
    return read(path.read_text("utf-8").strip())


def _everywhere(text: str) -> str:
    return f"0.0.0.0:{_number(text, 1, 65535)}"


def _directory(text: str) -> Path:
    if not text or "\0" in text or not Path(text).is_dir():
        raise ValueError
    return Path(text)


def _short(value: int) -> str:
    for unit, suffix in ((10**9, "G"), (10**6, "M")):
        if value >= unit and value % unit == 0:
            return f"{value // unit}{suffix}"
    return str(value)


def _row(
    default: Any,
    read: Callable[[str], Any],
    allowed: str,
    help_: str,
    shown: str | None = None,
    other: Variable | None = None,
) -> Any:
    """A field with its row; `shown` is the default in words where it depends on the machine."""
    row = Row(read, allowed, str(default) if shown is None else shown, help_, other=other)
    return field(default=default, metadata={"row": row})


def _secret(read: Callable[[str], Any], allowed: str, help_: str, default: Any = (), shown: str = "none") -> Any:
    return field(default=default, repr=False, metadata={"row": Row(read, allowed, shown, help_, secret=True)})


def _count(
    default: int | None, low: int, high: int, help_: str, shown: str | None = None, other: str | None = None
) -> Any:
    allowed = f"a whole number from {_short(low)} to {_short(high)}{', also with k, M or G' if high >= 10**6 else ''}"
    read = partial(_number, low=low, high=high)
    theirs = Variable(other, read, allowed) if other else None
    return _row(default, read, allowed, help_, shown or _short(default or 0), theirs)


def _time(default: float, high: float, help_: str) -> Any:
    return _row(default, partial(_seconds, high=high), f"seconds, over 0 and at most {high:g}", help_, f"{default:g}")


def _one_of(default: str, values: Mapping[str, Any], help_: str) -> Any:
    return _row(values[default], partial(_choice, values=values), " or ".join(values), help_, default)


def _place(default: Path | None, shown: str, help_: str) -> Any:
    return _row(default, _directory, "a directory that is there", help_, shown)


STORES = "addresses like s3://bucket or s3://bucket/prefix/ (3 to 63 characters a bucket), separated by commas"
HOSTS = "names separated by commas, each with a port or for all of them"
ON_OFF = {"on": True, "off": False}
UPLOADS = 32  # an upload is at most one of so many parts of the memory: copies of it, and others beside it
LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class Settings:
    """Everything that can be set, with its default. Sizes are bytes or pixels, times are seconds."""

    bind: str = _row(
        "127.0.0.1:8888", _bind, "HOST:PORT or unix:PATH", "where the server listens; PORT alone: there, at 0.0.0.0",
        other=Variable("PORT", _everywhere, "a whole number from 1 to 65535"),
    )  # fmt: skip
    hosts: tuple[str, ...] = _row(
        (), _hosts, "names separated by commas",
        "Host headers to answer besides localhost, where the server listens on loopback", "none",
    )  # fmt: skip
    metrics_bind: str = _row(
        "", _host_port, "HOST:PORT", "where /metrics is answered, without a token, instead of at FALCONIMG_BIND", "none"
    )
    token: tuple[str, ...] = _secret(
        _tokens, "tokens of at least 16 of A-Z a-z 0-9 . _ ~ + / -, separated by commas",
        "what a request must show one of, as Authorization: Bearer TOKEN; each is as good as the others",
    )  # fmt: skip
    key: tuple[str, ...] = _secret(
        _keys, "keys of at least 16 visible ASCII characters, separated by commas",
        "what addresses of pictures must be signed with, if it is set; the first signs, each is taken",
    )  # fmt: skip
    cors: tuple[str, ...] = _row(
        (), _origins, "* or origins like https://example.com, separated by commas",
        "the pages of other sites whose scripts may send requests and read the answers (CORS)", "none",
    )  # fmt: skip
    prefix: str = _row(
        "", _path_prefix, "a path like /img, of letters, digits and . _ ~ -, with no slash at its end",
        "the path below which a proxy shows the server; requests without it are answered too", "none",
    )  # fmt: skip
    workers: int = _count(
        min(max(2, LIMITS.cores), max(1, LIMITS.memory // WORKER_MEMORY), 256), 1, 256, "worker processes",
        f"the cores, at least 2, but one for each {_short(WORKER_MEMORY)} of memory at most", "WEB_CONCURRENCY",
    )  # fmt: skip
    threads: int = _count(8, 1, 1024, "requests that a worker serves at once")
    connections: int = _count(4096, 16, 10**6, "connections of a worker at once, within the limit of open files")
    queue: int = _count(128, 1, 10**5, "whole requests that wait for a worker's threads; a further one gets 503")
    pool: int = _count(min(LIMITS.cores, 256), 1, 256, "images that a worker processes at once", "the cores")
    root: Path = _place(Path(), "the working directory", "where relative paths start; nothing outside is touched")
    input_root: Path | None = _place(None, "that of FALCONIMG_ROOT", "the same for inputs alone")
    output_root: Path | None = _place(None, "that of FALCONIMG_ROOT", "the same for outputs alone")
    stores: tuple[str, ...] = _row(
        (), _stores, STORES, "objects that requests may name by their address, both ways", "none"
    )
    input_stores: tuple[str, ...] = _row((), _stores, STORES, "the same for inputs alone", "those of FALCONIMG_STORES")
    output_stores: tuple[str, ...] = _row(
        (), _stores, STORES, "the same for outputs alone", "those of FALCONIMG_STORES"
    )
    http_hosts: tuple[str, ...] = _row(
        (), _hosts_and_ports, HOSTS, "hosts of which files may be inputs by http:// and https://", "none"
    )
    s3_credentials: str = _secret(
        _credentials, "ID:SECRET or ID:SECRET:TOKEN", "of s3://, where AWS's own variables do not say them", ""
    )
    formats: tuple[str, ...] = _row(
        (), _formats, "names of formats separated by commas", "the formats that are read; every one is written", "all"
    )
    fsync: bool = _one_of("on", ON_OFF, "whether results are synced to the disk before they are called done")
    jpeg_quality: int = _count(95, 1, 100, "JPEG's quality where a request names none")
    webp_quality: int = _count(80, 1, 100, "WebP's")
    avif_quality: int = _count(60, 1, 100, "AVIF's")
    log: str = _one_of("plain", {"plain": "plain", "json": "json"}, "the form of the log's lines")
    log_level: str = _one_of("info", {name: name for name in LEVELS}, "the least level that is logged")
    max_age: int = _count(
        3600, 0, 10**9, "seconds that browsers and caches may show an address's picture without asking"
    )
    cache_mb: int = _count(
        0, 0, 999_999, "megabytes on disk for the answers to addresses, for all workers; 0 keeps none", "0"
    )
    cache_dir: Path | None = _place(
        None, "falconimg-cache-UID below the temporary directory", "where those are; nothing else may be there"
    )
    jobs: bool = _one_of("on", ON_OFF, "whether /v1/jobs is there, and processes that make its images")
    ledger: str = _secret(
        _ledger, "a file's path, or postgresql+psycopg://…", "where jobs are on record; a file is on a local disk",
        "", "falconimg/jobs-….db below XDG_STATE_HOME, one for each pair of roots",
    )  # fmt: skip
    broker: str = _secret(
        _broker, "amqp://… or redis://…", "the engine that wakes workers (RabbitMQ or Redis, by Celery); without one "
        "they look by themselves", "",
    )  # fmt: skip
    job_workers: int = _count(1, 0, 256, "processes that make the images of jobs, beside the workers")
    max_job_images: int = _count(100_000, 1, 10**7, "images of a job")
    lease_seconds: float = _time(30, 86400, "how long an image of a job is left to a worker of which nothing is heard")
    job_attempts: int = _count(3, 2, 100, "workers that may end while they make one image of a job")
    job_days: int = _count(7, 1, 36500, "days that a job is kept after its end")
    webhook_key: str = _secret(
        _webhook_key, "whsec_ and 24 to 64 bytes in Base64", "what messages to webhooks are signed with; they need it",
        "",
    )  # fmt: skip
    private_hosts: tuple[str, ...] = _row(
        (), _hosts_and_ports, HOSTS, "hosts of webhooks and inputs whose addresses may be private", "none"
    )
    max_body: int = _count(10 * 10**6, 1, 10**9, "bytes of a JSON body")
    max_json_depth: int = _count(32, 4, 100, "levels of nesting in a JSON body")
    max_json_marks: int = _count(250_000, 1000, 10**8, "commas and opening brackets in a JSON body")
    max_images: int = _count(1000, 1, 10**6, "images of a request")
    max_operations: int = _count(64, 1, 1000, "operations of a list")
    max_outputs: int = _count(4096, 1, 10**6, "outputs of an image")
    max_results: int = _count(100_000, 1, 10**8, "outputs of a request, less where FALCONIMG_MEMORY is little")
    max_file: int = _count(200 * 10**6, 1, 10**10, "bytes of an input file")
    max_pixels: int = _count(50 * 10**6, 1, 10**9, "pixels of a picture, read or made")
    max_side: int = _count(16384, 1, 65500, "pixels of a picture's side")
    max_output_pixels: int = _count(1000 * 10**6, 1, 10**12, "pixels of an image's outputs together")
    max_request_line: int = _count(8190, 512, 8190, "bytes of an HTTP request line")
    memory: int | None = _count(
        None,
        10**6,
        10**13,
        "bytes that a process's images may take at once",
        "half of all, over workers and job workers",
    )
    wait_seconds: float = _time(
        30,
        3600,
        "how long a request waits for a thread, for another that makes its answer, for memory, before it gets 503",
    )
    client_seconds: float = _time(
        10,
        3600,
        "how long a client may take to send a request, or to read an answer; and a second more for each 100 kB",
    )
    image_seconds: float = _time(60, 86400, "how long one image may take; an operation that runs is not cut short")
    graceful_seconds: float = _time(30, 86400, "how long a stopping worker begins further images of its requests")
    keepalive_seconds: float = _time(5, 3600, "how long an idle connection is kept")
    timeout_seconds: float = _time(120, 86400, "how long a worker may be silent before it is replaced")

    @property
    def roots(self) -> tuple[Path, Path]:
        """The input root and the output root."""
        return self.input_root or self.root, self.output_root or self.root

    @property
    def budget(self) -> int:
        """The bytes that the images of one process may take at once."""
        return self.memory or LIMITS.memory // 2 // (self.workers + self.has_jobs * self.job_workers)

    @property
    def object_stores(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The addresses that inputs and outputs may begin with, the longest first."""
        both = (self.input_stores or self.stores, self.output_stores or self.stores)
        inputs, outputs = (tuple(sorted(stores, key=len, reverse=True)) for stores in both)
        return inputs, outputs

    def s3_options(self, base: str) -> dict[str, str]:
        """What obstore does not take of AWS's variables itself: our credentials, a bucket's name in its host's."""
        names = ("access_key_id", "secret_access_key", "session_token")
        options = dict(zip(names, self.s3_credentials.split(":", 2), strict=False)) if self.s3_credentials else {}
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        if endpoint and os.environ.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() in ("1", "true"):
            scheme, _, host = endpoint.partition("://")
            endpoint = f"{scheme}://{base.split('/')[2]}.{host}"
        return options | ({"endpoint": endpoint} if endpoint else {})

    @property
    def ledger_url(self) -> str:
        """Where jobs are on record, as SQLAlchemy takes it; empty where nothing says it and home cannot be written."""
        directory = state_directory()
        if self.ledger or directory is None:
            return self.ledger
        roots = "\0".join(str(root.resolve()) for root in self.roots)
        name = f"jobs-{hashlib.sha256(roots.encode()).hexdigest()[:12]}.db"
        return f"sqlite:///{directory / name}"

    @property
    def has_jobs(self) -> bool:
        """Whether there are jobs: they are on, and there is a place for the record of them."""
        return self.jobs and bool(self.ledger or state_directory())

    @property
    def max_upload(self) -> int:
        """The bytes of an uploaded body: an input file's, or what there is memory for."""
        return min(self.max_file, self.budget // UPLOADS)

    @property
    def listens_on_loopback(self) -> bool:
        """Whether only this machine can reach the server: then the Host header is checked."""
        host = self.bind.rpartition(":")[0].strip("[]").lower()
        return host in ("localhost", "::1") or host.startswith("127.")

    @property
    def open_to_others(self) -> bool:
        """Whether other machines can reach the server, and need no token."""
        return not (self.token or self.listens_on_loopback or self.bind.startswith("unix:"))

    def effective(self) -> Settings:
        """These, with what is left to the machine and to the working directory filled in.

        Raises:
            OSError: the working directory is gone
        """
        input_root, output_root = (root.resolve() for root in self.roots)
        return replace(
            self, root=self.root.resolve(), input_root=input_root, output_root=output_root,
            cache_dir=(self.cache_dir or cache_directory()).resolve(), memory=self.budget, ledger=self.ledger_url,
        )  # fmt: skip

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None, *, serving: bool = True) -> Settings:
        """The settings that these variables (default: the process's) make.

        PORT and WEB_CONCURRENCY, which may be meant for somebody else, count only for what is `serving`.

        Raises:
            SettingsProblem: one line naming the variable, what is allowed and what came
        """
        environ = os.environ if environ is None else environ
        known = [variable.name for f in fields(cls) for variable in variables(f)]
        for name in sorted(environ):
            if name.startswith(PREFIX) and name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise SettingsProblem(f"{name} is not a setting{hint}")
        values = {}
        for f in fields(cls):
            if variable := _set(f, environ, serving):
                text = environ[variable.name]
                try:
                    values[f.name] = variable.read(text)
                except (ValueError, OSError) as error:
                    came = "something else" if f.metadata["row"].secret else ascii(text)[:100]
                    if isinstance(error, OSError):
                        came = f"one that cannot be read: {error.strerror}"
                    raise SettingsProblem(f"{variable.name}: expected {variable.allowed}, came {came}") from None
        settings = cls(**values)
        if settings.metrics_bind == settings.bind:
            other = "another address than FALCONIMG_BIND's"
            raise SettingsProblem(f"FALCONIMG_METRICS_BIND: expected {other}, came the same, {settings.bind}")
        return settings

    @classmethod
    def sources(cls, environ: Mapping[str, str] | None = None) -> dict[str, str]:
        """The variable that sets each field, by the field's name; `default` where none does.

        Raises:
            SettingsProblem: a secret is given twice
        """
        environ = os.environ if environ is None else environ
        return {f.name: variable.name if (variable := _set(f, environ)) else "default" for f in fields(cls)}


def variables(f: Field[Any]) -> list[Variable]:
    """The variables that set a field of Settings, each before those that count only without it."""
    row: Row = f.metadata["row"]
    name = PREFIX + f.name.upper()
    in_file = Variable(f"{name}_FILE", partial(_in_file, read=row.read), f"a file with {row.allowed}")
    return [Variable(name, row.read, row.allowed), *[in_file] * row.secret, *filter(None, [row.other])]


def _set(f: Field[Any], environ: Mapping[str, str], serving: bool = True) -> Variable | None:
    other = f.metadata["row"].other
    found = [variable for variable in variables(f) if variable.name in environ]
    if other in found and not (serving and environ[other.name]):
        found.remove(other)
    if len(found) > 1 and f.metadata["row"].secret:
        raise SettingsProblem(f"expected {found[0].name} or {found[1].name}, came both")
    return found[0] if found else None


def rows() -> list[tuple[str, Row]]:
    """(variable, row) of each setting, in order."""
    return [(PREFIX + f.name.upper(), f.metadata["row"]) for f in fields(Settings)]


def cache_directory() -> Path:
    """Where the cache is if FALCONIMG_CACHE_DIR does not say it."""
    return Path(tempfile.gettempdir(), f"falconimg-cache-{os.geteuid()}")


def state_directory() -> Path | None:
    """Where what must not be lost is kept, by the XDG Base Directory Specification; None where it is not to be had."""
    state = os.environ.get("XDG_STATE_HOME", "")
    try:
        directory = (Path(state) if Path(state).is_absolute() else Path.home() / ".local/state") / "falconimg"
    except RuntimeError:  # the user has no home
        return None
    there = next(parent for parent in (directory, *directory.parents) if parent.exists())
    return directory if os.access(there, os.W_OK | os.X_OK) else None


def drop_empty() -> None:
    """Take variables of others that are empty out of the environment: gunicorn reads them too, and fails."""
    for _, row in rows():
        if row.other and os.environ.get(row.other.name) == "":
            del os.environ[row.other.name]


def follow_gunicorn(places: list[str], workers: int) -> None:
    """Have this process's children go by gunicorn's own --bind and --workers, which win over ours.

    Of several places one that other machines can reach says who may ask, or else one that this machine's browsers can.
    """
    settings = Settings.from_environ()
    if places != [settings.bind]:
        open_ = [place for place in places if not place.startswith("unix:")] or places
        reached = [place for place in open_ if not replace(settings, bind=place).listens_on_loopback]
        os.environ["FALCONIMG_BIND"] = (reached or open_)[0]
    if workers != settings.workers:
        os.environ["FALCONIMG_WORKERS"] = str(workers)


def _prepare_libraries() -> None:
    """What OpenCV and NumPy read when they are imported.

    FALCONIMG_MAX_PIXELS alone says how large a picture may be. Nothing here is linear algebra, whose library begins a
    thread for each core, half of what it takes to import NumPy.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        settings = Settings.from_environ(serving=False)
    except SettingsProblem:
        settings = Settings()  # the server's start reads them again, and says what is wrong
    side = str(
        max(settings.max_side, 16384, math.isqrt(2 * settings.max_pixels))
    )  # so that it is the pixels that limit
    os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(settings.max_pixels)
    os.environ["OPENCV_IO_MAX_IMAGE_WIDTH"] = os.environ["OPENCV_IO_MAX_IMAGE_HEIGHT"] = side
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")


def share_metrics(directory: Path) -> None:
    """Have prometheus_client, which looks when it is imported, keep its numbers in this directory."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)


def metrics_directory() -> Path | None:
    """Where prometheus_client keeps its numbers; None if in memory."""
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(directory) if directory else None


def trace_exporter(environ: Mapping[str, str] | None = None) -> str:
    """The exporter that OpenTelemetry's variables name for traces, or nothing.

    Only its address names one as well, although OpenTelemetry itself would export to a default one without any.
    """
    environ = os.environ if environ is None else environ
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return ""
    addressed = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    name = environ.get("OTEL_TRACES_EXPORTER", "").strip() or ("otlp" if addressed else "none")
    return "" if name == "none" else name


def codec_pixel_limit() -> int:
    """The largest picture, in pixels, that OpenCV was told to decode in this process."""
    return int(os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"])


def check_codec_limit(settings: Settings) -> None:
    """Refuse a limit of pictures that OpenCV does not go up to in this process.

    Raises:
        SettingsProblem: FALCONIMG_MAX_PIXELS is over what OpenCV has read
    """
    if settings.max_pixels > codec_pixel_limit():
        raise SettingsProblem(
            f"FALCONIMG_MAX_PIXELS: expected at most OPENCV_IO_MAX_IMAGE_PIXELS, {codec_pixel_limit()}, which is read "
            f"when falconimg is imported, came {settings.max_pixels}"
        )


_prepare_libraries()
