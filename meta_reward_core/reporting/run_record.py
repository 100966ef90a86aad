"""A finished run as one small file: everything a report reads, and its fingerprint.

A record can be kept after the run's own files and machine are gone. It is valid as long as a new
run with its name would have the same settings, templates, prompts, seed and M0, with the same
version of the toy task and of the tables; none of these depends on the machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

from meta_reward_core.errors import ArtifactError, RecipeError, TaskError
from meta_reward_core.evaluation.scorecard import DataIssue
from meta_reward_core.experiment import parse_templates
from meta_reward_core.recipes.canonical import canonicalize_recipe
from meta_reward_core.recipes.loader import parse_stored_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.reporting.run_loader import ExperimentRun
from meta_reward_core.storage.artifact_store import ArtifactStore, encode_canonical_json, hash_json
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.storage.schemas import MEANING_VERSION
from meta_reward_core.system.untrusted_input import parse_json
from meta_reward_core.tasks.registry import find_task

_FORMAT: Final = 1
_SHORT_CHARS: Final = 12
_NO_TASK_VERSION: Final = 1
"""Stored in records of runs without a task."""


@dataclass(frozen=True, slots=True)
class RunFingerprint:
    """Inputs that determine a run; the same on every machine.

    Attributes:
        recipe: sha256 of the recipe's values as this version reads them.
        templates: sha256 of the prompt templates of judge and meta-judge.
        prompts: sha256 of the ids of the prompts in the run's pool, in order.
        seed: random seed.
        seed_model: sha256 of M0; None if unknown.
        world: version of the task; None if the task is not installed here.
        schema: version of the tables' meaning.
    """

    recipe: str
    templates: str
    prompts: str
    seed: int
    seed_model: str | None
    world: int | None = _NO_TASK_VERSION
    schema: int = MEANING_VERSION

    def list_differences(self, recorded: Self) -> list[str]:
        """Describe how a new run would differ from the recorded one."""
        pairs = [
            (one.name.replace("_", " "), getattr(recorded, one.name), getattr(self, one.name))
            for one in fields(self)
        ]
        return [
            f"{name} {_shorten(then)} then, {_shorten(now)} now"
            for name, then, now in pairs
            if then != now and None not in (then, now)
        ]


def _shorten(value: object) -> str:
    return str(value)[:_SHORT_CHARS]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A finished run and its fingerprint."""

    run: ExperimentRun
    basis: RunFingerprint

    def to_json(self) -> bytes:
        """Encode the record; the same record gives the same bytes."""
        content = {"run": _serialize_run(self.run), "basis": asdict(self.basis)}
        return encode_canonical_json({"format": _FORMAT, "sha256": hash_json(content), **content})

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Parse a record.

        Raises:
            ArtifactError: the bytes are not a record, or were changed since it was written.
        """
        try:
            found = parse_json(data)
            content = {"run": found["run"], "basis": found["basis"]}
            if found["format"] != _FORMAT or hash_json(content) != found["sha256"]:
                raise ValueError("the record was modified, or was written by another version")
            run = _parse_run(content["run"])
            return cls(run, RunFingerprint(**content["basis"] | {"recipe": run.recipe.sha256}))
        except (ValueError, KeyError, TypeError, RecipeError) as error:
            raise ArtifactError(f"the file is not a run record: {error}") from error


def build_record(store: ArtifactStore, run: ExperimentRun) -> RunRecord:
    """Build the record of a loaded run.

    Raises:
        ArtifactError: the files no longer exist or are damaged.
    """
    files = ExperimentFiles(store, run.name)
    words = files.require_description()["templates"]
    pool = files.pool.read("prompts")
    return RunRecord(
        run,
        RunFingerprint(
            recipe=run.recipe.sha256,
            templates=parse_templates(words).sha256,
            prompts=hash_json(pool["prompt_id"].to_pylist()),
            seed=run.seed,
            seed_model=run.models[0],
            world=find_task_version(run.recipe),
        ),
    )


def find_task_version(recipe: Recipe) -> int | None:
    """Return the version of a recipe's task; None if it is not installed."""
    try:
        task = find_task(recipe.task)
    except TaskError:
        return None
    return _NO_TASK_VERSION if task is None else task.version


def _serialize_run(run: ExperimentRun) -> dict[str, Any]:
    """Convert a run to JSON; metrics keep the stored key `figures`."""
    values = {one.name: getattr(run, one.name) for one in fields(run) if one.name != "metrics"}
    return values | {
        "recipe": canonicalize_recipe(run.recipe),
        "figures": [[*key, *metric] for key, metric in run.metrics.items()],
        "gaming": None if run.gaming is None else _serialize_issues(run.gaming),
    }


def _serialize_issues(gaming: Mapping[int, Sequence[DataIssue]]) -> dict[int, list[dict[str, Any]]]:
    return {number: [asdict(one) for one in found] for number, found in gaming.items()}


def _parse_run(values: Mapping[str, Any]) -> ExperimentRun:
    stored = dict(values)
    read = {
        "recipe": parse_stored_recipe(values["recipe"], origin=values["name"]),
        "metrics": {tuple(row[:4]): tuple(row[4:]) for row in stored.pop("figures")},
        "cards": _parse_number_keys(values["cards"]),
        "gaming": None if values["gaming"] is None else _parse_issues(values["gaming"]),
    }
    return ExperimentRun(**{**stored, **read})


def _parse_issues(values: Mapping[str, Any]) -> dict[int, list[DataIssue]]:
    return {
        number: [DataIssue(**one) for one in found]
        for number, found in _parse_number_keys(values).items()
    }


def _parse_number_keys(values: Mapping[str, Any]) -> dict[int, Any]:
    """Convert text keys of JSON to numbers."""
    return {int(number): value for number, value in values.items()}
