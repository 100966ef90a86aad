"""Folders of this installation: its own files, and the roots of what it stores."""

import hashlib
import os
import tempfile
from pathlib import Path

from django.conf import settings
from django.http import HttpRequest

from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.system.settings import read_settings

BASE_DIR = Path(__file__).resolve().parent.parent

STATIC_SOURCES = BASE_DIR / "webapp" / "static"
# In a checkout, a link to the top-level folder; a wheel contains the files themselves.
TEMPLATE_ROOT = BASE_DIR / "webapp" / "templates"

VAR_ROOT = read_settings().var


def get_runtime_folder() -> Path:
    """Return a folder for sockets, the same for every process of this user's installation.

    A socket's path is limited to 107 bytes, so it cannot be below `VAR_ROOT`.
    """
    installation = hashlib.sha256(os.fsencode(VAR_ROOT)).hexdigest()[:10]
    return Path(tempfile.gettempdir()) / f"meta-reward-{os.geteuid()}-{installation}"


def add_documentation_url(_: HttpRequest) -> dict[str, str]:
    """Context processor: the URL of the documentation; empty if it is not built."""
    return {"documentation_url": settings.DOCUMENTATION_URL}


def get_storage_roots() -> StorageRoots:
    """Return the storage roots in the settings."""
    return StorageRoots(
        artifacts=settings.META_REWARD_ARTIFACT_ROOT,
        models=Path(settings.META_REWARD_MODEL_ROOT),
        scratch=Path(settings.META_REWARD_SCRATCH_ROOT),
        hub_token=settings.META_REWARD_HF_TOKEN or None,
    )
