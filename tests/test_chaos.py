"""Jobs under random kills, in short form; tests/chaos.py has the long one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from falconimg.jobs.worker import SWEEP_SECONDS
from tests import chaos
from tests.test_jobs_server import customized


def test_random_kills_lose_double_and_tear_nothing(tmp_path: Path, long: bool) -> None:
    found = chaos.run(tmp_path, 24 if long else 8, 24 if long else 8, 40 if long else 12, seed=11)
    print(f"figure: {found}")  # noqa: T201
    assert found.faults == []
    assert found.kills.total() == (24 if long else 8)
    assert set(found.kills) == {"jobs", "frozen", "web", "master"}
    assert found.checked == found.images
    assert found.late  # some were in the middle of it


def test_without_the_sweeper_images_are_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos, "OVERDUE", 3 * SWEEP_SECONDS)

    def run(name: str, custom: str) -> chaos.Found:
        (tmp_path / name).mkdir()
        path = customized(tmp_path / name, custom)
        return chaos.run(tmp_path / name, 2, 2, 30, seed=26, pauses=(1, 1.5), PYTHONPATH=path)

    with ThreadPoolExecutor() as threads:
        runs = threads.map(run, ("with", "without"), ("", "worker.Keeper.sweep = lambda self: None"))
        swept, unswept = runs
    print(f"figure: {swept}")  # noqa: T201
    assert swept.faults == []
    assert swept.kills == unswept.kills == {"web": 1, "jobs": 1}
    assert (swept.lost, swept.checked) == (0, swept.images)
    assert swept.late
    assert max(swept.late) < SWEEP_SECONDS + 2  # a sweep, on a busy machine
    assert unswept.lost > 0
    assert unswept.faults == [f"{unswept.lost} images were lost"]
    assert unswept.checked == unswept.images - unswept.lost  # all others were made
