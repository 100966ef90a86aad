"""An engine with scripted completions, for tests and demonstrations without a model.

It has no tokenizer: a token is a word between spaces, without an id unless the script returns
complete completions.
"""

from collections.abc import Callable, Sequence
from typing import Final

from meta_reward_core.engines.base import (
    Completion,
    Conversation,
    FinishReason,
    ForcedLine,
    ForcedLineReading,
    ForcedLineRequest,
    Progress,
    SamplingParams,
    pack_token_ids,
)
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.errors import EngineError
from meta_reward_core.models.chat import ChatOptions

Reply = str | tuple[str, FinishReason] | Completion
Script = Callable[[Conversation, int, int], Reply]
"""Called with (conversation, sample index, seed); returns a text, a text and its finish
reason, or a completion, which is returned unchanged."""

ValueScript = Callable[[Conversation, str, str], float]
"""Called with (conversation, kept text, value of a forced line); returns its log-probability."""

_END_ID: Final = 1_000_000
_LINE_ID: Final = 2_000_000


class ScriptedEngine:
    """Scripted completions, determined by conversation, sample index and seed.

    Attributes:
        calls: number of completions requested since construction.
    """

    def __init__(self, script: Script, values: ValueScript | None = None) -> None:
        """Store the scripts; nothing is loaded.

        Args:
            values: script that returns the log-probabilities of forced values.
        """
        self._values = values
        self.calls = 0
        self._script = script
        self._closed = False

    def sample(
        self,
        conversations: Sequence[Conversation],
        n: int,
        *,
        sampling: SamplingParams,
        seed: int,
        progress: Progress | None = None,
    ) -> list[list[Completion]]:
        """Call the script `n` times per conversation. See `Engine.sample`."""
        if self._closed:
            raise EngineError("This engine is closed: create a new engine.")
        answers: list[list[Completion]] = []
        for conversation in conversations:
            answers.append(
                [self._complete(conversation, index, sampling, seed) for index in range(n)]
            )
            if progress is not None:
                progress(len(answers) * n, sum(c.tokens for row in answers for c in row))
        return answers

    def read_forced_lines(
        self,
        requests: Sequence[ForcedLineRequest],
        line: ForcedLine,
        *,
        options: ChatOptions,  # noqa: ARG002 a script has no template
    ) -> list[ForcedLineReading | None]:
        """Read forced values from the script; each word and line part is a token.

        Raises:
            EngineError: the engine has no script for forced values.
        """
        if self._values is None:
            raise EngineError("This script does not support forced readouts: use another script.")
        readings: list[ForcedLineReading | None] = []
        for request in requests:
            text = request.completion.text[: request.kept_chars]
            kept = list(range(len(text.split())))
            readings.append(
                ForcedLineReading(
                    text=text + line.beginning,
                    log_probabilities=tuple(
                        self._values(request.conversation, text, value) for value in line.values
                    ),
                    token_ids=pack_token_ids([*kept, _LINE_ID]),
                    injected=1,
                    value_ids=tuple(
                        pack_token_ids([_LINE_ID + 1 + number])
                        for number in range(len(line.values))
                    ),
                    end_id=_END_ID,
                )
            )
        return readings

    def close(self) -> None:
        """Refuse later calls, like an engine with a model."""
        self._closed = True

    def _complete(
        self, conversation: Conversation, index: int, sampling: SamplingParams, seed: int
    ) -> Completion:
        """Build one completion, cut after `max_new_tokens` words."""
        self.calls += 1
        reply = self._script(conversation, index, seed)
        if isinstance(reply, Completion):
            return reply
        text, reason = (reply, None) if isinstance(reply, str) else reply
        if reason == "refused":
            return Completion(text="", tokens=0, finish_reason="refused", refusal=text)
        words = text.split()
        if reason is None and len(words) > sampling.max_new_tokens:
            text, reason = " ".join(words[: sampling.max_new_tokens]), "length"
        tokens = min(len(words), sampling.max_new_tokens)
        return Completion(text=text, tokens=tokens, finish_reason=reason or "stop")


_PHRASES = (
    "to begin with",
    "it depends",
    "for example",
    "in short",
    "as you asked",
    "note that",
)


def make_fake_log_probability(conversation: Conversation, text: str, value: str) -> float:
    """Return a deterministic fake log-probability of a forced value."""
    return -float(derive_seed(0, conversation[-1]["content"], text, value) % 7)


def make_fake_reply(conversation: Conversation, sample: int, seed: int) -> str:
    """Build a completion in the format that the actor, judge or meta-judge prompt requires.

    It depends only on the conversation, the sample and the seed, and is meaningless.
    """
    asked = conversation[-1]["content"]
    number = derive_seed(seed, asked, sample)
    body = " ".join(_PHRASES[(number >> shift) % len(_PHRASES)] for shift in range(number % 9 + 1))
    if "Better: tie" in asked:
        return f"{body}\nBetter: {('A', 'B', 'tie')[number % 3]}"
    if "[[A>>B]]" in asked:
        return f"{body}\n[[{('A>>B', 'A>B', 'A=B', 'B>A', 'B>>A')[number % 5]}]]"
    if "Rating: [[" in asked:
        return f"{body}\nRating: [[{number % 10 + 1}]]"
    if "Winner:" in asked or asked.startswith("Compare"):
        return f"{body}\nWinner: Judgement {'AB'[number % 2]}"
    if "Score:" in asked or asked.startswith("Judge"):
        return f"{body}\nScore: {number % 6}"
    return body
