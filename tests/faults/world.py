"""A whole installation to strike at: database, broker, its network, disk, workers and a site."""

import contextlib
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from meta_reward_core.iteration import STAGES
from tests.end_to_end.conftest import TINY
from tests.faults.points import Points
from tests.faults.proxy import Proxy
from tests.services import Broker, Postgres, broker, free_port, postgres_server
from tests.workers.cluster import Cluster, Process, WorkerSite

STAGE_NAMES = tuple(stage.name for stage in STAGES)
STEPS = (*STAGE_NAMES, "answer", "export")
"""The stages of an iteration, then an auditor's answer and an export of the pairs."""

DAY_SECONDS = 86_400
DISK_BYTES = 96 * 2**20
PASSWORD = "correct horse battery"
RECIPE = TINY + "model: seed\nengine: {kind: scripted}\n"

PREPARE = f"""
from django.contrib.auth.models import Group, User
from django.core.management import call_command
call_command("migrate", verbosity=0)
for name in ("alice", "bob"):
    person = User.objects.create_user(name, password="{PASSWORD}")
    person.groups.set(Group.objects.filter(name__in=["operator", "auditor"]))
"""


class FaultSite(WorkerSite):
    """A site whose artifacts lie on a disk of their own."""

    @property
    def artifacts(self) -> Path:
        return self.root / "disk" / "artifacts"


