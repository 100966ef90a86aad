"""JSON schemas of requests and responses."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any, Final, Literal

from ninja import Schema
from pydantic import ConfigDict, Field

from webapp.dashboard.activity_log import ActivityEntry
from webapp.experiment_form.launch_request import write_deprecated_payload
from webapp.experiments.models import Experiment, Iteration, Job, JobKind
from webapp.experiments.progress import WorkerState, is_active
from webapp.experiments.stage_progress import StageProgress
from webapp.experiments.statuses import get_public_status, write_public_status

Name = Annotated[str, Field(max_length=64)]
_MAX_VALUES: Final = 300
"""Limit on values per request, larger than the number of recipe values."""


def _read_from(name: str) -> Any:
    """Declare a field that also accepts an earlier name."""
    return Field(
        # pydantic's own attribute warns whenever it is read
        json_schema_extra={"deprecated": True},
        description=f"Deprecated: use {name}.",
    )


class Problem(Schema):
    """An error. For an invalid request, `detail` lists each problem with its location."""

    detail: str | list[dict[str, Any]]


class ExperimentOut(Schema):
    """An experiment.

    Attributes:
        owner: name of the account; null if it was deleted.
        recipe: the recipe's name.
        target_iteration: the last iteration that the workers will start.
        archived: when it was archived; null if it is listed.
    """

    name: str
    owner: str | None
    description: str
    tags: list[str]
    notes: str
    archived: datetime | None
    is_private: bool
    status: str
    recipe: str
    seed: int
    base_model_sha256: str
    target_iteration: int
    created: datetime
    seed_model_sha256: Annotated[str, _read_from("base_model_sha256")]
    until: Annotated[int, _read_from("target_iteration")]

    @classmethod
    def from_row(cls, row: Experiment) -> "ExperimentOut":
        """Convert a row, whose tags should be prefetched."""
        return cls(
            name=row.name,
            description=row.description,
            tags=[tag.name for tag in row.tags.all()],
            notes=row.notes,
            archived=row.archived,
            owner=row.owner.get_username() if row.owner else None,
            is_private=row.is_private,
            status=get_public_status(row),
            recipe=str(row.recipe.get("name", "")),
            seed=row.seed,
            base_model_sha256=row.base_model_sha256,
            seed_model_sha256=row.base_model_sha256,
            target_iteration=row.target_iteration,
            until=row.target_iteration,
            created=row.created,
        )


class DetailsIn(Schema):
    """Description, tags and notes of an experiment; omitted fields are not changed."""

    model_config = ConfigDict(extra="forbid")

    description: Annotated[str, Field(max_length=200)] = ""
    tags: Annotated[list[str], Field(default_factory=list, max_length=20)]
    notes: Annotated[str, Field(max_length=20_000)] = ""


class FilterIn(Schema):
    """Filter of the experiment list; by default, all experiments that are not archived.

    Attributes:
        q: text in the name, the description or a tag.
        owner: name of an account.
        archived: empty for experiments that are not archived, `1` for archived ones, or `all`.
    """

    q: Annotated[str, Field(max_length=64)] = ""
    status: Annotated[str, Field(max_length=32)] = ""
    owner: Annotated[str, Field(max_length=150)] = ""
    tag: Annotated[str, Field(max_length=32)] = ""
    archived: Literal["", "1", "all"] = ""


class ModelSizeOut(Schema):
    """A model of an experiment on disk; size 0 if its weights were deleted."""

    number: int
    bytes: int


class DiskUseOut(Schema):
    """Disk use of an experiment in bytes, and the reasons why it cannot be deleted now.

    Attributes:
        bytes: total size of all files; null if the store cannot be read.
    """

    bytes: int | None
    models: list[ModelSizeOut]
    obstacles: list[str]


class OwnershipIn(Schema):
    """New owner and visibility of an experiment; omitted fields are not changed.

    Attributes:
        owner: name of an account with the permission to start experiments; null for no owner.
    """

    model_config = ConfigDict(extra="forbid")

    owner: Annotated[str, Field(max_length=150)] | None = None
    is_private: bool = False


class StageOut(Schema):
    """Progress of a stage; unknown values are null."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    title: str
    status: str
    done: int
    running: int
    failed: int
    shard_count: int | None
    tokens: int
    tokens_per_second: int | None
    seconds: float | None
    seconds_left: float | None

    @classmethod
    def from_progress(cls, stage: StageProgress) -> "StageOut":
        """Convert the progress of a stage."""
        written = cls.model_validate(stage)
        return written.model_copy(update={"status": write_public_status(stage.status_label)})


