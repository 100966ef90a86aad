"""Entropy of scores, and metrics of shuffled scores."""

import math
import random
from dataclasses import replace

import pytest

from meta_reward_core.evaluation.judge_agreement import measure_agreement
from meta_reward_core.evaluation.ratings_io import Ratings
from meta_reward_core.evaluation.score_baselines import measure_score_entropy
from meta_reward_core.storage.records import Judgment
from meta_reward_core.tasks.labelled_pairs.benchmark import measure_baselines
from meta_reward_core.tasks.protocol import BenchmarkItem


def test_entropy_of_whole_scores_by_hand() -> None:
    four_kinds = {f"p{number}": [1.0, 2.4, 3.5, 0.0] for number in range(40)}
    metric = measure_score_entropy(four_kinds)
    assert metric.value == pytest.approx(2.0)
    assert metric.count == 160
    same = measure_score_entropy({f"p{number}": [5.0] for number in range(40)})
    assert same.value == same.low == 0.0
    assert same.high == pytest.approx(_compute_entropy(40 / 41))
    assert measure_score_entropy({"p": []}).absent == "no scores to compute this metric from"


def test_intervals_of_entropy_hold_the_true_one() -> None:
    rng = random.Random(1)
    truth = _compute_entropy(0.3)
    held = 0
    for _ in range(60):
        sampled = {f"p{n}": [float(rng.random() < 0.3)] for n in range(150)}
        metric = measure_score_entropy(sampled)
        held += (metric.low or 0.0) <= truth <= (metric.high or 0.0)
    assert held >= 50


def test_shuffled_scores_of_pairs_get_half_and_a_range_as_wide_as_chance() -> None:
    items = [
        BenchmarkItem(f"x/{n}", f"prompt {n}", {"outputs": ["a", "b"], "better": 0, "subset": "x"})
        for n in range(100)
    ]
    rng = random.Random(2)
    judgments = [
        Judgment(
            prompt_id=item.item_id, response_id=f"{item.item_id}.{side}", judgment_id=f"{side}",
            sample=0, text="", score=4.0 * (side == 0) + rng.random(), unscored_reason=None,
            tokens=1, finish_reason="stop", readout="free", token_ids=None,
        )
        for item in items for side in (0, 1)
    ]  # fmt: skip
    entropy, shuffled = measure_baselines(items, judgments)
    assert entropy.name == "score_entropy"
    assert shuffled.name == "judge_accuracy_of_shuffled_scores"
    assert shuffled.value == pytest.approx(0.5, abs=0.01)
    # Of 100 fair coins 95% lie within 0.5 -+ 1.96 * 0.05.
    assert shuffled.low == pytest.approx(0.402, abs=0.02)
    assert shuffled.high == pytest.approx(0.598, abs=0.02)
    unscored = [replace(judgment, score=None) for judgment in judgments]
    assert [metric.value for metric in measure_baselines(items, unscored)] == [None, None]


def test_shuffled_scores_of_a_judge_have_no_correlation_with_the_reference() -> None:
    keys = [(f"p{n}", side) for n in range(60) for side in "ab"]
    rng = random.Random(3)
    truth = {key: [rng.random()] for key in keys}
    card = measure_agreement(
        Ratings("judge", truth, {}, 0, has_scale=False),
        Ratings("people", truth, {}, 0, has_scale=False),
    )
    assert card.get_metric("spearman").value == pytest.approx(1)
    shuffled = card.get_metric("spearman_of_shuffled_scores")
    assert shuffled.value == pytest.approx(0, abs=0.01)
    # The standard deviation of a rank correlation by chance is 1 / sqrt(n - 1).
    assert shuffled.high == pytest.approx(1.96 / math.sqrt(119), abs=0.02)
    assert card.get_metric("agreement_of_shuffled_scores").value == pytest.approx(50, abs=1)


def _compute_entropy(share: float) -> float:
    return -(share * math.log2(share) + (1 - share) * math.log2(1 - share))
