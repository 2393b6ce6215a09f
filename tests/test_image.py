"""Single images: what is uploaded and what is at an address, in process; tests/test_image_server.py has gunicorn."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import tempfile
import time
import zipfile
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from falcon.testing import create_environ

from falconimg import formats, parameters
from falconimg.formats import FORMATS
from falconimg.resources import image
from falconimg.signing import sign
from falconimg.stores import answer
from falconimg.stores.files import Files
from tests import pictures
from tests.conftest import Result, Serve, Server, decoded, encoded, noise, quadrants

PICTURE = noise(6, 8)
FILE = encoded(PICTURE)
TOKEN = "a-token-of-enough-length"  # noqa: S105  (of this test alone)


def post(server: Server, query: str = "", body: bytes = FILE, route: str = "/v1/image", **headers: str) -> Result:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.client.simulate_post(route, query_string=query, body=body, headers=named)


def get(server: Server, path: str, query: str = "", method: str = "GET", **headers: str) -> Result:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.client.simulate_request(method, f"/v1/image/{path}", query_string=query, headers=named)


def part(data: bytes, disposition: str | bytes = 'name="file"; filename="a.png"') -> bytes:
    said = disposition.encode() if isinstance(disposition, str) else disposition
    return b"--edge\r\nContent-Disposition: form-data; " + said + b"\r\nContent-Type: x/y\r\n\r\n" + data + b"\r\n"


def form(
    server: Server, *parts: bytes, query: str = "", end: bytes = b"--edge--\r\n", route: str = "/v1/image"
) -> Result:
    return post(server, query, b"".join(parts) + end, route, Content_Type="multipart/form-data; boundary=edge")


def named(name: str, data: bytes = FILE) -> bytes:
    return part(data, f'name="file"; filename="{name}"')


def zipped(result: Result) -> dict[str, bytes]:
    """The entries of the archive of an answer, in their order, once unzip has found nothing wrong with it."""
    assert result.headers["Content-Type"] == "application/zip"
    assert int(result.headers["Content-Length"]) == len(result.content)
    with zipfile.ZipFile(io.BytesIO(result.content)) as archive:
        assert archive.testzip() is None
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        return {info.filename: archive.read(info) for info in archive.infolist()}


def problem(result: Result, status: int, type_: str) -> dict[str, Any]:
    document: dict[str, Any] = result.json
    assert (result.status_code, document["type"]) == (status, type_), result.text
    assert result.headers["Content-Type"] == "application/problem+json"
    assert result.headers["Cache-Control"] == "no-store"
    assert "ETag" not in result.headers
    return document


def pointers(result: Result) -> list[str]:
    return [place["pointer"] for place in problem(result, 422, "/problems/request")["errors"]]


def given_back(server: Server) -> bool:
    """Whether all memory that was asked for is free again."""
    budgets = server.pipeline.documents, server.pipeline.budget
    return all(budget.free == budget.size for budget in budgets)


# Uploads: the result


def test_the_result_of_a_picture_is_the_answer(server: Server) -> None:
    result = post(server, "op=flip=h&format=png")
    assert result.status_code == 200
    assert np.array_equal(decoded(result.content), PICTURE[:, ::-1])
    assert result.headers["Content-Type"] == "image/png"
    assert result.headers["Content-Length"] == str(len(result.content))
    assert (result.headers["Image-Width"], result.headers["Image-Height"]) == ("8", "6")
    assert result.headers["Content-Disposition"] == 'inline; filename="image.png"'
    assert result.headers["Cache-Control"] == "no-store"
    assert "Falconimg-Notes" not in result.headers
    assert given_back(server)


def test_operations_are_done_in_the_order_of_the_query(server: Server) -> None:
    one = post(server, "op=crop=4x3%2B0%2B0&op=rotate=90")
    other = post(server, "op=rotate=90&op=crop=4x3%2B0%2B0")
    assert np.array_equal(decoded(one.content), np.rot90(PICTURE[:3, :4], -1))
    assert np.array_equal(decoded(other.content), np.rot90(PICTURE, -1)[:3, :4])


def test_a_plus_of_a_crop_may_stand_as_it_is(server: Server) -> None:
    assert np.array_equal(decoded(post(server, "op=crop=3x2+4+1").content), PICTURE[1:3, 4:7])


def test_sides_are_those_of_the_result(server: Server) -> None:
    result = post(server, "op=resize=3x5")
    assert (result.headers["Image-Width"], result.headers["Image-Height"]) == ("3", "5")
    assert decoded(result.content).shape == (5, 3, 3)


@pytest.mark.parametrize(
    "media_type",
    [
        None,
        "image/jpeg",
        "text/html",
        "application/x-www-form-urlencoded",
        "nonsense",
        ";;;",
        "application/json",
        "multipart/mixed; boundary=a",
    ],
)
def test_any_content_type_of_the_body_is_taken(server: Server, media_type: str | None) -> None:
    headers: dict[str, Any] = {} if media_type is None else {"Content_Type": media_type}
    assert np.array_equal(decoded(post(server, **headers).content), PICTURE)


@pytest.mark.parametrize("name", list(FORMATS))
def test_without_a_format_the_result_has_that_of_the_source(server: Server, name: str) -> None:
    pixels = pictures.gradient(6, 8, 1 if name == "pgm" else 3)
    source = pictures.encoded(name, pixels)
    result = post(server, "op=flip=h", source)
    assert result.status_code == 200
    found = formats.probe(result.content)
    assert found.format == formats.probe(source).format
    assert result.headers["Content-Type"] == FORMATS[found.format].media_type
    assert result.headers["Content-Disposition"] == f'inline; filename="image{FORMATS[found.format].extensions[0]}"'
    assert (
        pictures.psnr(formats.decode(result.content, found), formats.decode(source, formats.probe(source))[:, ::-1])
        > 30
    )


@pytest.mark.parametrize("name", list(FORMATS))
def test_each_format_can_be_asked_for(server: Server, name: str) -> None:
    result = post(server, f"format={name}&op=gray" if name == "pgm" else f"format={name}", encoded(noise(6, 8)))
    assert result.status_code == 200
    assert result.headers["Content-Type"] == FORMATS[name].media_type
    assert FORMATS[name].sniff(result.content[:32])


def test_the_options_of_the_result_are_heeded(server: Server) -> None:
    low, high = (len(post(server, f"format=jpeg&quality={quality}").content) for quality in (5, 95))
    assert low < high
    clear = encoded(np.zeros((6, 8, 4), np.uint8))
    red = post(server, "format=ppm&background=%23ff0000", clear)
    assert decoded(red.content)[0, 0].tolist() == [0, 0, 255]
    exif = pictures.by_pillow("jpeg", PICTURE, exif=b"Exif\0\0" + pictures.exif_block())
    kept = [pictures.info_by_pillow(post(server, query, exif).content).exif for query in ("", "metadata=keep")]
    assert kept[0] is None
    assert kept[1]
    photograph = pictures.by_pillow("jpeg", pictures.gradient(400, 400))
    approximate, exact = (post(server, f"op=resize=0.25&{option}", photograph) for option in ("", "precise"))
    assert approximate.content != exact.content


def test_what_went_otherwise_than_asked_is_in_a_header(server: Server) -> None:
    result = post(server, "op=gray&op=blur=4", FILE)
    assert json.loads(result.headers["Falconimg-Notes"]) == [{"pointer": "/op/1", "detail": "kernel 4 is even, 5 used"}]
    lost = post(server, "format=jpeg", encoded(noise(6, 8, 4)))
    assert [note["pointer"] for note in json.loads(lost.headers["Falconimg-Notes"])] == ["/file/0"]


def test_notes_that_no_header_holds_are_left_out_from_the_end(server: Server) -> None:
    result = post(server, "&".join(["op=blur=4"] * 60), FILE)
    notes = json.loads(result.headers["Falconimg-Notes"])
    assert len(result.headers["Falconimg-Notes"]) <= 2000
    assert [note["pointer"] for note in notes] == [f"/op/{n}" for n in range(len(notes))]
    assert 20 < len(notes) < 60


# Uploads: several results


def test_several_results_are_a_zip_with_the_names_and_the_order_of_files_on_disk(server: Server) -> None:
    server.put("in/image.png", data=FILE)
    server.process([{"input": "in/image.png", "output": "out/image.png"}], operations=["split"])
    result = post(server, "op=split")
    found = zipped(result)
    assert list(found) == ["image_1.png", "image_2.png", "image_3.png", "image_4.png"]
    for (name, data), quadrant in zip(found.items(), quadrants(PICTURE), strict=True):
        assert np.array_equal(decoded(data), quadrant)
        assert data == server.tree()[f"out/{name}"]
    assert result.headers["Content-Disposition"] == 'inline; filename="image.zip"'
    assert "Image-Width" not in result.headers


def test_equal_results_make_equal_archives(server: Server) -> None:
    one, other = (post(server, "op=split=3x2").content for _ in range(2))
    assert one == other
    with zipfile.ZipFile(io.BytesIO(one)) as archive:  # no entry has the time of day
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_another_program_finds_nothing_wrong_with_the_zip(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(form(server, named("grün.png"), named("b.png"), query="op=split").content)
    said = subprocess.run(["unzip", "-t", path], capture_output=True, text=True, check=False)  # noqa: S607
    assert said.returncode == 0, said.stdout
    assert said.stdout.count("OK") == 8


def test_files_of_a_form_are_one_zip_in_their_order(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    others = {name: noise(6, 8, seed=seed) for seed, name in enumerate("cab")}
    real = formats.load

    def load(data: bytes, *more: Any) -> Any:
        time.sleep(0.3 * (data == encoded(others["c"])))  # the first is ready last
        return real(data, *more)

    monkeypatch.setattr(formats, "load", load)
    parts = [named(f"{name}.png", encoded(other)) for name, other in others.items()]
    found = zipped(form(server, *parts, query="op=flip=v"))
    assert list(found) == ["c.png", "a.png", "b.png"]
    for name, other in others.items():
        assert np.array_equal(decoded(found[f"{name}.png"]), other[::-1])


def test_one_file_of_a_form_is_answered_as_it_is_under_its_own_name(server: Server) -> None:
    result = form(server, named("grey cat.png"), query="op=gray&format=webp")
    assert result.headers["Content-Type"] == "image/webp"
    assert result.headers["Content-Disposition"] == 'inline; filename="grey cat.webp"'


def test_a_file_of_a_form_needs_no_name(server: Server) -> None:
    result = form(server, part(FILE, 'name="file"'))
    assert result.headers["Content-Disposition"] == 'inline; filename="image.png"'
    empty = form(server, part(FILE, 'name="file"; filename=""'))
    assert empty.headers["Content-Disposition"] == 'inline; filename="image.png"'


def test_names_in_braces_are_no_templates(server: Server) -> None:
    assert list(zipped(form(server, named("a{index}.png"), named("{b.png")))) == ["a{index}.png", "{b.png"]


def test_some_that_fail_are_told_of_in_the_zip_of_the_others(server: Server) -> None:
    result = form(server, named("a.png"), named("b.png", b"no picture"), named("c.png", FILE[:50]))
    assert result.status_code == 207
    assert result.headers["Falconimg-Failed"] == "2"
    found = zipped(result)
    assert list(found) == ["a.png", "report.json"]
    assert np.array_equal(decoded(found["a.png"]), PICTURE)
    report = json.loads(found["report.json"])
    assert (report["status"], report["done"], report["failed"]) == ("partial", 1, 2)
    assert [entry["input"] for entry in report["images"]] == ["a.png", "b.png", "c.png"]
    assert [entry.get("error", {}).get("type") for entry in report["images"]] == [
        None, "/problems/unsupported", "/problems/damaged",
    ]  # fmt: skip


def test_where_all_of_several_fail_the_answer_is_their_report(server: Server) -> None:
    result = form(server, named("a.png", b"nothing"), named("b.png", b"nothing"))
    assert result.status_code == 422
    assert result.headers["Content-Type"] == "application/json"
    assert (result.json["status"], result.json["failed"]) == ("failed", 2)
    assert given_back(server)


def test_results_are_not_written_below_the_roots(server: Server) -> None:
    server.put("in/a.png", data=FILE)
    before = server.tree()
    assert post(server, "op=split").status_code == 200
    assert form(server, named("a.png"), named("b.png")).status_code == 200
    assert get(server, "in/a.png", "op=split").status_code == 200
    assert post(server, "op=crop=1x1%2B50%2B50").status_code == 422
    assert server.tree() == before


def test_large_results_wait_in_a_file_without_a_name(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "IN_MEMORY", 10_000)
    pixels = noise(100, 100)
    result = post(server, "op=split", encoded(pixels))
    for data, quadrant in zip(zipped(result).values(), quadrants(pixels), strict=True):
        assert np.array_equal(decoded(data), quadrant)
    assert given_back(server)


@pytest.mark.parametrize("method", ["POST", "GET", "HEAD"])
def test_a_large_result_waits_in_a_file_too_and_not_in_memory(
    server: Server, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(answer, "IN_MEMORY", 10_000)
    pixels = noise(100, 100)
    server.put("in/a.png", pixels)
    path = "/v1/image" if method == "POST" else "/v1/image/in/a.png"
    before = unnamed()
    chunks: Any = asked(server, environment("op=flip=h", encoded(pixels) if method == "POST" else b"", method, path))[1]
    assert unnamed() == before + (method != "HEAD")
    content = b"".join(chunks)
    getattr(chunks, "close", list)()
    assert unnamed() == before
    assert given_back(server)
    if method == "HEAD":
        assert content == b""
        whole, head = (get(server, "in/a.png", "op=flip=h", way) for way in ("GET", "HEAD"))
        assert head.headers["Content-Length"] == whole.headers["Content-Length"] == str(len(whole.content))
    else:
        assert np.array_equal(decoded(content), pixels[:, ::-1])


def test_a_disk_without_room_for_the_results_is_an_error_that_says_so(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.SpooledTemporaryFile", lambda size: Full())
    assert "No space left" in problem(post(server, "op=split"), 507, "/problems/write")["detail"]
    assert given_back(server)


def environment(query: str, body: bytes, method: str = "POST", path: str = "/v1/image") -> dict[str, Any]:
    return create_environ(path, query_string=query, method=method, headers={"Host": "localhost"}, body=body)


def asked(server: Server, environ: dict[str, Any]) -> tuple[str, Any]:
    """(status, body), as a server gets them."""
    said: list[str] = []
    start: Any = lambda status, *_: said.append(status)  # noqa: E731  (mypy knows the type of a function)
    chunks = server.app(environ, start)
    return said[0], chunks


@pytest.mark.parametrize("pieces", [0, 1, 2])
def test_a_zip_that_is_not_read_to_its_end_leaves_no_file_open_and_no_memory_taken(
    server: Server, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer, "IN_MEMORY", 1000)
    body = encoded(noise(300, 300))
    before = unnamed()
    chunks: Any = asked(server, environment("op=split", body))[1]
    for _ in range(pieces):
        assert next(chunks)
    assert unnamed() == before + 1
    assert not given_back(server)
    chunks.close()
    assert unnamed() == before
    assert given_back(server)


def unnamed() -> int:
    """How many files without a name this process has open."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found += str(link.readlink()).startswith(f"{tempfile.gettempdir()}/#")
    return found


