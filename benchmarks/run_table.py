"""How long the run table and its API take with thousands of experiments.

    python manage.py run_iteration --experiment demo --recipe smoke --iterations 3
    python benchmarks/run_table.py --like demo --experiments 2000

Copies the rows of a finished experiment, with other recipe values and metrics, into the database
of `DATABASE_URL`, which should be a copy that can be thrown away. Then every page is requested in
turn, in one process, through all of Django.
"""

import argparse
import copy
import itertools
import os
import random
import time
from statistics import median, quantiles
from typing import Any
from uuid import uuid4

import django

STATUSES = ("finished", "running", "failed", "paused", "cancelled", "waiting")

PAGES = {
    "table": "/",
    "table, last page": "/?page=100",
    "sorted by a recipe value": "/?sort=recipe.actor.temperature&col=status"
    "&col=recipe.actor.temperature",
    "sorted by a metric": "/?sort=-metric.judge.mean&col=status&col=metric.judge.mean",
    "sorted by tokens": "/?sort=-tokens&col=status&col=tokens",
    "sorted by cost": "/?sort=-cost&col=status&col=cost",
    "sorted by duration": "/?sort=duration",
    "sorted by status": "/?sort=status",
    "filtered by text": "/?q=copy-19",
    "filtered by status and tag": "/?status=failed&tag=ablation",
    "filtered and sorted by a metric": "/?status=completed&tag=ablation&sort=-metric.judge.mean"
    "&col=metric.judge.mean&col=recipe.actor.temperature",
    "region of the table": "/",
    "API list": "/api/v1/experiments?limit=100",
    "compare": "/experiments/compare?name=copy-1&name=copy-2",
}
REGION = "region of the table"


def add_experiments(like: str, count: int) -> None:
    """Copy an experiment with its iterations, stages, shards and attempts."""
    from django.db import transaction

    from webapp.experiments.models import (
        Attempt,
        Experiment,
        ExperimentTag,
        Iteration,
        Shard,
        Stage,
    )  # fmt: skip

    rng = random.Random(1)
    origin = Experiment.objects.get(name=like)
    iterations = list(origin.iterations.order_by("number"))
    for start in range(0, count, 100):
        with transaction.atomic():
            for number in range(start, min(count, start + 100)):
                recipe = copy.deepcopy(origin.recipe)
                recipe["actor"]["temperature"] = round(0.5 + number % 40 / 50, 2)
                row = copy.copy(origin)
                row.pk, row._state = None, copy.copy(origin._state)
                row._state.adding = True
                row.name, row.uuid, row.recipe = f"copy-{number}", uuid4(), recipe
                row.recipe_sha256 = f"{number % 40:064x}"
                row.status = "finished" if number % 3 else STATUSES[number // 3 % 6]
                row.save()
                tag = ("ablation", "baseline", "final")[number % 3]
                ExperimentTag.objects.create(experiment=row, name=tag)
                for old in iterations:
                    _copy_iteration(old, row, rng, (Iteration, Stage, Shard, Attempt))


def _copy_iteration(old: Any, row: Any, rng: random.Random, models: tuple[Any, ...]) -> None:
    iteration_model, stage_model, shard_model, attempt_model = models
    metrics = copy.deepcopy(old.metrics)
    if metrics.get("judge"):
        metrics["judge"]["mean"] = round(rng.uniform(2, 4), 3)
    names = ("number", "model_in", "model_out", "started", "finished", "driver")
    last = old.number == 3 and row.status != "finished"
    iteration = iteration_model.objects.create(
        experiment=row, metrics={} if last else metrics, status=row.status if last else "finished",
        **{name: getattr(old, name) for name in names},
    )  # fmt: skip
    shards, attempts = [], []
    for stage in old.stages.prefetch_related("shards__attempts"):
        copied = stage_model.objects.create(
            iteration=iteration, name=stage.name, title=stage.title, position=stage.position,
            status=stage.status, shard_count=stage.shard_count,
        )  # fmt: skip
        for shard in stage.shards.all():
            made = shard_model(stage=copied, index=shard.index, status="finished",
                               counts=shard.counts, attempt_count=1)  # fmt: skip
            shards.append(made)
            attempts += [
                attempt_model(
                    shard=made, number=one.number, token=uuid4(), status="finished",
                    started=one.started, finished=one.finished, seconds=one.seconds or 1.0,
                    worker=one.worker, pid=one.pid,
                )
                for one in shard.attempts.all()
            ]  # fmt: skip
    shard_model.objects.bulk_create(shards)
    attempt_model.objects.bulk_create(attempts)


def measure(requests: int) -> None:
    from django.contrib.auth.models import User
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    person, _ = User.objects.get_or_create(username="benchmark", is_superuser=True)
    client = Client(headers={"host": "localhost"})
    client.force_login(person)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, in ms:\n")
    print("| page | median | p95 | longest | processor | queries |\n|---|--:|--:|--:|--:|--:|")
    clocks: dict[str, list[float]] = {name: [] for name in PAGES}
    work: dict[str, list[float]] = {name: [] for name in PAGES}
    for _, (name, path) in itertools.product(range(requests), PAGES.items()):
        headers = {"HX-Request": "true"} if name == REGION else {}
        clock, processor = time.perf_counter(), time.process_time()
        answer = client.get(path, headers=headers)
        clocks[name].append(1000 * (time.perf_counter() - clock))
        work[name].append(1000 * (time.process_time() - processor))
        assert answer.status_code == 200, (path, answer.status_code)
    for name, path in PAGES.items():
        with CaptureQueriesContext(connection) as captured:
            client.get(path)
        times = clocks[name]
        print(
            f"| {name} | {median(times):.0f} | {quantiles(times, n=20)[-1]:.0f} "
            f"| {max(times):.0f} | {median(work[name]):.0f} | {len(captured)} |"
        )


def main() -> None:
    """Add what is missing, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--like", required=True, help="a finished experiment to copy")
    parser.add_argument("--experiments", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--only-add", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    django.setup()
    from webapp.experiments.models import Experiment

    if not Experiment.objects.filter(name="copy-0").exists():
        add_experiments(options.like, options.experiments)
    if not options.only_add:
        measure(options.requests)


if __name__ == "__main__":
    main()
