"""Output of training: log rows while it runs, and its outcome."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from meta_reward_core.recipes.training_settings import CheckpointRule
from meta_reward_core.training.preprocessing import RefusedRow
from meta_reward_core.training.row_types import TokenSources

LogRow = dict[str, float]
OnLog = Callable[[LogRow], None]


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """Outcome of training. Rows in = rows_trained + rows_held_out + len(refused).

    Attributes:
        log: TRL's metrics by step, without clock or memory: equal runs have equal logs.
        kept_step: the optimizer step whose weights were published; kept_epoch likewise.
        rule: the rule by which this step was chosen.
        published: whether this training published the checkpoint; False if another writer was
            first.
        tokens: sources of the token ids of the rows that were not refused.
    """

    rows_trained: int
    rows_held_out: int
    refused: list[RefusedRow]
    log: list[LogRow]
    kept_step: int
    kept_epoch: float
    rule: CheckpointRule
    published: bool
    tokens: TokenSources = field(default_factory=TokenSources)

    def to_json(self) -> dict[str, Any]:
        """Convert it to JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TrainingOutcome":
        """Parse the output of `to_json`."""
        refused = [RefusedRow(*row) for row in values["refused"]]
        tokens = TokenSources(**values["tokens"])
        return cls(**{**values, "refused": refused, "tokens": tokens})
