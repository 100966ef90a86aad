"""Forced and expected readout: a score or a verdict that cannot be missed."""

import math
from collections import Counter
from statistics import fmean
from typing import Any

import pytest

from meta_reward_core.engines.base import Conversation, SamplingParams
from meta_reward_core.engines.scripted import Reply, ScriptedEngine
from meta_reward_core.errors import EngineError
from meta_reward_core.method.forced_readout import make_score_line, renormalize
from meta_reward_core.method.judging import judge_responses
from meta_reward_core.method.meta_judging import PlannedBattle, run_battles
from meta_reward_core.method.parsing import find_closing_score, find_closing_verdict, parse_score
from meta_reward_core.recipes.prompt_templates import PromptTemplate
from meta_reward_core.storage.records import Judgment, Readout, Response

JUDGE = PromptTemplate("judge", "Judge {response} to {instruction}.")
META = PromptTemplate("meta", "{instruction}{response}{judgment_a}|{judgment_b}")
SAMPLING = SamplingParams(1.0, 1.0, 50)


def make_responses(count: int) -> list[Response]:
    return [Response("p", f"r{n}", n, f"response {n}", 2, "stop") for n in range(count)]


def judge(
    engine: Any,
    *,
    readout: Readout = "forced",
    count: int = 1,
    samples: int = 1,
    sampling: SamplingParams = SAMPLING,
    max_score: float = 5.0,
) -> list[Judgment]:
    found, _ = judge_responses(
        make_responses(count),
        engine,
        instructions={"p": "question"},
        template=JUDGE,
        rubric="",
        samples=samples,
        sampling=sampling,
        seed=1,
        max_score=max_score,
        readout=readout,
    )
    return found


def say(reply: Reply, **log_probabilities: float) -> ScriptedEngine:
    """The same reply always, and values by their log-probabilities; -20 for those not named."""

    def value_of(conversation: Conversation, text: str, value: str) -> float:
        return log_probabilities.get(f"v{value.strip()}", -20.0)

    return ScriptedEngine(lambda *_: reply, value_of)


def test_a_judgment_without_a_score_line_is_given_one() -> None:
    (found,) = judge(say("It answers well.", v4=-0.1))
    assert found.text == "It answers well.\nScore: 4"
    assert (found.score, found.unscored_reason, found.readout) == (4.0, None, "forced")
    assert parse_score(found.text).score == 4


def test_a_closing_score_of_the_models_own_is_replaced_and_its_reasons_stay() -> None:
    (found,) = judge(say("It answers well.\nScore: 2\n", v5=-0.1))
    assert found.text == "It answers well.\nScore: 5"
    assert found.score == 5


def test_probabilities_are_those_of_the_allowed_values_alone_and_stored() -> None:
    """p(3) : p(4) = e^-1 : e^-2, whatever else the model could have said."""
    (found,) = judge(say("Fine.", v3=-1.0, v4=-2.0))
    assert found.probabilities is not None
    stored = {one["value"]: one["probability"] for one in found.probabilities}
    assert list(stored) == ["0", "1", "2", "3", "4", "5"]
    assert math.fsum(stored.values()) == pytest.approx(1)
    assert stored["3"] / stored["4"] == pytest.approx(math.e)


def test_values_are_drawn_by_their_probabilities() -> None:
    """400 draws at p = 0.75 and 0.25: 300 expected, standard deviation 8.7."""
    found = judge(say("Fine.", v1=math.log(0.75), v5=math.log(0.25)), count=40, samples=10)
    counted = Counter(judgment.score for judgment in found)
    assert set(counted) == {1.0, 5.0}
    assert 265 <= counted[1.0] <= 335


def test_the_same_seed_draws_the_same_values() -> None:
    engine = say("Fine.", v1=-0.7, v5=-0.7)
    assert judge(engine, count=5, samples=6) == judge(engine, count=5, samples=6)


def test_a_temperature_sharpens_probabilities_and_zero_takes_the_most_probable() -> None:
    """At T = 0.5 the ratio e^1 of two probabilities becomes e^2; at 0 it stays, and 3 is taken."""
    assert renormalize([-1.0, -2.0], temperature=0.5) == pytest.approx(
        [math.exp(2) / (math.exp(2) + 1), 1 / (math.exp(2) + 1)]
    )
    assert renormalize([-1.0, -2.0], temperature=0) == renormalize([-1.0, -2.0], temperature=1)
    greedy = SamplingParams(0.0, 1.0, 50)
    found = judge(say("Fine.", v3=-1.0, v4=-1.1), samples=20, sampling=greedy)
    assert {judgment.score for judgment in found} == {3.0}


def test_the_expected_score_is_the_mean_by_the_probabilities() -> None:
    """0.75 * 1 + 0.25 * 5 = 2; the text shows a drawn value."""
    engine = say("Fine.", v1=math.log(0.75), v5=math.log(0.25))
    found = judge(engine, readout="expected", samples=40)
    assert fmean(j.score or 0 for j in found) == pytest.approx(2, abs=1e-6)
    assert {j.readout for j in found} == {"expected"}
    assert {j.text[-1] for j in found} == {"1", "5"}


