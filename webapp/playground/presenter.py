"""Playground turns for pages, read from jobs, with unchanged texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

from django.contrib.auth.models import User

from meta_reward_core.evaluation.judge_metrics import compute_mean
from meta_reward_core.method.parsing import UNSCORED_TEXT
from webapp.accounts.permissions import can_control
from webapp.experiments.jobs import PENDING
from webapp.experiments.models import (
    Experiment,
    Job,
    JobStatus,
    PlaygroundVote,
    RunStatus,
    VoteChoice,
)
from webapp.playground.conversations import get_playground_turns, get_replies, list_turns

_REASONS: Final[Mapping[str, str]] = {str(key): text for key, text in UNSCORED_TEXT.items()}
_ENDINGS: Final = {
    "stop": "stopped at end of text",
    "length": "cut off by the token limit",
    "refused": "refused",
}
_TITLE_CHARS: Final = 120
_FOLLOWERS_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class JudgmentView:
    """A judgment. `score` is empty if none could be parsed; `reason` gives the cause.

    Attributes:
        label: the cause in a few words.
    """

    text: str
    score: str
    label: str
    reason: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """One judge's opinion on one response.

    Attributes:
        mean: mean of its scores; empty if none could be parsed.
        basis: the number of scores behind the mean.
        is_own: whether the judge is the model that gave the response.
    """

    judge: str
    mean: str
    basis: str
    is_own: bool
    judgments: Sequence[JudgmentView]


@dataclass(frozen=True, slots=True)
class ResponseView:
    """One model's response with its judgments."""

    model: str
    text: str
    refusal: str
    tokens: int
    seconds: float
    ending: str
    verdicts: Sequence[Verdict]


@dataclass(frozen=True, slots=True)
class VoteOption:
    """A choice of the vote on a turn.

    Attributes:
        count: number of users who chose it.
        is_own: whether this user chose it.
    """

    choice: str
    label: str
    count: int
    is_own: bool


@dataclass(frozen=True, slots=True)
class PlaygroundTurn:
    """A turn of a conversation.

    Attributes:
        number: its position in its conversation, from 1.
        doing: the worker's current activity for this turn.
        votes: the choices of a vote, if two models responded.
        shows_settings: whether its settings and judges are the first or differ from the turn
            before.
    """

    row: Job
    number: int
    prompt: str
    models: Sequence[str]
    judges: Sequence[str]
    settings: str
    is_active: bool
    doing: str
    tokens: int
    answers: Sequence[ResponseView]
    shows_settings: bool = True
    votes: Sequence["VoteOption"] = ()

    @property
    def own_judges(self) -> Sequence[str]:
        """Names of the models that judged their own responses."""
        own = (v.judge for answer in self.answers for v in answer.verdicts if v.is_own)
        return list(dict.fromkeys(own))


@dataclass(frozen=True, slots=True)
class ConversationLine:
    """A conversation in a list.

    Attributes:
        row: its last turn.
        title: first line of its first prompt, shortened.
        turns: number of turns.
    """

    row: Job
    title: str
    turns: int
    models: Sequence[str]
    judges: Sequence[str]
    is_active: bool


@dataclass(frozen=True, slots=True)
class Follower:
    """A turn that follows the displayed turn."""

    row: Job
    title: str


def list_made_models(experiment: Experiment) -> list[int]:
    """List the numbers of the experiment's models, M0 first."""
    finished = experiment.iterations.filter(status=RunStatus.FINISHED)
    return [0, *finished.order_by("number").values_list("number", flat=True)]


def read_turn(job: Job) -> PlaygroundTurn:
    """Read a turn from its job."""
    payload, outcome = job.payload, job.outcome
    sampling = payload["sampling"]
    return PlaygroundTurn(
        row=job,
        number=len(list_turns(job)),
        prompt=str(payload["prompt"]),
        models=_format_model_names(payload["models"]),
        judges=_format_model_names(payload["judges"]),
        settings=f"temperature {sampling['temperature']:g}, top-p {sampling['top_p']:g}, "
        f"up to {sampling['max_new_tokens']:,} tokens, seed {payload['seed']}",
        is_active=job.status in PENDING,
        doing=outcome.get("doing", ""),
        tokens=outcome.get("tokens", 0),
        answers=[
            _make_response_view(answer, payload["judges"], outcome.get("judgments", []))
            for answer in outcome.get("answers", [])
        ],
    )


