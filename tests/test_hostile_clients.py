"""Clients that are slow, silent, broken or too many, against the real gunicorn with falconimg/worker.py."""

from __future__ import annotations

import http.client
import json
import os
import random
import resource
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pytest
from gunicorn.config import Config
from gunicorn.http import RequestParser
from gunicorn.http.errors import NoMoreData, ParseException
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from falconimg.errors import HeadTooLarge
from falconimg.worker import MAX_HEAD, PIECE, Gathering
from tests import pictures
from tests.load import memory
from tests.serving import SECONDS, Server, serving, write

HEAD = b"Host: localhost\r\nContent-Type: application/json\r\n"
CONFIG = Config()
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
HELD = {
    "silent": b"",
    "one byte": b"G",
    "half a head": GET[:20],
    "half a small body": b"POST /v1/process HTTP/1.1\r\n" + HEAD + b'Content-Length: 100\r\n\r\n{"images": [',
}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        found: dict[str, Any] = json.loads(self.body)
        return found


def connect(server: Server, data: bytes = b"", receive: int = 0) -> socket.socket:
    connection = socket.socket()
    if receive:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    connection.settimeout(SECONDS)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(data)
    return connection


def next_answer(stream: BinaryIO) -> Answer:
    line = stream.readline()
    assert line, "closed without an answer"
    status = int(line.split()[1])
    headers = {name.lower(): value for name, value in http.client.parse_headers(stream).items()}
    return Answer(status, headers, stream.read(int(headers.get("content-length", 0))))


def ask(server: Server, data: bytes) -> Answer:
    """The answer to these bytes, and that the connection ends after it if it says so."""
    with connect(server, data) as connection, connection.makefile("rb") as stream:
        answer = next_answer(stream)
        assert answer.headers["connection"] != "close" or stream.read() == b""
        return answer


def post(body: bytes, *headers: bytes, path: bytes = b"/v1/process") -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: localhost", b"Content-Type: application/json", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def sized(body: bytes) -> bytes:
    return post(body, b"Content-Length: %d" % len(body))


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def padded(size: int) -> bytes:
    """A batch of that many bytes that is refused with 422 when all of it has been read."""
    return b'{"images": []' + b" " * (size - 14) + b"}"


def closed(connection: socket.socket) -> bool:
    """Whether the server has closed it without an answer."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@contextmanager
def held(server: Server, count: int, *data: bytes) -> Iterator[list[socket.socket]]:
    """So many connections of each kind."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 10_000)), hard))
    with ExitStack() as stack:
        yield [stack.enter_context(connect(server, each)) for _ in range(count) for each in data]


def readable(connections: list[socket.socket], after: float = 0) -> list[socket.socket]:
    """Those that have been answered or closed by then."""
    time.sleep(after)
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLIN)
    ready = {number for number, _ in poll.poll(0)}
    return [connection for connection in connections if connection.fileno() in ready]


def milliseconds(asked: Callable[[], int], count: int) -> list[float]:
    """How long each took of so many requests, one after the other; sorted."""
    spans = []
    for _ in range(count):
        begun = time.perf_counter()
        assert asked() == 200
        spans.append((time.perf_counter() - begun) * 1000)
    return sorted(spans)


def percentile(spans: list[float], part: float) -> float:
    return spans[min(len(spans) - 1, int(len(spans) * part))]


def figure(record: Callable[[str, object], None], row: str, what: str, value: str) -> None:
    record(what, value)
    print(f"figure: {row}: {what}: {value}")  # noqa: T201  (for docs/safety.md)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One worker with little of everything, so that its limits are soon met."""
    root = tmp_path_factory.mktemp("hostile")
    sizes = {"max_body": "300k", "max_file": "300k"}
    with serving(root, workers="1", threads="2", queue="4", client_seconds="1", log="json", **sizes) as running:
        yield running


# Where a request ends

WHOLE = {
    "no body": (GET, b""),
    "no headers": (b"GET / HTTP/1.0\r\n\r\n", b""),
    "an empty line before": (b"\r\n" + GET, b""),
    "a length": (sized(b"twelve bytes"), b"twelve bytes"),
    "a length of nothing": (sized(b""), b""),
    "chunks": (post(chunked(b"twelve bytes", 5), b"transfer-encoding:Chunked"), b"twelve bytes"),
    "chunks with more": (
        post(b"5;a=b\r\ntwelv\r\n07 ;c\r\ne bytes\r\n0\r\nX: y\r\nZ: z\r\n\r\n", b"Transfer-Encoding: chunked"),
        b"twelve bytes",
    ),
    "no chunks": (post(b"0\r\n\r\n", b"Transfer-Encoding: chunked"), b""),
}


