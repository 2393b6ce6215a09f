"""The ledger: all that is true of jobs, in SQLite or PostgreSQL, and each change of it as one transaction.

An item is one image of a job. Who wants to make it claims it: its fence goes up by one, and a lease is set. Whoever
comes back after the lease has another fence than the item's, and can report nothing. What has ended has one event.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice, takewhile
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    case,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    make_url,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from falconimg.errors import JobConflict, LedgerProblem, Poison, SettingsProblem, UnknownJob, WrongKey
from falconimg.jobs.record import ENDS, OPEN, PRIORITIES, Claim, End, Item, Message, Publication, Turn, Wish
from falconimg.jobs.together import Together
from falconimg.metrics import Waiting

VERSION = 2
"""Of the tables below; a ledger of another one is refused."""
LOCK = 0x66616C636F6E
"""PostgreSQL's advisory lock for making the tables: any number that nobody else in the database takes."""
BUSY_SECONDS = 15
"""How long one who writes waits for another."""
PAGE_BYTES = 4_000_000
"""After so many bytes of images or events a page ends, though more were asked for: one image may have 4,096 outputs."""
MESSAGE_EVENTS = 100
"""Events of one message to a webhook."""
MESSAGE_BYTES = 500_000
"""After so many a message to a webhook ends."""
MOST_RINGS = 5
"""After so many bells the time to the next one grows no more."""
CHUNK = 500
"""Rows that one statement names: SQLite takes 32,766 parameters."""
CANCELLED = 5000
"""Images of a job that is closing that end in one transaction: half a second."""
CLOSING = {
    "cancelled": "not begun: the job was cancelled",
    "skipped": "not begun: an earlier image failed, and on_error is stop",
}
"""Why an image is not begun, by what it comes to."""
FORGOTTEN = "forgotten"
"""The state of a job that is being removed: nobody else finds it any more."""
ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
PAUSE_SECONDS = 0.1
"""Between two such: who waits to write SQLite looks again after that, at the latest."""

