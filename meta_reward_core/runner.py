"""Drive the declared stages of one iteration: choose the next shard and run it on one engine.

In a stage that reads its input shard by shard, shard k may run once shard k of the input is
finished, so several engines never wait for the last shard of a stage. A single engine runs one
stage after the other.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from meta_reward_core.context import IterationContext, StageResources
from meta_reward_core.errors import InputError
from meta_reward_core.iteration import STAGES, Stage
from meta_reward_core.planning.shard_schedule import select_stage
from meta_reward_core.recipes.dataflow import STREAMED_INPUTS, WHOLE_INPUTS
from meta_reward_core.storage.shards import ShardManifest
from meta_reward_core.system.command_hint import format_command


class RunCallback(Protocol):
    """Receives the progress of an iteration, to store it in a database or show it to a user."""

    def skip_stage(self, stage: Stage) -> None:
        """The stage is not part of this iteration."""

    def plan_stage(self, stage: Stage, shards: int) -> None:
        """The stage has this number of shards."""

    def start_shard(self, stage: Stage, shard: int) -> None:
        """A shard starts, for the first time or again."""

    def reuse_shard(self, stage: Stage, shard: int, manifest: ShardManifest) -> None:
        """A shard was finished by an earlier run."""

    def report(self, stage: Stage, shard: int, done: int, tokens: int) -> None:
        """An engine has generated `done` completions and `tokens` tokens of a running shard."""

    def log(self, stage: Stage, shard: int, row: dict[str, float]) -> None:
        """Training wrote a row of its log."""

    def finish_shard(
        self, stage: Stage, shard: int, manifest: ShardManifest, *, seconds: float
    ) -> None:
        """A shard is finished."""

    def retry_shard(self, stage: Stage, shard: int, error: Exception) -> None:
        """A shard failed and will be run again."""

    def fail_shard(self, stage: Stage, shard: int, error: Exception) -> None:
        """A shard failed."""

    def stop_shard(self, stage: Stage, shard: int, reason: str) -> None:
        """A running shard was stopped; `reason` is a message for the user."""

    def finish_stage(self, stage: Stage) -> None:
        """All shards of the stage are finished."""


BeforeTraining = Callable[[IterationContext], None]


def run_iteration(
    context: IterationContext,
    resources: StageResources,
    callback: RunCallback,
    *,
    before_training: BeforeTraining | None = None,
) -> None:
    """Run the remaining shards of an iteration; finished, undamaged shards are not rerun.

    Args:
        before_training: see `ShardSchedule`.

    Raises:
        InputError: the recipe requires an audit, but `before_training` is not given.
        NeedsAttentionError: the judge probe or a finished shard shows a fault.
        NoPairsError: the iteration has no preference pair.
        MetaRewardError: a shard failed.
    """
    schedule = ShardSchedule(context, callback, before_training=before_training)
    while (taken := schedule.take_next()) is not None:
        stage, shard = taken
        _run_shard(context, stage, shard, resources, callback)
        schedule.finish_shard(stage, shard)
    publish_manifest(context)


@dataclass(slots=True)
class _OpenStage:
    """Shards of a stage that has started.

    Attributes:
        waiting: shards that have not started, in ascending order.
        unfinished: waiting and running shards.
    """

    waiting: list[int]
    unfinished: set[int]


class ShardSchedule:
    """Decides which shards of an iteration may run now, and which stages are finished.

    Args:
        before_training: called once all pairs exist; it may write an audit's results
            (`training.dataset.write_audit`), and prevents the training if it raises.
        engines_ahead: if there are several engines, the number of engines that take shards of the
            latest stage instead of the earliest (`shard_schedule.choose_engines_ahead`).

    Raises:
        InputError: the recipe requires an audit, but `before_training` is not given.
    """

    def __init__(
        self,
        context: IterationContext,
        callback: RunCallback,
        *,
        before_training: BeforeTraining | None = None,
        engines_ahead: int = 0,
    ) -> None:
        if before_training is None and context.recipe.audit.required:
            raise InputError(
                "the recipe requires a passed audit before training (audit.required), but the core "
                f"alone does not support audits: use `{format_command('run_iteration')}`"
            )
        context.files.remove_partial_files()
        self._context = context
        self._callback = callback
        self._before_training = before_training
        self._engines_ahead = engines_ahead
        self._open: dict[str, _OpenStage] = {}
        self._done: set[str] = set()

    def take_next(self) -> tuple[Stage, int] | None:
        """Take a shard whose inputs are finished, from the earliest stage that has one.

        With several engines, some take a shard of the latest stage; see
        `shard_schedule.select_stage`.

        Returns:
            None if no shard remains, or if all remaining shards need running shards to finish
            first.

        Raises:
            NeedsAttentionError: a finished shard of a stage that is starting shows a fault.
        """
        ready: dict[str, tuple[Stage, int]] = {}
        for stage in STAGES:
            if stage.name not in self._open and not self._begin(stage):
                continue
            shard = self._find_ready(stage)
            if shard is not None:
                ready[stage.name] = stage, shard
                if not self._engines_ahead:
                    break
        if not ready:
            return None
        running = [self._count_running_from(name) for name in ready]
        name = select_stage(list(ready), running, engines_ahead=self._engines_ahead)
        stage, shard = ready[name]
        self._open[name].waiting.remove(shard)
        return stage, shard

    def _count_running_from(self, name: str) -> int:
        """Count the running shards of a stage and of later stages."""
        names = [stage.name for stage in STAGES]
        opened = [self._open[one] for one in names[names.index(name) :] if one in self._open]
        return sum(len(one.unfinished) - len(one.waiting) for one in opened)

    def put_back(self, stage: Stage, shard: int) -> None:
        """Return a taken shard to the waiting shards."""
        self._open[stage.name].waiting.append(shard)
        self._open[stage.name].waiting.sort()

    def finish_shard(self, stage: Stage, shard: int) -> None:
        """Record that a shard is finished.

        Raises:
            NeedsAttentionError: the shard shows a fault.
        """
        stage.require_healthy(self._context)
        self._open[stage.name].unfinished.remove(shard)
        self._close_if_finished(stage)

    def _begin(self, stage: Stage) -> bool:
        """Start a stage if its inputs exist, or are being written part by part."""
        name = stage.name
        if name in self._done or not self._can_begin(name):
            return False
        context, callback = self._context, self._callback
        if not stage.is_scheduled_in(context):
            callback.skip_stage(stage)
            self._done.add(name)
            return False
        if self._before_training is not None and needs_training(stage, context):
            self._before_training(context)
        shards = range(stage.plan_shards(context))
        callback.plan_stage(stage, len(shards))
        stage.require_healthy(context)
        self._open[name] = _OpenStage(list(shards), set(shards))
        return True

    def _can_begin(self, name: str) -> bool:
        return self._done.issuperset(WHOLE_INPUTS[name]) and all(
            one in self._done or one in self._open for one in STREAMED_INPUTS[name]
        )

    def _find_ready(self, stage: Stage) -> int | None:
        inputs = [self._open[name] for name in STREAMED_INPUTS[stage.name] if name in self._open]
        opened = self._open[stage.name]
        while (shard := _find_ready(opened, inputs)) is not None:
            made = stage.find_finished_shard(self._context, shard)
            if made is None:
                return shard
            opened.waiting.remove(shard)
            self._callback.reuse_shard(stage, shard, made)
            opened.unfinished.remove(shard)
        self._close_if_finished(stage)
        return None

    def _close_if_finished(self, stage: Stage) -> None:
        if not self._open[stage.name].unfinished:
            del self._open[stage.name]
            self._done.add(stage.name)
            self._callback.finish_stage(stage)


def _find_ready(opened: _OpenStage, inputs: Sequence[_OpenStage]) -> int | None:
    ready = (
        shard for shard in opened.waiting if not any(shard in one.unfinished for one in inputs)
    )
    return next(ready, None)


def needs_training(stage: Stage, context: IterationContext) -> bool:
    """Return whether a stage is an unfinished training: its inputs may still change."""
    return stage.resource == "trainer" and stage.find_finished_shard(context, 0) is None


def _run_shard(
    context: IterationContext,
    stage: Stage,
    shard: int,
    resources: StageResources,
    callback: RunCallback,
) -> None:
    resources.progress = partial(callback.report, stage, shard)
    resources.on_log = partial(callback.log, stage, shard)
    callback.start_shard(stage, shard)
    began = time.monotonic()
    try:
        manifest = stage.run_shard(context, shard, resources)
    except Exception as error:
        callback.fail_shard(stage, shard, error)
        raise
    except BaseException as stop:
        callback.stop_shard(stage, shard, type(stop).__name__)
        raise
    callback.finish_shard(stage, shard, manifest, seconds=time.monotonic() - began)


def publish_manifest(context: IterationContext) -> None:
    """Write the iteration's own manifest last, because it marks the iteration as complete."""
    manifests = context.files.list_manifests()
    summary = {
        "iteration": context.number,
        "recipe": context.recipe_sha256,
        "templates": context.templates.sha256,
        "seed": context.seed,
        "model_in": context.model.sha256,
        "model_out": context.files.get_checkpoint_sha256(),
        "packages": StageResources.list_packages(),
        "rows": _sum_rows_by_table(manifests),
        "parts": {part.path: part.sha256 for made in manifests for part in made.parts},
        "counts": _sum_counts_by_stage(manifests),
    }
    context.files.write_final_manifest(summary)


def _sum_rows_by_table(manifests: list[ShardManifest]) -> dict[str, int]:
    rows: dict[str, int] = {}
    for part in (part for made in manifests for part in made.parts):
        rows[part.table] = rows.get(part.table, 0) + part.rows
    return rows


def _sum_counts_by_stage(manifests: list[ShardManifest]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for made in manifests:
        stage = counts.setdefault(made.stage, {})
        for name, count in made.counts.items():
            stage[name] = stage.get(name, 0) + count
    return counts
