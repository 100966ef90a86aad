"""TRL's trainers with equal weights for all rows and tokens of an optimizer step.

TRL averages a preference loss over the rows or tokens of a micro batch, and transformers averages
micro batches and processes. Rows of a small micro batch, and tokens of a micro batch with short
texts, then have a larger weight than others, so that a step depends on `device_batch_size`. The
trainers here give each micro batch the weight that makes the loss a mean over the whole step. A
step of a single micro batch has weights of exactly 1 and computes what TRL computes.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Final

import torch
from trl import DPOTrainer, SFTTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

WEIGHING: Final = "whole step"
"""Part of the identity of training states, so that states with another weighting are not resumed.
"""

DPO_PART: Final = "loss/dpo"
SFT_PART: Final = "loss/sft"
ACCURACY: Final = "rewards/accuracies"

IGNORED: Final = -100
"""The label that torch's cross entropy ignores."""

_MORE_COLUMNS: Final = ("chosen_injected", "rejected_injected", "length")

_ROWS, _TARGETS, _TOKENS = range(3)
_WEIGHED_BY: Final = {"mean_token_accuracy": _TARGETS, "entropy": _TOKENS}
"""Unit over which TRL averages each metric of a micro batch; the default is rows."""

Counts = tuple[int, int, int]
"""Counts of rows, of tokens with a likelihood, and of tokens of all completions."""


class _WeighedMetrics:
    """Counts the units of TRL's metrics, and logs means over all of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rounds: dict[str, list[Counts]] = defaultdict(list)

    def log(self: Any, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log TRL's metrics, each weighted by its number of rows or tokens."""
        metrics, rounds = self._metrics[self._mode], self._rounds[self._mode]
        for name, values in metrics.items():
            if len(values) > 1:
                counts = [counts[_WEIGHED_BY.get(name, _ROWS)] for counts in rounds]
                metrics[name] = [_average(values, counts[-len(values) :])]
        rounds.clear()
        trl: Any = super()
        trl.log(logs, start_time)

    def _set_signature_columns_if_needed(self: Any) -> None:
        """Keep the columns that `PairCollator` and grouping by length need in addition to TRL's."""
        trl: Any = super()
        trl._set_signature_columns_if_needed()
        known = self._signature_columns
        more = [name for name in _MORE_COLUMNS if name not in known]
        setattr(self, "_signature_columns", [*known, *more])  # noqa: B010 the base class types it

    @property
    def _mode(self: Any) -> str:
        """TRL's name of this method."""
        return "train" if self.model.training else "eval"

    def _sum_over_processes(self: Any, counts: Sequence[int]) -> Counts:
        if self.accelerator.num_processes > 1:
            mine = torch.tensor([counts], device=self.accelerator.device)
            counts = self.accelerator.gather(mine).sum(dim=0).tolist()
        rows, targets, tokens = counts
        return rows, targets, tokens


class PairCollator(DataCollatorForPreference):
    """TRL's collator of token ids; given tokens are excluded from every loss."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate pairs: chosen rows above rejected ones."""
        batch: dict[str, Any] = super().torch_call(examples)
        mask = batch["completion_mask"]
        for side, first_row in (("chosen", 0), ("rejected", len(examples))):
            for row, example in enumerate(examples, start=first_row):
                start = len(example["prompt_ids"])
                for place in example[f"{side}_injected"]:
                    mask[row, start + place] = 0
        return batch


