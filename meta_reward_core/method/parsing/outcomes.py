"""Parsing results: a score or a verdict, or the reason why there is none."""

from dataclasses import dataclass
from typing import Final, Literal

from meta_reward_core.storage.records import Verdict

MIN_SCORE: Final = 0.0
MAX_SCORE: Final = 5.0

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

UnparsedReason = Literal[
    "no_winner_line", "winner_not_readable", "judgment_cut_off", "prompt_refused"
]
NO_WINNER_LINE: Final = "no_winner_line"
WINNER_NOT_READABLE: Final = "winner_not_readable"

UNSCORED_TEXT: Final[dict[UnscoredReason, str]] = {
    NO_SCORE_LINE: "The judgment has no line that states a score, such as 'Score: 4'.",
    SCORE_NOT_A_NUMBER: "The text after 'Score:' is not a single valid number.",
    SCORE_OUT_OF_RANGE: "The score is outside the rubric's scale.",
    SCORE_ON_ANOTHER_SCALE: "The score is given on a scale with a different maximum.",
    JUDGMENT_CUT_OFF: "The judgment ends before its score is complete: the token limit cut it "
    "off, or its reasoning block is not closed.",
    PROMPT_REFUSED: "The engine refused the prompt: prompt and reply together exceed its "
    "length limit.",
}
UNPARSED_TEXT: Final[dict[UnparsedReason, str]] = {
    NO_WINNER_LINE: "The meta-judgment has no line that states a winner, such as 'Winner: "
    "Judgement A'.",
    WINNER_NOT_READABLE: "What follows 'Winner:' is not Judgement A alone, Judgement B alone or a "
    "tie.",
    JUDGMENT_CUT_OFF: "The meta-judgment ends before its verdict is complete: the token limit cut "
    "it off, or its reasoning block is not closed.",
    PROMPT_REFUSED: "The engine refused the prompt: prompt and reply together exceed its "
    "length limit.",
}


@dataclass(frozen=True, slots=True)
class ParsedScore:
    """Score of a judgment, or the reason why there is none. Exactly one is set."""

    score: float | None
    reason: UnscoredReason | None


@dataclass(frozen=True, slots=True)
class ParsedVerdict:
    """Verdict of a meta-judgment, or the reason why there is none. Exactly one is set."""

    verdict: Verdict | None
    reason: UnparsedReason | None
