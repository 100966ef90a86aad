"""A backup of one database becomes another one, of the same kind or not, and knows its files."""

import gzip
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError

from meta_reward_core.errors import InputError
from tests.webapp.conftest import make_person
from tests.workers.installation import Installation, UseScript
from webapp.activity.models import Action, Activity
from webapp.api.models import make_token
from webapp.experiments.models import Attempt, Experiment, Job
from workers.ops import backup

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def used(installation: Installation, use_script: UseScript) -> Installation:
    """An installation with a person, their token, an order and a finished iteration."""
    installation.run_iteration()
    alice = make_person("alice", "operator", "auditor")
    make_token(alice, name="nightly", expires=None)
    experiment = Experiment.objects.get()
    Experiment.objects.update(owner=alice)
    Job.objects.create(
        kind="pause", created_by=alice, experiment=experiment, experiment_name="mine"
    )
    return installation


OWN_EVENTS = {Action.BACKED_UP, Action.RESTORED}


def everything() -> list[dict[str, Any]]:
    """All rows but the events that a backup and a restore leave themselves."""
    return list(rows_of(backup._iter_lines(Experiment.objects.all())))


def rows_of(lines: Iterable[Any]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if "row" in line and line["row"]["fields"].get("action") not in OWN_EVENTS:
            yield line


def test_what_was_lost_comes_back_as_it_was(used: Installation, tmp_path: Path) -> None:
    before, file = everything(), tmp_path / "b.gz"
    assert "about 1 experiment(s)" in used.run("backup", "--output", file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    Attempt.objects.all().delete()
    Experiment.objects.all().delete()
    User.objects.all().delete()
    Activity._base_manager.all().delete()
    assert "all files are unchanged" in used.run("restore", "--input", file, "--replace")
    assert everything() == before
    alice = User.objects.get(username="alice")
    assert alice.check_password("correct horse")
    assert alice.has_perm("experiments.run_experiment")
    Job.objects.create(
        kind="pause", created_by=alice, experiment_name="mine"
    )  # numbers go on where they were


def test_a_full_database_is_not_overwritten_by_chance(used: Installation, tmp_path: Path) -> None:
    used.run("backup", "--output", tmp_path / "b.gz")
    User.objects.filter(username="alice").update(email="new@example.org")
    with pytest.raises(CommandError, match="--replace"):
        used.run("restore", "--input", tmp_path / "b.gz")
    assert User.objects.get(username="alice").email == "new@example.org"
    with pytest.raises(CommandError, match="already exists"):
        used.run("backup", "--output", tmp_path / "b.gz")


def test_a_place_that_may_not_be_written_to_is_named(used: Installation, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=f"{tmp_path}/no/a.gz cannot be written: "):
        used.run("backup", "--output", tmp_path / "no" / "a.gz")


@pytest.mark.parametrize("damage", ["cut", "bit", "rows", "text"])
def test_a_damaged_backup_is_refused_before_a_row_is_touched(
    used: Installation, tmp_path: Path, damage: str
) -> None:
    file = tmp_path / "b.gz"
    used.run("backup", "--output", file)
    data = file.read_bytes()
    lines = gzip.decompress(data).splitlines(keepends=True)
    file.write_bytes(
        {
            "cut": data[: len(data) // 2],
            "bit": gzip.compress(b"".join(lines).replace(b'"alice"', b'"malice"', 1)),
            "rows": gzip.compress(b"".join([*lines[:4], *lines[5:]])),
            "text": b"no backup",
        }[damage]
    )
    rows = everything()
    with pytest.raises(CommandError, match="damaged"):
        used.run("restore", "--input", file, "--replace")
    assert everything() == rows


def test_a_backup_of_another_version_names_the_migrations(
    used: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used.run("backup", "--output", tmp_path / "b.gz")
    monkeypatch.setattr(backup, "_list_migrations", lambda: ["experiments.0001_initial"])
    with pytest.raises(InputError, match=r"people\.0001_events"):
        backup.restore_backup(tmp_path / "b.gz", replace=True)


@pytest.mark.parametrize("damage", ["part", "manifest", "all"])
def test_files_that_are_gone_or_differ_are_listed(
    used: Installation, tmp_path: Path, damage: str
) -> None:
    used.run("backup", "--output", tmp_path / "b.gz")
    folder = used.artifacts / "mine" / "iteration-1"
    if damage == "part":
        part = next((folder / "judgments").iterdir())
        part.write_bytes(part.read_bytes()[:-1])
        used.run("restore", "--input", tmp_path / "b.gz", "--check-only")
    elif damage == "manifest":
        (folder / "manifests" / "judge-00000.json").unlink()
    else:
        shutil.rmtree(used.artifacts)
    with pytest.raises(CommandError, match=r"[1-9]\d* file"):
        used.run("restore", "--input", tmp_path / "b.gz", "--check-only", "--deep")


@pytest.mark.slow
def test_rows_of_sqlite_become_rows_of_postgresql_and_back(
    db: None, tmp_path: Path, postgres_url: str
) -> None:
    """By the commands, each with its database in a process of its own."""
    name = f"restored_{os.getpid()}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    elsewhere = f"{postgres_url.rpartition('/')[0]}/{name}"
    manage(tmp_path, f"sqlite:///{tmp_path}/one.sqlite3", _PEOPLE)
    manage(tmp_path, elsewhere, _MOVE)
    backup.restore_backup(tmp_path / "b.gz", replace=True)
    first, second = (
        [line["row"] for line in rows_of(backup.read_lines(tmp_path / file))]
        for file in ("a.gz", "b.gz")
    )
    assert len(first) > 8
    assert first == second
    back = json.loads(
        json.dumps([line["row"] for line in everything()], cls=backup._ExactTimeEncoder)
    )
    assert back == second


def manage(root: Path, database: str, script: str) -> None:
    environment = os.environ | {
        "DATABASE_URL": database,
        "META_REWARD_VAR": str(root),
        "DJANGO_SETTINGS_MODULE": "webapp.settings",
    }
    done = subprocess.run(
        [sys.executable, "-c", _SETUP + script.format(root=root)],
        cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


_SETUP = """
import django
django.setup()
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from webapp.experiments.models import Experiment, Job
from webapp.activity.models import Activity
call_command("migrate", verbosity=0)
"""
_PEOPLE = """
alice = User.objects.create_user("alice", password="correct horse")
alice.groups.set(Group.objects.all())
row = Experiment.objects.create(name="first", owner=alice, recipe={{"naïve": [1.5, None, "漢"]}},
    recipe_sha256="a" * 64, seed=1, artifact_root="/nowhere")
Job.objects.create(kind="pause", created_by=alice, experiment=row, experiment_name="first")
call_command("backup", "--output", "{root}/a.gz")
"""
_MOVE = """
from django.core.management import CommandError
try:
    call_command("restore", "--input", "{root}/a.gz")
except CommandError as error:  # there are no files in this test
    assert "put them back" in str(error) or "are gone" in str(error), error
    last = Activity.objects.order_by("pk").last().pk
    User.objects.create_user("next").delete()  # numbers go on where they were
    Activity._base_manager.filter(pk__gt=last).delete()
call_command("backup", "--output", "{root}/b.gz")
"""
