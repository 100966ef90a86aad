"""Decoding: a token loop over the rows of a batch, with top-p sampling.

Works on token ids alone: no text, no conversation, no engine.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from meta_reward_core.engines.base import SamplingParams


def sample_tokens(logits: Tensor, sampling: SamplingParams, generator: torch.Generator) -> Tensor:
    """Sample one token per row of `logits` (rows, vocabulary) from the row's nucleus.

    The nucleus is the smallest set of most likely tokens whose probability reaches `top_p`; tokens
    that are as likely as its last token belong to it too. Nothing is sorted: a token is sampled
    from the whole distribution, and kept if the probability of all likelier tokens is below
    `top_p`. Otherwise the next sample is from the likelier tokens only. The result has the
    distribution of a sample from the nucleus.

    Args:
        generator: a generator on the CPU, so that the random numbers are the same on every device.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    likely = (logits.float() / sampling.temperature).softmax(-1)
    tokens = logits.new_zeros(len(logits), dtype=torch.long)
    waiting = torch.arange(len(logits), device=logits.device)
    while len(waiting):
        reached = likely.cumsum(-1)
        uniform = torch.rand(len(waiting), 1, generator=generator).to(logits.device)
        sampled = torch.searchsorted(reached, uniform * reached[:, -1:], right=True)
        sampled = sampled.clamp(max=likely.shape[-1] - 1)
        likelier = likely.masked_fill(likely <= likely.gather(-1, sampled), 0)
        kept = likelier.sum(-1) < sampling.top_p
        tokens[waiting[kept]] = sampled[kept, 0]
        waiting, likely = waiting[~kept], likelier[~kept]
    return tokens


# Dropping finished rows copies the cache, which pays off once a quarter of the rows is idle.
BUSY_SHARE = 0.75


class DecodingBatch(Protocol):
    """Rows of a batch after the prefill.

    Attributes:
        logits: logits of the next token of each row, (rows, vocabulary).
    """

    logits: Tensor

    def advance(self, tokens: Tensor) -> None:
        """Feed one token to each row; `logits` then predict the next token."""
        ...

    def keep_rows(self, kept: Tensor) -> None:
        """Keep only the given rows, by their current numbers."""
        ...


@torch.inference_mode()
def decode(
    read: Callable[[], DecodingBatch],
    *,
    end_ids: Sequence[int],
    sampling: SamplingParams,
    generator: torch.Generator,
    on_step: Callable[[int, int], None],
) -> list[list[int]]:
    """Decode every row to its end token or `max_new_tokens`.

    Args:
        read: reads the prompts of a batch.
        on_step: called with the number of the step, and the number of sampled tokens that belong to
            unfinished rows.

    Returns:
        Token ids of each row, including its end token; the copies of a prompt are adjacent.
    """
    rows = read()
    device, total = rows.logits.device, len(rows.logits)
    ends = torch.tensor(end_ids, device=device)
    sampled = torch.full((total, sampling.max_new_tokens), end_ids[0], device=device)
    numbers = torch.arange(total, device=device)
    going = torch.ones(total, dtype=torch.bool, device=device)
    count = total
    for step in range(sampling.max_new_tokens):
        tokens = sample_tokens(rows.logits, sampling, generator)
        sampled[numbers, step] = tokens
        on_step(step, count)
        going &= ~torch.isin(tokens, ends)
        count = int(going.sum())
        if count == 0 or step + 1 == sampling.max_new_tokens:
            break
        if count < BUSY_SHARE * len(numbers):
            kept = going.nonzero()[:, 0]
            rows.keep_rows(kept)
            numbers, going, tokens = numbers[kept], going[kept], tokens[kept]
        rows.advance(tokens)
    return [cut_at_end_token(row, end_ids) for row in sampled.tolist()]


def cut_at_end_token(row: list[int], end_ids: Sequence[int]) -> list[int]:
    """Cut the row after its first end token."""
    stop = next((index for index, token in enumerate(row) if token in end_ids), len(row))
    return row[: stop + 1]
