"""Statuses: the same words in the table, its filter, pages and the API."""

import pytest
from django.test import Client

from tests.webapp.watching_fixtures import get
from webapp.experiments.models import Driver, Experiment, Iteration, RunStatus
from webapp.experiments.statuses import HELD_AT_GATE, RUN_STATUSES, find_run_statuses

GLOSSARY = {
    "pending", "running", "paused", "needs attention", "cancelled", "failed", "completed",
    "no pairs",
}  # fmt: skip


def test_users_see_the_statuses_of_the_glossary_each_once() -> None:
    assert {label for _, label in RUN_STATUSES} == GLOSSARY
    assert len(RUN_STATUSES) == len(GLOSSARY)


@pytest.mark.parametrize("status", list(RunStatus))
def test_table_filter_page_and_api_call_a_status_the_same(
    client: Client, iteration: Iteration, status: RunStatus
) -> None:
    Experiment.objects.update(status=status)
    Iteration.objects.update(status=status)
    label = status.label
    word = label.replace(" ", "_")
    shown = f">{label}</span>"
    assert shown in get(client, f"/?status={word}")
    assert shown in get(client, "/experiments/first")
    assert shown in get(client, "/experiments/first/iterations/1")
    state = client.get("/api/v1/experiments/first/status").json()
    assert (state["status"], state["iterations"][0]["status"]) == (word, word)
    assert client.get("/api/v1/experiments/first").json()["status"] == word
    others = [other for other, _ in RUN_STATUSES if other != word]
    assert all("No experiments match" in get(client, f"/?status={other}") for other in others)


def test_an_earlier_address_of_the_filter_finds_the_same(
    client: Client, experiment: Experiment
) -> None:
    Experiment.objects.update(status=RunStatus.FINISHED)
    assert find_run_statuses("finished") == find_run_statuses("completed")
    assert "/experiments/first" in get(client, "/?status=finished")


def test_an_iteration_that_the_gate_holds_is_not_called_running(
    client: Client, iteration: Iteration
) -> None:
    Experiment.objects.update(status=RunStatus.NEEDS_ATTENTION)
    Iteration.objects.update(
        status=RunStatus.NEEDS_ATTENTION,
        driver=Driver.WORKERS,
        message=f"{HELD_AT_GATE}there is no audit of these battles yet",
    )
    for path in ("/", "/experiments/first", "/experiments/first/iterations/1"):
        page = get(client, path)
        assert "status-needs_attention" in page
        assert ">running</span>" not in page
    page = get(client, "/experiments/first")
    assert 'value="accept_probe"' not in page, "the probe has nothing to do with it"
    assert 'value="cancel"' in page
