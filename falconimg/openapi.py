"""The OpenAPI 3.1 document, made of the schemas that validate and of the tables of the code."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from falconimg import errors, formats, operations, request
from falconimg.schema import Schema
from falconimg.settings import Settings

JSON, NDJSON, PROBLEM = "application/json", "application/x-ndjson", "application/problem+json"

NOTE: Schema = {
    "type": "object",
    "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
    "required": ["pointer", "detail"],
}
OUTCOME: Schema = {
    "type": "object",
    "properties": {
        "index": {"type": "integer", "description": "Only in a stream: the image's place in the request."},
        "input": {"type": "string"},
        "status": {"type": "string", "enum": ["done", "failed", "skipped"]},
        "ms": {"type": "number"},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "path": {"type": "string"},
                    "width": {"type": "integer"},
                    "height": {"type": "integer"},
                    "format": {"type": "string"},
                    "bytes": {"type": "integer", "description": "Not in a dry run."},
                },
                "required": ["path", "width", "height", "format"],
            },
        },
        "notes": {"type": "array", "items": NOTE},
        "error": {
            "type": "object",
            "properties": {key: {"type": "string"} for key in ("type", "title", "detail")},
            "required": ["type", "title", "detail"],
        },
    },
    "required": ["input", "status", "ms", "outputs"],
}
TOTALS: dict[str, Schema] = {
    "status": {"type": "string", "enum": ["done", "partial", "failed"]},
    **{key: {"type": "integer"} for key in ("done", "failed", "skipped")},
    "ms": {"type": "number"},
}
REPORT: Schema = {
    "type": "object",
    "properties": {**TOTALS, "images": {"type": "array", "items": {"$ref": "#/components/schemas/Outcome"}}},
    "required": [*TOTALS, "images"],
}
PROBLEM_SCHEMA: Schema = {
    "type": "object",
    "description": "RFC 9457.",
    "properties": {
        **{key: {"type": "string"} for key in ("type", "title", "detail", "request_id")},
        "status": {"type": "integer"},
        "errors": {"type": "array", "maxItems": request.MOST_PLACES, "items": NOTE},
    },
    "required": ["type", "title", "status", "request_id"],
}
EXAMPLE = {
    "images": [
        {"input": "examples/landscape.jpg", "output": "out/landscape.png"},
        {
            "input": "examples/landscape.jpg",
            "operations": ["resize=800x"],
            "renditions": [
                {"output": "out/{stem}_{width}.webp", "operations": ["resize=0.5"], "quality": 80},
                {"output": "out/{stem}_tile.jpg", "operations": ["split=2x2", "blur=25"]},
            ],
        },
    ],
    "operations": ["split=true"],
}
EXAMPLE_ITEMS = {
    "images": [{"input": "examples/landscape.jpg", "output": "out/items.png"}],
    "operations": ["splitQuadrants=True", "resize=0.5"],
}


def document(settings: Settings) -> dict[str, Any]:
    """The whole document; its addresses are relative, so it holds behind any prefix."""
    refusals = _answers(
        errors.NotJson, errors.Forbidden, errors.RequestTimeout, errors.BodyTooLarge, errors.WrongMediaType,
        errors.WrongHost, errors.InvalidRequest, errors.HeadTooLarge, errors.Busy,
    )  # fmt: skip
    guarded: dict[str, Any] = {}
    if settings.token:
        refusals |= _answers(errors.Unauthorized)
        guarded = {"security": [{"token": []}]}
    process = {
        "200": _answer("Nothing failed; as a stream, whatever happened.", JSON, "Report", NDJSON),
        "207": _answer("Some images failed and some did not.", JSON, "Report"),
    }
    failed = _answer("All images failed, or the request was refused.", JSON, "Report")
    failed["content"][PROBLEM] = {"schema": {"$ref": "#/components/schemas/Problem"}}
    items = {"200": {"description": "The document as it came.", "headers": {"Falconimg-Failed": FAILED},
                     "content": {JSON: {"schema": {"$ref": "#/components/schemas/Items"}}}}}  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "falconimg",
            "version": version("falconimg"),
            "summary": "One JSON request turns a batch of images into files on disk.",
            "description": _formats(settings),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "."}],
        "paths": {
            "/v1/process": {
                "post": _post("Process a batch", "process", "Process", EXAMPLE, process | refusals | {"422": failed})
                | guarded
            },
            "/items/": {
                "post": _post("Process a batch, the original's way", "items", "Items", EXAMPLE_ITEMS, items | refusals)
                | guarded
            },
            "/": {"get": _get("What this server is", "information")},
            "/livez": {"get": _get("Whether the process is alive", "alive")},
            "/readyz": {"get": _get("Whether it can take requests", "ready") | {"responses": {
                "200": _answer("Ready.", JSON, None), "503": _answer("Not ready.", JSON, None)}}},
            "/openapi.json": {"get": _get("This document", "openapi")},
        },
        "components": {
            "schemas": {
                **request.schemas(settings), **operations.schemas(),
                "Report": REPORT, "Outcome": OUTCOME, "Problem": PROBLEM_SCHEMA,
            },
            **({"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}} if guarded else {}),
        },
    }  # fmt: skip


FAILED = {"description": "How many images failed, where any did.", "schema": {"type": "integer"}}


def _post(summary: str, name: str, schema: str, example: Any, responses: dict[str, Any]) -> dict[str, Any]:
    body = {"schema": {"$ref": f"#/components/schemas/{schema}"}, "example": example}
    return {
        "summary": summary,
        "operationId": name,
        "requestBody": {"required": True, "content": {JSON: body}},
        "responses": dict(sorted(responses.items())),
    }


def _get(summary: str, name: str) -> dict[str, Any]:
    return {"summary": summary, "operationId": name, "responses": {"200": _answer(summary + ".", JSON, None)}}


def _answer(description: str, media_type: str, schema: str | None, *others: str) -> dict[str, Any]:
    body = {"schema": {"$ref": f"#/components/schemas/{schema}"} if schema else {"type": "object"}}
    lines = {other: {"schema": {"type": "string"}} for other in others}
    return {"description": description, "content": {media_type: body, **lines}}


def _answers(*problems: type[errors.Problem]) -> dict[str, Any]:
    return {str(problem.status): _answer(problem.title + ".", PROBLEM, "Problem") for problem in problems}


def _formats(settings: Settings) -> str:
    read = formats.readable(settings.formats)
    rows = [
        f"- {form.name}: reads {form.reads if form.name in read else 'nothing (switched off)'}; writes {form.writes}"
        for form in formats.FORMATS.values()
    ]
    return "\n".join(["Formats:", *rows])
