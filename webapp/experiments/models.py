"""Database models: Experiment -> Iteration -> Stage -> Shard -> Attempt.

Results are stored in files; no large texts are stored here. Only `workers.pipeline.transitions`
changes the status of a row. History is never deleted: each attempt at a shard has its own row.
"""

from collections.abc import Iterable
from typing import Any, ClassVar
from uuid import uuid4

from django.conf import settings
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q

SHA256_CHARS = 64

valid_name = RegexValidator(
    r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z",
    "Up to 64 letters, digits and -_. after a letter or digit.",
)


class RunStatus(models.TextChoices):
    """Status of an experiment or an iteration.

    Interrupted is stored for a command that was stopped; users see it as paused. Users see the
    labels, which `webapp.experiments.statuses` converts for URLs and the API.
    """

    WAITING = "waiting", "pending"
    RUNNING = "running", "running"
    FINISHED = "finished", "completed"
    INTERRUPTED = "interrupted", "paused"
    FAILED = "failed", "failed"
    NO_PAIRS = "no_pairs", "no pairs"
    PAUSED = "paused", "paused"
    CANCELLED = "cancelled", "cancelled"
    NEEDS_ATTENTION = "needs_attention", "needs attention"


class Driver(models.TextChoices):
    """What runs an iteration: the workers, or a command in its own process."""

    COMMAND = "command", "a command"
    WORKERS = "workers", "workers"


class StageStatus(models.TextChoices):
    """Status of a stage. Skipped: it is not in this iteration's schedule."""

    WAITING = "waiting", "pending"
    RUNNING = "running", "running"
    FINISHED = "finished", "completed"
    SKIPPED = "skipped", "skipped"
    FAILED = "failed", "failed"


class ShardStatus(models.TextChoices):
    """Status of a shard. Pending and failed shards can be claimed."""

    WAITING = "waiting", "pending"
    RUNNING = "running", "running"
    FINISHED = "finished", "completed"
    FAILED = "failed", "failed"


class AttemptStatus(models.TextChoices):
    """Status of an attempt. Lost: its process died without reporting."""

    RUNNING = "running", "running"
    FINISHED = "finished", "completed"
    FAILED = "failed", "failed"
    INTERRUPTED = "interrupted", "interrupted"
    LOST = "lost", "lost"


def _make_status_constraint(model: str, values: Iterable[str]) -> models.CheckConstraint:
    return models.CheckConstraint(
        condition=Q(status__in=list(values)), name=f"{model}_status_is_known"
    )


