"""The command line: each command's options and help. What it does is imported when it is called: help is quick."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import click
from click.shell_completion import get_completion_class

from falconimg.errors import SettingsProblem
from falconimg.settings import Settings, drop_empty

SHELLS = ("bash", "zsh", "fish")
INTERRUPTED = 130
"""The exit code after ^C, which the shell gives as well: 128 and SIGINT."""


class Refused(click.ClickException):
    """What is asked for is wrong, and nothing was done: exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """One line, or several, each for itself, on standard error."""
        for line in self.message.splitlines():
            click.echo(f"falconimg: {line}", err=True)


class Failed(Refused):
    """What is asked for cannot be done: exit code 1."""

    exit_code = 1


def environment(*, serving: bool = True) -> Settings:
    """The environment's settings, see Settings.from_environ.

    Raises:
        Refused: one is wrong
    """
    try:
        return Settings.from_environ(serving=serving)
    except SettingsProblem as problem:
        raise Refused(problem.detail) from None


def out(text: str | bytes) -> None:
    """Write it to standard output, all of it and now.

    Raises:
        Failed: it is full or closed
        BrokenPipeError: nobody reads it any more; click ends the command without a word then, as is usual
    """
    if sys.stdout is None:  # it was closed before the start
        raise Failed(f"standard output: {os.strerror(errno.EBADF)}")
    data = text if isinstance(text, bytes) else text.encode(sys.stdout.encoding, "backslashreplace")
    try:
        while data:  # without Python's buffer (PYTHONUNBUFFERED) a write may be of a part
            data = data[sys.stdout.buffer.write(data) :]
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # what is left in Python's buffer would be tried again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Failed(f"standard output: {error.strerror}") from None


class Commands(click.Group):
    """Click's, but for what it makes of ^C: exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="falconimg", message="%(prog)s %(version)s")
def main() -> None:
    """Process many images at once, or serve those who want to.

    \b
    falconimg process *.jpg -o small/ --op resize=0.5
    falconimg process 'in/**/*.png' -o 'out/{dir}/{stem}.webp' --op split -q 80
    falconimg serve

    FALCONIMG_ variables set what is usual; `falconimg config` lists them. `falconimg COMMAND --help` has more examples,
    `falconimg completion --help` says how your shell completes these commands.
    """


@main.command(
    short_help="Process files, or what a request says.",
    epilog="""\b
Examples:
  falconimg process *.jpg -o small/ --op resize=0.5
  falconimg process photo.jpg -o photo.webp -q 80
  falconimg process photo.jpg -o 'parts/{stem}_{row}_{col}.png' --op split=3x3
  falconimg process 'in/**/*.jpg' -o 'out/{dir}/{stem}.webp' --op resize=1600x --op blur=5
  falconimg process -r photos -o web/ -f webp --op resize=1200x1200,fit:inside,enlarge:no --skip-existing
  falconimg process - --op resize=0.5 < big.jpg > small.jpg
  falconimg process request.json --json

\b
Exit codes:
  0    all done
  1    some images failed
  2    the request is wrong, or a pattern matches nothing
  130  after ^C, which lets the images that run finish; a second one does not""",
)
@click.argument("files", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.option("-o", "--output", metavar="WHERE", type=click.Path(allow_dash=True),
              help="A directory (that exists, or with / at its end), a file, a template such as "
              "'out/{dir}/{stem}.webp', or - for standard output.")  # fmt: skip
@click.option("--op", "operations", metavar="STEP", multiple=True,
              help="resize=0.5, resize=800x, split, split=2x3, tile=256, blur=5, crop=WxH+X+Y, rotate=90, flip=h, "
              "gray; several are done from left to right.")  # fmt: skip
@click.option("-f", "--format", "format_", metavar="NAME", help="The results' format: webp, png, jpg, …")
@click.option("-q", "--quality", metavar="N", type=click.IntRange(1, 100), help="Of JPEG, WebP and AVIF.")
@click.option("--background", metavar="COLOUR", help="Under what was transparent: white, black or RRGGBB.")
@click.option("--metadata", type=click.Choice(["strip", "keep"]), help="EXIF and XMP; strip unless told otherwise.")
@click.option("--precise", is_flag=True, help="No approximation for speed.")
@click.option("-r", "--recursive", is_flag=True, help="Take the pictures (by their extensions) below directories.")
@click.option("--if-exists", type=click.Choice(["overwrite", "skip", "error"]),
              help="What to do with results that are there already; overwrite unless told otherwise.")  # fmt: skip
@click.option("--skip-existing", "if_exists", flag_value="skip", help="The same as --if-exists skip.")
@click.option(
    "-j",
    "--jobs",
    metavar="N",
    type=click.IntRange(1, 256),
    help="Images at once; as many as cores unless told otherwise.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be made.")
@click.option(
    "--json", "as_json", is_flag=True, help="A JSON object a line on standard output: each image, then the sum."
)
@click.option("--quiet", is_flag=True, help="Say nothing but what is wrong.")
def process(**options: Any) -> None:
    """Process FILES, or the request in one file REQUEST.json, as POST /v1/process does.

    FILES are files, quoted patterns (*, ?, [ab] and ** for any directories), directories with -r, or - for standard
    input. Below a directory WHERE, the folders that a pattern or a directory has are kept. In a template {dir} starts
    behind the pattern's fixed part or the directory; {stem} and {ext} are the input's, {index}, {row}, {col}, {width}
    and {height} the result's, and {{ is a brace.

    The one argument REQUEST.json (any name that ends so, or - for a document on standard input) is the body of a
    POST /v1/process; its paths start at the working directory. Links are followed, also where an output is one.
    """
    from falconimg.cli.batch import Wanted, run

    sys.exit(run(Wanted(**options), environment(serving=False)))


@main.command(
    short_help="Say what pictures are, by their headers.",
    epilog="""\b
