"""States are private and whole; a checkpoint appears once, as a whole, without paths."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from meta_reward_core.errors import ArtifactError
from meta_reward_core.recipes.training_settings import DpoSettings, SftSettings
from meta_reward_core.training.preprocessing import is_held_out
from meta_reward_core.training.resume import (
    find_resume_state,
    mark_complete,
    open_scratch,
    publish_model,
)


@pytest.fixture
def start(tmp_path: Path) -> Path:
    folder = tmp_path / "start"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"_name_or_path": str(tmp_path), "model_type": "llama"})
    )
    (folder / "tokenizer_config.json").write_text('{"name_or_path": "/home/alice", "a": "é"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("not part of the model")
    return folder


def write_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "training_args.bin").write_bytes(b"a pickle")
    (folder / "config.json").write_text("another")
    (folder / "runs").mkdir()


def test_config_tokenizer_and_weights_are_published_without_paths(
    start: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "out" / "m1"
    assert publish_model(write_weights, start=start, checkpoint=checkpoint, job_name="a")
    assert sorted(file.name for file in checkpoint.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert json.loads((checkpoint / "config.json").read_text()) == {"model_type": "llama"}
    assert json.loads((checkpoint / "tokenizer_config.json").read_text()) == {"a": "é"}
    assert [entry.name for entry in checkpoint.parent.iterdir()] == ["m1"]


def test_the_first_writer_wins(start: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "m1"
    assert publish_model(write_weights, start=start, checkpoint=checkpoint, job_name="a")
    before = (checkpoint / "model.safetensors").stat().st_mtime_ns
    assert not publish_model(write_weights, start=start, checkpoint=checkpoint, job_name="b")
    assert (checkpoint / "model.safetensors").stat().st_mtime_ns == before


def test_a_failed_publication_leaves_nothing(start: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no safetensors"):
        publish_model(lambda _: None, start=start, checkpoint=tmp_path / "m1", job_name="a")
    assert [entry.name for entry in tmp_path.iterdir()] == ["start"]


def test_a_killed_publication_is_cleared_by_its_own_job(start: Path, tmp_path: Path) -> None:
    left = tmp_path / ".m1.a.partial"
    left.mkdir()
    (left / "model-half.safetensors").write_bytes(b"half")
    publish_model(write_weights, start=start, checkpoint=tmp_path / "m1", job_name="a")
    assert not (tmp_path / "m1" / "model-half.safetensors").exists()
    assert not left.exists()


def test_only_a_whole_state_is_resumed_and_halves_are_removed(tmp_path: Path) -> None:
    for step in (9, 10, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
    mark_complete(tmp_path / "checkpoint-9")
    mark_complete(tmp_path / "checkpoint-10")
    assert find_resume_state(tmp_path) == tmp_path / "checkpoint-10"
    assert not (tmp_path / "checkpoint-11").exists()
    assert find_resume_state(tmp_path / "absent") is None


def test_scratch_is_private_and_serves_one_job(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    open_scratch(scratch, {"seed": 1})
    assert scratch.stat().st_mode & 0o777 == 0o700
    (scratch / "states").mkdir()
    open_scratch(scratch, {"seed": 1})
    assert (scratch / "states").exists()
    open_scratch(scratch, {"seed": 2})
    assert not (scratch / "states").exists(), "another job's state is never resumed"


def test_a_prompt_is_held_out_by_its_hash_alone() -> None:
    """Of 2,000 prompts at share .25, 500 are expected; five sigma is 97."""
    chosen = [is_held_out(f"prompt-{number}", share=0.25) for number in range(2000)]
    assert abs(sum(chosen) - 500) < 97
    assert not is_held_out("prompt", share=0.0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"batch_size": 6, "device_batch_size": 4}, "multiple of device_batch_size"),
        ({"checkpoint_selection": "lowest_validation_loss"}, "needs a validation_share"),
        ({"unknown": 1}, "Extra inputs"),
        ({"learning_rate": 0}, "greater than 0"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        DpoSettings.model_validate(change)


def test_accuracy_chooses_no_checkpoint_of_fine_tuning() -> None:
    with pytest.raises(ValidationError, match="for DPO only"):
        SftSettings.model_validate(
            {"checkpoint_selection": "highest_validation_accuracy", "validation_share": 0.1}
        )
