"""Actions on gates and batches, each with an entry in the audit log."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import Max

from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.errors import InputError
from meta_reward_core.recipes.canonical import restore_names
from meta_reward_core.review.sampling_units import UnitKind
from meta_reward_core.review.stratified_sampling import BatchSlot, arrange_batch
from webapp.activity.models import Action, ObjectType
from webapp.activity.recording import BY_A_COMMAND, record_activity
from webapp.audit.adjudication import MIN_REASON_CHARS
from webapp.audit.annotation_queue import (
    count_stranded_repeats,
    get_possible_auditors,
    list_unblinded_auditors,
    reassign_repeats,
)
from webapp.audit.batch_sampling import (
    BatchPlan,
    KnownAnswer,
    SampledBatch,
    read_experiment_templates,
    require_finished,
    sample_batch,
)
from webapp.audit.gate import (
    GateDecision,
    Terms,
    evaluate_gate,
    get_gate_terms,
    hash_battles,
    is_looser,
)
from webapp.audit.known_items import copy_known_items, save_known_items
from webapp.audit.models import (
    HAND_PICKED,
    Batch,
    BatchStatus,
    Gate,
    GateOverride,
    HiddenVerdict,
    Item,
    OverrideOutcome,
)
from webapp.experiments.jobs import enqueue_job
from webapp.experiments.models import Experiment, Iteration, Job, JobKind

BY_THE_RECIPE: Final = "the recipe"


def create_gate_from_recipe(experiment: Experiment) -> None:
    """Create the audit gate that an experiment's recipe requires."""
    asked = restore_names(experiment.recipe).get("audit") or {}
    if asked.get("required") and not Gate.objects.filter(experiment=experiment).exists():
        gate = Gate(
            experiment=experiment,
            min_agreement=asked["min_agreement"],
            confidence=asked["confidence"],
            min_answers=asked["min_answers"],
            on_failure=asked["on_failure"],
        )
        write_gate(gate, before=None, by=None)


def write_gate(gate: Gate, *, before: Terms | None, by: User | None, reason: str = "") -> None:
    """Save a gate.

    Args:
        before: its previous terms; None for a new gate.
        by: None if the recipe requires the gate.

    Raises:
        InputError: it requires less than before, and no reason was given.
    """
    after = get_gate_terms(gate)
    if after == before:
        return
    action = Action.GATE_SET if before is None else Action.GATE_CHANGED
    if before is not None and is_looser(before, after):
        action = Action.GATE_LOOSENED
        _require_reason(reason)
    with transaction.atomic():
        gate.save()
        _log_action(action, gate.experiment, by=by, before=before or {}, after=after, reason=reason)


def remove_gate(experiment: Experiment, *, by: User, reason: str) -> None:
    """Remove the gate of an experiment, if there is one.

    Raises:
        InputError: no reason was given.
    """
    _require_reason(reason)
    with transaction.atomic():
        gate = Gate.objects.select_for_update().filter(experiment=experiment).first()
        if gate is None:
            return
        before = get_gate_terms(gate)
        gate.delete()
        _log_action(Action.GATE_REMOVED, experiment, by=by, before=before, reason=reason)


def _require_reason(reason: str) -> None:
    if len(reason.strip()) < MIN_REASON_CHARS:
        raise InputError(
            f"Give a reason (at least {MIN_REASON_CHARS} characters) for loosening or removing the "
            "gate. It will be shown in the gate history."
        )


def record_gate_decision(iteration: Iteration) -> GateDecision:
    """Evaluate the gate, and record a decision that it makes by its own rule."""
    ruling = evaluate_gate(iteration)
    if not ruling.is_new:
        return ruling
    made, is_new = GateOverride.objects.get_or_create(
        experiment=iteration.experiment,
        iteration=iteration.number,
        source_sha256=hash_battles(iteration),
        defaults={
            "experiment_name": iteration.experiment.name,
            "outcome": OverrideOutcome.ACTOR_PAIRS,
            "reason": ruling.withheld,
            "created_by_name": GateOverride.BY_THE_GATE,
        },
    )
    if is_new:
        _log_override(made)
    return evaluate_gate(iteration)


