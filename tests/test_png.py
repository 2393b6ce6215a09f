"""PNG's rows and zlib stream by falconimg._png, against a model in NumPy, zlib, OpenCV and Pillow."""

from __future__ import annotations

import gc
import io
import mmap
import struct
import threading
import time
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import cv2
import deflate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from falconimg import _png, formats
from falconimg.errors import Damaged, OutOfMemory
from falconimg.formats import Options, Pixels, png
from tests import hostile, pictures
from tests.pictures import png_chunk

Array = Any
PIXELS = {1: (1, 8), 2: (1, 16), 3: (3, 8), 4: (4, 8), 6: (3, 16), 8: (4, 16)}  # by their bytes: channels, depth


def stored(pixels: Pixels) -> Array:
    """The bytes of each row, (h, n), as PNG has them: RGB, the high byte first."""
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    turned: Array = np.ascontiguousarray(pixels[:, :, order], pixels.dtype.newbyteorder(">"))
    return turned.reshape(len(pixels), -1).view(np.uint8)


def filtered(rows: Array, kinds: Array, pixel: int) -> Array:
    """Each row of bytes with the type of its filter before it, filtered (9.2)."""
    x = rows.astype(np.int16)
    a, b, c = (np.zeros_like(x) for _ in range(3))
    a[:, pixel:] = x[:, :-pixel]
    b[1:] = x[:-1]
    c[1:, pixel:] = x[:-1, :-pixel]
    p = a + b - c
    pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
    paeth = np.where((pa <= pb) & (pa <= pc), a, np.where(pb <= pc, b, c))
    guess = np.choose(np.asarray(kinds)[:, None], [np.zeros_like(x), a, b, (a + b) // 2, paeth])
    return np.hstack([np.asarray(kinds)[:, None], x - guess]).astype(np.uint8)


def written(pixels: Pixels) -> tuple[bytes, Array]:
    """The file that _png makes, and its rows as zlib inflates them; the chunks, their checksums and sizes checked."""
    file = _png.write(pixels, b"head")
    (length,) = struct.unpack_from(">I", file, 4)
    assert file[:4] == b"head"
    assert file[8:12] == b"IDAT"
    assert file[12 + length :] == struct.pack(">I", zlib.crc32(file[8 : 12 + length])) + png_chunk(b"IEND", b"")
    inflater = zlib.decompressobj()
    rows = np.frombuffer(inflater.decompress(file[12 : 12 + length]), np.uint8)
    assert inflater.eof
    assert not inflater.unused_data
    return file, rows.reshape(len(pixels), -1)


def check_written(pixels: Pixels) -> bytes:
    """Its rows are those of the model, for the filters that were chosen; no larger than as it is."""
    file, rows = written(pixels)
    assert set(rows[:, 0].tolist()) <= {1, 2, 4}
    assert np.array_equal(rows, filtered(stored(pixels), rows[:, 0], pixels.itemsize * pixels.shape[2]))
    assert len(file) <= rows.size + 6 * (rows.size // 65_535 + rows.size // 131_072 + 2) + 30
    return file


def read_back(rows: Array, width: int, pixel: int) -> Pixels:
    """The pixels that _png makes of filtered rows."""
    data = bytearray(rows.tobytes())
    assert _png.read(data, len(rows), width, pixel)
    channels, depth = PIXELS[pixel]
    dtype: Any = np.uint8 if depth == 8 else np.uint16
    return np.frombuffer(data, dtype, len(rows) * width * channels).reshape(len(rows), width, channels)


def lines(height: int, width: int, channels: int, depth: int) -> Pixels:
    """Runs of all lengths, with other values between them."""
    pixels = pictures.noise(height, width, channels, depth, seed=2)
    for y in range(height):
        pixels[y, y % 7 : y % 7 + y] = pixels[y, 0]
    return pixels


KINDS: dict[str, Callable[[int, int, int, int], Pixels]] = {
    "noise": pictures.noise,
    "gradient": pictures.gradient,
    "text": pictures.text,
    "flat": lambda height, width, channels, depth: pictures.flat(height, width, (7, 200, 90, 3)[:channels], depth),
    "lines": lines,
    "black": lambda height, width, channels, depth: pictures.flat(height, width, (0,) * channels, depth),
}
SIZES = [(1, 1), (1, 2), (2, 1), (1, 700), (700, 1), (3, 3), (17, 23), (300, 263)]


@pytest.mark.parametrize("pixel", PIXELS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_written_picture_is_its_filtered_rows_and_read_back_by_all(
    size: tuple[int, int], kind: str, pixel: int
) -> None:
    pixels = KINDS[kind](*size, *PIXELS[pixel])
    check_written(pixels)
    file = pictures.encoded("png", pixels)
    by_opencv = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    assert by_opencv is not None
    assert by_opencv.dtype == pixels.dtype
    assert np.array_equal(by_opencv.reshape(pixels.shape), pixels)
    ours = formats.decode(file, formats.probe(file))
    assert ours.dtype == pixels.dtype
    assert np.array_equal(ours, pixels)
    if pixels.dtype == np.uint8:
        assert np.array_equal(pictures.read_by_pillow(file), pixels)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_view_of_any_stride_and_place_is_written_as_its_copy(data: st.DataObject) -> None:
    channels, depth = PIXELS[data.draw(st.sampled_from(sorted(PIXELS)))]
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 60))
    dtype = np.dtype(np.uint8 if depth == 8 else np.uint16)
    few = data.draw(st.integers(1, 2**depth))  # of few values there are many runs
    before, gap = data.draw(st.integers(0, 9)) * dtype.itemsize, data.draw(st.integers(0, 20)) * dtype.itemsize
    stride = width * channels * dtype.itemsize + gap
    buffer = np.zeros(before + (height - 1) * stride + width * channels * dtype.itemsize, np.uint8)
    shape, strides = (height, width, channels), (stride, channels * dtype.itemsize, dtype.itemsize)
    view: Pixels = np.ndarray(shape, dtype, buffer, before, strides)
    view[:] = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, few, shape)
    if data.draw(st.booleans()):
        view = view[::-1]
    assert check_written(view) == check_written(view.copy())


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_rows_of_any_filters_are_read_as_the_model_has_them(data: st.DataObject) -> None:
    pixel = data.draw(st.sampled_from(sorted(PIXELS)))
    height, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 70))
    kinds = data.draw(st.lists(st.integers(0, 4), min_size=height, max_size=height))
    smooth = data.draw(st.booleans())
    source = (pictures.gradient if smooth else pictures.noise)(height, width, *PIXELS[pixel])
    assert np.array_equal(read_back(filtered(stored(source), kinds, pixel), width, pixel), source)


