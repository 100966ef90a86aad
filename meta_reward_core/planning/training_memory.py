"""Calculate the memory that training needs on each device, from the recipe and the model's shape.

docs/planning.md explains the formula. The values are upper bounds of what the trainer allocates,
for Llama-style decoders; nothing here is measured.
"""

from dataclasses import dataclass
from typing import Final

from meta_reward_core.recipes.training_settings import DpoSettings, TrainingSettings

FLOAT32: Final = 4
BFLOAT16: Final = 2
NF4: Final = 0.516
"""Bytes of a 4-bit weight with its double-quantized scales (QLoRA: 0.5 + 0.127 / 8)."""
ADAM: Final = 8
ADAM_8BIT: Final = 2
LOGIT_TILE: Final = 512 * 2**20
RESERVED: Final = 1.5e9
"""Device memory used before the first tensor: CUDA context, libraries, fragmentation."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Inputs of the memory calculation.

    Attributes:
        parameters: all weights.
        hidden_size: width of the hidden states.
        intermediate_size: width of the MLP.
        layers: number of decoder layers.
        vocabulary: number of tokens.
        kv_bytes: bytes of keys and values in bfloat16, for one token of context.
        is_tied: whether input and output embeddings share one weight.
    """

    parameters: float
    hidden_size: int
    intermediate_size: int
    layers: int
    vocabulary: int
    kv_bytes: float
    is_tied: bool = False


SHAPES: Final = {
    "gemma3-1b": ModelShape(1.0e9, 1152, 6912, 26, 262_144, 26_624, is_tied=True),
    "llama3.2-1b": ModelShape(1.24e9, 2048, 8192, 16, 128_256, 32_768, is_tied=True),
    "smollm2-1.7b": ModelShape(1.71e9, 2048, 8192, 24, 49_152, 196_608, is_tied=True),
    "llama3.2-3b": ModelShape(3.21e9, 3072, 8192, 28, 128_256, 114_688, is_tied=True),
    "qwen3-4b": ModelShape(4.02e9, 2560, 9728, 36, 151_936, 147_456, is_tied=True),
    "llama3-8b": ModelShape(8.03e9, 4096, 14336, 32, 128_256, 131_072),
    "qwen3-8b": ModelShape(8.19e9, 4096, 12288, 36, 151_936, 147_456),
}
"""Shapes from published configurations."""


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Memory on each device, in bytes."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    gathered: float
    reserved: float = RESERVED

    @property
    def total(self) -> float:
        """The sum of all parts."""
        parts = self.weights + self.gradients + self.optimizer + self.activations
        return parts + self.logits + self.gathered + self.reserved


def estimate_training_memory(settings: TrainingSettings, shape: ModelShape) -> TrainingMemory:
    """Estimate the peak memory of each device in an optimizer step.

    Reference log-probabilities are precomputed, so no second model is in memory. With `fsdp` and
    all weights trained, the reference is loaded in pieces and freed before the first step.
    """
    trained = _count_trained(settings, shape)
    frozen = 0.0 if settings.lora is None else shape.parameters
    state = ADAM if settings.optimizer == "adamw" else ADAM_8BIT
    pieces = settings.processes
    of_weights = pieces if settings.sharding in ("fsdp", "zero3") else 1
    of_state = pieces if settings.sharding != "none" else 1
    sequences = settings.device_batch_size * (2 if isinstance(settings, DpoSettings) else 1)
    tokens = sequences * settings.max_length
    computed = BFLOAT16 if settings.dtype == "bfloat16" else FLOAT32
    return TrainingMemory(
        weights=(trained * FLOAT32 + frozen * _get_base_bytes(settings)) / of_weights,
        gradients=trained * FLOAT32 / of_state,
        optimizer=trained * state / of_state,
        activations=_estimate_activations(settings, shape, tokens, computed),
        logits=_estimate_logits(settings, shape, tokens, computed),
        gathered=_estimate_gathered(settings, shape, computed),
    )


