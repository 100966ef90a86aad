"""Fills a database with an experiment in every state there is.

One experiment is real: its rows and files were made by `run_iteration`. The others are copies of
it, some taken back to the middle of their second iteration, so that every page has real things to
show. Nothing runs behind them: what is said of workers holds for the moment of filling.
"""

import json
import math
import shutil
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import uuid4

import pyarrow.parquet as pq
from django.conf import settings
from django.contrib.auth.models import User
from django.db.models import F, Model
from django.urls import reverse
from django.utils import timezone

from meta_reward_core.models.check.result import Check, CheckReport, Level
from meta_reward_core.planning.launch_request import LaunchRequest
from meta_reward_core.storage.layout import label_folder
from tests.ui.names import NAMES, OTHER
from tests.webapp.audit_fixtures import draw
from tests.webapp.conftest import make_person
from tests.webapp.watching_fixtures import add_attempt, add_worker
from webapp.accounts import two_factor
from webapp.api.models import make_token
from webapp.audit import adjudication, annotation_queue
from webapp.audit.gate import explain_hold
from webapp.audit.models import Batch, Gate, RepeatKind
from webapp.experiments.attempt_logs import get_log_path
from webapp.experiments.models import (
    Attempt,
    Driver,
    Experiment,
    Iteration,
    Job,
    JobKind,
    JobStatus,
    MachineLoad,
    RunStatus,
    Shard,
    Stage,
)
from webapp.notifications.models import Notification, Recipient, Subscription

Row = TypeVar("Row", bound=Model)

REAL: Final = NAMES["finished"]
LONG_NAME: Final = "a-name-as-long-as-one-may-be-without-any-place-to-break-it-anywh"
OUT_OF_MEMORY: Final = (
    "Traceback (most recent call last):\n"
    '  File "workers/engine/process.py", line 91, in answer\n'
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.31 GiB. GPU 0 has a total "
    "capacity of 23.69 GiB of which 1.12 GiB is free.\n"
    "Lower engine.max_batch_tokens, or give the worker a device of its own."
)
ALARM: Final = {
    "name": "length_growth",
    "sentence": "Responses grew from 70 to 99 characters.",
    "advice": "Raise pairing.rho.",
}
DISK_IS_FULL: Final = "the disk has 1.2 GB left and the experiment needs about 4 GB"
TRY: Final = {
    "prompt": "Describe the sea to somebody who has never seen it, in two sentences.",
    "models": [0, 1],
    "sampling": {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 64},
    "seed": 3,
    "judges": [1],
    "judgments": 2,
}
CHECKED: Final = CheckReport(
    "a/model/of-ones-own",
    (
        Check("folder", "Folder", Level.GREEN, "complete, no code and no pickles"),
        Check(
            "weights.dtype",
            "Number format",
            Level.AMBER,
            "checkpoints are saved in bfloat16, as dtype specifies (stored: 290 in float32)",
            'set "dtype" to the stored format to keep it',
            "config.json",
        ),
        Check(
            "weights.keys",
            "Parameters",
            Level.RED,
            "no tensor for 3 parameters of the model (model.layers.1.mlp.down_proj.weight, "
            "model.layers.1.mlp.gate_proj.weight, model.layers.1.mlp.up_proj.weight), which would "
            "be initialized randomly",
            "download the weights again, or use config.json of the same model",
            "model.safetensors",
        ),
    ),
).to_json()
PUBLISHED: Final = {
    "folder": f"{REAL}/M1",
    "archive": f"{REAL}/M1.tar",
    "bytes": 2_400_000,
    "files": ["README.md", "config.json", "model.safetensors", "tokenizer.json"],
}


def add_people() -> None:
    """One account for each role, and one who may do everything."""
    make_person("alice", "operator")
    make_person("vera", "viewer")
    make_person("carol", "auditor")
    make_person("dave", "auditor")
    make_person("leda", "lead")
    User.objects.create_superuser("ada", password="correct horse")


