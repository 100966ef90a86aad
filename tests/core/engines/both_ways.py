"""A family of prompts, and how far apart sharing its prefixes and not sharing them are."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from meta_reward_core.engines.decoding import DecodingBatch
from meta_reward_core.engines.padded_batch import PaddedBatch
from meta_reward_core.engines.prefix_batching import (
    MIN_SHARED_TOKENS,
    PromptBatch,
    make_batch,
    sort_by_prefix_family,
)
from meta_reward_core.engines.shared_prefix_attention import enable_shared_attention
from meta_reward_core.engines.shared_prefix_batch import SharedPrefixBatch


def words(seed: int, count: int) -> tuple[int, ...]:
    return tuple(6 + (seed * 7 + number * number * 5) % 26 for number in range(count))


def family() -> PromptBatch:
    """Three levels (trunk, branch, ends) with gaps: a stranger, and a prompt that ends inside.

    Longest 32 + 33 + 5 tokens: many times the window of the models that have one.
    """
    trunk, branch, other = words(1, MIN_SHARED_TOKENS), words(2, 33), words(9, 41)
    ends = {
        (*trunk, *branch, *words(3, 5)): 2,
        (*trunk, *branch, *words(4, 3)): 1,
        (*trunk, *branch, 7): 1,
        (*trunk, *words(5, 9)): 3,
        other: 2,
        (8,): 1,
    }
    prompts = sort_by_prefix_family(list(ends))
    return make_batch(prompts, [ends[prompt] for prompt in prompts])


@torch.inference_mode()
def distances(model: PreTrainedModel, batch: PromptBatch) -> list[float]:
    """How far the logits of both ways are from each other, as a share of their norm.

    After the prompts, and after each of 12 tokens; half-way three rows are dropped.
    """
    plain = _logits(PaddedBatch(model, batch), batch.rows)
    enable_shared_attention(model)
    shared = _logits(SharedPrefixBatch(model, batch), batch.rows)
    return [
        float((one - other).norm() / other.norm()) for one, other in zip(shared, plain, strict=True)
    ]


def _logits(rows: DecodingBatch, count: int) -> list[Tensor]:
    device = rows.logits.device
    tokens = torch.arange(count, device=device) + 6
    kept = torch.tensor([row for row in range(count) if row not in {0, 3, 4}], device=device)
    read = [rows.logits.float()]
    for step in range(12):
        if step == 6:
            rows.keep_rows(kept)
            tokens = tokens[kept]
        rows.advance(tokens + step)
        read.append(rows.logits.float())
    return read
