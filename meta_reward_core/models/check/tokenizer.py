"""Check that the tokenizer loads, can be saved again, and matches the embedding."""

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from meta_reward_core.models.check.result import Check, Level
from meta_reward_core.models.template_files import DEFAULT_TEMPLATE
from meta_reward_core.models.validation import INHERITED_FILES
from meta_reward_core.system.untrusted_input import parse_json

_TITLE: Final = "Tokenizer"
_VOCABULARY_TITLE: Final = "Vocabulary"
_TOKENIZER_FILE: Final = "tokenizer_config.json"
_PROBES: Final = (
    "The quick brown fox jumps over the lazy dog.",
    "  two spaces, a\ttab\n\nand blank lines \n",
    "1 + 22 = 23; naïve café, 北京, 🙂",
    "def f(x):\n    return {'a': [x, -1]}\n",
)


class UnusableTokenizerError(Exception):
    """A tokenizer cannot be loaded; contains the result."""

    def __init__(self, check: Check) -> None:
        super().__init__(check.describe())
        self.check = check


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a folder's tokenizer as engines and training do, without code from the folder.

    Raises:
        UnusableTokenizerError: it cannot be loaded.
    """
    try:
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the type of the exception depends on the damaged file
        raise UnusableTokenizerError(
            _fail(
                f"the tokenizer cannot be loaded ({_shorten(error)})",
                "download all tokenizer files again",
                file=_find_faulty_file(folder),
            )
        ) from error
    return loaded


def _find_faulty_file(folder: Path) -> str:
    """Return the file at fault: the tokenizer's settings if the tokenizer file is sound."""
    file = _find_tokenizer_file(folder)
    if file != "tokenizer.json" or not (folder / _TOKENIZER_FILE).is_file():
        return file
    try:
        Tokenizer.from_file(str(folder / file))
    except Exception:  # noqa: BLE001 - tokenizers raises nothing more specific
        return file
    return _TOKENIZER_FILE


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, folder: Path
) -> list[Check]:
    """Check that a tokenizer fits the model and survives saving.

    A checkpoint gets the base model's own files; each epoch of training saves the tokenizer, too.
    """
    return [
        *_check_saving(tokenizer, folder),
        *_check_vocabulary(tokenizer, config, folder),
        *_check_special_tokens(tokenizer),
    ]


def _check_saving(tokenizer: PreTrainedTokenizerBase, folder: Path) -> list[Check]:
    with tempfile.TemporaryDirectory() as saved, tempfile.TemporaryDirectory() as copied:
        try:
            tokenizer.save_pretrained(saved)
            again = _reload(Path(saved))
        except Exception as error:  # noqa: BLE001 - whatever it is, training would meet it
            return [
                _fail(
                    f"the tokenizer cannot be saved again ({_shorten(error)})",
                    "download all tokenizer files again",
                    file=_find_tokenizer_file(folder),
                )
            ]
        try:
            _copy_inherited_files(folder, Path(copied))
            inherited = _reload(Path(copied))
        except Exception as error:  # noqa: BLE001
            return [
                _fail(
                    "a checkpoint could not load its tokenizer, because it needs a file that "
                    f"is not part of checkpoints ({_shorten(error)})",
                    "save the tokenizer with `save_pretrained` of transformers, and use its files",
                    file=_find_tokenizer_file(folder),
                )
            ]
    shared = _find_shared_id(folder)
    if shared is not None:
        return [
            _fail(
                f"the tokens {shared[0]!r} and {shared[1]!r} have the same id, so one of them is "
                "lost when the tokenizer is saved",
                "download the tokenizer again, or give each token its own id",
                file=_find_tokenizer_file(folder),
            )
        ]
    for other, when in ((again, "saved and loaded again"), (inherited, "copied to a checkpoint")):
        difference = _find_difference(tokenizer, other)
        if difference is not None:
            return [
                _fail(
                    f"the tokenizer changes when it is {when}: {difference} differs",
                    "save the tokenizer with `save_pretrained` of transformers, and use its files",
                    file=_find_tokenizer_file(folder),
                )
            ]
    message = f"{type(tokenizer).__name__}, unchanged after saving and loading"
    return [Check("tokenizer", _TITLE, Level.GREEN, message)]


