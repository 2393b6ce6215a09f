"""Whoever meets a limit is told which setting it is, what it allows, and what came."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from falconimg.settings import Settings
from tests import pictures
from tests.conftest import Serve, noise
from tests.conftest import Server as Application
from tests.serving import SECONDS, serving, write

NO_LIMITS = {"max_age"}  # that of a cached answer: it refuses nothing


def details(document: Any) -> list[str]:
    """Every sentence of an answer that says what is wrong."""
    if isinstance(document, dict):
        own = [document["detail"]] if isinstance(document.get("detail"), str) else []
        return own + [text for value in document.values() for text in details(value)]
    return [text for item in document for text in details(item)] if isinstance(document, list) else []


def of_images(count: int = 1, **more: Any) -> Callable[[Application], Any]:
    """The answer to a batch of so many images."""
    images = [{"input": "a.png", "output": f"out/{n}.png"} for n in range(count)]
    return lambda server: server.post("/v1/process", {"images": images, **more}).json


def of_tiles(server: Application) -> Any:
    images = [{"input": "a.png", "output": f"out/{n}.png", "operations": ["tile=1"]} for n in range(2)]
    return server.process(images, dry_run=True).json


def of_renditions(server: Application) -> Any:
    renditions = [{"output": f"out/{n}.png"} for n in range(3)]
    return server.process([{"input": "a.png", "renditions": renditions}]).json


def of_levels(server: Application) -> Any:
    return server.post("/v1/process", "[" * 9 + "]" * 9).json


def of_many_levels(server: Application) -> Any:
    return server.post("/v1/process", "[" * 90_000).json


def of_marks(server: Application) -> Any:
    return server.post("/v1/process", "[" + "0," * 1500 + "0]").json


def of_upload(server: Application) -> Any:
    return server.client.simulate_post("/v1/image", body=b"x" * 301).json


def of_a_waiter(server: Application) -> Any:
    held = server.pipeline.budget.ask(server.pipeline.budget.size)
    try:
        return of_images()(server)
    finally:
        held.give_back()


# setting, its value, more settings, what asks for too much, the limit and what came as the answer says them
CASES: list[tuple[str, Any, dict[str, Any], Callable[[Application], Any], str, str]] = [
    ("max_body", 50, {}, of_images(), "50 bytes", r"\d\d+"),
    ("max_json_depth", 8, {}, of_levels, "8 levels", "9"),
    ("max_json_depth", 8, {}, of_many_levels, "8 levels", "more than 8"),
    ("max_json_marks", 1000, {}, of_marks, "1000 commas", "1501"),
    ("max_images", 2, {}, of_images(3), "2", "3"),
    ("max_operations", 2, {}, of_images(operations=["gray"] * 3), "2", "3"),
    ("max_outputs", 2, {}, of_renditions, "2", "3"),
    ("max_outputs", 3, {}, of_images(operations=["split"]), "3 outputs", "4"),
    ("max_results", 70, {"max_outputs": 70}, of_tiles, "70 outputs", "at least 71"),
    ("max_file", 60, {}, of_images(), "60 bytes", r"\d\d+"),
    ("max_file", 300, {}, of_upload, "300 bytes", "301"),
    ("max_pixels", 47, {}, of_images(), "47 pixels", "48"),
    ("max_side", 7, {}, of_images(), "7 pixels a side", "8"),
    ("max_output_pixels", 47, {}, of_images(operations=["split"]), "47 pixels in all", "48"),
    ("memory", 300, {}, of_images(), r"\d+ bytes of work", r"\d{3,}"),
    ("memory", 8_000_000, {}, of_images(2000, operations=["gray"]), r"\d+ bytes", r"\d{3,}"),
    ("image_seconds", 1e-9, {}, of_images(), "1e-09 seconds", r"\d"),
    ("wait_seconds", 0.01, {}, of_a_waiter, "0.01 seconds", "none"),
]
SERVED = {"max_request_line", "client_seconds", "queue"}  # below: the real gunicorn refuses


@pytest.mark.parametrize(("setting", "value", "more", "ask", "limit", "came"), CASES)
def test_a_limits_error_names_the_setting_the_limit_and_what_came(
    setting: str,
    value: Any,
    more: dict[str, Any],
    ask: Callable[[Application], Any],
    limit: str,
    came: str,
    serve: Serve,
) -> None:
    server = serve(**{setting: value, **more})
    server.put("a.png", noise(6, 8) if setting != "max_results" else noise(8, 8))
    assert_told(details(ask(server)), setting, limit, came)


def assert_told(said: list[str], setting: str, limit: str, came: str) -> None:
    pattern = rf"expected .*{limit}.*FALCONIMG_{setting.upper()}\b.*, came {came}"
    assert any(re.search(pattern, text) for text in said), said


def test_every_limit_is_among_them() -> None:
    limits = {field.name for field in fields(Settings) if field.name.startswith("max_")} - NO_LIMITS
    limits |= {"memory", "wait_seconds", "image_seconds", "client_seconds", "queue"}
    assert {setting for setting, *_ in CASES} | SERVED | {"max_job_images"} == limits  # that is in test_jobs.py


def answer(connection: socket.socket) -> Any:
    whole = b""
    while part := connection.recv(65536):
        whole += part
    return json.loads(whole.partition(b"\r\n\r\n")[2])


def test_the_servers_own_refusals_name_them_too(tmp_path: Path) -> None:
    with serving(tmp_path, workers="1", max_request_line="600", client_seconds="0.5") as server:
        with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
            line = b"GET /" + b"x" * 700 + b" HTTP/1.1"
            connection.sendall(line + b"\r\nHost: localhost\r\n\r\n")
            assert_told(details(answer(connection)), "max_request_line", "600 bytes", str(len(line)))
        with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
            head = b"POST /v1/process HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
            connection.sendall(head)
            assert_told(details(answer(connection)), "client_seconds", "0.5 seconds", f"{len(head)} bytes")


def test_a_full_queue_names_its_setting(tmp_path: Path) -> None:
    with serving(tmp_path, workers="1", threads="1", queue="1", pool="1") as server:
        image = write(server.root, "in/slow.png", pictures.noise(1500, 1500))
        body = json.dumps({"images": [image], "operations": ["resize=2", "blur=151"]}).encode()
        told = ["Host: localhost", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        head = "\r\n".join(["POST /v1/process HTTP/1.1", *told, "", ""]).encode()
        connections = [socket.create_connection(("127.0.0.1", server.port), SECONDS) for _ in range(10)]
        try:
            for connection in connections:
                connection.sendall(head + body)
            refused = [said for said in map(answer, connections) if "status" in said and said["status"] == 503]
            assert refused  # one is served, one waits, and the others are too many
            for said in refused:
                assert_told(details(said), "queue", "1 places", "none free")
        finally:
            for connection in connections:
                connection.close()
