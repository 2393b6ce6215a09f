"""The orientation that an EXIF block or an XMP packet states: reading it, and setting it to upright.

Source: Exif 3.0, 4.6.2 (the IFD's form) and 4.6.4 A (Orientation); TIFF 6.0, section 2;
XMP part 2 (tiff:Orientation).
"""

from __future__ import annotations

import re
import struct
from typing import Literal

ORIENTATION, SHORT = 0x0112, 3
_XMP_ORIENTATION = re.compile(rb"(<tiff:Orientation>\s*|tiff:Orientation\s*=\s*[\"']\s*)[2-8](?=\s*[<\"'])")


def byte_order(exif: bytes) -> Literal["<", ">"] | None:
    """struct's sign for the order of the block's numbers, or None if it is no EXIF block."""
    if exif[:4] == b"II*\0":
        return "<"
    return ">" if exif[:4] == b"MM\0*" else None


def _places(exif: bytes) -> list[int]:
    """The offsets of the orientation's value in the first IFD, of which there should be one at most."""
    order = byte_order(exif)
    if order is None or len(exif) < 8:
        return []
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return []
    (count,) = struct.unpack_from(order + "H", exif, start)
    entries = range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12)
    one_short = (ORIENTATION, SHORT, 1)
    return [entry + 8 for entry in entries if struct.unpack_from(order + "HHI", exif, entry) == one_short]


def orientation(exif: bytes | None) -> int:
    """1 to 8 as the first IFD says; 1 where it says nothing, or nothing valid."""
    for place in _places(exif or b""):
        value = int.from_bytes(exif[place : place + 2], "little" if exif[:1] == b"I" else "big")  # type: ignore[index]
        return value if 1 <= value <= 8 else 1
    return 1


def upright(exif: bytes | None) -> bytes | None:
    """The same block with the orientation 1, every other byte as it was."""
    if not exif:
        return None
    result = bytearray(exif)
    for place in _places(exif):
        result[place : place + 2] = b"\1\0" if exif[:1] == b"I" else b"\0\1"
    return bytes(result)


def upright_xmp(xmp: bytes | None) -> bytes | None:
    """The same packet with tiff:Orientation 1, every other byte as it was."""
    if not xmp:
        return None
    result = bytearray(xmp)  # changed in place: a list of pieces would take many times a packet's memory
    for match in _XMP_ORIENTATION.finditer(xmp):
        result[match.end() - 1] = ord("1")
    return bytes(result)
