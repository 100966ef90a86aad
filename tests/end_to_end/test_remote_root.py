"""A whole iteration whose files lie in an S3-compatible store: the same bytes as in a folder."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from meta_reward_core.experiment import open_experiment
from meta_reward_core.storage.artifact_store import ArtifactStore
from tests.databases import find_migrated_database
from tests.end_to_end.conftest import TINY, Site
from tests.remote import comparable, digests_of
from tests.services import S3


@dataclass(frozen=True)
class RemoteSite(Site):
    """A site whose root of artifacts lies elsewhere; this process reads it too."""

    url: str = ""

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"META_REWARD_ARTIFACT_ROOT": self.url}

    def digests(self) -> dict[str, str]:
        return digests_of(self.url)


@pytest.mark.slow
def test_tables_and_weights_have_the_bytes_of_a_local_run(
    quiet_site: Site, s3: S3, tmp_path: Path
) -> None:
    site = RemoteSite(tmp_path / "here", s3.root("tiny"))
    site.root.mkdir()
    site.recipe.write_text(TINY)
    shutil.copy(find_migrated_database(), site.root / "db.sqlite3")
    made = site.run_iteration("--iterations", "1")
    assert made.returncode == 0, made.stdout
    assert comparable(site.digests()) == comparable(quiet_site.digests())
    shutil.rmtree(tmp_path / "cache")
    again = site.run_iteration("--iterations", "1")
    assert again.returncode == 0, again.stdout
    assert "is already finished; all its files are intact" in again.stdout
    experiment = open_experiment(ArtifactStore(site.url), "tiny")
    assert experiment is not None
    for number in (0, 1):
        model = experiment.get_model(number)
        assert model.folder == tmp_path / "cache" / "checkpoints" / model.sha256
