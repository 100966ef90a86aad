"""Response times of the result pages, at the paper's scale and at a hundredth of it.

    python benchmarks/paper_scale.py --prompts 5000 --name paper-scale
    python benchmarks/paper_scale.py --prompts 50 --name paper-scale-100th
    python benchmarks/results_pages.py --large paper-scale --small paper-scale-100th

Every page is requested with different values each time, at both scales in turn (A B A B ...), in
one process, through all of Django. The first visit, which reads the files, is reported separately.
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import django


@dataclass(frozen=True)
class Visitor:
    """A user who opens a different part of an experiment each time."""

    name: str
    ids: list[str]
    rng: random.Random

    def any_of(self, *choices: str) -> str:
        return self.rng.choice(choices)

    def number(self, minimum: int, maximum: int) -> int:
        return self.rng.randint(minimum, maximum)

    def iteration(self, rest: str) -> str:
        return f"/experiments/{self.name}/iterations/1/{rest}"

    def prompt_id(self) -> str:
        return self.rng.choice(self.ids)


Ask = Callable[[Visitor], str]


PAGES: dict[str, Ask] = {
    "list": lambda v: v.iteration(f"prompts?page={v.number(1, 2)}"),
    "list, sorted": lambda v: v.iteration(
        f"prompts?sort={v.any_of('gap', '-gap', 'variance', 'mean', '-length')}"
    ),
    "search": lambda v: v.iteration(f"prompts?q={v.any_of('task', 'a', 'the', 'is')}"),
    "filter": lambda v: v.iteration(
        f"prompts?q={v.any_of('task', 'a')}&sort={v.any_of('gap', 'variance')}&unscored=on"
        f"&actor=pair&judge={v.any_of('', 'pair')}"
    ),
    "filter by figures": lambda v: v.iteration(
        f"prompts?gap_at_least={v.number(0, 30) / 10}&variance_at_least={v.number(0, 20) / 10}"
    ),
    "prompt": lambda v: v.iteration(f"prompts/{v.prompt_id()}"),
    "what-if": lambda v: v.iteration(
        f"what-if?rho={v.number(0, 50) / 100}&max_chosen_chars={v.number(500, 3000)}"
        f"&max_chosen_judgment_chars={v.number(300, 1400)}"
        f"&min_valid_judgments={v.number(1, 11)}"
    ),
    "across": lambda v: f"/experiments/{v.name}/prompts/{v.prompt_id()}",
    "files": lambda v: f"/experiments/{v.name}/files",
}


@dataclass(frozen=True)
class Taken:
    """Wall-clock and CPU seconds; the latter do not depend on other load."""

    clock: float
    processor: float


def timed(client: Any, path: str) -> Taken:
    clock, processor = time.perf_counter(), time.process_time()
    answer = client.get(path)
    taken = Taken(time.perf_counter() - clock, time.process_time() - processor)
    assert answer.status_code == 200, (path, answer.status_code)
    return taken


def first_visit(client: Any, name: str) -> tuple[float, float, int]:
    """Return the seconds until all is read, the longest request, and their number."""
    from webapp.experiments.models import Experiment
    from webapp.results.iteration_reader import open_iteration
    from webapp.results.prompt_index import find_index

    spent = []
    is_whole = False
    while not is_whole:
        spent.append(timed(client, f"/experiments/{name}/iterations/1/prompts").clock)
        opened = open_iteration(Experiment.objects.get(name=name), 1)
        is_whole = find_index(opened, budget_seconds=0.0)[1].is_whole
    return sum(spent), max(spent), len(spent)


def prompt_ids(name: str) -> list[str]:
    from webapp.experiments.models import Experiment
    from webapp.results.iteration_reader import open_iteration
    from webapp.results.prompt_index import find_index

    opened = open_iteration(Experiment.objects.get(name=name), 1)
    return find_index(opened)[0].prompt_ids


def count_queries(client: Any, path: str) -> int:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as captured:
        client.get(path)
    return len(captured)


def percentile(times: list[float]) -> float:
    return quantiles(times, n=20)[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--large", default="paper-scale")
    parser.add_argument("--small", default="paper-scale-100th")
    parser.add_argument("--requests", type=int, default=40)
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    django.setup()
    from django.contrib.auth.models import User
    from django.test import Client
    from django.test.utils import override_settings

    person, _ = User.objects.get_or_create(username="benchmark", is_superuser=True)
    client = Client(headers={"host": "localhost"})
    client.force_login(person)
    names = {"large": options.large, "small": options.small}
    with (
        tempfile.TemporaryDirectory() as empty,
        override_settings(META_REWARD_SCRATCH_ROOT=empty),
    ):
        for name in names.values():
            whole, longest, count = first_visit(client, name)
            print(
                f"first visit of {name}: {whole:.1f} s in {count} requests, "
                f"the longest {longest:.1f} s"
            )
        measure(client, names, options.requests)


def _told(small: list[Taken], large: list[Taken]) -> str:
    clocks = [[1000 * one.clock for one in taken] for taken in (small, large)]
    work = [1000 * median(one.processor for one in taken) for taken in (small, large)]
    shown = [f"{median(times):.0f} | {percentile(times):.0f}" for times in clocks]
    ratio = median(clocks[1]) / median(clocks[0])
    return (
        f"{' | '.join(shown)} | {ratio:.2f} | {work[0]:.0f} | {work[1]:.0f} "
        f"| {work[1] / work[0]:.2f}"
    )


def measure(client: Any, names: dict[str, str], requests: int) -> None:
    visitors = {
        scale: Visitor(name, prompt_ids(name), random.Random(1)) for scale, name in names.items()
    }
    print(f"\nload average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, in ms:\n")
    print(
        "| page | small: median | p95 | large: median | p95 | ratio of medians "
        "| processor, small | large | ratio | queries |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for page, ask in PAGES.items():
        taken: dict[str, list[Taken]] = {"small": [], "large": []}
        for _ in range(requests):
            for scale, visitor in visitors.items():
                taken[scale].append(timed(client, ask(visitor)))
        queries = count_queries(client, ask(visitors["large"]))
        print(f"| {page} | {_told(taken['small'], taken['large'])} | {queries} |", flush=True)
    print(f"\nload average {os.getloadavg()[0]:.1f} afterwards")


if __name__ == "__main__":
    main()
