"""The tutorial's table: cost of the paper's four iterations on eight devices of each kind."""

from typing import Final

from meta_reward_core.data.file_io import replace_between
from meta_reward_core.planning.gpu_estimate import (
    DEVICES,
    IterationTime,
    estimate_disk_bytes,
    plan_on_hardware,
)
from meta_reward_core.recipes.loader import load_recipe

BEGIN: Final = "<!-- sizing: begin -->"
END: Final = "<!-- sizing: end -->"
_RECIPE: Final = "paper-llama3-8b"
_DEVICES: Final = 8
_HEAD: Final = (
    "eight of them",
    *("generate", "judge", "meta-judge", "train"),
    *("all four iterations", "wall time", "disk"),
)


def insert_sizing(page: str) -> str:
    """Insert the table between its markers."""
    return replace_between(page, BEGIN, END, write_sizing())


def write_sizing() -> str:
    """Format the output of `plan --recipe paper-llama3-8b --hardware ... --devices 8`."""
    rows = [_HEAD, ("---", *["--:"] * (len(_HEAD) - 1)), *(_make_row(name) for name in DEVICES)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _make_row(name: str) -> tuple[str, ...]:
    recipe, device = load_recipe(_RECIPE), DEVICES[name]
    numbers = range(1, recipe.iterations + 1)
    plans = [
        plan_on_hardware(recipe, number, device=device, devices=_DEVICES, workers=1)
        for number in numbers
    ]
    every = [one for plan in plans for one in plan.stages]
    return (
        f"{device.title} (`{name}`)",
        *(_format_hours(_get_stage_hours(plans[0], stage)) for stage in _STAGES),
        _format_hours(sum(one.device_hours for one in every)),
        f"{sum(plan.wall_seconds for plan in plans) / 3600:,.0f} h",
        f"{max(estimate_disk_bytes(recipe, number) for number in numbers) / 1e9:,.0f} GB",
    )


_STAGES: Final = ("generate", "judge", "meta_judge", "train")


def _get_stage_hours(plan: IterationTime, stage: str) -> float:
    return next(one.device_hours for one in plan.stages if one.stage == stage)


def _format_hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours < 10 else f"{hours:,.0f}"
