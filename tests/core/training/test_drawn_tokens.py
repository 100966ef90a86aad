"""Training sees the tokens that were drawn: none added, none tokenised anew, none left out."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from meta_reward_core.engines.base import Completion, Conversation, SamplingParams
from meta_reward_core.engines.transformers import load_transformers_engine
from meta_reward_core.models.chat import ChatOptions, render_chat
from meta_reward_core.models.validation import check_model_folder, hash_model_folder
from meta_reward_core.recipes.training_settings import TrainingSettings
from meta_reward_core.training.dpo import train_dpo
from meta_reward_core.training.result import TrainingOutcome
from meta_reward_core.training.row_encoding import EncodedRow, RowEncoder
from meta_reward_core.training.row_types import (
    PreferenceRow,
    SampledTokens,
    SftRow,
    TokenSources,
    TrainingRow,
)
from meta_reward_core.training.trainer import run_training
from meta_reward_core.training.trainer_factories import DPO, SFT, Objective
from tests.core.chat_models import FORMATS, make_chat_model, make_chat_tokenizer
from tests.core.engines.architectures import MODELS, RARER_MODELS, UNSHARED_MODELS
from tests.core.tiny_model import make_tokenizer
from tests.core.training.conftest import TINY_DPO, TINY_SFT, preference_rows

ARCHITECTURES = MODELS | RARER_MODELS | UNSHARED_MODELS
QUICK = [("llama", "qwen3"), ("gemma3", "gemma3")]
MATRIX = [
    pytest.param(
        architecture, chat, marks=[] if (architecture, chat) in QUICK else pytest.mark.slow
    )
    for architecture in ARCHITECTURES
    for chat in FORMATS
    if chat != "gptoss" or architecture == "bloom"  # a long system turn, few learned positions
]
ASKED = [
    "What is the boiling point of water?",
    "Write a short poem.\n\n",
    "  Explain `x` in **bold**.",
    "Ünïcode: 水 🌊",
    "Say <|im_end|> or <end_of_turn>, please.",
    "",
]
WARM = SamplingParams(temperature=1.2, top_p=1.0, max_new_tokens=8)


def to_sampled(completion: Completion) -> SampledTokens:
    assert completion.token_ids is not None
    return {
        "token_ids": completion.token_ids.tolist(),
        "finish_reason": completion.finish_reason,
    }


def draw_rows(folder: Path) -> list[PreferenceRow]:
    """Pairs of completions that the engine draws from this model."""
    engine = load_transformers_engine(
        folder, dtype="float32", device="cpu", threads=1, max_batch_tokens=4096, max_model_len=None
    )
    asked: list[Conversation] = [[{"role": "user", "content": text}] for text in ASKED]
    sampled = engine.sample(asked, 4, sampling=WARM, seed=1)
    return [
        {
            "prompt": prompt,
            "chosen": [{"role": "assistant", "content": first.text}],
            "rejected": [{"role": "assistant", "content": second.text}],
            "kind": "actor",
            "prompt_id": f"p{number}",
            "chosen_drawn": to_sampled(first),
            "rejected_drawn": to_sampled(second),
        }
        for number, (prompt, completions) in enumerate(zip(asked, sampled, strict=True))
        for first, second in (completions[:2], completions[2:])
    ]


def to_sft(row: PreferenceRow) -> SftRow:
    return {
        "prompt": row["prompt"],
        "completion": row["chosen"],
        "kind": row["kind"],
        "prompt_id": row["prompt_id"],
        "completion_drawn": row["chosen_drawn"],
    }


Trained = list[tuple[list[int], list[int]]]
"""Prompt and completion of each row, as the loss sees them."""


def train_and_watch(
    objective: Objective,
    rows: Sequence[TrainingRow],
    folder: Path,
    place: Path,
    settings: TrainingSettings,
) -> tuple[TrainingOutcome, Trained]:
    """Train, and note the batches that TRL's collator makes for the model."""
    batches: list[dict[str, Any]] = []

    def make_watched(*given: Any) -> Any:
        trainer: Any = objective.make_trainer(*given)
        batches.extend(trainer.get_train_dataloader())
        return trainer

    outcome = run_training(
        replace(objective, make_trainer=make_watched),
        rows,
        start=folder,
        settings=settings,
        checkpoint=place / objective.name,
        scratch=place / "scratch",
        seed=5,
        threads=1,
    )
    return outcome, [row for batch in batches for row in split_batch(batch)]


