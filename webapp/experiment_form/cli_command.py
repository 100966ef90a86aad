"""The command that does what the form asks for."""

import shlex

from meta_reward_core.processes.command_hint import format_command
from webapp.experiment_form.form_state import LaunchFormState


def build_cli_command(sheet: LaunchFormState) -> str:
    """Write the form as a command; empty as long as it is not ready, or where it is a duplicate.

    A recipe that was sent as a text, and prompts, are named as files that the person has.
    """
    if not sheet.is_ready or sheet.base.origin is not None:
        return ""
    given = sheet.form.cleaned_data
    options: list[tuple[str, object]] = [
        ("--experiment", given["name"]),
        ("--recipe", sheet.base.name or "recipe.yaml"),
        *(("--set", change) for change in sheet.draft.changes),
        ("--iterations", given["until"]),
        ("--seed", given["seed"]),
    ]
    if sheet.prompts.found is not None:
        options.append(("--prompts", sheet.prompts.called.replace("pasted text", "prompts.txt")))
    written = [f"{name} {shlex.quote(str(value))}" for name, value in options]
    return " \\\n    ".join([format_command("run_iteration", "--queue"), *written])
