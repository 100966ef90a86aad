"""A recipe's requirements for its model; loads no model library, so that the site can use it."""

from typing import Final

from meta_reward_core.engines.endpoints import find_endpoint
from meta_reward_core.errors import EndpointError
from meta_reward_core.models.check.needs import ModelNeeds
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.artifact_store import hash_json

_TOKEN_ENGINES: Final = frozenset({"transformers", "vllm"})
"""Engines that return the sampled token ids."""


def derive_needs(recipe: Recipe) -> ModelNeeds:
    """Derive a recipe's requirements for its model."""
    roles = [recipe.actor.max_new_tokens]
    if recipe.outside_judge is None:
        roles.append(recipe.judge.max_new_tokens)
    if trains_on_anywhere(recipe, "judge"):
        roles.append(recipe.meta_judge.max_new_tokens)
    return ModelNeeds(
        system_prompt=recipe.actor.system_prompt,
        max_new_tokens=max(roles),
        max_length=recipe.training.max_length,
        max_model_len=recipe.engine.max_model_len,
        actor_reasoning=recipe.actor.reasoning,
        judge_reasoning=recipe.judge.reasoning,
        judges=recipe.outside_judge is None,
        stores_tokens=_stores_tokens(recipe),
        renders_prompts=recipe.engine.kind != "openai",
    )


def hash_checked_settings(recipe: Recipe) -> str:
    """Hash the values of a recipe that the model check compares with a model.

    Prompt templates are not included, because they cannot change in an experiment.
    """
    actor, judge, training, engine = recipe.actor, recipe.judge, recipe.training, recipe.engine
    return hash_json(
        [
            [actor.max_new_tokens, actor.system_prompt, actor.reasoning],
            [judge.max_new_tokens, recipe.outside_judge, judge.reasoning],
            recipe.meta_judge.max_new_tokens,
            [training.max_length, training.max_refused_share],
            [sorted(kinds) for kinds in recipe.train_on],
            [engine.kind, engine.endpoint, engine.max_model_len],
        ]
    )


def _stores_tokens(recipe: Recipe) -> bool:
    """Whether the token ids of all completions that are trained on will be stored."""
    if recipe.outside_judge is not None and trains_on_anywhere(recipe, "judge"):
        return False
    if recipe.engine.kind != "openai":
        return recipe.engine.kind in _TOKEN_ENGINES
    try:
        endpoint = find_endpoint(recipe.engine.endpoint or "")
    except EndpointError:  # known only to the workers, or missing, which is reported elsewhere
        return False
    return bool(endpoint.extra.get("return_token_ids"))


def trains_on_anywhere(recipe: Recipe, kind: str) -> bool:
    """Whether pairs of a kind are scheduled in any iteration."""
    return any(kind in kinds for kinds in recipe.train_on)
