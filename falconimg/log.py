"""The log: one line an event on standard error, plain or JSON, with the request's id."""

from __future__ import annotations

import logging
import re
import sys

import structlog
from structlog.typing import EventDict, WrappedLogger

from falconimg.settings import Settings

BARE = re.compile(r"[!#-&(-<>-\[\]-~]+")  # what needs no quotes: ASCII that is printed, without space " ' = and \
logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()


def configure(settings: Settings) -> None:
    """Set the form and the least level of the lines, for the whole process."""
    render = structlog.processors.JSONRenderer() if settings.log == "json" else _plain
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level.upper()]),
        logger_factory=lambda *_arguments: structlog.WriteLogger(sys.stderr),  # as it is then: threads log at any time
        cache_logger_on_first_use=False,
    )


def _plain(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """`time level event key='value' ...`, with control characters escaped; a traceback follows as it is."""
    head = f"{event.pop('timestamp')} {event.pop('level'):<7} {ascii(event.pop('event'))[1:-1]}"
    trace = event.pop("exception", None)
    line = " ".join([head, *(f"{key}={_escaped(value)}" for key, value in event.items())])
    return f"{line}\n{trace}" if trace else line


def _escaped(value: object) -> str:
    return value if isinstance(value, str) and BARE.fullmatch(value) else ascii(value)


class Bridge(logging.Handler):
    """Lines of the standard library's loggers, gunicorn's among them, in our form."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record's message, and its traceback if it has one."""
        logger.log(record.levelno, record.getMessage(), exc_info=record.exc_info)
