"""Search, filter and sort an iteration's prompts, by the columns of its index."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from meta_reward_core.pairing import REASON_TEXT, DropReason, Figures, Mask
from meta_reward_core.records import PairKind
from meta_reward_core.what_if import REASONS
from webapp.results.index import KINDS, IterationIndex, KindOnDisk

_EXCERPT_CHARS: Final = 180
_FIGURES: Final[dict[str, Callable[[IterationIndex], Figures]]] = {
    "gap": lambda index: index.gap,
    "variance": lambda index: index.variance,
    "mean": lambda index: index.mean,
    "length": lambda index: index.length,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a prompt's pair of one kind, in words."""

    label: str
    is_pair: bool
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt in a list; figures are absent where nothing is scored."""

    prompt_id: str
    excerpt: str
    gap: float | None
    variance: float | None
    mean: float | None
    length: float | None
    judgments: int
    unscored: int
    both_orders: int
    inconsistent: int
    actor: Outcome
    judge: Outcome


def find_rows(index: IterationIndex, wanted: Mapping[str, Any]) -> list[int]:
    """Rows that fit what was asked for, in the order asked for.

    Args:
        wanted: cleaned values of a `ListForm`.
    """
    mask = np.ones(len(index), dtype=bool)
    if wanted.get("q"):
        mask &= _holds(index, wanted["q"])
    for kind in KINDS:
        mask &= _has_outcome(index.kinds[kind], wanted.get(kind) or "")
    for flag in ("unscored", "inconsistent"):
        if wanted.get(flag):
            mask &= index.counts(flag) > 0
    for figure in ("gap", "variance"):
        least = wanted.get(f"{figure}_at_least")
        if least is not None:
            mask &= _FIGURES[figure](index) >= least  # never true of one that is not known
    rows = np.flatnonzero(mask)
    found: list[int] = _sorted(index, rows, wanted.get("sort") or "").tolist()
    return found


def _holds(index: IterationIndex, text: str) -> Mask:
    """Whether a prompt's text holds another, in capitals or not."""
    found: Mask = pc.match_substring(index.folded, text.casefold()).to_numpy(zero_copy_only=False)
    return found


def _has_outcome(kind: KindOnDisk, wanted: str) -> Mask:
    if not wanted:
        return np.ones(len(kind.paired), dtype=bool)
    if wanted == "pair":
        return kind.paired
    dropped = ~kind.paired & kind.made
    if wanted == "dropped":
        return dropped
    is_reason: Mask = kind.reason == REASONS.index(DropReason(wanted))
    return dropped & is_reason


def _sorted(index: IterationIndex, rows: npt.NDArray[np.intp], sort: str) -> npt.NDArray[np.intp]:
    """Rows by a figure, those without it last."""
    if not sort:
        return rows
    figures = _FIGURES[sort.removeprefix("-")](index)[rows]
    falling = figures if sort.startswith("-") else -figures
    return rows[np.argsort(falling, kind="stable")]


def describe_rows(index: IterationIndex, rows: Sequence[int]) -> list[PromptRow]:
    """What a list shows of some prompts."""
    return [_describe(index, row) for row in rows]


def _describe(index: IterationIndex, row: int) -> PromptRow:
    return PromptRow(
        prompt_id=index.prompt_ids[row],
        excerpt=excerpt_of(index.rows["text"][row].as_py()),
        gap=_known(index.gap[row]),
        variance=_known(index.variance[row]),
        mean=_known(index.mean[row]),
        length=_known(index.length[row]),
        judgments=int(index.counts("judgments")[row]),
        unscored=int(index.counts("unscored")[row]),
        both_orders=int(index.counts("both_orders")[row]),
        inconsistent=int(index.counts("inconsistent")[row]),
        actor=outcome_of(index, "actor", row),
        judge=outcome_of(index, "judge", row),
    )


def excerpt_of(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text[: 4 * _EXCERPT_CHARS].split())
    is_short = len(text) <= 4 * _EXCERPT_CHARS and len(line) <= _EXCERPT_CHARS
    return line if is_short else f"{line[:_EXCERPT_CHARS]} …"


def outcome_of(index: IterationIndex, kind: PairKind, row: int) -> Outcome:
    """What became of one prompt's pair of a kind."""
    found = index.kinds[kind]
    if not found.scheduled:
        return Outcome("not scheduled", is_pair=False)
    if not found.made:
        return Outcome("not chosen yet", is_pair=False)
    reason = found.reason_of(row)
    if reason is None:
        return Outcome("pair", is_pair=True)
    return Outcome(reason.replace("_", " "), is_pair=False, explanation=REASON_TEXT[reason])


def _known(figure: float) -> float | None:
    return None if math.isnan(figure) else float(figure)
