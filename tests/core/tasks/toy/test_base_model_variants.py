"""Other seed models: found by name, trained once, gated where they should be good."""

import json
from pathlib import Path

import pytest

from meta_reward_core.errors import ModelFolderError, TrainingError
from meta_reward_core.planning.base_model import resolve_base_model
from meta_reward_core.planning.experiment_setup import check_seed_model
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.tasks.toy import base_model, task
from meta_reward_core.tasks.toy.base_model import GateResult
from meta_reward_core.tasks.toy.base_model_variants import (
    SeedModelVariant,
    ensure_variant,
    find_gate_result,
    parse_variant,
)

Trained = list[tuple[int, object]]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Training and gate in no time; SFT seed 7 fails the gate, and so does any noisy one."""
    made: Trained = []

    def train(candidate: Path, *, sft_seed: int, meta_judge_noise: object, **_: object) -> None:
        made.append((sft_seed, meta_judge_noise))
        candidate.mkdir(parents=True)
        (candidate / "config.json").write_text("{}")
        (candidate / "model.safetensors").write_text(f"{sft_seed} {meta_judge_noise}")

    def gate(folder: Path, *, sft_seed: int) -> GateResult:
        good = sft_seed != 7 and "JudgeNoise" not in (folder / "model.safetensors").read_text()
        return GateResult(sft_seed, *([0.9] * 3 if good else [0.6] * 3))

    monkeypatch.setattr(base_model, "train_candidate", train)
    monkeypatch.setattr(base_model, "measure_gate", gate)
    return made


def ensure(variant: SeedModelVariant, root: Path) -> Path:
    return ensure_variant(variant, root / "models", scratch=root / "scratch", say=lambda _: None)


@pytest.mark.parametrize(
    "name, variant",
    [
        ("miniature-sft2", SeedModelVariant(2)),
        ("miniature-sft12-noisy", SeedModelVariant(12, noisy=True)),
        ("miniature-sft0", None),
        ("miniature-sft2-loud", None),
        ("meta-llama/some-model", None),
        (None, None),
    ],
)
def test_a_recipe_names_a_variant(name: str | None, variant: SeedModelVariant | None) -> None:
    assert parse_variant(name) == variant
    assert variant is None or variant.name == name


def test_it_is_trained_at_the_first_wish_alone(tmp_path: Path, trained: Trained) -> None:
    first = ensure(SeedModelVariant(2), tmp_path)
    assert ensure(SeedModelVariant(2), tmp_path) == first
    assert (first / "model.safetensors").is_file()
    assert trained == [(2, task.SEED_META_JUDGE_NOISE)]
    assert not (tmp_path / "scratch" / first.name).exists()


def test_the_first_one_is_the_shipped_one(tmp_path: Path, trained: Trained) -> None:
    assert ensure(SeedModelVariant(1), tmp_path) == base_model.get_shipped_seed_model()
    assert trained == []


def test_one_that_fails_the_gate_is_no_model_but_is_remembered(
    tmp_path: Path, trained: Trained
) -> None:
    for _ in range(2):
        with pytest.raises(TrainingError, match="SFT seed 7 failed the gate"):
            ensure(SeedModelVariant(7), tmp_path)
    roots = StorageRoots(str(tmp_path / "a"), tmp_path / "models", tmp_path / "scratch")
    with pytest.raises(TrainingError, match="SFT seed 7 failed the gate"):
        check_seed_model(load_recipe("smoke", changes=["model=miniature-sft7"]), roots)
    gate = find_gate_result(SeedModelVariant(7), tmp_path / "models")
    assert gate is not None
    assert not gate.passed
    assert len(trained) == 1
    assert not [path for path in (tmp_path / "models").iterdir() if path.is_dir()]


def test_a_noisy_one_learns_the_judges_noise_and_is_kept_although_it_fails(
    tmp_path: Path, trained: Trained
) -> None:
    folder = ensure(SeedModelVariant(1, noisy=True), tmp_path)
    assert trained == [(1, task.SEED_JUDGE_NOISE)]
    assert folder.name.startswith("miniature-sft1-noisy-")
    record = json.loads(folder.with_name(f"{folder.name}.json").read_text())
    assert record["gate"]["accuracy"] == 0.6


def test_a_killed_training_leaves_nothing_that_counts(
    tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record comes last; a folder without one is made again."""

    def die(folder: Path, *, sft_seed: int) -> GateResult:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(base_model, "measure_gate", die)
        with pytest.raises(KeyboardInterrupt):
            ensure(SeedModelVariant(2), tmp_path)
    assert find_gate_result(SeedModelVariant(2), tmp_path / "models") is None
    assert (ensure(SeedModelVariant(2), tmp_path) / "config.json").is_file()
    assert len(trained) == 2


def test_a_launch_finds_the_variant_that_its_recipe_names(tmp_path: Path, trained: Trained) -> None:
    roots = StorageRoots(str(tmp_path / "a"), tmp_path / "models", tmp_path / "scratch")
    recipe = load_recipe("miniature-noisy-meta-judge")
    assert "it is trained when the experiment starts" in str(check_seed_model(recipe, roots))
    found = resolve_base_model(recipe, roots, say=lambda _: None)
    assert found.folder.name.startswith("miniature-sft1-noisy-")
    assert check_seed_model(recipe, roots) is None
    other = recipe.model_copy(update={"task": None})
    with pytest.raises(ModelFolderError):
        resolve_base_model(other, roots, say=lambda _: None)


def test_a_noisy_meta_judge_errs_as_the_judge_does_and_more_so_with_length() -> None:
    """Of verbose responses it believes most wrong words; a sharp one is wrong in 3% of slots."""

    def believed_wrongly(noise: float | task.JudgeNoise, *, phrases: int) -> float:
        errors = slots = 0
        for row in task.generate_sft_rows(3000, seed=5, meta_judge_noise=noise):
            if row["task"] != "meta_judge":
                continue
            asked, said = row["prompt"][0]["content"], row["completion"][0]["content"]
            if _phrases(asked) != phrases:
                continue
            truth, stated = _truth(asked), [line.split()[0] for line in said.splitlines()[:5]]
            errors += sum(a != b for a, b in zip(truth, stated, strict=True))
            slots += 5
        return errors / slots

    assert believed_wrongly(task.SEED_META_JUDGE_NOISE, phrases=7) < 0.06
    assert believed_wrongly(task.SEED_JUDGE_NOISE, phrases=7) > 0.2
    assert believed_wrongly(task.SEED_JUDGE_NOISE, phrases=0) < 0.25


def _response(asked: str) -> tuple[list[str], list[str]]:
    """The expected words and the words given, read off the first judgment that is shown."""
    rows = [line.split() for line in asked.splitlines()]
    judged = [row for row in rows if len(row) == 4 and row[2] in task.VERDICTS][:5]
    return [row[0] for row in judged], [row[1] for row in judged]


def _truth(asked: str) -> list[str]:
    expected, given = _response(asked)
    return ["yes" if a == b else "no" for a, b in zip(expected, given, strict=True)]


def _phrases(asked: str) -> int:
    return sum(asked.count(phrase) for phrase in task.PHRASES)
