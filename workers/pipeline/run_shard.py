"""Run one shard, from a message to the row with its result."""

import logging
import time
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections

from meta_reward_core.errors import DamagedArtifactError, NeedsAttentionError, NoPairsError
from meta_reward_core.iteration import STAGES
from meta_reward_core.storage.artifact_store import hash_json
from webapp.experiments.files import open_experiment_files
from webapp.experiments.models import Attempt, AttemptStatus, Iteration, RunStatus, Shard
from webapp.logging_config import log_context
from workers.engine.client import (
    HOST,
    ShardFailedError,
    ShardRequest,
    ShardResult,
    ShardStoppedError,
)
from workers.ops import heartbeat, processes
from workers.ops.attempt_log import log_attempt
from workers.ops.device_use import DeviceMeter
from workers.ops.devices import DeviceLease, count_groups, get_pool
from workers.pipeline import fair_queue, scheduling, shard_claims, transitions
from workers.pipeline.dispatch import send_following_shards, send_shards
from workers.pipeline.open_experiment import build_context
from workers.pipeline.training_progress import TrainingProgress

_RESOURCES: Final = {stage.name: stage.resource for stage in STAGES}
_DEVICE_SECONDS: Final = 10.0
"""How long a message waits for a device; meanwhile the process handles no other message."""
_DATABASE_ERRORS: Final = (OperationalError, InterfaceError)

_log = logging.getLogger(__name__)
_host = HOST


class StopReason(Enum):
    """Reasons to stop a running shard."""

    ASKED = auto()
    LOST = auto()
    SHUTDOWN = auto()


def run_shard(shard_id: int) -> None:
    """Run the next shard in turn of the same queue, and advance its iteration."""
    shard = _find_shard(shard_id)
    if shard is None:
        return
    devices = _acquire_devices(shard)
    if devices is None:
        return  # all device groups are used for training; the reconciler sends the message again
    try:
        claimed = fair_queue.claim_next_shard(shard)
        if claimed is not None:
            shard, attempt = claimed
            with (
                heartbeat.track_work(shard),
                log_context(**_build_log_facts(shard, attempt)),
                log_attempt(attempt),
            ):
                _run_claimed(shard, attempt, devices)
    finally:
        devices.release()
    close_old_connections()
    if transitions.is_stopped(shard.stage.iteration):
        _host.kill()  # the previous shard leaves its engine idle, with the model loaded
    send_following_shards(shard)
    scheduling.advance_iteration(shard.stage.iteration)


def _acquire_devices(shard: Shard) -> DeviceLease | None:
    """Acquire the minimum devices of a shard; None if others use all devices of this worker.

    A training waits for all of them only once it is claimed.
    """
    resource = _RESOURCES[shard.stage.name]
    if resource != "cpu":
        count = _count_groups(shard) if resource == "engine" else 1
        return get_pool().try_acquire(count, seconds=_DEVICE_SECONDS)
    lease = get_pool().try_acquire_groups(_host.groups)
    if lease is not None:
        return lease
    _host.kill()  # another process is about to use the devices of the idle engine
    return DeviceLease(())


def _build_log_facts(shard: Shard, attempt: Attempt) -> dict[str, object]:
    iteration = shard.stage.iteration
    return {
        "experiment": iteration.experiment.name,
        "iteration": iteration.number,
        "stage": shard.stage.name,
        "shard": shard.index,
        "attempt": attempt.number,
    }


def _find_shard(shard_id: int) -> Shard | None:
    found = Shard.objects.select_related("stage__iteration__experiment")
    return found.filter(pk=shard_id).first()


def _run_claimed(shard: Shard, attempt: Attempt, devices: DeviceLease) -> None:
    _log.info("started")
    began = time.monotonic()
    lease = ShardLease(attempt, lease_seconds=settings.META_REWARD_LEASE_SECONDS)
    try:
        result = _run_in_engine(shard, lease, devices)
    except ShardStoppedError:
        _record_stop(shard, attempt, lease.stop)
    except ShardFailedError as error:
        _record_failure(shard, attempt, error)
    except OSError as error:  # not enough memory or no process for the engine
        failure = ShardFailedError(str(error), kind=type(error).__name__, retryable=True)
        _record_failure(shard, attempt, failure)
    else:
        _record_finish(attempt, result, seconds=time.monotonic() - began)
        _log.info("finished in %.1f s", time.monotonic() - began)


def _run_in_engine(shard: Shard, lease: "ShardLease", devices: DeviceLease) -> ShardResult:
    stage, iteration = shard.stage, shard.stage.iteration
    experiment = iteration.experiment
    _resize(devices, _count_groups(shard), lease)
    layout = open_experiment_files(experiment).layout
    scratch = layout.get_scratch(Path(settings.META_REWARD_SCRATCH_ROOT), iteration.number)
    return _host.run(
        ShardRequest(
            artifact_root=experiment.artifact_root,
            scratch=str(scratch),
            experiment=experiment.name,
            iteration=iteration.number,
            stage=stage.name,
            shard=shard.index,
            uuid=str(experiment.uuid),
        ),
        resource=_RESOURCES[stage.name],
        model=hash_json([iteration.model_in, experiment.recipe["engine"]]),
        groups=devices.groups,
        on_message=lease.handle_message,
        can_continue=lease.can_continue,
    )


def _count_groups(shard: Shard) -> int:
    """Count the device groups for a stage; training uses all devices of the worker."""
    groups, resource = get_pool().groups, _RESOURCES[shard.stage.name]
    if resource == "cpu":
        return 0
    if resource == "trainer":
        return len(groups)
    return count_groups(shard.stage.iteration.experiment.recipe["engine"], groups)


