"""The same prompt across models, side by side.

Usually only one iteration sampled a prompt; responses of the other models can be requested later.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from meta_reward_core.storage.records import Response, ResponseScore
from meta_reward_core.storage.schemas import to_records
from webapp.playground.presenter import PlaygroundTurn, ResponseView
from webapp.results.iteration_reader import OpenIteration, read_prompt_rows
from webapp.results.prompt_index import IterationIndex
from webapp.text_diff import Span, compare_texts

LONGEST: Final = 20_000
"""Maximum characters of a response that are compared and shown."""

PICKS: Final = {
    "chosen": "the chosen response, otherwise the best scored",
    "best": "the best scored response",
    "worst": "the worst scored response",
    "first": "the first response",
}


@dataclass(frozen=True, slots=True)
class ShownResponse:
    """The response of M_{number-1} in iteration `number`.

    Attributes:
        spans: differences between the previous response (first) and this one (second).
        left_out: number of characters at the end that are neither compared nor shown.
    """

    number: int
    model: int
    sample: int
    mean: float | None
    chars: int
    role: str
    spans: Sequence[Span]
    left_out: int


@dataclass(frozen=True, slots=True)
class LaterResponse:
    """A response generated on request; `spans` and `left_out` as in `ShownResponse`."""

    answer: ResponseView
    chars: int
    spans: Sequence[Span]
    left_out: int


@dataclass(frozen=True, slots=True)
class _PickedResponse:
    number: int
    response: Response
    mean: float | None
    role: str


def list_responses_across(
    found: Sequence[tuple[OpenIteration, IterationIndex]], prompt_id: str, *, pick: str
) -> list[ShownResponse]:
    """List one response of each iteration that used the prompt, in order.

    Args:
        pick: which response to choose, one of `PICKS`.

    Raises:
        ArtifactError: a file is gone or differs from its manifest.
    """
    return list(_iter_compared(list(_iter_picked(found, prompt_id, pick))))


def _iter_picked(
    found: Sequence[tuple[OpenIteration, IterationIndex]], prompt_id: str, pick: str
) -> Iterator[_PickedResponse]:
    for opened, index in found:
        row = index.row_of.get(prompt_id)
        if row is None:
            continue
        part = int(index.get_counts("part")[row])
        responses = to_records(
            read_prompt_rows(opened.files, "responses", part, prompt_id), Response
        )
        scores = to_records(
            read_prompt_rows(opened.files, "scores", part, prompt_id), ResponseScore
        )
        if responses:
            pair = index.kinds["actor"].pairs.get(prompt_id, {})
            yield _pick_response(
                opened.number, responses, scores, pair.get("chosen_response_id"), pick
            )


def _pick_response(
    number: int,
    responses: Sequence[Response],
    scores: Sequence[ResponseScore],
    chosen_id: str | None,
    pick: str,
) -> _PickedResponse:
    means = {score.response_id: score.mean for score in scores}
    scored = [(mean, name) for name, mean in means.items() if mean is not None]
    wanted = {
        "first": responses[0].response_id,
        "best": max(scored)[1] if scored else responses[0].response_id,
        "worst": min(scored)[1] if scored else responses[0].response_id,
    }
    wanted["chosen"] = chosen_id or wanted["best"]
    response = next(one for one in responses if one.response_id == wanted[pick])
    role = "chosen" if response.response_id == chosen_id else ""
    return _PickedResponse(number, response, means.get(response.response_id), role)


def compare_later(tried: PlaygroundTurn) -> list[LaterResponse]:
    """Compare the responses generated on request, each with the previous one."""
    texts = [answer.text for answer in tried.answers]
    return [
        LaterResponse(
            answer=answer,
            chars=len(answer.text),
            spans=_compare_beginnings(before, answer.text),
            left_out=max(0, len(answer.text) - LONGEST),
        )
        for answer, before in zip(tried.answers, [None, *texts], strict=False)
    ]


def _iter_compared(picks: Sequence[_PickedResponse]) -> Iterator[ShownResponse]:
    before: str | None = None
    for pick in picks:
        text = pick.response.text
        yield ShownResponse(
            number=pick.number,
            model=pick.number - 1,
            sample=pick.response.sample,
            mean=pick.mean,
            chars=len(text),
            role=pick.role,
            spans=_compare_beginnings(before, text),
            left_out=max(0, len(text) - LONGEST),
        )
        before = text


def _compare_beginnings(before: str | None, text: str) -> list[Span]:
    """Compare the displayed text of two responses; the first response is compared with itself."""
    text = text[:LONGEST]
    return compare_texts(text if before is None else before[:LONGEST], text)
