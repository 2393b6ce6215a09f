"""The cache of answers to addresses: what it keeps, what it lets go, and what it must never do."""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from falconimg import cache, formats
from falconimg.app import create_app
from falconimg.cache import Cache, Entry
from falconimg.errors import Busy, NotWritten, SettingsProblem
from falconimg.settings import Settings
from falconimg.signing import sign
from falconimg.stores import File
from falconimg.stores.answer import Answer
from falconimg.stores.files import Files
from tests import pictures
from tests.conftest import Result, Serve, Server, decoded, encoded, noise
from tests.serving import SECONDS, serving
from tests.test_image import asked, environment
from tests.test_metrics import scraped, value

SIZE = 1_000_000
PICTURE = noise(6, 8)
ENTRY = Entry("image/png", "grün.png", (8, 6), '[{"pointer": "/op/0"}]', bytes(range(256)) * 4)


def key(number: int) -> str:
    return f"{number:02x}" * 16


def kept(directory: Path) -> list[Path]:
    """The files of entries."""
    return [path for path in sorted(directory.glob("??/*")) if path.suffix != cache.LOCK]


def taken(directory: Path) -> int:
    return sum(path.stat().st_size for path in kept(directory))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    directory = tmp_path / "cache"
    directory.mkdir()
    return directory


@pytest.fixture
def store(place: Path) -> Cache:
    return Cache(place, SIZE)


@pytest.fixture
def server(serve: Serve, place: Path) -> Server:
    """A server with a cache, and in/a.png."""
    made = serve(cache_mb=1, cache_dir=place)
    made.put("in/a.png", PICTURE)
    return made


