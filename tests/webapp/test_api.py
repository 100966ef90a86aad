"""The API: the same for programs, by token or session, with the pages' own permissions."""

import functools
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meta_reward_core.data.exports import EXPORTS
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.schemas import build_table
from meta_reward_core.storage.shards import IterationFiles, StageOutput
from tests.databases import CHECKOUT
from tests.webapp.conftest import make_person
from webapp.activity.models import Action, Activity
from webapp.api.models import ApiToken, make_token
from webapp.api.ninja_api import api
from webapp.experiments.models import Experiment, Iteration, Job, Worker

pytestmark = pytest.mark.django_db


class Program:
    """A program that signs in by a token and reads JSON."""

    def __init__(self, token: str = "") -> None:
        self.client = Client()
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        answer = self.client.generic(
            method,
            f"/api/v1{path}",
            data="" if body is None else json.dumps(body),
            content_type="application/json",
            headers=self.headers,
        )
        if answer.headers["Content-Type"] == "application/x-ndjson":
            return answer.status_code, [json.loads(line) for line in answer.getvalue().splitlines()]
        assert answer.headers["Content-Type"].startswith("application/json"), answer.content
        return answer.status_code, json.loads(answer.content)


def program_of(person: User) -> Program:
    return Program(make_token(person, name="test", expires=None)[1])


@pytest.fixture
def program(alice: User) -> Program:
    """A program of alice's, an operator."""
    return program_of(alice)


# Signing in


def test_a_stranger_is_told_so_in_json_and_not_led_to_a_form(experiment: Experiment) -> None:
    for path in ("/experiments", "/openapi.json", "/workers", "/experiments/first"):
        assert Program().ask("GET", path) == (401, {"detail": "Unauthorized"})
    assert Program().ask("POST", "/experiments/first/cancel")[0] == 401
    assert Program("mr_wrong").ask("GET", "/experiments")[0] == 401


def test_a_token_signs_in_as_its_owner(program: Program, experiment: Experiment) -> None:
    status, found = program.ask("GET", "/experiments")
    assert status == 200
    assert [one["name"] for one in found["experiments"]] == ["first"]
    assert found["experiments"][0]["owner"] == "alice"


def test_only_the_hash_of_a_token_is_kept(alice: User) -> None:
    row, token = make_token(alice, name="test", expires=None)
    kept = "".join(str(value) for value in vars(row).values())
    assert token not in kept
    assert token[len(row.prefix) :] not in kept
    assert len(token) > 40


@pytest.mark.parametrize("ends", ["expired", "revoked", "inactive"])
def test_a_token_ends_with_its_time_its_row_or_its_owner(
    alice: User, program: Program, ends: str
) -> None:
    if ends == "expired":
        ApiToken.objects.update(expires=timezone.now() - timedelta(seconds=1))
    elif ends == "revoked":
        ApiToken.objects.all().delete()
    else:
        User.objects.update(is_active=False)
    assert program.ask("GET", "/experiments")[0] == 401


def test_when_a_token_was_used_is_noted_once_a_minute(program: Program) -> None:
    program.ask("GET", "/experiments")
    first = ApiToken.objects.get().last_used
    assert first is not None
    program.ask("GET", "/experiments")
    assert ApiToken.objects.get().last_used == first


def test_a_browser_needs_the_csrf_token_to_change_something(
    alice: User, experiment: Experiment
) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(alice)
    assert browser.get("/api/v1/experiments").status_code == 200
    refused = browser.post("/api/v1/experiments/first/start")
    assert refused.status_code == 403
    assert "CSRF" in refused.json()["detail"]
    browser.get("/account/tokens")
    token = browser.cookies["csrftoken"].value
    asked = browser.post("/api/v1/experiments/first/start", headers={"X-CSRFToken": token})
    assert asked.status_code == 202


# Permissions


def test_who_may_only_look_can_change_nothing(experiment: Experiment) -> None:
    viewer = program_of(make_person("vera", "viewer"))
    assert viewer.ask("GET", "/experiments/first")[0] == 200
    for path, body in (
        ("/experiments/first/cancel", None),
        ("/experiments", {"name": "mine", "recipe": "smoke"}),
        ("/experiments/first/duplicate", {"name": "mine"}),
    ):
        status, answer = viewer.ask("POST", path, body)
        assert (status, list(answer)) == (403, ["detail"])
    assert not Job.objects.exists()


