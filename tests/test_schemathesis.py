"""Requests that Schemathesis makes of the OpenAPI document, those it allows and those it does not."""

from __future__ import annotations

from collections.abc import Callable
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

from falconimg.stores.memory import Memory
from tests.conftest import Serve, encoded, noise

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
POSTS = ["/v1/process", "/items/"]
GETS = ["/", "/livez", "/readyz", "/openapi.json"]


def name(body: Any) -> None:
    """Two of three inputs are the picture that there is, and each output a file of its own: no schema says so."""
    for index, image in enumerate(body.get("images") or ()):
        image["input"] = "in/a.png" if index < 2 else "in/missing.png"
        for number, result in enumerate(image.get("renditions", [image])):
            result["output"] = f"out/{index}_{number}_{{index}}.png"


def asked(serve: Serve, method: str, path: str, mode: GenerationMode, count: int, *checks: Any) -> int:
    """How many requests were made of a route, each answer as the document says."""
    server = serve(Memory({"in/a.png": encoded(noise(6, 8))}), max_images=3, max_outputs=20, max_pixels=10**5)
    operation = schemathesis.openapi.from_wsgi("/openapi.json", server.app)[path][method]
    made = 0

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
        nonlocal made
        made += 1
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            name(case.body)
        case.call_and_validate(base_url="http://localhost", checks=[*CHECKS, *checks])

    each()
    return made


@pytest.mark.parametrize("path", POSTS)
def test_a_document_that_the_schema_takes_gets_an_answer_that_the_schema_describes(
    path: str, serve: Serve, long: bool, record_property: Callable[[str, object], None]
) -> None:
    made = asked(serve, "POST", path, GenerationMode.POSITIVE, 2_000 if long else 25)
    record_property("requests", made)
    print(f"figure: 22: Schemathesis, allowed by the schema, {path}: {made}")  # noqa: T201


@pytest.mark.parametrize("path", POSTS)
def test_what_the_schema_does_not_take_is_refused_as_the_schema_says(
    path: str, serve: Serve, long: bool, record_property: Callable[[str, object], None]
) -> None:
    made = asked(serve, "POST", path, GenerationMode.NEGATIVE, 2_000 if long else 25, negative_data_rejection)
    record_property("requests", made)
    print(f"figure: 22: Schemathesis, not allowed by the schema, {path}: {made}")  # noqa: T201


@pytest.mark.parametrize("path", GETS)
def test_a_get_answers_as_the_schema_says(path: str, serve: Serve) -> None:
    assert asked(serve, "GET", path, GenerationMode.POSITIVE, 5) >= 1
