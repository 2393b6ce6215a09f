"""A store in memory, for tests and uploads: the contract of `files` over a dictionary.

Its root is `/`. There are no symbolic links, and a directory is there for as
long as something is in it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from falconimg.errors import Exists, Missing, NotWritten, TooLarge, Unreadable
from falconimg.job import IfExists
from falconimg.stores import File
from falconimg.stores.globs import Entry, Found, Looks, find
from falconimg.stores.paths import canonical, in_turn, relative, shown


class Memory:
    """A dictionary that keeps the Store protocol; `files` at the start are bytes by path."""

    def __init__(self, files: Mapping[str, bytes] | None = None) -> None:
        self._files: dict[str, bytes] = {}
        self._lock = threading.Lock()
        for path, data in (files or {}).items():
            self.put(path, data)

    @property
    def files(self) -> dict[str, bytes]:
        """A copy of what is there now: bytes by relative path."""
        with self._lock:
            return dict(self._files)

    def put(self, path: str, data: bytes) -> None:
        """Set one file; raises as `publish` does."""
        self.publish([File(path, data)], "overwrite")

    def check_input(self, path: str) -> str:
        """See Store."""
        return canonical("/", self.below_root(path))

    def below_root(self, path: str) -> str:
        """See Store."""
        return relative(path, "/")

    def check_output(self, path: str) -> str:
        """See Store."""
        return canonical("/", self.below_root(path))

    def size(self, path: str, limit: int) -> int:
        """See Store."""
        return len(self.read(path, limit))

    def version(self, path: str, limit: int) -> str:
        """See Store."""
        return hashlib.sha256(self.read(path, limit)).hexdigest()

    def read(self, path: str, limit: int) -> bytes:
        """See Store."""
        name = in_turn(self.below_root, path, Unreadable)
        with self._lock:
            data = self._files.get(name)
            if data is None and self._is_directory(name):
                raise Unreadable(f"{shown(path)}: expected a regular file, came a directory")
        if data is None:
            raise Missing(f"{shown(path)}: there is no such file")
        if len(data) > limit:
            raise TooLarge(f"{shown(path)}: expected at most {limit} bytes (FALCONIMG_MAX_FILE), came {len(data)}")
        return data

    def exists(self, path: str) -> bool:
        """See Store."""
        name = in_turn(self.below_root, path)
        with self._lock:
            return name in self._files or self._is_directory(name)

    def digest(self, path: str) -> str | None:
        """See Store."""
        data = self.files.get(in_turn(self.below_root, path))
        return None if data is None else hashlib.sha256(data).hexdigest()

    def publish(self, files: Sequence[File], if_exists: IfExists) -> tuple[str, ...]:
        """See Store."""
        names = [in_turn(self.below_root, file.path) for file in files]
        written: list[str] = []
        left: list[str] = []
        with self._lock:
            for name, (path, _) in zip(names, files, strict=True):
                if if_exists == "error" and (name in self._files or self._is_directory(name)):
                    raise Exists(f"{shown(path)}: the name is taken")
                if if_exists == "overwrite" and self._is_directory(name):
                    raise NotWritten(f"{shown(path)} could not be written: Is a directory")
                if any(str(parent) in self._files for parent in PurePosixPath(name).parents):
                    raise NotWritten(f"{shown(path)} could not be written: Not a directory")
            for name, (path, data) in zip(names, files, strict=True):
                taken = name in self._files or self._is_directory(name)
                if taken and if_exists == "skip":
                    left.append(path)
                elif taken and if_exists == "error":
                    raise Exists(f"{shown(path)}: the name is taken", written)
                else:
                    self._files[name] = bytes(data)
                    written.append(path)
        return tuple(left)

    def find(self, pattern: str, most: int, looks: Looks) -> list[Found]:
        """See Store."""
        entries: dict[str, set[Entry]] = {}
        for path in self.files:
            folders = [f"{part}/" for part in PurePosixPath(path).parts[:-1]]
            for depth, folder in enumerate(folders):
                entries.setdefault("".join(folders[:depth]), set()).add(Entry(folder[:-1], True))
            entries.setdefault("".join(folders), set()).add(Entry(PurePosixPath(path).name, False))
        return find(self.below_root(pattern), most, looks, lambda folder: entries.get(folder, ()))

    def faults(self) -> list[str]:
        """See Store."""
        return []

    def sweep(self) -> int:
        """See Store."""
        return 0

    def _is_directory(self, name: str) -> bool:
        return any(other.startswith(f"{name}/") for other in self._files)
