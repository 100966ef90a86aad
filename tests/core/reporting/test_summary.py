"""The summary of an iteration, read back from its files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from meta_reward_core.context import IterationContext
from meta_reward_core.evaluation.scorecard import Measurement
from meta_reward_core.iteration import STAGES
from meta_reward_core.recipes.changed_values import change_recipe
from meta_reward_core.reporting.summary import (
    NO_ACCURACY_YET,
    PARTS_NOT_LOGGED,
    Summary,
    Timing,
    drop_rounding_rows,
    summarize_iteration,
)
from meta_reward_core.storage.schemas import build_table
from meta_reward_core.storage.shards import StageOutput
from tests.core import scripted_world

ORDER = [stage.name for stage in STAGES]


@pytest.fixture
def context(tmp_path: Path) -> IterationContext:
    context = scripted_world.begin(tmp_path / "artifacts").build_context(1)
    scripted_world.run_before_training(context, scripted_world.make_scripted_resources(tmp_path))
    return context


def summarize(context: IterationContext, **more: Timing) -> Summary:
    return summarize_iteration(
        context.files, number=1, recipe=context.recipe, stages=ORDER, timings=more
    )


Figures = list[tuple[int, str, float]]

LOG: Figures = [
    (1, "learning_rate", 0.0),
    (1, "loss", 0.69),
    (1, "rewards/accuracies", 0.25),
    (1, "rewards/margins", 0.0),
    (2, "learning_rate", 0.01),
    (2, "loss", 0.69),
    (2, "rewards/accuracies", 0.5),
    (2, "rewards/margins", 0.0),
    (3, "loss", 0.4),
    (3, "rewards/accuracies", 0.75),
    (3, "rewards/margins", 0.1),
]
"""As earlier versions logged it, with the accuracies of rounding at steps 1 and 2."""


def publish_training(context: IterationContext, metrics: Figures = LOG) -> None:
    log = [{"step": step, "epoch": 1.0, "metric": m, "value": v} for step, m, v in metrics]
    work = StageOutput(
        {("training_log", 0): build_table("training_log", log)}, {"trained": 9}, "f" * 64
    )
    context.files.publish("train", 0, key="k", work=work, packages={})


def publish_truth(context: IterationContext) -> None:
    rows = [
        Measurement("M0", "judge", "single_judgment_exact", 0.3, 100, "oracle"),
        Measurement("M1", "judge", "single_judgment_exact", 0.5, 100, "oracle"),
        Measurement("M0", "judge", "mean_score", 3.0, 100, "own_data"),
    ]
    work = StageOutput({("evaluation", 0): build_table("evaluation", rows)}, {"measurements": 3})
    context.files.publish("evaluate", 0, key="k", work=work, packages={})


def test_an_unfinished_iteration_is_summed_up_as_far_as_it_goes(context: IterationContext) -> None:
    summary = summarize(context)
    assert summary["finished"] is False
    assert summary["training"] is None
    assert summary["truth"] == []
    assert [stage["stage"] for stage in summary["stages"]] == ORDER[:6]


def test_counts_are_added_over_shards(context: IterationContext) -> None:
    """20 prompts in parts of 8 make 3 shards; 5 samples a prompt make 100 completions."""
    generate = next(s for s in summarize(context)["stages"] if s["stage"] == "generate")
    assert generate["shards"] == 3
    assert generate["counts"]["completions"] == 100


def test_pairs_and_drops_are_all_prompts(context: IterationContext) -> None:
    pairs = summarize(context)["pairs"]
    assert [kind["kind"] for kind in pairs] == ["actor", "judge"]
    for kind in pairs:
        assert kind["pairs"] + sum(kind["dropped"].values()) == 20


def test_a_rate_is_that_of_the_shards_that_were_timed(context: IterationContext) -> None:
    summary = summarize(context, judge=Timing(2.0, 500), pair_actor=Timing(1.5))
    rates = {s["stage"]: (s["seconds"], s["tokens_per_second"]) for s in summary["stages"]}
    assert rates["judge"] == (2.0, 250.0)
    assert rates["pair_actor"] == (1.5, None)
    assert rates["generate"] == (None, None)


def test_a_training_is_told_from_first_to_last(context: IterationContext) -> None:
    publish_training(context)
    training = summarize(context)["training"]
    assert training["loss"] == {"first": 0.69, "last": 0.4}
    assert training["margin"] == {"first": 0.0, "last": 0.1}
    assert training["trained"] == 9


def test_an_accuracy_of_equal_rewards_is_absent_with_its_reason(context: IterationContext) -> None:
    publish_training(context)
    accuracy = summarize(context)["training"]["accuracy"]
    assert accuracy == {"first": None, "last": 0.75, "absent": NO_ACCURACY_YET}


def test_a_training_of_one_step_has_no_accuracy(context: IterationContext) -> None:
    publish_training(context, [(1, "loss", 0.69), (1, "rewards/margins", 0.0)])
    accuracy = summarize(context)["training"]["accuracy"]
    assert accuracy == {"first": None, "last": None, "absent": NO_ACCURACY_YET}


def test_an_accuracy_is_first_told_of_the_first_row_that_has_one(context: IterationContext) -> None:
    """A log of every fifth step: its first row holds steps that have moved the weights."""
    publish_training(context, [(5, "rewards/accuracies", 0.6), (5, "rewards/margins", 0.1)])
    assert summarize(context)["training"]["accuracy"] == {"first": 0.6, "last": 0.6}


def test_only_accuracies_of_equal_rewards_are_left_out_of_a_log() -> None:
    """Without a warm-up step 1 alone, with one step 2 as well."""
    accuracies = [(step, "rewards/accuracies", 0.5) for step in (1, 2, 3)]
    others = [(1, "loss", 0.7), (1, "eval_rewards/accuracies", 0.5)]
    for rate, left_out in ((0.01, 1), (0.0, 2)):
        rows = [*others, (1, "learning_rate", rate)]
        assert drop_rounding_rows([*rows, *accuracies]) == [*rows, *accuracies[left_out:]]


@pytest.mark.parametrize("sft_weight", [0.0, 1.0])
def test_a_loss_of_two_parts_is_told_in_both(context: IterationContext, sft_weight: float) -> None:
    publish_training(context)
    weighted = replace(
        context, recipe=change_recipe(context.recipe, {"training.sft_weight": sft_weight})
    )
    training = summarize(weighted)["training"]
    absent = {"first": None, "last": None, "absent": PARTS_NOT_LOGGED}
    assert training.get("loss_sft") == training.get("loss_dpo") == (absent if sft_weight else None)


def test_the_parts_of_a_loss_are_those_of_the_log(context: IterationContext) -> None:
    parts = [
        (1, "loss/dpo", 0.69),
        (1, "loss/sft", 2.0),
        (2, "loss/dpo", 0.5),
        (2, "loss/sft", 1.0),
    ]
    publish_training(context, [(1, "loss", 2.69), (2, "loss", 1.5), *parts])
    training = summarize(context)["training"]
    assert training["loss_dpo"] == {"first": 0.69, "last": 0.5}
    assert training["loss_sft"] == {"first": 2.0, "last": 1.0}


def test_the_truth_is_told_before_and_after(context: IterationContext) -> None:
    publish_truth(context)
    assert summarize(context)["truth"] == [
        {"subject": "judge", "metric": "single_judgment_exact", "before": 0.3, "after": 0.5}
    ]


def test_the_truth_of_the_earlier_model_stands_in_the_earlier_iteration(
    context: IterationContext, tmp_path: Path
) -> None:
    publish_truth(context)
    later = scripted_world.begin(tmp_path / "later").build_context(1)
    rows = [Measurement("M2", "judge", "single_judgment_exact", 0.6, 100, "oracle")]
    work = StageOutput({("evaluation", 0): build_table("evaluation", rows)})
    later.files.publish("evaluate", 0, key="k", work=work, packages={})
    summary = summarize_iteration(
        later.files, number=2, recipe=context.recipe, stages=ORDER, before=context.files
    )
    assert [(row["before"], row["after"]) for row in summary["truth"]] == [(0.5, 0.6)]


def test_a_summary_is_json(context: IterationContext) -> None:
    publish_training(context)
    publish_truth(context)
    summary = summarize(context)
    assert json.loads(json.dumps(summary)) == summary | {
        "judge": summary["judge"] | {"histogram": list(summary["judge"]["histogram"])}
    }


def test_of_nothing_there_is_a_summary_too(tmp_path: Path) -> None:
    context = scripted_world.begin(tmp_path / "artifacts").build_context(1)
    summary = summarize(context)
    assert summary["stages"] == []
    assert summary["pairs"] == []
    assert summary["alarms"] == []
