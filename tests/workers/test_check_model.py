"""`manage.py check_model`, the check by itself when an experiment begins, and its job."""

import json
import shutil
from pathlib import Path

import pytest
from django.core.management import CommandError
from pytest_django.fixtures import Settings

from meta_reward_core.models.check.result import CheckReport, Level
from meta_reward_core.planning.model_check.run import read_report
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.layout import ExperimentLayout
from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from tests.core.tiny_model import make_reward_model_folder
from tests.model_files import edit_json
from tests.webapp.conftest import make_person
from tests.workers.installation import Installation
from tests.workers.test_create_experiment import carry_out, job_for
from webapp.experiment_form.launch_request import dump_recipe
from webapp.experiment_form.model_check import CheckRequest
from webapp.experiments.jobs import enqueue_job
from webapp.experiments.models import Experiment, JobKind

pytestmark = pytest.mark.django_db


@pytest.fixture
def toy(installation: Installation, settings: Settings) -> Path:
    settings.META_REWARD_UPLOAD_ROOT = str(installation.root / "uploads")
    return Path(shutil.copytree(get_shipped_seed_model(), installation.root / "models" / "toy"))


def test_a_good_model_is_told_line_by_line(installation: Installation, toy: Path) -> None:
    report = installation.root / "report.json"
    shown = installation.run("check_model", "toy", "--json", report)
    assert "toy for recipe smoke" in shown
    assert "green  Parameters: the tensors match all 29 parameters exactly" in shown
    assert "0 problems, " in shown
    assert CheckReport.from_json(json.loads(report.read_text())).level is not Level.RED


def test_a_model_that_cannot_be_used_ends_with_its_own_exit_code(
    installation: Installation, toy: Path
) -> None:
    edit_json(toy / "generation_config.json", top_p=0.9)
    report = installation.root / "report.json"
    with pytest.raises(CommandError) as caught:
        installation.run("check_model", "toy", "--json", report)
    assert caught.value.returncode == 2
    assert str(caught.value).startswith("model toy: generation_config.json: cannot be saved again")
    assert json.loads(report.read_text())["level"] == "red", "the report is written all the same"


def test_a_recipe_and_prompts_may_be_named(installation: Installation, toy: Path) -> None:
    changes = ("--set", "training.max_length=34", "--set", "training.max_refused_share=0.5")
    shown = installation.run(
        "check_model", "toy", "--recipe", "miniature", "--prompts", installation.prompts, *changes
    )
    assert "amber  Actor rows: training refuses the rows of all 20 prompts" in shown


def test_the_reward_model_of_the_recipe_is_checked_too(
    installation: Installation, toy: Path
) -> None:
    make_reward_model_folder(installation.root / "models" / "scorer")
    report = installation.root / "report.json"

    def check(reward_model: str) -> str:
        values = ("train_on=[[actor]]", "judge.samples=1", f"judge.reward_model={reward_model}")
        changes = [part for value in values for part in ("--set", value)]
        return installation.run("check_model", "toy", *changes, "--json", report)

    shown = check("scorer")
    assert "scorer for recipe smoke, as its reward model" in shown
    assert "green  Reward model: one output" in shown
    assert json.loads(report.read_text())["reward_model"]["level"] == "green"
    with pytest.raises(CommandError, match="not a sequence classifier") as caught:
        check("toy")
    assert caught.value.returncode == 2


def test_a_model_that_is_not_there_is_refused(installation: Installation) -> None:
    with pytest.raises(CommandError, match="there is no model folder 'nowhere'") as caught:
        installation.run("check_model", "nowhere")
    assert caught.value.returncode == 2


def test_no_experiment_is_created_with_an_unusable_model(
    installation: Installation, toy: Path
) -> None:
    edit_json(toy / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(CommandError, match=r"model toy: config\.json: the weights are quantised"):
        installation.run("run_iteration", "--experiment", "mine", "--recipe", "smoke",
                         "--model", "toy")  # fmt: skip
    assert not Experiment.objects.exists()
    assert not (installation.artifacts / "mine").exists()


def launch_toy(installation: Installation) -> dict[str, str]:
    recipe = load_recipe("smoke", changes=["model=toy"])
    return {"recipe_text": dump_recipe(recipe), "prompts": "", "prompts_called": ""}


def test_a_launch_with_an_unusable_model_is_refused_with_the_reason(
    installation: Installation, toy: Path
) -> None:
    edit_json(toy / "config.json", num_hidden_layers=4)
    job = carry_out(job_for(installation, None, **launch_toy(installation)))
    assert job.status == "refused"
    assert job.message.startswith("model toy: model.safetensors: no tensor for 9 parameters")
    assert not Experiment.objects.exists()
    assert not (installation.artifacts / "mine").exists()


def test_the_report_is_kept_with_the_experiment(installation: Installation, toy: Path) -> None:
    edit_json(toy / "config.json", dtype="bfloat16")
    job = carry_out(job_for(installation, None, **launch_toy(installation)))
    assert (job.status, job.message) == ("done", "")
    assert any("checkpoints are saved in bfloat16" in line for line in job.outcome["said"])
    report = read_report(
        ArtifactStore(str(installation.artifacts)), ExperimentLayout.from_name("mine")
    )
    assert report is not None
    assert (report.model, report.level) == ("toy", Level.AMBER)


def test_a_job_checks_a_model(installation: Installation, toy: Path) -> None:
    recipe = load_recipe("smoke", changes=["model=toy"])
    payload = CheckRequest.build("toy", recipe, prompts="").write()
    job = carry_out(
        enqueue_job(
            JobKind.CHECK_MODEL,
            by=make_person("alice", "operator"),
            experiment_name="toy",
            payload=payload,
        )
    )
    assert (job.status, job.message) == ("done", "")
    assert CheckReport.from_json(job.outcome).level is not Level.RED
