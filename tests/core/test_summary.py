"""The summary of an iteration, read back from its files."""

import json
from pathlib import Path

import pytest

from meta_reward_core.context import IterationContext
from meta_reward_core.evaluation.records import Measurement
from meta_reward_core.iteration import STAGES
from meta_reward_core.shards import Work
from meta_reward_core.summary import Summary, Timing, summarize_iteration
from meta_reward_core.tables import table_of
from tests.core import scripted_world

ORDER = [stage.name for stage in STAGES]


@pytest.fixture
def context(tmp_path: Path) -> IterationContext:
    context = scripted_world.begin(tmp_path / "artifacts").context(1)
    scripted_world.run_before_training(context, scripted_world.scripted_tools(tmp_path))
    return context


def summarize(context: IterationContext, **more: Timing) -> Summary:
    return summarize_iteration(
        context.files, number=1, recipe=context.recipe, stages=ORDER, timings=more
    )


def publish_training(context: IterationContext) -> None:
    figures = [(1, "loss", 0.69), (1, "rewards/margins", 0.0), (2, "loss", 0.5), (3, "loss", 0.4)]
    log = [{"step": step, "epoch": 1.0, "metric": m, "value": v} for step, m, v in figures]
    work = Work({("training_log", 0): table_of("training_log", log)}, {"trained": 9}, "f" * 64)
    context.files.publish("train", 0, key="k", work=work, packages={})


def publish_truth(context: IterationContext) -> None:
    rows = [
        Measurement("M0", "judge", "single_judgment_exact", 0.3, 100, "oracle"),
        Measurement("M1", "judge", "single_judgment_exact", 0.5, 100, "oracle"),
        Measurement("M0", "judge", "mean_score", 3.0, 100, "own_data"),
    ]
    work = Work({("evaluation", 0): table_of("evaluation", rows)}, {"measurements": 3})
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
    assert training["margin"] == {"first": 0.0, "last": 0.0}
    assert "accuracy" not in training
    assert training["trained"] == 9


def test_the_truth_is_told_before_and_after(context: IterationContext) -> None:
    publish_truth(context)
    assert summarize(context)["truth"] == [
        {"subject": "judge", "metric": "single_judgment_exact", "before": 0.3, "after": 0.5}
    ]


def test_the_truth_of_the_earlier_model_stands_in_the_earlier_iteration(
    context: IterationContext, tmp_path: Path
) -> None:
    publish_truth(context)
    later = scripted_world.begin(tmp_path / "later").context(1)
    rows = [Measurement("M2", "judge", "single_judgment_exact", 0.6, 100, "oracle")]
    work = Work({("evaluation", 0): table_of("evaluation", rows)})
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
    context = scripted_world.begin(tmp_path / "artifacts").context(1)
    summary = summarize(context)
    assert summary["stages"] == []
    assert summary["pairs"] == []
    assert summary["alarms"] == []
