"""Send messages to the broker. The reconciler resends messages that the broker does not accept."""

import logging
from functools import partial
from typing import Final

from django.db import transaction
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from meta_reward_core.iteration import STAGES, Resource
from meta_reward_core.recipes.dataflow import STREAMED_INPUTS
from webapp.experiments.models import Shard, Stage
from webapp.health import read_queue_lengths
from workers.celery import app
from workers.pipeline import shard_claims

QUEUES: Final[dict[Resource, str]] = {"cpu": "cpu", "engine": "gpu", "trainer": "gpu"}

_QUEUE_OF_STAGE: Final = {stage.name: QUEUES[stage.resource] for stage in STAGES}
_BROKER_ERRORS: Final = (KombuError, RedisError, OSError)
NEVER: Final = 1e9
"""Seconds after which nothing is sent again."""

_log = logging.getLogger(__name__)


def send_shards(stage: Stage, *, again_after_seconds: float = NEVER) -> None:
    """Send a message for every waiting shard of a stage after the commit.

    Args:
        again_after_seconds: age at which a message counts as lost.
    """
    unsent = shard_claims.get_unsent_shards(again_after_seconds=again_after_seconds)
    for shard in unsent.filter(stage=stage, index__lt=stage.shard_count or 0):
        queue = _QUEUE_OF_STAGE[stage.name]
        transaction.on_commit(partial(_send_shard, shard, queue, again_after_seconds))


def send_following_shards(finished: Shard) -> None:
    """Send messages for the shards that a finished shard may have unblocked."""
    names = [name for name, inputs in STREAMED_INPUTS.items() if finished.stage.name in inputs]
    if not names:
        return
    running = shard_claims.get_running_stages().filter(
        iteration=finished.stage.iteration_id, name__in=names
    )
    unsent = shard_claims.get_unsent_shards(again_after_seconds=NEVER)
    for shard in unsent.filter(stage__in=running, index=finished.index).select_related("stage"):
        _send_shard(shard, _QUEUE_OF_STAGE[shard.stage.name], NEVER)


def _send_shard(shard: Shard, queue: str, again_after_seconds: float) -> None:
    if not shard_claims.mark_sent(shard, again_after_seconds=again_after_seconds):
        return
    try:
        app.send_task("workers.run_shard", args=[shard.pk], queue=queue)
    except _BROKER_ERRORS as error:
        shard_claims.mark_unsent(shard)
        _log.warning("could not send %s to the broker, will retry later: %s", shard, error)


def list_empty_queues() -> frozenset[str]:
    """List the queues without messages; none if the broker does not respond."""
    return frozenset(name for name, count in (read_queue_lengths() or {}).items() if count == 0)


def get_queue(stage: str) -> str:
    """Return the queue of a stage's shards."""
    return _QUEUE_OF_STAGE[stage]


def list_stages(queue: str) -> list[str]:
    """List the stages whose shards are in a queue."""
    return [name for name, its_queue in _QUEUE_OF_STAGE.items() if its_queue == queue]
