"""Two web processes are asked for the same thing at the same moment: one gets it, one is told."""

import json
import shutil
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from tests.end_to_end.serving import wait
from tests.faults.world import World, world
from tests.services import free_port

TOKENS = """
from django.contrib.auth.models import User
from webapp.api.models import make_token
for name in ("alice", "bob"):
    print(make_token(User.objects.get(username=name), name="test", expires=None)[1])
"""
LAUNCH = {"name": "same", "recipe": "smoke", "seed": 1, "until": 1,
        "model": {"source": "folder", "name": "seed"},
        "values": {"engine.kind": "scripted"}}  # fmt: skip


def ask(port: int, token: str) -> tuple[int, str]:
    """Ask one of the web processes for the experiment; what it answers."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/v1/experiments",
        json.dumps(LAUNCH).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status), ""
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def is_up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=5):
            return True
    except OSError:
        return False


@pytest.mark.faults
def test_two_web_processes_launch_the_same_name_once(tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(get_shipped_seed_model(), models / "seed")
    with world(tmp_path / "world", models) as here:
        made = here.site.manage("shell", "-v", "0", "-c", TOKENS)
        assert made.returncode == 0, made.stdout
        tokens = made.stdout.split()
        ports = [free_port(), free_port()]
        for port in ports:
            where = ("--bind", f"127.0.0.1:{port}", "--threads", "4", "--no-control-socket")
            here.start("-m", "gunicorn", "webapp.wsgi:application", *where)
            here.start_reconciler()
        for port in ports:
            wait(lambda port=port: is_up(port), explain=here.log)  # type: ignore[misc]
        with ThreadPoolExecutor() as pool:
            asked = list(pool.map(ask, ports * 3, tokens * 3))
        refused = [said for status, said in asked if status != 202]
        assert all("already" in said for said in refused), refused
        assert len(refused) < len(asked)
        here.wait_until(lambda: unsettled(here) == 0)
        statuses = here.ask("select status, message from experiments_job order by status")
        assert [status for status, _ in statuses].count("done") == 1
        reasons = [why for status, why in statuses if status != "done"]
        assert all("already" in why for why in reasons), reasons
        assert here.ask("select name from experiments_experiment") == [("same",)]
        assert here.ask("select number from experiments_iteration") == [(1,)]


def unsettled(here: World) -> int:
    found = here.ask("select count(*) from experiments_job where status in ('waiting', 'running')")
    return int(found[0][0]) if found else 1