def override_gate(
    experiment: Experiment,
    number: int,
    *,
    source_sha256: str,
    outcome: str,
    reason: str,
    by: User,
) -> bool:
    """Override the gate: decide what an iteration trains on without a passed audit.

    Args:
        source_sha256: hash of the battles to which the decision applies.

    Returns:
        False if there is already a decision for these battles; then nothing changes.
    """
    try:
        with transaction.atomic():
            made = GateOverride.objects.create(
                experiment=experiment,
                experiment_name=experiment.name,
                iteration=number,
                source_sha256=source_sha256,
                outcome=outcome,
                reason=reason,
                created_by=by,
                created_by_name=by.get_username(),
            )
            _log_override(made)
    except IntegrityError:
        return False
    return True


def request_batch(
    experiment: Experiment,
    number: int,
    plan: BatchPlan,
    *,
    by: User,
    auditors: Iterable[User],
) -> Job:
    """Request a batch as a job, because sampling can take longer than a page request."""
    names = [person.username for person in auditors]
    payload = {"iteration": number, "plan": asdict(plan), "auditors": names}
    return enqueue_job(JobKind.AUDIT, by=by, experiment=experiment, payload=payload)


def request_picked_item(
    experiment: Experiment, number: int, kind: UnitKind, key: str, *, part: int, by: User
) -> Job:
    """Request a job that adds one item to the hand-picked batch of its iteration.

    Args:
        part: number of the partitions that hold the item.

    Raises:
        InputError: the iteration has no finished stage to take the item from.
    """
    require_finished(experiment, number, kind)
    payload = {"iteration": number, "kind": kind, "keys": [key], "part": part}
    return enqueue_job(JobKind.AUDIT, by=by, experiment=experiment, payload=payload)


def read_plan(payload: Mapping[str, Any]) -> BatchPlan:
    """Read the plan of a requested batch."""
    values = dict(payload["plan"])
    known = tuple(KnownAnswer(**one) for one in values.pop("known_answers", ()))
    return BatchPlan(**values, known_answers=known)


def read_auditors(job: Job) -> list[User]:
    """Return the requested auditors who can still answer, but not later accounts of that name."""
    named = get_possible_auditors().filter(username__in=job.payload["auditors"])
    return list(named.filter(date_joined__lte=job.created))


def create_batch(
    experiment: Experiment,
    number: int,
    plan: BatchPlan,
    *,
    by: User | None,
    auditors: Iterable[User] = (),
) -> Batch:
    """Sample the items of a batch and store them in one transaction.

    Raises:
        InputError: the iteration has no finished stage to sample from, or the plan cannot be met.
        ArtifactError: files are gone or damaged.
    """
    return save_batch(sample_batch(experiment, number, plan), by=by, auditors=auditors)


def save_batch(drawn: SampledBatch, *, by: User | None, auditors: Iterable[User] = ()) -> Batch:
    """Store a sampled batch in one transaction.

    With a single auditor there are no repeats for another auditor: no one could answer them.
    """
    experiment, auditors = drawn.experiment, list(auditors)
    plan = replace(drawn.plan, other_share=0.0) if len(auditors) == 1 else drawn.plan
    with transaction.atomic():
        batch = Batch.objects.create(
            experiment=experiment,
            experiment_name=experiment.name,
            iteration=drawn.number,
            kind=plan.kind,
            strategy=plan.strategy,
            seed=plan.seed,
            strata=[asdict(stratum) for stratum in drawn.sample.strata],
            source_sha256=drawn.digest,
            hides_score_lines=plan.hides_score_lines,
            reveals_at_once=plan.reveals_at_once,
            same_share=plan.same_share,
            other_share=plan.other_share,
            min_accuracy=plan.min_accuracy,
            shows_quality=plan.shows_quality,
            guidelines=plan.guidelines,
            rubric=read_experiment_templates(experiment)["rubric"],
            created_by=by,
        )
        rng = random.Random(derive_seed(batch.seed, "audit-order"))
        slots = arrange_batch(
            len(drawn.sample.items), same=plan.same_share, other=plan.other_share, rng=rng
        )
        _write_items(batch, drawn, slots, rng)
        save_known_items(batch, drawn)
        set_auditors(batch, auditors, by=by)
    return batch


