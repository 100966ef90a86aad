"""Conversations with models: a try that follows another one goes on with what was said.

Each turn is an order of its own, so it has its own status, can fail, be cancelled and be asked
again without the others. A turn that is followed twice begins two conversations.
"""

from collections.abc import Sequence
from typing import Final

from django.db.models import QuerySet

from webapp.experiments.models import Experiment, JobKind, JobStatus, Order

ACTIVE: Final = (JobStatus.WAITING, JobStatus.RUNNING)

MAX_TURNS: Final = 20
"""One query fetches a conversation, one page shows it, and models read all of it at every turn."""

_EARLIER: Final = ["__".join(["follows"] * steps) for steps in range(1, MAX_TURNS)]


def get_playground_turns(experiment: Experiment) -> QuerySet[Order]:
    """Every try of an experiment's models: each turn of each conversation."""
    return Order.objects.filter(experiment=experiment, kind=JobKind.CHAT)


def get_conversations(experiment: Experiment) -> QuerySet[Order]:
    """The last turn of each conversation, with the turns before it, without what came of them."""
    outcomes = ["outcome", *(f"{earlier}__outcome" for earlier in _EARLIER)]
    last = get_playground_turns(experiment).filter(followed_by=None)
    return last.select_related("by", _EARLIER[-1]).defer(*outcomes)


def prefetch_earlier_turns(tries: QuerySet[Order]) -> QuerySet[Order]:
    """Fetch, with each try, whatever `list_turns` wants to know of it."""
    asked_by = [f"{earlier}__by" for earlier in _EARLIER]
    return tries.select_related("by", "experiment", _EARLIER[-1], *asked_by)


def list_turns(order: Order) -> list[Order]:
    """The conversation up to a try, its first turn first."""
    turns = [order]
    while (earlier := turns[0].follows) is not None:
        turns.insert(0, earlier)
    return turns


def get_replies(order: Order) -> dict[int, str]:
    """What each model answered in a turn; one whose engine refused the prompt is left out."""
    return {
        answer["model"]: answer["text"]
        for answer in order.outcome.get("answers", [])
        if answer["finish_reason"] != "refused"
    }


def explain_not_followable(turns: Sequence[Order]) -> str | None:
    """Say why nothing can be said after the last turn of a conversation; None if it can."""
    last = turns[-1]
    if last.status in ACTIVE:
        return "The models are still answering: write a follow-up once this turn is finished."
    if last.status == JobStatus.REFUSED:
        return "Nothing came of this turn: try it again, and follow up on what is answered then."
    silent = [number for number in last.wish["models"] if number not in get_replies(last)]
    if silent:
        names = " and ".join(f"M{number}" for number in silent)
        return (
            f"{names} gave no answer, so there is nothing to go on from: ask this turn again, with "
            "a shorter text or a shorter longest answer, or begin another conversation."
        )
    if len(turns) >= MAX_TURNS:
        return f"A conversation has at most {MAX_TURNS} turns: begin another one."
    return None
