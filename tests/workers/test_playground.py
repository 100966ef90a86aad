"""Trying models: the real child process answers and judges, and a person may stop it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meta_reward_core.engines.base import Completion, Conversation, SamplingParams
from meta_reward_core.engines.registry import ENGINE_LOADERS
from meta_reward_core.errors import EngineError
from meta_reward_core.experiment import open_experiment
from meta_reward_core.method.judging import build_judge_conversation
from meta_reward_core.planning.experiment_request import ExperimentRequest
from meta_reward_core.planning.experiment_setup import open_or_create
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.storage.shards import StageOutput
from tests.workers.installation import Installation
from webapp.experiments.models import Experiment, Job, JobKind
from webapp.playground.conversations import explain_not_followable
from workers.engine.client import EngineHost, SampleRequest, ShardFailedError
from workers.jobs import playground
from workers.jobs.runner import WORKER_HANDLERS, run_job
from workers.ops import processes
from workers.pipeline.open_experiment import open_row
from workers.pipeline.sync_rows import record_experiment

Heard = list[dict[str, Any]]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineHost]:
    made = EngineHost()
    monkeypatch.setattr(playground, "HOST", made)
    yield made
    made.kill()


@pytest.fixture
def row(installation: Installation) -> Experiment:
    """An experiment with M0 and a stand-in of M1; its engine is scripted."""
    root = installation.root
    roots = StorageRoots(str(installation.artifacts), root / "models", root / "scratch")
    request = ExperimentRequest(
        "mine", recipe=str(installation.recipe), prompts=installation.prompts
    )
    experiment = open_or_create(request, roots, say=lambda text: None)
    make_model(installation.artifacts)
    return record_experiment(experiment, artifact_root=roots.artifacts)


def make_model(root: Path) -> None:
    """Put M1's folder and the manifest that promises it where a training would."""
    experiment = open_experiment(ArtifactStore(str(root)), "mine")
    assert experiment is not None
    files = experiment.get_files(1)
    folder = root / "mine" / "iteration-1" / "checkpoint"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights of M1")
    work = StageOutput({}, {}, checkpoint=files.checkpoint.compute_sha256())
    files.publish("train", 0, key="a key", work=work, packages={})


def ask(row: Experiment, follows: Job | None = None, **changes: Any) -> Job:
    payload = {
        "prompt": "What is the capital of France?",
        "models": [0, 1],
        "sampling": {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 40},
        "seed": 3,
        "judges": [0],
        "judgments": 2,
    }
    return Job.objects.create(
        kind=JobKind.CHAT,
        experiment=row,
        experiment_name=row.name,
        payload=payload | changes,
        follows=follows,
    )


def carried_out(job: Job) -> Job:
    assert run_job(job, WORKER_HANDLERS)
    job.refresh_from_db()
    return job


def test_both_answer_and_a_judge_scores_both(row: Experiment, host: EngineHost) -> None:
    job = carried_out(ask(row))
    assert (job.status, job.message) == ("done", "")
    answers = job.outcome["answers"]
    assert [answer["model"] for answer in answers] == [0, 1]
    assert all(answer["text"] and answer["tokens"] for answer in answers)
    judgments = job.outcome["judgments"]
    assert [(j["judge"], j["model"]) for j in judgments] == [(0, 0), (0, 0), (0, 1), (0, 1)]
    assert all((j["score"] is None) != (j["unscored_reason"] is None) for j in judgments)
    assert host.pid is not None, "the model stays loaded for the next shard"


