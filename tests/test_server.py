"""The real gunicorn, with several workers, on a free port of 127.0.0.1."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from falconimg.formats import FORMATS
from falconimg.settings import Settings
from tests import pictures
from tests.serving import SECONDS, Server, free_port, read, serving, without_opencvs, write


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), workers="3", log="json") as running:
        yield running


def test_a_batch_becomes_files_with_the_right_pixels(server: Server) -> None:
    pixels = pictures.noise(31, 45)
    status, report = server.process_batch([write(server.root, "in/batch.png", pixels)], "split")
    assert status == 200
    assert [output["path"] for output in report["images"][0]["outputs"]] == [f"out/batch_{n}.png" for n in range(1, 5)]
    quadrants = [pixels[:15, :22], pixels[:15, 22:], pixels[15:, :22], pixels[15:, 22:]]
    for number, quadrant in enumerate(quadrants, 1):
        assert np.array_equal(read(server.root / f"out/batch_{number}.png"), quadrant)


def test_there_are_as_many_workers_as_set(server: Server) -> None:
    server.wait_for(lambda: len(server.workers()) >= 3)  # it answers as soon as one does
    assert len(set(server.workers())) == len(server.workers()) == 3


def test_two_long_requests_overlap(server: Server) -> None:
    images = [write(server.root, f"in/long{n}.png", pictures.noise(900, 900)) for n in range(2)]
    bar = threading.Barrier(2)

    def ask(image: dict[str, str]) -> float:
        bar.wait(SECONDS)
        status, report = server.process_batch([image], "resize=3", "blur=31")
        assert status == 200
        return float(report["ms"]) / 1000

    begun = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        spans = list(pool.map(ask, images))
    assert time.monotonic() - begun < 0.85 * sum(spans)


def test_a_hundred_concurrent_batches_all_come_out_right(server: Server) -> None:
    sources = {n: pictures.noise(20 + n % 7, 24 + n % 5, seed=n) for n in range(100)}
    images = {n: write(server.root, f"in/hundred/{n}.png", pixels) for n, pixels in sources.items()}

    def flipped(image: dict[str, str]) -> tuple[int, Any]:
        return server.process_batch([image], "flip=h")

    with ThreadPoolExecutor(50) as pool:
        answers = dict(zip(images, pool.map(flipped, images.values()), strict=True))
    assert {status for status, _ in answers.values()} == {200}
    for n, pixels in sources.items():
        assert np.array_equal(read(server.root / images[n]["output"]), pixels[:, ::-1])


def test_a_chunked_body_is_read(server: Server) -> None:
    body = json.dumps({"images": [write(server.root, "in/chunked.png", pictures.noise(8, 8))]}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    chunks = (body[start : start + 7] for start in range(0, len(body), 7))
    connection.request(
        "POST", "/v1/process", chunks, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"},
        encode_chunked=True,
    )  # fmt: skip
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["done"]) == (200, 1)
    connection.close()


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("Content-Length: 100", b'{"images": []}'),
        ("Transfer-Encoding: chunked", b'f\r\n{"images": [\r\n'),
        ("Transfer-Encoding: chunked", b"zz\r\n{}\r\n0\r\n\r\n"),
    ],
)
def test_a_body_that_ends_early_or_is_badly_chunked_is_a_400(server: Server, head: str, body: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
        connection.sendall(
            f"POST /v1/process HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{head}\r\n\r\n".encode()
            + body
        )
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 400 "), answer


def test_the_access_line_carries_the_request_id(server: Server) -> None:
    server.ask("GET", "/?x=%0A", X_Request_ID="the-id-of-this-test")

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in server.log.splitlines() if "the-id-of-this-test" in line]

    server.wait_for(lines)
    line = lines()[0]
    assert (line["event"], line["status"], line["path"], line["method"]) == ("access", 200, "/?x=%0A", "GET")


def test_a_request_line_of_eight_kilobytes_is_taken(server: Server) -> None:
    assert server.ask("GET", "/?op=" + "x" * 8000)[0] == 200


def test_gunicorn_opens_no_control_socket(server: Server) -> None:
    assert not [path for path in server.root.rglob("*") if path.is_socket() or path.name == ".gunicorn"]


def stray(root: Path, number: int) -> Path:
    """A temporary file as a process of another host left it two days ago."""
    path = root / f".falconimg-000000000000-1-1-{number:016x}.tmp"
    path.write_bytes(b"half")
    os.utime(path, (time.time() - 172_800,) * 2)
    return path


def test_strays_are_swept_at_the_start_and_when_a_worker_is_replaced(tmp_path: Path) -> None:
    first = stray(tmp_path, 1)
    with serving(tmp_path, workers="2") as server:
        server.wait_for(lambda: not first.exists() and len(server.workers()) == 2)
        second = stray(tmp_path, 2)
        os.kill(server.workers()[0], signal.SIGKILL)
        server.wait_for(lambda: not second.exists())
        assert len(server.workers()) == 3


def test_a_killed_worker_is_replaced_and_what_it_left_is_swept(tmp_path: Path) -> None:
    pixels = pictures.noise(1200, 1200)
    images = [write(tmp_path, f"in/{n}.png", pixels) for n in range(8)]
    with serving(tmp_path, workers="2") as server:
        server.wait_for(lambda: len(server.workers()) == 2)  # it answers as soon as one does
        before = server.workers()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(server.process_batch, images, "resize=2")
            server.wait_for(lambda: any((tmp_path / "out").glob("*.png")))
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            assert isinstance(asked.exception(SECONDS), OSError | http.client.HTTPException)
        server.wait_for(lambda: len(server.workers()) >= 4)
        for path in (tmp_path / "out").glob("*.png"):
            assert read(path).shape == (2400, 2400, 3)
        assert server.process_batch(images[:1], "resize=2")[0] == 200
        server.wait_for(lambda: not list(tmp_path.rglob(".falconimg-*")))


def test_requests_that_compete_for_little_memory_all_end(tmp_path: Path) -> None:
    images = [write(tmp_path, f"in/{n}.png", pictures.noise(900, 1200, seed=n)) for n in range(6)]
    with serving(tmp_path, workers="1", pool="2", memory="20M") as server, ThreadPoolExecutor(8) as clients:

        def ask(client: int) -> int:
            mine = [{**image, "output": f"out/{client}/{n}.png"} for n, image in enumerate(images)]
            return server.process_batch(mine, "resize=0.1")[0]

        assert list(clients.map(ask, range(8))) == [200] * 8


def test_sigterm_lets_an_accepted_request_finish(tmp_path: Path) -> None:
    images = [write(tmp_path, f"in/{n}.png", pictures.noise(500, 500, seed=n)) for n in range(12)]
    with serving(tmp_path, workers="2") as server, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.process_batch, images, "resize=2")
        server.wait_for(lambda: any((tmp_path / "out").glob("*.png")))
        server.process.terminate()
        status, report = asked.result(SECONDS)
        assert (status, report["done"]) == (200, 12)
        assert server.process.wait(SECONDS) == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 12


def test_after_the_graceful_time_images_not_begun_are_reported_as_stopping(tmp_path: Path) -> None:
    images = [write(tmp_path, f"in/{n}.png", pictures.noise(700, 700, seed=n)) for n in range(40)]
    with serving(tmp_path, workers="2", graceful_seconds="0.1", pool="1") as server, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.process_batch, images, "resize=2")
        server.wait_for(lambda: any((tmp_path / "out").glob("*.png")))
        server.process.terminate()
        status, report = asked.result(SECONDS)
        assert server.process.wait(SECONDS) == 0
    errors = [image["error"]["type"] for image in report["images"] if image["status"] == "failed"]
    assert status == 207
    assert set(errors) == {"/problems/stopping"}
    done = [image["outputs"][0]["path"] for image in report["images"] if image["status"] == "done"]
    assert sorted(done) == sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "out").glob("*.png"))
    assert len(done) + len(errors) == 40


def test_a_stop_that_comes_while_workers_are_being_forked_stops_them(tmp_path: Path) -> None:
    slow = "from falconimg.gunicorn_conf import *\nimport time\ndef post_fork(server, worker): time.sleep(1)\n"
    (tmp_path / "slow.py").write_text(slow)
    with serving(tmp_path, configuration="slow.py", workers="2") as server:
        server.process.send_signal(signal.SIGHUP)
        server.wait_for(lambda: len(server.workers()) == 4)
        server.process.terminate()
        assert server.process.wait(SECONDS / 2) == 0  # and not after all the graceful time


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("FALCONIMG_WORKERS", "0", "FALCONIMG_WORKERS: expected a whole number from 1 to 256, came '0'"),
        ("FALCONIMG_WORKER", "2", "FALCONIMG_WORKER is not a setting; did you mean FALCONIMG_WORKERS?"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(tmp_path: Path, name: str, value: str, line: str) -> None:
    command = [sys.executable, "-m", "gunicorn", "-c", "python:falconimg.gunicorn_conf"]
    ended = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, name: value}, capture_output=True, text=True, timeout=SECONDS
    )
    assert ended.returncode == 1
    assert ended.stderr == f"falconimg: {line}\n"


@pytest.mark.parametrize("workers", ["1", "4"])
def test_a_codec_without_its_limit_stops_the_start_with_one_line(tmp_path: Path, workers: str) -> None:
    ended = start(tmp_path, "import cv2", FALCONIMG_WORKERS=workers)
    assert ended.returncode == 1
    begun, line = ended.stderr.splitlines()
    assert "Starting gunicorn" in begun
    assert line.startswith("falconimg: FALCONIMG_MAX_PIXELS: expected OpenCV to refuse 7746x7746 pixels")


def test_a_format_that_there_is_not_stops_the_start_with_one_line(tmp_path: Path) -> None:
    ended = start(tmp_path, "", FALCONIMG_FORMATS="png,jpg")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[1:] == [
        f"falconimg: FALCONIMG_FORMATS: expected names of {', '.join(FORMATS)}, came 'jpg'"
    ]


HOOK = """
from types import SimpleNamespace
from falconimg import gunicorn_conf as conf
conf.log.configure(conf.settings)
cfg = SimpleNamespace(bind=["127.0.0.1:1", "0.0.0.0:1", "unix:/x"], address=[], workers=2)
conf.on_starting(SimpleNamespace(app=SimpleNamespace(wsgi=lambda: None), cfg=cfg, master_pid=0))
"""


@pytest.mark.parametrize(("environ", "lines"), [({}, 1), ({"FALCONIMG_TOKEN": "sesame-sesame-sesame"}, 0)])
def test_a_server_for_others_without_a_token_warns_once(environ: dict[str, str], lines: int) -> None:
    # no test listens where others could connect: gunicorn's hook is run by itself
    ended = subprocess.run(
        [sys.executable, "-c", HOOK], env={**os.environ, **environ}, capture_output=True, text=True, check=True
    )
    assert ended.stderr.count("open_to_others bind=0.0.0.0:1") == len(ended.stderr.splitlines()) == lines


@pytest.mark.parametrize(("token", "lines"), [({}, 1), ({"FALCONIMG_TOKEN": "sesame-sesame-sesame"}, 0)])
def test_a_server_for_all_pages_without_a_token_warns_once(token: dict[str, str], lines: int) -> None:
    environ = {**os.environ, "FALCONIMG_CORS": "*", **token}
    hook = HOOK.replace('"0.0.0.0:1", ', "")
    ended = subprocess.run([sys.executable, "-c", hook], env=environ, capture_output=True, text=True, check=True)
    assert ended.stderr.count("open_to_pages cors=*") == len(ended.stderr.splitlines()) == lines


def test_gunicorns_own_options_are_what_the_workers_go_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.png", pictures.noise(8, 8))
    port = free_port()
    monkeypatch.setenv("GUNICORN_CMD_ARGS", f"--bind unix:{tmp_path}/socket --bind 127.0.0.1:{port} --workers 1")
    monkeypatch.setattr("tests.serving.free_port", lambda: port)
    with serving(tmp_path, bind=f"unix:{tmp_path}/other", workers="4", jobs="off") as running:
        assert running.ask("GET", "/v1/info/a.png", Host="evil.example")[0] == 421
        assert running.ask("GET", "/v1/info/a.png")[0] == 200
        assert len(running.workers()) == 1
        whole = re.search(
            r"^falconimg_memory_budget_bytes ([0-9.e+]+)$", running.ask("GET", "/metrics")[1], re.MULTILINE
        )
    assert whole
    assert float(whole[1]) == Settings(workers=1, jobs=False).budget


def test_an_address_that_another_has_is_named_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        environ = {**os.environ, "FALCONIMG_BIND": place, "FALCONIMG_ROOT": str(tmp_path), "FALCONIMG_JOBS": "off"}
        command = [sys.executable, "-m", "gunicorn", "-c", "python:falconimg.gunicorn_conf"]
        ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=SECONDS, check=False)
    said = [line for line in ended.stderr.splitlines() if "Starting gunicorn" not in line]
    assert ended.returncode == 1
    assert said == [
        f"falconimg: FALCONIMG_BIND: expected an address that is free here, came {place}: Address already in use"
    ]


def test_a_server_on_loopback_does_not_warn(server: Server) -> None:
    assert "open_to_others" not in server.log


def test_a_token_is_asked_for_and_never_logged(tmp_path: Path) -> None:
    token = "sesame-sesame-sesame"  # noqa: S105
    image = write(tmp_path, "in/a.png", pictures.noise(8, 8))
    with serving(tmp_path, token=token, log_level="debug") as server:
        status, answer, headers = server.ask("POST", "/v1/process", {"images": [image]})
        assert (status, answer["type"]) == (401, "/problems/token")
        assert headers["www-authenticate"] == 'Bearer realm="falconimg"'
        status, answer, _ = server.ask("POST", "/v1/process", {"images": [image]}, Authorization=f"Bearer {token}")
        assert (status, answer["done"]) == (200, 1)
        for path in ("/", "/readyz", "/openapi.json"):
            assert token not in json.dumps(server.ask("GET", path)[1])
        assert "POST" in server.log
    assert token not in server.log


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/v1/process", "/nope", "/docs", "/readyz"])
def test_every_answer_says_nosniff_and_neither_versions_nor_cors(server: Server, method: str, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    asked = {"Origin": "http://elsewhere.test", "Access-Control-Request-Method": "POST"}
    connection.request(method, path, headers=asked)
    headers = {name.lower(): value for name, value in connection.getresponse().getheaders()}
    connection.close()
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["server"] == "gunicorn"
    assert not [name for name in headers if name.startswith("access-control-") or name == "x-powered-by"]


def start(root: Path, first: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """gunicorn, run to its end in a process that begins with this line."""
    script = f"{first}\nfrom gunicorn.app.wsgiapp import run\nrun()"
    command = [sys.executable, "-c", script, "-c", "python:falconimg.gunicorn_conf"]
    environ = {**without_opencvs(os.environ), "FALCONIMG_BIND": f"127.0.0.1:{free_port()}", **environ}
    return subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, timeout=SECONDS)


def test_the_checkouts_configuration_is_the_packages() -> None:
    checkout = Path(__file__).parent.parent
    script = "import runpy; print(runpy.run_path('gunicorn.conf.py')['wsgi_app'])"
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=SECONDS)
    assert ended.stdout == "falconimg.app:create_app()\n"


SLOW = """
import time
from falconimg import formats
real = formats.load
def load(data, header, how):
    time.sleep(1)
    return real(data, header, how)
