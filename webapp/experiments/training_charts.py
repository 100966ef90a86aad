"""Charts of training metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from webapp.charts.scales import SHARE


@dataclass(frozen=True, slots=True)
class TrainingChart:
    """A chart of a training log.

    Attributes:
        y_label: label of the vertical axis.
        metrics: metrics of the log by the name of the line that shows them.
        within: see `charts.line_chart`.
        description: what a reader must know to understand the chart.
    """

    title: str
    y_label: str
    metrics: Mapping[str, str]
    within: tuple[float, float] | None = None
    description: str = ""


TRAINING_CHARTS: Final = (
    TrainingChart("Training loss", "loss", {"training": "loss", "validation": "eval_loss"}),
    TrainingChart(
        "Parts of the training loss",
        "loss",
        {"DPO": "loss/dpo", "SFT": "loss/sft"},
        description="Both add up to the loss; the SFT part is weighted by training.sft_weight.",
    ),
    TrainingChart(
        "DPO accuracy",
        "share of pairs",
        {"training": "rewards/accuracies", "validation": "eval_rewards/accuracies"},
        within=SHARE,
        description="Starts after the first weight update: before it all rewards are equal "
        "up to rounding.",
    ),
    TrainingChart(
        "DPO reward margin",
        "reward margin, nats",
        {"training": "rewards/margins", "validation": "eval_rewards/margins"},
    ),
    TrainingChart(
        "Log-probabilities",
        "log-probability, nats",
        {"chosen": "logps/chosen", "rejected": "logps/rejected"},
    ),
)

CHARTED_METRICS: Final = frozenset(
    metric for chart in TRAINING_CHARTS for metric in chart.metrics.values()
)
"""Training metrics that a chart shows."""
