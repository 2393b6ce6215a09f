"""The rows as bars."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from benchmarks.report import TITLES
from benchmarks.rows import Row

COLUMNS = 3
COLORS = ("#1b6ca8", "#d98e32", "#9a9a9a")
UNITS = {"S6": "MB", "S7": "milliseconds by the clock"}


def write(folder: Path, rows: Sequence[Row]) -> None:
    """results.png: a panel for each group, its scale logarithmic; a black mark is what falconimg is to keep below."""
    groups = [
        list(found) for _, found in groupby((row for row in rows if row.bars), lambda row: (row.target, row.group))
    ]
    lines = [
        chunk[start : start + COLUMNS]
        for _, found in groupby(groups, lambda group: group[0].target)
        for chunk in [list(found)]
        for start in range(0, len(chunk), COLUMNS)
    ]
    heights = [1.1 + 0.36 * max(len(group) for group in line) for line in lines]
    figure = Figure(figsize=(17, sum(heights)), layout="constrained")
    for axes, line in zip(
        figure.subplots(len(lines), COLUMNS, squeeze=False, height_ratios=heights), lines, strict=True
    ):
        for place, panel in enumerate(axes):
            panel.set_visible(place < len(line))
            if place < len(line):
                _draw(panel, line[place])
    figure.savefig(folder / "results.png", dpi=80, metadata={"Software": None})


def _draw(panel: Axes, rows: list[Row]) -> None:
    names = list(rows[0].bars)
    thick = 0.8 / len(names)
    for place, name in enumerate(names):
        heights = [index + (place - (len(names) - 1) / 2) * thick for index in range(len(rows))]
        panel.barh(heights, [row.bars[name] for row in rows], thick, color=COLORS[place], label=name)
    for index, row in enumerate(rows):
        panel.plot([row.goal] * 2, [index - 0.4, index - 0.4 + thick], color="black", linewidth=2.5)
    panel.set_xscale("log")
    values = [value for row in rows for value in (*row.bars.values(), row.goal)]
    panel.set_xlim(min(values) / 1.6, max(values) * 1.3)
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(ScalarFormatter())
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_yticks(range(len(rows)), [row.name for row in rows])
    panel.invert_yaxis()
    panel.set_title(f"{TITLES[rows[0].target].partition(':')[0]}  {rows[0].group}", fontsize=10, loc="left")
    panel.set_xlabel(UNITS.get(rows[0].target, "CPU milliseconds"), fontsize=8)
    panel.legend(fontsize=7)
