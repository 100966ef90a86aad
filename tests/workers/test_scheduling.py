"""Rows drive the stages: the same order, the same bytes, whoever calls and however often.

The engine's process is replaced by a function here, and the broker by a list; both are real in
`test_queue`.
"""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django.fixtures import Settings
from rich.console import Console

from meta_reward_core.context import IterationContext, StageResources
from meta_reward_core.engines.base import Conversation
from meta_reward_core.engines.scripted import Reply, make_fake_reply
from meta_reward_core.errors import (
    EngineError,
    ExperimentBusyError,
    InputError,
    MetaRewardError,
    NeedsAttentionError,
    StorageUnreachableError,
)
from meta_reward_core.experiment import open_experiment
from meta_reward_core.planning import engine_loading, experiment_setup
from meta_reward_core.planning.experiment_request import ExperimentRequest
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.system.command_hint import format_command
from tests.workers.installation import Installation, UseScript
from tests.workers.test_run_iteration import statuses, table_bytes
from webapp.experiments.models import Attempt, Experiment, Iteration, Shard, Stage
from webapp.paths import get_storage_roots
from workers.engine import process
from workers.engine.client import ShardFailedError, ShardRequest, ShardResult, ShardStoppedError
from workers.management.follow import follow_iteration
from workers.ops.devices import DeviceGroup
from workers.pipeline import control, dispatch, run_shard, scheduling
from workers.pipeline.sync_rows import record_experiment
from workers.reconciler import reconcile


def do_nothing(request: ShardRequest) -> None:
    """What happens before most shards."""


class HostHere:
    """Runs shards in this very process."""

    def __init__(self) -> None:
        self.before: Callable[[ShardRequest], None] = do_nothing
        self.ran: list[tuple[str, int]] = []
        self.kills = 0
        self.groups: tuple[DeviceGroup, ...] = ()
        self.pid: int | None = None

    def kill(self) -> None:
        self.kills += 1

    def run(
        self, request: ShardRequest, *, can_continue: Callable[[], bool], **_: Any
    ) -> ShardResult:
        self.before(request)
        if not can_continue():
            raise ShardStoppedError
        resources = StageResources(
            load_engine=engine_loading.load_engine, scratch=Path(request.scratch)
        )
        resources.on_log = lambda row: None
        try:
            answer = process.run_shard(
                {name: getattr(request, name) for name in ShardRequest.__slots__}, resources
            )
        except MetaRewardError as error:
            raise ShardFailedError(
                str(error), kind=type(error).__name__, retryable=error.retryable
            ) from error
        self.ran.append((request.stage, request.shard))
        return ShardResult(answer["finished"], answer["reused"], "cpu")


class Queue:
    """Messages that nobody has taken yet."""

    def __init__(self) -> None:
        self.messages: deque[int] = deque()
        self.refuses = False

    def send_task(self, name: str, *, args: list[int], queue: str) -> None:
        if self.refuses:
            raise OSError("the broker is away")
        self.messages.append(args[0])

    def work(self, *, most: int = 1000) -> None:
        """Be a worker until nothing is left to do."""
        while self.messages and most:
            run_shard.run_shard(self.messages.popleft())
            most -= 1


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> HostHere:
    made = HostHere()
    monkeypatch.setattr(run_shard, "_host", made)
    return made


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch, host: HostHere) -> Queue:
    made = Queue()
    monkeypatch.setattr(dispatch, "app", made)
    monkeypatch.setattr("workers.reconciler.read_queue_lengths", lambda: {"gpu": 0, "cpu": 0})
    monkeypatch.setattr("django.db.transaction.on_commit", lambda function: function())
    monkeypatch.setattr(run_shard, "close_old_connections", lambda: None)
    return made


def queue_iteration(
    installation: Installation, *, target_iteration: int | None = 1, changes: tuple[str, ...] = ()
) -> Iteration:
    """Begin an experiment as the command does, without following it."""
    request = ExperimentRequest(
        "mine",
        recipe=str(installation.recipe),
        prompts=installation.prompts,
        changes=changes,
    )
    roots = get_storage_roots()
    experiment = experiment_setup.open_or_create(request, roots, say=lambda text: None)
    row = record_experiment(experiment, artifact_root=roots.artifacts)
    return control.submit_to_workers(experiment, row, target_iteration=target_iteration)


def test_an_iteration_by_the_workers_equals_one_by_the_command(
    installation: Installation, queue: Queue, host: HostHere
) -> None:
    installation.run_iteration(name="quiet")
    queue_iteration(installation)
    queue.work()
    mine = Iteration.objects.get(experiment__name="mine")
    quiet = Iteration.objects.get(experiment__name="quiet")
    assert (mine.status, mine.driver, mine.model_out) == ("finished", "workers", quiet.model_out)
    root = installation.artifacts
    assert table_bytes(root / "mine") == table_bytes(root / "quiet")
    manifest = "iteration-1/manifest.json"
    assert (root / "mine" / manifest).read_bytes() == (root / "quiet" / manifest).read_bytes()
    assert len(host.ran) == len(set(host.ran)) == 11
    assert mine.metrics["pairs"] == quiet.metrics["pairs"]


