"""An engine that caches completions: interrupted calls resume, and nothing is generated twice.

A shard of completions is a function of the engine, the conversations, the number of completions,
the sampling parameters and the seed. The hash of these is its file name. If the file exists, the
shard is read, no matter which process generated it; otherwise the shard is generated. The wrapped
engine is loaded at the first missing shard, and is not loaded if no shard is missing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from meta_reward_core.engines.base import (
    Completion,
    Conversation,
    Engine,
    ForcedLine,
    ForcedLineReading,
    ForcedLineRequest,
    Progress,
    SamplingParams,
    TokenChoice,
    offset_progress,
    pack_token_ids,
    require_forced_lines,
)
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.errors import EngineError
from meta_reward_core.models.chat import ChatOptions
from meta_reward_core.storage.artifact_store import ArtifactStore, encode_canonical_json, hash_json
from meta_reward_core.system.untrusted_input import parse_json

_FORMAT: Final = 1
_READINGS_PER_SHARD: Final = 128
"""Forced lines per stored file; an interruption loses at most this number."""


class CachingEngine:
    """Samples with another engine, and stores the completions in a folder.

    Args:
        load: loads the wrapped engine.
        identity: everything that distinguishes the completions of this engine from those of other
            engines: name, hash of the weights, settings.
        store: store for the shards.
        shard_conversations: conversations per shard; an interruption loses at most this number.
            None: all conversations of a call, so that the completions are exactly those of the
            wrapped engine.
        keeps_token_ids: whether to store token ids, for completions that may be used for training.
            Completions stored without ids are sampled again when ids are required.
        chat_date: today's date for chat templates, if a call does not specify one.
    """

    def __init__(
        self,
        load: Callable[[], Engine],
        *,
        identity: Mapping[str, Any],
        store: ArtifactStore,
        shard_conversations: int | None = 64,
        keeps_token_ids: bool = False,
        chat_date: str | None = None,
    ) -> None:
        self._load = load
        self._identity = dict(identity)
        self._store = store
        self._shard_conversations = shard_conversations
        self._keeps_token_ids = keeps_token_ids
        self._chat_date = chat_date
        self._engine: Engine | None = None
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
        """Sample `n` completions for each conversation, or read cached completions.

        See `Engine.sample`. Each shard has its own seed, so the completions depend on the shard
        size.
        """
        if self._closed:
            raise EngineError("This engine is closed: create a new engine.")
        sampling = replace(sampling, chat_date=sampling.chat_date or self._chat_date)
        sampled: list[list[Completion]] = []
        tokens = 0
        for shard, own_seed in self._split_into_shards(list(conversations), seed):
            tell = offset_progress(progress, len(sampled) * n, tokens)
            sampled += self._sample_shard(shard, n, sampling=sampling, seed=own_seed, progress=tell)
            tokens += sum(one.tokens for row in sampled[-len(shard) :] for one in row)
            if progress is not None:
                progress(len(sampled) * n, tokens)
        return sampled

    def read_forced_lines(
        self, requests: Sequence[ForcedLineRequest], line: ForcedLine, *, options: ChatOptions
    ) -> list[ForcedLineReading | None]:
        """Read forced lines with the wrapped engine, or from the cache.

        Raises:
            EngineError: the wrapped engine does not support forced lines.
        """
        if self._closed:
            raise EngineError("This engine is closed: create a new engine.")
        options = replace(options, date=options.date or self._chat_date)
        size = _READINGS_PER_SHARD if self._shard_conversations else max(1, len(requests))
        readings: list[ForcedLineReading | None] = []
        for at in range(0, len(requests), size):
            readings += self._read_shard_lines(requests[at : at + size], line, options=options)
        return readings

    def _read_shard_lines(
        self, requests: Sequence[ForcedLineRequest], line: ForcedLine, *, options: ChatOptions
    ) -> list[ForcedLineReading | None]:
        key = hash_json(
            {
                "format": _FORMAT,
                "engine": self._identity,
                "line": asdict(line),
                "options": asdict(options),
                "requests": [
                    [one.conversation, _to_json(one.completion), one.kept_chars] for one in requests
                ],
            }
        )
        name = f"{key}.json"
        if (kept := self._read_cached(name, "readings")) is not None:
            return [_parse_reading(one) for one in kept]
        if self._engine is None:
            self._engine = self._load()
        found = require_forced_lines(self._engine).read_forced_lines(
            requests, line, options=options
        )
        self._store_rows(name, "readings", [_serialize_reading(one) for one in found])
        return found

    def _split_into_shards(
        self, conversations: list[Conversation], seed: int
    ) -> Iterator[tuple[list[Conversation], int]]:
        """Split conversations into shards, each with its seed."""
        size = self._shard_conversations
        if size is None:
            yield conversations, seed
            return
        for number, at in enumerate(range(0, len(conversations), size)):
            yield conversations[at : at + size], derive_seed(seed, "shard", number)

    def close(self) -> None:
        """Free the model, if one was loaded; the engine cannot sample afterwards."""
        self._closed = True
        self.unload()

    def unload(self) -> None:
        """Free the model until the next sampling: the next model needs its memory."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _sample_shard(
        self,
        shard: list[Conversation],
        n: int,
        *,
        sampling: SamplingParams,
        seed: int,
        progress: Progress | None,
    ) -> list[list[Completion]]:
        key = hash_json(
            {
                "format": _FORMAT,
                "engine": self._identity,
                "conversations": shard,
                "n": n,
                "sampling": sampling.to_json(),
                "seed": seed,
                **({"token_ids": True} if self._keeps_token_ids else {}),
            }
        )
        name = f"{key}.json"
        if (kept := self._read_cached(name, "completions")) is not None:
            return [[_from_json(one) for one in row] for row in kept]
        if self._engine is None:
            self._engine = self._load()
        sampled = self._engine.sample(shard, n, sampling=sampling, seed=seed, progress=progress)
        if not self._keeps_token_ids:
            sampled = [
                [replace(completion, token_ids=None) for completion in row] for row in sampled
            ]
        rows = [[_to_json(completion) for completion in row] for row in sampled]
        if self._store_rows(name, "completions", rows):
            return sampled
        # Read the stored file: another process may have written it first, with other texts.
        kept = self._read_cached(name, "completions")
        return sampled if kept is None else [[_from_json(one) for one in row] for row in kept]

    def _store_rows(self, name: str, kind: str, rows: list[Any]) -> bool:
        """Store rows with their hash; False if the file already exists."""
        content = encode_canonical_json({"sha256": hash_json(rows), kind: rows})
        return self._store.put_if_absent(name, content)

    def _read_cached(self, name: str, kind: str) -> list[Any] | None:
        """Read the rows of a file if it exists and is intact; a damaged file is removed."""
        if not self._store.exists(name):
            return None
        try:
            found = parse_json(self._store.read(name), leave_scalars=True)
            if hash_json(found[kind]) == found["sha256"]:
                rows: list[Any] = found[kind]
                return rows
        except (ValueError, KeyError, TypeError):
            pass
        self._store.delete(name)
        return None


