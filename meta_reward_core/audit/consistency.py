"""What answers to the same item say about the auditors themselves."""

from collections.abc import Sequence
from dataclasses import dataclass

from meta_reward_core.audit.agreement import krippendorff_alpha
from meta_reward_core.audit.estimates import Estimate, estimate_plain_share


@dataclass(frozen=True, slots=True)
class Consistency:
    """What repeats say about the auditors themselves.

    Attributes:
        same: share of items to which the same auditor gave the same answer again.
        other: share of items to which another auditor gave the same answer.
        alpha: Krippendorff's, over items that several auditors answered.
        alpha_units: how many those are.
    """

    same: Estimate
    other: Estimate
    alpha: float | None
    alpha_units: int


def find_consistency(
    same: Sequence[tuple[object, object]],
    answers_by_item: Sequence[Sequence[tuple[str, object]]],
    *,
    points: bool = False,
) -> Consistency:
    """Measure what repeats say about auditors.

    Args:
        same: two answers of one auditor to one item, each.
        answers_by_item: for each item its (auditor, answer), one for each auditor.
        points: whether answers are numbers; answers within half a point are then alike.
    """
    units = [[answer for _, answer in answers] for answers in answers_by_item if len(answers) > 1]
    alike = _close if points else _equal
    others = [alike(unit[0], unit[1]) for unit in units]
    return Consistency(
        same=estimate_plain_share(sum(alike(a, b) for a, b in same), len(same)),
        other=estimate_plain_share(sum(others), len(others)),
        alpha=krippendorff_alpha(units, level="interval" if points else "nominal"),
        alpha_units=len(units),
    )


def _equal(first: object, second: object) -> bool:
    return first == second


def _close(first: object, second: object) -> bool:
    return abs(float(first) - float(second)) <= 0.5  # type: ignore[arg-type]
