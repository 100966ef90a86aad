"""Decode all untrusted JSON and YAML values, with limits.

Untrusted is everything that another user, program or file supplies: requests, recipes, imports,
scorecards, settings, server responses, files of experiments. A size limit alone does not bound the
work: 20,000 brackets are only 20 kB, but keep a parser busy for minutes and end in a
RecursionError. So this module

- decodes bytes as UTF-8 and refuses characters that databases or files cannot store (NUL, half
surrogates),
- counts depth and values before anything is parsed,
- parses in time linear in the input (YAML with libyaml, if available),
- refuses numbers that cannot be stored: integers beyond 64 bits, infinities, NaN.

Callers check the meaning of a value against a typed schema. Messages are predicates, such as "is
nested deeper than 64 levels": callers add the subject.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

from meta_reward_core.errors import MalformedInputError

_NUL: Final = "\0"
_INTEGER_LIMIT: Final = 2**63
_MAX_DIGITS: Final = 20
_MAX_RESOLVED_CHARS: Final = 64
_MAX_SHOWN_CHARS: Final = 200

_JSON_STRING: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_JSON_BRACKET: Final = re.compile(r"[\[\]{}]")
_JSON_BAD_ESCAPE: Final = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")

_YAML_DIRECTIVE: Final = re.compile(r"^%(?:TAG|YAML)\b", re.MULTILINE)
_YAML_TIMESTAMP: Final = "tag:yaml.org,2002:timestamp"
_YAML_MERGE: Final = "tag:yaml.org,2002:merge"
_YAML_TEXT: Final = "tag:yaml.org,2002:str"
_YAML_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class InputLimits:
    """Limits of one untrusted value.

    Attributes:
        max_chars: maximum number of characters of the whole text.
        max_depth: maximum depth of nested lists and objects.
        max_nodes: maximum total number of texts, numbers, lists and objects.
    """

    max_chars: int
    max_depth: int
    max_nodes: int


REQUEST_LIMITS: Final = InputLimits(max_chars=8_000_000, max_depth=32, max_nodes=200_000)
"""Limits for request bodies."""
YAML_LIMITS: Final = InputLimits(max_chars=500_000, max_depth=32, max_nodes=5_000)
"""Limits for handwritten recipes and settings."""
FILE_LIMITS: Final = InputLimits(max_chars=2**31, max_depth=64, max_nodes=50_000_000)
"""Limits for files whose size is limited elsewhere, or which this installation wrote."""
ANSWER_LIMITS: Final = InputLimits(max_chars=256_000_000, max_depth=64, max_nodes=10_000_000)
"""Limits for responses of servers."""


def decode_text(data: bytes) -> str:
    """Decode bytes as UTF-8 and drop a byte order mark.

    Raises:
        MalformedInputError: the bytes are not UTF-8, or contain NUL.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedInputError(f"is not UTF-8 text (byte {error.start})") from None
    check_text(text)
    return text


