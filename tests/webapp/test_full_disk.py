"""A database on a full disk: the site says so, nothing is damaged, and it goes on afterwards.

The disk is a small tmpfs in a mount namespace of its own, so it needs root or user namespaces.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.databases import CHECKOUT, find_migrated_database

SITE = """
import os
from pathlib import Path
from django.conf import settings
from django.contrib.auth.models import Group, User
from django.db import OperationalError, connection
from django.test import Client
from webapp.activity.models import Activity
from webapp.api.models import make_token
from webapp.experiments.models import Experiment
from workers.management.base import handle_errors

disk = Path(os.environ["DISK"])
user = User.objects.create_user("olga", password="correct horse")
user.groups.add(Group.objects.get(name="operator"))
token = make_token(user, name="t", expires=None)[1]
Experiment.objects.create(name="first", recipe={}, seed=1, owner=user)
browser = Client(raise_request_exception=False)
browser.force_login(user)
api = Client(raise_request_exception=False, headers={"Authorization": f"Bearer {token}"})
with connection.cursor() as cursor:
    cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")

filler = disk / "filler"
with filler.open("wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass

before = Activity.objects.count()
notes = {"notes": "x" * 20_000}
path = "/api/v1/experiments/first/details"
refused = api.patch(path, notes, content_type="application/json")
assert refused.status_code == 507, refused.content
assert refused.json()["detail"].startswith("The disk of this installation is full"), refused.json()
page = Client(raise_request_exception=False).post(
    "/account/login", {"username": "olga", "password": "correct horse"}
)
assert page.status_code == 507, page.status_code
assert b"Free space on it, then try again" in page.content
assert api.get("/api/v1/experiments/first").json()["notes"] == ""
assert browser.get("/experiments/first").status_code == 200
assert browser.get("/livez").status_code == 200
try:
    with handle_errors():
        Experiment.objects.update(notes="y" * 20_000)
except Exception as error:
    assert "no room left on the disk" in str(error), error
else:
    raise AssertionError("a command wrote to a full disk")

filler.unlink()
assert api.patch(path, notes, content_type="application/json").status_code == 200
assert Experiment.objects.get().notes == notes["notes"]
assert Activity.objects.count() == before + 1
with connection.cursor() as cursor:
    cursor.execute("PRAGMA integrity_check")
    assert cursor.fetchone() == ("ok",)
print("went on")
"""


def mount_small_disk(folder: Path) -> list[str]:
    """Build the beginning of a command that sees a small disk at a folder."""
    namespace = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    mount = f"mount -t tmpfs -o size=4m,mode=0700 tmpfs {folder} && "
    return [*namespace, "sh", "-c", mount + 'cp "$DATABASE" "$DISK/db.sqlite3" && exec "$@"', "sh"]


def test_a_full_disk_is_said_damages_nothing_and_ends_with_it(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    begin = mount_small_disk(disk)
    environment = os.environ | {
        "DISK": str(disk),
        "DATABASE": str(find_migrated_database()),
        "DATABASE_URL": f"sqlite:///{disk}/db.sqlite3",
        "META_REWARD_VAR": str(tmp_path / "var"),
        "META_REWARD_ALLOWED_HOSTS": "testserver",
    }
    if not shutil.which("unshare") or subprocess.run([*begin, "true"], env=environment).returncode:
        pytest.skip("no mount namespace here: this needs root or user namespaces")
    done = subprocess.run(
        [*begin, sys.executable, "manage.py", "shell", "-v", "0", "-c", SITE],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "went on\n"
