"""Decoding by transformers' own `generate`, which on a GPU is faster than a loop in Python.

On a GPU, copies of a prompt cost little; the bottleneck is Python between the steps.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from meta_reward_core.engines.base import SamplingParams
from meta_reward_core.engines.decoding import cut_at_end_token
from meta_reward_core.engines.padded_batch import pad_left
from meta_reward_core.engines.prefix_batching import PromptBatch


@torch.inference_mode()
def generate_rows(
    model: PreTrainedModel,
    batch: PromptBatch,
    *,
    end_ids: Sequence[int],
    sampling: SamplingParams,
    seed: int,
    on_step: Callable[[int, int], None],
) -> list[list[int]]:
    """Sample every row of a batch up to its end token or `max_new_tokens`.

    Args:
        model: a model whose generation config has no sampling values, because `generate` would use
            them.
        seed: seed of torch's generators during sampling.
        on_step: called with the number of the step, and the number of sampled tokens that belong to
            unfinished rows.

    Returns:
        Token ids of each row, including its end token; the copies of a prompt are adjacent.
    """
    ids, mask = pad_left(batch.prompts, device=model.device)
    copies = torch.tensor(batch.copies, device=model.device)
    ids, mask = ids.repeat_interleave(copies, dim=0), mask.repeat_interleave(copies, dim=0)
    devices = [model.device] if model.device.type == "cuda" else []
    generate: Any = model.generate
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        sampled = generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=_make_config(end_ids, sampling),
            stopping_criteria=StoppingCriteriaList([_StepCounter(end_ids, len(ids), on_step)]),
        )
    return [cut_at_end_token(row, end_ids) for row in sampled[:, ids.shape[1] :].tolist()]


def _make_config(end_ids: Sequence[int], sampling: SamplingParams) -> GenerationConfig:
    drawing: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        drawing = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
        }
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=list(end_ids),
        pad_token_id=end_ids[0],
        **drawing,
    )


class _StepCounter(StoppingCriteria):
    """Counts the tokens of unfinished rows; never stops generation."""

    def __init__(
        self, end_ids: Sequence[int], rows: int, on_step: Callable[[int, int], None]
    ) -> None:
        self._end_ids = end_ids
        self._on_step = on_step
        self._step = 0
        self._going: Tensor | None = None
        self._count = rows

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:  # noqa: ARG002
        self._on_step(self._step, self._count)
        self._step += 1
        ends = torch.tensor(self._end_ids, device=input_ids.device)
        goes_on = ~torch.isin(input_ids[:, -1], ends)
        self._going = goes_on if self._going is None else self._going & goes_on
        self._count = int(self._going.sum())
        return torch.zeros_like(self._going)
