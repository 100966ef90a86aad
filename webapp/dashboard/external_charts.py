"""Charts of external measurements: audits and stored evaluations.

With a real model, which has no ground truth, these charts distinguish a better judge from one that
only agrees with itself.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from meta_reward_core.errors import ArtifactError
from meta_reward_core.reporting.scorecard_schema import ScorecardDict
from meta_reward_core.reporting.scorecard_store import list_scorecards
from meta_reward_core.storage.experiment_files import ExperimentFiles
from webapp.audit.pooled_report import compute_trend
from webapp.audit.report_presenter import make_trend
from webapp.charts.chart import Chart
from webapp.charts.lines import Point, Series, build_line_chart
from webapp.experiments.files import open_experiment_files
from webapp.experiments.models import Experiment

_PERCENT: Final = (0.0, 100.0)
_WIN_RATES: Final = {"length_controlled_winrate": "length-controlled", "win_rate": "plain"}
_AGREEMENTS: Final = {"agreement": "all pairs", "agreement_without_ties": "without ties"}

_WITH: Final = {"model": " with a model", "humans": " with people"}

_log = logging.getLogger(__name__)


def build_external_charts(experiment: Experiment, *, models: int) -> list[Chart]:
    """Draw audits and stored evaluations over the iterations; empty if there are none.

    Args:
        models: number of models M0, M1, ...
    """
    kept = _list_scorecards_by_model(experiment, models)
    charts = [
        *make_trend(compute_trend(experiment)).charts,
        _make_chart(
            "Win rate in evaluations",
            _group_points(kept, _WIN_RATES),
            description="According to the benchmark's judge, against its baseline.",
        ),
        _make_chart(
            "Judge agreement with a reference",
            _group_points(kept, _AGREEMENTS),
            description="Share of pairs that the model and the reference rank the same way.",
        ),
    ]
    return [chart for chart in charts if chart.drawing]


def _list_scorecards_by_model(
    experiment: Experiment, models: int
) -> dict[int, list[ScorecardDict]]:
    files = open_experiment_files(experiment)
    return {number: list(_list_readable_scorecards(files, number)) for number in range(models)}


def _list_readable_scorecards(files: ExperimentFiles, number: int) -> Sequence[ScorecardDict]:
    """List the scorecards of a model, without unreadable ones."""
    try:
        return list_scorecards(files, number)
    except ArtifactError as error:
        _log.warning("evaluations of %s M%s are not plotted: %s", files.name, number, error)
        return ()


def _group_points(
    kept: Mapping[int, Iterable[ScorecardDict]], metrics: Mapping[str, str]
) -> dict[str, list[Point]]:
    """Group points by evaluation and metric."""
    lines: dict[str, list[Point]] = {}
    for number, cards in sorted(kept.items()):
        for card in cards:
            for metric in card["figures"]:
                if metric["name"] in metrics and metric["value"] is not None:
                    line = f"{_format_evaluation_name(card)}, {metrics[metric['name']]}"
                    lines.setdefault(line, []).append((number, metric["value"]))
    return lines


def _format_evaluation_name(card: Mapping[str, Any]) -> str:
    return str(card["benchmark"]).replace("_", " ") + _WITH.get(str(card.get("reference")), "")


def _make_chart(title: str, lines: Mapping[str, Sequence[Point]], *, description: str) -> Chart:
    series = [Series(name, points) for name, points in lines.items()]
    return build_line_chart(
        title,
        series,
        x_label="model M",
        y_label="percent",
        within=_PERCENT,
        description=description,
    )
