"""The WSGI application: `create_app` wires settings, store, pipeline, routes and errors, and does nothing else."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from hmac import compare_digest
from time import time
from typing import Any

import falcon
from falcon.middleware import CORSMiddleware

from falconimg import formats, log, metrics, signing, tracing
from falconimg.errors import Problem, RequestProblem, Unauthorized, WrongHost
from falconimg.openapi import PROBLEM
from falconimg.pipeline import Pipeline
from falconimg.resources import JOB_ROUTES, ROUTES, Resource
from falconimg.settings import Settings
from falconimg.stores import Store
from falconimg.stores.routed import opened

REQUEST_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}", re.ASCII)
MOST_BYTES = 2048  # of a refusal; places beyond are left out
# What a page of another origin may read besides what is always read; all else of ours is in the body.
EXPOSED = ("Content-Disposition", "ETag", "Falconimg-Failed", "Falconimg-Notes", "Image-Height", "Image-Width",
           "Location", "Retry-After", "Server-Timing", "WWW-Authenticate", "X-Request-ID")  # fmt: skip
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Application(falcon.App):  # type: ignore[type-arg]
    """The application, with what a server has to know of it.

    `pipeline` is for those who stop it or sweep its store; `knows` says of an
    Authorization header whether a request with it is taken.
    """

    pipeline: Pipeline
    knows: Callable[[str], bool]


class RequestId:
    """Every request has an id: the client's if it is well-formed, else a new one; answered, and on each log line."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Take or make it."""
        given = req.get_header("X-Request-ID") or ""
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        req.context.request_id = request_id
        resp.set_header("X-Request-ID", request_id)
        resp.set_header("X-Content-Type-Options", "nosniff")
        log.about.set({"request_id": request_id})
        tracing.go_on(req.get_header("traceparent"), req.get_header("tracestate"))


class Routes:
    """The server counts and logs an answer by its route, which only the application knows."""

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, _resource: Resource, _params: dict[str, Any]
    ) -> None:
        """Tell it the route's template."""
        req.env[metrics.ROUTE] = req.uri_template


class Hosts:
    """Where only this machine can reach the server, a page of elsewhere must not either (DNS rebinding)."""

    def __init__(self, settings: Settings) -> None:
        self.names = {*LOOPBACK, *settings.hosts, settings.bind.rpartition(":")[0].lower()}

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Refuse a Host header that is not ours."""
        host = req.get_header("Host")
        if host is not None and re.sub(r":[0-9]*\Z", "", host.lower()) not in self.names:
            raise WrongHost(f"expected localhost or a name of FALCONIMG_HOSTS, came {host[:100]!a}")


class Prefix:
    """Below the prefix is what is served; without it, it is served too: probes and neighbours know of no proxy."""

    def __init__(self, settings: Settings) -> None:
        self.prefix = settings.prefix

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Take the prefix away from the path (PEP 3333's SCRIPT_NAME), or lead from it alone to what is below it."""
        if req.path == self.prefix:
            # relative addresses start at the last slash
            raise falcon.HTTPPermanentRedirect(f"{self.prefix}/{'?' * bool(req.query_string)}{req.query_string}")
        if req.path.startswith(f"{self.prefix}/"):
            req.path = req.path.removeprefix(self.prefix)
            req.env.update(SCRIPT_NAME=self.prefix, PATH_INFO=req.path)


