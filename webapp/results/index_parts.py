"""A part of an index: one partition of an iteration, reduced to one row per prompt.

An index part depends only on the partition's files, so it is cached under their hashes: it is built
once, on the first request, and rebuilt only if a shard changes.
"""

import contextlib
import os
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from meta_reward_core.evaluation.judge_metrics import measure_meta_judge
from meta_reward_core.method.battles import PositionWeights, compute_readable_shares
from meta_reward_core.method.judge_pairs import JudgedPrompts
from meta_reward_core.method.meta_judging import ComparisonSet
from meta_reward_core.method.pairing import (
    JudgePair,
    score_responses,
    select_judge_pair,
)
from meta_reward_core.method.reasoning import select_answers
from meta_reward_core.method.what_if import count_battles
from meta_reward_core.models.reasoning import ReasoningPolicy
from meta_reward_core.recipes.canonical import canonicalize_section
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.artifact_store import hash_json
from meta_reward_core.storage.records import (
    Battle,
    Judgment,
    Prompt,
    Rating,
    Response,
    ResponseScore,
)
from meta_reward_core.storage.schemas import to_records
from meta_reward_core.storage.shards import IterationFiles
from meta_reward_core.tasks.registry import find_response_grader, find_task
from webapp.results.iteration_reader import read_outcomes

Item = TypeVar("Item")

_VERSION: Final = 2
_READ: Final = ("prompts", "responses", "judgments", "scores", "battles")

_text, _count, _number = pa.string(), pa.int64(), pa.float64()
_texts, _counts, _numbers = pa.list_(_text), pa.list_(_count), pa.list_(_number)

INDEX_PART_SCHEMA: Final = pa.schema(
    [
        ("prompt_id", _text),
        ("text", _text),
        ("part", _count),
        ("response_id", _texts),
        ("sample", _counts),
        ("mean", _numbers),
        ("variance", _numbers),
        ("valid", _counts),
        ("length_chars", _counts),
        ("length_tokens", _counts),
        ("finish_reason", _texts),
        ("true_quality", _numbers),
        ("fielded", _counts),
        ("calls", _counts),
        ("judgments", _count),
        ("unscored", _count),
        ("both_orders", _count),
        ("inconsistent", _count),
        ("battled_response_id", _text),
        ("rated_judgment_id", _texts),
        ("elo", _numbers),
        ("judge_reason", _text),
        ("chosen_judgment_chars", _count),
        ("rejected_judgment_chars", _count),
    ]
)
"""Columns of an index part: one row per prompt; lists have one entry per response or rating.

`mean` and `variance` are computed for each response with at least one scored judgment.
`true_quality` is the grade of each response by the task's ground truth, if it grades responses.
`judge_reason` and the two lengths describe the pair before any length limit.
"""


@dataclass(frozen=True, slots=True)
class IndexPartInputs:
    """Inputs of an index part besides the files of its partition.

    Attributes:
        ratings: Elo ratings of the iteration computed so far.
        ratings_key: hash of their sources.
    """

    recipe: Recipe
    seed: int
    weights: PositionWeights
    ratings: pa.Table
    ratings_key: str | None


def compute_index_part_key(files: IterationFiles, part: int, facts: IndexPartInputs) -> str:
    """Hash all inputs of an index part."""
    return hash_json(
        {
            "version": _VERSION,
            "files": files.hash_inputs(_READ, part),
            "ratings": facts.ratings_key,
            "one_position": facts.weights.one_position_won_everything,
            "judges": canonicalize_section(facts.recipe.meta_judge, "meta_judge."),
            "seed": facts.seed,
            "graded": _describe_grading(facts.recipe),
            **_describe_reasoning(facts.recipe),
        }
    )


def _describe_grading(recipe: Recipe) -> list[str | int]:
    """Return the name and the version of the task that grades responses; empty without one."""
    task = find_task(recipe.task) if find_response_grader(recipe) is not None else None
    return [] if task is None else [task.name, task.version]


def _describe_reasoning(recipe: Recipe) -> dict[str, list[ReasoningPolicy]]:
    """Return the reasoning policies if they change which text is used."""
    policies = [recipe.actor.reasoning, recipe.judge.reasoning]
    return {} if set(policies) == {"keep"} else {"reasoning": policies}


def read_index_part(path: Path) -> pa.Table | None:
    """Memory-map a cached index part; None if there is none, or it cannot be read."""
    try:
        with pa.memory_map(str(path)) as source:
            piece = pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowInvalid):
        return None
    return piece if piece.schema.equals(INDEX_PART_SCHEMA) else None


