"""Exchange files with other tools' own libraries, in both directions.

It creates a virtual environment for each tool, with the versions below, and prints the results. It
exits with 1 if a tool refuses a file, or the two sides differ. No servers are run.

Audits: the libraries of Label Studio, Argilla and MLflow validate and complete the exported files
    of a batch, and the results are imported.

Benchmarks: arena-hard-auto (versions 0.1 and 2.0), fastchat, alpaca-eval and reward-bench read and
score our files and files of their own; our code does the same, and one table compares each value.
Tools that are not on a package index are used from checkouts in the folder of --sources:

    git clone https://github.com/lmarena/arena-hard-auto SOURCES/arena-hard-auto-v2.0
    git -C SOURCES/arena-hard-auto-v2.0 checkout 196f6b8
    git clone https://github.com/lmarena/arena-hard-auto SOURCES/arena-hard-auto-v0.1
    git -C SOURCES/arena-hard-auto-v0.1 checkout 0489bf3
    git clone https://github.com/allenai/reward-bench SOURCES/reward-bench
    git -C SOURCES/reward-bench checkout 05a9005

    python -m benchmarks.tool_roundtrip
    python -m benchmarks.tool_roundtrip --environments DIR   # keep the environments
    python -m benchmarks.tool_roundtrip --tools arena-hard-auto fastchat --sources SOURCES
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

if TYPE_CHECKING:
    from tool_roundtrip_rows import Comparison

TOOLS = {
    "label-studio": ("label-studio-sdk==2.1.2",),
    # imported by argilla, but not declared as a dependency
    "argilla": ("argilla==2.8.0", "requests"),
    "mlflow": ("mlflow-skinny==3.17.2",),
}


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A tool that scores models, and the module whose `compare(python)` runs both sides.

    Attributes:
        module: imported when the tool is chosen.
        installs: arguments of `pip install`, one call each; `{sources}` is the folder of --sources.
        checkouts: folders of --sources that are linked into the environment's `sources`.
    """

    module: str
    installs: tuple[tuple[str, ...], ...]
    checkouts: tuple[str, ...] = ()


BENCHMARKS = {
    "arena-hard-auto": Benchmark(
        "tool_roundtrip_arena_hard",
        (
            ("torch==2.13.0", "numpy==1.26.4", "pandas==2.3.3", "scikit-learn==1.7.2"),
            ("tqdm", "pyyaml"),
        ),
        ("arena-hard-auto-v0.1", "arena-hard-auto-v2.0"),
    ),
    "fastchat": Benchmark(
        "tool_roundtrip_fastchat",
        (("--no-deps", "fschat==0.2.36"), ("pandas==2.3.3",)),
    ),
    "alpaca-eval": Benchmark(
        "tool_roundtrip_alpaca_eval",
        (("alpaca_eval==0.6.6", "scikit-learn==1.9.1", "pandas==3.1.1"),),
    ),
    "reward-bench": Benchmark(
        "tool_roundtrip_reward_bench",
        (("pandas", "datasets"), ("--no-deps", "{sources}/reward-bench")),
        ("reward-bench",),
    ),
}
ANSWERS = ("A", "B", "tie", "neither")
ANNOTATORS = (
    "00000000-0000-4000-8000-000000000001",
    "00000000-0000-4000-8000-000000000002",
)
LABELS = """
<View>
  <Text name="instruction" value="$instruction"/><Text name="response" value="$response"/>
  <Text name="judgment_a" value="$judgment_a"/><Text name="judgment_b" value="$judgment_b"/>
  <Choices name="answer" toName="response" choice="single" required="true">
    <Choice value="A"/><Choice value="B"/><Choice value="tie"/><Choice value="neither"/>
  </Choices>
  <TextArea name="comment" toName="response"/>
</View>
"""


# Runs in the environment of a tool, without our code.


def annotate_tasks(source: Path, target: Path) -> None:
    """Let Label Studio validate tasks, and annotations by two users for each."""
    from label_studio_sdk.label_interface import LabelInterface

    interface = LabelInterface(LABELS)
    interface.validate()
    tasks = json.loads(source.read_text(encoding="utf-8"))
    for number, task in enumerate(tasks):
        assert interface.validate_task(task), task
        task["annotations"] = [
            {"completed_by": person, "lead_time": 9.5, "result": [
                {"id": f"r{number}-{person}", "from_name": "answer", "to_name": "response",
                 "type": "choices", "value": {"choices": [ANSWERS[(number + person) % 4]]}},
                {"id": f"c{number}-{person}", "from_name": "comment", "to_name": "response",
                 "type": "textarea", "value": {"text": [f"seen by {person}"]}},
            ]}
            for person in range(2)
        ]  # fmt: skip
        assert all(map(interface.validate_annotation, task["annotations"])), task
    target.write_text(json.dumps(tasks), encoding="utf-8")
    print(f"{len(tasks)} tasks and {2 * len(tasks)} annotations are valid")


