"""What is in deploy/, each file by its parts: there is no Docker engine and no cluster here.

Real nginx and the real filter of system calls are the tests marked `servers`;
.ci/run installs what they need and runs them.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from falconimg import resources, signing
from falconimg.settings import Settings, variables
from tests import pictures
from tests.serving import SECONDS, Server, free_port, read, serving, write
from tests.tables import ROOT

DEPLOY = ROOT / "deploy"
TOKEN, KEY = "sesame-" * 3, "hush-" * 4
OURS = [variable.name for field in fields(Settings) for variable in variables(field)]


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def deployed() -> dict[str, dict[str, Any]]:
    """Kubernetes' resources by their kind."""
    return {document["kind"]: document for document in documents("kubernetes.yaml")}


def dockerfile(instruction: str) -> list[str]:
    """What follows each such instruction, in one line."""
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text())
    return re.findall(rf"^{instruction} (.*)$", text, re.MULTILINE)


# The files agree with the code and with each other.


@pytest.mark.parametrize("path", [*DEPLOY.iterdir(), *ROOT.glob("docs/*.md"), ROOT / "README.md"], ids=lambda p: p.name)
def test_every_variable_that_a_file_names_is_a_setting(path: Path) -> None:
    not_ours = {"FALCONIMG_PORT"}  # Kubernetes'
    named = set(re.findall(r"\bFALCONIMG_[A-Z0-9_]+", path.read_text()))
    assert {name for name in named if not name.endswith("_")} <= {*OURS, *not_ours}


