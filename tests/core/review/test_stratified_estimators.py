"""Estimates from stratified samples: known answers, and intervals that hold what they promise."""

import math

import numpy as np
import pytest
from scipy import stats

from meta_reward_core.evaluation.confidence_intervals import compute_wilson_interval
from meta_reward_core.evaluation.rater_agreement import make_weighted_share
from meta_reward_core.review.stratified_estimators import (
    SurveyDesign,
    estimate_mean,
    estimate_share,
    estimate_simple_share,
    estimate_statistic,
    estimate_statistic_from_share,
)
from meta_reward_core.review.stratified_sampling import STRATEGIES_BY_KIND
from tests.core.review.simulated_battles import audit_twice, coverage, share_that_holds, simulate


def test_a_stratum_counts_by_its_size_and_not_by_its_answers() -> None:
    """Stratum a has 900 items, 2 answers, half right; b has 100 items, 4 answers, all right.

    Weights 900 / 2 = 450 and 100 / 4 = 25: (450 * 1 + 25 * 4) / (450 * 2 + 25 * 4) = 550 / 1000.
    """
    design = SurveyDesign(("a", "a", "b", "b", "b", "b"), {"a": 900, "b": 100})
    found = estimate_share(design, [1, 0, 1, 1, 1, 1], [1] * 6)
    assert found.value == pytest.approx(0.55)
    assert found.count == 6


def test_one_stratum_gives_wilsons_interval_of_the_sample() -> None:
    """8 of 10 out of very many: variance .8 * .2 / 9, so 9 independent answers.

    Wilson: (.8 + z^2 / 18 -+ z sqrt(.16 / 9 + z^2 / 324)) / (1 + z^2 / 9).
    """
    design = SurveyDesign(("all",) * 10, {"all": 10**9})
    found = estimate_share(design, [1] * 8 + [0] * 2, [1] * 10)
    z = 1.959964
    middle, scale = 0.8 + z * z / 18, 1 + z * z / 9
    reach = z * math.sqrt(0.16 / 9 + z * z / 324)
    assert found.low == pytest.approx((middle - reach) / scale, abs=1e-6)
    assert found.high == pytest.approx((middle + reach) / scale, abs=1e-6)


def test_wilsons_interval_is_that_of_scipy() -> None:
    expected = stats.binomtest(7, 20).proportion_ci(method="wilson")
    assert compute_wilson_interval(7 / 20, 20, z=stats.norm.ppf(0.975)) == pytest.approx(
        tuple(expected)
    )


def test_a_population_that_was_answered_whole_leaves_no_doubt() -> None:
    found = estimate_share(SurveyDesign(("a", "a", "b"), {"a": 2, "b": 1}), [1, 0, 1], [1, 1, 1])
    assert (found.low, found.value, found.high) == pytest.approx((2 / 3,) * 3)


def test_answers_that_all_agree_still_leave_doubt() -> None:
    found = estimate_share(SurveyDesign(("all",) * 20, {"all": 2000}), [1] * 20, [1] * 20)
    assert found.value == 1
    assert found.low is not None
    assert 0.8 < found.low < 0.9


def test_the_share_of_nothing_is_absent() -> None:
    assert estimate_share(SurveyDesign(("a",), {"a": 5}), [0], [0]).value is None
    assert estimate_share(SurveyDesign((), {"a": 5}), [], []).value is None
    assert estimate_simple_share(0, 0).value is None
    assert estimate_mean(SurveyDesign(("a",), {"a": 5}), [None]).value is None


def test_a_stratum_without_answers_is_left_out_and_said() -> None:
    design = SurveyDesign(("a", "a"), {"a": 30, "b": 10})
    assert design.coverage == pytest.approx(0.75)
    assert estimate_share(design, [1, 0], [1, 1]).value == 0.5


def test_a_mean_is_weighted_and_its_interval_is_students() -> None:
    """One stratum of very many: mean 2, s = 1, n = 3: 2 -+ t(2) / sqrt(3)."""
    found = estimate_mean(SurveyDesign(("all",) * 3, {"all": 10**9}), [1.0, 2.0, 3.0])
    reach = float(stats.t.ppf(0.975, 2)) / math.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((2, 2 - reach, 2 + reach))


