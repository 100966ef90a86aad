"""Choose preference pairs: of responses by the judge's scores, of judgments by their ratings.

Knows nothing of texts beyond their length and equality. Every choice returns either a pair or
the reason why there is none, so that pairs + dropped = prompts.

Source: arXiv 2407.19594, section 2.1 (length control) and section 2.2 (judge pairs).
"""

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from meta_reward_core.battles import PositionWeights
from meta_reward_core.errors import ArtifactError
from meta_reward_core.records import Judgment, Response, ResponseScore

SCORE_TOLERANCE: Final = 1e-9
"""Scores and tier borders closer than this are equal: 4.5 from (4 + 5) / 2 and from
0.7 * 5 + 0.3 * 3.33... differ by rounding alone, and rounding must not decide a tier."""

RATING_TOLERANCE: Final = 1e-9
"""Elo ratings closer than this are equal."""

LengthUnit = Literal["characters", "tokens"]

ScoredResponse = tuple[float, ResponseScore]
"""A mean that is there, and the scores it belongs to."""


class DropReason(StrEnum):
    """Why a prompt gave no pair of a kind."""

    NO_SCORED_RESPONSE = "no_scored_response"
    ONE_SCORED_RESPONSE = "one_scored_response"
    EQUAL_SCORES = "equal_scores"
    TOP_TIER_CUT_OFF = "top_tier_cut_off"
    TOP_TIER_EMPTY = "top_tier_empty"
    SAME_RESPONSE = "same_response"
    TIERS_OVERLAP = "tiers_overlap"
    CHOSEN_TOO_LONG = "chosen_too_long"
    ZERO_VARIANCE = "zero_variance"
    TOO_FEW_DISTINCT_JUDGMENTS = "too_few_distinct_judgments"
    ONE_POSITION_WON_EVERYTHING = "one_position_won_everything"
    EQUAL_RATINGS = "equal_ratings"
    EQUAL_TEXT = "equal_text"
    CHOSEN_JUDGMENT_TOO_LONG = "chosen_judgment_too_long"
    OVER_PAIR_SHARE = "over_pair_share"


REASON_TEXT: Final[dict[DropReason, str]] = {
    DropReason.NO_SCORED_RESPONSE: "No response has enough readable judgments to be scored.",
    DropReason.ONE_SCORED_RESPONSE: "Only one response is scored, so there is nothing to compare.",
    DropReason.EQUAL_SCORES: "All scored responses have the same score.",
    DropReason.TOP_TIER_CUT_OFF: "Every good enough response was cut off by the token limit.",
    DropReason.TOP_TIER_EMPTY: "No good enough response holds any text that ended by itself.",
    DropReason.SAME_RESPONSE: "The shortest good and the longest bad response are the same one.",
    DropReason.TIERS_OVERLAP: "The chosen response does not score higher than the rejected one.",
    DropReason.CHOSEN_TOO_LONG: "The chosen response is longer than the recipe allows.",
    DropReason.ZERO_VARIANCE: "The judgments of every response agree, so none can be better.",
    DropReason.TOO_FEW_DISTINCT_JUDGMENTS: "Fewer than two different judgments are readable.",
    DropReason.ONE_POSITION_WON_EVERYTHING: (
        "In the whole iteration only one position won battles, so wins say nothing."
    ),
    DropReason.EQUAL_RATINGS: "The battles rate all judgments alike.",
    DropReason.EQUAL_TEXT: "The best and the worst judgment have the same text.",
    DropReason.CHOSEN_JUDGMENT_TOO_LONG: "The best judgment is longer than the recipe allows.",
    DropReason.OVER_PAIR_SHARE: "The recipe's limit on the share of judge pairs was reached.",
}
"""One sentence for people per reason."""


@dataclass(frozen=True, slots=True)
class ActorPair:
    """A better and a worse response of one prompt; scores are means of points."""

    prompt_id: str
    chosen_response_id: str
    rejected_response_id: str
    score_chosen: float
    score_rejected: float


@dataclass(frozen=True, slots=True)
class JudgePair:
    """A better and a worse judgment of one response; scores are Elo ratings in nats."""

    prompt_id: str
    response_id: str
    chosen_judgment_id: str
    rejected_judgment_id: str
    score_chosen: float
    score_rejected: float


def score_responses(
    responses: Sequence[Response], judgments: Iterable[Judgment], *, min_valid_judgments: int = 1
) -> list[ResponseScore]:
    """Score every response by the valid ones among its judgments, in the order of `responses`.

    Judgments are matched by (prompt_id, response_id) and may come in any order.

    Raises:
        ArtifactError: a judgment is about a response that is not given, or its score is NaN.
    """
    known = {(response.prompt_id, response.response_id) for response in responses}
    scores: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for judgment in judgments:
        key = (judgment.prompt_id, judgment.response_id)
        if key not in known:
            raise ArtifactError(
                f"Judgment {judgment.judgment_id} is about response {judgment.response_id}, "
                "which is not among the responses."
            )
        if judgment.score is not None:
            scores[key].append(judgment.score)
    return [
        score_response(
            response,
            scores[response.prompt_id, response.response_id],
            min_valid_judgments=min_valid_judgments,
        )
        for response in responses
    ]