@pytest.mark.slow
def test_the_same_seed_answers_the_same_and_without_judges_none_judges(
    row: Experiment, host: EngineHost
) -> None:
    first = carried_out(ask(row, judges=[]))
    second = carried_out(ask(row, judges=[]))
    assert first.outcome["judgments"] == []
    texts = [[answer["text"] for answer in job.outcome["answers"]] for job in (first, second)]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_who_answered_last_judges_first(
    row: Experiment, host: EngineHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M0 and M1 answer, then M1 and M0 judge: three models are loaded instead of four."""
    asked: list[int] = []
    sample = host.sample

    def note(request: SampleRequest, **rest: Any) -> Any:
        asked.append(request.number)
        return sample(request, **rest)

    monkeypatch.setattr(host, "sample", note)
    carried_out(ask(row, judges=[0, 1]))
    assert asked == [0, 1, 1, 0]
    asked.clear()
    carried_out(ask(row, judges=[0]))
    assert asked == [1, 0, 0]


def test_cancelling_kills_the_engine_and_keeps_the_reason(
    row: Experiment, host: EngineHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ask(row)

    def cancel_meanwhile(request: SampleRequest, *, can_continue: Any, **rest: Any) -> Any:
        Job.objects.filter(pk=job.pk).update(
            status="refused", token=None, message="cancelled by alice"
        )
        return EngineHost.sample(
            host, request, can_continue=can_continue, every_seconds=0.0, **rest
        )

    monkeypatch.setattr(host, "sample", cancel_meanwhile)
    job = carried_out(job)
    assert (job.status, job.message) == ("refused", "cancelled by alice")
    assert host.pid is None


def test_a_worker_that_stops_gives_the_order_back(
    row: Experiment, host: EngineHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "is_shutting_down", lambda: True)
    job = carried_out(ask(row))
    assert (job.status, job.token, job.outcome) == ("waiting", None, {})
    monkeypatch.setattr(processes, "is_shutting_down", lambda: False)
    assert carried_out(job).status == "done"


def test_a_model_that_was_not_made_is_refused_in_words(row: Experiment, host: EngineHost) -> None:
    job = carried_out(ask(row, models=[0, 2]))
    assert job.status == "refused"
    assert "M2 of experiment 'mine' does not exist" in job.message


def test_an_engine_that_dies_is_refused_with_the_reason(
    row: Experiment, host: EngineHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(request: SampleRequest, **rest: Any) -> Any:
        raise ShardFailedError("out of memory", kind="EngineDied", retryable=True)

    monkeypatch.setattr(host, "sample", die)
    job = carried_out(ask(row))
    assert (job.status, job.message) == ("refused", "EngineDied: out of memory")


def test_an_order_that_is_another_workers_by_now_is_left_alone(
    row: Experiment, host: EngineHost
) -> None:
    job = ask(row)
    Job.objects.update(status="running", token="1" * 32)
    lease = playground.JobLease(job)
    assert lease.can_continue()
    Job.objects.update(token="2" * 32)
    assert not lease.can_continue()
    Job.objects.update(status="waiting", token=None)
    with pytest.raises(EngineError, match="stopped"):
        playground.run_chat(job)


def test_a_null_character_of_a_model_is_shown_and_stored(
    row: Experiment, host: EngineHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(request: SampleRequest, **rest: Any) -> list[list[Completion]]:
        return [[Completion("a\x00b", 3, "stop")] * request.samples] * len(request.conversations)

    monkeypatch.setattr(host, "sample", answer)
    job = carried_out(ask(row))
    assert job.outcome["answers"][0]["text"] == "a␀b"
    assert job.outcome["judgments"][0]["unscored_reason"] == "no_score_line"


def test_a_refused_prompt_has_a_reason_and_nothing_to_judge(
    row: Experiment, host: EngineHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(request: SampleRequest, **rest: Any) -> list[list[Completion]]:
        return [[Completion("", 0, "refused", "too long")]]

    monkeypatch.setattr(host, "sample", refuse)
    job = carried_out(ask(row))
    assert job.status == "done"
    assert job.outcome["answers"][0]["refusal"] == "too long"
    assert job.outcome["judgments"] == []


# Conversations


def noted(host: EngineHost, monkeypatch: pytest.MonkeyPatch) -> list[SampleRequest]:
    """What is asked of the engine from now on; each model tells its number in each answer."""
    asked: list[SampleRequest] = []

    def answer(request: SampleRequest, **rest: Any) -> list[list[Completion]]:
        asked.append(request)
        said = Completion(f"M{request.number} says {len(asked)}", 4, "stop")
        return [[said] * request.samples] * len(request.conversations)

    monkeypatch.setattr(host, "sample", answer)
    return asked


def texts_of(job: Job) -> dict[int, str]:
    return {answer["model"]: answer["text"] for answer in job.outcome["answers"]}


def test_each_model_goes_on_from_its_own_answers(
    row: Experiment, host: EngineHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = noted(host, monkeypatch)
    first = carried_out(ask(row, judges=[]))
    second = carried_out(ask(row, prompt="And of Italy?", judges=[], follows=first))
    asked.clear()
    third = carried_out(ask(row, prompt="Shorter", judges=[0], follows=second))
    assert third.status == "done", third.message
    told = {request.number: request.conversations[0] for request in asked[:2]}
    before = [texts_of(first), texts_of(second)]
    for number in (0, 1):
        assert told[number] == [
            {"role": "user", "content": "What is the capital of France?"},
            {"role": "assistant", "content": before[0][number]},
            {"role": "user", "content": "And of Italy?"},
            {"role": "assistant", "content": before[1][number]},
            {"role": "user", "content": "Shorter"},
        ]
    judged = [conversation[0]["content"] for conversation in asked[2].conversations]
    for number, shown in enumerate(judged):
        instruction = (
            "User: What is the capital of France?\n\n"
            f"Assistant: {before[0][number]}\n\n"
            "User: And of Italy?\n\n"
            f"Assistant: {before[1][number]}\n\n"
            "User: Shorter"
        )
        assert texts_of(third)[number] in shown.partition(instruction)[2]
    assert {j["model"] for j in third.outcome["judgments"]} == {0, 1}


def test_a_first_turn_is_judged_as_the_loop_judges(
    row: Experiment, host: EngineHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = noted(host, monkeypatch)
    job = carried_out(ask(row, judges=[0]))
    experiment = open_row(row)
    for number, conversation in enumerate(asked[-1].conversations):
        assert conversation == build_judge_conversation(
            experiment.templates.judge,
            rubric=experiment.templates.rubric,
            instruction="What is the capital of France?",
            response=texts_of(job)[number],
        )


def test_the_actors_system_prompt_comes_before_every_turn_and_not_before_the_judge(
    row: Experiment, host: EngineHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = noted(host, monkeypatch)
    first = carried_out(ask(row, judges=[]))
    asked.clear()
    opened = open_row(row)
    actor = opened.recipe.actor.model_copy(update={"system_prompt": "Be brief."})
    recipe = opened.recipe.model_copy(update={"actor": actor})
    monkeypatch.setattr(playground, "open_row", lambda row: replace(opened, recipe=recipe))
    carried_out(ask(row, prompt="Shorter", judges=[0], follows=first))
    roles = [[turn["role"] for turn in request.conversations[0]] for request in asked]
    assert roles == [["system", "user", "assistant", "user"]] * 2 + [["user"]]
    assert "Be brief." not in asked[2].conversations[0][0]["content"]


def test_a_real_model_reads_the_whole_conversation(
    installation: Installation, host: EngineHost
) -> None:
    """The answers of the worker's process are those of the same weights here, greedily drawn.

    What is too long for the miniature's 256 tokens is refused in words, and cannot be followed.
    """
    root = installation.root
    roots = StorageRoots(str(installation.artifacts), root / "models", root / "scratch")
    experiment = open_or_create(
        ExperimentRequest("real", recipe="smoke"), roots, say=lambda text: None
    )
    row = record_experiment(experiment, artifact_root=roots.artifacts)
    one, two = experiment.get_files(0).read("prompts")["text"].to_pylist()[:2]
    greedy = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 24}
    alone: dict[str, Any] = {"models": [0], "judges": [0], "judgments": 1}

    first = carried_out(ask(row, prompt=one, sampling=greedy, **alone))
    second = carried_out(ask(row, prompt=two, sampling=greedy, follows=first, **alone))
    assert (second.status, second.message) == ("done", "")
    told: Conversation = [
        {"role": "user", "content": one},
        {"role": "assistant", "content": texts_of(first)[0]},
        {"role": "user", "content": two},
    ]
    folder, recipe = experiment.get_model(0).folder, experiment.recipe.engine
    engine = ENGINE_LOADERS["transformers"](folder, recipe, None)
    sampled = engine.sample([told, told[2:]], 1, sampling=SamplingParams(0.0, 1.0, 24), seed=0)
    engine.close()
    whole, last_message_alone = (completions[0].text for completions in sampled)
    assert texts_of(second)[0] == whole != last_message_alone
    assert len(second.outcome["judgments"]) == 1

    longer = greedy | {"max_new_tokens": 250}
    third = carried_out(ask(row, prompt=one, sampling=longer, follows=second, **alone))
    (answer,) = third.outcome["answers"]
    assert "a reply of up to 250 exceed the model's limit of 256 tokens" in answer["refusal"]
    assert "M0 gave no response" in str(explain_not_followable([first, second, third]))