META = MetaData()
LEDGER = Table("ledger", META, Column("version", Integer, primary_key=True))
JOB = Table(
    "job",
    META,
    Column("id", String(32), primary_key=True),  # those of later jobs sort behind
    Column("state", String(9), nullable=False),  # one of record.State, or FORGOTTEN
    Column("priority", Integer, nullable=False),
    Column("document", Text, nullable=False),  # the request without its images
    Column("key", String(255), unique=True),  # Idempotency-Key
    Column("digest", String(64), nullable=False),  # of the body
    Column("stop", Integer, nullable=False),  # whether on_error is stop
    Column("closing", String(9)),  # what becomes of what is not begun: cancelled or skipped; nothing if it will begin
    Column("created", Float, nullable=False),
    Column("begun", Float),
    Column("ended", Float),
    Column("total", Integer, nullable=False),
    *(Column(end, Integer, nullable=False, default=0) for end in ENDS),
    Column("events", Integer, nullable=False, default=0),  # the last one's seq
    Column("webhook", Text),  # where events are sent to
    Column("sent", Integer, nullable=False, default=0),  # the last one's seq that arrived there
    Column("tries", Integer, nullable=False, default=0),  # since then
    Column("due", Float),  # when it is tried; never again where there is none
    Index("job_by_state", "state", "id"),
    Index("job_by_due", "due"),
    Index("job_by_end", "ended"),
)
ITEM = Table(
    "item",
    META,
    Column("job", String(32), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("state", String(9), nullable=False),  # pending, running, or one of ENDS
    Column("priority", Integer, nullable=False),
    Column("place", Integer, nullable=False),  # in the request's images
    Column("image", Text, nullable=False),  # as the request has it, its input a file's
    Column("below", Text, nullable=False),  # see job.Image
    Column("input", String(64), nullable=False),  # the digest of the store's canonical name
    Column("identity", String(64)),  # the input's version when the job was submitted; none if there was no file
    Column("fence", Integer, nullable=False, default=0),
    Column("attempts", Integer, nullable=False, default=0),
    Column("round", Integer, nullable=False, default=0),  # goes up by a retry
    Column("lease", Float),  # until when it is its claimer's
    Column("rung", Float),  # when an engine was last told of it
    Column("rings", Integer, nullable=False, default=0),
    Column("hashes", Text),  # SHA-256 by path of what an execution was about to publish
    Column("outcome", Text),  # the report's part
    Index("item_by_lease", "state", "lease"),
    Index("item_by_input", "job", "input"),
)
Index("item_by_turn", ITEM.c.state, ITEM.c.priority.desc(), ITEM.c.job, ITEM.c.number)  # as `_turns` orders them
OUTPUT = Table(
    "output",
    META,
    Column("name", String(64), primary_key=True),  # the digest of the store's canonical name; of open jobs alone
    Column("job", String(32), nullable=False),
    Column("number", Integer, nullable=False),
    Index("output_by_item", "job", "number"),
)
EVENT = Table(
    "event",
    META,
    Column("job", String(32), primary_key=True),
    Column("seq", Integer, primary_key=True),  # 1, 2, … within the job, in the order of commits
    Column("kind", String(8), nullable=False),
    Column("number", Integer),  # the item's that ended
    Column("round", Integer),
    Column("at", Float, nullable=False),
    Column("body", Text, nullable=False),
    UniqueConstraint("job", "number", "round", name="event_once"),
    CheckConstraint("kind IN ('queued', 'image', 'retried', 'ended')", name="event_kind"),
)

# What each image takes is made once: to make a statement takes longer than to execute it.

# one item among many that a statement is executed for; a column's own name would be taken for its new value
_ONE = (ITEM.c.job == bindparam("a_job")) & (ITEM.c.number == bindparam("a_number"))
TURNS = (
    select(ITEM)
    .where(ITEM.c.state == "pending")
    .order_by(ITEM.c.priority.desc(), ITEM.c.job, ITEM.c.number)
    .limit(bindparam("most", type_=Integer))
    .with_for_update(skip_locked=True)
)
# one whose row another has is told so with the next claim: who has items waits for no job
QUEUED = (
    select(JOB.c.id)
    .where(JOB.c.id.in_(bindparam("jobs", expanding=True)), JOB.c.state == "queued")
    .with_for_update(skip_locked=True)
)
BEGIN_JOBS = (
    update(JOB)
    .where(JOB.c.id.in_(QUEUED.scalar_subquery()))
    .values(state="running", begun=func.coalesce(JOB.c.begun, bindparam("now")))
)
DOCUMENTS = select(JOB.c.id, JOB.c.state, JOB.c.closing, JOB.c.document).where(
    JOB.c.id.in_(bindparam("jobs", expanding=True))
)
TAKE_ITEM = (
    update(ITEM)
    .where(_ONE)
    .values(
        state="running", fence=bindparam("a_fence"), attempts=bindparam("an_attempt"), lease=bindparam("a_lease")
    )
)  # fmt: skip
HELD = (
    select(ITEM.c.job, ITEM.c.number, ITEM.c.fence, ITEM.c.round)
    .where(ITEM.c.job == bindparam("a_job"), ITEM.c.number.in_(bindparam("numbers", expanding=True)))
    .where(ITEM.c.state == "running")
    .order_by(ITEM.c.number)
    .with_for_update()
)
NAMES = (
    select(OUTPUT.c.number, OUTPUT.c.name)
    .where(OUTPUT.c.job == bindparam("a_job"), OUTPUT.c.number.in_(bindparam("numbers", expanding=True)))
    .limit(CHUNK)
)
OWNERS = select(OUTPUT).where(OUTPUT.c.name.in_(bindparam("names", expanding=True)))
READERS = (
    select(ITEM.c.input)
    .where(ITEM.c.job == bindparam("a_job"), ITEM.c.number != bindparam("a_number"))
    .where(ITEM.c.input.in_(bindparam("names", expanding=True)))
)
SET_HASHES = update(ITEM).where(_ONE).values(hashes=bindparam("some_hashes"))
END_ITEM = (
    update(ITEM)
    .where(_ONE)
    .values(
        state=bindparam("a_state"),
        outcome=bindparam("an_outcome"),
        lease=None,
        # what a failed one has published is known to its retry
        hashes=case((bindparam("a_state") == "failed", ITEM.c.hashes), else_=None),
    )
)
COUNT_ENDS = (
    update(JOB)
    .where(JOB.c.id == bindparam("a_job"))
    .values(
        events=JOB.c.events + bindparam("more"), **{end: JOB.c[end] + bindparam(f"more_{end}") for end in ENDS}
    )
)  # fmt: skip
COUNTS = select(
    JOB.c.id, JOB.c.state, JOB.c.stop, JOB.c.closing, JOB.c.total, JOB.c.events, *(JOB.c[end] for end in ENDS)
).where(JOB.c.id == bindparam("a_job"))  # fmt: skip
ADD_OUTPUTS, ADD_EVENTS = insert(OUTPUT), insert(EVENT)


class Away(LedgerProblem):
    """The database does not answer at all."""


class Given(NamedTuple):
    """What a turn came to: claims, and whether there may be more at once: a job that is closing was in the way."""

    claims: list[Claim]
    more: bool


class Ended(NamedTuple):
    """What an item came to, in which of its rounds."""

    state: str
    outcome: Mapping[str, Any]
    round: int


class Ledger:
    """The ledger at a URL of SQLAlchemy's, `sqlite:///PATH` or `postgresql+psycopg://…`; one for each process.

    Times are seconds since 1970 by this machine's clock. Each method raises LedgerProblem if the database or its disk
    does not do what it is asked for; then nothing was changed.

    Raises:
        SettingsProblem: it cannot be opened, or is of another version
    """

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        self._together = Together(self._record)
        self._busy = False  # whether there was as much to claim as was asked for
        self.file = file = _file(url)
        try:
            if file:
                file.parent.mkdir(0o700, parents=True, exist_ok=True)
                os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))  # it has the addresses of webhooks
            with self._writing() as connection:
                _prepare(connection)
        except (OSError, LedgerProblem) as error:
            self.close()
            expected = "FALCONIMG_LEDGER: expected a ledger that can be opened, or FALCONIMG_JOBS=off"
            detail = _said(error.__cause__) if isinstance(error, LedgerProblem) else error.strerror
            raise SettingsProblem(f"{expected}, came {file or 'one'}: {detail}") from error
        except SettingsProblem:
            self.close()
            raise

    def close(self) -> None:
        """Let its connections go."""
        self.engine.dispose()

    @contextmanager
    def _writing(self, more: bool = False) -> Iterator[Connection]:
        """One transaction, alone with what it looks at; afterwards there may be `more` to claim."""
        with _answering(), self.engine.connect().execution_options(write=True) as connection, connection.begin():
            yield connection
        if more:
            self._tell()

    def _tell(self) -> None:
        """Wake the processes that wait for something to claim in SQLite."""
        if self.file:
            with suppress(OSError):  # they ask by themselves too
                os.utime(self.file)  # their Wakers see that

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """What is on record at one moment."""
        with _answering(), self.engine.connect() as connection:
            yield connection

    # Submitting

    def known(self, key: str, digest: str) -> str | None:
        """The job of that key, if there is one.

        Raises:
            WrongKey: there is, of another digest
        """
        with self._reading() as connection:
            return _of_key(connection, key, digest)

    def submit(
        self,
        document: Mapping[str, Any],
        items: Sequence[Item],
        digest: str,
        key: str | None = None,
        priority: int = PRIORITIES["normal"],
        webhook: str | None = None,
    ) -> tuple[str, bool]:
        """Put a job on record; its id, and whether it is new: one of the same key and digest is that one again.

        Raises:
            WrongKey: there is a job of that key and another digest
            JobConflict: one of its outputs is an open job's
            LedgerProblem: it could not be recorded
        """
        now = time.time()
        id_ = f"{int(now * 1000):012x}{secrets.token_hex(10)}"
        job = {
            "id": id_, "state": "queued", "priority": priority, "document": json.dumps(document), "key": key,
            "digest": digest, "stop": int(document.get("on_error") == "stop"), "created": now, "total": len(items),
            "webhook": webhook, "due": now if webhook else None,
        }  # fmt: skip
        rows = [
            {
                "job": id_, "number": number, "state": "pending", "priority": priority, "place": item.place,
                "image": json.dumps(item.image), "below": item.below, "input": digest_of(item.key),
                "identity": item.identity,
            }
            for number, item in enumerate(items)
        ]  # fmt: skip
        names = [(path, number) for number, item in enumerate(items) for path in item.outputs]
        outputs = _outputs(id_, names)
        try:
            with self._writing(more=True) as connection:
                if key and (found := _of_key(connection, key, digest)):
                    return found, False
                _require_free(connection, [path for path, _ in names])
                connection.execute(insert(JOB), job)
                for table, found_rows in ((ITEM, rows), (OUTPUT, outputs)):
                    if found_rows:
                        connection.execute(insert(table), found_rows)
                _add_event(connection, id_, "queued", now, {"total": len(items)})
        except IntegrityError:
            # another process was quicker by a moment (PostgreSQL): now it can be seen
            with self._reading() as connection:
                if key and (found := _of_key(connection, key, digest)):
                    return found, False
                _require_free(connection, [path for path, _ in names])
            raise
        return id_, True

    # Making

    def claim(self, most: int, seconds: float, idle: bool = True) -> list[Claim]:
        """The next items, at most so many: by priority, then the oldest jobs', each with a lease of `seconds`.

        One whose claimer ended with it may be what ended it. It is given alone, and only to a process that is `idle`,
        so that no other image is taken for poison; until then that process gets no other either.
        """
        return self.end_and_claim([], Turn(most, seconds, idle) if most > 0 else None)[1]

    def end_and_claim(self, ends: Sequence[End], turn: Turn | None) -> tuple[list[bool | Exception], list[Claim]]:
        """These items have come to that, and the next ones of that turn, as `claim` gives them, in one transaction.

        Returns: of each end whether it is on record, False if the item is no longer its claimer's, or why it could
        not be; and the claims, none where the ends alone could be recorded.
        """
        if turn and not ends and not self._busy:
            with self._reading() as connection:  # to look takes no lock
                if not connection.execute(TURNS, {"most": 1}).first():
                    return [], []
        wishes: list[Wish] = [*ends]
        if turn:
            wishes.append(turn)
        answers = self._together(wishes) if wishes else []
        if not turn:
            return answers, []
        given = answers.pop()
        if isinstance(given, Exception):
            if not ends:
                raise given
            return answers, []
        self._busy = len(given.claims) == turn.most or given.more
        if given.more:
            self._tell()
        return answers, given.claims

    def renew(self, claims: Iterable[Claim], seconds: float) -> list[Claim]:
        """Set their leases anew; those that are still their claimer's, with them."""
        renewed = [claim._replace(lease=time.time() + seconds) for claim in sorted(claims, key=_key)]
        with self._writing() as connection:
            return [
                claim
                for claim in renewed
                if connection.execute(update(ITEM).where(_held(claim)).values(lease=claim.lease)).rowcount
            ]

    def give_back(self, claims: Iterable[Claim]) -> None:
        """Let others have what was not begun; that was no attempt."""
        again = {"state": "pending", "lease": None, "attempts": ITEM.c.attempts - 1, "rung": None, "rings": 0}
        with self._writing(more=True) as connection:
            for claim in sorted(claims, key=_key):
                connection.execute(update(ITEM).where(_held(claim)).values(again))

    def about_to_publish(
        self, claim: Claim, hashes: Mapping[str, str], names: Mapping[str, str], lease: float = 0.0
    ) -> bool:
        """Record what is going to be published; whether the item is still its claimer's.

        Where there is nothing to record, and the lease is not over by the one clock that all of SQLite's have, it is.

        Args:
            claim: whose
            hashes: SHA-256 by the path that the report has, of what a further execution has to know as its own
            names: the store's canonical name by that path, of all
            lease: until when it is known to be the claimer's

        Raises:
            JobConflict: an open item of another job has one of the names
        """
        recorded = not hashes and claim.names.issuperset(map(digest_of, names.values()))
        if recorded and self.file and time.time() < lease:
            return True
        return bool(self._only(Publication(claim, hashes, names)))

    def end(self, claim: Claim, state: str, outcome: Mapping[str, Any]) -> bool:
        """The item has come to this; False if it is no longer its claimer's, and then nothing is changed.

        With the job's last item, the job ends; one that fails ends a job that stops on errors.
        """
        return bool(self._only(End(claim, state, outcome)))

    def _only(self, wish: Wish) -> Any:
        [answer] = self._together([wish])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _record(self, calls: Sequence[Sequence[Wish]]) -> Sequence[list[Any]]:
        """What several threads wish, in one transaction."""
        answers = iter(self._answers([wish for wishes in calls for wish in wishes]))
        return [list(islice(answers, len(wishes))) for wishes in calls]

    def _answers(self, wishes: Sequence[Wish]) -> Sequence[Any]:
        try:
            with self._writing() as connection:
                return _recorded(connection, wishes)
        except IntegrityError:
            pass
        except LedgerProblem as problem:
            # SQLite is busy, or its disk is full: so it is for each
            if self.engine.dialect.name == "sqlite" or isinstance(problem, Away):
                raise
        # another process was quicker by a moment, or waits for one of these as these do for it, or one is too large
        return [self._alone(wish) for wish in wishes]

    def _alone(self, wish: Wish) -> Any:
        try:
            with self._writing() as connection:
                [answer] = _recorded(connection, [wish])
        except Away:
            raise
        except LedgerProblem as problem:
            return problem
        except IntegrityError as error:
            return LedgerProblem(f"another process was quicker: {error.orig}")
        return answer

    # Looking after

    def expire(self, most_attempts: int) -> list[tuple[str, int, str]]:
        """Items whose lease is over: others may have them, or they are poison after so many attempts.

        Returns: (job, number, what became of it: pending or failed)
        """
        now = time.time()
        over = select(ITEM).where(ITEM.c.state == "running", ITEM.c.lease < now)
        with self._reading() as connection:
            if not connection.execute(over.limit(1)).first():
                return []
        found = []
        with self._writing(more=True) as connection:
            in_order = over.order_by(ITEM.c.job, ITEM.c.number).limit(CHUNK)
            for row in connection.execute(in_order.with_for_update(skip_locked=True)).all():
                closing = _counts(connection, row.job).closing
                if row.attempts >= most_attempts:
                    error = {
                        "type": Poison.type,
                        "title": Poison.title,
                        "detail": f"expected an end of {most_attempts} attempts (FALCONIMG_JOB_ATTEMPTS), came none",
                    }
                    became = "failed"
                    outcome = _outcome(json.loads(row.image), became) | {"error": error}
                elif closing:
                    became, outcome = closing, _not_begun(json.loads(row.image), closing, row.place)
                else:
                    connection.execute(
                        update(ITEM)
                        .where(ITEM.c.job == row.job, ITEM.c.number == row.number)
                        .values(state="pending", lease=None, rung=None, rings=0)
                    )
                    found.append((row.job, row.number, "pending"))
                    continue
                _end(connection, row.job, {row.number: Ended(became, outcome, row.round)})
                found.append((row.job, row.number, became))
        return found

    def unheard(self, most: int, seconds: float) -> list[tuple[str, int]]:
        """Items that nobody was told of, or that are pending still after that and so many seconds: (job, number).

        It is twice as long after each further time, up to MOST_RINGS times, so that what waits in a long queue is not
        told of all the time.
        """
        now = time.time()
        rings = case((ITEM.c.rings < MOST_RINGS, ITEM.c.rings), else_=MOST_RINGS)
        silent = ITEM.c.rung.is_(None) | (ITEM.c.rung < now - seconds * func.power(2, rings))
        query = select(ITEM.c.job, ITEM.c.number).where(ITEM.c.state == "pending", silent).limit(most)
        with self._reading() as connection:
            if not connection.execute(query.limit(1)).first():
                return []
        with self._writing() as connection:
            rows = connection.execute(query.with_for_update(skip_locked=True)).all()
            for row in rows:
                connection.execute(
                    update(ITEM)
                    .where(ITEM.c.job == row.job, ITEM.c.number == row.number)
                    .values(rung=now, rings=ITEM.c.rings + 1)
                )
        return [(row.job, row.number) for row in rows]

    def forget(self, before: float) -> int:
        """Remove the jobs that ended before then; how many."""
        told = JOB.c.due.is_(None) | (JOB.c.sent >= JOB.c.events)
        old = select(JOB.c.id, JOB.c.total, JOB.c.events).where(JOB.c.ended < before, told).limit(CHUNK)
        with self._reading() as connection:
            rows = connection.execute(old).all()
        for row in rows:  # in several transactions, as a job may be large, and others write too; its own row goes last
            # a retry may have opened it meanwhile, and finds it no more from now on
            with self._writing() as connection:
                gone = update(JOB).where(JOB.c.id == row.id, JOB.c.ended < before)
                if not connection.execute(gone.values(state=FORGOTTEN, key=None)).rowcount:
                    continue
            for column, last in ((ITEM.c.number, row.total), (EVENT.c.seq, row.events)):
                for first in range(0, last + 1, CHUNK):
                    within = column.between(first, first + CHUNK - 1)
                    with self._writing() as connection:
                        connection.execute(delete(column.table).where(column.table.c.job == row.id, within))
            with self._writing() as connection:
                connection.execute(delete(JOB).where(JOB.c.id == row.id))
        return len(rows)

    def messages(self, most: int, seconds: float) -> list[Message]:
        """What is to be sent to webhooks now, at most so many; nobody else gets the same for so many seconds."""
        now = time.time()
        due = select(JOB).where(JOB.c.due <= now, JOB.c.sent < JOB.c.events).order_by(JOB.c.due).limit(most)
        with self._reading() as connection:
            if not connection.execute(due.limit(1)).first():
                return []
        found = []
        with self._writing() as connection:
            for row in connection.execute(due.with_for_update(skip_locked=True)).all():
                connection.execute(update(JOB).where(JOB.c.id == row.id).values(due=now + seconds))
                events = _events(connection, row.id, row.sent, MESSAGE_EVENTS, MESSAGE_BYTES)
                found.append(Message(row.id, row.webhook, row.tries, events))
        return found

    def sent(self, message: Message) -> None:
        """It has arrived: what follows may be sent."""
        last = message.events[-1]["seq"]
        with self._writing() as connection:
            connection.execute(
                update(JOB)
                .where(JOB.c.id == message.job, JOB.c.sent < last)
                .values(sent=last, tries=0, due=time.time())
            )

    def not_sent(self, message: Message, seconds: float | None) -> None:
        """Try it again after so many seconds, or never."""
        due = None if seconds is None else time.time() + seconds
        with self._writing() as connection:
            connection.execute(update(JOB).where(JOB.c.id == message.job).values(tries=message.tries + 1, due=due))

    # Asking

    def job(self, id_: str) -> dict[str, Any]:
        """What a job is; raises UnknownJob."""
        with self._reading() as connection:
            return _shown(_job(connection, id_))

    def jobs(self, state: str | None, before: str | None, most: int) -> list[dict[str, Any]]:
        """The newest jobs, of a state if one is given, and older than one of that id."""
        query = select(JOB).where(JOB.c.state != FORGOTTEN).order_by(JOB.c.id.desc()).limit(most)
        if state:
            query = query.where(JOB.c.state == state)
        if before:
            query = query.where(JOB.c.id < before)
        with self._reading() as connection:
            return [_shown(row) for row in connection.execute(query)]

    def waiting(self) -> Waiting:
        """What has not ended."""
        jobs = select(JOB.c.state, func.count(), func.min(JOB.c.created)).where(JOB.c.state.in_(OPEN))
        images = select(ITEM.c.state, func.count()).where(ITEM.c.state.in_(("pending", "running")))
        late = select(func.count()).select_from(JOB).where(JOB.c.due.is_not(None), JOB.c.tries > 0)
        with self._reading() as connection:
            rows = connection.execute(jobs.group_by(JOB.c.state)).all()
            created = [created for _, _, created in rows]
            return Waiting(
                {state: count for state, count, _ in rows},
                {state: count for state, count, *_ in connection.execute(images.group_by(ITEM.c.state))},
                time.time() - min(created) if created else 0.0,
                connection.scalar(late) or 0,
            )

    def images(self, id_: str, after: int, most: int) -> list[dict[str, Any]]:
        """A job's images behind that number: their part of the report, or their state; raises UnknownJob.

        They are fewer than `most` where they have more than PAGE_BYTES.
        """
        size = func.length(func.coalesce(ITEM.c.outcome, ITEM.c.image))
        with self._reading() as connection:
            _job(connection, id_)
            last = _page(connection, id_, ITEM.c.number, size, after, most, PAGE_BYTES)
            query = select(ITEM.c.number, ITEM.c.state, ITEM.c.image, ITEM.c.outcome).where(
                ITEM.c.job == id_, ITEM.c.number > after, ITEM.c.number <= last
            )
            return [
                {"index": row.number}
                | (json.loads(row.outcome) if row.outcome else _outcome(json.loads(row.image), row.state))
                for row in connection.execute(query.order_by(ITEM.c.number))
            ]

    def events(self, id_: str, after: int, most: int) -> list[dict[str, Any]]:
        """A job's events behind that seq, in their order; raises UnknownJob.

        They are fewer than `most` where they have more than PAGE_BYTES.
        """
        with self._reading() as connection:
            _job(connection, id_)
            return _events(connection, id_, after, most, PAGE_BYTES)

    # Changing one's mind

    def cancel(self, id_: str) -> dict[str, Any]:
        """End what is not begun; what runs finishes. The job as it is then; raises UnknownJob.

        Of a large job it is some at a time, so that others can write too; who is cut off between them asks again.
        """
        while True:
            with self._writing() as connection:
                job = _job(connection, id_, lock=True)  # as who ends an image has it before the pending ones
                if job.state not in OPEN:
                    return _shown(job)
                connection.execute(update(JOB).where(JOB.c.id == id_).values(closing="cancelled"))
                ended = _close(connection, id_)
                shown = _shown(_job(connection, id_))
            if ended < CANCELLED:
                return shown
            time.sleep(PAUSE_SECONDS)

    def retry(
        self, id_: str, names: Mapping[int, Sequence[str]], identities: Mapping[int, str | None]
    ) -> dict[str, Any]:
        """Have the failed images made again.

        Args:
            id_: the job's
            names: the canonical names that their outputs claim, by number
            identities: the versions of their inputs, by number

        Raises:
            UnknownJob
            JobConflict: it has not ended, or nothing of it failed, or an open job has one of the names
        """
        try:
            with self._writing(more=True) as connection:
                return _retried(connection, id_, names, identities)
        except IntegrityError:
            # another process was quicker by a moment (PostgreSQL): now it can be seen
            with self._writing(more=True) as connection:
                return _retried(connection, id_, names, identities)

    def failed(self, id_: str) -> list[tuple[int, dict[str, Any], str]]:
        """The images of a job that failed: (number, as the request has it, below); raises UnknownJob."""
        query = select(ITEM.c.number, ITEM.c.image, ITEM.c.below).where(ITEM.c.job == id_, ITEM.c.state == "failed")
        with self._reading() as connection:
            _job(connection, id_)
            rows = connection.execute(query.order_by(ITEM.c.number))
            return [(row.number, json.loads(row.image), row.below) for row in rows]

    def document(self, id_: str) -> dict[str, Any]:
        """A job's request without its images; raises UnknownJob."""
        with self._reading() as connection:
            return dict(json.loads(_job(connection, id_).document))


