"""Try actor, judge and meta-judge on a few prompts before the first full stage.

The probe answers, judges and compares with the recipe's own settings, within a budget of time. It
ends early once a fault is certain, and reports what it has when the time is up. Its rows never
train.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from meta_reward_core.context import PromptTemplates, make_sampling_params
from meta_reward_core.engines.base import Engine
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.evaluation.judge_health import (
    Finding,
    HealthLimits,
    ReplyTally,
    Share,
    diagnose_pairs,
    diagnose_replies,
)
from meta_reward_core.evaluation.judge_metrics import measure_meta_judge
from meta_reward_core.method.generation import generate_responses
from meta_reward_core.method.judge_pairs import JudgedPrompts
from meta_reward_core.method.judging import judge_responses
from meta_reward_core.method.meta_judging import ComparisonSet, PlannedBattle, run_battles
from meta_reward_core.method.pairing import ActorPair, score_responses, select_actor_pair
from meta_reward_core.method.reasoning import select_answers, select_finished
from meta_reward_core.recipes.schema import Recipe, get_scheduled_value
from meta_reward_core.storage.records import Battle, Judgment, Prompt, Response

FIRST_JUDGMENTS: Final = 1
"""Judgments of each response before the rest of them: enough to see a judge that cannot judge."""

MIN_PROMPTS: Final = 2
"""A fault that one prompt shows is looked for in another one, if the time allows."""

BATTLE_PAIRS: Final = 3
"""Pairs of judgments of a prompt that are compared, each in both orders."""


@dataclass(frozen=True, slots=True)
class RoleCost:
    """What one role took.

    Attributes:
        replies: that the probe drew.
        tokens: of all of them.
        seconds: of wall time.
        planned: replies that one iteration of the recipe draws at most.
    """

    replies: int
    tokens: int
    seconds: float
    planned: int

    @property
    def projected_seconds(self) -> float | None:
        """Seconds of a whole iteration at this rate; None where nothing was drawn."""
        return self.seconds / self.replies * self.planned if self.replies else None


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What the probe saw.

    Attributes:
        prompts: that were answered and judged.
        wanted: that the recipe asks for.
        readable: judgments with a readable score.
        cut_off: judgments that the token limit ended.
        unscored: judgments without a score, by reason.
        scores: count by bin of `HISTOGRAM_BINS`.
        entropy_bits: of these counts.
        verdicts: battles with a readable verdict.
        same_order: pairs of judgments whose verdict is the same in both orders.
        actor_pairs, judge_pairs: prompts that would give a pair.
        costs: by role.
        seconds: of the whole probe.
        findings: why the run should not go on; empty if it may.
    """

    prompts: int
    wanted: int
    readable: Share
    cut_off: Share
    unscored: dict[str, int]
    scores: tuple[int, ...]
    entropy_bits: float | None
    verdicts: Share
    same_order: Share
    actor_pairs: Share
    judge_pairs: Share
    costs: dict[str, RoleCost]
    seconds: float
    findings: tuple[Finding, ...]

    @property
    def projected_seconds(self) -> float:
        """Seconds of generating and judging in a whole iteration, of the roles that were tried."""
        return sum(cost.projected_seconds or 0.0 for cost in self.costs.values())

    def to_json(self) -> dict[str, Any]:
        """Write it as plain values."""
        shares = ("readable", "cut_off", "verdicts", "same_order", "actor_pairs", "judge_pairs")
        return {
            "prompts": self.prompts,
            "wanted": self.wanted,
            **{name: getattr(self, name).to_json() for name in shares},
            "unscored": self.unscored,
            "scores": list(self.scores),
            "entropy_bits": self.entropy_bits,
            "costs": {
                role: {**asdict(cost), "projected_seconds": cost.projected_seconds}
                for role, cost in self.costs.items()
            },
            "seconds": self.seconds,
            "projected_seconds": self.projected_seconds,
            "findings": [asdict(finding) for finding in self.findings],
        }


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """A report and the rows that it was made from, which are kept apart and never train."""

    report: ProbeReport
    responses: list[Response]
    judgments: list[Judgment]
    battles: list[Battle]


