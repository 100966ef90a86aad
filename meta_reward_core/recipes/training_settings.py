"""What may be set of a training. Light: recipes read this without loading torch."""

from typing import Literal

from pydantic import model_validator

from meta_reward_core.recipes.field import OURS, PAPER, Section, declare_field

CheckpointRule = Literal["last", "lowest_validation_loss", "highest_validation_accuracy"]
Sharding = Literal["none", "fsdp", "zero2", "zero3"]
Scheduler = Literal["cosine", "linear", "constant", "constant_with_warmup"]


class LoraSettings(Section):
    """Train low-rank adapters, merged into the weights before they are published."""

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
        text="Scale of the adapters, divided by r.",
        source=OURS,
    )
    dropout: float = declare_field(
        default=0.0,
        ge=0,
        lt=1,
        text="Dropout inside the adapters.",
        source=OURS,
    )
    target_modules: tuple[str, ...] | Literal["all-linear"] = declare_field(
        default="all-linear",
        text="Names of the layers that get an adapter. The language-model head may not.",
        source=OURS,
    )
    keep_adapter: bool = declare_field(
        default=False,
        text="The checkpoint holds the adapter, too, and `vllm` draws from the weights before and "
        "the adapter. It reads them in engine.dtype: merged into bfloat16, a small change is lost.",
        source=OURS,
    )


class TrainingSettings(Section):
    """What DPO and supervised fine-tuning have in common."""

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
        text="Rows per optimizer step, over all devices.",
        source=PAPER,
        unit="rows",
    )
    device_batch_size: int = declare_field(
        default=4,
        ge=1,
        text="Rows one device holds at once; gradients accumulate up to batch_size.",
        source=OURS,
        unit="rows",
    )
    epochs: int = declare_field(
        default=10,
        ge=1,
        le=1000,
        text="Passes over the rows, at most.",
        source=PAPER,
        unit="epochs",
    )
    scheduler: Scheduler = declare_field(
        default="cosine",
        text="How the learning rate falls.",
        source=PAPER,
    )
    warmup_share: float = declare_field(
        default=0.1,
        ge=0,
        lt=1,
        text="Share of the steps in which it rises to its peak.",
        source=OURS,
    )
    max_length: int = declare_field(
        default=2048,
        ge=8,
        text="Longest row in tokens, prompt and reply. Longer rows are refused, not cut.",
        source=OURS,
        unit="tokens",
    )
    weight_decay: float = declare_field(
        default=0.0,
        ge=0,
        le=1,
        text="Decoupled weight decay.",
        source=OURS,
    )
    adam_beta2: float = declare_field(
        default=0.999,
        gt=0,
        lt=1,
        text="Memory of AdamW's second moment.",
        source=OURS,
    )
    max_grad_norm: float = declare_field(
        default=1.0,
        gt=0,
        text="Gradients are clipped to it.",
        source=OURS,
    )
    dtype: Literal["float32", "bfloat16"] = declare_field(
        default="bfloat16",
        text="Precision of the computation. Weights in training are always float32; what "
        "is published has the precision of the model training began from.",
        source=OURS,
    )
    gradient_checkpointing: bool = declare_field(
        default=True,
        text="Recompute activations: less memory, a fifth slower.",
        source=OURS,
    )
    processes: int = declare_field(
        default=1,
        ge=1,
        le=64,
        text="Processes that train together, one for each device of a machine. How many really "
        "run is checked. batch_size stays the same.",
        source=OURS,
        unit="processes",
    )
    sharding: Sharding = declare_field(
        default="none",
        text="What the processes divide among them beside the rows: nothing; weights, gradients "
        "and optimizer (fsdp, zero3); gradients and optimizer (zero2, with DeepSpeed installed).",
        source=OURS,
    )
    lora: LoraSettings | None = declare_field(
        default=None,
        text="Train adapters instead of all weights.",
        source=OURS,
    )
    stop_at_loss_growth: float | None = declare_field(
        default=10.0,
        gt=1,
        text="Training stops when the last ten losses of the log are so many times the first one "
        "on average. None: never. A loss that is no number always stops it.",
        source=OURS,
    )
    stop_at_grad_norm: float | None = declare_field(
        default=None,
        gt=0,
        text="Training stops at a gradient whose norm, before it is clipped, is above this.",
        source=OURS,
    )
    max_refused_share: float = declare_field(
        default=0.1,
        ge=0,
        le=1,
        text="Share of refused rows above which training stops.",
        source=OURS,
    )
    validation_share: float = declare_field(
        default=0.0,
        ge=0,
        lt=1,
        text="Share of prompts held out, by a hash of prompt_id.",
        source=OURS,
    )
    keep: CheckpointRule = declare_field(
        default="last",
        text="Which epoch's weights are kept.",
        source=OURS,
    )
    save_every_epochs: int = declare_field(
        default=1,
        ge=1,
        text="Epochs between two states to resume from and choose among.",
        source=OURS,
        unit="epochs",
    )
    log_every_steps: int = declare_field(
        default=1,
        ge=1,
        text="Steps between two rows of the log.",
        source=OURS,
        unit="steps",
    )

    @property
    def keeps_adapter(self) -> bool:
        """Whether a checkpoint holds an adapter, too."""
        return self.lora is not None and self.lora.keep_adapter

    @model_validator(mode="after")
    def _check_batch_sizes(self) -> "TrainingSettings":
        if self.batch_size % self.device_batch_size:
            raise ValueError("batch_size must be a multiple of device_batch_size")
        if self.batch_size % (self.device_batch_size * self.processes):
            raise ValueError("batch_size must be a multiple of device_batch_size x processes")
        return self

    @model_validator(mode="after")
    def _check_validation_share(self) -> "TrainingSettings":
        if self.keep != "last" and self.validation_share == 0:
            raise ValueError(f"keep: {self.keep} needs a validation_share above 0")
        return self


class DpoSettings(TrainingSettings):
    """Direct Preference Optimization; the defaults are the paper's where it names them."""

    beta: float = declare_field(
        default=0.1,
        gt=0,
        text="How strongly the policy is tied to its reference.",
        source=PAPER,
    )
    sft_weight: float = declare_field(
        default=0.0,
        ge=0,
        le=10,
        text="Weight of the chosen replies' negative log-likelihood, a mean over all their tokens "
        "in a step, beside the DPO loss: it keeps their form. 0 is the paper's.",
        source="Pang et al. 2024, arXiv 2404.19733",
    )


class SftSettings(TrainingSettings):
    """Supervised fine-tuning on completions alone."""

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
        text="Passes over the rows, at most.",
        source=OURS,
        unit="epochs",
    )
    row_order: Literal["shuffled", "as_given"] = declare_field(
        default="shuffled",
        text="As given: for data that is written in a good order.",
        source=OURS,
    )
    max_steps: int | None = declare_field(
        default=None,
        ge=1,
        text="Optimizer steps after which it ends, whatever the epoch.",
        source=OURS,
        unit="steps",
    )

    @model_validator(mode="after")
    def _check_checkpoint_rule(self) -> "SftSettings":
        if self.keep == "highest_validation_accuracy":
            raise ValueError("keep: highest_validation_accuracy is for DPO only")
        return self
