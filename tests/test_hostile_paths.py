"""No path leads out of the roots, whatever it says and whoever races: rows 1 to 5 of docs/safety.md."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from falconimg import errors
from falconimg.job import IfExists
from falconimg.stores import File, files, paths
from falconimg.stores.files import Files
from tests.conftest import Result, Serve, Server, encoded, noise
from tests.serving import serving
from tests.test_stores import LIMIT, SECRET, refuse_openat2

ROUTES = ("/v1/process", "/items/")
PICTURE = noise(6, 8)


@pytest.fixture(params=["openat2", "walk"])
def guard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to a directory."""
    if request.param == "walk":
        refuse_openat2(monkeypatch)
    return str(request.param)


@pytest.fixture
def served(serve: Serve, guard: str) -> Server:
    """A server on `root`, which holds a picture; `outside` and `root-private` beside it are not served."""
    for name in ("outside", "root-private", "root/in"):
        (serve.root.parent / name).mkdir()
    server = serve()
    server.put("good.png", PICTURE)
    return server


def images(place: str, path: str) -> list[dict[str, str]]:
    """A good image, and one with that path as its input or its output."""
    victim = {"input": "good.png", "output": "other.png", place: path}
    return [{"input": "good.png", "output": "fine.png"}, victim]


def answer(result: Result) -> tuple[int, dict[str, Any], dict[str, str]]:
    """All of an answer but the request's id."""
    headers = {name.lower(): value for name, value in result.headers.items()}
    del headers["x-request-id"]
    headers.pop("content-length", None)  # the id is in the body
    return result.status_code, {**result.json, "request_id": ""}, headers


def everything(base: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(base)): path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        for path in base.rglob("*")
    }


# ---- row 1 ----


class Way(NamedTuple):
    """A path that is refused, the file it would lead to, and what `link` in the root is a symbolic link to."""

    path: str
    leads_to: str
    link: str = ""
    places: tuple[str, ...] = ("input", "output")


INPUT = ("input",)  # an output that is a link itself is replaced as a name: row 5
WAYS = {
    "climbing out": Way("../outside/a.png", "outside/a.png"),
    "climbing out further down": Way("in/../../outside/a.png", "outside/a.png"),
    "climbing within": Way("in/../in/a.png", "root/in/a.png"),
    "climbing out and in": Way("../root/in/a.png", "root/in/a.png"),
    "absolute": Way("{base}/outside/a.png", "outside/a.png"),
    "absolute, climbing": Way("{base}/root/../outside/a.png", "outside/a.png"),
    "the root's name as prefix": Way("{base}/root-private/a.png", "root-private/a.png"),
    "beside the root": Way("../root-private/a.png", "root-private/a.png"),
    "a link out": Way("link/a.png", "outside/a.png", "../outside"),
    "an absolute link out": Way("link/a.png", "outside/a.png", "{base}/outside"),
    "a link out, to what would be made": Way("link/new/a.png", "outside/new/a.png", "../outside"),
    "a link in": Way("link/a.png", "root/in/a.png", "in"),
    "an absolute link in": Way("link/a.png", "root/in/a.png", "{base}/root/in"),
    "a magic link to a handle": Way("link/a.png", "outside/a.png", "/proc/self/fd/{handle}"),
    "a magic link to the disk": Way("link{base}/outside/a.png", "outside/a.png", "/proc/self/root"),
    "a magic link to the directory": Way("link/outside/a.png", "outside/a.png", "/proc/self/cwd"),
    "a file's link out": Way("link", "outside/a.png", "../outside/a.png", INPUT),
    "a file's link in": Way("link", "root/in/a.png", "in/a.png", INPUT),
    "a file's magic link": Way("link", "outside/a.png", "/proc/self/fd/{handle}/a.png", INPUT),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("way", "place"), [(way, place) for way, it in WAYS.items() for place in it.places])
