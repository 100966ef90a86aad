"""Parse scores and verdicts from the text of a judge, a meta-judge or a pairwise judge.

This package does not depend on prompts and engines. An unreadable value is absent, with a reason;
it never becomes a number or a tie. `tokens` splits a line into tokens, `statements` handles the
text around a value, `scores` and `verdicts` parse values. The time is linear in the text, even for
a single line of a megabyte. Rules:

- Only the text after the last closed reasoning block (`<think> ... </think>` and similar) is read.
  A reply whose block is not closed has no score and no verdict.
- If several complete lines state a value, the last counts; an unreadable last line is not replaced
  by an earlier one.
- A reply that the token limit cut off counts like any other if its last statement is complete: a
  line break or a word follows the value. "Score: 4" at the very limit could have become 4.5,
  "Winner: Judgement A" could have become "A and B are equal": both are `judgment_cut_off`.
- Lines that quote (`> ...`), and labels attributed to another author, do not count.

Source: arXiv 2407.19594, section 2.1 and the prompts of its appendix; arXiv 2401.10020, figure 2.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Final, cast

from meta_reward_core.method.parsing.outcomes import (
    JUDGMENT_CUT_OFF,
    MAX_SCORE,
    MIN_SCORE,
    NO_SCORE_LINE,
    NO_WINNER_LINE,
    PROMPT_REFUSED,
    SCORE_NOT_A_NUMBER,
    SCORE_ON_ANOTHER_SCALE,
    SCORE_OUT_OF_RANGE,
    UNPARSED_TEXT,
    UNSCORED_TEXT,
    WINNER_NOT_READABLE,
    ParsedScore,
    ParsedVerdict,
    UnparsedReason,
    UnscoredReason,
)
from meta_reward_core.method.parsing.reading import (
    find_closing_statement,
    read_reply,
    remove_statements,
)
from meta_reward_core.method.parsing.scores import make_score_grammar
from meta_reward_core.method.parsing.statements import LabelWords, Tokens
from meta_reward_core.method.parsing.tokens import make_word_set
from meta_reward_core.method.parsing.verdicts import VERDICT_GRAMMAR, read_mark

__all__ = [
    "JUDGMENT_CUT_OFF", "MAX_SCORE", "MIN_SCORE", "NO_SCORE_LINE", "NO_WINNER_LINE",
    "PROMPT_REFUSED", "SCORE_NOT_A_NUMBER", "SCORE_ON_ANOTHER_SCALE", "SCORE_OUT_OF_RANGE",
    "UNPARSED_TEXT", "UNSCORED_TEXT", "WINNER_NOT_READABLE", "ParsedScore", "ParsedVerdict",
    "UnparsedReason", "UnscoredReason", "find_closing_score", "find_closing_verdict",
    "has_judge_line", "parse_score", "parse_verdict",
    "read_mark", "remove_score_lines", "remove_verdict_lines",
]  # fmt: skip

_grammar_of = lru_cache(maxsize=32)(make_score_grammar)
_KEPT_REPLIES: Final = 4096
"""Number of parsed replies to keep: samples of one prompt often repeat a short reply."""


def parse_score(
    text: str, *, max_score: float = MAX_SCORE, is_cut_off: bool = False
) -> ParsedScore:
    """Parse the last score stated in a judgment; see `scores` for its forms.

    Args:
        text: a judgment as the engine returned it.
        max_score: top of the rubric's scale, if not 5. Scores on that scale are converted to the
            scale from 0 to 5, which all later steps use.
        is_cut_off: whether the token limit ended the judgment.
    """
    return _parse_score(text, max_score, is_cut_off)


@lru_cache(maxsize=_KEPT_REPLIES)
def _parse_score(text: str, max_score: float, is_cut_off: bool) -> ParsedScore:  # noqa: FBT001
    reading = read_reply(text, _grammar_of(max_score), is_cut_off=is_cut_off)
    if reading is None:
        return ParsedScore(None, NO_SCORE_LINE)
    if reading.value is None:
        return ParsedScore(None, cast(UnscoredReason, reading.problem))
    return ParsedScore(min(MAX_SCORE, reading.value * (MAX_SCORE / max_score)), None)


def parse_verdict(text: str, *, is_cut_off: bool = False) -> ParsedVerdict:
    """Parse the last verdict stated in a comparison, A, B or a tie; see `verdicts`.

    An unreadable reply has no verdict. It is stored differently from a tie, although the battle
    matrix treats both as a battle without a winner.

    Args:
        text: a meta-judgment, or an annotator's reply, as the engine returned it.
        is_cut_off: whether the token limit ended the reply.
    """
    return _parse_verdict(text, is_cut_off)


@lru_cache(maxsize=_KEPT_REPLIES)
def _parse_verdict(text: str, is_cut_off: bool) -> ParsedVerdict:  # noqa: FBT001
    reading = read_reply(text, VERDICT_GRAMMAR, is_cut_off=is_cut_off)
    if reading is None:
        return ParsedVerdict(None, NO_WINNER_LINE)
    if reading.value is None:
        return ParsedVerdict(None, cast(UnparsedReason, reading.problem))
    return ParsedVerdict(reading.value, None)


def _read_nothing(_tokens: Tokens) -> None:
    """Reject statements without a label where only labels count."""


_JUDGE_SCORE = replace(
    make_score_grammar(MAX_SCORE),
    labels=LabelWords(make_word_set("score"), make_word_set("")),
    read_closing=_read_nothing,
    read_alone=_read_nothing,
)
_JUDGE_VERDICT = replace(
    VERDICT_GRAMMAR,
    labels=LabelWords(make_word_set("winner better"), make_word_set("")),
    read_closing=_read_nothing,
    read_alone=_read_nothing,
)
_A_NUMBER = (None, SCORE_OUT_OF_RANGE, SCORE_ON_ANOTHER_SCALE)


def has_judge_line(text: str) -> bool:
    """Whether a response contains a line in a judge's format, `Score: 5` or `Winner: Judgement A`.

    Stricter than for a judge's reply: "Answer: 4" or "Total: 3" can be honest answers.
    """
    score = read_reply(text, _JUDGE_SCORE, is_cut_off=False)
    verdict = read_reply(text, _JUDGE_VERDICT, is_cut_off=False)
    return (score is not None and score.problem in _A_NUMBER) or (
        verdict is not None and verdict.value is not None
    )


def find_closing_score(text: str, *, max_score: float = MAX_SCORE) -> int:
    """Find the start of the closing line that states a score; see `find_closing_statement`."""
    return find_closing_statement(text, _grammar_of(max_score))


def find_closing_verdict(text: str) -> int:
    """Find the start of a comparison's closing line that states a verdict."""
    return find_closing_statement(text, VERDICT_GRAMMAR)


def remove_score_lines(text: str, *, closing: bool = True) -> str:
    """Remove all score statements from a judgment, so that only the reasons remain.

    Afterwards `parse_score` finds none. Used by the option that hides scores from the meta-judge,
    which otherwise prefers the higher ones.

    Args:
        text: a judgment.
        closing: whether a last line without a label is removed too if it states a score.
    """
    return remove_statements(text, _grammar_of(MAX_SCORE), closing=closing).rstrip()


def remove_verdict_lines(text: str) -> str:
    """Remove all labeled verdicts from a comparison, so that only the reasons remain."""
    return remove_statements(text, VERDICT_GRAMMAR, closing=False)
