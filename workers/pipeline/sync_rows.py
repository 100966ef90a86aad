"""Update the rows of an experiment from its files, which take precedence."""

from meta_reward_core.errors import InputError
from meta_reward_core.experiment import Experiment
from meta_reward_core.iteration import STAGES
from meta_reward_core.recipes.canonical import canonicalize_recipe
from meta_reward_core.reporting.summary import Timing
from webapp.audit.services import create_gate_from_recipe
from webapp.experiments import models
from webapp.experiments.files import describe_other_files
from webapp.experiments.reserved_names import list_reserved_names
from webapp.experiments.throughput import list_finished_attempts


def check_rows_have_files(name: str, *, artifact_root: str, files_exist: bool) -> None:
    """Refuse a name that is reserved for a page, or whose files are in another artifact root.

    Raises:
        InputError: the name is reserved, or the experiment's files are gone or under another root.
    """
    row = models.Experiment.objects.filter(name=name).first()
    if row is None and name in list_reserved_names():
        raise InputError(
            f"the name {name!r} is reserved for a page of the site: choose another name"
        )
    if row is None or (files_exist and row.artifact_root == artifact_root):
        return
    raise InputError(
        f"the files of experiment {name!r} are expected under "
        f"{row.artifact_root}, but {artifact_root} is configured"
        + ("" if files_exist else " and has none")
        + ": correct META_REWARD_ARTIFACT_ROOT, restore the files, or choose another name"
    )


def record_experiment(experiment: Experiment, *, artifact_root: str) -> models.Experiment:
    """Find or create the row of an experiment on disk.

    Raises:
        InputError: the row with this name belongs to another experiment.
    """
    row, is_new = models.Experiment.objects.get_or_create(
        name=experiment.name,
        defaults={
            "uuid": experiment.uuid,
            "recipe": canonicalize_recipe(experiment.recipe),
            "recipe_sha256": experiment.recipe_sha256,
            "seed": experiment.seed,
            "base_model_folder": experiment.seed_folder,
            "base_model_sha256": experiment.seed_model.sha256,
            "artifact_root": artifact_root,
        },
    )
    if row.uuid != experiment.uuid:
        raise InputError(describe_other_files(row))
    if is_new:
        create_gate_from_recipe(row)
    return row


def record_iteration(row: models.Experiment, number: int, *, model_in: str) -> models.Iteration:
    """Find or create the rows of an iteration and its stages."""
    iteration, _ = models.Iteration.objects.get_or_create(
        experiment=row, number=number, defaults={"model_in": model_in}
    )
    models.Stage.objects.bulk_create(
        (
            models.Stage(iteration=iteration, name=stage.name, title=stage.title, position=position)
            for position, stage in enumerate(STAGES)
        ),
        ignore_conflicts=True,
    )
    return iteration


def compute_stage_timings(iteration: models.Iteration) -> dict[str, Timing]:
    """Compute how long the shards of each stage took, over all runs."""
    timings: dict[str, Timing] = {}
    for attempt in list_finished_attempts([iteration]):
        stage = attempt.shard.stage.name
        spent = Timing(attempt.seconds or 0.0, attempt.shard.counts.get("tokens", 0))
        timings[stage] = timings.get(stage, Timing(0.0)) + spent
    return timings
