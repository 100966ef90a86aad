"""Where artifacts, models and scratch files are stored."""

from dataclasses import dataclass, field
from pathlib import Path

from meta_reward_core.system.settings import read_settings


@dataclass(frozen=True, slots=True)
class StorageRoots:
    """Folders of artifacts, models and scratch files.

    Attributes:
        artifacts: root of all experiments, at any fsspec address.
        models: folder below which models may be loaded.
        scratch: private folder for temporary files.
        hub_token: Hub token for downloading models; None: the token that the Hub's client finds.
    """

    artifacts: str
    models: Path
    scratch: Path
    hub_token: str | None = field(default=None, repr=False)

    @classmethod
    def from_settings(cls) -> "StorageRoots":
        """Return the roots in the settings.

        Raises:
            SettingsError: the settings are wrong.
        """
        given = read_settings()
        return cls(
            artifacts=given.artifact_root,
            models=given.model_root,
            scratch=given.scratch_root,
            hub_token=given.hf_token.get_secret_value() or None,
        )
