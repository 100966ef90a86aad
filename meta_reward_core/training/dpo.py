"""Direct Preference Optimization by TRL, from M_{t-1} and against M_{t-1}."""

from collections.abc import Sequence
from pathlib import Path

from transformers import Trainer
from trl import DPOConfig, DPOTrainer

from meta_reward_core.training.rows import PreferenceRow
from meta_reward_core.training.settings import DpoSettings
from meta_reward_core.training.trainer import OnLog, TrainerInputs, TrainingOutcome, run_training


def train_dpo(
    rows: Sequence[PreferenceRow],
    *,
    start: Path,
    settings: DpoSettings,
    checkpoint: Path,
    scratch: Path,
    seed: int,
    world_size: int = 1,
    threads: int | None = None,
    on_log: OnLog | None = None,
) -> TrainingOutcome:
    """Train the model in `start` on pairs and publish the result as `checkpoint`.

    The model in `start` is the policy's beginning and the reference. Reference log-probabilities
    are computed from its weights before the first step: left to itself TRL loads the model that
    the config names, which may be M_0.

    Args:
        rows: pairs in TRL's conversational form.
        start: a folder that `check_model_folder` has passed.
        settings: see `DpoSettings`.
        checkpoint: the folder to appear; the first writer wins.
        scratch: a private folder of this job; deleted when the training ends well.
        seed: of the order of rows and of dropout in adapters.
        world_size: how many processes train; checked.
        threads: CPU threads of torch; sums, and so the weights' last bits, depend on them.
        on_log: called with each new row of the log.

    Raises:
        TrainingError: see `run_training`.

    Source: Rafailov et al. 2023, "Direct Preference Optimization", equation 7.
    """

    def make_trainer(inputs: TrainerInputs) -> Trainer:
        arguments = DPOConfig(
            **inputs.arguments,
            beta=settings.beta,
            loss_type=["sigmoid", "sft"] if settings.sft_weight else ["sigmoid"],
            loss_weights=[1.0, settings.sft_weight] if settings.sft_weight else None,
            precompute_ref_log_probs=True,
            precompute_ref_batch_size=settings.device_batch_size,
        )
        trainer: Trainer = DPOTrainer(
            model=inputs.model,
            args=arguments,
            train_dataset=inputs.train_dataset,
            eval_dataset=inputs.eval_dataset,
            processing_class=inputs.tokenizer,
            peft_config=inputs.peft_config,
        )
        return trainer

    return run_training(
        rows,
        make_trainer,
        columns=lambda encoded: dict(encoded.row),
        start=start,
        settings=settings,
        checkpoint=checkpoint,
        scratch=scratch,
        seed=seed,
        world_size=world_size,
        threads=threads,
        on_log=on_log,
    )
