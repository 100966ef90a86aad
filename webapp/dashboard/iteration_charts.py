"""Charts of one iteration, from the tables of its finished shards."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import numpy as np
from django.db.models import BigIntegerField, Sum
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast

from meta_reward_core.errors import ArtifactError
from meta_reward_core.evaluation.judge_metrics import BIN_WIDTH, HISTOGRAM_BINS
from meta_reward_core.reporting.summary import LogRow
from webapp.charts.bars import build_bar_chart, build_histogram
from webapp.charts.chart import Chart
from webapp.charts.lines import Point, Series, build_line_chart
from webapp.charts.scales import Scale, make_wide_scale
from webapp.dashboard.table_reader import Numbers, ScoreCounts, TableReader
from webapp.experiments.files import open_iteration_files
from webapp.experiments.models import Attempt, AttemptStatus, Iteration, Shard, ShardStatus
from webapp.experiments.training_charts import TRAINING_CHARTS, TrainingChart

_BINS: Final = 12
_POINTS_OF_A_LINE: Final = 150


@dataclass(frozen=True, slots=True)
class IterationCharts:
    """Charts with data; `problem` names unreadable files, if any."""

    charts: tuple[Chart, ...]
    problem: str


def build_iteration_charts(iteration: Iteration) -> IterationCharts:
    """Draw the results and the speed of an iteration's finished shards."""
    charts, problem = [_chart_speed(iteration)], ""
    try:
        tables = TableReader(open_iteration_files(iteration.experiment, iteration.number))
        scores = [] if _has_reward_model(iteration) else [tables.read_score_counts()]
        charts = [
            *map(_chart_scores, scores),
            *_iter_table_charts(tables, running=_read_running_log(iteration)),
            *charts,
        ]
    except ArtifactError as error:
        problem = str(error)
    return IterationCharts(tuple(chart for chart in charts if chart.drawing), problem)


def _has_reward_model(iteration: Iteration) -> bool:
    """Whether a reward model gives the scores, which do not fit the bins of the judge's scale."""
    judge = iteration.experiment.recipe.get("judge", {})
    return judge.get("reward_model") is not None


def _read_running_log(iteration: Iteration) -> list[LogRow]:
    """Read the metrics of a running training so far."""
    told = Shard.objects.filter(
        stage__iteration=iteration, stage__name="train", status=ShardStatus.RUNNING
    ).values_list("training_metrics", flat=True)
    return [
        (int(row["step"]), metric, value)
        for rows in told
        for row in rows
        for metric, value in row.items()
        if metric != "step"
    ]


def _iter_table_charts(tables: TableReader, *, running: Sequence[LogRow]) -> Iterator[Chart]:
    yield _chart_histogram(
        "Variance of scores per response",
        tables.read_variances(),
        x_label="variance of the scores",
        description="Counts scored responses. 0 means that all judgments have the same score.",
    )
    for kind, texts in (("actor", "responses"), ("judge", "judgments")):
        yield _chart_lengths(kind, texts, tables)
    yield _chart_histogram(
        "Range of Elo ratings per response",
        tables.read_elo_spreads(),
        x_label="best minus worst Elo, in nats",
        description="Counts responses whose judgments were compared.",
    )
    log = tables.read_training_log() or running
    for chart in TRAINING_CHARTS:
        yield _chart_training_log(chart, log)


def _chart_scores(scores: ScoreCounts) -> Chart:
    """Draw one bar per score if all scores are integers, else one bar per bin."""
    named = [
        (f"{start:g}", count) for start, count in zip(HISTOGRAM_BINS, scores.bins, strict=True)
    ]
    description = f"Each bar covers a range of {BIN_WIDTH:g}; the last bar, only the score 5."
    if scores.are_whole:
        named, description = named[:: round(1 / BIN_WIDTH)], ""
    return build_histogram("Judge scores", named, x_label="score", description=description)


def _chart_histogram(title: str, values: Numbers, *, x_label: str, description: str) -> Chart:
    if not values.size:
        return build_histogram(title, [], x_label=x_label)
    scale = _make_bins(values)
    counts, _ = np.histogram(values, bins=scale.ticks)
    named = [
        (scale.format_tick(start), int(count))
        for start, count in zip(scale.ticks, counts, strict=False)
    ]
    return build_histogram(title, named, x_label=x_label, description=description)


def _make_bins(values: Numbers) -> Scale:
    """Split the range of values at round numbers."""
    return make_wide_scale([float(values.min()), float(values.max())], about=_BINS)


def _chart_lengths(kind: str, texts: str, tables: TableReader) -> Chart:
    title = f"Length of chosen and rejected {texts}"
    sides = {side: tables.read_lengths(kind, side) for side in ("chosen", "rejected")}
    both = np.concatenate(list(sides.values()))
    if not both.size:
        return build_line_chart(title, [], x_label="characters", y_label="pairs")
    scale = _make_bins(both)
    return build_line_chart(
        title,
        [Series(side, _count_by_bin(values, scale)) for side, values in sides.items()],
        x_label="characters",
        y_label="pairs",
        description=(
            f"Number of {kind} pairs by length, in steps of {scale.format_tick(scale.step)}."
        ),
    )


def _count_by_bin(values: Numbers, scale: Scale) -> list[Point]:
    counts, edges = np.histogram(values, bins=scale.ticks)
    return [
        (float(edge + scale.step / 2), float(count))
        for edge, count in zip(edges, counts, strict=False)
    ]


def _chart_training_log(chart: TrainingChart, log: Sequence[LogRow]) -> Chart:
    lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for step, metric, value in log:
        lines[metric].append((step, value))
    longest = max((len(lines[metric]) for metric in chart.metrics.values()), default=0)
    every = -(-longest // _POINTS_OF_A_LINE)
    series = [
        Series(name, _thin_points(lines[metric], every))
        for name, metric in chart.metrics.items()
        if lines[metric]
    ]
    means = f"Each point is the mean of {every} logged values." if every > 1 else ""
    return build_line_chart(
        chart.title,
        series,
        x_label="step",
        y_label=chart.y_label,
        within=chart.within,
        description=" ".join(filter(None, (chart.description, means))),
    )


def _thin_points(points: Sequence[tuple[int, float]], every: int) -> list[Point]:
    runs = [points[start : start + every] for start in range(0, len(points), max(1, every))]
    return [(run[-1][0], fmean(value for _, value in run)) for run in runs]


def _chart_speed(iteration: Iteration) -> Chart:
    """Draw tokens per second of each stage's finished shards, per worker."""
    tokens = Sum(Cast(KeyTextTransform("tokens", "shard__counts"), BigIntegerField()))
    rows = (
        Attempt.objects.filter(
            shard__stage__iteration=iteration,
            status=AttemptStatus.FINISHED,
            seconds__gt=0,
        )
        .order_by("shard__stage__position")
        .values_list("shard__stage__title")
        .annotate(made=tokens, taken=Sum("seconds"))
    )
    speeds = [(title, made / seconds) for title, made, seconds in rows if made]
    return build_bar_chart(
        "Speed of the stages",
        speeds if len(speeds) > 1 else [],  # one bar has nothing to be compared with
        y_label="tokens per second",
        description="Per worker, over completed shards, including start-up.",
    )
