"""What-if page: pairs under changed rules next to the stored pairs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from meta_reward_core.method.pairing import REASON_LABEL, REASON_TEXT, IntArray, Mask
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

_RULES: Final = {
    "rho": "rho",
    "max_chosen_chars": "Maximum length of the chosen response",
    "max_chosen_judgment_chars": "Maximum length of the chosen judgment",
    "min_valid_judgments": "Minimum scored judgments",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A rule or a metric under the actual rules and under other rules, as text.

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
        unknown: prompts whose result is unknown.
        calls: meta-judge calls that would determine it.
    """

    kind: PairKind
    rows: Sequence[Comparison]
    unknown: int
    calls: int


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
        as_it_was: whether the rules equal those of the recipe.
        changed: (kind, row) of each pair that changes, actor pairs first.
    """

    rules: PairRules
    compared_rules: Sequence[Comparison]
    as_it_was: bool
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
        compared_rules=[
            Comparison(
                name,
                _format_rule(getattr(as_they_were, rule)),
                _format_rule(getattr(rules, rule)),
            )
            for rule, name in _RULES.items()
        ],
        as_it_was=rules == as_they_were,
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
    return KindView(
        kind=kind,
        rows=[
            _compare("Pairs", int(before.paired.sum()), int(pairs.paired.sum())),
            _compare("Mean characters, chosen", chosen_before, chosen_after),
            _compare("Mean characters, rejected", rejected_before, rejected_after),
            *_iter_drops(before, pairs),
        ],
        unknown=int(pairs.unknown.sum()),
        calls=int(pairs.calls.sum()),
    )


def _iter_drops(before: StoredPairs, pairs: PairSelection) -> Iterator[Comparison]:
    then, now = count_drops_by_reason(before.reason[~before.paired]), pairs.count_drops()
    yield _compare("Prompts without a pair", sum(then.values()), sum(now.values()))
    for reason in REASONS:
        if reason in then or reason in now:
            name = REASON_LABEL[reason].capitalize()
            yield _compare(name, then.get(reason, 0), now.get(reason, 0), is_part=True)


def _compare(
    name: str, before: float | None, after: float | None, *, is_part: bool = False
) -> Comparison:
    then, now = ("–" if value is None else f"{value:,.0f}" for value in (before, after))
    change = ""
    if before is not None and after is not None and then != now:
        moved = round(after) - round(before)
        sign = "+" if moved > 0 else "−"
        share = f" ({sign}{abs(moved) / before:.0%})" if before else ""
        change = f"{sign}{abs(moved):,.0f}{share}"
    return Comparison(name, then, now, change, is_part)


def _format_rule(value: float | None) -> str:
    if value is None:
        return "no limit"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


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
        return REASON_TEXT[reason]
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
        return REASON_TEXT[REASONS[pairs.reason[row]]]
    if kind == "judge":
        return "a pair"
    return _describe_pair(index, row, int(pairs.chosen[row]), int(pairs.rejected[row]))


def _describe_pair(index: IterationIndex, row: int, chosen: int, rejected: int) -> str:
    grid = index.judged.grid
    return (
        f"response {grid.sample[row, chosen]} ({grid.chars[row, chosen]:,} characters) over "
        f"{grid.sample[row, rejected]} ({grid.chars[row, rejected]:,})"
    )
