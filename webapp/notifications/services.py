"""Change a user's subscriptions and addresses."""

import secrets
from collections.abc import Collection
from typing import Final

from django.contrib.auth.models import User
from django.db import transaction
from django.views.decorators.debug import sensitive_variables

from webapp.notifications.models import CHOOSABLE, Channel, EventType, Recipient, Subscription

_SECRET_BYTES: Final = 32


@transaction.atomic
def save_subscriptions(
    user: User,
    *,
    email: str,
    webhook_url: str,
    only_own: bool,
    wanted: Collection[tuple[EventType, Channel]],
) -> Recipient:
    """Save a user's addresses and subscriptions; existing subscriptions keep their start.

    Args:
        only_own: whether the user is notified only of their own experiments.
        wanted: each event with a channel that it is sent to.
    """
    if user.email != email:
        user.email = email
        user.save(update_fields=["email"])
    recipient, _ = Recipient.objects.update_or_create(
        user=user, defaults={"webhook_url": webhook_url, "only_own": only_own}
    )
    for event in CHOOSABLE:
        for channel in Channel:
            _set_subscription(recipient, event, channel, is_wanted=(event, channel) in wanted)
    return recipient


def _set_subscription(
    recipient: Recipient, event: EventType, channel: Channel, *, is_wanted: bool
) -> None:
    if is_wanted:
        Subscription.objects.get_or_create(recipient=recipient, event=event, channel=channel)
    else:
        Subscription.objects.filter(recipient=recipient, event=event, channel=channel).delete()


@sensitive_variables("secret")
def renew_secret(recipient: Recipient) -> str:
    """Replace the secret that signs a recipient's webhooks; the caller shows it once."""
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    recipient.secret = secret
    recipient.save(update_fields=["secret"])
    return secret
