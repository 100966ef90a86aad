"""Fair scheduling of experiments on shared workers.

A message is a ticket for one shard of its queue; the shard is chosen when a worker takes the
message. If only one experiment is waiting, it is the shard in the message. Otherwise a worker stays
with its experiment for one turn, because every switch loads another model, and then moves to the
experiment with the fewest workers, or of several the one served longest ago.
"""

import time
from collections.abc import Iterator

from django.conf import settings
from django.db.models import Count, Exists, F, Max, OuterRef

from webapp.experiments.models import Attempt, Shard, ShardStatus
from workers.pipeline import shard_claims
from workers.pipeline.dispatch import get_queue, list_stages

# the experiment of this process, and the start of its turn
_served: tuple[int, float] | None = None


def claim_next_shard(named: Shard) -> tuple[Shard, Attempt] | None:
    """Claim the next shard in turn, given a message about one of the same queue.

    Returns:
        The shard and the attempt that now holds it; None if nothing waits any more.
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
    """Yield waiting shards, those of the experiment in turn first, the named one before."""
    stages = list_stages(get_queue(named.stage.name))
    waiting = shard_claims.get_waiting_shards(stages)
    for experiment in _sort_experiments(_list_waiting_experiments(stages)):
        if experiment == named.stage.iteration.experiment_id:
            yield named
        theirs = waiting.filter(stage__iteration__experiment=experiment)
        yield from theirs.select_related("stage__iteration__experiment").order_by("?")[:8]


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
