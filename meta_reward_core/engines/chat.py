"""The OpenAI chat protocol as plain values: what is sent, and what an answer means.

No network here. Whatever a server says is hostile input: it is read with care and never trusted to
have the form that was asked for.
"""

import json
import math
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import pairwise
from typing import Any, Final

from meta_reward_core.engines.base import (
    Completion,
    Conversation,
    FinishReason,
    Sampling,
    TokenChoice,
    as_token_ids,
)
from meta_reward_core.engines.endpoints import Endpoint
from meta_reward_core.errors import EndpointError

REDIRECTS: Final = range(300, 400)
_TRY_AGAIN: Final = frozenset({408, 409, 425, 429, *range(500, 600)})
_TOO_LARGE: Final = 413
_ABOUT_THE_PROMPT: Final = frozenset({400, 413, 422})
_NOT_ALLOWED: Final = frozenset({401, 403})
_SHOWN_CHARS: Final = 300
_MOST_TOKEN_IDS: Final = 2**31
_TOO_LONG: Final = re.compile(
    r"maximum context length|context[ _](length|size|window)|longer than the (model|maximum)"
    r"|(prompt|input|text|string) (is )?too long|max_model_len|must be <= \d+",
    re.IGNORECASE,
)
_REASONS: Final[Mapping[str, FinishReason]] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "content_filter": "refused",
}


class TryAgainError(Exception):
    """This answer is of no use, another one may be.

    Attributes:
        wait_seconds: how long the server asks to be left alone, if it says.
    """

    def __init__(self, message: str, *, wait_seconds: float | None = None) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: usable completions, at least one; or why the prompt was refused.

    Attributes:
        prompt_tokens: length of the prompt, if the server says.
    """

    completions: tuple[Completion, ...]
    refusal: str | None = None
    prompt_tokens: int | None = None


def request_body(
    endpoint: Endpoint,
    *,
    model: str,
    conversation: Conversation,
    sampling: Sampling,
    n: int,
    seed: int,
) -> dict[str, Any]:
    """Write the request for `n` completions of one conversation."""
    body: dict[str, Any] = {
        **endpoint.extra,
        "model": model,
        "messages": [dict(message) for message in conversation],
        "n": n,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        endpoint.limit_field: sampling.max_new_tokens,
        "stream": False,
    }
    if sampling.alternatives:
        body |= {"logprobs": True, "top_logprobs": sampling.alternatives}
    return body | {"seed": seed} if endpoint.send_seed else body


def read_answer(
    status: int, headers: Mapping[str, str], body: bytes, *, max_new_tokens: int
) -> Answer:
    """Say what an answer means.

    Args:
        max_new_tokens: limit of one reply, as it was asked for.

    Raises:
        TryAgainError: another attempt may end otherwise.
        EndpointError: no attempt will, until somebody changes a setting or the server.
    """
    if status in range(200, 300):
        return _read_chat_completion(body, max_new_tokens)
    words = server_words(body)
    if status in REDIRECTS:
        raise EndpointError(f"it answers with a redirect ({status}), and none is followed")
    if status in _NOT_ALLOWED:
        raise EndpointError(f"it refuses the key, or there is none ({status}): {words}")
    if status in _TRY_AGAIN and _error_code(body) != "insufficient_quota":
        raise TryAgainError(f"it answered {status}: {words}", wait_seconds=seconds_to_wait(headers))
    refusal = _refusal(status, body, words)
    if refusal is None:
        raise EndpointError(f"it refuses the request ({status}): {words}")
    return Answer((), refusal)


def _refusal(status: int, body: bytes, words: str) -> str | None:
    """Why the server takes this very prompt amiss, if that is what it says."""
    if status not in _ABOUT_THE_PROMPT:
        return None
    code = _error_code(body)
    if code == "content_filter":
        return f"the server's content filter refused the prompt: {words}"
    known = code in ("context_length_exceeded", "exceed_context_size_error")
    if known or status == _TOO_LARGE or _TOO_LONG.search(words):
        return f"the server refused the prompt as too long: {words}"
    return None


def _read_chat_completion(body: bytes, max_new_tokens: int) -> Answer:
    """Read the usable choices of an answer, at least one."""
    said = _parse(body)
    choices = said.get("choices") if isinstance(said, dict) else None
    if not isinstance(choices, list):
        raise TryAgainError("its answer is no chat completion: there are no choices in it")
    if not choices:
        raise TryAgainError("its answer holds no choices")
    tokens = _token_counts(said, choices, max_new_tokens)
    read = [_read_choice(*item) for item in zip(choices, tokens, strict=True)]
    usable = tuple(item for item in read if isinstance(item, Completion))
    if not usable:
        raise TryAgainError(f"its answer cannot be used: {read[0]}")
    return Answer(usable, prompt_tokens=_usage(said, "prompt_tokens"))


def _read_choice(choice: Any, tokens: int) -> Completion | str:
    """A completion, or in words why there is none."""
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return "a choice without a message"
    reason = _reason(choice)
    text, refused = message.get("content"), message.get("refusal")
    if reason is None:
        return f"a reply that ended by {choice.get('finish_reason')!r:.40}"
    if reason == "refused" or (isinstance(refused, str) and text is None):
        words = plain_words(refused) if isinstance(refused, str) else "its content filter"
        return Completion("", 0, "refused", refusal=f"the server withheld the reply: {words}")
    if text is None and reason == "length":
        text = ""  # all its tokens went into a reasoning that is not part of the reply
    if not isinstance(text, str):
        return "a reply that is no text"
    return Completion(
        _whole(text),
        tokens,
        reason,
        choices=_token_choices(choice),
        token_ids=_token_ids(choice),
    )


def _token_ids(choice: dict[str, Any]) -> "array[int] | None":
    """The ids of the reply's tokens, where the server lists them (vLLM: `return_token_ids`)."""
    listed = choice.get("token_ids")
    if not isinstance(listed, list):
        return None
    return as_token_ids(listed) if all(map(_is_token_id, listed)) else None


