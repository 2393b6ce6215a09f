"""An operation, a format and a store are added in one place: everything else picks them up."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from falconimg import formats, operations
from falconimg._core import Grid
from falconimg.formats.base import Encoded, Format, Header, Metadata, Options, Pixels
from falconimg.operations import Effect, Form, Notice, Operation
from falconimg.stores.memory import Memory
from tests.conftest import Serve, encoded, noise


@dataclass(frozen=True)
class Halves(Operation):
    """The left and the right half."""

    name = "halves"
    forms = (Form("halves", '{"op": "halves"}', "the left and the right half"),)
    properties: ClassVar = {}
    parts = "fixed"

    @classmethod
    def read(cls, value: str | None, name: str) -> dict[str, Any]:
        return {}

    def effect(self, shape: Any, notice: Notice) -> Effect:
        return Grid([0, shape.height], [0, shape.width // 2, shape.width])


class Farbfeld(Format):
    """farbfeld: a magic, two sizes and 16-bit RGBA, big-endian (here with a quality that it does not need)."""

    name = "farbfeld"
    extensions = (".ff",)
    media_type = "image/farbfeld"
    reads = writes = "RGBA, 16 bit"
    keeps = frozenset({"alpha", "16 bit"})
    quality = 33
    decode_cost = encode_cost = 2.0
    used: ClassVar[list[int]] = []

    def sniff(self, head: bytes) -> bool:
        return head.startswith(b"farbfeld")

    def probe(self, data: bytes) -> Header:
        width, height = struct.unpack_from(">II", data, 8)
        return Header(self.name, width, height, 4, 16)

    def decode(self, data: bytes, header: Header) -> Pixels:
        rgba = np.frombuffer(data, ">u2", offset=16).reshape(header.height, header.width, 4)
        return np.ascontiguousarray(rgba[:, :, [2, 1, 0, 3]], np.uint16)

    def encode(self, pixels: Pixels, options: Options, metadata: Metadata) -> Encoded:
        self.used.append(options.quality)
        head = b"farbfeld" + struct.pack(">II", pixels.shape[1], pixels.shape[0])
        return Encoded(head + pixels[:, :, [2, 1, 0, 3]].astype(">u2").tobytes(), ())


def test_a_new_operation_is_a_class_and_its_row(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(operations.OPERATIONS, "halves", Halves)
    monkeypatch.setitem(operations.NAMES, "halves", Halves)
    pixels = noise(4, 7)
    server = serve(Memory({"a.png": encoded(pixels), "b.png": encoded(pixels)}))
    for step in ("halves", {"op": "halves"}):
        answer = server.process([{"input": "a.png", "output": "out/a.png"}], operations=[step])
        assert [output["path"] for output in answer.json["images"][0]["outputs"]] == ["out/a_1.png", "out/a_2.png"]
        assert np.array_equal(server.picture("out/a_2.png"), pixels[:, 3:])
    images = [{"input": "a.png", "output": "c.png"}, {"input": "b.png", "output": "c_1.png", "operations": []}]
    assert server.process(images, operations=["halves"]).status_code == 422
    rows = [{"input": "a.png", "output": "{row}{col}.png", "operations": ["halves"]}]
    assert server.process(rows).status_code == 200
    document = server.client.simulate_get("/openapi.json").json
    assert "Halves" in document["components"]["schemas"]
    assert "halves" in server.client.simulate_get("/").json["operations"]


def test_a_new_format_is_a_class_and_its_row(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(formats.FORMATS, "farbfeld", Farbfeld())
    pixels = noise(3, 5, 4, dtype=np.uint16)
    server = serve(Memory({"a.png": encoded(pixels)}))
    there = server.process([{"input": "a.png", "output": "a.FF"}]).json["images"][0]
    assert (there["status"], there["outputs"][0]["format"]) == ("done", "farbfeld")
    back = server.process([{"input": "a.FF", "output": "b.png"}]).json["images"][0]
    assert back["status"] == "done"
    assert np.array_equal(server.picture("b.png"), pixels)
    assert Farbfeld.used == [33]
    assert server.client.simulate_get("/").json["formats"]["farbfeld"]["media_type"] == "image/farbfeld"
    assert "farbfeld" in server.client.simulate_get("/openapi.json").json["info"]["description"]


def test_a_new_store_is_given_to_the_application(serve: Serve) -> None:
    class Shouting(Memory):
        """Keeps everything, and says so in the readiness."""

        def faults(self) -> list[str]:
            return ["HELLO"]

    server = serve(Shouting({"a.png": encoded(noise(2, 2))}))
    assert server.process([{"input": "a.png", "output": "b.bmp"}]).status_code == 200
    answer = server.client.simulate_get("/readyz")
    assert (answer.status_code, answer.json["status"], answer.json["faults"]) == (503, "not ready", ["HELLO"])
