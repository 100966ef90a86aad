"""Admin pages of experiments and their rows.

Workers change rows; the admin only shows them, and requests jobs as the pages do.
"""

from datetime import timedelta
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.models import LogEntry
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from webapp.accounts.admin import ViewOnlyAdmin
from webapp.accounts.ownership import transfer_ownership
from webapp.accounts.permissions import get_user, get_visible_experiments
from webapp.activity.models import Activity
from webapp.experiments.actions import can_request, has_pending
from webapp.experiments.jobs import enqueue_job
from webapp.experiments.models import (
    Attempt,
    Experiment,
    ExperimentTag,
    Iteration,
    Job,
    JobKind,
    MachineLoad,
    PlaygroundVote,
    RunStatus,
    Shard,
    Stage,
    Worker,
)
from webapp.experiments.progress import SILENT_SECONDS


@admin.register(LogEntry)
class LogEntryAdmin(ViewOnlyAdmin):
    """Actions in the admin itself."""

    list_display = ("action_time", "user", "content_type", "object_repr", "action_flag")
    list_filter = ("action_flag", "content_type", "user")
    search_fields = ("object_repr", "user__username")
    list_select_related = ("user", "content_type")

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002
        """Entries of the log cannot be deleted."""
        return False


@admin.register(Experiment)
class ExperimentAdmin(ViewOnlyAdmin):
    """Experiments; deleting one starts the same job as on its page."""

    list_display = (
        "name",
        "owner",
        "is_private",
        "status",
        "seed",
        "get_recipe_name",
        "created",
    )
    list_filter = (
        "status",
        "is_private",
        ("owner", admin.RelatedOnlyFieldListFilter),
        "created",
    )
    search_fields = ("name", "owner__username")
    list_select_related = ("owner",)
    actions = ("hide", "show")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Experiment]:
        """Load the experiments that the user can also see on the pages."""
        return get_visible_experiments(request.user).select_related("owner")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Rows that workers write to cannot be deleted: cancel the iteration first."""
        return super().has_delete_permission(request, obj) and not _is_running(obj)

    def delete_model(self, request: HttpRequest, obj: Experiment) -> None:
        """Request a deletion, which first removes the files and then makes the name available."""
        if not has_pending(obj, JobKind.DELETE):
            enqueue_job(JobKind.DELETE, by=get_user(request), experiment=obj)
        self.message_user(request, f"The deletion of {obj} was requested.")

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Experiment]) -> None:
        """Request the deletion of each experiment; see `delete_model`."""
        for row in queryset:
            self.delete_model(request, row)

    @admin.display(description="recipe")
    def get_recipe_name(self, experiment: Experiment) -> str:
        """Name of the original recipe."""
        return str(experiment.recipe.get("name", ""))

    @admin.action(description="Make private", permissions=["steer"])
    def hide(self, request: HttpRequest, rows: QuerySet[Experiment]) -> None:
        """Make the selected experiments private; those without an owner are unchanged."""
        for row in rows.filter(owner=None):
            self.message_user(request, f"{row} has no owner; choose one first.", messages.ERROR)
        self._make_private(request, rows.exclude(owner=None), is_private=True)

    @admin.action(description="Show to all users who can see experiments", permissions=["steer"])
    def show(self, request: HttpRequest, rows: QuerySet[Experiment]) -> None:
        """Make the selected experiments visible to all users."""
        self._make_private(request, rows, is_private=False)

    def _make_private(
        self, request: HttpRequest, rows: QuerySet[Experiment], *, is_private: bool
    ) -> None:
        by = get_user(request)
        changed = [
            row
            for row in rows.select_related("owner")
            if transfer_ownership(row, by=by, owner=row.owner, is_private=is_private)
        ]
        self.message_user(request, f"{len(changed)} of the chosen experiments were changed.")


def _is_running(experiment: Experiment | None) -> bool:
    if experiment is None:
        return False
    return experiment.iterations.filter(status=RunStatus.RUNNING).exists()


@admin.register(ExperimentTag)
class ExperimentTagAdmin(ViewOnlyAdmin):
    """Tags of experiments."""

    list_display = ("name", "experiment")
    search_fields = ("name", "experiment__name")
    list_select_related = ("experiment",)


@admin.register(Iteration)
class IterationAdmin(ViewOnlyAdmin):
    """Iterations."""

    list_display = (
        "experiment",
        "number",
        "status",
        "driver",
        "started",
        "finished",
        "message",
    )
    list_filter = (
        "status",
        "experiment",
    )
    search_fields = ("experiment__name",)
    list_select_related = ("experiment",)
    actions = ("pause", "resume", "cancel")

    @admin.action(description="Pause", permissions=["steer"])
    def pause(self, request: HttpRequest, rows: QuerySet[Iteration]) -> None:
        """Request to pause the selected iterations."""
        self._ask(request, rows, JobKind.PAUSE)

    @admin.action(description="Resume and retry failed shards", permissions=["steer"])
    def resume(self, request: HttpRequest, rows: QuerySet[Iteration]) -> None:
        """Request to resume the selected iterations."""
        self._ask(request, rows, JobKind.RESUME)

    @admin.action(description="Cancel", permissions=["steer"])
    def cancel(self, request: HttpRequest, rows: QuerySet[Iteration]) -> None:
        """Request to cancel the selected iterations."""
        self._ask(request, rows, JobKind.CANCEL)

    def _ask(self, request: HttpRequest, rows: QuerySet[Iteration], kind: JobKind) -> None:
        """Request the same job as the button on the page; report rows that do not allow it now."""
        asked = 0
        for row in rows.select_related("experiment").prefetch_related("experiment__iterations"):
            if can_request(row, kind):
                enqueue_job(kind, by=get_user(request), experiment=row.experiment)
                asked += 1
            else:
                why = "it is not the latest iteration, is inactive, or has a pending request"
                text = f"Cannot {kind.label} {row} ({row.get_status_display()}): {why}."
                self.message_user(request, text, messages.WARNING)
        self.message_user(
            request, f"{asked} requested to {kind.label}; see the activity log for the results."
        )


@admin.register(Stage)
class StageAdmin(ViewOnlyAdmin):
    """Stages."""

    list_display = (
        "iteration",
        "position",
        "name",
        "status",
        "shard_count",
    )
    list_filter = (
        "status",
        "name",
        "iteration__experiment",
    )
    search_fields = ("name", "title", "iteration__experiment__name")
    list_select_related = ("iteration__experiment",)


@admin.register(Shard)
class ShardAdmin(ViewOnlyAdmin):
    """Shards."""

    list_display = (
        "stage",
        "index",
        "status",
        "attempt_count",
        "failures",
        "lease_until",
        "done",
        "tokens",
    )
    list_filter = (
        "status",
        "stage__name",
        "stage__iteration__experiment",
    )
    search_fields = ("stage__name", "stage__iteration__experiment__name")
    list_select_related = ("stage__iteration__experiment",)


@admin.register(Attempt)
class AttemptAdmin(ViewOnlyAdmin):
    """Attempts."""

    list_display = ("shard", "number", "status", "worker", "pid", "started", "seconds", "error")
    list_filter = (
        "status",
        "worker",
        "shard__stage__name",
    )
    search_fields = (
        "error",
        "worker",
        "shard__stage__iteration__experiment__name",
    )
    list_select_related = ("shard__stage__iteration__experiment",)


class SilenceFilter(admin.SimpleListFilter):
    """Workers by whether they sent a recent heartbeat."""

    title = "heard"
    parameter_name = "heard"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:  # noqa: ARG002
        """The two choices."""
        return [("lately", "lately"), ("silent", "silent")]

    def queryset(self, request: HttpRequest, rows: QuerySet[Worker]) -> QuerySet[Worker]:  # noqa: ARG002
        """Workers with or without a recent heartbeat."""
        since = timezone.now() - timedelta(seconds=SILENT_SECONDS)
        if self.value() == "lately":
            return rows.filter(heartbeat__gte=since)
        return rows.filter(heartbeat__lt=since) if self.value() == "silent" else rows


@admin.register(Worker)
class WorkerAdmin(ViewOnlyAdmin):
    """Workers as of their last heartbeat."""

    list_display = ("name", "host", "pid", "queues", "device", "shard", "since", "heartbeat")
    list_filter = (SilenceFilter, "queues", "host", "device")
    search_fields = ("name", "host", "shard__stage__iteration__experiment__name")
    list_select_related = ("shard__stage__iteration__experiment",)


@admin.register(MachineLoad)
class MachineLoadAdmin(ViewOnlyAdmin):
    """CPU, memory and GPU load of machines with workers."""

    list_display = ("host", "measured", "cpu_percent", "memory_bytes", "memory_total_bytes")
    list_filter = ("host", "measured")


@admin.register(PlaygroundVote)
class PlaygroundVoteAdmin(ViewOnlyAdmin):
    """Users' votes on turns of the playground."""

    list_display = ("turn", "voter", "choice", "changed")
    list_filter = ("choice", "voter")
    list_select_related = ("turn", "voter")


@admin.register(Job)
class JobAdmin(ViewOnlyAdmin):
    """Jobs that users requested; they cannot be edited."""

    list_display = (
        "created",
        "created_by",
        "kind",
        "experiment_name",
        "status",
        "message",
        "finished",
    )
    list_filter = ("status", "kind", "created_by")
    search_fields = ("experiment_name", "message")
    list_select_related = ("created_by",)

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002
        """Entries of the log cannot be deleted."""
        return False


@admin.register(Activity)
class ActivityAdmin(ViewOnlyAdmin):
    """The activity log, which cannot be edited."""

    list_display = (
        *("created", "actor_name", "source", "get_action_display", "object_name"),
        *("experiment_name", "address", "details", "reason"),
    )
    list_filter = ("source", "object_type", "created")
    search_fields = (
        *("actor_name", "object_name", "experiment_name", "address", "details", "reason"),
    )

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002
        """Entries of the log cannot be deleted."""
        return False
