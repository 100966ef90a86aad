"""RewardBench: accuracies, sections and the score of Ties by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.evaluation.reward_bench import (
    SECTIONS,
    ScoredFile,
    ScoredItem,
    compute_item_credit,
    make_ties_metric,
    read_scored_items,
    score_reward_bench,
    write_scored_items,
)
from meta_reward_core.evaluation.scorecard import Scorecard
from tests.core.evaluation.generated_rows import (
    best_of_four_rows,
    reward_bench_rows,
    ties_rows,
)
from tests.core.evaluation.rows import write_lines


def pair(number: int, subset: str, chosen: float | None, rejected: float | None) -> ScoredItem:
    return ScoredItem(str(number), subset, (chosen,), (rejected,))


def card_of(*items: ScoredItem, version: Any = "1") -> Scorecard:
    return score_reward_bench(ScoredFile("judge", version, items))


@pytest.mark.parametrize(
    "correct, incorrect, credit",
    [
        ((4,), (3,), 1),
        ((3,), (4,), 0),
        ((3,), (3,), 1 / 2),
        ((5,), (5, 5, 1), 1 / 3),
        ((4,), (5, 1, 1), 0),
        ((5, 5), (5, 1), 2 / 3),
        ((None,), (1,), None),
    ],
)
def test_equal_best_scores_share_the_credit(
    correct: tuple[float | None, ...], incorrect: tuple[float | None, ...], credit: float | None
) -> None:
    assert compute_item_credit(ScoredItem("1", "s", correct, incorrect)) == credit


def test_sections_are_weighted_by_the_published_counts() -> None:
    """1 of 2 in alpacaeval-easy (100 published items), 1 of 1 in mt-bench-med (40 of them).

    Chat = (100 * 50 + 40 * 100) / 140 = 64.286. Without the other sections there is no score.
    """
    card = card_of(
        pair(1, "alpacaeval-easy", 2, 1), pair(2, "alpacaeval-easy", 1, 2),
        pair(3, "mt-bench-med", 2, 1),
    )  # fmt: skip
    assert card.get_metric("alpacaeval-easy").value == 50
    assert card.get_metric("Chat").value == pytest.approx(64.286, abs=1e-3)
    assert card.get_metric("score").absent == "no items of: Chat Hard, Safety, Reasoning"


def test_the_two_xstest_subsets_weigh_as_many_items_as_they_have() -> None:
    """All of 154 should-refuse right, none of 250 should-respond: Safety 154 / 404 = 38.12."""
    card = card_of(pair(1, "xstest-should-refuse", 2, 1), pair(2, "xstest-should-respond", 1, 2))
    assert card.get_metric("Safety").value == pytest.approx(38.119, abs=1e-3)


def scored_card(path: Path, rows: list[dict[str, Any]]) -> Scorecard:
    return score_reward_bench(read_scored_items(write_lines(path, rows)))


def names_of(card: Scorecard) -> set[str]:
    return {issue.name for issue in card.issues}


def test_sections_equal_the_public_tools(tmp_path: Path) -> None:
    """The tool's `calculate_scores_per_section` on the same 158 pairs, equal scores half.

    Commit 05a9005, run by `benchmarks/tool_roundtrip_reward_bench.py`; the total is what its
    `analysis/get_benchmark_results.py` gives a model without prior sets, the plain mean.
    """
    card = scored_card(tmp_path / "s.jsonl", reward_bench_rows())
    found = [card.get_metric(name).value for name in ("Chat", "Chat Hard", "Safety", "Reasoning")]
    assert found == pytest.approx([70.304602288, 56.967940685, 72.294079794, 42.015542328])
    assert card.get_metric("score").value == pytest.approx(60.395541274)


def test_a_classifiers_file_keeps_the_results_of_the_public_tool(tmp_path: Path) -> None:
    """The same pairs as the tool's `run_rm.py` writes them: equal scores have the result 0.

    Sections by the tool at commit 05a9005: 68.409, 54.091, 68.732, 40.066.
    """
    rows = [
        row | {"results": int(row["scores_chosen"] > row["scores_rejected"])}
        for row in reward_bench_rows()
    ]
    equal = sum(row["scores_chosen"] == row["scores_rejected"] for row in rows)
    card = scored_card(tmp_path / "s.jsonl", rows)
    found = [card.get_metric(name).value for name in ("Chat", "Chat Hard", "Safety", "Reasoning")]
    assert found == pytest.approx([68.409151370, 54.091478697, 68.732303732, 40.066137566])
    assert [f.rows for f in card.issues if f.name == "results_not_of_scores"] == [equal]
    assert "all_answers_scored_alike" not in names_of(card)


def test_version_2_with_repeated_ids_equals_the_public_tools(tmp_path: Path) -> None:
    """The tool's `reroll_and_score_dataset` and `process_single_model` on 60 + 30 items.

    Commit 05a9005, run by `benchmarks/tool_roundtrip_reward_bench.py`. Four ids of every subset but
    Ties come twice.
    """
    card = scored_card(tmp_path / "s.jsonl", best_of_four_rows() + ties_rows())
    expected = {
        "Factuality": 38.888888889,
        "Focus": 54.166666667,
        "Math": 29.166666667,
        "Precise IF": 33.333333333,
        "Safety": 48.611111111,
        "Ties": 45.494524001,
    }
    assert {name: card.get_metric(name).value for name in expected} == pytest.approx(expected)
    assert card.get_metric("score").value == pytest.approx(sum(expected.values()) / 6)
    assert [f.rows for f in card.issues if f.name == "repeated_ids"] == [20]
    assert "subsets_missing" not in names_of(card)


def test_the_score_is_the_mean_of_the_four_sections() -> None:
    """One item per section, right, right, wrong, equal: (100 + 100 + 0 + 50) / 4 = 62.5."""
    outcomes = [(2, 1), (2, 1), (1, 2), (1, 1)]
    subsets = [next(iter(weights)) for weights in SECTIONS.values()]
    items = [pair(n, s, *o) for n, (s, o) in enumerate(zip(subsets, outcomes, strict=True))]
    metric = card_of(*items).get_metric("score")
    assert metric.value == 62.5
    assert metric.low is not None
    assert metric.high is not None
    assert metric.low < 62.5 < metric.high


def test_mathematics_counts_as_much_as_all_code() -> None:
    """math-prm wrong, six kinds of code right: 984 against 6 * 164 = 984: 50."""
    code = [name for name in SECTIONS["Reasoning"] if name != "math-prm"]
    items = [pair(n, name, 2, 1) for n, name in enumerate(code)]
    assert card_of(pair(9, "math-prm", 1, 2), *items).get_metric("Reasoning").value == 50


def test_a_sections_interval_by_hand() -> None:
    """Donotanswer (136 published) 1 of 1, refusals-offensive (100) 0 of 1; weights 0.576, 0.424.

    Wilson of 1 of 1: 20.65 to 100; of 0 of 1: 0 to 79.35. Mean 57.63. Below: only the first may be
    lower, by 0.576 * 79.35 = 45.73. Above: only the second may be higher, by 0.424 * 79.35 = 33.62.
    """
    metric = card_of(pair(1, "donotanswer", 2, 1), pair(2, "refusals-offensive", 1, 2)).get_metric(
        "Safety"
    )
    assert metric.value == pytest.approx(57.63, abs=0.01)
    assert (metric.low, metric.high) == pytest.approx((57.63 - 45.73, 57.63 + 33.62), abs=0.01)


def test_a_few_items_of_a_heavy_subset_keep_the_section_uncertain() -> None:
    """All code right on 200 items: mathematics, with half the weight, has only one."""
    code = [pair(n, "hep-python", 2, 1) for n in range(200)]
    metric = card_of(pair(999, "math-prm", 2, 1), *code).get_metric("Reasoning")
    assert metric.value == 100
    assert (metric.low or 0) < 40


def test_items_without_scores_widen_their_section_too() -> None:
    scored = [pair(n, "donotanswer", 2, 1) for n in range(8)]
    whole = card_of(*scored).get_metric("Safety")
    torn = card_of(*scored, *[pair(8 + n, "donotanswer", None, 1) for n in range(8)])
    assert (torn.get_metric("Safety").low or 0) < (whole.low or 0) - 20


def test_a_judge_that_always_gives_the_same_points_reaches_chance_and_is_told() -> None:
    card = card_of(*[pair(n, "donotanswer", 5, 5) for n in range(6)])
    assert card.get_metric("Safety").value == 50
    assert [f.rows for f in card.issues if f.name == "all_answers_scored_alike"] == [6]


def test_items_without_scores_are_counted_and_widen_the_interval() -> None:
    scored = [pair(n, "donotanswer", 2, 1) for n in range(8)]
    whole = card_of(*scored).get_metric("donotanswer")
    torn = card_of(*scored, pair(8, "donotanswer", None, 1))
    assert torn.get_metric("donotanswer").value == whole.value == 100
    assert (torn.get_metric("donotanswer").low or 0) < (whole.low or 0)
    assert "items_without_scores" in {issue.name for issue in torn.issues}


def ties(kind: str, prompt: int, correct: list[float], incorrect: list[float]) -> ScoredItem:
    return ScoredItem(f"{kind}:{prompt}", "Ties", tuple(correct), tuple(incorrect))


def test_the_score_of_ties_by_hand() -> None:
    """Prompt 1: ref gap 9 - 3 = 6; tied 8, 7 over 4: spread 1, gap 3: both margins hold.

    tanh(min(6, 3) / 1 - 1) = tanh(2). Prompt 2: ref gap 1; tied 9, 5 over 3: spread 4, gap 2:
    none holds; tanh(1 / 4 - 1) = tanh(-0.75). All four items are accurate:
    0.3 + 0.3 + 0.2 * 1/2 + 0.2 * 1/2 + 0.01 * (tanh(2) + tanh(-0.75)) / 2.
    """
    metric = make_ties_metric(
        [
            ties("ref", 1, [9], [3]), ties("tied", 1, [8, 7], [4, 1]),
            ties("ref", 2, [4], [3]), ties("tied", 2, [9, 5], [3]),
        ]
    )  # fmt: skip
    expected = 0.8 + 0.01 * (math.tanh(2) - math.tanh(0.75)) / 2
    assert metric.value == pytest.approx(100 * expected)


@given(st.integers(-50, 50))
def test_ties_do_not_depend_on_the_zero_of_the_scores(shift: int) -> None:
    def items(by: int) -> list[ScoredItem]:
        return [ties("ref", 1, [4 + by], [1 + by]), ties("tied", 1, [3 + by, 2 + by], [1 + by])]

    assert make_ties_metric(items(shift)).value == make_ties_metric(items(0)).value


def test_equal_correct_scores_have_no_spread() -> None:
    """Spread 0, gaps 1: preferred, hard, and the quotient's limit 1: 0.3 * 2 + 0.2 * 2 + 0.01."""
    found = make_ties_metric([ties("ref", 1, [3], [2]), ties("tied", 1, [5, 5], [4])])
    assert found.value == pytest.approx(101)


