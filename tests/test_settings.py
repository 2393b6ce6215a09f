from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from falconimg.app import create_app
from falconimg.cache import Cache
from falconimg.errors import SettingsProblem
from falconimg.formats import FORMATS
from falconimg.machine import limits
from falconimg.settings import (
    MOST_SECRET,
    Settings,
    _in_file,
    cache_directory,
    codec_pixel_limit,
    follow_gunicorn,
    rows,
    variables,
)
from falconimg.stores import File
from falconimg.stores.memory import Memory
from tests.serving import without_opencvs

WRONG = {
    "BIND": ("8888", "HOST:PORT or unix:PATH"),
    "HOSTS": ("a b", "names separated by commas"),
    "WORKERS": ("-1", "a whole number from 1 to 256"),
    "THREADS": ("1.5", "a whole number from 1 to 1024"),
    "POOL": ("1_0", "a whole number from 1 to 256"),
    "ROOT": ("/no/such/directory", "a directory that is there"),
    "INPUT_ROOT": ("", "a directory that is there"),
    "OUTPUT_ROOT": (__file__, "a directory that is there"),
    "FORMATS": ("png,,jpeg", "names of formats separated by commas"),
    "FSYNC": ("yes", "on or off"),
    "JPEG_QUALITY": ("101", "a whole number from 1 to 100"),
    "LOG": ("xml", "plain or json"),
    "LOG_LEVEL": ("loud", "debug or info or warning or error"),
    "MAX_BODY": ("10 MB", "a whole number from 1 to 1G, also with k, M or G"),
    "MAX_PIXELS": ("2G", "a whole number from 1 to 1G, also with k, M or G"),
    "MEMORY": ("1", "a whole number from 1M to 10000G, also with k, M or G"),
    "WAIT_SECONDS": ("0", "seconds, over 0 and at most 3600"),
    "IMAGE_SECONDS": ("nan", "seconds, over 0 and at most 86400"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_names_the_variable_what_is_allowed_and_what_came(name: str) -> None:
    value, allowed = WRONG[name]
    with pytest.raises(SettingsProblem) as caught:
        Settings.from_environ({f"FALCONIMG_{name}": value})
    assert caught.value.detail == f"FALCONIMG_{name}: expected {allowed}, came {value!r}"


@pytest.mark.parametrize("value", ["127.0.0.1:65536", "127.0.0.1", ":80", "a b:80", "unix:"])
def test_a_place_that_cannot_be_bound_is_refused(value: str) -> None:
    with pytest.raises(SettingsProblem, match=r"^FALCONIMG_BIND: expected HOST:PORT or unix:PATH, came "):
        Settings.from_environ({"FALCONIMG_BIND": value})


def test_an_unknown_variable_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(SettingsProblem, match=r"^FALCONIMG_ROOTS is not a setting; did you mean FALCONIMG_ROOT\?$"):
        Settings.from_environ({"FALCONIMG_ROOTS": "/"})


def test_variables_of_others_are_not_looked_at() -> None:
    assert Settings.from_environ({"PATH": "x", "falconimg_workers": "x", "XFALCONIMG_WORKERS": "x"}) == Settings()


@pytest.mark.parametrize(("text", "value"), [("7", 7), ("10k", 10_000), ("2.5M", 2_500_000), ("1G", 10**9)])
def test_sizes_take_k_m_and_g(text: str, value: int) -> None:
    assert Settings.from_environ({"FALCONIMG_MAX_FILE": text}).max_file == value


def test_every_field_has_its_variable_with_help() -> None:
    assert [name for name, _ in rows()] == [f"FALCONIMG_{field.name.upper()}" for field in fields(Settings)]
    assert all(row.help and row.allowed and row.default for _, row in rows())


@pytest.mark.parametrize("name", ["jpeg", "webp", "avif"])
def test_a_formats_quality_and_its_settings_default_are_one(name: str) -> None:
    assert getattr(Settings(), f"{name}_quality") == FORMATS[name].quality


def test_every_limit_of_the_design_has_its_variable() -> None:
    limits = {name for name, _ in rows() if name.startswith("FALCONIMG_MAX_")}
    assert limits >= {
        f"FALCONIMG_MAX_{what}"
        for what in ("BODY", "JSON_DEPTH", "IMAGES", "OPERATIONS", "OUTPUTS", "FILE", "PIXELS", "SIDE", "OUTPUT_PIXELS")
    }


def test_the_roots_default_to_the_root(tmp_path: Path) -> None:
    assert Settings(root=tmp_path).roots == (tmp_path, tmp_path)
    assert Settings(root=Path("/"), input_root=tmp_path).roots == (tmp_path, Path("/"))


@pytest.mark.parametrize(
    ("places", "bind"),
    [(["127.0.0.1:8888"], None), (["127.0.0.1:1"], "127.0.0.1:1"), (["127.0.0.1:1", "0.0.0.0:1"], "0.0.0.0:1"),
     (["unix:/x", "[::1]:5"], "[::1]:5"),
     (["unix:/x"], "unix:/x")],
)  # fmt: skip
def test_what_gunicorn_is_told_is_what_the_workers_go_by(
    places: list[str], bind: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FALCONIMG_WORKERS", "2")
    for name in ("FALCONIMG_BIND", "PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    follow_gunicorn(places, 2)
    assert (os.environ.get("FALCONIMG_BIND"), os.environ["FALCONIMG_WORKERS"]) == (bind, "2")
    follow_gunicorn(places, 6)
    assert (Settings.from_environ().bind, Settings.from_environ().workers) == (bind or "127.0.0.1:8888", 6)


def test_the_budget_is_half_of_the_memory_over_the_workers_unless_set() -> None:
    assert Settings(memory=10**7).budget == 10**7
    assert Settings(workers=1, jobs=False).budget == limits().memory // 2
    assert Settings(workers=3, jobs=False).budget == limits().memory // 2 // 3
    assert Settings(workers=3, ledger="sqlite:////jobs.db", job_workers=2).budget == limits().memory // 2 // 5


def test_what_a_server_goes_by_has_its_directories_absolute_and_its_bytes_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    found = Settings(input_root=Path("link"), workers=3, jobs=False).effective()
    assert (found.root, found.input_root, found.output_root) == (tmp_path, tmp_path / "in", tmp_path)
    assert found.memory == limits().memory // 2 // 3
    assert found.roots == found.effective().roots
    assert Settings(memory=10**7, cache_dir=Path("in")).effective().memory == 10**7
    assert Settings(cache_dir=Path("in")).effective().cache_dir == tmp_path / "in"


def test_the_cache_is_where_the_settings_say_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    Cache(None, 10**6)
    assert list(tmp_path.iterdir()) == [cache_directory()] == [Settings().effective().cache_dir]


SECRET = "sesame-" * 3


@pytest.mark.parametrize("content", [SECRET, f"{SECRET}\n", f" \t{SECRET}\r\n\n"])
def test_a_secret_may_be_in_a_file(content: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(content)
    (tmp_path / "link").symlink_to("token")  # as Kubernetes shows them
    for name in ("token", "link"):
        assert Settings.from_environ({"FALCONIMG_TOKEN_FILE": str(tmp_path / name)}).token == (SECRET,)


def test_what_is_around_a_secret_in_a_file_is_not_of_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(" a b\n")
    assert _in_file(str(tmp_path / "secret"), str) == "a b"


def test_every_secret_may_be_in_a_file_and_nothing_else_may() -> None:
    for f in fields(Settings):
        names = [variable.name for variable in variables(f)]
        assert (f"FALCONIMG_{f.name.upper()}_FILE" in names) is f.metadata["row"].secret


@pytest.mark.parametrize(
    ("content", "came"),
    [
        (None, "one that cannot be read: No such file or directory"),
        (b"", "something else"),
        (b"sesame", "something else"),
        (b"\xff" * 20, "something else"),
        (b"x" * (MOST_SECRET + 1), "something else"),
    ],
)
def test_a_secrets_file_that_is_none_is_refused_and_its_content_never_said(
    content: bytes | None, came: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsProblem) as caught:
        Settings.from_environ({"FALCONIMG_TOKEN_FILE": str(file)})
    allowed = "a file with tokens of at least 16 of A-Z a-z 0-9 . _ ~ + / -, separated by commas"
    assert caught.value.detail == f"FALCONIMG_TOKEN_FILE: expected {allowed}, came {came}"


def test_a_secret_put_where_its_files_path_belongs_is_not_said() -> None:
    with pytest.raises(SettingsProblem) as caught:
        Settings.from_environ({"FALCONIMG_TOKEN_FILE": SECRET})
    assert "sesame" not in caught.value.detail


def test_a_directory_or_a_pipe_is_no_secrets_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(SettingsProblem, match=r"came something else$"):
            Settings.from_environ({"FALCONIMG_TOKEN_FILE": str(path)})


def test_a_secret_given_twice_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SECRET)
    both = {"FALCONIMG_TOKEN": SECRET, "FALCONIMG_TOKEN_FILE": str(tmp_path / "token")}
    for read in (Settings.from_environ, Settings.sources):
        with pytest.raises(SettingsProblem) as caught:
            read(both)
        assert caught.value.detail == "expected FALCONIMG_TOKEN or FALCONIMG_TOKEN_FILE, came both"


def test_port_and_web_concurrency_count_where_ours_are_not_set() -> None:
    theirs = {"PORT": "5000", "WEB_CONCURRENCY": "3"}
    settings = Settings.from_environ(theirs)
    assert (settings.bind, settings.workers) == ("0.0.0.0:5000", 3)
    assert settings.open_to_others
    settings = Settings.from_environ({**theirs, "FALCONIMG_BIND": "127.0.0.1:1", "FALCONIMG_WORKERS": "4"})
    assert (settings.bind, settings.workers) == ("127.0.0.1:1", 4)


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("PORT", "http", "a whole number from 1 to 65535"),
        ("PORT", "0", "a whole number from 1 to 65535"),
        ("PORT", "65536", "a whole number from 1 to 65535"),
        ("PORT", "tcp://10.0.0.1:8888", "a whole number from 1 to 65535"),
        ("WEB_CONCURRENCY", "0", "a whole number from 1 to 256"),
        ("WEB_CONCURRENCY", "many", "a whole number from 1 to 256"),
    ],
)
def test_a_wrong_value_of_theirs_names_their_variable(variable: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingsProblem) as caught:
        Settings.from_environ({variable: value})
    assert caught.value.detail == f"{variable}: expected {allowed}, came {value!r}"


def test_theirs_count_as_not_set_where_they_are_empty() -> None:
    empty = {"PORT": "", "WEB_CONCURRENCY": ""}
    assert Settings.from_environ(empty) == Settings()
    assert set(Settings.sources(empty).values()) == {"default"}


def test_theirs_are_not_looked_at_where_nothing_is_served() -> None:
    theirs = {"PORT": "tcp://10.0.0.1:8888", "WEB_CONCURRENCY": "0"}
    assert Settings.from_environ(theirs, serving=False) == Settings()
    assert Settings.from_environ({**theirs, "FALCONIMG_WORKERS": "4"}, serving=False).workers == 4


def test_each_setting_says_which_variable_set_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SECRET)
    environ = {"FALCONIMG_TOKEN_FILE": str(tmp_path / "token"), "PORT": "1", "WEB_CONCURRENCY": "2",
               "FALCONIMG_WORKERS": "1", "FALCONIMG_LOG": "plain"}  # fmt: skip
    found = Settings.sources(environ)
    assert list(found) == [f.name for f in fields(Settings)]
    assert {name: source for name, source in found.items() if source != "default"} == {
        "bind": "PORT", "token": "FALCONIMG_TOKEN_FILE", "workers": "FALCONIMG_WORKERS", "log": "FALCONIMG_LOG",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bind", "loopback"),
    [
        ("127.0.0.1:8888", True), ("localhost:1", True), ("[::1]:80", True), ("127.1.2.3:80", True),
        ("0.0.0.0:8888", False), ("[::]:80", False), ("192.0.2.1:80", False), ("unix:/run/x.sock", False),
    ],
)  # fmt: skip
def test_the_host_is_checked_where_only_this_machine_can_connect(bind: str, loopback: bool) -> None:
    assert Settings(bind=bind).listens_on_loopback is loopback


@pytest.mark.parametrize("text", ["", "x" * 15, "x" * 16 + ",", "x" * 16 + " y", "x" * 16 + "\u00e9", "=" * 16])
def test_what_is_no_token_is_refused_and_never_said(text: str) -> None:
    with pytest.raises(SettingsProblem) as caught:
        Settings.from_environ({"FALCONIMG_TOKEN": text})
    allowed = "tokens of at least 16 of A-Z a-z 0-9 . _ ~ + / -, separated by commas"
    assert caught.value.detail == f"FALCONIMG_TOKEN: expected {allowed}, came something else"


def test_tokens_are_not_in_the_settings_text() -> None:
    settings = Settings.from_environ({"FALCONIMG_TOKEN": "sesame-sesame-sesame, abcDEF0189._~+/-=="})
    assert settings.token == ("sesame-sesame-sesame", "abcDEF0189._~+/-==")
    assert "sesame" not in repr(settings)


@pytest.mark.parametrize(
    ("bind", "token", "is_open"),
    [
        ("0.0.0.0:1", (), True), ("[::]:1", (), True), ("192.0.2.1:1", (), True), ("0.0.0.0:1", ("x" * 16,), False),
        ("127.0.0.1:1", (), False), ("[::1]:1", (), False), ("unix:/run/x.sock", (), False),
    ],
)  # fmt: skip
def test_a_server_is_open_to_others_off_loopback_without_a_token(
    bind: str, token: tuple[str, ...], is_open: bool
) -> None:
    assert Settings(bind=bind, token=token).open_to_others is is_open


@pytest.mark.parametrize("text", ["", ",", "png;jpeg", "png jpeg"])
def test_what_is_no_list_of_formats_is_refused(text: str) -> None:
    with pytest.raises(SettingsProblem, match=r"^FALCONIMG_FORMATS: expected names of formats separated by commas"):
        Settings.from_environ({"FALCONIMG_FORMATS": text})


def test_a_format_that_there_is_not_stops_the_start() -> None:
    settings = Settings.from_environ({"FALCONIMG_FORMATS": "png, jpg"})
    with pytest.raises(SettingsProblem) as caught:
        create_app(settings, Memory())
    assert caught.value.detail == f"FALCONIMG_FORMATS: expected names of {', '.join(FORMATS)}, came 'jpg'"


def test_a_picture_limit_beyond_the_codecs_stops_the_start() -> None:
    with pytest.raises(SettingsProblem, match=r"^FALCONIMG_MAX_PIXELS: expected at most OPENCV_IO_MAX_IMAGE_PIXELS"):
        create_app(Settings(max_pixels=codec_pixel_limit() + 1), Memory())


@pytest.mark.parametrize(("jobs", "loaded"), [("off", []), ("on", ["sqlalchemy"])])
def test_what_takes_long_to_load_is_loaded_where_it_is_needed(tmp_path: Path, jobs: str, loaded: list[str]) -> None:
    script = (
        "import sys\n"
        "from falconimg.app import create_app\nfrom falconimg.settings import Settings\n"
        "create_app(Settings.from_environ())\n"
        "print(*sorted({'sqlalchemy', 'jsonschema', 'celery', 'obstore', 'opentelemetry'} & set(sys.modules)))"
    )
    environ = {**os.environ, "FALCONIMG_ROOT": str(tmp_path), "FALCONIMG_JOBS": jobs}
    environ["FALCONIMG_LEDGER"] = f"{tmp_path}/jobs.db"
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.splitlines()[-1].split() == loaded


def test_the_codecs_limit_is_set_before_opencv_is_imported() -> None:
    script = (
        "import sys, falconimg, numpy as np; assert 'cv2' not in sys.modules\n"
        "from falconimg import operations; import cv2\n"
        "data = cv2.imencode('.png', np.zeros((100, 101), np.uint8))[1]\n"
        "try: cv2.imdecode(data, -1)\n"
        "except cv2.error as error: print('refused', 'CV_IO_MAX_IMAGE_PIXELS' in str(error))\n"
        "else: print('decoded')"
    )

    def attempt(limit: str, **others: str) -> str:
        environ = {**without_opencvs(os.environ), **others, "FALCONIMG_MAX_PIXELS": limit}
        return subprocess.run(
            [sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=60, check=True
        ).stdout.strip()

    assert (attempt("10k"), attempt("10100")) == ("refused True", "decoded")
    for theirs in ("1", "1000000000", "many"):  # what the user tells OpenCV itself does not count
        others = {f"OPENCV_IO_MAX_IMAGE_{what}": theirs for what in ("PIXELS", "WIDTH", "HEIGHT")}
        assert (attempt("10k", **others), attempt("10100", **others)) == ("refused True", "decoded")


PROOF = """
import time
from pathlib import Path
{first}
from falconimg import settings
import cv2, numpy as np
from falconimg.errors import SettingsProblem
from falconimg.formats import opencv

def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024

before, begun = peak(), time.process_time()
try:
    opencv.prove_limit(settings.codec_pixel_limit())
except SettingsProblem as problem:
    print(problem.detail)
else:
    print("refused", time.process_time() - begun, peak() - before)
"""


def proof(first: str, **environ: str) -> str:
    """What the proof of the codec's limit says in a process that begins with this line."""
    command = [sys.executable, "-c", PROOF.format(first=first)]
    environ = {**without_opencvs(os.environ), **environ}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def test_the_codec_is_seen_to_refuse_a_picture_over_the_limit_for_little(
    record_property: Callable[[str, object], None],
) -> None:
    verdict, *figures = proof("").split()
    seconds, memory = map(float, figures)
    figure = f"{1000 * seconds:.0f} ms of CPU, {memory / 1e6:.1f} MB"
    sys.stdout.write(f"figure: 10: proof of the codec's limit: {figure}\n")
    record_property("proof of the codec's limit", figure)
    assert verdict == "refused"
    assert seconds < 0.05 * 4  # 50 ms, here on a machine that others load as well
    assert memory < 20e6


@pytest.mark.parametrize("limit", ["1", "10k", "300M"])
def test_every_limit_is_seen_to_hold(limit: str) -> None:
    assert proof("", FALCONIMG_MAX_PIXELS=limit).startswith("refused ")


@pytest.mark.parametrize(
    ("first", "came"),
    [
        ("import cv2", "none"),
        ("import cv2; cv2.imdecode = lambda *_: None", "none"),
        # OpenCV read another limit, of the sides: it refuses, but would take as many pixels in another shape
        ("import os; os.environ['OPENCV_IO_MAX_IMAGE_WIDTH'] = '99'; import cv2", "CV_IO_MAX_IMAGE_WIDTH"),
    ],
)
def test_a_codec_that_does_not_refuse_it_for_its_pixels_is_told_of(first: str, came: str) -> None:
    said = proof(first, FALCONIMG_MAX_PIXELS="10k")
    assert said.startswith("FALCONIMG_MAX_PIXELS: expected OpenCV to refuse 110x110 pixels as more than 10000, came ")
    assert came in said
    assert said.endswith("which may not happen before falconimg is")
    assert "\n" not in said


GUNICORN = {
    "bind": ("127.0.0.1:18080", "127.0.0.1:18080"),
    "workers": ("5", 5),
    "threads": ("3", 3),
    "worker_connections": ("512", 512),
    "timeout": ("0.4", 1),
    "keepalive": ("7.5", 8),
    "limit_request_line": ("1000", 1000),
    "loglevel": ("error", "error"),
}
VARIABLES = {"timeout": "TIMEOUT_SECONDS", "keepalive": "KEEPALIVE_SECONDS", "limit_request_line": "MAX_REQUEST_LINE",
             "loglevel": "LOG_LEVEL", "worker_connections": "CONNECTIONS"}  # fmt: skip


def gunicorn_settings(**environ: str) -> dict[str, Any]:
    """What gunicorn reads under these variables."""
    script = (
        "import json, runpy; found = runpy.run_module('falconimg.gunicorn_conf')\n"
        "print(json.dumps({k: v for k, v in found.items() if isinstance(v, (str, int, bool, type(None)))}))"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(
        command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60, check=True
    )
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_every_number_of_gunicorns_is_a_setting() -> None:
    environ = {f"FALCONIMG_{VARIABLES.get(name, name.upper())}": text for name, (text, _) in GUNICORN.items()}
    found = gunicorn_settings(**environ, FALCONIMG_GRACEFUL_SECONDS="7", FALCONIMG_IMAGE_SECONDS="20.5")
    assert {name: found[name] for name in GUNICORN} == {name: value for name, (_, value) in GUNICORN.items()}
    assert found["graceful_timeout"] == 33  # the last image may be begun at the end of the graceful time, and hang


def test_gunicorns_heartbeat_and_control_socket_touch_no_disk() -> None:
    found = gunicorn_settings()
    assert found["worker_class"] == "falconimg.worker.Worker"
    assert found["control_socket_disable"] is True
    memory = Path("/dev") / "shm"
    assert found["worker_tmp_dir"] == (str(memory) if memory.is_dir() else None)
    assert found["wsgi_app"] == "falconimg.app:create_app()"


@pytest.mark.parametrize("fsync", [True, False])
def test_fsync_can_be_turned_off(fsync: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    app = create_app(Settings(root=tmp_path, fsync=fsync))
    app.pipeline.store.publish([File("a", b"a")], "overwrite")
    assert bool(synced) is fsync
