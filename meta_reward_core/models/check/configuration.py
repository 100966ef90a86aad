"""Check config.json and the tensor headers: dtype, quantization, positions.

Loads no model library, so that the site can use it.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from meta_reward_core.errors import MalformedInputError
from meta_reward_core.models.check.needs import ModelNeeds
from meta_reward_core.models.check.result import Check, Level
from meta_reward_core.models.check.weights_files import TensorInfo
from meta_reward_core.system.untrusted_input import parse_json

_CONFIG_FILE: Final = "config.json"
_TEXT_CONFIG_KEYS: Final = ("text_config", "llm_config", "language_config", "decoder")
_POSITION_KEYS: Final = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx",
)  # fmt: skip

_FORMAT_NAMES: Final = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8",
    "mxfp4": "MXFP4",
    "gguf": "GGUF",
    "compressed-tensors": "compressed-tensors",
    "hqq": "HQQ",
    "aqlm": "AQLM",
    "eetq": "EETQ",
    "quanto": "Quanto",
    "torchao": "torchao",
    "modelopt": "ModelOpt",
    "bitnet": "BitNet",
}
_QUANTISED_FILES: Final = {
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    "hf_quant_config.json": "ModelOpt",
}
_QUANTISED_TENSORS: Final = (
    (re.compile(r"\.(SCB|absmax|quant_map|quant_state\..+|nested_absmax)$"), "bitsandbytes"),
    (re.compile(r"\.weight_packed$"), "compressed-tensors"),
    (re.compile(r"\.(qweight|qzeros|g_idx)$"), "GPTQ or AWQ"),
    (re.compile(r"(_blocks|_scales)$"), "MXFP4"),
    (re.compile(r"\.(weight_scale|weight_scale_inv|input_scale|activation_scale)$"), "FP8"),
    (re.compile(r"\.(scales|biases)$"), "MLX"),
)
_NUMBERS_OF_MODELS: Final = frozenset({"F64", "F32", "F16", "BF16"})
_BUFFERS: Final = re.compile(
    r"(^|[._])(position_ids|masked_bias|causal_mask|attn\.bias|attention\.bias|token_type_ids"
    r"|num_batches_tracked)$"
)
"""Tensors of older checkpoints that are not weights: positions and masks, as integers."""
_FLOAT_DTYPES: Final = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
}
_LEARNED_POSITIONS: Final = re.compile(
    r"(^|\.)(wpe|embed_positions|position_embeddings?|position_embed|pos_emb)(\.weight)?$"
)
_STORED_DTYPES: Final = frozenset({"float32", "float16", "bfloat16"})


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json; the caller has checked that it contains a JSON object."""
    found: dict[str, Any] = parse_json(
        (folder / _CONFIG_FILE).read_bytes(), nan_is_null=True, leave_scalars=True
    )
    return found


def check_repeated_keys(folder: Path) -> list[Check]:
    """Check for duplicate keys in config.json, because libraries differ in which value they use."""
    try:
        parse_json(
            (folder / _CONFIG_FILE).read_bytes(),
            nan_is_null=True,
            leave_scalars=True,
            unique_keys=True,
        )
    except MalformedInputError as error:
        return [
            Check(
                "config.repeated",
                "Configuration",
                Level.AMBER,
                f"{str(error).partition(';')[0]}; transformers reads the last one, other "
                f"libraries may read the first",
                "remove one of them",
                _CONFIG_FILE,
            )
        ]
    return []