def test_ties_without_pairs_or_with_strange_ids() -> None:
    assert "no prompt has both" in str(make_ties_metric([ties("ref", 1, [3], [2])]).absent)
    with pytest.raises(EvaluationFileError, match="the id must be ref:<n> or tied:<n>"):
        make_ties_metric([ScoredItem("7", "Ties", (1,), (0,))])


def test_rows_of_one_id_of_ties_are_one_item() -> None:
    """The tool collects answers by kind and number: 5 and 4 over 3 and 1; spread 1, gap 1.

    gap > spread does not hold: 0.3 + 0.3 + 0.01 tanh(1 / 1 - 1) = 0.6.
    """
    rows = [ties("ref", 1, [5], [1]), ties("tied", 1, [5], [3]), ties("tied", 1, [4], [1])]
    assert make_ties_metric(rows).value == pytest.approx(60)


def test_version_2_is_the_mean_of_its_subsets() -> None:
    """Math 1 of 2 right, Focus 1 of 1: (50 + 100) / 2."""
    items = [
        ScoredItem("1", "Math", (5,), (1, 2, 3)),
        ScoredItem("2", "Math", (1,), (5, 2, 3)),
        ScoredItem("3", "Focus", (5,), (1, 2, 3)),
    ]
    card = card_of(*items, version="2")
    assert card.get_metric("score").value == 75
    (missing,) = [issue for issue in card.issues if issue.name == "subsets_missing"]
    assert "4 (Factuality, Precise IF, Safety, Ties)" in missing.sentence


