"""Score evaluation files: annotations, Arena-Hard judgments, MT-Bench, RewardBench, judges."""

import argparse
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from meta_reward_core.cli.renamed_options import add_old_option
from meta_reward_core.data.file_io import require_writable, write_json
from meta_reward_core.errors import DeprecatedNameWarning, EvaluationFileError
from meta_reward_core.evaluation import arena_hard_io, mt_bench
from meta_reward_core.evaluation.alpaca_eval_io import (
    LEADERBOARD_COLUMNS,
    add_difficulty,
    list_changed_cells,
    read_annotations,
    read_leaderboard,
    read_outputs_by_instruction,
    write_leaderboard,
)
from meta_reward_core.evaluation.arena_hard import score_arena
from meta_reward_core.evaluation.judge_benchmark import (
    compare_on_fixed_set,
    compare_on_own_responses,
)
from meta_reward_core.evaluation.reward_bench import read_scored_items, score_reward_bench
from meta_reward_core.evaluation.scorecard import (
    DataIssue,
    Metric,
    Scorecard,
    make_issue_if_any,
    serialize_scorecard,
)
from meta_reward_core.evaluation.win_rate import compute_repeat_deviation, score_annotations
from meta_reward_core.planning.engine_spec import require_experiment
from meta_reward_core.recipes.renamed_keys import describe_renamed
from meta_reward_core.reporting.scorecard_schema import ReferenceKind
from meta_reward_core.reporting.scorecard_store import (
    parse_model_spec,
    save_scorecard,
)
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.tasks.ifeval.benchmark import read_ifeval_items
from meta_reward_core.tasks.ifeval.run import score_outputs
from webapp.paths import get_storage_roots
from workers.management.base import ExemplifiedCommand, handle_errors, open_console
from workers.management.evaluate_options import (
    add_kind,
    declare_reference_type,
    declare_runs,
    run_benchmark,
)

_EXAMPLES = """\
examples:
  python manage.py evaluate annotations annotations.json --output scores.json
  python manage.py evaluate arena judgments.jsonl --version 2.0 --answers mine.jsonl base.jsonl \\
      --control length markdown
  python manage.py evaluate mt-bench gpt-4_single.jsonl --questions question.jsonl
  python manage.py evaluate reward-bench scored.jsonl
  python manage.py evaluate judge judgments.parquet --reference humans.jsonl
  python manage.py evaluate ifeval --data input_data.jsonl --outputs responses.jsonl
  python manage.py evaluate run ifeval --data input_data.jsonl --model my-model \\
      --output var/ifeval
  python manage.py evaluate run labelled-pairs --data llmbar --judge my-model \\
      --output var/llmbar
  python manage.py evaluate run alpaca --prompts mine.txt --model experiment:mine/M2 \\
      --baseline experiment:mine/M0 --judge endpoint:judge --output var/evaluation/mine-2
"""

Options = dict[str, Any]