def add_picked_items(drawn: SampledBatch, *, by: User | None) -> Batch:
    """Add hand-picked items to the open hand-picked batch of their iteration.

    A new batch is created if there is none, or if the battles were rerun since. Items that are
    already in the batch are not added again.
    """
    with transaction.atomic():
        batch = (
            Batch.objects.select_for_update()
            .filter(
                experiment=drawn.experiment,
                iteration=drawn.number,
                kind=drawn.plan.kind,
                strategy=HAND_PICKED,
                status=BatchStatus.OPEN,
                source_sha256=drawn.digest,
            )
            .first()
        )
        if batch is None:
            return save_batch(drawn, by=by)
        has = set(batch.items.values_list("key", flat=True))
        last = batch.items.aggregate(last=Max("number"))["last"] or 0
        slots = [
            BatchSlot(index, None)
            for index, one in enumerate(drawn.sample.items)
            if one.key not in has
        ]
        rng = random.Random(derive_seed(batch.pk, f"audit-order {last}"))
        _write_items(batch, drawn, slots, rng, after=last)
        count = batch.strata[0]["sampled"] + len(slots)
        batch.strata = [{"name": HAND_PICKED, "population": count, "sampled": count}]
        batch.save(update_fields=["strata"])
    return batch


def _write_items(
    batch: Batch,
    drawn: SampledBatch,
    slots: Sequence[BatchSlot],
    rng: random.Random,
    *,
    after: int = 0,
) -> None:
    """Write the items of slots with their hidden verdicts.

    Args:
        rng: decides which judgment is shown as A.
        after: number of the last existing item of the batch.
    """
    items = [
        _make_item(batch, number, slot, drawn) for number, slot in enumerate(slots, start=after + 1)
    ]
    for item in items:
        item.is_swapped = rng.random() < 0.5
    placed = list(zip(slots, items, strict=True))
    originals = {slot.index: item for slot, item in placed if slot.again is None}
    Item.objects.bulk_create(originals.values())
    repeats = [(item, originals[slot.index]) for slot, item in placed if slot.again is not None]
    for item, original in repeats:
        item.original = original
    Item.objects.bulk_create(item for item, _ in repeats)
    HiddenVerdict.objects.bulk_create(
        HiddenVerdict(item=item, facts=drawn.facts[item.key]) for item in items
    )


def _make_item(batch: Batch, number: int, slot: BatchSlot, drawn: SampledBatch) -> Item:
    chosen, texts = drawn.sample.items[slot.index], drawn.texts
    facts = drawn.facts[chosen.key]
    return Item(
        batch=batch,
        number=number,
        key=chosen.key,
        stratum=chosen.stratum,
        probability=chosen.probability,
        instruction=texts.prompts[facts["prompt_id"]],
        response=texts.responses[facts["response_id"]],
        first=texts.judgments.get(facts.get("first_judgment_id", ""), ""),
        second=texts.judgments.get(facts.get("second_judgment_id", ""), ""),
        repeat_kind=slot.again or "",
    )


