"""Alarms of completed iterations: finding, meaning and suggested action.

The core writes the finding and the action when an alarm is raised; this module explains why it
matters.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from meta_reward_core.evaluation.alarms import AlarmName
from webapp.experiments.models import Iteration

MEANINGS: Final[dict[AlarmName, tuple[str, str]]] = {
    "judge_collapse": (
        "Judge collapse",
        "Nearly all scores are equal, so the best and the worst response are selected almost at "
        "random and training on them teaches little. This tends to get worse.",
    ),
    "judge_drift": (
        "Judge drift",
        "The judge became more lenient or stricter overall. Scores of different iterations are not "
        "comparable: a higher mean does not imply a better actor.",
    ),
    "judgments_unreadable": (
        "Unreadable judgments",
        "Judgments without a readable score are excluded, so means are based on fewer judgments. "
        "The model is losing the judgment format.",
    ),
    "verdicts_unreadable": (
        "Unreadable verdicts",
        "Battles without a readable verdict are excluded, so ratings are based on fewer battles.",
    ),
    "too_few_pairs": (
        "Too few pairs",
        "Few prompts yield pairs, and those prompts are not representative of all prompts.",
    ),
    "pairs_of_few_verdicts": (
        "Judge pairs with few verdicts",
        "The ratings of these judgments are based on few battles, or on battles in one order "
        "only, whose outcome position bias can decide. Training on them teaches the judge noise.",
    ),
    "length_growth": (
        "Length growth",
        "Judges prefer long responses, and training on their choices makes responses even longer, "
        "whether or not they are better.",
    ),
    "one_position_won_everything": (
        "One position wins everything",
        "The meta-judge decides by the position of a judgment, not by its content. Its ratings "
        "carry no information.",
    ),
    "meta_judge_follows_score": (
        "The meta-judge follows the score",
        "Judgments win because they assign a high score. Training on them teaches the judge to "
        "assign higher scores, eventually always the maximum.",
    ),
    "meta_judge_inconsistent": (
        "The meta-judge contradicts itself",
        "It often reverses its verdict when the order of two judgments is swapped, so its ratings "
        "are mostly noise.",
    ),
}


@dataclass(frozen=True, slots=True)
class AlarmView:
    """An alarm for a page."""

    iteration: int
    title: str
    sentence: str
    meaning: str
    advice: str


def list_alarms(iterations: Iterable[Iteration]) -> list[AlarmView]:
    """Read the alarms of finished iterations, the latest iteration first."""
    latest_first = sorted(iterations, key=lambda row: -row.number)
    return [
        _make_alarm_view(row.number, alarm)
        for row in latest_first
        for alarm in row.metrics.get("alarms", [])
    ]


def _make_alarm_view(iteration: int, alarm: dict[str, str]) -> AlarmView:
    known = {str(name): words for name, words in MEANINGS.items()}
    title, meaning = known.get(alarm["name"], (alarm["name"].replace("_", " "), ""))
    return AlarmView(iteration, title, alarm["sentence"], meaning, alarm["advice"])
