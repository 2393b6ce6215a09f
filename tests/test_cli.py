"""The command line: the real command in a process of its own for what crosses its edge, click's runner for the rest."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from falconimg import formats, settings
from falconimg.cli import main
from falconimg.cli.show import Progress, failure
from falconimg.job import Outcome
from falconimg.jobs.ledger import Ledger
from falconimg.settings import Settings
from tests.conftest import decoded, encoded, noise
from tests.serving import SECONDS, free_port, without_opencvs
from tests.tables import ROOT

COMMAND = [sys.executable, "-c", "from falconimg.cli import main; main(prog_name='falconimg')"]
NOT_A_PICTURE = b"no picture"


def environ(**more: str) -> dict[str, str]:
    return {**without_opencvs(os.environ), "FALCONIMG_FSYNC": "off", **more}


def cli(*arguments: str, cwd: Path, **variables: Any) -> subprocess.CompletedProcess[bytes]:
    """The real command; `stdin` is what it gets there."""
    stdin = variables.pop("stdin", b"")
    return subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, input=stdin, capture_output=True, timeout=SECONDS, env=environ(**variables)
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a few pictures."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a.png", "b.png", "in/c.png", "in/x/d.png", "in/x/y/e.png")):
        put(tmp_path / name, noise(6, 8, seed=seed))
    return tmp_path


def put(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(pixels))


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["process", *arguments], env={"FALCONIMG_FSYNC": "off"})
    assert result.exit_code == code, result.output
    return result


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def size(path: Path) -> tuple[int, int]:
    height, width = decoded(path.read_bytes()).shape[:2]
    return width, height


# What exists


def test_the_script_is_the_command() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    module, _, name = project["project"]["scripts"]["falconimg"].partition(":")
    assert getattr(import_module(module), name) is main


@pytest.mark.parametrize("name", main.commands)
def test_every_command_has_help_with_an_example_that_names_its_own_options(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    example = result.output.partition("Example")[2]
    assert f"falconimg {name}" in example
    command = main.commands[name]
    commands = [command, *getattr(command, "commands", {}).values()]
    known = {option for one in commands for each in one.params for option in each.opts}
    lines = [line.partition("falconimg ")[2].partition("|")[0] for line in example.splitlines()]
    words = {word for line in lines for word in line.split()}
    flags = {word for word in words if word.startswith("-") and word != "-"}
    assert flags <= known or name == "serve"


def test_help_is_quick_because_no_codec_is_loaded() -> None:
    code = (
        "import sys, falconimg.cli; "
        "assert not {'cv2', 'numpy', 'falcon', 'jsonschema'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=SECONDS, env=environ())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(shell: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_FALCONIMG_COMPLETE" in result.output
    answer = cli(cwd=tmp_path, _FALCONIMG_COMPLETE="bash_complete", COMP_WORDS="falconimg process --sk", COMP_CWORD="2")
    assert answer.stdout.split() == [b"plain,--skip-existing"]


# Files


def test_files_go_into_a_directory_under_their_names(here: Path) -> None:
    result = cli("process", "a.png", "in/c.png", "-o", "small/", "--op", "resize=0.5", cwd=here)
    assert (result.returncode, result.stdout) == (0, b"")
    assert result.stderr.startswith(b"falconimg: 2 done, ")
    assert tree(here / "small") == ["a.png", "c.png"]
    assert size(here / "small" / "a.png") == (4, 3)


def test_a_directory_that_exists_needs_no_slash_and_may_have_braces(here: Path) -> None:
    (here / "{stem}").mkdir()
    run("a.png", "-o", "{stem}")
    assert tree(here / "{stem}") == ["a.png"]
    assert "expected a directory" in run("a.png", "-o", "new", code=2).output


def test_names_with_braces_and_stars_are_names(here: Path) -> None:
    for name in ("{width}.png", "x[1].png", "x1.png", "*.png"):
        put(here / name, noise(2, 2))
    run("{width}.png", "x[1].png", "*.png", "-o", "out/", "-f", "bmp")
    assert tree(here / "out") == ["*.bmp", "x[1].bmp", "{width}.bmp"]


def test_steps_run_from_left_to_right_and_options_reach_the_result(here: Path) -> None:
    run("a.png", "-o", "out/", "--op", "split", "--op", "rotate=90", "-f", "jpg", "-q", "5")
    assert tree(here / "out") == [f"a_{number}.jpg" for number in (1, 2, 3, 4)]
    assert size(here / "out" / "a_1.jpg") == (3, 4)
    put(here / "big.png", noise(64, 64))
    run("big.png", "-o", "low.jpg", "-q", "5")
    run("big.png", "-o", "high.jpg", "-q", "95")
    assert (here / "low.jpg").stat().st_size < (here / "high.jpg").stat().st_size


@pytest.mark.parametrize(
    ("name", "extension"), [("jpg", ".jpg"), ("JPEG", ".jpg"), (".tif", ".tif"), ("webp", ".webp")]
)
def test_a_format_is_named_by_itself_or_by_an_extension(here: Path, name: str, extension: str) -> None:
    run("a.png", "-o", "out/", "-f", name)
    assert tree(here / "out") == [f"a{extension}"]


def test_a_template_names_each_result(here: Path) -> None:
    run("in/c.png", "-o", "out/{dir}/{stem}_{row}{col}_{width}.{ext}", "--op", "split")
    assert tree(here / "out") == [f"in/c_{row}{col}_4.png" for row in (1, 2) for col in (1, 2)]


@pytest.mark.parametrize(
    ("files", "where", "directory"),
    [("-r in", "in/small/", "in/small"), ("in/**/*.png", "in/x/{dir}/s_{stem}.png", "in/x"), ("-r .", "web/", "web")],
)
def test_what_was_made_below_the_inputs_is_no_input_of_the_next_turn(
    here: Path, files: str, where: str, directory: str
) -> None:
    runs = [cli("process", *files.split(), "-o", where, "--if-exists", "overwrite", cwd=here) for _ in range(2)]
    assert [(run.returncode, run.stderr.split(b" done")[0]) for run in runs] == [
        (0, runs[0].stderr.split(b" done")[0])
    ] * 2
    made = tree(here / directory)
    assert not any(name.startswith(f"{Path(directory).name}/") for name in made)


def test_a_quoted_pattern_keeps_its_folders_behind_its_fixed_part(here: Path) -> None:
    run("in/**/*.png", "-o", "flat/")
    run("in/**/*.png", "-o", "out/{dir}/{stem}.webp")
    assert tree(here / "flat") == ["c.png", "x/d.png", "x/y/e.png"]
    assert tree(here / "out") == ["c.webp", "x/d.webp", "x/y/e.webp"]


def test_a_directory_with_r_gives_its_pictures_and_keeps_its_folders(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "in" / "notes.txt").write_text("no picture, by its extension")
    assert "-r takes the pictures" in run("in", "-o", "out/", code=2).output
    run("-r", "in/", "a.png", "-o", "out/")
    assert tree(here / "out") == ["a.png", "c.png", "x/d.png", "x/y/e.png"]
    monkeypatch.chdir(here / "in")
    run("-r", "..", "-o", f"{here}-up/{{dir}}/{{stem}}.bmp")
    assert "in/c.bmp" in tree(Path(f"{here}-up"))


def test_any_path_is_taken_and_links_are_followed(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (here / "link.png").symlink_to("a.png")
    (here / "way").symlink_to(elsewhere)
    run("link.png", "../" + here.name + "/b.png", f"{here}/in/c.png", "-o", "way/")
    assert tree(elsewhere) == ["b.png", "c.png", "link.png"]


def test_outputs_that_are_links_into_one_directory_do_not_get_into_each_other_s_way(here: Path) -> None:
    for folder, target in (("p", "a"), ("q", "b")):
        (here / folder).mkdir()
        (here / folder / "0.png").symlink_to(f"../to/{target}.png")
    images = [{"input": "a.png", "output": f"{folder}/{name}.png"} for folder in "pq" for name in (1, 0)]
    (here / "r.json").write_text(json.dumps({"images": images}))
    run("r.json")
    assert tree(here / "to") == ["a.png", "b.png"]
    assert [(here / folder / "0.png").is_symlink() for folder in "pq"] == [True, True]
    (here / "q" / "2.png").symlink_to("../to/a.png")
    images.append({"input": "a.png", "output": "q/2.png"})
    (here / "r.json").write_text(json.dumps({"images": images}))
    assert "expected a path of its own" in run("r.json", code=1).stderr


def test_two_files_of_one_name_are_refused_by_name_before_any_work(here: Path) -> None:
    put(here / "in" / "a.png", noise(2, 2))
    result = run("a.png", "in/a.png", "-o", "out/", code=2)
    assert result.stderr == (
        "falconimg: a.png and in/a.png would both become out/a.png; -o 'out/{dir}/{stem}.{ext}' keeps both\n"
    )
    assert not (here / "out").exists()
    run("a.png", "in/a.png", "-o", "out/{dir}/{stem}.{ext}")
    assert tree(here / "out") == ["a.png", "in/a.png"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.png", "a.bmp", "-o", "{x}"], "a.png and a.bmp would both become {x}/a.webp; -o '{{x}}/{stem}_{ext}.webp'"),
        (
            ["*/*.*", "-o", "out/"],
            "in/c.bmp and in/c.png would both become out/in/c.webp; -o 'out/{dir}/{stem}_{ext}.w",
        ),
        (["a.png", "b.png", "-o", "x.webp"], "a.png and b.png would both become x.webp; name each file once, and tell"),
        (
            ["a.png", "./a.png", "-o", "out/"],
            "a.png and ./a.png would both become out/a.webp; name each file once, and",
        ),
    ],
)
def test_files_that_would_become_one_are_named_with_a_way_out(here: Path, arguments: list[str], said: str) -> None:
    (here / "{x}").mkdir()
    for name in ("a.bmp", "in/c.bmp"):
        (here / name).write_bytes((here / "a.png").read_bytes())
    assert run(*arguments, "-f", "webp", code=2).stderr.startswith(f"falconimg: {said}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-r", "nosuchdir", "-o", "t/"], "nosuchdir: there is no such file"),
        (["-n", "photos", "-o", "x/"], "photos: there is no such file"),
        (["in/note.txt", "-o", "t/"], "in/note.txt: the content is of no format that is read"),
    ],
)
def test_what_is_no_picture_or_not_there_is_said_so_before_any_work(
    here: Path, arguments: list[str], said: str
) -> None:
    (here / "in" / "note.txt").write_text("words")
    assert run(*arguments, code=2).stderr.startswith(f"falconimg: {said}")


def test_a_picture_whose_name_has_no_extension_of_a_format_goes_by_its_content(here: Path) -> None:
    (here / "download.txt").write_bytes((here / "a.png").read_bytes())
    run("download.txt", "-o", "out/")
    assert tree(here / "out") == ["download.png"]


@pytest.mark.parametrize("arguments", [("in/c.png", "-o", "in/"), ("a.png", "-o", "a.png"), ("r.json",)])
def test_a_picture_is_not_replaced_by_its_own_result_unless_that_is_asked_for(
    here: Path, arguments: tuple[str, ...]
) -> None:
    (here / "r.json").write_text(json.dumps({"images": [{"input": "a.png", "output": "a.png"}], "operations": []}))
    before = {name: (here / name).read_bytes() for name in tree(here)}
    result = run(*arguments, code=2)
    assert "its result would replace it" in result.stderr
    assert "--if-exists overwrite" in result.stderr
    run(*arguments, "--if-exists", "skip")
    assert {name: (here / name).read_bytes() for name in tree(here)} == before
    if len(arguments) > 1:
        run(*arguments, "--op", "resize=0.5", "--if-exists", "overwrite")
        assert size(here / arguments[0]) == (4, 3)
    else:
        run(*arguments, "--if-exists", "overwrite")


def test_what_is_there_stays_with_skip_existing(here: Path) -> None:
    (here / "out").mkdir()
    (here / "out" / "a.png").write_bytes(b"old")
    for options in (["--skip-existing"], ["--if-exists", "skip"]):
        run("a.png", "b.png", "-o", "out/", *options)
        assert (here / "out" / "a.png").read_bytes() == b"old"
    assert re.fullmatch(
        r"falconimg: 0 done, 2 skipped, 0\.0 kB in .* s\n", run("a.png", "b.png", "-o", "out/", *options).stderr
    )
    assert tree(here / "out") == ["a.png", "b.png"]
    assert "exists" in run("a.png", "-o", "out/", "--if-exists", "error", code=1).stderr
    run("a.png", "-o", "out/")
    assert size(here / "out" / "a.png") == (8, 6)


def test_a_dry_run_says_what_would_be_made_and_makes_nothing(here: Path) -> None:
    before = tree(here)
    result = run("in/**/*.png", "-o", "out/{dir}/{stem}.webp", "--op", "resize=2", "-n")
    assert result.stdout.splitlines()[0] == "in/c.png -> out/c.webp (webp 16x12)"
    assert result.stderr == "falconimg: 3 would be made\n"
    assert tree(here) == before


def test_more_files_than_a_request_may_have_are_processed(here: Path) -> None:
    picture = encoded(noise(1, 1))
    (here / "many").mkdir()
    for number in range(150):
        (here / "many" / f"{number}.png").write_bytes(picture)
    limits = {"FALCONIMG_MAX_IMAGES": "20", "FALCONIMG_MAX_RESULTS": "9", "FALCONIMG_MAX_JSON_MARKS": "1000"}
    limits |= {"FALCONIMG_MEMORY": "1M", "FALCONIMG_MAX_OUTPUTS": "10"}  # a server's request could have 125 results
    result = cli("process", "-r", "many", "-o", "out/", "--quiet", cwd=here, **limits)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert len(tree(here / "out")) == 150


def test_a_name_that_is_not_utf_8_is_processed(here: Path) -> None:
    name = os.fsencode(here) + b"/caf\xe9.png"
    Path(os.fsdecode(name)).write_bytes(encoded(noise(2, 2)))
    result = cli("process", os.fsdecode(b"caf\xe9.png"), "-o", "out/", "--json", cwd=here)
    assert result.returncode == 0, result.stderr
    assert os.listdir(os.fsencode(here) + b"/out") == [b"caf\xe9.png"]  # noqa: PTH208
    assert json.loads(result.stdout.splitlines()[0])["input"] == "caf\udce9.png"


# Requests


REQUEST = {"images": [{"input": "in/**/*.png", "output": "out/{dir}/{stem}.bmp"}], "operations": ["gray"], "glob": True}


def test_a_request_in_a_file_or_on_standard_input_is_that_of_the_server(here: Path) -> None:
    (here / "r.json").write_text(json.dumps(REQUEST))
    run("r.json")
    assert tree(here / "out") == ["c.bmp", "x/d.bmp", "x/y/e.bmp"]
    result = cli("process", "-", "-n", "--json", cwd=here, stdin=b"\n " + json.dumps(REQUEST).encode())
    assert result.returncode == 0
    *images, whole = [json.loads(line) for line in result.stdout.splitlines()]
    assert [image["outputs"][0]["path"] for image in images] == ["out/c.bmp", "out/x/d.bmp", "out/x/y/e.bmp"]
    assert {key: whole[key] for key in ("status", "skipped")} == {"status": "done", "skipped": 3}


def test_if_exists_on_the_command_line_wins_over_the_request_s(here: Path) -> None:
    (here / "r.json").write_text(json.dumps({**REQUEST, "if_exists": "error"}))
    run("r.json")
    theirs = here / "out/c.bmp"
    theirs.write_bytes(b"theirs")
    assert "exists, and if_exists is error" in run("r.json", code=1).stderr
    run("r.json", "--skip-existing")
    assert theirs.read_bytes() == b"theirs"
    run("r.json", "--if-exists", "overwrite")
    assert decoded(theirs.read_bytes()).shape[:2] == (6, 8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[]", "r.json: expected an object, came an array of 0"),
        ("null", "r.json: expected an object, came null"),
        (json.dumps({**REQUEST, "foo": 1}), "r.json: expected one of the keys images, "),
        ("{", "r.json: expected a JSON document, came one with a fault: "),
        ('{"images": []}', "/images: expected at least 1, came 0"),
        (json.dumps({**REQUEST, "operations": ["blur=x"]}), "/operations/0: blur: "),
        (json.dumps({**REQUEST, "images": [{"input": "no/*", "output": "{stem}.png"}]}), "/images/0/input: "),
    ],
)
def test_a_wrong_request_is_refused_with_its_places(here: Path, text: str, expected: str) -> None:
    (here / "r.json").write_text(text)
    before = tree(here)
    assert run("r.json", code=2).stderr.startswith(f"falconimg: {expected}")
    assert tree(here) == before


def test_a_request_has_its_own_options_and_is_given_alone(here: Path) -> None:
    (here / "r.json").write_text(json.dumps(REQUEST))
    result = run("r.json", "-o", "out/", "--op", "gray", "-q", "5", code=2)
    assert result.stderr == "falconimg: -o, --op, -q: expected in the request r.json, came beside it\n"
    assert "r.json: the content is of no format" in run("a.png", "r.json", "-o", "out/", code=2).stderr
    assert "No such file" in run("missing.json", code=2).stderr


# Standard input and output


def test_a_picture_goes_from_standard_input_to_standard_output_in_its_own_format(here: Path) -> None:
    result = cli("process", "-", "--op", "resize=0.5", cwd=here, stdin=(here / "a.png").read_bytes())
    assert (result.returncode, result.stderr) == (0, b"")
    assert formats.probe(result.stdout).format == "png"
    assert decoded(result.stdout).shape == (3, 4, 3)


def test_f_chooses_the_format_of_standard_output_and_a_file_may_be_the_input(here: Path) -> None:
    result = cli("process", "in/c.png", "-o", "-", "-f", "webp", cwd=here)
    assert (result.returncode, formats.probe(result.stdout).format) == (0, "webp")


@pytest.mark.parametrize("arguments", [["in/*.png"], ["-r", "in/x/y"], ["in/**/e.png"]])
def test_a_pattern_or_a_directory_with_one_picture_may_go_to_standard_output(here: Path, arguments: list[str]) -> None:
    result = cli("process", *arguments, "-o", "-", cwd=here)
    assert (result.returncode, result.stderr) == (0, b"")
    name = "in/c.png" if arguments == ["in/*.png"] else "in/x/y/e.png"
    assert (decoded(result.stdout) == decoded((here / name).read_bytes())).all()


def test_standard_input_may_go_to_files(here: Path) -> None:
    picture = (here / "a.png").read_bytes()
    assert cli("process", "-", "-o", "out/", "--op", "split", cwd=here, stdin=picture).returncode == 0
    assert cli("process", "-", "-o", "x/y.webp", cwd=here, stdin=picture).returncode == 0
    assert tree(here / "out") == [f"stdin_{number}.png" for number in (1, 2, 3, 4)]
    assert size(here / "x" / "y.webp") == (8, 6)


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "expected"),
    [
        (["-"], b"", 1, b"the file is empty"),
        (["-"], NOT_A_PICTURE, 1, b"no format that is read"),
        (["-", "-o", "out/"], NOT_A_PICTURE, 1, b"no format that is read"),
        (["a.png", "-o", "-", "--op", "split"], b"", 2, b"one result for standard output, came 4"),
        (["a.png", "b.png", "-o", "-"], b"", 2, b"one input for standard output, came 2"),
        (["in/**/*.png", "-o", "-"], b"", 2, b"one input for standard output, came 3"),
        (["no*.png", "-o", "-"], b"", 2, b"no*.png: expected at least one file, came none"),
        (["in", "-o", "-"], b"", 2, b"in: expected a file, came a directory; -r"),
        (["a.png", "-o", "-", "--json"], b"", 2, b"the picture alone"),
        (["-", "a.png", "-o", "out/"], b"", 2, b"standard input alone"),
        (["missing.png", "-o", "-"], b"", 1, b"there is no such file"),
        (["a.png", "-o", "-", "--op", "crop=1x1+90+90"], b"", 1, b"crop"),
    ],
)
def test_what_cannot_go_through_a_pipe_leaves_standard_output_empty(
    here: Path, arguments: list[str], stdin: bytes, code: int, expected: bytes
) -> None:
    result = cli("process", *arguments, cwd=here, stdin=stdin)
    assert (result.returncode, result.stdout) == (code, b"")
    assert expected in result.stderr
    assert not (here / "out").exists()


TO_STANDARD_OUTPUT = (
    ["process", "a.png", "-o", "-"],
    ["process", "a.png", "b.png", "-o", "out/", "--json"],
    ["info", "a.png"],
    ["config"],
)


@pytest.mark.parametrize("buffer", ["", "1"])
@pytest.mark.parametrize("arguments", TO_STANDARD_OUTPUT)
def test_a_full_standard_output_is_said_in_one_line_with_code_1(here: Path, arguments: list[str], buffer: str) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [*COMMAND, *arguments], cwd=here, env=environ(PYTHONUNBUFFERED=buffer), stdout=full,
            stderr=subprocess.PIPE, timeout=SECONDS,
        )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (1, b"falconimg: standard output: No space left on device\n")


def shell(script: str, *arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """What a shell's script makes of the command, which is `"$@"` there."""
    command = ["/bin/sh", "-c", script, "sh", *COMMAND, *arguments]
    return subprocess.run(command, cwd=cwd, env=environ(**variables), capture_output=True, timeout=SECONDS)


