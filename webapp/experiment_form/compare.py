"""Compare experiments: differences of their recipes, and their metrics by iteration."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from meta_reward_core.recipes.dataflow import flatten_values
from webapp.accounts.permissions import get_visible_experiments, require_view
from webapp.charts.chart import Chart
from webapp.charts.lines import Series, build_line_chart
from webapp.charts.scales import SHARE
from webapp.experiment_form.recipe_fields import write_value
from webapp.experiments.models import Experiment, Iteration
from webapp.experiments.outcome_summary import (
    MEASURE_GROUPS,
    Measure,
    OutcomeRow,
    build_outcome_summary,
)
from webapp.htmx import render_page_or_partial

_MAX_COMPARED: Final = 6
_MAX_OFFERED: Final = 200

_JUDGING: Final = "Judge and responses"
_META_JUDGING: Final = "Meta-judge"
_PAIRS: Final = "Pairs"
_TRAINING: Final = "Training"
_TRUTH: Final = "Against ground truth"
_PERCENT: Final = "percent"
_SHARES: Final = frozenset({"share"})
"""Units of metrics between 0 and 1."""
_TRUTH_UNITS: Final = {
    "true_quality": "quality, 0 to 5",
    "true_quality_greedy": "quality, 0 to 5",
    "length_chars": "characters",
    "length_words": "words",
    "win_rate": _PERCENT,
    "length_controlled_win_rate": _PERCENT,
    "single_judgment_exact": "share",
    "parse_rate": "share",
    "order_agreement": "share",
    "accuracy": "share",
    "accuracy_better_first": "share",
    "accuracy_better_second": "share",
    "mean_score": "score, 0 to 5",
    "spearman": "rank correlation",
    "points_per_10_words": "score points",
}
"""Units of ground-truth metrics."""
_TRUTH_TITLES: Final = {
    "true_quality_greedy": "true quality of greedy responses",
    "length_chars": "length (characters)",
    "length_words": "length (words)",
    "length_controlled_win_rate": "length-controlled win rate",
    "single_judgment_exact": "exact single judgments",
    "parse_rate": "readable judgments",
    "accuracy_better_first": "accuracy, better judgment shown first",
    "accuracy_better_second": "accuracy, better judgment shown second",
    "spearman": "Spearman correlation with true quality",
    "points_per_10_words": "score gained by ten filler words",
}
"""Titles of ground-truth metrics whose names are not readable."""
_GROUPS: Final = (_JUDGING, _META_JUDGING, _PAIRS, _TRAINING, _TRUTH)


@dataclass(frozen=True, slots=True)
class ChartedMetric:
    """A metric of every iteration."""

    group: str
    title: str
    unit: str

    @property
    def within(self) -> tuple[float, float] | None:
        """Return the lowest and highest possible value, if known."""
        if self.unit == _PERCENT:
            return 0.0, 100.0
        return SHARE if self.unit in _SHARES else None


_BY_PATH: Final = {
    "judge.mean": ChartedMetric(_JUDGING, "Mean score", "score, 0 to 5"),
    "judge.entropy_bits": ChartedMetric(_JUDGING, "Entropy of the scores", "entropy in bits"),
    "judge.share_at_max": ChartedMetric(_JUDGING, "Share of scores equal to 5", "share"),
    "judge.parse_rate": ChartedMetric(_JUDGING, "Readable judgments", "share"),
    "response_chars": ChartedMetric(_JUDGING, "Length of responses", "characters"),
    "score_length_correlation": ChartedMetric(
        _JUDGING, "Correlation of score and length", "rank correlation"
    ),
    "meta_judge.parse_rate": ChartedMetric(_META_JUDGING, "Readable verdicts", "share"),
    "meta_judge.won_by_first": ChartedMetric(
        _META_JUDGING, "Battles won by the judgment shown first", "share"
    ),
    "meta_judge.inconsistency": ChartedMetric(
        _META_JUDGING, "Verdicts that change with the order", "share"
    ),
    "meta_judge.won_by_higher_score": ChartedMetric(
        _META_JUDGING, "Battles won by the higher score", "share"
    ),
    "meta_judge.won_by_longer": ChartedMetric(
        _META_JUDGING, "Battles won by the longer judgment", "share"
    ),
    "training.loss.last": ChartedMetric(_TRAINING, "Final loss", "loss"),
    "training.accuracy.last": ChartedMetric(_TRAINING, "Final DPO accuracy", "share"),
    "training.margin.last": ChartedMetric(_TRAINING, "Final reward margin", "margin"),
}
METRIC_TITLES: Final[Mapping[str, str]] = {path: metric.title for path, metric in _BY_PATH.items()}
"""Titles of metrics by their paths in an iteration's summary."""

