"""The query of an address and what it asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconimg import formats, parameters
from falconimg.errors import InvalidRequest, Place
from falconimg.parameters import Parameters, parse

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


def refused(text: str, addressed: bool = True) -> list[Place]:
    with pytest.raises(InvalidRequest) as caught:
        parse(text, addressed)
    return list(caught.value.places)


def test_a_plus_in_an_operation_is_one_and_elsewhere_a_space() -> None:
    found = parse("op=crop=8x8+1+1&op=blur%3D3&filename=a+b.png&background=%23ff0000", True)
    assert found.operations == ("crop=8x8+1+1", "blur=3")
    assert found.others == {"filename": "a b.png"}
    assert found.output == {"background": "#ff0000"}


def test_an_operation_without_percent_signs_keeps_its_own_equals_signs_and_colons() -> None:
    assert parse("op=resize=8x8,fit:pad,background:white", False).operations == ("resize=8x8,fit:pad,background:white",)


def test_nothing_is_asked_for_by_an_empty_query() -> None:
    assert parse("", True) == Parameters()
    assert parse("&&", True) == Parameters()


def test_operations_keep_their_order_and_the_others_need_none() -> None:
    one = parse("quality=80&op=gray&format=webp&op=split", True)
    other = parse("format=webp&op=gray&op=split&quality=80", True)
    turned = parse("format=webp&op=split&op=gray&quality=80", True)
    assert one.canonical == other.canonical
    assert turned.canonical != one.canonical


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("resize=0.5", "resize=0.50", True),
        ("split", "splitQuadrants=True", True),
        ("blur=25", "blur=24", False),  # of which a note says what was made of it
        ("resize=0.5", "resize=0.6", False),
        ("nothing", "nothing", True),
    ],
)
def test_the_canonical_text_goes_by_what_is_done_and_not_by_how_it_is_written(one: str, other: str, same: bool) -> None:
    assert (parse(f"op={one}", True).canonical == parse(f"op={other}", True).canonical) is same


@pytest.mark.parametrize("query", ["background=red", "metadata=keep", "precise", "quality=5", "op=gray"])
def test_each_option_of_the_result_is_in_the_canonical_text(query: str) -> None:
    assert parse(query, True).canonical != parse("", True).canonical


@pytest.mark.parametrize("query", ["download", "filename=x.png", "expires=9", "signature=a", "format=webp"])
def test_what_concerns_the_answer_alone_is_not_in_the_canonical_text(query: str) -> None:
    assert parse(query, True).canonical == ""


@pytest.mark.parametrize("form", list(formats.FORMATS.values()), ids=list(formats.FORMATS))
def test_a_format_is_known_by_its_name_and_by_its_extensions_in_any_case(form: formats.Format) -> None:
    for text in (form.name, form.name.upper(), *(extension[1:] for extension in form.extensions)):
        assert parse(f"format={text}", True).format == form.name
    assert parse("format=AUTO", True).format == "auto"


@pytest.mark.parametrize(
    ("query", "pointer", "expected"),
    [
        ("quality=high", "/quality", 'expected a whole number, came "high"'),
        ("quality=8.5", "/quality", 'expected a whole number, came "8.5"'),
        ("quality=%D9%A3", "/quality", 'expected a whole number, came "\\u0663"'),
        ("quality=", "/quality", 'expected a whole number, came ""'),
        ("quality=80&quality=80", "/quality", "expected quality once, came it again"),
        ("format=heic", "/format", f'expected auto or one of {", ".join(formats.FORMATS)}, came "heic"'),
        ("format=", "/format", f'expected auto or one of {", ".join(formats.FORMATS)}, came ""'),
        ("format=a/b.png", "/format", f'expected auto or one of {", ".join(formats.FORMATS)}, came "a/b.png"'),
        ("precise=yes", "/precise", 'expected true or false, came "yes"'),
        ("download=2", "/download", 'expected true or false, came "2"'),
        ("filename=..", "/filename", 'expected a file\'s name of at most 200 characters, came ".."'),
        ("filename=%0D%0A", "/filename", 'expected a file\'s name of at most 200 characters, came "\\r\\n"'),
        ("expires=soon", "/expires", 'expected seconds since 1970, at most 15 digits, came "soon"'),
        ("expires=-5", "/expires", 'expected seconds since 1970, at most 15 digits, came "-5"'),
    ],
)
def test_a_value_that_is_not_of_its_form_is_refused_at_its_place(query: str, pointer: str, expected: str) -> None:
    assert refused(query) == [Place(pointer, expected)]


def test_a_name_of_300_characters_is_refused() -> None:
    assert [place.pointer for place in refused(f"filename={'a' * 300}")] == ["/filename"]


@pytest.mark.parametrize(("query", "addressed"), [("dry_run", True), ("expires=1", False), ("signature=a", False)])
def test_a_parameter_of_the_other_method_is_unknown(query: str, addressed: bool) -> None:
    assert [place.pointer for place in refused(query, addressed)] == [""]
    assert parse(query, not addressed)


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    place = refused("widht=5")[0]
    assert 'came "widht"' in place.detail
    assert "op, format, quality" in place.detail


def test_of_many_faults_ten_are_told() -> None:
    assert len(refused("&".join(f"a{n}=1" for n in range(50)))) == 10


def test_switches_are_on_with_no_value() -> None:
    assert [parse(text, False).others.get("dry_run") for text in ("dry_run", "dry_run=", "dry_run=TRUE")] == [True] * 3
    assert [parse(text, False).others["dry_run"] for text in ("dry_run=0", "dry_run=false")] == [False] * 2


def test_the_time_of_today_is_a_time_until_when_an_address_holds() -> None:
    assert parse("expires=1790000000", True).others == {"expires": 1790000000}


@given(st.lists(st.tuples(TEXT, TEXT), max_size=6))
def test_what_is_written_as_a_query_is_read_again(pairs: list[tuple[str, str]]) -> None:
    found = [pair for pair in pairs if pair != ("", "")]
    text = parameters.query(found)
    assert text.isascii()
    assert parameters.pairs(text) == sorted(found, key=lambda pair: pair[0])
    assert parameters.query(parameters.pairs(text)) == text


@given(st.text(max_size=200))
def test_any_query_is_taken_or_refused_with_places(text: str) -> None:
    places: tuple[Place, ...] = ()
    try:
        parse(text, True)
    except InvalidRequest as problem:
        places = problem.places
    assert len(places) <= 10
    assert all(place.detail.isascii() and len(place.detail) < 400 for place in places)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", ""),
        ("*/*", ""),
        ("image/*", ""),
        ("image/jpeg,image/png", ""),
        ("image/webp", "webp"),
        ("image/avif", "avif"),
        ("IMAGE/WebP", "webp"),
        ("image/webp,*/*;q=0.8", "webp"),
        ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", "avif"),  # Chromium's
        ("image/webp,image/avif", "avif"),
        ("image/avif;q=0.5,image/webp;q=0.9", "webp"),
        ("image/avif;q=0.5 , image/webp ; q=0.501", "webp"),
        ("image/avif;q=0", ""),
        ("image/avif;q=0.000,image/webp;q=0.001", "webp"),
        ("image/webp;q=2", ""),
        ("image/webp;q=-1", ""),
        ("image/webp;q=nan", ""),
        ("image/webp;q=", ""),
        ("image/webp;q=0.1234", ""),
        ("image/webp;v=1;q=0.5", "webp"),
        (";;;,,,q=", ""),
        ("image/webpp", ""),
        ("image/jpeg, image/webp;q=0.1", ""),
        ("image/png;q=0.2, image/webp;q=0.1", ""),
        ("*/*, image/webp;q=0.9", ""),
        ("image/*;q=0.9, image/avif;q=0.8, image/webp;q=0.9", "webp"),
        ("text/html, image/webp;q=0.1", "webp"),
    ],
)
def test_avif_and_webp_count_only_where_accept_names_them(accept: str, expected: str) -> None:
    assert parameters.negotiate(accept) == expected


@given(st.text("image/webp,avf;q=01.* ", max_size=60))
def test_no_accept_header_fails(accept: str) -> None:
    assert parameters.negotiate(accept) in ("", "avif", "webp")


@pytest.mark.parametrize(
    ("form", "channels", "expected"),
    [("jpeg", 3, "jpeg"), ("png", 1, "png"), ("gif", 3, "gif"), ("tiff", 3, "jpeg"), ("tiff", 4, "png"),
     ("webp", 4, "png"), ("avif", 3, "jpeg"), ("bmp", 1, "jpeg")],
)  # fmt: skip
def test_who_names_no_format_gets_one_that_every_browser_shows(form: str, channels: int, expected: str) -> None:
    assert parameters.shown_everywhere(formats.Header(form, 2, 2, channels)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.png", "a.png"),
        ("/etc/passwd", "etc/passwd"),
        ("C:\\pictures\\a.png", "C:/pictures/a.png"),
        ("../../a.png", "a.png"),
        ('a"; filename="b.exe', "a; filename=b.exe"),
        ("a\r\nSet-Cookie: b=1", "aSet-Cookie: b=1"),
        ("a\0b\x7f\x85\u2028\u202e.png", "ab.png"),
        ("grün 猫.png", "grün 猫.png"),
        ("..", ""),
        (".", ""),
        ("a/", "a"),
        (" \t", ""),
    ],
)
def test_a_clean_path_leads_nowhere_else_and_has_no_quotes_and_no_control_characters(name: str, expected: str) -> None:
    assert parameters.clean(name) == expected


def test_braces_in_a_file_s_name_are_no_template() -> None:
    found = Parameters().document(["a{index}{.png"], [".webp"])
    assert found == {"images": [{"input": "a{index}{.png", "output": "a{{index}}{{.webp"}], "operations": []}


def test_the_document_has_what_the_query_says_for_all_files() -> None:
    found = parse("op=gray&quality=7&dry_run&precise&download", False).document(["x/a.b.png", "c"], [".png", ".jpg"])
    assert found == {
        "images": [{"input": "x/a.b.png", "output": "x/a.b.png"}, {"input": "c", "output": "c.jpg"}],
        "operations": ["gray"],
        "quality": 7,
        "precise": True,
        "dry_run": True,
    }
    assert Parameters().document(["x/a.b.png"], [".png"])["images"] == [{"input": "x/a.b.png", "output": "a.b.png"}]