def _retried(
    connection: Connection, id_: str, names: Mapping[int, Sequence[str]], identities: Mapping[int, str | None]
) -> dict[str, Any]:
    job = _job(connection, id_, lock=True)
    if job.state in OPEN or not job.failed:
        raise JobConflict(f"expected a job that has ended and of which images failed, came one that is {job.state}")
    failed = connection.scalars(select(ITEM.c.number).where(ITEM.c.job == id_, ITEM.c.state == "failed")).all()
    if set(failed) - set(names):
        raise JobConflict("expected the images that had failed when it was looked at, came others: try it again")
    claimed = [(name, number) for number in failed for name in names[number]]
    _require_free(connection, [name for name, _ in claimed])
    if claimed:
        connection.execute(ADD_OUTPUTS, _outputs(id_, claimed))
    connection.execute(
        update(ITEM)
        .where(ITEM.c.job == id_, ITEM.c.state == "failed")
        .values(state="pending", attempts=0, round=ITEM.c.round + 1, outcome=None, rung=None, rings=0)
    )
    versions = [{**_one(id_, each), "an_identity": identities[each]} for each in failed if each in identities]
    if versions:
        connection.execute(update(ITEM).where(_ONE).values(identity=bindparam("an_identity")), versions)
    connection.execute(update(JOB).where(JOB.c.id == id_).values(state="queued", failed=0, ended=None, closing=None))
    _add_event(connection, id_, "retried", time.time(), {"images": job.failed})
    return _shown(_job(connection, id_))


