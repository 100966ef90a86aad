"""A LoRA adapter that is not merged: vLLM draws from the weights before and the adapter."""

from pathlib import Path

import pytest

from meta_reward_core.engines.base import Conversation, SamplingParams
from meta_reward_core.errors import ModelFolderError
from meta_reward_core.recipes.training_settings import DpoSettings, LoraSettings
from meta_reward_core.tasks.toy import task
from meta_reward_core.training.dpo import train_dpo
from meta_reward_core.training.row_types import PreferenceRow
from tests.vllm.installation import SEED_MODEL, load_seed_model

GREEDY = SamplingParams(temperature=0.0, top_p=1.0, max_new_tokens=48)
CONVERSATIONS: list[Conversation] = [
    [{"role": "user", "content": text}] for text in task.sample_pool_prompts(24, seed=0)
]


def preference_rows() -> list[PreferenceRow]:
    """The prompts with a reply that is only their first word: far from what the model says."""
    return [
        {
            "prompt": [{"role": "user", "content": text}],
            "chosen": [{"role": "assistant", "content": text.split()[0]}],
            "rejected": [{"role": "assistant", "content": text}],
            "kind": "actor",
            "prompt_id": f"p{number}",
        }
        for number, text in enumerate(task.sample_pool_prompts(32, seed=1))
    ]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with its adapter, trained until its greedy replies are others."""
    root = tmp_path_factory.mktemp("adapted")
    train_dpo(
        preference_rows(),
        start=SEED_MODEL,
        settings=DpoSettings(
            batch_size=8,
            device_batch_size=8,
            epochs=3,
            learning_rate=1e-2,
            max_length=256,
            dtype="float32",
            gradient_checkpointing=False,
            lora=LoraSettings(r=4, alpha=8, keep_adapter=True),
        ),
        checkpoint=root / "m1",
        scratch=root / "scratch",
        seed=1,
        threads=1,
    )
    return root / "m1"


def greedy(folder: Path, base: Path | None) -> list[str]:
    engine = load_seed_model(model_folder=folder, base=base)
    try:
        sampled = engine.sample(CONVERSATIONS, 1, sampling=GREEDY, seed=0)
    finally:
        engine.close()
    return [completions[0].text for completions in sampled]


def test_base_and_adapter_say_what_the_merged_weights_say(adapted: Path) -> None:
    """Rounding may turn a token here and there: the sums are added in another order."""
    before = greedy(SEED_MODEL, None)
    merged = greedy(adapted, None)
    unmerged = greedy(adapted, SEED_MODEL)
    assert sum(map(str.__ne__, merged, before)) >= 12, "the training changed the replies"
    assert sum(map(str.__eq__, merged, unmerged)) >= 22


def test_a_checkpoint_without_its_adapter_is_refused(adapted: Path) -> None:
    with pytest.raises(ModelFolderError, match="cannot be read as an adapter"):
        load_seed_model(base=adapted)
