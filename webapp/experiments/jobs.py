"""Write down what a person asks for; `workers.jobs.runner` carries it out."""

import logging
from functools import partial
from typing import Any, Final

from celery import current_app
from django.contrib.auth.models import User
from django.db import transaction
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from webapp.experiments.models import Experiment, JobKind, Order

NEEDS_ENGINE: Final = frozenset({JobKind.CHAT})
"""Kinds that a GPU worker carries out, behind the work that waits there already."""

_log = logging.getLogger(__name__)


def enqueue_job(
    kind: JobKind,
    *,
    by: User | None,
    experiment: Experiment | None = None,
    subject: str = "",
    wish: dict[str, Any] | None = None,
    follows: Order | None = None,
) -> Order:
    """Ask for something, once what is written is committed.

    Args:
        subject: name of the experiment that a launch shall make.
        wish: plain values, as the kind needs them.
        follows: the turn of a conversation that this is said after.
    """
    order = Order.objects.create(
        kind=kind,
        by=by,
        experiment=experiment,
        subject=subject or str(experiment),
        wish=wish or {},
        follows=follows,
    )
    if kind in NEEDS_ENGINE:
        transaction.on_commit(partial(send_job, order))
    return order


def send_job(order: Order) -> None:
    """Tell a GPU worker about an order; what the broker does not take is sent again later."""
    try:
        current_app.send_task("workers.carry_out", args=[order.pk], queue="gpu")
    except (KombuError, RedisError, OSError) as error:
        _log.warning("the broker did not take %s, it will be sent later: %s", order, error)
