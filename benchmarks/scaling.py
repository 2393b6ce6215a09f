"""S7: what a second core brings, by the clock; nothing is synced, since it is not the disk that is asked.

The pictures are of 6 MP, so that the client, which has no core of its own, takes little of the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks import pictures
from benchmarks.rounds import Plan, Result, measured, ratio
from benchmarks.rows import Row, least
from benchmarks.servers import Request, running

FILES = 200


def rows(plan: Plan, root: Path) -> Iterator[Row]:
    """A batch on a pool of two threads, and single images on two workers."""
    name = pictures.write(plan.pictures.six, root).name
    files = FILES if plan.seconds else 4

    def request(count: int) -> Request:
        images = [{"input": name, "output": f"out/{{client}}-{n}.jpg"} for n in range(count)]
        return Request("/items/", {"images": images, "operations": ["resize=0.5", "blur=5"]})

    with (
        running("falconimg", root, 1, pool="1", fsync="off") as one,
        running("falconimg", root, 1, pool="2", fsync="off") as pool,
        running("falconimg", root, 2, pool="1", fsync="off") as workers,
    ):
        batch = request(files)
        found = measured(
            {"two": partial(pool.load, [batch]), "one": partial(one.load, [batch])}, replace(plan, clients=1)
        )
        yield _row(f"{files} files of 6 MP in a request", "pool of 2 against 1", found, 1.85)
        many = replace(plan, clients=4 * plan.clients)  # so that neither worker ever waits for one
        found = measured(
            {
                "two": partial(workers.load, [request(1)], clients=many.clients),
                "one": partial(one.load, [request(1)], clients=many.clients),
            },
            many,
        )
        yield _row("an image a request, 6 MP", "2 workers of pool 1 against 1", found, 1.9)


def _row(group: str, name: str, found: dict[str, Result], bound: float) -> Row:
    two, one = found["two"], found["one"]
    return Row(
        "S7", group, name,
        {"two: requests/s": two.rate, "one: requests/s": one.rate, "two: CPU ms": two.cpu, "one: CPU ms": one.cpu},
        {"faster": least(ratio(one, two, "wall"), bound)},
        {"falconimg": 1000 / two.rate, "with one": 1000 / one.rate}, 1000 / one.rate / bound,
    )  # fmt: skip
