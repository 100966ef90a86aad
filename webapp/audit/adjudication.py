"""Adjudicate items: claims, drafts, decisions and undone decisions, by conditional UPDATEs.

Each decision names the version of the item that it is based on. If two review leads decide the same
item, the second sees that the item changed, and their input is kept as a draft.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from meta_reward_core.errors import InputError
from webapp.activity.models import Action, Activity, ObjectType
from webapp.activity.recording import record_activity
from webapp.audit.models import (
    AdjudicationDraft,
    Batch,
    BatchStatus,
    Item,
    ItemKind,
    PreferenceLabel,
    RepeatKind,
)
from webapp.db_clock import from_now

CLAIM_SECONDS: Final = 10 * 60.0
"""How long other review leads see that an item is being adjudicated."""
MIN_REASON_CHARS: Final = 5
MAX_REASON_CHARS: Final = 2000
MAX_SCORE: Final = 5.0
RECENT_REASONS: Final = 5
"""Number of earlier reasons that the review page offers."""
_REASONS_READ: Final = 50
DECISION_REQUIRED: Final = "Choose a decision."
REASON_REQUIRED: Final = f"Give a reason of at least {MIN_REASON_CHARS} characters."


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision on an item.

    Attributes:
        choice: first, second, tie or neither; of a response a score from 0 to 5, as text.
        version: `adjudication_version` of the item that the lead saw.
    """

    choice: str
    reason: str
    version: int


def check_choice(choice: str, kind: str) -> str:
    """Return a decision in its stored form.

    Raises:
        InputError: the choice is not a possible answer.
    """
    choice = choice.strip()
    if kind == ItemKind.JUDGMENTS:
        if choice not in PreferenceLabel.values:
            known = ", ".join(PreferenceLabel.values)
            raise InputError(f"decision {choice[:40]!r} is unknown; use {known}")
        return choice
    try:
        score = float(choice)
    except ValueError:
        score = -1.0
    if not 0 <= score <= MAX_SCORE:
        raise InputError(f"decision {choice[:40]!r} is not a score from 0 to 5")
    return f"{score:g}"


def check_reason(reason: str) -> str:
    """Return a reason without surrounding whitespace.

    Raises:
        InputError: it is too short or too long.
    """
    reason = reason.strip()
    if len(reason) < MIN_REASON_CHARS:
        raise InputError(REASON_REQUIRED)
    if len(reason) > MAX_REASON_CHARS:
        raise InputError(f"Give a reason of at most {MAX_REASON_CHARS} characters.")
    return reason


def explain_refusal(item: Item) -> str:
    """Return why an item cannot be adjudicated; empty if it can."""
    if item.repeat_kind != RepeatKind.NO:
        return "A repeat is not adjudicated by itself. Adjudicate the item that it repeats."
    if item.batch.status != BatchStatus.OPEN:
        return (
            f"Batch {item.batch_id} is closed, and its results are final. Reopen the batch to "
            "adjudicate its items."
        )
    return ""


def adjudicate_item(item: Item, decision: Decision, *, by: User) -> bool:
    """Store a decision, which then replaces the answers to the item.

    Returns:
        False if the item was adjudicated or undone since; then the decision is kept as a draft.

    Raises:
        InputError: the decision is not a possible answer or has no reason, the item is a repeat,
            or its batch is closed.
    """
    choice = check_choice(decision.choice, item.batch.kind)
    reason = check_reason(decision.reason)
    with transaction.atomic():
        _require_open(item)
        before = _read_state(item)
        won = _write_state(
            item,
            decision.version,
            adjudicated=choice,
            adjudication=reason,
            adjudicated_by=by,
            adjudicated_by_name=by.get_username(),
            adjudicated_at=timezone.now(),
        )
        if won:
            AdjudicationDraft.objects.filter(item=item, lead=by).delete()
            after = {"adjudicated": choice, "adjudicated_by": by.get_username()}
            _record(Action.ADJUDICATED, item, by=by, reason=reason, before=before, after=after)
        else:
            save_draft(item, by, choice=choice, reason=reason)
    return won


def undo_adjudication(item: Item, *, by: User) -> bool:
    """Undo a lead's own decision, which becomes a draft.

    Returns:
        False if another lead made the last decision on the item.

    Raises:
        InputError: the batch is closed.
    """
    with transaction.atomic():
        _require_open(item)
        now = Item.objects.get(pk=item.pk)
        if not now.adjudicated or now.adjudicated_by_id != by.pk:
            return False
        earlier, lead, decided_at = _find_earlier(now)
        undone = _write_state(
            item,
            now.adjudication_version,
            adjudicated=earlier.get("adjudicated", ""),
            adjudication=earlier.get("adjudication", ""),
            adjudicated_by=lead,
            adjudicated_by_name=earlier.get("adjudicated_by", ""),
            adjudicated_at=decided_at,
        )
        if undone:
            save_draft(item, by, choice=now.adjudicated, reason=now.adjudication)
            after = {"adjudicated": earlier.get("adjudicated", "")}
            _record(
                Action.ADJUDICATION_UNDONE,
                item,
                by=by,
                before={"adjudicated": now.adjudicated, "adjudication": now.adjudication},
                after=after,
            )
    return undone


def _require_open(item: Item) -> None:
    item.batch = Batch.objects.select_for_update().get(pk=item.batch_id)
    refusal = explain_refusal(item)
    if refusal:
        raise InputError(refusal)


def _read_state(item: Item) -> dict[str, Any]:
    now = Item.objects.get(pk=item.pk)
    if not now.adjudicated:
        return {"adjudicated": ""}
    return {
        "adjudicated": now.adjudicated,
        "adjudication": now.adjudication,
        "adjudicated_by": now.adjudicated_by_name,
    }


