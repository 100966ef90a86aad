"""Whether an iteration may train, and on which pairs: its battles must have passed an audit."""

from dataclasses import dataclass
from typing import Final

from webapp.audit.acts import write_gate
from webapp.audit.making import source_digest
from webapp.audit.models import Again, Batch, BatchStatus, Gate, Kind, Otherwise, Outcome, Override
from webapp.audit.reporting import is_stale, passing_estimate
from webapp.experiments.models import Experiment, Iteration, StageStatus


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the gate says of an iteration that has all its pairs.

    Attributes:
        waits: why it must not train yet; empty if it may.
        withheld: why its judge pairs stay out of the training; empty if they train.
        is_new: whether that was decided here, by the gate's own rule, and is recorded nowhere.
    """

    waits: str = ""
    withheld: str = ""
    is_new: bool = False


PASSED: Final = Ruling()
WAITS: Final = "waits before training: "


def rule(iteration: Iteration) -> Ruling:
    """Say whether an iteration may train, and on what.

    Without a gate and without judge pairs nothing holds it; what was decided for it and its
    battles stands. The newest batch that is complete decides: to look again after every answer,
    and stop at a good moment, would let a coin pass sooner or later. Batches of files that were
    made again since do not count.
    """
    if not has_pairs(iteration, "judge"):
        return PASSED
    decided = find_decision(iteration)
    if decided is not None:
        return _as_decided(decided)
    gate = Gate.objects.filter(experiment=iteration.experiment_id).first()
    return PASSED if gate is None else _by_audits(iteration, gate)


def _as_decided(decided: Override) -> Ruling:
    if decided.outcome == Outcome.ALL:
        return PASSED
    return Ruling(withheld=f"{decided.reason} (decided by {decided.by_name})")


def _by_audits(iteration: Iteration, gate: Gate) -> Ruling:
    batches = Batch.objects.filter(
        experiment=iteration.experiment_id, iteration=iteration.number, kind=Kind.JUDGMENTS
    ).select_related("experiment")
    counted = [batch for batch in batches if not is_stale(batch)]
    complete = [batch for batch in counted if is_complete(batch)]
    found = _why_not(complete[0], gate) if complete else _why_none(counted)
    if not found:
        return PASSED
    asked = (
        f"an audit of iteration {iteration.number} must show agreement "
        f"above {gate.least:.0%} with {gate.confidence:.0%} confidence, and {found}"
    )
    goes_on = complete and gate.otherwise == Otherwise.ACTOR_PAIRS
    if goes_on and has_pairs(iteration, "actor"):
        return Ruling(withheld=asked, is_new=True)
    return Ruling(waits=f"{WAITS}{asked}")


def why_held(iteration: Iteration) -> str:
    """Say why an iteration must not train yet; empty if it may."""
    return rule(iteration).waits


def is_complete(batch: Batch) -> bool:
    """Whether all its items are answered, or somebody has closed it."""
    waiting = batch.items.filter(again=Again.NO, is_answered=False, adjudicated="")
    return batch.status == BatchStatus.CLOSED or not waiting.exists()


def _why_none(batches: list[Batch]) -> str:
    if not batches:
        return "there is no audit of these battles yet"
    return f"audit {batches[0].pk} is neither answered whole nor closed"


def has_pairs(iteration: Iteration, kind: str) -> bool:
    """Whether an iteration trains on a kind of pairs at all."""
    stage = iteration.stages.filter(name=f"pair_{kind}")
    return stage.exclude(status=StageStatus.SKIPPED).exists()


def has_battles(iteration: Iteration) -> bool:
    """Whether its battles are fought and paired, so that somebody can decide about them."""
    paired = iteration.stages.filter(name="pair_judge", status=StageStatus.FINISHED)
    return paired.exists()


def find_decision(iteration: Iteration) -> Override | None:
    """What was decided without a passed audit for an iteration and the battles that it has now."""
    decided = decisions_of(iteration)
    if not decided:
        return None  # most iterations: their files need not be looked at
    now = battles_of(iteration)
    return next((one for one in decided if one.source_sha256 in (now, "")), None)


def decisions_of(iteration: Iteration) -> list[Override]:
    """What was ever decided for an iteration, for other battles too, newest first."""
    experiment = iteration.experiment_id
    return list(Override.objects.filter(experiment=experiment, iteration=iteration.number))


def battles_of(iteration: Iteration) -> str:
    """Hash of the battles that an iteration has now."""
    return source_digest(iteration.experiment, iteration.number, Kind.JUDGMENTS)


def decide(iteration: Iteration) -> Ruling:
    """Say the same as `rule`, and write down what the gate decides by its own rule."""
    ruling = rule(iteration)
    if not ruling.is_new:
        return ruling
    Override.objects.get_or_create(
        experiment=iteration.experiment,
        iteration=iteration.number,
        source_sha256=battles_of(iteration),
        defaults={
            "subject": iteration.experiment.name,
            "outcome": Outcome.ACTOR_PAIRS,
            "reason": ruling.withheld,
            "by_name": Override.BY_THE_GATE,
        },
    )
    return rule(iteration)


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


def open_gate_of_recipe(experiment: Experiment) -> None:
    """Ask for audits if an experiment's recipe does; for when its row is made."""
    asked = experiment.recipe.get("audit") or {}
    if asked.get("required") and not Gate.objects.filter(experiment=experiment).exists():
        gate = Gate(
            experiment=experiment,
            least=asked["least_agreement"],
            confidence=asked["confidence"],
            answers=asked["answers"],
            otherwise=asked["otherwise"],
        )
        write_gate(gate, before=None, by=None)
