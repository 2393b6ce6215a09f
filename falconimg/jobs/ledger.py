"""The ledger: all that is true of jobs, in SQLite or PostgreSQL, and each change of it as one transaction.

An item is one image of a job. Who wants to make it claims it: its fence goes up by one, and a lease is set. Whoever
comes back after the lease has another fence than the item's, and can report nothing. What has ended has one event.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

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
    Select,
    String,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
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
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from falconimg.errors import JobConflict, LedgerProblem, Poison, SettingsProblem, UnknownJob, WrongKey
from falconimg.jobs.record import ENDS, OPEN, PRIORITIES, Claim, End, Item, Message, Publication
from falconimg.jobs.together import Together

VERSION = 1
"""Of the tables below; a ledger of another one is refused."""
LOCK = 0x66616C636F6E
"""PostgreSQL's advisory lock for making the tables: any number that nobody else in the database takes."""
BUSY_SECONDS = 15
"""How long one who writes waits for another."""
MESSAGE_EVENTS = 100
"""Events of one message to a webhook."""
CHUNK = 500
"""Rows that one statement names: SQLite takes 32,766 parameters."""

META = MetaData()
LEDGER = Table("ledger", META, Column("version", Integer, primary_key=True))
JOB = Table(
    "job",
    META,
    Column("id", String(32), primary_key=True),  # those of later jobs sort behind
    Column("state", String(9), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("document", Text, nullable=False),  # the request without its images
    Column("key", String(255), unique=True),  # Idempotency-Key
    Column("digest", String(64), nullable=False),  # of the body
    Column("stop", Integer, nullable=False),  # whether on_error is stop
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
)
Index("item_by_turn", ITEM.c.state, ITEM.c.priority.desc(), ITEM.c.job, ITEM.c.number)  # as `_turns` orders them
OUTPUT = Table(
    "output",
    META,
    Column("path", Text, primary_key=True),  # the store's canonical name; of open items alone
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
        file = _file(url)
        try:
            if file:
                file.parent.mkdir(0o700, parents=True, exist_ok=True)
            with self._writing() as connection:
                _prepare(connection)
        except (OSError, LedgerProblem) as error:
            self.close()
            expected = "FALCONIMG_LEDGER: expected a ledger that can be opened, or FALCONIMG_JOBS=off"
            detail = error.detail if isinstance(error, LedgerProblem) else error.strerror
            raise SettingsProblem(f"{expected}, came {file or 'one'}: {detail}") from error
        except SettingsProblem:
            self.close()
            raise

    def close(self) -> None:
        """Let its connections go."""
        self.engine.dispose()

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """One transaction, alone with what it looks at."""
        with _answering(), self.engine.connect().execution_options(write=True) as connection, connection.begin():
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """What is on record at one moment."""
        with _answering(), self.engine.connect() as connection:
            yield connection

    # Submitting

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
                "image": json.dumps(item.image), "below": item.below, "identity": item.identity,
            }
            for number, item in enumerate(items)
        ]  # fmt: skip
        names = [(path, number) for number, item in enumerate(items) for path in item.outputs]
        outputs = [{"path": path, "job": id_, "number": number} for path, number in names]
        try:
            with self._writing() as connection:
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
        now = time.time()
        with self._reading() as connection:  # to look takes no lock
            if most < 1 or not connection.execute(_turns(1)).first():
                return []
        with self._writing() as connection:
            rows = list(takewhile(lambda row: not row.attempts, turns := connection.execute(_turns(most)).all()))
            if not rows and idle:
                rows = list(turns[:1])
            return _claimed(connection, rows, now, seconds)

    def renew(self, claims: Iterable[Claim], seconds: float) -> None:
        """Set their leases anew, as far as they are still their claimer's."""
        lease = time.time() + seconds
        with self._writing() as connection:
            for claim in claims:
                connection.execute(update(ITEM).where(_held(claim)).values(lease=lease))

    def give_back(self, claims: Iterable[Claim]) -> None:
        """Let others have what was not begun; that was no attempt."""
        with self._writing() as connection:
            for claim in claims:
                connection.execute(
                    update(ITEM).where(_held(claim)).values(state="pending", lease=None, attempts=ITEM.c.attempts - 1)
                )

    def about_to_publish(self, claim: Claim, hashes: Mapping[str, str], names: Mapping[str, str]) -> bool:
        """Record what is going to be published; whether the item is still its claimer's.

        Args:
            claim: whose
            hashes: SHA-256 by the path that the report has
            names: the store's canonical name by that path

        Raises:
            JobConflict: an open item of another job has one of the names
        """
        return self._together(Publication(claim, hashes, names))

    def end(self, claim: Claim, state: str, outcome: Mapping[str, Any]) -> bool:
        """The item has come to this; False if it is no longer its claimer's, and then nothing is changed.

        With the job's last item, the job ends; one that fails ends a job that stops on errors.
        """
        return self._together(End(claim, state, outcome))

    def _record(self, wishes: Sequence[Publication | End]) -> Sequence[bool | Exception]:
        """Several threads' in one transaction."""
        try:
            with self._writing() as connection:
                return _recorded(connection, wishes)
        except IntegrityError:
            # another process was quicker by a moment (PostgreSQL): now it can be seen
            answers: list[bool | Exception] = []
            for wish in wishes:
                try:
                    with self._writing() as connection:
                        answers += _recorded(connection, [wish])
                except (IntegrityError, LedgerProblem) as error:
                    answers.append(error)
            return answers

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
        with self._writing() as connection:
            for row in connection.execute(over.limit(CHUNK).with_for_update(skip_locked=True)).all():
                if row.attempts >= most_attempts:
                    error = {
                        "type": Poison.type,
                        "title": Poison.title,
                        "detail": f"expected an end of {most_attempts} attempts (FALCONIMG_JOB_ATTEMPTS), came none",
                    }
                    outcome = _outcome(json.loads(row.image), "failed") | {"error": error}
                    _end(connection, row.job, {row.number: ("failed", outcome)})
                    found.append((row.job, row.number, "failed"))
                else:
                    connection.execute(
                        update(ITEM)
                        .where(ITEM.c.job == row.job, ITEM.c.number == row.number)
                        .values(state="pending", lease=None)
                    )
                    found.append((row.job, row.number, "pending"))
        return found

    def unheard(self, most: int, seconds: float) -> list[tuple[str, int]]:
        """Items that nobody was told of, or that are pending still after that and so many seconds: (job, number).

        It is twice as long after each further time, so that what waits in a long queue is not told of all the time.
        """
        now = time.time()
        silent = ITEM.c.rung.is_(None) | (ITEM.c.rung < now - seconds * func.power(2, ITEM.c.rings))
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
        old = select(JOB.c.id).where(JOB.c.ended < before).limit(CHUNK)
        with self._reading() as connection:
            if not connection.execute(old.limit(1)).first():
                return 0
        with self._writing() as connection:
            ids = connection.scalars(old.with_for_update()).all()
            for table in (ITEM, EVENT, OUTPUT):
                connection.execute(delete(table).where(table.c.job.in_(ids)))
            connection.execute(delete(JOB).where(JOB.c.id.in_(ids)))
        return len(ids)

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
                events = _events(connection, row.id, row.sent, MESSAGE_EVENTS)
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
        query = select(JOB).order_by(JOB.c.id.desc()).limit(most)
        if state:
            query = query.where(JOB.c.state == state)
        if before:
            query = query.where(JOB.c.id < before)
        with self._reading() as connection:
            return [_shown(row) for row in connection.execute(query)]

    def images(self, id_: str, after: int, most: int) -> list[dict[str, Any]]:
        """A job's images behind that number: their part of the report, or their state; raises UnknownJob."""
        query = (
            select(ITEM.c.number, ITEM.c.state, ITEM.c.image, ITEM.c.outcome)
            .where(ITEM.c.job == id_, ITEM.c.number > after)
            .order_by(ITEM.c.number)
            .limit(most)
        )
        with self._reading() as connection:
            _job(connection, id_)
            return [
                {"index": row.number}
                | (json.loads(row.outcome) if row.outcome else _outcome(json.loads(row.image), row.state))
                for row in connection.execute(query)
            ]

    def events(self, id_: str, after: int, most: int) -> list[dict[str, Any]]:
        """A job's events behind that seq, in their order; raises UnknownJob."""
        with self._reading() as connection:
            _job(connection, id_)
            return _events(connection, id_, after, most)

    # Changing one's mind

    def cancel(self, id_: str) -> dict[str, Any]:
        """End what is not begun; what runs finishes. The job as it is then; raises UnknownJob."""
        with self._writing() as connection:
            _job(connection, id_)
            _end_pending(connection, id_, "cancelled", "not begun: the job was cancelled")
            _end_if_all_have(connection, id_)
            return _shown(_job(connection, id_))

    def retry(self, id_: str, names: Mapping[int, Sequence[str]]) -> dict[str, Any]:
        """Have the failed images made again; `names` are the canonical names that their outputs claim, by number.

        Raises:
            UnknownJob
            JobConflict: it has not ended, or nothing of it failed, or an open job has one of the names
        """
        with self._writing() as connection:
            job = _job(connection, id_)
            if job.state in OPEN or not job.failed:
                raise JobConflict(
                    f"expected a job that has ended and of which images failed, came one that is {job.state}"
                )
            _require_free(connection, [path for each in names.values() for path in each])
            rows = [{"path": path, "job": id_, "number": number} for number, each in names.items() for path in each]
            if rows:
                connection.execute(insert(OUTPUT), rows)
            connection.execute(
                update(ITEM)
                .where(ITEM.c.job == id_, ITEM.c.state == "failed")
                .values(state="pending", attempts=0, round=ITEM.c.round + 1, outcome=None)
            )
            connection.execute(update(JOB).where(JOB.c.id == id_).values(state="queued", failed=0, ended=None))
            _add_event(connection, id_, "retried", time.time(), {"images": job.failed})
            return _shown(_job(connection, id_))

    def failed(self, id_: str) -> list[tuple[int, dict[str, Any], str]]:
        """The images of a job that failed: (number, as the request has it, below); raises UnknownJob."""
        query = select(ITEM.c.number, ITEM.c.image, ITEM.c.below).where(ITEM.c.job == id_, ITEM.c.state == "failed")
        with self._reading() as connection:
            _job(connection, id_)
            return [(row.number, json.loads(row.image), row.below) for row in connection.execute(query)]

    def document(self, id_: str) -> dict[str, Any]:
        """A job's request without its images; raises UnknownJob."""
        with self._reading() as connection:
            return dict(json.loads(_job(connection, id_).document))


