"""A setting that is found to be wrong is changed, and only what depends on it is made again.

Run by the core's command line with a scripted engine; the training depends on its settings and
fails as the real one does.
"""

import hashlib
import json
import sys
from collections.abc import Sized
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meta_reward_core.__main__ import main
from meta_reward_core.errors import ExperimentBusyError, InputError, TrainingError
from meta_reward_core.experiment import Experiment, open_experiment
from meta_reward_core.planning.settings_change import (
    FIXED_FIELDS,
    SettingsRequest,
    apply_settings_change,
    change_settings,
    plan_settings_change,
)
from meta_reward_core.recipes.dataflow import NOT_IN_RESULTS
from meta_reward_core.recipes.settings_history import read_settings
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.training.row_types import TokenSources
from tests.core.recipes.test_dataflow import FIELDS
from tests.core.scripted_world import (
    begin,
    build_changed_recipe,
    make_scripted_resources,
    run_whole,
)

RECIPE = """\
name: scripted
model: m0
iterations: 3
prompts_per_shard: 8
sample: {prompts: 16}
actor: {samples: 4}
judge: {samples: 5}
meta_judge: {max_chosen_judgment_chars: null}
training: {max_length: 4096}
engine: {kind: scripted}
"""
BROKEN = '{"eos_token_id": 2, "temperature": 0.6}'
MENDED = '{"eos_token_id": 2, "temperature": 0.6, "do_sample": true}'


def train(
    rows: Sized, *, start: Path, settings: Any, checkpoint: Path, **_: object
) -> SimpleNamespace:
    """Fail on short rows and on a config that cannot be saved; else learn the settings by heart."""
    if settings.max_length < 64:
        raise TrainingError("every row is longer than max_length")
    config = (start / "generation_config.json").read_text()
    if "temperature" in config and "do_sample" not in config:
        raise TrainingError("generation_config.json cannot be saved")
    checkpoint.mkdir(parents=True)
    learned = f"{len(rows)} {settings.model_dump_json()}"
    (checkpoint / "model.safetensors").write_bytes(learned.encode())
    (checkpoint / "config.json").write_text("{}")
    (checkpoint / "generation_config.json").write_text(config)
    log = [{"step": 1, "epoch": 1.0, "loss": 0.69}]
    return SimpleNamespace(
        rows_trained=len(rows), refused=[], kept_step=1, log=log, tokens=TokenSources()
    )


class Place:
    """A folder with a model, a recipe and prompts, and the command line over it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self._monkeypatch = monkeypatch
        self.model = root / "models" / "m0"
        self.model.mkdir(parents=True)
        (self.model / "config.json").write_text('{"eos_token_id": 2}')
        (self.model / "generation_config.json").write_text(MENDED)
        (self.model / "model.safetensors").write_bytes(b"weights")
        (self.model / "chat_template.jinja").write_text("{{ messages }}")
        (root / "recipe.yaml").write_text(RECIPE)
        (root / "prompts.txt").write_text("".join(f"question {n}?\n" for n in range(60)))

    def run(self, *options: str, begins: bool = False) -> int:
        for name in ("artifact", "model", "scratch"):
            folder = str(self.root / f"{name}s")
            self._monkeypatch.setenv(f"META_REWARD_{name.upper()}_ROOT", folder)
        fake = SimpleNamespace(train_dpo=train)
        self._monkeypatch.setitem(sys.modules, "meta_reward_core.training.dpo", fake)
        files = ("--recipe", str(self.root / "recipe.yaml"), "--prompts",
                 str(self.root / "prompts.txt"))  # fmt: skip
        return main(["--experiment", "mine", *(files if begins else ()), *options])

    def open(self) -> Experiment:
        found = open_experiment(ArtifactStore(str(self.root / "artifacts")), "mine")
        assert found is not None
        return found

    def hash_results(self, *numbers: int) -> dict[str, str]:
        """Hashes of all tables, checkpoints and final manifests."""
        found: dict[str, str] = {}
        for number in numbers or (1,):
            folder = self.root / "artifacts" / "mine" / f"iteration-{number}"
            found |= {
                str(path.relative_to(folder.parent)): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(folder.rglob("*"))
                if path.is_file() and path.parent.name not in ("manifests", "probe")
            }
        return found

    def list_times(self, *tables: str) -> dict[str, int]:
        """When each part of a table was written: another time means that it was made again."""
        folder = self.root / "artifacts" / "mine" / "iteration-1"
        parts = (path for table in tables for path in sorted((folder / table).glob("*.parquet")))
        return {str(path): path.stat().st_mtime_ns for path in parts}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path / "place", monkeypatch)


@pytest.fixture
def right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place where everything is right from the start."""
    return Place(tmp_path / "right", monkeypatch)


