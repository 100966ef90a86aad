"""Common code of DPO and supervised fine-tuning.

TRL trains; this module supplies measured rows, monitors the log, resumes, and publishes the result.
It does not depend on the loss.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from accelerate import PartialState
from datasets import (
    Dataset,
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from transformers import (
    AutoTokenizer,
    PrinterCallback,
    Trainer,
    TrainerState,
)

from meta_reward_core.errors import TrainingError
from meta_reward_core.models.library_errors import translate_library_errors
from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.recipes.canonical import canonicalize_section
from meta_reward_core.recipes.training_settings import (
    CheckpointRule,
    LoraSettings,
    TrainingSettings,
)
from meta_reward_core.system.third_party_logging import silence_libraries
from meta_reward_core.training import process_barrier
from meta_reward_core.training.callbacks import TrainingMonitor, select_metrics
from meta_reward_core.training.checkpoint_candidates import (
    CandidateExport,
    remove_later_candidates,
)
from meta_reward_core.training.export_weights import end_process_group, publish_weights
from meta_reward_core.training.model_loading import load_trained_model
from meta_reward_core.training.preprocessing import (
    TRAIN_FILE,
    VALIDATION_FILE,
    RowSplit,
    hash_rows,
    load_split,
    split_rows,
)
from meta_reward_core.training.result import OnLog, TrainingOutcome
from meta_reward_core.training.resume import (
    find_resume_state,
    get_step,
    open_scratch,
)
from meta_reward_core.training.row_encoding import RowEncoder
from meta_reward_core.training.row_types import RowIterable, TrainingRow
from meta_reward_core.training.tracking import use_trackers
from meta_reward_core.training.trainer_factories import Objective, TrainerInputs
from meta_reward_core.training.weighting import WEIGHING

OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit"}
MAX_WAIT = timedelta(minutes=5)
"""Maximum time that a process waits for a collective, or without a heartbeat of another process."""
STATES_FOLDER = "states"
RULE_METRICS = {
    "lowest_validation_loss": "eval_loss",
    "highest_validation_accuracy": "eval_rewards/accuracies",
}


def run_training(
    objective: Objective,
    rows: RowIterable[TrainingRow],
    *,
    start: Path,
    settings: TrainingSettings,
    checkpoint: Path,
    scratch: Path,
    seed: int,
    threads: int | None = None,
    on_log: OnLog | None = None,
    chat_date: str | None = None,
    run_name: str | None = None,
) -> TrainingOutcome:
    """Train in this process, resuming an interrupted job, and publish the checkpoint.

    See `launcher.train` for the arguments.

    Raises:
        TrainingError: too many rows are refused, a row is lost, the training diverges, or the
            number of processes differs from the settings.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    prepare_job(
        objective,
        rows,
        start=start,
        settings=settings,
        scratch=scratch,
        seed=seed,
        chat_date=chat_date,
    )
    return train_prepared_job(
        objective,
        start=start,
        settings=settings,
        checkpoint=checkpoint,
        scratch=scratch,
        seed=seed,
        on_log=on_log,
        run_name=run_name,
    )


def prepare_job(
    objective: Objective,
    rows: RowIterable[TrainingRow],
    *,
    start: Path,
    settings: TrainingSettings,
    scratch: Path,
    seed: int,
    chat_date: str | None,
) -> None:
    """Open the scratch folder, and encode, measure and split the rows in it.

    This runs before the processes start, so that no process waits for another.
    """
    with (
        translate_library_errors(TrainingError, folder=start),
        silence_libraries(),
    ):
        tokenizer = AutoTokenizer.from_pretrained(start, local_files_only=True)
        described = _describe_job(objective, rows, start, settings, seed)
        open_scratch(scratch, described | {"chat_date": chat_date})
        sorted_rows = split_rows(
            rows,
            RowEncoder.build_for_model(tokenizer, start, chat_date=chat_date),
            folder=scratch,
            form=objective.form,
            max_length=settings.max_length,
            max_refused_share=settings.max_refused_share,
            validation_share=settings.validation_share,
        )
        _check_validation(sorted_rows, settings.checkpoint_selection)
        shutil.rmtree(scratch / process_barrier.FOLDER, ignore_errors=True)
        # removes incomplete states before processes read them
        state = find_resume_state(scratch / STATES_FOLDER)
        remove_later_candidates(scratch, step=get_step(state))


