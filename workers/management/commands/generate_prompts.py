"""Generate prompts for the pool: 8-shot self-instruct from seed prompts."""

from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from meta_reward_core.cli.options import parse_positive_int
from meta_reward_core.cli.renamed_options import add_old_option
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
from meta_reward_core.recipes.prompt_templates import load_template
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.records import Prompt
from meta_reward_core.system.command_hint import format_command
from webapp.paths import get_storage_roots
from workers.management.base import ExemplifiedCommand, handle_errors, open_console
from workers.management.evaluate_options import parse_share, parse_temperature

_EXAMPLE = """\
example:
  python manage.py generate_prompts --seed-prompts seeds.jsonl --engine my-model \\
      --count 20000 --num-held-out 500 --held-out alpaca_eval.jsonl --output var/prompts
"""


class Command(ExemplifiedCommand):
    """`format_command.py generate_prompts`."""

    examples = _EXAMPLE
    help = (
        "Generate new prompts from seed prompts with a model. Near-duplicates, held-out prompts, "
        "prompts in other languages, and prompts that are too short or too long are dropped and "
        "counted by reason. Repeat the command to resume an interrupted run."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        add = parser.add_argument
        seed_prompts = add("--seed-prompts", type=Path, required=True, metavar="FILE",
            help=f"File of human-written prompts. Formats: {', '.join(FORMATS)}.")  # fmt: skip
        add("--engine", required=True, metavar="ENGINE",
            help="Model that writes the prompts: a model folder, a Hugging Face id, endpoint:NAME, "
                 "or scripted.")  # fmt: skip
        add("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE",
            help="Engine setting to change, such as dtype=bfloat16. Repeatable.")  # fmt: skip
        add("--count", type=parse_positive_int, required=True, metavar="N",
            help="Number of prompts to generate.")  # fmt: skip
        output = add("--output", type=Path, required=True, metavar="FOLDER",
            help="Output folder for prompts.jsonl, held_out.jsonl and left_out.jsonl.")  # fmt: skip
        held_out = add("--num-held-out", type=int, default=0, metavar="N",
            help="Number of generated prompts written to held_out.jsonl for evaluation. "
                 "Default: 0.")  # fmt: skip
        add("--held-out", type=Path, action="append", default=[], metavar="FILE",
            help="File of held-out prompts. Generated prompts that equal or nearly duplicate one "
                 "of them are dropped. Repeatable.")  # fmt: skip
        add("--language", action="append", metavar="CODE",
            help="Allowed language, such as en; any allows all languages. Repeatable. Default: "
                 "en.")  # fmt: skip
        min_chars = add("--min-chars", type=int, default=10, metavar="N",
            help="Minimum length of a prompt in characters. Default: 10.")  # fmt: skip
        max_chars = add("--max-chars", type=int, default=2000, metavar="N",
            help="Maximum length of a prompt in characters. Default: 2000.")  # fmt: skip
        threshold = add("--rouge-threshold", type=parse_share, default=SIMILARITY_THRESHOLD,
            metavar="SHARE",
            help="Minimum ROUGE-L at which a prompt counts as a near-duplicate of another. "
                 f"Default: {SIMILARITY_THRESHOLD}.")  # fmt: skip
        add("--template", default="self_instruct", metavar="NAME|FILE",
            help="Prompt template that contains {examples}. Default: self_instruct.")  # fmt: skip
        add("--shots", type=parse_positive_int, default=6, metavar="N",
            help="Number of seed prompts shown as examples. Default: 6.")  # fmt: skip
        generated = add("--generated-shots", type=int, default=2, metavar="N",
            help="Number of generated prompts shown as examples. Default: 2.")  # fmt: skip
        add("--samples", type=parse_positive_int, default=4, metavar="N",
            help="Number of completions per request. Default: 4.")  # fmt: skip
        add("--requests", type=parse_positive_int, default=16, metavar="N",
            help="Number of requests per round. Default: 16.")  # fmt: skip
        add("--temperature", type=parse_temperature, default=0.6,
            help="Sampling temperature. Default: 0.6.")  # fmt: skip
        add("--top-p", type=parse_share, default=0.9,
            help="Probability mass of nucleus sampling. Default: 0.9.")  # fmt: skip
        add("--max-new-tokens", type=parse_positive_int, default=512, metavar="N",
            help="Maximum tokens per completion. Default: 512.")  # fmt: skip
        add("--seed", type=int, default=0, metavar="N", help="Random seed. Default: 0.")
        add_old_option(parser, "--seeds", seed_prompts)
        add_old_option(parser, "--out", output)
        add_old_option(parser, "--hold-out", held_out)
        add_old_option(parser, "--least-chars", min_chars)
        add_old_option(parser, "--most-chars", max_chars)
        add_old_option(parser, "--similar", threshold)
        add_old_option(parser, "--own-shots", generated)

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Check everything, generate, write."""
        console = open_console(self.stdout, no_color=options["no_color"])
        with handle_errors(go_on="Run the same command again to resume."):
            _generate(options, console)


def _generate(options: dict[str, Any], console: Console) -> None:
    if not 0 <= options["num_held_out"] < options["count"]:
        raise InputError("--num-held-out must be smaller than --count")
    filters = _build_filters(options)
    shots = _build_shots(options)
    found_seeds = read_prompts(options["seed_prompts"])
    found_seeds.require_good_rows(options["seed_prompts"].name)
    seed_prompts = [prompt.text for prompt in found_seeds.prompts]
    out: Path = options["output"]
    with create_output_folder(out):
        require_writable(out / "prompts.jsonl")
        named = open_engine(
            options["engine"],
            roots=get_storage_roots(),
            kept=ArtifactStore(str(out / "kept")),
            changes=options["changes"],
            say=console.print,
        )
    found = generate_prompts(
        named.engine,
        seed_prompts,
        count=options["count"],
        shots=shots,
        filters=filters,
        seed=options["seed"],
        tell=lambda made, replies: console.print(f"{made:,} prompts from {replies:,} replies"),
    )
    named.engine.close()
    _write(out, found, options["num_held_out"])
    _show(console, found, options)


def _build_filters(options: dict[str, Any]) -> PromptFilters:
    languages = tuple(options["language"] or ("en",))
    languages = () if "any" in languages else languages
    check_languages(languages)
    return PromptFilters(
        min_chars=options["min_chars"],
        max_chars=options["max_chars"],
        languages=languages,
        rouge_threshold=options["rouge_threshold"],
        held_out=read_held_out(options["held_out"]),
    )


def _build_shots(options: dict[str, Any]) -> FewShotSettings:
    if options["generated_shots"] < 0:
        raise InputError("--generated-shots must be 0 or more")
    return FewShotSettings(
        template=load_template(options["template"], required=PLACEHOLDERS, allowed=PLACEHOLDERS),
        sampling=SamplingParams(
            options["temperature"], options["top_p"], options["max_new_tokens"]
        ),
        seed_prompts=options["shots"],
        generated=options["generated_shots"],
        requests=options["requests"],
        samples=options["samples"],
    )


def _write(out: Path, found: GenerationResult, hold_out: int) -> None:
    """Write the files; the hash of a prompt, not its position, decides whether it is held out."""
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
            f"only {len(found.prompts):,} of {options['count']:,}: the last rounds gave no "
            f"new prompts. Use more seed prompts, a higher --temperature, or another --seed."
        )
    if not found.prompts:
        return
    words = ["--experiment", "NAME", "--recipe", "paper-llama3-8b"]
    words += ["--prompts", f"{options['output']}/prompts.jsonl"]
    if options["num_held_out"]:
        words += ["--set", f"sample.held_out={options['output']}/held_out.jsonl"]
    console.print(f"next: {escape(format_command('run_iteration', *words))}", soft_wrap=True)
