"""The activity log for pages and programs: filters, visibility, entries, CSV."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Final

from django import forms
from django.contrib.auth.models import User
from django.db.models import Q, QuerySet
from django.urls import reverse
from django.utils import timezone

from meta_reward_core.data.csv_safety import format_csv
from meta_reward_core.recipes.canonical import get_current_key
from webapp.accounts.permissions import AnyUser, get_visible_experiments
from webapp.accounts.roles import ADJUDICATE, RUN_ALL, SEE_EVENTS
from webapp.activity.models import (
    AUDIT_ACTIONS,
    ITEM_ACTIONS,
    SECURITY_ACTIONS,
    Action,
    Activity,
    ObjectType,
    Source,
)
from webapp.audit.models import OverrideOutcome
from webapp.experiments.models import Experiment, Job, JobKind

ENTRIES_ON_A_PAGE: Final = 50
CSV_COLUMNS: Final = (
    *("time", "user", "action", "object", "iteration", "status", "finished"),
    *("reason", "before", "after", "details", "message", "source"),
)
_ENTRIES_AT_ONCE: Final = 500

_GROUPS: Final[Mapping[str, tuple[Action, ...]]] = {
    "overrides": (Action.GATE_OVERRIDDEN,),
    "acts": AUDIT_ACTIONS,
    "items": ITEM_ACTIONS,
    "accounts": SECURITY_ACTIONS,
    "experiments": (Action.ARCHIVED, Action.UNARCHIVED, Action.DELETED, Action.TAGGED),
}

KINDS: Final = [
    ("", "everything"),
    *JobKind.choices,
    ("overrides", "gate overrides"),
    ("acts", "audit gates and batches"),
    ("items", "audit items"),
    ("accounts", "accounts, roles and tokens"),
    ("experiments", "archive, deletion and tags"),
]
_BATCH: Final = re.compile(r"(?:item (\d{1,9}) of )?batch (\d{1,9})")
_SOURCES: Final = [("", "everywhere"), *Source.choices]


class LogForm(forms.Form):
    """Filter of the activity log; empty fields do not filter."""

    person = forms.CharField(required=False, max_length=150, label="User")
    experiment = forms.CharField(required=False, max_length=64, label="Experiment")
    kind = forms.ChoiceField(required=False, choices=KINDS, label="Type")
    source = forms.ChoiceField(required=False, choices=_SOURCES, label="Source")
    since = forms.DateField(
        required=False, label="From", widget=forms.DateInput(attrs={"type": "date"})
    )
    until = forms.DateField(
        required=False, label="To", widget=forms.DateInput(attrs={"type": "date"})
    )


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Filter values of the activity log. Days are UTC, the last one included."""

    person: str = ""
    experiment: str = ""
    kind: str = ""
    source: str = ""
    since: date | None = None
    until: date | None = None


@dataclass(frozen=True, slots=True)
class ActivityEntry:
    """An entry of the activity log.

    Attributes:
        about: name of the object.
        experiment: link target, if the entry is about an existing experiment.
        iteration: number of the iteration, if the entry is about one.
        status: status of its job; empty if the action was immediate.
        message: why the action was refused.
        details: further details, as displayed on the page.
        reason: the user's reason, if one is required.
        before, after: the values that the action changed, if they are recorded.
        address: page of the item or the batch that the entry is about; empty for other objects.
        source: UI, API, CLI, system, or unknown for entries of an earlier version.
    """

    when: datetime
    who: str
    about: str
    what: str
    experiment: Experiment | None = None
    iteration: int | None = None
    status: str = ""
    status_label: str = ""
    finished: datetime | None = None
    message: str = ""
    details: str = ""
    reason: str = ""
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    address: str = ""
    source: str = ""


def find_activity(person: AnyUser, wanted: LogFilter) -> QuerySet[Activity]:
    """Select the rows that a user can see and that match the filter, newest first."""
    rows = Activity.objects.filter(_match_visible(person)).select_related("experiment", "job")
    if wanted.person:
        rows = rows.filter(
            Q(actor_name__icontains=wanted.person)
            | Q(object_type=ObjectType.ACCOUNT, object_name__icontains=wanted.person)
        )
    if wanted.experiment:
        rows = rows.filter(experiment_name__icontains=wanted.experiment)
    if wanted.kind:
        rows = rows.filter(action__in=_GROUPS.get(wanted.kind, (wanted.kind,)))
    if wanted.source:
        rows = rows.filter(source=wanted.source)
    if wanted.since:
        rows = rows.filter(created__gte=_get_midnight(wanted.since))
    if wanted.until and wanted.until < date.max:
        rows = rows.filter(created__lt=_get_midnight(wanted.until + timedelta(days=1)))
    return rows


def _get_midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=timezone.get_default_timezone())


