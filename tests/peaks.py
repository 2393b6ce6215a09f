"""What each format really takes, as a program.

Its arguments are depths, 8 or 16. It writes a line of each picture: the bytes that it takes, those that are expected,
and what it is.

glibc is to give each freed block back (MALLOC_MMAP_THRESHOLD_), so that the peak of the process is that of the codec.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from falconimg import formats
from falconimg.formats import Options
from tests import pictures
from tests.load import memory

SIDES = (700, 800)


def peak(make: Callable[[], Any]) -> tuple[int, Any]:
    """The bytes that this process grows by, and what was made."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew: proc(5)
    before = memory("self")
    made = make()
    return memory("self", "VmHWM") - before, made


def kinds() -> Iterator[tuple[str, bytes]]:
    """Files that take more to read than those that falconimg writes."""
    gray, rgb, rgba = (pictures.noise(*SIDES, channels) for channels in (1, 3, 4))
    for name, pixels in (("gray", gray), ("rgb", rgb)):
        yield f"jpeg progressive {name}", pictures.by_pillow("jpeg", pixels, progressive=True)
        yield f"webp lossless {name}", pictures.by_pillow("webp", pixels, lossless=True, method=0)
        ascii_ = " ".join(map(str, pixels.ravel().tolist()))
        yield f"pnm plain {name}", f"P{2 if name == 'gray' else 3} 800 700 255 {ascii_}\n".encode()
        for packed in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
            yield f"tiff {packed} {name}", pictures.by_pillow("tiff", pixels, compression=packed, strip_size=2**30)
    yield "jpeg cmyk", pictures.cmyk_jpeg(rgba)
    yield "jpeg cmyk progressive", pictures.cmyk_jpeg(rgba, progressive=True)
    yield "png gray with a clear value", pictures.by_pillow("png", gray, transparency=3)
    yield (
        "webp of frames",
        pictures.by_pillow("webp", rgb, save_all=True, append_images=[Image.fromarray(rgb[::-1].copy())]),
    )


def main() -> None:
    """Write and read noise of all kinds, of the depths that are given as arguments."""
    files = list(kinds())
    for form in formats.FORMATS.values():
        # what a codec takes once and keeps is no picture's
        small = formats.encode(form, pictures.noise(32, 32), Options()).data
        formats.decode(small, formats.probe(small))
        for channels in (1, 3, 4):
            for depth in map(int, sys.argv[1:]):
                for quality in (form.quality or 95, 100)[: 1 if form.quality is None else 2]:
                    pixels = pictures.noise(*SIDES, channels, depth)
                    needed, made = peak(partial(formats.encode, form, pixels, Options(quality)))
                    size = pixels.nbytes * (3 if channels == 1 and "gray" not in form.keeps else 1)
                    during, file = form.encode_peak(size, channels, quality)
                    name = f"{form.name} {channels} {depth} {quality}"
                    sys.stdout.write(f"{needed} {during} {name} written\n")
                    sys.stdout.write(f"{len(made.data)} {file} {name} as a file\n")
                    files.append((name, made.data))
    for name, data in files:
        header = formats.probe(data)
        # what other processes do to the kernel's accounts is not what it takes
        needed = min(peak(partial(formats.decode, data, header))[0] for _ in range(2))
        sys.stdout.write(f"{needed} {formats.FORMATS[header.format].decode_peak(header) + len(data)} {name} read\n")


if __name__ == "__main__":
    main()
