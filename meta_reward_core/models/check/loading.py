"""Check that configurations can be loaded by transformers and saved as training saves them."""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    GenerationConfig,
    PretrainedConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import GENERATION_CONFIG_NAME

from meta_reward_core.models.check.result import Check, Level
from meta_reward_core.models.check.reward_model import CLASSIFIER_SUFFIX

_CONFIG_FILE: Final = "config.json"
_TITLE: Final = "Configuration"
_GENERATION_TITLE: Final = "Generation config"
_NO_ENDING: Final = (
    "eos_token_id is an empty list, so that only the end token of the tokenizer stops generation"
)
_USE_LANGUAGE_MODEL: Final = "use the causal language model of this family"
_OR_REWARD_MODEL: Final = "; with one output it can score responses: docs/reward_model.md"
_NAME_ENDING: Final = 'set "eos_token_id" to the id of that token'


class UnusableConfigError(Exception):
    """A configuration cannot be loaded; contains the result."""

    def __init__(self, check: Check) -> None:
        super().__init__(check.describe())
        self.check = check


def load_config(folder: Path) -> PretrainedConfig:
    """Load config.json with transformers, without code from the folder.

    Raises:
        UnusableConfigError: transformers cannot read it, or it does not describe a language model.
    """
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # config classes raise exceptions of any type
        raise UnusableConfigError(_explain_config_error(error)) from error
    if getattr(config, "is_encoder_decoder", False):
        raise UnusableConfigError(
            _fail(
                f"{config.model_type} is an encoder-decoder model",
                "use a decoder-only language model",
            )
        )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnusableConfigError(
            _fail(f"{config.model_type} is not a causal language model", "use one that is")
        )
    _check_architectures(config)
    return config


def _explain_config_error(error: Exception) -> Check:
    text = shorten_error(error)
    is_unknown = "model_type" in text or "does not recognize" in text
    return _fail(
        f"transformers cannot read the configuration ({text})",
        "use a model that transformers supports"
        if is_unknown
        else "correct the value, or download config.json again",
    )


def check_model_class(config: PretrainedConfig) -> list[Check]:
    """Check that the class in config.json is the one that loads the model."""
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    expected = {known} if isinstance(known, str) else set(known or ())
    named = [name for name in config.architectures or () if name.endswith("ForCausalLM")]
    if not named or not expected or expected & set(named):
        return []
    return [
        Check(
            "config.class",
            _TITLE,
            Level.AMBER,
            f"architectures lists {', '.join(named)}, but model_type {config.model_type!r} is "
            f"loaded as {' or '.join(sorted(expected))}; other engines may load the former",
            "correct the wrong one",
            _CONFIG_FILE,
        )
    ]


def check_special_ids(config: PretrainedConfig, folder: Path, *, vocabulary: int) -> list[Check]:
    """Check that the special tokens of config.json are in the vocabulary.

    Args:
        vocabulary: number of rows of the input embedding.
    """
    text_config = config.get_text_config(decoder=True)
    outside = _list_outside(text_config, vocabulary)
    is_read = not (folder / GENERATION_CONFIG_NAME).is_file()
    if not outside:
        if is_read and getattr(text_config, "eos_token_id", None) == []:
            return [
                Check(
                    "config.tokens",
                    _TITLE,
                    Level.AMBER,
                    _NO_ENDING,
                    _NAME_ENDING,
                    _CONFIG_FILE,
                )
            ]
        return []
    message = f"{outside} is not a token of the model, which has {vocabulary:,}"
    level = Level.RED if is_read and "eos_token_id" in outside else Level.AMBER
    return [Check("config.tokens", _TITLE, level, message, "correct the id", _CONFIG_FILE)]


def _check_architectures(config: PretrainedConfig) -> None:
    """Check that the folder contains a language model, not a model with another head.

    Raises:
        UnusableConfigError: the model has another head.
    """
    known = set()
    for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        known |= {name} if isinstance(name, str) else set(name)
    for name in config.architectures or ():
        if name not in known and "For" in name and not name.endswith("ForCausalLM"):
            raise UnusableConfigError(
                _fail(
                    f"{name} is not a language model that generates text",
                    _USE_LANGUAGE_MODEL
                    + (_OR_REWARD_MODEL if name.endswith(CLASSIFIER_SUFFIX) else ""),
                )
            )


