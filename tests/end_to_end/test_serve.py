"""`format_command.py serve` and `format_command.py worker` in processes of their own."""

import signal
import subprocess
from collections.abc import Iterator

import psutil
import pytest
import redis
from django.core.management import CommandError, call_command

from meta_reward_core.system.command_hint import format_command
from tests.end_to_end.serving import PARTS, Server, own_server, wait
from tests.services import Broker


@pytest.fixture
def server() -> Iterator[Server]:
    with own_server() as made:
        yield made


@pytest.fixture(scope="module")
def up() -> Iterator[Server]:
    """A server at its first start, which tests may shake if they leave it up."""
    with own_server() as made:
        made.start()
        made.wait_until_up()
        yield made


def broker_client(server: Server) -> "redis.Redis":
    command = server.part("broker").cmdline()
    return redis.Redis(unix_socket_path=command[command.index("--unixsocket") + 1])


def test_it_comes_up_with_one_command(up: Server) -> None:
    """`test_dashboard` has the end of one, after it has worked."""
    assert "There are no experiments yet" in (up.get("/") or "")
    wait(lambda: "@" in (up.get("/workers") or ""), explain=up.said)
    wait(lambda: all(up.pids(name) for name in PARTS), explain=up.said)


@pytest.mark.slow
def test_a_killed_supervisor_leaves_nothing(server: Server) -> None:
    process = server.start()
    server.wait_until_up()
    assert len(server.processes()) >= 7
    process.kill()
    process.wait()
    wait(lambda: not server.processes(), explain=server.processes, seconds=20)


def test_a_page_is_right_after_a_restart_of_the_site(up: Server) -> None:
    before = up.get("/")
    site = up.part("web")
    site.kill()
    up.wait_until_replaced("web", killed=site.pid)
    wait(lambda: "web        | killed by signal 9; started again in" in up.said(), explain=up.said)
    wait(lambda: up.get("/") == before, explain=up.said)


SEND_ADVANCE = "from workers.tasks import advance; advance.apply_async([0], queue='cpu')"


def test_a_broker_that_is_killed_comes_back_with_its_messages(up: Server) -> None:
    with broker_client(up) as client:
        client.rpush("kept", "a message")
    broker = up.part("broker")
    broker.kill()
    up.wait_until_replaced("broker", killed=broker.pid)
    with broker_client(up) as client:
        wait(lambda: kept_messages(client) == [b"a message"], explain=up.said)
    assert (
        up.manage("shell", "--verbosity", "0", "--command", SEND_ADVANCE, log="sent").wait(60) == 0
    )
    wait(lambda: "Task workers.advance" in up.said(), explain=up.said)  # the worker is back, too


def kept_messages(client: "redis.Redis") -> object:
    try:
        return client.lrange("kept", 0, -1)
    except redis.RedisError:
        return None


def test_a_worker_that_is_killed_leaves_no_child_and_is_replaced(up: Server) -> None:
    worker = up.part("worker")
    children = worker.children(recursive=True)
    assert children
    worker.kill()
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() for child in children)
    up.wait_until_replaced("worker", killed=worker.pid)


def test_another_worker_joins_and_leaves(up: Server) -> None:
    worker = up.manage("worker", "--queues", "cpu", log="worker")
    wait(lambda: "ready." in up.said("worker"), explain=lambda: up.said("worker"))
    joined = psutil.Process(worker.pid).children(recursive=True)
    assert joined
    worker.send_signal(signal.SIGINT)
    assert worker.wait(60) == 0, up.said("worker")
    assert not any(process.is_running() for process in joined)
    assert up.get() == "ok"


def test_a_container_asks_whether_its_site_is_well(up: Server) -> None:
    call_command("health", "--site", f"http://127.0.0.1:{up.port}")
    with pytest.raises(CommandError, match="the site does not respond"):
        call_command("health", "--site", "http://127.0.0.1:9")


def test_a_second_one_on_the_same_port_says_what_to_do(up: Server) -> None:
    second = up.manage("serve", "--port", str(up.port), log="second")
    assert second.wait(60) == 2
    assert f"127.0.0.1:{up.port} is in use: choose another port" in up.said("second")


@pytest.mark.slow
def test_a_second_one_on_another_port_uses_the_broker_of_the_first(up: Server) -> None:
    first, port = up.process, up.port
    up.start()
    second = up.process
    try:
        wait(lambda: up.get() == "ok")
        assert len(up.pids("broker")) == 1
    finally:
        assert second is not None
        second.send_signal(signal.SIGINT)
        second.wait(60)
        up.process, up.port = first, port
    assert up.pids("broker")


def test_a_worker_without_a_broker_says_what_to_do(server: Server) -> None:
    worker = server.manage("worker", log="worker")
    assert worker.wait(60) == 2
    assert (
        f"run `{format_command('serve')}` on this machine first, or set CELERY_BROKER_URL"
        in server.said("worker")
    )


@pytest.mark.slow
def test_servers_of_its_own_are_used_instead(
    server: Server, running_broker: Broker, postgres_url: str
) -> None:
    server.extra |= {"CELERY_BROKER_URL": running_broker.url, "DATABASE_URL": postgres_url}
    process = server.start()
    server.wait_until_up()
    assert "There are no experiments yet" in (server.get("/") or "")
    assert not server.pids("broker")
    assert not (server.root / "db.sqlite3").exists()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, server.said()
    assert server.processes() == []
    assert isinstance(running_broker.process, subprocess.Popen)
    assert running_broker.process.poll() is None
