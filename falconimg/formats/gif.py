"""GIF: the first frame read, laid on the canvas; one frame written, in 256 colours.

Source: GIF89a specification: 18 (logical screen), 19 and 21 (colour tables), 20 (image), 22 (image data),
23 (graphic control), appendix F (LZW).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple

import cv2
import numpy as np

from falconimg.errors import Damaged, Unencodable, Unsupported
from falconimg.formats import color, opencv
from falconimg.formats.base import Encoded, Format, Header, Metadata, Options, Pixels
from falconimg.formats.pixels import as_color, to_8_bit
from falconimg.formats.quantize import quantized

EXTENSION, IMAGE, TRAILER, CONTROL = 0x21, 0x2C, 0x3B, 0xF9
MAX_SIDE = 65535
MAX_BLOCKS = 2**20  # and sub-blocks, in all
MAX_CLEARS = 40_000  # of the code table; each takes 30 µs, here and in OpenCV together
_TABLE = 768  # bytes of 256 colours
_OPENCV_HEAD = 13 + _TABLE + 19 + 8  # what OpenCV writes before the picture: screen, table, loop, control


class Frame(NamedTuple):
    """The first frame's parts, as the file holds them, its colours always in a table of its own."""

    transparent: int | None  # the index that is not drawn
    place: bytes  # left, top, width, height
    packed: int  # whether interlaced, and its table's size
    table: bytes
    data: bytes  # LZW data in its sub-blocks


def _table_size(packed: int) -> int:
    """A colour table's bytes by the packed field; 0 where there is none."""
    return 3 << ((packed & 7) + 1) if packed & 0x80 else 0


def _after_blocks(data: bytes, place: int, steps: Iterator[int]) -> int:
    """Where the sub-blocks that begin here end, 15 and 16; each is skipped by its length and takes a step."""
    for _ in steps:
        if place >= len(data):
            raise Damaged("GIF data ends early")
        length = data[place]
        place += 1 + length
        if not length:
            return place
    raise Unsupported(f"a GIF of more than {MAX_BLOCKS} blocks is not read")


