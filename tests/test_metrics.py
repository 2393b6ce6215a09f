"""What the server says of its work: the metrics, right over several workers, whatever becomes of them."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.parser import text_string_to_metric_families

from falconimg import metrics, scratch
from falconimg.errors import Impossible, LedgerProblem
from falconimg.job import Outcome, Output
from falconimg.operations import OPERATIONS
from falconimg.request import process
from tests import conftest, pictures
from tests.serving import SECONDS, Server, free_port, serving, write
from tests.tables import ROOT

Series = dict[str, dict[tuple[tuple[str, str], ...], float]]


def series(text: str) -> Series:
    """name -> {labels -> value}; fails where the text is not Prometheus's, or says a series twice."""
    found: Series = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in found[sample.name], sample
            found[sample.name][labels] = sample.value
    return found


def value(text: str, name: str, **labels: str) -> float:
    """A series' number, 0 if it is not there."""
    return series(text)[f"falconimg_{name}"].get(tuple(sorted(labels.items())), 0.0)


def scraped(server: Server) -> str:
    status, text, headers = server.ask("GET", "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return str(text)


def images(server: Server, count: int, batch: str) -> list[dict[str, str]]:
    return [write(server.root, f"in/{batch}{n}.png", pictures.noise(20, 30, seed=n)) for n in range(count)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("metrics"), workers="2", log="json") as running:
        yield running


def counts(name: str, **labels: str) -> Callable[[], float]:
    """A function that says by how much this process's number has grown since."""
    before = value(metrics.scraped().decode(), name, **labels)
    return lambda: value(metrics.scraped().decode(), name, **labels) - before


def test_the_text_is_prometheuss_with_a_help_and_a_type_for_each_row(server: Server) -> None:
    assert server.process_batch(images(server, 1, "text"))[0] == 200
    text = scraped(server)
    series(text)
    for row in metrics.ROWS:
        family = row.name.removesuffix("_total") if row.kind == "counter" else row.name
        assert re.search(rf"^# HELP {family}(_total)? \S", text, re.MULTILINE), row.name
        assert re.search(rf"^# TYPE {family}(_total)? {row.kind}$", text, re.MULTILINE), row.name


def test_a_ledger_that_does_not_answer_takes_no_other_metric_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def look() -> metrics.Waiting:
        raise LedgerProblem("the disk is full")

    monkeypatch.setattr(metrics.COLLECTOR, "look", lambda: metrics.Waiting({"queued": 2}, {}, 1.5, 1))
    assert value(metrics.scraped().decode(), "jobs", state="queued") == 2
    monkeypatch.setattr(metrics.COLLECTOR, "look", look)
    text = metrics.scraped().decode()
    assert "falconimg_jobs{" not in text
    assert value(text, "images_total", verdict="done") >= 0


def test_names_are_as_prometheus_wants_them() -> None:
    for row in metrics.ROWS:
        assert re.fullmatch(r"falconimg(_[a-z]+)+", row.name), row.name
        assert row.name.endswith("_total") == (row.kind == "counter"), row.name
        assert row.kind != "histogram" or row.name.endswith("_seconds"), row.name


def test_what_an_image_took_and_gave_is_counted(server: Server) -> None:
    image = write(server.root, "in/counted.png", pictures.noise(20, 30))
    before = scraped(server)
    status, report = server.process_batch([image, {"input": "in/missing.png", "output": "out/m.png"}], "resize=0.5")
    assert status == 207
    answered = {"method": "POST", "route": "/v1/process", "status": "207"}
    was = value(before, "http_requests_total", **answered)  # it is counted once the answer is sent
    server.wait_for(lambda: value(scraped(server), "http_requests_total", **answered) > was)
    after = scraped(server)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("images_total", verdict="done") == grown("images_total", verdict="failed") == 1
    assert (grown("pixels_total", direction="in"), grown("pixels_total", direction="out")) == (600, 150)
    assert grown("bytes_total", direction="in") == (server.root / "in/counted.png").stat().st_size
    assert grown("bytes_total", direction="out") == report["images"][0]["outputs"][0]["bytes"]
    for stage in ("read", "decode", "resize", "encode", "publish"):
        assert grown("stage_duration_seconds_count", stage=stage) == 1, stage
        assert 0 < grown("stage_duration_seconds_sum", stage=stage) < 1, stage
    assert grown("http_requests_total", method="POST", route="/v1/process", status="207") == 1
    assert 0 < grown("http_request_duration_seconds_sum", method="POST", route="/v1/process") < 10
    assert grown("queue_wait_seconds_count") >= 1


def test_a_dry_run_counts_no_pixels_and_no_output(serve: conftest.Serve) -> None:
    server = serve()
    server.put("a.png", conftest.noise(8, 8))
    skipped, pixels = counts("images_total", verdict="skipped"), counts("pixels_total", direction="in")
    out = counts("pixels_total", direction="out")
    assert server.process([{"input": "a.png", "output": "b.png"}], dry_run=True).status_code == 200
    assert (skipped(), pixels(), out()) == (1, 0, 0)


def test_images_that_are_not_begun_are_counted_as_skipped(serve: conftest.Serve) -> None:
    server = serve()
    skipped = counts("images_total", verdict="skipped")
    batch = [{"input": "none.png", "output": f"{n}.png"} for n in range(9)]
    skips = server.process(batch, on_error="stop").json["skipped"]
    assert skips > 0
    assert skipped() == skips


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_that_makes_pixels_has_a_stage_of_its_name(name: str, serve: conftest.Serve) -> None:
    steps = {"resize": "resize=0.5", "blur": "blur=5", "rotate": "rotate=90", "flip": "flip=h", "gray": "gray"}
    views = {"split": "split", "tile": "tile=4", "crop": "crop=4x4+0+0", "splitQuadrants": "splitQuadrants=true"}
    server = serve()
    server.put("a.png", conftest.noise(8, 8))
    stage = counts("stage_duration_seconds_count", stage=name)
    assert server.process([{"input": "a.png", "output": "b.png"}], operations=[(steps | views)[name]]).json["done"] == 1
    assert stage() == (name in steps)


def test_sums_are_right_over_workers(server: Server) -> None:
    before = value(scraped(server), "images_total", verdict="done")
    pids = set()
    for number in range(40):
        assert server.process_batch(images(server, 3, f"s{number}_"))[0] == 200
    after = scraped(server)
    assert value(after, "images_total", verdict="done") - before == 120
    # both have had a part of it: what is summed is not one worker's
    directory = shared_directory(server)
    pids = {file.name for file in directory.glob("counter_*.db") if b"images_total" in file.read_bytes()}
    assert len(pids) == 2


def shared_directory(server: Server) -> Path:
    """Where its processes keep their numbers: the master holds it open."""
    links = [descriptor.readlink() for descriptor in Path(f"/proc/{server.process.pid}/fd").iterdir()]
    (found,) = (link for link in links if link.name.startswith(scratch.PREFIX))
    return found


def test_what_the_worker_answers_by_itself_is_counted(server: Server) -> None:
    before = scraped(server)
    for request in (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"nonsense\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
            connection.sendall(request)
            assert connection.recv(12).startswith(b"HTTP/1.1 4")
    after = scraped(server)
    for status in ("431", "400"):
        labels = {"method": "other", "route": "other", "status": status}
        assert value(after, "http_requests_total", **labels) - value(before, "http_requests_total", **labels) == 1


def test_no_client_can_make_series(server: Server) -> None:
    for number in range(30):
        server.ask("GET", f"/no/such/route/{number}")
        server.ask(f"METHOD{number}", "/v1/process")
        server.ask("GET", f"/docs/{number}.js")
    found = series(scraped(server))["falconimg_http_requests_total"]
    methods, routes = ({dict(labels)[name] for labels in found} for name in ("method", "route"))
    assert methods <= {*metrics.METHODS, "other"}
    assert not [route for route in routes if re.search(r"\d\.js|such", route)]
    assert {"other", "/docs/{name}"} <= routes


def test_probes_stay_out_of_the_access_log(server: Server) -> None:
    for path in ("/livez", "/readyz", "/health", "/healthz"):
        assert server.ask("GET", path, X_Request_ID=f"probe-{path[1:]}")[0] == 200
    server.ask("GET", "/", X_Request_ID="after-the-probes")
    server.wait_for(lambda: "after-the-probes" in server.log)
    assert "probe-" not in server.log
    assert value(scraped(server), "http_requests_total", method="GET", route="/healthz", status="200") >= 1


def test_the_queue_that_is_full_and_the_request_that_is_late_are_counted(tmp_path: Path) -> None:
    with serving(tmp_path, workers="1", client_seconds="0.3", log_level="debug") as server:
        with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
            connection.sendall(b"POST /v1/process HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
            assert connection.recv(12) == b"HTTP/1.1 408"
        assert value(scraped(server), "http_requests_total", method="POST", route="other", status="408") == 1


def test_a_killed_worker_keeps_its_counts_and_loses_its_gauges(tmp_path: Path) -> None:
    with serving(tmp_path, workers="2") as server:
        whole = value(scraped(server), "memory_budget_bytes")
        for number in range(10):
            assert server.process_batch(images(server, 2, f"k{number}_"))[0] == 200
        slow = write(server.root, "in/slow.png", pictures.noise(1500, 1500))
        threading.Thread(
            target=lambda: _quietly(lambda: server.process_batch([slow], "resize=2", "blur=301")), daemon=True
        ).start()
        server.wait_for(lambda: value(scraped(server), "images_in_progress") == 1)
        before = scraped(server)
        victim = next(pid for pid in server.workers() if in_progress(shared_directory(server), pid))
        os.kill(victim, signal.SIGKILL)
        server.wait_for(lambda: len(server.workers()) == 3)
        server.wait_for(lambda: value(scraped(server), "memory_budget_bytes") == whole)
        after = scraped(server)
        assert value(after, "images_in_progress") == value(after, "memory_budget_used_bytes") == 0
        assert value(before, "images_in_progress") == 1
        assert value(before, "memory_budget_used_bytes") > 0
        assert_monotonic(before, after)
        assert value(after, "images_total", verdict="done") == 20


def _quietly(ask: Callable[[], object]) -> None:
    with suppress(OSError):
        ask()


def in_progress(directory: Path, pid: int) -> bool:
    file = directory / f"gauge_livesum_{pid}.db"
    found = MmapedDict.read_all_values_from_file(str(file)) if file.exists() else iter(())
    return any("images_in_progress" in key and number for key, number, _, _ in found)


def assert_monotonic(before: str, after: str) -> None:
    """No counter and no part of a histogram has become less, or is gone."""
    later = series(after)
    for name, found in series(before).items():
        if name.endswith(("_total", "_count", "_sum", "_bucket")):
            for labels, number in found.items():
                assert later[name].get(labels, -1) >= number, (name, labels)


def test_files_do_not_grow_with_workers_and_no_scrape_loses_or_doubles_a_count(tmp_path: Path) -> None:
    port = free_port()
    with serving(tmp_path, workers="2", metrics_bind=f"127.0.0.1:{port}") as server:
        batch = images(server, 1, "g")
        total = 0
        directory = shared_directory(server)
        texts, stop = [elsewhere(port)], threading.Event()

        def scrape() -> None:
            while not stop.is_set():
                texts.append(elsewhere(port))

        scraper = threading.Thread(target=scrape)
        scraper.start()
        try:
            for round_ in range(4):
                for _ in range(6):
                    assert server.process_batch(batch)[0] == 200
                    total += 1
                booted = len(server.workers())
                os.kill(server.process.pid, signal.SIGHUP)  # two new workers
                server.wait_for(lambda booted=booted: len(server.workers()) == booted + 2)
                server.wait_for(lambda booted=booted: server.log.count("Worker exiting") >= booted)
                assert len(list(directory.glob("*.db"))) <= 5 * 3 + 2, round_
        finally:
            stop.set()
            scraper.join(SECONDS)
        os.kill(server.process.pid, signal.SIGHUP)  # nobody scrapes now: what was left is added up
        server.wait_for(lambda: len(server.workers()) == 12)
        server.wait_for(lambda: len(list(directory.glob("counter_*.db"))) == 3)
        assert value(elsewhere(port), "images_total", verdict="done") == total
        assert len(texts) > 50
        for before, after in pairwise(texts):
            assert_monotonic(before, after)
        assert max(value(text, "images_total", verdict="done") for text in texts) <= total


def test_a_server_leaves_no_directory_and_the_next_removes_a_killed_ones(tmp_path: Path) -> None:
    with serving(tmp_path, workers="1") as server:
        killed = shared_directory(server)
        worker = server.workers()[0]
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(SECONDS)
        server.wait_for(lambda: not Path(f"/proc/{worker}").exists())
    with serving(tmp_path, workers="1") as server:
        directory = shared_directory(server)
        assert not killed.exists()
        assert directory.is_dir()
    assert not directory.exists()


def test_metrics_need_a_token_where_tokens_are_set(serve: conftest.Serve) -> None:
    server = serve(token=("0123456789abcdef",))
    assert server.client.simulate_get("/metrics").status_code == 401
    shown = server.client.simulate_get("/metrics", headers={"Authorization": "Bearer 0123456789abcdef"})
    assert (shown.status_code, shown.text.startswith("# HELP falconimg_build_info")) == (200, True)
    for probe in metrics.PROBES:
        assert server.client.simulate_get(probe).status_code == 200


def elsewhere(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=SECONDS) as answer:
        return str(answer.read().decode())


def test_metrics_on_a_port_of_their_own_survive_the_workers_and_end_with_the_server(tmp_path: Path) -> None:
    port = free_port()
    with serving(tmp_path, workers="2", metrics_bind=f"127.0.0.1:{port}", token="0123456789abcdef") as server:  # noqa: S106
        bearer = {"Authorization": "Bearer 0123456789abcdef"}
        assert server.ask("GET", "/metrics", **bearer)[0] == 404
        batch = {"images": images(server, 2, "p")}
        assert server.ask("POST", "/v1/process", batch, **bearer)[0] == 200
        assert value(elsewhere(port), "images_total", verdict="done") == 2
        os.kill(server.process.pid, signal.SIGHUP)
        server.wait_for(lambda: server.log.count("Worker exiting") == 2)
        assert value(elsewhere(port), "images_total", verdict="done") == 2
        os.kill(server.workers()[-1], signal.SIGKILL)
        server.wait_for(lambda: len(server.workers()) == 5)
        assert value(elsewhere(port), "images_total", verdict="done") == 2
    with pytest.raises(OSError, match="refused"):
        elsewhere(port)


def test_the_port_ends_when_the_server_is_killed(tmp_path: Path) -> None:
    port = free_port()
    with serving(tmp_path, workers="1", metrics_bind=f"127.0.0.1:{port}") as server:
        assert elsewhere(port)
        os.kill(server.process.pid, signal.SIGKILL)

        def refused() -> bool:
            try:
                return not elsewhere(port)
            except OSError:
                return True

        server.wait_for(refused)


def test_a_port_that_is_taken_keeps_the_server_from_starting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        environ = {**os.environ, "FALCONIMG_BIND": f"127.0.0.1:{free_port()}", "FALCONIMG_METRICS_BIND": place}
        command = [sys.executable, "-m", "gunicorn", "-c", "python:falconimg.gunicorn_conf"]
        ended = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"falconimg: FALCONIMG_METRICS_BIND: expected a free port, came {place}: "), ended.stderr


def test_a_counter_file_that_is_read_is_added_up_later(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    file = MmapedDict(str(tmp_path / "counter_7.db"))
    file.write_value("key", 3.0, 0.0)
    file.close()
    with (tmp_path / "lock").open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        assert not metrics.bury(tmp_path, [7])
        assert (tmp_path / "counter_7.db").exists()
    assert metrics.bury(tmp_path, [7])
    assert metrics.bury(tmp_path, [7])
    assert [file.name for file in tmp_path.glob("*.db")] == ["counter_gone.db"]
    found = MmapedDict.read_all_values_from_file(str(tmp_path / "counter_gone.db"))
    assert [(key, number) for key, number, _, _ in found] == [("key", 3.0)]


def test_counts_are_added_up_as_soon_as_a_short_look_at_them_is_over(tmp_path: Path) -> None:
    MmapedDict(str(tmp_path / "counter_7.db")).close()
    descriptor = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    threading.Timer(metrics.PATIENCE / 4, os.close, [descriptor]).start()
    assert metrics.bury(tmp_path, [7])


def test_a_process_that_was_killed_before_it_counted_anything_keeps_no_others_count_away(tmp_path: Path) -> None:
    (tmp_path / "counter_7.db").touch()
    file = MmapedDict(str(tmp_path / "counter_8.db"))
    file.write_value("key", 3.0, 0.0)
    file.close()
    assert metrics.bury(tmp_path, [7, 8])
    assert [file.name for file in tmp_path.glob("*.db")] == ["counter_gone.db"]


def test_a_gauge_of_a_process_that_ends_while_it_is_scraped_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("gauge_livesum_7.db", "gauge_livesum_8.db"):
        file = MmapedDict(str(tmp_path / name))
        file.write_value(mmap_key("waiting", "waiting", [], [], "who waits"), 3.0, 0.0)
        file.close()
    stat = Path.stat

    def ending(file: Path, **how: Any) -> os.stat_result:
        if file.name == "gauge_livesum_7.db":
            file.unlink()
        return stat(file, **how)

    monkeypatch.setattr(Path, "stat", ending)
    monkeypatch.setattr(metrics, "metrics_directory", lambda: tmp_path)
    assert b"\nwaiting 3.0\n" in metrics.scraped()


def test_sums_of_times_do_not_depend_on_the_order_in_which_files_are_added_up() -> None:
    times = [0.1 * number + 1e-5 / (number + 1) for number in range(200)]
    name = {"method": "GET", "route": "/order"}
    total = counts("http_request_duration_seconds_sum", **name)
    for seconds in times:
        metrics.answered(**name, status=200, seconds=seconds)
    forward = total()
    for seconds in reversed(times):
        metrics.answered(**name, status=200, seconds=seconds)
    assert total() == 2 * forward
    assert abs(forward - sum(times)) < 200 / metrics.PARTS


def test_a_directory_that_a_living_server_holds_is_left_alone(tmp_path: Path) -> None:
    living, left = scratch.made(tmp_path), tmp_path / f"{scratch.PREFIX}left"
    left.mkdir()
    (tmp_path / f"{scratch.PREFIX}link").symlink_to(left)
    another = scratch.made(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {living.name, another.name, f"{scratch.PREFIX}link"}


def test_server_timing_tells_each_stages_milliseconds(serve: conftest.Serve) -> None:
    outcome = Outcome(0, "a", "done", 1.0, stages=(("read", 0.0012), ("blur", 0.25)))
    assert metrics.server_timing([outcome]) == "read;dur=1.2, blur;dur=250.0"
    assert metrics.server_timing([outcome, outcome]) == "read;dur=2.4, blur;dur=500.0"
    server = serve()
    server.put("a.png", conftest.noise(64, 64))
    document = {"images": [{"input": "a.png", "output": "b.png"}], "operations": ["split", "resize=0.5", "blur=3"]}
    report = server.pipeline.run(process(document, server.pipeline.settings, server.pipeline.store, 0))
    outcome = report.images[0]
    assert [name for name, _ in outcome.stages] == ["read", "decode", "resize", "blur", "encode", "publish"]
    assert sum(seconds for _, seconds in outcome.stages) * 1000 <= outcome.ms + 1


def test_a_stage_that_fails_is_timed_and_its_fault_comes_through() -> None:
    stages = metrics.Stages()

    def fail() -> None:
        raise Impossible("no")

    with pytest.raises(Impossible):
        stages.timed("blur", fail)
    assert [name for name, _ in stages.seconds()] == ["blur"]


def test_only_what_was_written_counts_as_output() -> None:
    out = counts("pixels_total", direction="out")
    metrics.ended(Outcome(0, "a", "skipped", 1.0, (Output("b", 10, 10, "png"),)))
    metrics.ended(Outcome(0, "a", "done", 1.0, (Output("b", 3, 4, "png", 99),)))
    assert out() == 12


def test_the_report_does_not_show_the_stages(serve: conftest.Serve) -> None:
    server = serve()
    server.put("a.png", conftest.noise(8, 8))
    assert "stages" not in json.dumps(server.process([{"input": "a.png", "output": "b.png"}]).json)


def test_an_answer_of_v1_image_says_what_each_stage_took(serve: conftest.Serve) -> None:
    body = conftest.encoded(conftest.noise(64, 64))
    answer = serve().client.simulate_post("/v1/image", query_string="op=resize=0.5&op=flip=h", body=body)
    assert answer.status_code == 200
    parts = dict(part.split(";dur=") for part in answer.headers["Server-Timing"].split(", "))
    assert list(parts) == ["read", "decode", "resize", "flip", "encode", "publish"]
    assert all(re.fullmatch(r"\d+\.\d", milliseconds) for milliseconds in parts.values())


def test_the_cache_counts_what_it_had_and_what_not(serve: conftest.Serve, tmp_path: Path) -> None:
    server = serve(cache_mb=10, cache_dir=tmp_path)
    server.put("a.png", conftest.noise(8, 8))
    hits, misses = counts("cache_hits_total"), counts("cache_misses_total")
    for expected in ((0, 1), (1, 1), (2, 1)):
        assert server.client.simulate_get("/v1/image/a.png", query_string="op=flip=h").status_code == 200
        assert (hits(), misses()) == expected


def expressions() -> list[str]:
    dashboard = json.loads((ROOT / "deploy" / "grafana.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def of_row(name: str) -> metrics.Row:
    """The metric of a series, by its name in an expression."""
    whole = {
        f"{row.name}{suffix}": row
        for row in metrics.ROWS
        for suffix in (("_bucket", "_sum", "_count") if row.kind == "histogram" else ("",))
    }
    return whole[name]


def test_the_dashboard_shows_every_metric_and_none_that_is_not_there() -> None:
    used = {of_row(name) for text in expressions() for name in re.findall(r"\bfalconimg_\w+", text)}
    assert used == set(metrics.ROWS)


def test_the_dashboard_sums_by_labels_that_the_metrics_have() -> None:
    for text in expressions():
        labels = {label for group in re.findall(r"\bby \(([^)]*)\)", text) for label in group.split(", ")} - {"le"}
        (name, *_) = re.findall(r"\bfalconimg_\w+", text)
        assert labels <= set(of_row(name).labels), text
        assert ("_bucket" in text) == ("(le" in text) == ("histogram_quantile" in text), text
        assert of_row(name).kind == "gauge" or f"rate({name}[$__rate_interval])" in text, text


def test_the_dashboards_panels_do_not_lie_on_each_other() -> None:
    panels = json.loads((ROOT / "deploy" / "grafana.json").read_text())["panels"]
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