def find_quantisation(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> tuple[str, str] | None:
    """Find any sign of quantized weights.

    Returns:
        The name of the format and the file in which it was found; None for plain weights.
    """
    declared = _find_declared_format(config)
    if declared is not None:
        return declared, _CONFIG_FILE
    for name, method in _QUANTISED_FILES.items():
        if (folder / name).is_file():
            return method, name
    return _find_quantised_tensor(tensors)


def _find_quantised_tensor(tensors: Mapping[str, TensorInfo]) -> tuple[str, str] | None:
    for key, tensor in tensors.items():
        for pattern, method in _QUANTISED_TENSORS:
            if pattern.search(key):
                return method, tensor.file
    for key, tensor in tensors.items():
        if tensor.dtype not in _NUMBERS_OF_MODELS and not _BUFFERS.search(key):
            return f"stored as {tensor.dtype}", tensor.file
    return None


def _find_declared_format(config: Mapping[str, Any]) -> str | None:
    for one in _iter_configs(config):
        for key in ("quantization_config", "compression_config", "quantization"):
            declared = one.get(key)
            if declared is None:
                continue
            if not isinstance(declared, Mapping):
                return _FORMAT_NAMES.get(str(declared).lower(), "an unknown format")
            method = str(declared.get("quant_method") or "").lower()
            if key == "quantization" and not method:
                return "MLX"
            if declared.get("load_in_4bit") or declared.get("load_in_8bit"):
                return "bitsandbytes"
            return _FORMAT_NAMES.get(method, method or "an unknown format")
    return None


def _iter_configs(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a model's configuration and those of its parts."""
    yield config
    for value in config.values():
        if isinstance(value, Mapping):
            yield value


def check_quantisation(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
    *,
    needs: ModelNeeds,
) -> list[Check]:
    """Refuse quantized weights for training: saving would destroy them."""
    found = find_quantisation(folder, config, tensors)
    if found is None:
        return [Check("weights.format", "Weight format", Level.GREEN, "not quantised")]
    method, file = found
    return [
        Check(
            "weights.format",
            "Weight format",
            Level.RED if needs.trains else Level.AMBER,
            f"the weights are quantised ({method}) and cannot be trained or saved again",
            "use the original model in bfloat16, float16 or float32",
            file,
        )
    ]


def check_dtype(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> list[Check]:
    """Compare the stored dtype with that of future checkpoints."""
    title = "Number format"
    declared = find_declared_dtype(config)
    if declared is not None and declared not in _STORED_DTYPES:
        return [
            Check(
                "weights.dtype",
                title,
                Level.RED,
                f"dtype {declared!r} is not a number format for weights",
                'set "dtype" to float32, bfloat16 or float16, as the weights are stored',
                _CONFIG_FILE,
            )
        ]
    stored = Counter(
        _FLOAT_DTYPES[tensor.dtype] for tensor in tensors.values() if tensor.dtype in _FLOAT_DTYPES
    )
    published = declared or "float32"
    names = ", ".join(f"{count} in {name}" for name, count in stored.most_common())
    if set(stored) == {published}:
        return [Check("weights.dtype", title, Level.GREEN, f"all weights in {published}")]
    if declared is None:
        message = f"no dtype is set, so checkpoints are saved in float32 (stored: {names})"
    else:
        message = f"checkpoints are saved in {published}, as dtype specifies (stored: {names})"
    return [
        Check(
            "weights.dtype",
            title,
            Level.AMBER,
            message,
            'set "dtype" to the stored format to keep it',
            _CONFIG_FILE,
        )
    ]


def find_declared_dtype(config: Mapping[str, Any]) -> str | None:
    """Return the dtype that a configuration declares, or None."""
    for one in (config, _get_text_config(config)):
        name = one.get("dtype") or one.get("torch_dtype")
        if name:
            return str(name).removeprefix("torch.")
    return None


def _get_text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the language model's part of a configuration."""
    for key in _TEXT_CONFIG_KEYS:
        part = config.get(key)
        if isinstance(part, Mapping):
            return part
    return config


def find_position_limit(config: Mapping[str, Any]) -> int | None:
    """Return the maximum sequence length in config.json; None if it has none."""
    text = _get_text_config(config)
    for key in _POSITION_KEYS:
        value = text.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def has_learned_positions(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether positions are a learned table, so that a longer sequence is an error."""
    return any(_LEARNED_POSITIONS.search(key) for key in tensors)


def check_positions(limit: int | None, needs: ModelNeeds, *, is_learned: bool) -> list[Check]:
    """Compare the model's maximum sequence length with the recipe's limits.

    Engines refuse a prompt that leaves no room for a completion, so rows do not grow much beyond
    the limit: only by a few tokens that the chat template writes after a completion. Rotary
    positions support these tokens, but a table of learned positions does not.

    Args:
        limit: maximum sequence length of the model in tokens; None if it has none.
        is_learned: whether the model has a learned table of positions.
    """
    title = "Positions"
    if limit is None:
        return [
            Check("positions", title, Level.GREEN, "the model does not declare a maximum length")
        ]
    longest, most = needs.max_length or 0, needs.max_new_tokens
    if limit < 1:
        message = f"the model has {limit:,} positions, so no prompt fits"
        remedy = "download config.json again, or correct the number of positions"
        return [Check("positions", title, Level.RED, message, remedy, _CONFIG_FILE)]
    if most >= limit:
        message = (
            f"the model has {limit:,} positions and a completion may have {most:,} tokens, so "
            f"no prompt fits"
        )
        remedy = f"lower max_new_tokens below {limit:,}, or use a model with more positions"
        return [Check("positions", title, Level.RED, message, remedy, _CONFIG_FILE)]
    if longest > limit and is_learned:
        message = (
            f"the model has {limit:,} learned positions and a row of training may have "
            f"{longest:,} tokens (training.max_length)"
        )
        remedy = f"set training.max_length to {limit:,} or less, or use a model with more positions"
        return [Check("positions", title, Level.RED, message, remedy, _CONFIG_FILE)]
    message = f"{limit:,} positions"
    if longest > limit:
        message += f", so rows stay below training.max_length ({longest:,})"
    elif longest:
        message += f", rows of up to {longest:,} tokens"
    return [Check("positions", title, Level.GREEN, message)]