def _file(url: str) -> Path | None:
    parts = make_url(url)
    return Path(parts.database or "") if parts.get_backend_name() == "sqlite" else None


def _engine(url: str) -> Engine:
    if not _file(url):
        return create_engine(url, pool_pre_ping=True)
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
            "of falconimg made it"
        )


def _turns(most: int) -> Select[Any]:
    return (
        select(ITEM)
        .where(ITEM.c.state == "pending")
        .order_by(ITEM.c.priority.desc(), ITEM.c.job, ITEM.c.number)
        .limit(most)
        .with_for_update(skip_locked=True)
    )


def _claimed(connection: Connection, rows: Sequence[Row[Any]], now: float, seconds: float) -> list[Claim]:
    if not rows:
        return []
    jobs = sorted({row.job for row in rows})
    begun = func.coalesce(JOB.c.begun, now)
    connection.execute(
        update(JOB).where(JOB.c.id.in_(jobs), JOB.c.state == "queued").values(state="running", begun=begun)
    )
    texts = connection.execute(select(JOB.c.id, JOB.c.document).where(JOB.c.id.in_(jobs))).all()
    documents = {row.id: json.loads(row.document) for row in texts}
    claims = [
        Claim(
            row.job, row.number, row.fence + 1, row.attempts + 1, row.place, documents[row.job], json.loads(row.image),
            row.below, row.identity, json.loads(row.hashes or "{}"),
        )
        for row in rows
    ]  # fmt: skip
    values = {"state": "running", "fence": bindparam("a_fence"), "attempts": bindparam("an_attempt")}
    connection.execute(
        update(ITEM).where(_BOUND).values(lease=now + seconds, **values),
        [{**_bound(claim.job, claim.number), "a_fence": claim.fence, "an_attempt": claim.attempts} for claim in claims],
    )
    return claims


