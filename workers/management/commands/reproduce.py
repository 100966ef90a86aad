"""Run all arms with all seeds, resuming interrupted runs, and write the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from django.core.management.base import CommandError, CommandParser
from rich.console import Console
from rich.markup import escape

from meta_reward_core.cli.options import parse_positive_int
from meta_reward_core.errors import InputError
from meta_reward_core.reporting.assemble import build_report
from meta_reward_core.reporting.document import Block, Notes, ReportTable, Text
from meta_reward_core.reporting.run_loader import Arm
from meta_reward_core.reporting.run_record import RunFingerprint
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.schemas import MEANING_VERSION
from meta_reward_core.tasks.toy.base_model import QUALITY_GATE, GateResult
from meta_reward_core.tasks.toy.task import WORLD_VERSION
from webapp.paths import VAR_ROOT, get_storage_roots
from webapp.reporting.rendering import write_report
from workers.management.base import (
    ExemplifiedCommand,
    handle_errors,
    open_console,
    require_tables,
)
from workers.reproduction.matrix import MatrixSpec, PlannedRun, compute_fingerprint, plan_runs
from workers.reproduction.records import RunRecords, SeedModelRecords
from workers.reproduction.run import (
    choose_seed_models,
    list_noisy_gates,
    prepare_seed_models,
    run_all,
)

PAPER_ARMS: Final = (
    "miniature",
    "miniature-judge-pairs-always",
    "miniature-self-rewarding",
    "miniature-self-rewarding-equal-steps",
    "miniature-no-length-control",
    "miniature-noisy-meta-judge",
)
"""Arms of the miniature paper; the others are compared with the first."""

_PAPER_SFT_SEEDS: Final = 3

_EXAMPLES: Final = """\
examples:
  the miniature paper: six arms, three base models, and five loop seeds for each; takes hours;
  repeat the command to resume it
    python manage.py reproduce --jobs 2

  two recipes over three seeds
    python manage.py reproduce --name mine --recipe miniature --recipe mine.yaml --seeds 3

  only the report of finished runs; their records are sufficient
    python manage.py reproduce --report-only --output docs/miniature_paper

"""


class Command(ExemplifiedCommand):
    """`manage.py reproduce`."""

    examples = _EXAMPLES
    help = (
        "Run every recipe (arm) with every seed, each as a separate experiment, and write a "
        "report of the differences between the arms. Repeat the command to resume an interrupted "
        "run of the matrix, also on another machine if it has the records of the finished runs."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        add = parser.add_argument
        add("--recipe", dest="recipes", action="append", metavar="NAME|FILE",
            help="Recipe of an arm. Repeatable. Default: the six arms of the miniature "
                 "paper.")  # fmt: skip
        add("--seeds", type=parse_positive_int, default=5, metavar="N",
            help="Number of loop seeds, from 1 to N. Default: 5.")  # fmt: skip
        add("--sft-seeds", type=parse_positive_int, metavar="N",
            help="Number of toy base models to use, each trained with another SFT seed. Only "
                 "models that pass the gate count. Default: 3 for the miniature paper; otherwise, "
                 "the models in the recipes are used.")  # fmt: skip
        add("--iterations", type=parse_positive_int, metavar="N",
            help="Number of iterations of each run. Default: that of the recipe.")  # fmt: skip
        add("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE",
            help="Setting to change in all recipes. Repeatable.")  # fmt: skip
        add("--prompts", type=Path, metavar="FILE",
            help="File of prompts, for recipes without a task that supplies them.")  # fmt: skip
        add("--name", default="paper", metavar="NAME",
            help="Prefix of the experiment names. Default: paper.")  # fmt: skip
        add("--jobs", type=parse_positive_int, default=1, metavar="N",
            help="Number of parallel runs. Default: 1.")  # fmt: skip
        add("--threads", type=parse_positive_int, default=1, metavar="N",
            help="Number of CPU threads for the libraries of each run. engine.threads of the "
                 "recipe also applies. Default: 1.")  # fmt: skip
        add("--baseline", metavar="RECIPE",
            help="Arm with which the other arms are compared: the name of its recipe. Default: the "
                 "first arm.")  # fmt: skip
        add("--output", type=Path, metavar="STEM",
            help="Path without extension: writes STEM.html and STEM.md. Default: var/reports/ "
                 "followed by the value of --name.")  # fmt: skip
        add("--records", type=Path, metavar="FOLDER",
            help="Folder for small records of finished runs and of the gates of base models. A run "
                 "with a valid record is not repeated, even on another machine. Default: the "
                 "folder `runs` below STEM.")  # fmt: skip
        add("--report-only", action="store_true",
            help="Write the report of finished runs without running anything.")  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Run, and report."""
        console = open_console(self.stdout, no_color=options["no_color"])
        with handle_errors(go_on="Run the same command again to resume."):
            require_tables()
            failed = _run_matrix(options, console)
        if failed:
            raise CommandError(f"{len(failed)} runs failed; the report lists them with the reasons")


