"""Objects and files of web servers as inputs and outputs; test_stores.py has the contract of all stores."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import pytest
from obstore.store import MemoryStore

from falconimg import errors
from falconimg.job import IfExists
from falconimg.jobs import submission
from falconimg.jobs.ledger import Ledger
from falconimg.settings import Settings
from falconimg.stores import File, objects
from falconimg.stores.memory import Memory
from falconimg.stores.objects import Objects
from falconimg.stores.routed import Routed, opened
from falconimg.stores.web import Web
from tests import chaos, services
from tests.conftest import Serve, Server, decoded, encoded, noise
from tests.objects import BUCKET, in_moto, in_seaweedfs, made  # noqa: F401  (fixtures)
from tests.serving import serving, write
from tests.test_jobs_server import ended, submit

LIMIT = 100_000
NO_BUCKET = "'a' could not be written: there is no such bucket"


@pytest.fixture
def shelf() -> Routed:
    """A bucket with in/ to be read and out/ to be written, beside files."""
    bucket = MemoryStore()
    inputs, outputs = (Objects(f"s3://b/{name}/", lambda: bucket) for name in ("in", "out"))
    Objects("s3://b/in/", lambda: bucket).publish([File("a.png", encoded(noise(6, 8)))], "error")
    files = Memory({"local.png": encoded(noise(4, 4))})
    return Routed(files, {"s3://b/in/": inputs}, {"s3://b/out/": outputs})


@pytest.fixture
def server(serve: Serve, shelf: Routed) -> Server:
    return serve(shelf)


def test_objects_and_files_are_read_and_written_in_one_request(server: Server, shelf: Routed) -> None:
    answer = server.process(
        [
            {"input": "s3://b/in/a.png", "output": "s3://b/out/x/{stem}_{width}.png", "operations": ["flip=h"]},
            {"input": "s3://b/in/a.png", "renditions": [{"output": "here.png"}, {"output": "s3://b/out/there.webp"}]},
            {"input": "local.png", "output": "s3://b/out/local.png"},
        ]
    )
    assert answer.status_code == 200, answer.json
    assert (decoded(shelf.outputs["s3://b/out/"].read("x/a_8.png", LIMIT)) == noise(6, 8)[:, ::-1]).all()
    assert set(shelf.files.files) == {"local.png", "here.png"}  # type: ignore[attr-defined]
    assert {output["path"] for image in answer.json["images"] for output in image["outputs"]} == {
        "s3://b/out/x/a_8.png", "here.png", "s3://b/out/there.webp", "s3://b/out/local.png",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("image", "place", "setting"),
    [
        ({"input": "s3://b/out/a.png", "output": "a.png"}, "/images/0/input", "FALCONIMG_INPUT_STORES"),
        ({"input": "s3://other/in/a.png", "output": "a.png"}, "/images/0/input", "FALCONIMG_INPUT_STORES"),
        ({"input": "local.png", "output": "s3://b/in/a.png"}, "/images/0/output", "FALCONIMG_OUTPUT_STORES"),
        ({"input": "http://127.0.0.1/a.png", "output": "a.png"}, "/images/0/input", "FALCONIMG_HTTP_HOSTS"),
        ({"input": "file:///etc/passwd", "output": "a.png"}, "/images/0/input", "FALCONIMG_INPUT_STORES"),
        ({"input": "s3://b/in/../out/a.png", "output": "a.png"}, "/images/0/input", "inside the root"),
        ({"input": "s3://b/input/a.png", "output": "a.png"}, "/images/0/input", "FALCONIMG_INPUT_STORES"),
    ],
)
def test_what_is_not_allowed_is_refused_at_its_place(
    server: Server, image: dict[str, str], place: str, setting: str
) -> None:
    answer = server.process([image])
    assert answer.status_code == 403
    [found] = answer.json["errors"]
    assert (found["pointer"], setting in found["detail"]) == (place, True)


def test_without_a_store_an_address_is_no_path(serve: Serve) -> None:
    answer = serve().process([{"input": "s3://b/a.png", "output": "a.png"}])
    assert answer.status_code == 422
    assert "that FALCONIMG_INPUT_STORES, " in answer.json["errors"][0]["detail"]


def test_patterns_find_objects(server: Server, shelf: Routed) -> None:
    for name in ("x/b.png", "x/y/c.png", "d.txt"):
        shelf.inputs["s3://b/in/"].publish([File(name, encoded(noise(2, 2)))], "error")
    images = [{"input": "s3://b/in/**/*.png", "output": "s3://b/out/{dir}/{stem}.png"}]
    answer = server.process(images, glob=True)
    assert [image["outputs"][0]["path"] for image in answer.json["images"]] == [
        "s3://b/out/a.png", "s3://b/out/x/b.png", "s3://b/out/x/y/c.png",
    ]  # fmt: skip


def test_a_failure_says_what_was_written_before_it(shelf: Routed) -> None:
    shelf.publish([File("s3://b/out/taken", b"1")], "error")
    files = [File("a", b"a"), File("b", b"b"), File("s3://b/out/new", b"n"), File("s3://b/out/taken", b"2")]
    with pytest.raises(errors.Exists) as caught:
        shelf.publish(files, "error")
    assert caught.value.written == ("a", "b")
    assert shelf.publish(files[2:], "skip") == ("s3://b/out/taken",)


def test_results_are_put_at_once_and_those_that_can_be_are(monkeypatch: pytest.MonkeyPatch) -> None:
    import obstore

    put, together = obstore.put, threading.Barrier(3, timeout=20)

    def lame(bucket: Any, key: str, *more: Any, **options: Any) -> Any:
        together.wait()
        if key == "b":
            raise obstore.exceptions.GenericError("no")
        return put(bucket, key, *more, **options)

    monkeypatch.setattr("obstore.put", lame)
    store = Objects("s3://b/", MemoryStore)
    with pytest.raises(errors.NotWritten, match="'b' could not be written") as caught:
        store.publish([File(name, name.encode()) for name in "abc"], "error")
    assert caught.value.written == ("a", "c")
    assert [store.exists(name) for name in "abc"] == [True, False, True]


def test_a_put_that_finds_no_bucket_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def lame(*_: Any, **__: Any) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("obstore.put", lame)
    with pytest.raises(errors.NotWritten) as caught:
        Objects("s3://b/", MemoryStore).publish([File("a", b"a")], "overwrite")
    assert caught.value.detail == NO_BUCKET


def test_of_two_results_of_one_name_the_first_is_first(monkeypatch: pytest.MonkeyPatch) -> None:
    import obstore

    put, order = obstore.put, list[bytes]()

    def slow_once(bucket: Any, key: str, data: bytes, **options: Any) -> Any:
        if data == b"1":
            time.sleep(0.2)
        order.append(data)
        return put(bucket, key, data, **options)

    monkeypatch.setattr("obstore.put", slow_once)
    store = Objects("s3://b/", MemoryStore)
    assert store.publish([File("a", b"1"), File("s3://b/a", b"2")], "skip") == ("s3://b/a",)
    assert (order, store.read("a", LIMIT)) == ([b"1", b"2"], b"1")


def test_the_versions_of_a_job_s_objects_are_asked_for_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import obstore

    settings = Settings(root=tmp_path, ledger=f"sqlite:///{tmp_path}/jobs.db")
    bucket = MemoryStore()
    inputs = Objects("s3://b/", lambda: bucket)
    inputs.publish([File(f"{n}.png", b"") for n in range(2)], "error")
    head, together = obstore.head, threading.Barrier(3, timeout=20)

    def met(*given: Any) -> Any:
        together.wait()
        return head(*given)

    monkeypatch.setattr("obstore.head", met)
    images = [{"input": f"s3://b/{n}.png", "output": f"{n}.png"} for n in range(3)]
    ledger = Ledger(settings.ledger_url)
    submission.submit({"images": images}, settings, Routed(Memory({}), {"s3://b/": inputs}, {}), ledger)
    monkeypatch.undo()
    identities = [claim.identity for claim in ledger.claim(3, 60)]
    assert identities == [inputs.version("0.png", LIMIT), inputs.version("1.png", LIMIT), None]
    ledger.close()


def test_a_result_says_its_media_type() -> None:
    import obstore

    bucket = MemoryStore()
    Objects("s3://b/", lambda: bucket).publish([File("a.webp", b"x")], "error")
    assert obstore.get(bucket, "a.webp").attributes["Content-Type"] == "image/webp"


def test_an_object_that_is_larger_than_it_said_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    class Growing:
        meta = {"size": 10}  # noqa: RUF012

        def stream(self, min_chunk_size: int) -> Iterator[bytes]:
            for _ in range(100):
                read.append(1)
                yield bytes(1000)

    monkeypatch.setattr("obstore.get", lambda *_: Growing())
    with pytest.raises(errors.TooLarge, match="at most 5000 bytes"):
        Objects("s3://b/", MemoryStore).read("a", 5000)
    assert len(read) == 6


def test_an_object_of_a_job_that_changed_is_told_by_its_version(shelf: Routed) -> None:
    store = shelf.inputs["s3://b/in/"]
    before = store.version("a.png", LIMIT)
    store.publish([File("a.png", b"other")], "overwrite")
    assert store.version("a.png", LIMIT) != before


@pytest.mark.parametrize(
    "text",
    ["bucket", "s3://", "s3://B", "s3://b", "gs://bucket", "s3://bucket//a", "s3://bucket/../a", "s3://bucket/a b"],
)
def test_a_store_of_another_form_is_no_setting(text: str) -> None:
    with pytest.raises(errors.SettingsProblem, match="FALCONIMG_STORES: expected addresses like s3://bucket"):
        Settings.from_environ({"FALCONIMG_STORES": text})


def test_a_key_with_a_control_character_is_refused(shelf: Routed) -> None:
    with pytest.raises(errors.InvalidRequest, match="control"):
        shelf.check_input("s3://b/in/a\nb.png")


def test_stores_have_inputs_and_outputs_as_roots_have() -> None:
    both = Settings.from_environ({"FALCONIMG_STORES": "s3://one, s3://one/deeper/"})
    assert both.object_stores == (("s3://one/deeper/", "s3://one/"),) * 2
    apart = Settings.from_environ({"FALCONIMG_STORES": "s3://one", "FALCONIMG_OUTPUT_STORES": "s3://two/x"})
    assert apart.object_stores == (("s3://one/",), ("s3://two/x/",))


def test_a_bucket_may_be_in_its_endpoints_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3.example:9000")
    settings = Settings(s3_credentials="ID:SECRET:TOKEN")
    keys = {"access_key_id": "ID", "secret_access_key": "SECRET", "session_token": "TOKEN"}
    assert settings.s3_options("s3://b/x/") == {**keys, "endpoint": "http://s3.example:9000"}
    monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
    assert settings.s3_options("s3://b/x/")["endpoint"] == "http://b.s3.example:9000"


def test_without_obstore_the_start_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(errors.SettingsProblem, match=r"falconimg\[objects\]"):
        opened(Settings(root=tmp_path, stores=("s3://bucket/",)))


# ---- by real servers ----


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["moto", "seaweedfs"])
def test_of_many_writers_of_one_name_one_wins(kind: str, request: pytest.FixtureRequest) -> None:
    store = request.getfixturevalue(f"in_{kind}")()
    won: list[int] = []

    def write_one(number: int) -> None:
        try:
            store.publish([File("a", bytes([number]) * 1000)], "error")
            won.append(number)
        except errors.Exists:
            pass

    threads = [threading.Thread(target=write_one, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("a", LIMIT) == bytes(won) * 1000


class Names(BaseHTTPRequestHandler):
    """What a name server would do: whatever host is asked for, it is the one server; each is written down."""

    server: Proxy

    def answer(self) -> None:
        address = urlsplit(self.path)
        self.server.asked.append((str(address.hostname), address.path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = address._replace(scheme="", netloc="").geturl()
        with closing(http.client.HTTPConnection("127.0.0.1", self.server.behind)) as connection:
            connection.request(self.command, path, body, dict(self.headers))
            answer = connection.getresponse()
            data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


class Proxy(ThreadingHTTPServer):
    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), Names)
        self.behind = behind
        self.asked: list[tuple[str, str]] = []


@pytest.mark.servers
def test_a_bucket_may_be_a_host_s_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s3").mkdir()
    (tmp_path / "root").mkdir()
    with services.seaweedfs(tmp_path / "s3") as service:
        services.make_bucket(service, "tiles")
        names = Proxy(service.port)
        threading.Thread(target=names.serve_forever, daemon=True).start()
        for name, value in services.s3(service).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{services.DOMAIN}")
        monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{names.server_port}")
        try:
            store = opened(Settings(root=tmp_path / "root", stores=("s3://tiles/",)))
            store.publish([File("s3://tiles/below/a.png", b"abc")], "error")
            assert store.read("s3://tiles/below/a.png", LIMIT) == b"abc"
            with pytest.raises(errors.Exists):
                store.publish([File("s3://tiles/below/a.png", b"abc")], "error")
        finally:
            names.shutdown()
            names.server_close()
        assert set(names.asked) == {(f"tiles.{services.DOMAIN}", "/below/a.png")}


@pytest.mark.servers
def test_wrong_credentials_and_a_server_that_is_gone_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "s3").mkdir()
    with services.seaweedfs(tmp_path / "s3") as service:
        make = made(service)
        right = make()
        right.publish([File("a", b"a")], "error")
        settings = {"endpoint": f"http://127.0.0.1:{service.port}", "access_key_id": services.KEY,
                    "secret_access_key": "a-secret-that-is-wrong", "region": "us-east-1"}  # fmt: skip
        wrong = Objects(right.base, lambda: objects.bucket(right.base, settings))
        with pytest.raises(errors.Unreadable, match="refuses these credentials"):
            wrong.read("a", LIMIT)
        with pytest.raises(errors.NotWritten, match="refuses these credentials") as caught:
            wrong.publish([File("b", b"b")], "overwrite")
        assert "a-secret" not in str(caught.value.__cause__)
    with pytest.raises(errors.Unreadable, match="does not answer"):
        right.read("a", LIMIT)


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["moto", "seaweedfs"])
def test_what_is_in_a_bucket_that_is_not_there_is_missing(kind: str, request: pytest.FixtureRequest) -> None:
    store = request.getfixturevalue(f"in_{kind}")("nowhere")
    with pytest.raises(errors.Missing, match="'a': there is no such file"):
        store.read("a", LIMIT)
    assert not store.exists("a")


@pytest.mark.servers
def test_a_bucket_that_is_not_there_is_said_where_a_result_is_put(in_moto: Callable[..., Objects]) -> None:  # noqa: F811
    """SeaweedFS makes it, if the credentials may."""
    for if_exists in get_args(IfExists):
        with pytest.raises(errors.NotWritten) as caught:
            in_moto("nowhere").publish([File("a", b"a")], if_exists)
        assert (caught.value.detail, caught.value.written) == (NO_BUCKET, ())


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["moto", "seaweedfs"])
def test_the_server_and_its_jobs_use_buckets_and_its_master_does_not(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s3").mkdir()
    with getattr(services, kind)(tmp_path / "s3") as service:
        store = made(service)()
        picture = noise(20, 30)
        store.publish([File("a.png", encoded(picture))], "error")
        for name, value in services.s3(service).items():
            monkeypatch.setenv(name, value)
        chosen = {"stores": f"s3://{BUCKET}", "jobs": "on", "ledger": str(tmp_path / "jobs.db"), "workers": "2"}
        with serving(tmp_path, **chosen) as server:
            image = {"input": f"{store.base}a.png", "output": f"{store.base}out/a.png"}
            for _ in range(4):  # either worker
                status, answer = server.process_batch([image], "flip=h")
                assert status == 200, answer
            assert (decoded(store.read("out/a.png", LIMIT)) == picture[:, ::-1]).all()
            local = write(tmp_path, "b.png", picture)
            job = ended(server, submit(server, [{**image, "output": f"{store.base}job.png"}, local], "flip=v"))
            assert (job["state"], job["done"]) == ("done", 2)
            assert (decoded(store.read("job.png", LIMIT)) == picture[::-1]).all()
            missing = {"input": f"{store.base}nix.png", "output": "nix.png"}
            status, answer = server.process_batch([missing])
            assert answer["images"][0]["error"]["type"] == "/problems/missing"
            maps = Path(f"/proc/{server.process.pid}/maps").read_text()
            assert "obstore" not in maps  # it does not come through a fork
            assert "obstore" in Path(f"/proc/{server.workers()[0]}/maps").read_text()
        assert services.SECRET not in server.log


@pytest.mark.servers
def test_random_kills_lose_double_and_tear_nothing_in_a_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    (tmp_path / "s3").mkdir()
    (tmp_path / "root").mkdir()
    with services.seaweedfs(tmp_path / "s3") as service:
        store = made(service)()
        for name, value in services.s3(service).items():
            monkeypatch.setenv(name, value)
        found = chaos.run(
            tmp_path / "root", 24 if long else 5, 20 if long else 5, 40 if long else 15, seed=5, prefix=store.base,
            store=store, FALCONIMG_STORES=f"s3://{BUCKET}",
        )  # fmt: skip
    print(f"figure: {found}")  # noqa: T201
    assert found.faults == []
    assert found.checked == found.images


# ---- web servers ----


class Site(ThreadingHTTPServer):
    """One that has a picture, and other things."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data = encoded(noise(6, 8))
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        data = self.server.data
        if self.path.startswith("/moved.png"):
            self.send_response(302)
            self.send_header("Location", "/a.png")
            self.end_headers()
        elif not self.path.partition("?")[0].endswith(".png"):
            self.send_error(404)
        else:
            self.send_response(200)
            length = {"/short.png": len(data) + 10}.get(self.path, len(data))
            if self.path not in ("/unsaid.png", "/endless.png"):
                self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command == "HEAD":
                return
            while self.path == "/endless.png":
                try:
                    self.wfile.write(bytes(10_000))
                except OSError:
                    return
            for start in range(0, len(data), 10) if self.path == "/slow.png" else ():
                self.wfile.write(data[start : start + 10])
                self.wfile.flush()
                time.sleep(0.2)
            self.wfile.write(data)

    do_HEAD = do_GET  # noqa: N815  (the name that it is looked up by)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server
        server.shutdown()


