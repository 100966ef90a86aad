"""Attention that reads a shared prefix once for all sequences.

The queries of all sequences that read a segment are the rows of ONE matrix product with the
segment's keys and values. Each sequence's own tokens are read separately. The parts are combined
into one softmax over all keys. Available to any model through transformers' `AttentionInterface`.
It handles the tensors of a layer, but not tokens, prompts or sampling.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

ATTENTION_NAME: Final = "shared_prefixes"
# Number of scores in memory at a time: fits into the caches of a CPU, and keeps a GPU busy.
MAX_SCORES_AT_ONCE: Final = {"cpu": 2**21, "cuda": 2**27}
# New tokens attend to each other in blocks, each only up to its last key, which saves half the
# work.
CAUSAL_CHUNK: Final = 256
# Scores are to the base 2, because some CPUs compute exp2 several times as fast as exp.
LOG2_E: Final = math.log2(math.e)
# From this number of queries on, the fused CPU attention is faster than plain products.
FUSED_QUERIES: Final = 64
# Finite, so that a segment of which a query sees nothing gets the weight 0 and not NaN.
MASKED_SCORE: Final = -1e30


class PrefixSharingUnsupportedError(Exception):
    """The model's attention cannot be computed in parts."""


class PrefillDoneError(Exception):
    """The last keys and values of a prefill are stored; it has no other result."""


def enable_shared_attention(model: PreTrainedModel) -> None:
    """Make `model` use `attend_shared`; later calls need a `PrefixContext`."""
    AttentionInterface.register(ATTENTION_NAME, attend_shared)
    model.set_attn_implementation(ATTENTION_NAME)


@dataclass(frozen=True, slots=True)
class CachedLevel:
    """Keys and values of segments, right-padded to the longest.

    Attributes:
        keys: keys of each layer, (segments, key heads, longest, width).
        values: values of each layer, in the same layout.
        starts: position of each segment's first token.
        lengths: number of tokens of each segment.
    """

    keys: list[Tensor]
    values: list[Tensor]
    starts: list[int]
    lengths: list[int]


@dataclass(frozen=True, slots=True)
class PrefixView:
    """A level as seen by the sequences of one call.

    Attributes:
        readers: the sequences that read each segment, padded with arbitrary sequences; (segments,
            most readers).
        positions: index of each sequence's result among segments x most readers, or one past the
            end if it reads nothing of this level; (sequences,).
        complete: whether every sequence reads a segment of this level.
        in_order: whether `readers` contains all sequences in order, so that no reordering is
            needed.
        padding: mask of the segments' padding; empty until first requested.
    """

    level: CachedLevel
    readers: Tensor
    positions: Tensor
    complete: bool
    in_order: bool
    padding: list[Tensor | None] = field(default_factory=list)


@dataclass(slots=True)
class PrefixContext:
    """Inputs of a model call in addition to its own tokens.

    Attributes:
        prefixes: the levels that precede the call's own tokens.
        positions: positions of the call's own tokens, (sequences, tokens).
        last: upper bound of these positions.
        enough_at: the last layer whose keys and values are needed; None to run all layers.
    """

    prefixes: list[PrefixView]
    positions: Tensor
    last: int
    enough_at: int | None = None
    _windows: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)

    def get_bias(self, number: int, window: int | None, groups: int) -> Tensor | None:
        """Return the mask of keys of prefix `number`, shared by layers with the same window.

        Returns:
            A bias of shape (segments, 1, queries or 1, longest), with queries in the order that
            `_attend` expects: readers x `groups` x tokens. None if no key is masked.
        """
        prefix = self.prefixes[number]
        if window is None or self.last - min(prefix.level.starts) < window:
            if not prefix.padding:
                prefix.padding.append(_make_padding_bias(prefix.level, self.positions.device))
            return prefix.padding[0]
        key = (number, window, groups)
        if key not in self._windows:
            self._windows[key] = _make_window_bias(prefix, self.positions, window, groups)
        return self._windows[key]


def _make_padding_bias(level: CachedLevel, device: torch.device) -> Tensor | None:
    longest = max(level.lengths)
    if min(level.lengths) == longest:
        return None
    return _convert_mask_to_bias(_make_padding_mask(level, device)[:, None, None])


def _make_padding_mask(level: CachedLevel, device: torch.device) -> Tensor:
    """Return the mask of padding in a level: (segments, longest)."""
    lengths = torch.tensor(level.lengths, device=device)
    return torch.arange(max(level.lengths), device=device) >= lengths[:, None]