class Experiment(models.Model):
    """A recipe, a random seed and a base model (M0), run for some iterations.

    Attributes:
        uuid: identifies the experiment permanently, unlike its name and its primary key, which may
            be reused after deletion or a restore.
        name: label, available again once the experiment is deleted; also the name of its folder
            under the artifact root, whose description contains the UUID.
        is_private: visible to its owner and admins only, instead of to all users.
        recipe: all recipe values at the start of the experiment.
        target_iteration: the workers start iterations until this one is completed.
        description: one line about its purpose.
        notes: observations of users, in plain text.
        archived: when it was archived; None if it is listed.
    """

    tags: Any  # manager of its tags

    uuid = models.UUIDField(default=uuid4, unique=True, editable=False)
    name = models.CharField(max_length=64, unique=True, validators=[valid_name])
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="experiments",
    )
    is_private = models.BooleanField(default=False)
    recipe = models.JSONField()
    recipe_sha256 = models.CharField(max_length=SHA256_CHARS)
    seed = models.BigIntegerField()
    base_model_folder = models.CharField(max_length=4096)
    base_model_sha256 = models.CharField(max_length=SHA256_CHARS)
    artifact_root = models.CharField(max_length=4096)
    status = models.CharField(max_length=16, choices=RunStatus, default=RunStatus.WAITING)
    target_iteration = models.PositiveIntegerField(default=0)
    description = models.CharField(max_length=200, blank=True, default="")
    notes = models.TextField(max_length=20_000, blank=True, default="")
    archived = models.DateTimeField(null=True, blank=True)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Newest first."""

        ordering: ClassVar = ["-created", "-pk"]
        constraints: ClassVar = [_make_status_constraint("experiment", RunStatus.values)]
        permissions: ClassVar = [("run_experiment", "Can start and control experiments")]

    def __str__(self) -> str:
        return self.name


class ExperimentTag(models.Model):
    """A tag of an experiment."""

    experiment = models.ForeignKey(Experiment, on_delete=models.CASCADE, related_name="tags")
    name = models.CharField(max_length=32)
    objects: ClassVar[models.Manager["ExperimentTag"]] = models.Manager()

    class Meta:
        """Ordered by name."""

        ordering: ClassVar = ["name"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["experiment", "name"], name="tag_is_unique")
        ]

    def __str__(self) -> str:
        return self.name


class Iteration(models.Model):
    """An iteration of the loop, from M_{number-1} to M_number.

    Attributes:
        model_in: hash of M_{number-1}.
        model_out: hash of M_number, once it is trained.
        message: why it was not completed, as shown to users.
        metrics: the summary of a finished iteration.
        driver: what runs it, or ran it last.
        cancel_requested, pause_requested: read when a shard is claimed and at every heartbeat;
            the status changes once none of its shards is running.
    """

    experiment = models.ForeignKey(Experiment, on_delete=models.CASCADE, related_name="iterations")
    number = models.PositiveIntegerField()
    status = models.CharField(max_length=16, choices=RunStatus, default=RunStatus.WAITING)
    model_in = models.CharField(max_length=SHA256_CHARS)
    model_out = models.CharField(max_length=SHA256_CHARS, blank=True, default="")
    message = models.TextField(blank=True, default="")
    metrics = models.JSONField(default=dict, blank=True)
    driver = models.CharField(max_length=16, choices=Driver, default=Driver.COMMAND)
    cancel_requested = models.BooleanField(default=False)
    pause_requested = models.BooleanField(default=False)
    started = models.DateTimeField(null=True, blank=True)
    finished = models.DateTimeField(null=True, blank=True)

    class Meta:
        """Ordered by number."""

        ordering: ClassVar = ["experiment", "number"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["experiment", "number"], name="iteration_is_unique"),
            models.CheckConstraint(condition=Q(number__gte=1), name="iteration_counts_from_1"),
            _make_status_constraint("iteration", RunStatus.values),
        ]

    def __str__(self) -> str:
        return f"{self.experiment} iteration {self.number}"


class Stage(models.Model):
    """A step of the paper in one iteration.

    Attributes:
        position: its position in the core's list of stages, from 0.
        shard_count: known once the steps before it are finished.
    """

    iteration = models.ForeignKey(Iteration, on_delete=models.CASCADE, related_name="stages")
    name = models.CharField(max_length=32)
    title = models.CharField(max_length=200)
    position = models.PositiveSmallIntegerField()
    status = models.CharField(max_length=16, choices=StageStatus, default=StageStatus.WAITING)
    shard_count = models.PositiveIntegerField(null=True, blank=True)

    class Meta:
        """Ordered by position."""

        ordering: ClassVar = ["iteration", "position"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["iteration", "name"], name="stage_name_is_unique"),
            models.UniqueConstraint(
                fields=["iteration", "position"], name="stage_position_is_unique"
            ),
            _make_status_constraint("stage", StageStatus.values),
        ]

    def __str__(self) -> str:
        return f"{self.iteration} {self.name}"


class Shard(models.Model):
    """The unit of work that is claimed, stored and retried.

    Attributes:
        attempt_count: number of claims so far; the latest attempt has this number.
        token: token of the attempt that holds it; required for every write.
        counts: counts from its manifest, once it is finished.
        done: number of completions of the running attempt so far.
        tokens: number of tokens of the running attempt so far.
        training_metrics: rows of the running attempt's training log so far, thinned out.
        failures: attempts that failed or were lost since a user last requested a retry.
        lease_until: end of a worker's claim, by the database clock, unless it is extended;
            a command that runs all shards itself holds the experiment's lock instead.
        sent: when a message about it was last sent to the broker.
    """

    stage = models.ForeignKey(Stage, on_delete=models.CASCADE, related_name="shards")
    index = models.PositiveIntegerField()
    status = models.CharField(max_length=16, choices=ShardStatus, default=ShardStatus.WAITING)
    attempt_count = models.PositiveIntegerField(default=0)
    token = models.UUIDField(null=True, blank=True, editable=False)
    counts = models.JSONField(default=dict, blank=True)
    done = models.PositiveBigIntegerField(default=0)
    tokens = models.PositiveBigIntegerField(default=0)
    training_metrics = models.JSONField(default=list, blank=True)
    failures = models.PositiveIntegerField(default=0)
    lease_until = models.DateTimeField(null=True, blank=True)
    sent = models.DateTimeField(null=True, blank=True)

    class Meta:
        """By stage."""

        ordering: ClassVar = ["stage", "index"]
        indexes: ClassVar = [
            # A stage may have tens of thousands; pending and failed ones are queried often.
            models.Index(fields=["stage", "status", "failures"], name="shard_by_status"),
        ]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["stage", "index"], name="shard_is_unique"),
            _make_status_constraint("shard", ShardStatus.values),
            models.CheckConstraint(
                condition=Q(status=ShardStatus.RUNNING, token__isnull=False)
                | ~Q(status=ShardStatus.RUNNING) & Q(token__isnull=True),
                name="shard_is_held_while_it_runs",
            ),
            models.CheckConstraint(
                condition=Q(status=ShardStatus.RUNNING) | Q(lease_until__isnull=True),
                name="shard_is_leased_only_while_it_runs",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.stage} shard {self.index}"


class Attempt(models.Model):
    """An attempt of one process at a shard.

    Attributes:
        token: fencing token for the shard's row: an attempt that lost its claim cannot change it.
        error: what went wrong, as shown to users.
        worker: host name of the machine.
    """

    shard = models.ForeignKey(Shard, on_delete=models.CASCADE, related_name="attempts")
    number = models.PositiveIntegerField()
    token = models.UUIDField(unique=True, editable=False)
    status = models.CharField(max_length=16, choices=AttemptStatus, default=AttemptStatus.RUNNING)
    started = models.DateTimeField()
    finished = models.DateTimeField(null=True, blank=True)
    seconds = models.FloatField(null=True, blank=True)
    error = models.TextField(blank=True, default="")
    worker = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()

    class Meta:
        """Oldest first."""

        ordering: ClassVar = ["shard", "number"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["shard", "number"], name="attempt_is_unique"),
            models.UniqueConstraint(
                fields=["shard"],
                condition=Q(status=AttemptStatus.RUNNING),
                name="one_attempt_runs",
            ),
            models.CheckConstraint(condition=Q(number__gte=1), name="attempt_counts_from_1"),
            _make_status_constraint("attempt", AttemptStatus.values),
        ]

    def __str__(self) -> str:
        return f"{self.shard} attempt {self.number}"


class Worker(models.Model):
    """A worker as of its last heartbeat; silent rows are removed.

    Attributes:
        name: its Celery name.
        host, pid: its machine, and the id of its main process there.
        slot: number of the pool process, if the worker has several; each has a row.
        queues: names of the queues it takes work from, separated by commas.
        device: device of its engine, once reported.
        device_bytes: memory in use on its GPUs, or by its engine process on a CPU.
        device_utilization: share of the time in which its devices compute; None while it is idle.
        engines: installed kinds of engines, separated by commas; empty for a worker of an earlier
            version.
        shard: the shard that it is running.
        since: start of its current task or idle time.
    """

    name = models.CharField(max_length=255)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    slot = models.PositiveSmallIntegerField(default=0)
    queues = models.CharField(max_length=255)
    device = models.CharField(max_length=255, blank=True, default="")
    device_bytes = models.BigIntegerField(null=True, blank=True)
    device_utilization = models.FloatField(null=True, blank=True)
    engines = models.CharField(max_length=255, blank=True, default="")
    shard = models.ForeignKey(
        Shard, on_delete=models.SET_NULL, null=True, blank=True, related_name="workers"
    )
    since = models.DateTimeField()
    started = models.DateTimeField()
    heartbeat = models.DateTimeField()

    class Meta:
        """By machine."""

        ordering: ClassVar = ["host", "pid", "slot"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["host", "pid", "slot"], name="worker_is_unique"),
        ]

    def __str__(self) -> str:
        return self.name


class MachineLoad(models.Model):
    """The load of a machine with workers, as a mean over some seconds; old rows are thinned.

    Attributes:
        measured: end of the period that is measured.
        is_coarse: whether the row is kept when rows are thinned.
        cpu_percent: busy share of all CPU cores.
        memory_bytes: memory in use by all processes of the machine.
        gpus: for each GPU its `name`, `percent` (busy share, null if unknown), `bytes` and
            `total_bytes`.
    """

    host = models.CharField(max_length=255)
    measured = models.DateTimeField(db_index=True)
    is_coarse = models.BooleanField(default=False)
    cpu_percent = models.FloatField()
    memory_bytes = models.BigIntegerField()
    memory_total_bytes = models.BigIntegerField()
    gpus = models.JSONField(default=list, blank=True)

    class Meta:
        """By machine, oldest first."""

        ordering: ClassVar = ["host", "measured"]
        verbose_name_plural = "machine load"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["host", "measured"], name="one_load_per_period"),
        ]

    def __str__(self) -> str:
        return f"{self.host} {self.measured:%Y-%m-%d %H:%M:%S}"


class JobKind(models.TextChoices):
    """What a user can request."""

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


class JobStatus(models.TextChoices):
    """Status of a job. Refused: it cannot be done; its message gives the reason."""

    WAITING = "waiting", "pending"
    RUNNING = "running", "running"
    DONE = "done", "completed"
    REFUSED = "refused", "refused"


class Job(models.Model):
    """A user's request on a page or through the API, and its result.

    The pages only write jobs. `workers.jobs.runner` runs them; a job that needs no worker is
    completed at once. Jobs are also the record of who requested what and when, so a job outlives
    its experiment and its user.

    Attributes:
        experiment_uuid: UUID of the job's experiment, kept after its deletion; a launch chooses it
            before it writes any file.
        experiment_name: name of the experiment, which does not exist yet when it is launched.
        payload: the request, in the format of the job's kind.
        follows: the previous turn of a playground conversation.
        outcome: the result, in the format of the job's kind.
        message: why the job was refused.
        token, lease_until: token of the process that runs the job, and the end of its lease unless
            extended.
    """

    kind = models.CharField(max_length=16, choices=JobKind)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="jobs",
    )
    experiment = models.ForeignKey(
        Experiment, on_delete=models.SET_NULL, null=True, blank=True, related_name="jobs"
    )
    experiment_uuid = models.UUIDField(null=True, blank=True, editable=False)
    experiment_name = models.CharField(max_length=64)
    payload = models.JSONField(default=dict, blank=True)
    follows = models.ForeignKey(
        "self", on_delete=models.PROTECT, null=True, blank=True, related_name="followed_by"
    )
    status = models.CharField(max_length=16, choices=JobStatus, default=JobStatus.WAITING)
    outcome = models.JSONField(default=dict, blank=True)
    message = models.TextField(blank=True, default="")
    token = models.UUIDField(null=True, blank=True, editable=False)
    lease_until = models.DateTimeField(null=True, blank=True)
    created = models.DateTimeField(auto_now_add=True)
    finished = models.DateTimeField(null=True, blank=True)

    class Meta:
        """Newest first."""

        ordering: ClassVar = ["-created", "-pk"]
        indexes: ClassVar = [models.Index(fields=["status", "kind"], name="job_by_status")]
        constraints: ClassVar = [
            _make_status_constraint("job", JobStatus.values),
            models.CheckConstraint(
                condition=Q(status=JobStatus.RUNNING, token__isnull=False)
                | ~Q(status=JobStatus.RUNNING) & Q(token__isnull=True),
                name="job_is_held_while_it_runs",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.experiment_name}"


class VoteChoice(models.TextChoices):
    """Which of two responses a user prefers."""

    FIRST = "first", "first"
    SECOND = "second", "second"
    TIE = "tie", "tie"


class PlaygroundVote(models.Model):
    """A user's preference between the two responses of a playground turn; the latest one counts.

    Attributes:
        voter: None after the user's deletion; the vote remains.
    """

    turn = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="votes")
    voter = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="playground_votes",
    )
    choice = models.CharField(max_length=8, choices=VoteChoice)
    changed = models.DateTimeField(auto_now=True)

    class Meta:
        """One vote per user and turn."""

        ordering: ClassVar = ["turn", "pk"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["turn", "voter"], name="one_vote_per_user_and_turn"),
            models.CheckConstraint(
                condition=Q(choice__in=VoteChoice.values), name="vote_choice_is_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.choice} of {self.turn}"
