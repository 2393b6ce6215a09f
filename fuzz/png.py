"""Any bytes as pictures, rows and streams of PNG, against tests/test_png.py's model; to be built with sanitizers.

What is written must be the model's rows, what is read the model's pixels; a stream is read only where zlib finds it
whole. Accesses beyond an array are for AddressSanitizer to notice.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from falconimg import _png, formats
from falconimg.errors import Damaged, Unsupported
from fuzz.core import Input
from tests import test_png
from tests.pictures import png_chunk

Array = Any


def one(data: bytes) -> None:
    """Make one call, of the kind that the first byte says."""
    given = Input(data)
    KINDS[given.below(len(KINDS))](given)


def samples(given: Input, count: int) -> Array:
    """So many bytes: runs, and what is between them."""
    result: Array = np.zeros(count, np.uint8)
    place = 0
    while place < count and given.place < len(given.data):
        size = min(given.below(256) + 1, count - place)
        result[place : place + size] = given.below(256) if given.below(2) else given.words(size, np.uint8)
        place += size
    return result


def pictures(given: Input) -> None:
    """A picture somewhere in a buffer of just the bytes it needs: written as the model has it."""
    pixel = (1, 2, 3, 4, 6, 8)[given.below(6)]
    channels, depth = test_png.PIXELS[pixel]
    height, width, gap = given.below(24) + 1, given.below(90) + 1, given.below(4)
    dtype = np.dtype(np.uint8 if depth == 8 else np.uint16)
    row = (width * channels + gap) * dtype.itemsize
    buffer = samples(given, (height - 1) * row + width * pixel)
    view: Array = np.ndarray((height, width, channels), dtype, buffer, 0, (row, pixel, dtype.itemsize))
    before = buffer.copy()
    test_png.check_written(view[::-1] if given.below(2) else view)
    assert np.array_equal(buffer, before)


def rows(given: Input) -> None:
    """Rows of any filters: the picture that the model filters to them, or none for a filter that there is not."""
    pixel = (1, 2, 3, 4, 6, 8)[given.below(6)]
    height, width = given.below(9) + 1, given.below(40) + 1
    kinds = [given.below(5) for _ in range(height)]
    channels, depth = test_png.PIXELS[pixel]
    dtype: Any = np.uint8 if depth == 8 else np.uint16
    source = np.frombuffer(samples(given, height * width * pixel).tobytes(), dtype).reshape(height, width, channels)
    filtered = test_png.filtered(test_png.stored(source), kinds, pixel)
    assert np.array_equal(test_png.read_back(filtered, width, pixel), source)
    filtered[given.below(height), 0] = 5 + given.below(251)
    assert not _png.read(bytearray(filtered.tobytes()), height, width, pixel)


def wild(given: Input) -> None:
    """Rows of any numbers: refused, or those of a picture."""
    data = bytearray(samples(given, given.below(200) + 1).tobytes())
    height, width, pixel = (given.below(9) if given.below(2) else given.side() for _ in range(3))
    try:
        _png.read(data, height, width, pixel)
    except (ValueError, OverflowError):
        return
    assert len(data) == height * (1 + width * pixel)
    assert pixel in test_png.PIXELS


def streams(given: Input) -> None:
    """A file with a stream of any bytes, or one that was whole before: read only where zlib finds it so."""
    width, height = given.below(12) + 1, given.below(12) + 1
    color_type, bits = ((0, 8), (0, 16), (2, 8), (2, 16), (3, 8), (6, 8), (6, 16), (0, 4))[given.below(8)]
    size = height * (1 + (width * {0: 1, 2: 3, 3: 1, 6: 4}[color_type] * bits + 7) // 8)
    whole: Array = samples(given, size)
    whole[:: size // height] %= 6
    data = bytearray(zlib.compress(whole.tobytes()[: size - given.below(2)] + bytes(given.below(2)), given.below(10)))
    for _ in range(given.below(4)):
        data[given.below(256) * len(data) // 256] = given.below(256)
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0))
    palette = png_chunk(b"PLTE", bytes(range(30))) if color_type == 3 else b""
    cut = given.below(len(data) + 1)
    parts = [png_chunk(b"IDAT", bytes(part)) for part in (data[:cut], data[cut:])]
    file = b"".join([b"\x89PNG\r\n\x1a\n", head, palette, *parts, png_chunk(b"IEND", b"")])
    try:
        header = formats.probe(file)
        pixels = formats.decode(file, header)
    except (Damaged, Unsupported):
        return
    assert pixels.shape == (height, width, header.channels)
    if header.detail.pixel:
        assert len(zlib.decompress(data)) == size
    assert np.array_equal(pixels, test_png.by_opencv(file).reshape(pixels.shape))


def colours(given: Input) -> None:
    """Indices and palettes of any length."""
    count, channels, entries = given.below(80), given.below(4) + 2, (256, 256, 255, 257, given.side())[given.below(5)]
    indices = given.words(count, np.uint8)
    palette = given.words(min(max(entries, 0), 300) * channels, np.uint8).reshape(-1, channels)
    result: Array = np.zeros((count + given.below(3) // 2, channels), np.uint8)
    fits = len(palette) == 256 and channels in (3, 4) and len(result) == count > 0
    try:
        _png.look_up(indices, palette, result)
    except ValueError:
        assert not fits
        return
    assert fits
    assert np.array_equal(result, palette[indices])


KINDS: tuple[Callable[[Input], None], ...] = (pictures, rows, wild, streams, colours)
