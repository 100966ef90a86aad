"""Beginning an experiment from a form: every value, its checks, and the order that comes of it."""

import argparse
import re
import shlex
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone
from django.utils.html import escape
from pytest_django import DjangoAssertNumQueries

from meta_reward_core.cli.options import add_run_options, build_request
from meta_reward_core.planning.cost_estimate import plan_iteration
from meta_reward_core.planning.experiment_request import load_requested_recipe
from meta_reward_core.planning.launch_request import LaunchRequest
from meta_reward_core.recipes.loader import list_shipped_recipes, load_recipe
from meta_reward_core.system.command_hint import format_command
from tests.webapp.conftest import make_person
from tests.webapp.experiment_form_fixtures import (
    HTMX,
    NEW,
    filled,
    launch,
    make_experiment,
    make_model,
    only_job,
    storage_roots,
)
from tests.webapp.watching_fixtures import add_worker
from webapp.experiment_form.cost import humanize_duration
from webapp.experiment_form.launch_request import read_payload
from webapp.experiment_form.model_choices import find_model_bytes
from webapp.experiment_form.recipe_fields import get_recipe_fields
from webapp.experiments.jobs import enqueue_job
from webapp.experiments.models import (
    Attempt,
    Experiment,
    Iteration,
    Job,
    JobKind,
    Shard,
    Stage,
    Worker,
)

pytestmark = pytest.mark.django_db

__all__ = ["storage_roots"]


def text(answer: Any) -> str:
    return str(answer.content.decode())


def test_the_shipped_recipes_are_offered(client: Client) -> None:
    page = text(client.get(NEW))
    assert all(f"?recipe={name}" in page for name in list_shipped_recipes())


def test_every_field_is_shown_with_what_it_means(client: Client) -> None:
    page = text(client.get(f"{NEW}?recipe=smoke"))
    for field in get_recipe_fields().values():
        assert f'name="recipe.{field.key}"' in page
    assert "Number of responses per prompt (K). At least 2, at most 256." in page
    assert 'id="recipe-sample-prompts" name="recipe.sample.prompts" value="36"' in page


def test_whatever_the_check_says_below_a_field_has_its_place(client: Client) -> None:
    """Without a model's folder, too, which the form then has no list for."""
    page = text(client.get(f"{NEW}?recipe=paper-llama3-8b"))
    region = text(client.post(NEW, filled(), headers=HTMX))
    wanted = re.findall(r'id="(note-[^"]+)" hx-swap-oob', region)
    assert wanted
    assert [name for name in wanted if f'id="{name}"' not in page] == []


