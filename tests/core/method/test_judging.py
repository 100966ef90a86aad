"""The judge's replies become judgments; what cannot be read is kept, with the reason."""

import pytest

from meta_reward_core.engines.base import FinishReason, SamplingParams
from meta_reward_core.engines.scripted import ScriptedEngine
from meta_reward_core.method.generation import build_actor_conversation, extend_conversation
from meta_reward_core.method.judging import format_instruction, judge_responses
from meta_reward_core.recipes.prompt_templates import PromptTemplate
from meta_reward_core.storage.records import Judgment, Response

TEMPLATE = PromptTemplate("judge", "{rubric}|{instruction}|{response}")


def judge_once(reply: str, finish_reason: FinishReason = "stop") -> Judgment:
    [judgment], _ = judge_responses(
        [Response("p", "p.r0", 0, "an answer", 2, "stop")],
        ScriptedEngine(lambda conversation, sample, seed: (reply, finish_reason)),
        instructions={"p": "a question"},
        template=TEMPLATE,
        rubric="the rubric",
        samples=1,
        sampling=SamplingParams(0.8, 0.95, 100),
        seed=1,
    )
    return judgment


def test_a_score_is_read_from_the_last_line() -> None:
    judgment = judge_once("Good.\nScore: 4.5")
    assert (judgment.score, judgment.unscored_reason) == (4.5, None)


@pytest.mark.parametrize(
    "reply, finish_reason, reason",
    [
        ("No points here.", "stop", "no_score_line"),
        ("Score: -1", "stop", "score_out_of_range"),
        ("It begins well, but", "length", "judgment_cut_off"),
        ("Score: 4", "length", "judgment_cut_off"),
        ("Score: 4.", "length", "judgment_cut_off"),
        ("<think>Score: 4\nBut no, it", "length", "judgment_cut_off"),
        ("<think>Score: 4", "stop", "judgment_cut_off"),
        ("the prompt has 9,000 tokens", "refused", "prompt_refused"),
    ],
)
def test_what_cannot_be_read_is_unscored_with_its_reason(
    reply: str, finish_reason: FinishReason, reason: str
) -> None:
    judgment = judge_once(reply, finish_reason)
    assert (judgment.score, judgment.unscored_reason) == (None, reason)


def test_points_that_were_whole_before_the_limit_struck_count() -> None:
    assert judge_once("Score: 4\nAnd further I would", "length").score == 4.0
    assert judge_once("Score: 4\nIt names every cause.", "length").score == 4.0


def test_a_judgment_says_why_it_ended_and_how_its_score_came_about() -> None:
    for reason in ("stop", "length", "refused"):
        judgment = judge_once("Score: 4\nAnd further I would", reason)
        assert (judgment.finish_reason, judgment.readout) == (reason, "free")
        assert judgment.is_cut_off == (reason == "length")
        assert (judgment.probabilities, judgment.token_ids, judgment.injected_at) == (None,) * 3


def test_the_judge_sees_rubric_instruction_and_response() -> None:
    seen: list[str] = []

    def script(conversation: list[dict[str, str]], sample: int, seed: int) -> str:
        seen.append(conversation[0]["content"])
        return "Score: 1"

    judge_responses(
        [Response("p", "p.r0", 0, "an {instruction} answer", 2, "stop")],
        ScriptedEngine(script),  # type: ignore[arg-type]
        instructions={"p": "a question"},
        template=TEMPLATE,
        rubric="the rubric",
        samples=2,
        sampling=SamplingParams(0.8, 0.95, 100),
        seed=1,
    )
    assert seen == ["the rubric|a question|an {instruction} answer"] * 2


def test_a_conversation_becomes_an_instruction_and_one_message_stays_as_it_is() -> None:
    first = build_actor_conversation("Describe the sea.", system_prompt=None)
    assert format_instruction(first) == "Describe the sea."
    second = extend_conversation(first, reply="It is blue.", instruction="Shorter, please.")
    assert format_instruction(second) == (
        "User: Describe the sea.\n\nAssistant: It is blue.\n\nUser: Shorter, please."
    )
