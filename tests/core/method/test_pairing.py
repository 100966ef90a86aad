"""Which pairs are made and why others are not: tables by hand, then properties by brute force."""

import itertools
import random
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_reward_core.errors import ArtifactError
from meta_reward_core.method.battles import compute_readable_shares, compute_weights_from_counts
from meta_reward_core.method.pairing import (
    REASON_LABEL,
    REASON_TEXT,
    ActorPair,
    DropReason,
    JudgePair,
    score_response,
    score_responses,
    select_actor_pair,
    select_distinct_judgments,
    select_judge_pair,
    select_most_varied_response,
)
from meta_reward_core.storage.records import Battle, Judgment, Response, ResponseScore, Verdict

EVEN = compute_weights_from_counts(wins_first=1, wins_second=1)


def response(sample: int, text: str = "text", finish_reason: str = "stop") -> Response:
    return Response("p", f"r{sample}", sample, text, len(text.split()), finish_reason)


def judgment(
    sample: int, score: float | None, text: str | None = None, response_id: str = "r0"
) -> Judgment:
    reason = "no_score_line" if score is None else None
    text = f"judgment {sample}" if text is None else text
    return Judgment("p", response_id, f"{response_id}.j{sample}", sample, text, score, reason, 5)


def battle(first: str, second: str, verdict: Verdict | None) -> Battle:
    reason = "no_winner_line" if verdict is None else None
    return Battle("p", "r0", first, second, "text", verdict, reason, 3)


def scored(
    sample: int,
    mean: float | None,
    length: int,
    finish_reason: str = "stop",
    *,
    tokens: int | None = None,
    variance: float | None = 0.0,
) -> ResponseScore:
    return ResponseScore(
        prompt_id="p",
        response_id=f"r{sample}",
        sample=sample,
        valid=0 if mean is None else 3,
        mean=mean,
        variance=None if mean is None else variance,
        length_chars=length,
        length_tokens=length if tokens is None else tokens,
        finish_reason=finish_reason,
    )


# --- scores -------------------------------------------------------------------------------------


def test_the_score_is_the_mean_of_the_valid_points_with_population_variance() -> None:
    """Points 3, 4, 5 and two failures: mean 12 / 3 = 4; variance (1 + 0 + 1) / 3 = 2 / 3."""
    judgments = [
        judgment(0, 3.0),
        judgment(1, None),
        judgment(2, 4.0),
        judgment(3, None),
        judgment(4, 5.0),
    ]
    (score,) = score_responses([response(0, "a b c")], judgments)
    assert (score.valid, score.mean) == (3, 4.0)
    assert score.variance == pytest.approx(2 / 3, abs=1e-15)
    assert (score.length_chars, score.length_tokens) == (5, 3)


def test_a_failed_judgment_is_never_a_number() -> None:
    """Averaged as 0, points 4 and a failure would score 2; as -1 turned into 2, they would be 3."""
    (score,) = score_responses([response(0)], [judgment(0, 4.0), judgment(1, None)])
    assert score.mean == 4.0


@pytest.mark.parametrize("least", [0, 1])
def test_the_mean_of_nothing_is_absent(least: int) -> None:
    for judgments in ([], [judgment(0, None), judgment(1, None)]):
        (score,) = score_responses([response(0)], judgments, min_valid_judgments=least)
        assert (score.valid, score.mean, score.variance) == (0, None, None)


def test_too_few_valid_judgments_leave_a_response_unscored() -> None:
    points = [judgment(0, 4.0), judgment(1, 5.0), judgment(2, None)]
    (unscored,) = score_responses([response(0)], points, min_valid_judgments=3)
    (enough,) = score_responses([response(0)], points, min_valid_judgments=2)
    assert (unscored.valid, unscored.mean) == (2, None)
    assert enough.mean == 4.5


