"""What goes in and out, as JSON."""

from datetime import datetime
from typing import Annotated, Any, Literal

from ninja import Schema
from pydantic import ConfigDict, Field

from webapp.experiments.models import Experiment, Iteration, Order
from webapp.experiments.progress import WorkerState, is_active
from webapp.experiments.stage_progress import StageProgress

Name = Annotated[str, Field(max_length=64)]


class Problem(Schema):
    """Why something was not done. Of a request that does not fit, a list says what and where."""

    detail: str | list[dict[str, Any]]


class ExperimentOut(Schema):
    """An experiment.

    Attributes:
        owner: name of the account; null if it is gone.
        recipe: the recipe's name.
        until: the iteration that the workers go on to.
    """

    name: str
    owner: str | None
    is_private: bool
    status: str
    recipe: str
    seed: int
    seed_model_sha256: str
    until: int
    created: datetime

    @classmethod
    def of(cls, row: Experiment) -> "ExperimentOut":
        """Write a row."""
        return cls(
            name=row.name,
            owner=row.owner.get_username() if row.owner else None,
            is_private=row.is_private,
            status=row.status,
            recipe=str(row.recipe.get("name", "")),
            seed=row.seed,
            seed_model_sha256=row.seed_model_sha256,
            until=row.until,
            created=row.created,
        )


class ExperimentPage(Schema):
    """Some experiments of all, newest first."""

    count: int
    experiments: list[ExperimentOut]


class OwnershipIn(Schema):
    """Whose an experiment shall be and who shall see it; what is left out stays.

    Attributes:
        owner: name of an account that may start experiments; null for nobody.
    """

    model_config = ConfigDict(extra="forbid")

    owner: Annotated[str, Field(max_length=150)] | None = None
    is_private: bool = False


class StageOut(Schema):
    """How far a stage is; what is not known is null."""

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


class IterationOut(Schema):
    """An iteration, M_{number-1} to M_number; hashes are of the models' files."""

    number: int
    status: str
    driver: str
    model_in: str
    model_out: str
    finding: str
    cancel_requested: bool
    pause_requested: bool
    started: datetime | None
    finished: datetime | None
    stages: list[StageOut]

    @classmethod
    def of(cls, row: Iteration, stages: list[StageProgress]) -> "IterationOut":
        """Write a row."""
        plain = (name for name in cls.model_fields if name != "stages")
        return cls(
            **{name: getattr(row, name) for name in plain},
            stages=[StageOut.model_validate(stage) for stage in stages],
        )


class StatusOut(Schema):
    """How far an experiment is. Active: it runs, or the workers are about to go on."""

    name: str
    status: str
    is_active: bool
    until: int
    iterations: list[IterationOut]

    @classmethod
    def of(cls, row: Experiment, stages: dict[int, list[StageProgress]]) -> "StatusOut":
        """Write a row whose iterations have been prefetched."""
        return cls(
            name=row.name,
            status=row.status,
            is_active=is_active(row),
            until=row.until,
            iterations=[
                IterationOut.of(iteration, stages.get(iteration.pk, []))
                for iteration in row.iterations.all()
            ],
        )


class MetricsOut(Schema):
    """The summary of a finished iteration: judge, meta-judge, pairs, training, alarms."""

    iteration: int
    metrics: dict[str, Any]


class SeedModel(Schema):
    """M0: a folder of the installation, or an id of the Hugging Face hub, as org/name@revision."""

    model_config = ConfigDict(extra="forbid")

    source: Literal["folder", "hub"]
    name: Annotated[str, Field(max_length=300)]


class LaunchChanges(Schema):
    """What an experiment begins with; what is left out is the base's."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    seed: Annotated[int, Field(ge=0, le=2**53)] | None = None
    until: Annotated[int, Field(ge=1, le=100)] | None = None
    is_private: bool | None = None
    model: SeedModel | None = None
    prompts: Annotated[list[str], Field(min_length=1)] | None = None
    values: Annotated[
        dict[str, Any],
        Field(default_factory=dict, description="Values of a recipe by key, as actor.samples."),
    ]


class LaunchIn(LaunchChanges):
    """An experiment to begin, with a shipped recipe or the text of one."""

    recipe: str = ""
    recipe_text: Annotated[str, Field(max_length=65_536, description="YAML")] = ""


class FollowIn(Schema):
    """What is said next in a conversation; what is left out is as in the turn before."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    judges: list[int] | None = None
    judgments: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    seed: int | None = None


class TryIn(FollowIn):
    """A prompt for two models; what is left out is as the form of the pages begins with."""

    models: Annotated[list[int], Field(min_length=2, max_length=2, description="M0 is 0.")]
    judges: list[int] = Field(default_factory=list)


class PublishIn(Schema):
    """Where a model goes beside the folder of the installation."""

    model_config = ConfigDict(extra="forbid")

    repository: str = ""
    is_public: bool = False


class OrderOut(Schema):
    """What somebody asked for, and what came of it."""

    id: int
    kind: str
    status: str
    subject: str
    by: str | None
    wish: dict[str, Any]
    follows: Annotated[int | None, Field(description="Id of the turn before, of a follow-up.")]
    outcome: dict[str, Any]
    finding: str
    created: datetime
    finished: datetime | None

    @classmethod
    def of(cls, row: Order) -> "OrderOut":
        """Write a row."""
        same = ("kind", "status", "subject", "wish", "outcome", "finding", "created", "finished")
        return cls(
            id=row.pk,
            by=row.by.get_username() if row.by else None,
            follows=row.follows_id,
            **{name: getattr(row, name) for name in same},
        )


class OrderPage(Schema):
    """Some orders of all, newest first."""

    count: int
    orders: list[OrderOut]


class WorkerOut(Schema):
    """A worker as it last showed itself."""

    name: str
    host: str
    pid: int
    queues: list[str]
    device: str
    doing: str
    is_silent: bool
    since: datetime
    heartbeat: datetime

    @classmethod
    def of(cls, state: WorkerState) -> "WorkerOut":
        """Write what is known of it."""
        row = state.row
        same = ("name", "host", "pid", "device", "since", "heartbeat")
        return cls(
            **{name: getattr(row, name) for name in same},
            queues=list(state.queues),
            doing=state.doing,
            is_silent=state.is_silent,
        )


class RecipeOut(Schema):
    """A recipe that comes with the installation, with all its values."""

    name: str
    description: str
    values: dict[str, Any]


class RecipeFieldOut(Schema):
    """One value of a recipe; `key` is what changes are named by."""

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
