"""Actions on gates and batches, each with an entry in the audit log."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from django.contrib.auth.models import User
from django.db import transaction

from meta_reward_core.errors import InputError
from webapp.audit.annotation_queue import list_unblinded_auditors, reassign_repeats
from webapp.audit.models import AuditAction, AuditLogEntry, Batch, BatchStatus, Gate, OnGateFailure
from webapp.experiments.models import Experiment

MIN_REASON_CHARS: Final = 5
"""Characters of a reason."""

Terms = Mapping[str, Any]
_TERMS: Final = ("min_agreement", "confidence", "min_answers", "on_failure")

_EARLIER_TERMS: Final = {
    "least": "min_agreement",
    "answers": "min_answers",
    "otherwise": "on_failure",
}
"""Earlier names of the terms of a gate; log entries written under them are never rewritten."""


def get_gate_terms(gate: Gate) -> Terms:
    """What a gate asks for, as plain values."""
    return {name: getattr(gate, name) for name in _TERMS}


def read_terms(stored: Terms) -> Terms:
    """Read the terms of a gate from a log entry, which may hold their earlier names."""
    return {_EARLIER_TERMS.get(name, name): value for name, value in stored.items()}


def is_looser(before: Terms, after: Terms) -> bool:
    """Whether a gate asks for less than it did, in any of its terms."""
    less = any(
        after[name] < before[name] for name in ("min_agreement", "confidence", "min_answers")
    )
    goes_on = (before["on_failure"], after["on_failure"]) == (
        OnGateFailure.WAIT,
        OnGateFailure.ACTOR_PAIRS,
    )
    return less or goes_on


def write_gate(gate: Gate, *, before: Terms | None, by: User | None, reason: str = "") -> None:
    """Save a gate.

    Args:
        before: its terms until now; None of a new one.
        by: None where the recipe asks for it.

    Raises:
        InputError: it asks for less than before, and there is no reason.
    """
    after = get_gate_terms(gate)
    if after == before:
        return
    action = AuditAction.GATE_SET if before is None else AuditAction.GATE_CHANGED
    if before is not None and is_looser(before, after):
        action = AuditAction.GATE_LOOSENED
        _require_reason(reason)
    with transaction.atomic():
        gate.save()
        _log_action(action, gate.experiment, by=by, before=before or {}, after=after, reason=reason)


def remove_gate(experiment: Experiment, *, by: User, reason: str) -> None:
    """Ask for no audit any longer; where nothing was asked for, nothing happens.

    Raises:
        InputError: there is no reason.
    """
    _require_reason(reason)
    with transaction.atomic():
        gate = Gate.objects.select_for_update().filter(experiment=experiment).first()
        if gate is None:
            return
        before = get_gate_terms(gate)
        gate.delete()
        _log_action(AuditAction.GATE_REMOVED, experiment, by=by, before=before, reason=reason)


def _require_reason(reason: str) -> None:
    if len(reason.strip()) < MIN_REASON_CHARS:
        raise InputError(
            f"Give a reason (at least {MIN_REASON_CHARS} characters) for loosening or removing the "
            "gate. It will be shown in the gate history."
        )


def set_status(batch: Batch, status: str, *, by: User) -> bool:
    """Close a batch, or open it again; False if it was so already."""
    with transaction.atomic():
        others = Batch.objects.filter(pk=batch.pk).exclude(status=status)
        if others.update(status=status) != 1:
            return False
        before = BatchStatus.OPEN if status == BatchStatus.CLOSED else BatchStatus.CLOSED
        action = AuditAction.CLOSED if status == BatchStatus.CLOSED else AuditAction.REOPENED
        _log_action(
            action,
            batch.experiment,
            by=by,
            batch=batch,
            before={"status": before},
            after={"status": status},
        )
    return True


def set_auditors(batch: Batch, wanted: Iterable[User], *, by: User | None) -> None:
    """Say who answers a batch; answers that were given stay."""
    with transaction.atomic():
        before = list_auditor_names(batch)
        batch.auditors.set(wanted)
        after = list_auditor_names(batch)
        if before != after:
            _log_action(
                AuditAction.ASSIGNED,
                batch.experiment,
                by=by,
                batch=batch,
                before={"auditors": before},
                after={"auditors": after},
            )


def list_auditor_names(batch: Batch) -> list[str]:
    """Who answers a batch, by name."""
    return list(batch.auditors.order_by("username").values_list("username", flat=True))


def assign_auditors(batch: Batch, wanted: Iterable[User], *, by: User) -> list[str]:
    """Say who answers a batch from now on, and return what whoever says so should know."""
    set_auditors(batch, wanted, by=by)
    passed_on = reassign_repeats(batch)
    notes = [format_unblinded_warning(batch.auditors.all())]
    if passed_on:
        what = "1 repeat" if passed_on == 1 else f"{passed_on} repeats"
        notes.append(
            f"Batch {batch.pk}: {what} that only somebody who answers no longer could have "
            "answered may be answered by the others now."
        )
    return [said for said in notes if said]


def format_unblinded_warning(people: Iterable[User]) -> str:
    """Say who of those who answer blind could look up what the meta-judge said; else empty."""
    names = list_unblinded_auditors(people)
    if not names:
        return ""
    return (
        f"Of those who answer, {', '.join(names)} may also see experiments, and with them what the "
        "meta-judge said: such answers are blind only by promise. Give auditors an account that "
        "has the role auditor and no other one."
    )


def _log_action(
    action: AuditAction,
    experiment: Experiment | None,
    *,
    by: User | None,
    batch: Batch | None = None,
    before: Terms | None = None,
    after: Terms | None = None,
    reason: str = "",
) -> None:
    if batch is not None:
        experiment_name, nobody = batch.experiment_name, AuditLogEntry.BY_A_COMMAND
    else:
        experiment_name, nobody = experiment.name if experiment else "", AuditLogEntry.BY_THE_RECIPE
    AuditLogEntry.objects.create(
        experiment=experiment,
        experiment_name=experiment_name,
        batch=batch,
        action=action,
        before=dict(before or {}),
        after=dict(after or {}),
        reason=reason.strip(),
        created_by=by,
        created_by_name=by.get_username() if by is not None else nobody,
    )
