"""Forced score and verdict lines: the line is started for the model; a value is sampled.

The justification is sampled freely, up to its limit. A closing line that already states a value is
cut off; then the start of the line is given to the model, and the engine returns the probability of
each allowed value as a whole text. The role's temperature is applied to the probabilities, they are
renormalized over the allowed values, and one value is sampled.

Tokens that were given to the model are marked and excluded from every loss. An option, off by
default: the paper samples scores and verdicts freely.
"""

import math
import random
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from meta_reward_core.engines.base import (
    Completion,
    Conversation,
    Engine,
    ForcedLine,
    ForcedLineReading,
    ForcedLineRequest,
    SamplingParams,
    pack_token_ids,
    require_forced_lines,
)
from meta_reward_core.storage.records import ValueProbability

VERDICT_LINE: Final = ForcedLine("\nWinner: Judgement", (" A", " B"))
"""Allowed verdicts; without a tie, because the built-in prompts ask for one of the two."""


def make_score_line(max_score: float) -> ForcedLine:
    """Build the score line with whole scores from 0 to the maximum of the rubric."""
    return ForcedLine("\nScore:", tuple(f" {score}" for score in range(math.floor(max_score) + 1)))


@dataclass(frozen=True, slots=True)
class ForcedValue:
    """Result of a forced line.

    Attributes:
        index: index of the sampled value among the values of the line.
        probabilities: probability of each value, in the order of the values; the sum is 1.
        text: the justification and the whole line.
        token_ids: token ids of the text, with an end token if the justification ended by itself.
        injected_at: positions in `token_ids` of the tokens that the model did not sample: the start
            of the line, and the end token.
    """

    index: int
    probabilities: tuple[float, ...]
    text: str
    token_ids: "array[int]"
    injected_at: "array[int]"

    @property
    def expected_index(self) -> float:
        """Mean of the indices, weighted by their probabilities."""
        return math.fsum(index * p for index, p in enumerate(self.probabilities))


def list_probabilities(line: ForcedLine, value: ForcedValue) -> list[ValueProbability]:
    """Return the probabilities in the form that records store."""
    return [
        ValueProbability(value=text.strip(), probability=probability)
        for text, probability in zip(line.values, value.probabilities, strict=True)
    ]


def force_values(
    engine: Engine,
    conversations: Sequence[Conversation],
    completions: Sequence[Sequence[Completion]],
    line: ForcedLine,
    *,
    find_closing_line: Callable[[str], int],
    sampling: SamplingParams,
    derive_draw_seed: Callable[[int, int], int],
) -> list[list[ForcedValue | None]]:
    """Force a value after each completion.

    Args:
        completions: completions of each conversation.
        find_closing_line: returns the offset of the closing line that states a value in a text, or
            the length of the text if there is no such line.
        sampling: sampling parameters of the completions. The value is sampled at the same
            temperature; with 0, the most probable value is used and the probabilities are
            unchanged.
        derive_draw_seed: derives the seed for sampling one value from the indices of the
            conversation and the completion.

    Returns:
        One value per completion, in the same structure; None for a refused completion, and where
        the line did not fit into the model.

    Raises:
        EngineError: the engine does not support forced lines, or failed as a whole.
    """
    reader = require_forced_lines(engine)
    positions = [
        (number, sample)
        for number, sampled in enumerate(completions)
        for sample, completion in enumerate(sampled)
        if completion.finish_reason != "refused"
    ]
    requests = [
        ForcedLineRequest(
            conversations[number],
            completions[number][sample],
            kept_chars=_count_kept(completions[number][sample].text, find_closing_line),
        )
        for number, sample in positions
    ]
    options = sampling.chat_options
    readings = reader.read_forced_lines(requests, line, options=options) if requests else []
    found: list[list[ForcedValue | None]] = [[None] * len(sampled) for sampled in completions]
    for (number, sample), reading in zip(positions, readings, strict=True):
        if reading is not None:
            rng = random.Random(derive_draw_seed(number, sample))
            has_ended = completions[number][sample].finish_reason == "stop"
            found[number][sample] = _draw_value(
                reading, line, temperature=sampling.temperature, rng=rng, has_ended=has_ended
            )
    return found


def _count_kept(text: str, find_closing_line: Callable[[str], int]) -> int:
    """Count the characters of a completion before the line, without trailing whitespace."""
    return len(text[: find_closing_line(text)].rstrip())


def _draw_value(
    reading: ForcedLineReading,
    line: ForcedLine,
    *,
    temperature: float,
    rng: random.Random,
    has_ended: bool,
) -> ForcedValue:
    probabilities = renormalize(reading.log_probabilities, temperature=temperature)
    index = (
        max(range(len(probabilities)), key=probabilities.__getitem__)
        if temperature == 0
        else rng.choices(range(len(probabilities)), probabilities)[0]
    )
    kept = len(reading.token_ids) - reading.injected
    injected = list(range(kept, len(reading.token_ids)))
    ids = [*reading.token_ids, *reading.value_ids[index]]
    if has_ended:
        injected.append(len(ids))
        ids.append(reading.end_id)
    return ForcedValue(
        index=index,
        probabilities=probabilities,
        text=reading.text + line.values[index],
        token_ids=pack_token_ids(ids),
        injected_at=pack_token_ids(injected),
    )


def renormalize(log_probabilities: Sequence[float], *, temperature: float) -> tuple[float, ...]:
    """Normalize probabilities over these values: softmax of log p / T, or of log p if T is 0."""
    scaled = [value / (temperature or 1.0) for value in log_probabilities]
    highest = max(scaled)
    if highest == -math.inf:
        return tuple(1 / len(scaled) for _ in scaled)
    weights = [math.exp(value - highest) for value in scaled]
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)
