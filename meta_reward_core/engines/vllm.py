"""vLLM in this process: continuous batching, paged attention, prefix caching.

Prompts are rendered by the encoder of the embedded engine, refused by the same rule, and submitted
in the order of their tokens, so that prompts with the same beginning are adjacent. vLLM's scheduler
runs in this process and not in a child process: killing the process then frees everything, and the
random state can be set before each call, which on a CPU is impossible through the request's seed.
"""

import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from meta_reward_core.engines.base import (
    Completion,
    Conversation,
    ForcedLine,
    ForcedLineReading,
    ForcedLineRequest,
    Progress,
    SamplingParams,
    TokenChoice,
    pack_token_ids,
)
from meta_reward_core.engines.forced_lines import (
    ForcedLineDecoder,
    LogProbabilities,
    NextTokens,
)
from meta_reward_core.engines.prompt_encoder import PromptEncoder, TokenIds, find_end_token_ids
from meta_reward_core.engines.registry import make_vllm_missing_error
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.errors import EngineError, ModelFolderError
from meta_reward_core.models.chat import ChatOptions
from meta_reward_core.models.validation import ADAPTER_FOLDER
from meta_reward_core.system.third_party_logging import silence_libraries
from meta_reward_core.system.untrusted_input import parse_json

MAX_ALTERNATIVES: Final = 20
"""Maximum likely tokens per position that vLLM reports by default."""

_SEED_RANGE: Final = 2**31
_CPU_BLOCK_TOKENS: Final = 128
_MAX_SCORED_TOKENS: Final = 128
"""Maximum tokens whose probabilities one vLLM request can return (`logprob_token_ids`)."""
_ADAPTER_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)
"""Maximum adapter ranks that vLLM supports."""
_ENVIRONMENT: Final = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}


