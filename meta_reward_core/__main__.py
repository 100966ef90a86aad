"""`python -m meta_reward_core`: run a recipe with the core alone - no web, no database, no queue.

It drives the same stages over the same files as `manage.py run_iteration`; either may go on with
what the other began.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from meta_reward_core.command import (
    EXIT_CODES,
    EXIT_INTERRUPTED,
    add_run_options,
    request_of,
    show_plan,
)
from meta_reward_core.console import ConsoleLedger, make_console, print_summary
from meta_reward_core.errors import MetaRewardError, NoPairsError
from meta_reward_core.experiment import Experiment
from meta_reward_core.interrupting import stopped_by
from meta_reward_core.iteration import STAGES
from meta_reward_core.launch import (
    Places,
    check_engine_of_next,
    make_tools,
    next_iterations,
    open_or_begin,
)
from meta_reward_core.output_files import require_writable, write_json
from meta_reward_core.plan import Speeds
from meta_reward_core.request import Request
from meta_reward_core.running import run_iteration
from meta_reward_core.summary import Summary, summarize_iteration


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    options = vars(_parser().parse_args(arguments))
    console = make_console(sys.stdout)
    try:
        with stopped_by(signal.SIGTERM):
            require_writable(options["json"])
            result = _do(options, console)
            if options["json"] is not None:
                write_json(options["json"], result)
    except MetaRewardError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("stopped; what is finished is kept. The same command goes on.\n")
        return EXIT_INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m meta_reward_core",
        description="Run iterations of Meta-Rewarding with the core alone.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_options(parser)
    return parser


def _do(options: dict[str, Any], console: Console) -> Summary:
    request, places = request_of(options), Places.from_environment()
    if options["dry_run"]:
        return show_plan(
            request, options["iterations"], places, console, speeds_of=lambda _: Speeds()
        )
    return _run(request, options["iterations"], places, console)


def _run(request: Request, until: int | None, places: Places, console: Console) -> Summary:
    experiment = open_or_begin(
        request, places, say=lambda text: console.print(escape(text)), engine_here=True
    )
    check_engine_of_next(experiment, until=until)
    with experiment.locked():
        summaries = [
            _run_one(experiment, number, places, console)
            for number in next_iterations(experiment, until=until)
        ]
    done = experiment.finished_iterations()
    console.print(f"M{done} lies in {experiment.model(done).source}", soft_wrap=True)
    return {"experiment": experiment.name, "iterations": summaries}


def _run_one(experiment: Experiment, number: int, places: Places, console: Console) -> Summary:
    context = experiment.context(number)
    watcher = ConsoleLedger(console, context)
    tools = make_tools(experiment, places, number=number)
    tools.progress, tools.on_log = watcher.report, watcher.log
    try:
        with watcher.shown():
            run_iteration(context, tools, watcher)
    except NoPairsError:
        print_summary(console, _summarize(experiment, number, watcher))
        raise
    finally:
        tools.release_engine()
    summary = _summarize(experiment, number, watcher)
    print_summary(console, summary)
    return summary


def _summarize(experiment: Experiment, number: int, watcher: ConsoleLedger) -> Summary:
    return summarize_iteration(
        experiment.files(number),
        number=number,
        recipe=experiment.recipe,
        stages=[stage.name for stage in STAGES],
        before=experiment.files(number - 1) if number > 1 else None,
        timings=watcher.timings,
    )


if __name__ == "__main__":
    sys.exit(main())
