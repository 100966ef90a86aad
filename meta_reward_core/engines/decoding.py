"""Decoding: batches planned from shapes, one prefill per distinct prompt, one loop over tokens.

Knows token ids and a model's cache; knows no text, no conversation and no engine.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from meta_reward_core.engines.base import Sampling
from meta_reward_core.engines.rendering import TokenIds

# Dropping finished rows copies the cache: worth it once a quarter of the rows is idle.
BUSY_SHARE = 0.75
# Cache slots reserved ahead, so that a new token is written and not concatenated.
RESERVED_TOKENS = 64
# Nucleus sampling sorts this many tokens first, and the whole vocabulary only where it must.
SHORTLIST = 1024


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows decoded together: distinct prompts, and how many rows each of them gets."""

    prompts: tuple[TokenIds, ...]
    copies: tuple[int, ...]


def plan_batches(
    wanted: Mapping[TokenIds, int], *, max_new_tokens: int, batch_tokens: int
) -> list[Batch]:
    """Split distinct prompts into batches of at most `batch_tokens`, longest prompts first.

    Longest first, because what does not fit into memory should fail at once. The samples of a
    prompt stay together unless they are more than a whole batch. A batch has at least one row.
    """
    batches: list[Batch] = []
    prompts: list[TokenIds] = []
    copies: list[int] = []
    room = 0
    for prompt in sorted(wanted, key=lambda ids: (-len(ids), ids)):
        missing = wanted[prompt]
        while missing:
            if missing > room:
                if prompts:
                    batches.append(Batch(tuple(prompts), tuple(copies)))
                prompts, copies = [], []
                room = max(1, batch_tokens // (len(prompt) + max_new_tokens))
            taken = min(missing, room)
            prompts.append(prompt)
            copies.append(taken)
            missing -= taken
            room -= taken
    return [*batches, Batch(tuple(prompts), tuple(copies))] if prompts else batches


@dataclass(slots=True)
class Decoding:
    """Where the decoding of a batch stands.

    Attributes:
        cache: keys and values of every row, left-padded.
        mask: 1 where the cache holds a token, 0 on padding; shape (rows, cached tokens).
        positions: position of the next token in each row; shape (rows,).
        logits: of the next token; shape (rows, vocabulary).
        rows: which row of the batch each remaining row is; shape (rows,).
        going: whether a row still waits for its end token; shape (rows,).
    """

    cache: Cache
    mask: Tensor
    positions: Tensor
    logits: Tensor
    rows: Tensor
    going: Tensor


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    batch: Batch,
    *,
    end_ids: Sequence[int],
    sampling: Sampling,
    generator: torch.Generator,
    on_step: Callable[[int, int], None],
) -> list[list[int]]:
    """Draw every row of `batch` up to its end token or `max_new_tokens`, token by token.

    Args:
        on_step: called with the step's number and how many tokens it drew that count.

    Returns:
        Token ids of each row, its end token included: the copies of a prompt side by side.
    """
    state = prefill(model, batch)
    total, ends = len(state.rows), torch.tensor(end_ids, device=model.device)
    drawn = torch.full((total, sampling.max_new_tokens), end_ids[0], device=model.device)
    going = total
    for step in range(sampling.max_new_tokens):
        tokens = draw_tokens(state.logits, sampling, generator)
        drawn[state.rows, step] = tokens
        on_step(step, going)
        state.going &= ~torch.isin(tokens, ends)
        going = int(state.going.sum())
        if going == 0 or step + 1 == sampling.max_new_tokens:
            break
        if going < BUSY_SHARE * len(state.rows):
            tokens = drop_finished(state, tokens)
        advance(model, state, tokens)
    return [_until_end(row, end_ids) for row in drawn.tolist()]


def prefill(model: PreTrainedModel, batch: Batch) -> Decoding:
    """Read each distinct prompt once and repeat what was read for its samples."""
    ids, mask = _left_padded(batch.prompts, device=model.device)
    cache = make_cache(model)
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    copies = torch.tensor(batch.copies, device=model.device)
    source = torch.arange(len(batch.prompts), device=model.device).repeat_interleave(copies)
    _select_rows(cache, source)
    return Decoding(
        cache=cache,
        mask=mask[source],
        positions=mask.sum(-1)[source],
        logits=output.logits[:, -1][source],
        rows=torch.arange(len(source), device=model.device),
        going=torch.ones(len(source), dtype=torch.bool, device=model.device),
    )


