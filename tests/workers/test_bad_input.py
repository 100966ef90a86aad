"""What is wrong is told in one message, with an exit code, and nothing is half-written."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.core.management import CommandError
from django.db import connection
from pytest_django.fixtures import Settings

from meta_reward_core.engines import registry
from meta_reward_core.planning import launch_request
from meta_reward_core.system.command_hint import format_command
from tests.databases import CHECKOUT
from tests.workers.installation import Installation
from webapp.experiments.models import Experiment

WAYS = [(), ("--dry-run",)]
"""A plan refuses what the run would refuse, with the same words."""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def refusal_of(installation: Installation, *arguments: object, name: str = "mine") -> CommandError:
    with pytest.raises(CommandError) as caught:
        installation.run_iteration(*arguments, name=name)
    return caught.value


RECIPES = {
    "an unknown key": "name: x\nactors: {}\n",
    "an impossible value": "name: x\njudge: {top_p: 7}\n",
    "a circle": "extends: wrong.yaml\nname: x\n",
    "no YAML": "name: [\n",
}


@pytest.mark.parametrize("text", RECIPES.values(), ids=RECIPES.keys())
def test_a_wrong_recipe(installation: Installation, text: str) -> None:
    path = write(installation.root / "wrong.yaml", text)
    assert_refused(installation, ("--recipe", path), "wrong.yaml")


TEMPLATES = {
    "judge.rubric": "Judge {instruction} and {respons}.\n",
    "judge.template": "Judge {instruction} and {respons}.\n",
    "meta_judge.template": "Compare {instruction} and {respons}.\n",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("key", TEMPLATES)
def test_words_that_are_missing_or_misspelt(
    installation: Installation, key: str, way: Sequence[str]
) -> None:
    change = ("--set", f"{key}={installation.root}/words.txt", *way)
    assert_refused(installation, change, "words.txt: template not found")
    write(installation.root / "words.txt", TEMPLATES[key])
    assert_refused(installation, change, "{respons} is not a known placeholder")


@pytest.mark.parametrize("way", WAYS)
def test_an_engine_that_is_not_installed_burns_no_name(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, way: Sequence[str]
) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    assert_refused(installation, ("--engine", "vllm", *way), "docs/engines.md")
    assert (
        "--constraint var/constraints-vllm.txt vllm==" in (CHECKOUT / "docs/engines.md").read_text()
    )
    installation.run_iteration()


def test_where_workers_draw_the_plan_asks_no_engine_of_this_machine(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    assert "generate" in installation.run_iteration("--engine", "vllm", "--queue", "--dry-run")


def test_an_engine_that_is_gone_is_told_before_the_next_iteration_begins(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.run_iteration()
    kept = installation.artifacts / "mine/experiment.json"
    kept.write_text(kept.read_text().replace('"kind": "scripted"', '"kind": "vllm"'))
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    for way in WAYS:
        assert "docs/engines.md" in refusal_to_go_on(installation, *way)


@pytest.mark.parametrize("way", WAYS)
def test_no_prompts_for_a_recipe_without_a_world(
    installation: Installation, way: Sequence[str]
) -> None:
    with pytest.raises(CommandError, match="with --prompts FILE"):
        installation.run(
            "run_iteration", "--experiment", "mine", "--recipe", str(installation.recipe), *way
        )
    assert not installation.artifacts.exists()


@pytest.mark.parametrize("way", WAYS)
def test_a_misspelt_name_begins_no_other_experiment(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, way: Sequence[str]
) -> None:
    installation.run_iteration(name="demo")
    (installation.artifacts / "dmeos").mkdir()  # a folder that is no experiment
    words = ["run_iteration", "--prompts", str(installation.prompts), *way, "--experiment"]
    with pytest.raises(CommandError) as caught:
        installation.run(*words, "dmeo")
    assert str(caught.value) == (
        "experiment 'dmeo' does not exist; did you mean 'demo'? To create a new one, "
        "specify its recipe: "
        "--recipe smoke"
    )
    assert caught.value.returncode == 2
    assert Experiment.objects.get().name == "demo"
    installation.run_iteration(*way, name="dmeo")
    monkeypatch.setattr(launch_request, "DEFAULT_RECIPE", str(installation.recipe))
    installation.run(*words, "unlike")


PROMPTS = {
    "empty.txt": ("", "contains no prompt"),
    "broken.jsonl": ("{not json\n", "broken.jsonl"),
    "strange.docx": ("PK\x03\x04 and so on", "is a zip archive or a spreadsheet"),
    "few.txt": ("one question?\n", "there are only 1"),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_wrong_prompts(installation: Installation, name: str) -> None:
    text, message = PROMPTS[name]
    path = write(installation.root / name, text)
    assert_refused(installation, ("--prompts", path), message)


def assert_refused(
    installation: Installation,
    arguments: Sequence[object],
    message: str,
    *,
    code: int = 2,
    name: str = "mine",
) -> None:
    refusal = refusal_of(installation, *arguments, name=name)
    assert message in str(refusal)
    assert refusal.returncode == code
    assert not Experiment.objects.exists()
    assert not installation.artifacts.exists()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--recipe", "no-such-recipe"], "recipe 'no-such-recipe' not found"),
        (["--set", "actor.samples=0"], "actor.samples"),
        (["--set", "actor.samples"], "key=value"),
        (["--prompts", "/nowhere/prompts.txt"], "prompts.txt"),
        (["--model", "/nowhere/model"], "no model folder"),
        (["--model", "my-model"], "there is no model folder 'my-model'"),
        (["--model", "/etc"], "there is no model folder '/etc'"),
        (["--output", "/nowhere/out.json"], "cannot be written"),
    ],
)
def test_a_wrong_option(
    installation: Installation, arguments: Sequence[object], message: str, way: Sequence[str]
) -> None:
    assert_refused(installation, (*arguments, *way), message)


@pytest.mark.parametrize("way", WAYS)
def test_fewer_prompts_than_an_iteration_draws_are_told_by_a_plan_too(
    installation: Installation, way: Sequence[str]
) -> None:
    assert_refused(installation, ("--set", "sample.prompts=500", *way), "needs 500 prompts")


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "x" * 65])
def test_a_name_that_is_no_folder(installation: Installation, name: str) -> None:
    assert_refused(installation, (), "is not a valid experiment name", name=name)


@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_holds_a_pickle(installation: Installation, way: Sequence[str]) -> None:
    (installation.model / "extra.bin").write_bytes(b"\x80\x04")
    assert_refused(installation, way, "may be a pickle")


def test_a_model_without_a_chat_template(installation: Installation) -> None:
    (installation.model / "chat_template.jinja").unlink()
    assert_refused(installation, (), "chat template")


@pytest.mark.parametrize("way", WAYS)
def test_a_disk_that_is_visibly_too_small(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, way: Sequence[str]
) -> None:
    free = SimpleNamespace(free=1)
    monkeypatch.setattr(
        "meta_reward_core.planning.experiment_setup.shutil.disk_usage", lambda path: free
    )
    assert_refused(installation, way, "MB free", code=4)


def test_other_settings_than_it_began_with(installation: Installation) -> None:
    installation.run_iteration()
    other = installation.root / "other.yaml"
    other.write_text(installation.recipe.read_text().replace("samples: 4", "samples: 9"))
    with pytest.raises(CommandError) as refusal:
        installation.run_iteration("--recipe", other, "--seed", 5)
    assert refusal.value.returncode == 2
    assert "actor.samples: created with 4, now 9" in str(refusal.value)
    assert "seed: created with 1, now 5" in str(refusal.value)


def refusal_to_go_on(installation: Installation, *arguments: object) -> str:
    """What is said when only these words, and no recipe, are added to an experiment's name."""
    with pytest.raises(CommandError) as caught:
        installation.run("run_iteration", "--experiment", "mine", *arguments)
    assert caught.value.returncode == 2
    assert Experiment.objects.get().iterations.count() == 1
    return str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "actor.sample=9"), "actor.sample: Unknown recipe value"),
        (("--model", "another"), "model: M0 is the base model of the experiment"),
        (("--set", "audit.required=true"), "audit.required: change the value on the audits page"),
        (("--seed", "5"), "seed: created with 1, now 5"),
        (("--prompts", "/nowhere/prompts.txt"), "prompts.txt"),
    ],
)
def test_a_change_without_a_recipe_is_refused_by_its_name(
    installation: Installation, arguments: Sequence[str], message: str
) -> None:
    installation.run_iteration()
    for way in ((), ("--dry-run",), ("--queue",)):
        assert message in refusal_to_go_on(installation, *arguments, *way)


