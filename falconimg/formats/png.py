"""PNG: gray, RGB, palette, alpha, 8 and 16 bit, interlaced or not; one frame.

Written by falconimg._png; read by libdeflate and falconimg._png where a pixel is one or several whole bytes, by OpenCV
otherwise.

Source: PNG third edition: 5.3 (chunks), 5.6 (their order), 11.2 (IHDR, PLTE), 11.3.1.1 (tRNS), 11.3.2.3 (iCCP),
11.3.3.4 (iTXt), 11.3.4.5 (eXIf).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import deflate
import numpy as np

from falconimg import _png
from falconimg.errors import Damaged, Unsupported
from falconimg.formats import color, exif, opencv
from falconimg.formats.base import Encoded, Format, Header, Metadata, Options, Pixels

SIGNATURE = b"\x89PNG\r\n\x1a\n"
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # by colour type, 11.2.1
GRAY, RGB, PALETTE, GRAY_ALPHA, RGB_ALPHA = DEPTHS
XMP = b"XML:com.adobe.xmp"
MAX_CHUNKS = 2**16
MAX_TEXT = 4_000_000  # bytes of an XMP packet
MAX_ROW = 2**19  # bytes; _png takes no longer ones
MAX_ROWS = 2**31 - 2**20  # bytes of all rows together, as deflate's sizes are of 32 bits, and a chunk's of 31
BYTES = {GRAY: 1, RGB: 3, PALETTE: 1, RGB_ALPHA: 4}  # of a pixel of 8 bits, where it is read by _png


class Chunk(NamedTuple):
    """One chunk, framed by its length, kind and checksum; a view, nothing is copied."""

    kind: bytes
    framed: memoryview

    @property
    def data(self) -> memoryview:
        """What is within the frame."""
        return self.framed[8:-4]

    def checked(self) -> memoryview:
        """The chunk's data, if its checksum (5.5) is right."""
        if deflate.crc32(self.framed[4:-4]) != int.from_bytes(self.framed[-4:]):
            raise Damaged(f"PNG's chunk {self.kind!r} has a wrong checksum")
        return self.data


class Detail(NamedTuple):
    """What the header's walk found for the decoder."""

    pixel: int  # bytes of a stored pixel, where the picture is read by _png; else 0, and OpenCV reads it
    joined: int  # bytes of the chunks that are put together for the decoder
    key: int | None  # a gray picture's value that is transparent, as decoded


def chunks(data: bytes) -> Iterator[Chunk]:
    """Each chunk up to and with IEND, by their lengths alone."""
    view, place = memoryview(data), len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if place + 12 > len(data):
            raise Damaged("PNG data ends early")
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            raise Damaged("PNG data ends early")
        yield Chunk(kind, view[place : end + 4])
        if kind == b"IEND":
            return
        place = end + 4
    raise Unsupported(f"PNG of more than {MAX_CHUNKS} chunks")


def _inflated(data: bytes | memoryview, limit: int, what: str) -> bytes:
    """Decompressed, never more than `limit` bytes."""
    inflater = zlib.decompressobj()
    try:
        result = inflater.decompress(data, limit)
    except zlib.error:
        raise Damaged(f"PNG's {what} does not decompress") from None
    if inflater.unconsumed_tail and not inflater.eof:
        raise Unsupported(f"PNG's {what} is of more than {limit} bytes")
    if not inflater.eof:
        raise Damaged(f"PNG's {what} does not decompress")
    return result


def _profile(data: bytes) -> bytes:
    """The profile of an iCCP chunk: a name, zero, the method (0), zlib data."""
    _, _, rest = data.partition(b"\0")
    return _inflated(rest[1:], color.LIMIT, "colour profile")


def _packet(data: bytes) -> bytes | None:
    """The XMP packet of an iTXt chunk, None where it is another text."""
    keyword, _, rest = data.partition(b"\0")
    if keyword != XMP or len(rest) < 2:
        return None
    text = rest[2:].split(b"\0", 2)[-1]
    return _inflated(text, MAX_TEXT, "XMP packet") if rest[0] else text


def _palette_or_key(color_type: int, seen: dict[bytes, bytes]) -> None:
    """Check PLTE and tRNS against the colour type, as libpng would drop a wrong tRNS silently."""
    entries, rest = divmod(len(seen.get(b"PLTE", b"")), 3)
    if rest or entries > 256 or (color_type == PALETTE and not entries):
        raise Damaged("PNG's palette is missing or of a wrong length")
    if b"tRNS" not in seen:
        return
    length = len(seen[b"tRNS"])
    right = {GRAY: length == 2, RGB: length == 6, PALETTE: 1 <= length <= entries}
    if not right.get(color_type, False):
        raise Damaged("PNG's tRNS does not go with its colour type")