Examples:
  falconimg info *.jpg
  falconimg info --json photo.avif | jq .width
  curl -s https://example.com/a.png | falconimg info -""",
)
@click.argument("files", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line.")
def info(files: tuple[str, ...], as_json: bool) -> None:
    """Say of each of FILES its size in pixels, format, depth, alpha, orientation, colour profile and bytes.

    Only headers are looked at. - is standard input. Exit code 1 if one is no picture.
    """
    from falconimg.cli.about import info as said

    sys.exit(said(files, environment(serving=False), as_json))


@main.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]},
    short_help="Start the server.",
    epilog="""\b
Examples:
  falconimg serve
  FALCONIMG_ROOT=/srv/pictures FALCONIMG_BIND=0.0.0.0:8888 falconimg serve
  falconimg serve --pid /run/falconimg.pid""",
)
@click.argument("more", nargs=-1, type=click.UNPROCESSED, metavar="[GUNICORN'S OPTIONS]")
def serve(more: tuple[str, ...]) -> None:
    """Start the server, by default on 127.0.0.1:8888 for the files below the working directory.

    This process becomes gunicorn, with falconimg's configuration; options are gunicorn's own.
    """
    environment()
    drop_empty()
    from gunicorn.app.wsgiapp import WSGIApplication

    command, sys.argv = sys.argv, ["gunicorn", "-c", "python:falconimg.gunicorn_conf", *more]
    server = WSGIApplication()
    sys.argv = command  # with which gunicorn starts itself anew (SIGUSR2)
    server.run()


SERVER = click.option(
    "--url", metavar="URL", help="The server's address; that of FALCONIMG_BIND unless told otherwise."
)


@main.group(
    short_help="Put batches on record, and see what becomes of them.",
    epilog="""\b
Examples:
  falconimg jobs submit request.json --watch
  falconimg jobs submit request.json --key nightly-2026-11-30
  falconimg jobs list --state running
  falconimg jobs status 01a22db5ac09cafeb863a5f42955705c | jq .images""",
)
def jobs() -> None:
    """Ask a running server to make batches later, and what became of them.

    A token is taken from FALCONIMG_TOKEN. Exit codes: 0 all is well, 1 images failed or were cancelled, or the server
    does not answer, 2 the request is wrong.
    """


@jobs.command()
@click.argument("request", type=click.Path(allow_dash=True))
@click.option("--key", metavar="KEY", help="Idempotency-Key: with the same one the same request is one job.")
@click.option("--watch", is_flag=True, help="Stay until it ends, as `watch` does.")
@SERVER
def submit(request: str, key: str | None, watch: bool, url: str | None) -> None:
    """Put the request in a file (- is standard input) on record and print the job's id."""
    from falconimg.cli.jobs import Client

    client = Client(url, environment())
    id_ = client.submit(request, key)
    out(f"{id_}\n")
    if watch:
        sys.exit(client.watch(id_))


@jobs.command()
@click.argument("id_", metavar="ID")
@SERVER
def status(id_: str, url: str | None) -> None:
    """Print a job and all of its images as JSON."""
    from falconimg.cli.jobs import Client

    Client(url, environment()).status(id_)


@jobs.command("list")
@click.option("--state", help="Only those that are queued, running, done, partial, failed or cancelled.")
@SERVER
def list_(state: str | None, url: str | None) -> None:
    """Print the jobs, the newest first, a line each."""
    from falconimg.cli.jobs import Client

    Client(url, environment()).list(state)


