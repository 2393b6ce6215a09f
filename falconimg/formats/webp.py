"""WebP: lossy and lossless, with and without alpha; of an animation the first frame.

Source: RFC 9649, 2.3 to 2.7 (the container), 3.4 (VP8L's header); RFC 6386, 9.1 (VP8's frame header).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import cv2

from falconimg.errors import Damaged, Unencodable, Unsupported
from falconimg.formats import color, exif, opencv
from falconimg.formats.base import Encoded, Format, Header, Metadata, Options, Pixels
from falconimg.formats.pixels import as_color, to_8_bit

MAX_SIDE = 16383
MAX_CHUNKS = 2**16
ALPHA, ANIMATION = 0x10, 0x02  # VP8X's flags


def chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Each chunk's kind and bytes, by their lengths alone; each must lie within the RIFF size."""
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 > len(data) or size < 12:
        raise Damaged("WebP data ends early")
    view, place, end = memoryview(data), 12, size + 8
    for _ in range(MAX_CHUNKS):
        if end - place < 8:
            return
        kind, length = struct.unpack_from("<4sI", data, place)
        if place + 8 + length > end:
            raise Damaged("WebP data ends early")
        yield kind, view[place + 8 : place + 8 + length]
        place += 8 + length + (length & 1)
    raise Unsupported(f"WebP of more than {MAX_CHUNKS} chunks")


def _lossy(data: memoryview) -> tuple[int, int, bool]:
    """Width, height, and no alpha, of a VP8 key frame."""
    if len(data) < 10 or data[0] & 1 or bytes(data[3:6]) != b"\x9d\x01\x2a":
        raise Damaged("WebP's picture does not begin with a key frame")
    width, height = struct.unpack_from("<HH", data, 6)
    return width & 0x3FFF, height & 0x3FFF, False


def _lossless(data: memoryview) -> tuple[int, int, bool]:
    """Width, height, and whether alpha is used, of a VP8L picture."""
    if len(data) < 5 or data[0] != 0x2F:
        raise Damaged("WebP's picture does not begin with its signature")
    (bits,) = struct.unpack_from("<I", data, 1)
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)


class Webp(Format):
    """WebP by OpenCV."""

    name = "webp"
    extensions = (".webp",)
    media_type = "image/webp"
    reads = "RGB and RGBA; of an animation the first frame"
    writes = "RGB and RGBA, lossy; 16 bit becomes 8, gray becomes RGB"
    keeps = frozenset({"alpha", "icc", "exif", "xmp"})
    quality = 80
    decode_cost = 2.5  # lossless 2.4, lossy 2.0 to 2.3
    encode_cost = 11.0

    def sniff(self, head: bytes) -> bool:
        """See Format."""
        return head[:4] == b"RIFF" and head[8:12] == b"WEBP"

    def probe(self, data: bytes) -> Header:
        """See Format."""
        picture: tuple[int, int, bool] | None = None
        extended, several = None, False
        blocks: dict[bytes, bytes] = {}
        for kind, chunk in chunks(data):
            if kind == b"VP8X" and extended is None and len(chunk) >= 10:
                extended = bytes(chunk[:10])
            elif kind in (b"VP8 ", b"VP8L") and picture is None:
                picture = (_lossy if kind == b"VP8 " else _lossless)(chunk)
            elif kind == b"ANMF":
                several = True
            elif kind in (b"ICCP", b"EXIF", b"XMP "):
                blocks.setdefault(kind, bytes(chunk))
        if extended is not None:
            width, height = (int.from_bytes(extended[place : place + 3], "little") + 1 for place in (4, 7))
            several = several and bool(extended[0] & ANIMATION)
            alpha = bool(extended[0] & ALPHA)  # whatever the picture itself says, as OpenCV has it
            if picture is None and not several:
                raise Damaged("WebP has no picture")
        elif picture is not None:
            width, height, alpha = picture
        else:
            raise Damaged("WebP has no picture")
        if not width or not height:
            raise Damaged(f"WebP's size is {width}x{height}")
        block = blocks.get(b"EXIF", b"").removeprefix(b"Exif\0\0")  # as some writers begin it
        return Header(
            self.name, width, height, 4 if alpha else 3, orientation=exif.orientation(block),
            frames=2 if several else 1,
            metadata=Metadata(
                blocks.get(b"ICCP"), exif.upright(block), exif.upright_xmp(blocks.get(b"XMP "))
            ),
        )  # fmt: skip

    def decode_peak(self, header: Header) -> int:
        """See Format. An animation has canvases besides."""
        return int(header.nbytes * (self.decode_cost if header.frames == 1 else 4.0))

    def decode(self, data: bytes, header: Header) -> Pixels:
        """See Format."""
        return opencv.decode(data, header, self.decode_cost)

    def encode(self, pixels: Pixels, options: Options, metadata: Metadata) -> Encoded:
        """See Format."""
        height, width = pixels.shape[:2]
        if max(width, height) > MAX_SIDE:
            raise Unencodable(f"WebP holds at most {MAX_SIDE} pixels a side, the picture is {width}x{height}")
        pixels, notes = to_8_bit(pixels)
        icc = None
        if pixels.shape[2] == 1:  # a profile of gray does not describe the RGB that it becomes
            pixels, converted = color.to_srgb(pixels, metadata.icc)
        else:
            icc, converted = color.held(metadata.icc, pixels.shape[2])
        quality = [cv2.IMWRITE_WEBP_QUALITY, options.quality]
        file = opencv.encode(".webp", as_color(pixels), quality, metadata._replace(icc=icc), self.encode_cost)
        return Encoded(file, notes + converted)
