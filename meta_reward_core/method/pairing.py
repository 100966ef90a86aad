"""Select preference pairs: responses by judge scores, judgments by Elo ratings.

Only the length and the equality of texts are used. Every selection returns either a pair or the
reason why there is none, so that pairs + dropped = prompts.

Source: arXiv 2407.19594, section 2.1 (length control) and section 2.2 (judge pairs).
"""

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from meta_reward_core.errors import ArtifactError
from meta_reward_core.method.battles import PositionWeights
from meta_reward_core.storage.records import Judgment, Response, ResponseScore

SCORE_TOLERANCE: Final = 1e-9
"""Scores and tier borders closer than this are equal: 4.5 from (4 + 5) / 2 and from
0.7 * 5 + 0.3 * 3.33... differ only by rounding, which must not decide a tier."""

RATING_TOLERANCE: Final = 1e-9
"""Elo ratings closer than this are equal."""

LengthUnit = Literal["characters", "tokens"]

Mask = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class DropReason(StrEnum):
    """Why a prompt has no pair of a kind."""

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
    BEST_JUDGMENT_CUT_OFF = "best_judgment_cut_off"
    EQUAL_TEXT = "equal_text"
    TOO_FEW_READABLE_BATTLES = "too_few_readable_battles"
    CHOSEN_JUDGMENT_TOO_LONG = "chosen_judgment_too_long"
    OVER_PAIR_SHARE = "over_pair_share"


REASON_TEXT: Final[dict[DropReason, str]] = {
    DropReason.NO_SCORED_RESPONSE: "No response has enough readable judgments to be scored.",
    DropReason.ONE_SCORED_RESPONSE: "Only one response is scored, so there is nothing to compare.",
    DropReason.EQUAL_SCORES: "All scored responses have the same score.",
    DropReason.TOP_TIER_CUT_OFF: "Every response with a high enough score was cut off by the "
    "token limit.",
    DropReason.TOP_TIER_EMPTY: "Every response with a high enough score is empty or unfinished.",
    DropReason.SAME_RESPONSE: "The shortest top-scored and the longest bottom-scored response "
    "are the same.",
    DropReason.TIERS_OVERLAP: "The chosen response does not score higher than the rejected one.",
    DropReason.CHOSEN_TOO_LONG: "The chosen response is longer than the recipe allows.",
    DropReason.ZERO_VARIANCE: "The judgments of each response are identical in score, so none "
    "can be preferred.",
    DropReason.TOO_FEW_DISTINCT_JUDGMENTS: "Fewer than two distinct judgments are readable.",
    DropReason.ONE_POSITION_WON_EVERYTHING: (
        "Only one position won battles in the whole iteration, so wins carry no information."
    ),
    DropReason.EQUAL_RATINGS: "All judgments have the same rating.",
    DropReason.BEST_JUDGMENT_CUT_OFF: "Every top-rated judgment was cut off by the token limit.",
    DropReason.EQUAL_TEXT: "The best and the worst judgment have the same text.",
    DropReason.TOO_FEW_READABLE_BATTLES: (
        "Too few battles of the best or of the worst judgment are readable in both orders."
    ),
    DropReason.CHOSEN_JUDGMENT_TOO_LONG: "The best judgment is longer than the recipe allows.",
    DropReason.OVER_PAIR_SHARE: "The recipe's limit on the share of judge pairs was reached.",
}

REASON_LABEL: Final[dict[DropReason, str]] = {
    DropReason.NO_SCORED_RESPONSE: "no scored response",
    DropReason.ONE_SCORED_RESPONSE: "only one scored response",
    DropReason.EQUAL_SCORES: "all scores equal",
    DropReason.TOP_TIER_CUT_OFF: "all top-scored responses cut off",
    DropReason.TOP_TIER_EMPTY: "all top-scored responses empty or unfinished",
    DropReason.SAME_RESPONSE: "chosen and rejected response the same",
    DropReason.TIERS_OVERLAP: "chosen score not higher",
    DropReason.CHOSEN_TOO_LONG: "chosen response too long",
    DropReason.ZERO_VARIANCE: "equal scores within each response",
    DropReason.TOO_FEW_DISTINCT_JUDGMENTS: "fewer than two distinct readable judgments",
    DropReason.ONE_POSITION_WON_EVERYTHING: "only one position won battles",
    DropReason.EQUAL_RATINGS: "all ratings equal",
    DropReason.BEST_JUDGMENT_CUT_OFF: "all top-rated judgments cut off",
    DropReason.EQUAL_TEXT: "best and worst judgment of equal text",
    DropReason.TOO_FEW_READABLE_BATTLES: "too few readable battles",
    DropReason.CHOSEN_JUDGMENT_TOO_LONG: "best judgment too long",
    DropReason.OVER_PAIR_SHARE: "limit on judge pairs reached",
}
"""Short names of the reasons, for tables and charts."""
"""One sentence per reason, for users."""


