"""Operations on an experiment's models: try two of them, publish one."""

from collections.abc import Iterable

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Router, Status

from meta_reward_core.errors import InputError
from meta_reward_core.recipes.loader import parse_recipe
from webapp.accounts.current_user import get_user
from webapp.accounts.permissions import get_controllable_experiment, get_viewable_experiment
from webapp.api.errors import PROBLEMS, ConflictError, require_valid
from webapp.api.permissions import require_run
from webapp.api.schemas import FollowIn, OrderOut, PublishIn, TryIn
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


@router.post("/{name}/tries", response={202: OrderOut, **PROBLEMS})
@require_run
def try_models(request: HttpRequest, name: str, given: TryIn) -> Status[OrderOut]:
    """Let two models answer a prompt, and judge both answers.

    The order that comes back holds answers and judgments in its outcome once it is done.
    """
    row = get_viewable_experiment(request.user, name)
    made = list_made_models(row)
    if strangers := set(given.judges) - set(given.models):
        raise InputError(
            f"judges: {_format_model_names(strangers)} must be among the two models that answer"
        )
    said = given.model_dump(exclude={"models", "judges"}, exclude_none=True)
    first, second = given.models
    chosen = {"first": first, "second": second}
    judges = [which for which, number in chosen.items() if number in given.judges]
    begun = get_initial_values(parse_recipe(row.recipe, origin=row.name), made)
    form = ChatForm(begun | said | chosen | {"judges": judges}, made=made)
    require_valid(form)
    by = get_user(request)
    order = enqueue_job(JobKind.CHAT, by=by, experiment=row, wish=form.wish())
    return Status(202, OrderOut.of(order))


@router.post("/{name}/tries/{int:number}/follow-ups", response={202: OrderOut, **PROBLEMS})
@require_run
def follow_up(request: HttpRequest, name: str, number: int, given: FollowIn) -> Status[OrderOut]:
    """Go on with a conversation: each model answers after its own earlier answers.

    Args:
        number: the order of the turn before, which must be done.
    """
    row = get_viewable_experiment(request.user, name)
    last = get_object_or_404(prefetch_earlier_turns(get_playground_turns(row)), pk=number)
    if hindrance := explain_not_followable(list_turns(last)):
        raise ConflictError(hindrance)
    said = given.model_dump(exclude_none=True)
    form = FollowForm(get_turn_values(last.wish) | said, models=last.wish["models"])
    require_valid(form)
    order = enqueue_job(
        JobKind.CHAT, by=get_user(request), experiment=row, wish=form.wish(), follows=last
    )
    return Status(202, OrderOut.of(order))


@router.post("/{name}/iterations/{int:number}/publish", response={202: OrderOut, **PROBLEMS})
@require_run
def publish_model(
    request: HttpRequest, name: str, number: int, given: PublishIn
) -> Status[OrderOut]:
    """Publish M_number: a folder, an archive and, where a token is configured, a repository."""
    row = get_controllable_experiment(request.user, name)
    get_object_or_404(row.iterations, number=number)
    if number not in list_made_models(row):
        raise ConflictError(f"M{number} is not made yet: its iteration must be finished")
    if given.repository and not has_hub():
        raise InputError("repository: no token of a hub is configured for this installation")
    form = PublishForm(given.model_dump(), has_hub=has_hub())
    require_valid(form)
    order = enqueue_job(
        JobKind.PUBLISH, by=get_user(request), experiment=row, wish=form.wish(number=number)
    )
    return Status(202, OrderOut.of(order))


def _format_model_names(numbers: Iterable[int]) -> str:
    return ", ".join(f"M{number}" for number in sorted(numbers))
