"""Read points and verdicts out of the text of a judge or a meta-judge.

Knows nothing of prompts or engines. What cannot be read is absent and has a reason; it is never
a number and never a tie. Every pattern is anchored or works on a bounded tail, so the time is
linear in the text, also for a single line of a megabyte.

Source: arXiv 2407.19594, section 2.1 and the prompts of its appendix; arXiv 2401.10020, figure 2.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

from meta_reward_core.records import Verdict

MIN_POINTS: Final = 0.0
MAX_POINTS: Final = 5.0

UnscoredReason = Literal[
    "no_score_line",
    "score_not_a_number",
    "score_out_of_range",
    "score_on_another_scale",
    "judgment_cut_off",
    "prompt_refused",
]
NO_SCORE_LINE: Final = "no_score_line"
SCORE_NOT_A_NUMBER: Final = "score_not_a_number"
SCORE_OUT_OF_RANGE: Final = "score_out_of_range"
SCORE_ON_ANOTHER_SCALE: Final = "score_on_another_scale"
JUDGMENT_CUT_OFF: Final = "judgment_cut_off"
PROMPT_REFUSED: Final = "prompt_refused"

UnparsedReason = Literal["no_winner_line", "winner_not_readable", "prompt_refused"]
NO_WINNER_LINE: Final = "no_winner_line"
WINNER_NOT_READABLE: Final = "winner_not_readable"

UNSCORED_TEXT: Final[dict[UnscoredReason, str]] = {
    NO_SCORE_LINE: "The judgment has no line that begins with 'Score:'.",
    SCORE_NOT_A_NUMBER: "What follows 'Score:' is not one plain decimal number.",
    SCORE_OUT_OF_RANGE: "The points lie outside the rubric's scale.",
    SCORE_ON_ANOTHER_SCALE: "The points are given out of something else than the scale's top.",
    JUDGMENT_CUT_OFF: "The token limit cut the judgment off before or within its score.",
    PROMPT_REFUSED: "The engine refused the prompt: with the reply it is longer than it takes.",
}
UNPARSED_TEXT: Final[dict[UnparsedReason, str]] = {
    NO_WINNER_LINE: "The meta-judgment has no line that begins with 'Winner:'.",
    WINNER_NOT_READABLE: "What follows 'Winner:' is neither Judgement A, Judgement B nor a tie.",
    PROMPT_REFUSED: "The engine refused the prompt: with the reply it is longer than it takes.",
}

# A line may open with markdown, never with a quotation mark or ">": those quote somebody else.
_OPENING = r"[\s#*_`~+•|(\[<-]*"
_QUALIFIER = r"(?:(?:final|total|overall|my|the)\s+){0,2}"
_COLON = r"[\s*_`~]*[:\uFF1A]"
_SENTENCE_END = r"(?<=[.!?;:)\u3002\uFF1B])[\s*_`~]+"

_SCORE_LINE = re.compile(rf"{_OPENING}{_QUALIFIER}score{_COLON}", re.IGNORECASE)
_SCORE_TAIL = re.compile(
    rf"{_SENTENCE_END}{_QUALIFIER}score{_COLON}(?=[^a-z0-9]{{0,12}}[0-9])", re.IGNORECASE
)
_SCORE_AGAIN = re.compile(rf"(?<![a-z])score{_COLON}", re.IGNORECASE)
_WINNER_LINE = re.compile(rf"{_OPENING}{_QUALIFIER}winner{_COLON}", re.IGNORECASE)
_WINNER_TAIL = re.compile(
    rf"{_SENTENCE_END}{_QUALIFIER}winner{_COLON}(?=[\s*_`~\[(<\"]*[a-z])", re.IGNORECASE
)

_VALUE_CHARS = 200
_TAIL_CHARS = 120

_TAG = re.compile(r"</?[A-Za-z][A-Za-z _-]{0,40}>|\\boxed")
_WRAPPERS = " \t\u00a0\u3000*_`~<>[](){}\"'$:=\uff1a"
_POINTS = re.compile(
    r"(?P<points>[+\u2212\u2013-]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+))(?P<rest>.*)", re.DOTALL
)
_SCALE = re.compile(
    r"[\s*_`~\])>}]*(?:/|(?:points?\s+)?out\s+of\b|of\b)[\s*_`~\[(<{]*(?P<top>[0-9]+(?:\.[0-9]+)?)?",
    re.IGNORECASE,
)
_ANOTHER_NUMBER = re.compile(
    r"[\s*_`~\])>}]*"
    r"(?:[-\u2010-\u2015\u2212~+*\u00d7=&/|,\u2192]|to\b|or\b|and\b)?\s*[+-]?\.?[0-9]",
    re.IGNORECASE,
)
_ATTACHED = re.compile(r"\.?[\w%\u00b0^]|,[0-9]")

_NAMED = re.compile(
    r"(?:the\s+)?judge?ment[\s*_`~:\[(<{\"']*(?P<letter>[AB])(?![\w|/])(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_BARE = re.compile(r"(?P<letter>[AB])(?![\w|/])(?P<rest>[\s*_`~\])>}\"'.!]*)$", re.DOTALL)
_TIE = re.compile(r"(?:it\s+is\s+|it's\s+)?(?:an?\s+)?(?:tied?|draw|neither)\b", re.IGNORECASE)
_OTHER_TOO = re.compile(
    r"[\s*_`~\])>}\"']*(?:/|\||,|&|or\b|and\b)[\s*_`~\[(<{\"']*(?:judge?ment\b)?[\s*_`~\[(<{\"']*[AB]\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ParsedScore:
    """Points of a judgment, or the reason why there are none. Exactly one of the two is set."""

    score: float | None
    reason: UnscoredReason | None


@dataclass(frozen=True, slots=True)
class ParsedVerdict:
    """Verdict of a meta-judgment, or the reason why there is none. Exactly one is set."""

    verdict: Verdict | None
    reason: UnparsedReason | None


def parse_score(text: str, *, top_points: float = MAX_POINTS) -> ParsedScore:
    """Read the points of the LAST score line; an unreadable last line is not replaced by another.

    A score line begins with `Score:` (after markdown, or after "final", "total", "overall"), or
    ends a line as its last sentence. Legal are plain ASCII decimals in [0, 5], also as `4/5`,
    `4 out of 5`, `4 points` or between tags and brackets. Exponents, ranges (`3-4`), sums
    (`1+1+1`), decimal commas and digits of other scripts are not guessed at.

    Args:
        text: a judgment as the engine returned it.
        top_points: where the rubric's scale ends, if not at 5. Points of that scale are read as
            shares of 5, in which everything that follows counts.
    """
    for line in reversed(text.splitlines()):
        value = _value_of(line, _SCORE_TAIL, _SCORE_LINE)
        if value is not None:
            return _read_points(value, top_points)
    return ParsedScore(None, NO_SCORE_LINE)


def parse_verdict(text: str) -> ParsedVerdict:
    """Read the LAST `Winner:` line: Judgement A, Judgement B (both spellings) or a stated tie.

    An unreadable reply has no verdict. It is stored apart from a tie, though the battle matrix
    treats both as "nobody won".

    Args:
        text: a meta-judgment as the engine returned it.
    """
    for line in reversed(text.splitlines()):
        value = _value_of(line, _WINNER_TAIL, _WINNER_LINE)
        if value is not None:
            return _read_winner(value)
    return ParsedVerdict(None, NO_WINNER_LINE)


def remove_score_lines(text: str) -> str:
    """Take every score line out of a judgment, readable or not, so that only reasons remain.

    Afterwards `parse_score` finds no score line. For the option that hides points from the
    meta-judge, which otherwise prefers the higher ones.
    """
    kept = (_without_score(line) for line in text.splitlines(keepends=True))
    return "".join(kept).rstrip()


def remove_verdict_lines(text: str) -> str:
    """Take every line out of a meta-judgment that begins with `Winner:`, so that reasons remain."""
    return "".join(line for line in text.splitlines(keepends=True) if not _WINNER_LINE.match(line))


def _value_of(line: str, tail: re.Pattern[str], head: re.Pattern[str]) -> str | None:
    """What follows the last mark of a line, at most `_VALUE_CHARS` of it."""
    found = _last_tail(line, len(line), tail) or head.match(line)
    if found is None:
        return None
    offset = found.end() if found.re is head else max(0, len(line) - _TAIL_CHARS) + found.end()
    return line[offset : offset + _VALUE_CHARS]


def _last_tail(line: str, end: int, tail: re.Pattern[str]) -> re.Match[str] | None:
    """The last mark that a sentence of `line[:end]` closes with, looked for in a bounded tail."""
    marks = list(tail.finditer(line[max(0, end - _TAIL_CHARS) : end]))
    return marks[-1] if marks else None


def _without_score(line: str) -> str:
    """A line without its score; its line break stays when something of the line does."""
    body = line.rstrip("\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
    if _SCORE_LINE.match(body):
        return ""
    end = len(body)
    while (mark := _last_tail(body, end, _SCORE_TAIL)) is not None:
        end = max(0, end - _TAIL_CHARS) + mark.start()
    return body[:end] + line[len(body) :]


def _read_points(value: str, top_points: float) -> ParsedScore:
    """Points from what follows the colon of a score line."""
    found = _POINTS.match(_TAG.sub(" ", value).lstrip(_WRAPPERS))
    if found is None:
        return ParsedScore(None, SCORE_NOT_A_NUMBER)
    rest = found["rest"]
    if _ATTACHED.match(rest) or _SCORE_AGAIN.search(rest):
        return ParsedScore(None, SCORE_NOT_A_NUMBER)
    scale = _SCALE.match(rest)
    if scale is not None and scale["top"] is not None:
        if float(scale["top"]) != top_points:
            return ParsedScore(None, SCORE_ON_ANOTHER_SCALE)
        rest = rest[scale.end() :]
    if _ANOTHER_NUMBER.match(rest) or _ATTACHED.match(rest):
        return ParsedScore(None, SCORE_NOT_A_NUMBER)
    return _in_range(found["points"].replace("\u2212", "-").replace("\u2013", "-"), top_points)


def _in_range(points: str, top_points: float) -> ParsedScore:
    """A number of points in [0, `top_points`], as a share of 5; `-0` is 0."""
    score = float(points)
    if not MIN_POINTS <= score <= top_points:
        return ParsedScore(None, SCORE_OUT_OF_RANGE)
    return ParsedScore(min(MAX_POINTS, abs(score) * (MAX_POINTS / top_points)), None)


def _read_winner(value: str) -> ParsedVerdict:
    """Verdict from what follows the colon of a winner line."""
    bare = value.lstrip(_WRAPPERS)
    if _TIE.match(bare):
        return ParsedVerdict("tie", None)
    found = _NAMED.match(bare) or _BARE.match(bare)
    if found is None or _OTHER_TOO.match(found["rest"]):
        return ParsedVerdict(None, WINNER_NOT_READABLE)
    return ParsedVerdict("A" if found["letter"] in "Aa" else "B", None)
