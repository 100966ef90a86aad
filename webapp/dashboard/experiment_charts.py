"""Charts of an experiment over its models, from the summaries of completed iterations.

All charts have the same axis, M0 to the latest model. The data of iteration t is generated and
judged by M_{t-1}, so its metrics are plotted there. Ground truth and training of iteration t are
those of M_t.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from meta_reward_core.method.pairing import REASON_LABEL
from webapp.charts.chart import Chart
from webapp.charts.lines import Point, Series, build_line_chart
from webapp.charts.scales import LARGEST, SHARE
from webapp.experiments.ground_truth import Levels, list_counts, list_intervals
from webapp.experiments.models import Iteration

Metrics = Mapping[str, Any]
MetricReader = Callable[[Metrics], float | None]

_BY_MODEL: Final = "model M"
_QUALITY: Final = (0.0, 5.0)
_COUNT: Final = (0.0, LARGEST)
_REASONS: Final = {str(reason): text for reason, text in REASON_LABEL.items()}


def build_experiment_charts(
    iterations: Iterable[Iteration], levels: Levels | None = None
) -> list[Chart]:
    """Draw the metrics of completed iterations; charts without a number are skipped.

    Args:
        levels: ground-truth metrics with intervals and counts.
    """
    known = {row.number: row.metrics for row in iterations if row.metrics}
    charts = [
        *_chart_ground_truth(known, levels or {}),
        *_chart_spread(known),
        *_chart_biases(known),
        *_chart_pairs(known),
        *_chart_training(known),
    ]
    return [chart for chart in charts if chart.drawing]


def _chart_ground_truth(known: Mapping[int, Metrics], levels: Levels) -> list[Chart]:
    def measure(name: str, subject: str, metric: str) -> Series:
        points = _list_ground_truth_points(known, subject, metric)
        key = f"{subject}.{metric}"
        return Series(
            name,
            points,
            intervals=list_intervals(levels, key, dict(points)),
            counts=list_counts(levels, key),
        )

    return [
        _make_chart(
            known,
            "True quality",
            [
                measure("sampled", "actor", "true_quality"),
                measure("greedy response", "actor", "true_quality_greedy"),
            ],
            y_label="quality, 0 to 5",
            within=_QUALITY,
            description="Computed from the ground truth of the toy task on held-out prompts.",
        ),
        _make_chart(
            known,
            "Judge and meta-judge against ground truth",
            [
                measure("judge ranks two responses correctly", "judge", "order_agreement"),
                measure("single judgment is exact", "judge", "single_judgment_exact"),
                measure("meta-judge picks the better judgment", "meta_judge", "accuracy"),
            ],
            y_label="share",
            within=SHARE,
            description="On held-out items with known quality.",
        ),
        _make_chart(
            known,
            "Effect of filler text on the judge's score",
            [measure("ten filler words", "judge", "points_per_10_words")],
            y_label="score",
            reference=(0.0, "correct value"),
            description="A slope over all held-out items, without an interval.",
        ),
    ]


def _chart_spread(known: Mapping[int, Metrics]) -> list[Chart]:
    scored = _make_section_reader("judge", "scored")
    actor_pairs = _make_pair_reader("actor", "pairs")
    return [
        _make_chart(
            known,
            "Length of responses",
            [
                _read_own_data(known, "all", lambda metrics: metrics.get("response_chars")),
                _read_own_data(
                    known, "chosen", _make_pair_reader("actor", "chosen_chars"), actor_pairs
                ),
                _read_own_data(
                    known, "rejected", _make_pair_reader("actor", "rejected_chars"), actor_pairs
                ),
            ],
            y_label="characters",
            description="If chosen responses are longer, training makes responses longer.",
        ),
        _make_chart(
            known,
            "Mean judge score",
            [_read_own_data(known, "all judgments", _make_section_reader("judge", "mean"), scored)],
            y_label="score",
        ),
        _make_chart(
            known,
            "Entropy of judge scores",
            [
                _read_own_data(
                    known, "entropy", _make_section_reader("judge", "entropy_bits"), scored
                )
            ],
            y_label="bits",
            description="0 if all scores are equal; at most 3.46.",
        ),
        _make_chart(
            known,
            "Readable replies",
            [
                _read_own_data(
                    known,
                    "judgments",
                    _make_section_reader("judge", "parse_rate"),
                    _make_section_reader("judge", "judgments"),
                ),
                _read_own_data(
                    known,
                    "verdicts",
                    _make_section_reader("meta_judge", "parse_rate"),
                    _make_section_reader("meta_judge", "battles"),
                ),
            ],
            y_label="share",
            within=SHARE,
        ),
    ]


_BIASES: Final = {
    "judgment shown first wins": ("won_by_first", "decided"),
    "higher score wins": ("won_by_higher_score", "unequal_scores"),
    "longer judgment wins": ("won_by_longer", "unequal_lengths"),
    "verdict changes with the order": ("inconsistency", "both_orders"),
}
"""Shares in the meta-judge's summary, each with the count that is its denominator."""