def test_a_shard_starts_as_soon_as_the_shard_it_reads_is_finished(
    installation: Installation, queue: Queue, host: HostHere
) -> None:
    """Later stages do not wait for the last shard of an earlier one; tables stay the same."""
    installation.run_iteration(name="quiet")
    queue_iteration(installation)
    while queue.messages:
        queue.messages = deque(sorted(queue.messages, key=find_index))
        queue.work(most=1)
    assert statuses(Iteration) == ["finished", "finished"]
    assert host.ran.index(("meta_judge", 0)) < host.ran.index(("generate", 1))
    assert host.ran.index(("judge", 1)) < host.ran.index(("pair_actor", 0))
    root = installation.artifacts
    assert table_bytes(root / "mine") == table_bytes(root / "quiet")


def find_index(pk: int) -> int:
    return Shard.objects.get(pk=pk).index


def test_calling_it_again_and_again_changes_nothing(
    installation: Installation, queue: Queue, host: HostHere
) -> None:
    iteration = queue_iteration(installation)
    while queue.messages:
        for _ in range(3):
            scheduling.advance_iteration(iteration)
            reconcile()
        assert len(queue.messages) == len(set(queue.messages))
        queue.work(most=1)
    assert len(host.ran) == len(set(host.ran))
    scheduling.advance_iteration(iteration)
    assert statuses(Iteration) == ["finished"]
    assert Attempt.objects.count() == Shard.objects.count() == 11


def test_a_message_delivered_three_times_runs_its_shard_once(
    installation: Installation, queue: Queue, host: HostHere
) -> None:
    queue_iteration(installation)
    while queue.messages:
        shard = queue.messages.popleft()
        for _ in range(3):
            run_shard.run_shard(shard)
    assert statuses(Iteration) == ["finished"]
    assert len(host.ran) == 11


