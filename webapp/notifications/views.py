"""The page on which users subscribe to events and see sent notifications."""

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.cache import add_never_cache_headers
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST

from webapp.accounts.permissions import get_user, require_view
from webapp.accounts.reauthentication import (
    ask_to_confirm,
    is_recent,
    require_recent_authentication,
)
from webapp.htmx import render_page_or_partial
from webapp.notifications import services
from webapp.notifications.forms import NotificationsForm, get_form_values, has_email
from webapp.notifications.models import Channel, EventType, NotificationStatus, Recipient
from webapp.notifications.outbox import write_test
from webapp.notifications.selectors import find_recipient, list_channels, list_recent_notifications

_ACTIVE = (NotificationStatus.WAITING, NotificationStatus.SENDING)


@require_http_methods(["GET", "HEAD", "POST"])
@require_view
def edit_notifications(request: HttpRequest) -> HttpResponse:
    """Edit the subscriptions, and show the notifications that were sent."""
    person = get_user(request)
    recipient = find_recipient(get_user(request))
    if request.method != "POST":
        return _render_page(request, NotificationsForm(initial=get_form_values(person, recipient)))
    form = NotificationsForm(request.POST)
    if not form.is_valid():
        return _render_page(request, form)
    if _changes_address(person, recipient, form) and not is_recent(request):
        return ask_to_confirm(request, then=reverse("notifications"))
    recipient = services.save_subscriptions(person, **form.get_choices())
    messages.success(request, "Saved.")
    if recipient.webhook_url and not recipient.secret:
        return _show_new_secret(request, recipient)
    return redirect("notifications")


def _changes_address(user: User, recipient: Recipient | None, form: NotificationsForm) -> bool:
    """Whether notifications would be sent to another address."""
    now = (user.email, recipient.webhook_url if recipient is not None else "")
    return now != (form.cleaned_data["email"], form.cleaned_data["webhook_url"])


@require_POST
@require_view
@require_recent_authentication("notifications")
def renew_secret(request: HttpRequest) -> HttpResponse:
    """Create a new webhook secret; the old one becomes invalid."""
    recipient = find_recipient(get_user(request))
    if recipient is None or not recipient.webhook_url:
        messages.info(request, "No webhook is configured.")
        return redirect("notifications")
    return _show_new_secret(request, recipient)


@require_POST
@require_view
def send_test(request: HttpRequest) -> HttpResponse:
    """Write a test notification for every configured channel."""
    recipient = find_recipient(get_user(request))
    channels = list_channels(recipient) if recipient is not None else []
    for channel in channels:
        if recipient is not None and not _has_pending_test(recipient, channel):
            write_test(recipient, channel)
    if not channels:
        messages.info(request, "Save an address before sending a test.")
    return redirect("notifications")


def _has_pending_test(recipient: Recipient, channel: Channel) -> bool:
    """Whether a test is pending, so that repeated clicks do not fill the outbox."""
    return recipient.notifications.filter(
        event=EventType.TEST, channel=channel, status__in=_ACTIVE
    ).exists()


@sensitive_variables("secret")
def _show_new_secret(request: HttpRequest, recipient: Recipient) -> HttpResponse:
    """Show a secret once, in this response: a redirect would have to store it."""
    secret = services.renew_secret(recipient)
    form = NotificationsForm(initial=get_form_values(get_user(request), recipient))
    response = _render_page(request, form, secret=secret)
    add_never_cache_headers(response)
    return response


def _render_page(
    request: HttpRequest, form: NotificationsForm, *, secret: str = ""
) -> HttpResponse:
    recipient = find_recipient(get_user(request))
    rows = list_recent_notifications(get_user(request))
    context = {
        "form": form,
        "event_rows": list(form.list_rows()),
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
