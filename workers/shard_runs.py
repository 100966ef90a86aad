"""One shard, from a message to a row that says how it ended."""

import logging
import time
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections

from meta_reward_core.artifacts import digest_of
from meta_reward_core.errors import DamagedArtifactError, NoPairsError
from meta_reward_core.iteration import STAGES
from webapp.experiments.models import Attempt, AttemptStatus, Iteration, RunStatus, Shard
from webapp.logs import about
from workers import lifecycle, presence, scheduling, stopping, turns
from workers.engine_host import (
    HOST,
    ShardFailedError,
    ShardRequest,
    ShardResult,
    ShardStoppedError,
)
from workers.opening import context_of
from workers.sending import send_shards
from workers.training_figures import TrainingFigures

_RESOURCES: Final = {stage.name: stage.resource for stage in STAGES}
_BROKEN: Final = (OperationalError, InterfaceError)

_log = logging.getLogger(__name__)
_host = HOST


class Stop(Enum):
    """Why a running shard is stopped."""

    ASKED = auto()
    LOST = auto()
    SHUTDOWN = auto()


def run_shard(shard_id: int) -> None:
    """Run a shard, or another of the same queue whose turn it is, and let its iteration go on."""
    shard = _find(shard_id)
    if shard is None:
        return
    claimed = turns.claim(shard)
    if claimed is not None:
        shard, attempt = claimed
        with presence.working_on(shard), about(**_facts(shard, attempt)):
            _run_claimed(shard, attempt)
    close_old_connections()
    if lifecycle.is_stopped(shard.stage.iteration):
        _host.kill()  # a shard that ended just before leaves its engine idle, with the model loaded
    scheduling.advance(shard.stage.iteration)


def _facts(shard: Shard, attempt: Attempt) -> dict[str, object]:
    iteration = shard.stage.iteration
    return {
        "experiment": iteration.experiment.name,
        "iteration": iteration.number,
        "stage": shard.stage.name,
        "shard": shard.index,
        "attempt": attempt.number,
    }


def _find(shard_id: int) -> Shard | None:
    found = Shard.objects.select_related("stage__iteration__experiment")
    return found.filter(pk=shard_id).first()


def _run_claimed(shard: Shard, attempt: Attempt) -> None:
    _log.info("begun")
    began = time.monotonic()
    vigil = Vigil(attempt, lease_seconds=settings.META_REWARD_LEASE_SECONDS)
    try:
        result = _ask_engine(shard, vigil)
    except ShardStoppedError:
        _stopped(shard, attempt, vigil.stop)
    except ShardFailedError as error:
        _failed(shard, attempt, error)
    except OSError as error:  # no memory, or no process, for the engine
        failure = ShardFailedError(str(error), kind=type(error).__name__, retryable=True)
        _failed(shard, attempt, failure)
    else:
        _finished(attempt, result, seconds=time.monotonic() - began)
        _log.info("finished in %.1f s", time.monotonic() - began)


def _ask_engine(shard: Shard, vigil: "Vigil") -> ShardResult:
    stage, iteration = shard.stage, shard.stage.iteration
    experiment = iteration.experiment
    scratch = Path(settings.META_REWARD_SCRATCH_ROOT) / experiment.name
    return _host.run(
        ShardRequest(
            artifact_root=experiment.artifact_root,
            scratch=str(scratch / f"iteration-{iteration.number}"),
            experiment=experiment.name,
            iteration=iteration.number,
            stage=stage.name,
            shard=shard.index,
        ),
        resource=_RESOURCES[stage.name],
        model=digest_of([iteration.model_in, experiment.recipe["engine"]]),
        hear=vigil.hear,
        may_go_on=vigil.may_go_on,
    )


