"""Pictures as JPEGs hold them, against what becomes of them as BGR."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from falconimg import _jpeg, formats
from falconimg._core import Shape
from falconimg.formats import pixels as kernels
from falconimg.operations import parse
from falconimg.planes import Planes, bgr
from tests import pictures


def planes(height: int, width: int, seed: int = 0) -> Planes:
    """A smooth picture of these sides, so that a level more or less is what a shift would make of it."""
    down, across = np.mgrid[:height, :width]
    y = (120 + 50 * np.sin((down + seed) / 5) * np.cos(across / 7)).astype(np.uint8)
    down, across = np.mgrid[: (height + 1) // 2, : (width + 1) // 2]
    cb = (128 + 25 * np.sin(down / 7) * np.cos((across + seed) / 6)).astype(np.uint8)
    cr = (128 + 25 * np.cos(down / 6) * np.sin(across / 7)).astype(np.uint8)
    return Planes(y, cb, cr)


def array_of(picture: Any) -> Any:
    """As BGR in whole numbers."""
    return bgr(picture).astype(int)


SIDES = [(40, 60), (41, 60), (40, 61), (41, 61)]


@given(st.data())
def test_a_rectangle_is_the_same_as_of_the_array(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    whole = planes(height, width)
    part = whole[top:bottom, left:right]
    assert part.shape == (bottom - top, right - left, 3)
    assert part.cb.shape == part.cr.shape == ((bottom - top + 1) // 2, (right - left + 1) // 2)
    assert np.array_equal(part.y, whole.y[top:bottom, left:right])
    if top % 2 == left % 2 == 0:
        assert np.array_equal(part.cb, whole.cb[top // 2 : (bottom + 1) // 2, left // 2 : (right + 1) // 2])
        return
    # what libjpeg would make of the array: the chroma enlarged linearly, cut, and the mean of each four
    for name in ("cb", "cr"):
        chroma = getattr(whole, name)
        large = np.array(
            [[chroma[y // 2, x // 2] for x in range(2 * chroma.shape[1])] for y in range(2 * chroma.shape[0])]
        )
        padded = np.pad(large.astype(float), 2, mode="edge")
        shifts = [padded[2 + top + y : 2 + bottom + y + 1, 2 + left + x :] for y in (0, 1) for x in (0, 1)]
        rows, columns = getattr(part, name).shape
        mean = np.mean([shift[0 : 2 * rows : 2, 0 : 2 * columns : 2] for shift in shifts], 0)
        inner = slice(0, rows - 1), slice(0, columns - 1)  # the last ones may stand for less than there is beyond
        assert np.abs(mean[inner] - getattr(part, name)[inner]).max(initial=0) <= 1


def test_a_rectangle_that_begins_amid_the_chroma_is_not_shifted() -> None:
    whole = planes(40, 60)
    for top, left in ((1, 0), (0, 1), (1, 1), (7, 9)):
        part = array_of(whole[top:, left:])
        assert np.abs(part - array_of(whole)[top:, left:])[2:-2, 2:-2].max() <= 6, (top, left)
        assert np.abs(
            part - array_of(whole)[top - 1 :, left - 1 :][: part.shape[0], : part.shape[1]]
        ).max() > 6 or not (top and left)


@pytest.mark.parametrize(("height", "width"), [*SIDES, (1, 1), (2, 1), (1, 9)])
def test_planes_as_bgr_are_what_the_decoder_makes_of_them(height: int, width: int) -> None:
    picture = planes(height, width)
    if min(height, width) > 1:
        file = simplejpeg.encode_jpeg_yuv_planes(picture.y, picture.cb, picture.cr, 100)
        assert np.abs(simplejpeg.decode_jpeg(file, "BGR") - array_of(picture)).max() <= 6
    assert picture.bgr().shape == (height, width, 3)


@pytest.mark.parametrize(("height", "width"), SIDES)
@pytest.mark.parametrize("step", ["rotate=90", "rotate=180", "rotate=270", "flip=h", "flip=v", "gray"])
def test_what_moves_pixels_or_grays_them_is_the_same_of_planes(step: str, height: int, width: int) -> None:
    picture = planes(height, width)
    effect: Any = parse(step).effect(Shape(height, width, 3, 1), lambda _: None)
    assert np.abs(array_of(effect.make(picture)) - effect.make(picture.bgr())).max() <= 2  # of the chroma's enlarging


@pytest.mark.parametrize(("height", "width"), SIDES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_planes_are_turned_as_arrays_are(orientation: int, height: int, width: int) -> None:
    picture = planes(height, width)
    turned = kernels.upright(picture, orientation)
    assert np.abs(array_of(turned) - kernels.oriented(picture.bgr(), orientation)).max() <= 2
    assert isinstance(turned, Planes) == (orientation == 1 or picture.even)


@pytest.mark.parametrize(("height", "width"), SIDES)
@pytest.mark.parametrize(
    "step", ["resize=0.5", "resize=0.37", "resize=0.9", "resize=21x33", "resize=30x30,fit:cover",
             "resize=40x70,fit:pad", "resize=2", "resize=1.3", "resize=120x20", "resize=0.7,filter:lanczos", "blur=5",
             "blur=9", "blur=2,sigma:0.5"],
)  # fmt: skip
def test_what_filters_is_the_same_of_planes_within_40_db(step: str, height: int, width: int) -> None:
    picture = planes(height, width)
    effect: Any = parse(step).effect(Shape(height, width, 3, 1), lambda _: None)
    made, wanted = bgr(effect.make(picture)), effect.make(picture.bgr())
    assert made.shape == wanted.shape
    assert pictures.psnr(made, wanted) >= 40


@pytest.mark.parametrize(("height", "width"), [*SIDES, (1, 1), (1, 7), (7, 1), (2, 2)])
def test_planes_are_written_as_they_are(height: int, width: int) -> None:
    picture = planes(height, width)
    for part in (picture, planes(height + 6, width + 8)[3 : 3 + height, 5 : 5 + width]):
        file = formats.encode("jpeg", part, formats.Options(quality=100)).data
        decoded = formats.decode(file, formats.probe(file))
        assert decoded.shape == (height, width, 3)
        assert np.abs(decoded.astype(int) - array_of(part)).max() <= 8
        png = formats.encode("png", part, formats.Options()).data
        assert np.array_equal(formats.decode(png, formats.probe(png)), part.bgr())


@pytest.mark.parametrize(("height", "width"), [*SIDES, (3, 3), (2, 3)])
def test_the_library_s_encoder_is_given_luma_that_it_may_read_for_all_of_the_chroma(
    height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_jpeg, "is_fast", lambda: False)
    given: list[Any] = []

    def encode(y: Any, cb: Any, cr: Any, quality: int) -> Any:
        given.append(y)
        return real(y, cb, cr, quality)

    real = simplejpeg.encode_jpeg_yuv_planes
    monkeypatch.setattr(simplejpeg, "encode_jpeg_yuv_planes", encode)
    picture = planes(height, width)
    formats.encode("jpeg", picture, formats.Options())
    (y,) = given
    assert np.array_equal(y, picture.y)
    last = y.ctypes.data + (height + height % 2 - 1) * y.strides[0] + width + width % 2
    owner = y if y.base is None else y.base
    assert last <= np.lib.array_utils.byte_bounds(owner)[1]


def test_planes_become_an_array_in_little_more_memory_than_it_and_the_chroma_of_its_size_take() -> None:
    planes = Planes(np.zeros((1001, 999), np.uint8), *(np.full((501, 500), 128, np.uint8) for _ in "br"))
    tracemalloc.start()
    array = planes.bgr()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert array.shape == (1001, 999, 3)
    assert not array.any()
    assert peak <= 5.3 * planes.y.nbytes
