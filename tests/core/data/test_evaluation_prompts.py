"""Prompts like those of an evaluation are left out of the pool, and counted."""

import pytest

from meta_reward_core.data.prompt_files import PromptFile, compute_prompt_id
from meta_reward_core.data.prompt_filters import remove_contaminated
from meta_reward_core.errors import InputError
from meta_reward_core.storage.records import Prompt

EVALUATED = {
    "first": ["Write a poem about the sea in exactly three lines, please.", "???"],
    "second": ["List five colours of the rainbow.", "Name the capital of France."],
}


def pool(*texts: str) -> PromptFile:
    return PromptFile([Prompt(compute_prompt_id(text), text) for text in texts], 0, [])


@pytest.mark.parametrize(
    "text, counted",
    [
        ("Write a poem about the sea in exactly three lines, please.", "first"),
        ("WRITE a poem about the sea in exactly four lines, please!", "first"),
        ("???", "first"),
        ("  list five COLOURS of the rainbow", "second"),
        ("Write a letter to your landlord about the heating.", None),
        ("Name the highest mountain of Peru and its height.", None),
    ],
)
def test_equal_and_nearly_equal_prompts_are_left_out(text: str, counted: str | None) -> None:
    found, left_out = remove_contaminated(pool("Something else entirely?", text), EVALUATED)
    assert [prompt.text for prompt in found.prompts] == [
        "Something else entirely?",
        *([] if counted else [text]),
    ]
    assert found.contaminated == (1 if counted else 0)
    assert left_out == {name: int(name == counted) for name in EVALUATED}


def test_a_pool_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(InputError, match=r"every prompt of the pool equals or nearly equals"):
        remove_contaminated(pool("???"), EVALUATED)
