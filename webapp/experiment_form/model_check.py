"""The model check on pages and in the API: files immediately, the rest by a job.

The web server has no model libraries. Checks that need only files run while a form is filled in;
the complete check is a job that runs on a machine with these libraries.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.contrib.auth.models import User

from meta_reward_core.models.check.files import check_files, compute_fingerprint
from meta_reward_core.models.check.result import Check, CheckReport, Level
from meta_reward_core.planning.model_check.needs import derive_needs
from meta_reward_core.recipes.loader import parse_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.artifact_store import hash_json
from webapp.accounts.permissions import AnyUser
from webapp.experiment_form.model_choices import ModelChoices
from webapp.experiment_form.recipe_draft import require_launchable
from webapp.experiments.jobs import enqueue_job
from webapp.experiments.models import Job, JobKind, JobStatus

_SUBJECT_CHARS: Final = 64


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """What a job checks, as plain values.

    Attributes:
        model: a folder below the model root, or an id on the Hugging Face Hub.
        recipe: all values of the recipe whose limits apply.
        prompts: name of a stored prompt file; empty to use the recipe's prompts, if any.
        fingerprint: fingerprint of the folder's files, so that a changed folder is checked again.
    """

    model: str
    recipe: dict[str, Any]
    prompts: str = ""
    fingerprint: str = ""

    @classmethod
    def build(cls, model: str, recipe: Recipe, *, prompts: str) -> "CheckRequest":
        """Build the request for the current state of a model."""
        folder = _find_folder(model)
        return cls(
            model=model,
            recipe=recipe.model_dump(mode="json"),
            prompts=prompts,
            fingerprint="" if folder is None else compute_fingerprint(folder),
        )

    @classmethod
    def read(cls, values: dict[str, Any]) -> "CheckRequest":
        """Read the request of a job."""
        return cls(**{name: value for name, value in values.items() if name != "key"})

    def write(self) -> dict[str, Any]:
        """Convert the request to the payload of a job."""
        return {**asdict(self), "key": self.key}

    @property
    def key(self) -> str:
        """Hash of all inputs of the results."""
        return hash_json(asdict(self))

    def build_recipe(self) -> Recipe:
        """Build the recipe whose limits apply.

        Raises:
            RecipeError: this version cannot read it, or it refers to a file on this machine.
        """
        recipe = parse_recipe(self.recipe, origin="the recipe")
        require_launchable(recipe)
        return recipe


@dataclass(frozen=True, slots=True)
class ModelCheckState:
    """Results for a form.

    Attributes:
        checks: results of the whole check if it is done, else of the file checks.
        job: the job of the whole check, if it was requested for exactly these values.
    """

    checks: tuple[Check, ...] = ()
    job: Job | None = None

    @classmethod
    def from_job(cls, job: Job) -> "ModelCheckState":
        """Read the results of a job so far."""
        if job.status != JobStatus.DONE:
            return cls(job=job)
        return cls(CheckReport.from_json(job.outcome).checks, job)

    @property
    def by_level(self) -> list[Check]:
        """Results, most severe first."""
        order = (Level.RED, Level.AMBER, Level.GREEN)
        return sorted(self.checks, key=lambda check: order.index(check.level))

    @property
    def is_running(self) -> bool:
        """Whether more results are expected."""
        return self.job is not None and self.job.status in {JobStatus.WAITING, JobStatus.RUNNING}

    @property
    def is_whole(self) -> bool:
        """Whether the whole check is done."""
        return self.job is not None and self.job.status == JobStatus.DONE

    @property
    def error(self) -> str:
        """Reason why the check could not run; empty if it ran."""
        has_failed = self.job is not None and self.job.status == JobStatus.REFUSED
        return self.job.message if self.job is not None and has_failed else ""

    @property
    def problems(self) -> list[str]:
        """List one sentence for each result that prevents the experiment from starting."""
        return [check.describe() for check in self.checks if check.level is Level.RED]


def check_model_files(recipe: Recipe) -> tuple[Check, ...]:
    """Check the files of the recipe's model folder; empty if the recipe has no model folder."""
    folder = None if recipe.model is None else _find_folder(recipe.model)
    if folder is None or recipe.engine.kind == "scripted":
        return ()
    roots = [Path(settings.META_REWARD_MODEL_ROOT)]
    return check_files(folder, derive_needs(recipe), allowed_roots=roots).checks


def load_check_state(recipe: Recipe | None, *, prompts: str, by: AnyUser) -> ModelCheckState:
    """Load what a user knows about a recipe's model: a finished job of theirs, or file checks."""
    if recipe is None or recipe.model is None or recipe.engine.kind == "scripted":
        return ModelCheckState()
    job = find_check(CheckRequest.build(recipe.model, recipe, prompts=prompts), by=by)
    if job is not None and job.status == JobStatus.DONE:
        return ModelCheckState.from_job(job)
    return ModelCheckState(check_model_files(recipe), job)


def find_check(request: CheckRequest, *, by: AnyUser | None) -> Job | None:
    """Find a user's newest job for exactly this check; they cannot follow that of another user."""
    jobs = Job.objects.filter(kind=JobKind.CHECK_MODEL, payload__key=request.key)
    return jobs.filter(created_by=None if by is None else by.pk).order_by("-pk").first()


def request_check(request: CheckRequest, *, by: User | None) -> Job:
    """Request the whole check, unless this user has requested exactly this before."""
    job = find_check(request, by=by)
    if job is not None and job.status != JobStatus.REFUSED:
        return job
    return enqueue_job(
        JobKind.CHECK_MODEL,
        by=by,
        experiment_name=request.model[:_SUBJECT_CHARS],
        payload=request.write(),
    )


def explain_unusable(name: str, models: ModelChoices) -> str:
    """Return why a folder is not offered; empty if it is unknown or offered."""
    return next((one.reason for one in models.unusable if one.name == name), "")


def is_model_folder(name: str) -> bool:
    """Whether a name refers to a folder below the model root."""
    return _find_folder(name) is not None


def _find_folder(model: str) -> Path | None:
    """Find a folder below the model root; None for a Hub id or any other path."""
    root = Path(settings.META_REWARD_MODEL_ROOT)
    folder = root / model
    is_below = folder.resolve().is_relative_to(root.resolve())
    return folder if is_below and folder.is_dir() else None
