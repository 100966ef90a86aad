"""Forced lines by a server: continue the assistant's turn, constrained to the allowed values.

A server must support three features, which few do: continue a turn instead of starting another
(`continue_final_message`), constrain a reply to some texts (`structured_outputs`, as in vLLM from
0.12), and return the probabilities of tokens (`logprobs`). Support is tested once: a server that
does not know these fields ignores them, and its replies look almost correct.

The server does not sample: we read the probabilities of the values, and sample from them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from meta_reward_core.engines.base import (
    Conversation,
    ForcedLine,
    ForcedLineReading,
    ForcedLineRequest,
    SamplingParams,
    TokenChoice,
)
from meta_reward_core.engines.endpoints import Endpoint
from meta_reward_core.engines.openai_protocol import ParsedResponse, build_request_body
from meta_reward_core.errors import EngineError
from meta_reward_core.models.chat import ChatOptions

_ALTERNATIVES: Final = 20
"""Requested likely tokens per position: the maximum that servers return."""

_MAX_VALUE_TOKENS: Final = 8

PROBE_LINE: Final = ForcedLine("\nAnimal:", (" axolotl", " okapi"))
"""Line of the probe; a model writes its values only if constrained to them."""


@dataclass(frozen=True, slots=True)
class ContinuedReply:
    """The unfinished reply of an assistant, ending with the beginning of a line."""

    conversation: Conversation
    text: str


class LineTokenizer(Protocol):
    """Encodes lines in the tokens of the trained model; see `forced_lines`."""

    def list_kept_texts(self, requests: Sequence[ForcedLineRequest]) -> list[str]:
        """Return the text of each completion before the line."""
        ...

    def make_readings(
        self,
        requests: Sequence[ForcedLineRequest],
        line: ForcedLine,
        log_probabilities: Sequence[tuple[float, ...] | None],
    ) -> list[ForcedLineReading | None]:
        """Build readings from values that the server scored; None if it did not score them."""
        ...


PROBE_REPLY: Final = ContinuedReply(
    [{"role": "user", "content": "Write one word."}], PROBE_LINE.beginning
)


def check_line(line: ForcedLine) -> None:
    """Check that no value is a prefix of another: a server cannot score the end of a value.

    Raises:
        EngineError: a value is a prefix of another.
    """
    if any(one != other and other.startswith(one) for one in line.values for other in line.values):
        raise EngineError(
            f"The allowed values {', '.join(line.values)} are prefixes of one another, which "
            f"a server cannot score: use engine.kind: transformers, a free readout, or a "
            f"scale up to 9."
        )


def build_continuation_body(
    endpoint: Endpoint,
    reply: ContinuedReply,
    line: ForcedLine,
    *,
    model: str,
    options: ChatOptions,
    is_continued: bool = True,
) -> dict[str, Any]:
    """Write a request for one of the values after the assistant's unfinished text.

    Args:
        is_continued: whether to continue the unfinished text; False requests a new turn after it.
            The probe compares the two cases.
    """
    sampling = SamplingParams(
        temperature=0.0,
        top_p=1.0,
        max_new_tokens=_MAX_VALUE_TOKENS,
        alternatives=_ALTERNATIVES,
        allow_reasoning=options.allow_reasoning,
    )
    body = build_request_body(
        endpoint,
        model=model,
        conversation=[*reply.conversation, {"role": "assistant", "content": reply.text}],
        sampling=sampling,
        n=1,
        seed=0,
    )
    return body | {
        "continue_final_message": is_continued,
        "add_generation_prompt": not is_continued,
        "structured_outputs": {"choice": list(line.values)},
    }


def find_obstacle(continued: ParsedResponse, another_turn: ParsedResponse) -> str | None:
    """Return the feature that a server lacks by its responses to the probe; None if it has all."""
    if continued.refusal or another_turn.refusal:
        return f"the server rejected the request: {continued.refusal or another_turn.refusal}"
    reply = continued.completions[0]
    if reply.text.strip() not in {value.strip() for value in PROBE_LINE.values}:
        return "the server does not constrain a reply to given texts (structured_outputs.choice)"
    if not reply.choices:
        return "the server does not return token probabilities (logprobs)"
    shorter, longer = continued.prompt_tokens, another_turn.prompt_tokens
    if shorter is None or longer is None or shorter >= longer:
        return "the server does not continue the assistant's turn (continue_final_message)"
    return None


def read_log_probabilities(
    values: Sequence[str], choices: Sequence[TokenChoice] | None
) -> tuple[float, ...] | None:
    """Compute the probability of each value from the likely tokens of each position.

    A value with a token that is not among the likely tokens has probability 0.

    Returns:
        The log-probabilities; None if no value is among the likely tokens.
    """
    wanted = [value.strip() for value in values]
    found = [-math.inf] * len(wanted)
    prefix, before = "", 0.0
    for choice in choices or ():
        own = -math.inf
        for text, log_probability in choice.alternatives:
            reached = (prefix + text).strip()
            if reached in wanted:
                place = wanted.index(reached)
                found[place] = max(found[place], before + log_probability)
            if text == choice.text:
                own = log_probability
        prefix, before = prefix + choice.text, before + own
        is_on_the_way = any(value.startswith(prefix.strip()) for value in wanted)
        if before == -math.inf or prefix.strip() in wanted or not is_on_the_way:
            break
    return None if max(found) == -math.inf else tuple(found)