@dataclass(slots=True)
class _Spent:
    """Replies, tokens and seconds of one role."""

    replies: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Budget:
    """How much time is left, and whether another call is likely to end within it."""

    limit: float
    clock: Callable[[], float]
    spent: dict[str, _Spent] = field(default_factory=dict)
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def measure_elapsed(self) -> float:
        return self.clock() - self.started

    def allows(self, role: str, replies: int) -> bool:
        """Whether so many replies are likely to be drawn in time.

        The first responses and judgments always are drawn: without them nothing is known. The
        first battles are expected to take as long as judgments.
        """
        known = self.spent.get(role)
        if known is None and role == "meta_judge":
            known = self.spent.get("judge")
        if known is None or not known.replies:
            return True
        return replies * known.seconds / known.replies <= self.limit - self.measure_elapsed()

    def measure(self, role: str, before: float, *, replies: int, tokens: int) -> None:
        """Note what a call that began at `before` took."""
        spent = self.spent.setdefault(role, _Spent())
        spent.replies += replies
        spent.tokens += tokens
        spent.seconds += self.clock() - before


class _Probe:
    """The rows so far, and how to draw more."""

    def __init__(
        self,
        recipe: Recipe,
        templates: PromptTemplates,
        *,
        engine: Engine,
        judge: Engine,
        iteration: int,
        seed: int,
        budget: _Budget,
        chat_date: str | None,
    ) -> None:
        self.chat_date = chat_date
        self.recipe, self.templates = recipe, templates
        self.engine, self.judge = engine, judge
        self.iteration, self.seed, self.budget = iteration, seed, budget
        self.prompts: list[Prompt] = []
        self.responses: list[Response] = []
        self.judgments: list[Judgment] = []
        self.battles: list[Battle] = []
        self.judged: list[Prompt] = []
        self.compared: list[Prompt] = []

    def answer(self, prompts: Sequence[Prompt]) -> list[Response]:
        """Let the actor answer some prompts."""
        actor, before = self.recipe.actor, self.budget.clock()
        drawn, _, counts = generate_responses(
            prompts,
            self.engine,
            samples=actor.samples,
            sampling=make_sampling_params(actor, chat_date=self.chat_date),
            reasoning=actor.reasoning,
            system_prompt=actor.system_prompt,
            seed=self._derive_seed("generate"),
        )
        self._note("actor", before, replies=counts["completions"], tokens=counts["tokens"])
        self.prompts += prompts
        self.responses += drawn
        return drawn

    def score(self, responses: Sequence[Response], *, first: int, count: int) -> None:
        """Let the judge write some judgments of each of some responses, from number `first`."""
        recipe, before = self.recipe.judge, self.budget.clock()
        policy = self.recipe.actor.reasoning
        finished, _ = select_finished(responses, policy)
        drawn, counts = judge_responses(
            select_answers(finished, policy),
            self.judge,
            instructions={prompt.prompt_id: prompt.text for prompt in self.prompts},
            template=self.templates.judge,
            rubric=self.templates.rubric,
            samples=count,
            sampling=make_sampling_params(recipe, chat_date=self.chat_date),
            seed=self._derive_seed(f"judge from {first}"),
            max_score=recipe.max_score,
            readout=recipe.score_readout,
        )
        self._note("judge", before, replies=len(drawn), tokens=counts["tokens"])
        self.judgments += [_renumber(one, first) for one in drawn]

    def compare(self, prompts: Sequence[Prompt]) -> None:
        """Let the meta-judge decide a few battles of each of some prompts."""
        recipe, before = self.recipe.meta_judge, self.budget.clock()
        planned = self._plan_battles(prompts)
        drawn, counts = run_battles(
            planned,
            self.engine,
            template=self.templates.meta_judge,
            rubric=self.templates.rubric,
            hide_score_line=recipe.hide_score_line,
            sampling=make_sampling_params(recipe, chat_date=self.chat_date),
            seed=self._derive_seed("meta_judge"),
            readout=recipe.verdict_readout,
        )
        if drawn:
            self._note("meta_judge", before, replies=len(drawn), tokens=counts["tokens"])
        self.battles += drawn
        self.compared += prompts

    def _plan_battles(self, prompts: Sequence[Prompt]) -> list[PlannedBattle]:
        judged = self.group()
        texts = {name: response.text for name, response in judged.responses.items()}
        planned = []
        for prompt in prompts:
            found = self._select(judged, prompt)
            if isinstance(found, ComparisonSet):
                pairs = _take_pairs(found.judgments)
                text = texts[found.response.response_id]
                planned += [
                    PlannedBattle(prompt.text, text, *order)
                    for first, second in pairs
                    for order in ((first, second), (second, first))
                ]
        return planned

    def group(self) -> JudgedPrompts:
        """Everything so far, by prompt, with the texts that count."""
        responses = select_answers(self.responses, self.recipe.actor.reasoning)
        judgments = select_answers(self.judgments, self.recipe.judge.reasoning)
        scores = score_responses(
            responses, judgments, min_valid_judgments=self.recipe.judge.min_valid_judgments
        )
        return JudgedPrompts.from_records(self.prompts, responses, judgments, scores)

    def _select(self, judged: JudgedPrompts, prompt: Prompt) -> object:
        limit = self.recipe.meta_judge.max_judgments
        return judged.select_comparison_set(prompt, seed=self.seed, max_judgments=limit)

    def count_actor_pairs(self) -> Share:
        """Prompts whose scores would give a pair."""
        judged, pairing = self.group(), self.recipe.pairing
        chosen = [
            select_actor_pair(
                judged.scores.get(prompt.prompt_id, ()),
                rho=get_scheduled_value(pairing.rho, self.iteration),
                max_chosen_chars=get_scheduled_value(pairing.max_chosen_chars, self.iteration),
                length_unit=pairing.length_unit,
            )
            for prompt in self.judged
        ]
        return Share(sum(isinstance(one, ActorPair) for one in chosen), len(chosen))

    def count_judge_pairs(self) -> Share:
        """Compared prompts with a readable winner: only they can give a pair of judgments."""
        decided = {battle.prompt_id for battle in self.battles if battle.verdict in ("A", "B")}
        return Share(
            sum(prompt.prompt_id in decided for prompt in self.compared), len(self.compared)
        )

    def _derive_seed(self, role: str) -> int:
        return derive_seed(self.seed, "probe", self.iteration, role, len(self.prompts))

    def _note(self, role: str, before: float, *, replies: int, tokens: int) -> None:
        self.budget.measure(role, before, replies=replies, tokens=tokens)