def test_a_file_of_a_web_server_is_an_input(serve: Serve, site: Site) -> None:
    files = Memory()
    server = serve(Routed(files, {"http://": Web(["127.0.0.1"], ["127.0.0.1"], 5)}, {}))
    images = [
        {"input": f"{site.url}/dir/a.png?v=1", "output": "{stem}.png"},
        {"input": f"{site.url}/unsaid.png", "output": "b.png"},
        {"input": f"{site.url}/nix", "output": "c.png"},
        {"input": f"{site.url}/moved.png", "output": "d.png"},
        {"input": f"{site.url}/short.png", "output": "e.png"},
    ]
    answer = server.process(images)
    found = [image.get("error", {"type": "done"})["type"].removeprefix("/problems/") for image in answer.json["images"]]
    assert found == ["done", "done", "missing", "unreadable", "unreadable"]
    assert (decoded(files.files["a.png"]) == noise(6, 8)).all()
    assert "GET /moved.png" not in site.asked


def test_a_web_server_that_sends_without_end_or_slowly_is_left(site: Site) -> None:
    web = Web(["127.0.0.1"], ["127.0.0.1"], 1)
    with pytest.raises(errors.TooLarge):
        web.read(f"{site.url}/endless.png", LIMIT)
    begun = time.monotonic()
    with pytest.raises(errors.Unreadable, match="FALCONIMG_IMAGE_SECONDS"):
        web.read(f"{site.url}/slow.png", LIMIT)
    assert time.monotonic() - begun < 10


