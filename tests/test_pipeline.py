"""Whole batches: what is written, what is reported, and what one image's fault does to its neighbours."""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageCms

from falconimg import formats, pipeline
from falconimg.budget import Budget
from falconimg.errors import NotWritten
from falconimg.job import IfExists, Job
from falconimg.request import process as parsed
from falconimg.settings import Settings
from falconimg.stores.memory import Memory
from tests.conftest import Array, Result, Serve, Server, decoded, encoded, noise, quadrants

SECONDS = 20  # what a test waits for at most before it fails


def image(name: str, **more: object) -> dict[str, object]:
    return {"input": f"in/{name}.png", "output": f"out/{name}.png", **more}


def outcomes(result: Result) -> list[dict[str, Any]]:
    images: list[dict[str, Any]] = result.json["images"]
    return images


def statuses(result: Result) -> list[str]:
    return [outcome["status"] for outcome in outcomes(result)]


def errors(result: Result) -> list[str | None]:
    """The type of each image's error, without its beginning."""
    found = [outcome.get("error", {}).get("type") for outcome in outcomes(result)]
    return [type_ and type_.removeprefix("/problems/") for type_ in found]


def paths(outcome: dict[str, Any]) -> list[str]:
    return [output["path"] for output in outcome["outputs"]]


def until(condition: Callable[[], object]) -> None:
    """Wait for it, and fail if it does not come."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.001)


class Decoding:
    """Stands for formats.load: counts, and does something before each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, before: Callable[[], object] = lambda: None) -> None:
        self.count = 0
        real = formats.load
        lock = threading.Lock()

        def load(data: bytes, header: formats.Header, how: formats.Load) -> Any:
            with lock:
                self.count += 1
            before()
            return real(data, header, how)

        monkeypatch.setattr(formats, "load", load)


@pytest.fixture
def pictures() -> dict[str, Array]:
    """Three pictures of odd and even sides."""
    return {"a": noise(6, 8, seed=1), "b": noise(7, 9, seed=2), "c": noise(5, 4, seed=3)}


@pytest.fixture
def filled(serve: Serve, pictures: dict[str, Array]) -> Callable[..., Server]:
    """Makes servers whose in/ holds the three pictures."""

    def make(**settings: Any) -> Server:
        server = serve(**settings)
        for name, array in pictures.items():
            server.put(f"in/{name}.png", array)
        return server

    return make


# The report


def test_the_report_has_every_image_in_the_requests_order_with_all_fields(
    filled: Callable[..., Server], pictures: dict[str, Array]
) -> None:
    server = filled()
    result = server.process([image("b"), image("none"), image("a", output="out/a.bmp")], operations=["split", "blur=1"])
    assert result.status_code == 207
    report = result.json
    assert list(report) == ["status", "done", "failed", "skipped", "ms", "images"]
    assert (report["status"], report["done"], report["failed"], report["skipped"]) == ("partial", 2, 1, 0)
    assert report["ms"] >= max(outcome.pop("ms") for outcome in report["images"]) >= 0
    tree = server.tree()
    expected = []
    for name, extension, form in (("b", "png", "png"), ("a", "bmp", "bmp")):
        outputs = []
        for number, part in enumerate(quadrants(pictures[name]), 1):
            path = f"out/{name}_{number}.{extension}"
            assert np.array_equal(server.picture(path), part)
            outputs.append(
                {
                    "path": path,
                    "width": part.shape[1],
                    "height": part.shape[0],
                    "format": form,
                    "bytes": len(tree[path]),
                }
            )
        expected.append({"input": f"in/{name}.png", "status": "done", "outputs": outputs})
    error = {
        "type": "/problems/missing",
        "title": "The image does not exist",
        "detail": "'in/none.png': there is no such file",
    }
    failed = {"input": "in/none.png", "status": "failed", "outputs": [], "error": error}
    assert report["images"] == [expected[0], failed, expected[1]]


@pytest.mark.parametrize(
    ("names", "code", "status"),
    [
        (["a", "b"], 200, "done"),
        (["a", "none"], 207, "partial"),
        (["none", "nor"], 422, "failed"),
        (["none"], 422, "failed"),
    ],
)
def test_the_status_says_whether_none_some_or_all_failed(
    names: list[str], code: int, status: str, filled: Callable[..., Server]
) -> None:
    result = filled().process([image(name) for name in names])
    assert (result.status_code, result.json["status"]) == (code, status)
    assert result.headers["Content-Type"] == "application/json"


def test_skipped_and_failed_images_make_a_part_and_skipped_ones_alone_are_fine(filled: Callable[..., Server]) -> None:
    server = filled()
    server.put("out/a.png", data=b"old")
    some = server.process([image("a"), image("none")], if_exists="skip")
    none = server.process([image("a")], if_exists="skip")
    assert (some.status_code, statuses(some)) == (207, ["skipped", "failed"])
    assert (none.status_code, statuses(none)) == (200, ["skipped"])


# One image's fault


def damaged(extension: str) -> bytes:
    data = encoded(noise(10, 10), extension)
    return data[: len(data) - 40]


@pytest.mark.parametrize(
    ("data", "type_"),
    [
        (damaged(".png"), "damaged"),
        (damaged(".jpg"), "damaged"),
        (damaged(".webp"), "damaged"),
        (b"", "damaged"),
        (b"GIF89", "unsupported"),
        (b"no picture at all", "unsupported"),
        (encoded(noise(11, 10)), "too-large"),
        (encoded(noise(2, 51)), "too-large"),
        (encoded(noise(1, 1)) + b"\0" * 100_000, "too-large"),
    ],
)
def test_an_image_that_cannot_be_read_fails_alone(
    data: bytes, type_: str, filled: Callable[..., Server], pictures: dict[str, Array]
) -> None:
    server = filled(max_pixels=100, max_side=50, max_file=50_000)
    server.put("in/bad.png", data=data)
    before = set(server.tree())
    result = server.process([image("a"), image("bad"), image("b"), image("bad", output="out/d.png"), image("c")])
    assert result.status_code == 207
    assert errors(result) == [None, type_, None, type_, None]
    assert set(server.tree()) - before == {"out/", *(f"out/{name}.png" for name in "abc")}
    for name, array in pictures.items():
        assert np.array_equal(server.picture(f"out/{name}.png"), array)


def test_what_is_no_file_fails_alone(filled: Callable[..., Server], pictures: dict[str, Array]) -> None:
    server = filled()
    (server.root / "in" / "directory.png").mkdir()
    os.mkfifo(server.root / "in" / "fifo.png")
    result = server.process([image("directory"), image("fifo"), image("none"), image("a")])
    assert errors(result) == ["unreadable", "unreadable", "missing", None]
    assert np.array_equal(decoded((server.root / "out" / "a.png").read_bytes()), pictures["a"])


def test_a_result_that_cannot_be_written_fails_alone_and_leaves_nothing(filled: Callable[..., Server]) -> None:
    server = filled()
    server.put("out/file", data=b"old")
    (server.root / "out" / "b.png").mkdir()
    before = server.tree()
    images = [image("a", output="out/file/a.png"), image("b"), image("c", output="out/new/c.png")]
    result = server.process(images)
    assert errors(result) == ["write", "write", None]
    assert sorted(set(server.tree()) - set(before)) == ["out/new/", "out/new/c.png"]
    assert server.tree()["out/file"] == b"old"
    assert str(server.root) not in result.text