def test_points_reach_the_response_they_are_about_whatever_their_order() -> None:
    points = [judgment(0, 1.0, response_id="r1"), judgment(0, 5.0, response_id="r0")]
    scores = score_responses([response(0), response(1), response(2)], points)
    assert [(s.response_id, s.mean) for s in scores] == [("r0", 5.0), ("r1", 1.0), ("r2", None)]


def test_a_refused_prompt_has_no_answer_to_score() -> None:
    assert score_response(response(0, "", "refused"), [5.0]).mean is None


def test_judgments_of_a_stranger_are_refused() -> None:
    with pytest.raises(ArtifactError, match="r9, which is not among"):
        score_responses([response(0)], [judgment(0, 4.0, response_id="r9")])


@pytest.mark.parametrize("points", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused_and_not_averaged(points: float) -> None:
    with pytest.raises(ArtifactError, match="a score that is not a number"):
        score_response(response(0), [4.0, points])


_POINTS = st.integers(0, 500).map(lambda hundredths: hundredths / 100)


@given(st.lists(_POINTS, min_size=1, max_size=11))
def test_scores_agree_with_exact_arithmetic(points: list[float]) -> None:
    score = score_response(response(0), points)
    assert score.mean == pytest.approx(statistics.mean(points), abs=1e-12)
    assert score.variance == pytest.approx(statistics.pvariance(points), abs=1e-12)


@given(_POINTS, st.integers(1, 11))
def test_points_that_agree_have_exactly_no_variance(points: float, times: int) -> None:
    score = score_response(response(0), [points] * times)
    assert (score.mean, score.variance) == (points, 0.0)


@given(st.lists(_POINTS, min_size=1, max_size=11), st.randoms(use_true_random=False))
def test_scores_do_not_depend_on_the_order_of_judgments(
    points: list[float], rng: random.Random
) -> None:
    shuffled = rng.sample(points, len(points))
    assert score_response(response(0), shuffled) == score_response(response(0), points)


# --- actor pairs --------------------------------------------------------------------------------


def test_rho_narrows_the_choice_to_the_shortest_good_and_the_longest_bad() -> None:
    """With S_max 5, S_min 1, rho .4.

    Good is [.6 * 5 + .4 * 1, 5] = [3.4, 5], bad is
    [1, .6 * 1 + .4 * 5] = [1, 2.6]. Good: r0 (900), r1 (300); bad: r3 (500), r4 (100).
    """
    scores = [
        scored(0, 5.0, 900),
        scored(1, 3.5, 300),
        scored(2, 3.0, 50),
        scored(3, 2.5, 500),
        scored(4, 1.0, 100),
        scored(5, None, 1),
    ]
    assert select_actor_pair(scores, rho=0.4) == ActorPair("p", "r1", "r3", 3.5, 2.5)
    assert select_actor_pair(scores, rho=0) == ActorPair("p", "r0", "r4", 5.0, 1.0)


def test_a_score_on_the_border_belongs_to_the_tier() -> None:
    """With rho .1 the border is .9 * 5 + .1 * 4 = 4.9, which is 4.9 only up to rounding."""
    scores = [scored(0, 5.0, 900), scored(1, 4.9, 300), scored(2, 4.1, 400), scored(3, 4.0, 100)]
    assert select_actor_pair(scores, rho=0.1) == ActorPair("p", "r1", "r2", 4.9, 4.1)


def test_equal_lengths_break_by_the_smaller_sample() -> None:
    scores = [scored(3, 1.0, 7), scored(2, 5.0, 7), scored(1, 5.0, 7), scored(0, 1.0, 7)]
    assert select_actor_pair(scores, rho=0) == ActorPair("p", "r1", "r0", 5.0, 1.0)


def test_length_may_count_tokens() -> None:
    scores = [
        scored(0, 5.0, 100, tokens=30),
        scored(1, 5.0, 120, tokens=20),
        scored(2, 1.0, 100, tokens=10),
    ]
    by_tokens = select_actor_pair(scores, rho=0, length_unit="tokens")
    by_characters = select_actor_pair(scores, rho=0)
    assert isinstance(by_tokens, ActorPair)
    assert isinstance(by_characters, ActorPair)
    assert (by_tokens.chosen_response_id, by_characters.chosen_response_id) == ("r1", "r0")


def test_a_cut_off_response_shapes_the_tiers_but_is_not_chosen() -> None:
    """S_max 5 is the cut-off one; rho .5: good is [3, 5], so r1 at 3 is good and r2 at 2 is not."""
    scores = [
        scored(0, 5.0, 10, "length"),
        scored(1, 3.0, 90),
        scored(2, 2.0, 5),
        scored(3, 1.0, 80),
    ]
    assert select_actor_pair(scores, rho=0.5) == DropReason.SAME_RESPONSE
    assert select_actor_pair([*scores, scored(4, 1.5, 99)], rho=0.5) == ActorPair(
        "p", "r1", "r4", 3.0, 1.5
    )


def test_a_cut_off_response_may_be_rejected() -> None:
    scores = [scored(0, 5.0, 10), scored(1, 1.0, 90, "length")]
    assert select_actor_pair(scores, rho=0) == ActorPair("p", "r0", "r1", 5.0, 1.0)


def test_an_empty_response_may_be_rejected_but_is_not_chosen() -> None:
    assert select_actor_pair([scored(0, 5.0, 0), scored(1, 5.0, 9), scored(2, 1.0, 0)], rho=0) == (
        ActorPair("p", "r1", "r2", 5.0, 1.0)
    )


def test_score_equality_ignores_rounding() -> None:
    """(4.5 + 4.7) / 2 and (4.6 + 4.6) / 2 are the same score."""
    first = score_response(response(0, "short"), [4.5, 4.7])
    second = score_response(response(1, "longer text"), [4.6, 4.6])
    assert select_actor_pair([first, second], rho=0) == DropReason.EQUAL_SCORES


@pytest.mark.parametrize(
    ("scores", "rho", "reason"),
    [
        ([], 0.0, "no_scored_response"),
        ([scored(0, None, 5), scored(1, None, 6)], 0.0, "no_scored_response"),
        ([scored(0, 4.0, 5), scored(1, None, 6)], 0.0, "one_scored_response"),
        ([scored(0, 4.0, 5), scored(1, 4.0, 6)], 0.3, "equal_scores"),
        ([scored(0, 5.0, 5, "length"), scored(1, 1.0, 6)], 0.0, "top_tier_cut_off"),
        ([scored(0, 5.0, 0), scored(1, 1.0, 6)], 0.0, "top_tier_empty"),
        # rho 1: both tiers are everything; the shortest is r0 and the longest r1, which is better
        ([scored(0, 1.0, 5), scored(1, 5.0, 9)], 1.0, "tiers_overlap"),
        # rho .5: both tiers meet at 3; r1 is the shortest good one and the longest bad one
        ([scored(0, 5.0, 9), scored(1, 3.0, 8), scored(2, 1.0, 7)], 0.5, "same_response"),
        ([scored(0, 5.0, 2501), scored(1, 1.0, 7)], 0.0, "chosen_too_long"),
    ],
)
def test_every_prompt_without_a_pair_has_its_reason(
    scores: list[ResponseScore], rho: float, reason: str
) -> None:
    found = select_actor_pair(scores, rho=rho, max_chosen_chars=2500)
    assert isinstance(found, DropReason)
    assert found == reason


def test_a_chosen_response_of_exactly_the_limit_stays() -> None:
    scores = [scored(0, 5.0, 2500), scored(1, 1.0, 7)]
    assert isinstance(select_actor_pair(scores, rho=0, max_chosen_chars=2500), ActorPair)


@pytest.mark.parametrize("rho", [-0.1, 1.1, float("nan")])
def test_rho_is_a_share(rho: float) -> None:
    with pytest.raises(ValueError, match="rho"):
        select_actor_pair([], rho=rho)


@st.composite
def response_scores(draw: st.DrawFn) -> list[ResponseScore]:
    means = draw(
        st.lists(st.none() | st.integers(0, 10).map(lambda half: half / 2), min_size=0, max_size=7)
    )
    return [
        scored(
            sample,
            mean,
            draw(st.integers(1, 6)),
            draw(st.sampled_from(["stop", "stop", "length"])),
        )
        for sample, mean in enumerate(means)
    ]


_RHO = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@given(response_scores(), _RHO)
def test_a_pair_is_the_shortest_good_and_the_longest_bad(
    scores: list[ResponseScore], rho: float
) -> None:
    """By the definition, on halves and quarters, where the borders are exact numbers."""
    pair = select_actor_pair(scores, rho=rho)
    if isinstance(pair, DropReason):
        return
    means = {s.response_id: s.mean for s in scores if s.mean is not None}
    by_id = {s.response_id: s for s in scores}
    top, bottom = max(means.values()), min(means.values())
    good = [by_id[i] for i, mean in means.items() if mean >= (1 - rho) * top + rho * bottom]
    bad = [by_id[i] for i, mean in means.items() if mean <= (1 - rho) * bottom + rho * top]
    chosen, rejected = by_id[pair.chosen_response_id], by_id[pair.rejected_response_id]
    assert chosen in good
    assert rejected in bad
    assert chosen.finish_reason != "length"
    assert pair.score_chosen > pair.score_rejected
    shortest = min(s.length_chars for s in good if s.finish_reason != "length")
    assert chosen.length_chars == shortest
    assert rejected.length_chars == max(s.length_chars for s in bad)


@given(response_scores(), st.sampled_from([0.0, 0.1, 0.25, 0.4, 0.49]))
def test_below_one_half_the_only_reasons_are_no_spread_and_no_choosable_response(
    scores: list[ResponseScore], rho: float
) -> None:
    found = select_actor_pair(scores, rho=rho)
    overlap = {DropReason.SAME_RESPONSE, DropReason.TIERS_OVERLAP}
    assert isinstance(found, ActorPair) or found not in overlap


@given(response_scores(), _RHO, st.randoms(use_true_random=False))
def test_the_order_of_responses_does_not_matter(
    scores: list[ResponseScore], rho: float, rng: random.Random
) -> None:
    shuffled = rng.sample(scores, len(scores))
    assert select_actor_pair(shuffled, rho=rho) == select_actor_pair(scores, rho=rho)


# --- judge pairs --------------------------------------------------------------------------------


def test_the_response_with_the_largest_variance_is_meta_judged() -> None:
    scores = [
        scored(0, 3.0, 5, variance=0.5),
        scored(1, 3.0, 5, variance=2.0),
        scored(2, None, 5),
    ]
    found = select_most_varied_response(scores, rng=random.Random(0))
    assert isinstance(found, ResponseScore)
    assert found.response_id == "r1"


def test_equal_variances_are_drawn_by_the_seed_and_not_by_the_order() -> None:
    scores = [scored(sample, 3.0, 5, variance=2.0 + sample * 1e-15) for sample in range(4)]
    scores.append(scored(9, 3.0, 5, variance=1.0))
    sampled = [select_most_varied_response(scores, rng=random.Random(seed)) for seed in range(40)]
    turned = [
        select_most_varied_response(scores[::-1], rng=random.Random(seed)) for seed in range(40)
    ]
    assert sampled == turned
    assert {s.response_id for s in sampled if isinstance(s, ResponseScore)} == {
        "r0",
        "r1",
        "r2",
        "r3",
    }


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ([], "no_scored_response"),
        ([scored(0, None, 5)], "no_scored_response"),
        ([scored(0, 3.0, 5), scored(1, 4.0, 5)], "zero_variance"),
    ],
)
def test_without_variance_nothing_is_meta_judged(scores: list[ResponseScore], reason: str) -> None:
    assert select_most_varied_response(scores, rng=random.Random(0)) == DropReason(reason)