def test_a_failure_to_read_from_a_web_server_does_not_repeat_what_signs_its_address(site: Site) -> None:
    web = Web(["127.0.0.1"], ["127.0.0.1"], 5)
    for name, problem in (("nix", errors.Missing), ("moved.png", errors.Unreadable), ("a.png", errors.TooLarge)):
        with pytest.raises(problem) as caught:
            web.read(f"{site.url}/{name}?X-Amz-Signature=SECRET", 10)
        assert caught.value.detail.startswith(f"'{site.url}/{name}?...': ")
        assert "SECRET" not in caught.value.detail


def test_only_hosts_that_are_allowed_are_asked_and_only_at_public_addresses(site: Site) -> None:
    with pytest.raises(errors.Forbidden, match="FALCONIMG_HTTP_HOSTS"):
        Web(["example.com"], [], 5).check_input(f"{site.url}/a.png")
    private = Web(["127.0.0.1"], [], 5)
    private.check_input(f"{site.url}/a.png")
    with pytest.raises(errors.Unreadable, match="public addresses"):
        private.read(f"{site.url}/a.png", LIMIT)
    assert site.asked == []
    for call in (private.check_output, lambda path: private.publish([File(path, b"")], "error")):
        with pytest.raises((errors.Forbidden, errors.OutsideRoot)):
            call(f"{site.url}/a.png")


