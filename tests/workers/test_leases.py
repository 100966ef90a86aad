"""Leased claims: one owner at a time, and a shard that nobody works on can always be taken."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from django.db import connection, transaction
from django.db.models import F
from hypothesis import HealthCheck, settings
from hypothesis.extra.django import TestCase
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from hypothesis.strategies import booleans, sampled_from

from meta_reward_core.iteration import STAGES
from tests.databases import CHECKOUT, find_migrated_database
from webapp.experiments.models import (
    Attempt,
    AttemptStatus,
    Driver,
    Experiment,
    Iteration,
    RunStatus,
    Shard,
    ShardStatus,
    Stage,
    StageStatus,
)
from workers.pipeline import scheduling, shard_claims, transitions
from workers.reconciler import reconcile

MAX_ATTEMPTS = 5


def make_iteration(name: str = "leased") -> Iteration:
    experiment = Experiment.objects.create(
        name=name,
        recipe={"name": "smoke"},
        recipe_sha256="a" * 64,
        seed=1,
        base_model_folder="/m",
        base_model_sha256="b" * 64,
        artifact_root="/a",
    )
    iteration = Iteration.objects.create(experiment=experiment, number=1, model_in="b" * 64)
    assert transitions.start_iteration(iteration, model_in="b" * 64, driver=Driver.WORKERS)
    return iteration


def make_shard(iteration: Iteration, *, shards: int = 1) -> Shard:
    stage = Stage.objects.create(iteration=iteration, name="judge", title="Judge", position=2)
    assert transitions.start_stage(stage, shards=shards)
    return stage.shards.get(index=0)


def let_lease_run_out(shard: Shard) -> None:
    Shard.objects.filter(pk=shard.pk, lease_until__isnull=False).update(
        lease_until=F("lease_until") - timedelta(hours=1)
    )


@pytest.fixture
def shard(db: None) -> Shard:
    return make_shard(make_iteration())


def claimed(shard: Shard) -> Attempt:
    attempt = shard_claims.claim_shard_for(shard, seconds=60)
    assert attempt is not None
    return attempt


def test_a_claim_has_a_lease_of_the_databases_time(shard: Shard) -> None:
    attempt = claimed(shard)
    shard.refresh_from_db()
    assert shard.lease_until is not None
    assert timedelta(seconds=55) < shard.lease_until - attempt_start(attempt)
    assert shard.lease_until - attempt_start(attempt) < timedelta(seconds=65)
    assert shard_claims.claim_shard_for(shard, seconds=60) is None
    assert not shard_claims.get_expired_attempts().exists()


def attempt_start(attempt: Attempt) -> datetime:
    attempt.refresh_from_db()
    return attempt.started


def test_a_silent_worker_loses_its_shard_and_can_change_nothing_more(shard: Shard) -> None:
    silent = claimed(shard)
    let_lease_run_out(shard)
    assert [attempt.pk for attempt in shard_claims.get_expired_attempts()] == [silent.pk]
    assert shard_claims.expire_attempt(silent, error="silent")
    other = claimed(shard)
    assert not shard_claims.extend_lease(silent, seconds=60, done=1, tokens=1)
    assert not shard_claims.finish_attempt(silent, counts={"wrong": 1}, seconds=1.0)
    assert not shard_claims.fail_attempt(silent, status=AttemptStatus.FAILED, error="late")
    assert shard_claims.finish_attempt(other, counts={"right": 1}, seconds=1.0)
    shard.refresh_from_db()
    assert (shard.status, shard.counts, shard.failures) == ("finished", {"right": 1}, 1)


def test_reconciling_takes_the_shard_of_a_silent_worker(shard: Shard) -> None:
    silent = claimed(shard)
    let_lease_run_out(shard)
    Iteration.objects.update(driver=Driver.COMMAND)  # nothing but the lease is to be reconciled
    reconcile()
    silent.refresh_from_db()
    shard.refresh_from_db()
    assert (silent.status, shard.status) == (AttemptStatus.LOST, ShardStatus.WAITING)
    assert "sent no heartbeat for more than" in silent.error


def test_a_heartbeat_in_time_keeps_the_shard(shard: Shard) -> None:
    attempt = claimed(shard)
    let_lease_run_out(shard)
    assert shard_claims.extend_lease(attempt, seconds=60, done=3, tokens=30)
    assert not shard_claims.expire_attempt(attempt, error="silent")
    shard.refresh_from_db()
    assert (shard.status, shard.done, shard.tokens) == ("running", 3, 30)


@pytest.mark.parametrize("flag", ["cancel_requested", "pause_requested"])
def test_flags_are_read_at_claim_and_heartbeat(shard: Shard, flag: str) -> None:
    attempt = claimed(shard)
    assert shard_claims.can_continue(attempt)
    Iteration.objects.update(**{flag: True})
    assert not shard_claims.can_continue(attempt)
    shard_claims.fail_attempt(attempt, status=AttemptStatus.INTERRUPTED, error="stopped")
    assert shard_claims.claim_shard_for(shard, seconds=60) is None
    scheduling.advance_iteration(Iteration.objects.get())
    assert Iteration.objects.get().status == {"c": "cancelled", "p": "paused"}[flag[0]]


def test_an_interruption_is_no_failure(shard: Shard) -> None:
    for _ in range(MAX_ATTEMPTS + 2):
        shard_claims.fail_attempt(claimed(shard), status=AttemptStatus.INTERRUPTED, error="stopped")
    shard.refresh_from_db()
    assert (shard.failures, shard.attempt_count) == (0, MAX_ATTEMPTS + 2)


def test_after_too_many_failures_the_iteration_fails_and_a_retry_keeps_history(
    shard: Shard,
) -> None:
    for number in range(MAX_ATTEMPTS):
        error = f"no luck {number}"
        shard_claims.fail_attempt(
            claimed(shard), status=AttemptStatus.FAILED, error=error, again=True
        )
    assert shard_claims.claim_shard_for(shard, seconds=60) is None
    iteration = Iteration.objects.get()
    add_other_stages(iteration)
    scheduling.advance_iteration(iteration)
    iteration.refresh_from_db()
    assert iteration.status == "failed"
    assert iteration.message == "no luck 4\n(shard 0 of judge, attempt 5)"
    transitions.reset_running_stages(iteration)
    assert transitions.start_iteration(iteration, model_in="b" * 64, driver=Driver.WORKERS)
    assert transitions.start_stage(Stage.objects.get(name="judge"), shards=1)
    assert claimed(shard).number == MAX_ATTEMPTS + 1
    assert Attempt.objects.filter(status="failed").count() == MAX_ATTEMPTS


def add_other_stages(iteration: Iteration) -> None:
    for position, step in enumerate(STAGES):
        Stage.objects.get_or_create(
            iteration=iteration,
            name=step.name,
            defaults={
                "title": step.title,
                "position": position,
                "status": StageStatus.FINISHED if position < 2 else StageStatus.WAITING,
            },
        )


class Leases(RuleBasedStateMachine):
    """Two workers that may die, sleep, be late or finish; a reconciler; a person with a button."""

    def __init__(self) -> None:
        super().__init__()
        self.shard = make_shard(make_iteration(f"m{Experiment.objects.count()}"))
        self.iteration = self.shard.stage.iteration
        add_other_stages(self.iteration)
        self.attempts: dict[str, Attempt] = {}
        self.finishes = 0

    @rule(worker=sampled_from("ab"))
    def claims(self, worker: str) -> None:
        attempt = shard_claims.claim_shard_for(self.shard, seconds=60)
        if attempt is not None:
            self.attempts[worker] = attempt

    @rule(worker=sampled_from("ab"))
    def heartbeats(self, worker: str) -> None:
        attempt = self.attempts.get(worker)
        if attempt is None:
            return
        held = shard_claims.extend_lease(attempt, seconds=60, done=1, tokens=1)
        if not held:
            del self.attempts[worker]
        elif not shard_claims.can_continue(attempt):
            shard_claims.fail_attempt(attempt, status=AttemptStatus.INTERRUPTED, error="stopped")
            del self.attempts[worker]

    @rule(worker=sampled_from("ab"))
    def finishes_late_or_in_time(self, worker: str) -> None:
        attempt = self.attempts.pop(worker, None)
        if attempt is not None:
            self.finishes += shard_claims.finish_attempt(attempt, counts={}, seconds=1.0)

    @rule(worker=sampled_from("ab"), again=booleans())
    def fails(self, worker: str, again: bool) -> None:
        attempt = self.attempts.pop(worker, None)
        if attempt is not None:
            shard_claims.fail_attempt(
                attempt, status=AttemptStatus.FAILED, error="failed", again=again
            )

    @rule(worker=sampled_from("ab"))
    def dies(self, worker: str) -> None:
        self.attempts.pop(worker, None)

    @rule()
    def time_passes(self) -> None:
        let_lease_run_out(self.shard)

    @rule()
    def reconciler_expires(self) -> None:
        for attempt in shard_claims.get_expired_attempts():
            shard_claims.expire_attempt(attempt, error="silent")

    @rule(flag=sampled_from(["cancel_requested", "pause_requested"]))
    def person_stops(self, flag: str) -> None:
        Iteration.objects.filter(status=RunStatus.RUNNING).update(**{flag: True})
        self.settles()

    @rule()
    def settles(self) -> None:
        self.iteration.refresh_from_db()
        if self.iteration.status == RunStatus.RUNNING and (
            self.iteration.cancel_requested or self.iteration.pause_requested
        ):
            scheduling.finish_pause_or_cancel(self.iteration)

    @rule()
    def person_resumes(self) -> None:
        self.iteration.refresh_from_db()
        if self.iteration.status != RunStatus.RUNNING:
            transitions.reset_running_stages(self.iteration)
            transitions.start_iteration(self.iteration, model_in="b" * 64, driver=Driver.WORKERS)
            transitions.start_stage(self.shard.stage, shards=1)

    @invariant()
    def at_most_one_owner(self) -> None:
        running = list(Attempt.objects.filter(shard=self.shard, status=AttemptStatus.RUNNING))
        self.shard.refresh_from_db()
        assert len(running) == (self.shard.status == "running")
        if running:
            assert running[0].token == self.shard.token
            assert self.shard.lease_until is not None
        assert self.finishes <= 1
        assert (self.shard.status == "finished") == (self.finishes == 1)

    def teardown(self) -> None:
        """Whatever has happened: when the dust settles, the shard can be finished."""
        let_lease_run_out(self.shard)
        self.reconciler_expires()
        self.settles()
        for row in Iteration.objects.filter(status=RunStatus.RUNNING):
            if Shard.objects.get(pk=self.shard.pk).status != "finished":
                scheduling.advance_iteration(row)
        self.person_resumes()
        self.shard.refresh_from_db()
        if self.shard.status != "finished":
            assert shard_claims.finish_attempt(claimed(self.shard), counts={}, seconds=1.0)


class TestLeases(TestCase):
    def test_no_two_owners_and_never_wedged(self) -> None:
        class Rolled(Leases):
            def __init__(self) -> None:
                self.undone = transaction.atomic()
                self.undone.__enter__()
                super().__init__()

            def teardown(self) -> None:
                try:
                    super().teardown()
                finally:
                    transaction.set_rollback(True)
                    self.undone.__exit__(None, None, None)

        run_state_machine_as_test(
            Rolled,
            settings=settings(
                max_examples=40,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


RACE = """
import os, sys, django
os.environ["DJANGO_SETTINGS_MODULE"] = "webapp.settings"
django.setup()
from webapp.experiments.models import Shard
from workers.pipeline import shard_claims, transitions
won = 0
for shard in Shard.objects.all():
    won += shard_claims.claim_shard_for(shard, seconds=600) is not None
