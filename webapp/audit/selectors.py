"""Read audits for pages: batches, requested batches, gates and effects on training."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from statistics import median
from typing import Any, Final

from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Max, Q, QuerySet
from django.shortcuts import get_object_or_404

from meta_reward_core.reporting.summary import describe_audit
from webapp.accounts.permissions import can_control, get_visible_experiments
from webapp.accounts.roles import ADJUDICATE, ANSWER, RUN, RUN_ALL, SEE
from webapp.activity.models import AUDIT_ACTIONS, Activity
from webapp.audit import annotation_queue
from webapp.audit.gate import explain_hold, find_override, list_overrides
from webapp.audit.models import (
    Answer,
    Batch,
    BatchStatus,
    Gate,
    GateOverride,
    HiddenVerdict,
    Item,
    RepeatKind,
)
from webapp.experiments.jobs import PENDING
from webapp.experiments.models import (
    Attempt,
    Experiment,
    Iteration,
    Job,
    JobKind,
    JobStatus,
    RunStatus,
)
from webapp.experiments.statuses import HELD_AT_GATE

_REQUESTED_SHOWN: Final = 5
_TIMED_ANSWERS: Final = 1000
_OWN_TIMES: Final = 5
"""Own timed answers from which a user's median is used."""


@dataclass(frozen=True, slots=True)
class TrainingNotes:
    """Effect of an audit on training, from the override and the final summary.

    Attributes:
        is_held: whether the audit gate blocks the iteration.
    """

    is_held: bool
    decision: GateOverride | None
    sentences: tuple[str, ...]


def make_training_notes(iteration: Iteration) -> TrainingNotes | None:
    """Describe how an audit changed an iteration's training; None if it did not."""
    decision = _find_decision(iteration)
    found: Mapping[str, Any] | None = iteration.metrics.get("audit")
    sentences = tuple(describe_audit(found))
    is_held = iteration.message.startswith(HELD_AT_GATE)
    if not (is_held or decision or sentences):
        return None
    return TrainingNotes(is_held, decision, sentences)


def _find_decision(iteration: Iteration) -> GateOverride | None:
    """Find the override that applied; after the training, it is found even without the files."""
    if iteration.status != RunStatus.FINISHED:
        return find_override(iteration)
    return next(iter(list_overrides(iteration)), None)


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """A requested audit batch that is still being sampled or could not be sampled."""

    job: Job
    iteration: int
    is_active: bool
    doing: str


def list_pending_batches(experiment: Experiment) -> list[PendingBatch]:
    """List recent requests without a batch, newest first."""
    jobs = experiment.jobs.filter(kind=JobKind.AUDIT).select_related("created_by")
    return [
        PendingBatch(
            job,
            job.payload["iteration"],
            job.status in PENDING,
            job.outcome.get("doing", ""),
        )
        for job in jobs[:_REQUESTED_SHOWN]
        if job.status != JobStatus.DONE
    ]


def is_any_pending(found: Iterable[PendingBatch]) -> bool:
    """Whether any batch is still being sampled."""
    return any(one.is_active for one in found)


def get_visible_batches(person: User) -> QuerySet[Batch]:
    """Return the batches that a user can see; admins see those of deleted experiments too."""
    if not person.has_perm(SEE):
        return Batch.objects.none()
    orphans = Q(experiment__isnull=True)
    if not person.has_perm(RUN_ALL):
        orphans &= Q(created_by=person)
    return Batch.objects.filter(Q(experiment__in=get_visible_experiments(person)) | orphans)


def annotate_counts(batches: QuerySet[Batch]) -> QuerySet[Any]:
    """Annotate batches with item and answer counts, newest first; known items are not counted."""
    drawn = ~Q(items__repeat_kind=RepeatKind.KNOWN)
    counted: QuerySet[Any] = batches.annotate(
        item_count=Count("items", filter=drawn, distinct=True),
        answer_count=Count("items__answer", filter=drawn, distinct=True),
    )
    return counted.order_by("-created", "-pk")  # an aggregate drops the default order of the model


def load_with_counts(batch: Batch) -> Any:
    """Load a batch again with its item and answer counts."""
    return annotate_counts(Batch.objects.filter(pk=batch.pk)).get()


def get_changeable_batch(person: User, pk: int) -> Batch:
    """Find a batch that a user can change: they control its experiment, or created it.

    Raises:
        Http404: it does not exist, or the user cannot see it.
        PermissionDenied: the user can see it but not change it.
    """
    batch = get_object_or_404(get_visible_batches(person).select_related("experiment"), pk=pk)
    if batch.experiment is not None and not can_control(person, batch.experiment):
        raise PermissionDenied("This audit belongs to another user's experiment.")
    return batch


def can_manage(person: User, batch: Batch) -> bool:
    """Whether a user can close a visible batch and assign its auditors."""
    if person.has_perm(ADJUDICATE):
        return True
    return person.has_perm(RUN) and (
        batch.experiment is None or can_control(person, batch.experiment)
    )


