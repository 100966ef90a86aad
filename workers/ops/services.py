"""The programs of a running installation, as services for the supervisor."""

import os
import socket
import subprocess
import sys

from django.conf import settings

from workers.ops.broker import get_configured_broker, is_broker_ready, start_broker
from workers.ops.devices import list_gpus
from workers.ops.processes import start_child
from workers.ops.supervisor import Service

QUEUES = ("gpu", "cpu")
_WEB_GRACE_SECONDS = 3
_WORKER_GRACE_SECONDS = 10  # a running shard is returned within this time


def make_broker_service() -> Service:
    """The embedded broker; a running one is reused."""
    return Service("broker", lambda: start_broker(get_configured_broker()), stops_last=True)


def make_web_service(host: str, port: int) -> Service:
    """The web server."""
    command = [
        *(sys.executable, "-m", "gunicorn", "webapp.wsgi:application"),
        *("--bind", format_address(host, port), "--threads", "4"),
        *("--workers", str(settings.META_REWARD_WEB_CONCURRENCY)),
        *("--graceful-timeout", str(_WEB_GRACE_SECONDS), "--no-control-socket"),
        # Longer than a page's polling interval; otherwise connections close during requests.
        *("--keep-alive", "15"),
        *("--name", "meta-reward-web"),
    ]
    return Service("web", lambda: start_child(command), grace_seconds=_WEB_GRACE_SECONDS + 2)


def make_reconciler_service() -> Service:
    """The reconciler."""
    return Service("reconciler", lambda: start_child(build_manage_command("reconcile")))


def make_worker_service(queues: str = ",".join(QUEUES)) -> Service:
    """One worker, with one engine process per GPU or as configured."""
    return Service("worker", lambda: _start_worker(queues), grace_seconds=_WORKER_GRACE_SECONDS)


def build_manage_command(*arguments: str) -> list[str]:
    """Build the command line of one of our commands, in a checkout or an installed package."""
    return [sys.executable, "-m", "workers", *arguments]


def format_address(host: str, port: int) -> str:
    """Format host and port; an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_port_free(host: str, port: int) -> bool:
    """Whether the web server could listen on this address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def is_broker_reachable() -> bool:
    """Whether the embedded broker responds; Celery reports on a configured server."""
    return not settings.META_REWARD_BROKER_EMBEDDED or is_broker_ready(get_configured_broker())


def _start_worker(queues: str) -> subprocess.Popen[bytes] | None:
    """Start a worker once the broker is available."""
    return start_child(_build_worker_command(queues)) if is_broker_reachable() else None


def _build_worker_command(queues: str) -> list[str]:
    processes = settings.META_REWARD_ENGINE_PROCESSES or max(1, len(list_gpus()))
    return [
        *(sys.executable, "-m", "celery", "--quiet", "--app", "workers.celery:app"),
        *("worker", "--queues", queues, "--pool", "prefork", "--concurrency", str(processes)),
        *("--loglevel", "INFO", "--without-gossip", "--without-mingle"),
        *("--hostname", f"worker-{os.getpid()}@%h"),
    ]
