"""Reading prefixes once gives what reading them for every row gives, whatever the model."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from meta_reward_core.engines.base import Conversation, SamplingParams
from meta_reward_core.engines.prefix_batching import (
    MIN_SHARED_TOKENS,
    PromptBatch,
    find_prefix_levels,
    make_batch,
)
from meta_reward_core.engines.prefix_sharing_probe import enable_prefix_sharing
from meta_reward_core.engines.shared_prefix_attention import enable_shared_attention
from meta_reward_core.engines.shared_prefix_batch import SharedPrefixBatch
from meta_reward_core.engines.transformers import TransformersEngine
from tests.core.engines.architectures import MODELS, RARER_MODELS, UNSHARED_MODELS, make_random
from tests.core.engines.both_ways import distances, family, words
from tests.core.tiny_model import make_tokenizer

SERVED = MODELS | RARER_MODELS
# float32: the same numbers are added in another order. Observed: under 1e-6.
TOLERANCE = 2e-5


@pytest.mark.parametrize("name", sorted(SERVED))
def test_logits_are_those_of_plain_decoding(name: str) -> None:
    batch = family()
    assert [len(level) for level in find_prefix_levels(batch)] == [1, 1, 4]
    assert max(distances(make_random(SERVED[name]), batch)) < TOLERANCE


def test_prompts_are_read_in_pieces_with_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few tokens are read at once, and however few scores are held."""
    monkeypatch.setattr("meta_reward_core.engines.shared_prefix_batch.PREFILL_TOKENS", 10)
    monkeypatch.setattr("meta_reward_core.engines.shared_prefix_attention.CAUSAL_CHUNK", 3)
    monkeypatch.setattr(
        "meta_reward_core.engines.shared_prefix_attention.MAX_SCORES_AT_ONCE", {"cpu": 50}
    )
    for name in ("llama", "gemma3"):
        assert max(distances(make_random(MODELS[name]), family())) < TOLERANCE


def tokens_read(batch: PromptBatch) -> list[int]:
    """How many tokens, padding included, go through each layer until the rows can draw."""
    model: Any = make_random(MODELS["llama"])
    enable_shared_attention(model)
    counts = [0] * len(model.model.layers)
    for number, layer in enumerate(model.model.layers):

        def count(module: object, given: tuple[Tensor, ...], number: int = number) -> None:
            counts[number] += given[0].shape[0] * given[0].shape[1]

        layer.mlp.register_forward_pre_hook(count)
    with torch.inference_mode():
        SharedPrefixBatch(model, batch)
    return counts


def test_reading_ends_with_the_last_keys_and_values() -> None:
    """What the last layer makes of a prompt is wanted of its last token alone."""
    counts = tokens_read(family())
    assert counts[-1] == family().rows
    assert min(counts[:-1]) > 10 * family().rows


def test_ends_of_like_length_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of 40 tokens make a call, those of 2 another one: nothing is padding."""
    monkeypatch.setattr("meta_reward_core.engines.shared_prefix_batch.PREFILL_TOKENS", 6 * 40)
    trunk = words(1, MIN_SHARED_TOKENS)
    prompts = [
        (*trunk, 6 + number, *words(number, 40 if number % 2 else 2)) for number in range(12)
    ]
    batch = make_batch(prompts, [1] * len(prompts))
    assert tokens_read(batch)[0] == len(trunk) + 6 * 40 + 6 * 2 + len(prompts)


def test_a_row_gets_the_same_logits_alone_and_among_others() -> None:
    model = make_random(MODELS["gemma3"])
    enable_shared_attention(model)
    batch = family()
    with torch.inference_mode():
        together = SharedPrefixBatch(model, batch).logits
        firsts = [sum(batch.copies[:index]) for index in range(len(batch.prompts))]
        for first, prompt in zip(firsts, batch.prompts, strict=True):
            alone = SharedPrefixBatch(model, make_batch([prompt], [1])).logits[0]
            assert torch.allclose(together[first], alone, atol=1e-4 * float(alone.abs().max()))


@pytest.mark.parametrize("name", sorted(SERVED))
def test_models_of_the_attention_interface_share_prefixes(name: str) -> None:
    assert enable_prefix_sharing(make_random(SERVED[name]))


@pytest.mark.parametrize("name", sorted(UNSHARED_MODELS))
def test_a_model_that_cannot_share_says_so_and_draws_all_the_same(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_random(UNSHARED_MODELS[name])
    before = model.config._attn_implementation
    with caplog.at_level(logging.WARNING):
        engine = TransformersEngine(
            model, make_tokenizer(), max_batch_tokens=4096, max_model_len=None
        )
    assert "Prefixes are not shared" in caplog.text
    assert model.config._attn_implementation == before
    conversation: Conversation = [{"role": "user", "content": "one two"}]
    [sampled] = engine.sample([conversation], 3, sampling=SamplingParams(0.0, 1.0, 5), seed=0)
    assert len({completion.text for completion in sampled}) == 1
    assert sampled[0].tokens


def test_a_model_whose_attention_computes_something_else_is_not_shared(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The scores of an unknown model, here: twice what we think they are."""
    model = make_random(MODELS["llama"])
    monkeypatch.setattr("meta_reward_core.engines.shared_prefix_attention.LOG2_E", 2.9)
    assert not enable_prefix_sharing(model)
    assert "logits differ by" in caplog.text


def test_layers_with_a_state_are_not_shared(caplog: pytest.LogCaptureFixture) -> None:
    model = make_random(MODELS["gemma3"])
    model.config.layer_types = ["linear_attention", "full_attention"]
    assert not enable_prefix_sharing(model)
    assert "linear_attention" in caplog.text


def test_saved_models_name_no_attention_of_ours(tmp_path: Path) -> None:
    model = make_random(MODELS["llama"])
    assert enable_prefix_sharing(model)
    model.save_pretrained(tmp_path)
    assert "shared_prefixes" not in (tmp_path / "config.json").read_text()
