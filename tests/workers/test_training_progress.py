"""What a running training tells, short enough for a row, as the page draws it meanwhile."""

import itertools

from workers.pipeline.training_progress import MAX_ROWS, TrainingProgress


def heard(count: int) -> TrainingProgress:
    progress = TrainingProgress()
    for step in range(1, count + 1):
        progress.add_row({"step": float(step), "loss": 1.0 / step, "grad_norm": 3.0})
    return progress


def test_a_short_log_is_kept_whole_but_for_what_no_chart_shows() -> None:
    assert heard(2).list_rows() == [{"step": 1.0, "loss": 1.0}, {"step": 2.0, "loss": 0.5}]


def test_a_long_log_is_thinned_evenly_and_goes_on() -> None:
    """Of 10,000 rows, 10,000 / 300 = 33.3: every 64th is left, the last power of two above."""
    steps = [int(row["step"]) for row in heard(10_000).list_rows()]
    assert 100 <= len(steps) < MAX_ROWS
    assert {after - before for before, after in itertools.pairwise(steps)} == {64}
    assert steps[-1] > 10_000 - 64


def test_a_row_without_a_step_or_a_charted_figure_is_left_out() -> None:
    progress = TrainingProgress()
    progress.add_row({"loss": 1.0})
    progress.add_row({"step": 1.0, "train_runtime": 3.0})
    assert progress.list_rows() == []