print(won)
"""

PREPARE = """
import os, django
os.environ["DJANGO_SETTINGS_MODULE"] = "webapp.settings"
django.setup()
from tests.workers.test_leases import make_iteration, make_shard
make_shard(make_iteration(), shards={shards})
"""

COUNT = """
select (select count(*) from experiments_shard where status = 'running'),
    count(*), count(distinct shard_id) from experiments_attempt
"""


@pytest.fixture
def migrated_url(django_db_setup: None, tmp_path: Path) -> str:
    """The DATABASE_URL of a copy of the test database, which processes may open."""
    if connection.vendor == "sqlite":
        shutil.copy(find_migrated_database(), tmp_path / "db.sqlite3")
        return f"sqlite:///{tmp_path}/db.sqlite3"
    connection.close()
    url, name = os.environ["DATABASE_URL"], f"race_{uuid4().hex}"
    template = connection.settings_dict["NAME"]
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f"create database {name} template {template}".encode())
    return f"{url.rpartition('/')[0]}/{name}"


def ask(url: str, question: str) -> tuple[object, ...]:
    """Read one row of a database, without Django."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
            return tuple(database.execute(question).fetchone())
    with psycopg.connect(url) as server:
        return tuple(server.execute(question.encode()).fetchone() or ())


@pytest.mark.slow
@pytest.mark.parametrize("racers, shards", [(2, 100), (4, 500)])
def test_concurrent_claims_give_no_duplicate(
    migrated_url: str, tmp_path: Path, racers: int, shards: int
) -> None:
    """Each process claims each shard, all in the same order at the same time.

    `tests/project/test_postgresql.py` runs it with two processes among the quick tests.
    """
    environment = os.environ | {"DATABASE_URL": migrated_url, "META_REWARD_VAR": str(tmp_path)}

    def start(program: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=CHECKOUT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    def output(process: "subprocess.Popen[str]") -> str:
        out, _ = process.communicate(timeout=240)
        assert process.returncode == 0
        return out

    output(start(PREPARE.format(shards=shards)))
    won = [int(output(racer)) for racer in [start(RACE) for _ in range(racers)]]
    assert sum(won) == shards
    assert ask(migrated_url, COUNT) == (shards, shards, shards)
