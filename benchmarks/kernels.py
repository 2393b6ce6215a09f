"""What the core's pixel kernels gain over NumPy, in CPU time: `python benchmarks/kernels.py [SIDE]`."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from falconimg._core import is_opaque, premultiply, unpremultiply

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


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2450)
