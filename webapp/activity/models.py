"""The table of all actions of users, programs, commands and the system."""

from collections.abc import Mapping
from typing import Any, ClassVar, Final, NoReturn

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models import Q
from django.utils import timezone

Values = Mapping[str, Any]


class Source(models.TextChoices):
    """How an action was requested; unknown if an earlier version did not record it."""

    UI = "ui", "UI"
    API = "api", "API"
    CLI = "cli", "CLI"
    SYSTEM = "system", "system"
    UNKNOWN = "unknown", "unknown"


class ObjectType(models.TextChoices):
    """Type of the object of an action."""

    EXPERIMENT = "experiment", "experiment"
    ITERATION = "iteration", "iteration"
    GATE = "gate", "audit gate"
    BATCH = "batch", "audit batch"
    ITEM = "item", "audit item"
    ACCOUNT = "account", "account"
    MODEL = "model", "model"
    FILE = "file", "file"


class Action(models.TextChoices):
    """All recorded actions. A new action needs no migration."""

    LAUNCH = "launch", "start an experiment"
    NEXT = "next", "start the next iteration"
    PAUSE = "pause", "pause"
    CANCEL = "cancel", "cancel"
    RESUME = "resume", "resume and retry failed shards"
    ACCEPT_PROBE = "accept_probe", "continue despite the judge probe"
    CHAT = "chat", "playground"
    PUBLISH = "publish", "publish a model"
    AUDIT = "audit", "create an audit batch"
    HAND_OVER = "hand_over", "change owner or visibility"
    CHECK_MODEL = "check_model", "check a model"
    SETTINGS = "settings", "change settings"
    DELETE = "delete", "delete"
    FORK = "fork", "fork an experiment"
    JOB_CANCELLED = "job_cancelled", "cancelled a job"

    ARCHIVED = "archived", "archived an experiment"
    UNARCHIVED = "unarchived", "unarchived an experiment"
    DELETED = "deleted", "deleted an experiment"
    TAGGED = "tagged", "changed tags or notes"

    GATE_SET = "gate_set", "added a gate"
    GATE_CHANGED = "gate_changed", "changed the gate"
    GATE_LOOSENED = "gate_loosened", "loosened the gate"
    GATE_REMOVED = "gate_removed", "removed the gate"
    GATE_OVERRIDDEN = "gate_overridden", "overrode the audit gate"
    CLOSED = "closed", "closed a batch"
    REOPENED = "reopened", "reopened a batch"
    ASSIGNED = "assigned", "changed the auditors of a batch"

    ANSWERED = "answered", "answered"
    LATE = "late", "answered after it was reassigned"
    UNDONE = "undone", "undone"
    SKIPPED = "skipped", "skipped"
    REVEALED = "revealed", "viewed the reveal"
    IMPORTED = "imported", "imported"
    ADJUDICATED = "adjudicated", "adjudicated"
    ADJUDICATION_UNDONE = "adjudication_undone", "undid an adjudication"
    PASSED_ON = "passed_on", "reassigned to another auditor"

    SIGNED_IN = "signed_in", "signed in"
    SIGNED_OUT = "signed_out", "signed out"
    FAILED = "failed", "entered a wrong password"
    REFUSED = "refused", "blocked after too many wrong passwords"
    PASSWORD = "password", "password changed"
    ACCOUNT_MADE = "account_made", "account created"
    ACCOUNT_CHANGED = "account_changed", "account changed"
    ACCOUNT_DELETED = "account_deleted", "account deleted"
    SECOND_FACTOR = "second_factor", "two-factor authentication changed"
    ROLES = "roles", "roles changed"
    TOKEN_MADE = "token_made", "token created"
    TOKEN_REVOKED = "token_revoked", "token revoked"
    EXPORTED = "exported", "data exported"
    PUBLISHED = "published", "model published"
    BACKED_UP = "backed_up", "backup created"
    RESTORED = "restored", "backup restored"
    PRUNED = "pruned", "files or events deleted"


JOB_ACTIONS: Final = (
    *(Action.LAUNCH, Action.NEXT, Action.PAUSE, Action.CANCEL, Action.RESUME),
    *(Action.ACCEPT_PROBE, Action.CHAT, Action.PUBLISH, Action.AUDIT, Action.HAND_OVER),
    *(Action.CHECK_MODEL, Action.SETTINGS, Action.DELETE),
)
"""Requests that run as a job."""

AUDIT_ACTIONS: Final = (
    *(Action.GATE_SET, Action.GATE_CHANGED, Action.GATE_LOOSENED, Action.GATE_REMOVED),
    *(Action.CLOSED, Action.REOPENED, Action.ASSIGNED),
)
"""Actions on gates and batches."""

ITEM_ACTIONS: Final = (
    *(Action.ANSWERED, Action.LATE, Action.UNDONE, Action.SKIPPED, Action.REVEALED),
    *(Action.IMPORTED, Action.ADJUDICATED, Action.ADJUDICATION_UNDONE, Action.PASSED_ON),
)
"""Actions on the items of a batch; hidden from auditors."""

