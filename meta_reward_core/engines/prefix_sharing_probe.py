"""Whether a model can share prefixes, tested by computation instead of a list."""

import logging
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from meta_reward_core.engines.decoding import DecodingBatch
from meta_reward_core.engines.padded_batch import PaddedBatch
from meta_reward_core.engines.prefix_batching import MIN_SHARED_TOKENS, PromptBatch, make_batch
from meta_reward_core.engines.shared_prefix_attention import (
    ATTENTION_NAME,
    PrefixSharingUnsupportedError,
    enable_shared_attention,
)
from meta_reward_core.engines.shared_prefix_batch import SharedPrefixBatch

logger = logging.getLogger(__name__)

# Maximum difference between two orders of the same additions, as a share of the logits' norm.
TOLERANCE: Final = {torch.float64: 1e-9, torch.float32: 1e-3}
HALF_TOLERANCE: Final = 0.05
# Errors that models raise for unexpected arguments.
SHARING_ERRORS: Final = (TypeError, ValueError, LookupError, AttributeError, RuntimeError)
SUPPORTED_LAYER_TYPES: Final = {"full_attention", "sliding_attention"}


def enable_prefix_sharing(model: PreTrainedModel) -> bool:
    """Enable prefix sharing for `model` if it works, else leave it unchanged and log why.

    Some small prompts are processed in both ways, because a model with unsupported attention would
    otherwise be silently wrong.
    """
    before = model.config._attn_implementation
    try:
        _check_sharing(model)
    except (PrefixSharingUnsupportedError, *SHARING_ERRORS) as reason:
        logger.warning("Prefixes are not shared, which costs time: %s", reason)
        model.set_attn_implementation(before)
        return False
    return True


def _check_sharing(model: PreTrainedModel) -> None:
    config = model.config.get_text_config(decoder=True)
    unknown = set(getattr(config, "layer_types", None) or ()) - SUPPORTED_LAYER_TYPES
    if unknown:
        raise PrefixSharingUnsupportedError(f"layers of the model are {', '.join(sorted(unknown))}")
    batch = _make_probe_batch(config.vocab_size)
    longest = max(len(prompt) for prompt in batch.prompts) + 1
    if longest > (getattr(config, "max_position_embeddings", None) or longest):
        raise PrefixSharingUnsupportedError(f"the model accepts fewer than {longest} tokens")
    expected = _compute_logits(model, batch, PaddedBatch)
    enable_shared_attention(model)
    if model.config._attn_implementation != ATTENTION_NAME:
        raise PrefixSharingUnsupportedError(
            f"{type(model).__name__} does not use the attention interface"
        )
    found = _compute_logits(model, batch, SharedPrefixBatch)
    distance = float((found - expected).norm() / expected.norm())
    if not distance <= TOLERANCE.get(model.dtype, HALF_TOLERANCE):
        raise PrefixSharingUnsupportedError(
            f"logits differ by {distance:.1%} from those without sharing"
        )


def _make_probe_batch(vocabulary: int) -> PromptBatch:
    """Build a batch with two levels of shared tokens, uneven suffixes, and a shared suffix."""

    def words(seed: int, count: int) -> tuple[int, ...]:
        return tuple((seed * 7919 + number * 104729) % vocabulary for number in range(count))

    trunk, branch = words(1, MIN_SHARED_TOKENS), words(2, MIN_SHARED_TOKENS)
    prompts = [
        (*trunk, *branch, *words(3, 2)),
        (*trunk, *branch, *words(4, 3)),
        (*trunk, *words(5, 2)),
    ]
    return make_batch(prompts, [1, 2, 1])


@torch.inference_mode()
def _compute_logits(
    model: PreTrainedModel,
    batch: PromptBatch,
    make_rows: Callable[[PreTrainedModel, PromptBatch], DecodingBatch],
) -> Tensor:
    """Compute logits of the first and second new token, in float32 or better."""
    rows = make_rows(model, batch)
    first = rows.logits
    rows.advance(torch.arange(batch.rows, device=model.device))
    logits = torch.cat([first, rows.logits])
    return logits if logits.dtype == torch.float64 else logits.float()
