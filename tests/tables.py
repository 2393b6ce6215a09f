"""The documents' tables, made of the code's: `python -m tests.tables` writes them, test_docs.py holds them equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import click

from falconimg import formats, metrics, operations, parameters, settings
from falconimg.cli import main
from falconimg.errors import ImageProblem, Problem, RequestProblem

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
END = "<!-- end of table -->"


def operation_rows() -> Iterator[tuple[str, ...]]:
    yield "step", "object", "meaning"
    for operation in operations.OPERATIONS.values():
        for form in operation.forms:
            steps = ", ".join(f"`{step}`" for step in form.step.split(", "))
            yield steps, f"`{form.object}`", form.meaning


def format_rows() -> Iterator[tuple[str, ...]]:
    yield "format", "extensions", "read", "written", "kept besides the colours", "quality"
    for form in formats.FORMATS.values():
        kept = ", ".join(sorted(form.keeps)) or "nothing"
        extensions = " ".join(form.extensions)
        yield form.name, extensions, form.reads, form.writes, kept, str(form.quality or "")


def setting_rows() -> Iterator[tuple[str, ...]]:
    yield "variable", "default", "allowed", "what"
    for field in fields(settings.Settings):
        row = field.metadata["row"]
        names = ", ".join(f"`{variable.name}`" for variable in settings.variables(field))
        yield names, row.default, row.allowed, row.help


def problem_rows() -> Iterator[tuple[str, ...]]:
    yield "type", "status", "title", "whose"
    for whose, root in (("the request's", RequestProblem), ("one image's", ImageProblem)):
        for problem in _leaves(root):
            yield f"`{problem.type}`", str(problem.status), problem.title, whose
    yield f"`{Problem.type}`", str(Problem.status), Problem.title, "either's"


def _leaves(root: type[Problem]) -> Iterator[type[Problem]]:
    for problem in root.__subclasses__():
        below = list(_leaves(problem))
        yield from below or [problem]


def metric_rows() -> Iterator[tuple[str, ...]]:
    yield "metric", "type", "labels", "what"
    for row in metrics.ROWS:
        yield f"`{row.name}`", row.kind, ", ".join(f"`{label}`" for label in row.labels), row.help


def parameter_rows() -> Iterator[tuple[str, ...]]:
    yield "parameter", "where", "what"
    for name, parameter in parameters.PARAMETERS.items():
        where = {None: "both", True: "addresses", False: "uploads"}[parameter.addressed]
        yield f"`{name}`", where, parameter.schema["description"]


def command_rows() -> Iterator[tuple[str, ...]]:
    yield "command", "what"
    for name, command in sorted(main.commands.items()):
        yield f"`falconimg {name}`", (command.help or "").partition("\n")[0]


def option_rows() -> Iterator[tuple[str, ...]]:
    yield "command", "option", "what"
    for name, command in sorted(main.commands.items()):
        for option in command.params:
            if isinstance(option, click.Option) and (record := option.get_help_record(click.Context(command))):
                yield f"`{name}`", f"`{record[0]}`", " ".join(record[1].split())


TABLES: dict[str, Callable[[], Iterator[tuple[str, ...]]]] = {
    "operations": operation_rows,
    "formats": format_rows,
    "settings": setting_rows,
    "problems": problem_rows,
    "metrics": metric_rows,
    "parameters": parameter_rows,
    "commands": command_rows,
    "options": option_rows,
}


def table(name: str) -> str:
    """One of TABLES in Markdown."""
    head, *rows = TABLES[name]()
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def pages() -> list[Path]:
    """Those that may have tables."""
    return [README, *sorted(ROOT.glob("docs/*.md"))]


def written(text: str) -> str:
    """A page's text with each of its tables as the code has it."""
    for name in TABLES:
        head, found, rest = text.partition(f"<!-- table: {name} -->\n")
        if found:
            text = f"{head}{found}{table(name)}\n{END}{rest.partition(END)[2]}"
    return text


if __name__ == "__main__":
    for page in pages():
        page.write_text(written(page.read_text()))