def get_manageable_batch(person: User, pk: int) -> Batch:
    """Find a batch that a user can close, reopen and assign, here and in the admin.

    Raises:
        Http404: it does not exist, or the user cannot see it.
        PermissionDenied: the user is not a review lead and cannot control its experiment.
    """
    if not (person.has_perm(ADJUDICATE) or person.has_perm(RUN)):
        raise PermissionDenied
    batch = get_object_or_404(get_visible_batches(person).select_related("experiment"), pk=pk)
    if not can_manage(person, batch):
        raise PermissionDenied("This audit belongs to another user's experiment.")
    return batch


def is_held(iteration: Iteration) -> bool:
    """Whether an iteration is blocked by the gate."""
    return iteration.message.startswith(HELD_AT_GATE) and bool(explain_hold(iteration))


def find_hold_start(iteration: Iteration) -> datetime | None:
    """Return when a held iteration finished its last stage before the gate."""
    attempts = Attempt.objects.filter(shard__stage__iteration=iteration)
    latest: datetime | None = attempts.aggregate(latest=Max("finished"))["latest"]
    return latest


def get_gate_or_default(experiment: Experiment) -> Gate:
    """Return an experiment's gate, or an unsaved default one."""
    return find_gate(experiment) or Gate(experiment=experiment)


def find_gate(experiment: Experiment) -> Gate | None:
    """Find an experiment's gate; None if no audit is required."""
    return Gate.objects.filter(experiment=experiment).first()


def get_assigned_item(person: User, pk: int, number: int) -> Item:
    """Find an item of a batch that a user is assigned to.

    Raises:
        Http404: the item does not exist, or the user is not assigned to its batch.
    """
    assigned = annotation_queue.get_assigned_batches(person).select_related("experiment")
    batch = get_object_or_404(assigned, pk=pk)
    item = get_object_or_404(batch.items, number=number)
    item.batch = batch
    return item


def find_own_answer(item: Item, person: User) -> Answer | None:
    """Find a user's answer to an item; None if they have not given one."""
    return Answer.objects.filter(item=item, auditor=person).first()


def read_hidden_facts(item: Item) -> dict[str, Any]:
    """Read the verdicts on an item that auditors must not see before they answer."""
    facts: dict[str, Any] = HiddenVerdict.objects.get(item=item).facts
    return facts


def list_answer_seconds(person: User, experiment: Experiment) -> list[float]:
    """List the durations of recent answers, in seconds.

    Answers in the experiment's audits are used; if there are none, those in all visible audits.
    """
    timed = Answer.objects.filter(seconds__gt=0).order_by("-submitted", "-pk")
    own = timed.filter(item__batch__experiment=experiment)
    found = own if own.exists() else timed.filter(item__batch__in=get_visible_batches(person))
    return list(found.values_list("seconds", flat=True)[:_TIMED_ANSWERS])


@dataclass(frozen=True, slots=True)
class OwnBatch:
    """A batch that a user is assigned to, with their progress.

    Attributes:
        seconds: median time per answer to items of this kind; None if no answer has been timed.
        is_own_time: whether it is the user's own median, not that of all auditors.
    """

    batch: Batch
    progress: annotation_queue.AuditorProgress
    seconds: float | None
    is_own_time: bool

    @property
    def is_closed(self) -> bool:
        """Whether the batch accepts no more answers."""
        return self.batch.status == BatchStatus.CLOSED

    @property
    def is_shared(self) -> bool:
        """Whether other auditors answer items of the batch too."""
        return len(self.batch.auditors.all()) > 1

    @property
    def is_answerable(self) -> bool:
        """Whether the user can answer items now."""
        return not self.is_closed and self.progress.available > 0

    @property
    def minutes(self) -> int | None:
        """Time for the items left, rounded up; None if unknown."""
        if self.seconds is None:
            return None
        return ceil(self.progress.left * self.seconds / 60)


def list_own_batches(person: User) -> list[OwnBatch]:
    """List the batches that a user is assigned to: those that they can answer, then closed ones."""
    batches = list(annotation_queue.get_assigned_batches(person).prefetch_related("auditors"))
    times = {kind: _measure_seconds(person, kind) for kind in {one.kind for one in batches}}
    found = [
        OwnBatch(batch, annotation_queue.compute_progress(batch, person), *times[batch.kind])
        for batch in batches
    ]
    return sorted(found, key=lambda one: (not one.is_answerable, one.is_closed))


def _measure_seconds(person: User, kind: str) -> tuple[float | None, bool]:
    """Return a user's median seconds per answer, or that of all users if theirs are too few."""
    timed = Answer.objects.filter(seconds__gt=0, item__batch__kind=kind)
    timed = timed.order_by("-submitted", "-pk")
    own = timed.filter(auditor=person).values_list("seconds", flat=True)[:_TIMED_ANSWERS]
    if len(own) >= _OWN_TIMES:
        return median(own), True
    everyone = timed.values_list("seconds", flat=True)[:_TIMED_ANSWERS]
    return (median(everyone) if everyone else None), False


def find_own_batch(person: User, pk: int) -> OwnBatch | None:
    """Find a batch that a user may annotate, with their progress; None if they may not."""
    own = list_own_batches(person) if person.has_perm(ANSWER) else []
    return next((one for one in own if one.batch.pk == pk), None)


def list_audit_activity(experiment: Experiment) -> QuerySet[Activity]:
    """Actions on the gate and the batches of an experiment, newest first."""
    return Activity.objects.filter(experiment=experiment, action__in=AUDIT_ACTIONS)
