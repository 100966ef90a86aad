"""What an iteration's own files say about the model that made them: spread, biases, lengths.

The judge that is measured here is the one that gave the scores. Nothing here is the truth.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from meta_reward_core.evaluation.records import Measurement, Subject
from meta_reward_core.measures import (
    IterationMeasures,
    JudgeMeasures,
    JudgeTally,
    MetaJudgeMeasures,
    MetaJudgeTally,
    PairMeasures,
    mean_of,
    measure_pairs,
    spearman,
)
from meta_reward_core.records import Battle, Dropped, Judgment, PairKind
from meta_reward_core.shards import IterationFiles

Figure = tuple[str, float | None, int]


def measure_iteration(files: IterationFiles, *, kinds: Sequence[PairKind]) -> IterationMeasures:
    """Measure what the iteration's files hold, with the texts of one part in memory at a time.

    Args:
        kinds: the kinds of pairs that the iteration schedules.
    """
    judged, fought = JudgeTally(), MetaJudgeTally()
    for part in files.part_numbers("judgments"):
        judgments = files.read_records(Judgment, part)
        battles = files.read_records(Battle, part)
        judged.add(judgments)
        fought.add(battles, {judgment.judgment_id: judgment for judgment in judgments})
    scores = files.read("scores", columns=["mean", "length_chars"])
    scored = scores.filter(pc.is_valid(scores["mean"]))
    return IterationMeasures(
        judge=judged.measures(),
        meta_judge=fought.measures() if "judge" in kinds else None,
        pairs=tuple(_pairs(files, kind) for kind in kinds),
        response_chars=mean_of(scores["length_chars"].to_pylist()),
        score_length_correlation=spearman(
            scored["mean"].to_pylist(), scored["length_chars"].to_pylist()
        ),
    )


def _pairs(files: IterationFiles, kind: PairKind) -> PairMeasures:
    pairs = files.read(f"{kind}_pairs", columns=["chosen", "rejected"])
    return measure_pairs(
        kind,
        chosen_chars=_reply_lengths(pairs, "chosen"),
        rejected_chars=_reply_lengths(pairs, "rejected"),
        dropped=files.read_records(Dropped),
    )


def _reply_lengths(pairs: pa.Table, side: Literal["chosen", "rejected"]) -> list[int]:
    contents = pc.struct_field(pc.list_element(pairs[side], 0), "content")
    lengths: list[int] = pc.utf8_length(contents).to_pylist()
    return lengths


def as_measurements(measured: IterationMeasures, *, model: str) -> list[Measurement]:
    """Flatten into rows of the table `evaluation`."""
    found: list[tuple[Subject, Figure]] = [("actor", figure) for figure in _actor_figures(measured)]
    if measured.judge is not None:
        found += [("judge", figure) for figure in _judge_figures(measured.judge)]
    if measured.meta_judge is not None:
        found += [("meta_judge", figure) for figure in _meta_judge_figures(measured.meta_judge)]
    for pairs in measured.pairs:
        found += [("pairs", figure) for figure in _pair_figures(pairs)]
    return [
        Measurement(model, subject, metric, value, count, "own_data")
        for subject, (metric, value, count) in found
    ]


def _actor_figures(measured: IterationMeasures) -> Iterator[Figure]:
    responses = measured.judge.judgments if measured.judge else 0
    yield "response_chars", measured.response_chars, responses
    yield "score_length_correlation", measured.score_length_correlation, responses


def _judge_figures(judge: JudgeMeasures) -> Iterator[Figure]:
    yield "parse_rate", judge.parse_rate, judge.judgments
    yield "mean_score", judge.mean, judge.scored
    yield "score_entropy_bits", judge.entropy_bits, judge.scored
    yield "share_at_max", judge.share_at_max, judge.scored


def _meta_judge_figures(meta_judge: MetaJudgeMeasures) -> Iterator[Figure]:
    yield "parse_rate", meta_judge.parse_rate, meta_judge.battles
    yield "won_by_first", meta_judge.won_by_first, meta_judge.decided
    yield "won_by_second", meta_judge.won_by_second, meta_judge.decided
    yield "won_by_higher_score", meta_judge.won_by_higher_score, meta_judge.unequal_scores
    yield "won_by_longer", meta_judge.won_by_longer, meta_judge.unequal_lengths
    yield "inconsistency", meta_judge.inconsistency, meta_judge.both_orders


def _pair_figures(pairs: PairMeasures) -> Iterator[Figure]:
    prompts = pairs.pairs + sum(pairs.dropped.values())
    yield f"{pairs.kind}_pairs", float(pairs.pairs), prompts
    yield f"{pairs.kind}_chosen_chars", pairs.chosen_chars, pairs.pairs
    yield f"{pairs.kind}_rejected_chars", pairs.rejected_chars, pairs.pairs
    for reason, count in pairs.dropped.items():
        yield f"{pairs.kind}_dropped_{reason}", float(count), prompts