def load_vllm_engine(
    model_folder: Path,
    *,
    dtype: str,
    threads: int | None,
    max_batch_tokens: int,
    max_model_len: int | None,
    max_num_seqs: int,
    tensor_parallel_size: int,
    gpu_memory_utilization: float,
    max_num_batched_tokens: int | None = None,
    kv_cache_dtype: str = "auto",
    quantization: str | None = None,
    base: Path | None = None,
) -> "VllmEngine":
    """Load safetensors weights of a local folder; no network, no code from the folder.

    A process can have one such engine at a time: close it before loading the next.

    Args:
        model_folder: a folder that `check_model_folder` has passed.
        dtype: a torch dtype by name.
        threads: CPU threads, or None to leave their number unchanged.
        max_batch_tokens: capacity of a CPU's cache in tokens.
        max_model_len: a lower limit than the model's own, in tokens, or None.
        max_num_seqs: number of replies decoded at a time.
        tensor_parallel_size: number of devices over which each layer is split.
        gpu_memory_utilization: share of a GPU's memory for weights and cache.
        max_num_batched_tokens: maximum tokens per step; None: vLLM's default for the GPU.
        kv_cache_dtype: dtype of keys and values; "auto" for the dtype of the weights.
        quantization: method that quantizes the weights while loading, or None.
        base: use the weights of this folder and the unmerged adapter inside `model_folder`; None:
            the weights of `model_folder`.

    Raises:
        InputError: vLLM is not installed.
        ModelFolderError: the folder cannot be loaded.
        EngineError: vLLM does not support the model, or the memory is insufficient.
    """
    vllm = _import_vllm()
    if threads is not None:
        torch.set_num_threads(threads)
    tokenizer, config = _read_model_folder(model_folder)
    on_cpu = bool(import_module("vllm.platforms").current_platform.is_cpu())
    cache_tokens = max_batch_tokens + max_num_seqs * _CPU_BLOCK_TOKENS
    adapter = None if base is None else model_folder / ADAPTER_FOLDER
    restore = _guard_threads()
    try:
        with silence_libraries():
            llm = vllm.LLM(
                model=str(base or model_folder),
                dtype=dtype,
                max_model_len=max_model_len,
                max_num_seqs=max_num_seqs,
                tensor_parallel_size=tensor_parallel_size,
                gpu_memory_utilization=gpu_memory_utilization,
                max_num_batched_tokens=max_num_batched_tokens,
                kv_cache_dtype=kv_cache_dtype,
                quantization=quantization,
                kv_cache_memory_bytes=_compute_cache_bytes(config, dtype, cache_tokens)
                if on_cpu
                else None,
                enforce_eager=on_cpu,  # compiling for a CPU takes longer than it saves
                enable_prefix_caching=True,
                generation_config="vllm",
                load_format="safetensors",
                trust_remote_code=False,
                seed=0,
                **_read_adapter_options(adapter),
            )
    except (OSError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        raise EngineError(f"vLLM cannot load {model_folder}: {error}") from error
    return VllmEngine(
        llm,
        tokenizer,
        end_ids=find_end_token_ids(model_folder, config, tokenizer),
        adapter=adapter,
        seeded_requests=tensor_parallel_size > 1,
        on_close=restore,
    )


class VllmEngine:
    """A loaded model that generates completions; created by `load_vllm_engine`."""

    def __init__(
        self,
        llm: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        end_ids: Sequence[int],
        adapter: Path | None,
        seeded_requests: bool,
        on_close: Callable[[], None],
    ) -> None:
        """Store a vLLM `LLM`.

        Args:
            end_ids: tokens that end a reply.
            adapter: the folder of an adapter that every request uses, or None.
            seeded_requests: whether each request has a seed, because other processes sample the
                tokens; otherwise the seed is set in this process.
            on_close: called after the model has been freed.
        """
        self._llm: Any = llm
        self._tokenizer = tokenizer
        self._encoder = PromptEncoder(tokenizer)
        self._end_ids = list(end_ids)
        self._adapter = _make_adapter_request(adapter)
        self._seeded_requests = seeded_requests
        self._on_close = on_close
        self._limit = int(llm.llm_engine.model_config.max_model_len)

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

        A prompt is refused unless it AND `max_new_tokens` fit into the model. Greedy replies are
        generated once and repeated.
        """
        if self._llm is None:
            raise EngineError("This engine is closed: load the model again.")
        encoded = self._encoder.encode_or_refuse(conversations, sampling.chat_options)
        prompts = [self._refuse_if_too_long(item, sampling.max_new_tokens) for item in encoded]
        wanted: dict[TokenIds, int] = {}
        for prompt in prompts:
            if not isinstance(prompt, Completion):
                wanted[prompt] = wanted.get(prompt, 0) + n
        done = n * sum(isinstance(prompt, Completion) for prompt in prompts)
        sampled = self._draw(
            wanted, sampling, seed=seed, tell=_make_progress_counter(progress, done=done)
        )
        return [
            [prompt] * n
            if isinstance(prompt, Completion)
            else [next(sampled[prompt]) for _ in range(n)]
            for prompt in prompts
        ]

    def close(self) -> None:
        """Free the model's memory, on an accelerator too."""
        if self._llm is None:
            return
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        gc.collect()
        import_module("vllm.distributed").cleanup_dist_env_and_memory()
        self._on_close()

    def _refuse_if_too_long(
        self, prompt: TokenIds | Completion, max_new_tokens: int
    ) -> TokenIds | Completion:
        if isinstance(prompt, Completion):
            return prompt
        if len(prompt) + max_new_tokens <= self._limit:
            return prompt
        reason = (
            f"the prompt of {len(prompt)} tokens and a reply of up to {max_new_tokens} "
            f"exceed the model's limit of {self._limit} tokens"
        )
        return Completion(text="", tokens=0, finish_reason="refused", refusal=reason)

    def _draw(
        self,
        wanted: Mapping[TokenIds, int],
        sampling: SamplingParams,
        *,
        seed: int,
        tell: Callable[[Sequence[Completion]], None],
    ) -> dict[TokenIds, Iterator[Completion]]:
        """Generate all completions of each distinct prompt, in an order that groups prefixes."""
        self._reset_state(seed)
        opened = self._encoder.find_opened_reasoning(sampling.chat_options) if wanted else ""
        sampled: dict[TokenIds, Iterator[Completion]] = {}
        prompts = sorted(wanted)
        requests = [
            (prompt, self._make_sampling_params(sampling, wanted[prompt], derive_seed(seed, index)))
            for index, prompt in enumerate(prompts)
        ]
        for index, output in self._iter_outputs(requests):
            completions = self._read(output, wanted[prompts[index]], opened)
            sampled[prompts[index]] = iter(completions)
            tell(completions)
        return sampled

    def _iter_outputs(self, requests: Sequence[tuple[TokenIds, Any]]) -> Iterator[tuple[int, Any]]:
        """Run requests (prompt and parameters); yield the index and the output of each request."""
        engine, as_input = self._llm.llm_engine, import_module("vllm.inputs").tokens_input
        waiting: set[str] = set()
        try:
            for index, (prompt, params) in enumerate(requests):
                engine.add_request(
                    str(index), as_input(list(prompt)), params, lora_request=self._adapter
                )
                waiting.add(str(index))
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if output.finished:
                        waiting.remove(output.request_id)
                        yield int(output.request_id), output
        except torch.OutOfMemoryError as error:
            raise EngineError(f"Out of memory: lower gpu_memory_utilization. {error}") from error
        finally:
            if waiting:
                engine.abort_request(list(waiting))

    def read_forced_lines(
        self, requests: Sequence[ForcedLineRequest], line: ForcedLine, *, options: ChatOptions
    ) -> list[ForcedLineReading | None]:
        """Read the values of a line after each completion. See `ForcedLineReader`.

        For each token position of the values, one request returns the probabilities of the tokens
        at this position only. Common prefixes of prompts and completions are read once, through the
        prefix cache.
        """
        if self._llm is None:
            raise EngineError("This engine is closed: load the model again.")
        decoder = ForcedLineDecoder(
            self._tokenizer,
            lambda conversations: self._encoder.encode(conversations, options),
            self._read_next,
            self._end_ids,
            self._limit,
        )
        return decoder.read(requests, line)

    def _read_next(self, wanted: NextTokens) -> LogProbabilities:
        """Log-probabilities of tokens after each sequence, before temperature and `top_p`."""
        self._reset_state(0)
        parts = [
            (sequence, wanted[sequence][start : start + _MAX_SCORED_TOKENS])
            for sequence in sorted(wanted)
            for start in range(0, len(wanted[sequence]), _MAX_SCORED_TOKENS)
        ]
        params = [(sequence, self._make_scoring_params(tokens)) for sequence, tokens in parts]
        found: dict[tuple[TokenIds, int], float] = {}
        for index, output in self._iter_outputs(params):
            sequence, tokens = parts[index]
            known = output.outputs[0].logprobs[0]
            for token in tokens:
                found[sequence, token] = float(known[token].logprob)
        return found

    @staticmethod
    def _make_scoring_params(tokens: Sequence[int]) -> Any:
        return import_module("vllm").SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprob_token_ids=list(tokens),
            detokenize=False,
            output_kind=import_module("vllm.sampling_params").RequestOutputKind.FINAL_ONLY,
        )

    def _reset_state(self, seed: int) -> None:
        """Set the seed and empty the prefix cache, so that earlier calls have no influence."""
        self._llm.llm_engine.reset_prefix_cache()
        torch.manual_seed(seed)

    def _make_sampling_params(self, sampling: SamplingParams, n: int, seed: int) -> Any:
        return import_module("vllm").SamplingParams(
            n=1 if sampling.temperature == 0 else n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=self._end_ids,
            logprobs=min(sampling.alternatives, MAX_ALTERNATIVES) or None,
            seed=seed % _SEED_RANGE if self._seeded_requests else None,
            detokenize=False,
            output_kind=import_module("vllm.sampling_params").RequestOutputKind.FINAL_ONLY,
        )

    def _read(self, output: Any, n: int, opened: str) -> list[Completion]:
        """Decode generated token ids by sample; a greedy reply is used for all samples.

        Args:
            n: number of requested completions.
            opened: the reasoning block that the generation prompt opens.
        """
        outputs = sorted(output.outputs, key=lambda one: one.index)
        rows = [list(one.token_ids) for one in outputs]
        texts = self._tokenizer.batch_decode(rows, skip_special_tokens=True)
        completions = [
            Completion(
                text=opened + text,
                tokens=len(row),
                finish_reason="stop" if row and row[-1] in self._end_ids else "length",
                choices=self._read_token_choices(row, one.logprobs),
                token_ids=pack_token_ids(row),
            )
            for text, row, one in zip(texts, rows, outputs, strict=True)
        ]
        return completions * n if len(completions) < n else completions

    def _read_token_choices(self, row: Sequence[int], told: Any) -> tuple[TokenChoice, ...] | None:
        """Convert tokens and their alternatives; `told` has an object by token id per position."""
        if told is None:
            return None
        return tuple(
            TokenChoice(
                self._decode_token(token),
                tuple(
                    (self._decode_token(other), float(place[other].logprob))
                    for other in sorted(place, key=lambda known: -place[known].logprob)
                ),
            )
            for token, place in zip(row, told, strict=True)
        )

    def _decode_token(self, token: int) -> str:
        return str(self._tokenizer.decode([token]))


