"""Draw an audit batch from an iteration."""

from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandParser

from meta_reward_core.errors import InputError
from meta_reward_core.review.stratified_sampling import STRATEGIES, STRATEGIES_BY_KIND
from webapp.audit.annotation_queue import get_possible_auditors
from webapp.audit.batch_sampling import BatchPlan
from webapp.audit.models import ItemKind
from webapp.audit.services import create_batch, format_unblinded_warning
from workers.management.base import handle_errors, open_console, require_tables
from workers.pipeline.read_experiment import find_row


class Command(BaseCommand):
    """`manage.py create_audit`."""

    help = "Draw items of an iteration that people shall judge blind, each with a known chance."

    def add_arguments(self, parser: CommandParser) -> None:
        """What a form of the site asks for."""
        parser.add_argument(
            "--experiment", required=True, metavar="NAME", help="whose work is judged"
        )
        parser.add_argument(
            "--iteration", type=int, required=True, metavar="N", help="whose files are drawn from"
        )
        parser.add_argument(
            "--kind",
            choices=ItemKind.values,
            default=ItemKind.JUDGMENTS,
            help="which of two judgments is better, or how good a response is",
        )
        parser.add_argument(
            "--strategy",
            choices=list(STRATEGIES),
            default="certainty",
            help="what the strata are made by (docs/audit.md)",
        )
        parser.add_argument("--size", type=int, default=100, help="distinct items")
        parser.add_argument("--seed", type=int, default=1, help="of the draw")
        parser.add_argument("--same-share", type=float, default=0.1,
                            help="share of items that come again to the same auditor")  # fmt: skip
        parser.add_argument("--other-share", type=float, default=0.2,
                            help="share of items that come again to another auditor")  # fmt: skip
        parser.add_argument(
            "--show-score-lines",
            action="store_true",
            help="do not cut the lines in which judgments name their points",
        )
        parser.add_argument(
            "--reveal-at-the-end",
            action="store_true",
            help="tell the meta-judge's verdicts after the last item, not after each",
        )
        parser.add_argument(
            "--guidelines", default="", help="guidelines in Markdown, shown beside each item"
        )
        parser.add_argument("--auditor", action="append", default=[], help="repeat for several")

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Draw the batch and say where it is."""
        console = open_console(self.stdout, no_color=options["no_color"])
        with handle_errors():
            require_tables()
            plan = _build_plan(options)
            experiment = find_row(options["experiment"])
            auditors = _find_auditors(options["auditor"])
            batch = create_batch(experiment, options["iteration"], plan, by=None, auditors=auditors)
            console.print(f"batch {batch.pk}: {batch.items.count()} items, /audits/{batch.pk}")
            warning = format_unblinded_warning(auditors)
            if warning:
                console.print(warning)


def _build_plan(options: dict[str, Any]) -> BatchPlan:
    kind, strategy = options["kind"], options["strategy"]
    if strategy not in STRATEGIES_BY_KIND[kind]:
        known = ", ".join(STRATEGIES_BY_KIND[kind])
        raise InputError(f"--strategy {strategy} is none for {kind}: choose from {known}")
    shares = [options["same_share"], options["other_share"]]
    if not all(0 <= share <= 1 for share in shares):
        raise InputError("--same-share and --other-share lie between 0 and 1")
    return BatchPlan(
        kind=kind,
        strategy=strategy,
        size=options["size"],
        seed=options["seed"],
        same_share=shares[0],
        other_share=shares[1],
        hides_score_lines=not options["show_score_lines"],
        reveals_at_once=not options["reveal_at_the_end"],
        guidelines=options["guidelines"],
    )


def _find_auditors(names: list[str]) -> list[User]:
    found = {person.username: person for person in get_possible_auditors()}
    unknown = sorted(set(names) - found.keys())
    if unknown:
        raise InputError(f"{unknown[0]!r} is no active account with the role auditor")
    return [found[name] for name in names]
