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
from click.testing import CliRunner

from falconimg import operations, request
from falconimg.app import create_app
from falconimg.cli import INTERRUPTED, Refused, main
from falconimg.resources import JOB_ROUTES, ROUTES
from falconimg.settings import Settings
from tests.tables import END, README, ROOT, TABLES, pages, table


@pytest.mark.parametrize("name", TABLES)
def test_one_page_has_the_table_and_has_it_as_the_code_does(name: str) -> None:
    (page,) = [text for path in pages() if f"<!-- table: {name} -->" in (text := path.read_text())]
    assert f"<!-- table: {name} -->\n{table(name)}\n{END}" in page, "write it anew with: python -m tests.tables"


def test_the_table_of_routes_has_each_method_of_each_route() -> None:
    said: set[tuple[str, str]] = set()
    for cells in _rows("http.md", "route"):
        method = ""
        for name in re.findall(r"`([^`]+)`", cells[0]):
            method, path = name.split() if " " in name else (method, name)
            said.add((method, re.sub("PATH$", "{path:path}", path).replace("/ID", "/{id_}")))
    parts_of_pages = {"/page/{name}", "/docs/{name}"}
    assert said == {
        (method, path)
        for path, resource in (ROUTES | JOB_ROUTES).items()
        if path not in parts_of_pages
        for method in ("GET", "POST", "DELETE")
        if hasattr(resource, f"on_{method.lower()}")
    }


def test_the_page_of_jobs_has_each_of_their_routes() -> None:
    said = {tuple(cells[0].strip("`").replace("/ID", "/{id_}").split()) for cells in _rows("jobs.md", "request")}
    assert said == {
        (method, path)
        for path, resource in JOB_ROUTES.items()
        for method in ("GET", "POST", "DELETE")
        if hasattr(resource, f"on_{method.lower()}")
    }


def test_every_test_that_the_page_of_jobs_names_is_there() -> None:
    there = {
        name for path in (ROOT / "tests").glob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    rows = list(_rows("jobs.md", "promise"))
    named = [set(re.findall(r"`(test_\w+)`", cells[2])) for cells in rows]
    assert all(named)
    assert set().union(*named) <= there


def test_the_table_of_keys_has_each_key_of_a_batch_and_where_it_may_be() -> None:
    schemas = request.schemas(Settings())
    places = {"request": "Process", "image": "Image", "rendition": "Rendition"}
    said = {cells[0].strip("`"): set(cells[1].split(", ")) for cells in _rows("http.md", "key")}
    keys = {key for name in places.values() for key in schemas[name]["properties"]}
    assert said == {
        key: {place for place, name in places.items() if key in schemas[name]["properties"]} for key in keys
    }


def test_the_table_of_files_to_deploy_with_has_each_of_them() -> None:
    said = [
        Path(target).name for cells in _rows("deploying.md", "file") for target in re.findall(r"\((.*)\)", cells[0])
    ]
    others = {"Dockerfile.dockerignore", "try_wheel.py", "grafana.json"}
    assert sorted(said) == sorted({path.name for path in (ROOT / "deploy").iterdir()} - others)


@pytest.mark.parametrize("page", ["README.md", "docs/deploying.md"])
def test_what_is_shown_of_nginx_is_in_its_configuration(page: str) -> None:
    def directives(text: str) -> set[str]:
        return {line for line in (line.partition("#")[0].strip() for line in text.splitlines()) if line}

    shown = "\n".join(re.findall(r"```nginx\n(.*?)```", (ROOT / page).read_text(), re.DOTALL))
    assert directives(shown) - directives((ROOT / "deploy/nginx.conf").read_text()) == set()
    assert "location /img/v1/image/ {" in directives(shown)


def test_the_table_of_exit_codes_has_those_of_the_code() -> None:
    assert [int(cells[0]) for cells in _rows("command-line.md", "exit code")] == [0, 1, Refused.exit_code, INTERRUPTED]


def test_what_imagemagick_does_is_done_by_the_steps_beside_it() -> None:
    for _, ours, said in _rows("coming-from.md", "ImageMagick", "results"):
        for options in re.findall(r"`(--[^`]*)`", ours):
            line = ["process", str(ROOT / "examples/landscape.jpg"), "-o", "x/", "-n", "--json", *options.split()]
            result = CliRunner().invoke(main, line)
            assert result.exit_code == 0, (options, result.output)
            outputs = json.loads(result.stdout.splitlines()[0])["outputs"]
            sizes = {f"{output['width']}x{output['height']}" for output in outputs}
            assert sizes == {said} or str(len(outputs)) == said, options


def _rows(page: str, head: str, last: str = "") -> list[list[str]]:
    """The cells of the one table that no code writes whose first column has that name, and the last one the other."""
    (found,) = re.findall(
        rf"^\| {head} \|.*{last}.*\n\| ---.*\n((?:\|.*\n)+)", (ROOT / "docs" / page).read_text(), re.MULTILINE
    )
    return [line.strip("| ").split(" | ") for line in found.splitlines()]


def test_readmes_curl_prints_what_readme_says(tmp_path: Path) -> None:
    text = README.read_text().partition("What it is made for:")[2]
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
    assert rows == set(range(1, 28))
    for line in re.findall(r"^\| \d+ \|.*", page, re.MULTILINE):
        assert len(line.split(" | ")) == 6, line
        assert "`test_" in line or "`fuzz/run" in line, line


def test_the_kernels_benchmark_runs_and_finds_them_equal_to_numpy_and_opencv() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "kernels.py"), "16"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    kernels, pngs = (part.splitlines()[1:] for part in printed.split("\n\n"))
    assert [line.split()[0] for line in kernels] == ["premultiply", "unpremultiply", "is_opaque"]
    assert [line[:12].strip() for line in pngs] == ["BGR", "gray", "BGRA", "BGR 16 bit", "screen"]
