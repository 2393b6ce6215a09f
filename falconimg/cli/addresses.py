"""`falconimg sign`: signed addresses, made and looked at."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator, Sequence
from time import gmtime, strftime, time
from urllib.parse import unquote, urlsplit

from falconimg import request, signing
from falconimg.cli import out
from falconimg.cli.show import printable
from falconimg.errors import Forbidden, InvalidRequest, NotSigned, RequestProblem
from falconimg.parameters import pairs, parse, query
from falconimg.resources.image import here
from falconimg.schema import came
from falconimg.settings import Settings
from falconimg.signing import EXPIRES, SIGNATURE
from falconimg.stores.memory import Memory

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def sign(url: str, settings: Settings, expires: str | None) -> str:
    """The signed address; raises ValueError in words, also if a server with these settings would refuse it."""
    now = time()
    until = None if expires is None else moment(expires, now)
    if until is not None and until < now:
        raise ValueError(f"--expires: expected a time to come, came one that is over: {utc(until)}")
    address = signing.sign(url, settings.key[0], until)
    try:
        check(*parted(address), settings)
    except RequestProblem as problem:
        raise ValueError("\n".join(faults(problem))) from None
    return address


def parted(url: str) -> tuple[str, str]:
    """The part of an address's path that is signed, decoded, and its query; raises ValueError in words."""
    return signing.route(url), urlsplit(url).query


def check(path: str, query_string: str, settings: Settings) -> int | None:
    """Until when a server with these settings takes the signed address, None for ever, whether or not there is a file.

    Raises:
        NotSigned, InvalidRequest, Forbidden: what the server would answer
    """
    until = signing.check(path, query_string, settings.key, time())
    route, name = path.split("/", 3)[2:]
    store = Memory()
    store.check_input(name)
    if route == "image":
        wanted = parse(query_string, addressed=True)
        request.process(wanted.document([name], [".png"]), settings, store)  # whichever format: all take the same
    return until


def faults(problem: RequestProblem) -> list[str]:
    """What is wrong, place by place as the query has them; a path's fault says itself that it is one."""
    found = []
    for place in problem.places:
        where = here(place.pointer)[1:]
        found.append(f"{where}: {place.detail}" if where and not where.startswith("file/") else place.detail)
    return found or [problem.detail]


def utc(second: int) -> str:
    """That second since 1970, in words."""
    return strftime("%Y-%m-%d %H:%M:%S UTC", gmtime(second))


def moment(text: str, now: float) -> int:
    """The second since 1970 that a text names, or that is so far from now."""
    match = re.fullmatch(r"(\d{1,11})([smhd]?)", text, re.ASCII)
    if not match:
        raise ValueError(f"--expires: expected 90s, 15m, 12h, 30d or seconds since 1970, came {text[:50]!a}")
    number = int(match[1])
    return int(now) + number * UNITS[match[2]] if match[2] else number


def verify(url: str, settings: Settings) -> int:
    """Print what is signed, and what is wrong if something is; the exit code."""
    try:
        path, query_string = parted(url)
        out(f"signed:  {signing.canonical(path, query_string)}\n")
        until = check(path, query_string, settings)
    except ValueError as error:
        said = [str(error)]
    except NotSigned as problem:
        said = [problem.detail, *differences(url, settings.key)]
    except (InvalidRequest, Forbidden) as problem:
        said = faults(problem)
    else:
        out("holds:   " + (f"until {utc(until)}" if until is not None else "for ever") + "\n")
        return 0
    out("refused: " + "\n         ".join(said) + "\n")
    return 1


def differences(url: str, keys: Sequence[str]) -> Iterator[str]:
    """What tells the address from one that its signature fits, as far as it can be found, a line each.

    The signature that would fit is not said: it would make an address that holds of one that was refused.
    """
    path, query_string = parted(url)
    found = pairs(query_string)
    given = dict(found).get(SIGNATURE, "")
    rest = [pair for pair in found if pair[0] != SIGNATURE]

    def fits(path: str, pairs_: Sequence[tuple[str, str]]) -> bool:
        text = signing.canonical(path, query(pairs_))
        return any(hmac.compare_digest(given.encode(), signing.signature(text, key).encode()) for key in keys)

    if not given:
        return
    if fits(path, rest):
        until = dict(rest)[EXPIRES]
        if until.isdecimal() and len(until) < 12:
            yield f"{EXPIRES}={until} is over: {utc(int(until))}"
        return
    yield f"{SIGNATURE}: expected that of the text above, came {came(given)}"
    route, name = path.split("/", 3)[2:]
    other = {"image": "info", "info": "image"}[route]
    if fits(f"/v1/{other}/{name}", rest):
        yield f"it fits the same address below /v1/{other}/, and is good for that alone"
    whole = unquote(urlsplit(url).path)
    if fits(whole, rest):
        yield f"it fits the path with the prefix {printable(whole.removesuffix(path))}, which is not to be signed"
    for place, (name, value) in enumerate(rest):
        if fits(path, rest[:place] + rest[place + 1 :]):
            yield f"it fits the address without {query([(name, value)])}, which came to it after it was signed"
