"""Supervised fine-tuning by TRL: of a real model on EFT data, or of a small one from nothing."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    Trainer,
)
from trl import SFTConfig, SFTTrainer

from meta_reward_core.quiet import quiet_libraries
from meta_reward_core.training.rows import EncodedRow, SftRow
from meta_reward_core.training.settings import SftSettings
from meta_reward_core.training.trainer import OnLog, TrainerInputs, TrainingOutcome, run_training

_NO_LOSS = -100
"""The label that torch's cross entropy ignores."""


@dataclass(frozen=True, slots=True)
class InitialModel:
    """A model that does not exist yet: its weights are drawn from the seed of the training.

    Attributes:
        config: the architecture; its vocabulary is as large as the tokenizer's.
        tokenizer: with a chat template, an end token and a padding token.
    """

    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase


def train_sft(
    rows: Sequence[SftRow],
    *,
    start: Path | InitialModel,
    settings: SftSettings,
    checkpoint: Path,
    scratch: Path,
    seed: int,
    world_size: int = 1,
    threads: int | None = None,
    on_log: OnLog | None = None,
) -> TrainingOutcome:
    """Train on completions and publish the result as `checkpoint`; prompts carry no loss.

    See `train_dpo` for the arguments; `start` may also be a model yet to be made.

    Raises:
        TrainingError: see `run_training`.
    """

    def make_trainer(inputs: TrainerInputs) -> Trainer:
        arguments = SFTConfig(
            **inputs.arguments,
            max_steps=settings.max_steps or -1,
            train_sampling_strategy="sequential" if settings.row_order == "as_given" else "random",
            dataset_kwargs={"skip_prepare_dataset": True},
            packing=False,
        )
        trainer: Trainer = SFTTrainer(
            model=inputs.model,
            args=arguments,
            train_dataset=inputs.train_dataset,
            eval_dataset=inputs.eval_dataset,
            processing_class=inputs.tokenizer,
            peft_config=inputs.peft_config,
        )
        return trainer

    begun = make_initial_folder(start, scratch, seed) if isinstance(start, InitialModel) else start
    outcome = run_training(
        rows,
        make_trainer,
        columns=_labelled,
        start=begun,
        settings=settings,
        checkpoint=checkpoint,
        scratch=scratch,
        seed=seed,
        world_size=world_size,
        threads=threads,
        on_log=on_log,
    )
    if begun is not start:
        shutil.rmtree(begun, ignore_errors=True)
    return outcome


def _labelled(encoded: EncodedRow) -> dict[str, Any]:
    """Token ids and labels; a prompt's labels are the ones that a loss passes over."""
    ids, prompt = encoded.whole_ids[0], len(encoded.prompt_ids)
    return {"input_ids": ids, "labels": [_NO_LOSS] * prompt + ids[prompt:]}


def make_initial_folder(initial: InitialModel, scratch: Path, seed: int) -> Path:
    """Draw the weights of a new model and write it beside the scratch folder."""
    folder = scratch.with_name(f"{scratch.name}.initial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(initial.config, dtype=torch.float32)
    model.generation_config = GenerationConfig(
        eos_token_id=initial.tokenizer.eos_token_id, pad_token_id=initial.tokenizer.pad_token_id
    )
    with quiet_libraries():
        model.save_pretrained(folder)
        initial.tokenizer.save_pretrained(folder)
    return folder
