from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from benchmarks import pictures, report
from benchmarks.likeness import least_psnr
from benchmarks.rounds import Plan, Result, measured, ratio
from benchmarks.rows import Claim, Row, least, most
from benchmarks.servers import Load, Server

ROOT = Path(__file__).parent.parent
TARGETS = ["S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8"]


def test_the_benchmarks_run_and_write_rows_of_every_target_and_a_plot(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"before\n{report.BEGIN}old\n{report.END}\nafter\n")
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--out", str(tmp_path)]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert printed.returncode == 0, printed.stderr[-3000:]
    document = json.loads((tmp_path / "results.json").read_text())
    assert list(dict.fromkeys(row["target"] for row in document["rows"])) == TARGETS
    assert all(math.isfinite(claim["ratio"]) for row in document["rows"] for claim in row["claims"].values())
    assert cv2.imread(str(tmp_path / "results.png")) is not None
    text = (tmp_path / "README.md").read_text()
    assert text == f"before\n{report.BEGIN}{report.results(document)}{report.END}\nafter\n"
    assert not Path.home().name or str(tmp_path) not in text


def test_the_readme_has_the_results_as_the_json_has_them() -> None:
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    document = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    assert report.written(readme, document) == readme
    assert document["rows"]


def test_the_front_page_has_the_figures_of_the_json() -> None:
    rows = [Row.of(row) for row in json.loads((ROOT / "benchmarks" / "results.json").read_text())["rows"]]
    s1 = [row.claims["CPU less"].ratio for row in rows if row.target == "S1" and row.figures]
    s4 = [1 / row.claims["CPU"].ratio for row in rows if row.target == "S4" and row.figures]
    s3 = [row.claims["less than libvips"].ratio for row in rows if row.target == "S3"]
    mix1 = next(row.claims["CPU less"].ratio for row in rows if row.target == "S1" and not row.figures)
    mix4 = next(1 / row.claims["CPU"].ratio for row in rows if row.target == "S4" and not row.figures)
    readme = (ROOT / "README.md").read_text()
    for said in (
        f"20 MP; {len(s1)} rows",
        f"| {mix1:.1f} times less ({min(s1):.1f} to {max(s1):.1f}) |",
        f"| {mix4:.1f} times less ({min(s4):.1f} to {max(s4):.1f}) |",
        f"| {s3[0]:.1f} (6 MP) and {s3[1]:.1f} (20 MP) times less |",
    ):
        assert said in readme


def test_a_row_is_the_same_after_json() -> None:
    row = Row("S1", "group", "name", {"ms": 1.5}, {"CPU": least(1.9, 2)}, {"falconimg": 1.5}, 2.5)
    assert Row.of(json.loads(json.dumps(row.document()))) == row


@pytest.mark.parametrize(
    ("claim", "met"), [(least(2.0, 2), True), (least(1.99, 2), False), (most(2.0, 2), True), (most(2.01, 2), False)]
)
def test_a_claim_is_met_up_to_its_bound_only(claim: Claim, met: bool) -> None:
    assert claim.met is met
    assert ("✗" in str(claim)) is not met


def test_sides_take_turns_at_being_the_first() -> None:
    calls = list[str]()

    def side(name: str, count: int) -> Load:
        calls.append(name)
        return Load(1.0, 1.0)

    found = measured({"a": lambda n: side("a", n), "b": lambda n: side("b", n)}, Plan(rounds=3))
    assert calls[-6:] == ["a", "b", "b", "a", "a", "b"]
    assert [len(result.loads) for result in found.values()] == [3, 3]


def test_a_side_does_its_work_as_often_as_its_seconds_of_cpu_take() -> None:
    counts = list[int]()

    def side(count: int) -> Load:
        counts.append(count)
        return Load(0.01, 0.01)

    measured({"a": side}, Plan(rounds=2, seconds=0.6, clients=4))
    assert counts[-2:] == [60, 60]


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    above = Result((Load(2, 1), Load(30, 1), Load(8, 1)))
    below = Result((Load(1, 2), Load(10, 2), Load(2, 2)))
    assert ratio(above, below) == 3
    assert ratio(above, below, "wall") == 0.5


def test_the_cpu_of_a_server_is_that_of_all_its_processes() -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass\ntime.sleep(60)"
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {busy!r}]); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", parent]) as process:
        server = Server(process, 0, ROOT)
        try:
            end = time.monotonic() + 30
            while server.cpu() < 0.3:
                assert time.monotonic() < end
                time.sleep(0.02)
            assert len(server.processes()) == 2
        finally:
            for pid in server.processes():
                os.kill(pid, 9)


@pytest.fixture
def outputs(tmp_path: Path) -> tuple[Path, Path]:
    """Where two sides put the same picture, each in two parts."""
    pixels = pictures.pixels(pictures.Picture("", "", 64, 64))
    for side in ("a", "b"):
        for number in (1, 2):
            cv2.imwrite(str(tmp_path / f"{side}_{number}.png"), pixels)
    return tmp_path / "a.png", tmp_path / "b.png"


def test_equal_outputs_are_alike(outputs: tuple[Path, Path]) -> None:
    assert least_psnr(*outputs) == 99


@pytest.mark.parametrize("fault", ["missing", "more", "size", "other"])
def test_outputs_of_another_number_another_size_or_another_picture_end_the_benchmark(
    outputs: tuple[Path, Path], fault: str
) -> None:
    part = outputs[1].with_name("b_2.png")
    if fault == "missing":
        part.unlink()
    elif fault == "more":
        part.with_name("b_3.png").write_bytes(part.read_bytes())
    else:
        pixels = cv2.imread(str(part))
        assert pixels is not None
        cv2.imwrite(str(part), pixels[:, :-1] if fault == "size" else pixels[::-1])
    with pytest.raises(SystemExit):
        least_psnr(*outputs)


def test_the_pictures_are_the_same_in_every_run_and_of_a_cameras_size() -> None:
    made = pictures.Pictures()
    assert (pictures.pixels(made.one) == pictures.pixels(made.one)).all()
    sizes = {picture.title: picture.width * picture.height / 1e6 for picture in (made.one, made.six, made.twenty)}
    assert sizes == pytest.approx({"1 MP": 1, "6 MP": 6, "20 MP": 20}, rel=0.02)


@pytest.mark.parametrize(("picture", "low", "high"), [("six", 1.5, 2.5), ("progressive", 1.5, 2.5), ("heavy", 4, 6)])
def test_a_file_has_as_many_bits_a_pixel_as_a_cameras(tmp_path: Path, picture: str, low: float, high: float) -> None:
    made = getattr(pictures.Pictures(), picture)
    bits = 8 * pictures.write(made, tmp_path).stat().st_size / made.width / made.height
    assert low <= bits <= high