def train_prepared_job(
    objective: Objective,
    *,
    start: Path,
    settings: TrainingSettings,
    checkpoint: Path,
    scratch: Path,
    seed: int,
    on_log: OnLog | None,
    run_name: str | None,
) -> TrainingOutcome:
    """Train on the rows in the scratch folder; called by each process.

    Raises:
        TrainingError: see `run_training`.
    """
    _check_world_size(settings.processes)
    with (
        translate_library_errors(TrainingError, folder=start),
        silence_libraries(),
        _silence_datasets(),
        use_trackers(run_name or scratch.name) as trackers,
    ):
        sorted_rows = load_split(scratch)
        with PartialState().main_process_first():  # others read the cache that it writes
            train_dataset = _load_dataset(scratch / TRAIN_FILE)
            eval_dataset = (
                _load_dataset(scratch / VALIDATION_FILE) if sorted_rows.held_out else None
            )
        trainer = objective.make_trainer(
            TrainerInputs(
                model=load_trained_model(start, settings.lora),
                tokenizer=AutoTokenizer.from_pretrained(start, local_files_only=True),
                arguments=_build_arguments(
                    settings, scratch, seed=seed, validate=eval_dataset is not None
                )
                | {"report_to": trackers or "none", "run_name": run_name},
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                peft_config=_build_peft_config(settings.lora),
            ),
            settings,
        )
        _check_rows_kept(trainer, sorted_rows)
        trainer.remove_callback(PrinterCallback)
        place: dict[str, Any] = {
            "start": start,
            "scratch": scratch,
            "keep_adapter": settings.keeps_adapter,
        }
        if settings.selects_by_tasks:
            trainer.add_callback(CandidateExport(trainer, **place))
        # must be the last callback, because it seals states
        trainer.add_callback(TrainingMonitor(settings, on_log))
        _train(trainer, find_resume_state(scratch / STATES_FOLDER))
        published = False
        if settings.selects_by_tasks:
            end_process_group()
        else:
            published = publish_weights(trainer, checkpoint=checkpoint, is_last=True, **place)
    outcome = _build_outcome(
        trainer.state, sorted_rows, settings.checkpoint_selection, published=published
    )
    if trainer.is_world_process_zero() and not settings.selects_by_tasks:
        shutil.rmtree(scratch)
    return outcome


@contextmanager
def _silence_datasets() -> Iterator[None]:
    """Context manager that hides the progress bars of datasets."""
    were_off = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            enable_progress_bars()


def _check_world_size(asked: int) -> None:
    """Check the number of processes, because `accelerate launch` can silently start one."""
    on_cpu = not torch.cuda.is_available()
    running = PartialState(cpu=on_cpu, timeout=MAX_WAIT).num_processes
    if running != asked:
        raise TrainingError(
            f"{asked} training processes were requested, but {running} are running."
        )


def _check_validation(rows: RowSplit, rule: CheckpointRule) -> None:
    if rule in RULE_METRICS and not rows.held_out:
        raise TrainingError(f"The validation set, which {rule} needs, is empty.")


def _check_rows_kept(trainer: Trainer, rows: RowSplit) -> None:
    """Check that TRL kept all rows, because it silently drops rows in some settings."""
    datasets: tuple[Any, Any] = trainer.train_dataset, trainer.eval_dataset
    kept = [0 if dataset is None else len(dataset) for dataset in datasets]
    if kept != [rows.trained, rows.held_out]:
        raise TrainingError(
            f"TRL dropped rows: expected {rows.trained} rows for training and {rows.held_out} for "
            f"validation, got {kept[0]} and {kept[1]}."
        )