class IterationOut(Schema):
    """An iteration, from M_{number-1} to M_number, with hashes of the model files."""

    number: int
    status: str
    driver: str
    model_in: str
    model_out: str
    message: str
    cancel_requested: bool
    pause_requested: bool
    started: datetime | None
    finished: datetime | None
    stages: list[StageOut]
    finding: Annotated[str, _read_from("message")]

    @classmethod
    def from_row(cls, row: Iteration, stages: list[StageProgress]) -> "IterationOut":
        """Convert a row."""
        written = {"status", "stages", "finding"}
        plain = (name for name in cls.model_fields if name not in written)
        return cls(
            status=get_public_status(row),
            **{name: getattr(row, name) for name in plain},
            finding=row.message,
            stages=[StageOut.from_progress(stage) for stage in stages],
        )


class StatusOut(Schema):
    """Progress of an experiment. Active: it is running or about to continue."""

    name: str
    status: str
    is_active: bool
    target_iteration: int
    iterations: list[IterationOut]
    until: Annotated[int, _read_from("target_iteration")]

    @classmethod
    def from_row(cls, row: Experiment, stages: dict[int, list[StageProgress]]) -> "StatusOut":
        """Convert a row whose iterations are prefetched."""
        return cls(
            name=row.name,
            status=get_public_status(row),
            is_active=is_active(row),
            target_iteration=row.target_iteration,
            until=row.target_iteration,
            iterations=[
                IterationOut.from_row(iteration, stages.get(iteration.pk, []))
                for iteration in row.iterations.all()
            ],
        )


class MetricsOut(Schema):
    """Metrics of a completed iteration: judge, meta-judge, pairs, training, alarms."""

    iteration: int
    metrics: dict[str, Any]


class SeedModel(Schema):
    """Base model (M0): a local model folder, or a Hugging Face id such as org/name@revision."""

    model_config = ConfigDict(extra="forbid")

    source: Literal["folder", "hub"]
    name: Annotated[str, Field(max_length=300)]


class LaunchChanges(Schema):
    """Settings of a new experiment; omitted values are taken from its base."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[Name, Field(description="Letters, digits, `.`, `_` and `-`.")]
    seed: Annotated[
        Annotated[int, Field(ge=0, le=2**53)] | None,
        Field(description="Random seed of the experiment."),
    ] = None
    until: Annotated[
        Annotated[int, Field(ge=1, le=100)] | None,
        Field(description="The last iteration that the workers start."),
    ] = None
    is_private: Annotated[
        bool | None,
        Field(description="Whether the experiment is visible only to its owner and admins."),
    ] = None
    model: Annotated[
        SeedModel | None,
        Field(
            description="Base model: `source` is `folder` or `hub`, and `name` is a folder in the "
            "model root or an id such as org/name@revision. Optional for a recipe with a task."
        ),
    ] = None
    prompts: Annotated[
        Annotated[list[str], Field(min_length=1)] | None,
        Field(description="The prompts. Optional for a recipe with a task."),
    ] = None
    skip_bad_rows: Annotated[
        bool, Field(description="Skip unusable prompts instead of refusing the request.")
    ] = False
    values: Annotated[
        dict[str, Any],
        Field(
            default_factory=dict,
            max_length=_MAX_VALUES,
            description="Recipe values by key, e.g. actor.samples.",
        ),
    ]


class LaunchIn(LaunchChanges):
    """A new experiment from a built-in recipe or the text of a recipe."""

    recipe: Annotated[str, Field(description="Name of a built-in recipe.")] = ""
    recipe_text: Annotated[
        str, Field(max_length=65_536, description="A recipe as YAML, instead of `recipe`.")
    ] = ""


class ForkIn(Schema):
    """A fork: a new experiment that keeps results of another one up to a stage."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    iteration: Annotated[
        int,
        Field(ge=1, le=100, description="The first iteration that runs; earlier ones are kept."),
    ]
    keep: Annotated[
        str,
        Field(description="The last stage of this iteration that is kept, such as pair_judge."),
    ] = ""
    until: Annotated[int, Field(ge=1, le=100)] | None = None
    is_private: bool | None = None
    values: Annotated[
        dict[str, Any],
        Field(default_factory=dict, description="Changed values by key, e.g. training.beta."),
    ]


