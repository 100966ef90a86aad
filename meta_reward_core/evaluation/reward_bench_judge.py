"""RewardBench scores by a judge with the rubric of the loop.

An answer's score is the mean of its readable judgments; without any it has none.

Source: Lambert et al. 2024, arXiv 2403.13787; Malik et al. 2025, arXiv 2506.01937 (items). The
judge scores one answer at a time, as in the loop, so that the measured judge is the one used in
training.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meta_reward_core.data.tabular_io import NumberedRow, read_rows
from meta_reward_core.engines.base import Engine, Progress, SamplingParams
from meta_reward_core.evaluation.reward_bench import RewardBenchVersion, ScoredFile, ScoredItem
from meta_reward_core.method.judging import judge_responses
from meta_reward_core.method.parsing import MAX_SCORE
from meta_reward_core.recipes.prompt_templates import PromptTemplate
from meta_reward_core.storage.records import Judgment, Readout, Response


@dataclass(frozen=True, slots=True)
class RewardBenchItem:
    """An instruction with correct and incorrect answers."""

    item_id: str
    subset: str
    prompt: str
    correct: tuple[str, ...]
    incorrect: tuple[str, ...]

    @property
    def answers(self) -> int:
        """Number of answers."""
        return len(self.correct) + len(self.incorrect)


def read_items(path: str | Path) -> tuple[RewardBenchVersion, list[RewardBenchItem]]:
    """Read unscored items: pairs of version 1, or lists of version 2.

    Every row is an item, because public files repeat ids; see `reward_bench`.

    Raises:
        EvaluationFileError: an item is incomplete, or the two forms are mixed.
    """
    rows = read_rows(path)
    version: RewardBenchVersion = "2" if isinstance(rows[0].values.get("chosen"), list) else "1"
    return version, [_parse_item(row, version) for row in rows]


def _parse_item(row: NumberedRow, version: RewardBenchVersion) -> RewardBenchItem:
    correct, incorrect = (_read_texts(row, side, version) for side in ("chosen", "rejected"))
    return RewardBenchItem(
        row.read_name("id"), row.read_text("subset"), row.read_text("prompt"), correct, incorrect
    )


def _read_texts(row: NumberedRow, side: str, version: RewardBenchVersion) -> tuple[str, ...]:
    if version == "1":
        return (row.read_text(side),)
    found = row.values.get(side)
    if not isinstance(found, list) or not found or not all(isinstance(t, str) for t in found):
        row.refuse(f"{side} must be a list of strings, as in version 2; do not mix the versions.")
    return tuple(found)


def score_items(
    engine: Engine,
    items: Sequence[RewardBenchItem],
    *,
    version: RewardBenchVersion,
    judge: str,
    template: PromptTemplate,
    rubric: str,
    max_score: float = MAX_SCORE,
    readout: Readout = "free",
    samples: int,
    sampling: SamplingParams,
    seed: int = 0,
    progress: Progress | None = None,
) -> ScoredFile:
    """Score every answer.

    Args:
        engine: the judge; closed by the caller.
        items: see `read_items`.
        version: version whose rules apply.
        judge: name of the judge in the scores.
        template: the judge prompt.
        rubric: text that replaces `{rubric}`.
        max_score: maximum score of the rubric; see `parse_score`.
        readout: how a score is produced.
        samples: number of judgments of each answer.
        sampling: sampling parameters for the judgments.
        seed: random seed of the engine.
        progress: see `Engine.sample`.

    Raises:
        EngineError: the engine failed as a whole.
    """
    prompts = {str(place): item.prompt for place, item in enumerate(items)}
    responses = [
        Response(str(place), f"{place}.{number}", number, text, 0, "stop")
        for place, item in enumerate(items)
        for number, text in enumerate(item.correct + item.incorrect)
    ]
    judgments, _ = judge_responses(
        responses,
        engine,
        instructions=prompts,
        template=template,
        rubric=rubric,
        max_score=max_score,
        readout=readout,
        samples=samples,
        sampling=sampling,
        seed=seed,
        progress=progress,
    )
    means = _compute_means(judgments)
    return ScoredFile(
        judge, version, tuple(_make_scored_item(n, i, means) for n, i in enumerate(items))
    )


def _compute_means(judgments: Sequence[Judgment]) -> dict[str, float]:
    found: defaultdict[str, list[float]] = defaultdict(list)
    for judgment in judgments:
        if judgment.score is not None:
            found[judgment.response_id].append(judgment.score)
    return {name: math.fsum(scores) / len(scores) for name, scores in found.items()}


def _make_scored_item(place: int, item: RewardBenchItem, means: dict[str, float]) -> ScoredItem:
    scores = tuple(means.get(f"{place}.{number}") for number in range(item.answers))
    cut = len(item.correct)
    return ScoredItem(item.item_id, item.subset, scores[:cut], scores[cut:])