def parsed(pieces: list[bytes]) -> bytes:
    """The body as gunicorn's parser reads it."""
    parser: Any = RequestParser(CONFIG, pieces, ("127.0.0.1", 1))
    return bytes(next(parser).body.read())


def gathered(*parts: bytes, limit: int = 1000) -> tuple[Gathering, int]:
    """The gathering, and after how many of the parts it was over (0: not yet)."""
    gathering = Gathering(limit, limit, lambda _: True)
    for number, part in enumerate(parts, 1):
        if gathering.feed(part):
            return gathering, number
    return gathering, 0


@pytest.mark.parametrize("name", WHOLE)
def test_a_request_cut_at_any_place_is_gathered_whole_and_not_before_its_end(name: str) -> None:
    wire, body = WHOLE[name]
    for at in range(1, len(wire)):
        gathering, over = gathered(wire[:at], wire[at:] + b"next")
        assert (over, gathering.whole, gathering.rest) == (2, True, b"next"), at
        assert parsed(gathering.pieces) == body
    gathering, over = gathered(*(wire[at : at + 1] for at in range(len(wire))))
    assert (over, gathering.whole, gathering.rest) == (len(wire), True, b"")
    assert parsed(gathering.pieces) == body


FRAGMENTS = [
    b"Content-Length: 5", b"Content-Length: 12", b"content-length:\t5 ", b"Content-Length: 5, 5", b"Content-Length: +5",
    b"Content-Length : 5", b"Content-Length: 0x5", b"Content-Length:", b"Content-Length: 005", b" Content-Length: 5",
    b"Content-Length: \xb2", b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity",
    b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, gzip", b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding : chunked", b"X: y\nContent-Length: 5", b"X: y\rContent-Length: 5", b"X-Content-Length: 5",
    b"X: Content-Length: 5", b"Host: localhost",
]  # fmt: skip
BODIES = [
    b"", b"five!", b"twelve bytes", b"5\r\nfive!\r\n0\r\n\r\n", b"5\r\nfive!\r\n0\r\nX: y\r\n\r\n",
    b"5\nfive!\n0\n\n", b"5 \r\nfive!\r\n0\r\n\r\n", b"5 ;x\r\nfive!\r\n0\r\n\r\n", b"+5\r\nfive!\r\n0\r\n\r\n",
    b"5\r\nfive!!\r\n0\r\n\r\n", b"00005\r\nfive!\r\n00\r\n\r\n", b"5;\r\nx\r\n", b"0\r\nbad trailer\r\n\r\n",
]  # fmt: skip


@effort(max_examples=500, deadline=None)
@given(
    st.sampled_from([b"GET / HTTP/1.1", b"POST / HTTP/1.0", b"\r\nPOST / HTTP/1.1"]),
    st.lists(st.sampled_from(FRAGMENTS), max_size=3),
    st.sampled_from(BODIES),
    st.integers(1, 200),
)
def test_no_request_ends_elsewhere_than_gunicorns_parser_says(
    line: bytes, fields: list[bytes], body: bytes, cut: int
) -> None:
    wire = b"\r\n".join([line, *fields]) + b"\r\n\r\n" + body + GET
    gathering, over = gathered(wire[:cut], wire[cut:], limit=100)
    parser: Any = RequestParser(CONFIG, [wire], ("127.0.0.1", 1))
    try:
        read = next(parser).body.read()
    except (ParseException, NoMoreData):
        return  # the connection ends there
    rest = parser.unreader.read() or b""
    if gathering.whole:
        assert (parsed(gathering.pieces), gathering.rest) == (read, rest[: len(gathering.rest)] if over == 1 else rest)
    else:
        # a coding besides chunked, and a second one, the parser lets pass: the application refuses both
        assert over == 0 or wire.lower().count(b"transfer-encoding") > 1 or b"gzip" in wire