# Uploads: names of files


HOSTILE = ['a"; filename="b.exe', "a\\..\\b", "../../etc/passwd", "/etc/passwd", "..", "a\x1b[31mb", "\u202etxt.exe"]


def disposition(result: Result) -> str:
    """The name that a client takes of the header, once nothing in it can be taken for another."""
    text = result.headers["Content-Disposition"]
    match = re.fullmatch(
        r"""inline; filename=("[^"\\/\x00-\x1f\x7f]*"|[\w.]+(; filename\*=UTF-8''[\w.%~-]+))""", text, re.ASCII
    )
    assert match, text
    return match[1].strip('"') if not match[2] else match[2].partition("''")[2]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_of_a_file_does_no_harm(server: Server, name: str) -> None:
    written = name.replace("\\", "\\\\").replace('"', '\\"')
    found = disposition(form(server, named(written)))
    assert found.endswith(".png")
    assert not found.startswith("..")
    for entry in zipped(form(server, named(written), query="op=split")):
        assert not {"", ".", ".."} & set(entry.split("/"))
        assert "\\" not in entry
        assert entry.isprintable()


@pytest.mark.parametrize("name", [*HOSTILE, "a\r\nSet-Cookie: b=c", "a" * 200, "\u00fc" * 200])
def test_a_hostile_name_in_the_query_does_no_harm(server: Server, name: str) -> None:
    server.put("in/a.png", data=FILE)
    query = parameters.query([("filename", name)])
    if name == "..":
        assert pointers(post(server, query)) == ["/filename"]
        return
    for result in (post(server, query), get(server, "in/a.png", query)):
        assert result.status_code == 200
        assert disposition(result)
        assert "Set-Cookie" not in result.headers