def run_judge_probe(
    prompts: Sequence[Prompt],
    recipe: Recipe,
    templates: PromptTemplates,
    *,
    engine: Engine,
    judge: Engine,
    iteration: int,
    seed: int,
    seconds: float,
    limits: HealthLimits,
    chat_date: str | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> ProbeResult:
    """Answer and judge some prompts, and say whether the judge is fit for a whole iteration.

    Prompts are taken in groups of 1, 1, 2, 4 and so on, so that an engine that works on many at
    once is used as such, and a slow one is found out by one prompt. Of a group in which a fault is
    certain only the first judgments are drawn.

    Args:
        prompts: as many as shall be tried if the time suffices.
        engine: of the model that answers and compares.
        judge: of the model that judges.
        seconds: after which no further call begins; a call that is running is waited for.
        limits: beyond which a finding stops the run.
        chat_date: the day that the chat template reads as today; see `Experiment`.
        clock: seconds of a monotonic clock.
    """
    budget = _Budget(seconds, clock)
    probe = _Probe(
        recipe,
        templates,
        engine=engine,
        judge=judge,
        iteration=iteration,
        seed=seed,
        budget=budget,
        chat_date=chat_date,
    )
    done = 0
    while done < len(prompts):
        if done >= MIN_PROMPTS and _diagnose(probe, limits, is_complete=False):
            break
        group = prompts[done : max(1, 2 * done)]
        if not _try_group(probe, group, limits):
            break
        done += len(group)
    findings = _diagnose(probe, limits, is_complete=True)
    report = _make_report(probe, wanted=len(prompts), findings=findings)
    return ProbeResult(report, probe.responses, probe.judgments, probe.battles)


def _try_group(probe: _Probe, prompts: Sequence[Prompt], limits: HealthLimits) -> bool:
    """Answer, judge and compare, as far as the time goes and nothing is found to be wrong.

    Returns:
        Whether there may be time for another group.
    """
    budget, recipe = probe.budget, probe.recipe
    if not budget.allows("actor", len(prompts) * recipe.actor.samples):
        return False
    if not _judge_group(probe, prompts, probe.answer(prompts), limits):
        return False
    is_sound = not _diagnose(probe, limits, is_complete=False)
    if is_sound and recipe.trains_on("judge", probe.iteration):
        if not budget.allows("meta_judge", 2 * BATTLE_PAIRS * len(prompts)):
            return False
        probe.compare(prompts)
    return True


def _judge_group(
    probe: _Probe, prompts: Sequence[Prompt], responses: Sequence[Response], limits: HealthLimits
) -> bool:
    """Judge in two rounds, or in one that shows a fault; False if the time is up."""
    first = min(FIRST_JUDGMENTS, probe.recipe.judge.samples)
    rest = probe.recipe.judge.samples - first
    if not probe.budget.allows("judge", first * len(responses)):
        return False
    if responses:
        probe.score(responses, first=0, count=first)
    probe.judged += prompts
    if not rest or not responses or _diagnose(probe, limits, is_complete=False):
        return True
    if not probe.budget.allows("judge", rest * len(responses)):
        return False
    probe.score(responses, first=first, count=rest)
    return True


def _diagnose(probe: _Probe, limits: HealthLimits, *, is_complete: bool) -> list[Finding]:
    judge, meta_judge = _tally(probe)
    found = diagnose_replies(
        judge,
        role="judge",
        limits=limits,
        max_new_tokens=probe.recipe.judge.max_new_tokens,
    )
    found += diagnose_replies(
        meta_judge,
        role="meta-judge",
        limits=limits,
        max_new_tokens=probe.recipe.meta_judge.max_new_tokens,
    )
    if is_complete and not found:
        found += diagnose_pairs(probe.count_actor_pairs(), kind="actor", limits=limits)
        if probe.compared:
            found += diagnose_pairs(probe.count_judge_pairs(), kind="judge", limits=limits)
    return found


def _tally(probe: _Probe) -> tuple[ReplyTally, ReplyTally]:
    return ReplyTally().add_judgments(probe.judgments), ReplyTally().add_battles(probe.battles)


def _make_report(probe: _Probe, *, wanted: int, findings: Sequence[Finding]) -> ProbeReport:
    judge, meta_judge = _tally(probe)
    by_id = {one.judgment_id: one for one in probe.judgments}
    orders = measure_meta_judge(probe.battles, by_id)
    changed = round((orders.inconsistency or 0.0) * orders.both_orders)
    spent = probe.budget.spent
    return ProbeReport(
        prompts=len(probe.judged),
        wanted=wanted,
        readable=judge.readable_share,
        cut_off=judge.cut_off_share,
        unscored=dict(judge.reasons.most_common()),
        scores=judge.histogram,
        entropy_bits=judge.entropy_bits,
        verdicts=meta_judge.readable_share,
        same_order=Share(orders.both_orders - changed, orders.both_orders),
        actor_pairs=probe.count_actor_pairs(),
        judge_pairs=probe.count_judge_pairs(),
        costs={
            role: RoleCost(spent[role].replies, spent[role].tokens, spent[role].seconds, planned)
            for role, planned in _plan_replies(probe.recipe, probe.iteration).items()
            if role in spent
        },
        seconds=probe.budget.measure_elapsed(),
        findings=tuple(findings),
    )


def _plan_replies(recipe: Recipe, iteration: int) -> dict[str, int]:
    """Replies that an iteration draws at most, by role."""
    responses = recipe.sample.prompts * recipe.actor.samples
    planned = {"actor": responses, "judge": responses * recipe.judge.samples}
    if recipe.trains_on("judge", iteration):
        compared = min(recipe.judge.samples, recipe.meta_judge.max_judgments or 10**9)
        planned["meta_judge"] = recipe.sample.prompts * compared * (compared - 1)
    return planned


def _take_pairs(judgments: Sequence[Judgment]) -> list[tuple[Judgment, Judgment]]:
    """Neighbours in the order of their samples: every judgment in at most two pairs."""
    pairs = list(itertools.pairwise(judgments))
    return pairs[:BATTLE_PAIRS]


def _renumber(one: Judgment, first: int) -> Judgment:
    """Give judgments of a later call the numbers after those of the first."""
    if not first:
        return one
    sample = first + one.sample
    return replace(one, sample=sample, judgment_id=f"{one.response_id}.j{sample}")
