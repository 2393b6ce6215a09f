"""TIFF: the first page, gray, RGB or RGBA, 8 or 16 bit, chunky, in strips or tiles.

Source: TIFF 6.0: sections 2 (the structure), 8 (baseline tags), 13 (LZW), 14 (predictor), 15 (tiles), 18
(ExtraSamples), 21 (YCbCr); Technical Note 2 (JPEG); Supplement 2 (deflate); ICC.1:2022, B.4 (ICC);
XMP part 3, 1.1.6.

OpenCV's reader gives half pictures for damaged 8-bit data, multiplies colours by alpha, and may turn the picture.
So strips and tiles are decoded here, but for LZW and PackBits, whose strips OpenCV checks one by one.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import Literal, NamedTuple

import cv2
import numpy as np

from falconimg.errors import Damaged, Unencodable, Unsupported
from falconimg.formats import color, exif, jpeg, opencv
from falconimg.formats.base import Encoded, Format, Header, Metadata, Options, Pixels

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
OFFSETS, ORIENTATION, SAMPLES, ROWS, COUNTS, PLANAR, PREDICTOR = 273, 274, 277, 278, 279, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS = 322, 323, 324, 325
EXTRA_SAMPLES, SAMPLE_FORMAT, JPEG_TABLES, XMP, ICC = 338, 339, 347, 700, 34675
NONE, LZW, JPEG, DEFLATE, OLD_DEFLATE, PACKBITS = 1, 5, 7, 8, 32946, 32773
GRAY, RGB, YCBCR = 1, 2, 6
ASSOCIATED, STRAIGHT = 1, 2
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4}  # bytes of a value by its type, those that are read
_CODES = {1: "B", 3: "H", 4: "I"}
MAX_PARTS = 2**15
MAX_READ = 16384  # pixels of a side that OpenCV reads under any settings


class Ifd:
    """One directory's entries; values are read when they are asked for, within the file."""

    def __init__(self, data: bytes, order: str, place: int) -> None:
        if place + 2 > len(data):
            raise Damaged("TIFF data ends early")
        (count,) = struct.unpack_from(order + "H", data, place)
        self.data, self.order, self.end = data, order, place + 2 + 12 * count
        if self.end + 4 > len(data):
            raise Damaged("TIFF's directory ends early")
        self.entries = [(*struct.unpack_from(order + "HHI", data, at), at) for at in range(place + 2, self.end, 12)]
        (self.following,) = struct.unpack_from(order + "I", data, self.end)

    def raw(self, tag: int, most: int | None = None) -> tuple[int, bytes] | None:
        """A tag's type and bytes, those of its first `most` values if it has more, or None."""
        for number, kind, count, at in self.entries:
            if number != tag:
                continue
            size = _SIZES.get(kind, 0) * count
            start = at + 8 if size <= 4 else struct.unpack_from(self.order + "I", self.data, at + 8)[0]
            if not size or start + size > len(self.data):
                raise Damaged(f"TIFF's tag {tag} is beyond the file or of a wrong type")
            return kind, self.data[start : start + (size if most is None else _SIZES[kind] * min(most, count))]
        return None

    def numbers(self, tag: int, *default: int, most: int = 8) -> tuple[int, ...]:
        """A tag's first whole numbers, not more than a picture needs: the file may hold as many as it has bytes."""
        found = self.raw(tag, most)
        if found is None:
            return default
        kind, value = found
        if kind not in _CODES:
            raise Damaged(f"TIFF's tag {tag} is of a wrong type")
        count = min(len(value) // _SIZES[kind], most)
        return struct.unpack_from(f"{self.order}{count}{_CODES[kind]}", value)

    def number(self, tag: int, default: int = 0) -> int:
        """A tag's first number."""
        return self.numbers(tag, default, most=1)[0]


class Layout(NamedTuple):
    """Where the pixels are, and how."""

    order: str
    compression: int
    predictor: int
    photometric: int
    associated: bool
    tiled: bool
    width: int  # of a tile, or of the picture
    height: int  # of a tile or a strip
    parts: tuple[tuple[int, int], ...]  # offset and length of each
    tables: bytes  # JPEG's, for all parts


def _layout(ifd: Ifd, order: str, width: int, height: int, sample_bytes: int) -> Layout:
    """The layout, its parts all within the file."""
    tiled = ifd.raw(TILE_WIDTH, 1) is not None
    across, down = (ifd.number(TILE_WIDTH), ifd.number(TILE_HEIGHT)) if tiled else (width, ifd.number(ROWS, height))
    down = down if tiled else min(down, height)
    if not 0 < across < 2**24 or not 0 < down < 2**24:
        raise Damaged("TIFF's strips or tiles have no size")
    count = math.ceil(width / across) * math.ceil(height / down)
    if count > MAX_PARTS:
        raise Unsupported(f"a TIFF of more than {MAX_PARTS} strips or tiles is not read")
    if across * down * sample_bytes > 4 * (width * height * sample_bytes + 2**20):
        raise Unsupported("a TIFF whose tiles are much larger than the picture is not read")
    offsets = ifd.numbers(TILE_OFFSETS if tiled else OFFSETS, most=count)
    lengths = ifd.numbers(TILE_COUNTS if tiled else COUNTS, most=count)
    compression = ifd.number(COMPRESSION, NONE)
    if not lengths and compression == NONE and count == 1:
        lengths = (across * down * sample_bytes,)  # old writers left it out where it says nothing new
    if len(offsets) < count or len(lengths) < count:
        raise Damaged("TIFF lacks strips or tiles")
    parts = tuple(zip(offsets, lengths, strict=True))
    if any(start + length > len(ifd.data) or not length for start, length in parts):
        raise Damaged("TIFF data ends early")
    if sum(lengths) > len(ifd.data) + width * height * sample_bytes:
        raise Unsupported("a TIFF whose strips or tiles are of the same bytes is not read")
    tables = ifd.raw(JPEG_TABLES)
    return Layout(
        order, compression, ifd.number(PREDICTOR, 1), ifd.number(PHOTOMETRIC, -1),
        ifd.number(EXTRA_SAMPLES) == ASSOCIATED, tiled, across, down, parts, tables[1] if tables else b"",
    )  # fmt: skip


def _require_readable(ifd: Ifd) -> tuple[int, Literal[8, 16]]:
    """Samples of a pixel and their bits, if this is a kind that is read."""
    samples, compression = ifd.number(SAMPLES, 1), ifd.number(COMPRESSION, NONE)
    bits = set(ifd.numbers(BITS, 1))
    photometric = ifd.number(PHOTOMETRIC, -1)
    if ifd.number(PLANAR, 1) != 1 and samples > 1:
        raise Unsupported("a planar TIFF is not read")
    if bits not in ({8}, {16}) or set(ifd.numbers(SAMPLE_FORMAT, 1)) != {1}:
        raise Unsupported("a TIFF of other samples than unsigned ones of 8 or 16 bits is not read")
    if compression not in (NONE, LZW, JPEG, DEFLATE, OLD_DEFLATE, PACKBITS):
        raise Unsupported(f"a TIFF with compression {compression} is not read")
    kinds = {(GRAY, 1), (RGB, 3), (YCBCR, 3)} if compression == JPEG else {(GRAY, 1), (RGB, 3), (RGB, 4)}
    if (photometric, samples) not in kinds or (compression == JPEG and bits != {8}):
        raise Unsupported(f"a TIFF of {samples} samples and photometric {photometric} is not read")
    if samples == 4 and ifd.numbers(EXTRA_SAMPLES, STRAIGHT) not in ((ASSOCIATED,), (STRAIGHT,)):
        raise Unsupported("a TIFF whose fourth sample is not alpha is not read")
    if ifd.number(FILL_ORDER, 1) != 1 or ifd.number(PREDICTOR, 1) not in (1, 2):
        raise Unsupported("a TIFF of this fill order or predictor is not read")
    return samples, 8 if bits == {8} else 16


class Tiff(Format):
    """TIFF."""

    name = "tiff"
    extensions = (".tif", ".tiff")
    media_type = "image/tiff"
    reads = "the first page: gray, RGB, RGBA; 8 and 16 bit; none, LZW, deflate, PackBits, JPEG; strips and tiles"
    writes = "gray, RGB and RGBA, 8 and 16 bit, LZW"
    keeps = frozenset({"gray", "alpha", "16 bit", "icc", "xmp"})
    decode_cost = 2.1  # besides what a strip takes
    encode_cost = 4.4

    def sniff(self, head: bytes) -> bool:
        """See Format. BigTIFF too, to say that it is not read."""
        return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

    def probe(self, data: bytes) -> Header:
        """See Format."""
        if 43 in data[2:4]:
            raise Unsupported("BigTIFF is not read")
        if len(data) < 8:
            raise Damaged("TIFF data ends early")
        order = "<" if data[:2] == b"II" else ">"
        ifd = Ifd(data, order, struct.unpack_from(order + "I", data, 4)[0])
        width, height = ifd.number(WIDTH), ifd.number(HEIGHT)
        if not 0 < width < 2**24 or not 0 < height < 2**24:
            raise Damaged(f"TIFF's size is {width}x{height}")
        samples, depth = _require_readable(ifd)
        channels: Literal[1, 3, 4] = 1 if samples == 1 else 3 if samples == 3 else 4
        turned = ifd.number(ORIENTATION, 1)
        icc, xmp = ifd.raw(ICC), ifd.raw(XMP)
        return Header(
            self.name, width, height, channels, depth, turned if 1 <= turned <= 8 else 1,
            frames=2 if ifd.following else 1,
            metadata=Metadata(icc[1] if icc else None, xmp=exif.upright_xmp(xmp[1] if xmp else None)),
            detail=_layout(ifd, order, width, height, samples * depth // 8),
        )  # fmt: skip

    def decode_peak(self, header: Header) -> int:
        """See Format."""
        layout: Layout = header.detail
        strip = layout.width * layout.height * header.channels * header.depth // 8
        unpacked = 5.2 if layout.compression in (LZW, PACKBITS) else 3.2  # files of strips and bytes, besides samples
        return int(header.nbytes * self.decode_cost + strip * unpacked)

    def encode_peak(self, nbytes: int, channels: int, quality: int) -> tuple[int, int]:
        """See Format. LZW makes noise larger."""
        return int(self.encode_cost * nbytes), int(1.4 * nbytes)

    def decode(self, data: bytes, header: Header) -> Pixels:
        """See Format. Associated alpha is divided out, rounded (TIFF 6.0, section 18)."""
        layout: Layout = header.detail
        kind = np.dtype(np.uint8 if header.depth == 8 else np.uint16)
        result = np.empty((header.height, header.width, header.channels), kind)
        part = iter(layout.parts)
        for top in range(0, header.height, layout.height):
            for left in range(0, header.width, layout.width):
                start, length = next(part)
                rows = layout.height if layout.tiled else min(layout.height, header.height - top)
                block = _decoded(data[start : start + length], header, (rows, layout.width, header.channels))
                target = result[top : top + rows, left : left + layout.width]
                target[:] = block[: target.shape[0], : target.shape[1]]
        if layout.associated and header.channels == 4:
            _divide_alpha(result)
        if header.channels == 3:
            return cv2.cvtColor(result, cv2.COLOR_RGB2BGR)
        return cv2.cvtColor(result, cv2.COLOR_RGBA2BGRA) if header.channels == 4 else result

    def encode(self, pixels: Pixels, options: Options, metadata: Metadata) -> Encoded:
        """See Format. OpenCV's file gets a new directory at its end, with the tags that OpenCV leaves out."""
        if pixels.nbytes >= 2**31:
            raise Unencodable("TIFF: the picture is over 2 GB")
        icc, notes = color.held(metadata.icc, pixels.shape[2])
        notes += color.dropped(self.name, Metadata(exif=metadata.exif))
        file = opencv.encode(".tiff", pixels, [cv2.IMWRITE_TIFF_COMPRESSION, LZW])
        tags: dict[int, tuple[int, bytes]] = {}
        if pixels.shape[2] == 4:
            tags[EXTRA_SAMPLES] = (3, struct.pack("<H", STRAIGHT))
        if metadata.xmp:
            tags[XMP] = (1, metadata.xmp)
        if icc:
            tags[ICC] = (7, icc)
        return Encoded(_extended(file, tags) if tags else file, notes)


def _extended(file: bytes, tags: dict[int, tuple[int, bytes]]) -> bytes:
    """The little-endian file with a copy of its directory, and these tags in it, at its end."""
    (place,) = struct.unpack_from("<I", file, 4)
    ifd = Ifd(file, "<", place)
    entries = {entry[0]: file[entry[3] : entry[3] + 12] for entry in ifd.entries}
    file += bytes(len(file) % 2)
    values = b""
    start = len(file) + 2 + 12 * len(entries.keys() | tags.keys()) + 4
    for tag, (kind, value) in tags.items():
        count = len(value) // _SIZES[kind]
        where = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", start + len(values))
        entries[tag] = struct.pack("<HHI", tag, kind, count) + where
        values += value + bytes(len(value) % 2) if len(value) > 4 else b""
    table = b"".join(entries[tag] for tag in sorted(entries))
    directory = struct.pack("<H", len(entries)) + table + struct.pack("<I", 0)
    return file[:4] + struct.pack("<I", len(file)) + file[8:] + directory + values


def _decoded(part: bytes, header: Header, shape: tuple[int, int, int]) -> Pixels:
    """One strip's or tile's samples, RGB order, exactly of this shape."""
    layout: Layout = header.detail
    if layout.compression == JPEG:
        return _jpeg(part, layout, shape)
    size = shape[0] * shape[1] * shape[2] * header.depth // 8
    if layout.compression in (DEFLATE, OLD_DEFLATE):
        part = _inflated(part, size)
    elif layout.compression in (LZW, PACKBITS):
        part = _unpacked(part, layout.compression, size)
    if len(part) < size:
        raise Damaged("TIFF data ends early")
    samples = np.frombuffer(part, np.uint8 if header.depth == 8 else layout.order + "u2", size * 8 // header.depth)
    samples = samples.reshape(shape)
    if layout.predictor == 2 and layout.compression not in (NONE, PACKBITS):
        samples = np.add.accumulate(samples, axis=1, dtype=samples.dtype.newbyteorder("="))
    return samples


def _inflated(part: bytes, size: int) -> bytes:
    """zlib data, not more than these bytes of it, its checksum looked at where it ends there."""
    inflater = zlib.decompressobj()
    try:
        result = inflater.decompress(part, size)
        if len(result) == size and not inflater.eof:
            inflater.decompress(inflater.unconsumed_tail, 1)  # the checksum comes after the last byte
    except zlib.error:
        raise Damaged("TIFF's deflate data is corrupt") from None
    return result


def _jpeg(part: bytes, layout: Layout, shape: tuple[int, int, int]) -> Pixels:
    """A strip or tile of JPEG, made whole by the common tables and Adobe's word on its colours (T.872, 6.5.3)."""
    transform = 1 if layout.photometric == YCBCR else 0
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform]) if shape[2] == 3 else b""
    whole = b"\xff\xd8" + adobe + layout.tables[2:-2] + part[2:]
    header = jpeg.Jpeg().probe(whole)
    # the last strip may be as high as the others
    if not shape[0] <= header.height <= layout.height or (header.width, header.channels) != shape[1:]:
        raise Damaged("TIFF's JPEG is of another size than the TIFF says")
    block = jpeg.decoded(whole, header, "GRAY" if shape[2] == 1 else "RGB")
    return np.ascontiguousarray(block[: shape[0]])


def _unpacked(part: bytes, compression: int, size: int) -> bytes:
    """LZW or PackBits data, so many bytes of it.

    OpenCV checks what it unpacks only where it reads 16 bits, so it is shown a gray picture of 16 bits with the
    same bytes. One byte is left where the size is odd, and a few where it has no fitting divisors: those come from
    a second reading, of 8 bits. PackBits is made even by one byte more.

    The second reading has zeros for what is missing, and says nothing. But then libtiff does not undo the
    predictor, either, so it is told that there is one.
    """
    if compression == PACKBITS and size % 2:
        return _unpacked(part + bytes(2), compression, size + 1)[:size]
    half, sides = size // 2, None
    while half and sides is None:
        sides = _sides(half)
        half -= sides is None
    result = _read(part, compression, 16, sides) if sides else b""
    if len(result) == size:
        return result
    sides = _sides(size)
    if sides is None:
        raise Unsupported(f"a TIFF with strips of {size} bytes is not read")
    sums = np.frombuffer(_read(part, compression, 8, sides), np.uint8).reshape(sides[::-1])
    again = np.diff(sums, axis=1, prepend=np.uint8(0)).tobytes() if compression == LZW else sums.tobytes()
    if again[: len(result)] != result:
        raise Damaged("TIFF data ends early")
    return result + again[len(result) :]


def _sides(area: int) -> tuple[int, int] | None:
    """Two factors of a picture's area, the first the larger, that OpenCV takes for sides."""
    for low in range(max(1, math.ceil(area / MAX_READ)), math.isqrt(area) + 1):
        if area % low == 0:
            return area // low, low
    return None


def _read(part: bytes, compression: int, bits: int, sides: tuple[int, int]) -> bytes:
    """The bytes of a gray picture in one strip, as OpenCV unpacks them."""
    width, height = sides
    entries = (
        (WIDTH, 4, width), (HEIGHT, 4, height), (BITS, 3, bits), (COMPRESSION, 3, compression),
        (PHOTOMETRIC, 3, GRAY), (OFFSETS, 4, 8 + 2 + 12 * 10 + 4), (SAMPLES, 3, 1), (ROWS, 4, height),
        (COUNTS, 4, len(part)), (PREDICTOR, 3, 2 if bits == 8 else 1),
    )  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    file = b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + part
    with opencv.errors_as(Damaged, "TIFF"):
        array = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        opencv.require_room(4 * width * height, "TIFF")
        raise Damaged("TIFF data ends early or is corrupt")
    return array.tobytes()


def _divide_alpha(pixels: Pixels) -> None:
    """Colours from their products with alpha, rounded, in place; where alpha is 0 they are 0."""
    top = np.iinfo(pixels.dtype).max
    for row in pixels:
        alpha = row[:, 3:].astype(np.uint64)
        colors = (row[:, :3] * np.uint64(top) + alpha // 2) // np.maximum(alpha, 1)
        row[:, :3] = np.where(alpha > 0, np.minimum(colors, top), 0)
