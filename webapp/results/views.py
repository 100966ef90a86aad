"""Pages with the results of an experiment."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import wraps
from itertools import chain
from typing import Any, Concatenate, ParamSpec, cast

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from meta_reward_core.errors import ArtifactError, InputError
from meta_reward_core.method.what_if import get_rules
from meta_reward_core.recipes.loader import parse_stored_recipe
from meta_reward_core.storage.shards import IterationFiles
from webapp.accounts.permissions import (
    can_control,
    get_controllable_experiment,
    get_user,
    get_viewable_experiment,
    require_run,
    require_view,
)
from webapp.accounts.roles import RUN
from webapp.accounts.security_log import log_event
from webapp.activity.models import Action
from webapp.audit.services import request_picked_item
from webapp.experiment_form.fork import find_fork_choice
from webapp.experiment_form.form_state import write_recipe_query
from webapp.experiments.files import open_experiment_files, open_iteration_files
from webapp.experiments.jobs import enqueue_job
from webapp.experiments.models import Experiment, JobKind
from webapp.htmx import render_page_or_partial
from webapp.playground.forms import build_payload_for_all
from webapp.playground.presenter import find_latest_turn, list_made_models
from webapp.results.audit_options import list_audit_options
from webapp.results.battle_page import read_battle_page
from webapp.results.downloads import (
    INSIDE,
    GeneratedFile,
    find_safe_local_path,
    is_stored,
    list_checkpoint_files,
    list_evaluations,
    list_iterations,
    parse_generated_path,
)
from webapp.results.forms import ListForm, RulesForm
from webapp.results.iteration_reader import OpenIteration, open_iteration
from webapp.results.prompt_across_models import PICKS, compare_later, list_responses_across
from webapp.results.prompt_index import KINDS, IterationIndex, find_index
from webapp.results.prompt_list import describe_rows, find_rows
from webapp.results.prompt_page import read_prompt_page
from webapp.results.streaming_export import stream_csv, stream_jsonl, stream_parquet, stream_zip
from webapp.results.what_if_page import SHOWN_ON_A_PAGE, compute_what_if, describe_changed

_PROMPTS_ON_A_PAGE = 25

_log = logging.getLogger(__name__)
_Rest = ParamSpec("_Rest")
_View = Callable[Concatenate[HttpRequest, _Rest], HttpResponseBase]


def _handle_damage(view: _View[_Rest]) -> _View[_Rest]:
    """Show an explanation if a file is missing or damaged, instead of failing."""

    @wraps(view)
    def explained(
        request: HttpRequest, *args: _Rest.args, **kwargs: _Rest.kwargs
    ) -> HttpResponseBase:
        try:
            return view(request, *args, **kwargs)
        except ArtifactError as error:
            _log.warning("%s cannot be shown: %s", request.path, error)
            return render(request, "results/damaged_files.html", status=503)

    return cast("_View[_Rest]", explained)


@require_safe
@require_view
@_handle_damage
def list_prompts(request: HttpRequest, name: str, number: int) -> HttpResponse:
    """List the prompts of an iteration: search, filter and sort."""
    opened = _find_iteration(request, name, number)
    index, progress = find_index(opened)
    form = ListForm(request.GET, label_suffix="")
    rows = find_rows(index, form.cleaned_data) if form.is_valid() else []
    page = Paginator(rows, _PROMPTS_ON_A_PAGE).get_page(request.GET.get("page"))
    context = {
        "experiment": opened.experiment,
        "number": number,
        "form": form,
        "page": page,
        "prompts": describe_rows(index, list(page.object_list)),
        "prompt_count": len(index),
        "progress": progress,
    }
    return render_page_or_partial(
        request,
        "results/prompts.html",
        region="results/_prompt_list.html",
        context=context,
    )


@require_safe
@require_view
@_handle_damage
def show_prompt(request: HttpRequest, name: str, number: int, prompt_id: str) -> HttpResponse:
    """Show all results of one prompt in one iteration."""
    opened = _find_iteration(request, name, number)
    index, progress = find_index(opened)
    row = index.row_of.get(prompt_id)
    if row is None and progress.is_whole:
        raise Http404
    context = {
        "experiment": opened.experiment,
        "number": number,
        "model": number - 1,
        "progress": progress,
        "prompt": None if row is None else read_prompt_page(opened, index, row),
        "may_audit": can_control(get_user(request), opened.experiment),
    }
    return render_page_or_partial(
        request, "results/prompt.html", region="results/_prompt.html", context=context
    )


@require_safe
@require_view
@_handle_damage
def show_battle(request: HttpRequest, name: str, number: int, prompt_id: str) -> HttpResponse:
    """Show the meta-judge's texts on two judgments, in both orders."""
    opened = _find_iteration(request, name, number)
    index, _ = find_index(opened)
    row = index.row_of.get(prompt_id)
    samples = [request.GET.get(which, "") for which in ("first", "second")]
    if row is None or not all(one.isdecimal() and len(one) < 6 for one in samples):
        raise Http404
    first, second = map(int, samples)
    context = {
        "experiment": opened.experiment,
        "number": number,
        "prompt_id": prompt_id,
        "samples": (first, second),
        "battle": read_battle_page(opened, index, row, first=first, second=second),
        "may_audit": can_control(get_user(request), opened.experiment),
    }
    return render_page_or_partial(
        request, "results/battle.html", region="results/_battle.html", context=context
    )