class ModelCheckIn(Schema):
    """A model to check, and the recipe whose limits apply.

    Attributes:
        model: a folder of the installation, or an id of the Hugging Face Hub.
        recipe: name of a shipped recipe; `recipe_text` is used instead if it is empty.
        values: changes of the recipe, by key.
        prompts: prompts whose lengths are checked against the limits.
    """

    model_config = ConfigDict(extra="forbid")

    model: SeedModel
    recipe: str = ""
    recipe_text: Annotated[str, Field(max_length=65_536, description="YAML")] = ""
    values: Annotated[
        dict[str, Any],
        Field(
            default_factory=dict,
            max_length=_MAX_VALUES,
            description="Recipe values by key, such as actor.samples.",
        ),
    ]
    prompts: Annotated[list[str], Field(min_length=1)] | None = None


class SettingsIn(Schema):
    """New values of an experiment's settings.

    Attributes:
        apply: how a change treats results computed from the earlier values. `now` recomputes them,
            `next` keeps them and uses the new values from the next iteration on, null refuses.
        dry_run: describe the effect without changing anything.
    """

    model_config = ConfigDict(extra="forbid")

    values: Annotated[
        dict[str, Any],
        Field(
            min_length=1,
            max_length=_MAX_VALUES,
            description="New values by key, e.g. training.max_length.",
        ),
    ]
    apply: Literal["now", "next"] | None = None
    dry_run: bool = False


class ChangedValueOut(Schema):
    """A setting before and after a change."""

    key: str
    before: Any
    after: Any


class MadeAgainOut(Schema):
    """A stage whose finished shards will be rerun."""

    stage: str
    shards: int


class SettingsPlanOut(Schema):
    """Effect of a settings change.

    Attributes:
        from_iteration: the first iteration that uses the new values.
        why_later: why the iteration in progress keeps the old values; empty if it does not.
    """

    from_iteration: int
    values: list[ChangedValueOut]
    made_again: list[MadeAgainOut]
    why_later: str


class SettingsChangeOut(Schema):
    """A settings change of an experiment."""

    number: int
    from_iteration: int
    values: list[ChangedValueOut]


