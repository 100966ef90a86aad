"""Operations on an experiment's models: playground and publication."""

from collections.abc import Iterable

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Router, Status

from meta_reward_core.errors import InputError
from meta_reward_core.recipes.loader import parse_stored_recipe
from webapp.accounts.permissions import (
    get_controllable_experiment,
    get_user,
    get_viewable_experiment,
)
from webapp.api.errors import PROBLEMS, ConflictError, require_valid
from webapp.api.permissions import require_publishing, require_run
from webapp.api.schemas import ConversationIn, FollowIn, JobOut, PublishIn
from webapp.experiments.jobs import enqueue_job
from webapp.experiments.models import JobKind
from webapp.playground.conversations import (
    explain_not_followable,
    get_playground_turns,
    list_turns,
    prefetch_earlier_turns,
)
from webapp.playground.forms import (
    ChatForm,
    FollowForm,
    PublishForm,
    get_initial_values,
    get_turn_values,
)
from webapp.playground.presenter import list_made_models
from webapp.playground.publications import has_hub

router = Router(tags=["models"])


@router.post("/{name}/playground", response={202: JobOut, **PROBLEMS})
@require_run
def start_conversation(request: HttpRequest, name: str, given: ConversationIn) -> Status[JobOut]:
    """Send a prompt to two models and judge both responses.

    Once the returned job is completed, its outcome contains the responses and judgments.
    """
    row = get_viewable_experiment(request.user, name)
    made = list_made_models(row)
    if strangers := set(given.judges) - set(given.models):
        raise InputError(
            f"judges: {_format_model_names(strangers)} must be among the two models that respond"
        )
    said = given.model_dump(exclude={"models", "judges"}, exclude_none=True)
    first, second = given.models
    chosen = {"first": first, "second": second}
    judges = [which for which, number in chosen.items() if number in given.judges]
    begun = get_initial_values(parse_stored_recipe(row.recipe, origin=row.name), made)
    form = ChatForm(begun | said | chosen | {"judges": judges}, made=made)
    require_valid(form)
    by = get_user(request)
    job = enqueue_job(JobKind.CHAT, by=by, experiment=row, payload=form.build_payload())
    return Status(202, JobOut.from_row(job))


@router.post("/{name}/playground/{int:number}/follow-ups", response={202: JobOut, **PROBLEMS})
@require_run
def continue_conversation(
    request: HttpRequest, name: str, number: int, given: FollowIn
) -> Status[JobOut]:
    """Send a follow-up: each model continues from its own earlier responses.

    Args:
        number: id of the job of the previous turn, which must be completed.
    """
    row = get_viewable_experiment(request.user, name)
    last = get_object_or_404(prefetch_earlier_turns(get_playground_turns(row)), pk=number)
    if hindrance := explain_not_followable(list_turns(last)):
        raise ConflictError(hindrance)
    said = given.model_dump(exclude_none=True)
    form = FollowForm(get_turn_values(last.payload) | said, models=last.payload["models"])
    require_valid(form)
    job = enqueue_job(
        JobKind.CHAT,
        by=get_user(request),
        experiment=row,
        payload=form.build_payload(),
        follows=last,
    )
    return Status(202, JobOut.from_row(job))


@router.post("/{name}/tries", response={202: JobOut, **PROBLEMS}, deprecated=True)
@require_run
def try_models(request: HttpRequest, name: str, given: ConversationIn) -> Status[JobOut]:
    """Send a prompt to two models. Deprecated: use POST /{name}/playground."""
    return start_conversation(request, name, given)


@router.post(
    "/{name}/tries/{int:number}/follow-ups", response={202: JobOut, **PROBLEMS}, deprecated=True
)
@require_run
def follow_up(request: HttpRequest, name: str, number: int, given: FollowIn) -> Status[JobOut]:
    """Send a follow-up. Deprecated: use POST /{name}/playground/{number}/follow-ups."""
    return continue_conversation(request, name, number, given)


@router.post("/{name}/iterations/{int:number}/publish", response={202: JobOut, **PROBLEMS})
@require_run
def publish_model(request: HttpRequest, name: str, number: int, given: PublishIn) -> Status[JobOut]:
    """Publish M_number: a folder, an archive and, if a token is configured, a repository."""
    row = get_controllable_experiment(request.user, name)
    get_object_or_404(row.iterations, number=number)
    if number not in list_made_models(row):
        raise ConflictError(f"M{number} does not exist yet: its iteration must be completed first")
    if given.repository and not has_hub():
        raise InputError("repository: no Hugging Face token is configured (HF_TOKEN)")
    if given.repository:
        require_publishing(request)
    form = PublishForm(given.model_dump(), has_hub=has_hub())
    require_valid(form)
    job = enqueue_job(
        JobKind.PUBLISH,
        by=get_user(request),
        experiment=row,
        payload=form.build_payload(number=number),
    )
    return Status(202, JobOut.from_row(job))


def _format_model_names(numbers: Iterable[int]) -> str:
    return ", ".join(f"M{number}" for number in sorted(numbers))
