"""What batches say: counted by hand on few answers."""

import math
from dataclasses import replace
from typing import Any

import pytest
from scipy import stats

from meta_reward_core.evaluation.rater_agreement import compute_krippendorff_alpha
from meta_reward_core.review.annotator_consistency import measure_consistency
from meta_reward_core.review.judge_results import AuditedResponse, estimate_judge_results
from meta_reward_core.review.meta_judge_results import (
    AuditedPair,
    describe_agreement_change,
    describe_agreement_vs_chance,
    estimate_decided_agreement,
    estimate_meta_judge_results,
)
from meta_reward_core.review.stratified_estimators import Estimate
from meta_reward_core.review.stratified_sampling import (
    SamplingFrame,
    name_sample_stratum,
    pool_frames,
)


def pair(human: str, forward: str | None, backward: str | None, **changes: Any) -> AuditedPair:
    values: dict[str, Any] = {
        "stratum": "all", "higher_score": "first", "longer": None, "higher_elo": None,
        "shown_left": "first", "groups": {},
    } | changes  # fmt: skip
    return AuditedPair(human=human, forward=forward, backward=backward, **values)  # type: ignore[arg-type]


PAIRS = [
    pair("first", "first", "first"),
    pair("first", "first", "second"),
    pair("second", "tie", "second"),
    pair("neither", "tie", "first"),
    pair("second", None, "first"),
]


def test_agreement_counts_each_readable_order() -> None:
    """Orders that say what people say: 2, 1, 1, 1, 0 of 2, 2, 2, 2, 1: 5 of 9.

    Without ties: 2, 1, 1, -, 0 of 2, 2, 1, 0, 1: 4 of 6.
    """
    found = estimate_meta_judge_results(PAIRS, SamplingFrame({"all": 100}))
    assert found.agreement.value == pytest.approx(5 / 9)
    assert found.agreement_decided.value == pytest.approx(4 / 6)
    assert (found.agreement.count, found.agreement_decided.count) == (5, 4)


def test_the_confusion_matrix_is_by_what_the_meta_judge_saw_first() -> None:
    """Nine orders as (people, meta-judge), A shown first to the meta-judge.

    1: (A, A), (B, B). 2: (A, A), (B, A). 3: (B, tie), (A, A). 4: (tie, tie), (tie, B). 5: (A, B).
    """
    found = estimate_meta_judge_results(PAIRS, SamplingFrame({"all": 100}))
    counts = [[round((cell.value or 0.0) * 9) for cell in row] for row in found.confusion]
    assert counts == [[3, 1, 0], [1, 1, 1], [0, 1, 1]]


def test_each_cell_of_the_confusion_matrix_has_its_pairs_and_its_interval() -> None:
    """(A, A) is said of pairs 1, 2 and 3, (A, B) of 5, (B, A) of 2; nothing of (A, tie)."""
    found = estimate_meta_judge_results(PAIRS, SamplingFrame({"all": 100}))
    assert [[cell.count for cell in row] for row in found.confusion] == [
        [3, 1, 0], [1, 1, 1], [0, 1, 1],
    ]  # fmt: skip
    [[alike, *_], *_] = found.confusion
    assert alike.low is not None
    assert alike.high is not None
    assert 0 < alike.low < 3 / 9 < alike.high < 1


def test_elos_order_is_compared_with_people_once_for_each_pair() -> None:
    """People: first, first, second, neither, second. Higher Elo: first, second, second, first, -.

    Of the pairs with a winner and unequal ratings, 1, 2 and 3, it names the winner in 1 and 3.
    """
    elo = ("first", "second", "second", "first", None)
    pairs = [replace(one, higher_elo=side) for one, side in zip(PAIRS, elo, strict=True)]  # type: ignore[arg-type]
    found = estimate_meta_judge_results(pairs, SamplingFrame({"all": 100})).elo
    assert found.value == pytest.approx(2 / 3)
    assert found.count == 3
    assert found.low is not None
    assert found.high is not None
    assert found.low < 2 / 3 < found.high


@pytest.mark.parametrize("right, said", [
    (40, "The Elo order beats chance"),
    (20, "The Elo order is not shown to beat chance"),
    (4, "The Elo order is worse than chance"),
])  # fmt: skip
def test_elos_order_is_compared_with_a_coin_in_words(right: int, said: str) -> None:
    pairs = [
        pair("first", None, None, higher_elo="first" if number < right else "second")
        for number in range(44)
    ]
    assert said in str(estimate_meta_judge_results(pairs, SamplingFrame({"all": 5000})).sentences)


def test_kappa_is_that_of_the_confusion_matrix() -> None:
    """Agreed 5/9; by chance (4 * 4 + 3 * 3 + 2 * 2) / 81 = 29/81: (45 - 29) / (81 - 29)."""
    found = estimate_meta_judge_results(PAIRS, SamplingFrame({"all": 100}))
    assert found.kappa.value == pytest.approx(16 / 52)
    assert found.kappa.low is not None