class FollowIn(Schema):
    """The next turn of a conversation; omitted values are taken from the previous turn."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    judges: list[int] | None = None
    judgments: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    seed: int | None = None


class ConversationIn(FollowIn):
    """A prompt for two models; omitted values are the defaults of the playground form."""

    models: Annotated[list[int], Field(min_length=2, max_length=2, description="M0 is 0.")]
    judges: list[int] = Field(default_factory=list)


class PublishIn(Schema):
    """Where to publish a model, in addition to the local folder."""

    model_config = ConfigDict(extra="forbid")

    repository: str = ""
    is_public: bool = False


class JobOut(Schema):
    """A background job that a user requested, and its result."""

    id: int
    kind: str
    status: str
    experiment_name: str
    created_by: str | None
    payload: dict[str, Any]
    follows: Annotated[
        int | None, Field(description="For a follow-up, the id of the previous turn.")
    ]
    outcome: dict[str, Any]
    message: Annotated[str, Field(description="Why the job was refused.")]
    created: datetime
    finished: datetime | None
    subject: Annotated[str, _read_from("experiment_name")]
    by: Annotated[str | None, _read_from("created_by")]
    wish: Annotated[dict[str, Any], _read_from("payload")]
    finding: Annotated[str, _read_from("message")]
    warnings: Annotated[
        list[str],
        Field(default_factory=list, description="Deprecated names in this request."),
    ]

    @classmethod
    def from_row(cls, row: Job, *, warnings: Sequence[str] = ()) -> "JobOut":
        """Convert a row."""
        same = ("kind", "status", "outcome", "created", "finished")
        name = row.created_by.get_username() if row.created_by else None
        return cls(
            id=row.pk,
            experiment_name=row.experiment_name,
            subject=row.experiment_name,
            created_by=name,
            by=name,
            payload=row.payload,
            wish=write_deprecated_payload(row.payload)
            if row.kind == JobKind.LAUNCH
            else row.payload,
            message=row.message,
            finding=row.message,
            follows=row.follows_id,
            warnings=list(warnings),
            **{name: getattr(row, name) for name in same},
        )


class OrderOut(JobOut):
    """A job as `GET /orders` lists it. Deprecated."""


class ActivityFilter(Schema):
    """Which activity to list; empty values list all.

    Attributes:
        user: part of a user name.
        experiment: part of an experiment name.
        kind: a kind of jobs, `overrides`, `acts`, `items`, `accounts` or `experiments`.
        source: how the action reached the installation.
        since, until: first and last day, UTC.
    """

    user: Annotated[str, Field(max_length=150)] = ""
    experiment: Annotated[str, Field(max_length=64)] = ""
    kind: Annotated[str, Field(max_length=16)] = ""
    source: Literal["ui", "api", "cli", "system", "unknown"] | None = None
    since: date | None = None
    until: date | None = None


class ActivityOut(Schema):
    """An entry of the activity log.

    Attributes:
        user: name of the account; without an account, what caused the entry.
        action: what was done.
        object: name of an experiment or an account.
        status: status of the job, if it was one; otherwise empty.
        before, after: the values that the action changed, where they are recorded.
        source: UI, API, CLI, system, or unknown for entries of an earlier version.
    """

    created: datetime
    user: str
    action: str
    object: str
    iteration: int | None
    status: str
    finished: datetime | None
    reason: str
    before: dict[str, Any]
    after: dict[str, Any]
    details: str
    message: str
    source: str

    @classmethod
    def from_entry(cls, entry: ActivityEntry) -> "ActivityOut":
        """Convert an entry."""
        same = ("iteration", "status", "finished", "reason", "details", "message", "source")
        return cls(
            created=entry.when,
            user=entry.who,
            action=entry.what,
            object=entry.about,
            before=dict(entry.before),
            after=dict(entry.after),
            **{name: getattr(entry, name) for name in same},
        )


class WorkerOut(Schema):
    """A worker as of its last heartbeat."""

    name: str
    host: str
    pid: int
    queues: list[str]
    device: str
    doing: str
    is_silent: bool
    since: datetime
    heartbeat: datetime
    device_bytes: int | None
    device_utilization: float | None
    tokens_per_second: float | None

    @classmethod
    def from_state(cls, state: WorkerState) -> "WorkerOut":
        """Convert a worker's state."""
        row = state.row
        same = ("name", "host", "pid", "device", "since", "heartbeat")
        used = ("device_bytes", "device_utilization")
        return cls(
            **{name: getattr(row, name) for name in (*same, *used)},
            tokens_per_second=state.tokens_per_second,
            queues=list(state.queues),
            doing=state.doing,
            is_silent=state.is_silent,
        )


class RecipeOut(Schema):
    """A built-in recipe with all its values."""

    name: str
    description: str
    values: dict[str, Any]


class RecipeFieldOut(Schema):
    """A recipe field; changes refer to it by `key`."""

    model_config = ConfigDict(from_attributes=True)

    key: str
    text: str
    default: str
    unit: str
    bounds: str
    source: str
    from_paper: bool
    kind: str
    choices: list[str]
