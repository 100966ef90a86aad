"""Estimate the cost of a recipe on named hardware: device-hours, wall time and disk."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from rich.console import Console
from rich.table import Table

from meta_reward_core.cli.options import parse_positive_int
from meta_reward_core.cli.renamed_options import add_old_option
from meta_reward_core.data.file_io import require_writable, write_json
from meta_reward_core.errors import InputError
from meta_reward_core.planning.gpu_estimate import (
    DEVICES,
    IterationTime,
    ModelSize,
    estimate_disk_bytes,
    plan_on_hardware,
)
from meta_reward_core.planning.training_memory import (
    SHAPES,
    ModelShape,
    TrainingMemory,
    describe_fit,
    estimate_training_memory,
)
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.recipes.schema import Recipe
from workers.management.base import ExemplifiedCommand, handle_errors, open_console

_EXAMPLE = """\
examples:
  python manage.py plan --recipe paper-llama3-8b --hardware h100 --devices 8
  python manage.py plan --recipe paper-llama3-8b --set sample.prompts=1000000 \\
      --hardware h100 --devices 8 --workers 100
  python manage.py plan --recipe llama3-1-8b-24gb --hardware rtx4090 --devices 1
"""


class Command(ExemplifiedCommand):
    """`manage.py plan`."""

    examples = _EXAMPLE
    help = (
        "Estimate the cost of a recipe on given hardware, based on vendor specifications and the "
        "assumptions in docs/planning.md. To use measured throughput instead, see `run_iteration "
        "--dry-run`."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        add = parser.add_argument
        add("--recipe", required=True, metavar="NAME|FILE",
            help="Recipe: a built-in name, or a YAML file.")  # fmt: skip
        add("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE",
            help="Recipe setting to change. Repeatable.")  # fmt: skip
        add(
            "--hardware", required=True, choices=sorted(DEVICES), help="Device type of the workers."
        )
        add("--devices", type=parse_positive_int, default=8, metavar="N",
            help="Number of devices per worker. Default: 8.")  # fmt: skip
        add("--workers", type=parse_positive_int, default=1, metavar="N",
            help="Number of worker machines. Default: 1.")  # fmt: skip
        add("--model", choices=sorted(SHAPES), default="llama3-8b",
            help="Model whose published architecture is used for the estimate. Default: "
                 "llama3-8b.")  # fmt: skip
        add("--parameters", type=float, metavar="N",
            help="Number of weights of the model. Default: that of --model.")  # fmt: skip
        add("--kv-bytes", type=float, metavar="BYTES",
            help="KV cache size per token, in bytes. Default: that of --model.")  # fmt: skip
        output = add("--output", type=Path, metavar="FILE",
            help="Output file for the plan, in JSON.")  # fmt: skip
        add_old_option(parser, "--json", output)

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Compute and print the plan."""
        console = open_console(self.stdout, no_color=options["no_color"])
        with handle_errors():
            require_writable(options["output"])
            recipe = load_recipe(options["recipe"], changes=options["changes"])
            plans = _plan(recipe, options)
            for number, plan in plans.items():
                console.print(_make_table(number, plan))
                console.print(_describe_idle_share(plan))
            _print_total(console, recipe, plans, options)
            memory = estimate_training_memory(recipe.training, _build_shape(options))
            console.print(_make_memory_table(memory))
            room = DEVICES[options["hardware"]].memory
            console.print(describe_fit(memory, recipe.training, room))
            if options["output"] is not None:
                shown = {str(number): asdict(plan) for number, plan in plans.items()}
                training = {**asdict(memory), "total": memory.total, "fits": memory.total <= room}
                found = {"recipe": recipe.name, "plan": shown, "training_memory": training}
                write_json(options["output"], found)


def _build_shape(options: dict[str, Any]) -> ModelShape:
    shape = SHAPES[options["model"]]
    given = {
        name: options[name] for name in ("parameters", "kv_bytes") if options[name] is not None
    }
    return replace(shape, **given)


def _build_model_size(options: dict[str, Any]) -> ModelSize:
    shape = _build_shape(options)
    return ModelSize(shape.parameters, shape.kv_bytes)


def _make_memory_table(memory: TrainingMemory) -> Table:
    table = Table(title="training memory of each device")
    table.add_column("part")
    table.add_column("GB", justify="right")
    for name, size in asdict(memory).items():
        table.add_row(name, f"{size / 1e9:,.1f}")
    return table


def _plan(recipe: Recipe, options: dict[str, Any]) -> dict[int, IterationTime]:
    try:
        return {
            number: plan_on_hardware(
                recipe,
                number,
                device=DEVICES[options["hardware"]],
                devices=options["devices"],
                workers=options["workers"],
                model=_build_model_size(options),
            )
            for number in range(1, recipe.iterations + 1)
        }
    except ValueError as error:
        raise InputError(str(error)) from error


def _make_table(number: int, plan: IterationTime) -> Table:
    table = Table(title=f"iteration {number}")
    names = ("stage", "calls or steps, at most", "shards", "device-hours", "begins", "ends")
    for name in names:
        table.add_column(name, justify="left" if name == "stage" else "right")
    for one in plan.stages:
        cells = f"{one.calls:,}", f"{one.shards:,}", f"{one.device_hours:,.1f}"
        spans = (f"{at / 3600:,.2f} h" for at in (one.begin_seconds, one.end_seconds))
        table.add_row(one.stage, *cells, *spans)
    return table


def _describe_idle_share(plan: IterationTime) -> str:
    engines = f"{plan.engines:,} engine{'s' if plan.engines > 1 else ''}"
    told = f"{engines}, idle for {plan.idle_share:.1%} of the time before training"
    if plan.advised_shard_size is None:
        return f"{told}."
    return f"{told}; less with --set prompts_per_shard={plan.advised_shard_size}."


def _print_total(
    console: Console,
    recipe: Recipe,
    plans: dict[int, IterationTime],
    options: dict[str, Any],
) -> None:
    hours = sum(one.device_hours for plan in plans.values() for one in plan.stages)
    wall = sum(plan.wall_seconds for plan in plans.values()) / 3600
    disk = max(
        estimate_disk_bytes(recipe, number, model=_build_model_size(options)) for number in plans
    )
    device = DEVICES[options["hardware"]].title
    console.print(
        f"{recipe.iterations} iterations on {options['workers']:,} x {options['devices']} "
        f"{device}: about {hours:,.0f} device-hours, {wall:,.1f} hours of wall time, "
        f"{disk / 1e9:,.0f} GB of disk for the largest iteration. "
        "Calculated, not measured: see docs/planning.md."
    )
