"""Claims and ends of attempts: one winner, and history stays."""

import os
from datetime import datetime, timedelta

import pytest
from django.db.models import Model
from django.utils import timezone

from webapp.experiments.models import (
    Attempt,
    AttemptStatus,
    Experiment,
    Iteration,
    RunStatus,
    Shard,
    Stage,
)
from workers.pipeline import shard_claims, transitions

pytestmark = pytest.mark.django_db


@pytest.fixture
def iteration() -> Iteration:
    experiment = Experiment.objects.create(
        name="first",
        recipe={"name": "smoke"},
        recipe_sha256="a" * 64,
        seed=1,
        base_model_folder="/m",
        base_model_sha256="b" * 64,
        artifact_root="/a",
    )
    return Iteration.objects.create(experiment=experiment, number=1, model_in="b" * 64)


@pytest.fixture
def stage(iteration: Iteration) -> Stage:
    stage = Stage.objects.create(iteration=iteration, name="judge", title="Judge", position=2)
    assert transitions.plan_stage(stage, shards=2)
    return stage


@pytest.fixture
def shard(stage: Stage) -> Shard:
    return stage.shards.get(index=0)


def claimed(shard: Shard) -> Attempt:
    attempt = shard_claims.claim_shard(shard)
    assert attempt is not None
    return attempt


def status_of(row: Model) -> str:
    row.refresh_from_db()
    status: str = row.status  # type: ignore[attr-defined]
    return status


def test_of_two_who_saw_it_waiting_one_wins(shard: Shard) -> None:
    seen_by_alice, seen_by_bob = (Shard.objects.get(pk=shard.pk) for _ in range(2))
    attempt = claimed(seen_by_alice)
    assert shard_claims.claim_shard(seen_by_bob) is None
    assert attempt.number == 1
    assert attempt.pid == os.getpid()
    assert Attempt.objects.count() == 1


def test_a_finished_shard_cannot_be_claimed(shard: Shard) -> None:
    shard_claims.finish_attempt(claimed(shard), counts={}, seconds=1.0)
    assert shard_claims.claim_shard(shard) is None


def test_finishing_writes_counts_and_seconds(shard: Shard) -> None:
    attempt = claimed(shard)
    assert shard_claims.finish_attempt(attempt, counts={"judgments": 5}, seconds=2.5)
    shard.refresh_from_db()
    attempt.refresh_from_db()
    assert (shard.status, shard.counts, shard.token) == ("finished", {"judgments": 5}, None)
    assert (attempt.status, attempt.seconds) == ("finished", 2.5)
    assert attempt.finished is not None
    assert attempt.finished >= attempt.started


def test_an_attempt_ends_once(shard: Shard) -> None:
    attempt = claimed(shard)
    assert shard_claims.finish_attempt(attempt, counts={}, seconds=1.0)
    assert not shard_claims.finish_attempt(attempt, counts={}, seconds=1.0)
    assert not shard_claims.fail_attempt(attempt, status=AttemptStatus.FAILED, error="late")
    assert status_of(attempt) == "finished"


def test_an_attempt_that_lost_its_claim_can_change_nothing(shard: Shard) -> None:
    lost = claimed(shard)
    shard_claims.fail_attempt(lost, status=AttemptStatus.LOST, error="gone")
    holder = claimed(shard)
    assert not shard_claims.report_progress(lost, done=9, tokens=9)
    assert not shard_claims.finish_attempt(lost, counts={"wrong": 1}, seconds=1.0)
    assert not shard_claims.fail_attempt(lost, status=AttemptStatus.FAILED, error="late")
    assert shard_claims.report_progress(holder, done=1, tokens=2)
    shard.refresh_from_db()
    assert (shard.status, shard.done, shard.tokens) == ("running", 1, 2)


@pytest.mark.parametrize(
    "status, after",
    [
        (AttemptStatus.FAILED, "failed"),
        (AttemptStatus.INTERRUPTED, "waiting"),
        (AttemptStatus.LOST, "waiting"),
    ],
)
def test_a_retry_leaves_the_history(
    shard: Shard, status: shard_claims.Unfinished, after: str
) -> None:
    first = claimed(shard)
    shard_claims.report_progress(first, done=7, tokens=70)
    assert shard_claims.fail_attempt(first, status=status, error="no luck")
    assert status_of(shard) == after
    second = claimed(shard)
    assert second.number == 2
    shard.refresh_from_db()
    assert (shard.done, shard.tokens) == (0, 0)
    assert list(shard.attempts.values_list("status", "error")) == [
        (status, "no luck"),
        ("running", ""),
    ]


def test_files_that_are_there_finish_a_shard_without_an_attempt(shard: Shard) -> None:
    assert shard_claims.accept_shard(shard, counts={"judgments": 3})
    assert status_of(shard) == "finished"
    assert not Attempt.objects.exists()


def test_a_running_shard_is_not_accepted(shard: Shard) -> None:
    claimed(shard)
    assert not shard_claims.accept_shard(shard, counts={})


def test_a_finished_shard_may_be_opened_again(shard: Shard) -> None:
    assert not shard_claims.reopen_shard(shard)
    shard_claims.accept_shard(shard, counts={})
    assert shard_claims.reopen_shard(shard)
    claimed(shard)


def test_a_stage_ends_when_its_last_shard_does(stage: Stage) -> None:
    first, second = stage.shards.all()
    shard_claims.accept_shard(first, counts={})
    assert not transitions.finish_stage(stage)
    shard_claims.accept_shard(second, counts={})
    assert transitions.finish_stage(stage)
    assert not transitions.finish_stage(stage)


