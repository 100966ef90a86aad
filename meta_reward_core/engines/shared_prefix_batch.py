"""Batches that store and read common prefixes once per token for all rows.

Prompts are read level by level, each segment after those that precede it. Each row reads the last
token of its prompt itself, which produces the logits of its first generated token; so the tokens of
a row have no padding.
"""

import contextlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from meta_reward_core.engines.kv_cache import make_preallocated_cache, select_rows
from meta_reward_core.engines.prefix_batching import PromptBatch, Segment, find_prefix_levels
from meta_reward_core.engines.shared_prefix_attention import (
    CachedLevel,
    PrefillDoneError,
    PrefixContext,
    PrefixView,
)

# Maximum prompt tokens per model call: the longest segment times the number of segments.
PREFILL_TOKENS = 4096

CachedSegments = tuple[list[Segment], CachedLevel]
"""Segments of a batch, and their keys and values in the same order."""


class SharedPrefixBatch:
    """Rows of a batch; the model must use `attend_shared`."""

    def __init__(self, model: PreTrainedModel, batch: PromptBatch) -> None:
        """Prefill the prompts; `logits` then predict the first new token."""
        self._model = model
        self._levels: list[CachedSegments] = []
        for segments in find_prefix_levels(batch):
            self._levels.append((segments, _read_segments(model, segments, self._levels)))
        each = list(zip(batch.prompts, batch.copies, strict=True))
        lasts = [(prompt[-1], len(prompt) - 1) for prompt, copies in each for _ in range(copies)]
        tokens, self._positions = torch.tensor(lasts, device=model.device).unbind(1)
        self._last = max(position for _, position in lasts)
        self._rows = list(range(batch.rows))
        self._prefixes = _make_prefix_views(self._levels, self._rows, device=model.device)
        self._cache = make_preallocated_cache()
        self.logits: Tensor
        self.advance(tokens)

    def advance(self, tokens: Tensor) -> None:
        """Feed one token to each row; `logits` then predict the next token."""
        positions = self._positions[:, None]
        output = self._model(
            input_ids=tokens[:, None],
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            shared_reading=PrefixContext(self._prefixes, positions, last=self._last),
        )
        self._positions = self._positions + 1
        self._last += 1
        self.logits = output.logits[:, -1]

    def keep_rows(self, kept: Tensor) -> None:
        """Keep only the given rows, by their current numbers, and free unused segments."""
        select_rows(self._cache, kept)
        self._positions = self._positions[kept]
        self._rows = [self._rows[number] for number in kept.tolist()]
        self._levels = [_select_read_segments(level, self._rows) for level in self._levels]
        self._levels = [level for level in self._levels if level[0]]
        self._prefixes = _make_prefix_views(self._levels, self._rows, device=kept.device)


def _read_segments(
    model: PreTrainedModel, segments: Sequence[Segment], before: Sequence[CachedSegments]
) -> CachedLevel:
    """Compute keys and values of segments that follow the levels `before` them."""
    lengths = [len(segment.tokens) for segment in segments]
    keys: list[Tensor] = []
    values: list[Tensor] = []
    for numbers in _group_by_length(lengths):
        read = _read_together(model, [segments[number] for number in numbers], before)
        if len(numbers) == len(segments):
            keys, values = read
            break
        for whole, parts in zip((keys, values), read, strict=True):
            if not whole:
                whole.extend(_allocate_zeros(part, len(segments), max(lengths)) for part in parts)
            for room, part in zip(whole, parts, strict=True):
                room[numbers, :, : part.shape[2]] = part
    return CachedLevel(keys, values, [segment.start for segment in segments], lengths)


def _allocate_zeros(part: Tensor, segments: int, longest: int) -> Tensor:
    """Allocate zeros, because masked values are multiplied too."""
    return part.new_zeros(segments, part.shape[1], longest, part.shape[3])


