"""Two sides or more, measured in turn, so that what else the machine does falls on all of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from benchmarks.pictures import Picture, Pictures
from benchmarks.servers import WORKERS, Load

Side = Callable[[int], Load]
"""Does its work so many times, and says what one time cost."""


@dataclass(frozen=True)
class Plan:
    """How it is measured: rounds, the seconds of CPU that a side has in each, if once is not more, and the load.

    `sources` are the baseline files, by size.
    """

    rounds: int = 5
    seconds: float = 0.4
    workers: int = WORKERS
    clients: int = 2 * WORKERS
    pictures: Pictures = field(default_factory=Pictures)
    sources: tuple[Picture, ...] = (Pictures.one, Pictures.six, Pictures.twenty)


@dataclass(frozen=True)
class Result:
    """The loads of one side, a round each."""

    loads: tuple[Load, ...]

    @property
    def cpu(self) -> float:
        """Milliseconds of CPU, the median."""
        return 1000 * statistics.median(load.cpu for load in self.loads)

    @property
    def rate(self) -> float:
        """Times a second, the median."""
        return statistics.median(1 / load.wall for load in self.loads)


def measured(sides: Mapping[str, Side], plan: Plan) -> dict[str, Result]:
    """Each side's result; they are warm, and take turns at being the first."""
    counts = {}
    for name, side in sides.items():
        cost = side(plan.clients).cpu
        if cost * plan.clients < plan.seconds:  # it did too little yet to be warm
            cost = side(2 * plan.clients).cpu
        times = max(1, math.ceil(plan.seconds / cost / plan.clients))
        counts[name] = plan.clients * min(100, times)
    loads: dict[str, list[Load]] = {name: [] for name in sides}
    for turn in range(plan.rounds):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            loads[name].append(sides[name](counts[name]))
    return {name: Result(tuple(found)) for name, found in loads.items()}


def ratio(above: Result, below: Result, what: str = "cpu") -> float:
    """The median over the rounds of one side's seconds of CPU (or `wall`) divided by the other's."""
    pairs = zip(above.loads, below.loads, strict=True)
    return float(statistics.median(getattr(a, what) / getattr(b, what) for a, b in pairs))


def geometric_mean(values: Iterable[float]) -> float:
    """Of ratios."""
    return statistics.geometric_mean(values)