def test_biases_stand_beside_peoples_own() -> None:
    """Decided orders: first, first | first, second | second | first | first.

    Shown first wins: yes, no | yes, yes | yes | no | no: 4 of 7. Higher (first): 5 of 7.
    People choose the first in 2 of 4 decided answers, and it was on the left each time.
    """
    found = estimate_meta_judge_results(PAIRS, SamplingFrame({"all": 100}))
    by_name = {bias.name: bias for bias in found.biases}
    shown = by_name["the one shown first wins"]
    assert (shown.meta_judge.value, shown.people.value) == pytest.approx((4 / 7, 2 / 4))
    higher = by_name["the higher score wins"]
    assert (higher.meta_judge.value, higher.people.value) == pytest.approx((5 / 7, 2 / 4))
    assert by_name["the longer one wins"].meta_judge.value is None


def test_a_bias_that_people_do_not_share_is_said() -> None:
    """The meta-judge names the higher score 50 of 50 times, people 25 times."""
    pairs = [
        pair("first" if number % 2 else "second", "first", "first", higher_score="first")
        for number in range(50)
    ]
    said = estimate_meta_judge_results(pairs, SamplingFrame({"all": 5000})).sentences
    expected = "The higher score wins more often for the meta-judge (100%) than for humans (50%)."
    assert expected in said
    agreed = [pair("first", "first", "first", higher_score="first")] * 50
    assert "higher score" not in str(
        estimate_meta_judge_results(agreed, SamplingFrame({"all": 5000})).sentences
    )


def test_groups_in_which_one_verdict_is_right_by_itself_are_not_called_coins() -> None:
    sure = [pair("first", "first", "first", groups={"certainty": "orders agree"})] * 80
    split = [pair("first", "first", "second", groups={"certainty": "orders disagree"})] * 40
    said = estimate_meta_judge_results([*sure, *split], SamplingFrame({"all": 5000})).sentences
    assert "beats chance" in said[0]
    assert "orders disagree" not in str(said)


def test_groups_are_estimated_apart() -> None:
    pairs = [
        pair("first", "first", "first", groups={"certainty": "orders agree"}),
        pair("first", "first", "second", groups={"certainty": "orders disagree"}),
    ]
    groups = {
        group.name: group.agreement
        for group in estimate_meta_judge_results(pairs, SamplingFrame({"all": 9})).groups
    }
    assert groups["orders agree"].value == 1
    assert groups["orders disagree"].value == 0.5


def test_a_group_no_better_than_a_coin_is_named() -> None:
    pairs = [
        pair("first", "first", "first", groups={"score_gap": "score gap above 1"}),
        pair("first", "first", "second", groups={"score_gap": "equal score"}),
    ] * 40
    sentences = estimate_meta_judge_results(pairs, SamplingFrame({"all": 5000})).sentences
    assert sentences[0].startswith("The meta-judge beats chance")
    assert any("not show" in said and "equal score" in said for said in sentences[1:])


@pytest.mark.parametrize("estimate, said", [
    (Estimate(0.7, 0.6, 0.8, 50), "beats chance"),
    (Estimate(0.3, 0.2, 0.4, 50), "is worse than chance"),
    (Estimate(0.5, 0.4, 0.6, 50), "is not shown to beat chance"),
    (Estimate(None, None, None, 0), "too few answers"),
])  # fmt: skip
def test_the_comparison_with_a_coin_is_said_in_words(estimate: Estimate, said: str) -> None:
    assert said in describe_agreement_vs_chance(estimate)


def test_no_answer_is_no_figure() -> None:
    found = estimate_meta_judge_results([], SamplingFrame({"all": 10}))
    assert found.agreement.value is None
    assert "No answer compares" in found.sentences[0]
    assert estimate_judge_results([], SamplingFrame({"all": 10})).spearman.value is None


def test_the_judge_is_compared_with_peoples_points() -> None:
    responses = [AuditedResponse("all", human, human + 1, {}) for human in (0.0, 1, 2, 3, 4)] * 6
    found = estimate_judge_results(responses, SamplingFrame({"all": 300}))
    assert (found.spearman.value, found.kendall.value) == pytest.approx((1, 1))
    assert found.difference.value == pytest.approx(-1)
    assert any("too generous, by 1.00" in said for said in found.sentences)


def test_consistency_counts_repeats_and_several_auditors() -> None:
    """Own repeats alike in 1 of 2; of 2 items with two auditors 1 is alike.

    Alpha: coincidences a-a 2, a-b 2 (both ways); n = 4: 1 - 3 * 2 / (2 * 3 * 1) = 0.
    """
    found = measure_consistency(
        [("first", "first"), ("first", "tie")],
        [[("carol", "a"), ("dave", "a")], [("carol", "a"), ("dave", "b")], [("carol", "b")]],
    )
    assert (found.same.value, found.other.value) == (0.5, 0.5)
    assert found.alpha.value == pytest.approx(0.0)
    assert found.alpha.count == 2