@pytest.mark.parametrize("name", ["empty.txt", "broken.jsonl", "strange.docx"])
def test_wrong_prompts_are_told_also_where_the_experiment_has_its_own(
    installation: Installation, name: str
) -> None:
    installation.run_iteration()
    text, message = PROMPTS[name]
    path = write(installation.root / name, text)
    assert message in refusal_to_go_on(installation, "--prompts", path)


def test_other_prompts_than_it_began_with(installation: Installation) -> None:
    """It began with question 0 to question 19."""
    installation.run_iteration()
    lines = "".join(f"question {number}?\n" for number in range(3, 21))
    other = write(installation.root / "other.txt", lines)
    assert (
        "prompts: created with 20, of which 3 are not in the given file; 1 in the file are new"
    ) in refusal_to_go_on(installation, "--prompts", other)


def test_no_resume_refuses_what_exists(installation: Installation) -> None:
    installation.run_iteration("--no-resume")
    refusal = refusal_of(installation, "--no-resume")
    assert refusal.returncode == 2
    assert "already exists" in str(refusal)


def test_rows_whose_files_are_gone(
    installation: Installation, settings: Settings, tmp_path: Path
) -> None:
    installation.run_iteration()
    settings.META_REWARD_ARTIFACT_ROOT = str(tmp_path / "elsewhere")
    for way in WAYS:
        refusal = refusal_of(installation, *way)
        assert refusal.returncode == 2
        assert "META_REWARD_ARTIFACT_ROOT" in str(refusal)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("number", ["0", "-1", "x"])
