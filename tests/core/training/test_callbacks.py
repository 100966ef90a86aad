"""A training that goes astray stops with a reason."""

import math
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from meta_reward_core.recipes.training_settings import DpoSettings
from meta_reward_core.training.callbacks import LOSSES_COMPARED, TrainingMonitor, find_alarm
from meta_reward_core.training.resume import COMPLETE_MARKER


def alarm(
    row: dict[str, float],
    losses: list[float],
    *,
    growth: float | None = 3.0,
    norm: float | None = None,
) -> str | None:
    history = [{"loss": loss, "step": float(step)} for step, loss in enumerate(losses)]
    return find_alarm(row, history, loss_growth=growth, grad_norm=norm)


@pytest.mark.parametrize("name", ["loss", "grad_norm", "rewards/chosen"])
@pytest.mark.parametrize("metric", [math.nan, math.inf])
def test_a_figure_that_is_no_number_stops(name: str, metric: float) -> None:
    assert alarm({name: metric}, [0.7]) == f"{name} is not finite"


def test_a_gradient_above_the_bound_stops_and_none_is_no_bound() -> None:
    row = {"loss": 0.7, "grad_norm": 50.0}
    assert alarm(row, [0.7], norm=40.0) == "the gradient's norm is 50, above 40"
    assert alarm(row, [0.7], norm=50.0) is None
    assert alarm(row, [0.7]) is None


def test_a_loss_that_grew_for_ten_rows_stops() -> None:
    """Ten losses of 2.2 against a first one of 0.7: 3.14 times as much, and 3 are allowed."""
    grown = [0.7, *[2.2] * LOSSES_COMPARED]
    why = alarm({"loss": 2.2}, grown)
    assert why == "the last 10 losses are 2.2 on average, the first was 0.7"
    assert alarm({"loss": 2.2}, grown, growth=None) is None
    assert alarm({"loss": 2.0}, [0.7, *[2.0] * LOSSES_COMPARED]) is None, "2.86 times as much"


def test_one_bad_batch_is_no_divergence() -> None:
    assert alarm({"loss": 9.0}, [0.7] * 20 + [9.0]) is None
    assert alarm({"loss": 9.0}, [0.7, 9.0, 9.0]) is None, "three rows are too few to tell"


def test_a_state_is_sealed_once_it_is_saved(tmp_path: Path) -> None:
    """What is not sealed is not resumed from: the process may have died while it was written."""
    state = tmp_path / "checkpoint-7"
    state.mkdir()
    TrainingMonitor(DpoSettings(), None).on_save(
        TrainingArguments(output_dir=str(tmp_path), use_cpu=True),
        TrainerState(global_step=7),
        TrainerControl(),
    )
    assert (state / COMPLETE_MARKER).is_file()
