"""From a trainer's weights, wherever they lie, to the one folder that is published."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer

from meta_reward_core.errors import ModelFolderError
from meta_reward_core.training.checkpoint import publish_model


def publish_weights(trainer: Trainer, *, start: Path, checkpoint: Path, scratch: Path) -> bool:
    """Have the main process write what was learned, in the precision training began from.

    All processes take part: each may hold a piece of every weight.

    Returns:
        Whether this call published; False when another writer was first.
    """
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    published = False
    if trainer.is_world_process_zero():
        trained: Any = trainer.accelerator.unwrap_model(trainer.model)
        model, weights = _whole_model(trained, weights, start)
        dtype = stored_dtype(start)

        def write_weights(folder: Path) -> None:
            cast = {
                name: tensor.to(dtype) if tensor.is_floating_point() else tensor
                for name, tensor in weights.items()
            }
            model.save_pretrained(folder, state_dict=cast)

        job_name = hashlib.sha256(str(scratch).encode()).hexdigest()[:12]
        published = publish_model(
            write_weights, start=start, checkpoint=checkpoint, job_name=job_name
        )
    trainer.accelerator.wait_for_everyone()
    return published


def _whole_model(
    trained: Any, weights: dict[str, torch.Tensor], start: Path
) -> tuple[Any, dict[str, torch.Tensor]]:
    """The model and its weights; adapters are merged into the weights they began from.

    They are merged in a model of our own: the trainer's may be in pieces on several devices.
    """
    if not hasattr(trained, "peft_config"):
        return trained, weights
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    adapted = get_peft_model(load_float32(start), trained.peft_config["default"])
    learned = get_peft_model_state_dict(trained, state_dict=weights)
    set_peft_model_state_dict(adapted, learned)
    merged: Any = adapted.merge_and_unload()
    return merged, merged.state_dict()


def load_float32(folder: Path) -> PreTrainedModel:
    """The weights of a folder in float32: steps of 5e-6 vanish in bfloat16 weights."""
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelFolderError(f"{folder} cannot be loaded as a model: {error}") from error


def stored_dtype(folder: Path) -> torch.dtype:
    """The precision a folder's config names; float32 where it names none."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    dtype = getattr(torch, str(name), None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32
