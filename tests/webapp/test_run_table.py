"""The run table: columns, order, filter, selection and export, all of it in the address."""

import csv
import io
import json
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.webapp.conftest import make_person
from tests.webapp.watching_fixtures import add_attempt, add_stage, get, summary
from webapp.activity.models import Activity
from webapp.dashboard.run_columns import COLUMNS
from webapp.experiments.models import (
    Experiment,
    ExperimentTag,
    Iteration,
    Job,
    JobKind,
    RunStatus,
    Shard,
)
from webapp.experiments.statuses import HELD_AT_GATE

ALARM = {"name": "x", "sentence": "", "advice": ""}
SOME = (*COLUMNS, "metric.judge.mean", "recipe.training.beta")


def add_run(name: str, *, number: int = 1, tags: tuple[str, ...] = (), **values: Any) -> Experiment:
    """A run with one completed iteration: `number` sets its metrics, tokens and times."""
    recipe = {"name": "smoke", "iterations": 2, "training": {"beta": number / 10}}
    row = Experiment.objects.create(
        **{
            "name": name, "recipe": recipe, "recipe_sha256": f"{number:064}", "seed": number,
            "base_model_folder": "/m0", "base_model_sha256": "b" * 64, "artifact_root": "/none",
            "status": RunStatus.FINISHED, "target_iteration": 1, **values,
        }
    )  # fmt: skip
    now = timezone.now()
    iteration = Iteration.objects.create(
        experiment=row,
        number=1,
        model_in="b" * 64,
        model_out="c" * 64,
        status=RunStatus.FINISHED,
        started=now - timedelta(minutes=number),
        finished=now,
        metrics=summary(number)
        | {"alarms": [{"name": "x", "sentence": "", "advice": ""}] * number},
    )
    stage = add_stage(iteration, status="finished")
    shard = Shard.objects.create(
        stage=stage, index=0, status="finished", counts={"tokens": 1000 * number}
    )
    add_attempt(shard, status="finished", seconds=3600.0 * number, finished=now)
    ExperimentTag.objects.bulk_create(ExperimentTag(experiment=row, name=tag) for tag in tags)
    return row


def names(client: Client, query: str = "") -> list[str]:
    """Names of the rows, from above."""
    table = client.get(f"/?{query}").context["table"]
    return [line.summary.row.name for line in table.lines]


@pytest.fixture
def three(alice: User) -> list[Experiment]:
    return [
        add_run("middle", number=2, owner=alice, tags=("paper",)),
        add_run("small", number=1, tags=("paper", "debug"), description="a quick look"),
        add_run("large", number=3, status=RunStatus.FAILED),
    ]


@pytest.mark.parametrize(
    "column",
    ["duration", "tokens", "cost", "alarms", "metric.judge.mean", "recipe.training.beta",
     "metric.training.loss.last"],
)  # fmt: skip
def test_any_column_sorts_in_both_directions(
    client: Client, three: list[Experiment], column: str
) -> None:
    if column.endswith("loss.last"):  # the same for all: newest first remains
        assert names(client, f"sort={column}") == ["large", "small", "middle"]
        return
    assert names(client, f"sort={column}") == ["small", "middle", "large"]
    assert names(client, f"sort=-{column}") == ["large", "middle", "small"]


def test_runs_that_need_attention_come_first_unless_a_column_sorts(
    client: Client, three: list[Experiment]
) -> None:
    Experiment.objects.filter(name="middle").update(status=RunStatus.NEEDS_ATTENTION)
    assert names(client) == ["middle", "large", "small"]
    Experiment.objects.filter(name="large").update(status=RunStatus.FINISHED)
    Experiment.objects.filter(name="small").update(status=RunStatus.NO_PAIRS)
    assert names(client) == ["middle", "small", "large"]
    Experiment.objects.filter(name="small").update(status=RunStatus.FINISHED)
    assert names(client, "sort=-created") == ["large", "small", "middle"]


def test_a_run_that_waits_for_an_audit_links_to_its_audits(
    client: Client, three: list[Experiment]
) -> None:
    Iteration.objects.filter(experiment__name="middle").update(
        status=RunStatus.NEEDS_ATTENTION, message=f"{HELD_AT_GATE}an audit must show agreement"
    )
    page = get(client)
    link = 'href="/experiments/middle/audits">Waiting for an audit</a>'
    assert link in page
    assert "must show" not in page
    assert "must show" in get(client, "/experiments/middle")


