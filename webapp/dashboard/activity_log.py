"""The log: who did what when, and what became of it, put together from where it is written down.

What people ask for are orders; what becomes of accounts and tokens are events; who let an
iteration train without a passed audit are overrides; what is done to gates and batches are acts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django import forms
from django.contrib.auth.models import User
from django.db.models import F, Model, Q, QuerySet, Value

from webapp.accounts.models import Event
from webapp.accounts.permissions import AnyUser, get_visible_experiments
from webapp.accounts.roles import RUN_ALL, SEE_EVENTS
from webapp.audit.models import Act, Override
from webapp.experiments.models import Experiment, JobKind, Order

ENTRIES_ON_A_PAGE: Final = 50
ACCOUNTS: Final = "accounts"
OVERRIDES: Final = "overrides"
ACTS: Final = "acts"

_KINDS: Final = [
    ("", "everything"),
    *JobKind.choices,
    (OVERRIDES, "train without a passed audit"),
    (ACTS, "gates and batches of audits"),
    (ACCOUNTS, "accounts, roles and tokens"),
]
_GONE: Final = "somebody who is gone"


class LogForm(forms.Form):
    """What of the log is shown; empty fields show all."""

    person = forms.CharField(required=False, max_length=150, label="Person")
    experiment = forms.CharField(required=False, max_length=64, label="Experiment")
    kind = forms.ChoiceField(required=False, choices=_KINDS, label="What")


@dataclass(frozen=True, slots=True)
class LogFilter:
    """What of the log is asked for; empty is everything."""

    person: str = ""
    experiment: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class ActivityEntry:
    """A line of the log.

    Attributes:
        about: name of an experiment or an account.
        experiment: where the line leads to, if it is about one that is there.
        iteration: its number, where the line is about one.
        status: how far it is; "" where it was done at once.
        finding: why it was refused.
        details: more about it, in words.
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
    finding: str = ""
    details: str = ""


@dataclass(frozen=True, slots=True)
class LogSource:
    """A table that the log is made of.

    Attributes:
        when: its column of the time.
        related: what a line needs beside the row.
        find: rows that a person may see and asks for.
        lay_out: a row as a line.
    """

    model: type[Model]
    when: str
    related: Sequence[str]
    find: Callable[[AnyUser, LogFilter], QuerySet[Any]]
    lay_out: Callable[[Any], ActivityEntry]


def find_keys(person: AnyUser, wanted: LogFilter) -> QuerySet[Any, Any]:
    """Source, key and time of the entries that a person may see and asks for, newest first."""
    found = [
        source.find(person, wanted)
        .order_by()
        .annotate(source=Value(name), key=F("pk"), at=F(source.when))
        .values_list("source", "key", "at")
        for name, source in _SOURCES.items()
    ]
    together: QuerySet[Any, Any] = found[0].union(*found[1:], all=True)
    return together.order_by("-at", "-key")


def read_entries(keys: Iterable[tuple[str, int, datetime]]) -> list[ActivityEntry]:
    """Read some entries, in a number of queries that does not grow with them."""
    wanted = list(keys)
    rows = {
        name: _read_source(source, [key for found, key, _ in wanted if found == name])
        for name, source in _SOURCES.items()
    }
    return [rows[name][key] for name, key, _ in wanted if key in rows[name]]


def _read_source(source: LogSource, keys: Sequence[int]) -> dict[int, ActivityEntry]:
    if not keys:
        return {}
    rows = source.model._default_manager.select_related(*source.related).in_bulk(keys)
    return {key: source.lay_out(row) for key, row in rows.items()}


def get_visible_jobs(person: AnyUser) -> QuerySet[Order]:
    """Orders about experiments that a person may see, and their own; admins see all."""
    if isinstance(person, User) and person.has_perm(RUN_ALL):
        return Order.objects.all()
    own = Q(experiment=None, by=person.pk)
    return Order.objects.filter(Q(experiment__in=get_visible_experiments(person)) | own)