def test_without_a_role_nothing_is_seen(experiment: Experiment) -> None:
    nobody = program_of(make_person("nora"))
    for path in ("/experiments", "/experiments/first", "/workers", "/orders", "/recipes"):
        assert nobody.ask("GET", path)[0] == 403


def test_a_strangers_private_experiment_is_not_there(experiment: Experiment) -> None:
    Experiment.objects.update(is_private=True)
    bob = program_of(make_person("bob", "operator"))
    for path in ("", "/status", "/metrics", "/pairs", "/recipe"):
        assert bob.ask("GET", f"/experiments/first{path}")[0] == 404
    for path in ("/cancel", "/start"):
        assert bob.ask("POST", f"/experiments/first{path}")[0] == 404
    assert bob.ask("POST", "/experiments/first/duplicate", {"name": "mine"})[0] == 404
    assert bob.ask("GET", "/experiments")[1] == {"count": 0, "experiments": []}


def test_anothers_experiment_may_be_seen_and_not_steered(experiment: Experiment) -> None:
    bob = program_of(make_person("bob", "operator"))
    assert bob.ask("GET", "/experiments/first/status")[0] == 200
    status, answer = bob.ask("POST", "/experiments/first/cancel")
    assert status == 403
    assert "is owned by another user" in answer["detail"]


def test_orders_about_what_one_may_not_see_are_not_there(
    program: Program, experiment: Experiment
) -> None:
    placed = program.ask("POST", "/experiments/first/start")[1]["id"]
    bob = program_of(make_person("bob", "operator"))
    assert bob.ask("GET", f"/orders/{placed}")[0] == 200
    Experiment.objects.update(is_private=True)
    assert bob.ask("GET", f"/orders/{placed}")[0] == 404
    assert bob.ask("GET", "/orders")[1]["count"] == 0
    assert program.ask("GET", f"/orders/{placed}")[1]["kind"] == "next"


# What it does


@pytest.mark.parametrize(
    "action, kind",
    [
        ("start", "next"),
        ("next", "next"),
        ("pause", "pause"),
        ("resume", "resume"),
        ("cancel", "cancel"),
    ],
)
def test_steering_places_an_order(
    program: Program, alice: User, experiment: Experiment, action: str, kind: str
) -> None:
    status, placed = program.ask("POST", f"/experiments/first/{action}")
    assert (status, placed["kind"], placed["status"]) == (202, kind, "waiting")
    job = Job.objects.get(pk=placed["id"])
    assert (job.created_by, job.experiment, job.kind) == (alice, experiment, kind)


def test_each_action_has_an_operation_and_the_earlier_ones_are_deprecated(program: Program) -> None:
    described = program.ask("GET", "/openapi.json")[1]
    paths = described["paths"]
    for action in ("next", "pause", "resume", "cancel"):
        operation = paths[f"/api/v1/experiments/{{name}}/{action}"]["post"]
        assert not operation.get("deprecated")
    for path in (
        *("/experiments/{name}/{action}", "/orders", "/orders/{number}"),
        *("/experiments/{name}/tries", "/experiments/{name}/tries/{number}/follow-ups"),
    ):
        assert all(one["deprecated"] for one in paths[f"/api/v1{path}"].values()), path
    fields = described["components"]["schemas"]["JobOut"]["properties"]
    assert {name for name, field in fields.items() if field.get("deprecated")} == {
        *("subject", "by", "wish", "finding")
    }


