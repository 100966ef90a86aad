"""An experiment whose files were made by the real stages, with a script as its engine."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from django.contrib.auth.models import User

from meta_reward_core.context import ModelRef
from meta_reward_core.data.prompt_files import PromptFile, compute_prompt_id
from meta_reward_core.engines.base import Conversation
from meta_reward_core.engines.scripted import make_fake_reply
from meta_reward_core.experiment import Experiment as OnDisk
from meta_reward_core.experiment import create_experiment
from meta_reward_core.recipes.canonical import canonicalize_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.records import Prompt
from tests.core import scripted_world
from webapp.experiments.models import Experiment, Iteration

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)> {{ 7|add:7 }} {% now 'Y' %} "
    '" hx-get="/admin/" hx-trigger="load" \u202egnp.exe\u202c \u200bzero\u200b =1+1'
)
LONG = "x" * 1_000_000


def scripted_experiment(
    root: Path, changes: Mapping[str, object] | None = None, *, reuse: bool = False
) -> OnDisk:
    """An iteration up to training: 20 prompts in parts of 8, 5 responses, 6 judgments each.

    Some judgments cannot be read. With `reuse` there are as many prompts as one iteration draws,
    so that every iteration draws them all.
    """
    sample = {"sample": {"prompts": 20, "allow_reuse": reuse}}
    prompts = 20 if reuse else 60
    experiment = scripted_world.begin(root, prompts=prompts, **sample, **(changes or {}))
    run(experiment, root)
    return experiment


def run(experiment: OnDisk, root: Path, number: int = 1) -> None:
    scripted_world.run_before_training(
        experiment.build_context(number), scripted_world.make_scripted_resources(root, sloppy_reply)
    )


def sloppy_reply(conversation: Conversation, sample: int, seed: int) -> str:
    """As plausible as usual, but every sixth judgment or verdict has lost its last line."""
    text = make_fake_reply(conversation, sample, seed)
    lines = text.splitlines()
    return "\n".join(lines[:-1]) or text if len(text) % 6 == 0 and len(lines) > 1 else text


def hostile_reply(conversation: Conversation, sample: int, seed: int) -> str:
    """Markup in every reply, and one answer of a megabyte."""
    text = make_fake_reply(conversation, sample, seed)
    body = LONG if sample == 0 and "Score:" not in text and "Winner:" not in text else ""
    return f"{HOSTILE} {body}\n{text}"


def hostile_experiment(root: Path) -> OnDisk:
    experiment = begun_with(root, [f"{HOSTILE} {number}" for number in range(4)])
    scripted_world.run_before_training(
        experiment.build_context(1), scripted_world.make_scripted_resources(root, hostile_reply)
    )
    return experiment


def begun_with(root: Path, texts: Sequence[str]) -> OnDisk:
    """An experiment of a few prompts, with no limit on any length."""
    return create_experiment(
        ArtifactStore(str(root)),
        "scripted",
        recipe=Recipe.model_validate(
            scripted_world.RECIPE
            | {
                "sample": {"prompts": len(texts)},
                "actor": {"samples": 3},
                "judge": {"samples": 3},
                "pairing": {"rho": 0.0, "max_chosen_chars": None},
                "meta_judge": {"max_chosen_judgment_chars": None},
            }
        ),
        seed=1,
        seed_model=ModelRef("M0", root, "0" * 64),
        prompts=PromptFile([Prompt(compute_prompt_id(text), text) for text in texts], 0, []),
    )


def record(
    experiment: OnDisk, owner: User, *, numbers: Sequence[int] = (1,), private: bool = False
) -> Experiment:
    """Rows of an experiment that lies on disk."""
    row = Experiment.objects.create(
        uuid=experiment.uuid,
        name=experiment.name,
        owner=owner,
        is_private=private,
        recipe=canonicalize_recipe(experiment.recipe),
        recipe_sha256=experiment.recipe.sha256,
        seed=experiment.seed,
        base_model_folder=experiment.seed_folder,
        base_model_sha256=experiment.seed_model.sha256,
        artifact_root=experiment.store.root,
    )
    for number in numbers:
        Iteration.objects.create(experiment=row, number=number, model_in="0" * 64)
    return row
