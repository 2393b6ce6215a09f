"""What the native kernels gain, in CPU time: `python benchmarks/kernels.py [SIDE]`.

The core's pixel kernels against NumPy, PNG's writer and reader against OpenCV's with its defaults.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from falconimg import formats
from falconimg._core import is_opaque, premultiply, unpremultiply
from falconimg.formats import Options

ROUNDS = 7
Kernel = Callable[[Any], Any]


def premultiply_by_numpy(array: Any) -> Any:
    """The uint16 weights of a uint8 picture."""
    alpha = array[:, :, 3:].astype(np.uint16)
    return np.concatenate([array[:, :, :3] * alpha, alpha * np.uint16(255)], 2)


def unpremultiply_by_numpy(weights: Any) -> Any:
    """The uint8 picture of uint16 weights."""
    alpha = weights[:, :, 3:].astype(np.uint32)
    colour = np.minimum((weights[:, :, :3] * np.uint32(255) + alpha // 2) // np.maximum(alpha, 1), 255)
    return np.where(alpha < 128, 0, np.concatenate([colour, (alpha + 127) // 255], 2)).astype(np.uint8)


def is_opaque_by_numpy(array: Any) -> bool:
    """Whether the alpha of a uint8 picture is full everywhere."""
    return bool((array[:, :, 3] == 255).all())


def photograph(side: int) -> Any:
    """A BGR picture like a camera's: smooth shapes of all sizes, edges, and a sensor's noise."""
    chance = np.random.default_rng(1)
    light = np.full((side, side, 3), 110, np.float32)
    for cells, height in ((4, 60), (16, 25), (80, 12), (400, 6)):
        shapes = chance.normal(0, height, (cells, cells, 3)).astype(np.float32)
        light += cv2.resize(shapes, (side, side), interpolation=cv2.INTER_CUBIC)
    for x, y, radius in chance.integers(0, side, (30, 3)):
        cv2.circle(light, (int(x), int(y)), int(radius) // 8, tuple(map(float, chance.integers(0, 256, 3))), -1)
    noise = cv2.GaussianBlur(chance.normal(0, 3, (side, side, 3)).astype(np.float32), (0, 0), 0.7)
    return np.clip(cv2.GaussianBlur(light, (0, 0), 0.8) + noise, 0, 255).astype(np.uint8)


def screen(side: int) -> Any:
    """A BGR picture like a screen's: bars, lines of text, and a gradient."""
    page = np.full((side, side, 3), 255, np.uint8)
    page[: side // 20], page[:, : side // 6] = (120, 90, 60), (240, 240, 240)
    for line, y in enumerate(range(side // 12, side, 24)):
        cv2.putText(page, f"{line} falcon & image " * 4, (side // 5, y), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (30, 20, 90))
    page[side // 3 : side // 2, side // 2 :, 1] = np.linspace(0, 255, side - side // 2)
    return page


def pngs(side: int) -> None:
    """Print a row a kind of picture: to write and to read it, and the sizes of the files."""
    colour = photograph(side)
    deep = cv2.GaussianBlur(colour, (3, 3), 0).astype(np.uint16) * 257 + np.random.default_rng(2).integers(
        0, 200, colour.shape, np.uint16
    )
    kinds = {
        "BGR": colour,
        "gray": cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY)[:, :, None],
        "BGRA": np.dstack([colour, colour[::-1, :, 1]]),
        "BGR 16 bit": np.minimum(deep, 65535).astype(np.uint16),
        "screen": screen(side),
    }
    sys.stdout.write(
        f"\n{side} x {side} PNG, CPU milliseconds: writing ours, OpenCV's, ratio; kB of both; reading OpenCV's file, "
        "by us, by OpenCV, ratio; the same of our file\n"
    )

    def theirs(pixels: Any) -> Any:
        return cv2.imencode(".png", pixels)[1].tobytes()

    def ours(pixels: Any) -> Any:
        return formats.encode("png", pixels, Options()).data

    def read(file: Any) -> Any:
        return formats.decode(file, formats.probe(file))

    def read_by_opencv(file: Any) -> Any:
        return cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)

    for name, pixels in kinds.items():
        files = [write(pixels) for write in (ours, theirs)]
        reading = [(by, file) for file in files[::-1] for by in (read, read_by_opencv)]
        calls = [(ours, pixels), (theirs, pixels), *reading]
        if not all(np.array_equal(by(file).reshape(pixels.shape), pixels) for by, file in reading):
            raise SystemExit(f"{name} is not what was written")
        rounds = [[milliseconds(*call) for call in calls] for _ in range(ROUNDS)]
        columns = [statistics.median(column) for column in zip(*rounds, strict=True)]
        ratios = [statistics.median(row[b] / row[a] for row in rounds) for a, b in ((0, 1), (2, 3), (4, 5))]
        sizes = [len(file) // 1000 for file in files]
        written, from_theirs, from_ours = (
            f"{columns[n]:7.1f} {columns[n + 1]:7.1f} {ratio:5.1f}" for n, ratio in zip((0, 2, 4), ratios, strict=True)
        )
        sys.stdout.write(f"{name:12} {written}  {sizes[0]:6} {sizes[1]:6}  {from_theirs}  {from_ours}\n")


def milliseconds(kernel: Kernel, argument: Any) -> float:
    """The CPU time of one call."""
    begun = time.thread_time()
    kernel(argument)
    return 1000 * (time.thread_time() - begun)


def main(side: int) -> None:
    """Print a row a kernel: its median, NumPy's, and the median of the ratios, measured in turn."""
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 4), dtype=np.uint8)
    opaque = picture.copy()
    opaque[:, :, 3] = 255
    pairs: list[tuple[Kernel, Kernel, Any]] = [
        (premultiply, premultiply_by_numpy, picture),
        (unpremultiply, unpremultiply_by_numpy, premultiply(picture)),
        (is_opaque, is_opaque_by_numpy, opaque),
    ]
    sys.stdout.write(f"{side} x {side} RGBA, 8 bit, CPU milliseconds: kernel, NumPy, NumPy / kernel\n")
    for kernel, model, argument in pairs:
        if not np.array_equal(kernel(argument), model(argument)):
            raise SystemExit(f"{kernel.__name__} and its model differ")
        times = [(milliseconds(kernel, argument), milliseconds(model, argument)) for _ in range(ROUNDS)]
        ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(b / max(a, 1e-6) for a, b in times)
        sys.stdout.write(f"{kernel.__name__:14} {ours:8.2f} {theirs:8.2f} {ratio:6.1f}\n")
    pngs(side)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2450)
