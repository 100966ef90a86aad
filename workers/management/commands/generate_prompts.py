"""Make prompts for the pool: 8-shot self-instruct from seed instructions."""

from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from meta_reward_core.cli.options import parse_positive_int
from meta_reward_core.data.file_io import create_output_folder, require_writable
from meta_reward_core.data.prompt_files import read_prompts
from meta_reward_core.data.prompt_filters import (
    SIMILARITY_THRESHOLD,
    check_languages,
    compute_held_out_key,
    read_held_out,
)
from meta_reward_core.data.prompt_formats import FORMATS
from meta_reward_core.data.prompt_generation import (
    PLACEHOLDERS,
    FewShotSettings,
    GenerationResult,
    PromptFilters,
    generate_prompts,
)
from meta_reward_core.data.tabular_io import write_json_lines
from meta_reward_core.engines.base import SamplingParams
from meta_reward_core.errors import InputError
from meta_reward_core.planning.engine_spec import open_engine
from meta_reward_core.processes.command_hint import format_command
from meta_reward_core.recipes.prompt_templates import load_template
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.records import Prompt
from webapp.paths import get_storage_roots
from workers.management.base import ExemplifiedCommand, handle_errors, open_console
from workers.management.evaluate_options import parse_share, parse_temperature

_EXAMPLE = """\
example:
  python manage.py generate_prompts --seeds seeds.jsonl --engine my-model --count 20000 \\
      --hold-out 500 --held-out alpaca_eval.jsonl --out var/prompts
"""


