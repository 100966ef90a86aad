"""How many items an interval takes."""

import pytest

from meta_reward_core.evaluation.confidence_intervals import compute_wilson_interval
from meta_reward_core.review.sample_size import (
    compute_items_above,
    compute_sample_size,
    plan_sample_sizes,
)


@pytest.mark.parametrize("half_width", [0.2, 0.15, 0.1, 0.05, 0.03])
def test_the_size_is_the_smallest_whose_widest_interval_fits(half_width: float) -> None:
    items = compute_sample_size(half_width)
    widths = []
    for count in (items, items - 2):
        low, high = compute_wilson_interval(0.5, count, z=1.959964)
        widths.append((high - low) / 2)
    assert widths[0] <= half_width < widths[1]


def test_a_small_population_needs_fewer_items_and_never_more_than_it_has() -> None:
    assert compute_sample_size(0.05) == 381
    assert 180 < compute_sample_size(0.05, population=400) < 210
    assert compute_sample_size(0.001, population=400) == 400


def test_the_cost_counts_repeats_and_needs_a_measured_time() -> None:
    (size,) = plan_sample_sizes(repeat_share=0.3, seconds=30.0, half_widths=[0.1])
    assert (size.items, size.answers, size.points) == (93, 121, "10")
    assert size.minutes == pytest.approx(121 * 30 / 60)
    assert plan_sample_sizes(repeat_share=0.3, seconds=None)[0].minutes is None


@pytest.mark.parametrize("agreement", [0.6, 0.7, 0.8, 0.9, 1.0])
def test_items_above_a_bound_are_the_fewest_whose_interval_is_above_it(agreement: float) -> None:
    items = compute_items_above(0.5, agreement, confidence=0.95)
    assert items is not None
    assert compute_wilson_interval(agreement, items, z=1.959964).low > 0.5
    assert compute_wilson_interval(agreement, items - 1, z=1.959964).low <= 0.5


def test_no_number_of_items_shows_an_agreement_below_the_bound() -> None:
    assert compute_items_above(0.5, 0.5, confidence=0.95) is None
    assert compute_items_above(0.75, 0.7, confidence=0.95) is None
    assert compute_items_above(0.5, 0.501, confidence=0.95, at_most=1000) is None
