"""Pending work: messages at the broker, shards, and jobs."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from django.db.models import Count, Q

from webapp.accounts.permissions import AnyUser, get_visible_experiments, get_visible_jobs
from webapp.experiments.jobs import PENDING
from webapp.experiments.models import Driver, JobKind, RunStatus, Shard, ShardStatus
from webapp.health import read_queue_lengths

_CACHE_SECONDS: Final = 3
"""Cache duration, because many pages need the counts and each would wait for an unavailable broker.
"""


@dataclass(frozen=True, slots=True)
class WaitingWork:
    """Pending work of one experiment.

    Attributes:
        name: name of the experiment, which may not have been created yet.
        is_there: whether the experiment exists.
        shards: pending shards of iterations that the workers run.
        running: running shards.
        chats: pending playground turns.
        jobs: other pending jobs.
    """

    name: str
    is_there: bool
    shards: int
    running: int
    chats: int
    jobs: int


def count_messages() -> dict[str, int] | None:
    """Count the messages in each queue, cached briefly; None if the broker does not respond."""
    return _count_messages_at(int(time.monotonic() / _CACHE_SECONDS))


@lru_cache(maxsize=1)
def _count_messages_at(moment: int) -> dict[str, int] | None:  # noqa: ARG001 part of the key
    return read_queue_lengths()


def list_waiting_work(person: AnyUser) -> list[WaitingWork]:
    """List the pending work of the visible experiments, by name."""
    shards = _count_shards(person)
    jobs = _count_jobs(person)
    names = sorted(shards.keys() | {name for name, _ in jobs})
    there = set(
        get_visible_experiments(person).filter(name__in=names).values_list("name", flat=True)
    )
    return [
        WaitingWork(
            name, name in there, *shards.get(name, (0, 0)), jobs[name, True], jobs[name, False]
        )
        for name in names
    ]


def _count_shards(person: AnyUser) -> Mapping[str, tuple[int, int]]:
    """Count pending and running shards by experiment."""
    open_shards = Shard.objects.filter(
        status__in=(ShardStatus.WAITING, ShardStatus.RUNNING),
        stage__iteration__status=RunStatus.RUNNING,
        stage__iteration__driver=Driver.WORKERS,
        stage__iteration__experiment__in=get_visible_experiments(person),
    )
    counted = (
        open_shards.order_by()
        .values("stage__iteration__experiment__name")
        .annotate(
            waiting=Count("pk", filter=Q(status=ShardStatus.WAITING)),
            running=Count("pk", filter=Q(status=ShardStatus.RUNNING)),
        )
    )
    return {
        row["stage__iteration__experiment__name"]: (row["waiting"], row["running"])
        for row in counted
    }


def _count_jobs(person: AnyUser) -> Counter[tuple[str, bool]]:
    """Count pending jobs by experiment, and by whether they are playground turns."""
    pending = get_visible_jobs(person).filter(status__in=PENDING).order_by()
    counted: Counter[tuple[str, bool]] = Counter()
    for name, kind in pending.values_list("experiment_name", "kind"):
        counted[name, kind == JobKind.CHAT] += 1
    return counted
