"""A guarded directory of the server: nothing outside its roots is read or written, races included.

Each root is opened once. A file is reached by opening its directory from that
handle with no symbolic link followed, by openat2(2) or, where the kernel or a
sandbox lacks it, component by component; then its last component by
O_NOFOLLOW from the directory's handle.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import os
import re
import secrets
import stat
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from falconimg import errors
from falconimg.job import IfExists
from falconimg.stores import File
from falconimg.stores.globs import Entry, Found, Looks, find
from falconimg.stores.paths import canonical, in_turn, outside, relative, shown

Looked = TypeVar("Looked")

FOREIGN_SECONDS = 24 * 3600
"""The age from which a temporary of another host is a stray."""
OPEN_FOLDERS = 8
"""Directories that one publish holds open: many publish at once, and 1,024 handles is a usual limit."""

SETTLED = 10_000
"""Directories that a store remembers to have synced all the way up."""

_OUTSIDE = (errno.ELOOP, errno.EXDEV)
# a directory of which this is said has no files for a pattern, as for a shell
_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENAMETOOLONG)
_KINDS = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
_PATH = getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK)  # O_PATH: a directory need not be readable
_LIST = os.O_RDONLY | os.O_DIRECTORY  # but this one, to be synced or listed
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | os.O_NOFOLLOW
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_TEMPORARY = re.compile(r"\.falconimg-([0-9a-f]{12})-([1-9][0-9]{0,6})-([0-9]{1,20})-[0-9a-f]{16}\.tmp")

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
_LIBC.syscall.restype = ctypes.c_long


class _How(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("flags", "mode", "resolve"))


# RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH, see linux/openat2.h
_HOW = ctypes.byref(_How(_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, 0x02 | 0x04 | 0x08))
_HOW_SIZE = ctypes.sizeof(_How)


def openat2(root: int, folder: bytes) -> int:
    """A handle of the directory `folder` (without NUL) under the handle `root`, by openat2(2).

    Raises:
        OSError: ELOOP for a symbolic link on the way, ENOSYS or EPERM where there is no openat2
    """
    code = errno.ENOSYS
    for _ in range(8 if sys.platform == "linux" else 0):
        handle = int(_LIBC.syscall(437, root, folder, _HOW, _HOW_SIZE))
        if handle >= 0:
            return handle
        code = ctypes.get_errno()
        if code not in (errno.EAGAIN, errno.EINTR):  # EAGAIN: something was renamed meanwhile
            break
    raise OSError(code, os.strerror(code))


def walk(root: int, folder: bytes, arrive: Callable[[int, bytes], None] | None = None) -> int:
    """The same by one open a component; `arrive` gets each one's parent and name before that."""
    handle = os.dup(root)
    for part in folder.split(b"/"):
        with _closing(handle):
            if arrive:
                arrive(handle, part)
            handle = os.open(part, _PATH | os.O_NOFOLLOW, dir_fd=handle)
        mode = os.fstat(handle).st_mode
        if not stat.S_ISDIR(mode):
            os.close(handle)
            code = errno.ELOOP if stat.S_ISLNK(mode) else errno.ENOTDIR
            raise OSError(code, os.strerror(code))
    return handle


class _closing:  # noqa: N801  (a fifth of what contextlib's would take, sixteen times a request)
    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __enter__(self) -> int:
        return self._handle

    def __exit__(self, *_error: object) -> None:
        os.close(self._handle)


class Root:
    """A directory resolved and opened once; its handle lives as long as it does."""

    def __init__(self, root: Path) -> None:
        self.path = root.resolve(strict=True)
        self.names = (os.path.normpath(root.absolute()), str(self.path))
        self.handle = os.open(self.path, _PATH | os.O_DIRECTORY)
        # not at exit: a thread still at work would find the number reused
        weakref.finalize(self, os.close, self.handle).atexit = False

    def below(self, path: str) -> str:
        """The path under this root; raises as paths.relative does."""
        return relative(path, *self.names)


class _Target(NamedTuple):
    folder: bytes
    name: bytes
    file: File


class _Folders:
    """Handles of one publish's directories; the least recently used makes room."""

    def __init__(self, make: Callable[[bytes], int]) -> None:
        self._make = make
        self._handles: dict[bytes, int] = {}

    def __getitem__(self, folder: bytes) -> int:
        handle = self._handles.pop(folder) if folder in self._handles else self._make(folder)
        if len(self._handles) >= OPEN_FOLDERS:
            os.close(self._handles.pop(next(iter(self._handles))))
        self._handles[folder] = handle
        return handle

    def close(self) -> None:
        for handle in self._handles.values():
            os.close(handle)


