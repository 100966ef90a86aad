"""Columns of the run table: displayed values and sort keys.

A column reads the values of any number of experiments in one or two queries, whether for a page, an
export, or sorting.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

from django.db.models import BigIntegerField, Count, Max, Min, Q, QuerySet, Sum
from django.db.models.fields.json import KeyTextTransform, KeyTransform
from django.db.models.functions import Cast
from django.utils import timezone

from meta_reward_core.recipes.canonical import restore_names
from meta_reward_core.recipes.dataflow import flatten_values
from webapp.charts.scales import format_number
from webapp.dashboard.main_metric import get_true_quality
from webapp.experiment_form.compare import METRIC_TITLES
from webapp.experiment_form.recipe_fields import write_value
from webapp.experiments.models import (
    Attempt,
    Experiment,
    ExperimentTag,
    Iteration,
    RunStatus,
    Shard,
    ShardStatus,
)
from webapp.experiments.stage_progress import format_duration
from webapp.experiments.statuses import RUN_STATUSES, write_public_status

Values = Mapping[int, Any]
Rows = QuerySet[Experiment]

_METRIC: Final = "metric."
_RECIPE: Final = "recipe."
_RECIPES_READ: Final = 100
_MAX_OFFERED: Final = 80
_HOUR: Final = 3600.0
_MAX_KNOWN: Final = 4096
_known_recipes: Final[dict[str, Mapping[str, Any]]] = {}

_MAX_KEYS: Final = 5000
_MAX_VALUES: Final = 50_000
_known_values: Final[dict[tuple[str, int, datetime | None], Any]] = {}
"""Values of completed iterations by name, the iteration's key, and its end."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the run table.

    Attributes:
        key: name of the column in URLs.
        read: reads values by experiment key; experiments without a value may be absent.
        get: gets the value from a row loaded with its owner and tags, if that is sufficient.
        write: formats a value for the table.
        is_number: whether values are right-aligned.
        explanation: text shown with the heading.
    """

    key: str
    label: str
    read: Callable[[Rows], Values]
    write: Callable[[Any], str] = str
    is_number: bool = False
    explanation: str = ""
    get: Callable[[Experiment], Any] | None = None


def _read_status(rows: Rows) -> Values:
    order = {word: place for place, (word, _) in enumerate(RUN_STATUSES)}
    labels = dict(RunStatus.choices)
    return {
        pk: order[write_public_status(str(labels[status]))]
        for pk, status in rows.values_list("pk", "status")
    }


def _read_progress(rows: Rows) -> Values:
    finished = Count("pk", filter=Q(status=RunStatus.FINISHED))
    return dict(_of(rows).values_list("experiment").annotate(finished_count=finished))


def _of(rows: Rows) -> QuerySet[Iteration]:
    return Iteration.objects.filter(experiment__in=rows.order_by().values("pk")).order_by()


def _read_duration(rows: Rows) -> Values:
    """Duration from the first start to the last end, or until now, in seconds."""
    now = timezone.now()
    found = _of(rows).values_list("experiment").annotate(
            began=Min("started"), ended=Max("finished"),
            running=Count("pk", filter=Q(status=RunStatus.RUNNING)),
        )  # fmt: skip
    return {
        pk: (((now if running else ended) or now) - started).total_seconds()
        for pk, started, ended, running in found
        if started is not None
    }


def _read_tokens(rows: Rows) -> Values:
    count = Cast(KeyTextTransform("tokens", "counts"), BigIntegerField())

    def read(iterations: QuerySet[Iteration]) -> Values:
        shards = Shard.objects.filter(
            stage__iteration__in=iterations.values("pk"), status=ShardStatus.FINISHED
        )
        totals = shards.order_by().values_list("stage__iteration").annotate(total=Sum(count))
        return dict(totals)

    return _sum_by_experiment("tokens", rows, read)


def _read_cost(rows: Rows) -> Values:
    """Time that workers spent on attempts, failed ones included, in hours."""

    def read(iterations: QuerySet[Iteration]) -> Values:
        attempts = Attempt.objects.filter(shard__stage__iteration__in=iterations.values("pk"))
        totals = attempts.order_by().values_list("shard__stage__iteration")
        return dict(totals.annotate(total=Sum("seconds")))

    return {
        pk: seconds / _HOUR for pk, seconds in _sum_by_experiment("seconds", rows, read).items()
    }


def _sum_by_experiment(
    name: str, rows: Rows, read: Callable[[QuerySet[Iteration]], Values]
) -> dict[int, Any]:
    """Sum values of iterations; those of a completed one are read once per process.

    Args:
        name: name of the value.
        read: reads the values of iterations by their keys.
    """
    found = list(_of(rows).values_list("pk", "experiment", "status", "finished"))
    known = {pk: _known_values.get((name, pk, ended)) for pk, _, status, ended in found
             if status == RunStatus.FINISHED}  # fmt: skip
    missing = [pk for pk, *_ in found if known.get(pk) is None]
    values = read(_select_iterations(missing, rows)) if missing else {}
    totals: dict[int, Any] = {}
    for pk, experiment, status, ended in found:
        kept = known.get(pk)
        value = (values.get(pk) or 0) if kept is None else kept
        if status == RunStatus.FINISHED:
            _keep_value((name, pk, ended), value)
        if value:
            totals[experiment] = totals.get(experiment, 0) + value
    return totals


def _select_iterations(keys: Sequence[int], rows: Rows) -> QuerySet[Iteration]:
    """Select iterations by their keys, or all rows if there are too many keys."""
    return Iteration.objects.filter(pk__in=keys) if len(keys) <= _MAX_KEYS else _of(rows)


def _keep_value(key: tuple[str, int, datetime | None], value: Any) -> None:
    if key[-1] is None:
        return  # the value may still change, and the key would stay the same
    if len(_known_values) >= _MAX_VALUES:
        _known_values.clear()
    _known_values[key] = value


def read_last_metrics(rows: Rows, section: str) -> dict[int, Any]:
    """Load one section of the summary of each experiment's last completed iteration."""
    completed = _of(rows).filter(status=RunStatus.FINISHED).order_by("number")
    last = {experiment: (pk, ended) for experiment, pk, ended in
            completed.values_list("experiment", "pk", "finished")}  # fmt: skip
    missing = {
        pk: ended for pk, ended in last.values() if (section, pk, ended) not in _known_values
    }
    read: dict[int, Any] = {}
    if missing:
        part = KeyTransform(section, "metrics")
        parts = _select_iterations(list(missing), rows).annotate(part=part)
        read = {pk: value for pk, value in parts.values_list("pk", "part") if pk in missing}
    found = {}
    for experiment, (pk, ended) in last.items():
        if pk in missing:
            _keep_value((section, pk, ended), read.get(pk))
            found[experiment] = read.get(pk)
        else:
            found[experiment] = _known_values.get((section, pk, ended))
    return found