def test_a_hostile_name_on_the_disk_does_no_harm(server: Server) -> None:
    for name in ('a"b', "a\r\nSet-Cookie: b=c", "a\\b", "a;b", " "):
        server.put(f"{name}.png", data=FILE)
        result = get(server, quote(f"{name}.png", ""))
        assert result.status_code == 200
        assert disposition(result)
        assert "Set-Cookie" not in result.headers


def test_a_name_beyond_ascii_is_said_as_rfc_6266_has_it(server: Server) -> None:
    result = form(server, named("grün 猫.png"), query="format=webp")
    ascii_only, _, whole = result.headers["Content-Disposition"].partition("; filename*=UTF-8''")
    assert re.fullmatch(r"inline; filename=gr[\w.]+\.webp", ascii_only, re.ASCII)
    assert whole == "gr%C3%BCn%20%E7%8C%AB.webp"


def test_a_name_longer_than_a_disk_takes_is_refused(server: Server) -> None:
    result = form(server, named("a" * 300 + ".png"))
    assert result.status_code == 422
    assert "255" in result.json["detail"]


def test_the_answer_s_name_and_whether_it_is_saved_can_be_said(server: Server) -> None:
    assert post(server, "download").headers["Content-Disposition"] == 'attachment; filename="image.png"'
    assert post(server, "download=0").headers["Content-Disposition"] == 'inline; filename="image.png"'
    both = post(server, "download&filename=my+cat.png")
    assert both.headers["Content-Disposition"] == 'attachment; filename="my cat.png"'
    several = post(server, "op=split&filename=parts.zip")
    assert several.headers["Content-Disposition"] == 'inline; filename="parts.zip"'


