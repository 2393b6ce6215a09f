"""JPEG: gray, YCbCr and RGB, CMYK and YCCK (to RGB); baseline and progressive, 8 bit.

Source: ITU-T T.81: B.1 (markers), B.2.2 (frame), B.2.3 (scan); G.1.1.1 (progression);
T.872, 6.5.3 (Adobe's CMYK); Exif 3.0, 4.7.2 (APP1); ICC.1:2022, B.4 (APP2); XMP part 3, 1.1.3 (APP1).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import simplejpeg

from falconimg import _jpeg
from falconimg.errors import Damaged, OutOfMemory, Unencodable, Unsupported
from falconimg.formats import color, exif, opencv
from falconimg.formats.base import AS_IT_IS, Encoded, Format, Header, Load, Metadata, Options, Pixels
from falconimg.formats.pixels import bands, flattened, to_8_bit
from falconimg.planes import Planes, padded

EXIF, XMP, ICC = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
BASELINE, EXTENDED, PROGRESSIVE = 0xC0, 0xC1, 0xC2
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # those three are tables, and reserved
SOS, EOI, APP1, APP2 = 0xDA, 0xD9, 0xE1, 0xE2
ROOM = 65533  # bytes in a segment besides its length
MAX_SIDE = 65500  # libjpeg's JPEG_MAX_DIMENSION
MAX_SEGMENTS = 2**13
SHRINK = 8  # the most that a decoder can shrink by: a block becomes one pixel
SMALL = 16  # pixels a side below which nothing is won
HALVED = b"\x22\x11\x11"  # the sampling factors of 4:2:0
LAST_BITS = 0x10  # a scan's Ah and Al that refine coefficients by their last bit
MAX_SCANS = 100  # real ones have about 10; thousands in a few bytes would keep the decoder busy for hours
_FILL = re.compile(rb"\xff+")
_AFTER_SCAN = re.compile(rb"\xff(?=[^\x00\xff\xd0-\xd7])")  # B.1.1.5: what ends entropy-coded data


class Segment(NamedTuple):
    """A marker, what it holds without its length, and where the next begins."""

    marker: int
    data: bytes
    end: int


class Detail(NamedTuple):
    """What `decode` needs besides the header: SOF's marker, the components' names, the profile of CMYK.

    `several` says that the picture comes in several scans: then all its coefficients are kept. `sampling` has each
    component's factors, across and down in the halves of a byte.
    """

    frame: int
    components: bytes
    first_scan: int
    cmyk_icc: bytes | None
    several: bool
    sampling: bytes


def segments(data: bytes, place: int = 2) -> Iterator[Segment]:
    """Each marker segment from a place on by their lengths; EOI, which has none, ends them."""
    for _ in range(MAX_SEGMENTS):
        fill = _FILL.match(data, place)  # any number of fill bytes may come before a marker, B.1.1.2
        if fill is None or fill.end() >= len(data):
            raise Damaged("JPEG data ends early, or a segment does not begin where it should")
        marker, start = data[fill.end()], fill.end() + 1
        if marker == EOI:
            return
        length = int.from_bytes(data[start : start + 2])
        place = start + length
        if length < 2 or place > len(data) or not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xD8:
            raise Damaged("JPEG data ends early, or has a segment of no length")
        yield Segment(marker, data[start + 2 : place], start if marker == SOS else place)
        if marker == SOS:
            scan = _AFTER_SCAN.search(data, place)
            place = scan.start() if scan else len(data)
    raise Unsupported(f"JPEG of more than {MAX_SEGMENTS} segments")


def _profile(parts: list[bytes]) -> bytes | None:
    """The profile from its parts, each after its number and their count; None if one is missing."""
    parts = sorted(parts)
    count = min(len(parts), 255)
    right = [bytes([number, count]) for number in range(1, count + 1)]
    return b"".join(part[2:] for part in parts) if [part[:2] for part in parts] == right else None


def _require_every_scan(data: bytes, detail: Detail) -> int:
    """Refuse a picture that lacks a scan: libjpeg takes a file that was cut between two scans for whole.

    Every component's 64 coefficients must have come, down to their last bit. Gives where the last scan begins if it
    is of nothing but the last bits of a component's AC coefficients (G.1.2.3), else 0.
    """
    missing = {name: [True] * 64 for name in detail.components}
    scans, begins, last_bits = 0, 0, 0
    for segment in segments(data, detail.first_scan):
        begins = begins or segment.end - 2 - (segment.marker != SOS) * (len(segment.data) + 2)
        if segment.marker != SOS:
            continue
        scans += 1
        count = segment.data[0] if segment.data else 0
        if len(segment.data) < 2 * count + 4:
            raise Damaged("JPEG has a scan without its header")
        first, last, precision = segment.data[2 * count + 1 : 2 * count + 4]
        if scans > MAX_SCANS:
            raise Unsupported(f"JPEG of more than {MAX_SCANS} scans")
        last_bits, begins = begins * (first > 0 and precision == LAST_BITS), 0
        for name in segment.data[1 : 2 * count + 1 : 2]:
            for coefficient in range(first, min(last, 63) + 1):
                if name in missing:
                    missing[name][coefficient] = precision & 15 != 0
    if any(any(coefficients) for coefficients in missing.values()):
        raise Damaged("JPEG data ends early: a scan is missing")
    return last_bits


def decoded(data: bytes, header: Header, colors: str, rough: bool = False) -> Pixels:
    """The stored pixels in simplejpeg's order of this name, at the header's size, which may be a shrunk one.

    A `rough` picture is made without a last scan that has only last bits: a third of the time, and of a shrunk
    photograph 46 dB and more from the whole.

    Raises:
        Damaged: any truncation or corruption that can be detected
        Unsupported: too many scans
        OutOfMemory: there was no memory
    """
    last_bits = _require_every_scan(data, header.detail)
    if rough and last_bits:
        data = data[:last_bits] + bytes([0xFF, EOI])
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, colors, min_height=header.height, min_width=header.width, min_factor=1
        )
    except ValueError as error:
        if "memory" in str(error).lower():
            raise OutOfMemory("no memory to decode a JPEG") from None
        raise Damaged(f"JPEG: {error}") from None
    return pixels


class Jpeg(Format):
    """JPEG by simplejpeg, which refuses a truncation wherever libjpeg notices one."""

    name = "jpeg"
    extensions = (".jpg", ".jpeg", ".jpe", ".jfif")
    media_type = "image/jpeg"
    reads = "gray, colour, CMYK (to RGB); baseline and progressive, 8 bit"
    writes = "gray, RGB (4:2:0); alpha is flattened, 16 bit becomes 8"
    keeps = frozenset({"gray", "icc", "exif", "xmp"})
    quality = 95
    takes_planes = True
    decode_cost = 1.1
    encode_cost = 2.4

    def sniff(self, head: bytes) -> bool:
        """See Format."""
        return head.startswith(b"\xff\xd8\xff")

    def probe(self, data: bytes) -> Header:
        """See Format. Arithmetic coding is refused: its decoder does not notice that data ends early."""
        frame, parts = None, []
        blocks: dict[bytes, bytes] = {}
        for segment in segments(data):
            if segment.marker in FRAMES and frame is None:
                frame = segment
            elif segment.marker == APP2 and segment.data.startswith(ICC):
                parts.append(segment.data[len(ICC) :])
            elif segment.marker == APP1:
                for kind in (EXIF, XMP):
                    if segment.data.startswith(kind):
                        blocks.setdefault(kind, segment.data[len(kind) :])
            elif segment.marker == SOS:
                break
        if frame is None or segment.marker != SOS:
            raise Damaged("JPEG has no frame or no scan")
        width, height, components, sampling = self._frame(frame)
        icc = _profile(parts) if parts else None
        notes = (color.BROKEN,) if parts and icc is None else ()
        cmyk = len(components) == 4
        channels: Literal[1, 3] = 1 if len(components) == 1 else 3
        return Header(
            self.name, width, height, channels, orientation=exif.orientation(blocks.get(EXIF)),
            metadata=Metadata(
                None if cmyk else icc, exif.upright(blocks.get(EXIF)), exif.upright_xmp(blocks.get(XMP))
            ),
            notes=notes,
            detail=Detail(
                frame.marker, components, segment.end - 2, icc if cmyk else None,
                frame.marker == PROGRESSIVE or segment.data[:1] != bytes([len(components)]), sampling,
            ),
        )  # fmt: skip

    @staticmethod
    def _frame(frame: Segment) -> tuple[int, int, bytes, bytes]:
        """Width, height and the components' names and sampling factors, B.2.2."""
        if frame.marker not in (BASELINE, EXTENDED, PROGRESSIVE):
            raise Unsupported("a lossless, hierarchical or arithmetic-coded JPEG is not read")
        if len(frame.data) < 6 or len(frame.data) < 6 + 3 * frame.data[5]:
            raise Damaged("JPEG's frame header ends early")
        precision, height, width, count = struct.unpack_from(">BHHB", frame.data)
        if precision != 8:
            raise Unsupported(f"a JPEG of {precision} bits is not read")
        if not width or not height:
            raise Damaged(f"JPEG's size is {width}x{height}")
        if count not in (1, 3, 4):
            raise Unsupported(f"a JPEG of {count} components is not read")
        sampling = frame.data[7 : 6 + 3 * count : 3]
        if not all(1 <= factor <= 4 for factors in sampling for factor in (factors >> 4, factors & 15)):
            raise Damaged("JPEG's sampling factors are not from 1 to 4")
        return width, height, frame.data[6 : 6 + 3 * count : 3], sampling

    def decode_peak(self, header: Header) -> int:
        """See Format. A coefficient is of two bytes."""
        detail: Detail = header.detail
        samples = len(detail.components) / header.channels
        picture = self.decode_cost + (2.05 * samples if detail.several else 0)
        return int(header.nbytes * (max(3.0, 4.3 * detail.several) if samples > 1 else picture))

    def encode_peak(self, nbytes: int, channels: int, quality: int) -> tuple[int, int]:
        """See Format. Gray has no chroma that could be halved, so there is more in each byte."""
        if channels > 1:
            return super().encode_peak(nbytes, channels, quality)
        return (5 * nbytes, int(1.6 * nbytes)) if quality > 95 else (int(3.3 * nbytes), int(1.05 * nbytes))

    def decode(self, data: bytes, header: Header, rough: bool = False) -> Pixels:
        """See Format; `rough` as for `decoded`."""
        detail: Detail = header.detail
        count = len(detail.components)
        pixels = decoded(data, header, {1: "GRAY", 3: "BGR", 4: "CMYK"}[count], rough)
        if count < 4:
            return opencv.checked(pixels, header)
        if color.converts_cmyk(detail.cmyk_icc):
            return opencv.checked(color.cmyk_to_srgb(np.invert(pixels, out=pixels), detail.cmyk_icc), header)
        # Stored inverted, as Adobe does, which every reader takes for granted: 255 is no ink, R = C·K / 255.
        result = np.empty((*pixels.shape[:2], 3), np.uint8)
        for rows in bands(pixels):
            cyan, magenta, yellow, black = cv2.split(pixels[rows])
            result[rows] = cv2.merge([cv2.multiply(ink, black, scale=1 / 255) for ink in (yellow, magenta, cyan)])
        return opencv.checked(result, header)

    def loads(self, header: Header, shrinks: bool) -> Load:
        """See Format. Of other samplings than 4:2:0 Planes lose chroma, unless the picture becomes smaller."""
        detail: Detail = header.detail
        count = len(detail.components)
        if count == 4 or min(header.width, header.height) < SMALL:
            return AS_IT_IS
        native = _is_native(detail)
        if not native and detail.sampling[0] >> 4 != detail.sampling[0] & 15:
            return AS_IT_IS  # libjpeg shrinks the chroma of 4:2:2 badly
        planes = count == 3 and (shrinks or detail.sampling == HALVED)
        return Load(SHRINK if shrinks else 1, planes and native)

    def load_peak(self, header: Header, load: Load) -> int:
        """See Format. Besides the planes the rows of blocks that are read are held."""
        if load == AS_IT_IS or header.detail.several:
            return self.decode_peak(header)
        return 3 * header.shrunk(load.shrink).nbytes + 200 * header.width

    def load(self, data: bytes, header: Header, load: Load) -> Pixels | Planes:
        """See Format. What the native decoder does not read is simplejpeg's."""
        if load == AS_IT_IS:
            return self.decode(data, header)
        small = header.shrunk(load.shrink)
        if not _is_native(header.detail):
            return self.decode(data, small, rough=load.shrink > 1)
        luma, *chroma = header.detail.sampling
        # the chroma is shrunk until it has half of the luma's sides, or as many as it
        wanted = (2 if load.planes else 1) * load.shrink
        least = min([wanted // (luma >> 4), wanted // (luma & 15)] if chroma else [1])
        try:
            y, *colors = _jpeg.planes(data, load.shrink, min(least, SHRINK))
        except _jpeg.DamagedError as error:
            raise Damaged(f"JPEG: {error}") from None
        except _jpeg.UnsupportedError:
            return self.decode(data, small)
        opencv.checked(y, replace(small, channels=1))
        if not chroma:
            return opencv.checked(y, small)
        if load.planes:
            cb, cr = (_fitted(plane, (small.height + 1) // 2, (small.width + 1) // 2) for plane in colors)
            return Planes(y, cb, cr)
        cb, cr = (_fitted(plane, small.height, small.width) for plane in colors)
        return opencv.checked(cv2.cvtColor(cv2.merge([y, cr, cb]), cv2.COLOR_YCrCb2BGR), small)

    def notes(self, header: Header) -> tuple[str, ...]:
        """See Format."""
        notes = super().notes(header)
        if len(header.detail.components) < 4:
            return notes
        if color.converts_cmyk(header.detail.cmyk_icc):
            return (*notes, "CMYK was converted to sRGB")
        return (*notes, "CMYK became RGB without a colour profile")

    def encode(self, pixels: Pixels | Planes, options: Options, metadata: Metadata) -> Encoded:
        """See Format."""
        height, width = pixels.shape[:2]
        if max(width, height) > MAX_SIDE:
            raise Unencodable(f"JPEG holds at most {MAX_SIDE} pixels a side, the picture is {width}x{height}")
        shallow: tuple[str, ...] = ()
        opaque: tuple[str, ...] = ()
        if isinstance(pixels, Planes) and min(height, width) == 1:
            pixels = pixels.bgr()  # simplejpeg takes their chroma for that of another sampling
        if not isinstance(pixels, Planes):
            pixels, shallow = to_8_bit(pixels)
            pixels, opaque = flattened(pixels, options.background)
        try:
            file = _file(pixels, options.quality)
        except ValueError as error:
            if "memory" in str(error).lower():
                raise OutOfMemory("no memory to encode a JPEG") from None
            raise Unencodable(f"JPEG: {error}") from None
        blocks, notes = _metadata(metadata, pixels.shape[2])
        start = 4 + int.from_bytes(file[4:6])  # after JFIF's APP0, which must be the first
        return Encoded(b"".join([file[:start], *blocks, file[start:]]), shallow + opaque + notes)


def _file(pixels: Pixels | Planes, quality: int) -> bytes:
    """A file of 8 bits without metadata, its chroma halved: of planes and of gray by the native encoder."""
    if isinstance(pixels, Planes):
        y, *chroma = pixels.y, pixels.cb, pixels.cr
    elif pixels.shape[2] == 1:
        y, *chroma = (pixels[:, :, 0],)
    else:
        return _by_library(pixels, quality)
    return _jpeg.encode(_head(quality, not chroma), y, *chroma) if _jpeg.is_fast() else _by_library(pixels, quality)


def _by_library(pixels: Pixels | Planes, quality: int) -> bytes:
    file: bytes
    if isinstance(pixels, Planes):
        height, width = pixels.y.shape
        # libjpeg-turbo reads luma for all of the chroma: of odd sides a row or a column more than they have
        y = padded(pixels.y, height + height % 2, width + width % 2)[:height, :width]
        file = simplejpeg.encode_jpeg_yuv_planes(y, pixels.cb, pixels.cr, quality)
    else:
        kind, sampling = ("GRAY", "Gray") if pixels.shape[2] == 1 else ("BGR", "420")
        file = simplejpeg.encode_jpeg(pixels, quality, kind, sampling)
    return file


@cache
def _head(quality: int, gray: bool) -> bytes:
    """A small file that has the tables of this quality."""
    return _by_library(np.zeros((16, 16, 1 if gray else 3), np.uint8), quality)


def _is_native(detail: Detail) -> bool:
    """Whether the native decoder is asked: it is the faster one, and may know the picture."""
    usual = len(detail.sampling) == 1 or detail.sampling[0] in (0x11, 0x12, 0x21, 0x22)
    return _jpeg.is_fast() and not detail.several and usual


def _fitted(plane: Any, height: int, width: int) -> Any:
    """A plane at that size, which is its own or half of it."""
    down, across = 1 + (plane.shape[0] > height), 1 + (plane.shape[1] > width)
    if (down, across) == (1, 1):
        return plane
    return cv2.resize(padded(plane, down * height, across * width), (width, height), interpolation=cv2.INTER_AREA)


def _metadata(metadata: Metadata, channels: int) -> tuple[list[bytes], tuple[str, ...]]:
    """The segments that hold the metadata, and notes of what they cannot hold."""
    icc, notes = color.held(metadata.icc, channels)
    blocks = []
    for what, kind, block in (("EXIF", EXIF, metadata.exif), ("XMP", XMP, metadata.xmp)):
        if block and len(kind) + len(block) > ROOM:
            notes += (f"{what} was dropped: JPEG holds at most {ROOM - len(kind)} bytes of it",)
        elif block:
            blocks.append(_segment(APP1, kind + block))
    room = ROOM - len(ICC) - 2
    parts = [icc[start : start + room] for start in range(0, len(icc), room)] if icc else []
    if len(parts) > 255:
        return blocks, (*notes, color.DROPPED + ": it is too long for a JPEG")
    blocks += [_segment(APP2, ICC + bytes([n, len(parts)]) + part) for n, part in enumerate(parts, 1)]
    return blocks, notes


def _segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data
