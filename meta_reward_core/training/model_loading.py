"""Load models for training: in float32, or frozen in lower precision under adapters."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from meta_reward_core.errors import ModelFolderError, TrainingError
from meta_reward_core.models.library_errors import translate_library_errors
from meta_reward_core.recipes.training_settings import LoraSettings
from meta_reward_core.system.untrusted_input import parse_json


def load_trained_model(folder: Path, lora: LoraSettings | None) -> PreTrainedModel:
    """Load the model to train; frozen weights under adapters may have lower precision than float32.

    Raises:
        TrainingError: 4-bit weights were requested, but bitsandbytes is not installed.
    """
    if lora is None or lora.base == "float32":
        return load_float32(folder)
    if lora.base == "bfloat16":
        return _load(folder, dtype=torch.bfloat16)
    if find_spec("bitsandbytes") is None:
        raise TrainingError(
            "training.lora.base: nf4 needs bitsandbytes. Run pip install bitsandbytes, or set "
            "training.lora.base to bfloat16."
        )
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return _load(folder, dtype=torch.bfloat16, quantization_config=four_bits)


def load_float32(folder: Path) -> PreTrainedModel:
    """Load the weights of a folder in float32, because steps of 5e-6 vanish in bfloat16."""
    return _load(folder, dtype=torch.float32)


def _load(folder: Path, **how: Any) -> PreTrainedModel:
    try:
        with translate_library_errors(ModelFolderError, folder=folder):
            return AutoModelForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                **how,
            )
    except (OSError, ValueError, KeyError) as error:
        raise ModelFolderError(f"{folder} cannot be loaded as a model: {error}") from error


def read_stored_dtype(folder: Path) -> torch.dtype:
    """Return the precision in a folder's config; float32 if there is none."""
    config = parse_json((folder / "config.json").read_bytes(), nan_is_null=True, leave_scalars=True)
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    dtype = getattr(torch, str(name), None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32
