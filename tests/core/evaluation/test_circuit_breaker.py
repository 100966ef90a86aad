"""A stage whose replies are of no use stops after the shard that shows it, and can go on."""

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

from meta_reward_core.cli.callbacks import CallbackList
from meta_reward_core.engines.base import Conversation
from meta_reward_core.engines.scripted import Reply, Script, make_fake_reply
from meta_reward_core.errors import NeedsAttentionError
from meta_reward_core.evaluation.circuit_breaker import accept_findings, list_breakers
from meta_reward_core.experiment import Experiment
from meta_reward_core.iteration import STAGES
from meta_reward_core.planning.settings_change import (
    change_settings,
    plan_settings_change,
)
from meta_reward_core.recipes.settings_history import read_settings
from meta_reward_core.reporting.summary import (
    describe_refusals,
    summarize_iteration,
    summarize_refusals,
)
from meta_reward_core.runner import run_iteration
from meta_reward_core.storage.records import Prompt
from meta_reward_core.storage.schemas import to_records
from meta_reward_core.storage.shards import IterationFiles, ShardManifest
from tests.core.scripted_world import (
    begin,
    build_changed_recipe,
    make_scripted_resources,
    train_on_nothing,
)

SETTINGS: Final[dict[str, Any]] = {
    "sample": {"prompts": 80},
    "actor": {"samples": 3},
    "judge": {"samples": 4},
    "probe": {"prompts": 0},
}
UNREADABLE: Final = "It is a nice answer."
Rewrite = Callable[[str], Reply]


def start(root: Path, **changes: Any) -> Experiment:
    """Ten shards of eight prompts, drawn."""
    experiment = begin(root, prompts=90, **SETTINGS | changes)
    STAGES[0].run_shard(experiment.build_context(1), 0, make_scripted_resources(root))
    return experiment


def break_from(experiment: Experiment, shard: int, rewrite: Rewrite, *, mark: str) -> Script:
    """Rewrite replies with a mark about the prompts of a shard and all after it."""
    files = experiment.get_files(1)
    bad = [
        prompt.text
        for part in files.list_partition_numbers("prompts")
        if part >= shard
        for prompt in to_records(files.read("prompts", part), Prompt)
    ]

    def reply(conversation: Conversation, sample: int, seed: int) -> Reply:
        usual = make_fake_reply(conversation, sample, seed)
        asked = conversation[-1]["content"]
        lines = set(asked.splitlines())
        is_bad = any(prompt in lines or prompt in asked.split(": ") for prompt in bad)
        return rewrite(usual) if mark in usual and is_bad else usual

    return reply


def break_judge(experiment: Experiment) -> Script:
    return break_from(experiment, 2, lambda _: UNREADABLE, mark="\nScore:")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Experiment, Script], None]:
    """Run an iteration as commands do, with a training that learns nothing."""
    fake = SimpleNamespace(train_dpo=train_on_nothing)
    monkeypatch.setitem(sys.modules, "meta_reward_core.training.dpo", fake)

    def run_first(experiment: Experiment, script: Script) -> None:
        scratch = Path(experiment.store.root).with_name("scratch")
        resources = make_scripted_resources(scratch, script)
        run_iteration(experiment.build_context(1), resources, CallbackList())

    return run_first


Run = Callable[[Experiment, Script], None]


def list_made(experiment: Experiment) -> dict[str, int]:
    return experiment.get_files(1).count_finished_shards()


def hash_results(experiment: Experiment) -> dict[str, Any]:
    """Hashes of all tables and of the checkpoint."""
    manifests = experiment.get_files(1).list_manifests()
    parts = {part.path: part.sha256 for made in manifests for part in made.parts}
    return parts | {"checkpoint": experiment.get_files(1).get_checkpoint_sha256()}


def change_setting(experiment: Experiment, change: str) -> Experiment:
    """Change a setting as commands do; what reads it opens the experiment anew."""
    files = experiment.paths
    plan = plan_settings_change(files, build_changed_recipe(files, [change]), apply="now")
    assert plan is not None
    change_settings(files, plan)
    history = read_settings(files, files.require_description())
    return replace(experiment, recipe=history.get_recipe(), settings=history)


