"""What DPO and supervised fine-tuning share: from rows and a folder to a published folder.

TRL trains; this module hands it measured rows, watches its log, lets it resume, and publishes.
It knows nothing of losses.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow
import pyarrow.parquet
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
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from meta_reward_core.errors import ModelFolderError, TrainingError
from meta_reward_core.model_folder import hash_model_folder
from meta_reward_core.quiet import quiet_libraries
from meta_reward_core.training.checkpoint import (
    find_resume_state,
    mark_complete,
    open_scratch,
    publish_model,
)
from meta_reward_core.training.rows import (
    EncodedRow,
    RefusedRow,
    SortedRows,
    TrainingRow,
    hash_rows,
    sort_rows,
)
from meta_reward_core.training.settings import CheckpointRule, LoraSettings, TrainingSettings

LogRow = dict[str, float]
OnLog = Callable[[LogRow], None]
Columns = Callable[[EncodedRow], dict[str, Any]]
"""What TRL's trainer reads of a row."""

RULE_METRICS = {
    "lowest_validation_loss": "eval_loss",
    "highest_validation_accuracy": "eval_rewards/accuracies",
}
# Of TRL's log: what depends on rows, seed and weights alone, never on the clock.
LOGGED = ("loss", "learning_rate", "grad_norm", "entropy", "mean_token_accuracy")
LOGGED_FAMILIES = ("rewards/", "logps/")


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """What a training did. Rows in = rows_trained + rows_held_out + len(refused).

    Attributes:
        log: TRL's metrics by step, without clock or memory: equal runs have equal logs.
        kept_step: the optimizer step whose weights were published; kept_epoch likewise.
        rule: the rule that chose it.
        published: False when another writer had published the same checkpoint before.
    """

    rows_trained: int
    rows_held_out: int
    refused: list[RefusedRow]
    log: list[LogRow]
    kept_step: int
    kept_epoch: float
    rule: CheckpointRule
    published: bool


@dataclass(frozen=True, slots=True)
class TrainerInputs:
    """What a trainer of TRL is made from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    arguments: dict[str, Any]
    train_dataset: Dataset
    eval_dataset: Dataset | None
    peft_config: Any  # peft's, or None


class MakeTrainer(Protocol):
    """Makes TRL's trainer of one objective."""

    def __call__(self, inputs: TrainerInputs) -> Trainer:
        """The trainer, not yet started."""
        ...


def run_training(
    rows: Sequence[TrainingRow],
    make_trainer: MakeTrainer,
    *,
    columns: Columns,
    start: Path,
    settings: TrainingSettings,
    checkpoint: Path,
    scratch: Path,
    seed: int,
    world_size: int,
    threads: int | None,
    on_log: OnLog | None,
) -> TrainingOutcome:
    """Train, resuming where the same job was killed, and publish the weights that the rule keeps.

    Raises:
        TrainingError: too many rows refused, a row lost, a loss that is not finite, or another
            number of processes than `world_size`.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    _check_world_size(world_size)
    with quiet_libraries(), _quiet_datasets():
        tokenizer = AutoTokenizer.from_pretrained(start, local_files_only=True)
        sorted_rows = sort_rows(
            rows,
            tokenizer,
            max_length=settings.max_length,
            max_refused_share=settings.max_refused_share,
            validation_share=settings.validation_share,
        )
        _check_validation(sorted_rows, settings.keep)
        with PartialState().main_process_first():
            open_scratch(scratch, _describe_job(rows, start, settings, seed, world_size))
            train_dataset = _to_dataset(sorted_rows.trained, columns, scratch / "train.parquet")
            eval_dataset = _to_dataset(sorted_rows.held_out, columns, scratch / "held_out.parquet")
        trainer = make_trainer(
            TrainerInputs(
                model=load_float32(start),
                tokenizer=tokenizer,
                arguments=_arguments(
                    settings,
                    scratch,
                    seed=seed,
                    world_size=world_size,
                    validate=eval_dataset is not None,
                ),
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                peft_config=_peft_config(settings.lora),
            )
        )
        _check_rows_kept(trainer, sorted_rows)
        _watch(trainer, settings.save_every_epochs, on_log)
        resume = find_resume_state(Path(str(trainer.args.output_dir)))
        _train(trainer, resume)
        published = _publish(trainer, start=start, checkpoint=checkpoint, scratch=scratch)
    outcome = _outcome(trainer.state, sorted_rows, settings.keep, published=published)
    if trainer.is_world_process_zero():
        shutil.rmtree(scratch)
    return outcome


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Inside: no progress bar of datasets, which mostly show a file of a few rows."""
    were_off = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            enable_progress_bars()