def _describe_job(
    objective: Objective,
    rows: RowIterable[TrainingRow],
    start: Path,
    settings: TrainingSettings,
    seed: int,
) -> dict[str, object]:
    """List everything on which the weights depend; saved states with other values are not used."""
    # absent without sharding, so that earlier states are still used
    states = {"states": "sharded"} if settings.sharding == "fsdp" else {}
    return states | {
        "objective": objective.name,
        "weighing": WEIGHING,
        "rows": hash_rows(rows),
        "start": hash_model_folder(start),
        "settings": canonicalize_section(settings, "training."),
        "seed": seed,
        "versions": [torch.__version__, transformers.__version__, trl.__version__],
    }


def _load_dataset(file: Path) -> Dataset:
    """Load rows as a dataset on disk that all processes share."""
    return Dataset.from_parquet(str(file), cache_dir=str(file.parent / "datasets"))


def _build_arguments(
    settings: TrainingSettings, scratch: Path, *, seed: int, validate: bool
) -> dict[str, Any]:
    """Convert our settings to transformers' `TrainingArguments`, which TRL's configs extend."""
    per_step = settings.device_batch_size * settings.processes
    return {
        "output_dir": str(scratch / STATES_FOLDER),
        "per_device_train_batch_size": settings.device_batch_size,
        "per_device_eval_batch_size": settings.device_batch_size,
        "gradient_accumulation_steps": settings.batch_size // per_step,
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.scheduler,
        "warmup_steps": settings.warmup_ratio,
        "optim": OPTIMIZERS[settings.optimizer],
        "weight_decay": settings.weight_decay,
        "adam_beta2": settings.adam_beta2,
        "max_grad_norm": settings.max_grad_norm,
        "max_length": None,  # rows that are too long have been removed already
        "bf16": settings.dtype == "bfloat16",
        "gradient_checkpointing": settings.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "ddp_find_unused_parameters": False,
        "ddp_timeout": round(MAX_WAIT.total_seconds()),
        "logging_steps": settings.log_every_steps,
        "logging_nan_inf_filter": False,  # otherwise a diverged loss is logged as a normal one
        "save_strategy": "epoch",
        # the new state, and the last complete one while the new one is written
        "save_total_limit": 2,
        "eval_strategy": "epoch" if validate else "no",
        "seed": seed,
        "data_seed": seed,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "disable_tqdm": True,
        **_build_selection_arguments(settings.checkpoint_selection),
    }


def _build_selection_arguments(rule: CheckpointRule) -> dict[str, Any]:
    """Return transformers' settings for the selection rule; of equal epochs the first counts."""
    if rule not in RULE_METRICS:
        return {}
    return {
        "load_best_model_at_end": True,
        "metric_for_best_model": RULE_METRICS[rule],
        "greater_is_better": rule == "highest_validation_accuracy",
    }


def _build_peft_config(lora: LoraSettings | None) -> Any:
    """Convert the adapters to peft's configuration; peft is only imported here."""
    if lora is None:
        return None
    from peft import LoraConfig

    modules = lora.target_modules
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        task_type="CAUSAL_LM",
    )


def _train(trainer: Trainer, resume: Path | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except torch.OutOfMemoryError as error:
        raise TrainingError(f"Out of memory: lower device_batch_size. {error}") from error


def _build_outcome(
    state: TrainerState, rows: RowSplit, rule: CheckpointRule, *, published: bool
) -> TrainingOutcome:
    log = [row for entry in state.log_history if (row := select_metrics(entry))]
    kept = int(state.best_global_step or 0) if rule in RULE_METRICS else state.global_step
    epochs = [row["epoch"] for row in log if row["step"] == kept]
    return TrainingOutcome(
        rows_trained=rows.trained,
        rows_held_out=rows.held_out,
        refused=rows.refused,
        log=log,
        kept_step=kept,
        kept_epoch=epochs[-1] if epochs else float(state.epoch or 0),
        rule=rule,
        published=published,
        tokens=rows.tokens,
    )
