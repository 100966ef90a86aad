"""Models and rows small enough to train in seconds."""

from pathlib import Path

import pytest

from meta_reward_core.recipes.training_settings import DpoSettings, SftSettings
from meta_reward_core.training.row_types import PreferenceRow, SftRow
from tests.core.tiny_model import COUNTED, make_model_folder

TINY_DPO = DpoSettings(
    learning_rate=5e-3,
    batch_size=8,
    device_batch_size=4,
    epochs=3,
    max_length=48,
    dtype="float32",
    gradient_checkpointing=False,
)
TINY_SFT = SftSettings(
    learning_rate=5e-3,
    batch_size=8,
    device_batch_size=8,
    epochs=2,
    max_length=48,
    dtype="float32",
    gradient_checkpointing=False,
)


def preference_row(number: int, *, reply: str = "good") -> PreferenceRow:
    question = f"{COUNTED[number % 10]} plus {COUNTED[number // 10 % 10]}"
    return {
        "prompt": [{"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": f"{reply} {COUNTED[number % 3]}"}],
        "rejected": [{"role": "assistant", "content": "bad bad is red"}],
        "kind": "judge" if number % 2 else "actor",
        "prompt_id": f"prompt-{number}",
    }


def preference_rows(count: int) -> list[PreferenceRow]:
    return [preference_row(number) for number in range(count)]


def sft_rows(count: int) -> list[SftRow]:
    return [
        {
            "prompt": row["prompt"],
            "completion": row["chosen"],
            "kind": row["kind"],
            "prompt_id": row["prompt_id"],
        }
        for row in preference_rows(count)
    ]


@pytest.fixture(scope="session")
def first_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("models") / "m0")