class Failing(Memory):
    """A disk that is full after the first result of in/a.png."""

    def publish(self, files: Any, if_exists: IfExists) -> tuple[str, ...]:
        if len(files) > 1:
            super().publish(files[:1], if_exists)
            raise NotWritten("no space left", [files[0].path])
        return super().publish(files, if_exists)


def test_the_report_lists_exactly_what_was_written_before_a_write_failed(serve: Serve) -> None:
    server = serve(Failing({"in/a.png": encoded(noise(6, 8))}))
    outcome = outcomes(server.process([image("a")], operations=["split"]))[0]
    assert (outcome["status"], paths(outcome), outcome["error"]["type"]) == (
        "failed",
        ["out/a_1.png"],
        "/problems/write",
    )
    assert sorted(server.tree()) == ["in/a.png", "out/a_1.png"]


@pytest.mark.parametrize(("fault", "type_"), [(MemoryError(), "memory"), (RuntimeError("secret"), "internal")])
def test_a_fault_while_decoding_fails_that_image_alone(
    fault: Exception, type_: str, filled: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = formats.load

    def load(data: bytes, header: formats.Header, how: formats.Load) -> Any:
        if header.width == 8:
            raise fault
        return real(data, header, how)

    monkeypatch.setattr(formats, "load", load)
    server = filled()
    result = server.process([image("a"), image("b")])
    assert errors(result) == [type_, None]
    assert "secret" not in result.text
    assert "out/a.png" not in server.tree()
    assert server.pipeline.budget.free == server.pipeline.budget.size


@pytest.mark.parametrize(("fault", "type_"), [(MemoryError(), "memory"), (RuntimeError("secret"), "internal")])
def test_a_fault_while_publishing_leaves_no_output_in_the_report(
    fault: Exception, type_: str, serve: Serve, pictures: dict[str, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Memory({"in/a.png": encoded(pictures["a"])})
    server = serve(store)

    def publish(*_: object) -> None:
        raise fault

    monkeypatch.setattr(store, "publish", publish)
    outcome = outcomes(server.process([image("a")], operations=["split"]))[0]
    assert (outcome["error"]["type"], outcome["outputs"]) == (f"/problems/{type_}", [])


class Short(Memory):
    """A machine that has no memory for in/a.png."""

    def read(self, path: str, limit: int) -> bytes:
        if path == "in/a.png":
            raise MemoryError
        return super().read(path, limit)


def test_a_file_that_memory_does_not_suffice_for_fails_alone(serve: Serve) -> None:
    server = serve(Short({"in/a.png": b"", "in/b.png": encoded(noise(6, 8))}))
    assert errors(server.process([image("a"), image("b")])) == ["memory", None]


# Results that exist


def test_by_default_a_result_is_overwritten(filled: Callable[..., Server], pictures: dict[str, Array]) -> None:
    server = filled()
    server.put("out/a.png", data=b"old")
    result = server.process([image("a")])
    assert statuses(result) == ["done"]
    assert np.array_equal(server.picture("out/a.png"), pictures["a"])


def test_notes_come_in_the_requests_order_whichever_result_is_made_first(server: Server) -> None:
    server.put("in/a.png", noise(64, 64, dtype=np.uint16))
    renditions = [{"output": f"out/{n}.jpg", "operations": [f"resize={n}x"]} for n in (10, 60, 20, 50)]
    outcome = outcomes(server.process([{"input": "in/a.png", "renditions": renditions}]))[0]
    assert [note["pointer"] for note in outcome["notes"]] == [f"/images/0/renditions/{n}/output" for n in range(4)]


def test_if_exists_skip_leaves_what_is_there_and_makes_only_the_rest(
    filled: Callable[..., Server], pictures: dict[str, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, made, real = filled(), [], formats.encode

    def encode(form: formats.Format, *rest: Any) -> formats.Encoded:
        made.append(form)
        return real(form, *rest)

    monkeypatch.setattr(formats, "encode", encode)
    server.put("out/a_2.png", data=b"old")
    server.put("out/a_3.png", data=b"old")
    result = server.process([image("a")], operations=["split"], if_exists="skip")
    outcome = outcomes(result)[0]
    assert (result.status_code, outcome["status"], paths(outcome)) == (200, "done", ["out/a_1.png", "out/a_4.png"])
    assert outcome["notes"] == [
        {"pointer": "/images/0", "detail": f"'out/a_{n}.png' exists and was left as it is"} for n in (2, 3)
    ]
    parts = quadrants(pictures["a"])
    assert (server.tree()["out/a_2.png"], server.tree()["out/a_3.png"]) == (b"old", b"old")
    assert np.array_equal(server.picture("out/a_1.png"), parts[0])
    assert np.array_equal(server.picture("out/a_4.png"), parts[3])
    assert len(made) == 2


def test_if_exists_skip_does_not_decode_an_image_whose_results_are_all_there(
    filled: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, decoding = filled(), Decoding(monkeypatch)
    server.put("out/a.png", data=b"old")
    before = server.tree()
    outcome = outcomes(server.process([image("a")], if_exists="skip"))[0]
    assert (outcome["status"], outcome["outputs"], decoding.count) == ("skipped", [], 0)
    assert server.tree() == before


def test_if_exists_error_fails_an_image_of_which_one_result_is_there(
    filled: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, decoding = filled(), Decoding(monkeypatch)
    server.put("out/a_3.png", data=b"old")
    result = server.process([image("a"), image("b")], operations=["split"], if_exists="error")
    assert (result.status_code, errors(result), decoding.count) == (207, ["exists", None], 1)
    assert "out/a_3.png" in outcomes(result)[0]["error"]["detail"]
    assert [name for name in server.tree() if name.startswith("out/a")] == ["out/a_3.png"]
    assert server.tree()["out/a_3.png"] == b"old"


@pytest.mark.parametrize("if_exists", ["skip", "error"])
def test_a_result_that_appears_meanwhile_is_not_overwritten(
    if_exists: str, filled: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = filled()
    Decoding(monkeypatch, before=lambda: server.put("out/a_1.png", data=b"new"))
    outcome = outcomes(server.process([image("a")], operations=["split"], if_exists=if_exists))[0]
    assert server.tree()["out/a_1.png"] == b"new"
    if if_exists == "skip":
        assert (outcome["status"], paths(outcome)) == ("done", [f"out/a_{n}.png" for n in (2, 3, 4)])
        assert outcome["notes"] == [{"pointer": "/images/0", "detail": "'out/a_1.png' exists and was left as it is"}]
    else:
        assert (outcome["status"], outcome["error"]["type"], outcome["outputs"]) == ("failed", "/problems/exists", [])


# on_error, dry_run, on_invalid


def test_on_error_stop_begins_no_image_after_one_that_failed(filled: Callable[..., Server]) -> None:
    server = filled(pool=1)
    images = [image("a"), image("none"), image("b"), image("c")]
    result = server.process(images, on_error="stop")
    assert (result.status_code, statuses(result)) == (207, ["done", "failed", "skipped", "skipped"])
    for index in (2, 3):
        note = {"pointer": f"/images/{index}", "detail": "not begun: an earlier image failed, and on_error is stop"}
        assert outcomes(result)[index]["notes"] == [note]
    assert [name for name in server.tree() if name.startswith("out/")] == ["out/", "out/a.png"]
    assert statuses(server.process(images)) == ["done", "failed", "done", "done"]


def test_on_error_stop_minds_a_failure_that_is_not_the_last_to_end(filled: Callable[..., Server]) -> None:
    server = filled(pool=2)
    images = [image("none"), image("a"), image("b"), image("c")]
    done = statuses(server.process(images, on_error="stop"))
    assert (done[0], done[3]) == ("failed", "skipped")  # the two between may have begun by then
    assert set(done[1:3]) <= {"done", "skipped"}


def test_a_dry_run_writes_nothing_and_reports_what_a_real_run_makes(
    filled: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, decoding = filled(), Decoding(monkeypatch)
    renditions = [
        {"output": "out/{stem}_{width}x{height}_{index}.jpg", "operations": ["split=2x3", "resize=1.5"]},
        {"output": "out/new/b.webp", "operations": ["rotate=90", "crop=3x3"]},
        {"output": "out/tiles.png", "operations": ["tile=4"]},
    ]
    images = [image("a", operations=["split"]), {"input": "in/b.png", "renditions": renditions}, image("none")]
    before = server.tree()
    dry = server.process(images, operations=["resize=x20"], dry_run=True)
    assert (server.tree(), decoding.count) == (before, 0)
    real = server.process(images, operations=["resize=x20"])
    assert decoding.count == 2
    assert (dry.status_code, statuses(dry)) == (207, ["skipped", "skipped", "failed"])
    assert (dry.json["done"], dry.json["skipped"], dry.json["failed"]) == (0, 2, 1)
    made = outcomes(real)
    assert [len(outcome["outputs"]) for outcome in made] == [4, 6 + 1 + 35, 0]
    for outcome in made:
        for output in outcome["outputs"]:
            assert server.picture(output["path"]).shape[:2] == (output["height"], output["width"])
            assert output.pop("bytes") == len(server.tree()[output["path"]])
    assert [outcome["outputs"] for outcome in outcomes(dry)] == [outcome["outputs"] for outcome in made]


def test_a_dry_run_of_images_that_are_fine_is_a_200(filled: Callable[..., Server]) -> None:
    result = filled().process([image("a")], dry_run=True)
    assert (result.status_code, result.json["status"], statuses(result)) == (200, "done", ["skipped"])


def test_a_dry_run_tells_what_would_fail(filled: Callable[..., Server]) -> None:
    server = filled(max_pixels=100)
    images = [
        image("a", operations=["resize=2"]),
        image("b", operations=["crop=1x1+50+50"]),
        image("c", operations=["split=6x1"]),
        image("a", output="out/new.png"),
        image("b", output="out/old.png"),
    ]
    server.put("out/old.png", data=b"old")
    result = server.process(images, dry_run=True, if_exists="error")
    assert errors(result) == ["too-large", "operation", "operation", None, "exists"]


def test_on_invalid_skip_leaves_out_what_is_out_of_bounds(
    filled: Callable[..., Server], pictures: dict[str, Array]
) -> None:
    server = filled()
    result = server.process([image("a")], operations=["resize=0.01", "flip=h", "blur=1500"], on_invalid="skip")
    assert statuses(result) == ["done"]
    assert outcomes(result)[0]["notes"] == [
        {"pointer": "/operations/0", "detail": "skipped: resize: expected 0.05 to 100, came 0.01"},
        {"pointer": "/operations/2", "detail": "skipped: blur: expected a whole number from 0 to 1001, came 1500"},
    ]
    assert np.array_equal(server.picture("out/a.png"), pictures["a"][:, ::-1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_a_split_that_leaves_a_part_without_pixels_fails_or_is_skipped(shape: tuple[int, int], server: Server) -> None:
    array = server.put("in/small.png", noise(*shape))
    refused = server.process([image("small")], operations=["split"])
    assert errors(refused) == ["operation"]
    assert "out/" not in server.tree()
    skipped = server.process([image("small")], operations=["split"], on_invalid="skip")
    assert (statuses(skipped), paths(outcomes(skipped)[0])) == (["done"], ["out/small.png"])
    assert outcomes(skipped)[0]["notes"][0]["pointer"] == "/operations/0"
    assert outcomes(skipped)[0]["notes"][0]["detail"].startswith("skipped: split: 2 rows by 2 columns")
    assert np.array_equal(server.picture("out/small.png"), array)
    body = {"images": [image("small", output="out/items.png")], "operations": ["splitQuadrants=True"]}
    assert "Falconimg-Failed" not in server.post("/items/", body).headers
    assert np.array_equal(server.picture("out/items.png"), array)


def test_a_crop_beside_the_picture_fails_though_what_is_invalid_is_skipped(filled: Callable[..., Server]) -> None:
    result = filled().process([image("a")], operations=["crop=1x1+50+50"], on_invalid="skip")
    assert errors(result) == ["operation"]


# Renditions and operations


def test_an_image_with_several_renditions_is_decoded_once(
    filled: Callable[..., Server], pictures: dict[str, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, decoding = filled(), Decoding(monkeypatch)
    renditions = [
        {"output": "out/whole.png"},
        {"output": "out/part.png", "operations": ["split"]},
        {"output": "out/turned.png", "operations": ["rotate=180"]},
    ]
    result = server.process([{"input": "in/b.png", "renditions": renditions}], operations=["flip=v"])
    assert (result.status_code, decoding.count) == (200, 1)
    flipped = pictures["b"][::-1]
    assert np.array_equal(server.picture("out/whole.png"), flipped)
    assert np.array_equal(server.picture("out/turned.png"), pictures["b"][:, ::-1])
    for number, part in enumerate(quadrants(flipped), 1):
        assert np.array_equal(server.picture(f"out/part_{number}.png"), part)
    assert sorted(paths(outcomes(result)[0])) == sorted(
        ["out/whole.png", "out/turned.png", *(f"out/part_{n}.png" for n in (1, 2, 3, 4))]
    )


def test_operations_run_in_the_requests_order(filled: Callable[..., Server], pictures: dict[str, Array]) -> None:
    server = filled()
    images = [image("a", operations=["crop=4x3+0+0", "flip=h"]), image("a", output="out/b.png")]
    server.process(images, operations=["flip=h", "crop=4x3+0+0"])
    assert np.array_equal(server.picture("out/a.png"), pictures["a"][:3, :4][:, ::-1])
    assert np.array_equal(server.picture("out/b.png"), pictures["a"][:, ::-1][:3, :4])


def test_nested_splits_are_numbered_depth_first(filled: Callable[..., Server], pictures: dict[str, Array]) -> None:
    server = filled()
    server.process([image("b")], operations=["split", "splitQuadrants=True"])
    parts = [part for quadrant in quadrants(pictures["b"]) for part in quadrants(quadrant)]
    assert len(parts) == 16
    for number, part in enumerate(parts, 1):
        assert np.array_equal(server.picture(f"out/b_{number}.png"), part)


def test_rows_and_columns_of_a_template_are_those_of_the_last_split(
    filled: Callable[..., Server], pictures: dict[str, Array]
) -> None:
    server = filled()
    server.process([image("b", output="out/{row}/{col}.png")], operations=["split=3x2"])
    array, cuts = pictures["b"], (0, 2, 4, 7)
    for row in range(3):
        for column, (left, right) in enumerate(((0, 4), (4, 9)), 1):
            part = array[cuts[row] : cuts[row + 1], left:right]
            assert np.array_equal(server.picture(f"out/{row + 1}/{column}.png"), part)


def test_a_result_may_replace_its_own_input(filled: Callable[..., Server], pictures: dict[str, Array]) -> None:
    server = filled()
    result = server.process([image("a", output="in/a.png")], operations=["rotate=90"])
    assert statuses(result) == ["done"]
    assert np.array_equal(server.picture("in/a.png"), np.rot90(pictures["a"], -1))


def test_with_precise_resize_and_blur_are_opencvs_to_the_bit(server: Server) -> None:
    array = server.put("in/a.png", noise(61, 83))
    server.process([image("a", operations=["resize=40x30"]), image("a", output="out/b.png")], operations=["blur=7"],
                   precise=True)  # fmt: skip
    assert np.array_equal(server.picture("out/a.png"), cv2.resize(array, (40, 30), interpolation=cv2.INTER_AREA))
    assert np.array_equal(server.picture("out/b.png"), cv2.GaussianBlur(array, (7, 7), 0))


def test_a_kernel_that_is_even_is_noted_and_made_odd(filled: Callable[..., Server], pictures: dict[str, Array]) -> None:
    server = filled()
    result = server.process(
        [image("a", operations=["gray", "blur=4"]), image("b")], operations=["blur=2"], precise=True
    )
    assert [outcome["notes"] for outcome in outcomes(result)] == [
        [{"pointer": "/images/0/operations/1", "detail": "kernel 4 is even, 5 used"}],
        [{"pointer": "/operations/0", "detail": "kernel 2 is even, 3 used"}],
    ]
    assert np.array_equal(server.picture("out/b.png"), cv2.GaussianBlur(pictures["b"], (3, 3), 0))


def test_a_crop_beyond_the_edge_is_noted_where_it_was_asked_for(filled: Callable[..., Server]) -> None:
    result = filled().process([image("a")], operations=["gray", "crop=6x6+5+3"])
    assert outcomes(result)[0]["notes"][0]["pointer"] == "/operations/1"
    assert [(o["width"], o["height"]) for o in outcomes(result)[0]["outputs"]] == [(3, 3)]


# Names that only the picture tells


class Slow(Memory):
    """Reads in/1.png so slowly that the later ones would be ready before it."""

    def read(self, path: str, limit: int) -> bytes:
        if path == "in/1.png":
            time.sleep(0.02)
        return super().read(path, limit)


def test_of_two_images_with_one_name_the_later_one_fails_every_time(serve: Serve) -> None:
    pictures = [noise(4, 9 if n == 0 else 8, seed=n) for n in range(4)]
    files = {f"in/{n}.png": encoded(array) for n, array in enumerate(pictures)}
    images = [{"input": f"in/{n}.png", "output": "out/{width}.png"} for n in range(4)]
    for _ in range(20):
        server = serve(Slow(files), pool=4)
        result = server.process(images)
        assert errors(result) == [None, None, "conflict", "conflict"]
        assert "image 1" in outcomes(result)[3]["error"]["detail"]
        assert np.array_equal(server.picture("out/8.png"), pictures[1])
        assert sorted(server.tree()) == ["in/0.png", "in/1.png", "in/2.png", "in/3.png", "out/8.png", "out/9.png"]


def test_a_name_of_an_image_that_failed_before_it_had_it_is_free(filled: Callable[..., Server]) -> None:
    server = filled()
    result = server.process([image(name, output="out/{height}.png") for name in ("none", "a")])
    assert (errors(result), paths(outcomes(result)[1])) == (["missing", None], ["out/6.png"])


def test_a_result_on_another_images_input_is_seen_in_its_turn(
    filled: Callable[..., Server], pictures: dict[str, Array]
) -> None:
    server = filled()
    server.put("in/8.png", pictures["c"])
    images = [image("b"), image("a", output="in/{width}.png"), {"input": "in/8.png", "output": "out/c.png"}]
    result = server.process(images)
    assert errors(result) == [None, "conflict", None]
    assert np.array_equal(server.picture("in/8.png"), pictures["c"])
    assert np.array_equal(server.picture("out/c.png"), pictures["c"])


def test_two_parts_of_one_image_on_one_name_are_seen_in_its_turn(filled: Callable[..., Server]) -> None:
    server = filled()
    result = server.process([image("a", output="out/{row}.png"), image("b")], operations=["tile=4"])
    assert errors(result) == ["conflict", None]
    assert "out/1.png" not in server.tree()


def test_a_name_that_gets_too_long_in_its_turn_fails_that_image(filled: Callable[..., Server]) -> None:
    server = filled()
    server.put("in/wide.png", noise(1, 600))
    images = [image("wide", output=f"out/{'a' * 249}{{width}}.png"), image("a")]
    result = server.process(images)
    assert errors(result) == ["name", None]
    parts = server.process([image("a", output=f"out/{'a' * 249}.png")], operations=["tile=2"])
    assert errors(parts) == ["name"]
    assert [name for name in server.tree() if name.startswith("out/")] == ["out/", "out/a.png"]


def test_a_name_that_leads_through_a_link_in_its_turn_fails_that_image(filled: Callable[..., Server]) -> None:
    server = filled()
    outside = server.root.parent / "outside"
    outside.mkdir()
    (server.root / "8").symlink_to(outside)
    result = server.process([image("a", output="{width}/a.png"), image("b", output="{width}/b.png")])
    assert errors(result) == ["outside-root", None]
    assert list(outside.iterdir()) == []


# Limits


@pytest.mark.parametrize(
    ("limit", "value", "steps", "detail"),
    [
        ("max_pixels", 47, [], "at most 47 pixels (FALCONIMG_MAX_PIXELS), came 48"),
        ("max_pixels", 190, ["resize=2"], "at most 190 pixels (FALCONIMG_MAX_PIXELS), came 192"),
        ("max_side", 7, [], "at most 7 pixels a side (FALCONIMG_MAX_SIDE), came 8"),
        ("max_side", 15, ["resize=2"], "at most 15 pixels a side (FALCONIMG_MAX_SIDE), came 16"),
        ("max_outputs", 3, ["split"], "at most 3 outputs (FALCONIMG_MAX_OUTPUTS), came 4"),
        ("max_output_pixels", 47, ["split"], "at most 47 pixels in all outputs (FALCONIMG_MAX_OUTPUT_PIXELS), came 48"),
        ("max_file", 60, [], "at most 60 bytes (FALCONIMG_MAX_FILE), came "),
        ("memory", 300, [], "(FALCONIMG_MEMORY), came "),
    ],
)
def test_an_image_beyond_a_limit_fails_and_the_setting_is_named(
    limit: str, value: int, steps: list[str], detail: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {limit: value}
    server, decoding = serve(**settings), Decoding(monkeypatch)
    server.put("in/a.png", noise(6, 8))
    server.put("in/one.png", np.zeros((1, 1, 1), np.uint8))
    before = server.tree()
    result = server.process([image("a", operations=steps)])
    assert (result.status_code, errors(result), decoding.count) == (422, ["too-large"], 0)
    assert detail in outcomes(result)[0]["error"]["detail"]
    assert server.tree() == before


@pytest.mark.parametrize(
    ("limit", "value", "steps"),
    [("max_pixels", 192, ["resize=2"]), ("max_side", 16, ["resize=2"]), ("max_outputs", 4, ["split"]),
     ("max_output_pixels", 192, ["resize=2", "split"])],
)  # fmt: skip
def test_an_image_at_a_limit_is_done(limit: str, value: int, steps: list[str], serve: Serve) -> None:
    settings: dict[str, Any] = {limit: value}
    server = serve(**settings)
    server.put("in/a.png", noise(6, 8))
    assert statuses(server.process([image("a", operations=steps)])) == ["done"]


def test_an_image_that_takes_too_long_fails_at_its_deadline(filled: Callable[..., Server]) -> None:
    server = filled(image_seconds=1e-9)
    result = server.process([image("a"), image("b")], operations=["split"])
    assert errors(result) == ["deadline", "deadline"]
    assert "(FALCONIMG_IMAGE_SECONDS)" in outcomes(result)[0]["error"]["detail"]
    assert "out/" not in server.tree()
    assert server.pipeline.budget.free == server.pipeline.budget.size


def test_the_deadline_is_each_images_own(filled: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = filled(pool=1, image_seconds=5)

    def six_seconds_pass() -> None:
        monkeypatch.setattr("falconimg.pipeline.monotonic", lambda: time.monotonic() + 6)

    Decoding(monkeypatch, six_seconds_pass)
    result = server.process([image("a"), image("b")])
    assert errors(result) == ["deadline", None]


# Stopping


def test_when_the_graceful_time_is_over_images_not_begun_are_stopping(
    filled: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = filled(pool=1, graceful_seconds=1e-9)
    Decoding(monkeypatch, before=server.pipeline.stop)
    result = server.process([image("a"), image("b"), image("c")])
    assert (result.status_code, errors(result)) == (207, [None, "stopping", "stopping"])
    assert [name for name in server.tree() if name.startswith("out/")] == ["out/", "out/a.png"]


def test_within_the_graceful_time_an_accepted_request_goes_on(
    filled: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = filled(pool=1, graceful_seconds=600)
    Decoding(monkeypatch, before=server.pipeline.stop)
    assert statuses(server.process([image("a"), image("b"), image("c")])) == ["done"] * 3


def test_a_second_stop_gives_no_more_time(server: Server) -> None:
    server.pipeline.stop()
    first = server.pipeline.stop_at
    server.pipeline.stop()
    assert server.pipeline.stop_at == first


# The budget


def queued(budget: Budget, count: int) -> bool:
    """Whether so many wait for memory."""
    return len(budget._queue) == count


def scarce(server: Server, monkeypatch: pytest.MonkeyPatch, more: int = 0) -> Budget:
    """The server's budget, of which just enough for one image (the largest, b), and `more`, is left."""
    budget = server.pipeline.budget
    free: list[int] = []
    Decoding(monkeypatch, before=lambda: free.append(budget.free))
    server.process([image("b")])
    budget.ask(free[0] - more)
    return budget


def test_the_budget_is_lent_and_given_back() -> None:
    budget = Budget(100)
    large, _ = budget.ask(60), budget.ask(40)
    late = budget.ask(1)
    assert (large.done(), late.done(), budget.free) == (True, False, 0)
    large.give_back()
    assert (late.done(), budget.free) == (True, 59)
    with pytest.raises(ValueError, match="101 bytes of a budget of 100"):
        budget.ask(101)


def test_the_budget_is_lent_first_come_first_served_so_a_large_one_is_not_starved() -> None:
    budget = Budget(100)
    first = budget.ask(60)
    # 30 and 10 would fit at once; they came after 80
    grants = [budget.ask(amount) for amount in (80, 30, 100, 10)]
    assert [grant.done() for grant in grants] == [False] * 4
    first.give_back()
    assert [grant.done() for grant in grants] == [True, False, False, False]
    grants[0].give_back()
    assert [grant.done() for grant in grants] == [True, True, False, False]
    grants[1].give_back()
    assert [grant.done() for grant in grants] == [True, True, True, False]
    grants[2].give_back()
    grants[3].give_back()
    assert budget.free == 100


def test_who_gives_up_waiting_lets_the_next_one_through() -> None:
    budget = Budget(100)
    held, large, small = budget.ask(60), budget.ask(80), budget.ask(10)
    with ThreadPoolExecutor() as threads:
        woken = threads.submit(wait, [large], SECONDS)
        large.give_up()
        assert woken.result(SECONDS).done == {large}
    assert (large.cancelled(), small.done(), budget.free) == (True, True, 30)
    held.give_up()  # what was granted stays
    assert budget.free == 30
    for _ in range(2):
        held.give_back()
        assert budget.free == 90
    large.give_back()
    assert budget.free == 90


def test_a_request_without_memory_in_time_is_busy_before_anything_is_done(
    filled: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, decoding = filled(wait_seconds=0.01), Decoding(monkeypatch)
    budget, before = server.pipeline.budget, server.tree()
    whole = budget.ask(budget.size)
    for route, more in (("/v1/process", {}), ("/items/", {}), ("/v1/process", {"Accept": "application/x-ndjson"})):
        result = server.post(route, {"images": [image("a"), image("b")]}, headers=more)
        assert (result.status_code, result.json["type"]) == (503, "/problems/busy")
        assert int(result.headers["Retry-After"]) > 0
        assert "FALCONIMG_WAIT_SECONDS" in result.json["detail"]
    assert (server.tree(), decoding.count, budget.free) == (before, 0, 0)
    whole.give_back()
    assert statuses(server.process([image("a"), image("b")])) == ["done", "done"]


def test_a_dry_run_needs_memory_for_the_file_alone(filled: Callable[..., Server]) -> None:
    server = filled(wait_seconds=0.01)
    server.pipeline.budget.ask(server.pipeline.budget.size - len(server.tree()["in/a.png"]))
    assert statuses(server.process([image("a")], dry_run=True)) == ["skipped"]


def test_once_admitted_the_images_wait_for_memory_and_are_not_refused(
    filled: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = filled(pool=2, wait_seconds=0.02)
    budget = scarce(server, monkeypatch)
    first = [True]

    def before() -> None:
        if first:
            first.clear()
            until(partial(queued, budget, 1))
            time.sleep(0.1)  # five times as long as a request would wait

    Decoding(monkeypatch, before)
    left = budget.free
    assert statuses(server.process([image("b"), image("a"), image("c")])) == ["done"] * 3
    assert budget.free == left


def test_an_image_that_waits_for_memory_notices_that_the_server_stops(
    filled: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = filled(pool=2, graceful_seconds=0.01)
    budget = scarce(server, monkeypatch)

    def before() -> None:
        until(partial(queued, budget, 1))
        server.pipeline.stop()
        until(partial(queued, budget, 0))  # the other one gives up, though no memory came free

    Decoding(monkeypatch, before)
    result = server.process([image("b"), image("a")])
    assert errors(result) == [None, "stopping"]


def test_a_file_that_changes_while_its_image_waits_for_memory_fails(
    filled: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = filled(pool=2)
    budget = scarce(server, monkeypatch, len(server.tree()["in/a.png"]))
    first = [True]

    def before() -> None:
        if first:
            first.clear()
            until(partial(queued, budget, 1))
            server.put("in/a.png", noise(4, 4))

    Decoding(monkeypatch, before)
    result = server.process([image("b"), image("a")])
    assert errors(result) == [None, "damaged"]
    assert "it changed meanwhile" in outcomes(result)[1]["error"]["detail"]


def test_what_is_asked_of_the_budget_is_enough_for_the_plan(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    source = server.put("in/a.png", noise(300, 400)).nbytes
    budget = server.pipeline.budget
    free: list[int] = []
    Decoding(monkeypatch, before=lambda: free.append(budget.free))
    server.process([image("a", operations=["resize=2"])])
    server.process([image("a", output="out/a.webp", operations=["gray"])])
    enlarged, gray = (budget.size - amount for amount in free)
    png, _ = formats.FORMATS["png"].encode_peak(4 * source, 3, 100)
    webp = formats.FORMATS["webp"].encode_cost
    # the picture, its encoder's need and its file; WebP is given three channels for one
    assert 4 * source * 2 + png <= enlarged <= (4 * source * 2 + png) * 1.3
    assert source * (1 / 3 + webp + 1) <= gray <= source * (1 / 3 + webp + 1) * 1.5


def test_a_deadline_that_passes_in_the_last_encoding_writes_nothing(
    filled: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = filled(image_seconds=0.3)
    real = formats.encode

    def encode(*arguments: Any) -> formats.Encoded:
        time.sleep(0.4)
        return real(*arguments)

    monkeypatch.setattr(formats, "encode", encode)
    before = server.tree()
    assert errors(server.process([image("a")])) == ["deadline"]
    assert server.tree() == before


def test_memory_is_given_back_whatever_happens(filled: Callable[..., Server]) -> None:
    server = filled(max_pixels=100, pool=2)
    server.put("in/bad.png", data=damaged(".png"))
    server.put("in/truncated.png", data=encoded(noise(6, 8))[:-20])
    server.put("out/old.png", data=b"old")
    server.put("out/file", data=b"old")
    images = [
        image("a"), image("bad"), image("none"), image("truncated"), image("b", output="out/old.png"),
        image("b", output="out/file/b.png"), image("c", output="out/{width}.png", operations=["split=9x9"]),
    ]  # fmt: skip
    for first in range(len(images)):
        result = server.process(images[first:] + images[:first], if_exists="error")
        assert "failed" in statuses(result)
        assert server.pipeline.budget.free == server.pipeline.budget.size


# Side by side


def test_the_images_of_a_batch_are_processed_side_by_side(
    filled: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2)
    Decoding(monkeypatch, before=lambda: both.wait(SECONDS))
    result = filled(pool=2).process([image("a"), image("b")])
    assert statuses(result) == ["done", "done"]


def test_no_more_images_are_processed_at_once_than_the_pool_has_threads(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, running, most = threading.Lock(), [0], [0]
    server = serve(Memory({f"in/{n}.png": encoded(noise(40, 40)) for n in range(12)}), pool=3)
    real = formats.load

    def load(data: bytes, header: formats.Header, how: formats.Load) -> Any:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        try:
            return real(data, header, how)
        finally:
            with lock:
                running[0] -= 1

    monkeypatch.setattr(formats, "load", load)
    with ThreadPoolExecutor(2) as clients:
        results = clients.map(
            lambda client: server.process([image(str(n), output=f"out/{client}/{n}.png") for n in range(12)]), range(2)
        )
        assert [set(statuses(result)) for result in results] == [{"done"}] * 2
    assert 1 <= most[0] <= 3
    assert len(server.tree()) == 36


def test_a_stream_that_is_closed_begins_no_further_image(
    filled: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, decoding = filled(pool=1), Decoding(monkeypatch)
    value = {"images": [image("a"), image("b"), image("c"), {"input": "in/a.png", "output": "out/d.png"}]}
    job = parsed(value, server.pipeline.settings, server.pipeline.store)
    stream: Any = server.pipeline.stream(job)
    assert next(stream).status == "done"
    stream.close()
    assert decoding.count <= 3  # b and c were ready for their turn
    assert "out/d.png" not in server.tree()
    assert server.pipeline.budget.free == server.pipeline.budget.size


def test_an_image_that_is_ready_when_its_stream_is_closed_gives_its_memory_back(
    filled: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, gate = filled(pool=1), threading.Event()
    decoding = Decoding(monkeypatch, lambda: gate.wait(SECONDS))
    value = {"images": [image("a"), image("b"), image("c")]}
    stream: Any = server.pipeline.stream(parsed(value, server.pipeline.settings, server.pipeline.store))
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(next, stream)
        until(lambda: decoding.count == 1)
        other = server.pipeline.threads.submit(lambda: None)  # it comes after b
        gate.set()
        assert asked.result(SECONDS).status == "done"
        stream.close()
        other.result(SECONDS)
    assert server.pipeline.budget.free == server.pipeline.budget.size


def test_a_stream_that_nobody_reads_gives_its_memory_back(filled: Callable[..., Server]) -> None:
    server = filled()
    job = parsed({"images": [image("a")]}, server.pipeline.settings, server.pipeline.store)
    stream = server.pipeline.stream(job)
    del stream
    until(lambda: server.pipeline.budget.free == server.pipeline.budget.size)
    assert server.pipeline.budget.free == server.pipeline.budget.size


def test_an_empty_job_has_an_empty_report(server: Server) -> None:
    report = server.pipeline.run(Job(()))
    assert (report.status, report.done, report.failed, report.skipped, report.images) == ("done", 0, 0, 0, ())


# What the files hold


def photograph(**extra: Any) -> bytes:
    """A JPEG with EXIF, XMP and an sRGB profile."""
    exif = PillowImage.Exif()
    exif[0x013B] = "A. N. Author"
    for tag, value in extra.get("exif", {}).items():
        exif[tag] = value
    file = io.BytesIO()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = np.repeat(np.repeat(noise(2, 3, seed=5), 16, 0), 16, 1)
    PillowImage.fromarray(pixels).save(file, "JPEG", exif=exif, icc_profile=profile, xmp=b"<x:xmpmeta/>", quality=95)
    return file.getvalue()


def test_metadata_is_stripped_unless_it_is_to_be_kept_and_the_profile_stays(server: Server) -> None:
    data = photograph()
    server.put("in/a.jpg", data=data)
    renditions = [{"output": "out/plain.jpg"}, {"output": "out/kept.jpg", "metadata": "keep"}]
    server.process([{"input": "in/a.jpg", "renditions": renditions}, {"input": "in/a.jpg", "output": "out/all.jpg"}])
    kept, plain = (formats.probe(server.tree()[f"out/{name}.jpg"]).metadata for name in ("kept", "plain"))
    source = formats.probe(data).metadata
    assert source.icc
    assert kept == source
    assert kept.exif
    assert b"A. N. Author" in kept.exif
    assert kept.xmp == b"<x:xmpmeta/>"
    assert plain == formats.Metadata(icc=source.icc)
    assert formats.probe(server.tree()["out/all.jpg"]).metadata == plain
    server.process([{"input": "in/a.jpg", "output": "out/all.jpg"}], metadata="keep")
    assert formats.probe(server.tree()["out/all.jpg"]).metadata == source


def test_sizes_splits_and_names_are_those_of_the_picture_as_seen(server: Server) -> None:
    server.put("in/a.jpg", data=photograph(exif={0x0112: 6}))
    stored = formats.probe(server.tree()["in/a.jpg"])
    assert (stored.width, stored.height, stored.orientation) == (48, 32, 6)
    result = server.process([{"input": "in/a.jpg", "output": "out/{width}x{height}_{index}.png"}], operations=["split"],
                            metadata="keep")  # fmt: skip
    assert paths(outcomes(result)[0]) == [f"out/16x24_{n}.png" for n in (1, 2, 3, 4)]
    upright = np.rot90(decoded_as_stored(server.tree()["in/a.jpg"]), -1)
    for number, part in enumerate(quadrants(upright), 1):
        written = server.tree()[f"out/16x24_{number}.png"]
        assert np.array_equal(decoded_as_stored(written), part)
        assert formats.probe(written).orientation == 1


def decoded_as_stored(data: bytes) -> Array:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)


@pytest.mark.parametrize("extension", ["jpg", "webp"])
def test_quality_changes_the_files_bytes(extension: str, server: Server) -> None:
    server.put("in/a.png", noise(32, 32))
    renditions: list[dict[str, object]] = [{"output": f"out/{q}.{extension}", "quality": q} for q in (5, 60, 95)]
    renditions.append({"output": f"out/usual.{extension}"})
    server.process([{"input": "in/a.png", "renditions": renditions}])
    sizes = [len(server.tree()[f"out/{q}.{extension}"]) for q in (5, 60, 95)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3
    usual = getattr(Settings(), f"{formats.by_extension('a.' + extension).name}_quality")  # type: ignore[union-attr]
    server.process([image("a", output=f"out/again.{extension}", quality=usual)])
    assert server.tree()[f"out/usual.{extension}"] == server.tree()[f"out/again.{extension}"]


@pytest.mark.parametrize(
    ("background", "colour"), [(None, (255, 255, 255)), ("black", (0, 0, 0)), ("#f00", (0, 0, 255))]
)
def test_the_background_lies_under_what_was_transparent(
    background: str | None, colour: tuple[int, int, int], server: Server
) -> None:
    array = noise(16, 16, 4)
    array[:, :, 3] = 0
    server.put("in/a.png", array)
    more = {"background": background} if background else {}
    result = server.process([image("a", output="out/a.jpg"), image("a", output="out/a.png")], **more)
    flat = server.picture("out/a.jpg")
    assert flat.shape == (16, 16, 3)
    assert np.abs(flat.astype(int) - colour).max() <= 2
    assert np.array_equal(server.picture("out/a.png"), array)
    red, green, blue = colour[::-1]
    detail = f"transparency was laid on the background {red}, {green}, {blue}"
    assert outcomes(result)[0]["notes"] == [{"pointer": "/images/0/output", "detail": detail}]
    assert "notes" not in outcomes(result)[1]


def test_16_bit_gray_and_alpha_stay_and_a_loss_is_a_note(server: Server) -> None:
    deep, gray = server.put("in/deep.png", noise(6, 8, 4, dtype=np.uint16)), server.put("in/gray.png", noise(6, 8, 1))
    renditions = [{"output": "out/deep.png"}, {"output": "out/deep.bmp"}]
    result = server.process([{"input": "in/deep.png", "renditions": renditions}, image("gray")], operations=["flip=h"])
    assert np.array_equal(server.picture("out/deep.png"), deep[:, ::-1])
    assert server.picture("out/deep.png").dtype == np.uint16
    assert np.array_equal(server.picture("out/gray.png"), gray[:, ::-1])
    notes = outcomes(result)[0]["notes"]
    assert {"pointer": "/images/0/renditions/1/output", "detail": "16 bit became 8 bit"} in notes
    assert all(note["pointer"] == "/images/0/renditions/1/output" for note in notes)


def test_missing_directories_are_made_on_all_levels(filled: Callable[..., Server], pictures: dict[str, Array]) -> None:
    server = filled()
    server.process([image("a", output="x/y/z/a.png"), image("b", output=str(server.root / "x" / "q" / "b.png"))])
    assert np.array_equal(server.picture("x/y/z/a.png"), pictures["a"])
    assert np.array_equal(server.picture("x/q/b.png"), pictures["b"])


# The original's own requests


def the_originals(server: Server) -> tuple[dict[str, Array], list[dict[str, str]]]:
    shapes = {"one": (31, 45), "two": (32, 44), "three": (4, 4), "four": (33, 2)}
    pictures = {
        name: server.put(f"images/{name}.png", noise(*shape, seed=n)) for n, (name, shape) in enumerate(shapes.items())
    }
    return pictures, [{"input": f"images/{name}.png", "output": f"out/deep/{name}.jpg"} for name in shapes]


def halves(side: int) -> list[int]:
    return [side // 2, side - side // 2]


def test_the_originals_request_of_four_images_writes_64_files(server: Server) -> None:
    pictures, images = the_originals(server)
    steps = ["splitQuadrants=True", "resize=2", "splitQuadrants=True", "resize=2"]
    body = json.dumps({"images": images, "operations": steps}).encode()
    result = server.post("/items/", body)
    assert (result.status_code, result.content) == (200, body)
    assert "Falconimg-Failed" not in result.headers
    written = [name for name in server.tree() if name.startswith("out/deep/") and not name.endswith("/")]
    assert sorted(written) == sorted(f"out/deep/{name}_{n}.jpg" for name in pictures for n in range(1, 17))
    for name, array in pictures.items():
        height, width = array.shape[:2]
        outer = [(h, w) for h in halves(height) for w in halves(width)]
        sizes = [(2 * h, 2 * w) for oh, ow in outer for h in halves(2 * oh) for w in halves(2 * ow)]
        assert [server.picture(f"out/deep/{name}_{n}.jpg").shape[:2] for n in range(1, 17)] == sizes


def test_the_originals_request_of_nothing_valid_writes_four_copies_of_unchanged_size(server: Server) -> None:
    pictures, images = the_originals(server)
    steps = ["blur=-2", "resize=-0.5", "splitQuadrants=False", "resize=0"]
    body = json.dumps({"images": images, "operations": steps}).encode()
    result = server.post("/items/", body)
    assert (result.status_code, result.content) == (200, body)
    assert "Falconimg-Failed" not in result.headers
    for name, array in pictures.items():
        assert server.picture(f"out/deep/{name}.jpg").shape == array.shape
    assert len([name for name in server.tree() if name.startswith("out/deep/")]) == 5


def test_the_originals_request_without_images_is_echoed(server: Server) -> None:
    body = b'{"images": [], "operations": ["string"]}'
    result = server.post("/items/", body)
    assert (result.status_code, result.content, server.tree()) == (200, body, {})


def test_the_originals_request_of_missing_files_is_echoed_and_writes_nothing(server: Server) -> None:
    body = json.dumps({"images": [image("a"), image("b")], "operations": ["blur=3"]}).encode()
    result = server.post("/items/", body)
    assert (result.status_code, result.content, server.tree()) == (200, body, {})
    assert result.headers["Falconimg-Failed"] == "2"


# A step that does not return


class Stuck:
    """Decoding that does not return for some inputs, until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> None:
        self.gate, self.running = threading.Event(), threading.Event()
        left = [None] * times

        def before() -> None:
            if left:
                left.pop()
                self.running.set()
                assert self.gate.wait(SECONDS)

        Decoding(monkeypatch, before)
        monkeypatch.setattr(pipeline, "HANGING_SECONDS", 0.2)


def test_an_image_whose_decoder_hangs_fails_and_its_neighbours_are_done(
    filled: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Stuck(monkeypatch)
    server = filled(pool=1, image_seconds=0.2)
    result = server.process([image("a"), image("b"), image("c")])
    assert errors(result) == ["deadline", None, None]
    assert "does not return" in outcomes(result)[0]["error"]["detail"]
    ready = server.client.simulate_get("/readyz")
    assert (ready.status_code, ready.json["faults"]) == (503, ["a step of an image does not return"])
    # the memory that it holds is not lent to others
    assert server.pipeline.budget.free < server.pipeline.budget.size
    stuck.gate.set()
    until(lambda: server.pipeline.budget.free == server.pipeline.budget.size)
    assert server.client.simulate_get("/readyz").status_code == 200
    assert sorted(name for name in server.tree() if name.endswith("png")) == [
        "in/a.png", "in/b.png", "in/c.png", "out/b.png", "out/c.png",
    ]  # fmt: skip


def test_readiness_tells_of_a_step_that_hangs_while_the_request_still_waits(
    filled: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Stuck(monkeypatch)
    server = filled(image_seconds=0.1)
    with ThreadPoolExecutor() as clients:
        asked = clients.submit(server.process, [image("a")])
        assert stuck.running.wait(SECONDS)
        assert not server.pipeline.hangs
        until(lambda: server.pipeline.hangs)
        stuck.gate.set()
        assert errors(asked.result(SECONDS)) == ["deadline"]
    until(lambda: not server.pipeline.hangs)


class Hanging(Memory):
    """Does not say how large in/a.png is until it is let go: a disk that is gone."""

    gate = threading.Event()

    def size(self, path: str, limit: int) -> int:
        assert path != "in/a.png" or self.gate.wait(SECONDS)
        return super().size(path, limit)


def test_a_disk_that_hangs_is_seen_as_well(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "HANGING_SECONDS", 0.1)
    store = Hanging({"in/a.png": encoded(noise(4, 4))})
    server = serve(store, image_seconds=0.1)
    with ThreadPoolExecutor() as clients:
        asked = clients.submit(server.process, [image("a")])
        until(lambda: server.pipeline.hangs)
        store.gate.set()
        assert statuses(asked.result(SECONDS)) == ["done"]
    assert not server.pipeline.hangs


def test_a_peer_that_hangs_makes_this_one_not_ready(server: Server) -> None:
    server.pipeline.peers_hang = lambda: True
    assert server.client.simulate_get("/readyz").status_code == 503


# What a request's document may take


def test_large_documents_take_turns_and_one_that_never_fits_is_refused(filled: Callable[..., Server]) -> None:
    server = filled(memory=80_000_000, wait_seconds=0.01)  # a document may have 250 kB of it
    images = [image("a") | {"output": f"out/{'x' * 240}/{n}.png"} for n in range(500)]
    refused = server.process(images * 2)
    assert (refused.status_code, refused.json["type"]) == (413, "/problems/body-too-large")
    assert "expected at most 250000 bytes for this FALCONIMG_MEMORY" in refused.json["detail"]
    held = server.pipeline.document(200_000)
    busy = server.process(images)
    assert (busy.status_code, busy.json["type"]) == (503, "/problems/busy")
    with ThreadPoolExecutor() as clients:
        server.pipeline.documents.ask(server.pipeline.documents.size)
        # a small one is not counted, and does not wait behind those that do
        assert statuses(clients.submit(server.process, [image("a")]).result(SECONDS)) == ["done"]
        server.pipeline.documents._queue[0].give_up()
    held.give_back()
    for accept in ("application/json", "application/x-ndjson"):
        whole = server.post("/v1/process", {"images": images, "dry_run": True}, headers={"Accept": accept})
        assert whole.status_code == 200
        assert server.pipeline.documents.free == server.pipeline.documents.size
    assert server.process([{}] * 40_000, dry_run=True).status_code == 422
    assert server.pipeline.documents.free == server.pipeline.documents.size


def test_a_request_has_no_more_results_than_its_report_may_take(filled: Callable[..., Server]) -> None:
    server = filled(max_results=100, pool=1)
    server.put("in/a.png", noise(8, 8))
    images = [image("a", output=f"out/{n}.png", operations=["tile=1"]) for n in range(3)]
    result = server.process(images, dry_run=True)
    assert errors(result) == [None, "too-large", "too-large"]
    assert "FALCONIMG_MAX_RESULTS" in outcomes(result)[1]["error"]["detail"]
    assert len(outcomes(result)[0]["outputs"]) == 64


@pytest.mark.parametrize(("memory", "most"), [(20_000_000, 4096), (600_000_000, 9375), (10**12, 100_000)])
def test_with_little_memory_a_request_has_fewer_results_but_one_image_s(serve: Serve, memory: int, most: int) -> None:
    assert serve(memory=memory).pipeline.most_results == most


# The SHA-256 of an input


@pytest.mark.parametrize("digits", [str.lower, str.upper])
def test_an_input_of_the_named_sha256_is_taken_and_another_is_not(
    filled: Callable[..., Server], digits: Callable[[str], str]
) -> None:
    server = filled()
    digest = digits(hashlib.sha256(server.tree()["in/a.png"]).hexdigest())
    result = server.process([image("a", sha256=digest), image("b", sha256=digest)])
    assert errors(result) == [None, "sha256"]
    assert digest.lower() in outcomes(result)[1]["error"]["detail"]
    assert "out/b.png" not in server.tree()


def test_a_change_that_no_format_would_show_is_seen_by_the_sha256(filled: Callable[..., Server]) -> None:
    server = filled()
    server.put("in/a.bmp", noise(8, 8))
    digest = hashlib.sha256(server.tree()["in/a.bmp"]).hexdigest()
    data = bytearray(server.tree()["in/a.bmp"])
    data[-1] ^= 1
    server.put("in/a.bmp", data=bytes(data))
    request = {"input": "in/a.bmp", "output": "out/a.png"}
    assert errors(server.process([request, request | {"output": "out/b.png", "sha256": digest}])) == [None, "sha256"]


def test_the_sha256_is_checked_again_where_the_file_is_read_again(
    filled: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = filled(pool=2)
    server.put("in/a.bmp", noise(6, 8))
    before_, after = server.tree()["in/a.bmp"], encoded(noise(6, 8, seed=9), ".bmp")
    budget = scarce(server, monkeypatch, len(before_))
    first = [True]

    def before() -> None:
        if first:
            first.clear()
            until(partial(queued, budget, 1))
            server.put("in/a.bmp", data=after)

    Decoding(monkeypatch, before)
    meant = {"input": "in/a.bmp", "output": "out/a.png", "sha256": hashlib.sha256(before_).hexdigest()}
    assert errors(server.process([image("b"), meant])) == [None, "sha256"]


@pytest.mark.parametrize("wrong", ["", "0" * 63, "0" * 65, "g" * 64, "0" * 64 + "\n", "\u0660" * 64, 5, None])
def test_what_is_no_sha256_is_refused(filled: Callable[..., Server], wrong: object) -> None:
    result = filled().process([image("a", sha256=wrong)])
    assert (result.status_code, result.json["errors"][0]["pointer"]) == (422, "/images/0/sha256")
    assert result.json["errors"][0]["detail"].startswith("expected 64 hexadecimal digits, came ")


def test_items_does_not_look_at_a_sha256(filled: Callable[..., Server]) -> None:
    result = filled().post("/items/", {"images": [image("a", sha256="x")]})
    assert (result.status_code, "Falconimg-Failed" in result.headers) == (200, False)


def test_a_thread_that_cannot_be_had_fails_the_image_and_keeps_no_memory(
    filled: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = filled(pool=1)
    real = threading.Thread.start

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert errors(server.process([image("a")])) == ["memory"]
    assert server.pipeline.budget.free == server.pipeline.budget.size
    monkeypatch.setattr(threading.Thread, "start", real)
    assert errors(server.process([image("a")])) == [None]
