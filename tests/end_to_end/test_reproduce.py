"""`manage.py reproduce` for real: killed or moved elsewhere, it ends in the same report."""

import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.conftest import Site, make_site

SECOND = "t.tiny-self-rewarding.sft1.seed1"
SELF_REWARDING = """\
extends: tiny.yaml
name: tiny-self-rewarding
train_on: [[actor]]
"""


def second_recipe(site: Site) -> str:
    other = site.root / "other.yaml"
    other.write_text(SELF_REWARDING)
    return str(other)


def command(site: Site) -> list[str]:
    return [
        *("manage.py", "reproduce", "--name", "t", "--seeds", "2", "--sft-seeds", "1"),
        *("--recipe", str(site.recipe), "--recipe", second_recipe(site), "--iterations", "1"),
        *("--jobs", "2", "--output", str(site.root / "report")),
    ]


def wait_for_manifests(site: Site, count: int) -> None:
    deadline = time.monotonic() + 240
    while len(list(site.artifacts.glob("t.*/iteration-1/manifests/*.json"))) < count:
        assert time.monotonic() < deadline, "the runs do not come on"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_killed_reproduction_goes_on_to_the_same_bytes_and_the_same_report(
    tmp_path: Path,
) -> None:
    quiet, killed = make_site(tmp_path / "quiet"), make_site(tmp_path / "killed")
    done = quiet.call(*command(quiet))
    assert done.returncode == 0, done.stdout
    for manifests in (3, 12):
        process = killed.start(*command(killed))
        wait_for_manifests(killed, manifests)
        runs = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert psutil.wait_procs(runs, timeout=30)[1] == [], "its runs die with it"
    done = killed.call(*command(killed))
    assert done.returncode == 0, done.stdout
    assert killed.digests() == quiet.digests()
    reports = [_without_seconds(site.root / "report.md") for site in (quiet, killed)]
    assert reports[0] == reports[1]
    assert "For these seed models" in reports[0]
    assert "tiny-self-rewarding minus tiny, at M1" in reports[0]
    again = killed.call(*command(killed))
    assert "4 of 4 runs are finished" in again.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_runs_share_their_draws_and_leave_what_a_run_alone_leaves(tmp_path: Path) -> None:
    """Responses, judgments, pairs, weights and evaluation: every byte, and the report elsewhere."""
    together, alone, elsewhere = (make_site(tmp_path / name) for name in ("a", "b", "c"))
    done = together.call(*command(together), "--jobs", "1", "--seeds", "1")
    assert done.returncode == 0, done.stdout
    ran = alone.manage(
        *("run_iteration", "--experiment", SECOND, "--recipe", second_recipe(alone)),
        *("--seed", "1", "--model", "miniature-sft1", "--iterations", "1"),
    )
    assert ran.returncode == 0, ran.stdout
    shared = {name: found for name, found in together.digests().items() if SECOND in name}
    assert shared == alone.digests()
    shutil.copytree(together.root / "report", elsewhere.root / "report")
    done = elsewhere.call(*command(elsewhere), "--jobs", "1", "--seeds", "1")
    assert "2 of 2 runs are finished" in done.stdout
    assert not elsewhere.artifacts.exists()
    reports = [(site.root / "report.md").read_text() for site in (together, elsewhere)]
    assert reports[0] == reports[1]


def _without_seconds(path: Path) -> str:
    """The report but the last cell of the table of compute, which a clock writes."""
    text = path.read_text()
    head, _, tail = text.partition("## Compute")
    rows, _, rest = tail.partition("## Repeats")
    kept = [line.rstrip(" |").rpartition("|")[0] for line in rows.splitlines()]
    return "\n".join([head, *kept, rest])
