"""Check whether the installation works, with an exit code for supervisors."""

import json
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Final

import httpx2
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from webapp.experiments.models import Worker
from webapp.experiments.progress import SILENT_SECONDS
from webapp.health import check_health
from workers.ops.host import get_machine_name

_OK: Final = 200
_PATIENCE_SECONDS: Final = 15.0
"""Timeout of a request: a busy site is not broken, and container health checks allow 30 s."""


class Command(BaseCommand):
    """`manage.py health`."""

    help = (
        "Check the database, the broker, the workers and the queued work. The exit code is 1 if a "
        "check fails."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--worker",
            action="store_true",
            help="Check only that a worker of this machine is alive.",
        )
        parser.add_argument(
            "--site",
            metavar="URL",
            help="Check only that the site at URL responds and reaches its database.",
        )

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Run the checks."""
        if options["worker"]:
            _require_worker()
            self.stdout.write("ok")
            return
        if options["site"]:
            _require_site(options["site"])
            self.stdout.write("ok")
            return
        found = check_health()
        self.stdout.write(json.dumps(asdict(found), indent=1))
        if found.problems:
            raise CommandError("; ".join(found.problems))


def _require_worker() -> None:
    heard = timezone.now() - timedelta(seconds=SILENT_SECONDS)
    if not Worker.objects.filter(host=get_machine_name(), heartbeat__gte=heard).exists():
        raise CommandError(f"no worker of {get_machine_name()} has sent a recent heartbeat")


def _require_site(url: str) -> None:
    """Request a page internally, by a valid host name."""
    name = next((host for host in settings.ALLOWED_HOSTS if host.strip("*.")), "localhost")
    try:
        answer = httpx2.get(
            f"{url.rstrip('/')}/healthz",
            headers={"Host": name.lstrip(".")},
            timeout=_PATIENCE_SECONDS,
        )
    except httpx2.HTTPError as error:
        raise CommandError(f"the site does not respond: {error}") from error
    if answer.status_code != _OK:
        raise CommandError(f"the site returned {answer.status_code}: {answer.text[:200]}")
