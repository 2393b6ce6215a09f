"""ICC profiles: whether one fits a picture, and the conversion to sRGB if a colour library is installed.

Source: ICC.1:2022, 7.2 (the header: colour space at 16, "acsp" at 36), 7.3 (the tag table), 10.13 and 10.15
(the description's text).
"""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np

from falconimg.formats.base import Metadata, Pixels
from falconimg.formats.pixels import bands

LIMIT = 4_000_000  # bytes of a profile; real ones reach 2 MB
DROPPED = "the colour profile was dropped"
BROKEN = "the colour profile is damaged and was dropped"


def space(icc: bytes) -> bytes:
    """The profile's colour space, four bytes: b"RGB ", b"GRAY", b"CMYK"; empty for what is no profile."""
    return icc[16:20] if icc[36:40] == b"acsp" else b""


def fits(icc: bytes, channels: int) -> bool:
    """Whether a picture of so many channels can carry the profile."""
    return space(icc) == (b"GRAY" if channels == 1 else b"RGB ")


def held(icc: bytes | None, channels: int) -> tuple[bytes | None, tuple[str, ...]]:
    """The profile for a file of so many channels, or a note that it does not fit such a picture."""
    if not icc or fits(icc, channels):
        return icc, ()
    return None, (DROPPED + ": it does not describe " + ("a gray picture" if channels == 1 else "RGB"),)


def _description(icc: bytes) -> bytes:
    """The element of the profile's description, at most 4,096 bytes of it; empty where there is none."""
    if len(icc) < 132:
        return b""
    (count,) = struct.unpack_from(">I", icc, 128)
    for entry in range(132, min(132 + 12 * min(count, 100), len(icc) - 11), 12):
        tag, start, size = struct.unpack_from(">4sII", icc, entry)
        if tag == b"desc":
            return icc[start : start + min(size, 4096)]
    return b""


def is_srgb(icc: bytes) -> bool:
    """Whether the profile's description names it as sRGB."""
    return b"sRGB" in _description(icc).replace(b"\0", b"")


def name(icc: bytes) -> str | None:
    """The profile's description, in English if it has several; None where it has none that can be read and printed.

    Source: ICC.1:2001-04, 6.5.17 (`desc`: a count, then ASCII); ICC.1:2022, 10.15 (`mluc`: records of a language and
    a country, a length and an offset from the element's start; the texts are UTF-16BE).
    """
    element = _description(icc)
    try:
        if element[:4] == b"desc":
            (length,) = struct.unpack_from(">I", element, 8)
            text = element[12 : 12 + length].decode("ascii")
        elif element[:4] == b"mluc":
            count, step = struct.unpack_from(">II", element, 8)
            entries = range(16, 16 + max(step, 12) * min(count, 100), max(step, 12))
            records = [struct.unpack_from(">2s2xII", element, at) for at in entries if at + 12 <= len(element)]
            _, length, start = next((record for record in records if record[0] == b"en"), records[0])
            text = element[start : start + length].decode("utf-16-be")
        else:
            return None
    except (struct.error, UnicodeDecodeError, IndexError):
        return None
    text = text.partition("\0")[0].strip()
    return text if text and text.isprintable() else None


def dropped(name: str, metadata: Metadata) -> tuple[str, ...]:
    """Notes of EXIF and XMP for a format that holds neither."""
    blocks = (("EXIF", metadata.exif), ("XMP", metadata.xmp))
    return tuple(f"{what} was dropped: {name.upper()} does not hold it" for what, block in blocks if block)


def _transform(icc: bytes, source: str) -> Any:
    """A transform from the profile to sRGB, or None: no library, or a profile that it refuses."""
    try:
        from PIL import ImageCms
    except ImportError:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), source, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None


def converts_cmyk(icc: bytes | None) -> bool:
    """Whether `cmyk_to_srgb` will convert by this profile."""
    return icc is not None and space(icc) == b"CMYK" and _transform(icc, "CMYK") is not None


def cmyk_to_srgb(pixels: Pixels, icc: bytes | None) -> Pixels:
    """(h, w, 4) CMYK, 255 full ink, to (h, w, 3) BGR in sRGB, by a profile that `converts_cmyk` accepts."""
    return _apply(_transform(icc or b"", "CMYK"), pixels, "CMYK")


def to_srgb(pixels: Pixels, icc: bytes | None) -> tuple[Pixels, tuple[str, ...]]:
    """The picture in sRGB for a format that holds no profile, and a note of what was done; alpha stays.

    Only 8-bit pictures are converted, and only where Pillow is installed; else the values stay as they are.
    """
    if not icc:
        return pixels, ()
    if is_srgb(icc):
        return pixels, ("the colour profile, which is sRGB, was dropped",)
    gray = pixels.shape[2] == 1
    if not fits(icc, pixels.shape[2]) or pixels.dtype != np.uint8:
        return pixels, (DROPPED,)
    transform = _transform(icc, "L" if gray else "RGB")
    if transform is None:
        return pixels, (DROPPED,)
    source, mode = (pixels, "L") if gray else (pixels[:, :, 2::-1], "RGB")
    converted = _apply(transform, source, mode)[:, :, : 1 if gray else 3]
    if pixels.shape[2] == 4:
        converted = np.concatenate([converted, pixels[:, :, 3:]], axis=2)
    return converted, ("the colours were converted to sRGB, because the file cannot hold the colour profile",)


def _apply(transform: Any, pixels: Pixels, mode: str) -> Pixels:
    """(h, w, 3) BGR of what the transform makes of pixels in Pillow's order."""
    from PIL import Image, ImageCms

    result: Pixels = np.empty((*pixels.shape[:2], 3), np.uint8)
    for rows in bands(pixels):
        part = pixels[rows]
        source = Image.frombytes(mode, (part.shape[1], part.shape[0]), part.tobytes())
        result[rows] = np.asarray(ImageCms.applyTransform(source, transform))[:, :, ::-1]
    return result