def _group_by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Group segments of similar length: segments that are read together are padded.

    At most `PREFILL_TOKENS` per chunk, including padding; each chunk is in order.
    """
    chunk: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if chunk and (len(chunk) + 1) * lengths[chunk[0]] > PREFILL_TOKENS:
            yield sorted(chunk)
            chunk = []
        chunk.append(number)
    yield sorted(chunk)


def _read_together(
    model: PreTrainedModel, segments: Sequence[Segment], before: Sequence[CachedSegments]
) -> tuple[list[Tensor], list[Tensor]]:
    """Compute keys and values by layer, of shape (segments, key heads, longest segment, width)."""
    longest = max(len(segment.tokens) for segment in segments)
    ids = [list(item.tokens) + [0] * (longest - len(item.tokens)) for item in segments]
    starts = torch.tensor([segment.start for segment in segments], device=model.device)
    positions = starts[:, None] + torch.arange(longest, device=model.device)
    readers = [segment.first_row for segment in segments]
    cache = DynamicCache()
    reading = PrefixContext(
        _make_prefix_views(
            [_select_nearby_segments(level, readers) for level in before],
            readers,
            device=model.device,
        ),
        positions,
        last=max(segment.start for segment in segments) + longest - 1,
        enough_at=model.config.get_text_config(decoder=True).num_hidden_layers - 1,
    )
    with contextlib.suppress(PrefillDoneError):
        model(
            input_ids=torch.tensor(ids, device=model.device),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            shared_reading=reading,
        )
    layers: list[Any] = cache.layers
    return [layer.keys for layer in layers], [layer.values for layer in layers]


def _make_prefix_views(
    levels: Sequence[CachedSegments], rows: Sequence[int], *, device: torch.device
) -> list[PrefixView]:
    return [_make_prefix_view(*level, rows, device=device) for level in levels if level[0]]


def _make_prefix_view(
    segments: Sequence[Segment], level: CachedLevel, rows: Sequence[int], *, device: torch.device
) -> PrefixView:
    """Describe which segments of a level the sequences read, one sequence per row of the batch."""
    readers: list[list[int]] = [[] for _ in segments]
    spots: list[tuple[int, int] | None] = []
    for sequence, row in enumerate(rows):
        number = _find_segment(segments, row)
        spots.append(None if number is None else (number, len(readers[number])))
        if number is not None:
            readers[number].append(sequence)
    most = max(len(some) for some in readers)
    nowhere = len(segments) * most
    positions = [nowhere if spot is None else spot[0] * most + spot[1] for spot in spots]
    return PrefixView(
        level,
        readers=torch.tensor([some + [0] * (most - len(some)) for some in readers], device=device),
        positions=torch.tensor(positions, device=device),
        complete=None not in spots,
        in_order=[sequence for some in readers for sequence in some] == list(range(len(rows)))
        and len(rows) == nowhere,
    )


def _find_segment(segments: Sequence[Segment], row: int) -> int | None:
    """Find the segment that each row reads."""
    number = bisect_right(segments, row, key=lambda segment: segment.first_row) - 1
    if number < 0 or row >= segments[number].first_row + segments[number].rows:
        return None
    return number


def _find_segments_read(segments: Sequence[Segment], rows: Sequence[int]) -> list[int]:
    found = {_find_segment(segments, row) for row in rows}
    return sorted(number for number in found if number is not None)


def _select_nearby_segments(read: CachedSegments, rows: Sequence[int]) -> CachedSegments:
    """Return the part of a level from the first to the last segment that these rows read."""
    numbers = _find_segments_read(read[0], rows)
    if not numbers:
        return [], read[1]
    near = slice(numbers[0], numbers[-1] + 1)
    return _select_segments(read, list(range(len(read[0]))[near]), near)


def _select_read_segments(read: CachedSegments, rows: Sequence[int]) -> CachedSegments:
    """Return the segments that these rows read, as a copy unless these are all segments."""
    numbers = _find_segments_read(read[0], rows)
    if len(numbers) == len(read[0]) or not numbers:
        return (read[0] if numbers else []), read[1]
    return _select_segments(read, numbers, torch.tensor(numbers, device=read[1].keys[0].device))


def _select_segments(
    read: CachedSegments, numbers: Sequence[int], index: slice | Tensor
) -> CachedSegments:
    segments, level = read
    lengths = [level.lengths[number] for number in numbers]
    longest = max(lengths)
    part = CachedLevel(
        keys=[layer[index][:, :, :longest] for layer in level.keys],
        values=[layer[index][:, :, :longest] for layer in level.values],
        starts=[level.starts[number] for number in numbers],
        lengths=lengths,
    )
    return [segments[number] for number in numbers], part
