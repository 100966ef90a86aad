"""In the miniature an auditor that knows the truth finds the meta-judge's true accuracy."""

import pytest

from meta_reward_core.review.meta_judge_results import CHANCE_AGREEMENT
from meta_reward_core.review.stratified_sampling import STRATEGIES_BY_KIND
from tests.core.review.miniature_battles import NOISE, audited_world, fight
from tests.core.review.simulated_battles import World, audit, coverage


@pytest.fixture(scope="module", params=NOISE)
def miniature(request: pytest.FixtureRequest) -> tuple[str, World]:
    name: str = request.param
    return name, audited_world(fight(120, noise=NOISE[name], seed=7))


@pytest.mark.parametrize("strategy", STRATEGIES_BY_KIND["judgments"])
def test_the_true_accuracy_lies_in_at_least_17_of_20_intervals(
    strategy: str, miniature: tuple[str, World]
) -> None:
    held = coverage(miniature[1], strategy=strategy, size=120, runs=range(20))
    assert held >= 17 / 20


def test_only_the_coin_is_not_told_from_a_coin(miniature: tuple[str, World]) -> None:
    """A batch of 120 has an interval of about +- 9 points around .50, .70 or .95."""
    name, world = miniature
    found = audit(world, strategy="uniform", size=120, seed=1)
    assert found.low is not None
    assert (found.low > CHANCE_AGREEMENT) == (name != "coin")
