"""Pairs in other tools' formats, and fine-tuning data read back."""

import hashlib
import json
from pathlib import Path
from typing import cast

import pytest

from meta_reward_core.data.exports import (
    EXPORTS,
    PairRow,
    build_llama_factory_dataset_info,
    to_distilabel,
    to_llama_factory,
    to_online_rlhf,
    to_openrlhf,
    to_oxen,
    to_trl,
)
from meta_reward_core.data.prompt_files import compute_prompt_id
from meta_reward_core.data.prompt_filters import HeldOutPrompts
from meta_reward_core.data.sft_dataset import RejectedRow, read_sft_rows
from meta_reward_core.engines.base import Conversation
from meta_reward_core.errors import ArtifactError, PromptFileError

PROMPT_ID = hashlib.sha256(b"Say hi").hexdigest()


def pair(prompt: Conversation | None = None, **changes: object) -> PairRow:
    row = {
        "prompt": prompt or [{"role": "user", "content": "Say hi"}],
        "chosen": [{"role": "assistant", "content": "Hi."}],
        "rejected": [{"role": "assistant", "content": "No."}],
        "kind": "actor",
        "iteration": 2,
        "prompt_id": PROMPT_ID,
        "score_chosen": 4.5,
        "score_rejected": 1.0,
        "chosen_response_id": "r0",
    }
    return cast(PairRow, row | changes)


WITH_SYSTEM: Conversation = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Say hi"},
]


def test_trl_rows_are_conversational_with_the_promised_columns_beside() -> None:
    assert list(to_trl([pair()])) == [
        {
            "prompt": [{"role": "user", "content": "Say hi"}],
            "chosen": [{"role": "assistant", "content": "Hi."}],
            "rejected": [{"role": "assistant", "content": "No."}],
            "kind": "actor",
            "iteration": 2,
            "prompt_id": PROMPT_ID,
            "score_chosen": 4.5,
            "score_rejected": 1.0,
        }
    ]


def test_distilabel_conversations_begin_with_the_prompt() -> None:
    (row,) = to_distilabel([pair()])
    assert row["prompt"] == "Say hi"
    assert row["prompt_id"] == row["source_prompt_id"] == PROMPT_ID
    assert row["chosen"] == [
        {"role": "user", "content": "Say hi"},
        {"role": "assistant", "content": "Hi."},
    ]
    assert (row["chosen_rating"], row["rejected_rating"]) == (4.5, 1.0)


def test_distilabel_identifies_a_judge_pair_by_the_prompt_it_trains_on() -> None:
    asked: Conversation = [{"role": "user", "content": "Judge: Hi."}]
    (row,) = to_distilabel([pair(asked, kind="judge")])
    assert row["prompt_id"] == hashlib.sha256(b"Judge: Hi.").hexdigest()
    assert row["source_prompt_id"] == PROMPT_ID


def test_openrlhf_gets_two_scored_outputs_per_pair() -> None:
    assert list(to_openrlhf([pair()])) == [
        {"input": "Say hi", "output": "Hi.", "reward": 4.5},
        {"input": "Say hi", "output": "No.", "reward": 1.0},
    ]


def test_llama_factory_names_roles_its_own_way() -> None:
    (row,) = to_llama_factory([pair(WITH_SYSTEM)])
    assert row["conversations"] == [{"from": "human", "value": "Say hi"}]
    assert row["system"] == "Be brief."
    assert row["chosen"] == {"from": "gpt", "value": "Hi."}
    assert row["rejected"] == {"from": "gpt", "value": "No."}


def test_the_dataset_info_names_columns_that_the_rows_have() -> None:
    (row,) = to_llama_factory([pair()])
    info = build_llama_factory_dataset_info("pairs.jsonl")
    assert (info["file_name"], info["formatting"], info["ranking"]) == (
        "pairs.jsonl",
        "sharegpt",
        True,
    )
    assert set(info["columns"].values()) <= row.keys()


def test_online_rlhf_lists_responses_with_their_rewards() -> None:
    assert list(to_online_rlhf([pair(WITH_SYSTEM)])) == [
        {"prompt": WITH_SYSTEM, "responses": ["Hi.", "No."], "rewards": [4.5, 1.0]}
    ]


def test_oxen_rows_are_flat() -> None:
    assert list(to_oxen([pair()])) == [
        {
            "prompt_id": PROMPT_ID,
            "prompt": "Say hi",
            "chosen": "Hi.",
            "rejected": "No.",
            "score_chosen": 4.5,
            "score_rejected": 1.0,
        }
    ]