def test_the_main_metric_is_a_number_that_sorts(client: Client, three: list[Experiment]) -> None:
    """Quality is 2 + number before the only iteration and 3 + number after it."""
    assert names(client, "sort=metric") == ["small", "middle", "large"]
    page = get(client, "/?sort=-metric")
    assert 'True quality ▼</a><span class="facts">from M0, 95% CI</span>' in page
    assert '<span class="facts of">M1</span> 6.00<span class="facts">+1.00</span>' in page
    assert "sorted by: Main metric, descending" in page


def test_a_run_that_stopped_says_where(client: Client, three: list[Experiment]) -> None:
    row = next(one for one in three if one.name == "large")
    stopped = Iteration.objects.create(
        experiment=row, number=2, model_in="b" * 64, status=RunStatus.FAILED, message="No disk."
    )
    add_stage(stopped, title="Judge responses", status="failed")
    page = get(client)
    assert "1/1 Judge responses</span>" in page
    assert "Stopped at" not in page
    assert page.index('status-failed">failed') < page.index("No disk</span>")
    assert "Sorted by" not in page
    assert "sorted by: needs attention, failed, then newest" in page


def test_runs_without_a_value_come_last_in_both_directions(
    client: Client, three: list[Experiment], experiment: Experiment
) -> None:
    assert names(client, "sort=tokens")[-1] == "first"
    assert names(client, "sort=-tokens")[-1] == "first"


@pytest.mark.parametrize("key", list(COLUMNS))
def test_every_column_can_be_shown_and_sorted_by(
    client: Client, three: list[Experiment], experiment: Experiment, key: str
) -> None:
    page = client.get(f"/?col={key}&sort=-{key}")
    assert page.status_code == 200
    headings = page.context["table"].headings
    assert [heading.column.key for heading in headings] == [key]


def test_columns_show_values(client: Client, three: list[Experiment]) -> None:
    page = get(client, "/?col=tokens&col=cost&col=recipe.training.beta&col=metric.judge.mean")
    for text in ("3,000", ">3.00<", ">0.3<", ">3.3<"):
        assert text in page, text
    assert "Mean score" in page


def test_recipe_values_that_differ_are_offered_and_others_are_not(
    client: Client, three: list[Experiment]
) -> None:
    offered = [column.key for column in client.get("/").context["table"].recipe]
    assert offered == ["recipe.training.beta"]


@pytest.mark.parametrize(
    "query, expected",
    [
        ("q=small", ["small"]),
        ("q=quick", ["small"]),
        ("q=debug", ["small"]),
        ("status=failed", ["large"]),
        ("status=completed", ["small", "middle"]),
        ("owner=alice", ["middle"]),
        ("tag=paper", ["small", "middle"]),
        ("tag=paper&owner=alice", ["middle"]),
        ("tag=unknown", ["large", "small", "middle"]),
        ("archived=1", []),
    ],
)
def test_the_table_is_filtered(
    client: Client, three: list[Experiment], query: str, expected: list[str]
) -> None:
    assert names(client, query) == expected


def test_filter_order_and_columns_stay_on_the_next_page(client: Client) -> None:
    for number in range(1, 26):
        add_run(f"run-{number:02}", number=number % 5 + 1, tags=("paper",))
    query = "q=run&tag=paper&sort=-tokens&col=tokens&col=status"
    page = get(client, f"/?{query}")
    assert "Page 1 of 2" in page
    link = "?q=run&amp;tag=paper&amp;sort=-tokens&amp;col=tokens&amp;col=status&amp;page=2"
    assert link in page
    second = client.get("/?" + link.removeprefix("?").replace("&amp;", "&"))
    assert len(second.context["table"].lines) == 5
    assert [h.column.key for h in second.context["table"].headings] == ["tokens", "status"]


def test_the_number_of_queries_does_not_grow_with_the_rows(client: Client) -> None:
    def count(path: str) -> int:
        client.get(path)  # recipes are read once
        with CaptureQueriesContext(connection) as asked:
            assert client.get(path).status_code == 200
        return len(asked)

    every = "&".join(
        f"col={key}" for key in [*COLUMNS, "metric.judge.mean", "recipe.training.beta"]
    )
    add_run("run-0", tags=("a",))
    few = count(f"/?{every}&size=50")
    few_api = count("/api/v1/experiments")
    for number in range(1, 21):
        add_run(f"run-{number}", number=number, tags=("a", "b"))
    assert count(f"/?{every}&size=50") == few
    assert count("/api/v1/experiments") == few_api


