"""The CPU's fused attention against the same attention with its scores at hand."""

import pytest
import torch
from torch import Tensor

from meta_reward_core.engines import shared_prefix_attention
from meta_reward_core.engines.shared_prefix_attention import (
    FUSED_QUERIES,
    MASKED_SCORE,
    PartialAttention,
)

SEGMENTS, HEADS, KEYS, WIDTH = 2, 3, 70, 16


def attended(*, fused: bool, bias: Tensor | None, dtype: torch.dtype) -> PartialAttention:
    draw = torch.Generator().manual_seed(1)
    query, keys, values = (
        torch.randn(SEGMENTS, HEADS, count, WIDTH, generator=draw).to(dtype)
        for count in (FUSED_QUERIES, KEYS, KEYS)
    )
    if fused:
        return shared_prefix_attention._attend(query, keys, values, bias=bias, cap=None)
    return shared_prefix_attention._attend_at_once(query, keys, values, bias, None)


def padding() -> Tensor:
    """The second segment is shorter."""
    bias = torch.zeros(SEGMENTS, 1, 1, KEYS)
    bias[1, ..., 40:] = MASKED_SCORE
    return bias


def window() -> Tensor:
    """Each query sees some keys, and the last one sees nothing."""
    bias = torch.zeros(SEGMENTS, 1, FUSED_QUERIES, KEYS)
    for query in range(FUSED_QUERIES):
        bias[:, :, query, :query] = MASKED_SCORE
    bias[:, :, -1] = MASKED_SCORE
    return bias


@pytest.mark.parametrize("bias", [None, padding(), window()], ids=["all", "padding", "window"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-5), (torch.bfloat16, 6e-2)]
)
def test_both_ways_attend_alike(
    bias: Tensor | None, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, weights = attended(fused=False, bias=bias, dtype=dtype)
    monkeypatch.delattr(shared_prefix_attention, "_attend_at_once")  # no way but the fused one
    found, found_weights = attended(fused=True, bias=bias, dtype=dtype)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    least = MASKED_SCORE / 10  # what sees nothing weighs nothing, however much less
    found_weights, weights = found_weights.clamp(min=least), weights.clamp(min=least)
    torch.testing.assert_close(found_weights, weights, atol=tolerance, rtol=tolerance)
    assert found.dtype == found_weights.dtype == torch.float32