_OF_PAIRS: Final = {
    "pairs": ("Preference pairs, {}", "pairs"),
    "yield_rate": ("Prompts with a pair, {}", "share"),
    "chosen_chars": ("Chosen length, {}", "characters"),
    "rejected_chars": ("Rejected length, {}", "characters"),
}


@dataclass(frozen=True, slots=True)
class DifferentValue:
    """The value of one experiment."""

    experiment: str
    text: str


@dataclass(frozen=True, slots=True)
class RecipeDifference:
    """A value that differs between experiments."""

    key: str
    cells: Sequence[DifferentValue]


@dataclass(frozen=True, slots=True)
class ComparedResult:
    """A metric of several experiments, from M0 to the latest model of each."""

    group: str
    title: str
    cells: Sequence[tuple[str, OutcomeRow | None]]


@dataclass(frozen=True, slots=True)
class ChartGroup:
    """Charts under one heading."""

    title: str
    charts: Sequence[Chart]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several experiments side by side."""

    experiments: Sequence[Experiment]
    results: Sequence[ComparedResult]
    differences: Sequence[RecipeDifference]
    groups: Sequence[ChartGroup]


@dataclass(frozen=True, slots=True)
class ExperimentChoice:
    """An experiment that can be selected."""

    row: Experiment
    is_chosen: bool


@require_safe
@require_view
def compare_experiments(request: HttpRequest) -> HttpResponse:
    """Show experiments to select, and the selected ones side by side."""
    names = list(dict.fromkeys(request.GET.getlist("name")))
    visible = get_visible_experiments(request.user)
    chosen = list(visible.filter(name__in=names[:_MAX_COMPARED]).prefetch_related("iterations"))
    chosen.sort(key=lambda row: names.index(row.name))
    found = {row.name for row in chosen}
    offered = [ExperimentChoice(row, row in chosen) for row in visible[:_MAX_OFFERED]]
    shown = _list_rows(offered)
    hidden = [ExperimentChoice(row, is_chosen=True) for row in chosen if row not in shown]
    context = {
        "offers": [*hidden, *offered],
        "comparison": _make_comparison(chosen) if len(chosen) > 1 else None,
        "unknown": [name[:64] for name in names[:_MAX_COMPARED] if name not in found],
        "is_one": len(chosen) == 1,
        "too_many": len(names) > _MAX_COMPARED,
        "most": _MAX_COMPARED,
    }  # fmt: skip
    return render_page_or_partial(
        request,
        "experiment_form/compare.html",
        region="experiment_form/_comparison.html",
        context=context,
    )


def _list_rows(offers: Sequence[ExperimentChoice]) -> list[Experiment]:
    return [offer.row for offer in offers]


def _make_comparison(experiments: Sequence[Experiment]) -> Comparison:
    return Comparison(
        experiments=experiments,
        results=list_results(experiments),
        differences=list_recipe_differences(experiments),
        groups=build_chart_groups(experiments),
    )


def list_results(experiments: Sequence[Experiment]) -> list[ComparedResult]:
    """List the changes from M0 to the latest model of each experiment, metric by metric."""
    by_measure: dict[Measure, dict[str, OutcomeRow]] = {}
    for row in experiments:
        summary = build_outcome_summary(row, _sort_iterations(row))
        for result in summary.rows if summary else ():
            by_measure.setdefault(result.measure, {})[row.name] = result
    return [
        ComparedResult(
            measure.group,
            measure.title,
            [(row.name, found.get(row.name)) for row in experiments],
        )
        for measure, found in sorted(
            by_measure.items(), key=lambda one: MEASURE_GROUPS.index(one[0].group)
        )
    ]


def list_recipe_differences(experiments: Sequence[Experiment]) -> list[RecipeDifference]:
    """List the values that differ, including the seed and the base model."""
    flat = {
        row.name: {
            "seed": row.seed,
            "base model (sha256)": row.base_model_sha256[:12],
            **flatten_values(row.recipe),
        }
        for row in experiments
    }
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    found = [
        RecipeDifference(
            key, [DifferentValue(name, _format_value(values, key)) for name, values in flat.items()]
        )
        for key in keys
    ]
    return [one for one in found if len({cell.text for cell in one.cells}) > 1]


def _format_value(values: Mapping[str, Any], key: str) -> str:
    return write_value(values[key]) if key in values else "not in its recipe"


def build_chart_groups(experiments: Sequence[Experiment]) -> list[ChartGroup]:
    """Build one chart for each metric that any iteration has."""
    found: dict[ChartedMetric, dict[str, dict[int, float | None]]] = defaultdict(dict)
    for row in experiments:
        for number, metric, value in _iter_points(row):
            found[metric].setdefault(row.name, {})[number] = value
    charts: dict[str, list[Chart]] = {group: [] for group in _GROUPS}
    for metric, values in found.items():
        if any(value is not None for points in values.values() for value in points.values()):
            charts[metric.group].append(_make_chart(metric, experiments, values))
    return [ChartGroup(title, charted) for title, charted in charts.items() if charted]


def _iter_points(row: Experiment) -> Iterator[tuple[int, ChartedMetric, float | None]]:
    """Return the metrics by iteration number, with those of M0 at 0."""
    for iteration in _sort_iterations(row):
        if iteration.number == 1:
            yield from (
                (0, metric, value)
                for metric, value in iter_base_metrics(iteration.metrics)
                if value is not None
            )
        yield from ((iteration.number, *point) for point in iter_metrics(iteration.metrics))


def _make_chart(
    metric: ChartedMetric,
    experiments: Sequence[Experiment],
    values: Mapping[str, Mapping[int, float | None]],
) -> Chart:
    """Build one line per experiment, with the same style in all charts; missing values are gaps."""
    first = 0 if any(0 in points for points in values.values()) else 1
    series = [
        Series(row.name, [(number, values.get(row.name, {}).get(number))
                          for number in (*range(first, 1), *_list_numbers(row))])
        for row in experiments
    ]  # fmt: skip
    return build_line_chart(
        metric.title,
        series,
        x_label="iteration" if first else "model M",
        y_label=metric.unit,
        within=metric.within,
    )


def _list_numbers(row: Experiment) -> list[int]:
    return [one.number for one in _sort_iterations(row)]


def _sort_iterations(row: Experiment) -> list[Iteration]:
    return sorted(row.iterations.all(), key=lambda one: one.number)


def iter_metrics(metrics: Mapping[str, Any]) -> Iterator[tuple[ChartedMetric, float | None]]:
    """Return the metrics of an iteration's summary."""
    for path, metric in _BY_PATH.items():
        yield metric, _to_number(_get_at(metrics, path))
    for pairs in metrics.get("pairs") or []:
        for name, (title, unit) in _OF_PAIRS.items():
            yield (
                ChartedMetric(_PAIRS, title.format(pairs["kind"]), unit),
                _to_number(pairs.get(name)),
            )
    for one in metrics.get("truth") or []:
        yield name_truth_metric(one["subject"], one["metric"]), _to_number(one.get("after"))


def iter_base_metrics(metrics: Mapping[str, Any]) -> Iterator[tuple[ChartedMetric, float | None]]:
    """Return the metrics of M0 from the summary of the first iteration."""
    for one in metrics.get("truth") or []:
        yield name_truth_metric(one["subject"], one["metric"]), _to_number(one.get("before"))


def name_truth_metric(subject: str, metric: str) -> ChartedMetric:
    """Return the display name of a ground-truth metric.

    Args:
        metric: such as `win_rate.french`, a metric of the prompts of one kind.
    """
    name, _, kind = metric.partition(".")
    role = subject.replace("_", "-").capitalize()
    title = f"{role}: {_TRUTH_TITLES.get(name, name.replace('_', ' '))}"
    if kind:
        title += f", {kind.replace('_', ' ')} prompts"
    return ChartedMetric(_TRUTH, title, _TRUTH_UNITS.get(name, name.replace("_", " ")))


def _get_at(values: Any, path: str) -> Any:
    for part in path.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _to_number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
