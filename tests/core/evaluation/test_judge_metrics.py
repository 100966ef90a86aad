"""What an iteration looks like from above, by hand, and when an alarm rings."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_reward_core.evaluation.alarms import Alarm, AlarmLimits, find_alarms
from meta_reward_core.evaluation.judge_metrics import (
    HISTOGRAM_BINS,
    IterationMetrics,
    JudgeMetrics,
    JudgeTally,
    MetaJudgeMetrics,
    MetaJudgeTally,
    compute_entropy_bits,
    compute_mean,
    compute_score_histogram,
    compute_score_length_correlation,
    compute_spearman,
    count_drops_by_reason,
    measure_meta_judge,
    measure_pairs,
)
from meta_reward_core.storage.records import Battle, Dropped, Judgment, ResponseScore, Verdict


def judgment(name: str, score: float | None, text: str = "text") -> Judgment:
    reason = "no_score_line" if score is None else None
    return Judgment("p", "r", name, 0, text, score, reason, 5)


def judged(*scores: float | None) -> JudgeMetrics:
    tally = JudgeTally()
    for i, score in enumerate(scores):
        tally.add([judgment(f"j{i}", score)])
    return tally.compute_metrics()


def battle(first: str, second: str, verdict: Verdict | None) -> Battle:
    reason = "no_winner_line" if verdict is None else None
    return Battle("p", "r", first, second, "text", verdict, reason, 3)


# --- the judge ----------------------------------------------------------------------------------


def test_bins_are_half_a_point_wide_and_five_stands_alone() -> None:
    counts = dict(
        zip(HISTOGRAM_BINS, compute_score_histogram([0, 0.49, 0.5, 4.5, 4.9, 4.99, 5]), strict=True)
    )
    assert len(counts) == 11
    assert (counts[0.0], counts[0.5], counts[4.5], counts[5.0]) == (2, 1, 3, 1)


@pytest.mark.parametrize("score", [-0.1, 5.1, math.nan])
def test_points_outside_the_range_are_no_points(score: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 5"):
        compute_score_histogram([score])


def test_entropy_by_hand() -> None:
    """Shares 1/2, 1/4, 1/4: 1/2 * 1 + 2 * 1/4 * 2 = 1.5 bits; one value only: 0 bits."""
    assert compute_entropy_bits([2, 1, 0, 1]) == 1.5
    assert compute_entropy_bits([0, 7]) == 0.0
    assert compute_entropy_bits([0, 0]) is None


@given(st.lists(st.integers(0, 50), min_size=1, max_size=11))
def test_entropy_lies_between_one_value_and_all_alike(counts: list[int]) -> None:
    entropy = compute_entropy_bits(counts)
    assert (entropy is None) == (sum(counts) == 0)
    assert entropy is None or 0 <= entropy <= math.log2(len(counts)) + 1e-12


def test_the_judge_by_hand() -> None:
    """Points 5, 5, 4, 2 and one failure: mean 16 / 4 = 4, at 5: 2 / 4, read: 4 / 5."""
    found = judged(5.0, 5.0, 4.0, 2.0, None)
    assert (found.judgments, found.scored, found.parse_rate) == (5, 4, 0.8)
    assert (found.mean, found.share_at_max, found.entropy_bits) == (4.0, 0.5, 1.5)
    assert found.unscored == {"no_score_line": 1}


@pytest.mark.parametrize("scores", [(), (None, None)])
def test_the_mean_of_nothing_is_absent(scores: tuple[None, ...]) -> None:
    found = judged(*scores)
    assert (found.mean, found.entropy_bits, found.share_at_max) == (None, None, None)
    assert found.parse_rate == (0.0 if scores else None)
    assert compute_mean([]) is None


# --- the meta-judge -----------------------------------------------------------------------------


def test_the_meta_judge_by_hand() -> None:
    """Points x 5, y 3, z 3; lengths x 2, y 4, z 1.

    Decided: xy A, yx A, xz A, zx A, yz B. First won 4 / 5. Unequal points: xy (higher won), yx
    (lower won), xz (higher), zx (lower): 2 / 4. Longer won: yx (y over x), xz (x over z), and
    not xy, zx, yz: 2 / 5. Both orders: x-y (x, then y: inconsistent), x-z (x, then z:
    inconsistent), y-z (z, then a tie: inconsistent): 3 / 3.
    """
    judgments = {
        "x": judgment("x", 5.0, "xx"),
        "y": judgment("y", 3.0, "yyyy"),
        "z": judgment("z", 3.0, "z"),
    }
    battles = [
        battle("x", "y", "A"),
        battle("y", "x", "A"),
        battle("x", "z", "A"),
        battle("z", "x", "A"),
        battle("y", "z", "B"),
        battle("z", "y", "tie"),
    ]
    assert measure_meta_judge(battles, judgments) == MetaJudgeMetrics(
        battles=6,
        decided=5,
        ties=1,
        parse_rate=1.0,
        won_by_first=0.8,
        won_by_second=0.2,
        both_orders=3,
        inconsistency=1.0,
        unequal_scores=4,
        won_by_higher_score=0.5,
        unequal_lengths=5,
        won_by_longer=0.4,
        unparsed={},
    )


def test_an_order_that_names_the_same_winner_is_consistent() -> None:
    battles = [battle("x", "y", "A"), battle("y", "x", "B"), battle("x", "z", "tie")]
    battles.append(battle("z", "x", "tie"))
    found = measure_meta_judge(battles, {})
    assert (found.both_orders, found.inconsistency) == (2, 0.0)


def test_two_failures_are_not_a_tie_and_not_an_agreement() -> None:
    """Two unreadable orders once counted as a tie: that would be one tie and one agreement."""
    found = measure_meta_judge([battle("x", "y", None), battle("y", "x", None)], {})
    assert (found.ties, found.decided, found.both_orders) == (0, 0, 0)
    assert (found.parse_rate, found.inconsistency, found.won_by_first) == (0.0, None, None)
    assert found.unparsed == {"no_winner_line": 2}


def test_a_missing_order_leaves_the_other_pairs_as_they_are() -> None:
    both = [battle("x", "y", "A"), battle("y", "x", "B")]
    found = measure_meta_judge([battle("w", "x", "A"), *both, battle("z", "y", "B")], {})
    assert (found.both_orders, found.inconsistency) == (1, 0.0)


@given(st.lists(st.sampled_from(["A", "B", "tie", None])))
def test_every_battle_is_counted_exactly_once(verdicts: list[Verdict | None]) -> None:
    battles = [battle(f"x{i}", f"y{i}", verdict) for i, verdict in enumerate(verdicts)]
    found = measure_meta_judge(battles, {})
    assert found.decided + found.ties + sum(found.unparsed.values()) == len(verdicts)


VERDICTS = st.sampled_from(["A", "B", "tie", None])


@given(st.lists(st.tuples(VERDICTS, VERDICTS, st.integers(0, 2), st.integers(0, 3))))
def test_what_parts_count_adds_up(
    fought: list[tuple[Verdict | None, Verdict | None, int, int]],
) -> None:
    """Each part: two judgments in both orders, their points and lengths drawn."""
    tally, together = MetaJudgeTally(), dict[str, Judgment]()
    battles: list[Battle] = []
    for number, (one, other, score, length) in enumerate(fought):
        x, y = f"x{number}", f"y{number}"
        judgments = {x: judgment(x, score, "t" * length), y: judgment(y, 1.0, "tt")}
        tally.add([battle(x, y, one), battle(y, x, other)], judgments)
        battles += [battle(x, y, one), battle(y, x, other)]
        together |= judgments
    assert tally.compute_metrics() == measure_meta_judge(battles, together)


# --- pairs and lengths --------------------------------------------------------------------------


def test_pairs_and_drops_make_up_the_prompts() -> None:
    """Two pairs and three drops of their kind: 2 / 5; the judge's drop is another kind's."""
    dropped = [
        Dropped("a", "actor", "equal_scores"),
        Dropped("b", "actor", "no_scored_response"),
        Dropped("c", "actor", "no_scored_response"),
        Dropped("a", "judge", "zero_variance"),
    ]
    found = measure_pairs("actor", chosen_chars=[10, 20], rejected_chars=[40, 50], dropped=dropped)
    assert (found.pairs, found.yield_rate) == (2, 0.4)
    assert list(found.dropped.items()) == [("no_scored_response", 2), ("equal_scores", 1)]
    assert (found.chosen_chars, found.rejected_chars) == (15.0, 45.0)
    assert count_drops_by_reason(dropped, "judge") == {"zero_variance": 1}


def test_no_pair_and_no_drop_have_no_yield() -> None:
    found = measure_pairs("judge", chosen_chars=[], rejected_chars=[], dropped=[])
    assert (found.yield_rate, found.chosen_chars) == (None, None)


def test_spearman_by_hand() -> None:
    """Ranks 1 2 3 4 against 1 3 2 4: 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15) = 0.8."""
    assert compute_spearman([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(0.8, abs=1e-12)


@pytest.mark.parametrize(("first", "second"), [([], []), ([1.0], [2.0]), ([1.0, 1.0], [1.0, 2.0])])
def test_a_constant_column_correlates_with_nothing(first: list[float], second: list[float]) -> None:
    assert compute_spearman(first, second) is None
    assert compute_spearman(second, first) is None


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2 and 1 rows"):
        compute_spearman([1, 2], [1])


def test_unscored_responses_are_left_out_of_the_correlation_with_length() -> None:
    scores = [
        ResponseScore("p", f"r{i}", i, 1, mean, 0.0, length, 1, "stop")
        for i, (mean, length) in enumerate([(1.0, 10), (2.0, 20), (None, 0), (3.0, 30)])
    ]
    assert compute_score_length_correlation(scores) == pytest.approx(1.0)
    assert compute_score_length_correlation(scores[2:]) is None


# --- alarms -------------------------------------------------------------------------------------

HEALTHY = IterationMetrics(
    judge=judged(*[1.0, 2.0, 3.0, 4.0, 5.0] * 5),
    meta_judge=MetaJudgeMetrics(
        battles=100,
        decided=90,
        ties=6,
        parse_rate=0.96,
        won_by_first=0.5,
        won_by_second=0.5,
        both_orders=48,
        inconsistency=0.2,
        unequal_scores=60,
        won_by_higher_score=0.6,
        unequal_lengths=90,
        won_by_longer=0.5,
        unparsed={"no_winner_line": 4},
    ),
    pairs=(
        measure_pairs("actor", chosen_chars=[10] * 8, rejected_chars=[10] * 8, dropped=[]),
        measure_pairs("judge", chosen_chars=[10] * 8, rejected_chars=[10] * 8, dropped=[]),
    ),
    response_chars=1000.0,
)


def names(now: IterationMetrics, before: IterationMetrics | None = None) -> list[str]:
    return [alarm.name for alarm in find_alarms(now, before=before)]


def test_a_healthy_iteration_rings_nothing() -> None:
    assert names(HEALTHY, HEALTHY) == []
    assert names(IterationMetrics()) == []


@pytest.mark.parametrize(
    "scores", [[5.0] * 17 + [1.0, 2.0, 3.0], [0.2] * 25, [4.0, 4.0, 4.0, 4.5] * 6]
)
def test_a_judge_that_hardly_tells_responses_apart_has_collapsed(scores: list[float]) -> None:
    """17 / 20 at 5; all in [0, .5); and 3 / 4 at 4: entropy .81 bits."""
    assert names(replace(HEALTHY, judge=judged(*scores))) == ["judge_collapse"]


def test_the_sentence_names_the_share_and_the_place() -> None:
    (alarm,) = find_alarms(IterationMetrics(judge=judged(*[5.0] * 17, 1.0, 2.0, 3.0)))
    assert alarm.sentence.startswith("85% of the scores are at 5 (entropy 0.85 bits)")
    (alarm,) = find_alarms(IterationMetrics(judge=judged(*[4.6] * 25)))
    assert alarm.sentence.startswith("100% of the scores are from 4.5 to 5 ")


def test_a_few_points_prove_no_collapse() -> None:
    assert names(IterationMetrics(judge=judged(5.0, 5.0, 5.0))) == []


@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_a_judge_whose_mean_jumps_has_drifted(shift: float) -> None:
    now = judged(*[2.0 + shift, 3.0 + shift, 4.0 + shift] * 8)
    before = judged(*[2.0, 3.0, 4.0] * 8)
    now_and_before = IterationMetrics(judge=now), IterationMetrics(judge=before)
    (alarm,) = find_alarms(now_and_before[0], before=now_and_before[1])
    assert alarm.name == "judge_drift"
    assert f"changed by {shift:+.2f} to {3 + shift:.2f}" in alarm.sentence


def test_an_unscored_iteration_has_not_drifted() -> None:
    assert names(IterationMetrics(judge=judged(None)), HEALTHY) == ["judgments_unreadable"]


def _meta_judge(**changes: float | int) -> IterationMetrics:
    assert HEALTHY.meta_judge is not None
    return replace(HEALTHY, meta_judge=replace(HEALTHY.meta_judge, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("now", "name"),
    [
        (replace(HEALTHY, judge=judged(*[1.0, 3.0, 5.0, None] * 10)), "judgments_unreadable"),
        (_meta_judge(parse_rate=0.8), "verdicts_unreadable"),
        (_meta_judge(won_by_first=1.0), "one_position_won_everything"),
        (_meta_judge(won_by_first=0.0), "one_position_won_everything"),
        (_meta_judge(won_by_higher_score=0.97), "meta_judge_follows_score"),
        (_meta_judge(inconsistency=0.6), "meta_judge_inconsistent"),
        (replace(HEALTHY, response_chars=1300.0), "length_growth"),
        (
            replace(
                HEALTHY,
                pairs=(
                    measure_pairs(
                        "judge",
                        chosen_chars=[],
                        rejected_chars=[],
                        dropped=[Dropped("p", "judge", "zero_variance")],
                    ),
                ),
            ),
            "too_few_pairs",
        ),
        (
            replace(
                HEALTHY,
                pairs=(
                    measure_pairs(
                        "judge",
                        chosen_chars=[9, 9],
                        rejected_chars=[9, 9],
                        dropped=[],
                        few_readable=1,
                    ),
                ),
            ),
            "pairs_of_few_verdicts",
        ),
    ],
)
def test_each_fault_rings_its_own_alarm_alone(now: IterationMetrics, name: str) -> None:
    alarms = find_alarms(now, before=HEALTHY)
    assert [alarm.name for alarm in alarms] == [name]
    assert all(text.endswith(".") for alarm in alarms for text in (alarm.sentence, alarm.advice))


@pytest.mark.parametrize(
    "changes",
    [{"won_by_higher_score": 1.0, "unequal_scores": 19}, {"inconsistency": 1.0, "both_orders": 19}],
)
def test_a_few_battles_prove_no_bias(changes: dict[str, float]) -> None:
    assert names(_meta_judge(**changes)) == []


def test_limits_may_be_chosen() -> None:
    limits = AlarmLimits(length_growth=1.0)
    alarms = find_alarms(replace(HEALTHY, response_chars=1001.0), before=HEALTHY, limits=limits)
    assert alarms == [
        Alarm(
            "length_growth",
            "Responses grew from 1000 to 1001 characters in one iteration.",
            "Raise rho, or limit the length of chosen responses.",
        )
    ]
