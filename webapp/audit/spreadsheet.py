"""Cells that a spreadsheet takes as text, whatever a model or a person wrote into them."""

from typing import Final

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_GUARD: Final = "'"


def guard_cell(value: object) -> str:
    """Write a value so that no spreadsheet computes it; numbers stay numbers."""
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return str(value)
    text = str(value)
    if text.lstrip(" ").startswith(_FORMULA) or text.startswith(_GUARD):
        return _GUARD + text
    return text


def unguard_cell(text: str) -> str:
    """What was in a cell before it was guarded."""
    return text.removeprefix(_GUARD)
