"""Agreement of a judge with a reference and with itself: by hand, and where data is bad."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from meta_reward_core.data.prompt_files import compute_prompt_id
from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.evaluation.judge_agreement import (
    compute_label_kappa,
    measure_agreement,
    measure_self_consistency,
)
from meta_reward_core.evaluation.ratings_io import (
    Ratings,
    compute_pair_preferences,
    read_ratings,
    write_verdicts,
)
from meta_reward_core.evaluation.scorecard import Scorecard
from meta_reward_core.storage.records import Verdict
from tests.core.evaluation.rows import write_lines

Scores = dict[tuple[str, str], list[float]]


def scored(scores: Scores, *, missing: int = 0, has_scale: bool = True) -> Ratings:
    return Ratings("scores", scores, {}, missing, has_scale)


def verdicts(given: dict[tuple[str, str, str], list[Verdict]]) -> Ratings:
    return Ratings("verdicts", {}, given, 0, has_scale=False)


def of_one_prompt(*scores: float) -> Scores:
    return {("p", f"r{number}"): [score] for number, score in enumerate(scores)}


def value(card: Scorecard, name: str) -> float:
    found = card.get_metric(name).value
    assert found is not None
    return found


def test_three_responses_by_hand() -> None:
    """Judge 3, 3, 1; reference 5, 4, 2. Pairs: r0 > r1 (judge ties), r0 > r2, r1 > r2 (right).

    Agreement 2 / 3, without ties 2 / 2, ties 1 / 3; the whole order is not the reference's.
    """
    card = measure_agreement(scored(of_one_prompt(3, 3, 1)), scored(of_one_prompt(5, 4, 2)))
    assert value(card, "agreement") == pytest.approx(200 / 3)
    assert value(card, "agreement_without_ties") == 100
    assert value(card, "judge_ties") == pytest.approx(100 / 3)
    assert value(card, "exact_order") == 0


def test_a_pair_that_the_reference_does_not_order_is_in_no_agreement() -> None:
    """Reference 4, 4, 1; judge 1, 2, 3: r0 > r2 and r1 > r2 are wrong, r0 and r1 left out."""
    card = measure_agreement(scored(of_one_prompt(1, 2, 3)), scored(of_one_prompt(4, 4, 1)))
    assert card.get_metric("agreement").count == 2
    assert value(card, "agreement") == 0
    found = {issue.name: issue.rows for issue in card.issues}
    assert found["pairs_without_reference_order"] == 1


def test_the_judges_mean_of_several_judgments_counts() -> None:
    """r0: (2 + 5) / 2 = 3.5 over r1: 3."""
    judge = scored({("p", "r0"): [2, 5], ("p", "r1"): [3]})
    assert compute_pair_preferences(judge) == {("p", "r0", "r1"): 1}


def test_responses_of_different_prompts_are_never_compared() -> None:
    assert compute_pair_preferences(scored({("p", "a"): [1], ("q", "b"): [2]})) == {}


def test_verdicts_that_change_with_the_position_order_nothing() -> None:
    given: dict[tuple[str, str, str], list[Verdict]] = {
        ("p", "a", "b"): ["A"], ("p", "b", "a"): ["A"],
        ("p", "a", "c"): ["B"], ("p", "c", "a"): ["A"],
    }  # fmt: skip
    assert compute_pair_preferences(verdicts(given)) == {("p", "a", "b"): 0, ("p", "a", "c"): -1}


def test_positions_and_repeats_by_hand() -> None:
    """Pair a, b: first twice (inconsistent); a, c: c twice (consistent). First wins 3 of 4.

    Asked again: A, A and B on one order: of 3 pairs of answers one is equal.
    """
    given: dict[tuple[str, str, str], list[Verdict]] = {
        ("p", "a", "b"): ["A"], ("p", "b", "a"): ["A"],
        ("p", "a", "c"): ["B"], ("p", "c", "a"): ["A"],
    }  # fmt: skip
    card = measure_agreement(
        verdicts(given), scored({("p", r): [s] for r, s in zip("abc", (3, 2, 1), strict=True)})
    )
    assert value(card, "position_consistency") == 50
    assert value(card, "first_position_wins") == 75
    again = verdicts({("p", "a", "b"): ["A", "A", "B"]})
    card = measure_agreement(again, scored({("p", "a"): [3], ("p", "b"): [2]}))
    assert value(card, "same_when_asked_again") == pytest.approx(100 / 3)


def test_scores_asked_again() -> None:
    """4, 4, 5 and 1, 1: equal pairs 1/3 and 1: mean 66.7. Deviations sqrt(1/3) and 0."""
    judge = scored({("p", "a"): [4, 4, 5], ("p", "b"): [1, 1]})
    card = measure_agreement(judge, scored({("p", "a"): [4], ("p", "b"): [2]}))
    assert value(card, "same_when_asked_again") == pytest.approx(100 * (1 / 3 + 1) / 2)
    assert value(card, "deviation_when_asked_again") == pytest.approx(math.sqrt(1 / 3) / 2)


def test_cohens_kappa_by_hand() -> None:
    """The textbook's table 20, 5, 10, 15: observed 35 / 50 = 0.7.

    Expected (25 * 30 + 25 * 20) / 2500 = 0.5: kappa = 0.2 / 0.5 = 0.4.
    """
    pairs = [(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15
    assert compute_label_kappa(pairs) == pytest.approx(0.4)
    assert compute_label_kappa([]) is None
    assert compute_label_kappa([(1, 1)] * 3) is None


def test_kappa_of_orders_does_not_depend_on_which_response_is_named_first() -> None:
    """2 of 3 pairs alike, no ties: observed 2/3, expected 1/2 whatever the names: kappa 1/3."""
    judge, reference = of_one_prompt(3, 2, 1), of_one_prompt(3, 1, 2)
    swap = {"r0": "r2", "r1": "r1", "r2": "r0"}
    card = measure_agreement(scored(judge), scored(reference))
    renamed = measure_agreement(
        scored({(p, swap[r]): s for (p, r), s in judge.items()}),
        scored({(p, swap[r]): s for (p, r), s in reference.items()}),
    )
    assert value(card, "cohens_kappa") == pytest.approx(1 / 3)
    assert value(renamed, "cohens_kappa") == pytest.approx(1 / 3)


def many(size: int, seed: int = 0) -> tuple[Scores, Scores]:
    rng = random.Random(seed)
    judge, reference = {}, {}
    for prompt in range(size):
        for response in range(3):
            truth = rng.randint(0, 5)
            key = (f"p{prompt}", f"r{response}")
            reference[key] = [float(truth)]
            judge[key] = [min(5.0, max(0.0, truth + rng.choice([-1, 0, 0, 1, 2])))]
    return judge, reference


def test_correlations_agree_with_scipy() -> None:
    judge, reference = many(20)
    card = measure_agreement(scored(judge), scored(reference))
    own = [judge[key][0] for key in sorted(judge)]
    other = [reference[key][0] for key in sorted(judge)]
    assert value(card, "spearman") == pytest.approx(spearmanr(own, other).statistic)
    assert value(card, "kendall") == pytest.approx(kendalltau(own, other).statistic)


def test_spearmans_interval_by_hand() -> None:
    """tanh(atanh(r) -+ 1.96 sqrt(1.06 / (20 - 3))), 20 prompts."""
    judge, reference = many(20)
    metric = measure_agreement(scored(judge), scored(reference)).get_metric("spearman")
    assert metric.value is not None
    half = 1.959964 * math.sqrt(1.06 / 17)
    assert metric.low == pytest.approx(math.tanh(math.atanh(metric.value) - half), abs=1e-6)
    assert metric.high == pytest.approx(math.tanh(math.atanh(metric.value) + half), abs=1e-6)


def test_exact_scores_and_calibration_by_hand() -> None:
    """Judge 4.5, 2, 0 against 5, 3, 0: 4.5 rounds to 5: 2 of 3 exact; errors 0.5, 1, 0.

    Calibration per rounded point: |4.5 - 5| + |2 - 3| + 0 over 3 responses: 0.5.
    """
    card = measure_agreement(scored(of_one_prompt(4.5, 2, 0)), scored(of_one_prompt(5, 3, 0)))
    assert value(card, "exact_score") == pytest.approx(200 / 3)
    assert value(card, "mean_absolute_error") == pytest.approx(0.5)
    assert value(card, "calibration_error") == pytest.approx(0.5)
    assert [row["points"] for row in card.columns["calibration"]] == [0, 2, 5]


def test_another_scale_has_no_exact_scores() -> None:
    card = measure_agreement(scored(of_one_prompt(4, 2)), scored(of_one_prompt(9, 3)))
    assert "exact_score" not in {metric.name for metric in card.metrics}


def test_agreement_by_how_sure_the_judge_is() -> None:
    """Gaps 0.5 (wrong), 3.5 and 4 (right)."""
    card = measure_agreement(scored(of_one_prompt(1, 4.5, 5)), scored(of_one_prompt(1, 3, 2)))
    found = [(row["gap_up_to"], row["count"], row["agreement"])
             for row in card.columns["agreement_by_score_gap"]]  # fmt: skip
    assert found == [(0.5, 1, 0), (None, 2, 100)]


@settings(max_examples=20)
@given(st.integers(2, 12), st.integers(0, 99))
def test_a_judge_that_is_the_reference_agrees_in_everything(size: int, seed: int) -> None:
    _, reference = many(size, seed)
    card = measure_agreement(scored(reference), scored(reference))
    metric = card.get_metric("agreement")
    assert metric.value in (None, 100)
    assert card.get_metric("exact_order").value in (None, 100)
    assert card.get_metric("cohens_kappa").value in (None, 1)


@settings(max_examples=20)
@given(st.integers(2, 12), st.integers(0, 99))
def test_turning_the_judge_round_turns_the_agreement_without_ties(size: int, seed: int) -> None:
    judge, reference = many(size, seed)
    turned = {key: [5 - scores[0]] for key, scores in judge.items()}
    one = measure_agreement(scored(judge), scored(reference)).get_metric("agreement_without_ties")
    other = measure_agreement(scored(turned), scored(reference)).get_metric(
        "agreement_without_ties"
    )
    if one.value is not None and other.value is not None:
        assert one.value == pytest.approx(100 - other.value)


def test_three_prompts_have_wide_intervals() -> None:
    judge, reference = many(3)
    card = measure_agreement(scored(judge), scored(reference))
    agreement, correlation = card.get_metric("agreement"), card.get_metric("spearman")
    assert (agreement.high or 0) - (agreement.low or 0) > 40
    assert (correlation.low, correlation.high) == (-1, 1)
    assert "few_prompts" in {issue.name for issue in card.issues}


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(EvaluationFileError, match="no pair and no response in common"):
        measure_agreement(scored({("p", "a"): [1]}), scored({("q", "a"): [1]}))


def test_a_constant_judge_has_no_correlation_and_is_told() -> None:
    card = measure_agreement(scored(of_one_prompt(5, 5, 5)), scored(of_one_prompt(1, 2, 3)))
    assert card.get_metric("spearman").absent == "one of the two is constant"
    assert value(card, "agreement") == 0
    assert "judge_ties_often" in {issue.name for issue in card.issues}


def rows_of(scores: Sequence[tuple[str, str, float | None]]) -> list[dict[str, Any]]:
    return [{"prompt_id": p, "response_id": r, "score": s} for p, r, s in scores]


def test_an_experiments_judgments_are_such_a_file(tmp_path: Path) -> None:
    rows = [
        row | {"judgment_id": f"j{number}", "unscored_reason": None}
        for number, row in enumerate(rows_of([("p", "a", 4), ("p", "a", 3), ("p", "b", None)]))
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "part-00000.parquet")
    found = read_ratings(tmp_path / "part-00000.parquet")
    assert found.scores == {("p", "a"): [4, 3]}
    assert found.missing == 1


def test_ranks_count_the_other_way_round(tmp_path: Path) -> None:
    rows = [{"prompt_id": "p", "response_id": r, "rank": n} for n, r in enumerate("ab", start=1)]
    found = read_ratings(write_lines(tmp_path / "ranks.jsonl", rows))
    assert compute_pair_preferences(found) == {("p", "a", "b"): 1}
    assert not found.has_scale


def test_verdicts_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    a_b, b_a, a_c = ("p", "a", "b"), ("p", "b", "a"), ("p", "a", "c")
    write_verdicts(path, [(a_b, "A"), (b_a, "tie"), (a_c, None)])
    found = read_ratings(path)
    assert found.verdicts == {a_b: ["A"], b_a: ["tie"]}
    assert found.missing == 1


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{"prompt_id": "p", "response_id": "a"}], "neither score, rank nor verdict"),
        ([{"prompt_id": "p", "score": 1}], "has no response_id"),
        (rows_of([("p", "a", None)]), "no row has a readable score"),
        ([{"prompt_id": "p", "first_id": "a", "second_id": "b", "verdict": "C"}], "must be A, B"),
        ([{"prompt_id": "p", "first_id": "a", "second_id": "a", "verdict": "A"}], "with itself"),
        (
            [{"prompt_id": "p", "response_id": "a", "score": 1, "judgment_id": "j"}] * 2,
            "judgment j occurs twice",
        ),
        (
            [*rows_of([("p", "a", 1)]), {"prompt_id": "p", "response_id": "a", "rank": 1}],
            "mixes rank and score",
        ),
    ],
)
def test_bad_opinions_are_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(EvaluationFileError, match=message):
        read_ratings(write_lines(tmp_path / "rows.jsonl", rows))


def test_own_reasons_by_hand(tmp_path: Path) -> None:
    """Four totals: two agree with the points named, one does not, one names none: 2 of 3."""
    texts = ["+1 +1\nScore: 2", "One point.\nScore: 1", "+1\nScore: 4", "Good.\nScore: 3"]
    rows = [
        {"prompt_id": f"p{n}", "response_id": "r", "score": int(text[-1]), "text": text}
        for n, text in enumerate(texts)
    ]
    metrics = {
        metric.name: metric
        for metric in measure_self_consistency(
            read_ratings(write_lines(tmp_path / "o.jsonl", rows))
        )
    }
    assert metrics["reasons_can_be_compared"].value == 75
    assert metrics["agrees_with_own_reasons"].value == pytest.approx(200 / 3)
    assert metrics["agrees_with_own_reasons"].count == 3


def test_verdicts_are_compared_with_their_reasons_in_the_table_of_battles(tmp_path: Path) -> None:
    row = {
        "prompt_id": "p", "response_id": "r", "first_judgment_id": "a", "second_judgment_id": "b",
    }  # fmt: skip
    said = [
        ("A", "Judgement A is better.\nWinner: Judgement A"),
        ("B", "Judgement A is clearer.\nWinner: Judgement B"),
        ("A", "Winner: Judgement A"),
    ]
    rows = [row | {"verdict": verdict, "text": text} for verdict, text in said]
    found = read_ratings(write_lines(tmp_path / "b.jsonl", rows))
    assert found.reasons == (True, False, None)
    assert found.verdicts == {("p", "a", "b"): ["A", "B", "A"]}


AUDITED = {
    "batch": 1, "item": 1, "key": "abc.r0", "again": "", "auditor": "alice", "answer": "",
    "points": 4.0, "adjudicated": "", "instruction": "Why?", "response": "So.", "is_swapped": False,
}  # fmt: skip


def test_an_audit_of_responses_is_a_reference(tmp_path: Path) -> None:
    """What was adjudicated counts, and an item that was shown again counts once."""
    rows = [
        AUDITED,
        AUDITED | {"key": "abc.r1", "points": 2.0, "adjudicated": "3.5"},
        AUDITED | {"key": "abc.r0", "points": 1.0, "again": "same"},
    ]
    found = read_ratings(write_lines(tmp_path / "audit-1.jsonl", rows))
    name = compute_prompt_id("Why?")
    assert found.scores == {(name, "abc.r0"): [4.0], (name, "abc.r1"): [3.5]}


def test_an_audit_of_judgments_is_a_reference(tmp_path: Path) -> None:
    pair = AUDITED | {"key": "abc.r0.j1 abc.r0.j2", "points": None}
    answers = ["first", "second", "tie", "neither"]
    rows = [pair | {"answer": answer} for answer in answers]
    found = read_ratings(write_lines(tmp_path / "audit-2.jsonl", rows))
    shown = (compute_prompt_id("Why?"), "abc.r0.j1", "abc.r0.j2")
    assert found.verdicts == {shown: ["A", "B", "tie", "tie"]}
    with pytest.raises(EvaluationFileError, match="the answer must be one of"):
        read_ratings(write_lines(tmp_path / "bad.jsonl", [pair | {"answer": "maybe"}]))
