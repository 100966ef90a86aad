"""Other rules over the same scores and battles: what is known, and what only battles would tell."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_reward_core.method.pairing import (
    ActorPair,
    DropReason,
    ScoreGrid,
    mark_most_varied,
    select_actor_pair,
    select_most_varied_response,
)
from meta_reward_core.method.what_if import (
    REASONS,
    JudgedGrid,
    PairRules,
    PairSelection,
    count_battles,
    reselect_actor_pairs,
    reselect_judge_pairs,
)
from meta_reward_core.storage.records import Judgment, ResponseScore

RULES = PairRules(
    rho=0.0, max_chosen_chars=None, max_chosen_judgment_chars=None, min_valid_judgments=1
)


def scored(sample: int, mean: float | None, length: int = 5, valid: int = 3) -> ResponseScore:
    return ResponseScore("p", f"r{sample}", sample, valid, mean, mean, length, length, "stop")


def judged(scores: list[ResponseScore], battled: int | None = None) -> JudgedGrid:
    """One prompt; `variance` of a response is its mean, so the best scored one battles."""
    shape = (1, len(scores))
    grid = ScoreGrid.from_records(scores, length_unit="characters")
    return JudgedGrid(
        prompt_ids=["p"],
        grid=grid,
        variance=grid.mean,
        valid=np.array([[score.valid for score in scores]], dtype=np.int64),
        fields=np.ones(shape, dtype=bool),
        calls=np.full(shape, 6),
        battled=np.array([[score.sample == battled for score in scores]], dtype=bool),
        judge_paired=np.array([True]),
        judge_reason=np.array([0]),
        chosen_judgment_chars=np.array([90]),
        rejected_judgment_chars=np.array([70]),
    )


def judge_pairs(
    grid: JudgedGrid, rules: PairRules = RULES, share: float | None = None
) -> PairSelection:
    return reselect_judge_pairs(grid, rules, seed=1, actor_pairs=1, max_pair_share=share)


def test_fewer_readable_judgments_than_the_rule_asks_for_leave_a_response_out() -> None:
    grid = judged([scored(0, 5.0, valid=1), scored(1, 4.0), scored(2, 1.0)])
    assert reselect_actor_pairs(grid, RULES).chosen.tolist() == [0]
    stricter = reselect_actor_pairs(grid, replace(RULES, min_valid_judgments=2))
    assert (stricter.chosen.tolist(), stricter.rejected.tolist()) == ([1], [2])
    nobody = reselect_actor_pairs(grid, replace(RULES, min_valid_judgments=4))
    assert nobody.count_drops() == {DropReason.NO_SCORED_RESPONSE: 1}
    assert nobody.compute_mean_chars() == (None, None)


def test_a_pair_whose_battles_were_fought_stays_until_the_winner_is_too_long() -> None:
    grid = judged([scored(0, 5.0), scored(1, 1.0)], battled=0)
    assert judge_pairs(grid).paired.tolist() == [True]
    at_limit = judge_pairs(grid, replace(RULES, max_chosen_judgment_chars=90))
    assert at_limit.compute_mean_chars() == (90.0, 70.0)
    below = judge_pairs(grid, replace(RULES, max_chosen_judgment_chars=89))
    assert below.count_drops() == {DropReason.CHOSEN_JUDGMENT_TOO_LONG: 1}


def test_a_response_that_never_battled_is_unknown_and_says_what_it_would_cost() -> None:
    """Response 0 varies most and battled; asked for two readable judgments, it is out."""
    grid = judged([scored(0, 5.0, valid=1), scored(1, 4.0), scored(2, 1.0)], battled=0)
    found = judge_pairs(grid, replace(RULES, min_valid_judgments=2))
    assert found.unknown.tolist() == [True]
    assert found.calls.tolist() == [6]
    assert not found.paired.any()
    assert found.count_drops() == {}


def test_what_needs_no_battle_to_be_dropped_is_known() -> None:
    grid = judged([scored(0, 5.0, valid=1), scored(1, 4.0), scored(2, 1.0)], battled=0)
    strict = replace(RULES, min_valid_judgments=2)
    alike = replace(grid, variance=np.array([[5.0, 0.0, 0.0]]))
    assert judge_pairs(alike, strict).count_drops() == {DropReason.ZERO_VARIANCE: 1}
    one_text = replace(grid, fields=np.array([[True, False, False]]))
    assert judge_pairs(one_text, strict).count_drops() == {DropReason.TOO_FEW_DISTINCT_JUDGMENTS: 1}
    too_far_apart = replace(grid, calls=np.zeros((1, 3), dtype=np.int64))
    assert judge_pairs(too_far_apart, strict).count_drops() == {DropReason.EQUAL_RATINGS: 1}


def test_the_limit_on_the_share_of_judge_pairs_holds() -> None:
    """One actor pair and a share of .4 allow int(1 * .4 / .6) = 0 judge pairs."""
    grid = judged([scored(0, 5.0), scored(1, 1.0)], battled=0)
    assert judge_pairs(grid, share=0.5).paired.tolist() == [True]
    assert judge_pairs(grid, share=0.4).count_drops() == {DropReason.OVER_PAIR_SHARE: 1}


def test_an_iteration_without_an_answer_yet_has_no_pairs() -> None:
    grid = judged([])
    assert reselect_actor_pairs(grid, RULES).count_drops() == {DropReason.NO_SCORED_RESPONSE: 1}
    assert judge_pairs(grid).count_drops() == {DropReason.NO_SCORED_RESPONSE: 1}


@pytest.mark.parametrize(
    ("texts", "most", "gap", "expected"),
    [
        (["a", "b", "c"], None, None, (3, 6)),
        (["a", "a", "b"], None, None, (2, 2)),
        (["a", "a", "a"], None, None, (0, 0)),
        (["a", "b", "c"], 2, None, (2, 2)),
        (["a", "b", "c"], None, 1.0, (3, 4)),
    ],
)
def test_calls_are_the_orders_that_would_be_fought(
    texts: list[str], most: int | None, gap: float | None, expected: tuple[int, int]
) -> None:
    """Points are 0, 1, 2: with a gap of at most 1, the pair of 0 and 2 does not meet."""
    judgments = [
        Judgment("p", "r", f"j{n}", n, text, float(n), None, 1) for n, text in enumerate(texts)
    ]
    found = count_battles(judgments, max_judgments=most, max_score_gap=gap)
    assert (found.judgments, found.calls) == expected


@st.composite
def prompts_scores(draw: st.DrawFn) -> list[list[ResponseScore]]:
    figures = st.none() | st.integers(0, 6).map(lambda half: half / 2)
    lists = draw(st.lists(st.lists(figures, max_size=5), min_size=1, max_size=5))
    return [
        [scored(sample, mean, draw(st.integers(0, 3))) for sample, mean in enumerate(means)]
        for means in lists
    ]


def stacked(prompts: list[list[ResponseScore]]) -> JudgedGrid:
    """Many prompts of unequal numbers of responses in one grid."""
    width = max(map(len, prompts))
    blank = ResponseScore("p", "none", 99, 0, None, None, 0, 0, "stop")
    rows = [judged([*scores, *[blank] * (width - len(scores))]) for scores in prompts]

    def put(name: str) -> np.ndarray:
        return np.concatenate([getattr(row.grid, name) for row in rows])

    names = ("scored", "mean", "length", "chars", "sample", "cut_off", "may_be_chosen")
    return replace(
        rows[0],
        prompt_ids=[f"p{row}" for row in range(len(rows))],
        grid=ScoreGrid(**{name: put(name) for name in names}),
        variance=put("mean"),
        valid=np.concatenate([row.valid for row in rows]),
    )


@given(prompts_scores(), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.none() | st.integers(1, 3))
def test_many_prompts_at_once_are_decided_like_each_alone(
    prompts: list[list[ResponseScore]], rho: float, limit: int | None
) -> None:
    made = reselect_actor_pairs(stacked(prompts), replace(RULES, rho=rho, max_chosen_chars=limit))
    for row, scores in enumerate(prompts):
        alone = select_actor_pair(scores, rho=rho, max_chosen_chars=limit)
        if isinstance(alone, ActorPair):
            assert made.paired[row]
            assert scores[made.chosen[row]].response_id == alone.chosen_response_id
            assert scores[made.rejected[row]].response_id == alone.rejected_response_id
        else:
            assert not made.paired[row]
            assert REASONS[made.reason[row]] == alone


@given(prompts_scores(), st.integers(0, 3))
def test_who_varies_most_is_the_same_for_many_prompts_at_once(
    prompts: list[list[ResponseScore]], seed: int
) -> None:
    grid = stacked(prompts)
    marked = mark_most_varied(grid.variance, grid.grid.scored)
    for row, scores in enumerate(prompts):
        alone = select_most_varied_response(scores, rng=random.Random(seed))
        tied = [scores[place].response_id for place in np.flatnonzero(marked[row])]
        if isinstance(alone, ResponseScore):
            assert alone.response_id in tied
        else:
            assert tied == []
