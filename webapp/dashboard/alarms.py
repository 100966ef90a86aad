"""Alarms of finished iterations for people: what is the case, what it means, what to try.

What is the case and what to try the core says when the alarm rings; here stands why it matters.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from meta_reward_core.evaluation.alarms import AlarmName
from webapp.experiments.models import Iteration

MEANINGS: Final[dict[AlarmName, tuple[str, str]]] = {
    "judge_collapse": (
        "The judge collapses",
        "Nearly all points are the same, so the best and the worst response are chosen almost by "
        "chance, and training on them teaches little or nonsense. It tends to get worse.",
    ),
    "judge_drift": (
        "The judge's points drift",
        "The judge became milder or stricter on the whole. Points of two iterations can then not "
        "be compared: a higher mean need not be a better actor.",
    ),
    "judgments_unreadable": (
        "Judgments cannot be read",
        "Judgments without a readable score do not count, so the means rest on fewer of them. The "
        "model is losing the form of its judgments.",
    ),
    "verdicts_unreadable": (
        "Verdicts cannot be read",
        "Battles without a readable verdict decide nothing, so the ratings rest on fewer of them.",
    ),
    "too_few_pairs": (
        "Too few pairs",
        "Few prompts train the model, and those that do are no fair sample of all.",
    ),
    "length_growth": (
        "Responses grow longer",
        "Judges like long answers, and training on their choice makes answers longer still, "
        "whether or not they are better.",
    ),
    "one_position_won_everything": (
        "One position wins everything",
        "The meta-judge decides by the place in which a judgment stands and not by what it says. "
        "Its ratings mean nothing.",
    ),
    "meta_judge_follows_score": (
        "The meta-judge follows the points",
        "Judgments win because they give many points. Training on that teaches the judge to give "
        "more, up to always the most.",
    ),
    "meta_judge_inconsistent": (
        "The meta-judge contradicts itself",
        "Shown the same two judgments in the other order it decides otherwise, so its ratings are "
        "mostly noise.",
    ),
}


@dataclass(frozen=True, slots=True)
class AlarmView:
    """An alarm as a page shows it."""

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
