"""File formats of alpaca_eval: model outputs, annotations, and leaderboard rows.

Source: the public tool `alpaca_eval` 0.6.6 (`model_outputs.json`, `annotations.json`,
`leaderboard.csv`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from meta_reward_core.data.csv_safety import format_csv, unguard_cell
from meta_reward_core.data.file_io import write_atomically, write_json
from meta_reward_core.data.tabular_io import NumberedRow, format_for_message, read_csv, read_rows
from meta_reward_core.errors import EvaluationFileError

TIE_PREFERENCE: Final = 1.5
"""Preference value of a tie; older files use 0. Source: alpaca_eval's `metrics/helpers.py`."""

LEADERBOARD_COLUMNS: Final = (
    "win_rate",
    "standard_error",
    "n_wins",
    "n_wins_base",
    "n_draws",
    "n_total",
    "discrete_win_rate",
    "mode",
    "avg_length",
    "length_controlled_winrate",
    "lc_standard_error",
)
"""Columns in the order of the public file, whose first column (the model's name) has no heading.

Source: `weighted_alpaca_eval_gpt4_turbo_leaderboard.csv` of alpaca_eval.
"""


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """A model's output for an instruction."""

    instruction: str
    output: str
    generator: str
    dataset: str | None = None
    datasplit: str | None = None


@dataclass(frozen=True, slots=True)
class Annotation:
    """An annotator's preference between a baseline's output (1) and a model's (2).

    Attributes:
        preference: a value in [1, 2]: 2 if the model wins, 1.5 for a tie; None if missing.
        difficulty: difficulty of the instruction, if the file contains it.
    """

    instruction: str
    output_1: str
    generator_1: str
    output_2: str
    generator_2: str
    annotator: str
    preference: float | None
    dataset: str | None = None
    difficulty: float | None = None


def read_outputs(path: str | Path) -> list[ModelOutput]:
    """Read one model's outputs.

    Raises:
        EvaluationFileError: a row has no instruction or output, an instruction occurs twice, or the
            file contains several models.
    """
    rows = read_rows(path)
    outputs = [_parse_output(row) for row in rows]
    _require_once(rows, [output.instruction for output in outputs], "the instruction")
    _require_one_name(path, {output.generator for output in outputs}, "generator")
    return outputs


def _parse_output(row: NumberedRow) -> ModelOutput:
    return ModelOutput(
        instruction=_read_instruction(row),
        output=row.read_text("output"),
        generator=row.read_name("generator"),
        dataset=row.read_optional_text("dataset"),
        datasplit=row.read_optional_text("datasplit"),
    )


def write_outputs(path: Path, outputs: Iterable[ModelOutput]) -> None:
    """Write model outputs in alpaca_eval's format."""
    write_json(path, [_drop_absent(output) for output in outputs])


def read_annotations(
    path: str | Path,
    *,
    model: str | None = None,
    annotator: str | None = None,
    outputs: Mapping[str, ModelOutput] | None = None,
    baseline_outputs: Mapping[str, ModelOutput] | None = None,
) -> list[Annotation]:
    """Read the annotations of one model by one annotator against one baseline.

    Args:
        path: JSON file in the format of alpaca_eval.
        model: name of the model, if the file has several.
        annotator: name of the annotator, if the file has several.
        outputs: the model's outputs by instruction, for files without `output_2`; if both are
            given, their texts must be equal.
        baseline_outputs: the same for `output_1`.

    Raises:
        EvaluationFileError: a row is incomplete, a preference is outside [1, 2], an
            instruction occurs twice, or the annotated model is ambiguous.
    """
    rows = [
        row
        for row in read_rows(path)
        if model in (None, row.values.get("generator_2"))
        and annotator in (None, row.values.get("annotator"))
    ]
    if not rows:
        raise EvaluationFileError(
            f"{Path(path).name}: contains no annotation of model {model!r} by annotator "
            f"{annotator!r}; check generator_2 and annotator in the file."
        )
    found = [_parse_annotation(row, baseline_outputs or {}, outputs or {}) for row in rows]
    _require_one_name(
        path, {a.generator_2 for a in found}, "generator_2", "choose one with --model"
    )
    _require_one_name(
        path, {a.annotator for a in found}, "annotator", "choose one with --annotator"
    )
    _require_one_name(path, {a.generator_1 for a in found}, "generator_1")
    _require_once(rows, [annotation.instruction for annotation in found], "the instruction")
    for given in (outputs, baseline_outputs):
        _require_same_instructions(path, found, given or {})
    return found


