"""What the answers of an auditor say about the auditor."""

import math
import random

import pytest

from meta_reward_core.review.auditor_quality import AuditorAnswer, measure_auditors
from tests.core.review.simulated_battles import holds

OTHER = {"first": "second", "second": "first"}


def answers_of(
    name: str, rng: random.Random, *, error_rate: float, count: int, leaning: float = 0.0
) -> list[AuditorAnswer]:
    """An auditor who errs at a rate, and at another takes whatever is shown first."""
    found = []
    for _ in range(count):
        known, shown_first = rng.choice(list(OTHER)), rng.choice(list(OTHER))
        value = OTHER[known] if rng.random() < error_rate else known
        if rng.random() < leaning:
            value = shown_first
        found.append(AuditorAnswer(name, value, known, shown_first, seconds=10.0))
    return found


def test_accuracy_of_known_error_rates_lies_in_its_interval_at_its_level() -> None:
    """Of 200 auditors 190 +- 3.1."""
    held = 0
    for seed in range(200):
        rng = random.Random(seed)
        measured = measure_auditors(
            answers_of("carol", rng, error_rate=0.2, count=60), min_accuracy=0.7
        )
        held += holds(measured[0].accuracy, 0.8)
    assert 181 <= held <= 199


def test_only_auditors_who_are_shown_to_be_below_the_bound_are_flagged() -> None:
    rng = random.Random(1)
    answers = [
        *answers_of("bad", rng, error_rate=0.5, count=100),
        *answers_of("good", rng, error_rate=0.1, count=100),
        *answers_of("new", rng, error_rate=0.9, count=1),
    ]
    found = {one.name: one for one in measure_auditors(answers, min_accuracy=0.7)}
    assert {name for name, one in found.items() if one.is_flagged} == {"bad"}
    assert found["new"].accuracy.value == 0.0 or found["new"].accuracy.value == 1.0


def test_a_leaning_to_the_first_shown_is_seen() -> None:
    rng = random.Random(2)
    found = {
        one.name: one.prefers_first
        for one in measure_auditors(
            [
                *answers_of("leans", rng, error_rate=0.1, count=200, leaning=0.5),
                *answers_of("fair", rng, error_rate=0.1, count=200),
            ],
            min_accuracy=0.7,
        )
    }
    low, high = found["leans"].low, found["fair"].low
    assert low is not None
    assert high is not None
    assert low > 0.6
    assert holds(found["fair"], 0.5)


def test_drift_is_the_second_half_less_the_first() -> None:
    rng = random.Random(3)
    worse = [
        *answers_of("carol", rng, error_rate=0.0, count=50),
        *answers_of("carol", rng, error_rate=0.5, count=50),
    ]
    drift = measure_auditors(worse, min_accuracy=0.7)[0].drift
    assert drift.high is not None
    assert drift.high < 0


def test_drift_compares_the_halves_of_the_answers_that_the_chart_shows() -> None:
    right = AuditorAnswer("carol", "first", "first")
    wrong = AuditorAnswer("carol", "second", "first")
    unknown = AuditorAnswer("carol", "tie")
    answers = (
        [unknown] * 20 + [right] * 11 + [wrong] * 3 + [right] * 6 + [unknown] * 4 + [wrong] * 8
    )
    (found,) = measure_auditors(answers, min_accuracy=0.7)
    assert [half.count for half in found.halves] == [14, 14]
    assert found.drift.value == pytest.approx(6 / 14 - 11 / 14)
    assert len(found.trend) == 2  # three blocks of eight would not match the halves
    assert tuple(block.accuracy for block in found.trend) == found.halves


def test_consistency_counts_own_repeats_alone() -> None:
    answers = [
        AuditorAnswer("carol", "first"),
        AuditorAnswer("carol", "first", earlier="first"),
        AuditorAnswer("carol", "tie", earlier="second"),
    ]
    found = measure_auditors(answers, min_accuracy=0.7)[0]
    assert (found.consistency.value, found.consistency.count) == (0.5, 2)
    assert found.accuracy.value is None
    assert (found.seconds.value, found.seconds.count) == (None, 0)


@pytest.mark.parametrize("value, is_right", [(3.0, True), (4.0, True), (4.5, False), (2.0, True)])
def test_a_score_is_right_within_one_point(value: float, is_right: bool) -> None:
    found = measure_auditors([AuditorAnswer("carol", value, known=3.0)], min_accuracy=0.7)[0]
    assert found.accuracy.value == float(is_right)


def test_accuracy_over_time_is_measured_in_blocks_of_answers_whose_truth_is_known() -> None:
    right = AuditorAnswer("carol", "first", "first")
    wrong = AuditorAnswer("carol", "second", "first")
    unknown = AuditorAnswer("carol", "tie")
    answers = [right] * 10 + [unknown] * 5 + [right] * 5 + [wrong] * 5 + [right] * 5
    (found,) = measure_auditors(answers, min_accuracy=0.7)
    assert [block.last for block in found.trend] == [17, 30]  # 25 known, 12 + 13 of them
    assert [(one.accuracy.value, one.accuracy.count) for one in found.trend] == [
        (1.0, 12),
        (pytest.approx(8 / 13), 13),
    ]
    (few,) = measure_auditors([right] * 15, min_accuracy=0.7)
    assert few.trend == ()
    (many,) = measure_auditors([right] * 500, min_accuracy=0.7)
    assert len(many.trend) == 8
    assert sum(block.accuracy.count for block in many.trend) == 500


def test_the_interval_of_the_median_time_holds_it_at_its_level() -> None:
    """Of 400 auditors at least 380 - 3 * 4.4: the ranks make the level 95% or a little more."""
    held = 0
    for seed in range(400):
        rng = random.Random(seed)
        answers = [
            AuditorAnswer("carol", "tie", seconds=rng.lognormvariate(3.0, 1.0)) for _ in range(30)
        ]
        held += holds(measure_auditors(answers, min_accuracy=0.7)[0].seconds, math.exp(3.0))
    assert 367 <= held <= 395


def test_few_times_have_a_median_without_an_interval() -> None:
    """Below six, even the interval from the least to the most misses more than 5%: 2 / 2**5."""
    for count, interval in ((5, (None, None)), (6, (1.0, 6.0)), (9, (2.0, 8.0))):
        answers = [AuditorAnswer("carol", "tie", seconds=1.0 + place) for place in range(count)]
        found = measure_auditors(answers, min_accuracy=0.7)[0].seconds
        assert (found.value, found.count) == ((count + 1) / 2, count)
        assert (found.low, found.high) == interval
    unknown = measure_auditors([AuditorAnswer("carol", "tie")], min_accuracy=0.7)[0].seconds
    assert (unknown.value, unknown.count) == (None, 0)
