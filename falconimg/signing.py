"""Signed addresses: who has the key says which pictures may be asked for, and until when.

The signature is HMAC-SHA256 (RFC 2104) over the canonical text, in base64url
without padding (RFC 4648, 5). The canonical text is the address's path and its
query without the signature, each encoded in one way only and the query sorted
by name, so that it does not matter how a client encodes or orders them. A path
prefix or a host is not in it.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Sequence
from urllib.parse import quote, unquote, urlsplit

from falconimg.errors import NotSigned
from falconimg.parameters import PARAMETERS, SAFE, pairs, query
from falconimg.schema import came

SIGNATURE, EXPIRES = "signature", "expires"
ROUTE = re.compile(r"/v1/(?:image|info)/")  # not `/v1/` alone, which a prefix may have as well


def canonical(path: str, query_string: str) -> str:
    """What is signed: `path` is decoded and starts at `/v1/`; a signature in the query is left out."""
    rest = [pair for pair in pairs(query_string) if pair[0] != SIGNATURE]
    return f"{quote(path, SAFE + '/')}?{query(rest)}"


def signature(text: str, key: str) -> str:
    """That of a canonical text."""
    return base64.urlsafe_b64encode(hmac.digest(key.encode(), text.encode(), "sha256")).rstrip(b"=").decode()


def sign(address: str, key: str, expires: int | None = None) -> str:
    """The address with its signature, and until when it holds, if that is said here or in it (seconds since 1970).

    Its path and its query come back encoded as they are signed. `address` may have a host
    and a prefix before its route.

    Raises:
        ValueError: it is not that of a picture, below `/v1/image/` or `/v1/info/`, or not in UTF-8
    """
    parts = urlsplit(address)
    found = [pair for pair in pairs(parts.query) if pair[0] != SIGNATURE]
    if expires is not None:
        found = [*(pair for pair in found if pair[0] != EXPIRES), (EXPIRES, str(expires))]
    text = canonical(route(address), query(found))
    path = quote(unquote(parts.path), SAFE + "/")
    return parts._replace(path=path, query=query([*found, (SIGNATURE, signature(text, key))])).geturl()


def route(address: str) -> str:
    """The part of an address's path that is signed, decoded.

    Raises:
        ValueError: it is not that of a picture, below `/v1/image/` or `/v1/info/`, or not in UTF-8
    """
    try:
        address.encode()
    except UnicodeEncodeError:
        raise ValueError(f"expected an address in UTF-8, came {came(address)}") from None
    path = urlsplit(address).path
    found = ROUTE.search(path)
    if not found:
        raise ValueError("expected an address with /v1/image/ or /v1/info/ in its path")
    return unquote(path[found.start() :])


def check(path: str, query_string: str, keys: Sequence[str], now: float) -> int | None:
    """Until when this signed address holds, None for ever.

    Raises:
        NotSigned: no signature, one that is none of these keys', or a time that is none or has passed
    """
    found = dict(pairs(query_string))
    given = found.get(SIGNATURE, "")
    if not given:
        raise NotSigned(f"expected a signed address, with {SIGNATURE}=, came one without")
    text = canonical(path, query_string)
    # a sum and not any(): all are compared, in constant time each, so that the time tells nothing of any
    if not sum(hmac.compare_digest(given.encode(), signature(text, key).encode()) for key in keys):
        raise NotSigned("expected an address that is signed with a key of FALCONIMG_KEY, came another")
    expires = found.get(EXPIRES)
    if expires is None:
        return None
    try:
        until: int = PARAMETERS[EXPIRES].read(expires)
    except ValueError as error:
        raise NotSigned(f"{EXPIRES}: expected {error}, came {came(expires)}") from None
    if now > until:
        raise NotSigned("expected an address that holds, came one that has expired")
    return until