class Cors(CORSMiddleware):  # type: ignore[type-arg]
    """Falcon's, with what it leaves out: no cache may give one origin's answer to another, and a preflight has no body.

    No origin is allowed to send credentials of the browser's own (cookies): tokens are in a header that scripts set.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__("*" if settings.cors == ("*",) else settings.cors, EXPOSED)

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        """Set the headers (the Fetch standard, 3.3)."""
        super().process_response(req, resp, resource, req_succeeded)
        resp.append_header("Vary", "Origin")
        if resp.get_header("Access-Control-Allow-Methods"):
            resp.status = falcon.HTTP_204


class Tokens:
    """Where tokens are set, every resource needs one of them, but those that say that they are open.

    Where keys are set, the address of a picture needs a signature instead, or a token.
    """

    def __init__(self, settings: Settings) -> None:
        self.tokens = [token.encode() for token in settings.token]
        self.keys = settings.key
        self.preflights = bool(settings.cors)

    def know(self, authorization: str) -> bool:
        """Whether this header shows one of them, or none are set."""
        scheme, _, given = authorization.partition(" ")
        # a sum and not any(): all are compared, in constant time each, so that the time tells nothing of any
        fitting = sum(compare_digest(given.strip().encode(), token) for token in self.tokens)
        return not self.tokens or (scheme.lower() == "bearer" and fitting > 0)

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: Resource, _params: dict[str, Any]
    ) -> None:
        """Refuse a request without a token, or with another; its body is not read (RFC 6750, 3)."""
        authorization = req.get_header("Authorization") or ""
        # a browser asks before it sends the token, whether it may
        asks = self.preflights and req.method == "OPTIONS" and req.get_header("Access-Control-Request-Method")
        if asks or resource.open:
            return
        if resource.addressed and self.keys and not (self.tokens and self.know(authorization)):
            req.context.signed = True
            req.context.expires = signing.check(req.path, req.query_string, self.keys, time())
        elif not self.know(authorization):
            came = authorization.partition(" ")[0].lower() == "bearer"
            resp.set_header("WWW-Authenticate", 'Bearer realm="falconimg"' + ', error="invalid_token"' * came)
            raise Unauthorized(
                "expected Authorization: Bearer with a token of FALCONIMG_TOKEN, came "
                + ("another" if came else "none")
            )


def create_app(settings: Settings | None = None, store: Store | None = None) -> Application:
    """The application of these settings (default: the environment's), on this store (default: files below the roots).

    Raises:
        SettingsProblem: a setting is wrong, or the codecs do not keep to it
    """
    settings = settings or Settings.from_environ()
    formats.check(settings)
    log.configure(settings)
    pipeline = Pipeline(settings, store or opened(settings))
    middleware: list[Any] = [RequestId(), Routes()]
    if settings.cors:
        middleware.append(Cors(settings))
    if settings.listens_on_loopback:
        middleware.append(Hosts(settings))
    if settings.prefix:
        middleware.append(Prefix(settings))
    tokens = Tokens(settings)
    middleware.append(tokens)
    app = Application(middleware=middleware)
    app.pipeline, app.knows = pipeline, tokens.know
    for path, resource in ROUTES.items():
        app.add_route(path, resource(settings, pipeline))
    if settings.has_jobs:
        from falconimg.jobs.ledger import Ledger  # see falconimg.jobs.record

        ledger = Ledger(settings.ledger_url)
        metrics.COLLECTOR.look = ledger.waiting
        for path, of_jobs in JOB_ROUTES.items():
            app.add_route(path, of_jobs(settings, pipeline, ledger))
    else:
        app.add_sink(_no_jobs, r"/v1/jobs(/|\Z)")
    app.add_error_handler(Exception, _unforeseen)
    app.add_error_handler(falcon.HTTPError, _http)
    app.add_error_handler(Problem, _problem)
    return app


def _no_jobs(req: falcon.Request, resp: falcon.Response, **_: str | None) -> None:
    raise falcon.HTTPNotFound(description="this server has no jobs: see FALCONIMG_JOBS and FALCONIMG_LEDGER")


def _answer(req: falcon.Request, resp: falcon.Response, status: int, **problem: Any) -> None:
    """An answer as RFC 9457 says."""
    resp.status = falcon.code_to_http_status(status)
    resp.content_type = PROBLEM
    document = {**problem, "status": status, "request_id": req.context.request_id}
    resp.text = json.dumps(document)
    while len(resp.text) >= MOST_BYTES and len(document.get("errors", ())) > 1:
        document["errors"].pop()
        resp.text = json.dumps(document)
    resp.set_header("Cache-Control", "no-store")
    resp.delete_header("ETag")  # that of what was wanted


def _problem(req: falcon.Request, resp: falcon.Response, problem: Problem, _params: dict[str, Any]) -> None:
    more: dict[str, Any] = {}
    if isinstance(problem, RequestProblem) and problem.places:
        more["errors"] = [place._asdict() for place in problem.places]
    if problem.status == 503:
        resp.set_header("Retry-After", "5")
    where = {"pointer": more["errors"][0]["pointer"], "why": more["errors"][0]["detail"]} if more else {}
    log.logger.info("refused", status=problem.status, detail=problem.detail, **where)
    _answer(req, resp, problem.status, type=problem.type, title=problem.title, detail=problem.detail, **more)


def _http(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError, _params: dict[str, Any]) -> None:
    """Falcon's own refusals: no such route, no such method."""
    resp.set_headers(error.headers or {})
    status = falcon.http_status_to_code(error.status)
    title = error.status.partition(" ")[2] if isinstance(error.status, str) else error.title
    _answer(
        req, resp, status, type="about:blank", title=title, detail=error.description or f"{req.method} {req.path[:100]}"
    )


def _unforeseen(req: falcon.Request, resp: falcon.Response, _error: Exception, _params: dict[str, Any]) -> None:
    log.logger.exception("unforeseen", method=req.method, path=req.path)
    detail = "the server's log has it under this request_id"
    _answer(req, resp, Problem.status, type=Problem.type, title=Problem.title, detail=detail)
