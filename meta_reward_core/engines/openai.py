"""Completions from any server that speaks the OpenAI chat protocol.

Many requests run concurrently; a request that fails for a temporary reason is sent again after a
growing, jittered delay. The server samples, so the same seed gives the same completions only if the
server guarantees it.
"""

import asyncio
import random
import ssl
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import httpx2
from pydantic import SecretStr

from meta_reward_core.engines.base import (
    Completion,
    Conversation,
    ForcedLine,
    ForcedLineReading,
    ForcedLineRequest,
    Progress,
    SamplingParams,
    TokenChoice,
)
from meta_reward_core.engines.endpoints import WEIGHTS_PLACEHOLDER, Endpoint, find_endpoint
from meta_reward_core.engines.openai_forced_lines import (
    PROBE_LINE,
    PROBE_REPLY,
    ContinuedReply,
    LineTokenizer,
    build_continuation_body,
    check_line,
    find_obstacle,
    read_log_probabilities,
)
from meta_reward_core.engines.openai_protocol import (
    ParsedResponse,
    RejectedRequestError,
    RetryableResponseError,
    build_request_body,
    parse_response,
)
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.errors import EndpointError, EngineError
from meta_reward_core.models.chat import ChatOptions
from meta_reward_core.models.validation import hash_model_folder

MAX_WAIT_SECONDS: Final = 60.0
"""Delay between two attempts, if the server does not request one."""

MAX_RETRY_SECONDS: Final = 600.0
"""A server that requests a longer delay counts as failed."""

MAX_FAILED_SHARE: Final = 0.1
"""Share of the prompts of one call without a usable reply above which the server is tested again.
"""

RATE_LIMIT_FACTOR: Final = 4
"""How many times as many attempts are made if the server only wants fewer requests (429)."""

PLAIN_PROMPT: Final = "Reply with the word OK."
"""Prompt that tests whether a server works after it returned errors for other prompts."""

MAX_RESPONSE_BYTES: Final = 64 * 2**20
_CONNECT_SECONDS: Final = 15.0
_SEED_RANGE: Final = 2**31

_Work = Callable[[Iterator[int]], Coroutine[Any, Any, None]]


def load_endpoint_engine(
    name: str,
    model_folder: Path | None,
    *,
    load_tokenizer: Callable[[], LineTokenizer] | None = None,
) -> "OpenAiEngine":
    """Create the engine of a named endpoint, without any request.

    Args:
        model_folder: folder of the weights that the server must use; None for an external judge.
        load_tokenizer: returns the tokenizer of these weights, for forced lines.

    Raises:
        EndpointError: there is no such endpoint, its key is missing, or its model name does not
            identify the weights although this is required.
    """
    endpoint = find_endpoint(name)
    if model_folder is None:
        if endpoint.follows_weights:
            raise EndpointError(
                f"endpoint {name!r} serves the weights of an experiment and cannot be an "
                "external judge"
            )
        return OpenAiEngine(name, endpoint, model=endpoint.model)
    if not endpoint.follows_weights:
        raise EndpointError(
            f"endpoint {name!r} always uses the model {endpoint.model!r}, which is not the "
            f"trained model: use a model name such as policy-{WEIGHTS_PLACEHOLDER}, or use "
            f"the endpoint as judge.endpoint"
        )
    return OpenAiEngine(
        name,
        endpoint,
        model=endpoint.resolve_model_name(hash_model_folder(model_folder)),
        load_tokenizer=load_tokenizer,
    )


