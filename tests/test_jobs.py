"""Jobs over the routes, made by a worker in this process."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, event

from falconimg.errors import Busy, LedgerProblem, Unreadable
from falconimg.jobs import execution, worker
from falconimg.jobs.ledger import Ledger
from falconimg.jobs.record import Claim, End, Turn
from falconimg.jobs.worker import Worker
from tests.conftest import Result, Serve, Server, encoded, noise
from tests.test_http import problem

SECONDS = 20
PICTURE = encoded(noise(6, 8))


def raising(error: Exception) -> Callable[..., Any]:
    """A function that raises it."""

    def call(*_: Any) -> Any:
        raise error

    return call


class Desk:
    """A server with jobs, its ledger, and a worker that is started when a test wants it."""

    def __init__(self, server: Server, url: str) -> None:
        self.server = server
        self.ledger = Ledger(url)
        self.worker = Worker(server.pipeline.settings, server.pipeline.store, self.ledger)
        self.thread = threading.Thread(target=self.worker.run, daemon=True)
        self.closed = False

    def submit(self, images: Any, headers: dict[str, str] | None = None, **more: Any) -> Result:
        return self.server.post("/v1/jobs", {"images": images, **more}, headers=headers or {})

    def submitted(self, *images: Any, **more: Any) -> str:
        answer = self.submit(list(images), **more)
        assert answer.status_code == 202, answer.text
        return str(answer.json["id"])

    def get(self, path: str, **more: Any) -> Result:
        return self.server.client.simulate_get(f"/v1/jobs{path}", **more)

    def claim(self, seconds: float = 60) -> Claim:
        [claim] = self.ledger.claim(1, seconds)
        return claim

    def make(self, claim: Claim) -> bool:
        return execution.run_claimed(claim, self.server.pipeline, self.ledger)

    def make_all(self) -> None:
        while claims := self.ledger.claim(1, 60):
            assert self.make(claims[0])

    def start(self) -> None:
        self.thread.start()

    def ended(self, id_: str) -> dict[str, Any]:
        wait_for(lambda: self.ledger.job(id_)["ended"])
        shown: dict[str, Any] = self.get(f"/{id_}").json
        return shown

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.worker.stop()
        if self.thread.is_alive():
            self.thread.join(SECONDS)
            assert not self.thread.is_alive()
        self.worker.pipeline.threads.close()
        self.worker._waker.close()
        self.ledger.close()


@pytest.fixture
def make_desk(serve: Serve, tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    made = []

    def make(**settings: Any) -> Desk:
        url = f"sqlite:///{tmp_path}/jobs.db"
        made.append(Desk(serve(jobs=True, ledger=url, **settings), url))
        made[-1].server.put("in/a.png", noise(6, 8))
        return made[-1]

    yield make
    for desk in made:
        desk.close()


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    return make_desk()


def wait_for(what: Callable[[], Any]) -> None:
    end = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def image(output: str = "out/a.png", **more: Any) -> dict[str, Any]:
    return {"input": "in/a.png", "output": output, **more}


# Submitting


def test_a_key_that_comes_again_is_its_job_though_the_inputs_are_gone(desk: Desk) -> None:
    document = [{"input": "in/*.png", "output": "out/{stem}.png"}]
    first = desk.submit(document, {"Idempotency-Key": "k"}, glob=True)
    (desk.server.root / "in/a.png").unlink()
    again = desk.submit(document, {"Idempotency-Key": "k"}, glob=True)
    assert (again.status_code, again.json["id"]) == (202, first.json["id"])
    assert desk.submit(document, glob=True).status_code == 422


def test_what_may_have_ended_its_worker_has_no_other_beside_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    id_ = desk.submitted(*(image(f"out/{n}.png") for n in range(4)))
    desk.ledger.claim(1, -1)  # its worker is gone
    desk.ledger.expire(9)
    states: list[str] = []
    make = execution.made

    def slowly(claim: Claim, *more: Any) -> End | None:
        if claim.attempts > 1:
            time.sleep(1)
            states.extend(each["status"] for each in desk.ledger.images(id_, 0, 9))
        return make(claim, *more)

    monkeypatch.setattr(worker, "made", slowly)
    desk.start()
    desk.ended(id_)
    assert states == ["pending"] * 3


def test_a_job_is_answered_with_where_it_is_and_made_by_a_worker(desk: Desk) -> None:
    answer = desk.submit([image(), image("out/b.png", operations=["gray"])], operations=["split"])
    assert answer.status_code == 202
    id_ = answer.json["id"]
    assert answer.headers["Location"] == f"/v1/jobs/{id_}"
    assert (answer.json["state"], answer.json["total"]) == ("queued", 2)
    desk.start()
    shown = desk.ended(id_)
    assert (shown["state"], shown["done"], shown["next"]) == ("done", 2, None)
    tree = desk.server.tree()
    assert [output["path"] for output in shown["images"][0]["outputs"]] == [f"out/a_{n}.png" for n in (1, 2, 3, 4)]
    for each in shown["images"]:
        for output in each["outputs"]:
            data = tree[output["path"]]
            assert (output["bytes"], output["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_a_job_makes_what_the_same_batch_makes(desk: Desk) -> None:
    batch = {
        "images": [
            {"input": "in/a.png", "renditions": [
                {"output": "x/{stem}_{index}_{width}.png", "operations": ["resize=2"]},
                {"output": "x/{stem}.jpg", "quality": 50, "background": "black"},
            ]},
            {"input": "in/*.png", "output": "y/{dir}/{stem}.webp", "operations": ["flip=h"]},
            {"input": "in/missing.png", "output": "z.png"},
        ],
        "operations": ["split=1x2"],
        "glob": True,
        "metadata": "keep",
    }  # fmt: skip
    desk.server.put("in/b.png", noise(4, 4))
    wanted = desk.server.post("/v1/process", batch)
    assert wanted.status_code == 207
    made = {path: data for path, data in desk.server.tree().items() if not path.startswith("in")}
    for path in made:
        if not path.endswith("/"):
            (desk.server.root / path).unlink()
    images: Any = batch["images"]
    id_ = desk.submitted(*images, **{name: value for name, value in batch.items() if name != "images"})
    desk.make_all()
    assert {path: data for path, data in desk.server.tree().items() if not path.startswith("in")} == made
    shown = desk.get(f"/{id_}").json
    for mine, theirs in zip(shown["images"], wanted.json["images"], strict=True):
        assert [{k: v for k, v in each.items() if k != "sha256"} for each in mine["outputs"]] == theirs["outputs"]
        assert (mine.get("notes"), mine.get("error")) == (theirs.get("notes"), theirs.get("error"))


def test_notes_are_of_the_requests_places(desk: Desk) -> None:
    id_ = desk.submitted(image("out/0.png"), image("out/1.png", operations=["crop=2x2+7+5"]), on_invalid="skip")
    desk.make_all()
    [note] = desk.get(f"/{id_}").json["images"][1]["notes"]
    assert note["pointer"] == "/images/1/operations/0"


@pytest.mark.parametrize(
    ("document", "status", "where"),
    [
        ({"images": []}, 422, "/images"),
        ({"images": [{"input": "in/a.png"}]}, 422, "/images/0"),
        ({"images": [{"input": "in/a.png", "output": "a.nix"}]}, 422, "/images/0/output"),
        ({"images": [{"input": "../a.png", "output": "a.png"}]}, 403, "/images/0/input"),
        ({"images": [{"input": "in/a.png", "output": "a.png"}], "priority": "urgent"}, 422, "/priority"),
        ({"images": [{"input": "in/a.png", "output": "a.png"}], "webhook": "http://1.1.1.1/"}, 422, "/webhook"),
        ({"images": [{"input": "in/a.png", "output": "a.png"}], "more": 1}, 422, ""),
    ],
)
def test_a_wrong_document_is_refused_at_its_place_and_nothing_recorded(
    desk: Desk, document: Any, status: int, where: str
) -> None:
    found = problem(desk.server.post("/v1/jobs", document), status)
    assert found["errors"][0]["pointer"] == where
    assert desk.get("").json == {"jobs": [], "next": None}


def test_process_takes_no_key_of_a_jobs(desk: Desk) -> None:
    assert problem(desk.server.process([image()], priority="low"), 422)["errors"]


def test_a_job_may_have_more_images_than_a_request(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(max_images=2, max_job_images=3)
    images = [image(f"out/{n}.png") for n in range(4)]
    assert problem(desk.server.process(images[:3]), 422)
    assert desk.submit(images[:3]).status_code == 202
    found = problem(desk.submit(images), 422)
    assert "FALCONIMG_MAX_JOB_IMAGES" in found["errors"][0]["detail"]


def test_the_same_key_and_body_are_the_same_job(desk: Desk) -> None:
    key = {"Idempotency-Key": "k"}
    first = desk.submit([image()], key)
    again = desk.submit([image()], key)
    assert (again.status_code, again.json["id"]) == (202, first.json["id"])
    found = problem(desk.submit([image("out/b.png")], key), 422, "/problems/idempotency-key")
    assert first.json["id"] in found["detail"]
    assert len(desk.get("").json["jobs"]) == 1


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "schlüssel"])
def test_a_key_of_another_form_is_refused(desk: Desk, key: str) -> None:
    found = problem(desk.submit([image()], {"Idempotency-Key": key}), 422)
    assert "Idempotency-Key of 1 to 255 visible ASCII characters" in found["detail"]


def test_two_open_jobs_with_one_output_are_refused(desk: Desk) -> None:
    first = desk.submitted(image("out/{stem}.png"), operations=["split"])
    found = problem(desk.submit([image("./out/a_3.png")]), 409, "/problems/job-conflict")
    assert first in found["detail"]
    assert "out/a_3.png" in found["detail"]
    desk.make_all()
    desk.submitted(image("out/a_3.png"))


def test_a_name_that_the_picture_decides_is_refused_in_its_turn(desk: Desk) -> None:
    one = desk.submitted(image("out/{width}.png"))
    two = desk.submitted(image("out/8.png"), operations=["blur=3"])
    first, second = desk.claim(), desk.claim()
    assert desk.make(first)
    assert desk.get(f"/{one}").json["images"][0]["error"]["type"] == "/problems/conflict"
    assert desk.make(second)
    assert desk.get(f"/{two}").json["state"] == "done"


def test_a_ledger_on_a_full_disk_is_a_503_and_nothing_is_on_record(make_desk: Callable[..., Desk]) -> None:
    def fill(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA max_page_count = 100")

    event.listen(Engine, "connect", fill)
    try:
        desk = make_desk()
        small = desk.submitted(image())
        answer = desk.submit([image(f"out/{n}.png") for n in range(1000)], headers={"Idempotency-Key": "k"})
        assert "full" in problem(answer, 503, "/problems/ledger")["detail"]
        assert [job["id"] for job in desk.get("").json["jobs"]] == [small]
        desk.submitted(image("out/b.png"))
    finally:
        event.remove(Engine, "connect", fill)


def test_without_jobs_there_are_no_routes(serve: Serve) -> None:
    server = serve(jobs=False)
    for answer in (server.post("/v1/jobs", {}), server.client.simulate_get("/v1/jobs/1/events")):
        assert "FALCONIMG_JOBS" in problem(answer, 404)["detail"]
    assert "FALCONIMG_JOBS" not in problem(server.client.simulate_get("/v1/jobsx"), 404)["detail"]
    assert not [path for path in server.client.simulate_get("/openapi.json").json["paths"] if "jobs" in path]


# Asking


def test_a_job_is_shown_by_pages(desk: Desk) -> None:
    id_ = desk.submitted(*(image(f"out/{n}.png") for n in range(5)))
    first = desk.get(f"/{id_}", query_string="limit=2").json
    assert [each["index"] for each in first["images"]] == [0, 1]
    assert first["next"] == 1
    last = desk.get(f"/{id_}", query_string="after=2").json
    assert ([each["index"] for each in last["images"]], last["next"]) == ([3, 4], None)
    assert desk.get(f"/{id_}", query_string="limit=0").json["images"] == []


@pytest.mark.parametrize(
    ("path", "query", "where"),
    [
        ("/{id}", "after=1", "/after"),
        ("/{id}", "after=-2", "/after"),
        ("/{id}", "limit=1001", "/limit"),
        ("/{id}", "limit=x", "/limit"),
        ("/{id}", "limit=1&limit=2", "/limit"),
        ("/{id}/events", "after=2", "/after"),
        ("", "state=ended", "/state"),
        ("", "before=nope", "/before"),
    ],
)
def test_a_cursor_out_of_range_is_refused(desk: Desk, path: str, query: str, where: str) -> None:
    id_ = desk.submitted(image())
    found = problem(desk.get(path.replace("{id}", id_), query_string=query), 422)
    assert found["errors"][0]["pointer"] == where


@pytest.mark.parametrize("last", ["2", "-1", "x", ""])
def test_a_last_event_that_there_is_not_is_refused(desk: Desk, last: str) -> None:
    answer = desk.get(f"/{desk.submitted(image())}/events", headers={"Last-Event-ID": last})
    assert f'expected a Last-Event-ID from 0 to 1, came "{last}"' in problem(answer, 422)["detail"]


def test_the_log_says_of_which_job_an_image_failed(make_desk: Callable[..., Desk], capsys: Any) -> None:
    desk = make_desk(log="json")
    id_ = desk.submitted(image(), image("out/b.png", input="in/none.png"))
    desk.make_all()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    [failed] = [line for line in lines if line["event"] == "image_failed"]
    assert (failed["job"], failed["index"], failed["input"]) == (id_, 1, "in/none.png")


def test_an_unknown_parameter_or_job_is_refused(desk: Desk) -> None:
    assert 'came "page"' in problem(desk.get("", query_string="page=2"), 422)["detail"]
    for path in ("/nix", "/nix/events"):
        assert "came 'nix'" in problem(desk.get(path), 404, "/problems/job")["detail"]
    assert problem(desk.server.client.simulate_delete("/v1/jobs/nix"), 404, "/problems/job")
    assert problem(desk.server.client.simulate_post("/v1/jobs/nix/retry"), 404, "/problems/job")


def test_jobs_are_listed_by_state_and_from_one_on(desk: Desk) -> None:
    first = desk.submitted(image("out/0.png"))
    desk.make_all()
    time.sleep(0.002)
    second = desk.submitted(image("out/1.png"))
    page = desk.get("", query_string="limit=1").json
    assert ([job["id"] for job in page["jobs"]], page["next"]) == ([second], second)
    assert [job["id"] for job in desk.get("", query_string=f"before={second}").json["jobs"]] == [first]
    assert [job["id"] for job in desk.get("", query_string="state=done").json["jobs"]] == [first]


def lines(answer: Result) -> list[dict[str, Any]]:
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines() if line]


def test_events_are_lines_that_go_on_until_the_job_ends(desk: Desk) -> None:
    id_ = desk.submitted(image(), image("out/b.png"))
    threading.Timer(0.3, desk.start).start()
    found = lines(desk.get(f"/{id_}/events"))
    assert [(each["seq"], each["kind"]) for each in found] == [(1, "queued"), (2, "image"), (3, "image"), (4, "ended")]
    assert lines(desk.get(f"/{id_}/events", query_string="after=2")) == found[2:]
    assert lines(desk.get(f"/{id_}/events", headers={"Last-Event-ID": "3"})) == found[3:]
    # a browser that comes back asks for the same address, and says what it had besides
    assert lines(desk.get(f"/{id_}/events", query_string="after=1", headers={"Last-Event-ID": "3"})) == found[3:]


def test_events_are_server_sent_where_they_are_asked_for(desk: Desk) -> None:
    id_ = desk.submitted(image())
    desk.make_all()
    answer = desk.get(f"/{id_}/events", headers={"Accept": "text/event-stream"})
    assert answer.headers["Content-Type"] == "text/event-stream"
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in answer.text.split("\n\n") if block]
    assert [(block["id"], block["event"]) for block in blocks] == [("1", "queued"), ("2", "image"), ("3", "ended")]
    assert json.loads(blocks[2]["data"])["state"] == "done"


def test_those_who_follow_leave_half_of_the_threads(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(threads=2)
    id_ = desk.submitted(image())
    following = threading.Thread(target=lambda: desk.get(f"/{id_}/events"))
    following.start()
    time.sleep(0.3)
    begun = time.monotonic()
    assert [each["kind"] for each in lines(desk.get(f"/{id_}/events"))] == ["queued"]  # what there is
    assert time.monotonic() - begun < 5
    desk.make_all()
    following.join(SECONDS)
    assert not following.is_alive()
    assert [each["kind"] for each in lines(desk.get(f"/{id_}/events"))] == ["queued", "image", "ended"]


# Changing one's mind


def test_a_cancelled_job_finishes_what_runs_and_makes_nothing_else(desk: Desk) -> None:
    id_ = desk.submitted(image("out/0.png"), image("out/1.png"))
    claim = desk.claim()
    shown = desk.server.client.simulate_delete(f"/v1/jobs/{id_}").json
    assert (shown["state"], shown["cancelled"]) == ("running", 1)
    assert desk.make(claim)
    desk.make_all()
    shown = desk.get(f"/{id_}").json
    assert (shown["state"], [each["status"] for each in shown["images"]]) == ("cancelled", ["done", "cancelled"])
    assert sorted(path for path in desk.server.tree() if path.endswith(".png")) == ["in/a.png", "out/0.png"]


def test_a_retry_makes_what_failed(desk: Desk) -> None:
    id_ = desk.submitted(image("out/0.png"), {"input": "in/b.png", "output": "out/1.png"})
    desk.make_all()
    assert desk.get(f"/{id_}").json["state"] == "partial"
    desk.server.put("in/b.png", noise(3, 3))
    (desk.server.root / "out/0.png").unlink()
    answer = desk.server.client.simulate_post(f"/v1/jobs/{id_}/retry")
    assert (answer.status_code, answer.json["state"]) == (202, "queued")
    desk.make_all()
    assert desk.get(f"/{id_}").json["state"] == "done"
    assert "out/0.png" not in desk.server.tree()
    assert problem(desk.server.client.simulate_post(f"/v1/jobs/{id_}/retry"), 409, "/problems/job-conflict")


# Making


def test_an_image_that_changed_since_is_not_made(desk: Desk) -> None:
    id_ = desk.submitted(image())
    desk.server.put("in/a.png", noise(6, 8, seed=9))
    desk.make_all()
    error = desk.get(f"/{id_}").json["images"][0]["error"]
    assert error["type"] == "/problems/changed"
    assert "out/a.png" not in desk.server.tree()
    # who asks for it again means what is there now, and no later one
    for seed, state in ((9, "done"), (8, "failed")):
        id_ = desk.submitted(image("out/b.png"))
        desk.server.put("in/a.png", data=b"no picture")
        desk.make_all()
        desk.server.put("in/a.png", noise(6, 8, seed=seed))
        assert desk.server.client.simulate_post(f"/v1/jobs/{id_}/retry").status_code == 202
        if state == "failed":
            desk.server.put("in/a.png", noise(7, 8))
        desk.make_all()
        assert desk.get(f"/{id_}").json["state"] == state
    assert np.array_equal(desk.server.picture("out/b.png"), noise(6, 8, seed=9))


def test_names_that_only_pictures_decide_are_kept_apart_as_by_process(desk: Desk) -> None:
    for seed, name in enumerate(("in/a.png", "in/b.png", "in/8.png")):
        desk.server.put(name, noise(6, 8 if seed < 2 else 5, seed=seed))
    inputs = desk.server.tree()
    same = [{"input": name, "output": "out/{width}.png"} for name in ("in/a.png", "in/b.png")]
    on_input = [{"input": "in/a.png", "output": "in/{width}.png"}, {"input": "in/8.png", "output": "out/x.png"}]
    for images, words in ((same, "expected a path that no open job has"), (on_input, "that is no other image's input")):
        by_process = desk.server.post("/v1/process", {"images": images}).json["images"]
        id_ = desk.submitted(*images)
        desk.make_all()
        shown = desk.get(f"/{id_}").json["images"]
        assert [image["status"] for image in shown] == [image["status"] for image in by_process]
        (failed,) = (image["error"] for image in shown if "error" in image)
        assert failed["type"] == "/problems/conflict"
        assert words in failed["detail"]
        assert desk.server.tree().items() >= inputs.items()


def test_an_image_of_which_the_record_does_not_answer_is_made_later(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = desk.submitted(image())
    with monkeypatch.context() as patch:
        patch.setattr(desk.ledger, "about_to_publish", raising(LedgerProblem("it is locked")))
        with pytest.raises(LedgerProblem, match="it is locked"):
            desk.make(desk.claim())
    assert "out/a.png" not in desk.server.tree()
    claim = desk.claim()
    assert claim.attempts == 1  # that was none
    assert desk.make(claim)
    assert desk.get(f"/{id_}").json["state"] == "done"


def test_a_store_of_objects_that_does_not_answer_takes_no_job(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    store = desk.server.pipeline.store
    address = "http://files.example/a.png"
    monkeypatch.setattr(store, "check_input", lambda path: path)
    monkeypatch.setattr(store, "below_root", lambda path: "a.png")
    monkeypatch.setattr(store, "version", raising(Unreadable(f"{address} could not be read: it does not answer")))
    answer = desk.submit([{"input": address, "output": "out/a.png"}])
    assert "it does not answer" in problem(answer, 503, "/problems/busy")["detail"]
    assert desk.get("").json["jobs"] == []


def test_who_lost_the_image_publishes_nothing(desk: Desk) -> None:
    id_ = desk.submitted(image())
    late = desk.claim(seconds=0)
    time.sleep(0.001)
    desk.ledger.expire(3)
    now = desk.claim()
    assert not desk.make(late)
    assert "out/a.png" not in desk.server.tree()
    assert desk.make(now)
    assert desk.get(f"/{id_}").json["state"] == "done"


@pytest.mark.parametrize("if_exists", ["error", "skip", "overwrite"])
@pytest.mark.parametrize("published", [0, 2, 4])
def test_a_second_execution_takes_its_own_files_as_its_own(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, published: int, if_exists: str
) -> None:
    id_ = desk.submitted(image(), operations=["split"], if_exists=if_exists)
    publish = desk.server.pipeline.store.publish
    with monkeypatch.context() as patch:  # as if it were killed while it publishes
        patch.setattr(desk.server.pipeline.store, "publish", lambda files, how: publish(files[:published], how))
        patch.setattr(desk.ledger, "end", lambda *_: True)
        desk.make(desk.claim(seconds=0))
    assert len([path for path in desk.server.tree() if path.startswith("out/a_")]) == published
    time.sleep(0.001)
    desk.ledger.expire(3)
    desk.make_all()
    shown = desk.get(f"/{id_}").json
    assert shown["state"] == "done"
    assert [output["path"] for output in shown["images"][0]["outputs"]] == [f"out/a_{n}.png" for n in (1, 2, 3, 4)]
    assert "notes" not in shown["images"][0]
    for output in shown["images"][0]["outputs"]:
        assert hashlib.sha256(desk.server.tree()[output["path"]]).hexdigest() == output["sha256"]


def test_a_file_that_another_put_there_meanwhile_is_not_its_own(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    id_ = desk.submitted(image(), if_exists="error")
    with monkeypatch.context() as patch:
        patch.setattr(desk.ledger, "end", lambda *_: True)
        desk.make(desk.claim(seconds=0))
    other = desk.server.put("out/a.png", noise(2, 2))
    time.sleep(0.001)
    desk.ledger.expire(3)
    desk.make_all()
    assert desk.get(f"/{id_}").json["images"][0]["error"]["type"] == "/problems/exists"
    assert (desk.server.picture("out/a.png") == other).all()


def test_anothers_file_is_not_its_own(desk: Desk) -> None:
    id_ = desk.submitted(image(), if_exists="error")
    desk.server.put("out/a.png", noise(2, 2))
    desk.make_all()
    error = desk.get(f"/{id_}").json["images"][0]["error"]
    assert error["type"] == "/problems/exists"


def test_a_worker_gives_back_what_it_has_not_begun_when_it_is_told_to_stop(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(pool=1)
    id_ = desk.submitted(*(image(f"out/{n}.png") for n in range(300)))
    desk.start()
    wait_for(lambda: desk.ledger.job(id_)["done"] > 0)
    desk.close()
    states = [each["status"] for each in desk.ledger.images(id_, -1, 1000)]
    assert set(states) == {"done", "pending"}
    assert desk.ledger.job(id_)["done"] == states.count("done")


def test_an_image_without_memory_or_before_a_stop_is_given_back(
    make_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = make_desk(wait_seconds=0.1)
    id_ = desk.submitted(image())
    with monkeypatch.context() as patch:
        patch.setattr(desk.server.pipeline, "run", lambda *_: (_ for _ in ()).throw(Busy("no memory")))
        assert desk.make(desk.claim())
    desk.server.pipeline.stop_at = 0.0  # as long after a stop
    assert desk.make(desk.claim())
    desk.server.pipeline.stop_at = float("inf")
    claim = desk.claim()
    assert (claim.attempts, claim.fence) == (1, 3)
    assert desk.make(claim)
    assert desk.get(f"/{id_}").json["state"] == "done"


def test_what_several_images_come_to_is_one_transaction(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    real, counts = desk.ledger.end_and_claim, list[int]()

    def counting(ends: Sequence[End], turn: Turn | None) -> Any:
        counts.append(len(ends))
        return real(ends, turn)

    monkeypatch.setattr(desk.ledger, "end_and_claim", counting)
    id_ = desk.submitted(*(image(f"out/{n}.png") for n in range(200)))
    desk.start()
    assert desk.ended(id_)["done"] == 200
    assert sum(counts) == 200
    assert max(counts) > 4
    assert len(list(filter(None, counts))) < 100


def test_what_has_ended_waits_for_others_as_long_as_there_is_enough_to_make(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "made", lambda claim, *_: End(claim, "done", {}))
    desk.submitted(*(image(f"out/{n}.png") for n in range(20)))
    claims = desk.ledger.claim(20, 60)
    desk.worker._running.update({claim.key: claim for claim in claims})
    enough = 20 - desk.server.pipeline.settings.pool - worker.READY
    for claim in claims[:enough]:
        desk.worker._make(claim)
        assert desk.worker._due == desk.worker._times[0] + worker.GATHER_SECONDS
    before = time.monotonic()
    desk.worker._make(claims[enough])
    assert before <= desk.worker._due <= time.monotonic()


def test_what_an_image_has_come_to_is_kept_while_the_ledger_does_not_answer(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, faults = desk.ledger.end_and_claim, iter([LedgerProblem("it is locked")] * 2)
    making, began = execution.made, list[int]()

    def faulty(ends: Sequence[End], turn: Turn | None) -> Any:
        if ends and (fault := next(faults, None)):
            raise fault
        return real(ends, turn)

    def counted(claim: Claim, *more: Any) -> End | None:
        began.append(claim.number)
        return making(claim, *more)

    monkeypatch.setattr(desk.ledger, "end_and_claim", faulty)
    monkeypatch.setattr(worker, "made", counted)
    id_ = desk.submitted(*(image(f"out/{n}.png") for n in range(3)))
    desk.start()
    assert desk.ended(id_)["done"] == 3
    assert sorted(began) == [0, 1, 2]  # none twice
    assert capsys.readouterr().err.count("it is locked") == 2


def test_a_worker_that_waits_is_told_of_a_job(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "ASK_SECONDS", 10 * SECONDS)
    monkeypatch.setattr(worker, "POLL_SECONDS", 10 * SECONDS if sys.platform == "linux" else 0.2)
    desk.start()
    for n in range(3):
        time.sleep(0.1)
        assert desk.ended(desk.submitted(image(f"out/{n}.png")))["done"] == 1


def test_a_closing_job_delays_the_next_one_for_no_turn(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "ASK_SECONDS", 10 * SECONDS)
    monkeypatch.setattr("falconimg.jobs.ledger.CANCELLED", 2)
    none = {"input": "in/none.png", "output": "out/none.png"}
    first = desk.submitted(none, *(image(f"out/{n}.png") for n in range(40)), on_error="stop")
    second = desk.submitted(image("out/last.png"))
    desk.start()
    assert desk.ended(second)["done"] == 1
    assert desk.ended(first)["skipped"] > 20


def test_a_worker_whose_lease_holds_publishes_without_asking(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk.ledger, "_only", raising(AssertionError("it was asked")))
    ends = desk.submitted(image("out/b.png"), image("out/c.png"))
    desk.start()
    assert desk.ended(ends)["done"] == 2


def test_a_worker_that_is_told_to_stop_gives_back_what_it_claimed_ahead(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, go_on, begun = execution.made, threading.Event(), threading.Event()

    def held_up(*args: Any) -> End | None:
        begun.set()
        assert go_on.wait(SECONDS)
        return real(*args)

    monkeypatch.setattr(worker, "made", held_up)
    desk.worker._threads = ThreadPoolExecutor(1)
    id_ = desk.submitted(*(image(f"out/{n}.png") for n in range(3)))
    desk.start()
    assert begun.wait(SECONDS)
    desk.worker.stop()
    wait_for(lambda: [each["status"] for each in desk.ledger.images(id_, -1, 9)] == ["running", "pending", "pending"])
    go_on.set()
    desk.thread.join(SECONDS)
    assert not desk.thread.is_alive()
    assert [each["status"] for each in desk.ledger.images(id_, -1, 9)] == ["done", "pending", "pending"]
    assert [claim.attempts for claim in desk.ledger.claim(9, 60)] == [1, 1]


def test_a_worker_that_is_told_to_stop_does_not_wait_for_a_ledger_that_does_not_answer(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = desk.ledger.end_and_claim

    def faulty(ends: Sequence[End], turn: Turn | None) -> Any:
        if ends:
            raise LedgerProblem("it is locked")
        return real(ends, turn)

    monkeypatch.setattr(desk.ledger, "end_and_claim", faulty)
    desk.submitted(image())
    desk.start()
    wait_for((desk.server.root / "out/a.png").exists)
    desk.worker.stop()
    desk.thread.join(SECONDS)
    assert not desk.thread.is_alive()


def test_a_worker_goes_on_after_what_nobody_foresaw(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, faults = desk.ledger.end_and_claim, iter([ZeroDivisionError("a fault of ours")])

    def faulty(ends: Sequence[End], turn: Turn | None) -> Any:
        if ends and (fault := next(faults, None)):
            raise fault
        return real(ends, turn)

    monkeypatch.setattr(desk.ledger, "end_and_claim", faulty)
    first = desk.submitted(image())
    desk.start()
    wait_for(lambda: not desk.worker._running and (desk.server.root / "out/a.png").exists())
    assert desk.ended(desk.submitted(image("out/b.png")))["done"] == 1
    assert desk.get(f"/{first}").json["state"] == "running"  # until its lease is over
    assert "a fault of ours" in capsys.readouterr().err


def test_a_worker_renews_its_leases(make_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    desk = make_desk(lease_seconds=0.3)
    id_ = desk.submitted(image())
    real = execution.made

    def slow(*args: Any) -> End | None:
        time.sleep(1.2)
        desk.ledger.expire(1)  # as another's sweeper
        return real(*args)

    monkeypatch.setattr("falconimg.jobs.worker.made", slow)
    desk.start()
    assert desk.ended(id_)["state"] == "done"


def test_what_a_dead_worker_held_is_made_by_another(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    id_ = desk.submitted(image())
    desk.claim(seconds=0.2)  # and nothing is heard of it any more
    desk.start()
    assert desk.ended(id_)["state"] == "done"
