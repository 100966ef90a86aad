"""The truth about responses, judgments and verdicts."""

import pytest

from meta_reward_core.tasks.toy import ground_truth

INSTRUCTION = "Translate to french : two black dogs eat bread"
RESPONSE = "deux noirs chats mangent pain hope this helps"
EXACT = "\n".join(
    (
        "deux deux yes 1;",
        "noirs noirs yes 2;",
        "chiens chats no 2;",
        "mangent mangent yes 3;",
        "pain pain yes 4;",
        "Score: 4",
    )
)
LENIENT = EXACT.replace("chats no 2", "chats yes 3").replace("Score: 4", "Score: 5")


@pytest.mark.parametrize(
    ("response", "quality"),
    [
        ("deux noirs chiens mangent pain", 5),
        (RESPONSE, 4),
        ("zwei schwarze hunde essen brot", 0),
        ("deux noirs", 2),
        ("deux noirs chiens mangent pain hope this helps hope this helps", 5),
        ("deux noirs chiens mangent pain riz lait", 3),
        ("hope this helps", 0),
        ("", 0),
    ],
)
def test_quality_is_right_words_less_surplus(response: str, quality: float) -> None:
    """Politeness is free, words beyond five cost one point each."""
    assert ground_truth.compute_true_quality(INSTRUCTION, response) == quality


def test_an_instruction_from_elsewhere_is_worth_nothing() -> None:
    """Whatever is not of this world scores 0."""
    assert ground_truth.compute_true_quality("Write a poem", RESPONSE) == 0
    assert (
        ground_truth.compute_true_quality(
            "Translate to klingon : two black dogs eat bread", RESPONSE
        )
        == 0
    )
    assert (
        ground_truth.compute_true_quality("Translate to french : two two two two two", RESPONSE)
        == 0
    )


def test_a_judgment_is_right_when_its_last_score_is_the_quality() -> None:
    """4 is right, 5 and silence are not."""
    assert ground_truth.is_judgment_right(INSTRUCTION, RESPONSE, EXACT)
    assert not ground_truth.is_judgment_right(INSTRUCTION, RESPONSE, LENIENT)
    assert not ground_truth.is_judgment_right(INSTRUCTION, RESPONSE, "deux deux yes 1;")


def test_judgment_errors_are_counted_by_slot() -> None:
    """None in the exact one, one in the lenient one, all five in silence."""
    assert ground_truth.count_judgment_errors(INSTRUCTION, RESPONSE, EXACT) == 0
    assert ground_truth.count_judgment_errors(INSTRUCTION, RESPONSE, LENIENT) == 1
    assert ground_truth.count_judgment_errors(INSTRUCTION, RESPONSE, "") == 5


def test_a_verdict_is_right_when_the_winner_errs_less() -> None:
    """The exact judgment beats the lenient one in either order; equals have no truth."""
    judged = (INSTRUCTION, RESPONSE)
    assert ground_truth.is_verdict_right(*judged, EXACT, LENIENT, winner="A") is True
    assert ground_truth.is_verdict_right(*judged, LENIENT, EXACT, winner="A") is False
    assert ground_truth.is_verdict_right(*judged, LENIENT, EXACT, winner="B") is True
    assert ground_truth.is_verdict_right(*judged, EXACT, EXACT, winner="A") is None