def set_status(batch: Batch, status: str, *, by: User) -> bool:
    """Close or reopen a batch; False if it already has this status."""
    with transaction.atomic():
        others = Batch.objects.filter(pk=batch.pk).exclude(status=status)
        if others.update(status=status) != 1:
            return False
        before = BatchStatus.OPEN if status == BatchStatus.CLOSED else BatchStatus.CLOSED
        action = Action.CLOSED if status == BatchStatus.CLOSED else Action.REOPENED
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
    """Assign the auditors of a batch; existing answers stay."""
    with transaction.atomic():
        before = list_auditor_names(batch)
        batch.auditors.set(wanted)
        copy_known_items(batch, batch.auditors.all())
        after = list_auditor_names(batch)
        if before != after:
            _log_action(
                Action.ASSIGNED,
                batch.experiment,
                by=by,
                batch=batch,
                before={"auditors": before},
                after={"auditors": after},
            )


def list_auditor_names(batch: Batch) -> list[str]:
    """List the names of a batch's auditors."""
    return list(batch.auditors.order_by("username").values_list("username", flat=True))


def explain_fixed_auditors(batch: Batch) -> str:
    """Return why the auditors of a batch cannot be changed; empty if they can."""
    if batch.status == BatchStatus.OPEN:
        return ""
    return f"Batch {batch.pk} is closed. Reopen it to change its auditors."


def assign_auditors(batch: Batch, wanted: Iterable[User], *, by: User) -> list[str]:
    """Assign the auditors of a batch, and return warnings for the user.

    Raises:
        InputError: the batch is closed.
    """
    with transaction.atomic():
        refusal = explain_fixed_auditors(Batch.objects.select_for_update().get(pk=batch.pk))
        if refusal:
            raise InputError(refusal)
        set_auditors(batch, wanted, by=by)
    passed_on = reassign_repeats(batch)
    notes = [format_unblinded_warning(batch.auditors.all())]
    if passed_on:
        what = "1 repeat item was" if passed_on == 1 else f"{passed_on} repeat items were"
        notes.append(f"Batch {batch.pk}: {what} reassigned because the auditor was removed.")
    stranded = count_stranded_repeats(batch)
    if stranded:
        what = "1 repeat item needs" if stranded == 1 else f"{stranded} repeat items need"
        notes.append(f"Batch {batch.pk}: {what} a second auditor. Assign one, or close the batch.")
    return [said for said in notes if said]


def format_unblinded_warning(people: Iterable[User]) -> str:
    """Build a warning about auditors who could look up the meta-judge's verdicts; empty if none."""
    names = list_unblinded_auditors(people)
    if not names:
        return ""
    return (
        f"These auditors can also see experiments, and with them the meta-judge's verdicts: "
        f"{', '.join(names)}. Their answers are not guaranteed to be blind. Give auditors accounts "
        "with the auditor role only."
    )


def _log_action(
    action: Action,
    experiment: Experiment | None,
    *,
    by: User | None,
    batch: Batch | None = None,
    before: Terms | None = None,
    after: Terms | None = None,
    reason: str = "",
) -> None:
    is_gate = batch is None
    name = experiment.name if experiment is not None else batch.experiment_name if batch else ""
    record_activity(
        action,
        object_type=ObjectType.GATE if is_gate else ObjectType.BATCH,
        object_id=batch.pk if batch is not None else experiment.pk if experiment else None,
        object_name=name if batch is None else f"batch {batch.pk}",
        experiment=experiment,
        experiment_name=name,
        iteration=batch.iteration if batch is not None else None,
        by=by,
        by_name=BY_THE_RECIPE if is_gate else BY_A_COMMAND,
        before=before,
        after=after,
        reason=reason,
    )


def _log_override(made: GateOverride) -> None:
    record_activity(
        Action.GATE_OVERRIDDEN,
        object_type=ObjectType.GATE,
        object_id=made.experiment_id,
        experiment=made.experiment,
        experiment_name=made.experiment_name,
        iteration=made.iteration,
        by=made.created_by,
        by_name=made.created_by_name,
        after={"outcome": made.outcome},
        reason=made.reason,
    )
