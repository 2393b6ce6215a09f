"""A request's document: what is read, what is refused and where, and the Job that it becomes."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st

from falconimg import formats, request
from falconimg import operations as operations_
from falconimg.errors import Forbidden, InvalidRequest, NotJson, Place, RequestProblem
from falconimg.job import Image, Job, Note
from falconimg.operations import OPERATIONS, Blur, Crop, Operation, Resize, Split
from falconimg.settings import Settings
from falconimg.stores.memory import Memory

SETTINGS = Settings()
STORE = Memory()


def process(*images: object, settings: Settings = SETTINGS, **more: object) -> Job:
    return request.process({"images": list(images), **more}, settings, STORE)


def items(*images: object, **more: object) -> Job:
    return request.items({"images": list(images), **more}, SETTINGS, STORE)


def image(output: str = "out.png", input_: str = "in.png", **more: object) -> dict[str, object]:
    return {"input": input_, "output": output, **more}


def operations(image: Image, rendition: int = 0) -> list[Operation]:
    return [step.operation for step in image.renditions[rendition].steps]


def refused(body: bytes, settings: Settings = SETTINGS) -> str:
    with pytest.raises(NotJson) as caught:
        request.document(body, settings)
    assert not caught.value.places
    assert caught.value.detail.isascii()
    assert len(caught.value.detail) < 200
    return caught.value.detail


def places(value: object, read: Any = request.process, size: int = 0) -> list[Place]:
    with pytest.raises((InvalidRequest, Forbidden)) as caught:
        read(value, SETTINGS, STORE, size)
    return list(caught.value.places)


# The document


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "expected a JSON document, came an empty body"),
        (b" \r\n\t", "expected a JSON document, came an empty body"),
        (b"{", "property name enclosed in double quotes at line 1, column 2"),
        (b"{'images': []}", "at line 1, column 2"),
        (b'{"images": [],}', "came "),
        (b"[1, 2] 3", "extra data at line 1, column 8"),
        (b"\n\n nul", "at line 3, column 2"),
        (b'{"a": "\x01"}', "invalid control character"),
        (b'"\\x41"', "escape"),
        (b"[01]", "at line 1, column 3"),
        (b"[.5]", "at line 1, column 2"),
        (b"[+1]", "at line 1, column 2"),
        (b"/* no */ 1", "at line 1, column 1"),
    ],
)
def test_what_is_not_json_is_refused_with_its_line_and_column(body: bytes, detail: str) -> None:
    assert detail in refused(body)


@pytest.mark.parametrize("body", [b'"\xff"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', '"\u00e9"'.encode("latin-1")])
def test_what_is_not_utf_8_is_refused_with_its_position(body: bytes) -> None:
    assert refused(body) == "expected UTF-8, came another byte at position 1"


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_another_unicode_coding_and_a_byte_order_mark_are_refused(coding: str) -> None:
    assert refused('{"images": []}'.encode(coding)).startswith("expected ")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_in_json_is_refused(text: str) -> None:
    assert refused(f'{{"quality": {text}}}'.encode()) == f"expected a number, came {text}"


@pytest.mark.parametrize("text", ["1e400", "-1e400", "1" * 40 + ".0", "0." + "1" * 39, "1" * 41, "-" + "1" * 40])
@pytest.mark.parametrize("before", ["", "0," * 20_000])
def test_numbers_that_are_too_large_or_too_long_are_refused(before: str, text: str) -> None:
    assert "number" in refused(f"[{before}{text}]".encode())


def test_a_number_of_a_million_digits_is_refused_quickly() -> None:
    begun = time.process_time()
    refused(b"[" + b"9" * 10**6 + b"]")
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("before", [0, 20_000])
def test_the_longest_numbers_are_read_exactly(before: int) -> None:
    for whole in (int("9" * 40), int("9" * 39), -7):
        text = f"[{'0,' * before}{whole}, 1.5, -0.0, 1E+2, -7]"
        assert request.document(text.encode(), SETTINGS)[before:] == [whole, 1.5, 0.0, 100.0, -7]


@pytest.mark.parametrize("body", [b'{"a": 1, "a": 1}', b'[{"b": [{"a": 1, "c": 2, "\\u0061": 2}]}]'])
def test_a_key_that_comes_twice_is_refused_by_its_name(body: bytes) -> None:
    assert refused(body) == 'expected each key once, came "a" twice'


def test_the_double_key_among_a_thousand_is_found_and_more_keys_are_refused() -> None:
    body = "{" + "".join(f'"{key}": 0, ' for key in range(999)) + '"998": 1}'
    assert refused(body.encode()) == 'expected each key once, came "998" twice'
    more = "{" + "".join(f'"{key}": 0, ' for key in range(1000)) + '"999": 1}'
    assert refused(more.encode()) == "expected at most 1000 keys in an object, came 1001"


def test_a_document_of_very_many_values_is_refused_before_it_is_read() -> None:
    assert request.document(b"[" + b"0," * 249_999 + b"0]", SETTINGS) == [0] * 250_000
    assert refused(b"[" + b"0," * 250_000 + b"NaN]") == (
        "expected at most 250000 commas and opening brackets (FALCONIMG_MAX_JSON_MARKS), came 250001"
    )


@pytest.mark.parametrize("inner", ["", "0", '"a"', '{"a": 0}'])
@pytest.mark.parametrize("levels", [32, 33])
def test_only_as_many_levels_as_the_limit_are_read(levels: int, inner: str) -> None:
    levels -= inner.startswith("{")
    body = b"[" * levels + inner.encode() + b"]" * levels
    if levels + inner.startswith("{") > 32:
        assert refused(body) == "expected at most 32 levels (FALCONIMG_MAX_JSON_DEPTH), came 33"
    else:
        assert request.document(body, SETTINGS) == json.loads(body)


@pytest.mark.parametrize(("head", "tail"), [("[", "]"), ('{"a":', "}"), ("[", "")])
def test_a_hundred_thousand_levels_are_refused_quickly(head: str, tail: str) -> None:
    begun = time.process_time()
    refused((head * 100_000 + "0" * bool(tail) + tail * 100_000).encode())
    assert time.process_time() - begun < 2


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)  # fmt: skip
@tries(deadline=None)
def test_a_json_document_is_read_as_what_it_says(value: Any) -> None:
    assert request.document(json.dumps(value).encode(), SETTINGS) == value
    assert request.document(json.dumps(value, ensure_ascii=False).encode(), SETTINGS) == value


@given(st.binary() | st.text('[]{}:,"\\ue+-.0123456789 ntfalsr').map(str.encode))
@tries(deadline=None)
def test_bytes_are_a_document_or_refused(body: bytes) -> None:
    try:
        assert request.document(body, SETTINGS) == json.loads(body.decode())
    except NotJson as problem:
        assert problem.status == 400  # noqa: PT017  (either is right)


# Any document


SCALARS = st.none() | st.booleans() | st.integers(-2000, 2000) | st.floats() | st.text(max_size=8)
PATHS = st.sampled_from(
    ["a.png", "b.png", "a_1.png", "out/{stem}_{index}.jpg", "{dir}/{width}x{height}.webp", "{{}}.png", "{", "}.png",
     "{nothing}.png", "{0}.png", "{stem!r}.png", "{stem:>9}.png", "{stem.upper}.png", "{}.png", "../a.png",
     "/etc/passwd", "/a.png", "./a.png", "a//b.png", "a/./b.png", "a\0.png", "\ud800.png", "\u00e9.png", "", ".png",
     "a", "a.png/", "a.exe", "." * 300 + ".png", "a/" * 3000 + "a.png"]
) | st.text(max_size=12)  # fmt: skip
STEPS = (
    st.sampled_from(
        ["split", "split=2x2", "splitQuadrants=None", "split=64x64", "split=99x1", "tile=9", "tile=0", "blur=24",
         "blur=9999", "blur=x", "resize=0.5", "resize=-1", "resize=3x", "resize=2x2,fit:cover,gravity:n", "crop=1x1",
         "rotate=90", "rotate=1", "flip=h", "gray", "gray=1", "string", "", "="]
    )
    | st.text(max_size=8)
    | st.dictionaries(st.sampled_from(["op", "factor", "kernel", "rows", "columns", "size", "x"]), SCALARS, max_size=3)
    | st.fixed_dictionaries({"op": st.sampled_from(list(OPERATIONS))}, optional={"factor": SCALARS, "kernel": SCALARS})
    | SCALARS
)  # fmt: skip
CHOICES = {
    "operations": st.lists(STEPS, max_size=3) | SCALARS,
    "quality": st.integers(1, 100) | SCALARS,
    "background": st.sampled_from(["white", "#fff", "00ff00", "#12345"]) | SCALARS,
    "metadata": st.sampled_from(["strip", "keep"]) | SCALARS,
    "other": SCALARS,
}
RENDITIONS = st.fixed_dictionaries({"output": PATHS}, optional=CHOICES)
IMAGES = st.fixed_dictionaries({"input": PATHS, "output": PATHS}, optional=CHOICES) | st.fixed_dictionaries(
    {"input": PATHS, "renditions": st.lists(RENDITIONS, max_size=3)}, optional=CHOICES
)
DOCUMENTS = (
    st.fixed_dictionaries(
        {"images": st.lists(IMAGES | SCALARS, max_size=4)},
        optional={
            **CHOICES,
            "if_exists": st.sampled_from(["overwrite", "skip", "error", "no"]),
            "on_error": st.sampled_from(["continue", "stop", 1]),
            "on_invalid": st.sampled_from(["refuse", "skip"]),
            "dry_run": SCALARS,
        },
    )
    | st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner), max_leaves=6)
    | st.dictionaries(st.sampled_from(["images", "operations"]), st.lists(SCALARS) | SCALARS)
)


@pytest.mark.parametrize("read", [request.process, request.items])
@given(value=DOCUMENTS, size=st.sampled_from([0, 10**6]))
@tries(deadline=None, max_examples=300)
def test_any_document_is_a_job_or_refused(read: Any, value: object, size: int) -> None:
    try:
        job = read(value, SETTINGS, STORE, size)
    except RequestProblem as problem:
        refusal = problem
    else:
        assert isinstance(job, Job)
        assert hash(job) == hash(read(value, SETTINGS, STORE, size))
        return
    assert refusal.status in (403, 422)
    assert 1 <= len(refusal.places) <= (1 if size else 10)
    for place in refusal.places:
        # an operation's missing name is looked for at its place
        assert _at(value, place.pointer.removesuffix("/op"))
        assert place.detail.isascii()
        assert len(place.detail) < 600


def _at(value: Any, pointer: str) -> bool:
    """Whether the pointer (RFC 6901) leads to something in the document."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        value = value[int(key)] if isinstance(value, list) else value[key]
    return True


