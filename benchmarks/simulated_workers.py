"""Workers with a simulated engine and the project's real rows and files; see scheduler.py.

Imported once Django is set up, with an empty database.
"""

import heapq
import random
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from django.core.management import call_command
from django.utils import timezone

from meta_reward_core.context import IterationContext, ModelRef, StageResources
from meta_reward_core.data.prompt_files import PromptFile, compute_prompt_id
from meta_reward_core.engines.base import Engine
from meta_reward_core.experiment import Experiment, create_experiment
from meta_reward_core.iteration import STAGES, Stage
from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.planning.cost_estimate import plan_iteration
from meta_reward_core.recipes.schema import EngineRecipe, Recipe
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.records import Prompt
from meta_reward_core.storage.shards import ShardManifest, StageOutput
from webapp.experiments.models import Attempt, Iteration, RunStatus, Shard, Worker
from workers import reconciler
from workers.pipeline import dispatch, fair_queue, scheduling, shard_claims
from workers.pipeline.control import submit_to_workers
from workers.pipeline.dispatch import send_following_shards
from workers.pipeline.open_experiment import build_context
from workers.pipeline.sync_rows import record_experiment

Result = TypeVar("Result")
_CALLS = {"generate": "completions", "judge": "judgments", "meta_judge": "battles"}
RECONCILE_EVERY = 50
"""Shards between two passes of the reconciler; the cost of a pass does not depend on it."""
OPENED = 100
"""Number of shards whose start in an engine process is measured once all manifests exist."""


class Messages:
    """The broker: messages that were sent and not yet taken."""

    def __init__(self) -> None:
        self.waiting: deque[int] = deque()

    def send_task(self, name: str, *, args: list[int], queue: str) -> None:  # noqa: ARG002
        self.waiting.append(args[0])


class Simulation:
    """One iteration up to training, by workers that one process simulates in turn.

    Args:
        shard_seconds: mean length of a shard, by stage.
        variation: standard deviation of the logarithm of its length.

    Attributes:
        now: simulated seconds.
        busy: of those, in which each worker had a shard, summed over workers.
        shard_seconds: length of each generated shard.
        spent: seconds that the project's own code took, by what it did: on the clock, and of
            this process's CPU, which others on the machine do not lengthen.
    """

    def __init__(
        self,
        iteration: Iteration,
        messages: Messages,
        workers: int,
        *,
        shard_seconds: Mapping[str, float],
        variation: float,
        seed: int,
    ) -> None:
        self.now = self.busy = 0.0
        self._mean_seconds = shard_seconds
        self.shard_seconds: list[float] = []
        self._variation = variation
        self.spent: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        self._iteration = iteration
        self.context = build_context(iteration)
        self._messages = messages
        self._idle = workers
        self._running: list[tuple[float, int, Shard, Attempt, float]] = []
        self._draw = random.Random(seed)

    def timed(self, name: str, work: Callable[[], Result]) -> Result:
        """Run some of the project's own code, and record how long it took."""
        began, busy = time.perf_counter(), time.process_time()
        try:
            return work()
        finally:
            spent = time.perf_counter() - began, time.process_time() - busy
            self.spent[name].append(spent)

    def run(self) -> int:
        """Work until only the training remains; return how many shards ended."""
        ended = 0
        self._take_messages()
        while self._running:
            self.now, _, shard, attempt, seconds = heapq.heappop(self._running)
            self._idle += 1
            self._end(shard, attempt, seconds)
            ended += 1
            if ended % RECONCILE_EVERY == 0:
                self.timed("reconcile", reconciler.reconcile)
            self._take_messages()
        return ended

    def _take_messages(self) -> None:
        while self._messages.waiting and self._idle:
            named = Shard.objects.select_related("stage__iteration__experiment").get(
                pk=self._messages.waiting.popleft()
            )
            if named.stage.name == "train":
                return
            claimed = self.timed("claim", partial(fair_queue.claim_next_shard, named))
            if claimed is not None:
                self._idle -= 1
                varied = self._draw.lognormvariate(-(self._variation**2) / 2, self._variation)
                seconds = varied * self._mean_seconds.get(claimed[0].stage.name, 0.0)
                self.busy += seconds
                self.shard_seconds += [seconds] if seconds else []
                heapq.heappush(
                    self._running, (self.now + seconds, claimed[0].pk, *claimed, seconds)
                )

    def finish(self) -> None:
        """Finish the iteration without its training."""
        row = self._iteration
        now = timezone.now()
        Iteration.objects.filter(pk=row.pk).update(status=RunStatus.FINISHED, finished=now)

    def open_shards(self, step_name: str, shards: int) -> None:
        """Measure the check before a shard in an engine process: is it finished and up to date?"""
        step = next(stage for stage in STAGES if stage.name == step_name)
        iteration = Iteration.objects.select_related("experiment").get(pk=self._iteration.pk)
        for shard in range(shards):
            start = partial(_start, step, iteration, shard)
            self.timed("start of a shard", start)

    def _end(self, shard: Shard, attempt: Attempt, seconds: float) -> None:
        self.timed("beat", lambda: shard_claims.extend_lease(attempt, seconds=60, done=1, tokens=1))
        self.timed("may continue", lambda: shard_claims.can_continue(attempt))
        counts = make_nothing(self.context, shard)
        self.timed(
            "finish", lambda: shard_claims.finish_attempt(attempt, counts=counts, seconds=seconds)
        )
        self.timed("send following", lambda: send_following_shards(shard))
        goes_on = self._messages.waiting or self._running
        name = "advance" if goes_on else "advance after the last shard of a stage"
        self.timed(name, lambda: scheduling.advance_iteration(shard.stage.iteration))