def _file(url: str) -> Path | None:
    parts = make_url(url)
    return Path(parts.database or "") if parts.get_backend_name() == "sqlite" else None


def _engine(url: str) -> Engine:
    return _sqlite(url) if _file(url) else _postgresql(url)


def _postgresql(url: str) -> Engine:
    patience = {} if "connect_timeout" in make_url(url).query else {"connect_timeout": int(BUSY_SECONDS)}
    try:
        engine = create_engine(url, pool_pre_ping=True, connect_args=patience)
    except ImportError:
        raise SettingsProblem("FALCONIMG_LEDGER: expected falconimg[celery] to be installed, came none") from None

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: Any) -> None:
        # who freezes in the middle of a transaction keeps others waiting no longer: it is taken back
        for setting in ("idle_in_transaction_session_timeout", "lock_timeout"):
            connection.execute(f"SET {setting} = {1000 * BUSY_SECONDS:.0f}")
        connection.commit()

    return engine


def _sqlite(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins no transaction of its own
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # who may write says so at once, and waits for its turn then; later it could only fail
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("write") else "BEGIN")

    return engine


def _prepare(connection: Connection) -> None:
    """Make the tables where there are none.

    Raises:
        SettingsProblem: they are of another version
    """
    if connection.dialect.name == "postgresql":  # of those that find none one makes them
        connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
    if not inspect(connection).has_table("ledger"):
        META.create_all(connection)
        connection.execute(insert(LEDGER), {"version": VERSION})
    version = connection.scalar(select(LEDGER.c.version))
    if version != VERSION:
        raise SettingsProblem(
            f"FALCONIMG_LEDGER: expected a ledger of version {VERSION}, came one of version {version}: another version "
            "of falconimg made it; move it away once its jobs have ended"
        )


