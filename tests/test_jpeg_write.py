"""The native JPEG encoder: the very bytes that libjpeg makes."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from falconimg import _jpeg
from falconimg.formats import Options, decode, encode, probe
from falconimg.planes import Planes
from tests import pictures

Plane = Any
KINDS = ("noise", "smooth", "black and white", "flat")


def plane(kind: str, height: int, width: int, seed: int) -> Plane:
    chance = np.random.default_rng(seed)
    noise = chance.integers(0, 256, (height, width), dtype=np.uint8)
    return {
        "noise": noise,
        "smooth": cv2.GaussianBlur(noise, (0, 0), 2).reshape(height, width),
        "black and white": noise // 128 * np.uint8(255),
        "flat": np.full_like(noise, noise[0, 0]),
    }[kind]


def by_opencv(y: Plane, quality: int) -> bytes:
    """A gray file by libjpeg's accurate integer DCT."""
    return cv2.imencode(".jpg", y, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def by_simplejpeg(quality: int, y: Plane, cb: Plane, cr: Plane) -> bytes:
    """A file of 4:2:0; its DCT is the accurate one from a quality of 96 on."""
    height, width = y.shape
    even = np.pad(y, ((0, height % 2), (0, width % 2)), mode="edge")[:height, :width]
    return bytes(simplejpeg.encode_jpeg_yuv_planes(even, cb, cr, quality))


SIDES = st.integers(1, 70)


@given(st.sampled_from(KINDS), SIDES, SIDES, st.integers(1, 100), st.integers(0, 2**32))
def test_a_gray_file_is_libjpegs_to_the_byte(kind: str, height: int, width: int, quality: int, seed: int) -> None:
    y = plane(kind, height, width, seed)
    wanted = by_opencv(y, quality)
    assert _jpeg.encode(wanted, y) == wanted


@given(st.sampled_from(KINDS), st.integers(2, 70), st.integers(2, 70), st.integers(96, 100), st.integers(0, 2**32))
def test_a_file_of_planes_is_libjpegs_to_the_byte(kind: str, height: int, width: int, quality: int, seed: int) -> None:
    half = (height + 1) // 2, (width + 1) // 2
    planes = plane(kind, height, width, seed), plane(kind, *half, seed + 1), plane(kind, *half, seed + 2)
    wanted = by_simplejpeg(quality, *planes)
    assert _jpeg.encode(wanted, *planes) == wanted


@pytest.mark.parametrize("quality", [1, 10, 50, 75, 90, 95])
def test_the_chroma_of_lower_qualities_is_at_least_as_good_as_that_of_the_library_s_fast_transform(
    quality: int,
) -> None:
    planes = [plane("smooth", side, side, seed) for side, seed in ((512, 1), (256, 2), (256, 3))]
    theirs = by_simplejpeg(quality, *planes)
    ours = _jpeg.encode(theirs, *planes)
    for mine, other, wanted in zip(_jpeg.planes(ours), _jpeg.planes(theirs), planes, strict=True):
        assert cv2.PSNR(mine, wanted) > cv2.PSNR(other, wanted) - 0.02


def test_parts_of_a_picture_are_written_where_they_lie() -> None:
    planes = [plane("smooth", side, side + 8, seed) for side, seed in ((128, 1), (64, 2), (64, 3))]
    y, cb, cr = planes[0][32:79, 16:97], planes[1][16:40, 8:49], planes[2][16:40, 8:49]
    copies = [np.ascontiguousarray(part) for part in (y, cb, cr)]
    wanted = by_simplejpeg(97, *copies)
    assert _jpeg.encode(wanted, y, cb, cr) == wanted


def test_what_takes_more_than_its_samples_is_whole() -> None:
    y = plane("noise", 300, 500, 1)
    wanted = by_opencv(y, 100)
    assert len(wanted) > y.size
    assert _jpeg.encode(wanted, y) == wanted


def test_the_head_is_kept_but_for_the_sides() -> None:
    head = by_opencv(plane("flat", 16, 16, 1), 80)
    head = head[:2] + b"\xff\xfe\x00\x05abc" + head[2:]
    y = plane("noise", 300, 260, 1)
    file = _jpeg.encode(bytearray(head), y)
    assert file[:9] == head[:9]
    assert simplejpeg.decode_jpeg_header(file)[:2] == (300, 260)
    assert file[:2] + file[9:] == by_opencv(y, 80)


HEAD = by_opencv(plane("flat", 16, 16, 1), 80)
COLOUR = by_simplejpeg(80, plane("flat", 16, 16, 1), plane("flat", 8, 8, 1), plane("flat", 8, 8, 1))
Y, HALF = np.zeros((5, 7), np.uint8), np.zeros((3, 4), np.uint8)


@pytest.mark.parametrize(
    ("head", "planes", "error"),
    [
        (b"", (Y,), _jpeg.DamagedError),
        (HEAD[:100], (Y,), _jpeg.DamagedError),
        (HEAD, (Y, HALF, HALF), _jpeg.UnsupportedError),
        (COLOUR, (Y,), _jpeg.UnsupportedError),
        (simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8), 80, "BGR", "444"), (Y, HALF, HALF),
         _jpeg.UnsupportedError),
        (cv2.imencode(".jpg", np.zeros((16, 16), np.uint8), [cv2.IMWRITE_JPEG_OPTIMIZE, 1])[1].tobytes(), (Y,),
         _jpeg.UnsupportedError),
        (cv2.imencode(".jpg", np.zeros((16, 16), np.uint8), [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])[1].tobytes(), (Y,),
         _jpeg.UnsupportedError),
        (COLOUR, (Y, HALF, HALF[:2]), ValueError),
        (COLOUR, (Y, Y, Y), ValueError),
        (COLOUR, (Y, HALF), ValueError),
        (HEAD, (Y[:0],), ValueError),
        (HEAD, (np.zeros((1, 65501), np.uint8),), ValueError),
        (HEAD, (Y.astype(np.uint16),), ValueError),
        (HEAD, (Y[:, ::2],), ValueError),
        (HEAD, (Y[:, ::-1],), ValueError),
        ("head", (Y,), TypeError),
    ],
)  # fmt: skip
def test_what_is_no_head_or_no_planes_is_refused(head: Any, planes: tuple[Plane, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        _jpeg.encode(head, *planes)


def test_the_tables_of_a_head_are_taken_whatever_they_are() -> None:
    for quality in (3, 100):
        y = plane("smooth", 40, 40, 1)
        assert _jpeg.encode(by_opencv(Y, quality), y) == by_opencv(y, quality)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("quality", [30, 95, 100])
def test_the_format_writes_what_it_is_given_with_and_without_the_native_encoder(
    fast: bool, quality: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_jpeg, "is_fast", lambda: fast)
    picture = np.ascontiguousarray(next(iter(pictures.photographs().values()))[:91, :117])
    y, cr, cb = cv2.split(cv2.cvtColor(picture, cv2.COLOR_BGR2YCrCb))
    half = 59, 46
    planes = Planes(y, *(cv2.resize(part, half, interpolation=cv2.INTER_AREA) for part in (cb, cr)))
    for pixels in (planes, picture, y[:, :, np.newaxis]):
        data = encode("jpeg", pixels, Options(quality=quality)).data
        made = decode(data, probe(data))
        wanted = picture if pixels.shape[2] == 3 else y[:, :, np.newaxis]
        assert cv2.PSNR(made, wanted) > {30: 26, 95: 34, 100: 36}[quality]


def test_both_ways_make_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    y, cb, cr = (plane("smooth", *sides, 1) for sides in ((91, 117), (46, 59), (46, 59)))
    ours = encode("jpeg", Planes(y, cb, cr), Options(quality=97)).data
    monkeypatch.setattr(_jpeg, "is_fast", lambda: False)
    assert encode("jpeg", Planes(y, cb, cr), Options(quality=97)).data == ours
