"""Shard a model over processes, also on a CPU, and verify that it is sharded.

accelerate decides how a model is wrapped. If it does not shard, it silently uses plain data
parallelism, in which each process holds the whole model. So every process checks its own parameters
before the first step.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.tensor import DTensor, Shard
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from meta_reward_core.errors import TrainingError
from meta_reward_core.recipes.training_settings import Sharding

_ZERO_STAGES: Final[Mapping[str, int]] = {"zero2": 2, "zero3": 3}


def read_fsdp_environment(file: Path) -> dict[str, str]:
    """Read the variables that `accelerate launch` sets from a configuration of FSDP.

    torch's launcher, which starts the processes on a CPU, does not set them.
    """
    config = yaml.safe_load(file.read_text(encoding="utf-8"))["fsdp_config"]
    values = {
        name.upper(): str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in config.items()
    }
    return {"ACCELERATE_USE_FSDP": "true", **values}


def enable_fsdp_on_cpu() -> None:
    """Make accelerate shard models on CPU processes as it does on devices.

    Call it after `TrainingArguments` and before the trainer. accelerate 1.15 enables its FSDP
    plugin only for accelerators, but its preparation of models works with gloo.
    """
    plugin = FullyShardedDataParallelPlugin()  # as set by the variables of `read_fsdp_environment`
    accelerator = Accelerator(cpu=True, fsdp_plugin=plugin)
    state: Any = accelerator.state
    if state.distributed_type == DistributedType.MULTI_CPU:
        if state.mixed_precision != "no":
            plugin.set_mixed_precision(state.mixed_precision)
        state.fsdp_plugin = plugin
        # All states of accelerate share these two dictionaries: its next accelerator reads them.
        state.distributed_type = PartialState().distributed_type = DistributedType.FSDP


class ShardingCheck(TrainerCallback):
    """Refuses to train if a process holds more of the model than its share.

    It needs the trainer itself, because the arguments of a callback do not contain the wrapped
    model.
    """

    def __init__(self, trainer: Trainer, sharding: Sharding) -> None:
        self._trainer = trainer
        self._sharding = sharding

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Check the model that accelerate prepared."""
        check_sharding(
            self._trainer.model_wrapped,
            self._trainer.optimizer,
            sharding=self._sharding,
            processes=args.world_size,
        )


def check_sharding(model: Any, optimizer: Any, *, sharding: Sharding, processes: int) -> None:
    """Check that this process holds no more of a prepared model than its share.

    Raises:
        TrainingError: the process holds more, and would need the memory of training without
            sharding.
    """
    if sharding == "none":
        return
    if sharding == "fsdp":
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        whole = _list_whole_parameters(model, processes)
        whole += [name for name in ("optimizer",) if not all(map(_is_sharded, trained))]
    else:
        whole = _list_parameters_of_zero(model, _ZERO_STAGES[sharding], processes)
    if whole:
        raise TrainingError(
            f"training.sharding is {sharding}, but process {PartialState().process_index} of "
            f"{processes} has {len(whole)} complete parameters, such as {whole[0]}. "
            "Nothing was trained. Check the versions of torch and accelerate against "
            "constraints.txt, or set training.sharding to none if a device has room for the "
            "whole model."
        )


def _list_whole_parameters(model: torch.nn.Module, processes: int) -> list[str]:
    """List parameters of which this process holds more than one of `processes` FSDP 2 parts."""
    return [
        name
        for name, parameter in model.named_parameters()
        if not _is_sharded(parameter)
        or _count_local(parameter) > _count_share(parameter, processes)
    ]


def _is_sharded(parameter: Any) -> bool:
    return isinstance(parameter, DTensor) and any(
        isinstance(placement, Shard) for placement in parameter.placements
    )


def _count_local(parameter: Any) -> int:
    return int(parameter.to_local().numel())


def _count_share(parameter: Any, processes: int) -> int:
    """Return the size of the largest part of a parameter that is split evenly by rows."""
    rows = max(1, parameter.shape[0])
    return int(-(-rows // processes) * (parameter.numel() // rows))


def _list_parameters_of_zero(engine: Any, stage: int, processes: int) -> list[str]:
    """List parameters that DeepSpeed has not sharded: all of them if its stage differs.

    Stage 3 shards the parameters; for stage 2, DeepSpeed's own report is trusted.
    """
    named = list(engine.named_parameters())
    get_stage = getattr(engine, "zero_optimization_stage", None)
    if get_stage is None or get_stage() != stage:
        return [name for name, _ in named]
    if stage < _ZERO_STAGES["zero3"]:
        return []
    return [
        name
        for name, parameter in named
        if parameter.ds_tensor.numel() > -(-parameter.ds_numel // processes)
    ]