def _parse_annotation(
    row: NumberedRow,
    baseline_outputs: Mapping[str, ModelOutput],
    outputs: Mapping[str, ModelOutput],
) -> Annotation:
    instruction = _read_instruction(row)
    return Annotation(
        instruction=instruction,
        output_1=_resolve_output(row, 1, baseline_outputs.get(instruction)),
        generator_1=row.read_name("generator_1"),
        output_2=_resolve_output(row, 2, outputs.get(instruction)),
        generator_2=row.read_name("generator_2"),
        annotator=row.read_optional_text("annotator") or "unnamed",
        preference=_parse_preference(row),
        dataset=row.read_optional_text("dataset"),
        difficulty=row.read_number("instruction_difficulty"),
    )


def _read_instruction(row: NumberedRow) -> str:
    instruction = row.read_text("instruction")
    if not instruction.strip():
        row.refuse("the instruction is empty; add an instruction to every row.")
    return instruction


def _resolve_output(row: NumberedRow, side: Literal[1, 2], given: ModelOutput | None) -> str:
    """Return the output of a side from the row, the outputs file, or both if they agree."""
    column = f"output_{side}"
    written = row.read_optional_text(column)
    if written is None and given is None:
        option = "--baseline-outputs" if side == 1 else "--model-outputs"
        row.refuse(
            f"has no {column}; add it to the row, or specify the file of outputs with {option}."
        )
    if written is not None and given is not None and written != given.output:
        row.refuse(
            f"{column} differs from the file of outputs for this instruction; the annotations "
            f"and outputs are from different runs."
        )
    return given.output if written is None and given is not None else written or ""


def _parse_preference(row: NumberedRow) -> float | None:
    """Parse a preference in [1, 2]; 0, which older files use for a tie, becomes 1.5."""
    preference = row.read_number("preference")
    if preference == 0:
        return TIE_PREFERENCE
    if preference is not None and not 1 <= preference <= 2:
        row.refuse(
            f"the preference {preference} is outside [1, 2]; 1 prefers the baseline, 2 the "
            "model, 1.5 (or 0) is a tie, null is none."
        )
    return preference


def _require_once(rows: Sequence[NumberedRow], keys: Sequence[str], what: str) -> None:
    seen: dict[str, NumberedRow] = {}
    for row, key in zip(rows, keys, strict=True):
        if key in seen:
            row.refuse(
                f"{what} {format_for_message(key)} occurs twice (first at {seen[key].place}); "
                f"keep one "
                f"row of it."
            )
        seen[key] = row


def _require_one_name(
    path: str | Path, names: set[str], column: str, advice: str = "split the file"
) -> None:
    if len(names) > 1:
        found = ", ".join(sorted(names)[:5])
        raise EvaluationFileError(
            f"{Path(path).name}: {column} has {len(names)} values ({found}); {advice}."
        )


def _require_same_instructions(
    path: str | Path, found: Sequence[Annotation], outputs: Mapping[str, ModelOutput]
) -> None:
    """Refuse an outputs file whose instructions differ from the annotated instructions."""
    annotated = {annotation.instruction for annotation in found}
    left, unknown = outputs.keys() - annotated, annotated - outputs.keys()
    if outputs and (left or unknown):
        raise EvaluationFileError(
            f"{Path(path).name}: {len(left)} of {len(outputs)} outputs have no annotation, and "
            f"{len(unknown)} annotations have no output. The first instruction concerned is "
            f"{format_for_message(min(left or unknown))}; use annotations and outputs for the "
            f"same instructions."
        )


def match_outputs(
    baseline: Sequence[ModelOutput], model: Sequence[ModelOutput]
) -> list[tuple[ModelOutput, ModelOutput]]:
    """Pair two models' outputs by instruction, in the order of the baseline's outputs.

    If only one side has a dataset, it is used for both; if the two differ, neither is used, as in
    the public tool.

    Raises:
        EvaluationFileError: the two models do not answer the same instructions.
    """
    answers = {output.instruction: output for output in model}
    missing = [output for output in baseline if output.instruction not in answers]
    extra = answers.keys() - {output.instruction for output in baseline}
    if missing or extra:
        example = missing[0].instruction if missing else min(extra)
        raise EvaluationFileError(
            f"the two models answer different instructions: {len(missing)} instructions have "
            f"no output of the model, and {len(extra)} have no output of the baseline. The first "
            f"instruction concerned is {format_for_message(example)}; generate outputs for the "
            "same instructions."
        )
    return [_assign_common_dataset(output, answers[output.instruction]) for output in baseline]


def _assign_common_dataset(
    baseline: ModelOutput, model: ModelOutput
) -> tuple[ModelOutput, ModelOutput]:
    names = {output.dataset for output in (baseline, model)} - {None}
    dataset = names.pop() if len(names) == 1 else None
    return replace(baseline, dataset=dataset), replace(model, dataset=dataset)


