"""Whole evaluations: generate responses, judge them, write files, and score the files.

Every file has a public format, so that other tools can continue at any point. Each file is read
again before it is scored, so that the printed metrics match the file.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from meta_reward_core.data.prompt_files import compute_prompt_id
from meta_reward_core.data.tabular_io import read_rows, write_json_lines
from meta_reward_core.engines.base import Progress, SamplingParams
from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.evaluation import alpaca_eval_io, arena_hard_io, mt_bench
from meta_reward_core.evaluation.alpaca_eval_io import ModelOutput
from meta_reward_core.evaluation.arena_hard import score_arena
from meta_reward_core.evaluation.arena_hard_io import ArenaQuestion, Version
from meta_reward_core.evaluation.arena_hard_judge import build_styled_answers, play_games
from meta_reward_core.evaluation.generate_outputs import (
    ModelResponses,
    NamedEngine,
    generate_turns,
    to_model_outputs,
)
from meta_reward_core.evaluation.judge_agreement import measure_self_consistency
from meta_reward_core.evaluation.mt_bench_judge import judge_turns
from meta_reward_core.evaluation.pairwise_judge import (
    PresentationOrders,
    ask_for_verdicts,
    build_annotations,
    iter_verdict_rows,
)
from meta_reward_core.evaluation.ratings_io import parse_ratings
from meta_reward_core.evaluation.reward_bench import (
    read_scored_items,
    score_reward_bench,
    write_scored_items,
)
from meta_reward_core.evaluation.reward_bench_judge import read_items, score_items
from meta_reward_core.evaluation.scorecard import DataIssue, Metric, Scorecard, make_issue_if_any
from meta_reward_core.evaluation.win_rate import score_annotations
from meta_reward_core.method.parsing import MAX_SCORE
from meta_reward_core.recipes.prompt_templates import PromptTemplate
from meta_reward_core.storage.records import Readout

OutputSource = NamedEngine | Path
"""The model that answers, or the file of its answers."""


@dataclass(frozen=True)
class BenchmarkRun:
    """Settings shared by all evaluations.

    Attributes:
        out: an existing folder for the files.
        judge: the judge's engine and name.
        answering: sampling parameters of answers.
        judging: sampling parameters of judgments.
        samples: number of judgments per item, which are averaged.
        seed: random seed.
        make_progress: called with the name of a step and its number of replies; returns the
            progress callback of the step.
        system_prompt: system message before every prompt that is answered.
    """

    out: Path
    judge: NamedEngine
    answering: SamplingParams
    judging: SamplingParams
    samples: int
    seed: int
    make_progress: Callable[[str, int], Progress | None]
    system_prompt: str | None = None


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """The judge's prompt and rubric, and the maximum score of the rubric."""

    template: PromptTemplate
    rubric: str
    max_score: float = MAX_SCORE
    readout: Readout = "free"


def run_alpaca(
    run: BenchmarkRun,
    *,
    instructions: Sequence[str] | None,
    model: OutputSource,
    baseline: OutputSource,
    orders: PresentationOrders = "both",
    datasets: Mapping[str, str] | None = None,
) -> Scorecard:
    """Compute win rates of a model against a baseline on any prompts.

    Writes `model_outputs.json`, `baseline_outputs.json`, `annotations.json`, and every reply of the
    annotator as a row of `verdicts.jsonl`.

    Args:
        run: settings common to all evaluations.
        instructions: instructions to answer; None: the instructions in a file of outputs.
        model: the evaluated model.
        baseline: the model it is compared with.
        orders: number of presentation orders of each pair: one or both.
        datasets: dataset of each instruction, if known; files of outputs also contain datasets.

    Raises:
        EvaluationFileError: model and baseline answer different instructions, or no instructions
            are given.
        EngineError: an engine failed; running the same command again resumes the run.
    """
    asked = list(instructions) if instructions is not None else _read_instructions(baseline, model)
    sides = {"baseline": baseline, "model": model}
    known = _read_datasets(model, baseline) | dict(datasets or {})
    found: dict[str, tuple[list[ModelOutput], list[DataIssue]]] = {
        role: _get_outputs(run, role, side, asked, datasets=known) for role, side in sides.items()
    }
    outputs, notes = found["model"]
    pairs = alpaca_eval_io.match_outputs(found["baseline"][0], outputs)
    said = ask_for_verdicts(
        run.judge.engine,
        pairs,
        sampling=run.judging,
        orders=orders,
        samples=run.samples,
        seed=run.seed,
        progress=run.make_progress(
            "annotate", len(pairs) * (2 if orders == "both" else 1) * run.samples
        ),
    )
    run.judge.engine.unload()
    path = run.out / "annotations.json"
    annotations = build_annotations(pairs, said, annotator=run.judge.name)
    alpaca_eval_io.write_annotations(path, annotations)
    write_json_lines(run.out / "verdicts.jsonl", iter_verdict_rows(pairs, said))
    card = score_annotations(alpaca_eval_io.read_annotations(path), seed=run.seed)
    card = replace(card, metrics=(*card.metrics, *_measure_steadiness(run.out / "verdicts.jsonl")))
    return _add_issues(card, [*notes, *find_training_overlap(model, asked)])


