"""Prompts that are kept for evaluation and never trained on: recognised by a hash of their words.

Case, spacing and the form of Unicode do not make a prompt another one.
"""

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from meta_reward_core.data.prompt_files import PromptFile, compute_prompt_id, read_prompts
from meta_reward_core.errors import InputError


def compute_held_out_key(text: str) -> str:
    """The sha256 of a prompt's words in one form, in hexadecimal."""
    words = unicodedata.normalize("NFKC", text).casefold().split()
    return hashlib.sha256(" ".join(words).encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class HeldOutPrompts:
    """Prompts that nothing may be trained on.

    Attributes:
        texts: as they stand in their files.
        keys: hashes of their words.
        prompt_ids: hashes of their exact texts, by which rows of fine-tuning data may name them.
    """

    texts: tuple[str, ...]
    keys: frozenset[str]
    prompt_ids: frozenset[str]

    @classmethod
    def of(cls, texts: Iterable[str]) -> "HeldOutPrompts":
        """Hold texts out."""
        kept = tuple(texts)
        return cls(
            kept,
            frozenset(map(compute_held_out_key, kept)),
            frozenset(map(compute_prompt_id, kept)),
        )

    def __contains__(self, text: str) -> bool:
        return compute_held_out_key(text) in self.keys


def read_held_out(paths: Sequence[Path]) -> HeldOutPrompts:
    """Read files of prompts that are held out; no file holds nothing out.

    Raises:
        PromptFileError: a file cannot be read as prompts.
    """
    return HeldOutPrompts.of(prompt.text for path in paths for prompt in read_prompts(path).prompts)


def remove_held_out(pool: PromptFile, held_out: HeldOutPrompts) -> PromptFile:
    """A pool without the prompts that are held out; how many there were is kept in it.

    Raises:
        InputError: nothing is left.
    """
    kept = [prompt for prompt in pool.prompts if prompt.text not in held_out]
    if pool.prompts and not kept:
        raise InputError("every prompt of the pool is held out for evaluation: give other prompts")
    return replace(pool, prompts=kept, held_out=len(pool.prompts) - len(kept))
