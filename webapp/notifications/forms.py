"""Forms for notification subscriptions."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django import forms
from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError

from webapp.notifications.models import CHOOSABLE, Channel, EventType, Recipient
from webapp.notifications.webhooks import WebhookError, parse_address


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event with a checkbox per channel."""

    label: str
    boxes: list[forms.BoundField]


class NotificationsForm(forms.Form):
    """Addresses, and one checkbox per event and channel."""

    email = forms.EmailField(label="E-mail address", required=False, max_length=254)
    webhook_url = forms.CharField(
        label="Webhook",
        required=False,
        max_length=500,
        help_text="URL that accepts a signed POST. Allowed hosts are set by the administrator.",
    )
    only_own = forms.BooleanField(
        label="Only my own experiments",
        required=False,
        help_text="If not selected, notifications cover all experiments that you can see.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Add a checkbox per event and channel."""
        super().__init__(*args, **kwargs)
        for event in CHOOSABLE:
            for channel in Channel:
                self.fields[_format_box_name(event, channel)] = forms.BooleanField(
                    label=f"{event.label}: {channel.label}", required=False
                )

    def list_rows(self) -> Iterator[EventRow]:
        """List the checkboxes by event."""
        for event in CHOOSABLE:
            yield EventRow(
                event.label, [self[_format_box_name(event, channel)] for channel in Channel]
            )

    def clean_webhook_url(self) -> str:
        """Accept only allowed URLs."""
        url = str(self.cleaned_data["webhook_url"])
        if url:
            try:
                parse_address(url)
            except WebhookError as error:
                raise ValidationError(str(error)) from error
        return url

    def clean(self) -> dict[str, Any]:
        """Require an address for each chosen channel."""
        values = super().clean() or self.cleaned_data
        needed = {Channel.EMAIL: "email", Channel.WEBHOOK: "webhook_url"}
        for channel, field in needed.items():
            chosen = any(values.get(_format_box_name(event, channel)) for event in CHOOSABLE)
            if chosen and not values.get(field) and field not in self.errors:
                self.add_error(field, "Enter an address to use this channel.")
        return values

    def get_choices(self) -> dict[str, Any]:
        """Return the addresses and the chosen subscriptions of a valid form."""
        values = self.cleaned_data
        wanted = {
            (event, channel)
            for event in CHOOSABLE
            for channel in Channel
            if values[_format_box_name(event, channel)]
        }
        addresses = {name: values[name] for name in ("email", "webhook_url", "only_own")}
        return {**addresses, "wanted": wanted}


def get_form_values(person: User, recipient: Recipient | None) -> dict[str, Any]:
    """Return the initial values of the form."""
    if recipient is None:
        return {"email": person.email, "only_own": True}
    chosen = {
        _format_box_name(EventType(event), Channel(channel)): True
        for event, channel in recipient.subscriptions.values_list("event", "channel")
    }
    return {
        "email": person.email,
        "webhook_url": recipient.webhook_url,
        "only_own": recipient.only_own,
        **chosen,
    }


def has_email() -> bool:
    """Whether a mail server is configured."""
    return bool(settings.EMAIL_HOST)


def _format_box_name(event: EventType, channel: Channel) -> str:
    return f"{event}_{channel}"
