"""Metrics of an iteration from its own files: score spread, biases, lengths.

The measured judge is the one that scored the responses; no ground truth is used here.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from meta_reward_core.evaluation.judge_health import (
    HealthLimits,
    ReplyTally,
    Role,
    explain_unreadable,
)
from meta_reward_core.evaluation.judge_metrics import (
    IterationMetrics,
    JudgeMetrics,
    JudgeTally,
    MetaJudgeMetrics,
    MetaJudgeTally,
    PairMetrics,
    compute_mean,
    compute_spearman,
    measure_pairs,
)
from meta_reward_core.evaluation.scorecard import Measurement, Subject
from meta_reward_core.method.battles import compute_readable_shares
from meta_reward_core.method.reasoning import select_answers
from meta_reward_core.models.reasoning import ReasoningPolicy
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.records import Battle, Dropped, Judgment, PairKind, RefusedPrompt
from meta_reward_core.storage.schemas import to_records
from meta_reward_core.storage.shards import IterationFiles

MetricValue = tuple[str, float | None, int]


def measure_iteration(
    files: IterationFiles,
    *,
    kinds: Sequence[PairKind],
    judge_reasoning: ReasoningPolicy = "keep",
) -> IterationMetrics:
    """Compute the metrics of an iteration with one partition's texts in memory at a time.

    Args:
        kinds: the kinds of pairs that the iteration schedules.
        judge_reasoning: reasoning policy for judgments, which determines the text whose length
            counts.
    """
    judge_tally, meta_judge_tally = JudgeTally(), MetaJudgeTally()
    readable: dict[str, float] = {}
    for part in files.list_partition_numbers("judgments"):
        judgments = select_answers(files.read_records(Judgment, part), judge_reasoning)
        battles = files.read_records(Battle, part)
        judge_tally.add(judgments)
        meta_judge_tally.add(battles, {judgment.judgment_id: judgment for judgment in judgments})
        readable |= compute_readable_shares(battles)
    scores = files.read("scores", columns=["mean", "length_chars"])
    scored = scores.filter(pc.is_valid(scores["mean"]))
    return IterationMetrics(
        judge=judge_tally.compute_metrics(),
        meta_judge=meta_judge_tally.compute_metrics() if "judge" in kinds else None,
        pairs=tuple(_measure_pair_table(files, kind, readable) for kind in kinds),
        response_chars=compute_mean(scores["length_chars"].to_pylist()),
        score_length_correlation=compute_spearman(
            scored["mean"].to_pylist(), scored["length_chars"].to_pylist()
        ),
    )


def explain_unreadable_replies(files: IterationFiles, role: Role, recipe: Recipe) -> str:
    """Return advice for unreadable replies of the judge or the meta-judge."""
    tally = ReplyTally()
    for part in files.list_partition_numbers("judgments"):
        if role == "judge":
            tally.add_judgments(files.read_records(Judgment, part))
            refused = files.read("refused_by_judge", part)
        else:
            tally.add_battles(files.read_records(Battle, part))
            refused = files.read("refused_by_meta_judge", part)
        tally.add_refusals(to_records(refused, RefusedPrompt))
    decoding = recipe.judge if role == "judge" else recipe.meta_judge
    return explain_unreadable(
        tally, role=role, limits=HealthLimits(), max_new_tokens=decoding.max_new_tokens
    ).remedy


def _measure_pair_table(
    files: IterationFiles, kind: PairKind, readable: Mapping[str, float]
) -> PairMetrics:
    pairs = files.read(f"{kind}_pairs", columns=["chosen", "rejected"])
    return measure_pairs(
        kind,
        chosen_chars=_compute_reply_lengths(pairs, "chosen"),
        rejected_chars=_compute_reply_lengths(pairs, "rejected"),
        dropped=files.read_records(Dropped),
        few_readable=_count_few_readable(files, readable) if kind == "judge" else 0,
    )


def _count_few_readable(files: IterationFiles, readable: Mapping[str, float]) -> int:
    """Count judge pairs that are based on few readable verdicts."""
    names = ("chosen_judgment_id", "rejected_judgment_id")
    pairs = files.read("judge_pairs", columns=names)
    return sum(
        min(readable.get(chosen, 0.0), readable.get(rejected, 0.0)) < 0.5
        for chosen, rejected in zip(*(pairs[name].to_pylist() for name in names), strict=True)
    )


def _compute_reply_lengths(pairs: pa.Table, side: Literal["chosen", "rejected"]) -> list[int]:
    contents = pc.struct_field(pc.list_element(pairs[side], 0), "content")
    lengths: list[int] = pc.utf8_length(contents).to_pylist()
    return lengths


def to_measurements(measured: IterationMetrics, *, model: str) -> list[Measurement]:
    """Convert the metrics to rows of the table `evaluation`."""
    found: list[tuple[Subject, MetricValue]] = [
        ("actor", metric) for metric in _iter_actor_metrics(measured)
    ]
    if measured.judge is not None:
        found += [("judge", metric) for metric in _iter_judge_metrics(measured.judge)]
    if measured.meta_judge is not None:
        found += [
            ("meta_judge", metric) for metric in _iter_meta_judge_metrics(measured.meta_judge)
        ]
    for pairs in measured.pairs:
        found += [("pairs", metric) for metric in _iter_pair_metrics(pairs)]
    return [
        Measurement(model, subject, metric, value, count, "own_data")
        for subject, (metric, value, count) in found
    ]


def _iter_actor_metrics(measured: IterationMetrics) -> Iterator[MetricValue]:
    responses = measured.judge.judgments if measured.judge else 0
    yield "response_chars", measured.response_chars, responses
    yield "score_length_correlation", measured.score_length_correlation, responses


def _iter_judge_metrics(judge: JudgeMetrics) -> Iterator[MetricValue]:
    yield "parse_rate", judge.parse_rate, judge.judgments
    yield "mean_score", judge.mean, judge.scored
    yield "score_entropy_bits", judge.entropy_bits, judge.scored
    yield "share_at_max", judge.share_at_max, judge.scored


def _iter_meta_judge_metrics(meta_judge: MetaJudgeMetrics) -> Iterator[MetricValue]:
    yield "parse_rate", meta_judge.parse_rate, meta_judge.battles
    yield "won_by_first", meta_judge.won_by_first, meta_judge.decided
    yield "won_by_second", meta_judge.won_by_second, meta_judge.decided
    yield "won_by_higher_score", meta_judge.won_by_higher_score, meta_judge.unequal_scores
    yield "won_by_longer", meta_judge.won_by_longer, meta_judge.unequal_lengths
    yield "inconsistency", meta_judge.inconsistency, meta_judge.both_orders


def _iter_pair_metrics(pairs: PairMetrics) -> Iterator[MetricValue]:
    prompts = pairs.pairs + sum(pairs.dropped.values())
    yield f"{pairs.kind}_pairs", float(pairs.pairs), prompts
    yield f"{pairs.kind}_chosen_chars", pairs.chosen_chars, pairs.pairs
    yield f"{pairs.kind}_rejected_chars", pairs.rejected_chars, pairs.pairs
    for reason, count in pairs.dropped.items():
        yield f"{pairs.kind}_dropped_{reason}", float(count), prompts
