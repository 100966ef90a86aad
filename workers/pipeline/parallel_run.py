"""Run one iteration on all device groups of this machine, with an engine process for each.

This process loads no model: it distributes shards and updates the rows. If an engine process is
killed or runs out of memory, only its own shard is affected, and it is rerun.
"""

import select
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from meta_reward_core.context import IterationContext
from meta_reward_core.errors import ArtifactError, EngineError, MetaRewardError
from meta_reward_core.experiment import Experiment
from meta_reward_core.iteration import Stage
from meta_reward_core.recipes.canonical import canonicalize_section
from meta_reward_core.runner import BeforeTraining, RunCallback, ShardSchedule, publish_manifest
from meta_reward_core.storage.artifact_store import hash_json
from workers.engine.client import EngineHost, ShardFailedError, ShardRequest, ShardResult
from workers.ops.devices import DevicePool, divide_devices, list_gpus

_POLL_SECONDS: Final = 1.0


def count_engine_processes(wanted: int, *, engine: str, gpus_per_model: int) -> int:
    """Return the number of concurrent engine processes on this machine.

    Args:
        wanted: requested number; 0 for one process per group of `gpus_per_model` GPUs, at least 1.
        engine: kind of the engine.
        gpus_per_model: number of GPUs over which the engine splits a model.
    """
    gpus = len(list_gpus()) if engine in ("transformers", "vllm") else 0
    if not gpus:
        return wanted or 1
    most = max(1, gpus // gpus_per_model)
    return min(wanted, most) if wanted else most


@dataclass(slots=True)
class _RunningShard:
    host: EngineHost
    stage: Stage
    shard: int
    began: float


class ParallelRun:
    """One iteration on several engine processes; see `run`.

    Args:
        processes: number of engine processes; each gets its share of the GPUs or CPU cores.
        scratch: private folder of the iteration.
        max_attempts: number of failures of a shard that ends the run. Failures are counted if the
            engine process was killed or failed.
        engines_ahead: see `runner.ShardSchedule`.
    """

    def __init__(
        self,
        experiment: Experiment,
        context: IterationContext,
        callback: RunCallback,
        *,
        processes: int,
        scratch: str,
        max_attempts: int,
        engines_ahead: int = 0,
    ) -> None:
        self._experiment = experiment
        self._context = context
        self._callback = callback
        self._scratch = scratch
        self._max_attempts = max_attempts
        self._engines_ahead = engines_ahead
        engine = canonicalize_section(context.recipe.engine, "engine.")
        self._model = hash_json([context.model.sha256, engine])
        self._pool = DevicePool(divide_devices(processes))
        self._hosts = [EngineHost(lambda: self._pool) for _ in self._pool.groups]
        self._running: list[_RunningShard] = []
        self._failures: Counter[tuple[str, int]] = Counter()

    def run(self, *, before_training: BeforeTraining) -> None:
        """Run the rest of the iteration like `runner.run_iteration`, with the same errors."""
        schedule = ShardSchedule(
            self._context,
            self._callback,
            before_training=before_training,
            engines_ahead=self._engines_ahead,
        )
        reason = "another shard failed"
        try:
            self._start_ready(schedule)
            while self._running:
                for one in self._wait():
                    self._receive(one, schedule)
                self._start_ready(schedule)
            publish_manifest(self._context)
        except BaseException as error:
            reason = reason if isinstance(error, Exception) else type(error).__name__
            raise
        finally:
            for host in self._hosts:
                host.kill()
            self._pool.remove()
            for one in self._running:
                self._callback.stop_shard(one.stage, one.shard, reason)

    def _start_ready(self, schedule: ShardSchedule) -> None:
        busy = {id(one.host) for one in self._running}
        for number, host in enumerate(self._hosts):
            if id(host) in busy:
                continue
            taken = schedule.take_next()
            if taken is None:
                return
            self._start(number, *taken, schedule)

    def _start(self, number: int, stage: Stage, shard: int, schedule: ShardSchedule) -> None:
        groups = self._pool.groups
        one = _RunningShard(self._hosts[number], stage, shard, time.monotonic())
        self._callback.start_shard(stage, shard)
        self._running.append(one)
        request = ShardRequest(
            artifact_root=self._experiment.store.root,
            scratch=self._scratch,
            experiment=self._experiment.name,
            iteration=self._context.number,
            stage=stage.name,
            shard=shard,
            uuid=str(self._experiment.uuid),
        )
        try:
            one.host.submit(
                request,
                resource=stage.resource,
                model=self._model,
                # Training reads the output of all other stages, so it runs alone.
                groups=groups if stage.resource == "trainer" else groups[number : number + 1],
            )
        except ShardFailedError as error:
            self._fail(one, error, schedule)

    def _wait(self) -> list[_RunningShard]:
        """Wait for messages of engine processes."""
        hosts = [one.host for one in self._running]
        heard = {id(host) for host in select.select(hosts, [], [], _POLL_SECONDS)[0]}
        return [one for one in self._running if id(one.host) in heard]

    def _receive(self, one: _RunningShard, schedule: ShardSchedule) -> None:
        def tell(message: Mapping[str, Any]) -> None:
            if "progress" in message:
                self._callback.report(one.stage, one.shard, *message["progress"])
            elif "log" in message:
                self._callback.log(one.stage, one.shard, message["log"])

        try:
            result = one.host.receive(tell)
        except ShardFailedError as error:
            self._fail(one, error, schedule)
            return
        if result is not None:
            self._finish(one, result, schedule)

    def _finish(self, one: _RunningShard, result: ShardResult, schedule: ShardSchedule) -> None:
        manifest = self._context.files.read_new_manifest(one.stage.name, one.shard)
        if manifest is None:
            raise ArtifactError(
                f"shard {one.shard} of {one.stage.name} is finished ({result.counts}), but its "
                "manifest cannot be read: check the storage and rerun the command"
            )
        self._running.remove(one)
        seconds = time.monotonic() - one.began
        self._callback.finish_shard(one.stage, one.shard, manifest, seconds=seconds)
        if one.stage.resource == "trainer":
            one.host.kill()
        schedule.finish_shard(one.stage, one.shard)

    def _fail(self, one: _RunningShard, error: ShardFailedError, schedule: ShardSchedule) -> None:
        """Retry a shard if only its engine process failed; else end the run."""
        self._running.remove(one)
        name = one.stage.name, one.shard
        self._failures[name] += 1
        core_error = error.to_core_error()
        if _is_engine_failure(core_error) and self._failures[name] < self._max_attempts:
            self._callback.retry_shard(one.stage, one.shard, error)
            schedule.put_back(one.stage, one.shard)
            return
        self._callback.fail_shard(one.stage, one.shard, core_error)
        raise core_error


def _is_engine_failure(error: MetaRewardError) -> bool:
    return isinstance(error, EngineError)
