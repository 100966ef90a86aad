"""The rows follow the core's driver."""

from types import SimpleNamespace

import pytest
from django.db import connection, transaction

from meta_reward_core.errors import EngineError, ExperimentBusyError
from meta_reward_core.iteration import STAGES
from meta_reward_core.storage.shards import ShardManifest
from webapp.experiments.models import Attempt, AttemptStatus, Experiment, Iteration, Shard
from workers.pipeline import shard_claims
from workers.pipeline.db_callback import DatabaseCallback
from workers.pipeline.sync_rows import record_iteration

pytestmark = pytest.mark.django_db
SAMPLE, GENERATE, META_JUDGE = STAGES[0], STAGES[1], STAGES[4]


@pytest.fixture
def iteration() -> Iteration:
    experiment = Experiment.objects.create(
        name="first", recipe={"name": "smoke"}, seed=1, artifact_root="/a"
    )
    return record_iteration(experiment, 1, model_in="b" * 64)


@pytest.fixture
def callback(iteration: Iteration) -> DatabaseCallback:
    made = DatabaseCallback(iteration)
    made.plan_stage(GENERATE, 2)
    return made


def manifest(**counts: int) -> ShardManifest:
    return ShardManifest("generate", 0, "key", (), counts, None, {})


def shards() -> list[tuple[str, dict[str, int]]]:
    return list(Shard.objects.values_list("status", "counts"))


def test_the_rows_have_the_stages_in_the_papers_order(iteration: Iteration) -> None:
    assert [stage.name for stage in iteration.stages.all()] == [stage.name for stage in STAGES]
    again = record_iteration(iteration.experiment, 1, model_in="b" * 64)
    assert again.stages.count() == len(STAGES)


def test_a_quiet_stage(callback: DatabaseCallback, iteration: Iteration) -> None:
    for shard in range(2):
        callback.start_shard(GENERATE, shard)
        callback.finish_shard(GENERATE, shard, manifest(tokens=shard), seconds=1.5)
    callback.finish_stage(GENERATE)
    assert shards() == [("finished", {"tokens": 0}), ("finished", {"tokens": 1})]
    assert iteration.stages.get(name="generate").status == "finished"
    assert list(Attempt.objects.values_list("status", "seconds")) == [("finished", 1.5)] * 2


def test_finished_files_become_a_finished_row_without_an_attempt(
    callback: DatabaseCallback,
) -> None:
    callback.reuse_shard(GENERATE, 0, manifest(tokens=7))
    assert shards()[0] == ("finished", {"tokens": 7})
    assert not Attempt.objects.exists()


def test_a_row_whose_file_was_damaged_is_run_again(callback: DatabaseCallback) -> None:
    callback.reuse_shard(GENERATE, 0, manifest(tokens=7))
    callback.start_shard(GENERATE, 0)
    callback.finish_shard(GENERATE, 0, manifest(tokens=7), seconds=1.0)
    assert Attempt.objects.get().status == "finished"


def check_end(iteration: Iteration, *, attempt: str, shard: str, stage: str, error: str) -> None:
    row = Attempt.objects.get()
    assert (row.status, shards()[0][0]) == (attempt, shard)
    assert error in row.error
    assert iteration.stages.get(name="generate").status == stage


def test_a_shard_that_fails_says_why(callback: DatabaseCallback, iteration: Iteration) -> None:
    callback.start_shard(GENERATE, 0)
    callback.fail_shard(GENERATE, 0, EngineError("no tokens"))
    failed = {"attempt": "failed", "shard": "failed", "stage": "failed"}
    check_end(iteration, **failed, error="EngineError: no tokens")


def test_a_shard_that_runs_again_leaves_its_stage_running(
    callback: DatabaseCallback, iteration: Iteration
) -> None:
    callback.start_shard(GENERATE, 0)
    callback.start_shard(GENERATE, 1)
    callback.retry_shard(GENERATE, 0, EngineError("killed"))
    assert list(Attempt.objects.values_list("status", flat=True)) == ["failed", "running"]
    callback.finish_shard(GENERATE, 1, manifest(), seconds=1.0)
    callback.start_shard(GENERATE, 0)
    callback.finish_shard(GENERATE, 0, manifest(), seconds=1.0)
    callback.finish_stage(GENERATE)
    assert iteration.stages.get(name="generate").status == "finished"


@pytest.mark.django_db(transaction=True)
def test_an_interrupt_inside_begin_leaves_a_usable_connection(
    callback: DatabaseCallback, iteration: Iteration
) -> None:
    callback.start_shard(GENERATE, 0)
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")  # what SIGINT leaves when it arrives before Django notes it
    callback.stop_shard(GENERATE, 0, "KeyboardInterrupt")
    stopped = {"attempt": "interrupted", "shard": "waiting", "stage": "running"}
    check_end(iteration, **stopped, error="KeyboardInterrupt")
    with transaction.atomic():
        assert shards()[0][0] == "waiting"


def test_a_stage_that_is_not_scheduled_is_skipped(
    callback: DatabaseCallback, iteration: Iteration
) -> None:
    callback.skip_stage(META_JUDGE)
    assert iteration.stages.get(name="meta_judge").status == "skipped"


def test_progress_is_written_but_not_too_often(
    callback: DatabaseCallback, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr("workers.pipeline.db_callback.time.monotonic", lambda: now.seconds)
    callback.report(GENERATE, 0, 1, 10)
    callback.start_shard(GENERATE, 0)
    for step in range(20):
        now.seconds += 0.125
        callback.report(GENERATE, 0, step, step * 10)
    shard = Shard.objects.get(index=0)
    assert (shard.done, shard.tokens) == (16, 160)  # at steps 0, 4, 8, 12 and 16
    now.seconds += 1
    callback.log(GENERATE, 0, {"step": 33.0, "loss": 0.1})
    shard.refresh_from_db()
    assert shard.done == 33


def test_a_process_whose_claim_was_taken_over_stops(
    callback: DatabaseCallback, monkeypatch: pytest.MonkeyPatch
) -> None:
    callback.start_shard(GENERATE, 0)
    shard_claims.fail_attempt(Attempt.objects.get(), status=AttemptStatus.LOST, error="?")
    with pytest.raises(ExperimentBusyError, match="another process"):
        callback.report(GENERATE, 0, 1, 1)
    with pytest.raises(ExperimentBusyError):
        callback.finish_shard(GENERATE, 0, manifest(), seconds=1.0)


def test_a_shard_that_another_process_runs_is_not_started(callback: DatabaseCallback) -> None:
    callback.start_shard(GENERATE, 0)
    with pytest.raises(ExperimentBusyError):
        callback.start_shard(GENERATE, 0)
