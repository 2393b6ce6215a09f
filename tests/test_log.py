from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from falconimg import log
from falconimg.app import create_app
from falconimg.settings import Settings


@pytest.fixture(autouse=True)
def outside_of_requests() -> None:
    """No request's id of another test."""
    log.about.set({})


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_plain_line_escapes_what_could_forge_another(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(Settings())
    log.logger.warning("image\nfailed", input="a\nb\x1b[31m", detail="it's 'so'", number=3, word="done")
    (line,) = lines(capsys)
    assert line.partition(" ")[2] == (
        "warning image\\nfailed input='a\\nb\\x1b[31m' detail=\"it's 'so'\" number=3 word=done"
    )


def test_only_what_stands_for_itself_is_written_without_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(Settings())
    for letter in map(chr, range(0x110)):
        log.logger.info("word", it=f"a{letter}b")
        (line,) = lines(capsys)
        bare = "!" <= letter <= "~" and letter not in "='\"\\"
        assert line.endswith(f" it=a{letter}b" if bare else f" it={f'a{letter}b'!a}")
    log.logger.info("word", it="")
    assert lines(capsys)[0].endswith(" it=''")


def test_a_json_line_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(Settings(log="json"))
    log.logger.info("access", path="/\n\u2028", status=200)
    (line,) = lines(capsys)
    event: dict[str, Any] = json.loads(line)
    assert (event["event"], event["level"], event["path"], event["status"]) == ("access", "info", "/\n\u2028", 200)
    log.about.set({"request_id": "an-id"})
    try:
        raise RuntimeError("why")
    except RuntimeError:
        log.logger.exception("unforeseen", path=Path("/a"))
    (line,) = lines(capsys)
    event = json.loads(line)
    assert list(event) == ["timestamp", "level", "event", "path", "request_id", "exception"]
    assert (event["level"], event["path"], event["request_id"]) == ("error", "PosixPath('/a')", "an-id")
    assert event["exception"].splitlines()[-1] == "RuntimeError: why"
    log.logger.info("access", request_id="of another")
    assert json.loads(lines(capsys)[0])["request_id"] == "of another"


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_lines_below_the_level_are_not_written(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(Settings(log_level=level))
    names = ["debug", "info", "warning", "error"]
    for name in names:
        getattr(log.logger, name)(name)
    assert [line.split()[-1] for line in lines(capsys)] == names[names.index(level) :]


def test_a_traceback_follows_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(Settings())
    try:
        raise RuntimeError("why")
    except RuntimeError:
        log.logger.exception("unforeseen")
    first, *rest = lines(capsys)
    assert first.endswith("error   unforeseen")
    assert rest[0].startswith("Traceback")
    assert rest[-1] == "RuntimeError: why"


def test_gunicorns_own_lines_come_in_our_form(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(Settings())
    log.Bridge().emit(logging.LogRecord("gunicorn.error", logging.INFO, "", 0, "Booting %s", ("worker",), None))
    (line,) = lines(capsys)
    assert line.endswith("info    Booting worker")


def test_the_resolved_roots_are_logged_at_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    create_app(Settings(root=tmp_path / "link", output_root=tmp_path))
    line = next(line for line in lines(capsys) if "roots" in line)
    assert line.endswith(f"roots input={tmp_path}/real output={tmp_path}")