def test_earlier_names_of_operations_and_fields_still_answer(
    program: Program, experiment: Experiment
) -> None:
    placed = program.ask("POST", "/experiments/first/pause")[1]
    for name, earlier in (
        ("experiment_name", "subject"),
        ("created_by", "by"),
        ("payload", "wish"),
        ("message", "finding"),
    ):
        assert placed[name] == placed[earlier]
    assert program.ask("GET", f"/orders/{placed['id']}") == program.ask(
        "GET", f"/jobs/{placed['id']}"
    )
    assert program.ask("GET", "/orders")[1]["orders"] == program.ask("GET", "/jobs")[1]["jobs"]
    found = program.ask("GET", "/experiments/first")[1]
    assert found["base_model_sha256"] == found["seed_model_sha256"] == "b" * 64
    assert found["target_iteration"] == found["until"]


def test_the_same_is_not_asked_for_twice(program: Program, experiment: Experiment) -> None:
    program.ask("POST", "/experiments/first/cancel")
    status, answer = program.ask("POST", "/experiments/first/cancel")
    assert status == 409
    assert "already" in answer["detail"]
    assert Job.objects.count() == 1


def test_an_action_that_does_not_exist_is_no_action(
    program: Program, experiment: Experiment
) -> None:
    assert program.ask("POST", "/experiments/first/explode")[0] == 422
    assert program.ask("POST", "/experiments/none/cancel")[0] == 404
    assert program.ask("GET", "/nothing/here")[0] == 404
    assert program.ask("PUT", "/experiments/first")[0] == 405


def test_an_experiment_is_created_by_the_forms_own_rules(program: Program, alice: User) -> None:
    body = {"name": "mine", "recipe": "smoke", "seed": 7, "values": {"actor.samples": 3}}
    status, placed = program.ask("POST", "/experiments", body)
    assert status == 202, placed
    assert (placed["kind"], placed["subject"], placed["by"]) == ("launch", "mine", "alice")
    assert placed["wish"]["seed"] == 7
    assert placed["payload"]["values"] == {"actor.samples": 3}
    assert placed["wish"]["changes"] == ["actor.samples=3"]
    assert not placed["wish"]["is_private"]


def test_the_request_of_the_documentation_creates_an_experiment(program: Program) -> None:
    page = (CHECKOUT / "docs/api.md").read_text(encoding="utf-8")
    body = json.loads(page.partition("```json\n")[2].partition("```")[0])
    status, job = program.ask("POST", "/experiments", body)
    assert (status, job["status"], job["experiment_name"]) == (202, "waiting", body["name"])
    assert program.ask("GET", f"/jobs/{job['id']}")[1]["id"] == job["id"]


@pytest.mark.parametrize(
    "body, words",
    [
        ({"recipe": "smoke"}, "name"),
        ({"name": "a b", "recipe": "smoke"}, "letters, digits"),
        ({"name": "mine", "recipe": "no-such"}, "'no-such' is not a built-in recipe"),
        ({"name": "mine", "recipe": "smoke", "values": {"actor.samples": 1}}, "actor.samples"),
        ({"name": "mine", "recipe": "smoke", "values": {"actor.sample": 3}}, "actor.sample"),
        ({"name": "mine", "recipe": "smoke", "colour": "red"}, "colour"),
        ({"name": "mine", "recipe": "smoke", "prompts": ["one"]}, "prompts"),
        ({"name": "mine", "recipe_text": "name: [", "recipe": ""}, "YAML"),
    ],
)
def test_what_is_wrong_is_said(program: Program, body: dict[str, Any], words: str) -> None:
    status, answer = program.ask("POST", "/experiments", body)
    assert status == 422
    assert words in json.dumps(answer["detail"])
    assert not Job.objects.exists()


def test_an_experiment_is_duplicated_with_changes(program: Program, experiment: Experiment) -> None:
    Experiment.objects.update(
        recipe={"name": "smoke", "world": "miniature", "iterations": 4}, seed=5, is_private=True
    )
    body = {"name": "again", "values": {"judge.samples": 4}, "is_private": False}
    status, placed = program.ask("POST", "/experiments/first/duplicate", body)
    assert status == 422, "its files are gone, and its prompts with them"
    assert "no longer exist" in placed["detail"]


