"""Messages to webhooks: signed, at least once each, in their order, tried again for days.

Source: Standard Webhooks (standardwebhooks.com): the headers webhook-id, -timestamp and -signature.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from http.client import HTTPException
from random import random
from typing import TYPE_CHECKING

from falconimg import log, outgoing
from falconimg.errors import InvalidRequest, Place
from falconimg.jobs.record import Message
from falconimg.settings import Settings

if TYPE_CHECKING:
    from falconimg.jobs.ledger import Ledger

SECONDS = 30.0
"""For one message, from connecting to the answer's first line; meanwhile nobody else sends it."""
FIRST_SECONDS = 2.0
"""After a message that did not arrive; twice as many after each further one, at most an hour."""
MOST_SECONDS = 3600.0
MOST_TRIES = 60
"""Two days, after which nothing more of the job is sent."""


def check(url: str, settings: Settings) -> None:
    """Refuse an address that no message would be sent to.

    Raises:
        InvalidRequest: with the place /webhook
    """
    try:
        if not settings.webhook_key:
            raise outgoing.Refused("expected no webhook, because FALCONIMG_WEBHOOK_KEY is not set, came one")
        where = outgoing.target(url)
        outgoing.addresses(where, settings.private_hosts)
    except outgoing.Refused as problem:
        raise InvalidRequest("The request is not valid", [Place("/webhook", problem.detail)]) from None


def send(message: Message, ledger: Ledger, settings: Settings) -> None:
    """Send it once, and record whether it arrived."""
    first, last = message.events[0]["seq"], message.events[-1]["seq"]
    body = json.dumps({"job": message.job, "events": message.events}).encode()
    id_, now = f"{message.job}.{first}-{last}", int(time.time())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "falconimg",
        "webhook-id": id_,
        "webhook-timestamp": str(now),
        "webhook-signature": signature(settings.webhook_key, id_, now, body),
    }
    fault = _fault(message.url, body, headers, settings)
    if not fault:
        ledger.sent(message)
        return
    wait = min(FIRST_SECONDS * 2 ** min(message.tries, 20), MOST_SECONDS) * (0.75 + random() / 2)  # noqa: S311
    ends = message.tries + 1 >= MOST_TRIES
    ledger.not_sent(message, None if ends else wait)
    log.logger.warning("webhook_failed", job=message.job, seq=last, tries=message.tries + 1, ends=ends, detail=fault)


def signature(key: str, id_: str, timestamp: int, body: bytes) -> str:
    """HMAC-SHA256 of the id, the time and the body, with dots between, in Base64."""
    secret = base64.b64decode(key.removeprefix("whsec_"))
    digest = hmac.digest(secret, f"{id_}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def _fault(url: str, body: bytes, headers: dict[str, str], settings: Settings) -> str:
    """Why it did not arrive, if so; a redirect is none of those that it may go to."""
    try:
        where = outgoing.target(url)
        connection = outgoing.Connection(where, settings.private_hosts, SECONDS)
        with connection.within(SECONDS):
            connection.request("POST", where.path, body, headers | {"Host": where.authority})
            with connection.getresponse() as answer:
                status = answer.status
    except outgoing.Refused as problem:
        return problem.detail
    except (OSError, HTTPException) as error:
        return str(error) or type(error).__name__
    return "" if 200 <= status < 300 else f"expected a status of 2xx, came {status}"
