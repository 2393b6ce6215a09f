"""`falconimg sign`, over the functions that it calls and as a command."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from falconimg import signing
from falconimg.cli import addresses, main
from falconimg.schema import came
from tests.conftest import Serve, encoded, noise

KEYS = ("0123456789abcdef", "fedcba9876543210")
URL = "https://img.example.com/img/v1/image/in/a.jpg?op=resize=0.5&quality=80"


def run(*arguments: str, key: str = ",".join(KEYS)) -> tuple[int, str]:
    found = CliRunner().invoke(main, ["sign", *arguments], env={"FALCONIMG_KEY": key or None})
    return found.exit_code, found.output


def test_what_it_signs_the_server_takes() -> None:
    code, address = run(URL, "--expires", "1h")
    assert code == 0
    path, _, query = address.strip().removeprefix("https://img.example.com/img").partition("?")
    until = signing.check(path, query, KEYS[:1], 0.0)
    assert until is not None
    assert run("--verify", address.strip())[0] == 0


def test_a_path_is_printed_as_it_is_signed() -> None:
    for way in ("a b%C3%A9", "a%20bé"):
        code, address = run(f"https://img.example.com/my img/v1/image/{way}.jpg?op=crop=1x1+2+2")
        assert (code, address.partition("?")[0]) == (0, "https://img.example.com/my%20img/v1/image/a%20b%C3%A9.jpg")
        query = address.strip().partition("?")[2]
        assert signing.check("/v1/image/a bé.jpg", query, KEYS[:1], 0.0) is None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("/v1/image/a.jpg?quality=high", "quality: expected a whole number, came"),
        ("/v1/image/a.jpg?quality=500", "quality: expected a whole number from 1 to 100, came 500"),
        ("/v1/image/a.jpg?colour=red", "expected the parameters op, "),
        ("/v1/image/a.jpg?background=mauve", "background: expected a colour"),
        ("/v1/image/a.jpg?op=resize=big", "op/0: resize: "),
        (f"/v1/image/a.jpg?{'&'.join(['op=gray'] * 65)}", "op: expected at most 64"),
        ("/v1/image/a.jpg?op=gray&dry_run", "expected the parameters op, "),
        ("/v1/image/a.jpg?expires=5", "expected an address that holds, came one that has expired"),
        ("/v1/info/a.jpg?expires=soon", "expires: expected seconds since 1970, at most 15 digits, came"),
        ("/v1/info/a.jpg?expires=9999999999999999", "expires: expected seconds since 1970, at most 15 digits, came"),
        ("/v1/image/", "path: expected 1 to 4096 bytes with no NUL, came ''"),
        ("/v1/image/../a.jpg", "path: expected one inside the root"),
        ("/v1/info/in/%2E%2E/../a.jpg", "path: expected one inside the root"),
        ("/v1/info/in//a.jpg", "path: expected no component to be empty or '.', came"),
        ("/v1/image/a%00.jpg", "path: expected 1 to 4096 bytes with no NUL, came"),
    ],
)
def test_what_the_server_refuses_is_not_signed(url: str, said: str, serve: Serve) -> None:
    found = CliRunner().invoke(main, ["sign", url], env={"FALCONIMG_KEY": KEYS[0]})
    assert (found.exit_code, found.stdout) == (2, "")
    assert found.stderr.startswith(f"falconimg: {said}")
    path, _, query = signing.sign(url, KEYS[0]).partition("?")
    assert serve(key=KEYS).client.simulate_get(path, query_string=query).status_code in (403, 404, 422)


@pytest.mark.parametrize(
    "query", ["", "?op=resize=0.5&op=gray&format=auto", "?quality=7&background=fff&metadata=keep&precise&download=1"]
)
@pytest.mark.parametrize("name", ["a.png", "in/{x} b+c%25.png", "noext"])
def test_what_is_signed_the_server_answers(name: str, query: str, serve: Serve) -> None:
    server = serve(key=KEYS)
    server.put(name.replace("%25", "%"), data=encoded(noise(6, 8)))
    code, address = run(f"/v1/image/{name}{query}", "--expires", "1h")
    assert code == 0
    path, _, query = address.strip().partition("?")
    assert server.client.simulate_get(path, query_string=query).status_code == 200


def test_a_time_beyond_what_the_server_takes_is_not_signed() -> None:
    assert run(URL, "--expires", "9999999999d")[0] == 0
    code, said = run(URL, "--expires", "99999999999d")
    assert (code, said.partition(", came")[0]) == (
        2, "falconimg: expires: expected seconds since 1970, at most 15 digits",
    )  # fmt: skip


@pytest.mark.parametrize("url", ["/v1/image/\udce9.jpg", "/v1/info/a.jpg?filename=\udce9"])
def test_what_is_not_utf_8_is_refused_in_words(url: str) -> None:
    assert run(url) == (2, f"falconimg: expected an address in UTF-8, came {came(url)}\n")
    assert run("--verify", url) == (1, f"refused: expected an address in UTF-8, came {came(url)}\n")


def test_a_time_that_is_over_is_not_signed() -> None:
    found = CliRunner().invoke(main, ["sign", URL, "--expires", "1000"], env={"FALCONIMG_KEY": KEYS[0]})
    assert (found.exit_code, found.stdout) == (2, "")
    assert (
        found.stderr
        == "falconimg: --expires: expected a time to come, came one that is over: 1970-01-01 00:16:40 UTC\n"
    )


def test_verify_prints_what_is_signed() -> None:
    address = signing.sign(URL, KEYS[1])
    code, said = run("--verify", address)
    assert (code, said.splitlines()) == (
        0,
        ["signed:  /v1/image/in/a.jpg?op=resize%3D0.5&quality=80", "holds:   for ever"],
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda url: url + "&format=webp", "it fits the address without format=webp, which came to it"),
        (lambda url: url.replace("0.5", "0.7"), "signature: expected that of the text above, came "),
        (lambda url: url.replace("in/a", "in/b"), "signature: expected that of the text above, came "),
        (lambda url: url.replace("/image/", "/info/"), "it fits the same address below /v1/image/, and is good for"),
        (lambda url: url.partition("&signature")[0], "expected a signed address"),
    ],
)
def test_verify_says_what_differs(change: object, expected: str) -> None:
    assert callable(change)
    code, said = run("--verify", change(signing.sign(URL, KEYS[0])))
    assert code == 1
    assert expected in said


def test_verify_says_that_an_address_was_signed_with_its_prefix() -> None:
    given = signing.signature("/img/v1/image/a.jpg?op=gray", KEYS[1])
    code, said = run("--verify", f"https://img.example.com/img/v1/image/a.jpg?op=gray&signature={given}")
    assert code == 1
    assert said.endswith("it fits the path with the prefix /img, which is not to be signed\n")


@pytest.mark.parametrize("key", KEYS)
def test_verify_does_not_give_away_the_signature_of_an_address_that_is_refused(key: str) -> None:
    code, said = run("--verify", signing.sign(URL, key).replace("0.5", "0.7"))
    assert code == 1
    text = "/v1/image/in/a.jpg?op=resize%3D0.7&quality=80"
    assert said.startswith(f"signed:  {text}\n")
    assert not [key for key in KEYS if signing.signature(text, key)[:20] in said]


@pytest.mark.parametrize("time", ["9" * 26, "9" * 16, "9" * 5000, "²", "-1", "", "soon"])
@pytest.mark.parametrize("route", ["image", "info"])
def test_verify_says_that_a_time_is_none_though_it_is_signed(time: str, route: str) -> None:
    code, said = run("--verify", signing.sign(f"/v1/{route}/a.jpg?expires={time}", KEYS[0]))
    assert (code, said.count("\n")) == (1, 2)
    assert said.splitlines()[1].startswith("refused: expires: expected seconds since 1970, at most 15 digits, came ")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("/v1/image/a.jpg?quality=500", "quality: expected a whole number from 1 to 100, came 500"),
        ("/v1/image/a.jpg?op=blur=x", "op/0: blur: "),
        ("/v1/info/../a.jpg", "path: expected one inside the root"),
    ],
)
def test_verify_says_what_the_server_refuses_though_it_is_signed(url: str, said: str) -> None:
    code, text = run("--verify", signing.sign(url, KEYS[0]))
    assert (code, text.splitlines()[1].startswith(f"refused: {said}")) == (1, True)


def test_verify_says_when_an_address_expired() -> None:
    code, said = run("--verify", signing.sign(URL, KEYS[0], 1000))
    assert code == 1
    assert "expires=1000 is over: 1970-01-01 00:16:40 UTC" in said


@pytest.mark.parametrize(
    ("text", "second"), [("90s", 190), ("15m", 1000), ("2h", 7300), ("1d", 86500), ("1700000000", 1700000000)]
)
def test_expires_is_a_time_from_now_or_a_second(text: str, second: int) -> None:
    assert addresses.moment(text, 100.9) == second


@pytest.mark.parametrize("text", ["", "1w", "-1s", "1.5h", "soon"])
def test_another_time_is_refused(text: str) -> None:
    code, said = run(URL, "--expires", text)
    assert (code, "--expires: expected" in said) == (2, True)


def test_without_a_key_or_a_picture_s_address_it_is_refused() -> None:
    assert run(URL, key="")[0] == 2
    assert run("https://img.example.com/a.jpg") == (
        2, "falconimg: expected an address with /v1/image/ or /v1/info/ in its path\n",
    )  # fmt: skip
    assert run("--verify", "https://img.example.com/a.jpg")[0] == 1


def test_the_time_that_an_address_has_stays_unless_another_is_said() -> None:
    until = 4_000_000_000
    assert f"expires={until}&" in run(f"{URL}&expires={until}")[1]
    assert "expires=4100000000&" in run(f"{URL}&expires={until}", "--expires", "4100000000")[1]
