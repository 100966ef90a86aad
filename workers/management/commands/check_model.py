"""Check whether a model can be used for a recipe."""

from typing import Any

from django.core.management.base import CommandParser

from meta_reward_core.cli.check_model import (
    CHECK_EXIT_CODES,
    add_check_options,
    check_named_model,
)
from meta_reward_core.data.file_io import require_writable, write_json
from webapp.paths import get_storage_roots
from workers.management.base import ExemplifiedCommand, handle_errors, open_console

_EXAMPLES = """\
examples:
  python manage.py check_model my-model
  python manage.py check_model my-model --recipe paper-llama3-8b --prompts prompts.jsonl

"""


class Command(ExemplifiedCommand):
    """`manage.py check_model`."""

    examples = _EXAMPLES + CHECK_EXIT_CODES
    requires_system_checks = ()  # system checks load every page
    help = (
        "Check whether a model can be used for a recipe: files, parameters, tokenizer, chat "
        "template, and the limits of the recipe. Weights are not loaded. The same check runs "
        "automatically when an experiment is created."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        add_check_options(parser)

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Check the model, print each result, and refuse an unusable model."""
        console = open_console(self.stdout, no_color=options["no_color"])
        console.quiet = options["verbosity"] == 0

        def write(report: Any) -> None:
            if options["output"] is not None:
                write_json(options["output"], report)

        with handle_errors():
            require_writable(options["output"])
            check_named_model(options, get_storage_roots(), console, write=write)
