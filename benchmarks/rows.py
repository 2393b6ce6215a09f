"""What the benchmarks say: rows of figures, each with what is claimed of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Claim:
    """A ratio and its bound."""

    ratio: float
    bound: float
    least: bool
    """Whether the ratio is to be at least its bound, and not at most."""

    @property
    def met(self) -> bool:
        """Whether it is kept."""
        return self.ratio >= self.bound if self.least else self.ratio <= self.bound

    def __str__(self) -> str:
        sign = "≥" if self.least else "≤"
        return f"{self.ratio:.2f} ({sign} {self.bound:g}){'' if self.met else ' ✗'}"


def least(ratio: float, bound: float) -> Claim:
    """A ratio that should be this at least."""
    return Claim(ratio, bound, least=True)


def most(ratio: float, bound: float) -> Claim:
    """A ratio that should be this at most."""
    return Claim(ratio, bound, least=False)


@dataclass(frozen=True)
class Row:
    """One row of a target's table.

    `bars` are what the plot shows of it, falconimg's first, which is to be at most `goal`.
    """

    target: str
    group: str
    name: str
    figures: Mapping[str, float] = field(default_factory=dict)
    claims: Mapping[str, Claim] = field(default_factory=dict)
    bars: Mapping[str, float] = field(default_factory=dict)
    goal: float = 0.0

    def document(self) -> dict[str, Any]:
        """For JSON."""
        claims = {
            name: {"ratio": claim.ratio, "bound": claim.bound, "least": claim.least, "met": claim.met}
            for name, claim in self.claims.items()
        }
        return {
            "target": self.target, "group": self.group, "name": self.name,
            "figures": dict(self.figures), "claims": claims, "bars": dict(self.bars), "goal": self.goal,
        }  # fmt: skip

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Row:
        """From JSON."""
        claims = {
            name: Claim(claim["ratio"], claim["bound"], claim["least"]) for name, claim in document["claims"].items()
        }
        return cls(**{**document, "claims": claims})
