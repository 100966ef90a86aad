"""Load the engine that is named on the command line as actor or judge of an evaluation.

    my-model, org/name      a model folder, or a Hugging Face id, as for run_iteration
    experiment:NAME/M2      the model that iteration 2 of an experiment trained
    endpoint:NAME           a server of META_REWARD_ENDPOINTS
    scripted                well-formed but meaningless replies, for testing the pipeline

Completions are stored in a folder (`engines.completion_cache`), so an interrupted run can resume.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from meta_reward_core.context import ModelRef
from meta_reward_core.engines.base import Engine
from meta_reward_core.engines.completion_cache import CachingEngine
from meta_reward_core.errors import InputError
from meta_reward_core.evaluation.generate_outputs import NamedEngine
from meta_reward_core.experiment import Experiment, open_experiment
from meta_reward_core.planning import engine_loading
from meta_reward_core.planning.base_model import resolve_base_model
from meta_reward_core.recipes.canonical import canonicalize_section
from meta_reward_core.recipes.changed_values import change_recipe, parse_changes
from meta_reward_core.recipes.schema import EngineRecipe, Recipe
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.system.command_hint import make_missing_experiment_error

ENDPOINT_PREFIX: Final = "endpoint:"
EXPERIMENT_PREFIX: Final = "experiment:"
SCRIPTED: Final = "scripted"


def open_engine(
    spec: str,
    *,
    roots: StorageRoots,
    kept: ArtifactStore,
    name: str | None = None,
    changes: Sequence[str] = (),
    shard_conversations: int = 64,
    say: Callable[[str], None],
) -> NamedEngine:
    """Resolve the name of an engine; no model is loaded yet.

    Args:
        spec: name of the engine; see the module docstring.
        roots: folders of models and experiments.
        kept: folder for completions.
        name: display name, instead of one derived from `spec`.
        changes: changes of the engine's settings, such as `dtype=bfloat16`.
        shard_conversations: conversations per stored file; an interruption loses at most this
            number.
        say: receives messages about slow steps.

    Raises:
        InputError: no engine has this name, or a setting is wrong.
    """
    if spec == SCRIPTED:
        changes = ("kind=scripted", *changes)
    elif spec.startswith(ENDPOINT_PREFIX):
        # a name such as "no" remains a string
        named = json.dumps(spec.removeprefix(ENDPOINT_PREFIX))
        changes = ("kind=openai", f"endpoint={named}", *changes)
    experiment = _find_spec_experiment(spec, roots)
    recipe = _build_engine_recipe(experiment, changes)
    load, identity = _make_loader(spec, recipe, experiment, roots, say)
    engine = CachingEngine(
        load,
        identity=identity,
        store=kept,
        shard_conversations=shard_conversations,
        chat_date=None if experiment is None else experiment.chat_date,
    )
    return NamedEngine(name or _derive_name(spec), engine, experiment)


def _build_engine_recipe(experiment: Experiment | None, changes: Sequence[str]) -> EngineRecipe:
    base = experiment.recipe if experiment is not None else Recipe(name="evaluation")
    return change_recipe(base, parse_changes([f"engine.{change}" for change in changes])).engine


def _make_loader(
    spec: str,
    recipe: EngineRecipe,
    experiment: Experiment | None,
    roots: StorageRoots,
    say: Callable[[str], None],
) -> tuple[Callable[[], Engine], dict[str, Any]]:
    """Return the engine's factory, and the identity that its stored completions depend on."""
    settings = canonicalize_section(recipe, "engine.")
    if spec == SCRIPTED:
        nobody = ModelRef(SCRIPTED, roots.models, "")
        return lambda: engine_loading.load_engine(nobody, recipe), {"scripted": settings}
    if spec.startswith(ENDPOINT_PREFIX):
        from meta_reward_core.engines.endpoints import find_endpoint
        from meta_reward_core.engines.openai import load_endpoint_engine

        endpoint = find_endpoint(recipe.endpoint or "")
        asked = {"address": endpoint.base_url, "model": endpoint.model, "extra": endpoint.extra}
        return lambda: load_endpoint_engine(recipe.endpoint or "", None), asked
    model = _resolve_model(spec, experiment, roots, say)
    identity = {"weights": model.sha256, "settings": settings}
    return lambda: engine_loading.load_engine(model, recipe), identity


def _resolve_model(
    spec: str, experiment: Experiment | None, roots: StorageRoots, say: Callable[[str], None]
) -> ModelRef:
    if experiment is not None:
        return experiment.get_model(_parse_model_number(spec))
    return resolve_base_model(Recipe(name="evaluation", model=spec), roots, say=say)


def _find_spec_experiment(spec: str, roots: StorageRoots) -> Experiment | None:
    if not spec.startswith(EXPERIMENT_PREFIX):
        return None
    name = spec.removeprefix(EXPERIMENT_PREFIX).rpartition("/")[0]
    if not name:
        raise InputError(f"{spec} does not specify an experiment: use the form experiment:NAME/M2")
    return require_experiment(name, roots)


def require_experiment(name: str, roots: StorageRoots) -> Experiment:
    """Open an experiment.

    Raises:
        InputError: no experiment has this name.
    """
    store = ArtifactStore(roots.artifacts)
    found = open_experiment(store, name)
    if found is None:
        raise make_missing_experiment_error(name, root=store.root)
    return found


def _parse_model_number(spec: str) -> int:
    model = spec.rpartition("/")[2]
    if not (model[:1] == "M" and model[1:].isdecimal()):
        raise InputError(f"{spec}: append a model to the experiment, such as /M0 or /M2")
    return int(model[1:])


def _derive_name(spec: str) -> str:
    for prefix in (ENDPOINT_PREFIX, EXPERIMENT_PREFIX):
        if spec.startswith(prefix):
            return spec.removeprefix(prefix).replace("/", "-")
    return spec.rstrip("/").rpartition("/")[2] or spec
