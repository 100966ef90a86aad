"""A judge is tried on a few prompts before a whole iteration, within a budget of time."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from meta_reward_core.engines.base import Completion, Conversation, Progress, SamplingParams
from meta_reward_core.engines.scripted import (
    Reply,
    Script,
    ScriptedEngine,
    make_fake_log_probability,
    make_fake_reply,
)
from meta_reward_core.evaluation.judge_health import HealthLimits
from meta_reward_core.evaluation.judge_probe import ProbeResult, run_judge_probe
from tests.core.scripted_world import begin, prompt_file


class Clock:
    """A clock that every completion moves on."""

    def __init__(self, seconds_per_reply: float) -> None:
        self.now = 100.0
        self.pace = seconds_per_reply

    def __call__(self) -> float:
        return self.now

    def slow(self, script: Script) -> Script:
        def reply(conversation: Conversation, sample: int, seed: int) -> Reply:
            self.now += self.pace
            return script(conversation, sample, seed)

        return reply


def probe(
    root: Path,
    script: Script = make_fake_reply,
    *,
    pace: float = 0.01,
    seconds: float = 120,
    limits: HealthLimits = HealthLimits(),  # noqa: B008 frozen
    **changes: Any,
) -> tuple[ProbeResult, ScriptedEngine]:
    experiment = begin(root, **changes)
    context = experiment.build_context(1)
    clock = Clock(pace)
    engine = ScriptedEngine(clock.slow(script), make_fake_log_probability)
    result = run_judge_probe(
        prompt_file(8).prompts,
        context.recipe,
        context.templates,
        engine=engine,
        judge=engine,
        iteration=1,
        seed=7,
        seconds=seconds,
        limits=limits,
        clock=clock,
    )
    return result, engine


def unreadable_judge(conversation: Conversation, sample: int, seed: int) -> Reply:
    text = make_fake_reply(conversation, sample, seed)
    return "It is a nice answer." if "Score:" in text else text


def test_a_good_judge_is_tried_on_all_prompts(tmp_path: Path) -> None:
    result, engine = probe(tmp_path)
    report = result.report
    assert report.findings == ()
    assert (report.prompts, report.wanted) == (8, 8)
    assert report.readable.total == len(result.judgments) == 6 * len(result.responses)
    assert {len(result.judgments), len(result.battles)} <= {
        report.readable.total, report.verdicts.total
    }  # fmt: skip
    assert report.same_order.total <= len(result.battles) // 2
    assert sum(cost.replies for cost in report.costs.values()) == engine.calls
    assert report.costs["judge"].planned == 20 * 5 * 6
    assert report.costs["meta_judge"].planned == 20 * 6 * 5
    assert report.costs["judge"].projected_seconds == pytest.approx(20 * 5 * 6 * 0.01)
    assert report.iterations == 4
    assert report.costs["judge"].planned_in_run == 4 * 20 * 5 * 6
    assert report.costs["meta_judge"].planned_in_run == 2 * 20 * 6 * 5, "judge pairs in two of them"
    assert report.projected_run_seconds == pytest.approx(
        0.01 * (4 * 20 * 5 + 4 * 20 * 5 * 6 + 2 * 20 * 6 * 5)
    )
    assert json.loads(json.dumps(report.to_json()))["prompts"] == 8


def test_judgments_of_the_second_call_are_numbered_after_the_first(tmp_path: Path) -> None:
    result, _ = probe(tmp_path)
    ids = [one.judgment_id for one in result.judgments]
    assert len(set(ids)) == len(ids)
    assert {one.sample for one in result.judgments} == set(range(6))


def test_a_judge_that_cannot_judge_is_found_before_all_prompts_are_tried(tmp_path: Path) -> None:
    result, engine = probe(tmp_path, unreadable_judge)
    assert [finding.cause for finding in result.report.findings] == ["wrong_format"]
    assert result.report.prompts == 2, "one prompt alone decides nothing"
    assert engine.calls < 40
    assert result.battles == []


def test_a_readout_that_is_forced_in_the_run_is_forced_in_the_probe(tmp_path: Path) -> None:
    judge = {"samples": 6, "score_readout": "forced"}
    result, _ = probe(tmp_path, unreadable_judge, judge=judge)
    assert result.report.findings == ()
    assert {one.readout for one in result.judgments} == {"forced"}
    assert all(one.score is not None for one in result.judgments)


@pytest.mark.parametrize("pace", [1.0, 0.4])
def test_a_slow_model_is_reported_with_the_prompts_it_managed(tmp_path: Path, pace: float) -> None:
    """One prompt takes 5 + 30 + 6 replies; another call begins only if it will end in time."""
    result, _ = probe(tmp_path, pace=pace, seconds=60)
    report = result.report
    assert 1 <= report.prompts < 8
    assert report.seconds <= 60
    assert report.projected_seconds == pytest.approx(
        sum(cost.planned for cost in report.costs.values()) * pace
    )


def test_the_same_seed_gives_the_same_rows(tmp_path: Path) -> None:
    first, _ = probe(tmp_path / "a")
    second, _ = probe(tmp_path / "b")
    assert dataclasses.astuple(first)[1:] == dataclasses.astuple(second)[1:]


def test_a_judge_is_tried_as_far_as_the_time_goes(tmp_path: Path) -> None:
    """Five answers of 20 s each leave 70 s, in which three of them can be judged."""
    result, _ = probe(tmp_path, unreadable_judge, pace=20.0, seconds=170)
    assert len(result.responses) == 5
    assert len(result.judgments) == 3
    assert result.report.seconds == pytest.approx(8 * 20.0)


def test_a_judge_that_was_not_tested_in_time_stops_the_run(tmp_path: Path) -> None:
    """Five responses of 20 s each exceed 60 s, so no judgment is written."""
    report = probe(tmp_path, pace=20.0, seconds=60)[0].report
    assert (report.prompts, report.readable.total) == (0, 0)
    assert (report.readable.low, report.readable.high) == (0.0, 1.0)
    [found] = report.findings
    assert (found.role, found.cause) == ("judge", "not_tested")
    assert "5 responses were generated, but none was judged in 100 s" in found.sentence
    assert "Raise probe.seconds (now 60)" in found.remedy


def test_a_judge_that_need_not_be_readable_need_not_be_tested(tmp_path: Path) -> None:
    off = HealthLimits(min_readable_share=0)
    assert probe(tmp_path, pace=20.0, seconds=60, limits=off)[0].report.findings == ()


def test_responses_without_a_finished_answer_are_no_reason_for_a_longer_probe(
    tmp_path: Path,
) -> None:
    def thinks(conversation: Conversation, sample: int, seed: int) -> Reply:
        return f"<think> {seed} {sample} and", "length"

    actor = {"samples": 2, "reasoning": "strip"}
    report = probe(tmp_path, thinks, actor=actor)[0].report
    [found] = report.findings
    assert (found.role, found.cause) == ("judge", "not_tested")
    assert "none of the 16 responses contains a finished answer" in found.sentence
    assert "raise actor.max_new_tokens" in found.remedy


def refuse(bad: set[int], *, in_judge: bool = False) -> Script:
    """Refuse the prompts with these numbers, as prompts of the actor or only of the judge."""
    asked = [prompt.text for prompt in prompt_file(8).prompts]

    def reply(conversation: Conversation, sample: int, seed: int) -> Reply:
        text = conversation[-1]["content"]
        usual = make_fake_reply(conversation, sample, seed)
        is_bad = any(asked[number] in text.splitlines() for number in bad)
        if is_bad and not (in_judge and text in asked):
            return "", "refused"
        return usual

    return reply


def test_an_actor_whose_prompts_are_refused_stops_the_run(tmp_path: Path) -> None:
    report = probe(tmp_path, refuse(set(range(8))))[0].report
    [found] = report.findings
    assert (found.role, found.cause) == ("actor", "prompts_rejected")
    assert "n = 40 of 8 prompts" in found.sentence


@pytest.mark.parametrize("in_judge", [False, True])
@pytest.mark.parametrize("bad", [{0}, {1}, {0, 1}])
def test_refused_prompts_among_the_first_stop_nothing(
    tmp_path: Path, bad: set[int], *, in_judge: bool
) -> None:
    """All replies to a prompt are refused together."""
    result, _ = probe(tmp_path, refuse(bad, in_judge=in_judge))
    assert result.report.findings == ()
    assert result.report.prompts == 8
    assert result.report.readable.count < result.report.readable.total or not in_judge


def test_a_judge_whose_prompts_are_refused_stops_the_run(tmp_path: Path) -> None:
    report = probe(tmp_path, refuse(set(range(8)), in_judge=True))[0].report
    assert [(one.role, one.cause) for one in report.findings] == [("judge", "prompts_rejected")]


def test_a_judge_whose_only_prompt_in_time_was_refused_was_not_tested(tmp_path: Path) -> None:
    script = refuse(set(range(8)), in_judge=True)
    report = probe(tmp_path, script, pace=4.0, seconds=60)[0].report
    assert report.prompts == 1
    assert [one.cause for one in report.findings] == ["not_tested"]


def test_an_actor_that_is_always_cut_off_stops_the_run(tmp_path: Path) -> None:
    def cut(conversation: Conversation, sample: int, seed: int) -> Reply:
        text = make_fake_reply(conversation, sample, seed)
        return (
            text if "Score:" in text or "Winner" in text else (f"{text} {sample} {seed}", "length")
        )

    report = probe(tmp_path, cut)[0].report
    assert [(one.role, one.cause) for one in report.findings] == [("actor", "limit_too_low")]


class StepEngine(ScriptedEngine):
    """Generates all replies of a call together, a token each per step, and reports every step."""

    def __init__(self, clock: Clock, seconds_per_step: float, words: int) -> None:
        super().__init__(self.reply, make_fake_log_probability)
        self.clock, self.seconds_per_step, self.words = clock, seconds_per_step, words

    def reply(self, conversation: Conversation, sample: int, seed: int) -> Reply:
        text = make_fake_reply(conversation, sample, seed)
        if "Score:" in text:
            return f"{'well ' * self.words}{text}"
        return f"{'word ' * self.words}{seed} {sample}"

    def sample(
        self,
        conversations: Sequence[Conversation],
        n: int,
        *,
        sampling: SamplingParams,
        seed: int,
        progress: Progress | None = None,
    ) -> list[list[Completion]]:
        sampled = super().sample(conversations, n, sampling=sampling, seed=seed)
        rows = len(conversations) * n
        for step in range(max(one.tokens for row in sampled for one in row)):
            self.clock.now += self.seconds_per_step
            if progress is not None:
                progress(0, rows * (step + 1))
        return sampled


@pytest.mark.parametrize("seconds_per_step", [0.1, 0.5, 2.0, 60.0])
def test_a_running_call_ends_when_the_time_is_up(tmp_path: Path, seconds_per_step: float) -> None:
    """Replies of 100 tokens: at 0.5 s a step, the first answers alone would take 50 of 60 s."""
    clock = Clock(0.0)
    engine = StepEngine(clock, seconds_per_step, words=100)
    experiment = begin(tmp_path, actor={"max_new_tokens": 200}, judge={"max_new_tokens": 200})
    context = experiment.build_context(1)
    report = run_judge_probe(
        prompt_file(8).prompts,
        context.recipe,
        context.templates,
        engine=engine,
        judge=engine,
        iteration=1,
        seed=7,
        seconds=60,
        limits=HealthLimits(),
        clock=clock,
    ).report
    assert report.seconds <= 60 + seconds_per_step
    causes = [one.cause for one in report.findings]
    assert causes == ([] if report.readable.total else ["not_tested"]), "only the probe cut it off"
    assert (report.readable.total > 0) == (seconds_per_step == 0.1)
    assert (report.unfinished > 0) == (seconds_per_step == 0.5)
