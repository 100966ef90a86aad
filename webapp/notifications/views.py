"""The page on which users subscribe to events and see sent notifications."""

import secrets

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.cache import add_never_cache_headers
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST

from webapp.accounts.current_user import get_user
from webapp.accounts.permissions import require_view
from webapp.htmx import render_page_or_partial
from webapp.notifications.forms import NotificationsForm, get_form_values, has_email
from webapp.notifications.models import Channel, Notification, NotificationStatus, Recipient
from webapp.notifications.outbox import write_test

_NOTIFICATIONS_SHOWN = 30
_SECRET_BYTES = 32
_ACTIVE = (NotificationStatus.WAITING, NotificationStatus.SENDING)


@require_http_methods(["GET", "HEAD", "POST"])
@require_view
def edit_notifications(request: HttpRequest) -> HttpResponse:
    """Edit the subscriptions, and show the notifications that were sent."""
    person = get_user(request)
    recipient = _get_recipient(request)
    if request.method != "POST":
        return _render_page(request, NotificationsForm(initial=get_form_values(person, recipient)))
    form = NotificationsForm(request.POST)
    if not form.is_valid():
        return _render_page(request, form)
    recipient = form.save(person)
    messages.success(request, "Saved.")
    if recipient.webhook_url and not recipient.secret:
        return _show_new_secret(request, recipient)
    return redirect("notifications")


@require_POST
@require_view
def renew_secret(request: HttpRequest) -> HttpResponse:
    """Make another secret for the webhook; what was signed by the old one is no longer."""
    recipient = _get_recipient(request)
    if recipient is None or not recipient.webhook_url:
        messages.info(request, "No webhook is configured.")
        return redirect("notifications")
    return _show_new_secret(request, recipient)


@require_POST
@require_view
def send_test(request: HttpRequest) -> HttpResponse:
    """Write a test notification for every configured channel."""
    recipient = _get_recipient(request)
    channels = _list_channels(recipient) if recipient is not None else []
    for channel in channels:
        if recipient is not None:
            write_test(recipient, channel)
    if not channels:
        messages.info(request, "Save an address before sending a test.")
    return redirect("notifications")


def _list_channels(recipient: Recipient) -> list[Channel]:
    addresses = {Channel.EMAIL: recipient.user.email, Channel.WEBHOOK: recipient.webhook_url}
    return [channel for channel, address in addresses.items() if address]


def _get_recipient(request: HttpRequest) -> Recipient | None:
    return Recipient.objects.select_related("user").filter(user=get_user(request)).first()


@sensitive_variables("secret")
def _show_new_secret(request: HttpRequest, recipient: Recipient) -> HttpResponse:
    """Show a secret once. It stands in this answer alone: a redirect would have to store it."""
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    recipient.secret = secret
    recipient.save(update_fields=["secret"])
    form = NotificationsForm(initial=get_form_values(get_user(request), recipient))
    response = _render_page(request, form, secret=secret)
    add_never_cache_headers(response)
    return response


def _render_page(
    request: HttpRequest, form: NotificationsForm, *, secret: str = ""
) -> HttpResponse:
    recipient = _get_recipient(request)
    sent = Notification.objects.filter(recipient__user=get_user(request))[:_NOTIFICATIONS_SHOWN]
    rows = list(sent.select_related("experiment"))
    context = {
        "form": form,
        "event_rows": list(form.rows()),
        "channels": [channel.label for channel in Channel],
        "has_email": has_email(),
        "webhook_hosts": settings.META_REWARD_WEBHOOK_HOSTS,
        "has_webhook": recipient is not None and bool(recipient.webhook_url),
        "new_secret": secret,
        "notifications": rows,
        "is_active": any(row.status in _ACTIVE for row in rows),
    }
    if secret:
        return render(request, "notifications/notifications.html", context)
    return render_page_or_partial(
        request,
        "notifications/notifications.html",
        region="notifications/_sent_notifications.html",
        context=context,
    )