def _copy_inherited_files(folder: Path, target: Path) -> None:
    for name in INHERITED_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)


def _reload(folder: Path) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    return loaded


def _find_shared_id(folder: Path) -> tuple[str, str] | None:
    """Find two tokens with the same id in the file: a loaded tokenizer keeps one of them."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    vocabulary = parse_json(file.read_bytes(), leave_scalars=True)["model"].get("vocab")
    first: dict[int, str] = {}
    for token, number in vocabulary.items() if isinstance(vocabulary, dict) else ():
        if first.setdefault(number, token) != token:
            return first[number], token
    return None


def _find_difference(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> str | None:
    """Find the first property in which two tokenizers differ."""
    compared = {
        "the vocabulary": (one.get_vocab(), other.get_vocab()),
        "the set of special tokens": (
            {name: str(token) for name, token in one.special_tokens_map.items()},
            {name: str(token) for name, token in other.special_tokens_map.items()},
        ),
        "the chat template": (_get_default_template(one), _get_default_template(other)),
    }
    for name, (first, second) in compared.items():
        if first != second:
            return name
    for text in _PROBES:
        encoded = [
            list(tokenizer(text, add_special_tokens=False)["input_ids"])
            for tokenizer in (one, other)
        ]
        if encoded[0] != encoded[1]:
            return f"the encoding of {text!r}"
    return None


def _get_default_template(tokenizer: PreTrainedTokenizerBase) -> object:
    """Return the template that renders conversations."""
    templates: Any = tokenizer.chat_template
    return templates.get(DEFAULT_TEMPLATE) if isinstance(templates, dict) else templates


def _check_vocabulary(
    tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, folder: Path
) -> list[Check]:
    rows = get_vocabulary_size(config)
    ids = tokenizer.get_vocab()
    outside = sorted((token for token, one in ids.items() if one >= rows), key=lambda t: ids[t])
    if outside:
        shown = ", ".join(repr(token) for token in outside[:3])
        more = f" and {len(outside) - 3} more" if len(outside) > 3 else ""
        return [
            Check(
                "vocabulary",
                _VOCABULARY_TITLE,
                Level.RED,
                f"{len(outside)} of {len(ids):,} tokens have no row in the embedding of "
                f"{rows:,} ({shown}{more})",
                "use the tokenizer and weights of the same model, or resize the embedding",
                _find_tokenizer_file(folder),
            )
        ]
    spare = rows - len(ids)
    message = f"{len(ids):,} tokens, {rows:,} rows in the embedding"
    if spare > len(ids) // 2:
        return [
            Check(
                "vocabulary",
                _VOCABULARY_TITLE,
                Level.AMBER,
                f"{message}: this may be the tokenizer of another model",
                "compare it with the tokenizer of the model",
                _find_tokenizer_file(folder),
            )
        ]
    return [Check("vocabulary", _VOCABULARY_TITLE, Level.GREEN, message)]


def get_vocabulary_size(config: PretrainedConfig) -> int:
    """Return the number of rows of the input embedding."""
    text: Any = config.get_text_config(decoder=True)
    return int(text.vocab_size)


def _check_special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[Check]:
    title = "Special tokens"
    if tokenizer.pad_token_id is None:
        message, remedy = "no padding token: training pads with the end token", ""
    elif tokenizer.pad_token_id == tokenizer.eos_token_id:
        message = f"{tokenizer.pad_token!r} is both the padding and the end token"
        remedy = ""
    else:
        return [Check("tokenizer.special", title, Level.GREEN, "padding and end tokens differ")]
    return [Check("tokenizer.special", title, Level.AMBER, message, remedy, _TOKENIZER_FILE)]


def _find_tokenizer_file(folder: Path) -> str:
    """Return the file at fault: the tokenizer, its settings, or a missing file."""
    return _find_first_existing(folder, ("tokenizer.json", "tokenizer.model", "vocab.json"))


def _find_first_existing(folder: Path, names: Iterable[str]) -> str:
    return next((name for name in names if (folder / name).is_file()), "tokenizer.json")


def _shorten(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.partition(". ")[0].rstrip(".:")[:300]


def _fail(message: str, remedy: str, *, file: str) -> Check:
    return Check("tokenizer", _TITLE, Level.RED, message, remedy, file)
