"""The seed model: shipped, gated, and made again when what it is made from changes."""

import json
from pathlib import Path

import pytest

from meta_reward_core.storage.artifact_store import hash_json
from meta_reward_core.tasks.toy import base_model, task, tokenizer
from meta_reward_core.tasks.toy.base_model import QUALITY_GATE, GateResult

SEED_DATA_OF_VERSION = {1: "4933d14623af2ed606989e3eb7a76b0bdd3a48a30f7d40fed7d5dea53fefb11a"}


def test_the_shipped_seed_was_made_from_what_stands_here_now() -> None:
    record = json.loads(base_model.get_shipped_seed_model().with_suffix(".json").read_text())
    assert record["key"] == base_model.compute_seed_model_key(), (
        "run `make seed`: the seed's recipe has changed"
    )
    assert base_model.ensure_seed_model(Path("/nowhere"), scratch=Path("/nowhere"), say=print) == (
        base_model.get_shipped_seed_model()
    )


def test_the_shipped_seed_is_the_first_that_passed_the_gate_and_the_failures_are_named() -> None:
    record = json.loads(base_model.get_shipped_seed_model().with_suffix(".json").read_text())
    results = [GateResult(**result) for result in record["tried"]]
    assert [result.sft_seed for result in results] == list(range(1, len(results) + 1))
    assert [result.passed for result in results] == [False] * (len(results) - 1) + [True]


@pytest.mark.slow
def test_the_shipped_seed_really_passes_the_gate() -> None:
    record = json.loads(base_model.get_shipped_seed_model().with_suffix(".json").read_text())
    claimed = GateResult(**record["tried"][-1])
    measured = base_model.measure_gate(
        base_model.get_shipped_seed_model(), sft_seed=claimed.sft_seed
    )
    assert measured.passed
    assert measured.accuracy == pytest.approx(claimed.accuracy, abs=0.01)


def test_the_shipped_seed_is_well_below_five_million_parameters() -> None:
    weights = base_model.get_shipped_seed_model() / "model.safetensors"
    assert weights.stat().st_size / 4 < 1_500_000


def test_the_shipped_seed_has_the_architecture_that_its_key_stands_for() -> None:
    config = json.loads((base_model.get_shipped_seed_model() / "config.json").read_text())
    expected = tokenizer.get_architecture()
    assert {name: config[name] for name in expected} == expected


@pytest.mark.parametrize("name", sorted(tokenizer.get_architecture()))
def test_another_architecture_is_another_key(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = base_model.compute_seed_model_key()
    changed = tokenizer.get_architecture() | {name: "another value"}
    monkeypatch.setattr(tokenizer, "get_architecture", lambda: changed)
    assert base_model.compute_seed_model_key() != before


def test_another_world_recipe_or_gate_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {base_model.compute_seed_model_key()}
    for target, name, value in (
        (task, "WORLD_VERSION", 10_000),
        (tokenizer, "CHAT_TEMPLATE", "another"),
        (base_model, "SFT_ROWS", 16),
        (
            base_model,
            "SFT_SETTINGS",
            base_model.SFT_SETTINGS.model_copy(update={"learning_rate": 0.1}),
        ),
        (base_model, "QUALITY_GATE", base_model.QualityGate(accuracy=0.5)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, value)
            keys.add(base_model.compute_seed_model_key())
    assert len(keys) == 6


def test_a_change_of_the_seed_data_raises_the_worlds_version() -> None:
    """The key holds the world's version, so data that changes without it would go unnoticed."""
    data = hash_json([tokenizer.build_vocabulary(), list(task.generate_sft_rows(320, seed=1))])
    assert {task.WORLD_VERSION: data} == SEED_DATA_OF_VERSION


def test_a_cached_seed_is_found_and_one_of_another_key_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "WORLD_VERSION", 10_000)
    made: list[Path] = []

    def train(folder: Path, *, scratch: Path, say: object) -> None:
        folder.mkdir(parents=True)
        record = {"key": base_model.compute_seed_model_key(), "tried": []}
        (folder.parent / f"{folder.name}.json").write_text(json.dumps(record))
        made.append(folder)

    monkeypatch.setattr(base_model, "train_seed_model", train)
    first = base_model.ensure_seed_model(tmp_path, scratch=tmp_path, say=print)
    again = base_model.ensure_seed_model(tmp_path, scratch=tmp_path, say=print)
    assert first == again != base_model.get_shipped_seed_model()
    assert made == [first]
    monkeypatch.setattr(task, "WORLD_VERSION", 10_001)
    assert base_model.ensure_seed_model(tmp_path, scratch=tmp_path, say=print) != first


@pytest.mark.parametrize(
    "accuracy, first, second, passed",
    [
        (0.85, 0.85, 0.85, True),
        (QUALITY_GATE.accuracy, 0.8, 0.8, True),
        (0.79, 0.79, 0.79, False),
        (0.85, 0.95, 0.75, False),
    ],
)
def test_the_gate_asks_for_accuracy_and_for_an_even_hand(
    accuracy: float, first: float, second: float, *, passed: bool
) -> None:
    assert GateResult(1, accuracy, first, second).passed is passed