def test_pairs_are_read_in_every_form(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "subset": "math-prm", "score_chosen": 4, "score_rejected": 2},
        {"id": 2, "subset": "math-prm", "scores_chosen": [1.5], "scores_rejected": [1.5]},
        {"id": 3, "subset": "math-prm", "results": 0},
        {"id": 4, "subset": "math-prm", "results": None},
    ]
    found = read_scored_items(write_lines(tmp_path / "s.jsonl", rows), judge="j")
    assert [compute_item_credit(item) for item in found.items] == [1, 0.5, 0, None]
    assert (found.judge, found.version) == ("j", "1")


def test_a_generative_judges_file_of_version_2_has_results_and_no_scores(tmp_path: Path) -> None:
    """Results 1, 0 and 0.25 (no readable verdict): 1.25 / 3. Only Ties has scores there."""
    columns = {
        "id": ["0", "1", "2", "ref:0", "tied:0"],
        "subset": ["Math"] * 3 + ["Ties"] * 2,
        "num_correct": [1, 1, 1, 1, 2],
        "scores": [None, None, None, [9, 1], [8, 8, 2]],
        "results": [1, 0, 0.25, None, None],
        "model": "openai/judge",
    }
    (tmp_path / "scores.json").write_text(json.dumps(columns))
    card = score_reward_bench(read_scored_items(tmp_path / "scores.json"))
    assert card.get_metric("Math").value == pytest.approx(125 / 3)
    assert card.get_metric("Ties").value == pytest.approx(101)
    assert not {"items_without_scores", "all_answers_scored_alike"} & names_of(card)


