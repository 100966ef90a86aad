"""Apply other pairing rules to the stored scores of an iteration, without generating anything.

The rules of `pairing` are applied to the columns of a whole iteration at once. This module does not
depend on files. With a changed rule, the judgments of another response might be compared than
before. The result of those battles is unknown, so such a prompt is `unknown`, with the number of
meta-judge calls that would determine it. Ratings and position weights are those of the iteration.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import compress
from typing import Final

import numpy as np
import numpy.typing as npt

from meta_reward_core.method.judge_pairs import cap_judge_pairs
from meta_reward_core.method.meta_judging import list_ordered_pairs, make_tie_break_rng
from meta_reward_core.method.pairing import (
    ACTOR_REASONS,
    DropReason,
    FloatArray,
    IntArray,
    Mask,
    ScoreGrid,
    mark_most_varied,
    pick_tied_sample,
    select_actor_pairs,
    select_distinct_judgments,
    to_bound,
)
from meta_reward_core.recipes.schema import Recipe, get_scheduled_value
from meta_reward_core.storage.records import Judgment

REASONS: Final = tuple(DropReason)
"""Reasons to which the arrays of reasons refer by index."""

_CODE: Final = {reason: code for code, reason in enumerate(REASONS)}
_ACTOR_CODES: Final = np.array([_CODE[reason] for reason in ACTOR_REASONS], dtype=np.intp)

Codes = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class PairRules:
    """Recipe values that select pairs from finished judgments."""

    rho: float
    max_chosen_chars: int | None
    max_chosen_judgment_chars: int | None
    min_valid_judgments: int


def get_rules(recipe: Recipe, iteration: int) -> PairRules:
    """Return the rules that selected an iteration's pairs."""
    return PairRules(
        rho=get_scheduled_value(recipe.pairing.rho, iteration),
        max_chosen_chars=get_scheduled_value(recipe.pairing.max_chosen_chars, iteration),
        max_chosen_judgment_chars=get_scheduled_value(
            recipe.meta_judge.max_chosen_judgment_chars, iteration
        ),
        min_valid_judgments=recipe.judge.min_valid_judgments,
    )


@dataclass(frozen=True, slots=True)
class JudgedGrid:
    """All inputs of the rules, for the prompts of an iteration.

    Arrays have shape [prompts, positions] unless marked [prompts].

    Attributes:
        grid: the scores of the responses if one readable judgment is enough for a score.
        variance: score variance of each response.
        valid: number of judgments of each response that have a score.
        fields: whether a response has at least two different judgments that could battle.
        calls: number of meta-judge calls that the battles of these judgments require.
        battled: whether the judgments of the response have battled; at most one response per
            prompt.
        judge_paired: [prompts] whether these battles resulted in a pair, regardless of its length.
        judge_reason: [prompts] index into `REASONS` of the reason why there is no pair, if there is
            none.
        chosen_judgment_chars: [prompts] length of the chosen judgment, if there is a pair.
        rejected_judgment_chars: [prompts] length of the rejected judgment, if there is a pair.
    """

    prompt_ids: Sequence[str]
    grid: ScoreGrid
    variance: FloatArray
    valid: IntArray
    fields: Mask
    calls: IntArray
    battled: Mask
    judge_paired: Mask
    judge_reason: Codes
    chosen_judgment_chars: IntArray
    rejected_judgment_chars: IntArray


@dataclass(frozen=True, slots=True)
class PairSelection:
    """Result of the rules for one kind of pair; arrays have shape [prompts].

    A prompt has a pair, or a reason why it has none, or is unknown.

    Attributes:
        paired: whether there is a pair.
        reason: index into `REASONS` if there is no pair and the result is known.
        unknown: whether only further battles would determine the result.
        calls: number of meta-judge calls that would determine the result; 0 if it is known.
        chosen: for actor pairs, the column of the chosen response.
        rejected: for actor pairs, the column of the rejected response.
        chosen_chars: length of the chosen text, if there is a pair.
        rejected_chars: length of the rejected text, if there is a pair.
    """

    paired: Mask
    reason: Codes
    unknown: Mask
    calls: IntArray
    chosen: Codes
    rejected: Codes
    chosen_chars: IntArray
    rejected_chars: IntArray

    def count_drops(self) -> dict[DropReason, int]:
        """Count the prompts without a pair by reason, most frequent first."""
        return count_drops_by_reason(self.reason[~self.paired & ~self.unknown])

    def compute_mean_chars(self) -> tuple[float | None, float | None]:
        """Mean length of the chosen and of the rejected texts; absent without a pair."""
        if not self.paired.any():
            return None, None
        chosen, rejected = self.chosen_chars[self.paired], self.rejected_chars[self.paired]
        return float(chosen.mean()), float(rejected.mean())


def count_drops_by_reason(reasons: Codes) -> dict[DropReason, int]:
    """Count indices into `REASONS`, most frequent first."""
    counts = np.bincount(reasons, minlength=len(REASONS))
    found = [(REASONS[code], int(counts[code])) for code in np.flatnonzero(counts).tolist()]
    return dict(sorted(found, key=lambda one: -one[1]))


def reselect_actor_pairs(judged: JudgedGrid, rules: PairRules) -> PairSelection:
    """Select the response pair of every prompt again.

    Source: Wu et al. 2024, section 2.1.
    """
    grid = replace(judged.grid, scored=_mark_scored(judged, rules))
    made = select_actor_pairs(grid, rho=rules.rho, max_chosen_chars=rules.max_chosen_chars)
    nothing = np.zeros(len(made.paired), dtype=np.int64)
    return PairSelection(
        paired=made.paired,
        reason=_ACTOR_CODES[made.reason],
        unknown=nothing.astype(bool),
        calls=nothing,
        chosen=made.chosen,
        rejected=made.rejected,
        chosen_chars=_take_at(grid.chars, made.chosen),
        rejected_chars=_take_at(grid.chars, made.rejected),
    )