def score_response(
    response: Response, scores: Sequence[float], *, min_valid_judgments: int = 1
) -> ResponseScore:
    """Mean and population variance of the points that one response got.

    Both are absent with fewer than `min_valid_judgments` points (the mean of nothing is absent,
    whatever that limit is), and for a prompt that the engine refused: it has no answer to score.

    Args:
        response: what was judged.
        scores: points of its valid judgments, in [0, 5]; the order does not matter.
        min_valid_judgments: how many make a score.

    Raises:
        ArtifactError: one of the points is NaN or infinite.
    """
    if not all(math.isfinite(score) for score in scores):
        raise ArtifactError(
            f"Response {response.response_id} has points that are no number; "
            "an unscored judgment must carry None."
        )
    enough = len(scores) >= max(1, min_valid_judgments) and response.finish_reason != "refused"
    return ResponseScore(
        prompt_id=response.prompt_id,
        response_id=response.response_id,
        sample=response.sample,
        valid=len(scores),
        mean=_mean(scores) if enough else None,
        variance=_population_variance(scores) if enough else None,
        length_chars=len(response.text),
        length_tokens=response.tokens,
        finish_reason=response.finish_reason,
    )


def select_actor_pair(
    scores: Sequence[ResponseScore],
    *,
    rho: float,
    max_chosen_chars: int | None = None,
    length_unit: LengthUnit = "characters",
) -> ActorPair | DropReason:
    """The shortest good response against the longest bad one.

    With S_max and S_min over all scored responses:
    chosen = the shortest with score in [(1 - rho) * S_max + rho * S_min, S_max],
    rejected = the longest with score in [S_min, (1 - rho) * S_min + rho * S_max].
    Ties in length break by the smaller `sample`. Cut-off responses shape the tiers and may be
    rejected, but are never chosen. rho = 0 is plain best against worst.

    Departs from the paper: an empty response is never chosen either, since training on it
    teaches silence; and borders are widened by `SCORE_TOLERANCE`.

    Args:
        scores: of the responses of one prompt, in any order.
        rho: width of both tiers, in [0, 1].
        max_chosen_chars: a longer chosen response (always in characters) drops the pair.
        length_unit: what "shortest" and "longest" count.

    Raises:
        ValueError: rho lies outside [0, 1].
    """
    if not 0 <= rho <= 1:
        raise ValueError(f"rho must lie between 0 and 1, not {rho}.")
    scored = [(score.mean, score) for score in scores if score.mean is not None]
    if len(scored) < 2:
        return DropReason.ONE_SCORED_RESPONSE if scored else DropReason.NO_SCORED_RESPONSE
    top, bottom = max(mean for mean, _ in scored), min(mean for mean, _ in scored)
    if top - bottom <= SCORE_TOLERANCE:
        return DropReason.EQUAL_SCORES
    best_tier = [s for s in scored if s[0] >= (1 - rho) * top + rho * bottom - SCORE_TOLERANCE]
    worst_tier = [s for s in scored if s[0] <= (1 - rho) * bottom + rho * top + SCORE_TOLERANCE]
    choosable = [item for item in best_tier if _may_be_chosen(item[1])]
    if not choosable:
        return _why_none_choosable([score for _, score in best_tier])
    chosen = min(choosable, key=lambda item: (_length(item[1], length_unit), item[1].sample))
    rejected = min(worst_tier, key=lambda item: (-_length(item[1], length_unit), item[1].sample))
    return _actor_pair(chosen, rejected, max_chosen_chars=max_chosen_chars)


def _actor_pair(
    chosen: ScoredResponse, rejected: ScoredResponse, *, max_chosen_chars: int | None
) -> ActorPair | DropReason:
    """The pair of two scored responses, unless something is wrong with it."""
    (score_chosen, best), (score_rejected, worst) = chosen, rejected
    if best.response_id == worst.response_id:
        return DropReason.SAME_RESPONSE
    if score_chosen <= score_rejected + SCORE_TOLERANCE:
        return DropReason.TIERS_OVERLAP
    if max_chosen_chars is not None and best.length_chars > max_chosen_chars:
        return DropReason.CHOSEN_TOO_LONG
    return ActorPair(
        prompt_id=best.prompt_id,
        chosen_response_id=best.response_id,
        rejected_response_id=worst.response_id,
        score_chosen=score_chosen,
        score_rejected=score_rejected,
    )


