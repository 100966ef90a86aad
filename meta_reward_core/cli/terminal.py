"""Terminal output: progress while an iteration runs, tables when it is done.

Without a terminal, progress is printed as plain lines at longer intervals.
"""

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final, Protocol, cast

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from meta_reward_core.context import IterationContext
from meta_reward_core.iteration import Stage
from meta_reward_core.planning.cost_estimate import StagePlan
from meta_reward_core.reporting.summary import (
    Summary,
    Timing,
    describe_audit,
    describe_refusals,
)
from meta_reward_core.storage.shards import Counts, ShardManifest

PLAIN_SECONDS: Final = 10.0
"""Minimum interval between progress lines of a running stage without a terminal, in seconds."""

NAMED_ON_TERMINAL: Final = 10
"""Maximum number of refused prompts listed per role; a table of the iteration contains all."""

_TRAINING_ROWS: Final = {
    "loss": "loss",
    "loss_dpo": "loss, DPO part",
    "loss_sft": "loss, SFT part",
    "accuracy": "accuracy",
    "margin": "margin",
}
_PLAIN_WIDTH: Final = 110
_ABSENT: Final = "–"


class Stream(Protocol):
    """The required interface of an output stream."""

    def isatty(self) -> bool:
        """Whether it is a terminal."""

    def write(self, text: str, /) -> object:
        """Write a text."""


def make_console(stream: Stream, *, color: bool = True) -> Console:
    """Create a console for `stream`; without a terminal, with a fixed width and no colors."""
    terminal = stream.isatty()
    return Console(
        file=cast(IO[str], stream),
        no_color=not color,
        width=None if terminal else _PLAIN_WIDTH,
        highlight=False,
        soft_wrap=False,
    )


@dataclass(slots=True)
class _ShownShard:
    """A running shard: its progress, number of completions, and start."""

    calls: int | None
    began: float
    share: float = 0.0
    tokens: int = 0


@dataclass(slots=True)
class _ShownStage:
    """A running stage.

    Attributes:
        engines: maximum number of its shards that ran at the same time.
    """

    stage: Stage
    planned: int
    began: float
    told_at: float
    task: TaskID | None
    finished: int = 0
    reused: int = 0
    engines: int = 0
    running: dict[int, _ShownShard] = field(default_factory=dict)


