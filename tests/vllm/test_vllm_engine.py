"""vLLM behind the engine protocol: the same promises as the embedded engine's."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest

from meta_reward_core.engines.base import (
    Conversation,
    ForcedLine,
    ForcedLineRequest,
    SamplingParams,
)
from meta_reward_core.engines.transformers import load_transformers_engine
from meta_reward_core.engines.vllm import VllmEngine
from meta_reward_core.method.forced_readout import make_score_line
from meta_reward_core.models.chat import ChatOptions
from meta_reward_core.tasks.toy.task import sample_pool_prompts
from tests.vllm.installation import SEED_MODEL, load_seed_model

WARM = SamplingParams(temperature=0.8, top_p=0.95, max_new_tokens=48)
GREEDY = SamplingParams(temperature=0.0, top_p=1.0, max_new_tokens=48)
CONVERSATIONS: list[Conversation] = [
    [{"role": "user", "content": text}] for text in sample_pool_prompts(24, seed=0)
]


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmEngine]:
    made = load_seed_model()
    yield made
    made.close()


def test_greedy_replies_are_those_of_the_embedded_engine(engine: VllmEngine) -> None:
    embedded = load_transformers_engine(
        SEED_MODEL,
        dtype="float32",
        device="cpu",
        threads=None,
        max_batch_tokens=65_536,
        max_model_len=None,
    )
    expected = embedded.sample(CONVERSATIONS, 2, sampling=GREEDY, seed=0)
    assert engine.sample(CONVERSATIONS, 2, sampling=GREEDY, seed=0) == expected


def test_the_same_seed_gives_the_same_completions_whatever_was_drawn_before(
    engine: VllmEngine,
) -> None:
    first = engine.sample(CONVERSATIONS, 5, sampling=WARM, seed=3)
    other = engine.sample(CONVERSATIONS, 5, sampling=WARM, seed=4)
    assert engine.sample(CONVERSATIONS, 5, sampling=WARM, seed=3) == first
    assert other != first


def test_each_conversation_gets_its_own_completions_in_order(engine: VllmEngine) -> None:
    alone = [engine.sample([one], 1, sampling=GREEDY, seed=0)[0] for one in CONVERSATIONS[:6]]
    assert engine.sample(CONVERSATIONS[:6], 1, sampling=GREEDY, seed=0) == alone
    sampled = engine.sample([CONVERSATIONS[0]] * 3, 4, sampling=WARM, seed=1)
    assert [len(row) for row in sampled] == [4, 4, 4]
    assert sampled[0] != sampled[1], "equal conversations do not share their samples"


def test_the_ids_are_those_of_the_drawn_tokens_with_the_end_token(engine: VllmEngine) -> None:
    short = replace(WARM, max_new_tokens=12)
    sampled = [
        one for row in engine.sample(CONVERSATIONS, 8, sampling=short, seed=5) for one in row
    ]
    assert {one.finish_reason for one in sampled} == {"stop", "length"}
    for completion in sampled:
        assert completion.token_ids is not None
        assert len(completion.token_ids) == completion.tokens
        assert (completion.tokens == 12) or completion.finish_reason == "stop"
    ends = {one.token_ids[-1] for one in sampled if one.token_ids and one.finish_reason == "stop"}
    others = {token for one in sampled for token in (one.token_ids or ())[:-1]}
    assert ends.isdisjoint(others)


def test_tokens_count_the_end_and_say_why_a_reply_ended(engine: VllmEngine) -> None:
    short = SamplingParams(temperature=0.8, top_p=0.95, max_new_tokens=12)
    sampled = [c for row in engine.sample(CONVERSATIONS, 5, sampling=short, seed=1) for c in row]
    assert {c.finish_reason for c in sampled} == {"stop", "length"}
    assert all(c.tokens == 12 for c in sampled if c.finish_reason == "length")
    assert all(c.tokens <= 12 for c in sampled)


def test_alternatives_of_each_token_are_told_where_they_are_asked_for(engine: VllmEngine) -> None:
    """Greedy: the generated token is the likeliest, and what is drawn does not change."""
    asking = replace(GREEDY, alternatives=5)
    plain = engine.sample(CONVERSATIONS[:3], 2, sampling=GREEDY, seed=0)
    told = engine.sample(CONVERSATIONS[:3], 2, sampling=asking, seed=0)
    for one, other in zip(plain, told, strict=True):
        assert [replace(completion, choices=None) for completion in other] == one
        for completion in other:
            assert completion.choices is not None
            assert len(completion.choices) == completion.tokens
            for choice in completion.choices:
                values = [value for _, value in choice.alternatives]
                assert len(values) == 5
                assert choice.alternatives[0][0] == choice.text
                assert values == sorted(values, reverse=True)
                assert 0 < sum(map(math.exp, values)) <= 1.001


def test_a_prompt_that_leaves_too_little_room_is_refused_with_a_reason(engine: VllmEngine) -> None:
    long: Conversation = [{"role": "user", "content": "yes " * 230}]
    sampled = engine.sample([long, CONVERSATIONS[0]], 2, sampling=WARM, seed=1)
    assert [(c.text, c.tokens, c.finish_reason) for c in sampled[0]] == [("", 0, "refused")] * 2
    assert "limit of 256 tokens" in str(sampled[0][0].refusal)
    assert [c.finish_reason for c in sampled[1]] != ["refused"] * 2


def test_progress_counts_completions_and_tokens(engine: VllmEngine) -> None:
    seen: list[tuple[int, int]] = []
    sampled = engine.sample(
        CONVERSATIONS, 3, sampling=WARM, seed=1, progress=lambda *at: seen.append(at)
    )
    assert seen[-1] == (72, sum(c.tokens for row in sampled for c in row))
    assert seen == sorted(seen)
    assert len(seen) > 10


def test_what_an_interrupted_call_left_undone_does_not_reach_the_next(engine: VllmEngine) -> None:
    def stop(done: int, tokens: int) -> None:
        raise KeyboardInterrupt

    expected = engine.sample(CONVERSATIONS, 2, sampling=WARM, seed=9)
    with pytest.raises(KeyboardInterrupt):
        engine.sample(CONVERSATIONS, 5, sampling=WARM, seed=1, progress=stop)
    assert engine.sample(CONVERSATIONS, 2, sampling=WARM, seed=9) == expected


def test_no_conversations_give_no_completions(engine: VllmEngine) -> None:
    assert engine.sample([], 3, sampling=WARM, seed=0) == []


LONG_VALUES = ForcedLine("\nScore:", (" 1", " 1 0", " 2 5 3", " 4"))
"""The first value begins the second one, so that the end of the reply belongs to each."""


@pytest.mark.parametrize(
    "line", [make_score_line(5), LONG_VALUES], ids=["one token", "several tokens and their ends"]
)
def test_forced_lines_have_the_probabilities_of_the_embedded_engine(
    engine: VllmEngine, line: ForcedLine
) -> None:
    embedded = load_transformers_engine(
        SEED_MODEL,
        dtype="float32",
        device="cpu",
        threads=None,
        max_batch_tokens=65_536,
        max_model_len=None,
    )
    sampled = engine.sample(CONVERSATIONS[:4], 3, sampling=WARM, seed=2)
    requests = [
        ForcedLineRequest(conversation, completion, len(completion.text))
        for conversation, row in zip(CONVERSATIONS, sampled, strict=False)
        for completion in row
    ]
    readings = engine.read_forced_lines(requests, line, options=ChatOptions())
    assert readings == engine.read_forced_lines(requests, line, options=ChatOptions())
    expected = embedded.read_forced_lines(requests, line, options=ChatOptions())
    for reading, other in zip(readings, expected, strict=True):
        assert reading is not None
        assert other is not None
        assert replace(reading, log_probabilities=()) == replace(other, log_probabilities=())
        assert reading.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-3)
