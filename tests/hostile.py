"""Hostile pictures of every kind that we know of, made by code: nothing here is a file of someone else's.

The kinds are those of Pillow's Tests/images, libjpeg-turbo's seed corpora, PngSuite, image-rs's regression images and
libavif's tests, and what experiments with the codecs inside showed.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from functools import cache

import cv2
import numpy as np
from PIL import Image

from falconimg.formats import Metadata
from tests import pictures

END = {"jpeg": b"\xff\xd9", "png": pictures.png_chunk(b"IEND", b""), "gif": b"\0;", "webp": b"", "avif": b""}
SIDES = ((16_385, 1), (1, 16_385), (7_072, 7_071), (16_000, 16_000), (65_500, 65_500))  # each over a limit


# Good files, which all the others are made of


@cache
def good() -> dict[str, bytes]:
    """A file of every kind that is read, by a name that begins with its format's."""
    gray, rgb, rgba = (pictures.noise(24, 33, channels) for channels in (1, 3, 4))
    smooth = pictures.gradient(40, 56)
    deep = pictures.noise(24, 33, 3, 16)
    more = Image.fromarray(np.ascontiguousarray(smooth[::-1]))
    rich = Metadata(pictures.srgb_profile(), pictures.exif_block(6), pictures.xmp_packet(6))
    files = {
        "jpeg-baseline": pictures.by_pillow("jpeg", rgb),
        "jpeg-progressive": pictures.by_pillow("jpeg", rgb, progressive=True),
        "jpeg-gray": pictures.by_pillow("jpeg", gray),
        "jpeg-gray-progressive": pictures.by_pillow("jpeg", gray, progressive=True),
        "jpeg-cmyk": pictures.cmyk_jpeg(rgba),
        "jpeg-cmyk-progressive": pictures.cmyk_jpeg(rgba, progressive=True),
        "jpeg-444-restarts": pictures.by_pillow("jpeg", rgb, subsampling=0, restart_marker_blocks=2),
        "jpeg-rich": pictures.encoded("jpeg", smooth, rich),
        "png-gray": pictures.by_pillow("png", gray),
        "png-rgb": pictures.by_pillow("png", rgb),
        "png-rgba": pictures.by_pillow("png", rgba),
        "png-16": pictures.encoded("png", deep),
        "png-bits": pictures.png((33, 24), 0, 1, [bytes(5)] * 24),
        "png-palette": pictures.png((8, 8), 3, 8, [bytes(range(8))] * 8, pictures.png_chunk(b"PLTE", bytes(range(24)))),
        "png-rich": pictures.encoded("png", smooth, rich),
        "webp-lossy": pictures.by_pillow("webp", smooth),
        "webp-lossless": pictures.by_pillow("webp", rgb, lossless=True),
        "webp-alpha": pictures.by_pillow("webp", rgba),
        "webp-animated": pictures.by_pillow("webp", smooth, save_all=True, append_images=[more]),
        "webp-rich": pictures.encoded("webp", smooth, rich),
        "avif-rgb": pictures.by_pillow("avif", rgb),
        "avif-gray": pictures.encoded("avif", gray),
        "avif-alpha": pictures.by_pillow("avif", rgba),
        "avif-10-bit": pictures.encoded("avif", deep),
        "avif-animated": pictures.by_pillow("avif", smooth, save_all=True, append_images=[more]),
        "avif-rich": pictures.encoded("avif", smooth, rich),
        "gif": pictures.by_pillow("gif", rgb),
        "gif-alpha": pictures.encoded("gif", rgba),
        "gif-animated": pictures.by_pillow("gif", smooth, save_all=True, append_images=[more]),
        "bmp-gray": pictures.by_pillow("bmp", gray),
        "bmp-rgb": pictures.by_pillow("bmp", rgb),
        "bmp-rgba": pictures.encoded("bmp", rgba),
        "pnm-bitmap": b"P4\n33 24\n" + bytes(range(120)),
        "pnm-plain-bitmap": b"P1\n4 2\n0101 1010\n",
        "pnm-plain": b"P3\n2 2\n255\n" + b" ".join(b"%d" % value for value in range(12)) + b"\n",
        "pgm": pictures.encoded("pgm", gray),
        "ppm-16": pictures.encoded("ppm", deep),
        "tiff-16": pictures.encoded("tiff", deep),
        "tiff-rgba-lzw": pictures.encoded("tiff", rgba),
        "tiff-planes-of-none": pictures.tiff(gray),
        "tiff-big-endian": pictures.tiff(deep, ">"),
    }
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        files[f"tiff-{compression}"] = pictures.by_pillow("tiff", rgb, compression=compression)
    return files


def form_of(name: str) -> str:
    """The format that a good file's name begins with."""
    return name.partition("-")[0]


# What is lost at the end


