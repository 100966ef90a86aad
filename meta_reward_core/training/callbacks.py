"""Training callbacks: log, alarms, and checks that saved states are complete."""

import math
import statistics
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from meta_reward_core.errors import TrainingError
from meta_reward_core.recipes.training_settings import TrainingSettings
from meta_reward_core.training.process_barrier import FOLDER, ProcessBarrier
from meta_reward_core.training.result import LogRow, OnLog
from meta_reward_core.training.resume import mark_complete

# Entries of TRL's log that depend only on rows, seed and weights, never on the clock.
LOGGED = ("loss", "learning_rate", "grad_norm", "entropy", "mean_token_accuracy")
LOGGED_FAMILIES = ("loss/", "rewards/", "logps/")
LOSSES_COMPARED = 10


class TrainingMonitor(TrainerCallback):
    """Forwards the log, stops training that diverges, and marks states as complete."""

    def __init__(self, settings: TrainingSettings, on_log: OnLog | None) -> None:
        self._settings = settings
        self._on_log = on_log
        self._barrier: ProcessBarrier | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Send heartbeats to the other processes."""
        if args.world_size > 1:
            self._barrier = ProcessBarrier(
                Path(str(args.output_dir)).parent / FOLDER,
                rank=args.process_index,
                processes=args.world_size,
                max_silence_seconds=args.ddp_timeout,
            )
            self._barrier.start()

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,
    ) -> None:
        """Check a log row for alarms before it is reported."""
        row = select_metrics({**kwargs["logs"], "step": state.global_step})
        why = find_alarm(
            row,
            state.log_history,
            loss_growth=self._settings.max_loss_ratio,
            grad_norm=self._settings.stop_at_grad_norm,
        )
        if why is not None:
            raise TrainingError(
                f"The training diverged at step {state.global_step}: {why}. "
                "Lower the learning rate."
            )
        if row and self._on_log is not None and state.is_world_process_zero:
            self._on_log(row)

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        """Skip saving after epochs that need no state."""
        skipped = round(state.epoch or 0) % self._settings.save_every_epochs
        if skipped and state.global_step < state.max_steps:
            control.should_save = control.should_evaluate = False
        elif control.should_save:
            # transformers records a best state only if its folder exists before a sharded model is
            # saved, and otherwise deletes it
            _get_state_folder(args, state).mkdir(parents=True, exist_ok=True)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Mark a state as complete once every process has written its part."""
        self._wait(f"written-{state.global_step}")
        if state.is_world_process_zero:
            mark_complete(_get_state_folder(args, state))
        self._wait(f"complete-{state.global_step}")

    def on_train_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """End the heartbeats of all processes before their folder is deleted."""
        if self._barrier is not None:
            self._barrier.stop()
            self._barrier.wait("ended")

    def _wait(self, name: str) -> None:
        """Wait for the other processes without a limit while they are alive."""
        if self._barrier is not None:
            self._barrier.wait(name)


def _get_state_folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"


def find_alarm(
    row: Mapping[str, float],
    history: list[dict[str, float]],
    *,
    loss_growth: float | None,
    grad_norm: float | None,
) -> str | None:
    """Return why a training should stop, or None.

    Args:
        row: the newest metrics.
        history: all rows so far, as the trainer keeps and restores them.
        loss_growth: maximum ratio of the mean of the latest losses to the first loss.
        grad_norm: maximum gradient norm before clipping.
    """
    broken = [key for key, value in row.items() if not math.isfinite(value)]
    if broken:
        return f"{', '.join(broken)} is not finite"
    if grad_norm is not None and row.get("grad_norm", 0.0) > grad_norm:
        return f"the gradient's norm is {row['grad_norm']:.4g}, above {grad_norm:g}"
    first = next((entry["loss"] for entry in history if "loss" in entry), None)
    if loss_growth is None or first is None or "loss" not in row:
        return None
    losses = (entry["loss"] for entry in reversed(history) if "loss" in entry)
    latest = list(islice(losses, LOSSES_COMPARED))
    if len(latest) == LOSSES_COMPARED and statistics.fmean(latest) > loss_growth * abs(first):
        return (
            f"the last {LOSSES_COMPARED} losses are {statistics.fmean(latest):.4g} on average, "
            f"the first was {first:.4g}"
        )
    return None


def select_metrics(logs: Mapping[str, float]) -> LogRow:
    """Return the reproducible metrics of one log row, with step and epoch; empty if there are none.

    Metrics are sorted by name, because resumed training reads its earlier rows from a file in this
    order.
    """

    def is_metric(key: str) -> bool:
        name = key.removeprefix("eval_")
        return name in LOGGED or name.startswith(LOGGED_FAMILIES)

    metrics = {key: float(logs[key]) for key in sorted(logs) if is_metric(key)}
    return {"step": logs["step"], "epoch": logs["epoch"], **metrics} if metrics else {}
