"""Workers and reconcilers of a version that is older or newer than the tables do nothing."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from tests.databases import find_migrated_database
from tests.workers.cluster import WorkerSite
from webapp.experiments.models import Experiment, Iteration, Shard, ShardStatus, Stage
from webapp.health import find_later_version
from workers import tasks

LATER = "the database was migrated by a later version of this program (experiments.9999_later)"


@pytest.fixture
def site(tmp_path: Path) -> WorkerSite:
    shutil.copy(find_migrated_database(), tmp_path / "db.sqlite3")
    return WorkerSite(tmp_path, "redis://127.0.0.1:1/0", tmp_path / "models", {})


def change_database(site: WorkerSite, statement: str) -> None:
    with closing(sqlite3.connect(site.root / "db.sqlite3")) as database, database:
        database.execute(statement)


def start_worker(site: WorkerSite) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "celery", "--quiet", "--app", "workers.celery:app", "worker"],
        env=site.environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_worker_of_an_earlier_version_does_not_start(site: WorkerSite) -> None:
    change_database(
        site,
        "insert into django_migrations values (9999, 'experiments', '9999_later', '2030-01-01')",
    )
    ended = start_worker(site)
    assert ended.returncode != 0
    assert f"this worker does not start: {LATER}: install that version here" in ended.stderr
    reconciling = site.manage("reconcile")
    assert reconciling.returncode == 2
    assert LATER in reconciling.stdout


def test_a_worker_of_a_later_version_waits_for_the_migrations(site: WorkerSite) -> None:
    change_database(
        site,
        "delete from django_migrations where id = "
        "(select max(id) from django_migrations where app = 'experiments')",
    )
    ended = start_worker(site)
    assert ended.returncode != 0
    assert (
        "this worker does not start: the database has unapplied migrations; run the migrate command"
    ) in ended.stderr


@pytest.mark.django_db
def test_a_running_worker_takes_no_work_once_the_database_was_migrated(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = Experiment.objects.create(name="tiny", recipe={}, seed=1)
    iteration = Iteration.objects.create(experiment=experiment, number=1, status="running")
    stage = Stage.objects.create(iteration=iteration, name="generate", position=1)
    shard = Shard.objects.create(stage=stage, index=0)
    signals: list[tuple[int, int]] = []
    monkeypatch.setattr("workers.tasks.os.kill", lambda *given: signals.append(given))
    MigrationRecorder(connection).record_applied("experiments", "9999_later")
    tasks.run_shard(shard.pk)
    shard.refresh_from_db()
    assert shard.status == ShardStatus.WAITING
    assert len(signals) == 1, "the main process is told to end"
    assert f"this worker stops: {LATER}" in caplog.text
    assert find_later_version().startswith(LATER)