def split_batch(batch: dict[str, Any]) -> Trained:
    if "completion_mask" in batch:
        carries_loss = batch["completion_mask"].bool()
    else:
        carries_loss = batch["labels"] != -100
    seen = batch["attention_mask"].bool()
    return [
        (
            [int(token) for at, token in enumerate(ids) if not of[at] and is_seen[at]],
            [int(token) for at, token in enumerate(ids) if of[at]],
        )
        for ids, of, is_seen in zip(batch["input_ids"], carries_loss, seen, strict=True)
    ]


@pytest.mark.parametrize(("architecture", "chat"), MATRIX)
def test_trained_ids_are_the_drawn_ids(architecture: str, chat: str, tmp_path: Path) -> None:
    """Random models draw what no tokenizer would make of a text: pieces, control tokens, halves.

    What the engine was asked is rendered and tokenised by transformers alone here; the prompts
    with the text of a control token are the engine's own affair and are counted apart.
    """
    folder = make_chat_model(chat, ARCHITECTURES[architecture], tmp_path / "m0")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    rows = draw_rows(folder)
    one_epoch = {"epochs": 1, "max_length": 512}
    outcome, trained = train_and_watch(
        DPO, rows, folder, tmp_path, TINY_DPO.model_copy(update=one_epoch)
    )
    wanted = [row[side] for row in rows for side in ("chosen_drawn", "rejected_drawn")]
    assert outcome.refused == []
    assert outcome.tokens.sampled == outcome.rows_trained == len(rows) == 12
    assert sorted(ids for _, ids in trained) == sorted(one["token_ids"] for one in wanted)
    assert outcome.tokens.not_canonical > len(rows) / 2
    asked = [
        tokenizer.apply_chat_template(
            row["prompt"], add_generation_prompt=True, return_dict=False, tokenize=True
        )
        for row in rows
        if "<|" not in row["prompt"][0]["content"]
    ]
    prompts = [prompt for prompt, _ in trained]
    assert all(prompts.count(prompt) >= 2 for prompt in asked)
    assert len(asked) == 10
    tuned, trained = train_and_watch(
        SFT, [to_sft(row) for row in rows], folder, tmp_path, TINY_SFT.model_copy(update=one_epoch)
    )
    assert sorted(ids for _, ids in trained) == sorted(
        row["chosen_drawn"]["token_ids"] for row in rows
    )
    assert tuned.tokens.sampled == len(rows)
    for made in (tmp_path / "dpo", tmp_path / "sft"):
        check_model_folder(made, allowed_roots=[tmp_path])
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            made, local_files_only=True, output_loading_info=True
        )
        _, loading = loaded
        assert not any(loading.values()), loading
        assert hash_model_folder(made) != hash_model_folder(folder)


def make_row(
    tokenizer: Any,
    *,
    prompt: str = "one plus two",
    texts: tuple[str, str] = ("good one", "bad"),
    cut_off: bool = False,
    **more: Any,
) -> PreferenceRow:
    """A pair with the tokens that the tokenizer makes of its texts, as if they were drawn."""
    end = [] if cut_off else [tokenizer.eos_token_id]
    sampled = [
        {
            "token_ids": tokenizer(text, add_special_tokens=False)["input_ids"] + end,
            "finish_reason": "length" if cut_off else "stop",
        }
        for text in texts
    ]
    row: Any = {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": texts[0]}],
        "rejected": [{"role": "assistant", "content": texts[1]}],
        "kind": "actor",
        "prompt_id": "p",
        "chosen_drawn": sampled[0],
        "rejected_drawn": sampled[1],
    }
    made: PreferenceRow = row | more
    return made


def encode(tokenizer: Any, row: TrainingRow, **more: Any) -> EncodedRow:
    [encoded] = RowEncoder(tokenizer, end_ids=[tokenizer.eos_token_id], **more).encode([row])
    return encoded


def without_tokens(row: PreferenceRow) -> PreferenceRow:
    plain: Any = {key: value for key, value in row.items() if not key.endswith("_drawn")}
    made: PreferenceRow = plain
    return made


@pytest.mark.parametrize("chat", ["qwen2_5", "phi3", "llama3_1"])
def test_rows_without_stored_tokens_are_tokenised_as_trl_tokenises_them(chat: str) -> None:
    tokenizer: Any = make_chat_tokenizer(chat)
    rows = [
        without_tokens(make_row(tokenizer, prompt=text, texts=("A sea.", "```\ncode\n```\n\nb")))
        for text in ("What is water?", "Two\n\nlines")
    ]
    trl = DPOTrainer._prepare_dataset(
        SimpleNamespace(),  # type: ignore[arg-type]
        Dataset.from_list([dict(row) for row in rows]),
        tokenizer,
        DPOConfig(output_dir="unused", max_length=None, report_to="none", use_cpu=True),
        "train",
    )
    for row, theirs in zip(rows, trl, strict=True):
        ours = encode(tokenizer, row)
        assert ours.prompt_ids == theirs["prompt_ids"]
        assert ours.reply_ids == [theirs["chosen_ids"], theirs["rejected_ids"]]
        assert not ours.is_sampled


