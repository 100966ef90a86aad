"""One measured figure."""

from dataclasses import dataclass
from typing import Literal

Subject = Literal["actor", "judge", "meta_judge", "pairs", "training"]
Basis = Literal["own_data", "oracle", "self_judged"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """A figure about a model in one of its roles.

    Attributes:
        model: such as `M1`.
        subject: the role, or the thing, that is measured.
        metric: the figure's name.
        value: the figure; absent when there was nothing to take it from.
        count: how many items it was taken from.
        basis: `own_data`: the iteration's own files, which the judge under test has scored.
            `oracle`: held-out items and a program that knows the truth. `self_judged`: the same
            held-out items by the model's own judge.
    """

    model: str
    subject: Subject
    metric: str
    value: float | None
    count: int
    basis: Basis
