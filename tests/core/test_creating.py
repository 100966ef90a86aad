"""An experiment that cannot be created leaves nothing behind."""

from pathlib import Path

import pytest

from meta_reward_core.errors import StorageFullError
from meta_reward_core.storage.experiment_files import ExperimentFiles
from tests.core.scripted_world import begin


def test_what_was_written_is_removed_when_the_description_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StorageFullError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(ExperimentFiles, "write_description", refuse)
        with pytest.raises(StorageFullError, match="no room"):
            begin(tmp_path)
    assert [file for file in tmp_path.rglob("*") if file.is_file() and file.name != ".lock"] == []
    assert begin(tmp_path).name == "scripted", "the name is free again"


def test_an_experiment_that_exists_is_not_touched(tmp_path: Path) -> None:
    begin(tmp_path)
    before = sorted(tmp_path.rglob("*.parquet"))
    with pytest.raises(Exception, match="already exists"):
        begin(tmp_path, prompts=61)
    assert sorted(tmp_path.rglob("*.parquet")) == before != []
