"""What may be deleted is listed first, and nothing that is needed is among it."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone
from pytest_django.fixtures import Settings

from meta_reward_core.artifacts import ArtifactStore
from meta_reward_core.experiment import open_experiment
from tests.workers.installation import Installation, UseScript
from webapp.experiments.models import Experiment, Order, RunStatus
from webapp.people.models import Event


@pytest.fixture
def finished(installation: Installation, use_script: UseScript, settings: Settings) -> Installation:
    settings.META_REWARD_UPLOAD_ROOT = str(installation.root / "uploads")
    installation.run_iteration("--iterations", 2)
    scratch = installation.root / "scratch" / "mine" / "iteration-1"
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / "state").write_bytes(b"x" * 1000)
    return installation


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_nothing_is_deleted_unless_asked(finished: Installation) -> None:
    before = files(finished.root)
    said = finished.run("prune", "--what", "scratch", "uploads", "events", "checkpoints")
    assert "iteration-1/checkpoint" in said
    assert "M1 of mine can no longer be tried" in said
    assert "nothing was" in said
    assert files(finished.root) == before


def test_checkpoints_go_only_by_name_and_the_last_stays(finished: Installation) -> None:
    finished.run("prune", "--yes")
    checkpoint = finished.artifacts / "mine" / "iteration-1" / "checkpoint"
    assert checkpoint.is_dir()
    tables = {name for name in files(finished.artifacts) if "checkpoint" not in name}
    finished.run("prune", "--what", "checkpoints", "--yes")
    assert not checkpoint.exists()
    assert (finished.artifacts / "mine" / "iteration-2" / "checkpoint").is_dir()
    assert {name for name in files(finished.artifacts) if "checkpoint" not in name} == tables
    experiment = open_experiment(ArtifactStore(str(finished.artifacts)), "mine")
    assert experiment is not None
    assert experiment.model(1).sha256 == Experiment.objects.get().iterations.get(number=1).model_out
    assert experiment.context(3).model.name == "M2"


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
    assert "begins anew" in finished.run("prune", "--what", "cache", "--yes")
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize("status", [RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.INTERRUPTED])
def test_an_experiment_that_goes_on_keeps_everything(
    finished: Installation, status: RunStatus
) -> None:
    Experiment.objects.update(status=status)
    before = files(finished.root)
    finished.run("prune", "--what", "scratch", "checkpoints", "--yes")
    assert files(finished.root) == before


def test_the_scratch_of_an_experiment_that_has_ended_goes(finished: Installation) -> None:
    other = finished.root / "scratch" / "not-an-experiment"
    other.mkdir()
    said = finished.run("prune", "--what", "scratch", "--yes")
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
    Order.objects.create(kind="launch", subject="next", wish={"prompts": wanted.name})
    finished.run("prune", "--what", "uploads", "--yes")
    assert set(uploads.iterdir()) == {wanted, young, strange}


def test_old_events_go_and_young_ones_stay(finished: Installation) -> None:
    for days in (100, 10):
        event = Event.objects.create(kind="failed", subject=f"{days} days")
        Event.objects.filter(pk=event.pk).update(created=timezone.now() - timedelta(days=days))
    finished.run("prune", "--what", "events", "--yes")
    assert "10 days" in set(Event.objects.values_list("subject", flat=True))
    assert "100 days" not in set(Event.objects.values_list("subject", flat=True))