def test_the_table_as_csv_has_all_pages_and_guards_formulas(
    client: Client, three: list[Experiment]
) -> None:
    large = Experiment.objects.get(name="large")
    large.description = "=1+1"
    large.save()
    answer = client.get("/?sort=tokens&col=tokens&col=description&format=csv")
    assert answer["Content-Type"].startswith("text/csv")
    text = b"".join(answer.streaming_content).decode()  # type: ignore[attr-defined]
    rows = list(csv.reader(io.StringIO(text)))
    assert rows == [
        ["experiment", "status", "tokens", "description"],
        ["small", "completed", "1000", "a quick look"],
        ["middle", "completed", "2000", ""],
        ["large", "failed", "3000", "'=1+1"],
    ]


def test_nobody_sees_private_runs_owners_or_tags_of_others(
    client: Client, three: list[Experiment]
) -> None:
    bob = make_person("bob", "operator")
    add_run("covert", owner=bob, is_private=True, tags=("secret",))
    page = get(client, "/")
    assert all(word not in page for word in ("covert", "secret", "bob"))
    assert "covert" not in b"".join(
        client.get("/?format=csv").streaming_content  # type: ignore[attr-defined]
    ).decode()  # fmt: skip


@pytest.mark.parametrize(
    "query",
    ["sort=nonsense", "col=nonsense", "col=metric.", "sort=-recipe.a.b.c", "size=7", "page=x",
     "status=nonsense", "archived=nonsense", "col=" + "a" * 5000],
)  # fmt: skip
def test_an_address_that_makes_no_sense_shows_a_table(
    client: Client, three: list[Experiment], query: str
) -> None:
    assert client.get(f"/?{query}").status_code == 200


def act(client: Client, do: str, *chosen: str, **more: str) -> Any:
    data = {"do": do, "name": list(chosen), "next": "/?tag=paper", **more}
    return client.post("/experiments/actions", data, follow=True)


def test_several_runs_are_archived_and_restored(client: Client, three: list[Experiment]) -> None:
    Experiment.objects.filter(name="large").update(owner=make_person("bob", "operator"))
    Iteration.objects.filter(experiment__name="middle").update(status=RunStatus.RUNNING)
    page = act(client, "archive", "small", "middle", "large", "unknown")
    assert page.redirect_chain == [("/?tag=paper", 302)]
    text = page.content.decode()
    assert "Archived: small." in text
    assert "middle: running; pause or stop it first" in text
    assert "large: owned by another user" in text
    assert names(client, "") == ["large", "middle"]
    assert names(client, "archived=1") == ["small"]
    assert "Restored: small." in act(client, "restore", "small").content.decode()
    assert names(client, "archived=1") == []
    recorded = Activity.objects.filter(experiment_name="small").values_list("action", flat=True)
    assert sorted(recorded) == ["archived", "unarchived"]


def test_cancelling_several_runs_is_confirmed_first(
    client: Client, three: list[Experiment]
) -> None:
    Experiment.objects.filter(name="small").update(status=RunStatus.RUNNING)
    Iteration.objects.filter(experiment__name="small").update(
        status=RunStatus.RUNNING, driver="workers"
    )
    page = act(client, "cancel", "small", "middle").content.decode()
    assert "Stop 2 experiments?" in page
    assert not Job.objects.exists()
    page = act(client, "cancel", "small", "middle", confirmed="1").content.decode()
    assert "Stop requested: small." in page
    assert "middle: cannot stop (completed)" in page
    assert Job.objects.get().kind == JobKind.CANCEL


def test_an_action_without_a_selection_says_so(client: Client, three: list[Experiment]) -> None:
    assert "Select at least one experiment." in act(client, "pause").content.decode()
    assert act(client, "nonsense", "small").status_code == 400
    elsewhere = client.post(
        "/experiments/actions", {"do": "pause", "name": "small", "next": "https://evil.example/"}
    )
    assert elsewhere.headers["Location"] == "/"


