"""Intervals against published formulas, by hand and by scipy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, t

from meta_reward_core.evaluation.confidence_intervals import (
    compute_bounded_mean_interval,
    compute_exact_interval,
    compute_graded_mean_interval,
    compute_percentile_interval,
    compute_standard_error,
    resample_counts,
)


@settings(max_examples=40)
@given(st.integers(1, 500), st.data())
def test_of_wins_and_losses_it_is_wilsons_interval(count: int, data: st.DataObject) -> None:
    wins = data.draw(st.integers(0, count))
    expected = binomtest(wins, count).proportion_ci(method="wilson")
    found = compute_bounded_mean_interval(wins / count, count, lowest=0, highest=1)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-12)


@settings(max_examples=40)
@given(st.integers(1, 500), st.data())
def test_the_exact_interval_is_that_of_clopper_and_pearson(count: int, data: st.DataObject) -> None:
    wins = data.draw(st.integers(0, count))
    expected = binomtest(wins, count).proportion_ci(method="exact")
    found = compute_exact_interval(wins, count)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_no_success_of_ninety_leaves_four_percent_open() -> None:
    """High = 1 - 0.025^(1/90) = 1 - exp(-3.6889 / 90) = 0.0402."""
    assert compute_exact_interval(0, 90) == pytest.approx((0, 0.0402), abs=5e-5)


def test_ten_wins_of_ten_do_not_make_a_certain_winner() -> None:
    """Low = n / (n + z^2) = 10 / (10 + 3.8415) = 0.72247; high = 1. On a scale of 0 to 100."""
    found = compute_bounded_mean_interval(100, 10, lowest=0, highest=100)
    assert found == pytest.approx((72.247, 100), abs=5e-4)


def test_missing_values_may_have_been_anything() -> None:
    """6 of 8 won and 2 missing: from Wilson's low end of 6/10 to his high end of 8/10."""
    found = compute_bounded_mean_interval(0.75, 8, lowest=0, highest=1, missing=2)
    low = binomtest(6, 10).proportion_ci(method="wilson").low
    high = binomtest(8, 10).proportion_ci(method="wilson").high
    assert found == pytest.approx((low, high), abs=1e-12)


@settings(max_examples=40)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 5))
def test_an_interval_holds_the_mean_and_stays_in_range(values: list[float], missing: int) -> None:
    mean = math.fsum(values) / len(values)
    low, high = compute_bounded_mean_interval(
        mean, len(values), lowest=0, highest=1, missing=missing
    )
    assert 0 <= low <= mean + 1e-12
    assert mean - 1e-12 <= high <= 1
    assert high - low > 0


def test_grades_that_are_all_equal_still_have_a_width() -> None:
    """10, 10, 10 with 1 and 10 added: mean 8.2, sum of squares 4 * 1.8^2 + 7.2^2 = 64.8.

    Variance 64.8 / 4 = 16.2, error sqrt(16.2 / 5) = 1.8, t(4) = 2.776: low 8.2 - 4.998 = 3.202.
    """
    low, high = compute_graded_mean_interval([10, 10, 10], lowest=1, highest=10)
    assert low == pytest.approx(8.2 - t.ppf(0.975, 4) * 1.8)
    assert low == pytest.approx(3.202, abs=1e-3)
    assert high == 10


def test_of_many_grades_the_two_added_ones_matter_little() -> None:
    grades = np.random.default_rng(1).normal(6, 1, 2000)
    half = 1.96 * grades.std(ddof=1) / math.sqrt(2000)
    found = compute_graded_mean_interval(grades, lowest=1, highest=10)
    assert found == pytest.approx((grades.mean() - half, grades.mean() + half), abs=0.01)


def test_a_missing_grade_widens_both_ends() -> None:
    whole = compute_graded_mean_interval([5, 6, 7, 6], lowest=1, highest=10)
    torn = compute_graded_mean_interval([5, 6, 7, 6], lowest=1, highest=10, missing=1)
    assert torn.low < whole.low
    assert torn.high > whole.high


def test_the_standard_error_of_three_values() -> None:
    """1, 2, 6: mean 3, squares 4 + 1 + 9 = 14, variance 7, error sqrt(7 / 3)."""
    assert compute_standard_error([1, 2, 6]) == pytest.approx(math.sqrt(7 / 3))
    assert compute_standard_error([1]) is None


def test_every_bootstrap_round_draws_as_many_as_there_are() -> None:
    sampled = resample_counts(7, 50, np.random.default_rng(0))
    assert sampled.shape == (50, 7)
    assert (sampled.sum(axis=1) == 7).all()


def test_a_band_is_between_percentiles() -> None:
    """0 .. 100 in steps of 1: the 5th percentile is 5, the 95th 95."""
    assert compute_percentile_interval(np.arange(101.0), low=5, high=95) == (5, 95)
