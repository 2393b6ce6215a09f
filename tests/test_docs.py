from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import falcon.testing
import pytest

from falconimg import operations
from falconimg.app import create_app
from falconimg.settings import Settings
from tests.tables import README, TABLES, table

ROOT = README.parent


@pytest.mark.parametrize("name", TABLES)
def test_readme_has_the_table_as_the_code_has_it(name: str) -> None:
    assert f"<!-- table: {name} -->\n{table(name)}\n<!-- end of table -->" in README.read_text(), (
        "write it anew with: python -m tests.tables"
    )


def test_readmes_curl_prints_what_readme_says(tmp_path: Path) -> None:
    text = README.read_text().partition("With the server running")[2]
    request = text.partition("-d '")[2].partition("'")[0]
    said = json.loads(text.partition("```json\n")[2].partition("```")[0])
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    client = falcon.testing.TestClient(create_app(Settings(root=tmp_path)), headers={"Host": "localhost"})
    answer = client.simulate_post("/v1/process", body=request, headers={"Content-Type": "application/json"})
    assert _without_times(answer.json) == _without_times(said)
    assert len(list(tmp_path.glob("out/*.png"))) == 4


def _without_times(report: dict[str, Any]) -> dict[str, Any]:
    images = [{key: value for key, value in image.items() if key != "ms"} for image in report["images"]]
    return {key: value for key, value in report.items() if key != "ms"} | {"images": images}


def test_the_example_of_an_operation_is_the_operation() -> None:
    assert f"```python\n{inspect.getsource(operations.Flip)}```" in (ROOT / "ARCHITECTURE.md").read_text()


def test_architecture_names_every_module() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path in Path(ROOT, "falconimg").glob("*.py"):
        assert path.name == "__init__.py" or f"{path.name}`" in text, path.name


def test_only_settings_looks_at_the_environment() -> None:
    for path in Path(ROOT, "falconimg").rglob("*.py"):
        looks = re.search(r"\bos\.(environ|getenv)\b|\bgetenv\b", path.read_text())
        assert not looks or path.name == "settings.py", path


def test_no_codec_reads_or_writes_files_by_itself() -> None:
    for path in Path(ROOT, "falconimg").rglob("*.py"):
        assert not re.search(r"cv2\.im(read|write)\w*\(", path.read_text()), path


def test_the_native_core_imports_nothing_of_the_package() -> None:
    for path in Path(ROOT, "native").iterdir():
        assert not re.search(r"^\s*(from|import|cimport)\s+falconimg", path.read_text(), re.MULTILINE), path


def test_every_document_is_in_the_source_distribution() -> None:
    included = (ROOT / "MANIFEST.in").read_text().split()
    for document in ROOT.glob("*.md"):
        assert document == README or document.name in included


def test_every_link_in_the_documents_leads_to_a_file() -> None:
    for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_test_that_the_page_of_safety_names_is_there_and_every_row_has_one() -> None:
    page = (ROOT / "docs" / "safety.md").read_text()
    tests = "".join(file.read_text() for file in (ROOT / "tests").glob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", page):
        assert f"def {name}(" in tests, name
    rows = {int(row) for row in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert rows == set(range(1, 25))
    for line in re.findall(r"^\| \d+ \|.*", page, re.MULTILINE):
        assert len(line.split(" | ")) == 6, line
        assert "`test_" in line or "`fuzz/run" in line, line


def test_the_kernels_benchmark_runs_and_finds_them_equal_to_numpy_and_opencv() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "kernels.py"), "16"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    kernels, pngs = (part.splitlines()[1:] for part in printed.split("\n\n"))
    assert [line.split()[0] for line in kernels] == ["premultiply", "unpremultiply", "is_opaque"]
    assert [line[:12].strip() for line in pngs] == ["BGR", "gray", "BGRA", "BGR 16 bit", "screen"]