def _import_vllm() -> Any:
    """Import vLLM with the settings that it reads during import."""
    os.environ.update(_ENVIRONMENT)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        return import_module("vllm")
    except ModuleNotFoundError as error:
        raise make_vllm_missing_error() from error


def _read_adapter_options(adapter: Path | None) -> dict[str, Any]:
    """Return vLLM's settings for an adapter (its rank), needed before the weights are loaded."""
    if adapter is None:
        return {}
    try:
        config = parse_json((adapter / "adapter_config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{adapter} cannot be read as an adapter: {error}") from error
    rank = next((known for known in _ADAPTER_RANKS if known >= config["r"]), config["r"])
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}


def _make_adapter_request(adapter: Path | None) -> Any:
    if adapter is None:
        return None
    return import_module("vllm.lora.request").LoRARequest("adapter", 1, str(adapter.absolute()))


def _read_model_folder(folder: Path) -> tuple[PreTrainedTokenizerBase, Any]:
    try:
        with silence_libraries():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            config = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except (OSError, ValueError, KeyError) as error:
        raise ModelFolderError(f"{folder} cannot be loaded as a model: {error}") from error
    return tokenizer, config


def _compute_cache_bytes(config: Any, dtype: str, tokens: int) -> int:
    """Compute the bytes of the keys and values of a number of tokens, in all layers."""
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    size = torch.empty(0, dtype=getattr(torch, dtype)).element_size()
    return int(tokens * text.num_hidden_layers * 2 * heads * width * size)


def _guard_threads() -> Callable[[], None]:
    """Return a function that undoes vLLM's replacement of `torch.set_num_threads`."""
    original = torch.set_num_threads

    def restore() -> None:
        torch.set_num_threads = original

    return restore


def _make_progress_counter(
    progress: Progress | None, *, done: int
) -> Callable[[Sequence[Completion]], None]:
    """Count and report completed requests, starting from `done`."""
    tokens = 0

    def tell(completions: Sequence[Completion]) -> None:
        nonlocal done, tokens
        done += len(completions)
        tokens += sum(completion.tokens for completion in completions)
        if progress is not None:
            progress(done, tokens)

    return tell
