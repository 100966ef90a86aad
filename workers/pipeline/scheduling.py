"""Advance the stages of an iteration in the core's order, by conditional UPDATEs.

`advance_iteration` may be called at any time, by any number of processes at once: the first one
takes a step, and the others find it done. Rows determine the next step; files determine what is
finished.
"""

import logging
from collections.abc import Iterator
from functools import partial

from django.db import transaction

from meta_reward_core.context import IterationContext
from meta_reward_core.errors import (
    MetaRewardError,
    NeedsAttentionError,
    StorageUnreachableError,
)
from meta_reward_core.evaluation.circuit_breaker import read_breaker
from meta_reward_core.iteration import STAGES
from meta_reward_core.iteration import Stage as Step
from meta_reward_core.recipes.dataflow import STREAMED_INPUTS, WHOLE_INPUTS
from meta_reward_core.runner import needs_training, publish_manifest
from meta_reward_core.storage.schemas import WRITERS
from webapp.audit.gate import explain_hold
from webapp.experiments.files import open_iteration_files
from webapp.experiments.models import (
    Attempt,
    Driver,
    Iteration,
    RunStatus,
    Shard,
    ShardStatus,
    Stage,
    StageStatus,
)
from workers.pipeline import shard_claims, transitions
from workers.pipeline.audit_gate import prepare_training, repair_audit_files
from workers.pipeline.dispatch import send_shards
from workers.pipeline.local_run import summarize
from workers.pipeline.open_experiment import build_context, open_row
from workers.pipeline.sync_rows import record_iteration

_DONE = (StageStatus.FINISHED, StageStatus.SKIPPED)

_log = logging.getLogger(__name__)


def advance_iteration(iteration: Iteration) -> None:
    """Take all steps of an iteration that are possible now."""
    try:
        while _take_step(iteration.pk):
            pass
    except StorageUnreachableError as error:
        _log.warning("%s is waiting for its files: %s", iteration, error)  # the reconciler retries
    except MetaRewardError as error:
        _log.warning("%s cannot continue: %s", iteration, error)
        transitions.stop_iteration(iteration, status=RunStatus.FAILED, message=str(error))


def _take_step(pk: int) -> bool:
    """Take one scheduling step; False if none is possible."""
    iteration = Iteration.objects.select_related("experiment").get(pk=pk)
    if transitions.get_held_iterations().filter(pk=pk).exists():
        return _release_if_passed(iteration)
    if iteration.status != RunStatus.RUNNING or iteration.driver != Driver.WORKERS:
        return False
    if iteration.cancel_requested or iteration.pause_requested:
        finish_pause_or_cancel(iteration)
        return False
    rows = {row.name: row for row in iteration.stages.all()}
    for step in STAGES:
        took = _take_step_of_stage(iteration, step, rows)
        if took is not None:
            return took
    if all(row.status in _DONE for row in rows.values()):
        return _complete_iteration(iteration, rows)
    return False


def _take_step_of_stage(iteration: Iteration, step: Step, rows: dict[str, Stage]) -> bool | None:
    """Start or finish a stage if possible; None if later stages should be tried."""
    row = rows[step.name]
    if row.status in _DONE:
        return None
    if _stop_if_unhealthy(iteration, step):
        return False
    if row.status == StageStatus.WAITING:
        return _start_if_ready(iteration, step, rows)
    if _fail_if_exhausted(iteration, row):
        return False
    return (_can_finish(step, rows) and _finish_if_done(iteration, step, row)) or None


def _start_if_ready(iteration: Iteration, step: Step, rows: dict[str, Stage]) -> bool | None:
    if not _can_start(step, rows):
        return None
    context = build_context(iteration)
    if needs_training(step, context) and _is_held(iteration, context):
        return False
    return _start_stage(step, rows[step.name], context)


def _can_start(step: Step, rows: dict[str, Stage]) -> bool:
    """Whether a stage's inputs are finished, or are being produced partition by partition."""
    begun = (StageStatus.RUNNING, *_DONE)
    return all(rows[name].status in _DONE for name in WHOLE_INPUTS[step.name]) and all(
        rows[name].status in begun for name in STREAMED_INPUTS[step.name]
    )


def _can_finish(step: Step, rows: dict[str, Stage]) -> bool:
    return all(rows[name].status in _DONE for name in STREAMED_INPUTS[step.name])


def _is_held(iteration: Iteration, context: IterationContext) -> bool:
    """Whether the audit gate blocks an iteration's training; it then needs attention."""
    why = prepare_training(iteration, context)
    if why:
        transitions.stop_iteration(iteration, status=RunStatus.NEEDS_ATTENTION, message=why)
    return bool(why)


def _stop_if_unhealthy(iteration: Iteration, step: Step) -> bool:
    """Stop an iteration whose finished shard shows a fault, until a user decides.

    Other running shards of the stage are stopped, too, and become pending.
    """
    files = open_iteration_files(iteration.experiment, iteration.number)
    if read_breaker(files, step.name) is None:
        return False
    try:
        step.require_healthy(build_context(iteration))
    except NeedsAttentionError as error:
        transitions.stop_iteration(iteration, status=RunStatus.NEEDS_ATTENTION, message=str(error))
        transitions.reset_running_stages(iteration)
        return True
    return False


