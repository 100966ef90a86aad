"""The audit gate: whether an iteration can train, and on which pairs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from webapp.audit.batch_report import estimate_agreement, is_stale
from webapp.audit.batch_sampling import hash_source_files
from webapp.audit.models import (
    HAND_PICKED,
    Batch,
    BatchStatus,
    Gate,
    GateOverride,
    ItemKind,
    OnGateFailure,
    OverrideOutcome,
    RepeatKind,
)
from webapp.experiments.models import Iteration, StageStatus
from webapp.experiments.statuses import HELD_AT_GATE


@dataclass(frozen=True, slots=True)
class GateDecision:
    """Decision of the gate for an iteration with all its pairs.

    Attributes:
        waits: why the iteration cannot train yet; empty if it can.
        withheld: why its judge pairs are excluded from training; empty if they are included.
        is_new: whether the gate's own rule has just made this decision, so it is not recorded yet.
    """

    waits: str = ""
    withheld: str = ""
    is_new: bool = False


PASSED: Final = GateDecision()
NO_AUDIT: Final = "there is no audit of these battles yet"
_CONFIDENCE_AND: Final = " confidence, and "


def evaluate_gate(iteration: Iteration) -> GateDecision:
    """Decide whether an iteration can train, and on which pairs.

    Without a gate or without judge pairs the iteration trains; an earlier decision for it and its
    battles remains valid. Otherwise the newest complete batch decides: evaluating after every
    answer, and stopping at a favorable moment, would eventually let a random meta-judge pass.
    Batches whose files were regenerated since, and hand-picked batches, do not count.
    """
    if not has_pairs(iteration, "judge"):
        return PASSED
    decided = find_override(iteration)
    if decided is not None:
        return _apply_override(decided)
    gate = Gate.objects.filter(experiment=iteration.experiment_id).first()
    return PASSED if gate is None else _evaluate_audits(iteration, gate)


def _apply_override(decided: GateOverride) -> GateDecision:
    if decided.outcome == OverrideOutcome.ALL:
        return PASSED
    return GateDecision(withheld=f"{decided.reason} (decided by {decided.created_by_name})")


def _evaluate_audits(iteration: Iteration, gate: Gate) -> GateDecision:
    batches = (
        Batch.objects.filter(
            experiment=iteration.experiment_id, iteration=iteration.number, kind=ItemKind.JUDGMENTS
        )
        .exclude(strategy=HAND_PICKED)
        .select_related("experiment")
    )
    counted = [batch for batch in batches if not is_stale(batch)]
    complete = [batch for batch in counted if is_complete(batch)]
    found = _explain_not_passed(complete[0], gate) if complete else _explain_no_audit(counted)
    if not found:
        return PASSED
    asked = (
        f"an audit of iteration {iteration.number} must show agreement "
        f"above {format_percent(gate.min_agreement)}% with "
        f"{format_percent(gate.confidence)}%{_CONFIDENCE_AND}{found}"
    )
    goes_on = complete and gate.on_failure == OnGateFailure.ACTOR_PAIRS
    if goes_on and has_pairs(iteration, "actor"):
        return GateDecision(withheld=asked, is_new=True)
    return GateDecision(waits=f"{HELD_AT_GATE}{asked}")


def explain_hold(iteration: Iteration) -> str:
    """Return why an iteration cannot train yet; empty if it can."""
    return evaluate_gate(iteration).waits


def describe_missing(message: str) -> str:
    """Extract from an iteration's message what is missing, without the terms of the gate."""
    return message.rpartition(_CONFIDENCE_AND)[2].removeprefix(HELD_AT_GATE)


def is_complete(batch: Batch) -> bool:
    """Whether all items are answered, or the batch is closed."""
    waiting = batch.items.filter(repeat_kind=RepeatKind.NO, is_answered=False, adjudicated="")
    return batch.status == BatchStatus.CLOSED or not waiting.exists()


def _explain_no_audit(batches: list[Batch]) -> str:
    if not batches:
        return NO_AUDIT
    return f"audit {batches[0].pk} is neither fully answered nor closed"