def test_status_says_how_far_stages_are(program: Program, iteration: Iteration) -> None:
    stage = iteration.stages.create(
        name="judge", title="Judge", position=2, status="running", shard_count=2
    )
    stage.shards.create(index=0, status="finished", counts={"tokens": 700})
    status, found = program.ask("GET", "/experiments/first/status")
    assert status == 200
    judged = found["iterations"][0]["stages"][0]
    assert (judged["name"], judged["done"], judged["shard_count"]) == ("judge", 1, 2)
    assert judged["tokens"] == 700


def test_metrics_are_those_of_finished_iterations(program: Program, iteration: Iteration) -> None:
    assert program.ask("GET", "/experiments/first/metrics") == (200, [])
    Iteration.objects.update(status="finished", metrics={"judge": {"mean": 3.5}})
    found = program.ask("GET", "/experiments/first/metrics")
    assert found == (200, [{"iteration": 1, "metrics": {"judge": {"mean": 3.5}}}])


def test_pairs_come_as_lines_in_another_tools_format(
    program: Program, iteration: Iteration, tmp_path: Path
) -> None:
    Iteration.objects.update(status="finished")
    Experiment.objects.update(artifact_root=str(tmp_path))
    put_pairs(tmp_path, system="")
    status, rows = program.ask("GET", "/experiments/first/pairs?format=oxen")
    assert status == 200
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in rows] == [
        ("question 0", "good", "bad"),
        ("question 1", "good", "bad"),
    ]
    exported = Activity.objects.get(action=Action.EXPORTED)
    assert (exported.actor_name, exported.details) == ("alice", "pairs as oxen")
    only = "/experiments/first/pairs?format=trl&kind=judge&iteration=1"
    assert program.ask("GET", only) == (200, [])
    assert program.ask("GET", "/experiments/first/pairs?format=none")[0] == 422


def test_a_format_that_cannot_hold_the_pairs_is_refused_before_anything_is_sent(
    program: Program, iteration: Iteration, tmp_path: Path
) -> None:
    Iteration.objects.update(status="finished")
    Experiment.objects.update(artifact_root=str(tmp_path))
    put_pairs(tmp_path, system="Be brief.")
    status, answer = program.ask("GET", "/experiments/first/pairs?format=oxen")
    assert status == 409
    assert "this format does not support more" in answer["detail"]


