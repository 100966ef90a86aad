"""Read the environment: plain values, switches, and secrets that may lie in files instead."""

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured


def is_enabled(name: str) -> bool:
    """Whether a variable says yes."""
    return os.environ.get(name, "").lower() in {"1", "true", "yes"}


def read_list(name: str, default: str = "") -> list[str]:
    """Read words that are separated by commas."""
    return [entry.strip() for entry in os.environ.get(name, default).split(",") if entry.strip()]


def read_secret(name: str) -> str:
    """Read a secret: the variable itself, or the file that NAME_FILE names; "" without either.

    Raises:
        ImproperlyConfigured: both are given, or the file cannot be read or is empty.
    """
    value, file = os.environ.get(name, ""), os.environ.get(f"{name}_FILE", "")
    if value and file:
        raise ImproperlyConfigured(f"{name} and {name}_FILE are both set: keep one of them")
    if not file:
        return value
    try:
        found = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ImproperlyConfigured(
            f"{name}_FILE names a file that is unreadable: {error}"
        ) from None
    if not found:
        raise ImproperlyConfigured(f"{name}_FILE names {file}, which is empty")
    return found
