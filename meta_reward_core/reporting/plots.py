"""The paper's figures: win rates by iteration and by category, the judge's points by iteration."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from meta_reward_core.measures import HISTOGRAM_BINS
from meta_reward_core.reporting.document import Absent, Block, Curve, HeatPlot, LinePlot
from meta_reward_core.reporting.kept_cards import Card
from meta_reward_core.reporting.metrics import QUALITY, Metric, estimate_metric
from meta_reward_core.reporting.runs import Arm, Run
from meta_reward_core.reporting.tables import figure_of

MOST_CURVES: Final = 6
"""More cannot be told apart."""

_BINS: Final = tuple(f"{start:g}" for start in HISTOGRAM_BINS)
_CATEGORY: Final = ("dataset_", "category_")


def paper_plots(arms: Sequence[Arm]) -> list[Block]:
    """All figures."""
    return [
        *_win_rates(arms),
        *_quality(arms),
        *_by_category(arms),
        *_distributions(arms),
    ]


def _win_rates(arms: Sequence[Arm]) -> list[Block]:
    title = "Win rate by iteration"
    curves = [
        Curve(f"{run.name}, {words}", points)
        for arm in arms
        for run in arm.runs
        for name, words in (("length_controlled_winrate", "LC"), ("win_rate", "plain"))
        if (points := _card_points(run, name))
    ]
    curves = curves or [
        Curve(f"{arm.label}, {words}", points)
        for arm in arms
        for one, words in ((QUALITY[2], "by the truth"), (QUALITY[4], "by its own judge"))
        if (points := _points(arm, one))
    ]
    if not curves:
        return [Absent(title, "no AlpacaEval-style evaluation is kept, and there is no truth")]
    return [
        LinePlot(title if len(curves) <= MOST_CURVES else f"{title} ({number})", part,
                 "model (M0, M1, ...)", "percent")
        for number, part in enumerate(_parts(curves), 1)
    ]  # fmt: skip


def _parts(curves: Sequence[Curve]) -> list[Sequence[Curve]]:
    return [curves[at : at + MOST_CURVES] for at in range(0, len(curves), MOST_CURVES)]


def _card_points(run: Run, name: str) -> list[tuple[float, float | None]]:
    return [
        (float(t), found["value"])
        for t, cards in sorted(run.cards.items())
        for card in cards
        if card["benchmark"] == "alpaca_eval_2" and (found := figure_of(card, name)) is not None
    ]


def _points(arm: Arm, metric: Metric) -> list[tuple[float, float | None]]:
    found = [(float(t), estimate_metric(arm, metric, t).mean) for t in range(arm.iterations + 1)]
    return found if any(value is not None for _, value in found) else []


def _by_category(arms: Sequence[Arm]) -> list[Block]:
    plots = [plot for arm in arms for plot in (_categories_of(arm), _languages_of(arm)) if plot]
    if plots:
        return list(plots)
    return [
        Absent(
            "Win rate by category",
            "no kept evaluation names categories: AlpacaEval's column `dataset`, or "
            "`evaluate mt-bench --questions`",
        )
    ]


def _categories_of(arm: Arm) -> HeatPlot | None:
    """Of the first run that has them: percent of AlpacaEval, points of MT-Bench, as shares."""
    for run in arm.runs:
        cells = {
            (f"M{t}", one["name"].partition("_")[2]): one["value"] / _full(card)
            for t, cards in sorted(run.cards.items())
            for card in cards
            for one in card["figures"]
            if one["name"].startswith(_CATEGORY) and one["value"] is not None
        }
        if cells:
            return _heat(f"By category: {run.name}", cells, "category",
                         "Share of wins (AlpacaEval), or of 10 points (MT-Bench).")  # fmt: skip
    return None


def _full(card: Card) -> float:
    return 10.0 if card["benchmark"] == "mt_bench" else 100.0


def _languages_of(arm: Arm) -> HeatPlot | None:
    names = sorted(
        {
            metric
            for run in arm.runs
            for _, _, metric, basis in run.figures
            if metric.startswith("win_rate.") and basis == "oracle"
        }
    )
    cells = {
        (f"M{t}", name.partition(".")[2]): mean / 100
        for t in range(arm.iterations + 1)
        for name in names
        if (mean := estimate_metric(arm, Metric("", "actor", name), t).mean) is not None
    }
    if not cells:
        return None
    return _heat(f"Wins by the truth, by language: {arm.label}", cells, "language", "")


def _heat(title: str, cells: dict[tuple[str, str], float], what: str, note: str) -> HeatPlot:
    rows, columns = (list(dict.fromkeys(key[place] for key in cells)) for place in (0, 1))
    return HeatPlot(title, rows, columns, cells, "model", what, note)


def _quality(arms: Sequence[Arm]) -> list[Block]:
    shown = []
    for metric in (QUALITY[0], QUALITY[1]):
        curves = [Curve(arm.label, points) for arm in arms if (points := _points(arm, metric))]
        shown += [
            LinePlot(metric.title.capitalize(), part, "model (M0, M1, ...)", "points of 5")
            for part in _parts(curves)
        ]
    return list(shown)


def _distributions(arms: Sequence[Arm]) -> list[Block]:
    """How the judge used its points in each iteration, the runs of an arm together."""
    plots: list[Block] = []
    for arm in arms:
        cells: dict[tuple[str, str], float] = {}
        for t in range(1, arm.iterations + 1):
            counts = _histogram([run.summaries[t - 1] for run in arm.runs if run.iterations >= t])
            for start, count in zip(_BINS, counts, strict=True):
                cells[f"M{t - 1}", start] = count / (sum(counts) or 1)
        if cells:
            rows = [f"M{t}" for t in range(arm.iterations)]
            plots.append(
                HeatPlot(
                    f"The judge's points: {arm.label}", rows, _BINS, cells, "judge",
                    "points, from", "Share of its judgments. Pile-ups at 5 are how judges fail.",
                )
            )  # fmt: skip
    return plots or [Absent("The judge's points by iteration", "no iteration is finished")]


def _histogram(summaries: Sequence[Mapping[str, Any]]) -> list[int]:
    known = [summary["judge"].get("histogram") for summary in summaries if summary.get("judge")]
    full = [counts for counts in known if counts]
    return [sum(counts[place] for counts in full) for place in range(len(_BINS))]