# The job of /v1/process


def test_the_usual_request_is_a_job_of_its_images_in_order() -> None:
    job = process(image("a.png"), image("b.jpg", "dir/in.jpg"), operations=["blur=3"])
    assert [(i.index, i.input, i.key, i.pointer) for i in job.images] == [
        (0, "in.png", "/in.png", "/images/0"),
        (1, "dir/in.jpg", "/dir/in.jpg", "/images/1"),
    ]
    assert [i.renditions[0].format.name for i in job.images] == ["png", "jpeg"]
    assert (job.if_exists, job.stop_on_error, job.skip_invalid, job.dry_run, job.precise) == (
        "overwrite", False, False, False, False,
    )  # fmt: skip


def test_the_requests_switches_reach_the_job() -> None:
    job = process(image(), if_exists="skip", on_error="stop", on_invalid="skip", dry_run=True, precise=True)
    assert (job.if_exists, job.stop_on_error, job.skip_invalid, job.dry_run, job.precise) == (
        "skip", True, True, True, True,
    )  # fmt: skip


def test_an_images_own_operations_replace_the_requests() -> None:
    job = process(image("a.png"), image("b.png", operations=["resize=2"]), image("c.png", operations=[]),
                  operations=["blur=3", "split"])  # fmt: skip
    assert [operations(i) for i in job.images] == [[Blur(3), Split()], [Resize(2)], []]
    assert [step.pointer for step in job.images[0].renditions[0].steps] == ["/operations/0", "/operations/1"]
    assert [step.pointer for step in job.images[1].renditions[0].steps] == ["/images/1/operations/0"]