def load_float32(folder: Path) -> PreTrainedModel:
    """The weights of a folder in float32: steps of 5e-6 vanish in bfloat16 weights."""
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelFolderError(f"{folder} cannot be loaded as a model: {error}") from error


def _check_world_size(asked: int) -> None:
    """`accelerate launch --num_processes 2` has been seen to start one process, silently."""
    if PartialState().num_processes != asked:
        raise TrainingError(
            f"{asked} training processes were asked for and {PartialState().num_processes} run."
        )


def _check_validation(rows: SortedRows, rule: CheckpointRule) -> None:
    if rule != "last" and not rows.held_out:
        raise TrainingError(f"No prompt fell into the validation share, which {rule} needs.")


def _check_rows_kept(trainer: Trainer, rows: SortedRows) -> None:
    """TRL drops rows without an error in some settings: never in ours."""
    datasets: tuple[Any, Any] = trainer.train_dataset, trainer.eval_dataset
    kept = [0 if dataset is None else len(dataset) for dataset in datasets]
    if kept != [len(rows.trained), len(rows.held_out)]:
        raise TrainingError(
            f"TRL kept {kept} of {len(rows.trained)} rows to train on and "
            f"{len(rows.held_out)} to validate on."
        )


def _describe_job(
    rows: Sequence[TrainingRow],
    start: Path,
    settings: TrainingSettings,
    seed: int,
    world_size: int,
) -> dict[str, object]:
    """All that the weights depend on: a state of a job that differs in it is no state of ours."""
    return {
        "rows": hash_rows(rows),
        "start": hash_model_folder(start),
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "world_size": world_size,
        "versions": [torch.__version__, transformers.__version__, trl.__version__],
    }


def _to_dataset(rows: Sequence[EncodedRow], columns: Columns, file: Path) -> Dataset | None:
    """Rows as a dataset on the disk, which every process of a training can open."""
    if not rows:
        return None
    if not file.exists():
        partial = file.with_suffix(".partial")
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist([columns(row) for row in rows]), partial
        )
        partial.rename(file)
    return Dataset.from_parquet(str(file), cache_dir=str(file.parent / "datasets"))


def _arguments(
    settings: TrainingSettings, scratch: Path, *, seed: int, world_size: int, validate: bool
) -> dict[str, Any]:
    """Our settings as `TrainingArguments` of transformers; TRL's configs extend these."""
    per_step = settings.device_batch_size * world_size
    if settings.batch_size % per_step:
        raise TrainingError(
            f"batch_size {settings.batch_size} is no multiple of {settings.device_batch_size} "
            f"rows on each of {world_size} devices."
        )
    return {
        "output_dir": str(scratch / "states"),
        "per_device_train_batch_size": settings.device_batch_size,
        "per_device_eval_batch_size": settings.device_batch_size,
        "gradient_accumulation_steps": settings.batch_size // per_step,
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.scheduler,
        "warmup_steps": settings.warmup_share,
        "weight_decay": settings.weight_decay,
        "adam_beta2": settings.adam_beta2,
        "max_grad_norm": settings.max_grad_norm,
        "max_length": None,  # rows are measured before; nothing is left to cut
        "bf16": settings.dtype == "bfloat16",
        "gradient_checkpointing": settings.gradient_checkpointing,
        "logging_steps": settings.log_every_steps,
        "logging_nan_inf_filter": False,  # or a diverged loss is logged as a fine one
        "save_strategy": "epoch",
        "save_total_limit": 2,  # the new state, and the last whole one while it is written
        "eval_strategy": "epoch" if validate else "no",
        "seed": seed,
        "data_seed": seed,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "report_to": "none",
        "disable_tqdm": True,
        **_selection(settings.keep),
    }


