"""The embedded engine: a Hugging Face causal model, with our own loop or `generate`.

The default on a GPU is transformers' own `generate`, because our loop waits for Python there. The
default on a CPU is our loop: `generate` reads a prompt once per sample, and its keys again for each
token; the loop reads the common prefix of all prompts of a call once, and its keys once per
decoding step. The recipe can override the default. Batches are planned from shapes alone, so that
the same call samples the same tokens wherever the number of threads is the same. Only the end
tokens are read from the generation config: the recipe defines the sampling.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from meta_reward_core.engines.base import (
    Completion,
    Conversation,
    ForcedLine,
    ForcedLineReading,
    ForcedLineRequest,
    Progress,
    SamplingParams,
    pack_token_ids,
)
from meta_reward_core.engines.decoding import DecodingBatch, decode
from meta_reward_core.engines.forced_lines import (
    ForcedLineDecoder,
    LogProbabilities,
    NextTokens,
)
from meta_reward_core.engines.generate_decoding import generate_rows
from meta_reward_core.engines.padded_batch import PaddedBatch
from meta_reward_core.engines.prefix_batching import (
    PromptBatch,
    plan_padded_batches,
    plan_shared_batches,
)
from meta_reward_core.engines.prefix_sharing_probe import enable_prefix_sharing
from meta_reward_core.engines.prompt_encoder import PromptEncoder, TokenIds
from meta_reward_core.engines.shared_prefix_batch import SharedPrefixBatch
from meta_reward_core.errors import EngineError, ModelFolderError
from meta_reward_core.models.chat import ChatOptions
from meta_reward_core.models.library_errors import translate_library_errors
from meta_reward_core.recipes.schema import Decoding
from meta_reward_core.system.third_party_logging import silence_libraries

STEPS_BETWEEN_REPORTS = 16

RowReader = Callable[[PreTrainedModel, PromptBatch], DecodingBatch]


class BatchPlanner(Protocol):
    """A plan of `prefix_batching`."""

    def __call__(
        self, wanted: Mapping[TokenIds, int], *, max_new_tokens: int, max_batch_tokens: int
    ) -> list[PromptBatch]:
        """Plan batches."""


def load_transformers_engine(
    model_folder: Path,
    *,
    dtype: str,
    device: str,
    threads: int | None,
    max_batch_tokens: int,
    max_model_len: int | None,
    decoding: Decoding = "auto",
) -> "TransformersEngine":
    """Load safetensors weights of a local folder; no network, no code from the folder.

    Args:
        model_folder: a folder that `check_model_folder` has passed.
        dtype: a torch dtype by name, or "auto" for the dtype in which the weights are stored.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...
        threads: number of CPU threads, or None to leave it unchanged; with the same number, the
            tokens are the same.
        max_batch_tokens: maximum number of tokens in memory at a time, where a shared token counts
            once; if prefixes cannot be shared, maximum of rows x (longest prompt + max_new_tokens).
        max_model_len: a lower limit than the model's own, in tokens, or None.
        decoding: "auto" for `generate` on a GPU and for the loop with shared prefixes elsewhere.

    Raises:
        ModelFolderError: the folder cannot be loaded.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        with (
            translate_library_errors(ModelFolderError, folder=model_folder),
            silence_libraries(),
        ):
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
        max_batch_tokens=max_batch_tokens,
        max_model_len=_compute_token_limit(model, max_model_len),
        decoding=decoding,
    )


def choose_decoding(decoding: Decoding, device: str) -> Decoding:
    """Choose the decoding of an engine on a kind of device, such as cpu or cuda."""
    if decoding != "auto":
        return decoding
    return "generate" if device == "cuda" else "shared_prefixes"


