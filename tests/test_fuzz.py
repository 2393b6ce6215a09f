"""The fuzzers' corpus, and mutations of it, through the same harnesses; `fuzz/run` lets coverage guide them."""

from __future__ import annotations

import contextlib
import random
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from falconimg import formats
from falconimg.errors import Damaged, Unsupported
from fuzz import core, jpeg, png, probes, request
from tests import pictures

CORPUS = Path(__file__).parent / "corpus"
HARNESSES: dict[str, Callable[[bytes], None]] = {
    "request": request.one, "probes": probes.one, "core": core.one, "jpeg": jpeg.one, "png": png.one,
}  # fmt: skip
SEEDS = {name: sorted((CORPUS / name).iterdir()) for name in HARNESSES}
EDGES = [bytes([value]) * size for value in (0, 1, 0x7F, 0x80, 0xFF) for size in (1, 2, 4)] + [b"\0\0\0\1", b"\1\0\0\0"]


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    """A seed after one to four changes: bytes set, cut out, repeated, cut off, or taken from another seed."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 4)):
        at, size = chance.randint(0, len(data)), chance.choice([1, 1, 2, 4, 8, 40])
        other = chance.choice(seeds)
        start = chance.randint(0, len(other))
        change = chance.randint(0, 6)
        if change == 0:
            data[at : at + size] = chance.randbytes(size)
        elif change == 1:
            edge = chance.choice(EDGES)
            data[at : at + len(edge)] = edge
        elif change == 2:
            del data[at : at + size]
        elif change == 3:
            data[at:at] = data[at : at + size] * chance.randint(1, 8)
        elif change == 4:
            del data[at:]
        elif change == 5:
            data[at:at] = other[start : start + size]
        else:
            data[at : at + size] = other[start : start + size]
    return bytes(data[:4096])


@pytest.mark.parametrize(("name", "path"), [(name, path) for name, paths in SEEDS.items() for path in paths])
def test_a_file_of_the_corpus_breaks_no_promise(name: str, path: Path) -> None:
    HARNESSES[name](path.read_bytes())


def test_the_corpus_is_small() -> None:
    sizes = [path.stat().st_size for paths in SEEDS.values() for path in paths]
    assert len(sizes) < 100
    assert sum(sizes) < 100_000


@pytest.mark.parametrize("name", HARNESSES)
def test_mutations_of_the_corpus_break_no_promise(
    name: str, long: bool, record_property: Callable[[str, object], None]
) -> None:
    chance = random.Random(22)  # noqa: S311  (the same ones every time)
    seeds = [path.read_bytes() for path in SEEDS[name]]
    count = 100_000 if long else 1_500
    for number in range(count):
        data = mutated(chance, seeds)
        try:
            HARNESSES[name](data)
        except Exception as error:
            raise AssertionError(f"{number}: {data!r}") from error
    record_property(f"mutations of {name}", count)
    print(f"figure: 22: mutations of {name} without a finding: {count}")  # noqa: T201


# Files that ask for more than they are


def box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", 8 + len(data)) + kind + data


def avif(
    iloc: bytes = bytes(8), ipco: bytes = b"", ipma: bytes = bytes(8), iref: bytes = b"", iinf: bytes = bytes(6)
) -> bytes:
    """An AVIF that says nothing of its picture, but for these boxes."""
    parts = {b"pitm": b"\0\0\0\0\0\1", b"iloc": iloc, b"iinf": iinf, b"iref": bytes(4) + iref}
    meta = b"".join(box(kind, data) for kind, data in parts.items()) + box(b"iprp", box(b"ipco", ipco) + ipma)
    return box(b"ftyp", b"avif\0\0\0\0avif") + box(b"meta", bytes(4) + meta)


def ipma(*items: tuple[int, int]) -> bytes:
    """For each (item, count): as many times the first property."""
    return box(
        b"ipma",
        struct.pack(">II", 0, len(items)) + b"".join(struct.pack(">HB", *one) + b"\1" * one[1] for one in items),
    )


def tiff(tag: int) -> bytes:
    """A TIFF of one pixel whose tag has four million values of a byte."""
    usual = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 1}
    entries = {number: struct.pack("<HHII", number, 3, 1, value) for number, value in usual.items()}
    entries[tag] = struct.pack("<HHII", tag, 1, 4 * 10**6, 200)
    table = b"".join(entries[number] for number in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + b"\x08" * 5 * 10**6


GIF = b"GIF89a" + struct.pack("<HH", 1, 1) + b"\x80\0\0" + bytes(6)
XMP = b"XML:com.adobe.xmp\0\1\0\0\0"
AMPLIFIERS = {
    "65,535 extents of no byte for each of 1,000 items": lambda: avif(
        bytes(6) + struct.pack(">H", 1000) + b"".join(struct.pack(">HHH", n, 0, 65535) for n in range(1000))
    ),
    "a cell 10,000 times over, of 10,000 properties": lambda: avif(
        ipco=box(b"free", b""),
        ipma=ipma(*[(2, 250)] * 40),
        iref=box(b"dimg", struct.pack(">HH", 1, 10_000) + struct.pack(">H", 2) * 10_000),
    ),
    "lists of properties": lambda: avif(ipma=box(b"ipco", box(b"free", b"") * 10_000) * 30),
    "5,000 descriptions, each the whole file": lambda: (
        avif(
            bytes(6) + struct.pack(">H", 5000) + b"".join(struct.pack(">HHH", n, 0, 1) for n in range(5000)),
            ipco=box(b"ispe", struct.pack(">III", 0, 1, 1)) + box(b"av1C", bytes(4)),
            ipma=box(b"ipma", struct.pack(">IIHB", 0, 1, 1, 2) + b"\1\2"),
            iinf=bytes(6)
            + b"".join(box(b"infe", b"\2\0\0\0" + struct.pack(">HH4s", n, 0, b"Exif")) for n in range(5000)),
            iref=b"".join(box(b"cdsc", struct.pack(">HHH", n, 1, 1)) for n in range(5000)),
        )
        + box(b"free", bytes(3 * 10**6))
    ),
    "a packet of 16 MB in 40 kB": lambda: pictures.png(
        (1, 1), 0, 8, [b"a"], pictures.png_chunk(b"iTXt", XMP + zlib.compress(b"tiff:Orientation='3'" * 800_000))
    ),
    "a packet of 190,000 orientations": lambda: pictures.png(
        (1, 1), 0, 8, [b"a"], pictures.png_chunk(b"iTXt", XMP + zlib.compress(b"tiff:Orientation='3'" * 190_000))
    ),
    **{f"four million values of tag {tag}": partial(tiff, tag) for tag in (256, 258, 273, 338)},
}


def probed(data: bytes) -> float:
    """The seconds that it takes to find what is wrong with a file."""
    begun = time.thread_time()
    with contextlib.suppress(Damaged, Unsupported):
        formats.probe(data)
    return time.thread_time() - begun


@pytest.mark.parametrize("file", AMPLIFIERS.values(), ids=AMPLIFIERS)
def test_a_header_takes_no_time_and_memory_that_its_numbers_choose(
    file: Callable[[], bytes], record_property: Callable[[str, object], None]
) -> None:
    data = file()
    taken = probed(data)
    tracemalloc.start()
    try:
        probed(data)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    record_property("seconds", taken)
    record_property("bytes", most)
    assert taken < 0.5  # 0.1 at most where nothing else runs
    assert most < 20_000_000


@pytest.mark.parametrize(
    "blocks",
    [b"\x21\xff" + b"\1a" * 500_000 + b"\0", (b"\x2c" + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\2\0") * 100_000],
    ids=["sub-blocks", "frames"],
)
def test_a_gif_of_very_many_blocks_is_not_walked_to_its_end(blocks: bytes) -> None:
    # both are past the limit, so the longer takes no longer; to the end it would take five times as long
    short, long = (min(probed(GIF + blocks * count + b"\x3b") for _ in range(2)) for count in (6, 30))
    assert long < 2 * short
