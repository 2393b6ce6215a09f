"""Inputs of other web servers, by http and https, from hosts that are allowed by name.

A host is resolved once, and only public addresses are asked unless it is said that its may be private; no redirect is
followed, so that none can lead to elsewhere (see outgoing).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from urllib.parse import urlsplit

from falconimg import errors, outgoing
from falconimg.job import IfExists
from falconimg.stores import File
from falconimg.stores.globs import Found, Looks
from falconimg.stores.paths import relative, shown

SECONDS = 10.0
"""For connecting, and for each piece of an answer."""
PIECE = 1 << 18


class Web:
    """The Store of what these hosts have; nothing is written there. `seconds` are what one file may take."""

    def __init__(self, hosts: Collection[str], private: Collection[str], seconds: float) -> None:
        self._hosts, self._private, self._seconds = hosts, private, seconds

    def check_input(self, path: str) -> str:
        """See Store."""
        self._target(path)
        return path

    def below_root(self, path: str) -> str:
        """See Store; the path of the address, or its host's name where it has none."""
        parts = urlsplit(path)
        return relative(parts.path.strip("/") or self._target(path).host)

    def size(self, path: str, limit: int) -> int:
        """See Store; a server that does not say it is asked for all of it."""
        with self._answer("HEAD", path) as answer:
            length = answer.getheader("Content-Length", "")
        size = int(length) if length.isdecimal() else len(self.read(path, limit))
        return _within(size, limit, path)

    def version(self, path: str, limit: int) -> str:
        """See Store; its ETag, or what else tells."""
        with self._answer("HEAD", path) as answer:
            said = answer.getheader("ETag") or answer.getheader("Last-Modified")
            length = answer.getheader("Content-Length", "")
        return hashlib.sha256(f"{said} {length}".encode() if said else self.read(path, limit)).hexdigest()

    def read(self, path: str, limit: int) -> bytes:
        """See Store."""
        pieces, size = [], 0
        with self._answer("GET", path) as answer:
            length = answer.getheader("Content-Length", "")
            while piece := answer.read(PIECE):
                pieces.append(piece)
                size = _within(size + len(piece), limit, path)
        if length.isdecimal() and size < int(length):
            raise errors.Unreadable(f"{shown(path)}: expected {length} bytes, came {size}")
        return b"".join(pieces)

    @contextmanager
    def _answer(self, method: str, path: str) -> Iterator[HTTPResponse]:
        """The answer, if it is the file.

        Raises:
            Missing, Unreadable, OutsideRoot: as the names say
        """
        try:
            where = self._target(path)
        except errors.Forbidden as problem:
            raise errors.OutsideRoot(problem.detail) from None
        except errors.InvalidRequest as problem:
            raise errors.Unreadable(problem.detail) from None
        try:
            connection = outgoing.Connection(where, self._private, SECONDS)
        except outgoing.Refused as problem:
            raise errors.Unreadable(f"{shown(path)}: {problem.detail}") from None
        headers = {"Host": where.authority, "User-Agent": "falconimg"}
        try:
            with connection.within(self._seconds):
                connection.request(method, where.path, headers=headers)
                with connection.getresponse() as answer:
                    if answer.status in (404, 410):
                        raise errors.Missing(f"{shown(path)}: there is no such file")
                    if answer.status != 200:
                        raise errors.Unreadable(f"{shown(path)}: expected status 200, came {answer.status}")
                    yield answer
        except TimeoutError:
            most = f"{self._seconds:g} seconds (FALCONIMG_IMAGE_SECONDS)"
            raise errors.Unreadable(f"{shown(path)}: expected all of it within {most}") from None
        except (OSError, HTTPException) as error:
            raise errors.Unreadable(f"{shown(path)} could not be read: {type(error).__name__}") from error

    def _target(self, path: str) -> outgoing.Target:
        try:
            where = outgoing.target(path)
        except outgoing.Refused as problem:
            raise errors.InvalidRequest(f"path: {problem.detail}") from None
        if not where.is_one_of(self._hosts):
            raise errors.Forbidden(f"path: expected a host that FALCONIMG_HTTP_HOSTS allows, came {shown(path)}")
        return where

    def check_output(self, path: str) -> str:
        """See Store: there is none."""
        raise errors.Forbidden(f"path: expected one that can be written to, came {shown(path)}")

    def exists(self, path: str) -> bool:
        """See Store: nothing is written here."""
        return False

    def digest(self, path: str) -> str | None:
        """See Store: nothing is written here."""
        return None

    def publish(self, files: Sequence[File], if_exists: IfExists) -> tuple[str, ...]:
        """See Store: nothing is written here."""
        for file in files:
            raise errors.OutsideRoot(f"{shown(file.path)}: expected a path that can be written to")
        return ()

    def find(self, pattern: str, most: int, looks: Looks) -> list[Found]:
        """See Store: a web server does not say what it has."""
        raise errors.InvalidRequest(f"path: expected no pattern in an address of http, came {shown(pattern)}")

    def faults(self) -> list[str]:
        """See Store."""
        return []

    def sweep(self) -> int:
        """See Store."""
        return 0


def _within(size: int, limit: int, path: str) -> int:
    if size > limit:
        raise errors.TooLarge(f"{shown(path)}: expected at most {limit} bytes (FALCONIMG_MAX_FILE), came {size}")
    return size
