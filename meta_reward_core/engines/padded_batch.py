"""Batches with a padded cache per row, for every model."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from meta_reward_core.engines.kv_cache import make_model_cache, select_rows
from meta_reward_core.engines.prefix_batching import PromptBatch
from meta_reward_core.engines.prompt_encoder import TokenIds


class PaddedBatch:
    """Rows of a batch: each distinct prompt is prefilled once and its cache is repeated."""

    def __init__(self, model: PreTrainedModel, batch: PromptBatch) -> None:
        """Prefill the prompts; `logits` then predict the first new token."""
        ids, mask = pad_left(batch.prompts, device=model.device)
        self._model = model
        self._cache = make_model_cache(model)
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        copies = torch.tensor(batch.copies, device=model.device)
        source = torch.arange(len(batch.prompts), device=model.device).repeat_interleave(copies)
        select_rows(self._cache, source)
        self._mask, self._positions = mask[source], mask.sum(-1)[source]
        self.logits: Tensor = output.logits[:, -1][source]

    def advance(self, tokens: Tensor) -> None:
        """Feed one token to each row; `logits` then predict the next token."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        output = self._model(
            input_ids=tokens[:, None],
            attention_mask=self._mask,
            position_ids=self._positions[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._positions = self._positions + 1
        self.logits = output.logits[:, -1]

    def keep_rows(self, kept: Tensor) -> None:
        """Keep only the given rows, by their current numbers."""
        select_rows(self._cache, kept)
        self._mask, self._positions = self._mask[kept], self._positions[kept]


def pad_left(prompts: Sequence[TokenIds], *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return prompts as a tensor of ids and a mask, both (prompts, longest prompt)."""
    width = max(len(prompt) for prompt in prompts)
    ids = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