def test_a_scale_of_ten_has_eleven_values_kept_as_shares_of_five() -> None:
    assert make_score_line(10.0).values[-2:] == (" 9", " 10")
    (found,) = judge(say("Fine.", v8=-0.1), max_score=10.0)
    assert found.text.endswith("Score: 8")
    assert found.score == 4


def test_a_cut_off_justification_is_scored_and_stays_marked_as_cut_off() -> None:
    (found,) = judge(say(("It answers in part and", "length"), v2=-0.1))
    assert (found.score, found.finish_reason) == (2.0, "length")
    assert found.is_cut_off  # never the chosen one: `select_judge_pair`


def test_a_refused_prompt_is_not_forced() -> None:
    (found,) = judge(say(("too long", "refused"), v2=-0.1))
    assert (found.score, found.unscored_reason) == (None, "prompt_refused")
    assert found.probabilities is None


def test_tokens_that_the_model_was_given_are_marked() -> None:
    """Two words, the line's beginning (given), the value (drawn) and an end (given)."""
    (ended,) = judge(say("It answers", v2=-0.1))
    assert ended.token_ids is not None
    assert ended.injected_at is not None
    assert len(ended.token_ids) == 5
    assert list(ended.injected_at) == [2, 4]
    (cut,) = judge(say(("It answers", "length"), v2=-0.1))
    assert cut.token_ids is not None
    assert cut.injected_at is not None
    assert len(cut.token_ids) == 4
    assert list(cut.injected_at) == [2]


def test_a_free_readout_is_as_it_was() -> None:
    engine = say("It answers well.\nScore: 2", v5=-0.1)
    (found,) = judge(engine, readout="free")
    assert (found.score, found.readout, found.probabilities) == (2.0, "free", None)


def test_an_engine_that_cannot_do_it_is_named() -> None:
    class Plain:
        def sample(self, conversations: Any, n: int, **_: Any) -> Any:
            return ScriptedEngine(lambda *_: "x").sample(
                conversations, n, sampling=SAMPLING, seed=1
            )

    with pytest.raises(EngineError, match="does not support forced readouts"):
        judge(Plain())


CLOSING = {
    "a labelled last line": ("Good.\nScore: 4", "Good.\n"),
    "with an end": ("Good.\n**Score: 4/5**\n\n", "Good.\n"),
    "a value on the next line": ("Good.\nScore:\n4", "Good.\n"),
    "an unreadable one": ("Good.\nScore: 9", "Good.\n"),
    "none": ("Good and useful. ", "Good and useful."),
    "one above the last line": ("Score: 4\nGood and useful.", "Score: 4\nGood and useful."),
    "in open reasoning": ("<think>hm\nScore: 4", "<think>hm\nScore: 4"),
    "behind closed reasoning": ("<think>hm</think>\nScore: 4", "<think>hm</think>\n"),
}


@pytest.mark.parametrize("text, kept", CLOSING.values(), ids=CLOSING)
def test_only_a_closing_line_that_states_a_score_is_cut_off(text: str, kept: str) -> None:
    assert text[: find_closing_score(text)] == kept


def test_a_closing_verdict_is_found() -> None:
    text = "B errs.\nWinner: Judgement A"
    assert text[: find_closing_verdict(text)] == "B errs.\n"
    assert find_closing_verdict("I cannot say.") == len("I cannot say.")


def make_judgment(name: str) -> Judgment:
    return Judgment("p", "r", name, 0, name, 3.0, None, 1)


def fight(engine: ScriptedEngine, count: int = 1) -> list[Any]:
    battles = [
        PlannedBattle("q", "r", make_judgment(f"{n}a"), make_judgment(f"{n}b"))
        for n in range(count)
    ]
    found, _ = run_battles(
        battles, engine, template=META, rubric="", hide_score_line=False, sampling=SAMPLING,
        seed=1, readout="forced",
    )  # fmt: skip
    return found


def test_a_verdict_is_forced_likewise() -> None:
    (found,) = fight(say("B errs twice", vB=-3.0, vA=-1.0))
    assert found.text in ("B errs twice\nWinner: Judgement A", "B errs twice\nWinner: Judgement B")
    assert (found.verdict, found.readout) == (found.text[-1], "forced")
    assert [one["value"] for one in found.probabilities] == ["A", "B"]
    assert found.probabilities[0]["probability"] == pytest.approx(1 / (1 + math.exp(-2)))


def test_verdicts_are_drawn_by_their_probabilities() -> None:
    counted = Counter(b.verdict for b in fight(say("Hm", vA=math.log(0.8), vB=math.log(0.2)), 200))
    assert 140 <= counted["A"] <= 180  # 160 expected, standard deviation 5.7
