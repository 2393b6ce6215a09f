"""BMP, uncompressed: read with NumPy, for OpenCV's reader takes wrong alpha and misreads OS/2's header.

Source: Microsoft's "Bitmap Storage" (BITMAPFILEHEADER, BITMAPINFOHEADER to BITMAPV5HEADER), OS/2's BITMAPCOREHEADER.
"""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple

import numpy as np

from falconimg.errors import Damaged, Unencodable, Unsupported
from falconimg.formats import color, opencv
from falconimg.formats.base import Encoded, Format, Header, Metadata, Options, Pixels
from falconimg.formats.pixels import to_8_bit

CORE, INFO, V2, V3, V4, V5 = HEADERS = (12, 40, 52, 56, 108, 124)
UNCOMPRESSED, BITFIELDS = 0, 3
MAX_SIDE = 2**24
_MASKS = {16: (0x7C00, 0x03E0, 0x001F, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}  # without BITFIELDS


class Detail(NamedTuple):
    """What `decode` needs besides the header."""

    bits: int
    start: int  # of the pixels
    top_down: bool
    palette: bytes  # B, G, R for each colour
    masks: tuple[int, int, int, int]  # of R, G, B and alpha


class Bmp(Format):
    """BMP."""

    name = "bmp"
    extensions = (".bmp", ".dib")
    media_type = "image/bmp"
    reads = "palette, 16, 24 and 32 bit, alpha; no RLE"
    writes = "gray, RGB and RGBA; 16 bit becomes 8"
    keeps = frozenset({"gray", "alpha"})
    decode_cost = 3.0
    encode_cost = 2.1

    def sniff(self, head: bytes) -> bool:
        """See Format. The header's size is looked at too, for two letters are soon met."""
        return head[:2] == b"BM" and len(head) >= 18 and int.from_bytes(head[14:18], "little") in HEADERS

    def probe(self, data: bytes) -> Header:
        """See Format."""
        start, size = struct.unpack_from("<II", data, 10)
        if len(data) < 14 + size:
            raise Damaged("BMP's header ends early")
        colors = 0
        if size == CORE:
            width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
            compression = UNCOMPRESSED
        else:
            width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
            (colors,) = struct.unpack_from("<I", data, 46)
        if width <= 0 or height == 0 or max(width, abs(height)) > MAX_SIDE:
            raise Damaged(f"BMP's size is {width}x{height}")
        if compression not in (UNCOMPRESSED, BITFIELDS) or (compression and bits not in _MASKS):
            raise Unsupported(f"a BMP of {bits} bits with compression {compression} is not read")
        if bits not in (1, 4, 8, 16, 24, 32) or (size == CORE and bits in _MASKS):
            raise Unsupported(f"a BMP of {bits} bits is not read")
        if len(data) < start + (width * bits + 31) // 32 * 4 * abs(height) or start < 14 + size:
            raise Damaged("BMP data ends early")
        palette = _palette(data, size, bits, colors) if bits <= 8 else b""
        masks = _masks(data, size, bits) if compression else _MASKS.get(bits, (0, 0, 0, 0))
        gray = bool(palette) and palette[::3] == palette[1::3] == palette[2::3]
        channels: Literal[1, 3, 4] = 4 if masks[3] else 1 if gray else 3
        detail = Detail(bits, start, height < 0, palette, masks)
        return Header(self.name, width, abs(height), channels, detail=detail)

    def decode(self, data: bytes, header: Header) -> Pixels:
        """See Format. A value under a mask of n bits becomes round(value · 255 / (2ⁿ - 1))."""
        detail: Detail = header.detail
        width, height, bits = header.width, header.height, detail.bits
        stride = (width * bits + 31) // 32 * 4
        rows = np.frombuffer(data, np.uint8, stride * height, detail.start).reshape(height, stride)
        rows = rows if detail.top_down else rows[::-1]
        if bits == 24:
            return np.ascontiguousarray(rows[:, : width * 3].reshape(height, width, 3))
        if bits <= 8:
            shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
            index = (rows[:, :, None] >> shifts & (2**bits - 1)).reshape(height, -1)[:, :width]
            table = np.frombuffer(detail.palette, np.uint8).reshape(-1, 3)
            if index.max() >= len(table):
                raise Damaged("BMP's pixels go beyond its palette")
            return np.ascontiguousarray(table[:, : header.channels][index])
        values = rows.view("<u2" if bits == 16 else "<u4")[:, :width]
        red, green, blue, alpha = detail.masks
        planes = [_under(values, mask) for mask in (blue, green, red, alpha)[: header.channels]]
        return np.stack(planes, axis=2)

    def encode(self, pixels: Pixels, options: Options, metadata: Metadata) -> Encoded:
        """See Format."""
        height, width = pixels.shape[:2]
        if 4 * width * height >= 2**32 - 2048:
            raise Unencodable("BMP holds at most 4 GB")
        pixels, notes = to_8_bit(pixels)
        pixels, converted = color.to_srgb(pixels, metadata.icc)
        return Encoded(opencv.encode(".bmp", pixels), notes + converted + color.dropped(self.name, metadata))


def _palette(data: bytes, size: int, bits: int, colors: int) -> bytes:
    """B, G, R of each colour after the header; entries are of three bytes after OS/2's header, else of four."""
    step = 3 if size == CORE else 4
    table = data[14 + size : 14 + size + step * min(colors or 2**bits, 2**bits)]
    if len(table) % step or not table:
        raise Damaged("BMP's palette ends early")
    return b"".join(table[place : place + 3] for place in range(0, len(table), step))


def _masks(data: bytes, size: int, bits: int) -> tuple[int, int, int, int]:
    """The masks of R, G, B and alpha, each of bits side by side; alpha's only in headers that have one."""
    if len(data) < 70:
        raise Damaged("BMP's header ends early")
    red, green, blue, alpha = struct.unpack_from("<IIII", data, 54)
    masks = (red, green, blue, alpha if size >= V3 else 0)
    for mask in masks:
        run = mask // (mask & -mask) if mask else 0
        if mask >= 2**bits or run & (run + 1) or not all(masks[:3]):
            raise Unsupported("a BMP of such bit masks is not read")
    return masks


def _under(values: Pixels, mask: int) -> Pixels:
    """The 8-bit values of the channel under a mask."""
    shift = (mask & -mask).bit_length() - 1
    top = mask >> shift
    part = values >> shift & top
    if top == 255:
        return part.astype(np.uint8)
    return ((part.astype(np.uint64) * 255 + top // 2) // top).astype(np.uint8)
