"""Whether an iteration may train on its judge pairs: its battles must have passed an audit."""

from webapp.audit.models import Again, Batch, BatchStatus, Gate, Kind, Override
from webapp.audit.reporting import is_stale, passing_estimate
from webapp.experiments.models import Experiment, Iteration, StageStatus


def why_held(iteration: Iteration) -> str:
    """Say why an iteration must not train yet; empty if it may.

    Without a gate, with an override, and without judge pairs nothing holds it. The newest batch
    that is complete decides: to look again after every answer, and stop at a good moment, would
    let a coin pass sooner or later. Batches of files that were made again since do not count.
    """
    gate = Gate.objects.filter(experiment=iteration.experiment_id).first()
    if gate is None or is_overridden(iteration) or not has_judge_pairs(iteration):
        return ""
    batches = Batch.objects.filter(
        experiment=iteration.experiment_id, iteration=iteration.number, kind=Kind.JUDGMENTS
    ).select_related("experiment")
    counted = [batch for batch in batches if not is_stale(batch)]
    complete = [batch for batch in counted if _is_complete(batch)]
    found = _why_not(complete[0], gate) if complete else _why_none(counted)
    if not found:
        return ""
    return (
        f"waits before training: an audit of iteration {iteration.number} must show agreement "
        f"above {gate.least:.0%} with {gate.confidence:.0%} confidence, and {found}"
    )


def _is_complete(batch: Batch) -> bool:
    """Whether all its items are answered, or somebody has closed it."""
    waiting = batch.items.filter(again=Again.NO, is_answered=False, adjudicated="")
    return batch.status == BatchStatus.CLOSED or not waiting.exists()


def _why_none(batches: list[Batch]) -> str:
    if not batches:
        return "there is no audit of these battles yet"
    return f"audit {batches[0].pk} is neither answered whole nor closed"


def has_judge_pairs(iteration: Iteration) -> bool:
    """Whether an iteration trains on judge pairs at all."""
    return iteration.stages.filter(name="pair_judge").exclude(status=StageStatus.SKIPPED).exists()


def is_overridden(iteration: Iteration) -> bool:
    """Whether somebody let it train all the same."""
    return Override.objects.filter(
        experiment=iteration.experiment_id, iteration=iteration.number
    ).exists()


def _why_not(batch: Batch, gate: Gate) -> str:
    """Why a batch does not open a gate; empty if it does."""
    found = passing_estimate(batch, confidence=gate.confidence)
    if found.count < gate.answers:
        return f"audit {batch.pk} has {found.count} of {gate.answers} answers that count"
    if found.value is None or found.low is None or found.low <= gate.least:
        shown = "nothing" if found.value is None else f"{found.value:.0%}"
        low = "" if found.low is None else f" (at least {found.low:.0%})"
        return f"audit {batch.pk} shows {shown}{low}"
    return ""


def has_gate(experiment: Experiment) -> bool:
    """Whether an experiment asks for audits."""
    return Gate.objects.filter(experiment=experiment.pk).exists()
