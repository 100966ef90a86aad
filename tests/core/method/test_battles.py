"""Position weights and battle matrices, by hand and as properties."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_reward_core.errors import ArtifactError
from meta_reward_core.method.battles import (
    PositionWeights,
    build_battle_matrix,
    compute_position_weights,
    compute_weights_from_counts,
)
from meta_reward_core.storage.records import Battle, Verdict

EVEN = compute_weights_from_counts(wins_first=1, wins_second=1)


def battle(first: str, second: str, verdict: Verdict | None, response: str = "r") -> Battle:
    reason = "no_winner_line" if verdict is None else None
    return Battle("p", response, first, second, "text", verdict, reason, 3)


def test_weights_counter_the_position_that_wins_more_often() -> None:
    """Three wins first, one second: w1 = 1 / 4, w2 = 3 / 4; ties and failures do not count."""
    verdicts: list[Verdict | None] = ["A", "A", "A", "B", "tie", "tie", None]
    battles = [battle(f"x{i}", f"y{i}", verdict) for i, verdict in enumerate(verdicts)]
    assert compute_position_weights(battles) == PositionWeights(0.25, 0.75, 3, 1, 2, 1)


def test_without_a_win_both_positions_weigh_half() -> None:
    weights = compute_position_weights([battle("x", "y", "tie"), battle("y", "x", None)])
    assert weights == PositionWeights(0.5, 0.5, 0, 0, 1, 1)
    assert not weights.one_position_won_everything


@pytest.mark.parametrize(("wins_first", "wins_second"), [(5, 0), (0, 5)])
def test_when_one_position_wins_everything_the_matrix_is_zero(
    wins_first: int, wins_second: int
) -> None:
    """w1 = 0 / 5 = 0 weighs the only wins there are, so B is 0."""
    weights = compute_weights_from_counts(wins_first=wins_first, wins_second=wins_second)
    verdict: Verdict = "A" if wins_first else "B"
    fought = [battle("x", "y", verdict), battle("y", "x", verdict)]
    assert weights.one_position_won_everything
    assert not build_battle_matrix(["x", "y"], fought, weights).any()


def test_the_matrix_by_hand() -> None:
    """One win first and three second: w1 = 3/4, w2 = 1/4.

    x shown first beats y: B[x,y] += .75. x shown second beats y:
    B[x,y] += .25. z shown second beats x: B[z,x] += .25. (z, x) tied, (y, z) unreadable: nothing.
    """
    weights = compute_weights_from_counts(wins_first=1, wins_second=3)
    fought = [
        battle("x", "y", "A"),
        battle("y", "x", "B"),
        battle("x", "z", "B"),
        battle("z", "x", "tie"),
        battle("y", "z", None),
    ]
    expected = [[0, 1, 0], [0, 0, 0], [0.25, 0, 0]]
    assert np.array_equal(build_battle_matrix(["x", "y", "z"], fought, weights), np.array(expected))


def test_a_missing_battle_shifts_no_other_outcome() -> None:
    """Matched by position, every outcome after the gap would move to the next pair."""
    ids = ["w", "x", "y", "z"]
    orders = [(m, n) for m in ids for n in ids if m != n]
    full = [battle(m, n, "A" if m < n else "B") for m, n in orders]
    for gap, (first, second) in enumerate(orders):
        matrix = build_battle_matrix(ids, full[:gap] + full[gap + 1 :], EVEN)
        expected = build_battle_matrix(ids, full, EVEN)
        winner, loser = min(first, second), max(first, second)
        expected[ids.index(winner), ids.index(loser)] -= 0.5
        assert np.array_equal(matrix, expected)


_IDS = ["u", "v", "w", "x", "y"]
_ORDERS = [(m, n) for m in _IDS for n in _IDS if m != n]


@st.composite
def some_battles(draw: st.DrawFn) -> list[Battle]:
    orders = draw(st.lists(st.sampled_from(_ORDERS), unique=True))
    verdict = st.sampled_from(["A", "B", "tie", None])
    return [battle(first, second, draw(verdict)) for first, second in orders]  # type: ignore[arg-type]


@given(some_battles(), st.randoms(use_true_random=False))
def test_neither_the_order_of_battles_nor_of_judgments_matters(
    battles: list[Battle], rng: random.Random
) -> None:
    weights = compute_position_weights(battles)
    matrix = build_battle_matrix(_IDS, battles, weights)
    shuffled_ids = rng.sample(_IDS, len(_IDS))
    shuffled = build_battle_matrix(shuffled_ids, rng.sample(battles, len(battles)), weights)
    places = [shuffled_ids.index(i) for i in _IDS]
    assert np.array_equal(shuffled[np.ix_(places, places)], matrix)


@given(some_battles())
def test_an_unreadable_reply_counts_like_no_battle_at_all(battles: list[Battle]) -> None:
    """Two failures are no tie by accident: they are counted apart, and weigh nothing."""
    readable = [b for b in battles if b.verdict is not None]
    weights, without = compute_position_weights(battles), compute_position_weights(readable)
    assert weights.unparsed == len(battles) - len(readable)
    assert without.unparsed == 0
    assert (weights.first, weights.second, weights.ties) == (
        without.first,
        without.second,
        without.ties,
    )
    assert np.array_equal(
        build_battle_matrix(_IDS, battles, weights), build_battle_matrix(_IDS, readable, without)
    )


@given(some_battles())
def test_the_two_positions_carry_equal_weight_in_total(battles: list[Battle]) -> None:
    """sum(B) = w1 * wins_1st + w2 * wins_2nd = 2 * wins_1st * wins_2nd / (wins_1st + wins_2nd)."""
    weights = compute_position_weights(battles)
    first, second = weights.wins_first, weights.wins_second
    expected = 2 * first * second / (first + second) if first + second else 0.0
    assert build_battle_matrix(_IDS, battles, weights).sum() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("battles", "message"),
    [
        ([battle("x", "stranger", "A")], "stranger is not among"),
        ([battle("x", "x", "A")], "cannot battle itself"),
        ([battle("x", "y", "A"), battle("x", "y", "B")], "is listed twice"),
    ],
)
def test_battles_that_do_not_belong_are_refused(battles: list[Battle], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        build_battle_matrix(["x", "y"], battles, EVEN)