def _write_state(item: Item, version: int, **columns: Any) -> bool:
    unchanged = Item.objects.filter(pk=item.pk, adjudication_version=version)
    return (
        unchanged.update(
            **columns,
            adjudication_version=F("adjudication_version") + 1,
            claimed_by=None,
            claimed_until=None,
        )
        == 1
    )


def _find_earlier(item: Item) -> tuple[dict[str, Any], User | None, datetime | None]:
    """Find the decision that applied before the current one, ignoring undone decisions.

    Returns:
        The decision, the account that made it (its name may belong to another account today), and
        its time.
    """
    rows = Activity.objects.filter(object_type=ObjectType.ITEM, object_id=item.pk)
    kept: list[Activity] = []
    for row in rows.select_related("actor").order_by("pk"):
        if row.action == Action.ADJUDICATED:
            kept.append(row)
        elif row.action == Action.ADJUDICATION_UNDONE and kept:
            kept.pop()
    if len(kept) < 2:
        return {}, None, None
    return kept[-1].before, kept[-2].actor, kept[-2].created


def list_item_activity(item: Item) -> QuerySet[Activity]:
    """List all activity on an item and its repeats, newest first."""
    keys = [item.pk, *item.repeats.values_list("pk", flat=True)]
    return Activity.objects.filter(object_type=ObjectType.ITEM, object_id__in=keys)


def _record(action: Action, item: Item, *, by: User, reason: str = "", **values: Any) -> None:
    record_activity(
        action,
        object_type=ObjectType.ITEM,
        object_id=item.pk,
        object_name=f"item {item.number} of batch {item.batch_id}",
        experiment=item.batch.experiment,
        experiment_name=item.batch.experiment_name,
        iteration=item.batch.iteration,
        by=by,
        reason=reason,
        **values,
    )


def save_draft(item: Item, lead: User, *, choice: str, reason: str) -> bool:
    """Save a lead's unsaved input, and extend the claim.

    Returns:
        False if there is nothing to keep: no reason, and no choice that differs from the current
        decision.
    """
    if not reason.strip() and choice == item.adjudicated:
        discard_draft(item, lead)
        return False
    values = {"choice": choice[:16], "reason": reason[:MAX_REASON_CHARS]}
    draft = find_draft(item, lead)
    # Pages also send the draft when the user leaves them. Its time is that of the last change.
    if draft is None or (draft.choice, draft.reason) != (values["choice"], values["reason"]):
        AdjudicationDraft.objects.update_or_create(item=item, lead=lead, defaults=values)
    claim_item(item, lead)
    return True


def receive_draft(item: Item, lead: User, *, choice: str, reason: str, version: int | None) -> bool:
    """Save unsaved input that a page sent.

    Input that arrives after the lead decided the item, or undid the decision, from an earlier
    version of it is ignored: it is part of what the lead submitted.

    Returns:
        False if nothing is kept.
    """
    with transaction.atomic():
        # The lock makes a draft wait for a decision that is being saved at the same time.
        now = Item.objects.select_for_update().get(pk=item.pk)
        if version != now.adjudication_version and _get_last_lead(now) == lead.pk:
            return False
        return save_draft(now, lead, choice=choice, reason=reason)


def _get_last_lead(item: Item) -> int | None:
    """Return the key of the account that last decided an item or undid its decision."""
    rows = Activity.objects.filter(
        object_type=ObjectType.ITEM,
        object_id=item.pk,
        action__in=(Action.ADJUDICATED, Action.ADJUDICATION_UNDONE),
    )
    return rows.order_by("-pk").values_list("actor_id", flat=True).first()


def find_draft(item: Item, lead: User) -> AdjudicationDraft | None:
    """Return a lead's unsaved input; None if there is none."""
    return AdjudicationDraft.objects.filter(item=item, lead=lead).first()


def discard_draft(item: Item, lead: User) -> None:
    """Delete a lead's unsaved input."""
    AdjudicationDraft.objects.filter(item=item, lead=lead).delete()


def claim_item(item: Item, lead: User) -> bool:
    """Mark an item as being adjudicated by a lead; False if another lead claimed it first."""
    free = Q(claimed_by__isnull=True) | Q(claimed_by=lead) | Q(claimed_until__lt=Now())
    claimed = Item.objects.filter(free, pk=item.pk)
    return claimed.update(claimed_by=lead, claimed_until=from_now(CLAIM_SECONDS)) == 1


def release_other_items(item: Item, lead: User) -> None:
    """Release the items that a lead claimed and left without any input."""
    unfinished = AdjudicationDraft.objects.filter(lead=lead).values("item")
    left = Item.objects.filter(claimed_by=lead).exclude(pk=item.pk).exclude(pk__in=unfinished)
    left.update(claimed_by=None, claimed_until=None)


def list_recent_reasons(lead: User) -> list[str]:
    """List the last different reasons that a lead gave, the latest first."""
    own = Item.objects.filter(adjudicated_by=lead).exclude(adjudication="")
    latest = own.order_by("-adjudicated_at", "-pk").values_list("adjudication", flat=True)
    return list(dict.fromkeys(latest[:_REASONS_READ]))[:RECENT_REASONS]


def find_last_decision(lead: User) -> Item | None:
    """Return the last item that a lead decided and can still undo."""
    own = Item.objects.filter(
        adjudicated_by=lead, batch__status=BatchStatus.OPEN, repeat_kind=RepeatKind.NO
    ).exclude(adjudicated="")
    return own.select_related("batch").order_by("-adjudicated_at", "-pk").first()
