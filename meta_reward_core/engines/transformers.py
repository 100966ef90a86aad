"""The embedded engine: a Hugging Face causal model decoded by a loop of our own.

`generate` prefills a prompt once per sample; here each distinct prompt is prefilled once and its
cache is repeated for the samples. What a batch holds is planned from shapes alone, so that the
same call draws the same tokens wherever the number of threads is the same. Of the generation
config only the end tokens are read: how tokens are drawn is the recipe's matter.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from meta_reward_core.engines.base import Completion, Conversation, Progress, Sampling
from meta_reward_core.engines.rendering import PromptEncoder, TokenIds
from meta_reward_core.errors import EngineError, ModelFolderError
from meta_reward_core.quiet import quiet_libraries

STEPS_BETWEEN_REPORTS = 16
# Dropping finished rows copies the cache: worth it once a quarter of the rows is idle.
BUSY_SHARE = 0.75
# Cache slots reserved ahead, so that a new token is written and not concatenated.
RESERVED_TOKENS = 64
# Nucleus sampling sorts this many tokens first, and the whole vocabulary only where it must.
SHORTLIST = 1024


def load_transformers_engine(
    model_folder: Path,
    *,
    dtype: str,
    device: str,
    threads: int | None,
    batch_tokens: int,
    max_model_tokens: int | None,
) -> "TransformersEngine":
    """Load safetensors weights of a local folder; no network, no code from the folder.

    Args:
        model_folder: a folder that `check_model_folder` has passed.
        dtype: a torch dtype by name, or "auto" for the one the weights are stored in.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", ...
        threads: threads of the CPU, or None to leave them; the same number gives the same tokens.
        batch_tokens: bound on rows x (longest prompt + max_new_tokens) decoded together.
        max_model_tokens: a limit below the model's own, or None.

    Raises:
        ModelFolderError: the folder cannot be loaded.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        with quiet_libraries():
            tokenizer = AutoTokenizer.from_pretrained(
                model_folder, local_files_only=True, trust_remote_code=False
            )
            model: Any = AutoModelForCausalLM.from_pretrained(
                model_folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=dtype,
            )
    except (OSError, ValueError, KeyError) as error:
        raise ModelFolderError(f"{model_folder} cannot be loaded as a model: {error}") from error
    return TransformersEngine(
        model.to(place),
        tokenizer,
        batch_tokens=batch_tokens,
        max_model_tokens=_token_limit(model, max_model_tokens),
    )


