"""In which language a text is written, by a small model that comes with its package."""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from meta_reward_core.errors import InputError

MIN_PROBABILITY: Final = 0.2
MAX_DOUBT: Final = 0.5
"""Short texts are hard to tell: only one that is hardly in the languages, and more likely than not
in a certain other one, is taken for that one's."""


@cache
def _load_identifier() -> Any:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def check_languages(codes: Sequence[str]) -> None:
    """Refuse codes that the identifier does not know.

    Raises:
        InputError: naming them.
    """
    unknown = sorted(set(codes) - set(_load_identifier().labels))
    if unknown:
        raise InputError(
            f"unknown language {', '.join(unknown)}: use codes such as en, de, fr, es, zh or ja"
        )


def is_in_language(text: str, codes: Sequence[str]) -> bool:
    """Whether a text may well be in one of the languages.

    Args:
        text: any text.
        codes: of languages, ISO 639-1.
    """
    ranked = dict(_load_identifier().rank(text))
    wanted = sum(ranked.pop(code, 0.0) for code in codes)
    return wanted >= MIN_PROBABILITY or max(ranked.values(), default=0.0) < MAX_DOUBT