def test_a_renditions_operations_follow_the_images_or_the_requests() -> None:
    renditions = [{"output": "a.png", "operations": ["split"]}, {"output": "b.png"}]
    own = {"input": "in.png", "operations": ["resize=2"], "renditions": renditions}
    shared = {"input": "in.png", "renditions": [{"output": "c.png", "operations": ["split"]}]}
    job = process(own, shared, operations=["blur=3"])
    assert [operations(job.images[0], n) for n in (0, 1)] == [[Resize(2), Split()], [Resize(2)]]
    assert operations(job.images[1]) == [Blur(3), Split()]
    assert [step.pointer for step in job.images[0].renditions[0].steps] == [
        "/images/0/operations/0",
        "/images/0/renditions/0/operations/0",
    ]


def test_a_stem_that_renditions_share_is_one_step_and_not_two_alike() -> None:
    renditions = [{"output": "a.png"}, {"output": "b.png"}]
    job = process({"input": "in.png", "renditions": renditions}, operations=["blur=3"])
    first, second = job.images[0].renditions
    assert first.steps[0] == second.steps[0]


@pytest.mark.parametrize(
    ("step", "operation"),
    [({"op": "blur", "kernel": 25}, Blur(25)), ({"op": "split", "rows": 3, "columns": 2}, Split(3, 2))],
)
def test_a_step_may_be_an_object(step: object, operation: Operation) -> None:
    assert operations(process(image(), operations=[step]).images[0]) == [operation]