@require_http_methods(["GET", "HEAD", "POST"])
@require_run
@_handle_damage
def send_to_audit(request: HttpRequest, name: str, number: int, prompt_id: str) -> HttpResponse:
    """Send a response or a pair of judgments to the hand-picked audit batch."""
    experiment = get_controllable_experiment(request.user, name)
    opened = _find_iteration(request, name, number)
    index, _ = find_index(opened)
    row = index.row_of.get(prompt_id)
    if row is None:
        raise Http404
    wanted = {which: request.GET.get(which, "") for which in ("response", "judgment", "other")}
    options = list_audit_options(opened, index, row, **wanted)
    chosen = next((one for one in options if one.key == request.POST.get("item")), None)
    if chosen is not None:
        try:
            request_picked_item(
                experiment,
                number,
                chosen.kind,
                chosen.key,
                part=chosen.part,
                by=get_user(request),
            )
        except InputError as error:
            messages.error(request, str(error))
        else:
            messages.success(request, "The item will be added to the batch of hand-picked items.")
            return redirect("experiment_audits", name=name)
    context = {
        "experiment": experiment,
        "number": number,
        "prompt_id": prompt_id,
        "options": options,
        "is_missing": request.method == "POST" and chosen is None,
    }
    status = 422 if request.method == "POST" else 200
    return render(request, "results/send_to_audit.html", context, status=status)


@require_safe
@require_view
@_handle_damage
def show_across_models(request: HttpRequest, name: str, prompt_id: str) -> HttpResponse:
    """Show each model's response to the same prompt."""
    experiment = get_viewable_experiment(request.user, name)
    found, is_whole = _find_indexes(experiment)
    text = _find_prompt_text(found, prompt_id)
    if text is None and is_whole:
        raise Http404
    pick = request.GET.get("pick", "")
    pick = pick if pick in PICKS else next(iter(PICKS))
    asked = None if text is None else find_latest_turn(experiment, text)
    context = {
        "experiment": experiment,
        "prompt_id": prompt_id,
        "text": text or "",
        "answers": list_responses_across(found, prompt_id, pick=pick),
        "iteration_count": len(found),
        "is_whole": is_whole,
        "picks": PICKS,
        "pick": pick,
        "asked": asked,
        "later": compare_later(asked) if asked else [],
        "made": list_made_models(experiment),
        "may_run": request.user.has_perm(RUN),
    }
    return render_page_or_partial(
        request,
        "results/prompt_across_models.html",
        region="results/_prompt_across_models.html",
        context=context,
    )


@require_POST
@require_run
@_handle_damage
def ask_all_models(request: HttpRequest, name: str, prompt_id: str) -> HttpResponse:
    """Request a response to a prompt from every model of the experiment."""
    experiment = get_viewable_experiment(request.user, name)
    text = _find_prompt_text(_find_indexes(experiment)[0], prompt_id)
    if text is None:
        raise Http404
    made = list_made_models(experiment)
    if len(made) > 1:
        payload = build_payload_for_all(
            parse_stored_recipe(experiment.recipe, origin=experiment.name), made, text
        )
        enqueue_job(JobKind.CHAT, by=get_user(request), experiment=experiment, payload=payload)
    else:
        messages.info(request, "Only M0 exists, so nothing was requested.")
    return redirect("prompt_across_models", name=name, prompt_id=prompt_id)


def _find_indexes(
    experiment: Experiment,
) -> tuple[list[tuple[OpenIteration, IterationIndex]], bool]:
    """Return the index of each iteration, as far as loaded, and whether all are complete."""
    numbers = experiment.iterations.order_by("number").values_list("number", flat=True)
    opened = [open_iteration(experiment, number) for number in numbers]
    read = [(one, *find_index(one)) for one in opened]
    is_whole = all(progress.is_whole for _, _, progress in read)
    return [(one, index) for one, index, _ in read], is_whole


def _find_prompt_text(
    found: Sequence[tuple[OpenIteration, IterationIndex]], prompt_id: str
) -> str | None:
    for _, index in found:
        row = index.row_of.get(prompt_id)
        if row is not None:
            return str(index.rows["text"][row].as_py())
    return None