class ConsoleCallback:
    """Shows an iteration while it runs, and records the duration of each stage.

    Each running stage has its own progress bar.

    Attributes:
        timings: total duration of the shards that ran in this process, by stage.
        shards_run: number of shards that ran in this process.
    """

    def __init__(self, console: Console, context: IterationContext) -> None:
        self.timings: dict[str, Timing] = {}
        self.shards_run = 0
        self._console = console
        self._context = context
        self._progress = _make_progress(console) if console.is_terminal else None
        self._shown: dict[str, _ShownStage] = {}

    @contextlib.contextmanager
    def show(self) -> Iterator[None]:
        """Show the live display while the block runs."""
        number, planned = self._context.number, self._context.recipe.iterations
        if number > planned:
            self._print_line(
                f"[dim]the recipe plans {_format_count(planned, 'iteration')}: iteration "
                f"{number} uses the last value of each schedule[/dim]"
            )
        with self._progress or contextlib.nullcontext():
            yield

    def skip_stage(self, stage: Stage) -> None:
        """See `RunCallback`."""
        self._print_line(f"[dim]{stage.name:<11} not scheduled in this iteration[/dim]")

    def plan_stage(self, stage: Stage, shards: int) -> None:
        """See `RunCallback`."""
        now, task = time.monotonic(), None
        if self._progress is not None:
            task = self._progress.add_task(stage.title, total=shards, note="")
        elif shards > 1 or stage.resource != "cpu":
            self._print_line(f"{stage.name:<11} {stage.title}: {_format_count(shards, 'shard')}")
        self._shown[stage.name] = _ShownStage(stage, shards, began=now, told_at=now, task=task)

    def start_shard(self, stage: Stage, shard: int) -> None:
        """See `RunCallback`."""
        now, shown = time.monotonic(), self._shown[stage.name]
        if not shown.finished and not shown.running:
            shown.began = shown.told_at = now
        calls = estimate_shard_calls(self._context, stage.name, shard)
        shown.running[shard] = _ShownShard(calls, began=now)
        shown.engines = max(shown.engines, len(shown.running))

    def reuse_shard(self, stage: Stage, shard: int, manifest: ShardManifest) -> None:  # noqa: ARG002
        """See `RunCallback`."""
        self._shown[stage.name].reused += 1
        self._end_shard(stage, shard, finished=1)

    def finish_shard(
        self, stage: Stage, shard: int, manifest: ShardManifest, *, seconds: float
    ) -> None:
        """See `RunCallback`."""
        spent = Timing(seconds, manifest.counts.get("tokens", 0))
        self.timings[stage.name] = self.timings.get(stage.name, Timing(0.0)) + spent
        self.shards_run += 1
        self._end_shard(stage, shard, finished=1)

    def retry_shard(self, stage: Stage, shard: int, error: Exception) -> None:
        """See `RunCallback`."""
        self._end_shard(stage, shard)
        reason = str(error).partition("\n")[0]
        self._print_line(
            f"{stage.name:<11} shard {shard} failed and runs again: {escape(reason)}", wraps=True
        )

    def fail_shard(self, stage: Stage, shard: int, error: Exception) -> None:  # noqa: ARG002
        """See `RunCallback`."""
        self.stop_stage(stage)

    def stop_shard(self, stage: Stage, shard: int, reason: str) -> None:  # noqa: ARG002
        """See `RunCallback`."""
        self.stop_stage(stage)

    def stop_stage(self, stage: Stage) -> None:
        """Remove the progress bar of a stage that stops now."""
        self._remove_task(stage)

    def finish_stage(self, stage: Stage) -> None:
        """See `RunCallback`."""
        shown = self._remove_task(stage)
        timing = self.timings.get(stage.name)
        parts = [f"{timing.seconds:,.1f} s" if timing else "finished before"]
        each = ""
        if timing and shown.engines > 1:
            parts = [f"{timing.seconds:,.1f} s of {shown.engines} engines together"]
            each = " each"
        if timing and timing.tokens:
            parts.append(f"{timing.tokens:,} tokens, {_format_tokens_per_second(timing)}{each}")
        if timing and shown.reused:
            parts.append(
                f"{shown.reused} of {_format_count(shown.planned, 'shard')} finished before"
            )
        self._print_line(f"{stage.name:<11} [green]done[/green]: {'; '.join(parts)}")

    def report(self, stage: Stage, shard: int, done: int, tokens: int) -> None:
        """Show the engines' progress in the running shards of a stage."""
        shown = self._shown[stage.name]
        one = shown.running.get(shard)
        if one is None:
            return
        one.share = min(done / one.calls, 1.0) if one.calls else 0.0
        one.tokens = tokens
        now = time.monotonic()
        running = shown.running.values()
        speed = sum(each.tokens / max(now - each.began, 1e-9) for each in running)
        sampled = sum(each.tokens for each in running)
        engines = f" by {len(running)} engines" if len(running) > 1 else ""
        self._update_progress(shown, f"{sampled:,} tokens, {speed:,.0f}/s{engines}")

    def log(self, stage: Stage, shard: int, row: dict[str, float]) -> None:
        """Show the progress of the training."""
        shown = self._shown[stage.name]
        one = shown.running.get(shard)
        if one is None:
            return
        one.share = min(row.get("epoch", 0.0) / self._context.recipe.training.epochs, 1.0)
        told = [f"step {row.get('step', 0):.0f}"]
        for name, metric in (("loss", "loss"), ("accuracy", "rewards/accuracies")):
            if metric in row:
                told.append(f"{name} {row[metric]:.3f}")
        self._update_progress(shown, ", ".join(told))

    def _update_progress(self, shown: _ShownStage, note: str) -> None:
        """Update the progress of a stage."""
        done = shown.finished + sum(one.share for one in shown.running.values())
        if self._progress is not None and shown.task is not None:
            self._progress.update(shown.task, completed=done, note=note)
            return
        now = time.monotonic()
        if now - shown.told_at >= PLAIN_SECONDS:
            shown.told_at = now
            made = done - shown.reused
            percent = 100 * done / max(shown.planned, 1)
            left = _format_time_left(now - shown.began, made, shown.planned - done)
            self._print_line(f"{shown.stage.name:<11} {percent:.0f}%, {note}{left}")

    def _end_shard(self, stage: Stage, shard: int, *, finished: int = 0) -> None:
        shown = self._shown[stage.name]
        shown.running.pop(shard, None)
        shown.finished += finished
        if self._progress is not None and shown.task is not None:
            self._progress.update(shown.task, completed=shown.finished)

    def _remove_task(self, stage: Stage) -> _ShownStage:
        shown = self._shown[stage.name]
        if self._progress is not None and shown.task is not None:
            self._progress.remove_task(shown.task)
            self._progress.refresh()  # otherwise the next line is written above the old bar
            shown.task = None
        return shown

    def _print_line(self, line: str, *, wraps: bool = False) -> None:
        self._console.print(line, soft_wrap=wraps)


def _make_progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
    )