class OpenAiEngine:
    """Engine of one endpoint; created by `load_endpoint_engine`."""

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        *,
        model: str,
        load_tokenizer: Callable[[], LineTokenizer] | None = None,
        first_wait_seconds: float = 0.5,
    ) -> None:
        """Read the endpoint's key, without any request.

        Args:
            name: name of the endpoint in messages.
            model: name of the model on the server.
            load_tokenizer: returns the tokenizer of its weights, for forced lines; None for an
                external judge.
            first_wait_seconds: delay before the second attempt; doubled for each further attempt.
        """
        self._name = name
        self._endpoint = endpoint
        self._model = model
        self._load_tokenizer = load_tokenizer
        self._can_force_lines = False
        self._key = endpoint.read_key()
        self._first_wait_seconds = first_wait_seconds
        self._closed = False

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

        Greedy replies are requested once and repeated. Conversations with the same beginning are
        sent one after another, so that a server with a prefix cache can use it.

        Raises:
            EndpointError: the endpoint, or one of its settings, is wrong.
            EngineError: a request failed in every attempt.
        """
        if self._closed:
            raise EngineError("This engine is closed: create a new engine.")
        wanted = min(n, 1) if sampling.temperature == 0 else n
        sampled = asyncio.run(self._draw(conversations, wanted, sampling, seed, progress))
        return [row * n if len(row) < n else row for row in sampled]

    def read_forced_lines(
        self, requests: Sequence[ForcedLineRequest], line: ForcedLine, *, options: ChatOptions
    ) -> list[ForcedLineReading | None]:
        """Read the values of a line after each completion. See `ForcedLineReader`.

        The first call tests whether the server supports it.

        Raises:
            EndpointError: the server does not support it, or the endpoint is wrong.
            EngineError: the engine is an external judge, a value is a prefix of another, or the
                server failed.
        """
        if self._closed:
            raise EngineError("This engine is closed: create a new engine.")
        if self._load_tokenizer is None:
            raise EngineError(
                f"endpoint {self._name!r} does not serve the model that is trained, and a "
                f"forced readout needs that model's tokens: use a free readout"
            )
        check_line(line)
        tokenizer = self._load_tokenizer()
        texts = tokenizer.list_kept_texts(requests)
        asked = [
            ContinuedReply(request.conversation, text + line.beginning)
            for request, text in zip(requests, texts, strict=True)
        ]
        try:
            values = asyncio.run(self._read_values(asked, line, options))
        except (EndpointError, EngineError) as error:
            raise type(error)(self._redact(f"endpoint {self._name!r}: {error}")) from None
        return tokenizer.make_readings(requests, line, values)

    async def _read_values(
        self, asked: Sequence[ContinuedReply], line: ForcedLine, options: ChatOptions
    ) -> list[tuple[float, ...] | None]:
        """Log-probabilities of the values after each reply; None if the server returns none."""
        found: list[tuple[float, ...] | None] = [None] * len(asked)
        build = partial(build_continuation_body, self._endpoint, model=self._model, options=options)
        async with self._make_client() as client:
            sender = self._make_sender(client, seed=0)
            if not self._can_force_lines:
                await self._require_forced_lines(sender, build)

            async def work(waiting: Iterator[int]) -> None:
                for at in waiting:
                    with suppress(UnusablePromptError, RejectedRequestError):
                        answer = await sender.send(build(asked[at], line))
                        if answer.refusal is None:
                            choices = answer.completions[0].choices
                            found[at] = read_log_probabilities(line.values, choices)

            order = sorted(range(len(asked)), key=lambda at: _list_texts(asked[at].conversation))
            await _run_concurrently(work, order, concurrency=self._endpoint.concurrency)
        return found

    async def _require_forced_lines(
        self, sender: "_RequestSender", build: Callable[..., dict[str, Any]]
    ) -> None:
        """Test whether the server can continue a turn and constrain it.

        Raises:
            EndpointError: the server does not support this.
        """
        try:
            answers = [
                await sender.send(build(PROBE_REPLY, PROBE_LINE, is_continued=is_continued))
                for is_continued in (True, False)
            ]
            obstacle = find_obstacle(*answers)
        except EndpointError as error:
            obstacle = str(error)
        if obstacle is not None:
            raise EndpointError(
                f"the server does not support forced readouts: {obstacle}; use a free readout, "
                "engine.kind: transformers, or a server that supports forced readouts, such as "
                "vLLM"
            )
        self._can_force_lines = True

    def close(self) -> None:
        """Refuse later calls; connections end with each call."""
        self._closed = True

    async def _draw(
        self,
        conversations: Sequence[Conversation],
        n: int,
        sampling: SamplingParams,
        seed: int,
        progress: Progress | None,
    ) -> list[list[Completion]]:
        sampled: list[list[Completion]] = [[] for _ in conversations]
        order = sorted(range(len(sampled)), key=lambda at: _list_texts(conversations[at]))
        tell = _make_progress_counter(progress)
        async with self._make_client() as client:
            caller = self._make_sender(client, seed=seed)
            failures = _Failures(caller, sampling, n, conversations=len(conversations))

            async def work(waiting: Iterator[int]) -> None:
                for at in waiting:
                    try:
                        sampled[at] = await caller.complete(
                            conversations[at], n, sampling=sampling, seed=derive_seed(seed, at)
                        )
                    except (UnusablePromptError, RejectedRequestError) as error:
                        await failures.add(error)
                        sampled[at] = _refuse(f"the server gave no usable reply: {error}", n)
                    tell(sampled[at])

            try:
                await _run_concurrently(work, order, concurrency=self._endpoint.concurrency)
            except (EndpointError, EngineError) as error:
                told = self._redact(f"endpoint {self._name!r}: {error}")
                raise type(error)(told) from None
        return [[self._redact_completion(completion) for completion in row] for row in sampled]

    def _make_sender(self, client: httpx2.AsyncClient, *, seed: int) -> "_RequestSender":
        return _RequestSender(
            client,
            endpoint=self._endpoint,
            model=self._model,
            first_wait_seconds=self._first_wait_seconds,
            rng=random.Random(seed),
        )

    def _make_client(self) -> httpx2.AsyncClient:
        headers = {"User-Agent": "meta-reward", "Accept": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        count = self._endpoint.concurrency
        return httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(self._endpoint.timeout_seconds, connect=_CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=count, max_keepalive_connections=count),
            follow_redirects=False,
            verify=_load_trusted_certificates(),
            trust_env=False,  # neither a proxy nor .netrc may see or replace the key
        )

    def _redact_completion(self, completion: Completion) -> Completion:
        """Return a completion without the key and without token ids of another vocabulary.

        If a server repeats the key, the key must not be stored. An external judge has its own
        tokenizer, so its ids have a different meaning for the trained model.
        """
        refusal, choices = completion.refusal, completion.choices
        token_ids = completion.token_ids if self._endpoint.follows_weights else None
        return replace(
            completion,
            text=self._redact(completion.text),
            refusal=None if refusal is None else self._redact(refusal),
            choices=None if choices is None else tuple(map(self._redact_choice, choices)),
            token_ids=token_ids,
        )

    def _redact_choice(self, choice: TokenChoice) -> TokenChoice:
        alternatives = tuple((self._redact(text), value) for text, value in choice.alternatives)
        return TokenChoice(self._redact(choice.text), alternatives)

    def _redact(self, text: str) -> str:
        return text if self._key is None else _redact_key(text, self._key)


class UnusablePromptError(EngineError):
    """All attempts at a prompt failed, possibly because of the prompt."""


class _Failures:
    """Failed prompts of one call, and whether the prompts or the server are at fault.

    A plain prompt decides: if it is answered under the same settings, the other prompts are at
    fault. It is sent when the first prompt fails, and again when many have failed.
    """

    def __init__(
        self, caller: "_RequestSender", sampling: SamplingParams, n: int, *, conversations: int
    ) -> None:
        self._caller = caller
        self._sampling = sampling
        self._n = n
        self._count = 0
        self._allowed = 0.0
        self._few = conversations * MAX_FAILED_SHARE
        self._asking = asyncio.Lock()

    async def add(self, error: "UnusablePromptError | RejectedRequestError") -> None:
        """Count a failed prompt.

        Raises:
            EndpointError, EngineError: the server, or a setting, is at fault.
        """
        self._count += 1
        async with self._asking:
            if self._count <= self._allowed:
                return
            if not await self._caller.answers_plain_prompt(self._sampling, self._n):
                if isinstance(error, RejectedRequestError):
                    raise error
                raise EngineError(f"{error} (a plain prompt failed too)") from None
            self._allowed = max(self._few, 2.0 * self._count)


def _refuse(refusal: str, n: int) -> list[Completion]:
    return [Completion("", 0, "refused", refusal=refusal)] * n


class _RequestSender:
    """Sends the requests of one `sample` call with retries."""

    def __init__(
        self,
        client: httpx2.AsyncClient,
        *,
        endpoint: Endpoint,
        model: str,
        first_wait_seconds: float,
        rng: random.Random,
    ) -> None:
        self._make_client = client
        self._endpoint = endpoint
        self._model = model
        self._first_wait_seconds = first_wait_seconds
        self._rng = rng
        self._not_before = 0.0

    async def complete(
        self, conversation: Conversation, n: int, *, sampling: SamplingParams, seed: int
    ) -> list[Completion]:
        """Return exactly `n` completions; missing ones are requested again."""
        sampled: list[Completion] = []
        requests = 0
        while len(sampled) < n:
            asked = min(n - len(sampled), self._endpoint.max_choices or n)
            body = build_request_body(
                self._endpoint,
                model=self._model,
                conversation=conversation,
                sampling=sampling,
                n=asked,
                seed=derive_seed(seed, requests) % _SEED_RANGE,
            )
            answer = await self.send(body)
            refusal = answer.refusal or self._find_context_overflow(answer, sampling.max_new_tokens)
            if refusal is not None:
                return _refuse(refusal, n)
            sampled += answer.completions[:asked]
            requests += 1
        return sampled

    def _find_context_overflow(self, answer: ParsedResponse, max_new_tokens: int) -> str | None:
        """Return why a prompt that the server accepted should have been refused."""
        prompt_tokens, limit = answer.prompt_tokens, self._endpoint.context_tokens
        if prompt_tokens is None or limit is None or prompt_tokens + max_new_tokens <= limit:
            return None
        return (
            f"the prompt of {prompt_tokens} tokens and a reply of up to {max_new_tokens} "
            f"exceed the endpoint's limit of {limit} tokens"
        )

    async def answers_plain_prompt(self, sampling: SamplingParams, n: int) -> bool:
        """Whether the server responds to a prompt that is certainly valid, with `n` choices."""
        body = build_request_body(
            self._endpoint,
            model=self._model,
            conversation=[{"role": "user", "content": PLAIN_PROMPT}],
            sampling=sampling,
            n=min(n, self._endpoint.max_choices or n),
            seed=0,
        )
        try:
            return (await self.send(body)).refusal is None
        except (EndpointError, EngineError):
            return False

    async def send(self, body: dict[str, Any]) -> ParsedResponse:
        """Send a request, with up to the maximum number of attempts.

        Raises:
            UnusablePromptError: no attempt succeeded, and at least one failed in a way that this
                prompt may cause, even if a busy server ended the last one.
            EngineError: no attempt succeeded, for other reasons.
        """
        suspicion: RetryableResponseError | None = None
        failures = rate_limits = 0
        while True:
            await self._wait_until_allowed()
            try:
                return await self._send_once(body)
            except RetryableResponseError as error:
                failures += not error.is_rate_limit
                rate_limits += error.is_rate_limit
                if error.may_be_prompt:
                    suspicion = error
                allowed = self._endpoint.attempts
                if failures >= allowed or rate_limits >= allowed * RATE_LIMIT_FACTOR:
                    kind = EngineError if suspicion is None else UnusablePromptError
                    made = failures + rate_limits
                    raise kind(f"{suspicion or error} (attempt {made})") from None
                await self._wait(failures + rate_limits - 1, error)

    async def _send_once(self, body: dict[str, Any]) -> ParsedResponse:
        """Make one attempt."""
        seconds = self._endpoint.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange(body)
        except (TimeoutError, httpx2.TimeoutException):
            raise RetryableResponseError(
                f"the server did not respond within {seconds:g} seconds"
            ) from None
        except httpx2.InvalidURL as error:
            raise EndpointError(f"base_url is not a valid URL: {error}") from None
        except httpx2.RequestError as error:
            how = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise RetryableResponseError(f"the connection failed ({how})") from None

    async def _exchange(self, body: dict[str, Any]) -> ParsedResponse:
        address = f"{self._endpoint.base_url.rstrip('/')}/chat/completions"
        received = bytearray()
        async with self._make_client.stream("POST", address, json=body) as response:
            async for chunk in response.aiter_bytes():
                received += chunk
                if len(received) > MAX_RESPONSE_BYTES:
                    raise RetryableResponseError(
                        f"the response is larger than {MAX_RESPONSE_BYTES} bytes"
                    )
        return parse_response(
            response.status_code,
            response.headers,
            bytes(received),
            max_new_tokens=body[self._endpoint.limit_field],
        )

    async def _wait(self, attempt: int, error: RetryableResponseError) -> None:
        """Wait with exponential backoff and jitter."""
        asked = error.wait_seconds
        if asked is not None and asked > MAX_RETRY_SECONDS:
            raise EngineError(
                f"{error}; the server asks the client to wait {asked:,.0f} seconds"
            ) from None
        if asked is not None:
            self._not_before = max(self._not_before, _get_loop_time() + asked)
        longest = min(self._first_wait_seconds * 2**attempt, MAX_WAIT_SECONDS)
        await asyncio.sleep(longest * (0.5 + 0.5 * self._rng.random()))

    async def _wait_until_allowed(self) -> None:
        """Wait for a `Retry-After`, which applies to all requests."""
        while (left := self._not_before - _get_loop_time()) > 0:
            await asyncio.sleep(left + self._first_wait_seconds * self._rng.random())


async def _run_concurrently(work: _Work, order: Sequence[int], *, concurrency: int) -> None:
    """Run tasks on several threads; the first failure stops all of them."""
    waiting = iter(order)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(order))):
                group.create_task(work(waiting))
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


def _make_progress_counter(progress: Progress | None) -> Callable[[Sequence[Completion]], None]:
    """Count and report completed requests."""
    done = tokens = 0

    def tell(completions: Sequence[Completion]) -> None:
        nonlocal done, tokens
        done += len(completions)
        tokens += sum(completion.tokens for completion in completions)
        if progress is not None:
            progress(done, tokens)

    return tell


def _list_texts(conversation: Conversation) -> list[str]:
    return [message["content"] for message in conversation]


@cache
def _load_trusted_certificates() -> ssl.SSLContext:
    """Load the system's certificates once: loading takes longer than a short request."""
    return httpx2.create_ssl_context(trust_env=False)


def _redact_key(text: str, key: SecretStr) -> str:
    return text.replace(key.get_secret_value(), "[key]")


def _get_loop_time() -> float:
    return asyncio.get_running_loop().time()
