"""Engines of the running workers; a form offers only these."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from webapp.experiments.progress import count_live_workers, list_offered_engines

_OPTIONAL: Final = "vllm"
"""The one engine whose package the project does not require."""


@dataclass(frozen=True, slots=True)
class EngineOffer:
    """Engines of the running workers.

    Attributes:
        kinds: kinds of engines; None while no running GPU worker reports them.
        workers: number of running workers.
    """

    kinds: frozenset[str] | None
    workers: int

    @classmethod
    def read(cls) -> "EngineOffer":
        """Read what the workers reported."""
        return cls(list_offered_engines(), count_live_workers())

    def find_error(self, kind: str) -> str:
        """Return why no running worker can run an engine; empty if one can or if unknown."""
        if self.kinds is None or kind in self.kinds:
            return ""
        return (
            f"No running worker has the engine {kind}. Choose {_join(sorted(self.kinds))}, or "
            f"start a worker in whose environment {kind} is installed."
        )

    def describe_wait(self, kind: str) -> str:
        """Explain what an experiment with this engine waits for; empty if a worker can start it."""
        if self.kinds is None and kind == _OPTIONAL:
            return (
                f"No running worker is known to have the engine {kind}. "
                "The experiment will wait until one starts."
            )
        if not self.workers:
            return "No workers are running. The experiment will wait until one starts."
        return ""

    def select_offered(self, kinds: Sequence[str], *, chosen: str) -> list[str]:
        """Select the engines to offer; keep the chosen one, so that its error can be shown."""
        if self.kinds is None:
            return list(kinds)
        return [kind for kind in kinds if kind in self.kinds or kind == chosen]


def _join(words: Sequence[str]) -> str:
    return " or ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])} or {words[-1]}"
