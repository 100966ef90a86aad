"""From a conversation to token ids, so that what a user wrote never becomes a control token.

A text such as `<|im_end|>` in a prompt, or in a response that is being judged, would otherwise
end the turn and let its author speak as somebody else.
"""

import hashlib
import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from meta_reward_core.engines.base import Conversation, Message

TokenIds = tuple[int, ...]


def compile_special_token_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """A pattern that finds the text of any control token of `tokenizer`."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    texts = sorted({*added, *tokenizer.all_special_tokens}, key=lambda text: (-len(text), text))
    return re.compile("|".join(re.escape(text) for text in texts if text) or r"(?!)")


class PromptEncoder:
    """Renders conversations by the tokenizer's chat template, up to the assistant's first word."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Look the control tokens of `tokenizer` up once."""
        self._tokenizer = tokenizer
        self._special = compile_special_token_pattern(tokenizer)
        self._special_ids = frozenset(tokenizer.all_special_ids)

    def encode(self, conversations: Sequence[Conversation]) -> list[TokenIds]:
        """Token ids of each conversation, its generation prompt included, in order."""
        texts = [self._render(item) for item in conversations]
        encoded = self._tokenize(texts, split_special_tokens=False)
        return [
            self._encode_escaped(conversation)
            if self._has_special_token_text(conversation)
            else tuple(ids)
            for conversation, ids in zip(conversations, encoded, strict=True)
        ]

    def _has_special_token_text(self, conversation: Conversation) -> bool:
        return any(self._special.search(message["content"]) for message in conversation)

    def _encode_escaped(self, conversation: Conversation) -> TokenIds:
        """Encode the texts of control tokens inside contents as ordinary text.

        A tokenizer that cannot do so (one word, one token) loses these words instead.
        """
        found: dict[str, str] = {}
        marked = [self._mark(message, found) for message in conversation]
        pieces = re.split(f"({'|'.join(found)})", self._render(marked))
        ids: list[int] = []
        for piece in filter(None, pieces):
            if piece in found:
                plain = self._tokenize([found[piece]], split_special_tokens=True)[0]
                ids.extend(token for token in plain if token not in self._special_ids)
            else:
                ids.extend(self._tokenize([piece], split_special_tokens=False)[0])
        return tuple(ids)

    def _mark(self, message: Message, found: dict[str, str]) -> Message:
        """Replace each control token's text by a mark that its author cannot have foreseen."""
        digest = hashlib.sha256(message["content"].encode()).hexdigest()[:16]

        def mark(match: re.Match[str]) -> str:
            name = f"\ue000{digest}{len(found)}\ue001"
            found[name] = match.group()
            return name

        content = self._special.sub(mark, message["content"])
        return {"role": message["role"], "content": content}

    def _render(self, conversation: Conversation) -> str:
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in conversation]
        text = self._tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
        return str(text)

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
