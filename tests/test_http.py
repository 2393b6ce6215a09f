"""The routes: what is answered to what, byte for byte."""

from __future__ import annotations

import hmac
import io
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import falcon.testing
import numpy as np
import pytest
from falcon.testing import create_environ
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from falconimg import app, errors, formats, operations
from falconimg.formats import opencv
from falconimg.openapi import EXAMPLE, EXAMPLE_ITEMS
from falconimg.resources import ROUTES
from falconimg.resources.about import Docs
from falconimg.resources.page import Page
from falconimg.stores.memory import Memory
from tests.conftest import Result, Serve, Server, decoded, encoded, noise

REQUESTS = Path(__file__).parent / "requests"
PICTURE = encoded(noise(6, 8))
ITEMS: dict[str, Any] = {"images": [{"input": "in/a.png", "output": "out/a.png"}], "operations": ["split"]}
GETS = [route for route, resource in ROUTES.items() if hasattr(resource, "on_get") and "{" not in route]
TEMPLATES = {route.replace(":path}", "}"): resource for route, resource in ROUTES.items()}  # as OpenAPI has them
POSTS = ["/v1/process", "/items", "/items/"]  # those that take JSON


@pytest.fixture
def memory(serve: Serve) -> Server:
    """A server on a store in memory that holds in/a.png."""
    return serve(Memory({"in/a.png": PICTURE}))


