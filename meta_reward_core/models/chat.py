"""Render conversations with a model's chat template, for engines, training and checks.

A chat template is a program. It may read the current date or open a reasoning block, so its output
depends on more than the conversation; `ChatOptions` contains the rest. This module imports no model
library: the caller supplies the tokenizer.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date as Date  # noqa: N812
from datetime import datetime, time
from typing import Any, Final, Protocol

from meta_reward_core.models.reasoning import extract_open_block

_ANSWER_MARK: Final = "\ue000answer\ue001"
"""Placeholder for the text of a turn, from a private use area, so that templates do not treat it
specially.
"""


class ChatTokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        """Render a conversation."""


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """Variables of a chat template besides the conversation.

    Attributes:
        date: the date that the template's `strftime_now` returns, as YYYY-MM-DD; None: the day of
            the call, so the prompt of the same conversation changes from day to day.
        allow_reasoning: False asks the template for a prompt after which the model writes no
            reasoning, through the variables that public templates read; other templates ignore
            them.
    """

    date: str | None = None
    allow_reasoning: bool = True

    def __post_init__(self) -> None:
        """Refuse an invalid date.

        Raises:
            ValueError: the date is not in the form YYYY-MM-DD.
        """
        if self.date is not None:
            Date.fromisoformat(self.date)

    def build_variables(self) -> dict[str, Any]:
        """Build the template variables, which take precedence over its globals."""
        variables: dict[str, Any] = {}
        if self.date is not None:
            variables["strftime_now"] = datetime.combine(
                Date.fromisoformat(self.date), time()
            ).strftime
        if not self.allow_reasoning:
            variables |= {"enable_thinking": False, "thinking": False}
        return variables


def render_chat(
    tokenizer: ChatTokenizer,
    messages: Iterable[Mapping[str, object]],
    *,
    add_generation_prompt: bool,
    options: ChatOptions = ChatOptions(),
) -> str:
    """Render a conversation as the model reads it.

    Raises:
        jinja2.TemplateError: the template refuses the conversation.
    """
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in messages]
    text = tokenizer.apply_chat_template(
        turns,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        **options.build_variables(),
    )
    return str(text)


def render_answer_context(
    tokenizer: ChatTokenizer,
    messages: Iterable[Mapping[str, object]],
    *,
    options: ChatOptions = ChatOptions(),
) -> str:
    """Render the context before the text of an assistant turn without reasoning.

    Usually this is the generation prompt. If a template opens a reasoning block there, or writes an
    empty one before an answer without reasoning, it is the text before such an answer.

    Raises:
        jinja2.TemplateError: the template refuses the conversation.
    """
    prompt = list(messages)
    turn = {"role": "assistant", "content": _ANSWER_MARK}
    whole = render_chat(tokenizer, [*prompt, turn], add_generation_prompt=False, options=options)
    context, mark, _ = whole.partition(_ANSWER_MARK)
    if mark:
        return context
    return render_chat(tokenizer, prompt, add_generation_prompt=True, options=options)


def render_answer_end(
    tokenizer: ChatTokenizer,
    options: ChatOptions = ChatOptions(),
) -> str:
    """Render what follows the text of the last assistant turn, such as an end token."""
    turns = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": _ANSWER_MARK},
    ]
    whole = render_chat(tokenizer, turns, add_generation_prompt=False, options=options)
    return whole.partition(_ANSWER_MARK)[2]


def render_generation_prompt(
    tokenizer: ChatTokenizer,
    options: ChatOptions = ChatOptions(),
) -> str:
    """Render the text that the template appends to start the assistant's turn."""
    question = [{"role": "user", "content": "Hello."}]
    without, with_it = (
        render_chat(tokenizer, question, add_generation_prompt=add, options=options)
        for add in (False, True)
    )
    same = next(
        (at for at, (one, other) in enumerate(zip(without, with_it, strict=False)) if one != other),
        min(len(without), len(with_it)),
    )
    return with_it[_find_token_start(with_it, same) :]


def _find_token_start(text: str, place: int) -> int:
    """Return the start of the control token at a position, else the position.

    Two different tokens (`<|end|>`, `<|assistant|>`) may start with the same characters.
    """
    opened = max(text.rfind(mark, 0, place) for mark in "<[")
    closed = max(text.rfind(mark, 0, place) for mark in ">]")
    return opened if opened > closed else place


def find_opened_reasoning(
    tokenizer: ChatTokenizer,
    options: ChatOptions = ChatOptions(),
) -> str:
    """Return the reasoning block that the generation prompt opens, such as `<think>`.

    A completion continues the block, so its text can only be interpreted together with the opening
    mark. The result is empty for most templates.
    """
    return extract_open_block(render_generation_prompt(tokenizer, options))
