"""The run table: experiments, columns and order, all in the URL."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, cast

from django import forms
from django.contrib.auth.models import User
from django.core.paginator import Page, Paginator
from django.db.models import Case, Exists, OuterRef, Q, QuerySet, When
from django.http import QueryDict

from meta_reward_core.data.csv_safety import format_csv
from webapp.accounts.permissions import AnyUser, can_control, get_visible_experiments
from webapp.dashboard.main_metric import (
    MEAN_SCORE,
    TRUE_QUALITY,
    MainMetric,
    read_main_metric,
)
from webapp.dashboard.run_columns import (
    COLUMNS,
    DEFAULT,
    Column,
    find_column,
    list_metric_columns,
    list_recipe_columns,
    sort_keys,
)
from webapp.experiments.models import Experiment, ExperimentTag, RunStatus
from webapp.experiments.progress import (
    ExperimentSummary,
    count_live_workers,
    is_active,
    needs_workers,
    summarize_experiments,
)
from webapp.experiments.statuses import (
    RUN_STATUSES,
    find_run_statuses,
    get_public_status,
    write_public_status,
)

_PAGE_SIZES: Final = (20, 50, 100, 200)
_MAX_COLUMNS: Final = 30
_EXPORTED_AT_ONCE: Final = 500
_ATTENTION_FIRST: Final = ""
_NEWEST_FIRST: Final = "-created"
_ENDED_EARLY: Final = (RunStatus.FAILED, RunStatus.NO_PAIRS)
"""Statuses that follow those that need attention: nothing continues without a decision."""
_ARCHIVED: Final = [("", "not archived"), ("1", "archived"), ("all", "all")]
_NEWEST: Final = ("-created", "-pk")
_RELATED: Final[Sequence[str]] = ("iterations", "tags")
_DRAWN: Final = frozenset({"status", "progress", "metric"})
"""Columns whose cells show more than a plain value."""


class FilterForm(forms.Form):
    """Filter of the run table; by default all experiments that are not archived."""

    q = forms.CharField(required=False, max_length=64, label="Search")
    status = forms.ChoiceField(
        required=False, choices=[("", "any status"), *RUN_STATUSES], label="Status"
    )
    owner = forms.ChoiceField(required=False, label="Owner")
    tag = forms.ChoiceField(required=False, label="Tag")
    archived = forms.ChoiceField(required=False, choices=_ARCHIVED, label="Archive")
    sort = forms.ChoiceField(required=False, label="Sort by")
    size = forms.TypedChoiceField(
        required=False,
        coerce=int,
        empty_value=None,
        choices=[(size, f"{size} rows") for size in _PAGE_SIZES],
        label="Page size",
    )

    def __init__(self, data: Mapping[str, Any], *, visible: QuerySet[Experiment]) -> None:
        super().__init__(data, label_suffix="")
        self._offer("owner", "any owner", list_owners(visible))
        self._offer("tag", "any tag", list_tags(visible))

    def _offer(self, name: str, anything: str, values: Sequence[str]) -> None:
        field = cast("forms.ChoiceField", self.fields[name])
        field.choices = [("", anything), *((value, value) for value in values)]

    def offer_sort(self, columns: Sequence[Column]) -> None:
        """List the sort orders of columns, in both directions."""
        field = cast("forms.ChoiceField", self.fields["sort"])
        field.choices = [(_ATTENTION_FIRST, "needs attention, failed, then newest")] + [
            (f"{sign}{column.key}", f"{column.label}, {direction}")
            for column in columns
            for sign, direction in (("", "ascending"), ("-", "descending"))
        ]


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a row."""

    column: Column
    text: str


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading that sorts the table.

    Attributes:
        order: "ascending", "descending", or "" if the table is sorted by another column.
        sort: URL value that sorts by it, or reverses its order.
    """

    column: Column
    order: str
    sort: str


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table."""

    summary: ExperimentSummary
    cells: Sequence[Cell]
    metric: MainMetric | None
    tags: Sequence[str]
    may_control: bool


