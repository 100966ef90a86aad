"""Baselines for scores: how much they vary, and what shuffled scores would achieve.

A constant score does not order any pair: its accuracy is 50% if ties count as half, and its rank
correlation is undefined. Shuffled scores keep the frequency of each score, but not its item. A
metric within the range of its shuffled scores cannot be distinguished from chance.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from meta_reward_core.evaluation.judge_metrics import compute_entropy_bits
from meta_reward_core.evaluation.scorecard import Metric

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

SHUFFLES: Final = 1000
_SHUFFLES_AT_ONCE: Final = 100
_RESAMPLES: Final = 1000
_SEED: Final = 0
_ENDS: Final = (2.5, 97.5)


def measure_score_entropy(scores: Mapping[str, Sequence[float]]) -> Metric:
    """Measure the entropy in bits of the scores, rounded to whole numbers (halves up).

    Args:
        scores: scores of all judgments, by prompt.

    Returns:
        The entropy with a bootstrap interval over prompts. The entropy of a sample is too low by
        about (number of distinct scores - 1) / (2 n ln 2) bits (Miller 1955); this is not
        corrected.
    """
    counts = [Counter(math.floor(score + 0.5) for score in values) for values in scores.values()]
    kinds = sorted(set().union(*counts))
    if not kinds:
        return Metric("score_entropy", None, 0, absent="no scores to compute this metric from")
    table = np.array([[count[kind] for kind in kinds] for count in counts])
    value = _compute_entropy(table.sum(axis=0))
    rng = np.random.default_rng(_SEED)
    sampled = rng.integers(len(table), size=(_RESAMPLES, len(table)))
    low, high = np.percentile(
        [_compute_entropy(table[rows].sum(axis=0)) for rows in sampled], _ENDS
    )
    # A bootstrap of equal scores has no width, although other scores could still occur.
    possible = _compute_entropy(np.array([len(table), 1]))
    total = int(table.sum())
    return Metric(
        "score_entropy", value, total, min(float(low), value), max(float(high), value, possible)
    )


def _compute_entropy(counts: IntArray) -> float:
    return compute_entropy_bits(counts.tolist()) or 0.0


def measure_shuffled_scores(
    name: str, scores: Sequence[float], measure: Callable[[FloatArray], FloatArray]
) -> Metric:
    """Measure randomly shuffled scores.

    Args:
        name: name of the metric.
        scores: score of each response.
        measure: returns the metric of every row of an array [shuffles, responses]; NaN if
            undefined.

    Returns:
        The mean over many shuffles; its interval is the range that contains 95% of them.
    """
    rng = np.random.default_rng(_SEED)
    shuffled = np.tile(np.asarray(scores, dtype=np.float64), (_SHUFFLES_AT_ONCE, 1))
    found = np.concatenate(
        [measure(rng.permuted(shuffled, axis=1)) for _ in range(0, SHUFFLES, _SHUFFLES_AT_ONCE)]
    )
    if not scores or np.isnan(found).any():
        return Metric(name, None, 0, absent="no order of scores to compute this metric from")
    low, high = np.percentile(found, _ENDS)
    return Metric(name, float(found.mean()), len(scores), float(low), float(high))
