"""Sample an audit batch from an iteration."""

from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandParser

from meta_reward_core.cli.renamed_options import add_old_option
from meta_reward_core.errors import InputError
from meta_reward_core.review.stratified_sampling import STRATEGIES, STRATEGIES_BY_KIND
from webapp.audit.annotation_queue import get_possible_auditors
from webapp.audit.batch_sampling import BatchPlan, KnownAnswer
from webapp.audit.known_items import MAX_KNOWN_ITEMS, read_known_answers
from webapp.audit.models import MIN_ACCURACY, ItemKind
from webapp.audit.services import create_batch, format_unblinded_warning
from workers.management.base import handle_errors, open_console, require_tables
from workers.pipeline.read_experiment import find_row


class Command(BaseCommand):
    """`manage.py create_audit`."""

    help = (
        "Create a batch for blind human review: a sample of the items of an iteration with known "
        "sampling probabilities."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        add = parser.add_argument
        add("--experiment", required=True, metavar="NAME",
            help="Experiment to audit.")  # fmt: skip
        add("--iteration", type=int, required=True, metavar="N", help="Iteration to sample from.")
        add("--kind", choices=ItemKind.values, default=ItemKind.JUDGMENTS,
            help="Kind of items: two judgments to compare, or one response to score. "
                 "Default: judgments.")  # fmt: skip
        add("--strategy", choices=list(STRATEGIES), default="certainty",
            help="How the sample is stratified (docs/audit.md). Default: certainty.")  # fmt: skip
        add("--size", type=int, default=100, metavar="N",
            help="Number of distinct items. Default: 100.")  # fmt: skip
        add(
            "--seed",
            type=int,
            default=1,
            metavar="N",
            help="Random seed of the sample. Default: 1.",
        )
        same = add("--same-auditor-share", type=float, default=0.1, metavar="SHARE",
            help="Share of items that are shown to the same auditor twice. Default: "
                 "0.1.")  # fmt: skip
        other = add("--other-auditor-share", type=float, default=0.2, metavar="SHARE",
            help="Share of items that are also shown to a second auditor. Default: "
                 "0.2.")  # fmt: skip
        add("--show-score-lines", action="store_true",
            help="Show auditors the score lines of judgments.")  # fmt: skip
        reveal = add("--reveal-at-end", action="store_true",
            help="Reveal the verdicts of the meta-judge only after the last item.")  # fmt: skip
        add("--guidelines", default="", metavar="TEXT",
            help="Guidelines for auditors, in Markdown.")  # fmt: skip
        add("--adjudicated-items", type=int, default=0, metavar="N",
            help="Number of adjudicated items of the experiment that each auditor answers first. "
                 "They only measure the auditors' accuracy and affect no other result. Default: "
                 "0.")  # fmt: skip
        add("--known-answers", type=Path, metavar="FILE",
            help="CSV, JSON or JSON Lines file of items with known answers. Each auditor answers "
                 "these items first (docs/audit.md).")  # fmt: skip
        add("--min-accuracy", type=float, default=MIN_ACCURACY, metavar="SHARE",
            help="Flag auditors if the 95% confidence interval of their accuracy is below this. "
                 f"Default: {MIN_ACCURACY:g}.".replace("%", "%%"))  # fmt: skip
        add("--show-quality", action="store_true",
            help="Show auditors their own accuracy in answers that are final.")  # fmt: skip
        add("--auditor", action="append", default=[], metavar="USER",
            help="User to assign as an auditor. Repeatable.")  # fmt: skip
        add_old_option(parser, "--same-share", same)
        add_old_option(parser, "--other-share", other)
        add_old_option(parser, "--reveal-at-the-end", reveal)

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Create the batch and print its address."""
        console = open_console(self.stdout, no_color=options["no_color"])
        with handle_errors():
            require_tables()
            plan = _build_plan(options)
            experiment = find_row(options["experiment"])
            auditors = _find_auditors(options["auditor"])
            batch = create_batch(experiment, options["iteration"], plan, by=None, auditors=auditors)
            console.print(f"batch {batch.pk}: {batch.items.count()} items, /audits/{batch.pk}")
            if len(auditors) == 1 and plan.other_share:
                console.print(
                    "Only one auditor is assigned, so repeats for another auditor are omitted."
                )
            warning = format_unblinded_warning(auditors)
            if warning:
                console.print(warning)


def _build_plan(options: dict[str, Any]) -> BatchPlan:
    kind, strategy = options["kind"], options["strategy"]
    if strategy not in STRATEGIES_BY_KIND[kind]:
        known = ", ".join(STRATEGIES_BY_KIND[kind])
        raise InputError(f"--strategy {strategy} does not apply to {kind}: choose one of {known}")
    shares = [options["same_auditor_share"], options["other_auditor_share"]]
    if not all(0 <= share <= 1 for share in shares):
        raise InputError("--same-auditor-share and --other-auditor-share must be between 0 and 1")
    if not 0 <= options["min_accuracy"] <= 1:
        raise InputError("--min-accuracy must be between 0 and 1")
    if not 0 <= options["adjudicated_items"] <= MAX_KNOWN_ITEMS:
        raise InputError(f"--adjudicated-items must be between 0 and {MAX_KNOWN_ITEMS}")
    return BatchPlan(
        kind=kind,
        strategy=strategy,
        size=options["size"],
        seed=options["seed"],
        same_share=shares[0],
        other_share=shares[1],
        hides_score_lines=not options["show_score_lines"],
        reveals_at_once=not options["reveal_at_end"],
        guidelines=options["guidelines"],
        min_accuracy=options["min_accuracy"],
        shows_quality=options["show_quality"],
        adjudicated_items=options["adjudicated_items"],
        known_answers=_read_known_answers(options["known_answers"], kind),
    )


def _read_known_answers(path: Path | None, kind: str) -> tuple[KnownAnswer, ...]:
    if path is None:
        return ()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"could not read --known-answers {path}: {error.strerror}") from error
    found, left_out = read_known_answers(path.name, content, kind)
    if left_out:
        listed = "\n".join(f"  {one.where}: {one.reason}" for one in left_out)
        raise InputError(f"{len(left_out)} rows of {path} cannot be used:\n{listed}")
    return tuple(found)


def _find_auditors(names: list[str]) -> list[User]:
    found = {person.username: person for person in get_possible_auditors()}
    unknown = sorted(set(names) - found.keys())
    if unknown:
        raise InputError(f"{unknown[0]!r} is not an active account with the role auditor")
    return [found[name] for name in names]