@pytest.mark.parametrize("name", ["distilabel", "openrlhf", "oxen"])
def test_a_format_of_one_turn_refuses_more_rather_than_flatten_it(name: str) -> None:
    with pytest.raises(ArtifactError, match=f"{PROMPT_ID} is not one user message"):
        list(EXPORTS[name]([pair(WITH_SYSTEM)]))


@pytest.mark.parametrize("name", [name for name in EXPORTS if name not in {"trl", "distilabel"}])
def test_a_completion_of_several_messages_is_refused(name: str) -> None:
    with pytest.raises(ArtifactError, match="one assistant message"):
        list(EXPORTS[name]([pair(chosen=WITH_SYSTEM)]))


@pytest.mark.parametrize("name", EXPORTS)
def test_every_format_is_lazy_and_writes_as_json(name: str) -> None:
    rows = EXPORTS[name](iter([pair(), pair(kind="judge")]))
    assert json.loads(json.dumps(next(rows)))
    assert list(EXPORTS[name]([])) == []


def _write(folder: Path, *rows: object) -> Path:
    file = folder / "eft.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


SFT_ROW = {
    "prompt": [{"role": "user", "content": "Judge this"}],
    "completion": [{"role": "assistant", "content": "Fine.\nScore: 4"}],
    "kind": "eft",
    "prompt_id": compute_prompt_id("Judge this"),
}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Judge this", "response": "Fine.\nScore: 4"},
        {
            "prompt_text": "Judge this",
            "response_id": "b",
            "response_text": "Fine.\nScore: 4",
            "language": "en",
            "quality_score": 0.5,
        },
        {"prompt": "Judge this", "completion": "Fine.\nScore: 4"},
        SFT_ROW,
    ],
)
def test_fine_tuning_data_is_read_in_all_its_forms(tmp_path: Path, row: object) -> None:
    found = read_sft_rows(_write(tmp_path, row))
    assert found.rows == [SFT_ROW]
    assert found.rejected == []


def test_an_instruction_that_a_row_names_stays_with_it(tmp_path: Path) -> None:
    row = {"prompt": "Judge this", "response": "Fine.\nScore: 4", "prompt_id": "a"}
    assert read_sft_rows(_write(tmp_path, row)).rows == [SFT_ROW | {"prompt_id": "a"}]


def test_rows_about_held_out_prompts_are_left_out_by_hash(tmp_path: Path) -> None:
    held = HeldOutPrompts.from_texts(["Why is it so?"])
    rows = [
        SFT_ROW,
        {"prompt": "why is  it SO?", "response": "It is."},
        {"prompt": "Judge that", "response": "x", "prompt_id": compute_prompt_id("Why is it so?")},
    ]
    found = read_sft_rows(_write(tmp_path, *rows), held_out=held)
    assert found.rows == [SFT_ROW]
    assert [(r.line, r.reason) for r in found.rejected] == [(2, "held_out"), (3, "held_out")]


@pytest.mark.parametrize(
    ("row", "column", "reason"),
    [
        ({"prompt": "x", "response": " "}, "response", "empty"),
        ({"prompt": "", "response": "y"}, "prompt", "empty"),
        ({"prompt": 3, "response": "y"}, "prompt", "not_a_text"),
        ({"prompt": "x", "response": None}, "response", "not_a_text"),
        ({"prompt": "x\x00", "response": "y"}, "prompt", "null_byte"),
        ({"prompt": "x", "response": "\ud800"}, "response", "lone_surrogate"),
        (
            {"prompt": [{"role": "assistant", "content": "x"}], "response": "y"},
            "prompt",
            "no_user_turn",
        ),
        (
            {"prompt": "x", "response": [{"role": "robot", "content": "y"}]},
            "response",
            "not_a_text",
        ),
    ],
)
def test_a_row_that_cannot_be_trained_on_is_left_out_and_told(
    tmp_path: Path, row: object, column: str, reason: str
) -> None:
    found = read_sft_rows(_write(tmp_path, SFT_ROW, row))
    assert found.rows == [SFT_ROW]
    assert found.rejected == [RejectedRow(2, column, reason)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "contains no row"),
        ('{"prompt": "x", "response": ""}', r"contains no row to train on \(1 were rejected\)"),
        ('{"prompt": "x"}', r"eft\.jsonl, line 1: has no prompt with its response"),
        ("{}\n", "found: nothing"),
        (
            '{"prompt": "x", "response": "y"}\nnonsense',
            r"eft\.jsonl, line 2: The line is not valid JSON",
        ),
    ],
)
def test_a_file_that_holds_no_fine_tuning_data_is_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "eft.jsonl"
    file.write_text(content)
    with pytest.raises(PromptFileError, match=message):
        read_sft_rows(file)
