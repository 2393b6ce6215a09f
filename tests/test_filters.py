"""The approximate blur: how far it may be from OpenCV's, what it may take of memory, and what it must save of time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import cv2
import numpy as np
import pytest

from falconimg._core import Shape
from falconimg.filters import blur_workspace, blurred, gaussian
from tests import pictures
from tests.peaks import peak

Array = Any  # (h, w, c)

# Kernels and sigmas as requests have them: the narrowest that is approximated, each number of halvings, a kernel that
# is taken from sigma, one far wider than sigma, one with an edge, a wide one.
BLURS = [
    (15, 0), (17, 0), (25, 0), (29, 0), (41, 0), (63, 0), (101, 0), (0, 20), (201, 0), (201, 5), (101, 20), (301, 75),
]  # fmt: skip


def by_opencv(array: Array, kernel: int, sigma: float) -> Array:
    return cv2.GaussianBlur(array, (kernel, kernel), sigma).reshape(array.shape)


def exact(array: Array, kernel: int, sigma: float) -> Array:
    """The Gaussian without OpenCV's fixed-point numbers."""
    if not kernel:
        kernel = round(6 * sigma + 1) | 1
    taps = cv2.getGaussianKernel(kernel, sigma)
    return cv2.sepFilter2D(array.astype(np.float64), -1, taps, taps).reshape(array.shape)


def psnr(one: Array, other: Array, top: float = 255) -> float:
    error = np.square(one.astype(np.float64) - other).mean()
    return float(10 * np.log10(top**2 / error)) if error else np.inf


def width_of_edge(kernel: int, sigma: float) -> int:
    return round(1.5 * (sigma or 0.3 * ((kernel - 1) / 2 - 1) + 0.8))


def least(one: Array, other: Array, strip: int, top: float = 255) -> float:
    """The PSNR of the whole, or of the frame of this width along its edges if that is worse."""
    frame = np.ones(one.shape[:2], bool)
    frame[strip:-strip, strip:-strip] = False
    return min(psnr(one, other, top), psnr(one[frame], other[frame], top))


def enlarged(array: Array, height: int, width: int) -> Array:
    return cv2.resize(array, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, -1)


def alike(array: Array, kernel: int, sigma: float) -> tuple[float, float]:
    """The worst PSNR against OpenCV, and the greatest difference in levels of 8 bits."""
    made, wanted = blurred(array, kernel, sigma, precise=False), by_opencv(array, kernel, sigma)
    assert (made.shape, made.dtype) == (array.shape, array.dtype)
    top = 65535 if array.dtype == np.uint16 else 255
    worst = np.abs(made.astype(np.float64) - wanted).max() * 255 / top
    return least(made, wanted, width_of_edge(kernel, sigma), top), float(worst)


@pytest.mark.parametrize(("kernel", "sigma"), BLURS)
def test_blurred_photographs_are_opencvs_above_50_db_and_within_2_levels_edges_included(
    kernel: int, sigma: float
) -> None:
    for name, photograph in pictures.photographs().items():
        db, worst = alike(photograph, kernel, sigma)
        assert db >= 52, (name, db)
        assert worst <= 2, name


