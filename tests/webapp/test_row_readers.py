"""Who reads rows of experiments without saying for which user: a short list, with reasons.

Pages and operations ask `accounts.permissions` for what their user may see, and hand on the rows
that they got. A module that begins to read such rows by itself fails here.
"""

import ast
from pathlib import Path
from typing import Final

import webapp

ROOT: Final = Path(webapp.__file__).parent
GUARDED: Final = {"Experiment", "Iteration", "Stage", "Shard", "Attempt", "Job", "Worker"}

OF_A_ROW: Final = "reads rows of an experiment or iteration that it is given"
READERS: Final = {
    "audit/selectors.py": OF_A_ROW,
    "accounts/ownership.py": "writes a row that its caller found for a user",
    "accounts/permissions.py": "decides who may see what",
    "dashboard/attempts.py": OF_A_ROW,
    "dashboard/deletion.py": "counts experiments, of whomever, that need a model to be deleted",
    "dashboard/iteration_charts.py": OF_A_ROW,
    "dashboard/lineage.py": OF_A_ROW,
    "dashboard/run_columns.py": "reads columns of the experiments that it is given",
    "dashboard/run_table.py": "reads experiments by the keys of those that a user may see",
    "dashboard/queues.py": "counts shards of the experiments that a user may see",
    "experiment_form/forms.py": "asks whether a name is taken, which creating it would tell too",
    "experiment_form/model_check.py": "finds the check of a model by the hash of its question",
    "experiments/details.py": "locks the row that its caller found for a user",
    "dashboard/machine_charts.py": OF_A_ROW,
    "experiments/jobs.py": "writes jobs, and tells which are pending",
    "experiments/progress.py": "names the work of workers by what may be named",
    "experiments/stage_progress.py": OF_A_ROW,
    "experiments/throughput.py": OF_A_ROW,
    "health.py": "counts, for whoever has the token of the metrics, and admins",
    "notifications/outbox.py": "finds what happened, and asks for each recipient what they may see",
    "playground/conversations.py": OF_A_ROW,
    "playground/publications.py": OF_A_ROW,
    "prometheus.py": "counts, for whoever has the token of the metrics, and admins",
}


def reads_rows(path: Path) -> bool:
    return any(
        isinstance(node, ast.Attribute)
        and node.attr in {"objects", "_default_manager", "_base_manager"}
        and isinstance(node.value, ast.Name)
        and node.value.id in GUARDED
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )


def test_rows_of_experiments_are_read_for_a_user_or_for_a_reason() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if "migrations" not in path.parts and reads_rows(path)
    }
    assert found == set(READERS)


def test_no_view_and_no_operation_reads_rows_by_itself() -> None:
    views = {path for path in READERS if "views" in path or path.startswith("api/")}
    assert views == set()