class Files:
    """The Store of a directory for inputs and one for outputs, which may be the same.

    Raises:
        OSError: a root is not a directory that can be opened
    """

    def __init__(self, input_root: Path | Root, output_root: Path | Root, fsync: bool = True) -> None:
        self._input = input_root if isinstance(input_root, Root) else Root(input_root)
        self._output = output_root if isinstance(output_root, Root) else Root(output_root)
        self._fsync = fsync
        self._settled: set[tuple[bytes, int, int]] = set()  # directories that are in synced ones
        self._unnamed = hasattr(os, "O_TMPFILE") and Path("/proc/self/fd").is_dir()
        self._descend: Callable[[int, bytes], int] = openat2
        try:
            os.close(openat2(self._input.handle, b"."))
        except OSError:  # ENOSYS: an old kernel; EPERM: a sandbox
            self._descend = walk

    @property
    def input_root(self) -> Path:
        """The input root, resolved."""
        return self._input.path

    @property
    def output_root(self) -> Path:
        """The output root, resolved."""
        return self._output.path

    def check_input(self, path: str) -> str:
        """See Store."""
        return self._check(self._input, path, link_allowed=False)

    def below_root(self, path: str) -> str:
        """See Store."""
        return self._input.below(path)

    def check_output(self, path: str) -> str:
        """See Store."""
        return self._check(self._output, path, link_allowed=True)

    def _check(self, root: Root, path: str, *, link_allowed: bool) -> str:
        below = root.below(path)
        folder, name = _split(below)
        try:
            with _closing(self._descend(root.handle, folder)) as parent:
                if not link_allowed and stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                    raise errors.Forbidden(outside(path))
        except OSError as error:
            if error.errno in _OUTSIDE:
                raise errors.Forbidden(outside(path)) from error
        return canonical(str(root.path), below)

    def size(self, path: str, limit: int) -> int:
        """See Store."""
        return self._at(path, lambda parent, name: _status(parent, name, path, limit)).st_size

    def version(self, path: str, limit: int) -> str:
        """See Store; its size and the time of its last change, in nanoseconds."""
        info = self._at(path, lambda parent, name: _status(parent, name, path, limit))
        return f"{info.st_size}-{info.st_mtime_ns}"

    def read(self, path: str, limit: int) -> bytes:
        """See Store."""
        return self._at(path, lambda parent, name: _read(parent, name, path, limit))

    def _at(self, path: str, look: Callable[[int, bytes], Looked]) -> Looked:
        """What `look` finds in an input's directory at its name; the system's errors within become ours."""
        folder, name = _split(in_turn(self._input.below, path, errors.Unreadable))
        try:
            with _closing(self._descend(self._input.handle, folder)) as parent:
                return look(parent, name)
        except (FileNotFoundError, NotADirectoryError):
            raise errors.Missing(f"{shown(path)}: there is no such file") from None
        except OSError as error:
            if error.errno in _OUTSIDE:
                raise errors.OutsideRoot(outside(path)) from error
            raise errors.Unreadable(f"{shown(path)} could not be read: {error.strerror}") from error

    def exists(self, path: str) -> bool:
        """See Store."""
        return bool(self._of_result(path, lambda parent, name: os.stat(name, dir_fd=parent, follow_symlinks=False)))

    def digest(self, path: str) -> str | None:
        """See Store."""
        return self._of_result(path, _digest)

    def _of_result(self, path: str, look: Callable[[int, bytes], Looked]) -> Looked | None:
        """What `look` finds in an output's directory at its name, if there is something."""
        folder, name = _split(in_turn(self._output.below, path))
        try:
            with _closing(self._descend(self._output.handle, folder)) as parent:
                return look(parent, name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _refusal(error, path) from error

    def publish(self, files: Sequence[File], if_exists: IfExists) -> tuple[str, ...]:
        """See Store."""
        names = [_split(in_turn(self._output.below, file.path)) for file in files]
        todo: list[_Target] = []
        left: list[str] = []
        for (folder, name), file in zip(names, files, strict=True):
            if if_exists == "overwrite" or not self.exists(file.path):
                todo.append(_Target(folder, name, file))
            elif if_exists == "skip":
                left.append(file.path)
            else:
                raise errors.Exists(f"{shown(file.path)}: the name is taken")
        return (*left, *self._put(todo, if_exists))

    def _put(self, targets: Sequence[_Target], if_exists: IfExists) -> list[str]:
        """Write them all, then put them all in place, then sync: the paths that were taken meanwhile."""
        left: list[str] = []
        written: list[str] = []
        waiting: dict[bytes, _Target] = {}
        folders = _Folders(self._make)
        put = os.rename if if_exists == "overwrite" else functools.partial(os.link, follow_symlinks=False)
        path = ""
        try:
            for target in targets:
                path, temporary = target.file.path, _temporary_name()
                waiting[temporary] = target
                self._write(folders[target.folder], target, temporary)
            for temporary, target in list(waiting.items()):
                path, folder = target.file.path, folders[target.folder]
                try:
                    put(temporary, target.name, src_dir_fd=folder, dst_dir_fd=folder)
                    written.append(path)
                except FileExistsError:
                    if if_exists == "error":
                        raise errors.Exists(f"{shown(path)}: the name is taken", written) from None
                    left.append(path)
                if if_exists != "overwrite":
                    os.unlink(temporary, dir_fd=folder)
                del waiting[temporary]
            for target in {target.folder: target for target in targets}.values():
                path = target.file.path
                self._sync(folders[target.folder])
        except OSError as error:
            raise _refusal(error, path, written) from error
        finally:
            for temporary, target in waiting.items():
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folders[target.folder])
            folders.close()
        return left

    def _make(self, folder: bytes) -> int:
        """The output directory's handle; it and its parents are made where missing, and surely on the disk."""

        def make(parent: int, name: bytes) -> None:
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=parent)

        try:
            handle = self._descend(self._output.handle, folder)
        except FileNotFoundError:
            self._settled.clear()  # a new directory may have an old one's inode
            handle = walk(self._output.handle, folder, make)
        try:
            self._settle(folder, handle)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _write(self, folder: int, target: _Target, temporary: bytes) -> None:
        """The data as `temporary` in `folder`, synced and closed, so that thousands can wait."""
        kept = None
        with suppress(FileNotFoundError):
            old = os.stat(target.name, dir_fd=folder, follow_symlinks=False).st_mode
            if stat.S_ISDIR(old):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if stat.S_ISREG(old):
                kept = old & 0o777  # set-user-ID is not kept: the new file's owner may be another
        mode = 0o666 if kept is None else kept
        handle = -1
        if self._unnamed:
            with suppress(OSError):  # a file system without it; any other reason comes again below
                handle = os.open(b".", os.O_TMPFILE | os.O_WRONLY, mode, dir_fd=folder)
        named = handle < 0
        with _closing(os.open(temporary, _CREATE, mode, dir_fd=folder) if named else handle) as handle:
            if kept is not None:
                os.fchmod(handle, kept)
            rest = memoryview(target.file.data)
            while rest:
                rest = rest[os.write(handle, rest) :]
            if self._fsync:
                os.fsync(handle)
            if not named:
                os.link(f"/proc/self/fd/{handle}", temporary, dst_dir_fd=folder, follow_symlinks=True)

    def _settle(self, folder: bytes, handle: int) -> None:
        """Sync the directories above an output's, once: whoever made them may not have done so yet."""
        info = os.fstat(handle)
        key = folder, info.st_dev, info.st_ino
        if not self._fsync or key in self._settled:
            return
        parts = folder.split(b"/")
        for depth in range(len(parts) if folder != b"." else 0):
            with _closing(self._descend(self._output.handle, b"/".join(parts[:depth]) or b".")) as parent:
                self._sync(parent)
        if len(self._settled) >= SETTLED:
            self._settled.clear()
        self._settled.add(key)

    def _sync(self, folder: int) -> None:
        if self._fsync:
            with _closing(os.open(b".", _LIST, dir_fd=folder)) as handle:
                os.fsync(handle)

    def find(self, pattern: str, most: int, looks: Looks) -> list[Found]:
        """See Store."""
        return find(self._input.below(pattern), most, looks, functools.partial(self._listed, pattern))

    def _listed(self, pattern: str, folder: str) -> Iterator[Entry]:
        try:
            yield from self._entries(folder)
        except OSError as error:
            if error.errno in _OUTSIDE:
                raise errors.Forbidden(outside(pattern)) from error
            if error.errno not in _NOTHING:
                problem = f"{shown(pattern)} could not be looked through: {error.strerror}"
                raise errors.InvalidRequest(problem) from error

    def _entries(self, folder: str) -> Iterator[Entry]:
        """The directories and regular files in an input's directory; symbolic links are none."""
        with (
            _closing(self._descend(self._input.handle, os.fsencode(folder).rstrip(b"/") or b".")) as parent,
            _closing(os.open(b".", _LIST, dir_fd=parent)) as handle,
            os.scandir(handle) as entries,
        ):
            for entry in entries:
                if (is_folder := entry.is_dir(follow_symlinks=False)) or entry.is_file(follow_symlinks=False):
                    yield Entry(entry.name, is_folder)

    def faults(self) -> list[str]:
        """See Store."""
        found = []
        for name, root, access in (("input", self._input, os.R_OK), ("output", self._output, os.W_OK)):
            if os.fstat(root.handle).st_nlink == 0:
                found.append(f"the {name} root is gone")
            elif not os.access(".", access | os.X_OK, dir_fd=root.handle):
                found.append(f"the {name} root is not {'readable' if name == 'input' else 'writable'}")
        return found

    def sweep(self) -> int:
        """Remove the temporaries that killed processes left in the output root; how many they were.

        Those of this host whose process is gone, and those of other hosts after 24 hours.
        """
        removed = 0
        pending = [b"."]
        while pending:
            folder = pending.pop()
            with (
                suppress(OSError),
                _closing(self._descend(self._output.handle, folder)) as parent,
                _closing(os.open(b".", _LIST, dir_fd=parent)) as handle,
                os.scandir(handle) as entries,
            ):
                for entry in entries:
                    with suppress(OSError):
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(folder + b"/" + os.fsencode(entry.name))
                        elif _is_stray(entry):
                            os.unlink(entry.name, dir_fd=handle)
                            removed += 1
        return removed