@pytest.mark.parametrize("arguments", TO_STANDARD_OUTPUT)
def test_a_closed_standard_output_is_said_in_one_line_with_code_1(here: Path, arguments: list[str]) -> None:
    ended = shell('exec "$@" >&-', *arguments, cwd=here)
    assert (ended.returncode, ended.stderr) == (1, b"falconimg: standard output: Bad file descriptor\n")


@pytest.mark.parametrize("buffer", ["", "1"])
def test_a_picture_of_which_only_a_part_has_room_is_no_success(here: Path, buffer: str) -> None:
    put(here / "big.png", noise(100, 100))
    variables = {"PYTHONUNBUFFERED": buffer}
    ended = shell('ulimit -f 1; exec "$@" >part', "process", "big.png", "-o", "-", cwd=here, **variables)
    assert (ended.returncode, ended.stderr) == (1, b"falconimg: standard output: File too large\n")


@pytest.mark.parametrize("arguments", TO_STANDARD_OUTPUT)
def test_who_reads_no_more_ends_the_command_without_a_word(here: Path, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [*COMMAND, *arguments], cwd=here, env=environ(PYTHONUNBUFFERED=""), stdout=writer, stderr=subprocess.PIPE,
            timeout=SECONDS,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, b"")


# What is said, and the exit code