def test_the_nearest_quality_background_and_metadata_win() -> None:
    renditions = [
        {"output": "a.jpg"},
        {"output": "b.jpg", "quality": 3, "background": "#0000ff", "metadata": "strip"},
    ]
    job = process(
        image("c.jpg"),
        image("d.jpg", quality=2, background="0f0", metadata="keep"),
        {"input": "in.png", "quality": 2, "background": "0f0", "metadata": "keep", "renditions": renditions},
        quality=1, background="black", metadata="strip",
    )  # fmt: skip
    found = [[(r.quality, r.background, r.keep_metadata) for r in i.renditions] for i in job.images]
    near, middle, far = (3, (0, 0, 255), False), (2, (0, 255, 0), True), (1, (0, 0, 0), False)
    assert found == [[far], [middle], [middle, near]]


def test_without_a_quality_each_format_has_its_settings_and_the_background_is_white() -> None:
    own = Settings(jpeg_quality=71, webp_quality=62)
    job = process(image("a.jpg"), image("b.webp"), image("c.png"), settings=own)
    found = [(r.quality, r.background, r.keep_metadata) for i in job.images for r in i.renditions]
    assert found[:2] == [(71, (255, 255, 255), False), (62, (255, 255, 255), False)]


@pytest.mark.parametrize("extension", [e for form in formats.FORMATS.values() for e in form.extensions])
def test_every_extension_of_the_table_names_its_format_in_any_case(extension: str) -> None:
    for text in (extension, extension.upper(), extension.title()):
        form = process(image("out" + text)).images[0].renditions[0].format
        assert extension in form.extensions


@pytest.mark.parametrize(
    ("output", "input_", "parts", "numbered"),
    [
        ("out.png", "in.png", [("out.png", "")], False),
        ("{stem}.png", "a/b.c.jpg", [("b.c.png", "")], False),
        ("{stem}.{ext}", "a/b.jpg", [("b.jpg", "")], False),
        ("x/{dir}/{stem}.png", "a/b/c.jpg", [("x/a/b/c.png", "")], False),
        ("{dir}/{stem}_2.png", "c.jpg", [("c_2.png", "")], False),
        ("x/{dir}/{stem}.png", "c.jpg", [("x/c.png", "")], False),
        ("{stem}.png", "noextension", [("noextension.png", "")], False),
        ("{index}.png", "in.png", [("", "index"), (".png", "")], True),
        ("t/{row}-{col}.png", "in.png", [("t/", "row"), ("-", "col"), (".png", "")], True),
        ("{width}x{height}.png", "in.png", [("", "width"), ("x", "height"), (".png", "")], False),
        ("{stem}{index}.png", "a.jpg", [("a", "index"), (".png", "")], True),
        ("{index:03}.png", "a.jpg", [("", "index:03"), (".png", "")], True),
        ("{row:02}{width:05}.png", "a.jpg", [("", "row:02"), ("", "width:05"), (".png", "")], True),
        ("{{{stem}}}.png", "a.jpg", [("{a}.png", "")], False),
        ("{{index}}.png", "a.jpg", [("{index}.png", "")], False),
        ("{stem}.png", "{index}.jpg", [("{index}.png", "")], False),
    ],
)
def test_an_outputs_path_is_cut_at_its_fields(
    output: str, input_: str, parts: list[tuple[str, str]], numbered: bool
) -> None:
    template = process(image(output, input_)).images[0].renditions[0].output
    assert (list(template.parts), template.numbered) == (parts, numbered)


