"""AVIF: gray, RGB and RGBA of 8, 10 and 12 bits; of a sequence the first picture.

Source: ISO/IEC 14496-12, 4.2 (boxes), 8.11 (meta, iloc, iinf, iref); ISO/IEC 23008-12, 6.5 (properties), 6.6.2.3
(grid), 9.3 (ipma), Annex A (Exif); AV1-ISOBMFF, 2.3.3 (av1C); AVIF 1.1, 2 and 4 (items, alpha); AV1, 5.3 (units),
5.5 (the sequence header).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np

from falconimg.errors import Damaged, Unencodable, Unsupported
from falconimg.formats import color, exif, opencv
from falconimg.formats.base import Encoded, Format, Header, Metadata, Options, Pixels

ALPHA = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0", b"urn:mpeg:hevc:2015:auxid:1\0")
XMP_TYPE = b"application/rdf+xml"
BRANDS = (b"avif", b"avis")
SEQUENCE = 1  # AV1's kind of unit, 6.2.2
MAX_SIDE = 32768  # libavif reads no more
_WINDOW = 500  # bytes that OpenCV recognizes a file by
MAX_COUNT = 2**14  # of boxes in a box; of items, extents, references and properties together
MAX_BLOCK = 64_000_000  # bytes of EXIF or XMP
# Quarter turns against the clock, then a mirror: None, 0 top to bottom, 1 left to right (6.5.10, 6.5.12).
ORIENTATIONS = {
    (0, None): 1, (0, 1): 2, (2, None): 3, (0, 0): 4, (1, 0): 5, (3, None): 6, (3, 0): 7, (1, None): 8,
    (2, 0): 2, (2, 1): 4, (1, 1): 7, (3, 1): 5,
}  # fmt: skip


class Reader:
    """Whole numbers, big-endian, from a box's bytes, never beyond their end."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.data, self.place = memoryview(data), 0

    def take(self, size: int) -> bytes:
        """The next bytes."""
        part = bytes(self.data[self.place : self.place + size])
        if len(part) < size:
            raise Damaged("AVIF has a box that ends early")
        self.place += size
        return part

    def number(self, size: int) -> int:
        """The next number, of so many bytes; 0 of none."""
        return int.from_bytes(self.take(size))

    def version(self) -> tuple[int, int]:
        """A full box's version and flags, 4.2.2."""
        return self.number(1), self.number(3)

    def text(self) -> bytes:
        """The next string, up to its zero."""
        rest = bytes(self.data[self.place :]).partition(b"\0")[0]
        self.place += len(rest) + 1
        return rest


def boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Each box's kind and bytes by their lengths alone, 4.2.2."""
    place = 0
    for _ in range(MAX_COUNT):
        if place == len(data):
            return
        if place + 8 > len(data):
            raise Damaged("AVIF data ends early")
        size, kind = struct.unpack_from(">I4s", data, place)
        start = place + 8
        if size == 1 and place + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = place + size if size else len(data)
        if end < start or end > len(data):
            raise Damaged("AVIF data ends early")
        yield kind, data[start:end]
        place = end
    raise Unsupported(f"an AVIF of more than {MAX_COUNT} boxes is not read")


@dataclass
class Item:
    """What the meta box says of one item."""

    kind: bytes = b""
    content: bytes = b""
    within: int = 0  # 0 the file, 1 the idat box
    extents: list[tuple[int, int]] = field(default_factory=list)
    properties: list[tuple[bytes, memoryview]] = field(default_factory=list)
    refers: list[tuple[bytes, int]] = field(default_factory=list)

    def property(self, kind: bytes) -> memoryview | None:
        """The first property of this kind."""
        return next((value for name, value in self.properties if name == kind), None)


class Bits:
    """Whole numbers of any width from bytes, the highest bit first; zeros behind their end."""

    def __init__(self, data: bytes) -> None:
        self.rest, self.left = int.from_bytes(data), 8 * len(data)

    def number(self, width: int) -> int:
        """The next bits."""
        self.left -= width
        return (self.rest >> self.left if self.left >= 0 else 0) & (1 << width) - 1

    def exponential(self) -> int:
        """The next number of AV1's uvlc(), 4.10.3."""
        zeros = 0
        while zeros < 32 and not self.number(1):
            zeros += 1
        return self.number(zeros) + (1 << zeros) - 1


def _largest_frame(sequence: bytes) -> tuple[int, int]:
    """The sides that an AV1 sequence header allows its frames, AV1 5.5.1."""
    bits = Bits(sequence[:512])
    bits.number(4)  # profile, still picture
    if bits.number(1):
        bits.number(5)
    else:
        delay = _timing(bits)
        display = bits.number(1)
        for _ in range(bits.number(5) + 1):
            bits.number(12)
            if bits.number(5) > 7:
                bits.number(1)
            if delay and bits.number(1):
                bits.number(2 * delay + 1)
            if display and bits.number(1):
                bits.number(4)
    widths = bits.number(4) + 1, bits.number(4) + 1
    return bits.number(widths[0]) + 1, bits.number(widths[1]) + 1


