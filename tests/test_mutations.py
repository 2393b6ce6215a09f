"""Fresh mutations of good pictures through the real server: no crash, no hang, no 5xx, no damage called done.

What is damage here, by an oracle that is not the code under test:
- a file that is cut, or cut and closed with its end marker, or filled with zeros from there on (still JPEG, PNG, GIF
  and AVIF), or that lacks a piece from within (formats that say how long they are);
- a PNG of which any chunk's checksum is wrong, or that has no end.
Not counted are changed bytes in what has no checksum: entropy-coded data that still decodes to its last pixel, raw
pixels, metadata; and a plain PNM, where fewer digits are a number too. For those an input's `sha256` is the answer.

MUTATION_SEED repeats a run; the seed is printed, and named where the test fails.
"""

from __future__ import annotations

import os
import random
import secrets
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests import hostile, pictures
from tests.serving import read, serving, write

BATCH = 50
SIZED = ("png", "webp", "bmp", "pgm", "ppm", "avif")  # whose bytes are counted somewhere in the file
CLOSED = ("jpeg", "png", "gif", "avif")
EDGES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
Mutation = Callable[[bytes, str, random.Random], bytes]


def changed(file: bytes, form: str, chance: random.Random) -> bytes:
    """A few bytes are others, in half of the cases near the start, where the header is."""
    result = bytearray(file)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        place = chance.randrange(min(len(file), chance.choice((64, 200, len(file), len(file)))))
        result[place] = chance.choice((*EDGES, chance.randrange(256), result[place] ^ 1 << chance.randrange(8)))
    return bytes(result)


def number(file: bytes, form: str, chance: random.Random) -> bytes:
    """Two or four bytes together are another number."""
    place = chance.randrange(max(1, min(len(file) - 4, 400)))
    code = chance.choice((">H", "<H", ">I", "<I"))
    value = chance.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, chance.randrange(2**32))) % 256 ** struct.calcsize(code)
    return file[:place] + struct.pack(code, value) + file[place + struct.calcsize(code) :]


def cut(file: bytes, form: str, chance: random.Random) -> bytes:
    return file[: chance.randrange(len(file))]


def closed(file: bytes, form: str, chance: random.Random) -> bytes:
    return hostile.closed(file, form, chance.randrange(len(file)))


def zeroed(file: bytes, form: str, chance: random.Random) -> bytes:
    return hostile.zeroed(file, chance.randrange(len(file)))


def shortened(file: bytes, form: str, chance: random.Random) -> bytes:
    """A piece from within is gone."""
    start = chance.randrange(len(file))
    return file[:start] + file[start + chance.randint(1, 40) :]


def repeated(file: bytes, form: str, chance: random.Random) -> bytes:
    """A piece comes twice."""
    start = chance.randrange(len(file))
    end = start + chance.randint(1, 200)
    return file[:end] + file[start:]


def spliced(file: bytes, form: str, chance: random.Random) -> bytes:
    """A piece is that of another picture."""
    other = chance.choice(list(hostile.good().values()))
    start, size = chance.randrange(len(file)), chance.randint(1, 300)
    place = chance.randrange(len(other))
    return file[:start] + other[place : place + size] + file[start + size :]


MUTATIONS: tuple[Mutation, ...] = (changed, changed, number, cut, closed, zeroed, shortened, repeated, spliced)


def is_whole_png(file: bytes) -> bool:
    """Whether every chunk's checksum is right, up to the end."""
    place = 8
    while place + 12 <= len(file):
        (length,) = struct.unpack_from(">I", file, place)
        content = file[place + 4 : place + 8 + length]
        if file[place + 8 + length : place + 12 + length] != struct.pack(">I", zlib.crc32(content)):
            return False
        if content[:4] == b"IEND":
            return True
        place += 12 + length
    return False


def is_damage(name: str, mutation: Mutation, file: bytes, mutant: bytes) -> bool:
    """Whether the mutant of that good file has lost something that any reader could notice."""
    form = hostile.form_of(name)
    still = form in CLOSED and "animated" not in name
    if mutant.startswith(file):
        return False
    if form == "png" and not is_whole_png(mutant):
        return True
    if mutation is cut:
        return not name.startswith("pnm-plain")
    if mutation in (closed, zeroed):
        return still
    return mutation is shortened and form in SIZED and name != "avif-animated"


def test_mutations_neither_stop_the_server_nor_pass_for_whole(
    tmp_path: Path, long: bool, record_property: Callable[[str, object], None]
) -> None:
    seed = int(os.environ.get("MUTATION_SEED") or secrets.randbits(32))
    print(f"\nMUTATION_SEED={seed}")  # noqa: T201  (that is what repeats the run)
    chance, count = random.Random(seed), 10_000 if long else 300  # noqa: S311  (not for secrets)
    good, neighbour = hostile.good(), pictures.noise(20, 30)
    came: dict[str, int] = {}
    wrong: list[str] = []
    slowest = damaged = 0.0
    with serving(tmp_path, workers="2", log_level="error", fsync="off") as server:
        booted = server.workers()
        whole = write(tmp_path, "in/whole.png", neighbour)
        for first in range(0, count, BATCH):
            images, mutants = [whole], [("png-rgb", False)]
            for index in range(first, first + BATCH):
                name, mutation = chance.choice(list(good)), chance.choice(MUTATIONS)
                mutant = mutation(good[name], hostile.form_of(name), chance)
                (tmp_path / "in" / f"{index}").write_bytes(mutant)
                images.append({"input": f"in/{index}", "output": f"out/{index}.png"})
                mutants.append((f"{index} {name} {mutation.__name__}", is_damage(name, mutation, good[name], mutant)))
            operations = [[], ["resize=64x64"]][first // BATCH % 2]
            images[0] = {**whole, "output": f"out/whole{first}.png"}
            status, answer = server.process_batch(images, *operations)
            assert status in (200, 207), (seed, status, answer)
            for (what, is_bad), outcome in zip(mutants, answer["images"], strict=True):
                verdict = outcome.get("error", {"type": "done"})["type"].removeprefix("/problems/")
                came[verdict] = came.get(verdict, 0) + 1
                slowest, damaged = max(slowest, outcome["ms"]), damaged + is_bad
                if verdict in ("internal", "memory") or outcome["ms"] > 2000 or (is_bad and verdict == "done"):
                    wrong.append(f"{what}: {verdict} after {outcome['ms']} ms")
            if not operations:
                assert np.array_equal(read(tmp_path / "out" / f"whole{first}.png"), neighbour)
        assert server.workers() == booted, (seed, server.log[-3000:])
        assert server.process.poll() is None
    figures = {"mutations": count, "of them detectably damaged": int(damaged), "slowest, ms": slowest, **came}
    for what, value in figures.items():
        record_property(f"23: {what}", value)
        if long:
            print(f"figure: 23: {what}: {value}")  # noqa: T201
    assert wrong == [], f"MUTATION_SEED={seed}"
