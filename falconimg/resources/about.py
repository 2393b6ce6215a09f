"""What the server says of itself: information, OpenAPI and its page, liveness, readiness and metrics."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cached_property
from importlib import resources
from importlib.metadata import version
from typing import ClassVar

import falcon

from falconimg import formats, metrics, openapi, operations
from falconimg.formats.opencv import CODECS, libraries
from falconimg.log import logger
from falconimg.openapi import JSON
from falconimg.resources.base import Resource


class Information(Resource):
    """GET /: what this server is."""

    open = True

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with names, versions, tables and limits."""
        read = formats.readable(self.settings.formats)
        resp.media = {
            "name": "falconimg",
            "version": version("falconimg"),
            "links": {"docs": "docs", "openapi": "openapi.json", "process": "v1/process", "items": "items/"},
            "operations": [form.step for entry in operations.OPERATIONS.values() for form in entry.forms],
            "formats": {
                form.name: {
                    "media_type": form.media_type,
                    "extensions": form.extensions,
                    "reads": form.reads if form.name in read else None,
                    "writes": form.writes,
                    "quality": form.quality and getattr(self.settings, f"{form.name}_quality", form.quality),
                }
                for form in formats.FORMATS.values()
            },
            "limits": {
                name: value
                for name, value in asdict(self.settings).items()
                if name.startswith("max_") and name != "max_age"  # which is no limit
            }
            | {"max_upload": self.settings.max_upload},
        }

    on_head = on_get


class OpenApi(Resource):
    """GET /openapi.json."""

    open = True

    @cached_property
    def document(self) -> bytes:
        """The document, made once."""
        return json.dumps(openapi.document(self.settings)).encode()

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the document."""
        resp.content_type, resp.data = JSON, self.document

    on_head = on_get


class Docs(Resource):
    """GET /docs and its files: Swagger UI, shipped in the package; it loads nothing from elsewhere."""

    open = True
    files: ClassVar = {
        "index.html": "text/html; charset=utf-8",
        "start.js": "text/javascript; charset=utf-8",
        "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
        "swagger-ui.css": "text/css; charset=utf-8",
    }
    # Swagger UI sets style attributes and shows images of its own as data.
    policy = (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )

    page = "index.html"

    def on_get(self, req: falcon.Request, resp: falcon.Response, name: str | None = None) -> None:
        """Answer with the page, or with one of its files."""
        if name == self.page or name not in (None, *self.files):
            raise falcon.HTTPRouteNotFound
        name = name or self.page
        resp.content_type = self.files[name]
        resp.set_header("Content-Security-Policy", self.policy)
        resp.data = (resources.files("falconimg") / "docs" / name).read_bytes()

    on_head = on_get


class Alive(Resource):
    """GET /livez: the process answers."""

    open = True

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer, nothing else."""
        resp.media = {"status": "alive"}

    on_head = on_get


class Ready(Resource):
    """GET /readyz: whether requests can be taken, and which codecs are inside."""

    open = True

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer 200, or 503 with what is wrong."""
        wrong = self.pipeline.faults()
        if wrong:
            logger.warning("not_ready", faults=wrong)
            resp.status = falcon.HTTP_503
        resp.media = {
            "status": "not ready" if wrong else "ready",
            "faults": wrong,
            "version": version("falconimg"),
            "codecs": {name: version(name) for name in CODECS},
            "opencv": libraries(),
        }

    on_head = on_get


class Metrics(Resource):
    """GET /metrics, for Prometheus."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the numbers of all workers, unless they have a port of their own."""
        if self.settings.metrics_bind:
            raise falcon.HTTPRouteNotFound
        resp.content_type, resp.data = metrics.TEXT, metrics.scraped()

    on_head = on_get
