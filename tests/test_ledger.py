"""The ledger: what is on record, and who may change it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError

from falconimg.errors import JobConflict, LedgerProblem, SettingsProblem, UnknownJob, WrongKey
from falconimg.jobs import ledger as module
from falconimg.jobs.ledger import EVENT, ITEM, JOB, LEDGER, META, OUTPUT, TURNS, Ledger, digest_of
from falconimg.jobs.record import PRIORITIES, Claim, End, Item, Publication, Turn
from tests import services

Open = Callable[[], Ledger]
DONE = {"input": "a.png", "status": "done", "ms": 1.0, "outputs": []}
FAILED = {"input": "a.png", "status": "failed", "ms": 1.0, "outputs": []}


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a database."""
    with services.postgresql(tmp_path_factory.mktemp("postgresql")) as service:
        yield services.database(service)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the one ledger, as another process would."""
    ledgers: list[Ledger] = []
    url = f"sqlite:///{tmp_path}/below/jobs.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql")

    def open_() -> Ledger:
        ledgers.append(Ledger(url))
        return ledgers[-1]

    yield open_
    if request.param == "postgresql" and ledgers:
        META.drop_all(ledgers[0].engine)
    for ledger in ledgers:
        ledger.close()


@pytest.fixture
def in_file(tmp_path: Path) -> Iterator[Ledger]:
    """One in a file."""
    ledger = Ledger(f"sqlite:///{tmp_path}/jobs.db")
    yield ledger
    ledger.close()


@pytest.fixture
def ledger(opened: Open) -> Ledger:
    return opened()


def items(count: int, *outputs: str) -> list[Item]:
    """So many images, the first of which has these outputs."""
    return [
        Item(n, {"input": f"{n}.png", "output": f"out/{n}.png"}, "", f"{n}.png", "1-2", outputs if n == 0 else ())
        for n in range(count)
    ]


def submitted(ledger: Ledger, count: int = 1, *outputs: str, **more: Any) -> str:
    document = {"operations": ["split"], **more.pop("document", {})}
    id_, new = ledger.submit(document, items(count, *outputs), more.pop("digest", "d"), **more)
    assert new
    return id_


def claimed(ledger: Ledger, most: int = 1, seconds: float = 60) -> list[Claim]:
    return ledger.claim(most, seconds)


def kinds(ledger: Ledger, job: str) -> list[str]:
    return [event["kind"] for event in ledger.events(job, 0, 1000)]


# Submitting


def test_a_job_is_queued_with_its_images_until_they_are_claimed(ledger: Ledger) -> None:
    before = time.time()
    job = submitted(ledger, 3, priority=PRIORITIES["high"])
    shown = ledger.job(job)
    assert before <= shown.pop("created") <= time.time()
    assert shown == {
        "id": job, "state": "queued", "priority": "high", "total": 3, "done": 0, "failed": 0, "skipped": 0,
        "cancelled": 0, "begun": None, "ended": None, "events": 1,
    }  # fmt: skip
    assert ledger.images(job, 0, 10) == [
        {"index": n, "input": f"{n}.png", "status": "pending", "ms": 0.0, "outputs": []} for n in (1, 2)
    ]
    [event] = ledger.events(job, 0, 10)
    assert (event["seq"], event["kind"], event["total"]) == (1, "queued", 3)


def test_a_key_and_its_body_are_one_job_and_another_body_is_refused(ledger: Ledger) -> None:
    first = submitted(ledger, key="k", digest="one")
    assert ledger.submit({}, items(1), "one", "k") == (first, False)
    with pytest.raises(WrongKey, match=first):
        ledger.submit({}, items(1), "two", "k")
    assert len(ledger.jobs(None, None, 10)) == 1
    assert submitted(ledger, digest="one") != first  # without a key each is another


def test_one_key_that_is_sent_by_many_at_once_is_one_job(opened: Open) -> None:
    found: list[str] = []
    ledgers = [opened() for _ in range(4)]

    def submit(ledger: Ledger) -> None:
        found.extend(ledger.submit({}, items(5), "d", f"k{n}")[0] for n in range(20))

    run(submit, ledgers)
    assert len(found) == 80
    assert len(set(found)) == 20
    assert len(ledgers[0].jobs(None, None, 1000)) == 20


def test_an_open_jobs_output_is_refused_and_named_and_free_once_its_image_has_ended(ledger: Ledger) -> None:
    first = submitted(ledger, 1, "/out/a.png")
    with pytest.raises(JobConflict, match=f"/out/a.png, which is job {first}'s"):
        ledger.submit({}, items(1, "/out/b.png", "/out/a.png"), "d")
    assert [job["id"] for job in ledger.jobs(None, None, 10)] == [first]
    [claim] = claimed(ledger)
    assert ledger.end(claim, "done", DONE)
    submitted(ledger, 1, "/out/a.png")


def test_many_outputs_are_looked_at(ledger: Ledger) -> None:
    submitted(ledger, 1, *(f"/out/{n}" for n in range(70_000)))
    with pytest.raises(JobConflict, match="/out/69999"):
        submitted(ledger, 1, *(f"/out/{n}" for n in range(69_999, 140_000)))


def test_a_full_ledger_takes_no_job_and_keeps_what_it_has(in_file: Ledger) -> None:
    ledger = in_file
    job = submitted(ledger)
    with ledger.engine.connect() as connection:
        pages = connection.scalar(text("PRAGMA page_count"))
        connection.execute(text(f"PRAGMA max_page_count = {pages + 2}"))
        connection.commit()
    with pytest.raises(LedgerProblem, match=r"database or disk is full\Z"):
        ledger.submit({}, items(10_000), "d")
    assert [each["id"] for each in ledger.jobs(None, None, 10)] == [job]


def test_a_ledger_of_another_version_is_refused(opened: Open) -> None:
    ledger = opened()
    with ledger.engine.begin() as connection:
        connection.execute(update(LEDGER).values(version=99))
    with pytest.raises(
        SettingsProblem, match="FALCONIMG_LEDGER: expected a ledger of version 2, came one of version 99"
    ):
        opened()


def test_many_open_a_new_ledger_at_once(opened: Open) -> None:
    ledgers: list[Ledger] = []
    threads = [threading.Thread(target=lambda: ledgers.append(opened())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(ledgers) == 8
    submitted(ledgers[0])
    assert len(ledgers[7].jobs(None, None, 10)) == 1


@pytest.mark.parametrize("where", ["file", "directory"])
def test_a_ledger_that_cannot_be_opened_is_named(tmp_path: Path, where: str) -> None:
    path = tmp_path / "jobs.db"
    if where == "file":
        path.write_bytes(b"this is no database" * 100)
    else:
        path.mkdir()
    with pytest.raises(
        SettingsProblem, match=r"FALCONIMG_LEDGER: expected .*, or FALCONIMG_JOBS=off, came .*jobs\.db: "
    ):
        Ledger(f"sqlite:///{path}")


def test_what_is_recorded_is_on_the_disk_and_read_while_it_is_written(in_file: Ledger) -> None:
    with in_file.engine.connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA synchronous")) == 2  # FULL
        assert connection.scalar(text("PRAGMA busy_timeout")) == 15_000


# Claiming and ending


def test_items_are_claimed_by_priority_then_age_then_number(ledger: Ledger) -> None:
    low, first, second, high = (
        submitted(ledger, 2, priority=PRIORITIES[name]) for name in ("low", "normal", "normal", "high")
    )
    order = [(claim.job, claim.number) for _ in range(4) for claim in claimed(ledger, 2)]
    assert order == [(job, number) for job in (high, first, second, low) for number in (0, 1)]
    assert claimed(ledger) == []


def test_a_claim_has_all_that_it_takes(ledger: Ledger) -> None:
    job = submitted(ledger, 2, "out/0.png", document={"quality": 7})
    [claim] = claimed(ledger)
    assert claim.lease == pytest.approx(time.time() + 60, abs=5)
    assert claim == Claim(
        job,
        0,
        1,
        1,
        0,
        {"operations": ["split"], "quality": 7},
        {"input": "0.png", "output": "out/0.png"},
        "",
        "1-2",
        {},
        frozenset({digest_of("out/0.png")}),
        claim.lease,
    )
    shown = ledger.job(job)
    assert (shown["state"], shown["begun"] is None) == ("running", False)
    assert [each["status"] for each in ledger.images(job, -1, 10)] == ["running", "pending"]


def test_the_last_image_ends_its_job(ledger: Ledger) -> None:
    job = submitted(ledger, 2)
    first, second = claimed(ledger, 2)
    assert ledger.end(second, "done", DONE)
    assert ledger.job(job)["state"] == "running"
    assert ledger.end(first, "failed", FAILED)
    shown = ledger.job(job)
    assert (shown["state"], shown["done"], shown["failed"], shown["ended"] is None) == ("partial", 1, 1, False)
    events = ledger.events(job, 0, 10)
    assert [(event["seq"], event["kind"], event.get("index")) for event in events] == [
        (1, "queued", None), (2, "image", 1), (3, "image", 0), (4, "ended", None),
    ]  # fmt: skip
    assert ledger.events(job, 3, 10) == events[3:]
    assert ledger.events(job, 1, 2) == events[1:3]


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        (["done", "done"], "done"),
        (["done", "skipped"], "done"),
        (["skipped", "skipped"], "done"),
        (["failed", "failed"], "failed"),
        (["failed", "skipped"], "partial"),
    ],
)
def test_a_job_comes_to_what_its_images_come_to(ledger: Ledger, ends: list[str], state: str) -> None:
    job = submitted(ledger, len(ends))
    for end in ends:
        assert ledger.end(claimed(ledger)[0], end, DONE)
    assert ledger.job(job)["state"] == state


def test_who_comes_back_after_the_lease_reports_and_publishes_nothing(ledger: Ledger) -> None:
    job = submitted(ledger)
    [late] = claimed(ledger, seconds=0)
    time.sleep(0.001)
    assert ledger.expire(3) == [(job, 0, "pending")]
    for hashes in ({"a": "1"}, {}):
        assert not ledger.about_to_publish(late, hashes, {"a": "/a"})  # nobody has it
    [now] = claimed(ledger)
    assert (now.fence, now.attempts) == (2, 2)
    for hashes in ({"a": "1"}, {}):
        assert not ledger.about_to_publish(late, hashes, {"a": "/a"})
    assert not ledger.end(late, "failed", FAILED)
    assert ledger.renew([late], 0) == []
    ledger.give_back([late])
    assert ledger.about_to_publish(now, {"a": "1"}, {"a": "/a"})
    assert ledger.end(now, "done", DONE)
    assert not ledger.end(now, "failed", FAILED)  # once
    assert kinds(ledger, job) == ["queued", "image", "ended"]
    assert ledger.job(job)["done"] == 1


def test_a_renewed_lease_is_not_over(ledger: Ledger) -> None:
    submitted(ledger)
    [claim] = claimed(ledger, seconds=0)
    [renewed] = ledger.renew([claim], 60)
    assert renewed.lease == pytest.approx(time.time() + 60, abs=5)
    assert renewed._replace(lease=claim.lease) == claim
    assert ledger.expire(3) == []
    assert ledger.end(claim, "done", DONE)


def test_what_ends_its_worker_again_and_again_is_poison(ledger: Ledger) -> None:
    job = submitted(ledger, 2)
    for attempt in (1, 2):
        [claim] = claimed(ledger, seconds=0)
        assert (claim.number, claim.attempts) == (0, attempt)
        time.sleep(0.001)
        assert ledger.expire(2) == [(job, 0, "pending" if attempt == 1 else "failed")]
    poison = ledger.images(job, -1, 1)[0]
    assert (poison["status"], poison["error"]["type"]) == ("failed", "/problems/poison")
    assert poison["error"]["detail"] == "expected an end of 2 attempts (FALCONIMG_JOB_ATTEMPTS), came none"
    [other] = claimed(ledger)
    assert ledger.end(other, "done", DONE)
    assert ledger.job(job)["state"] == "partial"


def test_what_may_have_ended_its_worker_is_made_alone_by_one_that_is_idle(ledger: Ledger) -> None:
    job = submitted(ledger, 4)
    claimed(ledger, 2, seconds=0)
    time.sleep(0.001)
    assert len(ledger.expire(3)) == 2
    assert ledger.claim(4, 60, idle=False) == []  # it gets nothing else either, and so will be idle
    [first] = ledger.claim(4, 60)
    [second] = ledger.claim(4, 60)
    assert [(claim.number, claim.attempts) for claim in (first, second)] == [(0, 2), (1, 2)]
    assert [claim.number for claim in ledger.claim(4, 60, idle=False)] == [2, 3]
    assert ledger.job(job)["state"] == "running"


def test_what_is_given_back_was_no_attempt(ledger: Ledger) -> None:
    submitted(ledger)
    ledger.give_back(claimed(ledger))
    [again] = claimed(ledger)
    assert (again.attempts, again.fence) == (1, 2)


def test_a_failure_ends_a_job_that_stops_on_errors_and_leaves_what_runs(ledger: Ledger) -> None:
    job = submitted(ledger, 4, document={"on_error": "stop"})
    first, second = claimed(ledger, 2)
    ledger.end(first, "failed", FAILED)
    assert claimed(ledger) == []
    assert ledger.job(job)["state"] == "running"
    ledger.end(second, "done", DONE)
    shown = ledger.job(job)
    assert (shown["state"], shown["done"], shown["failed"], shown["skipped"]) == ("partial", 1, 1, 2)
    left = ledger.images(job, 1, 10)
    assert [(each["status"], each["notes"][0]["pointer"]) for each in left] == [
        ("skipped", "/images/2"), ("skipped", "/images/3"),
    ]  # fmt: skip


@pytest.mark.parametrize("hashes", [{"a": "1", "b": "2"}, {}])
def test_names_that_the_picture_decides_are_claimed_in_their_turn(ledger: Ledger, hashes: dict[str, str]) -> None:
    submitted(ledger, 1, "/out/a")
    submitted(ledger)
    one, two = claimed(ledger, 2)
    names = {"a": "/out/a", "b": "/out/b"}
    assert ledger.about_to_publish(one, hashes, names)
    assert ledger.about_to_publish(one, hashes, names)  # it is its own
    with pytest.raises(JobConflict, match=f"b: expected a path that no open job has, came one of {one.job}"):
        ledger.about_to_publish(two, hashes, {"b": "/out/b"})
    ledger.end(one, "done", DONE)
    assert ledger.about_to_publish(two, hashes, {"b": "/out/b"})


def test_of_what_may_be_overwritten_nothing_is_recorded(ledger: Ledger) -> None:
    submitted(ledger, 1, "/out/a")
    [claim] = claimed(ledger, seconds=0)
    before = ledger.engine.connect().execute(select(ITEM)).all()
    assert ledger.about_to_publish(claim, {}, {"a": "/out/a"})
    assert ledger.engine.connect().execute(select(ITEM)).all() == before


def test_what_was_about_to_be_published_is_known_to_the_next_attempt(ledger: Ledger) -> None:
    submitted(ledger)
    [claim] = claimed(ledger, seconds=0)
    ledger.about_to_publish(claim, {"a": "1"}, {"a": "/a"})
    time.sleep(0.001)
    ledger.expire(3)
    assert claimed(ledger)[0].hashes == {"a": "1"}


def test_many_claimers_have_each_item_once(opened: Open) -> None:
    ledgers = [opened() for _ in range(4)]
    jobs = [submitted(ledgers[0], 50) for _ in range(4)]
    found: list[tuple[str, int, int]] = []

    def work(ledger: Ledger) -> None:
        while claims := ledger.claim(3, 60):
            for claim in claims:
                found.append((claim.job, claim.number, claim.fence))
                assert ledger.end(claim, "done", DONE)

    run(work, ledgers)
    assert sorted(found) == [(job, number, 1) for job in sorted(jobs) for number in range(50)]
    for job in jobs:
        assert ledgers[0].job(job)["state"] == "done"
        assert [event["seq"] for event in ledgers[0].events(job, 0, 1000)] == list(range(1, 53))


def test_with_items_ends_their_claimer_has_the_next_ones(ledger: Ledger) -> None:
    id_ = submitted(ledger, 6)
    first, second, third = claimed(ledger, 3)
    lost = second._replace(fence=0)
    ends = [End(first, "done", DONE), End(lost, "done", DONE), End(third, "done", DONE)]
    commits: list[object] = []
    event.listen(ledger.engine, "commit", count := commits.append)
    held, claims = ledger.end_and_claim(ends, Turn(2, 60, idle=False))
    event.remove(ledger.engine, "commit", count)
    assert len(commits) == 1
    assert held == [True, False, True]  # who has lost one may have others all the same
    assert [claim.number for claim in claims] == [3, 4]
    assert ledger.end_and_claim([End(claims[0], "done", DONE)], None) == ([True], [])
    assert ledger.job(id_)["done"] == 3
    assert ledger.end_and_claim([], None) == ([], [])


def test_ends_that_are_on_record_are_so_though_nothing_could_be_claimed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = submitted(ledger, 2)
    [claim] = claimed(ledger)

    def refuse(*_: object) -> None:
        raise IntegrityError("", None, Exception("another was quicker"))

    monkeypatch.setattr(module, "_claims", refuse)
    assert ledger.end_and_claim([End(claim, "done", DONE)], Turn(1, 60, idle=False)) == ([True], [])
    assert ledger.job(id_)["done"] == 1
    with pytest.raises(LedgerProblem, match="another was quicker"):
        ledger.end_and_claim([], Turn(1, 60, idle=True))


def test_ends_of_which_the_database_knows_nothing_are_not_tried_one_by_one(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = submitted(ledger, 3)
    ends = [End(claim, "done", DONE) for claim in claimed(ledger, 3)]
    tried: list[object] = []
    gone = Exception("the connection is gone")
    gone.sqlstate = None  # type: ignore[attr-defined]  # as psycopg has it where it was not the server that refused

    def refuse(*_: object) -> None:
        tried.append(1)
        raise OperationalError("", None, gone)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_recorded", refuse)
        with pytest.raises(LedgerProblem, match="does not answer"):
            ledger.end_and_claim(ends, None)
    assert len(tried) == 1
    assert ledger.end_and_claim(ends, None) == ([True] * 3, [])
    assert ledger.job(id_)["done"] == 3


def test_turns_of_several_threads_have_different_items(ledger: Ledger) -> None:
    submitted(ledger, 5)
    turns = [Turn(1, 60, idle=False), Turn(2, 60, idle=False), Turn(9, 60, idle=False)]
    answers = ledger._record([[turn] for turn in turns])
    assert [[claim.number for claim in given.claims] for [given] in answers] == [[0], [1, 2], [3, 4]]


def test_what_is_held_for_sure_is_published_without_asking(ledger: Ledger) -> None:
    submitted(ledger, 1, "out/a", "out/b")
    [claim] = claimed(ledger)
    assert claim.lease == pytest.approx(time.time() + 60, abs=5)
    asked: list[object] = []
    event.listen(ledger.engine, "commit", count := asked.append)

    def asks(hashes: dict[str, str], names: dict[str, str], lease: float) -> bool:
        asked.clear()
        assert ledger.about_to_publish(claim, hashes, names, lease)
        return bool(asked)

    both = {"a": "out/a", "b": "out/b"}
    assert asks({}, both, claim.lease) == (ledger.file is None)  # other machines have other clocks
    assert asks({}, both, time.time() - 1)
    assert asks({"a": "1"}, both, claim.lease)
    assert asks({}, {**both, "c": "out/c"}, claim.lease)
    event.remove(ledger.engine, "commit", count)


def test_what_threads_record_at_once_is_one_transaction_and_each_has_its_own_answer(ledger: Ledger) -> None:
    other = submitted(ledger, 1, "out/other.png")
    of_other = claimed(ledger)
    id_ = submitted(ledger, 5, document={"on_error": "stop"})
    of_id = claimed(ledger, 4)
    assert [claim.job for claim in (*of_id, *of_other)] == [id_] * 4 + [other]
    lost = of_id[3]._replace(fence=0)
    commits: list[object] = []
    count = commits.append
    event.listen(ledger.engine, "commit", count)
    answers = ledger._record(
        [
            [Publication(of_id[1], {"a": "1"}, {"a": "out/other.png"})],  # what ends in the same transaction has it
            [Publication(of_id[2], {"b": "2"}, {"b": "out/other.png"})],
            [End(of_other[0], "done", DONE), Turn(1, 60, idle=False)],
            [End(of_id[0], "failed", FAILED), End(lost, "done", DONE)],
        ]
    )
    event.remove(ledger.engine, "commit", count)
    assert len(commits) == 1
    assert (answers[0], answers[2:]) == ([True], [[True, ([], False)], [True, False]])
    assert f"one of {id_}'s" in str(answers[1][0])
    assert ledger.job(other)["state"] == "done"
    assert [image["status"] for image in ledger.images(id_, -1, 9)] == ["failed", *["running"] * 3, "skipped"]
    assert [(each["seq"], each.get("index")) for each in ledger.events(id_, 0, 9)] == [(1, None), (2, 0), (3, 4)]


def test_a_name_that_another_process_took_at_that_moment_is_refused_to_one_and_not_to_the_others(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(ledger, 3)
    wishes = [[Publication(claim, {}, {"a": f"out/{claim.number}.png"})] for claim in claimed(ledger, 3)]
    other = submitted(ledger, 1, "out/1.png")
    see, sights = module._owners, iter([None])
    # the first look is before the other's commit
    monkeypatch.setattr(module, "_owners", lambda *args: see(*args) if next(sights, "late") else {})
    answers = ledger._record(wishes)
    assert (answers[0], answers[2]) == ([True], [True])
    assert f"one of {other}'s" in str(answers[1][0])


def test_an_image_has_one_event_that_ends_it(ledger: Ledger) -> None:
    job = submitted(ledger)
    ledger.end(claimed(ledger)[0], "done", DONE)
    again = {"job": job, "seq": 99, "kind": "image", "number": 0, "round": 0, "at": 0.0, "body": "{}"}
    with ledger.engine.connect() as connection, pytest.raises(IntegrityError):
        connection.execute(insert(EVENT), again)


def test_a_claim_looks_at_no_more_than_it_takes(in_file: Ledger) -> None:
    """However many are pending: the index has them in the order of their turns."""
    submitted(in_file, 3)
    statement = str(TURNS.params(most=2).compile(in_file.engine, compile_kwargs={"literal_binds": True}))
    with in_file.engine.connect() as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}")]
    assert plan == ["SEARCH item USING INDEX item_by_turn (state=?)"]


@pytest.mark.servers
def test_who_stays_in_a_transaction_keeps_others_waiting_no_longer_than_that(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.5)
    frozen, other = Ledger(postgresql), Ledger(postgresql)
    try:
        id_ = submitted(other)
        [claim] = claimed(frozen)

        def stay() -> None:
            with frozen._writing() as connection:
                module._recorded(connection, [End(claim, "done", DONE)])
                assert other.end(claim, "failed", FAILED)  # it waits, and then the other one's is taken back

        begun = time.monotonic()
        with pytest.raises(LedgerProblem):
            stay()
        assert 0.3 < time.monotonic() - begun < 10
        assert other.job(id_)["state"] == "failed"
    finally:
        META.drop_all(other.engine)
        frozen.close()
        other.close()


# Changing one's mind


def test_a_cancelled_job_ends_with_what_runs(ledger: Ledger) -> None:
    job = submitted(ledger, 3, "/out/shared")
    [claim] = claimed(ledger)
    assert ledger.cancel(job)["cancelled"] == 2
    assert ledger.job(job)["state"] == "running"
    assert claimed(ledger) == []
    assert ledger.end(claim, "done", DONE)
    assert ledger.job(job)["state"] == "cancelled"
    assert ledger.cancel(job)["state"] == "cancelled"  # again is the same
    assert kinds(ledger, job) == ["queued", "image", "image", "image", "ended"]


def at_once(*calls: Callable[[], object]) -> list[object]:
    """What calls that are made together answer or raise."""
    ready = threading.Barrier(len(calls))

    def call(what: Callable[[], object]) -> object:
        ready.wait()
        try:
            return what()
        except (JobConflict, LedgerProblem, IntegrityError) as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))


def test_nobody_waits_for_who_waits_for_it(opened: Open) -> None:
    """Those who lock several rows do so in one order: PostgreSQL would undo one of two that wait for each other."""
    one, other = opened(), opened()
    for _ in range(10):
        older = submitted(one, 3, document={"on_error": "stop"})
        newer = submitted(one, 3)
        claims = [*claimed(one, 2), *[claim for claim in claimed(one, 9) if claim.job == newer][:2]]
        kept = claims[::-1]
        publications = [[Publication(claim, {}, {})] for claim in kept]
        calls: list[Callable[[], object]] = [partial(other.renew, kept, 60), partial(one._record, publications)]
        answers = at_once(*calls * 3)
        assert not [answer for answer in answers if isinstance(answer, Exception)]
        one.cancel(older)
        one.cancel(newer)
        for claim in claims:
            one.end(claim, "done", DONE)
        while found := claimed(one, 9):
            for claim in found:
                one.end(claim, "done", DONE)
    for _ in range(10):
        id_ = submitted(one, 30, document={"on_error": "stop"})
        [claim] = claimed(one)
        answers = at_once(partial(one.end, claim, "failed", FAILED), partial(other.cancel, id_))
        assert not [answer for answer in answers if isinstance(answer, Exception)]
        assert one.job(id_)["ended"]


def test_of_two_retries_at_once_one_is_refused(opened: Open) -> None:
    one, other = opened(), opened()
    for _ in range(5):
        id_ = submitted(one, 2)
        for claim in claimed(one, 2):
            one.end(claim, "failed", FAILED)
        answers = at_once(*(partial(each.retry, id_, {0: ["out/x"], 1: []}, {}) for each in (one, other)))
        assert sorted(type(answer).__name__ for answer in answers) == ["JobConflict", "dict"]
        assert kinds(one, id_).count("retried") == 1
        one.cancel(id_)


def test_what_a_failed_image_has_published_is_known_to_its_retry(ledger: Ledger) -> None:
    id_ = submitted(ledger)
    [claim] = claimed(ledger)
    assert ledger.about_to_publish(claim, {"a": "1"}, {"a": "out/a"})
    assert ledger.end(claim, "failed", FAILED)
    ledger.retry(id_, {0: []}, {})
    assert claimed(ledger)[0].hashes == {"a": "1"}


def test_a_retry_is_of_the_images_that_were_looked_at(ledger: Ledger) -> None:
    id_ = submitted(ledger, 2)
    for claim in claimed(ledger, 2):
        ledger.end(claim, "failed", FAILED)
    with pytest.raises(JobConflict, match="came others"):
        ledger.retry(id_, {0: []}, {})
    assert ledger.job(id_)["state"] == "failed"


def test_a_retry_of_which_another_has_a_name_at_that_moment_is_refused(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = submitted(ledger)
    ledger.end(claimed(ledger)[0], "failed", FAILED)
    other = submitted(ledger, 1, "out/x")
    looks = iter([lambda *_: None, module._require_free])  # it comes between the look and the record
    monkeypatch.setattr(module, "_require_free", lambda *given: next(looks)(*given))
    with pytest.raises(JobConflict, match=f"came out/x, which is job {other}'s"):
        ledger.retry(id_, {0: ["out/x"]}, {})


@pytest.mark.parametrize("reopened", [False, True])
def test_a_job_that_is_being_forgotten_is_nobodys_and_one_that_was_reopened_is_kept(
    opened: Open, monkeypatch: pytest.MonkeyPatch, reopened: bool
) -> None:
    one, other = opened(), opened()
    id_ = submitted(one, 2, key="k")
    for claim in claimed(one, 2):
        one.end(claim, "failed", FAILED)
    real, calls = one._writing, list[int]()

    def writing() -> Any:
        calls.append(1)
        if len(calls) == 1 + (not reopened):
            if reopened:
                other.retry(id_, {0: [], 1: []}, {})
            else:  # it is killed
                raise LedgerProblem("killed")
        return real()

    with monkeypatch.context() as patch:
        patch.setattr(one, "_writing", writing)
        with suppress(LedgerProblem):
            one.forget(time.time() + 1)
    if reopened:
        assert other.job(id_)["state"] == "queued"
        assert len(claimed(other, 9)) == 2
        return
    for ask in (other.job, other.cancel, other.failed, lambda id_: other.events(id_, 0, 9)):
        with pytest.raises(UnknownJob):
            ask(id_)
    assert other.jobs(None, None, 9) == []
    assert submitted(other, 1, key="k", digest="another") != id_
    other.forget(time.time() + 1)
    with other._reading() as connection:
        for column in (JOB.c.id, ITEM.c.job, EVENT.c.job):
            assert id_ not in connection.scalars(select(column)).all()


def test_names_are_a_jobs_until_it_has_ended(ledger: Ledger) -> None:
    id_ = submitted(ledger, 2)
    first, second = claimed(ledger, 2)
    assert ledger.about_to_publish(first, {}, {"8.png": "/out/8.png"})
    assert ledger.end(first, "done", DONE)
    with pytest.raises(JobConflict, match=f"8.png: expected a path that no open job has, came one of {id_}'s"):
        ledger.about_to_publish(second, {}, {"8.png": "/out/8.png"})
    assert ledger.end(second, "failed", FAILED)
    other = submitted(ledger, 1, "/out/8.png")
    assert ledger.about_to_publish(claimed(ledger)[0], {}, {"8.png": "/out/8.png"})
    assert ledger.job(other)["state"] == "running"


def test_a_name_that_is_claimed_in_its_turn_is_no_input_of_the_jobs_other_images(ledger: Ledger) -> None:
    submitted(ledger, 2)
    first, second = claimed(ledger, 2)
    with pytest.raises(JobConflict, match=r"x.png: expected a path that is no other image's input, came one"):
        ledger.about_to_publish(first, {}, {"y.png": "y.png", "x.png": "1.png"})
    assert ledger.about_to_publish(second, {}, {"x.png": "1.png"})  # its own


def test_a_name_may_be_as_long_as_any(ledger: Ledger) -> None:
    name = "".join(f"{n * 2654435761 % 2**32:08x}" for n in range(500))
    submitted(ledger, 1, name)
    with pytest.raises(JobConflict, match=name[:100]):
        submitted(ledger, 1, name)
    assert ledger.about_to_publish(claimed(ledger)[0], {}, {"a": name, "b": f"{name}b"})


@pytest.mark.parametrize("by", ["its death", "its stop"])
def test_what_ran_when_its_job_was_cancelled_and_was_cut_off_is_not_made_again(ledger: Ledger, by: str) -> None:
    id_ = submitted(ledger, 3)
    claims = claimed(ledger, 1, 0)
    assert ledger.cancel(id_)["cancelled"] == 2
    if by == "its death":
        time.sleep(0.001)
        assert ledger.expire(3) == [(id_, 0, "cancelled")]
    else:
        ledger.give_back(claims)
    assert claimed(ledger, 9) == []
    assert ledger.job(id_)["state"] == "cancelled"
    assert kinds(ledger, id_) == ["queued", *["image"] * 3, "ended"]
    assert {image["notes"][0]["detail"] for image in ledger.images(id_, -1, 9)} == {module.CLOSING["cancelled"]}


def test_a_large_job_that_stops_on_an_error_is_ended_some_at_a_time(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CANCELLED", 2)
    id_ = submitted(ledger, 6, document={"on_error": "stop"})
    other = submitted(ledger, 1)
    ledger.end(claimed(ledger)[0], "failed", FAILED)
    assert ledger.job(id_)["skipped"] == 2
    told: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "_tell", lambda: told.append(1))
        found = [claim.job for _ in range(4) for claim in claimed(ledger, 2)]
    assert found == [other]
    assert len(told) == 2  # each time when there may be more behind what was ended
    assert (ledger.job(id_)["state"], ledger.job(id_)["skipped"]) == ("partial", 5)
    ledger.retry(id_, {0: []}, {})
    assert [claim.number for claim in claimed(ledger, 9)] == [0]


def test_what_is_no_id_is_no_jobs(ledger: Ledger) -> None:
    for id_ in ("", "\0", "x" * 32, f"{submitted(ledger)}0"):
        with pytest.raises(UnknownJob):
            ledger.job(id_)


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    with closing(Ledger(f"sqlite:///{tmp_path}/jobs.db")):
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_while_a_large_job_is_cancelled_others_write(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = opened(), opened()
    job = submitted(one, 5)
    between: list[str] = []
    monkeypatch.setattr(module, "CANCELLED", 2)
    monkeypatch.setattr(time, "sleep", lambda _: between.append(submitted(other)))
    assert one.cancel(job)["cancelled"] == 5
    assert len(between) == 2
    assert kinds(one, job) == ["queued", *["image"] * 5, "ended"]


def test_a_queued_job_is_cancelled_at_once(ledger: Ledger) -> None:
    job = submitted(ledger, 1, "/out/a")
    shown = ledger.cancel(job)
    assert (shown["state"], shown["cancelled"]) == ("cancelled", 1)
    submitted(ledger, 1, "/out/a")


def test_a_retry_makes_the_failed_images_again_and_no_other(ledger: Ledger) -> None:
    job = submitted(ledger, 3)
    for end in ("done", "failed", "failed"):
        ledger.end(claimed(ledger)[0], end, DONE)
    assert [number for number, _, _ in ledger.failed(job)] == [1, 2]
    shown = ledger.retry(job, {1: ["/out/1"], 2: ["/out/2"]}, {})
    assert (shown["state"], shown["done"], shown["failed"], shown["ended"]) == ("queued", 1, 0, None)
    with pytest.raises(JobConflict):
        submitted(ledger, 1, "/out/2")
    again = claimed(ledger, 5)
    assert [(claim.number, claim.attempts) for claim in again] == [(1, 1), (2, 1)]
    for claim in again:
        ledger.end(claim, "done", DONE)
    assert ledger.job(job)["state"] == "done"
    assert kinds(ledger, job) == ["queued", "image", "image", "image", "ended", "retried", "image", "image", "ended"]


def test_a_retry_that_is_in_the_way_is_refused(ledger: Ledger) -> None:
    job = submitted(ledger, 1, "/out/a")
    with pytest.raises(JobConflict, match="came one that is queued"):
        ledger.retry(job, {}, {})
    ledger.end(claimed(ledger)[0], "failed", FAILED)
    other = submitted(ledger, 1, "/out/a")
    with pytest.raises(JobConflict, match=f"/out/a, which is job {other}'s"):
        ledger.retry(job, {0: ["/out/a"]}, {})
    assert ledger.job(job)["state"] == "failed"
    ledger.end(claimed(ledger)[0], "done", DONE)
    with pytest.raises(JobConflict, match="came one that is done"):
        ledger.retry(other, {}, {})


# Asking


def test_what_waits_is_counted_with_the_age_of_the_oldest(ledger: Ledger) -> None:
    assert ledger.waiting() == ({}, {}, 0.0, 0)
    submitted(ledger, 3, webhook="https://example.com")
    submitted(ledger, 2)
    [claim] = claimed(ledger)
    time.sleep(0.1)
    jobs, images, oldest, late = ledger.waiting()
    assert (jobs, images, late) == ({"queued": 1, "running": 1}, {"pending": 4, "running": 1}, 0)
    assert 0.1 <= oldest < 20
    ledger.not_sent(ledger.messages(1, 60)[0], 60)
    assert ledger.waiting().late == 1
    assert ledger.end(claim, "done", DONE)
    assert ledger.waiting().images == {"pending": 4}


def test_an_unknown_job_is_said_to_be_one(ledger: Ledger) -> None:
    ask: list[Callable[[], Any]] = [
        lambda: ledger.job("x"), lambda: ledger.images("x", 0, 1), lambda: ledger.events("x", 0, 1),
        lambda: ledger.cancel("x"), lambda: ledger.retry("x", {}, {}), lambda: ledger.failed("x"),
        lambda: ledger.document("x"),
    ]  # fmt: skip
    for each in ask:
        with pytest.raises(UnknownJob, match="came 'x'"):
            each()


def test_jobs_are_listed_from_the_newest_by_pages_and_states(ledger: Ledger) -> None:
    made = []
    for _ in range(5):
        made.append(submitted(ledger))
        time.sleep(0.002)  # ids are in order from one millisecond to the next
    ledger.cancel(made[1])
    assert [job["id"] for job in ledger.jobs(None, None, 3)] == made[:1:-1]
    assert [job["id"] for job in ledger.jobs(None, made[2], 3)] == made[1::-1]
    assert [job["id"] for job in ledger.jobs("cancelled", None, 3)] == [made[1]]


def test_what_ended_long_ago_is_forgotten_wholly(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    old, open_ = submitted(ledger, 2, "/out/a", key="k"), submitted(ledger)
    ledger.cancel(old)
    assert ledger.forget(time.time() - 60) == 0
    assert ledger.forget(time.time() + 60) == 1
    assert [job["id"] for job in ledger.jobs(None, None, 10)] == [open_]
    monkeypatch.setattr(module, "CHUNK", 2)  # a large one goes in parts
    ledger.cancel(large := submitted(ledger, 5))
    assert ledger.forget(time.time() + 60) == 1
    ledger.cancel(untold := submitted(ledger, webhook="https://example.com/"))
    assert ledger.forget(time.time() + 60) == 0  # its webhook is still to be told
    for message in ledger.messages(9, 60):
        ledger.sent(message)
    assert ledger.forget(time.time() + 60) == 1
    with ledger.engine.connect() as connection:
        for table in (ITEM, EVENT, OUTPUT):
            assert not connection.execute(select(table).where(table.c.job.in_([old, large, untold]))).all()
    submitted(ledger, key="k", digest="another")


# Webhooks


def test_events_are_a_message_until_they_have_arrived(ledger: Ledger) -> None:
    job = submitted(ledger, webhook="https://example.com/")
    submitted(ledger)  # without one
    [message] = ledger.messages(10, 60)
    assert (message.job, message.url, message.tries) == (job, "https://example.com/", 0)
    assert [event["seq"] for event in message.events] == [1]
    assert ledger.messages(10, 60) == []  # it is on its way
    ledger.not_sent(message, 0)
    ledger.end(claimed(ledger)[0], "done", DONE)
    [again] = ledger.messages(10, 60)
    assert (again.tries, [event["seq"] for event in again.events]) == (1, [1, 2, 3])
    ledger.sent(again)
    ledger.sent(message)  # one that was late says nothing new
    assert ledger.messages(10, 60) == []


def test_a_message_of_which_nothing_is_heard_is_sent_again(ledger: Ledger) -> None:
    submitted(ledger, webhook="https://example.com/")
    assert ledger.messages(10, 0)
    time.sleep(0.001)
    assert ledger.messages(10, 0)


def test_what_is_given_up_is_not_sent_any_more(ledger: Ledger) -> None:
    submitted(ledger, webhook="https://example.com/")
    ledger.not_sent(ledger.messages(10, 60)[0], None)
    assert ledger.messages(10, 0) == []


def test_pages_and_messages_are_of_limited_bytes_however_many_outputs_images_have(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE_BYTES", 2500)
    monkeypatch.setattr(module, "MESSAGE_BYTES", 1500)
    job = submitted(ledger, 5, webhook="https://example.com/")
    for claim in claimed(ledger, 4):
        ledger.end(claim, "done", DONE | {"notes": [{"pointer": "", "detail": "x" * 1000}]})
    numbers: list[list[int]] = []
    while page := ledger.images(job, numbers[-1][-1] if numbers else -1, 10):
        numbers.append([image["index"] for image in page])
    assert numbers == [[0, 1], [2, 3, 4]]  # that is not made has few
    assert [event["seq"] for event in ledger.events(job, 1, 10)] == [2, 3]
    assert [event["seq"] for event in ledger.events(job, 1, 1)] == [2]
    assert ledger.images(job, -1, 0) == []
    [message] = ledger.messages(1, 60)
    assert [event["seq"] for event in message.events] == [1, 2]
    monkeypatch.setattr(module, "PAGE_BYTES", 10)
    assert [event["seq"] for event in ledger.events(job, 2, 10)] == [3]  # one comes always


def test_messages_are_of_limited_size(ledger: Ledger) -> None:
    job = submitted(ledger, 150, webhook="https://example.com/")
    ledger.cancel(job)
    [first] = ledger.messages(10, 60)
    assert len(first.events) == 100
    ledger.sent(first)
    [second] = ledger.messages(10, 60)
    assert [event["seq"] for event in second.events] == list(range(101, 153))


def run(what: Callable[[Ledger], None], ledgers: list[Ledger]) -> None:
    """In a thread for each; what fails in one fails here."""
    faults: list[BaseException] = []

    def safe(ledger: Ledger) -> None:
        try:
            what(ledger)
        except BaseException as error:
            faults.append(error)
            raise

    threads = [threading.Thread(target=safe, args=[ledger]) for ledger in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not faults
