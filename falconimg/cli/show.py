"""What is shown of a run: progress and failures on standard error, the report on standard output if it is asked for."""

from __future__ import annotations

import os
import re
import sys
from ast import literal_eval
from collections import Counter
from time import monotonic
from types import TracebackType

from tqdm import tqdm

from falconimg import answers
from falconimg.cli import out
from falconimg.job import Outcome
from falconimg.pipeline import GIVEN_UP, report
from falconimg.stores.paths import shown

LINE_SECONDS = 10
"""From line to line of progress, where it is not for a terminal."""
LEFT = "exists and was left as it is"
"""The end of the note on a result that was there already."""
QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
NAMED = 10
"""Images that were not begun whose names are said."""


def printable(text: str) -> str:
    """The text for a terminal: with what is no character to be seen (control characters, lone surrogates) escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def failure(name: str, detail: str) -> str:
    """What is wrong with a file, its name once; a path that the detail starts with is said as the name is."""
    if detail.startswith(shown(name)):
        return printable(name) + detail.removeprefix(shown(name))
    if quoted := QUOTED.match(detail):
        detail = printable(literal_eval(quoted[0])) + detail[quoted.end() :]
    return f"{printable(name)}: {detail}"


def size(count: int) -> str:
    """Of so many bytes, in words."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def has_room() -> bool:
    """Whether standard error is a terminal with columns: that of a serial line or a container may say it has none."""
    return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0


class Progress:
    """The outcomes of `total` images, as they come; closing it says what they came to."""

    def __init__(self, total: int, *, quiet: bool = False, as_json: bool = False, plan: bool = False) -> None:
        self._total, self._quiet, self._as_json, self._plan = total, quiet, as_json, plan
        self.counts: Counter[str] = Counter()
        self.left: list[str] = []
        self._bytes = self._planned = 0
        self._notes: set[str] = set()
        self._begun = self._said = monotonic()
        self._bar = tqdm(total=total, unit="image", disable=quiet or not has_room(), leave=False)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._as_json and kind is None:
            self._out(answers.line(answers.totals(report((), self.counts, self._begun))))
        if self.left:
            more = f" and {len(self.left) - NAMED} more" if len(self.left) > NAMED else ""
            self.say(f"stopped; not begun: {', '.join(printable(name) for name in self.left[:NAMED])}{more}")
        if not self._quiet and kind is None:
            self.say(self._sum())

    def add(self, outcome: Outcome) -> None:
        """One more."""
        self.counts[outcome.status] += 1
        self._bytes += sum(output.bytes or 0 for output in outcome.outputs)
        self._planned += len(outcome.outputs) * self._plan
        if self._as_json:
            self._out(answers.line({"index": outcome.index, **answers.image(outcome)}))
        elif self._plan:
            for output in outcome.outputs:
                size = f"{output.format} {output.width}x{output.height}"
                self._out(f"{printable(outcome.input)} -> {printable(output.path)} ({size})\n")
        given_up = any(note.detail.endswith(GIVEN_UP) for note in outcome.notes)
        if given_up:
            self.left.append(outcome.input)
        if outcome.error:
            self.say(failure(outcome.input, outcome.error.detail))
        for note in () if self._quiet or given_up else outcome.notes:
            if note.detail.endswith(LEFT):  # asked for by --skip-existing; the sum says how many
                continue
            if note.detail not in self._notes and len(self._notes) < 1000:  # the same of every image is said once
                self._notes.add(note.detail)
                self.say(f"{printable(outcome.input)}: note: {note.detail}")
        if not given_up:
            self._advance()

    def say(self, line: str) -> None:
        """A line on standard error, above the bar."""
        self._bar.write(f"falconimg: {line}", file=sys.stderr)

    def _out(self, text: str | bytes) -> None:
        with self._bar.external_write_mode(sys.stdout):
            out(text)

    def _advance(self) -> None:
        seconds = max(monotonic() - self._begun, 1e-3)
        speed = f"{size(int(self._bytes / seconds))}/s"
        self._bar.set_postfix_str(speed, refresh=False)
        self._bar.update()
        if self._bar.disable and not self._quiet and monotonic() - self._said >= LINE_SECONDS:
            self._said = monotonic()
            count = self.counts.total()
            left = tqdm.format_interval(seconds / count * (self._total - count))
            self.say(f"{count} of {self._total} images, {speed}, {left} left")

    def _sum(self) -> str:
        done, failed, skipped = (self.counts[verdict] for verdict in ("done", "failed", "skipped"))
        said = [
            f"{self._planned} would be made" if self._plan else f"{done} done",
            *[f"{failed} failed"] * (failed > 0),
        ]
        if self.left:
            said.append(f"{len(self.left)} not begun")
        if self._plan:
            return ", ".join(said)
        if skipped > len(self.left):
            said.append(f"{skipped - len(self.left)} skipped")
        return f"{', '.join(said)}, {size(self._bytes)} in {monotonic() - self._begun:.1f} s"
