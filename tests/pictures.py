"""Pictures and files for the tests: made here, or photographs that scikit-image's wheel brings along.

Pixels are (h, w, c) in OpenCV's order, as everywhere. Files come from Pillow or are put together by hand, so that
the writer under test is not the one that made the input; `encoded` alone is falconimg's own.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageCms

from falconimg import formats
from falconimg.formats import Metadata, Options, Pixels

# What turns a stored picture into the seen one, by EXIF's number.
TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}
BACK = {6: 8, 8: 6}  # the others undo themselves


def gradient(height: int, width: int, channels: int = 3, depth: int = 8) -> Pixels:
    """Smooth ramps, each channel another way; alpha from clear at the left to opaque at the right."""
    top = 2**depth - 1
    y, x = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None, :]
    planes = [x + 0 * y, y + 0 * x, (x + y) / 2, x + 0 * y]
    result: Pixels = np.rint(np.stack(planes[:channels], 2) * top).astype(np.uint8 if depth == 8 else np.uint16)
    return result


def noise(height: int, width: int, channels: int = 3, depth: int = 8, seed: int = 0) -> Pixels:
    """Every value equally likely, each pixel on its own."""
    kind = np.uint8 if depth == 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 2**depth, (height, width, channels), kind)


def text(height: int, width: int, channels: int = 3, depth: int = 8) -> Pixels:
    """Dark letters on white: hard edges, few colours."""
    top = 2**depth - 1
    page = np.full((height, width, channels), 255, np.uint8)
    for line, y in enumerate(range(14, height + 14, 16)):
        cv2.putText(
            page, f"{line} falcon & image", (2, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (30, 20, 90, 255)[:channels]
        )
    return page if depth == 8 else (page.astype(np.uint16) * (top // 255))


def flat(height: int, width: int, color: tuple[int, ...], depth: int = 8) -> Pixels:
    """One colour everywhere: B, G, R, and alpha if given."""
    return np.full((height, width, len(color)), color, np.uint8 if depth == 8 else np.uint16)


def photographs() -> dict[str, Pixels]:
    """Three photographs from scikit-image's wheel, BGR: nothing is fetched."""
    spec = find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "data"
    names = ("astronaut.png", "coffee.png", "rocket.jpg")
    return {name: np.array(Image.open(folder / name).convert("RGB"))[:, :, ::-1].copy() for name in names}


def psnr(one: Pixels, other: Pixels) -> float:
    """How alike two pictures are, in dB of their type's range; inf where they are equal."""
    error = np.square(one.astype(float) - other.astype(float)).mean()
    return float(10 * np.log10(np.iinfo(one.dtype).max ** 2 / error)) if error else float("inf")


def encoded(form: str, pixels: Pixels, metadata: Metadata = formats.NO_METADATA, **options: Any) -> bytes:
    """A file by falconimg's own writer; options are those of Options, quality the format's own if not given."""
    options.setdefault("quality", formats.by_name(form).quality or 95)
    return formats.encode(form, pixels, Options(**options), metadata).data


def by_pillow(form: str, pixels: Pixels, **options: Any) -> bytes:
    """A file by Pillow, of 8-bit gray, BGR or BGRA pixels; options are those of Pillow's writer."""
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[:, :, order]).squeeze(2 if pixels.shape[2] == 1 else ())).save(
        file, form.upper(), **options
    )
    return file.getvalue()


def read_by_pillow(file: bytes) -> Pixels:
    """What Pillow reads, as gray, BGR or BGRA of 8 bits."""
    with Image.open(io.BytesIO(file)) as picture:
        if picture.mode in ("L", "1"):
            return np.array(picture.convert("L"))[:, :, None]
        alpha = picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info
        array = np.array(picture.convert("RGBA" if alpha else "RGB"))
    return array[:, :, [2, 1, 0, 3] if alpha else [2, 1, 0]]


def info_by_pillow(file: bytes) -> Metadata:
    """The metadata that Pillow finds."""
    with Image.open(io.BytesIO(file)) as picture:
        picture.load()
        exif, xmp = picture.info.get("exif"), picture.info.get("xmp")
        if isinstance(xmp, str):
            xmp = xmp.encode()
        return Metadata(picture.info.get("icc_profile"), exif.removeprefix(b"Exif\0\0") if exif else None, xmp)


def exif_block(orientation: int = 1, order: str = "<", software: bytes = b"pictures.py\0") -> bytes:
    """A small EXIF block: the orientation, and a text behind the directory."""
    entries = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    entries += struct.pack(order + "HHII", 0x0131, 2, len(software), 8 + 2 + 24 + 4)
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(order + "IH", 8, 2) + entries + bytes(4) + software


def xmp_packet(orientation: int = 1) -> bytes:
    """A small XMP packet with tiff:Orientation."""
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/>'
        b"</rdf:RDF></x:xmpmeta>" % orientation
    )