class WeighedDpoTrainer(_WeighedMetrics, DPOTrainer):
    """Direct Preference Optimization in which a step depends only on its rows.

    The loss of a step is the mean over its pairs of TRL's `sigmoid` loss and, with an SFT weight,
    that weight times the mean over the tokens of all its chosen texts of TRL's `sft` loss. Both
    parts are logged.

    Source: Rafailov et al. 2023, equation 7; Pang et al. 2024, arXiv 2404.19733. Departs from
    the latter: there the likelihood is a mean over each row's tokens, here it is a mean over all
    tokens of the step.
    """

    def __init__(self, *args: Any, sft_weight: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sft_weight = sft_weight
        self._in_step: Counts = (0, 0, 0)
        self._sft_parts: list[float] = []

    def _precompute_ref_logps(self: Any, dataset: Any, name: str, batch_size: int) -> Any:
        """Compute the reference's log-probabilities without given tokens.

        At this point TRL has created its collator and set the padding of tokenizer and model.
        """
        made = self.data_collator
        if not isinstance(made, PairCollator):
            self.data_collator = PairCollator(
                pad_token_id=made.pad_token_id,
                max_length=made.max_length,
                truncation_mode=made.truncation_mode,
                pad_to_multiple_of=made.pad_to_multiple_of,
            )
        if self.is_fsdp_enabled and self.ref_model is None:
            self.model.to(self.accelerator.device)  # adapters: not yet sharded or moved to a device
        trl: Any = super()
        return trl._precompute_ref_logps(dataset, name, batch_size)

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        """Return rows as token ids, which TRL's collator reads.

        TRL renders and tokenizes the texts of a row here. Our rows are already encoded and measured
        (`row_encoding`), for which TRL has no setting in DPO.
        """
        return dataset

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Return the micro batches of a step, and count the units of all processes."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = zip((0, 0, 0), *map(_count_pairs, samples), strict=True)
        self._in_step = self._sum_over_processes(list(map(sum, counts)))
        self._sft_parts.append(0.0)
        return samples, items

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 transformers' signature
        num_items_in_batch: Any = None,
    ) -> Any:
        """Compute TRL's loss of a micro batch, each part weighted by its share of the step."""
        counts, mode = _count_pairs(inputs), self._mode
        rows, targets = (
            self._step_weights(counts) if mode == "train" else self._get_eval_weights(counts)
        )
        self.loss_weights = [rows, targets * self._sft_weight][: len(self.loss_types)]
        trl: Any = super()
        loss = trl.compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self._rounds[mode].append(self._sum_over_processes(counts))
        if mode == "train":
            self._note_step()
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log both parts of a two-part loss; they sum to the loss."""
        if "loss" in logs:
            if self._sft_weight:
                logs[SFT_PART] = sum(self._sft_parts) / len(self._sft_parts)
                logs[DPO_PART] = logs["loss"] - logs[SFT_PART]
            self._sft_parts.clear()
        super().log(logs, start_time)

    def _step_weights(self, counts: Counts) -> tuple[float, float]:
        """Compute the weights of a micro batch, of which transformers averages the losses."""
        batches = self.current_gradient_accumulation_steps * self.accelerator.num_processes
        rows, targets = (counts[of] * batches / self._in_step[of] for of in (_ROWS, _TARGETS))
        return rows, targets

    def _get_eval_weights(self, counts: Counts) -> tuple[float, float]:
        """Compute the weights of an evaluation batch, whose losses are averaged by rows."""
        if not self._sft_weight:
            return 1.0, 1.0
        return 1.0, counts[_TARGETS] / (counts[_ROWS] * self._targets_of_a_row)

    @cached_property
    def _targets_of_a_row(self) -> float:
        rows: Any = self.eval_dataset
        given = sum(map(len, rows["chosen_injected"]))
        return (sum(map(len, rows["chosen_ids"])) - given) / len(rows)

    def _note_step(self) -> None:
        """Store the SFT part of TRL's metrics, and drop an accuracy that is only rounding."""
        metrics = self._metrics["train"]
        log_likelihood = metrics["logps/chosen"][-1] * self._rounds["train"][-1][_ROWS]
        self._sft_parts[-1] -= self._sft_weight * log_likelihood / self._in_step[_TARGETS]
        if self._is_policy_reference():
            del metrics[ACCURACY]

    def _is_policy_reference(self) -> bool:
        """Return whether the weights are unchanged, so that rewards are 0 except for rounding.

        The first step of a warm-up has a learning rate of 0.
        """
        arguments = self.args
        warms_up = arguments.get_warmup_steps(self.state.max_steps) > 0
        unmoved = 1 if warms_up and arguments.lr_scheduler_type != "constant" else 0
        return bool(self.state.global_step <= unmoved)


class WeighedSftTrainer(_WeighedMetrics, SFTTrainer):
    """Supervised fine-tuning whose validation loss is a mean over all tokens.

    TRL already computes the loss of an optimizer step over all its tokens.
    """

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 transformers' signature
        num_items_in_batch: Any = None,
    ) -> Any:
        """Compute TRL's loss of a micro batch; an evaluation batch is weighted by its tokens."""
        counts, mode = _count_labels(inputs), self._mode
        trl: Any = super()
        loss = trl.compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self._rounds[mode].append(self._sum_over_processes(counts))
        if mode == "train":
            return loss
        weight = counts[_TARGETS] / (counts[_ROWS] * self._targets_of_a_row)
        return (loss[0] * weight, loss[1]) if return_outputs else loss * weight

    @cached_property
    def _targets_of_a_row(self) -> float:
        rows: Any = self.eval_dataset
        targets = sum(label != IGNORED for labels in rows["labels"] for label in labels[1:])
        return float(targets / len(rows))


def _count_pairs(batch: dict[str, Any]) -> Counts:
    """Count a batch of TRL's preference collator: chosen rows above rejected ones."""
    mask = batch["completion_mask"][:, 1:]
    rows = len(mask) // 2
    return rows, int(mask[:rows].sum()), int(mask.sum())


def _count_labels(batch: dict[str, Any]) -> Counts:
    """Count a batch of TRL's language-modeling collator; the first token is never a target."""
    targets = int((batch["labels"][:, 1:] != IGNORED).sum())
    return len(batch["labels"]), targets, targets


def _average(values: Sequence[float], counts: Sequence[int]) -> float:
    pairs = zip(values, counts, strict=True)
    return sum(value * count for value, count in pairs) / sum(counts)
