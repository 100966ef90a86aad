"""Does a judgment's total agree with its own reasons?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_reward_core.evaluation.rationale_consistency import (
    parse_stated_points,
    parse_stated_preference,
    sum_named_points,
)


@pytest.mark.parametrize(
    "text, named",
    [
        ("Relevant (+1). Covers much (+1), useful (+0.5 points).", 2.5),
        ("One point for relevance, another point for coverage, and half a point for style.", 2.5),
        ("1. Relevance: 1\n2. Coverage: 1/1\n3. Usefulness: 0", 2),
        ("**Relevance**: 1 - on topic\n**Coverage**: 0.5 - partly", 1.5),
        ("+1 relevance\n+1 coverage\n= 2", 2),
        ("It earns no points at all.", 0),
        ("It gains 1 point for relevance. That is a total of 4 points.", 1),
        ("Relevant: +1 point. Useful: 1 additional point.", 1),
    ],
)
def test_points_that_are_named_are_added_and_totals_are_not(text: str, named: float) -> None:
    assert sum_named_points(f"{text}\nScore: 3") == named


@pytest.mark.parametrize(
    "text",
    [
        "A fine answer.",
        "In C++11 one writes 2+2.",
        "On the 5-point scale it does well: 4 out of 5 points.",
        "It gets 4 points of 5. Total: 4 points.\n+9 for style",
        "",
    ],
)
def test_what_names_no_points_is_not_judged(text: str) -> None:
    stated = parse_stated_points(f"{text}\nScore: 4")
    assert stated.agrees is None or stated.named == 4


def test_agreement_by_hand() -> None:
    """1 + 1 + 0.5 = 2.5 against 2.5 and against 3; half a point is not the same."""
    reasons = "Relevance +1, coverage +1, usefulness +0.5.\n"
    assert parse_stated_points(f"{reasons}Score: 2.5").agrees is True
    assert parse_stated_points(f"{reasons}Score: 3").agrees is False
    assert parse_stated_points(reasons).agrees is None


@given(st.lists(st.sampled_from([0, 0.5, 1]), min_size=1, max_size=5))
def test_any_points_are_added(points: list[float]) -> None:
    text = "\n".join(f"+{p} for criterion {n + 1}" for n, p in enumerate(points))
    assert sum_named_points(text) == sum(points)


@given(st.text(max_size=300))
def test_no_text_breaks_it(text: str) -> None:
    found = parse_stated_points(text)
    assert found.named is None or 0 <= found.named <= 5


@pytest.mark.parametrize(
    "reasons, better",
    [
        ("Answer A is much better, because it is right.", "A"),
        ("Response A is worse. Response B is clearer.", "B"),
        ("I prefer assistant B.", "B"),
        ("Judgement A is more precise.", "A"),
        ("Answer A is clearer, but answer B is more complete.", None),
        ("Answer A is not better.", None),
        ("Both are fine.", None),
    ],
)
def test_what_the_reasons_call_better(reasons: str, better: str | None) -> None:
    assert parse_stated_preference(reasons) == better


def test_a_megabyte_of_text_is_read_in_linear_time() -> None:
    assert sum_named_points("Answer A is the the the " * 40_000) is None
    assert parse_stated_preference("Answer A is the the the " * 40_000) is None
    assert sum_named_points("total " * 150_000) is None
