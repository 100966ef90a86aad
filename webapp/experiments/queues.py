"""What waits: messages at the broker, shards, and what people asked for."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from django.db.models import Count, Q

from webapp.experiments.controls import PENDING
from webapp.experiments.log import visible_orders
from webapp.experiments.models import Driver, OrderKind, RunStatus, Shard, ShardStatus
from webapp.health import queue_lengths
from webapp.people.access import Person, visible_experiments

_KEPT_SECONDS: Final = 3
"""Pages of many people ask at once, and a broker that is away lets each of them wait."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits of one experiment.

    Attributes:
        name: of the experiment, which a launch only makes.
        is_there: whether it has been made.
        shards: that wait for a worker, of iterations that the workers run.
        running: shards that are worked on.
        tries: questions to its models that wait or are being answered.
        orders: other things that were asked for and are not done.
    """

    name: str
    is_there: bool
    shards: int
    running: int
    tries: int
    orders: int


def message_counts() -> dict[str, int] | None:
    """Messages in each queue, of a moment ago; None if the broker does not answer."""
    return _message_counts(int(time.monotonic() / _KEPT_SECONDS))


@lru_cache(maxsize=1)
def _message_counts(moment: int) -> dict[str, int] | None:  # noqa: ARG001 part of the key
    return queue_lengths()


def find_waiting(person: Person) -> list[Waiting]:
    """What waits of the experiments that a person may see, by name."""
    shards = _count_shards(person)
    orders = _count_orders(person)
    names = sorted(shards.keys() | {name for name, _ in orders})
    there = set(visible_experiments(person).filter(name__in=names).values_list("name", flat=True))
    return [
        Waiting(
            name, name in there, *shards.get(name, (0, 0)), orders[name, True], orders[name, False]
        )
        for name in names
    ]


def _count_shards(person: Person) -> Mapping[str, tuple[int, int]]:
    """Waiting and running shards by experiment, where there are any."""
    open_shards = Shard.objects.filter(
        status__in=(ShardStatus.WAITING, ShardStatus.RUNNING),
        stage__iteration__status=RunStatus.RUNNING,
        stage__iteration__driver=Driver.WORKERS,
        stage__iteration__experiment__in=visible_experiments(person),
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


def _count_orders(person: Person) -> Counter[tuple[str, bool]]:
    """Orders that are not done, by experiment and by whether they try its models."""
    pending = visible_orders(person).filter(status__in=PENDING).order_by()
    counted: Counter[tuple[str, bool]] = Counter()
    for subject, kind in pending.values_list("subject", "kind"):
        counted[subject, kind == OrderKind.CHAT] += 1
    return counted
