"""The run callback that writes the progress of one iteration into its rows, for one process."""

import time
from typing import Final

from meta_reward_core.errors import ExperimentBusyError
from meta_reward_core.iteration import Stage
from meta_reward_core.storage.shards import ShardManifest
from webapp.experiments import models
from webapp.experiments.models import Attempt, AttemptStatus, Shard, ShardStatus
from workers.pipeline import shard_claims, transitions
from workers.pipeline.training_progress import TrainingProgress

REPORT_SECONDS: Final = 0.5
"""Progress is written at most so often: a row is not a log."""


class DatabaseCallback:
    """Write what happens to an iteration into its rows.

    Every method raises ExperimentBusyError when the rows say that another process took over.
    """

    def __init__(self, iteration: models.Iteration) -> None:
        self._stages = {stage.name: stage for stage in iteration.stages.all()}
        self._name = str(iteration)
        self._attempt: Attempt | None = None
        self._reported_at = 0.0
        self._progress = TrainingProgress()

    def skip_stage(self, stage: Stage) -> None:
        """This iteration does not have the stage."""
        self._check(transitions.skip_stage(self._stages[stage.name]))

    def plan_stage(self, stage: Stage, shards: int) -> None:
        """The stage falls into so many shards."""
        self._check(transitions.plan_stage(self._stages[stage.name], shards=shards))

    def start_shard(self, stage: Stage, shard: int) -> None:
        """Claim the shard; one whose finished files no longer hold is opened again first."""
        row = self._get_shard(stage, shard)
        if row.status == ShardStatus.FINISHED:
            self._check(shard_claims.reopen_shard(row))
        self._attempt = shard_claims.claim_shard(row)
        self._progress = TrainingProgress()
        self._check(self._attempt is not None)

    def reuse_shard(self, stage: Stage, shard: int, manifest: ShardManifest) -> None:
        """The shard's files were finished by an earlier run; the row follows them."""
        row = self._get_shard(stage, shard)
        if row.status != ShardStatus.FINISHED or row.counts != manifest.counts:
            self._check(shard_claims.accept_shard(row, counts=manifest.counts))

    def finish_shard(
        self,
        stage: Stage,  # noqa: ARG002
        shard: int,  # noqa: ARG002
        manifest: ShardManifest,
        *,
        seconds: float,
    ) -> None:
        """The claimed shard is finished."""
        attempt, self._attempt = self._attempt, None
        self._check(
            attempt is not None
            and shard_claims.finish_attempt(attempt, counts=manifest.counts, seconds=seconds)
        )

    def fail_shard(self, stage: Stage, shard: int, error: BaseException) -> None:  # noqa: ARG002
        """The claimed shard failed, or the process is being stopped."""
        attempt, self._attempt = self._attempt, None
        stopped = not isinstance(error, Exception)
        if stopped:
            transitions.drop_interrupted_transaction()
        if attempt is not None:
            status: shard_claims.Unfinished = (
                AttemptStatus.INTERRUPTED if stopped else AttemptStatus.FAILED
            )
            shard_claims.fail_attempt(attempt, status=status, error=_format_reason(error))
        if not stopped:
            transitions.fail_stage(self._stages[stage.name])

    def finish_stage(self, stage: Stage) -> None:
        """All shards of the stage are finished."""
        self._check(transitions.finish_stage(self._stages[stage.name]))

    def report(self, done: int, tokens: int) -> None:
        """Write the running shard's progress, but not too often."""
        now = time.monotonic()
        if self._attempt is None or now - self._reported_at < REPORT_SECONDS:
            return
        self._reported_at = now
        metrics = self._progress.list_rows()
        self._check(
            shard_claims.report_progress(self._attempt, done=done, tokens=tokens, metrics=metrics)
        )

    def log(self, row: dict[str, float]) -> None:
        """A training's step counts as progress; all its figures stand in the artifacts later."""
        self._progress.add_row(row)
        self.report(int(row.get("step", 0)), 0)

    def _get_shard(self, stage: Stage, shard: int) -> Shard:
        return Shard.objects.get(stage=self._stages[stage.name], index=shard)

    def _check(self, won: bool) -> None:  # noqa: FBT001
        if not won:
            raise ExperimentBusyError(
                f"another process has taken over {self._name}: wait for it to end"
            )


def _format_reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