@dataclass(frozen=True, slots=True)
class ActorPair:
    """A chosen and a rejected response of one prompt; scores are mean judge scores."""

    prompt_id: str
    chosen_response_id: str
    rejected_response_id: str
    score_chosen: float
    score_rejected: float


@dataclass(frozen=True, slots=True)
class JudgePair:
    """A chosen and a rejected judgment of one response; scores are Elo ratings in nats."""

    prompt_id: str
    response_id: str
    chosen_judgment_id: str
    rejected_judgment_id: str
    score_chosen: float
    score_rejected: float


def score_responses(
    responses: Sequence[Response], judgments: Iterable[Judgment], *, min_valid_judgments: int = 1
) -> list[ResponseScore]:
    """Score every response from its valid judgments, in the order of `responses`.

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
    """Compute the mean and the population variance of the scores of one response.

    Both are absent with fewer than `min_valid_judgments` scores (and without any score, regardless
    of that limit), and for a prompt that the engine refused, because it has no response.

    Args:
        response: the judged response.
        scores: scores of its valid judgments, in [0, 5], in any order.
        min_valid_judgments: minimum number of valid judgments for a mean.

    Raises:
        ArtifactError: a score is NaN or infinite.
    """
    if not all(math.isfinite(score) for score in scores):
        raise ArtifactError(
            f"Response {response.response_id} has a score that is not a number; "
            "an unscored judgment must have the score None."
        )
    enough = len(scores) >= max(1, min_valid_judgments) and response.finish_reason != "refused"
    return ResponseScore(
        prompt_id=response.prompt_id,
        response_id=response.response_id,
        sample=response.sample,
        valid=len(scores),
        mean=_compute_mean(scores) if enough else None,
        variance=_compute_population_variance(scores) if enough else None,
        length_chars=len(response.text),
        length_tokens=response.tokens,
        finish_reason=response.finish_reason,
    )


@dataclass(frozen=True, slots=True)
class ScoreGrid:
    """Scores of the responses of many prompts: one row per prompt, padded to the longest.

    All arrays have shape [prompts, positions]. A position that is not `scored` has no score, or no
    response at all, and its other values are meaningless.

    Attributes:
        scored: whether the response has a mean score.
        mean: mean score.
        length: length in the unit that "shortest" and "longest" refer to.
        chars: length in characters.
        sample: index among the K responses, which breaks ties.
        cut_off: whether the token limit cut off the response.
        may_be_chosen: whether the response ended by itself and is not empty.
    """

    scored: Mask
    mean: FloatArray
    length: IntArray
    chars: IntArray
    sample: IntArray
    cut_off: Mask
    may_be_chosen: Mask

    @classmethod
    def from_records(
        cls, scores: Sequence[ResponseScore], *, length_unit: LengthUnit
    ) -> "ScoreGrid":
        """Build the grid of one prompt, with columns in the order of `scores`."""
        return cls.from_columns(
            scored=np.array([[score.mean is not None for score in scores]], dtype=bool),
            mean=np.array([[score.mean or 0.0 for score in scores]], dtype=np.float64),
            chars=np.array([[score.length_chars for score in scores]], dtype=np.int64),
            tokens=np.array([[score.length_tokens for score in scores]], dtype=np.int64),
            sample=np.array([[score.sample for score in scores]], dtype=np.int64),
            finish_reason=np.array([[score.finish_reason for score in scores]], dtype=object),
            length_unit=length_unit,
        )

    @classmethod
    def from_columns(
        cls,
        *,
        scored: Mask,
        mean: FloatArray,
        chars: IntArray,
        tokens: IntArray,
        sample: IntArray,
        finish_reason: npt.NDArray[np.object_],
        length_unit: LengthUnit,
    ) -> "ScoreGrid":
        """Build the grid from arrays of its shape, named as in `ResponseScore`."""
        cut_off = finish_reason == "length"
        return cls(
            scored=scored,
            mean=mean,
            length=chars if length_unit == "characters" else tokens,
            chars=chars,
            sample=sample,
            cut_off=cut_off,
            may_be_chosen=~cut_off & (finish_reason != "refused") & (chars > 0),
        )


@dataclass(frozen=True, slots=True)
class Tiers:
    """Masks of the top and the bottom tier of a grid.

    Attributes:
        top: [prompts] S_max, 0 where no response has a score.
        bottom: [prompts] S_min, 0 where no response has a score.
        best_from: [prompts] lowest score of the top tier.
        worst_to: [prompts] highest score of the bottom tier.
        best: [prompts, positions] whether the response is in the top tier.
        worst: [prompts, positions] whether the response is in the bottom tier.
    """

    top: FloatArray
    bottom: FloatArray
    best_from: FloatArray
    worst_to: FloatArray
    best: Mask
    worst: Mask


@dataclass(frozen=True, slots=True)
class ActorChoices:
    """Result for each prompt of a grid; all arrays have shape [prompts].

    Attributes:
        paired: whether the prompt has a pair.
        chosen: column of the chosen response, if there is a pair.
        rejected: column of the rejected response, if there is a pair.
        reason: index into `ACTOR_REASONS` of the reason why there is no pair, if there is none.
    """

    paired: Mask
    chosen: npt.NDArray[np.intp]
    rejected: npt.NDArray[np.intp]
    reason: npt.NDArray[np.intp]


ACTOR_REASONS: Final = (
    DropReason.NO_SCORED_RESPONSE,
    DropReason.ONE_SCORED_RESPONSE,
    DropReason.EQUAL_SCORES,
    DropReason.TOP_TIER_CUT_OFF,
    DropReason.TOP_TIER_EMPTY,
    DropReason.SAME_RESPONSE,
    DropReason.TIERS_OVERLAP,
    DropReason.CHOSEN_TOO_LONG,
)
"""Reasons why a prompt has no actor pair; the first that applies counts."""


def select_actor_pair(
    scores: Sequence[ResponseScore],
    *,
    rho: float,
    max_chosen_chars: int | None = None,
    length_unit: LengthUnit = "characters",
) -> ActorPair | DropReason:
    """Select the shortest top-tier and the longest bottom-tier response of one prompt.

    The rule is `select_actor_pairs`.

    Args:
        scores: scores of the responses of one prompt, in any order.
        rho: width of both tiers, in [0, 1].
        max_chosen_chars: a longer chosen response (always in characters) drops the pair.
        length_unit: unit of length for "shortest" and "longest".

    Raises:
        ValueError: rho is outside [0, 1].
    """
    grid = ScoreGrid.from_records(scores, length_unit=length_unit)
    made = select_actor_pairs(grid, rho=rho, max_chosen_chars=max_chosen_chars)
    if not made.paired[0]:
        return ACTOR_REASONS[made.reason[0]]
    best, worst = scores[made.chosen[0]], scores[made.rejected[0]]
    return ActorPair(
        prompt_id=best.prompt_id,
        chosen_response_id=best.response_id,
        rejected_response_id=worst.response_id,
        score_chosen=float(grid.mean[0, made.chosen[0]]),
        score_rejected=float(grid.mean[0, made.rejected[0]]),
    )


def select_actor_pairs(
    grid: ScoreGrid, *, rho: float, max_chosen_chars: int | None
) -> ActorChoices:
    """Select the shortest top-tier and the longest bottom-tier response of many prompts at once.

    With S_max and S_min over all scored responses of a prompt:
    chosen = the shortest with score in [(1 - rho) * S_max + rho * S_min, S_max],
    rejected = the longest with score in [S_min, (1 - rho) * S_min + rho * S_max].
    Ties in length break by the smaller `sample`. Cut-off responses shape the tiers and may be
    rejected, but are never chosen. rho = 0 is plain best against worst.

    Departs from the paper: an empty response is never chosen either, because training on it teaches
    the model to give empty responses; and tier borders are widened by `SCORE_TOLERANCE`.

    Raises:
        ValueError: rho is outside [0, 1].
    """
    if not 0 <= rho <= 1:
        raise ValueError(f"rho must be between 0 and 1, not {rho}.")
    if grid.scored.shape[1] == 0:
        nothing = np.zeros(len(grid.scored), dtype=np.intp)
        return ActorChoices(nothing.astype(bool), nothing, nothing, reason=nothing)
    tiers = find_tiers(grid, rho=rho)
    choosable = tiers.best & grid.may_be_chosen
    rows = np.arange(len(tiers.top))
    chosen = _find_first_place(choosable, grid.length, grid.sample)
    rejected = _find_first_place(tiers.worst, -grid.length, grid.sample)
    wrong = np.stack(
        [
            ~grid.scored.any(axis=1),
            grid.scored.sum(axis=1) == 1,
            tiers.top - tiers.bottom <= SCORE_TOLERANCE,
            ~choosable.any(axis=1) & (tiers.best & grid.cut_off).any(axis=1),
            ~choosable.any(axis=1),
            chosen == rejected,
            grid.mean[rows, chosen] <= grid.mean[rows, rejected] + SCORE_TOLERANCE,
            grid.chars[rows, chosen] > to_bound(max_chosen_chars),
        ]
    )
    paired: Mask = ~np.asarray(wrong.any(axis=0))
    return ActorChoices(paired, chosen, rejected, reason=wrong.argmax(axis=0))


def find_tiers(grid: ScoreGrid, *, rho: float) -> Tiers:
    """Compute the top and the bottom tier of each prompt."""
    known = grid.scored.any(axis=1)
    highest = grid.mean.max(axis=1, where=grid.scored, initial=-np.inf)
    lowest = grid.mean.min(axis=1, where=grid.scored, initial=np.inf)
    top, bottom = np.where(known, highest, 0.0), np.where(known, lowest, 0.0)
    best_from = (1 - rho) * top + rho * bottom
    worst_to = (1 - rho) * bottom + rho * top
    return Tiers(
        top=top,
        bottom=bottom,
        best_from=best_from,
        worst_to=worst_to,
        best=grid.scored & (grid.mean >= (best_from - SCORE_TOLERANCE)[:, None]),
        worst=grid.scored & (grid.mean <= (worst_to + SCORE_TOLERANCE)[:, None]),
    )


def _find_first_place(mask: Mask, length: IntArray, sample: IntArray) -> npt.NDArray[np.intp]:
    """Find the column of the smallest (length, sample) in each row's mask; any if it is empty."""
    last = np.iinfo(np.int64).max
    shortest = np.where(mask, length, last).min(axis=1)
    tied = mask & (length == shortest[:, None])
    positions: npt.NDArray[np.intp] = np.where(tied, sample, last).argmin(axis=1)
    return positions


