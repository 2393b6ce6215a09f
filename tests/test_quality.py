"""What is done for speed is near to what is exact: floors in dB on photographs, no shift, and none of it if precise."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg

from falconimg import _jpeg, filters, formats
from falconimg.errors import Damaged
from falconimg.planes import Planes, bgr
from falconimg.stores.memory import Memory
from tests import pictures
from tests.conftest import Serve

PHOTOGRAPHS = pictures.photographs()
SHRINK_FLOOR = 38.0  # dB, against area of the whole picture
BLUR_FLOOR = 50.0

# each at least once just where another number of the shrinking on load begins, and between
FACTORS = [
    0.05,
    0.0625,
    0.07,
    0.087,
    0.1,
    0.125,
    0.15,
    0.17,
    0.18,
    0.2,
    0.25,
    0.3,
    0.37,
    0.4,
    0.46,
    0.47,
    0.5,
    0.75,
    0.9,
]


def results(serve: Serve, files: dict[str, bytes], *images: dict[str, Any], **request: Any) -> dict[str, Any]:
    """The pictures that come of a request, by path."""
    store = Memory(files)
    response = serve(store).process(list(images), **request)
    assert response.status_code == 200, response.json
    return {
        output["path"]: cv2.imdecode(np.frombuffer(store.files[output["path"]], np.uint8), cv2.IMREAD_UNCHANGED)
        for image in response.json["images"]
        for output in image["outputs"]
    }


def shift(one: Any, other: Any) -> tuple[float, float]:
    """By how many pixels one picture lies beside another, down and across: least squares over the luma's slopes.

    Lucas and Kanade, An Iterative Image Registration Technique, 1981, one step.
    """
    first, second = (
        cv2.GaussianBlur(cv2.cvtColor(a, cv2.COLOR_BGR2GRAY).astype(float), (5, 5), 0) for a in (one, other)
    )
    slopes = np.stack([slope[2:-2, 2:-2].ravel() for slope in np.gradient(first)], 1)
    down, across = np.linalg.lstsq(slopes, (second - first)[2:-2, 2:-2].ravel(), rcond=None)[0]
    return -down, -across


def test_the_measure_of_a_shift_sees_a_tenth_of_a_pixel() -> None:
    photograph = PHOTOGRAPHS["coffee.png"]
    for wanted in ((0.0, 0.1), (-0.1, 0.0), (0.25, -0.125)):
        matrix = np.array([[1, 0, wanted[1]], [0, 1, wanted[0]]])
        moved = cv2.warpAffine(photograph, matrix, photograph.shape[1::-1], flags=cv2.INTER_LINEAR)
        assert shift(photograph[9:-9, 9:-9], moved[9:-9, 9:-9]) == pytest.approx(wanted, abs=0.03)


def written(picture: Any, kind: str) -> bytes:
    """A JPEG, sampled so, "progressive" or "baseline"."""
    if " " in kind:
        sampling = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{kind[-3:]}")
        flags = [
            cv2.IMWRITE_JPEG_QUALITY,
            92,
            cv2.IMWRITE_JPEG_PROGRESSIVE,
            int(kind.startswith("progressive")),
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
            sampling,
        ]
        return bytes(cv2.imencode(".jpg", picture, flags)[1])
    return bytes(simplejpeg.encode_jpeg(picture, 92, "BGR", kind))


def gray_jpeg(side: int, factors: int) -> bytes:
    """A square one of three components in the middle of their range, the luma with these sampling factors."""
    file = written(np.full((side, side, 3), 128, np.uint8), "444")
    frame, scan = file.index(b"\xff\xc0"), file.index(b"\xff\xda")
    across, down = factors >> 4, factors & 15
    units = -(-side // (8 * across)) * -(-side // (8 * down))
    # T.81, K.3.3: no difference of DC, no AC; of luma 00 1010, of chroma 00 00
    bits = ("001010" * across * down + "0000" * 2) * units
    bits += "1" * (-len(bits) % 8)
    head = file[: frame + 11] + bytes([factors]) + file[frame + 12 : scan + 14]
    return head + int(bits, 2).to_bytes(len(bits) // 8) + b"\xff\xd9"


@pytest.mark.parametrize(
    ("name", "vectors"), [*((name, True) for name in PHOTOGRAPHS), (next(iter(PHOTOGRAPHS)), False)]
)
@pytest.mark.parametrize("kind", ["420", "422", "440", "444", "progressive 420", "progressive 422"])
def test_a_smaller_picture_is_within_38_db_of_area_and_not_shifted(
    name: str, kind: str, vectors: bool, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not vectors:  # as on a machine without the vectors that the native decoder wants
        monkeypatch.setattr(_jpeg, "is_fast", lambda: False)
    file = written(PHOTOGRAPHS[name], kind)
    images = [{"input": "a.jpg", "output": f"{factor}.png", "operations": [f"resize={factor}"]} for factor in FACTORS]
    fast = results(serve, {"a.jpg": file}, *images)
    exact = results(serve, {"a.jpg": file}, *images, precise=True)
    whole = simplejpeg.decode_jpeg(file, "BGR")
    for path, picture in exact.items():
        by_opencv = cv2.resize(whole, picture.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.array_equal(picture, by_opencv), path
        assert pictures.psnr(fast[path], picture) >= SHRINK_FLOOR, path
        if min(picture.shape[:2]) >= 60:
            assert np.abs(shift(picture, fast[path])).max() < 0.1, path


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_progressive_picture_is_shrunk_without_its_last_bits_near_to_the_whole(name: str) -> None:
    file = written(PHOTOGRAPHS[name], "progressive 420")
    header = formats.probe(file)
    for shrink, floor in ((2, 44), (4, 50), (8, 99)):  # by 8 there are only DC coefficients
        small = header.shrunk(shrink)
        whole = simplejpeg.decode_jpeg(file, "BGR", min_height=small.height, min_width=small.width, min_factor=1)
        made: Any = formats.load(file, header, formats.Load(shrink, False))
        assert pictures.psnr(made, whole) >= floor, shrink
        assert shrink == 8 or not np.array_equal(made, whole)  # it was not read
    all_bits: Any = formats.load(file, header, formats.Load(1, False))
    assert np.array_equal(all_bits, simplejpeg.decode_jpeg(file, "BGR"))


@pytest.mark.parametrize("cut", [1, 2, 3, 50, 5000])
def test_a_progressive_picture_that_ends_in_what_is_not_read_is_refused(cut: int) -> None:
    file = written(PHOTOGRAPHS["coffee.png"], "progressive 420")
    header = formats.probe(file)
    assert file.rindex(b"\xff\xda") < len(file) - 5000
    for whole in (file[:-cut], file[:-cut] + b"\0"):
        with pytest.raises(Damaged):
            formats.load(whole, header, formats.Load(4, False))


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_renditions_made_of_each_other_are_within_38_db_of_area(name: str, serve: Serve) -> None:
    file = simplejpeg.encode_jpeg(PHOTOGRAPHS[name], 92, "BGR", "420")
    widths = [400, 300, 200, 100, 60, 50, 37]
    image = {
        "input": "a.jpg",
        "renditions": [{"output": f"{width}.png", "operations": [f"resize={width}x"]} for width in widths],
    }
    fast = results(serve, {"a.jpg": file}, image)
    exact = results(serve, {"a.jpg": file}, image, precise=True)
    assert list(fast) == list(exact) == [f"{width}.png" for width in widths]
    for path, picture in exact.items():
        assert pictures.psnr(fast[path], picture) >= SHRINK_FLOOR, path


@pytest.mark.parametrize(
    "step", ["resize=100x100,fit:cover", "resize=90x40,fit:cover,gravity:se", "resize=120x120,fit:pad", "resize=33x77"]
)
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_what_is_cut_or_padded_while_it_shrinks_is_within_38_db_of_exact(name: str, step: str, serve: Serve) -> None:
    file = simplejpeg.encode_jpeg(PHOTOGRAPHS[name], 92, "BGR", "420")
    image = {"input": "a.jpg", "output": "b.png", "operations": [step]}
    fast, exact = (results(serve, {"a.jpg": file}, image, precise=precise)["b.png"] for precise in (False, True))
    assert pictures.psnr(fast, exact) >= SHRINK_FLOOR


@pytest.mark.parametrize(
    "step", ["crop=300x200+5+7", "resize=0.25", "resize=99x60,fit:pad", "blur=7", "gray", "rotate=90"]
)
def test_with_precise_a_jpeg_of_a_jpeg_is_the_encoders_of_the_whole_decoded_picture(step: str, serve: Serve) -> None:
    file = written(PHOTOGRAPHS["coffee.png"], "420")
    files = {"a.jpg": file, "b.png": pictures.by_pillow("png", simplejpeg.decode_jpeg(file, "BGR"))}
    images = [{"input": name, "output": f"{name}.jpg", "operations": [step]} for name in files]
    loaded, whole = (results(serve, files, *images, precise=True)[f"{name}.jpg"] for name in files)
    assert np.array_equal(loaded, whole)


@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("factor", [0.05, 0.1, 0.2, 0.4])
def test_a_smaller_picture_of_odd_sides_is_not_shifted_however_it_is_turned(
    factor: float, orientation: int, serve: Serve
) -> None:
    # a row and three columns beyond the eighths: the last pixels of one that is loaded smaller are but parts
    file = pictures.oriented("jpeg", orientation, PHOTOGRAPHS["coffee.png"][:393, :595])
    image = {"input": "a.jpg", "output": "b.png", "operations": [f"resize={factor}"]}
    fast, exact = (results(serve, {"a.jpg": file}, image, precise=precise)["b.png"] for precise in (False, True))
    assert pictures.psnr(fast, exact) >= SHRINK_FLOOR
    assert np.abs(shift(exact, fast)).max() < 0.05


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize("output", ["b.png", "b.jpg"])
@pytest.mark.parametrize("step", ["resize=0.1", "resize=0.9", "crop=9x9"])
def test_a_jpeg_that_ends_early_is_damaged_however_it_is_loaded(
    step: str, output: str, vectors: bool, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not vectors:
        monkeypatch.setattr(_jpeg, "is_fast", lambda: False)
    file = written(PHOTOGRAPHS["coffee.png"], "420")
    store = Memory({"a.jpg": file[: len(file) // 2]})
    response = serve(store).process([{"input": "a.jpg", "output": output, "operations": [step]}])
    assert response.json["images"][0]["error"]["type"] == "/problems/damaged"
    assert list(store.files) == ["a.jpg"]


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize(("kernel", "sigma"), [(5, 0), (7, 0), (25, 0), (101, 0), (0, 1.0), (0, 4), (0, 20), (25, 20)])
def test_a_blur_of_planes_is_within_50_db_of_opencvs_of_the_decoded_picture(
    name: str, kernel: int, sigma: float
) -> None:
    file = simplejpeg.encode_jpeg(PHOTOGRAPHS[name], 92, "BGR", "420")
    planes = formats.load(file, formats.probe(file), formats.Load(planes=True))
    assert isinstance(planes, Planes)
    wanted = cv2.GaussianBlur(simplejpeg.decode_jpeg(file, "BGR"), (kernel, kernel), sigma)
    made = filters.blurred(planes, kernel, sigma, precise=False)
    assert isinstance(made, Planes)
    assert pictures.psnr(made.bgr(), wanted) >= BLUR_FLOOR


@pytest.mark.parametrize(("kernel", "sigma"), [(3, 1.0), (3, 50.0), (5, 2.0), (7, 100.0), (11, 200.0), (13, 200.0)])
def test_a_blur_whose_kernel_is_cut_short_is_within_50_db_of_opencvs(kernel: int, sigma: float) -> None:
    file = simplejpeg.encode_jpeg(PHOTOGRAPHS["coffee.png"], 92, "BGR", "420")
    planes = formats.load(file, formats.probe(file), formats.Load(planes=True))
    wanted = cv2.GaussianBlur(simplejpeg.decode_jpeg(file, "BGR"), (kernel, kernel), sigma)
    assert pictures.psnr(bgr(filters.blurred(planes, kernel, sigma, precise=False)), wanted) >= BLUR_FLOOR


@pytest.mark.parametrize(
    "steps",
    [
        ["resize=0.1", "resize=10"],
        ["resize=0.05", "resize=20,filter:nearest"],
        ["resize=75x", "resize=24x227"],
        ["resize=0.1", "crop=31x21+11+11"],
    ],
)
def test_what_shrinks_and_is_then_enlarged_or_cut_is_within_38_db_of_exact(steps: list[str], serve: Serve) -> None:
    file = simplejpeg.encode_jpeg(PHOTOGRAPHS["coffee.png"], 92, "BGR", "420")
    image = {"input": "a.jpg", "output": "b.jpg", "operations": steps}
    fast, exact = (results(serve, {"a.jpg": file}, image, precise=precise)["b.jpg"] for precise in (False, True))
    assert pictures.psnr(fast, exact) >= SHRINK_FLOOR


@pytest.mark.parametrize("factors", [0x11, 0x12, 0x21, 0x22, 0x31, 0x13, 0x33, 0x41, 0x14, 0x42, 0x44])
def test_a_jpeg_of_any_sampling_is_read_for_all_sizes_or_for_none(factors: int, serve: Serve) -> None:
    file = gray_jpeg(96, factors)
    images = [{"input": "a.jpg", "output": f"{f}.png", "operations": [f"resize={f}"]} for f in (0.1, 0.2, 0.4, 0.7)]
    verdicts = []
    for precise in (False, True):
        response = serve(Memory({"a.jpg": file})).process(images, precise=precise)
        verdicts.append([(outcome["status"], outcome.get("error")) for outcome in response.json["images"]])
    assert verdicts[0] == verdicts[1]
    assert factors not in (0x11, 0x12, 0x21, 0x22, 0x41, 0x14) or verdicts[0] == [("done", None)] * 4


@pytest.mark.parametrize("factor", [0.1, 0.2, 0.4, 0.7])
def test_a_jpeg_of_a_quarter_of_the_chroma_in_a_row_is_shrunk_within_38_db_of_area(factor: float, serve: Serve) -> None:
    file = written(PHOTOGRAPHS["coffee.png"], "baseline 411")
    image = {"input": "a.jpg", "output": "b.png", "operations": [f"resize={factor}"]}
    fast, exact = (results(serve, {"a.jpg": file}, image, precise=precise)["b.png"] for precise in (False, True))
    assert pictures.psnr(fast, exact) >= SHRINK_FLOOR


def test_a_machine_without_vectors_has_no_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(PHOTOGRAPHS["coffee.png"], "420")
    header = formats.probe(file)
    form = formats.FORMATS["jpeg"]
    assert form.loads(header, shrinks=False) == formats.Load(1, planes=_jpeg.is_fast())
    monkeypatch.setattr(_jpeg, "is_fast", lambda: False)
    assert form.loads(header, shrinks=False) == formats.AS_IT_IS
    assert form.loads(header, shrinks=True) == formats.Load(8)