def test_a_judge_that_turns_bad_in_the_third_of_ten_shards_stops_there(
    tmp_path: Path, run: Run
) -> None:
    experiment = start(tmp_path / "a")
    with pytest.raises(NeedsAttentionError) as stopped:
        run(experiment, break_judge(experiment))
    assert list_made(experiment) == {"sample": 1, "generate": 10, "judge": 3}
    text = str(stopped.value)
    assert text.startswith("Shard 2 of stage judge stopped the run")
    assert "the model does not know the reply format" in text
    assert "--accept-probe" in text


def test_resuming_alone_judges_nothing_more(tmp_path: Path, run: Run) -> None:
    experiment = start(tmp_path / "a")
    for _ in range(2):
        with pytest.raises(NeedsAttentionError):
            run(experiment, break_judge(experiment))
        assert list_made(experiment)["judge"] == 3


def test_continued_after_a_change_of_the_limit_it_ends_equal_to_a_run_that_had_it(
    tmp_path: Path, run: Run
) -> None:
    stopped = start(tmp_path / "stopped")
    with pytest.raises(NeedsAttentionError):
        run(stopped, break_judge(stopped))
    stopped = change_setting(stopped, "probe.min_readable_share=0")
    run(stopped, break_judge(stopped))
    straight = start(tmp_path / "straight", probe={"prompts": 0, "min_readable_share": 0})
    run(straight, break_judge(straight))
    assert list_made(stopped)["judge"] == 10
    assert hash_results(stopped) == hash_results(straight)


def test_a_judge_whose_token_limit_is_raised_judges_again_and_ends_equal(
    tmp_path: Path, run: Run
) -> None:
    def cut_off(experiment: Experiment) -> Script:
        if experiment.build_context(1).recipe.judge.max_new_tokens > 500:
            return make_fake_reply
        return break_from(experiment, 2, lambda _: ("It begins", "length"), mark="\nScore:")

    stopped = start(tmp_path / "stopped", judge={"samples": 4, "max_new_tokens": 500})
    with pytest.raises(NeedsAttentionError, match=r"Raise judge.max_new_tokens \(now 500\)"):
        run(stopped, cut_off(stopped))
    stopped = change_setting(stopped, "judge.max_new_tokens=900")
    run(stopped, cut_off(stopped))
    straight = start(tmp_path / "straight", judge={"samples": 4, "max_new_tokens": 900})
    run(straight, cut_off(straight))
    assert hash_results(stopped) == hash_results(straight)


def test_who_continues_is_recorded_and_only_another_cause_stops_it_again(
    tmp_path: Path, run: Run
) -> None:
    experiment = start(tmp_path / "a")
    with pytest.raises(NeedsAttentionError):
        run(experiment, break_judge(experiment))
    assert accept_findings(experiment.build_context(1), by="alice")
    assert not accept_findings(experiment.build_context(1), by="bob"), "nothing is left to accept"
    constant = break_from(experiment, 6, lambda _: "Well.\nScore: 4", mark="\nScore:")
    with pytest.raises(NeedsAttentionError, match=r"Shard 6 of stage judge.*\n.*same score: 4"):
        run(experiment, constant)
    assert accept_findings(experiment.build_context(1), by="bob")
    run(experiment, constant)
    assert list_made(experiment)["judge"] == 10
    accepted = experiment.get_files(1).read_note("breakers/accepted.json")
    assert accepted == {"wrong_format": "alice", "constant_judge": "bob"}


