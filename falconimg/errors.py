"""Everything that falconimg refuses or fails with, as one tree.

    Problem
    ├── RequestProblem            the request itself: answered before any work
    │   ├── NotHttp               400  not of HTTP's form
    │   ├── NotJson               400  the body is not a JSON document we take
    │   ├── IncompleteBody        400  the body ended before its Content-Length
    │   ├── Unauthorized          401  no token of FALCONIMG_TOKEN came
    │   ├── Forbidden             403  a path leads outside the root
    │   ├── NotSigned             403  an address without a signature of FALCONIMG_KEY's, or expired
    │   ├── UnknownJob            404  no job of that id is on record
    │   ├── RequestTimeout        408  it did not come in time
    │   ├── JobConflict           409  an open job has the output, or the job is in another state
    │   ├── BodyTooLarge          413  the body is over the limit
    │   ├── WrongMediaType        415  the body is said to be something else
    │   ├── WrongHost             421  the Host header is not one of ours
    │   ├── InvalidRequest        422  of the wrong form, or values out of bounds
    │   ├── WrongKey              422  an Idempotency-Key that came with another body
    │   ├── HeadTooLarge          431  the request line and the headers are over the limit
    │   ├── Busy                  503  no room, now or within the waiting time
    │   └── LedgerProblem         503  the ledger does not answer, or takes no record
    ├── ImageProblem              one image of a batch: its neighbours go on
    │   ├── OutsideRoot           403  a path turned out to lead outside, in its turn
    │   ├── Missing               404  there is no such file
    │   ├── Unreadable            422  a directory, a FIFO, no permission
    │   ├── Exists                409  the result's path is taken, and if_exists is error
    │   ├── Conflict              409  ... by another image of this request
    │   ├── TooLarge              413  bytes, pixels, sides or parts over a limit
    │   ├── Unsupported           415  not a picture, or of a kind we do not read
    │   ├── BadName               422  a result's name is no path we take
    │   ├── Damaged               422  truncated or corrupt
    │   ├── Changed               409  not the file that was there when the job was submitted
    │   ├── Lost                  409  another worker has the image by now
    │   ├── Poison                500  several workers ended while they made it
    │   ├── Mismatch              422  not of the SHA-256 that the request names
    │   ├── Impossible            422  an operation that this picture does not allow
    │   ├── Unencodable           422  the format cannot hold this picture
    │   ├── Stopping              503  the server was told to stop before its turn
    │   ├── OutOfMemory           503  no memory for it now
    │   ├── TimedOut              504  its deadline passed
    │   └── NotWritten            507  the disk refused it
    └── SettingsProblem           at start: a FALCONIMG_ variable is wrong

Each class knows its HTTP status, its problem type (RFC 9457) and its title; an
instance adds the detail: where, what was expected, what came.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple


class Place(NamedTuple):
    """One fault in a request: a JSON Pointer (RFC 6901) and what is wrong there."""

    pointer: str
    detail: str


class Problem(Exception):
    """The root of the tree; `detail` is one sentence for the user."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "/problems/internal"
    title: ClassVar[str] = "Something unforeseen happened"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail


class RequestProblem(Problem):
    """The whole request is refused, before any work; `places` says where."""

    def __init__(self, detail: str = "", places: Sequence[Place] = ()) -> None:
        super().__init__(detail)
        self.places = tuple(places)


class NotHttp(RequestProblem):
    status, type, title = 400, "/problems/http", "The request is not HTTP"


class NotJson(RequestProblem):
    status, type, title = 400, "/problems/json", "The body is not JSON"


class IncompleteBody(RequestProblem):
    status, type, title = 400, "/problems/incomplete-body", "The body is incomplete"


class Unauthorized(RequestProblem):
    status, type, title = 401, "/problems/token", "The request has no token of this server's"


class Forbidden(RequestProblem):
    status, type, title = 403, "/problems/outside-root", "The path is outside the root"


