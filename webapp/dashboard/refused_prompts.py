"""Prompts of an iteration that an engine refused, for its page."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meta_reward_core.errors import ArtifactError
from meta_reward_core.reporting.summary import summarize_refusals
from meta_reward_core.storage.layout import get_iteration_name
from webapp.experiments.files import open_iteration_files
from webapp.experiments.models import Iteration

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RefusalView:
    """Refused prompts of one role.

    Attributes:
        csv: path of the complete list, relative to the experiment's folder.
        named: id, text and reason of the first refused prompts.
        unnamed: number of the remaining refused prompts.
    """

    role: str
    prompts: int
    csv: str
    named: Sequence[dict[str, Any]]
    unnamed: int


def list_refusals(iteration: Iteration) -> list[RefusalView]:
    """List the refused prompts of an iteration, which may still be running."""
    found = iteration.metrics.get("refused")
    if found is None:
        try:
            found = summarize_refusals(open_iteration_files(iteration.experiment, iteration.number))
        except ArtifactError as error:
            _log.warning("refused prompts cannot be read: %s", error)
            return []
    return [_make_view(one, iteration.number) for one in found]


def _make_view(one: dict[str, Any], number: int) -> RefusalView:
    return RefusalView(
        role=one["role"],
        prompts=one["prompts"],
        csv=f"{get_iteration_name(number)}/{one['table']}.csv",
        named=one["named"],
        unnamed=one["prompts"] - len(one["named"]),
    )
