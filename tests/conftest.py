"""What the tests of requests, routes and the pipeline share: a server on a directory of its own, and pictures."""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import falcon.testing
import numpy as np
import pytest

from falconimg.app import create_app
from falconimg.settings import Settings
from falconimg.stores import Store
from falconimg.stores.memory import Memory

os.environ.setdefault("FALCONIMG_JOBS", "off")  # the servers of tests have none, unless they are of jobs

EXTRA = ("servers", "browser")  # markers of the tests that need what pip alone does not install
LEFT_OUT = pytest.StashKey[Counter[str]]()  # how many of each were not chosen

Array = Any  # (h, w, c), uint8 or uint16
Result = falcon.testing.Result


def noise(height: int, width: int, channels: int = 3, seed: int = 0, dtype: type = np.uint8) -> Array:
    """A picture like no other: (height, width, channels) of every value that the type has."""
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)


def encoded(array: Array, extension: str = ".png") -> bytes:
    """The picture's file, by OpenCV."""
    fine, data = cv2.imencode(extension, array)
    assert fine
    return data.tobytes()


def decoded(data: bytes) -> Array:
    """The file's picture as it is stored, (h, w, c)."""
    array: Array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return array if array.ndim == 3 else array[:, :, np.newaxis]


def quadrants(array: Array) -> list[Array]:
    """Left-top, right-top, left-bottom, right-bottom, cut at side // 2."""
    y, x = array.shape[0] // 2, array.shape[1] // 2
    return [array[:y, :x], array[:y, x:], array[y:, :x], array[y:, x:]]


class Server:
    """An application with a client, on the files below a directory or on a store that is given."""

    def __init__(self, root: Path, store: Store | None = None, **settings: Any) -> None:
        self.root, self.store = root, store
        self.app = create_app(Settings(root=root, **settings), store)
        self.pipeline = self.app.pipeline
        self.client = falcon.testing.TestClient(self.app, headers={"Host": "localhost"})

    def put(self, path: str, array: Array | None = None, data: bytes | None = None) -> Array:
        """Set a file: these bytes, or the picture in the format of its extension."""
        content = encoded(array, Path(path).suffix) if data is None else data
        if isinstance(self.store, Memory):
            self.store.put(path, content)
        else:
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(content)
        return array

    def tree(self) -> dict[str, bytes]:
        """All that is there: bytes by path; a directory ends in a slash and has none."""
        if isinstance(self.store, Memory):
            return self.store.files
        found = sorted(self.root.rglob("*"))
        return {
            f"{path.relative_to(self.root)}{'/' * path.is_dir()}": b"" if path.is_dir() else path.read_bytes()
            for path in found
        }

    def picture(self, path: str) -> Array:
        """The pixels of a file."""
        return decoded(self.tree()[path])

    def post(self, route: str, document: object, **more: Any) -> Result:
        """POST a document, or a text or bytes as they are."""
        body = document if isinstance(document, (str, bytes)) else json.dumps(document)
        headers = {"Content-Type": "application/json", **more.pop("headers", {})}
        return self.client.simulate_post(route, body=body, headers=headers, **more)

    def process(self, images: object, **more: object) -> Result:
        """POST /v1/process of these images, with more keys of the request."""
        return self.post("/v1/process", {"images": images, **more})


class Serve:
    """Makes servers on one directory, and ends their threads when the test is over."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.servers: list[Server] = []

    def __call__(self, store: Store | None = None, **settings: Any) -> Server:
        """A server with these settings; small pools and no syncing unless they say otherwise."""
        server = Server(self.root, store, **{"fsync": False, "pool": 2, "jobs": False, **settings})
        self.servers.append(server)
        return server


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--long`: as often and as long as docs/safety.md's figures say, instead of the quick form."""
    parser.addoption("--long", action="store_true", help="runs of safety in full length")


@contextmanager
def locked(path: Path, how: int) -> Iterator[None]:
    """Hold a file's lock."""
    with path.open() as file:
        fcntl.flock(file, how)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # also where a child has it still


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that are marked `alone` come first: one after the other, they wait for few others, and few for them.

    Those of the page are short beside those that need servers, and fill what these leave at the end.
    """
    items.sort(key=lambda item: (item.get_closest_marker("alone") is None, "browser" in item.keywords))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test that is marked `alone` waits for those that other processes run from this checkout, and they for it."""
    how = fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH
    here = Path(__file__)
    with ExitStack() as stack:
        with locked(here.with_name("__init__.py"), how):  # a queue: who waits for all others lets nobody past
            stack.enter_context(locked(here, how))
        return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Nothing is left out yet."""
    config.stash[LEFT_OUT] = Counter()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count those that were left out for their marker; what -k leaves out, somebody has asked for."""
    for item in items:
        if not item.config.option.keyword:
            item.config.stash[LEFT_OUT].update([name for name in EXTRA if item.get_closest_marker(name)][:1])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that xdist's are of; each of them has seen all tests."""
    counts = session.config.stash[LEFT_OUT]
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(counts)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hear that, unless the process has crashed."""
    node.config.stash[LEFT_OUT] |= Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name what was left out, what it needs, by the markers' own words, and how to run it."""
    if left := config.stash[LEFT_OUT]:
        needs = dict(marker.split(": needs ") for marker in config.getini("markers") if ": needs " in marker)
        said = "; ".join(f"{left[name]} tests marked {name} ({needs[name].partition(';')[0]})" for name in left)
        terminalreporter.write_line(f"left out: {said}: pytest -m '{' or '.join(left)}'")


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether the runs are to have their full length."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """A function that makes servers."""
    root = tmp_path / "root"
    root.mkdir()
    maker = Serve(root)
    yield maker
    for server in maker.servers:
        server.pipeline.threads.close()


@pytest.fixture
def server(serve: Serve) -> Server:
    """A server with the usual settings."""
    return serve()
