"""The page at GET /, over HTTP; test_browser.py has it in Chromium."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import pytest

from falconimg import operations
from falconimg.resources.page import Page
from tests.conftest import Serve, Server

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize("accept", ["text/html", BROWSER, "application/json;q=0.5, text/html"])
def test_a_browser_gets_the_page(server: Server, accept: str) -> None:
    answer = server.client.simulate_get("/", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "<title>falconimg</title>" in answer.text
    assert answer.headers["Vary"] == "Accept"


@pytest.mark.parametrize(
    "accept", [None, "*/*", "application/json", "text/html;q=0, */*", "text/html;q=0.5, application/json"]
)
def test_others_get_the_information(server: Server, accept: str | None) -> None:
    answer = server.client.simulate_get("/", headers={"Accept": accept} if accept else {})
    assert answer.json["name"] == "falconimg"
    assert answer.headers["Vary"] == "Accept"


@pytest.mark.parametrize(("max_file", "memory", "most"), [(2**20, 2**30, 2**20), (2**30, 2**30, 2**25)])
def test_the_information_says_what_an_upload_may_have(serve: Serve, max_file: int, memory: int, most: int) -> None:
    server = serve(max_file=max_file, memory=memory)
    assert server.client.simulate_get("/").json["limits"]["max_upload"] == most
    assert server.client.simulate_post("/v1/image", body=bytes(most + 1)).status_code == 413


def test_the_page_allows_only_what_the_server_has(server: Server) -> None:
    headers = server.client.simulate_get("/", headers={"Accept": "text/html"}).headers
    policy = headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    nothing = dict.fromkeys(("default-src", "base-uri", "form-action", "frame-ancestors"), "'none'")
    own = dict.fromkeys(("script-src", "style-src", "connect-src"), "'self'")
    assert rules == {**nothing, **own, "img-src": "'self' blob:"}


def test_every_file_of_the_page_is_served_and_no_other(server: Server) -> None:
    there = {file.name for file in (resources.files("falconimg") / "page").iterdir()} - {"index.html"}
    assert there == set(Page.files)
    for name, media_type in Page.files.items():
        answer = server.client.simulate_get(f"/page/{name}")
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, media_type)
        head = server.client.simulate_head(f"/page/{name}")
        assert (head.status_code, head.content, head.headers["ETag"]) == (200, b"", answer.headers["ETag"])
    for name in ("index.html", "none.js", "..%2Fapp.py"):
        assert server.client.simulate_get(f"/page/{name}").status_code == 404


@pytest.mark.parametrize("path", ["/", "/page/app.js"])
def test_a_file_that_the_browser_has_is_not_sent_again(server: Server, path: str) -> None:
    headers = {"Accept": "text/html"}
    tag = server.client.simulate_get(path, headers=headers).headers["ETag"]
    again = server.client.simulate_get(path, headers={**headers, "If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    assert again.headers["Cache-Control"] == "no-cache"
    assert server.client.simulate_get(path, headers={**headers, "If-None-Match": '"other"'}).status_code == 200


def test_a_prefix_without_its_slash_is_sent_to_the_one_with_it(serve: Serve) -> None:
    client = serve(prefix="/a/img").client
    answer = client.simulate_get("/a/img", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.headers["Location"]) == (308, "/a/img/")
    assert "<title>" in client.simulate_get("/a/img/", headers={"Accept": "text/html"}).text
    assert client.simulate_get("/a/img/page/app.js").status_code == 200


def test_the_page_needs_no_token(serve: Serve) -> None:
    client = serve(token=("a-token-of-16-characters",)).client
    for path in ("/", "/page/app.js", "/page/style.css", "/openapi.json"):
        assert client.simulate_get(path, headers={"Accept": "text/html, */*"}).status_code == 200


def test_no_file_of_the_page_names_an_address_elsewhere() -> None:
    for file in (resources.files("falconimg") / "page").iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "").replace("http://127.0.0.1:8888/", "")
        assert not re.search(r"https?://|[\"'(]//", text), file.name
        assert not re.search(r"""(?:href|src)=["']/""", text), f"{file.name}: not relative"


SAMPLES = {"number": 0.5, "integer": 90, "string": "h"}


@pytest.mark.parametrize("name", operations.OPERATIONS)
def test_every_form_that_the_schema_publishes_is_read_as_its_object(name: str) -> None:
    schema = operations.OPERATIONS[name].schema()
    for form in schema["x-forms"]:
        keys = re.findall(r"\{(\w+)\}", form["step"])
        values = {key: SAMPLES[schema["properties"][key]["type"]] for key in keys}
        values |= {key: 3 for key in values if key in ("rows", "columns")}
        assert operations.parse(form["step"].format(**values)) == operations.parse({"op": name, **values})


@pytest.mark.parametrize("name", operations.OPERATIONS)
def test_what_a_form_starts_with_is_taken(name: str) -> None:
    schema = operations.OPERATIONS[name].schema()
    for form in schema["x-forms"]:
        properties = {key: schema["properties"][key] for key in re.findall(r"\{(\w+)\}", form["step"])}
        start = {key: each.get("x-start", each.get("enum", [None])[0]) for key, each in properties.items()}
        operations.parse({"op": name, **start})
        for key, each in properties.items():
            for end in each.get("x-slider", ())[:2]:
                operations.parse({"op": name, **start, key: end})


@pytest.mark.parametrize("name", operations.OPERATIONS)
def test_labels_are_those_of_all_values(name: str) -> None:
    for schema in operations.OPERATIONS[name].properties.values():
        values: list[Any] = schema.get("enum") or []
        assert len(schema.get("x-labels") or values) == len(values)
