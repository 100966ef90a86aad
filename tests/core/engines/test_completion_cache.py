"""Completions are kept by what they are functions of."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_reward_core.engines.base import (
    Completion,
    Conversation,
    SamplingParams,
    TokenChoice,
    pack_token_ids,
)
from meta_reward_core.engines.completion_cache import CachingEngine, _from_json, _to_json
from meta_reward_core.engines.scripted import ScriptedEngine
from meta_reward_core.errors import EngineError
from meta_reward_core.storage.artifact_store import ArtifactStore

SAMPLING = SamplingParams(temperature=0.5, top_p=1.0, max_new_tokens=9)


def talks(count: int) -> list[Conversation]:
    return [[{"role": "user", "content": f"say {n}"}] for n in range(count)]


class Counted:
    """An engine that is loaded and asked where somebody counts."""

    def __init__(self, folder: Path, *, identity: str = "m", shard: int | None = 2) -> None:
        self.loads: list[ScriptedEngine] = []
        self.engine = CachingEngine(
            self._load,
            identity={"name": identity},
            store=ArtifactStore(str(folder)),
            shard_conversations=shard,
        )

    def _load(self) -> ScriptedEngine:
        self.loads.append(ScriptedEngine(lambda c, n, seed: f"{c[-1]['content']} {n} {seed}"))
        return self.loads[-1]

    @property
    def calls(self) -> int:
        return sum(engine.calls for engine in self.loads)


def test_what_is_kept_is_not_drawn_again_and_no_model_is_loaded(tmp_path: Path) -> None:
    first, second = Counted(tmp_path), Counted(tmp_path)
    sampled = first.engine.sample(talks(5), 3, sampling=SAMPLING, seed=1)
    assert second.engine.sample(talks(5), 3, sampling=SAMPLING, seed=1) == sampled
    assert (first.calls, second.calls, second.loads) == (15, 0, [])


@pytest.mark.parametrize(
    "identity, count, n, sampling, seed",
    [
        ("other", 4, 1, SAMPLING, 1),
        ("m", 4, 2, SAMPLING, 1),
        ("m", 4, 1, SamplingParams(0.4, 1.0, 9), 1),
        ("m", 4, 1, SamplingParams(0.5, 1.0, 9, alternatives=5), 1),
        ("m", 4, 1, SAMPLING, 2),
    ],
)
def test_whatever_is_asked_otherwise_is_drawn_anew(
    tmp_path: Path, identity: str, count: int, n: int, sampling: SamplingParams, seed: int
) -> None:
    Counted(tmp_path).engine.sample(talks(4), 1, sampling=SAMPLING, seed=1)
    asked = Counted(tmp_path, identity=identity)
    asked.engine.sample(talks(count), n, sampling=sampling, seed=seed)
    assert asked.calls == count * n


def test_only_the_shards_that_changed_are_drawn(tmp_path: Path) -> None:
    """Shards of two: the fifth conversation changes, so only the third shard does."""
    Counted(tmp_path).engine.sample(talks(6), 1, sampling=SAMPLING, seed=1)
    again = Counted(tmp_path)
    again.engine.sample([*talks(4), *talks(2)], 1, sampling=SAMPLING, seed=1)
    assert again.calls == 2


def test_whole_calls_are_the_very_draws_of_the_engine_below(tmp_path: Path) -> None:
    """The script's words hold the seed that it was asked with."""
    plain = ScriptedEngine(lambda c, n, seed: f"{c[-1]['content']} {n} {seed}")
    told: list[tuple[int, int]] = []
    for loads in (1, 0):
        kept = Counted(tmp_path, shard=None)
        sampled = kept.engine.sample(
            talks(5), 3, sampling=SAMPLING, seed=7, progress=lambda *done: told.append(done)
        )
        assert sampled == plain.sample(talks(5), 3, sampling=SAMPLING, seed=7)
        assert len(kept.loads) == loads
    assert told[-1] == (15, sum(one.tokens for row in sampled for one in row))


def test_token_ids_are_kept_where_they_are_asked_for_and_else_not_even_the_first_time(
    tmp_path: Path,
) -> None:
    """A run whose draws were kept must write the tables of one that drew them itself."""
    loads = []

    def load() -> ScriptedEngine:
        loads.append(1)
        given = Completion("one", 2, "stop", token_ids=pack_token_ids([5, 128_009]))
        return ScriptedEngine(lambda *_: given)

    def ids(*, keeps: bool) -> object:
        store = ArtifactStore(str(tmp_path))
        engine = CachingEngine(load, identity={}, store=store, keeps_token_ids=keeps)
        [[completion]] = engine.sample(talks(1), 1, sampling=SAMPLING, seed=1)
        return completion.token_ids

    assert [ids(keeps=False), ids(keeps=False), len(loads)] == [None, None, 1]
    wanted = pack_token_ids([5, 128_009])
    assert [ids(keeps=True), ids(keeps=True), len(loads)] == [wanted, wanted, 2]


def test_a_damaged_shard_is_drawn_again(tmp_path: Path) -> None:
    sampled = Counted(tmp_path).engine.sample(talks(2), 1, sampling=SAMPLING, seed=1)
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text().replace("say 0", "say 9"))
    again = Counted(tmp_path)
    assert again.engine.sample(talks(2), 1, sampling=SAMPLING, seed=1) == sampled
    assert again.calls == 2


def test_progress_goes_on_across_shards(tmp_path: Path) -> None:
    told: list[int] = []
    asked = Counted(tmp_path)
    asked.engine.sample(
        talks(5), 2, sampling=SAMPLING, seed=1, progress=lambda done, _: told.append(done)
    )
    assert told == sorted(told)
    assert told[-1] == 10


def test_a_model_is_freed_and_comes_back_but_not_after_closing(tmp_path: Path) -> None:
    asked = Counted(tmp_path)
    asked.engine.sample(talks(1), 1, sampling=SAMPLING, seed=1)
    asked.engine.unload()
    asked.engine.sample(talks(1), 1, sampling=SAMPLING, seed=2)
    assert len(asked.loads) == 2
    asked.engine.close()
    with pytest.raises(EngineError, match="closed"):
        asked.engine.sample(talks(1), 1, sampling=SAMPLING, seed=2)


@settings(max_examples=30)
@given(
    st.builds(
        Completion,
        text=st.text(),
        tokens=st.integers(0, 9),
        finish_reason=st.sampled_from(["stop", "length", "refused"]),
        refusal=st.none() | st.text(),
        choices=st.none()
        | st.tuples(
            st.builds(
                TokenChoice,
                st.text(),
                st.lists(st.tuples(st.text(), st.floats(-99, 0))).map(tuple),
            )
        ),
        token_ids=st.none() | st.lists(st.integers(0, 2**31 - 1)).map(pack_token_ids),
    )
)
def test_a_completion_is_read_as_it_was_kept(completion: Completion) -> None:
    assert _from_json(_to_json(completion)) == completion
