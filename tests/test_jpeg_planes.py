"""The JPEG decoder of the native core: against libjpeg, and against a slow model of the standard in Python."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import simplejpeg

from falconimg._jpeg import DamagedError, UnsupportedError, planes
from tests import pictures

Plane = Any
SAMPLINGS = {
    "444": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "422": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "440": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "420": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
}
SIZES = [(1, 1), (2, 3), (7, 9), (8, 8), (9, 7), (15, 17), (16, 16), (17, 15), (24, 33), (33, 24), (33, 33)]
SCALES = (1, 2, 4, 8)
RANDOM_SEEDS = range(12)
ZIGZAG = sorted(range(64), key=lambda i: (i // 8 + i % 8, (i // 8, i % 8)[(i // 8 + i % 8) % 2 == 0]))


def jpeg(pixels: Any, sampling: str = "420", quality: int = 90, interval: int = 0, optimize: int = 0) -> bytes:
    """A baseline file by OpenCV's libjpeg; of a gray picture if there is one channel."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, interval]
    options += [cv2.IMWRITE_JPEG_OPTIMIZE, optimize, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling]]
    return cv2.imencode(".jpg", pixels, options)[1].tobytes()


def kinds(height: int, width: int, channels: int = 3) -> Iterator[Any]:
    """Pictures from smooth to such as have coefficients of every size."""
    yield np.full((height, width, channels), 77, np.uint8)
    yield pictures.gradient(height, width, channels)
    yield pictures.noise(height, width, channels)
    yield (pictures.noise(height, width, channels) > 127).astype(np.uint8) * 255


