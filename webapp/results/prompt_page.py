"""One prompt of an iteration: responses, judgments, battles and pairs."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from meta_reward_core.evaluation.judge_metrics import measure_meta_judge
from meta_reward_core.method.pairing import REASON_TEXT, ScoreGrid, find_tiers
from meta_reward_core.method.what_if import PairRules, get_rules
from meta_reward_core.models.reasoning import extract_finished_part
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.reporting.summary import REFUSALS
from meta_reward_core.storage.records import Battle, Judgment, Response, ResponseScore
from meta_reward_core.storage.schemas import to_records
from webapp.charts.chart import Chart
from webapp.charts.heat_map import Cell, build_heat_map
from webapp.results.iteration_reader import OpenIteration, read_outcomes, read_prompt_rows
from webapp.results.prompt_index import IterationIndex
from webapp.results.prompt_list import PairOutcome, describe_outcome

MAX_SHOWN_CHARS: Final = 20_000
"""Maximum characters of a text on a page; the page also shows the total."""

_WINS: Final = {"A": 1.0, "B": -1.0, "tie": 0.0}


@dataclass(frozen=True, slots=True)
class TextExcerpt:
    """The displayed part of a text, and its full length."""

    text: str
    chars: int
    left_out: int

    @classmethod
    def from_text(cls, text: str) -> "TextExcerpt":
        """Cut a text to the displayed length."""
        return cls(text[:MAX_SHOWN_CHARS], len(text), max(0, len(text) - MAX_SHOWN_CHARS))


@dataclass(frozen=True, slots=True)
class JudgmentView:
    """A judgment; `elo` is set if it battled, `role` if it is in the pair."""

    name: str
    judgment_id: str
    passage: TextExcerpt
    score: float | None
    unscored: str
    tokens: int
    elo: float | None
    role: str
    is_cut_off: bool


@dataclass(frozen=True, slots=True)
class ResponseView:
    """A response with its judgments and scores.

    Attributes:
        scores: score of each judgment by its number, as short text; empty without a judgment.
        mean, variance: None if it is not scored.
        role: its role in the preference pair.
        role_reason: why it has this role.
        is_compared: whether the meta-judge compared its judgments.
        notes: other findings of the pairing rules, as text.
    """

    name: str
    sample: int
    response_id: str
    passage: TextExcerpt
    tokens: int
    scores: Sequence[str]
    valid: int
    mean: float | None
    variance: float | None
    role: str
    role_reason: str
    is_compared: bool
    notes: Sequence[str]
    judgments: Sequence[JudgmentView]


@dataclass(frozen=True, slots=True)
class BattleRecord:
    """Results of one judgment in its battles; each order counts once."""

    name: str
    score: float | None
    wins: int
    losses: int
    ties: int
    elo: float | None
    role: str

    @property
    def elo_text(self) -> str:
        """The rating with a sign."""
        if self.elo is None:
            return "–"
        rounded = round(self.elo, 2) + 0.0
        return f"{rounded:+.2f}".replace("-", "−") if rounded else "0.00"


@dataclass(frozen=True, slots=True)
class PairView:
    """Whether the prompt has a pair of a kind, with an explanation in sentences."""

    outcome: PairOutcome
    why: Sequence[str]


@dataclass(frozen=True, slots=True)
class PromptPage:
    """Contents of the page of a prompt.

    Attributes:
        tiers: sentence about the tiers from which the pair is selected; empty without scores.
        battles: both orders of every pair of judgments; None if there were no battles.
        records: of the judgments in battles, highest Elo rating first.
        not_compared: the other judgments of the response, grouped by reason, as text.
        compared: sample numbers of the judgments that battled.
        refusals: sentences that explain which engines refused the prompt, and why.
        weights: text about the position weights; empty without battles.
    """

    prompt_id: str
    passage: TextExcerpt
    extra: str | None
    responses: Sequence[ResponseView]
    tiers: str
    actor: PairView
    judge: PairView
    battles: Chart | None
    records: Sequence[BattleRecord]
    not_compared: Sequence[str]
    compared: Sequence[int]
    inconsistent: int
    both_orders: int
    refusals: Sequence[str]
    before: str | None
    after: str | None

    @property
    def by_mean(self) -> Sequence[ResponseView]:
        """The responses, highest mean first, unscored ones last."""
        return sorted(
            self.responses,
            key=lambda response: (response.mean is not None, response.mean or 0.0),
            reverse=True,
        )

    @property
    def judgment_names(self) -> Sequence[str]:
        """The names of the judgments of each response, in order."""
        return [
            f"j{sample}"
            for sample in range(max((len(r.scores) for r in self.responses), default=0))
        ]

    @property
    def missing(self) -> Sequence[int]:
        """Missing sample numbers below the highest: duplicates of earlier responses."""
        listed = {response.sample for response in self.responses}
        return [sample for sample in range(max(listed, default=0)) if sample not in listed]


@dataclass(frozen=True, slots=True)
class _PromptRecords:
    """Stored records of a prompt."""

    responses: Sequence[Response]
    judgments: Mapping[str, Sequence[Judgment]]
    scores: Mapping[str, ResponseScore]
    battles: Sequence[Battle]
    elo: Mapping[str, float]
    battled: str | None


def read_prompt_page(opened: OpenIteration, index: IterationIndex, row: int) -> PromptPage:
    """Read the page of a prompt from the files of its partition.

    Raises:
        ArtifactError: a file is gone or differs from its manifest.
    """
    prompt_id = index.prompt_ids[row]
    found = _read_records(opened, index, row)
    prompts = read_prompt_rows(
        opened.files, "prompts", _get_part(index, row), prompt_id
    ).to_pylist()
    rules = get_rules(opened.recipe, opened.number)
    tiers = _find_tier_ends(found, rules, opened.recipe)
    return PromptPage(
        prompt_id=prompt_id,
        passage=TextExcerpt.from_text(index.rows["text"][row].as_py()),
        extra=prompts[0]["extra"] if prompts else None,
        responses=_make_response_views(found, index, prompt_id, tiers),
        tiers="" if tiers is None else tiers.describe(rules),
        actor=PairView(
            describe_outcome(index, "actor", row),
            list(_explain_actor_pair(found, index, row, rules, tiers)),
        ),
        judge=PairView(
            describe_outcome(index, "judge", row), list(_explain_judge_pair(found, opened, rules))
        ),
        battles=_build_battle_chart(found) if found.battles else None,
        records=_make_battle_records(found, index.kinds["judge"].pairs.get(prompt_id, {})),
        not_compared=_explain_not_compared(found) if found.battles else (),
        compared=sorted(_get_compared_judgments(found).values()),
        inconsistent=int(index.get_counts("inconsistent")[row]),
        both_orders=int(index.get_counts("both_orders")[row]),
        refusals=list(_iter_refusals(opened, _get_part(index, row), prompt_id)),
        before=index.prompt_ids[row - 1] if row > 0 else None,
        after=index.prompt_ids[row + 1] if row + 1 < len(index) else None,
    )


def _iter_refusals(opened: OpenIteration, part: int, prompt_id: str) -> Iterator[str]:
    for role, table in REFUSALS.items():
        for one in read_prompt_rows(opened.files, table, part, prompt_id).to_pylist():
            yield (
                f"The engine of the {role} refused {one['replies']:,} of the requests: "
                f"{one['reason']}"
            )


def _get_part(index: IterationIndex, row: int) -> int:
    return int(index.get_counts("part")[row])


def _read_records(opened: OpenIteration, index: IterationIndex, row: int) -> _PromptRecords:
    part, prompt_id = _get_part(index, row), index.prompt_ids[row]
    judgments: dict[str, list[Judgment]] = {}
    for judgment in to_records(
        read_prompt_rows(opened.files, "judgments", part, prompt_id), Judgment
    ):
        judgments.setdefault(judgment.response_id, []).append(judgment)
    scores = to_records(read_prompt_rows(opened.files, "scores", part, prompt_id), ResponseScore)
    rated = index.rows["rated_judgment_id"][row].as_py() or []
    return _PromptRecords(
        responses=to_records(
            read_prompt_rows(opened.files, "responses", part, prompt_id), Response
        ),
        judgments=judgments,
        scores={score.response_id: score for score in scores},
        battles=read_outcomes(opened.files, part, prompt_id),
        elo=dict(zip(rated, index.rows["elo"][row].as_py() or [], strict=True)),
        battled=index.rows["battled_response_id"][row].as_py(),
    )


def _make_response_views(
    found: _PromptRecords, index: IterationIndex, prompt_id: str, tiers: "_TierEnds | None"
) -> list[ResponseView]:
    actor = index.kinds["actor"].pairs.get(prompt_id, {})
    judge = index.kinds["judge"].pairs.get(prompt_id, {})
    reasons = {} if tiers is None else tiers.explain_roles()
    return [
        _make_response_view(response, found, actor, judge, reasons) for response in found.responses
    ]


def _make_response_view(
    response: Response,
    found: _PromptRecords,
    actor: Mapping[str, str],
    judge: Mapping[str, str],
    reasons: Mapping[str, str],
) -> ResponseView:
    score = found.scores.get(response.response_id)
    judgments = found.judgments.get(response.response_id, [])
    role = _get_role(response.response_id, actor, "response_id")
    return ResponseView(
        name=f"Response {response.sample}",
        sample=response.sample,
        response_id=response.response_id,
        passage=TextExcerpt.from_text(response.text),
        tokens=response.tokens,
        scores=_list_scores(judgments),
        valid=score.valid if score else 0,
        mean=score.mean if score else None,
        variance=score.variance if score else None,
        role=role,
        role_reason=reasons.get(role, ""),
        is_compared=response.response_id == found.battled and bool(found.battles),
        notes=list(_iter_notes(response, found)),
        judgments=[
            _make_judgment_view(one, found.elo.get(one.judgment_id), judge) for one in judgments
        ],
    )


def _iter_notes(response: Response, found: _PromptRecords) -> Iterator[str]:
    if response.finish_reason == "length":
        yield "cut off by the token limit"
    if response.finish_reason == "refused":
        yield "refused by the engine: the prompt is too long"
    if not response.text:
        yield "empty"
    if _has_ended_in_reasoning(response, found):
        yield "ended within its reasoning, so it was not judged"


def _has_ended_in_reasoning(response: Response, found: _PromptRecords) -> bool:
    """Whether a response has no judgments because nothing follows its stripped reasoning."""
    was_judged = bool(found.judgments.get(response.response_id))
    is_scored = response.response_id in found.scores
    return is_scored and not was_judged and extract_finished_part(response.text) is None


def _make_judgment_view(
    judgment: Judgment, elo: float | None, judge: Mapping[str, str]
) -> JudgmentView:
    return JudgmentView(
        name=f"Judgment {judgment.sample}",
        judgment_id=judgment.judgment_id,
        passage=TextExcerpt.from_text(judgment.text),
        score=judgment.score,
        unscored=(judgment.unscored_reason or "").replace("_", " "),
        tokens=judgment.tokens,
        elo=elo,
        role=_get_role(judgment.judgment_id, judge, "judgment_id"),
        is_cut_off=judgment.is_cut_off,
    )


def _get_role(identity: str, pair: Mapping[str, str], of: str) -> str:
    for role in ("chosen", "rejected"):
        if pair.get(f"{role}_{of}") == identity:
            return role
    return ""


def _list_scores(judgments: Sequence[Judgment]) -> list[str]:
    scores = {judgment.sample: _format_score(judgment) for judgment in judgments}
    return [scores.get(sample, "") for sample in range(max(scores, default=-1) + 1)]


def _format_score(judgment: Judgment) -> str:
    return "–" if judgment.score is None else f"{judgment.score:g}"


def _explain_actor_pair(
    found: _PromptRecords,
    index: IterationIndex,
    row: int,
    rules: PairRules,
    tiers: "_TierEnds | None",
) -> Iterator[str]:
    """Explain how length control selected the pair."""
    reason = index.kinds["actor"].get_reason(row)
    if tiers is not None:
        yield tiers.describe(rules)
        if tiers.is_in_tokens:
            yield "Shortest and longest are measured in tokens."
    if reason is not None:
        yield REASON_TEXT[reason]
        return
    pair = index.kinds["actor"].pairs.get(index.prompt_ids[row])
    if pair is None:
        return
    best = found.scores[pair["chosen_response_id"]]
    worst = found.scores[pair["rejected_response_id"]]
    yield (
        f"Response {best.sample} is chosen: with {best.length_chars:,} characters it is the "
        f"shortest response of the top tier that is complete and not empty."
    )
    yield (
        f"Response {worst.sample} is rejected: with {worst.length_chars:,} characters it is "
        f"the longest response of the bottom tier."
    )
    if rules.max_chosen_chars is not None:
        yield f"The chosen response is within the limit of {rules.max_chosen_chars:,} characters."


@dataclass(frozen=True, slots=True)
class _TierEnds:
    """The tiers of mean scores from which an actor pair is selected.

    Attributes:
        best_from: the lowest mean score of the top tier.
        worst_to: the highest mean score of the bottom tier.
        best, worst: sample numbers of the responses in each tier.
    """

    best_from: float
    worst_to: float
    best: Sequence[int]
    worst: Sequence[int]
    is_in_tokens: bool

    def describe(self, rules: PairRules) -> str:
        """Describe the tiers in a sentence."""
        return (
            f"With rho {rules.rho:g}, the top tier is {self.best_from:.3g} and higher "
            f"({_format_samples(self.best)}), and the bottom tier is {self.worst_to:.3g} and lower "
            f"({_format_samples(self.worst)})."
        )

    def explain_roles(self) -> Mapping[str, str]:
        """Explain the two roles of the pair in a few words."""
        return {
            "chosen": f"shortest complete response of the top tier (≥ {self.best_from:.3g})",
            "rejected": f"longest response of the bottom tier (≤ {self.worst_to:.3g})",
        }


def _find_tier_ends(found: _PromptRecords, rules: PairRules, recipe: Recipe) -> _TierEnds | None:
    """Find the tiers of a prompt; None with fewer than two scored responses."""
    scores = [score for score in found.scores.values() if score.mean is not None]
    if len(scores) < 2:
        return None
    grid = ScoreGrid.from_records(scores, length_unit=recipe.pairing.length_unit)
    tiers = find_tiers(grid, rho=rules.rho)
    return _TierEnds(
        best_from=float(tiers.best_from[0]),
        worst_to=float(tiers.worst_to[0]),
        best=[score.sample for score, is_in in zip(scores, tiers.best[0], strict=True) if is_in],
        worst=[score.sample for score, is_in in zip(scores, tiers.worst[0], strict=True) if is_in],
        is_in_tokens=recipe.pairing.length_unit == "tokens",
    )


def _format_samples(samples: Sequence[int]) -> str:
    listed = ", ".join(map(str, sorted(samples)))
    return f"response {listed}" if len(samples) == 1 else f"responses {listed}"


def _explain_judge_pair(
    found: _PromptRecords, opened: OpenIteration, rules: PairRules
) -> Iterator[str]:
    """Explain which judgments battled and how the pair was selected."""
    if found.battled is None or found.battled not in found.scores:
        yield from _explain_no_battles(found, opened)
        return
    score = found.scores[found.battled]
    compared = {battle.first_judgment_id for battle in found.battles}
    yield (
        f"Response {score.sample} went to the meta-judge: its scores vary most (variance "
        f"{score.variance or 0:.3g}). {len(compared)} different scored judgments were "
        f"compared in {len(found.battles)} battles, each pair in both orders."
    )
    if not found.elo:
        return
    weights = opened.weights
    yield (
        f"A win counts {weights.first:.3g} for the judgment shown first and {weights.second:.3g} "
        f"for the one shown second. In this iteration, the judgment shown first won "
        f"{weights.wins_first:,} battles, and the one shown second won {weights.wins_second:,}."
    )
    yield "The judgment with the highest Elo rating is chosen, the one with the lowest is rejected."
    yield from _describe_cut_off(found)
    if rules.max_chosen_judgment_chars is not None:
        yield (
            "There would be no pair if the chosen judgment had more than "
            f"{rules.max_chosen_judgment_chars:,} characters."
        )


def _describe_cut_off(found: _PromptRecords) -> Iterator[str]:
    judgments = found.judgments.get(found.battled or "", ())
    cut_off = sum(one.is_cut_off for one in judgments if one.judgment_id in found.elo)
    if cut_off:
        yield (
            f"{cut_off} of the rated judgments were cut off by the token limit: they can be "
            "rejected but never chosen."
        )


def _explain_no_battles(found: _PromptRecords, opened: OpenIteration) -> Iterator[str]:
    if opened.is_made("pair_judge") or not found.scores:
        return
    if opened.recipe.trains_on("judge", opened.number):
        yield "Its judgments have not been compared yet."


def _get_compared_judgments(found: _PromptRecords) -> dict[str, int]:
    """Return the samples of the judgments that battled, by id."""
    battled = {battle.first_judgment_id for battle in found.battles}
    return {
        judgment.judgment_id: judgment.sample
        for judgment in found.judgments.get(found.battled or "", ())
        if judgment.judgment_id in battled
    }


def _make_battle_records(found: _PromptRecords, pair: Mapping[str, str]) -> Sequence[BattleRecord]:
    compared = _get_compared_judgments(found)
    wins, losses, ties = Counter[str](), Counter[str](), Counter[str]()
    for battle in found.battles:
        ids = (battle.first_judgment_id, battle.second_judgment_id)
        if battle.verdict == "tie":
            ties.update(ids)
        elif battle.verdict is not None:
            winner, loser = ids if battle.verdict == "A" else ids[::-1]
            wins[winner] += 1
            losses[loser] += 1
    records = [
        BattleRecord(
            name=_name_judgment(judgment),
            score=judgment.score,
            wins=wins[judgment.judgment_id],
            losses=losses[judgment.judgment_id],
            ties=ties[judgment.judgment_id],
            elo=found.elo.get(judgment.judgment_id),
            role=_get_role(judgment.judgment_id, pair, "judgment_id"),
        )
        for judgment in found.judgments.get(found.battled or "", ())
        if judgment.judgment_id in compared
    ]
    return sorted(
        records, key=lambda record: (record.elo is not None, record.elo or 0.0), reverse=True
    )


def _name_judgment(judgment: Judgment) -> str:
    return f"j{judgment.sample}"


def _explain_not_compared(found: _PromptRecords) -> Sequence[str]:
    """Explain why judgments of the compared response did not battle."""
    compared = _get_compared_judgments(found)
    by_reason: dict[str, list[str]] = {}
    seen: set[str] = set()
    for judgment in found.judgments.get(found.battled or "", ()):
        if judgment.judgment_id not in compared:
            by_reason.setdefault(_explain_absence(judgment, seen), []).append(
                _name_judgment(judgment)
            )
        if judgment.score is not None:
            seen.add(judgment.text)
    return [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]


def _explain_absence(judgment: Judgment, seen: set[str]) -> str:
    if judgment.score is None:
        return "no readable score"
    if judgment.text in seen:
        return "same text as an earlier judgment"
    return "more judgments than the recipe compares"


def _build_battle_chart(found: _PromptRecords) -> Chart:
    """Build the matrix of both orders of every pair: each cell has the name of the winner."""
    battles = {(one.first_judgment_id, one.second_judgment_id): one for one in found.battles}
    compared = _get_compared_judgments(found)
    names = {one: f"j{compared[one]}" for one in sorted(compared, key=lambda one: compared[one])}
    return build_heat_map(
        "Every battle, in both orders",
        list(names.values()),
        list(names.values()),
        {
            (names[first], names[second]): _make_cell(
                battle, battles.get((second, first)), names[first], names[second]
            )
            for (first, second), battle in battles.items()
            if first in names and second in names
        },
        row_label="shown first",
        column_label="shown second",
        scale=(-1.0, 1.0),
        description=(
            "Each cell names the winner. Marked corner: the other order has a different winner. "
            "?: unreadable verdict."
        ),
        meanings={1.0: "row won (shown first)", -1.0: "column won (shown second)"},
    )


def _make_cell(battle: Battle, other: Battle | None, first: str, second: str) -> Cell:
    disagrees = other is not None and bool(measure_meta_judge([battle, other], {}).inconsistency)
    labels = {"A": first, "B": second, "tie": "tie", None: "?"}
    explanations = {
        "A": "the judgment shown first won",
        "B": "the judgment shown second won",
        "tie": "a tie",
        None: f"no verdict: {(battle.unparsed_reason or 'unknown').replace('_', ' ')}",
    }
    return Cell(
        value=_WINS.get(battle.verdict or ""),
        label=labels[battle.verdict],
        mark="the other order has a different winner" if disagrees else "",
        explanation=explanations[battle.verdict],
    )
