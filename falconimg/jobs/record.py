"""What the ledger keeps, as Python has it; without SQLAlchemy, a third of what a server would load without jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

State = Literal["queued", "running", "done", "partial", "failed", "cancelled"]
OPEN = ("queued", "running")
ENDS = ("done", "failed", "skipped", "cancelled")
"""What an item may come to; a job has a count of each."""
PRIORITIES = {"low": 0, "normal": 1, "high": 2}


class Item(NamedTuple):
    """One image of a job that is about to be on record; the fields are columns of the ledger's `item`."""

    place: int
    image: Mapping[str, Any]
    below: str
    key: str  # the input's canonical name
    identity: str | None
    outputs: Sequence[str]  # canonical names, as far as they are known


class Claim(NamedTuple):
    """One item that is this process's until its lease ends, and all that it takes to make it."""

    job: str
    number: int
    fence: int
    attempts: int
    place: int
    document: Mapping[str, Any]
    image: Mapping[str, Any]
    below: str
    identity: str | None
    hashes: Mapping[str, str]
    names: frozenset[str]  # digests of its outputs' names, as far as they were on record by then
    lease: float

    @property
    def key(self) -> tuple[str, int, int]:
        """What no other claim has."""
        return self.job, self.number, self.fence


class Turn(NamedTuple):
    """Who wants items: how many at most, for how many seconds, and whether it makes none now."""

    most: int
    seconds: float
    idle: bool


class Publication(NamedTuple):
    """What is going to be published of a claimed item."""

    claim: Claim
    hashes: Mapping[str, str]  # SHA-256 by the path that the report has
    names: Mapping[str, str]  # the store's canonical name by that path


class End(NamedTuple):
    """What a claimed item has come to."""

    claim: Claim
    state: str
    outcome: Mapping[str, Any]


Wish = Turn | Publication | End
"""What a process may want of the ledger, several at once."""


class Message(NamedTuple):
    """Events of a job on their way to its webhook, which had failed so many times before."""

    job: str
    url: str
    tries: int
    events: Sequence[Mapping[str, Any]]