def cuts(file: bytes, parts: int = 64) -> Iterator[int]:
    """The lengths of 1/parts, 2/parts … of a file, each less than the whole."""
    return (len(file) * part // parts for part in range(1, parts))


def zeroed(file: bytes, cut: int) -> bytes:
    """The file as long as it was, with zeros from there on, as a disk or a broken upload leaves it."""
    return file[:cut] + bytes(len(file) - cut)


def closed(file: bytes, form: str, cut: int) -> bytes:
    """The file cut there, with its end marker behind it; cut within its own, it is whole."""
    end = END.get(form, b"")
    return file[: min(cut, len(file) - len(end))] + end


# Huge pictures in small files


def png_bomb(width: int, height: int, bits: int = 1) -> bytes:
    """All of a picture's rows, black, each of `bits` a pixel; packed, for 60 million pixels it is 60 kB at 1 bit."""
    row = b"\0" + bytes((width * bits + 7) // 8)
    packer = zlib.compressobj(9)
    many = max(1, 2**20 // len(row))
    data = b"".join(packer.compress(row * min(many, height - top)) for top in range(0, height, many)) + packer.flush()
    head = pictures.png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + pictures.png_chunk(b"IDAT", data) + pictures.png_chunk(b"IEND", b"")


def _jpeg(width: int, height: int) -> bytes:
    file = good()["jpeg-baseline"]
    place = file.index(b"\xff\xc0") + 5
    return file[:place] + struct.pack(">HH", height, width) + file[place + 4 :]


def gif(width: int, height: int, frame: tuple[int, int] = (1, 1), data: bytes = b"\2\2\x44\1\0") -> bytes:
    """A logical screen, a table of four colours, and a frame at its corner of these bytes of LZW."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x81, 0, 0) + bytes(12)
    return head + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + data + b";"


def bmp(width: int, height: int, bits: int = 24, size: int = 1000, **fields: int) -> bytes:
    """A BMP of so many bytes whatever its sides; `fields` are start, compression and colors."""
    start = fields.get("start", 54)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, fields.get("compression", 0), 0, 0, 0,
                       fields.get("colors", 0), 0)  # fmt: skip
    return (b"BM" + struct.pack("<IHHI", size, 0, 0, start) + info).ljust(size, b"\0")


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP of these chunks."""
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def canvas(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    """WebP's VP8X chunk."""
    return b"VP8X", bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def picture_chunk(file: bytes) -> tuple[bytes, bytes]:
    """The chunk of pixels of a WebP that has only that one."""
    return file[12:16], file[20 : 20 + int.from_bytes(file[16:20], "little")]


def _avif(width: int, height: int) -> bytes:
    return avif_with(good()["avif-rgb"], b"ispe", bytes(4) + struct.pack(">II", width, height))


def avif_with(file: bytes, kind: bytes, content: bytes) -> bytes:
    """The AVIF with the first box of this kind holding something else of the same length."""
    place = file.index(kind) + 4
    return file[:place] + content + file[place + len(content) :]


def tiff(tags: Mapping[int, tuple[int, ...]], body: bytes = bytes(64)) -> bytes:
    """A TIFF of one directory, gray of 8 bits unless the tags say otherwise; the body begins at 8."""
    every = {
        256: (8,), 257: (8,), 258: (8,), 259: (1,), 262: (1,), 273: (8,), 277: (1,), 278: (8,), 279: (len(body),),
        **tags,
    }  # fmt: skip
    body += bytes(len(body) % 2)
    place = 8 + len(body)
    extra, table, after = b"", b"", place + 2 + 12 * len(every) + 4
    for tag, values in sorted(every.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        where = packed if len(packed) == 4 else struct.pack("<I", after + len(extra))
        extra += packed if len(packed) > 4 else b""
        table += struct.pack("<HHI", tag, 4, len(values)) + where
    head = b"II*\0" + struct.pack("<I", place)
    return head + body + struct.pack("<H", len(every)) + table + bytes(4) + extra


def bombs(width: int, height: int) -> dict[str, bytes]:
    """Files of a few kB whose headers promise this picture, one for each way that a format can; some cannot."""
    files = {
        "png-header": pictures.png((width, height), 2, 8, [b""]),
        "jpeg": _jpeg(width, height),
        "gif-screen": gif(width, height),
        "gif-frame": gif(width, height, (width, height)),
        "bmp": bmp(width, height),
        "bmp-top-down": bmp(width, -height, 1),
        "webp-canvas": riff(canvas(width, height), picture_chunk(good()["webp-lossy"])),
        "avif-ispe": _avif(width, height),
        "pnm": b"P6 %d %d 255\n" % (width, height) + bytes(1000),
        "pnm-bitmap": b"P4 %d %d\n" % (width, height) + bytes(1000),
        "tiff-strips": tiff({256: (width,), 257: (height,), 278: (height,)}),
        "tiff-tile": tiff({256: (width,), 257: (height,), 322: (width,), 323: (height,), 324: (8,), 325: (64,)}),
        "tiff-deflate": tiff({256: (width,), 257: (height,), 278: (height,), 259: (8,)}, zlib.compress(bytes(2**20))),
    }
    if max(width, height) <= 16_384:
        sides = struct.pack("<HH", width, height)
        kind, data = picture_chunk(good()["webp-lossy"])
        files["webp-lossy"] = riff((kind, data[:6] + sides + data[10:]))
        bits = (width - 1) | (height - 1) << 14
        kind, data = picture_chunk(good()["webp-lossless"])
        files["webp-lossless"] = riff((kind, data[:1] + struct.pack("<I", bits) + data[5:]))
    return files


# What is not read at all


def foreign() -> dict[str, bytes]:
    """Files of other kinds, by their magic numbers (and a little more, so that a reader would take them)."""
    head = {
        "jpeg 2000": b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 \0\0\0\0jp2 ",
        "jpeg 2000 codestream": b"\xff\x4f\xff\x51\0\x2f\0\0",
        "radiance hdr": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 2 +X 2\n",
        "radiance rgbe": b"#?RGBE\nFORMAT=32-bit_rle_rgbe\n\n-Y 2 +X 2\n",
        "pfm": b"PF\n2 2\n-1.0\n",
        "gray pfm": b"Pf\n2 2\n-1.0\n",
        "sun raster": b"\x59\xa6\x6a\x95" + struct.pack(">7I", 2, 2, 24, 12, 1, 0, 0),
        "openexr": b"\x76\x2f\x31\x01\2\0\0\0",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="file:///etc/passwd"/></svg>',
        "xml": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><svg>&e;</svg>',
        "html": b"<!DOCTYPE html><script>alert(1)</script>",
        "pdf": b"%PDF-1.7\n1 0 obj\n",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 2, 2, 8, 3),
        "ico": b"\0\0\1\0\1\0" + bytes([1, 1, 0, 0, 1, 0, 32, 0]) + struct.pack("<II", 100, 22),
        "cur": b"\0\0\2\0\1\0" + bytes([1, 1, 0, 0, 1, 0, 32, 0]) + struct.pack("<II", 100, 22),
        "ani": b"RIFF\x40\0\0\0ACONanih",
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "mp4": b"\0\0\0\x18ftypisom\0\0\0\0isomiso2",
        "jpeg xl": b"\xff\x0a\x10\x20",
        "jpeg xl container": b"\0\0\0\x0cJXL \r\n\x87\n",
        "jpeg xr": b"II\xbc\1\x08\0\0\0",
        "dds": b"DDS \x7c\0\0\0",
        "tga": b"\0\0\2" + bytes(9) + struct.pack("<HHBB", 2, 2, 24, 0),
        "pcx": b"\x0a\5\1\x08" + bytes(8),
        "sgi": b"\x01\xda\0\1\0\3",
        "qoi": b"qoif" + struct.pack(">IIBB", 2, 2, 3, 0),
        "farbfeld": b"farbfeld" + struct.pack(">II", 1, 1),
        "fits": b"SIMPLE  =                    T",
        "icns": b"icns\0\0\x01\0",
        "xbm": b"#define x_width 8\n#define x_height 8\nstatic char x_bits[] = {0};\n",
        "xpm": b"/* XPM */\nstatic char *x[] = {",
        "wmf": b"\xd7\xcd\xc6\x9a\0\0",
        "emf": b"\1\0\0\0\x6c\0\0\0",
        "flif": b"FLIF\x33\x31",
        "bpg": b"BPG\xfb",
        "mng": b"\x8aMNG\r\n\x1a\n",
        "jng": b"\x8bJNG\r\n\x1a\n",
        "fli": b"\0\1\0\0\x11\xaf",
        "avi": b"RIFF\x40\0\0\0AVI LIST",
        "wav": b"RIFF\x40\0\0\0WAVEfmt ",
        "ole": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "zip": b"PK\3\4\x14\0",
        "gzip": b"\x1f\x8b\x08\0",
        "elf": b"\x7fELF\2\1\1",
        "shell": b"#!/bin/sh\nid\n",
        "mvg": b"push graphic-context\nviewbox 0 0 9 9\nimage over 0,0 0,0 'url(http://127.0.0.1/)'\n",
        "msl": b'<image><read filename="/etc/passwd"/></image>',
        "text": b"hello, this is text",
        "utf-16 text": "\ufeffhello".encode("utf-16"),
        "python": b"import os\n",
        "bigtiff": b"II+\0\x08\0\0\0" + struct.pack("<Q", 16),
        "pam": b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n",
        "os/2 bitmap array": b"BA" + bytes(16),
        "bmp of an unknown header": b"BM" + bytes(12) + struct.pack("<I", 64),
        "png without its second line": b"\x89PNG\n\x1a\n",
    }
    return {name: start + bytes(200) for name, start in head.items()}


# Tricks: each is refused or read, always the same, in little time and memory


def exif_loop() -> bytes:
    """An EXIF block of 65,535 entries, of which there are two, and whose next directory is itself."""
    entry = struct.pack("<HHII", 0x8769, 4, 1, 8)  # the Exif directory, at the first one's place
    return b"II*\0" + struct.pack("<IH", 8, 65535) + entry * 2 + struct.pack("<I", 8)


def jpeg_of_scans(count: int, height: int = 24, width: int = 33) -> bytes:
    """A progressive JPEG whose last scan comes so many times."""
    if height * width < 10**6:
        file = pictures.by_pillow("jpeg", pictures.gradient(height, width), progressive=True)
    else:
        whole = io.BytesIO()
        Image.new("L", (width, height)).save(whole, "JPEG", progressive=True)
        file = whole.getvalue()
    scan = file.rindex(b"\xff\xda")
    before = file.count(b"\xff\xda", 0, scan)
    return file[:scan] + file[scan:-2] * (count - before) + b"\xff\xd9"


def _segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def _jpegs() -> dict[str, bytes]:
    base, progressive = good()["jpeg-baseline"], good()["jpeg-progressive"]
    frame = base.index(b"\xff\xc0")
    frame_end = frame + 2 + int.from_bytes(base[frame + 2 : frame + 4])
    scan = base.index(b"\xff\xda")
    tables = base.index(b"\xff\xc4")
    part = b"ICC_PROFILE\0"
    return {
        "scans-1000": jpeg_of_scans(1000),
        "scans-101": jpeg_of_scans(101),
        "two-frames": base[:frame_end] + base[frame:frame_end] + base[frame_end:],
        "two-frames-of-two-sizes": base[:frame_end] + _jpeg(60_000, 60_000)[frame:frame_end] + base[frame_end:],
        "no-quantization": base[:20] + base[frame:],
        "no-huffman": base[:tables] + base[scan:],
        "no-height": _jpeg(33, 0),
        "wide-sampling": base.replace(b"\x01\x22\x00", b"\x01\x44\x00", 1),
        "no-sampling": base.replace(b"\x01\x22\x00", b"\x01\x00\x00", 1),
        "shared-component": base[: frame + 14] + base[frame + 11 : frame + 14] + base[frame + 17 :],
        "no-picture": base[:scan] + b"\xff\xd9",
        "comments": base[:2] + _segment(0xFE, b"") * 70_000 + base[2:],
        "fill-bytes": base[:2] + b"\xff" * 2**20 + base[2:],
        "restart-storm": base[: scan + 14] + b"\xff\xd0" * 100_000 + base[scan + 14 :],
        "garbage-between": base[:2] + b"garbage" + base[2:],
        "progressive-after-end": progressive + progressive,
        "profile-of-255-parts": base[:2] + b"".join(_segment(0xE2, part + bytes([n, 255])) for n in range(1, 256))
        + base[2:],
        "profile-of-two-counts": base[:2] + _segment(0xE2, part + b"\1\2x") + _segment(0xE2, part + b"\2\3x")
        + base[2:],
        "exif-loop": base[:2] + _segment(0xE1, b"Exif\0\0" + exif_loop()) + base[2:],
        "exif-beyond": base[:2] + _segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff") + base[2:],
        "thumbnail-bomb": base[:2] + _segment(0xE1, b"Exif\0\0" + _jpeg(65_500, 65_500)) + base[2:],
        "arithmetic": base[:frame] + b"\xff\xc9" + base[frame + 2 :],
        "lossless": base[:frame] + b"\xff\xc3" + base[frame + 2 :],
        "12-bit": base[: frame + 4] + b"\x0c" + base[frame + 5 :],
        "inverted-band": progressive[: progressive.index(b"\xff\xda") + 11] + b"\x3f\0\0" + b"\xff\xd9",
    }  # fmt: skip


def _pngs() -> dict[str, bytes]:
    chunk, rgb = pictures.png_chunk, good()["png-rgb"]
    end = rgb.index(b"IDAT") - 4
    control = chunk(b"acTL", struct.pack(">II", 2, 0))
    frame = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 33, 24, 0, 0, 1, 10, 0, 0))
    outside = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 1, 500, 500, 0, 0, 1, 10, 0, 0))
    frames = chunk(b"fdAT", struct.pack(">I", 2) + zlib.compress(bytes(9)))
    packet = b"XML:com.adobe.xmp\0\1\0\0\0"
    text, zeros = b"k\0\0", zlib.compress(bytes(8_000_000), 9)
    head = rgb[:33]
    rows = b"".join(b"\0" + bytes(99) for _ in range(24))
    tail = chunk(b"IEND", b"")

    def packed(data: bytes, **more: bytes) -> bytes:
        return head + more.get("before", b"") + chunk(b"IDAT", data) + tail

    interlaced = chunk(b"IHDR", struct.pack(">IIBBBBB", 33, 24, 8, 2, 0, 0, 1))
    deep = chunk(b"IHDR", struct.pack(">IIBBBBB", 33, 24, 16, 6, 0, 0, 1))
    palette = chunk(b"PLTE", bytes(range(6)))
    return {
        "animated": rgb[:end] + control + frame + rgb[end:-12] + outside + frames + tail,
        "animated-late": rgb[:-12] + control + outside + frames + tail,
        "animated-without-control": rgb[:end] + frame + rgb[end:-12] + frames + tail,
        "animated-of-none": rgb[:end] + chunk(b"acTL", bytes(8)) + rgb[end:],
        "animated-short-control": rgb[:end] + chunk(b"acTL", b"") + rgb[end:],
        "text-bombs": rgb[:end] + chunk(b"zTXt", text + zeros) * 300 + rgb[end:],
        "international-text-bombs": rgb[:end] + chunk(b"iTXt", b"k\0\1\0\0\0" + zeros) * 300 + rgb[end:],
        "xmp-bomb": rgb[:end] + chunk(b"iTXt", packet + zlib.compress(bytes(3 * 10**7))) + rgb[end:],
        "profile-bomb": rgb[:end] + chunk(b"iCCP", text + zlib.compress(bytes(3 * 10**7))) + rgb[end:],
        "profile-broken": rgb[:end] + chunk(b"iCCP", text + b"nothing of zlib's") + rgb[end:],
        "profile-twice": rgb[:end] + chunk(b"iCCP", text + zlib.compress(b"a")) * 2 + rgb[end:],
        "private-chunks": rgb[:end] + chunk(b"teSt", b"") * 200_000 + rgb[end:],
        "too-many-chunks": rgb[:end] + chunk(b"teSt", b"") * (2**18 + 1) + rgb[end:],
        "empty-data-chunks": rgb[:end] + chunk(b"IDAT", b"") * 50_000 + rgb[end:],
        "pixels-short": packed(zlib.compress(rows[:1000])),
        "pixels-short-of-one": packed(zlib.compress(rows[:-1])),
        "pixels-none": packed(zlib.compress(b"")),
        "pixels-empty": packed(b""),
        "pixels-more": packed(zlib.compress(bytes(10**8), 9)),
        "pixels-wrong-sum": packed(zlib.compress(rows)[:-4] + b"\0\0\0\0"),
        "pixels-without-sum": packed(zlib.compress(rows)[:-4]),
        "pixels-stop": packed(zlib.compress(pictures.noise(24, 100, 1).tobytes())[:-400]),
        "pixels-of-unknown-filter": packed(zlib.compress(rows.replace(b"\0" * 100, b"\7" + bytes(99)))),
        "pixels-interlaced-short": rgb[:8] + interlaced + chunk(b"IDAT", zlib.compress(bytes(700))) + tail,
        "pixels-deep-interlaced-short": rgb[:8] + deep + chunk(b"IDAT", zlib.compress(bytes(1500))) + tail,
        "data-apart": head + chunk(b"IDAT", zlib.compress(rows)[:9]) + chunk(b"tEXt", b"a\0b")
        + chunk(b"IDAT", zlib.compress(rows)[9:]) + tail,
        "two-headers": rgb[:33] + png_bomb(9, 9)[8:33] + rgb[33:],
        "two-headers-of-two-sizes": rgb[:33] + png_bomb(60_000, 600)[8:33] + rgb[33:],
        "header-late": rgb[:8] + chunk(b"tEXt", b"a\0b") + rgb[8:],
        "header-wrong-sum": rgb[:29] + bytes(4) + rgb[33:],
        "palette-index-beyond": pictures.png((8, 8), 3, 8, [bytes(range(8))] * 8, palette),
        "palette-none": pictures.png((8, 8), 3, 8, [bytes(8)] * 8),
        "palette-long": pictures.png((8, 8), 3, 8, [bytes(8)] * 8, chunk(b"PLTE", bytes(771))),
        "transparency-long": pictures.png((8, 8), 3, 8, [bytes(8)] * 8, palette + chunk(b"tRNS", bytes(9))),
        "unknown-critical": rgb[:end] + chunk(b"CRIT", b"x") + rgb[end:],
        "length-huge": rgb[:end] + b"\x7f\xff\xff\xffIDAT" + rgb[end + 8 :],
        "length-negative": rgb[:end] + b"\xff\xff\xff\xffIDAT" + rgb[end + 8 :],
        "exif-loop": rgb[:end] + chunk(b"eXIf", exif_loop()) + rgb[end:],
        "bits-3": pictures.png((8, 8), 0, 3, [bytes(3)] * 8),
    }  # fmt: skip


