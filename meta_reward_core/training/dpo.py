"""Direct Preference Optimization with TRL; M_{t-1} is both start and reference."""

from pathlib import Path
from typing import Unpack

from meta_reward_core.recipes.training_settings import DpoSettings
from meta_reward_core.training.launcher import TrainingRunOptions, train
from meta_reward_core.training.result import TrainingOutcome
from meta_reward_core.training.row_types import PreferenceRow, RowIterable
from meta_reward_core.training.trainer_factories import DPO


def train_dpo(
    rows: RowIterable[PreferenceRow],
    *,
    start: Path,
    settings: DpoSettings,
    **place: Unpack[TrainingRunOptions],
) -> TrainingOutcome:
    """Train the model in `start` on pairs and publish the result as a checkpoint.

    The model in `start` is both the initial policy and the reference. Reference log-probabilities
    are computed from its weights before the first step.

    Args:
        rows: pairs in TRL's conversational format.
        start: a folder that `check_model_folder` has passed.
        settings: see `DpoSettings`.
        place: see `TrainingRunOptions`.

    Raises:
        TrainingError: see `train`.

    Source: Rafailov et al. 2023, "Direct Preference Optimization", equation 7.
    """
    return train(DPO, rows, start=start, settings=settings, **place)
