"""OpenCV's codecs from bytes to bytes, with every answer checked.

`cv2.imread` and `cv2.imwrite` are not used anywhere: they give half pictures and lose files on a full disk.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import cv2
import numpy as np

from falconimg.errors import Damaged, ImageProblem, OutOfMemory, SettingsProblem, TooLarge, Unencodable
from falconimg.formats.base import Header, Metadata, Pixels

cv2.setNumThreads(1)  # images run side by side, not the parts of one

ROOM = 2**26  # bytes that a codec may take whatever the picture's size

CODECS = ("opencv-python-headless", "simplejpeg", "deflate", "numpy")
"""The distributions that results depend on."""

# In the order of Metadata.
_KINDS = (cv2.IMAGE_METADATA_ICCP, cv2.IMAGE_METADATA_EXIF, cv2.IMAGE_METADATA_XMP)


@contextmanager
def errors_as(problem: type[ImageProblem], what: str) -> Iterator[None]:
    """Raise `problem` for an error of OpenCV's, but OutOfMemory where memory was what it lacked."""
    try:
        yield
    except MemoryError:
        raise OutOfMemory(f"no memory for {what}") from None
    except cv2.error as error:
        if error.code == cv2.Error.STS_NO_MEM:
            raise OutOfMemory(f"no memory for {what}") from None
        if error.func == "validateInputImageSize":
            raise TooLarge(f"{what} is more than the codecs were told to read") from None
        raise problem(f"{what}: the codec refused it") from None


@cache
def prove_limit(limit: int) -> None:
    """Have OpenCV refuse a picture of 1.2 times the pixels that it was told to read at most.

    Raises:
        SettingsProblem: it took the picture, or refused it for anything but its number of pixels
    """
    side = math.isqrt(limit * 6 // 5) + 1
    came = "none"
    try:
        cv2.imdecode(np.frombuffer(_black_png(side), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.func == "validateInputImageSize" and "CV_IO_MAX_IMAGE_PIXELS" in error.err:
            return
        came = ascii(error.err)[:100]
    raise SettingsProblem(
        f"FALCONIMG_MAX_PIXELS: expected OpenCV to refuse {side}x{side} pixels as more than {limit}, came {came}; "
        "it reads the limit when cv2 is imported, which may not happen before falconimg is"
    )


@cache
def libraries() -> dict[str, str]:
    """What reads and writes each format inside OpenCV, in OpenCV's own words: {"PNG": "libpng.so (ver 1.6.58)", …}."""
    section = re.search(r"^ *Media I/O: *\n((?: .*\n)*)", cv2.getBuildInformation(), re.MULTILINE)
    lines = re.findall(r"^ {4}(\S[^:\n]*): +(\S.*?) *$", section[1] if section else "", re.MULTILINE)
    return {name: re.sub(r"[^\s(]*/", "", text) for name, text in lines}  # without its builder's paths


def _black_png(side: int) -> bytes:
    """A valid PNG of side × side black pixels of 1 bit; the picture is never in memory as a whole."""
    row = bytes(1 + (side + 7) // 8)
    packer = zlib.compressobj(1)
    rows = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = [b"IHDR" + head, b"IDAT" + rows, b"IEND"]
    framed = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def require_room(size: float, what: str) -> None:
    """Try whether so many bytes, and ROOM, can be had; nothing is kept of them.

    Raises:
        OutOfMemory: they cannot
    """
    try:
        mmap.mmap(-1, int(size) + ROOM, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError):
        raise OutOfMemory(f"no memory for {what}") from None


def checked(array: Pixels | None, header: Header) -> Pixels:
    """The array as (h, w, c), if it is what the header promised.

    Raises:
        Damaged: the pixels are missing or of another shape than the header says
    """
    name = header.format.upper()
    if array is None:
        raise Damaged(f"{name} data is truncated or corrupt")
    array = array.reshape(array.shape[0], array.shape[1], -1)
    expected = (header.height, header.width, header.channels)
    if array.shape != expected or array.itemsize * 8 != header.depth:
        raise Damaged(f"{name}: expected {expected} of {header.depth} bits, came {array.shape} of {array.dtype}")
    return array


def decode(data: bytes, header: Header, cost: float) -> Pixels:
    """The stored pixels, no orientation applied.

    `cost` is the format's decode_cost: the memory that OpenCV may take is tried before, because some of its
    codecs end the process for want of it, and again where it answers nothing, because its readers say the same of
    damaged data and of memory that was refused.

    Raises:
        Damaged: OpenCV refused the data, or gave another shape than the header's
        TooLarge: more pixels than OpenCV was told to decode
        OutOfMemory: there was no memory
    """
    what = f"{header.format.upper()} of {header.width}x{header.height}"
    size = header.width * header.height * header.channels * header.depth // 8 * cost
    require_room(size, what)
    with errors_as(Damaged, what):
        array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        require_room(size, what)
    return checked(array, header)


def encode(
    extension: str,
    pixels: Pixels,
    params: Sequence[int] = (),
    metadata: Metadata | None = None,
    cost: float = 4.5,
) -> bytes:
    """The file that OpenCV makes of the pixels, with the metadata written by OpenCV.

    `cost` is the format's encode_cost: as for `decode`, the memory is tried.

    Raises:
        Unencodable: OpenCV refused
        OutOfMemory: there was no memory
    """
    kept = [(kind, block) for kind, block in zip(_KINDS, metadata or (), strict=False) if block]
    what = f"{extension} of {pixels.shape[1]}x{pixels.shape[0]}"
    require_room(pixels.nbytes * cost, what)
    with errors_as(Unencodable, what):
        if kept:
            blocks = [np.frombuffer(block, np.uint8) for _, block in kept]
            done, file = cv2.imencodeWithMetadata(extension, pixels, [kind for kind, _ in kept], blocks, params)
        else:
            done, file = cv2.imencode(extension, pixels, params)
        if not done or not file.size:
            require_room(pixels.nbytes * cost, what)
            raise Unencodable(f"{what}: refused")
        return file.tobytes()