def describe_fit(memory: TrainingMemory, settings: TrainingSettings, room: float) -> str:
    """Describe whether training fits on a device, and which setting would change that."""
    needed = (
        f"Training with {settings.processes} process(es) needs {memory.total / 1e9:.1f} GB on each "
        f"device, which has {room / 1e9:.0f} GB"
    )
    if memory.total <= room:
        return f"{needed}: it fits."
    state = memory.weights + memory.gradients + memory.optimizer
    if state + memory.gathered > memory.activations + memory.logits:
        largest, taken, remedy = (
            "Weights, gradients and optimizer state",
            state,
            _suggest_for_state(settings),
        )
    else:
        taken = memory.activations + memory.logits
        largest, remedy = "Activations and logits", _suggest_for_rows(settings)
    return f"{needed}: the training does not fit.  {largest} take {taken / 1e9:.1f} GB. {remedy}"


def _suggest_for_state(settings: TrainingSettings) -> str:
    if settings.lora is None:
        return (
            "Set training.sharding to fsdp and training.processes to more devices, or use "
            "training.lora."
        )
    if settings.lora.base == "nf4":
        return "Use a smaller model."
    smaller = "bfloat16" if settings.lora.base == "float32" else "nf4"
    return f"Set training.lora.base to {smaller}."


def _suggest_for_rows(settings: TrainingSettings) -> str:
    if not settings.gradient_checkpointing:
        return "Set training.gradient_checkpointing to true."
    if settings.device_batch_size > 1:
        return "Lower training.device_batch_size."
    return "Lower training.max_length or training.logit_tile."


def _count_trained(settings: TrainingSettings, shape: ModelShape) -> float:
    """Count the trained weights. Adapters of all linear layers: r x (inputs + outputs) per layer.

    Query and output projections are square; keys and values are narrower and counted as square.
    """
    if settings.lora is None:
        return shape.parameters
    attention = 4 * 2 * shape.hidden_size
    mlp = 3 * (shape.hidden_size + shape.intermediate_size)
    return float(settings.lora.r * shape.layers * (attention + mlp))


def _get_base_bytes(settings: TrainingSettings) -> float:
    """Return the bytes of a frozen weight."""
    base = "float32" if settings.lora is None else settings.lora.base
    return {"float32": FLOAT32, "bfloat16": BFLOAT16, "nf4": NF4}[base]


def _estimate_activations(
    settings: TrainingSettings, shape: ModelShape, tokens: int, computed: int
) -> float:
    """Estimate a hidden state per layer and all of one layer (without checkpointing, of all)."""
    inner = 10 * shape.hidden_size + 3 * shape.intermediate_size
    if not settings.gradient_checkpointing:
        return float(tokens * shape.layers * inner * computed)
    return float(tokens * (shape.layers * shape.hidden_size + inner) * computed)


def _estimate_logits(
    settings: TrainingSettings, shape: ModelShape, tokens: int, computed: int
) -> float:
    """Estimate a tile, hidden states with their gradient, and the gradient of a trained head."""
    tile = LOGIT_TILE if settings.logit_tile is None else settings.logit_tile * 2**20
    hidden = tokens * shape.hidden_size * (computed + FLOAT32)
    head = shape.vocabulary * shape.hidden_size * FLOAT32 if settings.lora is None else 0
    return float(tile * computed / FLOAT32 + hidden + head)


def _estimate_gathered(settings: TrainingSettings, shape: ModelShape, computed: int) -> float:
    """Estimate temporarily unsharded weights: two layers and both embeddings.

    Without sharding, autocast keeps a copy of each trained weight in the precision of the
    computation until the backward pass is done.
    """
    embeddings = shape.vocabulary * shape.hidden_size * (1 if shape.is_tied else 2)
    if settings.sharding in ("fsdp", "zero3"):
        layer = (shape.parameters - embeddings) / shape.layers
        return (2 * layer + embeddings) * (computed + FLOAT32)
    if settings.lora is None and computed < FLOAT32:
        return (shape.parameters - embeddings / 2) * computed
    return 0.0
