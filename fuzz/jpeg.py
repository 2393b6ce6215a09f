"""Any bytes as a JPEG for the native decoder, and what it decodes for the encoder; to be built with sanitizers.

The first byte says the scales; the rest is a file. What simplejpeg refuses must be refused; what is decoded must be
what it decodes, and be encoded to its bytes, also where it is only a part. Accesses beyond an array and undefined
arithmetic are for the sanitizers to notice.
"""

from __future__ import annotations

import re

import numpy as np
import simplejpeg

from falconimg._jpeg import DamagedError, UnsupportedError, encode, planes

SCALES = (1, 2, 4, 8)
QUALITY = 97  # from 96 on simplejpeg's transform is the accurate one, as the encoder's is
PIXELS = 2**20  # a header of a few bytes may promise more, which would take its time


def one(data: bytes) -> None:
    """Decode once at the scales asked for, and once whole."""
    choice, file = data[0] if data else 0, data[1:]
    if most(file) > PIXELS:
        return
    try:
        shrunk = planes(file, SCALES[choice & 3], SCALES[choice >> 2 & 3])
    except (DamagedError, UnsupportedError):
        shrunk = None
    try:
        whole = planes(file)
    except (DamagedError, UnsupportedError):
        assert shrunk is None
        return
    assert shrunk is not None
    for number, (small, large) in enumerate(zip(shrunk, whole, strict=True)):
        scale = SCALES[choice >> 2 & 3 if number else choice & 3]
        assert small.shape == tuple(-(-side // scale) for side in large.shape)
    assert np.array_equal(whole[0], simplejpeg.decode_jpeg(file, "GRAY", strict=True)[:, :, 0])
    height, width = whole[0].shape
    again(whole[0][choice >> 4 & height - 1 :, choice >> 4 & width - 1 :])
    if len(whole) == 3 and whole[1].shape == ((height + 1) // 2, (width + 1) // 2):
        encode(simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8), QUALITY, "BGR", "420"), *whole)


def again(part: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> None:
    """Encode it, to the library's own bytes."""
    file = simplejpeg.encode_jpeg(np.ascontiguousarray(part)[:, :, np.newaxis], QUALITY, "GRAY", "Gray")
    assert encode(file, part) == file


def most(file: bytes) -> int:
    """The most pixels that any frame header in it could promise."""
    frames = re.finditer(rb"(?=\xff[\xc0\xc1]...(..)(..))", file, re.DOTALL)
    return max((int.from_bytes(frame[1]) * int.from_bytes(frame[2]) for frame in frames), default=0)
