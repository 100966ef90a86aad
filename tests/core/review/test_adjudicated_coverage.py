"""Estimates from adjudicated answers of erring auditors hold the truth as often as they say."""

import random
from collections.abc import Sequence
from dataclasses import replace

from meta_reward_core.review.meta_judge_results import HumanVerdict, estimate_decided_agreement
from meta_reward_core.review.stratified_estimators import Estimate
from meta_reward_core.review.stratified_sampling import SamplingFrame, sample_items
from tests.core.review.simulated_battles import World, holds, share_that_holds, simulate

WORLD = simulate(2000, accuracy=0.85, seed=1)
ERROR_RATES = (0.05, 0.15, 0.25)
SEEDS = range(200)
SIZE = 60


def answer(rng: random.Random, truth: HumanVerdict, error_rate: float) -> HumanVerdict:
    """The truth, or with the error rate of an auditor another verdict."""
    others: list[HumanVerdict] = [one for one in ("first", "second", "tie") if one != truth]
    return rng.choice(others) if rng.random() < error_rate else truth


def review(world: World, seed: int) -> tuple[Estimate, Estimate]:
    """Two of three auditors answer each item; a lead who knows decides where they differ.

    Returns:
        The agreement before and after adjudication.
    """
    rng = random.Random(seed)
    sample = sample_items(world.units, strategy="certainty", size=SIZE, rng=rng)
    frame = SamplingFrame({stratum.name: stratum.population for stratum in sample.strata})
    before, after = [], []
    for item in sample.items:
        pair = world.answered(item.key, item.stratum)
        first, second = (answer(rng, pair.human, rate) for rate in rng.sample(ERROR_RATES, 2))
        before.append(replace(pair, human=first))
        after.append(replace(pair, human=first if first == second else pair.human))
    alone = estimate_decided_agreement(before, frame, confidence=0.95)
    return alone, estimate_decided_agreement(after, frame, confidence=0.95)


def mean(found: Sequence[Estimate]) -> float:
    return sum(one.value or 0.0 for one in found) / len(found)


def test_adjudicated_estimates_of_200_seeds_hold_the_truth_at_their_level() -> None:
    """Of 200 intervals at 95%, 190 +- 3.1; outside of 181 to 199 lies less than one in 200 runs."""
    found = [review(WORLD, seed) for seed in SEEDS]
    before, after = zip(*found, strict=True)
    assert 181 / 200 <= share_that_holds(WORLD, after) <= 199 / 200
    assert abs(mean(after) - WORLD.accuracy) < 0.02
    assert mean(before) < WORLD.accuracy - 0.03
    assert share_that_holds(WORLD, before) < share_that_holds(WORLD, after)
    assert sum(holds(one, WORLD.accuracy) for one in after) > sum(
        holds(one, WORLD.accuracy) for one in before
    )
