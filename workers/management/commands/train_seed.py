"""Train a base model: fine-tune a model on evaluation and instruction data (EFT and IFT)."""

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from django.core.management.base import CommandParser
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from meta_reward_core.cli.renamed_options import add_old_option
from meta_reward_core.data.prompt_filters import HeldOutPrompts, read_held_out
from meta_reward_core.data.sft_dataset import read_sft_rows
from meta_reward_core.errors import InputError
from meta_reward_core.planning.base_model import resolve_base_model
from meta_reward_core.recipes.renamed_keys import RENAMED_KEYS
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.recipes.training_settings import LoraSettings, SftSettings
from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.system.command_hint import format_command
from meta_reward_core.training.row_types import SftRow
from webapp.paths import get_storage_roots
from workers.management.base import ExemplifiedCommand, handle_errors, open_console

_EXAMPLE = """\
example:
  python manage.py train_seed --model my-model --data eft.jsonl --data ift.jsonl \\
      --output my-seed --epochs 2 --learning-rate 1e-5 --dtype float32
"""


class Command(ExemplifiedCommand):
    """`format_command.py train_seed`."""

    examples = _EXAMPLE
    help = (
        "Fine-tune a model on JSON Lines of EFT data (judge prompt, judgment) or IFT data "
        "(instruction, response), whose columns may have any of several common names. The trained "
        "model is written to a folder below META_REWARD_MODEL_ROOT, for run_iteration --model."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options; training options are the fields of its settings."""
        add = parser.add_argument
        add("--model", required=True, metavar="PATH|HUB_ID", help="Model to fine-tune.")
        add("--data", type=Path, action="append", required=True, metavar="FILE",
            help="File of training data, in JSON Lines. Repeatable.")  # fmt: skip
        add("--held-out", type=Path, action="append", default=[], metavar="FILE",
            help="File of prompts reserved for evaluation; rows with these prompts are not trained "
                 "on. Repeatable.")  # fmt: skip
        add("--output", required=True, metavar="NAME",
            help="Name of the new model folder, which must not exist yet.")  # fmt: skip
        add("--seed", type=int, default=1, metavar="N",
            help="Random seed for the order of the rows. Default: 1.")  # fmt: skip
        add("--lora-rank", type=int, metavar="R",
            help="Rank of LoRA adapters, which are merged into the weights after training. "
                 "Default: no adapters; all weights are trained.")  # fmt: skip
        training = parser.add_argument_group("training")
        actions = {
            name: training.add_argument(
                _to_option(name),
                choices=get_args(field.annotation) if _is_literal(field.annotation) else None,
                metavar=None if _is_literal(field.annotation) else "VALUE",
                help=f"{field.description} Default: {field.default}.".replace("%", "%%"),
            )
            for name, field in SftSettings.model_fields.items()
            if name != "lora"
        }
        for old, new in RENAMED_KEYS.items():
            section, _, name = new.rpartition(".")
            if section == "training" and name in actions:
                add_old_option(training, _to_option(old.rpartition(".")[2]), actions[name])

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Check everything, train, and print where the model is."""
        console = open_console(self.stdout, no_color=options["no_color"])
        with handle_errors(
            go_on="Run the same command again to resume from the last complete epoch."
        ):
            _train(options, get_storage_roots(), console)


def _train(options: dict[str, Any], roots: StorageRoots, console: Console) -> None:
    settings = _build_settings(options)
    target = _resolve_target(options["output"], roots)
    held_out = read_held_out(options["held_out"])
    rows = [row for file in options["data"] for row in _read_rows(file, held_out, console)]
    recipe = Recipe(name="seed", model=options["model"])
    start = resolve_base_model(recipe, roots, say=console.print)

    from meta_reward_core.training.sft import train_sft  # import TRL only for training

    outcome = train_sft(
        rows,
        start=start.folder,
        settings=settings,
        checkpoint=target,
        scratch=roots.scratch / "train-seed" / options["output"],
        seed=options["seed"],
        on_log=lambda row: _show(console, row),
    )
    console.print(
        f"{outcome.rows_trained:,} rows trained, {outcome.rows_held_out:,} held out, "
        f"{len(outcome.refused):,} refused"
    )
    for refused in outcome.refused[:10]:
        console.print(f"  refused {refused.prompt_id[:16]} ({refused.kind}): {refused.reason}")
    console.print(f"the model is in {target}", soft_wrap=True)
    words = ["--experiment", "NAME", "--recipe", "paper-llama3-8b"]
    words += ["--model", str(options["output"]), "--prompts", "FILE"]
    console.print(f"next: {escape(format_command('run_iteration', *words))}", soft_wrap=True)


def _to_option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _is_literal(annotation: object) -> bool:
    return get_origin(annotation) is Literal


def _build_settings(options: dict[str, Any]) -> SftSettings:
    given = {
        name: options[name]
        for name in SftSettings.model_fields
        if name != "lora" and options.get(name) is not None
    }
    try:
        if options["lora_rank"] is not None:
            given["lora"] = LoraSettings(r=options["lora_rank"])
        return SftSettings.model_validate(given)
    except ValidationError as error:
        lines = [
            f"  --{'-'.join(map(str, problem['loc'])).replace('_', '-') or 'settings'}: "
            f"{problem['msg']} (given: {problem['input']!r:.80})"
            for problem in error.errors()
        ]
        raise InputError("invalid training settings:\n" + "\n".join(lines)) from error


def _resolve_target(name: str, roots: StorageRoots) -> Path:
    target = roots.models / name
    if Path(name).name != name or name.startswith("."):
        raise InputError(f"--output must name a folder below {roots.models}, not {name!r}")
    if target.exists():
        raise InputError(f"{target} exists: choose another --output")
    return target


def _read_rows(file: Path, held_out: HeldOutPrompts, console: Console) -> list[SftRow]:
    """Read a file's rows and report the rejected ones."""
    found = read_sft_rows(file, held_out=held_out)
    for rejected in found.rejected:
        console.print(f"{file}, line {rejected.line}: skipped, {rejected.column}: "
                      f"{rejected.reason}")  # fmt: skip
    return found.rows


def _show(console: Console, row: dict[str, float]) -> None:
    metrics = [f"{name} {row[name]:.4f}" for name in ("loss", "mean_token_accuracy") if name in row]
    console.print(f"step {row['step']:.0f}, epoch {row['epoch']:.2f}: {', '.join(metrics)}")
