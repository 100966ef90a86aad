"""Playground conversations: a turn may follow another turn.

Each turn is a separate job, so it has its own status and can fail, be cancelled and be retried
independently. A turn with two follow-ups starts two conversations.
"""

from collections.abc import Sequence
from typing import Final

from django.contrib.auth.models import User
from django.db.models import QuerySet

from webapp.experiments.jobs import PENDING
from webapp.experiments.models import Experiment, Job, JobKind, JobStatus, PlaygroundVote

MAX_TURNS: Final = 20
"""Maximum turns of a conversation; one query loads it, and models read all of it at every turn."""

_EARLIER: Final = ["__".join(["follows"] * steps) for steps in range(1, MAX_TURNS)]


def get_playground_turns(experiment: Experiment) -> QuerySet[Job]:
    """Select every turn of every conversation of an experiment."""
    return Job.objects.filter(experiment=experiment, kind=JobKind.CHAT)


def get_conversations(experiment: Experiment) -> QuerySet[Job]:
    """Select the last turn of each conversation, with earlier turns but without outcomes."""
    outcomes = ["outcome", *(f"{earlier}__outcome" for earlier in _EARLIER)]
    last = get_playground_turns(experiment).filter(followed_by=None)
    return last.select_related("created_by", _EARLIER[-1]).defer(*outcomes)


def prefetch_earlier_turns(turns: QuerySet[Job]) -> QuerySet[Job]:
    """Fetch, with each turn, what `list_turns` reads."""
    users = [f"{earlier}__created_by" for earlier in _EARLIER]
    return turns.select_related("created_by", "experiment", _EARLIER[-1], *users)


def list_turns(job: Job) -> list[Job]:
    """List the turns of a conversation up to a turn, oldest first."""
    turns = [job]
    while (earlier := turns[0].follows) is not None:
        turns.insert(0, earlier)
    return turns


def get_replies(job: Job) -> dict[int, str]:
    """Return the responses of a turn by model, without models whose engine refused the prompt."""
    return {
        answer["model"]: answer["text"]
        for answer in job.outcome.get("answers", [])
        if answer["finish_reason"] != "refused"
    }


def store_vote(turn: Job, voter: User, choice: str) -> None:
    """Store which response of a turn a user prefers, in place of an earlier vote."""
    PlaygroundVote.objects.update_or_create(turn=turn, voter=voter, defaults={"choice": choice})


def explain_not_followable(turns: Sequence[Job]) -> str | None:
    """Explain why the last turn of a conversation cannot be followed; None if it can."""
    last = turns[-1]
    if last.status in PENDING:
        return "The models are still responding. Wait until this turn is completed."
    if last.status == JobStatus.REFUSED:
        return "This turn failed. Retry it before sending a follow-up."
    silent = [number for number in last.payload["models"] if number not in get_replies(last)]
    if silent:
        names = " and ".join(f"M{number}" for number in silent)
        return (
            f"{names} gave no response, so the conversation cannot continue. Resend this turn with "
            "a shorter prompt or fewer tokens, or start a new conversation."
        )
    if len(turns) >= MAX_TURNS:
        return f"A conversation has at most {MAX_TURNS} turns. Start a new one."
    return None
