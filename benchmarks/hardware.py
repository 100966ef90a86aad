"""The measured limits of a machine, and how long a batch would take at that rate.

The lower bound includes the unavoidable work of our decoding method: every distinct prompt token
and every sampled token goes through all matrices and attends to all earlier tokens, and every
decoding step reads the weights and, once, all cached keys and values. It excludes launch, sampling
and padding.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import LlamaConfig

from meta_reward_core.engines.prefix_batching import PromptBatch, find_prefix_levels


@dataclass(frozen=True)
class Ceilings:
    """Operations and bytes per second, and bytes per number."""

    operations: float
    bytes: float
    width: int

    def __str__(self) -> str:
        return (
            f"{self.operations / 1e12:,.3g} TFLOP/s in a large product, "
            f"{self.bytes / 1e9:,.3g} GB/s read and written in a large copy"
        )


def measure_ceilings(device: str, dtype: str) -> Ceilings:
    """Measure the fastest of ten large matrix products and of ten large copies."""
    kind: torch.dtype = getattr(torch, dtype)
    size, numbers = (1024, 2**26) if device == "cpu" else (8192, 2**30)
    one, other = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    source = torch.randn(numbers, device=device, dtype=kind)
    target = torch.empty_like(source)
    product = _seconds(lambda: one @ other, device)
    copy = _seconds(lambda: target.copy_(source), device)
    width = source.element_size()
    return Ceilings(2 * size**3 / product, 2 * numbers * width / copy, width)


def _seconds(work: Callable[[], object], device: str) -> float:
    times = []
    for _ in range(13):
        began = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[3:])


def floor_seconds(
    config: LlamaConfig, batch: PromptBatch, new_tokens: int, ceilings: Ceilings
) -> float:
    """Compute the seconds of one batch at these limits."""
    hidden, layers = config.hidden_size, config.num_hidden_layers
    heads, key_heads = (
        config.num_attention_heads,
        config.num_key_value_heads or config.num_attention_heads,
    )
    key_width = 2 * hidden * key_heads // heads
    in_layers = layers * hidden * (2 * hidden + key_width + 3 * config.intermediate_size)
    head = hidden * config.vocab_size

    segments = [segment for level in find_prefix_levels(batch) for segment in level]
    held = sum(len(segment.tokens) for segment in segments)
    seen = sum(len(item.tokens) * (item.start + len(item.tokens) / 2) for item in segments)
    reading = 2 * held * in_layers + 4 * hidden * layers * seen

    contexts = zip(batch.prompts, batch.copies, strict=True)
    context = sum(copies * (len(prompt) + new_tokens / 2) for prompt, copies in contexts)
    step = 2 * batch.rows * (in_layers + head) + 4 * hidden * layers * context
    kept = (held + batch.rows * new_tokens / 2) * key_width * layers
    step_bytes = (in_layers + head + kept) * ceilings.width
    slower = max(step / ceilings.operations, step_bytes / ceilings.bytes)
    return reading / ceilings.operations + new_tokens * slower
