"""Battles that can change no pair are left out, and no others."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_reward_core.method.adaptive_battles import (
    WinRecord,
    bound_net_wins,
    find_undecided_judgments,
    select_remaining_battles,
    split_into_rounds,
    tally_win_records,
)

CERTAIN = 100.0
"""So wide that only what can no longer happen is ruled out."""


@given(count=st.integers(2, 12))
def test_rounds_hold_every_battle_once_and_both_orders_together(count: int) -> None:
    orders = list(permutations(map(str, range(count)), 2))
    rounds = split_into_rounds(orders)
    assert sorted(order for one in rounds for order in one) == sorted(orders)
    for one in rounds:
        assert {(second, first) for first, second in one} == set(one)


def test_every_judgment_meets_two_others_in_a_round() -> None:
    """Eleven on a circle: five rounds of eleven pairs, both orders of each."""
    rounds = split_into_rounds(list(permutations(map(str, range(11)), 2)))
    assert [len(one) for one in rounds] == [22] * 5
    for one in rounds:
        assert {name: sum(name in order for order in one) for name in map(str, range(11))} == (
            dict.fromkeys(map(str, range(11)), 4)
        )


def test_a_standing_counts_wins_losses_and_what_is_left() -> None:
    """A wins once as first and b once as second; ties and unreadable ones are fought, not won."""
    orders = list(permutations("abc", 2))
    verdicts = {("a", "b"): "A", ("a", "c"): "tie", ("c", "b"): "B", ("c", "a"): None}
    standings = tally_win_records(orders, verdicts)
    assert standings["a"] == WinRecord(net=1, finished=3, remaining=1)
    assert standings["b"] == WinRecord(net=0, finished=2, remaining=2)
    assert standings["c"] == WinRecord(net=-1, finished=3, remaining=1)


def test_a_prediction_closes_when_nothing_is_left() -> None:
    assert bound_net_wins(WinRecord(net=4, finished=20, remaining=0), deviations=2.0) == (4.0, 4.0)


def test_a_prediction_is_what_its_formula_says() -> None:
    """Net 3 of 5 battles, 4 left: mean 3/6, variance 1 - 1/4; 5 +- half of sqrt(3/4 (4 + 16/5)).

    At one deviation the upper end would be above 7, which is 3 and all 4 that are left.
    """
    low, high = bound_net_wins(WinRecord(net=3, finished=5, remaining=4), deviations=0.5)
    assert high - 5.0 == pytest.approx((0.75 * 7.2) ** 0.5 / 2)
    assert 5.0 - low == pytest.approx((0.75 * 7.2) ** 0.5 / 2)
    assert bound_net_wins(WinRecord(net=3, finished=5, remaining=4), deviations=1.0)[1] == 7.0


@given(data=st.data(), count=st.integers(3, 6))
def test_what_is_surely_decided_stays_so(data: st.DataObject, count: int) -> None:
    """However the rest is fought, who ends first or last was in the running or led already."""
    orders = list(permutations(map(str, range(count)), 2))
    told = st.sampled_from(["A", "B", "tie", None])
    verdicts = {order: data.draw(told) for order in orders}
    so_far = {order: verdicts[order] for order in orders[: data.draw(st.integers(0, len(orders)))]}
    undecided = find_undecided_judgments(tally_win_records(orders, so_far), deviations=CERTAIN)
    ends = {name: now.net for name, now in tally_win_records(orders, verdicts).items()}
    now = {name: had.net for name, had in tally_win_records(orders, so_far).items()}
    for place in (max, min):
        winners = {name for name, net in ends.items() if net == place(ends.values())}
        leaders = {name for name, net in now.items() if net == place(now.values())}
        assert winners & (undecided | leaders), "nobody is ruled out who ends first or last"


def test_only_battles_of_the_undecided_are_needed() -> None:
    orders = list(permutations("abcd", 2))
    needed = select_remaining_battles(orders, {"a"})
    assert needed == [order for order in orders if "a" in order]
    assert select_remaining_battles(orders, set()) == []