def fill(noted: Path) -> None:
    """Make every state from the finished experiment, and note what leads to them in a file."""
    alice = User.objects.get(username="alice")
    Experiment.objects.update(owner=alice)
    real = Experiment.objects.get(name=REAL)
    _add_states(real)
    _spread_in_time()
    notes = _add_audits(real) | _add_jobs(real, alice) | _places_of(real) | _add_outputs()
    _add_own_things(alice)
    noted.write_text(json.dumps(notes), encoding="utf-8")


def _places_of(real: Experiment) -> dict[str, str]:
    """Note a prompt of each iteration, and something for whatever an address may name."""
    root = Path(settings.META_REWARD_ARTIFACT_ROOT)
    last = real.iterations.latest("number").number
    prompt, of_last = (_first_prompt(root / real.name / f"iteration-{n}") for n in (1, last))
    home = label_folder(real.name, real.uuid)
    archive = Path(settings.META_REWARD_PUBLISH_ROOT) / home / "M1.tar"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"weights")
    Job.objects.create(
        kind=JobKind.PUBLISH,
        experiment=real,
        experiment_uuid=real.uuid,
        experiment_name=real.name,
        status="done",
        payload={"number": 1},
        outcome={"folder": f"{home}/M1", "archive": f"{home}/M1.tar", "bytes": 7},
    )
    examples = {"name": real.name, "number": "1", "pk": "1", "prompt_id": prompt, "form": "jsonl"}
    examples["path"] = "iteration-1/judgments/part-00000.parquet"
    return {
        "long": LONG_NAME,
        "compared": OTHER if Experiment.objects.filter(name=OTHER).exists() else NAMES["running"],
        "prompt": prompt,
        "last": str(last),
        "last_prompt": of_last,
        **{f"any_{name}": value for name, value in examples.items()},
    }


