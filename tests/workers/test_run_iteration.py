"""`manage.py run_iteration` with a scripted engine and no real training."""

import errno
import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError
from django.db import OperationalError
from pytest_django.fixtures import Settings

from meta_reward_core.engines.base import Conversation
from meta_reward_core.engines.scripted import make_fake_reply
from meta_reward_core.errors import EngineError
from meta_reward_core.experiment import open_experiment
from meta_reward_core.planning import experiment_request, launch_request
from meta_reward_core.storage.artifact_store import ArtifactStore
from tests.workers.installation import Installation, StopBy, UseScript
from webapp.experiments.models import Attempt, Experiment, Iteration, Shard, Stage


@pytest.fixture
def stopped(installation: Installation, use_script: UseScript) -> StopBy:
    """An experiment whose second judge shard raises what the test says, then works."""

    def stop_by(error: BaseException) -> CommandError:
        judged = []

        def script(conversation: Conversation, sample: int, seed: int) -> str:
            if "Score:" in conversation[-1]["content"] and sample == 0:
                judged.append(conversation)
                if len(judged) == 20:  # 4 prompts x 4 responses are the first shard
                    raise error
            return make_fake_reply(conversation, sample, seed)

        use_script(script)
        with pytest.raises(CommandError) as caught:
            installation.run_iteration()
        use_script(make_fake_reply)
        return caught.value

    return stop_by


def statuses(model: Any) -> list[str]:
    return list(model.objects.values_list("status", flat=True))


def table_bytes(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.parquet"))
    }


def test_an_iteration_leaves_rows_files_tables_and_the_next_step(
    installation: Installation,
) -> None:
    shown = installation.run_iteration()
    iteration = Iteration.objects.get()
    assert (iteration.status, iteration.number) == ("finished", 1)
    assert (installation.artifacts / "mine" / "iteration-1" / "manifest.json").exists()
    assert iteration.model_out != iteration.model_in
    assert set(statuses(Stage)) == {"finished"}
    assert set(statuses(Shard)) == {"finished"}
    assert Shard.objects.filter(stage__name="judge").count() == 2
    assert Experiment.objects.get().status == "finished"
    for expected in ("Stages", "Pairs", "Judging", "DPO", "0.4200", "M1 is in"):
        assert expected in shown
    assert shown.rstrip().endswith("python manage.py run_iteration --experiment mine")


def test_the_same_command_again_runs_the_next_iteration(installation: Installation) -> None:
    installation.run_iteration()
    shown = installation.run("run_iteration", "--experiment", "mine")
    assert statuses(Iteration) == ["finished", "finished"]
    first, second = Iteration.objects.all()
    assert second.model_in == first.model_out
    assert Experiment.objects.get().status == "finished"
    assert "export_pairs" in shown.splitlines()[-1]