def _is_token_id(value: Any) -> bool:
    known = isinstance(value, int) and not isinstance(value, bool)
    return known and 0 <= value < _MOST_TOKEN_IDS


def _token_choices(choice: dict[str, Any]) -> tuple[TokenChoice, ...] | None:
    """Tokens with their alternatives, where the server tells them and all are readable."""
    told = choice.get("logprobs")
    listed = told.get("content") if isinstance(told, dict) else None
    if not isinstance(listed, list) or not listed:
        return None
    read = [_token_choice(one) for one in listed]
    known = tuple(one for one in read if one is not None)
    return known if len(known) == len(read) else None


def _token_choice(told: Any) -> TokenChoice | None:
    token = told.get("token") if isinstance(told, dict) else None
    others = told.get("top_logprobs") if isinstance(told, dict) else None
    if not isinstance(token, str) or not isinstance(others, list):
        return None
    alternatives = [_alternative(other) for other in others]
    known = [one for one in alternatives if one is not None]
    known.sort(key=lambda one: -one[1])
    return TokenChoice(_whole(token), tuple(known)) if len(known) == len(alternatives) else None


def _alternative(told: Any) -> tuple[str, float] | None:
    token = told.get("token") if isinstance(told, dict) else None
    value = told.get("logprob") if isinstance(told, dict) else None
    if not isinstance(token, str) or isinstance(value, bool):
        return None
    if not isinstance(value, int | float) or math.isnan(value) or value > 0:
        return None
    return _whole(token), float(value)


def _token_counts(said: dict[str, Any], choices: Sequence[Any], max_new_tokens: int) -> list[int]:
    """Tokens of each choice: counted where the server lists them, else shares of its total."""
    known = [choice if isinstance(choice, dict) else {} for choice in choices]
    listed = [choice.get("token_ids") for choice in known]
    if all(isinstance(ids, list) for ids in listed):
        return [len(ids) for ids in listed if isinstance(ids, list)]
    total = _usage(said, "completion_tokens")
    if total is None:
        raise TryAgainError("its answer does not say how many tokens were generated")
    cut_off = [_reason(choice) == "length" for choice in known]
    rest = total - max_new_tokens * sum(cut_off)
    if rest < 0 or all(cut_off):
        return share_tokens(total, [_length_chars(choice) for choice in known])
    shares = iter(
        share_tokens(
            rest,
            [_length_chars(choice) for choice in known if _reason(choice) != "length"],
        )
    )
    return [max_new_tokens if cut else next(shares) for cut in cut_off]


def _usage(said: dict[str, Any], name: str) -> int | None:
    """Read a figure of the server's account, if it is one."""
    usage = said.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    known = isinstance(count, int) and not isinstance(count, bool) and count >= 0
    return count if known else None


def share_tokens(total: int, lengths_chars: Sequence[int]) -> list[int]:
    """Share out the tokens of several replies by their characters; the shares add up to `total`.

    Servers count the tokens of all `n` replies together. Each reply counts one character more than
    it has, for its end token.
    """
    reached = [0]
    for length in lengths_chars:
        reached.append(reached[-1] + length + 1)
    ends = [total * at // reached[-1] for at in reached]
    return [end - begin for begin, end in pairwise(ends)]


def _reason(choice: dict[str, Any]) -> FinishReason | None:
    ended = choice.get("finish_reason")
    return _REASONS.get(ended) if isinstance(ended, str) else None


def _length_chars(choice: dict[str, Any]) -> int:
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else None
    return len(text) if isinstance(text, str) else 0


def seconds_to_wait(headers: Mapping[str, str]) -> float | None:
    """Read `Retry-After`: seconds, or a date. None if it is absent or senseless."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        seconds = _seconds_until(value)
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _seconds_until(date: str) -> float:
    try:
        moment = parsedate_to_datetime(date)
    except (ValueError, TypeError, IndexError):
        return math.nan
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - datetime.now(UTC)).total_seconds()


def server_words(body: bytes) -> str:
    """What the server says about a failure, in one short line."""
    try:
        said = _parse(body)
    except TryAgainError:
        return plain_words(body.decode(errors="replace")) or "without a word"
    for key in ("error", "message", "detail"):
        inner = said.get(key) if isinstance(said, dict) else None
        if isinstance(inner, dict):
            inner = inner.get("message")
        if inner:
            return plain_words(str(inner))
    return plain_words(json.dumps(said))


def plain_words(text: str) -> str:
    """One line without control characters, not long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in _whole(text)).split())
    return line if len(line) <= _SHOWN_CHARS else f"{line[:_SHOWN_CHARS]}..."


def _error_code(body: bytes) -> str | None:
    try:
        said = _parse(body)
    except TryAgainError:
        return None
    error = said.get("error") if isinstance(said, dict) else None
    if not isinstance(error, dict):
        return None
    return next((str(error[key]) for key in ("code", "type") if _is_name(error.get(key))), None)


def _is_name(value: Any) -> bool:
    """A code that is a number repeats the status; what it means is then said by the type."""
    return isinstance(value, str) and not value.isdigit()


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise TryAgainError("its answer is no JSON") from None


def _whole(text: str) -> str:
    """Replace halves of characters, which JSON can write and no file can hold."""
    return text.encode(errors="replace").decode()