def oriented(form: str, orientation: int, seen: Pixels) -> bytes:
    """A file whose stored pixels are turned away, and whose tag says how to turn them back to `seen`.

    jpeg, png, webp, tiff or avif; all but jpeg without loss.
    """
    stored = np.ascontiguousarray(TURNS[BACK.get(orientation, orientation)](seen))
    writing: dict[str, dict[str, Any]] = {
        "jpeg": {"quality": 95, "subsampling": 0},
        "png": {},
        "webp": {"lossless": True, "exact": True},
        "tiff": {"compression": "tiff_lzw", "tiffinfo": {274: orientation}},
        "avif": {"quality": 100, "subsampling": "4:4:4"},
    }
    tag = {} if form == "tiff" else {"exif": b"Exif\0\0" + exif_block(orientation)}
    return by_pillow(form, stored, **writing[form], **tag)


def srgb_profile() -> bytes:
    """An sRGB profile."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _profile(space: bytes, tags: Mapping[bytes, bytes], name: bytes = b"A test profile") -> bytes:
    """An ICC profile of version 2 with these tags and a description (ICC.1:2001-04, 6.1 and 6.2)."""
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name + bytes(1 + 78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">iii", 63190, 65536, 54061),
        **tags,
    }
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, value in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    kind, pcs = (b"prtr", b"Lab ") if space == b"CMYK" else (b"mntr", b"XYZ ")
    head = struct.pack(">I4xI4s4s4s", start + len(body), 0x02100000, kind, space, pcs) + bytes(12) + b"acsp"
    illuminant = struct.pack(">iii", 63190, 65536, 54061)
    return (head.ljust(68, b"\0") + illuminant).ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _gamma(power: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(power * 256))


def rgb_profile(gamma: float = 1.0) -> bytes:
    """An RGB profile with sRGB's primaries and another curve, so that converting it changes pixels."""
    primaries = {b"rXYZ": (28578, 14581, 912), b"gXYZ": (25241, 46981, 6362), b"bXYZ": (9376, 3972, 46799)}
    tags = {name: b"XYZ \0\0\0\0" + struct.pack(">iii", *value) for name, value in primaries.items()}
    return _profile(b"RGB ", {**tags, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _gamma(gamma))})


def gray_profile(gamma: float = 1.0) -> bytes:
    """A gray profile."""
    return _profile(b"GRAY", {b"kTRC": _gamma(gamma)})


def cmyk_profile() -> bytes:
    """A CMYK profile: a table of two steps an ink, from full ink to white paper in Lab."""
    grid = bytearray()
    for node in range(16):
        c, m, y, k = (node >> bit & 1 for bit in (3, 2, 1, 0))
        light = 100 * (1 - 0.9 * k) * (1 - 0.2 * (c + m + y))
        grid += bytes([round(light * 2.55), 128 + 30 * (m - c) * (1 - k), 128 + 30 * (y - m) * (1 - k)])
    linear = bytes(range(256))
    identity = struct.pack(">9i", *(65536 if place % 4 == 0 else 0 for place in range(9)))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + linear * 4 + bytes(grid) + linear * 3
    return _profile(b"CMYK", {b"A2B0": table})


def cmyk_jpeg(pixels: Pixels, **options: Any) -> bytes:
    """A CMYK JPEG by Pillow, of pixels (h, w, 4) where 255 is full ink."""
    file = io.BytesIO()
    height, width = pixels.shape[:2]
    Image.frombytes("CMYK", (width, height), pixels.tobytes()).save(file, "JPEG", **options)
    return file.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    size: tuple[int, int], color_type: int, bits: int, rows: Iterable[bytes], chunks: bytes = b"", after: bytes = b""
) -> bytes:
    """A PNG of (width, height) from its rows' bytes, unfiltered; `chunks` go before the pixels, `after` behind."""
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, color_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunks + png_chunk(b"IDAT", data) + after + png_chunk(b"IEND", b"")


def tiff(samples: Pixels, order: str = "<", tags: Mapping[int, tuple[int, ...]] | None = None) -> bytes:
    """An uncompressed TIFF of one strip, samples (h, w, c) in the order given, or (c, h, w) if tag 284 says planar.

    `tags` (longs, or shorts under 65536) replace those that follow from the samples, or come on top.
    """
    tags = tags or {}
    planar = tags.get(284) == (2,)
    height, width, count = (samples.shape[1], samples.shape[2], samples.shape[0]) if planar else samples.shape
    body = samples.astype(samples.dtype.newbyteorder("<" if order == "<" else ">")).tobytes()
    start, each = 8, len(body) // (count if planar else 1)
    every: dict[int, tuple[int, ...]] = {
        256: (width,), 257: (height,), 258: (samples.itemsize * 8,) * count, 259: (1,), 262: (1 if count == 1 else 2,),
        273: tuple(range(start, start + len(body), each)), 277: (count,), 278: (height,),
        279: (each,) * (len(body) // each), **({338: (2,)} if count == 4 else {}), **tags,
    }  # fmt: skip
    place = start + len(body) + len(body) % 2
    extra, table, after = b"", b"", place + 2 + 12 * len(every) + 4
    for tag, values in sorted(every.items()):
        kind, code = (3, "H") if max(values) < 65536 else (4, "I")
        packed = struct.pack(f"{order}{len(values)}{code}", *values)
        where = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(order + "I", after + len(extra))
        extra += packed + bytes(len(packed) % 2) if len(packed) > 4 else b""
        table += struct.pack(order + "HHI", tag, kind, len(values)) + where
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", place)
    return head + body + bytes(len(body) % 2) + struct.pack(order + "H", len(every)) + table + bytes(4) + extra