def _make_window_bias(prefix: PrefixView, positions: Tensor, window: int, groups: int) -> Tensor:
    level, device = prefix.level, positions.device
    starts = torch.tensor(level.starts, device=device)
    keys_at = starts[:, None] + torch.arange(max(level.lengths), device=device)
    ages = positions[prefix.readers][..., None] - keys_at[:, None, None]
    hidden = (ages >= window) | _make_padding_mask(level, device)[:, None, None]
    hidden = hidden[:, :, None].expand(-1, -1, groups, -1, -1)
    return _convert_mask_to_bias(hidden.flatten(1, 3)[:, None])


def _make_causal_bias(
    first: int, last: int, window: int | None, groups: int, device: torch.device
) -> Tensor | None:
    """Return the causal bias of own tokens: (1, 1, groups x queries, last)."""
    if last - first == 1 and (window is None or last <= window):
        return None
    queries_at = torch.arange(first, last, device=device)[:, None]
    ages = queries_at - torch.arange(last, device=device)
    hidden = (ages < 0) | (ages >= (last if window is None else window))
    return _convert_mask_to_bias(hidden.repeat(groups, 1)[None, None])


def _convert_mask_to_bias(hidden: Tensor) -> Tensor:
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, MASKED_SCORE)


def attend_shared(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    shared_reading: PrefixContext | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend to the prefixes and, causally, to the call's own tokens.

    Args:
        module: the model's attention module, which contains the index of its layer.
        query: (sequences, heads, tokens, width).
        key: keys of each sequence's own tokens, new tokens last; (sequences, key heads, own,
            width).
        value: values of the same tokens, in the same order.
        attention_mask: must be None; `shared_reading` defines which keys are masked.
        scaling: factor of the scores; None for 1 / sqrt(width).
        softcap: bound of the scores, enforced by a hyperbolic tangent as in Gemma 2.
        sliding_window: number of tokens that a query sees, including its own token.
        s_aux: an extra score per head, which enters the softmax without a value (GPT-OSS).
        position_bias: must be None.
        shared_reading: inputs of this call, passed through the model.

    Returns:
        Outputs of shape (sequences, tokens, heads, width of a value), and None for the weights.

    Raises:
        PrefixSharingUnsupportedError: this function does not support the model's kind of attention.
        PrefillDoneError: the call reached the layer `enough_at`, at which a prefill ends.
    """
    if shared_reading is None:
        raise PrefixSharingUnsupportedError("the model does not pass arguments to its attention")
    if attention_mask is not None or position_bias is not None:
        raise PrefixSharingUnsupportedError("the model adds its own mask or bias to the scores")
    if not getattr(module, "is_causal", True):
        raise PrefixSharingUnsupportedError("the model's attention is not causal")
    layer: Any = module.layer_idx
    if layer == shared_reading.enough_at:
        raise PrefillDoneError
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = sliding_window if sliding_window and sliding_window <= shared_reading.last else None
    if not shared_reading.prefixes and window is None and softcap is None and s_aux is None:
        return _attend_causally(query, key, value, scale), None
    query = query * (scale * LOG2_E if softcap is None else scale / softcap)
    cap = None if softcap is None else softcap * LOG2_E
    parts = [_attend_own(query, key, value, window=window, cap=cap)]
    for number, prefix in enumerate(shared_reading.prefixes):
        keys, values = prefix.level.keys[layer], prefix.level.values[layer]
        groups = query.shape[1] // keys.shape[1]
        bias = shared_reading.get_bias(number, window, groups)
        parts.append(_attend_prefix(query, keys, values, prefix, bias=bias, cap=cap))
    joined = _merge_parts(parts, s_aux)
    return joined.to(query.dtype).transpose(1, 2).contiguous(), None


def _attend_causally(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attend without shared prefixes; either all own tokens are new, or exactly one is."""
    result = scaled_dot_product_attention(
        query,
        key,
        value,
        is_causal=query.shape[2] > 1,
        scale=scale,
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return result.transpose(1, 2).contiguous()


PartialAttention = tuple[Tensor, Tensor]
"""Attention to some of the keys: the result (..., width), and its weight relative to other parts
(..., 1), which is the base-2 logarithm of the sum of its exponentiated scores."""


def _attend_own(
    query: Tensor, key: Tensor, value: Tensor, *, window: int | None, cap: float | None
) -> PartialAttention:
    """Attend causally to own tokens; the last tokens are the queries."""
    sequences, heads, tokens, width = query.shape
    own, key_heads = key.shape[2], key.shape[1]
    results, weights = [], []
    for first in range(own - tokens, own, CAUSAL_CHUNK):
        last = min(first + CAUSAL_CHUNK, own)
        some = query[:, :, first - own + tokens : last - own + tokens]
        folded = some.reshape(sequences, key_heads, -1, width)
        bias = _make_causal_bias(first, last, window, heads // key_heads, query.device)
        result, weight = _attend(folded, key[:, :, :last], value[:, :, :last], bias=bias, cap=cap)
        results.append(result.reshape(sequences, heads, last - first, -1))
        weights.append(weight.reshape(sequences, heads, last - first, 1))
    return _concatenate_tokens(results), _concatenate_tokens(weights)


def _concatenate_tokens(items: list[Tensor]) -> Tensor:
    return items[0] if len(items) == 1 else torch.cat(items, dim=2)


def _attend_prefix(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    prefix: PrefixView,
    *,
    bias: Tensor | None,
    cap: float | None,
) -> PartialAttention:
    """Gather the queries by segment, attend, and scatter the results."""
    segments, most = prefix.readers.shape
    _, heads, tokens, width = query.shape
    key_heads = keys.shape[1]
    apart = (segments, most, key_heads, heads // key_heads, tokens, width)
    gathered = query if prefix.in_order else query.index_select(0, prefix.readers.view(-1))
    folded = gathered.reshape(apart).transpose(1, 2).reshape(segments, key_heads, -1, width)
    result, weight = _attend(folded, keys, values, bias=bias, cap=cap)

    def put_back(item: Tensor, nothing: float) -> Tensor:
        item = item.reshape(segments, key_heads, most, -1, tokens, item.shape[-1]).transpose(1, 2)
        item = item.reshape(segments * most, heads, tokens, -1)
        if prefix.in_order:
            return item
        if not prefix.complete:
            item = torch.cat([item, item.new_full((1, *item.shape[1:]), nothing)])
        return item.index_select(0, prefix.positions)

    return put_back(result, 0.0), put_back(weight, MASKED_SCORE)


def _attend(
    query: Tensor, keys: Tensor, values: Tensor, *, bias: Tensor | None, cap: float | None
) -> PartialAttention:
    """Attend with queries (segments, key heads, queries, width) to their segment's keys."""
    segments, key_heads, queries, width = query.shape
    can_fuse = query.device.type == "cpu" and cap is None and values.shape[-1] == width
    if can_fuse and queries >= FUSED_QUERIES:
        return _attend_fused(query, keys, values, bias)
    scores = segments * key_heads * keys.shape[2]
    step = max(1, MAX_SCORES_AT_ONCE.get(query.device.type, 2**27) // scores)
    results, weights = [], []
    for first in range(0, queries, step):
        some = slice(first, first + step)
        hides = bias if bias is None or bias.shape[2] == 1 else bias[:, :, some]
        result, weight = _attend_at_once(query[:, :, some], keys, values, hides, cap)
        results.append(result)
        weights.append(weight)
    return _concatenate_tokens(results), _concatenate_tokens(weights)


def _attend_fused(
    query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None
) -> PartialAttention:
    """Attend without materializing scores, by `scaled_dot_product_attention` on a CPU.

    Uses the private operator, because only this operator also returns the logarithm of the sum.
    """
    result, logarithm = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query,
        keys,
        values,
        attn_mask=None if bias is None else bias.to(query.dtype),
        scale=1 / LOG2_E,  # the queries are scaled for base 2, but this softmax uses base e
    )
    return result.float(), (logarithm * LOG2_E).float()[..., None]


def _attend_at_once(
    query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, cap: float | None
) -> PartialAttention:
    scores = (query @ keys.transpose(-1, -2)).float()
    if cap is not None:
        scores = scores.tanh_().mul_(cap)
    if bias is not None:
        scores += bias
    top = scores.amax(-1, keepdim=True)
    exponentials = scores.sub_(top).exp2_()
    total = exponentials.sum(-1, keepdim=True)
    result = (exponentials.to(values.dtype) @ values).float()
    return result.div_(total), total.log2_().add_(top)


def _merge_parts(parts: Sequence[PartialAttention], s_aux: Tensor | None) -> Tensor:
    """Merge parts with one softmax: (sequences, heads, tokens, width)."""
    weights = [weight for _, weight in parts]
    if s_aux is not None:
        weights.append((s_aux.float() * LOG2_E).view(1, -1, 1, 1).expand_as(weights[0]))
    shares = torch.stack(weights).div_(LOG2_E).softmax(0)
    joined = parts[0][0] * shares[0]
    for (result, _), share in zip(parts[1:], shares[1:], strict=False):
        joined.addcmul_(result, share)
    return joined