@dataclass
class World(Cluster):
    """Everything that may be struck."""

    database: Postgres = field(kw_only=True)
    proxy: Proxy = field(kw_only=True)
    points: Points = field(kw_only=True)
    has_disk: bool = field(kw_only=True)
    worker: Process | None = None
    web: Process | None = None
    web_port: int = 0
    frozen: Process | None = None
    exporting: "subprocess.Popen[str] | None" = None
    second: Process | None = None
    migrating: "psycopg.Connection[tuple[Any, ...]] | None" = None
    notes: list[str] = field(default_factory=list)
    clocks: Iterator[int] = field(default_factory=lambda: itertools.repeat(0))

    def start(self, *command: str) -> Process:
        """Start a process, with a clock of its own."""
        self.site.more["FAULTS_SKEW_SECONDS"] = str(next(self.clocks))
        return super().start(*command)

    @property
    def disk(self) -> Path:
        """Where the disk is mounted."""
        return self.site.root / "disk"

    def ask(self, question: str) -> list[tuple[Any, ...]]:
        """Ask the database; nothing is known while it is away."""
        with contextlib.suppress(psycopg.OperationalError):
            return self.site.rows(question)
        return []

    def do(self, statement: str) -> None:
        """Change the database, as somebody with its password could."""
        with psycopg.connect(self.database.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def stage_status(self, stage: str) -> str:
        found = self.ask(f"select status from experiments_stage where name = '{stage}'")
        return str(found[0][0]) if found else ""

    def was_begun(self, stage: str) -> bool:
        """Whether a worker has claimed a shard of a stage."""
        return bool(
            self.ask(
                "select 1 from experiments_shard s join experiments_stage t on t.id = s.stage_id "
                f"where t.name = '{stage}' and s.attempt_count > 0"
            )
        )

    def status(self) -> str:
        found = self.ask("select status from experiments_iteration")
        return str(found[0][0]) if found else ""

    def finding(self) -> str:
        found = self.ask("select message from experiments_iteration")
        return str(found[0][0]) if found else ""

    def new_worker(self) -> None:
        """Start the worker, or another one in its place."""
        self.worker = self.start_worker()

    def kill_worker(self) -> None:
        assert self.worker is not None
        self.kill_tree(self.worker)

    def start_site(self) -> None:
        """Start the site, on the same port every time."""
        self.web_port = self.web_port or free_port()
        self.web = self.start(
            *("-m", "gunicorn", "webapp.wsgi:application", "--bind", f"127.0.0.1:{self.web_port}"),
            *("--threads", "4", "--no-control-socket"),
        )

    def keep_worker(self) -> None:
        """Start the worker again if it has ended by itself, as its supervisor does."""
        if self.worker is not None and self.worker.poll() is not None:
            self.notes.append(f"the worker ended with code {self.worker.returncode}")
            self.new_worker()

    def wait_for(self, holds: Callable[[], object], *, seconds: float = 180) -> float:
        """Wait, with a supervisor's eye on the worker; returns how long it took."""

        def looked() -> object:
            self.keep_worker()
            return holds()

        return self.wait_until(looked, seconds=seconds, every_seconds=0.05)

    def control(self, action: str) -> None:
        """Do what a person with a shell does."""
        done = self.site.manage("control_iteration", action, "--experiment", "tiny")
        assert done.returncode == 0, done.stdout

    @property
    def exported(self) -> Path:
        """Where an export goes: to the same disk as the artifacts."""
        return self.disk / "pairs.jsonl"

    def export(self) -> "subprocess.Popen[str]":
        """Start to write the pairs of the iteration."""
        options = ("--experiment", "tiny", "--output", str(self.exported), "--overwrite")
        self.exporting = self.site.start("manage.py", "export_pairs", *options)
        return self.exporting

    def wait_for_export(self) -> None:
        """Wait until the export has ended, well or not."""
        self.wait_until(lambda: self.exporting is not None and self.exporting.poll() is not None)

    def whole_log(self) -> str:
        """All that the processes have written."""
        return (self.site.root / "log").read_text(errors="replace")


@contextlib.contextmanager
def disk(folder: Path, size: int) -> Iterator[bool]:
    """A small disk of its own, where this user may mount one; gives whether it is one."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def skewed_clock(root: Path) -> dict[str, str]:
    """What a process needs whose clock is wrong by FAULTS_SKEW_SECONDS."""
    library = root / "skewed_clock.so"
    source = Path(__file__).parent / "skewed_clock.c"
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return {"LD_PRELOAD": str(library)}


@contextlib.contextmanager
def network_to(redis: Broker) -> Iterator[Proxy]:
    """A network between a broker and whoever uses it."""
    proxy = Proxy(redis.place.socket)
    try:
        yield proxy
    finally:
        proxy.stop()


@contextlib.contextmanager
def world(
    root: Path,
    models: Path,
    *,
    skewed: bool = False,
    max_attempts: int = 3,
    disk_bytes: int = DISK_BYTES,
) -> Iterator[World]:
    """An installation without workers yet, and with two accounts, alice and bob."""
    with (
        disk(root / "disk", disk_bytes) as has_disk,
        postgres_server() as database,
        broker() as redis,
        network_to(redis) as proxy,
    ):
        points = Points(root / "points")
        more = skewed_clock(root) if skewed else {}
        settings = {
            "DATABASE_URL": database.url,
            "META_REWARD_MAX_ATTEMPTS": str(max_attempts),
            "META_REWARD_SECRET_KEY": "for tests alone",
            **points.environment,
            **more,
        }
        url = f"redis://127.0.0.1:{proxy.port}/0"
        site = FaultSite(root, url, models, settings)
        here = World(site, redis, database=database, proxy=proxy, points=points, has_disk=has_disk)
        if skewed:
            here.clocks = itertools.cycle([DAY_SECONDS, -DAY_SECONDS])
        _prepare(here)
        try:
            yield here
        finally:
            here.stop()


def _prepare(here: World) -> None:
    site = here.site
    (site.root / "log").touch()
    site.artifacts.mkdir(exist_ok=True)
    site.recipe.write_text(RECIPE)
    done = site.manage("shell", "-v", "0", "-c", PREPARE)
    assert done.returncode == 0, done.stdout


class QuietRun:
    """The same iteration where nobody disturbs it, without database, broker or site.

    It runs beside whatever else a test prepares.
    """

    def __init__(self, root: Path, models: Path, *, recipe: str = RECIPE) -> None:
        root.mkdir(parents=True)
        self.site = WorkerSite(root, models=models)
        self.site.recipe.write_text(recipe)
        self._process = self.site.start(
            *("-m", "meta_reward_core", *self.site.experiment_options(), "--iterations", "1")
        )
        self._said: str | None = None

    def digests(self) -> dict[str, str]:
        """Wait for it; the hash of each of its files."""
        if self._said is None:
            self._said, _ = self._process.communicate(timeout=600)
            assert self._process.returncode == 0, self._said
        return self.site.digests()

    def exported(self) -> bytes:
        """Wait for it; its pairs, exported."""
        self.digests()
        output = self.site.root / "pairs.jsonl"
        if not output.exists():
            options = ("--experiment", "tiny", "--output", str(output))
            done = self.site.manage("export_pairs", *options)
            assert done.returncode == 0, done.stdout
        return output.read_bytes()
