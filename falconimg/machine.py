"""What this process may use: cores and memory, by the machine and by the control groups that it is in.

A container sees the host's cores and memory; what it may have of them is in its
control group (Linux's Documentation/admin-guide/cgroup-v2.rst: cpu.max,
memory.max, memory.high; cgroup-v1: cpu.cfs_quota_us, memory.limit_in_bytes), or
in one above it.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

# mallopt(3): arenas at most, and the bytes from which on a block is given back to the system when it is freed.
# glibc's own are 8 for each core, and as large as the largest block that was freed, up to 32 MB: then what a worker
# holds is twice what its images take.
MALLOC = {-8: 2, -3: 4_000_000}


class Limits(NamedTuple):
    """Cores, at least 1, a part of one counted as a whole; bytes of memory."""

    cores: int
    memory: int


def keep_memory_low() -> None:
    """Have the C library give memory back, in this process and in those that are forked of it."""
    with suppress(AttributeError):  # another C library may have no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in MALLOC.items():
            mallopt(option, value)


def limits(root: Path = Path("/")) -> Limits:
    """The least of what the machine has, what this process may run on, and what each of its groups allows.

    `root` is where proc/self/cgroup and sys/fs/cgroup are. What cannot be read limits nothing.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    cores = [float(len(affinity(0)) if affinity else os.cpu_count() or 1)]
    memory = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in _groups(root, "cpu"):
        for quota in (_numbers(group / "cpu.max"), _numbers(group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us")):
            cores += [quota[0] / quota[1]] if quota and min(quota) > 0 else []
    for group in _groups(root, "memory"):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            memory += _numbers(group / name)
    return Limits(max(1, math.ceil(min(cores))), min(memory))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The directories of this process's groups, its own first.

    Where a container is shown its own group alone, mounted at the top, but the path of the host, only the top is there.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        names = [name for name in path.split("/") if name]
        for depth in range(len(names), -1, -1):
            yield top.joinpath(*names[:depth])


def _numbers(*paths: Path) -> list[int]:
    """The numbers in these files; none if one of them is not there, or says `max`."""
    try:
        return [int(word) for path in paths for word in path.read_text().split()]
    except (OSError, ValueError):
        return []
