"""Compare every model parameter with the tensors of a folder, without reading weights.

transformers initializes parameters without a tensor randomly and only logs it. So its own loader is
run on tensors that have a shape but no values (device `meta`): it handles tied weights, renamed
keys of older checkpoints, and experts that are stored separately.
"""

import contextlib
import logging
import math
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from meta_reward_core.models.check.loading import shorten_error
from meta_reward_core.models.check.result import Check, Level
from meta_reward_core.models.check.weights_files import TensorInfo
from meta_reward_core.models.validation import WEIGHTS_FILE, WEIGHTS_INDEX

_TITLE: Final = "Parameters"
_SHOWN_NAMES: Final = 3
_COMPARED_ROWS: Final = 16
_COMPARED_VALUES: Final = 65_536
_INNER_WRAPPERS: Final = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_forward_module.": "DeepSpeed",
    "_checkpoint_wrapped_module.": "activation checkpointing",
}
_ADAPTER_PARTS: Final = re.compile(
    r"\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|base_layer|modules_to_save)\b"
)
_CLASSIFIER_PARTS: Final = re.compile(
    r"(^|\.)(score|classifier|v_head|value_head|regression_head|reward_head)\."
)
_FLOAT_BITS: Final[Mapping[str, tuple[np.dtype[Any], int]]] = {
    "F64": (np.dtype("<u8"), 0x7FF0_0000_0000_0000),
    "F32": (np.dtype("<u4"), 0x7F80_0000),
    "F16": (np.dtype("<u2"), 0x7C00),
    "BF16": (np.dtype("<u2"), 0x7F80),
}
"""Storage type and exponent mask of non-finite values, by dtype; NumPy has no bfloat16."""

_TORCH_DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


def check_parameters(
    config: PretrainedConfig, tensors: Mapping[str, TensorInfo], folder: Path
) -> list[Check]:
    """Compare the parameters of the model that a configuration describes with stored tensors.

    Args:
        folder: folder of the tensors; if tied weights are stored twice, a few of their rows are
            read.
    """
    wrapped = _find_wrapper(tensors)
    if wrapped is not None:
        return [wrapped]
    if (too_many := _find_layers_without_tensors(config, tensors)) is not None:
        return [too_many]
    try:
        shell = _build_shell(config)
    except Exception as error:  # noqa: BLE001 - model classes raise what they like
        return [_explain_unbuildable(error)]
    try:
        model, found = _load_into(shell, tensors)
    except Exception as error:  # noqa: BLE001 - the loader would fail in the same way with weights
        return [
            _fail(
                f"the tensors do not fit config.json ({shorten_error(error)})",
                "use config.json and weights of the same model",
                tensors,
            )
        ]
    problems = _describe_problems(model, found, tensors)
    if problems:
        return problems
    count = sum(1 for _ in model.parameters())
    message = f"the tensors match all {count} parameters exactly"
    return [
        Check("weights.keys", _TITLE, Level.GREEN, message),
        *_check_ties(model, tensors, folder),
        *_check_values(tensors, folder),
        *_note_ignored(list_ignored_tensors(model, tensors), tensors),
    ]


def _find_layers_without_tensors(
    config: PretrainedConfig, tensors: Mapping[str, TensorInfo]
) -> Check | None:
    """Find a configuration with more layers than tensors, before such a model is built."""
    layers = getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)
    if not isinstance(layers, int) or layers <= len(tensors):
        return None
    return Check(
        "weights.keys",
        _TITLE,
        Level.RED,
        f"num_hidden_layers is {layers:,}, but there are only {_count(len(tensors), 'tensor')}",
        "use config.json and weights of the same model",
        "config.json",
    )