def reselect_judge_pairs(
    judged: JudgedGrid,
    rules: PairRules,
    *,
    seed: int,
    actor_pairs: int,
    max_pair_share: float | None,
) -> PairSelection:
    """Select the judgment pair of every prompt again, as far as the existing battles allow.

    Args:
        seed: seed of the experiment.
        actor_pairs: number of actor pairs, which limits the number of judge pairs.
        max_pair_share: maximum share of judge pairs among all pairs.

    Source: Wu et al. 2024, section 2.2.
    """
    scored = _mark_scored(judged, rules)
    sent = _mark_battle_responses(judged, scored, seed=seed)
    is_sent, fields = sent.any(axis=1), (sent & judged.fields).any(axis=1)
    calls = np.where(sent, judged.calls, 0).sum(axis=1)
    has_battled = fields & (sent & judged.battled).any(axis=1)
    unknown = fields & ~has_battled & (calls > 0)
    too_long = judged.chosen_judgment_chars > to_bound(rules.max_chosen_judgment_chars)
    paired = has_battled & judged.judge_paired & ~too_long
    reason = np.select(
        [
            ~scored.any(axis=1),
            ~is_sent,
            ~fields,
            ~has_battled,
            ~judged.judge_paired,
        ],
        [
            np.full(len(paired), _CODE[DropReason.NO_SCORED_RESPONSE]),
            np.full(len(paired), _CODE[DropReason.ZERO_VARIANCE]),
            np.full(len(paired), _CODE[DropReason.TOO_FEW_DISTINCT_JUDGMENTS]),
            np.full(len(paired), _CODE[DropReason.EQUAL_RATINGS]),
            judged.judge_reason,
        ],
        default=_CODE[DropReason.CHOSEN_JUDGMENT_TOO_LONG],
    ).astype(np.intp)
    nowhere = np.zeros(len(paired), dtype=np.intp)
    pairs = PairSelection(
        paired=paired,
        reason=reason,
        unknown=unknown,
        calls=np.where(unknown, calls, 0),
        chosen=nowhere,
        rejected=nowhere,
        chosen_chars=judged.chosen_judgment_chars,
        rejected_chars=judged.rejected_judgment_chars,
    )
    if max_pair_share is None:
        return pairs
    return _cap_pairs(pairs, judged.prompt_ids, actor_pairs, max_pair_share, seed=seed)


def _mark_scored(judged: JudgedGrid, rules: PairRules) -> Mask:
    enough: Mask = judged.grid.scored & (judged.valid >= rules.min_valid_judgments)
    return enough


def _mark_battle_responses(judged: JudgedGrid, scored: Mask, *, seed: int) -> Mask:
    """Mark the one response of each prompt whose judgments battle."""
    sent = mark_most_varied(judged.variance, scored)
    rows = np.flatnonzero(sent.sum(axis=1) > 1)
    tied, samples = sent[rows], judged.grid.sample[rows]
    picked = [
        _pick_tied(seed, judged.prompt_ids[row], tuple(compress(among, marks)))
        for row, among, marks in zip(rows.tolist(), samples.tolist(), tied.tolist(), strict=True)
    ]
    sent[rows] = tied & (samples == np.array(picked, dtype=np.int64)[:, None])
    return sent


@lru_cache(maxsize=100_000)
def _pick_tied(seed: int, prompt_id: str, samples: tuple[int, ...]) -> int:
    """Return the cached random choice among ties, because users try many rules in a row."""
    return pick_tied_sample(samples, make_tie_break_rng(seed, prompt_id))


def _take_at(values: IntArray, positions: Codes) -> IntArray:
    """Return one value of each row; 0 for an empty row."""
    if values.shape[1] == 0:
        return np.zeros(len(values), dtype=np.int64)
    return values[np.arange(len(values)), positions]


def _cap_pairs(
    pairs: PairSelection,
    prompt_ids: Sequence[str],
    actor_pairs: int,
    max_share: float,
    *,
    seed: int,
) -> PairSelection:
    made = [{"prompt_id": prompt_ids[row]} for row in np.flatnonzero(pairs.paired).tolist()]
    _, over = cap_judge_pairs(made, actor_pairs=actor_pairs, max_share=max_share, seed=seed)
    gone = np.isin(np.asarray(prompt_ids), [drop.prompt_id for drop in over])
    code = _CODE[DropReason.OVER_PAIR_SHARE]
    return replace(pairs, paired=pairs.paired & ~gone, reason=np.where(gone, code, pairs.reason))


@dataclass(frozen=True, slots=True)
class BattleCount:
    """Count the distinct judgments and calls of the battles of a response."""

    judgments: int
    calls: int


def count_battles(
    judgments: Sequence[Judgment], *, max_judgments: int | None, max_score_gap: float | None
) -> BattleCount:
    """Count the actual or hypothetical battles between the judgments of one response."""
    distinct = select_distinct_judgments(judgments)
    if isinstance(distinct, DropReason):
        return BattleCount(0, 0)
    fielded = distinct[:max_judgments]
    return BattleCount(len(fielded), len(list_ordered_pairs(fielded, max_score_gap=max_score_gap)))
