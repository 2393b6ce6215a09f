"""The pictures: as a camera's, the same in every run.

Each is a patchwork of scikit-image's bundled photographs, twice enlarged, with fine grain as of a surface, shot
noise and what a camera's interpolation makes of it, so that a file has as many bits a pixel as a camera's.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np

Array = Any  # (h, w, 3), uint8, BGR

PHOTOGRAPHS = ("motorcycle_left.png", "coffee.png", "rocket.jpg", "astronaut.png", "chelsea.png")
PATCH = 960, 720
CAMERA, HEAVY = 2.6, 7.0
"""Standard deviations of the noise at full light, in levels: about 2 bits a pixel at quality 90, over 4 at 97."""


@dataclass(frozen=True)
class Picture:
    """A file to be made: what it is, its sides in pixels, its noise and how it is written."""

    title: str
    name: str
    width: int
    height: int
    noise: float = CAMERA
    quality: int = 90
    progressive: bool = False

    def as_kind(self, extension: str) -> Picture:
        """The same in another format."""
        return replace(self, name=Path(self.name).stem + "." + extension)

    def tiny(self) -> Picture:
        """The same with a tenth of the sides."""
        return replace(self, width=self.width // 10, height=self.height // 10)


@dataclass(frozen=True)
class Pictures:
    """All of them."""

    small: Picture = Picture("64×64", "small.jpg", 64, 64)
    one: Picture = Picture("1 MP", "one.jpg", 1224, 816)
    six: Picture = Picture("6 MP", "six.jpg", 2724, 2224)
    twenty: Picture = Picture("20 MP", "twenty.jpg", 5472, 3648)
    progressive: Picture = Picture("progressive, 6 MP", "progressive.jpg", 2724, 2224, progressive=True)
    heavy: Picture = Picture("heavy, 6 MP", "heavy.jpg", 2724, 2224, HEAVY, 97)

    @classmethod
    def tiny(cls) -> Pictures:
        """To see whether the benchmarks run."""
        return cls(**{field.name: getattr(cls(), field.name).tiny() for field in fields(cls)})


def pixels(picture: Picture) -> Array:
    """The picture before it is written."""
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("scikit-image is missing, whose photographs the pictures are made of")
    folder = Path(spec.origin).parent / "data"
    photographs: list[Array] = [cv2.imread(str(folder / name)) for name in PHOTOGRAPHS]
    patches = [cv2.resize(photograph, PATCH, interpolation=cv2.INTER_CUBIC) for photograph in photographs]
    across, down = -(-picture.width // PATCH[0]), -(-picture.height // PATCH[1])
    rows = [cv2.hconcat([patches[(2 * y + x) % len(patches)] for x in range(across)]) for y in range(down)]
    clean = cv2.vconcat(rows)[: picture.height, : picture.width]
    return _noisy(clean, picture.noise)


def _noisy(clean: Array, sigma: float) -> Array:
    """With noise whose variance goes with the light, alike in neighbours, and more in luma than in chroma."""
    random = np.random.default_rng(clean.shape[0])
    result = np.empty_like(clean)
    for top in range(0, clean.shape[0], 256):
        band = clean[top : top + 256].astype(np.float32)
        grain = random.standard_normal(band.shape, np.float32) + 2 * random.standard_normal(
            (*band.shape[:2], 1), np.float32
        )
        grain = cv2.GaussianBlur(grain, (3, 3), 0.6)
        result[top : top + 256] = np.clip(band + sigma * np.sqrt(0.1 + band / 255) * grain + 0.5, 0, 255)
    return result


def write(picture: Picture, folder: Path) -> Path:
    """The picture's file below a folder, JPEG or PNG by its name."""
    path = folder / picture.name
    if not path.exists():
        params = [] if path.suffix == ".png" else [
            cv2.IMWRITE_JPEG_QUALITY, picture.quality, cv2.IMWRITE_JPEG_PROGRESSIVE, int(picture.progressive),
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
        ]  # fmt: skip
        path.write_bytes(cv2.imencode(path.suffix, pixels(picture), params)[1].tobytes())
    return path
