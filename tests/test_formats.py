"""What every format promises, and what each one's container can do to a reader."""

from __future__ import annotations

import builtins
import io
import mmap
import re
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from falconimg import formats
from falconimg.errors import Damaged, OutOfMemory, TooLarge, Unencodable, Unsupported
from falconimg.formats import FORMATS, Metadata, Options, Pixels, exif, opencv
from falconimg.formats import pixels as kernels
from tests import pictures

ALL = list(FORMATS)
KINDS = [(1, 8), (3, 8), (4, 8), (1, 16), (3, 16), (4, 16)]
EXACT = ("png", "tiff", "bmp", "pnm", "pgm", "ppm")  # they give back every value that they keep
ORIENTED = ("jpeg", "png", "webp", "tiff", "avif")
PARTS = [(64, part) for part in range(1, 64)]


def read(file: bytes) -> Pixels:
    return formats.decode(file, formats.probe(file))


def kept(form: str, channels: int, depth: int) -> tuple[int, int]:
    """The channels and the depth that a picture of these has after a file of this format."""
    keeps = FORMATS[form].keeps
    channels = channels if {1: "gray", 4: "alpha"}.get(channels) in (*keeps, None) else 3
    return (1 if form == "pgm" else channels), (16 if depth == 16 and ("16 bit" in keeps or form == "avif") else 8)


def refused(file: bytes) -> bool:
    try:
        read(file)
    except (Damaged, Unsupported):
        return True
    return False


# The table


def test_every_extension_names_one_format_in_any_case() -> None:
    extensions = [extension for form in FORMATS.values() for extension in form.extensions]
    assert len(extensions) == len(set(extensions))
    for form in FORMATS.values():
        for extension in form.extensions:
            assert formats.by_extension(f"a.b/c{extension.upper()}") is form
    known = ".jpg .jpeg .jpe .jfif .png .webp .avif .gif .bmp .dib .pnm .ppm .pgm .tif .tiff"
    assert " ".join(sorted(extensions)) == " ".join(sorted(known.split()))


@pytest.mark.parametrize("path", ["a.pbm", "a.jp2", "a", "png", "a.png/b", ".png", "a.pñg"])
def test_a_path_of_no_written_format_has_none(path: str) -> None:
    assert formats.by_extension(path) is None


def test_default_qualities_are_those_of_the_design() -> None:
    assert {name: form.quality for name, form in FORMATS.items() if form.quality} == {
        "jpeg": 95,
        "webp": 80,
        "avif": 60,
    }


@pytest.mark.parametrize("file", [b"", b"\0" * 99, b"GIF", b"BM", b"hello, this is text", b"P8 1 1 255 ", b"RIFF"])
def test_what_is_no_picture_is_refused(file: bytes) -> None:
    with pytest.raises((Damaged, Unsupported)):
        formats.probe(file)


# What every format does


@pytest.mark.parametrize(("channels", "depth"), KINDS)
@pytest.mark.parametrize("form", ALL)
def test_the_header_predicts_the_decoded_array(form: str, channels: int, depth: int) -> None:
    picture = pictures.gradient(19, 31, channels, depth)
    file = pictures.encoded(form, picture)
    header = formats.probe(file)
    array = formats.decode(file, header)
    assert array.shape == (header.height, header.width, header.channels)
    assert array.dtype.itemsize * 8 == header.depth
    assert array.flags.c_contiguous
    assert header.size == (31, 19)
    channels = 4 if form == "gif" and channels == 4 else channels
    expected = kept(form, channels, depth) if form != "gif" or channels != 4 else (4, 8)
    assert (header.channels, header.depth) == expected


@pytest.mark.parametrize(("channels", "depth"), KINDS)
@pytest.mark.parametrize("form", EXACT)
def test_a_lossless_format_gives_back_every_value_it_keeps(form: str, channels: int, depth: int) -> None:
    picture = pictures.noise(23, 37, channels, depth)
    if kept(form, channels, depth) == (channels, depth):
        assert np.array_equal(read(pictures.encoded(form, picture)), picture)


@pytest.mark.parametrize(("channels", "depth"), KINDS)
@pytest.mark.parametrize("form", ALL)
def test_a_loss_that_the_format_forces_is_a_note_and_nothing_else_is(form: str, channels: int, depth: int) -> None:
    picture = pictures.flat(9, 9, (200, 100, 50, 77)[:channels], depth) * (1 if depth == 8 else 257)
    notes = " ".join(formats.encode(form, picture, Options()).notes)
    keeps = FORMATS[form].keeps
    assert ("16 bit became" in notes) == (depth == 16 and "16 bit" not in keeps)
    assert ("transparency" in notes) == (channels == 4 and "alpha" not in keeps)
    assert ("became gray" in notes) == (form == "pgm" and channels > 1)
    assert bool(notes) == (
        (depth == 16 and "16 bit" not in keeps)
        or (channels == 4 and "alpha" not in keeps)
        or (form == "pgm" and channels > 1)
    )


@pytest.mark.parametrize("form", ALL)
def test_photographs_come_back_much_as_they_were(form: str) -> None:
    for name, photograph in pictures.photographs().items():
        result = read(pictures.encoded(form, photograph))
        if form == "pgm":
            photograph = cv2.cvtColor(photograph, cv2.COLOR_BGR2GRAY)[:, :, None]
        assert pictures.psnr(photograph, result) > 31, name


@pytest.mark.parametrize("form", ALL)
def test_pillow_reads_the_same_pixels(form: str) -> None:
    for channels in (1, 3, 4):
        file = pictures.encoded(form, pictures.text(40, 60, channels))
        ours, theirs = read(file), pictures.read_by_pillow(file)
        if ours.shape[2] == 3 and theirs.shape[2] == 1:
            theirs = np.repeat(theirs, 3, 2)
        assert ours.shape == theirs.shape
        seen = ours[:, :, 3:] > 0 if channels == 4 and ours.shape[2] == 4 else np.True_
        assert np.abs((ours.astype(int) - theirs) * seen).max() <= (0 if form in (*EXACT, "gif") else 2)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 5), (1, 40), (40, 1), (17, 31)])