def test_what_leads_out_is_a_403_that_does_not_tell_what_is_there(
    way: str, place: str, route: str, served: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = served.root.parent
    monkeypatch.chdir(base)
    handle = os.open(base / "outside", os.O_RDONLY)
    path, link = (text.format(base=base, handle=handle) for text in (WAYS[way].path, WAYS[way].link))
    if link:
        (served.root / "link").symlink_to(link)
    target = base / WAYS[way].leads_to
    target.parent.mkdir(exist_ok=True)
    answers = []
    try:
        for there in ("a file", "a directory", "nothing", "not even its directory"):
            if there == "a file":
                target.write_bytes(encoded(PICTURE))
            elif there == "a directory":
                target.unlink()
                target.mkdir()
            elif there == "nothing":
                target.rmdir()
            else:
                target.parent.rmdir()
            before = everything(base)
            result = served.post(route, {"images": images(place, path)})
            assert everything(base) == before
            answers.append(answer(result))
            assert str(base) not in result.text.replace(paths.shown(path), "")
    finally:
        os.close(handle)
    assert answers[1:] == answers[:1] * 3
    status, document, _ = answers[0]
    assert (status, document["type"]) == (403, "/problems/outside-root")
    assert document["errors"] == [{"pointer": f"/images/1/{place}", "detail": paths.outside(path)}]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("path", ["{0}/root{1}/a.png", "{0}/cwd/a.png", "{0}/task/{0}/root{1}/a.png", "{0}/fd/{2}"])
def test_the_magic_links_of_a_root_that_has_them_are_refused(path: str, route: str, serve: Serve, guard: str) -> None:
    serve.root.joinpath("a.png").write_bytes(encoded(PICTURE))
    server = serve(input_root=Path("/proc"), output_root=serve.root)
    answers = []
    with (serve.root / "a.png").open("rb") as file:
        name = path.format(os.getpid(), serve.root, file.fileno())
        for _ in range(2):
            answers.append(answer(server.post(route, {"images": [{"input": name, "output": "b.png"}]})))
            (serve.root / "a.png").unlink(missing_ok=True)
    assert answers[0] == answers[1]
    assert answers[0][0] == 403
    assert server.tree() == {}


@pytest.mark.parametrize(
    ("name", "output", "status"),
    [
        ("...png", "{stem}/x.png", 403),
        ("in/...png", "in/{stem}/{stem}/x.png", 403),
        ("a.", "{ext}/x.png", 403),
        ("a.", "in/{ext}/x.png", 422),
        ("..a", "in/{stem}/x.png", 422),
    ],
)
def test_a_template_leads_nowhere_that_a_path_does_not(name: str, output: str, status: int, served: Server) -> None:
    served.put(name, data=encoded(PICTURE))
    before = everything(served.root.parent)
    result = served.process([{"input": name, "output": output}])
    assert (result.status_code, result.json["errors"][0]["pointer"]) == (status, "/images/0/output")
    assert everything(served.root.parent) == before


# ---- row 2 ----

LONG = "d/" * 2045 + "xx.png"  # 4,096 bytes
MALFORMED = {
    "NUL": "x.png\0y",
    "NUL, then the extension": "x.png\0.png",
    "NUL at the end": "x.png\0",
    "NUL in a directory": "in\0/../x.png",
    "a lone high surrogate": "\ud800x.png",
    "a lone low surrogate": "x\udcff.png",
    "4,097 bytes": "x" + LONG,
    "4,504 bytes of 3,004 characters": "é/" * 1500 + ".png",
    "a component of 256 bytes": "x" * 252 + ".png",
    "a directory of 256 bytes": "é" * 128 + "/x.png",
    "empty": "",
    ".": ".",
    "only ./": "./",
    "./ twice": "././x.png",
    ". further down": "in/./x.png",
    ". at the end": "x.png/.",
    "//": "in//x.png",
    "// at the start": "//x.png",
    "/ at the end": "x.png/",
}


def touched(patch: pytest.MonkeyPatch) -> set[bytes]:
    """The names that the store asks the system for from now on: directories whole, files in their directory."""
    seen: set[bytes] = set()

    def spy(name: str, real: Any) -> Callable[..., Any]:
        def spying(*args: Any, **kwargs: Any) -> Any:
            if name == "openat2":
                # what the kernel gets: ctypes ends it at NUL
                seen.add(ctypes.c_char_p(args[1]).value or b"")
            elif isinstance(args[0], bytes):
                seen.add(args[0])
            return real(*args, **kwargs)

        return spying

    for name in ("open", "stat"):
        patch.setattr(os, name, spy(name, getattr(os, name)))
    patch.setattr(files, "openat2", spy("openat2", files.openat2))
    return seen


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("place", ["input", "output"])
@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_path_is_a_422_and_nothing_is_opened_for_it(
    what: str, place: str, route: str, serve: Serve, guard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = touched(monkeypatch)
    server = serve()
    for name in ("good.png", "x.png", "in/x.png"):
        server.put(name, PICTURE)
    before = server.tree()
    seen.clear()
    result = server.post(route, {"images": images(place, MALFORMED[what])})
    assert (result.status_code, result.json["type"]) == (422, "/problems/request")
    assert [fault["pointer"] for fault in result.json["errors"]] == [f"/images/1/{place}"]
    assert len(result.content) < 2000
    assert seen <= {b".", b"good.png", b"fine.png", b"other.png"}
    assert server.tree() == before


def test_what_is_opened_is_seen_by_these_tests(serve: Serve, guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = touched(monkeypatch)
    server = serve()
    server.put("in/x.png", PICTURE)
    seen.clear()
    assert server.process([{"input": "./in/x.png", "output": "a.png"}]).status_code == 200
    assert seen >= {b"in", b"x.png", b"a.png"}


@pytest.mark.parametrize("route", ROUTES)
def test_a_path_of_4096_bytes_and_a_component_of_255_are_taken(route: str, served: Server) -> None:
    for path in (LONG, "x" * 251 + ".png"):
        assert len(path.encode()) in (4096, 255)
        result = served.post(route, {"images": images("input", path)})
        assert result.status_code == (207 if route == "/v1/process" else 200)
        assert result.headers.get("Falconimg-Failed", "1") == "1"


# ---- row 3 ----


EXCHANGE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
one, other, parent = os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2]), os.getppid()
while os.getppid() == parent:
    for _ in range(1000):
        if libc.renameat2(-100, one, -100, other, 2):
            sys.exit(os.strerror(ctypes.get_errno()))
"""


@contextmanager
def racing(one: Path, other: Path) -> Iterator[None]:
    """Another process exchanges the two names all the time, by renameat2(2) and RENAME_EXCHANGE."""
    before = one.lstat().st_ino
    racer = subprocess.Popen([sys.executable, "-S", "-c", EXCHANGE, str(one), str(other)])
    try:
        end = time.monotonic() + 30
        while one.lstat().st_ino == before:
            assert time.monotonic() < end, "the race did not begin"
        yield
        assert racer.poll() is None, "the race ended early"
    finally:
        racer.kill()
        racer.wait()


@pytest.fixture
def course(serve: Serve) -> Path:
    """A root in which `d/e` is a directory and `d/link` a link to one outside; both have a `secret`."""
    root, tmp_path = serve.root, serve.root.parent
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "e" / "secret").write_bytes(b"inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    (root / "d" / "link").symlink_to("../../outside")
    (root / "inside").write_bytes(b"inside")
    (root / "file link").symlink_to("../outside/secret")
    return root


def figure(row: int, what: str, value: object) -> None:
    print(f"figure: {row}: {what}: {value}")  # noqa: T201  (for docs/safety.md; pytest shows it with -s)


@pytest.mark.parametrize(("path", "one", "other"), [("d/e/secret", "d/e", "d/link"), ("inside", "inside", "file link")])
def test_no_race_for_an_input_is_won(
    path: str, one: str, other: str, course: Path, guard: str, long: bool, record_property: Any
) -> None:
    store = Files(course, course)
    tries = 200_000 if long else 10_000
    seen = {b"inside": 0, SECRET: 0, b"refused": 0}
    with racing(course / one, course / other):
        for _ in range(tries):
            try:
                seen[store.read(path, LIMIT)] += 1
            except errors.OutsideRoot:
                seen[b"refused"] += 1
    record_property("won", f"{seen[SECRET]} of {tries}")
    figure(3, f"races for an input won ({guard}, {one})", f"{seen[SECRET]} of {tries}; refused {seen[b'refused']}")
    assert seen[SECRET] == 0
    assert min(seen[b"inside"], seen[b"refused"]) > tries / 1000, "hardly a race"


@pytest.mark.parametrize("if_exists", ["overwrite", "error"])
def test_no_race_for_an_output_is_won(
    if_exists: IfExists, course: Path, guard: str, long: bool, record_property: Any
) -> None:
    store = Files(course, course, fsync=False)
    outside = course.parent / "outside"
    tries = 50_000 if long else 2_000
    done = 0
    with racing(course / "d" / "e", course / "d" / "link"):
        for number in range(tries):
            name = f"d/e/new{number}/y" if number % 4 == 0 else f"d/e/{number}"
            try:
                store.publish([File(name, b"x")], if_exists)
                done += 1
            except errors.OutsideRoot:
                pass
    won = len(list(outside.iterdir())) - 1
    record_property("won", f"{won} of {tries}")
    figure(3, f"races for an output won ({guard}, {if_exists})", f"{won} of {tries}; refused {tries - done}")
    assert won == 0
    assert (outside / "secret").read_bytes() == SECRET
    assert min(done, tries - done) > tries / 1000, "hardly a race"
    inside = course / "d" / ("link" if (course / "d" / "e").is_symlink() else "e")
    assert len(list(inside.iterdir())) >= done


def test_resolving_and_comparing_loses_the_same_race(course: Path, long: bool, record_property: Any) -> None:
    """What the guards are measured against: the usual check, by whose losses one sees that it is a race."""
    tries, lost = 0, 0
    end = time.monotonic() + (120 if long else 30)
    with racing(course / "d" / "e", course / "d" / "link"):
        # quick, it ends with the tenth: how many races are lost in a given time depends on who runs besides
        while time.monotonic() < end and (tries < 70_000 if long else lost < 10):
            tries += 1
            with suppress(OSError):  # what resolve() saw is no longer what is there
                path = (course / "d" / "e" / "secret").resolve()
                if path.is_relative_to(course):
                    lost += path.read_bytes() == SECRET
    record_property("lost", f"{lost} of {tries}")
    figure(3, "races lost by resolve() + is_relative_to", f"{lost} of {tries}")
    assert lost >= 10


def test_no_race_is_won_through_the_route(course: Path, guard: str, serve: Serve, long: bool) -> None:
    outside = course.parent / "outside"
    (course / "d" / "e" / "in.png").write_bytes(encoded(noise(2, 2)))
    (outside / "in.png").write_bytes(encoded(noise(3, 3)))
    server = serve()
    before = everything(outside)
    seen: dict[str, int] = {}
    tries = 5_000 if long else 300
    with racing(course / "d" / "e", course / "d" / "link"):
        for _ in range(tries):
            result = server.process([{"input": "d/e/in.png", "output": "d/e/out.png"}])
            outcome = result.json.get("images", [result.json])[0]
            if outcome["status"] == "done":
                assert [(output["width"], output["height"]) for output in outcome["outputs"]] == [(2, 2)]
            else:
                assert outcome.get("error", outcome)["type"] == "/problems/outside-root"
            kind = outcome["status"] if outcome["status"] != 403 else "refused"
            seen[kind] = seen.get(kind, 0) + 1
    figure(3, f"requests in a race ({guard})", f"{seen} of {tries}, 0 outside")
    assert everything(outside) == before
    assert set(seen) == {"done", "failed", "refused"}


# ---- row 4 ----


def test_what_is_no_regular_file_is_refused_in_100_ms_and_a_sparse_terabyte_unread(
    tmp_path: Path, long: bool, record_property: Any
) -> None:
    """On the real server, whose input root is the whole disk: so devices need no mknod."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    (tmp_path / "good.png").write_bytes(encoded(PICTURE))
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(10**12)
    kinds = {"fifo": "a FIFO", "socket": "a socket", "directory": "a directory"}
    kinds = {str(tmp_path / name): kind for name, kind in kinds.items()}
    kinds |= {f"/dev/{name}": "a device" for name in ("zero", "null", "full", "random", "tty")}
    good = {"input": str(tmp_path / "good.png"), "output": "good.png"}
    out = tmp_path / "out"
    out.mkdir()
    with (
        socket.socket(socket.AF_UNIX) as listener,
        serving(tmp_path, input_root="/", output_root=str(out), workers="1", pool="1") as server,
    ):
        listener.bind(str(tmp_path / "socket"))
        slowest = 0.0
        for path, kind in kinds.items():
            spans = []
            for _ in range(50 if long else 5):
                begun = time.monotonic()
                status, report = server.process_batch([{"input": path, "output": "a.png"}, good])
                spans.append(time.monotonic() - begun)
                assert (status, report["images"][1]["status"]) == (207, "done")
                error = report["images"][0]["error"]
                assert error["type"] == "/problems/unreadable"
                assert error["detail"].endswith(f"expected a regular file, came {kind}")
            slowest = max(slowest, sorted(spans)[len(spans) // 2])
        record_property("slowest median", slowest)
        figure(4, "slowest median of a whole request with one", f"{slowest * 1000:.1f} ms")
        assert slowest < 0.1

        def read_so_far() -> int:
            return int(Path(f"/proc/{server.workers()[0]}/io").read_text().split()[1])

        before = read_so_far()
        status, report = server.process_batch([{"input": str(tmp_path / "huge.png"), "output": "a.png"}, good])
        came = read_so_far() - before
        assert (status, report["images"][1]["status"]) == (207, "done")
        assert report["images"][0]["error"]["type"] == "/problems/too-large"
        assert report["images"][0]["error"]["detail"].endswith(f"came {10**12}")
        record_property("read", came)
        figure(4, "bytes that the worker read for a sparse terabyte and its neighbour", came)
        # it was counted: the good picture is among them
        assert (tmp_path / "good.png").stat().st_size <= came < 1e6
    assert [path.name for path in out.iterdir()] == ["good.png"]


SWAPPED = """
import os, sys
from pathlib import Path
from falconimg import errors
from falconimg.stores import files
if sys.argv[2] == "walk":
    def refused(*_):
        raise OSError(38, "ENOSYS")
    files.openat2 = refused
root = Path(sys.argv[1])
store = files.Files(root, root)
real = os.stat
def swap(*args, **kwargs):
    info = real(*args, **kwargs)
    (root / "it").unlink()
    os.mkfifo(root / "it")
    return info
os.stat = swap
try:
    store.read("it", 1000)
except errors.Unreadable as problem:
    print(problem.detail)
"""


def test_a_fifo_that_takes_a_checked_file_s_place_does_not_hang(tmp_path: Path, guard: str) -> None:
    (tmp_path / "it").write_bytes(b"a file")
    command = [sys.executable, "-c", SWAPPED, str(tmp_path), guard]
    # a hang is an error here, after a time that no start of Python takes
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert said.stdout == "'it': expected a regular file, came a FIFO\n"


LISTED = """
import os
for number in os.listdir("/proc/self/fd"):
    try:
        print(os.readlink(f"/proc/self/fd/{number}"))
    except FileNotFoundError:
        pass
"""


def test_no_handle_goes_to_a_program_that_is_started_meanwhile(
    tmp_path: Path, guard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_bytes(b"a")
    store = Files(tmp_path, tmp_path)
    lists: list[str] = []
    counts: list[int] = []
    inheritable = os.open(tmp_path, os.O_RDONLY)

    def start(real: Callable[..., Any]) -> Callable[..., Any]:
        def starting(*args: Any, **kwargs: Any) -> Any:
            ours = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_dir() or path.is_file()]
            counts.append(sum(str(tmp_path) in path for path in ours))
            command = [sys.executable, "-S", "-c", LISTED]
            child = subprocess.run(command, close_fds=False, capture_output=True, text=True, check=True)
            lists.append(child.stdout)
            return real(*args, **kwargs)

        return starting

    monkeypatch.setattr(os, "fstat", start(os.fstat))  # in walk and, the file open, in reading
    store.read("d/a", LIMIT)
    monkeypatch.setattr(os, "fsync", start(os.fsync))
    store.publish([File("d/b", b"b")], "overwrite")
    assert max(counts) >= 3  # the root's, the directory's and the file's
    assert len(lists) >= 3
    assert [text for text in lists if str(tmp_path) in text] == []
    os.set_inheritable(inheritable, True)
    os.fsync(inheritable)
    assert str(tmp_path) in lists[-1]  # what is inherited is seen
    os.close(inheritable)


# ---- row 5 ----


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(
    "target", ["../outside/a.png", "{base}/outside/a.png", "in/a.png", "nowhere", "link.png", "../outside", "{magic}"]
)
def test_an_output_that_is_a_link_is_replaced_as_a_name(target: str, split: bool, route: str, served: Server) -> None:
    base = served.root.parent
    for name in ("outside/a.png", "root/in/a.png"):
        (base / name).write_bytes(b"theirs")
    name = "link_1.png" if split else "link.png"
    with (base / "outside" / "a.png").open("r+b") as file:
        (served.root / name).symlink_to(target.format(base=base, magic=f"/proc/self/fd/{file.fileno()}"))
        before = {str(path): path.lstat() for path in (base / "outside/a.png", served.root / "in/a.png")}
        document: dict[str, Any] = {"images": [{"input": "good.png", "output": "link.png"}]}
        if route == "/v1/process":
            kept = (served.root / name).readlink()
            for if_exists, verdict in (("skip", "done" if split else "skipped"), ("error", "failed")):
                more = {"operations": ["split"] if split else [], "if_exists": if_exists}
                result = served.post(route, {**document, **more})
                assert result.json["images"][0]["status"] == verdict
                assert (served.root / name).readlink() == kept
        assert served.post(route, {**document, "operations": ["split"] if split else []}).status_code == 200
        assert not (served.root / name).is_symlink()
        assert np.array_equal(served.picture(name), PICTURE[:3, :4] if split else PICTURE)
        after = {str(path): path.lstat() for path in (base / "outside/a.png", served.root / "in/a.png")}
    for path, info in before.items():
        assert (info.st_ino, info.st_mtime_ns, info.st_size, info.st_nlink) == (
            after[path].st_ino, after[path].st_mtime_ns, after[path].st_size, after[path].st_nlink,
        )  # fmt: skip
        assert Path(path).read_bytes() == b"theirs"
    assert sorted(os.listdir(base / "outside")) == ["a.png"]  # noqa: PTH208


def test_eight_requests_that_replace_one_link_never_write_through_it(served: Server, long: bool) -> None:
    """The link comes back while they publish."""
    target = served.root.parent / "outside" / "a.png"
    target.write_bytes(b"theirs")
    link = served.root / "link.png"
    body = json.dumps({"images": [{"input": "good.png", "output": "link.png"}]})
    with ThreadPoolExecutor(4) as clients:
        for _ in range(200 if long else 10):
            (served.root / "new link").symlink_to("../outside/a.png")
            (served.root / "new link").rename(link)
            assert [result.status_code for result in clients.map(served.post, ROUTES * 4, [body] * 8)] == [200] * 8
            assert not link.is_symlink()
    assert target.read_bytes() == b"theirs"
