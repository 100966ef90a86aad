"""Which figures of a training are drawn, and in which charts."""

from collections.abc import Mapping
from typing import Final

TRAINING_CHARTS: Final[tuple[tuple[str, str, Mapping[str, str]], ...]] = (
    ("DPO loss", "loss", {"training": "loss", "validation": "eval_loss"}),
    (
        "DPO accuracy",
        "share of pairs",
        {"training": "rewards/accuracies", "validation": "eval_rewards/accuracies"},
    ),
    (
        "DPO margin of the rewards",
        "margin",
        {"training": "rewards/margins", "validation": "eval_rewards/margins"},
    ),
    (
        "Log-probabilities",
        "log-probability",
        {"chosen": "logps/chosen", "rejected": "logps/rejected"},
    ),
)
"""By chart its title, the name of its axis, and by line the figure of the log."""

CHARTED: Final = frozenset(
    metric for _, _, metrics in TRAINING_CHARTS for metric in metrics.values()
)
"""Figures of a training's log that a chart shows."""
