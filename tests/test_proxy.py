"""What a server behind a proxy, or for pages of other sites, answers: FALCONIMG_PREFIX and FALCONIMG_CORS."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urljoin

import pytest

from falconimg.errors import SettingsProblem
from falconimg.resources import ROUTES
from falconimg.settings import Settings
from falconimg.stores.memory import Memory
from tests.conftest import Result, Serve, Server, encoded, noise
from tests.serving import serving
from tests.test_hostile_clients import held, long_batch, readable

PICTURE = encoded(noise(6, 8))
IMAGES = [{"input": "in/a.png", "output": "out/a.png"}]
GETS = [route for route, resource in ROUTES.items() if hasattr(resource, "on_get") and "{" not in route]
ORIGIN, OTHER = "https://pictures.example", "https://other.example"
TOKEN = "sesame-" * 3
EXPOSED = {"image-width", "image-height", "etag", "content-disposition", "falconimg-failed", "x-request-id",
           "server-timing"}  # fmt: skip


# FALCONIMG_PREFIX


@pytest.fixture
def below(serve: Serve) -> Server:
    """A server below /img/eu that holds in/a.png."""
    return serve(Memory({"in/a.png": PICTURE}), prefix="/img/eu")


@pytest.mark.parametrize("route", GETS)
def test_a_route_is_the_same_with_the_prefix_and_without(route: str, below: Server) -> None:
    with_it, without = below.client.simulate_get(f"/img/eu{route}"), below.client.simulate_get(route)
    assert (with_it.status_code, with_it.content) == (200, without.content)


def test_a_batch_is_processed_below_the_prefix(below: Server) -> None:
    assert below.post("/img/eu/v1/process", {"images": IMAGES}).status_code == 200
    assert sorted(below.tree()) == ["in/a.png", "out/a.png"]


@pytest.mark.parametrize(
    "path", ["/img/eulivez", "/img/eux/livez", "/img/eu/img/eu/livez", "/img/livez", "/IMG/EU/", "/img"]
)
def test_another_path_is_not_taken_for_the_prefix(path: str, below: Server) -> None:
    result = below.client.simulate_get(path)
    assert (result.status_code, result.json["type"]) == (404, "about:blank")


@pytest.mark.parametrize(("query", "target"), [("", "/img/eu/"), ("a=%2F&b", "/img/eu/?a=%2F&b")])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_the_prefix_alone_leads_to_what_is_below_it(query: str, target: str, method: str, below: Server) -> None:
    result = below.client.simulate_request(method, "/img/eu", query_string=query)
    assert (result.status_code, result.headers["Location"]) == (308, target)


@pytest.mark.parametrize("page", ["/img/eu/", "/img/eu/docs"])
def test_every_address_in_the_pages_is_below_the_prefix_and_answers(page: str, below: Server) -> None:
    answer = below.client.simulate_get(page, headers={"Accept": "text/html"})
    found = re.findall(r'(?:href|src)="(?!data:|#)([^"]+)"', answer.text)
    links = answer.json["links"].values() if "json" in answer.headers["Content-Type"] else ()
    for address in (*found, *links):
        target = urljoin(page, address)
        assert target.startswith("/img/eu/"), address
        assert below.client.simulate_get(target).status_code in (200, 405), address  # some take POST only


@pytest.mark.parametrize("prefix", ["/img", "/a/b/c", "/v1.2_x~y-z", "/.well-known"])
def test_what_is_a_path_is_a_prefix(prefix: str) -> None:
    assert Settings.from_environ({"FALCONIMG_PREFIX": prefix}).prefix == prefix


@pytest.mark.parametrize(
    "prefix", ["", "/", "img", "/img/", "//img", "/a//b", "/a/../b", "/.", "/..", "/a b", "/a%20b", "/a?b", "/\u00e9",
               "/a\n", "https://x/img", "/a" * 9, "/" + "a" * 100],
)  # fmt: skip
def test_what_is_no_path_is_no_prefix(prefix: str) -> None:
    with pytest.raises(SettingsProblem, match=r"^FALCONIMG_PREFIX: expected a path like /img"):
        Settings.from_environ({"FALCONIMG_PREFIX": prefix})


def test_the_documents_server_is_below_the_prefix(below: Server) -> None:
    (entry,) = below.client.simulate_get("/img/eu/openapi.json").json["servers"]
    assert urljoin("/img/eu/openapi.json", entry["url"]) == "/img/eu/"


def test_probes_below_the_prefix_are_answered_however_long_the_queue(tmp_path: Path) -> None:
    batch = long_batch(tmp_path, "long")
    with serving(tmp_path, prefix="/img", workers="1", threads="1", pool="1", queue="1") as server:  # noqa: SIM117
        with held(server, 2, batch) as asked:  # one is at work, one waits
            assert readable(asked, 0.2) == []
            assert server.ask("GET", "/img/")[0] == 503
            for probe in ("/livez", "/img/livez", "/img/readyz", "/img/health", "/img/healthz"):
                assert server.ask("GET", probe)[0] == 200
            assert server.ask("GET", "/imx/livez")[0] == 503
            assert readable(asked) == []  # they had not been done by then


# FALCONIMG_CORS


def asked(server: Server, method: str, route: str, origin: str | None = ORIGIN, **headers: str) -> Result:
    """The answer to a request from a page of this origin."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.client.simulate_request(method, route, headers=given | ({"Origin": origin} if origin else {}))


