"""What is said of pictures, settings, roots and codecs."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from falconimg import formats, settings
from falconimg.cli import Refused, out
from falconimg.cli.show import failure, printable
from falconimg.errors import ImageProblem, SettingsProblem, TooLarge
from falconimg.formats.opencv import CODECS, libraries
from falconimg.info import describe
from falconimg.settings import Settings
from falconimg.stores.files import Files
from falconimg.stores.local import Local

SHOWN = "(set, not shown)"


def standard_input(limit: int) -> bytes:
    """All of it.

    Raises:
        TooLarge: more than `limit` bytes
    """
    data = sys.stdin.buffer.read(limit + 1)
    if len(data) > limit:
        raise TooLarge(f"standard input: expected at most {limit} bytes (FALCONIMG_MAX_FILE), came more")
    return data


def info(files: tuple[str, ...], own: Settings, as_json: bool) -> int:
    """Describe the files; the exit code."""
    store, failed = Local(), 0
    for name in files:
        try:
            data = standard_input(own.max_file) if name == "-" else store.read(name, own.max_file)
            said = describe(formats.probe(data, own.formats), len(data))
        except ImageProblem as problem:
            failed += 1
            said = {"error": {"type": problem.type, "title": problem.title, "detail": problem.detail}}
            click.echo(f"falconimg: {failure(name, problem.detail)}", err=True)
        if as_json:
            out(f"{json.dumps({'file': name, **said})}\n")
        elif "error" not in said:
            out(f"{printable(name)}: {_words(said)}\n")
    return 1 if failed else 0


def _words(said: dict[str, Any]) -> str:
    parts = [f"{said['format']} {said['width']}x{said['height']}", f"{said['depth']} bit"]
    parts += ["alpha"] * said["alpha"] + [f"orientation {said['orientation']}"] * (said["orientation"] > 1)
    parts += [f"profile {said['icc']}"] if said["icc"] else []
    return ", ".join([*parts, f"{said['bytes']} bytes"])


def check() -> int:
    """Say whether all is well; the exit code."""
    wrong = 0

    def line(good: bool, what: str) -> None:
        nonlocal wrong
        wrong += not good
        out(f"{'ok   ' if good else 'WRONG'} {what}\n")

    own = Settings()
    try:
        own = Settings.from_environ()
        formats.check(own)
        line(True, "settings")
    except SettingsProblem as problem:
        line(False, problem.detail)
    try:
        files = Files(*own.roots)
        faults = files.faults()
        line(not faults, "; ".join(faults) or f"roots: input {files.input_root}, output {files.output_root}")
    except OSError as error:
        line(False, f"roots: {error.strerror}: {error.filename}")
    for name, number in {**{name: version(name) for name in ("falconimg", *CODECS)}, **libraries()}.items():
        line(True, f"{name} {number}")
    readable = formats.readable(own.formats if not wrong else ())
    for form in formats.FORMATS.values():
        out(f"{form.name:5} reads  {form.reads if form.name in readable else 'nothing: it is switched off'}\n")
        out(f"{'':5} writes {form.writes} ({' '.join(form.extensions)})\n")
    return 1 if wrong else 0


def config(own: Settings, as_json: bool) -> None:
    """List the settings, as a server goes by them."""
    try:
        sources, values = Settings.sources(), asdict(own.effective())
    except OSError as error:
        raise Refused(f"FALCONIMG_ROOT: expected a directory, came one that is gone: {error.strerror}") from None
    table = {}
    for name, row in settings.rows():
        field = name.removeprefix(settings.PREFIX).lower()
        value = values[field]
        if row.secret:
            value = SHOWN if value else None
        elif isinstance(value, Path):
            value = str(value)
        table[name] = {"value": value, "source": sources[field], "default": row.default, "help": row.help}
    if as_json:
        out(f"{json.dumps(table, indent=1)}\n")
        return
    for name, entry in table.items():
        shown, source = _shown(entry["value"]) or entry["default"], entry["source"]
        if source == "default" and shown != entry["default"]:
            source = f"default: {entry['default']}"
        out(f"{name} = {shown}\n    {entry['help']} ({source})\n")


def _shown(value: Any) -> str:
    """A value as its variable has it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(value)
    return "" if value is None else str(value)
