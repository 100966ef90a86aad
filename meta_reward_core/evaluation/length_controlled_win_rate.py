"""Length-controlled win rate: the win rate if both outputs were equally long.

A logistic regression of the preference on the difference of lengths, evaluated at difference 0.

Source: Dubois et al. 2024, "Length-Controlled AlpacaEval", arXiv 2404.04475, section 3; the
public tool `alpaca_eval` 0.6.6 (`metrics/glm_winrate.py`) for what the paper leaves open (lasso, no
intercept besides the constant, 5 folds, standard deviation with ddof 1 over rated and unrated rows)
and scikit-learn's `LogisticRegressionCV`, which it calls, for the 10 strengths.
Departs from both: no regularization towards annotations of two gamed baselines, because they are
not given; a standard error and an interval by bootstrap (the tool's `lc_standard_error` is the
spread of the predictions over prompts, which is 0 without instruction difficulty); and no rate
if the penalty or collinear columns determine it, where the tool prints 50 or the plain rate.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from meta_reward_core.evaluation.confidence_intervals import (
    Interval,
    compute_bounded_mean_interval,
    compute_percentile_interval,
    enclose_intervals,
    resample_counts,
)
from meta_reward_core.evaluation.logistic_regression import compute_sigmoid, fit_logistic

Array = npt.NDArray[np.float64]

Mask = npt.NDArray[np.bool_]

FOLDS: Final = 5
"""Folds of the cross-validation. Source: `GLM_INFO` in alpaca_eval's `metrics/glm_winrate.py`.

Rated row n is in fold n modulo 5, as in scikit-learn 1.9's `GroupKFold`; older versions
assign rows in a different order, which changes the tool's own rate by up to 0.45 points.
"""

STRENGTHS: Final = np.logspace(-4, 4, 10)
"""Candidates for C, the weight of the likelihood relative to the lasso penalty.

Source: scikit-learn's `LogisticRegressionCV`, whose default the tool uses (`Cs=10`).
"""

MIN_ROWS: Final = 2 * FOLDS
"""Minimum rows for the choice of the penalty; with fewer there is no rate. Our choice."""

MAX_INFLATION: Final = 100.0
"""Variance inflation of the constant by the length column above which there is no rate.

