"""Metrics of a running training, bounded so that they fit in a row."""

from collections.abc import Mapping
from typing import Final

from webapp.experiments.training_charts import CHARTED_METRICS

MAX_ROWS: Final = 300

MetricRows = list[dict[str, float]]


class TrainingProgress:
    """Keeps the charted metrics of every `n`-th row, doubling `n` when there are too many.

    This is for live display; the artifacts contain every row once training is finished.
    """

    def __init__(self) -> None:
        self._rows: MetricRows = []
        self._every = 1
        self._count = 0

    def add_row(self, row: Mapping[str, float]) -> None:
        """Add a row of the training log; one without charted metrics is ignored."""
        charted = {name: value for name, value in row.items() if name in CHARTED_METRICS}
        if not charted or "step" not in row:
            return
        self._count += 1
        if self._count % self._every == 0:
            self._rows.append({"step": row["step"], **charted})
        if len(self._rows) >= MAX_ROWS:
            self._rows = self._rows[1::2]
            self._every *= 2

    def list_rows(self) -> MetricRows:
        """List the kept rows by step."""
        return list(self._rows)