def load_shapes(
    config: PretrainedConfig, tensors: Mapping[str, TensorInfo]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load tensors without values into a model on the meta device.

    Returns:
        The model, and the keys that transformers reports: `missing_keys`, `unexpected_keys` and
        `mismatched_keys` (name, stored shape, expected shape).
    """
    return _load_into(_build_shell(config), tensors)


def _build_shell(config: PretrainedConfig) -> Any:
    """Build the model of a configuration on the meta device."""
    with silence_transformers(), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def _explain_unbuildable(error: Exception) -> Check:
    text = shorten_error(error)
    remedy = "correct the value, or download config.json again"
    if "attention" in text.lower() and "install" in text:
        remedy = "remove attn_implementation from config.json, or install the package"
    message = f"transformers cannot build the described model ({text})"
    return Check("weights.keys", _TITLE, Level.RED, message, remedy, "config.json")


def _load_into(
    shell: Any, tensors: Mapping[str, TensorInfo]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    empty = {
        name: torch.empty(
            tensor.shape, dtype=_TORCH_DTYPES.get(tensor.dtype, torch.float32), device="meta"
        )
        for name, tensor in tensors.items()
    }
    with silence_transformers():
        loaded: tuple[PreTrainedModel, dict[str, Any]] = type(shell).from_pretrained(
            None,
            config=shell.config,
            state_dict=empty,
            device_map={"": "meta"},
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    return loaded


@contextlib.contextmanager
def silence_transformers() -> Iterator[None]:
    """Context manager that silences transformers' logging; the results contain its findings."""
    before = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        if bars:
            transformers_logging.enable_progress_bar()


def compare_checkpoint(
    config: PretrainedConfig,
    base: Mapping[str, TensorInfo],
    made: Mapping[str, TensorInfo],
    folder: Path,
) -> list[Check]:
    """Compare a checkpoint with its base model: same names, same shapes.

    Tied weights may be stored once or twice, and tensors that transformers does not use are
    missing.

    Args:
        config: configuration of both models.
        base: tensors of the model that training started from.
        made: tensors of the checkpoint.
        folder: folder of the checkpoint.
    """
    problems = [
        check for check in check_parameters(config, made, folder) if check.level is Level.RED
    ]
    if problems:
        return problems
    model, _ = load_shapes(config, made)
    tied: Mapping[str, str] = getattr(model, "all_tied_weights_keys", {})
    optional = {*tied, *tied.values(), *list_ignored_tensors(model, base)}
    lost = sorted(base.keys() - made.keys() - optional)
    added = sorted(made.keys() - base.keys() - optional)
    if lost:
        message = f"lacks {_count(len(lost), 'tensor')} of the base model ({_list_names(lost)})"
        return [_fail(message, "report this as a bug in Meta-Reward", made)]
    if added:
        message = (
            f"contains {_count(len(added), 'tensor')} that the base model lacks "
            f"({_list_names(added)})"
        )
        return [_fail(message, "report this as a bug in Meta-Reward", made)]
    for name in sorted(base.keys() & made.keys()):
        if base[name].shape != made[name].shape:
            message = (
                f"{name} has the shape {made[name].shape}, in the base model {base[name].shape}"
            )
            return [_fail(message, "report this as a bug in Meta-Reward", made)]
    message = f"the same {len(made)} tensors as the base model"
    return [Check("weights.keys", _TITLE, Level.GREEN, message)]


def list_ignored_tensors(model: PreTrainedModel, tensors: Collection[str]) -> list[str]:
    """List tensors that transformers ignores on purpose: checkpoints will not contain them."""
    patterns = set(model._keys_to_ignore_on_load_unexpected or ()) | {r"rotary_emb\.inv_freq"}
    own = model.state_dict().keys()
    ignored = re.compile("|".join(f"({pattern})" for pattern in sorted(patterns)))
    return sorted(name for name in tensors if name not in own and ignored.search(name))


def _find_wrapper(tensors: Mapping[str, TensorInfo]) -> Check | None:
    """Find names that a wrapper or an adapter changed."""
    adapter = next((name for name in tensors if _ADAPTER_PARTS.search(name)), None)
    if adapter is not None:
        return _fail(
            f"contains an adapter that is not merged ({adapter})",
            "merge it (`merge_and_unload` of peft), save the model, and use that folder",
            tensors,
        )
    for part, maker in _INNER_WRAPPERS.items():
        named = [name for name in tensors if part in name]
        if named:
            return _fail(
                f"the names of {len(named)} tensors contain {part!r}, which {maker} adds "
                f"({named[0]})",
                f"remove {part!r} from the names, or save the model without that wrapper",
                tensors,
            )
    return None


def _describe_problems(
    model: PreTrainedModel, found: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> list[Check]:
    missing, unexpected = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    prefix = _find_prefix(missing, unexpected)
    if prefix is not None:
        return [
            _fail(
                f"the names of {len(unexpected)} tensors start with {prefix!r} ({unexpected[0]})",
                f"remove {prefix!r} from the names, or save the model without the wrapper that "
                "adds it",
                tensors,
            )
        ]
    heads = [name for name in unexpected if _CLASSIFIER_PARTS.search(name)]
    if heads:
        return [
            _fail(
                f"contains the head of a classifier or reward model ({heads[0]})",
                "use a language model that generates text",
                tensors,
            )
        ]
    if missing and unexpected:
        return [_explain_other_names(missing, unexpected, model, tensors)]
    return [
        *_describe_missing(missing, model, tensors),
        *_describe_mismatched(found["mismatched_keys"], tensors),
        *_describe_unexpected(unexpected, model, tensors),
    ]


def _find_prefix(missing: Collection[str], unexpected: list[str]) -> str | None:
    """Find a prefix that turns unexpected names into those of missing parameters."""
    if not missing or not unexpected:
        return None
    ends = [name for name in missing if unexpected[0].endswith(f".{name}")]
    if not ends:
        return None
    prefix = unexpected[0].removesuffix(max(ends, key=len))
    is_common = all(name.startswith(prefix) for name in unexpected)
    return prefix if is_common else None


def _explain_other_names(
    missing: list[str],
    unexpected: list[str],
    model: PreTrainedModel,
    tensors: Mapping[str, TensorInfo],
) -> Check:
    message = (
        f"no tensor for {_count(len(missing), 'parameter')} of {type(model).__name__} "
        f"({_list_names(missing)}), which would be initialized randomly, while "
        f"{_count(len(unexpected), 'tensor')} with other names would be ignored "
        f"({_list_names(unexpected)})"
    )
    return _fail(message, "use config.json and weights of the same model", tensors)


def _describe_missing(
    missing: list[str], model: PreTrainedModel, tensors: Mapping[str, TensorInfo]
) -> list[Check]:
    if not missing:
        return []
    message = (
        f"no tensor for {_count(len(missing), 'parameter')} of the model "
        f"({_list_names(missing)}), which would be initialized randomly"
    )
    remedy = "download the weights again, or use config.json of the same model"
    head = model.get_output_embeddings()
    if len(missing) == 1 and head is not None and missing[0].endswith("lm_head.weight"):
        remedy += ', or set "tie_word_embeddings" to true if it shares the input embedding'
    return [_fail(message, remedy, tensors)]


def _describe_mismatched(
    mismatched: Collection[tuple[str, Any, Any]], tensors: Mapping[str, TensorInfo]
) -> list[Check]:
    if not mismatched:
        return []
    name, stored, expected = min(mismatched)
    more = f" and {len(mismatched) - 1} more" if len(mismatched) > 1 else ""
    message = (
        f"{name} has the shape {tuple(stored)}, but config.json requires {tuple(expected)}{more}"
    )
    return [_fail(message, "use config.json and weights of the same model", tensors)]


def _describe_unexpected(
    unexpected: list[str], model: PreTrainedModel, tensors: Mapping[str, TensorInfo]
) -> list[Check]:
    if not unexpected:
        return []
    count = "tensor belongs" if len(unexpected) == 1 else "tensors belong"
    message = (
        f"{len(unexpected)} {count} to no parameter of {type(model).__name__} "
        f"({_list_names(unexpected)})"
    )
    return [_fail(message, "use config.json and weights of the same model", tensors)]


def _check_ties(
    model: PreTrainedModel, tensors: Mapping[str, TensorInfo], folder: Path
) -> list[Check]:
    """Compare a few rows of weights that the configuration ties and that are stored twice."""
    tied: Mapping[str, str] = getattr(model, "all_tied_weights_keys", {})
    for target, source in sorted(tied.items()):
        if target not in tensors or source not in tensors:
            continue
        if _read_some_rows(tensors[target], target, folder).equal(
            _read_some_rows(tensors[source], source, folder)
        ):
            continue
        return [
            Check(
                "weights.tied",
                _TITLE,
                Level.RED,
                f"{target} and {source} differ, but tie_word_embeddings declares them the same",
                'set "tie_word_embeddings" to false in config.json',
                tensors[target].file,
            )
        ]
    return []


def _check_values(tensors: Mapping[str, TensorInfo], folder: Path) -> list[Check]:
    """Check the ends of each tensor for NaN and infinity, as left by a failed training.

    Checking all values would read the whole model; after diverged training few values are finite.
    """
    broken = []
    for file in sorted({tensor.file for tensor in tensors.values()}):
        with (folder / file).open("rb") as weights:
            broken += [
                name
                for name, tensor in sorted(tensors.items())
                if tensor.file == file and not _are_ends_finite(weights, tensor)
            ]
    if not broken:
        return []
    message = (
        f"{_count(len(broken), 'tensor')} with values that are not finite ({_list_names(broken)})"
    )
    remedy = "download the weights again, or use a checkpoint from before the training diverged"
    held = {name: tensors[name] for name in broken}
    return [Check("weights.values", "Values", Level.RED, message, remedy, _name_file(held))]


def _are_ends_finite(weights: BinaryIO, tensor: TensorInfo) -> bool:
    """Whether the first and last rows of a tensor are finite."""
    if tensor.dtype not in _FLOAT_BITS or not tensor.shape or 0 in tensor.shape:
        return True
    bits, exponent = _FLOAT_BITS[tensor.dtype]
    row = math.prod(tensor.shape[1:])
    for at in {0, (tensor.shape[0] - 1) * row}:
        weights.seek(tensor.start + at * bits.itemsize)
        read = weights.read(min(row, _COMPARED_VALUES) * bits.itemsize)
        values = np.frombuffer(read, dtype=bits)
        if bool(((values & exponent) == exponent).any()):
            return False
    return True


def _read_some_rows(tensor: TensorInfo, name: str, folder: Path) -> torch.Tensor:
    """Read the first and last rows of a tensor: a few kilobytes."""
    with safe_open(folder / tensor.file, framework="pt") as file:
        rows = file.get_slice(name)
        first: torch.Tensor = rows[:_COMPARED_ROWS]
        last: torch.Tensor = rows[max(0, tensor.shape[0] - _COMPARED_ROWS) :]
        return torch.cat([first, last])


def _note_ignored(names: list[str], tensors: Mapping[str, TensorInfo]) -> list[Check]:
    names = [name for name in names if not name.endswith("rotary_emb.inv_freq")]
    if not names:
        return []
    message = (
        f"{_count(len(names), 'tensor')} that transformers does not use "
        f"({_list_names(names)}): checkpoints will not contain them"
    )
    file = tensors[names[0]].file
    return [Check("weights.ignored", _TITLE, Level.AMBER, message, file=file)]


def _list_names(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _fail(message: str, remedy: str, tensors: Mapping[str, TensorInfo]) -> Check:
    return Check("weights.keys", _TITLE, Level.RED, message, remedy, _name_file(tensors))


def _name_file(tensors: Mapping[str, TensorInfo]) -> str:
    """Return the file that contains all of these tensors, or the index of several files."""
    files = {tensor.file for tensor in tensors.values()}
    return files.pop() if len(files) == 1 else (WEIGHTS_INDEX if files else WEIGHTS_FILE)