def test_a_viewer_compares_but_does_not_act(three: list[Experiment]) -> None:
    viewer = Client()
    viewer.force_login(make_person("vera", "viewer"))
    page = get(viewer, "/")
    assert "Compare" in page
    assert 'value="archive"' not in page
    assert (
        viewer.post("/experiments/actions", {"do": "archive", "name": "small"}).status_code == 403
    )


def test_description_tags_and_notes_are_changed_and_logged(
    client: Client, experiment: Experiment
) -> None:
    given = {"description": "baseline", "tags": "paper, debug,paper", "notes": "line 1\nline 2"}
    page = client.post("/experiments/first/details", given, follow=True).content.decode()
    assert "Saved." in page
    assert '?tag=debug"' in page
    assert "line 1" in page
    assert list(experiment.tags.values_list("name", flat=True)) == ["debug", "paper"]
    assert "No changes" in client.post(
        "/experiments/first/details", given, follow=True
    ).content.decode()  # fmt: skip
    entry = Activity.objects.get(action="tagged")
    assert (entry.before["tags"], entry.after["tags"]) == ([], ["debug", "paper"])
    assert "changed tags or notes" in get(client, "/activity")


@pytest.mark.parametrize("tags", ["<script>", "a" * 33, ",".join(f"t{n}" for n in range(21)), "-x"])
def test_tags_that_are_not_allowed_are_refused(
    client: Client, experiment: Experiment, tags: str
) -> None:
    answer = client.post("/experiments/first/details", {"tags": tags})
    assert answer.status_code == 422
    assert not experiment.tags.exists()


def test_deleting_asks_for_the_name_and_becomes_a_job(
    client: Client, experiment: Experiment
) -> None:
    assert "This cannot be undone" in get(client, "/experiments/first/delete")
    wrong = client.post("/experiments/first/delete", {"name": "fist"})
    assert wrong.status_code == 422
    assert not Job.objects.exists()
    right = client.post("/experiments/first/delete", {"name": "first"}, follow=True)
    assert "Deletion of first requested." in right.content.decode()
    assert Job.objects.get().kind == JobKind.DELETE


def test_what_runs_or_is_built_upon_is_not_deleted(
    client: Client, experiment: Experiment, iteration: Iteration
) -> None:
    Iteration.objects.update(status=RunStatus.RUNNING)
    add_run("heir", base_model_folder="/artifacts/first/iteration-1/checkpoint")
    page = get(client, "/experiments/first/delete")
    assert "An iteration is running. Stop it first." in page
    assert "base model of 1 other experiment" in page
    assert client.post("/experiments/first/delete", {"name": "first"}).status_code == 422
    assert not Job.objects.exists()


def ask(client: Client, method: str, path: str, body: object = None) -> tuple[int, Any]:
    answer = client.generic(
        method,
        f"/api/v1/experiments{path}",
        data="" if body is None else json.dumps(body),
        content_type="application/json",
    )
    return answer.status_code, json.loads(answer.content)


def test_the_api_filters_tags_archives_and_deletes(client: Client, three: list[Experiment]) -> None:
    def listed(query: str) -> list[str]:
        return [row["name"] for row in ask(client, "GET", f"?{query}")[1]["experiments"]]

    assert listed("tag=paper&status=completed") == ["small", "middle"]
    status, row = ask(client, "PATCH", "/small/details", {"tags": ["b", "a"], "notes": "slow"})
    assert (status, row["tags"], row["notes"]) == (200, ["a", "b"], "slow")
    assert row["description"] == "a quick look", "what is left out stays"
    assert ask(client, "PATCH", "/small/details", {"tags": ["<b>"]})[0] == 422
    assert ask(client, "POST", "/small/archive")[1]["archived"] is not None
    assert listed("") == ["large", "middle"]
    assert listed("archived=1") == ["small"]
    assert ask(client, "POST", "/small/restore")[1]["archived"] is None
    assert ask(client, "GET", "/middle/disk")[1]["obstacles"] == []
    status, job = ask(client, "DELETE", "/middle")
    assert (status, job["kind"]) == (202, "delete")
    assert ask(client, "DELETE", "/middle")[0] == 409
    assert ask(client, "DELETE", "/small")[0] == 403, "nobody owns it, and alice is no admin"
    Iteration.objects.filter(experiment__name="large").update(status=RunStatus.RUNNING)
    assert ask(client, "POST", "/large/archive")[0] == 409