@pytest.mark.parametrize(
    "output",
    ["{.png", "}.png", "a}{.png", "{}.png", "{0}.png", "{name}.png", "{STEM}.png", "{ stem}.png", "{stem!r}.png",
     "{stem:>9}.png", "{stem:{width}}.png", "{stem.upper}.png", "{stem[0]}.png", "{stem",
     "{index:3}.png", "{index:00}.png", "{index:010}.png", "{stem:03}.png"],
)  # fmt: skip
def test_a_lone_brace_or_an_unknown_field_is_refused(output: str) -> None:
    found = places({"images": [image(output)]})
    assert [place.pointer for place in found] == ["/images/0/output"]
    assert found[0].detail.startswith("expected the fields {dir}, {stem}, {ext}, {index}, ")


# on_invalid


def test_on_invalid_skip_leaves_steps_out_of_bounds_out_and_says_so() -> None:
    job = process(image(operations=["resize=0.01", "blur=3", {"op": "blur", "kernel": 1500}]), on_invalid="skip")
    assert operations(job.images[0]) == [Blur(3)]
    assert [note.pointer for note in job.images[0].notes] == ["/images/0/operations/0", "/images/0/operations/2"]
    assert all(note.detail.startswith("skipped: ") for note in job.images[0].notes)


@pytest.mark.parametrize(
    "step", ["resize=x", "nothing", "blur=3,sigma:x", {"op": "blur"}, {"op": "blur", "kernel": "3"}]
)
def test_on_invalid_skip_does_not_excuse_what_is_no_operation(step: object) -> None:
    assert places({"images": [image()], "operations": [step], "on_invalid": "skip"})


def test_every_image_that_has_a_step_gets_its_notes() -> None:
    job = process(image("a.png"), image("b.png"), image("c.png", operations=[]), operations=["blur=24"])
    note = Note("/operations/0", "kernel 24 is even, 25 used")
    assert [i.notes for i in job.images] == [(note,), (note,), ()]


# At most ten places


def test_of_a_document_over_256_kb_one_place_is_named() -> None:
    bad = {"images": [{"input": "in.png", "output": f"out{n}.exe"} for n in range(20)]}
    assert len(places(bad, size=256_000)) == 10
    assert [place.pointer for place in places(bad, size=256_001)] == ["/images/0/output"]
    assert len(places({"images": [{}] * 20}, size=256_001)) == 1
    assert len(places({"images": [{}] * 20}, size=256_000)) == 10


def test_what_follows_a_field_tells_two_results_apart() -> None:
    job = process(image("{index}_a.png"), image("{index}_b.png", "b.png"))
    assert [one.renditions[0].output.parts[0] for one in job.images] == [("", "index")] * 2
    twice = {"images": [image("{index}_a.png"), image("1_a.png", "b.png")]}
    assert places(twice) == [Place("/images/1/output", "expected a path of its own, came that of /images/0/output")]


def test_sixty_four_thousand_distinct_steps_are_read_quickly() -> None:
    images = [
        image(f"{n}.png", operations=[{"op": "crop", "width": n + 1, "height": 1, "x": m, "y": 0} for m in range(64)])
        for n in range(1000)
    ]
    start = time.thread_time()
    job = process(*images)
    assert time.thread_time() - start < 4  # 1.4 s; by jsonschema's verdicts alone 9
    assert operations(job.images[999])[63] == Crop(1000, 1, 63, 0)


