"""An installation of its own: folders, a stub of a model, a recipe, and no real training."""

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.core.management import call_command

from meta_reward_core import launch
from meta_reward_core.engines.plausible import plausible_reply
from meta_reward_core.engines.scripted import ScriptedEngine

RECIPE = """\
name: scripted
model: stub
iterations: 2
shard_prompts: 4
sample: {prompts: 8}
actor: {samples: 4}
judge: {samples: 5}
meta_judge: {max_chosen_judgment_chars: null}
engine: {kind: scripted}
"""


@dataclass
class Installation:
    """Where this test's commands work, and how to run one."""

    root: Path

    @property
    def artifacts(self):
        return self.root / "artifacts"

    def run(self, command, *arguments):
        out = io.StringIO()
        call_command(command, *map(str, arguments), stdout=out)
        return out.getvalue()

    def run_iteration(self, *arguments, name="mine"):
        given = () if "--recipe" in arguments else ("--recipe", self.recipe)
        if "--prompts" not in arguments:
            given = (*given, "--prompts", self.prompts)
        return self.run("run_iteration", "--experiment", name, *given, *arguments)

    @property
    def recipe(self):
        return self.root / "recipe.yaml"

    @property
    def prompts(self):
        return self.root / "prompts.txt"

    @property
    def model(self):
        return self.root / "models" / "stub"


@pytest.fixture
def installation(tmp_path, settings, db, fake_training):
    settings.META_REWARD_ARTIFACT_ROOT = str(tmp_path / "artifacts")
    settings.META_REWARD_MODEL_ROOT = str(tmp_path / "models")
    settings.META_REWARD_SCRATCH_ROOT = str(tmp_path / "scratch")
    made = Installation(tmp_path)
    made.model.mkdir(parents=True)
    (made.model / "config.json").write_text("{}")
    (made.model / "model.safetensors").write_bytes(b"weights of M0")
    (made.model / "chat_template.jinja").write_text("{{ messages }}")
    made.recipe.write_text(RECIPE)
    made.prompts.write_text("".join(f"question {number}?\n" for number in range(20)))
    return made


@pytest.fixture
def fake_training(monkeypatch):
    """Put a function in TRL's place that writes a folder which depends on the rows alone."""

    def train_dpo(rows, *, checkpoint, on_log, **_):
        checkpoint.mkdir()
        (checkpoint / "model.safetensors").write_bytes(f"after {len(rows)} rows".encode())
        (checkpoint / "config.json").write_text("{}")
        log = [
            {"step": 1, "epoch": 5.0, "loss": 0.69, "rewards/accuracies": 0.5},
            {"step": 2, "epoch": 10.0, "loss": 0.42, "rewards/accuracies": 1.0},
        ]
        for row in log:
            on_log(row)
        return SimpleNamespace(rows_trained=len(rows), refused=[], kept_step=2, log=log)

    fake = SimpleNamespace(train_dpo=train_dpo)
    monkeypatch.setitem(sys.modules, "meta_reward_core.training.dpo", fake)


@pytest.fixture
def use_script(monkeypatch):
    """Let the engine answer by another script; returns the function that sets it."""

    def use(script):
        monkeypatch.setattr(launch, "load_engine", lambda folder, recipe: ScriptedEngine(script))

    use(plausible_reply)
    return use
