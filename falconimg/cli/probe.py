"""Asking a running server whether it is ready, with the standard library alone: it is asked often."""

from __future__ import annotations

import json
import socket
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

import click

from falconimg.cli import Refused, out
from falconimg.settings import Settings

SECONDS = 5
ANY = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104  (where one that listens everywhere is reached)
MOST = 10_000  # bytes of an answer that are read


class _Unix(HTTPConnection):
    """A connection to a socket in the file system."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self.path = path

    def connect(self) -> None:
        """Connect to it."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(SECONDS)
        self.sock.connect(self.path)


def ask(url: str | None, settings: Settings) -> int:
    """Ask `/readyz` below that address, say what the server says, and give the exit code: 0 if it is ready, else 1."""
    connection, path, where = reached(url, settings)
    try:
        connection.request("GET", f"{path}/readyz")
        answer = connection.getresponse()
        said = answer.read(MOST)
    except (OSError, HTTPException) as error:
        click.echo(f"{where}: no answer: {error}", err=True)
        return 1
    finally:
        connection.close()
    if answer.status != 200:
        click.echo(f"{where}: {answer.status} {'; '.join(_faults(said)) or answer.reason}", err=True)
        return 1
    out(f"{where}: ready\n")
    return 0


def reached(url: str | None, settings: Settings) -> tuple[HTTPConnection, str, str]:
    """The server's connection, the path of its root without the last slash, and its address in words."""
    is_socket = url is None and settings.bind.startswith("unix:")
    if url is None:
        host, _, port = settings.bind.rpartition(":")
        url = f"http://{'localhost' if is_socket else f'{ANY.get(host, host)}:{port}'}{settings.prefix}"
    try:
        parts = urlsplit(url)
        if is_socket:
            return _Unix(settings.bind.removeprefix("unix:")), parts.path, settings.bind
        kind = {"http": HTTPConnection, "https": HTTPSConnection}[parts.scheme]
        return kind(parts.hostname or "", parts.port, timeout=SECONDS), parts.path.rstrip("/"), url
    except (KeyError, ValueError):
        raise Refused(f"expected an address like http://127.0.0.1:8888, came {url[:100]!a}") from None


def _faults(said: bytes) -> list[str]:
    try:
        return [str(fault) for fault in json.loads(said)["faults"]]
    except (ValueError, KeyError, TypeError):
        return []