def _recorded(connection: Connection, wishes: Sequence[Wish]) -> list[Any]:
    """What came of each; the ends are first, as others may have the names of what has ended, and claims last."""
    made = [wish for wish in wishes if not isinstance(wish, Turn)]
    rounds = _held_rounds(connection, [each.claim for each in made])
    ends: dict[str, dict[int, Ended]] = {}
    for each in made:
        job, number, _ = key = each.claim.key
        if isinstance(each, End) and key in rounds:
            ends.setdefault(job, {})[number] = Ended(each.state, each.outcome, rounds[key])
    for job in sorted(ends):  # as all do, so that no two wait for each other
        _end(connection, job, ends[job])
    held = [each for each in made if isinstance(each, Publication) and each.claim.key in rounds]
    refused = _publish(connection, held)
    turns = [wish for wish in wishes if isinstance(wish, Turn)]
    claims, more = _claims(connection, turns) if turns else (iter(()), False)
    answers: list[Any] = []
    for wish in wishes:
        if isinstance(wish, Turn):
            answers.append(Given(list(islice(claims, wish.most)), more))
        elif isinstance(wish, Publication):
            answers.append(refused.get(wish.claim.key, wish.claim.key in rounds))
        else:
            answers.append(wish.claim.key in rounds)
    return answers