class Command(ExemplifiedCommand):
    """`manage.py evaluate`."""

    examples = _EXAMPLES
    help = (
        "Compute benchmark metrics, with 95% confidence intervals, from files of annotations or "
        "judgments in the benchmarks' public formats. `run` first generates the responses and "
        "judgments. Data issues that limit the metrics are listed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare a subcommand for each kind of evaluation."""
        kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
        _declare_annotations(add_kind(kinds, "annotations", "AlpacaEval-style win rates"))
        _declare_arena(add_kind(kinds, "arena", "Arena-Hard-style scores"))
        _declare_mt_bench(add_kind(kinds, "mt-bench", "MT-Bench-style scores"))
        _declare_reward_bench(add_kind(kinds, "reward-bench", "RewardBench-style accuracy"))
        _declare_judge(add_kind(kinds, "judge", "agreement of a judge with a reference"))
        _declare_ifeval(add_kind(kinds, "ifeval", "IFEval checks of existing responses"))
        declare_runs(
            add_kind(
                kinds,
                "run",
                "generate responses and judgments with models, and compute the metrics",
            )
        )
        for name, kind in kinds.choices.items():
            saved = kind.add_argument("--save-to", metavar="EXPERIMENT/M<t>",
                help="Save the metrics as an evaluation of this model, for `manage.py "
                "report`.")  # fmt: skip
            add_old_option(kind, "--keep", saved)
            if name == "run":  # its output is a folder, which contains the scores
                kind.add_argument("--json", type=Path, help=argparse.SUPPRESS)
                continue
            output = kind.add_argument("--output", type=Path, metavar="FILE",
                help="Output file for the metrics, in JSON.")  # fmt: skip
            add_old_option(kind, "--json", output)

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Score, print, and write if requested."""
        console = open_console(self.stdout, no_color=options["no_color"])
        with handle_errors(go_on="Run the same command again to resume."):
            metrics_file = _get_metrics_file(options)
            require_writable(metrics_file)
            saved = options["save_to"]
            place = None if saved is None else parse_model_spec(saved)
            if options["kind"] == "run":
                cards = run_benchmark(options, get_storage_roots(), console)
            else:
                cards = _SCORERS[options["kind"]](options)
            for card in cards:
                print_scorecard(console, card)
            if metrics_file is not None:
                write_json(metrics_file, _to_json(options["kind"], cards))
            if place is not None:
                _save_scorecards(cards, *place, reference=options.get("reference_type"))


def _get_metrics_file(options: Options) -> Path | None:
    """Return the output file for metrics; `run` always writes into its folder."""
    if options["kind"] != "run":
        output: Path | None = options["output"]
        return output
    old: Path | None = options["json"]
    if old is not None:
        new = "--output FOLDER, which contains scores.json"
        warnings.warn(describe_renamed("--json", new), DeprecatedNameWarning, stacklevel=2)
    return old


def _save_scorecards(
    cards: Sequence[Scorecard], experiment: str, number: int, *, reference: ReferenceKind | None
) -> None:
    kinds = {(card.model, card.benchmark) for card in cards}
    if len({card.model for card in cards}) != 1 or len(kinds) != len(cards):
        raise EvaluationFileError(
            f"--save-to saves the metrics of one model, but there are {len(cards)} scorecards: "
            "evaluate one model at a time."
        )
    store = ArtifactStore(get_storage_roots().artifacts)
    for card in cards:
        save_scorecard(store, experiment, number, card, reference=reference)


def _declare_annotations(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", type=Path, metavar="FILE",
        help="File of annotations: annotations.json of alpaca_eval.")  # fmt: skip
    add(
        "--model",
        metavar="NAME",
        help="Model to score (generator_2), if the file contains several.",
    )
    add("--annotator", metavar="NAME", help="Annotator to use, if the file contains several.")
    add("--model-outputs", type=Path, metavar="FILE",
        help="File of the model's outputs, checked against the annotations.")  # fmt: skip
    add("--baseline-outputs", type=Path, metavar="FILE",
        help="File of the baseline's outputs, checked against the annotations.")  # fmt: skip
    add("--difficulty", type=Path, metavar="CSV",
        help="File with the difficulty of each instruction.")  # fmt: skip
    add("--repeats", type=Path, nargs="+", default=[], metavar="FILE",
        help="Files of repeated annotations of the same outputs, used to compute the standard "
             "deviation of the win rate.")  # fmt: skip
    add("--mode", default="community", metavar="TEXT",
        help="Value of the leaderboard's mode column. Default: community.")  # fmt: skip
    add("--leaderboard", type=Path, metavar="CSV",
        help="Leaderboard file to which the model's row is added.")  # fmt: skip
    add("--replace-row", action="store_true",
        help="Replace the model's existing leaderboard row if its metrics differ.")  # fmt: skip
    add("--rounds", type=_parse_rounds, default=100, metavar="N",
        help="Number of bootstrap rounds. Default: 100.")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="Seed of the bootstrap. Default: 0.")


def _declare_arena(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help="Files of judgments, in JSON Lines.")
    add("--version", choices=["0.1", "2.0"], default="0.1",
        help="Version of the benchmark. Default: 0.1.")  # fmt: skip
    add("--baseline", metavar="NAME", help="Baseline model; required for version 0.1.")
    add("--category", nargs="+", default=[], metavar="NAME",
        help="Categories to score. Default: all.")  # fmt: skip
    add("--answers", type=Path, nargs="+", default=[], metavar="FILE",
        help="Files of answers of the models and the baseline, used for style control and to "
             "detect answers that manipulate the judge.")  # fmt: skip
    add("--questions", type=Path, metavar="FILE", help="File of questions: question.jsonl.")
    add("--control", nargs="+", choices=["length", "markdown"], default=[],
        help="Style features to control for.")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="Seed of the bootstrap. Default: 0.")


def _declare_mt_bench(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="FILE",
        help="Files of single-answer judgments.")  # fmt: skip
    add("--questions", type=Path, metavar="FILE",
        help="File of questions (question.jsonl), used for metrics by category.")  # fmt: skip
    add("--answers", type=Path, nargs="+", default=[], metavar="FILE",
        help="Files of the models' answers, used to detect answers that manipulate the "
             "judge.")  # fmt: skip


def _declare_reward_bench(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", type=Path, metavar="FILE",
        help="File of items. It must include scores unless --scores is given.")  # fmt: skip
    add("--scores", type=Path, metavar="FILE",
        help="File whose rows have the fields id and scores.")  # fmt: skip
    add("--judge", metavar="NAME", help="Name of the judge, if the file does not contain it.")


def _declare_judge(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", type=Path, nargs="?", metavar="FILE",
        help="File of the judge's scores or verdicts on a fixed set of responses.")  # fmt: skip
    add("--reference", type=Path, metavar="FILE",
        help="File with the reference for FILE: scores or verdicts of humans or a stronger model, "
             "or the export of an audit.")  # fmt: skip
    add("--experiment", metavar="NAME",
        help="Experiment whose own judgments are also compared with a reference. Results are "
             "reported separately from the fixed set.")  # fmt: skip
    add("--own-reference", type=Path, nargs="+", default=[], metavar="FILE",
        help="Files with the reference for the responses or judgments of "
             "--experiment.")  # fmt: skip
    declare_reference_type(parser)


def _declare_ifeval(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        required=True,
        metavar="FILE",
        help="File of items: input_data.jsonl of IFEval.",
    )
    add("--outputs", type=Path, required=True, metavar="FILE",
        help="File whose rows have the fields prompt and response.")  # fmt: skip
    add("--model", metavar="NAME", help="Display name of the model. Default: the file name.")


def _parse_rounds(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError("needs at least 2 rounds")
    return value


def _score_annotations(options: Options) -> list[Scorecard]:
    board = options["leaderboard"]
    require_writable(board)
    rows = read_leaderboard(board) if board is not None and board.exists() else {}
    card = _score_annotation_file(options["file"], options)
    repeats = [_score_annotation_file(path, options | {"rounds": 2}) for path in options["repeats"]]
    card = replace(card, metrics=(*card.metrics, compute_repeat_deviation([card, *repeats])))
    if board is None:
        return [card]
    columns = {name: card.columns[name] for name in LEADERBOARD_COLUMNS}
    changes = list_changed_cells(rows.get(card.model, {}), columns)
    if changes and not options["replace_row"]:
        raise EvaluationFileError(
            f"{board.name}: has a row of {card.model} with different metrics "
            f"({', '.join(changes)}); pass --replace-row to replace it, or choose another file."
        )
    write_leaderboard(board, rows | {card.model: columns})
    return [replace(card, issues=(*card.issues, *_report_replaced_row(changes)))]


def _report_replaced_row(changes: Sequence[str]) -> list[DataIssue]:
    return make_issue_if_any(
        changes,
        "leaderboard_row_replaced",
        "Values of the leaderboard row that were replaced: {rows} (" + ", ".join(changes) + ").",
        "They were from another machine or from other annotations.",
    )


def _score_annotation_file(path: Path, options: Options) -> Scorecard:
    annotations = read_annotations(
        path,
        model=options["model"],
        annotator=options["annotator"],
        outputs=read_outputs_by_instruction(options["model_outputs"]),
        baseline_outputs=read_outputs_by_instruction(options["baseline_outputs"]),
    )
    if options["difficulty"] is not None:
        annotations = add_difficulty(options["difficulty"], annotations)
    return score_annotations(
        annotations, mode=options["mode"], rounds=options["rounds"], seed=options["seed"]
    )


def _score_arena(options: Options) -> list[Scorecard]:
    questions = options["questions"]
    return score_arena(
        arena_hard_io.read_judgments(
            options["files"],
            version=options["version"],
            baseline=options["baseline"],
            categories=options["category"],
        ),
        version=options["version"],
        controls=options["control"],
        answers=arena_hard_io.read_answers(options["answers"]),
        questions=arena_hard_io.read_questions(questions) if questions is not None else None,
        seed=options["seed"],
    )


def _score_mt_bench(options: Options) -> list[Scorecard]:
    questions = options["questions"]
    return mt_bench.score_mt_bench(
        mt_bench.read_turn_judgments(options["files"]),
        questions=mt_bench.read_questions(questions) if questions is not None else None,
        answers=mt_bench.read_answers(options["answers"]),
    )


def _score_reward_bench(options: Options) -> list[Scorecard]:
    scored = read_scored_items(options["file"], scores=options["scores"], judge=options["judge"])
    return [score_reward_bench(scored)]


def _score_judge(options: Options) -> list[Scorecard]:
    """Score the judge out of distribution, then in distribution, as requested."""
    file, reference, name = options["file"], options["reference"], options["experiment"]
    if (file is None) != (reference is None) or (name is None) == bool(options["own_reference"]):
        raise EvaluationFileError(
            "specify a FILE with its --reference, an --experiment with its --own-reference, "
            "or both."
        )
    cards = []
    if file is not None:
        if file.resolve() == reference.resolve():
            raise EvaluationFileError(
                "judge and reference are the same file, so they always agree."
            )
        cards.append(compare_on_fixed_set(file, reference))
    if name is not None:
        experiment = require_experiment(name, get_storage_roots())
        cards += compare_on_own_responses(experiment, options["own_reference"])
    if not cards:
        raise EvaluationFileError("specify a FILE and its --reference; see --help.")
    return cards


def _score_ifeval(options: Options) -> list[Scorecard]:
    outputs: Path = options["outputs"]
    items = read_ifeval_items(options["data"])
    return [score_outputs(items, outputs, model=options["model"] or outputs.stem)]


_SCORERS: dict[str, Callable[[Options], list[Scorecard]]] = {
    "annotations": _score_annotations,
    "arena": _score_arena,
    "mt-bench": _score_mt_bench,
    "reward-bench": _score_reward_bench,
    "judge": _score_judge,
    "ifeval": _score_ifeval,
}


def _to_json(kind: str, cards: Sequence[Scorecard]) -> Any:
    """Return a single object if the file has one model, else a list."""
    found = [serialize_scorecard(card) for card in cards]
    return found if kind in ("arena", "mt-bench", "run") or len(found) != 1 else found[0]


def print_scorecard(console: Console, card: Scorecard) -> None:
    """Print a scorecard as a table, with its issues below."""
    against = f" against {card.baseline}" if card.baseline else ""
    judge = f", judged by {card.judge}" if card.judge and card.judge != card.model else ""
    title = escape(f"{card.model}{against}{judge} ({card.benchmark})")
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("metric")
    for heading in ("value", "interval (95%)", "from"):
        table.add_column(heading, justify="right")
    for metric in card.metrics:
        table.add_row(
            escape(metric.name),
            _format_value(metric),
            _format_interval(metric),
            f"{metric.count:,}",
        )
    console.print(table)
    for metric in card.metrics:
        if metric.absent is not None:
            console.print(f"  no {escape(metric.name)}: {escape(metric.absent)}", soft_wrap=True)
    for issue in card.issues:
        console.print(
            f"  [bold]note:[/bold] {escape(issue.sentence)} {escape(issue.advice)}",
            soft_wrap=True,
        )


def _format_value(metric: Metric) -> str:
    if metric.value is None:
        return "–"
    return f"{metric.value:,}" if isinstance(metric.value, int) else f"{metric.value:.4f}"


def _format_interval(metric: Metric) -> str:
    if metric.low is None or metric.high is None:
        return ""
    return f"{metric.low:.2f} to {metric.high:.2f}"
