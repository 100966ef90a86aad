"""Supervised fine-tuning with TRL: a real model on EFT data, or a small model from scratch."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from meta_reward_core.recipes.training_settings import SftSettings
from meta_reward_core.system.third_party_logging import silence_libraries
from meta_reward_core.training.launcher import TrainingRunOptions, train
from meta_reward_core.training.result import TrainingOutcome
from meta_reward_core.training.row_types import RowIterable, SftRow
from meta_reward_core.training.trainer_factories import SFT


@dataclass(frozen=True, slots=True)
class InitialModel:
    """A model that does not exist yet; the training's seed initializes its weights.

    Attributes:
        config: the architecture, with the vocabulary size of the tokenizer.
        tokenizer: a tokenizer with a chat template, an end token and a padding token.
    """

    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase


def train_sft(
    rows: RowIterable[SftRow],
    *,
    start: Path | InitialModel,
    settings: SftSettings,
    **place: Unpack[TrainingRunOptions],
) -> TrainingOutcome:
    """Train on completions and publish the result as a checkpoint; the loss excludes prompts.

    See `train_dpo` for the arguments; `start` may also describe a new model.

    Raises:
        TrainingError: see `train`.
    """
    if isinstance(start, Path):
        return train(SFT, rows, start=start, settings=settings, **place)
    begun = make_initial_folder(start, place["scratch"], place["seed"])
    outcome = train(SFT, rows, start=begun, settings=settings, **place)
    shutil.rmtree(begun, ignore_errors=True)
    return outcome


def make_initial_folder(initial: InitialModel, scratch: Path, seed: int) -> Path:
    """Initialize a new model's weights and write the model next to the scratch folder."""
    folder = scratch.with_name(f"{scratch.name}.initial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(initial.config, dtype=torch.float32)
    model.generation_config = GenerationConfig(
        eos_token_id=initial.tokenizer.eos_token_id, pad_token_id=initial.tokenizer.pad_token_id
    )
    with silence_libraries():
        model.save_pretrained(folder)
        initial.tokenizer.save_pretrained(folder)
    return folder