def _claims(connection: Connection, turns: Sequence[Turn]) -> tuple[Iterator[Claim], bool]:
    """The next items, for all of these together, and whether there may be more at once."""
    rows = connection.execute(TURNS, {"most": sum(turn.most for turn in turns)}).all()
    found = connection.execute(DOCUMENTS, {"jobs": sorted({row.job for row in rows})}).all() if rows else []
    closing = {row.id for row in found if row.closing}
    for job in sorted(closing):  # who was to end what is not begun of it was cut off, or is not that far
        _close(connection, job)
    rows = [row for row in rows if row.job not in closing]
    fresh = list(takewhile(lambda row: not row.attempts, rows))
    rows = fresh or (rows[:1] if all(turn.idle for turn in turns) else [])
    if not rows:
        return iter(()), bool(closing)
    numbers, now = dict[str, list[int]](), time.time()
    for row in rows:
        numbers.setdefault(row.job, []).append(row.number)
    documents = {row.id: json.loads(row.document) for row in found if row.id in numbers}
    if queued := [row.id for row in found if row.id in numbers and row.state == "queued"]:
        connection.execute(BEGIN_JOBS, {"jobs": queued, "now": now})
    names: dict[tuple[str, int], list[str]] = {(row.job, row.number): [] for row in rows}
    for job, mine in numbers.items():
        for number, name in connection.execute(NAMES, {"a_job": job, "numbers": mine}):
            names[job, number].append(name)
    claims = [
        Claim(
            row.job, row.number, row.fence + 1, row.attempts + 1, row.place, documents[row.job], json.loads(row.image),
            row.below, row.identity, json.loads(row.hashes or "{}"), frozenset(names[row.job, row.number]),
            now + max(turn.seconds for turn in turns),
        )
        for row in rows
    ]  # fmt: skip
    connection.execute(
        TAKE_ITEM,
        [
            {
                **_one(claim.job, claim.number), "a_fence": claim.fence, "an_attempt": claim.attempts,
                "a_lease": claim.lease,
            }
            for claim in claims
        ],
    )  # fmt: skip
    return iter(claims), bool(closing)


