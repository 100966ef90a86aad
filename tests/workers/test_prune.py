"""What may be deleted is listed first, and nothing that is needed is among it."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError
from django.utils import timezone
from pytest_django.fixtures import Settings

from meta_reward_core.experiment import open_experiment
from meta_reward_core.storage.artifact_store import ArtifactStore
from tests.workers.installation import Installation, UseScript
from webapp.activity.models import Activity
from webapp.audit.models import Gate
from webapp.dashboard.deletion import read_disk_use
from webapp.experiments.files import open_experiment_files
from webapp.experiments.jobs import enqueue_job
from webapp.experiments.models import Driver, Experiment, Iteration, Job, JobKind, RunStatus
from workers.jobs.runner import SLOW_HANDLERS, run_waiting_jobs
from workers.pipeline.open_experiment import open_row


@pytest.fixture
def finished(installation: Installation, use_script: UseScript, settings: Settings) -> Installation:
    settings.META_REWARD_UPLOAD_ROOT = str(installation.root / "uploads")
    installation.run_iteration("--iterations", 2)
    layout = open_experiment_files(Experiment.objects.get()).layout
    scratch = layout.get_scratch(installation.root / "scratch", 1)
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / "state").write_bytes(b"x" * 1000)
    return installation


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_nothing_is_deleted_unless_asked(finished: Installation) -> None:
    before = files(finished.root)
    said = finished.run("prune", "--only", "scratch", "uploads", "events", "checkpoints")
    assert "iteration-1/checkpoint" in said
    assert "M1 of mine can no longer be used" in said
    assert "nothing was" in said
    assert files(finished.root) == before


def test_checkpoints_go_only_by_name_and_the_last_stays(finished: Installation) -> None:
    finished.run("prune", "--yes")
    checkpoint = finished.artifacts / "mine" / "iteration-1" / "checkpoint"
    assert checkpoint.is_dir()
    tables = {name for name in files(finished.artifacts) if "checkpoint" not in name}
    finished.run("prune", "--only", "checkpoints", "--yes")
    assert not checkpoint.exists()
    assert (finished.artifacts / "mine" / "iteration-2" / "checkpoint").is_dir()
    assert {name for name in files(finished.artifacts) if "checkpoint" not in name} == tables
    experiment = open_experiment(ArtifactStore(str(finished.artifacts)), "mine")
    assert experiment is not None
    assert (
        experiment.get_model(1).sha256
        == Experiment.objects.get().iterations.get(number=1).model_out
    )
    assert experiment.build_context(3).model.name == "M2"


def test_copies_of_models_go_when_they_were_not_used_for_long(
    finished: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("META_REWARD_CACHE_ROOT", str(finished.root / "cache"))
    old, young = (finished.root / "cache" / "checkpoints" / (digit * 64) for digit in "ab")
    for copy in (old, young):
        copy.mkdir(parents=True)
        (copy / "model.safetensors").write_bytes(b"weights")
    days = 100 * 86_400
    os.utime(old, (time.time() - days, time.time() - days))
    said = finished.run("prune", "--yes")
    assert "copied from the store again" in said
    assert not old.exists()
    assert young.exists()


def test_a_half_download_goes_when_nobody_went_on_with_it_for_long(
    finished: Installation,
) -> None:
    name = f".name@{'5' * 40}.partial"
    old, young = (finished.root / "models" / owner / name for owner in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    os.utime(old, (0, 0))
    assert "starts again from the beginning" in finished.run("prune", "--only", "cache", "--yes")
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize("status", [RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.INTERRUPTED])
def test_an_experiment_that_goes_on_keeps_everything(
    finished: Installation, status: RunStatus
) -> None:
    Experiment.objects.update(status=status)
    before = files(finished.root)
    finished.run("prune", "--only", "scratch", "checkpoints", "--yes")
    assert files(finished.root) == before


def test_the_scratch_of_an_experiment_that_has_ended_goes(finished: Installation) -> None:
    other = finished.root / "scratch" / "not-an-experiment"
    other.mkdir()
    said = finished.run("prune", "--only", "scratch", "--yes")
    assert "deleted" in said
    assert [path.name for path in (finished.root / "scratch").iterdir()] == ["not-an-experiment"]


def test_uploads_that_are_old_and_asked_for_by_nobody_go(finished: Installation) -> None:
    uploads = finished.root / "uploads"
    uploads.mkdir()
    old, wanted, young = (uploads / f"{letter * 64}.txt" for letter in "abc")
    strange = uploads / "notes.txt"
    for file in (old, wanted, young, strange):
        file.write_text("prompt")
    for file in (old, wanted, strange):
        os.utime(file, (0, 0))
    Job.objects.create(kind="launch", experiment_name="next", payload={"prompts": wanted.name})
    finished.run("prune", "--only", "uploads", "--yes")
    assert set(uploads.iterdir()) == {wanted, young, strange}


def test_old_events_go_and_young_ones_stay(finished: Installation) -> None:
    for days in (100, 10):
        event = Activity.objects.create(
            action="failed", object_name=f"{days} days", object_type="account", source="ui"
        )
        Activity._base_manager.filter(pk=event.pk).update(
            created=timezone.now() - timedelta(days=days)
        )
    finished.run("prune", "--only", "events", "--yes")
    assert "10 days" in set(Activity.objects.values_list("object_name", flat=True))
    assert "100 days" not in set(Activity.objects.values_list("object_name", flat=True))


def test_a_whole_experiment_goes_by_its_name_alone(finished: Installation) -> None:
    finished.run_iteration("--iterations", 1, name="other")
    other = files(finished.artifacts / "other")
    before = files(finished.root)
    Gate.objects.create(experiment=Experiment.objects.get(name="mine"))
    said = finished.run("prune", "--experiment", "mine")
    assert "its models (2)" in said
    assert "nothing was" in said
    assert files(finished.root) == before
    finished.run("prune", "--experiment", "mine", "--yes")
    assert list(Experiment.objects.values_list("name", flat=True)) == ["other"]
    assert not (finished.artifacts / "mine").exists()
    assert not list((finished.root / "scratch").glob("mine*"))
    assert files(finished.artifacts / "other") == other
    with pytest.raises(CommandError, match="experiment 'mine' does not exist"):
        finished.run("prune", "--experiment", "mine", "--yes")


def test_the_name_is_free_for_another_experiment_afterwards(finished: Installation) -> None:
    finished.run("prune", "--experiment", "mine", "--yes")
    finished.run_iteration("--iterations", 1, "--seed", 7)
    row = Experiment.objects.get()
    assert (row.seed, open_row(row).seed) == (7, 7)


def test_what_a_stopped_removal_has_left_goes_by_the_same_command(finished: Installation) -> None:
    Experiment.objects.get().delete()
    said = finished.run("prune", "--experiment", "mine", "--yes")
    assert "its rows are already deleted" in said
    assert not (finished.artifacts / "mine").exists()


@pytest.mark.parametrize("status", [RunStatus.RUNNING, RunStatus.PAUSED])
def test_an_experiment_that_the_workers_have_is_not_removed(
    finished: Installation, status: RunStatus
) -> None:
    Iteration.objects.filter(number=2).update(status=status, driver=Driver.WORKERS)
    before = files(finished.root)
    with pytest.raises(CommandError, match="is still active: first run"):
        finished.run("prune", "--experiment", "mine", "--yes")
    assert files(finished.root) == before


def test_an_experiment_that_a_command_runs_is_not_removed(finished: Installation) -> None:
    experiment = open_row(Experiment.objects.get())
    with experiment.lock(), pytest.raises(CommandError, match="another process is running"):
        finished.run("prune", "--experiment", "mine", "--yes")
    assert Experiment.objects.exists()
    assert (finished.artifacts / "mine" / "experiment.json").is_file()


def test_an_experiment_whose_model_another_one_began_with_is_not_removed(
    finished: Installation,
) -> None:
    finished.run_iteration("--iterations", 1, name="heir")
    began_with = finished.artifacts / "mine" / "iteration-1" / "checkpoint"
    Experiment.objects.filter(name="heir").update(base_model_folder=began_with)
    with pytest.raises(CommandError, match="the base model of heir"):
        finished.run("prune", "--experiment", "mine", "--yes")
    finished.run("prune", "--experiment", "heir", "--yes")
    finished.run("prune", "--experiment", "mine", "--yes")
    assert not Experiment.objects.exists()


def test_a_deletion_that_was_requested_on_a_page_removes_rows_and_files(
    finished: Installation,
) -> None:
    row = Experiment.objects.get(name="mine")
    use = read_disk_use(row)
    assert use is not None
    on_disk = {path: path.stat().st_size for path in finished.artifacts.rglob("*/checkpoint/*")}
    assert sum(model.size for model in use.models) == sum(on_disk.values()) > 0
    assert [model.number for model in use.models] == [1, 2]
    job = enqueue_job(JobKind.DELETE, by=None, experiment=row)
    assert run_waiting_jobs(SLOW_HANDLERS) == 1
    job.refresh_from_db()
    assert (job.status, job.experiment, job.experiment_name) == ("done", None, "mine")
    assert job.outcome["freed_bytes"] >= use.total
    assert not (finished.artifacts / "mine").exists()
    assert not Experiment.objects.exists()
