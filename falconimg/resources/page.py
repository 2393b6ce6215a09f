"""The page at GET /, where a browser asks, and its files. What it shows of the operations is all in /openapi.json."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib import resources
from typing import ClassVar

import falcon

from falconimg.openapi import JSON
from falconimg.resources.about import Information
from falconimg.resources.base import Resource

HTML, JAVASCRIPT = "text/html; charset=utf-8", "text/javascript; charset=utf-8"


@cache
def _file(name: str) -> tuple[bytes, str]:
    """A file of the page, and its ETag."""
    data = (resources.files("falconimg") / "page" / name).read_bytes()
    return data, sha256(data).hexdigest()[:32]


class Page(Resource):
    """GET /page/NAME: the files of the page, which are all that it loads."""

    open = True
    files: ClassVar = {
        "app.js": JAVASCRIPT,
        "dom.js": JAVASCRIPT,
        "jobs.js": JAVASCRIPT,
        "recipe.js": JAVASCRIPT,
        "results.js": JAVASCRIPT,
        "schema.js": JAVASCRIPT,
        "server.js": JAVASCRIPT,
        "share.js": JAVASCRIPT,
        "viewer.js": JAVASCRIPT,
        "zip.js": JAVASCRIPT,
        "icon.svg": "image/svg+xml",
        "style.css": "text/css; charset=utf-8",
    }

    def on_get(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
        """Answer with the file, or say that it has not changed."""
        if name not in self.files:
            raise falcon.HTTPRouteNotFound
        _answer(req, resp, name, self.files[name])

    on_head = on_get


class Home(Information):
    """GET /: the page for a browser, else what this server is."""

    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the page where text/html is named in Accept and liked better than JSON."""
        resp.append_header("Vary", "Accept")
        if req.client_prefers((JSON, "text/html")) != "text/html":
            super().on_get(req, resp)
            return
        resp.set_header("Content-Security-Policy", self.policy)
        resp.set_header("Referrer-Policy", "no-referrer")
        _answer(req, resp, "index.html", HTML)

    on_head = on_get


def _answer(req: falcon.Request, resp: falcon.Response, name: str, media_type: str) -> None:
    """One of the files, to be asked for anew each time: a new version's files belong together (RFC 9111, 5.2.2.4)."""
    data, tag = _file(name)
    resp.cache_control = ["no-cache"]
    resp.etag = tag
    if tag in (req.if_none_match or ()):
        resp.status = falcon.HTTP_304
        return
    resp.content_type, resp.data = media_type, data
