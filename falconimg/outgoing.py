"""Requests to other hosts: to the very address that was looked at, which is a public one, and to no other.

A name is resolved once. Were it resolved again for the connection, it could lead elsewhere by then (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
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
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


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


def addresses(host: str, port: int, private: Collection[str]) -> list[str]:
    """The IP addresses of a host, all of which are public unless it is one of `private`.

    Raises:
        Refused: one is not, or there is none
    """
    try:
        found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        raise Refused(f"expected a host that has an address, came {host[:100]!a}") from None
    for each in found:
        if host not in private and not _is_public(each):
            raise Refused(
                f"expected a host at public addresses, or one that FALCONIMG_PRIVATE_HOSTS names, came {host[:100]!a}"
            )
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
        self._cut: socket.socket | None = None  # the same connection, to be ended by another thread
        self.found = addresses(where.host, where.port, private)

    def connect(self) -> None:
        """Connect to the first that answers."""
        for number, address in enumerate(self.found, 1):
            try:
                connected = socket.create_connection((address, self.port), self.timeout)
                break
            except OSError:
                if number == len(self.found):
                    raise
        self._cut = connected.dup()
        if self.where.scheme == "https":
            connected = ssl.create_default_context().wrap_socket(connected, server_hostname=self.where.host)
        self.sock = connected

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """End it when so many seconds are over, whatever still comes: a timeout counts from one byte to the next.

        Raises:
            TimeoutError: they are
        """
        over = threading.Event()

        def end() -> None:
            over.set()
            if self._cut:
                with suppress(OSError):
                    self._cut.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, HTTPException):
            if not over.is_set():
                raise
        finally:
            timer.cancel()
            self.close()
            if self._cut:
                self._cut.close()
        if over.is_set():
            raise TimeoutError(f"expected all of it within {seconds:g} seconds")