def get(server: Server, query: str = "", path: str = "in/a.png", **headers: str) -> Result:
    return server.client.simulate_get(f"/v1/image/{path}", query_string=query, headers=headers)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When a picture was decoded, which takes a moment."""
    real, times = formats.load, []

    def load(*args: Any) -> Any:
        times.append(time.monotonic())
        time.sleep(0.1)
        return real(*args)

    monkeypatch.setattr(formats, "load", load)
    return times


# Entries


@pytest.mark.parametrize("entry", [ENTRY, ENTRY._replace(sides=None), ENTRY._replace(data=b"", notes="", name="")])
def test_an_entry_comes_back_as_it_was_put(store: Cache, place: Path, entry: Entry) -> None:
    assert store.get(key(1)) is None
    store.put(key(1), entry)
    assert store.get(key(1)) == entry
    assert Cache(place, SIZE).get(key(1)) == entry
    assert store.get(key(2)) is None
    store.put(key(1), entry._replace(data=b"new"))
    assert store.get(key(1)) == entry._replace(data=b"new")


def test_an_entry_of_another_process_is_found(store: Cache, place: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from falconimg.cache import Cache, Entry; "
        f"Cache(Path(sys.argv[1]), {SIZE}).put({key(1)!r}, Entry('image/png', 'a', (1, 2), '', b'theirs'))"
    )
    subprocess.run([sys.executable, "-c", code, place], check=True, timeout=SECONDS)
    assert store.get(key(1)) == Entry("image/png", "a", (1, 2), "", b"theirs")


def test_no_byte_of_an_entry_can_change_or_be_lost_without_its_being_found_out(store: Cache, place: Path) -> None:
    store.put(key(1), ENTRY)
    (path,) = kept(place)
    whole = path.read_bytes()
    for at in [*range(100), *range(100, len(whole), 53)]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
        assert store.get(key(1)) is None, at
        path.write_bytes(whole[:at])
        assert store.get(key(1)) is None, at
    path.write_bytes(whole + b"x")
    assert store.get(key(1)) is None
    path.write_bytes(whole)
    assert store.get(key(1)) == ENTRY


@pytest.mark.parametrize("content", [b"", b"\n", b"5\n", b"[]\n", b"null\n\n", b"00000000\n", b"\0" * 5000])
def test_a_file_that_is_no_entry_is_a_miss_and_gives_way(store: Cache, place: Path, content: bytes) -> None:
    store.put(key(1), ENTRY)
    kept(place)[0].write_bytes(content)
    assert store.get(key(1)) is None
    store.put(key(1), ENTRY)
    assert store.get(key(1)) == ENTRY


def test_nothing_is_unpickled(store: Cache, place: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "harm"),)

    store.put(key(1), ENTRY)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        kept(place)[0].write_bytes(pickle.dumps(Evil(), protocol))
        assert store.get(key(1)) is None
        pickled = pickle.dumps(Evil(), protocol)
        kept(place)[0].write_bytes(cache._checksum(pickled) + pickled)
        assert store.get(key(1)) is None
    assert not (tmp_path / "harm").exists()


def test_a_link_or_a_directory_in_an_entry_s_place_is_a_miss(store: Cache, place: Path, tmp_path: Path) -> None:
    store.put(key(1), ENTRY)
    (path,) = kept(place)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert store.get(key(1)) is None
    path.unlink()
    path.mkdir()
    assert store.get(key(1)) is None


def test_an_entry_of_more_than_an_eighth_is_not_kept(store: Cache, place: Path) -> None:
    store.put(key(1), ENTRY._replace(data=bytes(SIZE // 8)))
    store.put(key(2), ENTRY._replace(data=bytes(SIZE // 8 + 1)))
    assert store.get(key(1))
    assert store.get(key(2)) is None
    assert Cache(place, 10**12).largest == 16_000_000


def test_who_was_not_used_for_longest_leaves_first(store: Cache, place: Path) -> None:
    def aged(number: int, age: float) -> None:
        path = place / key(number)[:2] / key(number)
        os.utime(path, (time.time() - age,) * 2)

    for number in range(9):
        store.put(key(number), ENTRY._replace(data=bytes(100_000)))
        aged(number, 100 - number)
    assert store.get(key(0))  # now it is the one used last
    for number in range(9, 12):
        store.put(key(number), ENTRY._replace(data=bytes(100_000)))
        aged(number, 100 - number)
    left = [number for number in range(12) if (place / key(number)[:2] / key(number)).exists()]
    assert 0 in left
    assert 1 not in left
    assert left[1:] == list(range(left[1], 12))
    assert len(left) >= 8


@pytest.mark.parametrize("workers", [1, 3])
def test_the_whole_is_at_most_a_thirty_second_larger_for_each_worker(place: Path, workers: int) -> None:
    caches = [Cache(place, SIZE) for _ in range(workers)]
    random = np.random.default_rng(5)
    largest = 0
    for number in range(80):
        size = int(random.integers(1, SIZE // 8))
        caches[number % workers].put(key(number), ENTRY._replace(data=bytes(size)))
        largest = max(largest, taken(place))
    assert 0.8 * SIZE < largest < SIZE * (1 + workers / 32)


def test_a_look_that_another_process_takes_is_taken_later(store: Cache, place: Path) -> None:
    with (place / cache.LOCK).open("wb") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        for number in range(20):
            store.put(key(number), ENTRY._replace(data=bytes(100_000)))
        assert taken(place) > SIZE
    store.put(key(20), ENTRY)
    assert taken(place) < SIZE


def test_nothing_but_entries_ever_leaves(place: Path) -> None:
    (place / "ab").mkdir()
    others = [place / "picture.jpg", place / "ab/picture.jpg", place / "ab" / ("a" * 31), place / "ab" / ("g" * 32)]
    for path in others:
        path.write_bytes(bytes(10))
        os.utime(path, (1, 1))
    store = Cache(place, SIZE)
    for number in range(30):
        store.put(key(number), ENTRY._replace(data=bytes(100_000)))
    assert taken(place) < SIZE
    assert all(path.exists() for path in others)


# Turns


def test_one_at_a_time_has_a_key_s_turn_and_other_keys_do_not_wait(store: Cache, place: Path) -> None:
    inside, most, ends = 0, 0, threading.Lock()

    def work(cache_: Cache) -> None:
        nonlocal inside, most
        with cache_.turn(key(1), 10):
            with ends:
                inside += 1
                most = max(most, inside)
            time.sleep(0.02)
            with ends:
                inside -= 1

    others = [store, Cache(place, SIZE)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, others * 4))
    # who comes as a turn ends may find its file gone, and take one of his own: at most one for each that ended
    assert most <= 2
    begun = time.monotonic()
    with store.turn(key(1), 10), store.turn(key(2), 10):
        assert time.monotonic() - begun < 1


def test_who_has_waited_long_enough_is_asked_to_come_again_and_leaves_the_turn_alone(store: Cache) -> None:
    with store.turn(key(1), 10):
        for _ in range(2):  # the second would come in if the first took the lock's file away
            begun = time.monotonic()
            with pytest.raises(Busy, match=r"within 0\.2 seconds \(FALCONIMG_WAIT_SECONDS\)"), store.turn(key(1), 0.2):
                pass
            assert 0.2 <= time.monotonic() - begun < 2


def test_all_who_come_while_an_entry_is_made_wait_for_it(store: Cache) -> None:
    def ask(_: int) -> None:
        with store.turn(key(1), 10):
            pass

    with ThreadPoolExecutor(16) as pool:
        with store.turn(key(1), 10):
            waiting = [pool.submit(ask, number) for number in range(16)]
            time.sleep(1.5)
            assert not any(one.done() for one in waiting)
        assert [one.exception(SECONDS) for one in waiting] == [None] * 16


def test_a_turn_leaves_no_file_behind_though_what_is_done_in_it_fails(store: Cache, place: Path) -> None:
    locks: list[Path] = []
    with suppress(ZeroDivisionError), store.turn(key(1), 1):
        locks = list(place.rglob("*.lock"))
        raise ZeroDivisionError
    assert len(locks) == 1
    assert list(place.rglob("*.lock")) == []
    assert str(locks[0]) not in [str(path.resolve()) for path in Path("/proc/self/fd").iterdir()]


def test_locks_that_killed_processes_left_leave_after_an_hour(store: Cache, place: Path) -> None:
    (place / "ab").mkdir()
    old, young = place / "ab" / ("a" * 32 + ".lock"), place / "ab" / ("b" * 32 + ".lock")
    old.touch()
    young.touch()
    os.utime(old, (time.time() - 3700,) * 2)
    store.put(key(1), ENTRY)
    assert not old.exists()
    assert young.exists()


KILLED = """
import os, sys, time
from pathlib import Path
from falconimg import cache
from falconimg.stores import files
store = cache.Cache(Path(sys.argv[1]), {size})
store._store._unnamed = {unnamed}
def hang(*_args, **_more):
    print("there", flush=True)
    time.sleep(60)
