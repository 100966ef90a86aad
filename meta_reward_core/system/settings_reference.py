"""`python -m meta_reward_core.system.settings_reference`: docs/settings.md, from the code."""

import sys
from collections.abc import Iterator
from typing import Any, Final

from pydantic.fields import FieldInfo

from meta_reward_core.system.settings import (
    DEPLOYMENT_VARIABLES,
    Settings,
    get_expected,
    get_variable_name,
    is_secret,
)

_HEAD: Final = """\
# Settings

Settings are environment variables. They can also be set in a file named `.env`, with lines of the
form `NAME=VALUE`, in the folder where a command runs; environment variables take precedence. An
empty value counts as not set. The file is refused if users other than its owner can change it.

All settings are validated when a command starts. Each invalid setting is reported with its value
and the expected values; values of secrets are never shown. An unknown `META_REWARD_` variable
causes a warning that suggests the most similar name.

Secrets are marked with *. A secret can also be read from a file: set a variable with the suffix
`_FILE`, such as `DATABASE_URL_FILE`, to the path of the file.

`python -m meta_reward_core.system.settings_reference` generates this page; a test keeps it up to
date.
"""

_LIBRARIES: Final = {
    "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY": "Credentials for the bucket of the artifact root.",
    "AWS_SHARED_CREDENTIALS_FILE": "File that contains these credentials.",
    "AWS_DEFAULT_REGION": "Region of the bucket.",
    "CUDA_VISIBLE_DEVICES": "GPUs that a worker may use; indices as shown by nvidia-smi, unless "
    "CUDA_DEVICE_ORDER is set.",
    "HF_HUB_OFFLINE": "1: never contact the Hub. Models must then be in `META_REWARD_MODEL_ROOT`.",
    "HF_HUB_DISABLE_XET": "1: do not use Xet, for mirrors of the Hub that do not support it.",
}


def write_reference() -> str:
    """Write the page."""
    lines = [_HEAD]
    for section in dict.fromkeys(_get_extra(field)["section"] for field in _iter_fields()):
        lines += [
            f"## {section}\n",
            "| variable | default | accepts | meaning |",
            "|---|---|---|---|",
        ]
        lines += [_format_row(f) for f in _iter_fields() if _get_extra(f)["section"] == section]
        lines.append("")
    lines += ["## Variables of libraries\n", "| variable | meaning |", "|---|---|"]
    lines += [_format_meaning(name, text) for name, text in _LIBRARIES.items()]
    lines += ["", "## Docker Compose and Slurm\n"]
    lines += [
        "Only files in `docker/` read these variables ([docker.md](docker.md), "
        "[clusters.md](clusters.md)).\n"
    ]
    lines += ["| variable | meaning |", "|---|---|"]
    lines += [_format_meaning(name, text) for name, text in DEPLOYMENT_VARIABLES.items()]
    return "\n".join(lines) + "\n"


def _iter_fields() -> Iterator[FieldInfo]:
    yield from Settings.model_fields.values()


def _get_extra(field: FieldInfo) -> dict[str, Any]:
    extra: Any = field.json_schema_extra
    return dict(extra)


def _format_row(field: FieldInfo) -> str:
    mark = " *" if is_secret(field) else ""
    cells = [f"`{get_variable_name(field)}`{mark}", _format_default(field), get_expected(field)]
    return "| " + " | ".join([*cells, field.description or ""]) + " |"


def _format_default(field: FieldInfo) -> str:
    shown = _get_extra(field)["shown"]
    if shown is not None:
        return str(shown)
    if isinstance(field.default, tuple):
        return ", ".join(f"`{name}`" for name in field.default) or "none"
    if isinstance(field.default, bool):
        return f"`{int(field.default)}`"
    is_number = isinstance(field.default, float)
    return f"`{field.default:g}`" if is_number else f"`{field.default}`"


def _format_meaning(names: str, meaning: str) -> str:
    return f"| {', '.join(f'`{name}`' for name in names.split(', '))} | {meaning} |"


if __name__ == "__main__":
    sys.stdout.write(write_reference())
