#!/usr/bin/env python
"""Django's command line: `python manage.py help`."""

import os
import sys

from django.core.management import execute_from_command_line

from webapp.places import VAR_ROOT


def main() -> None:
    """Run one command."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    VAR_ROOT.mkdir(parents=True, exist_ok=True)
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
