"""The list of runs of all arms and seeds: names, order, and fingerprints."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meta_reward_core.errors import InputError
from meta_reward_core.experiment import load_templates
from meta_reward_core.planning.base_model import find_base_model
from meta_reward_core.planning.experiment_request import check_name
from meta_reward_core.planning.prompt_pool import read_pool
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.reporting.run_record import RunFingerprint, find_task_version
from meta_reward_core.storage.artifact_store import hash_json
from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.tasks.fixed_items import read_development_items, read_fixed_items
from meta_reward_core.tasks.registry import get_task_templates
from meta_reward_core.tasks.toy.base_model import GateResult
from meta_reward_core.tasks.toy.base_model_variants import SeedModelVariant
from meta_reward_core.tasks.toy.task import TASK_NAME as TOY_TASK


@dataclass(frozen=True, slots=True)
class MatrixSpec:
    """Specification of the runs.

    Attributes:
        name: prefix of the runs' names.
        recipes: one recipe for each arm, by name or file.
        seeds: loop seeds 1 to `seeds`.
        sft_seeds: number of M0s of the miniature, namely the first that pass the gate; None to use
            the recipe's own model.
        iterations: iterations of each run; None for the recipe's number.
        jobs: number of concurrent runs.
        threads: number of threads for the libraries of each run.
        logs: folder for the output of the runs.
        completion_cache: folder of completions shared by runs of the same group.
    """

    name: str
    recipes: Sequence[str]
    seeds: int
    sft_seeds: int | None
    iterations: int | None
    changes: Sequence[str]
    prompts: Path | None
    jobs: int
    threads: int
    logs: Path
    completion_cache: Path


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A planned experiment.

    Attributes:
        group: the M0 and the loop seed; runs that share both start identically.
        recipe: name or file of the recipe.
        arm: the recipe's own name.
        model: which seed model of the miniature, or None for the recipe's model.
    """

    name: str
    group: str
    recipe: str
    arm: str
    seed: int
    iterations: int
    model: SeedModelVariant | None


def plan_runs(spec: MatrixSpec, gates: Sequence[GateResult]) -> list[PlannedRun]:
    """List all runs, seed by seed, so that arms are balanced if the matrix is interrupted.

    Raises:
        RecipeError: a recipe is missing or wrong.
        InputError: a run's name is not valid, or two recipes have the same name.
    """
    recipes = {path: load_recipe(path, changes=spec.changes) for path in spec.recipes}
    if len({recipe.name for recipe in recipes.values()}) < len(spec.recipes):
        raise InputError(
            "two of the recipes have the same name, so the names of their runs would conflict"
        )
    passed: list[int | None] = [gate.sft_seed for gate in gates if gate.passed]
    return [
        _plan_run(spec, path, recipe, seed=seed, sft_seed=sft_seed)
        for seed in range(1, spec.seeds + 1)
        for sft_seed in passed or [None]
        for path, recipe in recipes.items()
    ]


def _plan_run(
    spec: MatrixSpec, path: str, recipe: Recipe, *, seed: int, sft_seed: int | None
) -> PlannedRun:
    if sft_seed is not None and recipe.task != TOY_TASK:
        raise InputError(f"--sft-seeds only applies to the toy task, not to {recipe.name!r}")
    group = ".".join([*([] if sft_seed is None else [f"sft{sft_seed}"]), f"seed{seed}"])
    name = f"{spec.name}.{recipe.name}.{group}"
    check_name(name)
    noisy = (recipe.model or "").endswith("-noisy")
    return PlannedRun(
        name=name,
        group=group,
        recipe=path,
        arm=recipe.name,
        seed=seed,
        iterations=spec.iterations or recipe.iterations,
        model=None if sft_seed is None else SeedModelVariant(sft_seed, noisy=noisy),
    )


def compute_fingerprint(
    spec: MatrixSpec, run: PlannedRun, roots: StorageRoots, *, variant: str | None
) -> RunFingerprint:
    """Compute the fingerprint that a run would have if it were started now.

    Args:
        variant: sha256 of its seed model, if it is a known seed model of the miniature.

    Raises:
        InputError: its recipe, templates or prompts cannot be read.
    """
    changes = [*spec.changes, *([] if run.model is None else [f"model={run.model.name}"])]
    recipe = load_recipe(run.recipe, changes=changes)
    items = read_fixed_items(recipe)
    pool, _ = read_pool(spec.prompts, recipe, [*items, *read_development_items(recipe, items)])
    here = find_base_model(recipe, roots) if run.model is None else None
    return RunFingerprint(
        recipe=recipe.sha256,
        templates=load_templates(recipe, get_task_templates(recipe.task)).sha256,
        prompts=hash_json([prompt.prompt_id for prompt in pool.prompts]),
        seed=run.seed,
        seed_model=variant if here is None else here.sha256,
        world=find_task_version(recipe),
    )
