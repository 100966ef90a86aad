"""What may be set of a training. Light: recipes read this without loading torch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

CheckpointRule = Literal["last", "lowest_validation_loss", "highest_validation_accuracy"]
Scheduler = Literal["cosine", "linear", "constant", "constant_with_warmup"]


class LoraSettings(BaseModel):
    """Train low-rank adapters, merged into the weights before they are published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: int = Field(default=16, ge=1, le=1024, description="Rank of the adapters.")
    alpha: int = Field(default=32, ge=1, description="Scale of the adapters, divided by r.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout inside the adapters.")
    target_modules: tuple[str, ...] | Literal["all-linear"] = Field(
        default="all-linear",
        description="Names of the layers that get an adapter. The language-model head may not.",
    )


class TrainingSettings(BaseModel):
    """What DPO and supervised fine-tuning have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float = Field(default=5e-6, gt=0, le=1, description="Peak learning rate.")
    batch_size: int = Field(
        default=32, ge=1, description="Rows per optimizer step, over all devices."
    )
    device_batch_size: int = Field(
        default=4,
        ge=1,
        description="Rows one device holds at once; gradients accumulate up to batch_size.",
    )
    epochs: int = Field(default=10, ge=1, le=1000, description="Passes over the rows, at most.")
    scheduler: Scheduler = Field(default="cosine", description="How the learning rate falls.")
    warmup_share: float = Field(
        default=0.1, ge=0, lt=1, description="Share of the steps in which it rises to its peak."
    )
    max_length: int = Field(
        default=2048,
        ge=8,
        description="Longest row in tokens, prompt and reply. Longer rows are refused, not cut.",
    )
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="Decoupled weight decay.")
    adam_beta2: float = Field(
        default=0.999, gt=0, lt=1, description="Memory of AdamW's second moment."
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to it.")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="bfloat16",
        description="Precision of the computation. Weights in training are always float32; what "
        "is published has the precision of the model training began from.",
    )
    gradient_checkpointing: bool = Field(
        default=True, description="Recompute activations: less memory, a fifth slower."
    )
    lora: LoraSettings | None = Field(
        default=None, description="Train adapters instead of all weights."
    )
    max_refused_share: float = Field(
        default=0.1, ge=0, le=1, description="Share of refused rows above which training stops."
    )
    validation_share: float = Field(
        default=0.0, ge=0, lt=1, description="Share of prompts held out, by a hash of prompt_id."
    )
    keep: CheckpointRule = Field(default="last", description="Which epoch's weights are kept.")
    save_every_epochs: int = Field(
        default=1, ge=1, description="Epochs between two states to resume from and choose among."
    )
    log_every_steps: int = Field(default=1, ge=1, description="Steps between two rows of the log.")

    @model_validator(mode="after")
    def _batches_divide(self) -> "TrainingSettings":
        if self.batch_size % self.device_batch_size:
            raise ValueError("batch_size must be a multiple of device_batch_size")
        return self

    @model_validator(mode="after")
    def _a_rule_that_looks_at_validation_has_some(self) -> "TrainingSettings":
        if self.keep != "last" and self.validation_share == 0:
            raise ValueError(f"keep: {self.keep} needs a validation_share above 0")
        return self


class DpoSettings(TrainingSettings):
    """Direct Preference Optimization; the defaults are the paper's where it names them."""

    beta: float = Field(
        default=0.1, gt=0, description="How strongly the policy is tied to its reference."
    )
    sft_weight: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Weight of the chosen replies' mean negative log-likelihood beside the DPO "
        "loss: it keeps their form. 0 is the paper's; source: Pang et al. 2024, arXiv 2404.19733.",
    )


class SftSettings(TrainingSettings):
    """Supervised fine-tuning on completions alone."""

    learning_rate: float = Field(default=1e-5, gt=0, le=1, description="Peak learning rate.")
    epochs: int = Field(default=3, ge=1, le=1000, description="Passes over the rows, at most.")
    row_order: Literal["shuffled", "as_given"] = Field(
        default="shuffled", description="As given: for data that is written in a good order."
    )
    max_steps: int | None = Field(
        default=None, ge=1, description="Optimizer steps after which it ends, whatever the epoch."
    )

    @model_validator(mode="after")
    def _accuracy_is_dpos(self) -> "SftSettings":
        if self.keep == "highest_validation_accuracy":
            raise ValueError("keep: highest_validation_accuracy is for DPO only")
        return self
