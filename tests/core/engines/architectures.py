"""Tiny models with random weights, one of each kind of attention."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tests.core.tiny_model import llama_config, make_tokenizer

Make = Callable[[PreTrainedTokenizerBase], PreTrainedModel]


def _shape(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "eos_token_id": 2,
        "bos_token_id": None,
    }


def _windows(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """A layer that sees eight tokens, and one that sees all."""
    layers = ["sliding_attention", "full_attention"]
    return _shape(tokenizer) | {"head_dim": 8, "sliding_window": 8, "layer_types": layers}


def _llama(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return LlamaForCausalLM(llama_config(tokenizer))


def _qwen2(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**_shape(tokenizer)))


def _gpt2(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Positions are learned, and added to the words."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=128,
            n_embd=32,
            n_layer=2,
            n_head=4,
            eos_token_id=2,
            bos_token_id=None,
        )
    )


def _gemma3(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return Gemma3ForCausalLM(Gemma3TextConfig(**_windows(tokenizer)))


def _gemma2(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Scores are bounded by a hyperbolic tangent; low enough to matter."""
    capped = {"attn_logit_softcapping": 2.0, "attn_implementation": "eager"}
    return Gemma2ForCausalLM(Gemma2Config(**_windows(tokenizer) | capped))


def _gpt_oss(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Each head's softmax has a term without a value."""
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "rope_scaling": None}
    plain = {"attn_implementation": "eager"}
    return GptOssForCausalLM(GptOssConfig(**_windows(tokenizer) | experts | plain))


def _bloom(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Not of the attention interface: positions are a bias of the scores."""
    return BloomForCausalLM(
        BloomConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            n_layer=2,
            n_head=4,
            eos_token_id=2,
            pad_token_id=0,
            bos_token_id=None,
        )
    )


MODELS: dict[str, Make] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "gpt2": _gpt2,
    "gemma3": _gemma3,
}
RARER_MODELS: dict[str, Make] = {"gemma2": _gemma2, "gpt_oss": _gpt_oss}
UNSHARED_MODELS: dict[str, Make] = {"bloom": _bloom}


def make_random(make: Make, tokenizer: PreTrainedTokenizerBase | None = None) -> PreTrainedModel:
    """Random models repeat one token: larger weights make their greedy replies differ."""
    torch.manual_seed(7)
    model: PreTrainedModel = make(make_tokenizer() if tokenizer is None else tokenizer).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8.0)
    return model