def test_endpoints_that_are_known_here_are_offered(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = client.get(f"{NEW}?recipe=smoke").content.decode()
    assert "Available" not in page
    entry = "{base_url: 'http://localhost:9/v1', model: m}"
    monkeypatch.setenv("META_REWARD_ENDPOINTS", f"{{big: {entry}, small: {entry}}}")
    page = client.get(f"{NEW}?recipe=smoke").content.decode()
    assert page.count("Available: big, small.") == 2
    assert '<option value="small"></option>' in page
    assert "localhost:9" not in page
    monkeypatch.setenv("META_REWARD_ENDPOINTS", "{broken")
    assert client.get(f"{NEW}?recipe=smoke").status_code == 200


def test_an_unknown_recipe_is_named(client: Client) -> None:
    page = text(client.get(f"{NEW}?recipe=../../etc/passwd"))
    assert "&#x27;../../etc/passwd&#x27; is not a built-in recipe" in page


def test_a_launch_becomes_an_order(client: Client, alice: User) -> None:
    answer = launch(client, **{"recipe.actor.samples": "5", "is_private": "on"})
    job = only_job()
    assert answer.status_code == 302
    assert answer.headers["Location"] == f"/jobs/{job.pk}"
    assert (job.kind, job.created_by, job.experiment_name) == (JobKind.LAUNCH, alice, "mine")
    launch_request = read_payload(job.payload)
    assert launch_request == LaunchRequest(
        experiment="mine",
        seed=7,
        iterations=2,
        is_private=True,
        recipe="smoke",
        values={"actor.samples": 5},
    )
    assert launch_request.build_recipe() == load_recipe("smoke", changes=["actor.samples=5"])


@pytest.mark.parametrize("name", ["org/name", "org/name@v1.0", f"org/name@{'5' * 40}"])
def test_a_model_of_the_hub_may_name_a_revision(client: Client, name: str) -> None:
    launch(client, model_from="hub", model_hub=name)
    assert read_payload(only_job().payload).build_recipe().model == name


def test_only_what_was_changed_is_kept(client: Client) -> None:
    page = client.get(f"{NEW}?recipe=smoke")
    texts = {f"recipe.{key}": value for key, value in page.context["state"].draft.texts.items()}
    launch(client, **texts)
    assert only_job().payload["values"] == {}


@pytest.mark.parametrize(
    ("key", "typed", "error"),
    [
        ("actor.samples", "1", "Input should be greater than or equal to 2."),
        ("actor.samples", "many", "&#x27;many&#x27; is not a whole number."),
        ("actor.samples", "", "A value is required."),
        ("actor.temperature", "nan", "&#x27;nan&#x27; is not a number."),
        ("pairing.rho", "0.3, 2", "Input should be less than or equal to 1."),
        ("train_on", "[actor], [critic]", "Choose one of: actor, judge."),
        ("judge.template", "/etc/passwd", "Choose one of: brief_judge, judge, miniature_judge."),
        ("judge.min_valid_judgments", "12", "but only judge.samples = 11 judgments are made."),
        ("engine.kind", "openai", "needs a server: set engine.endpoint to a name in"),
        ("engine.endpoint", "far", "is for engine.kind: openai only"),
        ("training.batch_size", "17", "batch_size must be a multiple of device_batch_size."),
    ],
)
def test_an_error_stands_below_its_field(client: Client, key: str, typed: str, error: str) -> None:
    page = text(launch(client, **{f"recipe.{key}": typed}))
    note = page.split(f'id="note-recipe-{key.replace(".", "-")}"')[1].split("</p>")[0]
    assert error in note
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"name": "../x"}, "Up to 64 letters"),
        ({"name": ""}, "This field is required."),
        ({"until": "0"}, "greater than or equal to 1"),
        ({"seed": "-1"}, "greater than or equal to 0"),
        (
            {"model_from": "hub", "model_hub": "../../x"},
            "Enter an id such as org/name, or org/name@revision.",
        ),
        ({"model_from": "folder"}, "not one of the available choices"),
        ({"prompts_from": "text", "prompts_text": " "}, "Paste at least one prompt."),
        ({"prompts_from": "text", "prompts_text": "one"}, "needs 36 prompts, but there are only 1"),
        ({"until": "9"}, "9 iterations need 324 different prompts, but there are only 288"),
        ({"recipe.task": "none"}, "has no task"),
        (
            {"prompts_from": "file", "prompts_stored": "../../etc/passwd"},
            "no longer exists; upload it again",
        ),
    ],
)
def test_a_wrong_setting_is_told_and_nothing_is_ordered(
    client: Client, changes: dict[str, str], error: str
) -> None:
    assert error in text(launch(client, **changes))
    assert not Job.objects.exists()


def test_who_chooses_a_server_finds_its_name_beside_it(client: Client) -> None:
    """The page is not asked for again when a choice is made, so nothing that it needs is folded."""
    page = text(launch(client, **{"recipe.engine.kind": "openai"}))
    kind, endpoint = (page.index(f'name="recipe.engine.{key}"') for key in ("kind", "endpoint"))
    assert "<details" not in page[kind:endpoint]
    assert 'href="#note-recipe-engine-endpoint"' in page


