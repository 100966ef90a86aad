"""Logistic regressions against closed forms and their optimality conditions."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, logit

from meta_reward_core.evaluation.logistic_regression import fit_logistic

Array = npt.NDArray[np.float64]


def fit(features: Array, targets: Array, *, lasso: float = 0.0, ridge: float = 0.0) -> Array:
    weights = np.ones((1, len(targets)))
    found = fit_logistic(features, targets, weights, lasso=np.array([lasso]), ridge=ridge)
    return found.reshape(-1)


def test_a_constant_alone_gives_the_mean() -> None:
    """Shares 1, 0, 0.5, 0.8: mean 0.575, so b = log(0.575 / 0.425)."""
    (constant,) = fit(np.ones((4, 1)), np.array([1, 0, 0.5, 0.8]))
    assert constant == pytest.approx(math.log(0.575 / 0.425), abs=1e-9)


def test_two_groups_are_fitted_exactly() -> None:
    """X = 0 has mean 1/4, x = 1 has mean 2/3: b0 = logit(1/4), b0 + b1 = logit(2/3)."""
    x = np.array([0, 0, 0, 0, 1, 1, 1.0])
    targets = np.array([1, 0, 0, 0, 1, 1, 0.0])
    constant, slope = fit(np.stack([np.ones(7), x], axis=1), targets)
    assert constant == pytest.approx(logit(1 / 4), abs=1e-8)
    assert constant + slope == pytest.approx(logit(2 / 3), abs=1e-8)


@pytest.mark.parametrize(
    "lasso, expected", [(0.5, logit(0.8 - 0.05)), (2.0, logit(0.6)), (3.0, 0), (9.0, 0)]
)
def test_the_lasso_of_a_constant_has_a_closed_form(lasso: float, expected: float) -> None:
    """N = 10, mean 0.8: 10 (s(b) - 0.8) + lasso = 0, so s(b) = 0.8 - lasso / 10, or b = 0.

    At lasso = 3 = 10 * (0.8 - 0.5) the coefficient just vanishes.
    """
    (constant,) = fit(np.ones((10, 1)), np.array([1.0] * 8 + [0.0] * 2), lasso=lasso)
    assert constant == pytest.approx(expected, abs=1e-8)


@settings(max_examples=30)
@given(
    arrays(np.float64, (12, 3), elements=st.floats(-2, 2)),
    arrays(np.float64, 12, elements=st.floats(0, 1)),
    arrays(np.float64, 12, elements=st.integers(0, 3).map(float)),
    st.sampled_from([1e-3, 0.1, 1.0, 10.0]),
)
def test_no_coefficient_can_be_moved_to_advantage(
    features: Array, targets: Array, weights: Array, lasso: float
) -> None:
    """The objective is convex, so the subgradient proves the optimum.

    Slope = -lasso * sign(b) where b != 0, and within [-lasso, lasso] where b = 0.
    """
    (found,) = fit_logistic(features, targets, weights[None], lasso=np.array([lasso]))
    slope = (weights * (expit(features @ found) - targets)) @ features
    tolerance = 1e-5 * (1 + weights.sum())
    for one, steepness in zip(found, slope, strict=True):
        if one:
            assert steepness == pytest.approx(-lasso * np.sign(one), abs=tolerance)
        else:
            assert abs(steepness) <= lasso + tolerance


def test_a_problem_does_not_depend_on_its_companions() -> None:
    rng = np.random.default_rng(3)
    features, targets = rng.normal(size=(30, 2)), rng.random(30)
    weights = rng.integers(0, 3, size=(4, 30)).astype(float)
    lasso = np.array([0.1, 1.0, 0.0, 5.0])
    together = fit_logistic(features, targets, weights, lasso=lasso, ridge=0.01)
    for row, strength, expected in zip(weights, lasso, together, strict=True):
        alone = fit_logistic(features, targets, row[None], lasso=strength[None], ridge=0.01)[0]
        assert alone == pytest.approx(expected, abs=1e-7)


def test_a_weight_of_two_is_the_row_twice() -> None:
    features, targets = np.array([[1.0], [0.5], [-1.0]]), np.array([1.0, 0.2, 0.4])
    weighted = fit_logistic(features, targets, np.array([[2.0, 1, 1]]), lasso=np.array([0.1]))
    twice = fit(np.vstack([features[:1], features]), np.array([1.0, 1.0, 0.2, 0.4]), lasso=0.1)
    assert weighted[0] == pytest.approx(twice, abs=1e-9)


def test_what_is_separable_is_finite_with_a_penalty() -> None:
    features, targets = np.array([[-1.0], [1.0]]), np.array([0.0, 1.0])
    assert 3 < fit(features, targets, ridge=1e-2)[0] < 20
    assert 3 < fit(features, targets, lasso=1e-2)[0] < 20


def test_rows_without_weight_leave_everything_at_zero() -> None:
    features, targets = np.ones((2, 1)), np.array([1.0, 1.0])
    assert fit_logistic(features, targets, np.zeros((1, 2)), lasso=np.zeros(1)).tolist() == [[0.0]]
