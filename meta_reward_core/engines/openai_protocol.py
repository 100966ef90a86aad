"""The OpenAI chat protocol as plain values: request bodies and responses.

No network here. Server responses are hostile input: they are never assumed to have the requested
structure.
"""

import json
import math
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import pairwise
from typing import Any, Final

from meta_reward_core.engines.base import (
    Completion,
    Conversation,
    FinishReason,
    SamplingParams,
    TokenChoice,
    pack_token_ids,
)
from meta_reward_core.engines.endpoints import Endpoint
from meta_reward_core.errors import EndpointError, MalformedInputError
from meta_reward_core.system.untrusted_input import ANSWER_LIMITS, parse_json

REDIRECTS: Final = range(300, 400)
_RETRYABLE_STATUSES: Final = frozenset({408, 409, 425, 429, *range(500, 600)})
_PAYLOAD_TOO_LARGE: Final = 413
_SERVER_ERROR: Final = 500
_BUSY: Final = 429
_BUSY_STATUSES: Final = frozenset({408, 409, 425, _BUSY, 503, 529})
_NOT_ALLOWED: Final = 403
_PROMPT_ERROR_STATUSES: Final = frozenset({400, _NOT_ALLOWED, 413, 422, 451, _SERVER_ERROR})
_AUTH_ERROR_STATUS: Final = 401
_MAX_ERROR_CHARS: Final = 300
_MAX_TOKEN_IDS: Final = 2**31
_TOO_LONG_CODES: Final = frozenset(
    {"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"}
)
_CONTEXT_LENGTH_ERROR: Final = re.compile(
    r"context[ _](length|size|window)"
    r"|max(imum)? (prompt|input|sequence|model)[ _](length|len|tokens|characters)"
    r"|(prompt|input|text|string|messages?|sequence|request)\b.{0,40}\btoo (long|large)"
    r"|too many (input |prompt )?tokens|too large for model|reduce the (length|size)"
    r"|tokens?\b.{0,60}\b(exceed|(longer|greater|larger|more) than|over the)"
    r"|(exceed(ed|s|ing)?|(longer|greater|larger|more) than)\b.{0,60}"
    r"\b(context|tokens?|input length|max_model_len)"
    r"|exceeds? (the )?max(imum)? length|less than [\d,]+ tokens"
    r"|token count .{0,80}\bonly supports\b|range of input length"
    r"|max_tokens must be at least 1, got -|max_model_len|must be <= \d+|context_length"
    r"|expected maxlength|超长|过长|长度超|超出.{0,10}长度",
    re.IGNORECASE | re.DOTALL,
)
"""Messages of servers about prompts that are too long; each server has its own, few have a code."""

_TOO_LARGE_FOR_RATE: Final = re.compile(r"request (is )?too large", re.IGNORECASE)
"""A request that exceeds a rate limit by itself, so that waiting does not help."""

_FILTER_CODES: Final = frozenset(
    {"content_filter", "content_policy_violation", "data_inspection_failed", "moderation_blocked"}
)
_CONTENT_FILTER_ERROR: Final = re.compile(
    r"content[ _-]?(filter|polic|management|moderation)|inappropriate content|content exists risk"
    r"|\bmoderation\b|\bflagged\b|data_inspection_failed|sensitive (content|information|words?)"
    r"|safety (system|polic|filter)|usage polic|prohibited content|敏感|违规",
    re.IGNORECASE,
)
"""Messages of servers about prompts that a content filter refuses."""

_ACCOUNT_ERROR: Final = re.compile(
    r"quota|billing|credit|rate.?limit|\baccount\b|suspended", re.IGNORECASE
)
_SETTING_ERROR: Final = re.compile(
    r"at most [\d,]+ (completion|output) tokens|model .{0,80}(not found|does not exist)",
    re.IGNORECASE,
)
_FINISH_REASONS: Final[Mapping[str, FinishReason]] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "stop_token": "stop",
    "complete": "stop",
    "length": "length",
    "max_tokens": "length",
    "max_length": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "content_filter": "refused",
    "safety": "refused",
    "refusal": "refused",
}
"""By reason in lower case; servers differ in their names and case."""


