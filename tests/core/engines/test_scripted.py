"""The scripted engine answers what its caller wrote, and nothing by chance."""

import pytest

from meta_reward_core.engines.base import (
    Completion,
    Conversation,
    Engine,
    SamplingParams,
    pack_token_ids,
)
from meta_reward_core.engines.scripted import Reply, ScriptedEngine
from meta_reward_core.errors import EngineError

SAMPLING = SamplingParams(temperature=0.8, top_p=0.95, max_new_tokens=3)
HELLO: Conversation = [{"role": "user", "content": "hello"}]
BYE: Conversation = [{"role": "user", "content": "bye"}]


def echo(conversation: Conversation, index: int, seed: int) -> Reply:
    return f"{conversation[-1]['content']} {index} {seed}"


def test_each_sample_of_each_conversation_is_asked_for() -> None:
    engine: Engine = ScriptedEngine(echo)
    sampled = engine.sample([HELLO, BYE], 2, sampling=SAMPLING, seed=9)
    assert [[c.text for c in row] for row in sampled] == [
        ["hello 0 9", "hello 1 9"],
        ["bye 0 9", "bye 1 9"],
    ]
    assert sampled[0][0] == Completion(text="hello 0 9", tokens=3, finish_reason="stop")


def test_a_long_reply_is_cut_off_at_the_token_limit() -> None:
    engine = ScriptedEngine(lambda *_: "one two three four")
    [[completion]] = engine.sample([HELLO], 1, sampling=SAMPLING, seed=0)
    assert completion == Completion(text="one two three", tokens=3, finish_reason="length")


def test_the_script_may_say_why_a_reply_ended() -> None:
    engine = ScriptedEngine(lambda *_: ("one", "length"))
    [[completion]] = engine.sample([HELLO], 1, sampling=SAMPLING, seed=0)
    assert completion == Completion(text="one", tokens=1, finish_reason="length")


def test_the_script_may_refuse_with_a_reason() -> None:
    engine = ScriptedEngine(lambda *_: ("too long", "refused"))
    [[completion]] = engine.sample([HELLO], 1, sampling=SAMPLING, seed=0)
    assert completion == Completion("", 0, "refused", refusal="too long")


def test_the_script_may_give_a_whole_completion() -> None:
    given = Completion("one", 2, "length", token_ids=pack_token_ids([7, 8]))
    [[completion]] = ScriptedEngine(lambda *_: given).sample([HELLO], 1, sampling=SAMPLING, seed=0)
    assert completion is given


def test_progress_counts_completions_and_tokens() -> None:
    seen: list[tuple[int, int]] = []
    engine = ScriptedEngine(echo)
    engine.sample([HELLO, BYE], 2, sampling=SAMPLING, seed=0, progress=lambda *at: seen.append(at))
    assert seen == [(2, 6), (4, 12)]
    assert engine.calls == 4


def test_a_closed_engine_refuses() -> None:
    engine = ScriptedEngine(echo)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.sample([HELLO], 1, sampling=SAMPLING, seed=0)
