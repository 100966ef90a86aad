"""Metrics for Prometheus, counted from rows on request.

The database is the source of truth, so every process of the site returns the same values, and a
restart loses none. Counters are counts of rows that are never deleted.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from django.contrib.auth.decorators import login_not_required
from django.db.models import Count, F, Sum
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from webapp.activity.models import SECURITY_ACTIONS, Activity
from webapp.experiments.models import (
    Attempt,
    AttemptStatus,
    Iteration,
    Job,
    RunStatus,
    Shard,
    ShardStatus,
    Worker,
)
from webapp.health import authorize_probe, read_queue_lengths

Sample = tuple[Mapping[str, object], float]


@login_not_required
@require_safe
def show_metrics(request: HttpRequest) -> HttpResponse:
    """Return all metrics to clients with the token and to admins."""
    refusal = authorize_probe(request)
    if refusal is not None:
        return refusal
    collectors = CollectorRegistry()
    collectors.register(_RowCollector())
    return HttpResponse(generate_latest(collectors), content_type=CONTENT_TYPE_PLAIN_0_0_4)


class _RowCollector(Collector):
    def collect(self) -> Iterator[Metric]:
        """Count everything."""
        return iter_metrics()


def _build_metric(
    name: str, kind: Literal["gauge", "counter"], text: str, samples: Iterable[Sample]
) -> Metric:
    """Build a metric from its samples: labels, and the value."""
    full_name = f"meta_reward_{name}"
    metric = Metric(full_name.removesuffix("_total"), text, kind)
    for labels, value in samples:
        texts = {label: str(given) for label, given in labels.items()}
        metric.add_sample(full_name, texts, value)
    return metric


def iter_metrics() -> Iterator[Metric]:
    """Count everything."""
    queues = read_queue_lengths()
    yield _build_metric(
        "broker_up", "gauge", "Whether the broker responds.", [({}, queues is not None)]
    )
    yield _build_metric(
        "queue_messages",
        "gauge",
        "Messages in a queue.",
        [({"queue": name}, count) for name, count in (queues or {}).items()],
    )
    yield from _iter_work_metrics()
    yield from _iter_speed_metrics()
    yield from _iter_worker_metrics()
    jobs = _to_samples(Job.objects.values("kind", "status").annotate(count=Count("pk")))
    yield _build_metric("jobs", "gauge", "Jobs that users requested, by kind and status.", jobs)
    yield _build_metric("orders", "gauge", "Deprecated name of jobs.", jobs)
    events = Activity.objects.filter(action__in=SECURITY_ACTIONS).order_by()
    yield _build_metric(
        "account_events_total",
        "counter",
        "Sign-ins, wrong passwords, lockouts, changes of accounts and tokens.",
        _to_samples(events.values(kind=F("action")).annotate(count=Count("pk"))),
    )


def _iter_work_metrics() -> Iterator[Metric]:
    yield _build_metric(
        "iterations",
        "gauge",
        "Iterations by status.",
        _to_samples(Iteration.objects.values("status").annotate(count=Count("pk"))),
    )
    running = Shard.objects.filter(stage__iteration__status=RunStatus.RUNNING)
    yield _build_metric(
        "stage_shards",
        "gauge",
        "Shards of the stages of running iterations, by status.",
        _to_samples(
            running.order_by()
            .values(
                "status",
                experiment=F("stage__iteration__experiment__name"),
                iteration=F("stage__iteration__number"),
                stage_name=F("stage__name"),
            )
            .annotate(count=Count("pk"))
        ),
    )
    ended = Attempt.objects.exclude(status=AttemptStatus.RUNNING).order_by()
    yield _build_metric(
        "attempts_total",
        "counter",
        "Attempts at shards by outcome; lost means that the lease expired.",
        _to_samples(
            ended.values("status", stage_name=F("shard__stage__name")).annotate(count=Count("pk"))
        ),
    )
    yield _build_metric(
        "attempt_seconds_total",
        "counter",
        "Duration of finished attempts in seconds.",
        [
            ({"stage": row["stage_name"]}, row["seconds"] or 0.0)
            for row in ended.filter(status=AttemptStatus.FINISHED)
            .values(stage_name=F("shard__stage__name"))
            .annotate(seconds=Sum("seconds"))
        ],
    )


def _iter_speed_metrics() -> Iterator[Metric]:
    """Progress of running attempts since their start."""
    now = timezone.now()
    by_stage: dict[str, tuple[int, float]] = {}
    rows = Attempt.objects.filter(
        status=AttemptStatus.RUNNING, shard__status=ShardStatus.RUNNING
    ).values_list("shard__stage__name", "shard__tokens", "started")
    for stage, tokens, started in rows:
        seconds = max((now - started).total_seconds(), 1e-3)
        made, speed = by_stage.get(stage, (0, 0.0))
        by_stage[stage] = (made + tokens, speed + tokens / seconds)
    yield _build_metric(
        "tokens_per_second",
        "gauge",
        "Tokens per second of the running attempts, each since its start.",
        [({"stage": stage}, speed) for stage, (_, speed) in sorted(by_stage.items())],
    )
    yield _build_metric(
        "running_tokens",
        "gauge",
        "Tokens generated so far by the running attempts.",
        [({"stage": stage}, made) for stage, (made, _) in sorted(by_stage.items())],
    )


def _iter_worker_metrics() -> Iterator[Metric]:
    now = timezone.now()
    columns = ("name", "host", "heartbeat", "shard", "device_bytes", "device_utilization")
    rows = list(Worker.objects.values_list(*columns))
    labels = [{"worker": name, "host": host} for name, host, *_ in rows]
    yield _build_metric(
        "worker_silent_seconds",
        "gauge",
        "Seconds since the last heartbeat of a worker.",
        [(about, (now - row[2]).total_seconds()) for about, row in zip(labels, rows, strict=True)],
    )
    yield _build_metric(
        "worker_busy",
        "gauge",
        "Whether a worker works on a shard.",
        [(about, row[3] is not None) for about, row in zip(labels, rows, strict=True)],
    )
    yield _build_metric(
        "worker_device_memory_bytes",
        "gauge",
        "Memory in use on a worker's GPUs, or by its engine process on a CPU.",
        [(about, row[4]) for about, row in zip(labels, rows, strict=True) if row[4] is not None],
    )
    yield _build_metric(
        "worker_device_utilization_ratio",
        "gauge",
        "Share of the time in which a worker's devices compute.",
        [(about, row[5]) for about, row in zip(labels, rows, strict=True) if row[5] is not None],
    )


def _to_samples(rows: Iterable[Mapping[str, object]]) -> list[Sample]:
    """Build samples from grouped rows: the group's values are the labels."""
    return [
        (
            {name.removesuffix("_name"): value for name, value in row.items() if name != "count"},
            float(str(row["count"])),
        )
        for row in rows
    ]