formats.load = load
"""


def with_site(monkeypatch: pytest.MonkeyPatch, root: Path, code: str) -> None:
    """Servers that are started now run this code first."""
    (root / "site").mkdir()
    (root / "site" / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root / "site"), os.environ.get("PYTHONPATH", "")]))


def test_images_that_wait_for_a_thread_are_reported_as_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_site(monkeypatch, tmp_path, SLOW)
    image = write(tmp_path, "in/a.png", pictures.noise(9, 9))
    times = {"graceful_seconds": "0.5", "image_seconds": "2"}
    with serving(tmp_path, workers="1", pool="1", **times) as server, ThreadPoolExecutor(14) as clients:
        asked = [clients.submit(server.process_batch, [image | {"output": f"out/{n}.png"}]) for n in range(14)]
        time.sleep(0.5)
        server.process.terminate()
        reports = [future.result(SECONDS)[1]["images"][0] for future in asked]
    found = {(image["status"], image.get("error", {}).get("type")) for image in reports}
    assert found == {("done", None), ("failed", "/problems/stopping")}


def test_a_hung_disk_takes_neither_liveness_nor_the_worker_s_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung = """
import time
from falconimg.stores import files
real = files.Files.size
def size(self, path, limit):
    if path == "in/a.png":
        time.sleep(120)
    return real(self, path, limit)
