"""Judgments that can change no actor pair are not drawn, and no others are left out."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_reward_core.engines.base import Completion, Conversation, SamplingParams
from meta_reward_core.engines.scripted import ScriptedEngine
from meta_reward_core.method.adaptive_judging import (
    PartialScore,
    bound_final_mean,
    find_still_in_play,
    split_into_rounds,
)
from meta_reward_core.method.judging import judge_responses
from meta_reward_core.method.pairing import score_responses, select_actor_pair
from meta_reward_core.recipes.prompt_templates import PromptTemplate
from meta_reward_core.storage.records import Judgment, Response
from meta_reward_core.storage.shards import Counts

CERTAIN = 100.0
"""So wide that only what can no longer happen is ruled out."""

RESPONSES = [
    Response(prompt, f"{prompt}.r{sample}", sample, f"{scores}", 3, "stop")
    for prompt in ("p", "q")
    for sample, scores in enumerate([0, 2, 3, 5])
]


def test_rounds_draw_everything_and_the_first_one_enough() -> None:
    assert split_into_rounds(11, at_least=1) == [4, 4, 3]
    assert split_into_rounds(11, at_least=6) == [6, 3, 2]
    assert split_into_rounds(2, at_least=1) == [1, 1]
    assert split_into_rounds(5, at_least=5) == [5]


def test_a_prediction_closes_when_nothing_is_left_and_is_open_before_anything_is_known() -> None:
    assert bound_final_mean(PartialScore([4.0, 3.0], remaining=0), deviations=2.0) == (3.5, 3.5)
    assert bound_final_mean(PartialScore([], remaining=4), deviations=0.1) == (0.0, 5.0)


def test_a_prediction_is_what_its_formula_says() -> None:
    """Points 2 and 4, 2 left: mean 3, variance (1 + 1 + 1) / 3; +- half of sqrt(2 + 4/2) of 4."""
    low, high = bound_final_mean(PartialScore([2.0, 4.0], remaining=2), deviations=0.5)
    assert 3.0 - low == pytest.approx(0.25)
    assert high - 3.0 == pytest.approx(0.25)
    assert bound_final_mean(PartialScore([5.0], remaining=1), deviations=CERTAIN) == (2.5, 5.0)


def test_who_lies_between_the_tiers_has_no_hope() -> None:
    """Means 5, 2.5 and 0, nothing left: with rho 0.3 the tiers are from 3.5 and up to 1.5."""
    judged = {
        name: PartialScore([scores], remaining=0)
        for name, scores in zip("abc", (5.0, 2.5, 0.0), strict=True)
    }
    assert find_still_in_play(judged, rho=0.3, deviations=1.0) == {"a", "c"}
    assert find_still_in_play(judged, rho=0.5, deviations=1.0) == {"a", "b", "c"}


@given(
    scores=st.lists(
        st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), min_size=6, max_size=6),
        min_size=2,
        max_size=6,
    ),
    drawn=st.integers(1, 6),
    rho=st.sampled_from([0.0, 0.3, 0.4]),
)
def test_who_is_surely_hopeless_ends_in_no_pair(
    scores: list[list[float]], drawn: int, rho: float
) -> None:
    """However the rest is judged, chosen and rejected are responses that had hope."""
    responses = [Response("p", f"r{n}", n, "a text", 2, "stop") for n in range(len(scores))]
    judgments = [
        Judgment("p", f"r{n}", f"r{n}.j{sample}", sample, "", score, None, 1)
        for n, row in enumerate(scores)
        for sample, score in enumerate(row)
    ]
    pair = select_actor_pair(score_responses(responses, judgments), rho=rho)
    judged = {
        f"r{n}": PartialScore(row[:drawn], remaining=6 - drawn) for n, row in enumerate(scores)
    }
    hopeful = find_still_in_play(judged, rho=rho, deviations=CERTAIN)
    assert {
        getattr(pair, name, None) for name in ("chosen_response_id", "rejected_response_id")
    } <= (hopeful | {None})


def judge(early_stop_z: float | None) -> tuple[list[Judgment], Counts, list[tuple[int, int, int]]]:
    """Every response gets the points that it says; tells (conversations, n, seed) of each call."""
    calls: list[tuple[int, int, int]] = []

    class Counting(ScriptedEngine):
        def sample(
            self, conversations: Sequence[Conversation], n: int, **rest: object
        ) -> list[list[Completion]]:
            calls.append((len(conversations), n, int(str(rest["seed"]))))
            return super().sample(conversations, n, **rest)  # type: ignore[arg-type]

    def script(conversation: Conversation, sample: int, seed: int) -> str:
        return f"Score: {conversation[0]['content']}"

    judgments, counts = judge_responses(
        RESPONSES,
        Counting(script),
        instructions={"p": "a question", "q": "another"},
        template=PromptTemplate("judge", "{response}"),
        rubric="",
        samples=11,
        sampling=SamplingParams(0.8, 0.95, 20),
        seed=7,
        early_stop_z=early_stop_z,
        rho=0.2,
    )
    return judgments, counts, calls


def test_without_the_option_everything_is_drawn_in_one_call() -> None:
    judgments, counts, calls = judge(None)
    assert calls == [(8, 11, 7)]
    assert len(judgments) == 88
    assert "skipped" not in counts


def test_with_it_the_middle_gets_no_more_and_the_ends_get_all() -> None:
    judgments, counts, calls = judge(1.0)
    drawn = {
        response.response_id: [one.sample for one in judgments
                               if one.response_id == response.response_id]
        for response in RESPONSES
    }  # fmt: skip
    assert [calls[0][:2], calls[0][2]] == [(8, 4), 7]
    assert len({seed for *_, seed in calls}) == len(calls) == 3
    for prompt in ("p", "q"):
        assert drawn[f"{prompt}.r0"] == drawn[f"{prompt}.r3"] == list(range(11))
        assert len(drawn[f"{prompt}.r1"]) < 11
        assert len(drawn[f"{prompt}.r2"]) < 11
    assert counts["judgments"] + counts["skipped"] == 88
    assert [one.judgment_id for one in judgments] == sorted(
        (one.judgment_id for one in judgments),
        key=lambda name: (name.split(".j")[0], int(name.split(".j")[1])),
    )
