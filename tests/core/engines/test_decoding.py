"""Tokens are drawn from the nucleus with its probabilities, and from nothing else."""

import pytest
import torch

from meta_reward_core.engines.base import SamplingParams
from meta_reward_core.engines.decoding import sample_tokens


@pytest.mark.parametrize("vocabulary", [6, 5000])
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(vocabulary: int) -> None:
    """Probabilities .5, .3, .1, .1 and nothing else: at top_p .75 the nucleus is the first two.

    Renormalised they are .625 and .375; 20,000 draws put the share within .02 (five sigma).
    """
    probabilities = torch.full((vocabulary,), 1e-12)
    probabilities[torch.tensor([4, 1, 0, 2])] = torch.tensor([0.5, 0.3, 0.1, 0.1])
    sampling = SamplingParams(temperature=1.0, top_p=0.75, max_new_tokens=1)
    logits = probabilities.log().repeat(20_000, 1)
    tokens = sample_tokens(logits, sampling, torch.Generator().manual_seed(0))
    assert set(tokens.tolist()) == {1, 4}
    assert (tokens == 4).float().mean().item() == pytest.approx(0.625, abs=0.02)


def test_without_a_nucleus_every_token_may_be_drawn() -> None:
    """Probabilities .7, .2, .1 at top_p 1; temperature 2 takes their roots: .523, .279, .198."""
    logits = torch.tensor([0.7, 0.2, 0.1]).log().repeat(20_000, 1)
    warm = SamplingParams(temperature=2.0, top_p=1.0, max_new_tokens=1)
    tokens = sample_tokens(logits, warm, torch.Generator().manual_seed(0))
    shares = tokens.bincount(minlength=3) / len(tokens)
    assert shares.tolist() == pytest.approx([0.523, 0.279, 0.198], abs=0.02)


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.6, 0.95])
def test_shares_of_drawn_tokens_are_those_of_the_renormalised_nucleus(top_p: float) -> None:
    """Against a nucleus found by sorting; 40,000 draws of 20 tokens: within five sigma, .0125."""
    logits = torch.randn(20, generator=torch.Generator().manual_seed(1)) * 1.5
    values, order = logits.softmax(-1).sort(descending=True)
    inside = values.cumsum(-1) - values < top_p
    expected = torch.zeros(20).scatter(0, order, values * inside / values[inside].sum())
    sampling = SamplingParams(temperature=1.0, top_p=top_p, max_new_tokens=1)
    generator = torch.Generator().manual_seed(0)
    tokens = sample_tokens(logits.repeat(40_000, 1), sampling, generator)
    shares = tokens.bincount(minlength=20) / len(tokens)
    assert (shares - expected).abs().max() < 0.0125
    assert not shares[expected == 0].any()


def test_tokens_as_likely_as_the_last_of_the_nucleus_belong_to_it() -> None:
    """Four tokens of .25 at top_p .3: the second is needed, and the others are as likely."""
    sampling = SamplingParams(temperature=1.0, top_p=0.3, max_new_tokens=1)
    tokens = sample_tokens(torch.zeros(400, 4), sampling, torch.Generator().manual_seed(0))
    assert set(tokens.tolist()) == {0, 1, 2, 3}
