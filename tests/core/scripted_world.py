"""A small experiment whose engine is a script: every step but training, in a second."""

import sys
from collections.abc import Sequence, Sized
from pathlib import Path
from types import SimpleNamespace

import pytest

from meta_reward_core.context import IterationContext, ModelRef, StageResources
from meta_reward_core.data.prompt_files import PromptFile, compute_prompt_id
from meta_reward_core.engines.base import Conversation
from meta_reward_core.engines.scripted import Reply, Script, ScriptedEngine, make_fake_reply
from meta_reward_core.experiment import Experiment, create_experiment
from meta_reward_core.iteration import STAGES, Stage
from meta_reward_core.recipes.changed_values import change_recipe, parse_changes
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.recipes.settings_history import read_settings
from meta_reward_core.runner import publish_manifest
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.storage.records import Prompt
from meta_reward_core.training.row_types import TokenSources

RECIPE = {
    "name": "scripted",
    "prompts_per_shard": 8,
    "sample": {"prompts": 20},
    "actor": {"samples": 5},
    "judge": {"samples": 6},
    "meta_judge": {"max_judgments": None, "max_chosen_judgment_chars": 60},
    "pairing": {"rho": 0.3, "max_chosen_chars": 70},
    "engine": {"kind": "scripted"},
}


def prompt_file(count: int) -> PromptFile:
    texts = [f"question {number}?" for number in range(count)]
    prompts = [Prompt(compute_prompt_id(text), text) for text in texts]
    return PromptFile(prompts=prompts, duplicates=0, rejected=[])


def begin(root: Path, *, prompts: int = 60, **changes: object) -> Experiment:
    return create_experiment(
        ArtifactStore(str(root)),
        "scripted",
        recipe=Recipe.model_validate(RECIPE | changes),
        seed=1,
        seed_model=ModelRef("M0", root, "0" * 64),
        prompts=prompt_file(prompts),
    )


def make_scripted_resources(scratch: Path, script: Script = make_fake_reply) -> StageResources:
    return StageResources(load_engine=lambda model, recipe: ScriptedEngine(script), scratch=scratch)


def long_winded_reply(conversation: Conversation, sample: int, seed: int) -> Reply:
    """As plausible as usual, but half of the judgments go on after the score, up to the limit."""
    text = make_fake_reply(conversation, sample, seed)
    if "\nScore:" in text and len(text) % 2 == 0:
        return f"{text}\nMoreover the", "length"
    return text


def stages_before_training() -> list[Stage]:
    names = [stage.name for stage in STAGES]
    return list(STAGES[: names.index("train")])


def run_before_training(
    context: IterationContext, resources: StageResources
) -> list[tuple[str, int]]:
    """Run what is not finished; return which shards that was."""
    ran = []
    for stage in stages_before_training():
        if not stage.is_scheduled_in(context):
            continue
        for shard in range(stage.plan_shards(context)):
            if stage.find_finished_shard(context, shard) is None:
                stage.run_shard(context, shard, resources)
                ran.append((stage.name, shard))
    return ran


def train_on_nothing(rows: Sized, *, checkpoint: Path, **_: object) -> SimpleNamespace:
    """Write a checkpoint that depends on the number of rows alone, in TRL's place."""
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(f"after {len(rows)} rows".encode())
    (checkpoint / "config.json").write_text("{}")
    log = [{"step": 1, "epoch": 1.0, "loss": 0.69}]
    return SimpleNamespace(
        rows_trained=len(rows), refused=[], kept_step=1, log=log, tokens=TokenSources()
    )


def run_whole(
    experiment: Experiment, number: int, monkeypatch: pytest.MonkeyPatch
) -> IterationContext:
    """Run a whole iteration, with a training that learns nothing."""
    fake = SimpleNamespace(train_dpo=train_on_nothing)
    monkeypatch.setitem(sys.modules, "meta_reward_core.training.dpo", fake)
    context, root = experiment.build_context(number), Path(experiment.store.root)
    resources = make_scripted_resources(root.with_name(f"{root.name}-scratch"))
    for stage in STAGES:
        for shard in range(stage.plan_shards(context) if stage.is_scheduled_in(context) else 0):
            if stage.find_finished_shard(context, shard) is None:
                stage.run_shard(context, shard, resources)
    publish_manifest(context)
    return context


def build_changed_recipe(files: ExperimentFiles, changes: Sequence[str]) -> Recipe:
    """The recipe of the iterations to come, with `key=value` changes as commands take them."""
    history = read_settings(files, files.require_description())
    return change_recipe(history.get_recipe(), parse_changes(changes))