SECURITY_ACTIONS: Final = (
    *(Action.SIGNED_IN, Action.SIGNED_OUT, Action.FAILED, Action.REFUSED, Action.PASSWORD),
    *(Action.ACCOUNT_MADE, Action.ACCOUNT_CHANGED, Action.ACCOUNT_DELETED, Action.SECOND_FACTOR),
    *(Action.ROLES, Action.TOKEN_MADE, Action.TOKEN_REVOKED, Action.EXPORTED, Action.PUBLISHED),
    *(Action.BACKED_UP, Action.RESTORED, Action.PRUNED),
)
"""Events of accounts, and actions that required their permissions."""

FILE_ACTIONS: Final = (Action.EXPORTED, Action.BACKED_UP, Action.RESTORED, Action.PRUNED)
"""Security actions on files."""

REASON_REQUIRED: Final = (Action.GATE_LOOSENED, Action.GATE_REMOVED, Action.GATE_OVERRIDDEN)
"""Actions that are refused without a reason."""


class AppendOnlyError(TypeError):
    """A row of the activity log was about to be changed or deleted."""


class ActivityQuerySet(models.QuerySet["Activity"]):
    """Rows that can only be read and added."""

    def update(self, **kwargs: Any) -> NoReturn:  # noqa: ARG002
        """Refuse: rows are never changed."""
        raise AppendOnlyError("rows of the activity log cannot be changed")

    def bulk_update(self, *args: Any, **kwargs: Any) -> NoReturn:  # noqa: ARG002
        """Refuse: rows are never changed."""
        raise AppendOnlyError("rows of the activity log are never changed")

    def delete(self) -> NoReturn:
        """Refuse: rows are never deleted one by one; see `prune_account_activity`."""
        raise AppendOnlyError("rows of the activity log cannot be deleted")


class Activity(models.Model):
    """An action. Rows are only added; they outlive the user and the object.

    Attributes:
        actor: None if the account was deleted or no account acted; `actor_name` stays.
        source: how the action reached the installation.
        object_type, object_id, object_name: what the action is about. The object need not exist:
            visitors may enter any account name.
        experiment: None if it was deleted or the action concerns no experiment; `experiment_name`
            stays.
        job: the job that runs the action; its row has the status.
        reason: the reason for the action; empty if none was given.
        before, after: the values that the action changed; empty if there are none.
        details: more about the action, as text.
        address: IP address of the client, provided that the proxies report it correctly.
    """

    created = models.DateTimeField(default=timezone.now, editable=False)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    actor_name = models.CharField(max_length=150, blank=True, default="")
    source = models.CharField(max_length=8, choices=Source)
    action = models.CharField(max_length=32)
    object_type = models.CharField(max_length=16, choices=ObjectType)
    object_id = models.BigIntegerField(null=True, blank=True)
    object_name = models.CharField(max_length=255, blank=True, default="")
    experiment = models.ForeignKey(
        "experiments.Experiment",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="activity",
    )
    experiment_name = models.CharField(max_length=64, blank=True, default="")
    iteration = models.PositiveIntegerField(null=True, blank=True)
    job = models.ForeignKey(
        "experiments.Job", on_delete=models.SET_NULL, null=True, blank=True, related_name="activity"
    )
    reason = models.TextField(blank=True, default="")
    before = models.JSONField(default=dict, blank=True, encoder=DjangoJSONEncoder)
    after = models.JSONField(default=dict, blank=True, encoder=DjangoJSONEncoder)
    details = models.TextField(blank=True, default="")
    address = models.GenericIPAddressField(null=True, blank=True)

    objects = ActivityQuerySet.as_manager()

    class Meta:
        """Newest first."""

        ordering: ClassVar = ["-created", "-pk"]
        verbose_name_plural = "activity"
        indexes: ClassVar = [
            models.Index(fields=["created", "id"], name="activity_by_time"),
            models.Index(fields=["action", "created"], name="activity_by_action"),
            models.Index(fields=["object_type", "object_id"], name="activity_by_object"),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(source__in=Source.values), name="activity_source_is_known"
            ),
            models.CheckConstraint(
                condition=~Q(action__in=[action.value for action in REASON_REQUIRED])
                | ~Q(reason=""),
                name="activity_has_its_reason",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.actor_name or 'nobody'}: {self.get_action_display()}, {self.object_name}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Add the row; refuse to change an existing one."""
        if not self._state.adding:
            raise AppendOnlyError("rows of the activity log are never changed")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:  # noqa: ARG002
        """Refuse: rows are never deleted one by one; see `prune_account_activity`."""
        raise AppendOnlyError("rows of the activity log are never deleted")

    def get_action_display(self) -> str:
        """Label of the action; the stored name if a later version recorded it."""
        return str(Action(self.action).label) if self.action in Action.values else self.action