def test_ten_thousand_bad_images_are_refused_quickly() -> None:
    own = Settings(max_images=10_000)
    begun = time.process_time()
    with pytest.raises(InvalidRequest):
        request.process({"images": [{"inputs": "a"}] * 10_000}, own, STORE, 10**6)
    assert time.process_time() - begun < 2


def test_a_thousand_split_images_are_compared_quickly() -> None:
    images = [image(f"out/{n}.png", f"in/{n}.png") for n in range(1000)]
    begun = time.process_time()
    assert len(process(*images, operations=["split=8x8"]).images) == 1000
    assert time.process_time() - begun < 5


# The job of /items/


def test_items_leaves_steps_out_of_bounds_out_and_says_so() -> None:
    job = items(image(), operations=["blur=-2", "resize=-0.5", "splitQuadrants=False", "resize=0", "resize=101"])
    assert operations(job.images[0]) == [Split(1, 1)]
    assert [note.pointer for note in job.images[0].notes] == [f"/operations/{n}" for n in (0, 1, 3, 4)]
    assert all(note.detail.startswith("skipped: ") for note in job.images[0].notes)


@pytest.mark.parametrize("value", ["1002", "1500", "1e9"])
def test_items_takes_a_larger_kernel_as_1001_and_says_so(value: str) -> None:
    job = items(image(), operations=[f"blur={value}"])
    assert operations(job.images[0]) == [Blur(1001)]
    assert job.images[0].notes == (Note("/operations/0", f"kernel {value} is over 1001, 1001 used"),)


def test_items_takes_a_kernel_of_1001_without_a_word() -> None:
    assert items(image(), operations=["blur=1001"]).images[0].notes == ()


def test_items_takes_braces_in_paths_literally() -> None:
    template = items(image("{index}{.png")).images[0].renditions[0].output
    assert (template.parts, template.numbered) == ((("{index}{.png", ""),), False)


def test_items_ignores_keys_that_it_does_not_know() -> None:
    value = {"images": [{**image(), "operations": ["blur=3"], "x": 1}], "operations": ["split"], "if_exists": "skip",
             "on_error": 7, "quality": 1, "dry_run": True}  # fmt: skip
    job = request.items(value, SETTINGS, STORE)
    assert operations(job.images[0]) == [Split()]
    assert (job.if_exists, job.dry_run, job.stop_on_error) == ("overwrite", False, False)


@pytest.mark.parametrize("value", [{"images": [image()]}, {"images": [image()], "operations": None}])
def test_items_does_without_operations(value: object) -> None:
    assert operations(request.items(value, SETTINGS, STORE).images[0]) == []


@pytest.mark.parametrize("images", [{}, {"images": None}, {"images": []}])
@pytest.mark.parametrize("steps", [{}, {"operations": None}, {"operations": ["string", "", "blur=x"]}])
def test_items_without_images_is_an_empty_job_whatever_the_operations_say(
    images: dict[str, object], steps: dict[str, object]
) -> None:
    assert request.items({**images, **steps}, SETTINGS, STORE) == Job(())


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        ([], ""),
        ({"images": {}}, "/images"),
        ({"images": ["a"]}, "/images/0"),
        ({"images": [{"input": "a.png"}]}, "/images/0"),
        ({"images": [{"input": 1, "output": "b.png"}]}, "/images/0/input"),
        ({"images": [image()], "operations": "split"}, "/operations"),
        ({"images": [image()], "operations": [{"op": "split"}]}, "/operations/0"),
        ({"images": [], "operations": [1]}, "/operations/0"),
        ({"images": [image()], "operations": ["split", "string"]}, "/operations/1"),
        ({"images": [image()], "operations": ["blur=x"]}, "/operations/0"),
        ({"images": [image()], "operations": ["blur=1_0"]}, "/operations/0"),
        ({"images": [image()], "operations": ["resize=nan"]}, "/operations/0"),
        ({"images": [image()], "operations": ["resize=inf"]}, "/operations/0"),
        ({"images": [image()], "operations": ["resize=1e999"]}, "/operations/0"),
        ({"images": [image()], "operations": ["resize"]}, "/operations/0"),
        ({"images": [image("out.exe")]}, "/images/0/output"),
        ({"images": [image(), image()]}, "/images/1/output"),
    ],
)
def test_items_refuses_what_the_original_crashed_on(value: object, pointer: str) -> None:
    assert [place.pointer for place in places(value, request.items)] == [pointer]


