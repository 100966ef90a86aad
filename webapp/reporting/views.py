"""The report of one or several experiments, and their stored evaluations."""

from typing import Final

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.http import content_disposition_header
from django.views.decorators.http import require_safe

from meta_reward_core.errors import ArtifactError
from meta_reward_core.reporting.assemble import build_report
from meta_reward_core.reporting.document import Document
from meta_reward_core.reporting.markdown import write_markdown
from meta_reward_core.reporting.run_loader import group_runs
from webapp.accounts.permissions import get_viewable_experiment, require_view
from webapp.reporting.rendering import render_sections, write_html
from webapp.reporting.selectors import format_report_title, list_evaluations, load_run

MAX_EXPERIMENTS: Final = 12
_FORMS: Final = {
    "html": (write_html, "text/html; charset=utf-8"),
    "md": (write_markdown, "text/markdown; charset=utf-8"),
}


@require_safe
@require_view
def show_report(request: HttpRequest) -> HttpResponse:
    """Show the report of the named experiments, or send it as a file."""
    names = list(dict.fromkeys(request.GET.getlist("name")))[:MAX_EXPERIMENTS]
    if not names:
        raise Http404("name an experiment")
    rows = [get_viewable_experiment(request.user, name) for name in names]
    try:
        arms = group_runs([load_run(row) for row in rows])
    except ArtifactError:
        return render(request, "results/damaged_files.html", status=503)
    document = build_report(arms, title=format_report_title(names))
    if (form := request.GET.get("as")) in _FORMS:
        return _send_file(document, form, names)
    context = {"title": document.title, "names": names, "sections": render_sections(document)}
    return render(request, "reporting/report.html", context)


@require_safe
@require_view
def show_evaluations(request: HttpRequest, name: str) -> HttpResponse:
    """List the stored evaluations of an experiment's models."""
    row = get_viewable_experiment(request.user, name)
    try:
        kept = list_evaluations(row)
    except ArtifactError:
        return render(request, "results/damaged_files.html", status=503)
    context = {"experiment": row, "evaluations": kept}
    return render(request, "reporting/evaluations.html", context)


def _send_file(document: Document, form: str, names: list[str]) -> HttpResponse:
    write, content_type = _FORMS[form]
    response = HttpResponse(write(document), content_type=content_type)
    called = names[0] if len(names) == 1 else f"{names[0]}-and-{len(names) - 1}-more"
    disposition = content_disposition_header(as_attachment=True, filename=f"{called}.{form}")
    response["Content-Disposition"] = disposition or "attachment"
    return response