def select_most_varied_response(
    scores: Sequence[ResponseScore], *, rng: random.Random
) -> ResponseScore | DropReason:
    """Select the scored response with the largest score variance, whose judgments battle.

    `rng` decides between equal variances (within `SCORE_TOLERANCE`), independently of the order of
    `scores`; otherwise it is not used.
    """
    scored = [score for score in scores if score.variance is not None]
    if not scored:
        return DropReason.NO_SCORED_RESPONSE
    variance = np.array([[score.variance for score in scored]], dtype=np.float64)
    tied = mark_most_varied(variance, np.ones_like(variance, dtype=bool))[0]
    most_varied = [score for score, is_tied in zip(scored, tied, strict=True) if is_tied]
    if not most_varied:
        return DropReason.ZERO_VARIANCE
    picked = pick_tied_sample([score.sample for score in most_varied], rng)
    return next(score for score in most_varied if score.sample == picked)


def pick_tied_sample(samples: Sequence[int], rng: random.Random) -> int:
    """Select one of several responses of equal variance; a single one needs no random number."""
    return samples[0] if len(samples) == 1 else rng.choice(sorted(samples))


def mark_most_varied(variance: FloatArray, scored: Mask) -> Mask:
    """Mark the responses that share the largest variance, for many prompts at once.

    Args:
        variance: score variance of each response, of shape [prompts, positions].
        scored: whether each response has a variance, of the same shape.

    Returns:
        A mask of the same shape; no response of a row is marked if the judgments of every response
        agree.
    """
    largest = variance.max(axis=1, where=scored, initial=0.0)
    tied = scored & (variance >= largest[:, None] - SCORE_TOLERANCE)
    marked: Mask = tied & (largest > SCORE_TOLERANCE)[:, None]
    return marked


