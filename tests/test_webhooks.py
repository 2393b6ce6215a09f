"""Messages to webhooks, and requests to other hosts altogether."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from falconimg import outgoing
from falconimg.errors import InvalidRequest
from falconimg.jobs import webhooks, worker
from falconimg.jobs.ledger import Ledger
from falconimg.jobs.record import Item
from falconimg.settings import Settings

KEY = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"
SETTINGS = Settings(webhook_key=KEY, private_hosts=("127.0.0.1", "localhost"))


class Receiver(ThreadingHTTPServer):
    """One that keeps what arrives, and answers with the statuses that it is told, then with 204."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.came: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook?a=b"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.came.append(({name.lower(): value for name, value in self.headers.items()}, body))
        status = self.server.statuses.pop(0) if self.server.statuses else 204
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.server.url)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path}/jobs.db")
    yield ledger
    ledger.close()


def submitted(ledger: Ledger, url: str) -> str:
    return ledger.submit({}, [Item(0, {"input": "a.png"}, "", "in/a.png", None, ())], "d", webhook=url)[0]


def send(ledger: Ledger, settings: Settings = SETTINGS) -> int:
    """All that is due; how many messages."""
    count = 0
    while messages := ledger.messages(1, 60):
        webhooks.send(messages[0], ledger, settings)
        count += 1
    return count


@contextmanager
def dripping() -> Iterator[str]:
    """The URL of one that answers a bit at a time, for three seconds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            with suppress(OSError), listener.accept()[0] as client:
                for _ in range(60):
                    client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                    time.sleep(0.05)

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        listener.shutdown(socket.SHUT_RDWR)  # it may wait for who never comes
        thread.join(5)


def two_addresses(patch: pytest.MonkeyPatch) -> None:
    """Every host has one that the test answers for, and 127.0.0.1."""
    patch.setattr(outgoing, "addresses", lambda *_: ["127.0.0.2", "127.0.0.1"])


def test_a_message_says_what_happened_and_is_signed(ledger: Ledger, receiver: Receiver) -> None:
    job = submitted(ledger, receiver.url)
    assert send(ledger) == 1
    [(headers, body)] = receiver.came
    assert json.loads(body) == {"job": job, "events": ledger.events(job, 0, 10)}
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == f"{job}.1-1"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(bytes(range(32)), signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    assert send(ledger) == 0
    ledger.cancel(job)
    assert send(ledger) == 1
    assert [event["seq"] for event in json.loads(receiver.came[1][1])["events"]] == [2, 3]


@pytest.mark.parametrize("status", [302, 400, 500])
def test_what_is_not_taken_is_sent_again_later(
    ledger: Ledger, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    job = submitted(ledger, receiver.url)
    receiver.statuses = [status]
    waits: list[float | None] = []
    real = ledger.not_sent

    def not_sent(message: Any, wait: float | None) -> None:
        waits.append(wait)
        real(message, 0)

    monkeypatch.setattr(ledger, "not_sent", not_sent)
    assert send(ledger) == 2
    assert len(receiver.came) == 2  # a redirect is not followed
    assert receiver.came[0][0]["webhook-id"] == receiver.came[1][0]["webhook-id"] == f"{job}.1-1"
    [wait] = waits
    assert wait is not None
    assert 1.5 <= wait <= 2.5


def test_it_waits_longer_each_time_and_gives_up_after_days(
    ledger: Ledger, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(ledger, receiver.url)
    receiver.statuses = [500] * 100
    waits: list[float | None] = []
    real = ledger.not_sent

    def not_sent(message: Any, wait: float | None) -> None:
        waits.append(wait)
        real(message, None if wait is None else 0)

    monkeypatch.setattr(ledger, "not_sent", not_sent)
    assert send(ledger) == webhooks.MOST_TRIES
    assert waits.pop() is None
    means = [min(2.0 * 2**n, 3600) for n in range(len(waits))]
    assert all(0.75 * mean <= wait <= 1.25 * mean for wait, mean in zip(waits, means, strict=True) if wait)
    assert 24 * 3600 < sum(means) < 5 * 24 * 3600


def test_a_receiver_that_is_not_there_is_tried_again(ledger: Ledger) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    submitted(ledger, url)
    assert send(ledger) == 1
    with ledger.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT tries FROM job").scalar() == 1


def assert_given_up_in_time(ledger: Ledger, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message there is left when its half second is over."""
    monkeypatch.setattr(webhooks, "SECONDS", 0.5)
    submitted(ledger, url)
    begun = time.monotonic()
    assert send(ledger) == 1
    assert 0.4 < time.monotonic() - begun < 1
    assert ledger.waiting().late == 1