class Png(Format):
    """PNG, its pixels by _png and OpenCV, its metadata by this module."""

    name = "png"
    extensions = (".png",)
    media_type = "image/png"
    reads = "gray, RGB, palette, alpha, 1 to 16 bit, interlaced; APNG is refused"
    writes = "gray, RGB, RGBA, 8 and 16 bit"
    keeps = frozenset({"gray", "alpha", "16 bit", "icc", "exif", "xmp"})
    decode_cost = 2.2
    encode_cost = 1.01

    def sniff(self, head: bytes) -> bool:
        """See Format."""
        return head.startswith(SIGNATURE)

    def probe(self, data: bytes) -> Header:
        """See Format."""
        if data[12:16] != b"IHDR":
            raise Damaged("PNG does not begin with its header")
        seen: dict[bytes, bytes] = {}
        order: list[bytes] = []
        xmp, packed, pieces = None, 0, 0
        for chunk in chunks(data):
            asked = chunk.kind[:1].isupper() or chunk.kind == b"tRNS"
            if asked and (chunk.kind, order[-1:]) != (b"IDAT", [b"IDAT"]):
                order.append(chunk.kind)
            if chunk.kind == b"acTL":
                raise Unsupported("APNG (an animated PNG) is not read")
            if chunk.kind in (b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"eXIf") and chunk.kind not in seen:
                seen[chunk.kind] = bytes(chunk.checked())
            elif chunk.kind == b"iTXt" and xmp is None and chunk.data[: len(XMP)] == XMP:
                xmp = _packet(bytes(chunk.checked()))
            elif chunk.kind == b"IDAT":
                seen[b"IDAT"] = b""
                packed += len(chunk.data)
                pieces += 1
        if len(seen[b"IHDR"]) != 13 or b"IDAT" not in seen:
            raise Damaged("PNG has no pixels")
        width, height, bits, color_type, compression, filters, interlace = struct.unpack(">IIBBBBB", seen[b"IHDR"])
        if not 0 < width < 2**31 or not 0 < height < 2**31:
            raise Damaged(f"PNG's size is {width}x{height}")
        if bits not in DEPTHS.get(color_type, ()) or compression or filters or interlace > 1:
            raise Damaged("PNG's header has values that PNG does not know")
        samples = {RGB: 3, GRAY_ALPHA: 2, RGB_ALPHA: 4}.get(color_type, 1)
        if packed > 2 * height * (width * samples * bits // 8 + 2) + 2**16:  # libpng would inflate all of it
            raise Unsupported("a PNG whose data is much larger than its picture is not read")
        _palette_or_key(color_type, seen)
        clear = color_type in (GRAY_ALPHA, RGB_ALPHA) or b"tRNS" in seen
        channels: Literal[1, 3, 4] = 4 if clear else 1 if color_type == GRAY else 3
        key = None
        if color_type == GRAY and clear:  # the value that is transparent, as decoded: below 8 bit it is spread
            key = int.from_bytes(seen[b"tRNS"]) & (2**bits - 1)
            key = key * 255 // (2**bits - 1) if bits < 8 else key
        before = [b"PLTE"] * (color_type == PALETTE) + [b"tRNS"] * (color_type == PALETTE and clear)
        plain = not interlace and order == [b"IHDR", *before, b"IDAT", b"IEND"]
        pixel = BYTES.get(color_type, 0) * (bits // 8) if plain else 0
        if width * pixel > MAX_ROW or height * (1 + width * pixel) > MAX_ROWS:
            pixel = 0
        return Header(
            self.name, width, height, channels, 16 if bits == 16 else 8, exif.orientation(seen.get(b"eXIf")),
            metadata=Metadata(
                _profile(seen[b"iCCP"]) if b"iCCP" in seen else None,
                exif.upright(seen.get(b"eXIf")), exif.upright_xmp(xmp),
            ),
            detail=Detail(pixel, packed if pieces > 1 or not pixel else 0, key),
        )  # fmt: skip

    def decode_peak(self, header: Header) -> int:
        """See Format. The data are joined from their chunks; a palette's colours are put beside the indices.

        Where OpenCV's transparency is made here, the channels are put together beside it.
        """
        detail: Detail = header.detail
        if not detail.pixel:
            return detail.joined + int(header.nbytes * (self.decode_cost if detail.key is None else 2.7))
        row = 1 + header.width * detail.pixel
        colours = header.nbytes if detail.pixel < header.channels else 0
        return detail.joined + (header.height + 6) * row + colours + 2**16

    def decode(self, data: bytes, header: Header) -> Pixels:
        """See Format. Every chunk's checksum is checked. OpenCV drops a gray picture's tRNS: done here.

        OpenCV is given no texts and profiles, which it would decompress, each up to 8 MB.
        """
        detail: Detail = header.detail
        found = []
        for chunk in chunks(data):
            chunk.checked()
            if chunk.kind[:1].isupper() or chunk.kind == b"tRNS":
                found.append(chunk)
        if detail.pixel:
            opencv.require_room(self.decode_peak(header), f"PNG of {header.width}x{header.height}")
            return _pixels(found, header, detail.pixel)
        file = b"".join([SIGNATURE, *(chunk.framed for chunk in found)])
        if detail.key is None:
            return opencv.decode(file, header, self.decode_cost)
        gray = opencv.decode(file, replace(header, channels=1), self.decode_cost)
        alpha = np.where(gray == detail.key, 0, 2**header.depth - 1).astype(gray.dtype)
        return np.concatenate([gray, gray, gray, alpha], axis=2)

    def encode_peak(self, nbytes: int, channels: int, quality: int) -> tuple[int, int]:
        """See Format. The largest file is of the rows as they are; beside it are a block and a few rows."""
        file = int(self.encode_cost * nbytes) + 2**16  # a byte for each row
        return file + min(7 * nbytes, 7 * MAX_ROW) + 2**19, file

    def encode(self, pixels: Pixels, options: Options, metadata: Metadata) -> Encoded:
        """See Format. The metadata goes between IHDR and IDAT, where 5.6 wants the profile."""
        icc, notes = color.held(metadata.icc, pixels.shape[2])
        height, width, channels = pixels.shape
        color_type = {1: GRAY, 3: RGB, 4: RGB_ALPHA}[channels]
        head = [SIGNATURE]
        head += _framed(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, color_type, 0, 0, 0))
        if icc:
            head += _framed(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))
        if metadata.exif:
            head += _framed(b"eXIf", metadata.exif)
        if metadata.xmp:
            head += _framed(b"iTXt", XMP + bytes(5) + metadata.xmp)
        row = width * channels * pixels.itemsize
        if row > MAX_ROW or height * (1 + row) > MAX_ROWS:
            head.append(opencv.encode(".png", pixels, cost=3.3)[len(SIGNATURE) + 25 :])
            return Encoded(b"".join(head), notes)
        return Encoded(_png.write(pixels, b"".join(head)), notes)