# Patterns


MANY = Memory({f"in/{folder}/{name}.png": b"" for folder in ("x", "y") for name in ("a", "b", "{c}")})


def test_a_pattern_is_an_image_for_each_file_in_order_and_dir_starts_behind_its_fixed_part() -> None:
    images = [
        image("all/{dir}/{stem}.png", "in/**/*.png"),
        image("one/{dir}/{stem}.png", "./in/y/?.png"),
        image("plain/{dir}/{stem}.png", "in/x/a.png"),
    ]
    job = request.process({"images": images, "glob": True}, SETTINGS, MANY)
    assert [each.index for each in job.images] == list(range(9))
    outputs = [each.renditions[0].output.parts[0][0] for each in job.images]
    assert [each.input for each in job.images[:6]] == sorted(MANY.files)
    assert outputs[:6] == [f"all/{path.removeprefix('in/')}" for path in sorted(MANY.files)]
    assert outputs[6:] == ["one/a.png", "one/b.png", "plain/in/x/a.png"]
    assert [each.pointer for each in job.images] == ["/images/0"] * 6 + ["/images/1"] * 2 + ["/images/2"]


def test_without_glob_a_path_of_stars_is_that_path() -> None:
    assert [each.input for each in process(image(input_="in/*.png")).images] == ["in/*.png"]
    assert [each.input for each in process(image(input_="in/a.png"), glob=True).images] == ["in/a.png"]
    assert [each.input for each in items(image(input_="in/*.png"), glob=True).images] == ["in/*.png"]


def test_the_steps_of_a_pattern_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    real = operations_.parse

    def parse(step: Any) -> Any:
        read.append(step)
        return real(step)

    monkeypatch.setattr(operations_, "parse", parse)
    branches = [{"output": "{dir}/{stem}.png", "operations": ["blur=4"]}]
    one = {"input": "in/*/?.png", "operations": ["gray"], "renditions": branches}
    job = request.process({"images": [one], "glob": True}, SETTINGS, MANY)
    assert (len(job.images), read) == (4, ["gray", "blur=4"])
    assert {each.notes for each in job.images} == {
        (Note("/images/0/renditions/0/operations/0", "kernel 4 is even, 5 used"),)
    }


def test_all_patterns_of_a_request_share_what_may_be_compared() -> None:
    settings = Settings(max_images=5)
    with pytest.raises(InvalidRequest) as caught:
        request.process({"images": [image("{stem}.png", "**/" * 20 + "z?")] * 5, "glob": True}, settings, MANY)
    assert [place.pointer for place in caught.value.places] == [f"/images/{number}/input" for number in range(5)]
    details = ["which matches none" in place.detail for place in caught.value.places]
    assert details == [True, True, False, False, False]
    assert "at most 500 comparisons" in caught.value.places[-1].detail


@pytest.mark.parametrize("limit", ["images", "results"])
def test_all_patterns_of_a_request_share_its_limits(limit: str) -> None:
    images = [image("1/{stem}.png", "in/x/?.png"), image("2/{stem}.png", "in/y/?.png"), image("3.png", "in/x/a.png")]
    if limit == "results":
        images[1] = {"input": "in/y/?.png", "renditions": [{"output": "2/{stem}.png"}, {"output": "3/{stem}.gif"}]}
    for most, refusals in ((6 if limit == "results" else 5, []), (5 if limit == "results" else 4, ["/images/1/input"])):
        settings = replace(SETTINGS, max_images=most) if limit == "images" else replace(SETTINGS, max_results=most)
        try:
            request.process({"images": images, "glob": True}, settings, MANY)
            places: list[str] = []
        except InvalidRequest as problem:
            places = [place.pointer for place in problem.places]
        assert places == refusals
