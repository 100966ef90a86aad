"""Detect responses that try to manipulate the judge, from the texts alone.

Nothing here changes a metric. An issue warns that the metrics of the same scorecard may be
misleading, and counts the answers that a user should check.

Source: Zheng et al. 2024, "Cheating Automatic LLM Benchmarks: Null Models Achieve High Win
Rates", arXiv 2410.07137.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from meta_reward_core.evaluation.scorecard import DataIssue, make_issue_if_any
from meta_reward_core.method.parsing import has_judge_line

CONSTANT_SHARE: Final = 0.2
"""Minimum share of answers with the same beginning that is reported. Our choice."""

COPY_SHARE: Final = 0.05
"""Minimum share of answers that equal or contain the baseline's answer that is reported.
Our choice.
"""

TextPredicate = Callable[[str], bool]

_OPENING_CHARS: Final = 200
_MIN_IDENTICAL: Final = 3
_MIN_COPIED_CHARS: Final = 200

_VERDICT_MARK = re.compile(
    r"\[\[\s*(?:[AB]\s*(?:[<>]{1,2}|=)\s*[AB]|[ABC]|10|[0-9](?:\.[0-9]+)?|tie)\s*\]\]"
    r"|\"rank\"\s*:\s*[12]\b"
    r"|\"(?:preference|verdict|winner)\"\s*:",
    re.IGNORECASE,
)
_JUDGE_INSTRUCTION = re.compile(
    r"\b(?:ignore|disregard|forget)\s+(?:all\s+|any\s+)?(?:of\s+)?(?:the\s+|these\s+|those\s+|my\s+)?"
    r"(?:previous|prior|above|earlier|preceding|system|foregoing)\s+(?:\w+\s+)?"
    r"(?:instructions?|prompts?|rules?|messages?|text)"
    r"|\b(?:dear|hey|attention|note\s+to\s+(?:the\s+)?)[\s,:]*(?:judge|evaluator|grader|annotator)\b"
    r"|\b(?:judge|evaluator|grader|annotator)s?\s*[:,]?\s+(?:please\s+)?"
    r"(?:must|should|has\s+to|have\s+to|please)\s+"
    r"(?:give|award|rate|score|prefer|choose|select|pick|rank|output)\b"
    r"|\b(?:rate|score|grade|mark|rank)\s+this\s+(?:answer|response|output|reply)\b"
    r"|\b(?:give|award)\s+(?:this\s+(?:answer|response|output|reply)|me)\s+(?:a|an|the)?\s*"
    r"(?:full|highest|maximum|top|perfect|best|10|5)\b"
    r"|\b(?:prefer|choose|select|pick)\s+(?:this\s+(?:answer|response|output|reply)\b"
    r"|(?:output|model|assistant|response|answer)\s+(?:\(?[abmM12]\)?)(?!\w))"
    r"|<\|(?:im_start|im_end|eot_id|start_header_id|begin_of_text|endoftext)\|>"
    r"|\[/?INST\]",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ComparedResponse:
    """A model's response to a prompt, and the baseline's if there is one."""

    instruction: str
    text: str
    baseline: str | None = None


def find_judge_hacking(answers: Sequence[ComparedResponse]) -> list[DataIssue]:
    """Find patterns in a model's responses that could manipulate a judge."""
    return [
        *_find_constant_responses(answers),
        *_find_baseline_copies(answers),
        *make_issue_if_any(
            [a for a in answers if _is_suspicious(a, has_verdict_mark)],
            "verdict_marks",
            "Answers that contain a judge's mark, such as [[A>B]], [[10]] or 'Score: 5': {rows}.",
            "A judge that repeats or completes them scores itself. Read these answers, and "
            "exclude them in a second evaluation.",
        ),
        *make_issue_if_any(
            [a for a in answers if _is_suspicious(a, has_judge_instructions)],
            "addresses_judge",
            "Answers that address the judge or contain chat control tokens: {rows}.",
            "They may influence the verdict regardless of quality. Read them before you rely "
            "on the metrics.",
        ),
    ]


def has_verdict_mark(text: str) -> bool:
    """Whether a text contains something that would be parsed as a judge's result."""
    return _VERDICT_MARK.search(text) is not None or has_judge_line(text)


def has_judge_instructions(text: str) -> bool:
    """Return whether a text instructs a judge or contains control tokens of a chat template."""
    return _JUDGE_INSTRUCTION.search(text) is not None


def _is_suspicious(answer: ComparedResponse, found_in: TextPredicate) -> bool:
    """Return whether a response matches but its prompt, which may have requested it, does not."""
    return found_in(answer.text) and not found_in(answer.instruction)


def _find_constant_responses(answers: Sequence[ComparedResponse]) -> list[DataIssue]:
    openings = Counter(_normalize_whitespace(answer.text)[:_OPENING_CHARS] for answer in answers)
    if not openings:
        return []
    opening, count = openings.most_common(1)[0]
    if count < max(_MIN_IDENTICAL, CONSTANT_SHARE * len(answers)):
        return []
    example = opening[:60] if opening else "nothing at all"
    return [
        DataIssue(
            "constant_answers",
            f"{count:,} of {len(answers):,} answers are identical or start alike: {example!r}.",
            "Answers that do not depend on the question are worthless, whatever the judge's "
            "verdict.",
            count,
        )
    ]


def _find_baseline_copies(answers: Sequence[ComparedResponse]) -> list[DataIssue]:
    compared = [answer for answer in answers if answer.baseline is not None]
    copies = sum(_is_copy(answer) for answer in compared)
    if not copies or copies < COPY_SHARE * len(compared):
        return []
    return [
        DataIssue(
            "copies_baseline",
            f"{copies:,} of {len(compared):,} answers are copies of the baseline's answer, or "
            f"contain it.",
            "A preference between equal texts is noise: expect a win rate of 50%.",
            copies,
        )
    ]


def _is_copy(answer: ComparedResponse) -> bool:
    own, other = _normalize_whitespace(answer.text), _normalize_whitespace(answer.baseline or "")
    return own == other or (len(other) >= _MIN_COPIED_CHARS and other in own)


def _normalize_whitespace(text: str) -> str:
    return " ".join(text.split())
