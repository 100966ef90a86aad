"""Every figure's 95% interval holds its truth in about 95% of batches, by every strategy."""

import pytest

from meta_reward_core.review.sampling_units import UnitKind
from meta_reward_core.review.stratified_sampling import STRATEGIES_BY_KIND
from tests.core.review.simulated_battles import (
    DRAWN_BY_IT,
    ScoredWorld,
    World,
    coverages,
    simulate,
    simulate_responses,
)

CASES = [(kind, strategy) for kind, known in STRATEGIES_BY_KIND.items() for strategy in known]
WORLDS: dict[UnitKind, World | ScoredWorld] = {
    "judgments": simulate(2000, accuracy=0.7, seed=1),
    "responses": simulate_responses(2000, noise=0.8, seed=1),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind, strategy", CASES)
def test_1000_intervals_of_each_figure_hold_the_truth_in_93_to_97_percent(
    kind: UnitKind, strategy: str
) -> None:
    """Of 1,000 batches 950 +- 6.9."""
    held = coverages(WORLDS[kind], strategy=strategy, size=200, runs=range(1000))
    most = {name: 1.0 if (strategy, name) == DRAWN_BY_IT else 0.97 for name in held}
    outside = {name: share for name, share in held.items() if not 0.93 <= share <= most[name]}
    assert outside == {}


@pytest.mark.parametrize("kind, strategy", [("judgments", "certainty"), ("responses", "score")])
def test_intervals_of_each_figure_hold_the_truth_about_as_often_as_they_say(
    kind: UnitKind, strategy: str
) -> None:
    """Of 60 batches 57 +- 1.7; below 50 is four standard deviations away."""
    held = coverages(WORLDS[kind], strategy=strategy, size=200, runs=range(60))
    assert {name: share for name, share in held.items() if share < 50 / 60} == {}
