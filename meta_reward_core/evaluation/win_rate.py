"""AlpacaEval-2 style: how often, and how strongly, an annotator prefers a model to a baseline.

Source: Dubois et al. 2024, arXiv 2404.04475; the public tool `alpaca_eval` 0.6.6 for the columns
and for the treatment of rows without a preference (`metrics/helpers.py`, `main.py`).
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from meta_reward_core.evaluation.alpaca_eval_io import TIE_PREFERENCE, Annotation
from meta_reward_core.evaluation.confidence_intervals import (
    Array,
    compute_bounded_mean_interval,
    compute_standard_error,
)
from meta_reward_core.evaluation.judge_hacking import ComparedResponse, find_judge_hacking
from meta_reward_core.evaluation.length_controlled_win_rate import (
    LengthControlledRate,
    compute_length_controlled_rate,
)
from meta_reward_core.evaluation.scorecard import DataIssue, Metric, Scorecard, make_issue_if_any

EXTREME_CHANGE: Final = 10.0
"""Minimum change of a win rate by length control, in percentage points, that is reported.

Source: `get_is_extreme_changes` in alpaca_eval's `metrics/glm_winrate.py`, which also requires a
change of a quarter of the rate; this module also reports smaller relative changes.
"""

PENALTY_CHANGE: Final = 1.0
"""Minimum change of a length-controlled rate by the penalty, in points, that is reported.

Our choice.
"""

FEW_PROMPTS: Final = 100
"""With fewer prompts, the interval is wide enough to be reported as an issue. Our choice."""


def score_annotations(
    annotations: Sequence[Annotation], *, mode: str = "community", rounds: int = 100, seed: int = 0
) -> Scorecard:
    """Compute win rates of one model against one baseline.

    win_rate = 100 * mean(preference - 1); standard_error of that mean, ddof 1; discrete_win_rate
    = 100 * (wins + draws / 2) / total, a win being a preference over 1.5; avg_length the mean
    characters of the model's answers, truncated to a whole number. Rows without a preference are
    excluded from rates and widen the intervals; the average length, and the standard deviation for
    length control, are over all rows, as in the public tool.

    Args:
        annotations: annotations of one model by one annotator, one for each instruction.
        mode: value of the leaderboard column `mode`.
        rounds: number of bootstrap rounds for the length-controlled rate.
        seed: random seed of that bootstrap.
    """
    first = annotations[0]
    rated = [a for a in annotations if a.preference is not None]
    shares = np.array([a.preference - 1 for a in rated if a.preference is not None])
    missing = len(annotations) - len(rated)
    controlled = _compute_controlled_rate(annotations, rounds=rounds, seed=seed)
    columns = _make_leaderboard_columns(annotations, shares, controlled) | {"mode": mode}
    return Scorecard(
        benchmark="alpaca_eval_2",
        model=first.generator_2,
        baseline=first.generator_1,
        judge=first.annotator,
        metrics=(
            *_make_metrics(columns, controlled, count=len(rated), missing=missing),
            *_make_dataset_metrics(annotations),
        ),
        issues=tuple(_find_issues(annotations, columns, controlled)),
        columns=columns,
    )


def _compute_controlled_rate(
    annotations: Sequence[Annotation], *, rounds: int, seed: int
) -> LengthControlledRate:
    """Compute the length-controlled rate; 50 by definition for a model against itself."""
    if is_against_itself(annotations):
        return LengthControlledRate(50.0, standard_error=0.0)
    difficulty = [a.difficulty for a in annotations if a.difficulty is not None]
    shares = [np.nan if a.preference is None else a.preference - 1 for a in annotations]
    return compute_length_controlled_rate(
        np.array(shares),
        baseline_chars=np.array([float(len(a.output_1)) for a in annotations]),
        model_chars=np.array([float(len(a.output_2)) for a in annotations]),
        difficulty=np.array(difficulty) if len(difficulty) == len(annotations) else None,
        rounds=rounds,
        seed=seed,
    )


def compute_repeat_deviation(cards: Sequence[Scorecard]) -> Metric:
    """Compute the standard deviation (ddof 1) of the win rate over repeats, in points.

    Args:
        cards: scorecards of the evaluation and of its repeats, for the same outputs.
    """
    rates = [card.columns["win_rate"] for card in cards if card.columns["win_rate"] is not None]
    name = "win_rate_repeat_deviation"
    if len(rates) < 2:
        return Metric(name, None, len(rates), absent="no repeated annotations were given")
    return Metric(name, float(np.std(rates, ddof=1)), len(rates))


def is_against_itself(annotations: Sequence[Annotation]) -> bool:
    """Whether baseline and model have identical texts, whatever their names."""
    return bool(annotations) and all(a.output_1 == a.output_2 for a in annotations)


def _make_leaderboard_columns(
    annotations: Sequence[Annotation], shares: Array, controlled: LengthControlledRate
) -> dict[str, Any]:
    """Build the leaderboard's columns in its units (percent, characters) and names."""
    wins, losses = (
        int((shares > TIE_PREFERENCE - 1).sum()),
        int((shares < TIE_PREFERENCE - 1).sum()),
    )
    ties, total = len(shares) - wins - losses, len(shares)
    error = compute_standard_error(shares)
    return {
        "win_rate": 100 * float(shares.mean()) if total else None,
        "standard_error": None if error is None else 100 * error,
        "n_wins": wins,
        "n_wins_base": losses,
        "n_draws": ties,
        "n_total": total,
        "discrete_win_rate": 100 * (wins + ties / 2) / total if total else None,
        "avg_length": math.floor(sum(len(a.output_2) for a in annotations) / len(annotations)),
        "length_controlled_winrate": controlled.rate,
        "lc_standard_error": controlled.standard_error,
    }