# Uploads: bad input


def test_an_empty_body_is_refused(server: Server) -> None:
    assert "empty body" in problem(post(server, body=b""), 422, "/problems/request")["detail"]


@pytest.mark.parametrize("route", ["/v1/image", "/v1/info"])
@pytest.mark.parametrize("body", [b"x", b"hello", b"<svg/>", bytes(1000), b"%PDF-1.7", b"PK\3\4" + bytes(30)])
def test_what_is_no_picture_is_unsupported(server: Server, body: bytes, route: str) -> None:
    assert problem(post(server, "", body, route), 415, "/problems/unsupported")


@pytest.mark.parametrize(
    ("body", "query", "status", "type_"),
    [
        (FILE[:-20], "", 422, "/problems/damaged"),
        (FILE, "op=crop=1x1%2B50%2B50", 422, "/problems/operation"),
        (FILE, "op=resize=100x100", 413, "/problems/too-large"),
        (encoded(noise(80, 80)), "", 413, "/problems/too-large"),
        (FILE, "op=split=7x1", 422, "/problems/operation"),
    ],
)
def test_a_single_picture_that_fails_has_its_own_status(
    serve: Serve, body: bytes, query: str, status: int, type_: str
) -> None:
    server = serve(max_pixels=5000)
    assert problem(post(server, query, body), status, type_)["detail"]
    assert problem(form(server, named("a.png", body), query=query), status, type_)
    server.put("in/a.png", data=body)
    assert problem(get(server, "in/a.png", query), status, type_)
    assert given_back(server)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("op=gray&op=sharpen", ["/op/1"]),
        ("op=", ["/op/0"]),
        ("op=resize=0.01&op=gray&op=blur=-1", ["/op/0", "/op/2"]),
        ("op=resize=NaN", ["/op/0"]),
        ("op=gray&" * 20 + "op=" + "x" * 2000, ["/op/20"]),
        ("quality=0", ["/quality"]),
        ("quality=101", ["/quality"]),
        ("quality=-1", ["/quality"]),
        ("metadata=all", ["/metadata"]),
        ("background=nocolour", ["/background"]),
        ("format=heic", ["/format"]),
        ("width=5", [""]),
        ("op=gray&" * 1000, ["/op"]),
        ("dry_run=maybe", ["/dry_run"]),
    ],
)
def test_a_fault_in_the_query_is_refused_at_its_place(server: Server, query: str, expected: list[str]) -> None:
    assert pointers(post(server, query)) == expected
    assert pointers(form(server, named("a.png"), named("b.png"), query=query)) == expected
    if "dry_run" not in query:
        server.put("in/a.png", data=FILE)
        assert pointers(get(server, "in/a.png", query)) == expected


def test_a_thousand_operations_are_refused_with_the_setting_that_bounds_them(server: Server) -> None:
    place = problem(post(server, "op=gray&" * 1000), 422, "/problems/request")["errors"][0]
    assert "FALCONIMG_MAX_OPERATIONS" in place["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--edge--\r\n",
        b"no form at all",
        part(FILE),
        part(FILE) + b"--edge",
        part(FILE)[:-30],
        b"--edge\r\nContent-Disposition: form-data",
        b"--edge\r\nContent-Disposition: form-data; name=file\r\n" + b"x" * 20_000,
        b"--edge\r\n\r\n" + FILE + b"\r\n--edge--\r\n",
        part(FILE, b'name="file"; filename="\xff\xfe.png"') + b"--edge--\r\n",
        part(FILE, b"name=\"file\"; filename*=no-such-charset''a") + b"--edge--\r\n",
        part(FILE, b"name=\"file\"; filename*=utf-8''%ff") + b"--edge--\r\n",
        part(FILE, b'name="\xff"') + b"--edge--\r\n",
    ],
    ids=range(13),
)
def test_a_form_with_a_fault_is_refused(server: Server, body: bytes) -> None:
    for route in ("/v1/image", "/v1/info"):
        problem(form(server, body, end=b"", route=route), 422, "/problems/request")
    assert given_back(server)


@pytest.mark.parametrize("boundary", ["", "; boundary=", "; b=1", f"; boundary={'x' * 300}", "; boundary=\xe9"])
def test_a_form_without_a_good_boundary_is_refused(server: Server, boundary: str) -> None:
    result = post(server, "", part(FILE) + b"--edge--\r\n", Content_Type=f"Multipart/Form-Data{boundary}")
    assert "None" not in problem(result, 422, "/problems/request")["detail"]


@pytest.mark.parametrize("name", ["image", "File", "files", ""])
def test_another_field_than_file_is_refused(server: Server, name: str) -> None:
    result = form(server, part(FILE), part(FILE, f'name="{name}"; filename="b.png"'))
    assert "file" in problem(result, 422, "/problems/request")["detail"]


@pytest.mark.parametrize(
    ("one", "other"), [("a.png", "a.png"), ("x/a.png", "x\\\\a.png"), ("../a.png", "a.png"), ("image", "")]
)
def test_two_files_of_one_name_are_refused(server: Server, one: str, other: str) -> None:
    result = form(server, named(one), named(other))
    assert "twice" in problem(result, 422, "/problems/request")["detail"]


