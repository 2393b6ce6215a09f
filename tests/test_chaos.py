"""Jobs under random kills, in short form; tests/chaos.py has the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import chaos


def test_random_kills_lose_double_and_tear_nothing(tmp_path: Path, long: bool) -> None:
    found = chaos.run(tmp_path, 24 if long else 8, 20 if long else 6, 40 if long else 15, seed=7)
    print(f"figure: {found}")  # noqa: T201
    assert found.faults == []
    assert found.kills.total() == (24 if long else 8)
    assert found.checked == found.images


def test_without_the_sweeper_images_are_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(
        "import sys\n"
        "if 'worker' in sys.orig_argv:\n"
        "    import falconimg.jobs.worker as worker\n"
        "    worker.Keeper.sweep = lambda self: None\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=":")
    monkeypatch.setattr(chaos, "SECONDS", 10)
    found = chaos.run(tmp_path, 5, 5, 30, seed=3)
    assert found.lost > 0
    assert found.checked < found.images
    assert "it did not come to an end" in found.faults