def test_a_broken_or_refused_request_is_handed_over_at_once() -> None:
    for wire in (
        post(b"", b"Content-Length: 1001"),
        post(b"", b"Content-Length: 5", b"Content-Length: 5"),
        post(b"", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        post(b"", b"Content-Length: -5"),
        post(b"zz\r\n", b"Transfer-Encoding: chunked"),
        post(b"5" * 4097, b"Transfer-Encoding: chunked"),
        b"GET / HTTP/1.1\nHost: localhost\n\n",
    ):
        gathering, over = gathered(wire)
        assert (over, gathering.whole) == (1, False), wire


def test_a_chunked_body_is_handed_over_when_more_than_the_limit_has_come() -> None:
    gathering, over = gathered(post(b"fff\r\n", b"Transfer-Encoding: chunked"), bytes(1000), b"x", limit=1000)
    assert (over, gathering.whole) == (3, False)


def test_a_body_in_crumbs_is_not_read_to_its_end() -> None:
    crumbs = b"1\r\nx\r\n" * 4200
    gathering, over = gathered(post(b"", b"Transfer-Encoding: chunked"), crumbs, limit=10**6)
    assert (over, gathering.whole) == (2, False)


def test_a_body_byte_by_byte_takes_no_memory_besides_its_own() -> None:
    body = bytes(3 * PIECE)
    gathering, over = gathered(post(b"", b"Content-Length: %d" % len(body)), limit=len(body))
    assert over == 0
    for at in range(len(body)):
        gathering.feed(body[at : at + 1])
    assert gathering.whole
    assert len(gathering.pieces) <= 5
    assert parsed(gathering.pieces) == body
    gathering, _ = gathered(gathering.head, body, limit=len(body))
    assert parsed(gathering.pieces) == body


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
def test_a_head_over_its_limit_is_refused_whether_or_not_it_ends(end: bytes) -> None:
    fine = b"GET / HTTP/1.1\r\nX: "
    assert gathered(fine + b"x" * (MAX_HEAD - len(fine) - 4) + b"\r\n\r\n")[0].whole
    with pytest.raises(HeadTooLarge):
        gathered(fine + b"x" * (MAX_HEAD - len(fine) - len(end) + 1) + end)


@pytest.mark.alone
@pytest.mark.parametrize(
    "filler", [b"content-length:" + b" " * 31_000 + b"\n", b"content-length" + b" " * 31_000, b"\n" * 31_000]
)
def test_no_head_takes_long_to_look_at(filler: bytes) -> None:
    begun = time.process_time()
    gathered(b"GET / HTTP/1.1\r\n" + filler + b"\r\n\r\n")
    assert time.process_time() - begun < 0.05


# One connection


def test_a_connection_serves_one_request_after_another(server: Server) -> None:
    with connect(server) as connection, connection.makefile("rb") as stream:
        for wire in (GET, sized(padded(100)), GET, post(chunked(padded(100), 7), b"Transfer-Encoding: chunked"), GET):
            connection.sendall(wire)
            answer = next_answer(stream)
            assert answer.status == (200 if wire == GET else 422)
            assert answer.headers["connection"] == "keep-alive"


def test_requests_sent_together_are_answered_in_order(server: Server) -> None:
    wires = [
        sized(padded(90)),
        GET,
        post(chunked(padded(90), 50), b"Transfer-Encoding: chunked"),
        GET,
        sized(b"no"),
        GET,
    ]
    with connect(server, b"".join(wires)) as connection, connection.makefile("rb") as stream:
        assert [next_answer(stream).status for _ in wires] == [422, 200, 422, 200, 400, 200]


def test_a_body_that_the_application_does_not_read_is_not_taken_for_the_next_request(server: Server) -> None:
    unread = post(GET * 2000, b"Content-Length: %d" % (2000 * len(GET)), b"Content-Encoding: gzip")
    with connect(server, unread + GET) as connection, connection.makefile("rb") as stream:
        assert [next_answer(stream).status for _ in range(2)] == [415, 200]
        connection.sendall(GET)
        assert next_answer(stream).status == 200


def test_a_request_byte_by_byte_is_answered(server: Server) -> None:
    with connect(server) as connection, connection.makefile("rb") as stream:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in sized(padded(30)):
            connection.sendall(bytes([byte]))
            time.sleep(0.001)
        assert next_answer(stream).status == 422


def test_a_body_in_pieces_is_read_whole(server: Server) -> None:
    for wire in (sized(padded(250_000)), post(chunked(padded(250_000), 9000), b"Transfer-Encoding: chunked")):
        with connect(server) as connection, connection.makefile("rb") as stream:
            for at, end in pairwise([*range(0, len(wire), 30_000), len(wire)]):
                connection.sendall(wire[at:end])
                time.sleep(0.01)
            answer = next_answer(stream)
            assert (answer.status, answer.problem["type"]) == (422, "/problems/request")


def test_a_client_that_waits_to_be_asked_is_asked_once_and_at_once(server: Server) -> None:
    wire = sized(padded(200_000))
    head, body = wire[: wire.index(b"{")], wire[wire.index(b"{") :]
    with (
        connect(server, head[:-2] + b"Expect: 100-continue\r\n\r\n") as connection,
        connection.makefile("rb") as stream,
    ):
        begun = time.monotonic()
        assert next_answer(stream).status == 100
        assert time.monotonic() - begun < 0.5
        connection.sendall(body)
        assert next_answer(stream).status == 422


@pytest.mark.parametrize(
    ("wire", "status", "kind"),
    [
        (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400, "http"),
        (b"\x16\x03\x01<script>\r\n\r\n", 400, "http"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n", 400, "http"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431, "head-too-large"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nx: " + b"y" * 9000 + b"\r\n\r\n", 431, "head-too-large"),
        (b"POST /items/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "http"),
    ],
)
def test_what_is_not_http_is_refused_in_our_form_and_hardly_echoed(
    server: Server, wire: bytes, status: int, kind: str
) -> None:
    answer = ask(server, wire)
    assert (answer.status, answer.problem["type"]) == (status, f"/problems/{kind}")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert len(answer.problem["detail"]) < 150
    assert "x" * 150 not in server.log


UNREAD = [
    (b"5\r\nhelloXX0\r\n\r\n", "no line's end after a chunk"),
    (b"5\r\nhello\n\n0\r\n\r\n", "another line's end"),
    (b"5;a=\x00\r\nhello\r\n0\r\n\r\n", "a NUL in an extension"),
    (b"5\r\nhello\r\n0\r\nbad trailer\r\n\r\n", "a trailer that is none"),
]


@pytest.mark.parametrize("body", [body for body, _ in UNREAD], ids=[name for _, name in UNREAD])
def test_behind_a_body_that_nobody_read_and_no_parser_takes_no_request_is_seen(server: Server, body: bytes) -> None:
    wire = b"POST /nope HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + body + GET
    with connect(server, wire) as connection, connection.makefile("rb") as stream:
        assert next_answer(stream).status in (400, 404)
        assert stream.read() == b""


def test_a_body_that_nobody_read_leaves_the_connection_to_the_next_request(server: Server) -> None:
    for wire in (
        b"POST /nope HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
        b"POST /nope HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ):
        with connect(server, wire + GET) as connection, connection.makefile("rb") as stream:
            assert [next_answer(stream).status for _ in range(2)] == [404, 200]


def test_the_bodies_of_answered_requests_are_let_go(tmp_path: Path) -> None:
    body = b"x" * 4_000_000
    wire = b"POST /nope HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    def resident(pid: int) -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    with serving(tmp_path, workers="1") as server:
        pid = server.workers()[0]
        assert ask(server, GET).status == 200
        before = resident(pid)
        with ExitStack() as stack:
            for _ in range(30):
                connection = stack.enter_context(connect(server, wire))
                with connection.makefile("rb") as stream:
                    assert next_answer(stream).status == 404
            assert resident(pid) - before < 10 * len(body)  # 30 of them are kept alive


def test_a_stranger_s_body_is_not_waited_for_where_a_token_is_needed(tmp_path: Path) -> None:
    token = b"Authorization: Bearer 0123456789abcdef"
    with serving(tmp_path, workers="1", token="0123456789abcdef,fedcba9876543210") as server:  # noqa: S106
        for more in ([], [b"Authorization: Bearer fedcba9876543211"], [token, token]):
            for framing in (b"Content-Length: 9000000", b"Transfer-Encoding: chunked"):
                begun = time.monotonic()
                with (
                    connect(server, post(b"", framing, b"Expect: 100-continue", *more)) as connection,
                    connection.makefile("rb") as stream,
                ):
                    answer = next_answer(stream)
                    assert (answer.status, answer.headers["connection"]) == (401, "close")
                    assert stream.read() == b""
                assert time.monotonic() - begun < 5  # the deadline would be 10 s
        with (
            connect(server, post(b"", b"Content-Length: 3", b"Expect: 100-continue", token)) as connection,
            connection.makefile("rb") as stream,
        ):
            assert next_answer(stream).status == 100
            connection.sendall(b"{} ")
            assert next_answer(stream).status == 422


def test_no_header_of_a_client_moves_the_routes(server: Server) -> None:
    for path in (b"/x/readyz", b"/nope"):
        answer = ask(server, b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nSCRIPT_NAME: /x\r\n\r\n")
        assert answer.status in (400, 404)
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_over_the_limit_is_refused_before_it_comes(server: Server) -> None:
    for more in ([], [b"Expect: 100-continue"]):
        begun = time.monotonic()
        answer = ask(server, post(b"", b"Content-Length: 300001", *more))
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert time.monotonic() - begun < 0.9  # the deadline would end it after 1 s


def test_a_client_that_sends_on_is_not_reset_and_reads_its_413(server: Server) -> None:
    for wire in (sized(padded(2_000_000)), post(chunked(padded(2_000_000), 9000), b"Transfer-Encoding: chunked")):
        with connect(server) as connection, connection.makefile("rb") as stream:
            for at in range(0, len(wire), 100_000):
                connection.sendall(wire[at : at + 100_000])
                time.sleep(0.01)
            answer = next_answer(stream)
            assert (answer.status, answer.problem["type"]) == (413, "/problems/body-too-large")
            assert stream.read() == b""


def test_those_who_keep_their_side_open_after_the_last_answer_delay_nobody(server: Server) -> None:
    with held(server, 5, GET[:-2] + b"Connection: close\r\n\r\n"):
        time.sleep(0.1)
        begun = time.monotonic()
        assert ask(server, GET).status == 200
        assert time.monotonic() - begun < 1


def test_after_a_body_that_ends_wrongly_the_connection_does(server: Server) -> None:
    wire = post(b"0\r\nbad trailer\r\n\r\n", b"Transfer-Encoding: chunked")
    with connect(server, wire + GET) as connection, connection.makefile("rb") as stream:
        assert next_answer(stream).status == 400
        assert stream.read() == b""


def test_a_head_over_its_limit_is_a_431(server: Server) -> None:
    answer = ask(server, b"GET / HTTP/1.1\r\n" + b"X-Padding: " + b"x" * 40_000)
    assert (answer.status, answer.problem["type"]) == (431, "/problems/head-too-large")


@pytest.mark.parametrize(
    "wire", [b"GET / HTTP/1.1\nHost: localhost\n\n", b"\0\r\n\r\n", post(b"", b"Content-Length: x")]
)
def test_what_is_not_http_is_a_400_at_once(server: Server, wire: bytes) -> None:
    begun = time.monotonic()
    assert ask(server, wire).status == 400
    assert time.monotonic() - begun < 0.9


@pytest.mark.parametrize("wire", [b"", GET[:20]])
def test_a_client_that_leaves_before_its_request_is_whole_gets_no_answer(server: Server, wire: bytes) -> None:
    with connect(server, wire) as connection:
        connection.shutdown(socket.SHUT_WR)
        begun = time.monotonic()
        assert closed(connection)
        assert time.monotonic() - begun < 0.9


@pytest.mark.parametrize("kind", HELD)
def test_a_request_that_does_not_come_in_time_is_a_408_and_silence_is_closed(server: Server, kind: str) -> None:
    begun = time.monotonic()
    with connect(server, HELD[kind]) as connection, connection.makefile("rb") as stream:
        if kind == "silent":
            assert stream.read() == b""
        else:
            answer = next_answer(stream)
            assert (answer.status, answer.problem["type"]) == (408, "/problems/request-timeout")
            assert (answer.headers["connection"], answer.headers["x-content-type-options"]) == ("close", "nosniff")
            assert answer.headers["x-request-id"] == answer.problem["request_id"]
            assert stream.read() == b""
    assert 0.9 < time.monotonic() - begun < 3


def test_one_that_trickles_is_as_late_as_one_that_stops(server: Server) -> None:
    begun = time.monotonic()
    with connect(server) as connection, connection.makefile("rb") as stream:
        while not select.select([connection], [], [], 0.05)[0]:
            connection.sendall(b"X")
            assert time.monotonic() - begun < 5
        assert next_answer(stream).status == 408


def test_a_body_may_take_longer_at_a_fair_rate_but_not_below_it(server: Server) -> None:
    wire = sized(padded(290_000))

    def sent(pieces: int, every: float) -> int:
        with connect(server) as connection, connection.makefile("rb") as stream:
            for at in range(0, len(wire), len(wire) // pieces + 1):
                if select.select([connection], [], [], every)[0]:
                    break
                connection.sendall(wire[at : at + len(wire) // pieces + 1])
            return next_answer(stream).status

    with ThreadPoolExecutor(2) as pool:
        fair, slow = pool.submit(sent, 20, 0.1), pool.submit(sent, 100, 0.1)
        assert (fair.result(), slow.result()) == (422, 408)


# All of them together


def test_bodies_beyond_the_room_are_refused_and_small_requests_are_not(server: Server) -> None:
    half = sized(padded(290_000))[:250_000]
    with held(server, 20, half) as connections:
        answered = readable(connections, 0.7)
        assert 5 <= len(answered) <= 15  # 8 × 300 kB hold 9.6 of 250 kB
        for connection in answered:
            with connection.makefile("rb") as stream:
                answer = next_answer(stream)
            assert (answer.status, answer.headers["retry-after"]) == (503, "5")
            assert answer.problem["type"] == "/problems/busy"
        assert ask(server, sized(padded(1000))).status == 422
        for connection in connections:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # leave by a reset
    time.sleep(0.1)
    with connect(server) as connection, connection.makefile("rb") as stream:
        for _ in range(10):  # the room is free again, whether a request was answered or its client is gone
            connection.sendall(sized(padded(290_000)))
            assert next_answer(stream).status == 422


def long_batch(root: Path, name: str) -> bytes:
    """A request whose one image takes a worker of one thread about a second."""
    image = write(root, f"in/{name}.png", pictures.noise(700, 700))
    return sized(json.dumps({"images": [image], "operations": ["resize=3", "blur=101"], "precise": True}).encode())


@pytest.mark.alone
def test_beyond_the_queue_is_a_503_at_once_and_probes_are_answered(tmp_path: Path) -> None:
    with (
        serving(tmp_path, workers="1", threads="1", pool="1", queue="3") as server,
        held(server, 12, long_batch(tmp_path, "queued")) as asked,
    ):
        refused = readable(asked, 0.2)
        begun = time.monotonic()
        assert len(refused) == 8  # one is at work, three wait
        for connection in refused:
            with connection.makefile("rb") as stream:
                answer = next_answer(stream)
            assert (answer.status, answer.headers["retry-after"]) == (503, "5")
            assert answer.problem["type"] == "/problems/busy"
        assert [server.ask("GET", path)[0] for path in ("/livez", "/readyz", "/health", "/healthz")] == [200] * 4
        with connect(server, b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\n\r\n") as connection:
            assert connection.recv(12) == b"HTTP/1.1 200"
        assert server.ask("GET", "/")[0] == 503
        with connect(server, b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n") as connection:
            with connection.makefile("rb") as stream:
                said = stream.read()
            assert said.startswith(b"HTTP/1.1 503 ")
            assert said.endswith(b"\r\n\r\n")  # and no body, which HEAD has none of
        assert time.monotonic() - begun < 1
        for connection in asked:
            if connection not in refused:
                with connection.makefile("rb") as stream:
                    assert next_answer(stream).status == 200


def test_who_waits_too_long_for_a_thread_is_told_then_and_not_when_one_comes_free(tmp_path: Path) -> None:
    image = write(tmp_path, "in/long.png", pictures.noise(1000, 1000))
    images = [image | {"output": f"out/{n}.png"} for n in range(12)]
    batch = sized(json.dumps({"images": images, "operations": ["resize=3", "blur=101"], "precise": True}).encode())
    few = {"workers": "1", "threads": "1", "pool": "1"}
    with (
        serving(tmp_path, wait_seconds="1", graceful_seconds="0.1", **few) as server,
        held(server, 1, batch) as (at_work,),
    ):
        time.sleep(0.3)
        begun = time.monotonic()
        answer = ask(server, GET)
        assert (answer.status, answer.problem["type"]) == (503, "/problems/busy")
        assert "FALCONIMG_WAIT_SECONDS" in answer.problem["detail"]
        assert 0.9 < time.monotonic() - begun < 3
        assert not readable([at_work], 0)
        server.process.terminate()


def test_one_that_has_waited_too_long_in_the_queue_is_a_503(tmp_path: Path) -> None:
    with (
        serving(tmp_path, workers="1", threads="1", pool="1", wait_seconds="0.1") as server,
        held(server, 3, long_batch(tmp_path, "waiting")) as asked,
    ):
        statuses = []
        for connection in asked:
            with connection.makefile("rb") as stream:
                statuses.append(next_answer(stream).status)
        assert sorted(statuses) == [200, 503, 503]


def test_a_full_worker_closes_the_oldest_that_wait_and_answers_the_others(tmp_path: Path) -> None:
    with (
        serving(tmp_path, workers="1", connections="50", client_seconds="60") as server,
        held(server, 100, b"G") as connections,
    ):
        assert [ask(server, GET).status for _ in range(5)] == [200] * 5
        gone = readable(connections)
        assert 50 <= len(gone) <= 56
        assert gone == connections[: len(gone)]


@pytest.mark.alone
def test_a_thousand_held_connections_delay_nobody(
    tmp_path: Path, long: bool, record_property: Callable[[str, object], None]
) -> None:
    each, asked = (1000, 1000) if long else (250, 200)
    image = write(tmp_path, "in/small.png", pictures.noise(64, 64))
    with (
        serving(tmp_path, workers="2", client_seconds="120") as server,
        held(server, each, *HELD.values()) as connections,
    ):
        assert not readable(connections, 0.2)
        for what, request in {
            "GET /": lambda: server.ask("GET", "/")[0],
            "a batch of one": lambda: server.process_batch([image], "flip=h")[0],
        }.items():
            spans = milliseconds(request, asked)
            p99 = percentile(spans, 0.99)
            figure(
                record_property, "16", f"{what} with {len(connections)} held",
                f"p50 {percentile(spans, 0.5):.1f} ms, p99 {p99:.1f} ms, most {spans[-1]:.1f} ms",
            )  # fmt: skip
            assert p99 < 100
        assert not readable(connections)


@pytest.mark.alone
def test_the_held_ones_are_closed_by_their_deadline(
    tmp_path: Path, long: bool, record_property: Callable[[str, object], None]
) -> None:
    each = 1000 if long else 250
    with (
        serving(tmp_path, workers="2", client_seconds="2") as server,
        held(server, each, *HELD.values()) as connections,
    ):
        begun = time.monotonic()
        spans: list[float] = []
        poll = select.poll()
        for connection in connections:
            poll.register(connection, select.POLLIN)
        while len(spans) < len(connections) and time.monotonic() - begun < 20:
            for number, _ in poll.poll(100):
                poll.unregister(number)
                spans.append(time.monotonic() - begun)
            assert ask(server, GET).status == 200
        figure(record_property, "16", f"the last of {len(connections)} held is closed, of 2 s", f"{max(spans):.2f} s")
        assert len(spans) == len(connections)
        assert max(spans) < 4


@pytest.mark.alone
def test_slow_large_uploads_delay_no_small_request(
    tmp_path: Path, long: bool, record_property: Callable[[str, object], None]
) -> None:
    asked = 1000 if long else 300
    head = post(b"", b"Content-Length: 9000000")
    stop = threading.Event()
    with serving(tmp_path, workers="2") as server, held(server, 64, head) as uploads:

        def trickle() -> int:
            rounds = 0
            while not stop.wait(0.05):
                for upload in uploads:
                    upload.sendall(bytes(8000))  # 160 kB/s
                rounds += 1
            return rounds

        with ThreadPoolExecutor(1) as pool:
            trickling = pool.submit(trickle)
            spans = milliseconds(lambda: server.ask("GET", "/")[0], asked)
            spans = sorted([*spans, *milliseconds(lambda: server.ask("GET", "/openapi.json")[0], asked // 3)])
            stop.set()
            assert trickling.result() > 3
        figure(
            record_property, "16", "a small request beside 64 slow uploads",
            f"p50 {percentile(spans, 0.5):.1f} ms, p99 {percentile(spans, 0.99):.1f} ms, most {spans[-1]:.1f} ms",
        )  # fmt: skip
        assert spans[-1] < 500
        assert not readable(uploads)


def test_however_many_do_not_read_their_answers_half_of_the_threads_stay(tmp_path: Path) -> None:
    wire = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 8
    with (
        serving(tmp_path, workers="1", threads="4", max_body="1M", client_seconds="5", log="json") as server,
        ExitStack() as stack,
    ):
        for _ in range(40):  # 8 MB are kept for those who read later; each wants 12
            stack.enter_context(connect(server, wire, receive=4096))
        time.sleep(0.5)
        assert percentile(milliseconds(lambda: server.ask("GET", "/")[0], 50), 0.9) < 500


def test_however_many_do_not_read_their_answers_little_of_them_is_kept(tmp_path: Path) -> None:
    (tmp_path / "noise.ppm").write_bytes(b"P6 2000 1500 255\n" + random.Random(1).randbytes(9_000_000))  # noqa: S311
    wire = b"GET /v1/image/noise.ppm?format=ppm HTTP/1.1\r\nHost: localhost\r\n\r\n"
    settings = {"workers": "1", "threads": "4", "pool": "1", "max_body": "1M", "memory": "200M", "cache_mb": "1000"}
    with serving(tmp_path, cache_dir=str(tmp_path), log="json", **settings) as server, ExitStack() as stack:
        ask(server, wire.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        before = memory(server.workers()[0], "VmHWM")
        for _ in range(60):  # 540 MB
            stack.enter_context(connect(server, wire, receive=4096))
        assert server.ask("GET", "/")[0] == 200  # which had its turn after all of them
        # there is room for 12.5 MB, two of the threads wait with an answer each, and two may have one in hand
        assert memory(server.workers()[0], "VmHWM") - before < 80_000_000


def test_those_who_do_not_read_their_answer_hold_no_thread_and_are_closed(tmp_path: Path) -> None:
    wire = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3
    with serving(tmp_path, workers="1", threads="2", client_seconds="1", log="json") as server, ExitStack() as stack:
        for _ in range(16):
            stack.enter_context(connect(server, wire, receive=4096))
        time.sleep(0.3)
        assert percentile(milliseconds(lambda: server.ask("GET", "/")[0], 50), 0.9) < 100
        server.wait_for(lambda: sum(json.loads(line).get("unread", 0) for line in server.log.splitlines()
                                    if '"clients"' in line) == 16, 40)  # fmt: skip


def test_a_large_answer_reaches_a_client_that_reads_slowly(server: Server) -> None:
    whole = ask(server, b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").body
    wire = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(server, wire + GET, receive=4096) as connection, connection.makefile("rb") as stream:
        time.sleep(0.5)
        assert next_answer(stream).body == whole
        assert next_answer(stream).status == 200


def test_gunicorns_own_worker_is_stopped_by_a_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--worker-class gthread")
    with serving(tmp_path, workers="2", threads="4") as server:
        assert "Using worker: gthread" in server.log
        with held(server, 16, b"G"), connect(server, GET) as connection:
            connection.settimeout(1)
            with pytest.raises(TimeoutError):
                connection.recv(1)


# Stopping


def test_no_way_to_end_leaves_a_connection_counted(tmp_path: Path) -> None:
    """One that stayed counted would keep the worker from stopping, for 90 seconds."""
    ends = [
        GET[:20], b"", GET, GET * 3, post(b"", b"Content-Length: x"), post(b"", b"Content-Length: 99999999"),
        b"X" * 40_000, sized(padded(90)), GET[:-2] + b"Connection: close\r\n\r\n",
    ]  # fmt: skip
    with serving(tmp_path, workers="1", client_seconds="1", keepalive_seconds="1") as server:
        with ThreadPoolExecutor(8) as pool:

            def end(number: int) -> None:
                with connect(server, ends[number % len(ends)]) as connection:
                    if number % 2:
                        connection.shutdown(socket.SHUT_WR)
                    if number % 3:
                        connection.settimeout(2)
                        try:
                            while connection.recv(65536):
                                pass
                        except ConnectionResetError:
                            pass

            list(pool.map(end, range(8 * len(ends))))
        begun = time.monotonic()
        server.process.terminate()
        server.process.wait(30)
        assert time.monotonic() - begun < 6


def test_those_in_the_backlog_of_a_stopping_server_are_answered(tmp_path: Path) -> None:
    with serving(tmp_path, workers="1") as server:
        worker = server.workers()[0]
        os.kill(worker, signal.SIGSTOP)
        try:
            with held(server, 30, GET) as connections:
                server.process.terminate()
                time.sleep(0.3)
                os.kill(worker, signal.SIGCONT)
                for connection in connections:
                    with connection.makefile("rb") as stream:
                        answer = next_answer(stream)
                    assert (answer.status, answer.headers["connection"]) == (200, "close")
        finally:
            os.kill(worker, signal.SIGCONT)
        assert server.process.wait(30) == 0