class NotSigned(RequestProblem):
    status, type, title = 403, "/problems/signature", "The address is not signed, or no longer"


class UnknownJob(RequestProblem):
    status, type, title = 404, "/problems/job", "There is no such job"


class RequestTimeout(RequestProblem):
    status, type, title = 408, "/problems/request-timeout", "The request did not come in time"


class JobConflict(RequestProblem):
    status, type, title = 409, "/problems/job-conflict", "The job is in the way of another, or of itself"


class BodyTooLarge(RequestProblem):
    status, type, title = 413, "/problems/body-too-large", "The body is too large"


class WrongMediaType(RequestProblem):
    status, type, title = 415, "/problems/media-type", "The body is of the wrong media type"


class WrongHost(RequestProblem):
    status, type, title = 421, "/problems/host", "The Host header is not one of this server's"


class InvalidRequest(RequestProblem):
    status, type, title = 422, "/problems/request", "The request is not valid"


class WrongKey(RequestProblem):
    status, type, title = 422, "/problems/idempotency-key", "The key belongs to another request"


class HeadTooLarge(RequestProblem):
    status, type, title = 431, "/problems/head-too-large", "The request's head is too large"


class Busy(RequestProblem):
    status, type, title = 503, "/problems/busy", "The server is busy"


class LedgerProblem(RequestProblem):
    status, type, title = 503, "/problems/ledger", "The record of jobs cannot be read or written now"


class ImageProblem(Problem):
    """One image fails; `written` are the results that were already in place by then."""

    def __init__(self, detail: str = "", written: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.written = tuple(written)


class OutsideRoot(ImageProblem):
    status, type, title = 403, Forbidden.type, Forbidden.title


class Missing(ImageProblem):
    status, type, title = 404, "/problems/missing", "The image does not exist"


class Unreadable(ImageProblem):
    status, type, title = 422, "/problems/unreadable", "The image cannot be read"


class Exists(ImageProblem):
    status, type, title = 409, "/problems/exists", "The result exists already"


class Conflict(ImageProblem):
    status, type, title = 409, "/problems/conflict", "Another image of the request has this path"


class TooLarge(ImageProblem):
    status, type, title = 413, "/problems/too-large", "The image is too large"


class Unsupported(ImageProblem):
    status, type, title = 415, "/problems/unsupported", "The image is of a kind that is not read"


class BadName(ImageProblem):
    status, type, title = 422, "/problems/name", "The result's name is not a valid path"


class Damaged(ImageProblem):
    status, type, title = 422, "/problems/damaged", "The image is damaged"


class Changed(ImageProblem):
    status, type, title = 409, "/problems/changed", "The image has changed since the job was submitted"


class Lost(ImageProblem):
    status, type, title = 409, "/problems/lost", "Another worker makes the image"


class Poison(ImageProblem):
    status, type, title = 500, "/problems/poison", "Whoever made the image ended with it"


class Mismatch(ImageProblem):
    status, type, title = 422, "/problems/sha256", "The image is not the one that was meant"


class Impossible(ImageProblem):
    status, type, title = 422, "/problems/operation", "The operation is not possible on this image"


class Unencodable(ImageProblem):
    status, type, title = 422, "/problems/format", "The format cannot hold this image"


class Stopping(ImageProblem):
    status, type, title = 503, "/problems/stopping", "The server is stopping"


class OutOfMemory(ImageProblem):
    status, type, title = 503, "/problems/memory", "There is no memory for the image now"


class TimedOut(ImageProblem):
    status, type, title = 504, "/problems/deadline", "The image's time is over"


class NotWritten(ImageProblem):
    status, type, title = 507, "/problems/write", "The result could not be written"


def by_type(type_: str) -> type[Problem]:
    """The class of an image's problem of this type; Problem itself for one that was unforeseen."""
    return next((problem for problem in ImageProblem.__subclasses__() if problem.type == type_), Problem)


class SettingsProblem(Problem):
    """A setting is wrong: the server does not start."""

    title = "A setting is wrong"
