"""Explain exceptions of model libraries in one sentence, with the file at fault and the remedy.

Only this module converts exceptions of torch, transformers, tokenizers, safetensors and jinja2 to
messages for users. Classes are recognized by name, so this module imports none of these libraries.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from meta_reward_core.errors import MetaRewardError

_MAX_CHARS: Final = 300


class _Fault(NamedTuple):
    """A known kind of exception.

    Attributes:
        classes: names of exception classes, of any library; empty for every class.
        pattern: regular expression that matches the exception's text.
        file: the file at fault; empty if the exception's text contains it.
        what: what is wrong, as a clause.
        remedy: what to do, as an imperative clause.
    """

    classes: tuple[str, ...]
    pattern: str
    file: str
    what: str
    remedy: str


_FAULTS: Final = (
    _Fault(
        ("OutOfMemoryError", "MemoryError"), "", "", "the device is out of memory",
        "lower training.device_batch_size or engine.batch_tokens, or use a larger device",
    ),
    _Fault(
        ("RuntimeError", "AcceleratorError"), r"out of memory|can't allocate memory", "",
        "the device is out of memory",
        "lower training.device_batch_size or engine.batch_tokens, or use a larger device",
    ),
    _Fault(
        ("SafetensorError",), "", "model.safetensors", "the weights are damaged or incomplete",
        "download the file again",
    ),
    _Fault(
        ("ValueError",), r"[Gg]eneration.?[Cc]onfig|generation flags|do_sample",
        "generation_config.json", "the generation config cannot be saved again",
        'remove the sampling values, or set "do_sample" to true',
    ),
    _Fault(
        ("TemplateSyntaxError", "UndefinedError", "TemplateError", "TemplateRuntimeError",
         "TemplateAssertionError", "SecurityError"), "", "chat_template.jinja",
        "the chat template cannot be rendered", "correct it, or use the model's own template",
    ),
    _Fault(
        ("ValueError",), r"chat_template is not set|chat template", "chat_template.jinja",
        "there is no chat template", "add chat_template.jinja, or use an instruction-tuned model",
    ),
    _Fault(
        ("RuntimeError",), r"size mismatch|ignore_mismatched_sizes", "model.safetensors",
        "the weights do not fit config.json", "use config.json and weights of the same model",
    ),
    _Fault(
        ("RuntimeError",), r"automatic conversion of the weights", "model.safetensors",
        "the weights cannot be converted to the format of this model",
        "use config.json and weights of the same model",
    ),
    _Fault(
        ("ValueError", "KeyError"), r"[Uu]nrecognized (model|configuration)|model type",
        "config.json", "transformers does not support this model",
        "use a supported model, or a newer version",
    ),
    _Fault(
        ("Exception", "ValueError", "PanicException", "KeyError"),
        r"added_tokens|untagged enum|did not match any variant|EOF while parsing|tokenizer",
        "tokenizer.json", "the tokenizer cannot be loaded", "download all tokenizer files again",
    ),
    _Fault(
        ("OSError", "EnvironmentError"), r"does not appear to have a file named|no file named", "",
        "a file of the model is missing", "download the model again",
    ),
    _Fault(
        ("IndexError",), r"index out of range in self", "config.json",
        "a token or a position is outside the model's tables",
        "use the model's own tokenizer, and set training.max_length to the model's positions",
    ),
    _Fault(
        ("ImportError", "ModuleNotFoundError"), "", "", "a library that the model needs is missing",
        "install the named package",
    ),
    _Fault(
        ("NotImplementedError",), r"meta tensor", "model.safetensors",
        "a parameter has no weights", "download the weights again",
    ),
)  # fmt: skip


def explain_library_error(error: BaseException, *, folder: Path | None = None) -> str | None:
    """Explain an exception of a model library in one sentence: file, cause and remedy.

    Args:
        folder: folder of the model in use.

    Returns:
        The sentence; None for an exception of an unknown kind.
    """
    names = {kind.__name__ for kind in type(error).__mro__ if kind is not Exception}
    if type(error) is Exception:
        names = {"Exception"}  # type that the tokenizers library raises
    text = " ".join(str(error).split())
    for fault in _FAULTS:
        if names.isdisjoint(fault.classes) or not re.search(fault.pattern, text):
            continue
        place = _name_file(fault.file, folder)
        detail = f" ({_shorten(text)})" if text else ""
        return f"{place}{fault.what}{detail}; {fault.remedy}."
    return None


@contextlib.contextmanager
def translate_library_errors(
    kind: type[MetaRewardError], *, folder: Path | None = None
) -> Iterator[None]:
    """Context manager that translates exceptions of model libraries into ours.

    Args:
        kind: class of the exception that is raised instead.
        folder: folder of the model in use.

    Raises:
        MetaRewardError: an exception of class `kind`; unknown exceptions pass through unchanged.
    """
    try:
        yield
    except MetaRewardError:
        raise
    except Exception as error:
        message = explain_library_error(error, folder=folder)
        if message is None:
            raise
        raise kind(message) from error


def _name_file(file: str, folder: Path | None) -> str:
    if folder is None:
        return f"{file}: " if file else ""
    return f"{folder / file if file else folder}: "


def _shorten(text: str) -> str:
    first = text.partition(". ")[0].rstrip(".")
    return first if len(first) <= _MAX_CHARS else f"{first[:_MAX_CHARS]}..."