def test_planning_again_keeps_the_shards(stage: Stage, shard: Shard) -> None:
    shard_claims.accept_shard(shard, counts={"judgments": 1})
    assert transitions.plan_stage(stage, shards=3)
    assert list(stage.shards.values_list("status", flat=True)) == ["finished", "waiting", "waiting"]


def test_a_skipped_stage_gets_no_shards(iteration: Iteration) -> None:
    stage = Stage.objects.create(iteration=iteration, name="meta_judge", title="M", position=4)
    assert transitions.skip_stage(stage)
    assert transitions.skip_stage(stage)
    assert not transitions.plan_stage(stage, shards=1)
    assert not stage.shards.exists()


def test_a_stage_that_was_begun_is_not_skipped(stage: Stage) -> None:
    assert not transitions.skip_stage(stage)


def test_an_iteration_is_started_by_one(iteration: Iteration) -> None:
    assert transitions.start_iteration(iteration, model_in="c" * 64)
    assert not transitions.start_iteration(iteration, model_in="c" * 64)
    iteration.refresh_from_db()
    assert (iteration.status, iteration.model_in) == ("running", "c" * 64)
    assert status_of(iteration.experiment) == "running"


@pytest.mark.parametrize(
    "target, goal, after",
    [
        (1, None, "finished"),
        (0, None, "finished"),
        (2, None, "waiting"),
        (0, 2, "waiting"),
        (2, 1, "finished"),
    ],
)
def test_the_last_requested_iteration_completes_the_experiment(
    iteration: Iteration, target: int, goal: int | None, after: str
) -> None:
    Experiment.objects.update(target_iteration=target)
    transitions.start_iteration(iteration, model_in="b" * 64)
    assert transitions.finish_iteration(
        iteration, model_out="d" * 64, metrics={"pairs": []}, goal=goal
    )
    iteration.refresh_from_db()
    assert (iteration.status, iteration.model_out) == ("finished", "d" * 64)
    assert status_of(iteration.experiment) == after


def finish_once(iteration: Iteration) -> tuple[datetime, datetime]:
    """When it began and ended: an hour and half an hour ago."""
    transitions.start_iteration(iteration, model_in="b" * 64)
    transitions.finish_iteration(iteration, model_out="d" * 64, metrics={})
    began, ended = (timezone.now() - timedelta(minutes=ago) for ago in (60, 30))
    Iteration.objects.update(started=began, finished=ended)
    return began, ended


def test_a_finished_iteration_that_is_looked_at_again_keeps_its_times(
    iteration: Iteration, shard: Shard
) -> None:
    times = finish_once(iteration)
    attempt = claimed(shard)
    Attempt.objects.filter(pk=attempt.pk).update(started=times[0])
    assert transitions.start_iteration(iteration, model_in="b" * 64)
    assert transitions.finish_iteration(iteration, model_out="d" * 64, metrics={})
    iteration.refresh_from_db()
    assert (iteration.started, iteration.finished) == times


def test_what_is_made_again_ends_anew(iteration: Iteration, shard: Shard) -> None:
    began, ended = finish_once(iteration)
    transitions.start_iteration(iteration, model_in="b" * 64)
    claimed(shard)
    transitions.finish_iteration(iteration, model_out="d" * 64, metrics={})
    iteration.refresh_from_db()
    assert iteration.started == began
    assert iteration.finished is not None
    assert iteration.finished > ended


def test_what_was_stopped_keeps_its_first_start_and_ends_anew(iteration: Iteration) -> None:
    began, ended = finish_once(iteration)
    Iteration.objects.update(status=RunStatus.PAUSED)
    transitions.start_iteration(iteration, model_in="b" * 64)
    iteration.refresh_from_db()
    assert iteration.started == began
    assert iteration.finished is None
    transitions.stop_iteration(iteration, status=RunStatus.FAILED, message="?")
    stopped = Iteration.objects.get()
    assert stopped.finished is not None
    assert stopped.finished > ended


def test_a_finding_is_forgotten_when_it_runs_again(iteration: Iteration) -> None:
    transitions.start_iteration(iteration, model_in="b" * 64)
    assert transitions.stop_iteration(iteration, status=RunStatus.NO_PAIRS, message="all equal")
    iteration.refresh_from_db()
    assert (iteration.status, iteration.message) == ("no_pairs", "all equal")
    transitions.start_iteration(iteration, model_in="b" * 64)
    iteration.refresh_from_db()
    assert iteration.message == ""


def test_only_a_running_iteration_ends(iteration: Iteration) -> None:
    assert not transitions.stop_iteration(iteration, status=RunStatus.FAILED, message="?")
    assert not transitions.finish_iteration(iteration, model_out="", metrics={})


def test_who_holds_the_lock_ends_what_a_killed_process_left(
    iteration: Iteration, stage: Stage, shard: Shard
) -> None:
    transitions.start_iteration(iteration, model_in="b" * 64)
    attempt = claimed(shard)
    assert (
        transitions.release_claims(iteration.experiment, status=AttemptStatus.LOST, error="killed")
        == 1
    )
    rows = [attempt, shard, stage, iteration, iteration.experiment]
    assert [status_of(row) for row in rows] == [
        "lost", "waiting", "waiting", "interrupted", "interrupted",
    ]  # fmt: skip
    assert (
        transitions.release_claims(iteration.experiment, status=AttemptStatus.LOST, error="killed")
        == 0
    )
