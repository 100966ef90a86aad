"""Django's command line: `meta-reward`, `python -m workers`, and `manage.py` in a checkout."""

import os
import sys

from meta_reward_core.cli.renamed_options import show_deprecations_briefly
from webapp.paths import VAR_ROOT


def main() -> None:
    """Run one command."""
    try:
        from django.core.management import execute_from_command_line
    except ModuleNotFoundError:
        sys.exit(
            "the site's packages are not installed for this Python. In a checkout: make setup, "
            "then source .venv/bin/activate. Elsewhere: pip install 'meta-reward[web]', or use the "
            "core alone: meta-reward-core --help"
        )
    show_deprecations_briefly()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    VAR_ROOT.mkdir(mode=0o700, parents=True, exist_ok=True)  # the database has everybody's secrets
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
