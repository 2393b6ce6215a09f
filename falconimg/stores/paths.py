"""What a path may look like: the grammar that every store shares, as pure functions.

A path is UTF-8 text with `/` between its components; nothing here looks at a
disk. No detail names a directory that the client did not send.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from falconimg.errors import BadName, Forbidden, ImageProblem, InvalidRequest, OutsideRoot
from falconimg.log import redacted

MAX_PATH = 4096
"""Bytes of a path (Linux's PATH_MAX)."""
MAX_COMPONENT = 255
"""Bytes between two slashes (Linux's NAME_MAX)."""
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
SHOWN = 100
"""Characters of a path that a message repeats."""


def shown(path: str) -> str:
    """The path for a message: redacted, quoted, escaped to ASCII, cut to 100 characters."""
    path = redacted(path)
    text = ascii(path[:SHOWN])
    return text if len(path) <= SHOWN and len(text) <= SHOWN + 2 else text[: SHOWN - 3] + "..."


def outside(path: str) -> str:
    """The one detail for whatever leads outside the root, whether or not anything is there."""
    return f"path: expected one inside the root with no symbolic link on the way, came {shown(path)}"


def relative(path: str, *roots: str) -> str:
    """The path under the root; `roots` are the absolute names that the root goes by.

    A leading `./` is dropped; an absolute path is taken if it is textually below one of `roots`.

    Raises:
        InvalidRequest: empty, too long, not UTF-8, NUL, or a component that is empty or `.`
        Forbidden: a `..` component, or an absolute path below none of `roots`
    """
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise _malformed("UTF-8 text", path) from None
    if not path or "\0" in path or size > MAX_PATH:
        raise _malformed(f"1 to {MAX_PATH} bytes with no NUL", path)
    if ADDRESS.match(path):
        allowed = "FALCONIMG_INPUT_STORES, FALCONIMG_OUTPUT_STORES or FALCONIMG_HTTP_HOSTS"
        raise _malformed(f"a file's, or an address (URL) that {allowed} allows", path)
    first, *rest = parts = path.split("/")
    if ".." in parts:
        raise Forbidden(outside(path))
    if rest and first in ("", "."):
        parts = rest
    if not {"", "."}.isdisjoint(parts):
        raise _malformed("no component to be empty or '.'", path)
    if size > MAX_COMPONENT and max(len(part.encode()) for part in parts) > MAX_COMPONENT:
        raise _malformed(f"components of at most {MAX_COMPONENT} bytes", path)
    return "/".join(parts) if first else _below(path, parts, roots)


def in_turn(below: Callable[[str], str], path: str, malformed: type[ImageProblem] = BadName) -> str:
    """What `below` (a store's `relative`) gives, for one image's turn, where only that image fails.

    Raises:
        `malformed`: where `below` raises InvalidRequest
        OutsideRoot: where it raises Forbidden
    """
    try:
        return below(path)
    except InvalidRequest as problem:
        raise malformed(problem.detail) from None
    except Forbidden as problem:
        raise OutsideRoot(problem.detail) from None


def canonical(root: str, below: str) -> str:
    """The absolute name of what is `below` the resolved `root`."""
    return f"{root.rstrip('/')}/{below}"


def _below(path: str, parts: list[str], roots: tuple[str, ...]) -> str:
    for root in roots:
        names = [name for name in root.split("/") if name]
        if parts == names:
            raise _malformed("a file's, not the root's", path)
        if parts[: len(names)] == names:
            return "/".join(parts[len(names) :])
    raise Forbidden(outside(path))


def _malformed(expected: str, path: str) -> InvalidRequest:
    return InvalidRequest(f"path: expected {expected}, came {shown(path)}")