def _match_visible(person: AnyUser) -> Q:
    """Match rows about experiments that a user can see, and the user's own.

    Security events of other users and the answers of auditors require a permission.
    """
    if not isinstance(person, User):
        return Q(pk__in=())
    own = Q(actor=person)
    is_security, is_item = Q(action__in=SECURITY_ACTIONS), Q(action__in=ITEM_ACTIONS)
    about_user = own | _match_account(person)
    others = Q() if person.has_perm(RUN_ALL) else _match_work(person, own)
    visible = ~is_security & ~is_item & others
    visible |= is_security if person.has_perm(SEE_EVENTS) else is_security & about_user
    return visible | is_item if person.has_perm(ADJUDICATE) else visible


def _match_account(person: User) -> Q:
    """Match events of an account, but not those of an earlier account with the same name."""
    by_id = Q(object_id=person.pk)
    by_name = Q(
        object_id=None, object_name=person.get_username(), created__gte=person.date_joined
    )  # what earlier versions recorded
    return Q(object_type=ObjectType.ACCOUNT) & (by_id | by_name)


def _match_work(person: User, own: Q) -> Q:
    return Q(experiment__in=get_visible_experiments(person)) | Q(experiment=None) & own


def iter_entries(person: AnyUser, wanted: LogFilter) -> Iterator[ActivityEntry]:
    """Yield all visible, matching entries, newest first, in chunks."""
    keys = list(find_activity(person, wanted).values_list("pk", flat=True))
    for start in range(0, len(keys), _ENTRIES_AT_ONCE):
        some = keys[start : start + _ENTRIES_AT_ONCE]
        found = Activity.objects.select_related("experiment", "job").in_bulk(some)
        yield from (make_entry(found[key]) for key in some if key in found)


def stream_csv(person: AnyUser, wanted: LogFilter) -> Iterator[bytes]:
    """Yield these entries as CSV with a header."""
    yield format_csv([CSV_COLUMNS]).encode()
    for entry in iter_entries(person, wanted):
        yield format_csv([_make_csv_row(entry)]).encode()


def _make_csv_row(entry: ActivityEntry) -> list[object]:
    return [
        entry.when.isoformat(),
        entry.who,
        entry.what,
        entry.about,
        entry.iteration,
        entry.status,
        entry.finished and entry.finished.isoformat(),
        entry.reason,
        dict(entry.before) or None,
        dict(entry.after) or None,
        entry.details,
        entry.message,
        entry.source,
    ]


def make_entry(row: Activity) -> ActivityEntry:
    """Format a row, with the current status of its job."""
    job = row.job
    number = job.outcome.get("iteration") if job is not None else None
    return ActivityEntry(
        when=row.created,
        who=row.actor_name,
        about=f"account {row.object_name}"
        if row.object_type == ObjectType.ACCOUNT
        else row.object_name,
        what=_format_action(row),
        experiment=row.experiment,
        iteration=number if isinstance(number, int) else row.iteration,
        status=job.status if job is not None else "",
        status_label=job.get_status_display() if job is not None else "",
        finished=job.finished if job is not None else None,
        message=job.message if job is not None else "",
        details=_describe(row),
        reason=row.reason,
        before=row.before,
        after=row.after,
        address=_find_address(row),
        source=row.get_source_display(),
    )


def _find_address(row: Activity) -> str:
    """Find the page of the batch or the item that an entry names; batches are never deleted."""
    named = _BATCH.fullmatch(row.object_name)
    if row.object_type not in (ObjectType.BATCH, ObjectType.ITEM) or named is None:
        return ""
    item, batch = named.groups()
    return (
        reverse("audit_review", args=[batch, item])
        if item
        else reverse("audit_report", args=[batch])
    )


def _format_action(row: Activity) -> str:
    if row.action == Action.GATE_OVERRIDDEN:
        outcome = str(row.after.get("outcome", ""))
        labels = dict(OverrideOutcome.choices)
        return f"{row.get_action_display()}; trains on {labels.get(outcome, outcome)}"
    return row.get_action_display()


def _describe(row: Activity) -> str:
    """Describe an action in detail."""
    if row.action == Action.HAND_OVER:
        return _describe_ownership(row)
    if row.action == Action.SETTINGS:
        return _describe_settings(row, row.job)
    address = f"from {row.address}" if row.action in SECURITY_ACTIONS and row.address else ""
    return " ".join(filter(None, [row.reason, row.details, address]))


def _describe_settings(row: Activity, job: Job | None) -> str:
    """Describe which values changed, from which iteration on, and what is rerun."""
    values = ", ".join(
        f"{get_current_key(key)}: {row.before.get(key)} → {row.after[key]}" for key in row.after
    )
    outcome = job.outcome if job is not None else {}
    start, again = outcome.get("from_iteration"), outcome.get("made_again") or {}
    return "; ".join(
        [
            values,
            *([f"from iteration {start}"] if start else []),
            *([f"rerun: {', '.join(again)}"] if again else []),
        ]
    )


def _describe_ownership(row: Activity) -> str:
    """Describe owner and visibility before and after."""
    names = {"owner": "owner", "is_private": "private"}
    return ", ".join(
        f"{label}: {_format_value(row.before.get(name))} → {_format_value(row.after.get(name))}"
        for name, label in names.items()
        if row.before.get(name) != row.after.get(name)
    )


def _format_value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "nobody" if value is None else str(value)
