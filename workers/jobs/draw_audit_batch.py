"""Draw an audit that somebody asked for on a page."""

from typing import Any

from django.db import transaction

from meta_reward_core.errors import InputError
from webapp.audit.batch_creation import sample_batch, save_batch
from webapp.audit.batch_requests import read_auditors, read_plan
from webapp.experiments.models import JobStatus, Order


def create_audit_batch(order: Order) -> dict[str, Any]:
    """Carry out an order to draw an audit; a second time finds the first one's batch.

    Raises:
        InputError: the experiment is gone, or the batch cannot be drawn.
        ArtifactError: files are gone or damaged.
    """
    if order.experiment is None:
        raise InputError(f"experiment {order.subject!r} is gone")
    drawn = sample_batch(
        order.experiment,
        int(order.wish["iteration"]),
        read_plan(order.wish),
        say=lambda doing: _save_progress(order, doing),
    )
    with transaction.atomic():
        row = Order.objects.select_for_update().get(pk=order.pk)
        if "batch" not in row.outcome:
            batch = save_batch(drawn, by=order.by, auditors=read_auditors(order.wish))
            row.outcome = {"batch": batch.pk}
            row.save(update_fields=["outcome"])
    outcome: dict[str, Any] = row.outcome
    return outcome


def _save_progress(order: Order, doing: str) -> None:
    running = Order.objects.filter(pk=order.pk, status=JobStatus.RUNNING)
    running.exclude(outcome__has_key="batch").update(outcome={"doing": doing})