def test_an_image_that_fails_is_named_its_neighbours_are_done_and_the_code_is_1(here: Path) -> None:
    (here / "bad.png").write_bytes(NOT_A_PICTURE)
    result = cli("process", "a.png", "bad.png", "missing.png", "b.png", "-o", "out/", cwd=here)
    assert (result.returncode, result.stdout) == (1, b"")
    lines = result.stderr.decode().splitlines()
    assert [line.partition(": the ")[0] for line in lines[:1]] == ["falconimg: bad.png"]
    assert lines[1] == "falconimg: missing.png: there is no such file"
    assert lines[2].startswith("falconimg: 2 done, 2 failed, ")
    assert tree(here / "out") == ["a.png", "b.png"]


def test_json_is_alone_on_standard_output_a_line_an_image_and_the_sum_last(here: Path) -> None:
    (here / "bad.png").write_bytes(NOT_A_PICTURE)
    result = cli("process", "a.png", "bad.png", "-o", "out/", "--json", cwd=here)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert (lines[-1]["status"], {line["index"] for line in lines[:-1]}) == ("partial", {0, 1})
    by_index = {line["index"]: line for line in lines[:-1]}
    output = {"path": "out/a.png", "width": 8, "height": 6, "format": "png"}
    assert by_index[0]["outputs"] == [{**output, "bytes": (here / "out" / "a.png").stat().st_size}]
    assert by_index[1]["error"]["type"] == "/problems/unsupported"
    assert {key: lines[-1][key] for key in ("done", "failed", "skipped")} == {"done": 1, "failed": 1, "skipped": 0}


