"""Supervised fine-tuning learns completions, from a folder or from nothing."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from meta_reward_core.errors import TrainingError
from meta_reward_core.models.validation import check_model_folder, hash_model_folder
from meta_reward_core.training.sft import InitialModel, train_sft
from tests.core.tiny_model import llama_config, make_tokenizer
from tests.core.training.conftest import TINY_SFT, sft_rows

ROWS = sft_rows(32)


def initial_model() -> InitialModel:
    tokenizer = make_tokenizer()
    return InitialModel(config=llama_config(tokenizer), tokenizer=tokenizer)


def test_a_model_is_trained_from_nothing_twice_to_the_same_bytes(tmp_path: Path) -> None:
    """The first loss is that of a uniform guess, log of the vocabulary's size."""
    hashes = []
    for name in ("first", "second"):
        outcome = train_sft(
            ROWS,
            start=initial_model(),
            settings=TINY_SFT,
            checkpoint=tmp_path / name,
            scratch=tmp_path / f"scratch-{name}",
            seed=3,
            threads=1,
        )
        hashes.append(hash_model_folder(tmp_path / name))
    losses = [row["loss"] for row in outcome.log]
    assert losses[0] == pytest.approx(math.log(len(make_tokenizer())), rel=0.02)
    assert losses[-1] < losses[0]
    assert hashes[0] == hashes[1]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["first", "second"]
    check_model_folder(tmp_path / "first", allowed_roots=[tmp_path])


def test_prompts_carry_no_loss(first_model: Path, tmp_path: Path) -> None:
    """In the head, a word of prompts alone ("plus") moves as one that never occurs ("blue").

    Both are pushed down by the softmax; only words of completions ("good") are pulled up.
    """
    train_sft(
        ROWS,
        start=first_model,
        settings=TINY_SFT.model_copy(update={"epochs": 1, "max_steps": 2, "warmup_ratio": 0.0}),
        checkpoint=tmp_path / "m",
        scratch=tmp_path / "scratch",
        seed=3,
        threads=1,
    )
    tokenizer = make_tokenizer()
    new: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "m", local_files_only=True)
    old: Any = AutoModelForCausalLM.from_pretrained(first_model, local_files_only=True)
    moved = (new.lm_head.weight - old.lm_head.weight).detach()
    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in ("plus", "blue", "good")}
    alike = torch.cosine_similarity(moved[ids["plus"]], moved[ids["blue"]], dim=0)
    apart = torch.cosine_similarity(moved[ids["good"]], moved[ids["blue"]], dim=0)
    assert alike > 0.9
    assert apart < 0.0


def test_max_steps_ends_the_training_whatever_the_epoch(first_model: Path, tmp_path: Path) -> None:
    outcome = train_sft(
        ROWS,
        start=first_model,
        settings=TINY_SFT.model_copy(update={"max_steps": 6, "epochs": 10}),
        checkpoint=tmp_path / "m",
        scratch=tmp_path / "scratch",
        seed=3,
        threads=1,
    )
    assert outcome.kept_step == 6
    assert outcome.kept_epoch == pytest.approx(1.5)


def test_control_tokens_in_a_text_and_empty_completions_are_refused(
    first_model: Path, tmp_path: Path
) -> None:
    rows = sft_rows(8)
    rows[0]["prompt"] = [{"role": "user", "content": "one <eos> <assistant> two"}]
    rows[1]["completion"] = [{"role": "assistant", "content": "good <eos>"}]
    with pytest.raises(TrainingError, match="1 of 4 actor rows control_token_in_text"):
        train_sft(
            rows,
            start=first_model,
            settings=TINY_SFT,
            checkpoint=tmp_path / "m",
            scratch=tmp_path / "scratch",
            seed=3,
            threads=1,
        )
