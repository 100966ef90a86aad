"""The callback that records the progress of one iteration in its rows, for one process."""

import time
from dataclasses import dataclass, field
from typing import Final

from meta_reward_core.errors import ExperimentBusyError
from meta_reward_core.iteration import Stage
from meta_reward_core.storage.shards import ShardManifest
from webapp.experiments import models
from webapp.experiments.models import Attempt, AttemptStatus, Shard, ShardStatus
from workers.pipeline import shard_claims, transitions
from workers.pipeline.training_progress import TrainingProgress

REPORT_SECONDS: Final = 0.5
"""Minimum interval between progress updates of a row."""


@dataclass(slots=True)
class _Claim:
    """A running shard, and its last recorded progress."""

    attempt: Attempt
    progress: TrainingProgress = field(default_factory=TrainingProgress)
    reported_at: float = 0.0


class DatabaseCallback:
    """Records the events of an iteration in its rows.

    Every method raises ExperimentBusyError if the rows show that another process has taken over.
    """

    def __init__(self, iteration: models.Iteration) -> None:
        self._stages = {stage.name: stage for stage in iteration.stages.all()}
        self._name = str(iteration)
        self._claims: dict[tuple[str, int], _Claim] = {}

    def skip_stage(self, stage: Stage) -> None:
        """Mark a stage as skipped."""
        self._check(transitions.skip_stage(self._stages[stage.name]))

    def plan_stage(self, stage: Stage, shards: int) -> None:
        """Create the shards of a stage."""
        self._check(transitions.plan_stage(self._stages[stage.name], shards=shards))

    def start_shard(self, stage: Stage, shard: int) -> None:
        """Claim the shard; one with invalid finished files is reopened first."""
        row = self._get_shard(stage, shard)
        if row.status == ShardStatus.FINISHED:
            self._check(shard_claims.reopen_shard(row))
        attempt = shard_claims.claim_shard(row)
        self._check(attempt is not None)
        if attempt is not None:
            self._claims[stage.name, shard] = _Claim(attempt)

    def reuse_shard(self, stage: Stage, shard: int, manifest: ShardManifest) -> None:
        """Mark a shard as finished by an earlier run."""
        row = self._get_shard(stage, shard)
        if row.status != ShardStatus.FINISHED or row.counts != manifest.counts:
            self._check(shard_claims.accept_shard(row, counts=manifest.counts))

    def finish_shard(
        self, stage: Stage, shard: int, manifest: ShardManifest, *, seconds: float
    ) -> None:
        """Mark the claimed shard as finished."""
        claim = self._claims.pop((stage.name, shard), None)
        self._check(
            claim is not None
            and shard_claims.finish_attempt(claim.attempt, counts=manifest.counts, seconds=seconds)
        )

    def retry_shard(self, stage: Stage, shard: int, error: Exception) -> None:
        """Return the claimed shard, which failed, for another attempt."""
        self._end_attempt(stage, shard, AttemptStatus.FAILED, _format_reason(error), again=True)

    def fail_shard(self, stage: Stage, shard: int, error: Exception) -> None:
        """Mark the claimed shard and its stage as failed."""
        self._end_attempt(stage, shard, AttemptStatus.FAILED, _format_reason(error))
        transitions.fail_stage(self._stages[stage.name])

    def stop_shard(self, stage: Stage, shard: int, reason: str) -> None:
        """Return the claimed shard, which was stopped."""
        transitions.drop_interrupted_transaction()
        self._end_attempt(stage, shard, AttemptStatus.INTERRUPTED, reason)

    def _end_attempt(
        self,
        stage: Stage,
        shard: int,
        status: shard_claims.Unfinished,
        error: str,
        *,
        again: bool = False,
    ) -> None:
        claim = self._claims.pop((stage.name, shard), None)
        if claim is not None:
            shard_claims.fail_attempt(claim.attempt, status=status, error=error, again=again)

    def finish_stage(self, stage: Stage) -> None:
        """Mark the stage as finished."""
        self._check(transitions.finish_stage(self._stages[stage.name]))

    def report(self, stage: Stage, shard: int, done: int, tokens: int) -> None:
        """Record a running shard's progress, at a limited rate."""
        now = time.monotonic()
        claim = self._claims.get((stage.name, shard))
        if claim is None or now - claim.reported_at < REPORT_SECONDS:
            return
        claim.reported_at = now
        metrics = claim.progress.list_rows()
        self._check(
            shard_claims.report_progress(claim.attempt, done=done, tokens=tokens, metrics=metrics)
        )

    def log(self, stage: Stage, shard: int, row: dict[str, float]) -> None:
        """Record a training step as progress; the artifacts contain all metrics later."""
        claim = self._claims.get((stage.name, shard))
        if claim is not None:
            claim.progress.add_row(row)
            self.report(stage, shard, int(row.get("step", 0)), 0)

    def _get_shard(self, stage: Stage, shard: int) -> Shard:
        return Shard.objects.get(stage=self._stages[stage.name], index=shard)

    def _check(self, won: bool) -> None:  # noqa: FBT001
        if not won:
            raise ExperimentBusyError(
                f"another process has taken over {self._name}: wait until it has finished"
            )


def _format_reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
