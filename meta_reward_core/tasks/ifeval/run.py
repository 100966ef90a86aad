"""A whole IFEval evaluation, from a model or from a file of responses."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from meta_reward_core.data.tabular_io import write_json_lines
from meta_reward_core.engines.base import Progress
from meta_reward_core.evaluation.pipelines import OutputSource, find_training_overlap
from meta_reward_core.evaluation.scorecard import DataIssue, Scorecard
from meta_reward_core.tasks.ifeval.benchmark import (
    answer_prompts,
    check_responses,
    find_response_issues,
    read_ifeval_items,
    read_responses,
    score_ifeval,
)
from meta_reward_core.tasks.protocol import BenchmarkItem, select_items


@dataclass(frozen=True, slots=True)
class IfEvalRun:
    """Sampling settings and output folder.

    Attributes:
        out: an existing folder.
        max_new_tokens: maximum number of tokens per response.
        system_prompt: a system message before every prompt.
        seed: random seed of the engine; responses are greedy.
        make_progress: called with the name of a step and its number of replies; returns the
            progress callback of the step.
    """

    out: Path
    max_new_tokens: int
    system_prompt: str | None
    seed: int
    make_progress: Callable[[str, int], Progress | None]


def run_ifeval(
    run: IfEvalRun, *, data: Path, side: OutputSource, max_prompts: int | None = None
) -> Scorecard:
    """Generate, check and score responses.

    Writes `responses.jsonl` (`prompt, response`, as the benchmark publishes them) and
    `checks.jsonl`, a row for each check.

    Args:
        max_prompts: number of prompts, selected by a hash as in `evaluation.tasks`; None for all.

    Raises:
        EvaluationFileError: data or outputs are malformed, or a package is not installed.
        EngineError: the engine failed; running the same command again resumes the run.
    """
    items = select_items(read_ifeval_items(data), max_prompts)
    if isinstance(side, Path):
        return score_outputs(items, side, model=side.stem, out=run.out)
    prompts = list(dict.fromkeys(item.prompt for item in items))
    answers = answer_prompts(
        side.engine,
        prompts,
        max_new_tokens=run.max_new_tokens,
        system_prompt=run.system_prompt,
        seed=run.seed,
        progress=run.make_progress("answer", len(prompts)),
    )
    side.engine.unload()
    path = run.out / "responses.jsonl"
    write_json_lines(
        path,
        (
            {"prompt": prompt, "response": turns[0]}
            for prompt, turns in zip(prompts, answers.turns, strict=True)
        ),
    )
    issues = [*answers.issues, *find_training_overlap(side, prompts)]
    return score_outputs(items, path, model=side.name, out=run.out, issues=issues)


def score_outputs(
    items: Sequence[BenchmarkItem],
    outputs: Path,
    *,
    model: str,
    out: Path | None = None,
    issues: Sequence[DataIssue] = (),
) -> Scorecard:
    """Check and score a file of responses.

    Args:
        model: name of the model that responded.
        out: a folder for `checks.jsonl`; None writes none.
        issues: additional data issues to report.

    Raises:
        EvaluationFileError: the file is malformed, or a prompt has no response.
    """
    results = check_responses(items, read_responses(outputs, items))
    if out is not None:
        write_json_lines(out / "checks.jsonl", map(asdict, results))
    card = score_ifeval(results, model=model)
    return replace(card, issues=(*issues, *find_response_issues(items)))
