"""Find the last statement of a completion with a grammar of scores or verdicts.

Only the text after the closed reasoning of a reply counts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from meta_reward_core.method.parsing.statements import (
    Label,
    LabelWords,
    TailRules,
    Tokens,
    find_labels,
    is_reconsidered,
    strip_bullet,
)
from meta_reward_core.method.parsing.tokens import tokenize
from meta_reward_core.models.reasoning import extract_finished_part

V = TypeVar("V")

CUT_OFF: Final = "judgment_cut_off"

_CONTENT: Final = frozenset({"word", "number", "stars", "chain"})


@dataclass(frozen=True, slots=True)
class Reading(Generic[V]):
    """Meaning of a statement.

    Attributes:
        value: the score or the verdict; None if it is unreadable.
        problem: why the value is unreadable.
        end: index of the first token after the value.
        start: for a statement without a label, index of the first token of its sentence.
    """

    value: V | None
    problem: str | None = None
    end: int = 0
    start: int = 0


@dataclass(frozen=True, slots=True)
class Grammar(Generic[V]):
    """Grammar of values.

    Attributes:
        labels: words that label a value.
        read: reads the tokens after a label; None if they do not state the overall value.
        read_closing: reads a last line without a label.
        read_alone: reads a reply of one line without a label.
        rules: what may follow a value.
        unreadable: the problem to report if statements contradict each other.
    """

    labels: LabelWords
    read: Callable[[Tokens, Label], Reading[V] | None]
    read_closing: Callable[[Tokens], Reading[V] | None]
    read_alone: Callable[[Tokens], Reading[V] | None]
    rules: Callable[[V], TailRules]
    unreadable: str


@dataclass(frozen=True, slots=True)
class Statement(Generic[V]):
    """A reading and its position.

    Attributes:
        reading: the value, or the problem.
        lines: numbers of the line of the label and the line of the value.
        start: offset of the label in its line; None if nothing precedes it on the line.
        is_followed: whether words follow the value on its line.
    """

    reading: Reading[V]
    lines: tuple[int, int]
    start: int | None = None
    is_followed: bool = False


class Lines:
    """The lines of a completion; tokens are computed on demand."""

    def __init__(self, text: str) -> None:
        """Split `text` into lines."""
        self.texts = text.splitlines(keepends=True)
        self._tokens: dict[int, Tokens] = {}

    def get_tokens(self, number: int) -> Tokens:
        """Return the tokens of a line; empty for a quotation (`> ...`) or pure decoration."""
        if number not in self._tokens:
            self._tokens[number] = self._tokenize(self.texts[number])
        return self._tokens[number]

    def _tokenize(self, line: str) -> Tokens:
        if line.lstrip().startswith(">"):
            return []
        tokens = tokenize(line)
        return tokens if has_content(tokens) else []

    def iter_filled(self, numbers: Sequence[int]) -> Iterator[int]:
        """Yield those of `numbers` whose lines have tokens."""
        return (number for number in numbers if self.get_tokens(number))

    def is_ended(self, number: int) -> bool:
        """Whether a line break follows a line."""
        return number < len(self.texts) - 1 or self.texts[number] != self.texts[number].rstrip(
            "\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
        )


def has_content(tokens: Tokens) -> bool:
    """Whether tokens contain more than punctuation."""
    return any(token.kind in _CONTENT for token in tokens)


def read_reply(text: str, grammar: Grammar[V], *, is_cut_off: bool) -> Reading[V] | None:
    """Read the last statement of a completion.

    Args:
        text: the reply as the engine returned it.
        grammar: grammar of the value.
        is_cut_off: whether the token limit ended the reply; then a statement counts if a line
            break or a word follows its value.

    Returns:
        None if nothing is stated. The problem is `judgment_cut_off` if the reply ends too early.
    """
    reply = extract_finished_part(text)
    if reply is None:
        return Reading(None, CUT_OFF)
    lines = Lines(reply)
    statement = _find_last_statement(lines, grammar)
    if is_cut_off and (statement is None or not _is_complete(lines, statement)):
        return Reading(None, CUT_OFF)
    return None if statement is None else _confirm_statement(lines, statement, grammar).reading


def _is_complete(lines: Lines, statement: Statement[V]) -> bool:
    return statement.is_followed or lines.is_ended(statement.lines[1])


def _confirm_statement(lines: Lines, statement: Statement[V], grammar: Grammar[V]) -> Statement[V]:
    """Return the statement, or an unreadable one if later lines retract it."""
    value = statement.reading.value
    if value is None:
        return statement
    rules = grammar.rules(value)
    later = range(statement.lines[1] + 1, len(lines.texts))
    if any(is_reconsidered(lines.get_tokens(number), rules) for number in later):
        return replace(statement, reading=Reading(None, grammar.unreadable))
    return statement


def _find_last_statement(lines: Lines, grammar: Grammar[V]) -> Statement[V] | None:
    """Find the last labeled statement, or the unlabeled statement of the last line."""
    following: int | None = None
    closing: Statement[V] | None = None
    for number in lines.iter_filled(range(len(lines.texts) - 1, -1, -1)):
        statement = read_line(lines, number, following, grammar)
        if statement is not None:
            return (
                statement if closing is None else _reconcile_statements(statement, closing, grammar)
            )
        if following is None:
            closing = _read_closing(lines, number, grammar)
        following = number
    return closing


def _reconcile_statements(
    earlier: Statement[V], closing: Statement[V], grammar: Grammar[V]
) -> Statement[V]:
    """Return the statement of the last line unless it contradicts a labeled line above."""
    if earlier.reading.value == closing.reading.value:
        return closing
    return replace(closing, reading=Reading(None, grammar.unreadable))


def _read_closing(lines: Lines, number: int, grammar: Grammar[V]) -> Statement[V] | None:
    is_alone = next(lines.iter_filled(range(number)), None) is None
    read = grammar.read_alone if is_alone else grammar.read_closing
    reading = read(lines.get_tokens(number))
    return None if reading is None else Statement(reading, (number, number))


def read_line(
    lines: Lines, number: int, following: int | None, grammar: Grammar[V]
) -> Statement[V] | None:
    """Read the labeled statements of a line; statements of one line must not contradict each other.

    Args:
        lines: the lines of the reply.
        number: number of the line to read.
        following: number of the next line with tokens, where a value may stand alone.
        grammar: grammar of the value.
    """
    tokens = lines.get_tokens(number)
    labels = find_labels(tokens, grammar.labels)
    if not labels:
        return None
    found: list[Statement[V]] = []
    for label, after in zip(labels, [*labels[1:], None], strict=True):
        value = tokens[label.end : after.start if after else len(tokens)]
        if not has_content(value):
            if after is None:
                found += _read_next_line(lines, number, following, label, grammar)
            continue
        reading = grammar.read(value, label)
        if reading is not None:
            tail = value[reading.end :]
            found.append(Statement(reading, (number, number), is_followed=has_content(tail)))
    if not found:
        return None
    first = labels[0]
    start = None if first.stands_alone else tokens[first.start].start
    values = {statement.reading.value for statement in found}
    reading = found[-1].reading if len(values) == 1 else Reading(None, grammar.unreadable)
    return replace(found[-1], reading=reading, start=start)


def _read_next_line(
    lines: Lines, number: int, following: int | None, label: Label, grammar: Grammar[V]
) -> list[Statement[V]]:
    """Read a value that stands alone on the line below its label."""
    if following is not None:
        value = strip_bullet(lines.get_tokens(following))
        reading = grammar.read(value, replace(label, is_strict=True))
        if reading is not None and reading.value is not None:
            return [Statement(reading, (number, following))]
    if label.is_firm:
        return [Statement(Reading(None, grammar.unreadable), (number, number))]
    return []


def find_closing_statement(text: str, grammar: Grammar[V]) -> int:
    """Find the start of the last non-empty line if it states a value, readable or not.

    A value alone on the last line begins with the label's line.

    Returns:
        An offset in the text; the length of the text without blanks at its end if that line states
        nothing, or is inside a reasoning block that is not closed.
    """
    nowhere = len(text.rstrip())
    reply = extract_finished_part(text)
    if reply is None:
        return nowhere
    lines = Lines(reply)
    filled = list(lines.iter_filled(range(len(lines.texts) - 1, -1, -1)))[:2]
    if not filled:
        return nowhere
    last = filled[0]
    statement = read_line(lines, last, None, grammar)
    if statement is None and len(filled) > 1:
        above = read_line(lines, filled[1], last, grammar)
        statement = above if above is not None and above.lines[1] == last else None
    if statement is None:
        statement = _read_closing(lines, last, grammar)
    if statement is None:
        return nowhere
    start = sum(map(len, lines.texts[: statement.lines[0]])) + (statement.start or 0)
    return len(text) - len(reply) + start


def remove_statements(text: str, grammar: Grammar[V], *, closing: bool) -> str:
    """Remove all statements of a value, readable or not, reasoning blocks included.

    Args:
        text: a reply.
        grammar: grammar of the value.
        closing: whether a last line without a label is removed too if it states a value.
    """
    reply = extract_finished_part(text) or ""
    reasoning = text[: len(text) - len(reply)]
    return _remove(reasoning, grammar, closing=False) + _remove(reply, grammar, closing=closing)


def _remove(text: str, grammar: Grammar[V], *, closing: bool) -> str:
    """Remove statements until none is left: a removal can join two other lines."""
    while True:
        kept = _remove_labeled(Lines(text), grammar)
        if closing:
            _drop_closing(kept, grammar)
        shorter = "".join(kept)
        if shorter == text:
            return text
        text = shorter


def _remove_labeled(lines: Lines, grammar: Grammar[V]) -> list[str]:
    """Cut each line before its first labeled statement."""
    kept = list(lines.texts)
    following: int | None = None
    for number in lines.iter_filled(range(len(kept) - 1, -1, -1)):
        statement = read_line(lines, number, following, grammar)
        if statement is not None:
            kept[number] = _cut_before(kept[number], statement.start)
            if statement.lines[1] != number:
                kept[statement.lines[1]] = ""
        following = number
    return kept


def _cut_before(line: str, start: int | None) -> str:
    """Return the text before a statement with the line break; empty if nothing is before it."""
    if start is None:
        return ""
    body = line.rstrip("\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
    return body[:start].rstrip(" \t*_`~#|([{<\"'\u201c\u2018") + line[len(body) :]


def _drop_closing(kept: list[str], grammar: Grammar[V]) -> None:
    """Remove the last lines if they state a value without a label."""
    lines = Lines("".join(kept))
    texts = lines.texts
    for number in lines.iter_filled(range(len(texts) - 1, -1, -1)):
        tokens = lines.get_tokens(number)
        reading = grammar.read_closing(tokens)
        if reading is None:
            break
        texts[number] = _cut_before(
            texts[number], tokens[reading.start].start if reading.start else None
        )
        if reading.start:
            break
    kept[:] = texts