def _timing(bits: Bits) -> int:
    """The width of a decoder model's delays, 5.5.3 and 5.5.4; 0 where there is no model."""
    if not bits.number(1):
        return 0
    bits.number(64)
    if bits.number(1):
        bits.exponential()
    if not bits.number(1):
        return 0
    delay = bits.number(5) + 1
    bits.number(42)
    return delay


def _sequences(data: memoryview, steps: Iterator[int]) -> Iterator[bytes]:
    """The sequence headers in AV1 data, 5.3; each unit takes a step."""
    place = 0
    for _ in steps:
        if place >= len(data):
            return
        head, place = data[place], place + 1 + (data[place] >> 2 & 1)
        size = len(data) - place
        if head & 2:
            size = 0
            for shift in range(0, 56, 7):
                if place >= len(data):
                    return
                size |= (data[place] & 127) << shift
                place += 1
                if not data[place - 1] & 128:
                    break
        if head >> 3 & 15 == SEQUENCE:
            yield bytes(data[place : place + min(size, 512)])
        place += size
    raise Unsupported(f"an AVIF of more than {MAX_COUNT} units is not read")


class Meta:
    """The meta box: its items, and which one is the picture."""

    def __init__(self, file: memoryview, data: memoryview) -> None:
        if len(data) < 4:
            raise Damaged("AVIF's meta box is empty")
        self.file, self.items, self.idat, self.primary = file, dict[int, Item](), memoryview(b""), 0
        self.left = MAX_COUNT
        parts = dict(boxes(data[4:]))
        if b"pitm" not in parts or b"iprp" not in parts:
            raise Damaged("AVIF does not say which item is the picture, or nothing of it")
        reader = Reader(parts[b"pitm"])
        self.primary = reader.number(2 if reader.version()[0] == 0 else 4)
        self.idat = parts.get(b"idat", self.idat)
        self._locations(Reader(parts.get(b"iloc", b"")))
        self._infos(Reader(parts.get(b"iinf", b"")))
        if b"iref" in parts:
            self._references(parts[b"iref"])
        self._properties(parts[b"iprp"])

    def item(self, number: int) -> Item:
        """The item of this number, new if nothing was said of it yet."""
        if len(self.items) > MAX_COUNT:
            raise Unsupported(f"an AVIF of more than {MAX_COUNT} items is not read")
        return self.items.setdefault(number, Item())

    def _times(self, reader: Reader, size: int) -> range:
        """A range of the reader's next number, if all of them together are not too many: an entry may take no byte."""
        count = reader.number(size)
        self.left -= count
        if self.left < 0:
            raise Unsupported(f"an AVIF of more than {MAX_COUNT} items, extents, references and properties is not read")
        return range(count)

    def _locations(self, reader: Reader) -> None:
        """Where the items' bytes are, 8.11.3; all of them must be within the file."""
        version, _ = reader.version()
        sizes = reader.number(2)
        offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
        wide = 4 if version == 2 else 2
        for _ in self._times(reader, wide):
            item = self.item(reader.number(wide))
            item.within = reader.number(2) & 15 if version else 0
            reader.take(2)
            base = reader.number(base_size)
            size = len(self.idat if item.within == 1 else self.file)
            for _ in self._times(reader, 2):
                reader.take(index_size if version else 0)
                start = base + reader.number(offset_size)
                length = reader.number(length_size) or max(0, size - start)
                if item.within > 1:
                    raise Unsupported("an AVIF whose items are parts of other items is not read")
                if start + length > size:
                    raise Damaged("AVIF data ends early")
                item.extents.append((start, length))

    def _infos(self, reader: Reader) -> None:
        """What kinds the items are of, 8.11.6."""
        version, _ = reader.version()
        self._times(reader, 2 if version == 0 else 4)
        for kind, box in boxes(reader.data[reader.place :]):
            info = Reader(box)
            version, _ = info.version()
            if kind != b"infe" or version < 2:
                continue
            item = self.item(info.number(2 if version == 2 else 4))
            info.take(2)
            item.kind = info.take(4)
            info.text()
            item.content = info.text() if item.kind == b"mime" else b""

    def _references(self, data: memoryview) -> None:
        """Which item is an alpha of, a cell of, a description of which, 8.11.12."""
        wide = 2 if Reader(data).version()[0] == 0 else 4
        for kind, box in boxes(data[4:]):
            reader = Reader(box)
            item = self.item(reader.number(wide))
            item.refers += [(kind, reader.number(wide)) for _ in self._times(reader, 2)]

    def _properties(self, data: memoryview) -> None:
        """The items' properties, 6.5 and 9.3: a list, and for each item numbers within it."""
        parts = list(boxes(data))
        listed = list(boxes(dict(parts).get(b"ipco", memoryview(b""))))
        for box in (box for kind, box in parts if kind == b"ipma"):
            reader = Reader(box)
            version, flags = reader.version()
            for _ in self._times(reader, 4):
                item = self.item(reader.number(2 if version == 0 else 4))
                for _ in self._times(reader, 1):
                    number = reader.number(2) & 0x7FFF if flags & 1 else reader.number(1) & 0x7F
                    if number > len(listed):
                        raise Damaged("AVIF refers to a property that it lacks")
                    if number:
                        item.properties.append(listed[number - 1])

    def bytes_of(self, item: Item) -> bytes:
        """An item's bytes."""
        if sum(length for _, length in item.extents) > MAX_BLOCK:
            raise Unsupported(f"AVIF's metadata is of more than {MAX_BLOCK} bytes")
        return bytes(self.joined(item))

    def joined(self, item: Item) -> bytes | memoryview:
        """An item's bytes, a view of them where they lie together."""
        source = self.idat if item.within == 1 else self.file
        pieces = [source[start : start + length] for start, length in item.extents]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def require_honest_sizes(self, width: int, height: int) -> None:
        """Refuse a picture whose coded frames are larger than the container says.

        The decoder would take memory for them, whatever the size that the plan was made for.
        """
        coded = [item for item in self.items.values() if item.kind == b"av01"]
        if sum(length for item in coded for _, length in item.extents) > 2 * len(self.file):
            raise Unsupported("an AVIF whose pictures are of the same bytes is not read")
        steps = iter(range(MAX_COUNT))
        for item in coded:
            size = item.property(b"ispe")
            sides = struct.unpack_from(">II", size, 4) if size is not None and len(size) >= 12 else (width, height)
            if sides[0] * sides[1] > 4 * width * height + 2**20:
                raise Unsupported("an AVIF with a part much larger than the picture is not read")
            for across, down in map(_largest_frame, _sequences(memoryview(self.joined(item)), steps)):
                if across > sides[0] or down > sides[1]:
                    raise Damaged(f"AVIF's size is {sides[0]}x{sides[1]}, but {across}x{down} is coded")


