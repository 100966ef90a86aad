"""What a person sees, with a terminal and without one."""

import io
from dataclasses import replace
from pathlib import Path

import pytest

from meta_reward_core.cli import terminal as console_module
from meta_reward_core.cli.callbacks import CallbackList
from meta_reward_core.cli.terminal import (
    ConsoleCallback,
    estimate_shard_calls,
    make_console,
    print_plan,
    print_summary,
)
from meta_reward_core.context import IterationContext
from meta_reward_core.errors import EngineError
from meta_reward_core.iteration import STAGES
from meta_reward_core.planning.cost_estimate import MeasuredThroughput, plan_iteration
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.reporting.summary import NO_ACCURACY_YET, summarize_iteration
from meta_reward_core.storage.shards import ShardManifest
from tests.core import scripted_world

SAMPLE, GENERATE, JUDGE = STAGES[0], STAGES[1], STAGES[2]
META_JUDGE, TRAIN = STAGES[4], STAGES[6]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def context(tmp_path: Path) -> IterationContext:
    return scripted_world.begin(tmp_path / "artifacts").build_context(1)


def manifest(**counts: int) -> ShardManifest:
    return ShardManifest("generate", 0, "key", (), counts, None, {})


def test_a_stage_is_told_in_plain_lines(context: IterationContext) -> None:
    stream = io.StringIO()
    ledger = ConsoleCallback(make_console(stream), context)
    with ledger.show():
        ledger.plan_stage(GENERATE, 2)
        ledger.reuse_shard(GENERATE, 0, manifest(tokens=5))
        ledger.start_shard(GENERATE, 1)
        ledger.report(GENERATE, 1, 3, 30)
        ledger.finish_shard(GENERATE, 1, manifest(tokens=100), seconds=2.0)
        ledger.finish_stage(GENERATE)
        ledger.skip_stage(META_JUDGE)
    lines = stream.getvalue().splitlines()
    assert lines[0].split() == f"generate {GENERATE.title}: 2 shards".split()
    assert "2.0 s; 100 tokens, 50/s; 1 of 2 shards finished before" in lines[1]
    assert "not scheduled" in lines[2]
    assert ledger.shards_run == 1
    assert ledger.timings["generate"].seconds == 2.0


@pytest.mark.parametrize("planned", [1, 2])
def test_an_iteration_that_the_recipe_does_not_plan_is_told_of(
    tmp_path: Path, planned: int
) -> None:
    stream = io.StringIO()
    context = replace(scripted_world.begin(tmp_path, iterations=planned).build_context(1), number=2)
    with ConsoleCallback(make_console(stream), context).show():
        pass
    said = "the recipe plans 1 iteration: iteration 2" in " ".join(stream.getvalue().split())
    assert said is (planned == 1)


