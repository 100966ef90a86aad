"""The servers that tests need, real ones, each stopped by what started it."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
import redis

from workers.ops.broker import BrokerPaths, start_broker, stop_broker, wait_for_broker
from workers.ops.processes import start_child, stop_child

INSTALL_POSTGRESQL = "apt-get install --yes postgresql"
INSTALL_REDIS = "apt-get install --yes redis-server"
_START_SECONDS = 30
_BUCKET = "meta-reward"


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="mr-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port of this machine's own address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisLike(ABC):
    """A server that Celery can talk through, of a test's own, which the test may kill."""

    process: "subprocess.Popen[bytes] | None" = None

    @property
    @abstractmethod
    def url(self) -> str: ...

    @abstractmethod
    def client(self) -> "redis.Redis": ...

    @abstractmethod
    def start(self) -> None: ...

    def stop(self) -> None:
        if self.process is not None:
            stop_broker(self.process)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@dataclass
class Broker(RedisLike):
    """The broker that is embedded, on a socket."""

    place: BrokerPaths

    @property
    def url(self) -> str:
        return self.place.url

    def client(self) -> "redis.Redis":
        return redis.Redis(unix_socket_path=str(self.place.socket))

    def start(self) -> None:
        self.process = start_broker(self.place, stdout=subprocess.DEVNULL)
        assert self.process is not None, "another broker runs there"
        wait_for_broker(self.place)


@dataclass
class RedisServer(RedisLike):
    """Redis itself, on a port that this machine alone reaches."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> "redis.Redis":
        return redis.Redis(port=self.port)

    def start(self) -> None:
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "appendonly": "yes",
            "save": "",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        with (self.folder / "log").open("ab") as log:
            self.process = start_child([str(_redis_program()), *words], stdout=log)
        _wait_for(self._answers, self.process, self.folder / "log")

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:  # not up yet, or still reading what it remembers
                return False


@contextlib.contextmanager
def redis_server() -> Iterator[RedisServer]:
    """Run a Redis server that remembers what it was told when it was killed."""
    with short_folder() as folder:
        server = RedisServer(folder, free_port())
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def broker() -> Iterator[Broker]:
    """Run a broker with everything that the embedded one has, its append-only file too."""
    with short_folder() as folder:
        running = Broker(BrokerPaths(data=folder / "data", socket=folder / "s" / "broker.sock"))
        running.start()
        try:
            yield running
        finally:
            running.stop()


@dataclass
class Postgres:
    """A PostgreSQL server of a test's own, which the test may stop and start.

    Attributes:
        address: where it listens beside its socket; empty: nowhere.
    """

    folder: Path
    user: str | None
    address: str = ""
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """Of its database, by the socket."""
        return f"postgres://postgres@{quote(str(self.folder), safe='')}/postgres"

    def start(self) -> None:
        options = {
            "listen_addresses": self.address,
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
            "max_connections": "200",
        }
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self.process = start_child(
                [str(_program("postgres")), "-D", str(self.folder / "data"), *words],
                stdout=log,
                death_signal=signal.SIGQUIT,
                user=self.user,
            )
        _wait_for(self._answers, self.process, self.folder / "log")

    def _answers(self) -> bool:
        try:
            psycopg.connect(host=str(self.folder), user="postgres", dbname="postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        if self.process is not None:
            stop_child(self.process, number=signal.SIGINT, grace_seconds=10)


@contextlib.contextmanager
def postgres_server(address: str = "") -> Iterator[Postgres]:
    """Run a PostgreSQL cluster with an empty database; it trusts whoever reaches it."""
    with short_folder() as folder:
        server = Postgres(folder, _unprivileged_user(folder), address)
        _initdb(folder / "data", server.user)
        if address:
            with (folder / "data" / "pg_hba.conf").open("a") as rules:
                rules.write("host all all samenet trust\n")
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Run a PostgreSQL cluster; gives the DATABASE_URL of its empty database."""
    with postgres_server() as server:
        yield server.url


@dataclass(frozen=True)
class S3:
    """An S3-compatible server with one empty bucket."""

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it."""
        return {
            "META_REWARD_S3_ENDPOINT": self.endpoint,
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "known to everybody",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def root(self, name: str) -> str:
        """A root of artifacts in its bucket."""
        return f"s3://{_BUCKET}/{name}"


@contextlib.contextmanager
def s3_server(address: str = "127.0.0.1") -> Iterator[S3]:
    """Run an S3-compatible server, which keeps files in memory."""
    with socket.create_server((address, 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.s3_server", address, str(port), _BUCKET]
    server = start_child(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection((address, port)):
                break
            assert server.poll() is None, "the S3 server ended"
            assert time.monotonic() < deadline, "the S3 server did not come up"
            time.sleep(0.05)
        yield S3(f"http://{address}:{port}")
    finally:
        stop_child(server, number=signal.SIGKILL, grace_seconds=5)


def _program(name: str) -> Path:
    """Where a program of PostgreSQL lies: Debian keeps them out of the PATH."""
    found = shutil.which(name)
    if found is not None:
        return Path(found)
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / name).exists():
            return folder / name
    raise AssertionError(
        f"tests need a PostgreSQL server and found no {name}: install one, on Debian by "
        f"`{INSTALL_POSTGRESQL}`"
    )


def _redis_program() -> Path:
    found = shutil.which("redis-server")
    assert found, f"tests need a Redis server: install one, on Debian by `{INSTALL_REDIS}`"
    return Path(found)


def _unprivileged_user(folder: Path) -> str | None:
    """PostgreSQL refuses to run as root; Debian's package brings a user for it."""
    if os.geteuid() != 0:
        return None
    shutil.chown(folder, "postgres", "postgres")
    return pwd.getpwnam("postgres").pw_name


def _initdb(data: Path, user: str | None) -> None:
    command = [
        *(str(_program("initdb")), "--pgdata", str(data), "--username", "postgres"),
        *("--auth", "trust", "--encoding", "UTF8", "--no-locale", "--no-sync"),
    ]
    made = subprocess.run(
        command,
        user=user,
        extra_groups=None if user is None else [],
        cwd=data.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr


def _wait_for(answers: Callable[[], bool], server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not answers():
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