def test_all_auditors_of_an_item_count_and_not_the_first_two() -> None:
    """Three auditors are 3 pairs: a, a, b agree in 1 of 3; a, b, b too: 1/3 on average."""
    said = [[("c", "a"), ("d", "a"), ("e", "b")], [("c", "a"), ("d", "b"), ("e", "b")]]
    assert measure_consistency([], said).other.value == pytest.approx(1 / 3)


def test_alpha_has_the_interval_of_a_jackknife_over_items() -> None:
    """Ten items, two auditors, alike on nine: leaving one out gives two values of alpha.

    On Fisher's scale the interval reaches t(9) * sqrt(.9 * sum of squares) / (1 - alpha^2).
    """
    units = [["a", "a"]] * 5 + [["b", "b"]] * 4 + [["a", "b"]]
    value = compute_krippendorff_alpha(units)
    assert value is not None
    others = [compute_krippendorff_alpha(units[:at] + units[at + 1 :]) or 0.0 for at in range(10)]
    squares = sum((one - value) ** 2 for one in others)
    reach = float(stats.t.ppf(0.975, 9)) * math.sqrt(0.9 * squares) / (1 - value**2)
    found = measure_consistency([], [[("c", a), ("d", b)] for a, b in units]).alpha
    assert found.value == pytest.approx(value)
    assert found.count == 10
    assert (found.low, found.high) == pytest.approx(
        (math.tanh(math.atanh(value) - reach), math.tanh(math.atanh(value) + reach))
    )


def test_alpha_of_auditors_who_all_say_the_same_is_none() -> None:
    found = measure_consistency([], [[("c", "a"), ("d", "a")]] * 5).alpha
    assert (found.value, found.count) == (None, 5)


def test_alpha_of_auditors_who_agree_on_every_item_has_no_interval() -> None:
    """Leaving any item out changes nothing, which does not say how much others would vary."""
    found = measure_consistency([], [[("c", one), ("d", one)] for one in "aabbab"]).alpha
    assert (found.value, found.low, found.high, found.count) == (1.0, None, None, 6)


def test_points_within_half_a_point_are_alike() -> None:
    found = measure_consistency([(3.0, 3.5), (1.0, 4.0)], [], has_numbers=True)
    assert found.same.value == 0.5


def test_two_samples_of_one_population_count_by_their_answers() -> None:
    """Sample x: 2 of 4 answers agree; sample y: 4 of 4 in a stratum of 90, 0 of 4 in one of 10.

    Alone x says .5 and y .9. With 4 and 8 answers they count 1/3 and 2/3:
    (100 * 1/3 * .5 + 100 * 2/3 * .9) / 100 = .7667.
    """
    agreed, wrong = pair("first", "first", "first"), pair("second", "first", "first")
    frames = {"x": SamplingFrame({"all": 100}), "y": SamplingFrame({"a": 90, "b": 10})}
    pooled = pool_frames(frames, {"x": 4, "y": 8})
    rows = [
        replace(one, stratum=name_sample_stratum(sample, stratum))
        for sample, stratum, several in [
            ("x", "all", [agreed, agreed, wrong, wrong]),
            ("y", "a", [agreed] * 4),
            ("y", "b", [wrong] * 4),
        ]
        for one in several
    ]
    found = estimate_decided_agreement(rows, pooled, confidence=0.95)
    assert found.value == pytest.approx(0.5 / 3 + 0.9 * 2 / 3)
    assert estimate_meta_judge_results(rows, pooled).coverage == pytest.approx(1)


def test_a_sample_pooled_with_an_unanswered_one_says_what_it_says_alone() -> None:
    alone = estimate_meta_judge_results(PAIRS, SamplingFrame({"all": 100}))
    rows = [replace(one, stratum=name_sample_stratum("x", "all")) for one in PAIRS]
    frames = {"x": SamplingFrame({"all": 100}), "y": SamplingFrame({"all": 100})}
    assert estimate_meta_judge_results(rows, pool_frames(frames, {"x": 5, "y": 0})) == alone


@pytest.mark.parametrize("before, after, said", [
    (Estimate(0.8, 0.75, 0.85, 90), Estimate(0.6, 0.55, 0.65, 90), "Agreement fell by 20 points"),
    (Estimate(0.6, 0.55, 0.65, 90), Estimate(0.8, 0.75, 0.85, 90), "Agreement rose by 20 points"),
    (Estimate(0.6, 0.5, 0.7, 90), Estimate(0.62, 0.5, 0.7, 90), "not show that agreement changed"),
    (Estimate(0.6, None, None, 1), Estimate(0.62, 0.5, 0.7, 90), "too few answers to compare"),
])  # fmt: skip
def test_two_iterations_are_compared_in_words(before: Estimate, after: Estimate, said: str) -> None:
    assert said in describe_agreement_change(1, before, 2, after)


def test_a_change_has_movers_interval() -> None:
    """From .8 (.75 to .85) to .6 (.55 to .65): -.2 -+ sqrt(.05^2 + .05^2)."""
    said = describe_agreement_change(
        1, Estimate(0.8, 0.75, 0.85, 9), 2, Estimate(0.6, 0.55, 0.65, 9)
    )
    assert "from iteration 1 to 2 (-27 to -13 points)" in said