def _split(below: str) -> tuple[bytes, bytes]:
    folder, _, name = below.encode(errors="surrogateescape").rpartition(b"/")
    return folder or b".", name


def _regular_size(info: os.stat_result, path: str, limit: int) -> int:
    """A regular file's bytes, if they are at most `limit`."""
    if stat.S_ISLNK(info.st_mode):
        raise errors.OutsideRoot(outside(path))
    if not stat.S_ISREG(info.st_mode):
        kind = _KINDS.get(stat.S_IFMT(info.st_mode), "a device")
        raise errors.Unreadable(f"{shown(path)}: expected a regular file, came {kind}")
    return _bounded(info.st_size, path, limit)


def _bounded(size: int, path: str, limit: int) -> int:
    if size > limit:
        raise errors.TooLarge(f"{shown(path)}: expected at most {limit} bytes (FALCONIMG_MAX_FILE), came {size}")
    return size


def _status(folder: int, name: bytes, path: str, limit: int) -> os.stat_result:
    info = os.stat(name, dir_fd=folder, follow_symlinks=False)
    _regular_size(info, path, limit)
    return info


def _read(folder: int, name: bytes, path: str, limit: int) -> bytes:
    _status(folder, name, path, limit)  # before it is opened, since opening a device can do things
    with _closing(os.open(name, _READ, dir_fd=folder)) as handle:
        size = _regular_size(os.fstat(handle), path, limit)
        data = os.read(handle, size + 1)
        if len(data) != size:  # it changed meanwhile, or is more than the system gives at once
            data = b""
            with open(handle, "rb", closefd=False) as file:
                file.seek(0)
                data = file.read(limit + 1)
    _bounded(len(data), path, limit)
    return data