def _add_outputs() -> dict[str, str]:
    """Note an attempt that runs and one that failed, with what they printed; and a command's."""
    attempts = Attempt.objects.order_by("pk")
    found = {
        "running": attempts.filter(status="running", shard__stage__name="judge").first(),
        "failed": attempts.filter(status="failed", error=OUT_OF_MEMORY).last(),
        "of_a_command": attempts.filter(shard__stage__iteration__driver="command").first(),
    }
    notes = {}
    for name, attempt in found.items():
        assert attempt is not None
        iteration = attempt.shard.stage.iteration
        notes[f"output_{name}"] = reverse(
            "attempt_output", args=[iteration.experiment.name, iteration.number, attempt.pk]
        )
        if name == "of_a_command":
            continue
        path = get_log_path(attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        began = attempt.started.isoformat(timespec="milliseconds")
        lines = [f"{began} INFO workers.pipeline.run_shard: begun"]
        lines += [
            f"{began} INFO workers.engine.output: Loading weights: {percent:3d}%"
            for percent in range(0, 101, 2)
        ]
        lines += attempt.error.splitlines()
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return notes


def _first_prompt(iteration: Path) -> str:
    """The prompt of the iteration's first battle."""
    battles = pq.read_table(iteration / "battles" / "part-00000.parquet", columns=["prompt_id"])
    return str(battles["prompt_id"][0])


def _add_states(real: Experiment) -> None:
    running = _taken_back(real, NAMES["running"], to="judge")
    _run_halfway(running, "judge")
    _run_training(_taken_back(real, NAMES["training"], to="train"))
    paused = _taken_back(real, NAMES["paused"], to="generate")
    _set_status(paused, RunStatus.PAUSED)
    first = paused.experiment.iterations.get(number=1)
    Iteration.objects.filter(pk=first.pk).update(metrics=first.metrics | {"alarms": [ALARM]})
    failed = _taken_back(real, NAMES["failed"], to="judge")
    _fail(failed, "judge")
    no_pairs = _taken_back(real, NAMES["no-pairs"], to="train")
    _set_status(no_pairs, RunStatus.NO_PAIRS, message="actor: all 12 scored responses are equal")
    held = _taken_back(real, NAMES["held"], to="train")
    Gate.objects.create(experiment=held.experiment, min_answers=20)
    _set_status(held, RunStatus.NEEDS_ATTENTION, message=explain_hold(held))
    _set_status(_taken_back(real, LONG_NAME, to="meta_judge"), RunStatus.CANCELLED)
    private = _copied(real, NAMES["private"])
    Experiment.objects.filter(pk=private.pk).update(is_private=True)
    begun = _copied(real, NAMES["begun"])
    begun.iterations.all().delete()
    Experiment.objects.filter(pk=begun.pk).update(status=RunStatus.WAITING, target_iteration=0)


def _copied(real: Experiment, name: str) -> Experiment:
    """An experiment of another name with copies of all rows and files."""
    root = Path(settings.META_REWARD_ARTIFACT_ROOT)
    shutil.copytree(root / real.name, root / name)
    uuid = uuid4()
    description = root / name / "experiment.json"
    description.write_text(
        json.dumps(json.loads(description.read_text()) | {"name": name, "uuid": str(uuid)})
    )
    made = _copy_row(real, name=name, uuid=uuid)
    for iteration in real.iterations.all():
        new = _copy_row(iteration, experiment=made)
        for stage in iteration.stages.all():
            again = _copy_row(stage, iteration=new)
            for shard in stage.shards.all():
                held = _copy_row(shard, stage=again)
                for attempt in shard.attempts.all():
                    _copy_row(attempt, shard=held, token=uuid4())
    return made


def _copy_row(row: Row, **changes: Any) -> Row:
    values = {
        field.attname: getattr(row, field.attname)
        for field in row._meta.concrete_fields
        if not field.primary_key and field.name not in changes
    }
    return type(row)._default_manager.create(**values | changes)


def _taken_back(real: Experiment, name: str, *, to: str) -> Iteration:
    """A copy whose last iteration has come to a stage and made nothing of it yet."""
    iteration = _copied(real, name).iterations.latest("number")
    undone = iteration.stages.filter(position__gte=iteration.stages.get(name=to).position)
    folder = Path(settings.META_REWARD_ARTIFACT_ROOT) / name / f"iteration-{iteration.number}"
    for stage in undone:
        stage.shards.all().delete()
        for manifest in (folder / "manifests").glob(f"{stage.name}-*"):
            manifest.unlink()
    undone.exclude(status="skipped").update(status="waiting", shard_count=None)
    Iteration.objects.filter(pk=iteration.pk).update(
        model_out="", metrics={}, finished=None, driver=Driver.WORKERS
    )
    iteration.refresh_from_db()
    return iteration


def _set_status(iteration: Iteration, status: RunStatus, *, message: str = "") -> None:
    Iteration.objects.filter(pk=iteration.pk).update(status=status, message=message)
    Experiment.objects.filter(pk=iteration.experiment_id).update(
        status=status, target_iteration=iteration.number + 2
    )


def _begin_stage(iteration: Iteration, name: str, shards: int) -> Stage:
    iteration.stages.filter(name=name).update(status="running", shard_count=shards)
    stage = iteration.stages.get(name=name)
    Shard.objects.bulk_create(Shard(stage=stage, index=index) for index in range(shards))
    return stage


_HALFWAY_SECONDS: Final = 12 * 41 + 20
"""Since when the halfway iteration judges: twelve shards one after another, and the running one."""
_FAILING_SECONDS: Final = 90


def _add_timed_attempt(shard: Shard, begin: datetime, seconds: float, **values: Any) -> None:
    number = shard.attempts.count() + 1
    attempt = add_attempt(
        shard, number, seconds=seconds, finished=begin + timedelta(seconds=seconds), **values
    )
    Attempt.objects.filter(pk=attempt.pk).update(started=begin)


def _shift(experiment: Experiment, by: timedelta) -> None:
    """Move everything that happened in an experiment to an earlier time."""
    mine = {"shard__stage__iteration__experiment": experiment}
    Experiment.objects.filter(pk=experiment.pk).update(created=F("created") - by)
    Iteration.objects.filter(experiment=experiment).update(
        started=F("started") - by, finished=F("finished") - by
    )
    Attempt.objects.filter(**mine).update(started=F("started") - by, finished=F("finished") - by)


def _spread_in_time() -> None:
    """Let experiments that do not run have been created hours apart."""
    rows = Experiment.objects.exclude(status=RunStatus.RUNNING).order_by("pk")
    for place, row in enumerate(rows, start=1):
        _shift(row, timedelta(hours=5 * place, minutes=17 * place))


def _run_halfway(iteration: Iteration, name: str) -> None:
    """Sixty shards, of which some are finished and two run: several pages of them."""
    _shift(iteration.experiment, timedelta(seconds=_HALFWAY_SECONDS))
    _set_status(iteration, RunStatus.RUNNING)
    stage = _begin_stage(iteration, name, shards=60)
    begin = timezone.now() - timedelta(seconds=_HALFWAY_SECONDS)
    for shard in stage.shards.filter(index__lt=23):  # two workers take turns
        _add_timed_attempt(
            shard, begin + timedelta(seconds=41 * (shard.index // 2)), 41.0, status="finished"
        )
    stage.shards.filter(index__lt=23).update(
        status="finished", attempt_count=1, counts={"judgments": 924, "tokens": 41_300}
    )
    lost = stage.shards.get(index=23)
    _add_timed_attempt(
        lost,
        begin + timedelta(seconds=11 * 41),
        30.0,
        status="lost",
        error="Its worker went silent for 30 seconds.",
    )
    for number, shard in enumerate(stage.shards.filter(index__in=(23, 24)), start=7):
        _begin_shard(shard, tokens=20_000 + number)
        add_worker(name=f"worker-{number}@gpu-{number}", host=f"gpu-{number}", pid=number,
                   device="NVIDIA H100", shard=shard, heartbeat=_in_an_hour())  # fmt: skip
    _add_machine_load("gpu-7", "gpu-8", "host-1")
    long_ago = timezone.now() - timedelta(minutes=3)
    add_worker(name="worker-9@cellar", host="cellar", pid=9, device="cpu", heartbeat=long_ago)


def _add_machine_load(*hosts: str) -> None:
    """An hour's load of machines, one GPU each, which is idle at first."""
    now = timezone.now()
    MachineLoad.objects.bulk_create(
        MachineLoad(
            host=host,
            measured=now - timedelta(seconds=15 * count),
            cpu_percent=20 + 10 * place + 15 * math.sin(count / 9),
            memory_bytes=int((40 + 25 * place - count / 20) * 2**30),
            memory_total_bytes=256 * 2**30,
            gpus=[
                {
                    "name": "NVIDIA H100",
                    "percent": 0.0 if count > 200 else 88 - 6 * place + count % 7,
                    "bytes": int((4 if count > 200 else 61 + place) * 2**30),
                    "total_bytes": 80 * 2**30,
                }
            ],
        )
        for place, host in enumerate(hosts)
        for count in range(240)
    )


def _begin_shard(shard: Shard, *, tokens: int = 0, **values: Any) -> None:
    number = shard.attempts.count() + 1
    add_attempt(shard, number, status="running", seconds_ago=20)
    Shard.objects.filter(pk=shard.pk).update(
        status="running", token=uuid4(), attempt_count=number, tokens=tokens, **values
    )


def _in_an_hour() -> Any:
    """Nothing renews a heartbeat here, and whoever looks at the pages may take a while."""
    return timezone.now() + timedelta(hours=1)


def _run_training(iteration: Iteration) -> None:
    _set_status(iteration, RunStatus.RUNNING)
    stage = _begin_stage(iteration, "train", shards=1)
    figures = [
        {
            "step": step,
            "loss": 0.69 - step / 40,
            "rewards/accuracies": 0.5 + step / 30,
            "rewards/margins": step / 20,
        }
        for step in range(1, 4)
    ]
    _begin_shard(stage.shards.get(), done=3, training_metrics=figures)


def _fail(iteration: Iteration, name: str) -> None:
    _shift(iteration.experiment, timedelta(seconds=_FAILING_SECONDS))
    _set_status(iteration, RunStatus.FAILED)
    stage = _begin_stage(iteration, name, shards=4)
    begin = timezone.now() - timedelta(seconds=_FAILING_SECONDS)
    _add_timed_attempt(stage.shards.get(index=0), begin, 12.0, status="finished")
    shard = stage.shards.get(index=1)
    for number in range(1, 4):
        _add_timed_attempt(shard, begin + timedelta(seconds=17 * number), 12.0, error=OUT_OF_MEMORY)
    Shard.objects.filter(pk=shard.pk).update(status="failed", failures=3, attempt_count=3)
    stage.shards.filter(index=0).update(
        status="finished", attempt_count=1, counts={"judgments": 60}
    )
    Stage.objects.filter(pk=stage.pk).update(status="failed")
    Iteration.objects.filter(pk=iteration.pk).update(
        message=f"{OUT_OF_MEMORY}\n(shard 1 of judge, attempt 3)"
    )


def _add_audits(real: Experiment) -> dict[str, str]:
    """Batches of both questions: answered, begun, untouched, closed, skipped."""
    people = list(User.objects.filter(username__in=("carol", "dave")).order_by("username"))
    alice, carol = User.objects.get(username="alice"), people[0]

    def add(**changes: Any) -> Batch:
        return draw(real, by=alice, auditors=people, **changes)

    responses = {"kind": "responses", "strategy": "uniform"}
    batches = {
        "judgments": add(size=24, other_share=0.25),
        "responses": add(size=16, **responses),
        "begun": add(size=8, seed=4),
        "untouched": add(size=8, seed=5, **responses),
        "closed": add(size=4, seed=6),
        "skipped": add(size=2, seed=7),
    }
    _answer(batches["judgments"], people)
    _answer(batches["responses"], people)
    _answer(batches["begun"], [carol], at_most=3)
    annotation_queue.reveal_item(batches["begun"].items.get(number=1), carol)
    _answer(batches["closed"], [carol])
    Batch.objects.filter(pk=batches["closed"].pk).update(status="closed")
    while (item := annotation_queue.lease_next_item(batches["skipped"], carol)) is not None:
        annotation_queue.skip_item(item, carol)
    decided = _adjudicate(batches["judgments"])
    return {name: str(batch.pk) for name, batch in batches.items()} | {"decided": decided}


def _adjudicate(batch: Batch) -> str:
    """Let the review lead decide about one item; returns its number."""
    item = batch.items.filter(repeat_kind=RepeatKind.NO).latest("number")
    decision = adjudication.Decision("tie", "Both name the same error.", item.adjudication_version)
    assert adjudication.adjudicate_item(item, decision, by=User.objects.get(username="leda"))
    return str(item.number)


def _answer(batch: Batch, people: Sequence[User], *, at_most: int = 1000) -> None:
    """Answer mostly as the meta-judge did, and as the judge did."""
    for count in range(at_most):
        person = people[count % len(people)]
        item = annotation_queue.lease_next_item(batch, person)
        if item is None:
            return
        facts = item.hidden_verdict.facts
        choice, points = "", None
        if batch.kind == "judgments":
            choice = "tie" if count % 5 == 0 else facts["forward"] or "tie"
        else:
            points = float(count % 6)
        annotation_queue.submit_answer(
            item, person, annotation_queue.AnswerInput(choice, points, 3, (), "", seconds=20.0)
        )


def _add_jobs(real: Experiment, alice: User) -> dict[str, str]:
    """What people asked for: steering, launches, tries and publications, in every state."""

    def add(kind: JobKind, status: JobStatus = JobStatus.WAITING, **values: Any) -> str:
        given = {
            "experiment": real,
            "experiment_uuid": real.uuid,
            "experiment_name": real.name,
            "created_by": alice,
        }
        if status != JobStatus.WAITING:
            given["finished"] = timezone.now()
        return str(Job.objects.create(kind=kind, status=status, **(given | values)).pk)

    add(JobKind.PAUSE, JobStatus.DONE)
    add(JobKind.RESUME, JobStatus.REFUSED, message="it is finished already")
    add(JobKind.PUBLISH, JobStatus.DONE, payload={"number": 1}, outcome=PUBLISHED)
    launch_request = LaunchRequest(
        experiment="tomorrow", seed=7, iterations=2, recipe="smoke", values={"actor.samples": 5}
    ).model_dump(mode="json")
    launch: dict[str, Any] = {
        "experiment": None,
        "experiment_uuid": None,
        "experiment_name": "tomorrow",
        "payload": launch_request,
    }
    of_none: dict[str, Any] = {"experiment": None, "experiment_uuid": None, "experiment_name": ""}
    refused = JobStatus.REFUSED
    followed = add(JobKind.CHAT, JobStatus.DONE, payload=TRY, outcome=_try_outcome())
    said: dict[str, Any] = {
        "payload": TRY | {"prompt": "Now in one sentence."},
        "follows_id": int(followed),
    }
    answered = said | {"outcome": _shorter_outcome()}
    return {
        "launch_waiting": add(JobKind.LAUNCH, **launch),
        "launch_refused": add(JobKind.LAUNCH, refused, message=DISK_IS_FULL, **launch),
        "check_waiting": add(JobKind.CHECK_MODEL, **of_none),
        "check_done": add(JobKind.CHECK_MODEL, JobStatus.DONE, outcome=CHECKED, **of_none),
        "check_failed": add(
            JobKind.CHECK_MODEL, refused, message="no worker has the libraries", **of_none
        ),
        "try_done": add(JobKind.CHAT, JobStatus.DONE, payload=TRY, outcome=_try_outcome()),
        "try_talk": add(JobKind.CHAT, JobStatus.DONE, **answered),
        "try_talk_refused": add(JobKind.CHAT, refused, message="the engine died", **said),
        "try_talk_waiting": add(JobKind.CHAT, **said),
        "try_followed": followed,
        "try_waiting": add(JobKind.CHAT, payload=TRY),
        "try_refused": add(JobKind.CHAT, refused, payload=TRY, message="cancelled by alice"),
    }


def _shorter_outcome() -> dict[str, Any]:
    return _outcome(
        ("It is blue water.", "A plain that breathes, larger than your worries."),
        (0, "Short, and says little.\nScore: 3", 3.0),
        (1, "What was asked for.\nScore: 5", 5.0),
    )


def _try_outcome() -> dict[str, Any]:
    return _outcome(
        (
            "It is a lot of water. It is blue.",
            "It is a plain that breathes: all day it comes toward you and changes its mind. It "
            "smells of salt, and it is larger than whatever you were worried about.",
        ),
        (0, "It says little.\nScore: 2", 2.0),
        (0, "True, and dull.\nScore: 2", 2.0),
        (1, "Vivid and short.\nScore: 5", 5.0),
        (1, "Beautiful", None),
    )


def _outcome(texts: tuple[str, str], *judged: tuple[int, str, float | None]) -> dict[str, Any]:
    """What came of a turn: M0's and M1's answers, and of which, in which words, M1 thought what."""
    plain = {"finish_reason": "stop", "refusal": None}
    return {
        "answers": [
            {"model": number, "text": text, "tokens": words + 2, "seconds": words / 20, **plain}
            for number, text in enumerate(texts)
            for words in [len(text.split())]
        ],
        "judgments": [
            {
                "judge": 1,
                "tokens": 22,
                "model": model,
                "text": text,
                "score": score,
                "unscored_reason": "no_score_line" if score is None else None,
            }
            for model, text, score in judged
        ],
    }


def _add_own_things(alice: User) -> None:
    """Tokens, notices and a second factor that is being set up."""
    make_token(alice, name="a notebook", expires=None)
    make_token(alice, name="last year's", expires=timezone.now() - timedelta(days=3))
    two_factor.start_setup(alice)
    mine = Recipient.objects.create(user=alice)
    Subscription.objects.create(recipient=mine, event="failed", channel="webhook")
    common = {"recipient": mine, "event": "failed", "channel": "webhook", "due": timezone.now()}
    for status, error in (("sent", ""), ("given_up", "the host answered 503, eight times")):
        Notification.objects.create(
            subject=f"{NAMES['failed']}, iteration 2: failed",
            text="why",
            status=status,
            error=error,
            **common,
        )
