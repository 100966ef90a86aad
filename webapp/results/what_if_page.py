"""What-if page: pairs under changed rules next to the stored pairs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from meta_reward_core.evaluation.confidence_intervals import compute_wilson_interval
from meta_reward_core.method.pairing import (
    REASON_LABEL,
    DropReason,
    FloatArray,
    IntArray,
    Mask,
)
from meta_reward_core.method.what_if import (
    REASONS,
    PairRules,
    PairSelection,
    count_drops_by_reason,
    get_rules,
    reselect_actor_pairs,
    reselect_judge_pairs,
)
from meta_reward_core.storage.records import PairKind
from webapp.results.iteration_reader import OpenIteration
from webapp.results.prompt_index import IterationIndex, StoredPairs
from webapp.results.prompt_list import make_excerpt

SHOWN_ON_A_PAGE: Final = 25
MINUS: Final = "−"

Positions = npt.NDArray[np.intp]

_KEYS: Final = {
    "rho": "pairing.rho",
    "max_chosen_chars": "pairing.max_chosen_chars",
    "max_chosen_judgment_chars": "meta_judge.max_chosen_judgment_chars",
    "min_valid_judgments": "judge.min_valid_judgments",
}
"""Recipe key of each rule."""

_LARGE_LOSS: Final = 0.25
"""Share of the pairs whose loss is shown as a warning."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A metric under the actual rules and under other rules, as text.

    Attributes:
        change: after minus before, of numbers that differ.
        is_part: whether it is a part of the row above.
    """

    name: str
    before: str
    after: str
    change: str = ""
    is_part: bool = False

    @property
    def is_changed(self) -> bool:
        """Whether the two texts differ."""
        return self.before != self.after


@dataclass(frozen=True, slots=True)
class KindView:
    """Pairs of one kind under the recipe's rules and under the changed rules.

    Attributes:
        verdict: the result in one or two sentences.
        is_large_loss: whether the verdict is a warning, because many pairs are lost.
        unknown: prompts whose result is unknown.
        calls: meta-judge calls that would determine it.
    """

    kind: PairKind
    verdict: str
    is_large_loss: bool
    rows: Sequence[Comparison]
    unknown: int
    calls: int

    @property
    def is_changed(self) -> bool:
        """Whether a metric differs, or is unknown."""
        return bool(self.unknown) or any(row.is_changed for row in self.rows)


@dataclass(frozen=True, slots=True)
class ChangedPair:
    """A prompt whose pair of a kind changed, as text."""

    row: int
    kind: PairKind
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class ChangedPrompt:
    """A changed pair in the list of the page."""

    prompt_id: str
    excerpt: str
    kind: PairKind
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class WhatIf:
    """Result of other rules for an iteration.

    Attributes:
        changed_values: recipe values of the changed rules, by key.
        as_it_was: whether the rules equal those of the recipe.
        has_ground_truth: whether pairs are compared with the ground truth.
        changed: (kind, row) of each pair that changes, actor pairs first.
    """

    rules: PairRules
    changed_values: Mapping[str, float | None]
    as_it_was: bool
    has_ground_truth: bool
    kinds: Sequence[KindView]
    changed: Sequence[tuple[PairKind, int]]
    made: dict[PairKind, PairSelection]


def compute_what_if(opened: OpenIteration, index: IterationIndex, rules: PairRules) -> WhatIf:
    """Select all pairs under other rules; kinds without stored pairs are skipped."""
    made = _reselect(opened, index, rules)
    known = {kind: pairs for kind, pairs in made.items() if index.kinds[kind].made}
    as_they_were = get_rules(opened.recipe, opened.number)
    return WhatIf(
        rules=rules,
        changed_values={
            key: getattr(rules, rule)
            for rule, key in _KEYS.items()
            if getattr(rules, rule) != getattr(as_they_were, rule)
        },
        as_it_was=rules == as_they_were,
        has_ground_truth=index.true_quality is not None,
        kinds=[_make_kind_view(kind, pairs, index) for kind, pairs in known.items()],
        changed=[
            (kind, row)
            for kind, pairs in known.items()
            for row in np.flatnonzero(_is_changed(kind, pairs, index)).tolist()
        ],
        made=known,
    )


def describe_changed(
    what_if: WhatIf, index: IterationIndex, shown: Sequence[tuple[PairKind, int]]
) -> list[ChangedPrompt]:
    """Describe some of the changes."""
    return [
        ChangedPrompt(
            prompt_id=index.prompt_ids[row],
            excerpt=make_excerpt(index.rows["text"][row].as_py()),
            kind=kind,
            before=_describe_before(index, kind, row),
            after=_describe_after(index, kind, what_if.made[kind], row),
        )
        for kind, row in shown
    ]


def _reselect(
    opened: OpenIteration, index: IterationIndex, rules: PairRules
) -> dict[PairKind, PairSelection]:
    actor = reselect_actor_pairs(index.judged, rules)
    trains_on_actor = opened.recipe.trains_on("actor", opened.number)
    judge = reselect_judge_pairs(
        index.judged,
        rules,
        seed=opened.experiment.seed,
        actor_pairs=int(actor.paired.sum()) if trains_on_actor else 0,
        max_pair_share=opened.recipe.meta_judge.max_pair_share,
    )
    return {"actor": actor, "judge": judge}


def _make_kind_view(kind: PairKind, pairs: PairSelection, index: IterationIndex) -> KindView:
    before = index.kinds[kind]
    chosen_after, rejected_after = pairs.compute_mean_chars()
    chosen_before, rejected_before = _compute_chars_before(kind, index)
    verdict, is_large_loss = _summarize(kind, pairs, index)
    return KindView(
        kind=kind,
        verdict=verdict,
        is_large_loss=is_large_loss,
        rows=[
            _compare("Pairs", int(before.paired.sum()), int(pairs.paired.sum())),
            *_iter_margins(kind, pairs, index),
            _compare("Length of chosen", chosen_before, chosen_after),
            _compare("Length of rejected", rejected_before, rejected_after),
            *_iter_drops(before, pairs),
        ],
        unknown=int(pairs.unknown.sum()),
        calls=int(pairs.calls.sum()),
    )


def _summarize(kind: PairKind, pairs: PairSelection, index: IterationIndex) -> tuple[str, bool]:
    """Return the verdict on the pairs of one kind, and whether it is a warning."""
    before, after = index.kinds[kind].paired, pairs.paired
    then, now = int(before.sum()), int(after.sum())
    changed = int((_is_changed(kind, pairs, index) & before & after).sum())
    unknown = int(pairs.unknown.sum())
    other = f" {changed:,} of them {'has' if changed == 1 else 'have'} other responses."
    if now < then:
        lost = (then - now) / then
        text = f"{lost:.0%} of the {kind} pairs are lost: {now:,} of {then:,} remain."
    elif now > then:
        more = f" ({(now - then) / then:+.0%})" if then else ""
        text = f"{now:,} {kind} pairs instead of {then:,}{more}."
    elif changed or unknown:
        text = f"{now:,} {kind} pairs, as many as before."
    else:
        return f"The {now:,} {kind} pairs do not change.", False
    text += other if changed else ""
    text += f" {unknown:,} more are unknown." if unknown else ""
    return text, bool(then) and (then - now - unknown) / then >= _LARGE_LOSS


def _iter_margins(
    kind: PairKind, pairs: PairSelection, index: IterationIndex
) -> Iterator[Comparison]:
    """Compare how far chosen and rejected are apart: by the judge, and by the ground truth."""
    paired = index.kinds[kind].paired
    if kind == "judge":
        elo = _compute_elo_differences(index)
        if not np.isnan(elo[pairs.paired]).any():
            yield _compare_means("Elo difference", elo[paired], elo[pairs.paired])
        return
    mean, stored = index.judged.grid.mean, index.actor_positions
    before = _subtract(mean, paired, *stored)
    after = _subtract(mean, pairs.paired, pairs.chosen, pairs.rejected)
    yield _compare_means("Score difference", before, after)
    if index.true_quality is None:
        return
    before = _subtract(index.true_quality, paired, *stored)
    after = _subtract(index.true_quality, pairs.paired, pairs.chosen, pairs.rejected)
    yield _compare_means("True quality difference", before, after)
    yield _compare_accuracy(before[~np.isnan(before)], after[~np.isnan(after)])


def _subtract(
    values: FloatArray, paired: Mask, chosen: Positions, rejected: Positions
) -> FloatArray:
    """Subtract the value of the rejected response from that of the chosen one, for each pair."""
    rows = np.flatnonzero(paired)
    difference: FloatArray = values[rows, chosen[rows]] - values[rows, rejected[rows]]
    return difference


def _compute_elo_differences(index: IterationIndex) -> FloatArray:
    """Compute the Elo difference of each stored judge pair; NaN without one."""
    stored = index.kinds["judge"].pairs
    found = [stored.get(prompt_id) for prompt_id in index.prompt_ids]
    return np.array(
        [np.nan if one is None else one["score_chosen"] - one["score_rejected"] for one in found],
        dtype=np.float64,
    )


def _compare_means(name: str, before: FloatArray, after: FloatArray) -> Comparison:
    then, now = (_compute_known_mean(values) for values in (before, after))
    texts = ["–" if value is None else f"{value:.2f}" for value in (then, now)]
    change = ""
    if then is not None and now is not None and texts[0] != texts[1]:
        change = f"{now - then:+.2f}".replace("-", MINUS)
    first, second = (text.replace("-", MINUS) for text in texts)
    return Comparison(name, first, second, change)


def _compute_known_mean(values: FloatArray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _compare_accuracy(before: FloatArray, after: FloatArray) -> Comparison:
    """Compare the shares of pairs whose chosen response is better by the ground truth."""
    shares = [float((values > 0).mean()) if values.size else None for values in (before, after)]
    texts = [
        "–" if share is None else _format_share(share, values.size)
        for share, values in zip(shares, (before, after), strict=True)
    ]
    change = ""
    if shares[0] is not None and shares[1] is not None and texts[0] != texts[1]:
        change = f"{100 * (shares[1] - shares[0]):+.0f} points".replace("-", MINUS)
    return Comparison("Chosen better by ground truth", texts[0], texts[1], change)


def _format_share(share: float, count: int) -> str:
    interval = compute_wilson_interval(share, count)
    return f"{share:.0%} ({interval.low:.0%}–{interval.high:.0%})"


def _iter_drops(before: StoredPairs, pairs: PairSelection) -> Iterator[Comparison]:
    """Compare the prompts without a pair, by reason; a single reason is in the row of the total."""
    then, now = count_drops_by_reason(before.reason[~before.paired]), pairs.count_drops()
    reasons = [reason for reason in REASONS if reason in then or reason in now]
    total = "Prompts without a pair"
    if len(reasons) == 1:
        total = f"{total}: {REASON_LABEL[reasons[0]]}"
    yield _compare(total, sum(then.values()), sum(now.values()))
    for reason in reasons if len(reasons) > 1 else ():
        name = REASON_LABEL[reason].capitalize()
        yield _compare(name, then.get(reason, 0), now.get(reason, 0), is_part=True)


def _compare(
    name: str, before: float | None, after: float | None, *, is_part: bool = False
) -> Comparison:
    then, now = ("–" if value is None else f"{value:,.0f}" for value in (before, after))
    change = ""
    if before is not None and after is not None and then != now:
        moved = round(after) - round(before)
        sign = "+" if moved > 0 else MINUS
        share = f" ({sign}{abs(moved) / before:.0%})" if before else ""
        change = f"{sign}{abs(moved):,.0f}{share}"
    return Comparison(name, then, now, change, is_part)


def _compute_chars_before(
    kind: PairKind, index: IterationIndex
) -> tuple[float | None, float | None]:
    paired = index.kinds[kind].paired
    if kind == "judge":
        return (
            _compute_mean(index.judged.chosen_judgment_chars[paired]),
            _compute_mean(index.judged.rejected_judgment_chars[paired]),
        )
    chars = index.judged.grid.chars
    chosen, rejected = index.actor_positions
    rows = np.flatnonzero(paired)
    return _compute_mean(chars[rows, chosen[rows]]), _compute_mean(chars[rows, rejected[rows]])


def _compute_mean(values: IntArray) -> float | None:
    return float(values.mean()) if values.size else None


def _is_changed(kind: PairKind, pairs: PairSelection, index: IterationIndex) -> Mask:
    """Whether a prompt's pair changed, disappeared, appeared, or is no longer known.

    Judge pairs of a response with battles can only appear or disappear.
    """
    before = index.kinds[kind].paired
    changed: Mask = (before != pairs.paired) | (pairs.unknown & before)
    if kind == "actor":
        chosen, rejected = index.actor_positions
        moved = (pairs.chosen != chosen) | (pairs.rejected != rejected)
        changed |= before & pairs.paired & moved
    return changed | pairs.unknown


def _describe_before(index: IterationIndex, kind: PairKind, row: int) -> str:
    reason = index.kinds[kind].get_reason(row)
    if reason is not None:
        return _describe_drop(reason)
    if kind == "judge":
        return "a pair"
    chosen, rejected = index.actor_positions
    return _describe_pair(index, row, int(chosen[row]), int(rejected[row]))


def _describe_after(index: IterationIndex, kind: PairKind, pairs: PairSelection, row: int) -> str:
    if pairs.unknown[row]:
        return (
            f"unknown: the judgments of another response would be compared; "
            f"{int(pairs.calls[row])} meta-judge calls would determine it"
        )
    if not pairs.paired[row]:
        return _describe_drop(REASONS[pairs.reason[row]])
    if kind == "judge":
        return "a pair"
    return _describe_pair(index, row, int(pairs.chosen[row]), int(pairs.rejected[row]))


def _describe_drop(reason: DropReason) -> str:
    return f"no pair: {REASON_LABEL[reason]}"


def _describe_pair(index: IterationIndex, row: int, chosen: int, rejected: int) -> str:
    grid = index.judged.grid
    return (
        f"response {grid.sample[row, chosen]} ({grid.chars[row, chosen]:,} characters) over "
        f"response {grid.sample[row, rejected]} ({grid.chars[row, rejected]:,} characters)"
    )
