"""Patterns of paths, as shells have them: what they match, and the walk that finds it.

In a component `*` stands for any characters, `?` for one, `[ab]`, `[a-z]` and `[!a]` for one of or none of those; a
component `**` for any number of directories, none included. A leading dot is matched by a dot only, and `**` goes
through no directory with one (POSIX.1-2024, XCU 2.14; `**` as bash's globstar). `[*]` is a star itself.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from falconimg.errors import InvalidRequest

MAGIC = re.compile(r"[*?\[]")
LOOKS = 100
"""Comparisons of a name with a part of a pattern that a request may make, for each image that it may have."""


class Entry(NamedTuple):
    """What a directory has: a directory or a regular file; `link` says that a symbolic link leads there."""

    name: str
    folder: bool
    link: bool = False


class Found(NamedTuple):
    """A file that a pattern matches: its path, and what of it lies below the pattern's fixed directories."""

    path: str
    below: str


class Looks:
    """How many comparisons of names are left for all patterns of a request."""

    def __init__(self, most: int) -> None:
        self.most = self.left = most

    def take(self, count: int) -> None:
        """Count some.

        Raises:
            InvalidRequest: there are none left
        """
        self.left -= count
        if self.left < 0:
            raise InvalidRequest(f"expected a pattern that takes at most {self.most} comparisons of names, came more")


def is_pattern(path: str) -> bool:
    """Whether anything in the path stands for something else."""
    return MAGIC.search(path) is not None


def fixed(pattern: str) -> str:
    """The directories before the first component that stands for something else: `in/` of `in/**/*.jpg`."""
    head = MAGIC.split(pattern, maxsplit=1)[0]
    return head[: head.rfind("/") + 1]


def among(outputs: Iterable[str], start: str) -> Callable[[str], bool]:
    """Whether a path lies among results: in the directory of one of these outputs, if that is below `start`.

    So what an earlier turn has made below its inputs is no input of the next one. Outputs are templates.
    """
    base = posixpath.normpath(start or ".")
    heads = (output.partition("{")[0] for output in outputs)
    folders = {posixpath.normpath(head[: head.rfind("/") + 1] or ".") for head in heads} - {base}
    inner = [folder for folder in folders if _is_below(folder, base)]
    return lambda path: any(_is_below(posixpath.normpath(path), folder) for folder in inner)


def _is_below(path: str, folder: str) -> bool:
    if folder == ".":
        return not path.startswith(("/", "../"))
    return path.startswith(f"{folder.rstrip('/')}/")


def find(pattern: str, most: int, looks: Looks, listed: Callable[[str], Iterable[Entry]]) -> list[Found]:
    """The files that a pattern matches, sorted; where there are more than `most`, any `most + 1` of them.

    `listed` gives what is in a directory, whose path is empty or ends in a slash; each is looked at once. A directory
    that is a link is not gone through by `**`, so that none is met for ever.

    Raises:
        InvalidRequest: it takes more comparisons than are left
    """
    start = fixed(pattern)
    parts = pattern[len(start) :].split("/")
    if parts[-1] == "**":
        parts.append("*")
    tests = [None if part == "**" else re.compile(fnmatch.translate(part)) for part in parts]
    found: list[Found] = []
    pending = [(start, _reached({0}, parts))]
    while pending:
        folder, states = pending.pop()
        for name, is_folder, link in listed(folder):
            looks.take(len(states))
            further: set[int] = set()
            for state in states:
                test = tests[state]
                if name.startswith(".") and not parts[state].startswith("."):
                    continue
                if test is None:
                    further |= set() if link else {state}
                elif test.match(name):
                    further.add(state + 1)
            if is_folder and (further := further - {len(parts)}):
                pending.append((f"{folder}{name}/", _reached(further, parts)))
            elif not is_folder and len(parts) in further:
                found.append(Found(folder + name, (folder + name)[len(start) :]))
                if len(found) > most:
                    return sorted(found)
    return sorted(found)


def _reached(states: set[int], parts: list[str]) -> set[int]:
    """These places in the pattern, and those behind every `**` that they stand at, since it may be for nothing."""
    reached = set(states)
    for state in sorted(states):
        while parts[state] == "**":
            state += 1
            reached.add(state)
    return reached