def _make_metrics(
    columns: dict[str, Any], controlled: LengthControlledRate, *, count: int, missing: int
) -> tuple[Metric, ...]:
    if count == 0:
        return (Metric("win_rate", None, 0, absent="no row has a preference"),)
    rates = [
        _make_rate_metric(name, columns[name], count, missing)
        for name in ("win_rate", "discrete_win_rate")
    ]
    low, high = controlled.interval or (None, None)
    return (
        *rates,
        Metric("length_controlled_winrate", controlled.rate, count, low, high, controlled.absent),
        Metric("avg_length", columns["avg_length"], count + missing),
    )


def _make_dataset_metrics(annotations: Sequence[Annotation]) -> list[Metric]:
    """Compute the win rate of each dataset if there are several."""
    datasets = list(dict.fromkeys(a.dataset for a in annotations if a.dataset))
    if len(datasets) < 2:
        return []
    return [_make_dataset_metric(dataset, annotations) for dataset in datasets]


def _make_dataset_metric(dataset: str, annotations: Sequence[Annotation]) -> Metric:
    own = [a.preference for a in annotations if a.dataset == dataset]
    shares = [preference - 1 for preference in own if preference is not None]
    if not shares:
        return Metric(f"dataset_{dataset}", None, 0, absent="no row has a preference")
    rate = 100 * sum(shares) / len(shares)
    return _make_rate_metric(f"dataset_{dataset}", rate, len(shares), len(own) - len(shares))


def _make_rate_metric(name: str, rate: float, count: int, missing: int) -> Metric:
    ends = compute_bounded_mean_interval(rate, count, lowest=0.0, highest=100.0, missing=missing)
    return Metric(name, rate, count, ends.low, ends.high)


def _find_issues(
    annotations: Sequence[Annotation], columns: dict[str, Any], controlled: LengthControlledRate
) -> list[DataIssue]:
    answers = [ComparedResponse(a.instruction, a.output_2, a.output_1) for a in annotations]
    return [
        *_find_data_issues(annotations),
        *_find_length_issues(columns["win_rate"], controlled, columns["n_total"]),
        *find_judge_hacking(answers),
    ]


def _find_data_issues(annotations: Sequence[Annotation]) -> list[DataIssue]:
    few = annotations if len(annotations) < FEW_PROMPTS else []
    itself = annotations if is_against_itself(annotations) else []
    unknown = [a for a in annotations if a.difficulty is None]
    return [
        *make_issue_if_any(
            [a for a in annotations if a.preference is None],
            "missing_preferences",
            "Rows without a preference: {rows}.",
            "They are excluded from the win rates (but not from the average length), and the "
            "intervals allow for each of them being lost or won. Annotate them again.",
        ),
        *make_issue_if_any(
            few,
            "few_prompts",
            "Small sample: {rows}.",
            "Rely on the interval, not the rate; compare models on more prompts.",
        ),
        *make_issue_if_any(
            itself,
            "model_against_itself",
            "Model and baseline give the same answer in all {rows} rows.",
            "The length-controlled rate is 50 by definition; nothing was compared.",
        ),
        *make_issue_if_any(
            [a for a in annotations if a.generator_1 == a.generator_2 and a.output_1 != a.output_2],
            "one_name_two_answers",
            "Rows whose model has the baseline's name but a different answer: {rows}.",
            "Either two samples of one model were compared, or the outputs were mixed up.",
        ),
        *make_issue_if_any(
            unknown if len(unknown) < len(annotations) else [],
            "difficulty_incomplete",
            "Rows without an instruction difficulty, while others have one: {rows}.",
            "Difficulty was excluded from the regression. Provide it for all rows or for none.",
        ),
    ]


def _find_length_issues(
    plain: float | None, controlled: LengthControlledRate, rows: int
) -> list[DataIssue]:
    rate, free = controlled.rate, controlled.unpenalised
    if plain is None or rate is None or free is None:
        return []
    moved = abs(rate - plain) > EXTREME_CHANGE
    shrunk = abs(rate - free) > PENALTY_CHANGE
    return [
        *make_issue_if_any(
            range(rows if moved else 0),
            "length_control_moves_much",
            f"Length control moves the win rate from {plain:.1f} to {rate:.1f}.",
            "Answers and baseline differ much in length, or the regression has failed. "
            "Compare both metrics.",
        ),
        *make_issue_if_any(
            range(rows if shrunk else 0),
            "length_control_penalised",
            f"The penalty moves the length-controlled rate from {free:.1f} to {rate:.1f}.",
            "Cross-validation found little signal in these prompts and shrinks the rate "
            "towards 50, as in the public tool. Compare on more prompts.",
        ),
    ]
