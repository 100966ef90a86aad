"""Show the progress of workers in the terminal, without changing any rows."""

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
    """The workers stopped because a user requested it."""

    exit_code = EXIT_INTERRUPTED


def follow_iteration(iteration: Iteration, console: Console) -> Iteration:
    """Show an iteration's progress until it stops; return its final row.

    Raises:
        NoPairsError: it ended without any pairs.
        AuditWaitsError: the audit gate blocks its training.
        NeedsAttentionError: the judge probe stopped it.
        IterationStoppedError: it was paused or cancelled.
        MetaRewardError: it failed.
    """
    _warn_without_workers(console)
    callback = ConsoleCallback(console, build_context(iteration))
    followed = {step.name: _FollowedStage(step, callback) for step in STAGES}
    with callback.show():
        while True:
            for row in iteration.stages.order_by("position"):
                followed[row.name].show(row)
            iteration = Iteration.objects.select_related("experiment").get(pk=iteration.pk)
            if not _is_running(iteration):
                break
            _wait()
        for row in iteration.stages.order_by("position"):
            followed[row.name].show(row)
            followed[row.name].stop()
    _raise_unless_finished(iteration)
    return iteration


def _warn_without_workers(console: Console) -> None:
    recent = timezone.now() - timedelta(seconds=_NO_WORKER_SECONDS)
    if not Worker.objects.filter(heartbeat__gt=recent).exists():
        console.print(f"no worker is running: start one with `{escape(format_command('worker'))}`")


def _is_running(iteration: Iteration) -> bool:
    return iteration.status == RunStatus.RUNNING and iteration.driver == Driver.WORKERS


class _FollowedStage:
    """What has been reported about a stage."""

    def __init__(self, step: Step, callback: ConsoleCallback) -> None:
        self._step = step
        self._callback = callback
        self._is_open = self._is_over = False
        self._finished: set[int] = set()
        self._running: set[int] = set()

    def show(self, row: Stage) -> None:
        """Report what has changed."""
        if self._is_over or row.status == StageStatus.WAITING:
            return
        if row.status == StageStatus.SKIPPED:
            self._is_over = True
            self._callback.skip_stage(self._step)
            return
        if not self._is_open:
            self._is_open = True
            self._callback.plan_stage(self._step, row.shard_count or 0)
        for shard in row.shards.filter(index__lt=row.shard_count or 0):
            if shard.status == ShardStatus.RUNNING:
                self._show_running(shard)
            elif shard.status == ShardStatus.FINISHED and shard.index not in self._finished:
                self._finished.add(shard.index)
                self._show_finished(shard)
        if row.status == StageStatus.FINISHED:
            self._is_over = True
            self._callback.finish_stage(self._step)

    def stop(self) -> None:
        """Report that the iteration has stopped."""
        if self._is_open and not self._is_over:
            self._callback.stop_stage(self._step)

    def _show_running(self, shard: Shard) -> None:
        step, callback = self._step, self._callback
        if shard.index not in self._running:
            self._running.add(shard.index)
            callback.start_shard(step, shard.index)
        if shard.done and step.resource == "trainer":
            callback.log(step, shard.index, {"step": float(shard.done)})
        elif shard.done:
            callback.report(step, shard.index, shard.done, shard.tokens)

    def _show_finished(self, shard: Shard) -> None:
        manifest = ShardManifest(self._step.name, shard.index, "", (), shard.counts, None, {})
        made = Attempt.objects.filter(
            shard=shard, status=AttemptStatus.FINISHED, seconds__isnull=False
        )
        attempt = made.order_by("-number").first()
        if attempt is None:
            self._callback.reuse_shard(self._step, shard.index, manifest)
        else:
            seconds = attempt.seconds or 0.0
            self._callback.finish_shard(self._step, shard.index, manifest, seconds=seconds)


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
