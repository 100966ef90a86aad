"""What differs between two texts, in words, in a time that no text can make long.

The words that two texts share are their longest common subsequence. (The standard library's
matcher can take minutes for texts that repeat themselves.) Long texts are compared line by line
first, and by words only within lines that differ.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

LONGEST: Final = 20_000
"""What follows after so many characters is not compared."""

_MOST_COMPARISONS: Final = 1_000_000
_WORDS: Final = re.compile(r"\s+|\w+\s*|[^\w\s]\s*")

Change = Literal["same", "new", "gone"]


@dataclass(frozen=True, slots=True)
class Stretch:
    """A piece of a text, and whether the other text has it too."""

    change: Change
    text: str


def differences(before: str, after: str) -> list[Stretch]:
    """Tell what is new in a text and what is gone, in the order of the text.

    Only the first `LONGEST` characters of each are compared.
    """
    before, after = before[:LONGEST], after[:LONGEST]
    return list(_joined(_compare(before, after)))


def unchanged(text: str) -> list[Stretch]:
    """A text that there is nothing to compare with, as far as it would be compared."""
    return [Stretch("same", text[:LONGEST])]


def _compare(before: str, after: str) -> Iterator[Stretch]:
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    if len(old) * len(new) <= _MOST_COMPARISONS:
        yield from _aligned(old, new)
        return
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    if len(old) * len(new) > _MOST_COMPARISONS or len(old) == len(new) == 1:
        yield from _replaced(before, after)
        return
    for was, now, is_same in _blocks(old, new):
        if is_same:
            yield Stretch("same", now)
        else:
            yield from _within_lines(was, now)


def _within_lines(was: str, now: str) -> Iterator[Stretch]:
    old, new = _WORDS.findall(was), _WORDS.findall(now)
    if len(old) * len(new) <= _MOST_COMPARISONS:
        yield from _aligned(old, new)
    else:
        yield from _replaced(was, now)


def _aligned(old: Sequence[str], new: Sequence[str]) -> Iterator[Stretch]:
    for was, now, is_same in _blocks(old, new):
        if is_same:
            yield Stretch("same", now)
        else:
            yield from _replaced(was, now)


def _replaced(was: str, now: str) -> Iterator[Stretch]:
    if was:
        yield Stretch("gone", was)
    if now:
        yield Stretch("new", now)


def _blocks(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[str, str, bool]]:
    """Yield (old text, new text, whether they are the same), block by block."""
    place, other = 0, 0
    for a, b in [*_shared(old, new), (len(old), len(new))]:
        if a > place or b > other:
            yield "".join(old[place:a]), "".join(new[other:b]), False
        if a < len(old):
            yield old[a], new[b], True
        place, other = a + 1, b + 1


def _shared(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int]]:
    """Places of a longest common subsequence in both, ascending."""
    codes = {token: code for code, token in enumerate({*old, *new})}
    first = np.array([codes[token] for token in old], dtype=np.int64)
    second = np.array([codes[token] for token in new], dtype=np.int64)
    longest = _lengths(first, second)
    shared = []
    a, b = len(old), len(new)
    while a and b:
        if first[a - 1] == second[b - 1]:
            a, b = a - 1, b - 1
            shared.append((a, b))
        elif longest[a - 1, b] >= longest[a, b - 1]:
            a -= 1
        else:
            b -= 1
    return shared[::-1]


def _lengths(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Length of the longest common subsequence of each two beginnings, [len + 1, len + 1]."""
    longest = np.zeros((len(first) + 1, len(second) + 1), dtype=np.int32)
    for row, code in enumerate(first):
        above = longest[row]
        best = np.maximum(above[1:], above[:-1] + (second == code))
        np.maximum.accumulate(best, out=longest[row + 1, 1:])
    return longest


def _joined(stretches: Iterable[Stretch]) -> Iterator[Stretch]:
    """Neighbours of one kind become one stretch."""
    waiting: Stretch | None = None
    for stretch in stretches:
        if waiting is not None and waiting.change == stretch.change:
            waiting = Stretch(stretch.change, waiting.text + stretch.text)
            continue
        if waiting is not None:
            yield waiting
        waiting = stretch
    if waiting is not None:
        yield waiting
