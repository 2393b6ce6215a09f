from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from falconimg.machine import limits

MB = 1 << 20


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host of 64 cores and 256 GB, whatever this one has."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": (256 << 30) // 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)


def laid_out(root: Path, cgroup: str, **files: str) -> Path:
    """A root whose /proc/self/cgroup says this, with these files below /sys/fs/cgroup (`__` for a slash)."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        directory, _, last = ("sys/fs/cgroup/" + name.replace("__", "/")).rpartition("/")
        (root / directory).mkdir(parents=True, exist_ok=True)
        (root / directory / last.replace("_", ".", 1)).write_text(text + "\n")
    return root


def test_without_control_groups_it_is_the_machine(tmp_path: Path) -> None:
    assert limits(tmp_path) == (64, 256 << 30)


def test_a_container_has_its_own_groups_limits(tmp_path: Path) -> None:
    root = laid_out(tmp_path, "0::/\n", cpu_max="200000 100000", memory_max=str(512 * MB))
    assert limits(root) == (2, 512 * MB)


@pytest.mark.parametrize(("quota", "cores"), [("1", 1), ("50000", 1), ("100000", 1), ("100001", 2), ("250000", 3)])
def test_a_part_of_a_core_counts_as_one(quota: str, cores: int, tmp_path: Path) -> None:
    assert limits(laid_out(tmp_path, "0::/\n", cpu_max=f"{quota} 100000")).cores == cores


def test_max_and_minus_one_are_no_limits(tmp_path: Path) -> None:
    root = laid_out(tmp_path / "2", "0::/\n", cpu_max="max 100000", memory_max="max", memory_high="max")
    assert limits(root) == (64, 256 << 30)
    root = laid_out(
        tmp_path / "1", "2:memory:/\n1:cpu:/\n", cpu__cpu_cfs_quota_us="-1", cpu__cpu_cfs_period_us="100000",
        memory__memory_limit_in_bytes="9223372036854771712",
    )  # fmt: skip
    assert limits(root) == (64, 256 << 30)


def test_the_least_limit_up_the_hierarchy_counts(tmp_path: Path) -> None:
    root = laid_out(
        tmp_path, "0::/a/b/c\n", a__b__c__cpu_max="max 100000", a__b__cpu_max="400000 100000",
        a__cpu_max="800000 100000", a__b__c__memory_max=str(900 * MB), a__b__memory_max="max",
        a__memory_max=str(700 * MB), a__memory_high=str(600 * MB), d__memory_max="1",
    )  # fmt: skip
    assert limits(root) == (4, 600 * MB)


def test_the_first_version_has_a_hierarchy_for_each_controller(tmp_path: Path) -> None:
    root = laid_out(
        tmp_path, "9:name=systemd:/\n4:memory:/pod/one\n1:cpu,cpuacct:/pod\n0::/\n",
        cpu__pod__cpu_cfs_quota_us="150000", cpu__pod__cpu_cfs_period_us="100000",
        memory__pod__memory_limit_in_bytes=str(300 * MB),
        memory__pod__one__memory_limit_in_bytes=str(400 * MB),
    )  # fmt: skip
    assert limits(root) == (2, 300 * MB)


def test_a_path_of_the_host_in_a_container_leads_to_the_top(tmp_path: Path) -> None:
    root = laid_out(tmp_path, "0::/../../docker/0123\n", cpu_max="100000 100000", memory_max=str(64 * MB))
    assert limits(root) == (1, 64 * MB)


def test_the_cores_that_it_may_run_on_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 5, 7})
    assert limits(laid_out(tmp_path, "0::/\n", cpu_max="800000 100000")).cores == 3


def test_where_there_is_no_affinity_the_machines_cores_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert limits(tmp_path).cores == 12


@pytest.mark.parametrize(
    ("cores", "memory", "workers", "pool", "budget"),
    [
        (64, 256 << 30, 64, 64, (256 << 30) // 2 // 64),
        (2, 2_000_000_000, 2, 2, 500_000_000),
        (1, 2_000_000_000, 2, 1, 500_000_000),
        (8, 1_024_000_000, 2, 8, 256_000_000),
        (8, 512_000_000, 1, 8, 256_000_000),
        (8, 200_000_000, 1, 8, 100_000_000),
        (1000, 1 << 50, 256, 256, (1 << 50) // 2 // 256),
    ],
)
def test_workers_threads_and_bytes_follow_the_limits(
    cores: int, memory: int, workers: int, pool: int, budget: int
) -> None:
    script = (
        "import json, sys; from types import ModuleType, SimpleNamespace\n"
        "machine = sys.modules['falconimg.machine'] = ModuleType('falconimg.machine')\n"
        f"machine.limits = lambda: SimpleNamespace(cores={cores}, memory={memory})\n"
        "from falconimg.settings import Settings; settings = Settings(jobs=False)\n"
        "print(json.dumps([settings.workers, settings.pool, settings.budget]))"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FALCONIMG_")}
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, env=environ, text=True, timeout=60, check=True
    )
    assert json.loads(ended.stdout) == [workers, pool, budget]
