"""What an iteration's page says about audits: decisions at the gate, and people's pairs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meta_reward_core.reporting.summary import describe_audit
from webapp.audit.gate import WAITS, find_override, list_overrides
from webapp.audit.models import GateOverride
from webapp.experiments.models import Iteration, RunStatus


@dataclass(frozen=True, slots=True)
class TrainingNotes:
    """What an audit changed about a training, by decision and in the finished summary.

    Attributes:
        is_held: whether the iteration waits at the gate.
    """

    is_held: bool
    decision: GateOverride | None
    sentences: tuple[str, ...]


def make_training_notes(iteration: Iteration) -> TrainingNotes | None:
    """Say what an audit changed about an iteration's training; None where nothing."""
    decision = _find_decision(iteration)
    found: Mapping[str, Any] | None = iteration.metrics.get("audit")
    sentences = tuple(describe_audit(found))
    is_held = iteration.message.startswith(WAITS)
    if not (is_held or decision or sentences):
        return None
    return TrainingNotes(is_held, decision, sentences)


def _find_decision(iteration: Iteration) -> GateOverride | None:
    """What was decided; once it has trained, files that went since change nothing about that."""
    if iteration.status != RunStatus.FINISHED:
        return find_override(iteration)
    return next(iter(list_overrides(iteration)), None)