def _read_main_metric(rows: Rows) -> Values:
    """True quality, if any of the experiments has it, else the mean judge score."""
    truth = read_last_metrics(rows, "truth")
    values = {pk: get_true_quality(found, "after") for pk, found in truth.items()}
    known = {pk: value for pk, value in values.items() if value is not None}
    if known:
        return known
    judged = {
        pk: (found or {}).get("mean") for pk, found in read_last_metrics(rows, "judge").items()
    }
    return {pk: mean for pk, mean in judged.items() if mean is not None}


def _read_alarms(rows: Rows) -> Values:
    return {pk: len(alarms or []) for pk, alarms in read_last_metrics(rows, "alarms").items()}


def _read_owner(rows: Rows) -> Values:
    return {pk: name for pk, name in rows.values_list("pk", "owner__username") if name}


def _read_tags(rows: Rows) -> Values:
    tags = ExperimentTag.objects.filter(experiment__in=rows.order_by().values("pk"))
    found: dict[int, str] = {}
    for pk, name in tags.order_by("name").values_list("experiment", "name"):
        found[pk] = f"{found[pk]}, {name}" if pk in found else name
    return found


def _read_field(name: str, rows: Rows) -> Values:
    return {pk: value for pk, value in rows.values_list("pk", name) if value not in ("", None)}


def _read_recipe_name(rows: Rows) -> Values:
    named = rows.annotate(recipe_name=KeyTextTransform("name", "recipe"))
    return dict(named.values_list("pk", "recipe_name"))


def _format_time(value: datetime) -> str:
    return f"{timezone.localtime(value):%Y-%m-%d %H:%M}"


def _format_hours(value: float) -> str:
    return "under 0.01" if value < 0.005 else f"{value:,.2f}"


def _format_progress(value: int) -> str:
    return f"{value} iteration{'s'[: value != 1]}"


COLUMNS: Final[Mapping[str, Column]] = {
    column.key: column
    for column in (
        Column("status", "Status", _read_status),
        Column("progress", "Progress", _read_progress, _format_progress),
        Column("duration", "Duration", _read_duration, format_duration, is_number=True,
               explanation="From the first start to the last end, or until now"),
        Column("tokens", "Tokens", _read_tokens, format_number, is_number=True,
               explanation="Tokens generated by completed shards"),
        Column("cost", "Cost (worker-hours)", _read_cost, _format_hours, is_number=True,
               explanation="Time that workers spent on all attempts"),
        Column("alarms", "Alarms", _read_alarms, format_number, is_number=True,
               explanation="Alarms of the last completed iteration"),
        Column("metric", "Main metric", _read_main_metric, format_number, is_number=True,
               explanation="Of the latest measured model, with its change from M0"),
        Column("recipe", "Recipe", _read_recipe_name, get=lambda row: row.recipe.get("name")),
        Column("tags", "Tags", _read_tags,
               get=lambda row: ", ".join(tag.name for tag in row.tags.all())),
        Column("description", "Description", partial(_read_field, "description"),
               get=lambda row: row.description),
        Column("owner", "Owner", _read_owner, get=lambda row: row.owner),
        Column("created", "Created", partial(_read_field, "created"), _format_time,
               get=lambda row: row.created),
    )
}  # fmt: skip
DEFAULT: Final = ("status", "progress", "metric", "duration", "alarms", "owner", "created")


