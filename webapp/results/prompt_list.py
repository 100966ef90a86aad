"""Search, filter and sort the prompts of an iteration, by the columns of its index."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from meta_reward_core.method.pairing import REASON_TEXT, DropReason, FloatArray, Mask
from meta_reward_core.method.what_if import REASONS
from meta_reward_core.storage.records import PairKind
from webapp.results.prompt_index import KINDS, IterationIndex, StoredPairs

_EXCERPT_CHARS: Final = 180
_METRICS: Final[dict[str, Callable[[IterationIndex], FloatArray]]] = {
    "gap": lambda index: index.gap,
    "variance": lambda index: index.variance,
    "mean": lambda index: index.mean,
    "length": lambda index: index.length,
}


@dataclass(frozen=True, slots=True)
class PairOutcome:
    """Outcome of a prompt's pair of one kind, as text."""

    label: str
    is_pair: bool
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt in a list; metrics are None if nothing is scored."""

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
    actor: PairOutcome
    judge: PairOutcome


def find_rows(index: IterationIndex, wanted: Mapping[str, Any]) -> list[int]:
    """Return the rows that match the filter, in the requested order.

    Args:
        wanted: cleaned values of a `ListForm`.
    """
    mask = np.ones(len(index), dtype=bool)
    if wanted.get("q"):
        mask &= _match_text(index, wanted["q"])
    for kind in KINDS:
        mask &= _match_outcome(index.kinds[kind], wanted.get(kind) or "")
    for flag in ("unscored", "inconsistent"):
        if wanted.get(flag):
            mask &= index.get_counts(flag) > 0
    for metric in ("gap", "variance"):
        minimum = wanted.get(f"{metric}_at_least")
        if minimum is not None:
            mask &= _METRICS[metric](index) >= minimum  # never true for an unknown value
    rows = np.flatnonzero(mask)
    found: list[int] = _sort_rows(index, rows, wanted.get("sort") or "").tolist()
    return found


def _match_text(index: IterationIndex, text: str) -> Mask:
    """Whether a prompt's text contains another, ignoring case."""
    found: Mask = pc.match_substring(index.folded, text.casefold()).to_numpy(zero_copy_only=False)
    return found


def _match_outcome(kind: StoredPairs, wanted: str) -> Mask:
    if not wanted:
        return np.ones(len(kind.paired), dtype=bool)
    if wanted == "pair":
        return kind.paired
    dropped = ~kind.paired & kind.made
    if wanted == "dropped":
        return dropped
    is_reason: Mask = kind.reason == REASONS.index(DropReason(wanted))
    return dropped & is_reason


def _sort_rows(
    index: IterationIndex, rows: npt.NDArray[np.intp], sort: str
) -> npt.NDArray[np.intp]:
    """Sort rows by a metric; rows without the metric are last."""
    if not sort:
        return rows
    metrics = _METRICS[sort.removeprefix("-")](index)[rows]
    falling = metrics if sort.startswith("-") else -metrics
    return rows[np.argsort(falling, kind="stable")]


def describe_rows(index: IterationIndex, rows: Sequence[int]) -> list[PromptRow]:
    """Build the list rows of some prompts."""
    return [_describe_row(index, row) for row in rows]


def _describe_row(index: IterationIndex, row: int) -> PromptRow:
    return PromptRow(
        prompt_id=index.prompt_ids[row],
        excerpt=make_excerpt(index.rows["text"][row].as_py()),
        gap=_to_optional(index.gap[row]),
        variance=_to_optional(index.variance[row]),
        mean=_to_optional(index.mean[row]),
        length=_to_optional(index.length[row]),
        judgments=int(index.get_counts("judgments")[row]),
        unscored=int(index.get_counts("unscored")[row]),
        both_orders=int(index.get_counts("both_orders")[row]),
        inconsistent=int(index.get_counts("inconsistent")[row]),
        actor=describe_outcome(index, "actor", row),
        judge=describe_outcome(index, "judge", row),
    )


def make_excerpt(text: str) -> str:
    """Return the beginning of a text on one line."""
    line = " ".join(text[: 4 * _EXCERPT_CHARS].split())
    is_short = len(text) <= 4 * _EXCERPT_CHARS and len(line) <= _EXCERPT_CHARS
    return line if is_short else f"{line[:_EXCERPT_CHARS]} …"


def describe_outcome(index: IterationIndex, kind: PairKind, row: int) -> PairOutcome:
    """Describe the outcome of a prompt's pair of one kind."""
    found = index.kinds[kind]
    if not found.scheduled:
        return PairOutcome("not scheduled", is_pair=False)
    if not found.made:
        return PairOutcome("not chosen yet", is_pair=False)
    reason = found.get_reason(row)
    if reason is None:
        return PairOutcome("pair", is_pair=True)
    return PairOutcome(reason.replace("_", " "), is_pair=False, explanation=REASON_TEXT[reason])


def _to_optional(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
