"""A password that changed is noted, whoever changed it and by which form or command."""

from django.contrib.auth.models import User

from webapp.accounts.security_log import log_event
from webapp.activity.models import Action


class NoteChanges:
    """Among the validators, because Django tells these of every change."""

    def validate(self, password: str, user: User | None = None) -> None:
        """Everything passes."""

    def password_changed(self, password: str, user: User | None = None) -> None:  # noqa: ARG002
        """Note it; a new account's first password is its making, which is noted already."""
        if user is not None and user.last_login is not None:
            log_event(Action.PASSWORD, user.get_username())

    def get_help_text(self) -> str:
        """Stands in the list of rules above the field."""
        return "The change, its time and its network address are recorded for admins."
