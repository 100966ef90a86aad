"""Where artifacts, models and scratch files are stored."""

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StorageRoots:
    """Folders of artifacts, models and scratch files.

    Attributes:
        artifacts: root of all experiments, any fsspec address.
        models: folder under which models may be loaded from.
        scratch: private folder for what is only needed while it is being made.
        hub_token: with which models are fetched; None for what the hub's client finds itself.
    """

    artifacts: str
    models: Path
    scratch: Path
    hub_token: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls) -> "StorageRoots":
        """Read META_REWARD_ARTIFACT_ROOT, _MODEL_ROOT and _SCRATCH_ROOT; defaults below `var`."""
        return cls(
            artifacts=os.environ.get("META_REWARD_ARTIFACT_ROOT", "var/artifacts"),
            models=Path(os.environ.get("META_REWARD_MODEL_ROOT", "var/models")),
            scratch=Path(os.environ.get("META_REWARD_SCRATCH_ROOT", "var/scratch")),
        )
