"""S6: the memory of a worker."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks import pictures
from benchmarks.original import KINDS, OPERATIONS
from benchmarks.rounds import Plan
from benchmarks.rows import Row, most
from benchmarks.servers import Request, Server, running

NOISE = 1.02
"""What is no growth: the allocator's and the kernel's accounts move by that much."""


def _bytes(pid: int, what: str) -> int:
    """VmRSS or VmHWM (proc_pid_status(5))."""
    match = re.search(rf"^{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    if match is None:
        raise SystemExit(f"/proc/{pid}/status has no {what}")
    return 1024 * int(match[1])


def _worker(server: Server) -> int:
    (worker,) = (pid for pid in server.processes() if pid != server.process.pid)
    return worker


def rows(plan: Plan, root: Path) -> Iterator[Row]:
    """The peak of one large request, and what 500 mixed ones leave."""
    yield _peak(plan, root)
    yield _growth(plan, root)


def _peak(plan: Plan, root: Path) -> Row:
    """Above the worker as it is after a small request; each split's parts are views, so the path is a leaf alone."""
    source = plan.pictures.twenty
    pictures.write(source, root)
    pictures.write(plan.pictures.one, root)

    def request(picture: pictures.Picture) -> Request:
        images = [{"input": picture.name, "output": "out/part.jpg"}]
        return Request("/items/", {"images": images, "operations": OPERATIONS["split, split, split"]})

    with running("falconimg", root, 1) as server:
        worker = _worker(server)
        server.ask(request(plan.pictures.one))
        base = _bytes(worker, "VmRSS")
        Path(f"/proc/{worker}/clear_refs").write_text("5")  # proc_pid_clear_refs(5): VmHWM begins anew
        server.ask(request(source))
        peak = _bytes(worker, "VmHWM") - base
    decoded = 3 * source.width * source.height
    outputs = sum(path.stat().st_size for path in (root / "out").glob("part_*.jpg"))
    leaf = -(-source.width // 8) * -(-source.height // 8) * 3
    allowed = decoded + 1.5 * leaf + outputs
    return Row(
        "S6", f"{source.title}, 64 outputs", "peak above rest",
        {"peak MB": peak / 1e6, "allowed MB": allowed / 1e6, "decoded MB": decoded / 1e6, "outputs MB": outputs / 1e6},
        {"peak": most(peak / allowed, 1)},
        {"falconimg": peak / 1e6, "decoded": decoded / 1e6}, allowed / 1e6,
    )  # fmt: skip


def _mix(plan: Plan, root: Path) -> list[Request]:
    """Fifty requests of all kinds, so that each hundred ends as the one before it did."""
    wanted = [
        (picture.as_kind(kind), extension, operations)
        for picture in (plan.pictures.one, plan.pictures.six)
        for kind, extension in KINDS
        for operations in OPERATIONS.values()
    ]
    wanted += [(plan.pictures.twenty, "jpg", OPERATIONS[title]) for title in ("split", "resize=0.1")]
    requests = []
    for picture, extension, operations in wanted:
        images = [{"input": pictures.write(picture, root).name, "output": f"out/mix.{extension}"}]
        requests.append(Request("/items/", {"images": images, "operations": operations}))
    return requests


def _growth(plan: Plan, root: Path) -> Row:
    """The worker's memory after each of 500 requests: the least of 301 to 500 against that of 101 to 300.

    What it holds between requests comes and goes by a buffer that a thread keeps; the least of many shows what stays.
    """
    mix = _mix(plan, root)
    each = 2 * len(mix) if plan.seconds else 2
    floors = []
    with running("falconimg", root, 1) as server:
        worker = _worker(server)
        requests = itertools.cycle(mix)
        for _ in range(5):
            taken = []
            for request in itertools.islice(requests, each):
                server.ask(request)
                taken.append(_bytes(worker, "VmRSS"))
            floors.append(min(taken) / 1e6)
    after, last = min(floors[1:3]), min(floors[3:])
    return Row(
        "S6", f"{5 * each} mixed requests", f"least of each {each}",
        {f"to {each * number} MB": floor for number, floor in enumerate(floors, 1)},
        {"growth": most(last / after, NOISE)},
        {"falconimg": last, f"to {3 * each}": after}, NOISE * after,
    )  # fmt: skip
