"""A training process that a signal or an error ends at a named moment, once."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from meta_reward_core.errors import TrainingError
from meta_reward_core.training import process_main, trainer
from meta_reward_core.training.callbacks import TrainingMonitor

MOMENTS = ("loading", "first step", "fifth step", "saving", "publishing")


def die(moment: str) -> None:
    rank, wanted, note = os.environ["TEST_KILL"].split(":")
    if os.environ["RANK"] == rank and moment == wanted and not Path(note).exists():
        Path(note).touch()
        if os.environ.get("TEST_ERROR"):
            raise TrainingError(os.environ["TEST_ERROR"])
        os.kill(os.getpid(), signal.SIGKILL)


class Monitor(TrainingMonitor):
    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        die({0: "first step", 4: "fifth step"}.get(state.global_step, ""))

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step > 3:
            die("saving")
        super().on_save(args, state, control, **more)


def die_first(moment: str, function: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        die(moment)
        return function(*args, **kwargs)

    return call


if __name__ == "__main__":
    patched: Any = trainer
    patched.TrainingMonitor = Monitor
    patched.load_trained_model = die_first("loading", patched.load_trained_model)
    patched.publish_weights = die_first("publishing", patched.publish_weights)
    process_main.main(Path(sys.argv[1]))