def problem(result: Result, status: int, type_: str | None = None) -> dict[str, Any]:
    """The problem of an answer, once its form is checked (RFC 9457)."""
    assert result.status_code == status
    assert result.headers["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = result.json
    assert set(document) - {"errors"} == {"type", "title", "status", "detail", "request_id"}
    assert document["status"] == status
    assert document["request_id"] == result.headers["X-Request-ID"]
    assert document["title"]
    if type_ is not None:
        assert document["type"] == type_
    return document


class Sink:
    """A body that must not be read."""

    def read(self, size: int = -1) -> bytes:
        raise AssertionError(f"{size} bytes of the body were read")


def raw(server: Server, body: Any, route: str = "/v1/process", **environ: Any) -> Result:
    """POST by a WSGI environment of one's own: `body` is wsgi.input, a value of None takes a variable away."""
    whole = create_environ(route, method="POST", headers={"Host": "localhost", "Content-Type": "application/json"})
    whole |= {"wsgi.input": io.BytesIO(body) if isinstance(body, bytes) else body, **environ}
    answered: list[Any] = []

    def start(status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> Any:
        answered.extend([status, headers])

    chunks = server.app({key: value for key, value in whole.items() if value is not None}, start)
    return falcon.testing.Result(chunks, *answered)


# Requests and their verdicts


def lay_out(root: Path) -> None:
    """What the requests in tests/requests/ find: three pictures, a link to a file and one to a directory outside."""
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "a.png").write_bytes(encoded(noise(2, 2)))
    (root / "in").mkdir()
    (root / "out").mkdir()
    for seed, name in enumerate("abc"):
        (root / "in" / f"{name}.png").write_bytes(encoded(noise(6, 8, seed=seed)))
    (root / "in" / "link.png").symlink_to(outside / "a.png")
    (root / "way").symlink_to(outside)


def filled(detail: str) -> str:
    """A detail with the lists that grow with the code's tables."""
    extensions = [extension for form in formats.FORMATS.values() for extension in form.extensions]
    lists = {"extensions": extensions, "names": operations.NAMES, "operations": operations.OPERATIONS}
    for name, values in lists.items():
        detail = detail.replace(f"${{{name}}}", ", ".join(values))
    return detail


@pytest.mark.parametrize("path", sorted(REQUESTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_request_gets_its_verdict_and_a_refused_one_writes_nothing(path: Path, serve: Serve) -> None:
    case = json.loads(path.read_text())
    server = serve(**case.get("settings", {}))
    lay_out(server.root)
    outside = server.root.parent / "outside"
    before = server.tree()
    result = server.post(case["route"], case["text"] if "text" in case else case["body"])
    after = server.tree()
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    assert result.status_code == case["status"]
    assert changed == sorted(case.get("written", []))
    assert [file.name for file in outside.iterdir()] == ["a.png"]
    assert decoded((outside / "a.png").read_bytes()).shape == (2, 2, 3)
    if case["status"] != 200:
        answer = problem(result, case["status"], case["type"])
        expected = [{**place, "detail": filled(place["detail"])} for place in case.get("errors", [])]
        assert answer.get("errors", []) == expected
        assert len(expected) <= 10
        assert answer["detail"] == case.get("detail", answer["detail"])
        assert all(text.isascii() and len(text) < 400 for text in (answer["detail"], *(e["detail"] for e in expected)))


def test_there_is_a_verdict_for_each_route_that_takes_a_batch() -> None:
    routes = [json.loads(path.read_text())["route"] for path in REQUESTS.glob("*.json")]
    assert min(routes.count(route) for route in ("/v1/process", "/items/")) > 40


@pytest.mark.parametrize("path", ["a" * 4093 + ".png", "a/" * 2046 + "a.png", "\u00e9" * 2047 + ".png"])
@pytest.mark.parametrize("route", ["/v1/process", "/items/"])
@pytest.mark.parametrize("key", ["input", "output"])
def test_a_path_of_more_than_4096_bytes_is_refused(path: str, route: str, key: str, server: Server) -> None:
    image = {"input": "in/a.png", "output": "out/a.png", key: path}
    found = problem(server.post(route, {"images": [image]}), 422, "/problems/request")["errors"]
    assert [place["pointer"] for place in found] == [f"/images/0/{key}"]
    assert found[0]["detail"].isascii()
    assert len(found[0]["detail"]) < 200
    assert server.tree() == {}


def test_of_a_body_over_256_kb_one_place_is_named(memory: Server) -> None:
    images = [{"input": "in/a.png", "output": f"out/{n}.exe"} for n in range(20)]
    body = json.dumps({"images": images})
    assert len(problem(memory.post("/v1/process", body), 422)["errors"]) == 10
    assert len(problem(memory.post("/v1/process", body + " " * 256_000), 422)["errors"]) == 1
    assert list(memory.tree()) == ["in/a.png"]


# POST /items/


@pytest.mark.parametrize("route", ["/items/", "/items"])
def test_items_answers_with_the_body_byte_for_byte(route: str, memory: Server) -> None:
    body = b' {"operations" : [ "splitQuadrants=True"],\r\n'
    body += b'"images":[{"output":"out/\\u00e9.png","input":"in/a.png"}], "x":1.0}\n'
    result = memory.post(route, body)
    assert (result.status_code, result.content, result.headers["Content-Type"]) == (200, body, "application/json")
    assert "Falconimg-Failed" not in result.headers
    assert sorted(memory.tree()) == ["in/a.png", *(f"out/\u00e9_{n}.png" for n in (1, 2, 3, 4))]


def test_items_counts_in_a_header_what_failed(memory: Server) -> None:
    missing = [{"input": f"in/{name}.png", "output": f"out/{name}.png"} for name in "ab"]
    body = json.dumps({"images": [*missing, {"input": "in/c.png", "output": "out/c.png"}]}).encode()
    result = memory.post("/items/", body)
    assert (result.status_code, result.content) == (200, body)
    assert result.headers["Falconimg-Failed"] == "2"
    assert sorted(memory.tree()) == ["in/a.png", "out/a.png"]


def test_items_logs_why_an_image_failed_and_a_step_was_skipped(serve: Serve, capsys: Any) -> None:
    server = serve(Memory({"in/a.png": PICTURE}))
    images = [{"input": "in/a.png", "output": "out/a.png"}, {"input": "in/none.png", "output": "out/b.png"}]
    result = server.post("/items/", {"images": images, "operations": ["resize=0"]})
    lines = [
        line for line in capsys.readouterr().err.splitlines() if f"request_id={result.headers['X-Request-ID']}" in line
    ]
    assert any("image_failed" in line and "in/none.png" in line and "/problems/missing" in line for line in lines)
    assert any("/operations/0" in line and "skipped: resize: expected 0.05 to 100, came 0" in line for line in lines)


# The answer of /v1/process


def test_a_stream_has_a_line_for_each_image_and_then_the_summary(memory: Server) -> None:
    names = ["a", "none", "a"]
    images = [{"input": f"in/{name}.png", "output": f"out/{n}.png"} for n, name in enumerate(names)]
    result = memory.process(images, operations=["split"], on_error="continue")
    stream = memory.post(
        "/v1/process", {"images": images, "operations": ["split"]}, headers={"Accept": "application/x-ndjson"}
    )
    assert (result.status_code, stream.status_code) == (207, 200)
    assert stream.headers["Content-Type"] == "application/x-ndjson"
    assert stream.text.endswith("\n")
    *lines, summary = map(json.loads, stream.text.splitlines())
    assert sorted(line["index"] for line in lines) == [0, 1, 2]
    for line in lines:
        whole = result.json["images"][line.pop("index")]
        assert {**line, "ms": 0} == {**whole, "ms": 0}
    assert {**summary, "ms": 0} == {"status": "partial", "done": 2, "failed": 1, "skipped": 0, "ms": 0}
    assert {**result.json, "ms": 0, "images": 0} == {**summary, "ms": 0, "images": 0}


def test_a_stream_of_failures_is_a_200_whose_summary_says_failed(memory: Server) -> None:
    images = [{"input": "in/none.png", "output": "out/a.png"}]
    result = memory.post("/v1/process", {"images": images}, headers={"Accept": "application/x-ndjson"})
    assert result.status_code == 200
    assert json.loads(result.text.splitlines()[-1])["status"] == "failed"


def test_what_is_refused_is_refused_in_a_stream_too(memory: Server) -> None:
    headers = {"Accept": "application/x-ndjson"}
    problem(memory.post("/v1/process", {"images": []}, headers=headers), 422, "/problems/request")
    problem(memory.post("/v1/process", "{", headers=headers), 400, "/problems/json")
    images = [{"input": "../a.png", "output": "a.png"}]
    answer = problem(memory.post("/v1/process", {"images": images}, headers=headers), 403, "/problems/outside-root")
    assert [place["pointer"] for place in answer["errors"]] == ["/images/0/input"]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("application/json, application/x-ndjson", "application/json"),
        ("application/json;q=0.5, application/x-ndjson", "application/x-ndjson"),
        ("application/x-ndjson, */*;q=0.1", "application/x-ndjson"),
        ("text/html", "application/json"),
        ("nonsense", "application/json"),
        ("", "application/json"),
    ],
)
def test_the_stream_is_for_who_prefers_it(accept: str, kind: str, memory: Server) -> None:
    result = memory.post("/v1/process", {"images": ITEMS["images"]}, headers={"Accept": accept})
    assert (result.status_code, result.headers["Content-Type"]) == (200, kind)


# Bodies


@pytest.mark.parametrize("route", POSTS)
@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonp", "json",
     "application/json; charset=utf-16", "application/json; charset=latin-1", "application/problem+json", ";", "",
     None],
)  # fmt: skip
def test_a_body_that_is_not_said_to_be_json_is_refused_unread(route: str, kind: str | None, memory: Server) -> None:
    result = raw(memory, Sink(), route, CONTENT_TYPE=kind, CONTENT_LENGTH="100")
    assert "expected application/json" in problem(result, 415, "/problems/media-type")["detail"]


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "x"])
def test_a_coded_body_is_refused_unread(coding: str, memory: Server) -> None:
    result = raw(memory, Sink(), HTTP_CONTENT_ENCODING=coding, CONTENT_LENGTH="100")
    assert "expected no Content-Encoding" in problem(result, 415, "/problems/media-type")["detail"]


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
    ],
)
def test_json_may_be_called_so_in_every_way(kind: str, memory: Server) -> None:
    body = json.dumps(ITEMS).encode()
    result = raw(memory, body, "/items/", CONTENT_TYPE=kind, CONTENT_LENGTH=str(len(body)))
    assert (result.status_code, result.content) == (200, body)


