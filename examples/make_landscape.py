"""Draw landscape.jpg, the picture of README's examples: `python examples/make_landscape.py`."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg

HEIGHT, WIDTH = 754, 1024


def ridge(rng: np.random.Generator, roughness: float) -> npt.NDArray[np.float64]:
    """A mountain ridge: WIDTH heights from 0 to 1, by midpoint displacement (Fournier, Fussell, Carpenter, 1982)."""
    heights = rng.random(2)
    while len(heights) < WIDTH + 1:
        middle = (heights[:-1] + heights[1:]) / 2 + rng.normal(0, roughness, len(heights) - 1)
        roughness /= 1.9
        heights = np.append(np.column_stack([heights[:-1], middle]).ravel(), heights[-1])
    heights = heights[:WIDTH]
    result: npt.NDArray[np.float64] = (heights - heights.min()) / np.ptp(heights)
    return result


def landscape() -> npt.NDArray[np.uint8]:
    """The picture: (HEIGHT, WIDTH, 3), RGB, uint8."""
    rng = np.random.default_rng(12)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    dusk, dawn = np.array([38, 62, 120.0]), np.array([255, 190, 120.0])
    picture = dusk + (dawn - dusk) * np.clip(y / 430, 0, 1)[..., None] ** 1.4
    sun = np.hypot(x - 720, y - 300)
    picture += np.array([255, 225, 160.0]) * (np.exp(-((sun / 130) ** 2)) * 0.7 + (sun < 46))[..., None]
    for base, height, colour in (
        (420, 190, (112, 98, 128)),
        (510, 170, (72, 74, 104)),
        (600, 150, (40, 56, 66)),
        (690, 120, (20, 34, 34)),
    ):
        top = base - height * ridge(rng, 0.45)
        shade = 1 + 0.5 * np.clip((y - top) / 260, 0, 1)[..., None]
        picture = np.where((y >= top)[..., None], np.array(colour) * shade, picture)
    result: npt.NDArray[np.uint8] = np.clip(picture + rng.normal(0, 2, picture.shape), 0, 255).astype(np.uint8)
    return result


if __name__ == "__main__":
    data = simplejpeg.encode_jpeg(landscape(), 88, "RGB", "420")
    (Path(__file__).parent / "landscape.jpg").write_bytes(data)