def _measure_steadiness(path: Path) -> list[Metric]:
    """Measure how consistent the annotator is across orders, repeats and its own reasons."""
    rows = read_rows(path)
    if all(row.values.get("verdict") is None for row in rows):
        return []
    return measure_self_consistency(parse_ratings(path.name, rows))


def _read_instructions(*sides: OutputSource) -> list[str]:
    for side in sides:
        if isinstance(side, Path):
            return [output.instruction for output in alpaca_eval_io.read_outputs(side)]
    raise EvaluationFileError(
        "no prompts to respond to: pass them with --prompts, or pass a file of outputs."
    )


def _read_datasets(*sides: OutputSource) -> dict[str, str]:
    """Read the dataset of each instruction from the outputs files."""
    return {
        output.instruction: output.dataset
        for side in sides
        if isinstance(side, Path)
        for output in alpaca_eval_io.read_outputs(side)
        if output.dataset is not None
    }


def _get_outputs(
    run: BenchmarkRun,
    role: str,
    side: OutputSource,
    instructions: Sequence[str],
    *,
    datasets: Mapping[str, str],
) -> tuple[list[ModelOutput], list[DataIssue]]:
    if isinstance(side, Path):
        outputs, notes = alpaca_eval_io.read_outputs(side), []
    else:
        answers = _generate_model_responses(
            run, role, side, [(instruction,) for instruction in instructions]
        )
        outputs = to_model_outputs(instructions, answers, generator=side.name, datasets=datasets)
        notes = answers.issues if role == "model" else []
    alpaca_eval_io.write_outputs(run.out / f"{role}_outputs.json", outputs)
    return outputs, notes


def _generate_model_responses(
    run: BenchmarkRun, role: str, side: NamedEngine, prompts: Sequence[Sequence[str]]
) -> ModelResponses:
    answers = generate_turns(
        side.engine,
        prompts,
        sampling=run.answering,
        seed=run.seed,
        system_prompt=run.system_prompt,
        progress=run.make_progress(f"answer ({role})", len(prompts)),
    )
    side.engine.unload()
    return answers


def run_arena(
    run: BenchmarkRun,
    *,
    questions: Path,
    model: OutputSource,
    baseline: OutputSource,
    version: Version = "0.1",
) -> list[Scorecard]:
    """Play two games per question against a baseline; in version 2.0 with categories.

    Writes `model_answers.jsonl`, `baseline_answers.jsonl` and `judgments.jsonl` in the version's
    format. A question without a category gets the version's default category.

    Raises:
        EvaluationFileError: a file is incomplete, or an answer is missing.
        EngineError: an engine failed; running the same command again resumes the run.
    """
    asked = arena_hard_io.read_questions(questions)
    base, _ = _get_arena_answers(run, "baseline", baseline, asked, version)
    own, notes = _get_arena_answers(run, "model", model, asked, version)
    judgments = play_games(
        run.judge.engine,
        asked,
        base,
        own,
        judge=run.judge.name,
        version=version,
        sampling=run.judging,
        seed=run.seed,
        progress=run.make_progress("judge", 2 * len(asked)),
    )
    run.judge.engine.unload()
    path = run.out / "judgments.jsonl"
    arena_hard_io.write_judgments(path, judgments, version=version)
    cards = score_arena(
        arena_hard_io.read_judgments([path], version=version),
        version=version,
        answers={
            (answer.model, uid): answer for side in (base, own) for uid, answer in side.items()
        },
        questions=asked,
        seed=run.seed,
    )
    notes = [*notes, *find_training_overlap(model, [question.text for question in asked.values()])]
    return [_add_issues(card, notes) for card in cards]


def _get_arena_answers(
    run: BenchmarkRun,
    role: str,
    side: OutputSource,
    questions: Mapping[str, ArenaQuestion],
    version: Version,
) -> tuple[dict[str, arena_hard_io.ArenaAnswer], list[DataIssue]]:
    notes: list[DataIssue] = []
    if isinstance(side, Path):
        found = list(arena_hard_io.read_answers([side]).values())
        _require_one_model(side, {answer.model for answer in found})
    else:
        answers = _generate_model_responses(
            run, role, side, [(question.text,) for question in questions.values()]
        )
        found = build_styled_answers(list(questions), answers.turns, model=side.name)
        notes = answers.issues
    by_uid = {answer.uid: answer for answer in found}
    _require_all(side, questions.keys() - by_uid.keys(), len(questions))
    arena_hard_io.write_answers(
        run.out / f"{role}_answers.jsonl", [by_uid[uid] for uid in questions], version=version
    )
    return by_uid, notes


