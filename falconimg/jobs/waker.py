"""What a thread waits for: others that wake it, and a file that is touched, by whichever process."""

from __future__ import annotations

import ctypes
import os
import select
from contextlib import suppress
from pathlib import Path

TOUCHED = 0x04
"""IN_ATTRIB, see inotify(7): of writes the first would wake, before what they mean can be read."""
MOST = 65536
"""Bytes that are read of what came: all that Linux's pipes hold."""


class Waker:
    """Wakes the one thread that waits; so does who touches `file`, where the kernel `tells` of that, as Linux does."""

    def __init__(self, file: Path | None) -> None:
        self._read, self._write = os.pipe()
        for handle in (self._read, self._write):
            os.set_blocking(handle, False)
        self._touches = _touches(file) if file else None
        self.tells = self._touches is not None

    def wake(self) -> None:
        """Wake it, or let it not wait the next time; safe to call from a signal's handler."""
        with suppress(BlockingIOError):  # then it is woken anyway
            os.write(self._write, b"\0")

    def wait(self, seconds: float, touches: bool) -> bool:
        """Wait so many seconds at most, and less if woken; whether by a touch, where `touches` are waited for."""
        poll = select.poll()
        watched = [self._read, *([self._touches] if touches and self._touches is not None else [])]
        for handle in watched:
            poll.register(handle, select.POLLIN)
        came = [handle for handle, _ in poll.poll(1000 * seconds)]
        for handle in came:
            os.read(handle, MOST)
        return self._touches in came

    def close(self) -> None:
        """Let the handles go; nobody waits or wakes any more."""
        for handle in (self._read, self._write, self._touches):
            if handle is not None:
                os.close(handle)


def _touches(file: Path) -> int | None:
    """A handle with something to read when the file was touched; none where there is no inotify, or no more."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "inotify_init1"):
        return None
    handle = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if handle >= 0 and libc.inotify_add_watch(handle, os.fsencode(file), TOUCHED) < 0:
        os.close(handle)
        return None
    return handle if handle >= 0 else None
