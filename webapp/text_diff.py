"""The words in which two texts differ, computed in bounded time for any text.

The words that two texts share are a longest common subsequence, which rapidfuzz computes with
64-bit operations; its run time depends only on the number of words. (The standard
library's matcher can take minutes for repetitive texts.) Texts with too many words are compared by
lines, and texts with too many lines are not compared.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal, NamedTuple

from rapidfuzz.distance import Indel

MAX_STEPS: Final = 8_000_000
"""Maximum steps of one comparison, each 64 cells of its table; 64 MB in total."""

_WORDS: Final = re.compile(r"\s+|\w+|[^\w\s]")

Side = Literal["same", "first", "second"]


@dataclass(frozen=True, slots=True)
class Span:
    """A span of two compared texts: in both of them, or in only one."""

    side: Side
    text: str


class _Block(NamedTuple):
    """Words of both texts that are equal or replace each other."""

    is_same: bool
    before: str
    after: str


def compare_texts(first: str, second: str) -> list[Span]:
    """Find common and differing parts of two texts, in text order.

    Where they differ, the first text's words come before the second's. Spaces between two differing
    words of a line belong to the difference.
    """
    for split in (_WORDS.findall, _split_lines):
        words = split(first), split(second)
        if count_steps(*words) <= MAX_STEPS:
            return list(_merge_changes(_align(*words)))
    return [*_make_spans(first, second)]


def diff_texts(side: Literal["first", "second"], spans: Iterable[Span]) -> list[Span]:
    """Select the spans of one of the two texts; concatenated, they are that text."""
    return [span for span in spans if span.side in ("same", side)]


def count_steps(first: Sequence[str], second: Sequence[str]) -> int:
    """Count the steps of a comparison: one per word of the second text and 64 of the first."""
    return -(-len(first) // 64) * len(second)


def _split_lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _align(first: Sequence[str], second: Sequence[str]) -> Iterator[_Block]:
    """Cut two lists of words into blocks, in order."""
    codes = {word: code for code, word in enumerate(dict.fromkeys([*first, *second]))}
    found = Indel.opcodes([codes[word] for word in first], [codes[word] for word in second])
    for one in found:
        before = "".join(first[one.src_start : one.src_end])
        after = "".join(second[one.dest_start : one.dest_end])
        yield _Block(one.tag == "equal", before, after)


def _merge_changes(blocks: Iterable[_Block]) -> Iterator[Span]:
    """Convert blocks to spans; adjacent blocks of one kind become one span."""
    for is_same, group in groupby(_merge_blanks(list(blocks)), key=lambda block: block.is_same):
        parts = list(group)
        before = "".join(part.before for part in parts)
        after = "".join(part.after for part in parts)
        yield from [Span("same", before)] if is_same else _make_spans(before, after)


def _merge_blanks(blocks: Sequence[_Block]) -> Iterator[_Block]:
    """Treat spaces between two changed words as changed, so that they form one change."""
    for place, block in enumerate(blocks):
        is_between = 0 < place < len(blocks) - 1
        is_gap = block.is_same and is_between and not block.before.strip(" \t\u00a0")
        yield block._replace(is_same=block.is_same and not is_gap)


def _make_spans(before: str, after: str) -> Iterator[Span]:
    if before:
        yield Span("first", before)
    if after:
        yield Span("second", after)
