"""Check whether the total score of a judgment equals the sum of the points in its reasons.

This applies to judgments with an additive rubric, whose reasons contain "+1 for relevance" or
"earns half a point". Reasons without points are ignored: absence does not count as disagreement.
The patterns are English.

For verdicts on two answers, this module determines which answer the reasons favor.
"""

import re
from dataclasses import dataclass
from typing import Final

from meta_reward_core.method.parsing import MAX_SCORE, parse_score, remove_score_lines
from meta_reward_core.storage.records import Verdict

POINTS_TOLERANCE: Final = 0.25
"""A total that differs by less than this from the sum agrees; judges rarely spell out decimals."""

_WORDS: Final = {
    "no": 0.0, "zero": 0.0, "half a": 0.5, "a half": 0.5, "half": 0.5, "a": 1.0, "an": 1.0,
    "another": 1.0, "one": 1.0, "one more": 1.0, "a full": 1.0, "two": 2.0, "three": 3.0,
    "four": 4.0, "five": 5.0,
}  # fmt: skip
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_AMOUNT = rf"{_NUMBER}|{'|'.join(sorted(_WORDS, key=len, reverse=True))}"
_TOTAL = re.compile(
    rf"\b(?:total(?:s|ling|ing)?|sum|altogether|overall|in\s+all|final\s+(?:score|grade)|score)\b"
    rf"[^.\n]{{0,40}}?(?:{_NUMBER})(?:\s*(?:/|out\s+of)\s*{_NUMBER})?(?:\s*points?)?"
    rf"|\b(?:{_NUMBER})\s*(?:/|out\s+of)\s*5\b(?:\s*points?)?"
    rf"|=\s*{_NUMBER}(?:\s*points?)?",
    re.IGNORECASE,
)
_SIGNED = re.compile(rf"(?<![\w.+])\+\s?(?P<amount>{_NUMBER})(?![\w.]*\w)", re.IGNORECASE)
_NAMED = re.compile(
    rf"(?<![\w.+/-])(?P<amount>{_AMOUNT})\s+(?:additional\s+|extra\s+|further\s+|more\s+)?"
    r"points?\b(?!\s*(?:scale|rubric|system|out\s+of))",
    re.IGNORECASE,
)
_CRITERION = re.compile(
    r"^[\s#*_`>-]*(?:[1-5][.)]\s*)?[*_`]*(?:relevance|coverage|usefulness|assistance|excellence"
    rf"|criterion\s+[1-5])[*_`]*\s*(?:[:\u2013-]|\()\s*[*_`]*(?P<amount>{_NUMBER})(?:\s*/\s*1)?(?![\w/])",
    re.IGNORECASE | re.MULTILINE,
)
_BETTER = re.compile(
    r"\b(?:answer|response|assistant|model|output|judge?ment)\s+(?P<which>[AB])\b"
    r"(?:'s\s+(?:answer|response))?\s+"
    r"(?:is|was|seems|remains|gives|provides|offers|does|has|wins|serves|answers)\b"
    r"(?:\s+(?:clearly|much|far|somewhat|slightly|the|a|an|overall|person))*\s*"
    r"(?P<how>(?:more|better|stronger|superior|preferable|clearer|best|wins|worse|weaker|less)\b)?"
    r"|\bprefer\s+(?:answer|response|assistant|model|output|judge?ment)\s+(?P<preferred>[AB])\b",
    re.IGNORECASE,
)
_WORSE: Final = frozenset({"worse", "weaker", "less"})


@dataclass(frozen=True, slots=True)
class StatedPoints:
    """Total score of a judgment, and the sum of the points in its reasons.

    Attributes:
        score: the stated total; None if there is none.
        named: sum of the points in the reasons; None if they contain none, or more than the scale
            allows.
    """

    score: float | None
    named: float | None

    @property
    def agrees(self) -> bool | None:
        """Whether both are equal; None if one is missing."""
        if self.score is None or self.named is None:
            return None
        return abs(self.score - self.named) < POINTS_TOLERANCE


def parse_stated_points(judgment: str) -> StatedPoints:
    """Parse the total score of a judgment and sum the points in its reasons.

    Totals inside the reasons ("a total of 4 points", "4/5", "= 4") are ignored.
    """
    return StatedPoints(parse_score(judgment).score, sum_named_points(judgment))


def sum_named_points(judgment: str) -> float | None:
    """Sum the points in the reasons; None if there are none that can be summed."""
    reasons = _TOTAL.sub(" ", _remove_total(judgment))
    # Each mention counts in one form only: "+1 point" is not counted as signed and as named.
    for form in (_CRITERION, _SIGNED, _NAMED):
        amounts = [_parse_amount(found["amount"]) for found in form.finditer(reasons)]
        if amounts:
            total = sum(amounts)
            return total if total <= MAX_SCORE else None
    return None


def _remove_total(judgment: str) -> str:
    """Remove the score line; a last sentence ("It earns 4 points.") only if it is the score."""
    reasons = remove_score_lines(judgment, closing=False)
    return reasons if reasons != judgment.rstrip() else remove_score_lines(judgment)


def _parse_amount(words: str) -> float:
    known = _WORDS.get(" ".join(words.lower().split()))
    return float(words) if known is None else known


def parse_stated_preference(reasons: str) -> Verdict | None:
    """Find which of two responses the reasons prefer; None if neither or both.

    Args:
        reasons: a comparison without its verdict line.
    """
    better = {
        claim for found in _BETTER.finditer(reasons) if (claim := _parse_claim(found)) is not None
    }
    return better.pop() if len(better) == 1 else None


def _parse_claim(found: re.Match[str]) -> Verdict | None:
    if found["preferred"] is not None:
        return "A" if found["preferred"].upper() == "A" else "B"
    how = found["how"]
    if how is None:
        return None
    names_a = found["which"].upper() == "A"
    return "A" if names_a != (how.lower() in _WORSE) else "B"
