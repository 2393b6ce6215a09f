"""What the native JPEG decoder takes of simplejpeg's CPU time: `python benchmarks/jpeg.py [ROUNDS]`.

Of a file in colour simplejpeg makes BGR, which it must, where the planes are left as they are; of a gray one both do
the same work.
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

from falconimg._jpeg import planes

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


def row(file: bytes, kind: str, height: int, width: int, scale: int, rounds: int) -> str:
    """The medians of both, and the median of the ratios, measured in turn."""

    def library() -> Any:
        return simplejpeg.decode_jpeg(
            file, kind, min_height=-(-height // scale), min_width=-(-width // scale), min_factor=1
        )

    times = [(milliseconds(lambda: planes(file, scale, scale)), milliseconds(library)) for _ in range(rounds)]
    ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(a / max(b, 1e-6) for a, b in times)
    return f"1/{scale} {ours:8.2f} {theirs:8.2f} {ratio:6.2f}"


def main(rounds: int) -> None:
    """Print a row a file and scale."""
    sys.stdout.write("CPU milliseconds: planes, simplejpeg, planes / simplejpeg\n")
    for kind in ("BGR", "GRAY"):
        for height, width in SIDES:
            picture = photograph(height, width)
            if kind == "GRAY":
                picture = np.ascontiguousarray(picture[:, :, 1:2])
            for file in (file_of(picture, bits, kind) for bits in BITS):
                for scale in SCALES:
                    sys.stdout.write(
                        f"{kind:4} {height * width / 1e6:4.1f} MP {density(file, picture):4.1f} bits"
                        f" {row(file, kind, height, width, scale, rounds)}\n"
                    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
