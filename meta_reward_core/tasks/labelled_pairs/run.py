"""A whole evaluation by labeled pairs, with output files."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from meta_reward_core.context import PromptTemplates
from meta_reward_core.data.tabular_io import write_json_lines
from meta_reward_core.evaluation.judge_benchmark import write_judgments
from meta_reward_core.evaluation.pairwise_judge import iter_verdict_rows
from meta_reward_core.evaluation.pipelines import BenchmarkRun, find_training_overlap
from meta_reward_core.evaluation.scorecard import Metric, Scorecard
from meta_reward_core.storage.records import Readout
from meta_reward_core.tasks.labelled_pairs.benchmark import (
    compare_outputs,
    judge_outputs,
    make_output_pair,
    measure_baselines,
    read_labelled_pairs,
    score_comparisons,
    score_judgments,
    score_labelled_pairs,
)
from meta_reward_core.tasks.protocol import BenchmarkRequest, ItemResult, select_items

Question = Literal["scores", "comparisons"]


def run_labelled_pairs(
    run: BenchmarkRun,
    *,
    data: Path,
    templates: PromptTemplates,
    max_score: float,
    readout: Readout = "free",
    questions: Sequence[Question] = ("scores", "comparisons"),
    max_prompts: int | None = None,
) -> Scorecard:
    """Score every output separately, compare each pair in both orders, and compute accuracies.

    Writes `judgments.jsonl`, `verdicts.jsonl` and `items.jsonl`, a row for each result.

    Args:
        run: settings of the evaluation; its judge is evaluated.
        templates: prompt templates with which the judge is asked for scores.
        max_score: top of the rubric's scale.
        readout: how a score is produced.
        questions: the questions that the model is asked.
        max_prompts: number of prompts, selected by a hash as in `evaluation.tasks`; None for all.

    Raises:
        EvaluationFileError: the data is malformed.
        EngineError: the engine failed; running the same command again resumes the run.
    """
    items = select_items(read_labelled_pairs(data), max_prompts)
    request = BenchmarkRequest(
        engine=run.judge.engine,
        model=run.judge.name,
        actor=run.answering,
        judge=run.judging,
        meta_judge=run.judging,
        judgments=run.samples,
        score_readout=readout,
        templates=templates,
        max_score=max_score,
        system_prompt=run.system_prompt,
        seed=run.seed,
    )
    results: list[ItemResult] = []
    baselines: list[Metric] = []
    if "scores" in questions:
        total = 2 * len(items) * run.samples
        judgments = judge_outputs(
            replace(request, progress=run.make_progress("judge", total)), items
        )
        write_judgments(run.out, judgments)
        results += score_judgments(items, judgments)
        baselines += measure_baselines(items, judgments)
    if "comparisons" in questions:
        total = 2 * len(items)
        replies = compare_outputs(
            replace(request, progress=run.make_progress("compare", total)), items
        )
        pairs = [make_output_pair(item) for item in items]
        write_json_lines(run.out / "verdicts.jsonl", iter_verdict_rows(pairs, replies))
        results += score_comparisons(items, replies)
    run.judge.engine.unload()
    write_json_lines(run.out / "items.jsonl", map(asdict, results))
    card = score_labelled_pairs(results, model=run.judge.name)
    overlap = find_training_overlap(run.judge, [item.prompt for item in items])
    return replace(card, metrics=(*card.metrics, *baselines), issues=(*card.issues, *overlap))