@pytest.mark.parametrize(
    ("mark", "rewrite", "stage", "expected"),
    [
        ("\nWinner:", lambda _: UNREADABLE, "meta_judge", "of the verdicts are readable"),
        ("\nScore:", lambda text: (f"{text}\nUser:", "length"), "judge", "Check the end token"),
        ("\nScore:", lambda _: ("too long", "refused"), "judge", "judge's prompts were refused"),
    ],
)
def test_each_fault_of_judge_and_meta_judge_is_named(
    tmp_path: Path, run: Run, mark: str, rewrite: Rewrite, stage: str, expected: str
) -> None:
    experiment = start(tmp_path / "a")
    with pytest.raises(NeedsAttentionError, match=expected) as stopped:
        run(experiment, break_from(experiment, 2, rewrite, mark=mark))
    assert f"Shard 2 of stage {stage} stopped the run" in str(stopped.value)
    assert "Raise" not in str(stopped.value), "a higher limit is not the remedy"
    assert list_made(experiment)[stage] == 3


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (("It begins", "length"), "Raise actor.max_new_tokens"),
        (("Yes.\nUser:\nWhat else?", "length"), "Check the end token"),
        (("too long", "refused"), "actor's prompts were refused"),
    ],
)
def test_each_fault_of_the_actor_is_named(
    tmp_path: Path, run: Run, reply: tuple[Any, Any], expected: str
) -> None:
    """Every answer differs: identical ones are one."""

    def script(conversation: Conversation, sample: int, seed: int) -> Reply:
        usual = make_fake_reply(conversation, sample, seed)
        is_judged = "\nScore:" in usual or "\nWinner:" in usual
        return usual if is_judged else (f"{sample} {reply[0]}", reply[1])

    experiment = start(tmp_path / "a", actor={"samples": 7})
    with pytest.raises(NeedsAttentionError, match=expected):
        run(experiment, script)
    assert list_made(experiment)["generate"] < 10


def test_a_few_bad_replies_and_a_switched_off_check_stop_nothing(tmp_path: Path, run: Run) -> None:
    def half(conversation: Conversation, sample: int, seed: int) -> Reply:
        usual = make_fake_reply(conversation, sample, seed)
        return UNREADABLE if "\nScore:" in usual and sample == 0 else usual

    run(start(tmp_path / "a"), half)
    off = start(tmp_path / "b", probe={"prompts": 0, "check_shards": False})
    run(off, break_judge(off))
    assert list_breakers(off.get_files(1)) == []
    assert list_made(off)["judge"] == 10


def test_small_shards_are_measured_together(tmp_path: Path, run: Run) -> None:
    """Two prompts a shard are too few: a fault is certain after eight prompts."""
    experiment = start(tmp_path / "a", prompts_per_shard=2, sample={"prompts": 20})
    script = break_from(experiment, 0, lambda _: UNREADABLE, mark="\nScore:")
    with pytest.raises(NeedsAttentionError, match="Shard 3 of stage judge"):
        run(experiment, script)
    assert list_made(experiment)["judge"] == 4


def test_a_small_stage_of_which_nothing_can_be_read_stops_when_it_is_finished(
    tmp_path: Path, run: Run
) -> None:
    """Six battles of two prompts: too few to stop early, and all that there will be."""
    changes = {"sample": {"prompts": 2}, "prompts_per_shard": 1, "judge": {"samples": 3}}
    experiment = start(tmp_path / "a", **changes)
    script = break_from(experiment, 0, lambda _: UNREADABLE, mark="\nWinner:")
    with pytest.raises(NeedsAttentionError, match="Shard 1 of stage meta_judge"):
        run(experiment, script)