# one item among many that a statement is executed for
_BOUND = (ITEM.c.job == bindparam("a_job")) & (ITEM.c.number == bindparam("a_number"))


def _bound(job: str, number: int) -> dict[str, Any]:
    return {"a_job": job, "a_number": number}


def _recorded(connection: Connection, wishes: Sequence[Publication | End]) -> list[bool | Exception]:
    """What came of each; the ends are first, as others may have the names of what has ended."""
    held = _all_held(connection, [wish.claim for wish in wishes])
    ends: dict[str, dict[int, tuple[str, Mapping[str, Any]]]] = {}
    publications = []
    for wish in wishes:
        claim = wish.claim
        if claim.key not in held:
            continue
        if isinstance(wish, End):
            ends.setdefault(claim.job, {})[claim.number] = wish.state, wish.outcome
        else:
            publications.append(wish)
    for job in sorted(ends):  # as all do, so that no two wait for each other
        _end(connection, job, ends[job])
    refused = _publish(connection, publications)
    return [refused.get(wish.claim.key, wish.claim.key in held) for wish in wishes]


def _publish(connection: Connection, publications: Sequence[Publication]) -> dict[tuple[str, int, int], Exception]:
    """Record what is going to be published; the refusals by their claims' keys."""
    if not publications:
        return {}
    owners = _owners(connection, [name for publication in publications for name in publication.names.values()])
    refused: dict[tuple[str, int, int], Exception] = {}
    hashes, outputs = [], []
    for claim, made, names in publications:
        me = claim.job, claim.number
        taken = next((path for path, name in names.items() if owners.get(name, me) != me), None)
        if taken is not None:
            whose = owners[names[taken]][0]
            refused[claim.key] = JobConflict(f"{taken}: expected a path that no open job has, came one of {whose}'s")
            continue
        hashes.append({**_bound(*me), "some_hashes": json.dumps({**claim.hashes, **made})})
        new = [name for name in dict.fromkeys(names.values()) if name not in owners]
        outputs += [{"path": name, "job": claim.job, "number": claim.number} for name in new]
        owners.update(dict.fromkeys(new, me))
    if hashes:
        connection.execute(update(ITEM).where(_BOUND).values(hashes=bindparam("some_hashes")), hashes)
    if outputs:
        connection.execute(insert(OUTPUT), outputs)
    return refused


