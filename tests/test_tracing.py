"""Traces: what a collector is told of each image, and that without an exporter there is nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from falconimg.settings import trace_exporter
from tests import pictures
from tests.serving import Server, free_port, serving, write

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """An address of OTLP over HTTP, and what comes there."""
    came: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            came.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.server_address[1]}", came
    finally:
        listener.shutdown()
        listener.server_close()


def spans(came: list[ExportTraceServiceRequest]) -> list[Any]:
    return [s for told in came for group in told.resource_spans for scope in group.scope_spans for s in scope.spans]


@pytest.fixture
def otel(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment without OpenTelemetry's variables, but that spans are sent soon."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    return monkeypatch


def batch(server: Server, **headers: str) -> list[str]:
    """Two images of which one fails; the stages that the other has."""
    image = write(server.root, "in/traced.png", pictures.noise(40, 40))
    missing = {"input": "in/none.png", "output": "out/none.png"}
    document = {"images": [image, missing], "operations": ["split", "resize=0.5"]}
    assert server.ask("POST", "/v1/process", document, **headers)[0] == 207
    return ["read", "decode", "resize", "encode", "publish"]


def test_each_image_is_a_span_of_the_requests_trace_with_a_child_for_each_stage(
    tmp_path: Path, otel: pytest.MonkeyPatch
) -> None:
    with collector() as (address, came):
        otel.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        with serving(tmp_path, workers="2") as server:
            begun = time.time_ns()
            stages = batch(server, traceparent=f"00-{TRACE}-{PARENT}-01")
            server.wait_for(lambda: len(spans(came)) == 2 + len(stages))
            ended = time.time_ns()
    found = spans(came)
    assert {span.trace_id.hex() for span in found} == {TRACE}
    images = [span for span in found if span.name == "image"]
    assert [span.parent_span_id.hex() for span in images] == [PARENT] * 2
    done, failed = sorted(images, key=lambda span: span.status.code)
    told = [{one.key: one.value.string_value for one in span.attributes} for span in (done, failed)]
    assert told == [
        {"falconimg.input": "in/traced.png", "falconimg.verdict": "done"},
        {"falconimg.input": "in/none.png", "falconimg.verdict": "failed"},
    ]
    assert failed.status.message == "The image does not exist"
    children = sorted((s for s in found if s.name != "image"), key=lambda span: span.start_time_unix_nano)
    assert [span.name for span in children] == stages
    assert {span.parent_span_id for span in children} == {done.span_id}
    for span in children:
        assert begun <= done.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= done.end_time_unix_nano <= ended
    resource = {one.key: one.value.string_value for one in came[0].resource_spans[0].resource.attributes}
    assert resource["service.name"] == "falconimg"


def test_a_request_without_a_trace_does_not_go_on_with_the_one_before(tmp_path: Path, otel: pytest.MonkeyPatch) -> None:
    with collector() as (address, came):
        otel.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{address}/v1/traces")
        otel.setenv("OTEL_SERVICE_NAME", "pictures")
        with serving(tmp_path, workers="1", threads="1") as server:
            count = 2 + len(batch(server, traceparent=f"00-{TRACE}-{PARENT}-01"))
            batch(server)
            batch(server, traceparent="00-nonsense")
            server.wait_for(lambda: len(spans(came)) == 3 * count)
    traces = [span.trace_id.hex() for span in spans(came)]
    assert traces.count(TRACE) == count
    assert len(set(traces)) == 5  # an image is a trace of its own where the request is of none
    resource = {one.key: one.value.string_value for one in came[0].resource_spans[0].resource.attributes}
    assert resource["service.name"] == "pictures"


def test_spans_are_sent_before_a_worker_ends(tmp_path: Path, otel: pytest.MonkeyPatch) -> None:
    otel.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    with collector() as (address, came):
        otel.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        with serving(tmp_path, workers="1") as server:
            count = 2 + len(batch(server))
        assert len(spans(came)) == count


def test_a_collector_that_is_not_there_neither_fails_nor_delays_a_request(
    tmp_path: Path, otel: pytest.MonkeyPatch
) -> None:
    otel.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with serving(tmp_path, workers="1") as server:
        begun = time.monotonic()
        batch(server)
        assert time.monotonic() - begun < 5
        begun = time.monotonic()
        server.process.terminate()
        assert server.process.wait(30) == 0
        assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    ("variables", "exporter"),
    [
        ({}, ""),
        ({"OTEL_SERVICE_NAME": "a", "OTEL_TRACES_SAMPLER": "always_on"}, ""),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, ""),
        ({"OTEL_SDK_DISABLED": "True", "OTEL_TRACES_EXPORTER": "otlp"}, ""),
        ({"OTEL_SDK_DISABLED": "false", "OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a/v1/traces"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://a"}, ""),
    ],
)
def test_only_what_names_an_exporter_of_traces_switches_them_on(variables: dict[str, str], exporter: str) -> None:
    assert trace_exporter(variables) == exporter


def test_without_an_exporter_nothing_of_opentelemetry_is_imported(tmp_path: Path, otel: pytest.MonkeyPatch) -> None:
    script = """
import sys
from falconimg import tracing
from falconimg.app import create_app
create_app()
tracing.start()
tracing.go_on(None, None)
print(tracing.fault(), [name for name in sys.modules if name.startswith("opentelemetry")])
"""
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == " []\n"


def test_an_exporter_without_the_extra_is_a_warning_at_the_start(tmp_path: Path, otel: pytest.MonkeyPatch) -> None:
    (tmp_path / "hides" / "opentelemetry").mkdir(parents=True)
    (tmp_path / "hides" / "opentelemetry" / "__init__.py").touch()
    otel.setenv("PYTHONPATH", f"{tmp_path / 'hides'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    otel.setenv("OTEL_TRACES_EXPORTER", "otlp")
    with serving(tmp_path, workers="2") as server:
        batch(server)
    (line,) = [line for line in server.log.splitlines() if " no_traces " in line]
    assert "expected the extra falconimg[otel]" in line


def test_an_exporter_that_is_not_known_is_a_warning_at_the_start(tmp_path: Path, otel: pytest.MonkeyPatch) -> None:
    otel.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    with serving(tmp_path, workers="1") as server:
        batch(server)
    (line,) = [line for line in server.log.splitlines() if " no_traces " in line]
    assert "expected otlp, console or none for OTEL_TRACES_EXPORTER" in line
    assert "zipkin" in line
