"""Reasoning blocks of completions: their marks, and what counts under a policy.

A reasoning model writes `<think> ... </think>` before its answer, or similar marks. Some chat
templates write the opening mark into the prompt, so that the model only closes the block.
"""

import re
from typing import Final, Literal

ReasoningPolicy = Literal["keep", "strip", "forbid"]
"""`keep`: a completion counts as sampled, reasoning included. `strip`: only the text after the
reasoning is judged, compared, measured and trained on. `forbid`: the chat template is asked to turn
reasoning off, and a block that is written anyway is treated as under `strip`."""

REASONING_POLICIES: Final[tuple[ReasoningPolicy, ...]] = ("keep", "strip", "forbid")

_MARK: Final = re.compile(
    r"(?<![`\"'\u201c\u2018])(?:"
    r"<(?P<closes>/?)(?:think|thinking|thought|thoughts|reasoning|reason|reflection|scratchpad"
    r"|analysis|begin_of_thought|seed:think)\s{0,3}>"
    r"|(?P<opens_other>\[THINK\]|<\|begin_of_thought\|>|\u25c1think\u25b7"
    r"|<\|channel\|>\s{0,3}analysis|<\|channel>\s{0,3}thought)"
    r"|(?P<closes_other>\[/THINK\]|<\|end_of_thought\|>|\u25c1/think\u25b7"
    r"|<\|channel\|>\s{0,3}final|<channel\|>))",
    re.IGNORECASE,
)
"""Marks of reasoning blocks in public chat templates: Qwen, DeepSeek, Magistral, Kimi, gpt-oss,
Gemma 4."""


def extract_finished_part(text: str) -> str | None:
    """Return the text after the last closed reasoning block; None if a block is still open.

    A closing mark without an opening mark also counts, because the template may have written the
    opening mark into the prompt.
    """
    start, opened_at = _scan(text)
    return None if opened_at is not None else text[start:]


def extract_open_block(text: str) -> str:
    """Return the open reasoning block at the end of a text, with its mark; empty if none."""
    _, opened_at = _scan(text)
    return "" if opened_at is None else text[opened_at:]


def select_answer(text: str, policy: ReasoningPolicy) -> str | None:
    """Return the part of a completion that counts under a policy.

    Returns:
        The whole text under `keep`, or if it contains no reasoning; otherwise the text after the
        reasoning, without the whitespace between them; None if the reasoning is unfinished.
    """
    answer = text if policy == "keep" else extract_finished_part(text)
    return answer if answer is None or len(answer) == len(text) else answer.lstrip()


def _scan(text: str) -> tuple[int, int | None]:
    """Return the end of the last closed block, and the start of the open one if any."""
    end, opened_at = 0, None
    for mark in _MARK.finditer(text):
        if mark["closes"] or mark["closes_other"]:
            end, opened_at = mark.end(), None
        elif opened_at is None:
            opened_at = mark.start()
    return end, opened_at


def find_marks(text: str) -> list[str]:
    """Find the reasoning marks in a text such as a chat template, each once."""
    return list(dict.fromkeys(mark.group() for mark in _MARK.finditer(text)))
