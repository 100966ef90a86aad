"""Batches are drawn with known chances, and repeats come later."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_reward_core.errors import InputError
from meta_reward_core.review.sampling_units import (
    SamplingUnit,
    ScoredResponse,
    build_judged_pairs,
    build_response_units,
)
from meta_reward_core.review.stratified_sampling import (
    STRATEGIES_BY_KIND,
    UNIFORM_SHARE,
    arrange_batch,
    sample_items,
)
from meta_reward_core.storage.records import Battle, Judgment, Rating, ResponseScore
from tests.core.review.simulated_battles import simulate

UNITS = simulate(300, accuracy=0.7, seed=1).units


@pytest.mark.parametrize("strategy", STRATEGIES_BY_KIND["judgments"])
@settings(max_examples=25)
@given(size=st.integers(2, 320), seed=st.integers(0, 99))
def test_each_drawn_item_has_the_chance_of_its_stratum(strategy: str, size: int, seed: int) -> None:
    sample = sample_items(UNITS, strategy=strategy, size=size, rng=random.Random(seed))
    items = Counter(one.stratum for one in sample.items)
    assert sum(stratum.population for stratum in sample.strata) == len(UNITS)
    for stratum in sample.strata:
        assert 0 < stratum.sampled <= stratum.population
        assert items[stratum.name] == stratum.sampled
    assert len({one.key for one in sample.items}) == len(sample.items)
    chances = {stratum.name: stratum.probability for stratum in sample.strata}
    assert all(one.probability == chances[one.stratum] for one in sample.items)


def test_the_batch_has_the_size_that_was_asked_for() -> None:
    for strategy in STRATEGIES_BY_KIND["judgments"]:
        sample = sample_items(UNITS, strategy=strategy, size=60, rng=random.Random(1))
        assert len(sample.items) == 60


def test_the_same_seed_draws_the_same_batch() -> None:
    first, second = (
        sample_items(UNITS[::step], strategy="certainty", size=40, rng=random.Random(9))
        for step in (1, -1)
    )
    assert first == second


def test_most_uncertain_items_are_all_there_and_a_fifth_is_uniform() -> None:
    sample = sample_items(UNITS, strategy="uncertain", size=50, rng=random.Random(2))
    by_name = {stratum.name: stratum for stratum in sample.strata}
    assert by_name["most uncertain"].probability == 1
    assert by_name["the rest"].sampled == 50 * UNIFORM_SHARE
    keys = {one.key for one in sample.items if one.stratum == "most uncertain"}
    rest = [unit.uncertainty for unit in UNITS if unit.key not in keys]
    assert min(unit.uncertainty for unit in UNITS if unit.key in keys) >= max(rest)


def test_each_item_is_drawn_as_often_as_its_chance_says() -> None:
    """An item of 300 in a uniform batch of 30: 600 draws hold it 60 +- 7.3 times."""
    key = UNITS[7].key
    held = sum(
        key in {one.key for one in sample_items(
            UNITS, strategy="uniform", size=30, rng=random.Random(seed)).items}
        for seed in range(600)
    )  # fmt: skip
    assert 30 <= held <= 90


def test_nothing_to_draw_from_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to audit"):
        sample_items([], strategy="uniform", size=10, rng=random.Random(1))
    with pytest.raises(InputError, match="at least 2"):
        sample_items(UNITS, strategy="uniform", size=1, rng=random.Random(1))
    with pytest.raises(InputError, match="strategy 'score'"):
        sample_items(UNITS, strategy="score", size=10, rng=random.Random(1))


def test_repeats_come_behind_what_they_repeat() -> None:
    positions = arrange_batch(50, same=0.2, other=0.1, rng=random.Random(4))
    assert Counter(place.again for place in positions) == {None: 50, "same": 10, "other": 5}
    first = {place.index: at for at, place in enumerate(positions) if place.again is None}
    assert all(at > first[place.index] + 5 for at, place in enumerate(positions) if place.again)


def judgment(side: str, score: float, text: str = "because") -> Judgment:
    return Judgment("p", "p.0", f"p.0.{side}", 0, text, score, None, 1)


def battle(first: str, second: str, verdict: str | None) -> Battle:
    ids = f"p.0.{first}", f"p.0.{second}"
    return Battle("p", "p.0", *ids, "", verdict, None, 1)  # type: ignore[arg-type]


def test_both_orders_of_a_pair_become_one_item() -> None:
    judgments = {j.judgment_id: j for j in (judgment("a", 3), judgment("b", 5))}
    battles = [battle("b", "a", "A"), battle("a", "b", "B")]
    ratings = [Rating("p", "p.0", "p.0.b", 1.5)]
    [pair] = build_judged_pairs(battles, judgments, ratings, [frozenset(judgments)])
    assert (pair.forward, pair.backward) == ("second", "second")
    assert (pair.elo_first, pair.elo_second, pair.decided_pair) == (None, 1.5, True)


def test_an_order_that_was_not_read_is_absent_and_no_tie() -> None:
    judgments = {j.judgment_id: j for j in (judgment("a", 3), judgment("b", 3))}
    [pair] = build_judged_pairs(
        [battle("a", "b", None), battle("b", "a", "tie")], judgments, [], []
    )
    assert (pair.forward, pair.backward) == (None, "tie")


def test_responses_without_a_score_cannot_be_audited() -> None:
    scored = ResponseScore("p", "p.0", 0, 3, 4.5, 0.25, 100, 20, "stop")
    unscored = ResponseScore("p", "p.1", 1, 0, None, None, 100, 20, "stop")
    [unit] = build_response_units([ScoredResponse(scored, True), ScoredResponse(unscored, False)])
    assert unit == SamplingUnit(
        "p.0",
        {
            "score": "judge's mean 4 to 5",
            "certainty": "judgments close",
            "length": "longest third",
            "decided": "in a pair",
        },
        (0.25,),
    )
