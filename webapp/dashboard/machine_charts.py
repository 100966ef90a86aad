"""Charts of the CPU, memory and GPU load of machines with workers, over time."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import Count, Max, Min, Q, QuerySet
from django.utils import timezone

from webapp.charts.chart import Chart
from webapp.charts.lines import Series, build_line_chart
from webapp.experiments.models import Attempt, Experiment, Iteration, MachineLoad, RunStatus

RECENT: Final = timedelta(hours=1)
"""The period shown on the workers page."""

_POINTS: Final = 120
_MAX_LINES: Final = 12
_FINE: Final = timedelta(hours=8)
_PERCENT: Final = (0.0, 100.0)
_GIBI: Final = 2.0**30
_FINE_WIDTH: Final = 15.0
_COARSE_WIDTH: Final = 300.0
"""Seconds between the rows of a machine, and between those that are kept longer than a day."""

Values = dict[str, dict[int, list[float]]]


@dataclass(frozen=True, slots=True)
class MachineCharts:
    """Charts of machines in a period.

    Attributes:
        charts: empty if nothing was recorded.
        left_out: number of lines that are not drawn.
    """

    charts: Sequence[Chart]
    left_out: int = 0


def build_recent_charts() -> MachineCharts:
    """Draw the load of all machines in the last hour."""
    now = timezone.now()
    rows = MachineLoad.objects.all()
    return _build_charts(rows, now - RECENT, now, _Axis("minutes from now", 60.0, RECENT))


def build_charts_of_run(experiment: Experiment) -> MachineCharts:
    """Draw the load of the machines that worked on an experiment, from its start to its end."""
    ends = Iteration.objects.filter(experiment=experiment).aggregate(
        began=Min("started"),
        ended=Max("finished"),
        running=Count("pk", filter=Q(status=RunStatus.RUNNING)),
    )
    if ends["began"] is None:
        return MachineCharts(())
    end = timezone.now() if ends["running"] or ends["ended"] is None else ends["ended"]
    attempts = Attempt.objects.filter(shard__stage__iteration__experiment=experiment)
    hosts = set(attempts.order_by().values_list("worker", flat=True).distinct())
    rows = MachineLoad.objects.filter(host__in=hosts)
    return _build_charts(rows, ends["began"], end, _choose_axis(end - ends["began"]))


@dataclass(frozen=True, slots=True)
class _Axis:
    """The horizontal axis: its label, its unit in seconds, and the position of its zero."""

    label: str
    unit_seconds: float
    zero: timedelta = timedelta(0)


def _choose_axis(period: timedelta) -> _Axis:
    if period > timedelta(days=2):
        return _Axis("days since the start", 86_400.0)
    if period > timedelta(hours=2):
        return _Axis("hours since the start", 3600.0)
    return _Axis("minutes since the start", 60.0)


def _build_charts(
    rows: QuerySet[MachineLoad], begin: datetime, end: datetime, axis: _Axis
) -> MachineCharts:
    """Draw CPU, memory and GPU load; each point is the mean over one interval of the period."""
    rows = rows.filter(measured__gt=begin, measured__lte=end).order_by("measured")
    is_long = end - begin > _FINE
    if is_long:
        rows = rows.filter(is_coarse=True)
    width = max((end - begin).total_seconds() / _POINTS, _COARSE_WIDTH if is_long else _FINE_WIDTH)
    series = _collect(rows.iterator(), begin, width)
    charts, left_out = [], 0
    for title, y_label, within in _CHARTS:
        names = sorted(series.get(title, {}))
        if not names:
            continue
        left_out = max(left_out, len(names) - _MAX_LINES)
        lines = [
            Series(name, _make_points(series[title][name], width, axis))
            for name in names[:_MAX_LINES]
        ]
        charts.append(
            build_line_chart(
                title, lines, x_label=axis.label, y_label=y_label, within=within, from_zero=True
            )
        )
    return MachineCharts(charts, left_out)


_CHARTS: Final = (
    ("CPU use", "% of all cores", _PERCENT),
    ("Memory use", "GiB", None),
    ("GPU use", "% of time", _PERCENT),
    ("GPU memory", "GiB", None),
)


def _collect(rows: Iterable[MachineLoad], begin: datetime, width: float) -> Mapping[str, Values]:
    """Collect values by chart, line, and interval of the period."""
    found: dict[str, Values] = {}

    def add(title: str, line: str, at: int, value: float | None) -> None:
        if value is not None:
            found.setdefault(title, {}).setdefault(line, {}).setdefault(at, []).append(value)

    for row in rows:
        at = int((row.measured - begin).total_seconds() // width)
        add("CPU use", row.host, at, row.cpu_percent)
        add("Memory use", row.host, at, row.memory_bytes / _GIBI)
        gpus: list[dict[str, Any]] = row.gpus
        for index, gpu in enumerate(gpus):
            name = f"{row.host} GPU {index}"
            add("GPU use", name, at, gpu.get("percent"))
            used = gpu.get("bytes")
            add("GPU memory", name, at, None if used is None else used / _GIBI)
    return found


def _make_points(
    values: Mapping[int, Sequence[float]], width: float, axis: _Axis
) -> list[tuple[float, float | None]]:
    """Make the points of a line; an interval of the period without a row is a gap."""
    points: list[tuple[float, float | None]] = []
    for at in range(min(values), max(values) + 1):
        known = values.get(at)
        seconds = (at + 0.5) * width - axis.zero.total_seconds()
        points.append(
            (round(seconds / axis.unit_seconds, 3), sum(known) / len(known) if known else None)
        )
    return points