def check_text(text: str) -> None:
    """Refuse text that a database or a file cannot store.

    Raises:
        MalformedInputError: the text contains NUL or half of a surrogate pair.
    """
    if _NUL in text:
        raise MalformedInputError("contains the character NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MalformedInputError("contains half of a surrogate pair") from None


def check_value(value: Any, limits: InputLimits) -> None:
    """Refuse a parsed value that exceeds a limit, or that JSON cannot represent.

    An object that occurs in several places counts at each of them, so a value that contains itself,
    or grows by repeated aliases, is refused as well.

    Raises:
        MalformedInputError: the value exceeds a limit, or JSON cannot represent it.
    """
    waiting: list[Iterator[Any]] = [iter((value,))]
    count = 0
    while waiting:
        for part in waiting[-1]:
            count += 1
            if count > limits.max_nodes:
                raise _make_node_error(limits)
            if isinstance(part, dict | list):
                waiting.append(_iter_parts(part))
                break
            _check_scalar(part)
        else:
            waiting.pop()
        if len(waiting) > limits.max_depth + 1:
            raise _make_depth_error(limits)


def parse_json(
    content: bytes | str,
    limits: InputLimits = FILE_LIMITS,
    *,
    nan_is_null: bool = False,
    unique_keys: bool = False,
    leave_scalars: bool = False,
) -> Any:
    """Parse a JSON value.

    Args:
        content: the whole text, or its bytes in UTF-8.
        limits: limits for the value.
        nan_is_null: whether to read NaN, which pandas writes for missing values, as null instead of
            refusing it.
        unique_keys: whether to refuse an object that has the same key twice.
        leave_scalars: whether to accept all texts and numbers, for a schema that checks each of
            them and can report which one is wrong; long integers become floats.

    Raises:
        MalformedInputError: the content is not JSON, or exceeds a limit.
    """
    text = decode_text(content) if isinstance(content, bytes) else content
    if not isinstance(content, bytes):
        check_text(text)
    _check_json_size(text, limits)
    other_constant = float if leave_scalars else _refuse_constant
    try:
        value = json.loads(
            text,
            parse_int=_parse_any_integer if leave_scalars else _parse_integer,
            parse_float=float if leave_scalars else _parse_float,
            parse_constant=lambda name: (
                None if nan_is_null and name == "NaN" else other_constant(name)
            ),
            object_pairs_hook=_refuse_equal_keys if unique_keys else None,
        )
    except json.JSONDecodeError as error:
        raise MalformedInputError(f"is not valid JSON ({error})") from None
    if not leave_scalars and _JSON_BAD_ESCAPE.search(text):
        check_value(value, limits)
    return value


def parse_yaml(
    content: bytes | str, limits: InputLimits = YAML_LIMITS, *, allow_aliases: bool = False
) -> Any:
    """Parse one YAML document of plain values; dates remain strings.

    Args:
        content: the whole text, or its bytes in UTF-8.
        limits: limits for the value.
        allow_aliases: whether aliases such as `*name` are allowed; the value counts at each alias.

    Raises:
        MalformedInputError: the content is not YAML, has a key twice, uses tags, or exceeds a
            limit.
    """
    text = decode_text(content) if isinstance(content, bytes) else content
    check_text(text)
    if len(text) > limits.max_chars:
        raise _make_size_error(limits)
    if _YAML_DIRECTIVE.search(text):
        raise MalformedInputError("uses a YAML directive (a line that starts with %)")
    try:
        _check_yaml_events(text, limits, allow_aliases=allow_aliases)
        value = yaml.load(text, Loader=_PlainLoader)  # noqa: S506 # nosec B506
    except yaml.YAMLError as error:
        raise MalformedInputError(f"is not readable YAML: {error}") from error
    check_value(value, limits)
    return value


# JSON.


def _check_json_size(text: str, limits: InputLimits) -> None:
    if len(text) > limits.max_chars:
        raise _make_size_error(limits)
    bare = _JSON_STRING.sub("", text)
    opened = bare.count("[") + bare.count("{")
    if opened + bare.count(",") > limits.max_nodes:
        raise _make_node_error(limits)
    if opened <= limits.max_depth:
        return
    depth = 0
    for bracket in _JSON_BRACKET.finditer(bare):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > limits.max_depth:
            raise _make_depth_error(limits)


def _parse_integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise MalformedInputError(f"contains an integer of {len(digits):,} characters")
    number = int(digits)
    _check_scalar(number)
    return number


def _parse_any_integer(digits: str) -> int | float:
    return int(digits) if len(digits) < _MAX_DIGITS else float(digits)


def _parse_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise MalformedInputError(f"contains the number {digits[:_MAX_DIGITS]}, which is too large")
    return number


def _refuse_constant(name: str) -> float:
    raise MalformedInputError(f"contains {name}, which is not a JSON number")


def _refuse_equal_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise MalformedInputError(
                f"contains an object with the key {_shorten(key)} twice; keep one"
            )
        found[key] = value
    return found


# YAML.


class _PlainLoader(_YAML_BASE):  # type: ignore[misc]
    """A loader for plain values: no dates, no long numbers, no duplicate keys, no merge lists."""

    def resolve(self, kind: type, value: Any, implicit: Any) -> Any:
        """Treat a long plain text as text without testing whether it is a number."""
        if kind is yaml.ScalarNode and len(value) > _MAX_RESOLVED_CHARS:
            return _YAML_TEXT
        return super().resolve(kind, value, implicit)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge at most one mapping: lists of mappings multiply."""
        for key, value in node.value:
            if key.tag == _YAML_MERGE and isinstance(value, yaml.SequenceNode):
                raise MalformedInputError(
                    f"merges a list into a mapping (line {_get_line(key)}): write the values out"
                )
        super().flatten_mapping(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:  # noqa: FBT001, FBT002
        """Refuse a duplicate key instead of using the last value."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise MalformedInputError(
                    f"has a list or a mapping as a key (line {_get_line(key)})"
                )
            if key.value in seen:
                raise MalformedInputError(
                    f"has the key {_shorten(key.value)} twice (line {_get_line(node)})"
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _YAML_TIMESTAMP]
    for first, resolvers in _YAML_BASE.yaml_implicit_resolvers.items()
}


