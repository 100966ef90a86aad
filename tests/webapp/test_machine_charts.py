"""Charts of the load of machines, on the page of workers and of an experiment."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from tests.webapp.watching_fixtures import HTMX, add_attempt, get, run_judging
from webapp.dashboard.machine_charts import build_charts_of_run, build_recent_charts
from webapp.experiments.models import Iteration, MachineLoad

pytestmark = pytest.mark.django_db
GIBI = 2**30


def add_load(seconds_ago: float, *, host: str = "host-1", **values: Any) -> None:
    given: dict[str, Any] = {
        "cpu_percent": 50.0, "memory_bytes": 8 * GIBI, "memory_total_bytes": 64 * GIBI
    }  # fmt: skip
    measured = timezone.now() - timedelta(seconds=seconds_ago)
    MachineLoad.objects.create(host=host, measured=measured, **(given | values))


def numbers_of(chart: Any) -> list[tuple[str, ...]]:
    return [row[1:] for row in chart.table.rows]


def test_each_point_is_a_mean_and_machines_without_a_gpu_have_no_gpu_chart() -> None:
    """An hour in 120 points is 30 seconds each: 40 and 60 at 40 and 25 seconds ago: 50."""
    assert build_recent_charts().charts == []
    add_load(36, cpu_percent=40.0)
    add_load(34, cpu_percent=60.0)
    charts = build_recent_charts().charts
    assert [chart.title for chart in charts] == ["CPU use", "Memory use"]
    assert numbers_of(charts[0]) == [("50",)]
    assert numbers_of(charts[1]) == [("8",)]
    assert charts[0].y_ticks[0].text == "0", "the axis starts at zero"


def test_a_time_without_rows_is_a_gap() -> None:
    add_load(600)
    add_load(20)
    (chart, _) = build_recent_charts().charts
    assert ("–",) in numbers_of(chart)
    assert chart.lines[0].path == "", "no line through the time that was not measured"


def test_each_gpu_has_a_line() -> None:
    gpus = [
        {"name": "NVIDIA H100", "percent": 90.0, "bytes": 40 * GIBI, "total_bytes": 80 * GIBI},
        {"name": "NVIDIA H100", "percent": None, "bytes": 10 * GIBI, "total_bytes": 80 * GIBI},
    ]
    add_load(20, gpus=gpus)
    charts = {chart.title: chart for chart in build_recent_charts().charts}
    assert [line.name for line in charts["GPU use"].lines] == ["host-1 GPU 0"]
    assert [line.name for line in charts["GPU memory"].lines] == ["host-1 GPU 0", "host-1 GPU 1"]
    assert numbers_of(charts["GPU memory"]) == [("40", "10")]


def test_lines_beyond_those_that_can_be_told_apart_are_counted() -> None:
    for number in range(14):
        add_load(20, host=f"host-{number}")
    found = build_recent_charts()
    assert (len(found.charts[0].lines), found.left_out) == (12, 2)


def test_an_experiment_shows_the_machines_that_worked_on_it(iteration: Iteration) -> None:
    stage = run_judging(iteration)
    began = timezone.now() - timedelta(minutes=10)
    Iteration.objects.filter(pk=iteration.pk).update(started=began)
    add_attempt(stage.shards.get(index=3), worker="host-1")
    add_load(60)
    add_load(60, host="host-2")
    add_load(900)
    (chart, _) = build_charts_of_run(iteration.experiment).charts
    assert [line.name for line in chart.lines] == ["host-1"]
    assert len(numbers_of(chart)) == 1, "what was measured before the start does not count"
    assert chart.x_label == "minutes since the start"


def test_a_long_period_is_drawn_from_the_rows_that_are_kept(iteration: Iteration) -> None:
    run_judging(iteration)
    began = timezone.now() - timedelta(days=3)
    Iteration.objects.filter(pk=iteration.pk).update(started=began)
    add_load(3600, cpu_percent=10.0, is_coarse=True)
    add_load(3630, cpu_percent=90.0)
    (chart, _) = build_charts_of_run(iteration.experiment).charts
    assert numbers_of(chart) == [("10",)]
    assert chart.x_label == "days since the start"


def test_the_charts_of_the_page_of_workers_update_alone(
    client: Client,
) -> None:
    assert "No load was recorded" in get(client, "/workers")
    add_load(20)
    page = get(client, "/workers")
    assert "CPU use" in page
    region = get(client, "/workers", **HTMX, **{"HX-Target": "machine-load"})
    assert "CPU use" in region
    assert "Queues" not in region
    listed = get(client, "/workers", **HTMX, **{"HX-Target": "worker-list"})
    assert "Queues" in listed
    assert "CPU use" not in listed