class TransformersEngine:
    """A loaded model that generates completions; created by `load_transformers_engine`."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_batch_tokens: int,
        max_model_len: int | None,
        decoding: Decoding = "auto",
    ) -> None:
        """Put `model` into evaluation mode and test whether it can share prefixes."""
        self._model: PreTrainedModel | None = model.eval()
        self._generates = choose_decoding(decoding, model.device.type) == "generate"
        self._shares = not self._generates and enable_prefix_sharing(model)
        self._tokenizer = tokenizer
        self._encoder = PromptEncoder(tokenizer)
        self._max_batch_tokens = max_batch_tokens
        self._max_model_len = max_model_len
        self._end_ids = _find_end_token_ids(model, tokenizer)
        if self._generates:
            model.generation_config = GenerationConfig()

    def sample(
        self,
        conversations: Sequence[Conversation],
        n: int,
        *,
        sampling: SamplingParams,
        seed: int,
        progress: Progress | None = None,
    ) -> list[list[Completion]]:
        """Sample `n` completions for each conversation. See `Engine.sample`.

        A prompt is refused unless it AND `max_new_tokens` fit into the model: a reply cut off by
        the model's limit would look like a reply cut off by the recipe's limit.
        """
        encoded = self._encoder.encode_or_refuse(conversations, sampling.chat_options)
        prompts = [self._refuse_if_too_long(item, sampling.max_new_tokens) for item in encoded]
        wanted: dict[TokenIds, int] = {}
        for prompt in prompts:
            if not isinstance(prompt, Completion):
                wanted[prompt] = wanted.get(prompt, 0) + n
        tally = _ProgressCounter(
            progress, completions=n * sum(isinstance(prompt, Completion) for prompt in prompts)
        )
        sampled = self._draw(wanted, sampling, seed=seed, tally=tally)
        return [
            [prompt] * n
            if isinstance(prompt, Completion)
            else [next(sampled[prompt]) for _ in range(n)]
            for prompt in prompts
        ]

    def read_forced_lines(
        self, requests: Sequence[ForcedLineRequest], line: ForcedLine, *, options: ChatOptions
    ) -> list[ForcedLineReading | None]:
        """Read the values of a line after each completion. See `ForcedLineReader`.

        Common prefixes of prompts and completions are read once, as in `sample`.
        """
        decoder = ForcedLineDecoder(
            self._tokenizer,
            lambda conversations: self._encoder.encode(conversations, options),
            self._read_next,
            self._end_ids,
            self._max_model_len,
        )
        return decoder.read(requests, line)

    @torch.inference_mode()
    def _read_next(self, wanted: NextTokens) -> LogProbabilities:
        """Log-probabilities of tokens after each sequence, batch by batch."""
        if self._model is None:
            raise EngineError("This engine is closed: load the model again.")
        plan, make_rows = self._choose_batching()
        found: dict[tuple[TokenIds, int], float] = {}
        once = dict.fromkeys(wanted, 1)
        for batch in plan(once, max_new_tokens=1, max_batch_tokens=self._max_batch_tokens):
            try:
                logits = make_rows(self._model, batch).logits
            except torch.OutOfMemoryError as error:
                raise EngineError(f"Out of memory: lower max_batch_tokens. {error}") from error
            rows = logits.float().log_softmax(-1)
            for number, sequence in enumerate(batch.prompts):
                for token in wanted[sequence]:
                    found[sequence, token] = float(rows[number, token])
        return found

    def close(self) -> None:
        """Free the model's memory, including that on an accelerator."""
        self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _choose_batching(self) -> "tuple[BatchPlanner, RowReader]":
        """Choose how rows are batched and read: with shared prefixes if the model supports it."""
        if self._shares:
            return plan_shared_batches, SharedPrefixBatch
        return plan_padded_batches, PaddedBatch

    def _refuse_if_too_long(
        self, prompt: TokenIds | Completion, max_new_tokens: int
    ) -> TokenIds | Completion:
        if isinstance(prompt, Completion):
            return prompt
        limit = self._max_model_len
        if limit is None or len(prompt) + max_new_tokens <= limit:
            return prompt
        reason = (
            f"the prompt of {len(prompt)} tokens and a reply of up to {max_new_tokens} "
            f"exceed the model's limit of {limit} tokens"
        )
        return Completion(text="", tokens=0, finish_reason="refused", refusal=reason)

    def _draw(
        self,
        wanted: Mapping[TokenIds, int],
        sampling: SamplingParams,
        *,
        seed: int,
        tally: "_ProgressCounter",
    ) -> dict[TokenIds, Iterator[Completion]]:
        """Yield all completions of each distinct prompt, batch by batch."""
        if self._model is None:
            raise EngineError("This engine is closed: load the model again.")
        sampled: dict[TokenIds, list[Completion]] = {prompt: [] for prompt in wanted}
        opened = self._encoder.find_opened_reasoning(sampling.chat_options) if wanted else ""
        plan = plan_padded_batches if self._generates else self._choose_batching()[0]
        batches = plan(
            wanted, max_new_tokens=sampling.max_new_tokens, max_batch_tokens=self._max_batch_tokens
        )
        for index, batch in enumerate(batches):
            try:
                rows = self._decode(self._model, batch, sampling, _derive_seed(seed, index), tally)
            except torch.OutOfMemoryError as error:
                raise EngineError(f"Out of memory: lower max_batch_tokens. {error}") from error
            owners = (p for p, n in zip(batch.prompts, batch.copies, strict=True) for _ in range(n))
            for prompt, completion in zip(owners, self._read(rows, opened), strict=True):
                sampled[prompt].append(completion)
            tally.record_completions(len(rows))
        return {prompt: iter(completions) for prompt, completions in sampled.items()}

    def _decode(
        self,
        model: PreTrainedModel,
        batch: PromptBatch,
        sampling: SamplingParams,
        seed: int,
        tally: "_ProgressCounter",
    ) -> list[list[int]]:
        if self._generates:
            return generate_rows(
                model,
                batch,
                end_ids=self._end_ids,
                sampling=sampling,
                seed=seed,
                on_step=tally.record_step,
            )
        _, make_rows = self._choose_batching()
        return decode(
            partial(make_rows, model, batch),
            end_ids=self._end_ids,
            sampling=sampling,
            # Always the generator of the CPU, so that a GPU uses the same random numbers.
            generator=torch.Generator().manual_seed(seed),
            on_step=tally.record_step,
        )

    def _read(self, rows: list[list[int]], opened: str) -> list[Completion]:
        """Decode generated token ids; a row without an end token was cut off.

        Args:
            opened: the reasoning block that the generation prompt opens.
        """
        texts = self._tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [
            Completion(
                text=opened + text,
                tokens=len(row),
                finish_reason="stop" if row[-1] in self._end_ids else "length",
                token_ids=pack_token_ids(row),
            )
            for text, row in zip(texts, rows, strict=True)
        ]


