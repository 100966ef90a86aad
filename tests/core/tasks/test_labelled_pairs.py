"""Pairs that people labelled: what a judge of known quality is measured to be."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meta_reward_core.context import PromptTemplates
from meta_reward_core.engines.base import Conversation, SamplingParams
from meta_reward_core.engines.scripted import Reply, ScriptedEngine
from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.evaluation.scorecard import Scorecard
from meta_reward_core.recipes.prompt_templates import PromptTemplate
from meta_reward_core.tasks.labelled_pairs.benchmark import LabelledPairs, read_labelled_pairs
from meta_reward_core.tasks.protocol import BenchmarkItem, BenchmarkRequest

TEMPLATES = PromptTemplates(
    judge=PromptTemplate("judge", "JUDGE {instruction}\n===\n{response}"),
    meta_judge=PromptTemplate("meta", "{instruction}{response}{judgment_a}{judgment_b}"),
    rubric="r",
)
Value = Callable[[str, int, bool], float | None]
"""(an output, the seed, whether it stands first) -> its worth to a judge; None: it says nothing"""


def make_pairs(count: int) -> list[dict[str, Any]]:
    """Of every second pair the better output is the longer one; labels alternate in threes."""
    rows = []
    for number in range(count):
        good = f"good {number}" + " word word word" * (number % 2)
        bad = f"bad {number} and more"
        label = 1 + (number // 3) % 2
        first, second = (good, bad) if label == 1 else (bad, good)
        rows.append(
            {"input": f"prompt {number}?", "output_1": first, "output_2": second, "label": label}
        )
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def items(tmp_path: Path) -> list[BenchmarkItem]:
    return read_labelled_pairs(write(tmp_path / "pairs.json", make_pairs(60)))


def make_judge(value: Value) -> Callable[[Conversation, int, int], Reply]:
    def script(conversation: Conversation, sample: int, seed: int) -> Reply:
        asked = conversation[-1]["content"]
        if asked.startswith("JUDGE"):
            worth = value(asked.partition("\n===\n")[2], seed + sample, True)
            return "I cannot say." if worth is None else f"Because.\nScore: {worth:g}"
        first = asked.partition("<answer_A>\n")[2].partition("\n</answer_A>")[0]
        second = asked.partition("<answer_B>\n")[2].partition("\n</answer_B>")[0]
        worths = value(first, seed, True), value(second, seed, False)
        if worths[0] is None or worths[1] is None:
            return "I cannot say."
        better = "tie" if worths[0] == worths[1] else "A" if worths[0] > worths[1] else "B"
        return f"Because.\nBetter: {better}"

    return script


def measure(items: list[BenchmarkItem], value: Value) -> Scorecard:
    sampling = SamplingParams(0.8, 0.95, 10_000)
    request = BenchmarkRequest(
        engine=ScriptedEngine(make_judge(value)),
        model="M1",
        actor=sampling,
        judge=sampling,
        meta_judge=sampling,
        judgments=3,
        score_readout="free",
        templates=TEMPLATES,
        max_score=5.0,
        system_prompt=None,
        seed=1,
    )
    benchmark = LabelledPairs()
    return benchmark.score(benchmark.evaluate(request, items), model="M1")


def read_values(card: Scorecard) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in card.metrics}


def test_a_perfect_judge_is_always_right(items: list[BenchmarkItem]) -> None:
    found = read_values(measure(items, lambda output, seed, first: 5 if "good" in output else 1))
    assert found["judge_accuracy"] == found["comparison_accuracy"] == 1
    assert found["comparison_consistent"] == found["judge_scored"] == found["comparison_read"] == 1
    assert found["judge_ties"] == 0
    assert found["comparison_prefers_first"] == 0.5
    assert found["judge_prefers_longer"] == 0.5


def test_one_that_prefers_the_worse_is_never_right(items: list[BenchmarkItem]) -> None:
    found = read_values(measure(items, lambda output, seed, first: 1 if "good" in output else 5))
    assert found["judge_accuracy"] == found["comparison_accuracy"] == 0


def test_a_coin_is_right_half_of_the_time(items: list[BenchmarkItem]) -> None:
    card = measure(
        items, lambda output, seed, first: random.Random(f"{output} {seed}").randint(0, 5)
    )
    for name in ("judge_accuracy", "comparison_accuracy"):
        metric = card.get_metric(name)
        assert metric.low is not None
        assert metric.high is not None
        assert metric.low <= 0.5 <= metric.high
        assert metric.high - metric.low < 0.3


def test_equal_scores_count_half_and_stay_out_of_the_figure_without_ties(
    items: list[BenchmarkItem],
) -> None:
    card = measure(items, lambda output, seed, first: 3)
    found = read_values(card)
    assert found["judge_accuracy"] == found["comparison_accuracy"] == 0.5
    assert found["judge_ties"] == found["comparison_consistent"] == 1
    without = card.get_metric("judge_accuracy_without_ties")
    assert (without.value, without.count) == (None, 0)
    assert without.absent


def test_a_judge_of_length_alone_is_seen_as_one(items: list[BenchmarkItem]) -> None:
    found = read_values(measure(items, lambda output, seed, first: len(output) / 10))
    assert found["judge_prefers_longer"] == 1
    assert found["judge_accuracy"] == found["comparison_accuracy"] == 0.5


def test_a_model_that_prefers_the_first_is_seen_as_one(items: list[BenchmarkItem]) -> None:
    found = read_values(measure(items, lambda output, seed, first: 5 if first else 1))
    assert found["comparison_prefers_first"] == 1
    assert found["comparison_accuracy_better_first"] == 1
    assert found["comparison_accuracy_better_second"] == 0
    assert found["comparison_accuracy"] == 0.5
    assert found["comparison_consistent"] == 0


def test_what_cannot_be_read_is_in_no_mean_and_widens_the_interval(
    items: list[BenchmarkItem],
) -> None:
    """Half of the pairs are silent about the better output: right in the other half."""

    def half_silent(output: str, seed: int, first: bool) -> float | None:
        number = int(output.split()[1])
        return None if number % 2 and "good" in output else 5 if "good" in output else 1

    card = measure(items, half_silent)
    for name in ("judge_accuracy", "comparison_accuracy"):
        metric = card.get_metric(name)
        assert (metric.value, metric.count) == (1, 30)
        assert metric.low is not None
        assert metric.low < 0.5
    assert card.get_metric("judge_scored").value == card.get_metric("comparison_read").value == 0.5
    assert {issue.name: issue.rows for issue in card.issues} == {
        "pairs_unscored": 30,
        "comparisons_unread": 30,
    }


def test_files_of_a_folder_are_subsets(tmp_path: Path) -> None:
    rows = make_pairs(12)
    write(tmp_path / "easy.json", rows[:6])
    write(tmp_path / "hard.json", rows[6:])
    (tmp_path / "notes.txt").write_text("not data")
    found = read_labelled_pairs(tmp_path)
    assert [item.item_id for item in found][5:7] == ["easy/6", "hard/1"]
    perfect_on_easy = measure(
        found,
        lambda output, seed, first: 5 if ("good" in output) == (int(output.split()[1]) < 6) else 1,
    )
    values = read_values(perfect_on_easy)
    assert (values["judge_accuracy.easy"], values["judge_accuracy.hard"]) == (1, 0)
    assert (values["comparison_accuracy.easy"], values["comparison_accuracy.hard"]) == (1, 0)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"label": 0}, "label must be 1 or 2"),
        ({"label": True}, "label must be 1 or 2"),
        ({"output_2": None}, "has no output_2"),
        ({"output_2": "good 0", "output_1": "good 0"}, "both outputs have the same text"),
    ],
)
def test_a_row_that_is_no_labelled_pair_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = write(tmp_path / "pairs.json", [make_pairs(1)[0] | changes])
    with pytest.raises(EvaluationFileError, match=words):
        read_labelled_pairs(path)


def test_a_folder_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationFileError, match="contains no file of pairs"):
        read_labelled_pairs(tmp_path)
