"""Who answers and who judges in an evaluation: a name on the command line becomes an engine.

    my-model, org/name      a model folder, or a Hugging Face id, as for run_iteration
    experiment:NAME/M2      the model that iteration 2 of an experiment made
    endpoint:NAME           a server of META_REWARD_ENDPOINTS
    scripted                replies of the right form that mean nothing, for trying the plumbing

What an engine draws is kept in a folder (`kept_engine`), so that a run which was stopped goes on.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from meta_reward_core import launch
from meta_reward_core.artifacts import ArtifactStore
from meta_reward_core.config import EngineRecipe, Recipe
from meta_reward_core.context import Model
from meta_reward_core.engines.base import Engine
from meta_reward_core.engines.kept import KeptEngine
from meta_reward_core.errors import InputError
from meta_reward_core.experiment import Experiment, open_experiment
from meta_reward_core.launch import Places, find_seed_model
from meta_reward_core.recipes import change_recipe
from meta_reward_core.shown_commands import no_experiment

ENDPOINT: Final = "endpoint:"
EXPERIMENT: Final = "experiment:"
SCRIPTED: Final = "scripted"


@dataclass(frozen=True)
class NamedEngine:
    """Somebody who answers or judges.

    Attributes:
        name: under which answers or judgments go.
        engine: keeps what it draws; loaded at the first thing that is missing.
        experiment: whose model it is, if it is an experiment's.
    """

    name: str
    engine: KeptEngine
    experiment: Experiment | None = None

    @cached_property
    def training_prompt_ids(self) -> frozenset[str]:
        """Hashes of the instructions that the experiment trains on; none without one."""
        if self.experiment is None:
            return frozenset()
        return frozenset(self.experiment.files(0).read("prompts")["prompt_id"].to_pylist())


def open_engine(
    spec: str,
    *,
    places: Places,
    kept: ArtifactStore,
    name: str | None = None,
    changes: Sequence[str] = (),
    shard_conversations: int = 64,
    say: Callable[[str], None],
) -> NamedEngine:
    """Find who a name means; no model is loaded yet.

    Args:
        spec: see the module.
        places: where models and experiments lie.
        kept: where what is drawn is kept.
        name: under which it goes, instead of one made of `spec`.
        changes: of the engine's settings, such as `dtype=bfloat16`.
        shard_conversations: the most that a stop can lose.
        say: told what takes long.

    Raises:
        InputError: there is nobody of this name, or a setting is wrong.
    """
    if spec == SCRIPTED:
        changes = ("kind=scripted", *changes)
    elif spec.startswith(ENDPOINT):
        named = json.dumps(spec.removeprefix(ENDPOINT))  # a name such as "no" stays a text
        changes = ("kind=openai", f"endpoint={named}", *changes)
    experiment = _experiment(spec, places)
    recipe = _engine_recipe(experiment, changes)
    load, identity = _loader(spec, recipe, experiment, places, say)
    engine = KeptEngine(
        load, identity=identity, store=kept, shard_conversations=shard_conversations
    )
    return NamedEngine(name or _name_of(spec), engine, experiment)


def _engine_recipe(experiment: Experiment | None, changes: Sequence[str]) -> EngineRecipe:
    base = experiment.recipe if experiment is not None else Recipe(name="evaluation")
    return change_recipe(base, [f"engine.{change}" for change in changes]).engine


def _loader(
    spec: str,
    recipe: EngineRecipe,
    experiment: Experiment | None,
    places: Places,
    say: Callable[[str], None],
) -> tuple[Callable[[], Engine], dict[str, Any]]:
    """What makes the engine, and what tells its completions from another's."""
    settings = recipe.model_dump(mode="json")
    if spec == SCRIPTED:
        nobody = Model(SCRIPTED, places.models, "")
        return lambda: launch.load_engine(nobody, recipe), {"scripted": settings}
    if spec.startswith(ENDPOINT):
        from meta_reward_core.engines.endpoints import find_endpoint
        from meta_reward_core.engines.openai import load_endpoint_engine

        endpoint = find_endpoint(recipe.endpoint or "")
        asked = {"address": endpoint.base_url, "model": endpoint.model, "extra": endpoint.extra}
        return lambda: load_endpoint_engine(recipe.endpoint or "", None), asked
    model = _model(spec, experiment, places, say)
    identity = {"weights": model.sha256, "settings": settings}
    return lambda: launch.load_engine(model, recipe), identity


def _model(
    spec: str, experiment: Experiment | None, places: Places, say: Callable[[str], None]
) -> Model:
    if experiment is not None:
        return experiment.model(_number(spec))
    return find_seed_model(Recipe(name="evaluation", model=spec), places, say=say)


def _experiment(spec: str, places: Places) -> Experiment | None:
    if not spec.startswith(EXPERIMENT):
        return None
    name = spec.removeprefix(EXPERIMENT).rpartition("/")[0]
    if not name:
        raise InputError(f"{spec} names no model of an experiment: write experiment:NAME/M2")
    return find_experiment(name, places)


def find_experiment(name: str, places: Places) -> Experiment:
    """Open an experiment.

    Raises:
        InputError: there is none of this name.
    """
    store = ArtifactStore(places.artifacts)
    found = open_experiment(store, name)
    if found is None:
        raise no_experiment(name, root=store.root)
    return found


def _number(spec: str) -> int:
    model = spec.rpartition("/")[2]
    if not (model[:1] == "M" and model[1:].isdecimal()):
        raise InputError(f"{spec}: name the model after the experiment, such as /M0 or /M2")
    return int(model[1:])


def _name_of(spec: str) -> str:
    for prefix in (ENDPOINT, EXPERIMENT):
        if spec.startswith(prefix):
            return spec.removeprefix(prefix).replace("/", "-")
    return spec.rstrip("/").rpartition("/")[2] or spec
