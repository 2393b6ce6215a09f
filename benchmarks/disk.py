"""A file's way to the disk, for the peers: what they answer is there to stay, as with falconimg."""

from __future__ import annotations

import os
from pathlib import Path


def put(path: Path, data: bytes) -> None:
    """The data at this path: a temporary, synced, put in place; then its directory is synced."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    os.rename(temporary, path)  # noqa: PTH104
    sync(path.parent, os.O_DIRECTORY)


def sync(path: Path, flags: int = 0) -> None:
    """Have the disk hold what is there."""
    handle = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
