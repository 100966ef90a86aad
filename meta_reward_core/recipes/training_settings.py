"""Training settings. This module does not import torch, so that recipes load quickly."""

from typing import Literal

from pydantic import model_validator

from meta_reward_core.recipes.field import OURS, PAPER, Section, declare_field

CheckpointRule = Literal[
    "last", "lowest_validation_loss", "highest_validation_accuracy", "highest_development_score"
]
Sharding = Literal["none", "fsdp", "zero2", "zero3"]
Scheduler = Literal["cosine", "linear", "constant", "constant_with_warmup"]
Optimizer = Literal["adamw", "adamw_8bit"]
LoraBase = Literal["float32", "bfloat16", "nf4"]


class LoraSettings(Section):
    """Low-rank adapters, merged into the weights after training."""

    r: int = declare_field(
        default=16,
        ge=1,
        le=1024,
        text="Rank of the adapters.",
        source=OURS,
    )
    alpha: int = declare_field(
        default=32,
        ge=1,
        text="LoRA alpha. The output of the adapters is scaled by alpha / r.",
        source=OURS,
    )
    dropout: float = declare_field(
        default=0.0,
        ge=0,
        lt=1,
        text="Dropout probability of the adapters.",
        source=OURS,
    )
    target_modules: tuple[str, ...] | Literal["all-linear"] = declare_field(
        default="all-linear",
        text="Layers that get an adapter. The language-model head is not allowed.",
        source=OURS,
    )
    keep_adapter: bool = declare_field(
        default=False,
        text="Whether to save the adapter with the checkpoint, and to generate with the adapter "
        "and the unmerged weights (`vllm`). Merging into bfloat16 loses small changes.",
        source=OURS,
    )
    base: LoraBase = declare_field(
        default="float32",
        text="Data type of the frozen weights during training. nf4: 4-bit weights (QLoRA; needs "
        "bitsandbytes). Adapters are merged into the stored weights either way.",
        source=OURS,
    )