def test_paeths_choice_is_the_standards_whatever_is_left_and_above() -> None:
    a, b = (side.ravel() for side in np.meshgrid(np.arange(256), np.arange(256)))
    for c in range(0, 256, 5):
        rows = np.zeros((2, 2 * 65536), np.uint8)
        rows[0, 0::2], rows[0, 1::2], rows[1, 0::2] = c, b, a
        # each second one below has these three about it
        assert np.array_equal(read_back(filtered(rows, [0, 4], 1), rows.shape[1], 1)[:, :, 0], rows)


@pytest.mark.parametrize("pixel", PIXELS)
def test_a_row_of_an_unknown_filter_is_not_read(pixel: int) -> None:
    rows = np.zeros((5, 1 + 9 * pixel), np.uint8)
    for kind in (5, 6, 128, 255):
        for y in range(5):
            rows[:, 0] = 4
            rows[y, 0] = kind
            assert not _png.read(bytearray(rows.tobytes()), 5, 9, pixel)


@pytest.mark.parametrize(
    ("size", "height", "width", "pixel"),
    [
        (28, 4, 2, 5), (28, 4, 2, 0), (28, 4, 2, -3), (27, 4, 2, 3), (29, 4, 2, 3), (0, 0, 2, 3), (0, 4, 0, 3),
        (28, -4, -2, 3), (4, 4, 2**62, 4), (4, 4, 2**61, 8), (28, 2**62, 2, 3), (2**19 + 2, 1, 2**19 + 1, 1),
        (2**19 + 5, 1, 2**17 + 1, 4),
    ],
)  # fmt: skip
def test_what_are_not_a_pictures_rows_is_refused(size: int, height: int, width: int, pixel: int) -> None:
    with pytest.raises(ValueError, match="rows"):
        _png.read(bytearray(size), height, width, pixel)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((0, 4, 3), np.uint8), np.zeros((4, 0, 3), np.uint8), np.zeros((4, 4, 0), np.uint8),
        np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 5), np.uint16), np.zeros((4, 8, 3), np.uint8)[:, ::2],
        np.zeros((4, 4, 3), np.uint8)[:, ::-1], np.zeros((4, 4, 3), np.uint16)[:, :, ::-1],
        np.zeros((4, 4, 8), np.uint8)[:, :, ::2], np.zeros((8, 2**19 // 3 + 1, 3), np.uint8),
        np.zeros((4, 2**16 + 1, 4), np.uint16), np.broadcast_to(np.uint8(1), (2**30, 1, 1)),
        np.broadcast_to(np.zeros((1, 5000, 3), np.uint8), (150_000, 5000, 3)),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_picture_of_rows_in_one_piece_is_not_written(pixels: Array) -> None:
    with pytest.raises(ValueError, match="in one piece" if pixels.size < 10**6 else "more than"):
        _png.write(pixels, b"")


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("count", [1, 2, 300])
def test_each_index_is_its_colour(channels: int, count: int) -> None:
    palette: Array = pictures.noise(256, 1, channels)[:, 0].copy()
    indices: Array = pictures.noise(1, count, 1, seed=1).ravel()
    room: Array = np.zeros((count + 1, channels), np.uint8)
    _png.look_up(indices, palette, room[:-1])
    assert np.array_equal(room[:-1], palette[indices])
    assert not room[-1].any()
    wrong = (palette[:255], palette[:, :2].copy(), np.zeros((256, 5), np.uint8))
    for given_palette, given_room in [*((table, room[:-1]) for table in wrong), (palette, room)]:
        with pytest.raises(ValueError, match="not indices"):
            _png.look_up(indices, given_palette, given_room)
    with pytest.raises(ValueError, match="not indices"):
        _png.look_up(indices[:0], palette, room[:0])


def graphics() -> dict[str, Pixels]:
    """Pictures as screens have them."""
    page = pictures.text(600, 900)
    window = page.copy()
    window[:30], window[:, :150] = (120, 90, 60), (240, 240, 240)
    window[200:400, 400:700] = pictures.gradient(200, 300)
    return {
        "text": page,
        "window": window,
        "flat": pictures.flat(600, 900, (10, 20, 30)),
        "gray text": pictures.text(600, 900, 1),
        "ramp": pictures.gradient(600, 900),
        "clear text": pictures.text(600, 900, 4),
        "deep ramp": pictures.gradient(600, 900, 3, 16),
    }


@pytest.mark.parametrize("name", [*graphics(), *pictures.photographs()])
def test_a_file_is_no_larger_than_opencvs(name: str) -> None:
    pixels = (graphics() | pictures.photographs())[name]
    assert len(pictures.encoded("png", pixels)) <= len(cv2.imencode(".png", pixels)[1])


# Reading files


def file_of(pixels: Pixels, kinds: Any, level: int = 6, pieces: int = 1) -> bytes:
    """A PNG of rows with these filters by zlib, its data in so many chunks."""
    height, width, channels = pixels.shape
    rows = filtered(stored(pixels), kinds, channels * pixels.itemsize)
    head = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    data = zlib.compress(rows.tobytes(), level)
    cuts = [len(data) * n // pieces for n in range(pieces + 1)]
    idats = [png_chunk(b"IDAT", data[start:end]) for start, end in pairwise(cuts)]
    return b"".join([png.SIGNATURE, png_chunk(b"IHDR", head), *idats, png_chunk(b"IEND", b"")])


def by_opencv(file: bytes) -> Array:
    """What OpenCV reads; None where it refuses."""
    return cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.fixture
def no_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV's reader, and its writer, are not to be called."""

    def called(*_: object) -> None:
        raise AssertionError("OpenCV was called")

    monkeypatch.setattr(cv2, "imdecode", called)
    monkeypatch.setattr(cv2, "imencode", called)


@pytest.mark.parametrize("pixel", PIXELS)
@pytest.mark.parametrize(("level", "pieces"), [(0, 1), (1, 2), (9, 40)])
@pytest.mark.usefixtures("no_opencv")
def test_a_file_of_whole_bytes_is_read_without_opencv(pixel: int, level: int, pieces: int) -> None:
    source = pictures.noise(40, 33, *PIXELS[pixel])
    file = file_of(source, np.arange(40) % 5, level, pieces)
    pixels = formats.decode(file, formats.probe(file))
    assert pixels.dtype == source.dtype
    assert np.array_equal(pixels, source)
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


@pytest.mark.parametrize("clear", [0, 1, 20])
@pytest.mark.usefixtures("no_opencv")
def test_a_palette_of_8_bits_is_read_without_opencv(clear: int) -> None:
    table: Array = pictures.noise(1, 20, 4)[0].copy()
    table[clear:, 3] = 255
    indices = pictures.noise(9, 14, 1) % 20
    chunks = png_chunk(b"PLTE", table[:, 2::-1].tobytes())
    chunks += png_chunk(b"tRNS", table[:clear, 3].tobytes()) if clear else b""
    file = pictures.png((14, 9), 3, 8, [row.tobytes() for row in indices], chunks)
    pixels = formats.decode(file, formats.probe(file))
    assert np.array_equal(pixels, table[indices[:, :, 0]][:, :, : 4 if clear else 3])


def odd_files() -> dict[str, bytes]:
    """Files that are read, or refused, as OpenCV has it: what is odd about them is their order or their palette."""
    source = pictures.noise(9, 14, 3)
    file = file_of(source, np.arange(9) % 5, pieces=2)
    rows = filtered(stored(source), np.arange(9) % 5, 3).tobytes()
    start, end, tail = file[:33], len(file) - 12, file[-12:]
    palette, key = png_chunk(b"PLTE", bytes(range(30))), png_chunk(b"tRNS", bytes(range(10)))
    indices = [bytes(range(place, place + 14)) for place in range(9)]
    first = file.index(b"IDAT") - 4
    second = file.index(b"IDAT", first + 8) - 4
    return {
        "a text between the data": file[:second] + png_chunk(b"tEXt", b"a\0b") + file[second:],
        "a palette in colour": start + palette + file[33:],
        "a palette in colour between the data": file[:second] + palette + file[second:],
        "a palette in colour at the end": file[:end] + palette + tail,
        "an unknown critical chunk": start + png_chunk(b"CRIT", b"x") + file[33:],
        "an unknown critical chunk at the end": file[:end] + png_chunk(b"CRIT", b"x") + tail,
        "two headers": start + start[8:] + file[33:],
        "bytes behind the stream": start + png_chunk(b"IDAT", zlib.compress(rows) + b"more") + tail,
        "an empty IDAT before": start + png_chunk(b"IDAT", b"") + file[33:],
        "an empty IDAT behind": file[:end] + png_chunk(b"IDAT", b"") + tail,
        "indices beyond the palette": pictures.png((14, 9), 3, 8, indices, palette),
        "indices beyond the clear palette": pictures.png((14, 9), 3, 8, indices, palette + key),
        "two palettes": pictures.png((14, 9), 3, 8, indices, palette + png_chunk(b"PLTE", bytes(60))),
        "transparency before its palette": pictures.png((14, 9), 3, 8, indices, key + palette),
        "a palette behind the pixels": pictures.png((14, 9), 3, 8, indices, b"", palette),
        "transparency behind the pixels": pictures.png((14, 9), 3, 8, indices, palette, key),
        "an end with bytes": file[:end] + png_chunk(b"IEND", b"end"),
    }


@pytest.mark.parametrize("name", odd_files())
def test_an_odd_file_is_read_or_refused_as_opencv_has_it(name: str) -> None:
    file = odd_files()[name]
    bare = file.replace(png_chunk(b"tEXt", b"a\0b"), b"")
    expected = by_opencv(bare)
    try:
        pixels: Array = formats.decode(file, formats.probe(file))
    except Damaged:
        pixels = None
    if expected is None or expected.shape[2] != formats.probe(file).channels:
        assert pixels is None
    else:
        assert pixels is not None
        assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("pixel", PIXELS)
def test_a_stream_with_a_bit_changed_is_read_only_where_zlib_finds_it_whole(pixel: int) -> None:
    source = pictures.gradient(6, 9, *PIXELS[pixel])
    file = file_of(source, [4, 4, 1, 2, 3, 0])
    place, header, refused = 41, formats.probe(file), 0
    (length,) = struct.unpack_from(">I", file, 33)
    for at in range(length):
        for bit in range(8):
            data = bytearray(file[place : place + length])
            data[at] ^= 1 << bit
            changed = file[:33] + png_chunk(b"IDAT", bytes(data)) + file[place + length + 4 :]
            try:
                pixels = formats.decode(changed, header)
            except Damaged:
                refused += 1
                continue
            # another window in the first byte, or other rows of the same sum
            assert len(zlib.decompress(data)) == 6 * (1 + 9 * pixel)
            assert np.array_equal(pixels, by_opencv(changed).reshape(source.shape))
    assert refused > 7 * length


@pytest.mark.parametrize("pixel", PIXELS)
def test_a_stream_of_other_than_the_rows_bytes_or_of_an_unknown_filter_is_damage(pixel: int) -> None:
    source = pictures.noise(6, 9, *PIXELS[pixel])
    file, rows = file_of(source, [0] * 6), filtered(stored(source), [0] * 6, pixel)
    unknown = rows.copy()
    unknown[3, 0] = 5
    cut = (rows.tobytes()[:-1], rows[:-1].tobytes(), rows.tobytes()[:1], b"", unknown.tobytes())
    more = (rows.tobytes() + b"\0", rows.tobytes() * 2)
    for data in (*map(zlib.compress, cut + more), zlib.compress(rows)[:-4], zlib.compress(rows)[:-1], b""):
        damaged = file[:33] + png_chunk(b"IDAT", data) + file[-12:]
        with pytest.raises(Damaged):
            formats.decode(damaged, formats.probe(damaged))


def test_a_picture_beyond_our_sizes_is_opencvs(monkeypatch: pytest.MonkeyPatch) -> None:
    source = pictures.noise(20, 30, 3)
    meta = formats.Metadata(exif=pictures.exif_block())
    ours = formats.encode("png", source, Options(), meta).data
    for name, most in (("MAX_ROW", 89), ("MAX_ROWS", 1819)):
        with monkeypatch.context() as patch:
            patch.setattr(png, name, most)
            theirs = formats.encode("png", source, Options(), meta).data
            assert formats.probe(theirs).detail.pixel == 0
            assert formats.probe(theirs).metadata.exif == meta.exif
            assert np.array_equal(formats.decode(theirs, formats.probe(theirs)), source)
            assert theirs != ours
            patch.setattr(png, name, most + 1)
            assert formats.encode("png", source, Options(), meta).data == ours
            assert formats.probe(ours).detail.pixel == 3


def test_the_widest_row_that_is_ours_is_written_and_read() -> None:
    source = pictures.noise(3, 65_500, 4, 16)
    assert formats.probe(check := pictures.encoded("png", source)).detail.pixel == 8
    assert np.array_equal(formats.decode(check, formats.probe(check)), source)


def test_no_memory_for_a_png_is_never_called_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise MemoryError

    file = hostile.good()["png-rgb"]
    for module, name in ((deflate, "zlib_decompress"), (_png, "read"), (mmap, "mmap")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fails)
            with pytest.raises(OutOfMemory):
                formats.decode(file, formats.probe(file))
    monkeypatch.setattr(_png, "write", fails)
    with pytest.raises(OutOfMemory):
        pictures.encoded("png", pictures.noise(4, 4))


def test_other_threads_run_while_a_picture_is_written_and_read() -> None:
    source = pictures.noise(3000, 4000, 3, 16)
    source[1::2] = source[:1]
    file = pictures.encoded("png", source)
    rows = filtered(stored(source[:1500]), np.full(1500, 4), 6)
    tasks: list[Callable[[], object]] = [
        lambda: _png.write(source, b""),
        lambda: deflate.zlib_decompress(file[41:-16], 3000 * 24001),
        lambda: _png.read(bytearray(rows.tobytes()), 1500, 4000, 6),
    ]
    gc.collect()
    for task in tasks:
        turns, done = 0, threading.Event()

        def run(task: Callable[[], object] = task, done: threading.Event = done) -> None:
            task()
            done.set()

        thread = threading.Thread(target=run)
        thread.start()
        begun = time.thread_time()
        while not done.is_set():
            turns += 1
            time.sleep(0.0005)
        thread.join()
        assert turns > 5, (task, time.thread_time() - begun)


def test_pillow_reads_what_is_written_in_16_bit_gray() -> None:
    source = pictures.gradient(30, 40, 1, 16)
    with Image.open(io.BytesIO(pictures.encoded("png", source))) as picture:
        assert np.array_equal(np.array(picture), source[:, :, 0])