@dataclass(frozen=True)
class RunTable:
    """The table for a URL.

    Attributes:
        rows: all experiments of the table; `page` contains one page of them.
    """

    rows: QuerySet[Experiment]

    form: FilterForm
    is_filtered: bool
    sort: str
    page: Page[Any]
    headings: Sequence[Heading]
    lines: Sequence[Line]
    chosen: Sequence[str]
    fixed: Sequence[Column]
    is_active: bool
    lacks_workers: bool
    may_control: bool
    shows_archived: bool

    @property
    def metric_title(self) -> str:
        """Name of the main metric: true quality, if any row has it."""
        titles = {line.metric.title for line in self.lines if line.metric is not None}
        return MEAN_SCORE if titles == {MEAN_SCORE} else TRUE_QUALITY

    @property
    def order(self) -> str:
        """Description of the order of the rows."""
        field = cast("forms.ChoiceField", self.form.fields["sort"])
        labels = {str(value): str(label) for value, label in cast("Any", field.choices)}
        return labels.get(self.sort, labels[_ATTENTION_FIRST])

    @cached_property
    def metrics(self) -> Sequence[Column]:
        """Metric columns to choose from, computed on demand."""
        return list_metric_columns(self.rows)

    @cached_property
    def recipe(self) -> Sequence[Column]:
        """Recipe value columns to choose from."""
        return list_recipe_columns(self.rows)


def list_owners(visible: QuerySet[Experiment]) -> list[str]:
    """List the names of users who own experiments."""
    owners = User.objects.filter(experiments__in=visible.order_by().values("pk")).distinct()
    return list(owners.order_by("username").values_list("username", flat=True))


def list_tags(visible: QuerySet[Experiment]) -> list[str]:
    """List the tags in use."""
    tags = ExperimentTag.objects.filter(experiment__in=visible.order_by().values("pk"))
    return list(tags.order_by("name").values_list("name", flat=True).distinct())


def filter_experiments(
    rows: QuerySet[Experiment],
    *,
    q: str = "",
    status: str = "",
    owner: str = "",
    tag: str = "",
    archived: str = "",
) -> QuerySet[Experiment]:
    """Filter experiments by text in name, description or tags, and by the other fields."""
    if archived != "all":
        rows = rows.filter(Q(archived__isnull=not archived))
    if q:
        tagged = ExperimentTag.objects.filter(experiment=OuterRef("pk"), name__icontains=q)
        rows = rows.filter(Q(name__icontains=q) | Q(description__icontains=q) | Q(Exists(tagged)))
    if status:
        rows = rows.filter(status__in=find_run_statuses(status))
    if owner:
        rows = rows.filter(owner__username=owner)
    if tag:
        rows = rows.filter(
            Exists(ExperimentTag.objects.filter(experiment=OuterRef("pk"), name=tag))
        )
    return rows


def read_run_table(user: AnyUser, query: QueryDict) -> RunTable:
    """Load one page of the table with a constant number of queries."""
    visible = get_visible_experiments(user)
    form = FilterForm(_translate(query), visible=visible)
    columns = list_columns(query)
    form.offer_sort(list(dict.fromkeys([*COLUMNS.values(), *columns])))
    form.is_valid()
    rows = _filter(visible, form)
    sort = _get_sort(query)
    paginator = Paginator(_order(rows, sort), form.cleaned_data.get("size") or _PAGE_SIZES[0])
    page = paginator.get_page(query.get("page"))
    shown = _load_rows(list(page.object_list))
    lines = _make_lines(user, shown, columns)
    summaries = [line.summary for line in lines]
    return RunTable(
        rows=rows,
        form=form,
        is_filtered=any(query.get(name) for name in ("q", "status", "owner", "tag", "archived")),
        sort=sort,
        page=page,
        headings=[_make_heading(column, sort) for column in columns],
        lines=lines,
        chosen=[column.key for column in columns],
        fixed=list(COLUMNS.values()),
        is_active=any(is_active(summary.row) for summary in summaries),
        lacks_workers=any(needs_workers(summary.row) for summary in summaries)
        and not count_live_workers(),
        may_control=any(line.may_control for line in lines),
        shows_archived=bool(query.get("archived")),
    )


def _translate(query: QueryDict) -> dict[str, str]:
    """Convert earlier names of statuses in URLs."""
    given = {name: value for name, value in query.items() if isinstance(value, str)}
    found = find_run_statuses(given.get("status", ""))
    if found:
        given["status"] = write_public_status(str(found[0].label))
    return given


