"""The activity log, merged from the tables that record actions.

User requests are jobs; changes of accounts and tokens are security events; gate overrides and
actions on gates and batches have tables of their own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from django import forms
from django.contrib.auth.models import User
from django.db.models import F, Model, Q, QuerySet, Value

from meta_reward_core.data.csv_safety import format_csv
from meta_reward_core.recipes.canonical import get_current_key
from webapp.accounts.models import SecurityEvent
from webapp.accounts.permissions import AnyUser, get_visible_experiments, get_visible_jobs
from webapp.accounts.roles import SEE_EVENTS
from webapp.audit.models import AuditLogEntry, GateOverride
from webapp.experiments.models import Experiment, Job, JobKind

ENTRIES_ON_A_PAGE: Final = 50
CSV_COLUMNS: Final = (
    *("time", "user", "action", "object", "iteration", "status", "finished"),
    *("reason", "before", "after", "details", "message"),
)
_ENTRIES_AT_ONCE: Final = 500

ACCOUNTS: Final = "accounts"
OVERRIDES: Final = "overrides"
ACTS: Final = "acts"

KINDS: Final = [
    ("", "everything"),
    *JobKind.choices,
    (OVERRIDES, "gate overrides"),
    (ACTS, "audit gates and batches"),
    (ACCOUNTS, "accounts, roles and tokens"),
]
_GONE: Final = "a deleted user"


class LogForm(forms.Form):
    """What of the log is shown; empty fields show all."""

    person = forms.CharField(required=False, max_length=150, label="User")
    experiment = forms.CharField(required=False, max_length=64, label="Experiment")
    kind = forms.ChoiceField(required=False, choices=KINDS, label="Type")


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
        message: why it was refused.
        details: more about it, as the page shows it.
        reason: why the user did it, where a reason is required.
        before, after: the values that the action changed, where they are recorded.
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


@dataclass(frozen=True, slots=True)
class LogSource:
    """A table that the log is made of.

    Attributes:
        created: name of its column of the time.
        related: what a line needs beside the row.
        find: rows that a person may see and asks for.
        lay_out: a row as a line.
    """

    model: type[Model]
    created: str
    related: Sequence[str]
    find: Callable[[AnyUser, LogFilter], QuerySet[Any]]
    lay_out: Callable[[Any], ActivityEntry]


def find_keys(person: AnyUser, wanted: LogFilter) -> QuerySet[Any, Any]:
    """Source, key and time of the entries that a person may see and asks for, newest first."""
    found = [
        source.find(person, wanted)
        .order_by()
        .annotate(source=Value(name), key=F("pk"), at=F(source.created))
        .values_list("source", "key", "at")
        for name, source in _SOURCES.items()
    ]
    together: QuerySet[Any, Any] = found[0].union(*found[1:], all=True)
    return together.order_by("-at", "-key")


def iter_entries(person: AnyUser, wanted: LogFilter) -> Iterator[ActivityEntry]:
    """Read all entries that a user may see and asks for, newest first, some at a time."""
    keys = list(find_keys(person, wanted))
    for start in range(0, len(keys), _ENTRIES_AT_ONCE):
        yield from read_entries(keys[start : start + _ENTRIES_AT_ONCE])


def stream_csv(person: AnyUser, wanted: LogFilter) -> Iterator[bytes]:
    """Write these entries as CSV, a row each, below a row of column names."""
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
    ]


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


def _find_jobs(person: AnyUser, wanted: LogFilter) -> QuerySet[Job]:
    jobs = get_visible_jobs(person)
    if wanted.person:
        jobs = jobs.filter(created_by__username__icontains=wanted.person)
    if wanted.experiment:
        jobs = jobs.filter(experiment_name__icontains=wanted.experiment)
    if wanted.kind:
        jobs = jobs.filter(kind=wanted.kind)
    return jobs


def _make_job_entry(job: Job) -> ActivityEntry:
    number = job.outcome.get("iteration")
    before, after = _get_values(job)
    return ActivityEntry(
        when=job.created,
        who=str(job.created_by or job.payload.get("command") or _GONE),
        about=job.experiment_name,
        what=job.get_kind_display(),
        experiment=job.experiment,
        iteration=number if isinstance(number, int) else None,
        status=job.status,
        status_label=job.get_status_display(),
        finished=job.finished,
        message=job.message,
        details=_describe_job(job),
        before=before,
        after=after,
    )


def _get_values(job: Job) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What a job changed: the values before and after."""
    if job.kind == JobKind.HAND_OVER:
        return job.outcome.get("before", {}), job.payload
    if job.kind == JobKind.SETTINGS:
        return job.payload.get("before", {}), job.payload.get("after", {})
    return {}, {}


