"""One claimed image: made by the same pipeline as everything else, reported by whoever still holds it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from falconimg import answers, log, request
from falconimg.errors import (
    Busy,
    Changed,
    Conflict,
    Exists,
    Forbidden,
    InvalidRequest,
    JobConflict,
    LedgerProblem,
    Lost,
    Stopping,
)
from falconimg.job import Fault, IfExists, Outcome
from falconimg.jobs.record import Claim, End
from falconimg.jobs.submission import identity
from falconimg.pipeline import Pipeline
from falconimg.stores import File, Store
from falconimg.stores.globs import Found, Looks
from falconimg.stores.paths import shown

if TYPE_CHECKING:
    from falconimg.jobs.ledger import Ledger


def run_claimed(claim: Claim, pipeline: Pipeline, ledger: Ledger) -> bool:
    """Make the image and report it; False if another has it by now, and then nothing was reported.

    Raises:
        LedgerProblem: the ledger does not answer
    """
    end = made(claim, pipeline, ledger)
    return end is None or ledger.end(*end)


def made(claim: Claim, pipeline: Pipeline, ledger: Ledger, lease: Callable[[], float] = lambda: 0.0) -> End | None:
    """Make the image: what it has come to, which is to be put on record; `lease` says until when it is known as held.

    Nothing for one that found no memory in time, or was not begun because the process stops: it is given back, and
    that was no attempt. So is one whose ledger does not answer in between.

    Raises:
        LedgerProblem: it does not
    """
    log.about.set({"job": claim.job, "index": claim.number})
    store = Fenced(pipeline.store, claim, ledger, lease)
    outcome: Outcome | None
    try:
        job, _ = request.single(claim.image, claim.document, claim.number, claim.below, pipeline.settings, store)
    except (InvalidRequest, Forbidden) as problem:  # it was valid; the settings or the disk are others now
        detail = problem.places[0].detail if problem.places else problem.detail
        fault = Fault(problem.type, problem.title, detail)
        outcome = Outcome(claim.number, claim.image["input"], "failed", 0.0, error=fault)
    else:
        try:
            outcome = pipeline.run(job, store).images[0]
        except Busy:
            outcome = None
        if store.trouble:
            with suppress(LedgerProblem):  # else its lease ends
                ledger.give_back([claim])
            raise store.trouble
        if outcome is None or (outcome.error and outcome.error.type == Stopping.type):
            ledger.give_back([claim])
            return None
    return End(claim, outcome.status, _answer(outcome, claim, store))


def _answer(outcome: Outcome, claim: Claim, store: Fenced) -> dict[str, Any]:
    """The image's part of the report, with the places of the request that the job came with, and SHA-256s."""
    notes = tuple(
        note._replace(pointer=f"/images/{claim.place}" + note.pointer.removeprefix("/images/0"))
        if note.pointer.startswith("/images/0")
        else note
        for note in outcome.notes
    )
    outputs = tuple(replace(output, sha256=store.hashes.get(output.path)) for output in outcome.outputs)
    return answers.image(replace(outcome, notes=notes, outputs=outputs))


class Fenced:
    """The store of one claimed image: the file that was submitted is read, and only who holds the claim publishes.

    A result of an earlier execution that was cut off is known by the SHA-256 that was recorded before it was
    published: where another's file would be in the way, it is not.
    """

    def __init__(self, store: Store, claim: Claim, ledger: Ledger, lease: Callable[[], float]) -> None:
        self._store, self._claim, self._ledger, self._lease = store, claim, ledger, lease
        self.hashes: dict[str, str] = {}  # of what was made, by path
        self.trouble: LedgerProblem | None = None  # why it was not known whether the claim still holds
        self.check_input, self.below_root, self.check_output = store.check_input, store.below_root, store.check_output

    def find(self, pattern: str, most: int, looks: Looks) -> list[Found]:
        """See Store."""
        return self._store.find(pattern, most, looks)

    def size(self, path: str, limit: int) -> int:
        """See Store."""
        return self._store.size(path, limit)

    def version(self, path: str, limit: int) -> str:
        """See Store."""
        return self._store.version(path, limit)

    def digest(self, path: str) -> str | None:
        """See Store."""
        return self._store.digest(path)

    def read(self, path: str, limit: int) -> bytes:
        """See Store; raises Changed if it is not the file that was there at submission."""
        data = self._store.read(path, limit)
        # after the reading: who changes it meanwhile is found out as well
        if self._claim.identity is not None and identity(self._store.version(path, limit)) != self._claim.identity:
            raise Changed(f"{shown(path)}: expected the file that was there when the job was submitted, came another")
        return data

    def exists(self, path: str) -> bool:
        """See Store; a result of this image's is no other's."""
        return self._store.exists(path) and not self._is_ours(path)

    def publish(self, files: Sequence[File], if_exists: IfExists) -> tuple[str, ...]:
        """See Store.

        Raises:
            Lost: another has the image by now, or the ledger does not answer; nothing was published
            Conflict: an open job has one of the names
        """
        self.hashes = {file.path: hashlib.sha256(file.data).hexdigest() for file in files}
        names = {file.path: self._store.check_output(file.path) for file in files}
        ours = {file.path for file in files if self._is_ours(file.path)}
        known = {} if if_exists == "overwrite" else self.hashes  # what is there is in nobody's way
        try:
            held = self._ledger.about_to_publish(self._claim, known, names, self._lease())
        except JobConflict as problem:
            raise Conflict(problem.detail) from None
        except LedgerProblem as problem:
            self.trouble = problem
            raise Lost("the record of jobs did not answer") from None
        if not held:
            raise Lost("its lease was over, and another worker has it by now")
        try:
            left = self._store.publish([file for file in files if file.path not in ours], if_exists)
        except Exists as problem:
            problem.written = (*problem.written, *ours)
            raise
        self._store.publish([file for file in files if file.path in ours], "overwrite")
        return left

    def _is_ours(self, path: str) -> bool:
        recorded = self._claim.hashes.get(path)
        return recorded is not None and self._store.digest(path) == recorded

    def faults(self) -> list[str]:
        """See Store."""
        return self._store.faults()

    def sweep(self) -> int:
        """See Store."""
        return 0
