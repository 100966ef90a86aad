"""Prompt templates: text files with named placeholders, filled in a single pass.

This module does not depend on the meaning of the texts. A value is never interpreted: a response
that contains `{instruction}`, `%s`, `$x` or template code of any kind is inserted unchanged.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Final

from meta_reward_core.errors import TemplateError

PLACEHOLDERS: Final = frozenset({"instruction", "response", "rubric", "judgment_a", "judgment_b"})
"""All placeholders that templates of the loop may use."""

_PLACEHOLDER = re.compile(r"\{(\s*[A-Za-z_][A-Za-z0-9_]*\s*)\}")
_DOUBLED_BRACES = re.compile(r"\{\{\s*[A-Za-z_][A-Za-z0-9_]*\s*\}\}")
_NAME = re.compile(r"[a-z0-9_]+")
_METADATA = "#:"


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """A prompt with placeholders to fill.

    Attributes:
        name: the file from which it was read, for messages.
        text: the prompt, without the metadata lines.
        metadata: the header lines (`#: source: ...`), without their mark.
        placeholders: the names that occur in the text.
        allowed: the names that may occur.
        sha256: SHA-256 of the text in hexadecimal, as recorded in manifests.
    """

    name: str
    text: str
    metadata: tuple[str, ...] = ()
    allowed: frozenset[str] = PLACEHOLDERS
    placeholders: frozenset[str] = field(init=False)
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        """Find the placeholders.

        Raises:
            TemplateError: the text is empty or has a placeholder that is not allowed.
        """
        object.__setattr__(
            self, "placeholders", _check_placeholders(self.name, self.text, self.allowed)
        )
        object.__setattr__(self, "sha256", hashlib.sha256(self.text.encode()).hexdigest())

    def fill(self, **values: str) -> str:
        """Insert each value verbatim into its placeholders; others are ignored.

        Raises:
            TemplateError: a placeholder has no value.
        """
        missing = sorted(self.placeholders - values.keys())
        if missing:
            raise TemplateError(
                f"{self.name}: no value was given for {_format_names(missing)}; pass it to fill()."
            )
        return _fill_placeholders(self.text, values)


def load_template(
    name_or_path: str | Path,
    *,
    required: frozenset[str] = frozenset(),
    allowed: frozenset[str] = PLACEHOLDERS,
    more: Mapping[str, str] | None = None,
) -> PromptTemplate:
    """Load a template from the package (`judge`) or from a text file (`./my_judge.txt`).

    A string without a folder and without a suffix is the name of a template of the package or in
    `more`.

    Args:
        name_or_path: a name in `meta_reward_core/recipes/prompts`, or the path of a UTF-8 text
        file.
        required: placeholders that must occur.
        allowed: placeholders that may occur.
        more: additional templates by name, such as those of a task.

    Raises:
        TemplateError: the file cannot be read, is empty, has an unknown placeholder or lacks a
            required one; the message gives the file, the placeholder and the remedy.
    """
    source, content = _read_template(name_or_path, more or {})
    metadata, text = _split_header(content)
    template = PromptTemplate(name=source, text=text, metadata=metadata, allowed=allowed)
    missing = sorted(required - template.placeholders)
    if missing:
        raise TemplateError(
            f"{source}: {_format_names(missing)} is missing; write it where the text should appear."
        )
    return template


def is_shipped_name(name: str) -> bool:
    """Whether a name can only refer to a built-in template: no folder, no suffix."""
    return _NAME.fullmatch(name) is not None


def list_package_templates() -> list[str]:
    """List the names of the shipped templates."""
    folder = files("meta_reward_core.recipes") / "prompts"
    return sorted(f.name[:-4] for f in folder.iterdir() if f.name.endswith(".txt"))


def _read_template(name_or_path: str | Path, more: Mapping[str, str]) -> tuple[str, str]:
    """Read a template; return its path and its text with Unix line ends and without a BOM."""
    if isinstance(name_or_path, str) and name_or_path in more:
        return name_or_path, _unify_line_ends(more[name_or_path])
    is_name = isinstance(name_or_path, str) and is_shipped_name(name_or_path)
    source = f"{name_or_path}.txt" if is_name else str(name_or_path)
    file = files("meta_reward_core.recipes") / "prompts" / source if is_name else Path(name_or_path)
    try:
        content = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        known = ", ".join([*list_package_templates(), *sorted(more)])
        raise TemplateError(
            f"{source if is_name else Path(source).absolute()}: template not found; use the "
            f"path of a text file or one of: {known}."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(
            f"{source}: cannot be read as UTF-8 text ({error}); save it as a UTF-8 file."
        ) from error
    return source, _unify_line_ends(content)


def _unify_line_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _split_header(content: str) -> tuple[tuple[str, ...], str]:
    """Split the metadata lines at the top from the prompt below, without blank lines around it."""
    lines = content.split("\n")
    header = 0
    while header < len(lines) and lines[header].startswith(_METADATA):
        header += 1
    metadata = tuple(line.removeprefix(_METADATA).strip() for line in lines[:header])
    return metadata, "\n".join(lines[header:]).strip("\n")


def _check_placeholders(name: str, text: str, allowed: frozenset[str]) -> frozenset[str]:
    """Return the placeholders of a text and refuse unknown placeholders."""
    if not text.strip():
        raise TemplateError(f"{name}: the template is empty; write the prompt into it.")
    doubled = _DOUBLED_BRACES.search(text)
    if doubled is not None:
        raise TemplateError(
            f"{name}: {doubled.group()} has doubled braces; "
            "write single ones, like {instruction}."
        )
    found = frozenset(_PLACEHOLDER.findall(text))
    unknown = sorted(found - allowed)
    if unknown:
        use = f"use {_format_names(sorted(allowed))}, or write" if allowed else "write"
        raise TemplateError(
            f"{name}: {_format_names(unknown)} is not a known placeholder; {use} the word "
            f"without braces."
        )
    return found


def _fill_placeholders(text: str, values: Mapping[str, str]) -> str:
    # One pass over the template only: inserted text is never scanned for placeholders.
    return _PLACEHOLDER.sub(lambda place: values[place.group(1)], text)


def _format_names(names: list[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)