At 100 the error of the constant is ten times as large as without the column: +/- 30 percentage
points for 805 prompts. Public models have 1 to 3. Our choice.
"""

_NOTHING_LEFT: Final = 1e-9  # a coefficient that the lasso has removed, up to rounding
_SAME_RATE: Final = 0.05  # in points; invisible at one decimal

_CHUNK_ROUNDS: Final = 20  # limits the bootstrap's arrays to tens of megabytes


@dataclass(frozen=True, slots=True)
class LengthControlledRate:
    """A length-controlled win rate in percent, or the reason why there is none.

    Attributes:
        rate: the rate; None if it cannot be computed.
        standard_error: standard error over bootstrap rounds of the prompts, including the choice of
            C.
        interval: 95% interval.
        length_coefficient: coefficient of tanh(d / std(d)); negative if longer answers are
            preferred.
        strength: the value of C chosen by cross-validation.
        unpenalised: the rate with the weakest penalty.
        absent: why there is no rate.
    """

    rate: float | None
    standard_error: float | None = None
    interval: Interval | None = None
    length_coefficient: float | None = None
    strength: float | None = None
    unpenalised: float | None = None
    absent: str | None = None


@dataclass(frozen=True, slots=True)
class _Data:
    """Regression data: rated rows are fitted, all rows are predicted.

    Attributes:
        features: columns for length, ones and, if known, difficulty; shape [n, k].
        targets: shares in [0, 1], 0 if missing; shape [n].
        rated: mask of the rows that have a preference; shape [n].
        held_out: mask of the rows that each fold holds out; shape [folds, n].
    """

    features: Array
    targets: Array
    rated: Mask
    held_out: Mask

    @property
    def level(self) -> Array:
        """Features at equal lengths; shape [n, k]."""
        level = self.features.copy()
        level[:, 0] = 0.0
        return level


def compute_length_controlled_rate(
    preferences: Array,
    *,
    baseline_chars: Array,
    model_chars: Array,
    difficulty: Array | None = None,
    rounds: int = 100,
    seed: int = 0,
) -> LengthControlledRate:
    """Fit preference ~ tanh(d / std(d)) + 1 (+ difficulty) and evaluate it at d = 0.

    d = baseline_chars - model_chars, not centered; std with ddof 1, over all rows. Rows without a
    preference are predicted, but not fitted: the rate is the mean of the predictions over all
    prompts, in percent, as in the public tool. Rows without a preference widen the interval.

    Args:
        preferences: preference for the model, in [0, 1]; NaN if missing; shape [n].
        baseline_chars: lengths of the baseline's answers in characters, shape [n].
        model_chars: lengths of the model's answers, shape [n].
        difficulty: difficulty of the instructions, shape [n], if known.
        rounds: bootstrap rounds.
        seed: random seed of the bootstrap.
    """
    rated = ~np.isnan(preferences)
    if rated.sum() < MIN_ROWS:
        return LengthControlledRate(
            None, absent=f"fewer than {MIN_ROWS} prompts, which is too few for cross-validation"
        )
    gap = baseline_chars - model_chars
    spread = gap.std(ddof=1)
    columns = [np.tanh(gap / spread) if spread else np.sign(gap), np.ones(len(gap))]
    if difficulty is not None:
        columns.append(difficulty)
    features = np.stack(columns, axis=1)
    if _compute_variance_inflation(features[rated]) > MAX_INFLATION:
        return LengthControlledRate(None, absent=_explain_collinearity(gap[rated]))
    folds = (np.cumsum(rated) - 1) % FOLDS == np.arange(FOLDS)[:, None]
    data = _Data(features, np.where(rated, preferences, 0.0), rated, folds & rated)
    try:
        return _fit(data, rounds=rounds, seed=seed)
    except ArithmeticError as error:
        return LengthControlledRate(None, absent=f"the regression failed: {error}")


def _compute_variance_inflation(features: Array) -> float:
    """Compute 1 / (1 - R^2) of the length column on the others, uncentered; 1 if it is 0."""
    length, others = features[:, 0], features[:, 1:]
    if not length.any():
        return 1.0
    fitted = others @ np.linalg.lstsq(others, length, rcond=None)[0]
    left = float(((length - fitted) ** 2).sum() / (length**2).sum())
    return 1 / left if left > 0 else np.inf


def _explain_collinearity(gap: Array) -> str:
    """Explain why length and quality cannot be separated, in characters [n]."""
    lowest, highest = np.abs(gap).min(), np.abs(gap).max()
    if np.ptp(gap) == 0:
        return (
            f"every answer differs by the same {highest:.0f} characters from the baseline's, "
            f"so the effects of length and quality cannot be separated"
        )
    return (
        f"the answers differ from the baseline's by {lowest:.0f} to {highest:.0f} characters; "
        f"these differences are so similar that the effect of length cannot be separated from "
        f"quality or difficulty"
    )


def _fit(data: _Data, *, rounds: int, seed: int) -> LengthControlledRate:
    """Fit on all rows, then on bootstrap rounds; the first feature is length."""
    size, once = len(data.targets), np.ones((1, len(data.targets)))
    found, strengths = _fit_cross_validated(data, once)
    free = fit_logistic(data.features, data.targets, once * data.rated, lasso=1 / STRENGTHS[-1:])
    rate, unpenalised = (
        100 * float(compute_sigmoid(data.level @ b[0]).mean()) for b in (found, free)
    )
    if abs(found[0, 1]) < _NOTHING_LEFT and abs(rate - unpenalised) > _SAME_RATE:
        return LengthControlledRate(
            None,
            unpenalised=unpenalised,
            absent=_explain_removal(int(data.rated.sum()), unpenalised),
        )
    resampled = resample_counts(size, rounds, np.random.default_rng(seed))
    rates = np.concatenate(
        [
            _compute_rates(data, resampled[begin : begin + _CHUNK_ROUNDS])
            for begin in range(0, rounds, _CHUNK_ROUNDS)
        ]
    )
    # A length-controlled rate cannot be more precise than a plain one from the same number of
    # prompts.
    count = int(data.rated.sum())
    plain = compute_bounded_mean_interval(
        rate, count, lowest=0.0, highest=100.0, missing=size - count
    )
    return LengthControlledRate(
        rate,
        standard_error=float(rates.std(ddof=1)),
        interval=enclose_intervals(compute_percentile_interval(rates), plain),
        length_coefficient=float(found[0, 0]),
        strength=float(strengths[0]),
        unpenalised=unpenalised,
    )


def _explain_removal(count: int, unpenalised: float) -> str:
    return (
        f"on {count} prompts cross-validation chooses a penalty that removes every difference "
        "between model and baseline, so that the regression gives 50 for any answers; without "
        f"the penalty it gives {unpenalised:.1f}: compare on more prompts"
    )


def _compute_rates(data: _Data, weights: Array) -> Array:
    """Compute length-controlled rates in percent [rounds] for the weights of each round."""
    found, _ = _fit_cross_validated(data, weights)
    predicted: Array = compute_sigmoid(found @ data.level.T)
    means: Array = 100 * (weights * predicted).sum(axis=1) / weights.sum(axis=1)
    return means


def _fit_cross_validated(data: _Data, weights: Array) -> tuple[Array, Array]:
    """Fit coefficients [p, k] with the penalty [p] that minimizes held-out log loss.

    Args:
        data: the rows.
        weights: weights of the rows in each problem, shape [p, n].
    """
    fitted = weights * data.rated
    scores = np.stack([_compute_held_out_loss(data, fitted, strength) for strength in STRENGTHS])
    strengths = STRENGTHS[scores.argmin(axis=0)]
    return fit_logistic(data.features, data.targets, fitted, lasso=1 / strengths), strengths


def _compute_held_out_loss(data: _Data, weights: Array, strength: float) -> Array:
    """Compute the mean over folds of the mean held-out log loss [p]."""
    features, targets = data.features, data.targets
    trained = (weights[:, None, :] * ~data.held_out).reshape(-1, weights.shape[1])
    found = fit_logistic(features, targets, trained, lasso=np.full(len(trained), 1 / strength))
    shares = np.clip(compute_sigmoid(found @ features.T), 1e-15, 1 - 1e-15)
    loss = -(targets * np.log(shares) + (1 - targets) * np.log1p(-shares))
    tested = weights[:, None, :] * data.held_out
    total = (loss.reshape(tested.shape) * tested).sum(axis=2)
    means: Array = (total / np.maximum(tested.sum(axis=2), 1e-300)).mean(axis=1)
    return means
