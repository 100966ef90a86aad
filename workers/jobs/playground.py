"""Let two models respond to a user's prompt, and judge each other's responses.

This job handler samples with the same engine process as shards, and uses the experiment's judge
prompt and score parser.

In a conversation each model continues from its own earlier responses. The judge scores only the
last response; its prompt is the conversation so far, as that model saw it. Thus the judge only sees
the template that it was trained on, and each turn has its own scores.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from django.db import InterfaceError, OperationalError, close_old_connections

from meta_reward_core.data.prompt_files import compute_prompt_id
from meta_reward_core.engines.base import Completion, Conversation, Progress, SamplingParams
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.errors import EngineError, InputError
from meta_reward_core.experiment import Experiment
from meta_reward_core.method.generation import build_actor_conversation, extend_conversation
from meta_reward_core.method.judging import format_instruction, judge_responses
from meta_reward_core.models.reasoning import select_answer
from meta_reward_core.storage.artifact_store import hash_json
from meta_reward_core.storage.records import Response
from webapp.experiments import models
from webapp.experiments.models import Job, JobStatus
from webapp.playground.conversations import get_replies, list_turns
from workers.engine.client import HOST, SampleRequest, ShardFailedError, ShardStoppedError
from workers.ops import heartbeat, processes
from workers.ops.devices import count_groups, get_pool
from workers.pipeline.open_experiment import open_row

Outcome = dict[str, Any]

_DATABASE_ERRORS: Final = (OperationalError, InterfaceError)
_NULL_SHOWN: Final = "\N{SYMBOL FOR NULL}"  # PostgreSQL refuses the character itself

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """The request of a playground turn.

    Attributes:
        earlier: previous turns, oldest first: the prompt, and each model's response.
        models: numbers of the models that respond; M0 is 0.
        judges: numbers of the models that judge all responses.
        judgments: number of judgments per response and judge.
    """

    earlier: Sequence[tuple[str, Mapping[int, str]]]
    prompt: str
    models: Sequence[int]
    sampling: SamplingParams
    seed: int
    judges: Sequence[int]
    judgments: int

    @classmethod
    def from_job(cls, job: Job) -> "ChatRequest":
        """Read the request of a job."""
        request = dict(job.payload)
        earlier = [(turn.payload["prompt"], get_replies(turn)) for turn in list_turns(job)[:-1]]
        return cls(earlier=earlier, sampling=SamplingParams(**request.pop("sampling")), **request)

    def build_conversation(self, model: int, *, system_prompt: str | None = None) -> Conversation:
        """Build the conversation of one model, with its own earlier responses."""
        prompts = [*(prompt for prompt, _ in self.earlier), self.prompt]
        told = build_actor_conversation(prompts[0], system_prompt=system_prompt)
        for (_, replies), prompt in zip(self.earlier, prompts[1:], strict=True):
            told = extend_conversation(told, reply=replies[model], instruction=prompt)
        return told


class JobLease:
    """Renews the lease of a job while an engine works, and reports progress.

    Attributes:
        outcome: the partial result so far.
    """

    def __init__(self, job: Job) -> None:
        token = Job.objects.values_list("token", flat=True).get(pk=job.pk)
        self._held = Job.objects.filter(
            pk=job.pk, status=JobStatus.RUNNING, token=token, token__isnull=False
        )
        self.outcome: Outcome = {"answers": [], "judgments": []}

    def begin(self, doing: str) -> None:
        """Set the displayed status.

        Raises:
            ShardStoppedError: the job was cancelled, or another process holds it.
        """
        self.outcome |= {"doing": doing, "tokens": 0}
        if not self.can_continue():
            raise ShardStoppedError

    def handle_message(self, message: dict[str, Any]) -> None:
        """Process a progress message of the engine."""
        if "progress" in message:
            self.outcome["tokens"] = message["progress"][1]

    def can_continue(self) -> bool:
        """Report progress; False if the lease was lost, or the worker stops."""
        try:
            close_old_connections()
            if processes.is_shutting_down():
                self._release()
                return False
            heartbeat.send_heartbeat()
            return self._held.update(outcome=self.outcome) == 1
        except _DATABASE_ERRORS as error:
            _log.warning("the database does not respond: %s", error)
            return True

    def _release(self) -> None:
        """Release the job for another worker, or for this one after a restart."""
        self._held.update(status=JobStatus.WAITING, token=None, lease_until=None, outcome={})


class HostedEngine:
    """One of an experiment's models in this worker's engine process."""

    def __init__(
        self, row: models.Experiment, number: int, *, sha256: str, lease: JobLease
    ) -> None:
        self._experiment = row
        self._number = number
        self._loaded_as = hash_json([sha256, row.recipe["engine"]])
        self._lease = lease

    def sample(
        self,
        conversations: Sequence[Conversation],
        n: int,
        *,
        sampling: SamplingParams,
        seed: int,
        progress: Progress | None = None,  # noqa: ARG002 the lease receives it
    ) -> list[list[Completion]]:
        """Sample completions; see `Engine.sample`."""
        request = SampleRequest(
            artifact_root=self._experiment.artifact_root,
            experiment=self._experiment.name,
            number=self._number,
            conversations=conversations,
            samples=n,
            sampling=sampling,
            seed=seed,
            uuid=str(self._experiment.uuid),
        )
        pool = get_pool()
        groups = count_groups(self._experiment.recipe["engine"], pool.groups)
        devices = pool.try_acquire(groups) or pool.acquire(
            groups, can_continue=self._lease.can_continue
        )
        if devices is None:
            raise ShardStoppedError
        try:
            return HOST.sample(
                request,
                model=self._loaded_as,
                groups=devices.groups,
                on_message=self._lease.handle_message,
                can_continue=self._lease.can_continue,
            )
        finally:
            devices.release()

    def close(self) -> None:
        """Leave the model loaded, because the next shard may need it."""


def run_chat(job: Job) -> Outcome:
    """Run a playground turn.

    Returns:
        Responses and judgments, as plain values.

    Raises:
        InputError: the experiment is gone.
        ArtifactError: a model is missing.
        EngineError: the engine failed, or was stopped.
    """
    if job.experiment is None:
        raise InputError(f"experiment {job.experiment_name!r} was deleted")
    request, lease = ChatRequest.from_job(job), JobLease(job)
    experiment = open_row(job.experiment)
    engines = {
        number: HostedEngine(
            job.experiment, number, sha256=experiment.get_model(number).sha256, lease=lease
        )
        for number in {*request.models, *request.judges}
    }
    try:
        _run_turn(request, experiment, engines, lease)
    except ShardStoppedError as error:
        raise EngineError("it was stopped") from error
    except ShardFailedError as error:
        raise EngineError(str(error)) from error
    return {name: lease.outcome[name] for name in ("answers", "judgments")}


def _run_turn(
    request: ChatRequest, experiment: Experiment, engines: dict[int, HostedEngine], lease: JobLease
) -> None:
    """Let all models respond, then let all judges judge, starting with the loaded model."""
    numbers = sorted(request.models, key=lambda number: number in request.judges)
    for number in numbers:
        lease.begin(f"M{number} answers")
        began = time.monotonic()
        completion = _generate_response(request, experiment, number, engines[number])
        lease.outcome["answers"].append(
            {
                "model": number,
                **asdict(completion),
                "text": _replace_null_bytes(completion.text),
                "seconds": round(time.monotonic() - began, 2),
            }
        )
    lease.outcome["answers"].sort(key=lambda answer: request.models.index(answer["model"]))
    for number in reversed(numbers):
        if number in request.judges:
            lease.begin(f"M{number} judges")
            lease.outcome["judgments"] += _judge_responses(
                request, experiment, number, engines[number], lease.outcome["answers"]
            )


def _generate_response(
    request: ChatRequest, experiment: Experiment, number: int, engine: HostedEngine
) -> Completion:
    actor = experiment.recipe.actor
    conversation = request.build_conversation(number, system_prompt=actor.system_prompt)
    seed = derive_seed(request.seed, "try", "answer")
    sampling = replace(request.sampling, allow_reasoning=actor.reasoning != "forbid")
    return engine.sample([conversation], 1, sampling=sampling, seed=seed)[0][0]


def _judge_responses(
    request: ChatRequest,
    experiment: Experiment,
    judge: int,
    engine: HostedEngine,
    answers: Sequence[Outcome],
) -> list[Outcome]:
    """Judge the responses; a refused prompt has none."""
    settings = experiment.recipe.judge
    instructions = {
        number: format_instruction(request.build_conversation(number)) for number in request.models
    }
    responses = [
        Response(
            prompt_id=compute_prompt_id(instructions[answer["model"]]),
            response_id=str(answer["model"]),
            sample=0,
            text=select_answer(answer["text"], experiment.recipe.actor.reasoning) or "",
            tokens=answer["tokens"],
            finish_reason=answer["finish_reason"],
        )
        for answer in answers
        if answer["finish_reason"] != "refused"
    ]
    if not responses:
        return []
    judgments, _ = judge_responses(
        responses,
        engine,
        instructions={compute_prompt_id(text): text for text in instructions.values()},
        template=experiment.templates.judge,
        rubric=experiment.templates.rubric,
        samples=request.judgments,
        sampling=SamplingParams(
            settings.temperature,
            settings.top_p,
            settings.max_new_tokens,
            allow_reasoning=settings.reasoning != "forbid",
        ),
        seed=derive_seed(request.seed, "try", "judge", judge),
        max_score=settings.max_score,
    )
    return [
        {
            "judge": judge,
            "model": int(judgment.response_id),
            "text": _replace_null_bytes(judgment.text),
            "score": judgment.score,
            "unscored_reason": judgment.unscored_reason,
            "tokens": judgment.tokens,
        }
        for judgment in judgments
    ]


def _replace_null_bytes(text: str) -> str:
    return text.replace("\x00", _NULL_SHOWN)