def test_a_body_over_the_limit_is_refused_without_reading_a_byte(serve: Serve) -> None:
    server = serve(Memory(), max_body=100)
    result = raw(server, Sink(), CONTENT_LENGTH="101")
    assert problem(result, 413, "/problems/body-too-large")["detail"] == (
        "expected at most 100 bytes (FALCONIMG_MAX_BODY), came 101"
    )


def test_a_body_of_just_the_limit_is_read(serve: Serve) -> None:
    body = b"{}".ljust(100)
    assert raw(serve(Memory(), max_body=100), body, "/items/", CONTENT_LENGTH="100").content == body


def test_a_body_shorter_than_its_length_is_refused(memory: Server) -> None:
    body = json.dumps(ITEMS).encode()
    result = raw(memory, body, "/items/", CONTENT_LENGTH=str(len(body) + 1))
    detail = f"expected {len(body) + 1} bytes by its Content-Length, came {len(body)}"
    assert problem(result, 400, "/problems/incomplete-body")["detail"] == detail
    assert list(memory.tree()) == ["in/a.png"]


def test_no_more_of_the_body_than_its_length_is_read(memory: Server) -> None:
    stream = io.BytesIO(b"{}GET / HTTP/1.1")
    assert raw(memory, stream, "/items/", CONTENT_LENGTH="2").content == b"{}"
    assert stream.tell() == 2


@pytest.mark.parametrize("length", ["x", "-1", "1.5"])
def test_a_length_that_is_none_is_refused(length: str, memory: Server) -> None:
    assert problem(raw(memory, Sink(), CONTENT_LENGTH=length), 400)["type"] == "about:blank"


@pytest.mark.parametrize("length", [None, "", "0"])
def test_no_body_is_not_json(length: str | None, memory: Server) -> None:
    result = raw(memory, b"", CONTENT_LENGTH=length)
    assert problem(result, 400, "/problems/json")["detail"] == "expected a JSON document, came an empty body"


class Broken(io.BytesIO):
    """A connection that ends in the middle."""

    def read(self, size: int | None = -1) -> bytes:
        raise OSError("connection reset by peer")


def test_a_connection_that_breaks_is_a_body_that_is_incomplete(memory: Server) -> None:
    answer = problem(raw(memory, Broken(), CONTENT_LENGTH="10"), 400, "/problems/incomplete-body")
    assert answer["detail"].endswith("connection reset by peer")


