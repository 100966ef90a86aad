"""Curves by others than the experiment's own models: people who audited, and kept evaluations.

Where a program knows the truth, `curves` draws that; where a real model runs, these are what
tells a better judge from one that merely agrees with itself.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from meta_reward_core.artifacts import ArtifactStore
from meta_reward_core.errors import ArtifactError
from meta_reward_core.reporting.kept_cards import Card, kept_cards
from webapp.audit.figures import trend_figures
from webapp.audit.pooling import trend
from webapp.charts import Chart, Point, Series, line_chart
from webapp.experiments.models import Experiment

_PERCENT: Final = (0.0, 100.0)
_WIN_RATES: Final = {"length_controlled_winrate": "length-controlled", "win_rate": "plain"}
_AGREEMENTS: Final = {"agreement": "all pairs", "agreement_without_ties": "without ties"}

_WITH: Final = {"model": " with a model", "humans": " with people"}

_log = logging.getLogger(__name__)


def outside_charts(experiment: Experiment, *, models: int) -> list[Chart]:
    """Draw what audits and kept evaluations say over the iterations; nothing where there is none.

    Args:
        models: how many of M0, M1, ... there are.
    """
    kept = _kept_cards(experiment, models)
    charts = [
        *trend_figures(trend(experiment)).charts,
        _chart(
            "Win rate in evaluations",
            _lines(kept, _WIN_RATES),
            description="By the judge of the evaluation, against its baseline.",
        ),
        _chart(
            "The judge against a reference",
            _lines(kept, _AGREEMENTS),
            description="Share of pairs that model and reference order alike.",
        ),
    ]
    return [chart for chart in charts if chart.drawing]


def _kept_cards(experiment: Experiment, models: int) -> dict[int, list[Card]]:
    store = ArtifactStore(experiment.artifact_root)
    return {number: list(_readable(store, experiment.name, number)) for number in range(models)}


def _readable(store: ArtifactStore, name: str, number: int) -> Sequence[Card]:
    """Scorecards of a model; the page is shown without those that a person has damaged."""
    try:
        return kept_cards(store, name, number)
    except ArtifactError as error:
        _log.warning("evaluations of %s M%s are not drawn: %s", name, number, error)
        return ()


def _lines(
    kept: Mapping[int, Iterable[Card]], figures: Mapping[str, str]
) -> dict[str, list[Point]]:
    """Points by evaluation and figure."""
    lines: dict[str, list[Point]] = {}
    for number, cards in sorted(kept.items()):
        for card in cards:
            for figure in card["figures"]:
                if figure["name"] in figures and figure["value"] is not None:
                    line = f"{_named(card)}, {figures[figure['name']]}"
                    lines.setdefault(line, []).append((number, figure["value"]))
    return lines


def _named(card: Mapping[str, Any]) -> str:
    return str(card["benchmark"]).replace("_", " ") + _WITH.get(str(card.get("reference")), "")


def _chart(title: str, lines: Mapping[str, Sequence[Point]], *, description: str) -> Chart:
    series = [Series(name, points) for name, points in lines.items()]
    return line_chart(
        title,
        series,
        x_label="model M",
        y_label="percent",
        within=_PERCENT,
        description=description,
    )
