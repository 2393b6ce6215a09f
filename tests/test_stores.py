"""The contract of every store, and what only a guarded directory has to promise."""

from __future__ import annotations

import ctypes
import errno
import fnmatch
import multiprocessing
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import MemoryStore

from falconimg import errors, log
from falconimg.job import IfExists
from falconimg.stores import File, Store, files, globs, paths
from falconimg.stores.files import Files
from falconimg.stores.globs import Entry, Looks
from falconimg.stores.local import Local
from falconimg.stores.memory import Memory
from falconimg.stores.objects import Objects
from tests.objects import in_moto, in_seaweedfs  # noqa: F401  (fixtures)

LIMIT = 1000
SECRET = b"outside"


def refuse_openat2(patch: pytest.MonkeyPatch, code: int = errno.ENOSYS) -> None:
    def refused(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    patch.setattr(files, "openat2", refused)


def refuse_tmpfile(patch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refused(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real(path, flags, *args, **kwargs)

    patch.setattr(os, "open", refused)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The directory that is served; `outside` beside it is not."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture(params=["openat2", "walk", "no O_TMPFILE"])
def disk(request: pytest.FixtureRequest, root: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    if request.param == "walk":
        refuse_openat2(monkeypatch)
    if request.param == "no O_TMPFILE":
        refuse_tmpfile(monkeypatch)
    return Files(root, root)


ROOTED = ["openat2", "walk", "no O_TMPFILE", "memory"]


def made(kind: str, root: Path, patch: pytest.MonkeyPatch) -> Store:
    """A store of that kind in which relative paths start at `root`."""
    if kind == "memory":
        return Memory()
    if kind == "walk":
        refuse_openat2(patch)
    if kind == "no O_TMPFILE":
        refuse_tmpfile(patch)
    if kind == "local":
        patch.chdir(root)
        return Local()
    return Files(root, root)


BUCKETS = ["objects", *(pytest.param(name, marks=pytest.mark.servers) for name in ("moto", "seaweedfs"))]


@pytest.fixture(params=ROOTED)
def rooted(request: pytest.FixtureRequest, root: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store that has nothing outside its root."""
    return made(request.param, root, monkeypatch)


@pytest.fixture(params=[*ROOTED, "local"])
def foldered(request: pytest.FixtureRequest, root: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store that has directories."""
    return made(request.param, root, monkeypatch)


@pytest.fixture(params=[*ROOTED, "local", *BUCKETS])
def store(request: pytest.FixtureRequest, root: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "objects":
        bucket = MemoryStore()
        return Objects("s3://bucket/below/", lambda: bucket)
    if request.param in ("moto", "seaweedfs"):
        found: Callable[[], Objects] = request.getfixturevalue(f"in_{request.param}")
        return found()
    return made(request.param, root, monkeypatch)


@pytest.fixture
def local(root: Path, monkeypatch: pytest.MonkeyPatch) -> Local:
    """The whole disk, seen from `root`."""
    monkeypatch.chdir(root)
    return Local()


def put(store: Store, **contents: bytes) -> None:
    assert store.publish([File(path, data) for path, data in contents.items()], "overwrite") == ()


def tree(root: Path) -> dict[str, bytes | None]:
    """Everything below `root`: bytes of regular files, None for the rest; directories left out."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in root.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def handles() -> set[str]:
    """The open handles; compare by `<=`, since those of earlier tests' stores may be collected at any time."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


# ---- the contract ----


def test_what_is_published_is_read_back(store: Store) -> None:
    assert store.publish([File("a.png", b"a"), File("b.png", b"")], "overwrite") == ()
    assert (store.read("a.png", LIMIT), store.read("b.png", LIMIT)) == (b"a", b"")


def test_missing_directories_are_made_at_every_level(store: Store) -> None:
    store.publish([File("x/y/z/a.png", b"a"), File("x/b.png", b"b")], "error")
    assert (store.read("x/y/z/a.png", LIMIT), store.read("x/b.png", LIMIT)) == (b"a", b"b")


def test_overwriting_replaces_the_bytes(store: Store) -> None:
    put(store, a=b"a longer one")
    put(store, a=b"new")
    assert store.read("a", LIMIT) == b"new"


def test_skip_leaves_what_is_there_and_names_it(store: Store) -> None:
    put(store, a=b"old")
    assert store.publish([File("a", b"new"), File("b", b"b")], "skip") == ("a",)
    assert (store.read("a", LIMIT), store.read("b", LIMIT)) == (b"old", b"b")


def test_error_writes_nothing_when_one_name_is_taken(store: Store) -> None:
    put(store, b=b"old")
    with pytest.raises(errors.Exists, match="'b'") as caught:
        store.publish([File("a", b"a"), File("b", b"new")], "error")
    assert caught.value.written == ()
    assert (store.exists("a"), store.read("b", LIMIT)) == (False, b"old")


def test_one_name_twice_is_found_with_what_was_written(store: Store) -> None:
    with pytest.raises(errors.Exists) as caught:
        store.publish([File("a", b"1"), File("b", b"2"), File("a", b"3")], "error")
    assert caught.value.written == ("a", "b")
    assert store.read("a", LIMIT) == b"1"


def test_skip_leaves_the_second_of_one_name(store: Store) -> None:
    assert store.publish([File("a", b"1"), File("./a", b"2")], "skip") == ("./a",)
    assert store.read("a", LIMIT) == b"1"


def test_a_directory_is_never_overwritten(foldered: Store) -> None:
    store = foldered
    store.publish([File("d/a", b"a")], "overwrite")
    with pytest.raises(errors.NotWritten, match="'d' could not be written: Is a directory") as caught:
        store.publish([File("b", b"b"), File("d", b"d")], "overwrite")
    assert caught.value.written == ()
    assert (store.exists("b"), store.read("d/a", LIMIT)) == (False, b"a")


@pytest.mark.parametrize("if_exists", ["overwrite", "skip", "error"])
def test_a_file_is_no_directory(foldered: Store, if_exists: IfExists) -> None:
    store = foldered
    put(store, a=b"a")
    assert store.exists("a/b") is False
    with pytest.raises(errors.NotWritten, match="'a/b' could not be written: Not a directory"):
        store.publish([File("a/b", b"b")], if_exists)
    assert store.read("a", LIMIT) == b"a"


@pytest.mark.parametrize("path", ["nothing", "no/such/directory", "a/b"])
def test_what_is_not_there_is_missing(store: Store, path: str) -> None:
    put(store, a=b"a")
    with pytest.raises(errors.Missing, match=path):
        store.read(path, LIMIT)
    assert store.check_input(path).endswith(f"/{path}")


def test_a_directory_is_unreadable_and_exists(foldered: Store) -> None:
    store = foldered
    store.publish([File("d/a", b"a")], "overwrite")
    with pytest.raises(errors.Unreadable, match="'d': expected a regular file, came a directory"):
        store.read("d", LIMIT)
    assert store.exists("d") is True


def test_the_digest_is_that_of_the_bytes_that_are_there(store: Store) -> None:
    assert store.digest("d/a") is None
    store.publish([File("d/a", b"abc")], "overwrite")
    assert store.digest("d/a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4


def test_a_version_is_the_files_and_another_for_another(store: Store) -> None:
    put(store, a=b"one")
    first = store.version("a", LIMIT)
    assert store.version("a", LIMIT) == first
    time.sleep(0.01)
    put(store, a=b"two")
    assert store.version("a", LIMIT) != first


def test_a_file_of_the_limit_is_read_and_a_byte_more_is_too_large(store: Store) -> None:
    put(store, a=bytes(LIMIT), b=bytes(LIMIT + 1))
    assert store.read("a", LIMIT) == bytes(LIMIT)
    with pytest.raises(errors.TooLarge, match=r"at most 1000 bytes \(FALCONIMG_MAX_FILE\), came 1001"):
        store.read("b", LIMIT)


def test_the_canonical_name_is_one_for_each_file_and_is_a_path_itself(store: Store) -> None:
    name = store.check_input("d/a")
    assert name.endswith("/d/a")
    assert {store.check_input("./d/a"), store.check_output("d/a"), store.check_output(name)} == {name}
    assert store.check_input("d/b") != name
    store.publish([File(name, b"a")], "error")
    assert (store.read("d/a", LIMIT), store.read(name, LIMIT), store.exists(name)) == (b"a", b"a", True)


def test_below_the_root_a_path_is_one_for_each_file(rooted: Store) -> None:
    assert {rooted.below_root(path) for path in ("d/a", "./d/a", rooted.check_input("d/a"))} == {"d/a"}
    with pytest.raises(errors.Forbidden):
        rooted.below_root("../a")


def test_a_store_that_can_work_has_no_faults(store: Store) -> None:
    assert store.faults() == []


MALFORMED = {
    "": "4096 bytes",
    "a\0b": "no NUL",
    "\0": "no NUL",
    "a\udcff": "UTF-8",
    "a//b": "empty",
    "a/": "empty",
    ".//a": "empty",
    "/": "empty",
    ".": "'.'",
    "a/./b": "'.'",
    "././a": "'.'",
    "a/.": "'.'",
    "x" * 256: "255 bytes",
    "é" * 128: "255 bytes",
    "a/" * 2048 + "a": "4096 bytes",
}
LONGEST = f"{'y' * 255}/" * 15 + "z/" + "z" * 254
OUTSIDE = ["..", "../a", "a/..", "a/../b", "./../a", "/../a", "a//..", "../" * 400 + "etc/passwd"]


@pytest.mark.parametrize(("path", "why"), MALFORMED.items())
def test_a_malformed_path_is_refused_everywhere(rooted: Store, path: str, why: str) -> None:
    for check in (rooted.check_input, rooted.check_output):
        with pytest.raises(errors.InvalidRequest, match=why):
            check(path)
    with pytest.raises(errors.Unreadable, match=why):
        rooted.read(path, LIMIT)
    with pytest.raises(errors.BadName, match=why):
        rooted.exists(path)
    with pytest.raises(errors.BadName, match=why) as caught:
        rooted.publish([File("a", b"a"), File(path, b"b")], "overwrite")
    assert caught.value.written == ()
    assert rooted.exists("a") is False


def check_refused_as_outside(store: Store, path: str) -> None:
    """Every method refuses it, in the one sentence that says nothing else."""
    problems: list[errors.Problem] = []
    for check in (store.check_input, store.check_output):
        with pytest.raises(errors.Forbidden) as refused:
            check(path)
        problems.append(refused.value)
    for act in (
        lambda: store.read(path, LIMIT),
        lambda: store.exists(path),
        lambda: store.publish([File("new", b"new"), File(path, b"evil")], "overwrite"),
        lambda: store.publish([File("new", b"new"), File(path, b"evil")], "error"),
    ):
        with pytest.raises(errors.OutsideRoot) as caught:
            act()
        assert caught.value.written == ()
        problems.append(caught.value)
    assert {problem.detail for problem in problems} == {paths.outside(path)}
    assert store.exists("new") is False


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_that_climbs_is_outside_everywhere(rooted: Store, path: str) -> None:
    check_refused_as_outside(rooted, path)


def test_names_of_the_longest_allowed_length_work(foldered: Store) -> None:
    store = foldered
    for path in (
        "é" * 127 + "x",
        "d/" + "x" * 255,
        "y" * 255 + "/" + "z" * 255,
        LONGEST,
        " \n\t'\"\\*?{}",
        "...",
        ".hidden/.a",
    ):
        store.publish([File(path, path.encode())], "error")
        assert store.read(path, 10_000) == path.encode()


def test_messages_are_short_and_hold_no_control_characters(rooted: Store) -> None:
    for path in ("../\n\r\x1b[2J\u202e" + "x" * 9000, "\x07" * 5000, "../" + "\x00" * 90):
        with pytest.raises(errors.RequestProblem) as caught:
            rooted.check_input(path)
        assert len(caught.value.detail) < 200
        assert caught.value.detail.isprintable()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("http://host/a.jpg?X-Amz-Signature=SECRET", "http://host/a.jpg?..."),
        ("HTTPS://me:SECRET@host:8080/@x/a@2x.png?a=b?\nSECRET", "HTTPS://...@host:8080/@x/a@2x.png?..."),
        ("ftp://SECRET@host/a.png", "ftp://...@host/a.png"),
        ("http://host/a@2x.png", "http://host/a@2x.png"),
        ("s3://bucket/what?.png", "s3://bucket/what?.png"),
        ("what?.png", "what?.png"),
    ],
)
def test_messages_hold_no_user_or_query_of_an_address(path: str, said: str) -> None:
    assert log.redacted(path) == said
    assert paths.shown(path) == repr(said)


def test_threads_publish_and_read_side_by_side(store: Store) -> None:
    faults: list[object] = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                data = bytes([number]) * 500
                store.publish([File("same/a", data), File(f"own/{number}/{turn}", data)], "overwrite")
                if store.read(f"own/{number}/{turn}", LIMIT) != data or len(set(store.read("same/a", LIMIT))) != 1:
                    faults.append(number)
        except errors.Problem as problem:
            faults.append(problem)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


# ---- patterns ----


TREE = [
    "in/a.jpg", "in/b.JPG", "in/c.png", "in/.hidden.jpg", "in/.dir/d.jpg", "in/x/e.jpg", "in/x/y/f.jpg",
    "in/x/y/.g.jpg", "in/x10/h.jpg", "in/a[1].jpg", "in/a*.jpg", "top.jpg",
]  # fmt: skip


def found(store: Store, pattern: str, most: int = 100) -> list[str]:
    return [path for path, _ in store.find(pattern, most, Looks(1000))]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["top.jpg"]),
        ("in/*.jpg", ["in/a*.jpg", "in/a.jpg", "in/a[1].jpg"]),
        ("in/*.[jJ][pP][gG]", ["in/a*.jpg", "in/a.jpg", "in/a[1].jpg", "in/b.JPG"]),
        ("in/?.*", ["in/a.jpg", "in/b.JPG", "in/c.png"]),
        ("in/[!a].*", ["in/b.JPG", "in/c.png"]),
        ("in/[b-c].*", ["in/b.JPG", "in/c.png"]),
        ("in/a[[]1].jpg", ["in/a[1].jpg"]),
        ("in/a[*].jpg", ["in/a*.jpg"]),
        ("in/*/*.jpg", ["in/x/e.jpg", "in/x10/h.jpg"]),
        ("in/x*/*.jpg", ["in/x/e.jpg", "in/x10/h.jpg"]),
        ("in/x/**/*.jpg", ["in/x/e.jpg", "in/x/y/f.jpg"]),
        ("in/x/**", ["in/x/e.jpg", "in/x/y/f.jpg"]),
        ("**/f.jpg", ["in/x/y/f.jpg"]),
        ("**/in/**/y/**/f.jpg", ["in/x/y/f.jpg"]),
        ("**/**/**/**/top.jpg", ["top.jpg"]),
        ("**/x/*", ["in/x/e.jpg"]),
        ("in/x**/*.jpg", ["in/x/e.jpg", "in/x10/h.jpg"]),
        ("in/.*.jpg", ["in/.hidden.jpg"]),
        ("in/.*/*.jpg", ["in/.dir/d.jpg"]),
        ("in/**/.g*", ["in/x/y/.g.jpg"]),
        ("./in/x/y/*", ["in/x/y/f.jpg"]),
        ("in/a.jpg", ["in/a.jpg"]),
        ("in/x", []),
        ("in/x*", []),
        ("in/a.jpg/*", []),
        ("no/such/**/*.jpg", []),
        ("in/[.]hidden.jpg", []),
        ("in/[", []),
        ("in/*.jpg/**", []),
    ],
)
def test_a_pattern_finds_what_a_shell_would_in_order(store: Store, pattern: str, expected: list[str]) -> None:
    for path in TREE:
        store.publish([File(path, b"")], "error")
    assert [path.removeprefix("./") for path in found(store, pattern)] == expected


def test_what_is_found_is_told_from_the_fixed_directories_on(store: Store) -> None:
    for path in TREE:
        store.publish([File(path, b"")], "error")
    for pattern, below in (
        ("in/x/**/*.jpg", ["e.jpg", "y/f.jpg"]),
        ("in/x*/e*", ["x/e.jpg"]),
        ("to?.jpg", ["top.jpg"]),
    ):
        assert [name for _, name in store.find(pattern, 10, Looks(1000))] == below


def test_what_is_found_is_a_path_of_the_store(store: Store) -> None:
    put(store, **{"in/x/a": b"a"})
    for pattern in ("in/*/a", "./in/x/?", store.check_input("in/x/a").replace("/x/", "/*/")):
        ((path, below),) = store.find(pattern, 10, Looks(1000))
        assert (store.read(path, LIMIT), below in ("a", "x/a")) == (b"a", True)


def test_more_files_than_wanted_are_told_by_one_more(store: Store) -> None:
    for number in range(9):
        put(store, **{f"in/{number}": b""})
    assert [len(found(store, "in/*", most)) for most in (0, 3, 8, 9)] == [1, 4, 9, 9]


def test_a_search_ends_when_it_has_compared_too_much(store: Store) -> None:
    for number in range(9):
        put(store, **{f"in/{number}/a": b""})
    store.find("in/*/a", 100, Looks(18))
    looks = Looks(30)
    with pytest.raises(errors.InvalidRequest, match="at most 30 comparisons of names"):
        store.find("**/**/**/nothing", 100, looks)
    with pytest.raises(errors.InvalidRequest):
        store.find("in/*", 100, looks)


@given(st.text("ab*?[]!-^&|~.\\", min_size=1, max_size=10))
def test_a_component_matches_as_fnmatch_does_and_never_warns(component: str) -> None:
    names = ["a", "b", "ab", "a-b", "[a]", "!", "^", "&&", "a]", ".a", "\\"]
    expected = [name for name in names if fnmatch.fnmatchcase(name, component)]
    if not component.startswith("."):
        expected = [name for name in expected if not name.startswith(".")]
    if component != "**":
        listed = [Entry(name, False) for name in names]
        assert [path for path, _ in globs.find(f"x/{component}", 99, Looks(99), lambda _: listed)] == sorted(
            f"x/{name}" for name in expected
        )


def test_a_hostile_component_is_compared_quickly() -> None:
    listed = [Entry("a" * 255, False)] * 100
    begun = time.process_time()
    assert globs.find("*a" * 120 + "b", 99, Looks(1000), lambda _: listed) == []
    assert time.process_time() - begun < 1


def test_a_search_follows_no_link_and_leaves_no_handle(disk: Files, root: Path) -> None:
    put(disk, **{"in/a": b"", "in/x/b": b""})
    (root / "in" / "link").symlink_to("a")
    (root / "in" / "way").symlink_to(root.parent / "outside")
    (root / "in" / "x" / "up").symlink_to("..")
    os.mkfifo(root / "in" / "pipe")
    before = handles()
    assert found(disk, "in/**") == ["in/a", "in/x/b"]
    assert found(disk, "in/*/secret") == []
    for pattern in ("in/way/*", "../outside/*", "/etc/*", "in/../../outside/*", f"{root}/../outside/*"):
        with pytest.raises(errors.Forbidden):
            disk.find(pattern, 10, Looks(1000))
    for pattern in ("in//*", "in/./*", "in/*/", "*\0"):
        with pytest.raises(errors.InvalidRequest):
            disk.find(pattern, 10, Looks(1000))
    assert handles() <= before


def test_what_cannot_be_looked_through_is_said(disk: Files, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(disk, **{"in/a": b""})

    def refused(_: object) -> object:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(errors.InvalidRequest, match="Too many open files"):
        disk.find("in/*", 10, Looks(1000))


# ---- the whole disk ----


def test_any_path_is_taken_and_links_are_followed(local: Local, root: Path) -> None:
    (root / "d").symlink_to("../outside")
    for path in ("../outside/secret", "d/secret", f"{root}//./../outside/secret", "d/../outside/secret"):
        assert local.read(path, LIMIT) == SECRET
        assert local.size(path, LIMIT) == len(SECRET)
        assert local.check_input(path) == local.check_output(path) == f"{root.parent}/outside/secret"
    local.publish([File("d/new/a", b"a"), File("../b", b"b")], "error")
    assert (root.parent / "outside" / "new" / "a").read_bytes() == b"a"
    assert (root.parent / "b").read_bytes() == b"b"


@pytest.mark.parametrize("path", ["", "a\0b", "a/", "/"])
def test_what_is_no_file_s_path_is_refused_everywhere(local: Local, root: Path, path: str) -> None:
    (root / "a").mkdir()
    for check in (local.check_input, local.check_output, local.below_root):
        with pytest.raises(errors.InvalidRequest):
            check(path)
    with pytest.raises(errors.Unreadable):
        local.read(path, LIMIT)
    with pytest.raises(errors.BadName):
        local.publish([File(path, b"")], "overwrite")


def test_an_output_that_is_a_link_is_written_where_it_leads_and_stays(local: Local, root: Path) -> None:
    (root / "old").write_bytes(b"old")
    (root / "old").chmod(0o640)
    (root / "link").symlink_to("old")
    (root / "dangling").symlink_to("../outside/new")
    assert local.exists("link") is True
    assert local.publish([File("link", b"x")], "skip") == ("link",)
    with pytest.raises(errors.Exists):
        local.publish([File("link", b"x")], "error")
    assert local.publish([File("link", b"new"), File("dangling", b"d")], "overwrite") == ()
    assert (root / "link").is_symlink()
    assert (root / "old").read_bytes() == b"new"
    assert stat.S_IMODE((root / "old").stat().st_mode) == 0o640
    assert (root.parent / "outside" / "new").read_bytes() == b"d"


def test_a_link_that_leads_to_itself_fails_alone(local: Local, root: Path) -> None:
    (root / "loop").symlink_to("loop")
    local.check_input("loop")
    with pytest.raises(errors.OutsideRoot):
        local.read("loop", LIMIT)
    put(local, a=b"a")
    assert found(local, "*") == ["a"]


def test_names_that_are_not_utf_8_work(local: Local, root: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    local.publish([File(f"in/{name}", b"a")], "error")
    assert os.listdir(bytes(root / "in")) == [b"caf\xe9.jpg"]  # noqa: PTH208
    assert found(local, "in/*") == [f"in/{name}"]
    assert local.read(f"in/{name}", LIMIT) == b"a"
    assert local.below_root(f"in/{name}") == f"in/{name}"


def test_a_template_sees_a_path_from_the_nearest_base(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    local = Local(bases=("../photos/", "in"))
    for path, below in {
        "a.jpg": "a.jpg", "x/a.jpg": "x/a.jpg", f"{root}/x/a.jpg": "x/a.jpg", "in/x/a.jpg": "x/a.jpg",
        "../photos/x/a.jpg": "x/a.jpg", "../photos2/a.jpg": f"{root.parent}/photos2/a.jpg"[1:],
        "inner/a.jpg": "inner/a.jpg",
    }.items():  # fmt: skip
        assert local.below_root(path) == below


def test_a_search_of_the_disk_follows_links_but_not_for_ever(local: Local, root: Path) -> None:
    put(local, **{"in/a": b"", "in/x/b": b""})
    (root / "in" / "link").symlink_to("a")
    (root / "in" / "way").symlink_to("../../outside")
    (root / "in" / "x" / "up").symlink_to("..")
    (root / "in" / "nowhere").symlink_to("nothing")
    os.mkfifo(root / "in" / "pipe")
    assert found(local, "in/**") == ["in/a", "in/link", "in/x/b"]
    assert found(local, "in/*/secret") == ["in/way/secret"]
    assert found(local, "../out*/*") == ["../outside/secret"]
    assert found(local, f"{root}/in/?") == [f"{root}/in/a"]


def test_a_failed_write_of_the_disk_leaves_nothing(local: Local, root: Path) -> None:
    (root / "d").mkdir()
    with pytest.raises(errors.NotWritten):
        local.publish([File("a", b"a"), File("d", b"d")], "overwrite")
    assert [path.name for path in root.iterdir()] == ["d"]


def test_where_a_directory_cannot_be_synced_its_files_are_written_all_the_same(
    local: Local, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def refused(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(handle)

    monkeypatch.setattr(os, "fsync", refused)
    put(local, **{"x/a": b"a"})
    assert tree(root) == {"x/a": b"a"}
    with pytest.raises(errors.NotWritten):
        Files(root, root).publish([File("y/a", b"a")], "overwrite")


def test_memory_gives_its_files_and_keeps_its_own_copy() -> None:
    memory = Memory({"./in/a": b"a"})
    memory.put("b", b"b")
    memory.files["c"] = b"c"
    assert memory.files == {"in/a": b"a", "b": b"b"}


@given(st.text("ab./\0\n\udcffé", max_size=12))
def test_an_accepted_path_has_only_plain_components(path: str) -> None:
    try:
        below = paths.relative(path, "/ab", "/a/b")
    except errors.RequestProblem:
        return
    assert not {"", ".", ".."} & set(below.split("/"))
    assert "\0" not in below
    assert paths.relative(f"/ab/{below}", "/ab") == paths.relative(below) == below


# ---- absolute paths and roots ----


def test_an_absolute_path_inside_is_taken_by_either_name_of_the_root(root: Path) -> None:
    (root.parent / "alias").symlink_to(root)
    (root / "a").write_bytes(b"a")
    store = Files(root.parent / "alias", root.parent / "alias")
    assert (store.input_root, store.output_root) == (root, root)
    for path in ("a", f"{root}/a", f"{root.parent}/alias/a"):
        assert store.check_input(path) == f"{root}/a"
        assert store.read(path, LIMIT) == b"a"


@pytest.mark.parametrize("path", ["{}-private/a", "{}private", "{}/../outside/secret", "/etc/passwd", "/a", "{}/.."])
def test_an_absolute_path_elsewhere_is_outside(disk: Files, root: Path, path: str) -> None:
    (root.parent / "data-private").mkdir()
    (root.parent / "data-private" / "a").write_bytes(SECRET)
    check_refused_as_outside(disk, path.format(root))


def test_the_root_itself_is_no_file(disk: Files, root: Path) -> None:
    for path in (f"{root}", f"{root}/"):
        with pytest.raises(errors.InvalidRequest):
            disk.check_output(path)


def test_a_relative_root_is_where_it_was_at_the_start(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    store = Files(Path("data"), Path("data"))
    monkeypatch.chdir("/")
    store.publish([File("a", b"a"), File(f"{root}/b", b"b")], "error")
    assert tree(root) == {"a": b"a", "b": b"b"}


def test_one_file_under_nested_roots_has_one_canonical_name(root: Path) -> None:
    (root / "out").mkdir()
    store = Files(root, root / "out")
    assert store.check_input("out/a") == store.check_output("a") == f"{root}/out/a"
    with pytest.raises(errors.Forbidden):
        store.check_output(f"{root}/a")


def test_the_whole_disk_may_be_the_root(root: Path) -> None:
    store = Files(Path("/"), Path("/"))
    assert store.read(f"{root.parent}/outside/secret".removeprefix("/"), LIMIT) == SECRET
    assert store.check_input(f"{root}/a") == f"{root}/a"


def test_messages_never_name_the_root(disk: Files, root: Path) -> None:
    (root / "d").mkdir()
    acts: list[Callable[[], object]] = [
        lambda: disk.check_input("../a"),
        lambda: disk.check_input("/etc/passwd"),
        lambda: disk.read("a", LIMIT),
        lambda: disk.read("d", LIMIT),
        lambda: disk.publish([File("d", b"")], "overwrite"),
        lambda: disk.publish([File("d", b"")], "error"),
    ]
    for act in acts:
        with pytest.raises(errors.Problem) as caught:
            act()
        assert str(root.parent) not in caught.value.detail


def test_a_root_that_is_missing_or_a_file_is_an_error_at_the_start(root: Path) -> None:
    (root / "file").write_bytes(b"")
    for wrong in (root / "missing", root / "file"):
        with pytest.raises(OSError, match=wrong.name):
            Files(wrong, root)


def test_a_root_that_is_gone_is_a_fault(root: Path) -> None:
    (root / "out").mkdir()
    store = Files(root, root / "out")
    (root / "out").rmdir()
    assert store.faults() == ["the output root is gone"]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM])
def test_without_openat2_it_walks(root: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    steps: list[bytes] = []
    real = files.walk

    def spy(handle: int, folder: bytes) -> int:
        steps.append(folder)
        return real(handle, folder)

    monkeypatch.setattr(files, "walk", spy)
    Files(root, root).exists("x/a")
    assert steps == []
    refuse_openat2(monkeypatch, code)
    Files(root, root).exists("x/a")
    assert steps == [b"x"]


def test_openat2_tries_again_but_not_for_ever(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class Busy:
        def syscall(self, *_: object) -> int:
            calls.append(1)
            ctypes.set_errno(errno.EAGAIN)
            return -1

    store = Files(root, root)
    monkeypatch.setattr(files, "_LIBC", Busy())
    with pytest.raises(errors.Unreadable, match="temporarily unavailable"):
        store.read("a", LIMIT)
    assert 1 < len(calls) < 100


# ---- symbolic links ----


@pytest.mark.parametrize(
    "target", ["../outside", "{}/../outside", "real", "{}/real", "nowhere", "link", "/proc/self/root"]
)
def test_a_directory_that_is_a_symbolic_link_is_outside(disk: Files, root: Path, target: str) -> None:
    (root / "real").mkdir()
    (root / "real" / "secret").write_bytes(b"inside")
    (root / "link").symlink_to(target.format(root))
    for path in ("link/secret", "link/missing", "link/new/a"):
        check_refused_as_outside(disk, path)
    assert (root.parent / "outside" / "secret").read_bytes() == SECRET
    assert os.listdir(root.parent / "outside") == ["secret"]  # noqa: PTH208


def test_a_link_further_down_is_outside_too(disk: Files, root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "link").symlink_to(root.parent / "outside")
    for path in ("a/b/link/secret", "a/b/link/x/y/z"):
        check_refused_as_outside(disk, path)


@pytest.mark.parametrize("target", ["../outside/secret", "inside", "nowhere", "link", "/dev/zero"])
def test_an_input_that_is_a_symbolic_link_is_outside(disk: Files, root: Path, target: str) -> None:
    (root / "inside").write_bytes(b"inside")
    (root / "link").symlink_to(target)
    with pytest.raises(errors.Forbidden) as refused:
        disk.check_input("link")
    with pytest.raises(errors.OutsideRoot) as caught:
        disk.read("link", LIMIT)
    assert refused.value.detail == caught.value.detail == paths.outside("link")


def test_magic_links_are_outside(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for guard in ("openat2", "walk"):
        if guard == "walk":
            refuse_openat2(monkeypatch)
        store = Files(Path("/proc"), root)
        for path in ("{}/root/etc/passwd", "{}/cwd/pyproject.toml", "{}/exe", "{}/fd/0", "self/status"):
            with pytest.raises(errors.Forbidden):
                store.check_input(path.format(os.getpid()))
            with pytest.raises(errors.OutsideRoot):
                store.read(path.format(os.getpid()), LIMIT)


@pytest.mark.parametrize("target", ["../outside/secret", "nowhere", "../outside"])
def test_an_output_that_is_a_symbolic_link_is_replaced_as_a_name(disk: Files, root: Path, target: str) -> None:
    (root / "link").symlink_to(target)
    assert disk.check_output("link") == f"{root}/link"
    assert disk.exists("link") is True
    with pytest.raises(errors.Exists):
        disk.publish([File("link", b"new")], "error")
    assert disk.publish([File("link", b"new")], "skip") == ("link",)
    assert (root / "link").is_symlink()
    disk.publish([File("link", b"new")], "overwrite")
    assert tree(root) == {"link": b"new"}
    assert tree(root.parent / "outside") == {"secret": SECRET}


def swap(one: Path, other: Path, stop: threading.Event) -> None:
    """Exchange two names as fast as can be (renameat2's RENAME_EXCHANGE)."""
    libc = ctypes.CDLL(None, use_errno=True)
    while not stop.is_set():
        assert libc.renameat2(-100, bytes(one), -100, bytes(other), 2) == 0


@pytest.fixture(params=["openat2", "walk"])
def raced(request: pytest.FixtureRequest, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    """A store in which `d/e` turns, all the time, from a directory into a link to the outside and back."""
    if request.param == "walk":
        refuse_openat2(monkeypatch)
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "e" / "secret").write_bytes(b"inside")
    (root / "d" / "link").symlink_to(root.parent / "outside")
    stop = threading.Event()
    thread = threading.Thread(target=swap, args=(root / "d" / "e", root / "d" / "link", stop))
    thread.start()
    yield Files(root, root, fsync=False)
    stop.set()
    thread.join()


def test_no_race_is_won_in_reading(raced: Files) -> None:
    seen: dict[object, int] = {}
    end = time.monotonic() + 2
    while time.monotonic() < end:
        try:
            result: object = raced.read("d/e/secret", LIMIT)
        except errors.OutsideRoot:
            result = errors.OutsideRoot
        seen[result] = seen.get(result, 0) + 1
    assert set(seen) == {b"inside", errors.OutsideRoot}
    assert min(seen.values()) > 10


def test_no_race_is_won_in_writing(raced: Files, root: Path) -> None:
    done = failed = 0
    end = time.monotonic() + 2
    modes: list[IfExists] = ["overwrite", "skip", "error"]
    while time.monotonic() < end:
        number = done + failed
        try:
            raced.publish([File(f"d/e/{number}", b"x"), File(f"d/e/new{number}/y", b"x")], modes[number % 3])
            done += 1
        except errors.OutsideRoot:
            failed += 1
        assert os.listdir(root.parent / "outside") == ["secret"]  # noqa: PTH208
    assert min(done, failed) > 10


# ---- what is no regular file ----


@pytest.mark.parametrize("kind", ["FIFO", "socket", "directory", "device"])
def test_what_is_no_file_is_unreadable_at_once(disk: Files, root: Path, kind: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "FIFO":
            os.mkfifo(root / "it")
        elif kind == "socket":
            listener.bind(str(root / "it"))
        elif kind == "directory":
            (root / "it").mkdir()
    store = Files(Path("/dev"), root) if kind == "device" else disk
    start = time.monotonic()
    with pytest.raises(errors.Unreadable, match=f"expected a regular file, came a {kind}"):
        store.read("zero" if kind == "device" else "it", LIMIT)
    assert time.monotonic() - start < 0.1


def test_directories_whose_sync_failed_are_synced_the_next_time(
    disk: Files, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, synced, broken = os.fsync, list[str](), [True]

    def fsync(handle: int) -> None:
        name = Path(f"/proc/self/fd/{handle}").readlink().name
        if name == root.name and broken:
            raise OSError(errno.EIO, "broken")
        synced.append(name)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(errors.NotWritten):
        disk.publish([File("new/a", b"a")], "overwrite")
    broken.clear()
    disk.publish([File("new/a", b"a")], "overwrite")
    assert root.name in synced
    synced.clear()
    disk.publish([File("new/b", b"b")], "overwrite")
    assert root.name not in synced  # once is enough
    shutil.rmtree(root / "new")
    disk.publish([File("new/a", b"a")], "overwrite")
    assert root.name in synced  # though it may have the inode of the one before


@pytest.mark.parametrize("kind", ["link", "directory"])
def test_what_turns_from_a_file_into_something_else_is_not_read(
    disk: Files, root: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "it").write_bytes(b"a file")
    regular = (root / "it").stat()
    (root / "it").unlink()
    if kind == "link":
        (root / "it").symlink_to("../outside/secret")
    else:
        (root / "it").mkdir()
    monkeypatch.setattr(os, "stat", lambda *_, **__: regular)
    before = handles()
    with pytest.raises((errors.Unreadable, errors.OutsideRoot)):
        disk.read("it", LIMIT)
    assert handles() <= before


def test_a_sparse_terabyte_is_refused_unread(disk: Files, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (root / "huge").open("wb") as file:
        file.truncate(10**12)
    monkeypatch.setattr("builtins.open", None)
    monkeypatch.setattr(os, "read", None)
    start = time.monotonic()
    with pytest.raises(errors.TooLarge, match=f"came {10**12}"):
        disk.read("huge", 200 * 10**6)
    assert time.monotonic() - start < 0.1


@pytest.mark.parametrize(("grown", "whole"), [(LIMIT, True), (LIMIT + 1, False), (10**6, False)])
def test_a_file_that_grows_is_read_to_the_limit(
    disk: Files, root: Path, monkeypatch: pytest.MonkeyPatch, grown: int, whole: bool
) -> None:
    (root / "a").write_bytes(b"1")
    real = os.fstat

    def grow(handle: int) -> os.stat_result:
        info = real(handle)
        if stat.S_ISREG(info.st_mode):
            (root / "a").write_bytes(bytes(grown))
        return info

    monkeypatch.setattr(os, "fstat", grow)
    if whole:
        assert disk.read("a", LIMIT) == bytes(grown)
    else:
        with pytest.raises(errors.TooLarge, match="came 1001"):
            disk.read("a", LIMIT)


def test_a_file_of_which_the_system_gives_a_part_at_once_is_read_whole(
    disk: Files, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytes(range(250)) * 3
    (root / "a").write_bytes(data)
    real = os.read
    monkeypatch.setattr(os, "read", lambda handle, size: real(handle, min(size, 100)))
    assert disk.read("a", LIMIT) == data


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ENXIO])
def test_a_file_that_cannot_be_opened_is_unreadable(
    disk: Files, root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    (root / "a").write_bytes(b"a")
    real = os.open

    def refused(path: Any, *args: Any, **kwargs: Any) -> int:
        if path == b"a":
            raise OSError(code, os.strerror(code))
        return real(path, *args, **kwargs)

    before = handles()
    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(errors.Unreadable, match=re.escape(f"'a' could not be read: {os.strerror(code)}")):
        disk.read("a", LIMIT)
    assert handles() <= before


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_a_check_leaves_other_faults_to_the_image_in_its_turn(
    disk: Files, root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(*_: object, **__: object) -> os.stat_result:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "stat", refused)
    assert disk.check_input("a") == disk.check_output("a") == f"{root}/a"
    with pytest.raises(errors.NotWritten, match=os.strerror(code)):
        disk.exists("a")


# ---- publishing ----


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o444, 0o000, 0o777, 0o4755])
def test_an_overwritten_file_keeps_its_mode_but_not_its_owner_s_powers(disk: Files, root: Path, mode: int) -> None:
    (root / "a").write_bytes(b"old")
    (root / "a").chmod(mode)
    disk.publish([File("a", b"new")], "overwrite")
    assert stat.S_IMODE((root / "a").stat().st_mode) == mode & 0o777
    (root / "a").chmod(0o600)
    assert (root / "a").read_bytes() == b"new"


def test_the_data_of_a_private_file_is_private_from_the_start(
    disk: Files, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "a").write_bytes(b"old")
    (root / "a").chmod(0o600)
    seen: list[int] = []
    real = os.fchmod

    def look(handle: int, mode: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(handle).st_mode))
        real(handle, mode)

    monkeypatch.setattr(os, "fchmod", look)
    disk.publish([File("a", b"new")], "overwrite")
    assert seen == [0o600]


@pytest.mark.parametrize("if_exists", ["overwrite", "skip", "error"])
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_gets_the_umask_s_mode(disk: Files, root: Path, umask: int, if_exists: IfExists) -> None:
    old = os.umask(umask)
    try:
        disk.publish([File("d/a", b"new")], if_exists)
    finally:
        os.umask(old)
    assert stat.S_IMODE((root / "d" / "a").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o777 & ~umask
    assert (root / "d" / "a").stat().st_nlink == 1


def test_a_fifo_at_an_output_is_replaced_at_once(disk: Files, root: Path) -> None:
    os.mkfifo(root / "it")
    disk.publish([File("it", b"new")], "overwrite")
    assert tree(root) == {"it": b"new"}


def inject(patch: pytest.MonkeyPatch, name: str, code: int, nth: int) -> None:
    """The `nth` call of os.`name` fails with `code`."""
    real = getattr(os, name)
    calls: list[int] = []

    def injected(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == nth:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    patch.setattr(os, name, injected)


@pytest.mark.parametrize("if_exists", ["overwrite", "skip", "error"])
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("write", errno.ENOSPC),
        ("write", errno.EDQUOT),
        ("fsync", errno.EIO),
        ("mkdir", errno.EROFS),
        ("mkdir", errno.EACCES),
    ],
)
def test_a_failed_write_leaves_everything_as_it_was(
    disk: Files, root: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int, if_exists: IfExists
) -> None:
    if if_exists == "overwrite":
        put(disk, a=b"old a", b=b"old b")
    before, opened = tree(root), handles()
    inject(monkeypatch, name, code, nth=2)
    with pytest.raises(errors.NotWritten, match=re.escape(f"could not be written: {os.strerror(code)}")) as caught:
        disk.publish([File("a", b"new a"), File("b", b"new b"), File("x/y/c", b"c")], if_exists)
    assert caught.value.written == ()
    assert tree(root) == before
    assert handles() <= opened


def test_short_writes_are_carried_on(disk: Files, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, bytes(data[:3])))
    disk.publish([File("a", b"0123456789")], "overwrite")
    assert tree(root) == {"a": b"0123456789"}


@pytest.mark.parametrize("code", [errno.EIO, errno.EDQUOT, errno.ENOSPC])
def test_a_failed_rename_tells_what_is_in_place(
    disk: Files, root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    put(disk, b=b"old b")
    inject(monkeypatch, "rename", code, nth=2)
    with pytest.raises(errors.NotWritten, match=f"'b' could not be written: {os.strerror(code)}") as caught:
        disk.publish([File("./a", b"a"), File("b", b"new"), File("c", b"c")], "overwrite")
    assert caught.value.written == ("./a",)
    assert tree(root) == {"a": b"a", "b": b"old b"}


def test_a_failed_sync_of_a_directory_tells_that_all_is_in_place(
    disk: Files, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(monkeypatch, "fsync", errno.EIO, nth=3)
    with pytest.raises(errors.NotWritten) as caught:
        disk.publish([File("a", b"a"), File("b", b"b")], "overwrite")
    assert caught.value.written == ("a", "b")
    assert tree(root) == {"a": b"a", "b": b"b"}


def taken_meanwhile(patch: pytest.MonkeyPatch, path: Path) -> None:
    """Somebody else makes `path` when all names were checked and the data is being written."""
    real = os.write

    def late(handle: int, data: bytes) -> int:
        path.write_bytes(b"theirs")
        return real(handle, data)

    patch.setattr(os, "write", late)


def test_error_never_overwrites_what_comes_meanwhile(disk: Files, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken_meanwhile(monkeypatch, root / "b")
    with pytest.raises(errors.Exists, match="'b'") as caught:
        disk.publish([File("a", b"a"), File("b", b"b"), File("c", b"c")], "error")
    assert caught.value.written == ("a",)
    assert tree(root) == {"a": b"a", "b": b"theirs"}


def test_skip_never_overwrites_what_comes_meanwhile(disk: Files, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken_meanwhile(monkeypatch, root / "b")
    assert disk.publish([File("a", b"a"), File("b", b"b"), File("c", b"c")], "skip") == ("b",)
    assert tree(root) == {"a": b"a", "b": b"theirs", "c": b"c"}


@pytest.mark.parametrize("if_exists", ["overwrite", "skip", "error"])
def test_a_temporary_that_somebody_replaces_by_a_link_brings_nothing_in(
    disk: Files, root: Path, monkeypatch: pytest.MonkeyPatch, if_exists: IfExists
) -> None:
    real = os.fsync

    def replace(handle: int) -> None:
        for path in root.glob(".falconimg-*"):
            path.unlink()
            path.symlink_to("../outside/secret")
        real(handle)

    monkeypatch.setattr(os, "fsync", replace)
    disk.publish([File("a", b"a"), File("b", b"b")], if_exists)
    assert (root.parent / "outside" / "secret").stat().st_nlink == 1
    with pytest.raises(errors.OutsideRoot):
        disk.read("a", LIMIT)


def test_a_name_too_long_for_the_file_system_is_a_bad_name(disk: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    inject(monkeypatch, "rename", errno.ENAMETOOLONG, nth=1)
    with pytest.raises(errors.BadName, match="File name too long"):
        disk.publish([File("a", b"a")], "overwrite")


def test_whatever_stops_it_leaves_no_temporary(disk: Files, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    before = handles()
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        disk.publish([File("a", b"a")], "overwrite")
    assert tree(root) == {}
    assert handles() <= before


def test_no_handle_is_left_open(disk: Files, root: Path) -> None:
    (root / "link").symlink_to("../outside")
    (root / "file").write_bytes(b"")
    before = handles()
    for path in ("a", "x/y/a", "link/a", "link", "file/a", "../a", "x"):
        for act in (
            lambda path: disk.publish([File(f"d{n}/a", b"") for n in range(20)] + [File(path, b"")], "overwrite"),
            lambda path: disk.publish([File(path, b"")], "error"),
            lambda path: disk.read(path, 0),
            disk.exists,
            disk.check_input,
            disk.check_output,
        ):
            try:
                act(path)
            except errors.Problem:
                continue
    disk.sweep()
    assert handles() <= before


def test_a_store_that_is_let_go_closes_its_roots(root: Path) -> None:
    before = handles()
    for _ in range(3):
        Files(root, root)
    assert handles() <= before


def recorded(patch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is synced and put in place from now on, in order; a file that has no name yet is `#`."""
    events: list[tuple[str, str]] = []

    def record(name: str, what: Callable[..., str]) -> None:
        real = getattr(os, name)

        def recording(*args: Any, **kwargs: Any) -> Any:
            result = real(*args, **kwargs)
            events.append((name, what(*args)))
            return result

        patch.setattr(os, name, recording)

    def synced(handle: int) -> str:
        target = Path(f"/proc/self/fd/{handle}").readlink()
        return f"{target.name}/" if target.is_dir() else "file"

    record("fsync", synced)
    for name in ("link", "rename"):
        record(name, lambda _, new: "temporary" if new.startswith(b".falconimg-") else new.decode())
    return events


@pytest.mark.parametrize("if_exists", ["overwrite", "error"])
def test_files_are_synced_before_the_first_is_in_place_and_directories_after_the_last(
    disk: Files, monkeypatch: pytest.MonkeyPatch, if_exists: IfExists
) -> None:
    events = recorded(monkeypatch)
    names = ["x/y/a", "x/y/b", "c", "x/y/d"]
    disk.publish([File(name, b"data") for name in names], if_exists)
    placed = [event for event in events if event[0] != "fsync" and event[1] != "temporary"]
    first, last = events.index(placed[0]), events.index(placed[-1])
    assert [what for _, what in placed] == ["a", "b", "c", "d"]
    assert [what for how, what in events[:first] if how == "fsync"] == ["data/", "x/", *["file"] * 4]
    assert events[last + 1 :] == [("fsync", "y/"), ("fsync", "data/")]
    assert [event for event in events[first:last] if event not in placed] == []


def test_without_fsync_nothing_is_synced(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = recorded(monkeypatch)
    Files(root, root, fsync=False).publish([File("x/a", b"a")], "overwrite")
    assert [event for event in events if event[0] == "fsync"] == []
    assert tree(root) == {"x/a": b"a"}


def test_until_it_is_in_place_the_data_has_no_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    real = os.fsync

    def look(handle: int) -> None:
        seen.append(tree(root))
        real(handle)

    monkeypatch.setattr(os, "fsync", look)
    Files(root, root).publish([File("a", b"a")], "overwrite")
    assert seen == [{}, {"a": b"a"}]


MANY = """
import resource, sys
from pathlib import Path
from falconimg.stores import File
from falconimg.stores.files import Files
from falconimg.stores.globs import Entry, Looks
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
root = Path(sys.argv[1])
store = Files(root, root, fsync=False)
store.publish([File(f"{number % 512}/{number}", b"%d" % number) for number in range(4096)], "overwrite")
"""


def test_4096_files_in_512_directories_need_few_handles(root: Path) -> None:
    subprocess.run([sys.executable, "-c", MANY, str(root)], check=True, cwd=Path(__file__).parent.parent)
    assert tree(root) == {f"{number % 512}/{number}": b"%d" % number for number in range(4096)}


# ---- the sweep ----


def temporary_of_another(root: Path, how: str) -> tuple[Path, int]:
    """A temporary as a forked child names it, the child `dead`, unreaped or `alive`; and the child's id."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, files._temporary_name())
        if how == "alive":
            time.sleep(60)
        os._exit(0)
    name = os.read(reader, 200).decode()
    os.close(reader)
    os.close(writer)
    if how == "dead":
        os.waitpid(pid, 0)
    path = root / name
    path.write_bytes(b"half")
    return path, pid


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_sweep_takes_what_dead_processes_left_and_nothing_else(disk: Files, root: Path) -> None:
    (root / "x" / "y").mkdir(parents=True)
    dead, _ = temporary_of_another(root / "x" / "y", "dead")
    unreaped, zombie = temporary_of_another(root, "unreaped")
    alive, sleeper = temporary_of_another(root, "alive")
    own = root / files._temporary_name().decode()
    start = own.name.split("-")[3]
    reused = root / own.name.replace(f"-{start}-", f"-{int(start) - 1}-")
    old, young = (root / re.sub("-[0-9a-f]{12}-", f"-{digit * 12}-", dead.name) for digit in "ab")
    lookalikes = [
        root / f"{dead.name}.png",
        root / dead.name[1:],
        root / ".falconimg-x-1-2-3.tmp",
        root / "a.tmp",
    ]
    for path in (own, reused, old, young, *lookalikes):
        path.write_bytes(b"half")
        os.utime(path, (0, 0))
    os.utime(young, (time.time() - 23 * 3600,) * 2)
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    (root / "x" / dead.name).mkdir()
    (root / "x" / unreaped.name).symlink_to(own)
    (root.parent / "outside" / dead.name).write_bytes(b"half")
    (root / "link").symlink_to("../outside")
    try:
        deadline = time.monotonic() + 5
        while b") Z " not in Path(f"/proc/{zombie}/stat").read_bytes() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert disk.sweep() == 4
    finally:
        os.kill(sleeper, 9)
        os.waitpid(sleeper, 0)
        os.waitpid(zombie, 0)
    assert [path for path in (dead, unreaped, reused, old) if path.exists()] == []
    assert [path for path in (alive, own, young, *lookalikes) if not path.exists()] == []
    assert (root / "x" / dead.name).is_dir()
    assert (root / "x" / unreaped.name).is_symlink()
    assert (root.parent / "outside" / dead.name).exists()
    assert disk.sweep() == 1


def test_the_sweep_reaches_very_deep_directories_and_survives_those_too_deep(root: Path) -> None:
    store = Files(root, root)
    folder = "d/" * 1200
    stray = re.sub("-[0-9a-f]{12}-", "-aaaaaaaaaaaa-", files._temporary_name().decode())
    try:
        store.publish([File(folder + stray, b"half")], "error")
        deepest = store._make(folder.rstrip("/").encode())
        os.utime(stray, (0, 0), dir_fd=deepest)
        os.close(files.walk(deepest, b"/".join([b"e" * 250] * 20), lambda at, name: os.mkdir(name, dir_fd=at)))
        os.close(deepest)
        assert store.sweep() == 1
        assert store.exists(folder + stray) is False
    finally:
        subprocess.run(["/bin/rm", "-rf", root], check=True)  # rmtree recurses


def test_where_proc_says_nothing_only_the_dead_are_swept(
    disk: Files, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(_: Path) -> bytes:
        raise FileNotFoundError

    own = root / files._temporary_name().decode()
    gone = multiprocessing.get_context("spawn").Process()
    gone.start()
    gone.join()
    dead = root / own.name.replace(f"-{os.getpid()}-", f"-{gone.pid}-")
    for path in (own, dead):
        path.write_bytes(b"half")
    monkeypatch.setattr(Path, "read_bytes", hidden)
    assert disk.sweep() == 1
    assert [path.name for path in root.iterdir()] == [own.name]


def test_what_a_killed_writer_leaves_is_swept(root: Path) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom falconimg.stores import File\n"
        "from falconimg.stores.files import Files\n"
        "os.rename = lambda *_, **__: os.kill(os.getpid(), 9)\n"
        "root = Path(sys.argv[1])\n"
        "Files(root, root).publish([File('x/a', b'a'), File('b', b'b')], 'overwrite')"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(root)], cwd=Path(__file__).parent.parent)
    assert killed.returncode == -9
    assert len(tree(root)) == 2
    assert Files(root, root).sweep() == 2
    assert tree(root) == {}
