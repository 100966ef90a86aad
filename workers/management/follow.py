"""Show a person how far the workers are; reading rows changes nothing."""

import time
from datetime import timedelta
from typing import Final

from django.db import close_old_connections
from django.utils import timezone
from rich.console import Console
from rich.markup import escape

from meta_reward_core.cli.options import EXIT_INTERRUPTED
from meta_reward_core.cli.terminal import ConsoleCallback
from meta_reward_core.errors import (
    AuditWaitsError,
    MetaRewardError,
    NeedsAttentionError,
    NoPairsError,
    StorageFullError,
)
from meta_reward_core.iteration import STAGES
from meta_reward_core.iteration import Stage as Step
from meta_reward_core.storage.shards import ShardManifest
from meta_reward_core.system.command_hint import format_command
from webapp.experiments.models import (
    Attempt,
    AttemptStatus,
    Driver,
    Iteration,
    RunStatus,
    Shard,
    ShardStatus,
    Stage,
    StageStatus,
    Worker,
)
from webapp.experiments.statuses import is_held_at_gate
from workers.pipeline.open_experiment import build_context

EVERY_SECONDS: Final = 0.5
_NO_WORKER_SECONDS: Final = 30


class IterationStoppedError(MetaRewardError):
    """The workers stopped because a person asked them to."""

    exit_code = EXIT_INTERRUPTED


def follow_iteration(iteration: Iteration, console: Console) -> Iteration:
    """Show an iteration's progress until it is at rest; returns it as it is then.

    Raises:
        NoPairsError: it ended without a pair.
        AuditWaitsError: the audit gate keeps it from training.
        NeedsAttentionError: the judge probe stopped it.
        IterationStoppedError: it was paused or cancelled.
        MetaRewardError: it failed.
    """
    _warn_without_workers(console)
    told: set[str] = set()
    while True:
        row = _find_current_stage(iteration, told)
        if row is not None:
            _follow_stage(row, console)
            told.add(row.name)
            continue
        iteration = Iteration.objects.select_related("experiment").get(pk=iteration.pk)
        if not _is_running(iteration):
            break
        _wait()
    _raise_unless_finished(iteration)
    return iteration


def _warn_without_workers(console: Console) -> None:
    recent = timezone.now() - timedelta(seconds=_NO_WORKER_SECONDS)
    if not Worker.objects.filter(heartbeat__gt=recent).exists():
        console.print(f"no worker is up: start one with `{escape(format_command('worker'))}`")


def _find_current_stage(iteration: Iteration, told: set[str]) -> Stage | None:
    """The next stage that has been begun and not been told of."""
    begun = iteration.stages.exclude(status=StageStatus.WAITING).exclude(name__in=told)
    return begun.order_by("position").first()


def _is_running(iteration: Iteration) -> bool:
    return iteration.status == RunStatus.RUNNING and iteration.driver == Driver.WORKERS


def _follow_stage(row: Stage, console: Console) -> None:
    """Show one stage until it is finished, or its iteration is at rest."""
    step = next(step for step in STAGES if step.name == row.name)
    callback = ConsoleCallback(console, build_context(row.iteration))
    if row.status == StageStatus.SKIPPED:
        callback.skip_stage(step)
        return
    callback.plan_stage(step, row.shard_count or 0)
    callback.start_shard(step, 0)  # its size stands for that of the others, which run beside it
    told: set[int] = set()
    with callback.show():
        while True:
            row.refresh_from_db()
            _report_shards(row, step, callback, told)
            if row.status == StageStatus.FINISHED:
                callback.finish_stage(step)
                return
            if row.status == StageStatus.FAILED or not _is_running(
                Iteration.objects.get(pk=row.iteration_id)
            ):
                callback.fail_shard(step, 0, IterationStoppedError())
                return
            _wait()


def _report_shards(row: Stage, step: Step, callback: ConsoleCallback, told: set[int]) -> None:
    shards = list(row.shards.filter(index__lt=row.shard_count or 0))
    for shard in shards:
        if shard.status == ShardStatus.FINISHED and shard.index not in told:
            told.add(shard.index)
            _report_finished(shard, step, callback)
    _report_running(
        [shard for shard in shards if shard.status == ShardStatus.RUNNING], step, callback
    )


def _report_running(running: list[Shard], step: Step, callback: ConsoleCallback) -> None:
    done = sum(shard.done for shard in running)
    tokens = sum(shard.tokens for shard in running)
    if done and step.resource == "trainer":
        callback.log({"step": float(done)})
    elif done:
        callback.report(done, tokens)


def _report_finished(shard: Shard, step: Step, callback: ConsoleCallback) -> None:
    manifest = ShardManifest(step.name, shard.index, "", (), shard.counts, None, {})
    made = Attempt.objects.filter(shard=shard, status=AttemptStatus.FINISHED, seconds__isnull=False)
    attempt = made.order_by("-number").first()
    if attempt is None:
        callback.reuse_shard(step, shard.index, manifest)
    else:
        callback.finish_shard(step, shard.index, manifest, seconds=attempt.seconds or 0.0)


def _wait() -> None:
    close_old_connections()
    time.sleep(EVERY_SECONDS)


def _raise_unless_finished(iteration: Iteration) -> None:
    if iteration.status == RunStatus.NO_PAIRS:
        raise NoPairsError(iteration.message)
    if iteration.status == RunStatus.NEEDS_ATTENTION:
        held = is_held_at_gate(iteration)
        raise (AuditWaitsError if held else NeedsAttentionError)(iteration.message)
    if iteration.status in (RunStatus.PAUSED, RunStatus.CANCELLED, RunStatus.INTERRUPTED):
        resume = format_command(
            "control_iteration", "resume", "--experiment", str(iteration.experiment)
        )
        raise IterationStoppedError(
            f"{iteration} is {iteration.get_status_display()}. Completed shards are kept. "
            f"To resume: {resume}"
        )
    if iteration.status == RunStatus.FAILED:
        full = iteration.message.startswith(StorageFullError.__name__)
        again = format_command(
            "control_iteration", "retry", "--experiment", str(iteration.experiment)
        )
        raise (StorageFullError if full else MetaRewardError)(
            f"{iteration.message}\nTo try again: {again}"
        )
