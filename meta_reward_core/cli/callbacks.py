"""Several progress callbacks for one iteration, such as the database and a terminal."""

from meta_reward_core.iteration import Stage
from meta_reward_core.runner import RunCallback
from meta_reward_core.storage.shards import ShardManifest


class CallbackList:
    """Forwards every event to several callbacks, in order."""

    def __init__(self, *watchers: RunCallback) -> None:
        self._watchers = watchers

    def skip_stage(self, stage: Stage) -> None:
        """See `RunCallback`."""
        for watcher in self._watchers:
            watcher.skip_stage(stage)

    def plan_stage(self, stage: Stage, shards: int) -> None:
        """See `RunCallback`."""
        for watcher in self._watchers:
            watcher.plan_stage(stage, shards)

    def start_shard(self, stage: Stage, shard: int) -> None:
        """See `RunCallback`."""
        for watcher in self._watchers:
            watcher.start_shard(stage, shard)

    def reuse_shard(self, stage: Stage, shard: int, manifest: ShardManifest) -> None:
        """See `RunCallback`."""
        for watcher in self._watchers:
            watcher.reuse_shard(stage, shard, manifest)

    def finish_shard(
        self, stage: Stage, shard: int, manifest: ShardManifest, *, seconds: float
    ) -> None:
        """See `RunCallback`."""
        for watcher in self._watchers:
            watcher.finish_shard(stage, shard, manifest, seconds=seconds)

    def retry_shard(self, stage: Stage, shard: int, error: Exception) -> None:
        """See `RunCallback`."""
        for watcher in self._watchers:
            watcher.retry_shard(stage, shard, error)

    def fail_shard(self, stage: Stage, shard: int, error: Exception) -> None:
        """See `RunCallback`."""
        for watcher in self._watchers:
            watcher.fail_shard(stage, shard, error)

    def stop_shard(self, stage: Stage, shard: int, reason: str) -> None:
        """See `RunCallback`."""
        for watcher in self._watchers:
            watcher.stop_shard(stage, shard, reason)

    def finish_stage(self, stage: Stage) -> None:
        """See `RunCallback`."""
        for watcher in self._watchers:
            watcher.finish_stage(stage)

    def report(self, stage: Stage, shard: int, done: int, tokens: int) -> None:
        """See `RunCallback`."""
        for watcher in self._watchers:
            watcher.report(stage, shard, done, tokens)

    def log(self, stage: Stage, shard: int, row: dict[str, float]) -> None:
        """See `RunCallback`."""
        for watcher in self._watchers:
            watcher.log(stage, shard, row)