def test_a_changed_file_of_a_web_server_has_another_version(site: Site) -> None:
    web = Web(["127.0.0.1"], ["127.0.0.1"], 5)
    before = web.version(f"{site.url}/a.png", LIMIT)
    assert web.version(f"{site.url}/a.png", LIMIT) == before
    site.data = encoded(noise(7, 7))
    assert web.version(f"{site.url}/a.png", LIMIT) != before


def test_web_servers_are_inputs_only_where_hosts_are_set(tmp_path: Path) -> None:
    store = opened(Settings(root=tmp_path, http_hosts=("example.com",)))
    assert store.check_input("https://example.com/a.png") == "https://example.com/a.png"
    with pytest.raises(errors.Forbidden):
        store.check_output("https://example.com/a.png")
    with pytest.raises(errors.InvalidRequest):
        opened(Settings(root=tmp_path)).check_input("https://example.com/a.png")


def test_the_log_does_not_say_what_signs_an_address(serve: Serve, site: Site, capsys: Any) -> None:
    server = serve(Routed(Memory(), {"http://": Web(["127.0.0.1"], ["127.0.0.1"], 5)}, {}))
    address = f"{site.url}/nix?X-Amz-Signature=SECRET"
    answer = server.process([{"input": address, "output": "c.png"}])
    assert answer.json["images"][0]["input"] == address
    said = capsys.readouterr().err
    assert "image_failed" in said
    assert "SECRET" not in said
