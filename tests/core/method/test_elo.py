"""Elo ratings against closed forms, against scipy, and as properties."""

import math
import time

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import brentq, minimize

from meta_reward_core.method.elo import fit_elo

Array = npt.NDArray[np.float64]

_ENTRIES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@st.composite
def battle_matrices(draw: st.DrawFn) -> Array:
    size = draw(st.integers(1, 7))
    matrix = draw(arrays(np.float64, (size, size), elements=_ENTRIES))
    np.fill_diagonal(matrix, 0)
    return matrix


def gradient(matrix: Array, ratings: Array, prior: float) -> Array:
    """d/de_m = sum_n B[m,n] s(e_n - e_m) - B[n,m] s(e_m - e_n) - 2 prior e_m, term by term."""
    size = len(ratings)
    slope = -2 * prior * ratings
    for m in range(size):
        for n in range(size):
            loses = 1 / (1 + math.exp(ratings[m] - ratings[n]))
            slope[m] += matrix[m, n] * loses
            slope[n] -= matrix[m, n] * loses
    return slope


def fit_by_scipy(matrix: Array, prior: float) -> Array:
    def loss(ratings: Array) -> float:
        gap = ratings[:, None] - ratings[None, :]
        return float((matrix * np.logaddexp(0, -gap)).sum() + prior * (ratings**2).sum())

    def slope(ratings: Array) -> Array:
        return -gradient(matrix, ratings, prior)

    best = minimize(loss, np.zeros(len(matrix)), jac=slope, method="BFGS", tol=1e-13)
    return np.asarray(best.x, dtype=np.float64)


def test_two_judgments_have_a_closed_form() -> None:
    """B = [[0, 3], [1, 0]], no prior to speak of: sigmoid(d) = 3 / 4, so d = log 3."""
    (ratings,) = fit_elo([np.array([[0.0, 3.0], [1.0, 0.0]])], prior=1e-13)
    assert ratings[0] - ratings[1] == pytest.approx(math.log(3), abs=1e-9)
    assert ratings[0] == pytest.approx(math.log(3) / 2, abs=1e-9)


@pytest.mark.parametrize("prior", [1e-6, 1e-4, 1e-2, 1.0])
def test_one_judgment_that_wins_everything_has_the_rating_that_the_prior_allows(
    prior: float,
) -> None:
    """A root found by bisection.

    B = [[0, 1], [0, 0]], e = (x, -x): d/dx (log s(2x) - 2 prior x^2) = 0 means
    2 s(-2x) = 4 prior x.
    """
    root = brentq(lambda x: 1 / (1 + math.exp(2 * x)) - 2 * prior * x, 0, 50, xtol=1e-14)
    (ratings,) = fit_elo([np.array([[0.0, 1.0], [0.0, 0.0]])], prior=prior)
    assert ratings == pytest.approx([root, -root], abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(battle_matrices(), st.sampled_from([1e-3, 1e-2, 1e-1]))
def test_scipy_finds_the_same_ratings(matrix: Array, prior: float) -> None:
    """Within 1e-5: BFGS stops at rounding, about 1e-8 / (2 * prior) away."""
    assert fit_elo([matrix], prior=prior)[0] == pytest.approx(fit_by_scipy(matrix, prior), abs=1e-5)


@settings(deadline=None)
@given(battle_matrices(), st.sampled_from([1e-4, 1e-2, 1.0]))
def test_the_gradient_vanishes_at_the_ratings(matrix: Array, prior: float) -> None:
    """The objective is strictly concave, so this alone proves the optimum.

    The curvature is at least 2 * prior, so ratings are within |gradient| / (2 * prior) of
    it: 1e-9 at the default.
    """
    (ratings,) = fit_elo([matrix], prior=prior)
    assert np.abs(gradient(matrix, ratings, prior)).max() < 1e-13
    assert abs(ratings.sum()) < 1e-12


@settings(deadline=None)
@given(battle_matrices(), st.randoms(use_true_random=False))
def test_ratings_follow_the_judgments_when_these_change_places(matrix: Array, rng: object) -> None:
    order = rng.sample(range(len(matrix)), len(matrix))  # type: ignore[attr-defined]
    (ratings,) = fit_elo([matrix])
    (moved,) = fit_elo([matrix[np.ix_(order, order)]])
    assert moved == pytest.approx(ratings[order], abs=1e-10)


@settings(deadline=None)
@given(battle_matrices())
def test_turning_every_result_round_turns_the_ratings_round(matrix: Array) -> None:
    assert fit_elo([matrix.T])[0] == pytest.approx(-fit_elo([matrix])[0], abs=1e-10)


@settings(deadline=None)
@given(st.lists(battle_matrices(), max_size=8))
def test_a_rating_does_not_depend_on_what_else_is_in_the_batch(matrices: list[Array]) -> None:
    together = fit_elo(matrices)
    alone = [fit_elo([matrix])[0] for matrix in matrices]
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))


