"""Logistic regression of shares on a few features, for many small problems at once.

This module does not depend on models and lengths. Problems have the same rows and differ in the
weights of the rows, like the folds of a cross-validation and the rounds of a bootstrap.

Source: Lee, Sun and Saunders 2014, "Proximal Newton-type methods for minimizing composite
functions", SIAM Journal on Optimization 24.
"""

import itertools
from typing import Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

STEP_TOLERANCE: Final = 1e-9
"""A problem is solved when no coefficient moves by more than this, relative to 1 + the largest."""

_MAX_STEPS: Final = 200
_MIN_GAIN: Final = 1e-14  # relative; smaller changes are rounding


def compute_sigmoid(values: Array) -> Array:
    """Compute 1 / (1 + exp(-x)) of each value without overflow."""
    from scipy.special import expit  # imports for longer than most commands run

    found: Array = expit(values)
    return found


def fit_logistic(
    features: Array, targets: Array, weights: Array, *, lasso: Array, ridge: float = 0.0
) -> Array:
    """Fit the coefficients b [k] of every problem.

    Minimizes sum_i w_i (log(1 + exp(z_i)) - y_i z_i) + lasso |b|_1 + ridge/2 |b|_2^2 with
    z_i = x_i . b, without an intercept (pass a column of ones).

    Args:
        features: x, shape [n, k].
        targets: y in [0, 1], shape [n]; a share y counts as y of a win and 1 - y of a loss.
        weights: w >= 0, shape [problems, n].
        lasso: lasso penalties >= 0, shape [problems]; if any of them is not 0, k must be small.
        ridge: ridge penalty >= 0. If a problem is separable, lasso or ridge must be positive.

    Returns:
        Coefficients of shape [problems, k].

    Raises:
        ArithmeticError: a problem was not solved, for example a separable problem without a
            penalty.
    """
    products = (features[:, :, None] * features[:, None, :]).reshape(len(features), -1)
    found = np.zeros((len(weights), features.shape[1]))
    active = np.flatnonzero(weights.any(axis=1))
    for _ in range(_MAX_STEPS):
        if active.size == 0:
            return found
        part = weights[active]
        step = _compute_newton_step(
            features, products, targets, part, found[active], lasso[active], ridge
        )
        scale, gained = _search_line(
            features, targets, part, found[active], step, lasso[active], ridge
        )
        found[active] += scale[:, None] * step
        reach = np.abs(step).max(axis=1) / (1 + np.abs(found[active]).max(axis=1))
        active = active[(reach > STEP_TOLERANCE) & gained]
    raise ArithmeticError(f"{active.size} of {len(weights)} logistic regressions did not converge.")


def _compute_newton_step(
    features: Array,
    products: Array,
    targets: Array,
    weights: Array,
    at: Array,
    lasso: Array,
    ridge: float,
) -> Array:
    """Compute the step [p, k] to the minimum of the quadratic model plus penalties at `at`."""
    size = features.shape[1]
    shares = compute_sigmoid(at @ features.T)
    slope = (weights * (shares - targets)) @ features + ridge * at
    curvature = ((weights * shares * (1 - shares)) @ products).reshape(-1, size, size)
    curvature += (ridge + 1e-12 * (1 + weights.sum(axis=1)))[:, None, None] * np.eye(size)
    if not lasso.any():
        return np.linalg.solve(curvature, -slope[..., None])[..., 0].astype(np.float64)
    return _solve_penalized_step(slope, curvature, at, lasso)


def _solve_penalized_step(slope: Array, curvature: Array, at: Array, lasso: Array) -> Array:
    """Solve argmin_d slope.d + d'Hd/2 + lasso |at + d|_1 exactly for each problem [p, k].

    The minimum has one of the 3^k patterns of signs (-, 0, +). For a given pattern the model is
    quadratic in the coefficients that are not 0, and the best of all patterns' solutions is the
    minimum. So k must be small.
    """
    best = -at
    lowest = _evaluate_quadratic_model(best, slope, curvature, at, lasso)
    goal = (curvature @ at[..., None])[..., 0] - slope
    for signs in itertools.product((-1.0, 0.0, 1.0), repeat=at.shape[1]):
        sign = np.array(signs)
        free = sign != 0
        system = np.where(free[:, None] & free, curvature, np.eye(len(sign)))
        target = np.where(free, goal - lasso[:, None] * sign, 0.0)
        step = np.linalg.solve(system, target[..., None])[..., 0] - at
        value = _evaluate_quadratic_model(step, slope, curvature, at, lasso)
        better = value < lowest
        best = np.where(better[:, None], step, best)
        lowest = np.where(better, value, lowest)
    return best


def _evaluate_quadratic_model(
    step: Array, slope: Array, curvature: Array, at: Array, lasso: Array
) -> Array:
    """Evaluate the quadratic model plus penalty [p]."""
    bend = (step * (curvature @ step[..., None])[..., 0]).sum(axis=1) / 2
    value: Array = (slope * step).sum(axis=1) + bend + lasso * np.abs(at + step).sum(axis=1)
    return value


def _search_line(
    features: Array,
    targets: Array,
    weights: Array,
    at: Array,
    step: Array,
    lasso: Array,
    ridge: float,
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Find the largest of 1, 1/2, 1/4 ... per problem [p] that is not uphill; did it gain?"""
    before = _compute_objective(features, targets, weights, at, lasso, ridge)
    slack = _MIN_GAIN * (1 + np.abs(before))
    scale = np.ones(len(at))
    for _ in range(40):
        after = _compute_objective(
            features, targets, weights, at + scale[:, None] * step, lasso, ridge
        )
        uphill = after > before + slack
        if not uphill.any():
            break
        scale[uphill] /= 2
    return scale, after < before - slack


def _compute_objective(
    features: Array, targets: Array, weights: Array, at: Array, lasso: Array, ridge: float
) -> Array:
    """Compute the penalized negative log-likelihood [p]."""
    logits = at @ features.T
    loss: Array = (weights * (np.logaddexp(0.0, logits) - targets * logits)).sum(axis=1)
    penalty: Array = lasso * np.abs(at).sum(axis=1) + ridge / 2 * (at**2).sum(axis=1)
    return loss + penalty
