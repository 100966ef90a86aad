"""Rows of an experiment that lies on disk. The files are the truth; rows follow them."""

from collections.abc import Sequence

from meta_reward_core.errors import InputError
from meta_reward_core.experiment import Experiment
from meta_reward_core.iteration import STAGES
from meta_reward_core.plan import Rate
from meta_reward_core.summary import Timing
from webapp.experiments import models
from webapp.experiments.models import Attempt, AttemptStatus

_CALLS = {"generate": "completions", "judge": "judgments", "meta_judge": "battles"}


def check_rows_have_files(name: str, *, artifact_root: str, files_exist: bool) -> None:
    """Refuse a name that rows know but this artifact root does not.

    Raises:
        InputError: the experiment's files are gone, or lie under another root.
    """
    row = models.Experiment.objects.filter(name=name).first()
    if row is None or (files_exist and row.artifact_root == artifact_root):
        return
    raise InputError(
        f"the database knows an experiment {name!r} whose files should lie under "
        f"{row.artifact_root}, but {artifact_root} is looked at"
        + ("" if files_exist else " and holds none")
        + ": set META_REWARD_ARTIFACT_ROOT as it was, put the files back, or choose another name"
    )


def record_experiment(experiment: Experiment, *, artifact_root: str) -> models.Experiment:
    """Find the row of an experiment on disk, or make it."""
    row, _ = models.Experiment.objects.get_or_create(
        name=experiment.name,
        defaults={
            "recipe": experiment.recipe.model_dump(mode="json"),
            "recipe_sha256": experiment.recipe.sha256,
            "seed": experiment.seed,
            "seed_model_folder": str(experiment.seed_model.folder),
            "seed_model_sha256": experiment.seed_model.sha256,
            "artifact_root": artifact_root,
        },
    )
    return row


def record_iteration(row: models.Experiment, number: int, *, model_in: str) -> models.Iteration:
    """Find the rows of an iteration and its stages, or make them."""
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


def finished_attempts(iterations: Sequence[models.Iteration]) -> list[Attempt]:
    """Of every finished shard the attempt that finished it, if one did."""
    attempts = Attempt.objects.filter(
        shard__stage__iteration__in=iterations,
        shard__status=models.ShardStatus.FINISHED,
        status=AttemptStatus.FINISHED,
        seconds__isnull=False,
    ).select_related("shard__stage")
    latest = {attempt.shard_id: attempt for attempt in attempts.order_by("number")}
    return list(latest.values())


def stage_timings(iteration: models.Iteration) -> dict[str, Timing]:
    """How long the shards of each stage took, in whichever run each was finished."""
    timings: dict[str, Timing] = {}
    for attempt in finished_attempts([iteration]):
        stage = attempt.shard.stage.name
        spent = Timing(attempt.seconds or 0.0, attempt.shard.counts.get("tokens", 0))
        timings[stage] = timings.get(stage, Timing(0.0)) + spent
    return timings


def measured_rates(experiment: models.Experiment) -> dict[str, Rate]:
    """What the experiment's finished shards have shown, by stage, for a plan."""
    rates: dict[str, Rate] = {}
    attempts = finished_attempts(list(experiment.iterations.all()))
    for stage, counted in _CALLS.items():
        made = [attempt for attempt in attempts if attempt.shard.stage.name == stage]
        calls = sum(attempt.shard.counts.get(counted, 0) for attempt in made)
        tokens = sum(attempt.shard.counts.get("tokens", 0) for attempt in made)
        seconds = sum(attempt.seconds or 0.0 for attempt in made)
        if calls and tokens and seconds:
            rates[stage] = Rate(tokens / calls, tokens / seconds)
    return rates