def _release_if_passed(iteration: Iteration) -> bool:
    """Continue an iteration held by the audit gate if it passes; otherwise record why not."""
    why = explain_hold(iteration)
    if not why:
        return transitions.release_held(iteration)
    held = transitions.get_held_iterations().filter(pk=iteration.pk)
    held.exclude(message=why).update(message=why)
    return False


def finish_pause_or_cancel(iteration: Iteration) -> bool:
    """Pause or cancel an iteration as requested, once none of its shards is running."""
    running = Shard.objects.filter(stage__iteration=iteration, status=ShardStatus.RUNNING)
    if running.exists():
        return False
    status: transitions.Stopped = (
        RunStatus.CANCELLED if iteration.cancel_requested else RunStatus.PAUSED
    )
    with transaction.atomic():
        won = transitions.stop_iteration(iteration, status=status, message="by a user")
        if won:
            transitions.reset_running_stages(iteration)
    return won


def _start_stage(step: Step, row: Stage, context: IterationContext) -> bool:
    if not step.is_scheduled_in(context):
        return transitions.skip_stage(row)
    if transitions.start_stage(row, shards=step.plan_shards(context)):
        row.refresh_from_db()
        send_shards(row)
    return True


# Runs after every shard of every worker, so it must not load the rows of a running stage.
def _fail_if_exhausted(iteration: Iteration, row: Stage) -> bool:
    unfinished = shard_claims.get_unfinished_shards(row)
    exhausted = shard_claims.select_exhausted_shards(unfinished).order_by("index").first()
    if exhausted is not None:
        _fail_iteration(iteration, row, exhausted)
    return exhausted is not None


def _finish_if_done(iteration: Iteration, step: Step, row: Stage) -> bool:
    if shard_claims.get_unfinished_shards(row).exists():
        return False
    context = build_context(iteration)
    context.files.gather({step.name, *(stage for name in step.reads for stage in WRITERS[name])})
    shards = row.shards.filter(index__lt=row.shard_count or 0)
    absent = [shard for shard in shards if not _is_promised(step, context, shard.index)]
    if absent:
        _reopen_shards(row, absent)
        return False
    return transitions.finish_stage(row)


def _is_promised(step: Step, context: IterationContext, shard: int) -> bool:
    """Whether a manifest matches the current inputs of the shard."""
    manifest = context.files.find_manifest(step.name, shard)
    return manifest is not None and step.can_accept(context, manifest)


def _fail_iteration(iteration: Iteration, row: Stage, shard: Shard) -> None:
    latest = Attempt.objects.filter(shard=shard).order_by("-number").first()
    why = latest.error if latest else "no attempt was made"
    with transaction.atomic():
        transitions.fail_stage(row)
        transitions.stop_iteration(
            iteration,
            status=RunStatus.FAILED,
            message=f"{why}\n(shard {shard.index} of {row.name}, attempt {shard.attempt_count})",
        )


def _complete_iteration(iteration: Iteration, rows: dict[str, Stage]) -> bool:
    """Check every file once more, then complete the iteration and start the next one."""
    context = build_context(iteration)
    if reopen_damaged(iteration, context, rows):
        return False
    publish_manifest(context)
    context.files.remove_partial_files()
    return _finish_iteration(iteration)


def reopen_damaged(iteration: Iteration, context: IterationContext, rows: dict[str, Stage]) -> bool:
    """Reopen finished shards with missing or damaged files; False if all are intact."""
    repair_audit_files(iteration, context)
    context.files.gather()  # so that the threads below only read the cache
    for step in STAGES:
        row = rows[step.name]
        if row.status != StageStatus.FINISHED:
            continue
        shards = list(row.shards.filter(index__lt=row.shard_count or 0))
        check = partial(step.find_finished_shard, context)
        found = context.files.store.read_each(check, [shard.index for shard in shards])
        damaged = [shard for shard, whole in zip(shards, found, strict=True) if whole is None]
        if damaged:
            _log.warning(
                "%s: %s damaged shards of %s are rerun", iteration, len(damaged), step.name
            )
            _reopen_shards(row, damaged)
            return True
    return False


def _reopen_shards(row: Stage, shards: list[Shard]) -> None:
    with transaction.atomic():
        for shard in shards:
            shard_claims.reopen_shard(shard)
        transitions.reopen_stage(row)
    row.refresh_from_db()
    send_shards(row)


def _finish_iteration(iteration: Iteration) -> bool:
    experiment = open_row(iteration.experiment)
    summary = summarize(experiment, iteration)
    with transaction.atomic():  # otherwise a crash in between would lose the target
        won = transitions.finish_iteration(
            iteration,
            model_out=summary["model_out"],
            metrics=summary,
        )
        following = _start_next(iteration, summary["model_out"]) if won else None
    if following is not None:
        advance_iteration(following)
    return False


def _start_next(iteration: Iteration, model_in: str) -> Iteration | None:
    row = iteration.experiment
    row.refresh_from_db()
    if row.target_iteration <= iteration.number:
        return None
    following = record_iteration(row, iteration.number + 1, model_in=model_in)
    transitions.reset_running_stages(following)
    transitions.start_iteration(following, model_in=model_in, driver=Driver.WORKERS)
    return following


def iter_worker_iterations() -> Iterator[Iteration]:
    """Yield the iterations that workers run, and those held by the audit gate."""
    running = Iteration.objects.filter(status=RunStatus.RUNNING, driver=Driver.WORKERS)
    yield from (running | transitions.get_held_iterations()).select_related("experiment")
