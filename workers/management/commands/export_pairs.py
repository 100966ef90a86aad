"""Write preference pairs in the format of another tool."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from django.core.management.base import BaseCommand, CommandParser

from meta_reward_core.data.exports import EXPORTS, PairRow, build_llama_factory_dataset_info
from meta_reward_core.data.file_io import require_writable, write_atomically
from meta_reward_core.errors import InputError
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.system.command_hint import format_command
from webapp.activity.models import Action
from webapp.paths import get_storage_roots
from workers.management.base import handle_errors, log_command
from workers.pipeline.read_experiment import (
    find_latest_iteration,
    open_iteration_files,
    read_recipe,
)


class Command(BaseCommand):
    """`format_command.py export_pairs`."""

    help = "Write an experiment's preference pairs as JSON Lines, in the format of another tool."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        add = parser.add_argument
        add(
            "--experiment",
            required=True,
            metavar="NAME",
            help="Experiment whose pairs are exported.",
        )
        add(
            "--iteration",
            type=int,
            metavar="N",
            help="Iteration to export. Default: all started iterations.",
        )
        add("--kind", choices=["actor", "judge"], help="Kind of pairs to export. Default: both.")
        add("--format", choices=sorted(EXPORTS), default="trl", help="Output format. Default: trl.")
        add(
            "--output", type=Path, required=True, metavar="FILE", help="Output file, in JSON Lines."
        )
        add("--overwrite", action="store_true", help="Overwrite an existing file.")

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Write the file atomically."""
        output: Path = options["output"]
        with handle_errors():
            require_writable(output)
            if output.exists() and not options["overwrite"]:
                raise InputError(f"{output} exists: choose another name, or add --overwrite")
            kinds = [options["kind"]] if options["kind"] else ["actor", "judge"]
            pairs = _read_pairs(options["experiment"], options["iteration"], kinds)
            rows = list(EXPORTS[options["format"]](pairs))
            write_atomically(output, (f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
        log_command(Action.EXPORTED, options["experiment"], detail=f"pairs in {output}")
        self.stdout.write(f"{len(pairs):,} pairs as {len(rows):,} rows in {output}")
        if options["format"] == "llama-factory":
            entry = {output.stem: build_llama_factory_dataset_info(output.name)}
            self.stdout.write(f"for dataset_info.json:\n{json.dumps(entry, indent=2)}")


def _read_pairs(name: str, number: int | None, kinds: Sequence[str]) -> list[PairRow]:
    """Read the pairs.

    Raises:
        InputError: there are no pairs.
    """
    store = ArtifactStore(get_storage_roots().artifacts)
    read_recipe(store, name)
    numbers = range(1, find_latest_iteration(store, name) + 1) if number is None else [number]
    pairs = [pair for number in numbers for pair in _iter_pairs(store, name, number, kinds)]
    if not pairs:
        raise InputError(
            f"experiment {name!r} has no such pairs: see "
            f"{format_command('show_iteration', '--help')}"
        )
    return pairs


def _iter_pairs(
    store: ArtifactStore, name: str, number: int, kinds: Sequence[str]
) -> Iterator[PairRow]:
    files = open_iteration_files(store, name, number)
    for kind in kinds:
        for row in files.read(f"{kind}_pairs").to_pylist():
            yield cast(PairRow, row)