def _chart_biases(known: Mapping[int, Metrics]) -> list[Chart]:
    return [
        _make_chart(
            known,
            "Biases of the meta-judge",
            [
                _read_own_data(
                    known,
                    name,
                    _make_section_reader("meta_judge", share),
                    _make_section_reader("meta_judge", count),
                )
                for name, (share, count) in _BIASES.items()
            ],
            y_label="share of battles",
            within=SHARE,
            reference=(0.5, "no bias"),
            description="Without bias, the first three shares are 0.5. The fourth should be low.",
        ),
        _make_chart(
            known,
            "Score and response length",
            [
                _read_own_data(
                    known, "rank correlation", _make_value_reader("score_length_correlation")
                )
            ],
            y_label="Spearman",
            reference=(0.0, "independent"),
            description="1: longer responses always score higher.",
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
            known,
            "Pairs to train on",
            [
                _read_own_data(known, kind, _make_pair_reader(kind, "pairs"))
                for kind in ("actor", "judge")
            ],
            y_label="pairs",
            within=_COUNT,
        ),
        _make_chart(
            known,
            "Prompts without a pair, by drop reason",
            [
                _read_own_data(
                    known,
                    f"{kind}: {_REASONS.get(reason, reason)}",
                    _make_drop_reader(kind, reason),
                )
                for kind, reason in reasons
            ],
            y_label="prompts",
            within=_COUNT,
        ),
    ]


def _chart_training(known: Mapping[int, Metrics]) -> list[Chart]:
    return [
        _make_chart(
            known,
            f"DPO: {metric}",
            [
                Series(f"{when} step", _list_training_points(known, metric, when))
                for when in ("first", "last")
            ],
            y_label=y_label,
            within=within,
            description="Measured during the training of each model.",
        )
        for metric, y_label, within in (
            ("loss", "loss", None),
            ("accuracy", "share of pairs", SHARE),
            ("margin", "margin", None),
        )
    ]


def _make_chart(
    known: Mapping[int, Metrics],
    title: str,
    series: Sequence[Series],
    *,
    y_label: str,
    within: tuple[float, float] | None = None,
    reference: tuple[float, str] | None = None,
    description: str = "",
) -> Chart:
    """Draw the series that have a number, over all models."""
    return build_line_chart(
        title,
        [one for one in series if any(y is not None for _, y in one.points)],
        x_label=_BY_MODEL,
        y_label=y_label,
        within=within,
        reference=reference,
        shown_x=range(max(known, default=0) + 1),
        description=description,
    )


def _read_own_data(
    known: Mapping[int, Metrics],
    name: str,
    read_metric: MetricReader,
    read_count: MetricReader | None = None,
) -> Series:
    """Read a metric of each iteration's data, which M_{t-1} generated and judged."""
    found = sorted(known.items())
    counts = {} if read_count is None else {t - 1: read_count(metrics) for t, metrics in found}
    return Series(
        name,
        [(t - 1, read_metric(metrics)) for t, metrics in found],
        counts={model: int(count) for model, count in counts.items() if count is not None},
    )


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


def _list_training_points(known: Mapping[int, Metrics], name: str, when: str) -> list[Point]:
    """Return a training metric of M_1, M_2, ..."""
    return [
        (number, ((metrics.get("training") or {}).get(name) or {}).get(when))
        for number, metrics in sorted(known.items())
    ]