def test_the_command_beside_the_form_asks_for_the_same(client: Client) -> None:
    sent = filled(**{"recipe.actor.samples": "5", "recipe.pairing.rho": "0.2, 0.4"})
    page = client.post(f"{NEW}?recipe=smoke", sent)
    command = page.context["command"]
    assert escape(command) in text(page)
    program = shlex.split(format_command("run_iteration"))
    words = shlex.split(command.replace("\\\n", " "))
    parser = argparse.ArgumentParser()
    add_run_options(parser)
    asked = build_request(
        vars(parser.parse_args([word for word in words[len(program) :] if word != "--queue"]))
    )
    assert words[: len(program)] == program
    assert (asked.experiment, asked.seed) == ("mine", 7)
    assert load_requested_recipe(asked) == page.context["state"].draft.recipe
    assert not client.get(f"{NEW}?recipe=smoke").context["command"]


def test_a_taken_name_is_refused(client: Client, alice: User) -> None:
    make_experiment("mine")
    assert "An experiment with this name exists" in text(launch(client))
    enqueue_job(JobKind.LAUNCH, by=alice, experiment_name="another")
    assert "is being created" in text(launch(client, name="another"))


def test_a_change_asks_for_the_checks_alone(client: Client) -> None:
    given = filled(name="", **{"recipe.actor.samples": "5", "recipe.judge.samples": "0"})
    region = text(client.post(NEW, given, headers=HTMX))
    assert "<html" not in region
    assert 'id="note-recipe-actor-samples" hx-swap-oob="true"' in region
    assert "Input should be greater than or equal to 1." in region
    assert "This field is required." not in region
    assert 'id="launch-state"' in region
    assert "To launch, fill in: name." in region.split('id="launch-state"')[1]


def test_htmx_never_launches(client: Client) -> None:
    client.post(NEW, filled(action="launch"), headers=HTMX)
    assert not Job.objects.exists()


def test_the_button_checks_without_javascript(client: Client) -> None:
    page = text(client.post(NEW, filled(action="check", **{"recipe.actor.samples": "5"})))
    assert "<html" in page
    assert "Changed from <b>7</b>" in page
    assert not Job.objects.exists()


def test_the_estimate_is_the_plans(client: Client) -> None:
    page = client.post(NEW, filled(until="2", **{"recipe.actor.samples": "5"}), headers=HTMX)
    recipe = load_recipe("smoke", changes=["actor.samples=5"])
    stages = [stage for number in (1, 2) for stage in plan_iteration(recipe, number)]
    cost = page.context["state"].estimate
    assert cost.tokens == sum(stage.tokens for stage in stages)
    assert cost.calls == sum(stage.calls for stage in stages if stage.tokens)
    assert cost.total_time == cost.time, "training of this model has not been measured"
    assert f"about {cost.total_time} on one worker, without training" in text(page)
    assert cost.free_bytes > 0
    assert "No measurements of this model exist yet." in text(page)


def test_the_disk_holds_every_iteration_and_the_last_ones_training(client: Client) -> None:
    """1.5 times the files and a model for each before the last, which needs 8 models more."""
    page = client.post(NEW, filled(until="2"), headers=HTMX)
    recipe = load_recipe("smoke")
    files = [sum(stage.bytes for stage in plan_iteration(recipe, number)) for number in (1, 2)]
    model = find_model_bytes(recipe)
    assert model is not None
    wanted = round(1.5 * files[0] + model) + round(1.5 * files[1]) + 8 * model
    assert page.context["state"].estimate.disk_bytes == wanted