def estimate_shard_calls(context: IterationContext, stage: str, shard: int) -> int | None:
    """Estimate the maximum completions of a shard, once its inputs exist."""
    recipe = context.recipe
    compared = min(recipe.judge.samples, recipe.meta_judge.max_judgments or recipe.judge.samples)
    inputs = {
        "generate": ("prompts", recipe.actor.samples),
        "judge": ("responses", recipe.judge.samples),
        "meta_judge": ("prompts", compared * (compared - 1)),
    }
    if stage not in inputs:
        return None
    table, calls_per_row = inputs[stage]
    part = context.files.find_partition(table, shard)
    return part.rows * calls_per_row or None if part else None


def _format_time_left(seconds: float, made: float, left: float) -> str:
    """Format the time left at the rate of the finished shards."""
    return f", about {_format_duration(seconds / made * left)} left" if made > 0 else ""


def print_plan(console: Console, plan: Sequence[StagePlan], *, title: str) -> None:
    """Print the cost of an iteration."""
    table = _make_table(title, "stage", "calls", "tokens", "time", "disk", "basis")
    for stage in plan:
        calls = f"{'at most ' if stage.at_most else ''}{stage.calls:,}"
        table.add_row(
            stage.stage,
            f"{calls} steps" if stage.stage == "train" else calls,
            f"{stage.tokens:,}" if stage.tokens else _ABSENT,
            _ABSENT if stage.seconds is None else _format_duration(stage.seconds),
            f"{stage.bytes / 1e6:,.1f} MB" if stage.bytes else _ABSENT,
            "not estimated" if stage.seconds is None else stage.basis,
        )
    console.print(table)
    console.print(f"together {_format_total(plan)}")


def print_total(console: Console, plans: Collection[Sequence[StagePlan]]) -> None:
    """Print the total cost of several iterations."""
    stages = [stage for plan in plans for stage in plan]
    console.print(f"[bold]all {len(plans)} iterations[/bold] {_format_total(stages)}")


def _format_total(plan: Sequence[StagePlan]) -> str:
    tokens = sum(stage.tokens for stage in plan)
    seconds = sum(stage.seconds or 0.0 for stage in plan)
    return f"about {tokens:,} tokens and {_format_duration(seconds)}{_format_training_note(plan)}"


def _format_training_note(plan: Sequence[StagePlan]) -> str:
    if any(stage.seconds is None for stage in plan):
        unknown = "training of this model has not been measured"
        return f"; the duration of training is not known yet: {unknown}"
    return ", training included"


def print_summary(console: Console, summary: Summary) -> None:
    """Print the summary of an iteration as tables."""
    number = summary["iteration"]
    state = "" if summary["finished"] else " (not finished)"
    console.rule(f"Iteration {number}: M{number - 1} to M{number}{state}")
    print_outside_judge(console, summary["outside_judge"])
    tables = [
        _make_stage_table(summary["stages"]),
        _make_pair_table(summary["pairs"]),
        _make_judging_table(summary),
        _make_training_table(summary["training"]),
        _make_ground_truth_table(summary["truth"], number),
    ]
    for table in tables:
        if table is not None and table.row_count:
            console.print(table)
    for sentence in _explain_absences(summary["training"]):
        console.print(f"[bold]{_ABSENT}[/bold] {escape(sentence)}")
    for sentence in describe_audit(summary.get("audit")):
        console.print(f"[bold]audit[/bold] {escape(sentence)}")
    for sentence in describe_refusals(summary.get("refused", []), shown=NAMED_ON_TERMINAL):
        console.print(f"[bold]refused[/bold] {escape(sentence)}")
    for alarm in summary["alarms"]:
        console.print(f"[bold red]alarm[/bold red] {escape(alarm['sentence'])}")
        console.print(f"      {escape(alarm['advice'])}")


def print_outside_judge(console: Console, name: str | None) -> None:
    """Print a note if an endpoint or a reward model scores the responses."""
    if name is not None:
        console.print(f"[bold]external judge[/bold]: scores are from {escape(name)}")


def _make_table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return table


def _make_stage_table(stages: list[Summary]) -> Table:
    table = _make_table("Stages", "stage", "made", "unreadable", "tokens", "tokens/s", "seconds")
    for stage in stages:
        counts = stage["counts"]
        table.add_row(
            stage["stage"],
            _describe_output(stage["stage"], counts),
            _describe_unusable(stage["stage"], counts),
            f"{counts['tokens']:,}" if "tokens" in counts else _ABSENT,
            _format_value(stage["tokens_per_second"], ",.0f"),
            _format_value(stage["seconds"], ",.1f"),
        )
    return table


