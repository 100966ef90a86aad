"""Real worker processes, a real broker and a reconciler around one site, each of which may die."""

import contextlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg

from meta_reward_core.system.signals import make_parent_death_preexec
from tests.databases import CHECKOUT, find_migrated_database
from tests.end_to_end.conftest import TINY, Site
from tests.services import RedisLike

LEASE_SECONDS = 4

Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class WorkerSite(Site):
    """A site whose processes know a broker, and forget a silent worker soon."""

    broker_url: str = ""
    models: Path = Path()
    more: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **super().environment,
            "CELERY_BROKER_URL": self.broker_url,
            "META_REWARD_LEASE_SECONDS": str(LEASE_SECONDS),
            "META_REWARD_VAR": str(self.root / "var"),
            "META_REWARD_MODEL_ROOT": str(self.models),
            "OMP_NUM_THREADS": "1",
            "DJANGO_SUPERUSER_PASSWORD": "correct horse",
            **self.more,
        }

    def rows(self, question: str) -> list[tuple[Any, ...]]:
        """Ask the database, which may be another than the usual SQLite."""
        if "DATABASE_URL" in self.more:
            with psycopg.connect(self.more["DATABASE_URL"]) as connection:
                return connection.execute(question).fetchall()
        with contextlib.closing(sqlite3.connect(self.root / "db.sqlite3", timeout=30)) as database:
            return database.execute(question).fetchall()

    def statuses(self, table: str) -> dict[str, int]:
        return dict(self.rows(f"select status, count(*) from experiments_{table} group by status"))

    def running(self, stage: str) -> bool:
        """Whether a shard of a stage is running."""
        return bool(
            self.rows(
                "select 1 from experiments_shard s join experiments_stage t on t.id = s.stage_id "
                f"where t.name = '{stage}' and s.status = 'running'"
            )
        )

    def iteration(self) -> str:
        return str(self.rows("select status from experiments_iteration")[0][0])


@dataclass
class Cluster:
    """The processes of one test; whatever it leaves is killed.

    Attributes:
        python: the environment's interpreter.
    """

    site: WorkerSite
    broker: RedisLike
    python: str = sys.executable
    processes: list[Process] = field(default_factory=list)

    def start(self, *command: str) -> Process:
        with (self.site.root / "log").open("ab") as log:
            process = subprocess.Popen(
                [self.python, *command],
                cwd=CHECKOUT,
                env=self.site.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=make_parent_death_preexec(),
            )
        self.processes.append(process)
        return process

    def start_worker(self, queues: str = "gpu,cpu", *, processes: int = 1) -> Process:
        name = f"worker-{len(self.processes)}@%h"
        celery = ("-m", "celery", "--app", "workers.celery:app", "worker", "--loglevel", "INFO")
        pool = ("--pool", "prefork", "--without-gossip", "--without-mingle")
        concurrency = ("--concurrency", str(processes))
        return self.start(*celery, *pool, *concurrency, "--queues", queues, "--hostname", name)

    def start_reconciler(self) -> Process:
        return self.start("manage.py", "reconcile")

    def queue_iteration(self, *options: str) -> Process:
        """Give the iteration to the workers, and follow it in a process of its own."""
        following = self.start(
            "manage.py", "run_iteration", *self.site.experiment_options(), "--queue", *options
        )
        self.wait_until(
            lambda: (
                following.poll() is not None
                or self.site.rows("select 1 from experiments_iteration where status <> 'waiting'")
            )
        )
        assert following.poll() is None, self.log()
        return following

    def kill_tree(self, process: Process) -> None:
        """SIGKILL to a worker and what it has forked; its engine has to die by itself."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def engines(self) -> list[psutil.Process]:
        """Engine processes of this test's workers."""
        return [
            process
            for process in psutil.process_iter(["cmdline", "environ"])
            if "workers.engine.process" in (process.info["cmdline"] or [])
            and (process.info["environ"] or {}).get("META_REWARD_ARTIFACT_ROOT")
            == str(self.site.artifacts)
        ]

    def wait_until(
        self,
        holds: Callable[[], object],
        *,
        seconds: float = 240,
        every_seconds: float = 0.05,
    ) -> float:
        """Wait; returns how long it took."""
        began = time.monotonic()
        while not holds():
            assert time.monotonic() - began < seconds, f"{holds} in vain\n{self.log()}"
            time.sleep(every_seconds)
        return time.monotonic() - began

    def wait_finished(self, *, seconds: float = 300) -> None:
        ended = ("finished", "failed", "no_pairs")
        self.wait_until(lambda: self.site.iteration() in ended, seconds=seconds)
        assert self.site.iteration() == "finished", self.log()

    def log(self) -> str:
        return (self.site.root / "log").read_text(errors="replace")[-6000:]

    def stop(self) -> None:
        for process in self.processes:
            self.kill_tree(process)


LACK_OF_MEMORY = re.compile("[Mm]emory|bad_alloc|failed to map segment")
"""What an engine process may say that cannot get more memory, even while it starts."""


def deny_memory(engine: psutil.Process) -> None:
    """Refuse more memory to one engine process than it has."""
    engine.rlimit(psutil.RLIMIT_DATA, (1, 1))


def make_site(root: Path, broker_url: str = "", **more: str) -> WorkerSite:
    """An empty site, which makes the same bytes as any other with the same recipe."""
    root.mkdir(parents=True)
    site = WorkerSite(root, broker_url, root / "models", more)
    (root / "log").touch()
    site.recipe.write_text(TINY)
    if "DATABASE_URL" in more:
        migrated = site.manage("migrate", "--verbosity", "0")
        assert migrated.returncode == 0, migrated.stdout
    else:
        shutil.copy(find_migrated_database(), root / "db.sqlite3")
    return site


@contextlib.contextmanager
def cluster(root: Path, broker: RedisLike, **more: str) -> Iterator[Cluster]:
    """An empty site with its broker, without a worker yet."""
    running = Cluster(make_site(root, broker.url, **more), broker)
    try:
        yield running
    finally:
        running.stop()
