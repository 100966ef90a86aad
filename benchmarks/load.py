"""Load test of one small server: response times, failures, and the first bottleneck.

Starts PostgreSQL, the broker, the site as `manage.py serve` starts it, the reconciler, workers and
the given number of running experiments; then simulated users watch (a page, then its region every
two seconds, like a browser) and audit (an item, a pause to think, an answer). The number of
watchers grows from level to level; the requested one is marked. The clients run on the same machine
and use part of its capacity.

    python benchmarks/load.py [--watching 100] [--auditing 10] [--experiments 5] [--seconds 60]
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.end_to_end.serving import wait
from tests.services import broker, free_port, postgres
from tests.workers.cluster import Cluster, cluster

LEVELS = (0.25, 0.5, 1.0, 2.0, 4.0)
POLL_SECONDS = 2.0
THOUGHT_SECONDS = (2.0, 5.0)
BATCH_SIZE = 20
BATCHES_EACH = 5

PREPARE = """
import json
from pathlib import Path
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from tests.webapp import audit_fixtures
from tests.webapp.conftest import make_person

def session(person):
    store = SessionStore()
    store[SESSION_KEY] = str(person.pk)
    store[BACKEND_SESSION_KEY] = "webapp.accounts.login_throttle.ThrottledModelBackend"
    store[HASH_SESSION_KEY] = person.get_session_auth_hash()
    store.create()
    return store.session_key

owner = make_person("owner", "operator")
watcher = make_person("watcher", "viewer")
root = Path({root!r})
audit_fixtures.write_files(root)
row = audit_fixtures.record(root, owner=owner)
auditors = []
for number in range({auditing}):
    auditor = make_person(f"auditor{{number}}", "auditor")
    batches = [audit_fixtures.draw(row, by=owner, auditors=[auditor], size={size}).pk
               for _ in range({batches})]
    auditors.append([session(auditor), batches])
watchers = [session(watcher) for _ in range({watching})]
Path({output!r}).write_text(json.dumps([watchers, auditors]))
"""


@dataclass
class Seen:
    """Response times and errors of one level."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)

    def note(self, kind: str, seconds: float, problem: str) -> None:
        self.seconds.setdefault(kind, []).append(seconds)
        if problem:
            self.failures[problem] += 1


class Person:
    """A signed-in browser."""

    def __init__(self, port: int, session: str, seen: Seen) -> None:
        self._seen = seen
        self._make_client = httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            cookies={"sessionid": session},
            follow_redirects=True,
            timeout=30.0,
        )

    async def close(self) -> None:
        await self._make_client.aclose()

    async def ask(
        self, kind: str, path: str, *, region: bool = False, data: dict[str, str] | None = None
    ) -> httpx2.Response | None:
        """Send a request, and record how long it took."""
        began = time.monotonic()
        headers = {"HX-Request": "true"} if region else {}
        try:
            if data is None:
                answer = await self._make_client.get(path, headers=headers)
            else:
                answer = await self._make_client.post(path, headers=headers, data=data)
        except httpx2.HTTPError as error:
            self._seen.note(kind, time.monotonic() - began, type(error).__name__)
            return None
        problem = "" if answer.is_success else str(answer.status_code)
        self._seen.note(kind, time.monotonic() - began, problem)
        return answer if answer.is_success else None

    async def watch(self, path: str, rng: random.Random, end: float) -> None:
        """Open a page and poll its region, until the end."""
        await asyncio.sleep(rng.uniform(0, POLL_SECONDS))
        await self.ask("page", path)
        while time.monotonic() < end:
            await asyncio.sleep(POLL_SECONDS)
            await self.ask("region", path, region=True)

    async def audit(self, batches: list[int], rng: random.Random, end: float) -> None:
        """Answer items until the end."""
        for batch in batches:
            while time.monotonic() < end:
                page = await self.ask("item", f"/audits/{batch}/annotate")
                if page is None or str(page.url).endswith("/annotate"):
                    break
                await asyncio.sleep(rng.uniform(*THOUGHT_SECONDS))
                token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
                assert token is not None
                answer = {"choice": "tie", "confidence": "2", "csrfmiddlewaretoken": token[1]}
                await self.ask("answer", page.url.path, data=answer)


@dataclass(frozen=True)
class Part:
    """CPU use of a process group, in cores."""

    name: str
    cores: float


PATTERNS = {
    "site": ("gunicorn",),
    "workers": ("celery", "engine_child"),
    "reconciler": ("reconcile",),
    "database": ("postgres",),
    "broker": ("valkey-server",),
    "who asks": ("load.py",),
}


class Meter:
    """Measures the CPU time of each process group."""

    def __init__(self) -> None:
        self._before = self._spent()
        self._began = time.monotonic()

    def busy(self) -> list[Part]:
        """Return the average cores used by each process group since the start, highest first."""
        wall = time.monotonic() - self._began
        spent = self._spent()
        parts = []
        for name in PATTERNS:
            used = sum(
                seconds - self._before.get(process, 0.0)
                for process, seconds in spent.items()
                if process[0] == name
            )
            parts.append(Part(name, used / wall))
        return sorted(parts, key=lambda part: -part.cores)

    def _spent(self) -> dict[tuple[str, int], float]:
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = " ".join(process.cmdline()) or process.name()
                times = process.cpu_times()
                for name, patterns in PATTERNS.items():
                    if any(pattern in words for pattern in patterns):
                        found[name, process.pid] = times.user + times.system
        return found


