"""Objects of a bucket below a prefix: S3 and what speaks like it, by obstore.

Each result is put atomically, several beside each other: what they are together is not there at once. Where a name
must not be taken, the put says so itself (If-None-Match), so of several writers one wins. An object store has no
directories, and nothing to sweep.

obstore starts threads when it is first used, which a fork would not bring along: each process makes its own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from falconimg import errors
from falconimg.errors import SettingsProblem
from falconimg.formats import by_extension
from falconimg.job import IfExists
from falconimg.stores import File
from falconimg.stores.globs import Entry, Found, Looks, find
from falconimg.stores.paths import ADDRESS, in_turn, outside, relative, shown

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PIECE = 1 << 20
"""Bytes of an object that come at once."""
SECONDS = "30s"
"""For one request of the store's, of which a few are made again where that may help."""
RETRIES: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}
AT_ONCE = 16
"""Questions to a store, or objects that are put there, at the same time: each is mostly waiting."""
MOST_KEY = 1024
"""Bytes of an object's key (S3's limit; Google's is the same)."""


Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


def at_once(ask: Callable[[Asked], Answer], of: Sequence[Asked], most: int = AT_ONCE) -> list[Answer]:
    """What comes of each, asked on so many threads; the first one's error is raised when all have ended."""
    with ThreadPoolExecutor(max(1, min(most, len(of)))) as pool:
        return list(pool.map(ask, of))


def bucket(base: str, settings: dict[str, str]) -> ObjectStore:
    """The bucket of an address like s3://bucket/prefix/, with credentials from the environment or these settings."""
    from obstore.store import from_url

    scheme, _, rest = base.partition("://")
    found: ObjectStore = from_url(
        f"{scheme}://{rest.partition('/')[0]}",
        config=cast("Any", settings),
        client_options={"timeout": SECONDS, "connect_timeout": "5s", "allow_http": True},
        retry_config=RETRIES,
    )
    return found


def require_obstore() -> None:
    """Raise SettingsProblem if obstore is not installed."""
    try:
        import obstore  # noqa: F401
    except ImportError:
        raise SettingsProblem("FALCONIMG_STORES: expected falconimg[objects] to be installed, came none") from None


