"""The same prompt across models, and what differs between two texts."""

from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django.fixtures import Settings

from meta_reward_core.storage.shards import StageOutput
from tests.webapp.conftest import make_person
from tests.webapp.results_fixtures import record, run, scripted_experiment
from tests.webapp.test_playground import answer
from tests.webapp.test_results_prompts import HTMX, rows_of
from webapp.experiments.models import Experiment, Iteration, Job
from webapp.results import prompt_across_models
from webapp.text_diff import Span


@pytest.fixture
def twice(alice: User, tmp_path: Path, settings: Settings) -> str:
    """Two iterations that draw the same prompts; returns the page of one of them."""
    settings.META_REWARD_SCRATCH_ROOT = str(tmp_path / "scratch")
    made = scripted_experiment(tmp_path, reuse=True)
    checkpoint = tmp_path / "scripted/iteration-1/checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    work = StageOutput({}, {}, checkpoint="1" * 64)
    made.get_files(1).publish("train", 0, key="k", work=work, packages={})
    run(made, tmp_path, 2)
    record(made, alice, numbers=(1, 2))
    return f"/experiments/scripted/prompts/{rows_of(made, 'prompts')[0]['prompt_id']}"


@pytest.mark.django_db
def test_answers_stand_side_by_side_with_what_is_new_marked(client: Client, twice: str) -> None:
    answer = client.get(twice)
    answers = answer.context["answers"]
    assert [(one.model, one.number) for one in answers] == [(0, 1), (1, 2)]
    assert {span.side for span in answers[0].spans} == {"same"}
    assert {span.side for span in answers[1].spans} >= {"second"}
    assert "<ins>" in answer.content.decode()


@pytest.mark.django_db
def test_which_answer_is_shown_can_be_picked(client: Client, twice: str) -> None:
    best = client.get(f"{twice}?pick=best").context["answers"]
    worst = client.get(f"{twice}?pick=worst").context["answers"]
    assert all(b.mean > w.mean for b, w in zip(best, worst, strict=True))
    first = client.get(f"{twice}?pick=first").context["answers"]
    assert [one.sample for one in first] == [0, 0]
    assert client.get(f"{twice}?pick=%3Cb%3E").context["pick"] == "chosen"


@pytest.mark.django_db
def test_a_prompt_that_served_once_says_so(
    client: Client, alice: User, tmp_path: Path, settings: Settings
) -> None:
    settings.META_REWARD_SCRATCH_ROOT = str(tmp_path / "scratch")
    made = scripted_experiment(tmp_path)
    record(made, alice)
    prompt_id = rows_of(made, "prompts")[0]["prompt_id"]
    page = client.get(f"/experiments/scripted/prompts/{prompt_id}").content.decode()
    assert "Only iteration 1 of 1 used this prompt" in page
    assert client.get(f"/experiments/scripted/prompts/{'0' * 64}").status_code == 404


@pytest.mark.django_db
def test_region_history_methods_and_access(client: Client, twice: str) -> None:
    assert client.get(twice, headers=HTMX).content.decode().lstrip().startswith("<section")
    restored = client.get(twice, headers=HTMX | {"HX-History-Restore-Request": "true"})
    assert "<html" in restored.content.decode()
    assert client.post(twice).status_code == 405
    somebody = Client()
    assert somebody.get(twice)["Location"].startswith("/account/login")
    somebody.force_login(make_person("dora", "auditor"))
    assert somebody.get(twice).status_code == 403
    somebody.force_login(make_person("bob", "viewer"))
    Experiment.objects.update(is_private=True)
    assert somebody.get(twice).status_code == 404


def finish(job: Job, *texts: str) -> None:
    answers = [answer(model, text) for model, text in enumerate(texts)]
    job.outcome = {"answers": answers, "judgments": []}
    job.status = "done"
    job.save()


@pytest.mark.django_db
def test_every_model_can_be_asked_the_same_prompt_later(client: Client, twice: str) -> None:
    Iteration.objects.update(status="finished")
    text = client.get(twice).context["text"]
    assert "Ask M0 to M2" in client.get(twice).content.decode()
    assert client.post(f"{twice}/compare")["Location"] == twice
    job = Job.objects.get()
    assert job.payload["prompt"] == text
    assert (job.payload["models"], job.payload["judges"]) == ([0, 1, 2], [2])
    waiting = client.get(twice).content.decode()
    assert "queued for a GPU worker" in waiting
    assert "Ask M0 to M2" not in waiting
    finish(job, "a cat sat", "a <b>black</b> cat sat", "a cat")
    answered = client.get(twice)
    later = answered.context["later"]
    assert [one.answer.model for one in later] == ["M0", "M1", "M2"]
    assert [span.text for span in later[1].spans if span.side == "second"] == ["<b>black</b> "]
    assert "Ask M0 to M2 again" in answered.content.decode()
    assert "<b>black" not in answered.content.decode()
    assert client.get(f"/experiments/scripted/playground?again={job.pk}").status_code == 200


@pytest.mark.django_db
def test_asking_needs_a_role_a_second_model_and_a_prompt(client: Client, twice: str) -> None:
    assert "Only M0 exists" in client.get(twice).content.decode()
    assert "nothing was requested" in client.post(f"{twice}/compare", follow=True).content.decode()
    assert client.get(f"{twice}/compare").status_code == 405
    assert client.post(f"/experiments/scripted/prompts/{'0' * 64}/compare").status_code == 404
    somebody = Client()
    somebody.force_login(make_person("bob", "viewer"))
    assert somebody.post(f"{twice}/compare").status_code == 403
    assert not Job.objects.exists()


def test_the_end_of_an_endless_answer_is_not_compared() -> None:
    before, after = (
        "w " * prompt_across_models.LONGEST,
        "w " * prompt_across_models.LONGEST + "new",
    )
    assert prompt_across_models._compare_beginnings(before, after) == [Span("same", "w " * 10_000)]