@settings(deadline=None)
@given(st.integers(2, 11))
def test_a_total_order_is_separable_and_still_rated_in_order(size: int) -> None:
    (ratings,) = fit_elo([np.triu(np.ones((size, size)), 1)])
    assert np.all(np.isfinite(ratings))
    assert np.all(np.diff(ratings) < -0.1)


def test_symmetric_results_give_equal_ratings_within_the_tolerance_of_a_tie() -> None:
    """A circle x > y > z > x and all-even results: everyone is rated 0."""
    circle = np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])
    even = np.ones((4, 4)) - np.eye(4)
    for ratings in fit_elo([circle, even]):
        assert np.abs(ratings).max() < 1e-12


def test_no_result_at_all_rates_everyone_zero() -> None:
    assert np.array_equal(fit_elo([np.zeros((3, 3))])[0], np.zeros(3))


def test_one_judgment_or_none_is_rated_too() -> None:
    one, none = fit_elo([np.zeros((1, 1)), np.zeros((0, 0))])
    assert one.tolist() == [0.0]
    assert none.tolist() == []
    assert fit_elo([]) == []


def test_the_diagonal_is_ignored() -> None:
    matrix = np.array([[0.0, 1.0], [0.5, 0.0]])
    assert np.array_equal(fit_elo([matrix + 3 * np.eye(2)])[0], fit_elo([matrix])[0])


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e3, 1e9, 1e39])
def test_extreme_weights_are_safe(scale: float) -> None:
    matrix = scale * np.array([[0.0, 1, 1], [0, 0, 1], [1, 0, 0]])
    (ratings,) = fit_elo([matrix])
    slope = gradient(matrix, ratings, 1e-4)
    assert np.abs(slope).max() <= 1e-12 * max(1.0, scale)


@pytest.mark.parametrize("prior", [1e-12, 1e-6, 1e-4, 1.0])
def test_wild_weights_need_a_line_search_and_converge_all_the_same(prior: float) -> None:
    """Weights over 12 orders of magnitude: full Newton steps overshoot on some of these."""
    rng = np.random.default_rng(8)
    matrices = list(10 ** rng.uniform(-6, 6, (40, 8, 8)) * (1 - np.eye(8)))
    for matrix, ratings in zip(matrices, fit_elo(matrices, prior=prior), strict=True):
        assert np.abs(gradient(matrix, ratings, prior)).max() < 1e-12 * matrix.sum()


def test_ratings_that_did_not_arrive_are_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, steps in {"_ROUGH_STEPS": 0, "_STEPS_TOGETHER": 2, "_MAX_STEPS": 2}.items():
        monkeypatch.setattr(f"meta_reward_core.method.elo.{name}", steps)
    with pytest.raises(ArithmeticError, match="1 of 2 Elo problems did not converge"):
        fit_elo([np.zeros((2, 2)), np.array([[0.0, 1.0], [0.0, 0.0]])])


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((2, 3)),
        np.zeros(3),
        np.array([[0.0, -1.0], [0.0, 0.0]]),
        np.array([[0.0, math.nan], [0.0, 0.0]]),
        np.array([[0.0, math.inf], [0.0, 0.0]]),
    ],
)
def test_what_is_no_battle_matrix_is_refused(matrix: Array) -> None:
    with pytest.raises(ValueError, match="Battle matrix 1 "):
        fit_elo([np.zeros((2, 2)), matrix])


@pytest.mark.parametrize("prior", [0.0, -1.0, math.nan, math.inf])
def test_a_prior_that_does_not_hold_ratings_is_refused(prior: float) -> None:
    with pytest.raises(ValueError, match="prior"):
        fit_elo([np.zeros((2, 2))], prior=prior)


def test_an_iteration_of_the_paper_takes_seconds_at_most() -> None:
    """5,000 prompts of 11 judgments; about one second on two cores."""
    rng = np.random.default_rng(0)
    matrices = list(rng.choice([0.0, 0.4, 0.6, 1.0], size=(5_000, 11, 11)))
    began = time.perf_counter()
    fit_elo(matrices)
    assert time.perf_counter() - began < 15
