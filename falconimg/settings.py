"""The settings: one row for each FALCONIMG_ variable.

`Settings()` are the defaults, `Settings.from_environ()` is what the server
starts with. This is the one module that looks at the environment; importing it
also sets what OpenCV reads from there, because OpenCV looks only once, when
cv2 is first imported (`formats.opencv.prove_limit` shows whether it did).
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from falconimg.errors import SettingsProblem

PREFIX = "FALCONIMG_"
CORES = os.cpu_count() or 1


class Row(NamedTuple):
    """What one setting takes: how its text is read, what is allowed and the default in words, one line of help.

    A secret's value is never said, not even where it is wrong.
    """

    read: Callable[[str], Any]
    allowed: str
    default: str
    help: str
    secret: bool = False


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


def _hosts(text: str) -> tuple[str, ...]:
    names = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    if not all(re.fullmatch(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]", name, re.ASCII) for name in names):
        raise ValueError
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


def _directory(text: str) -> Path:
    if not text or "\0" in text or not Path(text).is_dir():
        raise ValueError
    return Path(text)


def _short(value: int) -> str:
    for unit, suffix in ((10**9, "G"), (10**6, "M")):
        if value >= unit and value % unit == 0:
            return f"{value // unit}{suffix}"
    return str(value)


def _row(default: Any, read: Callable[[str], Any], allowed: str, help_: str, shown: str | None = None) -> Any:
    """A field with its row; `shown` is the default in words where it depends on the machine."""
    return field(default=default, metadata={"row": Row(read, allowed, str(default) if shown is None else shown, help_)})


def _secret(read: Callable[[str], Any], allowed: str, help_: str) -> Any:
    return field(default=(), repr=False, metadata={"row": Row(read, allowed, "none", help_, secret=True)})


def _count(default: int | None, low: int, high: int, help_: str, shown: str | None = None) -> Any:
    allowed = f"a whole number from {_short(low)} to {_short(high)}{', also with k, M or G' if high >= 10**6 else ''}"
    return _row(default, partial(_number, low=low, high=high), allowed, help_, shown or _short(default or 0))


def _time(default: float, high: float, help_: str) -> Any:
    return _row(default, partial(_seconds, high=high), f"seconds, over 0 and at most {high:g}", help_, f"{default:g}")


def _one_of(default: str, values: Mapping[str, Any], help_: str) -> Any:
    return _row(values[default], partial(_choice, values=values), " or ".join(values), help_, default)


def _place(default: Path | None, shown: str, help_: str) -> Any:
    return _row(default, _directory, "a directory", help_, shown)


ON_OFF = {"on": True, "off": False}
LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class Settings:
    """Everything that can be set, with its default. Sizes are bytes or pixels, times are seconds."""

    bind: str = _row("127.0.0.1:8888", _bind, "HOST:PORT or unix:PATH", "where the server listens")
    hosts: tuple[str, ...] = _row(
        (), _hosts, "names separated by commas",
        "Host headers to answer besides localhost, where the server listens on loopback", "none",
    )  # fmt: skip
    token: tuple[str, ...] = _secret(
        _tokens, "tokens of at least 16 of A-Z a-z 0-9 . _ ~ + / -, separated by commas",
        "what a request must show one of, as Authorization: Bearer TOKEN; each is as good as the others",
    )  # fmt: skip
    workers: int = _count(max(2, CORES), 1, 256, "worker processes", "the cores, at least 2")
    threads: int = _count(8, 1, 1024, "requests that a worker serves at once")
    connections: int = _count(4096, 16, 10**6, "connections of a worker at once, within the limit of open files")
    queue: int = _count(128, 1, 10**5, "whole requests that wait for a worker's threads; a further one gets 503")
    pool: int = _count(CORES, 1, 256, "images that a worker processes at once", "the cores")
    root: Path = _place(Path(), "the working directory", "where relative paths start; nothing outside is touched")
    input_root: Path | None = _place(None, "that of FALCONIMG_ROOT", "the same for inputs alone")
    output_root: Path | None = _place(None, "that of FALCONIMG_ROOT", "the same for outputs alone")
    formats: tuple[str, ...] = _row(
        (), _formats, "names of formats separated by commas", "the formats that are read; every one is written", "all"
    )
    fsync: bool = _one_of("on", ON_OFF, "whether results are synced to the disk before they are called done")
    jpeg_quality: int = _count(95, 1, 100, "JPEG's quality where a request names none")
    webp_quality: int = _count(80, 1, 100, "WebP's")
    avif_quality: int = _count(60, 1, 100, "AVIF's")
    log: str = _one_of("plain", {"plain": "plain", "json": "json"}, "the form of the log's lines")
    log_level: str = _one_of("info", {name: name for name in LEVELS}, "the least level that is logged")
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
        None, 10**6, 10**13, "bytes that a worker's images may take at once", "half of the machine's, over the workers"
    )
    wait_seconds: float = _time(30, 3600, "how long a request waits for a thread, then for memory, before it gets 503")
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
        """The bytes that the images of one worker may take at once."""
        if self.memory:
            return self.memory
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return max(512 * 10**6, whole // 2 // self.workers)

    @property
    def listens_on_loopback(self) -> bool:
        """Whether only this machine can reach the server: then the Host header is checked."""
        host = self.bind.rpartition(":")[0].strip("[]").lower()
        return host in ("localhost", "::1") or host.startswith("127.")

    @property
    def open_to_others(self) -> bool:
        """Whether other machines can reach the server, and need no token."""
        return not (self.token or self.listens_on_loopback or self.bind.startswith("unix:"))

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings that these variables (default: the process's) make.

        Raises:
            SettingsProblem: one line naming the variable, what is allowed and what came
        """
        environ = os.environ if environ is None else environ
        known = dict(rows())
        values = {}
        for name in sorted(name for name in environ if name.startswith(PREFIX)):
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise SettingsProblem(f"{name} is not a setting{hint}")
            try:
                values[name.removeprefix(PREFIX).lower()] = known[name].read(environ[name])
            except ValueError:
                came = "something else" if known[name].secret else ascii(environ[name])[:100]
                raise SettingsProblem(f"{name}: expected {known[name].allowed}, came {came}") from None
        return cls(**values)


def rows() -> list[tuple[str, Row]]:
    """(variable, row) of each setting, in order."""
    return [(PREFIX + f.name.upper(), f.metadata["row"]) for f in fields(Settings)]


def _prepare_opencv() -> None:
    """What OpenCV reads when cv2 is imported: FALCONIMG_MAX_PIXELS alone says how large a picture may be."""
    try:
        settings = Settings.from_environ()
    except SettingsProblem:
        settings = Settings()  # the server's start reads them again, and says what is wrong
    side = str(
        max(settings.max_side, 16384, math.isqrt(2 * settings.max_pixels))
    )  # so that it is the pixels that limit
    os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(settings.max_pixels)
    os.environ["OPENCV_IO_MAX_IMAGE_WIDTH"] = os.environ["OPENCV_IO_MAX_IMAGE_HEIGHT"] = side
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")


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


_prepare_opencv()
