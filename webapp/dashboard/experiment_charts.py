"""Charts of an experiment over its models, from the summaries of completed iterations.

All charts have the same axis, M0 to the latest model. The data of iteration t is generated and
judged by M_{t-1}, so its metrics are plotted there. Ground truth and training of iteration t are
those of M_t.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from meta_reward_core.evaluation.scorecard import Metric
from meta_reward_core.method.pairing import REASON_LABEL
from webapp.charts.chart import Chart
from webapp.charts.lines import Ends, Point, Series, build_line_chart
from webapp.charts.scales import LARGEST, SHARE
from webapp.experiments.chart_texts import describe_changes, describe_counts
from webapp.experiments.ground_truth import Levels, list_counts, list_intervals, shift_interval
from webapp.experiments.models import Iteration
from webapp.experiments.own_data_intervals import OwnData, list_own_intervals

Metrics = Mapping[str, Any]
MetricReader = Callable[[Metrics], float | None]

_BY_MODEL: Final = "model"
_QUALITY: Final = (0.0, 5.0)
_COUNT: Final = (0.0, LARGEST)
_REASONS: Final = {str(reason): text for reason, text in REASON_LABEL.items()}


@dataclass(frozen=True, slots=True)
class ChartData:
    """Data of the charts of an experiment.

    Attributes:
        metrics: summaries of completed iterations by number.
        levels: ground-truth metrics with intervals and counts.
        own: intervals of the metrics of each iteration's own data, by number.
        changes: changes in ground-truth metrics from M0 to the latest model, on the same items.
    """

    metrics: Mapping[int, Metrics]
    levels: Levels = field(default_factory=dict)
    own: Mapping[int, OwnData] = field(default_factory=dict)
    changes: Mapping[str, Metric] = field(default_factory=dict)

    @property
    def latest(self) -> int:
        """Number of the latest model."""
        return max(self.metrics, default=0)


def build_experiment_charts(
    iterations: Iterable[Iteration],
    levels: Levels | None = None,
    own: Mapping[int, OwnData] | None = None,
    changes: Mapping[str, Metric] | None = None,
) -> list[Chart]:
    """Draw the metrics of completed iterations; charts without a number are skipped.

    Args:
        levels, own, changes: see `ChartData`.
    """
    known = {row.number: row.metrics for row in iterations if row.metrics}
    data = ChartData(known, levels or {}, own or {}, changes or {})
    charts = [
        *_chart_ground_truth(data),
        *_chart_spread(data),
        *_chart_biases(data),
        *_chart_pairs(data),
        *_chart_training(data),
    ]
    return [chart for chart in charts if chart.drawing]


def _chart_ground_truth(data: ChartData) -> list[Chart]:
    def draw(
        title: str,
        lines: Mapping[str, str],
        *,
        y_label: str,
        unit: str,
        good: int = 1,
        within: tuple[float, float] | None = None,
        reference: tuple[float, str] | None = None,
        description: str = "",
    ) -> Chart:
        series = [_read_ground_truth(data, name, key) for name, key in lines.items()]
        paired = {one.name: _find_paired_change(data, one, lines[one.name]) for one in series}
        return _make_chart(
            data,
            title,
            series,
            y_label=y_label,
            unit=unit,
            good=good,
            paired={name: ends for name, ends in paired.items() if ends is not None},
            within=within,
            reference=reference,
            description=" ".join(filter(None, (description, _explain_missing(series)))),
        )

    return [
        draw(
            "True quality",
            {"sampled": "actor.true_quality", "greedy": "actor.true_quality_greedy"},
            y_label="quality, 0 to 5",
            unit="held-out prompts",
            within=_QUALITY,
            description="By the ground truth of the toy task.",
        ),
        draw(
            "Judge accuracy",
            {
                "judge: order": "judge.order_agreement",
                "judge: exact score": "judge.single_judgment_exact",
                "meta-judge: winner": "meta_judge.accuracy",
            },
            y_label="share correct",
            unit="held-out items",
            within=SHARE,
            description="Order: of two responses. Exact score: of a single judgment.",
        ),
        draw(
            "Effect of filler text on scores",
            {"ten filler words": "judge.points_per_10_words"},
            y_label="score points gained by ten filler words",
            unit="held-out items",
            good=-1,
            reference=(0.0, "correct value"),
        ),
    ]


def _read_ground_truth(data: ChartData, name: str, key: str) -> Series:
    points = _list_ground_truth_points(data.metrics, *key.split("."))
    return Series(
        name,
        points,
        intervals=list_intervals(data.levels, key, dict(points)),
        counts=list_counts(data.levels, key),
    )


def _find_paired_change(data: ChartData, series: Series, key: str) -> Ends | None:
    """Return the interval of the change of the same items, around the displayed change."""
    values = [y for y in series.by_x.values() if y is not None]
    return shift_interval(data.changes.get(key), values[-1] - values[0]) if values else None


def _explain_missing(series: Sequence[Series]) -> str:
    """Explain which series have no intervals, if others in the chart have some."""
    names = [one.name for one in series if not one.intervals and _has_number(one)]
    if not names:
        return ""
    which = "" if len(names) == len(series) else f" for {', '.join(names)}"
    return f"No intervals{which}: only totals over the items are stored."


def _chart_spread(data: ChartData) -> list[Chart]:
    own = _OwnDataReader(data)
    lengths = [
        own.read("all", "response_chars"),
        own.read_pairs("chosen", "actor", "chosen_chars"),
        own.read_pairs("rejected", "actor", "rejected_chars"),
    ]
    return [
        own.draw(
            "Length of responses",
            lengths,
            y_label="characters",
            unit="pairs",
            description="If chosen responses are longer, training makes responses longer.",
        ),
        own.draw(
            "Mean judge score",
            [own.read("all judgments", "judge.mean", "judge.scored")],
            y_label="score, 0 to 5",
            unit="judgments",
        ),
        own.draw(
            "Entropy of judge scores",
            [own.read("entropy", "judge.entropy_bits", "judge.scored")],
            y_label="bits, at most 3.46",
            unit="judgments",
            description="0 if all scores are equal.",
        ),
        own.draw(
            "Readable replies",
            [
                own.read("judgments", "judge.parse_rate", "judge.judgments"),
                own.read("verdicts", "meta_judge.parse_rate", "meta_judge.battles"),
            ],
            y_label="share",
            good=1,
            within=SHARE,
        ),
    ]


_BIASES: Final = {
    "judgment shown first wins": ("won_by_first", "decided"),
    "higher score wins": ("won_by_higher_score", "unequal_scores"),
    "longer judgment wins": ("won_by_longer", "unequal_lengths"),
}
"""Shares in the meta-judge's summary, each with the count that is its denominator."""