def lzw_blocks(data: bytes, width: int = 2) -> bytes:
    """GIF's sub-blocks of these bytes, after the least width of a code."""
    blocks = (data[place : place + 255] for place in range(0, len(data), 255))
    return bytes([width]) + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


def gif_of_clears(width: int, height: int, clears: int, bits: int = 2) -> bytes:
    """A frame whose data clears the code table as often, one pixel after each time, and then goes on in codes."""
    every = bits + 1
    pair = (1 << bits) | 0 << every  # a clear and the colour 0
    group = 8 // np.gcd(8, 2 * every)
    number = sum(pair << 2 * every * place for place in range(int(group)))
    unit = number.to_bytes(2 * every * int(group) // 8, "little")
    return gif(width, height, (width, height), lzw_blocks(unit * -(-clears // int(group)), bits))


def _gifs() -> dict[str, bytes]:
    one, animated = gif(1, 1), good()["gif-animated"]
    comment = b"!\xfe\1c\0"
    image = one[one.index(b",") : -1]
    return {
        "screen-of-65535": gif(65_535, 65_535),
        "frame-beyond": gif(4, 4, (5, 4)),
        "frame-empty": gif(4, 4, (0, 4)),
        "short-data": gif(200, 200, (200, 200)),
        "short-data-in-blocks": gif(200, 200, (200, 200), lzw_blocks(bytes([0x44]) + bytes(100))),
        "no-data": gif(4, 4, (4, 4), b"\2\0"),
        "code-width-0": gif(4, 4, (4, 4), b"\0\2\x44\1\0"),
        "code-width-12": gif(4, 4, (4, 4), b"\x0c\2\x44\1\0"),
        "code-unknown": gif(4, 4, (4, 4), lzw_blocks(b"\xfc\xff\xff\xff")),
        "no-table": b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0, 0, 0) + image + b";",
        "no-frame": one[:25] + b";",
        "clears": gif_of_clears(100, 100, 100_000),
        "clears-of-8-bits": gif_of_clears(100, 100, 100_000, 8),
        "comments": one[:25] + comment * 300_000 + one[25:],
        "comments-in-bytes": one[:25] + b"!\xfe" + b"\1c" * 1_000_000 + b"\0" + one[25:],
        "frames": one[:25] + image * 300_000 + b";",
        "unknown-block": one[:25] + b"?" + one[25:],
        "no-trailer": animated[:-1],
        "data-behind": one + b"<script>",
        "data-without-end": one[:-2] + b"\xff" + bytes([1]) * 20,
        "control-alone": one[:25] + b"!\xf9\4" + bytes(5) + b";",
        "control-short": one[:25] + b"!\xf9\1\xff\0" + one[25:],
    }


def _tiffs() -> dict[str, bytes]:
    deep = pictures.noise(8, 9, 3, 16)
    planar = np.ascontiguousarray(deep.transpose(2, 0, 1))
    lzw, body = good()["tiff-tiff_lzw"], bytes(range(64))
    huge_jpeg = _jpeg(65_500, 65_500)
    jpeg = {259: (7,), 262: (6,), 277: (3,), 258: (8, 8, 8)}
    start = struct.unpack_from("<I", lzw, 4)[0]
    entries = int.from_bytes(lzw[start : start + 2], "little")
    following = start + 2 + 12 * entries
    many, across = 2**15, 64
    return {
        "planar-16": pictures.tiff(planar, tags={284: (2,)}),
        "planar-16-big-endian": pictures.tiff(planar, ">", tags={284: (2,)}),
        "planar-8": pictures.tiff((planar >> 8).astype(np.uint8), tags={284: (2,)}),
        "next-is-itself": lzw[:following] + struct.pack("<I", start) + lzw[following + 4 :],
        "directory-beyond": b"II*\0\xff\xff\xff\x7f" + bytes(99),
        "directory-of-65535": b"II*\0\x08\0\0\0\xff\xff" + bytes(99),
        "directory-full": b"II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHII", 1000, 3, 1, 0) * 65535 + bytes(9),
        "bits-of-a-million": tiff({258: (8,) * 10**6}),
        "offsets-of-millions": tiff({273: (8,) * 3 * 10**6, 279: (64,) * 3 * 10**6}),
        "sample-format-of-a-million": tiff({339: (1,) * 10**6}),
        "no-rows": tiff({278: (0,)}),
        "tile-without-size": tiff({322: (0,), 323: (16,), 324: (8,), 325: (64,)}),
        "tile-of-16-million": tiff({322: (2**24 - 1,), 323: (2**24 - 1,), 324: (8,), 325: (64,)}),
        "tiles-of-one-pixel": tiff({256: (4000,), 257: (4000,), 322: (1,), 323: (1,), 324: (8,), 325: (64,)}),
        "strips-missing": tiff({278: (1,)}),
        "strips-beyond": tiff({273: (8, 2**31), 279: (32, 32), 278: (4,)}),
        "strips-negative": tiff({273: (2**32 - 4,)}),
        "strips-empty": tiff({279: (0,)}),
        "strips-over-one-another": tiff(
            {256: (across,), 257: (many,), 278: (1,), 273: (8,) * many, 279: (2**20,) * many}, bytes(2**20)
        ),
        "deflated-bomb": tiff({259: (8,)}, zlib.compress(bytes(10**8), 9)),
        "deflated-short": tiff({259: (8,)}, zlib.compress(bytes(63))),
        "lzw-short": tiff({259: (5,)}, b"\x80\x00\x20\x10"),
        "lzw-short-of-one": tiff({256: (9,), 257: (9,), 278: (9,), 259: (5,)}, _lzw(bytes(range(80)))),
        "packbits-short": tiff({259: (32773,)}, b"\x07" + bytes(8)),
        "packbits-short-of-one": tiff({256: (9,), 257: (9,), 278: (9,), 259: (32773,)}, b"\x4f" + bytes(range(80))),
        "packbits-short-strip-of-odd": tiff({256: (3,), 257: (1,), 278: (1,), 259: (32773,)}, b"\1\1\2"),
        "packbits-one-pixel-short": tiff({256: (1,), 257: (1,), 278: (1,), 259: (32773,)}, b"\x80"),
        "lzw-one-pixel-short": tiff({256: (1,), 257: (1,), 278: (1,), 259: (5,)}, b"\x80\x40\x40"),
        "packbits-beyond": tiff({259: (32773,)}, b"\x7f" + bytes(8)),
        "jpeg-bomb": tiff(jpeg, huge_jpeg),
        "jpeg-of-scans": tiff({**jpeg, 256: (33,), 257: (24,), 278: (24,)}, jpeg_of_scans(1000)),
        "jpeg-of-another-size": tiff(jpeg, good()["jpeg-baseline"]),
        "jpeg-cut-and-closed": tiff(
            {**jpeg, 256: (33,), 257: (24,), 278: (24,)},
            good()["jpeg-progressive"][: good()["jpeg-progressive"].rindex(b"\xff\xc4")] + b"\xff\xd9",
        ),
        "jpeg-nothing": tiff(jpeg),
        "samples-65535": tiff({277: (65535,)}),
        "bits-64": tiff({258: (64,)}),
        "wrong-types": tiff({}).replace(struct.pack("<HH", 256, 4), struct.pack("<HH", 256, 11)),
        "unknown-compression": tiff({259: (50_000,)}, body),
        "orientation-9": tiff({274: (9,)}),
    }  # fmt: skip


def _lzw(data: bytes) -> bytes:
    """TIFF's LZW of at most 100 bytes: a clear, each byte as a code of 9 bits, the end."""
    codes = [256, *data, 257]
    number = 0
    for code in codes:
        number = number << 9 | code
    spare = -9 * len(codes) % 8
    return (number << spare).to_bytes((9 * len(codes) + spare) // 8)


def _webps() -> dict[str, bytes]:
    small, lossless = good()["webp-lossy"], good()["webp-lossless"]
    part, exact = picture_chunk(small), picture_chunk(lossless)
    anmf = b"ANMF", bytes(6) + b"\x37\0\0\x27\0\0" + bytes(4) + small[12:]
    return {
        "canvas-larger": riff(canvas(5000, 5000), part),
        "canvas-smaller": riff(canvas(3, 3), part),
        "canvas-of-16-million": riff(canvas(2**24, 2**24), part),
        "canvas-twice": riff(canvas(56, 40), canvas(5000, 5000), part),
        "canvas-late": riff(part, canvas(5000, 5000)),
        "canvas-alone": riff(canvas(56, 40)),
        "canvas-alpha-without": riff(canvas(56, 40, 0x10), part),
        "canvas-without-alpha": riff(canvas(33, 24), exact),
        "two-pictures": riff(canvas(56, 40), part, exact),
        "two-pictures-plain": riff(part, exact),
        "alpha-of-garbage": riff(canvas(56, 40, 0x10), (b"ALPH", b"\1garbage"), part),
        "alpha-empty": riff(canvas(56, 40, 0x10), (b"ALPH", b""), part),
        "alpha-short": riff(canvas(56, 40, 0x10), (b"ALPH", b"\0" + bytes(100)), part),
        "animation-without-frames": riff(canvas(56, 40, 2), (b"ANIM", bytes(6))),
        "animation-frame-beyond": riff(canvas(3, 3, 2), (b"ANIM", bytes(6)), anmf),
        "animation-on-a-huge-canvas": riff(canvas(16_384, 16_384, 2), (b"ANIM", bytes(6)), anmf),
        "animation-frame-short": riff(canvas(56, 40, 2), (b"ANIM", bytes(6)), (b"ANMF", anmf[1][:40])),
        "size-beyond": small[:4] + struct.pack("<I", len(small)) + small[8:],
        "size-short": small[:4] + struct.pack("<I", 30) + small[8:],
        "chunks": riff(*[(b"junk", b"")] * 70_000, part),
        "no-chunks": riff(),
        "key-frame-not": riff((part[0], bytes([part[1][0] | 1]) + part[1][1:])),
        "partition-beyond": riff((part[0], part[1][:3].replace(part[1][:3], b"\x10\xff\xff") + part[1][3:])),
        "exif-loop": riff(canvas(56, 40, 8), part, (b"EXIF", exif_loop())),
    }


def box(kind: bytes, content: bytes) -> bytes:
    """A box of ISO's container."""
    return struct.pack(">I", 8 + len(content)) + kind + content


def avif_of_meta(*parts: bytes, after: bytes = b"") -> bytes:
    """An AVIF of a meta box with these parts, and nothing that could be decoded."""
    head = box(b"ftyp", b"avif\0\0\0\0avifmif1")
    return head + box(b"meta", bytes(4) + b"".join(parts)) + after


def _avif_of_another_sequence() -> bytes:
    """The size in the container says 16×16, the coded picture is of 4000×4000 and takes a few hundred bytes."""
    fine, file = cv2.imencode(".avif", np.zeros((4000, 4000, 3), np.uint8), [cv2.IMWRITE_AVIF_SPEED, 10])
    assert fine
    return avif_with(file.tobytes(), b"ispe", bytes(4) + struct.pack(">II", 16, 16))


def _avifs() -> dict[str, bytes]:
    plain = good()["avif-rgb"]
    primary = box(b"pitm", bytes(4) + b"\0\1")
    nothing = box(b"iprp", box(b"ipco", b""))
    size = box(b"ispe", bytes(4) + struct.pack(">II", 8, 8))
    coding = box(b"av1C", b"\x81\0\x0c\0")
    props = box(b"iprp", box(b"ipco", size + coding) + box(b"ipma", bytes(4) + struct.pack(">IHBBB", 1, 1, 2, 1, 2)))
    extents = struct.pack(">HHH", 1, 0, 65535)
    every = b"".join(struct.pack(">HHH", number, 0, 65535) for number in range(1, 2001))
    locations = box(b"iloc", bytes(4) + b"\x44\0" + struct.pack(">H", 200)
                    + b"".join(struct.pack(">HHHII", n, 0, 1, 0, 4_000_000) for n in range(2, 202)))  # fmt: skip
    kinds = box(b"iinf", bytes(4) + struct.pack(">H", 200) + b"".join(
        box(b"infe", b"\2\0\0\0" + struct.pack(">HH", n, 0) + b"mime\0application/rdf+xml\0") for n in range(2, 202)
    ))  # fmt: skip
    refers = box(b"iref", bytes(4) + b"".join(
        box(b"cdsc", struct.pack(">HHH", n, 1, 1)) for n in range(2, 202)
    ))  # fmt: skip
    place = plain.index(b"meta") - 4
    return {
        "another-sequence": _avif_of_another_sequence(),
        "extents-of-nothing": avif_of_meta(primary, box(b"iloc", bytes(4) + b"\0\0" + struct.pack(">H", 2000) + every),
                                           props),
        "extents-of-one": avif_of_meta(primary, box(b"iloc", bytes(4) + b"\0\0\0\1" + extents), props),
        "descriptions-of-one-place": avif_of_meta(primary, locations, kinds, refers, props,
                                                  after=box(b"mdat", bytes(4_000_000))),
        "ftyp-alone": plain[: plain.index(b"meta") - 4],
        "meta-empty": plain[:place] + box(b"meta", b""),
        "no-properties": avif_of_meta(primary, nothing),
        "no-picture": avif_of_meta(primary, props),
        "box-of-one-byte": plain[:place] + b"\0\0\0\1meta",
        "box-of-huge-size": plain[:place] + b"\0\0\0\1meta\x7f\xff\xff\xff\xff\xff\xff\xff" + plain[place:],
        "box-of-size-7": plain[:place] + b"\0\0\0\7meta" + plain[place:],
        "boxes": plain + box(b"free", b"") * 70_000,
        "brands": box(b"ftyp", b"avif\0\0\0\0" + b"avif" * 100_000) + plain[place:],
        "property-missing": avif_with(plain, b"ipma", bytes(4) + plain[plain.index(b"ipma") + 8 :][:7] + b"\x7f"),
        "primary-missing": avif_with(plain, b"pitm", bytes(4) + b"\xff\xff"),
        "mdat-zero": plain[: plain.index(b"mdat") + 4] + bytes(len(plain) - plain.index(b"mdat") - 4),
    }  # fmt: skip


def _pnms() -> dict[str, bytes]:
    return {
        "nine-digits": b"P6 999999999 999999999 255\n" + bytes(99),
        "many-digits": b"P6 " + b"9" * 100_000 + b" 1 255\n",
        "negative": b"P6 -1 -1 255\n" + bytes(99),
        "zero": b"P6 0 0 255\n" + bytes(99),
        "maximum-zero": b"P5 4 4 0\n" + bytes(99),
        "maximum-65536": b"P5 4 4 65536\n" + bytes(99),
        "over-its-maximum": b"P5 4 4 9\n" + bytes(range(16)),
        "comment-without-end": b"P5 #" + b"x" * 10**6,
        "comments": b"P5 " + b"#\n" * 40_000 + b"4 4 255\n" + bytes(16),
        "spaces": b"P5" + b" " * 60_000 + b"4 4 255\n" + bytes(16),
        "plain-short": b"P3 4 4 255\n" + b"1 " * 47,
        "plain-words": b"P2 4 4 255\n" + b"x " * 16,
        "plain-long-numbers": b"P2 4 4 255\n" + b"000001 " * 16,
        "plain-negative": b"P2 4 4 255\n" + b"-1 " * 16,
        "plain-bitmap-of-two": b"P1 4 4\n" + b"2" * 16,
        "plain-of-a-million": b"P2 1000 1000 9\n" + b"9 " * 10**6,
        "plain-comment-inside": b"P2 2 1 9\n1 # 2\n 3\n",
        "others-digits": "P5 ٤ ٤ ٢\n".encode() + bytes(99),
    }


def _bmps() -> dict[str, bytes]:
    return {
        "one-kilobyte-of-a-giant": bmp(2**31 - 1, 2**31 - 1),
        "height-of-the-least": bmp(4, -(2**31)),
        "width-negative": bmp(-4, 4),
        "width-zero": bmp(0, 4),
        "start-beyond": bmp(4, 4, start=2**32 - 1),
        "start-in-the-header": bmp(4, 4, start=0),
        "palette-short": bmp(4, 4, 8, 70, start=54, colors=256),
        "palette-of-billions": bmp(4, 4, 8, 2000, start=1078, colors=2**32 - 1),
        "palette-index-beyond": bmp(4, 4, 8, 58 + 16, start=58, colors=1)[:58] + b"\xff" * 16,
        "runs": bmp(4, 4, 8, compression=1, start=1078, size=2000),
        "embedded-jpeg": bmp(4, 4, 0, compression=4),
        "embedded-png": bmp(4, 4, 0, compression=5),
        "masks-zero": bmp(4, 4, 32, compression=3, start=66),
        "bits-2": bmp(4, 4, 2),
        "bits-65535": bmp(4, 4, 65535),
    }


def _polyglots() -> dict[str, bytes]:
    script = b"<?php system($_GET['c']); ?><script>alert(1)</script>"
    archive = b"PK\3\4" + bytes(26) + b"PK\5\6" + bytes(18)
    base, rgb = good()["jpeg-baseline"], good()["png-rgb"]
    return {
        "jpeg-with-script": base[:2] + _segment(0xFE, script) + base[2:],
        "jpeg-and-zip": base + archive,
        "jpeg-behind-pdf": b"%PDF-1.4\n" + base,
        "jpeg-and-png": base + rgb,
        "gif-of-script": b"GIF89a=1;" + script,
        "gif-and-zip": good()["gif"] + archive,
        "png-and-zip": rgb + archive,
        "png-with-script": rgb[:33] + pictures.png_chunk(b"tEXt", b"c\0" + script) + rgb[33:],
        "bmp-and-zip": good()["bmp-rgb"] + archive,
        "tiff-and-zip": good()["tiff-packbits"] + archive,
        "webp-and-zip": good()["webp-lossy"] + archive,
        "pnm-and-pnm": good()["pgm"] * 3,
        "pnm-of-script": b"P6 #" + script + b"\n2 2 255\n" + bytes(12),
    }


@cache
def tricks() -> dict[str, bytes]:
    """All files that are neither huge by their header, nor cut, nor of another kind."""
    groups: dict[str, dict[str, bytes]] = {
        "jpeg": _jpegs(), "png": _pngs(), "gif": _gifs(), "tiff": _tiffs(), "webp": _webps(), "avif": _avifs(),
        "pnm": _pnms(), "bmp": _bmps(), "polyglot": _polyglots(),
    }  # fmt: skip
    return {f"{group}-{name}": file for group, files in groups.items() for name, file in files.items()}
