"""The rows as text."""

from __future__ import annotations

from benchmarks.rows import Row


def line(row: Row) -> str:
    """A row for the terminal."""
    figures = "".join(f"  {name} {value:.1f}" for name, value in row.figures.items())
    claims = "".join(f"  {name} {claim}" for name, claim in row.claims.items())
    return f"{row.target} {row.group:18} {row.name:27}{figures}{claims}"
