"""A job's document becomes what is on record of it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from falconimg import request
from falconimg.errors import ImageProblem
from falconimg.jobs import webhooks
from falconimg.jobs.record import PRIORITIES, Item
from falconimg.settings import Settings
from falconimg.stores import Store

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
    for image in job.images:
        place = int(image.pointer.rpartition("/")[2])
        document = {**value["images"][place], "input": image.input}
        identity = _identity(image.input, settings, store)
        items.append(Item(place, document, image.below, identity, outputs.get(image.index, ())))
    shared = {name: each for name, each in value.items() if name not in OURS}
    return ledger.submit(shared, items, digest, key, PRIORITIES[value.get("priority", "normal")], webhook)


def identity(version: str) -> str:
    """A version of an input as it is on record, however long an ETag is."""
    return version if len(version) <= 64 else hashlib.sha256(version.encode()).hexdigest()


def retry(id_: str, settings: Settings, store: Store, ledger: Ledger) -> dict[str, Any]:
    """Have the failed images of a job made again, of their inputs as they are now.

    Raises: UnknownJob, JobConflict, InvalidRequest and Forbidden
    """
    shared, failed = ledger.document(id_), ledger.failed(id_)
    names = {
        number: request.single(image, shared, number, below, settings, store)[1] for number, image, below in failed
    }
    identities = {number: _identity(image["input"], settings, store) for number, image, _ in failed}
    return ledger.retry(id_, names, identities)


def _identity(path: str, settings: Settings, store: Store) -> str | None:
    try:
        return identity(store.version(path, settings.max_file))
    except ImageProblem:
        return None  # said in its turn
