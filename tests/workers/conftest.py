"""An installation of its own: folders, a stub of a model, a recipe, and no real training."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from pytest_django.fixtures import Settings

from meta_reward_core.engines.scripted import (
    Script,
    ScriptedEngine,
    make_fake_log_probability,
    make_fake_reply,
)
from meta_reward_core.planning import engine_loading
from meta_reward_core.training.row_types import RowIterable, TokenSources
from tests.workers.installation import Installation, UseScript

OnLog = Callable[[dict[str, float]], None]

RECIPE = """\
name: scripted
model: stub
iterations: 2
prompts_per_shard: 4
probe: {prompts: 0, check_shards: false}
sample: {prompts: 8}
actor: {samples: 4}
judge: {samples: 5}
meta_judge: {max_chosen_judgment_chars: null}
engine: {kind: scripted}
"""


@pytest.fixture
def installation(tmp_path: Path, settings: Settings, db: None, fake_training: None) -> Installation:
    settings.META_REWARD_ARTIFACT_ROOT = str(tmp_path / "artifacts")
    settings.META_REWARD_MODEL_ROOT = str(tmp_path / "models")
    settings.META_REWARD_SCRATCH_ROOT = str(tmp_path / "scratch")
    settings.META_REWARD_LOG_ROOT = str(tmp_path / "logs")
    made = Installation(tmp_path)
    made.model.mkdir(parents=True)
    (made.model / "config.json").write_text("{}")
    (made.model / "model.safetensors").write_bytes(b"weights of M0")
    (made.model / "chat_template.jinja").write_text("{{ messages }}")
    made.recipe.write_text(RECIPE)
    made.prompts.write_text("".join(f"question {number}?\n" for number in range(20)))
    return made


@pytest.fixture
def fake_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a function in TRL's place that writes a folder which depends on the rows alone."""

    def train_dpo(
        rows: RowIterable[object], *, checkpoint: Path, on_log: OnLog, **_: object
    ) -> SimpleNamespace:
        assert len(list(rows)) == len(rows)
        checkpoint.mkdir()
        (checkpoint / "model.safetensors").write_bytes(f"after {len(rows)} rows".encode())
        (checkpoint / "config.json").write_text("{}")
        log = [
            {"step": 1, "epoch": 5.0, "loss": 0.69, "rewards/accuracies": 0.5},
            {"step": 2, "epoch": 10.0, "loss": 0.42, "rewards/accuracies": 1.0},
        ]
        for row in log:
            on_log(row)
        return SimpleNamespace(
            rows_trained=len(rows), refused=[], kept_step=2, log=log, tokens=TokenSources()
        )

    fake = SimpleNamespace(train_dpo=train_dpo)
    monkeypatch.setitem(sys.modules, "meta_reward_core.training.dpo", fake)


@pytest.fixture
def use_script(monkeypatch: pytest.MonkeyPatch) -> UseScript:
    """Let the engine answer by another script; returns the function that sets it."""

    def use(script: Script) -> None:
        monkeypatch.setattr(
            engine_loading,
            "load_engine",
            lambda model, recipe: ScriptedEngine(script, make_fake_log_probability),
        )

    use(make_fake_reply)
    return use
