"""Drive the declared stages of one iteration in this process, one shard after the other."""

import time
from collections.abc import Callable
from typing import Protocol

from meta_reward_core.context import IterationContext, StageResources
from meta_reward_core.errors import InputError
from meta_reward_core.iteration import STAGES, Stage
from meta_reward_core.storage.shards import ShardManifest
from meta_reward_core.system.command_hint import format_command


class RunCallback(Protocol):
    """Whoever keeps count of an iteration: rows of a database, or a person watching."""

    def skip_stage(self, stage: Stage) -> None:
        """This iteration does not have the stage."""

    def plan_stage(self, stage: Stage, shards: int) -> None:
        """The stage falls into so many shards."""

    def start_shard(self, stage: Stage, shard: int) -> None:
        """A shard begins (again)."""

    def reuse_shard(self, stage: Stage, shard: int, manifest: ShardManifest) -> None:
        """A shard was finished by an earlier run."""

    def finish_shard(
        self, stage: Stage, shard: int, manifest: ShardManifest, *, seconds: float
    ) -> None:
        """A shard is finished."""

    def fail_shard(self, stage: Stage, shard: int, error: BaseException) -> None:
        """A shard failed or was interrupted."""

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
    """Run what is left of an iteration; finished, undamaged shards are not run again.

    Args:
        before_training: called once every pair is there; it may write what an audit gave
            (`training_data.write_audit`), and it keeps the iteration from training by raising.

    Raises:
        InputError: the recipe asks for an audit, and nobody here can know of one.
        NeedsAttentionError: the judge probe, or a finished shard, shows a fault.
        NoPairsError: the iteration gave no preference pair.
        MetaRewardError: a shard failed.
    """
    if before_training is None and context.recipe.audit.required:
        raise InputError(
            "the recipe asks for a passed audit before training (audit.required), and the core "
            f"alone knows of no audits: use `{format_command('run_iteration')}`"
        )
    context.files.remove_partial_files()
    for stage in STAGES:
        if not stage.is_scheduled_in(context):
            callback.skip_stage(stage)
            continue
        if before_training is not None and needs_training(stage, context):
            before_training(context)
        shards = stage.plan_shards(context)
        callback.plan_stage(stage, shards)
        stage.require_healthy(context)
        for shard in range(shards):
            if _run_shard(context, stage, shard, resources, callback):
                stage.require_healthy(context)
        callback.finish_stage(stage)
    publish_manifest(context)


def needs_training(stage: Stage, context: IterationContext) -> bool:
    """Whether a stage is a training that is not done: its inputs may still change."""
    return stage.resource == "trainer" and stage.find_finished_shard(context, 0) is None


def _run_shard(
    context: IterationContext,
    stage: Stage,
    shard: int,
    resources: StageResources,
    callback: RunCallback,
) -> bool:
    """Run a shard unless it is finished; say whether it was run."""
    done = stage.find_finished_shard(context, shard)
    if done is not None:
        callback.reuse_shard(stage, shard, done)
        return False
    callback.start_shard(stage, shard)
    began = time.monotonic()
    try:
        manifest = stage.run_shard(context, shard, resources)
    except BaseException as error:
        callback.fail_shard(stage, shard, error)
        raise
    callback.finish_shard(stage, shard, manifest, seconds=time.monotonic() - began)
    return True


def publish_manifest(context: IterationContext) -> None:
    """Write the iteration's own manifest, last: it says that everything before it is whole."""
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
