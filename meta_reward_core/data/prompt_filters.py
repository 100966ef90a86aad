"""Filters of a prompt pool: near duplicates, other languages, evaluation prompts.

Near duplicates are found by ROUGE-L over words. Its F1 of two texts is 2 LCS / (m + n), with LCS
the longest common subsequence of their m and n words, which rapidfuzz calls the normalized Indel
similarity of the two sequences.
Source: arXiv 2212.10560, section 2.2 (a new instruction is kept below 0.7 to every other).

Languages are identified by a small model that its package contains.

Held-out prompts are for evaluation and never trained on. They are recognized by a hash of their
words, which ignores case, spacing and the Unicode form.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from py3langid.langid import MODEL_FILE, LanguageIdentifier
from rapidfuzz import process
from rapidfuzz.distance import Indel

from meta_reward_core.data.prompt_files import PromptFile, compute_prompt_id, read_prompts
from meta_reward_core.errors import InputError

SIMILARITY_THRESHOLD: Final = 0.7

_FIRST_CODE: Final = 0x10000  # above the surrogates, which are not characters
_CODES: Final = 0x10FFFF - _FIRST_CODE
# Scripts without spaces between words are compared by characters.
_UNSPACED: Final = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


class NearDuplicateIndex:
    """Index of texts that finds near duplicates of a new text.

    Args:
        rouge_threshold: minimum ROUGE-L of a near duplicate, in (0, 1].
    """

    def __init__(
        self, texts: Iterable[str] = (), *, rouge_threshold: float = SIMILARITY_THRESHOLD
    ) -> None:
        self._rouge_threshold = rouge_threshold
        self._codes: dict[str, str] = {}
        self._texts: list[str] = []
        self._coded: list[str] = []
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Add a text to the index."""
        self._texts.append(text)
        self._coded.append(self._encode(text))

    def find(self, text: str) -> tuple[str, float] | None:
        """Return the most similar indexed text and its similarity; None if none is similar."""
        found = process.extractOne(
            self._encode(text),
            self._coded,
            scorer=Indel.normalized_similarity,
            score_cutoff=self._rouge_threshold,
        )
        return None if found is None else (self._texts[found[2]], float(found[1]))

    def _encode(self, text: str) -> str:
        """Encode each word as one character, so that string comparison compares words."""
        return "".join(self._encode_word(word) for word in _WORD.findall(text.casefold()))

    def _encode_word(self, word: str) -> str:
        return self._codes.setdefault(word, chr(_FIRST_CODE + len(self._codes) % _CODES))


MIN_PROBABILITY: Final = 0.2
MAX_DOUBT: Final = 0.5
"""The language of short texts is uncertain: a text is only rejected if it is improbable in the
allowed languages and more likely than not in one other language.
"""


@cache
def _load_identifier() -> Any:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def check_languages(codes: Sequence[str]) -> None:
    """Refuse language codes that the language identifier does not support.

    Raises:
        InputError: a code is unknown; the message lists the unknown codes.
    """
    unknown = sorted(set(codes) - set(_load_identifier().labels))
    if unknown:
        raise InputError(
            f"unknown language {', '.join(unknown)}: use codes such as en, de, fr, es, zh or ja"
        )


def is_in_language(text: str, codes: Sequence[str]) -> bool:
    """Whether a text is plausibly in one of the languages.

    Args:
        text: any text.
        codes: ISO 639-1 codes of the languages.
    """
    ranked = dict(_load_identifier().rank(text))
    wanted = sum(ranked.pop(code, 0.0) for code in codes)
    return wanted >= MIN_PROBABILITY or max(ranked.values(), default=0.0) < MAX_DOUBT


def compute_held_out_key(text: str) -> str:
    """Return the SHA-256 of a prompt's normalized words, in hexadecimal."""
    words = unicodedata.normalize("NFKC", text).casefold().split()
    return hashlib.sha256(" ".join(words).encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class HeldOutPrompts:
    """Prompts that must not be trained on.

    Attributes:
        texts: the texts, exactly as in their files.
        keys: hashes of their normalized words.
        prompt_ids: hashes of their exact texts, which rows of fine-tuning data may use to refer to
            them.
    """

    texts: tuple[str, ...]
    keys: frozenset[str]
    prompt_ids: frozenset[str]

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> "HeldOutPrompts":
        """Build the set from texts."""
        kept = tuple(texts)
        return cls(
            kept,
            frozenset(map(compute_held_out_key, kept)),
            frozenset(map(compute_prompt_id, kept)),
        )

    def __contains__(self, text: str) -> bool:
        return compute_held_out_key(text) in self.keys


def read_held_out(paths: Sequence[Path]) -> HeldOutPrompts:
    """Read files of held-out prompts; without files the set is empty.

    Raises:
        PromptFileError: a file, or a row in a file, cannot be read as a prompt.
    """
    texts: list[str] = []
    for path in paths:
        found = read_prompts(path)
        found.require_good_rows(path.name)
        texts.extend(prompt.text for prompt in found.prompts)
    return HeldOutPrompts.from_texts(texts)


def remove_held_out(pool: PromptFile, held_out: HeldOutPrompts) -> PromptFile:
    """Remove the held-out prompts from a pool; the pool records their number.

    Raises:
        InputError: no prompt is left.
    """
    kept = [prompt for prompt in pool.prompts if prompt.text not in held_out]
    if pool.prompts and not kept:
        raise InputError("every prompt of the pool is held out for evaluation: use other prompts")
    return replace(pool, prompts=kept, held_out=len(pool.prompts) - len(kept))


def remove_contaminated(
    pool: PromptFile, evaluated: Mapping[str, Sequence[str]]
) -> tuple[PromptFile, dict[str, int]]:
    """Remove the prompts that equal or nearly equal an evaluation prompt.

    Nearly equal is a ROUGE-L of at least 0.7; see `NearDuplicateIndex`.

    Args:
        evaluated: the prompts of each evaluation, by the name of the evaluation.

    Returns:
        The pool, which records the number of prompts that were left out; and this number for each
        evaluation. A prompt that occurs in several evaluations counts for the first of them.

    Raises:
        InputError: no prompt is left.
    """
    exact = {name: frozenset(texts) for name, texts in evaluated.items()}
    near = {name: NearDuplicateIndex(texts) for name, texts in evaluated.items()}
    left_out = dict.fromkeys(evaluated, 0)
    kept = []
    for prompt in pool.prompts:
        text = prompt.text
        found = next(
            (name for name in evaluated if text in exact[name] or near[name].find(text)), None
        )
        if found is None:
            kept.append(prompt)
        else:
            left_out[found] += 1
    if pool.prompts and not kept:
        raise InputError(
            "every prompt of the pool equals or nearly equals a prompt of evaluation.tasks or "
            "development.tasks: use other prompts"
        )
    return replace(pool, prompts=kept, contaminated=len(pool.prompts) - len(kept)), left_out