class TrainingSettings(Section):
    """Settings of both DPO and supervised fine-tuning."""

    learning_rate: float = declare_field(
        default=5e-6,
        gt=0,
        le=1,
        text="Peak learning rate.",
        source=PAPER,
    )
    batch_size: int = declare_field(
        default=32,
        ge=1,
        text="Number of rows per optimizer step, over all devices.",
        source=PAPER,
        unit="rows",
    )
    device_batch_size: int = declare_field(
        default=4,
        ge=1,
        text="Number of rows per device and forward pass. Gradients are accumulated up to "
        "batch_size.",
        source=OURS,
        unit="rows",
    )
    epochs: int = declare_field(
        default=10,
        ge=1,
        le=1000,
        text="Maximum number of epochs.",
        source=PAPER,
        unit="epochs",
    )
    scheduler: Scheduler = declare_field(
        default="cosine",
        text="Learning-rate schedule.",
        source=PAPER,
    )
    warmup_ratio: float = declare_field(
        default=0.1,
        ge=0,
        lt=1,
        text="Share of the optimizer steps used for learning-rate warmup.",
        source=OURS,
    )
    max_length: int = declare_field(
        default=2048,
        ge=8,
        text="Maximum tokens of a row (prompt and completion). Longer rows are refused, not cut.",
        source=OURS,
        unit="tokens",
    )
    weight_decay: float = declare_field(
        default=0.0,
        ge=0,
        le=1,
        text="AdamW weight decay.",
        source=OURS,
    )
    adam_beta2: float = declare_field(
        default=0.999,
        gt=0,
        lt=1,
        text="AdamW beta2.",
        source=OURS,
    )
    max_grad_norm: float = declare_field(
        default=1.0,
        gt=0,
        text="Maximum gradient norm; larger gradients are clipped.",
        source=OURS,
    )
    dtype: Literal["float32", "bfloat16"] = declare_field(
        default="bfloat16",
        text="Data type for computation during training. Training always keeps the weights in "
        "float32; the checkpoint is saved in the data type of the model that training started "
        "from.",
        source=OURS,
    )
    gradient_checkpointing: bool = declare_field(
        default=True,
        text="Whether to recompute activations, which needs less memory and is about 20% slower.",
        source=OURS,
    )
    optimizer: Optimizer = declare_field(
        default="adamw",
        text="Optimizer. adamw_8bit keeps its state in 8 bits: 2 bytes per trained weight instead "
        "of 8 (needs bitsandbytes).",
        source=OURS,
    )
    group_by_length: bool = declare_field(
        default=False,
        text="Whether to use rows of similar length in each step, which needs less padding and "
        "changes which rows share a step.",
        source=OURS,
    )
    logit_tile: int | None = declare_field(
        default=None,
        ge=1,
        le=4096,
        text="Maximum size of the tile of logits (float32) that is in memory at a time. None: 4 "
        "MiB on a CPU, 512 MiB on a GPU.",
        source=OURS,
        unit="MiB",
    )
    processes: int = declare_field(
        default=1,
        ge=1,
        le=64,
        text="Number of training processes on one machine, each with its own device. It does not "
        "change batch_size.",
        source=OURS,
        unit="processes",
    )
    sharding: Sharding = declare_field(
        default="none",
        text="What is sharded across processes. none: nothing; only rows are distributed. fsdp, "
        "zero3: weights, gradients and optimizer state. zero2: gradients and optimizer state. "
        "zero2 and zero3 need DeepSpeed.",
        source=OURS,
    )
    lora: LoraSettings | None = declare_field(
        default=None,
        text="LoRA adapters to train instead of all weights. None: all weights are trained.",
        source=OURS,
    )
    max_loss_ratio: float | None = declare_field(
        default=10.0,
        gt=1,
        text="Stop training when the mean of the last ten logged losses exceeds the first loss by "
        "this factor. None: no limit. A loss of NaN or infinity always stops training.",
        source=OURS,
    )
    stop_at_grad_norm: float | None = declare_field(
        default=None,
        gt=0,
        text="Stop training when the gradient norm before clipping exceeds this value. None: no "
        "limit.",
        source=OURS,
    )
    max_refused_share: float = declare_field(
        default=0.1,
        ge=0,
        le=1,
        text="Maximum share of refused rows. If more rows are refused, training stops.",
        source=OURS,
    )
    validation_share: float = declare_field(
        default=0.0,
        ge=0,
        lt=1,
        text="Share of prompts held out for validation. They are selected by a hash of prompt_id.",
        source=OURS,
    )
    checkpoint_selection: CheckpointRule = declare_field(
        default="last",
        text="Which epoch's weights become the checkpoint: the last, the best on held-out pairs "
        "(validation_share), or the best on the tasks in `development.tasks`.",
        source=OURS,
    )
    save_every_epochs: int = declare_field(
        default=1,
        ge=1,
        text="Number of epochs between saved training states, which are used for resuming and for "
        "checkpoint selection.",
        source=OURS,
        unit="epochs",
    )
    log_every_steps: int = declare_field(
        default=1,
        ge=1,
        text="Number of steps between two rows of the training log.",
        source=OURS,
        unit="steps",
    )

    @property
    def selects_by_tasks(self) -> bool:
        """Whether evaluation tasks select the checkpoint, after all epochs."""
        return self.checkpoint_selection == "highest_development_score"

    @property
    def keeps_adapter(self) -> bool:
        """Whether a checkpoint also contains an adapter."""
        return self.lora is not None and self.lora.keep_adapter

    @model_validator(mode="after")
    def _check_batch_sizes(self) -> "TrainingSettings":
        if self.batch_size % self.device_batch_size:
            raise ValueError("batch_size must be a multiple of device_batch_size")
        if self.batch_size % (self.device_batch_size * self.processes):
            raise ValueError("batch_size must be a multiple of device_batch_size x processes")
        return self

    @model_validator(mode="after")
    def _check_processes(self) -> "TrainingSettings":
        if self.sharding != "none" and self.processes == 1:
            raise ValueError(f"sharding: {self.sharding} needs processes above 1")
        if self.sharding != "none" and self.lora is not None and self.lora.base == "nf4":
            raise ValueError(
                "lora.base: nf4 cannot be sharded; use sharding: none or lora.base: bfloat16"
            )
        return self

    @model_validator(mode="after")
    def _check_validation_share(self) -> "TrainingSettings":
        rule = self.checkpoint_selection
        if rule.endswith(("_loss", "_accuracy")) and self.validation_share == 0:
            raise ValueError(f"checkpoint_selection: {rule} needs a validation_share above 0")
        return self


class DpoSettings(TrainingSettings):
    """Direct Preference Optimization; defaults are the paper's where it states them."""

    beta: float = declare_field(
        default=0.1,
        gt=0,
        text="DPO beta: strength of the penalty for deviating from the reference model.",
        source=PAPER,
    )
    sft_weight: float = declare_field(
        default=0.0,
        ge=0,
        le=10,
        text="Weight of the negative log-likelihood of the chosen completions in the loss, "
        "averaged over their tokens in a step. It helps preserve the format of completions. The "
        "paper uses 0.",
        source="Pang et al. 2024, arXiv 2404.19733",
    )


class SftSettings(TrainingSettings):
    """Supervised fine-tuning on completions only."""

    learning_rate: float = declare_field(
        default=1e-5,
        gt=0,
        le=1,
        text="Peak learning rate.",
        source=OURS,
    )
    epochs: int = declare_field(
        default=3,
        ge=1,
        le=1000,
        text="Maximum number of epochs.",
        source=OURS,
        unit="epochs",
    )
    row_order: Literal["shuffled", "as_given"] = declare_field(
        default="shuffled",
        text="Order of the training rows. as_given: the order of the file.",
        source=OURS,
    )
    max_steps: int | None = declare_field(
        default=None,
        ge=1,
        text="Maximum number of optimizer steps. None: no limit.",
        source=OURS,
        unit="steps",
    )

    @model_validator(mode="after")
    def _check_row_order(self) -> "SftSettings":
        if self.group_by_length and self.row_order == "as_given":
            raise ValueError("group_by_length reorders rows; use row_order: shuffled")
        return self

    @model_validator(mode="after")
    def _check_checkpoint_rule(self) -> "SftSettings":
        if self.checkpoint_selection not in {"last", "lowest_validation_loss"}:
            raise ValueError(
                f"checkpoint_selection: {self.checkpoint_selection} is for DPO only; use last or "
                "lowest_validation_loss"
            )
        return self