def test_a_disk_that_is_too_small_is_told(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webapp.experiment_form.cost.get_free_bytes", lambda: 1000)
    assert "Not enough disk space" in text(client.post(NEW, filled(), headers=HTMX))


def measure(iteration: Iteration, name: str, *, seconds: float, **counts: int) -> Shard:
    """A finished stage of one shard, which took some seconds."""
    position = iteration.stages.count()
    stage = Stage.objects.create(iteration=iteration, name=name, title=name, position=position)
    shard = Shard.objects.create(
        stage=stage, index=0, status="finished", counts=counts, attempt_count=1
    )
    Attempt.objects.create(
        shard=shard,
        number=1,
        status="finished",
        seconds=seconds,
        pid=1,
        token=uuid4(),
        started=timezone.now(),
    )
    return shard


@pytest.fixture
def trained(alice: User) -> Shard:
    """A training of 20 rows in 100 seconds, in an experiment like the form's."""
    row = make_experiment("before")
    iteration = Iteration.objects.create(
        experiment=row, number=1, model_in="b" * 64, status="finished"
    )
    return measure(iteration, "train", seconds=100.0, trained=20)


def training_of(client: Client, **changes: str) -> str:
    page = client.post(NEW, filled(until="1", **changes), headers=HTMX)
    told: str = page.context["state"].estimate.training
    assert ("training of this model has not been measured" in text(page)) == (told == "")
    return told


def test_the_estimate_says_how_long_training_takes_once_one_was_measured(
    client: Client, trained: Shard
) -> None:
    """As many seconds for each row and epoch as the other took, for one pair of each prompt."""
    smoke = load_recipe("smoke")
    [train] = [stage for stage in plan_iteration(smoke, 1) if stage.stage == "train"]
    per_row = 100.0 / (20 * smoke.training.epochs)
    trained_for = train.calls * smoke.training.batch_size * per_row
    assert training_of(client) == humanize_duration(trained_for)
    page = client.post(NEW, filled(until="1"), headers=HTMX)
    generated = sum(stage.seconds or 0.0 for stage in plan_iteration(smoke, 1))
    total = page.context["state"].estimate.total_time
    assert total == humanize_duration(generated + trained_for)


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe.training.device_batch_size": "2"},
        {"recipe.training.dtype": "bfloat16"},
    ],
)
def test_a_training_of_another_kind_is_no_measure(
    client: Client, trained: Shard, changes: dict[str, str]
) -> None:
    assert training_of(client)
    assert training_of(client, **changes) == ""


def test_a_training_that_went_on_after_a_stop_is_no_measure(client: Client, trained: Shard) -> None:
    Shard.objects.update(attempt_count=2)
    assert training_of(client) == ""


def test_the_estimate_uses_what_was_measured(client: Client) -> None:
    row = make_experiment("before")
    iteration = Iteration.objects.create(
        experiment=row, number=1, model_in="b" * 64, status="finished"
    )
    measure(iteration, "generate", seconds=2.0, completions=10, tokens=200)
    page = client.post(NEW, filled(until="1"), headers=HTMX)
    # 36 prompts of 7 responses of 200 / 10 tokens, at 200 / 2 tokens a second: 50.4 s.
    generate = page.context["state"].estimate.costs[0]
    assert (generate.tokens, generate.time, generate.is_measured) == (
        36 * 7 * 20,
        "50\u00a0s",
        True,
    )
    assert "Based on measurements from experiment" in text(page)


def test_a_private_experiment_of_a_stranger_is_no_measure(client: Client) -> None:
    row = make_experiment("unseen-one", is_private=True, owner=make_person("bob", "operator"))
    Iteration.objects.create(experiment=row, number=1, model_in="b" * 64, status="finished")
    assert "unseen-one" not in text(client.post(NEW, filled(), headers=HTMX))


def test_folders_of_models_are_offered_if_they_may_be_loaded(
    client: Client, storage_roots: Path
) -> None:
    make_model(storage_roots / "models" / "good")
    make_model(storage_roots / "models" / "org" / "nested")
    pickled = make_model(storage_roots / "models" / "pickled")
    (pickled / "pytorch_model.bin").write_bytes(b"")
    outside = make_model(storage_roots / "outside")
    (storage_roots / "models" / "linked").symlink_to(outside)
    page = client.get(f"{NEW}?recipe=smoke")
    models = page.context["state"].models
    assert [one.name for one in models.choices] == ["good", "org/nested"]
    assert {one.name for one in models.unusable} == {"linked", "pickled"}
    launch(client, model_from="folder", model_folder="org/nested")
    assert only_job().payload["values"] == {"model": "org/nested"}


def test_no_model_is_chosen_for_a_person(client: Client, storage_roots: Path) -> None:
    make_model(storage_roots / "models" / "good")
    state = client.get(f"{NEW}?recipe=paper-llama3-8b").context["state"]
    assert state.missing == ["name", "base model (M0)", "prompts"]