def test_the_containers_are_stopped_after_the_last_image_may_have_ended() -> None:
    needed = Settings().graceful_seconds + Settings().image_seconds + 5  # as gunicorn_conf has it
    (compose,) = documents("compose.yaml")
    (unit,) = re.findall(r"^TimeoutStopSec=(\d+)$", (DEPLOY / "falconimg.service").read_text(), re.MULTILINE)
    assert int(unit) > needed
    assert int(compose["services"]["falconimg"]["stop_grace_period"].removesuffix("s")) > needed
    assert deployed()["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > needed


def test_kubernetes_asks_the_probes_at_the_port_that_the_image_has() -> None:
    spec = deployed()["Deployment"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert [f"PORT={port['containerPort']}" for port in container["ports"]] == dockerfile("ENV")[0].split()[-1:]
    for probe, path in (("startupProbe", "/readyz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": container["ports"][0]["name"]}
        assert path in resources.ROUTES
    assert deployed()["Service"]["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    assert spec["securityContext"]["runAsUser"] == int(dockerfile("USER")[0].partition(":")[0])


def test_kubernetes_adds_no_variables_of_its_own_that_would_stop_the_start() -> None:
    assert deployed()["Deployment"]["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_the_containers_can_write_to_their_volumes_only_and_gain_nothing() -> None:
    (compose,) = documents("compose.yaml")
    for service in compose["services"].values():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["mem_limit"]
    (container,) = deployed()["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert container["resources"]["limits"]["memory"]
    assert dockerfile("USER") != ["root"]


def test_no_secret_is_in_the_environment_of_a_container() -> None:
    (compose,) = documents("compose.yaml")
    environments = [*(set(service.get("environment", {})) for service in compose["services"].values())]
    (container,) = deployed()["Deployment"]["spec"]["template"]["spec"]["containers"]
    environments.append({variable["name"] for variable in container["env"]})
    for names in environments:
        assert not names & {"FALCONIMG_TOKEN", "FALCONIMG_KEY"}
    assert {"FALCONIMG_TOKEN_FILE", "FALCONIMG_KEY_FILE"} <= environments[0] & environments[-1]


# The linters.


LINTERS = {
    "Dockerfile": ["hadolint", "deploy/Dockerfile"],
    "compose": ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "deploy/compose.yaml"],
    "compose of jobs": ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "deploy/compose.jobs.yaml"],
    "Kubernetes": ["kubernetes-validate", "--strict", "deploy/kubernetes.yaml"],
    "workflows": ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", ".github/workflows/ci.yml",
                  ".github/workflows/release.yml"],
    "workflows' safety": ["zizmor", "--offline", "--quiet", ".github/workflows"],
}  # fmt: skip


@pytest.mark.servers
@pytest.mark.parametrize("name", LINTERS)
def test_the_linter_finds_nothing(name: str) -> None:
    tool, *arguments = LINTERS[name]
    command = [str(Path(sys.executable).with_name(tool)), *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.servers
@pytest.mark.parametrize(
    ("platform", "kinds"), [("linux", ("manylinux_x86_64", "musllinux_x86_64")), ("macos", ("macosx_x86_64",))]
)
def test_wheels_are_built_for_each_python_that_is_supported(platform: str, kinds: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers", "--platform", platform]
    ended = subprocess.run(
        [*command, "--archs", "x86_64", str(ROOT)], capture_output=True, text=True, timeout=SECONDS, check=True
    )
    found = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    pythons = [f"cp{python.replace('.', '')}" for python in found]
    assert sorted(ended.stdout.split()) == sorted(f"{python}-{kind}" for python in pythons for kind in kinds)


def test_a_wheel_is_tried_by_making_pictures() -> None:
    command = [sys.executable, str(DEPLOY / "try_wheel.py"), str(ROOT / "examples")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    assert ended.stdout.split()[0] == "200"
    assert len(ended.stdout.split()) == 17


# systemd.


UNIT = DEPLOY / "falconimg.service"
SYSTEMD = "/usr/bin/systemd-analyze"


@pytest.mark.servers
def test_systemd_takes_the_unit_as_it_is(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/falconimg/bin/falconimg", sys.executable))
    ended = subprocess.run([SYSTEMD, "verify", str(unit)], capture_output=True, text=True, timeout=SECONDS)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.servers
def test_systemd_finds_the_unit_exposed_to_next_to_nothing() -> None:
    command = [SYSTEMD, "security", "--offline=true", "--threshold=11", "--no-pager", str(UNIT)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == 0, ended.stdout  # 1.1 of 10; without its hardening it would be 9.2


# Run by Debian's Python, which has libseccomp: forbids all system calls but those named, and new executable memory, as
# SystemCallFilter= and MemoryDenyWriteExecute= do; then becomes the command.
CONFINE = """
import ctypes, errno, os, seccomp, sys
allowed, command = sys.argv[1].split(","), sys.argv[2:]
filter = seccomp.SyscallFilter(defaction=seccomp.ERRNO(errno.EPERM))
for name in allowed:
    if seccomp.resolve_syscall(seccomp.Arch(), name) >= 0:
        filter.add_rule(seccomp.ALLOW, name)
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
    sys.exit("no PR_SET_MDWE here: the kernel is older than 6.3")
filter.load()
os.execv(command[0], command)
"""


def calls(group: str) -> set[str]:
    """The system calls of one of systemd's groups."""
    told = subprocess.run(
        [SYSTEMD, "syscall-filter", "--no-pager", group],
        capture_output=True, text=True, timeout=SECONDS, check=True,
    ).stdout  # fmt: skip
    names = [line.strip() for line in told.splitlines()[1:] if not line.strip().startswith("#")]
    found: set[str] = set()
    for name in filter(None, names):
        found |= calls(name) if name.startswith("@") else {name}
    return found


@pytest.mark.servers
def test_the_server_works_under_the_units_filter_of_system_calls(tmp_path: Path) -> None:
    allow, deny = re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(), re.MULTILINE)
    allowed = set().union(*map(calls, allow.split())) - set().union(*map(calls, deny.removeprefix("~").split()))
    under = ["/usr/bin/python3", "-c", CONFINE, ",".join(sorted(allowed))]
    with serving(tmp_path, under, workers="2", cache_mb="10", cache_dir=str(tmp_path)) as server:
        for name in ("a.png", "b.jpg", "c.webp", "d.tif"):
            image = write(tmp_path, f"in/{name}", pictures.noise(60, 80))
            status, report = server.process_batch([image], "resize=0.5", "blur=25")
            assert (status, report["done"]) == (200, 1)
        images = [write(tmp_path, "in/a.png", pictures.noise(60, 80))]
        assert server.process_batch(images, "flip=h", if_exists="skip")[1]["skipped"] == 1
        assert server.ask("GET", "/v1/info/in/a.png")[1]["width"] == 80
        # openat2 was not forbidden: by the slower way each directory would be opened by itself
        assert "openat2" in allowed
        assert "EPERM" not in server.log
        assert "rror" not in server.log, server.log


# nginx in front.


@dataclass
class Proxied:
    falconimg: Server
    port: int
    files: Path  # nginx's own

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            given = {"Authorization": f"Bearer {TOKEN}", **headers}
            connection.request(method, path, body, {name.replace("_", "-"): v for name, v in given.items() if v})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            connection.close()

    def lines(self, part: str) -> list[str]:
        """nginx's access lines with this in them, once there is one."""
        log = self.files / "access.log"
        self.falconimg.wait_for(lambda: part in log.read_text())
        return [line for line in log.read_text().splitlines() if part in line]


def nginx(files: Path, port: int, behind: int) -> list[str]:
    """The command of an nginx that has deploy/nginx.conf, on these ports and with its files here."""
    conf = (DEPLOY / "nginx.conf").read_text()
    for old, new in (
        ("listen 8080;", f"listen 127.0.0.1:{port};"),
        ("server falconimg:8888;", f"server 127.0.0.1:{behind};"),
        ("/var/cache/nginx/falconimg", f"{files}/cache"),
        ("/var/log/nginx/access.log", f"{files}/access.log"),
    ):
        assert conf.count(old) == 1, old
        conf = conf.replace(old, new)
    (files / "falconimg.conf").write_text(conf)
    (files / "temporary").mkdir()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "\n".join(f"{kind}_temp_path {files}/temporary/{kind};" for kind in kinds)
    (files / "nginx.conf").write_text(
        f"user root; daemon off; pid {files}/pid; error_log {files}/error.log info; events {{}}\n"
        f"http {{ {places}\ninclude {files}/falconimg.conf; }}\n"
    )
    return [shutil.which("nginx") or "/usr/sbin/nginx", "-c", str(files / "nginx.conf")]


@pytest.fixture(scope="module")
def proxied() -> Iterator[Proxied]:
    with ExitStack() as stack:
        root, files = (Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2))
        for name, secret in (("token", TOKEN), ("key", KEY)):
            (files / name).write_text(f"{secret}\n")
        secrets = {"token_file": str(files / "token"), "key_file": str(files / "key")}
        server = stack.enter_context(serving(root, prefix="/img", workers="2", memory="4G", max_body="1M", **secrets))
        port = free_port()
        command = nginx(files, port, server.port)
        subprocess.run([*command, "-t"], capture_output=True, timeout=SECONDS, check=True)
        process = subprocess.Popen(command)
        try:
            found = Proxied(server, port, files)

            def answers() -> bool:
                assert process.poll() is None, (files / "error.log").read_text()
                try:
                    return found.ask("GET", "/img/readyz")[0] == 200
                except OSError:
                    return False

            server.wait_for(answers)
            yield found
        finally:
            process.terminate()
            process.wait(SECONDS)


def batch(*images: dict[str, str], operations: tuple[str, ...] = ()) -> bytes:
    return json.dumps({"images": images, "operations": operations}).encode()


@pytest.mark.servers
def test_a_batch_goes_through_nginx_below_the_prefix_with_its_id(proxied: Proxied) -> None:
    pixels = pictures.noise(20, 30)
    body = batch(write(proxied.falconimg.root, "in/through.png", pixels), operations=("flip=h",))
    status, answer, headers = proxied.ask(
        "POST", "/img/v1/process", body, Content_Type="application/json", X_Request_ID="the-id-through-nginx"
    )
    assert (status, json.loads(answer)["done"]) == (200, 1)
    assert np.array_equal(read(proxied.falconimg.root / "out/through.png"), pixels[:, ::-1])
    assert headers["X-Request-ID"] == "the-id-through-nginx"
    assert proxied.lines("the-id-through-nginx")
    proxied.falconimg.wait_for(lambda: "the-id-through-nginx" in proxied.falconimg.log)


@pytest.mark.servers
def test_the_prefix_alone_leads_to_itself_with_a_slash_through_nginx(proxied: Proxied) -> None:
    status, _, headers = proxied.ask("GET", "/img")
    assert (status, headers["Location"]) == (308, "/img/")
    assert proxied.ask("GET", "/img/")[0] == 200


@pytest.mark.servers
@pytest.mark.parametrize(
    ("method", "path", "body", "authorization", "status"),
    [
        ("GET", "/img/none", None, "", 404),
        ("PUT", "/img/v1/image", b"x", f"Bearer {TOKEN}", 405),
        ("POST", "/img/v1/process", b"{}", "", 401),
        ("POST", "/img/v1/process", b"{", f"Bearer {TOKEN}", 400),
        ("POST", "/img/v1/process", b" " * 2_000_000, f"Bearer {TOKEN}", 413),
        ("GET", "/img/v1/image/in/none.png", None, "", 403),
        ("GET", "/img/v1/image/in/none.png", None, f"Bearer {TOKEN}", 404),
    ],
)
def test_a_refusal_of_falconimgs_passes_nginx_as_it_is(
    method: str, path: str, body: bytes | None, authorization: str, status: int, proxied: Proxied
) -> None:
    came, answer, headers = proxied.ask(
        method, path, body, Authorization=authorization, Content_Type="application/json"
    )
    assert (came, headers["Content-Type"]) == (status, "application/problem+json")
    document = json.loads(answer)
    assert (document["status"], document["request_id"]) == (status, headers["X-Request-ID"])


@pytest.mark.servers
def test_an_upload_of_50_mb_goes_through_and_is_written_to_no_disk_on_the_way(proxied: Proxied) -> None:
    picture = pictures.noise(4000, 4200)
    path = proxied.falconimg.root / "large.bmp"
    write(proxied.falconimg.root, path.name, picture)
    assert path.stat().st_size > 50e6
    status, answer, headers = proxied.ask("POST", "/img/v1/image?op=resize=420x&format=png", path.read_bytes())
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert (headers["Image-Width"], headers["Image-Height"]) == ("420", "400")
    (proxied.falconimg.root / "answer.png").write_bytes(answer)
    assert read(proxied.falconimg.root / "answer.png").shape == (400, 420, 3)
    assert "buffered to a temporary file" not in (proxied.files / "error.log").read_text()


@pytest.mark.servers
def test_a_stranger_is_refused_before_nginx_has_the_body(proxied: Proxied) -> None:
    with socket.create_connection(("127.0.0.1", proxied.port), SECONDS) as connection:
        connection.sendall(b"POST /img/v1/image HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000000\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 401"


@pytest.mark.servers
def test_a_stream_comes_line_by_line(proxied: Proxied) -> None:
    quick = write(proxied.falconimg.root, "in/quick.png", pictures.noise(8, 8))
    next_ = write(proxied.falconimg.root, "in/next.png", pictures.noise(150, 150))
    slow = write(proxied.falconimg.root, "in/slow.png", pictures.noise(700, 700))
    document = {"images": [quick, next_, slow], "operations": ["resize=3", "blur=101"], "precise": True}
    connection = http.client.HTTPConnection("127.0.0.1", proxied.port, timeout=SECONDS)
    connection.request(
        "POST", "/img/v1/process", json.dumps(document),
        {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", "Accept": "application/x-ndjson"},
    )  # fmt: skip
    answer = connection.getresponse()
    first, second, at = json.loads(answer.readline()), json.loads(answer.readline()), time.monotonic()
    rest = answer.read().splitlines()
    connection.close()
    assert (first["index"], second["index"], len(rest)) == (0, 1, 2)
    assert time.monotonic() - at > 0.2  # the last image took a second


@pytest.mark.servers
def test_nginx_keeps_a_signed_address_and_tells_its_variants_apart(proxied: Proxied) -> None:
    write(proxied.falconimg.root, "in/kept.png", pictures.noise(40, 60))
    address = signing.sign("/img/v1/image/in/kept.png?op=resize=0.5&format=auto", KEY)

    def ask(**headers: str) -> tuple[int, bytes, Any]:
        return proxied.ask("GET", address, None, Authorization="", **headers)

    status, answer, headers = ask()
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert "public" in headers["Cache-Control"]
    webp = ask(Accept="image/webp,*/*")
    assert (webp[0], webp[2]["Content-Type"]) == (200, "image/webp")
    again = ask()
    assert (again[0], again[1], again[2]["ETag"]) == (200, answer, headers["ETag"])
    assert ask(Accept="image/webp,*/*")[1] == webp[1]
    assert ask(If_None_Match=headers["ETag"])[:2] == (304, b"")
    path = address.partition("?")[0]
    proxied.falconimg.wait_for(lambda: len(proxied.lines(path)) == 5)
    assert [line.split()[-2] for line in proxied.lines(path)] == ["MISS", "MISS", "HIT", "HIT", "HIT"]
    assert len(re.findall(rf"access .*path='?{re.escape(path)}", proxied.falconimg.log)) == 2


@pytest.mark.servers
def test_nginx_keeps_nothing_that_is_refused(proxied: Proxied) -> None:
    write(proxied.falconimg.root, "in/refused.png", pictures.noise(8, 8))
    for _ in range(2):
        assert proxied.ask("GET", "/img/v1/image/in/refused.png", Authorization="")[0] == 403
    proxied.falconimg.wait_for(lambda: len(proxied.lines("in/refused.png")) == 2)
    assert [line.split()[-2] for line in proxied.lines("in/refused.png")] == ["MISS", "MISS"]


@pytest.mark.servers
def test_strangers_see_no_metrics(proxied: Proxied) -> None:
    status, _, headers = proxied.ask("GET", "/img/metrics")
    assert (status, headers["Content-Type"]) == (404, "text/html")
    assert "X-Request-ID" not in headers


@pytest.mark.servers
def test_no_secret_is_in_a_log_an_answer_or_a_command_line(proxied: Proxied) -> None:
    for authorization in (f"Bearer {TOKEN}x", f"Bearer {TOKEN}", f"Basic {TOKEN}"):
        for path in ("/img/", "/img/readyz", "/img/livez", "/img/openapi.json", "/img/metrics", "/img/v1/info/x.png"):
            _, answer, headers = proxied.ask("GET", path, Authorization=authorization)
            assert not any(secret in answer.decode() + str(headers) for secret in (TOKEN, KEY))
    assert not any(secret in proxied.falconimg.log for secret in (TOKEN, KEY))
    command = Path(f"/proc/{proxied.falconimg.process.pid}/cmdline").read_text()
    assert not any(secret in command for secret in (TOKEN, KEY))


# The image, by hand.


def ignored(name: str, patterns: list[str]) -> bool:
    """Whether .dockerignore leaves this path out: the last pattern that fits says so."""
    verdict = False
    for pattern in patterns:
        plain = pattern.removeprefix("!")
        fits = any(fnmatch(part, plain) for part in (name, name.partition("/")[0])) or (
            plain.startswith("**/") and any(fnmatch(part, plain[3:]) for part in name.split("/"))
        )
        if fits:
            verdict = not pattern.startswith("!")
    return verdict


@pytest.mark.servers
def test_the_images_commands_build_a_server_that_is_healthy(tmp_path: Path) -> None:
    patterns = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)  # noqa: S607
    source, place, images = tmp_path / "src", tmp_path / "falconimg", tmp_path / "images"
    for name in listed.stdout.splitlines():
        if not ignored(name, patterns):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    assert not (source / "tests").exists()
    images.mkdir()
    (build,) = [run for run in dockerfile("RUN") if "-m venv" in run]
    build = build.replace("python -m venv", f"{sys.executable} -m venv").replace("/opt/falconimg", str(place))
    subprocess.run(build, shell=True, cwd=source, timeout=900, check=True)  # noqa: S602  (as Docker runs it)
    environ = dict(pair.split("=", 1) for pair in dockerfile("ENV")[0].split())
    environ |= {"PATH": f"{place}/bin:/usr/bin:/bin", "FALCONIMG_ROOT": str(images), "HOME": str(tmp_path)}
    environ |= {"FALCONIMG_BIND": f"127.0.0.1:{free_port()}", "FALCONIMG_PREFIX": "/img"}
    (entry,), (arguments,) = (json.loads(line) for line in (*dockerfile("ENTRYPOINT"), *dockerfile("CMD")))
    (check,) = [json.loads(line.partition("CMD ")[2]) for line in dockerfile("HEALTHCHECK")]
    assert check == [entry, "health"]

    def health() -> int:
        return subprocess.run([place / "bin" / entry, check[1]], env=environ, cwd=images, timeout=60).returncode

    assert health() == 1
    process = subprocess.Popen([place / "bin" / entry, arguments], env=environ, cwd=images)
    try:
        end = time.monotonic() + SECONDS
        while health():
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.2)
    finally:
        process.terminate()
        assert process.wait(SECONDS) == 0
