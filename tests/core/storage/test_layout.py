"""One module knows where the files of an experiment are, and a stage names all that it writes."""

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import meta_reward_core
import webapp
import workers
from meta_reward_core.iteration import STAGES
from meta_reward_core.recipes.dataflow import JUDGE
from meta_reward_core.storage import layout
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.storage.layout import ExperimentLayout
from meta_reward_core.storage.schemas import SCHEMAS, WRITERS
from tests.core.scripted_world import begin, run_whole

PACKAGES = [Path(package.__file__ or "").parent for package in (meta_reward_core, webapp, workers)]
TEMPLATES = PACKAGES[0].parent / "templates"
KNOWS_THE_LAYOUT = re.compile(
    r"(?<![\w-])iteration-(?=$|[\d{(\\])|experiment\\?\.json|(?<!\w)manifest\\?\.json"
    r"|(?<!\w)manifests/|evaluations/|evaluation-data|/checkpoint|model_check\\?\.json|part-[^\s]*parquet"
)
"""Also inside regular expressions, and where an f-string goes on with a number."""


def iter_texts(module: ast.Module) -> Iterator[str]:
    """Every text of a module that is no docstring; an f-string ends where a value begins."""
    nodes = list(ast.walk(module))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            yield str(node.value)


def find_modules_that_know() -> list[str]:
    found = []
    for package in PACKAGES:
        for path in sorted(package.rglob("*.py")):
            texts = iter_texts(ast.parse(path.read_text(encoding="utf-8")))
            if any(KNOWS_THE_LAYOUT.search(text) for text in texts):
                found.append(path.relative_to(package.parent).as_posix())
    return found


def test_one_module_knows_the_layout() -> None:
    assert find_modules_that_know() == ["meta_reward_core/storage/layout.py"]


def test_no_page_knows_the_layout() -> None:
    pages = {
        path.name: KNOWS_THE_LAYOUT.findall(path.read_text(encoding="utf-8"))
        for path in TEMPLATES.rglob("*.html")
    }
    assert {name: found for name, found in pages.items() if found} == {}


@pytest.mark.parametrize(
    "text",
    ["a/iteration-", "iteration-1/x", r"iteration-\d", "a/experiment.json", r"experiment\.json",
     "/manifest.json", "manifests/", "evaluations/M1", "x/checkpoint", "a/model_check.json",
     "part-00001.parquet"],
)  # fmt: skip
def test_a_path_of_the_layout_is_recognized(text: str) -> None:
    assert KNOWS_THE_LAYOUT.search(text)


def test_an_experiments_folder_is_decided_in_one_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hanging all files on something else than the name is a change of one function."""
    moved = classmethod(lambda cls, name, uuid=None: cls(f"by-id/{len(name)}", uuid))
    monkeypatch.setattr(ExperimentLayout, "from_name", moved)
    run_whole(begin(tmp_path), 1, monkeypatch)
    folder = tmp_path / "by-id" / str(len("scripted"))
    assert (folder / "experiment.json").is_file()
    assert (folder / "iteration-1" / "manifest.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["by-id"]
    assert ExperimentFiles(ArtifactStore(str(tmp_path)), "scripted").exists()


def test_a_stage_names_every_file_that_its_shards_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = run_whole(begin(tmp_path), 1, monkeypatch)
    named = {
        path
        for stage in STAGES
        for shard in range(stage.plan_shards(context))
        for path in (
            *stage.list_outputs(shard),
            layout.get_shard_manifest_path(stage.name, shard),
        )
    } | {layout.FINAL_MANIFEST}
    root = tmp_path / context.files.folder
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    written = {path for path in files if not path.startswith("probe/")}  # no shard promises them
    assert written == {
        path for path in written if any(path == one or path.startswith(f"{one}/") for one in named)
    }
    not_here = ("task_", "refused_by_")
    for path in (path for path in named if not path.startswith(not_here)):
        assert (root / path).exists(), path


def test_every_table_is_written_by_the_stages_that_storage_looks_at() -> None:
    by_stage = {
        table: tuple(stage.name for stage in STAGES if table in stage.writes) for table in SCHEMAS
    }
    assert by_stage == {
        table: tuple(name for name in WRITERS[table] if name not in ("pool", "audit"))
        for table in SCHEMAS
    }


def test_a_stage_that_storage_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="WRITERS"):
        replace(JUDGE, writes=("judgments",))


def test_file_names_are_read_as_they_are_written() -> None:
    assert layout.parse_partition_number(layout.get_partition_path("scores", 12)) == 12
    manifest = layout.get_shard_manifest_path("meta_judge", 123456).rpartition("/")[2]
    assert layout.parse_shard_manifest_name(manifest) == ("meta_judge", 123456)
    assert layout.parse_shard_manifest_name("notes.txt") is None
    here = ExperimentLayout("mine")
    assert layout.get_experiment_folder(here.get_iteration(3)) == "mine"
    assert layout.parse_settings_change_name(here.get_settings_change(7).rpartition("/")[2]) == 7
    assert layout.parse_model_name(here.get_scorecards(2).rpartition("/")[2]) == 2


@pytest.mark.parametrize(
    ("path", "is_stored"),
    [
        ("experiment.json", True),
        ("settings/00001.json", True),
        ("iteration-3/manifest.json", True),
        ("iteration-3/scores/part-00000.parquet", True),
        ("iteration-3/checkpoint/adapter/weights.safetensors", False),
        ("iteration-3/secrets/part-00000.parquet", False),
        (".lock", False),
        ("settings/../.lock", False),
    ],
)
def test_only_files_of_an_experiment_are_stored_files(path: str, *, is_stored: bool) -> None:
    found = layout.compile_stored_pattern(SCHEMAS).fullmatch(path)
    assert (found is not None) is is_stored