class RetryableResponseError(Exception):
    """The response is unusable, but a retry can help.

    Attributes:
        wait_seconds: delay requested by the server, in seconds, if any.
        may_be_prompt: whether this one prompt may be the cause, instead of the server.
        is_rate_limit: whether the server only wants fewer requests.
    """

    def __init__(
        self,
        message: str,
        *,
        wait_seconds: float | None = None,
        may_be_prompt: bool = True,
        is_rate_limit: bool = False,
    ) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds
        self.may_be_prompt = may_be_prompt
        self.is_rate_limit = is_rate_limit


class RejectedRequestError(EndpointError):
    """The server rejects this request because of the prompt or a setting."""


@dataclass(frozen=True, slots=True)
class ParsedResponse:
    """A parsed response: at least one completion, or why the prompt was refused.

    Attributes:
        prompt_tokens: length of the prompt, if the server reports it.
    """

    completions: tuple[Completion, ...]
    refusal: str | None = None
    prompt_tokens: int | None = None


def build_request_body(
    endpoint: Endpoint,
    *,
    model: str,
    conversation: Conversation,
    sampling: SamplingParams,
    n: int,
    seed: int,
) -> dict[str, Any]:
    """Build the request for `n` completions of one conversation."""
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
    if not sampling.allow_reasoning:
        body["chat_template_kwargs"] = _merge_template_variables(endpoint, sampling)
    if sampling.alternatives:
        body |= {"logprobs": True, "top_logprobs": sampling.alternatives}
    return body | {"seed": seed} if endpoint.send_seed else body


def _merge_template_variables(endpoint: Endpoint, sampling: SamplingParams) -> dict[str, Any]:
    """Merge chat template variables, in vLLM's and SGLang's form, with the endpoint's."""
    own = endpoint.extra.get("chat_template_kwargs")
    asked = replace(sampling.chat_options, date=None).build_variables()
    return {**(own if isinstance(own, dict) else {}), **asked}


def parse_response(
    status: int, headers: Mapping[str, str], body: bytes, *, max_new_tokens: int
) -> ParsedResponse:
    """Parse a response.

    Args:
        max_new_tokens: requested limit of one reply.

    Raises:
        RetryableResponseError: another attempt may succeed.
        EndpointError: no attempt will succeed until a setting or the server is changed.
        RejectedRequestError: the prompt may be the cause, but the server does not say so.
    """
    if status in range(200, 300):
        inner = _find_inner_error_status(body)
        if inner is None:
            return _parse_chat_completion(body, max_new_tokens)
        status = inner
    return _parse_error(status, headers, body)


def _find_inner_error_status(body: bytes) -> int | None:
    """Return the status of an error that a server sent as a success; None if there is none."""
    said = _parse(body)
    if not isinstance(said, dict) or not said.get("error") or said.get("choices"):
        return None
    error = said["error"]
    code = error.get("code") if isinstance(error, dict) else None
    is_status = re.fullmatch("[45][0-9]{2}", str(code)) is not None
    return int(str(code)) if is_status else _SERVER_ERROR


def _parse_error(status: int, headers: Mapping[str, str], body: bytes) -> ParsedResponse:
    """Return why the prompt was refused, or raise; see `parse_response`."""
    words = extract_error_text(body)
    if status in REDIRECTS:
        raise EndpointError(
            f"the server responded with a redirect ({status}), which is not followed"
        )
    if status == _AUTH_ERROR_STATUS:
        raise EndpointError(f"the API key is missing or was rejected ({status}): {words}")
    refusal = _find_refusal(status, body, words)
    if refusal is not None:
        return ParsedResponse((), refusal)
    if status in _RETRYABLE_STATUSES and _read_error_code(body) != "insufficient_quota":
        raise RetryableResponseError(
            f"the server responded with status {status}: {words}",
            wait_seconds=parse_retry_after(headers),
            may_be_prompt=status not in _BUSY_STATUSES,
            is_rate_limit=status == _BUSY,
        )
    if status == _NOT_ALLOWED:
        raise RejectedRequestError(
            f"the server does not allow this request with the API key ({status}): {words}"
        )
    kind = RejectedRequestError if status in _PROMPT_ERROR_STATUSES else EndpointError
    raise kind(f"the server rejected the request ({status}): {words}")


