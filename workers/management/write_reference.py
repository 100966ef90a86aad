"""`python -m workers.management.write_reference`: write reference pages and the sizing table."""

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import django
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand, DjangoHelpFormatter

from workers.management.hardware_table import insert_sizing

_DOCS: Final = Path(__file__).parents[2] / "docs"
_OURS: Final = ("workers", "webapp")
_HELP: Final = {"--help"}
_DJANGOS: Final = DjangoHelpFormatter.show_last | _HELP
_HEAD: Final = """\
# {title}

{text}

`python -m workers.management.write_reference` generates this page; a test keeps it up to date.
"""


_EXAMPLE: Final = """\
## Example

Set `TOKEN` to a token with the scope *run*, and write the body of the request into a file, \
`launch.json`:

```json
{"name": "mine", "recipe": "smoke", "until": 1, "seed": 7, "values": {"actor.samples": 3}}
```

Create the experiment. The response has status 202 and describes a job, including its `id`:

```
curl --header "Authorization: Bearer $TOKEN" --json @launch.json \\
    http://127.0.0.1:8000/api/v1/experiments
```

Poll the job, here with the id 12. While it is `waiting` or `running`, repeat the request. If its \
`status` is `refused`, `message` states the reason. When it is `done`, poll the status of the \
experiment until `is_active` is false:

```
curl --header "Authorization: Bearer $TOKEN" http://127.0.0.1:8000/api/v1/jobs/12
curl --header "Authorization: Bearer $TOKEN" http://127.0.0.1:8000/api/v1/experiments/mine/status
```

Fields of the body of `POST /api/v1/experiments` (`LaunchIn`). Only `name` is required; other \
omitted fields have the recipe's values:
"""


def write_commands() -> str:
    """Generate the page of our `manage.py` commands."""
    ours = sorted(name for name, app in get_commands().items() if _is_ours(app))
    text = "Commands of `python manage.py`, with the options that `--help` shows."
    return "\n".join([_HEAD.format(title="Commands", text=text), *map(_describe_command, ours)])


def _is_ours(app: str | BaseCommand) -> bool:
    return isinstance(app, str) and app.split(".")[0] in _OURS


def _describe_command(name: str) -> str:
    command = load_command_class(str(get_commands()[name]), name)
    parser = command.create_parser("manage.py", name)
    return "\n".join(_iter_help_lines(parser, f"manage.py {name}", level=2))


def _iter_help_lines(parser: argparse.ArgumentParser, title: str, *, level: int) -> Iterator[str]:
    """Yield the heading, description, options, and subcommands."""
    yield f"{'#' * level} {title}\n"
    yield f"{_clean_text(parser.description)}\n"
    hidden = _DJANGOS if level == 2 else _HELP
    own = [
        action
        for action in parser._actions
        if action.help != argparse.SUPPRESS and not hidden & set(action.option_strings)
    ]
    below = [action for action in own if isinstance(action, argparse._SubParsersAction)]
    rows = [_format_option(action) for action in own if action not in below]
    if rows:
        yield "\n".join(["| option | description |", "|---|---|", *rows, ""])
    for action in below:
        for name, one in action.choices.items():
            yield from _iter_help_lines(one, f"{title} {name}", level=level + 1)


def _format_option(action: argparse.Action) -> str:
    names = ", ".join(action.option_strings) or action.metavar or action.dest
    shown = f"{names} {_format_value(action)}".strip().replace("|", r"\|")
    needed = " (required)" if action.required and action.option_strings else ""
    return f"| `{shown}` | {_clean_text(action.help)}{needed} |"


def _format_value(action: argparse.Action) -> str:
    if action.nargs == 0 or not action.option_strings:
        return ""
    if action.choices is not None and not action.metavar:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return str(action.metavar or action.dest.upper())


def _clean_text(text: str | None) -> str:
    return " ".join((text or "").replace("%%", "%").replace("|", r"\|").split())


def write_api() -> str:
    """Generate the page of all operations under `/api/v1/`."""
    from webapp.api.ninja_api import api

    found: Any = api.get_openapi_schema()
    text = (
        "Operations under `/api/v1/`; `/api/v1/openapi.json` describes them with all fields."
        " Create a token on the page *Tokens* and send it as `Authorization: Bearer TOKEN`."
        " A token has the permissions of its owner."
    )
    rows: dict[bool, list[str]] = {False: [], True: []}
    for path, methods in found["paths"].items():
        for method, one in methods.items():
            cells = (f"`{method.upper()} {path}`", _get_first_paragraph(one), _format_body(one))
            rows[one.get("deprecated", False)].append(f"| {' | '.join(cells)} |")
    fields = [
        f"| `{name}` | {_clean_text(one.get('description'))} |"
        for name, one in found["components"]["schemas"]["LaunchIn"]["properties"].items()
    ]
    columns = ["| operation | what it does | body |", "|---|---|---|"]
    return "\n".join(
        [
            _HEAD.format(title="API", text=text),
            _EXAMPLE,
            *("| field | description |", "|---|---|", *fields, ""),
            *("## Operations", "", *columns, *rows[False], ""),
            *("## Deprecated operations", "", *columns, *rows[True], ""),
        ]
    )


def _get_first_paragraph(operation: Mapping[str, Any]) -> str:
    """Return the first paragraph of the operation's docstring."""
    return _clean_text(operation.get("description", operation["summary"]).partition("\n\n")[0])


def _format_body(operation: Mapping[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    names = [one["schema"].get("$ref", "").rpartition("/")[2] for one in content.values()]
    return ", ".join(f"`{name}`" for name in names if name)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    django.setup()
    (_DOCS / "commands.md").write_text(write_commands(), encoding="utf-8")
    (_DOCS / "api.md").write_text(write_api(), encoding="utf-8")
    tutorial = _DOCS / "tutorial.md"
    tutorial.write_text(insert_sizing(tutorial.read_text(encoding="utf-8")), encoding="utf-8")
