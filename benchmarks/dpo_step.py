"""A step of our DPO compared with one of a plain TRL DPOTrainer, with the same rows and settings.

    python benchmarks/table.py dpo_step

Both start from the same folder, in turn, with precomputed reference log-probabilities; the result
of a run is the median time between two rows of its log, which has one row per step.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from table import Row, in_turn
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import logging
from trl import DPOConfig, DPOTrainer

from meta_reward_core.recipes.training_settings import DpoSettings
from meta_reward_core.tasks.toy import task
from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from meta_reward_core.training.dpo import train_dpo
from meta_reward_core.training.row_types import PreferenceRow

ROWS = 96
STEPS_LEFT_OUT = 2
"""Warm-up steps."""


def settings() -> DpoSettings:
    on_gpu = torch.cuda.is_available()
    return DpoSettings(
        batch_size=8,
        device_batch_size=8,
        epochs=1,
        max_length=512,
        dtype="bfloat16" if on_gpu else "float32",
        gradient_checkpointing=False,
    )


def preference_rows() -> list[PreferenceRow]:
    """Create judge prompts with a good and a bad judgment each."""
    items = task.sample_held_out_judge_items(ROWS, seed=1)
    return [
        {
            "prompt": [{"role": "user", "content": task.write_judge_prompt(asked, answer)}],
            "chosen": [{"role": "assistant", "content": f"{answer} {asked}\nScore: 4"}],
            "rejected": [{"role": "assistant", "content": f"{answer}\nScore: 1"}],
            "kind": "judge",
            "prompt_id": f"p{number}",
        }
        for number, (asked, answer, _) in enumerate(items)
    ]


def make_model(folder: Path) -> Path:
    """A Llama of 4 M parameters (190 M on a GPU) with the miniature's tokenizer."""
    tokenizer: Any = AutoTokenizer.from_pretrained(get_shipped_seed_model(), local_files_only=True)
    width, layers = (1024, 16) if torch.cuda.is_available() else (256, 4)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def median_gap(ticks: list[float]) -> float:
    gaps = [later - sooner for sooner, later in pairwise(ticks)]
    return statistics.median(gaps[STEPS_LEFT_OUT:])


def seconds_of_ours(model: Path, rows: list[PreferenceRow]) -> float:
    ticks: list[float] = []

    def tick(row: dict[str, float]) -> None:
        if "loss" in row:
            ticks.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        train_dpo(
            rows,
            start=model,
            settings=settings(),
            checkpoint=Path(folder) / "m1",
            scratch=Path(folder) / "scratch",
            seed=1,
            on_log=tick,
        )
    return median_gap(ticks)


class Tick(TrainerCallback):
    """Records when a row of the log appears."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,
    ) -> None:
        if "loss" in kwargs["logs"]:
            self.times.append(time.perf_counter())


def seconds_of_theirs(model: Path, rows: list[PreferenceRow]) -> float:
    tick, ours = Tick(), settings()
    tokenizer: Any = AutoTokenizer.from_pretrained(model, local_files_only=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer: Any = DPOTrainer(
            model=LlamaForCausalLM.from_pretrained(model, dtype=torch.float32),
            args=DPOConfig(
                output_dir=folder,
                per_device_train_batch_size=ours.device_batch_size,
                learning_rate=ours.learning_rate,
                num_train_epochs=ours.epochs,
                beta=ours.beta,
                lr_scheduler_type="cosine",
                max_length=None,
                bf16=ours.dtype == "bfloat16",
                gradient_checkpointing=False,
                precompute_ref_log_probs=True,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
                dataloader_pin_memory=torch.cuda.is_available(),
                seed=1,
            ),
            train_dataset=Dataset.from_list([dict(row) for row in rows]),
            processing_class=tokenizer,
            callbacks=[tick],
        )
        trainer.train()
    return median_gap(tick.times)


def measure(*, pairs: int) -> Iterator[Row]:
    disable_progress_bars()
    logging.disable_progress_bar()
    rows = preference_rows()
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "model")
        seconds_of_ours(model, rows)  # includes imports and system caches
        found = in_turn(
            lambda: seconds_of_ours(model, rows),
            lambda: seconds_of_theirs(model, rows),
            pairs=pairs,
        )
    mine, theirs = (statistics.median(column) for column in zip(*found, strict=True))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    yield Row(
        name=f"DPO step of 8 rows, {device}",
        against="bare TRL DPOTrainer, same rows, reference computed before too",
        ratios=[other / own for own, other in found],
        at_least=0.97,
        note=f"{mine * 1000:.0f} ms against {theirs * 1000:.0f} ms, "
        f"{torch.get_num_threads()} threads",
    )
