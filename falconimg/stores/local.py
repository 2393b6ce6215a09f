"""The whole disk, as the user who started the process may use it: no root, and symbolic links are followed.

For the command line. A path is what the working directory makes of it; a link, in an input or an output, stands for
what it leads to, so that an output that is a link is written where it leads and stays a link, as with cp(1).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from falconimg import errors
from falconimg.stores.files import Files, Root
from falconimg.stores.globs import Entry, Found, Looks, find
from falconimg.stores.paths import canonical, shown

_NO_SYNC = (errno.EACCES, errno.EINVAL)  # a directory that may not be listed, a file system that syncs none


class _Disk(Root):
    """Everything: a path below it is the file's real one."""

    def below(self, path: str) -> str:
        """The real path, without its first slash; of bytes that are not UTF-8, as os.fsdecode has them.

        Raises:
            InvalidRequest: empty, NUL, or a slash at its end
        """
        if not path or "\0" in path or path.endswith("/"):
            raise errors.InvalidRequest(f"path: expected a file's, with no NUL, came {shown(path)}")
        return os.path.realpath(path)[1:]


class Local(Files):
    """The Store of the whole disk; `bases` are directories from which the paths of templates start.

    So does the working directory; a path below none of them starts at the top of the disk.
    """

    def __init__(self, fsync: bool = True, bases: tuple[str, ...] = ()) -> None:
        super().__init__(_Disk(Path("/")), _Disk(Path("/")), fsync)
        self._bases = tuple(f"{_whole(base).rstrip('/')}/" for base in (*bases, "."))

    def below_root(self, path: str) -> str:
        """See Store."""
        self._input.below(path)
        whole = _whole(path)
        base = next((base for base in self._bases if whole.startswith(base)), "/")
        return whole.removeprefix(base)

    def _check(self, root: Root, path: str, *, link_allowed: bool) -> str:
        return canonical("/", root.below(path))

    def find(self, pattern: str, most: int, looks: Looks) -> list[Found]:
        """See Store; what a link leads to is found as well, but `**` goes through none."""
        return find(pattern, most, looks, partial(self._listed, pattern))

    def _entries(self, folder: str) -> Iterator[Entry]:
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                with suppress(OSError):  # a link that leads nowhere
                    if (is_folder := entry.is_dir()) or entry.is_file():
                        yield Entry(entry.name, is_folder, entry.is_symlink())

    def _sync(self, folder: int) -> None:
        try:
            super()._sync(folder)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise

    def faults(self) -> list[str]:
        """See Store; there is no root that could be gone."""
        return []

    def sweep(self) -> int:
        """See Store; nobody's files are looked at."""
        return 0


def _whole(path: str) -> str:
    """The absolute path, without `.` and `..`; links stay as they are."""
    return os.path.normpath(Path(path).absolute())
