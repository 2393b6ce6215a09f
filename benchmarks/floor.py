"""S2: against the codecs' own floor, which is decode + operation + encode called bare in a loop.

The best library that pip installs for each: simplejpeg reads and writes JPEG (shrunk on load where the result is
still alike to 38 dB, the floor that falconimg keeps to), OpenCV reads PNG, resizes and blurs, and PNG is written by
filter Up and libdeflate at level 1.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import deflate
import numpy as np
import simplejpeg

from benchmarks import pictures
from benchmarks.likeness import decibels, least_psnr
from benchmarks.original import KINDS, OPERATIONS
from benchmarks.rounds import Plan, measured, ratio
from benchmarks.rows import Row, most
from benchmarks.servers import Load, Request, running

Array = Any  # (h, w, 3), uint8, RGB
Decode = Callable[[bytes], Array]
Encode = Callable[[Array], bytes]
Size = tuple[int, int]  # width, height

SHRUNK = 38.0
"""dB that shrinking on load has to keep against area on the whole picture."""


def _read_png(data: bytes) -> Array:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def _write_png(array: Array) -> bytes:
    rows = array.reshape(len(array), -1)
    filtered = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", deflate.zlib_compress(filtered, 1)), (b"IEND", b""))
    framed = (
        struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", deflate.crc32(data, deflate.crc32(kind)))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


WRITERS: dict[str, Encode] = {
    "jpg": partial(simplejpeg.encode_jpeg, quality=95, colorspace="RGB", colorsubsampling="420"),
    "png": _write_png,
}


def applied(array: Array, operation: str, original: Size) -> list[Array]:
    """What one operation makes of it; `original` is the width and height before it was shrunk on load."""
    name, _, value = operation.partition("=")
    if name == "split":
        y, x = array.shape[0] // 2, array.shape[1] // 2
        return [array[:y, :x], array[:y, x:], array[y:, :x], array[y:, x:]]
    if name == "blur":
        return [cv2.GaussianBlur(array, (int(value), int(value)), 0)]
    factor = float(value)
    size = int(original[0] * factor), int(original[1] * factor)
    return [cv2.resize(array, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)]


def _reader(data: bytes, kind: str, operations: Sequence[str]) -> Decode:
    """The cheapest way to the pixels that the first operation needs."""
    if kind == "png":
        return _read_png
    read: Decode = partial(simplejpeg.decode_jpeg, colorspace="RGB")
    factor = float(operations[0].partition("=")[2]) if operations[0].startswith("resize") else 1.0
    if factor < 1:
        full = read(data)
        size = full.shape[1], full.shape[0]
        wanted = applied(full, operations[0], size)[0]
        for eighths in range(math.ceil(8 * factor), 8):
            least = {"min_width": size[0] * eighths // 8, "min_height": size[1] * eighths // 8}
            shrunk: Decode = partial(simplejpeg.decode_jpeg, colorspace="RGB", **least)
            if decibels(applied(shrunk(data), operations[0], size)[0], wanted) >= SHRUNK:
                return shrunk
    return read


def _bare(data: bytes, read: Decode, write: Encode, operations: Sequence[str], original: Size) -> list[bytes]:
    """Decoded, made, encoded; depth first, so that a part is let go before the next one is made."""

    def walk(array: Array, rest: Sequence[str], size: Size) -> Iterator[bytes]:
        if not rest:
            yield write(array)
            return
        for part in applied(array, rest[0], size):
            yield from walk(part, rest[1:], (part.shape[1], part.shape[0]))

    return list(walk(read(data), operations, original))


def loop(work: Callable[[], object], count: int) -> Load:
    """What one of so many calls costs."""
    cpu, wall = time.thread_time(), time.monotonic()
    for _ in range(count):
        work()
    return Load((time.thread_time() - cpu) / count, (time.monotonic() - wall) / count)


def rows(plan: Plan, root: Path) -> Iterator[Row]:
    """A row each; one request at a time, as the loop."""
    plan = replace(plan, clients=1)
    cv2.setNumThreads(1)
    with running("falconimg", root, plan.workers) as server:
        for source in plan.sources[:2]:
            for kind, extension in KINDS:
                picture = source.as_kind(kind)
                data = pictures.write(picture, root).read_bytes()
                for title, operations in OPERATIONS.items():
                    images = [{"input": picture.name, "output": f"out/falconimg.{extension}"}]
                    request = Request("/items/", {"images": images, "operations": operations})
                    read, size = _reader(data, kind, operations), (source.width, source.height)
                    bare = partial(_bare, data, read, WRITERS[extension], operations, size)
                    found = measured({"falconimg": partial(server.load, [request]), "floor": partial(loop, bare)}, plan)
                    made = bare()
                    for number, file in enumerate(made, 1):
                        end = f"_{number}" if len(made) > 1 else ""
                        (root / "out" / f"floor{end}.{extension}").write_bytes(file)
                    alike = least_psnr(*(root / "out" / f"{side}.{extension}" for side in ("falconimg", "floor")))
                    for path in (root / "out").iterdir():
                        path.unlink()
                    a, b = found["falconimg"], found["floor"]
                    yield Row(
                        "S2", f"{kind.upper()} → {extension.upper()}, {source.title}", title,
                        {"falconimg ms": a.cpu, "floor ms": b.cpu, "PSNR dB": alike},
                        {"CPU": most(ratio(a, b), 1.25)},
                        {"falconimg": a.cpu, "the codecs alone": b.cpu}, 1.25 * b.cpu,
                    )  # fmt: skip