DRAWN = ("prompts", "responses", "judgments", "scores", "battles", "actor_pairs", "judge_pairs")


def test_a_limit_that_was_too_small_is_raised_and_nothing_is_drawn_again(
    place: Place, right: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.run("--set", "training.max_length=16", begins=True) == 1
    sampled = place.list_times(*DRAWN)
    assert len(sampled) > 6
    capsys.readouterr()
    assert place.run("--set", "training.max_length=4096") == 0
    said = capsys.readouterr().out
    assert "training.max_length: 16 -> 4096" in said
    assert "from iteration 1\n" in said
    assert "nothing is rerun" in said
    assert place.list_times(*DRAWN) == sampled
    assert right.run(begins=True) == 0
    assert place.hash_results() == right.hash_results()


def test_a_generation_config_that_cannot_be_saved_is_mended_and_nothing_is_drawn_again(
    place: Place, right: Place
) -> None:
    (place.model / "generation_config.json").write_text(BROKEN)
    assert place.run(begins=True) == 1
    sampled = place.list_times(*DRAWN)
    (place.model / "generation_config.json").write_text(MENDED)
    (place.model / "README.md").write_text("mended on Sunday")
    assert place.run() == 0
    assert place.list_times(*DRAWN) == sampled
    assert right.run(begins=True) == 0
    mine, others = place.hash_results(), right.hash_results()
    summary = "iteration-1/manifest.json"  # it names the hash of M0 as the experiment began
    assert mine.pop(summary) != others.pop(summary)
    assert mine == others


def test_the_command_that_began_an_experiment_goes_on_after_its_settings_were_changed(
    place: Place,
) -> None:
    """It describes the beginning, and takes nothing back; without a recipe it changes."""
    began = ("--set", "training.max_length=16")
    assert place.run(*began, begins=True) == 1
    assert place.run("--set", "training.max_length=4096") == 0
    assert place.run(*began, begins=True) == 0
    assert place.open().get_recipe(2).training.max_length == 4096
    assert place.run(*began, "--set", "training.epochs=3", begins=True) == 0
    recipe = place.open().get_recipe(3)
    assert (recipe.training.epochs, recipe.training.max_length) == (3, 4096)


def test_a_value_that_something_was_made_from_needs_a_decision(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.run("--set", "training.max_length=16", begins=True) == 1
    before = place.hash_results()
    assert place.run("--set", "judge.max_new_tokens=99") == 2
    said = capsys.readouterr().err
    assert "judge (2 shards), pair_actor (1 shard), meta_judge (2 shards)" in said
    assert "--apply-changes now" in said
    assert place.hash_results() == before
    assert place.open().settings.changes == ()


def test_what_depends_on_a_changed_value_is_made_again_on_request(
    place: Place, right: Place
) -> None:
    assert place.run("--set", "training.max_length=16", begins=True) == 1
    kept, made = place.list_times("prompts", "responses"), place.list_times("judgments")
    changes = ("--set", "judge.samples=3", "--set", "training.max_length=4096")
    assert place.run(*changes, "--apply-changes", "now") == 0
    assert place.list_times("prompts", "responses") == kept
    assert not place.list_times("judgments").items() & made.items()
    assert right.run("--set", "judge.samples=3", begins=True) == 0
    assert place.hash_results() == right.hash_results()


def test_fewer_prompts_leave_no_part_of_the_old_ones(place: Place, right: Place) -> None:
    assert place.run("--set", "training.max_length=16", begins=True) == 1
    changes = ("--set", "sample.prompts=8", "--set", "training.max_length=4096")
    assert place.run(*changes, "--apply-changes", "now") == 0
    assert right.run("--set", "sample.prompts=8", begins=True) == 0
    assert place.hash_results() == right.hash_results()


def test_a_change_for_the_next_iteration_keeps_what_was_made(place: Place) -> None:
    assert place.run("--set", "training.max_length=16", begins=True) == 1
    before = place.list_times("judgments")
    assert place.run("--set", "judge.samples=3", "--apply-changes", "next") == 1
    assert place.list_times("judgments") == before
    assert place.run("--set", "training.max_length=4096") == 0
    assert place.run() == 0
    experiment = place.open()
    samples = [experiment.get_recipe(number).judge.samples for number in (1, 2, 3)]
    assert samples == [5, 3, 3]
    assert [experiment.get_recipe(t).training.max_length for t in (1, 2)] == [4096, 4096]
    sampled = [experiment.get_files(t).read("judgments")["sample"].to_pylist() for t in (1, 2)]
    assert [max(samples) + 1 for samples in sampled] == [5, 3]


def test_what_m1_was_made_from_changes_from_the_next_iteration_on(
    place: Place, right: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """M1 stays as it is, also when all files are verified again."""
    assert place.run(begins=True) == 0
    before = place.hash_results()
    assert place.run("--set", "training.epochs=3") == 0
    assert "from iteration 2\n" in capsys.readouterr().out
    assert place.run("--iterations", "2") == 0
    assert place.hash_results() == before
    schedule = [place.open().get_recipe(number).training.epochs for number in (1, 2)]
    assert schedule == [10, 3]
    assert (
        b'"epochs":3'
        in place.open()
        .get_files(2)
        .checkpoint.fetch_folder("")
        .joinpath("model.safetensors")
        .read_bytes()
    )


def test_a_trained_model_whose_iteration_is_not_finished_stays(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation failed: what it measures may change, the training may not any more."""
    assert place.run(begins=True) == 0
    files = place.open().get_files(1)
    files.discard("evaluate", 0, ["evaluation", "manifest.json"])
    paths, experiment = place.open().paths, place.open()
    recipe = build_changed_recipe(paths, ["training.epochs=3"])
    plan = plan_settings_change(paths, recipe)
    assert plan is not None
    assert (plan.from_iteration, plan.made_again) == (2, ())
    assert "M1 exists" in plan.why_later
    recipe = build_changed_recipe(paths, ["evaluation.prompts=3"])
    plan = plan_settings_change(experiment.paths, recipe)
    assert plan is not None
    assert (plan.from_iteration, plan.made_again) == (1, ())


def test_a_request_of_an_earlier_version_is_read() -> None:
    earlier = {"changes": ["judge.samples=3", "judge.top_points=10"], "apply": "", "before": {}}
    values = {"judge.samples": 3, "judge.max_score": 10}
    request = SettingsRequest.from_payload(earlier)
    assert request == SettingsRequest(values=values, apply=None)
    assert SettingsRequest.from_payload(request.model_dump(mode="json")) == request


@pytest.mark.parametrize("field", FIXED_FIELDS)
def test_what_an_experiment_began_with_cannot_change(tmp_path: Path, field: str) -> None:
    paths = begin(tmp_path).paths
    values = {
        "task": ["task=toy"],
        "judge.reward_model": ["judge.reward_model=x", "judge.samples=1", "train_on=[[actor]]"],
        "evaluation.tasks": ["evaluation.tasks=[{name: ifeval, data: x}]"],
        "development.tasks": ["development.tasks=[{name: ifeval, data: x}]"],
        "audit.required": ["audit.required=true"],
        "audit.on_failure": ["audit.on_failure=actor_pairs"],
        "audit.min_answers": ["audit.min_answers=7"],
    }
    is_share = field in ("audit.confidence", "audit.min_agreement")
    changes = values.get(field, [f"{field}={0.7 if is_share else 'other'}"])
    recipe = build_changed_recipe(paths, changes)
    with pytest.raises(InputError, match="cannot change") as refused:
        plan_settings_change(paths, recipe)
    assert f"{field}: {FIXED_FIELDS[field]}" in str(refused.value)


def test_a_value_that_changes_no_result_is_fixed_for_a_reason_or_may_always_change() -> None:
    assert set(FIXED_FIELDS) <= set(FIELDS)
    others = set(NOT_IN_RESULTS) - set(FIXED_FIELDS)
    assert {field for field in others if not field.startswith("probe.")} == {"iterations"}


def test_stages_are_not_added_to_an_iteration_that_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = begin(tmp_path)
    recipe = build_changed_recipe(experiment.paths, ["train_on=[[actor]]"])
    plan = plan_settings_change(experiment.paths, recipe)
    assert plan is not None
    assert plan.from_iteration == 1
    context = experiment.build_context(1)
    from meta_reward_core.iteration import STAGES

    STAGES[0].run_shard(context, 0, make_scripted_resources(tmp_path))
    plan = plan_settings_change(experiment.paths, recipe)
    assert plan is not None
    assert (plan.from_iteration, plan.made_again) == (2, ())


def test_changes_hold_for_the_iterations_that_they_name_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second change holds from an earlier iteration than the first one."""
    experiment = begin(tmp_path)
    run_whole(experiment, 1, monkeypatch)
    paths = experiment.paths
    experiment.get_files(1).discard("evaluate", 0, ["manifest.json"])
    for change in ("training.epochs=3", "evaluation.prompts=7"):
        plan = plan_settings_change(paths, build_changed_recipe(paths, [change]))
        assert plan is not None
        change_settings(paths, plan)
    found = read_settings(paths, paths.require_description())
    first, second = found.get_recipe(1), found.get_recipe(2)
    assert (first.training.epochs, first.evaluation.prompts) == (10, 7)
    assert (second.training.epochs, second.evaluation.prompts) == (3, 7)
    assert found.get_recipe() == second
    hashes = [found.get_recipe_sha256(number) for number in (0, 1, 2)]
    assert hashes == [experiment.recipe_sha256, first.sha256, second.sha256]
    assert len(set(hashes)) == 3


def test_a_section_that_may_be_absent_comes_and_goes(tmp_path: Path) -> None:
    paths = begin(tmp_path).paths
    for change, expected in (
        ("training.lora={r: 4}", 4),
        ("training.lora.r=8", 8),
        ("training.lora=null", None),
    ):
        plan = plan_settings_change(paths, build_changed_recipe(paths, [change]))
        assert plan is not None
        change_settings(paths, plan)
        lora = read_settings(paths, paths.require_description()).get_recipe().training.lora
        assert (lora.r if lora else None) == expected


def test_a_plan_that_is_out_of_date_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = begin(tmp_path)
    recipe = build_changed_recipe(experiment.paths, ["training.epochs=3"])
    plan = plan_settings_change(experiment.paths, recipe)
    assert plan is not None
    run_whole(experiment, 1, monkeypatch)
    with pytest.raises(InputError, match="has progressed"):
        apply_settings_change(experiment.paths, plan)


def test_settings_do_not_change_while_another_process_runs_the_experiment(tmp_path: Path) -> None:
    experiment = begin(tmp_path)
    plan = plan_settings_change(
        experiment.paths, build_changed_recipe(experiment.paths, ["training.epochs=3"])
    )
    assert plan is not None
    with experiment.lock(), pytest.raises(ExperimentBusyError):
        change_settings(experiment.paths, plan)


def test_a_change_that_is_lost_is_told(tmp_path: Path) -> None:
    experiment = begin(tmp_path)
    for value in (3, 4):
        recipe = build_changed_recipe(experiment.paths, [f"training.epochs={value}"])
        plan = plan_settings_change(experiment.paths, recipe)
        assert plan is not None
        change_settings(experiment.paths, plan)
    (tmp_path / "scripted" / "settings" / "00001.json").unlink()
    with pytest.raises(Exception, match="one is missing"):
        open_experiment(experiment.store, "scripted")


def test_a_change_is_written_as_people_can_read_it(tmp_path: Path) -> None:
    paths = begin(tmp_path).paths
    plan = plan_settings_change(paths, build_changed_recipe(paths, ["training.epochs=3"]))
    assert plan is not None
    change_settings(paths, plan)
    written = json.loads((tmp_path / "scripted" / "settings" / "00001.json").read_text())
    assert written == {
        "number": 1,
        "from_iteration": 1,
        "before": {"training.epochs": 10},
        "after": {"training.epochs": 3},
    }
