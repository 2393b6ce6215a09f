"""Signed addresses: what a signature is of, and what it is not of."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from falcon import util
from hypothesis import assume, given
from hypothesis import strategies as st

from falconimg import signing
from falconimg.errors import NotSigned
from falconimg.signing import canonical, check, sign
from tests.conftest import Serve, Server, decoded, encoded, noise

KEY, OLD, TOKEN = "k" * 20, "old-key-of-last-year", "a-token-of-enough-length"
NOW = 1_800_000_000
PICTURE = noise(6, 8)
TEXT = st.text(st.characters(codec="utf-8"), max_size=10)
PAIRS = st.lists(st.tuples(st.sampled_from(["op", "format", "quality", "filename", "a b", "ü"]), TEXT), max_size=6)
PATHS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=8),
                 min_size=1, max_size=4).map("/".join)  # fmt: skip


def address(path: str, pairs: Sequence[tuple[str, str]]) -> str:
    """As a client may write it: everything that is not a letter in percent."""
    query = "&".join(f"{quote(name, '')}={quote(value, '')}" for name, value in pairs)
    return f"/v1/image/{quote(path)}?{query}"


def holds(written: str, *keys: str, now: float = NOW) -> int | None:
    """What the server makes of an address."""
    parts = urlsplit(written)
    return check(util.uri.decode(parts.path, unquote_plus=False), parts.query, keys or (KEY,), now)


@given(PATHS, PAIRS, st.none() | st.integers(NOW, NOW + 10**6))
def test_what_is_signed_holds_until_its_time(path: str, pairs: list[tuple[str, str]], expires: int | None) -> None:
    assert holds(sign(address(path, pairs), KEY, expires)) == expires


@given(PATHS, PAIRS, st.data())
def test_any_change_of_what_is_signed_breaks_it(path: str, pairs: list[tuple[str, str]], data: st.DataObject) -> None:
    signed = sign(address(path, pairs), KEY)
    parts = urlsplit(signed)
    signature = parse_qs(parts.query)["signature"][0]
    other, changed = path, list(pairs)
    kind = data.draw(st.sampled_from(["path", "value", "name", "remove", "double", "turn"])) if pairs else "path"
    if kind != "path":
        at = data.draw(st.sampled_from(range(len(pairs))))
        name, value = pairs[at]
        if kind in ("value", "name"):
            new = data.draw(TEXT.filter(lambda text: text not in pairs[at]))
            changed[at] = (name, new) if kind == "value" else (new or "x", value)
        elif kind == "turn":
            changed.reverse()
        else:
            changed[at : at + 1] = [pairs[at]] * (2 * (kind == "double"))
    else:
        other = data.draw(PATHS.filter(lambda text: text != path))
    assume(sorted(changed, key=lambda pair: pair[0]) != sorted(pairs, key=lambda pair: pair[0]) or other != path)
    forged = address(other, [*changed, ("signature", signature)])
    with pytest.raises(NotSigned):
        holds(forged)


def test_a_signature_is_the_hmac_that_readers_of_the_rfcs_would_make() -> None:
    text = "/v1/image/a%20b/c.jpg?format=webp&op=resize%3D0.5&op=crop%3D8x8%2B1%2B1"
    by_hand = base64.urlsafe_b64encode(hmac.new(KEY.encode(), text.encode(), hashlib.sha256).digest()).decode()
    signed = sign("/v1/image/a b/c.jpg?op=resize=0.5&op=crop=8x8+1+1&format=webp", KEY)
    assert canonical("/v1/image/a b/c.jpg", "op=resize=0.5&op=crop=8x8+1+1&format=webp") == text
    assert parse_qs(urlsplit(signed).query)["signature"] == [by_hand.rstrip("=")]


@pytest.mark.parametrize(
    "prefix", ["", "https://img.example.org", "http://localhost:8888", "https://x.org/img", "/api/v1", "//h/v1/v1"]
)
def test_a_host_and_a_prefix_are_kept_but_not_signed(prefix: str) -> None:
    bare = sign("/v1/image/a.jpg?op=gray", KEY, NOW)
    assert sign(f"{prefix}/v1/image/a.jpg?op=gray", KEY, NOW) == prefix + bare


def test_an_address_of_a_picture_below_a_directory_of_the_route_s_name_is_signed_whole() -> None:
    path = "/v1/image/v1/image/a.jpg"
    assert holds(sign(path, KEY)) is None
    assert sign(path, KEY).startswith(path)


def test_an_address_that_is_signed_again_has_one_signature_and_one_time() -> None:
    twice = sign(sign("/v1/image/a.jpg", OLD, NOW + 5), KEY, NOW + 9)
    assert twice == sign("/v1/image/a.jpg", KEY, NOW + 9)
    assert sign(twice, KEY) == twice


@pytest.mark.parametrize("other", ["", "a.jpg", "/image/a.jpg", "/v1", "https://x.org/", "/v1/process", "/v1/imagea"])
def test_what_is_no_address_of_a_picture_is_not_signed(other: str) -> None:
    with pytest.raises(ValueError, match="/v1/"):
        sign(other, KEY)


@pytest.mark.parametrize(
    "text",
    [
        "op=gray&quality=80",
        "quality=80&op=gray",
        "%6fp=%67ray&quality=8%30",
        "&&quality=80&&op=gray&",
    ],
)
def test_the_order_of_names_and_the_way_of_encoding_do_not_matter(text: str) -> None:
    given = signing.signature(canonical("/v1/image/a.jpg", "op=gray&quality=80"), KEY)
    assert check("/v1/image/a.jpg", f"{text}&signature={given}", [KEY], NOW) is None
    assert check("/v1/image/a.jpg", f"signature={given}&{text}", [KEY], NOW) is None


def test_the_order_of_operations_matters() -> None:
    given = signing.signature(canonical("/v1/image/a.jpg", "op=gray&op=split"), KEY)
    with pytest.raises(NotSigned):
        check("/v1/image/a.jpg", f"op=split&op=gray&signature={given}", [KEY], NOW)


def test_every_key_is_taken_and_no_other() -> None:
    for key in (KEY, OLD):
        assert holds(sign("/v1/image/a.jpg", key), KEY, OLD) is None
    with pytest.raises(NotSigned, match="came another"):
        holds(sign("/v1/image/a.jpg", "another-key-of-theirs"), KEY, OLD)


@pytest.mark.parametrize("given", ["", "x", "é", "%FF", "%00", "A" * 43, "A" * 5000])
def test_a_wrong_signature_of_any_form_is_refused(given: str) -> None:
    with pytest.raises(NotSigned):
        check("/v1/image/a.jpg", f"op=gray&signature={given}", [KEY], NOW)


@pytest.mark.parametrize("query", ["", "op=gray", "op=gray&signature=", "op=gray&signature"])
def test_an_address_without_a_signature_is_told_that_it_has_none(query: str) -> None:
    with pytest.raises(NotSigned, match="came one without"):
        check("/v1/image/a.jpg", query, [KEY], NOW)


def test_an_address_holds_up_to_its_last_second() -> None:
    signed = sign("/v1/image/a.jpg", KEY, NOW)
    assert holds(signed, now=NOW) == NOW
    with pytest.raises(NotSigned, match="expired"):
        holds(signed, now=NOW + 1)


@pytest.mark.parametrize(
    "text", ["", "-1", "1e12", "soon", "%D9%A3" * 10, "+9999999999", "99 99", "9" * 16, "9" * 5000]
)
def test_a_time_that_is_none_does_not_hold_though_it_is_signed(text: str) -> None:
    given = signing.signature(canonical("/v1/image/a.jpg", f"expires={text}"), KEY)
    with pytest.raises(NotSigned):
        check("/v1/image/a.jpg", f"expires={text}&signature={given}", [KEY], NOW)


def test_a_time_cannot_be_added_or_made_later() -> None:
    signed = sign("/v1/image/a.jpg", KEY, NOW)
    for forged in (signed.replace(str(NOW), str(NOW + 9)), f"{signed}&expires={NOW + 9}",
                   sign("/v1/image/a.jpg", KEY) + f"&expires={NOW}"):  # fmt: skip
        with pytest.raises(NotSigned):
            holds(forged)


def test_all_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[Any, Any]] = []

    class Watched:
        digest = staticmethod(hmac.digest)

        @staticmethod
        def compare_digest(one: Any, other: Any) -> bool:
            compared.append((one, other))
            return hmac.compare_digest(one, other)

    monkeypatch.setattr(signing, "hmac", Watched)
    assert holds(sign("/v1/image/a.jpg", KEY), KEY, OLD) is None
    assert len(compared) == 2


# The routes


@pytest.fixture
def signed(serve: Serve) -> Server:
    """A server that wants signatures."""
    server = serve(key=(KEY, OLD))
    server.put("in/a b+c%.png", PICTURE)
    return server


def status(server: Server, path: str, **headers: str) -> int:
    whole, _, query = path.partition("?")
    return server.client.simulate_get(whole, query_string=query, headers=headers).status_code


PLAIN = "/v1/image/in/a%20b+c%25.png?op=flip=h"


def test_a_signed_address_is_answered_with_its_picture(signed: Server) -> None:
    for key in (KEY, OLD):
        whole, _, query = sign(PLAIN, key, 4_000_000_000).partition("?")
        result = signed.client.simulate_get(whole, query_string=query)
        assert result.status_code == 200
        assert (decoded(result.content) == PICTURE[:, ::-1]).all()


@pytest.mark.parametrize("route", ["/v1/image", "/v1/info"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_address_is_refused_unsigned_wrong_or_expired_whether_or_not_the_file_exists(
    signed: Server, route: str, method: str
) -> None:
    for name in ("in/a b+c%.png", "in/none.png"):
        path = f"{route}/{quote(name)}"
        for query in ("", "signature=", "signature=" + "A" * 43, sign(path, "x" * 20).partition("?")[2],
                      sign(path, KEY, 1_000_000_000).partition("?")[2]):  # fmt: skip
            result = signed.client.simulate_request(method, path, query_string=query)
            assert result.status_code == 403
            assert result.headers["Cache-Control"] == "no-store"
            assert "ETag" not in result.headers
            if method == "GET":
                assert result.json["type"] == "/problems/signature"


def test_a_signature_is_good_for_its_own_route_path_and_query_alone(signed: Server) -> None:
    signed.put("in/b.png", PICTURE)
    good = sign(PLAIN, KEY)
    assert status(signed, good) == 200
    assert status(signed, good.replace("flip%3Dh", "flip%3Dv")) == 403
    assert status(signed, good.replace("a%20b%2Bc%25.png", "b.png")) == 403
    assert status(signed, good.replace("/v1/image/", "/v1/info/")) == 403
    assert status(signed, good + "&download") == 403
    assert status(signed, good.replace("op=", "%6Fp=").replace("a%20b%2Bc", "%61%20b+c")) == 200


def test_the_info_of_a_picture_may_be_signed_too(signed: Server) -> None:
    assert status(signed, sign("/v1/info/in/a%20b+c%25.png", KEY, 4_000_000_000)) == 200


def test_a_signature_opens_no_path_outside_the_root(signed: Server) -> None:
    assert status(signed, sign("/v1/image/..%2Fsecret.png", KEY)) == 403
    assert status(signed, sign("/v1/image/none.png", KEY)) == 404


def test_posts_need_no_signature(signed: Server) -> None:
    body = encoded(PICTURE)
    assert signed.client.simulate_post("/v1/image", body=body).status_code == 200
    assert signed.client.simulate_post("/v1/info", body=body).status_code == 200
    images = [{"input": "in/a b+c%.png", "output": "out/a.png"}]
    assert signed.process(images).status_code == 200


def test_a_token_does_as_well_where_tokens_are_set_and_only_there(serve: Serve, signed: Server) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert status(signed, PLAIN, **bearer) == 403
    both = serve(key=(KEY,), token=(TOKEN,))
    assert status(both, PLAIN, **bearer) == 200
    assert status(both, sign(PLAIN, KEY)) == 200
    assert status(both, PLAIN) == 403
    assert status(both, PLAIN, Authorization="Bearer another-token-of-theirs") == 403
    assert both.client.simulate_post("/v1/image", body=encoded(PICTURE)).status_code == 401


def test_without_keys_a_signature_is_not_looked_at(server: Server) -> None:
    server.put("in/a.png", PICTURE)
    assert status(server, "/v1/image/in/a.png?signature=x&expires=1") == 200


def test_a_key_is_in_no_answer_and_in_no_line_of_the_log(capsys: pytest.CaptureFixture[str], serve: Serve) -> None:
    server = serve(key=(KEY, OLD), log_level="debug")
    answers = [server.client.simulate_get(path).text for path in ("/", "/readyz", "/openapi.json")]
    queries = ("", "signature=x", sign(PLAIN, KEY).partition("?")[2])
    answers += [server.client.simulate_get(PLAIN.partition("?")[0], query_string=query).text for query in queries]
    said = capsys.readouterr().err
    assert "refused" in said
    for text in (*answers, said, repr(server.pipeline.settings), str(server.pipeline.settings)):
        assert KEY not in text
        assert OLD not in text