def test_a_recipe_of_ones_own_extends_a_shipped_one(client: Client) -> None:
    yaml = "extends: smoke\nname: mine\nactor: {samples: 3}"
    page = text(client.post(NEW, {"base_text": yaml, "action": "begin"}))
    assert 'name="recipe.actor.samples" value="3"' in page
    launch(client, base_recipe="", base_text=yaml)
    assert read_payload(only_job().payload).build_recipe().actor.samples == 3


@pytest.mark.parametrize(
    ("yaml", "problem"),
    [
        ("extends: /etc/passwd", "must name a built-in recipe here"),
        ("a: &a [1]\nb: *a", "uses YAML aliases"),
        ("name: [", "not readable YAML"),
        ("just words", "must consist of `key: value` lines"),
        ("name: x\nactors: {}", "unknown key"),
        ("x" * 70_000, "at most 65,536 characters"),
    ],
)
def test_a_wrong_recipe_is_told(client: Client, yaml: str, problem: str) -> None:
    assert problem in text(client.post(NEW, {"base_text": yaml, "action": "begin"}))


def test_a_recipe_comes_as_a_file_too(client: Client) -> None:
    file = SimpleUploadedFile("r.yaml", b"extends: smoke\nname: sent")
    page = client.post(NEW, {"recipe_file": file, "action": "begin"})
    assert page.context["state"].base.recipe.name == "sent"
    file = SimpleUploadedFile("r.yaml", b"\xff\xfe")
    assert "not UTF-8" in text(client.post(NEW, {"recipe_file": file, "action": "begin"}))


def test_a_template_of_this_machine_is_never_read(client: Client) -> None:
    yaml = "extends: smoke\nname: spy\njudge: {template: /etc/passwd}"
    page = text(launch(client, base_recipe="", base_text=yaml))
    assert "Choose one of: brief_judge, judge, miniature_judge." in page
    assert not Job.objects.exists()


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", "{{ settings.SECRET_KEY }}"])
def test_hostile_text_stays_text(client: Client, hostile: str) -> None:
    page = text(launch(client, name=hostile, **{"recipe.actor.system_prompt": hostile}))
    assert "<script>alert" not in page
    assert "for tests alone" not in page
    yaml = f"extends: smoke\nname: mine\ndescription: {hostile!r}"
    page = text(client.post(NEW, {"base_text": yaml, "action": "begin"}))
    assert "<script>alert" not in page


def test_who_only_looks_cannot_begin(client: Client) -> None:
    client.force_login(make_person("vera", "viewer"))
    assert client.get(NEW).status_code == 403
    assert launch(client).status_code == 403
    assert client.post(f"{NEW}/prompts", filled()).status_code == 403


def test_strangers_sign_in_first() -> None:
    assert Client().get(NEW).headers["Location"].startswith("/account/login")


def test_other_methods_are_refused(client: Client) -> None:
    assert client.put(NEW).status_code == 405
    assert client.get(f"{NEW}/prompts").status_code == 405
    assert client.post("/jobs/1").status_code == 405


def test_restoring_history_gives_the_whole_page(client: Client) -> None:
    headers = {**HTMX, "HX-History-Restore-Request": "true"}
    assert "<html" in text(client.get(f"{NEW}?recipe=smoke", headers=headers))