async def one_level(
    port: int, watchers: list[str], auditors: list[tuple[str, list[int]]], paths: list[str],
    *, seconds: float,
) -> Seen:  # fmt: skip
    """Start all users at once and keep them active for `seconds`."""
    seen, rng = Seen(), random.Random(1)
    end = time.monotonic() + seconds
    people = [Person(port, session, seen) for session in (*watchers, *(a for a, _ in auditors))]
    tasks = [
        person.watch(paths[index % len(paths)], random.Random(rng.random()), end)
        for index, person in enumerate(people[: len(watchers)])
    ] + [
        person.audit(batches, random.Random(rng.random()), end)
        for person, (_, batches) in zip(people[len(watchers) :], auditors, strict=True)
    ]
    await asyncio.gather(*tasks)
    for person in people:
        await person.close()
    return seen


def begin_experiments(here: Cluster, count: int) -> list[str]:
    """Start experiments that run longer than the measurement; return their pages."""
    names = [f"load{number}" for number in range(count)]
    long = ("--set", "sample.prompts=200", "--set", "judge.samples=200")
    for name in names:
        done = here.start(
            *("manage.py", "run_iteration", "--experiment", name, "--queue"),
            *("--recipe", str(here.site.recipe), *long),
        )
        here.wait_until(lambda name=name: _runs(here, name))  # type: ignore[misc]
        here.kill_tree(done)  # it only follows
    return [f"/experiments/{name}/iterations/1" for name in names]


def _runs(here: Cluster, name: str) -> bool:
    question = (
        "select 1 from experiments_iteration i join experiments_experiment e "
        f"on e.id = i.experiment_id where e.name = '{name}' and i.status = 'running'"
    )
    return bool(here.site.rows(question))


@contextlib.contextmanager
def site(here: Cluster) -> Iterator[int]:
    """Run the site as `manage.py serve` starts it; yield its port."""
    port = free_port()
    here.start("manage.py", "serve", "--port", str(port), "--without-worker")
    url = f"http://127.0.0.1:{port}/healthz"

    def is_up() -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            return httpx2.get(url).is_success
        return False

    wait(is_up, explain=here.log)
    yield port


def show(level: int, seen: Seen, parts: list[Part], *, asked: bool) -> None:
    """Yield a row for each kind of request of a level."""
    total = sum(map(len, seen.seconds.values()))
    failed = sum(seen.failures.values())
    busy = ", ".join(f"{part.name} {part.cores:.2f}" for part in parts if part.cores >= 0.01)
    print(f"\n{level} watching{' (asked for)' if asked else ''}: {total} requests, "
          f"{failed / max(total, 1):.2%} failed {dict(seen.failures) or ''}")  # fmt: skip
    print(f"cores: {busy}")
    print("| request | count | median | 95 % | 99 % | longest |")
    print("|---|--:|--:|--:|--:|--:|")
    for kind, seconds in sorted(seen.seconds.items()):
        cuts = statistics.quantiles(seconds, n=100, method="inclusive") if seconds[1:] else None
        p95, p99 = (cuts[94], cuts[98]) if cuts else (seconds[0], seconds[0])
        timings = (statistics.median(seconds), p95, p99, max(seconds))
        times = " | ".join(f"{duration * 1000:.0f} ms" for duration in timings)
        print(f"| {kind} | {len(seconds)} | {times} |")


def main() -> None:
    """Measure level after level; fail if the requested one has an error or a slow median."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--watching", type=int, default=100)
    parser.add_argument("--auditing", type=int, default=10)
    parser.add_argument("--experiments", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each level")
    parser.add_argument(
        "--goal",
        type=float,
        default=1.0,
        help="Maximum 95th percentile of response times in seconds; fail above it.",
    )
    options = parser.parse_args()
    levels = [max(1, round(options.watching * share)) for share in LEVELS]
    gave_way = ""
    with tempfile.TemporaryDirectory() as folder, broker() as redis, postgres() as url:
        root = Path(folder)
        with cluster(root / "site", redis, DATABASE_URL=url) as here:
            recipe = here.site.recipe
            recipe.write_text(recipe.read_text() + "engine: {kind: scripted}\n")
            people = root / "people.json"
            prepare = PREPARE.format(
                root=str(here.site.artifacts), auditing=options.auditing, watching=max(levels),
                size=BATCH_SIZE, batches=BATCHES_EACH * len(levels), output=str(people),
            )  # fmt: skip
            done = here.site.manage("shell", "-v", "0", "-c", prepare)
            assert done.returncode == 0, done.stdout
            watchers, auditors = json.loads(people.read_text())
            with site(here) as port:
                for _ in range(options.workers):
                    here.start_worker()
                paths = [*begin_experiments(here, options.experiments), "/"]
                for index, level in enumerate(levels):
                    mine = [
                        (session, batches[index * BATCHES_EACH : (index + 1) * BATCHES_EACH])
                        for session, batches in auditors
                    ]
                    meter = Meter()
                    seen = asyncio.run(
                        one_level(port, watchers[:level], mine, paths, seconds=options.seconds)
                    )
                    parts = meter.busy()
                    show(level, seen, parts, asked=level == options.watching)
                    slow = is_slow(seen, goal=options.goal)
                    if (slow or seen.failures) and not gave_way:
                        gave_way = (
                            f"{level} watching, when the busiest part was the {parts[0].name}"
                        )
                    if level == options.watching:
                        failed = bool(slow or seen.failures)
    print(f"\nfirst gave way: {gave_way or 'nothing'}")
    sys.exit(failed)


def is_slow(seen: Seen, *, goal: float) -> bool:
    """Whether the 95th percentile exceeds the goal."""
    everything = sorted(seconds for kind in seen.seconds.values() for seconds in kind)
    return bool(everything) and everything[int(0.95 * (len(everything) - 1))] > goal


if __name__ == "__main__":
    main()