def _run_matrix(options: dict[str, Any], console: Console) -> dict[str, str]:
    spec, roots = _build_spec(options), get_storage_roots()
    stem = options["output"] or VAR_ROOT / "reports" / spec.name
    folder = options["records"] or stem / "runs"
    spec.logs.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        console.print(escape(text), soft_wrap=True)

    seed_models = SeedModelRecords(roots.models, folder, say)

    def compute_basis(run: PlannedRun) -> RunFingerprint:
        tried = None if run.model is None else seed_models.find_or_record(run.model)
        return compute_fingerprint(spec, run, roots, variant=None if tried is None else tried.model)

    plan_runs(spec, [])  # rejects wrong names and recipes before the first training
    gates = choose_seed_models(spec, seed_models, train=not options["report_only"])
    runs = plan_runs(spec, gates)
    _check_baseline(options["baseline"], runs)
    records = RunRecords(folder, ArtifactStore(roots.artifacts), basis_of=compute_basis, say=say)
    failed: dict[str, str] = {}
    if not options["report_only"]:
        prepare_seed_models(spec, [run for run in runs if records.find(run) is None], seed_models)
        failed = run_all(spec, runs, records, say=say)
    document = build_report(
        _build_arms(runs, records, failed),
        title=f"Reproduction: {spec.name}",
        baseline=options["baseline"],
        foreword=_build_foreword(spec, gates, list_noisy_gates(runs, seed_models)),
    )
    for path in write_report(document, stem):
        say(f"wrote {path}")
    return failed


def _build_spec(options: dict[str, Any]) -> MatrixSpec:
    return MatrixSpec(
        name=options["name"],
        recipes=options["recipes"] or PAPER_ARMS,
        seeds=options["seeds"],
        sft_seeds=options["sft_seeds"] or (None if options["recipes"] else _PAPER_SFT_SEEDS),
        iterations=options["iterations"],
        changes=options["changes"],
        prompts=options["prompts"],
        jobs=options["jobs"],
        threads=options["threads"],
        logs=VAR_ROOT / "reports" / f"{options['name']}-logs",
        completion_cache=get_storage_roots().scratch / "draws" / options["name"],
    )


def _check_baseline(baseline: str | None, runs: Sequence[PlannedRun]) -> None:
    arms = list(dict.fromkeys(run.arm for run in runs))
    if baseline not in (None, *arms):
        raise InputError(f"--baseline must be one of {', '.join(arms)}")


def _build_arms(
    runs: Sequence[PlannedRun], records: RunRecords, failed: dict[str, str]
) -> list[Arm]:
    """Group finished runs by arm; unfinished ones are listed with the reason."""
    arms = []
    for label in dict.fromkeys(run.arm for run in runs):
        planned = [run for run in runs if run.arm == label]
        found = {run: records.find(run) for run in planned}
        unfinished = {
            run.name: failed.get(run.name)
            or _describe_progress(records.count_iterations(run), run.iterations)
            for run in planned
            if found[run] is None and (run.name in failed or records.count_iterations(run))
        }
        arms.append(Arm(label, list(filter(None, found.values())), unfinished, len(planned)))
    return arms


def _describe_progress(done: int, wanted: int) -> str:
    if done >= wanted:
        return "the existing record is not used; the command prints the reason"
    return f"{done} of {wanted} iterations are finished"


def _build_foreword(
    spec: MatrixSpec, gates: Sequence[GateResult], noisy: Sequence[GateResult]
) -> list[Block]:
    blocks: list[Block] = [
        Text(
            f"Planned: {len(spec.recipes)} arms, loop seeds 1 to {spec.seeds}"
            + (f", {spec.sft_seeds} seed models" if spec.sft_seeds else "")
            + ". The tables contain only completed runs; every value has its number of runs."
        ),
        Text(
            "Each run is a record with the hashes of its recipe, templates, prompts, seed model "
            f"and every model trained in it, made with version {WORLD_VERSION} of the toy task "
            f"and version {MEANING_VERSION} of the tables; other records are not used. Durations "
            "and package versions are those of the machine that made the run. All other "
            "values depend only on those hashes, as long as processors round in the same way."
        ),
    ]
    if gates:
        passed = sum(gate.passed for gate in gates)
        blocks += [
            _make_gate_table("The gate of the base models, in the order of attempts", gates),
            Text(
                f"{passed} of {len(gates)} SFT seeds passed: a meta-judge must be right in at "
                f"least {QUALITY_GATE.accuracy:.0%} of {QUALITY_GATE.comparisons} held-out "
                f"comparisons, with a difference between the positions of at most "
                f"{QUALITY_GATE.order_gap:.0%}. The gate uses the ground truth before the "
                f"loop starts; nothing in the loop does, neither training nor selection."
            ),
        ]
    if noisy:
        blocks += [
            _make_gate_table("The noisy base models at the same gate", noisy),
            Notes(
                [
                    "Their gate has no effect: in this arm the meta-judge is meant to be as "
                    "noisy as the judge."
                ]
            ),
        ]
    return blocks


def _make_gate_table(title: str, gates: Sequence[GateResult]) -> ReportTable:
    return ReportTable(
        title,
        ("SFT seed", "accuracy", "better one first", "better one second", "gate"),
        [
            (
                str(gate.sft_seed),
                f"{gate.accuracy:.3f}",
                f"{gate.accuracy_better_first:.3f}",
                f"{gate.accuracy_better_second:.3f}",
                "passed" if gate.passed else "failed",
            )
            for gate in gates
        ],
    )
