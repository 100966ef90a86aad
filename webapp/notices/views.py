"""The page on which people choose what they are told, and see what they were told."""

import secrets

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.cache import add_never_cache_headers
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST

from webapp.notices.forms import NoticesForm, has_email, values_of
from webapp.notices.models import Channel, Notice, NoticeStatus, Recipient
from webapp.notices.occasions import write_test
from webapp.people.access import sees
from webapp.people.signed_in import person_of
from webapp.regions import render_page

_NOTICES_SHOWN = 30
_SECRET_BYTES = 32
_ACTIVE = (NoticeStatus.WAITING, NoticeStatus.SENDING)


@require_http_methods(["GET", "HEAD", "POST"])
@sees
def notices(request: HttpRequest) -> HttpResponse:
    """Choose which notices to get, by which way; below, what was sent."""
    person = person_of(request)
    recipient = _recipient(request)
    if request.method != "POST":
        return _page(request, NoticesForm(initial=values_of(person, recipient)))
    form = NoticesForm(request.POST)
    if not form.is_valid():
        return _page(request, form)
    recipient = form.save(person)
    messages.success(request, "Saved.")
    if recipient.webhook_url and not recipient.secret:
        return _show_new_secret(request, recipient)
    return redirect("notices")


@require_POST
@sees
def renew_secret(request: HttpRequest) -> HttpResponse:
    """Make another secret for the webhook; what was signed by the old one is no longer."""
    recipient = _recipient(request)
    if recipient is None or not recipient.webhook_url:
        messages.info(request, "There is no webhook yet.")
        return redirect("notices")
    return _show_new_secret(request, recipient)


@require_POST
@sees
def send_test(request: HttpRequest) -> HttpResponse:
    """Write a test notice for every way that is set up."""
    recipient = _recipient(request)
    channels = _channels(recipient) if recipient is not None else []
    for channel in channels:
        if recipient is not None:
            write_test(recipient, channel)
    if not channels:
        messages.info(request, "There is no address to send a test to: save one first.")
    return redirect("notices")


def _channels(recipient: Recipient) -> list[Channel]:
    addresses = {Channel.EMAIL: recipient.person.email, Channel.WEBHOOK: recipient.webhook_url}
    return [channel for channel, address in addresses.items() if address]


def _recipient(request: HttpRequest) -> Recipient | None:
    return Recipient.objects.select_related("person").filter(person=person_of(request)).first()


@sensitive_variables("secret")
def _show_new_secret(request: HttpRequest, recipient: Recipient) -> HttpResponse:
    """Show a secret once. It stands in this answer alone: a redirect would have to store it."""
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    recipient.secret = secret
    recipient.save(update_fields=["secret"])
    form = NoticesForm(initial=values_of(person_of(request), recipient))
    response = _page(request, form, secret=secret)
    add_never_cache_headers(response)
    return response


def _page(request: HttpRequest, form: NoticesForm, *, secret: str = "") -> HttpResponse:
    recipient = _recipient(request)
    sent = Notice.objects.filter(recipient__person=person_of(request))[:_NOTICES_SHOWN]
    rows = list(sent.select_related("experiment"))
    context = {
        "form": form,
        "event_rows": list(form.rows()),
        "channels": [channel.label for channel in Channel],
        "has_email": has_email(),
        "webhook_hosts": settings.META_REWARD_WEBHOOK_HOSTS,
        "has_webhook": recipient is not None and bool(recipient.webhook_url),
        "new_secret": secret,
        "notices": rows,
        "is_active": any(row.status in _ACTIVE for row in rows),
    }
    if secret:
        return render(request, "notices/notices.html", context)
    return render_page(
        request, "notices/notices.html", region="notices/partials/sent.html", context=context
    )
