"""What hostile pictures cannot do: be taken for whole, take time or memory, or show what is not theirs.

`report_…` functions run in a process of their own, by `apart`, so that a crash, the memory and the allocator are seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import deflate
import numpy as np
import pytest
import simplejpeg

from falconimg import formats
from falconimg.errors import Damaged, ImageProblem, OutOfMemory, Unsupported
from falconimg.formats import FORMATS, Options
from falconimg.settings import Settings
from falconimg.stores.memory import Memory
from tests import hostile, pictures
from tests.conftest import Serve, Server

SECONDS = 600  # that a process apart may take
KINDS = [(1, 8), (3, 8), (4, 8), (1, 16), (3, 16), (4, 16)]
Figure = Callable[[str, str, object], None]


@pytest.fixture
def figure(long: bool, record_property: Callable[[str, object], None]) -> Figure:
    """A function that records a figure, and prints it in the long form."""

    def record(row: str, what: str, value: object) -> None:
        record_property(f"{row}: {what}", value)
        if long:
            print(f"\nfigure: {row}: {what}: {value}")  # noqa: T201  (that is what `pytest --long -s` is for)

    return record


def apart(function: Callable[..., Any], *arguments: object, **environ: str) -> Any:
    """What the function of this module returns in a process of its own."""
    name = function.__name__
    code = f"import json, sys; from {__name__} import {name}; print(json.dumps({name}(*json.loads(sys.argv[1]))))"
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)],
        capture_output=True, text=True, timeout=SECONDS, env={**os.environ, **environ}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def peak() -> int:
    """The most bytes that this program has had in memory so far; getrusage would count who started it too."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def read(file: bytes) -> Any:
    return formats.decode(file, formats.probe(file))


def refused(file: bytes) -> bool:
    try:
        read(file)
    except OutOfMemory:
        raise
    except ImageProblem:
        return True
    return False


def verdicts(server: Server, images: list[dict[str, str]], *operations: str) -> list[str]:
    """What came of each image: "done", or the kind of its problem."""
    outcomes = server.process(images, operations=operations).json["images"]
    return [outcome.get("error", {"type": "done"})["type"].removeprefix("/problems/") for outcome in outcomes]