def test_identical_judgments_battle_once_and_unscored_ones_not_at_all() -> None:
    judgments = [
        judgment(3, 2.0, "same"),
        judgment(1, 2.0, "same"),
        judgment(0, None, "unreadable"),
        judgment(2, 4.0, "other"),
    ]
    found = select_distinct_judgments(judgments)
    assert isinstance(found, list)
    assert [(j.sample, j.text) for j in found] == [(1, "same"), (2, "other")]


@pytest.mark.parametrize(
    "judgments",
    [
        [],
        [judgment(0, 4.0), judgment(1, None), judgment(2, None)],
        [judgment(0, 4.0, "same"), judgment(1, 4.0, "same")],
    ],
)
def test_fewer_than_two_distinct_judgments_give_no_battle(judgments: list[Judgment]) -> None:
    assert select_distinct_judgments(judgments) == DropReason.TOO_FEW_DISTINCT_JUDGMENTS


def _rate(*elos: float) -> tuple[list[Judgment], dict[str, float]]:
    judgments = [judgment(sample, 3.0) for sample in range(len(elos))]
    return judgments, {j.judgment_id: elo for j, elo in zip(judgments, elos, strict=True)}


def test_the_best_rated_judgment_is_paired_with_the_worst_rated() -> None:
    judgments, ratings = _rate(0.5, 2.0, -2.5)
    assert select_judge_pair(judgments, ratings, weights=EVEN) == JudgePair(
        "p", "r0", "r0.j1", "r0.j2", 2.0, -2.5
    )