def read_turns(jobs: Sequence[Job], user: User) -> list[PlaygroundTurn]:
    """Read the turns of a conversation with its votes; settings are shown where they change."""
    votes: dict[int, list[PlaygroundVote]] = {job.pk: [] for job in jobs}
    for vote in PlaygroundVote.objects.filter(turn__in=jobs):
        votes[vote.turn_id].append(vote)
    turns = [
        replace(turn, votes=_make_vote_options(turn, votes[turn.row.pk], user))
        for turn in map(read_turn, jobs)
    ]
    return turns[:1] + [
        replace(
            turn,
            shows_settings=(turn.settings, turn.judges) != (before.settings, before.judges),
        )
        for before, turn in pairwise(turns)
    ]


def can_vote(job: Job) -> bool:
    """Whether a turn has two responses to compare."""
    return job.status == JobStatus.DONE and len(get_replies(job)) == 2


def _make_vote_options(
    turn: PlaygroundTurn, votes: Sequence[PlaygroundVote], user: User
) -> list[VoteOption]:
    if not can_vote(turn.row):
        return []
    first, second = (answer.model for answer in turn.answers)
    labels = {
        VoteChoice.FIRST: f"{first} is better",
        VoteChoice.TIE: "Tie",
        VoteChoice.SECOND: f"{second} is better",
    }
    return [
        VoteOption(
            choice=choice.value,
            label=label,
            count=sum(vote.choice == choice for vote in votes),
            is_own=any(vote.choice == choice and vote.voter_id == user.pk for vote in votes),
        )
        for choice, label in labels.items()
    ]


def read_conversation(job: Job) -> ConversationLine:
    """Read a conversation from the job of its last turn."""
    turns = list_turns(job)
    return ConversationLine(
        row=job,
        title=_shorten(turns[0].payload["prompt"]),
        turns=len(turns),
        models=_format_model_names(job.payload["models"]),
        judges=_format_model_names(job.payload["judges"]),
        is_active=job.status in PENDING,
    )


def read_followers(job: Job) -> list[Follower]:
    """Read the latest turns that follow a turn."""
    rows = job.followed_by.defer("outcome")
    return [Follower(row, _shorten(row.payload["prompt"])) for row in rows[:_FOLLOWERS_SHOWN]]


def find_latest_turn(experiment: Experiment, prompt: str) -> PlaygroundTurn | None:
    """Find the last first turn with exactly this prompt."""
    jobs = get_playground_turns(experiment).filter(follows=None, payload__prompt=prompt)
    job = jobs.select_related("created_by").order_by("-pk").first()
    return None if job is None else read_turn(job)


def can_cancel(user: User, job: Job) -> bool:
    """Whether a user can cancel a turn: its user, and users who control the experiment."""
    if job.status not in PENDING or job.experiment is None:
        return False
    return job.created_by_id == user.pk or can_control(user, job.experiment)


def _shorten(prompt: str) -> str:
    line = next((line for line in prompt.splitlines() if line.strip()), "")
    return line if len(line) <= _TITLE_CHARS else f"{line[:_TITLE_CHARS]}…"


def _format_model_names(models: Sequence[int]) -> list[str]:
    return [f"M{number}" for number in models]


def _make_response_view(
    answer: Mapping[str, Any], judges: Sequence[int], judgments: Sequence[Mapping[str, Any]]
) -> ResponseView:
    model = answer["model"]
    return ResponseView(
        model=f"M{model}",
        text=answer["text"],
        refusal=answer.get("refusal") or "",
        tokens=answer["tokens"],
        seconds=answer["seconds"],
        ending=_ENDINGS[answer["finish_reason"]],
        verdicts=[
            _make_verdict(judge, theirs, judges_itself=judge == model)
            for judge in judges
            if (theirs := [j for j in judgments if (j["judge"], j["model"]) == (judge, model)])
        ],
    )


def _make_verdict(
    judge: int, judgments: Sequence[Mapping[str, Any]], *, judges_itself: bool
) -> Verdict:
    scores = [judgment["score"] for judgment in judgments if judgment["score"] is not None]
    mean = compute_mean(scores)
    return Verdict(
        judge=f"M{judge}",
        mean="" if mean is None else f"{mean:.1f}",
        basis=f"n = {len(scores)} of {len(judgments)} judgment{'s' if len(judgments) > 1 else ''}",
        is_own=judges_itself,
        judgments=[_make_judgment_view(judgment) for judgment in judgments],
    )


def _make_judgment_view(judgment: Mapping[str, Any]) -> JudgmentView:
    reason, score = judgment["unscored_reason"], judgment["score"]
    return JudgmentView(
        text=judgment["text"],
        score="" if score is None else f"{score:g}",
        label=(reason or "").replace("_", " "),
        reason="" if reason is None else _REASONS.get(reason, reason),
        tokens=judgment["tokens"],
    )