def _describe_output(stage: str, counts: Counts) -> str:
    """Describe the output of a stage in one phrase."""
    if stage == "generate":
        distinct = counts["completions"] - counts["refused"] - counts["identical"]
        return f"{distinct:,} responses ({counts['identical']:,} identical removed)"
    for name in ("judgments", "battles", "pairs", "measurements", "prompts"):
        if name in counts:
            return f"{counts[name]:,} {name}"
    return f"{counts['trained']:,} rows trained" if "trained" in counts else _ABSENT


def _describe_unusable(stage: str, counts: Counts) -> str:
    """Describe unusable outputs in one phrase."""
    phrases = {
        "generate": [("cut_off", "cut off"), ("refused", "refused")],
        "judge": [("unscored", "unscored")],
        "meta_judge": [("unparsed", "unparsed")],
        "train": [("refused", "refused")],
    }.get(stage, [])
    shown = [f"{counts[name]:,} {phrase}" for name, phrase in phrases if counts.get(name)]
    return ", ".join(shown) or ("0" if phrases else _ABSENT)


def _make_pair_table(pairs: list[Summary]) -> Table:
    columns = ("kind", "pairs", "of prompts", "chars chosen", "chars rejected", "dropped, why")
    table = _make_table("Pairs", *columns)
    for kind in pairs:
        reasons = [f"{count:,} {reason}" for reason, count in kind["dropped"].items()]
        table.add_row(
            kind["kind"],
            f"{kind['pairs']:,}",
            _format_value(kind["yield_rate"], ".0%"),
            _format_value(kind["chosen_chars"], ",.0f"),
            _format_value(kind["rejected_chars"], ",.0f"),
            "\n".join(reasons) or "none",
        )
    return table


def _make_judging_table(summary: Summary) -> Table:
    judge, meta_judge = summary["judge"] or {}, summary["meta_judge"] or {}
    table = _make_table("Judging", "metric", "value")
    metrics: list[tuple[str, Any, str]] = [
        ("judgments with a readable score", judge.get("parse_rate"), ".1%"),
        ("mean score", judge.get("mean"), ".2f"),
        ("entropy of the scores (bits, at most 3.46)", judge.get("entropy_bits"), ".2f"),
        ("share of scores of 5", judge.get("share_at_max"), ".1%"),
        ("correlation of score and length (Spearman)", summary["score_length_correlation"], "+.2f"),
        ("mean response length in characters", summary["response_chars"], ",.0f"),
        ("battles with a readable verdict", meta_judge.get("parse_rate"), ".1%"),
        ("won by the judgment shown first", meta_judge.get("won_by_first"), ".1%"),
        ("won by the higher score", meta_judge.get("won_by_higher_score"), ".1%"),
        ("won by the longer judgment", meta_judge.get("won_by_longer"), ".1%"),
        ("verdicts that change with the order", meta_judge.get("inconsistency"), ".1%"),
    ]
    for name, value, form in metrics:
        if value is not None:
            table.add_row(name, _format_value(value, form))
    for what, readout in summary.get("readouts", {}).items():
        table.add_row(f"readout of {what}", readout)
    return table


def _make_training_table(training: Mapping[str, Any] | None) -> Table | None:
    if training is None:
        return None
    table = _make_table("DPO training", "metric", "first", "last")
    for key, name in _TRAINING_ROWS.items():
        metric = training.get(key)
        if metric is not None:
            table.add_row(
                name, _format_value(metric["first"], ".4f"), _format_value(metric["last"], ".4f")
            )
    return table


def _explain_absences(training: Mapping[str, Any] | None) -> list[str]:
    """List the reasons why training metrics are absent, without duplicates."""
    metrics = [(training or {}).get(key) or {} for key in _TRAINING_ROWS]
    return list(dict.fromkeys(metric["absent"] for metric in metrics if "absent" in metric))


def _make_ground_truth_table(truth: list[Summary], number: int) -> Table:
    columns = ("role", "metric", f"M{number - 1}", f"M{number}", "change")
    table = _make_table("Ground truth: oracle on held-out items", *columns)
    for row in truth:
        before, after = row["before"], row["after"]
        known = before is not None and after is not None
        table.add_row(
            row["subject"],
            row["metric"],
            _format_value(before, ".3f"),
            _format_value(after, ".3f"),
            f"{after - before:+.3f}" if known else _ABSENT,
        )
    return table


def _format_value(value: float | None, form: str) -> str:
    return _ABSENT if value is None else format(value, form)


def _format_tokens_per_second(timing: Timing) -> str:
    return f"{timing.tokens / max(timing.seconds, 1e-9):,.0f}/s"


def _format_count(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def _format_duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