def write_annotations(path: Path, annotations: Iterable[Annotation]) -> None:
    """Write annotations in alpaca_eval's format; a missing preference stays null."""
    rows = []
    for annotation in annotations:
        row = _drop_absent(annotation) | {"preference": annotation.preference}
        if annotation.difficulty is not None:
            row["instruction_difficulty"] = row.pop("difficulty")
        rows.append(row)
    write_json(path, rows)


def add_difficulty(path: str | Path, annotations: Sequence[Annotation]) -> list[Annotation]:
    """Add the instruction difficulty of a CSV file to annotations.

    Args:
        path: CSV file with the columns `instruction` and `instruction_difficulty`; or alpaca_eval's
            own file, whose first column is the row's number in the benchmark, from 0. The latter
            requires annotations of exactly the benchmark's instructions, in the same order.
        annotations: annotations of one model.

    Raises:
        EvaluationFileError: an instruction is not in the file, or a difficulty is not a number.
    """
    rows = read_csv(path)
    if "instruction" in rows[0].values:
        known = {row.read_text("instruction"): _read_difficulty(row) for row in rows}
        return [
            replace(a, difficulty=_look_up_difficulty(path, known, a.instruction))
            for a in annotations
        ]
    if len(rows) != len(annotations):
        raise EvaluationFileError(
            f"{Path(path).name}: has {len(rows)} rows for {len(annotations)} annotations; "
            "add the column instruction, so that they can be told apart."
        )
    return [
        replace(annotation, difficulty=_read_difficulty(row))
        for annotation, row in zip(annotations, rows, strict=True)
    ]


def _look_up_difficulty(path: str | Path, known: Mapping[str, float], instruction: str) -> float:
    if instruction not in known:
        raise EvaluationFileError(
            f"{Path(path).name}: has no row for the instruction {format_for_message(instruction)}; "
            f"add it, or "
            "leave the difficulty out."
        )
    return known[instruction]


def _read_difficulty(row: NumberedRow) -> float:
    try:
        return float(row.read_text("instruction_difficulty"))
    except ValueError:
        row.refuse("instruction_difficulty is not a number.")


def read_leaderboard(path: str | Path) -> dict[str, dict[str, str]]:
    """Read leaderboard rows by model; cells stay texts.

    Raises:
        EvaluationFileError: the file is malformed, or a model has two rows.
    """
    found: dict[str, dict[str, str]] = {}
    for row in read_csv(path):
        model = unguard_cell(row.values.get("") or row.values.get("model") or "")
        if model in found:
            row.refuse(
                f"the model {format_for_message(model)} has an earlier row; keep one of them."
            )
        cells = {name: value or "" for name, value in row.values.items() if name}
        found[model] = {name: unguard_cell(cell) for name, cell in cells.items()}
    return found


def list_changed_cells(before: Mapping[str, str], after: Mapping[str, Any]) -> list[str]:
    """List the leaderboard metrics that would change, as `name old -> new`.

    Empty or missing cells are not metrics.
    """
    return [
        f"{name} {before[name]} -> {_format_cell(value) or 'none'}"
        for name, value in after.items()
        if before.get(name) and not _is_same(before[name], _format_cell(value))
    ]


def _format_cell(value: object) -> str:
    return "" if value is None else str(value)


def _is_same(one: str, other: str) -> bool:
    try:
        return math.isclose(float(one), float(other), rel_tol=1e-9)
    except ValueError:
        return one == other


def write_leaderboard(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a leaderboard file, ordered by length-controlled win rate."""
    columns = [*LEADERBOARD_COLUMNS]
    columns += [c for row in rows.values() for c in row if c not in columns]
    columns = list(dict.fromkeys(columns))
    ranked = sorted(rows.items(), key=lambda item: -_get_sort_key(item[1]))
    cells = ([model, *map(row.get, columns)] for model, row in ranked)
    write_atomically(path, [format_csv([["", *columns], *cells], line_end="\n")])


def _get_sort_key(row: Mapping[str, Any]) -> float:
    value = row.get("length_controlled_winrate")
    return float(value) if value not in (None, "") else -1.0


def _drop_absent(record: ModelOutput | Annotation) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in record.__slots__}
    return {name: value for name, value in values.items() if value is not None}


def read_outputs_by_instruction(path: Path | None) -> dict[str, ModelOutput]:
    """Read an outputs file by instruction; empty without a file."""
    if path is None:
        return {}
    return {output.instruction: output for output in read_outputs(path)}
