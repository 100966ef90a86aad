"""Make what an earlier version leaves behind: rows as SQL, and the files of an experiment.

Run it in a checkout of that version, with that version's environment:

    git worktree add ../earlier COMMIT && cd ../earlier
    python ../meta-reward/tests/upgrades/make_fixture.py .../tests/upgrades/COMMIT

The model is a stub and the training writes a few bytes, so that all of it is small. Where paths of
this machine would stand, ROOT stands.
"""

import gzip
import os
import shutil
import sqlite3
import sys
import tarfile
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = "/root-of-the-fixture"
RECIPE = """\
name: scripted
model: stub
iterations: 2
shard_prompts: 4
sample: {prompts: 8}
actor: {samples: 4}
judge: {samples: 5}
meta_judge: {max_chosen_judgment_chars: null}
engine: {kind: scripted}
"""

HELD = ("view_securityevent", "change_notification", "view_auditlogentry", "view_job")
"""Permissions of a group that an administrator made."""

OnLog = Callable[[dict[str, float]], None]


def train_dpo(
    rows: list[object], *, checkpoint: Path, on_log: OnLog, **_: object
) -> SimpleNamespace:
    """Write a checkpoint that depends on the rows alone."""
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(f"after {len(rows)} rows".encode())
    (checkpoint / "config.json").write_text("{}")
    log = [{"step": 1, "epoch": 5.0, "loss": 0.69, "rewards/accuracies": 0.5}]
    on_log(log[0])
    tokens = SimpleNamespace(sampled=0, not_canonical=0, rewritten=0)  # for later versions
    return SimpleNamespace(rows_trained=len(rows), refused=[], kept_step=1, log=log, tokens=tokens)


def fake_training() -> None:
    """Put that function in TRL's place."""
    fake = SimpleNamespace(train_dpo=train_dpo)
    sys.modules["meta_reward_core.training.dpo"] = fake  # type: ignore[assignment]


def prepare(root: Path) -> None:
    """Write model, recipe and prompts."""
    model = root / "models" / "stub"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights of M0")
    (model / "chat_template.jinja").write_text("{{ messages }}")
    (root / "recipe.yaml").write_text(RECIPE)
    (root / "prompts.txt").write_text("".join(f"question {number}?\n" for number in range(20)))


def make(root: Path) -> None:
    """Use the installation for a while: an iteration, accounts, an audit, a token, an order."""
    import django

    django.setup()
    from django.contrib.auth.models import Group, User
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    fake_training()
    options = ("--recipe", str(root / "recipe.yaml"), "--prompts", str(root / "prompts.txt"))
    call_command("run_iteration", "--experiment", "kept", *options)
    from webapp.api.models import make_token
    from webapp.audit import annotation_queue
    from webapp.audit.batch_sampling import BatchPlan
    from webapp.audit.services import create_batch
    from webapp.experiments.models import Experiment, Job

    alice = User.objects.create_user("alice", password="correct horse battery")
    alice.groups.set(Group.objects.filter(name__in=["operator", "auditor"]))
    row = Experiment.objects.get()
    Experiment.objects.update(owner=alice)
    make_token(alice, name="nightly", expires=None)
    Job.objects.create(
        kind="pause", created_by=alice, experiment=row, experiment_name="kept", status="done"
    )
    plan = BatchPlan(
        kind="judgments", strategy="certainty", size=4, seed=1, same_share=0.0, other_share=0.0,
        hides_score_lines=True, reveals_at_once=True, guidelines="",
    )  # fmt: skip
    batch = create_batch(row, 1, plan, by=alice, auditors=[alice])
    item = annotation_queue.lease_next_item(batch, alice)
    assert item is not None
    given = annotation_queue.AnswerInput(
        choice="tie", points=None, confidence=2, tags=(), comment="kept", seconds=3.0
    )
    assert annotation_queue.submit_answer(item, alice, given)
    record_activity(row, batch, alice)


def record_activity(row: Any, batch: Any, alice: Any) -> None:
    """Write a row of every table that records who did what, and give a group permissions."""
    from django.contrib.auth.models import Group, Permission

    accounts: Any = import_module("webapp.accounts.models")  # as that version has it
    from webapp.audit import services
    from webapp.audit.gate import get_gate_terms
    from webapp.audit.models import Gate, GateOverride
    from webapp.notifications.models import Channel, EventType, Recipient, Subscription
    from webapp.notifications.outbox import write_notifications, write_test

    gate = Gate(experiment=row, min_agreement=0.6, confidence=0.9, min_answers=40)
    services.write_gate(gate, before=None, by=alice)
    before = get_gate_terms(gate)
    gate.min_agreement = 0.5
    services.write_gate(gate, before=before, by=alice, reason="too strict")
    services.set_status(batch, "closed", by=alice)
    GateOverride.objects.create(
        experiment=row, experiment_name="kept", iteration=1, reason="a trial run",
        created_by=alice, created_by_name="alice",
    )  # fmt: skip
    services.remove_gate(row, by=alice, reason="no time for audits")
    accounts.SecurityEvent.objects.create(
        kind="signed_in", subject="alice", created_by=alice, address="127.0.0.1"
    )
    recipient = Recipient.objects.create(user=alice, webhook_url="https://example.org/hook")
    for event in (EventType.ENDED, EventType.WAITS):
        Subscription.objects.create(recipient=recipient, event=event, channel=Channel.WEBHOOK)
    Subscription.objects.update(since="2020-01-01T00:00:00Z")
    assert write_notifications()
    write_test(recipient, Channel.WEBHOOK)
    support = Group.objects.create(name="support")
    support.permissions.set(Permission.objects.filter(codename__in=HELD))
    alice.groups.add(support)


def write(root: Path, output: Path) -> None:
    """Write the rows and the files, without a path of this machine."""
    output.mkdir(parents=True)
    with sqlite3.connect(root / "db.sqlite3") as database:
        database.execute("update experiments_attempt set worker = 'some-host'")
        dump = "\n".join(database.iterdump()).replace(str(root), ROOT)
    with gzip.GzipFile(output / "rows.sql.gz", "wb", mtime=0) as file:
        file.write(dump.encode())
    description = root / "artifacts" / "kept" / "experiment.json"
    text = description.read_text().replace(str(root), ROOT)
    description.unlink()
    description.write_text(text)
    with tarfile.open(output / "files.tar.gz", "w:gz") as archive:
        for name in ("artifacts", "models"):
            archive.add(root / name, arcname=name)


def main() -> None:
    """Make the fixture in the folder that is named."""
    output = Path(sys.argv[1]).absolute()
    sys.path.insert(0, str(Path.cwd()))
    root = Path(tempfile.mkdtemp(prefix="fixture-"))
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "webapp.settings",
        "DATABASE_URL": f"sqlite:///{root}/db.sqlite3",
        "META_REWARD_VAR": str(root / "var"),
        "META_REWARD_ARTIFACT_ROOT": str(root / "artifacts"),
        "META_REWARD_MODEL_ROOT": str(root / "models"),
        "META_REWARD_SCRATCH_ROOT": str(root / "scratch"),
    }
    prepare(root)
    make(root)
    write(root, output)
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
