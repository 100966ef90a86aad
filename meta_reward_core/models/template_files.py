"""Find the chat templates of a model folder, as transformers does."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from meta_reward_core.errors import MalformedInputError
from meta_reward_core.system.untrusted_input import parse_json

TEMPLATE_FILE: Final = "chat_template.jinja"
MORE_TEMPLATES_FOLDER: Final = "additional_chat_templates"
DEFAULT_TEMPLATE: Final = "default"
_CONFIG: Final = "tokenizer_config.json"
_DATE_FUNCTION: Final = "strftime_now"


@dataclass(frozen=True, slots=True)
class ChatTemplateFile:
    """A chat template of a model folder.

    Attributes:
        name: name of the template; the one named `default` renders conversations.
        file: the file that contains the template, relative to the folder.
    """

    name: str
    file: str
    text: str


def read_chat_templates(folder: Path) -> list[ChatTemplateFile]:
    """Read all chat templates of a folder's tokenizer.

    Separate template files take precedence over `tokenizer_config.json`. `chat_template.json`
    belongs to processors and is not read by tokenizers. Unreadable files count as empty.
    """
    files = {path.stem: path for path in sorted((folder / MORE_TEMPLATES_FOLDER).glob("*.jinja"))}
    if (folder / TEMPLATE_FILE).is_file():
        files[DEFAULT_TEMPLATE] = folder / TEMPLATE_FILE
    if files:
        texts = {name: _read_text(path) for name, path in files.items()}
        return [
            ChatTemplateFile(name, files[name].relative_to(folder).as_posix(), text)
            for name, text in texts.items()
            if text is not None
        ]
    named = _list_named(_read_object(folder / _CONFIG).get("chat_template"))
    return [ChatTemplateFile(name, _CONFIG, text) for name, text in named]


def find_unused_template(folder: Path) -> str | None:
    """Find a default template in `tokenizer_config.json` that another file overrides."""
    if not (folder / TEMPLATE_FILE).is_file():
        return None
    named = dict(_list_named(_read_object(folder / _CONFIG).get("chat_template")))
    return named.get(DEFAULT_TEMPLATE)


def reads_date(template: str) -> bool:
    """Whether a template reads the current date."""
    return _DATE_FUNCTION in template


def choose_chat_date(folder: Path) -> str | None:
    """Return today as YYYY-MM-DD if a template of the folder reads the date, else None.

    An experiment stores it, because otherwise its prompts would change every day.
    """
    if any(reads_date(template.text) for template in read_chat_templates(folder)):
        return datetime.now().astimezone().date().isoformat()
    return None


def _list_named(templates: Any) -> list[tuple[str, str]]:
    """List named templates, in both forms of tokenizer_config.json."""
    if isinstance(templates, str):
        return [(DEFAULT_TEMPLATE, templates)]
    if isinstance(templates, list):
        entries = [entry for entry in templates if isinstance(entry, Mapping)]
        return [
            (entry["name"], entry["template"])
            for entry in entries
            if isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)
        ]
    if isinstance(templates, Mapping):
        return [(str(name), text) for name, text in templates.items() if isinstance(text, str)]
    return []


def _read_text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _read_object(file: Path) -> Mapping[str, Any]:
    try:
        values = parse_json(_read_text(file) or "", nan_is_null=True, leave_scalars=True)
    except MalformedInputError:
        return {}
    return values if isinstance(values, dict) else {}
