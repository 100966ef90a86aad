"""The length-controlled win rate: what the win rate would be if both answers were equally long.

A logistic regression of the preference on the difference of lengths, read at difference 0.

Source: Dubois et al. 2024, "Length-Controlled AlpacaEval", arXiv 2404.04475, section 3; the
public tool `alpaca_eval` 0.6 for what the paper leaves open (lasso, no intercept beside the
constant, 5 folds, 10 strengths, standard deviation with ddof 1).
Departs from both: no regularisation towards annotations of two gamed baselines, because they are
not given; a standard error and an interval by bootstrap. The tool's `lc_standard_error` is the
spread of the predictions over prompts, which is 0 without instruction difficulty.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from meta_reward_core.evaluation.intervals import (
    Interval,
    bounded_mean_interval,
    percentile_band,
    resample_counts,
    widest,
)
from meta_reward_core.evaluation.logistic import fit_logistic

Array = npt.NDArray[np.float64]

FOLDS: Final = 5
STRENGTHS: Final = np.logspace(-4, 4, 10)
"""Candidates for C, the weight of the likelihood against the lasso's 1."""

LEAST_ROWS: Final = 2 * FOLDS
"""With fewer rows no strength can be chosen, and no rate is given."""

_CHUNK_ROUNDS: Final = 20  # keeps the bootstrap's arrays at some tens of megabytes


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """A length-controlled win rate in percent, or the reason why there is none.

    Attributes:
        rate: None when it cannot be computed.
        standard_error: over bootstrap rounds of the prompts, the choice of C included.
        interval: 95%.
        length_coefficient: of tanh(d / std(d)); negative where longer answers are preferred.
        strength: the C that cross-validation chose.
        absent: why there is no rate.
    """

    rate: float | None
    standard_error: float | None = None
    interval: Interval | None = None
    length_coefficient: float | None = None
    strength: float | None = None
    absent: str | None = None


def control_length(
    preferences: Array,
    *,
    baseline_chars: Array,
    model_chars: Array,
    difficulty: Array | None = None,
    rounds: int = 100,
    seed: int = 0,
    missing: int = 0,
) -> LengthControlled:
    """Fit preference ~ tanh(d / std(d)) + 1 (+ difficulty) and read it at d = 0.

    d = baseline_chars - model_chars, not centred; std with ddof 1. The rate is the mean of the
    predictions over prompts, in percent.

    Args:
        preferences: share of the preference that the model won, in [0, 1], shape [n].
        baseline_chars: lengths of the baseline's answers in characters, shape [n].
        model_chars: lengths of the model's answers, shape [n].
        difficulty: of the instructions, shape [n], where it is known.
        rounds: of the bootstrap.
        seed: of the bootstrap.
        missing: prompts without a preference; they widen the interval.
    """
    if len(preferences) < LEAST_ROWS:
        return LengthControlled(
            None, absent=f"fewer than {LEAST_ROWS} prompts: nothing to cross-validate on"
        )
    gap = baseline_chars - model_chars
    if not np.ptp(gap) and gap[0]:
        return LengthControlled(
            None,
            absent=f"every answer differs by the same {abs(gap[0]):.0f} characters from the "
            "baseline's, so length and quality cannot be told apart",
        )
    spread = gap.std(ddof=1)
    columns = [np.tanh(gap / spread) if spread else gap, np.ones(len(gap))]
    if difficulty is not None:
        columns.append(difficulty)
    features = np.stack(columns, axis=1)
    try:
        return _fit(preferences, features, rounds=rounds, seed=seed, missing=missing)
    except ArithmeticError as error:
        return LengthControlled(None, absent=f"the regression failed: {error}")


def _fit(
    preferences: Array, features: Array, *, rounds: int, seed: int, missing: int
) -> LengthControlled:
    """Fit on all rows, then on bootstrap rounds; the first feature is the length's."""
    size = len(preferences)
    level = features.copy()
    level[:, 0] = 0.0
    found, strengths = _cross_validated_fit(features, preferences, np.ones((1, size)))
    rate = 100 * float(expit(level @ found[0]).mean())
    drawn = resample_counts(size, rounds, np.random.default_rng(seed))
    rates = np.concatenate(
        [
            _rates(features, preferences, level, drawn[begin : begin + _CHUNK_ROUNDS])
            for begin in range(0, rounds, _CHUNK_ROUNDS)
        ]
    )
    # A length-controlled rate cannot be known better than a plain one from as many prompts.
    plain = bounded_mean_interval(rate, size, least=0.0, most=100.0, missing=missing)
    return LengthControlled(
        rate,
        standard_error=float(rates.std(ddof=1)),
        interval=widest(percentile_band(rates), plain),
        length_coefficient=float(found[0, 0]),
        strength=float(strengths[0]),
    )


def _rates(features: Array, targets: Array, level: Array, weights: Array) -> Array:
    """Length-controlled rates in percent [rounds] for the row weights of each round."""
    found, _ = _cross_validated_fit(features, targets, weights)
    predicted: Array = expit(found @ level.T)
    means: Array = 100 * (weights * predicted).sum(axis=1) / weights.sum(axis=1)
    return means


def _cross_validated_fit(features: Array, targets: Array, weights: Array) -> tuple[Array, Array]:
    """Coefficients [p, k] at the strength [p] whose held-out log loss is the smallest."""
    held_out = np.arange(len(targets))[None, :] % FOLDS == np.arange(FOLDS)[:, None]
    scores = np.stack([_held_out_loss(features, targets, weights, c, held_out) for c in STRENGTHS])
    strengths = STRENGTHS[scores.argmin(axis=0)]
    return fit_logistic(features, targets, weights, lasso=1 / strengths), strengths


def _held_out_loss(
    features: Array,
    targets: Array,
    weights: Array,
    strength: float,
    held_out: npt.NDArray[np.bool_],
) -> Array:
    """Mean over folds of the mean log loss of rows that were not fitted [p].

    Args:
        held_out: which rows each fold holds out, shape [folds, n].
    """
    trained = (weights[:, None, :] * ~held_out).reshape(-1, weights.shape[1])
    found = fit_logistic(features, targets, trained, lasso=np.full(len(trained), 1 / strength))
    shares = np.clip(expit(found @ features.T), 1e-15, 1 - 1e-15)
    loss = -(targets * np.log(shares) + (1 - targets) * np.log1p(-shares))
    tested = weights[:, None, :] * held_out
    total = (loss.reshape(tested.shape) * tested).sum(axis=2)
    means: Array = (total / np.maximum(tested.sum(axis=2), 1e-300)).mean(axis=1)
    return means
