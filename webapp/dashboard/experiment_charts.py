"""Charts of an experiment over its iterations, from the summaries of completed ones.

Actor and judge metrics of iteration t describe M_{t-1}; oracle metrics describe M_t.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from meta_reward_core.method.pairing import REASON_TEXT
from webapp.charts.chart import Chart
from webapp.charts.lines import Point, Series, build_line_chart
from webapp.charts.scales import LARGEST, SHARE
from webapp.experiments.models import Iteration

Metrics = Mapping[str, Any]
MetricReader = Callable[[Metrics], float | None]

_BY_MODEL: Final = "model M"
_BY_ITERATION: Final = "iteration"
_COUNT: Final = (0.0, LARGEST)
_REASONS: Final = {str(reason): text for reason, text in REASON_TEXT.items()}


def build_experiment_charts(iterations: Iterable[Iteration]) -> list[Chart]:
    """Draw the metrics of completed iterations; charts without a number are skipped."""
    known = {row.number: row.metrics for row in iterations if row.metrics}
    charts = [
        *_chart_ground_truth(known),
        *_chart_spread(known),
        *_chart_biases(known),
        *_chart_pairs(known),
        *_chart_training(known),
    ]
    return [chart for chart in charts if chart.drawing]


def _chart_ground_truth(known: Mapping[int, Metrics]) -> list[Chart]:
    return [
        _make_chart(
            "True quality",
            {
                "sampled": _list_ground_truth_points(known, "actor", "true_quality"),
                "greedy response": _list_ground_truth_points(known, "actor", "true_quality_greedy"),
            },
            x_label=_BY_MODEL,
            y_label="quality, 0 to 5",
            description="Computed from the ground truth of the toy task on held-out prompts.",
        ),
        _make_chart(
            "Judge and meta-judge against ground truth",
            {
                "judge ranks two responses correctly": _list_ground_truth_points(
                    known, "judge", "order_agreement"
                ),
                "single judgment is exact": _list_ground_truth_points(
                    known, "judge", "single_judgment_exact"
                ),
                "meta-judge picks the better judgment": _list_ground_truth_points(
                    known, "meta_judge", "accuracy"
                ),
            },
            x_label=_BY_MODEL,
            y_label="share",
            within=SHARE,
            description="On held-out items with known quality.",
        ),
        _make_chart(
            "Effect of filler text on the judge's score",
            {"ten filler words": _list_ground_truth_points(known, "judge", "points_per_10_words")},
            x_label=_BY_MODEL,
            y_label="score",
            description="The correct value is 0: longer is not better.",
        ),
    ]


def _chart_spread(known: Mapping[int, Metrics]) -> list[Chart]:
    return [
        _make_chart(
            "Length of responses",
            {
                "all": _list_points(known, lambda metrics: metrics.get("response_chars")),
                "chosen": _list_points(known, _make_pair_reader("actor", "chosen_chars")),
                "rejected": _list_points(known, _make_pair_reader("actor", "rejected_chars")),
            },
            y_label="characters",
            description="If chosen responses are longer than rejected ones, responses grow.",
        ),
        _make_chart(
            "Mean judge score",
            {"all judgments": _list_points(known, _make_section_reader("judge", "mean"))},
            y_label="score",
        ),
        _make_chart(
            "Entropy of judge scores",
            {"entropy": _list_points(known, _make_section_reader("judge", "entropy_bits"))},
            y_label="bits",
            description="0 if all scores are equal; at most 3.46.",
        ),
        _make_chart(
            "Readable replies",
            {
                "judgments": _list_points(known, _make_section_reader("judge", "parse_rate")),
                "verdicts": _list_points(known, _make_section_reader("meta_judge", "parse_rate")),
            },
            y_label="share",
            within=SHARE,
        ),
    ]


def _chart_biases(known: Mapping[int, Metrics]) -> list[Chart]:
    return [
        _make_chart(
            "Biases of the meta-judge",
            {
                "judgment shown first wins": _list_points(
                    known, _make_section_reader("meta_judge", "won_by_first")
                ),
                "higher score wins": _list_points(
                    known, _make_section_reader("meta_judge", "won_by_higher_score")
                ),
                "longer judgment wins": _list_points(
                    known, _make_section_reader("meta_judge", "won_by_longer")
                ),
                "verdict changes with the order": _list_points(
                    known, _make_section_reader("meta_judge", "inconsistency")
                ),
            },
            y_label="share of battles",
            within=SHARE,
            description="For the first three, 0.5 means no bias; the fourth should be low.",
        ),
        _make_chart(
            "Score and response length",
            {
                "rank correlation": _list_points(
                    known, _make_value_reader("score_length_correlation")
                )
            },
            y_label="Spearman",
            description="0: independent. 1: longer responses always score higher.",
        ),
    ]


def _chart_pairs(known: Mapping[int, Metrics]) -> list[Chart]:
    reasons = sorted(
        {
            (pairs["kind"], reason)
            for metrics in known.values()
            for pairs in metrics.get("pairs", [])
            for reason in pairs["dropped"]
        }
    )
    return [
        _make_chart(
            "Pairs to train on",
            {
                kind: _list_points(known, _make_pair_reader(kind, "pairs"))
                for kind in ("actor", "judge")
            },
            y_label="pairs",
            within=_COUNT,
        ),
        _make_chart(
            "Prompts without a pair, by drop reason",
            {
                f"{kind}: {_REASONS.get(reason, reason)}": _list_points(
                    known, _make_drop_reader(kind, reason)
                )
                for kind, reason in reasons
            },
            y_label="prompts",
            within=_COUNT,
        ),
    ]


def _chart_training(known: Mapping[int, Metrics]) -> list[Chart]:
    return [
        _make_chart(
            f"DPO: {metric}",
            {
                "first step": _list_points(known, _make_training_reader(metric, "first")),
                "last step": _list_points(known, _make_training_reader(metric, "last")),
            },
            y_label=y_label,
            within=within,
        )
        for metric, y_label, within in (
            ("loss", "loss", None),
            ("accuracy", "share of pairs", SHARE),
            ("margin", "margin", None),
        )
    ]


def _make_chart(
    title: str,
    lines: Mapping[str, Sequence[Point]],
    *,
    y_label: str,
    x_label: str = _BY_ITERATION,
    within: tuple[float, float] | None = None,
    description: str = "",
) -> Chart:
    """Draw the series that have a number."""
    series = [
        Series(name, points)
        for name, points in lines.items()
        if any(y is not None for _, y in points)
    ]
    return build_line_chart(
        title, series, x_label=x_label, y_label=y_label, within=within, description=description
    )


def _list_points(known: Mapping[int, Metrics], read_metric: MetricReader) -> list[Point]:
    return [(number, read_metric(metrics)) for number, metrics in sorted(known.items())]


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


def _make_value_reader(name: str) -> MetricReader:
    return lambda metrics: metrics.get(name)


def _make_section_reader(section: str, name: str) -> MetricReader:
    return lambda metrics: (metrics.get(section) or {}).get(name)


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


def _make_training_reader(name: str, when: str) -> MetricReader:
    def read_metric(metrics: Metrics) -> float | None:
        found: dict[str, float] = (metrics.get("training") or {}).get(name) or {}
        return found.get(when)

    return read_metric
