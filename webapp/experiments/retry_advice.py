"""Settings that an error message says to change, with their values and a proposal."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from meta_reward_core.planning.settings_change import FIXED_FIELDS
from meta_reward_core.recipes.canonical import restore_names
from meta_reward_core.recipes.dataflow import flatten_values

_KEY: Final = re.compile(r"\b[a-z_]+(?:\.[a-z_0-9]+)+\b")


@dataclass(frozen=True, slots=True)
class RetryAdvice:
    """A setting to change before a retry.

    Attributes:
        current: its value; `proposed` is a value to try, empty if none can be derived.
    """

    key: str
    current: str
    proposed: str

    @property
    def query(self) -> str:
        """Query of the settings page that fills in the proposal."""
        return urlencode({f"recipe.{self.key}": self.proposed}) if self.proposed else ""

    @property
    def anchor(self) -> str:
        """Id of its field on the settings page."""
        return f"recipe-{self.key.replace('.', '-')}"

    @property
    def proposed_text(self) -> str:
        """The proposal, with separators of thousands."""
        return f"{int(self.proposed):,}" if self.proposed else ""


def find_retry_advice(message: str, recipe: Mapping[str, Any]) -> RetryAdvice | None:
    """Find the first setting that a message names; None if it names none that can be changed."""
    values = flatten_values(restore_names(recipe))
    for key in _KEY.findall(message):
        if key in values and key not in FIXED_FIELDS:
            return RetryAdvice(key, _write(values[key]), _propose(key, values[key], message))
    return None


def _propose(key: str, value: Any, message: str) -> str:
    """Propose half or twice the value if the message says to lower or raise it."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        return ""
    said = message.casefold()
    if f"lower {key}" in said and value > 1:
        return str(value // 2)
    return str(value * 2) if f"raise {key}" in said else ""


def _write(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
