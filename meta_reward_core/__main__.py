"""`python -m meta_reward_core`: run a recipe with the core alone - no web, no database, no queue.

`python -m meta_reward_core check-model MODEL` checks a model for a recipe and runs nothing.

It runs the same stages over the same files as `manage.py run_iteration`; each can resume
iterations that the other started.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console
from rich.markup import escape

from meta_reward_core.cli.check_model import CHECK_EXIT_CODES, add_check_options, check_named_model
from meta_reward_core.cli.options import (
    EXIT_CODES,
    EXIT_INTERRUPTED,
    add_run_options,
    build_request,
    show_plan,
)
from meta_reward_core.cli.renamed_options import show_deprecations_briefly
from meta_reward_core.cli.terminal import ConsoleCallback, make_console, print_summary
from meta_reward_core.data.file_io import require_writable, write_json
from meta_reward_core.errors import MetaRewardError, NoPairsError
from meta_reward_core.evaluation.circuit_breaker import accept_findings
from meta_reward_core.experiment import Experiment
from meta_reward_core.iteration import STAGES
from meta_reward_core.models.library_errors import explain_library_error
from meta_reward_core.planning.engine_loading import make_stage_resources
from meta_reward_core.planning.experiment_request import ExperimentRequest
from meta_reward_core.planning.experiment_setup import (
    check_next_engine,
    list_next_iterations,
    open_or_create,
)
from meta_reward_core.planning.shard_size import ONE_ENGINE
from meta_reward_core.reporting.summary import Summary, summarize_iteration
from meta_reward_core.runner import run_iteration
from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.system.settings import check_settings
from meta_reward_core.system.signals import interrupt_on_signal

_CHECK_COMMAND: Final = "check-model"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    show_deprecations_briefly()
    given = list(sys.argv[1:] if arguments is None else arguments)
    is_check = given[:1] == [_CHECK_COMMAND]
    parser = _build_check_parser() if is_check else _build_parser()
    options = vars(parser.parse_args(given[1:] if is_check else given))
    console = make_console(sys.stdout)

    def write(result: Any) -> None:
        if options["output"] is not None:
            write_json(options["output"], result)

    try:
        check_settings()
        with interrupt_on_signal(signal.SIGTERM):
            require_writable(options["output"])
            if is_check:
                roots = StorageRoots.from_settings()
                check_named_model(options, roots, console, write=write)
            else:
                write(_execute_command(options, console))
    except MetaRewardError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("stopped; finished shards are kept. Run the same command to resume.\n")
        return EXIT_INTERRUPTED
    except Exception as error:
        message = explain_library_error(error)
        if message is None:
            raise
        sys.stderr.write(f"{message}\n")
        return MetaRewardError.exit_code
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m meta_reward_core",
        description="Run iterations of Meta-Rewarding with the core alone. "
        f"`{_CHECK_COMMAND} MODEL` checks a model instead; see `{_CHECK_COMMAND} --help`.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_options(parser)
    return parser


def _build_check_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m meta_reward_core {_CHECK_COMMAND}",
        description="Check whether a model can be used for a recipe; weights are not loaded.",
        epilog=CHECK_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_check_options(parser)
    return parser


def _execute_command(options: dict[str, Any], console: Console) -> Summary:
    request, roots = build_request(options), StorageRoots.from_settings()
    if options["dry_run"]:
        return show_plan(
            request,
            options["iterations"],
            roots,
            console,
            capacity=ONE_ENGINE,
        )
    return _run_iterations(request, options["iterations"], roots, console)


def _run_iterations(
    request: ExperimentRequest, target_iteration: int | None, roots: StorageRoots, console: Console
) -> Summary:
    experiment = open_or_create(
        request,
        roots,
        say=lambda text: console.print(escape(text)),
        engine_here=True,
        iterations=target_iteration,
    )
    check_next_engine(experiment, target_iteration=target_iteration)
    with experiment.lock():
        if request.accept_probe:
            number = experiment.count_finished_iterations() + 1
            accept_findings(experiment.build_context(number), by="the command line")
        summaries = [
            _run_iteration(experiment, number, roots, console)
            for number in list_next_iterations(experiment, target_iteration=target_iteration)
        ]
    done = experiment.count_finished_iterations()
    console.print(f"M{done} is in {experiment.get_model(done).source}", soft_wrap=True)
    return {"experiment": experiment.name, "iterations": summaries}


def _run_iteration(
    experiment: Experiment, number: int, roots: StorageRoots, console: Console
) -> Summary:
    context = experiment.build_context(number)
    watcher = ConsoleCallback(console, context)
    resources = make_stage_resources(experiment, roots, number=number)
    try:
        with watcher.show():
            run_iteration(context, resources, watcher)
    except NoPairsError:
        print_summary(console, _summarize(experiment, number, watcher))
        raise
    finally:
        resources.release_engine()
    summary = _summarize(experiment, number, watcher)
    print_summary(console, summary)
    return summary


def _summarize(experiment: Experiment, number: int, watcher: ConsoleCallback) -> Summary:
    return summarize_iteration(
        experiment.get_files(number),
        number=number,
        recipe=experiment.get_recipe(number),
        stages=[stage.name for stage in STAGES],
        before=experiment.get_files(number - 1) if number > 1 else None,
        timings=watcher.timings,
    )


if __name__ == "__main__":
    sys.exit(main())
