"""The file formats: FORMATS at the foot is the table, the functions are what the rest of falconimg calls."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePath
from typing import Any

from falconimg.errors import Damaged, OutOfMemory, SettingsProblem, Unsupported
from falconimg.formats.avif import Avif
from falconimg.formats.base import AS_IT_IS, NO_METADATA, Encoded, Format, Header, Load, Metadata, Options, Pixels
from falconimg.formats.bmp import Bmp
from falconimg.formats.gif import Gif
from falconimg.formats.jpeg import Jpeg
from falconimg.formats.opencv import prove_limit
from falconimg.formats.pixels import upright
from falconimg.formats.png import Png
from falconimg.formats.pnm import Pgm, Pnm, Ppm
from falconimg.formats.tiff import Tiff
from falconimg.formats.webp import Webp
from falconimg.planes import Planes, bgr
from falconimg.settings import Settings, check_codec_limit, codec_pixel_limit

__all__ = [
    "AS_IT_IS",
    "FORMATS",
    "NO_METADATA",
    "Encoded",
    "Format",
    "Header",
    "Load",
    "Metadata",
    "Options",
    "Pixels",
    "by_extension",
    "by_name",
    "by_word",
    "check",
    "decode",
    "encode",
    "load",
    "notes",
    "probe",
    "readable",
]  # fmt: skip


def readable(names: Collection[str]) -> dict[str, Format]:
    """The formats that are read: those of these names (FALCONIMG_FORMATS), or all where there are none.

    Raises:
        SettingsProblem: a name that is not in the table
    """
    for name in names:
        if name not in FORMATS:
            raise SettingsProblem(f"FALCONIMG_FORMATS: expected names of {', '.join(FORMATS)}, came {name[:100]!a}")
    return {name: form for name, form in FORMATS.items() if name in names or not names}


def probe(data: bytes, names: Collection[str] = ()) -> Header:
    """What the file's header says, by its content and never by a name; `names` as for `readable`.

    Raises:
        Unsupported: no format of the table, one that is switched off, or a kind of one that is not read
        Damaged: truncated or corrupt, so far as the header shows
    """
    if not data:
        raise Damaged("the file is empty")
    read = readable(names)
    for form in read.values():
        if form.sniff(data[:32]):
            return form.probe(data)
    for form in FORMATS.values():
        if form.sniff(data[:32]):
            raise Unsupported(f"{form.name} is switched off; FALCONIMG_FORMATS has {', '.join(read)}")
    raise Unsupported("the content is of no format that is read: " + ", ".join(read))


def decode(data: bytes, header: Header) -> Pixels:
    """The whole picture as seen: (height, width, channels) of header.size, C-contiguous, orientation applied.

    Raises:
        Damaged: truncated or corrupt
        Unsupported: a kind that is not read
        TooLarge: more pixels than the codecs were told to decode
        OutOfMemory: no memory for it
    """
    pixels: Pixels = bgr(load(data, header, AS_IT_IS))
    return pixels


def load(data: bytes, header: Header, how: Load) -> Pixels | Planes:
    """As `decode`, but of the shrunk header's size and, where that may be, as Planes."""
    try:
        return upright(FORMATS[header.format].load(data, header, how), header.orientation)
    except MemoryError:
        raise OutOfMemory(f"no memory to decode {header.width}x{header.height} pixels") from None


def notes(header: Header) -> tuple[str, ...]:
    """What the decoded picture will not have of the file, a sentence each."""
    return FORMATS[header.format].notes(header)


def encode(form: Format | str, pixels: Pixels | Planes, options: Options, metadata: Metadata = NO_METADATA) -> Encoded:
    """A complete file of the pixels, (h, w, c) of uint8 or uint16, with the metadata; losses are notes.

    Raises:
        Unencodable: the format cannot hold the picture
        OutOfMemory: no memory for it
    """
    form = by_name(form) if isinstance(form, str) else form
    try:
        array: Any = pixels if form.takes_planes else bgr(pixels)
        return form.encode(array, options, metadata)
    except MemoryError:
        raise OutOfMemory(f"no memory to encode {pixels.shape[1]}x{pixels.shape[0]} pixels") from None


def by_name(name: str) -> Format:
    """The format of this name in the table; KeyError for another."""
    return FORMATS[name]


def by_extension(path: str) -> Format | None:
    """The format that a path's extension, in any case, asks for; None for one that is not written."""
    suffix = PurePath(path).suffix.lower()
    return next((form for form in FORMATS.values() if suffix in form.extensions), None)


def by_word(word: str) -> Format | None:
    """The format that a person means by its name or an extension, in any case, with or without the dot."""
    word = word.lower().removeprefix(".")
    return FORMATS.get(word) or next((form for form in FORMATS.values() if f".{word}" in form.extensions), None)


def check(settings: Settings) -> None:
    """Refuse settings that the codecs of this process do not keep to.

    Raises:
        SettingsProblem: FALCONIMG_MAX_PIXELS or FALCONIMG_FORMATS
    """
    check_codec_limit(settings)
    readable(settings.formats)
    prove_limit(codec_pixel_limit())


FORMATS: dict[str, Format] = {
    form.name: form for form in (Jpeg(), Png(), Webp(), Avif(), Gif(), Bmp(), Pnm(), Pgm(), Ppm(), Tiff())
}