def _find_refusal(status: int, body: bytes, words: str) -> str | None:
    """Return why the server refuses this prompt, if it does."""
    too_long = f"the server refused the prompt as too long: {words}"
    if status == _PAYLOAD_TOO_LARGE:
        return too_long
    if status == _BUSY:
        return too_long if _TOO_LARGE_FOR_RATE.search(words) else None
    if status not in _PROMPT_ERROR_STATUSES:
        return None
    code = _read_error_code(body)
    if code in _FILTER_CODES:
        return f"the server's content filter refused the prompt: {words}"
    if _ACCOUNT_ERROR.search(words) or _SETTING_ERROR.search(words):
        return None
    if code in _TOO_LONG_CODES or _CONTEXT_LENGTH_ERROR.search(words):
        return too_long
    if _CONTENT_FILTER_ERROR.search(words):
        return f"the server's content filter refused the prompt: {words}"
    return None


def _parse_chat_completion(body: bytes, max_new_tokens: int) -> ParsedResponse:
    """Parse the usable choices of a response, at least one."""
    said = _parse(body)
    choices = said.get("choices") if isinstance(said, dict) else None
    if not isinstance(choices, list):
        raise RetryableResponseError(
            f"the response is not a chat completion: it has no choices ({extract_error_text(body)})"
        )
    if not choices:
        raise RetryableResponseError("the response has an empty list of choices")
    tokens = _count_tokens(said, choices, max_new_tokens)
    read = [_parse_choice(*item) for item in zip(choices, tokens, strict=True)]
    usable = tuple(item for item in read if isinstance(item, Completion))
    if not usable:
        raise RetryableResponseError(f"the response cannot be used: {read[0]}")
    return ParsedResponse(usable, prompt_tokens=_read_usage(said, "prompt_tokens"))


def _parse_choice(choice: Any, tokens: int) -> Completion | str:
    """Parse a choice into a completion, or return why there is none."""
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return "a choice without a message"
    reason = _parse_finish_reason(choice)
    text, refused = _join_text_parts(message.get("content")), message.get("refusal")
    if reason is None:
        return f"a reply that ended with {choice.get('finish_reason')!r:.40}"
    if reason == "refused" or (isinstance(refused, str) and text is None):
        words = format_single_line(refused) if isinstance(refused, str) else "its content filter"
        return Completion("", 0, "refused", refusal=f"the server withheld the reply: {words}")
    if text is None and reason == "length":
        text = ""  # all its tokens were used for reasoning, which is not part of the reply
    if not isinstance(text, str):
        return "a reply that is not text"
    return Completion(
        _replace_surrogates(text),
        tokens,
        reason,
        choices=_parse_token_choices(choice),
        token_ids=_parse_token_ids(choice),
    )


def _join_text_parts(content: Any) -> Any:
    """Join the text parts of a content that is a list; other parts are reasoning."""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return content
    texts = [part.get("text") for part in content if part.get("type") == "text"]
    return "".join(map(str, texts)) if texts else None


def _parse_token_ids(choice: dict[str, Any]) -> "array[int] | None":
    """Parse token ids if the server returns them (vLLM: `return_token_ids`)."""
    listed = choice.get("token_ids")
    if not isinstance(listed, list):
        return None
    return pack_token_ids(listed) if all(map(_is_token_id, listed)) else None


def _is_token_id(value: Any) -> bool:
    known = isinstance(value, int) and not isinstance(value, bool)
    return known and 0 <= value < _MAX_TOKEN_IDS


def _parse_token_choices(choice: dict[str, Any]) -> tuple[TokenChoice, ...] | None:
    """Parse tokens with alternatives if the server returns them and all are readable."""
    told = choice.get("logprobs")
    listed = told.get("content") if isinstance(told, dict) else None
    if not isinstance(listed, list) or not listed:
        return None
    read = [_parse_token_choice(one) for one in listed]
    known = tuple(one for one in read if one is not None)
    return known if len(known) == len(read) else None


def _parse_token_choice(told: Any) -> TokenChoice | None:
    token = told.get("token") if isinstance(told, dict) else None
    others = told.get("top_logprobs") if isinstance(told, dict) else None
    if not isinstance(token, str) or not isinstance(others, list):
        return None
    alternatives = [_parse_alternative(other) for other in others]
    known = [one for one in alternatives if one is not None]
    known.sort(key=lambda one: -one[1])
    return (
        TokenChoice(_replace_surrogates(token), tuple(known))
        if len(known) == len(alternatives)
        else None
    )


def _parse_alternative(told: Any) -> tuple[str, float] | None:
    token = told.get("token") if isinstance(told, dict) else None
    value = told.get("logprob") if isinstance(told, dict) else None
    if not isinstance(token, str) or isinstance(value, bool):
        return None
    if not isinstance(value, int | float) or math.isnan(value) or value > 0:
        return None
    return _replace_surrogates(token), float(value)


