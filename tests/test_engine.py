"""Jobs by Celery: the broker only wakes; what it loses is late, not lost."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from falconimg.errors import SettingsProblem
from falconimg.jobs import engine
from falconimg.jobs.ledger import Ledger
from falconimg.jobs.record import Item
from falconimg.jobs.worker import Keeper
from falconimg.settings import Settings
from tests import chaos, services
from tests.conftest import noise
from tests.serving import free_port, serving, write
from tests.test_jobs_server import check, ended, submit

BROKERS = {"rabbitmq": "amqp://guest:guest@127.0.0.1:{}//", "redis": "redis://127.0.0.1:{}/0"}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with services.postgresql(tmp_path_factory.mktemp("postgresql")) as service:
        yield services.database(service)


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[services.Service]:
    with getattr(services, request.param)(tmp_path_factory.mktemp(request.param)) as service:
        service.environ["URL"] = BROKERS[request.param].format(service.port)
        yield service


def test_without_a_broker_there_is_no_bell() -> None:
    assert engine.bell(Settings()) is None


def test_a_broker_that_is_not_there_only_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = engine.bell(Settings(broker="redis://127.0.0.1:1/0"))
    assert ring is not None
    end = time.monotonic() + 20
    while ring("job", 0):
        assert time.monotonic() < end
        time.sleep(0.05)
    wait_for_silence(ring)


def wait_for_silence(ring: object) -> None:
    """Until nothing is told any more: the log of this test is another's afterwards."""
    assert isinstance(ring, engine.Bell)
    end = time.monotonic() + 30
    while ring._bells.unfinished_tasks:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{}/0", "amqp://guest:guest@127.0.0.1:{}//"])
def test_a_broker_that_takes_a_connection_and_says_nothing_delays_nobody(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ring = engine.bell(Settings(broker=url.format(silent.getsockname()[1])))
        assert ring is not None
        begun = time.monotonic()
        answers = [ring("job", number) for number in range(engine.MOST_BELLS + 10)]
        assert time.monotonic() - begun < 2
    assert not answers[-1]  # the sweeper rings again
    wait_for_silence(ring)


def test_a_broker_without_its_client_is_a_setting_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "celery", None)
    with pytest.raises(SettingsProblem, match=r"falconimg\[celery\]"):
        engine.bell(Settings(broker="redis://127.0.0.1:2/0"))


@pytest.mark.parametrize("url", ["redis://127.0.0.1:3/0", "amqp://guest:guest@127.0.0.1:3//"])
def test_celery_is_told_to_bring_again_what_a_dead_worker_had(url: str) -> None:
    conf = engine._application(Settings(broker=url, image_seconds=86400)).conf
    assert (conf.task_acks_late, conf.task_reject_on_worker_lost, conf.worker_prefetch_multiplier) == (True, True, 1)
    options = dict(conf.broker_transport_options)
    if url.startswith("redis:"):
        assert options.pop("visibility_timeout") > 86400  # the longest that FALCONIMG_IMAGE_SECONDS may be
        assert options == {"unacked_restore_interval": 2, "unacked_restore_throttle": 1}
    else:
        assert options == {"confirm_publish": True}


def test_a_task_of_redis_may_take_two_hours() -> None:
    conf = engine._application(Settings(broker="redis://127.0.0.1:3/0", image_seconds=1)).conf
    assert conf.broker_transport_options["visibility_timeout"] == 2 * 3600


@pytest.mark.servers
def test_the_engine_makes_what_is_submitted(tmp_path: Path, broker: services.Service, database: str) -> None:
    images = [{**write(tmp_path, "a.png", noise(60, 60)), "output": f"out/{n}.png"} for n in range(30)]
    chosen = {"jobs": "on", "ledger": database, "broker": broker.environ["URL"], "lease_seconds": "2"}
    with serving(tmp_path, workers="1", **chosen) as server:
        job = ended(server, submit(server, images, "split"))
        check(tmp_path, job)
        assert (job["state"], job["done"]) == ("done", 30)
    assert "Traceback" not in server.log


@pytest.mark.servers
def test_where_no_bell_is_ever_heard_workers_look_by_themselves(tmp_path: Path, database: str) -> None:
    images = [{**write(tmp_path, "a.png", noise(60, 60)), "output": f"out/{n}.png"} for n in range(10)]
    broker = f"redis://127.0.0.1:{free_port()}/0"  # where nobody is
    with serving(tmp_path, workers="1", jobs="on", ledger=database, broker=broker) as server:
        job = ended(server, submit(server, images, "split"))
        check(tmp_path, job)
        assert (job["state"], job["done"]) == ("done", 10)
    assert "Traceback" not in server.log


