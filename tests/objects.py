"""Buckets of real servers, for the tests of stores; each call gives a prefix of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from falconimg.stores import objects
from falconimg.stores.objects import Objects
from tests import services

BUCKET = "pictures"


def made(service: services.Service) -> Callable[..., Objects]:
    """Makes stores in a new bucket of that server."""
    numbers = itertools.count()
    settings = {name.removeprefix("AWS_").lower(): value for name, value in services.s3(service).items()}
    settings["endpoint"] = settings.pop("endpoint_url")
    services.make_bucket(service, BUCKET)

    def make(bucket: str = BUCKET) -> Objects:
        base = f"s3://{bucket}/{next(numbers)}/"
        return Objects(base, partial(objects.bucket, base, settings))

    return make


@pytest.fixture(scope="session")
def in_moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Objects]]:
    """Stores in moto."""
    with services.moto(tmp_path_factory.mktemp("moto")) as service:
        yield made(service)


@pytest.fixture(scope="session")
def in_seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Objects]]:
    """Stores in SeaweedFS."""
    with services.seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as service:
        yield made(service)
