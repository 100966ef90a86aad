"""Cost estimate of an experiment."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from django.conf import settings

from meta_reward_core.planning.cost_estimate import (
    ASSUMED_TOKENS_PER_SECOND,
    StagePlan,
    estimate_disk_for_iterations,
    plan_iteration,
)
from meta_reward_core.planning.shard_size import estimate_shard_size
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.artifact_store import ArtifactStore
from webapp.accounts.permissions import AnyUser, get_visible_experiments
from webapp.experiment_form.model_choices import find_model_bytes
from webapp.experiments.stage_progress import NO_BREAK
from webapp.experiments.throughput import count_worker_engines, find_similar_throughput

_TITLES = {
    "generate": "responses",
    "judge": "judgments",
    "meta_judge": "battles",
    "train": "training steps",
    "evaluate": "evaluation",
}


@dataclass(frozen=True, slots=True)
class StageCost:
    """The cost of one stage over all iterations.

    Attributes:
        time: None if no estimate is possible.
    """

    title: str
    calls: int
    at_most: bool
    tokens: int
    time: str
    is_measured: bool


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """The cost of an experiment.

    Attributes:
        time: generation time.
        total_time: time of generation and training; training is excluded if it has not been
            measured.
        shards: text about the shard size, and how long engines are idle because of it.
        training: maximum training time; empty if no comparable training has been measured.
        basis: text about the source of the assumed rates and lengths.
        disk_bytes: None while the size of the model is unknown.
        free_bytes: None if the files are not stored on this machine.
        is_too_large: whether the disk is clearly too small.
    """

    costs: tuple[StageCost, ...]
    calls: int
    tokens: int
    time: str
    total_time: str
    shards: str
    training: str
    basis: str
    disk_bytes: int | None
    free_bytes: int | None
    is_too_large: bool


def estimate_cost(person: AnyUser, recipe: Recipe, *, target_iteration: int) -> CostEstimate:
    """Estimate the iterations from the first to `target_iteration`."""
    speeds = find_similar_throughput(get_visible_experiments(person), recipe)
    size = estimate_shard_size(recipe, engines=count_worker_engines(recipe), measured=speeds)
    plans = [
        plan_iteration(recipe, number, measured=speeds) for number in range(1, target_iteration + 1)
    ]
    stages = [stage for plan in plans for stage in plan]
    generating = [stage for stage in stages if stage.tokens]
    model_bytes = find_model_bytes(recipe)
    disk = (
        None
        if model_bytes is None
        else estimate_disk_for_iterations(plans, model_bytes=model_bytes)
    )
    free = get_free_bytes()
    return CostEstimate(
        costs=tuple(_sum_cost(name, stages) for name in dict.fromkeys(s.stage for s in stages)),
        calls=sum(stage.calls for stage in generating),
        tokens=sum(stage.tokens for stage in generating),
        time=_format_time(generating),
        total_time=_format_time(stages),
        shards=f"{size.describe()}.",
        training=_format_time([stage for stage in stages if not stage.tokens]),
        basis=_describe_basis(speeds.measured_in),
        disk_bytes=disk,
        free_bytes=free,
        is_too_large=disk is not None and free is not None and disk > free,
    )


def get_free_bytes() -> int | None:
    """Free disk space at the artifact root; None if it is remote."""
    store = ArtifactStore(settings.META_REWARD_ARTIFACT_ROOT)
    if not store.is_local:
        return None
    root = Path(store.root).absolute()
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    return shutil.disk_usage(existing).free


def humanize_duration(seconds: float) -> str:
    """Format a duration without line breaks: 40 s, 12 min, 3 h 20 min, 5 days."""
    return _write_duration(seconds).replace(" ", NO_BREAK)


def _write_duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{timedelta(hours=hours).days} days"


def _sum_cost(name: str, stages: Sequence[StagePlan]) -> StageCost:
    mine = [stage for stage in stages if stage.stage == name]
    return StageCost(
        title=_TITLES.get(name, name),
        calls=sum(stage.calls for stage in mine),
        at_most=any(stage.at_most for stage in mine),
        tokens=sum(stage.tokens for stage in mine),
        time=_format_time(mine),
        is_measured=any(stage.basis == "measured" for stage in mine),
    )


def _format_time(stages: Sequence[StagePlan]) -> str:
    known = [stage.seconds for stage in stages if stage.seconds is not None]
    return humanize_duration(sum(known)) if known else ""


def _describe_basis(like: str) -> str:
    assumed = f"replies of half the maximum length, at {ASSUMED_TOKENS_PER_SECOND:,.0f} tokens/s"
    if not like:
        return f"Assumes {assumed}. No measurements of this model exist yet."
    return (
        f'Based on measurements from experiment "{like}": tokens per reply and per second. '
        f"Values that were not measured assume {assumed}."
    )
