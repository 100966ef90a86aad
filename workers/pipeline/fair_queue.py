"""Fair scheduling of experiments on shared workers.

A message is a ticket for one shard of its queue; the shard is chosen when a worker takes the
message. If only one experiment is waiting, it is the shard in the message. Otherwise a worker stays
with its experiment for one turn, because every switch loads another model, and then moves to the
experiment with the fewest workers; among several, to the one that has waited longest.

Within an experiment, some engines work ahead if that ends the generating stages sooner
(`shard_schedule.choose_engines_ahead`): they claim shards of the latest stage that has any, and
all other engines claim shards of the earliest stage.
"""

import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from django.conf import settings
from django.db.models import Count, Exists, F, Max, OuterRef

from meta_reward_core.planning.shard_schedule import MAX_SHARDS_AHEAD, select_stage
from meta_reward_core.planning.shard_size import choose_engines_ahead_for
from meta_reward_core.recipes.loader import parse_stored_recipe
from webapp.experiments.models import Attempt, Iteration, Shard, ShardStatus, Stage
from webapp.experiments.throughput import count_engines, count_worker_processes, find_throughput
from workers.pipeline import shard_claims
from workers.pipeline.dispatch import get_queue, list_stages

_TRIES: Final = 8
# the experiment of this process, and the start of its turn
_served: tuple[int, float] | None = None


def claim_next_shard(named: Shard) -> tuple[Shard, Attempt] | None:
    """Claim the next shard in turn, given a message about a shard of the same queue.

    Returns:
        The shard and the attempt that now holds it; None if no shard is waiting.
    """
    for shard in _iter_in_turn(named):
        attempt = shard_claims.claim_shard_for(shard, seconds=settings.META_REWARD_LEASE_SECONDS)
        if attempt is not None:
            _mark_served(shard.stage.iteration.experiment_id)
            return shard, attempt
    return None


def _mark_served(experiment: int) -> None:
    global _served
    if _served is None or _served[0] != experiment:
        _served = experiment, time.monotonic()


def _iter_in_turn(named: Shard) -> Iterator[Shard]:
    """Yield waiting shards, experiment by experiment in turn; `named` has priority in its own."""
    stages = list_stages(get_queue(named.stage.name))
    waiting = shard_claims.get_waiting_shards(stages).select_related("stage__iteration__experiment")
    for experiment in _sort_experiments(_list_waiting_experiments(stages)):
        if (following := _find_next_stage(experiment, stages)) is not None:
            yield from waiting.filter(stage=following).order_by("index")[:_TRIES]
        if experiment == named.stage.iteration.experiment_id:
            yield named
        theirs = waiting.filter(stage__iteration__experiment=experiment)
        yield from theirs.order_by("?")[:_TRIES]


def _find_next_stage(experiment: int, stages: list[str]) -> Stage | None:
    """Find the stage from which this engine takes a shard, if some engines work ahead.

    Returns:
        None if message order is equally good, as with one engine or with many shards.
    """
    opened = (
        shard_claims.get_running_stages()
        .filter(iteration__experiment=experiment, name__in=stages)
        .select_related("iteration__experiment")
    )
    rows = sorted(opened, key=lambda row: stages.index(row.name))
    if len(rows) < 2 or any((row.shard_count or 0) > MAX_SHARDS_AHEAD for row in rows):
        return None
    ahead = _choose_engines_ahead(rows[0].iteration)
    waiting = [row for row in rows if _has_waiting_shard(row)] if ahead else []
    if not waiting:
        return None
    running = [_count_running_from(row, stages) for row in waiting]
    return select_stage(waiting, running, engines_ahead=ahead)


def _count_running_from(row: Stage, stages: list[str]) -> int:
    """Count the running shards of a stage and of later ones."""
    later = stages[stages.index(row.name) :]
    running = Shard.objects.filter(stage__iteration=row.iteration_id, stage__name__in=later)
    return running.filter(status=ShardStatus.RUNNING).count()


def _has_waiting_shard(stage: Stage) -> bool:
    return shard_claims.get_waiting_shards([stage.name]).filter(stage=stage).exists()


def _choose_engines_ahead(iteration: Iteration) -> int:
    finished = Shard.objects.filter(stage__iteration=iteration, status=ShardStatus.FINISHED)
    measured = finished.values_list("stage__name", flat=True).distinct().order_by("stage__name")
    return _compute_engines_ahead(iteration.pk, tuple(measured), count_worker_processes())


@lru_cache(maxsize=64)
def _compute_engines_ahead(pk: int, measured: tuple[str, ...], processes: int) -> int:  # noqa: ARG001
    """Compute how many engines work ahead; recomputed when another stage has been measured."""
    iteration = Iteration.objects.select_related("experiment").get(pk=pk)
    row = iteration.experiment
    recipe = parse_stored_recipe(row.recipe, origin=row.name)
    return choose_engines_ahead_for(
        recipe,
        iteration.number,
        engines=count_engines(processes, recipe),
        measured=find_throughput(row.name, recipe),
    )


def _list_waiting_experiments(stages: list[str]) -> set[int]:
    """List experiments with a waiting shard, with a bounded query.

    Shards whose inputs are not finished were never sent, so most are skipped immediately.
    """
    waiting = shard_claims.get_claimable_shards().filter(
        stage=OuterRef("pk"), index__lt=OuterRef("shard_count"), sent__isnull=False
    )
    found = shard_claims.get_running_stages().filter(Exists(waiting), name__in=stages)
    return set(found.values_list("iteration__experiment", flat=True))


def _sort_experiments(experiments: set[int]) -> list[int]:
    if len(experiments) < 2:
        return list(experiments)
    mine = _served is not None and time.monotonic() - _served[1] < settings.META_REWARD_TURN_SECONDS
    stays = _served[0] if _served is not None and mine else None
    workers, served = _count_workers(experiments), _get_last_attempts(experiments)
    return sorted(
        experiments,
        key=lambda pk: (pk != stays, workers.get(pk, 0), served.get(pk, 0), pk),
    )


def _count_workers(experiments: set[int]) -> dict[int, int]:
    rows = (
        Shard.objects.filter(
            status=ShardStatus.RUNNING, stage__iteration__experiment__in=experiments
        )
        .values(experiment=F("stage__iteration__experiment"))
        .annotate(running=Count("pk"))
    )
    return {row["experiment"]: row["running"] for row in rows}


def _get_last_attempts(experiments: set[int]) -> dict[int, int]:
    """Return the latest attempt by experiment: its number increases with time."""
    rows = (
        Attempt.objects.filter(shard__stage__iteration__experiment__in=experiments)
        .values(experiment=F("shard__stage__iteration__experiment"))
        .annotate(latest=Max("pk"))
    )
    return {row["experiment"]: row["latest"] for row in rows}