class Chunks(io.RawIOBase):
    """A chunked body as a server gives it: some bytes a time, and then none."""

    def __init__(self, body: bytes) -> None:
        self.rest, self.given = body, 0

    def read(self, size: int = -1) -> bytes:
        size = 7 if size < 0 else min(size, 7)
        part, self.rest = self.rest[:size], self.rest[size:]
        self.given += len(part)
        return part


def chunked(server: Server, body: Chunks, **environ: Any) -> Result:
    more = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True, "CONTENT_LENGTH": None}
    return raw(server, body, "/items/", **{**more, **environ})


def test_a_chunked_body_is_read_whole(memory: Server) -> None:
    body = json.dumps(ITEMS).encode()
    result = chunked(memory, Chunks(body))
    assert (result.status_code, result.content) == (200, body)
    assert len(memory.tree()) == 5


def test_a_chunked_body_is_read_up_to_the_same_limit(serve: Serve) -> None:
    server = serve(Memory(), max_body=100)
    assert chunked(server, Chunks(b"{}".ljust(100))).status_code == 200
    endless = Chunks(b" " * 10_000)
    assert problem(chunked(server, endless), 413, "/problems/body-too-large")["detail"] == (
        "expected at most 100 bytes (FALCONIMG_MAX_BODY), came at least 101"
    )
    assert endless.given == 101


# Methods


@pytest.mark.parametrize("route", GETS)
def test_head_answers_as_get_does_without_its_body(route: str, server: Server) -> None:
    get, head = (server.client.simulate_request(method, route) for method in ("GET", "HEAD"))
    assert (get.status_code, head.status_code) == (200, 200)
    assert len(get.content) > 10
    assert head.content == b""
    ours = ("x-request-id",)
    assert {k: v for k, v in head.headers.items() if k not in ours} == {
        k: v for k, v in get.headers.items() if k not in ours
    }
    assert int(get.headers["Content-Length"]) == len(get.content)


@pytest.mark.parametrize("name", Docs.files)
def test_head_answers_as_get_does_for_the_pages_files(name: str, server: Server) -> None:
    path = "/docs" if name == Docs.page else f"/docs/{name}"
    get, head = (server.client.simulate_request(method, path) for method in ("GET", "HEAD"))
    assert get.content == (resources.files("falconimg") / "docs" / name).read_bytes()
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", str(len(get.content)))


@pytest.mark.parametrize("route", [*GETS, *POSTS])
def test_a_wrong_method_is_refused_and_the_right_ones_are_named(route: str, server: Server) -> None:
    right = {"GET", "HEAD", "OPTIONS"} if route in GETS else {"POST", "OPTIONS"}
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"} - right:
        result = server.client.simulate_request(method, route)
        assert result.status_code == 405
        assert set(result.headers["Allow"].split(", ")) == right
        if method != "HEAD":
            assert problem(result, 405, "about:blank")["title"] == "Method Not Allowed"


@pytest.mark.parametrize("route", [*GETS, *POSTS])
def test_options_names_the_methods(route: str, server: Server) -> None:
    result = server.client.simulate_options(route)
    assert result.status_code == 200
    right = {"GET", "HEAD"} if route in GETS else {"POST"}
    assert set(result.headers["Allow"].split(", ")) - {"OPTIONS"} == right
    assert result.content == b""


@pytest.mark.parametrize(
    "route",
    ["/v1", "/v1/", "/v1/process/", "/v2/process", "/item", "/items/1", "/docs/", "/docs/../x",
     "/docs/../settings.py",
     "/docs/%2e%2e/settings.py", "/docs/..%2fsettings.py", "/docs/x", "/docs/index.html", "/docs/NOTICE",
     "/favicon.ico"],
)  # fmt: skip
def test_another_route_is_not_found(route: str, server: Server) -> None:
    assert problem(server.client.simulate_get(route), 404, "about:blank")["title"] == "Not Found"


# The request's id


@pytest.mark.parametrize("given", ["a", "0", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "A.b_c~d-" * 16])
def test_a_well_formed_request_id_is_taken(given: str, server: Server) -> None:
    result = server.client.simulate_get("/nowhere", headers={"X-Request-ID": given})
    assert problem(result, 404)["request_id"] == given


@pytest.mark.parametrize("given", ["", " ", "a b", "a\tb", 'a"b', "a" * 129, "\u00e9", "a;b", "<a>"])
def test_another_request_id_is_made_anew(given: str, server: Server) -> None:
    made = [
        problem(server.client.simulate_get("/nowhere", headers={"X-Request-ID": given}), 404)["request_id"]
        for _ in range(2)
    ]
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)
    assert made[0] != made[1]


