"""The log: one line an event on standard error, plain or JSON, with the request's id."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partialmethod
from types import MappingProxyType
from typing import Any, TextIO

from falconimg.settings import Settings

BARE = re.compile(r"[!#-&(-<>-\[\]-~]+")  # what needs no quotes: ASCII that is printed, without space " ' = and \
SECRETS = (
    re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?]+(?=@)", re.DOTALL),
    re.compile(r"^(https?://[^?]*\?).+", re.DOTALL | re.IGNORECASE),
)
"""After the first group: the user of an address; the query of one of the web (a key of s3:// may have a `?`)."""
LINES = logging.getLogger("falconimg")

about: ContextVar[Mapping[str, object]] = ContextVar("about", default=MappingProxyType({}))
"""What each line has besides: the id of the request that is answered, or the job and the number of the image."""


def redacted(path: str) -> str:
    """An address with dots for its user, with the password, and for its query, which may be a signature."""
    for secret in SECRETS:
        path = secret.sub(r"\1...", path)
    return path


class Logger:
    """Writes lines: an event, and what belongs to it by name."""

    def log(self, level: int, event: str, exc_info: Any = None, **fields: object) -> None:
        """Write one of a level of the standard library's, followed by the traceback of `exc_info` as logging has it."""
        if LINES.isEnabledFor(level):
            besides = {name: value for name, value in about.get().items() if name not in fields}
            LINES.log(level, event, exc_info=exc_info, extra={"fields": fields | besides})

    debug = partialmethod(log, logging.DEBUG)
    info = partialmethod(log, logging.INFO)
    warning = partialmethod(log, logging.WARNING)
    error = partialmethod(log, logging.ERROR)
    exception = partialmethod(log, logging.ERROR, exc_info=True)


logger = Logger()


def configure(settings: Settings) -> None:
    """Set the form and the least level of the lines, for the whole process."""
    handler = StandardError()
    handler.setFormatter(Json() if settings.log == "json" else Plain())
    LINES.handlers, LINES.propagate = [handler], False
    LINES.setLevel(settings.log_level.upper())


class StandardError(logging.StreamHandler[TextIO]):
    """As it is when a line is written: threads do so at any time."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Where lines go."""
        return sys.stderr


class Plain(logging.Formatter):
    """`time level event key='value' ...`, with control characters escaped; a traceback follows as it is."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        head = f"{_time(record)} {record.levelname.lower():<7} {ascii(record.getMessage())[1:-1]}"
        line = " ".join([head, *(f"{key}={_escaped(value)}" for key, value in _fields(record).items())])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class Json(logging.Formatter):
    """A document a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        head = {"timestamp": _time(record), "level": record.levelname.lower(), "event": record.getMessage()}
        trace = {"exception": self.formatException(record.exc_info)} if record.exc_info else {}
        return json.dumps(head | _fields(record) | trace, default=repr)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _fields(record: logging.LogRecord) -> dict[str, object]:
    found: dict[str, object] = getattr(record, "fields", {})
    return found


def _escaped(value: object) -> str:
    return value if isinstance(value, str) and BARE.fullmatch(value) else ascii(value)


class Bridge(logging.Handler):
    """Lines of the standard library's loggers, gunicorn's among them, in our form."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record's message, and its traceback if it has one."""
        logger.log(record.levelno, record.getMessage(), exc_info=record.exc_info)
