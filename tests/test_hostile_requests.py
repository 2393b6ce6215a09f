"""Requests made to cost much: refused in under 50 ms of CPU and 2 kB of answer, echoing little and forging nothing."""

from __future__ import annotations

import contextlib
import io
import json
import re
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from falcon.testing import create_environ

from falconimg.operations import _parse_string
from falconimg.stores.memory import Memory
from tests.conftest import Result, Serve, Server, encoded, noise
from tests.serving import SECONDS, serving
from tests.serving import Server as Gunicorn

ROUTES = ["/v1/process", "/items/"]
MOST = 5_000_000  # bytes, half of what a body may have: reading all of 10 MB of spaces takes 35 ms by itself
IMAGE = {"input": "a.png", "output": "b.png"}


@pytest.fixture
def memory(serve: Serve) -> Server:
    return serve(Memory({"in/a.png": encoded(noise(6, 8))}))


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def filled(size: int, head: bytes, repeated: bytes, tail: bytes = b"") -> bytes:
    """A body of the size, but for less than one repetition."""
    return head + repeated * ((size - len(head) - len(tail)) // len(repeated)) + tail


def keys(count: int) -> dict[str, int]:
    return {f"key{number}": 0 for number in range(count)}


STEPS = b'{"images":[{"input":"a","output":"b.png"}],"operations":["'
# The body of a size, if it has no size of its own, and the status.
COSTLY: dict[str, tuple[Callable[[int], bytes], int]] = {
    "levels of arrays": (lambda size: b"[" * size, 400),
    "levels of objects": (lambda size: filled(size, b"", b'{"a":'), 400),
    "33 levels, again and again": (lambda size: filled(size, b"[", b"[" * 33 + b"]" * 33 + b",", b"0]"), 400),
    "a number": (lambda size: b"9" * size, 400),
    "a fraction": (lambda size: filled(size, b"0.", b"9"), 400),
    "an exponent": (lambda size: filled(size, b"1e", b"9"), 400),
    "zeros, then NaN": (lambda size: filled(size, b"[", b"0,", b"NaN]"), 400),
    "zeros, then 1e400": (lambda size: filled(size, b"[", b"0,", b"1e400]"), 400),
    "100,000 zeros, then NaN": (lambda _: filled(200_000, b"[", b"0,", b"NaN]"), 400),
    "15,000 keys, the first one twice": (lambda _: compact(keys(15_000))[:-1] + b',"key0":0}', 400),
    "one key again and again": (lambda size: filled(size, b"{", b'"a":0,', b'"a":0}'), 400),
    "700,000 keys": (lambda _: compact({"images": 0, **keys(700_000)}), 400),
    "30,000 keys": (lambda _: compact({"images": 0, **keys(30_000)}), 400),
    "1,000 keys that nobody knows": (lambda _: compact({"images": 0, **keys(999)}), 422),
    "30,000 keys of a step": (lambda _: compact({"images": 0, "operations": [{"op": "blur", **keys(30_000)}]}), 400),
    "a key": (lambda size: filled(size, b'{"images":0,"', b"x", b'":0}'), 422),
    "a key of escapes": (lambda size: filled(size, b'{"images":0,"', b"\\u0000", b'":0}'), 422),
    "a string": (lambda size: filled(size, b'{"images":"', b"x", b'"}'), 422),
    "a string of escapes": (lambda size: filled(size, b'{"images":"', b"\\ud83d\\ude00", b'"}'), 422),
    "a path": (lambda size: filled(size, b'{"images":[{"output":"a.png","input":"', b"x", b'"}]}'), 422),
    "a colour": (lambda size: filled(size, b'{"images":[{}],"background":"', b"f", b'"}'), 422),
    "a colour of line ends": (lambda size: filled(size, b'{"images":[{}],"background":"', b"\\n", b'"}'), 422),
    "a step": (lambda size: filled(size, STEPS, b"x", b'"]}'), 422),
    "a step of 225,000 arguments": (lambda _: filled(900_000, STEPS + b"resize=9", b",b:c", b'"]}'), 422),
    "arrays": (lambda size: filled(size, b'{"images":[', b"[],", b"0]}"), 400),
    "objects": (lambda size: filled(size, b'{"images":[', b"{},", b"0]}"), 400),
    "10,000 bad images": (lambda _: compact({"images": [{}] * 10_000}), 422),
    "64 steps of 200 keys": (lambda _: compact({"images": 0, "operations": [{"op": "blur", **keys(200)}] * 64}), 422),
    "UTF-16": (lambda size: ('{"images":"' + "x" * (size // 2)).encode("utf-16"), 400),
    "UTF-16 without its mark": (lambda size: ('{"images":"' + "x" * (size // 2 - 99)).encode("utf-16-le"), 400),
    "another byte at the end": (lambda size: filled(size, b'"', b"x", b'\xff"'), 400),
    "spaces": (lambda size: b" " * size, 400),
    "line ends, then a fault": (lambda size: filled(size, b"", b"\n", b"x"), 400),
    "a byte more than the limit": (lambda _: b" " * 10_000_001, 413),
}  # fmt: skip


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", COSTLY)
def test_a_costly_body_is_refused_in_under_50_ms(
    name: str, route: str, memory: Server, long: bool, record_property: Callable[[str, object], None]
) -> None:
    make, status = COSTLY[name]
    body = make(MOST if long else 2 * MOST // 5)
    least = 1.0
    for _ in range(5):  # CPU time, too, is longer where a neighbour has the caches: the least one counts
        result, taken = timed(memory, route, body)
        refused(result, status, len(body))
        least = min(least, taken)
        if least < 0.02:
            break
    record_property("seconds", least)
    print(f"figure: 18: {name}, {route}, ms: {least * 1000:.1f}")  # noqa: T201
    assert least < 0.05
    assert list(memory.tree()) == ["in/a.png"]


def test_as_many_keys_as_are_read_at_all_take_a_fraction_of_a_second(
    memory: Server, record_property: Callable[[str, object], None]
) -> None:
    body = compact(keys(249_000))[:-1] + b',"key0":0}'
    result, taken = timed(memory, "/v1/process", body)
    record_property("seconds", taken)
    print(f"figure: 18: 249,000 keys, ms: {taken * 1000:.0f}")  # noqa: T201
    refused(result, 400)
    assert taken < 0.6  # 0.2 where nothing else runs


def timed(server: Server, route: str, body: bytes) -> tuple[Result, float]:
    """The answer, and the CPU seconds that it took."""
    environ = create_environ(route, method="POST", headers={"Host": "localhost", "Content-Type": "application/json"})
    environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
    answered: list[Any] = []

    def start(status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> Any:
        answered.extend([status, headers])

    begun = time.thread_time()
    chunks = server.app(environ, start)
    taken = time.thread_time() - begun
    return Result(chunks, *answered), taken


def refused(result: Result, status: int, size: int = 0) -> list[dict[str, str]]:
    """The places of a refusal, once its form is checked."""
    assert result.status_code == status
    assert len(result.content) < 2048
    assert result.text.isascii()
    assert result.text.isprintable()
    places: list[dict[str, str]] = result.json.get("errors", [])
    assert len(places) <= (1 if size > 256_000 else 10)
    for text in (result.json["detail"], *(text for place in places for text in place.values())):
        assert text.isascii()
        assert text.isprintable() or text == ""
    return places


@pytest.mark.parametrize("fill", ["Z", "\n", '"', "\\", "\x7f", "\u2028", "\U0001f600"])
@pytest.mark.parametrize("length", [99, 300])
def test_ten_places_that_echo_all_they_may_stay_below_2_kb(fill: str, length: int, memory: Server) -> None:
    long = fill * length
    images = [{"input": "a", "output": f"{n}{long}", long: 0, "quality": long, "background": long} for n in range(20)]
    documents: list[dict[str, Any]] = [
        {"images": images},
        {"images": [IMAGE], "operations": [{"op": f"{n}{long}"} for n in range(20)]},
        {"images": [IMAGE], "operations": [f"resize={n}{long}" for n in range(20)]},
        {"images": [{"input": "a", "output": f"{n}{long}.exe"} for n in range(20)]},
        {"images": [IMAGE], **{f"{n}{long}": 0 for n in range(20)}},
    ]
    for document in documents:
        assert refused(memory.post("/v1/process", document), 422)


X = "Z" * 3000
ECHOES: dict[str, dict[str, Any]] = {
    "a key": {"images": [IMAGE], X: 0},
    "an image's key": {"images": [{**IMAGE, X: 0}]},
    "a step's key": {"images": [IMAGE], "operations": [{"op": "resize", X: 0}]},
    "the images": {"images": X},
    "an image": {"images": [X]},
    "an input": {"images": [{"input": f"../{X}", "output": "b.png"}]},
    "an input of long components": {"images": [{"input": f"a/{X}/b", "output": "b.png"}]},
    "an output": {"images": [{"input": "a.png", "output": X}]},
    "an output's extension": {"images": [{"input": "a.png", "output": f"a.{X}"}]},
    "an output's field": {"images": [{"input": "a.png", "output": f"{{{X}}}.png"}]},
    "an output's directory": {"images": [{"input": "a.png", "output": f"../{X}.png"}]},
    "a quality": {"images": [IMAGE], "quality": X},
    "a background": {"images": [IMAGE], "background": X},
    "an enum": {"images": [IMAGE], "if_exists": X},
    "a switch": {"images": [IMAGE], "dry_run": X},
    "a step": {"images": [IMAGE], "operations": [X[:999]]},
    "a longer step": {"images": [IMAGE], "operations": [X]},
    "a step's name": {"images": [IMAGE], "operations": [{"op": X}]},
    "a step's value": {"images": [IMAGE], "operations": [f"resize={X[:900]}"]},
    "a step's argument": {"images": [IMAGE], "operations": [f"resize=9x9,fit:{X[:900]}"]},
    "a step's argument's name": {"images": [IMAGE], "operations": [f"resize=9x9,{X[:900].lower()}:1"]},
    "a step object's value": {"images": [IMAGE], "operations": [{"op": "crop", "width": 1, "height": 1, "gravity": X}]},
}


@pytest.mark.parametrize("document", ECHOES.values(), ids=ECHOES)
def test_of_what_came_at_most_100_characters_are_echoed(document: dict[str, Any], memory: Server) -> None:
    result = memory.post("/v1/process", document)
    refused(result, 403 if "../" in json.dumps(document) else 422)
    assert all(len(run) <= 100 for run in re.findall("[zZ]+", result.text))


@pytest.mark.parametrize("header", ["Content-Type", "Content-Encoding", "Host", "X-Request-ID"])
def test_of_a_header_at_most_100_characters_are_echoed(header: str, memory: Server) -> None:
    result = memory.post("/v1/process", {"images": []}, headers={header: X})
    assert result.status_code in (415, 421, 422)
    assert all(len(run) <= 100 for run in re.findall("Z+", result.text + str(result.headers)))


def test_of_a_url_at_most_100_characters_are_echoed(memory: Server) -> None:
    result = memory.client.simulate_get(f"/{X}")
    assert result.status_code == 404
    assert all(len(run) <= 100 for run in re.findall("Z+", result.text))


CONTROL = "\n2026-01-01 error   forged\r\x1b[31m\x07\x85\u2028"


@pytest.mark.parametrize("form", ["plain", "json"])
def test_control_characters_forge_no_line_of_the_log(
    form: str, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(Memory(), log=form)
    capsys.readouterr()
    images = [{"input": f"in{CONTROL}", "output": f"out{CONTROL}.png"}]
    headers = {"X-Request-ID": CONTROL.replace("\x85\u2028", "")}
    assert server.post("/items/", {"images": images, "operations": ["blur=24"]}, headers=headers).status_code == 200
    assert server.process([{"input": f"in{CONTROL}", "output": f"o{CONTROL}.png"}]).status_code == 422
    lines = capsys.readouterr().err.split("\n")
    assert lines.pop() == ""
    assert len(lines) >= 2
    assert any("forged" in line for line in lines)
    for line in lines:
        assert line.isascii()
        assert line.isprintable()
        assert line.startswith("{" if form == "json" else "2")
        assert not line.startswith("2026-01-01")


def test_a_long_step_is_not_kept(memory: Server) -> None:
    _parse_string.cache_clear()
    document = {"images": [IMAGE], "operations": ["split=" + "x" * 10**6]}
    for route in ROUTES:
        refused(memory.post(route, document), 422, 10**6)
    assert _parse_string.cache_info().currsize == 0


# The real server


@pytest.fixture(scope="module")
def gunicorn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    with serving(tmp_path_factory.mktemp("hostile"), workers="1", max_body="100000") as running:
        yield running


def sent(
    server: Gunicorn, headers: str, body: bytes = b"", piece: bytes = b"", pieces: int = 0
) -> tuple[int, bytes, int]:
    """(status, all that was answered, how many pieces could be sent before the answer) of POST /v1/process."""
    head = f"POST /v1/process HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}\r\n\r\n"
    count, answer = 0, b""
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
        # a server that refuses what still comes cuts the connection; what it answered before can be read
        with contextlib.suppress(ConnectionError):
            connection.sendall(head.encode() + body)
            while count < pieces and not select.select([connection], [], [], 0)[0]:
                connection.sendall(piece)
                count += 1
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                answer += part
    status = re.match(rb"HTTP/1\.1 (\d+) ", answer)
    assert status, answer
    return int(status[1]), answer, count


def test_a_length_over_the_limit_is_refused_before_a_byte_of_the_body_came(gunicorn: Gunicorn) -> None:
    begun = time.monotonic()
    status, answer, _ = sent(gunicorn, "Content-Length: 100001\r\nConnection: close")
    assert status == 413
    assert b"/problems/body-too-large" in answer
    assert time.monotonic() - begun < 5  # it did not wait for the body


def test_an_endless_chunked_body_is_cut_at_the_limit(gunicorn: Gunicorn) -> None:
    piece = b"2710\r\n" + b" " * 10_000 + b"\r\n"
    status, answer, count = sent(gunicorn, "Transfer-Encoding: chunked", b"", piece, 10_000)
    assert status == 413
    assert b"/problems/body-too-large" in answer
    assert count < 5_000  # 50 MB: what the sockets hold, and no more


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "x-gzip"])
def test_a_coded_body_is_a_415(coding: str, gunicorn: Gunicorn) -> None:
    status, answer, _ = sent(gunicorn, f"Content-Encoding: {coding}\r\nContent-Length: 2\r\nConnection: close", b"{}")
    assert (status, b"/problems/media-type" in answer) == (415, True)
    body = b"2\r\n{}\r\n0\r\n\r\n"
    status, answer, _ = sent(gunicorn, f"Transfer-Encoding: {coding}, chunked\r\nConnection: close", body)
    assert status in (400, 415)  # gunicorn's parser lets some of them pass


def test_a_chunked_body_is_not_taken_for_an_empty_one(gunicorn: Gunicorn) -> None:
    status, answer, _ = sent(
        gunicorn, "Transfer-Encoding: chunked\r\nConnection: close", b'd\r\n{"images": 0}\r\n0\r\n\r\n'
    )
    assert status == 422
    assert b'"/images"' in answer


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Content-Length: +2",
        "Content-Length: 0x2",
        "Content-Length: 2_0",
    ],
)
def test_a_body_whose_end_two_readers_may_see_elsewhere_is_refused(headers: str, gunicorn: Gunicorn) -> None:
    status, _, _ = sent(gunicorn, headers + "\r\nConnection: close", b"{}")
    assert status in (400, 501)