def _all_held(connection: Connection, claims: Sequence[Claim]) -> set[tuple[str, int, int]]:
    """Of these claims, the keys of those that still are their claimer's; nobody changes them meanwhile."""
    numbers: dict[str, list[int]] = {}
    for claim in claims:
        numbers.setdefault(claim.job, []).append(claim.number)
    found = set()
    for job in sorted(numbers):
        query = (
            select(ITEM.c.job, ITEM.c.number, ITEM.c.fence)
            .where(ITEM.c.job == job, ITEM.c.number.in_(numbers[job]), ITEM.c.state == "running")
            .order_by(ITEM.c.number)
            .with_for_update()
        )
        found |= {(row.job, row.number, row.fence) for row in connection.execute(query)}
    return found


def _held(claim: Claim) -> Any:
    return (
        (ITEM.c.job == claim.job)
        & (ITEM.c.number == claim.number)
        & (ITEM.c.fence == claim.fence)
        & (ITEM.c.state == "running")
    )


def _job(connection: Connection, id_: str) -> Row[Any]:
    row = connection.execute(select(JOB).where(JOB.c.id == id_)).first()
    if row is None:
        raise UnknownJob(f"expected the id of a job, came {id_[:64]!a}")
    return row


def _of_key(connection: Connection, key: str, digest: str) -> str | None:
    row = connection.execute(select(JOB.c.id, JOB.c.digest).where(JOB.c.key == key)).first()
    if row and row.digest != digest:
        raise WrongKey(f"expected another Idempotency-Key for another request, came that of job {row.id}")
    return row.id if row else None