def test_workers_that_finish_the_last_shards_together_measure_the_whole_stage(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both measure before either publishes: each has too few judgments alone."""
    experiment = start(tmp_path / "a", sample={"prompts": 8}, prompts_per_shard=4)
    script = break_from(experiment, 0, lambda _: UNREADABLE, mark="\nScore:")
    for shard in (0, 1):
        resources = make_scripted_resources(tmp_path / "actor", script)
        STAGES[1].run_shard(experiment.build_context(1), shard, resources)
    both_measured = threading.Barrier(2)
    publish = IterationFiles.publish

    def publish_together(self: IterationFiles, *args: Any, **options: Any) -> ShardManifest:
        both_measured.wait(60)
        return publish(self, *args, **options)

    monkeypatch.setattr(IterationFiles, "publish", publish_together)

    def judge(shard: int) -> None:
        resources = make_scripted_resources(tmp_path / f"worker-{shard}", script)
        STAGES[2].run_shard(experiment.build_context(1), shard, resources)

    with ThreadPoolExecutor(2) as workers:
        list(workers.map(judge, (0, 1)))
    [note] = list_breakers(experiment.get_files(1))
    assert (note.stage, note.prompts) == ("judge", 8)
    with pytest.raises(NeedsAttentionError, match="of stage judge stopped the run"):
        STAGES[2].require_healthy(experiment.build_context(1))


@pytest.mark.parametrize(
    ("reason", "cause", "remedy"),
    [
        ("the prompt of 900 tokens and a reply exceed the model's limit", "prompts_too_long",
         "Lower judge.max_new_tokens"),
        ("the server's content filter refused the prompt: too long a list of insults",
         "prompts_filtered", "Leave out these prompts"),
        ("the server gave no usable reply: a reply that is not text", "prompts_rejected",
         "Read the reasons"),
    ],
)  # fmt: skip
def test_refused_judgments_are_explained_by_their_reason(
    tmp_path: Path, run: Run, reason: str, cause: str, remedy: str
) -> None:
    experiment = start(tmp_path / "a")
    script = break_from(experiment, 2, lambda _: (reason, "refused"), mark="\nScore:")
    with pytest.raises(NeedsAttentionError, match=remedy):
        run(experiment, script)
    [note] = list_breakers(experiment.get_files(1))
    assert [one.cause for one in note.diagnose(experiment.recipe)] == [cause]
    assert note.tally.refusals.total() == note.tally.refused


def test_refused_prompts_are_counted_named_and_stop_the_actor(tmp_path: Path, run: Run) -> None:
    """A quarter is refused for certain only when all shards that refuse are counted."""

    def script(conversation: Conversation, sample: int, seed: int) -> Reply:
        usual = make_fake_reply(conversation, sample, seed)
        is_asked = conversation[-1]["content"].startswith("question")
        return ("in words of its own", "refused") if is_asked else usual

    experiment = start(tmp_path / "a")
    with pytest.raises(NeedsAttentionError, match=r"Shard 2 of stage generate.*\(24 prompts"):
        run(experiment, script)
    refused = summarize_refusals(experiment.get_files(1))
    assert [(one["role"], one["prompts"], one["replies"]) for one in refused] == [("actor", 24, 72)]
    named = refused[0]["named"][0]
    assert named["text"].startswith("question")
    assert named["reason"] == "in words of its own"
    said = describe_refusals(refused, shown=2)
    assert said[-1].strip() == "and 22 others"


@pytest.mark.parametrize(
    ("ending", "advised"),
    [
        (("{}\nUser:\nThanks!", "length"), "Check the end token"),
        (("It begins", "length"), "Raise judge.max_new_tokens"),
        ("It is a nice answer.", "manage.py train_seed"),
        (("too long", "refused"), "use a model with a longer context"),
    ],
)
def test_an_alarm_on_unreadable_judgments_names_their_cause(
    tmp_path: Path, run: Run, ending: Any, advised: str
) -> None:
    """A fifth of the judgments is too few to stop the stage, and enough for an alarm."""
    text, reason = ending if isinstance(ending, tuple) else (ending, "stop")

    def script(conversation: Conversation, sample: int, seed: int) -> Reply:
        usual = make_fake_reply(conversation, sample, seed)
        is_bad = "\nScore:" in usual and sample == 0
        return (text.format("Well said."), reason) if is_bad else usual

    limits = {"prompts": 0, "max_refused_share": 0.5}
    experiment = start(tmp_path / "a", prompts_per_shard=80, probe=limits)
    run(experiment, script)
    summary = summarize_iteration(
        experiment.get_files(1), number=1, recipe=experiment.recipe, stages=["judge"]
    )
    advice = {alarm["name"]: alarm["advice"] for alarm in summary["alarms"]}
    assert advised in advice["judgments_unreadable"]


def test_battles_and_judgments_that_are_refused_are_named_and_the_rest_goes_on(
    tmp_path: Path, run: Run
) -> None:
    experiment = start(tmp_path / "a")
    prompts = to_records(experiment.get_files(1).read("prompts", 9), Prompt)

    def script(conversation: Conversation, sample: int, seed: int) -> Reply:
        usual = make_fake_reply(conversation, sample, seed)
        lines = set(conversation[-1]["content"].replace(": ", "\n").splitlines())
        for prompt, mark in zip(prompts, ("\nScore:", "\nWinner:"), strict=False):
            if mark in usual and prompt.text in lines:
                return "too long for me", "refused"
        return usual

    run(experiment, script)
    refused = summarize_refusals(experiment.get_files(1))
    assert [(one["role"], one["named"][0]["prompt_id"]) for one in refused] == [
        ("judge", prompts[0].prompt_id),
        ("meta-judge", prompts[1].prompt_id),
    ]
    assert {one["named"][0]["reason"] for one in refused} == {"too long for me"}
