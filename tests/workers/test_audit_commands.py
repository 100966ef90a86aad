"""Batches are drawn and read from the command line, too."""

import io

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command

from tests.webapp.audit_fixtures import artifacts, audited, carol
from tests.webapp.conftest import alice
from webapp.audit.models import Answer, Batch
from webapp.experiments.models import Experiment

__all__ = ["alice", "artifacts", "audited", "carol"]

pytestmark = pytest.mark.django_db


def run(command: str, *arguments: str) -> str:
    out = io.StringIO()
    call_command(command, *arguments, stdout=out)
    return out.getvalue()


def test_a_batch_is_drawn_and_reported(audited: Experiment, carol: User) -> None:
    said = run("create_audit", "--experiment", "scripted", "--iteration", "1", "--size", "30",
               "--auditor", "carol", "--same-auditor-share", "0",
               "--other-auditor-share", "0")  # fmt: skip
    batch = Batch.objects.get()
    assert f"batch {batch.pk}: 30 items" in said
    assert list(batch.auditors.all()) == [carol]
    for item in batch.items.select_related("hidden_verdict"):
        choice = item.hidden_verdict.facts["forward"] or "tie"
        Answer.objects.create(item=item, auditor_name="carol", choice=choice)
    report = run("audit_report", "--batch", str(batch.pk))
    assert "30 of 30 answers" in report
    assert "beats chance" in report
    assert "Cohen's kappa" in report
    pooled = run("audit_report", "--experiment", "scripted", "--iteration", "1")
    assert f"batches that count: {batch.pk}" in pooled
    assert "beats chance" in pooled
    assert "human verdict" in report
    assert "the higher score wins" in report
    assert "chance of each" in report
    assert "Elo order agrees with human preference" in report
    over = run("audit_report", "--experiment", "scripted")
    for figure in ("iteration 1", "Cohen's kappa", "Krippendorff's alpha", "Elo order"):
        assert figure in over


@pytest.mark.parametrize("arguments, said", [
    (["--experiment", "none", "--iteration", "1"], "experiment 'none' does not exist"),
    (["--experiment", "scripted", "--iteration", "9"], "no finished stage"),
    (["--experiment", "scripted", "--iteration", "1", "--auditor", "bob"], "'bob' is not an"),
    (["--experiment", "scripted", "--iteration", "1", "--same-auditor-share", "2"],
     "between 0 and 1"),
    (["--experiment", "scripted", "--iteration", "1", "--strategy", "score"], "does not apply to"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_said(arguments: list[str], said: str, audited: Experiment) -> None:
    with pytest.raises(CommandError, match=said):
        run("create_audit", *arguments)
    assert not Batch.objects.exists()


@pytest.mark.parametrize("arguments, said", [
    (["--batch", "99"], "batch 99 does not exist"),
    (["--experiment", "none"], "experiment 'none' does not exist"),
    (["--experiment", "scripted"], "no audit of 'scripted' has an answer yet"),
    (["--experiment", "scripted", "--iteration", "1"], "there is no audit of iteration 1"),
])  # fmt: skip
def test_what_is_not_there_is_said(arguments: list[str], said: str, audited: Experiment) -> None:
    with pytest.raises(CommandError, match=said):
        run("audit_report", *arguments)