def _owners(connection: Connection, paths: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Of these names, those that an open item has: (job, number)."""
    found = {}
    for chunk in _chunks(paths):
        for row in connection.execute(select(OUTPUT).where(OUTPUT.c.path.in_(chunk))):
            found[row.path] = (row.job, row.number)
    return found


def _require_free(connection: Connection, paths: Sequence[str]) -> None:
    for path, (job, _) in _owners(connection, paths).items():
        raise JobConflict(f"expected outputs that no open job has, came {path}, which is job {job}'s")


def _events(connection: Connection, job: str, after: int, most: int) -> list[dict[str, Any]]:
    query = select(EVENT).where(EVENT.c.job == job, EVENT.c.seq > after).order_by(EVENT.c.seq).limit(most)
    return [
        {"seq": row.seq, "kind": row.kind, "at": row.at, **json.loads(row.body)} for row in connection.execute(query)
    ]


def _add_event(connection: Connection, job: str, kind: str, at: float, body: Mapping[str, Any]) -> None:
    """The job's next event; its row is locked by that until the end, so that seq is in the order of commits."""
    connection.execute(update(JOB).where(JOB.c.id == job).values(events=JOB.c.events + 1))
    row = {"job": job, "seq": _job(connection, job).events, "kind": kind, "at": at, "body": json.dumps(body)}
    connection.execute(insert(EVENT), row)


def _end(connection: Connection, job: str, ends: Mapping[int, tuple[str, Mapping[str, Any]]]) -> None:
    """Items end; one that fails ends a job that stops on errors, and the last one ends its job."""
    _end_items(connection, job, ends)
    if any(state == "failed" for state, _ in ends.values()) and _job(connection, job).stop:
        _end_pending(connection, job, "skipped", "not begun: an earlier image failed, and on_error is stop")
    _end_if_all_have(connection, job)


def _end_items(connection: Connection, job: str, ends: Mapping[int, tuple[str, Mapping[str, Any]]]) -> None:
    """These items of a job, by number, come to this state and outcome; the job's row is locked by that."""
    now = time.time()
    rounds = select(ITEM.c.number, ITEM.c.round).where(ITEM.c.job == job, ITEM.c.number.in_(ends))
    round_ = {row.number: row.round for row in connection.execute(rounds)}
    connection.execute(
        update(ITEM)
        .where(_BOUND)
        .values(state=bindparam("a_state"), outcome=bindparam("an_outcome"), lease=None, hashes=None),
        [
            {**_bound(job, number), "a_state": state, "an_outcome": json.dumps(outcome)}
            for number, (state, outcome) in ends.items()
        ],
    )
    connection.execute(delete(OUTPUT).where(OUTPUT.c.job == job, OUTPUT.c.number.in_(ends)))
    counts = Counter(state for state, _ in ends.values())
    more = {state: JOB.c[state] + count for state, count in counts.items()}
    connection.execute(update(JOB).where(JOB.c.id == job).values(events=JOB.c.events + len(ends), **more))
    first = _job(connection, job).events - len(ends) + 1
    connection.execute(
        insert(EVENT),
        [
            {
                "job": job, "seq": seq, "kind": "image", "number": number, "round": round_[number], "at": now,
                "body": json.dumps({"index": number, **outcome}),
            }
            for seq, (number, (_, outcome)) in enumerate(ends.items(), first)
        ],
    )  # fmt: skip


def _end_pending(connection: Connection, job: str, state: str, why: str) -> None:
    rows = connection.execute(
        select(ITEM.c.number, ITEM.c.place, ITEM.c.image)
        .where(ITEM.c.job == job, ITEM.c.state == "pending")
        .order_by(ITEM.c.number)
        .with_for_update()
    ).all()
    for chunk in _chunks(rows):
        ends = {row.number: (state, _not_begun(json.loads(row.image), state, row.place, why)) for row in chunk}
        _end_items(connection, job, ends)


def _end_if_all_have(connection: Connection, job: str) -> None:
    row = _job(connection, job)
    if row.state not in OPEN or sum(row._mapping[end] for end in ENDS) < row.total:
        return
    state = "cancelled" if row.cancelled else "partial" if row.failed else "done"
    if row.failed and not (row.done or row.skipped or row.cancelled):
        state = "failed"
    now = time.time()
    connection.execute(update(JOB).where(JOB.c.id == job).values(state=state, ended=now))
    _add_event(connection, job, "ended", now, {"state": state, **{end: row._mapping[end] for end in ENDS}})


def _shown(row: Row[Any]) -> dict[str, Any]:
    names = {number: name for name, number in PRIORITIES.items()}
    values = row._mapping
    shown = {"id": row.id, "state": row.state, "priority": names[row.priority], "total": row.total}
    return shown | {name: values[name] for name in (*ENDS, "created", "begun", "ended", "events")}


def _outcome(image: Mapping[str, Any], state: str) -> dict[str, Any]:
    return {"input": image["input"], "status": state, "ms": 0.0, "outputs": []}


def _not_begun(image: Mapping[str, Any], state: str, place: int, why: str) -> dict[str, Any]:
    return _outcome(image, state) | {"notes": [{"pointer": f"/images/{place}", "detail": why}]}


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
        raise LedgerProblem(str(getattr(error, "orig", None) or error).partition("\n")[0]) from error
