"""What an earlier version has left behind goes on under this one, as if nothing had happened.

Each folder here is named after the commit that made it; `make_fixture` says how.
"""

import contextlib
import gzip
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import services
from tests.upgrades import into_postgresql
from tests.upgrades.make_fixture import ROOT

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
EARLIER = sorted(path for path in HERE.iterdir() if (path / "rows.sql.gz").exists())
OLDEST = "3600774"
"""The earlier version that most migrations separate from today's; the others are slow tests."""

RENAMED = {
    "experiments_order": "experiments_job",
    "people_event": "people_securityevent",
    "audit_truth": "audit_hiddenverdict",
    "audit_history": "audit_itemhistoryentry",
    "audit_override": "audit_gateoverride",
    "audit_act": "audit_auditlogentry",
    "notices_choice": "notices_subscription",
    "notices_occasion": "notices_notificationevent",
    "notices_notice": "notices_notification",
}
"""Tables that were renamed, and what they are called today."""

MERGED = ("people_securityevent", "audit_auditlogentry", "audit_itemhistoryentry")
"""Tables that are part of the activity log today."""
TRAILS = (*MERGED, "experiments_job", "audit_gateoverride")
"""Tables that recorded who did what, before there was one activity log."""

UPGRADE = """
import os

from django.core.management import call_command
call_command("migrate", verbosity=0)
call_command("makemigrations", "--check", "--dry-run", verbosity=0)

from django.contrib.auth.models import Group
from django.db import connection

with connection.cursor() as cursor:
    for table in os.environ["COUNTED"].split():
        cursor.execute(f"select count(*) from {table}")
        print("rows of", table, cursor.fetchone()[0])
from webapp.activity import models as activity
trails = {
    "people_securityevent": activity.SECURITY_ACTIONS,
    "audit_auditlogentry": activity.AUDIT_ACTIONS,
    "audit_itemhistoryentry": activity.ITEM_ACTIONS,
    "experiments_job": activity.JOB_ACTIONS,
    "audit_gateoverride": (activity.Action.GATE_OVERRIDDEN,),
}
rows = activity.Activity.objects.filter(source="unknown")
print("activity", rows.count())
for table, actions in trails.items():
    print("activity from", table, rows.filter(action__in=actions).count())
assert rows.exclude(actor_name="").count() == rows.count()
support = Group.objects.filter(name="support").first()
if support is not None:
    held = support.permissions.values_list("content_type__app_label", "codename")
    print("support may", *sorted(".".join(one) for one in held))

from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.test import Client
from meta_reward_core.iteration import STAGES
from tests.upgrades.make_fixture import fake_training
from webapp.api.models import ApiToken
from webapp.audit.models import Answer
from webapp.experiments.models import Attempt, Experiment, Iteration, Job
from workers.pipeline.open_experiment import build_context

assert authenticate(None, username="alice", password="correct horse battery") is not None
alice = User.objects.get(username="alice")
assert alice.has_perm("experiments.run_experiment")
assert Answer.objects.get().comment == "kept"
assert ApiToken.objects.get().owner == alice
assert Job.objects.get().created_by == alice
attempts = Attempt.objects.count()

from webapp.experiments.files import open_experiment_files

row = Experiment.objects.get(name="kept")
files = open_experiment_files(row)
assert files.exists()
assert files.read_uuid() == row.uuid, "rows and files derive the same UUID"
assert set(row.jobs.values_list("experiment_uuid", flat=True)) <= {row.uuid}
iteration = Iteration.objects.get()
context = build_context(iteration)
scheduled = [stage for stage in STAGES if stage.is_scheduled_in(context)]
assert len(scheduled) == 8
for stage in scheduled:
    for shard in range(stage.plan_shards(context)):
        assert stage.find_finished_shard(context, shard) is not None, stage.name

browser = Client()
browser.force_login(alice)
for page in ("/", "/experiments/kept", "/experiments/kept/iterations/1", "/audits/1",
             "/experiments/kept/audits", "/activity"):
    answer = browser.get(page, headers={"Host": "localhost"})
    assert answer.status_code == 200, (page, answer.status_code)

bookmarks = {
    "/log": "/activity",
    "/people/tokens": "/account/tokens",
    "/people/notices": "/account/notifications",
    "/experiments/kept/try?n=1": "/experiments/kept/playground?n=1",
}
for bookmark, address in bookmarks.items():
    answer = browser.get(bookmark, follow=True, headers={"Host": "localhost"})
    assert answer.redirect_chain == [(address, 301)], answer.redirect_chain
    assert answer.status_code == 200, bookmark

from pathlib import Path
from tests.upgrades.make_fixture import RECIPE

saved = Path(os.environ["META_REWARD_VAR"]) / "saved.yaml"
saved.write_text(RECIPE)
prompts = saved.with_name("prompts.txt")
print(*(f"question {number}?" for number in range(20)), sep=chr(10), file=prompts.open("w"))
wanted = ("--recipe", str(saved), "--prompts", str(prompts), "--iterations", "1")
fake_training()
call_command("run_iteration", "--experiment", "from-a-saved-recipe", *wanted)
assert Iteration.objects.get(experiment__name="from-a-saved-recipe").status == "finished"

call_command("run_iteration", "--experiment", "kept", "--iterations", "2")
assert Iteration.objects.get(experiment=row, number=2).status == "finished"
made_again = Attempt.objects.filter(shard__stage__iteration=iteration).count() - attempts
assert made_again == 0, "a shard of the earlier version was made again"
"""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """An installation in a folder of its own, by the kind of its database."""
    if request.param == "sqlite":
        yield environment_of(tmp_path, f"sqlite:///{tmp_path}/db.sqlite3")
        return
    with services.postgres() as url:
        yield environment_of(tmp_path, url)