class Vigil:
    """Keeps a running shard's lease, and watches for reasons to stop it.

    Attributes:
        stop: why it was stopped, once it was.
    """

    def __init__(self, attempt: Attempt, *, lease_seconds: float) -> None:
        self.stop: Stop | None = None
        self._attempt = attempt
        self._lease_seconds = lease_seconds
        self._extended_at = time.monotonic()
        self._done = self._tokens = 0
        self._device_bytes: int | None = None
        self._figures = TrainingFigures()

    def hear(self, message: dict[str, Any]) -> None:
        """Take what the engine says about its progress."""
        if "progress" in message:
            self._done, self._tokens = message["progress"]
            self._device_bytes = message.get("device_bytes", self._device_bytes)
        elif "log" in message:
            self._done = int(message["log"].get("step", 0))
            self._figures.hear(message["log"])

    def may_go_on(self) -> bool:
        """Extend the lease; say whether the shard may go on."""
        self.stop = self._reason_to_stop()
        return self.stop is None

    def _reason_to_stop(self) -> Stop | None:
        if stopping.is_stopping():
            return Stop.SHUTDOWN
        try:
            close_old_connections()
            return self._ask_rows()
        except _BROKEN as error:
            _log.warning("the database does not answer: %s", error)
            silent = time.monotonic() - self._extended_at
            return Stop.LOST if silent > self._lease_seconds else None

    def _ask_rows(self) -> Stop | None:
        asked_at = time.monotonic()
        if not lifecycle.extend(
            self._attempt,
            seconds=self._lease_seconds,
            done=self._done,
            tokens=self._tokens,
            figures=self._figures.rows(),
        ):
            return Stop.LOST
        self._extended_at = asked_at
        presence.beat(device_bytes=self._device_bytes)
        return None if lifecycle.may_go_on(self._attempt) else Stop.ASKED


def _stopped(shard: Shard, attempt: Attempt, why: Stop | None) -> None:
    if why is Stop.LOST:
        _log.warning("%s was lost to another worker", shard)
        return
    error = "the worker was stopped" if why is Stop.SHUTDOWN else "stopped by a person"
    _persistently(lambda: lifecycle.fail(attempt, status=AttemptStatus.INTERRUPTED, error=error))
    if why is Stop.SHUTDOWN:
        send_shards(shard.stage)  # to another worker, or to this one when it is back


def _finished(attempt: Attempt, result: ShardResult, *, seconds: float) -> None:
    presence.computes_on(result.device)
    _persistently(
        lambda: lifecycle.finish(
            attempt, counts=result.counts, seconds=None if result.reused else seconds
        )
    )


def _failed(shard: Shard, attempt: Attempt, error: ShardFailedError) -> None:
    _log.warning("%s failed: %s", shard, error)
    iteration = shard.stage.iteration
    held = _persistently(
        lambda: lifecycle.fail(
            attempt, status=AttemptStatus.FAILED, error=str(error), again=error.retryable
        )
    )
    if held and error.kind == NoPairsError.__name__:
        lifecycle.fail_stage(shard.stage)
        lifecycle.stop_iteration(iteration, status=RunStatus.NO_PAIRS, finding=error.message)
    elif held and error.kind == DamagedArtifactError.__name__:
        _remake_inputs(iteration)
    if held and error.retryable:
        send_shards(shard.stage)


def _remake_inputs(iteration: Iteration) -> None:
    rows = {row.name: row for row in iteration.stages.all()}
    scheduling.reopen_damaged(iteration, context_of(iteration), rows)


def _persistently(write: Callable[[], bool]) -> bool:
    """Write a row although the database may just be away; the lease bounds how long we try.

    What cannot be written is found by the reconciler, and the finished files by the next attempt.
    """
    give_up_at = time.monotonic() + settings.META_REWARD_LEASE_SECONDS
    while True:
        try:
            close_old_connections()
            return write()
        except _BROKEN as error:
            if time.monotonic() > give_up_at:
                raise
            _log.warning("the database does not answer: %s", error)
            time.sleep(0.5)