def cors(result: Result) -> dict[str, str]:
    """The headers of CORS in an answer."""
    return {name.lower(): v for name, v in result.headers.items() if name.lower().startswith("access-control-")}


@pytest.fixture
def shared(serve: Serve) -> Server:
    """A server for the pages of one origin, with a token."""
    return serve(Memory({"in/a.png": PICTURE}), cors=(ORIGIN, "http://localhost:3000"), token=(TOKEN,))


@pytest.mark.parametrize("origin", [ORIGIN, "http://localhost:3000"])
@pytest.mark.parametrize("route", sorted(ROUTES))
def test_a_preflight_is_answered_without_a_token_and_names_the_routes_methods(
    route: str, origin: str, shared: Server
) -> None:
    resource, path = ROUTES[route], re.sub(r"\{\w+(:\w+)?\}", "x", route)
    wanted = "authorization, content-type, x-request-id"
    result = asked(shared, "OPTIONS", path, origin, Access_Control_Request_Method="POST",
                   Access_Control_Request_Headers=wanted)  # fmt: skip
    found = cors(result)
    assert (result.status_code, result.content) == (204, b"")
    assert found["access-control-allow-origin"] == origin
    assert found["access-control-allow-headers"] == wanted
    methods = set(found["access-control-allow-methods"].split(", "))
    assert methods == {method for method in ("GET", "HEAD", "POST") if hasattr(resource, f"on_{method.lower()}")}
    assert found["access-control-max-age"] == "86400"
    assert "access-control-allow-credentials" not in found
    assert "Allow" not in result.headers


@pytest.mark.parametrize(
    ("method", "route", "status"),
    [("GET", "/docs", 200), ("HEAD", "/livez", 200), ("GET", "/none", 404), ("PUT", "/livez", 405),
     ("POST", "/v1/process", 401)],
)  # fmt: skip
def test_an_answer_to_an_allowed_origin_says_so_errors_too(
    method: str, route: str, status: int, shared: Server
) -> None:
    result = asked(shared, method, route)
    found = cors(result)
    assert result.status_code == status
    assert found["access-control-allow-origin"] == ORIGIN
    assert {name.lower() for name in found["access-control-expose-headers"].split(", ")} >= EXPOSED
    assert "Origin" in result.headers["Vary"].split(", ")


@pytest.mark.parametrize("origin", [OTHER, "null", f"{ORIGIN}.evil.example", ORIGIN.upper(), f"{ORIGIN}:443", None])
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_another_origin_is_told_nothing_and_no_cache_mixes_them(
    origin: str | None, method: str, shared: Server
) -> None:
    result = asked(shared, method, "/livez", origin, Access_Control_Request_Method="POST")
    assert (result.status_code, cors(result), result.headers["Vary"]) == (200, {}, "Origin")


def test_what_an_answer_varies_by_besides_the_origin_stays_said(shared: Server) -> None:
    assert asked(shared, "GET", "/").headers["Vary"] == "Accept, Origin"


def test_a_star_lets_every_page_in_but_never_with_cookies(serve: Serve) -> None:
    server = serve(Memory(), cors=("*",))
    result = asked(server, "GET", "/livez", OTHER)
    assert cors(result)["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in cors(result)
    assert "Origin" in result.headers["Vary"].split(", ")
    assert cors(asked(server, "GET", "/", None)) == {}


def test_a_host_that_is_not_the_servers_is_refused_in_spite_of_cors(serve: Serve) -> None:
    server = serve(Memory(), cors=("*",))
    for method in ("GET", "OPTIONS"):
        result = asked(server, method, "/", OTHER, Host="evil.example", Access_Control_Request_Method="GET")
        assert result.status_code == 421
        assert "access-control-allow-methods" not in cors(result)


def test_without_cors_nothing_of_it_is_said_and_a_preflight_needs_the_token(serve: Serve) -> None:
    server = serve(Memory(), token=(TOKEN,))
    result = asked(server, "GET", "/livez")
    assert (result.status_code, cors(result), "Vary" in result.headers) == (200, {}, False)
    result = asked(server, "OPTIONS", "/v1/process", Access_Control_Request_Method="POST")
    assert (result.status_code, cors(result)) == (401, {})


def test_options_that_is_no_preflight_needs_the_token(shared: Server) -> None:
    assert asked(shared, "OPTIONS", "/v1/process").status_code == 401


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("*", ("*",)),
        (" https://a.example , http://localhost:3000 ", ("https://a.example", "http://localhost:3000")),
        ("http://[::1]:8080", ("http://[::1]:8080",)),
        ("chrome-extension://abcdef", ("chrome-extension://abcdef",)),
        ("https://a.example:80", ("https://a.example:80",)),
    ],
)
def test_origins_are_separated_by_commas(text: str, origins: tuple[str, ...]) -> None:
    assert Settings.from_environ({"FALCONIMG_CORS": text}).cors == origins


@pytest.mark.parametrize(
    "text", ["", ",", "*,https://a.example", "a.example", "https://a.example/", "https://a.example/x", "null",
             "HTTPS://a.example", "https://A.example", "https://*.example", "https://a.example:443",
             "http://a.example:80", "https://a.example:", "https://a b", "https://u@a.example"],
)  # fmt: skip
def test_what_no_browser_calls_an_origin_is_refused(text: str) -> None:
    with pytest.raises(SettingsProblem, match=r"^FALCONIMG_CORS: expected \* or origins like https://example.com"):
        Settings.from_environ({"FALCONIMG_CORS": text})
