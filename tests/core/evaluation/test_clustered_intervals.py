"""Intervals of means whose values come in clusters."""

import random

import pytest

from meta_reward_core.evaluation.clustered_intervals import (
    compute_clustered_change_interval,
    compute_clustered_mean_interval,
    compute_clustered_share_interval,
)
from meta_reward_core.evaluation.confidence_intervals import (
    Interval,
    compute_difference_interval,
    compute_graded_mean_interval,
    compute_wilson_interval,
)


def names(count: int, *, each: int = 1) -> list[str]:
    return [str(number // each) for number in range(count * each)]


def test_one_value_in_each_cluster_gives_wilsons_interval_of_one_answer_less() -> None:
    """M = 0.25, n = 8, Var = 8/7 * (2 * 0.75^2 + 6 * 0.25^2) / 64 = 0.25 * 0.75 / 7: worth 7."""
    values = [1.0, 1.0, 0, 0, 0, 0, 0, 0]
    found = compute_clustered_share_interval(values, names(8))
    assert found == pytest.approx(compute_wilson_interval(0.25, 7))


def test_copies_of_a_value_in_its_cluster_tell_nothing_new() -> None:
    """Each of 8 values thrice: worth 7 answers as before, not 23."""
    values = [v for v in (1.0, 1.0, 0, 0, 0, 0, 0, 0) for _ in range(3)]
    found = compute_clustered_share_interval(values, names(8, each=3))
    assert found == pytest.approx(compute_wilson_interval(0.25, 7))


def test_equal_values_are_worth_as_many_answers_as_there_are_clusters() -> None:
    found = compute_clustered_share_interval([1.0] * 12, names(4, each=3))
    assert found == pytest.approx(compute_wilson_interval(1.0, 4))


def test_a_single_cluster_is_one_answer() -> None:
    found = compute_clustered_share_interval([1.0, 0.0], ["a", "a"])
    assert found == pytest.approx(compute_wilson_interval(0.5, 1))


def test_missing_values_reach_as_far_as_all_wrong_and_all_right() -> None:
    """8 values worth 7, and 8 missing: worth 14; low 0.25/2, high (0.25 + 1)/2."""
    values = [1.0, 1.0, 0, 0, 0, 0, 0, 0]
    found = compute_clustered_share_interval(values, names(8), missing=8)
    assert found.low == pytest.approx(compute_wilson_interval(0.125, 14).low)
    assert found.high == pytest.approx(compute_wilson_interval(0.625, 14).high)


def test_unclustered_changes_have_the_interval_of_a_graded_mean() -> None:
    changes = [1.0, 0.0, 0.0, -1.0, 1.0, 0.0]
    found = compute_clustered_change_interval(changes, names(6))
    assert found == pytest.approx(compute_graded_mean_interval(changes, lowest=-1, highest=1))


def test_no_change_at_all_has_a_width() -> None:
    low, high = compute_clustered_change_interval([0.0] * 20, names(20))
    assert low == pytest.approx(-high)
    assert 0 < high < 0.3


def test_intervals_of_clustered_shares_hold_the_truth_about_as_often_as_they_say() -> None:
    """200 sets of 60 prompts with 1 to 3 checks each, whose chance is the prompt's: mean 0.6."""
    rng = random.Random(5)
    held = 0
    for _ in range(200):
        values, clusters = [], []
        for number in range(60):
            chance = rng.choice((0.2, 1.0))
            for _ in range(rng.randint(1, 3)):
                values.append(float(rng.random() < chance))
                clusters.append(str(number))
        low, high = compute_clustered_share_interval(values, clusters)
        held += low <= 0.6 <= high
    assert 181 <= held <= 199  # 190 expected, standard deviation 3.1


def test_summed_values_give_the_interval_of_their_clusters() -> None:
    """Means 1, 2 and 6 of two values each: mean 3, residuals -4, -2, 6, variance 3/2 * 56/36."""
    found = compute_clustered_mean_interval([2.0, 4.0, 12.0, 0.0], [2, 2, 2, 0])
    assert found is not None
    half = 4.302653 * (3 / 2 * 56 / 36) ** 0.5
    assert found == pytest.approx((3 - half, 3 + half), abs=1e-5)
    assert compute_clustered_mean_interval([3.0, 0.0], [1, 0]) is None, "one cluster has no spread"


def test_summed_shares_have_the_interval_of_single_shares() -> None:
    values = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0]
    single = compute_clustered_share_interval(values, names(4, each=2))
    summed = compute_clustered_mean_interval([1.0, 1.0, 2.0, 1.0], [2, 2, 2, 2], is_share=True)
    assert summed == pytest.approx(single)
    whole = compute_clustered_mean_interval([2.0] * 4, [2] * 4, is_share=True)
    assert whole == pytest.approx(compute_wilson_interval(1.0, 4)), "never of width 0"


def test_the_difference_of_two_means_takes_the_half_widths_that_face_each_other() -> None:
    """From 1 to 4: down by 3 and 4, which is 5; up by 5 and 12, which is 13."""
    found = compute_difference_interval(1.0, Interval(-11.0, 5.0), 4.0, Interval(1.0, 9.0))
    assert found == pytest.approx((3 - 5, 3 + 13))
