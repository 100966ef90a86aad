"""The storage roots that the settings name."""

from pathlib import Path

from django.conf import settings

from meta_reward_core.storage.roots import StorageRoots


def get_storage_roots() -> StorageRoots:
    """Where the settings say that things lie."""
    return StorageRoots(
        artifacts=settings.META_REWARD_ARTIFACT_ROOT,
        models=Path(settings.META_REWARD_MODEL_ROOT),
        scratch=Path(settings.META_REWARD_SCRATCH_ROOT),
        hub_token=settings.META_REWARD_HF_TOKEN or None,
    )
