"""Answers to addresses, kept on disk and shared by all workers; the least recently used leave first.

An entry is a file that is named after its key: the checksum of the rest, a line
of JSON, then the answer's body. It is put in place whole or not at all, by the
file store; what a crash of the machine has left of it is found out by its
checksum. Its time of change is when it was last used.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from falconimg import log
from falconimg.errors import Busy, ImageProblem, SettingsProblem
from falconimg.settings import cache_directory
from falconimg.stores import File
from falconimg.stores.answer import IN_MEMORY
from falconimg.stores.files import Files

LARGEST = 8  # an entry is at most one of so many parts of the whole, and no more than what waits in memory
LOOK = 32  # the whole is looked at whenever a process has put one of so many parts of it
KEPT = 0.9  # of the whole, when something has to leave
CHECKSUM = 9  # bytes of it, with its line's end
LOCK = ".lock"
NAME = re.compile(r"[0-9a-f]{32}(\.lock)?")  # nothing else is ever removed
OLD_LOCK = 3600.0  # seconds, after which a lock's file is one that a killed process left


class Entry(NamedTuple):
    """An answer: its type, its name, its sides in pixels if it is a picture, what is to be said of it, its body."""

    media_type: str
    name: str
    sides: tuple[int, int] | None
    notes: str
    data: bytes


class Cache:
    """Entries by key below a directory (or one of our own), `size` bytes of them, and a LOOKth more for each process.

    Raises:
        SettingsProblem: the directory of our own is somebody else's, or one cannot be used
    """

    def __init__(self, directory: Path | None, size: int) -> None:
        try:
            directory = directory or _own()
            self._directory, self._size = directory.resolve(strict=True), size
            self._store = Files(directory, directory, fsync=False)
        except OSError as error:
            raise SettingsProblem(
                f"FALCONIMG_CACHE_DIR: expected a directory that can be used, came one that cannot: {error}"
            ) from None
        self.largest = min(size // LARGEST, IN_MEMORY)
        self._put = size  # bytes since the last look; so the first one looks

    def get(self, key: str) -> Entry | None:
        """The entry, which is now the one that was used last; None if there is none, or none that is whole."""
        try:
            content = self._store.read(_path(key), self._size)
            if content[:CHECKSUM] != _checksum(memoryview(content)[CHECKSUM:]):
                return None
            os.utime(self._directory / _path(key))
            end = content.index(b"\n", CHECKSUM)
            media_type, name, sides, notes = json.loads(content[CHECKSUM:end])
        except (ImageProblem, OSError, ValueError):  # ValueError: its checksum fits, but it is no entry
            return None
        return Entry(media_type, name, sides and tuple(sides), notes, content[end + 1 :])

    def put(self, key: str, entry: Entry) -> None:
        """Keep it, unless it is too large or the disk refuses; then the log says so."""
        if len(entry.data) > self.largest:
            return
        content = json.dumps(entry[:-1]).encode() + b"\n" + entry.data
        try:
            self._store.publish([File(_path(key), _checksum(content) + content)], "overwrite")
        except ImageProblem as problem:
            log.logger.warning("cache", detail=problem.detail)
            return
        self._put += len(entry.data)
        if self._put > self._size // LOOK:
            self._make_room()

    @contextmanager
    def turn(self, key: str, seconds: float) -> Iterator[None]:
        """One at a time for a key, in all processes; who waits would else make it as well, and take longer.

        Raises:
            Busy: it did not come within the seconds (FALCONIMG_WAIT_SECONDS)
        """
        handle = self._lock(key, seconds)
        try:
            yield
        finally:
            if handle >= 0:
                with suppress(OSError):
                    (self._directory / f"{_path(key)}{LOCK}").unlink()
                os.close(handle)

    def _lock(self, key: str, seconds: float) -> int:
        """The handle of the key's lock, held; -1 where the disk has no room for one, and each makes its own."""
        path = self._directory / f"{_path(key)}{LOCK}"
        end, pause = time.monotonic() + seconds, 0.002
        while True:
            try:
                path.parent.mkdir(exist_ok=True)
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError:
                return -1
            if _locked(handle) and _is_at(handle, path):
                return handle
            os.close(handle)
            if time.monotonic() > end:
                within = f"{seconds:g} seconds (FALCONIMG_WAIT_SECONDS)"
                raise Busy(f"expected another request to have made this within {within}, came nothing")
            time.sleep(pause)
            pause = min(2 * pause, 0.05)

    def _make_room(self) -> None:
        """Remove the entries that were not used for longest; only one process does so at a time."""
        with suppress(OSError), (self._directory / LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._put = 0
            self._store.sweep()
            found = sorted(self._entries())
            total = sum(size for _, size, _ in found)
            if total > self._size:
                for _, size, path in found:
                    if total <= KEPT * self._size:
                        break
                    path.unlink(missing_ok=True)
                    total -= size

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """(time of the last use, bytes, path) of each."""
        for path in self._directory.glob("??/*"):
            if not NAME.fullmatch(path.name):
                continue
            with suppress(FileNotFoundError):
                info = path.stat()
                if path.suffix != LOCK:
                    yield info.st_mtime, info.st_size, path
                elif time.time() - info.st_mtime > OLD_LOCK:
                    path.unlink()


def _own() -> Path:
    """A directory below the temporary one that nobody else can write to."""
    directory = cache_directory()
    directory.mkdir(mode=0o700, exist_ok=True)
    info = directory.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise SettingsProblem(
            f"FALCONIMG_CACHE_DIR: expected {directory} to be this user's alone, came one that is not"
        )
    return directory


def _path(key: str) -> str:
    return f"{key[:2]}/{key}"


def _checksum(content: bytes | memoryview) -> bytes:
    return b"%08x\n" % zlib.crc32(content)


def _is_at(handle: int, path: Path) -> bool:
    """Whether the locked file is still the one of its name: who had the lock before removes it."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), path.stat())
    return False


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
