"""Export a trainer's weights, sharded or not, to the published folder."""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import Trainer

from meta_reward_core.errors import TrainingError
from meta_reward_core.models.check.loading import UnusableConfigError, load_config
from meta_reward_core.models.check.parameters import compare_checkpoint
from meta_reward_core.models.check.result import Level
from meta_reward_core.models.check.weights_files import read_weights
from meta_reward_core.models.validation import ADAPTER_FOLDER
from meta_reward_core.training.model_loading import load_float32, read_stored_dtype
from meta_reward_core.training.resume import publish_model


def publish_weights(
    trainer: Trainer,
    *,
    start: Path,
    checkpoint: Path,
    scratch: Path,
    keep_adapter: bool = False,
    is_last: bool = False,
) -> bool:
    """Write the trained weights from the main process, in the precision of the initial weights.

    All processes participate, because each may hold a part of every weight.

    Args:
        keep_adapter: whether to publish the adapter too, in a subfolder.
        is_last: whether the training has ended. If so, the process group ends before the main
            process writes, so that no other process waits for it.

    Returns:
        Whether this call published the weights; False if another writer was first.
    """
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if is_last:
        end_process_group()
    published = False
    if trainer.is_world_process_zero():
        trained: Any = trainer.accelerator.unwrap_model(trainer.model)
        learned = _get_adapter_weights(trained, weights)
        model, weights = (
            (trained, weights) if learned is None else _merge_adapter(trained, learned, start)
        )
        dtype = read_stored_dtype(start)

        def write_weights(folder: Path) -> None:
            cast = {
                name: tensor.to(dtype) if tensor.is_floating_point() else tensor
                for name, tensor in weights.items()
            }
            model.save_pretrained(folder, state_dict=cast)

        def write_adapter(folder: Path) -> None:
            if keep_adapter and learned is not None:
                _write_adapter(folder / ADAPTER_FOLDER, trained.peft_config["default"], learned)

        job_name = hashlib.sha256(str(scratch).encode()).hexdigest()[:12]
        published = publish_model(
            write_weights,
            start=start,
            checkpoint=checkpoint,
            job_name=job_name,
            write_more=write_adapter,
            verify=partial(verify_checkpoint, start=start),
        )
    return published


def end_process_group() -> None:
    """End the process group of this training, if there are several processes."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def verify_checkpoint(folder: Path, *, start: Path) -> None:
    """Check that a checkpoint is complete and has the tensors of the model it was trained from.

    Raises:
        TrainingError: the checkpoint is damaged and must not be published.
    """
    made, problems = read_weights(folder)
    problems = [check for check in problems if check.level is Level.RED]
    if not problems:
        base, _ = read_weights(start)
        try:
            config = load_config(folder)
        except UnusableConfigError as error:
            problems = [error.check]
        else:
            compared = compare_checkpoint(config, base, made, folder)
            problems = [check for check in compared if check.level is Level.RED]
    if problems:
        found = " ".join(check.describe() for check in problems)
        raise TrainingError(f"the checkpoint is not published, because it is damaged: {found}")


Weights = dict[str, torch.Tensor]


def _get_adapter_weights(trained: Any, weights: Weights) -> Weights | None:
    """Return the adapters' weights; None if all weights were trained."""
    if not hasattr(trained, "peft_config"):
        return None
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(trained, state_dict=weights))


def _merge_adapter(trained: Any, learned: Weights, start: Path) -> tuple[Any, Weights]:
    """Merge adapters into the weights they were trained on.

    They are merged into a separately loaded model: the trainer's may be split over several devices.
    """
    from peft import get_peft_model, set_peft_model_state_dict

    adapted = get_peft_model(load_float32(start), trained.peft_config["default"])
    set_peft_model_state_dict(adapted, learned)
    merged: Any = adapted.merge_and_unload()
    return merged, merged.state_dict()


def _write_adapter(folder: Path, config: Any, learned: Weights) -> None:
    """Write an adapter in peft's format, reproducibly and without the path of its base model."""
    folder.mkdir()
    values = config.to_dict() | {"base_model_name_or_path": None, "inference_mode": True}
    plain = {
        name: sorted(value) if isinstance(value, set) else value for name, value in values.items()
    }
    text = json.dumps(plain, indent=2, sort_keys=True, default=str)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in learned.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
