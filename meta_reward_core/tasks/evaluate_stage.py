"""The evaluation stage, the only one that can access a task's ground truth.

It runs after training, and nothing that trains or selects reads its output.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from meta_reward_core.context import (
    IterationContext,
    ModelRef,
    StageResources,
    make_sampling_params,
)
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.errors import TaskError
from meta_reward_core.evaluation.iteration_metrics import measure_iteration, to_measurements
from meta_reward_core.evaluation.scorecard import (
    DataIssue,
    Measurement,
    make_issue_if_any,
    serialize_scorecard,
)
from meta_reward_core.storage.schemas import build_table
from meta_reward_core.storage.shards import StageOutput
from meta_reward_core.tasks.fixed_items import FixedItems, get_benchmark, load_fixed_items
from meta_reward_core.tasks.protocol import BenchmarkRequest, EvaluationRequest, ItemResult
from meta_reward_core.tasks.registry import find_task
from meta_reward_core.training.dataset import PAIR_KINDS


def run_evaluate(context: IterationContext, shard: int, resources: StageResources) -> StageOutput:  # noqa: ARG001
    """Measure the iteration's data and, with the task's ground truth, the new model."""
    kinds = [kind for kind in PAIR_KINDS if context.recipe.trains_on(kind, context.number)]
    measured = measure_iteration(
        context.files, kinds=kinds, judge_reasoning=context.recipe.judge.reasoning
    )
    rows = to_measurements(measured, model=context.model.name)
    cards: list[dict[str, Any]] = []
    items: list[dict[str, Any]] = []
    for model in _iter_models_to_measure(context):
        for found in _measure_ground_truth(context, model, resources):
            if isinstance(found, Measurement):
                rows.append(found)
            else:
                items.append(_to_item_row(str(context.recipe.task), model, found))
        for wanted in context.recipe.evaluation.tasks:
            card, results = _measure_task(context, wanted.name, model, resources)
            cards.append(card)
            items += results
    tables = {("evaluation", 0): build_table("evaluation", rows)}
    counts = {"measurements": len(rows)}
    if cards:
        tables["task_scorecards", 0] = build_table("task_scorecards", cards)
    if items:
        tables["task_items", 0] = build_table("task_items", items)
        counts["task_results"] = len(items)
    return StageOutput(tables, counts)


def _iter_models_to_measure(context: IterationContext) -> Iterator[ModelRef]:
    """Yield M_t, and M_0 before M_1 for comparison."""
    if context.number == 1:
        yield context.model
    base = context.model if context.recipe.training.keeps_adapter else None
    made = context.files
    sha256 = made.get_checkpoint_sha256() or ""
    yield ModelRef(f"M{context.number}", made.checkpoint, sha256, base)


def _measure_ground_truth(
    context: IterationContext, model: ModelRef, resources: StageResources
) -> Iterator[Measurement | ItemResult]:
    recipe = context.recipe
    task = find_task(recipe.task) if recipe.has_ground_truth else None
    if task is None or not task.evaluators:
        return
    request = EvaluationRequest(
        engine=resources.get_engine(model, recipe.engine),
        model=model.name,
        recipe=recipe,
        templates=context.templates,
        seed=context.seed,
    )
    for evaluator in task.evaluators:
        yield from evaluator.measure(request)


def _measure_task(
    context: IterationContext, task: str, model: ModelRef, resources: StageResources
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Build the rows of `task_scorecards` and `task_items` of one benchmark and model."""
    fixed = load_fixed_items(context.files.store, context.files.experiment, task)
    row: dict[str, Any] = {
        "task": task,
        "model": model.name,
        "version": fixed.version,
        "not_evaluated_reason": fixed.obstacle,
        "scorecard": None,
    }
    if fixed.obstacle is not None:
        return row, []
    benchmark = get_benchmark(task)
    obstacle = benchmark.find_obstacle()
    if obstacle is not None:
        raise TaskError(f"{task} cannot be evaluated on this machine: {obstacle}")
    results = benchmark.evaluate(
        make_benchmark_request(context, task, model, resources), fixed.items
    )
    card = benchmark.score(results, model=model.name)
    card = replace(card, issues=(*card.issues, *_find_left_out(fixed)))
    row["scorecard"] = json.dumps(serialize_scorecard(card), sort_keys=True)
    return row, [_to_item_row(task, model, result) for result in results]


def _to_item_row(task: str, model: ModelRef, result: ItemResult) -> dict[str, Any]:
    return {"task": task, "model": model.name, **asdict(result)}


def make_benchmark_request(
    context: IterationContext, task: str, model: ModelRef, resources: StageResources
) -> BenchmarkRequest:
    """Build the request; the seed is the same for every model, so that only the model differs."""
    recipe = context.recipe
    return BenchmarkRequest(
        engine=resources.get_engine(model, recipe.engine),
        model=model.name,
        actor=make_sampling_params(recipe.actor, chat_date=context.chat_date),
        judge=make_sampling_params(recipe.judge, chat_date=context.chat_date),
        meta_judge=make_sampling_params(recipe.meta_judge, chat_date=context.chat_date),
        judgments=recipe.evaluation.judgments,
        score_readout=recipe.judge.score_readout,
        templates=context.templates,
        max_score=recipe.judge.max_score,
        system_prompt=recipe.actor.system_prompt,
        seed=derive_seed(context.seed, "evaluation task", task),
        progress=resources.progress,
    )


def _find_left_out(fixed: FixedItems) -> list[DataIssue]:
    return make_issue_if_any(
        range(fixed.left_out_of_pool),
        "pool_prompts_left_out",
        "Prompts of the experiment's pool that equal or nearly equal an evaluation prompt and were "
        "left out when it began: {rows}.",
        "No model of the experiment was trained on them.",
    )
