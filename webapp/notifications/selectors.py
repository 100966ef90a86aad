"""Read a user's subscriptions and notifications."""

from typing import Final

from django.contrib.auth.models import User

from webapp.notifications.models import Channel, Notification, Recipient

_NOTIFICATIONS_SHOWN: Final = 30


def find_recipient(user: User) -> Recipient | None:
    """Find a user's addresses; None if they have never saved any."""
    return Recipient.objects.select_related("user").filter(user=user).first()


def list_recent_notifications(user: User) -> list[Notification]:
    """List the latest notifications to a user, newest first."""
    sent = Notification.objects.filter(recipient__user=user).select_related("experiment")
    return list(sent[:_NOTIFICATIONS_SHOWN])


def list_channels(recipient: Recipient) -> list[Channel]:
    """List the channels that a recipient has an address for."""
    addresses = {Channel.EMAIL: recipient.user.email, Channel.WEBHOOK: recipient.webhook_url}
    return [channel for channel, address in addresses.items() if address]
