"""Tokens that a model was given, such as a forced score line, carry no loss."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from meta_reward_core.engines.base import SamplingParams
from meta_reward_core.engines.transformers import load_transformers_engine
from meta_reward_core.errors import TrainingError
from meta_reward_core.method.judging import judge_responses
from meta_reward_core.recipes.prompt_templates import PromptTemplate
from meta_reward_core.storage.records import Judgment, Response
from meta_reward_core.training.row_encoding import RowEncoder
from meta_reward_core.training.row_types import PreferenceRow, SftRow
from meta_reward_core.training.trainer import run_training
from meta_reward_core.training.trainer_factories import DPO, SFT
from tests.core.training.conftest import TINY_DPO, TINY_SFT

ASKED = "judge this answer to the question"
TEMPLATE = PromptTemplate("judge", f"{ASKED} {{instruction}} {{response}}")


@pytest.fixture(scope="module")
def judgments(first_model: Path) -> list[Judgment]:
    """Judgments of the tiny model, each with a forced score line."""
    engine = load_transformers_engine(
        first_model, dtype="float32", device="cpu", threads=1, max_batch_tokens=4096,
        max_model_len=None,
    )  # fmt: skip
    found, _ = judge_responses(
        [Response("p", "r", 0, "good", 1, "stop")],
        engine,
        instructions={"p": "one"},
        template=TEMPLATE,
        rubric="",
        samples=12,
        sampling=SamplingParams(1.0, 1.0, 6),
        seed=3,
        readout="forced",
    )
    return found


def to_sampled(judgment: Judgment) -> Any:
    assert judgment.token_ids is not None
    assert judgment.injected_at is not None
    return {
        "token_ids": list(judgment.token_ids),
        "finish_reason": judgment.finish_reason,
        "injected_at": list(judgment.injected_at),
    }


def to_row(first: Judgment, second: Judgment, number: int) -> PreferenceRow:
    return {
        "prompt": [{"role": "user", "content": f"{ASKED} one good"}],
        "chosen": [{"role": "assistant", "content": first.text}],
        "rejected": [{"role": "assistant", "content": second.text}],
        "kind": "judge",
        "prompt_id": f"p{number}",
        "chosen_drawn": to_sampled(first),
        "rejected_drawn": to_sampled(second),
    }


@pytest.fixture(scope="module")
def rows(judgments: list[Judgment]) -> list[PreferenceRow]:
    pairs = zip(judgments[::2], judgments[1::2], strict=True)
    return [to_row(first, second, number) for number, (first, second) in enumerate(pairs)]


def test_the_tokens_of_a_forced_judgment_spell_its_text(
    judgments: list[Judgment], first_model: Path
) -> None:
    """The line and, of one that ended, its end are given; the value is drawn."""
    tokenizer = AutoTokenizer.from_pretrained(first_model)
    for judgment in judgments:
        sampled = to_sampled(judgment)
        text = str(tokenizer.decode(sampled["token_ids"], skip_special_tokens=True))
        assert text.split() == judgment.text.split()
        given = [sampled["token_ids"][place] for place in sampled["injected_at"]]
        ended = judgment.finish_reason == "stop"
        assert str(tokenizer.decode(given)).split() == ["Score:", *(["<eos>"] if ended else [])]
        assert text.split()[-1] in "012345"


def test_no_loss_counts_given_tokens(rows: list[PreferenceRow], first_model: Path,
                                     tmp_path: Path) -> None:  # fmt: skip
    """Of every completion exactly the given tokens are missing from the mask of the loss."""
    batches: list[dict[str, Any]] = []
    reference: list[dict[str, Any]] = []

    def make_watched(*given: Any) -> Any:
        trainer: Any = DPO.make_trainer(*given)
        batches.extend(trainer.get_train_dataloader())
        reference.extend(trainer.train_dataset)
        return trainer

    run_training(
        replace(DPO, make_trainer=make_watched), rows, start=first_model, settings=TINY_DPO,
        checkpoint=tmp_path / "dpo", scratch=tmp_path / "scratch", seed=5, threads=1,
    )  # fmt: skip
    wanted = sorted(
        [t for n, t in enumerate(sampled["token_ids"]) if n not in sampled["injected_at"]]
        for row in rows
        for sampled in (row["chosen_drawn"], row["rejected_drawn"])
    )
    found = sorted(
        [int(t) for t, counts in zip(ids, mask, strict=True) if counts]
        for batch in batches
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    )
    assert found == wanted
    check_reference(reference, first_model)


def check_reference(dataset: list[dict[str, Any]], folder: Path) -> None:
    """The reference's log-probability of a completion is that of its drawn tokens alone."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for row in dataset:
        for side in ("chosen", "rejected"):
            prompt, ids = row["prompt_ids"], row[f"{side}_ids"]
            whole = torch.tensor([[*prompt, *ids]])
            with torch.inference_mode():
                logs = model(input_ids=whole).logits[0].log_softmax(-1)
            summed = sum(
                float(logs[len(prompt) + place - 1, token])
                for place, token in enumerate(ids)
                if place not in row[f"{side}_injected"]
            )
            assert row[f"ref_{side}_logps"] == pytest.approx(summed, abs=1e-3)


def test_supervised_labels_leave_given_tokens_out(
    rows: list[PreferenceRow], first_model: Path
) -> None:
    row: SftRow = {
        "prompt": rows[0]["prompt"],
        "completion": rows[0]["chosen"],
        "kind": "judge",
        "prompt_id": "p",
        "completion_drawn": rows[0]["chosen_drawn"],
    }
    encoder = RowEncoder.build_for_model(AutoTokenizer.from_pretrained(first_model), first_model)
    (encoded,) = encoder.encode([row])
    columns = SFT.form.columns(encoded)
    sampled = row["completion_drawn"]
    labels = columns["labels"][len(encoded.prompt_ids) :]
    assert labels == [
        -100 if place in sampled["injected_at"] else token
        for place, token in enumerate(sampled["token_ids"])
    ]
    assert TINY_SFT.max_length > len(columns["input_ids"])


def test_a_row_whose_given_tokens_are_not_known_by_place_is_refused(
    rows: list[PreferenceRow], first_model: Path, tmp_path: Path
) -> None:
    """Its drawn tokens lack their end, so the row would be rendered, line and all."""
    sampled = dict(rows[0]["chosen_drawn"]) | {"token_ids": [5, 6, 7], "finish_reason": "stop"}
    bad: Any = dict(rows[0]) | {"chosen_drawn": sampled}
    encoder = RowEncoder.build_for_model(AutoTokenizer.from_pretrained(first_model), first_model)
    (encoded,) = encoder.encode([bad])
    assert encoded.find_refusal(max_length=10**6) == "given_tokens_cannot_be_left_out"
    with pytest.raises(TrainingError, match="given_tokens_cannot_be_left_out"):
        run_training(
            DPO, [bad], start=first_model, settings=TINY_DPO, checkpoint=tmp_path / "dpo",
            scratch=tmp_path / "scratch", seed=5, threads=1,
        )  # fmt: skip