def _to_json(completion: Completion) -> dict[str, Any]:
    values = asdict(completion)
    if completion.token_ids is not None:
        values["token_ids"] = completion.token_ids.tolist()
    return {name: value for name, value in values.items() if value is not None}


def _from_json(values: Mapping[str, Any]) -> Completion:
    read = dict(values)
    if "choices" in values:
        read["choices"] = tuple(
            TokenChoice(one["text"], tuple((text, value) for text, value in one["alternatives"]))
            for one in values["choices"]
        )
    if "token_ids" in values:
        read["token_ids"] = pack_token_ids(values["token_ids"])
    return Completion(**read)


def _serialize_reading(reading: ForcedLineReading | None) -> dict[str, Any] | None:
    if reading is None:
        return None
    return {
        **asdict(reading),
        "token_ids": reading.token_ids.tolist(),
        "value_ids": [ids.tolist() for ids in reading.value_ids],
    }


def _parse_reading(values: Mapping[str, Any] | None) -> ForcedLineReading | None:
    if values is None:
        return None
    read = {
        **values,
        "log_probabilities": tuple(values["log_probabilities"]),
        "token_ids": pack_token_ids(values["token_ids"]),
        "value_ids": tuple(pack_token_ids(ids) for ids in values["value_ids"]),
    }
    return ForcedLineReading(**read)
