"""Health checks of the installation, for monitoring.

/livez           this process responds; checks nothing else
/healthz         the database responds and has this version's tables: ready for requests
/healthz/report  all parts, as JSON, for authorized clients: broker, workers, stalled work
"""

import hmac
import logging
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Final

from celery import current_app
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.models import User
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.http import require_safe
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from meta_reward_core.system.command_hint import format_command
from webapp.accounts.roles import RUN_ALL
from webapp.experiments.models import Driver, Iteration, RunStatus, Shard, ShardStatus, Worker
from webapp.experiments.progress import SILENT_SECONDS

QUEUES: Final = ("gpu", "cpu")
NO_DATABASE: Final = "the database is not responding"
STUCK_SECONDS: Final = 120.0
"""Work that waits longer than this although workers are up counts as stalled."""

_migrated: Final[list[bool]] = []
_NO_BROKER: Final = (KombuError, RedisError, OSError)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Result of the health check.

    Attributes:
        queues: messages in each queue; None if the broker does not respond.
        problems: description of each problem; empty if there are none.
    """

    database: bool
    broker: bool
    queues: dict[str, int] | None
    workers: int = 0
    silent_workers: int = 0
    running_iterations: int = 0
    waiting_shards: int = 0
    problems: list[str] = field(default_factory=list)


@login_not_required
@require_safe
def report_liveness(request: HttpRequest) -> HttpResponse:  # noqa: ARG001
    """Report that this process responds."""
    return HttpResponse("ok", content_type="text/plain")


@login_not_required
@require_safe
def report_health(request: HttpRequest) -> HttpResponse:  # noqa: ARG001
    """Report whether the site and its database respond."""
    problem = find_database_problem()
    return HttpResponse(problem or "ok", status=503 if problem else 200, content_type="text/plain")


@login_not_required
@require_safe
def report_details(request: HttpRequest) -> HttpResponse:
    """Return the full report to clients with the metrics token and to admins."""
    refusal = authorize_probe(request)
    if refusal is not None:
        return refusal
    found = check_health()
    return JsonResponse(asdict(found), status=503 if found.problems else 200)


def authorize_probe(request: HttpRequest) -> HttpResponse | None:
    """Return the refusal of an unauthorized request; None if it is authorized."""
    if isinstance(request.user, User) and request.user.has_perm(RUN_ALL):
        return None
    wanted = settings.META_REWARD_METRICS_TOKEN
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if wanted and scheme == "Bearer" and hmac.compare_digest(given.encode(), wanted.encode()):
        return None
    text = "send META_REWARD_METRICS_TOKEN as a bearer token, or sign in as an admin"
    headers = {"WWW-Authenticate": "Bearer"}
    return HttpResponse(text, status=401, headers=headers, content_type="text/plain")


def find_database_problem() -> str:
    """Return the problem of the database; empty if there is none."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return _find_migration_problem()
    except DatabaseError:
        return NO_DATABASE


def _find_migration_problem() -> str:
    """Return the problem of the migrations; empty results are cached, as reading is expensive."""
    if _migrated:
        return ""
    executor = MigrationExecutor(connection)
    if later := _list_later_migrations(executor.loader):
        return _describe_later_version(later)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        return "the database has unapplied migrations; run the migrate command"
    _migrated.append(True)
    return ""


def find_later_version() -> str:
    """Return the migrations in the database that belong to a later version; empty if none.

    Code of an earlier version must not write to tables that it does not know.

    Raises:
        DatabaseError: the database does not respond.
    """
    later = _list_later_migrations(MigrationLoader(connection))
    return _describe_later_version(later) if later else ""


def _list_later_migrations(loader: MigrationLoader) -> list[str]:
    unknown = loader.applied_migrations.keys() - loader.disk_migrations.keys()
    return sorted(f"{app}.{name}" for app, name in unknown if app in loader.migrated_apps)


def _describe_later_version(later: list[str]) -> str:
    return (
        f"the database was migrated by a later version of this program ({', '.join(later)}): "
        "install that version here"
    )


def read_queue_lengths() -> dict[str, int] | None:
    """Count the messages in each queue; None if the broker does not respond."""
    try:
        with current_app.connection_for_read() as broker:
            broker.ensure_connection(max_retries=1, interval_start=0.2, timeout=3)
            # Not `queue_declare`: kombu looks for the queue without its key prefix and reports
            # every queue as missing.
            server = broker.default_channel.client
            return {name: int(server.llen(name)) for name in QUEUES}
    except _NO_BROKER as error:
        _log.warning("the broker does not respond: %s", error)
        return None


def _explain_broker_start() -> str:
    if settings.META_REWARD_BROKER_EMBEDDED:
        return f"`{format_command('serve')}` starts it"
    return "start the Redis server at CELERY_BROKER_URL"


def check_health() -> HealthReport:
    """Check every part."""
    problem = find_database_problem()
    queues = read_queue_lengths()
    problems = [problem] if problem else []
    if queues is None:
        problems.append(f"the broker does not respond: {_explain_broker_start()}")
    if problem:
        broker = queues is not None
        return HealthReport(database=False, broker=broker, queues=queues, problems=problems)
    return _check_rows(queues, problems)


def _check_rows(queues: dict[str, int] | None, problems: list[str]) -> HealthReport:
    now = timezone.now()
    fresh = now - timedelta(seconds=SILENT_SECONDS)
    workers = Worker.objects.filter(heartbeat__gte=fresh).count()
    silent = Worker.objects.filter(heartbeat__lt=fresh).count()
    running = Iteration.objects.filter(status=RunStatus.RUNNING, driver=Driver.WORKERS)
    waiting = Shard.objects.filter(status=ShardStatus.WAITING, stage__iteration__in=running)
    still = waiting.filter(sent__lt=now - timedelta(seconds=STUCK_SECONDS))
    busy = Shard.objects.filter(status=ShardStatus.RUNNING, lease_until__gte=now)
    if silent:
        problems.append(f"{silent} worker(s) stopped sending heartbeats")
    if running.exists() and not workers:
        problems.append(
            f"iterations are running without a worker; start one with {format_command('worker')}"
        )
    elif still.exists() and not busy.exists():
        problems.append(
            f"work is pending but not being processed; is {format_command('reconcile')} running?"
        )
    return HealthReport(
        database=True,
        broker=queues is not None,
        queues=queues,
        workers=workers,
        silent_workers=silent,
        running_iterations=running.count(),
        waiting_shards=waiting.count(),
        problems=problems,
    )
