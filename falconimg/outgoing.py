"""Requests to other hosts: to the very address that was looked at, which is a public one, and to no other.

A name is resolved once. Were it resolved again for the connection, it could lead elsewhere by then (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import math
import socket
import ssl
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from typing import NamedTuple
from urllib.parse import urlsplit

from falconimg.errors import Problem

PORTS = {"http": 80, "https": 443}
LEADING_ON = [ipaddress.ip_network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96", "fec0::/10")]
"""IPv6 addresses that stand for one of IPv4, or are of a site (RFC 6052, 8215, 4291, 3879), whatever Python says."""
RELAYS = ipaddress.ip_network("192.88.99.0/24")  # RFC 7526


class Refused(Problem):
    """The address is none that may be asked; `detail` says why."""


class Target(NamedTuple):
    """Where a request goes, as its URL says it."""

    scheme: str
    host: str
    port: int
    path: str  # with the query

    @property
    def authority(self) -> str:
        """The Host header's value (RFC 9110, 7.2)."""
        return self._name if self.port == PORTS[self.scheme] else f"{self._name}:{self.port}"

    def is_one_of(self, hosts: Collection[str]) -> bool:
        """Whether one of them names it, with its port or without any; IPv6 is in brackets, as in a URL."""
        return self._name in hosts or f"{self._name}:{self.port}" in hosts

    @property
    def _name(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


def target(url: str) -> Target:
    """The parts of a URL.

    Raises:
        Refused: it is none of http or https, or has a user's name, a fragment, or characters that no URL has
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused("expected a URL, came one that is malformed") from None
    if parts.scheme not in PORTS or not parts.hostname or parts.username is not None or parts.fragment:
        raise Refused("expected a URL of http or https with a host, no user and no fragment, came another")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise Refused("expected a URL of visible ASCII characters, came others")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, parts.hostname.lower(), port or PORTS[parts.scheme], path)


def addresses(where: Target, private: Collection[str]) -> list[str]:
    """The IP addresses of a host, all of which are public unless it is one of `private`.

    Raises:
        Refused: one is not, or there is none
    """
    try:
        found = [str(info[4][0]) for info in socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        raise Refused(f"expected a host that has an address, came {where.host[:100]!a}") from None
    for each in found:
        if not where.is_one_of(private) and not _is_public(each):
            expected = "a host at public addresses, or one that FALCONIMG_PRIVATE_HOSTS names"
            raise Refused(f"expected {expected}, came {where.host[:100]!a}")
    return list(dict.fromkeys(found))


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner:
            return _is_public(str(inner))
        if any(address in network for network in LEADING_ON):
            return False
    elif address in RELAYS:
        return False
    return address.is_global and not address.is_multicast


class Connection(HTTPConnection):
    """A connection to one of the addresses that were looked at; certificates are those of the URL's host."""

    def __init__(self, where: Target, private: Collection[str], seconds: float) -> None:
        super().__init__(where.host, where.port, timeout=seconds)
        self.where = where
        self._seconds, self._end = seconds, math.inf  # the end is monotonic time
        self._cut: socket.socket | None = None  # the same connection, to be ended by another thread
        self.found = addresses(where, private)

    def connect(self) -> None:
        """Connect to the first that answers; those before it leave the others their share of the time.

        Raises:
            TimeoutError: it is over
        """
        for others in reversed(range(len(self.found))):
            share = self._left() / (others + 1)
            try:
                self.sock = socket.create_connection((self.found[-1 - others], self.port), min(self._seconds, share))
                break
            except OSError:
                if not others:
                    raise
        self.sock.settimeout(self._seconds)
        self._cut = self.sock.dup()
        self._left()  # at its end there may have been nothing to cut yet
        if self.where.scheme == "https":
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.where.host)

    def _left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("expected it within its time")
        return left

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Connect, send and receive in so many seconds, whatever still comes: a timeout is from one byte to the next.

        The name was looked up before, in what time the system's resolver takes.

        Raises:
            TimeoutError: they are over
        """
        self._end = time.monotonic() + seconds

        def cut() -> None:
            if self._cut:
                with suppress(OSError):
                    self._cut.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, HTTPException):
            if time.monotonic() < self._end:
                raise
        finally:
            timer.cancel()
            self.close()
            if self._cut:
                self._cut.close()
        if time.monotonic() >= self._end:
            raise TimeoutError(f"expected all of it within {seconds:g} seconds")
