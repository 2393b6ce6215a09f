"""What every resource is, and how a request's body is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, ClassVar, TypeVar

import falcon
from gunicorn.http.errors import ParseException

from falconimg import parameters, request
from falconimg.errors import BodyTooLarge, IncompleteBody, InvalidRequest, Place, WrongMediaType
from falconimg.openapi import JSON
from falconimg.pipeline import Pipeline
from falconimg.schema import came
from falconimg.settings import Settings
from falconimg.stores import Store

Read = TypeVar("Read")


class Resource:
    """What every resource is given: the settings and the pipeline of its process."""

    open: ClassVar[bool] = False  # whether it is answered without a token where tokens are set
    addressed: ClassVar[bool] = False  # whether its address may be signed, and must be where keys are set

    def __init__(self, settings: Settings, pipeline: Pipeline) -> None:
        self.settings, self.pipeline = settings, pipeline

    def job(
        self, req: falcon.Request, reader: Callable[[Any, Settings, Store, int], Read], held: ExitStack
    ) -> tuple[bytes, Read]:
        """The body and what a reader makes of it; `held` gets what is to be given back once that is done with."""
        # one without a type is refused as well: a page of elsewhere could send it unasked
        media_type = req.content_type or ""
        if not _is_json(media_type):
            raise WrongMediaType(f"expected {JSON}, came {media_type[:100]!a}")
        body = whole_body(req, self.settings.max_body, "FALCONIMG_MAX_BODY")
        held.callback(self.pipeline.document(len(body)).give_back)
        return body, reader(request.document(body, self.settings), self.settings, self.pipeline.store, len(body))


class Closing(Iterator[bytes]):
    """An answer's lines, and what is to be done when it ends, even if not one was asked for."""

    def __init__(self, lines: Iterator[bytes], close: Callable[[], None]) -> None:
        self._lines, self.close = lines, close

    def __next__(self) -> bytes:
        return next(self._lines)


def _is_json(media_type: str) -> bool:
    kind, parameters = falcon.parse_header(media_type)
    return kind.lower() == JSON and parameters.get("charset", "utf-8").lower() in ("utf-8", "utf8", "us-ascii")


def asked(req: falcon.Request, *known: str) -> dict[str, str]:
    """The query's parameters, each once and none but these."""
    found: dict[str, str] = {}
    for name, value in parameters.pairs(req.query_string):
        if name not in known:
            expected = f"the parameters {', '.join(known)}" if known else "no parameters"
            raise InvalidRequest(f"expected {expected}, came {came(name)}")
        if name in found:
            raise wrong(name, "it once", "it again")
        found[name] = value
    return found


def wrong(name: str, expected: str, value: str) -> InvalidRequest:
    """What a parameter of the query is refused with."""
    return InvalidRequest("The request is not valid", [Place(f"/{name}", f"expected {expected}, came {came(value)}")])


def gone(req: falcon.Request) -> Callable[[], bool]:
    """Whether the request's client has hung up, as far as the server says."""
    client = req.env.get("gunicorn.socket")
    return lambda: getattr(client, "gone", False)


def whole_body(req: falcon.Request, limit: int, setting: str) -> bytes:
    """The whole body, never more than `limit` bytes of it, which that setting says."""
    coding = req.get_header("Content-Encoding") or "identity"
    if coding.lower() != "identity":
        raise WrongMediaType(f"expected no Content-Encoding, came {coding[:100]!a}")
    coding = req.get_header("Transfer-Encoding") or "chunked"
    if coding.lower() != "chunked":
        raise WrongMediaType(f"expected no Transfer-Encoding but chunked, came {coding[:100]!a}")
    length = req.content_length
    if length is not None and length > limit:
        raise BodyTooLarge(f"expected at most {limit} bytes ({setting}), came {length}")
    if length is None and "chunked" not in (req.get_header("Transfer-Encoding") or "").lower():
        return b""
    wanted = limit + 1 if length is None else length
    parts, size = [], 0
    try:
        # Falcon's bounded stream reads a chunked body as empty
        while size < wanted and (part := req.stream.read(min(wanted - size, 1 << 20))):
            parts.append(part)
            size += len(part)
    except (OSError, ParseException) as error:
        raise IncompleteBody(f"expected a whole body, came one that ends early or is badly chunked: {error}") from None
    if size > limit:
        raise BodyTooLarge(f"expected at most {limit} bytes ({setting}), came at least {size}")
    if length is not None and size < length:
        raise IncompleteBody(f"expected {length} bytes by its Content-Length, came {size}")
    return b"".join(parts)
