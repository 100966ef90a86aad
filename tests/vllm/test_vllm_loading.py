"""Loading vLLM again, and where it cannot be loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from meta_reward_core.engines.base import Conversation, SamplingParams
from meta_reward_core.errors import EngineError
from tests.vllm.installation import load_seed_model

WARM = SamplingParams(temperature=0.8, top_p=0.95, max_new_tokens=48)
CONVERSATIONS: list[Conversation] = [[{"role": "user", "content": text}] for text in ("yes", "no")]


def test_a_closed_engine_refuses_and_another_can_be_loaded() -> None:
    set_threads = torch.set_num_threads
    first = load_seed_model(max_model_len=128)
    sampled = first.sample(CONVERSATIONS, 2, sampling=WARM, seed=1)
    first.close()
    first.close()
    with pytest.raises(EngineError, match="closed"):
        first.sample(CONVERSATIONS, 1, sampling=WARM, seed=1)
    assert torch.set_num_threads is set_threads, "a training sets its threads by it"
    second = load_seed_model(max_model_len=128)
    assert second.sample(CONVERSATIONS, 2, sampling=WARM, seed=1) == sampled
    second.close()


def test_a_cache_too_small_for_one_prompt_is_an_engine_error() -> None:
    with pytest.raises(EngineError, match="vLLM cannot load"):
        load_seed_model(max_batch_tokens=1, max_num_seqs=1)


def test_prompts_longer_than_a_step_are_read_in_parts() -> None:
    """With the replies of whole prompts, and with prefix caching."""
    greedy = SamplingParams(temperature=0.0, top_p=1.0, max_new_tokens=16)
    texts = [" ".join(["yes no maybe"] * 60 + [end]) for end in ("one", "two", "three")]
    long: list[Conversation] = [[{"role": "user", "content": text}] for text in texts]
    whole = load_seed_model()
    expected = whole.sample(long, 1, sampling=greedy, seed=1)
    whole.close()
    engine = load_seed_model(max_num_batched_tokens=128, max_num_seqs=64)
    config = engine._llm.llm_engine.vllm_config
    assert config.scheduler_config.max_num_batched_tokens == 128
    assert config.scheduler_config.enable_chunked_prefill
    assert config.cache_config.enable_prefix_caching
    assert min(map(len, engine._encoder.encode(long, greedy.chat_options))) > 128
    assert engine.sample(long, 1, sampling=greedy, seed=1) == expected
    engine.close()


def test_the_site_can_be_imported_where_vllm_is_installed(tmp_path: Path) -> None:
    """The build tool ninja, which vLLM requires, has a package of django-ninja's name."""
    environment = os.environ | {
        "META_REWARD_VAR": str(tmp_path),
        "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
        "SECRET_KEY": "only-for-this-test",
    }
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
