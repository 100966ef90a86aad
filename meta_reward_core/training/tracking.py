"""Experiment trackers for running training: TensorBoard, Weights & Biases, MLflow.

A setting of the installation selects them. They read their own variables for addresses and keys;
without these, everything is stored in a local folder.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from meta_reward_core.errors import TrainingError
from meta_reward_core.system.settings import (
    read_settings,
    read_variable,
    set_default_variables,
)


@contextmanager
def use_trackers(run_name: str) -> Iterator[list[str]]:
    """Context manager that makes the selected trackers write below one folder by default.

    Raises:
        TrainingError: a selected tracker is not installed.
    """
    settings = read_settings()
    for name in settings.trackers:
        if find_spec(name) is None:
            raise TrainingError(
                f"META_REWARD_TRACKERS: {name} is not installed. Run "
                "pip install 'meta-reward[tracking]', or remove it from the setting."
            )
    if not settings.trackers:
        yield []
        return
    root = settings.tracking_root
    root.mkdir(parents=True, exist_ok=True)
    defaults = {
        "TENSORBOARD_LOGGING_DIR": str(root / "tensorboard" / run_name),
        "MLFLOW_TRACKING_URI": (root / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_EXPERIMENT_NAME": "meta-reward",
        "WANDB_DIR": str(root),
        "WANDB_PROJECT": "meta-reward",
        "WANDB_MODE": "online" if read_variable("WANDB_API_KEY") else "offline",
        "WANDB_SILENT": "true",
    }
    with set_default_variables(defaults):
        try:
            yield list(settings.trackers)
        finally:
            _finish_wandb()


def _finish_wandb() -> None:
    """Wait until the process of Weights & Biases has written the run; it ends with this one."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()
