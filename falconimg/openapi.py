"""The OpenAPI 3.1 document, made of the schemas that validate and of the tables of the code."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, get_args

from falconimg import errors, formats, operations, parameters, request
from falconimg.jobs.record import ENDS, PRIORITIES, State
from falconimg.schema import Schema
from falconimg.settings import Settings

JSON, NDJSON, PROBLEM = "application/json", "application/x-ndjson", "application/problem+json"
EVENTS = "text/event-stream"
JOB_STATES = get_args(State)

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
INFO: Schema = {
    "type": "object",
    "properties": {
        "width": {"type": "integer", "description": "As seen: after the orientation is applied."},
        "height": {"type": "integer"},
        "format": {"type": "string", "enum": list(formats.FORMATS)},
        "depth": {"type": "integer", "enum": [8, 16]},
        "alpha": {"type": "boolean"},
        "orientation": {"type": "integer", "minimum": 1, "maximum": 8},
        "icc": {"type": ["string", "null"], "description": "The colour profile's name."},
        "bytes": {"type": "integer"},
    },
    "required": ["width", "height", "format", "depth", "alpha", "orientation", "icc", "bytes"],
}
JOB_STATE: Schema = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "state": {"type": "string", "enum": list(JOB_STATES)},
        "priority": {"type": "string", "enum": list(PRIORITIES)},
        "total": {"type": "integer", "description": "Its images."},
        **{end: {"type": "integer"} for end in ENDS},
        **{time: {"type": ["number", "null"], "description": "Seconds since 1970."} for time in ("begun", "ended")},
        "created": {"type": "number"},
        "events": {"type": "integer", "description": "The last event's seq."},
        "images": {
            "type": "array",
            "description": "A page of the report so far; who is not made yet is pending or running.",
            "items": {"type": "object"},
        },
        "next": {"type": ["integer", "null"], "description": "`after` of the next page."},
    },
    "required": ["id", "state", "priority", "total", *ENDS, "created", "begun", "ended", "events"],
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
    unauthorized: dict[str, Any] = {}
    if settings.token:
        unauthorized = _answers(errors.Unauthorized)
        refusals |= unauthorized
        guarded = {"security": [{"token": []}]}
    process = {
        "200": _answer("Nothing failed; as a stream, whatever happened.", JSON, "Report", NDJSON),
        "207": _answer("Some images failed and some did not.", JSON, "Report"),
    }
    failed = _failed("All images failed, or the request was refused.")
    numbers = {"200": {"description": "Prometheus's text format.",
                       "content": {"text/plain": {"schema": {"type": "string"}}}}}  # fmt: skip
    # elsewhere it has no tokens, and no place in this document
    scraped = {"get": _get("Numbers for Prometheus", "metrics") | {"responses": numbers | unauthorized} | guarded}
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
            "/v1/image": {"post": _image(refusals) | guarded},
            "/v1/image/{path}": {"get": _address(refusals) | guarded},
            "/v1/info": {"post": _info(refusals) | guarded},
            "/v1/info/{path}": {"get": _address_info(refusals) | guarded},
            **_jobs(settings, refusals, guarded),
            "/": {"get": _get("What this server is", "information") | {"responses": {
                "200": _answer("What this server is; a browser gets a page.", JSON, None, "text/html")}}},
            "/livez": {"get": _get("Whether the process is alive", "alive")},
            "/readyz": {"get": _get("Whether it can take requests", "ready") | {"responses": {
                "200": _answer("Ready.", JSON, None), "503": _answer("Not ready.", JSON, None)}}},
            "/openapi.json": {"get": _get("This document", "openapi")},
            **({} if settings.metrics_bind else {"/metrics": scraped}),
        },
        "components": {
            "schemas": {
                **request.schemas(settings), **operations.schemas(),
                "Report": REPORT, "Info": INFO, "Outcome": OUTCOME, "Problem": PROBLEM_SCHEMA,
                **({"JobState": JOB_STATE} if settings.has_jobs else {}),
            },
            **({"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}} if guarded else {}),
        },
    }  # fmt: skip


FAILED = {"description": "How many images failed, where any did.", "schema": {"type": "integer"}}
ZIP, FORM = "application/zip", "multipart/form-data"
BINARY: Schema = {"type": "string", "format": "binary"}
PICTURE = {
    "Image-Width": {"description": "Of a single result, in pixels.", "schema": {"type": "integer"}},
    "Image-Height": {"description": "Of a single result, in pixels.", "schema": {"type": "integer"}},
    "Content-Disposition": {"description": "The result's name.", "schema": {"type": "string"}},
    "Falconimg-Notes": {
        "description": "What went otherwise than asked: a JSON array of notes.", "schema": {"type": "string"},
    },
}  # fmt: skip


def _parameters(addressed: bool) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "query", "schema": each.schema}
        for name, each in parameters.PARAMETERS.items()
        if each.addressed in (None, addressed)
    ]


def _results() -> dict[str, Any]:
    """The answers with pictures."""
    kinds = {form.media_type: {"schema": BINARY} for form in formats.FORMATS.values()}
    several = {ZIP: {"schema": BINARY}}
    whole = "The result; several in a zip; of a dry run the report."
    report = {JSON: {"schema": {"$ref": "#/components/schemas/Report"}}}
    return {"200": {"description": whole, "headers": dict(PICTURE), "content": {**kinds, **several, **report}}}


UPLOAD: Schema = {
    "required": True,
    "description": "The picture, whatever Content-Type is said of it; or a form.",
    "content": {
        "application/octet-stream": {"schema": BINARY},
        FORM: {
            "schema": {
                "type": "object",
                "properties": {
                    "file": {"type": "array", "items": BINARY, "minItems": 1, "description": "One picture, or several."}
                },
                "required": ["file"],
                "additionalProperties": False,
            }
        },
    },
}
PATH_PARAMETER = {
    "name": "path",
    "in": "path",
    "required": True,
    "description": "The file's path below the input root; its slashes may stand as they are.",
    "schema": {"type": "string"},
}
ALONE = (errors.Unsupported, errors.TooLarge, errors.TimedOut, errors.NotWritten)  # of a single picture


def _image(refusals: dict[str, Any]) -> dict[str, Any]:
    failed = _failed("Nothing could be made.")
    some = {"description": "Some pictures failed; report.json in the zip says which.", "headers": {
        "Falconimg-Failed": FAILED}, "content": {ZIP: {"schema": BINARY}}}  # fmt: skip
    return {
        "summary": "Turn a picture in the body into one in the answer",
        "operationId": "image",
        "parameters": _parameters(addressed=False),
        "requestBody": UPLOAD,
        "responses": dict(sorted((refusals | _answers(*ALONE) | _results() | {"207": some, "422": failed}).items())),
    }


def _address(refusals: dict[str, Any]) -> dict[str, Any]:
    answers = refusals | _answers(*ALONE, errors.Missing) | _results()
    answers["200"]["headers"] |= {
        "ETag": {"description": "Another for whatever gives another answer.", "schema": {"type": "string"}},
        "Cache-Control": {"description": "By FALCONIMG_MAX_AGE.", "schema": {"type": "string"}},
    }
    answers["304"] = {"description": "The client has it, by its If-None-Match."}
    return {
        "summary": "Show what is made of a picture on the server's disk",
        "operationId": "address",
        "parameters": [PATH_PARAMETER, *_parameters(addressed=True)],
        "responses": dict(sorted(answers.items())),
    }


def _info(refusals: dict[str, Any]) -> dict[str, Any]:
    answers = refusals | _answers(*ALONE) | {"200": _answer("What it is.", JSON, "Info")}
    return {
        "summary": "Say what a picture in the body is",
        "operationId": "info",
        "requestBody": UPLOAD,
        "responses": dict(sorted(answers.items())),
    }


def _address_info(refusals: dict[str, Any]) -> dict[str, Any]:
    answers = refusals | _answers(*ALONE, errors.Missing) | {"200": _answer("What it is.", JSON, "Info")}
    return {
        "summary": "Say what a picture on the server's disk is",
        "operationId": "address_info",
        "parameters": [PATH_PARAMETER],
        "responses": dict(sorted(answers.items())),
    }


def _jobs(settings: Settings, refusals: dict[str, Any], guarded: dict[str, Any]) -> dict[str, Any]:
    if not settings.has_jobs:
        return {}
    known = refusals | _answers(errors.UnknownJob)
    in_way = _answers(errors.JobConflict)
    recorded = {"202": _answer("It is on record.", JSON, "JobState")}
    place = {"description": "Where the job is.", "schema": {"type": "string"}}
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "schema": {"type": "string"},
        "description": "With the same key and body it is the same job; with another body it is refused.",
    }
    id_ = {"name": "id_", "in": "path", "required": True, "schema": {"type": "string"}}
    page = [_whole("after", "An image's number; those behind it are shown."), _whole("limit", "Images to show.")]
    submit = _post("Put a batch on record, to be made later", "submit", "Job", EXAMPLE, recorded | refusals | in_way)
    submit["responses"]["202"]["headers"] = {"Location": place}
    lines = _answer("The events behind that one, and those that come for a while.", NDJSON, None, EVENTS)
    jobs = {
        "200": _answer("A page of jobs.", JSON, None),
    }
    return {
        "/v1/jobs": {
            "post": submit | {"parameters": [key]} | guarded,
            "get": _get("The newest jobs", "jobs")
            | {
                "parameters": [
                    {"name": "state", "in": "query", "schema": {"type": "string", "enum": list(JOB_STATES)}},
                    {"name": "before", "in": "query", "schema": {"type": "string", "pattern": "^[0-9a-f]{1,32}$"}},
                    _whole("limit", "Jobs to show."),
                ],
                "responses": jobs | refusals,
            }
            | guarded,
        },
        "/v1/jobs/{id_}": {
            "get": _get("A job's state, and a page of its report", "job")
            | {"parameters": [id_, *page], "responses": {"200": _answer("The job.", JSON, "JobState")} | known}
            | guarded,
            "delete": _get("Cancel what is not begun", "cancel")
            | {"parameters": [id_], "responses": {"200": _answer("The job.", JSON, "JobState")} | known}
            | guarded,
        },
        "/v1/jobs/{id_}/events": {
            "get": _get("What happens to a job", "events")
            | {"parameters": [id_, _whole("after", "An event's seq.")], "responses": {"200": lines} | known}
            | guarded
        },
        "/v1/jobs/{id_}/retry": {
            "post": _get("Make the failed images again", "retry")
            | {"parameters": [id_], "responses": recorded | known | in_way}
            | guarded
        },
    }


def _whole(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": {"type": "integer"}, "description": description}


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


def _failed(description: str) -> dict[str, Any]:
    """A report or a problem; both are said of both media types, because generated clients look at one alone."""
    either = {"schema": {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("Report", "Problem")]}}
    return {"description": description, "content": {JSON: either, PROBLEM: either}}


def _answers(*problems: type[errors.Problem]) -> dict[str, Any]:
    return {str(problem.status): _answer(problem.title + ".", PROBLEM, "Problem") for problem in problems}


def _formats(settings: Settings) -> str:
    read = formats.readable(settings.formats)
    rows = [
        f"- {form.name}: reads {form.reads if form.name in read else 'nothing (switched off)'}; writes {form.writes}"
        for form in formats.FORMATS.values()
    ]
    return "\n".join(["Formats:", *rows])