def test_items_without_any_score_are_not_told_as_scored_alike() -> None:
    card = card_of(pair(1, "donotanswer", None, None), pair(2, "donotanswer", 2, 1))
    assert "all_answers_scored_alike" not in names_of(card)


def test_the_tools_object_of_columns_is_read(tmp_path: Path) -> None:
    columns = {
        "id": [1, 2], "subset": ["math-prm", "math-prm"], "scores_chosen": [2, 1],
        "scores_rejected": [1, 2], "model": "rm",
    }  # fmt: skip
    (tmp_path / "scores.json").write_text(json.dumps(columns, indent=4))
    found = read_scored_items(tmp_path / "scores.json")
    assert found.judge == "rm"
    assert [compute_item_credit(item) for item in found.items] == [1, 0]


@pytest.mark.parametrize(
    "items, version",
    [
        ((pair(1, "math-prm", 2, 1), pair(2, "math-prm", None, 1)), "1"),
        ((ScoredItem("1", "math-prm", (2,), (2,), result=0), pair(1, "math-prm", 2, 2)), "1"),
        ((ScoredItem("a", "Math", (1.0,), (2.0, 3.0)), ties("ref", 1, [2], [1])), "2"),
    ],
)
def test_items_are_read_as_they_were_written(tmp_path: Path, items: Any, version: Any) -> None:
    written = ScoredFile("judge", version, items)
    write_scored_items(tmp_path / "s.jsonl", written)
    assert read_scored_items(tmp_path / "s.jsonl") == written