@pytest.mark.servers
def test_a_broker_s_death_and_the_loss_of_its_data_only_delay(
    tmp_path: Path, broker: services.Service, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [{**write(tmp_path, "a.png", noise(500, 500)), "output": f"out/{n}.png"} for n in range(60)]
    chosen = {"jobs": "on", "ledger": database, "broker": broker.environ["URL"], "lease_seconds": "2"}
    with serving(tmp_path, workers="1", **chosen) as server:
        first = submit(server, images, "resize=2", "split")
        server.wait_for(lambda: server.ask("GET", f"/v1/jobs/{first}?limit=0")[1]["done"] > 3)
        broker.kill()
        later = [{"input": "a.png", "output": f"later/{n}.png"} for n in range(3)]
        second = submit(server, later)  # it is taken though nobody can be woken
        for path in broker.root.iterdir():
            if path.name not in ("log", "rabbitmq.conf"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        broker.start()
        for id_, count in ((first, 60), (second, 3)):
            job = ended(server, id_)
            check(tmp_path, job)
            assert (job["state"], job["done"]) == ("done", count)


@pytest.mark.servers
def test_random_kills_lose_double_and_tear_nothing(
    tmp_path: Path, broker: services.Service, database: str, long: bool
) -> None:
    if broker.environ["URL"].startswith("redis:") and not long:
        return  # the same with the other broker; the death of this one has its own test
    settings: dict[str, Any] = {"FALCONIMG_LEDGER": database, "FALCONIMG_BROKER": broker.environ["URL"]}
    settings["FALCONIMG_JOB_WORKERS"] = "1"
    over, killed = threading.Event(), []

    def kill_broker() -> None:
        for _ in range(10 if long else 1):
            if over.wait(8 if long else 3):
                return
            broker.kill()
            killed.append(time.monotonic())
            broker.start()

    killing = threading.Thread(target=kill_broker)
    killing.start()
    try:
        found = chaos.run(
            tmp_path, 24 if long else 4, 20 if long else 4, 40 if long else 10, seed=11, pauses=(1, 6), **settings
        )
    finally:
        over.set()
        killing.join(services.SECONDS)
    print(f"figure: {found}")  # noqa: T201
    assert found.faults == []
    assert found.kills.total() == (24 if long else 4)
    assert found.kills["jobs"] + found.kills["frozen"] > 1
    assert len(killed) >= (5 if long else 1)
    assert found.checked == found.images


def test_a_bell_that_was_not_heard_is_rung_again(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/jobs.db")
    id_, _ = ledger.submit({}, [Item(n, {"input": "a"}, "", "in/a.png", None, ()) for n in range(3)], "d")
    rung: list[tuple[str, int]] = []

    def ring(job: str, number: int) -> bool:
        rung.append((job, number))
        return True

    keeper = Keeper(Settings(), ledger, ring)
    keeper.sweep()
    assert rung == [(id_, 0), (id_, 1), (id_, 2)]
    keeper.sweep()
    assert len(rung) == 3  # not yet again
    [claim, _] = ledger.claim(2, -1)
    ledger.expire(9)
    keeper.sweep()
    assert rung[3:] == [(id_, 0), (id_, 1)]  # but those whose worker is gone at once
    assert ledger.end(claim, "done", {}) is False
    for _ in range(2):
        assert ledger.unheard(10, 0) != []
    assert len(ledger.claim(1, 60, idle=False)) == 0
    ledger.cancel(id_)
    deaf, _ = ledger.submit({}, [Item(n, {"input": "a"}, "", "in/a.png", None, ()) for n in range(3)], "d")
    Keeper(Settings(), ledger, lambda *_: False).sweep()
    assert ledger.unheard(10, 60) == [(deaf, 1), (deaf, 2)]  # who could not be told was asked of one alone
    ledger.close()


def test_a_sweep_forgets_the_jobs_that_ended_too_long_ago(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/jobs.db")
    item = Item(place=0, image={"input": "a"}, below="", key="a", identity=None, outputs=())
    now, days, ids = time.time(), 3, []
    for at in (now - 86400 * days - 60, now - 86400 * days + 60, now):
        with monkeypatch.context() as then:
            then.setattr(time, "time", lambda at=at: at)
            id_, _ = ledger.submit({}, [item], "d")
            ledger.cancel(id_)
        ids.append(id_)
    Keeper(Settings(job_days=days), ledger).sweep()
    assert {job["id"] for job in ledger.jobs(None, None, 10)} == set(ids[1:])
    ledger.close()