def _filter(visible: QuerySet[Experiment], form: FilterForm) -> QuerySet[Experiment]:
    """Apply the filter; invalid fields are ignored."""
    names = ("q", "status", "owner", "tag", "archived")
    given = {name: form.cleaned_data.get(name) or "" for name in names}
    return filter_experiments(visible, **given)


def list_columns(query: QueryDict) -> list[Column]:
    """List the columns in the URL that exist."""
    keys = dict.fromkeys(query.getlist("col")[:_MAX_COLUMNS]) or dict.fromkeys(DEFAULT)
    found = [find_column(key) for key in keys]
    return [column for column in found if column is not None] or [COLUMNS["status"]]


def _get_sort(query: QueryDict) -> str:
    sort = query.get("sort") or _ATTENTION_FIRST
    return sort if find_column(sort.removeprefix("-")) is not None else _ATTENTION_FIRST


def _order(rows: QuerySet[Experiment], sort: str) -> list[int] | QuerySet[Any, Any]:
    column = find_column(sort.removeprefix("-"))
    if column is None:
        needed = When(status=RunStatus.NEEDS_ATTENTION, then=0)
        ended = When(status__in=_ENDED_EARLY, then=1)
        return rows.order_by(Case(needed, ended, default=2), *_NEWEST).values_list("pk", flat=True)
    if sort == _NEWEST_FIRST:
        return rows.values_list("pk", flat=True)
    return sort_keys(column, rows, descending=sort.startswith("-"))


def _load_rows(keys: Sequence[int]) -> list[Experiment]:
    """Load rows with everything that a line shows, in the order of the given keys."""
    rows = Experiment.objects.filter(pk__in=keys).select_related("owner")
    found = {row.pk: row for row in rows.prefetch_related(*_RELATED)}
    return [found[key] for key in keys if key in found]


def _make_lines(user: AnyUser, rows: Sequence[Experiment], columns: Sequence[Column]) -> list[Line]:
    some = Experiment.objects.filter(pk__in=[row.pk for row in rows])
    values = {
        column.key: column.read(some) if column.get is None else _get_values(column, rows)
        for column in columns
        if column.key not in _DRAWN
    }
    has_metric = any(column.key == "metric" for column in columns)
    return [
        Line(
            summary=summary,
            cells=[
                Cell(column, _write_value(column, values.get(column.key, {}).get(summary.row.pk)))
                for column in columns
            ],
            metric=read_main_metric(summary.row) if has_metric else None,
            tags=[tag.name for tag in summary.row.tags.all()],
            may_control=can_control(user, summary.row),
        )
        for summary in summarize_experiments(rows)
    ]


def _get_values(column: Column, rows: Sequence[Experiment]) -> Mapping[int, Any]:
    get = column.get
    return {row.pk: get(row) for row in rows} if get is not None else {}


def _write_value(column: Column, value: Any) -> str:
    return "" if value is None else column.write(value)


def _make_heading(column: Column, sort: str) -> Heading:
    order = {column.key: "ascending", f"-{column.key}": "descending"}.get(sort, "")
    return Heading(column, order, f"-{column.key}" if order == "ascending" else column.key)


def stream_csv(user: AnyUser, query: QueryDict) -> Iterator[bytes]:
    """Yield all rows for a URL as CSV, from all pages."""
    visible = get_visible_experiments(user)
    form = FilterForm(_translate(query), visible=visible)
    form.is_valid()
    rows = _filter(visible, form)
    columns = [column for column in list_columns(query) if column.key not in ("status", "metric")]
    yield format_csv([["experiment", "status", *(column.key for column in columns)]]).encode()
    keys = list(_order(rows, _get_sort(query)))
    for start in range(0, len(keys), _EXPORTED_AT_ONCE):
        some = Experiment.objects.filter(pk__in=keys[start : start + _EXPORTED_AT_ONCE])
        values = [column.read(some) for column in columns]
        found = some.in_bulk()
        for key in keys[start : start + _EXPORTED_AT_ONCE]:
            if key in found:
                cells = [_make_csv_value(value.get(key)) for value in values]
                row = found[key]
                yield format_csv([[row.name, get_public_status(row), *cells]]).encode()


def _make_csv_value(value: Any) -> object:
    return value.isoformat() if hasattr(value, "isoformat") else value