def test_iterations_count_from_1(installation: Installation, number: str) -> None:
    assert "--iterations" in str(refusal_of(installation, "--iterations", number))


def test_a_database_without_tables_says_what_to_do(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(connection.introspection), "table_names", lambda *_: [])
    assert "manage.py migrate" in str(refusal_of(installation))


OF_NOBODY = {
    "show_iteration": "show_iteration --experiment nobody",
    "export_pairs": "export_pairs --experiment nobody --output x.jsonl",
    "report": "report --experiment nobody --output x",
    "create_audit": "create_audit --experiment nobody --iteration 1",
    "audit_report": "audit_report --experiment nobody",
    "control_iteration": "control_iteration pause --experiment nobody",
    "evaluate": "evaluate judge --experiment nobody --own-reference x.jsonl",
}


@pytest.mark.parametrize("command", OF_NOBODY.values(), ids=OF_NOBODY.keys())
def test_an_experiment_that_is_not_there_is_told_of_by_all_commands_alike(
    installation: Installation, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(installation.root)
    before = set(installation.root.iterdir())
    with pytest.raises(CommandError) as caught:
        installation.run(*command.split())
    said = str(caught.value).replace(f" under {installation.artifacts}", "")
    assert said == f"experiment 'nobody' does not exist: see {format_command('list_experiments')}"
    assert caught.value.returncode == 2
    assert set(installation.root.iterdir()) == before