def test_who_answers_a_byte_at_a_time_is_left_when_its_time_is_over(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dripping() as url:
        assert_given_up_in_time(ledger, url, monkeypatch)


def swallowed(seconds: float) -> None:
    """What comes of an address that does not answer."""
    time.sleep(seconds)
    raise TimeoutError


@pytest.mark.parametrize(
    "first",
    [swallowed, lambda _: swallowed(0.6), lambda _: time.sleep(0.6)],
    ids=["swallows", "fails late", "connects late"],
)
def test_the_time_is_over_though_it_ends_while_connecting(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, first: Callable[[float], None]
) -> None:
    real = socket.create_connection

    def connect(where: Any, seconds: float) -> Any:
        if where[0] == "127.0.0.2":
            first(seconds)
        return real(("127.0.0.1", where[1]), seconds)

    with dripping() as url:
        two_addresses(monkeypatch)
        monkeypatch.setattr(socket, "create_connection", connect)
        assert_given_up_in_time(ledger, url, monkeypatch)


def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    ledger: Ledger, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.create_connection

    def connect(where: Any, seconds: float) -> Any:
        return swallowed(seconds) if where[0] == "127.0.0.2" else real(where, seconds)

    two_addresses(monkeypatch)
    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(webhooks, "SECONDS", 0.5)
    submitted(ledger, receiver.url)
    assert send(ledger) == 1
    assert len(receiver.came) == 1
    assert ledger.waiting().late == 0


def test_an_address_that_became_private_is_not_asked(ledger: Ledger, receiver: Receiver) -> None:
    submitted(ledger, receiver.url)
    assert send(ledger, Settings(webhook_key=KEY)) == 1
    assert receiver.came == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://10.0.0.1/", "http://192.168.1.1/", "http://172.16.0.1/", "http://169.254.169.254/",
        "http://[::1]/", "http://[fe80::1]/", "http://[fd00::1]/", "http://[::ffff:127.0.0.1]/", "http://0.0.0.0/",
        "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://224.0.0.1/", "http://100.64.0.1/",
        "http://[64:ff9b:1::1]/", "http://[fec0::1]/", "http://[::1.2.3.4]/", "http://192.88.99.1/",
        "http://2130706433/", "http://0x7f.1/", "http://localhost/", "http://127.1/", "http://[::]/",
    ],
)  # fmt: skip
def test_private_addresses_are_refused_however_they_are_written(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        webhooks.check(url, Settings(webhook_key=KEY))
    assert caught.value.places[0].pointer == "/webhook"


@pytest.mark.parametrize(
    "url",
    ["ftp://1.1.1.1/", "1.1.1.1", "http://", "http://u:p@1.1.1.1/", "http://1.1.1.1/#a", "http://1.1.1.1:99999/",
     "http://1.1.1.1/ a", "http://1.1.1.1/ä", "http://[1.1.1.1/", "http://nowhere.invalid/", "file:///etc/passwd"],
)  # fmt: skip
def test_what_is_no_address_of_a_webhook_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        webhooks.check(url, Settings(webhook_key=KEY))


@pytest.mark.parametrize("url", ["https://1.1.1.1/", "http://8.8.8.8:8080/a?b=c", "http://[2606:4700:4700::1111]/"])
def test_public_addresses_are_taken(url: str) -> None:
    webhooks.check(url, Settings(webhook_key=KEY))


def test_one_private_address_of_several_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 80)) for address in ("1.1.1.1", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(outgoing.Refused, match=r"FALCONIMG_PRIVATE_HOSTS names, came 'example\.com'"):
        outgoing.addresses(outgoing.target("http://example.com/"), ())


def test_a_name_is_resolved_once_and_the_connection_goes_where_it_led(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def resolve(host: str, port: int, **_: Any) -> Any:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "10.9.9.9"
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port))]

    real = socket.create_connection
    made = []

    def connect(where: Any, *more: Any) -> Any:
        made.append(where[0])
        return real(where, *more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    where = outgoing.target(receiver.url.replace("127.0.0.1", "example.com"))
    connection = outgoing.Connection(where, ["example.com"], 5)
    monkeypatch.undo()  # socket.create_connection looks an address up as well, which is no name
    monkeypatch.setattr(socket, "create_connection", connect)
    with connection.within(5):
        connection.request("POST", where.path, b"{}", {"Host": where.authority, "Content-Length": "2"})
        with connection.getresponse() as answer:
            assert answer.status == 204
    assert asked == ["example.com"]
    assert made == ["127.0.0.1"]
    assert receiver.came[0][0]["host"].startswith("example.com:")


def test_a_key_of_another_form_is_no_setting() -> None:
    for text in (
        "",
        "whsec_",
        "whsec_!!!!",
        KEY.removeprefix("whsec_"),
        "whsec_" + base64.b64encode(bytes(23)).decode(),
    ):
        with pytest.raises(Exception, match="FALCONIMG_WEBHOOK_KEY"):
            Settings.from_environ({"FALCONIMG_WEBHOOK_KEY": text})
    assert Settings.from_environ({"FALCONIMG_WEBHOOK_KEY": KEY}).webhook_key == KEY


def test_without_a_key_no_webhook_is_taken() -> None:
    with pytest.raises(InvalidRequest) as caught:
        webhooks.check("https://1.1.1.1/", Settings())
    assert "FALCONIMG_WEBHOOK_KEY is not set" in caught.value.places[0].detail


def test_a_slow_receiver_keeps_no_other_waiting(
    ledger: Ledger, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "SEND_SECONDS", 0.01)
    monkeypatch.setattr(webhooks, "SECONDS", 1)
    with dripping() as slow:
        submitted(ledger, slow)
        submitted(ledger, receiver.url)
        keeper = worker.Keeper(SETTINGS, ledger)
        keeper.start()
        end = time.monotonic() + 0.8
        while not receiver.came and time.monotonic() < end:
            time.sleep(0.01)
        keeper.close()
        assert len(receiver.came) == 1
        while not ledger.waiting().late:  # its threads use the ledger until then
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("hosts", "urls"),
    [
        ("a.example", {"http://a.example/": True, "http://a.example:81/": True, "http://b.example/": False}),
        ("a.example:81,[::1]:5", {"http://a.example/": False, "http://A.example:81/": True, "http://[::1]:5/": True}),
        ("[::1]", {"http://[::1]/": True, "http://[::1]:5/": True, "http://[::2]/": False}),
    ],
)
def test_a_host_is_allowed_with_all_of_its_ports_or_with_one(hosts: str, urls: dict[str, bool]) -> None:
    allowed = Settings.from_environ({"FALCONIMG_PRIVATE_HOSTS": hosts}).private_hosts
    assert {url: outgoing.target(url).is_one_of(allowed) for url in urls} == urls