def check_config_saving(config: PretrainedConfig) -> list[Check]:
    """Save the configuration as training does, and read it again."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            config.save_pretrained(folder)
            again = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, training would meet it
            return [
                _fail(f"cannot be saved again ({shorten_error(error)})", "correct these values")
            ]
    without_value = sorted(key for key, value in config.to_dict().items() if _has_nan(value))
    if without_value:
        return [_fail(f"{', '.join(without_value)} is not a number (NaN)", "correct the value")]
    changed = _list_differences(config.to_dict(), again.to_dict())
    if changed:
        return [
            Check(
                "config",
                _TITLE,
                Level.AMBER,
                f"values change when it is saved and loaded ({', '.join(changed)})",
                file=_CONFIG_FILE,
            )
        ]
    return [Check("config", _TITLE, Level.GREEN, f"{config.model_type}, can be saved again")]


def _has_nan(value: object) -> bool:
    """Whether a value of a configuration is or contains NaN; infinity is a valid bound."""
    if isinstance(value, Mapping):
        return any(map(_has_nan, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_nan, value))
    return isinstance(value, float) and math.isnan(value)


def check_saved_files(folder: Path) -> list[Check]:
    """Load and save the small files that training saves besides the weights."""
    try:
        config = load_config(folder)
    except UnusableConfigError as error:
        return [error.check]
    vocabulary = config.get_text_config(decoder=True).vocab_size
    return [*check_config_saving(config), *check_generation_config(folder, vocabulary=vocabulary)]


def _list_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    notes = {"_name_or_path", "transformers_version", "architectures"}
    keys = (before.keys() | after.keys()) - notes
    return sorted(key for key in keys if before.get(key) != after.get(key))


def check_generation_config(folder: Path, *, vocabulary: int | None) -> list[Check]:
    """Load the generation config and save it again, as training does.

    Args:
        vocabulary: number of rows of the input embedding; ids of special tokens must be smaller.
    """
    if not (folder / GENERATION_CONFIG_NAME).is_file():
        message = "none; end tokens are taken from config.json and the tokenizer"
        return [Check("generation_config", _GENERATION_TITLE, Level.GREEN, message)]
    try:
        config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # noqa: BLE001 - what is wrong in it decides what is raised
        return [
            _fail_generation(f"cannot be read ({shorten_error(error)})", "correct or remove it")
        ]
    try:
        with tempfile.TemporaryDirectory() as target:
            config.save_pretrained(target)
    except Exception as error:  # noqa: BLE001
        found = shorten_error(error)
        message = f"cannot be saved again, so training would stop after its first epoch ({found})"
        remedy = 'remove the sampling values, or set "do_sample" to true'
        if "do_sample" not in str(error):
            remedy = "correct or remove these values"
        return [_fail_generation(message, remedy)]
    outside = _list_outside(config, vocabulary)
    if outside:
        return [
            _fail_generation(
                f"{outside} is not a token of the model, which has {vocabulary:,}",
                "correct the id",
            )
        ]
    if config.eos_token_id == []:
        return [
            Check(
                "generation_config",
                _GENERATION_TITLE,
                Level.AMBER,
                _NO_ENDING,
                _NAME_ENDING,
                GENERATION_CONFIG_NAME,
            )
        ]
    return [
        Check("generation_config", _GENERATION_TITLE, Level.GREEN, "readable, can be saved again")
    ]


def _list_outside(config: GenerationConfig | PretrainedConfig, vocabulary: int | None) -> str:
    """List the ids of special tokens outside the vocabulary, or not ids, as text."""
    found: list[str] = []
    for name in ("eos_token_id", "pad_token_id", "bos_token_id"):
        value = getattr(config, name, None)
        ids: list[Any] = value if isinstance(value, list) else [value]
        found += [
            f"{name} {one!r}"
            for one in ids
            if _is_outside(one, vocabulary, may_be_absent=name != "eos_token_id")
        ]
    return ", ".join(found)


def _is_outside(token: object, vocabulary: int | None, *, may_be_absent: bool) -> bool:
    if token is None or (token == -1 and may_be_absent):
        return False
    if not isinstance(token, int) or isinstance(token, bool):
        return True
    return vocabulary is not None and not 0 <= token < vocabulary


def shorten_error(error: Exception) -> str:
    """Return the first sentence of a library's message, on one line."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyError) or not text:
        text = f"{type(error).__name__} {text}".strip()
    return text.partition(". ")[0].rstrip(".:")[:300]


def _fail(message: str, remedy: str) -> Check:
    return Check("config", _TITLE, Level.RED, message, remedy, _CONFIG_FILE)


def _fail_generation(message: str, remedy: str) -> Check:
    return Check(
        "generation_config", _GENERATION_TITLE, Level.RED, message, remedy, GENERATION_CONFIG_NAME
    )