def run_mt_bench(run: BenchmarkRun, *, questions: Path, model: OutputSource) -> Scorecard:
    """Generate two turns per question, and grade each from 1 to 10.

    Writes `model_answers.jsonl` and `judgments.jsonl`.

    Raises:
        EvaluationFileError: a file is incomplete, or an answer is missing.
        EngineError: an engine failed; running the same command again resumes the run.
    """
    asked = mt_bench.read_questions(questions)
    answers, name, notes = _get_mt_bench_answers(run, model, asked)
    judgments = judge_turns(
        run.judge.engine,
        asked,
        answers,
        model=name,
        judge=run.judge.name,
        sampling=run.judging,
        seed=run.seed,
        progress=run.make_progress("judge", sum(map(len, answers.values()))),
    )
    run.judge.engine.unload()
    path = run.out / "judgments.jsonl"
    mt_bench.write_turn_judgments(path, judgments)
    (card,) = mt_bench.score_mt_bench(
        mt_bench.read_turn_judgments([path]),
        questions=asked,
        answers={(name, question): turns for question, turns in answers.items()},
    )
    first_turns = [question.turns[0] for question in asked.values()]
    return _add_issues(card, [*notes, *find_training_overlap(model, first_turns)])


def _get_mt_bench_answers(
    run: BenchmarkRun, side: OutputSource, questions: Mapping[str, mt_bench.Question]
) -> tuple[dict[str, tuple[str, ...]], str, list[DataIssue]]:
    """Return the turns by question id, the model, and the issues."""
    notes: list[DataIssue] = []
    if isinstance(side, Path):
        found = mt_bench.read_answers([side])
        name = _require_one_model(side, {model for model, _ in found})
        by_id = {question: turns for (_, question), turns in found.items()}
    else:
        answers = _generate_model_responses(
            run, "model", side, [q.turns for q in questions.values()]
        )
        by_id, name = dict(zip(questions, answers.turns, strict=True)), side.name
        notes = answers.issues
    _require_all(side, questions.keys() - by_id.keys(), len(questions))
    mt_bench.write_answers(run.out / "model_answers.jsonl", name, by_id)
    return by_id, name, notes


def run_reward_bench(run: BenchmarkRun, *, items: Path, words: JudgePrompt) -> Scorecard:
    """Score the answers of every item with the rubric of the loop.

    Writes `scores.jsonl`.

    Raises:
        EvaluationFileError: an item is incomplete.
        EngineError: the engine failed; running the same command again resumes the run.
    """
    version, asked = read_items(items)
    scored = score_items(
        run.judge.engine,
        asked,
        version=version,
        judge=run.judge.name,
        template=words.template,
        rubric=words.rubric,
        max_score=words.max_score,
        readout=words.readout,
        samples=run.samples,
        sampling=run.judging,
        seed=run.seed,
        progress=run.make_progress("judge", run.samples * sum(item.answers for item in asked)),
    )
    run.judge.engine.unload()
    path = run.out / "scores.jsonl"
    write_scored_items(path, scored)
    card = score_reward_bench(read_scored_items(path))
    return _add_issues(card, find_training_overlap(run.judge, [item.prompt for item in asked]))


def _require_one_model(path: Path, names: set[str]) -> str:
    if len(names) > 1:
        raise EvaluationFileError(
            f"{path.name}: contains answers of {len(names)} models "
            f"({', '.join(sorted(names)[:5])}); use a file with the answers of one model."
        )
    return names.pop()


def _require_all(side: OutputSource, missing: Collection[str], asked: int) -> None:
    if missing:
        raise EvaluationFileError(
            f"{side.name}: {len(missing)} of {asked} questions have no answer, first "
            f"{min(missing)}; generate them, or evaluate on fewer questions."
        )


def find_training_overlap(side: OutputSource, texts: Collection[str]) -> list[DataIssue]:
    """Find prompts that the model's experiment trains on: they measure memorization, not skill."""
    known = side.training_prompt_ids if isinstance(side, NamedEngine) else frozenset()
    return make_issue_if_any(
        [text for text in texts if compute_prompt_id(text) in known],
        "prompts_of_training",
        "Instructions that are also in the experiment's training pool: {rows}.",
        "Evaluate on held-out prompts: set sample.held_out to their file.",
    )


def _add_issues(card: Scorecard, more: Sequence[DataIssue]) -> Scorecard:
    return replace(card, issues=(*card.issues, *more))
