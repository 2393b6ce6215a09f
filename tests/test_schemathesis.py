"""Requests that Schemathesis makes of the OpenAPI document, those it allows and those it does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from falconimg import openapi
from falconimg.jobs.ledger import Ledger
from falconimg.jobs.record import Item
from falconimg.settings import Settings
from falconimg.stores.memory import Memory
from tests.conftest import Serve, encoded, noise

PICTURE = encoded(noise(6, 8))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
POSTS = ["/v1/process", "/items/"]
SINGLES = [("POST", "/v1/image"), ("GET", "/v1/image/{path}"), ("POST", "/v1/info"), ("GET", "/v1/info/{path}")]
JOBS = [
    ("POST", "/v1/jobs"), ("GET", "/v1/jobs"), ("GET", "/v1/jobs/{id_}"), ("DELETE", "/v1/jobs/{id_}"),
    ("GET", "/v1/jobs/{id_}/events"), ("POST", "/v1/jobs/{id_}/retry"),
]  # fmt: skip
STEPS = ["resize=0.5", "split", "blur=3", "crop=3x2+1+1", "flip=h", "gray", "tile=4", "rotate=90"]
GETS = ["/", "/livez", "/readyz", "/metrics", "/openapi.json"]


def name(case: schemathesis.Case[Any], _number: int) -> None:
    """Two of three inputs are the picture that there is, and each output a file of its own: no schema says so."""
    body: Any = case.body if isinstance(case.body, dict) else {}
    for index, image in enumerate(body.get("images") or ()):
        image["input"] = "in/a.png" if index < 2 else "in/missing.png"
        for number, result in enumerate(image.get("renditions", [image])):
            result["output"] = f"out/{index}_{number}_{{index}}.png"


def show(case: schemathesis.Case[Any], number: int) -> None:
    """Two of three pictures are ones, or are where one is, and two of three operations are ones."""
    if case.path_parameters and number % 3:
        case.path_parameters["path"] = "in/a.png"
    body: Any = case.body
    if isinstance(body, bytes) and number % 3:
        case.body = PICTURE
    if isinstance(body, dict) and number % 3:
        body["file"] = [PICTURE] * len(body.get("file") or [1])
    if case.query.get("op") and number % 4:
        case.query["op"] = [STEPS[(number + place) % len(STEPS)] for place in range(len(case.query["op"]))]


def asked(
    serve: Serve,
    method: str,
    path: str,
    mode: GenerationMode,
    count: int,
    *checks: Any,
    shape: Callable[[schemathesis.Case[Any], int], None] = name,
    **chosen: Any,
) -> Counter[int]:
    """How many requests of a route got which status, each answer as the document says."""
    server = serve(Memory({"in/a.png": PICTURE}), max_images=3, max_outputs=20, max_pixels=10**5, **chosen)

    def whole(environ: Any, start: Any) -> list[bytes]:
        chunks: Any = server.app(environ, start)
        try:
            return list(chunks)
        finally:
            getattr(chunks, "close", list)()  # as servers do (PEP 3333), and the client of Schemathesis does not

    operation = schemathesis.openapi.from_wsgi("/openapi.json", whole)[path][method]
    made: Counter[int] = Counter()

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def each(case: schemathesis.Case[Any]) -> None:
        if mode is GenerationMode.POSITIVE:
            shape(case, made.total())
        answer = case.call_and_validate(base_url="http://localhost", checks=[*CHECKS, *checks])
        made[answer.status_code] += 1

    each()
    return made


@pytest.mark.parametrize("path", POSTS)
def test_a_document_that_the_schema_takes_gets_an_answer_that_the_schema_describes(
    path: str, serve: Serve, long: bool, record_property: Callable[[str, object], None]
) -> None:
    made = asked(serve, "POST", path, GenerationMode.POSITIVE, 2_000 if long else 25).total()
    record_property("requests", made)
    print(f"figure: 22: Schemathesis, allowed by the schema, {path}: {made}")  # noqa: T201


@pytest.mark.parametrize("path", POSTS)
def test_what_the_schema_does_not_take_is_refused_as_the_schema_says(
    path: str, serve: Serve, long: bool, record_property: Callable[[str, object], None]
) -> None:
    made = asked(serve, "POST", path, GenerationMode.NEGATIVE, 2_000 if long else 25, negative_data_rejection).total()
    record_property("requests", made)
    print(f"figure: 22: Schemathesis, not allowed by the schema, {path}: {made}")  # noqa: T201


@pytest.mark.parametrize("path", GETS)
def test_a_get_answers_as_the_schema_says(path: str, serve: Serve) -> None:
    assert asked(serve, "GET", path, GenerationMode.POSITIVE, 5)[200] >= 1


@pytest.mark.parametrize(("method", "path"), SINGLES)
def test_a_single_picture_s_answer_is_one_that_the_schema_describes(
    method: str, path: str, serve: Serve, long: bool, record_property: Callable[[str, object], None]
) -> None:
    made = asked(serve, method, path, GenerationMode.POSITIVE, 2_000 if long else 60, shape=show)
    record_property("requests", made.total())
    print(f"figure: 22: Schemathesis, allowed by the schema, {method} {path}: {dict(made)}")  # noqa: T201
    assert made[200] > 5
    assert made.total() - made[200] > 5


@pytest.mark.parametrize(("method", "path"), SINGLES[:3])
def test_what_is_not_of_the_schema_for_a_single_picture_is_refused_as_it_says(
    method: str, path: str, serve: Serve, long: bool, record_property: Callable[[str, object], None]
) -> None:
    made = asked(serve, method, path, GenerationMode.NEGATIVE, 2_000 if long else 60)
    record_property("requests", made.total())
    print(f"figure: 22: Schemathesis, not allowed by the schema, {method} {path}: {dict(made)}")  # noqa: T201
    assert made[422] > 5


@pytest.mark.parametrize(("method", "path"), JOBS)
def test_an_answer_about_jobs_is_one_that_the_schema_describes(
    method: str, path: str, serve: Serve, tmp_path: Path, long: bool
) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    ledger = Ledger(url)
    id_, _ = ledger.submit({}, [Item(0, {"input": "in/a.png", "output": "b.png"}, "", "in/a.png", None, ())], "d")
    ledger.cancel(id_)  # whose events end
    ledger.close()

    def ask(case: schemathesis.Case[Any], number: int) -> None:
        name(case, number)
        if case.path_parameters and number % 2:
            case.path_parameters["id_"] = id_

    mode, count = GenerationMode.POSITIVE, 1_000 if long else 30
    made = asked(serve, method, path, mode, count, shape=ask, jobs=True, ledger=url)
    assert len(made) > 1 or (method, path) == ("GET", "/v1/jobs")


def test_every_route_of_the_document_is_asked() -> None:
    paths = openapi.document(Settings(ledger="sqlite:////jobs.db"))["paths"]
    routes = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert routes == {*JOBS, *SINGLES, *(("POST", path) for path in POSTS), *(("GET", path) for path in GETS)}