@jobs.command()
@click.argument("id_", metavar="ID")
@SERVER
def watch(id_: str, url: str | None) -> None:
    """Show a job's progress until it ends."""
    from falconimg.cli.jobs import Client

    sys.exit(Client(url, environment()).watch(id_))


@jobs.command()
@click.argument("id_", metavar="ID")
@SERVER
def cancel(id_: str, url: str | None) -> None:
    """End what is not begun of a job; what runs finishes."""
    from falconimg.cli.jobs import Client

    Client(url, environment()).cancel(id_)


@jobs.command()
@click.argument("id_", metavar="ID")
@SERVER
def retry(id_: str, url: str | None) -> None:
    """Have the failed images of a job made again."""
    from falconimg.cli.jobs import Client

    Client(url, environment()).retry(id_)


@main.command(
    short_help="Make the images of jobs.",
    epilog="""\b
Example:
  FALCONIMG_LEDGER=postgresql+psycopg://falconimg@db/falconimg falconimg worker""",
)
@click.option("--parent", type=int, hidden=True, help="End when this process is no longer the parent.")
def worker(parent: int | None) -> None:
    """Make the images of the jobs of FALCONIMG_LEDGER, until it is told to stop.

    The server starts FALCONIMG_JOB_WORKERS of these itself.
    """
    from falconimg.cli.worker import run

    run(environment(), parent)


@main.command(
    short_help="Say whether all is well.",
    epilog="""\b
Example:
  falconimg check && falconimg serve""",
)
def check() -> None:
    """Say whether all is well: settings, roots, the record of jobs, codecs with their versions, what formats can do.

    Nothing is made, and no port is opened. Exit code 1 if something is wrong.
    """
    from falconimg.cli.about import check as said

    sys.exit(said())


@main.command(
    short_help="List every setting.",
    epilog="""\b
Examples:
  falconimg config
  falconimg config --json | jq .FALCONIMG_BIND.value""",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, by the variables' names.")
def config(as_json: bool) -> None:
    """List every setting: its variable, its value, what set it and what it does. Secrets are not shown."""
    from falconimg.cli.about import config as said

    said(environment(), as_json)


@main.command(
    short_help="Ask a running server whether it takes requests.",
    epilog="""\b
Examples:
  falconimg health
  falconimg health http://images.example.com/img""",
)
@click.argument("url", required=False)
def health(url: str | None) -> None:
    """Ask a running server, the one of FALCONIMG_BIND unless URL names another, whether it takes requests.

    Exit code 0 if so, 1 if not, 2 if URL is no address.
    """
    from falconimg.cli.probe import ask

    sys.exit(ask(url, environment()))


@main.command(
    short_help="Complete commands and options in the shell.",
    epilog="""\b
Examples:
  falconimg completion bash > ~/.local/share/bash-completion/completions/falconimg
  falconimg completion zsh > ~/.zfunc/_falconimg       (~/.zfunc in fpath)
  falconimg completion fish > ~/.config/fish/completions/falconimg.fish""",
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes a shell complete falconimg's commands and options."""
    made = get_completion_class(shell)
    if made:
        out(made(main, {}, "falconimg", "_FALCONIMG_COMPLETE").source())


@main.command(
    epilog="""\b
Examples:
  FALCONIMG_KEY_FILE=key falconimg sign 'https://img.example.com/v1/image/a.jpg?op=resize=800x' --expires 1d
  falconimg sign --verify 'https://img.example.com/v1/image/a.jpg?op=resize=800x&signature=…'"""
)
@click.argument("url")
@click.option("--expires", metavar="WHEN", help="Until when it holds: 90s, 15m, 12h, 30d, or a second since 1970.")
@click.option("--verify", is_flag=True, help="Say what of a signed address is signed, and what is wrong.")
def sign(url: str, expires: str | None, verify: bool) -> None:
    """Sign the address URL with the first key of FALCONIMG_KEY, and print it; or verify one.

    What a server with these settings would refuse is not signed. Of an address that is refused, --verify names a
    parameter that was added, the other route or the prefix that it was signed with, or the time that has passed; it
    cannot find what else was changed or taken away.

    Exit code 1 if an address that is to be verified is refused.
    """
    from falconimg.cli import addresses

    settings = environment(serving=False)
    if not settings.key:
        raise Refused("FALCONIMG_KEY (or FALCONIMG_KEY_FILE) is not set")
    if verify and expires:
        raise Refused("expected --expires for an address that is to be signed, came --verify too")
    if verify:
        sys.exit(addresses.verify(url, settings))
    try:
        out(f"{addresses.sign(url, settings, expires)}\n")
    except ValueError as error:
        raise Refused(str(error)) from None
