"""A client that a generator makes of /openapi.json works, and so do README's lines for httpx and requests."""

from __future__ import annotations

import compileall
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import pictures
from tests.serving import SECONDS, Server, read, serving, write
from tests.tables import ROOT

TOKEN = "sesame-" * 3
CONFIG = (
    "content_type_overrides:\n  image/jpeg: application/octet-stream\n  application/zip: application/octet-stream\n"
)

USE = """
import json, sys
from client import AuthenticatedClient
from client.api.default import alive, image, process, ready
from client.models import Flip, FlipAxis, Process, ProcessIfExists
from client.types import File

address, token = sys.argv[1:]
with AuthenticatedClient(base_url=address, token=token, raise_on_unexpected_status=True) as client:
    assert alive.sync(client=client).to_dict() == {"status": "alive"}
    assert ready.sync_detailed(client=client).status_code == 200
    images = [{"input": "in/a.png", "output": "out/a.png"}, {"input": "in/none.png", "output": "out/b.png"}]
    steps = ["split", Flip(op="flip", axis=FlipAxis.H)]
    body = Process(images=images, operations=steps, if_exists=ProcessIfExists.ERROR)
    answer = process.sync_detailed(client=client, body=body)
    report = answer.parsed
    done, failed = report.images
    print(json.dumps({
        "status": answer.status_code, "report": report.status, "counts": [report.done, report.failed, report.skipped],
        "outputs": [(output.path, output.width, output.height) for output in done.outputs], "error": failed.error.type_,
    }))
    with open("in/a.png", "rb") as picture:
        made = image.sync(client=client, body=File(payload=picture), op=["resize=0.5", "gray"])
    with open("made.png", "wb") as file:
        file.write(made.payload.read())
    missing = process.sync(client=client, body=Process(images=images[1:]))
    assert (missing.status, missing.failed) == ("failed", 1)
    problem = process.sync_detailed(client=client, body=Process(images=images, operations=["resize=0"]))
    print(json.dumps([problem.status_code, problem.parsed.type_, problem.parsed.errors[0].pointer]))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("client"), workers="1", token=TOKEN) as running:
        yield running


def test_a_client_that_is_generated_from_the_document_compiles_and_works(server: Server, tmp_path: Path) -> None:
    pixels = pictures.noise(20, 30)
    write(server.root, "in/a.png", pixels)
    (tmp_path / "openapi.json").write_text(json.dumps(server.ask("GET", "/openapi.json")[1]))
    (config,) = re.findall(r"```yaml\n(content_type_overrides:.*?)```", (ROOT / "docs/http.md").read_text(), re.DOTALL)
    (tmp_path / "config.yaml").write_text(config)
    generator = str(Path(sys.executable).with_name("openapi-python-client"))
    command = [generator, "generate", "--path", "openapi.json", "--config", "config.yaml", "--meta", "none",
               "--output-path", "client", "--fail-on-warning"]  # fmt: skip
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # of ruff, by which it writes
    made = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=SECONDS
    )
    assert made.returncode == 0, made.stdout + made.stderr
    assert compileall.compile_dir(tmp_path / "client", quiet=1, force=True)
    used = subprocess.run(
        [sys.executable, "-c", USE, f"http://127.0.0.1:{server.port}", TOKEN], cwd=server.root, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert used.returncode == 0, used.stderr
    processed, refused = map(json.loads, used.stdout.splitlines())
    assert processed == {
        "status": 207, "report": "partial", "counts": [1, 1, 0], "error": "/problems/missing",
        "outputs": [[f"out/a_{n}.png", 15, 10] for n in (1, 2, 3, 4)],
    }  # fmt: skip
    assert refused == [422, "/problems/request", "/operations/0"]
    assert np.array_equal(read(server.root / "out/a_1.png"), pixels[:10, 14::-1])
    assert read(server.root / "made.png").shape == (10, 15)


@pytest.mark.parametrize("library", ["httpx", "requests"])
def test_the_five_lines_of_a_library_work_as_they_are(library: str, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    (lines,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if f"import {library}" in block]
    assert len(list(filter(None, lines.splitlines()))) == 5
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    with serving(tmp_path, workers="1") as server:
        script = lines.replace("localhost:8888", f"localhost:{server.port}")
        command = [sys.executable, "-c", script]
        said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=True).stdout
    assert said == "done\n"
    assert len(list(tmp_path.glob("out/a_*.png"))) == 4
    assert read(tmp_path / "small.webp").shape[1] == 512