def segments(file: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Each segment's place, marker and contents, up to the scan's data."""
    place = 2
    while True:
        marker, length = struct.unpack_from(">xBH", file, place)
        yield place, marker, file[place + 4 : place + 2 + length]
        place += 2 + length
        if marker == 0xDA:
            return


def rewritten(file: bytes, marker: int, change: Any) -> bytes:
    """The file with the contents of one kind of segment passed through a function, which may give several."""
    result, end = [file[:2]], 2
    for place, kind, body in segments(file):
        end = place + 4 + len(body)
        changed = change(body) if kind == marker else body
        parts = changed if isinstance(changed, list) else [changed]
        result += [struct.pack(">BBH", 0xFF, kind, len(part) + 2) + part for part in parts]
    return b"".join([*result, file[end:]])


def up(side: int, divisor: int) -> int:
    return -(-side // divisor)


def scan_of(file: bytes) -> int:
    """Where the entropy-coded data begins."""
    return next(place + 4 + len(body) for place, marker, body in segments(file) if marker == 0xDA)


class Model(NamedTuple):
    """What a file says: each component's sampling and dequantized blocks (rows, columns, 8, 8)."""

    height: int
    width: int
    components: list[tuple[int, int, Plane]]


def model(file: bytes) -> Model:
    """T.81 read aloud: A.1.1, A.2, B.2, C.2, F.2.2."""
    quants: dict[int, Plane] = {}
    codes: dict[int, dict[tuple[int, int], int]] = {}
    interval = 0
    for place, marker, body in segments(file):
        if marker == 0xDB:
            while body:
                size = 1 + (body[0] >> 4)
                quants[body[0] & 15] = np.frombuffer(body[1 : 1 + 64 * size], f">u{size}").astype(np.int64)
                body = body[1 + 64 * size :]
        elif marker == 0xC4:
            while body:
                table, code, index = {}, 0, 17
                for length in range(1, 17):
                    for _ in range(body[length]):
                        table[length, code] = body[index]
                        code, index = code + 1, index + 1
                    code *= 2
                codes[body[0]] = table
                body = body[index:]
        elif marker == 0xDD:
            interval = struct.unpack(">H", body)[0]
        elif marker in (0xC0, 0xC1):
            height, width, count = struct.unpack_from(">xHHB", body)
            frame = [body[6 + 3 * i : 9 + 3 * i] for i in range(count)]
        elif marker == 0xDA:
            tables = [body[2 + 2 * i] for i in range(count)]
            data = file[place + 4 + len(body) :]
    sampling = [(name[1] >> 4, name[1] & 15) for name in frame] if count > 1 else [(1, 1)]
    wide, high = max(h for h, _ in sampling), max(v for _, v in sampling)
    across, down = up(width, 8 * wide), up(height, 8 * high)
    blocks = [np.zeros((down * v, across * h, 8, 8), np.int64) for h, v in sampling]

    for marker in range(0xD0, 0xD8):
        data = data.replace(bytes([0xFF, marker]), b"\xff\xd0")
    parts = iter(data[: data.rindex(b"\xff\xd9")].split(b"\xff\xd0"))
    bits: Iterator[str] = iter("")
    predictors = [0] * count

    def symbol(table: dict[tuple[int, int], int]) -> int:
        text = ""
        while (len(text), int(text or "0", 2)) not in table:
            text += next(bits)
        return table[len(text), int(text, 2)]

    def value(size: int) -> int:
        text = "".join(next(bits) for _ in range(size))
        return 0 if not size else int(text, 2) if text[0] == "1" else int(text, 2) - 2**size + 1

    for mcu in range(across * down):
        if not mcu or (interval and mcu % interval == 0):
            bits = iter("".join(f"{byte:08b}" for byte in next(parts).replace(b"\xff\0", b"\xff")))
            predictors = [0] * count
        for i, (h, v) in enumerate(sampling):
            for y in range(mcu // across * v, (mcu // across + 1) * v):
                for x in range(mcu % across * h, (mcu % across + 1) * h):
                    found = np.zeros(64, np.int64)
                    predictors[i] += value(symbol(codes[tables[i] >> 4]))
                    found[0], k = predictors[i], 0
                    while k < 63:
                        both = symbol(codes[16 + (tables[i] & 15)])
                        if both == 0:
                            break
                        k += (both >> 4) + 1
                        found[k] = value(both & 15)
                    blocks[i][y, x].reshape(64)[ZIGZAG] = found * quants[frame[i][2]]
    return Model(height, width, [(*one, block) for one, block in zip(sampling, blocks, strict=True)])


def inverse(c: Plane, axis: int, shift: int) -> Plane:
    """Loeffler, Ligtenberg and Moschytz's transform of eight along an axis, in libjpeg's fixed point."""
    c = np.moveaxis(c, axis, 0)
    f = [round(x * 8192) for x in (0.298631336, 2.053119869, 3.072711026, 1.501321110)]
    z1 = (c[2] + c[6]) * 4433
    tmp2, tmp3 = z1 - c[6] * 15137, z1 + c[2] * 6270
    tmp0, tmp1 = (c[0] + c[4]) * 8192, (c[0] - c[4]) * 8192
    even = [tmp0 + tmp3, tmp1 + tmp2, tmp1 - tmp2, tmp0 - tmp3]
    z5 = (c[1] + c[3] + c[5] + c[7]) * 9633
    z1, z2 = (c[7] + c[1]) * -7373, (c[5] + c[3]) * -20995
    z3, z4 = (c[7] + c[3]) * -16069 + z5, (c[5] + c[1]) * -3196 + z5
    odd = [c[7] * f[0] + z1 + z3, c[5] * f[1] + z2 + z4, c[3] * f[2] + z2 + z3, c[1] * f[3] + z1 + z4][::-1]
    both = [a + b for a, b in zip(even, odd, strict=True)] + [a - b for a, b in zip(even, odd, strict=True)][::-1]
    return np.moveaxis((np.stack(both) + (1 << (shift - 1))) >> shift, 0, axis)


def joined(blocks: Plane, given: Model, h: int, v: int, scale: int) -> Plane:
    """A plane from its blocks, cut to its size."""
    rows, columns, side, _ = blocks.shape
    wide, high = max(c[0] for c in given.components), max(c[1] for c in given.components)
    plane = blocks.swapaxes(1, 2).reshape(rows * side, columns * side)
    return plane[: up(up(given.height * v, high), scale), : up(up(given.width * h, wide), scale)]


def full(given: Model) -> list[Plane]:
    """The planes as libjpeg has them."""
    return [
        joined(np.clip(inverse(inverse(blocks, -2, 11), -1, 18) + 128, 0, 255), given, h, v, 1)
        for h, v, blocks in given.components
    ]


def means(given: Model, scale: int) -> list[Plane]:
    """The planes of means of scale by scale samples, neither rounded nor cut to 0-255."""
    x, u = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    basis = np.where(u == 0, np.sqrt(0.125), 0.5 * np.cos((2 * x + 1) * u * np.pi / 16))
    basis = basis.reshape(8 // scale, scale, 8).mean(1)
    return [joined(basis @ blocks @ basis.T + 128, given, h, v, scale) for h, v, blocks in given.components]


def bgr(y: Plane, cb: Plane, cr: Plane) -> Plane:
    """T.871, 7, with libjpeg's 16 bits of fraction."""
    y, cb, cr = (plane.astype(np.int64) - offset for plane, offset in ((y, 0), (cb, 128), (cr, 128)))
    blue, red = y + ((116130 * cb + 32768) >> 16), y + ((91881 * cr + 32768) >> 16)
    green = y + ((-22554 * cb - 46802 * cr + 32768) >> 16)
    return np.clip(np.dstack([blue, green, red]), 0, 255)


def refuses(file: bytes) -> bool:
    try:
        simplejpeg.decode_jpeg(file, "GRAY", strict=True)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_every_plane_equals_the_model_and_luma_libjpegs(height: int, width: int, sampling: str) -> None:
    for number, pixels in enumerate(kinds(height, width)):
        for quality in (1, 40, 90, 100)[number % 2 :: 2]:
            file = jpeg(pixels, sampling, quality, number % 3, number % 2)
            found, wanted = planes(file), full(model(file))
            assert [plane.dtype for plane in found] == [np.uint8] * 3
            assert all(plane.flags.c_contiguous for plane in found)
            assert all(np.array_equal(*pair) for pair in zip(found, wanted, strict=True))
            assert np.array_equal(found[0], simplejpeg.decode_jpeg(file, "GRAY")[:, :, 0])


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_gray_file_has_one_plane_whatever_its_sampling_factors(height: int, width: int) -> None:
    for pixels in kinds(height, width, 1):
        file = jpeg(pixels)
        for factors in (0x11, 0x22, 0x14):
            other = rewritten(file, 0xC0, lambda body, f=factors: body[:7] + bytes([f]) + body[8:])
            (plane,) = planes(other)
            assert np.array_equal(plane, simplejpeg.decode_jpeg(other, "GRAY")[:, :, 0])
            assert np.array_equal(plane, full(model(other))[0])


@pytest.mark.parametrize("quality", range(1, 101, 3))
def test_large_planes_are_libjpegs_at_every_quality(quality: int) -> None:
    height, width = 203, 307
    for pixels in (*kinds(height, width), pictures.text(height, width)):
        for interval, optimize in ((0, 0), (7, 1)):
            file = jpeg(pixels, "444", quality, interval, optimize)
            found = planes(file)
            assert np.array_equal(found[0], simplejpeg.decode_jpeg(file, "GRAY")[:, :, 0])
            assert np.array_equal(bgr(*found), simplejpeg.decode_jpeg(file, "BGR"))


@pytest.mark.parametrize("scale", SCALES[1:])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_shrunk_sample_is_the_mean_of_those_that_it_stands_for(sampling: str, scale: int) -> None:
    for height, width in SIZES:
        for number, pixels in enumerate(kinds(height, width)):
            file = jpeg(pixels, sampling, (1, 60, 95, 100)[number], number, number % 2)
            given = model(file)
            for found, wanted in zip(planes(file, scale, scale), means(given, scale), strict=True):
                assert found.shape == wanted.shape
                assert (
                    np.abs(found - np.clip(wanted, 0, 255)).max() <= 0.525
                )  # 14 bits of fraction, and 3 between the two passes


@pytest.mark.parametrize("scale", SCALES[1:])
def test_shrinking_on_load_is_area_averaging(scale: int) -> None:
    pixels = pictures.gradient(320, 480) // 2 + pictures.noise(320, 480) // 8 + 50  # far from 0 and 255
    file = jpeg(pixels, "444", 95)
    for small, large in zip(planes(file, scale, scale), planes(file), strict=True):
        area = cv2.resize(large, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
        assert np.abs(small.astype(int) - area).max() <= 1


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("size", [(33, 47), (400, 600)])
def test_luma_and_chroma_have_scales_of_their_own(size: tuple[int, int], sampling: str) -> None:
    file = jpeg(pictures.noise(*size) // 4 + 70, sampling, 90, 5)
    alone = {scale: planes(file, scale, scale) for scale in SCALES}
    for luma in SCALES:
        for chroma in SCALES:
            found = planes(file, luma, chroma)
            assert np.array_equal(found[0], alone[luma][0])
            assert np.array_equal(found[1], alone[chroma][1])
            assert np.array_equal(found[2], alone[chroma][2])
    if sampling == "420":
        assert len({plane.shape for plane in planes(file, 2, 1)}) == 1


def test_tables_may_be_of_16_bits_come_joined_or_apart_and_after_fill_bytes() -> None:
    pixels = pictures.noise(40, 50)
    file = jpeg(pixels, "420", 50)
    wanted = planes(file)
    wide = rewritten(
        file, 0xDB, lambda body: bytes([body[0] | 16, *(byte for value in body[1:] for byte in (0, value))])
    )
    wide = wide.replace(b"\xff\xc0", b"\xff\xc1", 1)
    bodies = [body for _, marker, body in segments(file) if marker == 0xC4]
    joint: Iterator[Any] = iter([b"".join(bodies), [], [], []])
    assert len(bodies) == 4
    for other in (
        wide,
        rewritten(file, 0xC4, lambda body: next(joint)),
        file.replace(b"\xff\xdb", b"\xff\xff\xff\xdb").replace(b"\xff\xd9", b"\xff\xff\xd9"),
        rewritten(file, 0xDA, lambda body: body) + b"after the end",
        file[:-2] + b"\xff\xfe\0\x07later" + file[-2:],
    ):
        assert not refuses(other)
        assert all(np.array_equal(*pair) for pair in zip(planes(other), wanted, strict=True))


@pytest.mark.parametrize("interval", [0, 1, 4])
@pytest.mark.parametrize("sampling", ["444", "420"])
def test_a_file_cut_at_any_byte_is_damaged(sampling: str, interval: int) -> None:
    file = jpeg(pictures.gradient(20, 30), sampling, 90, interval)
    planes(file)
    for scale in SCALES:
        for size in range(len(file)):
            with pytest.raises(DamagedError):
                planes(file[:size], scale, scale)


@pytest.mark.parametrize("interval", [0, 3])
def test_a_scan_cut_anywhere_and_closed_is_damaged(interval: int) -> None:
    file = jpeg(pictures.noise(100, 200), "420", 90, interval)
    start = scan_of(file)
    chance = random.Random(3)  # noqa: S311
    for scale in SCALES:
        for size in (*range(start, start + 50), *chance.sample(range(start, len(file) - 3), 100)):
            with pytest.raises((DamagedError, UnsupportedError)):
                planes(file[:size] + b"\xff\xd9", scale, scale)


def mutated(file: bytes, chance: random.Random) -> bytes:
    """Some bytes are others, are missing, or come twice."""
    result = bytearray(file)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        place = chance.randrange(2, len(result) - 1)
        kind = chance.randrange(6)
        if kind < 4:
            result[place] = chance.choice((0, 0xFF, chance.randrange(256), result[place] ^ 1 << chance.randrange(8)))
        elif kind == 4:
            del result[place : place + chance.randrange(1, 4)]
        else:
            result[place:place] = result[place : place + chance.randrange(1, 9)]
    return bytes(result)


@pytest.mark.parametrize("seed", RANDOM_SEEDS)
def test_what_libjpeg_warns_of_is_refused_and_what_is_decoded_is_libjpegs(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    base = [
        jpeg(pixels, "444", quality, interval, optimize)
        for pixels in (pictures.gradient(20, 37), pictures.noise(17, 24))
        for quality, interval, optimize in ((50, 0, 0), (98, 2, 1))
    ]
    good = 0
    for _ in range(400):
        file = mutated(chance.choice(base), chance)
        try:
            found = planes(file)
        except (DamagedError, UnsupportedError):
            continue
        good += 1
        wanted = simplejpeg.decode_jpeg(file, "GRAY", strict=True)  # an error here is what must not be
        assert np.array_equal(found[0], wanted[:, :, 0])
        if len(found) == 3:
            assert np.array_equal(bgr(*found), simplejpeg.decode_jpeg(file, "BGR", strict=True))
        for scale in SCALES[1:]:
            assert [plane.shape for plane in planes(file, scale, scale)] == [
                tuple(up(side, scale) for side in plane.shape) for plane in found
            ]
    assert good > 20


def test_restart_markers_must_be_the_right_ones_in_the_right_places() -> None:
    file = jpeg(pictures.gradient(24, 80), "444", 80, 4)
    start = scan_of(file)
    places = [i for i in range(start, len(file)) if file[i] == 0xFF and 0xD0 <= file[i + 1] <= 0xD7]
    assert [file[i + 1] & 7 for i in places] == [0, 1, 2, 3, 4, 5, 6]
    wrong = [file[: i + 1] + bytes([file[i + 1] ^ 1]) + file[i + 2 :] for i in places]
    missing = [file[:i] + file[i + 2 :] for i in places]
    twice = [file[: i + 2] + file[i:] for i in places]
    stray = [file[:i] + b"\x55\x55" + file[i:] for i in places]
    for other in (*wrong, *missing, *twice, *stray, rewritten(file, 0xDD, lambda body: b"\0\5")):
        with pytest.raises(DamagedError):
            planes(other)
    with pytest.raises(DamagedError):
        planes(rewritten(file, 0xDD, lambda body: []))


@pytest.mark.parametrize("scale", SCALES)
def test_codes_that_do_not_exist_and_coefficients_past_the_last_are_damage(scale: int) -> None:
    file = jpeg(pictures.gradient(8, 8, 1))
    tables = iter([b"\0\1" + b"\0" * 15 + b"\0", b"\x10\1\1" + b"\0" * 14 + b"\xf1\0"])  # 0; 0 and 10
    file = rewritten(file, 0xC4, lambda body: next(tables, []))
    head = file[: scan_of(file)]

    def scan(bits: str) -> bytes:
        data = bytes(int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8))
        return head + data.replace(b"\xff", b"\xff\0") + b"\xff\xd9"

    one = "01"  # the sixteenth coefficient from here is 1
    assert planes(scan("0" + 3 * one + "10"), scale)[0].shape == (8 // scale, 8 // scale)
    for bits in ("0" + 4 * one + "10", "0" + 3 * one + "1" * 30, "1" * 30):
        with pytest.raises(DamagedError):
            planes(scan(bits), scale)


@pytest.mark.parametrize("sign", ["0", "1"])
def test_a_dc_coefficient_past_16_bits_is_damage(sign: str) -> None:
    file = jpeg(pictures.gradient(8, 24, 1))
    tables = iter([b"\0\1" + b"\0" * 15 + b"\x0f", b"\x10\1" + b"\0" * 15 + b"\0"])
    file = rewritten(file, 0xC4, lambda body: next(tables, []))
    bits = ("0" + sign * 15 + "0") * 3  # each of the three blocks 32767 more or less than the one before
    data = int(bits.ljust(56, "0"), 2).to_bytes(7).replace(b"\xff", b"\xff\0") + b"\xff\xd9"
    for scale in SCALES:
        with pytest.raises(DamagedError):
            planes(file[: scan_of(file)] + data, scale)


def test_damage_in_the_header_is_refused() -> None:
    file = jpeg(pictures.gradient(16, 16))
    twice = rewritten(file, 0xC0, lambda body: [body, body])
    for other in (
        b"",
        b"\xff\xd8\xff\xd9",
        b"\x89PNG" + file,
        twice,
        file[:2] + b"\0" + file[2:],
        rewritten(file, 0xC4, lambda body: body[:1] + b"\xff" + body[2:]),  # 255 codes of one bit
        rewritten(file, 0xC4, lambda body: body[:1] + b"\2" + b"\0" * 15 + b"\1\2"),  # a code of nothing but ones
        rewritten(file, 0xC4, lambda body: body + b"\0"),
        rewritten(file, 0xC4, lambda body: b"\4" + body[1:]),
        rewritten(file, 0xC4, lambda body: body[:17] + b"\x1f" * (len(body) - 17)),  # differences of 31 bits
        rewritten(file, 0xDB, lambda body: body[:-1]),
        rewritten(file, 0xDB, lambda body: b"\4" + body[1:]),
        file[:2] + b"\xff\xdd\0\3\0" + file[2:],
        rewritten(file, 0xC0, lambda body: body[:-1]),
        rewritten(file, 0xC0, lambda body: body[:7] + b"\x52" + body[8:]),
        rewritten(file, 0xDA, lambda body: body[:-1]),
        rewritten(file, 0xDA, lambda body: body[:-2] + b"\x20\0"),
    ):
        assert refuses(other)
        with pytest.raises(DamagedError):
            planes(other)


@pytest.mark.parametrize("count", [2, 3, 255])
def test_more_codes_than_a_length_has_are_a_wrong_table(count: int) -> None:
    file = jpeg(pictures.gradient(16, 16))
    other = rewritten(file, 0xC4, lambda body: body[:1] + bytes([count]) + b"\0" * 15 + bytes(count))
    assert refuses(other)
    with pytest.raises(DamagedError, match="table"):
        planes(other)


def test_what_is_not_of_the_usual_kind_is_left_to_a_library() -> None:
    pixels = pictures.gradient(24, 24)
    file = jpeg(pixels)
    progressive = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    bare = rewritten(file, 0xE0, lambda body: [])
    adobe = bare[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0" + bare[2:]

    rgb = rewritten(
        rewritten(bare, 0xC0, lambda b: b[:6] + b"R" + b[7:9] + b"G" + b[10:12] + b"B" + b[13:]),
        0xDA,
        lambda b: b[:1] + b"R" + b[2:3] + b"G" + b[4:5] + b"B" + b[6:],
    )
    for other in (
        progressive,
        simplejpeg.encode_jpeg(pixels, 90, "BGR", "411"),
        adobe,
        rgb,
        rewritten(file, 0xE0, lambda body: body[:5] + b"\2" + body[6:]),
        rewritten(file, 0xC0, lambda body: b"\x0c" + body[1:]),
        rewritten(file, 0xC0, lambda body: body[:1] + b"\0\0" + body[3:]),
        rewritten(file, 0xDB, lambda body: []),
        rewritten(file, 0xDA, lambda body: b"\1" + body[1:3] + body[7:]),
        rewritten(file, 0xDA, lambda body: b"\4" + body[1:7] + body[5:]),
        rewritten(file, 0xC4, lambda body: []),
        file[:-2] + b"\0" + file[-2:],
    ):
        with pytest.raises(UnsupportedError):
            planes(other)
    assert len(planes(adobe.replace(b"\0\0\0\0\0\xff", b"\0\0\0\0\1\xff", 1))) == 3


def test_other_scales_and_what_is_no_bytes_are_refused() -> None:
    file = jpeg(pictures.gradient(8, 8))
    for scales in ((0, 1), (1, 3), (16, 1), (-1, 1)):
        with pytest.raises(ValueError, match="divided"):
            planes(file, *scales)
    with pytest.raises(TypeError):
        planes("text")  # type: ignore[arg-type]
    for form in (bytearray(file), memoryview(file), np.frombuffer(file, np.uint8)):
        assert np.array_equal(planes(form)[0], planes(file)[0])
