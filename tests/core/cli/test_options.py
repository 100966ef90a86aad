"""`python -m meta_reward_core --dry-run`: a plan, or what the run itself would refuse."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from meta_reward_core.__main__ import main
from meta_reward_core.context import ModelRef
from meta_reward_core.engines import registry
from meta_reward_core.errors import InputError
from meta_reward_core.experiment import create_experiment, open_experiment
from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.planning.experiment_request import ExperimentRequest
from meta_reward_core.planning.experiment_setup import check_can_resume
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.storage.artifact_store import ArtifactStore
from tests.core.scripted_world import prompt_file

WAYS = [(), ("--dry-run",)]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Places of a test's own; what lies in them is what a command has written."""
    for place in ("ARTIFACT", "MODEL", "SCRATCH"):
        monkeypatch.setenv(f"META_REWARD_{place}_ROOT", str(tmp_path / "places" / place.lower()))
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    return tmp_path


def test_a_plan_writes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The model that comes with the package lies here: nothing is left to be found out."""
    assert main(["--experiment", "demo", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "demo, iteration 1" in said
    assert "begins" not in said
    assert not list(root.iterdir())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model", "my-model"], "there is no model folder 'my-model'"),
        (["--set", "judge.rubric=./none.txt"], "none.txt: template not found"),
        (["--engine", "vllm"], "docs/engines.md"),
        (["--set", "judge.endpoint=nobody"], "unknown endpoint 'nobody'"),
        (["--recipe", "paper-llama3-8b"], "with --prompts FILE"),
    ],
)
def test_a_plan_refuses_what_the_run_would(
    root: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: Sequence[str],
    message: str,
    way: Sequence[str],
) -> None:
    assert main(["--experiment", "demo", *arguments, *way]) != 0
    assert message in capsys.readouterr().err
    assert not (root / "places" / "artifact").exists()


def test_a_plan_says_that_a_seed_model_has_yet_to_be_trained(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--experiment", "demo", "--model", "miniature-sft999-noisy", "--dry-run"]) == 0
    assert "it is trained when the experiment starts" in capsys.readouterr().out
    assert not list(root.iterdir())


@pytest.mark.parametrize("way", WAYS)
def test_a_misspelt_name_begins_no_other_experiment(
    root: Path, capsys: pytest.CaptureFixture[str], way: Sequence[str]
) -> None:
    experiment = root / "places" / "artifact" / "demo"
    experiment.mkdir(parents=True)
    (experiment / "experiment.json").write_text("{}")
    assert main(["--experiment", "dmeo", *way]) == 2
    assert "did you mean 'demo'? To create a new one" in capsys.readouterr().err
    assert list(experiment.parent.iterdir()) == [experiment]


def test_an_experiment_goes_on_with_the_recipe_that_it_began_with(tmp_path: Path) -> None:
    """Begun when the shipped recipe kept the last epoch, which it does not any more."""
    (tmp_path / "m0").mkdir()
    (tmp_path / "m0" / "config.json").write_text("{}")
    store = ArtifactStore(str(tmp_path / "artifacts"))
    before = [
        "training.checkpoint_selection=last",
        "training.validation_share=0",
        "engine.kind=scripted",
    ]
    create_experiment(
        store,
        "mine",
        recipe=load_recipe("paper-llama3-8b", changes=before),
        seed=1,
        seed_model=ModelRef("M0", tmp_path / "m0", hash_model_folder(tmp_path / "m0")),
        prompts=prompt_file(3),
    )
    begun = open_experiment(store, "mine")
    assert begun is not None
    assert (begun.recipe.training.checkpoint_selection, begun.recipe.training.validation_share) == (
        "last",
        0,
    )
    check_can_resume(ExperimentRequest("mine"), begun)
    with pytest.raises(InputError) as error:
        check_can_resume(ExperimentRequest("mine", "paper-llama3-8b", engine="scripted"), begun)
    assert "without --recipe it keeps the recipe that it was created with" in str(error.value)
    assert "training.checkpoint_selection: created with 'last'" in str(error.value)
