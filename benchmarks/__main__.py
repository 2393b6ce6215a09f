"""All benchmarks, or some of them: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import blur, floor, memory, original, overhead, plot, report, scaling, thumbnails
from benchmarks.pictures import Pictures
from benchmarks.rounds import Plan
from benchmarks.rows import Row

TARGETS: dict[str, Callable[[Plan, Path], Iterator[Row]]] = {
    "S1": original.rows,
    "S2": floor.rows,
    "S3": thumbnails.five,
    "S4": thumbnails.one,
    "S5": overhead.rows,
    "S6": memory.rows,
    "S7": scaling.rows,
    "S8": blur.rows,
}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write results.json, README.md's results and the plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=TARGETS, help="this target; may be given again", default=[])
    parser.add_argument("--rounds", type=int, default=5, help="how often each side has its turn; default 5")
    parser.add_argument("--smoke", action="store_true", help="tiny pictures, one round: whether it runs, nothing else")
    parser.add_argument(
        "--out", type=Path, help="where the results go; default benchmarks/ for a whole run, else nowhere"
    )
    options = parser.parse_args(arguments)
    tiny = Pictures.tiny()
    plan = Plan(1, 0.0, 1, 1, tiny, (tiny.one,)) if options.smoke else Plan(options.rounds)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are ended
    out = options.out or (None if options.smoke or options.only else Path(__file__).parent)
    begun, found = time.monotonic(), []
    for target in options.only or TARGETS:
        with tempfile.TemporaryDirectory(prefix="falconimg-benchmarks-") as folder:
            root = Path(folder)
            (root / "out").mkdir()
            for row in TARGETS[target](plan, root):
                sys.stdout.write((f"{row.target} {row.name} ran" if options.smoke else report.line(row)) + "\n")
                sys.stdout.flush()
                found.append(row)
        seconds = time.monotonic() - begun
        if out:  # after each target, so that a run which is ended leaves what it has measured
            report.write(out, plan, seconds, found)
    if out:
        plot.write(out, found)
    kept = [claim.met for row in found for claim in row.claims.values()]
    said = f"{len(found)} rows ran" if options.smoke else f"{sum(kept)} of {len(kept)} bounds kept"
    sys.stdout.write(f"{said}, {seconds:.0f} s\n")


if __name__ == "__main__":
    main()
