"""Rows whose common prefixes are held once, and read once for each token that all of them draw.

Prompts are read level by level, each segment after those that precede it. The last token of a
prompt is left to the rows: read once for each of them, it gives the logits of their first token,
and whatever a row reads after it has no padding.
"""

import contextlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from meta_reward_core.engines.caches import roomy_cache, select_rows
from meta_reward_core.engines.prefixes import Batch, Segment, find_levels
from meta_reward_core.engines.shared_attention import EnoughReadError, Level, Prefix, Reading

# Tokens of prompts read in one call of the model: the longest segment times their number.
PREFILL_TOKENS = 4096

ReadLevel = tuple[list[Segment], Level]
"""Segments of a batch, and their keys and values in the same order."""


class SharedRows:
    """The rows of a batch; the model must attend by `attend_shared`."""

    def __init__(self, model: PreTrainedModel, batch: Batch) -> None:
        """Read the prompts; `logits` are those of the first token after them."""
        self._model = model
        self._levels: list[ReadLevel] = []
        for segments in find_levels(batch):
            self._levels.append((segments, _read_segments(model, segments, self._levels)))
        each = list(zip(batch.prompts, batch.copies, strict=True))
        lasts = [(prompt[-1], len(prompt) - 1) for prompt, copies in each for _ in range(copies)]
        tokens, self._positions = torch.tensor(lasts, device=model.device).unbind(1)
        self._last = max(position for _, position in lasts)
        self._rows = list(range(batch.rows))
        self._prefixes = _prefixes(self._levels, self._rows, device=model.device)
        self._cache = roomy_cache()
        self.logits: Tensor
        self.advance(tokens)

    def advance(self, tokens: Tensor) -> None:
        """Feed one token to each row; afterwards `logits` are those of the token after it."""
        positions = self._positions[:, None]
        output = self._model(
            input_ids=tokens[:, None],
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            shared_reading=Reading(self._prefixes, positions, last=self._last),
        )
        self._positions = self._positions + 1
        self._last += 1
        self.logits = output.logits[:, -1]

    def keep(self, kept: Tensor) -> None:
        """Go on with these rows, numbered as they are now; free what no row reads any more."""
        select_rows(self._cache, kept)
        self._positions = self._positions[kept]
        self._rows = [self._rows[number] for number in kept.tolist()]
        self._levels = [_still_read(level, self._rows) for level in self._levels]
        self._levels = [level for level in self._levels if level[0]]
        self._prefixes = _prefixes(self._levels, self._rows, device=kept.device)


def _read_segments(
    model: PreTrainedModel, segments: Sequence[Segment], before: Sequence[ReadLevel]
) -> Level:
    """Keys and values of segments that follow the levels `before` them."""
    lengths = [len(segment.tokens) for segment in segments]
    keys: list[Tensor] = []
    values: list[Tensor] = []
    for numbers in _chunks(lengths):
        read = _read_together(model, [segments[number] for number in numbers], before)
        if len(numbers) == len(segments):
            keys, values = read
            break
        for whole, parts in zip((keys, values), read, strict=True):
            if not whole:
                whole.extend(_room(part, len(segments), max(lengths)) for part in parts)
            for room, part in zip(whole, parts, strict=True):
                room[numbers, :, : part.shape[2]] = part
    return Level(keys, values, [segment.start for segment in segments], lengths)


def _room(part: Tensor, segments: int, longest: int) -> Tensor:
    """Zeros, because what is hidden is multiplied too."""
    return part.new_zeros(segments, part.shape[1], longest, part.shape[3])