files.Files.size = size
"""
    with_site(monkeypatch, tmp_path, hung)
    image, fine = (write(tmp_path, f"in/{name}.png", pictures.noise(9, 9)) for name in "ab")
    times = {"graceful_seconds": "1", "image_seconds": "1"}
    with serving(tmp_path, workers="2", **times) as server, ThreadPoolExecutor(1) as clients:
        asked = clients.submit(server.process_batch, [image])
        server.wait_for(lambda: "worker_hangs" in server.log and len(server.workers()) == 3, 15)
        for _ in range(20):
            assert server.ask("GET", "/livez")[0] == 200
            assert server.process_batch([fine])[0] == 200
        # it is ended though Python would wait for its thread
        server.wait_for(lambda: len(children(server.process.pid)) == 2, 30)
        assert isinstance(asked.exception(SECONDS), OSError | http.client.HTTPException)


def test_a_refusal_says_why_in_the_log(tmp_path: Path) -> None:
    with serving(tmp_path, workers="1", log="json") as server:
        server.ask("POST", "/v1/process", {"images": [{"input": "../x", "output": "y.png"}]})
        server.ask("POST", "/v1/process", {"images": [], "operations": []})
        lines = [json.loads(line) for line in server.log.splitlines() if '"refused"' in line]
        assert [(line["status"], line["pointer"]) for line in lines] == [(403, "/images/0/input"), (422, "/images")]


HANGS = """
import time
from falconimg import formats
real = formats.load
def load(data, header, how):
    if header.width == 77:
        time.sleep(120)  # as a native call that does not return: it holds no lock
    return real(data, header, how)