def test_an_answer_that_is_fine_has_its_request_id_too(memory: Server) -> None:
    result = memory.post("/items/", ITEMS, headers={"X-Request-ID": "mine"})
    assert (result.status_code, result.headers["X-Request-ID"]) == (200, "mine")
    assert re.fullmatch("[0-9a-f]{32}", memory.post("/items/", ITEMS).headers["X-Request-ID"])


def test_the_images_log_lines_have_their_requests_id(serve: Serve, capsys: Any) -> None:
    server = serve(Memory(), log="json")
    images = [{"input": f"in/{n}.png", "output": f"out/{n}.png"} for n in range(4)]
    server.post("/v1/process", {"images": images}, headers={"X-Request-ID": "mine"})
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["request_id"]) for line in lines] == [("image_failed", "mine")] * 4
    assert {line["input"] for line in lines} == {image["input"] for image in images}


# The Host header


HOSTS = ["localhost", "localhost:8888", "LOCALHOST", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:8888"]
OTHERS = ["example.com", "localhost.example.com", "127.0.0.1.example.com", "localhost:8888.example.com", "x@localhost",
          "localhost:x", "::1", "", "192.168.0.1"]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_on_loopback_the_machines_own_names_are_answered(host: str, server: Server) -> None:
    assert server.client.simulate_get("/livez", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", OTHERS)
def test_on_loopback_another_host_is_refused_on_every_route(host: str, server: Server) -> None:
    for method, route in (("GET", "/livez"), ("POST", "/items/"), ("GET", "/nowhere")):
        result = server.client.simulate_request(method, route, headers={"Host": host})
        assert "FALCONIMG_HOSTS" in problem(result, 421, "/problems/host")["detail"]


def test_on_loopback_the_names_of_the_settings_are_answered(serve: Serve) -> None:
    server = serve(hosts=("images.test",), bind="127.0.0.2:80")
    for host, status in (("images.test:1", 200), ("IMAGES.test", 200), ("127.0.0.2", 200), ("other.test", 421)):
        assert server.client.simulate_get("/livez", headers={"Host": host}).status_code == status


@pytest.mark.parametrize("bind", ["0.0.0.0:8888", "[::]:8888", "192.168.0.1:80", "images.test:80"])
def test_bound_elsewhere_every_host_is_answered(bind: str, serve: Serve) -> None:
    server = serve(bind=bind)
    assert server.client.simulate_get("/livez", headers={"Host": "example.com"}).status_code == 200


@pytest.mark.parametrize("bind", ["localhost:1", "[::1]:1", "127.1.2.3:1"])
def test_every_loopback_address_checks_the_host(bind: str, serve: Serve) -> None:
    assert serve(bind=bind).client.simulate_get("/livez", headers={"Host": "example.com"}).status_code == 421


# What nobody foresaw


class Faulty(Memory):
    """A store with a fault of its own."""

    def __init__(self, method: str) -> None:
        super().__init__({"in/a.png": PICTURE})
        self.method = method

    def check_input(self, path: str) -> str:
        if self.method == "check_input":
            raise RuntimeError("the secret of the store")
        return super().check_input(path)

    def read(self, path: str, limit: int) -> bytes:
        if self.method == "read":
            raise RuntimeError("the secret of the store")
        return super().read(path, limit)


@pytest.mark.parametrize("route", ["/v1/process", "/items/"])
def test_an_unforeseen_exception_is_a_500_that_tells_only_the_log(route: str, serve: Serve, capsys: Any) -> None:
    result = serve(Faulty("check_input")).post(route, {"images": ITEMS["images"]})
    answer = problem(result, 500)
    logged = capsys.readouterr().err
    assert "secret" not in result.text
    assert "Traceback" not in result.text
    assert "RuntimeError: the secret of the store" in logged
    assert "Traceback (most recent call last)" in logged
    assert f"request_id={answer['request_id']}" in logged


def test_an_unforeseen_exception_of_one_image_fails_that_image_and_tells_only_the_log(
    serve: Serve, capsys: Any
) -> None:
    result = serve(Faulty("read")).post("/v1/process", {"images": ITEMS["images"]})
    logged = capsys.readouterr().err
    assert result.status_code == 422
    assert result.json["images"][0]["status"] == "failed"
    assert "secret" not in result.text
    assert "RuntimeError: the secret of the store" in logged
    assert f"request_id={result.headers['X-Request-ID']}" in logged


# GET


def test_the_root_tells_what_the_server_is(serve: Serve) -> None:
    answer = serve(max_images=77).client.simulate_get("/").json
    assert answer["name"] == "falconimg"
    assert set(answer["formats"]) == set(formats.FORMATS)
    assert answer["limits"]["max_images"] == 77
    assert answer["operations"]
    for link in answer["links"].values():
        assert f"/{link}" in ROUTES


def test_no_get_tells_a_path_of_the_server(server: Server) -> None:
    for route in GETS:
        assert str(server.root) not in server.client.simulate_get(route).text


@pytest.mark.parametrize("route", ["/livez", "/healthz", "/health"])
def test_the_process_says_that_it_is_alive_even_while_it_stops(route: str, server: Server) -> None:
    server.pipeline.stop()
    result = server.client.simulate_get(route)
    assert (result.status_code, result.json) == (200, {"status": "alive"})


def test_the_server_is_ready_until_it_stops(server: Server) -> None:
    ready = server.client.simulate_get("/readyz")
    assert (ready.status_code, ready.json["status"], ready.json["faults"]) == (200, "ready", [])
    assert set(ready.json["codecs"]) >= {"opencv-python-headless", "simplejpeg", "numpy"}
    for name in ("ZLib", "JPEG", "PNG", "WEBP", "AVIF", "TIFF"):
        assert re.search(r"\(ver .*[0-9]\.[0-9]|\(ver .*0x[0-9]", ready.json["opencv"][name]), name
    assert "libjpeg-turbo" in ready.json["opencv"]["JPEG"]
    assert "/" not in "".join(ready.json["opencv"].values())
    server.pipeline.stop()
    stopping = server.client.simulate_get("/readyz")
    assert (stopping.status_code, stopping.json["status"]) == (503, "not ready")
    assert stopping.json["faults"] == ["the server is stopping"]


# FALCONIMG_TOKEN


TOKENS = ("first-first-first", "second-second-second", "third-third-third")
OPEN = {"/", "/page/{name}", "/openapi.json", "/docs", "/docs/{name}", "/livez", "/healthz", "/health", "/readyz"}


@pytest.fixture
def locked(serve: Serve) -> Server:
    """A server with tokens that holds in/a.png."""
    return serve(Memory({"in/a.png": PICTURE}), token=TOKENS)


def test_only_what_tells_of_the_server_is_open() -> None:
    assert {path for path, resource in ROUTES.items() if resource.open} == OPEN


@pytest.mark.parametrize("route", sorted(set(ROUTES) - OPEN))
@pytest.mark.parametrize(
    ("authorization", "challenge"),
    [
        (None, 'Bearer realm="falconimg"'),
        ("", 'Bearer realm="falconimg"'),
        ("Basic Zmlyc3QtZmlyc3QtZmlyc3Q6", 'Bearer realm="falconimg"'),
        (TOKENS[0], 'Bearer realm="falconimg"'),
        (f"Basic {TOKENS[0]}", 'Bearer realm="falconimg"'),
        ("Bearer", 'Bearer realm="falconimg", error="invalid_token"'),
        (f"Bearer {TOKENS[0]}x", 'Bearer realm="falconimg", error="invalid_token"'),
        (f"Bearer {TOKENS[0][:-1]}", 'Bearer realm="falconimg", error="invalid_token"'),
        (f"Bearer {TOKENS[0]},{TOKENS[1]}", 'Bearer realm="falconimg", error="invalid_token"'),
        ("Bearer \u00e9", 'Bearer realm="falconimg", error="invalid_token"'),
    ],
)
def test_without_a_token_a_request_is_refused_unread(
    route: str, authorization: str | None, challenge: str, locked: Server
) -> None:
    result = raw(locked, Sink(), route, HTTP_AUTHORIZATION=authorization, CONTENT_LENGTH="100")
    answer = problem(result, 401, "/problems/token")
    assert result.headers["WWW-Authenticate"] == challenge
    assert not any(token[:5] in json.dumps(answer) for token in TOKENS)
    assert list(locked.tree()) == ["in/a.png"]


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_each_token_opens_and_each_is_compared(
    token: str, scheme: str, locked: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bytes] = []

    def compare(given: bytes, own: bytes) -> bool:
        compared.append(own)
        return hmac.compare_digest(given, own)

    monkeypatch.setattr(app, "compare_digest", compare)
    result = locked.post("/items/", ITEMS, headers={"Authorization": f"{scheme} {token}"})
    assert (result.status_code, len(locked.tree())) == (200, 5)
    assert compared == [own.encode() for own in TOKENS]


@pytest.mark.parametrize("route", sorted({*GETS} & OPEN))
def test_what_is_open_needs_no_token_and_tells_none(route: str, locked: Server) -> None:
    result = locked.client.simulate_get(route)
    assert result.status_code == 200
    assert not any(token in result.text for token in TOKENS)


def test_the_document_asks_for_the_token_where_the_server_does(locked: Server, server: Server) -> None:
    document = locked.client.simulate_get("/openapi.json").json
    assert [str(error) for error in OpenAPIV31SpecValidator(document).iter_errors()] == []
    assert document["components"]["securitySchemes"] == {"token": {"type": "http", "scheme": "bearer"}}
    for path, methods in document["paths"].items():
        for method in methods.values():
            assert ("security" in method, "401" in method["responses"]) == (not TEMPLATES[path].open,) * 2
            assert method.get("security", [{"token": []}]) == [{"token": []}]
    assert "security" not in server.client.simulate_get("/openapi.json").text
    assert "persistAuthorization: true" in server.client.simulate_get("/docs/start.js").text


# FALCONIMG_FORMATS


SAMPLES = {name: formats.encode(name, noise(6, 8), formats.Options()).data for name in formats.FORMATS}


@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_format_that_is_switched_off_is_refused_before_any_of_its_code_runs(
    name: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def must_not(*_arguments: Any) -> Any:
        raise AssertionError("code of a format that is switched off")

    kin = ("pnm", "pgm", "ppm")  # each reads the others' files
    read = tuple(other for other in formats.FORMATS if other != name and not {name, other} <= {*kin})
    for method in ("probe", "decode"):
        monkeypatch.setattr(type(formats.FORMATS[name]), method, must_not)
    server = serve(Memory({"in/a.png": SAMPLES[name]}), formats=read)
    result = server.process([{"input": "in/a.png", "output": "out/a.png"}])
    error = result.json["images"][0]["error"]
    switched_off = "pnm" if name in ("pgm", "ppm") else name
    assert (result.status_code, error["type"]) == (422, "/problems/unsupported")
    assert error["detail"] == f"{switched_off} is switched off; FALCONIMG_FORMATS has {', '.join(read)}"
    assert list(server.tree()) == ["in/a.png"]


@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_format_that_alone_is_read_is_read_and_every_format_is_written(name: str, serve: Serve) -> None:
    server = serve(Memory({"in/a": SAMPLES[name]}), formats=(name,))
    images = [{"input": "in/a", "output": f"out/{form.name}{form.extensions[0]}"} for form in formats.FORMATS.values()]
    assert server.process(images).json["done"] == len(images)
    assert formats.probe(server.tree()["out/png.png"]).size == (8, 6)


def test_what_is_of_no_format_is_told_which_are_read(serve: Serve) -> None:
    server = serve(Memory({"in/a": b"%PDF-1.7"}), formats=("png", "gif"))
    error = server.process([{"input": "in/a", "output": "out/a.png"}]).json["images"][0]["error"]
    assert error["detail"] == "the content is of no format that is read: png, gif"


def test_what_is_switched_off_is_told_by_the_server_and_its_document(serve: Serve) -> None:
    client = serve(formats=("png",)).client
    told = client.simulate_get("/").json["formats"]
    assert {name for name, form in told.items() if form["reads"]} == {"png"}
    assert all(form["writes"] for form in told.values())
    description = client.simulate_get("/openapi.json").json["info"]["description"]
    assert description.count("reads nothing (switched off)") == len(formats.FORMATS) - 1


@pytest.mark.parametrize("said", ["", "Media I/O:", "  Media I/O: \nnothing", "    PNG:  1\n"])
def test_a_codec_that_says_nothing_of_its_libraries_is_no_fault(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cv2.getBuildInformation", lambda: said)
    assert opencv.libraries.__wrapped__() == {}


# OpenAPI and the page


@pytest.fixture
def openapi(server: Server) -> dict[str, Any]:
    document: dict[str, Any] = server.client.simulate_get("/openapi.json").json
    return document


def test_the_openapi_document_is_valid(openapi: dict[str, Any]) -> None:
    assert openapi["openapi"].startswith("3.1.")
    assert [str(error) for error in OpenAPIV31SpecValidator(openapi).iter_errors()] == []


def test_every_route_of_the_api_is_in_the_openapi_document(openapi: dict[str, Any]) -> None:
    documented = {TEMPLATES[path] for path in openapi["paths"]}
    assert documented == {*ROUTES.values()} - {Docs, Page}
    for path, operations_ in openapi["paths"].items():
        for method in operations_:
            assert hasattr(TEMPLATES[path], f"on_{method}")


def validator(openapi: dict[str, Any], name: str) -> Draft202012Validator:
    registry: Any = Registry().with_resource("urn:openapi", DRAFT202012.create_resource(openapi))
    return Draft202012Validator({"$ref": f"urn:openapi#/components/schemas/{name}"}, registry=registry)


def test_the_schemas_take_the_examples(openapi: dict[str, Any]) -> None:
    for path, name, example in (("/v1/process", "Process", EXAMPLE), ("/items/", "Items", EXAMPLE_ITEMS)):
        content = openapi["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert content["example"] == example
        assert content["schema"] == {"$ref": f"#/components/schemas/{name}"}
        validator(openapi, name).validate(example)


@pytest.mark.parametrize("path", sorted(REQUESTS.glob("*-accepted*.json")), ids=lambda path: path.stem)
def test_the_schemas_take_what_the_server_takes(path: Path, openapi: dict[str, Any]) -> None:
    case = json.loads(path.read_text())
    name = {"/v1/process": "Process", "/items/": "Items"}[case["route"]]
    assert validator(openapi, name).is_valid(case["body"])


@pytest.mark.parametrize(
    "case",
    ["an-array", "null", "images-an-object", "image-a-string", "input-missing", "input-a-number", "output-null",
     "operations-a-string", "operation-a-number", "path-empty"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["Process", "Items"])
def test_the_schemas_refuse_what_the_server_refuses(case: str, name: str, openapi: dict[str, Any]) -> None:
    text = json.loads((REQUESTS / f"{name.lower()}-{case}.json").read_text())
    body = json.loads(text["text"]) if "text" in text else text["body"]
    assert not validator(openapi, name).is_valid(body)


@pytest.mark.parametrize(
    "case",
    ["unknown-key", "unknown-keys-of-an-image", "output-and-renditions", "neither-output-nor-renditions",
     "renditions-none", "choices-unknown", "switches-of-the-wrong-type", "quality-out-of-bounds",
     "background-no-colour", "objects-out-of-bounds", "object-of-the-wrong-form", "operation-null"],
)  # fmt: skip
def test_the_schema_of_process_refuses_what_the_server_refuses(case: str, openapi: dict[str, Any]) -> None:
    body = json.loads((REQUESTS / f"process-{case}.json").read_text())["body"]
    assert not validator(openapi, "Process").is_valid(body)


def test_the_schemas_describe_the_answers(openapi: dict[str, Any], serve: Serve) -> None:
    server = serve(Memory({"in/a.png": PICTURE, "in/b.png": b"nothing"}))
    images = [{"input": f"in/{name}.png", "output": f"out/{name}.png"} for name in "ab"]
    answer = server.process(images, operations=["blur=4"]).json
    assert answer["status"] == "partial"
    validator(openapi, "Report").validate(answer)
    validator(openapi, "Problem").validate(server.process([{}]).json)
    validator(openapi, "Problem").validate(server.client.simulate_get("/nowhere").json)


def test_the_schemas_have_the_settings_limits(serve: Serve) -> None:
    document = serve(max_images=7, max_operations=5).client.simulate_get("/openapi.json").json
    process = document["components"]["schemas"]["Process"]["properties"]
    assert (process["images"]["maxItems"], process["operations"]["maxItems"]) == (7, 5)


def test_the_page_loads_nothing_from_elsewhere(server: Server) -> None:
    page = server.client.simulate_get("/docs")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    for path in ("/docs", "/docs/start.js"):
        assert not re.search("https?:|//[a-z]", server.client.simulate_get(path).text)
    css = server.client.simulate_get("/docs/swagger-ui.css").text
    assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", css)
    for path in ("/docs", *(f"/docs/{name}" for name in Docs.files if name != Docs.page)):
        policy = server.client.simulate_get(path).headers["Content-Security-Policy"]
        nothing = {f"{each} 'none'" for each in ("base-uri", "form-action", "frame-ancestors")}
        assert {"default-src 'self'", *nothing} <= set(policy.split("; "))
        assert not re.search("https?:|\\*|unsafe-eval|script-src", policy)


def test_every_file_that_the_page_names_is_served(server: Server) -> None:
    page = server.client.simulate_get("/docs").text
    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len([name for name in named if not name.startswith("data:")]) == 3
    for name in named:
        assert name.startswith("data:") or server.client.simulate_get(f"/{name}").status_code == 200
    assert '"openapi.json"' in server.client.simulate_get("/docs/start.js").text


def test_the_results_of_the_two_interfaces_are_the_same_files(serve: Serve) -> None:
    one, other = (serve(Memory({"in/a.png": PICTURE})) for _ in range(2))
    one.post("/items/", ITEMS)
    other.post("/v1/process", ITEMS)
    assert one.tree() == other.tree()
    assert len(one.tree()) == 5
    assert np.array_equal(one.picture("out/a_4.png"), decoded(PICTURE)[3:, 4:])


def test_every_problem_of_the_tree_has_a_type_of_its_own() -> None:
    def below(kind: type[errors.Problem]) -> list[type[errors.Problem]]:
        return [kind, *(other for child in kind.__subclasses__() for other in below(child))]

    leaves = [kind for kind in below(errors.RequestProblem) if not kind.__subclasses__()]
    assert len({kind.type for kind in leaves}) == len(leaves)
    assert all(400 <= kind.status < 600 for kind in leaves)


@pytest.mark.parametrize("route", ["/", "/docs", "/livez", "/nope"])
def test_no_answer_is_taken_for_another_type_than_it_says(route: str, server: Server) -> None:
    assert server.client.simulate_get(route).headers["X-Content-Type-Options"] == "nosniff"


def test_a_refusal_is_not_kept_by_any_cache(server: Server) -> None:
    assert server.client.simulate_get("/nope").headers["Cache-Control"] == "no-store"
    assert server.post("/v1/process", "{").headers["Cache-Control"] == "no-store"
