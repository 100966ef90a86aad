"""The estimated time left of iterations whose stages overlap."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from webapp.experiments.models import RunStatus, StageStatus
from webapp.experiments.progress import estimate_iteration_seconds_left, estimate_seconds_left
from webapp.experiments.stage_progress import StageProgress

START = datetime(2026, 11, 30, tzinfo=UTC)
SPANS = {"generate": (0, 100), "judge": (50, 160), "meta_judge": (120, 200), "train": (210, 300)}
"""Begin and end of each stage in seconds: 290 in total, although the stages took 380 together."""


def make_stage(name: str, place: int, begin: float, end: float, **values: Any) -> StageProgress:
    given: dict[str, Any] = {
        "name": name, "title": name, "place": place, "status": StageStatus.FINISHED,
        "status_label": "", "done": 4, "running": 0, "failed": 0, "shard_count": 4, "tokens": 0,
        "tokens_per_second": None, "step": None, "steps": None,
        "began": START + timedelta(seconds=begin), "seconds": float(end - begin),
        "seconds_left": None,
    }  # fmt: skip
    return StageProgress(**(given | values))


BEFORE = [make_stage(name, place, *span) for place, (name, span) in enumerate(SPANS.items(), 1)]


def begin_stages(current: str, **values: Any) -> list[StageProgress]:
    """Stages of an iteration that has finished all stages before this one."""
    place = list(SPANS).index(current) + 1
    return [
        make_stage(stage.name, stage.place, 0, 0)
        if stage.place < place
        else make_stage(
            stage.name,
            stage.place,
            *SPANS[stage.name],
            **({"status": StageStatus.RUNNING} | values),
        )
        for stage in BEFORE
    ]


@pytest.mark.parametrize(
    ("name", "counts", "result"),
    [
        ("sample", {"prompts": 36}, "36 prompts"),
        ("pair_actor", {"pairs": 35, "dropped": 1}, "35 pairs from 36 prompts"),
        ("pair_judge", {"pairs": 1}, "1 pair"),
    ],
)
def test_a_finished_stage_states_its_result(name: str, counts: dict[str, int], result: str) -> None:
    assert make_stage(name, 1, 0, 2, shard_count=1, **counts).facts == [result, "2\u00a0s"]


@pytest.mark.parametrize(
    ("current", "seconds"),
    [
        ("generate", 30 + 60 + 40 + 90),  # 60 of the judge's 110 s came after the actor's end
        ("judge", 30 + 40 + 90),
        ("meta_judge", 30 + 90),
        ("train", 30),
    ],
)
def test_overlapping_stages_are_counted_once(current: str, seconds: float) -> None:
    stages = begin_stages(current, seconds_left=30.0)
    assert estimate_iteration_seconds_left(stages, BEFORE) == pytest.approx(seconds)


def test_a_stage_without_an_estimate_of_its_own_takes_what_it_took_before() -> None:
    """The judge took 110 s, of which 40 have passed; 40 and 90 s of later stages follow."""
    stages = begin_stages("judge", seconds=40.0)
    assert estimate_iteration_seconds_left(stages, BEFORE) == pytest.approx(70 + 40 + 90)


def test_further_iterations_take_as_long_as_the_last_one() -> None:
    row: Any = SimpleNamespace(
        status=RunStatus.RUNNING,
        target_iteration=4,
        iterations=SimpleNamespace(all=lambda: [SimpleNamespace(status=RunStatus.FINISHED)]),
    )
    left = estimate_seconds_left(row, begin_stages("train", seconds_left=30.0), BEFORE)
    assert left == pytest.approx(30 + 2 * (100 + 60 + 40 + 90))


def test_no_time_is_estimated_without_a_completed_iteration() -> None:
    assert estimate_iteration_seconds_left(begin_stages("judge"), []) is None
