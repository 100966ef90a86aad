"""Lineage of the models of an experiment: M0, M1, ... with their training data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from meta_reward_core.errors import ArtifactError
from meta_reward_core.models.hf_hub import parse_pinned_name
from meta_reward_core.recipes.canonical import get_current_key, restore_names
from webapp.dashboard.table_reader import find_kept_epoch
from webapp.experiments.files import (
    open_experiment_files,
    open_iteration_files,
    read_settings_history,
)
from webapp.experiments.models import Experiment, Iteration, JobKind, Shard, ShardStatus

_HASH_CHARS: Final = 12
_STAGES: Final = ("sample", "pair_actor", "pair_judge", "train")

Counts = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Pairs of one kind; both values are None until the stage is finished.

    Attributes:
        is_withheld: whether an audit excluded them from the training.
    """

    kind: str
    made: int | None
    dropped: int | None
    is_withheld: bool


@dataclass(frozen=True, slots=True)
class Generation:
    """A model and the iteration that trains it.

    Attributes:
        before: number of the initial model, which is also the DPO reference model.
        prompts: number of sampled prompts; None until they are sampled.
        human_pairs: training pairs that come from human preferences in audits.
        kept_step, kept_epoch: step and epoch of the kept weights.
        short_hash: first characters of its folder's hash; empty until the model exists.
    """

    row: Iteration
    before: int
    prompts: int | None
    pairs: tuple[PairCounts, ...]
    human_pairs: int
    trained: int | None
    kept_step: int | None
    kept_epoch: float | None
    short_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The prompt pool of an experiment.

    Attributes:
        called: name that the user gave the file; empty if unknown.
        held_out: number of prompts reserved for evaluation and never sampled.
        hash: hash of the table of all prompts.
    """

    called: str
    count: int
    held_out: int
    hash: str
    short_hash: str


@dataclass(frozen=True, slots=True)
class SettingsStep:
    """A settings change: the first iteration it applies to, and one line per value."""

    from_iteration: int
    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Lineage:
    """M0 and its successors. The prompt set is None if its file is missing.

    Attributes:
        seed_name: the folder's name, or the repository of a model from the Hugging Face Hub.
        seed_commit: commit on the Hugging Face Hub; empty if it did not come from there.
    """

    prompts: PromptSet | None
    seed_hash: str
    seed_short_hash: str
    seed_name: str
    seed_commit: str
    seed_short_commit: str
    generations: tuple[Generation, ...]
    changes: tuple[SettingsStep, ...] = ()


def read_lineage(experiment: Experiment, iterations: Sequence[Iteration]) -> Lineage:
    """Read the lineage with two database queries."""
    counts = _read_counts(experiment)
    seed_name, commit = _parse_seed_model_name(experiment.base_model_folder)
    return Lineage(
        prompts=_read_prompt_set(experiment),
        seed_hash=experiment.base_model_sha256,
        seed_short_hash=experiment.base_model_sha256[:_HASH_CHARS],
        seed_name=seed_name,
        seed_commit=commit,
        seed_short_commit=commit[:_HASH_CHARS],
        generations=tuple(
            _make_generation(experiment, row, counts.get(row.number, {})) for row in iterations
        ),
        changes=_read_changes(experiment),
    )


def _read_changes(experiment: Experiment) -> tuple[SettingsStep, ...]:
    """Read the settings changes, oldest first; none if the files cannot be read."""
    try:
        changes = read_settings_history(experiment).changes
    except ArtifactError:
        return ()
    return tuple(
        SettingsStep(
            change.from_iteration,
            [
                f"{get_current_key(key)}: {change.before[key]} → {change.after[key]}"
                for key in change.after
            ],
        )
        for change in changes
    )


def _parse_seed_model_name(folder: str) -> tuple[str, str]:
    """Return the name of M0, and its commit."""
    on_hub = parse_pinned_name(folder)
    if on_hub is None:
        return folder.rstrip("/").rpartition("/")[2], ""
    return on_hub.repository, on_hub.revision or ""


def _read_prompt_set(experiment: Experiment) -> PromptSet | None:
    pool = open_experiment_files(experiment).pool.find_manifest("pool")
    if pool is None:
        return None
    launch = experiment.jobs.filter(kind=JobKind.LAUNCH).only("payload").first()
    (part,) = pool.parts
    return PromptSet(
        called=str(launch.payload.get("prompts_called", "")) if launch else "",
        count=pool.counts["prompts"],
        held_out=pool.counts.get("held_out", 0),
        hash=part.sha256,
        short_hash=part.sha256[:_HASH_CHARS],
    )


def _read_counts(experiment: Experiment) -> dict[int, dict[str, dict[str, int]]]:
    rows = Shard.objects.filter(
        stage__iteration__experiment=experiment,
        stage__name__in=_STAGES,
        status=ShardStatus.FINISHED,
    ).values_list("stage__iteration__number", "stage__name", "counts")
    found: dict[int, dict[str, dict[str, int]]] = {}
    for number, stage, counts in rows:
        found.setdefault(number, {})[stage] = counts
    return found


def _make_generation(experiment: Experiment, row: Iteration, counts: Counts) -> Generation:
    trained = counts.get("train", {})
    step = trained.get("kept_step")
    made = row.model_out
    epoch = (
        find_kept_epoch(
            experiment.artifact_root,
            open_iteration_files(experiment, row.number).folder,
            made,
            step,
        )
        if made and step
        else None
    )
    return Generation(
        row=row,
        before=row.number - 1,
        prompts=counts.get("sample", {}).get("prompts"),
        pairs=tuple(
            _make_pair_counts(kind, counts.get(f"pair_{kind}", {}), trained)
            for kind in _get_scheduled_kinds(restore_names(experiment.recipe), row.number)
        ),
        human_pairs=trained.get("human", 0),
        trained=trained.get("trained"),
        kept_step=step,
        kept_epoch=epoch,
        short_hash=made[:_HASH_CHARS],
        hash=made,
    )


def _make_pair_counts(
    kind: str, counts: Mapping[str, int], trained: Mapping[str, int]
) -> PairCounts:
    is_withheld = kind == "judge" and trained.get("withheld", 0) > 0
    return PairCounts(kind, counts.get("pairs"), counts.get("dropped"), is_withheld)


def _get_scheduled_kinds(recipe: Mapping[str, Any], number: int) -> Sequence[str]:
    """Return the scheduled kinds of pairs; after the end, the last entry applies."""
    schedule: list[list[str]] = recipe.get("train_on") or []
    return schedule[min(number, len(schedule)) - 1] if schedule else []