def _refusal(error: OSError, path: str, written: Sequence[str] = ()) -> errors.ImageProblem:
    if error.errno in _OUTSIDE:
        return errors.OutsideRoot(outside(path), written)
    bad = error.errno in (errno.ENAMETOOLONG, errno.EILSEQ)
    kind = errors.BadName if bad else errors.NotWritten
    return kind(f"{shown(path)} could not be written: {error.strerror}", written)


@functools.lru_cache(maxsize=1)
def _owner(pid: int) -> tuple[str, str]:
    """(host, start) of this process; by its id, so that a forked child asks anew.

    A process id means something only in its boot, its pid namespace and its machine.
    """
    facts = [os.uname().nodename]
    with suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        facts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12], _started(pid)


def _started(pid: int) -> str:
    """The process's start in ticks since boot (proc_pid_stat(5), 22); "" if it is gone, "0" if not known."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return "" if fields[0] in (b"Z", b"X") else fields[19].decode()
    try:
        os.kill(pid, 0)
    except OSError as error:
        return "" if error.errno == errno.ESRCH else "0"
    return "0"


def _digest(parent: int, name: bytes) -> str | None:
    if not stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        return None
    digest = hashlib.sha256()
    with _closing(os.open(name, _READ, dir_fd=parent)) as handle:
        while piece := os.read(handle, 1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _temporary_name() -> bytes:
    pid = os.getpid()
    host, start = _owner(pid)
    return f".falconimg-{host}-{pid}-{start}-{secrets.token_hex(8)}.tmp".encode()


def _is_stray(entry: os.DirEntry[str]) -> bool:
    match = _TEMPORARY.fullmatch(entry.name)
    if not match or not entry.is_file(follow_symlinks=False):
        return False
    host, pid, start = match.groups()
    if host != _owner(os.getpid())[0]:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > FOREIGN_SECONDS
    now = _started(int(pid))
    return not now or ("0" not in (now, start) and now != start)
