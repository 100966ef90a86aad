"""Apply the reasoning policies of a recipe to responses and judgments.

The tables store every completion exactly as sampled. Each step that judges, compares, pairs or
measures a completion reads it through these functions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from meta_reward_core.models.reasoning import ReasoningPolicy, select_answer
from meta_reward_core.storage.records import Judgment, Response

Record = TypeVar("Record", Response, Judgment)


def select_answers(records: Iterable[Record], policy: ReasoningPolicy) -> list[Record]:
    """Return the records with the text that counts; unfinished reasoning counts as empty."""
    if policy == "keep":
        return list(records)
    return [replace(one, text=select_answer(one.text, policy) or "") for one in records]


def select_finished(
    responses: Sequence[Response], policy: ReasoningPolicy
) -> tuple[list[Response], int]:
    """Return the responses that contain an answer, and how many ended within their reasoning.

    Responses that ended within their reasoning contain nothing to judge and get no judgment, score
    or pair.
    """
    finished = [one for one in responses if select_answer(one.text, policy) is not None]
    return finished, len(responses) - len(finished)
