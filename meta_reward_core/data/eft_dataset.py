"""Evaluation fine-tuning (EFT) data from human-ranked answers: judgments that agree with the ranks.

A judge scores all answers to a prompt, several times. The judgments of one round are kept together
if they order the answers as the humans do; a single judgment does not define an order.

Source: arXiv 2401.10020, section 3.1 (judgments are accepted if the ranking of their scores agrees
with the human rankings). Our additions: answers with equal human ranks may have any scores; and the
share of judgments with the same score is capped, because most judgments of an unfiltered set have
the same score.
"""

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from meta_reward_core.data.prompt_files import compute_prompt_id
from meta_reward_core.data.prompt_filters import HeldOutPrompts
from meta_reward_core.data.tabular_io import NumberedRow, read_rows
from meta_reward_core.engines.base import Engine, Progress, SamplingParams
from meta_reward_core.method.judging import build_judge_conversation, judge_responses
from meta_reward_core.method.parsing import MAX_SCORE
from meta_reward_core.recipes.prompt_templates import PromptTemplate
from meta_reward_core.storage.records import Judgment, Response, VerdictReadout

JudgmentDropReason = Literal[
    "unscored", "tie", "order_differs", "cut_off", "too_many_of_these_points"
]
PromptDropReason = Literal["held_out", "one_answer", "ranked_alike"]


@dataclass(frozen=True, slots=True)
class RankedPrompt:
    """A prompt with answers and their human ranks.

    Attributes:
        answers: distinct answer texts.
        ranks: rank of each answer; 1 is the best, and answers of equal quality have equal ranks.
    """

    prompt_id: str
    instruction: str
    answers: tuple[str, ...]
    ranks: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class EftRow:
    """A row of EFT data: the judge's prompt and a good judgment."""

    prompt: str
    response: str
    prompt_id: str
    response_id: str
    score: float
    rank: float


@dataclass(frozen=True, slots=True)
class EftData:
    """Result of building EFT data. kept + not kept = judgments.

    Attributes:
        rows: the EFT rows, in the order of prompts and answers.
        not_kept: number of judgments that were not kept, by reason.
        left_out: number of prompts that were not judged, by reason.
        judgments: number of judgments that the judge wrote.
    """

    rows: tuple[EftRow, ...]
    not_kept: Mapping[JudgmentDropReason, int]
    left_out: Mapping[PromptDropReason, int]
    judgments: int


def read_ranked(path: str | Path) -> list[RankedPrompt]:
    """Read ranked answers in one of two formats.

    One row per answer: `instruction` (or `prompt_text`), `response` (or `response_text`) and
    `rank` (or `score`, the higher the better). Or one row per prompt: `prompt`, `responses` and
    `ranks`.

    Raises:
        EvaluationFileError: a row is incomplete, or an answer occurs twice.
    """
    rows = read_rows(path)
    if "responses" in rows[0].values:
        return [_read_prompt(row) for row in rows]
    found: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for row in rows:
        prompt = row.read_text("prompt_text" if "prompt_text" in row.values else "instruction")
        answer = row.read_text("response_text" if "response_text" in row.values else "response")
        if answer in (known for known, _ in found[prompt]):
            row.refuse("this answer occurs twice; keep one row.")
        found[prompt].append((answer, _read_rank(row)))
    return [
        RankedPrompt(compute_prompt_id(prompt), prompt, *zip(*answers, strict=True))
        for prompt, answers in found.items()
    ]


def _read_rank(row: NumberedRow) -> float:
    rank = row.read_number("rank")
    if rank is not None:
        return rank
    score = row.read_number("score")
    if score is None:
        row.refuse("has neither rank (1 is the best) nor score; add one of them to every answer.")
    return -score


def _read_prompt(row: NumberedRow) -> RankedPrompt:
    prompt, answers, ranks = (
        row.read_text("prompt"),
        row.values["responses"],
        row.values.get("ranks"),
    )
    if not isinstance(answers, list) or not all(isinstance(text, str) for text in answers):
        row.refuse("responses must be a list of strings.")
    if not isinstance(ranks, list) or len(ranks) != len(answers):
        row.refuse("ranks must be a list with one rank for each response.")
    if len(set(answers)) < len(answers):
        row.refuse("a response occurs twice; keep one.")
    numbers = [NumberedRow(row.place, {"rank": rank}) for rank in ranks]
    return RankedPrompt(
        compute_prompt_id(prompt), prompt, tuple(answers), tuple(map(_read_rank, numbers))
    )