def respond_to_records(source: Path, target: Path) -> None:
    """Let Argilla read records, accept responses by two users to each, and write them."""
    import argilla

    server = Mock()  # settings require the client of a server, but only use it to publish them
    fields = ("instruction", "response", "judgment_a", "judgment_b")
    settings = argilla.Settings(
        fields=[argilla.TextField(name=name, client=server) for name in fields],
        questions=[
            argilla.LabelQuestion(name="answer", labels=list(ANSWERS), client=server),
            argilla.TextQuestion(name="comment", required=False, client=server),
        ],
        metadata=[
            argilla.IntegerMetadataProperty(name=name, client=server) for name in ("batch", "item")
        ],
    )
    settings.validate()
    written = []
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines()):
        record = argilla.Record.from_dict(json.loads(line))
        for person, user in enumerate(ANNOTATORS):
            answer = ANSWERS[(number + person) % 4]
            record.responses.add(argilla.Response("answer", answer, user_id=user))
            record.responses.add(argilla.Response("comment", f"seen by {person}", user_id=user))
        written.append(json.dumps(record.to_dict(), default=str))
    target.write_text("\n".join(written), encoding="utf-8")
    print(f"{len(written)} records with {2 * len(written)} responses were read and written")


def read_assessments(source: Path, target: Path) -> None:
    """Let MLflow read assessments and write them again."""
    from mlflow.entities.assessment import Assessment

    lines = source.read_text(encoding="utf-8").splitlines()
    found = [Assessment.from_dictionary(json.loads(line)) for line in lines]
    assert {one.source.source_type for one in found} == {"HUMAN"}
    target.write_text(json.dumps([one.to_dictionary() for one in found]), encoding="utf-8")
    kinds = ", ".join(sorted({type(one).__name__ for one in found}))
    print(f"{len(found)} assessments were read as {kinds} with a human source")


INSIDE: dict[str, Callable[[Path, Path], None]] = {
    "label-studio": annotate_tasks,
    "argilla": respond_to_records,
    "mlflow": read_assessments,
}


# Runs in our own environment.


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--environments", type=Path, help="Folder of the tools' environments.")
    parser.add_argument("--sources", type=Path, help="Folder of source checkouts (see above).")
    parser.add_argument(
        "--tools", nargs="+", choices=[*TOOLS, *BENCHMARKS], default=list(TOOLS), metavar="TOOL",
        help=f"Tools to run: {', '.join([*TOOLS, *BENCHMARKS])}. Default: the first three.",
    )  # fmt: skip
    parser.add_argument("--inside", nargs=3, metavar=("TOOL", "FROM", "TO"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        tool, source, target = options.inside
        INSIDE[tool](Path(source), Path(target))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        environments = options.environments or work / "environments"
        audits = [tool for tool in options.tools if tool in TOOLS]
        faults = exchange(audits, work, environments) if audits else []
        rows = [
            row
            for tool in options.tools
            if tool in BENCHMARKS
            for row in compare_benchmark(tool, environments, options.sources)
        ]
    for fault in faults:
        print(f"WRONG: {fault}")
    if rows:
        print_comparisons(rows)
    sys.exit(bool(faults) or not all(row.agrees for row in rows))


def exchange(tools: Sequence[str], work: Path, environments: Path) -> list[str]:
    """Exchange an audit with each annotation tool; return the faults."""
    os.environ["DATABASE_URL"] = f"sqlite:///{work / 'db.sqlite3'}"
    os.environ["DJANGO_SETTINGS_MODULE"] = "webapp.settings"
    import django  # imported only now, because its settings read the environment

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    faults = []
    for tool in tools:
        python = make_environment(environments / tool, [TOOLS[tool]])
        faults += check_tool(tool, python, work)
    return faults


def compare_benchmark(tool: str, environments: Path, sources: Path | None) -> list["Comparison"]:
    """Run a benchmark's own code and ours on the same files."""
    known = BENCHMARKS[tool]
    if sources is None and known.checkouts:
        needed = " and ".join(known.checkouts)
        sys.exit(f"{tool} is on no package index: give a folder with {needed} by --sources")
    sources = sources or Path()
    sys.path.append(str(Path(__file__).parent))  # as if the benchmark were run by its path
    compare = import_module(known.module).compare
    folder = environments / tool
    python = make_environment(
        folder, [[part.format(sources=sources) for part in one] for one in known.installs]
    )
    for name in known.checkouts:
        link = folder / "sources" / name
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to((sources / name).resolve(strict=True))
    found: list[Comparison] = compare(python)
    return found


def print_comparisons(rows: Sequence["Comparison"]) -> None:
    """Print one table of all comparisons, and the number of disagreements."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Our code and the tools' own on the same files", title_justify="left")
    for heading in ("tool", "what", "ours", "theirs", "agrees"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        values = (
            "none" if value is None else value if isinstance(value, str) else f"{value:.6g}"
            for value in (row.ours, row.theirs)
        )
        table.add_row(row.tool, row.what, *values, "yes" if row.agrees else "NO")
    console = Console(width=150, markup=False)
    console.print(table)
    wrong = sum(not row.agrees for row in rows)
    console.print(f"{len(rows)} comparisons, {wrong} of them disagree")


def make_environment(folder: Path, installs: Sequence[Sequence[str]]) -> Path:
    """Return a Python with a tool's library and without our packages."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        for packages in installs:
            run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                 *packages])  # fmt: skip
    return python