def test_two_files_that_would_have_one_result_s_name_are_refused(server: Server) -> None:
    jpeg = encoded(PICTURE, ".jpg")
    result = form(server, named("a.png"), named("a.jpg", jpeg), query="format=webp")
    assert pointers(result) == ["/file/1"]
    assert "/images" not in result.json["errors"][0]["detail"]
    assert list(zipped(form(server, named("a.png"), named("a.jpg", jpeg)))) == ["a.png", "a.jpg"]


def test_a_result_with_another_s_name_that_only_the_pictures_tell_fails_alone(server: Server) -> None:
    result = form(server, named("a.png"), named("a_1.png", encoded(noise(1, 1))), query="op=tile=4")
    assert result.status_code == 207
    found = zipped(result)
    assert list(found) == ["a_1.png", "a_2.png", "a_3.png", "a_4.png", "report.json"]
    assert np.array_equal(decoded(found["a_1.png"]), PICTURE[:4, :4])
    assert json.loads(found["report.json"])["images"][1]["error"]["type"] == "/problems/conflict"


def test_a_form_has_as_many_files_as_a_request_may_have_images(serve: Serve) -> None:
    server = serve(max_images=3)
    files = [named(f"{n}.png") for n in range(4)]
    assert len(zipped(form(server, *files[:3]))) == 3
    wanted = "expected at most 3 files (FALCONIMG_MAX_IMAGES), came more"
    assert problem(form(server, *files), 422, "/problems/request")["detail"] == wanted


def test_a_coded_body_is_refused(server: Server) -> None:
    assert problem(post(server, Content_Encoding="gzip"), 415, "/problems/media-type")


class Unread:
    def read(self, size: int = -1) -> bytes:
        raise AssertionError("the body was read")


@pytest.mark.parametrize("route", ["/v1/image", "/v1/info"])
def test_a_body_over_the_limit_is_refused_by_its_length_unread(serve: Serve, route: str) -> None:
    server = serve(max_file=1000)
    environ = environment("", b"", path=route) | {"CONTENT_LENGTH": "1001", "wsgi.input": Unread()}
    status, chunks = asked(server, environ)
    assert status.startswith("413")
    assert b"FALCONIMG_MAX_FILE" in b"".join(chunks)


def test_a_body_of_unknown_length_is_read_up_to_the_limit(serve: Serve) -> None:
    server = serve(max_file=100_000)
    read = 0

    class Endless:
        def read(self, size: int = -1) -> bytes:
            nonlocal read
            read += size
            return bytes(size)

    environ = environment("", b"") | {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input": Endless()}
    environ.pop("CONTENT_LENGTH", None)
    status, chunks = asked(server, environ)
    assert status.startswith("413")
    assert b"FALCONIMG_MAX_FILE" in b"".join(chunks)
    assert read == 100_001


def test_an_upload_for_which_there_is_no_memory_in_time_is_asked_to_come_again(serve: Serve) -> None:
    server = serve(memory=100 * 10**6, wait_seconds=0.2)
    body = encoded(noise(400, 400))
    documents = server.pipeline.documents
    taken = documents.ask(documents.size - 1000)
    result = post(server, "", body)
    assert problem(result, 503, "/problems/busy")
    assert result.headers["Retry-After"]
    taken.give_back()
    assert post(server, "", body).status_code == 200
    assert given_back(server)


def test_an_upload_is_at_most_what_the_memory_allows(serve: Serve) -> None:
    server = serve(memory=32 * 50_000)
    assert server.pipeline.settings.max_upload == 50_000
    assert "FALCONIMG_MEMORY" in problem(post(server, "", bytes(50_001)), 413, "/problems/body-too-large")["detail"]
    assert problem(post(server, "", bytes(50_000)), 415, "/problems/unsupported")


# Dry runs


def test_a_dry_run_says_what_there_would_be_and_makes_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "load", lambda *_: pytest.fail("a picture was decoded"))
    result = post(server, "op=split&op=resize=2&dry_run&format=webp")
    assert (result.status_code, result.headers["Content-Type"]) == (200, "application/json")
    assert result.json["images"][0]["outputs"] == [
        {"path": f"image_{n}.webp", "width": 8, "height": 6, "format": "webp"} for n in range(1, 5)
    ]
    wide = post(server, "op=resize=60000x&dry_run")
    assert problem(wide, 413, "/problems/too-large")
    assert given_back(server)


# Negotiation


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("image/avif,image/webp,*/*;q=0.8", "image/avif"),
        ("image/webp,*/*", "image/webp"),
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("image/avif;q=0,image/webp;q=0.1", "image/webp"),
        (None, "image/png"),
    ],
)
def test_the_format_may_be_the_client_s_choice(server: Server, accept: str | None, expected: str) -> None:
    server.put("in/a.png", data=FILE)
    headers: dict[str, Any] = {} if accept is None else {"Accept": accept}
    for result in (post(server, "format=auto", **headers), get(server, "in/a.png", "format=auto", **headers)):
        assert result.headers["Content-Type"] == expected
        assert result.headers["Vary"] == "Accept"
    for result in (post(server, "format=png", **headers), get(server, "in/a.png", **headers)):
        assert result.headers["Content-Type"] == "image/png"
        assert "Vary" not in result.headers


def test_a_picture_that_the_client_s_favourite_cannot_hold_is_sent_as_another(server: Server) -> None:
    wide = encoded(noise(4, 16384), ".jpg")
    result = server.client.simulate_post(
        "/v1/image", body=wide, params={"format": "auto"}, headers={"Accept": "image/webp"}
    )
    assert (result.status_code, result.headers["Content-Type"], result.headers["Image-Width"]) == (
        200,
        "image/jpeg",
        "16384",
    )


def test_of_several_files_those_are_sent_as_another_that_the_favourite_cannot_hold(server: Server) -> None:
    files = [
        named("wide.jpg", encoded(noise(4, 16384), ".jpg")),
        named("a.png"),
        named("b/wide.jpg", encoded(noise(4, 16390), ".jpg")),
    ]
    headers = {"Content-Type": "multipart/form-data; boundary=edge", "Accept": "image/webp"}
    body = b"".join(files) + b"--edge--\r\n"
    result = server.client.simulate_post("/v1/image", body=body, params={"format": "auto"}, headers=headers)
    assert "Falconimg-Failed" in result.headers  # the last has more than FALCONIMG_MAX_SIDE
    assert list(zipped(result)) == ["wide.jpg", "a.webp", "report.json"]