def _resize(devices: DeviceLease, count: int, lease: "ShardLease") -> None:
    """Release devices that the claimed shard does not need, or wait for more.

    Raises:
        ShardStoppedError: the shard was stopped or lost in the meantime.
    """
    if len(devices.groups) >= count:
        devices.keep(count or len(devices.groups))
        return
    devices.release()  # otherwise two could wait for each other's groups forever
    wider = get_pool().acquire(count, can_continue=lease.can_continue)
    if wider is None:
        raise ShardStoppedError
    devices.groups, devices.locks = wider.groups, wider.locks


class ShardLease:
    """Renews a running shard's lease, and watches for reasons to stop it.

    Attributes:
        stop: why the shard was stopped; None while it runs.
    """

    def __init__(self, attempt: Attempt, *, lease_seconds: float) -> None:
        self.stop: StopReason | None = None
        self._attempt = attempt
        self._lease_seconds = lease_seconds
        self._extended_at = time.monotonic()
        self._done = self._tokens = 0
        self._meter = DeviceMeter()
        self._progress = TrainingProgress()

    def handle_message(self, message: dict[str, Any]) -> None:
        """Process a progress message of the engine."""
        if "progress" in message:
            self._done, self._tokens = message["progress"]
        elif "log" in message:
            self._done = int(message["log"].get("step", 0))
            self._progress.add_row(message["log"])

    def can_continue(self) -> bool:
        """Renew the lease; return whether the shard may continue."""
        self.stop = self._find_stop_reason()
        return self.stop is None

    def _find_stop_reason(self) -> StopReason | None:
        if processes.is_shutting_down():
            return StopReason.SHUTDOWN
        try:
            close_old_connections()
            return self._check_rows()
        except _DATABASE_ERRORS as error:
            _log.warning("the database does not respond: %s", error)
            silent = time.monotonic() - self._extended_at
            return StopReason.LOST if silent > self._lease_seconds else None

    def _check_rows(self) -> StopReason | None:
        asked_at = time.monotonic()
        if not shard_claims.extend_lease(
            self._attempt,
            seconds=self._lease_seconds,
            done=self._done,
            tokens=self._tokens,
            metrics=self._progress.list_rows(),
        ):
            return StopReason.LOST
        self._extended_at = asked_at
        heartbeat.send_heartbeat(self._meter.measure(_host.groups, _host.pid))
        return None if shard_claims.can_continue(self._attempt) else StopReason.ASKED


def _record_stop(shard: Shard, attempt: Attempt, why: StopReason | None) -> None:
    if why is StopReason.LOST:
        _log.warning("%s was lost to another worker", shard)
        return
    error = "the worker was stopped" if why is StopReason.SHUTDOWN else "stopped by a user"
    _retry_database(
        lambda: shard_claims.fail_attempt(attempt, status=AttemptStatus.INTERRUPTED, error=error)
    )
    if why is StopReason.SHUTDOWN:
        send_shards(shard.stage)  # to another worker, or to this one after its restart


def _record_finish(attempt: Attempt, result: ShardResult, *, seconds: float) -> None:
    heartbeat.set_device(result.device)
    _retry_database(
        lambda: shard_claims.finish_attempt(
            attempt, counts=result.counts, seconds=None if result.reused else seconds
        )
    )


def _record_failure(shard: Shard, attempt: Attempt, error: ShardFailedError) -> None:
    _log.warning("%s failed: %s", shard, error)
    iteration = shard.stage.iteration
    if error.kind == NeedsAttentionError.__name__:
        _record_needed_attention(attempt, iteration, error)
        return
    held = _retry_database(
        lambda: shard_claims.fail_attempt(
            attempt, status=AttemptStatus.FAILED, error=str(error), again=error.retryable
        )
    )
    if held and error.kind == NoPairsError.__name__:
        transitions.fail_stage(shard.stage)
        transitions.stop_iteration(iteration, status=RunStatus.NO_PAIRS, message=error.message)
    elif held and error.kind == DamagedArtifactError.__name__:
        _reopen_damaged_inputs(iteration)
    if held and error.retryable:
        send_shards(shard.stage)


def _record_needed_attention(
    attempt: Attempt, iteration: Iteration, error: ShardFailedError
) -> None:
    """Stop the iteration until a user decides; the shard becomes pending, not failed."""
    held = _retry_database(
        lambda: shard_claims.fail_attempt(
            attempt, status=AttemptStatus.INTERRUPTED, error=error.message
        )
    )
    if held:
        transitions.stop_iteration(
            iteration, status=RunStatus.NEEDS_ATTENTION, message=error.message
        )
        transitions.reset_running_stages(iteration)


def _reopen_damaged_inputs(iteration: Iteration) -> None:
    rows = {row.name: row for row in iteration.stages.all()}
    scheduling.reopen_damaged(iteration, build_context(iteration), rows)


def _retry_database(write: Callable[[], bool]) -> bool:
    """Write a row with retries while the database is unavailable, within the lease.

    If writing fails, the reconciler detects it, and the next attempt finds the finished files.
    """
    give_up_at = time.monotonic() + settings.META_REWARD_LEASE_SECONDS
    while True:
        try:
            close_old_connections()
            return write()
        except _DATABASE_ERRORS as error:
            if time.monotonic() > give_up_at:
                raise
            _log.warning("the database does not respond: %s", error)
            time.sleep(0.5)
