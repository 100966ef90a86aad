"""The engine protocol: it turns conversations into completions.

An engine is independent of rubrics, scores and pairs.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, TypedDict, runtime_checkable

from meta_reward_core.errors import EngineError
from meta_reward_core.models.chat import ChatOptions


class Message(TypedDict):
    """A message of a conversation, in the format of chat templates."""

    role: Literal["system", "user", "assistant"]
    content: str


Conversation = list[Message]

FinishReason = Literal["stop", "length", "refused"]
"""`stop`: the model ended its reply. `length`: the token limit cut it off. `refused`: the
engine could not accept the prompt (it is too long); the completion's `refusal` is the reason."""


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """A generated token and its alternatives.

    Attributes:
        text: text of the token.
        alternatives: (text, natural logarithm of its probability), the likeliest first; it depends
            on the engine whether the generated token is among them.
    """

    text: str
    alternatives: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """Raw text of an engine, before parsing.

    Attributes:
        text: the reply, without special tokens; empty if the prompt was refused. If the generation
            prompt opens a reasoning block, the text begins with the opening mark.
        tokens: number of generated tokens, including the end token.
        finish_reason: why the reply ended.
        refusal: the engine's reason when it refused the prompt.
        choices: each generated token with its alternatives, if `SamplingParams.alternatives`
            requests them and the engine supports it.
        token_ids: ids of the tokens sampled after the prompt, including the end token if sampled,
            in the vocabulary of the trained model; None if the engine does not report them. Four
            bytes each: a shard contains millions of them.
    """

    text: str
    tokens: int
    finish_reason: FinishReason
    refusal: str | None = None
    choices: tuple[TokenChoice, ...] | None = None
    token_ids: "array[int] | None" = None


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters. `temperature` 0 is greedy decoding.

    Attributes:
        temperature: divisor of the logits; 0 selects the most likely token.
        top_p: total probability of the nucleus, the smallest set of the most likely tokens that
            reaches it.
        max_new_tokens: maximum length of one reply, in tokens.
        alternatives: number of likely tokens to report per position, with their log-probabilities.
            Optional: an engine without support leaves `Completion.choices` empty.
        chat_date: today's date for the chat template, YYYY-MM-DD; None: the day of the call. An
            engine whose prompts are rendered by a server cannot pass it on.
        allow_reasoning: False asks for completions without reasoning, as `ChatOptions` does.
    """

    temperature: float
    top_p: float
    max_new_tokens: int
    alternatives: int = 0
    chat_date: str | None = None
    allow_reasoning: bool = True

    @property
    def chat_options(self) -> ChatOptions:
        """Variables of the chat template besides the conversation."""
        return ChatOptions(self.chat_date, allow_reasoning=self.allow_reasoning)

    def to_json(self) -> dict[str, Any]:
        """Return all values, except newer values that have their default."""
        values = asdict(self)
        rest = {"chat_date": None, "allow_reasoning": True}
        return {key: value for key, value in values.items() if rest.get(key, ...) != value}


Progress = Callable[[int, int], None]
"""Called with (completions done, tokens generated so far) while an engine works."""


def offset_progress(
    progress: Progress | None, before: int, tokens_before: int = 0
) -> Progress | None:
    """Report the progress of a call as part of several calls."""
    if progress is None or before == 0:
        return progress
    tell = progress
    return lambda done, tokens: tell(before + done, tokens_before + tokens)


def pack_token_ids(ids: Sequence[int]) -> "array[int]":
    """Pack the token ids of one completion."""
    return array("i", ids)


@dataclass(frozen=True, slots=True)
class ForcedLine:
    """A line that is started for the model, and the allowed values that complete it.

    Attributes:
        beginning: start of the line, such as a line break and `Score:`.
        values: the allowed continuations, at least two distinct texts, such as ` 4`.
    """

    beginning: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForcedLineRequest:
    """A completion after which a line is started.

    Attributes:
        conversation: the conversation to which the completion replies.
        completion: the sampled completion, unchanged; it must not be refused.
        kept_chars: number of leading characters of its text to keep before the line; the rest is
            dropped.
    """

    conversation: Conversation
    completion: Completion
    kept_chars: int


@dataclass(frozen=True, slots=True)
class ForcedLineReading:
    """Probabilities of the values at the end of a forced line.

    Attributes:
        text: the kept part of the completion, and the beginning of the line.
        log_probabilities: natural logarithms of the probability of each value as a whole text, in
            the order of the values; not renormalized.
        token_ids: ids of the kept text and the beginning of the line, without an end token.
        injected: number of the last ids that belong to the line.
        value_ids: token ids of each value.
        end_id: a token that ends a reply.
    """

    text: str
    log_probabilities: tuple[float, ...]
    token_ids: "array[int]"
    injected: int
    value_ids: "tuple[array[int], ...]"
    end_id: int


@runtime_checkable
class ForcedLineReader(Protocol):
    """An engine that can start a line for the model and return the probabilities of its values."""

    def read_forced_lines(
        self, requests: Sequence[ForcedLineRequest], line: ForcedLine, *, options: ChatOptions
    ) -> list[ForcedLineReading | None]:
        """Read the values of a line after each completion; deterministic.

        Args:
            options: chat template options used when the completions were sampled.

        Returns:
            One reading for each request, in order; None if the line does not fit into the model.

        Raises:
            EngineError: the engine failed as a whole, or its tokenizer cannot distinguish the
                values.
        """
        ...


class Engine(Protocol):
    """Source of completions."""

    def sample(
        self,
        conversations: Sequence[Conversation],
        n: int,
        *,
        sampling: SamplingParams,
        seed: int,
        progress: Progress | None = None,
    ) -> list[list[Completion]]:
        """Sample `n` completions for each conversation.

        The same engine, conversations, sampling and seed give the same completions on a CPU.

        Returns:
            One list per conversation, in order, each with exactly `n` completions.

        Raises:
            EngineError: the engine failed as a whole. A single prompt that the engine cannot accept
                is not an error: its completions have `finish_reason="refused"`.
        """
        ...

    def close(self) -> None:
        """Free the model's memory. The engine cannot be used afterwards."""
        ...


class RewardModel(Protocol):
    """A model that scores responses without writing anything."""

    def score(
        self,
        conversations: Sequence[Conversation],
        *,
        options: ChatOptions,
        progress: Progress | None = None,
    ) -> list[float | None]:
        """Score conversations that end with a response; deterministic.

        Returns:
            One raw score for each conversation, in order; None if the conversation is too long.

        Raises:
            EngineError: the model failed as a whole.
        """
        ...

    def close(self) -> None:
        """Free the model's memory."""
        ...


def require_forced_lines(engine: Engine) -> ForcedLineReader:
    """Require an engine that can start a line for the model.

    Raises:
        EngineError: the engine does not support forced lines.
    """
    if not isinstance(engine, ForcedLineReader):
        raise EngineError(
            "This engine does not support forced readouts: use engine.kind: transformers or vllm, "
            "or a free readout."
        )
    return engine