def _find_jobs(person: AnyUser, wanted: LogFilter) -> QuerySet[Order]:
    orders = get_visible_jobs(person)
    if wanted.person:
        orders = orders.filter(by__username__icontains=wanted.person)
    if wanted.experiment:
        orders = orders.filter(subject__icontains=wanted.experiment)
    if wanted.kind:
        orders = orders.filter(kind=wanted.kind)
    return orders


def _make_job_entry(order: Order) -> ActivityEntry:
    number = order.outcome.get("iteration")
    return ActivityEntry(
        when=order.created,
        who=str(order.by or _GONE),
        about=order.subject,
        what=order.get_kind_display(),
        experiment=order.experiment,
        iteration=number if isinstance(number, int) else None,
        status=order.status,
        status_label=order.get_status_display(),
        finished=order.finished,
        finding=order.finding,
        details=_describe_change(order) if order.kind == JobKind.HAND_OVER else "",
    )


def _describe_change(order: Order) -> str:
    """Say what was before and what is since."""
    before: Mapping[str, Any] = order.outcome.get("before", {})
    names = {"owner": "owner", "is_private": "private"}
    return ", ".join(
        f"{label}: {_format_value(before.get(name))} → {_format_value(order.wish.get(name))}"
        for name, label in names.items()
        if before.get(name) != order.wish.get(name)
    )


def _format_value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "nobody" if value is None else str(value)


def _find_events(person: AnyUser, wanted: LogFilter) -> QuerySet[Event]:
    """What became of accounts is for those who may know; of one's own everybody may."""
    if wanted.experiment or wanted.kind not in {"", ACCOUNTS} or not isinstance(person, User):
        return Event.objects.none()
    events = Event.objects.all()
    if not person.has_perm(SEE_EVENTS):
        events = events.filter(Q(by=person) | Q(subject=person.get_username()))
    if wanted.person:
        named = Q(by__username__icontains=wanted.person)
        events = events.filter(named | Q(subject__icontains=wanted.person))
    return events


def _make_event_entry(event: Event) -> ActivityEntry:
    return ActivityEntry(
        when=event.created,
        who=str(event.by) if event.by else "a command, or a stranger",
        about=f"account {event.subject}",
        what=event.get_kind_display(),
        details=" ".join(filter(None, [event.detail, event.address and f"from {event.address}"])),
    )


def _make_audit_finder(
    model: type[Act | Override], kind: str
) -> Callable[[AnyUser, LogFilter], QuerySet[Any]]:
    """What was done about audits of the experiments that a person may see."""

    def find(person: AnyUser, wanted: LogFilter) -> QuerySet[Any]:
        rows = model._default_manager.filter(experiment__in=get_visible_experiments(person))
        if wanted.kind not in {"", kind}:
            return rows.none()
        if wanted.person:
            rows = rows.filter(by_name__icontains=wanted.person)
        if wanted.experiment:
            rows = rows.filter(subject__icontains=wanted.experiment)
        return rows

    return find


def _make_override_entry(override: Override) -> ActivityEntry:
    return ActivityEntry(
        when=override.when,
        who=override.by_name,
        about=override.subject,
        what=f"let it train on {override.get_outcome_display()} without a passed audit",
        experiment=override.experiment,
        iteration=override.iteration,
        details=override.reason,
    )


def _make_act_entry(act: Act) -> ActivityEntry:
    return ActivityEntry(
        when=act.when,
        who=act.by_name,
        about=act.subject,
        what=act.get_deed_display(),
        experiment=act.experiment,
        details=act.reason,
    )


_SOURCES: Final[Mapping[str, LogSource]] = {
    "order": LogSource(Order, "created", ("by", "experiment"), _find_jobs, _make_job_entry),
    "event": LogSource(Event, "created", ("by",), _find_events, _make_event_entry),
    "override": LogSource(
        model=Override,
        when="when",
        related=("experiment",),
        find=_make_audit_finder(Override, OVERRIDES),
        lay_out=_make_override_entry,
    ),
    "act": LogSource(Act, "when", ("experiment",), _make_audit_finder(Act, ACTS), _make_act_entry),
}