def test_what_no_browser_shows_is_sent_as_one_that_all_show(server: Server) -> None:
    opaque, clear = pictures.encoded("tiff", noise(6, 8)), pictures.encoded("tiff", noise(6, 8, 4))
    assert post(server, "format=auto", opaque).headers["Content-Type"] == "image/jpeg"
    assert post(server, "format=auto", clear).headers["Content-Type"] == "image/png"
    assert problem(post(server, "format=auto", b"no picture"), 415, "/problems/unsupported")


# Addresses


@pytest.fixture
def shelf(serve: Serve) -> Server:
    """A server with in/a.png."""
    server = serve()
    server.put("in/a.png", data=FILE)
    return server


def tag(server: Server, query: str = "", path: str = "in/a.png", **headers: str) -> str:
    result = get(server, path, query, **headers)
    assert result.status_code == 200
    return result.headers["ETag"]


def test_an_address_shows_what_is_made_of_a_file(shelf: Server) -> None:
    result = get(shelf, "in/a.png", "op=crop=3x2+4+1&op=flip=v")
    assert result.status_code == 200
    assert np.array_equal(decoded(result.content), PICTURE[1:3, 4:7][::-1])
    assert result.headers["Content-Disposition"] == 'inline; filename="a.png"'
    assert (result.headers["Image-Width"], result.headers["Image-Height"]) == ("3", "2")
    assert result.headers["Accept-Ranges"] == "none"
    assert result.headers["Cache-Control"] == "public, max-age=3600"
    assert re.fullmatch(r'"[0-9a-f]{32}"', result.headers["ETag"])
    assert given_back(shelf)


def test_several_results_of_an_address_are_a_zip(shelf: Server) -> None:
    found = zipped(get(shelf, "in/a.png", "op=split"))
    assert list(found) == [f"a_{n}.png" for n in range(1, 5)]
    for data, quadrant in zip(found.values(), quadrants(PICTURE), strict=True):
        assert np.array_equal(decoded(data), quadrant)


def test_the_etag_is_the_same_wherever_the_file_is_the_same(tmp_path: Path) -> None:
    tags = []
    for name in ("one", "two/deeper"):
        root = tmp_path / name
        root.mkdir(parents=True)
        server = Server(root, fsync=False)
        server.put("in/a.png", data=FILE)
        os.utime(root / "in/a.png", ns=(5, 1_700_000_000_123_456_789))
        tags.append([tag(server), tag(server, "op=split"), tag(server, "format=auto", Accept="image/webp")])
        server.pipeline.threads.close()
    assert tags[0] == tags[1]
    assert len(set(tags[0])) == 3


def test_the_etag_goes_by_path_time_and_size(shelf: Server) -> None:
    path = shelf.root / "in/a.png"
    other = encoded(noise(5, 8, seed=1))
    assert len(other) != len(FILE)
    at = 1_700_000_000_000_000_001
    os.utime(path, ns=(at, at))
    tags = [tag(shelf)]
    os.utime(path, ns=(at, at + 1))
    tags.append(tag(shelf))
    path.write_bytes(other)
    os.utime(path, ns=(at, at))
    tags.append(tag(shelf))
    shelf.put("in/b.png", data=FILE)
    os.utime(shelf.root / "in/b.png", ns=(at, at))
    tags.append(tag(shelf, path="in/b.png"))
    assert len(set(tags)) == 4
    assert tag(shelf, path="in%2Fb.png") == tag(shelf, path="./in/b.png") == tags[3]


def test_the_etag_goes_by_all_that_is_asked_for_and_by_its_order(shelf: Server) -> None:
    queries = [
        "", "op=gray", "op=split", "op=gray&op=flip=h", "op=flip=h&op=gray", "op=gray&op=gray", "op=gray&quality=80",
        "quality=80", "quality=81", "background=000", "metadata=keep", "metadata=strip", "precise", "format=webp",
        "format=png", "format=auto", "download", "filename=a.png", "filename=b.png", "download&filename=a.png",
    ]  # fmt: skip
    assert len({tag(shelf, query) for query in queries}) == len(queries)
    assert tag(shelf, "op=gray&quality=80") == tag(shelf, "quality=80&op=%67ray") == tag(shelf, "op=gray&quality=80&")
    accepts = ["*/*", "image/webp", "image/avif"]
    assert len({tag(shelf, "format=auto", Accept=accept) for accept in accepts}) == 3
    assert tag(shelf, "format=auto", Accept="image/webp") == tag(shelf, "format=auto", Accept="image/webp,*/*;q=0.1")
    assert tag(shelf, "", Accept="image/webp") == tag(shelf)


@pytest.mark.parametrize("name", ["jpeg_quality", "webp_quality", "avif_quality"])
def test_the_etag_goes_by_the_qualities_that_are_set(serve: Serve, shelf: Server, name: str) -> None:
    changed: dict[str, Any] = {name: 33}
    assert tag(serve(**changed)) != tag(shelf)