formats.load = load
"""


@pytest.mark.parametrize("workers", ["1", "3"])
def test_a_worker_in_which_a_step_hangs_is_replaced_without_cutting_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    with_site(monkeypatch, tmp_path, HANGS)
    stuck = write(tmp_path, "in/stuck.png", pictures.noise(50, 77))
    fine = write(tmp_path, "in/fine.png", pictures.noise(50, 78))
    long = [write(tmp_path, f"in/long{n}.png", pictures.noise(100, 100, seed=n)) for n in range(100)]
    with serving(tmp_path, workers=workers, pool="2", image_seconds="3") as server, ThreadPoolExecutor(4) as clients:
        begun = time.monotonic()
        hanging = clients.submit(server.process_batch, [stuck, fine])
        time.sleep(0.5)
        batches = [clients.submit(server.process_batch, long, "resize=5", "blur=31") for _ in range(2)]
        seen: list[tuple[float, int, Any]] = []

        def replaced() -> bool:
            status, answer, _ = server.ask("GET", "/readyz")
            seen.append((time.monotonic() - begun, status, answer["faults"]))
            return "worker_hangs" in server.log and len(server.workers()) == int(workers) + 1 and status == 200

        server.wait_for(replaced, 15)
        status, report = hanging.result(SECONDS)
        assert status == 207
        assert [image["status"] for image in report["images"]] == ["failed", "done"]
        assert report["images"][0]["error"]["type"] == "/problems/deadline"
        red = [moment for moment, status, faults in seen if status == 503]
        assert red
        assert red[0] < 3 + 5
        assert {tuple(faults) for _, status, faults in seen if status == 503} <= {
            ("a step of an image does not return",), ("the server is stopping",),
        }  # fmt: skip
        for batch in batches:
            assert (batch.result(SECONDS)[0], batch.result()[1]["done"]) == (200, 100)
        server.wait_for(lambda: "Worker exiting" in server.log)
        # as many as before, and no more
        server.wait_for(lambda: len(children(server.process.pid)) == int(workers))
        assert server.process_batch([fine])[0] == 200
        assert len(server.workers()) == int(workers) + 1


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_client_that_hangs_up_stops_its_batch_after_the_images_that_run(tmp_path: Path) -> None:
    write(tmp_path, "a.png", pictures.noise(1200, 1200))
    images = [{"input": "a.png", "output": f"out/{number}.png"} for number in range(40)]
    document = json.dumps({"images": images, "operations": ["blur=51"], "precise": True}).encode()
    head = "POST /v1/process HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(document)}\r\n\r\n"
    with serving(tmp_path, workers="1", pool="1", fsync="off") as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(head.encode() + document)
            server.wait_for(lambda: (tmp_path / "out" / "1.png").exists())
        server.wait_for(lambda: "hung_up=1" in server.log and "path=/v1/process" in server.log)
        made = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert 2 <= len(made) < 20
        assert all(name.endswith(".png") for name in made)  # each is whole, no temporary is left
        assert server.ask("GET", "/livez")[0] == 200


def test_the_log_has_no_signature_of_an_address(tmp_path: Path) -> None:
    with serving(tmp_path, workers="1", key="0123456789abcdef") as server:
        assert server.ask("GET", "/v1/image/a.png?op=gray&signature=abcdefgh&quality=80")[0] == 403
        assert server.ask("GET", "/v1/image/a.png?op=flip&%73ignatur%65=abcdefgh")[0] == 403
        server.wait_for(lambda: "path='/v1/image/a.png?op=gray&signature=...&quality=80'" in server.log)
        server.wait_for(lambda: "path='/v1/image/a.png?op=flip&signature=...'" in server.log)
        assert "abcdefgh" not in server.log


def test_what_the_worker_refuses_by_itself_an_allowed_page_may_read(tmp_path: Path) -> None:
    page = "https://pictures.example"
    with serving(tmp_path, workers="1", cors=page) as server:
        for origin, allowed in ((page, page), ("https://evil.example", None)):
            status, _, headers = server.ask("GET", "/", Origin=origin, X_Long="x" * 40_000)
            assert (status, headers.get("access-control-allow-origin")) == (431, allowed)


def test_a_request_that_nobody_waits_for_any_more_when_its_turn_comes_is_not_begun(tmp_path: Path) -> None:
    write(tmp_path, "a.png", pictures.noise(1500, 1500))

    def sent(server: Server, output: str) -> socket.socket:
        document = {"images": [{"input": "a.png", "output": output}], "operations": ["blur=201"], "precise": True}
        body = json.dumps(document).encode()
        head = "POST /v1/process HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client = socket.create_connection(("127.0.0.1", server.port))
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return client

    with serving(tmp_path, workers="1", threads="1", pool="1", fsync="off") as server:
        clients = [sent(server, f"out/{number}.png") for number in range(4)]
        sent(server, "out/gone.png").close()
        server.wait_for(lambda: (tmp_path / "out/3.png").exists())
        for client in clients:
            client.close()
        assert server.process_batch([{"input": "a.png", "output": "out/last.png"}], "resize=8x")[0] == 200
        assert not (tmp_path / "out/gone.png").exists()
