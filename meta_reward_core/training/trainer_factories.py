"""TRL trainers for the two losses, DPO and SFT. This module does not depend on processes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pyarrow
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
from trl import DPOConfig, SFTConfig

from meta_reward_core.recipes.training_settings import DpoSettings, SftSettings, TrainingSettings
from meta_reward_core.training.logit_tiles import set_logit_tiles
from meta_reward_core.training.model_sharding import ShardingCheck, enable_fsdp_on_cpu
from meta_reward_core.training.preprocessing import TrainerColumns
from meta_reward_core.training.row_encoding import EncodedRow
from meta_reward_core.training.weighting import (
    IGNORED,
    WeighedDpoTrainer,
    WeighedSftTrainer,
)


class _OneDevice(TrainingArguments):
    """Keeps each process on one device.

    Given one process and several visible GPUs, the Trainer would copy the model to all of them
    (`nn.DataParallel`) and multiply the batch size of the recipe.
    """

    @property
    def n_gpu(self) -> int:
        """GPUs of this process: 0 or 1."""
        return min(int(super().n_gpu), 1)


class OneDeviceDpoConfig(_OneDevice, DPOConfig):
    """Settings of DPO that keep each process on one device."""


class OneDeviceSftConfig(_OneDevice, SFTConfig):
    """Settings of SFT that keep each process on one device."""


@dataclass(frozen=True, slots=True)
class TrainerInputs:
    """Inputs of a TRL trainer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    arguments: dict[str, Any]
    train_dataset: Dataset
    eval_dataset: Dataset | None
    peft_config: Any  # peft's, or None


@dataclass(frozen=True, slots=True)
class Objective:
    """The loss to minimize.

    Attributes:
        settings: class of its settings.
        form: the columns of a row that TRL's trainer reads.
        make_trainer: creates the trainer, without starting it.
    """

    name: str
    settings: type[TrainingSettings]
    form: TrainerColumns
    make_trainer: Callable[[TrainerInputs, Any], Trainer]


def _make_dpo_trainer(inputs: TrainerInputs, settings: DpoSettings) -> Trainer:
    arguments = OneDeviceDpoConfig(
        **inputs.arguments,
        beta=settings.beta,
        loss_type=["sigmoid", "sft"] if settings.sft_weight else ["sigmoid"],
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=settings.device_batch_size,
        train_sampling_strategy="group_by_length" if settings.group_by_length else "random",
    )
    more = {"sft_weight": settings.sft_weight}
    return _create_trainer(WeighedDpoTrainer, inputs, arguments, settings, **more)


def _make_sft_trainer(inputs: TrainerInputs, settings: SftSettings) -> Trainer:
    arguments = OneDeviceSftConfig(
        **inputs.arguments,
        max_steps=settings.max_steps or -1,
        train_sampling_strategy=_choose_sampling(settings),
        dataset_kwargs={"skip_prepare_dataset": True},
        packing=False,
    )
    return _create_trainer(WeighedSftTrainer, inputs, arguments, settings)


def _choose_sampling(settings: SftSettings) -> str:
    if settings.group_by_length:
        return "group_by_length"
    return "sequential" if settings.row_order == "as_given" else "random"


def _create_trainer(
    trainer: Any,
    inputs: TrainerInputs,
    arguments: Any,
    settings: TrainingSettings,
    **more: float,
) -> Trainer:
    set_logit_tiles(
        settings.logit_tile, vocabulary=inputs.model.get_output_embeddings().weight.shape[0]
    )
    if settings.sharding == "fsdp" and arguments.use_cpu:
        enable_fsdp_on_cpu()
    made: Trainer = trainer(
        model=inputs.model,
        args=arguments,
        train_dataset=inputs.train_dataset,
        eval_dataset=inputs.eval_dataset,
        processing_class=inputs.tokenizer,
        peft_config=inputs.peft_config,
        **more,
    )
    made.add_callback(ShardingCheck(made, settings.sharding))
    return made


def _to_pair_columns(encoded: EncodedRow) -> dict[str, Any]:
    chosen, rejected = encoded.reply_ids
    return {
        "prompt_ids": encoded.prompt_ids,
        "chosen_ids": chosen,
        "rejected_ids": rejected,
        "chosen_injected": encoded.get_injected(0),
        "rejected_injected": encoded.get_injected(1),
        "length": encoded.length,
    }


def _to_labeled_columns(encoded: EncodedRow) -> dict[str, Any]:
    """Token ids and labels; the loss ignores tokens of the prompt and given tokens."""
    prompt, [reply] = encoded.prompt_ids, encoded.reply_ids
    given = set(encoded.get_injected(0))
    labels = [IGNORED if place in given else token for place, token in enumerate(reply)]
    return {
        "input_ids": prompt + reply,
        "labels": [IGNORED] * len(prompt) + labels,
        "length": encoded.length,
    }


_IDS: Final = pyarrow.list_(pyarrow.int64())
_PAIR: Final = pyarrow.schema(
    [
        ("prompt_ids", _IDS),
        ("chosen_ids", _IDS),
        ("rejected_ids", _IDS),
        ("chosen_injected", _IDS),
        ("rejected_injected", _IDS),
        ("length", pyarrow.int64()),
    ]
)
_LABELED: Final = pyarrow.schema(
    [("input_ids", _IDS), ("labels", _IDS), ("length", pyarrow.int64())]
)

DPO: Final = Objective(
    "dpo", DpoSettings, TrainerColumns(_PAIR, _to_pair_columns), _make_dpo_trainer
)
SFT: Final = Objective(
    "sft", SftSettings, TrainerColumns(_LABELED, _to_labeled_columns), _make_sft_trainer
)
OBJECTIVES: Final = {objective.name: objective for objective in (DPO, SFT)}
