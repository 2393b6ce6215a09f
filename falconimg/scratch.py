"""A directory of a server's own, for what its processes share; gone when it ends, and at the latest when the next one
of the same user starts."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

PREFIX = "falconimg-numbers-"


def made(parent: Path) -> Path:
    """A new directory below `parent`, after those of servers that were killed are removed.

    Each is locked by the processes of its server, as long as one of them lives.

    Raises:
        OSError: none can be made there
    """
    for left in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # another user's, or one that goes at this moment
            _removed_if_free(left)
    while True:
        directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with suppress(FileNotFoundError):  # another server took it for one that was left
            descriptor = os.open(directory, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if directory.exists():
                atexit.register(_removed_by, os.getpid(), directory)
                return directory


def _removed_if_free(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_uid == os.geteuid():
            shutil.rmtree(directory)
    finally:
        os.close(descriptor)


def _removed_by(process: int, directory: Path) -> None:
    if os.getpid() == process:  # those that it forks end in the same way
        shutil.rmtree(directory, ignore_errors=True)
