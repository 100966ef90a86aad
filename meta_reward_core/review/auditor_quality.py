"""Quality of each auditor of a batch: accuracy, biases, self-consistency, speed and drift.

The correct answer of an item is a known answer, the decision of an adjudication, or the common
answer of several auditors. Errors that all of them share count as correct, so accuracy is an upper
estimate.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from meta_reward_core.review.stratified_estimators import (
    Estimate,
    estimate_difference,
    estimate_median,
    estimate_simple_share,
)

MAX_SCORE_ERROR: Final = 1.0
"""Largest difference from the known score at which a score still counts as correct."""
MIN_BLOCK: Final = 8
"""Minimum number of answers with a known correct answer in each block of a trend."""
MAX_BLOCKS: Final = 8

Value = str | float


@dataclass(frozen=True, slots=True)
class AuditorAnswer:
    """An answer of an auditor; answers are in the order of submission.

    Attributes:
        value: `first`, `second`, `tie` or `neither`; for a response, the score from 0 to 5.
        known: correct answer of the item; None if unknown.
        is_calibration: whether its answer was known before the audit.
        shown_first, longer, higher_score: which judgment was shown first, is longer, or has the
        higher score; None if neither does, and for responses. earlier: the auditor's own earlier
        answer to the same item; None if there is none. seconds: time taken; 0 if unknown.
    """

    auditor: str
    value: Value
    known: Value | None = None
    shown_first: str | None = None
    longer: str | None = None
    higher_score: str | None = None
    earlier: Value | None = None
    seconds: float = 0.0
    is_calibration: bool = False


@dataclass(frozen=True, slots=True)
class AccuracyBlock:
    """Accuracy in consecutive answers of one auditor.

    Attributes:
        last: number of the auditor's last answer in the block, from 1.
    """

    last: int
    accuracy: Estimate


@dataclass(frozen=True, slots=True)
class AuditorQuality:
    """Quality of one auditor; shares have Wilson 95% intervals.

    Attributes:
        accuracy: share of correct answers, among items with a known correct answer.
        known_accuracy: the same, only for items whose answer was known before.
        prefers_first, prefers_longer, prefers_higher_score: shares of answers that name a winner.
        consistency: share of own repeats with the same answer.
        halves: accuracies of the first and second half of the answers with a known correct answer.
        trend: accuracy over time, in an even number of blocks of about equal size, so that half of
            them cover each half; empty if there are too few answers for two blocks.
        seconds: median time per answer, over the answers whose time is known.
        is_flagged: whether the whole interval of the accuracy is below the bound.
    """

    name: str
    answers: int
    accuracy: Estimate
    known_accuracy: Estimate
    prefers_first: Estimate
    prefers_longer: Estimate
    prefers_higher_score: Estimate
    consistency: Estimate
    halves: tuple[Estimate, Estimate]
    trend: tuple[AccuracyBlock, ...]
    seconds: Estimate
    is_flagged: bool

    @property
    def drift(self) -> Estimate:
        """Accuracy of the second half minus that of the first half."""
        return estimate_difference(*self.halves)


def measure_auditors(
    answers: Iterable[AuditorAnswer], *, min_accuracy: float
) -> list[AuditorQuality]:
    """Measure each auditor, ordered by name.

    Args:
        min_accuracy: auditors whose interval is entirely below this share are flagged.
    """
    by_name: dict[str, list[AuditorAnswer]] = {}
    for answer in answers:
        by_name.setdefault(answer.auditor, []).append(answer)
    return [_measure(name, by_name[name], min_accuracy) for name in sorted(by_name)]


def _measure(name: str, answers: Sequence[AuditorAnswer], min_accuracy: float) -> AuditorQuality:
    accuracy = _measure_accuracy(answers)
    graded = [answer for answer in answers if answer.known is not None]
    half = len(graded) // 2
    halves = _measure_accuracy(graded[:half]), _measure_accuracy(graded[half:])
    spent = [answer.seconds for answer in answers if answer.seconds > 0]
    repeats = [_is_alike(one.value, one.earlier) for one in answers if one.earlier is not None]
    return AuditorQuality(
        name=name,
        answers=len(answers),
        accuracy=accuracy,
        known_accuracy=_measure_accuracy([one for one in answers if one.is_calibration]),
        prefers_first=_measure_bias([(one.value, one.shown_first) for one in answers]),
        prefers_longer=_measure_bias([(one.value, one.longer) for one in answers]),
        prefers_higher_score=_measure_bias([(one.value, one.higher_score) for one in answers]),
        consistency=estimate_simple_share(sum(repeats), len(repeats)),
        halves=halves,
        trend=tuple(_iter_blocks(answers)),
        seconds=estimate_median(spent),
        is_flagged=accuracy.high is not None and accuracy.high < min_accuracy,
    )


def _iter_blocks(answers: Sequence[AuditorAnswer]) -> Iterator[AccuracyBlock]:
    """Split the answers whose correct answer is known into blocks, in order of submission."""
    graded = [(number, one) for number, one in enumerate(answers, start=1) if one.known is not None]
    count = min(MAX_BLOCKS, len(graded) // MIN_BLOCK) // 2 * 2
    if not count:
        return
    ends = [len(graded) * block // count for block in range(count + 1)]
    for start, end in pairwise(ends):
        block = graded[start:end]
        yield AccuracyBlock(block[-1][0], _measure_accuracy(one for _, one in block))


def _measure_accuracy(answers: Iterable[AuditorAnswer]) -> Estimate:
    right = [_is_right(one.value, one.known) for one in answers if one.known is not None]
    return estimate_simple_share(sum(right), len(right))


def _is_right(value: Value, known: Value | None) -> bool:
    if isinstance(value, float) and isinstance(known, float):
        return abs(value - known) <= MAX_SCORE_ERROR
    return value == known


def _is_alike(value: Value, other: Value | None) -> bool:
    if isinstance(value, float) and isinstance(other, float):
        return abs(value - other) <= MAX_SCORE_ERROR / 2
    return value == other


def _measure_bias(found: Iterable[tuple[Value, str | None]]) -> Estimate:
    """Compute the share of named winners that are the given judgment."""
    decided = [
        value == side
        for value, side in found
        if value in ("first", "second") and side in ("first", "second")
    ]
    return estimate_simple_share(sum(decided), len(decided))