def build_eft(
    engine: Engine,
    prompts: Sequence[RankedPrompt],
    *,
    template: PromptTemplate,
    rubric: str,
    samples: int,
    sampling: SamplingParams,
    seed: int,
    held_out: HeldOutPrompts,
    max_score: float = MAX_SCORE,
    readout: VerdictReadout = "free",
    max_share: float = 1.0,
    tell: Callable[[int], Progress] | None = None,
) -> EftData:
    """Judge ranked answers and keep the judgments that agree with the human ranks.

    Args:
        engine: the judge, not yet trained to judge; closed by the caller.
        prompts: see `read_ranked`.
        template: the judge prompt, which must be the one that the loop will use.
        rubric: text that replaces `{rubric}`.
        samples: number of times that all answers to a prompt are judged.
        sampling: sampling parameters for the judgments.
        seed: random seed of the engine and of the selection that enforces `max_share`.
        max_score: maximum score of the rubric; see `parse_score`.
        readout: how a score is read or forced. A forced score line is part of the training text: it
            is in judgments that agree with the human ranks.
        held_out: prompts that must not be trained on.
        max_share: maximum share of rows with the same score; 1 keeps all.
        tell: called with the total number of judgments; returns a progress callback.

    Raises:
        EngineError: the engine failed as a whole.
    """
    usable, left_out = _select_usable_prompts(prompts, held_out)
    responses = {
        response.response_id: (prompt, response)
        for prompt in usable
        for response in _build_responses(prompt)
    }
    judgments, _ = judge_responses(
        [response for _, response in responses.values()],
        engine,
        instructions={prompt.prompt_id: prompt.instruction for prompt in usable},
        template=template,
        rubric=rubric,
        samples=samples,
        sampling=sampling,
        seed=seed,
        max_score=max_score,
        readout=readout,
        progress=None if tell is None else tell(len(responses) * samples),
    )
    ranks = {
        f"{prompt.prompt_id}.{place}": rank
        for prompt in usable
        for place, rank in enumerate(prompt.ranks)
    }
    kept, not_kept = _select_agreeing_judgments(judgments, ranks)
    rows = []
    for judgment in kept:
        prompt, response = responses[judgment.response_id]
        conversation = build_judge_conversation(
            template, rubric=rubric, instruction=prompt.instruction, response=response.text
        )
        rows.append(
            _build_eft_row(judgment, conversation[-1]["content"], ranks[judgment.response_id])
        )
    capped = cap_score_share(rows, max_share=max_share, seed=seed)
    not_kept["too_many_of_these_points"] += len(rows) - len(capped)
    return EftData(tuple(capped), dict(+not_kept), left_out, len(judgments))


def _select_usable_prompts(
    prompts: Sequence[RankedPrompt], held_out: HeldOutPrompts
) -> tuple[list[RankedPrompt], dict[PromptDropReason, int]]:
    """Select prompts whose human ranks define an order."""
    left_out: Counter[PromptDropReason] = Counter()
    usable = []
    for prompt in prompts:
        if prompt.instruction in held_out:
            left_out["held_out"] += 1
        elif len(prompt.answers) < 2:
            left_out["one_answer"] += 1
        elif len(set(prompt.ranks)) < 2:
            left_out["ranked_alike"] += 1
        else:
            usable.append(prompt)
    return usable, dict(left_out)


def _build_responses(prompt: RankedPrompt) -> list[Response]:
    return [
        Response(prompt.prompt_id, f"{prompt.prompt_id}.{place}", place, text, 0, "stop")
        for place, text in enumerate(prompt.answers)
    ]


def _select_agreeing_judgments(
    judgments: Sequence[Judgment], ranks: Mapping[str, float]
) -> tuple[list[Judgment], Counter[JudgmentDropReason]]:
    """Select judgments whose scores, within one sample index, order the answers like their ranks.

    The score of a judgment that the token limit cut off counts for that order, but its text is
    incomplete and is not used for training.
    """
    together: defaultdict[tuple[str, int], list[Judgment]] = defaultdict(list)
    for judgment in judgments:
        together[judgment.prompt_id, judgment.sample].append(judgment)
    kept = []
    not_kept: Counter[JudgmentDropReason] = Counter()
    for group in together.values():
        reason = find_drop_reason([(j.score, ranks[j.response_id]) for j in group])
        if reason is not None:
            not_kept[reason] += len(group)
            continue
        finished = [judgment for judgment in group if not judgment.is_cut_off]
        kept += finished
        not_kept["cut_off"] += len(group) - len(finished)
    return kept, not_kept


def find_drop_reason(judged: Sequence[tuple[float | None, float]]) -> JudgmentDropReason | None:
    """Return why judgments of one sample index do not agree with the ranks; None if they do.

    Args:
        judged: pair (score, rank) for each answer.
    """
    if any(score is None for score, _ in judged):
        return "unscored"
    agreements = [
        ((one[0] or 0.0) - (other[0] or 0.0)) * (1 if one[1] < other[1] else -1)
        for one, other in itertools.combinations(judged, 2)
        if one[1] != other[1]
    ]
    if any(agreement < 0 for agreement in agreements):
        return "order_differs"
    return "tie" if any(agreement == 0 for agreement in agreements) else None


def _build_eft_row(judgment: Judgment, prompt: str, rank: float) -> EftRow:
    return EftRow(
        prompt=prompt,
        response=judgment.text,
        prompt_id=judgment.prompt_id,
        response_id=judgment.response_id,
        score=judgment.score or 0.0,
        rank=rank,
    )


def cap_score_share(rows: Sequence[EftRow], *, max_share: float, seed: int) -> list[EftRow]:
    """Drop rows of the most frequent score until no score exceeds its share.

    Args:
        rows: EFT rows with any scores.
        max_share: maximum share of the remaining rows with the same score, in (0, 1].
        seed: random seed for the choice of the rows that are dropped.
    """
    rng = random.Random(seed)
    by_points: defaultdict[int, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        by_points[round(row.score)].append(place)
    for indexes in by_points.values():
        rng.shuffle(indexes)
    most = _compute_largest_cap([len(indexes) for indexes in by_points.values()], max_share)
    kept = {place for indexes in by_points.values() for place in indexes[:most]}
    return [row for place, row in enumerate(rows) if place in kept]


def _compute_largest_cap(sizes: Sequence[int], share: float) -> int:
    """Compute the maximum rows per score: cap <= share * sum(min(size, cap)).

    With fewer distinct scores than 1 / share this is impossible; then all scores get the same
    number of rows.
    """
    fitting = (
        cap
        for cap in range(max(sizes, default=0), 0, -1)
        if cap <= share * sum(min(size, cap) for size in sizes) + 1e-9
    )
    return next(fitting, min(sizes, default=0))