def put_pairs(root: Path, *, system: str) -> None:
    def message(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    before = [message("system", system)] if system else []
    rows = [
        {
            "prompt": [*before, message("user", f"question {number}")],
            "chosen": [message("assistant", "good")],
            "rejected": [message("assistant", "bad")],
            "kind": "actor",
            "iteration": 1,
            "prompt_id": str(number),
            "score_chosen": 4.0,
            "score_rejected": 1.0,
            "chosen_response_id": "r0",
            "rejected_response_id": "r1",
        }
        for number in range(2)
    ]
    files = IterationFiles(ArtifactStore(str(root)), "first/iteration-1")
    work = StageOutput({("actor_pairs", 0): build_table("actor_pairs", rows)})
    files.publish("pair_actor", 0, key="a key", work=work, packages={})


def test_recipes_fields_and_workers_are_listed(program: Program) -> None:
    now = timezone.now()
    Worker.objects.create(
        name="w", host="h", pid=1, queues="cpu,gpu", since=now, started=now, heartbeat=now
    )
    names = [one["name"] for one in program.ask("GET", "/recipes")[1]]
    assert "smoke" in names
    assert program.ask("GET", "/recipes/smoke")[1]["values"]["task"] == "toy"
    assert program.ask("GET", "/recipes/../settings")[0] in (404, 422)
    assert program.ask("GET", "/recipes/none")[0] == 422
    fields = {one["key"]: one for one in program.ask("GET", "/recipes/fields")[1]}
    assert "Number of responses per prompt" in fields["actor.samples"]["text"]
    assert program.ask("GET", "/workers")[1][0]["queues"] == ["cpu", "gpu"]


def test_lists_ask_the_database_as_often_for_many(
    program: Program, experiment: Experiment, iteration: Iteration, alice: User
) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as asked:
            program.ask("GET", "/experiments")
            program.ask("GET", "/orders")
            program.ask("GET", "/experiments/first/status")
        return len(asked)

    program.ask("POST", "/experiments/first/start")
    before = count()
    for number in range(5):
        Experiment.objects.create(name=f"more-{number}", owner=alice, recipe={}, seed=1)
        Job.objects.create(
            kind="next", created_by=alice, experiment=experiment, experiment_name="first"
        )
        turn = Iteration.objects.create(experiment=experiment, number=number + 2)
        turn.stages.create(name="judge", title="Judge", position=2)
    assert count() == before
    assert before <= 27


def test_pages_of_a_list(program: Program, alice: User) -> None:
    for number in range(5):
        Experiment.objects.create(name=f"run-{number}", owner=alice, recipe={}, seed=1)
    found = program.ask("GET", "/experiments?limit=2&offset=1")[1]
    assert found["count"] == 5
    assert [one["name"] for one in found["experiments"]] == ["run-3", "run-2"]
    assert program.ask("GET", "/experiments?limit=0")[0] == 422
    assert program.ask("GET", "/experiments?limit=1000")[0] == 422


# Its description


def test_the_description_names_every_operation(program: Program) -> None:
    status, found = program.ask("GET", "/openapi.json")
    assert status == 200
    operations = [operation for path in found["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names) >= 15
    assert {"create_experiment", "steer_experiment", "get_status", "export_pairs"} <= set(names)
    for operation in operations:
        assert operation["summary"]
        assert operation["description"].strip()
        assert operation["security"]
        assert {"401", "403", "404", "422"} <= {str(code) for code in operation["responses"]}


def test_every_reference_of_the_description_leads_somewhere(program: Program) -> None:
    found = program.ask("GET", "/openapi.json")[1]
    assert found["openapi"].startswith("3.")
    known = {f"#/components/schemas/{name}" for name in found["components"]["schemas"]}

    def references(value: Any) -> set[str]:
        if isinstance(value, list):
            return {one for entry in value for one in references(entry)}
        if not isinstance(value, dict):
            return set()
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own | {one for entry in value.values() for one in references(entry)}

    assert references(found["paths"]) <= known
    assert references(found["components"]) <= known
    for path, operations in found["paths"].items():
        for operation in operations.values():
            told = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert told == {part[1:-1] for part in path.split("/") if part.startswith("{")}


def test_the_pairs_come_in_every_format_that_the_core_can_write(program: Program) -> None:
    found = program.ask("GET", "/openapi.json")[1]
    told = found["paths"]["/api/v1/experiments/{name}/pairs"]["get"]["parameters"]
    formats = next(one for one in told if one["name"] == "format")["schema"]["enum"]
    assert set(formats) == set(EXPORTS)


def test_there_is_no_page_of_documentation_that_loads_from_elsewhere() -> None:
    assert api.docs_url is None
    assert Program().ask("GET", "/docs")[0] == 404


@functools.cache
def operations() -> list[tuple[str, str]]:
    paths = api.get_openapi_schema()["paths"]
    return sorted((path, method) for path in paths for method in paths[path])


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(data=st.data())
def test_whatever_is_sent_is_answered_in_json_and_never_by_a_fault(
    program: Program, experiment: Experiment, data: st.DataObject
) -> None:
    path, method = data.draw(st.sampled_from(operations()))
    word = st.sampled_from(["first", "none", "..", "%00", "1", "9" * 30, "cancel", "smoke", "é"])
    filled = "/".join(
        data.draw(word) if part.startswith("{") else part
        for part in path.removeprefix("/api/v1").split("/")
    )
    keys = st.sampled_from(["name", "recipe", "recipe_text", "seed", "values", "prompts", "model"])
    body = data.draw(_json | st.dictionaries(keys, _json))
    status, answer = program.ask(method.upper(), filled, body)
    assert status in (200, 202, 401, 403, 404, 405, 409, 422)
    if status >= 400:
        assert "detail" in answer


@pytest.mark.parametrize("body", [{"name": "a\0"}, {"values": {"k\0": 1}}, {"prompts": ["\0"]}])
def test_the_character_nul_is_refused_in_words(program: Program, body: dict[str, object]) -> None:
    status, answer = program.ask("POST", "/experiments", body)
    assert status == 422
    assert "NUL" in str(answer["detail"])