def _chart_biases(data: ChartData) -> list[Chart]:
    own = _OwnDataReader(data)
    biases = [
        own.read(name, f"meta_judge.{share}", f"meta_judge.{count}")
        for name, (share, count) in _BIASES.items()
    ]
    return [
        own.draw(
            "Biases of the meta-judge",
            biases,
            y_label="share of battles",
            within=SHARE,
            reference=(0.5, "no bias"),
        ),
        own.draw(
            "Verdicts that change with the order",
            [own.read("changed", "meta_judge.inconsistency", "meta_judge.both_orders")],
            y_label="share of pairs of judgments",
            unit="pairs of judgments",
            good=-1,
            within=SHARE,
        ),
        own.draw(
            "Score and response length",
            [own.read("rank correlation", "score_length_correlation")],
            y_label="Spearman correlation",
            reference=(0.0, "independent"),
            description="1: longer responses always score higher.",
        ),
    ]


def _chart_pairs(data: ChartData) -> list[Chart]:
    own = _OwnDataReader(data)
    reasons = sorted(
        {
            (pairs["kind"], reason)
            for metrics in data.metrics.values()
            for pairs in metrics.get("pairs", [])
            for reason in pairs["dropped"]
        }
    )
    return [
        own.draw(
            "Pairs to train on",
            [own.read_by(kind, _make_pair_reader(kind, "pairs")) for kind in ("actor", "judge")],
            y_label="pairs",
            within=_COUNT,
            is_total=True,
        ),
        own.draw(
            "Prompts without a pair, by drop reason",
            [
                own.read_by(
                    f"{kind}: {_REASONS.get(reason, reason)}", _make_drop_reader(kind, reason)
                )
                for kind, reason in reasons
            ],
            y_label="prompts",
            within=_COUNT,
            is_total=True,
            has_verdict=False,
        ),
    ]


def _chart_training(data: ChartData) -> list[Chart]:
    return [
        _make_chart(
            data,
            f"DPO: {metric}",
            [
                Series(f"{when} step", _list_training_points(data.metrics, metric, when))
                for when in ("first", "last")
            ],
            y_label=y_label,
            within=within,
            has_verdict=False,
            description="Measured during the training of each model; M0 is not trained.",
        )
        for metric, y_label, within in (
            ("loss", "loss", None),
            ("accuracy", "share of pairs", SHARE),
            ("margin", "reward margin, nats", None),
        )
    ]