@require_safe
@require_view
@_handle_damage
def show_what_if(request: HttpRequest, name: str, number: int) -> HttpResponse:
    """Show which pairs other rules would select, without generating anything."""
    opened = _find_iteration(request, name, number)
    index, progress = find_index(opened)
    as_they_were = get_rules(opened.recipe, number)
    asked = {key: request.GET.get(key, value) for key, value in asdict(as_they_were).items()}
    form = RulesForm(asked, recipe=opened.recipe, actual=as_they_were, label_suffix="")
    made = compute_what_if(opened, index, form.make_rules()) if form.is_valid() else None
    may_run = request.user.has_perm(RUN)
    values = made.changed_values if made else {}
    page = Paginator(made.changed if made else [], SHOWN_ON_A_PAGE).get_page(
        request.GET.get("page")
    )
    context = {
        "experiment": opened.experiment,
        "number": number,
        "form": form,
        "progress": progress,
        "made": made,
        "weights": opened.weights,
        "page": page,
        "changed": describe_changed(made, index, list(page.object_list)) if made else [],
        "prompt_count": len(index),
        "may_run": may_run,
        "values": write_recipe_query(values),
        "fork": find_fork_choice(opened.experiment, number, values) if may_run and values else None,
    }
    return render_page_or_partial(
        request, "results/what_if.html", region="results/_what_if.html", context=context
    )


@require_safe
@require_view
@_handle_damage
def list_files(request: HttpRequest, name: str) -> HttpResponse:
    """List all downloadable files of an experiment."""
    experiment = get_viewable_experiment(request.user, name)
    numbers = sorted(experiment.iterations.values_list("number", flat=True))
    opened = [open_iteration(experiment, number) for number in (0, *numbers)]
    whole = request.GET.get("all", "")
    files = open_experiment_files(experiment)
    context = {
        "experiment": experiment,
        "description": INSIDE.description,
        "iterations": list_iterations(opened, whole=whole),
        "evaluations": list_evaluations(files, models=len(numbers) + 1),
    }
    return render(request, "results/files.html", context)


@require_safe
@require_view
@_handle_damage
def send_file(request: HttpRequest, name: str, path: str) -> HttpResponseBase:
    """Send a stored or generated file of an experiment."""
    experiment = get_viewable_experiment(request.user, name)
    if is_stored(path):
        return _to_download(_send_stored(experiment, path), experiment, path)
    wanted = parse_generated_path(path)
    if wanted is None:
        raise Http404
    stream = _stream_generated(experiment, wanted)
    first = next(stream, b"")
    return _to_download(StreamingHttpResponse(chain([first], stream)), experiment, path)


def _find_iteration(request: HttpRequest, name: str, number: int) -> OpenIteration:
    """Open an iteration that the user can see.

    Raises:
        Http404: there is none, or it is a stranger's.
    """
    experiment = get_viewable_experiment(request.user, name)
    get_object_or_404(experiment.iterations, number=number)
    return open_iteration(experiment, number)


def _send_stored(experiment: Experiment, path: str) -> HttpResponseBase:
    files = open_experiment_files(experiment)
    if not files.store.is_local:
        where = files.layout.get_path(path)
        if not files.store.exists(where):
            raise Http404
        return StreamingHttpResponse(files.store.iter_chunks(where))
    found = find_safe_local_path(files, path)
    if found is None:
        raise Http404
    return FileResponse(found.open("rb"))


def _stream_generated(experiment: Experiment, wanted: GeneratedFile) -> Iterator[bytes]:
    made = open_iteration_files(experiment, wanted.number)
    if wanted.is_checkpoint:
        return _stream_checkpoint(made)
    if wanted.table is not None:
        if not made.list_partitions(wanted.table):
            raise Http404
        return stream_csv(made, wanted.table)
    kinds = KINDS if wanted.kind == "all" else tuple(k for k in KINDS if k == wanted.kind)
    if not any(made.list_partitions(f"{kind}_pairs") for kind in kinds):
        raise Http404
    if wanted.format is None:
        return stream_parquet(made, kinds)
    return stream_jsonl(made, kinds, format_name=wanted.format)


def _stream_checkpoint(made: IterationFiles) -> Iterator[bytes]:
    names = list(list_checkpoint_files(made.checkpoint))
    if not names:
        raise Http404
    return stream_zip(made.checkpoint, names)


def _to_download(answer: Any, experiment: Experiment, path: str) -> HttpResponseBase:
    """Make the browser save the file without guessing its type."""
    log_event(Action.EXPORTED, experiment.name, detail=path)
    name = f"{experiment.name}-{path.replace('/', '-')}"
    answer["Content-Type"] = "application/octet-stream"
    answer["Content-Disposition"] = f'attachment; filename="{name}"'
    answer["X-Content-Type-Options"] = "nosniff"
    answer["Cache-Control"] = "private, no-store"
    return answer  # type: ignore[no-any-return]