def _check_yaml_events(text: str, limits: InputLimits, *, allow_aliases: bool) -> None:
    """Check the document as a stream, without recursion, and stop at the first violation."""
    depth = nodes = 0
    for event in yaml.parse(text, Loader=_YAML_BASE):
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.NodeEvent):
            nodes += 1
            depth += isinstance(event, yaml.CollectionStartEvent)
            _check_yaml_node(event, allow_aliases=allow_aliases)
        if depth > limits.max_depth:
            raise _make_depth_error(limits)
        if nodes > limits.max_nodes:
            raise _make_node_error(limits)


def _check_yaml_node(event: yaml.NodeEvent, *, allow_aliases: bool) -> None:
    line = _get_line(event)
    if isinstance(event, yaml.AliasEvent):
        if not allow_aliases:
            raise MalformedInputError(
                f"uses YAML aliases (*name, line {line}): write the values out"
            )
    elif getattr(event, "tag", None) not in (None, "!", _YAML_TEXT):
        raise MalformedInputError(f"uses a YAML tag (line {line}): write a plain value")


def _get_line(part: Any) -> int:
    return int(part.start_mark.line) + 1


# Both formats.


def _iter_parts(value: dict[Any, Any] | list[Any]) -> Iterator[Any]:
    if isinstance(value, list):
        return iter(value)
    return (part for pair in value.items() for part in pair)


def _check_scalar(value: Any) -> None:
    check: Callable[[Any], None] | None = _SCALARS.get(type(value))
    if check is None:
        raise MalformedInputError(f"contains a value of the type {type(value).__name__}")
    check(value)


def _check_integer(value: int) -> None:
    if not -_INTEGER_LIMIT <= value < _INTEGER_LIMIT:
        raise MalformedInputError("contains an integer that does not fit into 64 bits")


def _check_float(value: float) -> None:
    if not math.isfinite(value):
        raise MalformedInputError("contains a number that is infinite or NaN")


def _accept(value: object) -> None:
    """Accept any value."""


_SCALARS: Final[dict[type, Callable[[Any], None]]] = {
    str: check_text,
    int: _check_integer,
    float: _check_float,
    bool: _accept,
    type(None): _accept,
}


def _shorten(text: str) -> str:
    return repr(text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}...")


def _make_size_error(limits: InputLimits) -> MalformedInputError:
    return MalformedInputError(f"is longer than {limits.max_chars:,} characters")


def _make_depth_error(limits: InputLimits) -> MalformedInputError:
    return MalformedInputError(f"is nested deeper than {limits.max_depth} levels")


def _make_node_error(limits: InputLimits) -> MalformedInputError:
    return MalformedInputError(f"contains more than {limits.max_nodes:,} values")
