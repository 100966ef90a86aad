"""An experiment as loaded for a report.

Only small files are read: manifests, the tables `evaluation` and `training_log`, and scorecards.
Summaries are passed in by callers that have them, because computing them reads every judgment.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meta_reward_core.evaluation.judge_hacking import ComparedResponse, find_judge_hacking
from meta_reward_core.evaluation.scorecard import Basis, DataIssue
from meta_reward_core.recipes.canonical import canonicalize_recipe, hash_recipe_values
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.recipes.settings_history import read_settings
from meta_reward_core.reporting.scorecard_schema import ScorecardDict
from meta_reward_core.reporting.scorecard_store import list_scorecards
from meta_reward_core.reporting.summary import Summary, summarize_iteration
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.storage.shards import IterationFiles

MetricValues = dict[tuple[str, str, str, Basis], tuple[float | None, int]]
"""(model, subject, metric, basis) -> (value, count)"""


@dataclass(frozen=True, slots=True)
class ExperimentRun:
    """One experiment.

    Attributes:
        seed_model: any name that distinguishes this M0 from others.
        models: sha256 of M0, M1, ... up to the last completed model.
        summaries: summaries of the finished iterations, from 1.
        metrics: results of the evaluations.
        steps: DPO steps of each finished iteration.
        cards: scorecards of each model, by number.
        packages: versions of the packages with which the last iteration ran.
        gaming: issues in the answers of each iteration; None if not checked.
    """

    name: str
    recipe: Recipe
    recipe_sha256: str
    seed: int
    seed_model: str
    models: Sequence[str]
    summaries: Sequence[Summary]
    metrics: MetricValues
    steps: Sequence[int | None]
    cards: Mapping[int, Sequence[ScorecardDict]]
    packages: Mapping[str, str]
    gaming: Mapping[int, Sequence[DataIssue]] | None = None

    @property
    def iterations(self) -> int:
        """Number of completed iterations."""
        return len(self.summaries)

    def get_metric(
        self, number: int, subject: str, metric: str, basis: Basis
    ) -> tuple[float | None, int]:
        """Return a metric of M_number and its number of items."""
        return self.metrics.get((f"M{number}", subject, metric, basis), (None, 0))


@dataclass(frozen=True, slots=True)
class Arm:
    """Runs of one recipe that differ only in their seeds.

    Attributes:
        unfinished: for each unfinished run, the reason why it is not in the tables.
        planned: number of planned runs.
    """

    label: str
    runs: Sequence[ExperimentRun]
    unfinished: Mapping[str, str] = field(default_factory=dict)
    planned: int = 0

    @property
    def recipe(self) -> Recipe | None:
        """Recipe of the runs, if there is one."""
        return self.runs[0].recipe if self.runs else None

    @property
    def iterations(self) -> int:
        """Iterations that any of the runs has completed."""
        return max((run.iterations for run in self.runs), default=0)


def read_run(
    kept: ExperimentFiles,
    *,
    summaries: Mapping[int, Summary] | None = None,
    seed_model: str | None = None,
    look_at_answers: bool = False,
) -> ExperimentRun:
    """Read an experiment.

    Args:
        summaries: summaries of its iterations by number, with their durations if known.
        seed_model: a name that distinguishes this M0 from others; by default its hash.
        look_at_answers: whether to search all responses for attempts to manipulate the judge.

    Raises:
        ArtifactError: the experiment's files no longer exist, or one is damaged.
    """
    found = kept.require_description()
    settings = read_settings(kept, found)
    manifests = list(_iter_final_manifests(kept))
    folders = {number: kept.get_iteration(number) for number in range(1, len(manifests) + 1)}
    metrics: MetricValues = {}
    for files in folders.values():
        metrics |= _read_metrics(files)
    return ExperimentRun(
        name=kept.name,
        recipe=settings.get_recipe(),
        recipe_sha256=settings.get_recipe_sha256(),
        seed=found["seed"],
        seed_model=seed_model or found["seed_model"]["sha256"],
        models=[found["seed_model"]["sha256"], *(made["model_out"] for made in manifests)],
        summaries=[
            (summaries or {}).get(number)
            or _summarize(folders, number, settings.get_recipe(number))
            for number in folders
        ],
        metrics=metrics,
        steps=[_read_last_step(files) for files in folders.values()],
        cards={
            number: cards
            for number in range(len(manifests) + 1)
            if (cards := list_scorecards(kept, number))
        },
        packages=manifests[-1]["packages"] if manifests else {},
        gaming={number: _find_judge_hacking(files) for number, files in folders.items()}
        if look_at_answers
        else None,
    )


def _iter_final_manifests(files: ExperimentFiles) -> Iterator[dict[str, Any]]:
    """Yield the manifests of completed iterations in order."""
    number = 1
    while (made := files.get_iteration(number).read_final_manifest()) is not None:
        yield made
        number += 1


def _read_metrics(files: IterationFiles) -> MetricValues:
    return {
        (row["model"], row["subject"], row["metric"], row["basis"]): (row["value"], row["count"])
        for row in files.read("evaluation").to_pylist()
    }


def _read_last_step(files: IterationFiles) -> int | None:
    return max(files.read("training_log")["step"].to_pylist(), default=None)


def _summarize(folders: Mapping[int, IterationFiles], number: int, recipe: Recipe) -> Summary:
    return summarize_iteration(
        folders[number],
        number=number,
        recipe=recipe,
        stages=list(dict.fromkeys(made.stage for made in folders[number].list_manifests())),
        before=folders.get(number - 1),
    )


def _find_judge_hacking(files: IterationFiles) -> list[DataIssue]:
    asked = files.read("prompts", columns=["prompt_id", "text"]).to_pylist()
    instructions = {row["prompt_id"]: row["text"] for row in asked}
    answers = files.read("responses", columns=["prompt_id", "text"]).to_pylist()
    return find_judge_hacking(
        [ComparedResponse(instructions[row["prompt_id"]], row["text"]) for row in answers]
    )


def group_runs(runs: Sequence[ExperimentRun]) -> list[Arm]:
    """Group runs whose recipes differ only in the location of M0, in the given order."""
    groups: dict[str, list[ExperimentRun]] = {}
    for run in runs:
        values = canonicalize_recipe(run.recipe) | {"model": None}
        groups.setdefault(hash_recipe_values(values), []).append(run)
    names = [group[0].recipe.name for group in groups.values()]
    return [
        Arm(name if names.count(name) == 1 else f"{name} ({group[0].name})", group)
        for name, group in zip(names, groups.values(), strict=True)
    ]
