"""The paper's figures: win rates by iteration and category, score distributions."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from meta_reward_core.evaluation.judge_metrics import HISTOGRAM_BINS
from meta_reward_core.reporting.document import Absent, Block, Curve, HeatPlot, LinePlot
from meta_reward_core.reporting.metrics import QUALITY, MetricSpec, estimate_metric
from meta_reward_core.reporting.run_loader import Arm, ExperimentRun
from meta_reward_core.reporting.scorecard_schema import ScorecardDict
from meta_reward_core.reporting.tables import find_scorecard_metric

MAX_CURVES: Final = 6
"""Maximum number of distinguishable categories."""

_BINS: Final = tuple(f"{start:g}" for start in HISTOGRAM_BINS)
_CATEGORY: Final = ("dataset_", "category_")


def build_paper_plots(arms: Sequence[Arm]) -> list[Block]:
    """Build all figures."""
    return [
        *_plot_win_rates(arms),
        *_plot_quality(arms),
        *_plot_categories(arms),
        *_plot_score_distributions(arms),
    ]


def _plot_win_rates(arms: Sequence[Arm]) -> list[Block]:
    title = "Win rate by iteration"
    curves = [
        Curve(f"{run.name}, {words}", points)
        for arm in arms
        for run in arm.runs
        for name, words in (("length_controlled_winrate", "LC"), ("win_rate", "plain"))
        if (points := _list_scorecard_points(run, name))
    ]
    curves = curves or [
        Curve(f"{arm.label}, {words}", points)
        for arm in arms
        for one, words in ((QUALITY[2], "by the truth"), (QUALITY[4], "by its own judge"))
        if (points := _list_metric_points(arm, one))
    ]
    if not curves:
        return [
            Absent(title, "no AlpacaEval-style evaluation is stored, and there is no ground truth")
        ]
    return [
        LinePlot(title if len(curves) <= MAX_CURVES else f"{title} ({number})", part,
                 "model (M0, M1, ...)", "percent")
        for number, part in enumerate(_split_curves(curves), 1)
    ]  # fmt: skip


def _split_curves(curves: Sequence[Curve]) -> list[Sequence[Curve]]:
    return [curves[at : at + MAX_CURVES] for at in range(0, len(curves), MAX_CURVES)]


def _list_scorecard_points(run: ExperimentRun, name: str) -> list[tuple[float, float | None]]:
    return [
        (float(t), found["value"])
        for t, cards in sorted(run.cards.items())
        for card in cards
        if card["benchmark"] == "alpaca_eval_2"
        and (found := find_scorecard_metric(card, name)) is not None
    ]


def _list_metric_points(arm: Arm, metric: MetricSpec) -> list[tuple[float, float | None]]:
    found = [(float(t), estimate_metric(arm, metric, t).mean) for t in range(arm.iterations + 1)]
    return found if any(value is not None for _, value in found) else []


def _plot_categories(arms: Sequence[Arm]) -> list[Block]:
    plots = [
        plot
        for arm in arms
        for plot in (_plot_arm_categories(arm), _plot_arm_languages(arm))
        if plot
    ]
    if plots:
        return list(plots)
    return [
        Absent(
            "Win rate by category",
            "no stored evaluation has categories: AlpacaEval's column `dataset`, or "
            "`evaluate mt-bench --questions`",
        )
    ]


def _plot_arm_categories(arm: Arm) -> HeatPlot | None:
    """Plot categories of the first run that has them, as shares."""
    for run in arm.runs:
        cells = {
            (f"M{t}", one["name"].partition("_")[2]): one["value"] / _get_full_scale(card)
            for t, cards in sorted(run.cards.items())
            for card in cards
            for one in card["figures"]
            if one["name"].startswith(_CATEGORY) and one["value"] is not None
        }
        if cells:
            return _make_heat_plot(f"By category: {run.name}", cells, "category",
                         "Share of wins (AlpacaEval), or of 10 points (MT-Bench).")  # fmt: skip
    return None


def _get_full_scale(card: ScorecardDict) -> float:
    return 10.0 if card["benchmark"] == "mt_bench" else 100.0


def _plot_arm_languages(arm: Arm) -> HeatPlot | None:
    names = sorted(
        {
            metric
            for run in arm.runs
            for _, _, metric, basis in run.metrics
            if metric.startswith("win_rate.") and basis == "oracle"
        }
    )
    cells = {
        (f"M{t}", name.partition(".")[2]): mean / 100
        for t in range(arm.iterations + 1)
        for name in names
        if (mean := estimate_metric(arm, MetricSpec("", "actor", name), t).mean) is not None
    }
    if not cells:
        return None
    return _make_heat_plot(
        f"Wins by the ground truth, by language: {arm.label}", cells, "language", ""
    )


def _make_heat_plot(
    title: str, cells: dict[tuple[str, str], float], what: str, note: str
) -> HeatPlot:
    rows, columns = (list(dict.fromkeys(key[place] for key in cells)) for place in (0, 1))
    return HeatPlot(title, rows, columns, cells, "model", what, note)


def _plot_quality(arms: Sequence[Arm]) -> list[Block]:
    shown = []
    for metric in (QUALITY[0], QUALITY[1]):
        curves = [
            Curve(arm.label, points) for arm in arms if (points := _list_metric_points(arm, metric))
        ]
        shown += [
            LinePlot(metric.title.capitalize(), part, "model (M0, M1, ...)", "points of 5")
            for part in _split_curves(curves)
        ]
    return list(shown)


def _plot_score_distributions(arms: Sequence[Arm]) -> list[Block]:
    """Plot the score distribution by iteration, with the runs of an arm combined."""
    plots: list[Block] = []
    for arm in arms:
        cells: dict[tuple[str, str], float] = {}
        for t in range(1, arm.iterations + 1):
            counts = _sum_histograms(
                [run.summaries[t - 1] for run in arm.runs if run.iterations >= t]
            )
            if not sum(counts):  # a reward model has no scale
                continue
            for start, count in zip(_BINS, counts, strict=True):
                cells[f"M{t - 1}", start] = count / sum(counts)
        if cells:
            rows = [f"M{t}" for t in range(arm.iterations)]
            plots.append(
                HeatPlot(
                    f"Judge scores: {arm.label}", rows, _BINS, cells, "judge",
                    "score, from", "Share of its judgments. Collapsed judges mostly give 5.",
                )
            )  # fmt: skip
    return plots or [Absent("Judge scores by iteration", "no iteration is finished")]


def _sum_histograms(summaries: Sequence[Mapping[str, Any]]) -> list[int]:
    known = [summary["judge"].get("histogram") for summary in summaries if summary.get("judge")]
    full = [counts for counts in known if counts]
    return [sum(counts[place] for counts in full) for place in range(len(_BINS))]
