"""Build the indexes of result pages in advance.

At the paper's scale, the first page of an iteration takes many seconds to read. Index parts depend
only on files, so every process builds the same ones, and pages build missing parts.
"""

import logging
import threading
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from django.db import DatabaseError, close_old_connections

from meta_reward_core.errors import MetaRewardError
from webapp.experiments.models import Iteration, StageStatus
from webapp.results.iteration_reader import open_iteration
from webapp.results.prompt_index import build_index_parts

EVERY_SECONDS: Final = 5.0

RunKey = tuple[int, datetime | None, str]

_log = logging.getLogger(__name__)


def start_indexing() -> None:
    """Start a thread that builds indexes until this process ends."""
    threading.Thread(target=index_forever, daemon=True).start()


def index_forever() -> None:
    """Build the indexes of iterations as they appear, until the process ends."""
    seen: set[RunKey] = set()
    while True:
        close_old_connections()
        try:
            index_new(seen)
        except DatabaseError as error:
            _log.warning("the database does not respond: %s", error)
        except Exception:  # noqa: BLE001 pages build what is missing here
            _log.exception("results could not be prepared; the pages will prepare them when opened")
        time.sleep(EVERY_SECONDS)


def index_new(seen: set[RunKey]) -> int:
    """Build the index of every iteration with pairs, once per state; return the number of parts.

    Args:
        seen: states of iterations already indexed; this call adds its own.
    """
    made = 0
    new = {run[0]: run for run in _select_paired() if run not in seen}
    found = Iteration.objects.filter(pk__in=new).select_related("experiment").order_by("pk")
    for iteration in found:
        seen.add(new[iteration.pk])
        try:
            made += build_index_parts(open_iteration(iteration.experiment, iteration.number))
        except MetaRewardError as error:
            _log.warning("results of %s could not be prepared: %s", iteration, error)
    return made


def _select_paired() -> Iterable[RunKey]:
    """Select iterations with pairs: before that, each completed stage would change every part."""
    done = (StageStatus.FINISHED, StageStatus.SKIPPED)
    found = Iteration.objects.filter(stages__name="pair_judge", stages__status__in=done)
    return found.order_by("pk").values_list("pk", "started", "status")
