"""A model that answers or judges in an evaluation."""

from dataclasses import dataclass
from functools import cached_property

from meta_reward_core.engines.completion_cache import CachingEngine
from meta_reward_core.experiment import Experiment


@dataclass(frozen=True)
class NamedEngine:
    """Somebody who answers or judges.

    Attributes:
        name: under which answers or judgments go.
        engine: keeps what it draws; loaded at the first thing that is missing.
        experiment: whose model it is, if it is an experiment's.
    """

    name: str
    engine: CachingEngine
    experiment: Experiment | None = None

    @cached_property
    def training_prompt_ids(self) -> frozenset[str]:
        """Hashes of the instructions that the experiment trains on; none without one."""
        if self.experiment is None:
            return frozenset()
        return frozenset(self.experiment.files(0).read("prompts")["prompt_id"].to_pylist())