@pytest.mark.parametrize(
    "earlier",
    [
        pytest.param(path, id=path.name, marks=() if path.name == OLDEST else pytest.mark.slow)
        for path in EARLIER
    ],
)
def test_an_experiment_begun_by_an_earlier_version_goes_on(
    earlier: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "db.sqlite3")) as database:
        rows = gzip.decompress((earlier / "rows.sql.gz").read_bytes()).decode()
        database.executescript(rows.replace(ROOT, str(tmp_path)))
        if environment["DATABASE_URL"].startswith("postgres"):
            into_postgresql.load(database, environment)
        rows_of = count_rows(database)
    shutil.unpack_archive(earlier / "files.tar.gz", tmp_path)
    description = tmp_path / "artifacts" / "kept" / "experiment.json"
    description.write_text(description.read_text().replace(ROOT, str(tmp_path)))
    before = {path: path.read_bytes() for path in (tmp_path / "artifacts").rglob("*.parquet")}
    now = [RENAMED.get(name, name) for name in rows_of]
    counted = " ".join(name for name in now if name not in MERGED)
    done = upgrade(environment | {"COUNTED": counted})
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path: path.read_bytes() for path in before} == before
    trails = {current: count for name, count in rows_of.items()
              if (current := RENAMED.get(name, name)) in TRAILS}  # fmt: skip
    for name, count in rows_of.items():
        current = RENAMED.get(name, name)
        if current not in MERGED:
            assert f"rows of {current} {count}\n" in done.stdout
    for table, count in trails.items():
        assert f"activity from {table} {count}\n" in done.stdout
    assert f"activity {sum(trails.values())}\n" in done.stdout
    if "people_event" in rows_of:
        assert (
            "support may activity.view_activity experiments.view_job notices.change_notification\n"
        ) in done.stdout


def count_rows(database: sqlite3.Connection) -> dict[str, int]:
    """Count the rows of the tables of accounts, experiments, audits and notifications."""
    prefixes = ("experiments_", "people_", "audit_", "notices_")
    tables = [
        name for (name,) in database.execute("select name from sqlite_master where type = 'table'")
    ]
    return {
        name: database.execute(f"select count(*) from {name}").fetchone()[0]
        for name in sorted(tables)
        if name.startswith(prefixes)
    }


def environment_of(root: Path, database_url: str) -> dict[str, str]:
    return os.environ | {
        "DATABASE_URL": database_url,
        "META_REWARD_VAR": str(root / "var"),
        "META_REWARD_ARTIFACT_ROOT": str(root / "artifacts"),
        "META_REWARD_MODEL_ROOT": str(root / "models"),
        "META_REWARD_SCRATCH_ROOT": str(root / "scratch"),
    }


def upgrade(environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "manage.py", "shell", "-v", "0", "-c", UPGRADE],
        cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_there_are_earlier_versions() -> None:
    assert OLDEST in {path.name for path in EARLIER}
