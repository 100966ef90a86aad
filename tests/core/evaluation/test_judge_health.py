"""What is wrong with a judge's replies, told apart by the most likely cause."""

import pytest

from meta_reward_core.evaluation.judge_health import (
    HealthLimits,
    ReplyTally,
    Share,
    diagnose_pairs,
    diagnose_replies,
    list_causes,
)
from meta_reward_core.method.parsing import parse_score
from meta_reward_core.storage.records import Battle, Judgment

LIMITS = HealthLimits()


def judgments(*replies: tuple[str, str], times: int = 1) -> list[Judgment]:
    """Judgments of (text, finish reason), read as the judge stage reads them."""
    made = []
    for number, (text, finish) in enumerate(replies * times):
        parsed = parse_score(text, is_cut_off=finish == "length")
        refused = finish == "refused"
        made.append(
            Judgment(
                prompt_id="p",
                response_id="r",
                judgment_id=f"r.j{number}",
                sample=number,
                text=text,
                score=None if refused else parsed.score,
                unscored_reason="prompt_refused" if refused else parsed.reason,
                tokens=10,
                finish_reason=finish,
            )
        )
    return made


def diagnose(made: list[Judgment], limits: HealthLimits = LIMITS) -> list[str]:
    tally = ReplyTally().add_judgments(made)
    found = diagnose_replies(tally, role="judge", limits=limits, max_new_tokens=200)
    return list(list_causes(found))


GOOD = [("Fine.\nScore: 3", "stop"), ("Weak.\nScore: 2", "stop"), ("Good.\nScore: 4", "stop")]


@pytest.mark.parametrize(
    ("replies", "causes"),
    [
        (GOOD, []),
        ([("The response is relevant and", "length")] * 3, ["limit_too_low"]),
        ([("I like it.", "stop")] * 3, ["wrong_format"]),
        ([("The response is relevant and", "length")] * 2 + [("Nice.", "stop")], ["wrong_format"]),
        ([("Fine.\nScore: 3\n\nUser: and now?\nScore: 5\nyes", "length")] * 3, ["end_token"]),
        ([("Fine.\nScore: 3<|im_end|>\n<|im_start|>user\nHi", "length")] * 3, ["end_token"]),
        ([("Fine.\nScore: 3assistant\n\nThank you for", "length")] * 3, ["end_token"]),
        ([("Fine.\nScore: 3\nmodel\nThank you for", "length")] * 3, ["end_token"]),
        ([("Fine.\nScore: 3 Fine, it is a good answer", "length")] * 3, ["end_token"]),
        ([("Relevance: 2 of 3, completeness: 1 of 2, and", "length")] * 3, ["limit_too_low"]),
        ([("Good.\nScore: 4", "stop")] * 3, ["constant_judge"]),
        ([("", "refused")] * 3, ["prompts_too_long"]),
    ],
)
def test_each_fault_has_its_own_cause(replies: list[tuple[str, str]], causes: list[str]) -> None:
    assert diagnose(judgments(*replies, times=30)) == causes


def test_scores_read_before_a_missing_end_token_do_not_hide_it() -> None:
    """Every judgment is readable, and yet the model invents later turns."""
    made = judgments(("Fine.\nScore: 3\nassistant\nThanks, and also", "length"),
                     ("Fine.\nScore: 2\n\nuser\nThanks", "length"), times=30)  # fmt: skip
    assert all(one.score is not None for one in made)
    assert diagnose(made) == ["end_token"]


def test_verdicts_that_are_followed_by_other_text_reveal_a_missing_end_token() -> None:
    battles = [
        Battle("p", "r", "a", "b", text, None, "judgment_cut_off", 10, "length")
        for text in (
            "Both are fine.\nWinner: Judgement A I hope that this helps you",
            "A+2;\nWinner: B even; B A+1; even; A",
        )
        for _ in range(20)
    ]
    tally = ReplyTally().add_battles(battles)
    [found] = diagnose_replies(tally, role="meta-judge", limits=LIMITS, max_new_tokens=200)
    assert (found.role, found.cause) == ("meta-judge", "end_token")


def test_refusals_are_as_certain_as_their_prompts_allow() -> None:
    """All 10 replies to one of two prompts: 50% of 2, not of 20; Wilson's low end is 9%."""
    made = judgments(("", "refused"), times=10) + judgments(*GOOD[:2], times=5)
    tally = ReplyTally(prompts=2).add_judgments(made)
    assert diagnose_replies(tally, role="judge", limits=LIMITS, max_new_tokens=200) == []
    assert tally.refused_share.describe() == "50.0% (95% CI 9% to 91%, n = 20 of 2 prompts)"


def test_few_replies_stop_nothing() -> None:
    assert diagnose(judgments(("I like it.", "stop"))) == []
    assert diagnose(judgments(("Good.\nScore: 4", "stop"), times=5)) == []


def test_limits_of_zero_and_one_switch_the_checks_off() -> None:
    off = HealthLimits(
        min_readable_share=0,
        max_cut_off_share=1,
        max_same_score_share=1,
        max_refused_share=1,
        min_pair_share=0,
    )
    for replies in ([("I like it.", "stop")], [("x", "length")], [("Score: 4", "stop")]):
        assert diagnose(judgments(*replies, times=50), off) == []
    assert diagnose_pairs(Share(0, 500), kind="actor", limits=off) == []


def test_a_remedy_never_advises_a_higher_limit_for_a_wrong_end_token() -> None:
    tally = ReplyTally().add_judgments(judgments(("Score: 3\nuser\nmore", "length"), times=40))
    [found] = diagnose_replies(tally, role="judge", limits=LIMITS, max_new_tokens=200)
    assert "A higher token limit does not help" in found.remedy
    assert "eos_token_id in generation_config.json" in found.remedy


def test_verdicts_are_measured_as_judgments_are() -> None:
    battles = [
        Battle("p", "r", "a", "b", "Both are fine.", None, "no_winner_line", 10, "stop")
        for _ in range(30)
    ]
    tally = ReplyTally().add_battles(battles)
    [found] = diagnose_replies(tally, role="meta-judge", limits=LIMITS, max_new_tokens=200)
    assert (found.role, found.cause) == ("meta-judge", "wrong_format")
    assert "meta_judge.template" in found.remedy


def test_too_few_pairs_are_found_only_with_enough_prompts() -> None:
    assert diagnose_pairs(Share(0, 8), kind="actor", limits=LIMITS) == []
    [found] = diagnose_pairs(Share(1, 200), kind="judge", limits=LIMITS)
    assert found.sentence.startswith("0.5% (95% CI 0% to 3%, n = 200) of the prompts")


def test_a_share_of_nothing_claims_nothing() -> None:
    nothing = Share(0, 0)
    assert (nothing.value, nothing.low, nothing.high) == (None, 0.0, 1.0)
    assert nothing.describe() == "none (n = 0)"
