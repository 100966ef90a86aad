"""The audit's gate before real workers, a real reconciler, and real trainings."""

import json
from typing import Any

import pytest

from tests.workers.cluster import Cluster
from tests.workers.test_queue import site_with_workers

__all__ = ["site_with_workers"]

GATED = ("--iterations", "2", "--set", "audit.required=true",
         "--set", "audit.human_pairs_share=0.3")  # fmt: skip

DECIDE = """
from django.db import transaction
from webapp.audit.batch_sampling import BatchPlan, create_batch
from webapp.audit.models import Answer, GateOverride
from webapp.experiments.models import Experiment

row = Experiment.objects.get()
with transaction.atomic():
    batch = create_batch(row, 1, BatchPlan("judgments", "uniform", 12, 1, 0, 0, True, True, ""),
                       by=None)
    for item in batch.items.all():
        Answer.objects.create(item=item, auditor_name="carol", choice="first")
    batch.items.update(is_answered=True)
    GateOverride.objects.create(experiment=row, iteration=1, outcome="actor_pairs",
                            reason="a trial", created_by_name="alice")
    GateOverride.objects.create(experiment=row, iteration=2, outcome="all",
                            reason="a trial", created_by_name="alice")
"""


def trained(here: Cluster, number: int) -> dict[str, Any]:
    """What the manifest of a training counts, and how many pairs there were to train on."""
    folder = here.site.artifacts / f"tiny/iteration-{number}/manifests"
    counts = {
        stage: json.loads((folder / f"{stage}-00000.json").read_text())["counts"]
        for stage in ("pair_actor", "pair_judge", "train")
    }
    pairs = {kind: counts[f"pair_{kind}"]["pairs"] for kind in ("actor", "judge")}
    return {**counts["train"], **pairs}


@pytest.mark.slow
def test_workers_train_on_actor_pairs_alone_and_then_on_what_people_preferred(
    site_with_workers: Cluster,
) -> None:
    here = site_with_workers
    here.start_worker()
    here.start_reconciler()
    here.queue_iteration(*GATED)
    held = "select 1 from experiments_iteration where message like 'waits before training%'"
    here.wait_until(lambda: here.site.rows(held))
    decided = here.site.manage("shell", "-v", "0", "-c", DECIDE)
    assert decided.returncode == 0, decided.stdout
    finished = "select 1 from experiments_iteration where status = 'finished' and number = 2"
    here.wait_until(lambda: here.site.rows(finished), seconds=500)
    first, second = trained(here, 1), trained(here, 2)
    assert first["rows"] == first["actor"]
    assert first["withheld"] == first["judge"] > 0
    own = second["actor"] + second["judge"]
    assert second["human_offered"] == 12
    assert second["human"] == min(12, int(own * 0.3 / 0.7)) > 0
    assert second["rows"] == own + second["human"]
    assert second["trained"] > second["refused"]