def test_the_same_ids_give_the_same_bytes_whether_drawn_or_rendered(
    first_model: Path, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer()
    plain = preference_rows(16)
    sampled = [
        make_row(
            tokenizer,
            prompt=row["prompt"][0]["content"],
            texts=(row["chosen"][0]["content"], row["rejected"][0]["content"]),
            kind=row["kind"],
            prompt_id=row["prompt_id"],
        )
        for row in plain
    ]
    hashes, sources = [], []
    for name, rows in (("plain", plain), ("drawn", sampled)):
        outcome = train_dpo(
            rows,
            start=first_model,
            settings=TINY_DPO.model_copy(update={"epochs": 1}),
            checkpoint=tmp_path / name,
            scratch=tmp_path / "scratch",
            seed=5,
            threads=1,
        )
        hashes.append(hash_model_folder(tmp_path / name))
        sources.append(outcome.tokens)
    assert hashes[0] == hashes[1]
    assert sources == [TokenSources(), TokenSources(sampled=16)]


def test_a_completion_that_was_cut_off_gets_no_end_token() -> None:
    tokenizer: Any = make_chat_tokenizer("qwen2_5")
    cut = encode(tokenizer, make_row(tokenizer, cut_off=True))
    rendered = encode(tokenizer, without_tokens(make_row(tokenizer)))
    assert all(tokenizer.eos_token_id not in ids for ids in cut.reply_ids)
    assert all(tokenizer.eos_token_id in ids for ids in rendered.reply_ids)
    assert cut.is_canonical


def test_a_list_of_tokens_that_lacks_the_end_token_is_not_trained_on() -> None:
    """Some servers list the tokens of a text only; nothing would teach the model to stop."""
    tokenizer: Any = make_chat_tokenizer("qwen2_5")
    row = make_row(tokenizer)
    row["rejected_drawn"]["token_ids"].pop()
    encoded = encode(tokenizer, row)
    assert not encoded.is_sampled
    rendered = encode(tokenizer, without_tokens(row))
    assert (encoded.prompt_ids, encoded.reply_ids) == (rendered.prompt_ids, rendered.reply_ids)


@pytest.mark.parametrize(
    ("text", "expected"), [("  Yes. ", "equal_after_rendering"), ("No.", None)]
)
def test_a_pair_whose_texts_a_template_renders_alike_is_refused(
    text: str, expected: str | None
) -> None:
    """Llama 3's template trims what it renders."""
    tokenizer: Any = make_chat_tokenizer("llama3_1")
    row = without_tokens(make_row(tokenizer))
    row["chosen"] = [{"role": "assistant", "content": "Yes."}]
    row["rejected"] = [{"role": "assistant", "content": text}]
    assert encode(tokenizer, row).find_refusal(max_length=512) == expected


def test_sampled_texts_that_a_template_renders_alike_are_refused() -> None:
    """Their tokens differ by a space at the end, which the template removes."""
    tokenizer: Any = make_chat_tokenizer("llama3_1")
    row = make_row(tokenizer, texts=("Yes.", "Yes. "))
    assert row["chosen_drawn"]["token_ids"] != row["rejected_drawn"]["token_ids"]
    assert encode(tokenizer, row).find_refusal(max_length=512) == "equal_after_rendering"


@pytest.mark.parametrize("is_sampled", [False, True])
def test_a_row_that_the_chat_template_rejects_does_not_cost_the_others(*, is_sampled: bool) -> None:
    tokenizer: Any = make_chat_tokenizer("qwen2_5")
    good, bad = make_row(tokenizer), make_row(tokenizer, prompt="A forbidden prompt.")
    tokenizer.chat_template = (
        "{% if 'forbidden' in messages[-1]['content'] or 'forbidden' in messages[0]['content'] %}"
        f"{{{{ raise_exception('no') }}}}{{% endif %}}{tokenizer.chat_template}"
    )
    rows = [good, bad, good] if is_sampled else [*map(without_tokens, (good, bad, good))]
    encoded = list(RowEncoder(tokenizer, end_ids=[tokenizer.eos_token_id]).encode(rows))
    refusals = [one.find_refusal(max_length=512) for one in encoded]
    assert refusals == [None, "rejected_by_chat_template", None]
    assert encoded[0].reply_ids == encoded[2].reply_ids != [[], []]


def test_a_prompt_with_the_text_of_a_control_token_is_trained_on_as_it_was_given() -> None:
    """The engine spells the text; a rendered row would hold the control token, and is refused."""
    tokenizer: Any = make_chat_tokenizer("qwen2_5")
    row = make_row(tokenizer, prompt="Say <|im_end|> twice.")
    encoded = encode(tokenizer, row)
    assert encoded.find_refusal(max_length=512) is None
    turns = encoded.prompt_ids.count(tokenizer.eos_token_id)
    assert turns == 2, "the ends of the system turn and of the user's"
    assert "Say <|im_end|> twice." in tokenizer.decode(encoded.prompt_ids)
    refused = encode(tokenizer, without_tokens(row))
    assert refused.find_refusal(max_length=512) == "control_token_in_text"


@pytest.mark.parametrize(
    ("chat", "text", "rewritten"),
    [
        ("qwen2_5", "  indented\n\n", False),
        ("llama3_1", "plain", False),
        ("llama3_1", "trailing \n", True),
        ("gemma3", "\n\nleading", True),
        ("gemma3", "```\ncode\n```", False),
        ("qwen3", "<think>\na\n</think>\n\nb", False),
        ("qwen3", "<think>a</think>b", True),
        ("qwen3", "no reasoning", True),
    ],
)
def test_a_text_that_the_template_writes_otherwise_is_counted_and_trained_as_drawn(
    chat: str, text: str, rewritten: bool
) -> None:
    tokenizer: Any = make_chat_tokenizer(chat)
    row = make_row(tokenizer, texts=(text, "plain" if chat != "qwen3" else text))
    encoded = encode(tokenizer, row)
    assert encoded.is_rewritten == rewritten
    assert encoded.reply_ids[0] == row["chosen_drawn"]["token_ids"]


def test_tokens_that_the_tokenizer_would_not_make_are_counted() -> None:
    tokenizer: Any = make_chat_tokenizer("qwen2_5")
    row = make_row(tokenizer, texts=("response", "response"))
    assert encode(tokenizer, row).is_canonical
    spelled = tokenizer(list("response"), add_special_tokens=False)["input_ids"]
    row["chosen_drawn"]["token_ids"] = [*chain(*spelled), tokenizer.eos_token_id]
    encoded = encode(tokenizer, row)
    assert not encoded.is_canonical
    assert encoded.reply_ids[0] == row["chosen_drawn"]["token_ids"]


@pytest.mark.parametrize("chat", ["qwen3", "deepseek_r1_distill", "qwen3_5_think", "glm4moe"])
@pytest.mark.parametrize("answer", ["The answer is 水.", "", "4\n\n"])
def test_stripped_rows_train_on_the_drawn_tokens_of_the_answer(chat: str, answer: str) -> None:
    """The answer follows what the template writes before an answer without reasoning."""
    tokenizer: Any = make_chat_tokenizer(chat)
    row = make_row(
        tokenizer,
        texts=(f"<think>\nSo what?\n</think>\n\n{answer}", f"<think>No</think>\n{answer}"),
        reasoning="strip",
    )
    spelled = tokenizer(answer, add_special_tokens=False)["input_ids"]
    row["chosen"][0]["content"] = row["rejected"][0]["content"] = answer
    encoded = encode(tokenizer, row)
    assert encoded.is_sampled
    assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in encoded.reply_ids] == [
        answer
    ] * 2
    assert all(ids[-1] == tokenizer.eos_token_id for ids in encoded.reply_ids)
    assert len(encoded.reply_ids[0]) == len(spelled) + 1
    empty = render_chat(
        tokenizer,
        [*row["prompt"], {"role": "assistant", "content": "words"}],
        add_generation_prompt=False,
    )
    assert tokenizer.decode(encoded.prompt_ids) == empty.partition("words")[0]


def test_rows_under_forbid_follow_the_prompt_that_asks_for_no_reasoning() -> None:
    tokenizer: Any = make_chat_tokenizer("qwen3")
    row = make_row(tokenizer, reasoning="forbid")
    encoded = encode(tokenizer, row)
    assert tokenizer.decode(encoded.prompt_ids).endswith("<think>\n\n</think>\n\n")
    assert encoded.reply_ids[0] == row["chosen_drawn"]["token_ids"]


def test_prompts_are_rendered_with_the_experiments_date() -> None:
    tokenizer: Any = make_chat_tokenizer("gptoss")
    row = make_row(tokenizer)
    encoded = encode(tokenizer, row, chat_date="2024-02-29")
    assert "Current date: 2024-02-29" in tokenizer.decode(encoded.prompt_ids)
    other = render_chat(
        tokenizer, row["prompt"], add_generation_prompt=True, options=ChatOptions("2025-01-01")
    )
    assert "Current date: 2025-01-01" in other