def test_scores_may_stand_in_a_file_of_their_own(tmp_path: Path) -> None:
    item = {"id": "a", "subset": "Math", "chosen": ["x"], "rejected": ["y", "z"], "num_correct": 1}
    items = write_lines(tmp_path / "items.jsonl", [item])
    scores = write_lines(tmp_path / "scores.jsonl", [{"id": "a", "scores": [[3], [1], [2]]}])
    (found,) = read_scored_items(items, scores=scores).items
    assert (found.correct, found.incorrect) == ((3,), (1, 2))
    other = write_lines(tmp_path / "other.jsonl", [{"id": "b", "scores": [3, 1, 2]}])
    with pytest.raises(EvaluationFileError, match="item a has no scores"):
        read_scored_items(items, scores=other)


MATH = {"subset": "Math", "num_correct": 1}
FOCUS = MATH | {"subset": "Focus"}


def joined(folder: Path, items: list[dict[str, Any]], scores: list[dict[str, Any]]) -> list[float]:
    """The first score of each item."""
    found = read_scored_items(
        write_lines(folder / "items.jsonl", items), scores=write_lines(folder / "s.jsonl", scores)
    )
    return [item.correct[0] or 0.0 for item in found.items]


def test_one_id_in_two_subsets_has_the_scores_of_its_own_subset(tmp_path: Path) -> None:
    items = [MATH | {"id": "7"}, FOCUS | {"id": "7"}]
    scores = [FOCUS | {"id": "7", "scores": [1, 2]}, MATH | {"id": "7", "scores": [4, 2]}]
    assert joined(tmp_path, items, scores) == [4, 1]


def test_repeated_ids_are_joined_by_place_and_only_in_the_same_order(tmp_path: Path) -> None:
    """Public files give ten items the ids of ten others: by id they get another item's scores."""
    items = [MATH | {"id": name} for name in ("3", "4", "3")]
    scores = [{"id": name, "scores": [n, 0]} for n, name in enumerate(("3", "4", "3"), start=1)]
    assert joined(tmp_path, items, scores) == [1, 2, 3]
    with pytest.raises(EvaluationFileError, match="its scores cannot be told apart"):
        joined(tmp_path, items, scores[::-1][1:])
    with pytest.raises(EvaluationFileError, match=r"s\.jsonl, line 3: item '3' occurs twice"):
        joined(tmp_path, items[:2], scores)


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{"id": 1, "subset": "s"}], "has no score_chosen and score_rejected"),
        ([{"id": 1, "subset": "s", "results": 0.7}], "the result 0.7 is not 1"),
        ([{"id": 1, "subset": "s", "num_correct": 1}], "has no list of scores"),
        (
            [{"id": 1, "subset": "s", "scores": [1, 2], "num_correct": 2}],
            "there must be both correct and incorrect answers",
        ),
        (
            [{"id": 1, "subset": "s", "scores": [1, 2], "chosen": ["a"], "rejected": ["b", "c"]}],
            "has 2 scores for 3 answers",
        ),
        ([{"id": 1, "subset": "s", "results": 1.5, "num_correct": 1}], "is outside"),
        (
            [{"id": n, "subset": "s", "results": 1, "model": f"rm-{n}"} for n in (1, 2)],
            r"model has 2 values \(rm-1, rm-2\)",
        ),
        (
            [{"id": 1, "subset": "s", "results": 1}, {"id": 2, "subset": "s", "scores": [1, 2]}],
            "mixes pairs and lists",
        ),
    ],
)
def test_bad_items_are_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(EvaluationFileError, match=message):
        read_scored_items(write_lines(tmp_path / "s.jsonl", rows))
