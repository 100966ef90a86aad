"""Compare experiments: differences of their recipes, and their metrics by iteration."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from meta_reward_core.recipes.dataflow import flatten_values
from webapp.accounts.permissions import get_visible_experiments, require_view
from webapp.charts.chart import Chart, Line
from webapp.charts.lines import Series, build_line_chart
from webapp.charts.scales import SHARE, format_number
from webapp.experiment_form.recipe_fields import write_value
from webapp.experiments.chart_texts import combine_intervals, describe_change, describe_counts
from webapp.experiments.ground_truth import (
    Levels,
    list_counts,
    list_intervals,
    read_ground_truth_levels,
    shift_interval,
)
from webapp.experiments.models import Experiment, Iteration
from webapp.experiments.outcome_summary import (
    MEASURE_GROUPS,
    Measure,
    OutcomeRow,
    build_outcome_summary,
    describe_difference,
    join_names,
)
from webapp.experiments.own_data_intervals import (
    OwnData,
    list_own_intervals,
    read_own_data_intervals,
)
from webapp.experiments.paired_differences import read_paired_differences
from webapp.htmx import render_page_or_partial

_MAX_COMPARED: Final = 6
_MAX_OFFERED: Final = 200
_MAX_NAMED: Final = 4
_MAX_VALUE_CHARS: Final = 40
_LABELS: Final = frozenset({"name", "description"})
"""Recipe keys that change nothing."""

_JUDGING: Final = "Judge and responses"
_META_JUDGING: Final = "Meta-judge"
_PAIRS: Final = "Pairs"
_TRAINING: Final = "Training"
_TRUTH: Final = "Against ground truth"
_PERCENT: Final = "percent"
_FILLER: Final = "points_per_10_words"
_RANGES: Final = {
    _PERCENT: (0.0, 100.0),
    "share": SHARE,
    "quality, 0 to 5": (0.0, 5.0),
    "score, 0 to 5": (0.0, 5.0),
    "rank correlation": (-1.0, 1.0),
}
"""Lowest and highest possible values, by unit."""
_WHOLE: Final = "whole"
_LENGTHS: Final = frozenset({"characters", "words"})
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
    _FILLER: "score points",
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
    _FILLER: "score gained by ten filler words",
}
"""Titles of ground-truth metrics whose names are not readable."""
_GROUPS: Final = (_TRUTH, _JUDGING, _META_JUDGING, _PAIRS, _TRAINING)
_OWN_DATA: Final = frozenset({_JUDGING, _META_JUDGING, _PAIRS})
"""Groups of metrics of generated data, which the latest model has not generated yet."""


@dataclass(frozen=True, slots=True)
class ChartedMetric:
    """A metric of every iteration.

    Attributes:
        count: path in an iteration's summary to the number of values behind it; empty if unknown.
        path: path of the metric itself, as in `OwnData`; empty for ground-truth metrics.
        truth: `<subject>.<metric>` of a ground-truth metric, else empty.
    """

    group: str
    title: str
    unit: str
    count: str = ""
    truth: str = ""
    path: str = ""

    @property
    def counted(self) -> str:
        """Return what the count counts."""
        return "held-out items" if self.truth else _COUNTED.get(self.count, "")

    @property
    def within(self) -> tuple[float, float] | None:
        """Return the lowest and highest possible value, if known."""
        return _RANGES.get(self.unit)

    @property
    def is_of_trained_model(self) -> bool:
        """Whether the metric measures M_t in iteration t; other metrics measure M_{t-1}."""
        return self.group in {_TRAINING, _TRUTH}

    @property
    def reference(self) -> tuple[float, str] | None:
        """Return the reference value and its name, or None if the metric has none."""
        return (0.0, "correct value") if self.truth == f"judge.{_FILLER}" else None


_COUNTED: Final = {
    "judge.scored": "judgments",
    "judge.judgments": "judgments",
    "meta_judge.battles": "battles",
    "meta_judge.decided": "decided battles",
    "meta_judge.both_orders": "pairs of judgments",
    "meta_judge.unequal_scores": "battles of unequal scores",
    "meta_judge.unequal_lengths": "battles of unequal lengths",
}
_METRICS: Final = {
    "judge.mean": ChartedMetric(_JUDGING, "Mean score", "score, 0 to 5", "judge.scored"),
    "judge.entropy_bits": ChartedMetric(
        _JUDGING, "Entropy of the scores", "entropy in bits", "judge.scored"
    ),
    "judge.share_at_max": ChartedMetric(
        _JUDGING, "Share of scores equal to 5", "share", "judge.scored"
    ),
    "judge.parse_rate": ChartedMetric(_JUDGING, "Readable judgments", "share", "judge.judgments"),
    "response_chars": ChartedMetric(_JUDGING, "Length of responses", "characters"),
    "score_length_correlation": ChartedMetric(
        _JUDGING, "Correlation of score and length", "rank correlation"
    ),
    "meta_judge.parse_rate": ChartedMetric(
        _META_JUDGING, "Readable verdicts", "share", "meta_judge.battles"
    ),
    "meta_judge.won_by_first": ChartedMetric(
        _META_JUDGING, "Battles won by the judgment shown first", "share", "meta_judge.decided"
    ),
    "meta_judge.inconsistency": ChartedMetric(
        _META_JUDGING, "Verdicts that change with the order", "share", "meta_judge.both_orders"
    ),
    "meta_judge.won_by_higher_score": ChartedMetric(
        _META_JUDGING, "Battles won by the higher score", "share", "meta_judge.unequal_scores"
    ),
    "meta_judge.won_by_longer": ChartedMetric(
        _META_JUDGING, "Battles won by the longer judgment", "share", "meta_judge.unequal_lengths"
    ),
    "training.loss.last": ChartedMetric(_TRAINING, "Final loss", "loss"),
    "training.accuracy.last": ChartedMetric(_TRAINING, "Final DPO accuracy", "share"),
    "training.margin.last": ChartedMetric(_TRAINING, "Final reward margin", "margin"),
}
_BY_PATH: Final = {path: replace(metric, path=path) for path, metric in _METRICS.items()}
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

    @property
    def differences(self) -> Sequence[tuple[str, str]]:
        """Return the difference of each further experiment that has the metric."""
        (_, first), *others = self.cells
        return [
            (name, describe_difference(first, found))
            for name, found in others
            if first is not None and found is not None
        ]


@dataclass(frozen=True, slots=True)
class ChartGroup:
    """Charts under one heading.

    Attributes:
        note: what is true of all its charts; empty if nothing is.
        constant: metrics that are equal for all models of all experiments, with their values.
    """

    title: str
    charts: Sequence[Chart]
    note: str
    constant: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several experiments side by side."""

    experiments: Sequence[Experiment]
    results: Sequence[ComparedResult]
    differences: Sequence[RecipeDifference]
    groups: Sequence[ChartGroup]

    @property
    def legend(self) -> Sequence[Line]:
        """The lines of the experiments, which look the same in all charts."""
        return next((group.charts[0].lines for group in self.groups if group.charts), ())

    @property
    def settings(self) -> str:
        """One sentence that names the settings that differ."""
        return describe_differences(self.differences)


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
    is_whole = request.GET.get("axis") == _WHOLE
    other_axis = {} if is_whole else {"axis": _WHOLE}
    context = {
        "offers": [*hidden, *offered],
        "comparison": _make_comparison(chosen, is_whole=is_whole) if len(chosen) > 1 else None,
        "is_whole": is_whole,
        "other_axis": urlencode({"name": [row.name for row in chosen], **other_axis}, doseq=True),
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


def _make_comparison(experiments: Sequence[Experiment], *, is_whole: bool) -> Comparison:
    return Comparison(
        experiments=experiments,
        results=list_results(experiments),
        differences=list_recipe_differences(experiments),
        groups=build_chart_groups(experiments, is_whole=is_whole),
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


def describe_differences(differences: Sequence[RecipeDifference]) -> str:
    """Name the settings that differ, with their values, in one sentence."""
    settings = [one for one in differences if one.key not in _LABELS]
    if not settings:
        return "Recipe, seed and base model are identical."
    shown = [
        f"{one.key} ({' / '.join(_shorten(cell.text) for cell in one.cells)})"
        for one in settings[:_MAX_NAMED]
    ]
    further = len(settings) - len(shown)
    if further:
        shown.append(f"{further} other setting{'s'[: further != 1]}")
    return f"Different settings: {join_names(shown)}. All others are identical."


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_VALUE_CHARS else f"{text[:_MAX_VALUE_CHARS]}…"


def _format_value(values: Mapping[str, Any], key: str) -> str:
    return write_value(values[key]) if key in values else "not in its recipe"


@dataclass(slots=True)
class _Curve:
    """Values of a metric by model, and how many values are behind each."""

    values: dict[float, float | None] = field(default_factory=dict)
    counts: dict[float, int] = field(default_factory=dict)


_Curves = Mapping[str, _Curve]
"""By experiment."""


def build_chart_groups(
    experiments: Sequence[Experiment], *, is_whole: bool = False
) -> list[ChartGroup]:
    """Build one chart for each metric that any iteration has, over the models.

    Args:
        is_whole: draw the whole possible range of each metric, or else from zero.
    """
    found: dict[ChartedMetric, dict[str, _Curve]] = defaultdict(dict)
    for row in experiments:
        for model, metric, value, count in _iter_points(row):
            curve = found[metric].setdefault(row.name, _Curve())
            curve.values[model] = value
            if count is not None:
                curve.counts[model] = int(count)
    data = _ChartInput(
        experiments,
        {row.name: read_ground_truth_levels(row, _sort_iterations(row)) for row in experiments},
        {row.name: read_own_data_intervals(row, _sort_iterations(row)) for row in experiments},
        last=max((one.number for row in experiments for one in row.iterations.all()), default=0),
        is_whole=is_whole,
    )
    charts: dict[str, list[Chart]] = {group: [] for group in _GROUPS}
    constant: dict[str, list[tuple[str, str]]] = {group: [] for group in _GROUPS}
    for metric, curves in found.items():
        values = [
            value for one in curves.values() for value in one.values.values() if value is not None
        ]
        if len(values) > 1 and len(set(values)) == 1:
            constant[metric.group].append((metric.title, format_number(values[0])))
        elif values:
            charts[metric.group].append(_make_chart(metric, data, curves))
    return [
        _make_group(title, charts[title], constant[title], last=data.last)
        for title in _GROUPS
        if charts[title] or constant[title]
    ]


@dataclass(frozen=True, slots=True)
class _ChartInput:
    """What all charts of a comparison have in common.

    Attributes:
        levels, own: intervals by experiment.
        last: number of the latest model of all experiments.
    """

    experiments: Sequence[Experiment]
    levels: Mapping[str, Levels]
    own: Mapping[str, Mapping[int, OwnData]]
    last: int
    is_whole: bool


def _make_group(
    title: str, charts: Sequence[Chart], constant: Sequence[tuple[str, str]], *, last: int
) -> ChartGroup:
    """Show what is true of most charts once, instead of below each."""
    count = _find_common([chart.count for chart in charts])
    note = _find_common([chart.description for chart in charts])
    has_exceptions = any(
        (count and chart.count != count) or (note and chart.description != note) for chart in charts
    )
    charts = [
        replace(
            chart,
            count="" if chart.count == count else chart.count,
            description="" if chart.description == note else chart.description,
        )
        for chart in charts
    ]
    common = " ".join(filter(None, (f"{count}." if count else "", note)))
    said = [f"Unless stated below a chart: {common}" if common and has_exceptions else common]
    if title in _OWN_DATA and charts:
        said.append(f"M{last} has generated no data yet.")
    return ChartGroup(title, charts, " ".join(filter(None, said)), constant)


def _find_common(texts: Sequence[str]) -> str:
    """Return the most frequent text; empty if any chart has none, or none is repeated."""
    if not all(texts) or len(texts) < 2:
        return ""
    text, number = Counter(texts).most_common(1)[0]
    return text if number > 1 else ""


def _iter_points(
    row: Experiment,
) -> Iterator[tuple[float, ChartedMetric, float | None, float | None]]:
    """Return the metrics by model number, each with its count."""
    for iteration in _sort_iterations(row):
        if iteration.number == 1:
            yield from (
                (0, metric, value, None)
                for metric, value in iter_base_metrics(iteration.metrics)
                if value is not None
            )
        for metric, value in iter_metrics(iteration.metrics):
            model = iteration.number if metric.is_of_trained_model else iteration.number - 1
            count = _to_number(_get_at(iteration.metrics, metric.count)) if metric.count else None
            yield model, metric, value, count


def _make_chart(metric: ChartedMetric, data: _ChartInput, curves: _Curves) -> Chart:
    """Build one line per experiment, with the same style in all charts; missing values are gaps."""
    models = sorted({model for curve in curves.values() for model in curve.values})
    series = [_make_series(row.name, metric, models, curves, data) for row in data.experiments]
    return build_line_chart(
        metric.title,
        series,
        x_label="model",
        y_label=metric.unit,
        within=metric.within,
        is_whole=data.is_whole,
        from_zero=data.is_whole and metric.within is None,
        reference=metric.reference,
        shown_x=range(data.last + 1),
        x_prefix="M",
        has_legend=False,
        verdict=describe_last_difference(series, metric, data.experiments),
        count=describe_counts(series, metric.counted),
        description=describe_identical_curves(
            {name: curve.values for name, curve in curves.items()}
        ),
    )


def describe_last_difference(
    series: Sequence[Series], metric: ChartedMetric, experiments: Sequence[Experiment]
) -> str:
    """Describe the difference from the first series at the last model that both have."""
    first, *others = series
    rows = {row.name: row for row in experiments}
    said: dict[str, list[str]] = {}
    for one in others:
        both = [x for x, y in first.by_x.items() if None not in (y, one.by_x.get(x))]
        if not both:
            continue
        last = both[-1]
        before, after = first.by_x[last], one.by_x[last]
        if before is None or after is None:
            continue
        if before == after:
            text = f"no difference between {one.name} and {first.name}"
        else:
            paired = _find_paired(
                metric, rows[first.name], rows[one.name], int(last), after - before
            )
            interval = paired or combine_intervals(first, one, last, last)
            change = describe_change(before, after, interval, good=0, with_verdict=False)
            text = f"{one.name} {change} compared with {first.name}"
            if interval is not None:
                text += f": {_describe_direction(metric, *interval)}"
                text += ", paired by prompt" if paired else ", not paired"
        said.setdefault(f"M{last:g}", []).append(text)
    return " ".join(f"{model}: {'; '.join(parts)}." for model, parts in said.items())


def _find_paired(
    metric: ChartedMetric,
    first: Experiment,
    second: Experiment,
    number: int,
    difference: float,
) -> tuple[float, float] | None:
    """Return the interval of the paired difference, around the displayed difference."""
    if not metric.truth:
        return None
    return shift_interval(
        read_paired_differences(first, second, number).get(metric.truth), difference
    )


def _describe_direction(metric: ChartedMetric, low: float, high: float) -> str:
    if low <= 0 <= high:
        return "no clear difference"
    words = ("shorter", "longer") if metric.unit in _LENGTHS else ("lower", "higher")
    return words[low > 0]


def _make_series(
    name: str,
    metric: ChartedMetric,
    models: Sequence[float],
    curves: _Curves,
    data: _ChartInput,
) -> Series:
    curve, levels = curves.get(name, _Curve()), data.levels[name]
    if metric.truth:
        intervals = list_intervals(levels, metric.truth, curve.values)
        counts = list_counts(levels, metric.truth)
    else:
        counts = curve.counts
        intervals = {
            model: interval
            for model, interval in list_own_intervals(data.own[name], metric.path).items()
            if curve.values.get(model) is not None
        }
    return Series(
        name,
        [(model, curve.values.get(model)) for model in models],
        intervals=intervals,
        counts={model: count for model, count in counts.items() if model in curve.values},
    )


def describe_identical_curves(values: Mapping[str, Mapping[float, float | None]]) -> str:
    """Describe which curves cover each other from their start, up to which model."""
    said, covered = [], list[set[str]]()
    models = sorted({model for curve in values.values() for model in curve})
    for end in range(len(models), 0, -1):
        alike: dict[tuple[float | None, ...], list[str]] = {}
        for name, curve in values.items():
            start = tuple(curve.get(model) for model in models[:end])
            if None not in start:
                alike.setdefault(start, []).append(name)
        for names in alike.values():
            if len(names) > 1 and not any(set(names) <= group for group in covered):
                covered.append(set(names))
                said.append(f"{join_names(names)}: identical {_describe_models(models[:end])}.")
    return " ".join(said)


def _describe_models(models: Sequence[float]) -> str:
    return f"at M{models[0]:g}" if len(models) == 1 else f"from M{models[0]:g} to M{models[-1]:g}"


def _sort_iterations(row: Experiment) -> list[Iteration]:
    return sorted(row.iterations.all(), key=lambda one: one.number)


def iter_metrics(metrics: Mapping[str, Any]) -> Iterator[tuple[ChartedMetric, float | None]]:
    """Return the metrics of an iteration's summary."""
    for path, metric in _BY_PATH.items():
        yield metric, _to_number(_get_at(metrics, path))
    for pairs in metrics.get("pairs") or []:
        for name, (title, unit) in _OF_PAIRS.items():
            yield (
                ChartedMetric(
                    _PAIRS,
                    title.format(pairs["kind"]),
                    unit,
                    path=f"pairs.{pairs['kind']}.{name}",
                ),
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
    unit = _TRUTH_UNITS.get(name, name.replace("_", " "))
    return ChartedMetric(_TRUTH, title, unit, truth=f"{subject}.{metric}")


def _get_at(values: Any, path: str) -> Any:
    for part in path.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _to_number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
