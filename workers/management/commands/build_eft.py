"""Build evaluation fine-tuning (EFT) data for `train_seed` from human-ranked answers."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from meta_reward_core.cli.options import parse_positive_int
from meta_reward_core.cli.renamed_options import add_old_option
from meta_reward_core.data.eft_dataset import EftData, build_eft, read_ranked
from meta_reward_core.data.file_io import require_writable
from meta_reward_core.data.prompt_filters import read_held_out
from meta_reward_core.data.tabular_io import write_json_lines
from meta_reward_core.engines.base import SamplingParams
from meta_reward_core.errors import InputError
from meta_reward_core.planning.engine_spec import open_engine
from meta_reward_core.recipes.prompt_templates import load_template
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.system.command_hint import format_command
from webapp.paths import get_storage_roots
from workers.management.base import ExemplifiedCommand, handle_errors, open_console
from workers.management.evaluate_options import (
    declare_judge_prompt,
    make_progress_printer,
    parse_share,
    parse_temperature,
)

_EXAMPLE = """\
example:
  python manage.py build_eft --ranked ranked.jsonl --judge my-ift-model --output eft.jsonl \\
      --held-out held_out.jsonl
  python manage.py train_seed --model my-model --data eft.jsonl --data ift.jsonl \\
      --held-out held_out.jsonl --output my-seed --validation-share 0.1 \\
      --checkpoint-selection lowest_validation_loss
"""


class Command(ExemplifiedCommand):
    """`format_command.py build_eft`."""

    examples = _EXAMPLE
    help = (
        "Score human-ranked responses with a judge, several times each, and keep the judgments "
        "whose scores rank the responses as humans do. Repeat the command to resume an "
        "interrupted run."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        add = parser.add_argument
        add("--ranked", type=Path, required=True, metavar="FILE",
            help="File of ranked responses. Its rows have the fields instruction, response and "
                 "rank, or prompt, responses and ranks.")  # fmt: skip
        add("--judge", required=True, metavar="ENGINE",
            help="Judge: a model folder, a Hugging Face id, endpoint:NAME, or "
                 "scripted.")  # fmt: skip
        add("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE",
            help="Engine setting to change for the judge, such as dtype=bfloat16. "
                 "Repeatable.")  # fmt: skip
        add("--output", type=Path, required=True, metavar="FILE",
            help="Output file for the selected judgments, in JSON Lines.")  # fmt: skip
        add("--held-out", type=Path, action="append", default=[], metavar="FILE",
            help="File of prompts reserved for evaluation, which are left out. "
                 "Repeatable.")  # fmt: skip
        declare_judge_prompt(parser)
        add("--samples", type=parse_positive_int, default=4, metavar="N",
            help="Number of judgments per response. Default: 4.")  # fmt: skip
        max_share = add("--max-share", type=parse_share, default=1.0, metavar="SHARE",
            help="Maximum share of rows with the same score. Default: 1 (no limit).")  # fmt: skip
        add("--temperature", type=parse_temperature, default=0.8,
            help="Sampling temperature of judgments. Default: 0.8.")  # fmt: skip
        add("--top-p", type=parse_share, default=0.95,
            help="Probability mass of nucleus sampling. Default: 0.95.")  # fmt: skip
        add("--max-new-tokens", type=parse_positive_int, default=1024, metavar="N",
            help="Maximum tokens per judgment. Default: 1024.")  # fmt: skip
        add("--seed", type=int, default=0, metavar="N", help="Random seed. Default: 0.")
        add_old_option(parser, "--most-share", max_share)

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Check everything, judge, and write the data."""
        console = open_console(self.stdout, no_color=options["no_color"])
        with handle_errors(go_on="Run the same command again to resume."):
            _build(options, console)


def _build(options: dict[str, Any], console: Console) -> None:
    output: Path = options["output"]
    require_writable(output)
    readout = options["score_readout"]
    if readout == "expected":
        raise InputError(
            "--score-readout expected gives scores that the judgments do not contain, but a "
            "judge is trained on its judgments: use forced or free"
        )
    template = load_template(options["template"], required=frozenset({"instruction", "response"}))
    rubric = load_template(options["rubric"]).text
    ranked = read_ranked(options["ranked"])
    held_out = read_held_out(options["held_out"])
    named = open_engine(
        options["judge"],
        roots=get_storage_roots(),
        kept=ArtifactStore(str(output.with_name(f"{output.name}.kept"))),
        changes=options["changes"],
        say=console.print,
    )
    data = build_eft(
        named.engine,
        ranked,
        template=template,
        rubric=rubric,
        samples=options["samples"],
        sampling=SamplingParams(
            options["temperature"], options["top_p"], options["max_new_tokens"]
        ),
        seed=options["seed"],
        held_out=held_out,
        max_score=options["max_score"],
        readout=readout,
        max_share=options["max_share"],
        tell=lambda total: make_progress_printer(console, "judge", total),
    )
    named.engine.close()
    _show(console, data)
    if not data.rows:
        raise InputError("no judgment ranks the responses as humans do, so no file was written")
    write_json_lines(output, map(asdict, data.rows))
    typed = format_command("train_seed", "--data", str(output), "...")
    console.print(f"next: {escape(typed)}", soft_wrap=True)


def _show(console: Console, data: EftData) -> None:
    table = Table("judgments", f"{data.judgments:,}", title_justify="left")
    table.add_row("kept", f"{len(data.rows):,}")
    scores = Counter(round(row.score) for row in data.rows)
    _add_rows(table, "kept with points", dict(sorted(scores.items())))
    _add_rows(table, "not kept", data.not_kept)
    _add_rows(table, "prompts left out", data.left_out)
    console.print(table)


def _add_rows(table: Table, what: str, numbers: Mapping[Any, int]) -> None:
    for name, number in numbers.items():
        table.add_row(f"{what}: {name}", f"{number:,}")