def test_the_form_asks_the_database_little(
    client: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(5):
        make_experiment(f"e{number}")
    with django_assert_max_num_queries(12):
        client.post(NEW, filled(), headers=HTMX)


def test_experiments_are_never_made_by_the_form(client: Client) -> None:
    launch(client)
    assert not Experiment.objects.exists()


def test_only_engines_of_running_workers_are_offered(client: Client) -> None:
    """Without a report, an engine that may be missing is not said to be ready."""
    region = text(client.post(NEW, filled(), headers=HTMX))
    assert "No workers are running. The experiment will wait until one starts." in region
    add_worker(name="old@host", host="old", engines="")  # of a version that reports no engines
    assert "Ready." in text(client.post(NEW, filled(), headers=HTMX))
    vllm = filled(**{"recipe.engine.kind": "vllm"})
    region = text(client.post(NEW, vllm, headers=HTMX))
    assert "No running worker is known to have the engine vllm." in region
    assert "Ready." not in region
    Worker.objects.all().delete()
    add_worker(engines="transformers,openai,scripted")
    page = text(client.get(f"{NEW}?recipe=smoke"))
    assert '<option value="transformers" selected>' in page
    assert '<option value="vllm"' not in page
    answer = launch(client, **{"recipe.engine.kind": "vllm"})
    assert "No running worker has the engine vllm. Choose openai, scripted or" in text(answer)
    assert not Job.objects.exists()
    add_worker(name="gpu@host-2", host="host-2", engines="transformers,vllm", queues="cpu")
    assert "Ready." not in text(client.post(NEW, vllm, headers=HTMX)), "it draws nothing"
    Worker.objects.filter(host="host-2").update(queues="cpu,gpu")
    assert "Ready." in text(client.post(NEW, vllm, headers=HTMX))


def test_another_recipe_keeps_what_was_typed_beside_it(client: Client) -> None:
    typed = filled(shown_recipe="smoke", base_recipe="paper-llama3-8b", model_from="hub",
                   model_hub="org/name", prompts_from="text", prompts_text="one\ntwo",
                   action="launch", **{"recipe.actor.samples": "3"})  # fmt: skip
    state = client.post(NEW, typed).context["state"]
    assert (
        state.draft.recipe.sha256
        == load_recipe("paper-llama3-8b", changes=["model=org/name"]).sha256
    )
    assert (state.form["name"].value(), state.form["prompts_text"].value()) == ("mine", "one\ntwo")
    assert state.form["until"].value() == load_recipe("paper-llama3-8b").iterations
    assert not Job.objects.exists(), "what was filled in was of another recipe"
    assert launch(client, shown_recipe="smoke").status_code == 302


def test_everything_that_is_wrong_is_said_at_once(client: Client) -> None:
    answer: Any = launch(
        client,
        name="no name",
        seed="-1",
        until="0",
        model_from="hub",
        model_hub="x y",
        prompts_from="text",
        prompts_text=" ",
        **{"recipe.actor.samples": "1", "recipe.pairing.rho": "2"},
    )
    wrong = answer.context["state"].errors.keys()
    assert wrong == {
        *("name", "seed", "until", "model_hub", "prompts_from"),
        *("recipe.actor.samples", "recipe.pairing.rho"),
    }
    page = text(answer)
    for name in wrong:
        assert f'href="#note-{name.replace(".", "-")}"' in page


def test_the_first_screen_says_what_the_experiment_starts_with(client: Client) -> None:
    """The shipped model of the toy task, counted by its own loader elsewhere, has 0.6 M."""
    page = client.get(f"{NEW}?recipe=smoke").content.decode()
    assert "the base model of the toy task" in page
    assert "the prompts of the toy task" in page
    assert re.search(r'for-recipe">Base model of the task: 0\.\d M parameters, \d\.\d', page)
    assert "Pool of 288 prompts, such as:<ul><li>Translate to " in page
    values = dict(client.get(f"{NEW}?recipe=smoke").context["key_values"])
    recipe = load_recipe("smoke")
    assert values["responses per prompt (K)"] == str(recipe.actor.samples)
    assert values["judgments per response (N)"] == str(recipe.judge.samples)
    assert float(values["learning rate"]) == recipe.training.learning_rate
    region = text(client.post(NEW, filled(**{"recipe.actor.samples": "5"}), headers=HTMX))
    shown = region.partition('id="key-values"')[2].partition("</dl>")[0]
    assert 'hx-swap-oob="true"' in shown
    assert "<dt>responses per prompt (K)</dt> <dd>5</dd>" in shown


def test_the_estimate_says_whether_a_worker_is_online(client: Client) -> None:
    assert ">none online</span>" in text(client.post(NEW, filled(), headers=HTMX))
    add_worker(name="one@host", host="host", pid=1, device="cpu")
    assert ">1 online</span>" in text(client.post(NEW, filled(), headers=HTMX))