class TransformersEngine:
    """A loaded model that draws completions; made by `load_transformers_engine`."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int,
        max_model_tokens: int | None,
    ) -> None:
        """Put `model` into evaluation mode and keep it."""
        self._model: PreTrainedModel | None = model.eval()
        self._tokenizer = tokenizer
        self._encoder = PromptEncoder(tokenizer)
        self._batch_tokens = batch_tokens
        self._max_model_tokens = max_model_tokens
        self._end_ids = _end_token_ids(model, tokenizer)

    def sample(
        self,
        conversations: Sequence[Conversation],
        n: int,
        *,
        sampling: Sampling,
        seed: int,
        progress: Progress | None = None,
    ) -> list[list[Completion]]:
        """Draw `n` completions for each conversation. See `Engine.sample`.

        A prompt is refused unless it AND `max_new_tokens` fit into the model: a reply cut off by
        the model's own limit would pass for one cut off by the recipe's.
        """
        prompts = self._encoder.encode(conversations)
        refusals = [self._refusal(len(prompt), sampling.max_new_tokens) for prompt in prompts]
        wanted: dict[TokenIds, int] = {}
        for prompt, refusal in zip(prompts, refusals, strict=True):
            if refusal is None:
                wanted[prompt] = wanted.get(prompt, 0) + n
        tally = _Tally(progress, completions=n * sum(item is not None for item in refusals))
        drawn = self._draw(wanted, sampling, seed=seed, tally=tally)
        return [
            [refusal] * n if refusal else [next(drawn[prompt]) for _ in range(n)]
            for prompt, refusal in zip(prompts, refusals, strict=True)
        ]

    def close(self) -> None:
        """Free the model's memory, on an accelerator too."""
        self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _refusal(self, prompt_tokens: int, max_new_tokens: int) -> Completion | None:
        limit = self._max_model_tokens
        if limit is None or prompt_tokens + max_new_tokens <= limit:
            return None
        reason = (
            f"the prompt of {prompt_tokens} tokens and a reply of up to {max_new_tokens} "
            f"exceed the model's limit of {limit} tokens"
        )
        return Completion(text="", tokens=0, finish_reason="refused", refusal=reason)

    def _draw(
        self, wanted: Mapping[TokenIds, int], sampling: Sampling, *, seed: int, tally: "_Tally"
    ) -> dict[TokenIds, Iterator[Completion]]:
        """All completions of each distinct prompt, batch by batch."""
        if self._model is None:
            raise EngineError("This engine is closed: load the model again.")
        drawn: dict[TokenIds, list[Completion]] = {prompt: [] for prompt in wanted}
        batches = plan_batches(
            wanted, max_new_tokens=sampling.max_new_tokens, batch_tokens=self._batch_tokens
        )
        for index, batch in enumerate(batches):
            try:
                rows = decode(
                    self._model,
                    batch,
                    end_ids=self._end_ids,
                    sampling=sampling,
                    generator=_generator(seed, index),
                    tally=tally,
                )
            except torch.OutOfMemoryError as error:
                raise EngineError(f"Out of memory: lower batch_tokens. {error}") from error
            owners = (p for p, n in zip(batch.prompts, batch.copies, strict=True) for _ in range(n))
            for prompt, completion in zip(owners, self._read(rows), strict=True):
                drawn[prompt].append(completion)
            tally.completions_done(len(rows))
        return {prompt: iter(completions) for prompt, completions in drawn.items()}

    def _read(self, rows: list[list[int]]) -> list[Completion]:
        """Generated token ids as text; a row that holds no end token was cut off."""
        texts = self._tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [
            Completion(
                text=text,
                tokens=len(row),
                finish_reason="stop" if row[-1] in self._end_ids else "length",
            )
            for text, row in zip(texts, rows, strict=True)
        ]


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
    tally: "_Tally",
) -> list[list[int]]:
    """Draw every row of `batch` up to its end token or `max_new_tokens`, token by token."""
    state = prefill(model, batch)
    total, ends = len(state.rows), torch.tensor(end_ids, device=model.device)
    drawn = torch.full((total, sampling.max_new_tokens), end_ids[0], device=model.device)
    going = total
    for step in range(sampling.max_new_tokens):
        tokens = draw_tokens(state.logits, sampling, generator)
        drawn[state.rows, step] = tokens
        tally.tokens_drawn(going, report=step % STEPS_BETWEEN_REPORTS == 0)
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


class _Tally:
    """Counts what is done and tells the caller."""

    def __init__(self, progress: Progress | None, *, completions: int) -> None:
        self._progress = progress
        self._completions = completions
        self._tokens = 0

    def tokens_drawn(self, count: int, *, report: bool) -> None:
        self._tokens += count
        if report:
            self._report()

    def completions_done(self, count: int) -> None:
        self._completions += count
        self._report()

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._completions, self._tokens)


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


def _generator(seed: int, batch_index: int) -> torch.Generator:
    """Randomness of one batch; always the CPU's, so that a GPU draws the same numbers."""
    digest = hashlib.sha256(f"{seed}:{batch_index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids that end a reply, by the generation config and by the tokenizer."""
    named = model.generation_config.eos_token_id if model.generation_config else None
    ends = set(named) if isinstance(named, list) else {named}
    ids = sorted(end for end in {*ends, tokenizer.eos_token_id} if end is not None)
    if not ids:
        raise ModelFolderError("The model names no end token: its replies would never stop.")
    return tuple(ids)


def _token_limit(model: PreTrainedModel, asked: int | None) -> int | None:
    """The smaller one of the model's limit and the one asked for, in tokens."""
    own = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    limits = [limit for limit in (own, asked) if limit]
    return min(limits) if limits else None
