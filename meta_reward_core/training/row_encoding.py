"""Encode rows as token ids: exactly the sampled tokens, if they are known.

Tokenizing a sampled text may produce tokens that differ from the sampled tokens, and a chat
template may rewrite an assistant's turn. So a row whose completions have stored token ids trains on
the engine's prompt and on these ids. They include the end token if one was sampled, but not if the
token limit cut off the completion. Other rows are rendered by the chat template.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from transformers import PreTrainedTokenizerBase

from meta_reward_core.engines.base import Message
from meta_reward_core.engines.prompt_encoder import RENDERING_ERRORS, PromptEncoder
from meta_reward_core.models.chat import (
    ChatOptions,
    render_answer_context,
    render_answer_end,
    render_chat,
)
from meta_reward_core.models.fingerprint import find_end_token_ids
from meta_reward_core.models.reasoning import ReasoningPolicy
from meta_reward_core.training.row_types import RowIterable, SampledTokens, TrainingRow

BATCH_ROWS: Final = 256
SIDES: Final = ("chosen", "rejected", "completion")
"""Completions of a row, in the order of `EncodedRow.reply_ids`."""


TOO_LONG: Final = "longer_than_max_length"
"""Refusal reason of a row that is longer than `max_length`."""

EQUAL_REPLIES: Final = "equal_after_rendering"
NOT_RENDERED: Final = "rejected_by_chat_template"
"""Refusal reason of a pair whose chosen and rejected completion are the same tokens."""


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """A row and its token ids.

    Attributes:
        prompt_ids: ids of the prompt, which are excluded from the loss.
        reply_ids: ids that follow the prompt, for each completion of the row.
        problem: why the row cannot be trained on, if its ids show a problem.
        is_sampled: whether the completions are the tokens sampled by an engine.
        is_canonical: for sampled rows, whether tokenizing the texts gives the same tokens.
        is_rewritten: for sampled rows, whether the chat template renders a text differently from
            what the engine sampled.
        is_equal: for sampled pairs, whether the chat template renders both completions equally.
        injected: for each completion, positions in its ids of tokens given to the model; they are
            excluded from the loss too.
    """

    row: TrainingRow
    prompt_ids: list[int]
    reply_ids: list[list[int]]
    problem: str | None = None
    is_sampled: bool = False
    is_canonical: bool = True
    is_rewritten: bool = False
    is_equal: bool = False
    injected: tuple[list[int], ...] = ()

    def get_injected(self, side: int) -> list[int]:
        """Return positions of given tokens in a completion, by its index in `reply_ids`."""
        return self.injected[side] if self.injected else []

    def find_refusal(self, *, max_length: int) -> str | None:
        """Return why the row cannot be trained on; None if it can.

        Args:
            max_length: maximum length of prompt and completion together, in tokens.
        """
        if self.problem is not None:
            return self.problem
        if not all(self.reply_ids):
            return "empty_completion"
        has_equal_ids = len(self.reply_ids) > 1 and self.reply_ids[0] == self.reply_ids[1]
        if has_equal_ids or self.is_equal:
            return EQUAL_REPLIES
        return TOO_LONG if self.length > max_length else None

    @property
    def length(self) -> int:
        """Tokens of the prompt and the longest completion."""
        return len(self.prompt_ids) + max(map(len, self.reply_ids), default=0)


@dataclass(frozen=True, slots=True)
class _Planned:
    """A row before its texts are tokenized.

    Attributes:
        texts: the texts to tokenize. If the row has sampled tokens, its completions after the
            prompt; otherwise the prompt and the complete dialogues.
        prompt_ids: ids of the prompt, for a row with sampled tokens.
        reply_ids: ids of the completions, for a row with sampled tokens.
        stands_alone: for a row with sampled tokens, whether `texts` omit the prompt because it
            contains the text of a control token.
        is_equal: for a pair with sampled tokens, whether the chat template renders both
            completions equally.
        problem: why the row cannot be trained on; then it has no texts.
    """

    row: TrainingRow
    texts: list[str]
    prompt_ids: list[int] | None = None
    reply_ids: tuple[list[int], ...] = ()
    is_rewritten: bool = False
    stands_alone: bool = False
    is_equal: bool = False
    problem: str | None = None


class RowEncoder:
    """Encodes rows as token ids for one model."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        end_ids: Sequence[int],
        chat_date: str | None = None,
    ) -> None:
        """Look up the control tokens of `tokenizer` once.

        Args:
            end_ids: tokens that end a completion.
            chat_date: the current date for the chat template; see `ChatOptions`.
        """
        self._tokenizer = tokenizer
        self._encoder = PromptEncoder(tokenizer)
        self._end_ids = frozenset(end_ids)
        self._chat_date = chat_date
        self._answer_ends: dict[ChatOptions, str] = {}

    @classmethod
    def build_for_model(
        cls, tokenizer: PreTrainedTokenizerBase, folder: Path, *, chat_date: str | None = None
    ) -> "RowEncoder":
        """Create the encoder for the model in a folder."""
        eos = tokenizer.eos_token_id
        end_ids = find_end_token_ids(folder, tokenizer_eos=eos if isinstance(eos, int) else None)
        return cls(tokenizer, end_ids=end_ids, chat_date=chat_date)

    def encode(self, rows: RowIterable[TrainingRow]) -> Iterator[EncodedRow]:
        """Yield each row with its token ids; several rows are tokenized per call."""
        source = iter(rows)
        while some := list(islice(source, BATCH_ROWS)):
            planned = [self._plan_or_refuse(row) for row in some]
            texts = [text for plan in planned for text in plan.texts]
            ids = iter(self._tokenize(texts))
            for plan in planned:
                yield self._finish(plan, [next(ids) for _ in plan.texts])

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        """Tokenize texts; there are none if all rows of a batch are refused."""
        if not texts:
            return []
        encoded = self._tokenizer(texts, add_special_tokens=False, verbose=False)
        return [list(ids) for ids in encoded["input_ids"]]

    def _plan_or_refuse(self, row: TrainingRow) -> _Planned:
        """Plan a row; one that the chat template rejects is refused, unless it rejects all."""
        try:
            return self._plan(row)
        except RENDERING_ERRORS:
            if not self._encoder.renders_plain_prompt(self._get_options(row)):
                raise
        return _Planned(row, [], problem=NOT_RENDERED)

    def _plan(self, row: TrainingRow) -> _Planned:
        sampled = self._select_sampled_ids(row)
        context, options = self._render_context(row), self._get_options(row)
        dialogues = [
            render_chat(
                self._tokenizer,
                [*row["prompt"], *reply],
                add_generation_prompt=False,
                options=options,
            )
            for reply in list_replies(row)
        ]
        if sampled is None:
            return _Planned(row, [context, *dialogues])
        texts = self._tokenizer.batch_decode(
            [self._drop_end(ids) for ids in sampled], skip_special_tokens=True
        )
        has_control_text = self._encoder.has_special_token_text(row["prompt"])
        return _Planned(
            row,
            list(texts) if has_control_text else [context + text for text in texts],
            prompt_ids=self._encode_context(row),
            reply_ids=sampled,
            is_rewritten=any(
                whole != context + text + self._get_answer_end(options)
                for whole, text in zip(dialogues, texts, strict=True)
            ),
            stands_alone=has_control_text,
            is_equal=len(dialogues) > 1 and dialogues[0] == dialogues[1],
        )

    def _finish(self, plan: _Planned, ids: list[list[int]]) -> EncodedRow:
        if plan.problem is not None:
            return EncodedRow(plan.row, [], [], plan.problem)
        if plan.prompt_ids is None:
            return self._finish_rendered(plan.row, *ids)
        skipped = 0 if plan.stands_alone else len(plan.prompt_ids)
        bodies = [self._drop_end(reply) for reply in plan.reply_ids]
        return EncodedRow(
            plan.row,
            plan.prompt_ids,
            list(plan.reply_ids),
            is_sampled=True,
            is_canonical=all(
                made[skipped:] == body for made, body in zip(ids, bodies, strict=True)
            ),
            is_rewritten=plan.is_rewritten,
            is_equal=plan.is_equal,
            injected=_shift_injected(plan.row, plan.reply_ids),
        )

    def _finish_rendered(
        self, row: TrainingRow, prompt: list[int], *wholes: list[int]
    ) -> EncodedRow:
        problem = None
        messages = [*row["prompt"], *(message for reply in list_replies(row) for message in reply)]
        if self._encoder.has_special_token_text(messages):
            problem = "control_token_in_text"
        elif any(whole[: len(prompt)] != prompt for whole in wholes):
            problem = "prompt_is_no_prefix_of_the_row"
        elif any(one is not None and one.get("injected_at") for one in list_sampled(row)):
            problem = "given_tokens_cannot_be_left_out"
        return EncodedRow(row, prompt, [whole[len(prompt) :] for whole in wholes], problem)

    def _select_sampled_ids(self, row: TrainingRow) -> tuple[list[int], ...] | None:
        """Return each completion's token ids for training; None unless all are known."""
        sampled = list_sampled(row)
        if None in sampled:
            return None
        selected = [
            self._select_ids(one, reply[0]["content"], get_policy(row))
            for one, reply in zip(sampled, list_replies(row), strict=True)
            if one is not None
        ]
        known = tuple(ids for ids in selected if ids is not None)
        return known if len(known) == len(selected) else None

    def _select_ids(
        self, sampled: SampledTokens, text: str, policy: ReasoningPolicy
    ) -> list[int] | None:
        """Return the sampled ids, or those of the answer if a policy requires it; None if unusable.

        If a server omits the end token from its list, the model would not learn to stop.
        """
        ids = sampled["token_ids"]
        if sampled["finish_reason"] == "stop" and not (ids and ids[-1] in self._end_ids):
            return None
        return ids if policy == "keep" else self._find_answer_ids(ids, text)

    def _find_answer_ids(self, ids: list[int], answer: str) -> list[int] | None:
        """Return the last ids whose text is the answer; None if no token starts with it.

        The text grows with the number of ids, so the number is found by bisection.
        """
        if self._tokenizer.decode(ids, skip_special_tokens=True) == answer:
            return ids
        wanted = answer.lstrip()
        low, high = 0, len(ids)  # the first position from which the text is shorter
        while low < high:
            middle = (low + high) // 2
            if len(self._decode(ids[middle:])) < len(wanted):
                high = middle
            else:
                low = middle + 1
        for start in (low - 1, low):
            if start >= 0 and self._decode(ids[start:]) == wanted:
                return ids[start:]
        return None

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)).lstrip()

    def _drop_end(self, ids: list[int]) -> list[int]:
        return ids[:-1] if ids and ids[-1] in self._end_ids else ids

    def _get_options(self, row: TrainingRow) -> ChatOptions:
        return ChatOptions(self._chat_date, allow_reasoning=get_policy(row) != "forbid")

    def _get_answer_end(self, options: ChatOptions) -> str:
        """Return the text that the template writes after each completion."""
        if options not in self._answer_ends:
            self._answer_ends[options] = render_answer_end(self._tokenizer, options)
        return self._answer_ends[options]

    def _render_context(self, row: TrainingRow) -> str:
        """Return a completion's context: the engine's prompt, or that of an answer alone."""
        options = self._get_options(row)
        if get_policy(row) == "strip":
            return render_answer_context(self._tokenizer, row["prompt"], options=options)
        return render_chat(
            self._tokenizer, row["prompt"], add_generation_prompt=True, options=options
        )

    def _encode_context(self, row: TrainingRow) -> list[int]:
        encode = (
            self._encoder.encode_answer_contexts
            if get_policy(row) == "strip"
            else self._encoder.encode
        )
        [ids] = encode([row["prompt"]], self._get_options(row))
        return list(ids)


def get_policy(row: TrainingRow) -> ReasoningPolicy:
    """Return the reasoning policy of a row."""
    return row.get("reasoning", "keep")


def list_replies(row: TrainingRow) -> list[list[Message]]:
    """Return the completions of a row, in the order of `SIDES`."""
    values: Mapping[str, Any] = row
    return [values[side] for side in SIDES if side in values]


def list_sampled(row: TrainingRow) -> list[SampledTokens | None]:
    """List the sampled tokens of each completion of a row; None if unknown."""
    values: Mapping[str, Any] = row
    return [values.get(f"{side}_drawn") for side in SIDES if side in values]


def _shift_injected(row: TrainingRow, reply_ids: Sequence[list[int]]) -> tuple[list[int], ...]:
    """Return positions of given tokens in the trained ids, which are the last sampled ids."""
    found = []
    for sampled, ids in zip(list_sampled(row), reply_ids, strict=True):
        positions = sampled.get("injected_at", []) if sampled is not None else []
        left_out = len(sampled["token_ids"]) - len(ids) if sampled is not None else 0
        found.append([place - left_out for place in positions if place >= left_out])
    return tuple(found)