def select_most_varied_response(
    scores: Sequence[ResponseScore], *, rng: random.Random
) -> ResponseScore | DropReason:
    """The scored response whose points vary most; its judgments go to the meta-judge.

    Equal variances (within `SCORE_TOLERANCE`) are decided by `rng`, independently of the order
    of `scores`; without a tie nothing is drawn from it.
    """
    scored = [(score.variance, score) for score in scores if score.variance is not None]
    if not scored:
        return DropReason.NO_SCORED_RESPONSE
    largest = max(variance for variance, _ in scored)
    if largest <= SCORE_TOLERANCE:
        return DropReason.ZERO_VARIANCE
    tied = [score for variance, score in scored if variance >= largest - SCORE_TOLERANCE]
    if len(tied) == 1:
        return tied[0]
    return rng.choice(sorted(tied, key=lambda score: score.sample))


def select_distinct_judgments(judgments: Iterable[Judgment]) -> list[Judgment] | DropReason:
    """The valid judgments of one response that go into battle, by ascending `sample`.

    Judgments of identical text battle once, as the one of the smallest sample.
    """
    by_text: dict[str, Judgment] = {}
    for judgment in sorted(judgments, key=lambda judgment: judgment.sample):
        if judgment.score is not None:
            by_text.setdefault(judgment.text, judgment)
    if len(by_text) < 2:
        return DropReason.TOO_FEW_DISTINCT_JUDGMENTS
    return list(by_text.values())


def select_judge_pair(
    judgments: Sequence[Judgment],
    ratings: Mapping[str, float],
    *,
    weights: PositionWeights,
    max_chosen_judgment_chars: int | None = None,
) -> JudgePair | DropReason:
    """The highest rated judgment of a response against the lowest rated one.

    Ratings within `RATING_TOLERANCE` are equal and break by the smaller `sample`.

    Args:
        judgments: those that battled: valid, of one response, in any order.
        ratings: Elo in nats by judgment id.
        weights: position weights of the iteration.
        max_chosen_judgment_chars: a longer chosen judgment drops the pair.

    Raises:
        ArtifactError: a judgment has no rating.
    """
    if len(judgments) < 2:
        return DropReason.TOO_FEW_DISTINCT_JUDGMENTS
    if weights.one_position_won_everything:
        return DropReason.ONE_POSITION_WON_EVERYTHING
    rated = [(_rating(judgment, ratings), judgment) for judgment in judgments]
    best, worst = max(elo for elo, _ in rated), min(elo for elo, _ in rated)
    if best - worst <= RATING_TOLERANCE:
        return DropReason.EQUAL_RATINGS
    chosen = _first_sample(j for elo, j in rated if elo >= best - RATING_TOLERANCE)
    rejected = _first_sample(j for elo, j in rated if elo <= worst + RATING_TOLERANCE)
    if chosen.text == rejected.text:
        return DropReason.EQUAL_TEXT
    if max_chosen_judgment_chars is not None and len(chosen.text) > max_chosen_judgment_chars:
        return DropReason.CHOSEN_JUDGMENT_TOO_LONG
    return JudgePair(
        prompt_id=chosen.prompt_id,
        response_id=chosen.response_id,
        chosen_judgment_id=chosen.judgment_id,
        rejected_judgment_id=rejected.judgment_id,
        score_chosen=ratings[chosen.judgment_id],
        score_rejected=ratings[rejected.judgment_id],
    )


def _rating(judgment: Judgment, ratings: Mapping[str, float]) -> float:
    if judgment.judgment_id not in ratings:
        raise ArtifactError(f"Judgment {judgment.judgment_id} battled but has no rating.")
    return ratings[judgment.judgment_id]


def _first_sample(judgments: Iterable[Judgment]) -> Judgment:
    return min(judgments, key=lambda judgment: judgment.sample)


def _may_be_chosen(score: ResponseScore) -> bool:
    return score.finish_reason not in {"length", "refused"} and score.length_chars > 0


def _why_none_choosable(tier: Sequence[ResponseScore]) -> DropReason:
    cut_off = any(score.finish_reason == "length" for score in tier)
    return DropReason.TOP_TIER_CUT_OFF if cut_off else DropReason.TOP_TIER_EMPTY


def _length(score: ResponseScore, unit: LengthUnit) -> int:
    return score.length_chars if unit == "characters" else score.length_tokens


def _mean(values: Sequence[float]) -> float:
    # The mean of equal points is those points, not their rounded sum divided again.
    if min(values) == max(values):
        return values[0]
    return math.fsum(values) / len(values)


def _population_variance(values: Sequence[float]) -> float:
    centre = _mean(values)
    return math.fsum((value - centre) ** 2 for value in values) / len(values)
