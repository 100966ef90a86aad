"""Assign items to auditors: lease, answer, undo and skip, by conditional UPDATEs.

An item belongs to its holder until another auditor takes it, which is possible once its lease has
expired by the database clock. Nothing here reads the hidden verdict of an item.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Case, Count, Exists, OuterRef, Q, QuerySet, When
from django.db.models.functions import Now

from webapp.accounts.permissions import get_users_with_permission
from webapp.accounts.roles import ANSWER, SEE
from webapp.activity.models import Action, ObjectType
from webapp.activity.recording import record_activity
from webapp.audit.models import (
    Answer,
    Batch,
    BatchStatus,
    Item,
    RepeatKind,
)
from webapp.db_clock import from_now

LEASE_SECONDS: Final = 15 * 60.0
_CANDIDATES: Final = 8
_MAX_SECONDS: Final = 24 * 3600.0

TAGS: Final = (
    "wrong fact",
    "ignores rubric",
    "score contradicts reasons",
    "too long",
    "too harsh",
    "too generous",
    "off topic",
    "unclear item",
)


@dataclass(frozen=True, slots=True)
class AnswerInput:
    """A submitted answer; choice or points is set, depending on the kind of the batch."""

    choice: str
    points: float | None
    confidence: int
    tags: tuple[str, ...]
    comment: str
    seconds: float

    def to_columns(self) -> dict[str, Any]:
        """Return the answer as columns of its row."""
        return {
            "choice": self.choice,
            "points": self.points,
            "confidence": self.confidence,
            "tags": list(self.tags),
            "comment": self.comment,
            "seconds": min(max(self.seconds, 0.0), _MAX_SECONDS),
        }


@dataclass(frozen=True, slots=True)
class AuditorProgress:
    """Progress of an auditor in a batch.

    Auditors share the sampled items of a batch, so its total stays the same while they work.

    Attributes:
        total: sampled items with all planned repeats, and the auditor's own known items; without
            repeats that none of the assigned auditors could answer.
        mine: items that they answered.
        others: sampled items that other auditors answered.
        available: items that they could answer now, skipped ones too.
        skipped: how many of those they skipped.
    """

    total: int
    mine: int
    others: int
    available: int
    skipped: int

    @property
    def done(self) -> int:
        """Items that anyone answered."""
        return self.mine + self.others

    @property
    def left(self) -> int:
        """Items without an answer."""
        return self.total - self.done


def get_possible_auditors() -> QuerySet[User]:
    """Return the active accounts that can answer items."""
    return get_users_with_permission(ANSWER, superusers=False).order_by("username")


def list_unblinded_auditors(people: Iterable[User]) -> list[str]:
    """List auditors who can also see experiments, and therefore the hidden verdicts."""
    sighted = get_users_with_permission(SEE, is_active=None).filter(
        pk__in=[person.pk for person in people]
    )
    return list(sighted.order_by("username").values_list("username", flat=True))


def get_assigned_batches(person: User) -> QuerySet[Batch]:
    """Return the batches that a user is assigned to."""
    return Batch.objects.filter(auditors=person)


def _select_suitable_items(batch: Batch, person: User) -> QuerySet[Item]:
    """Select the unanswered items that a user could answer, held ones included.

    A repeat waits until its original is answered. Depending on its kind it goes to the auditor who
    answered the original or to a different one. An item with a known answer goes to the auditor for
    whom it was copied.
    """
    answered = Answer.objects.filter(item=OuterRef("original"))
    by_them = answered.filter(auditor=person)
    return batch.items.filter(is_answered=False).filter(
        Q(repeat_kind=RepeatKind.NO)
        | Q(repeat_kind=RepeatKind.SAME) & Exists(by_them)
        | Q(repeat_kind=RepeatKind.OTHER) & Exists(answered) & ~Exists(by_them)
        | Q(repeat_kind=RepeatKind.KNOWN, reserved_for=person)
    )


def _build_free_filter(person: User) -> Q:
    return Q(holder__isnull=True) | Q(holder=person) | Q(lease_until__lt=Now())


def compute_progress(batch: Batch, person: User) -> AuditorProgress:
    """Count the items that are planned, answered and left for a user."""
    suited = _select_suitable_items(batch, person).filter(_build_free_filter(person))
    by_them = Q(answer__auditor=person)
    counted = batch.items.aggregate(
        total=Count("pk", filter=~Q(repeat_kind=RepeatKind.KNOWN) | Q(reserved_for=person)),
        mine=Count("pk", filter=by_them),
        others=Count(
            "pk", filter=Q(is_answered=True) & ~Q(repeat_kind=RepeatKind.KNOWN) & ~by_them
        ),
    )
    return AuditorProgress(
        total=counted["total"] - count_stranded_repeats(batch),
        mine=counted["mine"],
        others=counted["others"],
        available=suited.count(),
        skipped=suited.filter(skipped_by=person).count(),
    )


def lease_next_item(batch: Batch, person: User) -> Item | None:
    """Lease the next item to a user: first the one they hold, then a free one.

    Returns:
        None if nothing is left but what they skipped.
    """
    if batch.status != BatchStatus.OPEN:
        return None
    found = _try_lease_next(batch, person)
    if found is None and reassign_repeats(batch):
        found = _try_lease_next(batch, person)
    return found


def _try_lease_next(batch: Batch, person: User) -> Item | None:
    suited = _select_suitable_items(batch, person)
    held = suited.filter(holder=person).first()
    if held is not None and _lease_item(held, person):
        return held
    wanted = suited.filter(_build_free_filter(person)).exclude(skipped_by=person)
    known_first = Case(When(repeat_kind=RepeatKind.KNOWN, then=0), default=1)
    while candidates := list(wanted.order_by(known_first, "number")[:_CANDIDATES]):
        # Concurrent requests of several auditors should not compete for the same item.
        first, rest = candidates[:1], candidates[1:]
        for item in first + random.sample(rest, len(rest)):
            if _lease_item(item, person):
                return item
    return None


def _lease_item(item: Item, person: User) -> bool:
    """Lease an item; False if another auditor was first."""
    free = Item.objects.filter(_build_free_filter(person), pk=item.pk, is_answered=False)
    return free.update(holder=person, lease_until=from_now(LEASE_SECONDS)) == 1


def reassign_repeats(batch: Batch) -> int:
    """Reassign the repeats of auditors who can no longer answer, and count them.

    These are auditors who were deleted, deactivated, unassigned or lost the role. Without
    reassignment no auditor could answer these items, and the batch would never finish.
    """
    able = get_possible_auditors().filter(audit_batches=batch)
    waiting = batch.items.filter(
        repeat_kind=RepeatKind.SAME, is_answered=False, original__answer__isnull=False
    )
    orphans = waiting.exclude(original__answer__auditor__in=able)
    return sum(_reassign(item) for item in orphans.select_related("original__answer"))


def count_stranded_repeats(batch: Batch) -> int:
    """Count the repeats for another auditor that none of the assigned auditors could answer."""
    able = get_possible_auditors().filter(audit_batches=batch)
    if able.count() != 1:
        return 0
    by_others = Answer.objects.filter(item=OuterRef("original")).exclude(auditor__in=able)
    waiting = batch.items.filter(repeat_kind=RepeatKind.OTHER, is_answered=False)
    return waiting.filter(~Exists(by_others)).count()


def _reassign(item: Item) -> bool:
    original = item.original
    if original is None:
        return False
    with transaction.atomic():
        waiting = Item.objects.filter(pk=item.pk, repeat_kind=RepeatKind.SAME, is_answered=False)
        passed = waiting.update(repeat_kind=RepeatKind.OTHER, holder=None, lease_until=None) == 1
        if passed:
            left_by = original.answer.auditor_name
            log_change(item, Action.PASSED_ON, None, {"auditor": left_by})
    return passed


def save_draft(item: Item, person: User, draft: Mapping[str, Any], seconds: float) -> bool:
    """Save what is filled in so far and extend the lease; False if the lease was lost."""
    held = Item.objects.filter(pk=item.pk, holder=person, is_answered=False)
    seconds = min(max(seconds, 0.0), _MAX_SECONDS)
    return held.update(draft=dict(draft), seconds=seconds, lease_until=from_now(LEASE_SECONDS)) == 1


def has_draft(item: Item) -> bool:
    """Whether the draft of an item contains any input."""
    return any(value not in (None, "", []) for value in item.draft.values())


def submit_answer(item: Item, person: User, given: AnswerInput) -> bool:
    """Store an answer; False if another auditor has the item, or the batch is closed.

    An answer that arrives too late is kept in the history and does not count.
    """
    with transaction.atomic():
        is_open = Batch.objects.filter(pk=item.batch_id, status=BatchStatus.OPEN).exists()
        held = Item.objects.filter(pk=item.pk, holder=person, is_answered=False)
        won = is_open and held.update(is_answered=True, holder=None, lease_until=None) == 1
        if won:
            Answer.objects.create(
                item=item,
                auditor=person,
                auditor_name=person.get_username(),
                **given.to_columns(),
            )
        log_change(item, Action.ANSWERED if won else Action.LATE, person, given.to_columns())
    return won


def undo_answer(item: Item, person: User) -> bool:
    """Undo an answer that was not yet revealed; False if that is not possible."""
    with transaction.atomic():
        is_open = Batch.objects.filter(pk=item.batch_id, status=BatchStatus.OPEN).exists()
        own = Answer.objects.filter(item=item, auditor=person, revealed__isnull=True)
        found = own.first()
        if not is_open or found is None or own.delete()[0] != 1:
            return False
        Item.objects.filter(pk=item.pk).update(
            is_answered=False,
            holder=person,
            lease_until=from_now(LEASE_SECONDS),
            seconds=found.seconds,
            draft=build_draft(found),
        )
        log_change(item, Action.UNDONE, person, get_answer_values(found))
    return True


def build_draft(found: Answer) -> dict[str, Any]:
    """Convert an answer to the values of the annotation form."""
    return {name: value for name, value in get_answer_values(found).items() if name != "seconds"}


def get_answer_values(found: Answer) -> dict[str, Any]:
    """Return an answer as plain values."""
    return {
        "choice": found.choice,
        "points": found.points,
        "confidence": found.confidence,
        "tags": found.tags,
        "comment": found.comment,
        "seconds": found.seconds,
    }


def get_last_answer(batch: Batch, person: User) -> Answer | None:
    """Return the last answer that a user can still undo."""
    own = Answer.objects.filter(item__batch=batch, auditor=person, revealed__isnull=True, source="")
    return own.select_related("item").order_by("-submitted", "-pk").first()


def skip_item(item: Item, person: User) -> bool:
    """Return an item unanswered, to be shown again after all others."""
    with transaction.atomic():
        held = Item.objects.filter(pk=item.pk, holder=person, is_answered=False)
        won = held.update(holder=None, lease_until=None) == 1
        if won:
            item.skipped_by.add(person)
            log_change(item, Action.SKIPPED, person, {})
    return won


def requeue_skipped(batch: Batch, person: User) -> None:
    """Show the items that a user skipped again."""
    Item.skipped_by.through.objects.filter(item__batch=batch, user=person).delete()


def explain_withheld(item: Item, person: User) -> str:
    """Return why a user cannot see the reveal of an answered item yet; empty if they can."""
    batch = item.batch
    if batch.status == BatchStatus.CLOSED:
        return ""
    if not batch.reveals_at_once:
        return "In this batch, answers are revealed when the batch is closed."
    coming = Item.objects.filter(original=item, repeat_kind=RepeatKind.SAME, is_answered=False)
    if coming.exists() and Answer.objects.filter(item=item, auditor=person).exists():
        return "This item will be revealed later."
    return ""


def reveal_item(item: Item, person: User) -> bool:
    """Record that a user viewed the reveal, which makes the answer final."""
    if explain_withheld(item, person):
        return False
    own = Answer.objects.filter(item=item, auditor=person)
    if own.filter(revealed__isnull=True).update(revealed=Now()) == 1:
        log_change(item, Action.REVEALED, person, {})
    return own.exists()


def log_change(
    item: Item,
    action: Action,
    person: User | None,
    values: Mapping[str, Any],
    *,
    reason: str = "",
) -> None:
    """Record an action on an item.

    Args:
        person: None for the user of the current request.
        values: the answer after the action.
    """
    batch = item.batch
    record_activity(
        action,
        object_type=ObjectType.ITEM,
        object_id=item.pk,
        object_name=f"item {item.number} of batch {batch.pk}",
        experiment=batch.experiment,
        experiment_name=batch.experiment_name,
        iteration=batch.iteration,
        by=person,
        after=values,
        reason=reason,
    )
