"""Preference pairs as JSON Lines in another tool's format, read partition by partition."""

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final, cast

from meta_reward_core.data.exports import EXPORTS, Export, PairRow
from meta_reward_core.storage.shards import IterationFiles
from webapp.experiments.files import open_experiment_files
from webapp.experiments.models import Experiment

KINDS: Final = ("actor", "judge")


def export_lines(
    experiment: Experiment, *, numbers: Sequence[int], kinds: Sequence[str], form: str
) -> Iterator[str]:
    """Yield the pairs of some iterations.

    The first pair of each kind and iteration is converted before this returns. Pairs of one kind
    are alike, so a format that cannot represent them is refused before anything is sent.

    Raises:
        ArtifactError: the files are damaged, or the format cannot represent the pairs.
    """
    files = open_experiment_files(experiment)
    tables = [
        _iter_lines(files.get_iteration(number), kind, EXPORTS[form])
        for number in numbers
        for kind in kinds
    ]
    first = [list(itertools.islice(table, 1)) for table in tables]
    parts = (part for pair in zip(first, tables, strict=True) for part in pair)
    return itertools.chain.from_iterable(parts)


def _iter_lines(files: IterationFiles, kind: str, export: Export) -> Iterator[str]:
    table = f"{kind}_pairs"
    for part in files.list_partition_numbers(table):
        for row in export(_to_pair_rows(files.read(table, part).to_pylist())):
            yield json.dumps(row, ensure_ascii=False) + "\n"


def _to_pair_rows(rows: list[dict[str, Any]]) -> Iterator[PairRow]:
    return (cast(PairRow, row) for row in rows)