def save_index_part(path: Path, piece: pa.Table) -> None:
    """Cache an index part atomically, and delete older ones of the same partition.

    If caching fails, the only cost is building the part again.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with (
                pa.OSFile(str(temporary), "wb") as sink,
                pa.ipc.new_file(sink, INDEX_PART_SCHEMA) as writer,
            ):
                writer.write_table(piece)
            os.replace(temporary, path)  # noqa: PTH105 atomic, and both are ours
        finally:
            temporary.unlink(missing_ok=True)
        for older in path.parent.glob(f"{path.name.partition('.')[0]}.*"):
            if older != path:
                older.unlink(missing_ok=True)


def build_index_part(files: IterationFiles, part: int, facts: IndexPartInputs) -> pa.Table:
    """Build the index part of one partition from its finished shards.

    Raises:
        DamagedArtifactError: a file differs from its manifest.
    """
    recipe = facts.recipe
    responses = select_answers(files.read_records(Response, part), recipe.actor.reasoning)
    judgments = select_answers(files.read_records(Judgment, part), recipe.judge.reasoning)
    judged = JudgedPrompts.from_records(
        to_records(files.read("prompts", part), Prompt),
        responses,
        judgments,
        files.read_records(ResponseScore, part),
    )
    battles_by_prompt = _group_by(read_outcomes(files, part), lambda battle: battle.prompt_id)
    ids = pa.array([prompt.prompt_id for prompt in judged.prompts], _text)
    rated = facts.ratings.filter(pc.is_in(facts.ratings["prompt_id"], ids))
    ratings = _group_by(to_records(rated, Rating), lambda rating: rating.response_id)
    grades = _grade_responses(judged.prompts, responses, facts.recipe)
    alone = _group_by(
        score_responses(responses, judgments, min_valid_judgments=1), lambda s: s.prompt_id
    )
    rows = [
        {
            "prompt_id": prompt.prompt_id,
            "text": prompt.text,
            "part": part,
            **_build_response_columns(alone[prompt.prompt_id], judged, facts.recipe, grades),
            **_build_battle_columns(battles_by_prompt[prompt.prompt_id]),
            **_build_judge_columns(
                prompt, judged, facts, ratings, battles_by_prompt[prompt.prompt_id]
            ),
        }
        for prompt in judged.prompts
    ]
    return pa.Table.from_pylist(rows, schema=INDEX_PART_SCHEMA)


def _group_by(items: Iterable[Item], key: Callable[[Item], str]) -> dict[str, list[Item]]:
    groups: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def _grade_responses(
    prompts: Iterable[Prompt], responses: Iterable[Response], recipe: Recipe
) -> dict[str, float]:
    """Grade responses by the task's ground truth, by response id; empty without one."""
    grader = find_response_grader(recipe)
    if grader is None:
        return {}
    texts = {prompt.prompt_id: prompt.text for prompt in prompts}
    return {
        one.response_id: grader.grade_response(texts[one.prompt_id], one.text) for one in responses
    }


def _build_response_columns(
    scores: list[ResponseScore],
    judged: JudgedPrompts,
    recipe: Recipe,
    grades: Mapping[str, float],
) -> dict[str, Any]:
    judgments = [judged.judgments.get(score.response_id, ()) for score in scores]
    fielded = [
        count_battles(
            found,
            max_judgments=recipe.meta_judge.max_judgments,
            max_score_gap=recipe.meta_judge.max_score_gap,
        )
        for found in judgments
    ]
    names = (
        "response_id", "sample", "mean", "variance", "valid",
        "length_chars", "length_tokens", "finish_reason",
    )  # fmt: skip
    return {
        **{name: [getattr(score, name) for score in scores] for name in names},
        "true_quality": [grades.get(score.response_id) for score in scores],
        "fielded": [found.judgments for found in fielded],
        "calls": [found.calls for found in fielded],
        "judgments": sum(map(len, judgments)),
        "unscored": sum(j.score is None for found in judgments for j in found),
    }


def _build_battle_columns(battles: list[Battle]) -> dict[str, Any]:
    measured = measure_meta_judge(battles, {})
    return {
        "both_orders": measured.both_orders,
        "inconsistent": round((measured.inconsistency or 0.0) * measured.both_orders),
    }


def _build_judge_columns(
    prompt: Prompt,
    judged: JudgedPrompts,
    facts: IndexPartInputs,
    rated: Mapping[str, list[Rating]],
    battles: Sequence[Battle],
) -> dict[str, Any]:
    """Build the columns of the battles: response, ratings, and the pair before any limit."""
    contenders = judged.select_comparison_set(
        prompt, seed=facts.seed, max_judgments=facts.recipe.meta_judge.max_judgments
    )
    if not isinstance(contenders, ComparisonSet):
        return {"rated_judgment_id": [], "elo": []}
    ratings = rated.get(contenders.response.response_id, [])
    return {
        "battled_response_id": contenders.response.response_id,
        "rated_judgment_id": [rating.judgment_id for rating in ratings],
        "elo": [rating.elo for rating in ratings],
        **(dict(_iter_pair_columns(contenders, ratings, battles, facts)) if ratings else {}),
    }


def _iter_pair_columns(
    contenders: ComparisonSet,
    ratings: list[Rating],
    battles: Sequence[Battle],
    facts: IndexPartInputs,
) -> Iterator[tuple[str, Any]]:
    elo = {rating.judgment_id: rating.elo for rating in ratings}
    selected = select_judge_pair(
        contenders.judgments,
        elo,
        weights=facts.weights,
        readable=compute_readable_shares(battles),
        min_readable_share=facts.recipe.meta_judge.min_readable_share,
    )
    if not isinstance(selected, JudgePair):
        yield "judge_reason", str(selected)
        return
    chars = {judgment.judgment_id: len(judgment.text) for judgment in contenders.judgments}
    yield "chosen_judgment_chars", chars[selected.chosen_judgment_id]
    yield "rejected_judgment_chars", chars[selected.rejected_judgment_id]