class Command(ExemplifiedCommand):
    """`format_command.py generate_prompts`."""

    examples = _EXAMPLE
    help = (
        "Let a model write new prompts in the manner of seed instructions. Near-duplicates, other "
        "languages, what is too short or too long and what is held out are left out, and counted "
        "by reason. The same command goes on where it was stopped."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        add = parser.add_argument
        add("--seeds", type=Path, required=True, metavar="FILE",
            help=f"file of prompts written by people: {', '.join(FORMATS)}")  # fmt: skip
        add("--engine", required=True, metavar="ENGINE",
            help="who writes: a model folder, a hub's id, endpoint:NAME, scripted")  # fmt: skip
        add("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE",
            help="of the engine, such as dtype=bfloat16")  # fmt: skip
        add(
            "--count",
            type=parse_positive_int,
            required=True,
            metavar="N",
            help="prompts to make, all in all",
        )
        add("--out", type=Path, required=True, metavar="FOLDER",
            help="for prompts.jsonl, held_out.jsonl and left_out.jsonl")  # fmt: skip
        add("--hold-out", type=int, default=0, metavar="N",
            help="so many of them go to held_out.jsonl, for evaluation")  # fmt: skip
        add("--held-out", type=Path, action="append", default=[], metavar="FILE",
            help="prompts that are never made, nor anything near them; repeatable")  # fmt: skip
        add("--language", action="append", metavar="CODE",
            help="allowed languages, such as en; repeatable; any: all. Default: en")  # fmt: skip
        add("--least-chars", type=int, default=10, metavar="N", help="shorter ones are left out")
        add("--most-chars", type=int, default=2000, metavar="N", help="longer ones are left out")
        add("--similar", type=parse_share, default=SIMILARITY_THRESHOLD, metavar="SHARE",
            help="ROUGE-L from which a prompt repeats another; "
                 f"default: {SIMILARITY_THRESHOLD}")  # fmt: skip
        add("--template", default="self_instruct", metavar="NAME|FILE", help="with {examples}")
        add(
            "--shots",
            type=parse_positive_int,
            default=6,
            metavar="N",
            help="examples from the seeds",
        )
        add("--own-shots", type=int, default=2, metavar="N", help="examples of the model's own")
        add(
            "--samples",
            type=parse_positive_int,
            default=4,
            metavar="N",
            help="replies to each request",
        )
        add("--requests", type=parse_positive_int, default=16, metavar="N", help="of one round")
        add(
            "--temperature",
            type=parse_temperature,
            default=0.6,
            help="of the replies; default: 0.6",
        )
        add("--top-p", type=parse_share, default=0.9, help="of the replies; default: 0.9")
        add(
            "--max-new-tokens",
            type=parse_positive_int,
            default=512,
            metavar="N",
            help="of one reply",
        )
        add("--seed", type=int, default=0, metavar="N", help="of everything random")

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Check everything, generate, write."""
        console = open_console(self.stdout, no_color=options["no_color"])
        with handle_errors(go_on="The same command goes on where it was."):
            _generate(options, console)


def _generate(options: dict[str, Any], console: Console) -> None:
    if not 0 <= options["hold_out"] < options["count"]:
        raise InputError("--hold-out must be smaller than --count")
    filters = _build_filters(options)
    shots = _build_shots(options)
    found_seeds = read_prompts(options["seeds"])
    found_seeds.require_good_rows(options["seeds"].name)
    seeds = [prompt.text for prompt in found_seeds.prompts]
    out: Path = options["out"]
    with create_output_folder(out):
        require_writable(out / "prompts.jsonl")
        named = open_engine(
            options["engine"],
            places=get_storage_roots(),
            kept=ArtifactStore(str(out / "kept")),
            changes=options["changes"],
            say=console.print,
        )
    found = generate_prompts(
        named.engine,
        seeds,
        count=options["count"],
        shots=shots,
        filters=filters,
        seed=options["seed"],
        tell=lambda made, replies: console.print(f"{made:,} prompts from {replies:,} replies"),
    )
    named.engine.close()
    _write(out, found, options["hold_out"])
    _show(console, found, options)


def _build_filters(options: dict[str, Any]) -> PromptFilters:
    languages = tuple(options["language"] or ("en",))
    languages = () if "any" in languages else languages
    check_languages(languages)
    return PromptFilters(
        least_chars=options["least_chars"],
        most_chars=options["most_chars"],
        languages=languages,
        similar=options["similar"],
        held_out=read_held_out(options["held_out"]),
    )


def _build_shots(options: dict[str, Any]) -> FewShotSettings:
    if options["own_shots"] < 0:
        raise InputError("--own-shots counts from 0")
    return FewShotSettings(
        template=load_template(options["template"], required=PLACEHOLDERS, allowed=PLACEHOLDERS),
        sampling=SamplingParams(
            options["temperature"], options["top_p"], options["max_new_tokens"]
        ),
        seeds=options["shots"],
        own=options["own_shots"],
        requests=options["requests"],
        samples=options["samples"],
    )


def _write(out: Path, found: GenerationResult, hold_out: int) -> None:
    """Which prompts are held out is decided by their hashes, not by when they came."""
    ranked = sorted(
        (prompt for prompt, _ in found.prompts), key=lambda p: compute_held_out_key(p.text)
    )
    kept = {prompt.prompt_id for prompt in ranked[: min(hold_out, max(len(ranked) - 1, 0))]}
    rows = [_make_row(prompt, number) for prompt, number in found.prompts]
    write_json_lines(out / "prompts.jsonl", (r for r in rows if r["prompt_id"] not in kept))
    if kept:
        write_json_lines(out / "held_out.jsonl", (r for r in rows if r["prompt_id"] in kept))
    write_json_lines(
        out / "left_out.jsonl",
        (
            {"text": text, "reason": reason, "nearly_repeats": other}
            for text, reason, other in found.left_out
        ),
    )


def _make_row(prompt: Prompt, number: int) -> dict[str, Any]:
    return {
        "prompt": prompt.text,
        "prompt_id": prompt.prompt_id,
        "source": "generated",
        "round": number,
    }


def _show(console: Console, found: GenerationResult, options: dict[str, Any]) -> None:
    table = Table("replies", "of which", title_justify="left")
    table.add_row("became prompts", f"{len(found.prompts):,}")
    for reason, number in found.counts.items():
        table.add_row(f"left out: {reason}", f"{number:,}")
    console.print(table)
    if len(found.prompts) < options["count"]:
        console.print(
            f"only {len(found.prompts):,} of {options['count']:,}: the last rounds brought nothing "
            "new. Give more seeds, a higher --temperature, or another --seed."
        )
    if not found.prompts:
        return
    words = ["--experiment", "NAME", "--recipe", "paper-llama3-8b"]
    words += ["--prompts", f"{options['out']}/prompts.jsonl"]
    if options["hold_out"]:
        words += ["--set", f"sample.held_out={options['out']}/held_out.jsonl"]
    console.print(f"next: {escape(format_command('run_iteration', *words))}", soft_wrap=True)
