"""Conversations are rendered with a date of their own, and with or without reasoning."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from meta_reward_core.models.chat import (
    ChatOptions,
    find_opened_reasoning,
    render_answer_context,
    render_answer_end,
    render_chat,
    render_generation_prompt,
)
from meta_reward_core.models.template_files import choose_chat_date
from tests.core.chat_models import make_chat_tokenizer
from tests.core.tiny_model import make_tokenizer

ASKED = [{"role": "user", "content": "Why?"}]


def test_a_date_holds_inside_macros_too() -> None:
    tokenizer: Any = make_chat_tokenizer("gptoss")
    text = render_chat(
        tokenizer, ASKED, add_generation_prompt=True, options=ChatOptions("2024-02-29")
    )
    assert "Current date: 2024-02-29" in text


def test_without_a_date_it_is_the_day_of_the_call() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%Y') }}"
    year = str(datetime.now(UTC).year)
    assert render_chat(tokenizer, ASKED, add_generation_prompt=True) == year


@pytest.mark.parametrize("date", ["29.2.2024", "2024-02-30", "today"])
def test_what_is_no_date_is_refused(date: str) -> None:
    with pytest.raises(ValueError, match=r"isoformat|month"):
        ChatOptions(date)


@pytest.mark.parametrize(
    ("chat", "prompt", "without", "opened", "context", "end"),
    [
        (
            "qwen3",
            "<|im_start|>assistant\n",
            "<|im_start|>assistant\n<think>\n\n</think>\n\n",
            "",
            "<|im_start|>assistant\n<think>\n\n</think>\n\n",
            "<|im_end|>\n",
        ),
        (
            "deepseek_r1_distill",
            "<｜Assistant｜><think>\n",
            "<｜Assistant｜><think>\n",
            "<think>\n",
            "<｜Assistant｜>",
            "<｜end▁of▁sentence｜>",
        ),
        (
            "qwen3_5_think",
            "<|im_start|>assistant\n<think>\n",
            "<|im_start|>assistant\n<think>\n\n</think>\n\n",
            "<think>\n",
            "<|im_start|>assistant\n<think>\n\n</think>\n\n",
            "<|im_end|>\n",
        ),
        ("phi3", "<|assistant|>\n", "<|assistant|>\n", "", "<|assistant|>\n", "<|end|>\n<|end|>"),
        (
            "gemma3",
            "<start_of_turn>model\n",
            "<start_of_turn>model\n",
            "",
            "<start_of_turn>model\n",
            "<end_of_turn>\n",
        ),
    ],
)
def test_what_stands_around_a_completion(
    chat: str, prompt: str, without: str, opened: str, context: str, end: str
) -> None:
    tokenizer: Any = make_chat_tokenizer(chat)
    assert render_generation_prompt(tokenizer) == prompt
    assert render_generation_prompt(tokenizer, ChatOptions(allow_reasoning=False)) == without
    assert find_opened_reasoning(tokenizer) == opened
    assert render_answer_context(tokenizer, ASKED).endswith(context)
    assert render_answer_end(tokenizer) == end


def test_a_date_is_chosen_where_a_template_reads_one(tmp_path: Path) -> None:
    tokenizer: Any = make_chat_tokenizer("qwen2_5")
    tokenizer.save_pretrained(tmp_path)
    assert choose_chat_date(tmp_path) is None
    tokenizer.chat_template = "{{ strftime_now('%d') }}" + tokenizer.chat_template
    tokenizer.save_pretrained(tmp_path)
    chosen = choose_chat_date(tmp_path)
    assert chosen is not None
    ChatOptions(chosen)
    assert choose_chat_date(tmp_path / "nothing") is None