def test_quiet_says_only_what_is_wrong(here: Path) -> None:
    (here / "bad.png").write_bytes(NOT_A_PICTURE)
    assert cli("process", "a.png", "-o", "out/", "--op", "blur=4", "--quiet", cwd=here).stderr == b""
    result = cli("process", "a.png", "bad.png", "-o", "out/", "--quiet", cwd=here)
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(b"falconimg: bad.png: ")


def test_a_note_is_said_once_for_all_images(here: Path) -> None:
    result = run("a.png", "b.png", "-o", "out/", "--op", "blur=4")
    assert result.stderr.count("kernel 4 is even, 5 used") == 1


def test_where_it_is_no_terminal_no_control_character_is_written(here: Path) -> None:
    bad = here / "\x1b[31mbad\r.png"
    bad.write_bytes(NOT_A_PICTURE)
    result = cli("process", "a.png", bad.name, "-o", "out/", cwd=here)
    text = (result.stdout + result.stderr).decode()
    assert all(line.isprintable() for line in text.split("\n"))
    assert "\\x1b[31mbad\\r.png" in text


def test_progress_that_is_not_for_a_terminal_is_a_line_now_and_then(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("falconimg.cli.show.LINE_SECONDS", 0)
    result = run("in/**/*.png", "-o", "out/")
    assert [line.partition(",")[0] for line in result.stderr.splitlines()] == [
        *[f"falconimg: {count} of 3 images" for count in (1, 2, 3)],
        "falconimg: 3 done",
    ]
    assert re.search(r"[kM]B/s, 00:00 left", result.stderr)


def on_a_terminal(here: Path, lines: int, columns: int) -> str:
    """What a run of three pictures, all of which are done, says on a terminal of that size."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (lines, columns))
    try:
        done = subprocess.run(
            [*COMMAND, "process", "in/**/*.png", "-o", "out/"], cwd=here, env=environ(TERM="xterm"),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=slave, timeout=SECONDS,
        )  # fmt: skip
        said = os.read(master, 100_000).decode()
    finally:
        os.close(slave)
        os.close(master)
    assert (done.returncode, done.stdout) == (0, b"")
    return said


def test_on_a_terminal_there_is_a_bar_which_is_gone_in_the_end(here: Path) -> None:
    said = on_a_terminal(here, 24, 100)
    assert "0/3 [00:00<?, ?image/s" in said
    assert said.rstrip().splitlines()[-1].rpartition("\r")[2].startswith("falconimg: 3 done")


def test_a_terminal_without_columns_gets_lines_and_no_bar(here: Path) -> None:
    assert re.fullmatch(r"falconimg: 3 done, [\d.]+ kB in [\d.]+ s\r\n", on_a_terminal(here, 0, 0))


@pytest.mark.parametrize(
    ("name", "detail", "said"),
    [
        ("é.png", r"'\xe9.png': there is no such file", "é.png: there is no such file"),
        ("a.png", r"'out/\xe9.png' exists, and if_exists is error", "a.png: out/é.png exists, and if_exists is error"),
        ("a.png", r"'it\'s \x1b\"' exists", "a.png: it's \\x1b\" exists"),
        ("a.png", "the file is empty", "a.png: the file is empty"),
    ],
)
def test_names_are_said_in_one_way(name: str, detail: str, said: str) -> None:
    assert failure(name, detail) == said


def test_a_wrong_setting_is_code_2_and_one_line(here: Path) -> None:
    result = cli("process", "a.png", "-o", "out/", cwd=here, FALCONIMG_POOL="many")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert b"FALCONIMG_POOL" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["a.png", "-o", "out/", "--op", "resize=0.01"],
            "--op resize=0.01: resize: expected 0.05 to 100, came 0.01",
        ),
        (["a.png", "-o", "out/", "--background", "mauve"], "--background: expected a colour"),
        (["a.png", "-o", "out.exe"], "-o out.exe: expected a directory"),
        (["a.png", "-o", "out.png", "-f", "webp"], "-o out.png: expected a name of the format webp"),
        (["a.png", "-o", "out/", "-f", "heic"], "-f: expected one of jpeg, png, "),
        (
            ["a.png", "-o", "out/", "-f", "jpgg"],
            "-f: expected one of jpeg, png, webp, avif, gif, bmp, pnm, pgm, ppm, tiff, jpg, jpe, jfif, dib, tif, ",
        ),
        (["a.png", "-o", "{nothing}.png"], "a.png -> {nothing}.png: expected the fields"),
        (["a.png"], "expected -o"),
        (["a.png", "-o", ""], "-o: expected a directory, a file or a template, came an empty one"),
        (["r.json", "-o", ""], "-o: expected a directory, a file or a template, came an empty one"),
        (["a.png", "", "-o", "out/"], "FILES: expected a file, a pattern or a directory, came an empty one"),
        (["-r", "", "-o", "out/"], "FILES: expected a file, a pattern or a directory, came an empty one"),
        (["nothing*.png", "-o", "out/"], "nothing*.png: expected at least one file, came none"),
        (["-r", "empty", "-o", "out/"], "empty: expected at least one picture, came none"),
        (["a.png", "-o", "b.png", "b.png"], "a.png -> b.png: "),
    ],
)
def test_what_is_asked_for_wrongly_is_refused_in_the_words_of_the_command_line(
    here: Path, arguments: list[str], expected: str
) -> None:
    (here / "empty").mkdir()
    before = tree(here)
    assert run(*arguments, code=2).stderr.startswith(f"falconimg: {expected}")
    assert tree(here) == before


# ^C


def started(here: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, "process", *arguments], cwd=here, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for(what: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_interrupt_lets_the_images_that_run_finish_and_says_what_is_left(here: Path) -> None:
    picture = encoded(noise(500, 500))
    (here / "many").mkdir()
    for number in range(100, 180):
        (here / "many" / f"{number}.png").write_bytes(picture)
    process = started(here, "-r", "many", "-o", "out/", "-j", "1", "--precise", "--op", "blur=99", "--json")
    wait_for(lambda: (here / "out").is_dir() and list((here / "out").glob("*.png")))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    *images, whole = [json.loads(line) for line in out.splitlines()]
    done = [image for image in images if image["status"] == "done"]
    assert 1 <= len(done) < 79
    assert sorted(image["outputs"][0]["path"] for image in done) == [f"out/{name}" for name in tree(here / "out")]
    assert {size(here / image["outputs"][0]["path"]) for image in done} == {(500, 500)}
    assert len(images) == 80
    assert (whole["done"], whole["skipped"], whole["failed"]) == (len(done), 80 - len(done), 0)
    text = err.decode()
    assert "^C again ends at once" in text
    first = len(done) + 100
    assert f"stopped; not begun: many/{first}.png, many/{first + 1}.png" in text
    assert f"{len(done)} done, {80 - len(done)} not begun" in text


@pytest.mark.parametrize(("files", "code"), [(("a.png",), 0), (("a.png", "bad.png"), 1)])
def test_an_interrupt_when_all_is_done_changes_no_exit_code(
    here: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...], code: int
) -> None:
    (here / "bad.png").write_bytes(NOT_A_PICTURE)
    real, heard = Progress.add, []

    def add(show: Progress, outcome: Outcome) -> None:
        real(show, outcome)
        if show.counts.total() == len(files):
            heard.append(True)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Progress, "add", add)
    assert "1 done" in run(*files, "-o", "out/", code=code).stderr
    assert heard == [True]


def test_an_interrupt_before_there_is_work_is_code_130_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("falconimg.cli.environment", interrupted)
    result = CliRunner().invoke(main, ["process", "a.png", "-o", "out/"])
    assert (result.exit_code, result.output) == (130, "")


def test_a_second_interrupt_ends_at_once_and_leaves_no_half_file(here: Path) -> None:
    put(here / "big.png", noise(2000, 2000))
    process = started(here, "big.png", "-o", "out/", "--precise", "--op", "blur=1001")
    assert process.stderr
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    said = b""
    while b"again" not in said:
        said += process.stderr.read1()  # type: ignore[attr-defined]
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=SECONDS)
    assert (process.returncode, time.monotonic() - begun < 2) == (130, True)
    assert not list(here.rglob("*.tmp"))
    assert not list((here / "out").glob("*"))


# info


def test_info_says_of_each_file_what_its_header_says(here: Path) -> None:
    (here / "bad.png").write_bytes(NOT_A_PICTURE)
    result = cli("info", "a.png", "bad.png", "missing.png", cwd=here)
    bytes_ = (here / "a.png").stat().st_size
    assert (result.returncode, result.stdout.decode()) == (1, f"a.png: png 8x6, 8 bit, {bytes_} bytes\n")
    assert [line.partition(": ")[2][:13] for line in result.stderr.decode().splitlines()] == [
        "bad.png: the ",
        "missing.png: ",
    ]


def test_info_takes_standard_input_and_gives_json(here: Path) -> None:
    picture = (here / "a.png").read_bytes()
    result = cli("info", "--json", "-", "missing.png", cwd=here, stdin=picture)
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert first == {
        "file": "-", "width": 8, "height": 6, "format": "png", "depth": 8, "alpha": False, "orientation": 1,
        "icc": None, "bytes": len(picture),
    }  # fmt: skip
    assert (second["file"], second["error"]["type"], result.returncode) == ("missing.png", "/problems/missing", 1)


def test_info_decodes_no_pixel(here: Path) -> None:
    whole = encoded(noise(400, 400))
    (here / "cut.png").write_bytes(whole[: len(whole) - 20])
    broken = bytearray(whole)
    broken[5000:6000] = bytes(1000)
    (here / "broken.png").write_bytes(broken)
    assert cli("info", "broken.png", cwd=here).stdout.startswith(b"broken.png: png 400x400")


# check, config


def test_check_says_that_all_is_well_and_what_each_format_can(here: Path) -> None:
    result = cli("check", cwd=here)
    text = result.stdout.decode()
    assert result.returncode == 0, text
    assert "WRONG" not in text
    assert f"roots: input {here}, output {here}" in text
    assert "simplejpeg 1" in text
    for form in formats.FORMATS.values():
        assert form.reads in text
        assert form.writes in text


def test_check_finds_what_is_wrong(here: Path) -> None:
    result = cli("check", cwd=here, FALCONIMG_QUEUE="none")
    assert result.returncode == 1
    assert b"WRONG FALCONIMG_QUEUE: expected a whole number" in result.stdout
    result = cli("check", cwd=here, FALCONIMG_FORMATS="jpeg,heic")
    assert (result.returncode, b"WRONG FALCONIMG_FORMATS" in result.stdout) == (1, True)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"FALCONIMG_LEDGER": "file/jobs.db"}, "FALCONIMG_LEDGER: expected a place that can be written, came "),
        ({"FALCONIMG_LEDGER": "file"}, "FALCONIMG_LEDGER: expected a ledger that can be opened"),
        ({"FALCONIMG_METRICS_BIND": "127.0.0.1:8888"}, "FALCONIMG_METRICS_BIND: expected another address"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "expected otlp, console or none for OTEL_TRACES_EXPORTER"),
        ({"FALCONIMG_ROOT": ".", "FALCONIMG_WORKERS": "zero"}, "FALCONIMG_WORKERS: expected a whole number"),
    ],
)
def test_check_finds_what_would_keep_the_server_from_starting(here: Path, variables: dict[str, str], said: str) -> None:
    (here / "file").write_text("no database, and no directory either")
    result = cli("check", cwd=here, FALCONIMG_JOBS="on", **variables)
    assert (result.returncode, result.stdout.count(b"WRONG"), f"WRONG {said}" in result.stdout.decode()) == (1, 1, True)


def test_check_makes_no_ledger_and_opens_one_that_is_there(here: Path) -> None:
    place = {"FALCONIMG_JOBS": "on", "FALCONIMG_LEDGER": str(here / "new/jobs.db")}
    assert f"jobs: {here}/new/jobs.db, which the server makes" in cli("check", cwd=here, **place).stdout.decode()
    assert not (here / "new").exists()
    Ledger(f"sqlite:///{here}/new/jobs.db").close()
    assert f"jobs: {here}/new/jobs.db\n" in cli("check", cwd=here, **place).stdout.decode()


@pytest.mark.parametrize(
    ("missing", "variables", "said"),
    [
        (
            "psycopg",
            {"FALCONIMG_LEDGER": "postgresql+psycopg://a:b@127.0.0.1:1/x"},
            "FALCONIMG_LEDGER: expected falconimg[celery]",
        ),
        ("celery", {"FALCONIMG_BROKER": "redis://127.0.0.1:1"}, "FALCONIMG_BROKER: expected falconimg[celery]"),
        ("obstore", {"FALCONIMG_STORES": "s3://pictures"}, "FALCONIMG_STORES: expected falconimg[objects]"),
    ],
)
def test_check_names_what_is_not_installed(
    here: Path, missing: str, variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    result = CliRunner().invoke(main, ["check"], env={"FALCONIMG_JOBS": "on", **variables})
    assert (result.exit_code, f"WRONG {said} to be installed" in result.output) == (1, True), result.output


def test_check_finds_a_root_that_is_not_writable(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.access
    # root may write anywhere: the system's answer for another user
    monkeypatch.setattr(os, "access", lambda path, mode, **more: not mode & os.W_OK and real(path, mode, **more))
    result = CliRunner().invoke(main, ["check"], env={"FALCONIMG_ROOT": str(here)})
    assert (result.exit_code, "WRONG the output root is not writable" in result.output) == (1, True)


def test_config_lists_every_setting_with_its_value_and_source_and_no_secret(here: Path) -> None:
    secret = "a-secret-of-many-characters"  # noqa: S105
    (here / "key").write_text(f"{secret}-in-a-file\n")
    variables = {"FALCONIMG_TOKEN": secret, "FALCONIMG_KEY_FILE": str(here / "key"), "PORT": "9000"}
    result = cli("config", "--json", cwd=here, **variables)
    assert secret.encode() not in cli("config", cwd=here, **variables).stdout + result.stdout + result.stderr
    table = json.loads(result.stdout)
    assert list(table) == [name for name, _ in settings.rows()]
    assert {table[name]["help"] for name in table} == {row.help for _, row in settings.rows()}
    said = {name: (table[name]["value"], table[name]["source"]) for name in table}
    assert said["FALCONIMG_TOKEN"] == ("(set, not shown)", "FALCONIMG_TOKEN")
    assert said["FALCONIMG_KEY"] == ("(set, not shown)", "FALCONIMG_KEY_FILE")
    assert said["FALCONIMG_BIND"] == ("0.0.0.0:9000", "PORT")
    assert said["FALCONIMG_FSYNC"] == (False, "FALCONIMG_FSYNC")
    assert said["FALCONIMG_MAX_IMAGES"] == (1000, "default")
    assert re.fullmatch(r"/.*/falconimg/jobs-[0-9a-f]{12}\.db", said["FALCONIMG_LEDGER"][0])
    secret_place = cli("config", "--json", cwd=here, FALCONIMG_LEDGER="postgresql+psycopg://a:b@c/d").stdout
    assert json.loads(secret_place)["FALCONIMG_LEDGER"]["value"] == "(set, not shown)"


def test_config_is_read_by_people_too(here: Path) -> None:
    text = cli("config", cwd=here, FALCONIMG_FORMATS="jpeg,png").stdout.decode()
    for name, row in settings.rows():
        assert f"{name} = " in text
        assert row.help in text
    assert (
        "FALCONIMG_FORMATS = jpeg,png\n    the formats that are read; every one is written (FALCONIMG_FORMATS)" in text
    )
    assert "FALCONIMG_FSYNC = off\n" in text
    assert "FALCONIMG_TOKEN = none\n" in text


def test_config_says_what_a_server_goes_by_and_where_it_came_from(here: Path) -> None:
    words = {name: row.default for name, row in settings.rows()}
    variables = {"FALCONIMG_INPUT_ROOT": "in", "TMPDIR": str(here / "in")}
    table = json.loads(cli("config", "--json", cwd=here, **variables).stdout)
    assert all(list(entry) == ["value", "source", "default", "help"] for entry in table.values())
    said = {name.removeprefix("FALCONIMG_").lower(): (entry["value"], entry["source"]) for name, entry in table.items()}
    assert said["memory"] == (Settings(jobs=False).budget, "default")
    assert said["root"] == said["output_root"] == (str(here), "default")
    assert said["input_root"] == (str(here / "in"), "FALCONIMG_INPUT_ROOT")
    assert said["cache_dir"] == (f"{here}/in/falconimg-cache-{os.geteuid()}", "default")
    assert {name: entry["default"] for name, entry in table.items()} == words
    text = cli("config", cwd=here, **variables).stdout.decode()
    assert f"FALCONIMG_MEMORY = {Settings(jobs=False).budget}\n" in text
    assert "(default: half of all, over workers and job workers)\n" in text
    assert f"FALCONIMG_INPUT_ROOT = {here}/in\n    the same for inputs alone (FALCONIMG_INPUT_ROOT)\n" in text
    assert "FALCONIMG_MAX_SIDE = 16384\n    pixels of a picture's side (default)\n" in text
    assert json.loads(cli("config", "--json", cwd=here, FALCONIMG_MEMORY="100M").stdout)["FALCONIMG_MEMORY"] == {
        **table["FALCONIMG_MEMORY"], "value": 10**8, "source": "FALCONIMG_MEMORY",
    }  # fmt: skip


def test_config_in_a_directory_that_is_gone_is_refused_in_one_line(here: Path) -> None:
    result = shell('mkdir gone; cd gone; rmdir ../gone; exec "$@"', "config", cwd=here)
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, b"", 1)
    assert result.stderr.startswith(b"falconimg: FALCONIMG_ROOT: expected a directory, came one that is gone")


# PORT and WEB_CONCURRENCY

THEIRS = [{"PORT": "tcp://10.0.0.1:80"}, {"WEB_CONCURRENCY": "0"}]


@pytest.mark.parametrize("theirs", THEIRS)
def test_what_is_no_number_of_theirs_stops_only_the_commands_of_a_server(here: Path, theirs: dict[str, str]) -> None:
    (name,) = theirs
    for command, code in (("serve", 2), ("health", 2), ("config", 2), ("check", 1)):
        result = CliRunner().invoke(main, [command], env=theirs)
        assert (result.exit_code, f"{name}: expected a whole number" in result.output) == (code, True)
    for arguments in (["info", "a.png"], ["process", "a.png", "-o", "out/"], ["sign", "/v1/image/a.png"]):
        result = CliRunner().invoke(main, arguments, env={**theirs, "FALCONIMG_KEY": "k" * 16})
        assert result.exit_code == 0, result.output


def test_what_is_no_number_of_theirs_does_not_make_a_limit_of_ours_the_default(here: Path) -> None:
    result = cli("process", "a.png", "-o", "out/", cwd=here, PORT="tcp://10.0.0.1:80", FALCONIMG_MAX_PIXELS="47")
    assert result.stderr.startswith(b"falconimg: a.png: expected at most 47 pixels (FALCONIMG_MAX_PIXELS), came 48\n")
    more = {"PORT": "tcp://10.0.0.1:80", "FALCONIMG_MAX_PIXELS": "60M"}  # over what OpenCV takes by default
    assert cli("process", "a.png", "-o", "out/", cwd=here, **more).returncode == 0


def test_a_server_starts_where_theirs_are_empty(here: Path) -> None:
    result = cli("serve", "--check-config", cwd=here, PORT="", WEB_CONCURRENCY="", FALCONIMG_ROOT=str(here))
    assert result.returncode == 0, result.stderr


# serve, health


@contextmanager
def served(here: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """`falconimg serve`, until it is ready; ended by its own process id."""
    command = [sys.executable, "-P", *COMMAND[1:], "serve", "--pid", "pid"]
    with (here / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=here, env=environ(**variables), stdout=log, stderr=log)
    try:
        wait_for(lambda: cli("health", cwd=here.parent, **variables).returncode == 0 or process.poll() is not None)
        assert process.poll() is None, (here / "log").read_text()
        yield process
    finally:
        process.terminate()
        assert process.wait(SECONDS) == 0


def test_serve_becomes_the_server_and_health_asks_it(here: Path) -> None:
    port = free_port()
    variables = {"FALCONIMG_BIND": f"127.0.0.1:{port}", "FALCONIMG_WORKERS": "1"}
    # a folder of the package's name, as a checkout has one: it is not taken for the package
    (here / "falconimg").mkdir()
    (here / "falconimg" / "__init__.py").write_text("raise RuntimeError")
    with served(here, **variables) as process:
        assert int((here / "pid").read_text()) == process.pid
        result = cli("health", cwd=here.parent, **variables)
        assert result.stdout.decode() == f"http://127.0.0.1:{port}: ready\n"
        everywhere = {**variables, "FALCONIMG_BIND": f"0.0.0.0:{port}"}
        assert cli("health", cwd=here.parent, **everywhere).returncode == 0
        assert cli("health", f"http://localhost:{port}/", cwd=here.parent).returncode == 0
    result = cli("health", cwd=here.parent, **variables)
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"no answer" in result.stderr


def test_health_asks_a_server_at_a_socket_in_the_file_system_and_below_its_prefix(here: Path) -> None:
    variables = {"FALCONIMG_BIND": f"unix:{here}/socket", "FALCONIMG_WORKERS": "1", "FALCONIMG_PREFIX": "/img"}
    with served(here, **variables):
        result = cli("health", cwd=here.parent, **variables)
    assert (result.returncode, result.stdout.decode()) == (0, f"unix:{here}/socket: ready\n")


class Unready(BaseHTTPRequestHandler):
    """A server that is not ready, and says why."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        body = json.dumps({"status": "not ready", "faults": ["the output root is gone"]}).encode()
        self.send_response(503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_health_says_what_is_wrong_with_a_server_below_a_prefix(tmp_path: Path) -> None:
    Unready.asked = []
    with HTTPServer(("127.0.0.1", 0), Unready) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"127.0.0.1:{server.server_port}"
        by_url = cli("health", f"http://{address}/some/where/", cwd=tmp_path)
        by_setting = cli("health", cwd=tmp_path, FALCONIMG_BIND=address, FALCONIMG_PREFIX="/img")
        server.shutdown()
        thread.join()
    assert (by_url.returncode, by_url.stdout) == (by_setting.returncode, by_setting.stdout) == (1, b"")
    assert b"503 the output root is gone" in by_url.stderr
    assert Unready.asked == ["/some/where/readyz", "/img/readyz"]


@pytest.mark.parametrize("url", ["ftp://localhost", "localhost:8888", "http://localhost:port", ""])
def test_health_refuses_what_is_no_address(url: str, tmp_path: Path) -> None:
    assert cli("health", url, cwd=tmp_path).returncode == 2


def test_health_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("falconimg.cli.probe.SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("FALCONIMG_BIND", f"127.0.0.1:{silent.getsockname()[1]}")
        result = CliRunner().invoke(main, ["health"])
    assert (result.exit_code, "no answer: timed out" in result.stderr) == (1, True)


def test_a_wrong_setting_keeps_the_server_from_starting(tmp_path: Path) -> None:
    result = cli("serve", cwd=tmp_path, FALCONIMG_WORKERS="0")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert Settings().workers >= 1


def test_the_page_s_examples_work_as_pasted(here: Path) -> None:
    page = (ROOT / "docs" / "command-line.md").read_text()
    script = page.partition("## Processing files")[2].partition("```sh\n")[2].partition("```")[0]
    for name in ("photo.jpg", "big.jpg", "in/2024/e.jpg", "photos/2024/f.jpg"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "examples" / "landscape.jpg", here / name)
    (here / "bin").mkdir()
    (here / "bin" / "falconimg").write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    (here / "bin" / "falconimg").chmod(0o755)
    path = f"{here / 'bin'}:{os.environ['PATH']}"
    subprocess.run(["/bin/sh", "-ec", script], cwd=here, env=environ(PATH=path), check=True, timeout=SECONDS)
    made = [name for name in tree(here) if name.split("/")[0] in ("small", "out", "web", "parts", "small.jpg")]
    parts = [f"parts/photo_{row}_{column}.png" for row in (1, 2, 3) for column in (1, 2, 3)]
    assert made == ["out/2024/e.webp", *parts, "small.jpg", "small/big.jpg", "small/photo.jpg", "web/2024/f.webp"]
    assert size(here / "small.jpg") == (512, 377)