@pytest.mark.parametrize(("kernel", "sigma"), [(25, 0), (51, 0), (101, 0), (0, 20)])
@pytest.mark.parametrize("size", [(2224, 2724), (1777, 2251)])
def test_so_are_photographs_of_several_megapixels(kernel: int, sigma: float, size: tuple[int, int]) -> None:
    for name, photograph in pictures.photographs().items():
        db, worst = alike(enlarged(photograph[:, :, :1], *size), kernel, sigma)
        assert db >= 52, (name, db)
        assert worst <= 2, name


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_so_are_photographs_of_any_depth_and_number_of_channels_and_views_of_them(channels: int, dtype: type) -> None:
    photograph = pictures.photographs()["coffee.png"]
    wide: Array = np.concatenate([photograph, np.full((400, 600, 1), 255, np.uint8)], 2)[:, :, -channels:]
    wide = wide.astype(dtype) * (np.iinfo(dtype).max // 255)
    for kernel, sigma, rows, columns in product((25, 101), (0, 9), (396, 397), (595, 596)):
        view = wide[2 : 2 + rows, 3 : 3 + columns]
        before = view.copy()
        db, worst = alike(view, kernel, sigma)
        assert db >= 52
        assert worst <= 2
        assert np.array_equal(view, before)


def hard(height: int, width: int) -> dict[str, Array]:
    """Pictures of nothing but edges, points, noise and patterns, some right at the border."""
    y, x = np.mgrid[:height, :width]
    pattern: dict[str, Any] = {
        "a step": x >= width // 2,
        "a slanting step": 3 * x + y >= width * 2,
        "a line along the left": x < 1,
        "a line along the bottom": y == height - 1,
        "two lines along the right": x >= width - 2,
        "a point": (x == width // 2) & (y == height // 3),
        "a point in the first corner": (x == 0) & (y == 0),
        "a point in the last corner": (x == width - 1) & (y == height - 1),
        "black and white noise": np.random.default_rng(0).integers(0, 2, (height, width)),
        "black": x < 0,
        "white": x >= 0,
        **{f"squares of {side}": (x // side + y // side) % 2 for side in (1, 2, 3, 5, 8, 13, 16, 21, 50)},
    }
    gray = {name: (np.asarray(one) * 255).astype(np.uint8)[:, :, None] for name, one in pattern.items()}
    for value in (1, 77, 254):
        gray[f"nothing but {value}"] = np.full((height, width, 1), value, np.uint8)
    made = {"noise": pictures.noise, "a gradient": pictures.gradient, "text": pictures.text}
    return {**gray, **{name: make(height, width, 1) for name, make in made.items()}}


@pytest.mark.parametrize(("kernel", "sigma"), BLURS)
def test_blurred_patterns_are_those_of_a_gaussian_above_50_db_and_within_2_levels(kernel: int, sigma: float) -> None:
    for name, pattern in hard(451, 606).items():
        made, strip = blurred(pattern, kernel, sigma, precise=False), width_of_edge(kernel, sigma)
        wanted = exact(pattern, kernel, sigma)
        db = least(made, wanted, strip)
        assert db >= 50, (name, db)
        assert np.abs(made - wanted).max() < 2, name
        if name.startswith("nothing"):
            assert np.array_equal(made, pattern), name


@pytest.mark.parametrize(("kernel", "sigma"), [each for each in BLURS if each[0] <= 101])  # OpenCV's wide ones are slow
def test_blurred_patterns_are_opencvs_above_50_db(kernel: int, sigma: float) -> None:
    """And 48 for squares: in a gray between two levels OpenCV's fixed-point numbers alone decide which one it is."""
    for name, pattern in hard(451, 606).items():
        made, wanted = blurred(pattern, kernel, sigma, precise=False), by_opencv(pattern, kernel, sigma)
        db = least(made, wanted, width_of_edge(kernel, sigma))
        assert db >= (48 if name.startswith("squares") else 50), (name, db)
        assert np.abs(made.astype(int) - wanted).max() <= 3, name


@pytest.mark.parametrize("size", [(1, 30_000), (2, 30_000), (30_001, 3), (4, 30_000), (90, 4001), (3000, 201)])
def test_narrow_pictures_are_reflected_again_and_again(size: tuple[int, int]) -> None:
    """OpenCV itself is off by up to 34 dB here: the repetition meets the roundings of its taps."""
    array = enlarged(pictures.photographs()["coffee.png"][:, :, 1:2], *size)
    for kernel, sigma in ((151, 0), (601, 0), (0, 30)):
        made, wanted = gaussian(array, kernel, sigma), exact(array, kernel, sigma)
        assert psnr(made, wanted) >= 55
        assert np.abs(made - wanted).max() < 1.6


def test_precise_is_opencv_to_the_bit_and_its_absence_is_not() -> None:
    photograph = pictures.photographs()["coffee.png"]
    for kernel, sigma, dtype in product((25, 101), (0, 4), (np.uint8, np.uint16)):
        array = photograph.astype(dtype)
        wanted = by_opencv(array, kernel, sigma)
        assert np.array_equal(blurred(array, kernel, sigma, precise=True), wanted)
        assert not np.array_equal(blurred(array, kernel, sigma, precise=False), wanted)


def test_a_narrow_kernel_and_a_small_picture_are_opencvs_to_the_bit() -> None:
    photograph = pictures.photographs()["coffee.png"]
    for kernel, sigma in ((3, 0), (5, 0), (9, 0), (9, 30), (13, 2), (0, 1)):
        array = photograph
        assert np.array_equal(blurred(array, kernel, sigma, precise=False), by_opencv(array, kernel, sigma))
    small = photograph[:60, :20]
    assert np.array_equal(blurred(small, 1001, 0, precise=False), by_opencv(small, 1001, 0))


def test_a_plane_without_an_axis_of_channels_and_single_precision_are_blurred_too() -> None:
    plane = pictures.photographs()["coffee.png"][:, :, 1]
    for kernel, sigma in ((31, 0), (51, 6.25)):
        wanted = cv2.GaussianBlur(plane, (kernel, kernel), sigma)
        made = gaussian(plane, kernel, sigma)
        assert made.shape == plane.shape
        assert psnr(made, wanted) >= 52
        assert psnr(gaussian(plane.astype(np.float32), kernel, sigma), exact(plane, kernel, sigma)) >= 60


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_on_transparent_stays_white_wherever_it_is_seen(dtype: type) -> None:
    array: Array = np.zeros((400, 500, 4), dtype)
    array[99:301, 120:333] = top = np.iinfo(dtype).max
    for kernel, sigma in ((25, 0), (101, 0), (301, 75)):
        made = blurred(array, kernel, sigma, precise=False)
        seen = made[:, :, 3] > 0
        assert (made[seen][:, :3] == top).all()
        assert not made[~seen].any()
        assert psnr(made[:, :, 3], by_opencv(array, kernel, sigma)[:, :, 3], float(top)) >= 50


def peaks() -> None:
    """Write what each blur takes besides its result, what it may take, and what it is; for a process of its own."""
    for size, channels, depth in product(((701, 803), (40, 9000), (9000, 40)), (1, 3, 4), (8, 16)):
        array = pictures.noise(*size, channels, depth)
        blurred(array[:300, :300], 25, 0, precise=False)  # what is taken once and kept is no picture's
        for kernel, sigma, precise in (
            (0, 20, False),
            (25, 0, True),
            (25, 0, False),
            (101, 0, False),
            (1001, 0, False),
        ):
            needed, made = peak(partial(blurred, array, kernel, sigma, precise))
            allowed = blur_workspace(Shape(*size, channels, depth // 8), kernel, sigma)
            sys.stdout.write(f"{needed - made.nbytes} {allowed} {size} {channels} {depth} {kernel} {sigma} {precise}\n")


def test_a_blur_takes_no_more_memory_than_the_plan_expects() -> None:
    """glibc gives each freed block back, so that the peak of the process is that of the blur."""
    done = subprocess.run(
        [sys.executable, "-c", "from tests.test_filters import peaks; peaks()"],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    rows = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert len(rows) == 90
    assert [row for row in rows if int(row[0]) > int(row[1]) + 300_000] == []


def seconds(*functions: Callable[[], Any], rounds: int = 7) -> list[float]:
    """The CPU time of each, in alternating rounds after one to warm up: medians."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds + 1):
        for function, each in zip(functions, times, strict=True):
            before = time.thread_time()
            function()
            each.append(time.thread_time() - before)
    return [median(each[1:]) for each in times]


def test_a_wide_blur_of_6_megapixels_costs_less_than_opencvs_of_25_pixels_and_that_one_half() -> None:
    array = enlarged(pictures.photographs()["coffee.png"], 2224, 2724)
    kinds = ((25, 0), (101, 0), (0, 20), (1001, 0))
    theirs, *ours = seconds(
        lambda: cv2.GaussianBlur(array, (25, 25), 0),
        *(partial(blurred, array, kernel, sigma, precise=False) for kernel, sigma in kinds),
    )
    assert ours[0] < theirs / 2
    assert max(ours[1:]) < theirs