def test_equal_ratings_at_either_end_break_by_the_smaller_sample() -> None:
    """1 and 1 - 5e-10 are equal (within 1e-9), 1 - 5e-9 is not."""
    judgments, ratings = _rate(1 - 5e-9, 1 - 5e-10, 1.0, -1.0, -1 - 5e-10)
    found = select_judge_pair(judgments[::-1], ratings, weights=EVEN)
    assert isinstance(found, JudgePair)
    assert (found.chosen_judgment_id, found.rejected_judgment_id) == ("r0.j1", "r0.j3")


def test_no_judge_pair_of_equal_ratings() -> None:
    judgments, ratings = _rate(0.0, 5e-10)
    assert select_judge_pair(judgments, ratings, weights=EVEN) == DropReason.EQUAL_RATINGS


def test_no_judge_pair_of_equal_texts() -> None:
    judgments, ratings = _rate(1.0, -1.0)
    alike = [replace(j, text="same") for j in judgments]
    assert select_judge_pair(alike, ratings, weights=EVEN) == DropReason.EQUAL_TEXT


def test_a_long_winner_drops_the_pair_and_a_long_loser_does_not() -> None:
    judgments, ratings = _rate(1.0, -1.0)
    winner, loser = judgments
    for text, expected in [("x" * 1101, DropReason), ("x" * 1100, JudgePair)]:
        pair = [replace(winner, text=text), loser]
        found = select_judge_pair(pair, ratings, weights=EVEN, max_chosen_judgment_chars=1100)
        assert isinstance(found, expected)
    pair = [winner, replace(loser, text="x" * 9999)]
    found = select_judge_pair(pair, ratings, weights=EVEN, max_chosen_judgment_chars=1100)
    assert isinstance(found, JudgePair)