def test_a_store_that_is_away_for_a_while_stops_no_iteration(
    installation: Installation, queue: Queue, host: HostHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(iteration: Iteration) -> IterationContext:
        raise StorageUnreachableError("cannot read bucket/mine/experiment.json")

    iteration = queue_iteration(installation)
    with monkeypatch.context() as without_store:
        without_store.setattr(scheduling, "build_context", away)
        scheduling.advance_iteration(iteration)
        queue.work()
        reconcile()
    assert statuses(Iteration) == ["running"]
    assert host.ran == [("sample", 0)]
    reconcile()
    queue.work()
    assert statuses(Iteration) == ["finished"]
    assert len(host.ran) == 11


def test_the_goal_begins_the_next_iteration_and_no_more(
    installation: Installation, queue: Queue
) -> None:
    queue_iteration(installation, target_iteration=2)
    queue.work()
    assert statuses(Iteration) == ["finished", "finished"]
    first, second = Iteration.objects.all()
    assert second.model_in == first.model_out
    assert Experiment.objects.get().status == "finished"


def test_while_messages_are_on_their_way_a_pass_of_the_reconciler_writes_no_shard(
    installation: Installation, queue: Queue
) -> None:
    """Or with thousands of waiting shards a pass would take longer than the time between two."""
    queue_iteration(installation)
    queue.work(most=1)
    assert len(queue.messages) > 1
    with CaptureQueriesContext(connection) as asked:
        reconcile()
    written = [query["sql"] for query in asked if 'UPDATE "experiments_shard"' in query["sql"]]
    assert not written


def test_what_the_broker_refuses_is_sent_by_the_reconciler(
    installation: Installation, queue: Queue
) -> None:
    queue.refuses = True
    queue_iteration(installation)
    assert not queue.messages
    assert set(Shard.objects.values_list("sent", flat=True)) == {None}
    queue.refuses = False
    reconcile()
    queue.work()
    assert statuses(Iteration) == ["finished"]


def test_an_engine_that_dies_is_a_readable_failure_and_tried_again(
    installation: Installation, queue: Queue, host: HostHere
) -> None:
    def die_once(request: ShardRequest) -> None:
        if (request.stage, request.shard) == ("judge", 1):
            host.before = do_nothing
            raise ShardFailedError("out of memory", kind="EngineDied", retryable=True)

    host.before = die_once
    queue_iteration(installation)
    queue.work()
    assert statuses(Iteration) == ["finished"]
    attempts = Attempt.objects.filter(shard__stage__name="judge", shard__index=1)
    assert list(attempts.values_list("number", "status", "error")) == [
        (1, "failed", "EngineDied: out of memory"),
        (2, "finished", ""),
    ]


def test_a_shard_that_always_fails_ends_the_iteration_until_a_person_retries(
    installation: Installation, queue: Queue, use_script: UseScript
) -> None:
    def broken(*_: object) -> str:
        raise EngineError("the device is gone")

    use_script(broken)
    queue_iteration(installation)
    queue.work()
    iteration = Iteration.objects.get()
    assert iteration.status == "failed"
    assert iteration.message.startswith("EngineError: the device is gone")
    again = format_command("control_iteration", "retry", "--experiment", "mine")
    assert again not in iteration.message, "the page has a button for it"
    with pytest.raises(MetaRewardError, match=f"the device is gone(?s:.*)To try again: {again}"):
        follow_iteration(iteration, Console(quiet=True))
    failed = Attempt.objects.filter(status="failed").count()
    assert failed == 5 + 4  # the shards took turns, and the first reached its cap first
    assert Stage.objects.get(name="generate").status == "failed"
    use_script(make_fake_reply)
    installation.run("control_iteration", "retry", "--experiment", "mine")
    queue.work()
    assert statuses(Iteration) == ["finished"]
    assert Attempt.objects.filter(status="failed").count() == failed


def test_no_pair_is_a_finding(
    installation: Installation, queue: Queue, use_script: UseScript
) -> None:
    use_script(lambda conversation, sample, seed: f"answer {sample}\nScore: 3")
    queue_iteration(installation)
    queue.work()
    iteration = Iteration.objects.get()
    assert iteration.status == "no_pairs"
    assert "no preference pair" in iteration.message


def test_a_judge_that_cannot_judge_needs_attention_until_somebody_continues(
    installation: Installation, queue: Queue, use_script: UseScript
) -> None:
    use_script(lambda conversation, sample, seed: f"nice answer {sample}")
    queue_iteration(installation, changes=("probe.prompts=8",))
    queue.work()
    iteration = Iteration.objects.get()
    assert iteration.status == "needs_attention"
    assert "the model does not know the reply format" in iteration.message
    tried = Attempt.objects.filter(shard__stage__name="generate")
    assert set(tried.values_list("status", flat=True)) == {"interrupted"}, "nothing has failed"
    with pytest.raises(NeedsAttentionError):
        follow_iteration(iteration, Console(quiet=True))
    installation.run("control_iteration", "resume", "--experiment", "mine")
    queue.work()
    iteration.refresh_from_db()
    assert iteration.status == "needs_attention", "resuming alone changes nothing"
    control.continue_despite_probe(Experiment.objects.get(), by="alice")
    queue.work()
    iteration.refresh_from_db()
    assert iteration.status == "no_pairs"
    with pytest.raises(InputError, match="stopped by the judge probe"):
        control.continue_despite_probe(Experiment.objects.get(), by="alice")


def test_a_finished_shard_that_shows_a_fault_needs_attention_until_somebody_continues(
    installation: Installation, queue: Queue, host: HostHere, use_script: UseScript
) -> None:
    def judge_badly(conversation: Conversation, sample: int, seed: int) -> Reply:
        usual = make_fake_reply(conversation, sample, seed)
        return "A nice answer." if "\nScore:" in usual else usual

    use_script(judge_badly)
    sizes = ("prompts_per_shard=8", "judge.samples=6", "probe.check_shards=true")
    queue_iteration(installation, changes=sizes)
    queue.work()
    iteration = Iteration.objects.get()
    assert iteration.status == "needs_attention"
    assert "Shard 0 of stage judge stopped the run" in iteration.message
    assert [shard for stage, shard in host.ran if stage == "judge"] == [0]
    assert Shard.objects.filter(stage__name="judge", status="finished").count() == 1
    assert not Shard.objects.filter(status="running").exists()
    installation.run("control_iteration", "resume", "--experiment", "mine")
    queue.work()
    iteration.refresh_from_db()
    assert iteration.status == "needs_attention", "resuming alone changes nothing"
    assert [shard for stage, shard in host.ran if stage == "judge"] == [0]
    control.continue_despite_probe(Experiment.objects.get(), by="alice")
    queue.work()
    iteration.refresh_from_db()
    assert iteration.status == "no_pairs"
    assert len(host.ran) == len(set(host.ran))


@pytest.mark.parametrize("action, status", [("pause", "paused"), ("cancel", "cancelled")])
def test_a_stop_in_the_middle_keeps_what_is_finished_and_resumes(
    installation: Installation, queue: Queue, host: HostHere, action: str, status: str
) -> None:
    def stop(request: ShardRequest) -> None:
        if (request.stage, request.shard) == ("judge", 1):
            host.before = do_nothing
            Iteration.objects.update(**{f"{action}_requested": True})

    host.before = stop
    queue_iteration(installation)
    queue.work()
    assert statuses(Iteration) == [status]
    assert not Shard.objects.filter(status="running").exists()
    before = list(host.ran)
    assert ("judge", 0) in before
    shown = installation.run("control_iteration", "resume", "--experiment", "mine")
    assert "running" in shown
    queue.work()
    assert statuses(Iteration) == ["finished"]
    assert len(host.ran) == len(set(host.ran)) == 11


@pytest.mark.parametrize("action", ["pause", "cancel"])
def test_a_stop_between_two_shards_leaves_no_idle_engine(
    installation: Installation, queue: Queue, host: HostHere, action: str
) -> None:
    queue_iteration(installation)
    while ("judge", 0) not in host.ran:
        queue.work(most=1)
    assert host.kills == 0
    Iteration.objects.update(**{f"{action}_requested": True})
    queue.work(most=1)
    assert host.kills == 1


@pytest.mark.parametrize("action, status", [("pause", "paused"), ("cancel", "cancelled")])
def test_a_stop_without_any_worker_takes_effect_at_once(
    installation: Installation, queue: Queue, action: str, status: str
) -> None:
    queue_iteration(installation)
    installation.run("control_iteration", action, "--experiment", "mine")
    assert statuses(Iteration) == [status]
    queue.work()
    assert not Attempt.objects.exists()
    if action == "pause":
        installation.run("control_iteration", "cancel", "--experiment", "mine")
        assert statuses(Iteration) == ["cancelled"]


def test_files_damaged_on_the_way_are_made_again_before_the_end(
    installation: Installation, queue: Queue, host: HostHere
) -> None:
    installation.run_iteration(name="quiet")

    def damage(request: ShardRequest) -> None:
        if request.stage == "evaluate":
            host.before = do_nothing
            part = installation.artifacts / "mine/iteration-1/responses/part-00000.parquet"
            part.write_bytes(part.read_bytes()[:-9])

    host.before = damage
    queue_iteration(installation)
    queue.work()
    assert set(statuses(Iteration)) == {"finished"}
    root = installation.artifacts
    assert table_bytes(root / "mine") == table_bytes(root / "quiet")


def test_a_damaged_input_is_made_again_and_then_its_reader_runs(
    installation: Installation, queue: Queue, host: HostHere
) -> None:
    def damage(request: ShardRequest) -> None:
        if request.stage == "meta_judge":
            host.before = do_nothing
            part = installation.artifacts / "mine/iteration-1/judgments/part-00000.parquet"
            part.write_bytes(part.read_bytes()[:-9])

    host.before = damage
    queue_iteration(installation)
    queue.work()
    assert statuses(Iteration) == ["finished"]
    assert host.ran.count(("judge", 0)) == 2


def test_a_finished_iteration_handed_over_again_is_checked_and_mended(
    installation: Installation, queue: Queue
) -> None:
    installation.run_iteration()
    part = installation.artifacts / "mine/iteration-1/judgments/part-00000.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:-7])
    queue_iteration(installation)
    queue.work()
    assert part.read_bytes() == whole
    assert statuses(Iteration) == ["finished"]


def test_files_made_without_rows_are_reused(
    installation: Installation, queue: Queue, host: HostHere
) -> None:
    installation.run_iteration()
    Experiment.objects.all().delete()
    queue_iteration(installation)
    queue.work()
    assert statuses(Iteration) == ["finished"]
    assert set(Attempt.objects.values_list("seconds", flat=True)) == {None}


def test_the_command_keeps_away_while_the_workers_run_it_and_they_while_it_runs(
    installation: Installation, queue: Queue, settings: Settings
) -> None:
    queue_iteration(installation)
    with pytest.raises(CommandError, match="run by the workers") as caught:
        installation.run_iteration()
    assert caught.value.returncode == 5
    queue.work()
    experiment = open_experiment(ArtifactStore(settings.META_REWARD_ARTIFACT_ROOT), "mine")
    assert experiment is not None
    with experiment.lock(), pytest.raises(ExperimentBusyError):
        queue_iteration(installation, target_iteration=2)


def test_files_that_are_gone_end_the_iteration_with_words(
    installation: Installation, queue: Queue
) -> None:
    queue_iteration(installation)
    (installation.artifacts / "mine/experiment.json").unlink()
    queue.work()
    iteration = Iteration.objects.get()
    assert iteration.status == "failed"
    assert "mine" in iteration.message


def test_nothing_to_stop_and_nothing_to_resume_say_so(installation: Installation) -> None:
    installation.run_iteration()
    for action in ("pause", "cancel", "resume"):
        with pytest.raises(CommandError) as caught:
            installation.run("control_iteration", action, "--experiment", "mine")
        assert caught.value.returncode == InputError.exit_code
    with pytest.raises(CommandError, match="does not exist"):
        installation.run("control_iteration", "pause", "--experiment", "other")