class _ProgressCounter:
    """Counts completed work and reports it to the caller."""

    def __init__(self, progress: Progress | None, *, completions: int) -> None:
        self._progress = progress
        self._completions = completions
        self._tokens = 0

    def record_step(self, step: int, tokens: int) -> None:
        self._tokens += tokens
        if step % STEPS_BETWEEN_REPORTS == 0:
            self._report()

    def record_completions(self, count: int) -> None:
        self._completions += count
        self._report()

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._completions, self._tokens)


def _derive_seed(seed: int, batch_index: int) -> int:
    """Seed of one batch."""
    digest = hashlib.sha256(f"{seed}:{batch_index}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _find_end_token_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, ...]:
    """Ids that end a reply, by the generation config and by the tokenizer."""
    named = model.generation_config.eos_token_id if model.generation_config else None
    ends = set(named) if isinstance(named, list) else {named}
    ids = sorted(end for end in {*ends, tokenizer.eos_token_id} if end is not None)
    if not ids:
        raise ModelFolderError("The model defines no end token: its replies would never stop.")
    return tuple(ids)


def _compute_token_limit(model: PreTrainedModel, asked: int | None) -> int | None:
    """Return the smaller of the model's limit and the requested limit, in tokens."""
    own = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    limits = [limit for limit in (own, asked) if limit]
    return min(limits) if limits else None
