"""A store whose results are not written anywhere: they are for the answer."""

from __future__ import annotations

import io
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO

from falconimg.errors import NotWritten
from falconimg.job import IfExists
from falconimg.stores import File, Store
from falconimg.stores.globs import Found, Looks
from falconimg.stores.paths import in_turn, relative

IN_MEMORY = 16_000_000
"""Bytes of results from which on they wait in a file without a name: a client may take its time to read them."""
PIECE = 256 * 1024
"""Bytes of an answer that are given to the server at once."""
DATE = (1980, 1, 1, 0, 0, 0)
"""Of each entry, so that equal results make equal archives; it is the format's first."""


class Answer:
    """Inputs of another store; results for one answer.

    One result is kept as it is; as soon as there are more, all are in a zip, not compressed again.
    """

    def __init__(self, inputs: Store) -> None:
        self._inputs = inputs
        self._lock = threading.Lock()
        self.alone: File | None = None  # the result, if there is one
        self._spool: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115  (`close` closes it)
        self._archive: zipfile.ZipFile | None = None

    def check_input(self, path: str) -> str:
        """See Store."""
        return f"input:{self._inputs.check_input(path)}"

    def below_root(self, path: str) -> str:
        """See Store."""
        return self._inputs.below_root(path.removeprefix("input:"))

    def find(self, pattern: str, most: int, looks: Looks) -> list[Found]:
        """See Store."""
        return self._inputs.find(pattern, most, looks)

    def size(self, path: str, limit: int) -> int:
        """See Store."""
        return self._inputs.size(path, limit)

    def version(self, path: str, limit: int) -> str:
        """See Store."""
        return self._inputs.version(path, limit)

    def read(self, path: str, limit: int) -> bytes:
        """See Store."""
        return self._inputs.read(path, limit)

    def check_output(self, path: str) -> str:
        """See Store."""
        return relative(path, "/")

    def exists(self, path: str) -> bool:
        """See Store."""
        return False

    def digest(self, path: str) -> str | None:
        """See Store."""
        return None

    def publish(self, files: Sequence[File], if_exists: IfExists) -> tuple[str, ...]:
        """See Store; names are unique by the job."""
        with self._lock, _room():
            for path, data in files:
                self._add(File(in_turn(self.check_output, path), data))
        return ()

    def attach(self, path: str, data: bytes) -> None:
        """Put something beside the results: then it is a zip in any case."""
        with self._lock, _room():
            self._zip(File(path, data))

    def _add(self, file: File) -> None:
        if self._archive or self.alone:
            self._zip(file)
        else:
            self.alone = file

    def _zip(self, file: File) -> None:
        self._archive = self._archive or zipfile.ZipFile(self._spool, "w")
        for each in filter(None, (self.alone, file)):
            self._archive.writestr(zipfile.ZipInfo(each.path, DATE), each.data)
        self.alone = None

    def finish(self, order: Sequence[str]) -> int:
        """End the archive, if there is one, whose contents are listed in this order of paths; the answer's bytes."""
        if self.alone:
            return len(self.alone.data)
        places = {path: place for place, path in enumerate(order)}
        with _room():
            if self._archive:
                self._archive.filelist.sort(key=lambda entry: places.get(entry.filename, len(places)))
                self._archive.close()
            return self._spool.seek(0, io.SEEK_END)

    @property
    def at_hand(self) -> bool:
        """Whether there is one result alone, which is small enough to wait in memory."""
        return self.alone is not None and len(self.alone.data) <= IN_MEMORY

    def spooled(self, order: Sequence[str]) -> int:
        """End it as `finish` does; then `pieces` are of one result alone too, and that is no longer in memory."""
        size = self.finish(order)
        if self.alone:
            with _room():
                self._spool.write(self.alone.data)
            self.alone = None
        return size

    def pieces(self) -> Iterator[bytes]:
        """The bytes of the archive, or of what is spooled."""
        self._spool.seek(0)
        while piece := self._spool.read(PIECE):
            yield piece

    def close(self) -> None:
        """Let everything go."""
        if self._archive:
            with suppress(OSError, ValueError):  # it may have failed before; unclosed it would complain when it goes
                self._archive.close()
        self._spool.close()
        self.alone = None

    def faults(self) -> list[str]:
        """See Store."""
        return self._inputs.faults()

    def sweep(self) -> int:
        """See Store."""
        return 0


@contextmanager
def _room() -> Iterator[None]:
    """A disk that refuses is told of as everywhere."""
    try:
        yield
    except OSError as error:
        raise NotWritten(f"the results could not be kept for the answer: {error.strerror}") from error
