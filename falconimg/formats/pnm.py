"""PNM (PBM, PGM and PPM, plain and raw), read and written with NumPy alone: exact for every maximal value.

Source: Netpbm's pbm(5), pgm(5) and ppm(5).
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal, NamedTuple

import cv2
import numpy as np

from falconimg.errors import Damaged, Unsupported
from falconimg.formats import color
from falconimg.formats.base import Encoded, Format, Header, Metadata, Options, Pixels
from falconimg.formats.pixels import as_color, flattened

_SPACE = rb"(?:[ \t\n\v\f\r]|#[^\n\r]*[\n\r])"
_BITMAP = re.compile(rb"P[14]" + (_SPACE + rb"+(\d{1,9})") * 2 + _SPACE)
_MAP = re.compile(rb"P[2356]" + (_SPACE + rb"+(\d{1,9})") * 3 + _SPACE)
_NUMBERS = rb"(?:[ \t\n\v\f\r]*+[0-9]{1,5}+(?![0-9])){%d}+"  # possessive: it takes no memory for going back
_HEAD = 65536  # bytes that a header may take, comments included


class Detail(NamedTuple):
    """What `decode` needs besides the header."""

    kind: int  # the digit after P
    maximum: int
    start: int  # of the raster


class Pnm(Format):
    """.pnm: gray or colour, as the picture is; it reads all of them."""

    name = "pnm"
    extensions = (".pnm",)
    media_type = "image/x-portable-anymap"
    reads = "PBM, PGM and PPM, plain and raw, every maximal value"
    writes = "raw gray or RGB, 8 and 16 bit; alpha is flattened"
    keeps = frozenset({"gray", "16 bit"})
    decode_cost = 4.1
    encode_cost = 3.0
    channels: ClassVar[Literal[1, 3] | None] = None  # those that are written; None for as they come

    def sniff(self, head: bytes) -> bool:
        """See Format. PAM (P7) too, to say that it is not read."""
        return re.match(rb"P[1-7][ \t\n\v\f\r#]", head) is not None

    def probe(self, data: bytes) -> Header:
        """See Format."""
        kind = data[1] - ord("0")
        if kind == 7:
            raise Unsupported("PAM (P7) is not read")
        match = (_BITMAP if kind in (1, 4) else _MAP).match(data, 0, _HEAD)
        if match is None:
            raise Damaged("PNM's header ends early or holds something else than numbers")
        width, height, maximum = (int(number) for number in (*match.groups(), b"1")[:3])
        if not width or not height or not 0 < maximum < 65536:
            raise Damaged(f"PNM's header says {width}x{height}, maximum {maximum}")
        channels: Literal[1, 3] = 3 if kind in (3, 6) else 1
        row = (width + 7) // 8 if kind == 4 else width * channels * (1 if maximum < 256 else 2)
        samples = width * channels * height
        # A plain number takes a digit and, but in a bitmap, a space before the next one.
        least = {1: samples, 2: 2 * samples - 1, 3: 2 * samples - 1}.get(kind, row * height)
        if len(data) - match.end() < least:
            raise Damaged("PNM data ends early")
        end = match.end() + row * height
        more = kind > 3 and data[end : end + 1] == b"P"  # raw pictures may follow one another
        return Header(
            self.name, width, height, channels, 8 if maximum < 256 else 16, frames=2 if more else 1,
            detail=Detail(kind, maximum, match.end()),
        )  # fmt: skip

    def decode(self, data: bytes, header: Header) -> Pixels:
        """See Format."""
        detail: Detail = header.detail
        shape = (header.height, header.width, header.channels)
        if detail.kind in (1, 4):
            return np.where(_bits(data, header), np.uint8(0), np.uint8(255)).reshape(shape)  # 1 is black
        count = shape[0] * shape[1] * shape[2]
        samples = _numbers(data, detail, count) if detail.kind < 4 else _samples(data, detail, count)
        if samples.max() > detail.maximum:
            raise Damaged(f"PNM holds {samples.max()}, over its maximum of {detail.maximum}")
        top = 2**header.depth - 1
        if detail.maximum != top:  # rounded half up; 65535² and its half fit 32 bits
            samples = (samples.astype(np.uint32) * top + detail.maximum // 2) // detail.maximum
        pixels: Pixels = samples.astype(np.uint8 if header.depth == 8 else np.uint16).reshape(shape)
        return cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if header.channels == 3 else pixels

    def encode(self, pixels: Pixels, options: Options, metadata: Metadata) -> Encoded:
        """See Format."""
        pixels, converted = color.to_srgb(pixels, metadata.icc)
        pixels, opaque = flattened(pixels, options.background)
        notes = converted + opaque + color.dropped(self.name, metadata)
        if self.channels == 1 and pixels.shape[2] == 3:
            blue, green, red = cv2.split(pixels)
            if np.array_equal(blue, green) and np.array_equal(green, red):
                pixels = green[:, :, None]
            else:
                pixels, notes = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)[:, :, None], (*notes, "colour became gray")
        elif self.channels == 3:
            pixels = as_color(pixels)
        height, width, channels = pixels.shape
        head = b"P%d\n%d %d\n%d\n" % (5 if channels == 1 else 6, width, height, np.iinfo(pixels.dtype).max)
        return Encoded(head + pixels[:, :, ::-1].astype(pixels.dtype.newbyteorder(">")).tobytes(), notes)


class Pgm(Pnm):
    """.pgm: always gray."""

    name = "pgm"
    extensions = (".pgm",)
    media_type = "image/x-portable-graymap"
    writes = "raw gray, 8 and 16 bit; colour becomes gray, alpha is flattened"
    channels = 1


class Ppm(Pnm):
    """.ppm: always RGB."""

    name = "ppm"
    extensions = (".ppm",)
    media_type = "image/x-portable-pixmap"
    writes = "raw RGB, 8 and 16 bit; alpha is flattened"
    keeps = frozenset({"16 bit"})
    channels = 3


def _bits(data: bytes, header: Header) -> Pixels:
    """A bitmap's height times width values, 0 or 1, in order."""
    row, start = (header.width + 7) // 8, header.detail.start
    if header.detail.kind == 4:
        packed = np.frombuffer(data, np.uint8, row * header.height, start).reshape(header.height, row)
        return np.unpackbits(packed, axis=1, count=header.width)
    plain = data[start:].translate(None, b" \t\n\v\f\r")[: header.width * header.height]
    if len(plain) < header.width * header.height or plain.translate(None, b"01"):
        raise Damaged("plain PBM ends early or holds something else than 0 and 1")
    return np.frombuffer(plain, np.uint8) - np.uint8(ord("0"))


def _numbers(data: bytes, detail: Detail, count: int) -> Pixels:
    """A plain map's numbers."""
    match = re.compile(_NUMBERS % count).match(data, detail.start)
    if match is None:
        raise Damaged("plain PNM ends early or holds something else than numbers of at most five digits")
    return np.fromstring(match.group(), np.uint32, sep=" ")


def _samples(data: bytes, detail: Detail, count: int) -> Pixels:
    """A raw map's samples, big-endian where they have two bytes."""
    return np.frombuffer(data, np.uint8 if detail.maximum < 256 else ">u2", count, detail.start)
