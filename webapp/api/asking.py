"""Operations on an experiment's models: try two of them, publish one."""

from collections.abc import Iterable

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Router, Status

from meta_reward_core.errors import InputError
from meta_reward_core.recipes import parse_recipe
from webapp.api.permissions import runs
from webapp.api.problems import PROBLEMS, ConflictError, require_valid
from webapp.api.schemas import FollowIn, OrderOut, PublishIn, TryIn
from webapp.experiments.models import OrderKind
from webapp.experiments.orders import place_order
from webapp.people.access import find_experiment, find_to_steer
from webapp.people.signed_in import person_of
from webapp.trying.conversations import (
    tries_of,
    turns_of,
    why_not_followed,
    with_earlier_turns,
)
from webapp.trying.forms import FollowForm, PublishForm, TryForm, first_values, turn_values
from webapp.trying.published import has_hub
from webapp.trying.tries import made_models

router = Router(tags=["models"])


@router.post("/{name}/tries", response={202: OrderOut, **PROBLEMS})
@runs
def try_models(request: HttpRequest, name: str, given: TryIn) -> Status[OrderOut]:
    """Let two models answer a prompt, and judge both answers.

    The order that comes back holds answers and judgments in its outcome once it is done.
    """
    row = find_experiment(request.user, name)
    made = made_models(row)
    if strangers := set(given.judges) - set(given.models):
        raise InputError(f"judges: {_named(strangers)} must be among the two models that answer")
    said = given.model_dump(exclude={"models", "judges"}, exclude_none=True)
    first, second = given.models
    chosen = {"first": first, "second": second}
    judges = [which for which, number in chosen.items() if number in given.judges]
    begun = first_values(parse_recipe(row.recipe, origin=row.name), made)
    form = TryForm(begun | said | chosen | {"judges": judges}, made=made)
    require_valid(form)
    by = person_of(request)
    order = place_order(OrderKind.CHAT, by=by, experiment=row, wish=form.wish())
    return Status(202, OrderOut.of(order))


@router.post("/{name}/tries/{int:number}/follow-ups", response={202: OrderOut, **PROBLEMS})
@runs
def follow_up(request: HttpRequest, name: str, number: int, given: FollowIn) -> Status[OrderOut]:
    """Go on with a conversation: each model answers after its own earlier answers.

    Args:
        number: the order of the turn before, which must be done.
    """
    row = find_experiment(request.user, name)
    last = get_object_or_404(with_earlier_turns(tries_of(row)), pk=number)
    if hindrance := why_not_followed(turns_of(last)):
        raise ConflictError(hindrance)
    said = given.model_dump(exclude_none=True)
    form = FollowForm(turn_values(last.wish) | said, models=last.wish["models"])
    require_valid(form)
    order = place_order(
        OrderKind.CHAT, by=person_of(request), experiment=row, wish=form.wish(), follows=last
    )
    return Status(202, OrderOut.of(order))


@router.post("/{name}/iterations/{int:number}/publish", response={202: OrderOut, **PROBLEMS})
@runs
def publish_model(
    request: HttpRequest, name: str, number: int, given: PublishIn
) -> Status[OrderOut]:
    """Publish M_number: a folder, an archive and, where a token is configured, a repository."""
    row = find_to_steer(request.user, name)
    get_object_or_404(row.iterations, number=number)
    if number not in made_models(row):
        raise ConflictError(f"M{number} is not made yet: its iteration must be finished")
    if given.repository and not has_hub():
        raise InputError("repository: no token of a hub is configured for this installation")
    form = PublishForm(given.model_dump(), has_hub=has_hub())
    require_valid(form)
    order = place_order(
        OrderKind.PUBLISH, by=person_of(request), experiment=row, wish=form.wish(number=number)
    )
    return Status(202, OrderOut.of(order))


def _named(numbers: Iterable[int]) -> str:
    return ", ".join(f"M{number}" for number in sorted(numbers))
