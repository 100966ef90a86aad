"""Means and differences over seeds, each checked by arithmetic."""

import math
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from meta_reward_core.evaluation.confidence_intervals import Interval
from meta_reward_core.reporting.seed_statistics import (
    compute_differences,
    estimate_over_seeds,
    is_significant,
)


def test_over_loop_seeds_of_one_seed_model_it_is_students_interval() -> None:
    """1, 2, 3: mean 2, deviation 1, half width t(2) / sqrt(3) = 4.3027 / 1.7321 = 2.4841."""
    found = estimate_over_seeds({("a", 1): 1.0, ("a", 2): 2.0, ("a", 3): 3.0})
    assert (found.mean, found.runs, found.seed_models) == (2.0, 3, 1)
    assert found.deviation == 1.0
    assert found.here == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-4)
    theirs = stats.t.interval(0.95, 2, loc=2, scale=1 / math.sqrt(3))
    assert found.here == pytest.approx(theirs)
    assert found.elsewhere is None


def test_what_holds_for_other_seed_models_is_taken_from_their_means_alone() -> None:
    """Means 1 and 3 with hardly any spread inside: t(1) = 12.7062, error 1; half width 12.71.

    Inside, the four runs deviate by .1 each way: variance .04 / 2 = .02, error of the mean of two
    means of two = sqrt(.02 * (1/2 + 1/2)) / 2 = .0707, t(2) = 4.3027, half width .3042.
    """
    values = {("a", 1): 0.9, ("a", 2): 1.1, ("b", 1): 2.9, ("b", 2): 3.1}
    found = estimate_over_seeds(values)
    assert found.mean == pytest.approx(2.0)
    assert found.here == pytest.approx((2 - 0.3042, 2 + 0.3042), abs=1e-4)
    assert found.elsewhere == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-4)
    assert is_significant(found.here)
    assert not is_significant(found.elsewhere)


def test_each_seed_model_weighs_alike_whatever_its_number_of_runs() -> None:
    found = estimate_over_seeds({("a", 1): 0.0, ("a", 2): 0.0, ("a", 3): 0.3, ("b", 1): 1.0})
    assert found.mean == pytest.approx((0.1 + 1.0) / 2)


def test_one_run_has_no_interval_and_says_why() -> None:
    found = estimate_over_seeds({("a", 1): 1.0})
    assert (found.mean, found.here, found.elsewhere) == (1.0, None, None)
    assert found.absent == "only one run per base model"
    assert is_significant(found.here) is None


def test_equal_runs_give_no_interval_of_width_zero() -> None:
    found = estimate_over_seeds(
        {("a", 1): 0.995, ("a", 2): 0.995, ("b", 1): 0.995, ("b", 2): 0.995}
    )
    assert (found.here, found.elsewhere) == (None, None)
    assert found.absent == "all values are equal"


def test_nothing_has_no_mean() -> None:
    found = estimate_over_seeds({})
    assert (found.mean, found.runs, found.absent) == (None, 0, "no run has this metric")


def test_differences_pair_by_seed_model_and_loop_seed() -> None:
    """Pairing removes what both arms share: here all of the spread between the runs but .1."""
    arm = {("a", 1): 5.0, ("a", 2): 9.1, ("a", 3): 1.0, ("b", 1): 7.0}
    baseline = {("a", 1): 4.0, ("a", 2): 8.0, ("c", 1): 7.0}
    found = compute_differences(arm, baseline)
    assert found == {("a", 1): 1.0, ("a", 2): pytest.approx(1.1)}


@pytest.mark.parametrize(
    "interval, verdict",
    [((0.1, 2.0), True), ((-2.0, -0.1), True), ((-0.1, 2.0), False), ((0.0, 1.0), False)],
)
def test_a_claim_stands_where_the_interval_excludes_zero(
    interval: tuple[float, float], *, verdict: bool
) -> None:
    assert is_significant(Interval(*interval)) is verdict


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8), st.floats(-5, 5))
def test_a_shift_of_all_runs_shifts_everything(values: list[float], shift: float) -> None:
    plain = estimate_over_seeds({("a", seed): value for seed, value in enumerate(values)})
    moved = estimate_over_seeds({("a", seed): value + shift for seed, value in enumerate(values)})
    assert plain.mean == pytest.approx(fmean(values))
    assert moved.mean == pytest.approx((plain.mean or 0.0) + shift)
    assert plain.deviation == pytest.approx(stdev(values), abs=1e-9)
    if plain.here is not None and moved.here is not None:
        widths = [ends.high - ends.low for ends in (plain.here, moved.here)]
        assert widths[0] == pytest.approx(widths[1], abs=1e-6)
