"""The embedded broker: private, one at a time, forgetful of nothing, gone with its parent."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from celery.worker.consumer.control import Control

from tests.services import Broker, short_folder
from workers.celery import app
from workers.ops.broker import (
    BrokerError,
    BrokerPaths,
    is_broker_ready,
    start_broker,
    wait_for_broker,
)

STARTS_ONE = """
import subprocess, sys, time
from pathlib import Path
import django
django.setup()
from workers.ops.broker import BrokerPaths, start_broker, wait_for_broker
folder = Path(sys.argv[1])
place = BrokerPaths(data=folder / "data", socket=folder / "s" / "broker.sock")
process = start_broker(place, stdout=subprocess.DEVNULL)
wait_for_broker(place)
print(process.pid, flush=True)
time.sleep(600)
"""


def test_its_owner_alone_may_talk_to_it_and_nobody_by_network(running_broker: Broker) -> None:
    socket = running_broker.place.socket
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(socket.stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE(running_broker.place.data.stat().st_mode) == 0o700
    assert running_broker.process is not None
    listening = psutil.Process(running_broker.process.pid).net_connections(kind="inet")
    assert listening == []


def test_it_refuses_rather_than_forgets(running_broker: Broker) -> None:
    with running_broker.client() as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("append*")["appendfsync"] == "everysec"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_remembers_what_it_was_told(running_broker: Broker, number: int) -> None:
    with running_broker.client() as client:
        client.rpush("queue", "message")
    assert running_broker.process is not None
    running_broker.process.send_signal(number)
    running_broker.process.wait()
    assert not is_broker_ready(running_broker.place)
    running_broker.start()
    with running_broker.client() as client:
        assert client.lrange("queue", 0, -1) == [b"message"]


def test_there_is_one_at_a_time(running_broker: Broker) -> None:
    assert start_broker(running_broker.place) is None
    assert is_broker_ready(running_broker.place)


def test_it_dies_with_its_parent_even_by_sigkill() -> None:
    with short_folder() as folder:
        environment = os.environ | {"DJANGO_SETTINGS_MODULE": "webapp.settings"}
        parent = subprocess.Popen(
            [sys.executable, "-c", STARTS_ONE, str(folder)],
            env=environment,
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        with parent:
            assert parent.stdout is not None
            broker = psutil.Process(int(parent.stdout.readline()))
            parent.kill()
        psutil.wait_procs([broker], timeout=10)
        assert not broker.is_running() or broker.status() == psutil.STATUS_ZOMBIE


def test_a_path_that_is_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="set TMPDIR to a shorter path"):
        start_broker(BrokerPaths(data=tmp_path / "data", socket=tmp_path / ("x" * 100) / "s"))


def test_a_folder_that_others_may_enter_is_refused() -> None:
    with short_folder() as folder:
        (folder / "s").mkdir()
        (folder / "s").chmod(0o755)
        with pytest.raises(BrokerError, match="is open to others"):
            start_broker(BrokerPaths(data=folder / "data", socket=folder / "s" / "broker.sock"))


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    with short_folder() as folder:
        (folder / "s").symlink_to(tmp_path)
        with pytest.raises(BrokerError):
            start_broker(BrokerPaths(data=folder / "data", socket=folder / "s" / "broker.sock"))


def test_one_that_does_not_answer_is_reported() -> None:
    with short_folder() as folder:
        place = BrokerPaths(data=folder, socket=folder / "broker.sock")
        with pytest.raises(BrokerError, match="does not respond"):
            wait_for_broker(place, timeout_seconds=0.1)


def test_a_worker_takes_no_commands_from_the_broker() -> None:
    """By remote control, anyone with access to the broker could silence a worker for good."""
    step = Control.__new__(Control)
    connection = SimpleNamespace(supports_exchange_type=lambda _: True)
    assert not step.include_if(SimpleNamespace(app=app, conninfo=connection))