@pytest.mark.parametrize("name", ["falconimg", "opencv-python-headless", "simplejpeg", "deflate", "numpy", "pillow"])
def test_the_etag_goes_by_the_versions(serve: Serve, shelf: Server, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tag(shelf)
    monkeypatch.setattr(image, "version", lambda package: "0.0.1" if package == name else metadata.version(package))
    assert tag(serve()) != before


def test_who_has_it_is_told_so_and_nothing_is_read(shelf: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tag(shelf, "op=gray")
    monkeypatch.setattr(Files, "read", lambda *_: pytest.fail("the file was read"))
    monkeypatch.setattr(formats, "load", lambda *_: pytest.fail("the picture was decoded"))
    for given in (known, f"W/{known}", f'"x", {known}', f'"x",W/{known},"y"', f" {known} ", f'"a,b",{known}'):
        result = get(shelf, "in/a.png", "op=gray", If_None_Match=given)
        assert result.status_code == 304
        assert result.content == b""
        assert "Content-Length" not in result.headers
        assert "Content-Type" not in result.headers
        assert result.headers["ETag"] == known
        assert result.headers["Cache-Control"] == "public, max-age=3600"
    assert get(shelf, "in/a.png", "op=gray", "HEAD", If_None_Match=known).status_code == 304


def test_who_has_whatever_there_is_is_told_so_if_there_is_something(
    shelf: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shelf.root / "in/text.png").write_text("no picture")
    monkeypatch.setattr(formats, "load", lambda *_: pytest.fail("the picture was decoded"))
    for query in ("", "op=gray", "format=auto", "op=split"):
        result = get(shelf, "in/a.png", query, If_None_Match="*")
        assert (result.status_code, result.content) == (304, b"")
    assert get(shelf, "in/a.png", "op=gray&format=auto", If_None_Match="*").headers["Vary"] == "Accept"
    for query in ("op=none", "quality=0", "op=crop=1x1+900+900"):  # there is nothing that anybody could have
        assert get(shelf, "in/a.png", query, If_None_Match="*").status_code == 422
    assert problem(get(shelf, "in/text.png", If_None_Match="*"), 415, "/problems/unsupported")


@pytest.mark.parametrize(
    "given", ['"x"', "x", ",,,", "W/", '"', 'W/"', "\x00", '"*"', '"a","b" , W/"c"', "*,*", " ", '"' * 999, "é"]
)
def test_who_has_another_gets_it(shelf: Server, given: str) -> None:
    result = get(shelf, "in/a.png", If_None_Match=given)
    assert result.status_code == 200
    assert np.array_equal(decoded(result.content), PICTURE)


def test_who_had_it_before_it_changed_gets_the_new_one(shelf: Server) -> None:
    known = tag(shelf)
    shelf.put("in/a.png", noise(6, 8, seed=9))
    os.utime(shelf.root / "in/a.png", ns=(1, 1))
    result = get(shelf, "in/a.png", If_None_Match=known)
    assert result.status_code == 200
    assert np.array_equal(decoded(result.content), noise(6, 8, seed=9))


def test_a_missing_file_is_missing_whatever_the_client_has(shelf: Server) -> None:
    assert problem(get(shelf, "in/none.png", If_None_Match="*"), 404, "/problems/missing")


@pytest.mark.parametrize(
    "query", ["op=gray", "op=split", "format=auto", "download&op=split", "op=nonsense", "op=crop=1x1+90+90"]
)
@pytest.mark.parametrize("cache_mb", [0, 10])
def test_a_head_has_the_headers_of_a_get_and_no_body(serve: Serve, tmp_path: Path, query: str, cache_mb: int) -> None:
    (tmp_path / "cache").mkdir()
    server = serve(cache_mb=cache_mb, cache_dir=tmp_path / "cache")
    server.put("in/a.png", data=FILE)
    for _ in range(2):
        head, whole = (get(server, "in/a.png", query, method) for method in ("HEAD", "GET"))
        assert head.content == b""
        assert head.status_code == whole.status_code
        one, other = (
            {name: value for name, value in result.headers.items() if name not in VARYING} for result in (head, whole)
        )
        if whole.status_code == 200:
            assert one == other
            assert int(one["content-length"]) == len(whole.content)
        else:
            assert one.keys() == other.keys()
    assert given_back(server)


VARYING = ("x-request-id", "server-timing")


@pytest.mark.parametrize(
    ("settings", "headers", "expected"),
    [
        ({}, {}, "public, max-age=3600"),
        ({"max_age": 60}, {}, "public, max-age=60"),
        ({"max_age": 0}, {}, "no-cache"),
        ({"token": (TOKEN,)}, {"Authorization": f"Bearer {TOKEN}"}, "private, max-age=3600"),
        ({"token": (TOKEN,), "max_age": 0}, {"Authorization": f"Bearer {TOKEN}"}, "no-cache"),
    ],
)
def test_how_long_an_answer_may_be_kept_is_said_by_the_settings(
    serve: Serve, settings: dict[str, Any], headers: dict[str, str], expected: str
) -> None:
    server = serve(**settings)
    server.put("in/a.png", data=FILE)
    assert get(server, "in/a.png", **headers).headers["Cache-Control"] == expected


def test_an_answer_is_kept_no_longer_than_its_signature_holds(serve: Serve) -> None:
    key = "k" * 20
    server = serve(key=(key,), token=(TOKEN,))
    server.put("in/a.png", data=FILE)

    def control(seconds: int | None) -> str:
        expires = None if seconds is None else int(time.time()) + seconds
        query = sign("/v1/image/in/a.png", key, expires).partition("?")[2]
        return get(server, "in/a.png", query).headers["Cache-Control"]

    assert control(None) == control(10**6) == "public, max-age=3600"
    left = int(control(100).removeprefix("public, max-age="))
    assert 97 <= left <= 100


def test_a_range_is_not_offered_and_the_whole_is_sent(shelf: Server) -> None:
    result = get(shelf, "in/a.png", Range="bytes=0-9", If_Range=tag(shelf))
    assert result.status_code == 200
    assert result.headers["Accept-Ranges"] == "none"
    assert "Content-Range" not in result.headers
    assert np.array_equal(decoded(result.content), PICTURE)


@pytest.mark.parametrize("route", ["/v1/image/", "/v1/info/"])
@pytest.mark.parametrize(
    ("path", "status", "type_"),
    [
        ("in/none.png", 404, "/problems/missing"),
        ("none/a.png", 404, "/problems/missing"),
        ("in/a.png/b", 404, "/problems/missing"),
        ("../secret.png", 403, "/problems/outside-root"),
        ("in/../../secret.png", 403, "/problems/outside-root"),
        ("..%2Fsecret.png", 403, "/problems/outside-root"),
        ("%2e%2e/secret.png", 403, "/problems/outside-root"),
        ("/etc/passwd", 403, "/problems/outside-root"),
        ("link.png", 403, "/problems/outside-root"),
        ("way/a.png", 403, "/problems/outside-root"),
        ("in", 422, "/problems/unreadable"),
        ("in/", 422, "/problems/request"),
        ("", 422, "/problems/request"),
        ("in//a.png", 422, "/problems/request"),
        ("in/%00a.png", 422, "/problems/request"),
        ("in/./a.png", 422, "/problems/request"),
        ("a" * 300, 422, "/problems/request"),
        ("pipe", 422, "/problems/unreadable"),
        ("in/text.png", 415, "/problems/unsupported"),
        ("in/half.png", 422, "/problems/damaged"),
        ("in/empty.png", 422, "/problems/damaged"),
    ],
)
def test_a_path_that_leads_to_no_picture_gets_its_status(
    shelf: Server, route: str, path: str, status: int, type_: str
) -> None:
    outside = shelf.root.parent / "outside"
    outside.mkdir()
    (outside / "a.png").write_bytes(FILE)
    (shelf.root.parent / "secret.png").write_bytes(FILE)
    (shelf.root / "link.png").symlink_to(outside / "a.png")
    (shelf.root / "way").symlink_to(outside)
    os.mkfifo(shelf.root / "pipe")
    shelf.put("in/text.png", data=b"no picture")
    shelf.put("in/half.png", data=FILE[:20])
    shelf.put("in/empty.png", data=b"")
    result = shelf.client.simulate_get(f"{route}{path}")
    assert problem(result, status, type_)
    assert str(shelf.root) not in result.text


def test_a_path_may_be_written_in_percent_and_beyond_ascii(shelf: Server) -> None:
    for name in ("grün 猫.png", "a?b#c%d&e.png", "a+b.png", "50%25.png"):
        shelf.put(name, data=FILE)
        assert get(shelf, quote(name)).status_code == 200
    assert get(shelf, "%69n%2Fa.png").status_code == 200


def test_a_directory_that_is_a_zip_of_answers_is_not_listed(shelf: Server) -> None:
    assert shelf.client.simulate_get("/v1/image").status_code == 405


@pytest.mark.parametrize("query", ["format=png", "op=split&format=png"])
def test_what_was_made_of_a_file_that_changed_meanwhile_is_kept_by_nobody(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    (tmp_path / "cache").mkdir()
    server = serve(cache_mb=10, cache_dir=tmp_path / "cache")
    server.put("in/a.png", data=FILE)
    os.utime(server.root / "in/a.png", ns=(1, 1))
    real, reads = Files.read, 0

    def read(files: Files, name: str, limit: int) -> bytes:
        nonlocal reads
        data = real(files, name, limit)
        if name == "in/a.png":
            reads += 1
            new = server.root / "in/new.png"
            new.write_bytes(encoded(noise(6, 8, seed=7)))
            new.replace(server.root / "in/a.png")
        return data

    monkeypatch.setattr(Files, "read", read)
    result = get(server, "in/a.png", query)
    assert reads == 1
    assert result.status_code == 200
    assert "ETag" not in result.headers
    assert result.headers["Cache-Control"] == "no-store"
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    if query == "format=png":
        assert np.array_equal(decoded(result.content), PICTURE)


def test_a_file_that_goes_while_it_is_read_leaves_an_error_and_nothing_kept(
    shelf: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Files.read

    def read(files: Files, name: str, limit: int) -> bytes:
        data = real(files, name, limit)
        (shelf.root / "in/a.png").unlink()
        return data

    monkeypatch.setattr(Files, "read", read)
    assert problem(get(shelf, "in/a.png", "op=split&format=png"), 404, "/problems/missing")
    assert given_back(shelf)


# Information


@pytest.mark.parametrize("name", list(FORMATS))
def test_the_information_of_a_picture_is_that_of_its_header(
    server: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "load", lambda *_: pytest.fail("a picture was decoded"))
    data = pictures.encoded(name, pictures.gradient(6, 8, 1 if name == "pgm" else 3))
    server.put(f"in/a.{name}", data=data)
    uploaded = post(server, "", data, "/v1/info")
    addressed = server.client.simulate_get(f"/v1/info/in/a.{name}")
    as_form = form(server, named("a", data), route="/v1/info")
    assert uploaded.status_code == addressed.status_code == as_form.status_code == 200
    assert uploaded.json == addressed.json == as_form.json
    assert (uploaded.json["width"], uploaded.json["height"], uploaded.json["bytes"]) == (8, 6, len(data))
    assert uploaded.json["format"] == formats.probe(data).format
    assert addressed.headers["Cache-Control"] == "no-cache"
    head = server.client.simulate_head(f"/v1/info/in/a.{name}")
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(addressed.content)))


def test_the_information_is_of_one_picture(server: Server) -> None:
    result = form(server, named("a.png"), named("b.png"), route="/v1/info")
    assert "came 2" in problem(result, 422, "/problems/request")["detail"]


def test_the_information_takes_no_parameters(shelf: Server) -> None:
    for result in (
        post(shelf, "op=gray", FILE, "/v1/info"),
        shelf.client.simulate_get("/v1/info/in/a.png", query_string="op=gray"),
    ):
        assert 'came "op"' in problem(result, 422, "/problems/request")["detail"]
    for signed in ("expires=9999999999", "signature=x"):  # where no key is set, a signed address is one all the same
        assert shelf.client.simulate_get("/v1/info/in/a.png", query_string=signed).status_code == 200


@pytest.mark.parametrize("path", ["/v1/info/in/a.png", "/v1/image/in/a.png"])
def test_a_file_is_read_only_with_memory_for_it(shelf: Server, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    free: list[int] = []
    real = Files.read

    def read(files: Files, name: str, limit: int) -> bytes:
        free.append(shelf.pipeline.budget.size - shelf.pipeline.budget.free)
        return real(files, name, limit)

    monkeypatch.setattr(Files, "read", read)
    assert shelf.client.simulate_get(path).status_code == 200
    assert free
    assert all(taken >= len(FILE) for taken in free)
    assert given_back(shelf)
