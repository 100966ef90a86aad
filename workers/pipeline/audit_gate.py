"""Effects of audits on training: the gate's decision, and human judge pairs."""

from typing import Any

from django.db import transaction

from meta_reward_core.context import IterationContext
from meta_reward_core.errors import AuditWaitsError
from meta_reward_core.training.dataset import WithheldPairs, has_audit, has_whole_audit, write_audit
from webapp.audit.gate import GateDecision
from webapp.audit.human_preference_pairs import build_human_pairs
from webapp.audit.services import record_gate_decision
from webapp.experiments.models import Iteration


def prepare_training(iteration: Iteration, context: IterationContext) -> str:
    """Write the effects of audits on an iteration's training, if it may train.

    Returns:
        Why the iteration must wait; empty if it may train.
    """
    with transaction.atomic():  # several processes may run this concurrently and write files
        Iteration.objects.select_for_update().get(pk=iteration.pk)
        ruling = record_gate_decision(iteration)
        if not ruling.waits:
            _write_decision(iteration, context, ruling)
    return ruling.waits


def require_audit_passed(iteration: Iteration, context: IterationContext) -> None:
    """Write the effects like `prepare_training`, for a run in this process, which cannot wait.

    Raises:
        AuditWaitsError: the iteration must wait for an audit.
    """
    why = prepare_training(iteration, context)
    if why:
        raise AuditWaitsError(
            f"{why}. All pairs are kept: rerun the command once the audit has passed, or "
            f"decide on the audits page of the experiment"
        )


def repair_audit_files(iteration: Iteration, context: IterationContext) -> None:
    """Rewrite a damaged audit file of an iteration from the database."""
    if has_audit(context.files) and not has_whole_audit(context.files):
        prepare_training(iteration, context)


def _write_decision(iteration: Iteration, context: IterationContext, ruling: GateDecision) -> None:
    withheld = [WithheldPairs("judge", ruling.withheld)] if ruling.withheld else []
    write_audit(context.files, withheld=withheld, human_pairs=_load_human_pairs(iteration, context))


def _load_human_pairs(
    iteration: Iteration, context: IterationContext
) -> list[dict[str, Any]] | None:
    """Load human pairs as of the first preparation; None if none are mixed in."""
    recipe = context.recipe
    if not recipe.audit.human_pairs_share or not recipe.trains_on("judge", context.number):
        return None
    if has_whole_audit(context.files):
        kept: list[dict[str, Any]] = context.files.read("human_pairs").to_pylist()
        return kept
    return build_human_pairs(iteration.experiment, before=context.number)