def _frame(data: bytes, place: int, transparent: int | None, shared: bytes, steps: Iterator[int]) -> tuple[Frame, int]:
    """The image that begins at a place, and where it ends."""
    if place + 10 > len(data):
        raise Damaged("GIF data ends early")
    packed = data[place + 9]
    start = place + 10 + _table_size(packed)
    end = _after_blocks(data, start + 1, steps)
    own = data[place + 10 : start]
    if not own and not shared:
        raise Unsupported("a GIF without a colour table is not read")
    table = own or shared
    size = (len(table) // 3).bit_length() - 2
    return Frame(transparent, data[place + 1 : place + 9], packed & 0x40 | 0x80 | size, table, data[start:end]), end


def _require_few_clears(frame: Frame) -> None:
    """Refuse data that empties its code table again and again: OpenCV takes 8 µs each time, hours in all.

    Only the widths of the codes need be known for that: a code is one bit wider when the table, which grows by
    one entry with each code, reaches a power of two (appendix F). Once in 100 pixels is far more than any
    encoder does, but for those that avoid compression; these come up to ten million pixels.
    """
    data, place, blocks = frame.data, 1, []
    while place < len(data) and data[place]:
        blocks.append(data[place + 1 : place + 1 + data[place]])
        place += 1 + data[place]
    packed = np.frombuffer(b"".join(blocks) + bytes(4), np.uint8).astype(np.uint32)
    clear, bits = 1 << data[0], 8 * (len(packed) - 4)
    if not 2 <= data[0] <= 8:
        raise Damaged("GIF's codes are of a width that GIF does not know")
    codes = np.arange(clear + 1, clear + 1 + 2**12)
    widths = np.maximum(np.minimum(np.frexp(codes)[1], 12), data[0] + 1)
    ends = np.cumsum(widths)
    _, _, across, down = struct.unpack("<HHHH", frame.place)
    left, start, first = min(1000 + across * down // 100, MAX_CLEARS), 0, 0
    while start < bits:
        count = 256 if first == 0 else 2**12 - first
        at = start + ends[first : first + count] - widths[first : first + count] - (ends[first - 1] if first else 0)
        at = at[at < bits]
        byte = at >> 3
        values = packed[byte] | packed[byte + 1] << 8 | packed[byte + 2] << 16
        values = values >> (at & 7) & ((1 << widths[first : first + len(at)]) - 1)
        resets = np.flatnonzero((values == clear) | (values == clear + 1))
        if len(resets):
            start = int(at[resets[0]] + widths[first + resets[0]])
            first, left = 0, left - 1
            if left < 0:
                raise Unsupported("a GIF that clears its code table all the time is not read")
        else:
            start = int(at[-1] + widths[first + len(at) - 1])
            first = min(first + count, 2**12 - 256)  # from there on all codes are of 12 bits


class Gif(Format):
    """GIF; OpenCV does the LZW, this class the rest."""

    name = "gif"
    extensions = (".gif",)
    media_type = "image/gif"
    reads = "the first frame, to RGB or RGBA"
    writes = "256 colours; alpha becomes all or nothing, 16 bit becomes 8"
    keeps = frozenset()
    decode_cost = 4.6
    encode_cost = 4.6

    def sniff(self, head: bytes) -> bool:
        """See Format."""
        return head[:6] in (b"GIF87a", b"GIF89a")

    def probe(self, data: bytes) -> Header:
        """See Format. All blocks up to the trailer are walked, so that a truncation is seen."""
        if len(data) < 13:
            raise Damaged("GIF data ends early")
        width, height, packed = struct.unpack_from("<HHB", data, 6)
        if not width or not height:
            raise Damaged(f"GIF's size is {width}x{height}")
        place = 13 + _table_size(packed)
        shared = data[13:place]
        transparent: int | None = None
        frames: list[Frame] = []
        steps = iter(range(MAX_BLOCKS))
        for _ in steps:
            if place + 2 > len(data) and data[place : place + 1] != bytes([TRAILER]):
                raise Damaged("GIF data ends early")
            if data[place] == TRAILER:
                break
            if data[place] == IMAGE:
                frame, place = _frame(data, place, transparent, shared, steps)
                frames = [*frames[:1], frame]
            elif data[place] == EXTENSION:
                end = _after_blocks(data, place + 2, steps)
                if data[place + 1] == CONTROL and data[place + 2] == 4 and not frames:
                    transparent = data[place + 6] if data[place + 3] & 1 else None
                place = end
            else:
                raise Damaged("GIF has a block of no known kind")
        else:
            raise Unsupported(f"a GIF of more than {MAX_BLOCKS} blocks is not read")
        if not frames:
            raise Damaged("GIF has no picture")
        frame = frames[0]
        left, top, across, down = struct.unpack("<HHHH", frame.place)
        if not across or not down or left + across > width or top + down > height:
            raise Damaged("GIF's first frame is empty or beyond its canvas")
        whole = (across, down) == (width, height)
        channels: Literal[3, 4] = 3 if whole and frame.transparent is None else 4
        return Header(self.name, width, height, channels, frames=len(frames), detail=frame)

    def decode(self, data: bytes, header: Header) -> Pixels:
        """See Format. OpenCV gets a file of the first frame alone: it goes by the last frame's transparency."""
        frame: Frame = header.detail
        _require_few_clears(frame)
        size = struct.pack("<HH", header.width, header.height)
        image = bytes([IMAGE]) + frame.place + bytes([frame.packed]) + frame.table + frame.data
        # OpenCV gives alpha if the last control in the file says so, wherever it stands.
        last = _control(0) if header.channels == 4 else b""
        alone = [b"GIF89a", size, bytes(3), _control(frame.transparent), image, last, bytes([TRAILER])]
        return opencv.decode(b"".join(alone), header, self.decode_cost)

    def encode_peak(self, nbytes: int, channels: int, quality: int) -> tuple[int, int]:
        """See Format. Finding the colours takes two tables of a byte for each that there is."""
        during, file = super().encode_peak(nbytes, channels, quality)
        return during + 2 * 2**24, file

    def encode(self, pixels: Pixels, options: Options, metadata: Metadata) -> Encoded:
        """See Format. OpenCV's own tables are coarse (3, 3 and 2 bits), so it is given indices for colours."""
        height, width = pixels.shape[:2]
        if max(width, height) > MAX_SIDE:
            raise Unencodable(f"GIF holds at most {MAX_SIDE} pixels a side, the picture is {width}x{height}")
        pixels, notes = to_8_bit(pixels)
        pixels, converted = color.to_srgb(pixels, metadata.icc)
        notes += converted + color.dropped(self.name, metadata)
        opaque = np.ones((height, width), bool) if pixels.shape[2] < 4 else pixels[:, :, 3] >= 128
        if pixels.shape[2] == 4 and ((pixels[:, :, 3] > 0) & (pixels[:, :, 3] < 255)).any():
            notes += ("partial transparency became all or nothing",)
        hole = not opaque.all()
        index, table, exact = quantized(as_color(pixels), opaque, 255 if hole else 256)
        if not exact:
            notes += (f"the colours were reduced to {len(table)}",)
        index[~opaque] = 255
        return Encoded(_file(index, table, 255 if hole else None), notes)


def _file(index: Pixels, table: Pixels, transparent: int | None) -> bytes:
    """The file of indices (h, w) into a table of B, G, R.

    OpenCV's fast kind takes the index from the colour's highest bits (RRRGGGBB) and writes a table, a loop and a
    control of its own; of its file only the picture's block is taken.
    """
    carrier = cv2.merge([(index & 0x03) << 6, (index & 0x1C) << 3, index & 0xE0])
    params = [cv2.IMWRITE_GIF_TRANSPARENCY, 0, cv2.IMWRITE_GIF_QUALITY, cv2.IMWRITE_GIF_FAST_NO_DITHER]
    file = opencv.encode(".gif", carrier, params)
    if file[_OPENCV_HEAD] != IMAGE:
        raise Unencodable("GIF: OpenCV writes another form than it did")
    colors = table[:, ::-1].tobytes().ljust(_TABLE, b"\0")
    return file[:13] + colors + _control(transparent) + file[_OPENCV_HEAD:]


def _control(transparent: int | None) -> bytes:
    """A graphic control extension for this transparent index, or for none."""
    given, index = (0, 0) if transparent is None else (1, transparent)
    return struct.pack("<BBBBHBB", EXTENSION, CONTROL, 4, given, 0, index, 0)
