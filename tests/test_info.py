from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageCms

from falconimg import formats, info
from falconimg.formats import Header, Metadata, color
from tests import pictures

HEAD = bytes(16) + b"RGB " + bytes(16) + b"acsp" + bytes(88)


def profile(element: bytes, start: int = 144, size: int | None = None) -> bytes:
    """A profile of one tag, its description."""
    length = len(element) if size is None else size
    return HEAD + struct.pack(">I4sII", 1, b"desc", start, length) + element


def mluc(*records: tuple[str, str], step: int = 12) -> bytes:
    """A multi-localized description of (language, text)s."""
    table, texts = b"", b""
    for language, text in records:
        data = text.encode("utf-16-be")
        start = 16 + step * len(records) + len(texts)
        table += struct.pack(">2s2sII", language.encode(), b"US", len(data), start).ljust(step, b"\0")
        texts += data
    return b"mluc" + bytes(4) + struct.pack(">II", len(records), step) + table + texts


def desc(text: bytes) -> bytes:
    return b"desc" + bytes(4) + struct.pack(">I", len(text)) + text


def test_a_turned_picture_is_described_as_it_is_seen() -> None:
    header = Header("jpeg", 400, 300, 3, orientation=6, metadata=Metadata(pictures.srgb_profile()))
    assert info.describe(header, 1234) == {
        "width": 300,
        "height": 400,
        "format": "jpeg",
        "depth": 8,
        "alpha": False,
        "orientation": 6,
        "icc": color.name(pictures.srgb_profile()),
        "bytes": 1234,
    }


def test_depth_and_alpha_are_those_of_the_file() -> None:
    file = pictures.encoded("png", pictures.gradient(3, 5, 4, 16))
    said = info.describe(formats.probe(file), len(file))
    assert (said["width"], said["height"], said["depth"], said["alpha"], said["icc"]) == (5, 3, 16, True, None)


def test_the_name_of_a_real_profile_is_what_another_library_reads() -> None:
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    assert color.name(made.tobytes()) == ImageCms.getProfileDescription(made).strip() == "sRGB built-in"


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        (desc(b"Display P3\0"), "Display P3"),
        (desc(b" Adobe RGB (1998) \0rest"), "Adobe RGB (1998)"),
        (mluc(("en", "sRGB IEC61966-2.1")), "sRGB IEC61966-2.1"),
        (mluc(("de", "Farben"), ("en", "Colours")), "Colours"),
        (mluc(("de", "Grün"), ("fr", "Vert")), "Grün"),
        (mluc(("de", "Farben"), ("en", "Colours"), step=20), "Colours"),
    ],
)
def test_the_name_is_read_of_both_forms_in_english_first(element: bytes, expected: str) -> None:
    assert color.name(profile(element)) == expected


@pytest.mark.parametrize(
    "icc",
    [
        b"",
        HEAD,
        HEAD + b"\xff" * 4,
        profile(b""),
        profile(b"desc"),
        profile(b"mluc"),
        profile(b"text" + bytes(4) + b"a name"),
        profile(desc(b"")),
        profile(desc(b"\0")),
        profile(desc(b"caf\xe9")),
        profile(desc(b"two\nlines")),
        profile(desc(b"\x1b[2J")),
        profile(mluc()),
        profile(mluc(("en", "a"))[:27]),
        profile(b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 2, 28) + b"\xd8\x00"),
        profile(b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 2**31, 2**31)),
        profile(b"mluc" + bytes(4) + struct.pack(">II", 2**32 - 1, 2**32 - 1) + bytes(12)),
        profile(desc(b"a"), start=2**32 - 1, size=2**32 - 1),
    ],
)
def test_a_profile_without_a_name_that_can_be_printed_has_none(icc: bytes) -> None:
    assert color.name(icc) is None


@given(st.binary(max_size=80), st.integers(0, 200), st.integers(0, 2**32 - 1), st.sampled_from([b"", b"desc", b"mluc"]))
def test_no_bytes_of_a_profile_make_its_name_fail(rest: bytes, start: int, size: int, kind: bytes) -> None:
    name = color.name(profile(kind + rest, start, size))
    assert name is None or (name.isprintable() and len(name) <= 4096)
