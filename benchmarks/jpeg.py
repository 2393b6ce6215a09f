"""What the native JPEG codec takes of simplejpeg's CPU time: `python benchmarks/jpeg.py [ROUNDS]`.

Of a file in colour simplejpeg decodes BGR, which it must, where the planes are left as they are; of a gray one both do
the same work, and so they do where they encode planes, or gray.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import simplejpeg

from falconimg._jpeg import encode, planes

SIDES = ((900, 1200), (2000, 3000))
BITS = (1.0, 1.6, 4.5)  # a pixel
SCALES = (1, 2, 4, 8)


def photograph(height: int, width: int) -> Any:
    """Shapes of every size and a camera's noise."""
    chance = np.random.default_rng(0)
    picture = np.full((height, width, 3), 128, np.float32)
    for size in (4, 16, 64, 256):
        small = chance.normal(0, 2 + 100 / size, (height // size + 2, width // size + 2, 3)).astype(np.float32)
        picture += cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture + chance.normal(0, 2, picture.shape), 0, 255).astype(np.uint8)


def file_of(picture: Any, bits: float, kind: str) -> bytes:
    """The file of the quality that comes nearest to so many bits a pixel."""
    files: list[bytes] = [simplejpeg.encode_jpeg(picture, quality, kind, "420") for quality in range(50, 100, 3)]
    return min(files, key=lambda file: abs(density(file, picture) - bits))


def density(file: bytes, picture: Any) -> float:
    """Bits a pixel."""
    return float(8 * len(file) / picture.shape[0] / picture.shape[1])


def milliseconds(decode: Callable[[], Any]) -> float:
    """The CPU time of one call."""
    begun = time.thread_time()
    decode()
    return 1000 * (time.thread_time() - begun)


def compared(mine: Callable[[], Any], library: Callable[[], Any], rounds: int) -> str:
    """The medians of both, and the median of the ratios, measured in turn."""
    times = [(milliseconds(mine), milliseconds(library)) for _ in range(rounds)]
    ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(a / max(b, 1e-6) for a, b in times)
    return f"{ours:8.2f} {theirs:8.2f} {ratio:6.2f}"


def decoding(file: bytes, kind: str, height: int, width: int, scale: int, rounds: int) -> str:
    """At one scale."""

    def library() -> Any:
        return simplejpeg.decode_jpeg(
            file, kind, min_height=-(-height // scale), min_width=-(-width // scale), min_factor=1
        )

    return f"1/{scale}    {compared(lambda: planes(file, scale, scale), library, rounds)}"


def encoding(file: bytes, rounds: int) -> str:
    """What is in the file, at the quality of its tables."""
    found = planes(file)
    quality = next(quality for quality in range(50, 100, 3) if tables(quality, len(found)) in file)

    def library() -> Any:
        if len(found) == 3:
            return simplejpeg.encode_jpeg_yuv_planes(*found, quality)
        return simplejpeg.encode_jpeg(found[0][:, :, np.newaxis], quality, "GRAY", "Gray")

    return f"write  {compared(lambda: encode(file, *found), library, rounds)}"


def tables(quality: int, components: int) -> bytes:
    """A file's segment of this quality's luma, T.81, B.2.4.1."""
    shape, kind, sampling = ((16, 16, 3), "BGR", "420") if components == 3 else ((16, 16, 1), "GRAY", "Gray")
    file: bytes = simplejpeg.encode_jpeg(np.zeros(shape, np.uint8), quality, kind, sampling)
    at = file.index(b"\xff\xdb")
    return file[at : at + 69]


def main(rounds: int) -> None:
    """Print a row a file and scale."""
    sys.stdout.write("CPU milliseconds: ours, simplejpeg, ours / simplejpeg; to read at a scale, and to write\n")
    for kind in ("BGR", "GRAY"):
        for height, width in SIDES:
            picture = photograph(height, width)
            if kind == "GRAY":
                picture = np.ascontiguousarray(picture[:, :, 1:2])
            for file in (file_of(picture, bits, kind) for bits in BITS):
                head = f"{kind:4} {height * width / 1e6:4.1f} MP {density(file, picture):4.1f} bits"
                for scale in SCALES:
                    sys.stdout.write(f"{head} {decoding(file, kind, height, width, scale, rounds)}\n")
                sys.stdout.write(f"{head} {encoding(file, rounds)}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
