"""Curves of an experiment over its iterations, from the summaries that finished ones leave.

What a judge or an actor did in iteration t was done by M_{t-1}; what the oracle says is of M_t.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from meta_reward_core.pairing import REASON_TEXT
from webapp.charts import Chart, Point, Series, line_chart
from webapp.experiments.models import Iteration
from webapp.scales import LARGEST, SHARE

Metrics = Mapping[str, Any]
Figure = Callable[[Metrics], float | None]

_BY_MODEL: Final = "model M"
_BY_ITERATION: Final = "iteration"
_COUNT: Final = (0.0, LARGEST)
_REASONS: Final = {str(reason): text for reason, text in REASON_TEXT.items()}


def experiment_charts(iterations: Iterable[Iteration]) -> list[Chart]:
    """Draw what is known of the finished iterations; a chart without a number is left out."""
    known = {row.number: row.metrics for row in iterations if row.metrics}
    charts = [*_truth(known), *_spread(known), *_biases(known), *_pairs(known), *_training(known)]
    return [chart for chart in charts if chart.drawing]


def _truth(known: Mapping[int, Metrics]) -> list[Chart]:
    return [
        _chart(
            "True quality",
            {
                "sampled": _true(known, "actor", "true_quality"),
                "most likely answer": _true(known, "actor", "true_quality_greedy"),
            },
            x_label=_BY_MODEL,
            y_label="quality, 0 to 5",
            description="By the program that knows the truth, on held-out prompts.",
        ),
        _chart(
            "Judge and meta-judge against the truth",
            {
                "judge orders two responses rightly": _true(known, "judge", "order_agreement"),
                "one judgment is exact": _true(known, "judge", "single_judgment_exact"),
                "meta-judge picks the better judgment": _true(known, "meta_judge", "accuracy"),
            },
            x_label=_BY_MODEL,
            y_label="share",
            within=SHARE,
            description="On held-out items of known quality.",
        ),
        _chart(
            "What filler is worth to the judge",
            {"ten words of filler": _true(known, "judge", "points_per_10_words")},
            x_label=_BY_MODEL,
            y_label="points",
            description="Zero would be right: longer is not better.",
        ),
    ]


def _spread(known: Mapping[int, Metrics]) -> list[Chart]:
    return [
        _chart(
            "Length of responses",
            {
                "all": _over(known, lambda metrics: metrics.get("response_chars")),
                "chosen": _over(known, _of_pairs("actor", "chosen_chars")),
                "rejected": _over(known, _of_pairs("actor", "rejected_chars")),
            },
            y_label="characters",
            description="Chosen above rejected, iteration after iteration, lets answers grow.",
        ),
        _chart(
            "Mean of the judge's points",
            {"all judgments": _over(known, _of("judge", "mean"))},
            y_label="points",
        ),
        _chart(
            "Spread of the judge's points",
            {"entropy": _over(known, _of("judge", "entropy_bits"))},
            y_label="bits",
            description="0 if all points are the same, at most 3.46.",
        ),
        _chart(
            "Replies that can be read",
            {
                "judgments": _over(known, _of("judge", "parse_rate")),
                "verdicts": _over(known, _of("meta_judge", "parse_rate")),
            },
            y_label="share",
            within=SHARE,
        ),
    ]


def _biases(known: Mapping[int, Metrics]) -> list[Chart]:
    return [
        _chart(
            "Biases of the meta-judge",
            {
                "the one shown first wins": _over(known, _of("meta_judge", "won_by_first")),
                "more points win": _over(known, _of("meta_judge", "won_by_higher_score")),
                "the longer one wins": _over(known, _of("meta_judge", "won_by_longer")),
                "another verdict in the other order": _over(
                    known, _of("meta_judge", "inconsistency")
                ),
            },
            y_label="share of battles",
            within=SHARE,
            description="A half is no bias in the first three; the fourth should be low.",
        ),
        _chart(
            "Do longer responses get more points?",
            {"rank correlation": _over(known, _value("score_length_correlation"))},
            y_label="Spearman",
            description="0: no. 1: the longer, the more points.",
        ),
    ]


def _pairs(known: Mapping[int, Metrics]) -> list[Chart]:
    reasons = sorted(
        {
            (pairs["kind"], reason)
            for metrics in known.values()
            for pairs in metrics.get("pairs", [])
            for reason in pairs["dropped"]
        }
    )
    return [
        _chart(
            "Pairs to train on",
            {kind: _over(known, _of_pairs(kind, "pairs")) for kind in ("actor", "judge")},
            y_label="pairs",
            within=_COUNT,
        ),
        _chart(
            "Prompts that gave no pair, and why",
            {
                f"{kind}: {_REASONS.get(reason, reason)}": _over(known, _dropped(kind, reason))
                for kind, reason in reasons
            },
            y_label="prompts",
            within=_COUNT,
        ),
    ]


def _training(known: Mapping[int, Metrics]) -> list[Chart]:
    return [
        _chart(
            f"DPO: {figure}",
            {
                "first step": _over(known, _of_training(figure, "first")),
                "last step": _over(known, _of_training(figure, "last")),
            },
            y_label=y_label,
            within=within,
        )
        for figure, y_label, within in (
            ("loss", "loss", None),
            ("accuracy", "share of pairs", SHARE),
            ("margin", "margin", None),
        )
    ]


def _chart(
    title: str,
    lines: Mapping[str, Sequence[Point]],
    *,
    y_label: str,
    x_label: str = _BY_ITERATION,
    within: tuple[float, float] | None = None,
    description: str = "",
) -> Chart:
    """Draw the lines that have a number."""
    series = [
        Series(name, points)
        for name, points in lines.items()
        if any(y is not None for _, y in points)
    ]
    return line_chart(
        title, series, x_label=x_label, y_label=y_label, within=within, description=description
    )


def _over(known: Mapping[int, Metrics], figure: Figure) -> list[Point]:
    return [(number, figure(metrics)) for number, metrics in sorted(known.items())]


def _true(known: Mapping[int, Metrics], subject: str, metric: str) -> list[Point]:
    """Read a figure of M_0, M_1, ...; what an iteration found before it began stands first."""
    points: dict[float, float | None] = {}
    for number, metrics in sorted(known.items()):
        for row in metrics.get("truth", []):
            if (row["subject"], row["metric"]) == (subject, metric):
                points.setdefault(number - 1, row["before"])
                points[number] = row["after"]
    return sorted(points.items())


def _value(name: str) -> Figure:
    return lambda metrics: metrics.get(name)


def _of(section: str, name: str) -> Figure:
    return lambda metrics: (metrics.get(section) or {}).get(name)


def _of_pairs(kind: str, name: str) -> Figure:
    def figure(metrics: Metrics) -> float | None:
        found = [pairs for pairs in metrics.get("pairs", []) if pairs["kind"] == kind]
        return found[0].get(name) if found else None

    return figure


def _dropped(kind: str, reason: str) -> Figure:
    def figure(metrics: Metrics) -> float | None:
        found = [pairs for pairs in metrics.get("pairs", []) if pairs["kind"] == kind]
        return found[0]["dropped"].get(reason, 0) if found else None

    return figure


def _of_training(name: str, when: str) -> Figure:
    def figure(metrics: Metrics) -> float | None:
        found: dict[str, float] = (metrics.get("training") or {}).get(name) or {}
        return found.get(when)

    return figure