def test_a_judgment_that_was_cut_off_may_be_rejected_and_is_never_chosen() -> None:
    (a, b, c), ratings = _rate(2.0, 0.0, -2.0)
    cut_off = [replace(one, finish_reason="length") for one in (a, b, c)]
    found = select_judge_pair([a, b, cut_off[2]], ratings, weights=EVEN)
    assert isinstance(found, JudgePair)
    assert (found.chosen_judgment_id, found.rejected_judgment_id) == ("r0.j0", "r0.j2")
    found = select_judge_pair([cut_off[0], b, c], ratings, weights=EVEN)
    assert found == DropReason.BEST_JUDGMENT_CUT_OFF, "the second best is not taken instead"


def test_of_equally_good_judgments_one_that_ended_by_itself_is_chosen() -> None:
    (a, b, c), ratings = _rate(1.0, 1.0, -2.0)
    for reason in ("stop", None):
        judged = [replace(a, finish_reason="length"), replace(b, finish_reason=reason), c]
        found = select_judge_pair(judged, ratings, weights=EVEN)
        assert isinstance(found, JudgePair)
        assert found.chosen_judgment_id == "r0.j1"


def test_a_best_judgment_that_is_cut_off_and_too_long_was_cut_off_first() -> None:
    """What-if questions move the limit on the length, so the other reason comes before it."""
    (a, b), ratings = _rate(1.0, -1.0)
    long = replace(a, finish_reason="length", text="x" * 1101)
    found = select_judge_pair([long, b], ratings, weights=EVEN, max_chosen_judgment_chars=1100)
    assert found == DropReason.BEST_JUDGMENT_CUT_OFF


