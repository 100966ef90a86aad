"""Start a line for the model, and compute the probability of each allowed value.

Nothing is sampled here. A value may be several tokens: its probability is that of all of them in
order. If one value is a prefix of another (`1` and `10`), the end of the reply after the value
counts as part of it, so that neither is credited with the other's probability.

Uses token ids, a tokenizer and functions that return logits, but not a model.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from meta_reward_core.engines.base import (
    Completion,
    Conversation,
    ForcedLine,
    ForcedLineReading,
    ForcedLineRequest,
    pack_token_ids,
)
from meta_reward_core.engines.prompt_encoder import TokenIds, find_end_token_ids
from meta_reward_core.errors import EngineError

NextTokens = Mapping[TokenIds, Sequence[int]]
"""Sequence of tokens -> tokens that may follow it."""

LogProbabilities = Mapping[tuple[TokenIds, int], float]
"""(sequence, following token) -> natural logarithm of its probability"""


@dataclass(frozen=True, slots=True)
class LineTokens:
    """A line as tokens.

    Attributes:
        beginning: tokens of the beginning, at least one.
        values: tokens of each value, at least one; all values are distinct.
        ends_values: whether an end token belongs to every value when it is scored.
    """

    beginning: TokenIds
    values: tuple[TokenIds, ...]
    ends_values: bool

    @property
    def longest(self) -> int:
        """Number of tokens of the line with its longest value."""
        return len(self.beginning) + max(map(len, self.values)) + self.ends_values


def encode_line(tokenizer: PreTrainedTokenizerBase, line: ForcedLine) -> LineTokens:
    """Encode a line with each of its values; their common prefix is the line's start.

    Raises:
        EngineError: the tokenizer encodes two values as the same tokens, or a value as no tokens.
    """
    texts = [line.beginning + value for value in line.values]
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    wholes = [tuple(ids) for ids in encoded]
    common = _count_common(wholes)
    values = tuple(whole[common:] for whole in wholes)
    unknown = tokenizer.unk_token_id
    if (
        common == 0
        or len(set(values)) < len(values)
        or not all(values)
        or any(token == unknown for whole in wholes for token in whole if unknown is not None)
    ):
        raise EngineError(
            f"The model's tokenizer does not distinguish the values {', '.join(line.values)} "
            f"after "
            f"{line.beginning.strip()!r}: use a free readout with this model."
        )
    ends = any(one != other and other[: len(one)] == one for one in values for other in values)
    return LineTokens(wholes[0][:common], values, ends_values=ends)


def _count_common(wholes: Sequence[TokenIds]) -> int:
    """Count the leading tokens that all sequences share."""
    shortest = min(map(len, wholes))
    return next((n for n in range(shortest) if len({whole[n] for whole in wholes}) > 1), shortest)


def cut_token_ids(
    tokenizer: PreTrainedTokenizerBase,
    completion: Completion,
    *,
    kept_chars: int,
    end_ids: Sequence[int],
) -> tuple[TokenIds, str]:
    """Return the leading tokens whose text fits into the first characters, and that text.

    A token that extends past these characters is dropped with the rest. If no ids were stored, the
    kept text is encoded.
    """
    if completion.token_ids is None:
        kept = completion.text[:kept_chars]
        ids = tokenizer([kept], add_special_tokens=False, verbose=False)["input_ids"][0]
        return tuple(ids), kept
    sampled = tuple(completion.token_ids)
    if sampled and sampled[-1] in end_ids:
        sampled = sampled[:-1]

    def decode(count: int) -> str:
        return str(tokenizer.decode(list(sampled[:count]), skip_special_tokens=True))

    whole = decode(len(sampled))
    # A reasoning block opened by the prompt is part of the text but not of the sampled tokens.
    opening = completion.text.removesuffix(whole) if completion.text.endswith(whole) else ""
    kept = completion.text[len(opening) : max(kept_chars, len(opening))]

    count = bisect_right(range(len(sampled) + 1), len(kept), key=lambda n: len(decode(n))) - 1
    while count > 0 and not kept.startswith(decode(count)):
        count -= 1
    return sampled[:count], opening + decode(count)


@dataclass(frozen=True, slots=True)
class ForcedLineDecoder:
    """Computes forced lines of one model.

    Attributes:
        tokenizer: tokenizer of the model.
        encode: returns the token ids of conversations, as prompts of replies.
        read_next: returns the log-probabilities of tokens after sequences; each sequence is read
            once.
        end_ids: tokens that end a reply.
        limit: maximum number of tokens that the model accepts; None for no limit.
    """

    tokenizer: PreTrainedTokenizerBase
    encode: Callable[[Sequence[Conversation]], list[TokenIds]]
    read_next: Callable[[NextTokens], LogProbabilities]
    end_ids: Sequence[int]
    limit: int | None

    def read(
        self, requests: Sequence[ForcedLineRequest], line: ForcedLine
    ) -> list[ForcedLineReading | None]:
        """See `ForcedLineReader.read_forced_lines`."""
        tokens = encode_line(self.tokenizer, line)
        prompts = self._encode_once([request.conversation for request in requests])
        cut = [
            cut_token_ids(
                self.tokenizer,
                request.completion,
                kept_chars=request.kept_chars,
                end_ids=self.end_ids,
            )
            for request in requests
        ]
        prefixes = [
            prompt + ids + tokens.beginning for prompt, (ids, _) in zip(prompts, cut, strict=True)
        ]
        room = tokens.longest - len(tokens.beginning)
        fitting = [
            prefix
            for prefix in dict.fromkeys(prefixes)
            if self.limit is None or len(prefix) + room <= self.limit
        ]
        scores = dict(zip(fitting, self._score(fitting, tokens), strict=True))
        return [
            make_reading(
                ids, text, line, tokens, log_probabilities=scores[prefix], end_id=self.end_ids[0]
            )
            if prefix in scores
            else None
            for prefix, (ids, text) in zip(prefixes, cut, strict=True)
        ]

    def _encode_once(self, conversations: Sequence[Conversation]) -> list[TokenIds]:
        """Encode each conversation; equal conversations are encoded once."""
        keys = [
            tuple((message["role"], message["content"]) for message in conversation)
            for conversation in conversations
        ]
        distinct = dict(zip(keys, conversations, strict=True))
        ids = dict(zip(distinct, self.encode(list(distinct.values())), strict=True))
        return [ids[key] for key in keys]

    def _score(self, prefixes: Sequence[TokenIds], line: LineTokens) -> list[tuple[float, ...]]:
        """Compute the log-probability of every value after each prefix."""
        end = (self.end_ids[0],) if line.ends_values else ()
        tails = [value + end for value in line.values]
        wanted: defaultdict[TokenIds, set[int]] = defaultdict(set)
        for prefix in prefixes:
            for tail in tails:
                for place, token in enumerate(tail):
                    wanted[prefix + tail[:place]].add(token)
        found = self.read_next({sequence: sorted(wanted[sequence]) for sequence in wanted})
        return [
            tuple(
                sum(found[prefix + tail[:place], token] for place, token in enumerate(tail))
                for tail in tails
            )
            for prefix in prefixes
        ]


def make_reading(
    ids: TokenIds,
    text: str,
    line: ForcedLine,
    tokens: LineTokens,
    *,
    log_probabilities: tuple[float, ...],
    end_id: int,
) -> ForcedLineReading:
    """Combine the probabilities into a reading.

    Args:
        ids: token ids of the kept text.
        text: the kept text.
        tokens: tokens of the line.
        log_probabilities: log-probabilities of the values of the line.
        end_id: a token that ends a reply.
    """
    return ForcedLineReading(
        text=text + line.beginning,
        log_probabilities=log_probabilities,
        token_ids=pack_token_ids(ids + tokens.beginning),
        injected=len(tokens.beginning),
        value_ids=tuple(pack_token_ids(value) for value in tokens.values),
        end_id=end_id,
    )


@dataclass(frozen=True, slots=True)
class PolicyTokenizer:
    """The tokenizer of a model whose weights are on a server.

    Attributes:
        tokenizer: the tokenizer of that model.
        end_ids: tokens that end a reply.
    """

    tokenizer: PreTrainedTokenizerBase
    end_ids: Sequence[int]

    @classmethod
    def load(cls, folder: Path) -> "PolicyTokenizer":
        """Read tokenizer and configs of a model's folder; no weights."""
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return cls(tokenizer, find_end_token_ids(folder, config, tokenizer))

    def list_kept_texts(self, requests: Sequence[ForcedLineRequest]) -> list[str]:
        """Return the text of each completion before the line; it ends with a complete token."""
        return [text for _, text in map(self._cut, requests)]

    def make_readings(
        self,
        requests: Sequence[ForcedLineRequest],
        line: ForcedLine,
        log_probabilities: Sequence[tuple[float, ...] | None],
    ) -> list[ForcedLineReading | None]:
        """Build readings from values that a server scored; None if it did not score them."""
        tokens = encode_line(self.tokenizer, line)
        return [
            None
            if values is None
            else make_reading(
                *self._cut(request),
                line,
                tokens,
                log_probabilities=values,
                end_id=self.end_ids[0],
            )
            for request, values in zip(requests, log_probabilities, strict=True)
        ]

    def _cut(self, request: ForcedLineRequest) -> tuple[TokenIds, str]:
        return cut_token_ids(
            self.tokenizer,
            request.completion,
            kept_chars=request.kept_chars,
            end_ids=self.end_ids,
        )
