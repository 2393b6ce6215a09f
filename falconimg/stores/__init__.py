"""Where bytes come from and go: the protocol that every store keeps.

`files` is a guarded directory of the server, `local` the whole disk for the command
line, `memory` a dictionary for tests and uploads. tests/test_stores.py runs one contract over all of them: a new
store is one module here and one row in that test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from falconimg.job import IfExists
from falconimg.stores.globs import Found, Looks


class File(NamedTuple):
    """One result to be published: its path in the store and its bytes."""

    path: str
    data: bytes


class Store(Protocol):
    """Bytes by path. Every method is safe to call from several threads at once.

    A path is relative to the store's root, with `/` between its components, or
    absolute and inside the root. `check_input` and `check_output` say whether a
    request may name it; they look at the path and at directories on the way,
    never at whether the file exists.
    """

    def check_input(self, path: str) -> str:
        """The canonical name of an input: equal for two paths to one file, and
        comparable with `check_output`'s.

        Raises:
            InvalidRequest: the path is malformed (empty, NUL, `//`, over-long, ...)
            Forbidden: it leads outside the root, or through a symbolic link
        """

    def below_root(self, path: str) -> str:
        """An input's path relative to its root, for templates; raises as `check_input` does for a malformed one."""

    def check_output(self, path: str) -> str:
        """The same for an output, whose last component may be a symbolic link:
        it would be replaced as a name."""

    def size(self, path: str, limit: int) -> int:
        """The bytes that `read` would give now; raises as `read` does."""

    def version(self, path: str, limit: int) -> str:
        """What becomes another with the file's content, on every machine the same; raises as `read` does."""

    def read(self, path: str, limit: int) -> bytes:
        """The whole file, if it is a regular file of at most `limit` bytes.

        Raises:
            Missing, Unreadable, TooLarge: as the names say; Unreadable also for a malformed path
            OutsideRoot: the path leads outside after all (a race was tried)
        """

    def exists(self, path: str) -> bool:
        """Whether an output's name is taken, by whatever (a link is not followed).

        Raises:
            BadName, OutsideRoot, NotWritten: as `publish`; the last where the disk does not say
        """

    def digest(self, path: str) -> str | None:
        """The SHA-256 of a result that is there, in hexadecimal digits; None if there is no regular file.

        Raises:
            BadName, OutsideRoot, NotWritten: as `exists`
        """

    def publish(self, files: Sequence[File], if_exists: IfExists) -> tuple[str, ...]:
        """Put all files in place, each atomically, directories made as needed.

        All are written and synced before the first is put in place; they are
        put in place in their order. A directory at a path is not overwritten: NotWritten. Returns
        the paths that were left as they were (`if_exists` is "skip" and the name was taken).

        Raises:
            Exists: a name was taken and `if_exists` is "error"
            NotWritten: the disk or its permissions refused
            BadName: a path is malformed
            OutsideRoot: a path leads outside the root
            Each carries `written`: the paths that are in place all the same.
        """

    def find(self, pattern: str, most: int, looks: Looks) -> list[Found]:
        """The inputs that a pattern matches (see globs): regular files, sorted.

        No symbolic link is followed. Of more than `most` files any `most + 1` are given.

        Raises:
            InvalidRequest: the pattern is malformed as a path, or takes more comparisons than `looks` has
            Forbidden: it leads outside the root, or its fixed part through a symbolic link
        """

    def faults(self) -> list[str]:
        """What keeps the store from taking requests now, a sentence each; for readiness."""

    def sweep(self) -> int:
        """Remove what killed processes left behind, and nothing else; how much that was."""
