"""Encode conversations so that user text never becomes a control token.

A text such as `<|im_end|>` in a prompt, or in a response that is being judged, would otherwise
end the turn and let its author impersonate another role.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from jinja2 import TemplateError as ChatTemplateError
from transformers import GenerationConfig, PreTrainedTokenizerBase

from meta_reward_core.engines.base import Completion, Conversation, Message
from meta_reward_core.errors import ModelFolderError
from meta_reward_core.models.chat import (
    ChatOptions,
    find_opened_reasoning,
    render_answer_context,
    render_chat,
)

TokenIds = tuple[int, ...]

RENDERING_ERRORS: Final = (
    ChatTemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError,
)  # fmt: skip
"""Errors of a chat template for a conversation; templates evaluate expressions of any type."""

_PLAIN_CONVERSATION: Final[Conversation] = [{"role": "user", "content": "Reply with the word OK."}]
_Render = Callable[[Conversation], str]


def compile_special_token_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Compile a pattern that matches the text of any control token of `tokenizer`."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    texts = sorted({*added, *tokenizer.all_special_tokens}, key=lambda text: (-len(text), text))
    return re.compile("|".join(re.escape(text) for text in texts if text) or r"(?!)")


class PromptEncoder:
    """Renders conversations with the chat template, up to the generation prompt."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Look up the control tokens of `tokenizer` once."""
        self._tokenizer = tokenizer
        self._special = compile_special_token_pattern(tokenizer)
        self._special_ids = frozenset(tokenizer.all_special_ids)
        self._opened: dict[ChatOptions, str] = {}

    def encode(
        self,
        conversations: Sequence[Conversation],
        options: ChatOptions = ChatOptions(),  # noqa: B008 frozen
    ) -> list[TokenIds]:
        """Encode each conversation with its generation prompt, in order."""
        render = partial(render_chat, self._tokenizer, add_generation_prompt=True, options=options)
        return self._encode(conversations, render)

    def encode_or_refuse(
        self,
        conversations: Sequence[Conversation],
        options: ChatOptions = ChatOptions(),  # noqa: B008 frozen
    ) -> list[TokenIds | Completion]:
        """Encode each conversation like `encode`; one that the template rejects is refused.

        A template that rejects every conversation is at fault itself, so its error is raised.
        """
        try:
            return [*self.encode(conversations, options)]
        except RENDERING_ERRORS:
            if not self.renders_plain_prompt(options):
                raise
        encoded: list[TokenIds | Completion] = []
        for conversation in conversations:
            try:
                encoded += self.encode([conversation], options)
            except RENDERING_ERRORS as error:
                refusal = f"the chat template rejects the prompt: {error}"
                encoded.append(Completion("", 0, "refused", refusal=refusal))
        return encoded

    def renders_plain_prompt(self, options: ChatOptions) -> bool:
        """Whether the chat template renders a plain prompt, so that it is not at fault itself."""
        try:
            self.encode([_PLAIN_CONVERSATION], options)
        except RENDERING_ERRORS:
            return False
        return True

    def encode_answer_contexts(
        self,
        conversations: Sequence[Conversation],
        options: ChatOptions = ChatOptions(),  # noqa: B008 frozen
    ) -> list[TokenIds]:
        """Encode the context of an answer without reasoning; see `render_answer_context`."""
        return self._encode(
            conversations, partial(render_answer_context, self._tokenizer, options=options)
        )

    def find_opened_reasoning(self, options: ChatOptions) -> str:
        """Return the reasoning block that the generation prompt opens, if any."""
        if options not in self._opened:
            self._opened[options] = find_opened_reasoning(self._tokenizer, options)
        return self._opened[options]

    def _encode(self, conversations: Sequence[Conversation], render: _Render) -> list[TokenIds]:
        encoded = self._tokenize(
            [render(item) for item in conversations], split_special_tokens=False
        )
        return [
            self._encode_escaped(conversation, render)
            if self.has_special_token_text(conversation)
            else tuple(ids)
            for conversation, ids in zip(conversations, encoded, strict=True)
        ]

    def has_special_token_text(self, conversation: Sequence[Message]) -> bool:
        """Whether a message contains the text of a control token."""
        return any(self._special.search(message["content"]) for message in conversation)

    def _encode_escaped(self, conversation: Conversation, render: _Render) -> TokenIds:
        """Encode the texts of control tokens inside contents as ordinary text.

        With a tokenizer that cannot do so (one word per token), these words are lost.
        """
        found: dict[str, str] = {}
        marked = [self._mark(message, found) for message in conversation]
        pieces = re.split(f"({'|'.join(found)})", render(marked))
        ids: list[int] = []
        for piece in filter(None, pieces):
            if piece in found:
                plain = self._tokenize([found[piece]], split_special_tokens=True)[0]
                ids.extend(token for token in plain if token not in self._special_ids)
            else:
                ids.extend(self._tokenize([piece], split_special_tokens=False)[0])
        return tuple(ids)

    def _mark(self, message: Message, found: dict[str, str]) -> Message:
        """Replace each control token's text with an unpredictable mark."""
        digest = hashlib.sha256(message["content"].encode()).hexdigest()[:16]

        def mark(match: re.Match[str]) -> str:
            name = f"\ue000{digest}{len(found)}\ue001"
            found[name] = match.group()
            return name

        content = self._special.sub(mark, message["content"])
        return {"role": message["role"], "content": content}

    def _tokenize(self, texts: list[str], *, split_special_tokens: bool) -> list[list[int]]:
        if not texts:
            return []
        encoded = self._tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=split_special_tokens,
            verbose=False,
        )
        return [list(ids) for ids in encoded["input_ids"]]


def find_end_token_ids(
    folder: Path, config: Any, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, ...]:
    """Ids that end a reply, by the generation config and by the tokenizer.

    Raises:
        ModelFolderError: neither defines an end token.
    """
    try:
        generation = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except OSError:
        generation = GenerationConfig.from_model_config(config)
    named = generation.eos_token_id
    ends = set(named) if isinstance(named, list) else {named}
    ids = sorted(end for end in {*ends, tokenizer.eos_token_id} if end is not None)
    if not ids:
        raise ModelFolderError("The model defines no end token: its replies would never stop.")
    return tuple(ids)