def _chunks(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of segments that are read together: of like length, as they are padded to one.

    At most `PREFILL_TOKENS`, padding included; those of a chunk in order.
    """
    chunk: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if chunk and (len(chunk) + 1) * lengths[chunk[0]] > PREFILL_TOKENS:
            yield sorted(chunk)
            chunk = []
        chunk.append(number)
    yield sorted(chunk)


def _read_together(
    model: PreTrainedModel, segments: Sequence[Segment], before: Sequence[ReadLevel]
) -> tuple[list[Tensor], list[Tensor]]:
    """Keys and values by layer; (segments, key heads, longest of them, width)."""
    longest = max(len(segment.tokens) for segment in segments)
    ids = [list(item.tokens) + [0] * (longest - len(item.tokens)) for item in segments]
    starts = torch.tensor([segment.start for segment in segments], device=model.device)
    positions = starts[:, None] + torch.arange(longest, device=model.device)
    readers = [segment.first_row for segment in segments]
    cache = DynamicCache()
    reading = Reading(
        _prefixes([_near(level, readers) for level in before], readers, device=model.device),
        positions,
        last=max(segment.start for segment in segments) + longest - 1,
        enough_at=model.config.get_text_config(decoder=True).num_hidden_layers - 1,
    )
    with contextlib.suppress(EnoughReadError):
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


def _prefixes(
    levels: Sequence[ReadLevel], rows: Sequence[int], *, device: torch.device
) -> list[Prefix]:
    return [_prefix(*level, rows, device=device) for level in levels if level[0]]


def _prefix(
    segments: Sequence[Segment], level: Level, rows: Sequence[int], *, device: torch.device
) -> Prefix:
    """How sequences, each of which stands for a row of the batch, read a level."""
    readers: list[list[int]] = [[] for _ in segments]
    spots: list[tuple[int, int] | None] = []
    for sequence, row in enumerate(rows):
        number = _segment_of(segments, row)
        spots.append(None if number is None else (number, len(readers[number])))
        if number is not None:
            readers[number].append(sequence)
    most = max(len(some) for some in readers)
    nowhere = len(segments) * most
    places = [nowhere if spot is None else spot[0] * most + spot[1] for spot in spots]
    return Prefix(
        level,
        readers=torch.tensor([some + [0] * (most - len(some)) for some in readers], device=device),
        places=torch.tensor(places, device=device),
        complete=None not in spots,
        in_order=[sequence for some in readers for sequence in some] == list(range(len(rows)))
        and len(rows) == nowhere,
    )


def _segment_of(segments: Sequence[Segment], row: int) -> int | None:
    """Which segment a row reads, by its number."""
    number = bisect_right(segments, row, key=lambda segment: segment.first_row) - 1
    if number < 0 or row >= segments[number].first_row + segments[number].rows:
        return None
    return number


def _numbers_read(segments: Sequence[Segment], rows: Sequence[int]) -> list[int]:
    found = {_segment_of(segments, row) for row in rows}
    return sorted(number for number in found if number is not None)


def _near(read: ReadLevel, rows: Sequence[int]) -> ReadLevel:
    """The part of a level that lies between the first and the last segment these rows read."""
    numbers = _numbers_read(read[0], rows)
    if not numbers:
        return [], read[1]
    near = slice(numbers[0], numbers[-1] + 1)
    return _part(read, list(range(len(read[0]))[near]), near)


def _still_read(read: ReadLevel, rows: Sequence[int]) -> ReadLevel:
    """The segments that these rows read, as a copy unless that is all of them."""
    numbers = _numbers_read(read[0], rows)
    if len(numbers) == len(read[0]) or not numbers:
        return (read[0] if numbers else []), read[1]
    return _part(read, numbers, torch.tensor(numbers, device=read[1].keys[0].device))


def _part(read: ReadLevel, numbers: Sequence[int], index: slice | Tensor) -> ReadLevel:
    segments, level = read
    lengths = [level.lengths[number] for number in numbers]
    longest = max(lengths)
    part = Level(
        keys=[layer[index][:, :, :longest] for layer in level.keys],
        values=[layer[index][:, :, :longest] for layer in level.values],
        starts=[level.starts[number] for number in numbers],
        lengths=lengths,
    )
    return [segments[number] for number in numbers], part
