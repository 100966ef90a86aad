"""Operations on what the experiments share: recipes, workers, orders."""

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Router

from meta_reward_core.errors import RecipeError
from meta_reward_core.recipes.loader import list_shipped_recipes, load_recipe
from webapp.api.errors import PROBLEMS
from webapp.api.experiments import Limit, Offset
from webapp.api.permissions import require_view
from webapp.api.schemas import OrderOut, OrderPage, RecipeFieldOut, RecipeOut, WorkerOut
from webapp.dashboard.activity_log import get_visible_jobs
from webapp.experiment_form.recipe_fields import get_recipe_fields
from webapp.experiments.progress import list_worker_states

router = Router(tags=["installation"])


@router.get("/recipes", response={200: list[RecipeOut], **PROBLEMS})
@require_view
def list_recipes(request: HttpRequest) -> list[RecipeOut]:  # noqa: ARG001
    """List the recipes that come with the installation."""
    return [_load_recipe_out(name) for name in list_shipped_recipes()]


@router.get("/recipes/fields", response={200: list[RecipeFieldOut], **PROBLEMS})
@require_view
def list_recipe_fields(request: HttpRequest) -> list[RecipeFieldOut]:  # noqa: ARG001
    """List every value of a recipe: what it means, its bounds, its unit and where it is from."""
    return [RecipeFieldOut.model_validate(field) for field in get_recipe_fields().values()]


@router.get("/recipes/{name}", response={200: RecipeOut, **PROBLEMS})
@require_view
def get_recipe(request: HttpRequest, name: str) -> RecipeOut:  # noqa: ARG001
    """Read a recipe that comes with the installation."""
    if name not in list_shipped_recipes():
        raise RecipeError(f"no recipe of this name comes with the installation: {name!r}")
    return _load_recipe_out(name)


@router.get("/workers", response={200: list[WorkerOut], **PROBLEMS})
@require_view
def list_workers(request: HttpRequest) -> list[WorkerOut]:  # noqa: ARG001
    """List the workers and what each does."""
    return [WorkerOut.of(state) for state in list_worker_states()]


@router.get("/orders", response={200: OrderPage, **PROBLEMS})
@require_view
def list_orders(request: HttpRequest, limit: Limit = 50, offset: Offset = 0) -> OrderPage:
    """List what was asked for, newest first: the log of who did what when."""
    rows = get_visible_jobs(request.user)
    page = rows.select_related("by")[offset : offset + limit]
    return OrderPage(count=rows.count(), orders=[OrderOut.of(row) for row in page])


@router.get("/orders/{number}", response={200: OrderOut, **PROBLEMS})
@require_view
def get_order(request: HttpRequest, number: int) -> OrderOut:
    """Say what became of an order."""
    rows = get_visible_jobs(request.user).select_related("by")
    return OrderOut.of(get_object_or_404(rows, pk=number))


def _load_recipe_out(name: str) -> RecipeOut:
    recipe = load_recipe(name)
    return RecipeOut(
        name=recipe.name,
        description=recipe.description,
        values=recipe.model_dump(mode="json"),
    )