def find_column(key: str) -> Column | None:
    """Find a column by its name in URLs; None if it cannot exist."""
    if key in COLUMNS:
        return COLUMNS[key]
    if key.startswith(_METRIC) and len(key) < 200:
        return _make_metric_column(key.removeprefix(_METRIC))
    if key.startswith(_RECIPE) and len(key) < 200:
        path = key.removeprefix(_RECIPE)
        return Column(key, path, partial(_read_recipe_value, path), write_value)
    return None


def _make_metric_column(path: str) -> Column:
    section = path.partition(".")[0]

    def read(rows: Rows) -> Values:
        found = read_last_metrics(rows, section).items()
        values = {pk: dict(_iter_numbers(part, section)).get(path) for pk, part in found}
        return {pk: value for pk, value in values.items() if value is not None}

    label = METRIC_TITLES.get(path, path.replace("_", " ").replace(".", ": "))
    return Column(_METRIC + path, label, read, format_number, is_number=True,
                  explanation="In the last completed iteration")  # fmt: skip


def _iter_numbers(values: Any, path: str) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a summary by path; list entries are named by their kind or name."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _iter_numbers(value, f"{path}.{name}")
    elif isinstance(values, list):
        for value in values:
            if isinstance(value, Mapping):
                yield from _iter_numbers(value, f"{path}.{_name_entry(value)}")
    elif isinstance(values, int | float) and not isinstance(values, bool):
        yield path, values


def _name_entry(value: Mapping[str, Any]) -> str:
    names = ("kind", "stage", "subject", "metric", "name")
    return ".".join(str(value[name]) for name in names if name in value) or "entry"


def _read_recipe_value(path: str, rows: Rows) -> Values:
    hashes = dict(rows.values_list("pk", "recipe_sha256"))
    recipes = _read_recipes({sha256: pk for pk, sha256 in hashes.items()})
    found = {pk: recipes.get(sha256, {}) for pk, sha256 in hashes.items()}
    return {pk: values[path] for pk, values in found.items() if path in values}


def list_metric_columns(rows: Rows) -> list[Column]:
    """List the metrics of the last completed iterations of some experiments."""
    completed = _of(rows).filter(status=RunStatus.FINISHED)
    paths: dict[str, None] = {}
    for metrics in completed.order_by("-pk").values_list("metrics", flat=True)[:5]:
        for section in ("judge", "meta_judge", "response_chars", "score_length_correlation",
                        "pairs", "training", "truth"):  # fmt: skip
            paths |= dict.fromkeys(path for path, _ in _iter_numbers(metrics.get(section), section))
    return [_make_metric_column(path) for path in list(paths)[:_MAX_OFFERED]]


def list_recipe_columns(rows: Rows) -> list[Column]:
    """List the recipe values that differ between the latest experiments."""
    hashes = dict(rows.order_by("created").values_list("recipe_sha256", "pk"))
    latest = sorted(hashes.items(), key=lambda pair: -pair[1])[:_RECIPES_READ]
    recipes = list(_read_recipes(dict(latest)).values())
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    differing = [key for key in keys if len({str(recipe.get(key)) for recipe in recipes}) > 1]
    found = [find_column(_RECIPE + key) for key in differing if key not in ("name", "description")]
    return [column for column in found if column is not None][:_MAX_OFFERED]


def _read_recipes(latest: Mapping[str, int]) -> Mapping[str, Mapping[str, Any]]:
    """Return flat recipes by hash, each read once per process.

    Args:
        latest: for each recipe hash, the key of an experiment with that recipe.
    """
    missing = {pk: sha256 for sha256, pk in latest.items() if sha256 not in _known_recipes}
    if len(_known_recipes) > _MAX_KNOWN:
        _known_recipes.clear()
        missing = {pk: sha256 for sha256, pk in latest.items()}
    for pk, recipe in Experiment.objects.filter(pk__in=missing).values_list("pk", "recipe"):
        _known_recipes[missing[pk]] = flatten_values(restore_names(recipe))
    return {sha256: _known_recipes[sha256] for sha256 in latest if sha256 in _known_recipes}


def sort_keys(column: Column, rows: Rows, *, descending: bool) -> list[int]:
    """Sort experiment keys by a column; those without a value are last.

    Experiments with equal values keep the order of the rows, newest first.
    """
    keys = list(rows.values_list("pk", flat=True))
    values = column.read(rows)
    known = [key for key in keys if values.get(key) is not None]
    known.sort(key=lambda key: _rank(values[key]), reverse=descending)
    return known + [key for key in keys if values.get(key) is None]


def _rank(value: Any) -> tuple[int, float, str]:
    """Order numbers before texts, so that mixed recipe values can be sorted."""
    if isinstance(value, datetime):
        return (0, value.timestamp(), "")
    if isinstance(value, int | float):
        return (0, float(value), "")
    return (1, 0.0, str(value).casefold())
