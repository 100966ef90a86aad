"""A training that is followed by TensorBoard, Weights & Biases and MLflow, with the real tools."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from meta_reward_core.errors import SettingsError, TrainingError
from meta_reward_core.training.dpo import train_dpo
from meta_reward_core.training.tracking import use_trackers
from tests.core.training.conftest import TINY_DPO, preference_rows


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "mlflow"])
def test_trackers_get_the_log_while_it_is_written(
    first_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    if find_spec(tracker) is None:
        pytest.skip(f"{tracker} of the extra 'tracking' is not installed")
    root = tmp_path / "tracking"
    monkeypatch.setenv("META_REWARD_TRACKERS", tracker)
    monkeypatch.setenv("META_REWARD_TRACKING_ROOT", str(root))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    outcome = train_dpo(
        preference_rows(16),
        start=first_model,
        settings=TINY_DPO,
        checkpoint=tmp_path / "m1",
        scratch=tmp_path / "scratch",
        seed=5,
        run_name="toy-iteration-1",
    )
    losses = [row["loss"] for row in outcome.log if "loss" in row]
    assert len(losses) > 3
    if tracker == "tensorboard":
        found = EventAccumulator(str(root / "tensorboard" / "toy-iteration-1"))
        found.Reload()
        assert [event.value for event in found.Scalars("train/loss")] == pytest.approx(losses)
    elif tracker == "mlflow":
        [file] = root.glob("mlruns/*/*/metrics/loss")
        values = [float(line.split()[1]) for line in file.read_text().splitlines()]
        assert values == pytest.approx(losses)
    else:
        [file] = root.glob("wandb/offline-run-*/run-*.wandb")
        assert b"train/loss" in file.read_bytes()


@pytest.mark.parametrize(("key", "mode"), [("", "offline"), ("sesame", "online")])
def test_runs_are_sent_only_with_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, mode: str
) -> None:
    """An empty key is none: processes without secrets have it."""
    monkeypatch.setenv("META_REWARD_TRACKERS", "tensorboard")
    monkeypatch.setenv("META_REWARD_TRACKING_ROOT", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    before = dict(os.environ)
    with use_trackers("toy"):
        assert (os.environ["WANDB_MODE"], os.environ["WANDB_PROJECT"]) == (mode, "mine")
        assert os.environ["WANDB_API_KEY"] == key
    assert dict(os.environ) == before


def test_trackers_that_cannot_be_used_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with use_trackers("toy") as trackers:
        assert trackers == []
    monkeypatch.setenv("META_REWARD_TRACKERS", "tensorboard, comet")
    with pytest.raises(SettingsError, match="META_REWARD_TRACKERS"), use_trackers("toy"):
        pass
    monkeypatch.setenv("META_REWARD_TRACKERS", "tensorboard,")
    monkeypatch.setattr("meta_reward_core.training.tracking.find_spec", lambda _: None)
    with pytest.raises(TrainingError, match="tensorboard is not installed"), use_trackers("toy"):
        pass