def run(command: Sequence[object]) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def check_tool(tool: str, python: Path, work: Path) -> list[str]:
    """Exchange a separate batch with a tool; return the faults."""
    from webapp.audit.exports import export_batch

    batch = draw_batch(work, answered=tool == "mlflow")
    file = export_batch(batch, tool)
    source, target = work / file.name, work / f"back-{file.name}"
    source.write_bytes(file.content)
    version = TOOLS[tool][0]
    print(f"{version}: {run([python, __file__, '--inside', tool, source, target])}", flush=True)
    if tool == "mlflow":
        return check_assessments(target, batch)
    return check_answers(tool, target, batch)


def draw_batch(work: Path, *, answered: bool) -> Any:
    """Create a batch of twelve items that are all repeated for another auditor."""
    from tests.webapp import audit_fixtures
    from tests.webapp.conftest import make_person
    from webapp.audit.models import Answer
    from webapp.experiments.models import Experiment

    experiment = Experiment.objects.first()
    if experiment is None:
        audit_fixtures.write_files(work / "artifacts")
        owner = make_person("alice", "operator")
        experiment = audit_fixtures.record(work / "artifacts", owner=owner)
    batch = audit_fixtures.draw(experiment, by=experiment.owner, auditors=[], other_share=1.0)
    for item in batch.items.all() if answered else ():
        Answer.objects.create(item=item, auditor_name="carol", choice="first", comment="clear")
    return batch


def check_answers(tool: str, target: Path, batch: Any) -> list[str]:
    """Import a tool's output twice, and compare each answer with the original."""
    from webapp.audit.forms import to_shown_letter
    from webapp.audit.imports import import_file
    from webapp.audit.models import Answer

    first, again = (
        import_file(batch, target.name, target.read_bytes(), by=batch.created_by) for _ in range(2)
    )
    print(f"  {first} The same file again: {again.added} new.")
    faults = []
    originals = list(batch.items.filter(repeat_kind="").order_by("number"))
    for number, item in enumerate(originals):
        for person, place in enumerate((item, item.repeats.get(repeat_kind="other"))):
            found = Answer.objects.get(item=place)
            given = ANSWERS[(number + person) % 4], f"seen by {person}"
            if (to_shown_letter(found.choice, item), found.comment) != given:
                faults.append(f"{tool}, item {place.number}: {found.choice} for {given}")
    print(f"  compared: {2 * len(originals)} answers, {len(faults)} of them wrong")
    return faults


def check_assessments(target: Path, batch: Any) -> list[str]:
    from webapp.audit.imports import import_file
    from webapp.audit.models import Answer

    found = json.loads(target.read_text(encoding="utf-8"))
    said = {(one["metadata"]["item"], one["feedback"]["value"], one["rationale"],
             one["source"]["source_id"]) for one in found}  # fmt: skip
    answers = Answer.objects.filter(item__batch=batch).select_related("item")
    given = {(str(a.item.number), a.choice, a.comment, a.auditor_name) for a in answers}
    print(f"  compared: {len(given)} assessments, {len(given - said)} of them wrong")
    back = import_file(batch, target.name, target.read_bytes(), by=batch.created_by)
    print(f"  {back}")
    faults = [f"mlflow: {one}" for one in given - said]
    return faults + [f"mlflow: {one}" for one in back.left_out]


if __name__ == "__main__":
    main()
