"""The page for requests that are refused before any view sees them."""

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def handle_bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Say what was wrong with a request, where its sender can do something about it."""
    reason = ""
    if isinstance(exception, RequestDataTooBig):
        most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE / 1e6
        reason = (
            f"What you sent is longer than {most:g} MB. Send a long list of prompts as a file; "
            "your browser's Back button returns to the form as you filled it in."
        )
    return render(request, "400.html", {"exception": reason}, status=400)