class Objects:
    """The Store of what is below `base`, an address that ends in a slash; `make` gives its bucket, once a process."""

    def __init__(self, base: str, make: Callable[[], ObjectStore]) -> None:
        self.base = base
        self.prefix = base.partition("://")[2].partition("/")[2]
        self._make = make
        self._made: dict[int, ObjectStore] = {}

    @property
    def _bucket(self) -> ObjectStore:
        pid = os.getpid()
        if pid not in self._made:
            self._made = {pid: self._make()}
        return self._made[pid]

    def below_root(self, path: str) -> str:
        """See Store."""
        if ADDRESS.match(path) and not path.startswith(self.base):
            raise errors.Forbidden(outside(path))
        below = relative(path.removeprefix(self.base))
        if not below.isprintable():
            raise errors.InvalidRequest(f"path: expected a key without control characters, came {shown(path)}")
        if len((self.prefix + below).encode()) > MOST_KEY:
            raise errors.InvalidRequest(f"path: expected a key of at most {MOST_KEY} bytes, came {shown(path)}")
        return below

    def check_input(self, path: str) -> str:
        """See Store."""
        return self.base + self.below_root(path)

    check_output = check_input

    def size(self, path: str, limit: int) -> int:
        """See Store."""
        return self._head(path, limit)[0]

    def version(self, path: str, limit: int) -> str:
        """See Store; its ETag, or else its size and the time of its last change."""
        return self._head(path, limit)[1]

    def _head(self, path: str, limit: int) -> tuple[int, str]:
        import obstore

        key = self._key(path, errors.Unreadable)
        with _reading(path):
            meta = obstore.head(self._bucket, key)
        _within(meta["size"], limit, path)
        return meta["size"], meta["e_tag"] or f"{meta['size']}-{meta['last_modified'].isoformat()}"

    def read(self, path: str, limit: int) -> bytes:
        """See Store."""
        import obstore

        key = self._key(path, errors.Unreadable)
        pieces, size = [], 0
        with _reading(path):
            found = obstore.get(self._bucket, key)
            _within(found.meta["size"], limit, path)
            for piece in found.stream(min_chunk_size=PIECE):
                pieces.append(bytes(piece))
                size += len(piece)
                _within(size, limit, path)  # whatever it said before
        return b"".join(pieces)

    def exists(self, path: str) -> bool:
        """See Store."""
        import obstore

        key = self._key(path, errors.BadName)
        with _writing(path):
            try:
                obstore.head(self._bucket, key)
            except FileNotFoundError:
                return False
        return True

    def digest(self, path: str) -> str | None:
        """See Store."""
        import obstore

        key, digest = self._key(path, errors.BadName), hashlib.sha256()
        with _writing(path):
            try:
                for piece in obstore.get(self._bucket, key).stream(min_chunk_size=PIECE):
                    digest.update(piece)
            except FileNotFoundError:
                return None
        return digest.hexdigest()

    def publish(self, files: Sequence[File], if_exists: IfExists) -> tuple[str, ...]:
        """See Store, but that each is written when it is put in place, and the others are though one cannot be."""
        paths = [file.path for file in files]
        keys = {self._key(path, errors.BadName) for path in paths}
        if if_exists == "error":
            for path, taken in zip(paths, at_once(self.exists, paths), strict=True):
                if taken:
                    raise errors.Exists(f"{shown(path)}: the name is taken")
        # of several results of one name the first is put first
        ends = at_once(partial(self._put, if_exists), files, AT_ONCE if len(keys) == len(files) else 1)
        written = [path for path, end in zip(paths, ends, strict=True) if end is None]
        for end in ends:
            if end and (if_exists == "error" or not isinstance(end, errors.Exists)):
                end.written = tuple(written)
                raise end
        return tuple(path for path, end in zip(paths, ends, strict=True) if end)

    def _put(self, if_exists: IfExists, file: File) -> errors.ImageProblem | None:
        """Put it in place; why it is not, if so."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        form = by_extension(file.path)
        kind: Any = {"Content-Type": form.media_type} if form else {}
        mode: Any = "overwrite" if if_exists == "overwrite" else "create"
        key = self._key(file.path, errors.BadName)
        try:
            with _writing(file.path):
                obstore.put(self._bucket, key, file.data, attributes=kind, mode=mode, use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            return errors.Exists(f"{shown(file.path)}: the name is taken")
        except errors.NotWritten as problem:
            return problem
        return None

    def find(self, pattern: str, most: int, looks: Looks) -> list[Found]:
        """See Store."""
        below = self.below_root(pattern)
        head = self.base if pattern.startswith(self.base) else ""
        with _reading(pattern):
            found = find(below, most, looks, self._listed)
        return [Found(head + path, rest) for path, rest in found]

    def _listed(self, folder: str) -> Iterator[Entry]:
        import obstore

        at = self.prefix + folder
        found = obstore.list_with_delimiter(self._bucket, at.rstrip("/") or None)
        for name in found["common_prefixes"]:
            yield Entry(name.rstrip("/").rpartition("/")[2], True)
        for meta in found["objects"]:
            yield Entry(meta["path"].rpartition("/")[2], False)

    def faults(self) -> list[str]:
        """See Store; a store that is away for a moment is no reason to take a server away."""
        return []

    def sweep(self) -> int:
        """See Store."""
        return 0

    def _key(self, path: str, malformed: type[errors.ImageProblem]) -> str:
        return self.prefix + in_turn(self.below_root, path, malformed)


def _within(size: int, limit: int, path: str) -> None:
    if size > limit:
        raise errors.TooLarge(f"{shown(path)}: expected at most {limit} bytes (FALCONIMG_MAX_FILE), came {size}")


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """obstore's errors become an input's; what they quote of requests and answers is not shown."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError:
        raise errors.Missing(f"{shown(path)}: there is no such file") from None
    except BaseError as error:
        raise errors.Unreadable(f"{shown(path)} could not be read: {_why(error)}") from error


@contextmanager
def _writing(path: str) -> Iterator[None]:
    """obstore's errors become a result's, but those that say whether it is there."""
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

    try:
        yield
    except (AlreadyExistsError, PreconditionError):
        raise
    except FileNotFoundError as error:
        raise errors.NotWritten(f"{shown(path)} could not be written: there is no such bucket") from error
    except BaseError as error:
        raise errors.NotWritten(f"{shown(path)} could not be written: {_why(error)}") from error


def _why(error: Exception) -> str:
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        return "the store refuses these credentials"
    return "the store does not answer as it should"