def _one(job: str, number: int) -> dict[str, Any]:
    return {"a_job": job, "a_number": number}


def _publish(connection: Connection, publications: Sequence[Publication]) -> dict[tuple[str, int, int], Exception]:
    """Record what is going to be published; the refusals by their claims' keys."""
    digests = [{path: digest_of(name) for path, name in each.names.items()} for each in publications]
    owners = _owners(connection, [name for names in digests for name in names.values()])
    refused: dict[tuple[str, int, int], Exception] = {}
    hashes, outputs = [], []
    for (claim, made, _), names in zip(publications, digests, strict=True):
        me = claim.job, claim.number
        new = [name for name in dict.fromkeys(names.values()) if name not in owners]
        readers = _readers(connection, me, new)
        for path, name in names.items():
            if owners.get(name, me) != me:
                expected, came = "a path that no open job has", f"one of {owners[name][0]}'s"
            elif name in readers:
                expected, came = "a path that is no other image's input", "one"
            else:
                continue
            refused[claim.key] = JobConflict(f"{path}: expected {expected}, came {came}")
            break
        if claim.key in refused:
            continue
        if made:
            hashes.append({**_one(*me), "some_hashes": json.dumps({**claim.hashes, **made})})
        outputs += [{"name": name, "job": claim.job, "number": claim.number} for name in new]
        owners.update(dict.fromkeys(new, me))
    if hashes:
        connection.execute(SET_HASHES, hashes)
    if outputs:
        connection.execute(ADD_OUTPUTS, sorted(outputs, key=itemgetter("name")))  # as all do
    return refused


def _readers(connection: Connection, me: tuple[str, int], names: Sequence[str]) -> set[str]:
    """Of names that are claimed in their turn, those of inputs of the job's other images."""
    found: set[str] = set()
    for chunk in _chunks(names):
        found.update(connection.scalars(READERS, {"a_job": me[0], "a_number": me[1], "names": chunk}))
    return found


def _held_rounds(connection: Connection, claims: Sequence[Claim]) -> dict[tuple[str, int, int], int]:
    """The rounds of those that still are their claimer's, by their keys; nobody changes them meanwhile."""
    numbers: dict[str, list[int]] = {}
    for claim in claims:
        numbers.setdefault(claim.job, []).append(claim.number)
    return {
        (row.job, row.number, row.fence): row.round
        for job in sorted(numbers)
        for row in connection.execute(HELD, {"a_job": job, "numbers": numbers[job]})
    }


def _key(claim: Claim) -> tuple[str, int, int]:
    """In this order rows are locked, whoever does."""
    return claim.key


def _held(claim: Claim) -> Any:
    return (
        (ITEM.c.job == claim.job)
        & (ITEM.c.number == claim.number)
        & (ITEM.c.fence == claim.fence)
        & (ITEM.c.state == "running")
    )


def _job(connection: Connection, id_: str, lock: bool = False) -> Row[Any]:
    query = select(JOB).where(JOB.c.id == id_, JOB.c.state != FORGOTTEN)
    row = connection.execute(query.with_for_update() if lock else query).first() if ID.fullmatch(id_) else None
    if row is None:
        raise UnknownJob(f"expected the id of a job, came {id_[:64]!a}")
    return row


def _of_key(connection: Connection, key: str, digest: str) -> str | None:
    row = connection.execute(select(JOB.c.id, JOB.c.digest).where(JOB.c.key == key)).first()
    if row and row.digest != digest:
        raise WrongKey(f"expected another Idempotency-Key for another request, came that of job {row.id}")
    return row.id if row else None


def digest_of(name: str) -> str:
    """What stands for a store's canonical name, however long that is: an index of PostgreSQL's takes 2,700 bytes."""
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()


