"""Drawing the next token of each row from its logits."""

import torch
from torch import Tensor

from meta_reward_core.engines.base import SamplingParams


def sample_tokens(logits: Tensor, sampling: SamplingParams, generator: torch.Generator) -> Tensor:
    """One token per row of `logits` (rows, vocabulary), from the nucleus of each row.

    The nucleus is the smallest set of most likely tokens whose probability reaches `top_p`; tokens
    that are as likely as its last one belong to it too. Nothing is sorted: a token is drawn from
    the whole distribution, and kept if what is more likely than it stays below `top_p`. If not,
    only what is more likely is drawn from, which is what drawing from the nucleus alone gives.

    Args:
        generator: on the CPU, so that every device draws the same numbers.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    likely = (logits.float() / sampling.temperature).softmax(-1)
    tokens = logits.new_zeros(len(logits), dtype=torch.long)
    waiting = torch.arange(len(logits), device=logits.device)
    while len(waiting):
        reached = likely.cumsum(-1)
        uniform = torch.rand(len(waiting), 1, generator=generator).to(logits.device)
        drawn = torch.searchsorted(reached, uniform * reached[:, -1:], right=True)
        drawn = drawn.clamp(max=likely.shape[-1] - 1)
        likelier = likely.masked_fill(likely <= likely.gather(-1, drawn), 0)
        kept = likelier.sum(-1) < sampling.top_p
        tokens[waiting[kept]] = drawn[kept, 0]
        waiting, likely = waiting[~kept], likelier[~kept]
    return tokens