def _orientation(item: Item) -> int:
    """EXIF's number for what irot and imir do, in their order."""
    turns, mirror, first = 0, None, b""
    for kind, value in item.properties:
        if kind in (b"irot", b"imir") and value:
            first = first or kind
            if kind == b"irot":
                turns = value[0] & 3
            else:
                mirror = value[0] & 1
    # A mirror and then turns are as many turns the other way and then the mirror.
    return ORIENTATIONS[-turns % 4 if first == b"imir" else turns, mirror]


class Avif(Format):
    """AVIF by OpenCV."""

    name = "avif"
    extensions = (".avif",)
    media_type = "image/avif"
    reads = "gray, RGB, RGBA; 8, 10 and 12 bits; of a sequence the first picture"
    writes = "gray, RGB and RGBA, lossy; 16 bit becomes 10"
    keeps = frozenset({"gray", "alpha", "icc", "exif", "xmp"})
    quality = 60
    decode_cost = 8.0  # 4:4:4; 4:2:0 takes 6.2
    encode_cost = 7.6

    def sniff(self, head: bytes) -> bool:
        """See Format. The brand may be the first or among the compatible ones."""
        brands = (head[place : place + 4] for place in (8, *range(16, len(head), 4)))
        return head[4:8] == b"ftyp" and any(brand in BRANDS for brand in brands)

    def probe(self, data: bytes) -> Header:
        """See Format. The turn is that of irot and imir; Exif's is not looked at (ISO/IEC 23008-12, 6.5.10)."""
        parts = dict(boxes(memoryview(data)))
        if b"meta" not in parts:
            raise Damaged("AVIF has no meta box")
        meta = Meta(memoryview(data), parts[b"meta"])
        item = meta.item(meta.primary)
        cells = [meta.item(number) for number in dict.fromkeys(to for kind, to in item.refers if kind == b"dimg")]
        size = item.property(b"ispe")
        coding = next((value for one in (item, *cells) if (value := one.property(b"av1C"))), None)
        if size is None or coding is None or len(size) < 12 or len(coding) < 4:
            raise Damaged("AVIF does not say how its picture is coded")
        if item.property(b"clap") is not None:
            raise Unsupported("an AVIF with a clean aperture (a crop) is not read")
        _, width, height = struct.unpack_from(">III", size)
        if not width or not height:
            raise Damaged(f"AVIF's size is {width}x{height}")
        meta.require_honest_sizes(width, height)
        high, twelve, gray = coding[2] & 0x40, coding[2] & 0x20, coding[2] & 0x10
        alpha = any(_is_alpha(other, meta.primary) for other in meta.items.values())
        if gray and alpha:
            raise Unsupported("a gray AVIF with alpha is not read")
        channels: Literal[1, 3, 4] = 4 if alpha else 1 if gray else 3
        return Header(
            self.name, width, height, channels, 16 if high else 8, _orientation(item),
            frames=2 if b"moov" in parts else 1,
            metadata=_metadata(meta, item),
            detail=(12 if twelve else 10) if high else 8,
        )  # fmt: skip

    def decode(self, data: bytes, header: Header) -> Pixels:
        """See Format. The bits of 10 and 12 are repeated down to 16, so that black and white stay what they are."""
        still = data[:8] + b"avif" + data[12:]  # of a sequence the item that `probe` has seen, not the track
        pixels = opencv.decode(_recognizable(still), header, self.decode_peak(header) / header.nbytes)
        bits: int = header.detail
        return pixels if bits == 8 else pixels << (16 - bits) | pixels >> (2 * bits - 16)

    def decode_peak(self, header: Header) -> int:
        """See Format. Gray is decoded as three planes too; alpha is a picture of its own; the decoder has tables."""
        cost = {1: 15.4, 3: self.decode_cost, 4: 10.4}[header.channels]
        return int(header.nbytes * cost * (0.7 if header.depth == 16 else 1)) + 2_000_000

    def encode_peak(self, nbytes: int, channels: int, quality: int) -> tuple[int, int]:
        """See Format. At quality 100 it is lossless, and noise becomes larger; the encoder has tables of its own."""
        lossless = {1: 19.0, 3: 14.0, 4: 10.8}[channels]
        cost, file = (lossless, 1.45) if quality == 100 or channels == 1 else (self.encode_cost, 1.05)
        return int(cost * nbytes) + 4_000_000, int(file * nbytes)

    def encode(self, pixels: Pixels, options: Options, metadata: Metadata) -> Encoded:
        """See Format."""
        height, width = pixels.shape[:2]
        if max(width, height) > MAX_SIDE:
            raise Unencodable(f"AVIF holds at most {MAX_SIDE} pixels a side, the picture is {width}x{height}")
        icc, notes = color.held(metadata.icc, pixels.shape[2])
        depth = 8
        if pixels.dtype == np.uint16:
            pixels = ((pixels.astype(np.uint32) * 1023 + 32767) // 65535).astype(np.uint16)
            notes, depth = ("16 bit became 10 bit", *notes), 10
        params = [cv2.IMWRITE_AVIF_QUALITY, options.quality, cv2.IMWRITE_AVIF_DEPTH, depth]
        cost = self.encode_peak(pixels.nbytes, pixels.shape[2], options.quality)[0] / pixels.nbytes
        return Encoded(opencv.encode(".avif", pixels, params, metadata._replace(icc=icc), cost), notes)


def _recognizable(data: bytes) -> bytes:
    """The same file, with the box that ends near its 500th byte made to hold the next one too.

    OpenCV asks libavif whether the first 500 bytes are an AVIF; where they end in a box's header and there is
    metadata, the answer is no. Offsets within the file stay as they are, and so does what they point to.
    """
    place = before = 0
    while place < _WINDOW - 7:
        before, size = place, int.from_bytes(data[place : place + 4])
        if size < 8:
            return data
        place += size
    size, kind = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8]
    if place > _WINDOW or size == 1 or kind in (b"", b"meta", b"moov"):
        return data
    end = place + size if size else len(data)
    return data[:before] + struct.pack(">I", end - before) + data[before + 4 :]


def _is_alpha(item: Item, primary: int) -> bool:
    """Whether the item is the alpha of the picture, AVIF 4.1."""
    kind = item.property(b"auxC")
    return kind is not None and bytes(kind[4:]).startswith(ALPHA) and (b"auxl", primary) in item.refers


def _metadata(meta: Meta, picture: Item) -> Metadata:
    """The picture's profile, and the EXIF and XMP that describe it."""
    colors = (bytes(value) for kind, value in picture.properties if kind == b"colr")
    icc = next((value[4:] for value in colors if value[:4] in (b"prof", b"rICC")), None)
    blocks: dict[bytes, bytes] = {}
    for item in meta.items.values():
        if (b"cdsc", meta.primary) not in item.refers:
            continue
        if item.kind == b"Exif" and b"Exif" not in blocks:
            block = meta.bytes_of(item)
            blocks[b"Exif"] = block[4 + int.from_bytes(block[:4]) :]  # a number first: where TIFF's header is
        elif item.kind == b"mime" and item.content == XMP_TYPE and b"XMP" not in blocks:
            blocks[b"XMP"] = meta.bytes_of(item)
    return Metadata(icc, exif.upright(blocks.get(b"Exif")), exif.upright_xmp(blocks.get(b"XMP")))