def has_pairs(iteration: Iteration, kind: str) -> bool:
    """Whether an iteration trains on a kind of pairs."""
    stage = iteration.stages.filter(name=f"pair_{kind}")
    return stage.exclude(status=StageStatus.SKIPPED).exists()


def has_battles(iteration: Iteration) -> bool:
    """Whether the battles are finished and paired, so that they can be audited."""
    paired = iteration.stages.filter(name="pair_judge", status=StageStatus.FINISHED)
    return paired.exists()


def find_override(iteration: Iteration) -> GateOverride | None:
    """Find the override for an iteration and its current battles."""
    decided = list_overrides(iteration)
    if not decided:
        return None  # as in most iterations; saves reading files
    now = hash_battles(iteration)
    return next((one for one in decided if one.source_sha256 in (now, "")), None)


def list_overrides(iteration: Iteration) -> list[GateOverride]:
    """List all overrides of an iteration, those for earlier battles included, newest first."""
    experiment = iteration.experiment_id
    return list(GateOverride.objects.filter(experiment=experiment, iteration=iteration.number))


def hash_battles(iteration: Iteration) -> str:
    """Hash the current battles of an iteration."""
    return hash_source_files(iteration.experiment, iteration.number, ItemKind.JUDGMENTS)


def describe_batch(batch: Batch) -> str:
    """Describe whether a batch passes the gate of its experiment; empty without a gate.

    Batches that do not count for the gate have no description.
    """
    gate = Gate.objects.filter(experiment=batch.experiment_id).first()
    is_counted = batch.kind == ItemKind.JUDGMENTS and batch.strategy != HAND_PICKED
    if gate is None or not is_counted or is_stale(batch):
        return ""
    if not is_complete(batch):
        return "not decided: the batch is neither fully answered nor closed."
    found = _explain_not_passed(batch, gate)
    return f"not passed: {found}." if found else "passed."


def _explain_not_passed(batch: Batch, gate: Gate) -> str:
    """Return why a batch does not pass the gate; empty if it does."""
    found = estimate_agreement(batch, confidence=gate.confidence)
    if found.count < gate.min_answers:
        return f"audit {batch.pk} has {found.count} of the {gate.min_answers} required answers"
    if found.value is None or found.low is None or found.low <= gate.min_agreement:
        shown = "nothing" if found.value is None else f"{found.value:.0%}"
        low = "" if found.low is None else f" (at least {found.low:.0%})"
        return f"audit {batch.pk} shows {shown}{low}{_explain_adjudication(batch, gate)}"
    return ""


def _explain_adjudication(batch: Batch, gate: Gate) -> str:
    """Describe the agreement before adjudication if items were adjudicated."""
    decided = batch.items.exclude(adjudicated="").count()
    if not decided:
        return ""
    found = estimate_agreement(batch, confidence=gate.confidence, adjudicated=False)
    before = "nothing" if found.value is None else f"{found.value:.0%}"
    items = "1 item was" if decided == 1 else f"{decided} items were"
    return f", {before} before {items} adjudicated"


Terms = Mapping[str, Any]
_TERMS: Final = ("min_agreement", "confidence", "min_answers", "on_failure")

_EARLIER_TERMS: Final = {
    "least": "min_agreement",
    "answers": "min_answers",
    "otherwise": "on_failure",
}
"""Earlier names of the terms of a gate; log entries written under them are never rewritten."""


def format_percent(share: float) -> str:
    """Write a term of a gate in percent, such as 57.5, without rounding it."""
    return f"{100 * share:.10g}"


def get_gate_terms(gate: Gate) -> Terms:
    """Return the terms of a gate as plain values."""
    return {name: getattr(gate, name) for name in _TERMS}


def read_terms(stored: Terms) -> Terms:
    """Read the terms of a gate from a log entry, which can use earlier names."""
    return {_EARLIER_TERMS.get(name, name): value for name, value in stored.items()}


def is_looser(before: Terms, after: Terms) -> bool:
    """Whether a gate requires less than before in any of its terms."""
    less = any(
        after[name] < before[name] for name in ("min_agreement", "confidence", "min_answers")
    )
    goes_on = (before["on_failure"], after["on_failure"]) == (
        OnGateFailure.WAIT,
        OnGateFailure.ACTOR_PAIRS,
    )
    return less or goes_on
