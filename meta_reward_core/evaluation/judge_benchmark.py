"""Compare a judge's scores with a reference, in and out of distribution.

Out of distribution means a fixed set for all judges. In distribution means the responses that an
iteration generated and judged itself; on these, a self-trained judge can appear better or worse
than it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from meta_reward_core.data.prompt_files import compute_prompt_id
from meta_reward_core.data.tabular_io import NumberedRow, read_rows, write_json_lines
from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.evaluation.judge_agreement import measure_agreement
from meta_reward_core.evaluation.pipelines import BenchmarkRun, JudgePrompt
from meta_reward_core.evaluation.ratings_io import Ratings, parse_ratings, read_ratings
from meta_reward_core.evaluation.scorecard import Scorecard
from meta_reward_core.experiment import Experiment
from meta_reward_core.method.judging import judge_responses
from meta_reward_core.storage.records import Battle, Judgment, Response
from meta_reward_core.storage.schemas import list_columns
from meta_reward_core.storage.shards import IterationFiles

OWN_RESPONSES: Final = "judge_agreement_on_own_responses"
"""The benchmark's name in distribution; out of distribution it is `judge_agreement`."""


@dataclass(frozen=True, slots=True)
class JudgeItems:
    """Responses to judge, and their prompts by prompt id."""

    instructions: Mapping[str, str]
    responses: tuple[Response, ...]


def read_judge_items(path: str | Path) -> JudgeItems:
    """Read rows of `instruction, response, response_id`, and optionally `prompt_id`.

    Raises:
        EvaluationFileError: a row is incomplete, a response occurs twice, or two instructions have
            the same prompt id.
    """
    instructions: dict[str, str] = {}
    responses: dict[tuple[str, str], Response] = {}
    for row in read_rows(path):
        text = row.read_text("instruction")
        prompt = (
            row.read_name("prompt_id") if "prompt_id" in row.values else compute_prompt_id(text)
        )
        if instructions.setdefault(prompt, text) != text:
            row.refuse(f"prompt_id {prompt} has a different instruction in an earlier row.")
        name = row.read_name("response_id")
        if (prompt, name) in responses:
            row.refuse(f"response {name} occurs twice; keep one row.")
        responses[prompt, name] = Response(prompt, name, 0, row.read_text("response"), 0, "stop")
    return JudgeItems(instructions, tuple(responses.values()))


def read_iteration_items(files: IterationFiles) -> JudgeItems:
    """Read the responses of an iteration, to be judged by another model.

    Raises:
        EvaluationFileError: the iteration has no responses yet.
        DamagedArtifactError: a file of the iteration does not match its manifest.
    """
    prompts = files.read("prompts", columns=["prompt_id", "text"]).to_pylist()
    responses = files.read_records(Response)
    if not responses:
        raise EvaluationFileError(f"{files.folder}: has no responses yet; run the iteration first.")
    return JudgeItems(
        {row["prompt_id"]: row["text"] for row in prompts},
        tuple(responses),
    )


def run_judge(run: BenchmarkRun, items: JudgeItems, *, words: JudgePrompt) -> Path:
    """Score responses.

    Writes `judgments.jsonl`, which `read_ratings` reads.

    Raises:
        EngineError: the engine failed; running the same command again resumes the run.
    """
    judgments, _ = judge_responses(
        items.responses,
        run.judge.engine,
        instructions=items.instructions,
        template=words.template,
        rubric=words.rubric,
        max_score=words.max_score,
        readout=words.readout,
        samples=run.samples,
        sampling=run.judging,
        seed=run.seed,
        progress=run.make_progress("judge", len(items.responses) * run.samples),
    )
    run.judge.engine.unload()
    return write_judgments(run.out, judgments)


def write_judgments(folder: Path, judgments: Sequence[Judgment]) -> Path:
    """Write `judgments.jsonl` without token ids, which only training uses."""
    path = folder / "judgments.jsonl"
    rows = (replace(judgment, token_ids=None, injected_at=None) for judgment in judgments)
    write_json_lines(path, map(asdict, rows))
    return path


def compare_on_fixed_set(judge: Path, reference: Path) -> Scorecard:
    """Compare a judge with a reference on responses from outside the loop.

    Raises:
        EvaluationFileError: the files cannot be read, or have no pair and no response in common.
    """
    return measure_agreement(read_ratings(judge), read_ratings(reference))


def compare_on_own_responses(experiment: Experiment, references: Sequence[Path]) -> list[Scorecard]:
    """Compare each iteration's own judgments with a reference for its responses.

    Args:
        experiment: the experiment whose iterations are compared.
        references: files of ratings; each iteration is compared with the files that contain any of
            its responses. Several files form one reference, and must have the same format.

    Raises:
        EvaluationFileError: the references contain no response of any iteration.
    """
    rows = [row for path in references for row in read_rows(path)]
    reference = parse_ratings(", ".join(path.name for path in references), rows)
    cards = []
    for number, own in _iter_own_ratings(experiment, reference):
        card = measure_agreement(own, reference)
        cards.append(
            replace(card, benchmark=OWN_RESPONSES, model=_format_judge_label(experiment, number))
        )
    if not cards:
        raise EvaluationFileError(
            f"{reference.name}: contains no response of experiment {experiment.name}; have humans "
            "or a stronger model judge the responses of its iterations."
        )
    return cards


def _iter_own_ratings(experiment: Experiment, reference: Ratings) -> Iterator[tuple[int, Ratings]]:
    """Yield the judgments of iterations that the reference covers, by iteration."""
    known = {prompt for prompt, *_ in (*reference.scores, *reference.verdicts)}
    for number in range(1, experiment.count_finished_iterations() + 1):
        table = (
            "battles"
            if _is_about_judgments(experiment.get_files(number), reference)
            else "judgments"
        )
        columns = list_columns(Battle if table == "battles" else Judgment)
        found = experiment.get_files(number).read(table, columns=columns).to_pylist()
        rows = [
            NumberedRow(f"{table} of iteration {number}, row {place}", row)
            for place, row in enumerate(found, start=1)
            if row["prompt_id"] in known
        ]
        if rows:
            yield number, parse_ratings(f"{table} of iteration {number}", rows)


def _is_about_judgments(files: IterationFiles, reference: Ratings) -> bool:
    """Whether a reference compares judgments, like a meta-judge, instead of responses."""
    named = {name for _, first, second in reference.verdicts for name in (first, second)}
    known = files.read("judgments", columns=["judgment_id"])["judgment_id"]
    return not named.isdisjoint(known.to_pylist())


def _format_judge_label(experiment: Experiment, number: int) -> str:
    """Return the label of an iteration's judge, which is the model from which it starts."""
    return f"{experiment.name}, iteration {number} (M{number - 1})"
