"""Pages that begin experiments: the form, its checks while it is filled in, and the order."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from django.contrib.auth.models import User
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from django_htmx.http import HttpResponseClientRedirect

from meta_reward_core.config import Recipe
from meta_reward_core.errors import RecipeError
from meta_reward_core.recipes import shipped_recipes
from webapp.experiments.models import Order, OrderKind, OrderStatus
from webapp.experiments.orders import place_order
from webapp.launching.command_text import command_text
from webapp.launching.presenting import notes, problems, shown_sections
from webapp.launching.sheets import (
    Base,
    Sheet,
    find_base,
    first_sheet,
    refilled_sheet,
    submitted_sheet,
    wish_of,
)
from webapp.launching.uploads import upload_limit_text
from webapp.launching.wishes import LaunchWish, shipped_recipe
from webapp.people.access import runs, sees, visible_experiments
from webapp.people.roles import RUN_ALL
from webapp.regions import render_page, wants_region

_RECIPE_FILE_BYTES: Final = 65_536
_WAITS_LONG: Final = timedelta(seconds=20)


@dataclass(frozen=True, slots=True)
class ShippedRecipe:
    """A recipe to begin with; `brings_all` means that it needs neither model nor prompts."""

    recipe: Recipe
    brings_all: bool


@require_http_methods(["GET", "HEAD", "POST"])
@runs
def new(request: HttpRequest) -> HttpResponse:
    """Choose a recipe, fill in the form, check it, and ask for the experiment."""
    try:
        if request.method != "POST":
            return _opened(request)
        given = request.POST
        base = find_base(
            request,
            name=given.get("base_recipe", ""),
            text=_sent_text(request),
            origin=given.get("origin", ""),
        )
    except RecipeError as error:
        return _choose_recipe(request, problem=str(error))
    if given.get("action") == "begin":
        return _form_page(request, first_sheet(request, base))
    return _checked_or_placed(request, base)


@require_safe
@runs
def duplicate(request: HttpRequest, name: str) -> HttpResponse:
    """Fill in the form with what another experiment began with."""
    try:
        base = find_base(request, name="", text="", origin=name)
    except RecipeError as error:
        return _choose_recipe(request, problem=f"{name} cannot be duplicated: {error}")
    return _form_page(request, first_sheet(request, base))


@require_POST
@runs
def prompts(request: HttpRequest) -> HttpResponse:
    """Take prompts that are sent, and show what they are."""
    try:
        base = find_base(
            request,
            name=request.POST.get("base_recipe", ""),
            text=request.POST.get("base_text", ""),
            origin=request.POST.get("origin", ""),
        )
    except RecipeError as error:
        return _choose_recipe(request, problem=str(error))
    sheet = submitted_sheet(request, base, is_final=False)
    response = _form_page(request, sheet, region="launching/partials/prompts.html")
    if wants_region(request):
        response.headers["HX-Trigger-After-Swap"] = "prompts-ready"
    return response


@require_safe
@sees
def order(request: HttpRequest, pk: int) -> HttpResponse:
    """Show what became of a launch; once it is done, the experiment."""
    row = get_object_or_404(
        Order.objects.select_related("experiment"), pk=pk, kind=OrderKind.LAUNCH
    )
    if row.by_id != request.user.pk and not request.user.has_perm(RUN_ALL):
        raise Http404
    if row.status == OrderStatus.DONE and row.experiment is not None:
        page = reverse("experiment", args=[row.experiment.name])
        return HttpResponseClientRedirect(page) if wants_region(request) else redirect(page)
    context = {
        "order": row,
        "wish": LaunchWish.read(row.wish),
        "said": row.outcome.get("said", []),
        "is_active": row.status in {OrderStatus.WAITING, OrderStatus.RUNNING},
        "waits_long": row.status == OrderStatus.WAITING
        and timezone.now() - row.created > _WAITS_LONG,
    }
    return render_page(
        request,
        "launching/order.html",
        region="launching/partials/order.html",
        context=context,
    )


def _opened(request: HttpRequest) -> HttpResponse:
    if "order" in request.GET:
        return _form_page(request, _sheet_of_order(request, request.GET["order"]))
    if "recipe" not in request.GET:
        return _choose_recipe(request)
    base = find_base(request, name=request.GET["recipe"], text="", origin="")
    return _form_page(request, first_sheet(request, base))


def _sheet_of_order(request: HttpRequest, pk: str) -> Sheet:
    """The form as it was when this person placed an order from it."""
    if not pk.isdecimal():
        raise Http404
    row = get_object_or_404(Order, pk=int(pk), kind=OrderKind.LAUNCH, by=request.user)
    wish = LaunchWish.read(row.wish)
    is_there = visible_experiments(request.user).filter(name=wish.origin).exists()
    origin = wish.origin if is_there else ""
    base = find_base(request, name=wish.recipe, text=wish.recipe_text, origin=origin)
    return refilled_sheet(request, base, wish)


def _sent_text(request: HttpRequest) -> str:
    """YAML of a recipe: from a file, or as it stands in the form.

    Raises:
        RecipeError: the file is no text, or larger than a recipe can be.
    """
    file = request.FILES.get("recipe_file")
    text = request.POST.get("base_text", "")
    if file is not None:
        data = file.read(_RECIPE_FILE_BYTES + 1)
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise RecipeError("the recipe is not UTF-8 text") from error
    if len(text) > _RECIPE_FILE_BYTES:
        raise RecipeError(f"a recipe has at most {_RECIPE_FILE_BYTES:,} characters")
    return text


def _checked_or_placed(request: HttpRequest, base: Base) -> HttpResponse:
    is_final = request.POST.get("action") == "launch" and not wants_region(request)
    sheet = submitted_sheet(request, base, is_final=is_final)
    if not is_final or not sheet.is_ready:
        return _form_page(request, sheet)
    wish = wish_of(sheet)
    placed = place_order(
        OrderKind.LAUNCH, by=_person(request), subject=wish.name, wish=wish.write()
    )
    return redirect("launch_order", pk=placed.pk)


def _person(request: HttpRequest) -> User | None:
    return request.user if isinstance(request.user, User) else None


def _choose_recipe(request: HttpRequest, *, problem: str = "") -> HttpResponse:
    shipped = sorted(map(shipped_recipe, shipped_recipes()), key=lambda one: one.sample.prompts)
    context = {
        "recipes": [ShippedRecipe(recipe, recipe.world is not None) for recipe in shipped],
        "problem": problem,
        "text": request.POST.get("base_text", ""),
    }
    return render(request, "launching/recipes.html", context)


def _form_page(
    request: HttpRequest, sheet: Sheet, *, region: str = "launching/partials/check.html"
) -> HttpResponse:
    context = {
        "sheet": sheet,
        "form": sheet.form,
        "base": sheet.base,
        "command": command_text(sheet),
        "sections": shown_sections(sheet),
        "notes": notes(sheet),
        "problems": problems(sheet),
        "is_region": wants_region(request),
        "upload_limit": upload_limit_text(),
    }
    return render_page(request, "launching/new.html", region=region, context=context)