os.{step} = hang
with store.turn({key!r}, 5):
    store.put({key!r}, cache.Entry("image/png", "a", None, "", bytes(100_000)))
"""


@pytest.mark.parametrize(("step", "unnamed"), [("rename", False), ("rename", True), ("link", True)])
def test_a_process_that_is_killed_in_the_middle_leaves_no_part_of_an_entry_and_holds_nobody_up(
    place: Path, step: str, unnamed: bool
) -> None:
    code = KILLED.format(size=SIZE, unnamed=unnamed, step=step, key=key(1))
    process = subprocess.Popen([sys.executable, "-c", code, place], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"there\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=SECONDS)
    store = Cache(place, SIZE)
    assert store.get(key(1)) is None
    begun = time.monotonic()
    with store.turn(key(1), 10):
        assert time.monotonic() - begun < 1
        store.put(key(1), ENTRY)  # the first look sweeps
    assert store.get(key(1)) == ENTRY
    assert [path for path in place.rglob("*") if path.is_file() and path.name != cache.LOCK] == kept(place)
    assert len(kept(place)) == 1


# Where it is


def test_there_is_no_cache_unless_it_is_wanted(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loads: list[float]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    server = serve()
    server.put("in/a.png", PICTURE)
    assert [get(server, "op=gray").status_code for _ in range(2)] == [200, 200]
    assert len(loads) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_without_a_directory_it_is_this_user_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for _ in range(2):
        Cache(None, SIZE).put(key(1), ENTRY)
    (directory,) = tmp_path.iterdir()
    assert directory.name == f"falconimg-cache-{os.geteuid()}"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert Cache(None, SIZE).get(key(1)) == ENTRY


def hostile(kind: str, directory: Path, elsewhere: Path) -> None:
    elsewhere.mkdir()
    if kind == "link":
        directory.symlink_to(elsewhere)
    elif kind == "dangling link":
        directory.symlink_to(elsewhere / "none")
    elif kind == "file":
        directory.touch()
    else:
        directory.mkdir()
        directory.chmod({"for the group": 0o770, "for all": 0o707}.get(kind, 0o700))


@pytest.mark.parametrize("kind", ["link", "dangling link", "file", "for the group", "for all", "another's"])
def test_a_directory_that_somebody_else_may_have_made_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    user = os.geteuid() + (kind == "another's")  # it was made by this one
    hostile(kind, tmp_path / f"falconimg-cache-{user}", tmp_path / "elsewhere")
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(SettingsProblem, match="FALCONIMG_CACHE_DIR"):
        create_app(Settings(root=tmp_path, cache_mb=1))
    assert list((tmp_path / "elsewhere").iterdir()) == []


# Answers


def told(result: Result) -> dict[str, str]:
    """The headers that say what an answer is."""
    return {name: text for name, text in result.headers.items() if name not in ("x-request-id", "server-timing")}


def test_what_is_in_the_cache_is_not_made_again(
    server: Server, loads: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Files.read

    def read(files: Files, path: str, limit: int) -> bytes:
        assert path != "in/a.png"
        return real(files, path, limit)

    for query in ("op=blur=4&format=png", "op=split", "format=webp&quality=5"):
        before = len(loads)
        first = get(server, query)
        with monkeypatch.context() as patch:
            patch.setattr(Files, "read", read)
            second = get(server, query)
        assert len(loads) == before + 1
        assert second.status_code == 200
        assert second.content == first.content
        assert told(first) == told(second)
        assert second.headers["Server-Timing"] == "cache;desc=hit"
    assert "Falconimg-Notes" in get(server, "op=blur=4&format=png").headers
    assert get(server, "op=split").headers["Content-Type"] == "application/zip"


def test_a_file_of_another_root_is_another_s_though_all_that_the_etag_has_is_equal(
    tmp_path: Path, place: Path, loads: list[float]
) -> None:
    answers = []
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        server = Serve(tmp_path / str(number))(cache_mb=1, cache_dir=place)
        (server.root / "a.bmp").write_bytes(encoded(noise(6, 8, seed=number), ".bmp"))
        os.utime(server.root / "a.bmp", ns=(5, 5))
        answers.append(get(server, "format=png", "a.bmp"))
        server.pipeline.threads.close()
    assert answers[0].headers["ETag"] == answers[1].headers["ETag"]
    assert [bool(np.array_equal(decoded(answers[n - 1].content), noise(6, 8, seed=n))) for n in (1, 2)] == [True, True]
    assert len(loads) == 2


def test_how_an_answer_is_named_is_not_kept_with_it(server: Server, loads: list[float]) -> None:
    names = [get(server, query).headers["Content-Disposition"] for query in ("", "download", "filename=b.png")]
    assert names == ['inline; filename="a.png"', 'attachment; filename="a.png"', 'inline; filename="b.png"']
    assert len(loads) == 1


def test_who_may_keep_an_answer_is_not_kept_with_it(serve: Serve, place: Path, loads: list[float]) -> None:
    secret, token = "k" * 20, "t" * 20
    server = serve(cache_mb=1, cache_dir=place, key=(secret,), token=(token,))
    server.put("in/a.png", PICTURE)
    bearer = {"Authorization": f"Bearer {token}"}
    signed = sign("/v1/image/in/a.png", secret).partition("?")[2]
    assert get(server, **bearer).headers["Cache-Control"] == "private, max-age=3600"
    assert get(server, signed).headers["Cache-Control"] == "public, max-age=3600"
    assert get(server, **bearer).headers["Cache-Control"] == "private, max-age=3600"
    assert get(server).status_code == 403
    assert len(loads) == 1


def test_a_changed_file_is_another_entry(server: Server, loads: list[float]) -> None:
    get(server)
    server.put("in/a.png", noise(6, 8, seed=3))
    os.utime(server.root / "in/a.png", ns=(1, 1))
    assert np.array_equal(decoded(get(server).content), noise(6, 8, seed=3))
    assert len(loads) == 2


def test_a_file_that_is_gone_is_gone(server: Server) -> None:
    assert get(server).status_code == 200
    (server.root / "in/a.png").unlink()
    assert get(server).status_code == 404


def test_errors_are_not_kept(server: Server, place: Path) -> None:
    server.put("in/bad.png", data=b"no picture")
    assert get(server, path="in/bad.png").status_code == 415
    assert get(server, "op=crop=1x1+90+90").status_code == 422
    assert get(server, "op=nonsense").status_code == 422
    assert kept(place) == []


def test_uploads_are_not_kept(server: Server, place: Path) -> None:
    assert server.client.simulate_post("/v1/image", body=encoded(PICTURE)).status_code == 200
    assert kept(place) == []


def test_a_damaged_entry_is_made_anew(server: Server, place: Path, loads: list[float]) -> None:
    get(server)
    (path,) = kept(place)
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:20], b"", whole.replace(b"image/png", b"text/html")):
        path.write_bytes(content)
        result = get(server)
        assert np.array_equal(decoded(result.content), PICTURE)
        assert result.headers["Content-Type"] == "image/png"
        assert path.read_bytes() == whole
    assert len(loads) == 5


def test_who_comes_while_an_answer_is_made_waits_for_it(server: Server, loads: list[float]) -> None:
    bar = threading.Barrier(8)

    def ask(_: int) -> bytes:
        bar.wait(SECONDS)
        result = get(server, "op=flip=h")
        assert result.status_code == 200
        return result.content

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(ask, range(8)))
    assert len(answers) == 1
    assert np.array_equal(decoded(answers.pop()), PICTURE[:, ::-1])
    assert len(loads) == 1


def test_who_comes_while_a_failure_is_made_gets_it_too_and_nobody_stays_locked_out(server: Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: get(server, "op=crop=1x1+90+90").status_code, range(8)))
    assert statuses == [422] * 8
    assert get(server).status_code == 200


@pytest.mark.parametrize("query", ["op=flip=h", "op=split"])
def test_answers_go_on_where_the_disk_takes_nothing(
    capsys: pytest.CaptureFixture[str], serve: Serve, place: Path, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    def full(_files: Files, files: list[File], _if_exists: str) -> None:
        raise NotWritten(f"{files[0].path} could not be written: No space left on device")

    server = serve(cache_mb=1, cache_dir=place)
    server.put("in/a.png", PICTURE)
    monkeypatch.setattr(Files, "publish", full)
    for _ in range(2):
        assert get(server, query).status_code == 200
    said = [line for line in capsys.readouterr().err.splitlines() if " warning cache" in line]
    assert ["No space left" in line for line in said] == [True] * 2


def test_answers_go_on_where_the_directory_is_gone(server: Server, place: Path) -> None:
    shutil.rmtree(place)
    for _ in range(2):
        result = get(server)
        assert result.status_code == 200
        assert np.array_equal(decoded(result.content), PICTURE)


def test_a_zip_too_large_for_the_cache_is_sent_piece_by_piece_and_not_kept(
    server: Server, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("in/large.png", noise(300, 300))
    real, begun = Answer.pieces, 0

    def pieces(store: Answer) -> Iterator[bytes]:
        nonlocal begun
        begun += 1
        return real(store)

    monkeypatch.setattr(Answer, "pieces", pieces)
    result = get(server, "op=split", "in/large.png")
    assert result.status_code == 200
    assert len(result.content) > SIZE // 8
    assert begun == 1  # it was not put together for the cache
    assert kept(place) == []


def test_a_turn_ends_when_the_answer_is_made_not_when_it_is_read(server: Server, place: Path) -> None:
    server.put("in/large.png", noise(300, 300))
    environ = environment("op=split", b"", "GET", "/v1/image/in/large.png")
    status, chunks = asked(server, environ)
    assert status.startswith("200")
    assert list(place.rglob("*.lock")) in ([], [place / cache.LOCK])
    chunks.close()


# Processes


def test_servers_share_what_one_of_them_has_made_and_make_it_once(tmp_path: Path, place: Path) -> None:
    query = "op=blur=31&op=resize=0.5&format=png"
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(encoded(pictures.noise(1500, 1500)))
    settings = {"workers": "2", "cache_mb": "100", "cache_dir": str(place), "pool": "1", "input_root": str(tmp_path)}
    with ExitStack() as both:
        servers = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            servers.append(both.enter_context(serving(tmp_path / name, **settings)))
        bar = threading.Barrier(12)

        def ask(number: int) -> tuple[int, str, str]:
            bar.wait(SECONDS)
            status, _, headers = servers[number % 2].ask("HEAD", f"/v1/image/in/a.png?{query}")
            return status, headers["etag"], headers["content-length"]

        with ThreadPoolExecutor(12) as pool:
            answers = set(pool.map(ask, range(12)))
        assert len(answers) == 1
        assert answers.pop()[0] == 200
        texts = [scraped(server) for server in servers]
        assert sum(value(text, "images_total", verdict="done") for text in texts) == 1
        assert sum(value(text, "cache_misses_total") for text in texts) == 1
        assert sum(value(text, "cache_hits_total") for text in texts) == 11
        assert len(kept(place)) == 1
