"""Files that are gone are noticed, also by a process that has opened the experiment before."""

from pathlib import Path

import pytest

from meta_reward_core.context import StageResources
from meta_reward_core.errors import ArtifactError
from tests.workers.installation import Installation, UseScript
from webapp.experiments.models import Iteration
from workers.engine import process
from workers.pipeline import open_experiment


@pytest.fixture
def elsewhere(installation: Installation, use_script: UseScript) -> Path:
    """Where the files are after the artifact root has vanished, as an unmounted share does."""
    installation.run_iteration()
    open_experiment.build_context(Iteration.objects.get())
    process._open_experiment({"artifact_root": str(installation.artifacts), "experiment": "mine"})
    return installation.artifacts.rename(installation.root / "elsewhere")


def test_a_step_under_a_vanished_root_is_refused_and_goes_on_when_it_is_back(
    elsewhere: Path, installation: Installation
) -> None:
    with pytest.raises(ArtifactError, match=r"are missing in .* mount"):
        open_experiment.build_context(Iteration.objects.get())
    elsewhere.rename(installation.artifacts)
    assert open_experiment.build_context(Iteration.objects.get()).number == 1


def test_a_shard_under_a_vanished_root_writes_nothing(
    elsewhere: Path, installation: Installation
) -> None:
    request = {
        "artifact_root": str(installation.artifacts),
        "scratch": str(installation.root / "scratch"),
        "experiment": "mine",
        "iteration": 1,
        "stage": "generate",
        "shard": 0,
    }
    resources = StageResources(
        load_engine=lambda model, recipe: pytest.fail("loaded"), scratch=Path()
    )
    with pytest.raises(ArtifactError, match=r"are missing in"):
        process.run_shard(request, resources)
    assert not installation.artifacts.exists()