def _outputs(job: str, names: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    """The rows of these names of images, (name, number), in the order in which all add theirs."""
    rows = [{"name": digest_of(name), "job": job, "number": number} for name, number in names]
    return sorted(rows, key=itemgetter("name"))


def _owners(connection: Connection, digests: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Of these, those that an open job has: (job, number)."""
    found = {}
    for chunk in _chunks(digests):
        for row in connection.execute(OWNERS, {"names": chunk}):
            found[row.name] = (row.job, row.number)
    return found


def _require_free(connection: Connection, names: Iterable[str]) -> None:
    by_digest = {digest_of(name): name for name in names}
    for digest, (job, _) in _owners(connection, list(by_digest)).items():
        raise JobConflict(f"expected outputs that no open job has, came {by_digest[digest]}, which is job {job}'s")


def _page(
    connection: Connection, job: str, column: Column[int], size: Any, after: int, most: int, most_bytes: int
) -> int:
    """The last number of a page of a job's rows behind that one: so many rows and bytes at most, but one at least."""
    query = select(column, size).where(column.table.c.job == job, column > after).order_by(column).limit(most)
    last, total = after, 0
    for number, taken in connection.execute(query):
        if total and total + taken > most_bytes:
            break
        last, total = number, total + taken
    return last


def _events(connection: Connection, job: str, after: int, most: int, most_bytes: int) -> list[dict[str, Any]]:
    last = _page(connection, job, EVENT.c.seq, func.length(EVENT.c.body), after, most, most_bytes)
    query = select(EVENT).where(EVENT.c.job == job, EVENT.c.seq > after, EVENT.c.seq <= last).order_by(EVENT.c.seq)
    return [
        {"seq": row.seq, "kind": row.kind, "at": row.at, **json.loads(row.body)} for row in connection.execute(query)
    ]


def _add_event(connection: Connection, job: str, kind: str, at: float, body: Mapping[str, Any]) -> None:
    """The job's next event; its row is locked by that until the end, so that seq is in the order of commits."""
    connection.execute(update(JOB).where(JOB.c.id == job).values(events=JOB.c.events + 1))
    row = {"job": job, "seq": _job(connection, job).events, "kind": kind, "at": at, "body": json.dumps(body)}
    connection.execute(insert(EVENT), row)


def _end(connection: Connection, job: str, ends: Mapping[int, Ended]) -> None:
    """Items end; one that fails ends a job that stops on errors, and the last one ends its job."""
    row = _end_items(connection, job, ends)
    if row.stop and not row.closing and any(end.state == "failed" for end in ends.values()):
        connection.execute(update(JOB).where(JOB.c.id == job).values(closing="skipped"))
        _close(connection, job)
    else:
        _end_if_all_have(connection, row)


def _end_items(connection: Connection, job: str, ends: Mapping[int, Ended]) -> Row[Any]:
    """These items of a job, by number, come to that; the job's row as it is then, locked."""
    now = time.time()
    connection.execute(
        END_ITEM,
        [
            {**_one(job, number), "a_state": end.state, "an_outcome": json.dumps(end.outcome)}
            for number, end in ends.items()
        ],
    )
    states = [end.state for end in ends.values()]
    counts = {f"more_{end}": states.count(end) for end in ENDS}
    connection.execute(COUNT_ENDS, {"a_job": job, "more": len(ends), **counts})
    row = _counts(connection, job)
    connection.execute(
        ADD_EVENTS,
        [
            {
                "job": job, "seq": seq, "kind": "image", "number": number, "round": end.round, "at": now,
                "body": json.dumps({"index": number, **end.outcome}),
            }
            for seq, (number, end) in enumerate(ends.items(), row.events - len(ends) + 1)
        ],
    )  # fmt: skip
    return row


def _close(connection: Connection, job: str) -> int:
    """End what is not begun of a job that is closing, some at a time, so that others can write too; how many."""
    state = _counts(connection, job).closing
    rows = connection.execute(
        select(ITEM.c.number, ITEM.c.place, ITEM.c.image, ITEM.c.round)
        .where(ITEM.c.job == job, ITEM.c.state == "pending")
        .order_by(ITEM.c.number)
        .limit(CANCELLED)
        .with_for_update()
    ).all()
    for chunk in _chunks(rows):
        ends = {
            row.number: Ended(state, _not_begun(json.loads(row.image), state, row.place), row.round) for row in chunk
        }
        _end_items(connection, job, ends)
    _end_if_all_have(connection, _counts(connection, job))
    return len(rows)


def _counts(connection: Connection, job: str) -> Row[Any]:
    return connection.execute(COUNTS, {"a_job": job}).one()


def _end_if_all_have(connection: Connection, row: Row[Any]) -> None:
    """End the job of which these are the counts, if nothing of it is open."""
    counts = {end: row._mapping[end] for end in ENDS}
    if row.state not in OPEN or sum(counts.values()) < row.total:
        return
    state = "cancelled" if row.cancelled else "partial" if row.failed else "done"
    if row.failed and not (row.done or row.skipped or row.cancelled):
        state = "failed"
    now = time.time()
    connection.execute(update(JOB).where(JOB.c.id == row.id).values(state=state, ended=now))
    connection.execute(delete(OUTPUT).where(OUTPUT.c.job == row.id))
    _add_event(connection, row.id, "ended", now, {"state": state, **counts})


def _shown(row: Row[Any]) -> dict[str, Any]:
    names = {number: name for name, number in PRIORITIES.items()}
    values = row._mapping
    shown = {"id": row.id, "state": row.state, "priority": names[row.priority], "total": row.total}
    return shown | {name: values[name] for name in (*ENDS, "created", "begun", "ended", "events")}


def _outcome(image: Mapping[str, Any], state: str) -> dict[str, Any]:
    return {"input": image["input"], "status": state, "ms": 0.0, "outputs": []}


def _not_begun(image: Mapping[str, Any], state: str, place: int) -> dict[str, Any]:
    return _outcome(image, state) | {"notes": [{"pointer": f"/images/{place}", "detail": CLOSING[state]}]}


def _chunks(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]


@contextmanager
def _answering() -> Iterator[None]:
    """What the database or the disk refuses becomes a LedgerProblem, without the statement and its parameters."""
    try:
        yield
    except IntegrityError:
        raise
    except SQLAlchemyError as error:
        # what of a connection failed is not for clients: it names the database's host
        away = isinstance(error, OperationalError) and not getattr(error.orig, "sqlstate", "SQLite's has none")
        raise (Away("the database does not answer") if away else LedgerProblem(_said(error))) from error


def _said(error: BaseException | None) -> str:
    return str(getattr(error, "orig", None) or error).partition("\n")[0]