def _count_tokens(said: dict[str, Any], choices: Sequence[Any], max_new_tokens: int) -> list[int]:
    """Count the tokens of each choice, or divide the server's total."""
    known = [choice if isinstance(choice, dict) else {} for choice in choices]
    listed = [choice.get("token_ids") for choice in known]
    if all(isinstance(ids, list) for ids in listed):
        return [len(ids) for ids in listed if isinstance(ids, list)]
    total = _read_usage(said, "completion_tokens")
    if total is None:
        raise RetryableResponseError("the response does not state how many tokens were generated")
    cut_off = [_parse_finish_reason(choice) == "length" for choice in known]
    rest = total - max_new_tokens * sum(cut_off)
    if rest < 0 or all(cut_off):
        return apportion_tokens(total, [_count_chars(choice) for choice in known])
    shares = iter(
        apportion_tokens(
            rest,
            [_count_chars(choice) for choice in known if _parse_finish_reason(choice) != "length"],
        )
    )
    return [max_new_tokens if cut else next(shares) for cut in cut_off]


def _read_usage(said: dict[str, Any], name: str) -> int | None:
    """Read a field of the server's usage data; None if it is not a number."""
    usage = said.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    known = isinstance(count, int) and not isinstance(count, bool) and count >= 0
    return count if known else None


def apportion_tokens(total: int, lengths_chars: Sequence[int]) -> list[int]:
    """Divide `total` tokens among completions by their characters.

    Servers count the tokens of all `n` replies together. One character is added to the length of
    each reply, for its end token.
    """
    reached = [0]
    for length in lengths_chars:
        reached.append(reached[-1] + length + 1)
    ends = [total * at // reached[-1] for at in reached]
    return [end - begin for begin, end in pairwise(ends)]


def _parse_finish_reason(choice: dict[str, Any]) -> FinishReason | None:
    ended = choice.get("finish_reason")
    return _FINISH_REASONS.get(ended.lower()) if isinstance(ended, str) else None


def _count_chars(choice: dict[str, Any]) -> int:
    message = choice.get("message")
    text = _join_text_parts(message.get("content")) if isinstance(message, dict) else None
    return len(text) if isinstance(text, str) else 0


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Parse `Retry-After`: seconds or a date. None if absent or invalid."""
    milliseconds = headers.get("retry-after-ms", "").strip()
    if milliseconds.isascii() and milliseconds.isdigit():
        return int(milliseconds) / 1000
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        seconds = _compute_seconds_until(value)
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _compute_seconds_until(date: str) -> float:
    try:
        moment = parsedate_to_datetime(date)
    except (ValueError, TypeError, IndexError):
        return math.nan
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - datetime.now(UTC)).total_seconds()


def extract_error_text(body: bytes) -> str:
    """Extract the server's error message as one short line."""
    try:
        said = _parse(body)
    except RetryableResponseError:
        return format_single_line(body.decode(errors="replace")) or "no error message"
    for key in ("error", "message", "detail"):
        inner = said.get(key) if isinstance(said, dict) else None
        if isinstance(inner, dict):
            inner = inner.get("message")
        if inner:
            return format_single_line(str(inner))
    return format_single_line(json.dumps(said))


def format_single_line(text: str) -> str:
    """Format text as one short line without control characters."""
    line = " ".join(
        "".join(c if c.isprintable() else " " for c in _replace_surrogates(text)).split()
    )
    return line if len(line) <= _MAX_ERROR_CHARS else f"{line[:_MAX_ERROR_CHARS]}..."


def _read_error_code(body: bytes) -> str | None:
    try:
        said = _parse(body)
    except RetryableResponseError:
        return None
    error = said.get("error") if isinstance(said, dict) else None
    if not isinstance(error, dict):
        return None
    return next((str(error[key]) for key in ("code", "type") if _is_name(error.get(key))), None)


def _is_name(value: Any) -> bool:
    """Whether an error code is a name; a number only repeats the HTTP status."""
    return isinstance(value, str) and not value.isdigit()


def _parse(body: bytes) -> Any:
    try:
        return parse_json(body, ANSWER_LIMITS, leave_scalars=True)
    except MalformedInputError:
        raise RetryableResponseError("the response is not JSON") from None


def _replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which JSON can contain and files cannot."""
    return text.encode(errors="replace").decode()
