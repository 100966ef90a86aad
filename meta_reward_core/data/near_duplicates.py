"""Which texts nearly repeat another: ROUGE-L over words, against all that came before.

ROUGE-L's F1 of two texts is 2 LCS / (m + n), with LCS the longest common subsequence of their m
and n words. That is what rapidfuzz calls the normalised Indel similarity of the two sequences.

Source: arXiv 2212.10560, section 2.2 (a new instruction is kept below 0.7 to every other).
"""

import re
from collections.abc import Iterable
from typing import Final

from rapidfuzz import process
from rapidfuzz.distance import Indel

SIMILARITY_THRESHOLD: Final = 0.7

_FIRST_CODE: Final = 0x10000  # above the surrogates, which are no characters
_CODES: Final = 0x10FFFF - _FIRST_CODE
# A script without blanks between words is compared by characters.
_UNSPACED: Final = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


class NearDuplicateIndex:
    """Remembers texts and finds those among them that a new one nearly repeats.

    Args:
        similar: the least similarity that counts, in (0, 1].
    """

    def __init__(self, texts: Iterable[str] = (), *, similar: float = SIMILARITY_THRESHOLD) -> None:
        self._similar = similar
        self._codes: dict[str, str] = {}
        self._texts: list[str] = []
        self._coded: list[str] = []
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Remember a text."""
        self._texts.append(text)
        self._coded.append(self._encode(text))

    def find(self, text: str) -> tuple[str, float] | None:
        """The most similar remembered text and its similarity; None if none is similar enough."""
        found = process.extractOne(
            self._encode(text),
            self._coded,
            scorer=Indel.normalized_similarity,
            score_cutoff=self._similar,
        )
        return None if found is None else (self._texts[found[2]], float(found[1]))

    def _encode(self, text: str) -> str:
        """One character for each word: what compares strings compares words then."""
        return "".join(self._encode_word(word) for word in _WORD.findall(text.casefold()))

    def _encode_word(self, word: str) -> str:
        return self._codes.setdefault(word, chr(_FIRST_CODE + len(self._codes) % _CODES))
