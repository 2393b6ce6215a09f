"""Traces by OpenTelemetry, where its environment variables name an exporter: a span for each image, a child for each
stage. Without one, or without the extra falconimg[otel], nothing of it is imported."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from importlib.metadata import version
from time import monotonic, time_ns
from typing import Any

from falconimg import log
from falconimg.job import Outcome
from falconimg.metrics import Stages
from falconimg.settings import trace_exporter

_tracer: Any = None
_parent: ContextVar[Any] = ContextVar("parent", default=None)  # the trace that this request goes on with


def fault() -> str:
    """Why no traces are exported though an exporter is named; empty if they are, or none is."""
    name = trace_exporter()
    if not name:
        return ""
    try:
        _exporter(name)
    except ImportError as error:
        return f"expected the extra falconimg[otel] for the exporter that OTEL_ variables name: {error}"
    except KeyError:
        return f"expected otlp, console or none for OTEL_TRACES_EXPORTER, came {name[:100]!a}"
    return ""


def _exporter(name: str) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    return {"otlp": OTLPSpanExporter, "console": ConsoleSpanExporter}[name]


def start() -> None:
    """Export this process's traces from now on; after the fork, for the exporter has a thread."""
    global _tracer
    if not trace_exporter() or fault():
        return
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    logging.getLogger("opentelemetry").addHandler(log.Bridge())
    ours = {"service.name": "falconimg", "service.version": version("falconimg")}
    provider = TracerProvider(resource=Resource.create(ours).merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(_exporter(trace_exporter())()))
    _tracer = provider.get_tracer("falconimg")


def go_on(traceparent: str | None, tracestate: str | None) -> None:
    """The images of this thread's request belong to the trace of these headers (W3C Trace Context), or to a new one."""
    if _tracer is None:
        return
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers = {"traceparent": traceparent or "", "tracestate": tracestate or ""}
    _parent.set(TraceContextTextMapPropagator().extract(headers, Context()))


def image(outcome: Outcome, begun: float, stages: Stages) -> None:
    """Tell of an image that has ended; `begun` is monotonic time.

    A stage's span is as long as all its parts together, from where the first of them began: what is done for 4,096
    tiles is one span, and the spans of stages that take turns overlap.
    """
    if _tracer is None:
        return
    from opentelemetry.trace import Status, StatusCode, set_span_in_context

    now, at = time_ns(), monotonic()

    def clock(moment: float) -> int:
        return now - int((at - moment) * 1e9)

    told = {"falconimg.input": log.redacted(outcome.input), "falconimg.verdict": outcome.status}
    span = _tracer.start_span("image", _parent.get(), start_time=clock(begun), attributes=told)
    for name, (first, seconds) in list(stages.spent.items()):
        _tracer.start_span(name, set_span_in_context(span), start_time=clock(first)).end(clock(first + seconds))
    if outcome.error:
        span.set_status(Status(StatusCode.ERROR, outcome.error.title))
    span.end(now)