def select_distinct_judgments(judgments: Iterable[Judgment]) -> list[Judgment] | DropReason:
    """Select the valid judgments of one response that battle, by ascending `sample`.

    Judgments with identical text battle once, represented by the smallest sample.
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
    readable: Mapping[str, float] | None = None,
    min_readable_share: float = 0.0,
    max_chosen_judgment_chars: int | None = None,
) -> JudgePair | DropReason:
    """Select the highest and the lowest rated judgment of a response.

    Ratings within `RATING_TOLERANCE` are equal and break by the smaller `sample`. A judgment that
    the token limit cut off is rated like any other and may be rejected, but is never chosen, as
    with responses; if all judgments with the highest rating were cut off, there is no pair.
    Judgments that were stored before `finish_reason` was recorded count as finished.

    Args:
        judgments: the valid judgments of one response that battled, in any order.
        ratings: Elo ratings in nats by judgment id.
        weights: position weights of the iteration.
        readable: see `compute_readable_shares`; it has no entry for a judgment without battles.
        min_readable_share: minimum readable share of both judgments; below it there is no pair.
        max_chosen_judgment_chars: a longer chosen judgment drops the pair.

    Raises:
        ArtifactError: a judgment has no rating.
    """
    if len(judgments) < 2:
        return DropReason.TOO_FEW_DISTINCT_JUDGMENTS
    if weights.one_position_won_everything:
        return DropReason.ONE_POSITION_WON_EVERYTHING
    rated = [(_get_rating(judgment, ratings), judgment) for judgment in judgments]
    best, worst = max(elo for elo, _ in rated), min(elo for elo, _ in rated)
    if best - worst <= RATING_TOLERANCE:
        return DropReason.EQUAL_RATINGS
    top = [j for elo, j in rated if elo >= best - RATING_TOLERANCE and not j.is_cut_off]
    if not top:
        return DropReason.BEST_JUDGMENT_CUT_OFF
    chosen = _pick_first_sample(top)
    rejected = _pick_first_sample(j for elo, j in rated if elo <= worst + RATING_TOLERANCE)
    if chosen.text == rejected.text:
        return DropReason.EQUAL_TEXT
    shares = [(readable or {}).get(one.judgment_id, 0.0) for one in (chosen, rejected)]
    if min(shares) < min_readable_share:
        return DropReason.TOO_FEW_READABLE_BATTLES
    if len(chosen.text) > to_bound(max_chosen_judgment_chars):
        return DropReason.CHOSEN_JUDGMENT_TOO_LONG
    return JudgePair(
        prompt_id=chosen.prompt_id,
        response_id=chosen.response_id,
        chosen_judgment_id=chosen.judgment_id,
        rejected_judgment_id=rejected.judgment_id,
        score_chosen=ratings[chosen.judgment_id],
        score_rejected=ratings[rejected.judgment_id],
    )


def to_bound(limit: int | None) -> float:
    """Return infinity for a limit that is not set."""
    return math.inf if limit is None else limit


def _get_rating(judgment: Judgment, ratings: Mapping[str, float]) -> float:
    if judgment.judgment_id not in ratings:
        raise ArtifactError(
            f"Judgment {judgment.judgment_id} took part in battles but has no rating."
        )
    return ratings[judgment.judgment_id]


def _pick_first_sample(judgments: Iterable[Judgment]) -> Judgment:
    return min(judgments, key=lambda judgment: judgment.sample)


def _compute_mean(values: Sequence[float]) -> float:
    # The mean of equal scores must be exactly that score, without the rounding of a sum.
    if min(values) == max(values):
        return values[0]
    return math.fsum(values) / len(values)


def _compute_population_variance(values: Sequence[float]) -> float:
    centre = _compute_mean(values)
    return math.fsum((value - centre) ** 2 for value in values) / len(values)