def test_the_same_command_goes_on_whatever_it_names(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --recipe the changes are to the default recipe, which is another than here."""
    for module in (experiment_request, launch_request):
        monkeypatch.setattr(module, "DEFAULT_RECIPE", str(installation.recipe))
    words = ["run_iteration", "--experiment", "mine", "--set", "actor.samples=3", "--seed", "7"]
    words += ["--model", "stub", "--engine", "scripted", "--prompts", str(installation.prompts)]
    for _ in range(2):
        installation.run(*words)
    assert statuses(Iteration) == ["finished", "finished"]
    assert Experiment.objects.get().recipe["actor"]["samples"] == 3
    assert "nothing to run" in installation.run(*words, "--dry-run", "--iterations", "2")


def test_prompts_that_are_held_out_and_their_order_make_no_other_experiment(
    installation: Installation, tmp_path: Path
) -> None:
    held_out = tmp_path / "held_out.txt"
    held_out.write_text("QUESTION 3?\n")
    change = ("--set", f"sample.held_out={held_out}")
    installation.run_iteration(*change)
    lines = installation.prompts.read_text().splitlines(keepends=True)
    installation.prompts.write_text("".join(reversed(lines)))
    installation.run_iteration(*change)
    assert statuses(Iteration) == ["finished", "finished"]


def test_up_to_an_iteration_runs_what_is_missing_and_checks_the_rest(
    installation: Installation, tmp_path: Path
) -> None:
    installation.run_iteration()
    times = Iteration.objects.values_list("started", "finished").get(number=1)
    shown = installation.run_iteration("--iterations", 2, "--output", tmp_path / "out.json")
    assert "finished before" in shown
    assert Iteration.objects.values_list("started", "finished").get(number=1) == times
    assert Attempt.objects.filter(shard__stage__iteration__number=1).count() == 11
    written = json.loads((tmp_path / "out.json").read_text())
    assert [summary["iteration"] for summary in written["iterations"]] == [1, 2]
    assert written["iterations"][1]["training"]["loss"] == {"first": 0.69, "last": 0.42}


def test_a_damaged_shard_is_made_again_and_its_history_stays(installation: Installation) -> None:
    installation.run_iteration()
    part = next((installation.artifacts / "mine").rglob("judgments/part-00000.parquet"))
    whole = part.read_bytes()
    part.write_bytes(whole[:-7])
    before = Iteration.objects.get()
    installation.run_iteration("--iterations", 1)
    assert part.read_bytes() == whole
    after = Iteration.objects.get()
    assert after.started == before.started
    assert after.finished != before.finished
    attempts = Attempt.objects.filter(shard__stage__name="judge", shard__index=0)
    assert list(attempts.values_list("number", "status")) == [(1, "finished"), (2, "finished")]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(
    installation: Installation, stopped: StopBy, error: BaseException
) -> None:
    if isinstance(error, SystemExit):
        with pytest.raises(SystemExit):
            stopped(error)
    else:
        refusal = stopped(error)
        assert refusal.returncode == 130
        command = re.search(r"To resume: (.*python manage.py run_iteration .*)", str(refusal))
        assert command is not None
        assert f"--experiment mine --recipe {installation.recipe}" in command[1]
    assert statuses(Iteration) == ["interrupted"]
    assert statuses(Attempt) == ["finished"] * 4 + ["interrupted"]


def test_going_on_after_a_stop_equals_a_quiet_run(
    installation: Installation, stopped: StopBy
) -> None:
    installation.run_iteration(name="quiet")
    stopped(KeyboardInterrupt())
    installation.run_iteration()
    assert table_bytes(installation.artifacts / "mine") == table_bytes(
        installation.artifacts / "quiet"
    )
    judged = Attempt.objects.filter(
        shard__stage__name="judge", shard__stage__iteration__experiment__name="mine"
    )
    assert list(judged.values_list("shard__index", "number", "status")) == [
        (0, 1, "finished"),
        (1, 1, "interrupted"),
        (1, 2, "finished"),
    ]


def test_rows_that_a_killed_process_left_running_are_lost_and_run_again(
    installation: Installation, stopped: StopBy
) -> None:
    stopped(KeyboardInterrupt())
    attempt = Attempt.objects.get(status="interrupted")
    Attempt.objects.filter(pk=attempt.pk).update(status="running", finished=None)
    Shard.objects.filter(pk=attempt.shard_id).update(status="running", token=attempt.token)
    Stage.objects.filter(name="judge").update(status="running")
    Iteration.objects.update(status="running")
    shown = installation.run_iteration()
    assert "an earlier run was killed" in shown
    assert statuses(Iteration) == ["finished"]
    attempt.refresh_from_db()
    assert attempt.status == "lost"


def test_an_engine_that_fails_is_one_message_and_a_failed_attempt(
    installation: Installation, stopped: StopBy
) -> None:
    refusal = stopped(EngineError("the device is gone"))
    assert (str(refusal), refusal.returncode) == ("the device is gone", 1)
    iteration = Iteration.objects.get()
    assert (iteration.status, iteration.message) == ("failed", "the device is gone")
    assert statuses(Attempt)[-1] == "failed"
    installation.run_iteration()
    assert statuses(Iteration) == ["finished"]


def test_no_pair_is_a_finding_with_an_exit_code_of_its_own(
    installation: Installation, use_script: UseScript, tmp_path: Path
) -> None:
    use_script(lambda conversation, sample, seed: f"answer {sample}\nScore: 3")
    for _ in range(2):
        with pytest.raises(CommandError) as caught:
            installation.run_iteration()
        assert caught.value.returncode == 3
    assert "no preference pair" in str(caught.value)
    iteration = Iteration.objects.get()
    assert iteration.status == "no_pairs"
    assert "8 prompts" in iteration.message
    assert not (installation.artifacts / "mine" / "iteration-1" / "checkpoint").exists()


def test_a_failed_probe_has_an_exit_code_and_an_option_of_its_own(
    installation: Installation, use_script: UseScript
) -> None:
    use_script(lambda conversation, sample, seed: f"nice answer {sample}")
    for _ in range(2):
        with pytest.raises(CommandError, match="--accept-probe") as caught:
            installation.run_iteration("--set", "probe.prompts=8")
        assert caught.value.returncode == 7
    assert Iteration.objects.get().status == "needs_attention"
    with pytest.raises(CommandError) as caught:
        installation.run_iteration("--set", "probe.prompts=8", "--accept-probe")
    assert caught.value.returncode == 3, "it went on, and no judgment gave a pair"


def test_files_made_without_a_database_get_their_rows(installation: Installation) -> None:
    installation.run_iteration()
    Experiment.objects.all().delete()
    shown = installation.run_iteration("--iterations", 1)
    assert "finished before" in shown
    assert statuses(Iteration) == ["finished"]
    assert set(statuses(Shard)) == {"finished"}
    assert not Attempt.objects.exists()


def test_another_process_that_runs_it_is_left_alone(
    installation: Installation, settings: Settings
) -> None:
    installation.run_iteration()
    before = statuses(Attempt)
    store = ArtifactStore(settings.META_REWARD_ARTIFACT_ROOT)
    experiment = open_experiment(store, "mine")
    assert experiment is not None
    with (
        experiment.lock(),
        pytest.raises(CommandError, match="another process") as caught,
    ):
        installation.run_iteration()
    assert caught.value.returncode == 5
    assert statuses(Attempt) == before


def test_a_plan_is_shown_and_nothing_written(installation: Installation, tmp_path: Path) -> None:
    shown = installation.run_iteration("--dry-run", "--output", tmp_path / "plan.json")
    assert "assumed" in shown
    plan = json.loads((tmp_path / "plan.json").read_text())["plan"]["1"]
    assert [(stage["stage"], stage["calls"]) for stage in plan] == [
        ("generate", 8 * 4),
        ("judge", 8 * 4 * 5),
        ("meta_judge", 8 * 5 * 4),
        ("train", 5),  # 2 pairs a prompt, 10 epochs, 32 rows a step
    ]
    assert not installation.artifacts.exists()
    assert not Experiment.objects.exists()


@pytest.mark.parametrize("model", ["org/name", "org/name@v1.0"])
def test_a_plan_says_that_a_model_of_the_hub_is_not_here_yet(
    installation: Installation, tmp_path: Path, model: str
) -> None:
    words = ("--dry-run", "--output", tmp_path / "plan.json")
    shown = installation.run_iteration("--model", model, *words)
    note = f"the model {model} has not been downloaded yet"
    assert note in shown
    assert json.loads((tmp_path / "plan.json").read_text())["not_checked"].startswith(note)
    kept = installation.root / "models" / "org"
    kept.mkdir()
    (kept / f"name@{'0' * 40}").symlink_to(installation.model)
    assert f"one of the local versions (org/name@{'0' * 40})" in installation.run_iteration(
        "--model", model, *words
    )
    installation.run_iteration("--model", f"org/name@{'0' * 40}", *words)
    assert json.loads((tmp_path / "plan.json").read_text())["not_checked"] is None


def test_a_plan_of_several_iterations_has_a_sum(installation: Installation, tmp_path: Path) -> None:
    shown = installation.run_iteration(
        "--dry-run", "--iterations", 2, "--output", tmp_path / "plan.json"
    )
    plans = json.loads((tmp_path / "plan.json").read_text())["plan"].values()
    tokens = sum(stage["tokens"] for plan in plans for stage in plan)
    assert f"all 2 iterations about {tokens:,} tokens" in shown
    assert "all 1" not in installation.run_iteration("--dry-run")


def test_an_open_shard_size_is_chosen_for_the_engines_of_the_command(
    installation: Installation, tmp_path: Path
) -> None:
    """8 prompts on two engines: four of one prompt each leave less idle than two of four."""
    words = ("--set", "prompts_per_shard=null", "--engine-processes", "2")
    shown = installation.run_iteration(*words, "--dry-run", "--output", tmp_path / "plan.json")
    found = json.loads((tmp_path / "plan.json").read_text())["shards"]
    assert found["chosen"]
    assert found["engines"] == 2
    assert found["prompts"] < 8
    assert f"shards of {found['prompts']} prompts a stage, chosen for 2 engines" in shown
    installation.run_iteration("--set", "prompts_per_shard=null", "--engine-processes", "1")
    again = installation.run_iteration(*words, "--dry-run", "--output", tmp_path / "plan.json")
    kept = json.loads((tmp_path / "plan.json").read_text())["shards"]
    assert (kept["prompts"], kept["chosen"]) == (64, False), again


def test_a_later_plan_uses_what_was_measured(installation: Installation) -> None:
    installation.run_iteration()
    shown = installation.run("run_iteration", "--experiment", "mine", "--dry-run")
    assert "mine, iteration 2" in shown
    assert "measured" in shown
    assert "nothing to run" in installation.run(
        "run_iteration", "--experiment", "mine", "--dry-run", "--iterations", "1"
    )


def test_the_plan_of_a_new_experiment_uses_what_another_like_it_has_shown(
    installation: Installation, tmp_path: Path
) -> None:
    installation.run_iteration()
    shown = installation.run_iteration(
        "--dry-run", "--output", tmp_path / "plan.json", name="other"
    )
    assert "other, iteration 1" in shown
    assert "finished shards of mine" in shown.replace("\n", " ")
    plan = json.loads((tmp_path / "plan.json").read_text())["plan"]["1"]
    assert {stage["stage"]: stage["basis"] for stage in plan} == dict.fromkeys(
        ["generate", "judge", "meta_judge", "train"], "measured"
    )
    assert all(stage["seconds"] is not None for stage in plan)
    assert not Experiment.objects.filter(name="other").exists()


def test_without_a_word(installation: Installation) -> None:
    assert installation.run_iteration("--verbosity", 0) == ""


@pytest.mark.parametrize(
    "error", [OperationalError("database or disk is full"), OSError(errno.ENOSPC, "No space left")]
)
def test_a_disk_that_fills_up_is_one_message_with_a_code(
    installation: Installation, stopped: StopBy, error: Exception
) -> None:
    refusal = stopped(error)
    assert "no room left on the disk" in str(refusal)
    assert refusal.returncode == 4
    installation.run_iteration()
    assert statuses(Iteration) == ["finished"]


def test_a_fault_of_ours_is_not_dressed_up(installation: Installation, stopped: StopBy) -> None:
    with pytest.raises(ZeroDivisionError):
        stopped(ZeroDivisionError())
    assert statuses(Iteration) == ["failed"]