@pytest.mark.parametrize("form", ALL)
def test_every_size_down_to_one_pixel_goes_round(form: str, size: tuple[int, int]) -> None:
    for channels, depth in KINDS:
        picture = pictures.flat(*size, (60, 120, 180, 255)[:channels], depth)
        result = read(pictures.encoded(form, picture))
        assert result.shape[:2] == size
        if form in EXACT and kept(form, channels, depth) == (channels, depth):
            assert np.array_equal(result, picture)


@pytest.mark.parametrize(("channels", "depth"), KINDS)
@pytest.mark.parametrize("form", ALL)
def test_a_slice_is_encoded_as_its_copy_is(form: str, channels: int, depth: int) -> None:
    whole = pictures.gradient(40, 50, channels, depth)
    before = whole.copy()
    part = whole[3:20, 5:38]
    assert not part.flags.c_contiguous
    assert pictures.encoded(form, part) == pictures.encoded(form, part.copy())
    assert np.array_equal(whole, before)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("form", ALL)
def test_a_file_cut_anywhere_is_refused(form: str, channels: int) -> None:
    file = pictures.encoded(form, pictures.noise(24, 33, channels))
    taken = [part for whole, part in PARTS if not refused(file[: len(file) * part // whole])]
    assert taken == []
    assert refused(file[:-1]) or form == "gif"  # GIF's trailer may be all that is missing: also refused below


@pytest.mark.parametrize("form", ["jpeg", "webp", "tiff", "avif", "gif", "bmp", "png"])
def test_a_file_of_pillows_cut_anywhere_is_refused(form: str) -> None:
    options: dict[str, dict[str, Any]] = {"webp": {"lossless": True}, "tiff": {"compression": "jpeg"}}
    file = pictures.by_pillow(form, pictures.noise(24, 33, 3), **options.get(form, {}))
    assert not refused(file)
    assert [part for whole, part in PARTS if not refused(file[: len(file) * part // whole])] == []


@pytest.mark.parametrize("form", ALL)
def test_bytes_behind_the_picture_do_no_harm(form: str) -> None:
    file = pictures.encoded(form, pictures.gradient(9, 11))
    if form != "avif":  # there, what follows must be a box
        assert np.array_equal(read(file + b"\0more"), read(file))


FILES = {form: pictures.encoded(form, pictures.gradient(12, 17)) for form in ALL}
RICH = {
    form: pictures.encoded(
        form,
        pictures.gradient(12, 17, 4),
        Metadata(pictures.srgb_profile(), pictures.exif_block(), pictures.xmp_packet()),
    )
    for form in ALL
}
MANY = settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def check_header_or_refusal(file: bytes) -> None:
    """Whatever the bytes: a header that decoding keeps, or one of the errors for it."""
    try:
        header = formats.probe(file)
        assert header.width > 0
        assert header.height > 0
        if header.width * header.height <= 10**6:
            array = formats.decode(file, header)
            assert array.shape == (header.size[1], header.size[0], header.channels)
            assert array.dtype.itemsize * 8 == header.depth
    except (Damaged, Unsupported, OutOfMemory, TooLarge):
        pass


@MANY
@given(st.sampled_from(ALL), st.integers(1, 60), st.binary(max_size=200))
def test_arbitrary_bytes_are_a_header_or_refused(form: str, start: int, rest: bytes) -> None:
    check_header_or_refusal(FILES[form][:start] + rest)


@MANY
@given(st.sampled_from(ALL), st.booleans(), st.data())
def test_a_mutated_file_is_a_header_or_refused(form: str, rich: bool, data: st.DataObject) -> None:
    file = bytearray((RICH if rich else FILES)[form])
    places = st.one_of(st.integers(0, min(len(file) - 1, 120)), st.integers(0, len(file) - 1))
    values = st.sampled_from([0, 1, 0x7F, 0x80, 0xFE, 0xFF])
    for place, value in data.draw(st.lists(st.tuples(places, values), min_size=1, max_size=4)):
        file[place] = value
    check_header_or_refusal(bytes(file))


def test_no_memory_is_never_called_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise MemoryError

    file = FILES["webp"]
    monkeypatch.setattr(cv2, "imdecode", fails)
    with pytest.raises(OutOfMemory):
        read(file)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: monkeypatch.setattr(mmap, "mmap", fails))
    with pytest.raises(OutOfMemory):
        read(file)


def test_opencvs_own_error_of_memory_is_out_of_memory() -> None:
    error = cv2.error("no memory")
    error.code = cv2.Error.STS_NO_MEM
    with pytest.raises(OutOfMemory), opencv.errors_as(Damaged, "a picture"):
        raise error


def test_a_failed_encoding_is_an_error_and_no_empty_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, ()))
    for form in ("webp", "avif", "bmp", "tiff", "gif"):
        with pytest.raises(Unencodable):
            pictures.encoded(form, pictures.gradient(4, 4))


@pytest.mark.parametrize(("form", "most"), [("jpeg", 65500), ("webp", 16383), ("avif", 32768), ("gif", 65535)])
def test_a_side_over_the_formats_limit_is_unencodable(form: str, most: int) -> None:
    for shape in ((most + 1, 1), (1, most + 1)):
        with pytest.raises(Unencodable, match=str(most)):
            pictures.encoded(form, pictures.flat(*shape, (1, 2, 3)))
    assert formats.probe(pictures.encoded(form, pictures.flat(1, most, (1, 2, 3)))).width == most


# Orientation


@pytest.mark.parametrize("number", range(1, 9))
def test_the_turn_of_each_orientation_is_exact(number: int) -> None:
    for channels, depth in KINDS:
        stored = pictures.noise(5, 7, channels, depth)
        turned = kernels.oriented(stored, number)
        assert turned.flags.c_contiguous
        assert np.array_equal(turned, pictures.TURNS[number](stored))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("form", ORIENTED)
def test_a_picture_is_seen_upright_whatever_its_tag(form: str, number: int, channels: int) -> None:
    seen = pictures.gradient(20, 34, channels)
    if (form, channels) in (("jpeg", 4), ("webp", 1)):
        seen = pictures.gradient(20, 34, 3)
    file = pictures.oriented(form, number, seen)
    header = formats.probe(file)
    assert header.orientation == number
    assert header.size == (34, 20)
    result = formats.decode(file, header)
    if form in ("jpeg", "avif"):
        plain = {"quality": 95, "subsampling": 0} if form == "jpeg" else {"quality": 100, "subsampling": "4:4:4"}
        stored = np.ascontiguousarray(pictures.TURNS[pictures.BACK.get(number, number)](seen))
        expected = pictures.TURNS[number](read(pictures.by_pillow(form, stored, **plain)))
    else:
        expected = seen
    assert np.array_equal(result, expected)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_is_read_and_reset_in_place(order: str) -> None:
    for number in range(1, 9):
        block = pictures.exif_block(number, order)
        assert exif.orientation(block) == number
        assert exif.upright(block) == pictures.exif_block(1, order)
        assert exif.upright_xmp(pictures.xmp_packet(number)) == pictures.xmp_packet(1)
    assert exif.orientation(pictures.exif_block(9, order)) == 1
    element = b"<tiff:Orientation>6</tiff:Orientation>"
    assert exif.upright_xmp(element) == element.replace(b"6", b"1")


@MANY
@given(st.binary(max_size=80), st.sampled_from([b"", b"II*\0", b"MM\0*", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
def test_any_exif_block_has_an_orientation(block: bytes, head: bytes) -> None:
    block = head + block
    assert 1 <= exif.orientation(block) <= 8
    upright = exif.upright(block)
    assert exif.orientation(upright) == 1
    assert len(upright or b"") == len(block)


# Metadata


def everything(channels: int) -> Metadata:
    icc = pictures.gray_profile() if channels == 1 else pictures.srgb_profile()
    return Metadata(icc, pictures.exif_block(), pictures.xmp_packet())


@pytest.mark.parametrize(("channels", "depth"), KINDS)
@pytest.mark.parametrize("form", ALL)
def test_metadata_is_kept_byte_for_byte_or_a_note_says_what_is_not(form: str, channels: int, depth: int) -> None:
    given_ = everything(channels)
    result = formats.encode(form, pictures.gradient(16, 24, channels, depth), Options(), given_)
    ours = formats.probe(result.data).metadata
    keeps = set(FORMATS[form].keeps)
    if channels == 1 and "gray" not in keeps:
        keeps -= {"icc"}
    for kind, block, said in (
        ("icc", given_.icc, "profile"),
        ("exif", given_.exif, "EXIF"),
        ("xmp", given_.xmp, "XMP"),
    ):
        assert getattr(ours, kind) == (block if kind in keeps else None), kind
        assert any(said in note for note in result.notes) == (kind not in keeps), kind
    if form not in ("pnm", "pgm", "ppm"):
        theirs = pictures.info_by_pillow(result.data)
        assert theirs.icc == ours.icc
        assert theirs.xmp == ours.xmp
        assert theirs.exif == ours.exif or form == "tiff"


def test_a_long_profile_is_kept_in_several_segments_of_jpeg() -> None:
    icc = pictures.rgb_profile() + np.random.default_rng(0).bytes(200_000)
    file = pictures.encoded("jpeg", pictures.gradient(8, 8), Metadata(icc))
    assert file.count(b"ICC_PROFILE\0") == 4
    assert formats.probe(file).metadata.icc == icc
    assert pictures.info_by_pillow(file).icc == icc


def test_what_no_segment_of_jpeg_holds_is_dropped_with_a_note() -> None:
    long = Metadata(exif=pictures.exif_block() + bytes(70_000), xmp=pictures.xmp_packet() + b" " * 70_000)
    result = formats.encode("jpeg", pictures.gradient(8, 8), Options(), long)
    assert formats.probe(result.data).metadata == Metadata()
    assert [note.split()[0] for note in result.notes] == ["EXIF", "XMP"]


@pytest.mark.parametrize("form", ["jpeg", "png", "webp", "avif", "tiff"])
def test_a_profile_of_another_kind_of_picture_is_dropped_with_a_note(form: str) -> None:
    for channels, icc in ((3, pictures.gray_profile()), (1, pictures.rgb_profile()), (3, b"no profile")):
        result = formats.encode(form, pictures.gradient(8, 8, channels), Options(), Metadata(icc))
        assert formats.probe(result.data).metadata.icc is None
        assert any("profile was dropped" in note for note in result.notes)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_colours_are_converted_to_srgb_where_the_profile_cannot_be_kept(channels: int) -> None:
    picture = pictures.gradient(16, 24, channels)
    icc = pictures.gray_profile() if channels == 1 else pictures.rgb_profile()
    result = formats.encode("bmp", picture, Options(), Metadata(icc))
    assert "converted to sRGB" in result.notes[0]
    source = picture[:, :, 0] if channels == 1 else np.ascontiguousarray(picture[:, :, 2::-1])
    expected = ImageCms.profileToProfile(
        Image.fromarray(source), io.BytesIO(icc), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert expected is not None
    converted = read(result.data)
    colors = np.repeat(converted, 3, 2) if channels == 1 else converted[:, :, 2::-1]
    assert np.array_equal(colors, np.array(expected))
    assert np.abs(converted.astype(int) - picture).max() > 20
    assert channels != 4 or np.array_equal(converted[:, :, 3], picture[:, :, 3])


def test_an_srgb_profile_is_dropped_without_touching_the_colours() -> None:
    picture = pictures.noise(8, 8)
    result = formats.encode("bmp", picture, Options(), Metadata(pictures.srgb_profile()))
    assert np.array_equal(read(result.data), picture)
    assert result.notes == ("the colour profile, which is sRGB, was dropped",)


def test_without_a_colour_library_the_profile_is_dropped_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_pillow(name: str, *rest: Any) -> Any:
        if name.startswith("PIL"):
            raise ImportError(name)
        return real(name, *rest)

    cmyk = pictures.cmyk_jpeg(pictures.noise(8, 8, 4), icc_profile=pictures.cmyk_profile())
    monkeypatch.setattr(builtins, "__import__", without_pillow)
    result = formats.encode("bmp", pictures.gradient(8, 8), Options(), Metadata(pictures.rgb_profile()))
    assert np.array_equal(read(result.data), pictures.gradient(8, 8))
    assert result.notes == ("the colour profile was dropped",)
    assert formats.notes(formats.probe(cmyk)) == ("CMYK became RGB without a colour profile",)
    assert read(cmyk).shape == (8, 8, 3)


# JPEG


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_cut_and_closed_with_an_end_marker_is_refused(mode: str, progressive: bool) -> None:
    file = io.BytesIO()
    noise = Image.fromarray(pictures.noise(40, 56)).convert(mode)
    noise.save(file, "JPEG", progressive=progressive)
    whole = file.getvalue()
    starts = [match.start() for match in re.finditer(rb"\xff[\xda\xc4]", whole)]  # between scans, where libjpeg agrees
    assert len(starts) > 8 or not progressive
    cuts = {len(whole) * part // 64 for _, part in PARTS} | set(starts)
    assert [cut for cut in cuts if not refused(whole[:cut] + b"\xff\xd9")] == []
    assert not refused(whole)


def test_the_picture_of_a_progressive_jpeg_is_libjpegs() -> None:
    file = pictures.by_pillow("jpeg", pictures.text(50, 70), progressive=True)
    assert np.array_equal(read(file), simplejpeg.decode_jpeg(file, "BGR"))


def test_cmyk_becomes_the_rgb_that_pillow_makes_of_it() -> None:
    for picture in (pictures.noise(24, 32, 4), pictures.gradient(24, 32, 4)):
        file = pictures.cmyk_jpeg(picture, quality=95)
        assert np.array_equal(read(file), pictures.read_by_pillow(file))
        assert formats.notes(formats.probe(file)) == ("CMYK became RGB without a colour profile",)


def test_cmyk_with_a_profile_becomes_srgb_and_the_profile_goes_no_further() -> None:
    file = pictures.cmyk_jpeg(pictures.gradient(24, 32, 4), icc_profile=pictures.cmyk_profile(), exif=b"Exif\0\0II*\0")
    with Image.open(io.BytesIO(file)) as picture:
        srgb = ImageCms.createProfile("sRGB")
        expected = ImageCms.profileToProfile(picture, io.BytesIO(pictures.cmyk_profile()), srgb, outputMode="RGB")
    assert expected is not None
    header = formats.probe(file)
    assert np.array_equal(formats.decode(file, header)[:, :, ::-1], np.array(expected))
    assert header.metadata.icc is None
    assert formats.notes(header) == ("CMYK was converted to sRGB",)


@pytest.mark.parametrize("marker", [0xC3, 0xC5, 0xC9, 0xCA, 0xCB])
def test_a_lossless_hierarchical_or_arithmetic_jpeg_is_unsupported(marker: int) -> None:
    file = FILES["jpeg"].replace(b"\xff\xc0", bytes([0xFF, marker]), 1)
    with pytest.raises(Unsupported):
        formats.probe(file)


def test_a_jpeg_of_12_bits_or_two_components_is_unsupported() -> None:
    place = FILES["jpeg"].index(b"\xff\xc0") + 4
    for offset, value in ((0, 12), (5, 2)):
        file = bytearray(FILES["jpeg"])
        file[place + offset] = value
        with pytest.raises(Unsupported):
            formats.probe(bytes(file))


@pytest.mark.parametrize("factors", [0x00, 0x01, 0x10, 0x15, 0x51, 0xFF])
@pytest.mark.parametrize("component", [0, 1, 2])
def test_a_jpeg_of_sampling_factors_that_do_not_exist_is_damaged(component: int, factors: int) -> None:
    file = bytearray(FILES["jpeg"])
    file[FILES["jpeg"].index(b"\xff\xc0") + 11 + 3 * component] = factors
    with pytest.raises(Damaged, match="sampling"):
        formats.probe(bytes(file))


def test_a_jpeg_of_thousands_of_scans_is_unsupported() -> None:
    file = pictures.by_pillow("jpeg", pictures.gradient(16, 16), progressive=True)
    scan = file.rindex(b"\xff\xda")
    with pytest.raises(Unsupported, match="scans"):
        read(file[:scan] + file[scan:-2] * 1000 + b"\xff\xd9")


def test_a_jpeg_profile_that_lacks_a_part_is_dropped_with_a_note() -> None:
    icc = pictures.rgb_profile() + bytes(100_000)
    file = pictures.encoded("jpeg", pictures.gradient(8, 8), Metadata(icc))
    file = file.replace(b"ICC_PROFILE\0\x02", b"ICC_PROFILE\0\x09")
    header = formats.probe(file)
    assert header.metadata.icc is None
    assert formats.notes(header) == ("the colour profile is damaged and was dropped",)


# PNG


def png_samples(width: int, height: int, count: int, bits: int) -> tuple[Pixels, list[bytes]]:
    """Random samples (h, w, c) below 2**bits, and the PNG rows that hold them."""
    samples = np.random.default_rng(bits).integers(0, 2**bits, (height, width, count))
    samples[0, 0] = 1
    spread = samples.reshape(height, -1, 1) >> np.arange(bits - 1, -1, -1) & 1
    rows = np.packbits(spread.reshape(height, -1).astype(np.uint8), axis=1)
    return samples, [row.tobytes() for row in rows]


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize(("color_type", "bits"), [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)])
def test_gray_and_rgb_pngs_are_exact_with_and_without_a_transparent_colour(
    color_type: int, bits: int, transparent: bool
) -> None:
    count = 1 if color_type == 0 else 3
    samples, rows = png_samples(13, 9, count, bits)
    key = pictures.png_chunk(b"tRNS", b"\0\1" * count) if transparent else b""
    result = read(pictures.png((13, 9), color_type, bits, rows, key))
    top = 65535 if bits == 16 else 255
    expected = (samples * top // (2**bits - 1))[:, :, ::-1]
    if transparent:
        alpha = np.where((samples == 1).all(axis=2, keepdims=True), 0, top)
        expected = np.concatenate([np.repeat(expected, 3, 2) if count == 1 else expected, alpha], 2)
        assert (alpha == 0).any()
    assert result.dtype == (np.uint16 if bits == 16 else np.uint8)
    assert np.array_equal(result, expected)


@pytest.mark.parametrize(("color_type", "bits"), [(4, 8), (4, 16), (6, 8), (6, 16)])
def test_pngs_with_alpha_are_exact(color_type: int, bits: int) -> None:
    count = 2 if color_type == 4 else 4
    samples, rows = png_samples(13, 9, count, bits)
    expected = samples[:, :, [0, 0, 0, 1] if count == 2 else [2, 1, 0, 3]]
    assert np.array_equal(read(pictures.png((13, 9), color_type, bits, rows)), expected)


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_pngs_are_exact(bits: int, transparent: bool) -> None:
    samples, rows = png_samples(13, 9, 1, bits)
    palette = pictures.noise(1, 2**bits, 4, seed=3)[0]
    palette[1:, 3] = 255
    chunks = pictures.png_chunk(b"PLTE", palette[:, :3].tobytes())
    chunks += pictures.png_chunk(b"tRNS", palette[:1, 3].tobytes()) if transparent else b""
    expected = palette[samples[:, :, 0]][:, :, [2, 1, 0, 3] if transparent else [2, 1, 0]]
    assert np.array_equal(read(pictures.png((13, 9), 3, bits, rows, chunks)), expected)


def test_an_apng_is_unsupported() -> None:
    control = pictures.png_chunk(b"acTL", struct.pack(">II", 2, 0))
    with pytest.raises(Unsupported, match="APNG"):
        formats.probe(pictures.png((2, 1), 0, 8, [b"ab"], control))


def test_a_wrong_checksum_in_any_chunk_of_png_is_damage() -> None:
    text = pictures.png_chunk(b"tEXt", b"a\0b")
    file = pictures.png((2, 1), 0, 8, [b"ab"], text, after=text)
    assert read(file).tolist() == [[[97], [98]]]
    for kind in (b"IHDR", b"tEXt", b"IDAT", b"IEND"):
        place = file.rindex(kind)
        length = int.from_bytes(file[place - 4 : place])
        broken = bytearray(file)
        broken[place + 4 + length] ^= 1
        with pytest.raises(Damaged):
            read(bytes(broken))


def test_pngs_exif_behind_the_pixels_is_read() -> None:
    after = pictures.png_chunk(b"eXIf", pictures.exif_block(3, ">"))
    file = pictures.png((2, 1), 0, 8, [b"ab"], after=after)
    assert formats.probe(file).orientation == 3
    assert read(file).tolist() == [[[98], [97]]]


def test_a_profile_that_inflates_without_end_is_unsupported() -> None:
    bomb = b"x\0\0" + zlib.compress(bytes(50_000_000))
    with pytest.raises(Unsupported, match="4000000"):
        formats.probe(pictures.png((2, 1), 0, 8, [b"ab"], pictures.png_chunk(b"iCCP", bomb)))


def test_compressed_xmp_is_read_from_png() -> None:
    packet = pictures.xmp_packet(6)
    text = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(packet)
    file = pictures.png((2, 1), 0, 8, [b"ab"], pictures.png_chunk(b"iTXt", text))
    assert formats.probe(file).metadata.xmp == pictures.xmp_packet(1)


@pytest.mark.parametrize("key", [b"", b"\0", b"\0\0\0\0\0\0"])
def test_a_transparent_colour_of_a_wrong_length_is_damage(key: bytes) -> None:
    with pytest.raises(Damaged):
        formats.probe(pictures.png((2, 1), 0, 8, [b"ab"], pictures.png_chunk(b"tRNS", key)))


# WebP, AVIF, GIF: several frames, and what is their own


@pytest.mark.parametrize("form", ["webp", "gif", "avif"])
def test_of_several_frames_the_first_is_taken_and_a_note_says_so(form: str) -> None:
    one, two = pictures.gradient(18, 26, 3), pictures.gradient(18, 26, 3)[::-1]
    more = Image.fromarray(np.ascontiguousarray(two[:, :, ::-1]))
    options: dict[str, dict[str, Any]] = {"webp": {"lossless": True}, "avif": {"quality": 100}}
    file = pictures.by_pillow(form, one, save_all=True, append_images=[more], **options.get(form, {}))
    header = formats.probe(file)
    assert header.frames == 2
    assert formats.notes(header) == ("of several frames or pages the first was taken",)
    result = formats.decode(file, header)
    assert pictures.psnr(one, result[:, :, :3]) > 30
    assert np.array_equal(result[:, :, :3], pictures.read_by_pillow(file)[:, :, :3])


def test_one_frame_is_no_note() -> None:
    assert [formats.notes(formats.probe(file)) for file in FILES.values()] == [()] * len(FILES)


def gif(*blocks: bytes, size: tuple[int, int] = (4, 2), background: int = 0) -> bytes:
    """A GIF of these blocks, with a table of black, red, green and blue."""
    table = bytes([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    return b"GIF89a" + struct.pack("<HHBBB", *size, 0x81, background, 0) + table + b"".join(blocks) + b";"


def gif_image(left: int, top: int, width: int, height: int, indices: list[int]) -> bytes:
    """An image of 2-bit indices, with a clear code before each two, so that every code has three bits."""
    codes = [code for start in range(0, len(indices), 2) for code in (4, *indices[start : start + 2])] + [5]
    bits = sum(code << 3 * place for place, code in enumerate(codes))
    data = bits.to_bytes((3 * len(codes) + 7) // 8, "little")
    return b"," + struct.pack("<HHHHB", left, top, width, height, 0) + bytes([2, len(data)]) + data + b"\0"


def control(transparent: int | None) -> bytes:
    """A graphic control extension."""
    return b"!\xf9\x04" + bytes([0 if transparent is None else 1, 0, 0, transparent or 0, 0])


BLACK, RED, GREEN, CLEAR = [0, 0, 0], [0, 0, 255], [0, 255, 0], [0, 0, 0, 0]


def test_a_gifs_alpha_is_the_first_frames() -> None:
    plain, clear = gif_image(0, 0, 4, 2, [0, 1, 2, 3] * 2), gif_image(0, 0, 4, 2, [1] * 8)
    assert read(gif(control(None), plain, control(1), clear)).shape == (2, 4, 3)
    result = read(gif(control(1), plain, control(None), clear))
    assert result[0].tolist() == [[0, 0, 0, 255], CLEAR, [0, 255, 0, 255], [255, 0, 0, 255]]


def test_a_first_frame_smaller_than_its_gif_lies_on_nothing() -> None:
    result = read(gif(gif_image(1, 1, 2, 1, [0, 1])))
    assert result.tolist() == [[CLEAR] * 4, [CLEAR, [*BLACK, 255], [*RED, 255], CLEAR]]


def test_a_gif_whose_background_is_beyond_its_table_is_read() -> None:
    assert read(gif(gif_image(0, 0, 4, 2, [1, 2] * 4), background=200))[0, :2].tolist() == [RED, GREEN]


@pytest.mark.parametrize("data", [b"", b"!\xf9\x04\0\0\0\0\0", b"?", gif_image(0, 0, 5, 2, [0] * 10)])
def test_a_gif_without_a_whole_picture_is_damage(data: bytes) -> None:
    with pytest.raises(Damaged):
        formats.probe(gif(data))


def test_a_gif_of_clear_codes_alone_is_unsupported() -> None:
    data = bytes([0b00100100, 0b01001001, 0b10010010]) * 85  # each 3 bits are the code 4
    image = b"," + struct.pack("<HHHHB", 0, 0, 4, 2, 0) + b"\2" + (b"\xff" + data) * 20 + b"\0"
    with pytest.raises(Unsupported, match="clears"):
        read(gif(image))


def test_a_gif_of_few_colours_is_exact_and_has_no_note() -> None:
    picture = pictures.noise(40, 60) & 0xE0
    picture[:, :, 0] &= 0x80
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 128
    result = formats.encode("gif", picture, Options())
    assert result.notes == ()
    assert np.array_equal(read(result.data), picture)
    assert np.array_equal(pictures.read_by_pillow(result.data), picture)


def test_a_gif_of_many_colours_has_a_note_and_256() -> None:
    result = formats.encode("gif", pictures.photographs()["coffee.png"], Options())
    assert result.notes == ("the colours were reduced to 256",)
    assert len(np.unique(read(result.data).reshape(-1, 3), axis=0)) <= 256


def test_a_gifs_transparency_is_all_or_nothing() -> None:
    picture = pictures.flat(2, 4, (10, 20, 30, 255))
    assert formats.encode("gif", picture, Options()).notes == ()
    assert read(pictures.encoded("gif", picture)).tolist() == picture[:, :, :3].tolist()
    picture[0, :, 3] = 0
    result = formats.encode("gif", picture, Options())
    assert result.notes == ()
    assert read(result.data)[:, :, 3].tolist() == [[0] * 4, [255] * 4]
    picture[0, :, 3] = (0, 127, 128, 255)
    result = formats.encode("gif", picture, Options())
    assert result.notes == ("partial transparency became all or nothing",)
    assert read(result.data)[0, :, 3].tolist() == [0, 0, 255, 255]
    assert read(result.data)[1].tolist() == picture[1].tolist()


@pytest.mark.parametrize(("depth", "bits"), [(10, 6), (12, 4)])
def test_avifs_10_and_12_bits_fill_16(depth: int, bits: int) -> None:
    top = 2**depth - 1
    values = np.array([[0, 1, top // 2, top - 1, top]], np.uint16).repeat(8, 0)[:, :, None]
    params = [cv2.IMWRITE_AVIF_QUALITY, 100, cv2.IMWRITE_AVIF_DEPTH, depth]
    file = opencv.encode(".avif", values, params)
    expected = values.astype(int) << bits | values >> (depth - bits)
    assert expected.max() == 65535
    assert np.array_equal(read(file), expected)


@pytest.mark.parametrize("length", range(100, 120))
def test_an_avif_is_read_wherever_its_boxes_end(length: int) -> None:
    icc = bytes(16) + b"RGB " + bytes(16) + b"acsp" + bytes(length)
    file = pictures.encoded("avif", pictures.gradient(8, 8), Metadata(icc, pictures.exif_block()))
    assert read(file).shape == (8, 8, 3)


def test_an_avif_of_16_bits_keeps_10_of_them() -> None:
    picture = pictures.gradient(16, 32, 1, 16)
    result = read(pictures.encoded("avif", picture, quality=100))
    assert np.abs(result.astype(int) - picture).max() <= 65535 / 1023


# BMP


def bmp(bits: int, rows: list[bytes], header: int = 40, masks: tuple[int, ...] = (), palette: bytes = b"") -> bytes:
    """A BMP of 5 pixels a row, the rows as they come; a negative count of them is written top-down."""
    size = (5, -len(rows)) if header > 12 else (5, len(rows))
    form = struct.pack("<I" + ("iiHH" if header > 12 else "HHHH"), header, *size, 1, bits)
    if header > 12:
        form += struct.pack("<IIiiII", 3 if masks else 0, 0, 0, 0, 0, 0)
    form += b"".join(struct.pack("<I", mask) for mask in masks)
    form = form.ljust(14 + header - 14 if header > 40 else 0, b"\0") + palette
    body = b"".join(row + bytes(-len(row) % 4) for row in rows)
    return b"BM" + struct.pack("<IHHI", 14 + len(form) + len(body), 0, 0, 14 + len(form)) + form + body


@pytest.mark.parametrize("header", [12, 40, 52, 56, 108, 124])
def test_bmps_of_24_bits_are_exact_under_each_header(header: int) -> None:
    picture = pictures.noise(3, 5)
    result = read(bmp(24, [row.tobytes() for row in picture], header))
    assert np.array_equal(result, picture if header > 12 else picture[::-1])


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_palette_bmps_are_exact(bits: int) -> None:
    index = np.random.default_rng(0).integers(0, 2**bits, (3, 5))
    spread = (index[:, :, None] >> np.arange(bits - 1, -1, -1) & 1).reshape(3, -1).astype(np.uint8)
    palette = pictures.noise(1, 2**bits, 4)[0]
    file = bmp(bits, [row.tobytes() for row in np.packbits(spread, axis=1)], palette=palette.tobytes())
    assert np.array_equal(read(file), palette[index][:, :, :3])


@pytest.mark.parametrize(
    ("header", "masks", "alpha"),
    [
        (40, (), False),
        (40, (0xFF0000, 0xFF00, 0xFF), False),
        (52, (0xFF, 0xFF00, 0xFF0000), False),
        (56, (0xFF0000, 0xFF00, 0xFF, 0), False),
        (56, (0xFF0000, 0xFF00, 0xFF, 0xFF000000), True),
        (124, (0xFF, 0xFF00, 0xFF0000, 0xFF000000), True),
        (108, (0xFF000000, 0xFF0000, 0xFF00, 0xFF), True),
    ],
)
def test_bmps_of_32_bits_have_alpha_only_by_a_mask_for_it(header: int, masks: tuple[int, ...], alpha: bool) -> None:
    picture = pictures.noise(3, 5, 4)
    shown = masks or (0xFF0000, 0xFF00, 0xFF)
    planes = [picture[:, :, (mask & -mask).bit_length() // 8] for mask in shown if mask]
    expected = np.stack([planes[2], planes[1], planes[0], *planes[3:]], 2)
    result = read(bmp(32, [row.tobytes() for row in picture], header, masks))
    assert result.shape[2] == (4 if alpha else 3)
    assert np.array_equal(result, expected)


@pytest.mark.parametrize("masks", [(), (0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F)])
def test_bmps_of_16_bits_are_spread_to_8_rounded(masks: tuple[int, ...]) -> None:
    values = pictures.noise(3, 5, 1, 16)
    expected = []
    for mask in reversed(masks or (0x7C00, 0x3E0, 0x1F)):
        shift = (mask & -mask).bit_length() - 1
        expected.append(np.rint((values >> shift & mask >> shift) * 255 / (mask >> shift)))
    assert np.array_equal(read(bmp(16, [row.tobytes() for row in values], masks=masks)), np.concatenate(expected, 2))


@pytest.mark.parametrize("masks", [(0xFF0000, 0, 0xFF), (0xFF0000, 0xF0F0, 0xFF)])
def test_a_bmp_of_odd_masks_is_unsupported(masks: tuple[int, ...]) -> None:
    with pytest.raises(Unsupported, match="masks"):
        formats.probe(bmp(32, [bytes(20)], masks=masks))


def test_a_bmp_of_runs_is_unsupported() -> None:
    file = bytearray(bmp(8, [b"\0" * 5], palette=bytes(1024)))
    file[30] = 1
    with pytest.raises(Unsupported, match="compression 1"):
        formats.probe(bytes(file))


# PNM


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (b"P1\n# a comment\n3 2\n1 0 1\n010\n", [[[0], [255], [0]], [[255], [0], [255]]]),
        (b"P4 9 1\n\xaa\x80", [[[0], [255]] * 4 + [[0]]]),
        (b"P2 3 1 7 0 3 7", [[[0], [109], [255]]]),
        (b"P3#c\n1 #d\n1\n255\n1 2 3\n", [[[3, 2, 1]]]),
        (b"P5 2 1 100\n\x32\x64", [[[128], [255]]]),
        (b"P6 1 1 255\n\x01\x02\x03", [[[3, 2, 1]]]),
        (b"P5 2 1 65535\n\x01\x02\xff\xfe", [[[258], [65534]]]),
        (b"P5 2 1 1000\n\x01\xf4\x03\xe8", [[[32768], [65535]]]),
        (b"P6 1 1 4095\n\x00\x00\x08\x00\x0f\xff", [[[65535, 32776, 0]]]),
    ],
)
def test_pnms_of_every_kind_and_maximum_are_exact(file: bytes, expected: list[Any]) -> None:
    assert read(file).tolist() == expected


@pytest.mark.parametrize(
    "file",
    [b"P5 2 1 100\n\x32\x65", b"P2 2 1 7 1 8", b"P2 2 1 255 1 x", b"P2 2 1 255 1", b"P2 1 1 65535 123456",
     b"P1 2 1 12", b"P1 2 1 1", b"P5 0 1 255\n", b"P5 1 1 0\n1", b"P5 1 1 65536\n11", b"P6 1 1 255", b"P5 -1 1 255\n1"],
)  # fmt: skip
def test_a_pnm_that_contradicts_itself_is_damage(file: bytes) -> None:
    with pytest.raises(Damaged):
        read(file)


def test_a_pam_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="P7"):
        formats.probe(b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n123")


def test_a_raw_pnm_behind_another_is_a_second_frame() -> None:
    assert formats.probe(b"P5 1 1 255\n1" * 2).frames == 2


def test_alpha_is_flattened_on_the_background_exactly() -> None:
    picture = pictures.noise(16, 16, 4)
    for depth, top in ((8, 255), (16, 65535)):
        scaled = picture if depth == 8 else picture.astype(np.uint16) * 257
        result = read(pictures.encoded("ppm", scaled, background=(10, 20, 30)))
        alpha = scaled[:, :, 3:] / top
        under = np.array([30, 20, 10]) * (top // 255)
        assert np.array_equal(result, np.rint(scaled[:, :, :3] * alpha + under * (1 - alpha)))


def test_every_16_bit_value_is_rounded_to_the_nearest_of_8() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    result, notes = kernels.to_8_bit(values)
    assert np.array_equal(result, np.rint(values / 257))
    assert notes == ("16 bit became 8 bit",)


# TIFF


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits"])
def test_tiffs_of_pillows_are_exact(compression: str) -> None:
    for channels in (1, 3, 4):
        for size in ((61, 83), (200, 301), (1, 1), (3, 7)):
            picture = pictures.noise(*size, channels)
            assert np.array_equal(read(pictures.by_pillow("tiff", picture, compression=compression)), picture)


@pytest.mark.parametrize("predictor", [1, 2])
@pytest.mark.parametrize("compression", [1, 5, 8, 32946, 32773])
def test_tiffs_of_libtiffs_are_exact_in_8_and_16_bits(compression: int, predictor: int) -> None:
    names = (cv2.IMWRITE_TIFF_COMPRESSION, cv2.IMWRITE_TIFF_PREDICTOR, cv2.IMWRITE_TIFF_ROWSPERSTRIP)
    params = [part for pair in zip(names, (compression, predictor, 17), strict=True) for part in pair]
    for channels, depth in KINDS:
        picture = pictures.noise(71, 93, channels, depth)
        assert np.array_equal(read(opencv.encode(".tiff", picture, params)), picture)


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiffs_of_both_byte_orders_are_exact(order: str) -> None:
    for channels, depth in KINDS:
        picture = pictures.noise(9, 13, channels, depth)
        samples = picture[:, :, [2, 1, 0, 3][:channels] if channels > 1 else [0]]
        assert np.array_equal(read(pictures.tiff(samples, order)), picture)


def test_the_tiles_of_a_tiff_are_put_in_their_places() -> None:
    picture = pictures.noise(40, 56, 1)
    padded = np.zeros((48, 64, 1), np.uint8)
    padded[:40, :56] = picture
    tiles = padded.reshape(3, 16, 4, 16).swapaxes(1, 2).reshape(48 * 4, 16, 1)
    starts = tuple(range(8, 8 + 12 * 256, 256))
    tags = {256: (56,), 257: (40,), 322: (16,), 323: (16,), 324: starts, 325: (256,) * 12}
    assert np.array_equal(read(pictures.tiff(tiles, "<", tags)), picture)


def test_a_jpeg_in_a_tiff_is_as_pillow_reads_it() -> None:
    for channels in (1, 3):
        file = pictures.by_pillow("tiff", pictures.gradient(200, 300, channels), compression="jpeg")
        assert np.array_equal(read(file), pictures.read_by_pillow(file))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_a_tiff_whose_strip_breaks_off_is_damage(compression: str) -> None:
    for size in ((64, 96), (61, 83)):
        file = bytearray(pictures.by_pillow("tiff", pictures.noise(*size), compression=compression))
        with Image.open(io.BytesIO(file)) as picture:
            tags = getattr(picture, "tag_v2")  # noqa: B009
            start, length = tags[273][-1], tags[279][-1]
        file[start + length // 2 : start + length] = bytes([128]) * (length - length // 2)
        with pytest.raises(Damaged):
            read(bytes(file))


def test_a_wrong_checksum_of_a_deflated_strip_is_damage() -> None:
    file = bytearray(pictures.by_pillow("tiff", pictures.noise(9, 9), compression="tiff_adobe_deflate"))
    with Image.open(io.BytesIO(file)) as picture:
        tags = getattr(picture, "tag_v2")  # noqa: B009
        end = tags[273][0] + tags[279][0]
    file[end - 1] ^= 1
    with pytest.raises(Damaged):
        read(bytes(file))


def test_a_strip_beyond_the_file_is_damage_before_any_pixel() -> None:
    for tag in (273, 279):
        with pytest.raises(Damaged, match="ends early"):
            formats.probe(pictures.tiff(pictures.noise(8, 8), "<", {tag: (1000,)}))


@pytest.mark.parametrize(
    ("tags", "word"),
    [
        ({284: (2,)}, "planar"),
        ({262: (3,)}, "photometric 3"),
        ({262: (5,)}, "photometric 5"),
        ({262: (0,)}, "photometric 0"),
        ({339: (3, 3, 3)}, "unsigned"),
        ({258: (1, 1, 1)}, "8 or 16"),
        ({259: (4,)}, "compression 4"),
    ],
)
def test_other_kinds_of_tiff_are_unsupported(tags: dict[int, tuple[int, ...]], word: str) -> None:
    samples = pictures.noise(8, 8, 3, 16)
    if 284 in tags:
        samples = np.ascontiguousarray(samples.transpose(2, 0, 1))
    with pytest.raises(Unsupported, match=word):
        formats.probe(pictures.tiff(samples, "<", tags))


def test_a_bigtiff_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="BigTIFF"):
        formats.probe(b"II+\0\x08\0\0\0" + bytes(16))


@pytest.mark.parametrize("depth", [8, 16])
def test_associated_alpha_is_divided_out_rounded(depth: int) -> None:
    top = 2**depth - 1
    samples = np.array([[[100, 50, 0, 200], [7, 7, 7, 7], [9, 9, 9, 0]]], np.uint8 if depth == 8 else np.uint16)
    result = read(pictures.tiff(samples, "<", {338: (1,)}))
    first = [0, round(50 * top / 200), round(100 * top / 200), 200]
    assert result.tolist() == [[first, [top, top, top, 7], [0, 0, 0, 0]]]


def test_pages_behind_the_first_are_a_note() -> None:
    page = Image.fromarray(pictures.noise(8, 8))
    file = pictures.by_pillow("tiff", pictures.gradient(8, 8), save_all=True, append_images=[page])
    assert formats.notes(formats.probe(file)) == ("of several frames or pages the first was taken",)
    assert np.array_equal(read(file), pictures.gradient(8, 8))


def test_a_written_tiff_says_that_its_fourth_sample_is_straight_alpha() -> None:
    with Image.open(io.BytesIO(pictures.encoded("tiff", pictures.noise(9, 9, 4)))) as picture:
        assert picture.mode == "RGBA"
        assert getattr(picture, "tag_v2")[338] == (2,)  # noqa: B009


def test_gray_values_in_three_channels_become_a_gray_map_without_a_note() -> None:
    gray = pictures.noise(5, 7, 1)
    same = np.concatenate([gray, gray, gray], axis=2)
    encoded = formats.encode("pgm", same, Options())
    assert encoded.notes == ()
    assert np.array_equal(formats.decode(encoded.data, formats.probe(encoded.data)), gray)
    assert formats.encode("pgm", pictures.noise(5, 7, 3), Options()).notes == ("colour became gray",)


def test_the_background_is_in_srgb_where_the_profile_cannot_be_kept() -> None:
    clear = pictures.flat(4, 4, (10, 20, 30, 0))
    metadata = Metadata(icc=pictures.rgb_profile(gamma=2.8))
    encoded = formats.encode("ppm", clear, Options(background=(200, 100, 50)), metadata)
    assert (formats.decode(encoded.data, formats.probe(encoded.data)) == [50, 100, 200]).all()
