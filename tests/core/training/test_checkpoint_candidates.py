"""Checkpoints that a development set selects: every epoch is scored once, the best is published."""

from pathlib import Path

import pytest

from meta_reward_core.errors import TrainingError
from meta_reward_core.recipes.training_settings import DpoSettings, LoraSettings
from meta_reward_core.training.checkpoint_candidates import CheckpointScorer
from meta_reward_core.training.dpo import train_dpo
from meta_reward_core.training.result import TrainingOutcome
from tests.core.training.conftest import TINY_DPO, preference_rows
from tests.core.training.test_processes import largest_difference, list_processes

SELECTED = TINY_DPO.model_copy(update={"checkpoint_selection": "highest_development_score"})
"""Two steps an epoch, three epochs."""


def train(
    root: Path,
    start: Path,
    settings: DpoSettings,
    score: CheckpointScorer | None,
    told: list[dict[str, float]] | None = None,
) -> TrainingOutcome:
    return train_dpo(
        preference_rows(16),
        start=start,
        settings=settings,
        checkpoint=root / "m1",
        scratch=root / "scratch",
        seed=5,
        threads=1,
        on_log=None if told is None else told.append,
        score_checkpoint=score,
    )


def read_weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_epoch_with_the_highest_score_is_published(first_model: Path, tmp_path: Path) -> None:
    """The mean of two tasks: 0.5, 0.7 and 0.6, so the second of three epochs."""
    seen: dict[int, bytes] = {}
    told: list[dict[str, float]] = []

    def score(folder: Path, step: int) -> dict[str, float]:
        assert sorted(file.name for file in folder.iterdir()) == names
        seen[step] = read_weights(folder)
        return {"ifeval": {2: 0.4, 4: 0.6, 6: 0.9}[step], "pairs": {2: 0.6, 4: 0.8, 6: 0.3}[step]}

    last = train(tmp_path / "last", first_model, TINY_DPO, None)
    names = sorted(file.name for file in (tmp_path / "last" / "m1").iterdir())
    outcome = train(tmp_path / "best", first_model, SELECTED, score, told)
    assert list(seen) == [2, 4, 6]
    assert len(set(seen.values())) == 3
    assert seen[6] == read_weights(tmp_path / "last" / "m1"), "scoring changes no training"
    assert read_weights(tmp_path / "best" / "m1") == seen[4]
    assert sorted(file.name for file in (tmp_path / "best" / "m1").iterdir()) == names
    assert (outcome.kept_step, outcome.kept_epoch, outcome.published) == (4, 2.0, True)
    assert outcome.rule == "highest_development_score"
    assert outcome.log[: len(last.log)] == last.log
    assert outcome.log == told
    assert outcome.log[len(last.log) :] == [
        {
            "step": step,
            "epoch": step / 2,
            "development_score": pytest.approx(mean),
            "development_score/ifeval": ifeval,
            "development_score/pairs": pairs,
        }
        for step, mean, ifeval, pairs in [
            (2, 0.5, 0.4, 0.6),
            (4, 0.7, 0.6, 0.8),
            (6, 0.6, 0.9, 0.3),
        ]
    ]
    assert list_processes(tmp_path) == []
    assert not (tmp_path / "best" / "scratch").exists()


def test_the_earliest_of_equal_epochs_is_published(first_model: Path, tmp_path: Path) -> None:
    settings = SELECTED.model_copy(update={"log_every_steps": 5})
    outcome = train(tmp_path, first_model, settings, lambda *_: {"ifeval": 0.5})
    assert (outcome.kept_step, outcome.kept_epoch) == (2, 1.0)


def test_an_interrupted_selection_measures_nothing_twice(first_model: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    def score(folder: Path, step: int) -> dict[str, float]:
        asked.append(step)
        if asked == [2, 4]:
            raise KeyboardInterrupt
        return {"ifeval": step / 10}

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, first_model, SELECTED, score)
    assert not (tmp_path / "m1").exists()
    told: list[dict[str, float]] = []
    outcome = train(tmp_path, first_model, SELECTED, score, told)
    assert asked == [2, 4, 4, 6]
    assert outcome.kept_step == 6
    assert [row["step"] for row in told] == [2, 4, 6], "no step is trained again"


def test_adapters_are_scored_merged_and_kept_with_the_best_epoch(
    first_model: Path, tmp_path: Path
) -> None:
    settings = SELECTED.model_copy(update={"lora": LoraSettings(r=2, alpha=4, keep_adapter=True)})
    adapters: dict[int, bytes] = {}

    def score(folder: Path, step: int) -> dict[str, float]:
        assert largest_difference(first_model, folder) > 0
        adapters[step] = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
        return {"ifeval": -float(step)}

    train(tmp_path, first_model, settings, score)
    kept = (tmp_path / "m1" / "adapter" / "adapter_model.safetensors").read_bytes()
    assert kept == adapters[2]
    assert kept != adapters[6]


def test_a_selection_without_a_scorer_is_refused(first_model: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="needs score_checkpoint"):
        train(tmp_path, first_model, SELECTED, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_sharded_epochs_are_scored_like_those_of_one_process(
    first_model: Path, tmp_path: Path
) -> None:
    def score(folder: Path, step: int) -> dict[str, float]:
        return {"ifeval": {2: 0.1, 4: 0.3, 6: 0.2}[step]}

    sharded = SELECTED.model_copy(
        update={"processes": 2, "sharding": "fsdp", "gradient_checkpointing": True}
    )
    one = train(tmp_path / "one", first_model, SELECTED, score)
    two = train(tmp_path / "two", first_model, sharded, score)
    assert one.kept_step == two.kept_step == 4
    change = largest_difference(first_model, tmp_path / "one" / "m1")
    difference = largest_difference(tmp_path / "one" / "m1", tmp_path / "two" / "m1")
    assert difference <= 0.01 * change