def _make_chart(
    data: ChartData,
    title: str,
    series: Sequence[Series],
    *,
    y_label: str,
    unit: str = "",
    good: int = 0,
    paired: Mapping[str, Ends] | None = None,
    has_verdict: bool = True,
    within: tuple[float, float] | None = None,
    reference: tuple[float, str] | None = None,
    description: str = "",
) -> Chart:
    """Draw the series that have a number, over all models.

    Args:
        unit: what the counts count.
        good, paired: see `describe_changes`.
    """
    drawn = [one for one in series if any(y is not None for _, y in one.points)]
    return build_line_chart(
        title,
        drawn,
        x_label=_BY_MODEL,
        y_label=y_label,
        within=within,
        reference=reference,
        shown_x=range(data.latest + 1),
        x_prefix="M",
        has_legend=len(drawn) > 1,
        verdict=describe_changes(drawn, good=good, paired=paired) if has_verdict else "",
        count=describe_counts(drawn, unit),
        description=description,
    )


@dataclass(frozen=True, slots=True)
class _OwnDataReader:
    """Reads metrics of each iteration's data, which M_{t-1} generated and judged."""

    data: ChartData

    def draw(
        self,
        title: str,
        series: Sequence[Series],
        *,
        y_label: str,
        unit: str = "",
        good: int = 0,
        has_verdict: bool = True,
        is_total: bool = False,
        within: tuple[float, float] | None = None,
        reference: tuple[float, str] | None = None,
        description: str = "",
    ) -> Chart:
        """Draw metrics of own data, and note the model that has none.

        Args:
            is_total: whether the values are counts, which have no interval.
        """
        notes = [description, "Totals, without an interval." if is_total else ""]
        missing = [one.name for one in series if not one.intervals and _has_number(one)]
        if missing and not is_total and len(missing) < len(series):
            notes.append(f"No interval is computed for: {', '.join(missing)}.")
        notes.append(f"M{self.data.latest} has generated no data yet.")
        return _make_chart(
            self.data,
            title,
            series,
            y_label=y_label,
            unit=unit,
            good=good,
            has_verdict=has_verdict,
            within=within,
            reference=reference,
            description=" ".join(filter(None, notes)),
        )

    def read(self, name: str, path: str, count: str = "") -> Series:
        """Read a metric by its path in the summary, with its interval and count."""
        read_count = (lambda metrics: _get_at(metrics, count)) if count else None
        return self.read_by(name, lambda metrics: _get_at(metrics, path), read_count, path)

    def read_pairs(self, name: str, kind: str, metric: str) -> Series:
        """Read a metric of the pairs of a kind."""
        read_metric, read_count = _make_pair_reader(kind, metric), _make_pair_reader(kind, "pairs")
        return self.read_by(name, read_metric, read_count, f"pairs.{kind}.{metric}")

    def read_by(
        self,
        name: str,
        read_metric: MetricReader,
        read_count: MetricReader | None = None,
        path: str = "",
    ) -> Series:
        """Read a metric of each iteration."""
        found = sorted(self.data.metrics.items())
        counts = {} if read_count is None else {t - 1: read_count(metrics) for t, metrics in found}
        return Series(
            name,
            [(t - 1, read_metric(metrics)) for t, metrics in found],
            intervals=list_own_intervals(self.data.own, path),
            counts={model: int(count) for model, count in counts.items() if count is not None},
        )


def _has_number(series: Series) -> bool:
    return any(y is not None for _, y in series.points)


def _list_ground_truth_points(
    known: Mapping[int, Metrics], subject: str, metric: str
) -> list[Point]:
    """Return a metric of M_0, M_1, ...; the first value is measured before iteration 1."""
    points: dict[float, float | None] = {}
    for number, metrics in sorted(known.items()):
        for row in metrics.get("truth", []):
            if (row["subject"], row["metric"]) == (subject, metric):
                points.setdefault(number - 1, row["before"])
                points[number] = row["after"]
    return sorted(points.items())


def _get_at(metrics: Any, path: str) -> float | None:
    for name in path.split("."):
        metrics = metrics.get(name) if isinstance(metrics, Mapping) else None
    return metrics if isinstance(metrics, int | float) else None


def _make_pair_reader(kind: str, name: str) -> MetricReader:
    def read_metric(metrics: Metrics) -> float | None:
        found = [pairs for pairs in metrics.get("pairs", []) if pairs["kind"] == kind]
        return found[0].get(name) if found else None

    return read_metric


def _make_drop_reader(kind: str, reason: str) -> MetricReader:
    def read_metric(metrics: Metrics) -> float | None:
        found = [pairs for pairs in metrics.get("pairs", []) if pairs["kind"] == kind]
        return found[0]["dropped"].get(reason, 0) if found else None

    return read_metric


def _list_training_points(known: Mapping[int, Metrics], name: str, when: str) -> list[Point]:
    """Return a training metric of M_1, M_2, ..."""
    return [
        (number, ((metrics.get("training") or {}).get(name) or {}).get(when))
        for number, metrics in sorted(known.items())
    ]