def save(folder: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    folder.mkdir()
    for name, file in files.items():
        (folder / name).write_bytes(file)
    return files


def saved(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


# (9) What is not on the list is refused by its first bytes


def test_no_codec_sees_a_file_of_a_kind_that_is_not_read(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def watched(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(*arguments: Any, **more: Any) -> Any:
            calls.append(name)
            return real(*arguments, **more)

        monkeypatch.setattr(module, name, call)

    for name in ("imdecode", "imdecodemulti", "imdecodeanimation", "imdecodeWithMetadata", "imread"):
        watched(cv2, name)
    for name in ("decode_jpeg", "decode_jpeg_header"):
        watched(simplejpeg, name)
    watched(deflate, "zlib_decompress")
    server = serve(Memory({f"in/{name}.png": file for name, file in hostile.foreign().items()}))
    calls.clear()  # of the start, which proves OpenCV's limit once in a process
    names = [f"in/{name}.png" for name in hostile.foreign()]
    images = [{"input": name, "output": f"out/{index}.png"} for index, name in enumerate(names)]
    came = dict(zip(names, verdicts(server, images), strict=True))
    assert {name: verdict for name, verdict in came.items() if verdict != "unsupported"} == {}
    assert calls == []
    for name in ("png-rgb", "jpeg-baseline"):
        read(hostile.good()[name])
    assert calls == ["zlib_decompress", "decode_jpeg"]


# (10) Too large is refused by the header


def report_limits(folder: str, cases: list[tuple[str, str]]) -> tuple[list[tuple[str, float]], int]:
    """The verdict of each (file, operation) below a folder and the ms it took, and by how much the peak grew."""
    server = Server(Path(folder), fsync=False, pool=1)

    def verdict(name: str, step: str) -> tuple[str, float]:
        begun = time.process_time()
        came = verdicts(server, [{"input": name, "output": "out.png"}], *filter(None, [step]))
        return came[0], 1000 * (time.process_time() - begun)

    verdict("good", "resize=2")
    verdict("nothing", "")
    before = peak()
    return [verdict(*case) for case in cases], peak() - before


LARGE_STEPS = ("resize=100", "resize=16000x16000", "resize=16385x1", "resize=8000x8000,fit:pad", "resize=x16384")


@pytest.mark.alone
def test_what_is_too_large_is_refused_by_its_header_in_50_ms_and_20_mb(tmp_path: Path, figure: Figure) -> None:
    sides = ("16385x1", "1x16385", "7072x7071", "16000x16000", "65500x65500")
    assert tuple(f"{width}x{height}" for width, height in hostile.SIDES) == sides
    files = {f"{w}x{h}-{name}": file for w, h in hostile.SIDES for name, file in hostile.bombs(w, h).items()}
    files |= {"60-megapixels-of-1-bit": hostile.png_bomb(8000, 7500)}
    cases = [(name, "") for name in save(tmp_path / "root", files)]
    cases += [("good", step) for step in LARGE_STEPS]
    (tmp_path / "root" / "good").write_bytes(pictures.by_pillow("png", pictures.noise(200, 201)))
    with (tmp_path / "root" / "bytes").open("wb") as file:
        file.write(hostile.good()["png-rgb"])
        file.truncate(Settings(root=tmp_path).max_file + 1)
    cases += [("bytes", "")]
    refusals, grown = apart(report_limits, str(tmp_path / "root"), cases)
    came = {f"{name} {step}".strip(): refusal for (name, step), refusal in zip(cases, refusals, strict=True)}
    # without pixels for it, some containers are cut short at any size: that is refused as well
    assert {name for name, (type_, _) in came.items() if type_ not in ("too-large", "damaged", "unsupported")} == set()
    cut_short = ("bmp", "bmp-top-down", "pnm", "pnm-bitmap", "tiff-strips", "tiff-tile", "webp-canvas", "avif-ispe")
    assert {name for name, (type_, _) in came.items() if type_ != "too-large" and not name.endswith(cut_short)} == set()
    slowest = max(ms for _, ms in came.values())
    figure("10", "slowest refusal, ms of CPU", round(slowest, 1))
    figure("10", "memory of all refusals, MB", round(grown / 10**6, 1))
    assert slowest < 50
    assert grown < 20 * 10**6


# (11) What is lost at the end is noticed


def losses(name: str, file: bytes, parts: int) -> dict[str, bytes]:
    """The file cut, cut and closed, and zero-filled, at each of these parts, where its format can notice that."""
    form, cuts = hostile.form_of(name), list(hostile.cuts(file, parts))
    lost = {}
    if not name.startswith("pnm-plain"):  # of a text of numbers, fewer digits are a number too
        lost = {f"cut at {cut}": file[:cut] for cut in cuts}
    if form in hostile.END and form != "webp" and "animated" not in name:  # the first picture may be whole
        lost |= {f"closed at {cut}": hostile.closed(file, form, cut) for cut in cuts}
        lost |= {f"zeros from {cut}": hostile.zeroed(file, cut) for cut in cuts}
    return {how: other for how, other in lost.items() if other != file}


@pytest.mark.parametrize("name", hostile.good())
def test_a_picture_that_lost_its_end_is_refused(name: str, long: bool, figure: Figure) -> None:
    file = hostile.good()[name]
    assert not refused(file)
    lost = losses(name, file, len(file) if long else 64)
    figure("11", f"{name}, ways to lose the end", len(lost))
    assert [how for how, other in lost.items() if not refused(other)] == []


def cpu_ms(file: bytes) -> float:
    begun = time.process_time()
    with pytest.raises(Unsupported, match="scans"):
        read(file)
    return 1000 * (time.process_time() - begun)


@pytest.mark.alone
def test_a_jpeg_of_over_100_scans_is_refused_in_50_ms(figure: Figure) -> None:
    with pytest.raises(Damaged):  # as libjpeg finds: the same scan again
        read(hostile.jpeg_of_scans(100))
    sizes = ((24, 33), (3000, 4000))
    slowest = max(cpu_ms(hostile.jpeg_of_scans(count, *size)) for count in (101, 1000) for size in sizes)
    figure("11", "slowest refusal of scans, ms of CPU", round(slowest, 1))
    assert slowest < 50


# Tricks

# Those that are harmless: the pixels are all there, and what is odd is not asked for. All others are refused.
HARMLESS = frozenset(
    f"{group}-{name}"
    for group, names in {
        "jpeg": "exif-beyond exif-loop fill-bytes no-huffman progressive-after-end thumbnail-bomb",
        "png": "animated-without-control data-apart empty-data-chunks exif-loop international-text-bombs "
        "palette-index-beyond profile-twice text-bombs",
        "gif": "comments comments-in-bytes control-short data-behind frames",
        "tiff": "bits-of-a-million deflated-bomb lzw-one-pixel-short next-is-itself offsets-of-millions orientation-9 "
        "sample-format-of-a-million",
        "webp": "canvas-alpha-without canvas-twice canvas-without-alpha exif-loop two-pictures two-pictures-plain",
        "pnm": "plain-of-a-million spaces",
        "bmp": "palette-of-billions palette-short",
        "polyglot": "bmp-and-zip gif-and-zip jpeg-and-png jpeg-and-zip jpeg-with-script png-and-zip png-with-script "
        "pnm-and-pnm pnm-of-script tiff-and-zip webp-and-zip",
    }.items()
    for name in names.split()
)


def report_tricks(folder: str) -> dict[str, tuple[str, float, int]]:
    """Of each file below a folder what came of it, the ms of CPU it took, and by how much the peak grew."""
    read(hostile.good()["avif-rgb"])
    result = {}
    for name, file in saved(folder).items():
        grown, begun = peak(), time.process_time()
        try:
            header = formats.probe(file)
            verdict = "TooLarge" if header.width * header.height > 50 * 10**6 else "read"  # as the pipeline has it
            if verdict == "read":
                formats.decode(file, header)
        except ImageProblem as problem:
            verdict = type(problem).__name__
        result[name] = verdict, 1000 * (time.process_time() - begun), peak() - grown
    return result


@pytest.mark.alone
def test_a_trick_is_refused_or_harmless_and_takes_neither_time_nor_memory(tmp_path: Path, figure: Figure) -> None:
    save(tmp_path / "tricks", hostile.tricks())
    came = apart(report_tricks, str(tmp_path / "tricks"))
    assert {name for name, (verdict, _, _) in came.items() if verdict == "read"} == HARMLESS
    assert {verdict for verdict, _, _ in came.values()} == {"read", "Damaged", "Unsupported", "TooLarge"}
    slowest, largest = (max(came, key=lambda name: came[name][column]) for column in (1, 2))
    figure("11", f"slowest of {len(came)} tricks, {slowest}, ms of CPU", round(came[slowest][1]))
    figure("11", f"largest of {len(came)} tricks, {largest}, MB", round(came[largest][2] / 10**6, 1))
    assert came[slowest][1] < 2000
    assert came[largest][2] < 50 * 10**6


def worst() -> dict[str, bytes]:
    """The files of up to 50 megapixels that keep a decoder busy longest, of those that it does not refuse at once."""
    tiles = 2**15 - 128
    tags = {256: (256,), 257: (127,), 322: (1,), 323: (1,), 324: (8,) * tiles, 325: (4,) * tiles, 259: (5,)}
    return {
        "gif that clears its table": hostile.gif_of_clears(7071, 7071, 39_900, 8),
        "jpeg of 100 scans": hostile.jpeg_of_scans(100, 7071, 7071),
        "tiff of 32,512 tiles": hostile.tiff(tags, bytes(tiles * 4)),
        "png bomb of 16 bits": hostile.png_bomb(7071, 7071, 16),
    }


def test_the_worst_pictures_have_an_end(long: bool, figure: Figure) -> None:
    files = worst() if long else {"gif": hostile.gif_of_clears(700, 700, 5_800, 8)}
    for name, file in files.items():
        begun = time.process_time()
        refused(file)
        seconds = time.process_time() - begun
        figure("11", f"{name}, {len(file)} bytes, seconds of CPU", round(seconds, 2))
        assert seconds < (10 if long else 1)


# (12) No picture shows memory that is not its own


def report_hashes(folder: str) -> dict[str, str]:
    """What each file below a folder decodes to, and each format encodes to, as hashes; what is refused by its name."""
    result = {}
    for name, file in saved(folder).items():
        try:
            pixels = read(file)
            result[name] = hashlib.sha1(pixels.tobytes() + str(pixels.shape).encode()).hexdigest()  # noqa: S324
        except ImageProblem as problem:
            result[name] = type(problem).__name__
    for form in FORMATS:
        for channels, depth in KINDS:
            file = pictures.encoded(form, pictures.gradient(31, 57, channels, depth))
            result[f"{form} {channels} {depth}"] = hashlib.sha1(file).hexdigest()  # noqa: S324
    result["control"] = hashlib.sha1(np.empty(10**5, np.uint8).tobytes()).hexdigest()  # noqa: S324
    return result


def test_no_picture_depends_on_what_was_in_memory_before(tmp_path: Path, long: bool, figure: Figure) -> None:
    files = hostile.tricks() | hostile.good()
    for name, file in hostile.good().items():
        files |= {f"{name} {how}": other for how, other in losses(name, file, 64 if long else 2).items()}
        files |= {
            f"{name} zeros from {cut}": hostile.zeroed(file, cut) for cut in hostile.cuts(file, 64 if long else 2)
        }
    save(tmp_path / "files", files)
    fills = range(0, 256, 17) if long else (0, 0xFE)
    came = [apart(report_hashes, str(tmp_path / "files"), MALLOC_PERTURB_=str(fill)) for fill in fills]
    controls = {hashes.pop("control") for hashes in came}
    assert len(controls) == len(came)  # an array that nobody filled shows what was there
    figure("12", f"pictures and files that are the same under {len(came)} fills of memory", len(came[0]))
    assert [name for name in came[0] if len({hashes[name] for hashes in came}) > 1] == []


# (13) Out of memory is out of memory


def starved(server: Server, images: list[dict[str, str]], step: str, spare: int) -> list[str]:
    """The verdict of each image where the process may take so many bytes more."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + spare, size + spare))
    return verdicts(server, images, *filter(None, [step]))


def report_starved(folder: str, cases: list[tuple[str, str, str]], spares: list[int]) -> list[list[str]]:
    """For each (file, operation, extension) the verdicts with so many bytes to spare."""
    server = Server(Path(folder), Memory(saved(folder)), fsync=False, pool=1)
    result = []
    for name, step, extension in cases:
        came = []
        for spare in spares:
            ours, theirs = os.pipe()
            child = os.fork()
            if not child:
                # its thread and its codecs are there before memory is short
                server.process([{"input": f"small.{name}", "output": f"small{extension}"}])
                image = {"input": name, "output": f"out{extension}"}
                os.write(theirs, starved(server, [image], step, spare)[0].encode())
                os._exit(0)
            os.close(theirs)
            with os.fdopen(ours) as pipe:
                verdict = pipe.read()
            status = os.waitpid(child, 0)[1]
            came.append(verdict or f"died: {status}")
        result.append(came)
    return result


STEPS = ("resize=2", "resize=0.4", "blur=31", "rotate=90", "gray", "flip=h", "split", "crop=300x300")


def test_out_of_memory_is_never_called_damage(tmp_path: Path, long: bool, figure: Figure) -> None:
    picture = pictures.noise(500, 700, 3)
    files = {form: pictures.encoded(form, picture) for form in FORMATS}
    files["progressive"] = pictures.by_pillow("jpeg", picture, progressive=True)
    files["cmyk"] = pictures.cmyk_jpeg(pictures.noise(500, 700, 4))
    files["deflate"] = pictures.by_pillow("tiff", picture, compression="tiff_adobe_deflate")
    files["packbits"] = pictures.by_pillow("tiff", picture, compression="packbits")
    files["lossless"] = pictures.by_pillow("webp", picture, lossless=True)
    files["alpha"] = pictures.encoded("png", pictures.noise(500, 700, 4))
    files["deep"] = pictures.encoded("png", pictures.noise(500, 700, 3, 16))
    small = {f"small.{name}": hostile.good()["png-rgb"] for name in files}
    save(tmp_path / "files", files | small)
    cases = [(name, "", ".bmp") for name in files]
    cases += [("ppm", "", extension) for form in FORMATS.values() for extension in form.extensions[:1]]
    cases += [("deep", step, ".ppm") for step in STEPS] + [("alpha", step, ".png") for step in STEPS[:4]]
    spares = [6 * 10**6 * part for part in range(34)] if long else [10**6, 200 * 10**6]
    came = apart(report_starved, str(tmp_path / "files"), cases, spares, MALLOC_ARENA_MAX="1")
    wrong = {
        (*case, spare): verdict
        for case, line in zip(cases, came, strict=True)
        for spare, verdict in zip(spares, line, strict=True)
        if verdict not in ("memory", "done")
    }
    assert wrong == {}
    assert [case for case, line in zip(cases, came, strict=True) if set(line) != {"memory", "done"}] == []
    figure("13", "runs short of memory", sum(line.count("memory") for line in came))


# (14) The same file, the same answer


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_is_read_and_written_the_same_100_times_on_8_threads(form: str, long: bool, figure: Figure) -> None:
    files = [file for name, file in hostile.good().items() if formats.probe(file).format in form]
    size = (40, 61) if long or form != "gif" else (10, 16)  # finding its colours takes long
    sources = [pictures.gradient(*size, *kind) for kind in KINDS]
    options = Options(FORMATS[form].quality or 95)

    def answer(_: int) -> tuple[bytes, ...]:
        decoded = [read(file).tobytes() for file in files]
        return *decoded, *(formats.encode(form, source, options).data for source in sources)

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(answer, range(100)))
    figure("14", f"{form}: files read and written", len(files) + len(sources))
    assert len(answers) == 1


# What was found by the above and mended, each by its own cause


def test_an_avif_whose_coded_picture_is_larger_than_it_says_is_damage() -> None:
    with pytest.raises(Damaged, match="16x16, but 4000x4000"):
        formats.probe(hostile.tricks()["avif-another-sequence"])