def make_nothing(context: IterationContext, shard: Shard) -> dict[str, int]:
    """Finish a shard of one prompt: `sample` really, the others by a manifest without tables."""
    step = next(stage for stage in STAGES if stage.name == shard.stage.name)
    if step.name == "sample":
        return step.run_shard(
            context, 0, StageResources(load_engine=_no_engine, scratch=Path())
        ).counts
    plans = plan_iteration(context.recipe, context.number)
    sampled = [plan for plan in plans if plan.stage == step.name]
    counts = {"tokens": sum(plan.tokens for plan in sampled) // context.recipe.sample.prompts}
    for plan in sampled:
        counts[_CALLS[step.name]] = plan.calls // context.recipe.sample.prompts
    work = StageOutput({}, counts)
    key = step.compute_key(context, shard.index)
    context.files.publish(step.name, shard.index, key=key, work=work, packages={})
    return work.counts


def _start(step: Stage, iteration: Iteration, shard: int) -> ShardManifest | None:
    return step.find_finished_shard(build_context(iteration), shard)


def _no_engine(model: ModelRef, recipe: EngineRecipe) -> Engine:  # noqa: ARG001
    raise AssertionError("nothing is generated here")


def begin(root: Path, name: str, shards: int) -> Experiment:
    """Create an experiment with one prompt per shard, which does not affect rows and manifests."""
    texts = [f"Task {number}" for number in range(shards)]
    model = root / "model"
    model.mkdir(exist_ok=True)
    recipe = {"name": "scale", "prompts_per_shard": 1, "sample": {"prompts": shards}}
    return create_experiment(
        ArtifactStore(str(root / "artifacts")),
        name,
        recipe=Recipe.model_validate(recipe),
        seed=1,
        seed_model=ModelRef("M0", model, hash_model_folder(model)),
        prompts=PromptFile([Prompt(compute_prompt_id(text), text) for text in texts], 0, []),
    )


def simulate(
    root: Path,
    *,
    shards: int,
    workers: int,
    shard_seconds: Mapping[str, float],
    variation: float,
    measured_shards: int = 0,
    seed: int = 1,
) -> dict[str, Any]:
    """Run one iteration up to training, with `shards` shards in each stage that has an engine.

    Args:
        measured_shards: shards of an earlier experiment, from which the stages' times are known.
    """
    call_command("migrate", verbosity=0)
    messages = Messages()
    patch.object(dispatch, "app", messages).start()
    patch.object(reconciler, "read_queue_lengths", dict).start()
    now = timezone.now()
    heard = now + timedelta(days=1)  # the simulation may take longer than a silent worker lives
    Worker.objects.bulk_create(
        Worker(
            name=f"worker-{number}", host="here", pid=number, queues="gpu,cpu", since=now,
            started=now, heartbeat=heard,
        )
        for number in range(workers)
    )  # fmt: skip

    def prepare(name: str, shards: int) -> Simulation:
        experiment = begin(root, name, shards)
        row = record_experiment(experiment, artifact_root=str(root / "artifacts"))
        return Simulation(
            submit_to_workers(experiment, row, target_iteration=1),
            messages,
            workers,
            shard_seconds=shard_seconds,
            variation=variation,
            seed=seed,
        )

    if measured_shards:
        before = prepare("before", measured_shards)
        before.run()
        messages.waiting.clear()
        before.finish()
    simulation = prepare("scale", shards)
    ended = simulation.run()
    simulation.open_shards(step_name="meta_judge", shards=min(shards, OPENED))
    simulation.timed("read all manifests", simulation.context.files.list_manifests)
    return {
        "shards": ended,
        "simulated_seconds": simulation.now,
        "shard_seconds": simulation.shard_seconds,
        "idle_share": 1 - simulation.busy / (workers * simulation.now),
        "spent": simulation.spent,
    }
