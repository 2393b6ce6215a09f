"""README's tables, made of the code's: `python -m tests.tables` writes them, tests/test_docs.py holds them equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from falconimg import formats, operations, settings
from falconimg.errors import ImageProblem, Problem, RequestProblem

README = Path(__file__).parent.parent / "README.md"


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
    for name, row in settings.rows():
        yield f"`{name}`", row.default, row.allowed, row.help


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


TABLES: dict[str, Callable[[], Iterator[tuple[str, ...]]]] = {
    "operations": operation_rows,
    "formats": format_rows,
    "settings": setting_rows,
    "problems": problem_rows,
}


def table(name: str) -> str:
    """One of TABLES in Markdown."""
    head, *rows = TABLES[name]()
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def written(text: str) -> str:
    """README's text with every table as the code has it."""
    for name in TABLES:
        begin, end = f"<!-- table: {name} -->\n", "<!-- end of table -->"
        head, found, rest = text.partition(begin)
        assert found, f"README has no place for the table of {name}"
        text = f"{head}{begin}{table(name)}\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
