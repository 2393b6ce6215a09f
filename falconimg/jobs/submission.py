"""A job's document becomes what is on record of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from falconimg import request
from falconimg.errors import Busy, ImageProblem, Unreadable
from falconimg.jobs import webhooks
from falconimg.jobs.record import PRIORITIES, Item
from falconimg.settings import Settings
from falconimg.stores import Store
from falconimg.stores.objects import at_once
from falconimg.stores.paths import ADDRESS

if TYPE_CHECKING:
    from falconimg.jobs.ledger import Ledger

OURS = ("images", "glob", *request.OF_JOBS)
"""Keys of a job's document that a single image's is without."""


def submit(
    value: Any, settings: Settings, store: Store, ledger: Ledger, size: int = 0, key: str | None = None
) -> tuple[str, bool]:
    """Put the job of this document on record; its id, and whether it is new.

    Raises:
        InvalidRequest, Forbidden: with the places that are wrong
        WrongKey, JobConflict, LedgerProblem: as Ledger.submit
        Busy: a store of objects does not answer
    """
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    if key and (known := ledger.known(key, digest)):  # whatever has become of its files since
        return known, False
    job, names = request.submitted(value, settings, store, size)
    webhook = value.get("webhook")
    if webhook is not None:
        webhooks.check(webhook, settings)
    outputs: dict[int, list[str]] = {}
    for name, index in names.items():
        outputs.setdefault(index, []).append(name)
    items = []
    identities = _identities([image.input for image in job.images], settings, store)
    for image, identity_ in zip(job.images, identities, strict=True):
        place = int(image.pointer.rpartition("/")[2])
        document = {**value["images"][place], "input": image.input}
        items.append(Item(place, document, image.below, image.key, identity_, outputs.get(image.index, ())))
    shared = {name: each for name, each in value.items() if name not in OURS}
    return ledger.submit(shared, items, digest, key, PRIORITIES[value.get("priority", "normal")], webhook)


def identity(version: str) -> str:
    """A version of an input as it is on record, however long an ETag is."""
    return version if len(version) <= 64 else hashlib.sha256(version.encode()).hexdigest()


def retry(id_: str, settings: Settings, store: Store, ledger: Ledger) -> dict[str, Any]:
    """Have the failed images of a job made again, of their inputs as they are now.

    Raises: UnknownJob, JobConflict, InvalidRequest, Forbidden and Busy
    """
    shared, failed = ledger.document(id_), ledger.failed(id_)
    names = {
        number: request.single(image, shared, number, below, settings, store)[1] for number, image, below in failed
    }
    identities = _identities([image["input"] for _, image, _ in failed], settings, store)
    return ledger.retry(id_, names, dict(zip(names, identities, strict=True)))


def _identities(paths: Sequence[str], settings: Settings, store: Store) -> list[str | None]:
    look = partial(_identity, settings=settings, store=store)
    return at_once(look, paths) if any(map(ADDRESS.match, paths)) else [look(path) for path in paths]


def _identity(path: str, settings: Settings, store: Store) -> str | None:
    try:
        return identity(store.version(path, settings.max_file))
    except ImageProblem as problem:
        if isinstance(problem, Unreadable) and ADDRESS.match(path):
            # without its version nobody would see that it changes; and the others of its store would be waited for too
            raise Busy(problem.detail) from None
        return None  # said in its turn