def test_strata_that_were_seen_in_few_items_make_the_quantile_larger() -> None:
    """Strata of 600 and 300, three answers each, and both answers' variances are 7/3.

    Left out are .995 and .99 of them, so a = 600^2 * .995 and b = 300^2 * .99 add to the variance
    as (a + b) * 7/9 / 900^2. Satterthwaite: 2 (a + b)^2 / (a^2 + b^2) degrees of freedom.
    """
    design = SurveyDesign(("a", "a", "a", "b", "b", "b"), {"a": 600, "b": 300})
    found = estimate_mean(design, [1.0, 4.0, 2.0, 8.0, 5.0, 7.0])
    a, b = 600**2 * 0.995, 300**2 * 0.99
    freedom = 2 * (a + b) ** 2 / (a**2 + b**2)
    reach = float(stats.t.ppf(0.975, freedom)) * math.sqrt((a + b) * 7 / 9) / 900
    assert found.value == pytest.approx((2 * 7 / 3 + 20 / 3) / 3)
    middle = float(found.value or 0)
    assert (found.low, found.high) == pytest.approx((middle - reach, middle + reach))


def test_the_jackknife_of_a_mean_is_the_means_own_interval_on_fishers_scale() -> None:
    values = np.array([0.1, 0.4, 0.2, 0.8, 0.5, 0.7])
    design = SurveyDesign(("a", "a", "a", "b", "b", "b"), {"a": 600, "b": 300})
    direct = estimate_mean(design, list(values))
    jackknife = estimate_statistic(design, lambda w: w @ values / w.sum(axis=1), count=6)
    assert (direct.value, direct.low) != (None, None)
    value, low = float(direct.value or 0), float(direct.low or 0)
    reach = (value - low) / (1 - value**2)
    assert jackknife.value == pytest.approx(value)
    assert jackknife.low == pytest.approx(math.tanh(math.atanh(value) - reach))
    assert jackknife.high == pytest.approx(math.tanh(math.atanh(value) + reach))


def test_a_figure_that_goes_with_a_share_has_the_shape_of_the_shares_interval() -> None:
    """9 of 10 alike; twice the share less 1 varies twice as much and is as skew.

    Student's quantile of 9 degrees of freedom takes the place of the normal one.
    """
    part, whole = np.array([1.0] * 9 + [0.0]), np.ones(10)
    design = SurveyDesign(("all",) * 10, {"all": 10**9})
    share = estimate_share(design, list(part), list(whole))
    alike = make_weighted_share(part, whole)
    found = estimate_statistic_from_share(
        design, lambda w: 2 * alike(w) - 1, share=share, share_statistic=alike, count=10
    )
    assert share.value == pytest.approx(0.9)
    wider = 2 * float(stats.t.ppf(0.975, 9)) / float(stats.norm.ppf(0.975))
    below = wider * (0.9 - float(share.low or 0))
    assert found.value == pytest.approx(0.8)
    assert found.low == pytest.approx(0.8 - below)
    assert found.high == pytest.approx(min(1.0, 0.8 + wider * (float(share.high or 0) - 0.9)))
    assert below > (found.high or 0) - 0.8


def test_a_figure_of_a_population_that_was_answered_whole_leaves_no_doubt() -> None:
    values = np.array([0.1, 0.4, 0.2])
    design = SurveyDesign(("a",) * 3, {"a": 3})
    found = estimate_statistic(design, lambda w: w @ values / w.sum(axis=1), count=3)
    assert (found.low, found.high) == pytest.approx((found.value, found.value))


@pytest.mark.parametrize("strategy", STRATEGIES_BY_KIND["judgments"])
def test_intervals_hold_the_truth_about_as_often_as_they_say(strategy: str) -> None:
    """100 batches: 95 +- 2.2 of them; below 86 is four standard deviations away.

    `benchmarks/audit_coverage.py` does the same with 1,000 batches and holds 93 to 97%.
    """
    world = simulate(600, accuracy=0.75, seed=5)
    assert coverage(world, strategy=strategy, size=80, runs=range(100)) >= 0.86


def test_intervals_hold_the_truth_of_a_batch_that_is_half_answered() -> None:
    world = simulate(600, accuracy=0.75, seed=6)
    held = coverage(world, strategy="certainty", size=120, runs=range(100), answered=0.5)
    assert held >= 0.86


def test_intervals_hold_the_truth_of_two_batches_that_are_pooled() -> None:
    world = simulate(800, accuracy=0.7, seed=3)
    found = [
        audit_twice(world, strategies=("uniform", "certainty"), size=120, seed=seed)
        for seed in range(200)
    ]
    assert 0.90 <= share_that_holds(world, found) <= 0.99
