"""The toy task as a plug-in: prompts, seed models, and the evaluator with the ground truth.

torch and the evaluation code are imported on first use.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from meta_reward_core.context import make_sampling_params
from meta_reward_core.evaluation.scorecard import Measurement
from meta_reward_core.tasks.protocol import EvaluationRequest, ItemResult, TaskDefinition
from meta_reward_core.tasks.toy.task import (
    TASK_NAME,
    WORLD_VERSION,
    count_pool_prompts,
    sample_pool_prompts,
)

_POOL_SEED = 0


@dataclass(frozen=True, slots=True)
class ToyPrompts:
    """Prompts of the pool, without the held-out ones."""

    @property
    def size(self) -> int:
        """Number of prompts."""
        return count_pool_prompts()

    def sample(self, count: int) -> Sequence[str]:
        """Return prompts, the same on every call."""
        return sample_pool_prompts(count, seed=_POOL_SEED)


@dataclass(frozen=True, slots=True)
class ToyModels:
    """The built-in base model, and the variants `miniature-sft<K>[-noisy]`."""

    def provides(self, name: str | None) -> bool:
        """Whether a recipe's `model` is one of these models."""
        from meta_reward_core.tasks.toy.base_model_variants import parse_variant

        return name is None or parse_variant(name) is not None

    def find(self, name: str | None, models: Path) -> Path | None:
        """Find a model's folder.

        Raises:
            TrainingError: the model was trained earlier, but failed its gate or no longer exists.
        """
        from meta_reward_core.tasks.toy.base_model import find_cached_seed_model
        from meta_reward_core.tasks.toy.base_model_variants import check_variant, parse_variant

        variant = parse_variant(name)
        return find_cached_seed_model(models) if variant is None else check_variant(variant, models)

    def ensure(
        self, name: str | None, models: Path, *, scratch: Path, say: Callable[[str], None]
    ) -> Path:
        """Return a model's folder, training the model if necessary.

        Raises:
            TrainingError: the model failed its gate, now or earlier.
        """
        from meta_reward_core.tasks.toy.base_model import ensure_seed_model
        from meta_reward_core.tasks.toy.base_model_variants import ensure_variant, parse_variant

        variant = parse_variant(name)
        if variant is None:
            return ensure_seed_model(models, scratch=scratch, say=say)
        return ensure_variant(variant, models, scratch=scratch, say=say)


@dataclass(frozen=True, slots=True)
class ToyEvaluator:
    """Measures a model in its three roles against the ground truth, on held-out items."""

    def measure(self, request: EvaluationRequest) -> Iterable[Measurement | ItemResult]:
        """Measure a model; see `toy.evaluation.measure_model`."""
        from meta_reward_core.tasks.toy.evaluation import measure_model

        recipe = request.recipe
        return measure_model(
            request.engine,
            request.model,
            prompts=recipe.evaluation.prompts,
            judge_items=recipe.evaluation.judge_items,
            judgments=recipe.evaluation.judgments,
            comparisons=recipe.evaluation.comparisons,
            actor=make_sampling_params(recipe.actor),
            judge=make_sampling_params(recipe.judge),
            meta_judge=make_sampling_params(recipe.meta_judge),
            judge_template=request.templates.judge,
            meta_judge_template=request.templates.meta_judge,
            seed=request.seed,
            score_readout=recipe.judge.score_readout,
            verdict_readout=recipe.meta_judge.verdict_readout,
        )

    def grade_response(self, prompt: str, response: str) -> float:
        """Return the true quality of a response, 0 to 5."""
        from meta_reward_core.tasks.toy.ground_truth import compute_true_quality

        return compute_true_quality(prompt, response)


TASK = TaskDefinition(
    name=TASK_NAME,
    title="the toy task",
    version=WORLD_VERSION,
    prompts=ToyPrompts(),
    base_model=ToyModels(),
    evaluators=(ToyEvaluator(),),
    judgment_format="Each line: expected word, word in the response, whether they match, matches "
    "so far.",
)
