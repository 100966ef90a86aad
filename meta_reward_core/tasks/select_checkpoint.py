"""Score the candidates of a training on the development set of the recipe.

The training supplies folders and receives scores; it has no access to tasks or their labels.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from meta_reward_core.context import IterationContext, ModelRef, StageResources
from meta_reward_core.errors import TaskError
from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.tasks.evaluate_stage import make_benchmark_request
from meta_reward_core.tasks.fixed_items import get_benchmark, load_development_items

if TYPE_CHECKING:  # the module needs torch, and the site reads the stages without it
    from meta_reward_core.training.checkpoint_candidates import CheckpointScorer


def make_checkpoint_scorer(
    context: IterationContext, resources: StageResources
) -> "CheckpointScorer | None":
    """Make the function that scores a candidate; None unless tasks select the checkpoint."""
    if not context.recipe.training.selects_by_tasks:
        return None

    def score(folder: Path, step: int) -> dict[str, float]:
        base = context.model if context.recipe.training.keeps_adapter else None
        name = f"M{context.number}-step-{step}"
        model = ModelRef(name, folder, hash_model_folder(folder), base)
        try:
            return {
                task.name: _score_task(context, task.name, model, resources)
                for task in context.recipe.development.tasks
            }
        finally:
            resources.release_engine()

    return score


def _score_task(
    context: IterationContext, task: str, model: ModelRef, resources: StageResources
) -> float:
    """Return the first metric of the scorecard; 0 if it is absent because nothing was readable.

    Raises:
        TaskError: the task cannot run on this machine.
    """
    benchmark = get_benchmark(task)
    obstacle = benchmark.find_obstacle()
    if obstacle is not None:
        raise TaskError(f"{task} cannot select a checkpoint on this machine: {obstacle}")
    items = load_development_items(context.files.store, context.files.experiment, task).items
    request = make_benchmark_request(context, task, model, resources)
    request = replace(request, judgments=context.recipe.development.judgments)
    card = benchmark.score(benchmark.evaluate(request, items), model=model.name)
    return card.metrics[0].value or 0.0