def _selection(rule: CheckpointRule) -> dict[str, Any]:
    """How transformers finds the weights that the rule keeps; among equals the earliest."""
    if rule == "last":
        return {}
    return {
        "load_best_model_at_end": True,
        "metric_for_best_model": RULE_METRICS[rule],
        "greater_is_better": rule == "highest_validation_accuracy",
    }


def _peft_config(lora: LoraSettings | None) -> Any:
    """The adapters as peft wants them; peft is loaded where they are used alone."""
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


class _Watch(TrainerCallback):
    """Passes the log on, stops at a loss that is not finite, and seals the states."""

    def __init__(self, save_every_epochs: int, on_log: OnLog | None) -> None:
        self._save_every_epochs = save_every_epochs
        self._on_log = on_log

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,
    ) -> None:
        row = select_metrics({**kwargs["logs"], "step": state.global_step})
        broken = [key for key, value in row.items() if not math.isfinite(value)]
        if broken:
            raise TrainingError(
                f"The training diverged at step {state.global_step}: {', '.join(broken)} "
                "is not finite. Lower the learning rate."
            )
        if row and self._on_log is not None and state.is_world_process_zero:
            self._on_log(row)

    def on_epoch_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        skipped = round(state.epoch or 0) % self._save_every_epochs
        if skipped and state.global_step < state.max_steps:
            control.should_save = control.should_evaluate = False

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        if state.is_world_process_zero:
            mark_complete(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")


def select_metrics(logs: Mapping[str, float]) -> LogRow:
    """The metrics of one log row that equal runs share, with step and epoch; empty if none.

    In the order of their names: a training that goes on reads its earlier rows from a file in
    which they stand in that order.
    """

    def is_metric(key: str) -> bool:
        name = key.removeprefix("eval_")
        return name in LOGGED or name.startswith(LOGGED_FAMILIES)

    metrics = {key: float(logs[key]) for key in sorted(logs) if is_metric(key)}
    return {"step": logs["step"], "epoch": logs["epoch"], **metrics} if metrics else {}


def _watch(trainer: Trainer, save_every_epochs: int, on_log: OnLog | None) -> None:
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Watch(save_every_epochs, on_log))


def _train(trainer: Trainer, resume: Path | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except torch.OutOfMemoryError as error:
        raise TrainingError(f"Out of memory: lower device_batch_size. {error}") from error


def _publish(trainer: Trainer, *, start: Path, checkpoint: Path, scratch: Path) -> bool:
    """Have the main process write what was learned, in the precision training began from."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
        weights = model.state_dict()
    else:
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    dtype = stored_dtype(start)

    def write_weights(folder: Path) -> None:
        cast = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in weights.items()
        }
        model.save_pretrained(folder, state_dict=cast)

    published = False
    if trainer.is_world_process_zero():
        job_name = hashlib.sha256(str(scratch).encode()).hexdigest()[:12]
        published = publish_model(
            write_weights, start=start, checkpoint=checkpoint, job_name=job_name
        )
    trainer.accelerator.wait_for_everyone()
    return published


def stored_dtype(folder: Path) -> torch.dtype:
    """The precision a folder's config names; float32 where it names none."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    dtype = getattr(torch, str(name), None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def _outcome(
    state: TrainerState, rows: SortedRows, rule: CheckpointRule, *, published: bool
) -> TrainingOutcome:
    log = [row for entry in state.log_history if (row := select_metrics(entry))]
    kept = state.global_step if rule == "last" else int(state.best_global_step or 0)
    epochs = [row["epoch"] for row in log if row["step"] == kept]
    return TrainingOutcome(
        rows_trained=len(rows.trained),
        rows_held_out=len(rows.held_out),
        refused=rows.refused,
        log=log,
        kept_step=kept,
        kept_epoch=epochs[-1] if epochs else float(state.epoch or 0),
        rule=rule,
        published=published,
    )
