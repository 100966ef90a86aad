"""Nothing is drawn, and nothing is trained, with a model that was not checked for its settings."""

import shutil
from pathlib import Path

import pytest
from django.core.management import CommandError
from safetensors.torch import load_file, save_file

from meta_reward_core.experiment import Experiment as Opened
from meta_reward_core.planning import check_experiment
from meta_reward_core.planning.experiment_request import ExperimentRequest
from meta_reward_core.planning.experiment_setup import open_or_create
from meta_reward_core.planning.model_check import gate
from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from tests.model_files import edit_json
from tests.workers.installation import Installation
from webapp.experiments.models import Experiment, Iteration, Job, JobKind, JobStatus, RunStatus
from webapp.paths import get_storage_roots
from workers.jobs.runner import QUICK_HANDLERS, run_waiting_jobs
from workers.pipeline.sync_rows import record_experiment

pytestmark = pytest.mark.django_db

RUN = ("run_iteration", "--experiment", "mine")


@pytest.fixture
def toy(installation: Installation) -> Path:
    """The toy model with another hash: the shipped one is known, and not checked."""
    folder = Path(shutil.copytree(get_shipped_seed_model(), installation.root / "models" / "toy"))
    edit_json(folder / "config.json", note=1)
    return folder


@pytest.fixture
def without_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a site: whoever creates an experiment or changes it can read files alone."""
    monkeypatch.setattr(check_experiment, "can_check_here", lambda: False)


def lose_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.self_attn.o_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def create(installation: Installation) -> tuple[Opened, list[str]]:
    said: list[str] = []
    request = ExperimentRequest("mine", recipe="smoke", changes=("model=toy",))
    experiment = open_or_create(request, get_storage_roots(), say=said.append)
    record_experiment(experiment, artifact_root=str(installation.artifacts))
    return experiment, said


def find_sampled(installation: Installation) -> list[Path]:
    return [
        *installation.artifacts.glob("mine/iteration-1/responses/*"),
        *installation.artifacts.glob("mine/iteration-1/probe/*"),
    ]


@pytest.mark.usefixtures("without_libraries")
def test_a_model_that_only_files_were_checked_of_is_checked_before_anything_is_drawn(
    installation: Installation, toy: Path
) -> None:
    lose_a_tensor(toy)
    _, said = create(installation)
    assert any("a worker checks the rest of the model" in line for line in said)
    with pytest.raises(CommandError, match="no tensor for 1 parameter") as caught:
        installation.run(*RUN)
    assert caught.value.returncode == 7
    iteration = Iteration.objects.get()
    assert iteration.status == RunStatus.NEEDS_ATTENTION
    assert "model.safetensors: no tensor for 1 parameter" in iteration.message
    assert "download the weights again" in iteration.message
    assert not find_sampled(installation)


@pytest.mark.usefixtures("without_libraries")
def test_a_worker_without_libraries_draws_nothing_from_an_unchecked_model(
    installation: Installation, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(installation)
    monkeypatch.setattr(gate, "can_check_here", lambda: False)
    with pytest.raises(CommandError, match="this worker has no model libraries"):
        installation.run(*RUN)
    assert Iteration.objects.get().status == RunStatus.NEEDS_ATTENTION
    assert not find_sampled(installation)


def test_settings_that_the_model_cannot_bear_are_refused_when_they_are_changed(
    installation: Installation, toy: Path
) -> None:
    create(installation)
    with pytest.raises(CommandError, match=r"set training\.max_length to") as caught:
        installation.run(*RUN, "--set", "training.max_length=8")
    assert caught.value.returncode == 2
    assert not list(installation.artifacts.glob("mine/settings/*"))
    assert not Iteration.objects.exists()


def test_a_change_on_a_page_is_refused_by_the_same_check(
    installation: Installation, toy: Path
) -> None:
    create(installation)
    job = request_change("training.max_length=8")
    assert job.status == JobStatus.REFUSED
    assert "set training.max_length to" in job.message
    kept = request_change("training.max_length=300")
    assert (kept.status, kept.message) == (JobStatus.DONE, "")
    (report,) = installation.artifacts.glob("mine/model_checks/*.json")
    assert '"level": "' in report.read_text() or '"level":"' in report.read_text()


@pytest.mark.usefixtures("without_libraries")
def test_a_change_that_nobody_could_check_is_checked_by_the_next_stage(
    installation: Installation, toy: Path
) -> None:
    create(installation)
    job = request_change("training.max_length=8")
    assert job.status == JobStatus.DONE
    assert job.outcome["said"] == [
        "a worker checks the rest of the model before the next stage that needs it"
    ]
    with pytest.raises(CommandError, match=r"set training\.max_length to") as caught:
        installation.run(*RUN)
    assert caught.value.returncode == 7
    assert not find_sampled(installation)


def request_change(change: str) -> Job:
    job = Job.objects.create(
        kind=JobKind.SETTINGS,
        experiment=Experiment.objects.get(),
        experiment_name="mine",
        payload={"changes": [change], "apply": ""},
    )
    run_waiting_jobs(QUICK_HANDLERS)
    job.refresh_from_db()
    return job