def _describe_job(job: Job) -> str:
    if job.kind == JobKind.HAND_OVER:
        return _describe_change(job)
    return _describe_settings(job) if job.kind == JobKind.SETTINGS else ""


def _describe_settings(job: Job) -> str:
    """Say which values changed, from which iteration on, and what is made again."""
    before, after = _get_values(job)
    values = ", ".join(f"{get_current_key(key)}: {before.get(key)} → {after[key]}" for key in after)
    start = job.outcome.get("from_iteration")
    again = job.outcome.get("made_again") or {}
    return "; ".join(
        [
            values,
            *([f"from iteration {start} on"] if start else []),
            *([f"made again: {', '.join(again)}"] if again else []),
        ]
    )


def _describe_change(job: Job) -> str:
    """Say what was before and what is since."""
    before: Mapping[str, Any] = job.outcome.get("before", {})
    names = {"owner": "owner", "is_private": "private"}
    return ", ".join(
        f"{label}: {_format_value(before.get(name))} → {_format_value(job.payload.get(name))}"
        for name, label in names.items()
        if before.get(name) != job.payload.get(name)
    )


def _format_value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "nobody" if value is None else str(value)


def _find_events(person: AnyUser, wanted: LogFilter) -> QuerySet[SecurityEvent]:
    """What became of accounts is for those who may know; of one's own everybody may."""
    if wanted.experiment or wanted.kind not in {"", ACCOUNTS} or not isinstance(person, User):
        return SecurityEvent.objects.none()
    events = SecurityEvent.objects.all()
    if not person.has_perm(SEE_EVENTS):
        events = events.filter(Q(created_by=person) | Q(subject=person.get_username()))
    if wanted.person:
        named = Q(created_by__username__icontains=wanted.person)
        events = events.filter(named | Q(subject__icontains=wanted.person))
    return events


def _make_event_entry(event: SecurityEvent) -> ActivityEntry:
    return ActivityEntry(
        when=event.created,
        who=str(event.created_by) if event.created_by else "a command or an anonymous visitor",
        about=f"account {event.subject}",
        what=event.get_kind_display(),
        details=" ".join(filter(None, [event.detail, event.address and f"from {event.address}"])),
    )


def _make_audit_finder(
    model: type[AuditLogEntry | GateOverride], kind: str
) -> Callable[[AnyUser, LogFilter], QuerySet[Any]]:
    """What was done about audits of the experiments that a person may see."""

    def find(person: AnyUser, wanted: LogFilter) -> QuerySet[Any]:
        rows = model._default_manager.filter(experiment__in=get_visible_experiments(person))
        if wanted.kind not in {"", kind}:
            return rows.none()
        if wanted.person:
            rows = rows.filter(created_by_name__icontains=wanted.person)
        if wanted.experiment:
            rows = rows.filter(experiment_name__icontains=wanted.experiment)
        return rows

    return find


def _make_override_entry(override: GateOverride) -> ActivityEntry:
    return ActivityEntry(
        when=override.created,
        who=override.created_by_name,
        about=override.experiment_name,
        what=f"overrode the audit gate; trains on {override.get_outcome_display()}",
        experiment=override.experiment,
        iteration=override.iteration,
        details=override.reason,
        reason=override.reason,
    )


def _make_act_entry(act: AuditLogEntry) -> ActivityEntry:
    return ActivityEntry(
        when=act.created,
        who=act.created_by_name,
        about=act.experiment_name,
        what=act.get_action_display(),
        experiment=act.experiment,
        details=act.reason,
        reason=act.reason,
        before=act.before,
        after=act.after,
    )


_SOURCES: Final[Mapping[str, LogSource]] = {
    "job": LogSource(Job, "created", ("created_by", "experiment"), _find_jobs, _make_job_entry),
    "event": LogSource(SecurityEvent, "created", ("created_by",), _find_events, _make_event_entry),
    "override": LogSource(
        model=GateOverride,
        created="created",
        related=("experiment",),
        find=_make_audit_finder(GateOverride, OVERRIDES),
        lay_out=_make_override_entry,
    ),
    "act": LogSource(
        AuditLogEntry,
        "created",
        ("experiment",),
        _make_audit_finder(AuditLogEntry, ACTS),
        _make_act_entry,
    ),
}
