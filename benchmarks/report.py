"""The rows as text: a line each for the terminal, JSON, and README.md's results, which are made of the JSON."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import pyvips

from benchmarks.rounds import Plan
from benchmarks.rows import Row

BEGIN, END = "<!-- results: python -m benchmarks -->\n", "<!-- end of results -->"
TITLES = {
    "S1": "S1: against the original's way",
    "S2": "S2: against the codecs' own floor",
    "S3": "S3: five renditions of one JPEG, in one request",
    "S4": "S4: one rendition, against libvips",
    "S5": "S5: all that is not pixels, against a bare Falcon route",
    "S6": "S6: memory of a worker",
    "S7": "S7: what a second core brings",
    "S8": "S8: wide blurs",
}


def line(row: Row) -> str:
    """A row for the terminal."""
    cells = [f"{name} {number(value)}" for name, value in row.figures.items()]
    cells += [f"{name} {claim}" for name, claim in row.claims.items()]
    return f"{row.target} {row.group:22} {row.name:27} " + "  ".join(cells)


def number(value: float) -> str:
    """With three digits, or all before the point."""
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f}"


def machine() -> dict[str, str]:
    """What it was measured on and with; no name of the host, no path."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    build = cv2.getBuildInformation()
    turbo = re.search(r"JPEG: .*\(ver ([^)]*)\)", build)
    return {
        "CPU": model[1] if model else platform.machine(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release().partition("-")[0],
        "Python": platform.python_version(),
        "OpenCV": cv2.__version__,
        "libjpeg-turbo in OpenCV": turbo[1] if turbo else "none",
        "libvips": ".".join(str(pyvips.version(part)) for part in range(3)),
    }


def write(folder: Path, plan: Plan, seconds: float, rows: Sequence[Row]) -> None:
    """results.json, and README.md's results if the folder has one."""
    document = {
        "machine": machine(), "rounds": plan.rounds, "minutes": round(seconds / 60, 1),
        "rows": [row.document() for row in rows],
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    readme = folder / "README.md"
    if readme.exists():
        readme.write_text(written(readme.read_text(), document))


def written(text: str, document: dict[str, Any]) -> str:
    """README's text with the results of this JSON."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}{results(document)}{END}{rest.partition(END)[2]}"


def results(document: dict[str, Any]) -> str:
    """The results in Markdown."""
    facts = ", ".join(f"{name} {value}" for name, value in document["machine"].items())
    parts = [f"{facts}. Medians of {document['rounds']} alternating rounds; {document['minutes']} minutes in all.\n"]
    for target, found in groupby((Row.of(row) for row in document["rows"]), lambda row: row.target):
        parts += [f"### {TITLES[target]}\n", *_tables(list(found))]
    return "\n".join(parts)


def _tables(rows: list[Row]) -> Iterator[str]:
    """One table for rows that have the same columns."""
    for (figures, claims), found in groupby(rows, lambda row: (tuple(row.figures), tuple(row.claims))):
        head = ["", "", *figures, *claims]
        cells = [
            [row.group, row.name, *map(number, row.figures.values()), *map(str, row.claims.values())] for row in found
        ]
        lines = [head, ["---", "---", *["---:"] * (len(head) - 2)], *cells]
        yield "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
