"""Fill an empty installation with demo accounts and a finished experiment."""

import secrets
from typing import Any, Final

from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandParser

from webapp.accounts.roles import ADMIN, AUDITOR, OPERATOR, VIEWER
from webapp.experiments.models import Experiment, Iteration, RunStatus
from workers.management.base import handle_errors, require_tables

PEOPLE: Final = {"vera": VIEWER, "olga": OPERATOR, "arthur": AUDITOR, "ada": ADMIN}


class Command(BaseCommand):
    """`manage.py create_demo`."""

    help = (
        "Create an account for each role and a finished experiment on the toy task, so that every "
        "page has data. Existing accounts and experiments are kept."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--experiment",
            default="demo",
            metavar="NAME",
            help="Experiment to create. Default: demo.",
        )
        parser.add_argument(
            "--recipe",
            default="smoke",
            metavar="NAME",
            help="Recipe. On a laptop, smoke takes about a minute and miniature several minutes. "
            "Default: smoke.",
        )
        parser.add_argument(
            "--iterations",
            type=int,
            default=2,
            metavar="N",
            help="Number of iterations. Default: 2.",
        )

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Create accounts, then run the experiment."""
        with handle_errors():
            require_tables()
        for name, role in PEOPLE.items():
            self._make_user(name, role)
        if _is_finished(options["experiment"], options["iterations"]):
            self.stdout.write(f"{options['experiment']} already exists")
            return
        wanted = {name: options[name] for name in ("experiment", "recipe", "iterations")}
        call_command("run_iteration", **wanted, verbosity=options["verbosity"])
        owner = User.objects.get(username="olga")
        Experiment.objects.filter(name=options["experiment"], owner=None).update(owner=owner)

    def _make_user(self, name: str, role: str) -> None:
        """Create an account; the password is shown once and stored nowhere."""
        if User.objects.filter(username=name).exists():
            self.stdout.write(f"{name} ({role}) already exists")
            return
        password = secrets.token_urlsafe(9)
        person = User.objects.create_user(name, password=password, is_staff=role == ADMIN)
        person.groups.add(Group.objects.get(name=role))
        self.stdout.write(f"{name} ({role}): password {password}")


def _is_finished(name: str, iterations: int) -> bool:
    finished = Iteration.objects.filter(experiment__name=name, status=RunStatus.FINISHED)
    return finished.count() >= iterations