def test_a_long_shard_is_told_of_with_rate_and_time_left(
    context: IterationContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 8 prompts x 5 samples 10 are drawn in 20 s: a quarter of shard 1 of 2, 140 s left."""
    now = [100.0]
    monkeypatch.setattr(console_module.time, "monotonic", lambda: now[0])  # type: ignore[attr-defined]
    SAMPLE.run_shard(context, 0, scripted_world.make_scripted_resources(Path("unused")))
    stream = io.StringIO()
    ledger = ConsoleCallback(make_console(stream), context)
    ledger.plan_stage(GENERATE, 2)
    ledger.start_shard(GENERATE, 0)
    now[0] += 20.0
    ledger.report(GENERATE, 0, 10, 400)
    ledger.report(GENERATE, 0, 11, 440)  # too soon after
    told = stream.getvalue().splitlines()[1:]
    assert [line.split() for line in told] == [
        ["generate", "12%,", "400", "tokens,", "20/s,", "about", "2", "min", "20", "s", "left"]
    ]


def test_stages_that_run_at_the_same_time_have_a_bar_each(context: IterationContext) -> None:
    SAMPLE.run_shard(context, 0, scripted_world.make_scripted_resources(Path("unused")))
    stream = Terminal()
    ledger = ConsoleCallback(make_console(stream), context)
    with ledger.show():
        ledger.plan_stage(GENERATE, 2)
        ledger.plan_stage(JUDGE, 2)
        ledger.start_shard(GENERATE, 0)
        ledger.start_shard(GENERATE, 1)
        ledger.report(GENERATE, 0, 10, 400)
        ledger.report(GENERATE, 1, 10, 400)
        ledger.finish_shard(GENERATE, 0, manifest(tokens=100), seconds=2.0)
        ledger.start_shard(JUDGE, 0)
        ledger.finish_shard(GENERATE, 1, manifest(tokens=100), seconds=2.0)
        ledger.finish_stage(GENERATE)
        ledger.stop_stage(JUDGE)
    shown = stream.getvalue()
    assert "4.0 s of 2 engines together; 200 tokens, 50/s each" in shown
    assert shown.count(JUDGE.title) > 0
    assert shown.rindex(JUDGE.title) > shown.rindex(GENERATE.title)


def test_a_training_is_told_by_its_steps(
    context: IterationContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epoch 5 of 10 after 30 s: 30 s are left."""
    now = [100.0]
    monkeypatch.setattr("meta_reward_core.cli.terminal.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    ledger = ConsoleCallback(make_console(stream), context)
    ledger.plan_stage(TRAIN, 1)
    ledger.start_shard(TRAIN, 0)
    now[0] += 30.0
    ledger.log(TRAIN, 0, {"step": 3.0, "epoch": 5.0, "loss": 0.5, "rewards/accuracies": 0.75})
    told = stream.getvalue().splitlines()[-1]
    expected = "train 50%, step 3, loss 0.500, accuracy 0.750, about 30 s left"
    assert told.split() == expected.split()


def test_a_terminal_shows_a_bar_that_goes_away(context: IterationContext) -> None:
    stream = Terminal()
    ledger = ConsoleCallback(make_console(stream), context)
    with ledger.show():
        ledger.plan_stage(TRAIN, 1)
        ledger.start_shard(TRAIN, 0)
        ledger.log(TRAIN, 0, {"step": 3.0, "epoch": 5.0, "loss": 0.5, "rewards/accuracies": 0.75})
        ledger.finish_shard(TRAIN, 0, manifest(), seconds=1.0)
        ledger.finish_stage(TRAIN)
    shown = stream.getvalue()
    assert shown.rindex("done") > shown.rindex(TRAIN.title)


def test_an_interrupted_terminal_is_left_clean(context: IterationContext) -> None:
    stream = Terminal()
    ledger = ConsoleCallback(make_console(stream), context)
    with ledger.show():
        ledger.plan_stage(JUDGE, 1)
        ledger.start_shard(JUDGE, 0)
        ledger.stop_shard(JUDGE, 0, "KeyboardInterrupt")
    after_the_bar = stream.getvalue().rpartition("\x1b[2K")[2]
    assert after_the_bar.strip() == "\x1b[?25h"  # the line is empty, the cursor is back


def test_every_watcher_is_told_everything(context: IterationContext) -> None:
    streams = [io.StringIO(), io.StringIO()]
    ledger = CallbackList(*(ConsoleCallback(make_console(stream), context) for stream in streams))
    ledger.skip_stage(META_JUDGE)
    ledger.plan_stage(GENERATE, 2)
    ledger.reuse_shard(GENERATE, 0, manifest())
    ledger.start_shard(GENERATE, 1)
    ledger.report(GENERATE, 1, 1, 1)
    ledger.log(GENERATE, 1, {"step": 1.0})
    ledger.retry_shard(GENERATE, 1, EngineError("killed\nlast lines"))
    ledger.finish_shard(GENERATE, 1, manifest(), seconds=1.0)
    ledger.fail_shard(GENERATE, 1, EngineError("killed"))
    ledger.stop_shard(GENERATE, 1, "KeyboardInterrupt")
    ledger.finish_stage(GENERATE)
    first, second = (stream.getvalue() for stream in streams)
    assert first == second != ""
    assert "shard 1 failed and runs again: killed\n" in first


def test_calls_are_known_once_the_inputs_are(context: IterationContext, tmp_path: Path) -> None:
    """Parts of 8 prompts, 5 samples; distinct responses x 6 judgments; 8 x 6 x 5 battles."""
    assert estimate_shard_calls(context, "generate", 0) is None
    scripted_world.run_before_training(context, scripted_world.make_scripted_resources(tmp_path))
    assert estimate_shard_calls(context, "generate", 0) == 40
    assert (
        estimate_shard_calls(context, "judge", 0) == 6 * context.files.read("responses", 0).num_rows
    )
    assert estimate_shard_calls(context, "meta_judge", 2) == 4 * 6 * 5
    assert estimate_shard_calls(context, "train", 0) is None


def test_a_summary_is_shown_as_tables(context: IterationContext, tmp_path: Path) -> None:
    scripted_world.run_before_training(context, scripted_world.make_scripted_resources(tmp_path))
    summary = summarize_iteration(
        context.files, number=1, recipe=context.recipe, stages=[stage.name for stage in STAGES]
    )
    summary["stages"][2]["counts"]["unscored"] = 3
    summary |= {
        "training": {
            "trained": 30,
            "loss": {"first": 0.7, "last": 0.1},
            "loss_sft": {"first": 0.25, "last": 0.05},
            "accuracy": {"first": None, "last": 0.875, "absent": NO_ACCURACY_YET},
        },
        "truth": [{"subject": "judge", "metric": "spearman", "before": None, "after": 0.5}],
        "alarms": [{"name": "x", "sentence": "[bold]odd[/bold]", "advice": "look"}],
    }
    stream = io.StringIO()
    print_summary(make_console(stream), summary)
    shown = stream.getvalue()
    for expected in (
        "(not finished)",
        "responses (",
        "battles",
        "3 unscored",
        "0.1000",
        "loss, SFT part",
        "0.8750",
        "There is no accuracy before the weights have changed",
        "spearman",
        "0.500",
    ):
        assert expected in shown
    assert "[bold]odd[/bold]" in shown  # texts are shown as they are


def test_a_plan_says_what_is_an_upper_bound() -> None:
    stream = io.StringIO()
    recipe = Recipe(name="paper")
    print_plan(make_console(stream), plan_iteration(recipe, 1), title="paper")
    shown = stream.getvalue()
    assert "at most 385,000" in shown
    assert "550,000" in shown
    assert " h " in shown
    assert "training of this model has not been measured" in " ".join(shown.split())


def test_a_plan_with_a_measured_training_includes_it() -> None:
    stream = io.StringIO()
    plan = plan_iteration(
        Recipe(name="paper"), 1, measured=MeasuredThroughput("x", seconds_per_row=1.0)
    )
    print_plan(make_console(stream), plan, title="paper")
    assert "training included" in stream.getvalue()
    assert "not estimated" not in stream.getvalue()
