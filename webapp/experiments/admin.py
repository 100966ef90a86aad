"""The administrators' view of the rows. Rows are changed by the workers, so this only looks."""

from django.contrib import admin
from django.http import HttpRequest

from webapp.experiments.models import Attempt, Experiment, Iteration, Order, Shard, Stage, Worker


class LookOnly(admin.ModelAdmin):  # type: ignore[type-arg]
    """A status that is edited by hand would break the claim that holds it."""

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        """Nobody adds rows here."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002
        """Nobody changes rows here."""
        return False


@admin.register(Experiment)
class ExperimentAdmin(LookOnly):
    """Experiments; those with their rows may be deleted here."""

    list_display = (
        "name",
        "owner",
        "status",
        "seed",
        "recipe_name",
        "created",
    )
    list_filter = (
        "status",
        "created",
    )
    search_fields = ("name",)
    list_select_related = ("owner",)

    @admin.display(description="recipe")
    def recipe_name(self, experiment: Experiment) -> str:
        """Name of the recipe that the experiment began with."""
        return str(experiment.recipe.get("name", ""))


@admin.register(Iteration)
class IterationAdmin(LookOnly):
    """Iterations."""

    list_display = (
        "experiment",
        "number",
        "status",
        "driver",
        "started",
        "finished",
        "finding",
    )
    list_filter = (
        "status",
        "experiment",
    )
    search_fields = ("experiment__name",)
    list_select_related = ("experiment",)


@admin.register(Stage)
class StageAdmin(LookOnly):
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
    list_select_related = ("iteration__experiment",)


@admin.register(Shard)
class ShardAdmin(LookOnly):
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
    list_select_related = ("stage__iteration__experiment",)


@admin.register(Attempt)
class AttemptAdmin(LookOnly):
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


@admin.register(Worker)
class WorkerAdmin(LookOnly):
    """Workers, as they last showed themselves."""

    list_display = ("name", "host", "pid", "queues", "device", "shard", "since", "heartbeat")
    list_select_related = ("shard__stage__iteration__experiment",)


@admin.register(Order)
class OrderAdmin(LookOnly):
    """What people asked for: the log, which nobody edits."""

    list_display = ("created", "by", "kind", "subject", "status", "finding", "finished")
    list_filter = ("status", "kind", "by")
    search_fields = ("subject", "finding")
    list_select_related = ("by",)

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002
        """A log from which entries can be taken is none."""
        return False
