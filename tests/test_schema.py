"""The quick validator against jsonschema, whose verdict counts."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from falconimg import operations, request
from falconimg.schema import Schema, Validator
from falconimg.settings import Settings

SETTINGS = Settings(max_images=3, max_operations=3, max_outputs=3)
REQUESTS = [json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "requests").glob("*.json"))]
BODIES = [found["body"] for found in REQUESTS if isinstance(found.get("body"), dict)]
RICH: dict[str, Any] = {
    "images": [
        {"input": "a.png", "output": "b.png", "sha256": "0" * 64, "operations": ["gray"], "background": "#fff"},
        {"input": "b.png", "renditions": [{"output": "c.jpg", "quality": 1, "metadata": "keep"}, {"output": "d.jpg"}]},
    ],
    "operations": ["split", {"op": "blur", "kernel": 3}],
    "if_exists": "skip", "on_error": "stop", "on_invalid": "skip", "dry_run": True, "precise": False, "quality": 100.0,
}  # fmt: skip
STEPS: list[dict[str, Any]] = [
    {"op": "resize", "factor": 0.05, "enlarge": False, "filter": "area"},
    {"op": "resize", "width": 65500, "height": 1.0, "fit": "pad", "gravity": "n", "background": "#ffffff80"},
    {"op": "resize", "height": 9, "width": 9, "fit": "cover"},
    {"op": "split", "rows": 64, "columns": 1},
    {"op": "tile", "size": 1},
    {"op": "blur", "kernel": 1001, "sigma": 200},
    {"op": "crop", "width": 1, "height": 1, "x": -65500, "y": 65500},
    {"op": "crop", "width": 1, "height": 1, "gravity": "se"},
    {"op": "rotate", "angle": 90.0},
    {"op": "flip", "axis": "v"},
    {"op": "gray"},
]
ODD: list[Any] = [
    None, True, False, 0, 1, 2, 100, 101, 1.0, 25.0, 2.5, -0.0, 5e-324, 0.0499, 0.05, 100.00000000000001, 200.5, 65500,
    65501, -65501, 1001, 1002, 1e300, -1e300, 2**53, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**39, -(10**39),
    "", "a", "1", "gray", "\n", "white\n", "white", "#fff\n", "ffffff", "FFF", "\u0661" * 3, "0" * 64, "0" * 64 + "\n",
    "g" * 64, "x" * 4096, "x" * 4097, "\U0001f600" * 4096, "\U0001f600" * 4097, "\ud800", "\0", "keep", "pad", "n",
    [], [[]], [None], ["gray"] * 3, ["gray"] * 4, {}, {"op": "gray"}, {"output": "a.png"}, [{"output": "a.png"}] * 4,
]  # fmt: skip


def schema(name: str) -> Schema:
    """A request's schema, with its steps' own."""
    return {
        "components": {"schemas": {**request.schemas(SETTINGS), **operations.schemas()}},
        "$ref": f"#/components/schemas/{name}",
    }


NAMES = ("Process", "Items", "Operation", *(operation.__name__ for operation in operations.OPERATIONS.values()))
QUICK = {name: Validator(schema(name)) for name in NAMES}
JUDGES = {name: Draft202012Validator(schema(name)) for name in NAMES}


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """Documents that are nearly valid: a good one, of which a few values are others, more or gone."""
    value = [copy.deepcopy(draw(st.sampled_from([RICH, *BODIES, *STEPS])))]
    for _ in range(draw(st.integers(0, 3))):
        owner: Any = value
        key: Any = 0
        while isinstance(owner[key], (dict, list)) and owner[key] and draw(st.integers(0, 4)):
            owner = owner[key]
            key = draw(st.sampled_from(sorted(owner) if isinstance(owner, dict) else range(len(owner))))
        if isinstance(owner, dict) and not draw(st.integers(0, 3)):
            del owner[key]
            key = draw(
                st.sampled_from(["op", "other", "x", "width", "factor", "fit", "output", "renditions", "sha256"])
            )
        owner[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
    return value[0]


@settings(deadline=None, max_examples=300)
@given(documents())
def test_what_the_quick_validator_takes_is_what_jsonschema_takes(document: Any) -> None:
    text = not any("\ud800" <= letter <= "\udfff" for letter in json.dumps(document, ensure_ascii=False))
    for name in NAMES:
        assert QUICK[name].takes(document) <= JUDGES[name].is_valid(document)
        if text:
            assert QUICK[name].takes(document) is JUDGES[name].is_valid(document)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "key", ["op", "quality", "factor", "kernel", "angle", "size", "output", "background", "sha256"]
)
def test_of_every_odd_value_both_validators_say_the_same(name: str, key: str) -> None:
    for base in (RICH, RICH["images"][0], *STEPS):
        for value in ODD:
            document = {**base, key: value}
            if value != "\ud800":
                assert QUICK[name].takes(document) is JUDGES[name].is_valid(document), document


def test_every_example_of_a_request_is_judged_by_both_alike() -> None:
    verdicts = {(name, QUICK[name].takes(body), JUDGES[name].is_valid(body)) for body in BODIES for name in NAMES[:2]}
    assert verdicts >= {(name, verdict, verdict) for name in NAMES[:2] for verdict in (True, False)}
    assert all(quick <= judge for _, quick, judge in verdicts)


def test_what_only_the_quick_validator_refuses_is_valid() -> None:
    validator = Validator({"type": "string"})
    assert not validator.takes("\ud800")
    assert list(validator.errors("\ud800")) == []
    assert [error.validator for error in validator.errors(1)] == ["type"]