def _pixels(found: list[Chunk], header: Header, pixel: int) -> Pixels:
    """The pixels, of chunks in the plainest order: IHDR, a palette's PLTE and tRNS, IDAT, IEND."""
    height, width = header.height, header.width
    palette = header.channels != 1 and pixel == 1
    size = height * (1 + width * pixel)
    packed = [chunk.data for chunk in found if chunk.kind == b"IDAT"]
    try:
        rows = deflate.zlib_decompress(packed[0] if len(packed) == 1 else b"".join(packed), size)
    except deflate.DeflateError:
        raise Damaged("PNG's pixels do not decompress, or are too many") from None
    if len(rows) != size or not _png.read(rows, height, width, pixel):
        raise Damaged("PNG's pixels are too few, or filtered as PNG does not know")
    if not palette:
        depth: Any = np.uint8 if header.depth == 8 else np.uint16
        return np.frombuffer(rows, depth, height * width * header.channels).reshape(height, width, -1)
    colours = np.zeros((256, header.channels), np.uint8)
    table = np.frombuffer(found[1].data, np.uint8).reshape(-1, 3)
    colours[: len(table), :3] = table[:, ::-1]
    if header.channels == 4:
        colours[:, 3] = 255
        colours[: len(found[2].data), 3] = np.frombuffer(found[2].data, np.uint8)
    pixels = np.empty((height * width, header.channels), np.uint8)
    _png.look_up(np.frombuffer(rows, np.uint8, height * width), colours, pixels)
    return pixels.reshape(height, width, -1)


def _framed(kind: bytes, data: bytes) -> list[bytes]:
    """A chunk's parts: length, kind, data, checksum."""
    return [struct.pack(">I", len(data)), kind, data, struct.pack(">I", deflate.crc32(data, deflate.crc32(kind)))]
