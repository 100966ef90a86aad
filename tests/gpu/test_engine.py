"""The embedded engine on a CUDA device: shared prefixes in its arithmetic and its precisions."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from meta_reward_core.engines.base import Conversation, SamplingParams  # noqa: E402
from meta_reward_core.engines.prefix_sharing_probe import enable_prefix_sharing  # noqa: E402
from meta_reward_core.engines.transformers import TransformersEngine  # noqa: E402
from tests.core.engines.architectures import MODELS, RARER_MODELS, Make, make_random  # noqa: E402
from tests.core.engines.both_ways import distances, family  # noqa: E402
from tests.core.tiny_model import make_tokenizer  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
SERVED = MODELS | RARER_MODELS
CONVERSATIONS: list[Conversation] = [
    [{"role": "user", "content": " ".join([*["this", "is", "the"] * 14, end])}]
    for end in ("one", "two", "three plus four")
]


def on_gpu(make: Make, dtype: Any) -> Any:
    model: Any = make_random(make)
    return model.to("cuda", dtype)


@pytest.mark.parametrize("name", sorted(SERVED))
def test_logits_are_those_of_plain_decoding_in_single_precision(name: str) -> None:
    assert max(distances(on_gpu(SERVED[name], torch.float32), family())) < 2e-5


@pytest.mark.parametrize("name", sorted(MODELS))
def test_in_half_precision_they_differ_by_its_rounding(name: str) -> None:
    """A bfloat16 has 8 bits: single roundings of .4%, added up over two layers."""
    assert max(distances(on_gpu(MODELS[name], torch.bfloat16), family())) < 0.03


@pytest.mark.parametrize("name", sorted(SERVED))
def test_models_in_half_precision_share_prefixes(name: str) -> None:
    assert enable_prefix_sharing(on_gpu(SERVED[name], torch.bfloat16))


def test_the_same_seed_gives_the_same_completions_and_greedy_ones_those_of_a_cpu() -> None:
    engines = [
        TransformersEngine(model, make_tokenizer(), max_batch_tokens=400, max_model_len=None)
        for model in (make_random(MODELS["llama"]), on_gpu(MODELS["llama"], torch.float32))
    ]
    warm, greedy = SamplingParams(0.9, 0.95, 12), SamplingParams(0.0, 1.0, 12)
    sampled = [engines[1].sample(CONVERSATIONS, 5, sampling=warm, seed=3) for _ in range(2)]
    assert sampled[0] == sampled[1]
    by_cpu, by_gpu = (one.sample(CONVERSATIONS, 2, sampling=greedy, seed=0) for one in engines)
    assert by_cpu == by_gpu