def test_a_judgment_of_before_its_end_was_written_down_counts_as_finished() -> None:
    judgments, ratings = _rate(1.0, -1.0)
    assert {one.finish_reason for one in judgments} == {None}
    assert isinstance(select_judge_pair(judgments, ratings, weights=EVEN), JudgePair)


@pytest.mark.parametrize(
    ("unreadable", "limit", "is_pair"),
    [
        pytest.param({("j0", "j1")}, 1.0, False, id="one order only"),
        pytest.param({("j0", "j1")}, 0.5, True, id="half of the opponents"),
        pytest.param({("j0", "j1"), ("j2", "j0")}, 0.5, False, id="the best against everybody"),
        pytest.param({("j1", "j0"), ("j1", "j2"), ("j0", "j1")}, 0.5, True, id="the middle one"),
        pytest.param({("j0", "j1"), ("j2", "j0"), ("j1", "j2")}, 0.0, True, id="no limit"),
    ],
)
def test_a_pair_needs_verdicts_that_are_readable_in_both_orders(
    unreadable: set[tuple[str, str]], limit: float, *, is_pair: bool
) -> None:
    """The first judgment is the best, the last the worst."""
    judgments, ratings = _rate(2.0, 0.0, -2.0)
    battles = [
        battle(f"r0.{first}", f"r0.{second}", None if (first, second) in unreadable else "A")
        for first, second in itertools.permutations(("j0", "j1", "j2"), 2)
    ]
    found = select_judge_pair(
        judgments,
        ratings,
        weights=EVEN,
        readable=compute_readable_shares(battles),
        min_readable_share=limit,
    )
    assert isinstance(found, JudgePair) is is_pair
    assert is_pair or found == DropReason.TOO_FEW_READABLE_BATTLES


def test_when_one_position_won_everything_no_rating_counts() -> None:
    judgments, ratings = _rate(1.0, -1.0)
    one_sided = compute_weights_from_counts(wins_first=7, wins_second=0)
    found = select_judge_pair(judgments, ratings, weights=one_sided)
    assert found == DropReason.ONE_POSITION_WON_EVERYTHING


def test_one_judgment_makes_no_pair() -> None:
    judgments, ratings = _rate(1.0)
    found = select_judge_pair(judgments, ratings, weights=EVEN)
    assert found == DropReason.TOO_FEW_DISTINCT_JUDGMENTS


def test_a_judgment_without_a_rating_is_refused() -> None:
    judgments, ratings = _rate(1.0, -1.0)
    del ratings["r0.j1"]
    with pytest.raises(ArtifactError, match=r"r0\.j1 took part in battles but has no rating"):
        select_judge_pair(judgments, ratings, weights=EVEN)


def test_every_reason_has_its_own_sentence_for_people() -> None:
    assert set(REASON_TEXT) == set(DropReason)
    assert len(set(REASON_TEXT.values())) == len(DropReason)
    assert all(text.endswith(".") for text in REASON_TEXT.values())
    assert set(REASON_LABEL) == set(DropReason)
    assert len(set(REASON_LABEL.values())) == len(DropReason)
