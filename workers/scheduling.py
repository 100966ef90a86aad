"""Drive an iteration's stages through rows: in the core's order, and only by conditional UPDATEs.

`advance` may be called at any time, by any number of processes at once: whoever is first takes a
step, the others find it taken. Which step comes next is read from the rows, what is finished
from the files.
"""

import logging
from collections.abc import Iterator
from functools import partial

from django.db import transaction

from meta_reward_core.context import IterationContext
from meta_reward_core.errors import MetaRewardError, StorageUnreachableError
from meta_reward_core.iteration import STAGES
from meta_reward_core.iteration import Stage as Step
from meta_reward_core.running import publish_manifest, trains_anew
from meta_reward_core.tables import WRITERS
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
from workers import lifecycle
from workers.audited import mend_audit, prepare_training
from workers.in_process import summarize
from workers.opening import context_of, open_row
from workers.rows import record_iteration
from workers.sending import send_shards

_DONE = (StageStatus.FINISHED, StageStatus.SKIPPED)

_log = logging.getLogger(__name__)


def advance(iteration: Iteration) -> None:
    """Take every step of an iteration that can be taken now."""
    try:
        while _take_step(iteration.pk):
            pass
    except StorageUnreachableError as error:
        _log.warning("%s waits for its files: %s", iteration, error)  # the reconciler comes again
    except MetaRewardError as error:
        _log.warning("%s cannot go on: %s", iteration, error)
        lifecycle.stop_iteration(iteration, status=RunStatus.FAILED, finding=str(error))


def _take_step(pk: int) -> bool:
    """Take one step; False if there is none to take."""
    iteration = Iteration.objects.select_related("experiment").get(pk=pk)
    if iteration.status != RunStatus.RUNNING or iteration.driver != Driver.WORKERS:
        return False
    if iteration.cancel_requested or iteration.pause_requested:
        settle(iteration)
        return False
    rows = {row.name: row for row in iteration.stages.all()}
    for step in STAGES:
        row = rows[step.name]
        if row.status == StageStatus.WAITING:
            context = context_of(iteration)
            if trains_anew(step, context) and _is_held(iteration, context):
                return False
            return _begin(step, row, context)
        if row.status not in _DONE:
            return _finish_if_done(iteration, step, row)
    return _complete(iteration, rows)


def _is_held(iteration: Iteration, context: IterationContext) -> bool:
    """Whether the audit's gate keeps an iteration from training; its finding then says why."""
    why = prepare_training(iteration, context)
    running = Iteration.objects.filter(pk=iteration.pk, status=RunStatus.RUNNING)
    running.exclude(finding=why).update(finding=why)
    return bool(why)


def settle(iteration: Iteration) -> bool:
    """Pause or cancel an iteration that was asked to, once nothing of it runs."""
    running = Shard.objects.filter(stage__iteration=iteration, status=ShardStatus.RUNNING)
    if running.exists():
        return False
    status: lifecycle.Stopped = (
        RunStatus.CANCELLED if iteration.cancel_requested else RunStatus.PAUSED
    )
    with transaction.atomic():
        won = lifecycle.stop_iteration(iteration, status=status, finding="by a person")
        if won:
            lifecycle.rest_stages(iteration)
    return won


def _begin(step: Step, row: Stage, context: IterationContext) -> bool:
    if not step.scheduled(context):
        return lifecycle.skip_stage(row)
    if lifecycle.begin_stage(row, shards=step.plan_shards(context)):
        row.refresh_from_db()
        send_shards(row)
    return True


def _finish_if_done(iteration: Iteration, step: Step, row: Stage) -> bool:
    # After every shard of every worker: so nothing here loads the rows of a stage that goes on.
    unfinished = lifecycle.unfinished_shards(row)
    hopeless = lifecycle.hopeless_among(unfinished).order_by("index").first()
    if hopeless is not None:
        _give_up(iteration, row, hopeless)
        return False
    if unfinished.exists():
        return False
    context = context_of(iteration)
    context.files.gather({step.name, *(stage for name in step.reads for stage in WRITERS[name])})
    shards = row.shards.filter(index__lt=row.shard_count or 0)
    absent = [shard for shard in shards if not _is_promised(step, context, shard.index)]
    if absent:
        _make_again(row, absent)
        return False
    return lifecycle.finish_stage(row)


def _is_promised(step: Step, context: IterationContext, shard: int) -> bool:
    """Whether a manifest says that the shard was made from what its inputs are now."""
    manifest = context.files.manifest(step.name, shard)
    return manifest is not None and manifest.key == step.key(context, shard)


def _give_up(iteration: Iteration, row: Stage, shard: Shard) -> None:
    latest = Attempt.objects.filter(shard=shard).order_by("-number").first()
    why = latest.error if latest else "no attempt was made"
    with transaction.atomic():
        lifecycle.fail_stage(row)
        lifecycle.stop_iteration(
            iteration,
            status=RunStatus.FAILED,
            finding=f"{why}\n(shard {shard.index} of {row.name}, attempt {shard.attempt_count})",
        )


def _complete(iteration: Iteration, rows: dict[str, Stage]) -> bool:
    """Check every file once more, then finish the iteration and begin the next one."""
    context = context_of(iteration)
    if reopen_damaged(iteration, context, rows):
        return False
    publish_manifest(context)
    context.files.store.sweep(context.files.folder.rpartition("/")[0])
    return _finish(iteration)


def reopen_damaged(iteration: Iteration, context: IterationContext, rows: dict[str, Stage]) -> bool:
    """Let shards run again whose finished files are gone or damaged; False if all are whole."""
    mend_audit(iteration, context)
    context.files.gather()  # so that the threads below read what is known, and remember nothing
    for step in STAGES:
        row = rows[step.name]
        if row.status != StageStatus.FINISHED:
            continue
        shards = list(row.shards.filter(index__lt=row.shard_count or 0))
        check = partial(step.finished_shard, context)
        found = context.files.store.each(check, [shard.index for shard in shards])
        damaged = [shard for shard, whole in zip(shards, found, strict=True) if whole is None]
        if damaged:
            _log.warning("%s: %s shards of %s are made again", iteration, len(damaged), step.name)
            _make_again(row, damaged)
            return True
    return False


def _make_again(row: Stage, shards: list[Shard]) -> None:
    with transaction.atomic():
        for shard in shards:
            lifecycle.reopen(shard)
        lifecycle.reopen_stage(row)
    row.refresh_from_db()
    send_shards(row)


def _finish(iteration: Iteration) -> bool:
    experiment = open_row(iteration.experiment)
    summary = summarize(experiment, iteration)
    number = iteration.number
    with transaction.atomic():  # or a crash in between would forget the goal
        won = lifecycle.finish_iteration(
            iteration,
            model_out=summary["model_out"],
            metrics=summary,
            is_last=number >= experiment.recipe.iterations,
        )
        following = _begin_next(iteration, summary["model_out"]) if won else None
    if following is not None:
        advance(following)
    return False


def _begin_next(iteration: Iteration, model_in: str) -> Iteration | None:
    row = iteration.experiment
    row.refresh_from_db()
    if row.until <= iteration.number:
        return None
    following = record_iteration(row, iteration.number + 1, model_in=model_in)
    lifecycle.rest_stages(following)
    lifecycle.start_iteration(following, model_in=model_in, driver=Driver.WORKERS)
    return following


def iterations_of_workers() -> Iterator[Iteration]:
    """Iterations that the workers shall drive."""
    yield from Iteration.objects.filter(
        status=RunStatus.RUNNING, driver=Driver.WORKERS
    ).select_related("experiment")
