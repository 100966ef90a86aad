"""Several who keep count of one iteration at once, such as rows and a person who watches."""

from typing import Protocol

from meta_reward_core.iteration import Stage
from meta_reward_core.runner import RunCallback
from meta_reward_core.storage.shards import ShardManifest


class ProgressCallback(RunCallback, Protocol):
    """A run callback that also receives the progress inside a shard."""

    def report(self, done: int, tokens: int) -> None:
        """An engine has drawn so many completions, and tokens, of the running shard."""

    def log(self, row: dict[str, float]) -> None:
        """A training wrote a row of its log."""


class CallbackList:
    """Tell everything to each of several watchers, in order."""

    def __init__(self, *watchers: ProgressCallback) -> None:
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

    def fail_shard(self, stage: Stage, shard: int, error: BaseException) -> None:
        """See `RunCallback`."""
        for watcher in self._watchers:
            watcher.fail_shard(stage, shard, error)

    def finish_stage(self, stage: Stage) -> None:
        """See `RunCallback`."""
        for watcher in self._watchers:
            watcher.finish_stage(stage)

    def report(self, done: int, tokens: int) -> None:
        """See `ProgressCallback`."""
        for watcher in self._watchers:
            watcher.report(done, tokens)

    def log(self, row: dict[str, float]) -> None:
        """See `ProgressCallback`."""
        for watcher in self._watchers:
            watcher.log(row)
