"""What is said of pictures, settings, roots and codecs."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from falconimg import formats, settings, tracing
from falconimg.cli import Refused, out
from falconimg.cli.show import failure, printable
from falconimg.errors import ImageProblem, SettingsProblem, TooLarge
from falconimg.formats.opencv import CODECS, libraries
from falconimg.info import describe
from falconimg.jobs import engine
from falconimg.settings import Settings
from falconimg.stores import objects
from falconimg.stores.files import Files
from falconimg.stores.local import Local

SHOWN = "(set, not shown)"
SQLITE = "sqlite:///"
"""What the address of a ledger begins with that is a file, and so no secret."""


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

    try:
        own = Settings.from_environ()
        formats.check(own)
    except SettingsProblem as problem:
        line(False, problem.detail)
        return 1
    line(True, "settings")
    try:
        files = Files(*own.roots)
        faults = files.faults()
        line(not faults, "; ".join(faults) or f"roots: input {files.input_root}, output {files.output_root}")
    except OSError as error:
        line(False, f"roots: {error.strerror}: {error.filename}")
    for part in (_objects, _ledger, _broker, _traces):
        try:
            if said := part(own):
                line(True, said)
        except SettingsProblem as problem:
            line(False, problem.detail)
    for name, number in {**{name: version(name) for name in ("falconimg", *CODECS)}, **libraries()}.items():
        if number != "NO":
            line(True, f"{name} {number}")
    readable = formats.readable(own.formats)
    for form in formats.FORMATS.values():
        out(f"{form.name:5} reads  {form.reads if form.name in readable else 'nothing: it is switched off'}\n")
        out(f"{'':5} writes {form.writes} ({' '.join(form.extensions)})\n")
    if wrong:
        click.echo(f"falconimg: WRONG, {wrong} above", err=True)
    return 1 if wrong else 0


def _objects(own: Settings) -> str:
    inputs, outputs = own.object_stores
    if inputs or outputs:
        objects.require_obstore()
    return f"objects: input {', '.join(inputs)}; output {', '.join(outputs)}" if inputs or outputs else ""


def _ledger(own: Settings) -> str:
    """Where jobs are on record; no file is made, whose owner would not be the server's."""
    if not own.has_jobs:
        return "jobs: none" if not own.jobs else "jobs: none, as there is no home to be written (FALCONIMG_LEDGER)"
    url = own.ledger_url
    file = Path(url.removeprefix(SQLITE)) if url.startswith(SQLITE) else None
    if file and not file.exists():
        there = next(parent for parent in file.absolute().parents if parent.exists())
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            raise SettingsProblem(f"FALCONIMG_LEDGER: expected a place that can be written, came {file}")
        return f"jobs: {file}, which the server makes"
    from falconimg.jobs.ledger import Ledger  # see falconimg.jobs.record

    Ledger(url).close()
    return f"jobs: {file or 'the ledger of FALCONIMG_LEDGER'}"


def _broker(own: Settings) -> str:
    engine.bell(own)
    return "broker: its library is there; whether it answers is not tried" if own.broker else ""


def _traces(_own: Settings) -> str:
    if fault := tracing.fault():
        raise SettingsProblem(fault)
    return ""


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
        if row.secret and not str(value).startswith(SQLITE):
            value = SHOWN if value else None
        elif row.secret:
            value = value.removeprefix(SQLITE)
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