def advance(model: PreTrainedModel, state: Decoding, tokens: Tensor) -> None:
    """Feed one token per row; afterwards `state.logits` are those of the token after it."""
    state.mask = torch.cat([state.mask, state.mask.new_ones(len(tokens), 1)], dim=1)
    output = model(
        input_ids=tokens[:, None],
        attention_mask=state.mask,
        position_ids=state.positions[:, None],
        past_key_values=state.cache,
        use_cache=True,
    )
    state.positions = state.positions + 1
    state.logits = output.logits[:, -1]


def drop_finished(state: Decoding, tokens: Tensor) -> Tensor:
    """Take the finished rows out of `state`, and return the tokens of the others."""
    kept = state.going.nonzero()[:, 0]
    _select_rows(state.cache, kept)
    state.mask, state.positions = state.mask[kept], state.positions[kept]
    state.rows, state.going = state.rows[kept], state.going[kept]
    return tokens[kept]


def _select_rows(cache: Cache, rows: Tensor) -> None:
    """Keep these rows of a cache; a row named twice is repeated."""
    cache.reorder_cache(rows)  # type: ignore[arg-type]  # any tensor of int64 does


def draw_tokens(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """One token per row of `logits` (rows, vocabulary), by inversion of the nucleus' CDF.

    The nucleus is the smallest set of most likely tokens whose probability reaches `top_p`.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits.float() / sampling.temperature).softmax(-1)
    reached, ids = _ordered(probabilities, sampling.top_p)
    last = (reached < sampling.top_p).sum(-1, keepdim=True).clamp(max=reached.shape[-1] - 1)
    uniform = torch.rand(len(logits), 1, generator=generator).to(logits.device)
    place = torch.searchsorted(reached, uniform * reached.gather(-1, last), right=True)
    return ids.gather(-1, place.minimum(last))[:, 0]


def _ordered(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Cumulated probabilities from the most likely token on, and the tokens' ids."""
    if probabilities.shape[-1] > SHORTLIST:
        values, ids = probabilities.topk(SHORTLIST, dim=-1)
        reached = values.cumsum(-1)
        if bool((reached[:, -1] >= top_p).all()):
            return reached, ids
    values, ids = probabilities.sort(dim=-1, descending=True, stable=True)
    return values.cumsum(-1), ids


class RoomyLayer(DynamicLayer):
    """A cache layer that writes into reserved room.

    `DynamicLayer` concatenates, which copies all keys and values for each new token: four fifths
    of the decoding time of a small model.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._room: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values of shape (rows, heads, new tokens, width)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old = self.get_seq_length()
        length = old + key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < length:
            keys = _roomy(self.keys, key_states, old)
            self._room = (keys, _roomy(self.values, value_states, old))
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[..., old:length, :] = new
        self.keys, self.values = (room[..., :length, :] for room in self._room)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Select rows; the selection is a copy without room."""
        super().reorder_cache(beam_idx)
        self._room = None


def _roomy(cached: Tensor | None, new: Tensor, old: int) -> Tensor:
    """A tensor with the first `old` tokens of `cached`, room for `new` and for those after it."""
    capacity = old + new.shape[-2] + RESERVED_TOKENS
    room = new.new_empty(*new.shape[:-2], capacity, new.shape[-1])
    if old and cached is not None:
        room[..., :old, :] = cached
    return room


def make_cache(model: PreTrainedModel) -> Cache:
    """An empty cache for `model`; layers with a window or a state keep their own kind."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [RoomyLayer() if type(item) is DynamicLayer else item for item in cache.layers]
    return cache


def _left_padded(prompts: Sequence[TokenIds], *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts as one tensor of ids and its mask, both (prompts, longest prompt)."""
    width = max(len(prompt) for prompt in prompts)
    ids = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _until_end(row: list[int], end_ids: Sequence[int]) -> list[int]:
    """The row up to and with its first end token."""
    stop = next((index for index, token in enumerate(row) if token in end_ids), len(row))
    return row[: stop + 1]
